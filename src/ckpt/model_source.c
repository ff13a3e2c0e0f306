/* Model folder -> storage parameters, checked first and then streamed. All shapes are compared before the first value is
 * read, so a wrong model is refused at once and with the name of the tensor. */
#include "ckpt/model_source.h"

#include <stdio.h>
#include <string.h>

static const char *shape_text(const int64_t *shape, int nd, char out[160])
{
    size_t n = (size_t)snprintf(out, 160, "[");
    for (int i = 0; i < nd && n < 130; i++) {
        n += (size_t)snprintf(out + n, 160 - n, "%s%lld", i ? "," : "", (long long)shape[i]);
    }
    snprintf(out + n, 160 - n, "]");
    return out;
}

static void view_shape(const ns_param_table *t, const ns_view *v, int64_t shape[2])
{
    shape[0] = v->rows;
    shape[1] = t->params[v->param].cols;
}

/* Vocabulary rows may be padded in memory and not in the file. */
static int shape_fits(const ns_param_table *t, const ns_view *v, const ns_st_tensor *f)
{
    ns_kind k = t->params[v->param].kind;
    int64_t want[2];
    view_shape(t, v, want);
    if (f->nd != v->nd || (v->nd == 2 && f->shape[1] != want[1])) return 0;
    return f->shape[0] == want[0] || ((k == NS_P_EMBED || k == NS_P_HEAD) && f->shape[0] == t->arch->vocab);
}

static ns_status match_views(ns_model_source *s, const char *dir, ns_error *err)
{
    const ns_param_table *t = s->t;
    char found[160], want_text[160];
    int missing = 0, first = -1;
    for (int v = 0; v < t->n_views; v++) {
        s->tensor[v] = ns_st_find(s->st, t->views[v].name);
        if (!s->tensor[v]) {
            missing++;
            if (first < 0) first = v;
        }
    }
    for (int v = 0; v < t->n_views; v++) {
        const ns_st_tensor *f = s->tensor[v];
        int64_t want[2];
        view_shape(t, &t->views[v], want);
        const char *wt = shape_text(want, t->views[v].nd, want_text);
        NS_FAIL_IF(!f && v == first, NS_ERR_MISMATCH,
                   "%s: tensor \"%s\" is missing, expected shape %s (%d of %d tensors missing)", dir, t->views[v].name,
                   wt, missing, t->n_views);
        if (!f) continue;
        NS_FAIL_IF(!shape_fits(t, &t->views[v], f), NS_ERR_MISMATCH,
                   "%s: tensor \"%s\" has shape %s, expected %s by config.json", f->file, f->name,
                   shape_text(f->shape, f->nd, found), wt);
        NS_FAIL_IF(f->dt != NS_DTYPE_F32 && f->dt != NS_DTYPE_BF16 && f->dt != NS_DTYPE_F16 && f->dt != NS_DTYPE_F64,
                   NS_ERR_UNSUPPORTED, "%s: tensor \"%s\" has dtype %s, expected BF16, F16, F32 or F64", f->file,
                   f->name, ns_dtype_name(f->dt));
    }
    return NS_OK;
}

/* Old Llama exports store the rotary frequencies; they follow from the config and are not weights. */
static int is_derived(const char *name)
{
    const char *suffix = "rotary_emb.inv_freq";
    size_t n = strlen(name), k = strlen(suffix);
    return n >= k && strcmp(name + n - k, suffix) == 0;
}

/* n elements from `at` on as f32; the data of a safetensors file need not be aligned. */
static void to_f32(const ns_st_tensor *f, int64_t at, int64_t n, float *out)
{
    size_t size = ns_dtype_size(f->dt);
    const char *p = (const char *)f->data + (size_t)at * size;
    if ((uintptr_t)p % size == 0) {
        ns_to_f32(out, p, f->dt, (size_t)n);
        return;
    }
    double chunk[256];
    for (int64_t i = 0; i < n; i += 256) {
        int64_t k = n - i < 256 ? n - i : 256;
        memcpy(chunk, p + (size_t)i * size, (size_t)k * size);
        ns_to_f32(out + i, chunk, f->dt, (size_t)k);
    }
}

static ns_status check_tied_head(const ns_model_source *s, const ns_st_tensor *head, ns_error *err)
{
    const ns_st_tensor *e = s->tensor[0]; /* the embedding is the first view */
    char a[160], b[160];
    NS_FAIL_IF(head->nd != e->nd || head->n != e->n || head->shape[0] != e->shape[0], NS_ERR_MISMATCH,
               "%s: tensor \"%s\" has shape %s, expected %s: config.json ties it to the embedding", head->file,
               head->name, shape_text(head->shape, head->nd, a), shape_text(e->shape, e->nd, b));
    float x[1024], y[1024];
    for (int64_t i = 0; i < e->n; i += 1024) {
        int64_t n = e->n - i < 1024 ? e->n - i : 1024;
        to_f32(head, i, n, x);
        to_f32(e, i, n, y);
        for (int64_t k = 0; k < n; k++) {
            NS_FAIL_IF(
                memcmp(&x[k], &y[k], sizeof x[k]) != 0, NS_ERR_MISMATCH,
                "%s: tensor \"%s\" differs from the embedding at element %lld (found %g, expected %g), but config.json "
                "says tie_word_embeddings: set it to false if the head is its own",
                head->file, head->name, (long long)(i + k), (double)x[k], (double)y[k]);
        }
    }
    return NS_OK;
}

static ns_status refuse_extra(const ns_model_source *s, ns_error *err)
{
    char text[160];
    for (int i = 0; i < ns_st_count(s->st); i++) {
        const ns_st_tensor *f = ns_st_at(s->st, i);
        if (is_derived(f->name) || ns_view_find(s->t, f->name) >= 0) continue;
        if (s->t->arch->tied && strcmp(f->name, "lm_head.weight") == 0) {
            NS_TRY(check_tied_head(s, f, err), "%s", "");
            continue;
        }
        NS_FAIL(NS_ERR_MISMATCH, "%s: tensor \"%s\" of shape %s has no place in the model that config.json describes",
                f->file, f->name, shape_text(f->shape, f->nd, text));
    }
    return NS_OK;
}

ns_status ns_model_source_open(ns_model_source *s, const char *dir, const ns_param_table *t, ns_error *err)
{
    ns_status st = NS_OK;
    memset(s, 0, sizeof *s);
    s->t = t;
    NS_CHECK(st, ns_alloc((void **)&s->tensor, (size_t)t->n_views * sizeof *s->tensor, "model.views", err), "%s", dir);
    NS_CHECK(st,
             ns_alloc((void **)&s->first_view, ((size_t)t->n_params + 1) * sizeof *s->first_view, "model.views", err),
             "%s", dir);
    for (int v = t->n_views - 1; v >= 0; v--) s->first_view[t->views[v].param] = v;
    s->first_view[t->n_params] = t->n_views;
    NS_CHECK(st, ns_st_open(&s->st, dir, err), "read model");
    NS_CHECK(st, match_views(s, dir, err), "read model");
    NS_CHECK(st, refuse_extra(s, err), "read model");
done:
    if (st != NS_OK) ns_model_source_close(s);
    return st;
}

ns_status ns_model_source_read(const ns_model_source *s, int i, float *data, ns_error *err)
{
    (void)err; /* nothing can fail today; a reader of compressed formats can */
    int64_t cols = s->t->params[i].cols;
    for (int v = s->first_view[i]; v < s->first_view[i + 1]; v++) {
        const ns_view *w = &s->t->views[v];
        const ns_st_tensor *f = s->tensor[v];
        float *out = data + w->row0 * cols;
        to_f32(f, 0, f->n, out);
        if (f->n < w->rows * cols) memset(out + f->n, 0, (size_t)(w->rows * cols - f->n) * sizeof *out);
    }
    return NS_OK;
}

void ns_model_source_close(ns_model_source *s)
{
    ns_st_close(&s->st);
    ns_free(s->tensor);
    ns_free(s->first_view);
    memset(s, 0, sizeof *s);
}
