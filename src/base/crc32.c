/* CRC-32 of zip and PNG and CRC-32C (iSCSI), reflected. Large runs by carry-less multiplication ("folding"): 256 bytes a step with
 * AVX-512 (VPCLMULQDQ), else 64 with PCLMULQDQ (Gopal et al., "Fast CRC Computation Using PCLMULQDQ", Intel 2009); both polynomials
 * of the same bytes in one reading. What folding leaves, 16 bytes and a tail, and everything on other processors: eight table look-ups
 * per eight bytes ("slicing by 8", Kounavis and Berry 2005), CRC-32C by the SSE4.2 instruction. And the CRC of two runs from the CRCs
 * of each: what threads that write parts of a file leave behind becomes the CRC of the file.
 *
 * Numbers mod P have x^0 in bit 31. Folding a register of 128 bits by d bits multiplies its first half by x^(d+32), its second by
 * x^(d-32); the product of reflected numbers is one bit too far to the right, which the constants' shift by one makes good. */
#include "base/crc32.h"

#include <pthread.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/crc32c.h"

typedef struct crc_poly {
    uint32_t p, table[8][256];
    uint32_t power[64];                     /* x^(8 * 2^k) */
    uint64_t by2048[2], by512[2], by128[2]; /* of the first half, of the second */
} crc_poly;

static crc_poly g_zip = {.p = NS_CRC32_POLY}, g_c = {.p = NS_CRC32C_POLY};

/* a * b mod P */
static uint32_t multiply(uint32_t p, uint32_t a, uint32_t b)
{
    uint32_t r = 0;
    for (uint32_t m = 1u << 31; m; m >>= 1) {
        if (a & m) r ^= b;
        b = b & 1 ? b >> 1 ^ p : b >> 1;
    }
    return r;
}

static uint64_t fold_by(uint32_t p, unsigned n)
{
    uint32_t r = 1u << 31, x = 1u << 30;
    for (; n; n >>= 1, x = multiply(p, x, x))
        if (n & 1) r = multiply(p, r, x);
    return (uint64_t)r << 1;
}

static void fill(crc_poly *g)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ g->p : c >> 1;
        g->table[0][i] = c;
    }
    for (int j = 1; j < 8; j++)
        for (uint32_t i = 0; i < 256; i++)
            g->table[j][i] = g->table[j - 1][i] >> 8 ^ g->table[0][g->table[j - 1][i] & 255];
    g->power[0] = 1u << 23;
    for (int k = 1; k < 64; k++) g->power[k] = multiply(g->p, g->power[k - 1], g->power[k - 1]);
    for (int k = 0; k < 2; k++) {
        unsigned more = k ? -32u : 32u;
        g->by2048[k] = fold_by(g->p, 2048 + more);
        g->by512[k] = fold_by(g->p, 512 + more);
        g->by128[k] = fold_by(g->p, 128 + more);
    }
}

static void fill_both(void)
{
    fill(&g_zip);
    fill(&g_c);
}

static void ready(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_both);
}

/* On the inverted register, as all below. */
static uint32_t by_table(const crc_poly *g, uint32_t c, const unsigned char *p, size_t n)
{
    const uint32_t(*t)[256] = g->table;
    for (; n >= 8; n -= 8, p += 8) {
        c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        c = t[7][c & 255] ^ t[6][c >> 8 & 255] ^ t[5][c >> 16 & 255] ^ t[4][c >> 24] ^ t[3][p[4]] ^ t[2][p[5]] ^
            t[1][p[6]] ^ t[0][p[7]];
    }
    while (n--) c = c >> 8 ^ t[0][(c ^ *p++) & 255];
    return c;
}

/* ---- folding ---- */
/* Each takes n bytes, a multiple of 16, and leaves 16 bytes that give the same CRC from a register of 0. */
#if defined(__x86_64__)
#define LOAD128(q) _mm_loadu_si128((const __m128i *)(const void *)(q))
#define FOLD128(x, k, next) \
    _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128((x), (k), 0x00), _mm_clmulepi64_si128((x), (k), 0x11)), (next))
#define PAIR128(k) _mm_set_epi64x((long long)(k)[1], (long long)(k)[0])

/* n >= 64 */
__attribute__((target("pclmul,sse4.1"))) static void fold_128(unsigned char out[16], const crc_poly *g, uint32_t c,
                                                              const unsigned char *p, size_t n)
{
    const __m128i k = PAIR128(g->by512), k128 = PAIR128(g->by128);
    __m128i x = _mm_xor_si128(LOAD128(p), _mm_cvtsi32_si128((int)c)), y = LOAD128(p + 16), z = LOAD128(p + 32),
            w = LOAD128(p + 48);
    for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
        x = FOLD128(x, k, LOAD128(p));
        y = FOLD128(y, k, LOAD128(p + 16));
        z = FOLD128(z, k, LOAD128(p + 32));
        w = FOLD128(w, k, LOAD128(p + 48));
    }
    x = FOLD128(x, k128, y);
    x = FOLD128(x, k128, z);
    x = FOLD128(x, k128, w);
    for (; n >= 16; p += 16, n -= 16) x = FOLD128(x, k128, LOAD128(p));
    _mm_storeu_si128((__m128i *)(void *)out, x);
}

#define WIDE __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.1")))
#define LOAD512(q) _mm512_loadu_si512((const void *)(q))
#define FOLD512(x, k, next)                                                                                       \
    _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128((x), (k), 0x00), _mm512_clmulepi64_epi128((x), (k), 0x11), \
                              (next), 0x96)
#define PAIR512(k) _mm512_broadcast_i32x4(PAIR128(k))

/* Four registers, one behind the other, and the rest of the run. */
WIDE static void close_512(unsigned char out[16], const crc_poly *g, const __m512i a[4], const unsigned char *p,
                           size_t n)
{
    const __m512i k512 = PAIR512(g->by512);
    unsigned char four[64];
    __m512i x = a[0];
    for (int i = 1; i < 4; i++) x = FOLD512(x, k512, a[i]);
    for (; n >= 64; p += 64, n -= 64) x = FOLD512(x, k512, LOAD512(p));
    _mm512_storeu_si512(four, x);
    const __m128i k128 = PAIR128(g->by128);
    __m128i y = LOAD128(four);
    for (int i = 16; i < 64; i += 16) y = FOLD128(y, k128, LOAD128(four + i));
    for (; n >= 16; p += 16, n -= 16) y = FOLD128(y, k128, LOAD128(p));
    _mm_storeu_si128((__m128i *)(void *)out, y);
}

WIDE static __m512i begin_512(const unsigned char *p, uint32_t c)
{
    return _mm512_xor_si512(LOAD512(p), _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)c)));
}

/* n >= 256 */
WIDE static void fold_512(unsigned char out[16], const crc_poly *g, uint32_t c, const unsigned char *p, size_t n)
{
    const __m512i k = PAIR512(g->by2048);
    __m512i x = begin_512(p, c), y = LOAD512(p + 64), z = LOAD512(p + 128), w = LOAD512(p + 192);
    for (p += 256, n -= 256; n >= 256; p += 256, n -= 256) {
        x = FOLD512(x, k, LOAD512(p));
        y = FOLD512(y, k, LOAD512(p + 64));
        z = FOLD512(z, k, LOAD512(p + 128));
        w = FOLD512(w, k, LOAD512(p + 192));
    }
    close_512(out, g, (__m512i[]){x, y, z, w}, p, n);
}

/* Both polynomials, n >= 256. */
WIDE static void fold_512_both(unsigned char out[2][16], const uint32_t c[2], const unsigned char *p, size_t n)
{
    const __m512i k = PAIR512(g_zip.by2048), j = PAIR512(g_c.by2048);
    __m512i x = begin_512(p, c[0]), y = LOAD512(p + 64), z = LOAD512(p + 128), w = LOAD512(p + 192);
    __m512i s = begin_512(p, c[1]), t = y, u = z, v = w;
    for (p += 256, n -= 256; n >= 256; p += 256, n -= 256) {
        x = FOLD512(x, k, LOAD512(p));
        s = FOLD512(s, j, LOAD512(p));
        y = FOLD512(y, k, LOAD512(p + 64));
        t = FOLD512(t, j, LOAD512(p + 64));
        z = FOLD512(z, k, LOAD512(p + 128));
        u = FOLD512(u, j, LOAD512(p + 128));
        w = FOLD512(w, k, LOAD512(p + 192));
        v = FOLD512(v, j, LOAD512(p + 192));
    }
    close_512(out[0], &g_zip, (__m512i[]){x, y, z, w}, p, n);
    close_512(out[1], &g_c, (__m512i[]){s, t, u, v}, p, n);
}

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const unsigned char *q, size_t n)
{
    uint64_t c = crc, word;
    for (; n >= 8; n -= 8, q += 8) {
        memcpy(&word, q, 8);
        c = _mm_crc32_u64(c, word);
    }
    for (; n > 0; n--, q++) c = _mm_crc32_u8((uint32_t)c, *q);
    return (uint32_t)c;
}

static int has_wide(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq");
}
#endif

static uint32_t small(const crc_poly *g, uint32_t c, const unsigned char *p, size_t n)
{
#if defined(__x86_64__)
    if (g == &g_c && __builtin_cpu_supports("sse4.2")) return by_instruction(c, p, n);
#endif
    return by_table(g, c, p, n);
}

static uint32_t run(const crc_poly *g, uint32_t c, const unsigned char *p, size_t n, int wide)
{
    ready();
#if defined(__x86_64__)
    size_t k = n & ~(size_t)15;
    unsigned char left[16];
    wide = wide && n >= 256 && has_wide();
    if (wide || (n >= 64 && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"))) {
        (wide ? fold_512 : fold_128)(left, g, c, p, k);
        return small(g, small(g, 0, left, 16), p + k, n - k);
    }
#else
    (void)wide;
#endif
    return small(g, c, p, n);
}

void ns_crc_both(uint32_t *zip, uint32_t *crc32c, const void *data, size_t n)
{
    const unsigned char *p = data;
    uint32_t c[2] = {~*zip, ~*crc32c};
    ready();
#if defined(__x86_64__)
    if (n >= 256 && has_wide()) {
        unsigned char left[2][16];
        size_t k = n & ~(size_t)15;
        fold_512_both(left, c, p, k);
        c[0] = small(&g_zip, 0, left[0], 16);
        c[1] = small(&g_c, 0, left[1], 16);
        p += k;
        n -= k;
    }
#endif
    *zip = ~run(&g_zip, c[0], p, n, 1);
    *crc32c = ~run(&g_c, c[1], p, n, 1);
}

uint32_t ns_crc32_more(uint32_t crc, const void *p, size_t n)
{
    return ~run(&g_zip, ~crc, p, n, 1);
}

uint32_t ns_crc32(const void *p, size_t n)
{
    return ns_crc32_more(0, p, n);
}

uint32_t ns_crc32c(uint32_t crc, const void *p, size_t n)
{
    return ~run(&g_c, ~crc, p, n, 1);
}

uint32_t ns_crc32_plain(uint32_t crc, const void *p, size_t n)
{
    ready();
    return ~by_table(&g_zip, ~crc, p, n);
}

uint32_t ns_crc32c_plain(uint32_t crc, const void *p, size_t n)
{
    ready();
    return ~by_table(&g_c, ~crc, p, n);
}

uint32_t ns_crc_narrow(uint32_t poly, uint32_t crc, const void *p, size_t n)
{
    return ~run(poly == NS_CRC32_POLY ? &g_zip : &g_c, ~crc, p, n, 0);
}

uint32_t ns_crc_join(uint32_t poly, uint32_t a, uint32_t b, uint64_t b_bytes)
{
    const crc_poly *g = poly == NS_CRC32_POLY ? &g_zip : &g_c;
    ready();
    for (int k = 0; b_bytes; k++, b_bytes >>= 1) /* the register after b_bytes zero bytes is a * x^(8 b_bytes) */
        if (b_bytes & 1) a = multiply(g->p, g->power[k], a);
    return a ^ b;
}
