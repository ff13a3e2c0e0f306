/* Cutting and looking up, fused. Where the time went before: a call of the scanner for every piece, byte by byte, then a
 * look at the vocabulary (4 MB, so often outside of the cache), then a call to store one id.
 *
 *   64 bytes of text -> classes as bit masks -> borders as one mask -> for each piece: its bytes are the key -> its ids
 *
 * That is words_avx512.c. Here is what every processor has, 16 bytes and one word at a time; what is not an ASCII word
 * (punctuation, digits, other scripts) goes through the scanner of split.c and then the same look-up. Pieces above 15
 * bytes and words not met yet go to ns_words_meet.
 *
 * Words: a table of 2 MB for each thread, which needs no lock, no allocation and no end, and is not touched before use. A
 * word has two places, both in one cache line: the newest stands first, the oldest is dropped. An entry belongs to one
 * tokenizer by its serial number, which is never given twice. What finds its line full goes to a second one. Longer words, and words of more ids than such an entry
 * holds, have a table of their own with one place each.
 *
 * SentencePiece style (`blanks`): a text with blanks is cut and looked up as it is. A piece is written with U+2581 only
 * when it is met for the first time. */
#include "tok/words.h"

#include <stdatomic.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "base/mem.h"
#include "tok/norm.h"
#include "tok/pretok.h"
#include "tok/words_table.h"

enum { SERIAL_BITS = 30, LONG_BITS = 11, LONG_MAX_BYTES = 60, LONG_IDS = 15 };

int ns_words_avx512_off;
_Thread_local _Alignas(64) word ns_word_lines[1 << WORD_LINE_BITS][2];

typedef struct long_word {
    uint32_t serial; /* 0: empty */
    uint8_t n, n_ids;
    uint8_t text[LONG_MAX_BYTES + 2];
    int32_t id[LONG_IDS];
} long_word;
_Static_assert(sizeof(long_word) == 128, "two cache lines");
static _Thread_local _Alignas(64) long_word long_words[1 << LONG_BITS];

uint32_t ns_words_serial(void)
{
    static _Atomic uint32_t last;
    uint32_t x = atomic_load(&last);
    do
        if (x + 1 >= (uint32_t)1 << SERIAL_BITS) return 0;
    while (!atomic_compare_exchange_weak(&last, &x, x + 1));
    return x + 1;
}

/* ---- blanks for U+2581 ---- */
int ns_words_blank_joins(uint64_t *joins, const ns_bpe *m, int marks_apart)
{
    enum { FIRST = 0xe2, LAST = 0x81 }; /* of U+2581 */
    if (!m->joins && !marks_apart) return 0;
    for (int a = 0; a < 256; a++) {
        int left = a == ' ' ? LAST : a; /* what stands there for the model */
        int mark = a == ' ' || a == LAST;
        for (int k = 0; k < 4; k++) joins[a * 4 + k] = m->joins ? m->joins[left * 4 + k] : UINT64_MAX;
        int blank = marks_apart && !mark ? 0 : ns_bpe_joins(m, (uint8_t)left, FIRST);
        joins[a * 4] = (joins[a * 4] & ~((uint64_t)1 << ' ')) | (uint64_t)blank << ' ';
    }
    return 1;
}

static ns_status mark_blanks(ns_bpe_work *w, const uint8_t *p, size_t n, size_t *n_out, ns_error *err)
{
    size_t k = 0;
    NS_TRY(ns_grow((void **)&w->text, &w->text_cap, 3 * n, 1, "tok.word", err), "word");
    for (size_t i = 0; i < n; i++) {
        if (p[i] != ' ') {
            w->text[k++] = p[i];
            continue;
        }
        memcpy(w->text + k, NS_META, 3);
        k += 3;
    }
    *n_out = k;
    return NS_OK;
}

static ns_status merge(const word_call *c, const uint8_t *p, size_t n, ns_error *err)
{
    if (c->t->blanks && memchr(p, ' ', n)) {
        NS_TRY(mark_blanks(c->w, p, n, &n, err), "%s", "");
        p = c->w->text;
    }
    return ns_bpe_encode(c->t->bpe, c->w, c->out, p, n, err);
}

/* ---- the tables ---- */
/* q has 16 readable bytes, of which n <= WORD_MAX are the piece. */
static inline word key_of(const uint8_t *q, size_t n)
{
    static const uint8_t ones[32] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
    uint64_t x[2], m[2];
    memcpy(x, q, 16);
    memcpy(m, ones + 16 - n, 16);
    int shift = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 56 : 0; /* of the 16th byte */
    return (word){.lo = x[0] & m[0], .hi = (x[1] & m[1]) | (uint64_t)n << shift};
}

/* A second line for the words of a full one. */
static word *other_line(const word *k)
{
    return word_line(k->hi + 0x632be59bd9b4e019u, k->lo);
}

static long_word *long_place(const uint8_t *p, size_t n)
{
    uint64_t h = n * 0x9e3779b97f4a7c15u, x;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&x, p + i, 8);
        h = (h ^ x) * 0xff51afd7ed558ccdu;
        h ^= h >> 29;
    }
    x = 0;
    memcpy(&x, p + i, n - i);
    h = (h ^ x) * 0x9fb21c651e98df25u;
    h = (h ^ h >> 32) * 0x9e3779b97f4a7c15u;
    return &long_words[h >> (64 - LONG_BITS)];
}

ns_status ns_words_room(ns_ids *out, size_t n, ns_error *err)
{
    n += WORD_IDS + 1;
    if (out->cap - out->n >= n) return NS_OK;
    return ns_grow((void **)&out->v, &out->cap, out->n + n, sizeof *out->v, "tok.ids", err);
}

ns_status ns_words_meet(const word_call *c, const uint8_t *p, size_t n, const word *k, word *at, ns_error *err)
{
    ns_ids *out = c->out;
    uint32_t serial = c->t->serial;
    size_t first = out->n;
    long_word *x = n <= LONG_MAX_BYTES ? long_place(p, n) : NULL;
    if (x && x->serial == serial && x->n == n && !memcmp(x->text, p, n)) {
        NS_TRY(ns_words_room(out, x->n_ids, err), "ids");
        memcpy(out->v + first, x->id, x->n_ids * sizeof *x->id);
        out->n += x->n_ids;
        return NS_OK;
    }
    word *other = at ? other_line(k) : NULL;
    for (int i = 0; at && i < 2; i++) {
        if (!word_is(&other[i], k->lo, k->hi, serial)) continue;
        NS_TRY(ns_words_room(out, WORD_IDS, err), "ids");
        memcpy(out->v + first, other[i].id, sizeof other[i].id);
        out->n += other[i].tag & 3;
        return NS_OK;
    }
    NS_TRY(merge(c, p, n, err), "%s", "");
    size_t got = out->n - first;
    if (at && got <= WORD_IDS) {
        /* full of this tokenizer's words: the other line, where it is found by this function, if it has more room */
        if (at[1].tag >> 2 == serial && other[1].tag >> 2 != serial) at = other;
        at[1] = at[0];
        at[0] = *k;
        for (size_t i = 0; i < got; i++) at[0].id[i] = out->v[first + i];
        at[0].tag = serial << 2 | (uint32_t)got;
    } else if (x && got <= LONG_IDS) {
        x->serial = serial;
        x->n = (uint8_t)n;
        x->n_ids = (uint8_t)got;
        memcpy(x->text, p, n);
        memcpy(x->id, out->v + first, got * sizeof *x->id);
    }
    return NS_OK;
}

/* q: 16 readable bytes with the piece; p: the piece alone. */
static inline ns_status look_up(const word_call *c, const uint8_t *q, const uint8_t *p, size_t n, ns_error *err)
{
    ns_ids *out = c->out;
    if (n > WORD_MAX) return ns_words_meet(c, p, n, NULL, NULL, err);
    word k = key_of(q, n), *line = word_line(k.lo, k.hi);
    word *hit = line + !word_is(line, k.lo, k.hi, c->t->serial);
    if (!word_is(hit, k.lo, k.hi, c->t->serial)) return ns_words_meet(c, p, n, &k, line, err);
    if (out->cap - out->n <= WORD_IDS) NS_TRY(ns_words_room(out, 1, err), "ids");
    memcpy(out->v + out->n, hit->id, 16);
    out->n += hit->tag & 3;
    return NS_OK;
}

/* ---- cutting ---- */
/* What may stand before the letters of a word: one ASCII character that is not CR, LF, letter, digit, or apostrophe
 * (contractions go first); a blank only. Letters may always start. */
enum { LEAD_NONE, LEAD_ANY, LEAD_BLANK };

static inline int leads(uint8_t c, int lead)
{
    if (lead == LEAD_BLANK) return c == ' ';
    return c < 0x80 && c != '\r' && c != '\n' && c != '\'' && (uint8_t)(c - '0') > 9;
}

/* Length of the ASCII word at q (16 readable bytes) if all of it and the ASCII byte that ends it are there; else 0. */
static inline size_t ascii_word(const uint8_t *q, int lead)
{
#ifdef __SSE2__
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)q);
    __m128i x = _mm_sub_epi8(_mm_or_si128(v, _mm_set1_epi8(0x20)), _mm_set1_epi8('a'));
    uint32_t letters = (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(25)), x));
    uint32_t high = (uint32_t)_mm_movemask_epi8(v) | 0x10000;
    uint32_t end = (uint32_t)__builtin_ctz(~(letters | 1));
    int starts = (letters & 1) || ((letters & 2) && leads(q[0], lead));
    return starts && !(high >> end & 1) ? end : 0;
#else
    (void)q;
    (void)lead;
    return 0;
#endif
}

/* `lead` is a constant of each caller below, so that each has its own loop. */
static inline __attribute__((always_inline)) ns_status run(const word_call *c, int lead, const uint8_t *p, size_t n,
                                                           ns_error *err)
{
    uint8_t tail[32] = {0}; /* the last 16 bytes with zeros behind, so that 16 can be read anywhere */
    size_t tail_at = n > 16 ? n - 16 : 0;
    memcpy(tail, p + tail_at, n - tail_at);
    for (size_t i = 0, e; i < n; i = e) {
        const uint8_t *q = i <= tail_at && n >= 16 ? p + i : tail + (i - tail_at);
        size_t len = lead != LEAD_NONE ? ascii_word(q, lead) : 0;
        e = len ? i + len : word_cut(c->t, p, n, i);
        NS_VERIFY(e > i && e <= n);
        ns_status st = look_up(c, q, p + i, e - i, err);
        if (st != NS_OK) return st;
    }
    return NS_OK;
}

static ns_status run_any(const word_call *c, const uint8_t *p, size_t n, ns_error *err)
{
    return run(c, LEAD_ANY, p, n, err);
}
static ns_status run_blank(const word_call *c, const uint8_t *p, size_t n, ns_error *err)
{
    return run(c, LEAD_BLANK, p, n, err);
}
static ns_status run_none(const word_call *c, const uint8_t *p, size_t n, ns_error *err)
{
    return run(c, LEAD_NONE, p, n, err);
}

/* The blank in front and the first piece of the text, whose length is *len. */
static ns_status first_piece(const word_call *c, const uint8_t *p, size_t n, size_t *len, ns_error *err)
{
    uint8_t q[16] = {' '};
    size_t e = *len = word_cut(c->t, p, n, 0);
    if (e < WORD_MAX) {
        memcpy(q + 1, p, e);
        return look_up(c, q, q, e + 1, err);
    }
    uint8_t *x = NULL;
    NS_TRY(ns_alloc((void **)&x, e + 1, "tok.word", err), "word");
    x[0] = ' ';
    memcpy(x + 1, p, e);
    ns_status st = ns_words_meet(c, x, e + 1, NULL, NULL, err);
    ns_free(x);
    return st;
}

/* No remembered words, no borders by bytes: what the others must give. */
static ns_status plainly(const word_call *c, const uint8_t *p, size_t n, ns_error *err)
{
    ns_split_fn next = c->t->next;
    for (size_t i = 0, e; i < n; i = e) {
        e = next && next != ns_split_marks ? next(p, n, i) : n;
        NS_VERIFY(e > i && e <= n);
        NS_TRY(merge(c, p + i, e - i, err), "%s", "");
    }
    return NS_OK;
}

static int have_avx512(void)
{
#if defined __x86_64__
    return ns_words_avx512_off == 0 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#else
    return 0;
#endif
}

ns_status ns_words_encode(const ns_words *t, ns_bpe_work *w, ns_ids *out, const uint8_t *p, size_t n, ns_error *err)
{
    word_call c = {t, w, out};
    int done = 0;
    if (!n) return NS_OK;
    if (!t->serial || (!t->next && !t->joins)) return plainly(&c, p, n, err);
    if (t->prefix) {
        size_t len;
        NS_TRY(first_piece(&c, p, n, &len, err), "%s", "");
        p += len;
        n -= len;
        if (!n) return NS_OK;
    }
    if (have_avx512()) NS_TRY(ns_words_avx512(&c, p, n, &done, err), "%s", "");
    if (done) return NS_OK;
    if (t->next == ns_split_llama3 || t->next == ns_split_qwen2) return run_any(&c, p, n, err);
    if (t->next == ns_split_gpt2) return run_blank(&c, p, n, err);
    return run_none(&c, p, n, err);
}
