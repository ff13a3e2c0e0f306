/* The hot loop of encoding: cut text into pieces, look every piece up among the words met lately, merge what is new.
 *     ns_words x = {.bpe = &t->bpe, .serial = ns_words_serial(), .next = ns_split_llama3};
 *     NS_TRY(ns_words_encode(&x, &work, &ids, p, n, err), "...");     // appends
 * next NULL: the text has no pre-tokenizer; it is cut where no merge can join (joins), or not at all.
 * serial 0: the same ids without remembered words and without fast cutting: what tests compare with. */
#ifndef NS_TOK_WORDS_H
#define NS_TOK_WORDS_H

#include "tok/bpe.h"
#include "tok/split.h"

typedef struct ns_words {
    const ns_bpe *bpe;
    uint32_t serial;
    ns_split_fn next;
    /* Which bytes of the text may be joined by a merge, 1 bit for each (left, right); NULL: nothing is known. */
    const uint64_t *joins;
    /* The text is written with blanks where the vocabulary has U+2581 (`joins` speaks of that text, too); prefix: a blank
     * goes in front of it. */
    int blanks, prefix;
} ns_words;

static inline int ns_words_joined(const ns_words *t, uint8_t left, uint8_t right)
{
    return !t->joins || (t->joins[left * 4 + (right >> 6)] >> (right & 63) & 1);
}

NS_MUST_USE ns_status ns_words_encode(const ns_words *t, ns_bpe_work *w, ns_ids *out, const uint8_t *p, size_t n,
                                      ns_error *err);
/* joins[256 * 4] for text with blanks, from what the model knows (bpe.h; it may know nothing) and from marks_apart (no merge
 * joins something with a U+2581 behind it). 0: nothing is known of either kind. */
int ns_words_blank_joins(uint64_t *joins, const ns_bpe *m, int marks_apart);
/* A number that no other tokenizer of this process has; 0 when they are used up. */
uint32_t ns_words_serial(void);

#endif
