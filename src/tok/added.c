/* Search for added tokens (data.md §6.2). The order of events is that of the Hugging Face library, whose corner cases are
 * part of the result: matches never overlap; a match that is refused (inside a word, or special while special text is
 * off) is stepped over whole; blanks swallowed by rstrip may hold the start of the next match, which then still counts. */
#include "tok/added.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tok/unicode.h"

static ns_status insert(ns_trie *t, const uint8_t *p, size_t n, int32_t token, ns_error *err)
{
    NS_TRY(ns_grow((void **)&t->node, &t->cap, t->n + n + 1, sizeof *t->node, "tok.added", err), "grow");
    if (!t->n) t->n = 1; /* node 0 stands for "none" */
    int32_t *link = &t->root[p[0]], at = 0;
    if (!*link) {
        t->n_first++;
        t->first = p[0];
    }
    for (size_t i = 0; i < n; i++) {
        for (at = *link; at && t->node[at].byte != p[i];) at = t->node[at].sibling;
        if (!at) {
            at = (int32_t)t->n++;
            t->node[at] = (ns_trie_node){0, *link, 0, p[i]};
            *link = at;
        }
        link = &t->node[at].child;
    }
    if (!t->node[at].token) t->node[at].token = token;
    return NS_OK;
}

static int by_id(const void *a, const void *b)
{
    int32_t x = ((const ns_added *)a)->id, y = ((const ns_added *)b)->id;
    return (x > y) - (x < y);
}

ns_status ns_added_seal(ns_added_set *a, const ns_norm *norm, ns_error *err)
{
    ns_buf text = {0};
    ns_status st = NS_OK;
    if (a->n) qsort(a->v, a->n, sizeof *a->v, by_id);
    for (size_t i = 0; i < a->n; i++) {
        const ns_added *t = &a->v[i];
        if (!t->content.n || t->unseen) continue;
        ns_buf_clear(&text);
        if (t->normalized)
            NS_CHECK(st, ns_norm_apply(norm, &text, NULL, (const uint8_t *)t->content.p, t->content.n, err),
                     "added token");
        else
            NS_CHECK(st, ns_buf_add(&text, t->content.p, t->content.n, err), "added token");
        NS_CHECK(st,
                 insert(&a->trie[t->normalized ? NS_ADDED_NORMALIZED : NS_ADDED_RAW], (const uint8_t *)text.data,
                        text.len, (int32_t)i + 1, err),
                 "added token");
    }
done:
    ns_buf_free(&text);
    return st;
}

/* Longest token that starts at p[i], as index + 1; 0 if none. */
static int32_t longest(const ns_trie *t, const uint8_t *p, size_t n, size_t i, size_t *end)
{
    int32_t best = 0;
    for (int32_t at = t->root[p[i]]; at;) {
        i++;
        if (t->node[at].token) {
            best = t->node[at].token;
            *end = i;
        }
        at = t->node[at].child;
        while (at && (i >= n || t->node[at].byte != p[i])) at = i >= n ? 0 : t->node[at].sibling;
    }
    return best;
}

static int word_before(const uint8_t *p, size_t i)
{
    size_t len;
    return i > 0 && (ns_uni_class(ns_utf8_at(p, ns_utf8_back(p, i), &len)) & NS_UC_WORD);
}
static int word_after(const uint8_t *p, size_t n, size_t i)
{
    size_t len;
    return i < n && (ns_uni_class(ns_utf8_at(p, i, &len)) & NS_UC_WORD);
}

const ns_added *ns_added_next(const ns_added_set *a, int which, ns_added_scan *s, int no_special)
{
    const ns_trie *t = &a->trie[which];
    const uint8_t *p = s->p;
    size_t len;
    s->gap = s->next_gap;
    while (t->n_first && s->at < s->n) {
        size_t i = s->at, end = 0;
        if (t->n_first == 1) {
            const uint8_t *f = memchr(p + i, t->first, s->n - i);
            i = f ? (size_t)(f - p) : s->n;
        } else
            while (i < s->n && !t->root[p[i]]) i++;
        if (i == s->n) break;
        int32_t hit = longest(t, p, s->n, i, &end);
        if (!hit) {
            s->at = i + 1;
            continue;
        }
        s->at = end;
        const ns_added *tok = &a->v[hit - 1];
        if (no_special && tok->special) continue;
        if (tok->single_word && (word_before(p, i) || word_after(p, s->n, end))) continue;
        if (tok->lstrip)
            while (i > s->gap) {
                size_t b = ns_utf8_back(p, i);
                if (!(ns_uni_class(ns_utf8_at(p, b, &len)) & NS_UC_S)) break;
                i = b;
            }
        if (tok->rstrip)
            while (end < s->n && (ns_uni_class(ns_utf8_at(p, end, &len)) & NS_UC_S)) end += len;
        s->start = i > s->gap ? i : s->gap;
        s->next_gap = end;
        return tok;
    }
    s->at = s->n;
    return NULL;
}

const ns_added *ns_added_by_id(const ns_added_set *a, int32_t id)
{
    if (!a->n || id < a->v[0].id || id > a->v[a->n - 1].id) return NULL;
    size_t lo = 0, hi = a->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (a->v[mid].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return a->v[lo].id == id ? &a->v[lo] : NULL;
}

const ns_added *ns_added_by_text(const ns_added_set *a, const char *p, size_t n)
{
    for (size_t i = 0; i < a->n; i++)
        if (a->v[i].content.n == n && !memcmp(a->v[i].content.p, p, n)) return &a->v[i];
    return NULL;
}

void ns_added_free(ns_added_set *a)
{
    ns_free(a->v);
    ns_free(a->trie[0].node);
    ns_free(a->trie[1].node);
    memset(a, 0, sizeof *a);
}
