/* Views in table order into safetensors, a block of rows at a time. Config and tokenizer: ns_model_write_side_files. */
#include "ckpt/hf_write.h"

#include "ckpt/safetensors.h"

ns_status ns_hf_write(const char *dir, const ns_param_table *t, ns_dtype dt, int64_t max_shard_bytes,
                      const char *tokenizer_dir, ns_rows_fn rows, void *user, ns_error *err)
{
    int64_t size = 1 << 22;
    ns_st_writer *w = NULL;
    float *block = NULL;
    void *bytes = NULL;
    ns_arch a = *t->arch;
    ns_status st = NS_OK;
    a.dt = dt;
    NS_FAIL_IF(dt != NS_DTYPE_F32 && dt != NS_DTYPE_BF16 && dt != NS_DTYPE_F16, NS_ERR_UNSUPPORTED,
               "%s: cannot write model weights as %s (use F32, BF16 or F16)", dir, ns_dtype_name(dt));
    for (int i = 0; i < t->n_params; i++)
        if (t->params[i].cols > size) size = t->params[i].cols;
    NS_CHECK(st, ns_model_write_side_files(dir, &a, tokenizer_dir, err), "write model");
    NS_CHECK(st, ns_alloc((void **)&block, (size_t)size * sizeof *block, "hf.block", err), "write model");
    NS_CHECK(st, ns_alloc(&bytes, (size_t)size * 2, "hf.block", err), "write model");
    NS_CHECK(st, ns_st_writer_new(&w, dir, "model", max_shard_bytes, err), "write model");
    for (int v = 0; v < t->n_views; v++) {
        int64_t shape[2] = {t->views[v].rows, t->params[t->views[v].param].cols};
        NS_CHECK(st, ns_st_declare(w, t->views[v].name, dt, shape, t->views[v].nd, err), "write model");
    }
    for (int v = 0; v < t->n_views; v++) {
        int64_t cols = t->params[t->views[v].param].cols, step = size / cols, n = t->views[v].rows;
        for (int64_t r = 0; r < n; r += step) {
            int64_t k = n - r < step ? n - r : step;
            const void *p = block;
            NS_CHECK(st, rows(user, v, r, k, block, err), "%s", t->views[v].name);
            if (dt != NS_DTYPE_F32) {
                ns_from_f32(bytes, dt, block, (size_t)(k * cols));
                p = bytes;
            }
            NS_CHECK(st, ns_st_write(w, p, k * cols * (int64_t)ns_dtype_size(dt), err), "%s", t->views[v].name);
        }
    }
    NS_CHECK(st, ns_st_writer_close(&w, err), "write model");
done:
    ns_st_writer_abort(&w);
    ns_free(block);
    ns_free(bytes);
    return st;
}
