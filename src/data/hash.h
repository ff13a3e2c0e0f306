/* 128-bit content hash and a set of such hashes, for exact-text deduplication of millions of rows in 32 bytes a row.
 * Not cryptographic: collisions of ordinary data are as likely as random ones (about n^2 / 2^129). */
#ifndef NS_DATA_HASH_H
#define NS_DATA_HASH_H

#include <stdint.h>
#include <string.h>

#include "base/mem.h"

typedef struct ns_hash {
    uint64_t v[2];
} ns_hash;

static inline uint64_t ns_hash_mix(uint64_t a, uint64_t b)
{
    unsigned __int128 m = (unsigned __int128)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

/* Chains: pass the hash of the first part as `from` for the second; {0, 0} to begin. */
static inline ns_hash ns_hash_bytes(ns_hash from, const void *p, size_t n)
{
    const unsigned char *q = p;
    uint64_t a = from.v[0] ^ 0xa0761d6478bd642fu ^ n, b = from.v[1] ^ 0xe7037ed1a0b428dbu;
    for (size_t i = 0; i < n; i += 16) {
        uint64_t w[2] = {0, 0};
        if (n - i >= 16) {
            memcpy(w, q + i, 16);
        } else {
            memcpy(w, q + i, n - i);
        }
        uint64_t x = ns_hash_mix(a ^ w[0] ^ 0x8ebc6af09c88c6e3u, b ^ w[1] ^ 0x589965cc75374cc3u);
        b = ns_hash_mix(b ^ w[0] ^ 0x1d8e4e27c47d124fu, a + w[1] + 0x9e3779b97f4a7c15u) + 1;
        a = x + n;
    }
    ns_hash h = {{ns_hash_mix(a ^ 0xeb44accab455d165u, b ^ 0x2127599bf4325c37u),
                  ns_hash_mix(b ^ 0x880355f21e6d1965u, a ^ 0xa0761d6478bd642fu)}};
    return h;
}

typedef struct ns_hash_set {
    ns_hash *slot; /* {0,0} is free */
    size_t cap, n;
} ns_hash_set;

static inline void ns_hash_set_free(ns_hash_set *s)
{
    ns_free(s->slot);
    *s = (ns_hash_set){0};
}

static inline int ns_hash_set_has(const ns_hash_set *s, ns_hash h)
{
    if (!s->cap) return 0;
    if (!h.v[0] && !h.v[1]) h.v[0] = 1;
    for (size_t k = (size_t)h.v[0] & (s->cap - 1); s->slot[k].v[0] || s->slot[k].v[1]; k = (k + 1) & (s->cap - 1))
        if (s->slot[k].v[0] == h.v[0] && s->slot[k].v[1] == h.v[1]) return 1;
    return 0;
}

/* *is_new = 1 when h was not in the set. */
NS_MUST_USE static inline ns_status ns_hash_set_add(ns_hash_set *s, ns_hash h, int *is_new, ns_error *err)
{
    if (!h.v[0] && !h.v[1]) h.v[0] = 1;
    if ((s->n + 1) * 3 > s->cap * 2) {
        size_t cap = s->cap ? s->cap * 2 : 1024;
        ns_hash *grown = NULL;
        NS_TRY(ns_alloc((void **)&grown, cap * sizeof *grown, "hash_set", err), "hash set");
        for (size_t i = 0; i < s->cap; i++) {
            if (!s->slot[i].v[0] && !s->slot[i].v[1]) continue;
            size_t k = (size_t)s->slot[i].v[0] & (cap - 1);
            while (grown[k].v[0] || grown[k].v[1]) k = (k + 1) & (cap - 1);
            grown[k] = s->slot[i];
        }
        ns_free(s->slot);
        s->slot = grown;
        s->cap = cap;
    }
    size_t k = (size_t)h.v[0] & (s->cap - 1);
    while (s->slot[k].v[0] || s->slot[k].v[1]) {
        if (s->slot[k].v[0] == h.v[0] && s->slot[k].v[1] == h.v[1]) {
            *is_new = 0;
            return NS_OK;
        }
        k = (k + 1) & (s->cap - 1);
    }
    s->slot[k] = h;
    s->n++;
    *is_new = 1;
    return NS_OK;
}

#endif
