/* Random numbers: see rng.h for who uses which flavour.
 *
 * MT19937: Matsumoto and Nishimura 1998; init_genrand and init_by_array as in their 2002 reference code.
 * Philox4x32-10: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11. */
#include "base/rng.h"

#include <math.h>

#include "base/error.h"

enum { MT_N = 624, MT_M = 397 };

void ns_mt_seed(ns_mt *g, uint32_t seed)
{
    g->mt[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++) g->mt[i] = 1812433253u * (g->mt[i - 1] ^ (g->mt[i - 1] >> 30)) + i;
    g->idx = MT_N;
}

void ns_mt_seed_python(ns_mt *g, uint64_t seed)
{
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t n_key = key[1] ? 2 : 1, i = 1, j = 0;
    ns_mt_seed(g, 19650218u);
    uint32_t *mt = g->mt;
    for (int k = MT_N; k > 0; k--) {
        mt[i] = (mt[i] ^ ((mt[i - 1] ^ (mt[i - 1] >> 30)) * 1664525u)) + key[j] + j;
        if (++i == MT_N) {
            mt[0] = mt[MT_N - 1];
            i = 1;
        }
        if (++j == n_key) j = 0;
    }
    for (int k = MT_N - 1; k > 0; k--) {
        mt[i] = (mt[i] ^ ((mt[i - 1] ^ (mt[i - 1] >> 30)) * 1566083941u)) - i;
        if (++i == MT_N) {
            mt[0] = mt[MT_N - 1];
            i = 1;
        }
    }
    mt[0] = 0x80000000u;
}

static void mt_refill(ns_mt *g)
{
    uint32_t *mt = g->mt;
    for (int i = 0; i < MT_N; i++) {
        uint32_t y = (mt[i] & 0x80000000u) | (mt[(i + 1) % MT_N] & 0x7fffffffu);
        mt[i] = mt[(i + MT_M) % MT_N] ^ (y >> 1) ^ ((y & 1) ? 0x9908b0dfu : 0);
    }
    g->idx = 0;
}

uint32_t ns_mt_u32(ns_mt *g)
{
    if (g->idx >= MT_N) mt_refill(g);
    uint32_t y = g->mt[g->idx++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

uint32_t ns_mt_below_python(ns_mt *g, uint32_t n)
{
    NS_ASSERT(n > 0);
    int bits = 32 - __builtin_clz(n); /* bit length of n itself, so that n = 2^k draws k + 1 bits */
    uint32_t r;
    do r = ns_mt_u32(g) >> (32 - bits);
    while (r >= n);
    return r;
}

uint32_t ns_mt_below_numpy(ns_mt *g, uint32_t n)
{
    NS_ASSERT(n > 0);
    uint32_t max = n - 1, r;
    if (max == 0) return 0; /* consumes nothing */
    uint32_t mask = UINT32_MAX >> __builtin_clz(max);
    do r = ns_mt_u32(g) & mask;
    while (r > max);
    return r;
}

static void swap(int64_t *x, size_t i, size_t j)
{
    int64_t t = x[i];
    x[i] = x[j];
    x[j] = t;
}

void ns_shuffle_python(ns_mt *g, int64_t *idx, size_t n)
{
    NS_ASSERT(n <= UINT32_MAX);
    for (size_t i = n; i-- > 1;) swap(idx, i, ns_mt_below_python(g, (uint32_t)(i + 1)));
}

void ns_shuffle_numpy(ns_mt *g, int64_t *idx, size_t n)
{
    NS_ASSERT(n <= UINT32_MAX);
    for (size_t i = n; i-- > 1;) swap(idx, i, ns_mt_below_numpy(g, (uint32_t)(i + 1)));
}

void ns_randperm_torch(ns_mt *g, int64_t *out, size_t n)
{
    NS_ASSERT(n < UINT32_MAX / 20); /* above, Torch draws in another way */
    for (size_t i = 0; i < n; i++) out[i] = (int64_t)i;
    for (size_t i = 0; i + 1 < n; i++) swap(out, i, i + ns_mt_u32(g) % (uint32_t)(n - i));
}

void ns_philox(uint32_t out[4], const uint32_t ctr[4], ns_philox_key key)
{
    uint32_t c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3], k0 = key.k[0], k1 = key.k[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u; /* golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* One block of four words gives elements 2m (cosine) and 2m + 1 (sine): u1 in (0,1] and u2 in [0,1), 53 bits each. */
double ns_philox_normal(ns_philox_key key, uint64_t stream, uint64_t i)
{
    uint64_t m = i >> 1;
    const uint32_t ctr[4] = {(uint32_t)m, (uint32_t)(m >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
    uint32_t w[4];
    ns_philox(w, ctr, key);
    uint64_t a = (uint64_t)w[1] << 32 | w[0], b = (uint64_t)w[3] << 32 | w[2];
    double u1 = (double)((a >> 11) + 1) * 0x1p-53, u2 = (double)(b >> 11) * 0x1p-53;
    double radius = sqrt(-2.0 * log(u1)), angle = 6.283185307179586476925286766559 * u2;
    return radius * ((i & 1) ? sin(angle) : cos(angle));
}
