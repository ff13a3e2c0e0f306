/* The whole network against transformers: logits, loss, every gradient (f32 and bf16), then ten optimiser steps against PyTorch.
 * Reference values: tests/golden/parity (script beside them). Tolerances: that folder's README measures two f32 orders of
 * summation at 5e-7 of the largest element and a wrong detail at 1e-2 and more; limits here sit a factor of a few above
 * the first. bf16 has 8 bits: 2^-8 relative per rounding, some tens of roundings in a row. */
#include "base/testing.h"

#include <math.h>

#include "base/mem.h"
#include "ckpt/model_io.h"
#include "model/engine.h"

typedef struct fixture {
    ns_arch arch;
    ns_st *io, *io16, *steps;
    char dir[1024];
} fixture;

static const ns_st_tensor *tensor(const ns_st *st, const char *name)
{
    const ns_st_tensor *t = ns_st_find(st, name);
    if (!t) fail_msg("reference tensor %s is missing", name);
    return t;
}

static void open_fixture(fixture *f, const char *name)
{
    ns_error err = NS_ERROR_INIT;
    char path[1200];
    snprintf(f->dir, sizeof f->dir, "%s/tests/golden/parity/%s", NS_SOURCE_DIR, name);
    snprintf(path, sizeof path, "%s/config.json", f->dir);
    assert_ns_ok(ns_arch_read(&f->arch, path, &err), &err);
    snprintf(path, sizeof path, "%s/io.safetensors", f->dir);
    assert_ns_ok(ns_st_open(&f->io, path, &err), &err);
    snprintf(path, sizeof path, "%s/io_bf16.safetensors", f->dir);
    assert_ns_ok(ns_st_open(&f->io16, path, &err), &err);
    snprintf(path, sizeof path, "%s/steps.safetensors", f->dir);
    assert_ns_ok(ns_st_open(&f->steps, path, &err), &err);
}

static void close_fixture(fixture *f)
{
    ns_st_close(&f->io);
    ns_st_close(&f->io16);
    ns_st_close(&f->steps);
}

/* The batch of a reference row named prefix + {ids,labels,weights,positions,cu_seqlens}, in arrays of the given capacity. */
static void load_batch(ns_batch *b, const ns_st *st, const char *prefix, int32_t T_cap, int32_t S_cap)
{
    char name[64];
    ns_error err = NS_ERROR_INIT;
    int32_t **dst[] = {&b->ids, &b->label, &b->position};
    const char *key[] = {"ids", "labels", "positions"};
    memset(b, 0, sizeof *b);
    b->T_cap = T_cap;
    b->S_cap = S_cap;
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s%s", prefix, key[i]);
        const ns_st_tensor *t = tensor(st, name);
        b->n_tok = (int32_t)t->n;
        assert_ns_ok(ns_alloc((void **)dst[i], (size_t)T_cap * 4, "test", &err), &err);
        memcpy(*dst[i], t->data, (size_t)t->n * 4);
    }
    snprintf(name, sizeof name, "%sweights", prefix);
    assert_ns_ok(ns_alloc((void **)&b->weight, (size_t)T_cap * 4, "test", &err), &err);
    memcpy(b->weight, tensor(st, name)->data, (size_t)b->n_tok * 4);
    for (int t = 0; t < b->n_tok; t++) b->weight_sum += (double)b->weight[t];
    for (int t = b->n_tok; t < T_cap; t++) b->label[t] = -1;
    snprintf(name, sizeof name, "%scu_seqlens", prefix);
    const ns_st_tensor *cu = tensor(st, name);
    b->n_seg = (int32_t)cu->n - 1;
    assert_true(b->n_seg <= S_cap);
    assert_ns_ok(ns_alloc((void **)&b->cu_seqlens, ((size_t)S_cap + 1) * 4, "test", &err), &err);
    for (int i = 0; i <= S_cap; i++) b->cu_seqlens[i] = i <= b->n_seg ? ((const int32_t *)cu->data)[i] : b->n_tok;
}

static void free_batch(ns_batch *b)
{
    ns_free(b->ids);
    ns_free(b->label);
    ns_free(b->position);
    ns_free(b->weight);
    ns_free(b->cu_seqlens);
}

static const char *accelerator = "cpu"; /* or "gpu" */

/* recompute: ns_recompute; selective with a first layer recomputed whole */
static void open_engine(ns_engine *e, fixture *f, ns_dtype dt, int train, int recompute, int32_t T_cap, int32_t S_cap)
{
    ns_error err = NS_ERROR_INIT;
    ns_model_options o = {
        .dt = dt, .T_cap = T_cap, .S_cap = S_cap, .max_len = 96, .n_slots = 1, .train = train, .recompute = recompute};
    if (train) o.accelerator = accelerator;
    if (recompute == NS_RECOMPUTE_SELECTIVE) o.full_layers = 1;
    assert_ns_ok(ns_engine_plan(e, &f->arch, &o, NULL, 2, &err), &err);
    assert_ns_ok(ns_engine_start(e, &err), &err);
    assert_ns_ok(ns_model_read(f->dir, &e->table, ns_engine_put, e, &err), &err);
    ns_engine_loaded(e);
}

/* Largest |a-b| over n, relative to the largest |b|. */
static double worst(const float *a, const float *b, int64_t n)
{
    double d = 0, m = 1e-30;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i])) return INFINITY;
        d = fmax(d, fabs((double)a[i] - (double)b[i]));
        m = fmax(m, fabs((double)b[i]));
    }
    return d / m;
}

static void check(double got, double limit, const char *what)
{
    if (!(got <= limit)) fail_msg("%s: error %.3g, limit %.3g", what, got, limit);
}

static void logits_match(fixture *f, ns_dtype dt, double limit)
{
    ns_engine e;
    ns_batch b;
    load_batch(&b, f->io, "", 128, 8); /* 96 live tokens and a dead tail */
    open_engine(&e, f, dt, 0, 0, 128, 8);
    ns_model_set_batch(&e.model, &e.exec, &b);
    ns_model_forward(&e.model, &e.exec, 0);
    int32_t rows[128];
    for (int i = 0; i < b.n_tok; i++) rows[i] = i;
    float *out = malloc((size_t)b.n_tok * (size_t)f->arch.vocab * 4);
    ns_model_logits(&e.model, &e.exec, rows, b.n_tok, out);
    const ns_st_tensor *want = dt == NS_DTYPE_F32 ? tensor(f->io, "logits") : tensor(f->io16, "bf16.logits");
    check(worst(out, want->data, want->n), limit, "logits");
    assert_int_equal(e.exec.err.code, NS_OK);
    free(out);
    free_batch(&b);
    ns_engine_free(&e);
}

static void gradients_match(fixture *f, ns_dtype dt, int recompute, double limit, double loss_limit)
{
    ns_engine e;
    ns_batch b;
    const ns_st *io = dt == NS_DTYPE_F32 ? f->io : f->io16;
    const char *prefix = dt == NS_DTYPE_F32 ? "" : "bf16.";
    char name[160];
    load_batch(&b, f->io, "", 128, 8);
    open_engine(&e, f, dt, 1, recompute, 128, 8);
    ns_model_set_batch(&e.model, &e.exec, &b);
    ns_step step = {.weight_sum = b.weight_sum};
    ns_model_put_step(&e.model, &e.exec, &step);
    ns_mem_stats before = ns_mem_get_stats();
    ns_model_zero_grad(&e.model, &e.exec);
    ns_model_forward(&e.model, &e.exec, 0);
    ns_model_loss(&e.model, &e.exec, NULL, 1);
    ns_model_backward(&e.model, &e.exec, 0);
    assert_int_equal(ns_mem_get_stats().n_alloc, before.n_alloc); /* a step allocates nothing */
    assert_int_equal(e.exec.err.code, NS_OK);
    ns_model_get_step(&e.model, &e.exec, &step);
    assert_int_equal(e.exec.err.code, NS_OK);
    snprintf(name, sizeof name, "%sloss", prefix);
    double want = (double)*(const float *)tensor(io, name)->data, loss = step.loss_sum / b.weight_sum;
    check(fabs(loss - want) / want, loss_limit, "loss");
    for (int v = 0; v < e.table.n_views; v++) {
        const ns_view *view = &e.table.views[v];
        const ns_weight *w = &e.model.w[view->param];
        snprintf(name, sizeof name, "%sgrad.%s", prefix, view->name);
        const ns_st_tensor *g = tensor(io, name);
        assert_int_equal(g->n, view->rows * w->cols);
        float *got = malloc((size_t)g->n * 4);
        e.ops.download(&e.exec, got, w->grad + view->row0 * w->cols, g->n * 4);
        check(worst(got, g->data, g->n), limit, name);
        free(got);
    }
    free_batch(&b);
    ns_engine_free(&e);
}

/* Ten steps of two micro-batches: losses, norms and final weights follow PyTorch. */
static void steps_match(fixture *f)
{
    ns_engine e;
    char name[160];
    open_engine(&e, f, NS_DTYPE_F32, 1, 0, 64, 8);
    const float *losses = tensor(f->steps, "losses")->data, *norms = tensor(f->steps, "grad_norms")->data,
                *lrs = tensor(f->steps, "lrs")->data;
    ns_step step_values, *s = &step_values;
    for (int step = 0; step < 10; step++) {
        ns_batch b[2];
        for (int i = 0; i < 2; i++) {
            snprintf(name, sizeof name, "mb.%d.%d.", step, i);
            load_batch(&b[i], f->steps, name, 64, 8);
        }
        *s = (ns_step){.weight_sum = b[0].weight_sum + b[1].weight_sum,
                       .lr = lrs[step],
                       .beta1 = 0.9f,
                       .beta2 = 0.98f,
                       .eps = 1e-8f,
                       .weight_decay = 0.01f,
                       .clip = 1.0f,
                       .t = step + 1};
        ns_model_put_step(&e.model, &e.exec, s);
        ns_model_zero_grad(&e.model, &e.exec);
        for (int i = 0; i < 2; i++) {
            ns_model_set_batch(&e.model, &e.exec, &b[i]);
            ns_model_forward(&e.model, &e.exec, 0);
            ns_model_loss(&e.model, &e.exec, NULL, 1);
            ns_model_backward(&e.model, &e.exec, 0);
        }
        ns_model_grad_sumsq(&e.model, &e.exec);
        ns_model_update(&e.model, &e.exec);
        ns_model_prepare(&e.model, &e.exec);
        ns_model_get_step(&e.model, &e.exec, s);
        check(fabs(s->loss_sum / s->weight_sum - (double)losses[step]) / (double)losses[step], 4e-6, "step loss");
        check(fabs(sqrt(s->grad_sumsq) - (double)norms[step]) / (double)norms[step], 4e-6, "gradient norm");
        for (int i = 0; i < 2; i++) free_batch(&b[i]);
    }
    for (int v = 0; v < e.table.n_views; v++) { /* by rms: Adam turns noise in near-zero gradients into steps */
        const ns_view *view = &e.table.views[v];
        const ns_weight *w = &e.model.w[view->param];
        snprintf(name, sizeof name, "final.%s", view->name);
        const ns_st_tensor *t = tensor(f->steps, name);
        const float *want = t->data;
        float *got = malloc((size_t)t->n * 4);
        e.ops.download(&e.exec, got, (const float *)w->data + view->row0 * w->cols, t->n * 4);
        double d = 0, m = 0;
        for (int64_t i = 0; i < t->n; i++) {
            d += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
            m += (double)want[i] * (double)want[i];
        }
        free(got);
        /* softmax nearly cancels the gradient of a key bias (exactly, without rope): what is left is rounding, times Adam */
        check(sqrt(d / m), strstr(name, "k_proj.bias") ? 2e-4 : 5e-6, name);
    }
    ns_engine_free(&e);
}

static void run_case(const char *name)
{
    fixture f;
    open_fixture(&f, name);
    logits_match(&f, NS_DTYPE_F32, 5e-6);
    gradients_match(&f, NS_DTYPE_F32, 0, 5e-6, 1e-6);
    gradients_match(&f, NS_DTYPE_F32, NS_RECOMPUTE_FULL, 5e-6, 1e-6);
    gradients_match(&f, NS_DTYPE_F32, NS_RECOMPUTE_SELECTIVE, 5e-6, 1e-6);
    logits_match(&f, NS_DTYPE_BF16, 3e-2);
    gradients_match(&f, NS_DTYPE_BF16, 0, 6e-2, 1e-3);
    steps_match(&f);
    close_fixture(&f);
}

static void llama3_matches_transformers(void **state)
{
    (void)state;
    run_case("llama3");
}

static void qwen25_matches_transformers(void **state)
{
    (void)state;
    run_case("qwen25");
}

/* Norms over each head of q and k, in front of rope. */
static void qwen3_matches_transformers(void **state)
{
    (void)state;
    run_case("qwen3");
}

/* Qwen3 is refused on a GPU, by name and before anything is allocated. */
static void qwen3_is_refused_on_a_gpu(void **state)
{
    (void)state;
    fixture f;
    ns_model m;
    ns_error err = NS_ERROR_INIT;
    int device;
    open_fixture(&f, "qwen3");
    ns_model_options o = {
        .dt = NS_DTYPE_BF16, .T_cap = 128, .S_cap = 8, .max_len = 96, .n_slots = 1, .backend = &device};
    assert_ns_fails(ns_model_layout(&m, &f.arch, NULL, NULL, &ns_ops_ref, &o, &err), NS_ERR_UNSUPPORTED,
                    "runs on the processor only", &err);
    close_fixture(&f);
}

/* The same gradients and steps from the CUDA back-end. */
static void gpu_matches_transformers(void **state)
{
    (void)state;
    ns_ops ops;
    void *device;
    ns_cuda_info info;
    ns_error err = NS_ERROR_INIT;
    if (ns_cuda_open(&ops, &device, &info, &err) != NS_OK) {
        print_message("SKIP: GPU: %s\n", err.msg);
        skip();
    }
    ns_cuda_close(&device);
    accelerator = "gpu";
    static const char *const names[] = {"llama3", "qwen25"};
    for (int i = 0; i < 2; i++) {
        fixture f;
        open_fixture(&f, names[i]);
        gradients_match(&f, NS_DTYPE_F32, 0, 5e-6, 1e-6);
        gradients_match(&f, NS_DTYPE_F32, NS_RECOMPUTE_FULL, 5e-6, 1e-6);
        gradients_match(&f, NS_DTYPE_F32, NS_RECOMPUTE_SELECTIVE, 5e-6, 1e-6);
        gradients_match(&f, NS_DTYPE_BF16, 0, 6e-2, 1e-3);
        steps_match(&f);
        close_fixture(&f);
    }
    accelerator = "cpu";
}

/* The test can fail: a wrong rope constant is far outside the limit. */
static void a_wrong_constant_is_seen(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, "llama3");
    f.arch.rope_factor = 8;
    ns_engine e;
    ns_batch b;
    load_batch(&b, f.io, "", 128, 8);
    open_engine(&e, &f, NS_DTYPE_F32, 0, 0, 128, 8);
    ns_model_set_batch(&e.model, &e.exec, &b);
    ns_model_forward(&e.model, &e.exec, 0);
    int32_t row = 60;
    float *out = malloc((size_t)f.arch.vocab * 4);
    ns_model_logits(&e.model, &e.exec, &row, 1, out);
    assert_true(worst(out, (const float *)tensor(f.io, "logits")->data + row * f.arch.vocab, f.arch.vocab) > 1e-4);
    free(out);
    free_batch(&b);
    ns_engine_free(&e);
    close_fixture(&f);
}

/* A sequence fed in pieces through the key/value cache, beside a second one, gives the logits of one whole pass. */
static void cache_in_pieces(const char *name)
{
    fixture f;
    ns_error err = NS_ERROR_INIT;
    open_fixture(&f, name);
    enum { CTX = 64, LEN = 55, FIRST = 10 };                    /* segment 2 of the reference row: tokens 10..64 */
    const int piece[] = {20, 1, 1, 33}, other[] = {3, 0, 4, 2}; /* the neighbour's pieces */
    const int32_t *ids = tensor(f.io, "ids")->data;
    ns_engine e;
    ns_model_options o = {.dt = NS_DTYPE_F32, .T_cap = 64, .S_cap = 4, .max_len = 64, .n_slots = 1, .kv_rows = 2 * CTX};
    assert_ns_ok(ns_engine_plan(&e, &f.arch, &o, NULL, 2, &err), &err);
    assert_ns_ok(ns_engine_start(&e, &err), &err);
    assert_ns_ok(ns_model_read(f.dir, &e.table, ns_engine_put, &e, &err), &err);
    ns_engine_loaded(&e);
    ns_model *m = &e.model;
    ns_batch *b = &m->batch;
    float *out = malloc((size_t)f.arch.vocab * 4);
    int pos = 0, opos = 0;
    for (int k = 0; k < 4; k++) {
        int t = 0;
        for (int i = 0; i < other[k]; i++, t++) { /* slot 1: unrelated tokens */
            b->ids[t] = 7 + i;
            b->position[t] = opos + i;
            m->kv_row[t] = CTX + opos + i;
        }
        for (int i = 0; i < piece[k]; i++, t++) {
            b->ids[t] = ids[FIRST + pos + i];
            b->position[t] = pos + i;
            m->kv_row[t] = pos + i;
        }
        opos += other[k];
        pos += piece[k];
        const int32_t start[] = {CTX, 0, 0, 0}, len[] = {opos, pos, 0, 0}, cu[] = {0, other[k], t, t, t};
        memcpy(m->kv_start, start, sizeof start);
        memcpy(m->kv_len, len, sizeof len);
        memcpy(b->cu_seqlens, cu, sizeof cu);
        for (int i = t; i < 64; i++) m->kv_row[i] = -1, b->position[i] = 0, b->ids[i] = 0;
        m->T = 64;
        ns_model_forward(m, &e.exec, 0);
        int32_t row = t - 1;
        ns_model_logits(m, &e.exec, &row, 1, out);
        check(worst(out, (const float *)tensor(f.io, "logits")->data + (FIRST + pos - 1) * f.arch.vocab, f.arch.vocab),
              1e-5, "logits after a piece");
    }
    assert_int_equal(pos, LEN);
    free(out);
    ns_engine_free(&e);
    close_fixture(&f);
}

static void cache_in_pieces_matches(void **state)
{
    (void)state;
    cache_in_pieces("llama3");
    cache_in_pieces("qwen3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama3_matches_transformers), cmocka_unit_test(qwen25_matches_transformers),
        cmocka_unit_test(qwen3_matches_transformers),  cmocka_unit_test(qwen3_is_refused_on_a_gpu),
        cmocka_unit_test(gpu_matches_transformers),    cmocka_unit_test(a_wrong_constant_is_seen),
        cmocka_unit_test(cache_in_pieces_matches)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
