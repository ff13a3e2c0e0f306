/* Byte-pair encoding of one pre-token: start from bytes, then repeatedly join the adjacent pair of lowest rank, leftmost
 * among equals, until no listed pair is left (data.md §6.2).
 *
 * Three ways to the same result. Short words keep ids and pair ranks in small arrays and look for the minimum each time.
 * Long words keep a linked list and a heap of (rank, position): O(n log n), so a megabyte of one letter is no trap. A
 * heap entry is stale when the rank now stored at its position differs; positions only ever merge, so an equal rank means
 * the same pair. The pairs that are there from the start are sorted once and read in turn; the heap has the later ones.
 * Long words that are a few runs of one character (blanks, lines of dashes) stay such runs, and a merge is done for all of a
 * run.
 *
 * Tables: open addressing with linear probing. Pieces that are one token (most of ordinary text) are answered from their
 * vocabulary slot alone: short tokens keep their bytes in it, and `whole` (bpe.h) remembers that merging leads there. */
#include "tok/bpe.h"

#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "tok/unicode.h"

enum { SHORT = 96 };       /* symbols: above this the heap wins */
#define NO_RANK UINT32_MAX /* = rank1 - 1 of an absent pair */

_Thread_local uint64_t ns_bpe_steps;

/* ---- hashing ---- */
static inline uint64_t mix(uint64_t a, uint64_t b)
{
    a = (a ^ 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;
    b = (b ^ 0xc2b2ae3d27d4eb4fu) * 0x9fb21c651e98df25u;
    uint64_t x = a ^ (b << 31 | b >> 33);
    x ^= x >> 32;
    x *= 0x9e3779b97f4a7c15u;
    return x ^ x >> 29;
}
static inline uint64_t load64(const uint8_t *p)
{
    uint64_t w;
    memcpy(&w, p, 8);
    return w;
}
/* n > 8 */
static inline uint64_t hash_long(const uint8_t *p, size_t n)
{
    uint64_t h = n;
    size_t i = 0;
    for (; i + 16 < n; i += 8) h = mix(h, load64(p + i));
    return mix(h ^ load64(p + i), load64(p + n - 8));
}

/* Bits of a table that n entries fill to three quarters at most. */
static uint32_t bits_for(size_t n)
{
    uint32_t bits = 6;
    while (((size_t)3 << bits) / 4 < n) bits++;
    return bits;
}

/* ---- building ---- */
ns_status ns_bpe_init(ns_bpe *m, size_t n_tokens, size_t n_merges, ns_error *err)
{
    NS_FAIL_IF(n_tokens > NS_BPE_MAX_IDS || n_merges > UINT32_MAX / 2, NS_ERR_INPUT,
               "%zu tokens and %zu merges are too many", n_tokens, n_merges);
    m->slot_bits = bits_for(n_tokens);
    m->pair_bits = bits_for(n_merges);
    m->max_tokens = n_tokens;
    m->max_pairs = n_merges;
    m->unk = -1;
    NS_TRY(ns_alloc((void **)&m->slots, sizeof *m->slots << m->slot_bits, "tok.vocab", err), "vocabulary table");
    NS_TRY(ns_alloc((void **)&m->pairs, sizeof *m->pairs << m->pair_bits, "tok.merges", err), "merge table");
    NS_TRY(ns_grow((void **)&m->span, &m->cap_ids, n_tokens + 1, sizeof *m->span, "tok.vocab", err), "token table");
    return NS_OK;
}

ns_status ns_bpe_size_merges(ns_bpe *m, size_t n_merges, ns_error *err)
{
    NS_ASSERT(!m->n_pairs);
    NS_FAIL_IF(n_merges > UINT32_MAX / 2, NS_ERR_INPUT, "%zu merges are too many", n_merges);
    ns_free(m->pairs);
    m->pairs = NULL;
    m->pair_bits = bits_for(n_merges);
    m->max_pairs = n_merges;
    return ns_alloc((void **)&m->pairs, sizeof *m->pairs << m->pair_bits, "tok.merges", err);
}

/* The bytes as one word when there are at most 8 of them; reads nothing outside p[0..n). */
static inline uint64_t short_key(const uint8_t *p, size_t n)
{
    uint64_t k = 0;
    if (n == 8) return load64(p);
    if (n >= 4) {
        uint32_t x, y;
        memcpy(&x, p, 4);
        memcpy(&y, p + n - 4, 4);
        return x | (uint64_t)y << (8 * (n - 4));
    }
    if (n) k = p[0];
    if (n > 1) k |= (uint64_t)p[1] << 8;
    if (n > 2) k |= (uint64_t)p[2] << 16;
    return k;
}

/* The slot of these bytes, or the empty one where they would go. */
static ns_bpe_slot *slot_of(const ns_bpe *m, const uint8_t *p, size_t n, uint64_t *key)
{
    size_t mask = ((size_t)1 << m->slot_bits) - 1, i;
    if (n <= 8) {
        uint64_t k = *key = short_key(p, n);
        for (i = mix(k, n) & mask;; i = (i + 1) & mask) {
            ns_bpe_slot *s = &m->slots[i];
            if ((s->key == k && s->len == n) || !s->id1) return s;
        }
    }
    uint64_t k = *key = hash_long(p, n);
    uint16_t len = n < UINT16_MAX ? (uint16_t)n : UINT16_MAX;
    for (i = k & mask;; i = (i + 1) & mask) {
        ns_bpe_slot *s = &m->slots[i];
        if (!s->id1) return s;
        if (s->key != k || s->len != len) continue;
        ns_bpe_span t = m->span[s->id1 - 1];
        if (t.len == n && !memcmp(m->text + t.at, p, n)) return s;
    }
}

ns_status ns_bpe_add_token(ns_bpe *m, int32_t id, const char *p, size_t n, int kind, int32_t *clash, ns_error *err)
{
    NS_ASSERT(id >= 0 && id < NS_BPE_MAX_IDS && m->n_tokens < m->max_tokens);
    *clash = -1;
    NS_FAIL_IF(n >= UINT32_MAX || m->text_n + n >= UINT32_MAX, NS_ERR_INPUT, "vocabulary text exceeds 4 GB");
    if ((size_t)id >= m->n_ids) {
        NS_TRY(ns_grow((void **)&m->span, &m->cap_ids, (size_t)id + 1, sizeof *m->span, "tok.vocab", err), "grow");
        for (; m->n_ids <= (size_t)id; m->n_ids++) m->span[m->n_ids] = (ns_bpe_span){0, UINT32_MAX};
    }
    if (m->span[id].len != UINT32_MAX) {
        *clash = id;
        return NS_OK;
    }
    uint64_t key = 0;
    ns_bpe_slot *s = kind == NS_BPE_MAPPED ? slot_of(m, (const uint8_t *)p, n, &key) : NULL;
    if (s && s->id1) {
        *clash = s->id1 - 1;
        return NS_OK;
    }
    NS_TRY(ns_grow((void **)&m->text, &m->text_cap, m->text_n + n + 1, 1, "tok.vocab", err), "grow");
    m->span[id] = (ns_bpe_span){(uint32_t)m->text_n, (uint32_t)n};
    memcpy(m->text + m->text_n, p, n);
    m->text_n += n;
    m->n_tokens++;
    if (s) {
        s->key = key;
        s->id1 = id + 1;
        s->len = n < UINT16_MAX ? (uint16_t)n : UINT16_MAX;
        atomic_init(&s->whole, m->ignore_merges ? 1 : 0);
    }
    return NS_OK;
}

static inline ns_bpe_pair *pair_of(const ns_bpe *m, int32_t left, int32_t right)
{
    size_t mask = ((size_t)1 << m->pair_bits) - 1;
    uint32_t l = (uint32_t)left + 1, r = (uint32_t)right;
    uint64_t k = ((uint64_t)l << 32 | r) * 0x9e3779b97f4a7c15u;
    for (size_t i = (size_t)(k >> (64 - m->pair_bits));; i = (i + 1) & mask) {
        ns_bpe_pair *q = &m->pairs[i];
        if ((q->left1 == l && q->right == r) || !q->left1) return q;
    }
}

void ns_bpe_add_merge(ns_bpe *m, uint32_t rank, int32_t left, int32_t right, int32_t id)
{
    ns_bpe_pair *q = pair_of(m, left, right);
    if (!q->left1) m->n_pairs++;
    NS_ASSERT(m->n_pairs <= m->max_pairs);
    *q = (ns_bpe_pair){(uint32_t)left + 1, (uint32_t)right, rank + 1, id};
}

int32_t ns_bpe_find(const ns_bpe *m, const void *p, size_t n)
{
    uint64_t key;
    return slot_of(m, p, n, &key)->id1 - 1;
}

/* A symbol lies across a border only if a merge put its two sides together right there. So where no merge has the byte
 * before the border last in its left part and the byte behind it first in its right part, both sides keep to themselves,
 * and so does the order of merging within each. Borders inside a character do not count; nor is anything known if byte
 * tokens or the unknown token take part, or if a whole text is looked up before merging. */
ns_status ns_bpe_find_joins(ns_bpe *m, ns_error *err)
{
    for (int b = 0; b < 256; b++)
        if (m->byte_id[b] < 0) return NS_OK;
    if (m->ignore_merges) return NS_OK;
    uint64_t *joins = NULL;
    NS_TRY(ns_alloc((void **)&joins, 256 * 256 / 8, "tok.merges", err), "joins");
    for (size_t i = 0; i < (size_t)1 << m->pair_bits; i++) {
        const ns_bpe_pair *q = &m->pairs[i];
        if (!q->left1) continue;
        int32_t side[2] = {(int32_t)q->left1 - 1, (int32_t)q->right};
        for (int k = 0; k < 2; k++)
            for (int b = 0; b < 256; b++)
                if (m->byte_id[b] == side[k]) {
                    ns_free(joins);
                    return NS_OK;
                }
        ns_bpe_span l = m->span[side[0]], r = m->span[side[1]];
        if (!l.len || !r.len) { /* an empty token: any two bytes may be its neighbours */
            ns_free(joins);
            return NS_OK;
        }
        uint8_t a = (uint8_t)m->text[l.at + l.len - 1], c = (uint8_t)m->text[r.at];
        joins[a * 4 + (c >> 6)] |= (uint64_t)1 << (c & 63);
    }
    for (int a = 0; a < 256; a++) joins[a * 4 + 2] = UINT64_MAX; /* 80..bf go on with a character */
    m->joins = joins;
    return NS_OK;
}

ns_status ns_bpe_seal(ns_bpe *m, ns_error *err)
{
    for (int b = 0; b < 256; b++) {
        static const char hex[] = "0123456789ABCDEF";
        char c = (char)b, name[] = {'<', '0', 'x', hex[b >> 4], hex[b & 15], '>'};
        m->byte_id[b] = !m->by_char ? ns_bpe_find(m, &c, 1) : m->byte_fallback ? ns_bpe_find(m, name, sizeof name) : -1;
    }
    return m->by_char && m->byte_fallback ? ns_bpe_find_joins(m, err) : NS_OK;
}

void ns_bpe_free(ns_bpe *m)
{
    ns_free(m->text);
    ns_free(m->span);
    ns_free(m->slots);
    ns_free(m->pairs);
    ns_free(m->joins);
    memset(m, 0, sizeof *m);
}

/* ---- encoding ---- */
void ns_bpe_work_free(ns_bpe_work *w)
{
    ns_free(w->mem);
    ns_free(w->heap);
    ns_free(w->text);
    memset(w, 0, sizeof *w);
}

ns_status ns_ids_push(ns_ids *ids, int32_t id, ns_error *err)
{
    if (ids->n == ids->cap)
        NS_TRY(ns_grow((void **)&ids->v, &ids->cap, ids->n + 1, sizeof *ids->v, "tok.ids", err), "ids");
    ids->v[ids->n++] = id;
    return NS_OK;
}

/* One symbol for what the vocabulary lacks; one for a run of it with fuse_unk. */
static ns_status push_unk(const ns_bpe *m, int32_t *id, size_t *k, int *fusing, uint8_t byte, ns_error *err)
{
    NS_FAIL_IF(m->unk < 0, NS_ERR_INPUT,
               "byte 0x%02x has no token in the vocabulary and the tokenizer has no unk_token: the text would be lost "
               "(use a tokenizer with all 256 bytes)",
               byte);
    if (!(*fusing && m->fuse_unk)) id[(*k)++] = m->unk;
    *fusing = 1;
    return NS_OK;
}

/* Start symbols of a word. Bytes without a token become `unk`; with by_char, characters without one become their bytes,
 * or `unk` where there are no byte tokens (the loader sees to it that there are all 256 or none). */
static ns_status start_symbols(const ns_bpe *m, int32_t *id, size_t *n_id, const uint8_t *p, size_t n, ns_error *err)
{
    size_t k = 0;
    int fusing = 0;
    for (size_t i = 0, len; m->by_char && i < n; i += len) {
        ns_utf8_at(p, i, &len);
        int32_t c = ns_bpe_find(m, p + i, len);
        if (c < 0 && m->byte_id[p[i]] < 0) {
            NS_TRY(push_unk(m, id, &k, &fusing, p[i], err), "%s", "");
            continue;
        }
        fusing = 0;
        if (c >= 0) id[k++] = c;
        for (size_t j = 0; c < 0 && j < len; j++) id[k++] = m->byte_id[p[i + j]];
    }
    for (size_t i = 0; !m->by_char && i < n; i++) {
        int32_t b = m->byte_id[p[i]];
        if (b < 0) {
            NS_TRY(push_unk(m, id, &k, &fusing, p[i], err), "%s", "");
            continue;
        }
        id[k++] = b;
        fusing = 0;
    }
    *n_id = k;
    return NS_OK;
}

/* n <= SHORT symbols in id[]: merges in place, returns how many are left. rank[i] and to[i] are of the pair (i, i+1). */
static size_t merge_short(const ns_bpe *m, int32_t *id, size_t n)
{
    uint32_t rank[SHORT];
    int32_t to[SHORT];
    for (size_t i = 0; i + 1 < n; i++) {
        const ns_bpe_pair *q = pair_of(m, id[i], id[i + 1]);
        rank[i] = q->rank1 - 1;
        to[i] = q->id;
    }
    while (n > 1) {
        size_t best = 0;
        ns_bpe_steps += n;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NO_RANK) break;
        id[best] = to[best];
        n--;
        memmove(id + best + 1, id + best + 2, (n - best - 1) * sizeof *id);
        if (best + 1 < n) { /* pair (best, best+1) is recomputed below, later ones move down */
            memmove(rank + best + 1, rank + best + 2, (n - best - 2) * sizeof *rank);
            memmove(to + best + 1, to + best + 2, (n - best - 2) * sizeof *to);
            const ns_bpe_pair *q = pair_of(m, id[best], id[best + 1]);
            rank[best] = q->rank1 - 1;
            to[best] = q->id;
        }
        if (best > 0) {
            const ns_bpe_pair *q = pair_of(m, id[best - 1], id[best]);
            rank[best - 1] = q->rank1 - 1;
            to[best - 1] = q->id;
        }
    }
    return n;
}

/* ---- words of a few runs of one character each ---- */
typedef struct equal_run {
    int32_t id;
    uint32_t n;
} equal_run;
enum { MAX_RUNS = 48 };

/* Puts n symbols `id` at r[k]; nothing for n = 0. */
static size_t put_run(equal_run *r, size_t n_runs, size_t k, int32_t id, uint32_t n)
{
    if (!n) return n_runs;
    memmove(r + k + 1, r + k, (n_runs - k) * sizeof *r);
    r[k] = (equal_run){id, n};
    return n_runs + 1;
}

static uint32_t rank_of(const ns_bpe *m, int32_t left, int32_t right)
{
    ns_bpe_steps++;
    return pair_of(m, left, right)->rank1 - 1;
}

/* One merge inside run k: all its pairs, from left to right. 0 if a pair that this makes would have to go in between. */
static int merge_run(const ns_bpe *m, equal_run *r, size_t *n_runs, size_t k)
{
    equal_run x = r[k];
    const ns_bpe_pair *q = pair_of(m, x.id, x.id);
    uint32_t rank = q->rank1 - 1;
    int32_t y = q->id;
    if (rank_of(m, y, x.id) <= rank || rank_of(m, y, y) <= rank) return 0;
    if (k && rank_of(m, r[k - 1].id, y) <= rank) return 0;
    r[k] = (equal_run){y, x.n / 2};
    *n_runs = put_run(r, *n_runs, k + 1, x.id, x.n % 2);
    return 1;
}

/* The pair of the last of run k and the first of the next. */
static void merge_border(const ns_bpe *m, equal_run *r, size_t *n_runs, size_t k)
{
    int32_t y = pair_of(m, r[k].id, r[k + 1].id)->id;
    *n_runs = put_run(r, *n_runs, k + 1, y, 1);
    for (size_t i = 0; i < 2; i++) { /* the right one first, so that k stays where it is */
        size_t j = i ? k : k + 2;
        if (--r[j].n) continue;
        memmove(r + j, r + j + 1, (*n_runs - j - 1) * sizeof *r);
        --*n_runs;
    }
}

/* 0: this way does not go. */
static int merge_runs(const ns_bpe *m, equal_run *r, size_t *n_runs)
{
    for (;;) {
        size_t best = 0, runs = *n_runs;
        uint32_t low = NO_RANK;
        int inside = 0;
        for (size_t k = 0; k < runs; k++) {
            uint32_t a = r[k].n > 1 ? rank_of(m, r[k].id, r[k].id) : NO_RANK;
            uint32_t b = k + 1 < runs ? rank_of(m, r[k].id, r[k + 1].id) : NO_RANK;
            if (a < low) best = k, inside = 1, low = a;
            if (b < low) best = k, inside = 0, low = b;
        }
        if (low == NO_RANK) return 1;
        if (runs + 2 > MAX_RUNS) return 0;
        if (inside && !merge_run(m, r, n_runs, best)) return 0;
        if (!inside) merge_border(m, r, n_runs, best);
    }
}

/* ---- long words ---- */
typedef struct symbol {
    int32_t id, prev, next; /* id -1: merged away; -1 ends the list */
    uint32_t rank;          /* of the pair (this, next) */
    int32_t to;
} symbol;

static ns_status heap_push(ns_bpe_work *w, uint64_t x, ns_error *err)
{
    if (w->heap_n == w->heap_cap)
        NS_TRY(ns_grow((void **)&w->heap, &w->heap_cap, w->heap_n + 1, sizeof *w->heap, "tok.heap", err), "heap");
    size_t i = w->heap_n++;
    for (; i > 0 && w->heap[(i - 1) / 2] > x; i = (i - 1) / 2, ns_bpe_steps++) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = x;
    return NS_OK;
}

static uint64_t heap_pop(ns_bpe_work *w)
{
    uint64_t *h = w->heap, top = h[0], x = h[--w->heap_n];
    size_t n = w->heap_n, i = 0;
    for (size_t c; (c = 2 * i + 1) < n; i = c, ns_bpe_steps++) {
        if (c + 1 < n && h[c + 1] < h[c]) c++;
        if (h[c] >= x) break;
        h[i] = h[c];
    }
    h[i] = x;
    return top;
}

/* Looks up the pair that starts at symbol i. */
static void look(const ns_bpe *m, symbol *s, int32_t i)
{
    s[i].rank = NO_RANK;
    if (s[i].next < 0) return;
    const ns_bpe_pair *q = pair_of(m, s[i].id, s[s[i].next].id);
    s[i].rank = q->rank1 - 1;
    s[i].to = q->id;
    ns_bpe_steps++;
}
static ns_status consider(const ns_bpe *m, ns_bpe_work *w, symbol *s, int32_t i, ns_error *err)
{
    look(m, s, i);
    return s[i].rank == NO_RANK ? NS_OK : heap_push(w, (uint64_t)s[i].rank << 32 | (uint32_t)i, err);
}

/* The pairs of the start, by rank and then from left to right: v[0..*n_v), as (rank, position). Radix sort by 11 bits. */
static void sort_pairs(uint64_t *v, uint64_t *tmp, size_t n, uint32_t high)
{
    for (uint32_t shift = 32; shift == 32 || (shift < 64 && high >> (shift - 32)); shift += 11) {
        uint32_t at[2048] = {0}, sum = 0;
        for (size_t i = 0; i < n; i++) at[v[i] >> shift & 2047]++;
        for (int b = 0; b < 2048; b++) {
            uint32_t x = at[b];
            at[b] = sum;
            sum += x;
        }
        for (size_t i = 0; i < n; i++) tmp[at[v[i] >> shift & 2047]++] = v[i];
        memcpy(v, tmp, n * sizeof *v);
        ns_bpe_steps += n;
    }
}

/* v, tmp: n places each */
static ns_status merge_long(const ns_bpe *m, ns_bpe_work *w, symbol *s, size_t n, uint64_t *v, uint64_t *tmp,
                            ns_error *err)
{
    size_t n_v = 0, k = 0;
    uint32_t high = 0;
    w->heap_n = 0;
    for (size_t i = 0; i < n; i++) {
        s[i].prev = (int32_t)i - 1;
        s[i].next = i + 1 < n ? (int32_t)i + 1 : -1;
    }
    for (size_t i = 0; i < n; i++) {
        look(m, s, (int32_t)i);
        if (s[i].rank == NO_RANK) continue;
        v[n_v++] = (uint64_t)s[i].rank << 32 | (uint32_t)i;
        high |= s[i].rank;
    }
    sort_pairs(v, tmp, n_v, high);
    while (w->heap_n || k < n_v) {
        uint64_t top = k < n_v && (!w->heap_n || v[k] <= w->heap[0]) ? v[k++] : heap_pop(w);
        int32_t i = (int32_t)(uint32_t)top, r;
        if (s[i].id < 0 || s[i].rank != (uint32_t)(top >> 32)) continue; /* stale */
        r = s[i].next;
        s[i].id = s[i].to;
        s[i].next = s[r].next;
        s[r].id = -1;
        if (s[i].next >= 0) s[s[i].next].prev = i;
        NS_TRY(consider(m, w, s, i, err), "queue");
        if (s[i].prev >= 0) NS_TRY(consider(m, w, s, s[i].prev, err), "queue");
    }
    return NS_OK;
}

/* p as runs of one symbol: how many; 0 if there are more than FEW, or a character is not one symbol. */
static size_t read_runs(const ns_bpe *m, equal_run *r, const uint8_t *p, size_t n, ns_error *err)
{
    enum { FEW = 6 };
    size_t n_runs = 0, len = 1;
    if (n > UINT32_MAX / 2 || (m->unk >= 0 && m->fuse_unk)) return 0; /* many may be one */
    for (size_t i = 0, end; i < n; i = end) {
        int32_t id[4];
        size_t k;
        if (m->by_char) ns_utf8_at(p, i, &len);
        for (end = i + len; end + len <= n && !memcmp(p + i, p + end, len);) end += len;
        if (n_runs == FEW || start_symbols(m, id, &k, p + i, len, err) != NS_OK || k != 1) return 0;
        r[n_runs++] = (equal_run){id[0], (uint32_t)((end - i) / len)};
    }
    return n_runs;
}

static ns_status encode_runs(const ns_bpe *m, ns_ids *out, const uint8_t *p, size_t n, int *done, ns_error *err)
{
    equal_run r[MAX_RUNS + 2];
    ns_error ignored = NS_ERROR_INIT; /* the other way says it again */
    size_t n_runs = read_runs(m, r, p, n, &ignored);
    *done = n_runs && merge_runs(m, r, &n_runs);
    for (size_t i = 0; *done && i < n_runs; i++) {
        if (out->cap - out->n < r[i].n)
            NS_TRY(ns_grow((void **)&out->v, &out->cap, out->n + r[i].n, sizeof *out->v, "tok.ids", err), "ids");
        for (uint32_t j = 0; j < r[i].n; j++) out->v[out->n++] = r[i].id;
    }
    return NS_OK;
}

static ns_status encode_long(const ns_bpe *m, ns_bpe_work *w, ns_ids *out, const uint8_t *p, size_t n, ns_error *err)
{
    NS_FAIL_IF(n >= INT32_MAX, NS_ERR_INPUT, "one word of %zu bytes: split the text into parts below 2 GB", n);
    NS_TRY(ns_grow(&w->mem, &w->cap, n, 2 * sizeof(uint64_t) + sizeof(symbol) + sizeof(int32_t), "tok.word", err),
           "long word");
    uint64_t *v = w->mem;
    symbol *s = (symbol *)(void *)(v + 2 * n);
    int32_t *id = (int32_t *)(void *)(s + n);
    size_t k;
    NS_TRY(start_symbols(m, id, &k, p, n, err), "encode");
    for (size_t i = 0; i < k; i++) s[i].id = id[i];
    NS_TRY(merge_long(m, w, s, k, v, v + n, err), "merge");
    for (int32_t i = k ? 0 : -1; i >= 0; i = s[i].next) NS_TRY(ns_ids_push(out, s[i].id, err), "ids");
    return NS_OK;
}

ns_status ns_bpe_encode(const ns_bpe *m, ns_bpe_work *w, ns_ids *out, const uint8_t *p, size_t n, ns_error *err)
{
    uint64_t key;
    ns_bpe_slot *s = slot_of(m, p, n, &key);
    int32_t whole = s->id1 - 1;
    int known = whole >= 0 ? atomic_load_explicit(&s->whole, memory_order_relaxed) : 2;
    if (known == 1) return ns_ids_push(out, whole, err);
    if (n > SHORT) {
        int done;
        NS_TRY(encode_runs(m, out, p, n, &done, err), "%s", "");
        return done ? NS_OK : encode_long(m, w, out, p, n, err);
    }
    int32_t id[SHORT];
    size_t k;
    NS_TRY(start_symbols(m, id, &k, p, n, err), "encode");
    k = merge_short(m, id, k);
    if (known == 0) atomic_store_explicit(&s->whole, k == 1 && id[0] == whole ? 1 : 2, memory_order_relaxed);
    for (size_t i = 0; i < k; i++) NS_TRY(ns_ids_push(out, id[i], err), "ids");
    return NS_OK;
}
