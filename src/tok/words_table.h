/* The table of words met lately, shared by the loops that cut text (words.c, words_avx512.c) and by nobody else. */
#ifndef NS_TOK_WORDS_TABLE_H
#define NS_TOK_WORDS_TABLE_H

#include <stdint.h>

#include "tok/words.h"

enum { WORD_LINE_BITS = 15, WORD_MAX = 15, WORD_IDS = 3 };

typedef struct word {
    uint64_t lo, hi;      /* the bytes, zeros behind; the 16th is their number */
    int32_t id[WORD_IDS]; /* copied as one block of 16 bytes with the tag */
    uint32_t tag;         /* serial << 2 | number of ids; 0: empty */
} word;
_Static_assert(sizeof(word) == 32, "two words a cache line");

extern _Thread_local _Alignas(64) word ns_word_lines[1 << WORD_LINE_BITS][2];

/* The cache line where the word is, if it is known. */
static inline word *word_line(uint64_t lo, uint64_t hi)
{
    uint64_t a = (lo ^ 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;
    uint64_t b = (hi ^ 0xc2b2ae3d27d4eb4fu) * 0x9fb21c651e98df25u;
    uint64_t h = (a ^ (b >> 32 | b << 32)) * 0x9e3779b97f4a7c15u;
    return ns_word_lines[h >> (64 - WORD_LINE_BITS)];
}

static inline int word_is(const word *x, uint64_t lo, uint64_t hi, uint32_t serial)
{
    return !((x->lo ^ lo) | (x->hi ^ hi) | ((x->tag >> 2) ^ serial));
}

/* One call of encoding. */
typedef struct word_call {
    const ns_words *t;
    ns_bpe_work *w;
    ns_ids *out;
} word_call;

/* A piece that is not in the table: merged, and remembered. k: its key, if it has one (n <= WORD_MAX), and `at` its line. */
NS_MUST_USE ns_status ns_words_meet(const word_call *c, const uint8_t *p, size_t n, const word *k, word *at,
                                    ns_error *err);
/* Room for n ids and a block of 16 bytes. */
NS_MUST_USE ns_status ns_words_room(ns_ids *out, size_t n, ns_error *err);

extern int ns_words_avx512_off; /* tests: take the loops for every processor */
/* The text piece by piece, in blocks of 64 bytes. `*done` 0: this pattern or this processor has no such loop. */
NS_MUST_USE ns_status ns_words_avx512(const word_call *c, const uint8_t *p, size_t n, int *done, ns_error *err);

/* Length of the piece at i, by the scanner or by the borders that no merge crosses. */
static inline size_t word_cut(const ns_words *t, const uint8_t *p, size_t n, size_t i)
{
    if (t->next) return t->next(p, n, i);
    do i++;
    while (i < n && ns_words_joined(t, p[i - 1], p[i]));
    return i;
}

#endif
