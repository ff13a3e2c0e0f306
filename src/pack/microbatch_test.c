/* Every row lands in exactly one micro-batch that it fits, in both modes; full bins; exhaustive over small cases. */
#include "base/testing.h"

#include "pack/microbatch.h"

static void check_split(int64_t n, const int *len, int32_t T_cap, int32_t S_cap, int by_rows, int64_t mbs,
                        int64_t want_micro)
{
    ns_error err = NS_ERROR_INIT;
    int64_t start[16], rows[16];
    start[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        start[i + 1] = start[i] + len[i] + 1;
        rows[i] = i;
    }
    rows[n] = -1; /* padding is dropped */
    ns_examples ex = {.n = n, .start = start};
    ns_mb_split s;
    assert_ns_ok(ns_split_new(&s, 16, &err), &err);
    assert_ns_ok(ns_split_batch(&s, &ex, rows, n + 1, mbs, by_rows, T_cap, S_cap, &err), &err);
    int seen[16] = {0};
    for (int64_t b = 0; b < s.n_micro; b++) {
        int64_t sum = 0;
        for (int64_t i = s.start[b]; i < s.start[b + 1]; i++) {
            seen[s.rows[i]]++;
            sum += len[s.rows[i]];
        }
        assert_true(sum <= T_cap && s.start[b + 1] - s.start[b] <= S_cap && s.start[b + 1] > s.start[b]);
    }
    for (int64_t i = 0; i < n; i++) assert_int_equal(seen[i], 1);
    if (want_micro >= 0) assert_int_equal(s.n_micro, want_micro);
    ns_split_free(&s);
}

static void rows_are_dealt_once(void **state)
{
    (void)state;
    int a[] = {5, 5, 3, 7, 2, 8};
    check_split(6, a, 10, 8, 0, 1, 3);                     /* 30 tokens fill three bins of 10 exactly */
    check_split(6, a, 100, 2, 0, 1, 3);                    /* the segment limit binds */
    check_split(6, a, 100, 8, 1, 4, 2);                    /* by rows: 4 + 2 */
    for (int code = 0; code < 4 * 4 * 4 * 4 * 4; code++) { /* all lengths 1..4 of five rows */
        int len[5], c = code;
        for (int i = 0; i < 5; i++, c /= 4) len[i] = 1 + c % 4;
        check_split(5, len, 4, 3, 0, 1, -1);
    }
}

static void a_row_that_cannot_fit_is_refused(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    int64_t start[] = {0, 12}, rows[] = {0};
    ns_examples ex = {.n = 1, .start = start};
    ns_mb_split s;
    assert_ns_ok(ns_split_new(&s, 1, &err), &err);
    assert_ns_fails(ns_split_batch(&s, &ex, rows, 1, 1, 0, 10, 4, &err), NS_ERR_INTERNAL, "11 tokens", &err);
    ns_split_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_are_dealt_once),
                                       cmocka_unit_test(a_row_that_cannot_fit_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
