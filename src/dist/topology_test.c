/* Rank order against Megatron's, written down by hand for two layouts, and properties over a grid. */
#include "base/testing.h"
#include "dist/topology.h"

static void test_megatron_order(void **state)
{
    (void)state;
    /* 16 ranks, tp 2, cp 2, pp 2, dp 2: Megatron's groups of rank 5 (= tp 1, cp 0, dp 1, pp 0) */
    ns_error err = NS_ERROR_INIT;
    ns_topology t;
    assert_ns_ok(ns_topology_make(&t, 16, 5, 2, 2, 2, &err), &err);
    const int want_index[] = {1, 0, 1, 0};
    assert_memory_equal(t.index, want_index, sizeof want_index);
    const struct {
        unsigned axes;
        int n, mine, ranks[4];
    } want[] = {
        {1u << NS_AXIS_TP, 2, 1, {4, 5}},
        {1u << NS_AXIS_CP, 2, 0, {5, 7}},
        {1u << NS_AXIS_DP, 2, 1, {1, 5}},
        {1u << NS_AXIS_PP, 2, 0, {5, 13}},
        {1u << NS_AXIS_CP | 1u << NS_AXIS_DP, 4, 2, {1, 3, 5, 7}}, /* where gradients are summed */
        {0, 1, 0, {5}},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        int ranks[16];
        assert_int_equal(ns_topology_group_size(&t, want[i].axes), want[i].n);
        assert_int_equal(ns_topology_group(&t, want[i].axes, ranks), want[i].mine);
        assert_memory_equal(ranks, want[i].ranks, sizeof(int) * (size_t)want[i].n);
    }
}

/* Along every set of axes the groups partition the ranks, and all members agree on the group. */
static void test_groups_partition(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    const int grids[][4] = {{8, 2, 2, 2}, {12, 1, 3, 2}, {24, 4, 1, 3}, {6, 1, 1, 1}, {1, 1, 1, 1}};
    for (size_t g = 0; g < sizeof grids / sizeof *grids; g++)
        for (unsigned axes = 0; axes < 1u << NS_N_AXES; axes++)
            for (int r = 0; r < grids[g][0]; r++) {
                ns_topology t, u;
                int mine[24], theirs[24];
                assert_ns_ok(ns_topology_make(&t, grids[g][0], r, grids[g][1], grids[g][2], grids[g][3], &err), &err);
                int n = ns_topology_group_size(&t, axes), at = ns_topology_group(&t, axes, mine);
                assert_int_equal(mine[at], r);
                for (int i = 0; i < n; i++) {
                    assert_true(i == 0 || mine[i] > mine[i - 1]);
                    assert_ns_ok(
                        ns_topology_make(&u, grids[g][0], mine[i], grids[g][1], grids[g][2], grids[g][3], &err), &err);
                    assert_int_equal(ns_topology_group(&u, axes, theirs), i);
                    assert_memory_equal(mine, theirs, sizeof(int) * (size_t)n);
                }
            }
}

static void test_refusals(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_topology t;
    assert_ns_fails(ns_topology_make(&t, 6, 0, 4, 1, 1, &err), NS_ERR_CONFIG, "use 4 or 8 ranks", &err);
    assert_ns_fails(ns_topology_make(&t, 2, 0, 2, 2, 1, &err), NS_ERR_CONFIG, "model copies of 4 ranks", &err);
    assert_ns_fails(ns_topology_make(&t, 2, 0, 1, 0, 1, &err), NS_ERR_CONFIG, "model.context_parallel_size is 0", &err);
    assert_ns_fails(ns_topology_make(&t, 2, 2, 1, 1, 1, &err), NS_ERR_CONFIG, "rank 2 of 2 ranks", &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_megatron_order),
        cmocka_unit_test(test_groups_partition),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
