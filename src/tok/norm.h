/* Normalizer of a tokenizer: steps that change text before it is cut (data.md §6.2).
 *     NS_TRY(ns_norm_apply(&norm, &out, &al, text, n, err), "normalise");   // appends; al may be NULL */
#ifndef NS_TOK_NORM_H
#define NS_TOK_NORM_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "tok/regex.h"
#include "tok/unicode.h"

#define NS_META "\xe2\x96\x81" /* U+2581: stands for a blank in SentencePiece-style vocabularies */

typedef enum ns_norm_kind {
    NS_NORM_FORM,    /* NFC, NFD, NFKC, NFKD */
    NS_NORM_PREPEND, /* `text` in front of what is not empty */
    NS_NORM_REPLACE, /* every match of `pattern` or `re` by `text` */
    NS_NORM_STRIP    /* white space off the left, off the right */
} ns_norm_kind;
typedef struct ns_norm_step {
    ns_norm_kind kind;
    ns_form form;
    ns_str text, pattern; /* owner: the tokenizer's arena */
    ns_regex *re;
    int left, right;
} ns_norm_step;

enum { NS_NORM_MAX = 16 };
typedef struct ns_norm {
    ns_norm_step step[NS_NORM_MAX];
    int n;
} ns_norm;

/* 1 if the text is surely its own normal form. */
int ns_norm_quick(const ns_norm *norm, const uint8_t *p, size_t n);
/* Appends the normal form; al (if not NULL) gets for each byte of it the bytes of p that it came from. */
NS_MUST_USE ns_status ns_norm_apply(const ns_norm *norm, ns_buf *out, ns_spans *al, const uint8_t *p, size_t n,
                                    ns_error *err);
void ns_norm_free(ns_norm *norm);

#endif
