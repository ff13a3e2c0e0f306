/* The same bits with every instruction set; NaN, infinities, zeros of both signs, all lengths around the lanes. */
#include "ckpt/look.h"

#include <math.h>

#include "base/testing.h"
#include "ckpt/ggml.h"

enum { N = 1000 };

static void values(float *x, uint16_t *h)
{
    uint32_t s = 1;
    for (int i = 0; i < N; i++) {
        s = s * 1664525 + 1013904223;
        h[i] = ns_f32_to_bf16(((float)(s >> 8) / 8388608.f - 1) * 3);
        if (i % 97 == 5) h[i] = 0x7fc0; /* NaN */
        if (i % 89 == 7) h[i] = 0x8000; /* -0 */
        x[i] = ns_bf16_to_f32(h[i]);
    }
}

static int same(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static void instruction_sets_agree(void **state)
{
    (void)state;
    static float x[N + 1];
    static uint16_t h[N + 1];
    values(x, h);
    for (int from = 0; from < 40; from += 3)
        for (int n = 1; n < N - from; n += 1 + n / 5) {
            ns_extremes want, e;
            ns_look_with(0, &want, x + from, NS_DTYPE_F32, n);
            for (int level = 0; level < 3; level++)
                for (int k = 0; k < 2; k++) {
                    ns_look_with(level, &e, k ? (void *)(h + from) : (void *)(x + from),
                                 k ? NS_DTYPE_BF16 : NS_DTYPE_F32, n);
                    assert_true(same(e.min, want.min) && same(e.max, want.max) && same(e.sum, want.sum));
                }
        }
}

static void known_values(void **state)
{
    (void)state;
    float x[20] = {1, -2, 3, NAN, INFINITY, 5}, y[20] = {1, -2, 3.5f, NAN, INFINITY, INFINITY};
    double err2 = 0, sum2 = 0;
    ns_extremes e;
    ns_look(&e, x, NS_DTYPE_F32, 3);
    assert_true(e.min == -2 && e.max == 3 && e.sum == 2);
    ns_look(&e, x, NS_DTYPE_F32, 20);
    assert_true(e.min == -2 && isinf(e.max) && isnan(e.sum));
    assert_int_equal(ns_look_lost(x, y, 20), 1);
    ns_look_errors(&err2, &sum2, x, y, 3);
    assert_true(err2 == 0.25 && sum2 == 14);
    for (int i = 0; i < 20; i++) y[i] = (x[i] = (float)i) + 1;
    err2 = sum2 = 0;
    ns_look_errors(&err2, &sum2, x, y, 19);
    assert_true(err2 == 19 && sum2 == 18 * 19 * 37 / 6);
}

static float bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Blocks of every scale, halves to round, NaN, infinities: packed and unpacked as without vector instructions. */
static void q8_0_without_vectors(void **state)
{
    (void)state;
    const ns_ggml *q = ns_ggml_find(NS_GGML_Q8_0);
    static float x[32 * 64], y[32 * 64], z[32 * 64];
    static uint8_t a[34 * 64], b[34 * 64];
    uint32_t s = 7;
    for (int round = 0; round < 400; round++) {
        for (int i = 0; i < 32 * 64; i++) {
            s = s * 1664525 + 1013904223;
            uint32_t r = s >> 8;
            x[i] = round % 4 == 0
                       ? bits((s & 0x80000000u) | (r * 40503u >> 1 & 0x7fffffffu)) /* any number, NaN, infinity */
                   : round % 4 == 1 ? ((float)(r % 255) - 127) / 2                 /* halves */
                   : round % 4 == 2 ? ldexpf((float)r - 8388608.f, -30 + round / 8 % 20)
                                    : (i % 32 == 3 ? 127.f : ((float)(r % 509) - 254) / 2);
        }
        ns_ggml_pack(q, a, x, 32 * 64);
        ns_ggml_pack_plain(q, b, x, 32 * 64);
        assert_memory_equal(a, b, sizeof a);
        ns_ggml_unpack(q, y, a, 32 * 64);
        ns_ggml_unpack_plain(q, z, a, 32 * 64);
        assert_memory_equal(y, z, sizeof y);
        double e[4] = {0};
        ns_look_errors_with(0, &e[0], &e[1], x, y, 32 * 64 - round % 9);
        ns_look_errors_with(1, &e[2], &e[3], x, y, 32 * 64 - round % 9);
        assert_true(same(e[0], e[2]) && same(e[1], e[3]));
        int64_t lost = 0;
        for (int i = 0; i < 32 * 64; i++) lost += isfinite(x[i]) && !isfinite(y[i]);
        assert_int_equal(ns_look_lost(x, y, 32 * 64), lost);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(instruction_sets_agree), cmocka_unit_test(known_values),
                                       cmocka_unit_test(q8_0_without_vectors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
