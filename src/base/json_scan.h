/* The inner loop of JSON strings, shared by json.c and json_write.c only. */
#ifndef NS_BASE_JSON_SCAN_H
#define NS_BASE_JSON_SCAN_H

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* First byte at or after p that is a quote, a backslash, a control character or not ASCII; with stop_at_del (a constant,
 * so that the test folds away) also 0x7F. */
static inline const char *ns_json_skip_plain(const char *p, const char *end, int stop_at_del)
{
#if defined(__SSE2__)
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\'), ctrl = _mm_set1_epi8(0x1f);
    for (; end - p >= 16; p += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i hit = _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, slash));
        hit = _mm_or_si128(hit, _mm_cmpeq_epi8(_mm_max_epu8(v, ctrl), ctrl));
        if (stop_at_del) hit = _mm_or_si128(hit, _mm_cmpeq_epi8(v, _mm_set1_epi8(0x7f)));
        int mask = _mm_movemask_epi8(_mm_or_si128(hit, v)); /* the top bit of v itself: not ASCII */
        if (mask) return p + __builtin_ctz((unsigned)mask);
    }
#endif
    while (p < end && (unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80 && *p != '"' && *p != '\\' &&
           !(stop_at_del && *p == 0x7f))
        p++;
    return p;
}

#endif
