/* Added tokens: strings that are cut out of the text before splitting ("<|eot_id|>"), found leftmost, longest at that place,
 * over one of two tries: those matched in the raw text and those matched in normalised text.
 *     ns_added_scan s = {.p = text, .n = n};
 *     while ((hit = ns_added_next(&set, NS_ADDED_RAW, &s, no_special))) { gap [s.gap, s.start), then the token hit->id }
 *     last gap [s.gap, n)                                                                                        */
#ifndef NS_TOK_ADDED_H
#define NS_TOK_ADDED_H

#include <stdint.h>

#include "base/buf.h"
#include "tok/norm.h"

typedef struct ns_added {
    int32_t id;
    ns_str content; /* as written; owner: the tokenizer's arena */
    ns_str shown;   /* what it decodes to, before the steps of the decoder */
    uint8_t single_word, lstrip, rstrip, normalized, special;
    uint8_t unseen; /* never found in text (SentencePiece control pieces) */
} ns_added;

typedef struct ns_trie_node {
    int32_t child, sibling; /* 0: none */
    int32_t token;          /* index into the set + 1; 0: none */
    uint8_t byte;
} ns_trie_node;

typedef struct ns_trie {
    ns_trie_node *node; /* node 0 is unused */
    size_t n, cap;
    int32_t root[256];
    int n_first, first; /* how many different first bytes, and one of them */
} ns_trie;

enum { NS_ADDED_RAW, NS_ADDED_NORMALIZED };

typedef struct ns_added_set {
    ns_added *v; /* sorted by id once sealed */
    size_t n, cap;
    ns_trie trie[2];
} ns_added_set;

typedef struct ns_added_scan {
    const uint8_t *p;
    size_t n;
    size_t at;         /* where to look on */
    size_t gap, start; /* Out: text before the hit */
    size_t next_gap;   /* end of the hit with the blanks that it swallowed */
} ns_added_scan;

/* Sorts by id and builds both tries; a token's text is normalised for the second one. */
NS_MUST_USE ns_status ns_added_seal(ns_added_set *a, const ns_norm *norm, ns_error *err);
/* The next token or NULL. no_special: special tokens are stepped over as plain text. */
const ns_added *ns_added_next(const ns_added_set *a, int which, ns_added_scan *s, int no_special);
const ns_added *ns_added_by_id(const ns_added_set *a, int32_t id);                /* after seal */
const ns_added *ns_added_by_text(const ns_added_set *a, const char *p, size_t n); /* linear */
void ns_added_free(ns_added_set *a);

#endif
