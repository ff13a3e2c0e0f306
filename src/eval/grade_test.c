/* Box extraction (data.md §2.6) and text equality, with pairs that must differ. */
#include "base/testing.h"

#include "eval/grade.h"

static ns_str S(const char *s)
{
    return (ns_str){s, strlen(s)};
}

static void last_complete_box(void **state)
{
    (void)state;
    ns_str a;
    assert_true(ns_extract_boxed(&a, S("so \\boxed{1} or \\boxed{\\frac{1}{2}} units")) &&
                ns_str_eq(a, "\\frac{1}{2}"));
    assert_true(ns_extract_boxed(&a, S("\\boxed{}")) && a.n == 0);
    assert_false(ns_extract_boxed(&a, S("\\boxed{1} then \\boxed 5")));
    assert_false(ns_extract_boxed(&a, S("\\boxed{1")));
    assert_false(ns_extract_boxed(&a, S("no box")));
}

static void text_equality(void **state)
{
    (void)state;
    assert_true(ns_answers_equal(S(" 1,234 "), S("1234")));
    assert_true(ns_answers_equal(S("$18"), S("18")));
    assert_true(ns_answers_equal(S("18.0"), S("18")));
    assert_false(ns_answers_equal(S("18"), S("180")));
    assert_false(ns_answers_equal(S("1.5"), S("15")));
    assert_false(ns_answers_equal(S("(1,2)"), S("(12)")));
    assert_false(ns_answers_equal(S(""), S("")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(last_complete_box), cmocka_unit_test(text_equality)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
