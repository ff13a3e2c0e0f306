/* Views in table order in safetensors. Config and tokenizer: ns_model_write_side_files. */
#include "ckpt/hf_write.h"

#include "ckpt/model_io.h"

typedef struct hf {
    ns_sink s;
    ns_st_writer *w;
} hf;

static ns_status put(ns_sink *s, int view, int64_t row0, int64_t n, const void *rows, void *scratch, float *back,
                     ns_error *err)
{
    int64_t row = s->t->params[s->t->views[view].param].cols * (int64_t)ns_dtype_size(s->dt);
    (void)scratch;
    (void)back;
    return ns_st_put(((hf *)s)->w, (size_t)view, row0 * row, rows, n * row, err);
}

static ns_status finish(ns_sink *s, ns_error *err)
{
    return ns_st_writer_close(&((hf *)s)->w, err);
}

static void hf_free(ns_sink *s)
{
    ns_st_writer_abort(&((hf *)s)->w);
    ns_free(s);
}

ns_status ns_hf_sink(ns_sink **out, const char *dir, const ns_param_table *t, ns_dtype dt, int64_t max_shard_bytes,
                     const char *tokenizer_dir, ns_error *err)
{
    hf *h = NULL;
    ns_arch a = *t->arch;
    ns_status st = NS_OK;
    a.dt = dt;
    *out = NULL;
    NS_FAIL_IF(dt != NS_DTYPE_F32 && dt != NS_DTYPE_BF16 && dt != NS_DTYPE_F16, NS_ERR_UNSUPPORTED,
               "%s: cannot write model weights as %s (use F32, BF16 or F16)", dir, ns_dtype_name(dt));
    NS_TRY(ns_alloc((void **)&h, sizeof *h, "hf.sink", err), "write model");
    h->s = (ns_sink){.t = t, .dt = dt, .put = put, .finish = finish, .free = hf_free};
    NS_CHECK(st, ns_model_write_side_files(dir, &a, tokenizer_dir, err), "write model");
    NS_CHECK(st, ns_st_writer_new(&h->w, dir, "model", max_shard_bytes, err), "write model");
    for (int v = 0; v < t->n_views; v++) {
        int64_t shape[2] = {t->views[v].rows, t->params[t->views[v].param].cols};
        NS_CHECK(st, ns_st_declare(h->w, t->views[v].name, dt, shape, t->views[v].nd, err), "write model");
    }
    *out = &h->s;
    return NS_OK;
done:
    hf_free(&h->s);
    return st;
}
