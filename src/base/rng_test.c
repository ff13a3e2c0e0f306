/* Random numbers against published vectors: the 2002 MT19937 reference output, CPython, NumPy and Torch orders
 * (data.md 0.2), the Random123 known answers for Philox4x32-10, and moments of the normals. */
#include "base/testing.h"

#include <math.h>

#include "base/rng.h"

static void expect(const int64_t *got, const int64_t *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (got[i] != want[i]) fail_msg("element %zu: %lld, expected %lld", i, (long long)got[i], (long long)want[i]);
}

static void iota(int64_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = (int64_t)i;
}

static void is_permutation(const int64_t *x, size_t n)
{
    char *seen = calloc(n + 1, 1);
    for (size_t i = 0; i < n; i++) {
        assert_in_range(x[i], 0, n - 1);
        assert_int_equal(seen[x[i]]++, 0);
    }
    free(seen);
}

static void mersenne_words(void **state)
{
    (void)state;
    ns_mt g;
    ns_mt_seed(&g, 5489); /* the C++ standard gives the 10000th word for the default seed */
    uint32_t w = 0;
    for (int i = 0; i < 10000; i++) w = ns_mt_u32(&g);
    assert_int_equal(w, 4123659995u);
    ns_mt_seed(&g, 1);
    assert_int_equal(ns_mt_u32(&g), 1791095845u);
    assert_int_equal(ns_mt_u32(&g), 4282876139u);
    assert_int_equal(ns_mt_u32(&g), 3093770124u);
}

static void python_order(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed;
        int64_t order[20];
        uint32_t next;
    } cases[] = {
        {42, {19, 5, 14, 4, 9, 13, 15, 18, 6, 12, 17, 10, 1, 11, 2, 16, 7, 8, 0, 3}, 2410529190u},
        {0, {10, 18, 16, 14, 0, 17, 11, 2, 3, 9, 5, 7, 4, 19, 6, 15, 8, 1, 13, 12}, 1332073689u},
        {(uint64_t)1 << 40, {9, 4, 12, 0, 17, 7, 19, 5, 18, 16, 15, 8, 10, 14, 6, 1, 13, 2, 11, 3}, 1572413535u},
        {5, {4, 9, 6, 5, 14, 17, 18, 1, 2, 15, 10, 3, 12, 7, 13, 0, 16, 11, 8, 19}, 2465058629u}, /* seed -5 */
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        ns_mt g;
        int64_t x[20];
        iota(x, 20);
        ns_mt_seed_python(&g, cases[c].seed);
        ns_shuffle_python(&g, x, 20);
        expect(x, cases[c].order, 20);
        assert_int_equal(ns_mt_u32(&g), cases[c].next); /* as many words were used */
    }
}

static void numpy_order(void **state)
{
    (void)state;
    static const int64_t want[50] = {28, 11, 10, 41, 2,  27, 38, 31, 22, 4,  33, 35, 26, 34, 18, 7,  14,
                                     45, 48, 29, 15, 30, 32, 16, 42, 20, 43, 8,  13, 25, 5,  17, 40, 49,
                                     1,  12, 37, 24, 6,  23, 36, 21, 19, 9,  39, 46, 3,  0,  47, 44};
    static const int64_t want123[10] = {4, 0, 7, 5, 8, 3, 1, 6, 9, 2};
    ns_mt g;
    int64_t x[50];
    ns_mt_seed(&g, 0);
    iota(x, 50);
    ns_shuffle_numpy(&g, x, 50);
    expect(x, want, 50);
    assert_int_equal(ns_mt_below_numpy(&g, 1u << 31), 580757632u);
    ns_mt_seed(&g, 123);
    iota(x, 10);
    ns_shuffle_numpy(&g, x, 10);
    expect(x, want123, 10);
}

static void torch_order(void **state)
{
    (void)state;
    static const int64_t head[8] = {775, 760, 390, 842, 624, 4, 138, 865}, tail[5] = {469, 450, 478, 173, 804};
    static const int64_t first[10] = {5, 0, 3, 4, 1, 7, 9, 6, 8, 2}, second[10] = {1, 8, 9, 5, 7, 4, 0, 3, 6, 2};
    ns_mt g;
    int64_t x[1000];
    ns_mt_seed(&g, 1234);
    ns_randperm_torch(&g, x, 1000);
    expect(x, head, 8);
    expect(x + 995, tail, 5);
    is_permutation(x, 1000);
    ns_mt_seed(&g, 7); /* the generator goes on over epochs */
    ns_randperm_torch(&g, x, 10);
    expect(x, first, 10);
    ns_randperm_torch(&g, x, 10);
    expect(x, second, 10);
}

static void bounded_draws_and_small_sizes(void **state)
{
    (void)state;
    ns_mt g, h;
    static const uint32_t bounds[] = {1, 2, 3, 7, 8, 9, 1000, 0x80000000u, 0x80000001u, 0xffffffffu};
    for (size_t b = 0; b < sizeof bounds / sizeof bounds[0]; b++) {
        ns_mt_seed(&g, 99);
        for (int i = 0; i < 2000; i++) {
            assert_true(ns_mt_below_python(&g, bounds[b]) < bounds[b]);
            assert_true(ns_mt_below_numpy(&g, bounds[b]) < bounds[b]);
        }
    }
    ns_mt_seed(&g, 3);
    ns_mt_seed(&h, 3);
    int64_t one = 77;
    ns_shuffle_python(&g, &one, 1);
    ns_shuffle_numpy(&g, &one, 0);
    ns_randperm_torch(&g, &one, 0);
    assert_int_equal(one, 77);
    ns_randperm_torch(&g, &one, 1);
    assert_int_equal(ns_mt_below_numpy(&g, 1), 0);
    assert_int_equal(one, 0);
    assert_int_equal(ns_mt_u32(&g), ns_mt_u32(&h)); /* nothing was drawn */
}

static void philox_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t ctr[4], key[2], want[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t c = 0; c < 3; c++) {
        ns_philox_key key = {{cases[c].key[0], cases[c].key[1]}};
        uint32_t out[4];
        ns_philox(out, cases[c].ctr, key);
        assert_memory_equal(out, cases[c].want, sizeof out);
    }
    assert_true(ns_u32_to_unit(0) == 0.0f && ns_u32_to_unit(UINT32_MAX) < 1.0f);
}

static void normals_have_the_right_shape(void **state)
{
    (void)state;
    enum { N = 200000 };
    ns_philox_key key = {{42, 7}};
    double sum = 0, sum2 = 0, sum3 = 0, sum4 = 0, pair = 0, largest = 0, last = 0;
    int above = 0;
    for (uint64_t i = 0; i < N; i++) {
        double x = ns_philox_normal(key, 3, i);
        sum += x;
        sum2 += x * x;
        sum3 += x * x * x;
        sum4 += x * x * x * x;
        pair += x * last;
        above += x > 1.959963984540054;
        largest = fmax(largest, fabs(x));
        last = x;
    }
    assert_true(fabs(sum / N) < 4 / sqrt(N));
    assert_true(fabs(sum2 / N - 1) < 4 * sqrt(2.0 / N));
    assert_true(fabs(sum3 / N) < 4 * sqrt(15.0 / N));
    assert_true(fabs(sum4 / N - 3) < 4 * sqrt(96.0 / N));
    assert_true(fabs(pair / N) < 4 / sqrt(N));
    assert_true(fabs(above / (double)N - 0.025) < 4 * sqrt(0.025 * 0.975 / N));
    assert_true(largest > 3.5 && largest < 8.7); /* sqrt(-2 log 2^-53) = 8.57 */
    assert_true(ns_philox_normal(key, 3, 5) == ns_philox_normal(key, 3, 5));
    assert_true(ns_philox_normal(key, 4, 5) != ns_philox_normal(key, 3, 5));
    assert_true(ns_philox_normal(key, 3, (uint64_t)1 << 40) != ns_philox_normal(key, 3, 0));
}

/* Pinned: a change of these changes every freshly initialised model. Computed with Python integers and math. */
static void normals_are_pinned(void **state)
{
    (void)state;
    ns_philox_key key = {{42, 7}};
    static const double want[4] = {-0.8723652650686123, 1.1469630741165555, -1.1797646532498476, -0.13533663655320105};
    for (uint64_t i = 0; i < 4; i++) {
        double got = ns_philox_normal(key, 3, i);
        if (fabs(got - want[i]) > 1e-15 * fabs(want[i]) * 4)
            fail_msg("normal %d: %.17g, expected %.17g", (int)i, got, want[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(mersenne_words),
                                       cmocka_unit_test(python_order),
                                       cmocka_unit_test(numpy_order),
                                       cmocka_unit_test(torch_order),
                                       cmocka_unit_test(philox_known_answers),
                                       cmocka_unit_test(bounded_draws_and_small_sizes),
                                       cmocka_unit_test(normals_have_the_right_shape),
                                       cmocka_unit_test(normals_are_pinned)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
