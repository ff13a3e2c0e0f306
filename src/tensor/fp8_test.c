/* Every code there and back, every rounding decision, saturation, scales. */
#include "base/testing.h"

#include <math.h>

#include "tensor/fp8.h"

static const ns_dtype types[] = {NS_DTYPE_F8_E4M3, NS_DTYPE_F8_E5M2};

static float largest(ns_dtype t)
{
    return t == NS_DTYPE_F8_E4M3 ? 448 : 57344;
}

static void known_values(void **state)
{
    (void)state;
    const ns_dtype a = NS_DTYPE_F8_E4M3, b = NS_DTYPE_F8_E5M2;
    assert_true(ns_fp8_decode(0x38, a) == 1 && ns_fp8_decode(0x3c, b) == 1);
    assert_true(ns_fp8_decode(0x7e, a) == 448 && ns_fp8_decode(0x7b, b) == 57344);
    assert_true(ns_fp8_decode(0x01, a) == 0x1p-9f && ns_fp8_decode(0x01, b) == 0x1p-16f);
    assert_true(ns_fp8_decode(0x08, a) == 0x1p-6f && ns_fp8_decode(0x04, b) == 0x1p-14f);
    assert_true(ns_fp8_decode(0xc0, a) == -2 && isnan(ns_fp8_decode(0xff, a)));
    assert_true(isinf(ns_fp8_decode(0x7c, b)) && isnan(ns_fp8_decode(0x7d, b)));
    assert_int_equal(ns_fp8_encode(1e9f, a), 0x7e);
    assert_int_equal(ns_fp8_encode(-INFINITY, b), 0xfb);
    assert_int_equal(ns_fp8_encode(-0.0f, a), 0x80);
    assert_true(isnan(ns_fp8_decode(ns_fp8_encode(NAN, a), a)) && isnan(ns_fp8_decode(ns_fp8_encode(NAN, b), b)));
}

/* Between two neighbours: the nearer one, and in the middle the one with an even code. */
static void rounds_to_nearest_even(void **state)
{
    (void)state;
    for (int t = 0; t < 2; t++)
        for (int c = 0; ns_fp8_decode((uint8_t)c, types[t]) < largest(types[t]); c++) {
            float lo = ns_fp8_decode((uint8_t)c, types[t]), hi = ns_fp8_decode((uint8_t)(c + 1), types[t]);
            float mid = (lo + hi) / 2;
            assert_true(hi > lo);
            assert_int_equal(ns_fp8_encode(lo, types[t]), c);
            assert_int_equal(ns_fp8_encode(mid, types[t]), c % 2 ? c + 1 : c);
            assert_int_equal(ns_fp8_encode(nextafterf(mid, 0), types[t]), c);
            assert_int_equal(ns_fp8_encode(nextafterf(mid, 1e9f), types[t]), c + 1);
            assert_int_equal(ns_fp8_encode(-mid, types[t]), 0x80 | (c % 2 ? c + 1 : c));
        }
}

static void scales_are_the_largest_powers_of_two(void **state)
{
    (void)state;
    const float values[] = {1e-30f, 3e-5f, 0.02f, 1, 1.75f, 1.7500001f, 1.9999f, 448, 449, 6e4f, 1e20f, 3e38f};
    for (int t = 0; t < 2; t++)
        for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
            int e;
            float s = ns_fp8_scale(values[i], types[t]);
            assert_true(frexpf(s, &e) == 0.5f);
            assert_true((double)values[i] * (double)s <= (double)largest(types[t]));
            assert_true((double)values[i] * (double)s * 2 > (double)largest(types[t]));
        }
    assert_true(ns_fp8_scale(0, types[0]) == 1 && ns_fp8_scale(NAN, types[0]) == 1);
    assert_true(ns_fp8_scale(INFINITY, types[1]) == 1 && ns_fp8_scale(1e-44f, types[1]) == 0x1p126f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_values),
        cmocka_unit_test(rounds_to_nearest_even),
        cmocka_unit_test(scales_are_the_largest_powers_of_two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
