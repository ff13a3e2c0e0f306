/* The op cases of ops_cases.h on the GPU against ref, with the tolerances of ops_check.h. Buffers are host memory that the
 * device reads and writes under the same address, so that cases, guards and comparisons are the CPU's own.
 *   every case, and again with: generic attention, small tiles, short head chunks (NS_CUDA_* of the plug-in);
 *   every case twice: the same bits;   a failing launch is an error that names its op.
 * Without a GPU all of it is skipped, with the reason. */
#include <stdlib.h>

#include "ops/cuda/cuda.h"
#include "ops/ops_check.h"

static void use_device(ns_ops *ops, ns_cuda_info *info)
{
    ns_error err = NS_ERROR_INIT;
    if (ns_cuda_open(ops, &case_backend, info, &err) != NS_OK) {
        case_backend = NULL;
        print_message("SKIP: GPU: %s\n", err.msg);
        skip();
    }
    case_alloc = ns_cuda_opened()->host_alloc;
    case_free = ns_cuda_opened()->host_free;
}

static void leave_device(void)
{
    ns_cuda_close(&case_backend);
    case_alloc = NULL;
    case_free = NULL;
}

static void all_cases(const char *prefix)
{
    ns_ops ops;
    ns_cuda_info info;
    use_device(&ops, &info);
    int bad = 0, done = 0;
    const char *only = getenv("NS_CUDA_CASES"); /* for compute-sanitizer: cases with this prefix */
    for (int i = 0; i < N_CASES; i++) {
        char msg[1024] = "";
        if (strncmp(cases[i].name, prefix, strlen(prefix)) != 0) continue;
        if (only && strncmp(cases[i].name, only, strlen(only)) != 0) continue;
        if (needs_more(&cases[i], &ops)) continue;
        done++;
        if (check(&cases[i], &ops, NULL, msg, sizeof msg)) continue;
        print_error("%s on %s: %s\n", cases[i].name, info.name, msg);
        bad++;
    }
    int64_t dnn, own;
    const char *why;
    ns_cuda_served(case_backend, &dnn, &own, &why);
    if (dnn + own)
        print_message("bf16 attention: %d passes by %s, %d by our kernels (last: %s)\n", (int)dnn, info.dnn, (int)own,
                      why);
    leave_device();
    print_message("%d cases on %s, %d bad\n", done, info.name, bad);
    assert_int_equal(bad, 0);
}

static void gpu_agrees(void **s)
{
    (void)s;
    all_cases("");
}

static void with_setting(const char *name, const char *value, const char *prefix)
{
    const char *given = getenv(name); /* of whoever runs the test */
    char before[64];
    snprintf(before, sizeof before, "%s", given ? given : "");
    setenv(name, value, 1);
    all_cases(prefix);
    if (given)
        setenv(name, before, 1);
    else
        unsetenv(name);
}
static void gpu_generic_attention_agrees(void **s)
{
    (void)s;
    with_setting("NS_CUDA_GENERIC_ATTENTION", "1", "attn");
}
static void gpu_small_tiles_agree(void **s)
{
    (void)s;
    with_setting("NS_CUDA_SMALL_TILES", "1", "attn");
}
static void gpu_any_order_agrees(void **s)
{
    (void)s;
    case_any_order = 1;
    all_cases("attn");
    case_any_order = 0;
}
static void gpu_split_fp8_sums_agree(void **s)
{
    (void)s;
    case_fp8_split = 1;
    all_cases("linear.fp8");
    case_fp8_split = 0;
}
static void gpu_own_attention_agrees(void **s)
{
    (void)s;
    with_setting("NS_CUDA_CUDNN", "0", "attn");
}
static void gpu_short_head_chunks_agree(void **s)
{
    (void)s;
    with_setting("NS_CUDA_HEAD_ROWS", "96", "head");
}

static void gpu_repeats_its_bits(void **state)
{
    (void)state;
    ns_ops ops;
    ns_cuda_info info;
    use_device(&ops, &info);
    int bad = 0;
    for (int i = 0; i < N_CASES; i++) {
        static prob one, two;
        const char *only = getenv("NS_CUDA_CASES");
        if (only && strncmp(cases[i].name, only, strlen(only)) != 0) continue;
        if (needs_more(&cases[i], &ops)) continue;
        prob *both[] = {&one, &two};
        for (int k = 0; k < 2; k++) {
            prob_new(both[k], &cases[i], &ops, NULL);
            cases[i].fwd(both[k]);
            if (cases[i].bwd) cases[i].bwd(both[k]);
            settle(both[k]);
        }
        for (int b = 0; b < one.n; b++)
            if (memcmp(one.b[b].p, two.b[b].p, (size_t)one.b[b].bytes) != 0) {
                print_error("%s: %s differs between two runs\n", cases[i].name, one.b[b].name);
                bad++;
            }
        prob_free(&one);
        prob_free(&two);
    }
    leave_device();
    assert_int_equal(bad, 0);
}

/* assign_dw: the same values as adding to zeros, whatever was there. */
static void gpu_assigns_gradients(void **state)
{
    (void)state;
    static prob one, two;
    ns_ops ops;
    ns_cuda_info info;
    use_device(&ops, &info);
    int i = 0;
    while (i < N_CASES && strcmp(cases[i].name, "linear.tile.bf16") != 0) i++;
    assert_true(i < N_CASES && ops.assigns_grads);
    prob_new(&one, &cases[i], &ops, NULL);
    prob_new(&two, &cases[i], &ops, NULL);
    tbuf *a = find(&one, "dw"), *b = find(&two, "dw");
    memset(a->p, 0, (size_t)a->bytes);
    memset(b->p, 0x47, (size_t)b->bytes);
    ns_linear_args x = linear_args(&one), y = linear_args(&two);
    y.assign_dw = 1;
    ops.linear_wgrad(&one.x, &x);
    ops.linear_wgrad(&two.x, &y);
    settle(&one);
    settle(&two);
    for (int64_t k = 0; k < a->n; k++) assert_true(((const float *)a->p)[k] == ((const float *)b->p)[k]);
    prob_free(&one);
    prob_free(&two);
    leave_device();
}

/* The head of a vocabulary split over ranks, with one rank: statistics first, then the rest, as at once. */
static void gpu_head_in_two_phases_agrees(void **state)
{
    (void)state;
    static prob one, two;
    ns_ops ops;
    ns_cuda_info info;
    use_device(&ops, &info);
    for (int i = 0; i < N_CASES; i++) {
        if (strcmp(cases[i].name, "head.bf16") != 0 && strcmp(cases[i].name, "head.long.bf16") != 0) continue;
        const int64_t T = cases[i].T;
        prob_new(&one, &cases[i], &ops, NULL);
        prob_new(&two, &cases[i], &ops, NULL);
        float *stats = case_alloc(T * 8);
        cases[i].fwd(&one);
        ns_head_args a = head_args(&two);
        a.stats = stats;
        a.phase = NS_HEAD_STATS;
        ops.head(&two.x, &a);
        a.phase = NS_HEAD_GIVEN;
        two.step->loss_sum = 0;
        ops.head(&two.x, &a);
        settle(&two);
        const double loss = *(const double *)ptr(&one, "loss");
        assert_true(fabs(two.step->loss_sum - loss) <= 1e-6 * fabs(loss));
        const float *p = ptr(&one, "logp"), *q = ptr(&two, "logp");
        for (int64_t t = 0; t < T; t++) assert_true(fabsf(p[t] - q[t]) <= 1e-5f * (1 + fabsf(p[t])));
        const tbuf *x = find(&one, "dx"), *y = find(&two, "dx");
        for (int64_t k = 0; k < x->n; k++) {
            const float v = get(x->p, NS_DTYPE_BF16, k), w = get(y->p, NS_DTYPE_BF16, k);
            assert_true(fabsf(v - w) <= 0x1p-6f * fabsf(v) + 1e-6f);
        }
        case_free(stats);
        prob_free(&one);
        prob_free(&two);
    }
    leave_device();
}

/* The sum over ranks that NCCL's transport uses: the bits of the same sum made in that order on the host. */
static void gpu_adds_members_in_order(void **state)
{
    (void)state;
    enum { N = 100003, MEMBERS = 4, RANK = 2, EACH = N + 5 };
    ns_ops ops;
    ns_cuda_info info;
    use_device(&ops, &info);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        float *own = case_alloc(N * 4), *in = case_alloc((int64_t)EACH * (MEMBERS - 1) * 4);
        float *want = malloc((size_t)N * 4);
        uint16_t *h = (uint16_t *)(void *)own, *hin = (uint16_t *)(void *)in, *hwant = (uint16_t *)(void *)want;
        for (int64_t i = 0; i < N; i++) {
            float sum = 0;
            for (int r = 0, k = 0; r < MEMBERS; r++) {
                float v = sinf((float)i * 0.37f + (float)r) * (r == 1 ? 1e4f : 1.0f);
                if (bf16) v = ns_bf16_to_f32(ns_f32_to_bf16(v));
                if (bf16 && r == RANK) h[i] = ns_f32_to_bf16(v);
                if (bf16 && r != RANK) hin[(int64_t)k++ * EACH + i] = ns_f32_to_bf16(v);
                if (!bf16 && r == RANK) own[i] = v;
                if (!bf16 && r != RANK) in[(int64_t)k++ * EACH + i] = v;
                sum = r == 0 ? v : sum + v;
            }
            if (bf16)
                hwant[i] = ns_f32_to_bf16(sum);
            else
                want[i] = sum;
        }
        assert_true(ns_cuda_opened()->add_members(case_backend, bf16 ? NS_DTYPE_BF16 : NS_DTYPE_F32, N, own, in, EACH,
                                                  MEMBERS, RANK));
        static ns_exec x;
        char one;
        memset(&x, 0, sizeof x);
        x.ops = &ops;
        x.backend = case_backend;
        ops.download(&x, &one, own, 1); /* waits */
        assert_int_equal(memcmp(own, want, (size_t)N * (bf16 ? 2 : 4)), 0);
        case_free(own);
        case_free(in);
        free(want);
    }
    leave_device();
}

/* What a snapshot does: the copy has what lay there at copy_begin, though an op behind copy_hold changes it. */
static void gpu_copies_beside_ops(void **state)
{
    (void)state;
    enum { N = 64 << 20, PIECE = 16 << 20 };
    ns_ops ops;
    ns_cuda_info info;
    static ns_exec x;
    ns_error err = NS_ERROR_INIT;
    void *there = NULL, *here = NULL;
    use_device(&ops, &info);
    memset(&x, 0, sizeof x);
    x.ops = &ops;
    x.backend = case_backend;
    assert_ns_ok(ops.mem_new(&x, &there, N, &err), &err);
    assert_int_equal(posix_memalign(&here, 4096, N), 0);
    uint32_t *u = here;
    for (uint32_t round = 1; round <= 3; round++) {
        for (uint32_t i = 0; i < N / 4; i++) u[i] = i * 2654435761u + round;
        ops.upload(&x, there, here, N);
        memset(here, 0, N);
        assert_ns_ok(ops.pin(&x, here, N, &err), &err);
        ops.copy_begin(&x);
        for (int64_t at = 0; at < N; at += PIECE) ops.copy_out(&x, (char *)here + at, (char *)there + at, PIECE);
        ops.copy_end(&x);
        ops.copy_hold(&x);
        ops.zero(&x, &(ns_fill_args){there, N});
        assert_ns_ok(ops.copy_wait(&x, &err), &err);
        for (uint32_t i = 0; i < N / 4; i++) assert_true(u[i] == i * 2654435761u + round);
        uint32_t word = 1;
        ops.download(&x, &word, there, 4);
        assert_int_equal(word, 0);
        assert_true(ops.copy_held(&x) >= 0 && ops.copy_held(&x) < 10);
        ops.unpin(&x, here);
    }
    assert_int_equal(x.err.code, NS_OK);
    ops.mem_free(&x, there);
    free(here);
    leave_device();
}

static void gpu_failure_names_its_op(void **state)
{
    (void)state;
    ns_ops ops;
    ns_cuda_info info;
    static ns_exec x;
    use_device(&ops, &info);
    memset(&x, 0, sizeof x);
    x.ops = &ops;
    x.backend = case_backend;
    ops.attn_fwd(&x, &(ns_attn_args){.T = 8, .n_heads = 1, .n_kv = 1, .head_dim = 1024});
    assert_int_equal(x.err.code, NS_ERR_DEVICE);
    assert_non_null(strstr(x.err.msg, "attn_fwd"));
    if (!getenv("NS_CUDA_CASES")) { /* compute-sanitizer would count the refusal as two errors */
        void *p = NULL;
        ns_error err = NS_ERROR_INIT;
        assert_int_equal(ops.mem_new(&x, &p, (int64_t)1 << 50, &err), NS_ERR_DEVICE);
        assert_non_null(strstr(err.msg, "free"));
    }
    leave_device();
}

/* No GPU needed: what a user reads when the plug-in is missing or is something else. */
static void a_wrong_plugin_is_named(void **state)
{
    (void)state;
    ns_ops ops;
    void *device;
    ns_cuda_info info;
    ns_error err = NS_ERROR_INIT;
    setenv("NS_CUDA_PLUGIN", "/nowhere/libns_cuda.so", 1);
    assert_int_equal(ns_cuda_open(&ops, &device, &info, &err), NS_ERR_DEVICE);
    assert_non_null(strstr(err.msg, "/nowhere/libns_cuda.so"));
    err = (ns_error)NS_ERROR_INIT;
    setenv("NS_CUDA_PLUGIN", "libm.so.6", 1);
    assert_int_equal(ns_cuda_open(&ops, &device, &info, &err), NS_ERR_DEVICE);
    assert_non_null(strstr(err.msg, "not a plug-in of ns"));
    assert_null(device);
    unsetenv("NS_CUDA_PLUGIN");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wrong_plugin_is_named),      cmocka_unit_test(gpu_agrees),
        cmocka_unit_test(gpu_generic_attention_agrees), cmocka_unit_test(gpu_small_tiles_agree),
        cmocka_unit_test(gpu_any_order_agrees),         cmocka_unit_test(gpu_own_attention_agrees),
        cmocka_unit_test(gpu_split_fp8_sums_agree),     cmocka_unit_test(gpu_head_in_two_phases_agrees),
        cmocka_unit_test(gpu_short_head_chunks_agree),  cmocka_unit_test(gpu_repeats_its_bits),
        cmocka_unit_test(gpu_assigns_gradients),        cmocka_unit_test(gpu_copies_beside_ops),
        cmocka_unit_test(gpu_failure_names_its_op),     cmocka_unit_test(gpu_adds_members_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
