/* Dropout of a part is a part of dropout: columns cut anywhere and tokens in any order give what the whole gives there. */
#include "base/testing.h"
#include "ops/ops.h"

enum { T = 301, C = 103 };

static void run(const ns_ops *ops, ns_threads *pool, const ns_dropout_args *a)
{
    ns_step step = {.dropout_step = 9};
    ns_exec x = {.ops = ops, .pool = pool, .step = &step, .key = {{3, 4}}};
    ops->dropout(&x, a);
    assert_int_equal(x.err.code, NS_OK);
}

static void check(const ns_ops *ops, ns_threads *pool)
{
    static float x[T * C], whole[T * C], part[T * C], part_x[T * C];
    static uint32_t token[T];
    const int borders[] = {0, 1, 4, 18, 61, 97, C};
    for (int i = 0; i < T * C; i++) x[i] = (float)(i + 1);
    run(ops, pool, &(ns_dropout_args){T, C, NS_DTYPE_F32, 0.4f, 3, 2, 50, x, whole, NULL, 0});
    int dropped = 0;
    for (int i = 0; i < T * C; i++) dropped += whole[i] == 0;
    assert_true(dropped > T * C / 3 && dropped < T * C / 2);
    for (int t = 0; t < T; t++) token[t] = 50 + (uint32_t)(t * 7 % T);
    for (int b = 0; b + 1 < (int)(sizeof borders / sizeof *borders); b++) {
        const int c0 = borders[b], n = borders[b + 1] - c0;
        for (int t = 0; t < T; t++)
            for (int c = 0; c < n; c++) part_x[t * n + c] = x[t * 7 % T * C + c0 + c];
        run(ops, pool, &(ns_dropout_args){T, n, NS_DTYPE_F32, 0.4f, 3, 2, 0, part_x, part, token, c0});
        for (int t = 0; t < T; t++)
            for (int c = 0; c < n; c++) assert_true(part[t * n + c] == whole[t * 7 % T * C + c0 + c]);
    }
}

static void test_parts(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_threads *pool = NULL;
    ns_ops cpu;
    assert_ns_ok(ns_threads_new(&pool, 2, &err), &err);
    assert_ns_ok(ns_ops_cpu(&cpu, "auto", &err), &err);
    check(&ns_ops_ref, NULL);
    check(&cpu, pool);
    ns_threads_free(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
