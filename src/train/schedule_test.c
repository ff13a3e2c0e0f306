/* The four phases against values worked out by hand from training.md §2.12. */
#include "base/testing.h"

#include <math.h>

#include "train/schedule.h"

static void near(double a, double b)
{
    assert_true(fabs(a - b) <= 1e-12 * (1 + fabs(b)));
}

static void cosine_without_constant(void **state)
{
    (void)state;
    ns_schedule s = {.lr = 1.0, .min_lr = 0.1, .max_steps = 10, .warmup = 2};
    near(ns_schedule_lr(&s, 0), 1.0 / 3);
    near(ns_schedule_lr(&s, 2), 1.0);
    near(ns_schedule_lr(&s, 6), 0.55);
    near(ns_schedule_lr(&s, 10), 0.1);
    near(ns_schedule_lr(&s, 11), 0.1);
    s.warmup = 0;
    near(ns_schedule_lr(&s, 0), 1.0);
}

static void constant_phase_is_last_and_lowest(void **state)
{
    (void)state;
    ns_schedule s = {.lr = 1.0, .min_lr = 0.1, .max_steps = 20, .warmup = 4, .constant = 6};
    near(ns_schedule_lr(&s, 0), 0.0);
    near(ns_schedule_lr(&s, 2), 0.5);
    near(ns_schedule_lr(&s, 9), 0.55);
    near(ns_schedule_lr(&s, 15), 0.1);
    /* the preference default on a short run: rate falls to the minimum right after warm-up */
    ns_schedule p = {.lr = 9e-6, .min_lr = 9e-7, .max_steps = 500, .warmup = 10, .constant = 1000};
    near(ns_schedule_lr(&p, 11), 9e-7);
}

static void equal_rates_are_constant_and_bad_ones_refused(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_schedule s = {.lr = 5e-6, .min_lr = 5e-6, .max_steps = 100};
    assert_ns_ok(ns_schedule_check(&s, &err), &err);
    for (int t = 0; t < 120; t++) near(ns_schedule_lr(&s, t), 5e-6);
    s.min_lr = 1e-5;
    assert_ns_fails(ns_schedule_check(&s, &err), NS_ERR_CONFIG, "min_lr", &err);
    s.min_lr = 5e-6;
    s.constant = 5;
    assert_ns_fails(ns_schedule_check(&s, &err), NS_ERR_CONFIG, "constant_steps", &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(cosine_without_constant),
                                       cmocka_unit_test(constant_phase_is_last_and_lowest),
                                       cmocka_unit_test(equal_rates_are_constant_and_bad_ones_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
