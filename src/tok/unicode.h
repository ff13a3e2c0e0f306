/* Unicode properties and UTF-8 stepping for the tokenizers. The data is generated (dev/gen_unicode.py) into
 * unicode_tables.c: two-level tables with blocks of 128 code points, so block 0 is the ASCII table.
 *     size_t len;
 *     uint32_t c = ns_utf8_at(p, i, &len);              // p holds valid UTF-8
 *     if (ns_uni_class(c) & NS_UC_L) ...                 // \p{L}
 *     NS_TRY(ns_nfc(&out, text, n, err), "normalise");   // appends the NFC form */
#ifndef NS_TOK_UNICODE_H
#define NS_TOK_UNICODE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "tok/span.h"

enum {
    NS_UC_L = 1,     /* \p{L} */
    NS_UC_N = 2,     /* \p{N} */
    NS_UC_S = 4,     /* \s: White_Space */
    NS_UC_UPPER = 8, /* Lu Lt Lm Lo M */
    NS_UC_LOWER = 16 /* Ll Lm Lo M */,
    NS_UC_WORD = 32, /* \w: Alphabetic, M, Nd, Pc, Join_Control */
    NS_UC_CRLF = 64
};

typedef struct ns_uni_decomp {
    uint32_t cp, at; /* at = offset in ns_uni_decomp_pool * 32 + length */
} ns_uni_decomp;
typedef struct ns_uni_comp {
    uint32_t first, second, composed;
} ns_uni_comp;

extern const char ns_uni_version[];
extern const uint32_t ns_uni_class_last, ns_uni_ccc_last, ns_uni_qc_last;
extern const uint32_t ns_uni_n_decomp, ns_uni_n_compat, ns_uni_n_comp;
extern const uint8_t ns_uni_class_index[], ns_uni_class_block[], ns_uni_ccc_index[], ns_uni_ccc_block[];
extern const uint8_t ns_uni_qc_index[], ns_uni_qc_block[];
extern const uint32_t ns_uni_decomp_pool[];
extern const ns_uni_decomp ns_uni_decomps[], ns_uni_compats[];
extern const ns_uni_comp ns_uni_comps[];

/* The trailing equal entries of an index are cut: everything past `last` has the last block. */
static inline uint8_t ns_uni_class(uint32_t c)
{
    uint32_t b = c >> 7;
    return ns_uni_class_block[(size_t)ns_uni_class_index[b < ns_uni_class_last ? b : ns_uni_class_last] * 128 +
                              (c & 127)];
}
static inline uint8_t ns_uni_ccc(uint32_t c)
{
    uint32_t b = c >> 7;
    return ns_uni_ccc_block[(size_t)ns_uni_ccc_index[b < ns_uni_ccc_last ? b : ns_uni_ccc_last] * 128 + (c & 127)];
}
static inline uint8_t ns_uni_qc(uint32_t c)
{
    uint32_t b = c >> 7;
    return ns_uni_qc_block[(size_t)ns_uni_qc_index[b < ns_uni_qc_last ? b : ns_uni_qc_last] * 128 + (c & 127)];
}

/* The character that starts at p[i]; *len is 1..4. Valid UTF-8 only (ns_utf8_check first). */
static inline uint32_t ns_utf8_at(const uint8_t *p, size_t i, size_t *len)
{
    uint32_t c = p[i];
    if (c < 0x80) {
        *len = 1;
        return c;
    }
    if (c < 0xe0) {
        *len = 2;
        return (c & 31) << 6 | (p[i + 1] & 63u);
    }
    if (c < 0xf0) {
        *len = 3;
        return (c & 15) << 12 | (p[i + 1] & 63u) << 6 | (p[i + 2] & 63u);
    }
    *len = 4;
    return (c & 7) << 18 | (p[i + 1] & 63u) << 12 | (p[i + 2] & 63u) << 6 | (p[i + 3] & 63u);
}
/* Start of the character that ends just before p[i] (i > 0). */
static inline size_t ns_utf8_back(const uint8_t *p, size_t i)
{
    do i--;
    while (i > 0 && (p[i] & 0xc0) == 0x80);
    return i;
}
/* Offset of the first byte that is not well-formed UTF-8 (surrogates and overlong forms are not), or n. */
size_t ns_utf8_check(const uint8_t *p, size_t n);
/* Appends the text with U+FFFD for each ill-formed sequence, as Hugging Face and Python (errors="replace") do. */
NS_MUST_USE ns_status ns_utf8_repair(ns_buf *out, const uint8_t *p, size_t n, ns_error *err);
/* Writes c (at most 0x10ffff) to out; returns 1..4. */
size_t ns_utf8_put(uint8_t out[4], uint32_t c);

typedef enum ns_form { NS_NFC, NS_NFD, NS_NFKC, NS_NFKD } ns_form;
/* 1 if text is surely in the form already; 0 if ns_normalize must look closer. */
int ns_form_quick(ns_form form, const uint8_t *p, size_t n);
/* Appends the form of valid UTF-8 text, and (al not NULL) where each byte came from, counted from p. */
NS_MUST_USE ns_status ns_normalize(ns_form form, ns_buf *out, ns_spans *al, const uint8_t *p, size_t n, ns_error *err);
static inline int ns_nfc_quick(const uint8_t *p, size_t n)
{
    return ns_form_quick(NS_NFC, p, n);
}
NS_MUST_USE static inline ns_status ns_nfc(ns_buf *out, const uint8_t *p, size_t n, ns_error *err)
{
    return ns_normalize(NS_NFC, out, NULL, p, n, err);
}

#endif
