/* Arithmetic against the reference's recorded expressions and stages, and the filters on short texts. */
#include "data/arithmetic.h"

#include "base/json.h"
#include "base/testing.h"

static ns_str zs(const char *s)
{
    return (ns_str){s, strlen(s)};
}

static void golden(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_json *cases;
    char path[4200];
    int n_solved = 0, n_unsolved = 0;
    snprintf(path, sizeof path, "%s/prepare_data/golden_arithmetic.json", ns_test_data());
    assert_ns_ok(ns_json_read_file(&cases, &a, path, &err), &err);
    for (size_t c = 0; c < cases->n; c++) {
        ns_str text = ns_json_get(&cases->items[c], "text")->s;
        const ns_json *want = ns_json_get(&cases->items[c], "expressions");
        uint32_t points[256], cur[256];
        for (size_t i = 0; i < text.n; i++) points[i] = (unsigned char)text.p[i]; /* recorded cases are ASCII */
        ns_expressions it = {.text = points, .n_text = text.n, .cur = cur};
        for (size_t k = 0; k < want->n; k++) {
            const ns_json *w = &want->items[k];
            char expr[256];
            int64_t start;
            assert_true(ns_expressions_next(&it));
            for (size_t i = 0; i < it.n_expr; i++) expr[i] = (char)cur[i];
            expr[it.n_expr] = 0;
            assert_true(ns_str_eq(w->items[0].s, expr));
            assert_true(ns_json_is_int(&w->items[1], &start));
            assert_int_equal(it.start, start);
            ns_buf stages = {0}, merged = {0};
            int solved;
            size_t n_left = strcspn(expr, "=");
            assert_ns_ok(ns_arithmetic_solve(&stages, (ns_str){expr, n_left}, &solved, &err), &err);
            assert_int_equal(solved, w->items[2].type == NS_JSON_ARRAY);
            if (solved) {
                char *p = stages.data;
                for (size_t i = 0; i < w->items[2].n; i++) {
                    char *end = strchr(p, 1);
                    assert_non_null(end);
                    *end = 0;
                    assert_true(ns_str_eq(w->items[2].items[i].s, p));
                    *end = 1;
                    p = end + 1;
                }
                assert_int_equal(*p, 0);
                assert_ns_ok(ns_arithmetic_merge(&merged, (ns_str){stages.data, stages.len}, &err), &err);
                assert_true(ns_str_eq(w->items[3].s, merged.data));
                n_solved++;
            } else {
                n_unsolved++;
            }
            ns_buf_free(&stages);
            ns_buf_free(&merged);
        }
        assert_false(ns_expressions_next(&it));
    }
    assert_true(n_solved >= 10 && n_unsolved >= 2);
    ns_arena_free(&a);
}

static void check(const char *text, int want)
{
    ns_error err = NS_ERROR_INIT;
    int wrong;
    assert_ns_ok(ns_arithmetic_check(&wrong, zs(text), 1e-4, &err), &err);
    if (wrong != want) fail_msg("%s: wrong %d", text, wrong);
}

static void checks(void **state)
{
    (void)state;
    check("1 + 2 + 3 = 6", 0);
    check("1 + 2 + 3 = 7", 1);
    check("so 1 + 2 + 3 = 7 holds", 1);
    check("3+4=8", 0);               /* one operation is no expression */
    check("10 / 3 + 1 = 4.3333", 0); /* within 1e-4 */
    check("10 / 3 + 1 = 4.33", 1);
    check("1 + 2 + 3 = 3 + 3 = 6", 0); /* first and last part count */
    check("1 + 2 + 3 = 9 = 6", 0);
    check("2 ** 3 - 1 = 14 // 2", 0);
    check("2 ** 3 - 1 = 007", 0); /* not a number: cannot tell */
    check("2 ** 3 - 1 = (2", 0);
    check("1/0 + 2 = 3", 0);
    check("1 + 1 + 1 = 2 ** -1 * 6", 0);
    check("-2 + 1 - 1 = -2**1", 0);
    check("1 - 5 - 0 = -2**2", 0);   /* -(2**2) */
    check("9 + 9 + 9 = 9**9**9", 0); /* a tower of powers is left alone, quickly */
    check("1 + 1 + 1 = 1/0", 0);
    check("7 - 3 - 8 = -4", 0);
    check("7 - 3 - 8 = -(-3 - 1)", 1);
    check("1 + 1 + 1 = 7 // -2 + 7", 0); /* floors toward minus infinity: -4 + 7 */
    check("\xc2\xa0"
          "1 +\xc2\xa0"
          "2 + 3 = 7",
          1); /* no-break spaces are white space */
    check("1 + 1 + 1\n= 4", 1);
    check("1 + 1 + 1\n\t= 4", 0); /* Python: unexpected indent */
    check("", 0);
}

static void split(const char *text, const char *want)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf out = {0};
    assert_ns_ok(ns_arithmetic_split(&out, zs(text), &err), &err);
    assert_string_equal(out.data ? out.data : "", want);
    ns_buf_free(&out);
}

static void splits(void **state)
{
    (void)state;
    split("He has 1 + 2 + 3 = 6 apples", "He has 1 + 2 + 3 = 3 + 3 = 6 apples");
    split("1 + 2 + 3 = 7", "1 + 2 + 3 = 7"); /* wrong ones stay */
    split("2 - 5 + 1 = -2", "2 - 5 + 1 = (-3) + 1 = -2");
    split("1 + 2 + 3 = 3 + 3 = 6", "1 + 2 + 3 = 3 + 3 = 6"); /* two signs: already spelled out */
    split("a (1 + 2) * 3 + 1 = 10\nb", "a (1 + 2) * 3 + 1 = 3 * 3 + 1 = 9 + 1 = 10\nb");
    split("\xe2\x82\xac 1 + 2 + 3 = 6 \xe2\x82\xac", "\xe2\x82\xac 1 + 2 + 3 = 3 + 3 = 6 \xe2\x82\xac");
    split("none here", "none here");
    split("", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden), cmocka_unit_test(checks), cmocka_unit_test(splits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
