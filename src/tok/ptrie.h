/* Trie of byte strings with values: what of a vocabulary starts here, and how long is it.
 *     NS_TRY(ns_ptrie_init(&t, total_bytes, err), "trie");
 *     NS_TRY(ns_ptrie_add(&t, p, n, value, err), "trie"); ...
 *     for (node = 0, i = at; i < n && (node = ns_ptrie_step(&t, node, p[i])); i++) if (t.value[node] >= 0) ... p[at..i] */
#ifndef NS_TOK_PTRIE_H
#define NS_TOK_PTRIE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct ns_ptrie {
    uint64_t *key;  /* open addressing: (node << 8 | byte) + 1; 0: empty */
    uint32_t *next; /* the node behind it */
    uint32_t bits;
    int32_t *value; /* by node; -1: no string ends here */
    size_t n, cap;  /* nodes; node 0 is the root */
} ns_ptrie;

/* total_bytes: at least the sum of the lengths of all strings. */
NS_MUST_USE ns_status ns_ptrie_init(ns_ptrie *t, size_t total_bytes, ns_error *err);
/* The last value given for a string counts. */
NS_MUST_USE ns_status ns_ptrie_add(ns_ptrie *t, const char *p, size_t n, int32_t value, ns_error *err);
void ns_ptrie_free(ns_ptrie *t);

static inline size_t ns_ptrie_slot(const ns_ptrie *t, uint64_t key)
{
    size_t mask = ((size_t)1 << t->bits) - 1, i = (size_t)(key * 0x9e3779b97f4a7c15u >> (64 - t->bits));
    while (t->key[i] && t->key[i] != key) i = (i + 1) & mask;
    return i;
}
/* 0: nothing goes on this way. */
static inline uint32_t ns_ptrie_step(const ns_ptrie *t, uint32_t node, uint8_t byte)
{
    size_t i = ns_ptrie_slot(t, ((uint64_t)node << 8 | byte) + 1);
    return t->key[i] ? t->next[i] : 0;
}
/* Longest string at p[i..n): its length, 0 if none; *value its value. */
size_t ns_ptrie_longest(const ns_ptrie *t, const uint8_t *p, size_t n, size_t i, int32_t *value);

#endif
