/* Time limits of any size and the signal flag. */
#include "base/testing.h"

#include <signal.h>
#include <time.h>

#include "train/stop.h"

static double limit(const char *text)
{
    ns_error err = NS_ERROR_INIT;
    double s = -1;
    assert_ns_ok(ns_stop_parse_limit(&s, text, &err), &err);
    return s;
}

static void limits(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    double s;
    assert_true(limit("00:03:45:00") == 3 * 3600 + 45 * 60);
    assert_true(limit("10000:00:00:00") == 10000.0 * 86400);
    assert_true(limit("2-01:00:00") == 2 * 86400 + 3600);
    assert_true(limit("24:00:00") == 86400);
    assert_true(limit("0:0:0:0.5") == 0.5);
    assert_ns_fails(ns_stop_parse_limit(&s, "soon", &err), NS_ERR_CONFIG, "D:H:M:S", &err);
    assert_ns_fails(ns_stop_parse_limit(&s, "1:2:3:4:5", &err), NS_ERR_CONFIG, "D:H:M:S", &err);
    assert_ns_fails(ns_stop_parse_limit(&s, "1:-2:3:4", &err), NS_ERR_CONFIG, "D:H:M:S", &err);
}

static void signals_and_deadline(void **state)
{
    (void)state;
    ns_stop_install();
    assert_int_equal(ns_stop_check(), NS_STOP_NONE);
    ns_stop_set_limit(1e-9);
    assert_int_equal(ns_stop_check(), NS_STOP_TIME);
    ns_stop_set_limit(0);
    raise(SIGUSR1);
    assert_int_equal(ns_stop_check(), NS_STOP_SIGNAL);
    assert_string_equal(ns_stop_name(), "SIGUSR1");
}

static void what_is_left_of_a_job(void **state)
{
    (void)state;
    char at[32];
    unsetenv("NS_LIMIT_AT");
    assert_true(ns_stop_left() > 1e300);
    snprintf(at, sizeof at, "%lld", (long long)time(NULL) + 100);
    setenv("NS_LIMIT_AT", at, 1);
    assert_true(ns_stop_left() > 95 && ns_stop_left() <= 100.01);
    unsetenv("NS_LIMIT_AT");
    ns_stop_install();
    ns_stop_now();
    assert_int_equal(ns_stop_check(), NS_STOP_TIME);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(limits), cmocka_unit_test(signals_and_deadline),
                                       cmocka_unit_test(what_is_left_of_a_job)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
