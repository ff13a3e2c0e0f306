/* A trie as one hash table of steps: 12 bytes a step at most half full, and no walk along siblings. */
#include "tok/ptrie.h"

#include <string.h>

#include "base/mem.h"

ns_status ns_ptrie_init(ns_ptrie *t, size_t total_bytes, ns_error *err)
{
    NS_FAIL_IF(total_bytes > UINT32_MAX / 4, NS_ERR_INPUT, "vocabulary text of %zu bytes is too long", total_bytes);
    for (t->bits = 6; ((size_t)1 << t->bits) < 2 * total_bytes + 2;) t->bits++;
    NS_TRY(ns_alloc((void **)&t->key, sizeof *t->key << t->bits, "tok.trie", err), "trie");
    NS_TRY(ns_alloc((void **)&t->next, sizeof *t->next << t->bits, "tok.trie", err), "trie");
    NS_TRY(ns_grow((void **)&t->value, &t->cap, total_bytes + 1, sizeof *t->value, "tok.trie", err), "trie");
    t->value[0] = -1;
    t->n = 1;
    return NS_OK;
}

ns_status ns_ptrie_add(ns_ptrie *t, const char *p, size_t n, int32_t value, ns_error *err)
{
    uint32_t node = 0;
    NS_FAIL_IF(t->n + n > t->cap, NS_ERR_INTERNAL, "trie made for fewer bytes");
    for (size_t k = 0; k < n; k++) {
        uint64_t key = ((uint64_t)node << 8 | (uint8_t)p[k]) + 1;
        size_t i = ns_ptrie_slot(t, key);
        if (!t->key[i]) {
            t->key[i] = key;
            t->next[i] = (uint32_t)t->n;
            t->value[t->n++] = -1;
        }
        node = t->next[i];
    }
    if (n) t->value[node] = value;
    return NS_OK;
}

size_t ns_ptrie_longest(const ns_ptrie *t, const uint8_t *p, size_t n, size_t i, int32_t *value)
{
    size_t start = i, best = 0;
    for (uint32_t node = 0; i < n && (node = ns_ptrie_step(t, node, p[i]));) {
        i++;
        if (t->value[node] < 0) continue;
        best = i - start;
        *value = t->value[node];
    }
    return best;
}

void ns_ptrie_free(ns_ptrie *t)
{
    ns_free(t->key);
    ns_free(t->next);
    ns_free(t->value);
    memset(t, 0, sizeof *t);
}
