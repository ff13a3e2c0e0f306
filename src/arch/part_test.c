/* Parts of a model: every element of every parameter lies on exactly one rank (norms: on all), at the place the formula says. */
#include "arch/part.h"
#include "base/testing.h"

static ns_arch small(void)
{
    return (ns_arch){.family = NS_FAMILY_QWEN2,
                     .vocab = 101,
                     .vocab_rows = 101,
                     .C = 12,
                     .F = 16,
                     .L = 1,
                     .n_heads = 8,
                     .n_kv = 4,
                     .head_dim = 2,
                     .max_pos = 64,
                     .norm_eps = 1e-5f,
                     .qkv_bias = 1,
                     .rope_theta = 1e4};
}

static void test_tiles(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    for (int size = 1; size <= 4; size *= 2) {
        ns_arena arena = NS_ARENA_INIT("part_test");
        ns_arch a = small(), mine;
        ns_param_table t, u;
        assert_ns_ok(ns_param_table_build(&t, &a, &arena, &err), &err);
        for (int i = 0; i < t.n_params; i++) {
            int64_t n = t.params[i].rows * t.params[i].cols;
            float *global = calloc((size_t)n, 4), *back = calloc((size_t)n, 4);
            int *seen = calloc((size_t)n, sizeof *seen);
            for (int64_t k = 0; k < n; k++) global[k] = (float)(k + 1);
            for (int r = 0; r < size; r++) {
                assert_ns_ok(ns_part_arch(&mine, &a, r, size, &err), &err);
                assert_ns_ok(ns_param_table_build(&u, &mine, &arena, &err), &err);
                assert_string_equal(u.params[i].name, t.params[i].name);
                int64_t m = u.params[i].rows * u.params[i].cols;
                float *local = malloc((size_t)m * 4); /* exact: a sanitizer sees a wrong size */
                ns_part_take(&t, i, r, size, global, local);
                for (int64_t k = 0; k < m; k++) {
                    if (local[k] == 0) continue; /* vocabulary row past the end */
                    seen[(int64_t)local[k] - 1]++;
                }
                ns_part_put(&t, i, r, size, local, back);
                free(local);
            }
            int copies = t.params[i].tp == NS_SPLIT_NONE ? size : 1;
            for (int64_t k = 0; k < n; k++) assert_int_equal(seen[k], copies);
            assert_memory_equal(global, back, (size_t)n * 4);
            free(global), free(back), free(seen);
        }
        ns_arena_free(&arena);
    }
}

static void test_places(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena arena = NS_ARENA_INIT("part_test");
    ns_arch a = small(), mine;
    ns_param_table t;
    float global[32 * 12], local[16 * 12];
    assert_ns_ok(ns_param_table_build(&t, &a, &arena, &err), &err);
    for (int i = 0; i < 32 * 12; i++) global[i] = (float)i;
    /* rank 1 of 2: q rows 8..15, k rows 16+4.., v rows 24+4.. */
    ns_part_take(&t, ns_param_find(&t, NS_P_QKV, 0), 1, 2, global, local);
    assert_true(local[0] == 8 * 12 && local[8 * 12] == 20 * 12 && local[12 * 12] == 28 * 12);
    /* o [12, 16]: columns 8..15 */
    ns_part_take(&t, ns_param_find(&t, NS_P_O, 0), 1, 2, global, local);
    assert_true(local[0] == 8 && local[7] == 15 && local[8] == 16 + 8);
    /* vocabulary of 101 in 2: 51 and 50 */
    int64_t first, n;
    ns_part_vocab(&a, 1, 2, &first, &n);
    assert_true(first == 51 && n == 50);
    ns_part_vocab(&a, 3, 4, &first, &n);
    assert_true(first == 78 && n == 23);
    assert_ns_fails(ns_part_arch(&mine, &a, 0, 8, &err), NS_ERR_CONFIG, "4 key/value heads: use one of 1, 2, 4", &err);
    ns_arena_free(&arena);
}

static void test_layers(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    for (int tied = 0; tied < 2; tied++)
        for (int L = 1; L <= 9; L++)
            for (int stages = 1; stages <= L; stages++) {
                ns_arena arena = NS_ARENA_INIT("part_test");
                ns_arch a = small();
                ns_param_table t;
                a.L = L;
                a.tied = tied;
                assert_ns_ok(ns_param_table_build(&t, &a, &arena, &err), &err);
                int *held = calloc((size_t)t.n_params, sizeof *held), next = 0, first, n;
                for (int s = 0; s < stages; s++) {
                    assert_ns_ok(ns_part_layers(&a, s, stages, &first, &n, &err), &err);
                    assert_int_equal(first, next);
                    assert_true(n == L / stages || n == L / stages + 1);
                    if (s == stages - 1) assert_int_equal(n, L / stages); /* it has the head */
                    next += n;
                    for (int i = 0; i < t.n_params; i++) held[i] += ns_part_holds(&t, i, first, n);
                }
                assert_int_equal(next, L);
                for (int i = 0; i < t.n_params; i++)
                    assert_int_equal(held[i], t.params[i].kind == NS_P_EMBED && tied && stages > 1 ? 2 : 1);
                free(held);
                ns_arena_free(&arena);
            }
    ns_arch a = small();
    int first, n;
    assert_ns_fails(ns_part_layers(&a, 0, 2, &first, &n, &err), NS_ERR_CONFIG,
                    "pipeline_model_parallel_size=2: the model has 1 layers, a stage needs one: use at most 1", &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_layers), cmocka_unit_test(test_tiles),
                                       cmocka_unit_test(test_places)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
