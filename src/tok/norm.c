/* Normalization of one gap between added tokens: the listed steps one after another, each from one buffer into the next.
 * Alignments of a step count in its own input; `chain` turns them into offsets of the source. */
#include "tok/norm.h"

#include <string.h>

#include "base/mem.h"

int ns_norm_quick(const ns_norm *norm, const uint8_t *p, size_t n)
{
    if (!n || !norm->n) return 1;
    for (int i = 0; i < norm->n; i++)
        if (norm->step[i].kind != NS_NORM_FORM || !ns_form_quick(norm->step[i].form, p, n)) return 0;
    return 1;
}

/* One step's result: bytes copied from the input, or put in the place of input bytes. */
typedef struct sink {
    ns_buf *out;
    ns_spans *al; /* NULL: nobody asks */
    const uint8_t *p;
} sink;

static ns_status copy(sink *s, size_t from, size_t to, ns_error *err)
{
    if (s->al) NS_TRY(ns_spans_copy(s->al, to - from, from, err), "%s", "");
    return ns_buf_add(s->out, s->p + from, to - from, err);
}
static ns_status put(sink *s, ns_str text, size_t from, size_t to, ns_error *err)
{
    if (s->al) NS_TRY(ns_spans_add(s->al, text.n, from, to, err), "%s", "");
    return ns_buf_add(s->out, text.p, text.n, err);
}

static ns_status next_match(const ns_norm_step *x, ns_regex_work *w, const uint8_t *p, size_t n, size_t i, ns_span *hit,
                            ns_error *err)
{
    if (x->re) return ns_regex_next(x->re, w, p, n, i, hit, err);
    const uint8_t *f = i < n ? memmem(p + i, n - i, x->pattern.p, x->pattern.n) : NULL;
    hit->from = f ? (size_t)(f - p) : SIZE_MAX;
    hit->to = hit->from + x->pattern.n;
    return NS_OK;
}

static ns_status replace(const ns_norm_step *x, sink *s, size_t n, ns_error *err)
{
    ns_regex_work w = {0};
    ns_status st = NS_OK;
    ns_span hit;
    for (size_t i = 0; i < n; i = hit.to) {
        NS_CHECK(st, next_match(x, &w, s->p, n, i, &hit, err), "Replace");
        size_t end = hit.from == SIZE_MAX ? n : hit.from;
        NS_CHECK(st, copy(s, i, end, err), "Replace");
        if (end == n) break;
        NS_CHECK(st, put(s, x->text, hit.from, hit.to, err), "Replace");
    }
done:
    ns_regex_work_free(&w);
    return st;
}

static ns_status strip(const ns_norm_step *x, sink *s, size_t n, ns_error *err)
{
    size_t a = 0, b = n, len;
    while (x->left && a < n && (ns_uni_class(ns_utf8_at(s->p, a, &len)) & NS_UC_S)) a += len;
    while (x->right && b > a) {
        size_t k = ns_utf8_back(s->p, b);
        if (!(ns_uni_class(ns_utf8_at(s->p, k, &len)) & NS_UC_S)) break;
        b = k;
    }
    return copy(s, a, b, err);
}

static ns_status run_step(const ns_norm_step *x, sink *s, size_t n, ns_error *err)
{
    if (x->kind == NS_NORM_FORM) return ns_normalize(x->form, s->out, s->al, s->p, n, err);
    if (x->kind == NS_NORM_REPLACE) return replace(x, s, n, err);
    if (x->kind == NS_NORM_STRIP) return strip(x, s, n, err);
    if (n) NS_TRY(put(s, x->text, 0, 0, err), "Prepend");
    return copy(s, 0, n, err);
}

/* a[first..]: from offsets in a text whose own sources are `in` to those sources. */
static void chain(ns_spans *a, size_t first, const ns_spans *in)
{
    for (size_t i = first; i < a->n; i++) {
        ns_span *s = &a->v[i];
        if (s->from < s->to)
            *s = (ns_span){in->v[s->from].from, in->v[s->to - 1].to};
        else
            s->from = s->to = s->from < in->n ? in->v[s->from].from : in->n ? in->v[in->n - 1].to : 0;
    }
}

ns_status ns_norm_apply(const ns_norm *norm, ns_buf *out, ns_spans *al, const uint8_t *p, size_t n, ns_error *err)
{
    ns_buf text[2] = {{0}};
    ns_spans map[2] = {{0}};
    ns_status st = NS_OK;
    size_t first = al ? al->n : 0;
    if (!norm->n) {
        sink s = {out, al, p};
        return copy(&s, 0, n, err);
    }
    for (int i = 0; i < norm->n; i++) {
        int last = i + 1 == norm->n, k = i & 1;
        sink s = {last ? out : &text[k], !al ? NULL : last ? al : &map[k], p};
        if (!last) {
            ns_buf_clear(&text[k]);
            map[k].n = 0;
        }
        NS_CHECK(st, ns_buf_reserve(s.out, n + 4, err), "normalise");
        NS_CHECK(st, run_step(&norm->step[i], &s, n, err), "normalise");
        if (al && i) chain(s.al, last ? first : 0, &map[!k]);
        p = (const uint8_t *)text[k].data;
        n = text[k].len;
    }
done:
    for (int k = 0; k < 2; k++) {
        ns_buf_free(&text[k]);
        ns_spans_free(&map[k]);
    }
    return st;
}

void ns_norm_free(ns_norm *norm)
{
    for (int i = 0; i < norm->n; i++) ns_regex_free(&norm->step[i].re);
    norm->n = 0;
}
