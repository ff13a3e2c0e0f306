/* Byte-level BPE model: vocabulary of byte strings, ranked merges, and the encoder of one pre-token.
 *     ns_bpe m = {.ignore_merges = ...};
 *     NS_TRY(ns_bpe_init(&m, n_tokens, n_merges, err), "...");
 *     ns_bpe_add_token(&m, id, bytes, n, NS_BPE_MAPPED, &clash, err); ...   // all tokens
 *     ns_bpe_add_merge(&m, rank, left_id, right_id, new_id); ...            // ranks 0,1,...
 *     NS_TRY(ns_bpe_seal(&m, err), "...");
 *     ns_bpe_work w = {0};
 *     NS_TRY(ns_bpe_encode(&m, &w, &ids, piece, n, err), "...");            // appends
 * After seal the model is const and may be used from many threads, each with its own ns_bpe_work. */
#ifndef NS_TOK_BPE_H
#define NS_TOK_BPE_H

#include <stdint.h>

#include "base/buf.h"
#include "tok/tok.h"

enum { NS_BPE_MAX_IDS = 1 << 22 }; /* an id past this is taken for a corrupt file */

/* One vocabulary entry in one quarter of a cache line. Zeroed: empty. */
typedef struct ns_bpe_slot {
    uint64_t key; /* length <= 8: the bytes themselves; longer: hash (the bytes are compared too) */
    int32_t id1;  /* id + 1; 0: empty */
    uint16_t len; /* UINT16_MAX: at least that, see span */
    uint8_t pad;
    /* Is the token the whole result when its bytes are a pre-token? 0 not known yet, 1 yes, 2 no. Filled as pieces are
     * met; any thread finds the same answer, so relaxed stores are enough. */
    _Atomic uint8_t whole;
} ns_bpe_slot;
typedef struct ns_bpe_pair {
    uint32_t left1, right; /* left1 = left id + 1; 0: empty */
    uint32_t rank1;        /* rank + 1; 0: no such pair */
    int32_t id;
} ns_bpe_pair;
typedef struct ns_bpe_span {
    uint32_t at, len; /* len == UINT32_MAX: no such token */
} ns_bpe_span;

typedef struct ns_bpe {
    char *text; /* bytes of all tokens */
    size_t text_n, text_cap;
    ns_bpe_span *span; /* by id */
    size_t n_ids, cap_ids;
    size_t n_tokens;
    ns_bpe_slot *slots;
    uint32_t slot_bits;
    ns_bpe_pair *pairs;
    uint32_t pair_bits;
    size_t n_pairs, max_pairs, max_tokens;
    int32_t byte_id[256]; /* -1: the vocabulary lacks this byte */
    /* Set before init. by_char: words start from characters; with byte_fallback byte_id[] are the <0xNN> tokens, which
     * stand for the bytes of all other characters. */
    int by_char, byte_fallback, ignore_merges, fuse_unk;
    int32_t unk; /* -1 none */
    /* by_char: which bytes can come to stand side by side inside a token, 1 bit for each (left, right); a text may be
     * encoded part by part when cut elsewhere. NULL: nothing is known, so it may not. */
    uint64_t *joins;
} ns_bpe;

/* Work of this thread so far: looks at pairs, moves in the heap, steps of the search in a Unigram model. Tests hold it
 * against the length of the text (no clock tells whether hard texts take linear time). */
extern _Thread_local uint64_t ns_bpe_steps;

/* Scratch of one encoding call: for words too long for the stack. */
typedef struct ns_bpe_work {
    void *mem;
    size_t cap;
    uint64_t *heap;
    size_t heap_n, heap_cap;
    uint8_t *text; /* words.c: a piece with U+2581 for blanks */
    size_t text_cap;
} ns_bpe_work;

enum { NS_BPE_MAPPED, NS_BPE_LITERAL }; /* LITERAL: text outside the byte alphabet: decodes, is never found */

NS_MUST_USE ns_status ns_bpe_init(ns_bpe *m, size_t n_tokens, size_t n_merges, ns_error *err);
/* Sets the number of merges anew, before the first of them. */
NS_MUST_USE ns_status ns_bpe_size_merges(ns_bpe *m, size_t n_merges, ns_error *err);
/* *clash: -1, or the id that already has these bytes (or `id` itself if the id is taken): nothing is added then. */
NS_MUST_USE ns_status ns_bpe_add_token(ns_bpe *m, int32_t id, const char *p, size_t n, int kind, int32_t *clash,
                                       ns_error *err);
/* A repeated pair keeps the last rank. At most n_merges different pairs. */
void ns_bpe_add_merge(ns_bpe *m, uint32_t rank, int32_t left, int32_t right, int32_t id);
NS_MUST_USE ns_status ns_bpe_seal(ns_bpe *m, ns_error *err);
/* Finds `joins`, if anything is known (seal does it for models with byte_fallback). */
NS_MUST_USE ns_status ns_bpe_find_joins(ns_bpe *m, ns_error *err);
static inline int ns_bpe_joins(const ns_bpe *m, uint8_t left, uint8_t right)
{
    return !m->joins || (m->joins[left * 4 + (right >> 6)] >> (right & 63) & 1);
}
void ns_bpe_free(ns_bpe *m);

int32_t ns_bpe_find(const ns_bpe *m, const void *p, size_t n); /* -1: absent, or literal */
NS_MUST_USE ns_status ns_bpe_encode(const ns_bpe *m, ns_bpe_work *w, ns_ids *out, const uint8_t *p, size_t n,
                                    ns_error *err);
void ns_bpe_work_free(ns_bpe_work *w);
NS_MUST_USE ns_status ns_ids_push(ns_ids *ids, int32_t id, ns_error *err);

#endif
