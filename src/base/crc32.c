/* CRC-32 of zip and PNG (polynomial 0xEDB88320, reflected): 64 bytes a step by carry-less multiplication where the processor has it
 * (Gopal et al., "Fast CRC Computation Using PCLMULQDQ", Intel 2009), else eight table look-ups per eight bytes. And the CRC of
 * two runs from the CRCs of each: what threads that write parts of a file leave behind becomes the CRC of the file. */
#include "base/crc32.h"

#include <pthread.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

static uint32_t table[8][256];

static void make_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ NS_CRC32_POLY : c >> 1;
        table[0][i] = c;
    }
    for (int j = 1; j < 8; j++)
        for (uint32_t i = 0; i < 256; i++) table[j][i] = table[j - 1][i] >> 8 ^ table[0][table[j - 1][i] & 255];
}

/* On the inverted register. */
static uint32_t by_table(uint32_t c, const unsigned char *p, size_t n)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_table);
    for (; n >= 8; n -= 8, p += 8) {
        c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        c = table[7][c & 255] ^ table[6][c >> 8 & 255] ^ table[5][c >> 16 & 255] ^ table[4][c >> 24] ^ table[3][p[4]] ^
            table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    while (n--) c = c >> 8 ^ table[0][(c ^ *p++) & 255];
    return c;
}

#if defined(__x86_64__)
#define FOLD(x, k, next) \
    _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128((x), (k), 0x00), _mm_clmulepi64_si128((x), (k), 0x11)), (next))
#define LOAD(q) _mm_loadu_si128((const __m128i *)(const void *)(q))

/* n: a multiple of 16, at least 64. The constants are x^(512+64), x^512, x^(128+64), x^128, x^64 mod P, and P with its Barrett
 * quotient, all reflected. */
__attribute__((target("pclmul,sse4.1"))) static uint32_t by_clmul(uint32_t c, const unsigned char *p, size_t n)
{
    const __m128i k12 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4), k34 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0),
                  k5 = _mm_set_epi64x(0, 0x0163cd6124), poly = _mm_set_epi64x(0x01f7011641, 0x01db710641),
                  low = _mm_setr_epi32(-1, 0, -1, 0);
    __m128i a = _mm_xor_si128(LOAD(p), _mm_cvtsi32_si128((int)c)), b = LOAD(p + 16), d = LOAD(p + 32), e = LOAD(p + 48);
    for (p += 64, n -= 64; n >= 64; p += 64, n -= 64) {
        a = FOLD(a, k12, LOAD(p));
        b = FOLD(b, k12, LOAD(p + 16));
        d = FOLD(d, k12, LOAD(p + 32));
        e = FOLD(e, k12, LOAD(p + 48));
    }
    a = FOLD(a, k34, b);
    a = FOLD(a, k34, d);
    a = FOLD(a, k34, e);
    for (; n >= 16; p += 16, n -= 16) a = FOLD(a, k34, LOAD(p));
    a = _mm_xor_si128(_mm_srli_si128(a, 8), _mm_clmulepi64_si128(a, k34, 0x10)); /* 128 bits to 96 */
    a = _mm_xor_si128(_mm_srli_si128(a, 4), _mm_clmulepi64_si128(_mm_and_si128(a, low), k5, 0x00));
    b = _mm_clmulepi64_si128(_mm_and_si128(a, low), poly, 0x10); /* 64 to 32: Barrett */
    b = _mm_clmulepi64_si128(_mm_and_si128(b, low), poly, 0x00);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(a, b), 1);
}
#endif

uint32_t ns_crc32_plain(uint32_t crc, const void *data, size_t n)
{
    return ~by_table(~crc, data, n);
}

uint32_t ns_crc32_more(uint32_t crc, const void *data, size_t n)
{
    const unsigned char *p = data;
    uint32_t c = ~crc;
#if defined(__x86_64__)
    if (n >= 64 && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1")) {
        size_t k = n & ~(size_t)15;
        c = by_clmul(c, p, k);
        p += k;
        n -= k;
    }
#endif
    return ~by_table(c, p, n);
}

uint32_t ns_crc32(const void *p, size_t n)
{
    return ns_crc32_more(0, p, n);
}

/* a * b mod P; bit 31 is x^0. */
static uint32_t multiply(uint32_t poly, uint32_t a, uint32_t b)
{
    uint32_t r = 0;
    for (uint32_t m = 1u << 31; m; m >>= 1) {
        if (a & m) r ^= b;
        b = b & 1 ? b >> 1 ^ poly : b >> 1;
    }
    return r;
}

uint32_t ns_crc_join(uint32_t poly, uint32_t a, uint32_t b, uint64_t b_bytes)
{
    uint32_t power = 1u << 23,
             shift = 1u << 31; /* x^8 and 1: the register after b_bytes zero bytes is a * x^(8 b_bytes) */
    for (; b_bytes; b_bytes >>= 1) {
        if (b_bytes & 1) shift = multiply(poly, shift, power);
        power = multiply(poly, power, power);
    }
    return multiply(poly, shift, a) ^ b;
}
