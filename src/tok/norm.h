/* Normalizer of a tokenizer: what is done to each gap between added tokens before it is cut (data.md §6.2).
 *     NS_TRY(ns_norm_apply(&norm, &out, text, n, err), "normalise");   // appends */
#ifndef NS_TOK_NORM_H
#define NS_TOK_NORM_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

#define NS_META "\xe2\x96\x81" /* U+2581: stands for a blank in SentencePiece-style vocabularies */

typedef struct ns_norm {
    int nfc;
    int prepend, replace; /* SentencePiece style: U+2581 in front of a text that is not empty; for every blank */
} ns_norm;

/* 1 if the text is surely its own normal form. */
int ns_norm_quick(const ns_norm *norm, const uint8_t *p, size_t n);
NS_MUST_USE ns_status ns_norm_apply(const ns_norm *norm, ns_buf *out, const uint8_t *p, size_t n, ns_error *err);

#endif
