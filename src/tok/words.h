/* The hot loop of encoding: cut text into pieces, look every piece up among the words met lately, merge what is new.
 *     NS_TRY(ns_words_encode(&t->bpe, t->serial, next, &work, &ids, p, n, err), "...");     // appends
 * next NULL: the text has no pre-tokenizer; it is cut where no merge can join (ns_bpe_joins), or not at all.
 * serial 0: the same ids without remembered words and without fast cutting: what tests compare with. */
#ifndef NS_TOK_WORDS_H
#define NS_TOK_WORDS_H

#include "tok/bpe.h"
#include "tok/split.h"

NS_MUST_USE ns_status ns_words_encode(const ns_bpe *m, uint32_t serial, ns_split_fn next, ns_bpe_work *w, ns_ids *out,
                                      const uint8_t *p, size_t n, ns_error *err);
/* A number that no other tokenizer of this process has; 0 when they are used up. */
uint32_t ns_words_serial(void);

#endif
