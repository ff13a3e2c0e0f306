/* A small network with fp8 products, on the reference arithmetic: what is kept or made again changes no bit, the loss stays near that
 * of bf16 and is not the same, less memory is
 * planned, and what cannot do fp8 says so before anything starts. */
#include "base/testing.h"

#include <math.h>

#include "model/engine.h"

enum { T = 32, LAYERS = 2, WORDS = 64 };

static ns_arch small_arch(void)
{
    return (ns_arch){.family = NS_FAMILY_LLAMA,
                     .vocab = WORDS,
                     .vocab_rows = WORDS,
                     .C = 32,
                     .F = 48,
                     .L = LAYERS,
                     .n_heads = 2,
                     .n_kv = 1,
                     .head_dim = 16,
                     .max_pos = T,
                     .norm_eps = 1e-5f,
                     .tied = 1,
                     .rope_theta = 1e4,
                     .dt = NS_DTYPE_BF16};
}

static ns_model_options options(ns_fp8 fp8, ns_recompute r)
{
    return (ns_model_options){.dt = NS_DTYPE_BF16,
                              .T_cap = T,
                              .S_cap = 1,
                              .max_len = T,
                              .n_slots = 1,
                              .train = 1,
                              .recompute = r,
                              .full_layers = r == NS_RECOMPUTE_SELECTIVE,
                              .fp8 = fp8};
}

static void fill(ns_engine *e)
{
    ns_error err = NS_ERROR_INIT;
    float data[WORDS * 96];
    for (int i = 0; i < e->table.n_params; i++) {
        const ns_param *p = &e->table.params[i];
        const int64_t n = p->rows * p->cols;
        assert_true(n <= (int64_t)(sizeof data / sizeof *data));
        for (int64_t k = 0; k < n; k++)
            data[k] = p->cols == 1 ? 1.0f
                                   : (float)(0.2 * ns_philox_normal((ns_philox_key){{7, 8}}, (uint64_t)i, (uint64_t)k));
        assert_ns_ok(ns_engine_put(e, i, data, &err), &err);
    }
    ns_engine_loaded(e);
}

/* Loss and gradients (of all parameters in order) of one batch. */
static double run(ns_fp8 fp8, ns_recompute r, float *grads, int64_t *planned)
{
    ns_error err = NS_ERROR_INIT;
    ns_engine e;
    const ns_arch a = small_arch();
    const ns_model_options o = options(fp8, r);
    int32_t ids[T], label[T], position[T], cu[2] = {0, T};
    float weight[T];
    for (int t = 0; t < T; t++)
        ids[t] = t * 37 % WORDS, label[t] = (t * 37 + 5) % WORDS, position[t] = t, weight[t] = 1;
    const ns_batch b = {.T_cap = T,
                        .S_cap = 1,
                        .n_tok = T,
                        .n_seg = 1,
                        .max_len = T,
                        .ids = ids,
                        .label = label,
                        .weight = weight,
                        .position = position,
                        .cu_seqlens = cu,
                        .weight_sum = T};
    assert_ns_ok(ns_engine_plan(&e, &a, &o, "ref", 1, &err), &err);
    assert_ns_ok(ns_engine_start(&e, &err), &err);
    fill(&e);
    ns_step s = {.weight_sum = T};
    ns_model_put_step(&e.model, &e.exec, &s);
    ns_model_zero_grad(&e.model, &e.exec);
    ns_model_set_batch(&e.model, &e.exec, &b);
    ns_model_forward(&e.model, &e.exec, 0);
    ns_model_loss(&e.model, &e.exec, NULL, 1);
    ns_model_backward(&e.model, &e.exec, 0);
    ns_model_get_step(&e.model, &e.exec, &s);
    assert_int_equal(e.exec.err.code, NS_OK);
    for (int i = 0; i < e.table.n_params; i++) {
        const int64_t n = e.model.w[i].rows * e.model.w[i].cols;
        memcpy(grads, e.model.w[i].grad, (size_t)n * sizeof *grads);
        grads += n;
    }
    *planned = e.total_bytes;
    ns_engine_free(&e);
    return s.loss_sum / T;
}

enum { MOST = 32768 };
static float bf16[MOST], kept[MOST], other[MOST];

static void recomputation_changes_no_bit(void **state)
{
    (void)state;
    int64_t bytes;
    const double loss = run(NS_FP8_HYBRID, NS_RECOMPUTE_NONE, kept, &bytes);
    assert_true(run(NS_FP8_HYBRID, NS_RECOMPUTE_FULL, other, &bytes) == loss);
    assert_memory_equal(kept, other, sizeof kept);
    assert_true(run(NS_FP8_HYBRID, NS_RECOMPUTE_SELECTIVE, other, &bytes) == loss);
    assert_memory_equal(kept, other, sizeof kept);
}

/* e4m3 rounds by up to 2^-4, some 2.6 % rms; sums of products of two such factors err by 4 % of their size, e5m2 by twice that. */
static void close_to_bf16(void **state)
{
    (void)state;
    int64_t bytes;
    const double a = run(NS_FP8_OFF, NS_RECOMPUTE_NONE, bf16, &bytes);
    for (int form = NS_FP8_HYBRID; form <= NS_FP8_E4M3; form++) {
        const double b = run((ns_fp8)form, NS_RECOMPUTE_NONE, other, &bytes);
        double d = 0, m = 0;
        for (int i = 0; i < MOST; i++) {
            d += ((double)other[i] - (double)bf16[i]) * ((double)other[i] - (double)bf16[i]);
            m += (double)bf16[i] * (double)bf16[i];
        }
        assert_true(b != a && fabs(b - a) < 0.03 * a);
        assert_true(sqrt(d / m) > 0.005 && sqrt(d / m) < 0.25);
    }
}

/* A layer keeps casts instead of n1, n2 and act; weights are planned by the back-end (ref has no panels). */
static void plans_less(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    int64_t bytes[2];
    ns_arch a = small_arch();
    a.C = 256, a.F = 1024, a.L = 8, a.n_heads = 16, a.n_kv = 4;
    for (int fp8 = 0; fp8 < 2; fp8++) {
        ns_engine e;
        ns_model_options o = options(fp8 ? NS_FP8_HYBRID : NS_FP8_OFF, NS_RECOMPUTE_NONE);
        o.T_cap = 4096;
        assert_ns_ok(ns_engine_plan(&e, &a, &o, "ref", 1, &err), &err);
        bytes[fp8] = e.total_bytes;
        ns_engine_free(&e);
    }
    assert_true(bytes[1] < bytes[0] - 4 * 4096 * 1024);
}

static void refused_by_name(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_engine e;
    ns_arch a = small_arch();
    ns_model_options o = options(NS_FP8_HYBRID, NS_RECOMPUTE_NONE);
    assert_int_equal(ns_engine_plan(&e, &a, &o, "f32", 1, &err), NS_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "sm_89"));
    ns_engine_free(&e);
    err = (ns_error)NS_ERROR_INIT;
    a.F = 40;
    assert_int_equal(ns_engine_plan(&e, &a, &o, "ref", 1, &err), NS_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "multiples of 16"));
    ns_engine_free(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recomputation_changes_no_bit),
        cmocka_unit_test(close_to_bf16),
        cmocka_unit_test(plans_less),
        cmocka_unit_test(refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
