/* CRC-32C: the SSE4.2 instruction where the processor has it, else eight table look-ups per eight bytes ("slicing by 8",
 * Kounavis and Berry 2005). */
#include "base/crc32c.h"

#include <pthread.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

static uint32_t g_table[8][256];
static pthread_once_t g_once = PTHREAD_ONCE_INIT;

static void fill_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = (c >> 1) ^ (c & 1 ? 0x82f63b78u : 0);
        g_table[0][i] = c;
    }
    for (int t = 1; t < 8; t++)
        for (int i = 0; i < 256; i++) g_table[t][i] = (g_table[t - 1][i] >> 8) ^ g_table[0][g_table[t - 1][i] & 0xff];
}

uint32_t ns_crc32c_plain(uint32_t crc, const void *p, size_t n)
{
    pthread_once(&g_once, fill_tables);
    const unsigned char *q = p;
    uint32_t c = ~crc;
    for (; n >= 8; n -= 8, q += 8) {
        uint32_t lo = c ^ ((uint32_t)q[0] | (uint32_t)q[1] << 8 | (uint32_t)q[2] << 16 | (uint32_t)q[3] << 24);
        c = g_table[7][lo & 0xff] ^ g_table[6][lo >> 8 & 0xff] ^ g_table[5][lo >> 16 & 0xff] ^ g_table[4][lo >> 24] ^
            g_table[3][q[4]] ^ g_table[2][q[5]] ^ g_table[1][q[6]] ^ g_table[0][q[7]];
    }
    for (; n > 0; n--, q++) c = (c >> 8) ^ g_table[0][(c ^ *q) & 0xff];
    return ~c;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t crc, const unsigned char *q, size_t n)
{
    uint64_t c = (uint32_t)~crc, word;
    for (; n >= 8; n -= 8, q += 8) {
        memcpy(&word, q, 8);
        c = _mm_crc32_u64(c, word);
    }
    for (; n > 0; n--, q++) c = _mm_crc32_u8((uint32_t)c, *q);
    return ~(uint32_t)c;
}
#endif

uint32_t ns_crc32c(uint32_t crc, const void *p, size_t n)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return crc_sse42(crc, p, n);
#endif
    return ns_crc32c_plain(crc, p, n);
}
