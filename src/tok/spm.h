/* SentencePiece model (tokenizer.model): its normaliser and its two encoders, BPE and Unigram. Ids are those of the
 * sentencepiece library. Made by spm_load.c, used by gap.c and decode.c. */
#ifndef NS_TOK_SPM_H
#define NS_TOK_SPM_H

#include <stdint.h>

#include "base/buf.h"
#include "tok/ptrie.h"
#include "tok/span.h"

typedef enum ns_spm_kind { /* as in the file */
                           NS_SPM_NORMAL = 1,
                           NS_SPM_UNKNOWN,
                           NS_SPM_CONTROL,
                           NS_SPM_USER,   /* user-defined: found in text before anything else */
                           NS_SPM_UNUSED, /* takes part in merging, but is cut again in the result */
                           NS_SPM_BYTE
} ns_spm_kind;

/* Precompiled character map: a Darts double array over UTF-8, and the replacement texts. */
typedef struct ns_spm_map {
    const uint32_t *unit;
    size_t n_units;
    const char *text; /* NUL-terminated strings */
    size_t text_n;
} ns_spm_map;

typedef struct ns_spm {
    int unigram;
    int32_t n; /* pieces */
    uint8_t *kind;
    float *score, min_score, max_score;
    int byte_fallback, has_unused;
    int32_t n_virtual;  /* BPE ids n .. n+n_virtual-1: characters that occur in pieces and are none */
    int32_t (*part)[2]; /* of an UNUSED piece: what it was joined from; -1 none. NULL without such pieces */
    int32_t unk;
    ns_str unk_surface;
    int dummy_prefix, remove_blanks, escape_blanks, suffix; /* suffix: the blank goes behind */
    ns_spm_map map;
    ns_ptrie user;   /* user-defined symbols; user.n == 0: none */
    ns_ptrie pieces; /* UNIGRAM: what may be in a result */
} ns_spm;

/* Appends the normal form and (map not NULL) the source of each byte, counted from p. */
NS_MUST_USE ns_status ns_spm_normalize(const ns_spm *sp, ns_buf *out, ns_spans *map, const uint8_t *p, size_t n,
                                       ns_error *err);
void ns_spm_free(ns_spm *sp);

#endif
