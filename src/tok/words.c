/* Cutting and looking up, fused. Where the time went before: a call of the scanner for every piece, byte by byte, then a
 * look at the vocabulary (4 MB, so often outside of the cache), then a call to store one id.
 *
 *   16 bytes at the text -> letters as a bit mask -> length of " word" -> the bytes below it are the key -> its ids
 *
 * The step to the next piece depends on the mask alone, so the processor looks pieces up while it cuts the following ones.
 * What is not an ASCII word (punctuation, digits, other scripts, the last bytes before something of these) goes through
 * the scanner of split.c and then the same look-up; pieces above 15 bytes and words not met yet go to ns_bpe_encode.
 *
 * Words: a table of 1 MB for each thread, which needs no lock, no allocation and no end, and is not touched before use. A
 * word has two places, both in one cache line: the newest stands first, the oldest is dropped. An entry belongs to one
 * tokenizer by its serial number, which is never given twice. */
#include "tok/words.h"

#include <stdatomic.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "base/mem.h"
#include "tok/pretok.h"

enum { LINE_BITS = 14, WORD_MAX = 15, WORD_IDS = 3, SERIAL_BITS = 30 };

typedef struct word {
    uint64_t lo, hi;      /* the bytes, zeros behind; the 16th is their number */
    int32_t id[WORD_IDS]; /* copied as one block of 16 bytes with the tag */
    uint32_t tag;         /* serial << 2 | number of ids; 0: empty */
} word;
_Static_assert(sizeof(word) == 32, "two words a cache line");

static _Thread_local _Alignas(64) word words[1 << LINE_BITS][2];

uint32_t ns_words_serial(void)
{
    static _Atomic uint32_t last;
    uint32_t x = atomic_load(&last);
    do
        if (x + 1 >= (uint32_t)1 << SERIAL_BITS) return 0;
    while (!atomic_compare_exchange_weak(&last, &x, x + 1));
    return x + 1;
}

/* ---- key ---- */
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

/* The cache line where the word is, if it is known. */
static inline word *line_of(const word *k)
{
    uint64_t a = (k->lo ^ 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;
    uint64_t b = (k->hi ^ 0xc2b2ae3d27d4eb4fu) * 0x9fb21c651e98df25u;
    uint64_t h = (a ^ (b >> 32 | b << 32)) * 0x9e3779b97f4a7c15u;
    return words[h >> (64 - LINE_BITS)];
}

static inline int is_word(const word *x, const word *k, uint32_t serial)
{
    return !((x->lo ^ k->lo) | (x->hi ^ k->hi) | ((x->tag >> 2) ^ serial));
}

/* A piece that is not remembered. */
__attribute__((noinline)) static ns_status meet(const ns_bpe *m, uint32_t serial, ns_bpe_work *w, ns_ids *out,
                                                const uint8_t *p, size_t n, const word *k, word *at, ns_error *err)
{
    size_t first = out->n;
    NS_TRY(ns_bpe_encode(m, w, out, p, n, err), "%s", "");
    size_t got = out->n - first;
    if (!at || got > WORD_IDS) return NS_OK;
    at[1] = at[0];
    at[0] = *k;
    for (size_t i = 0; i < got; i++) at[0].id[i] = out->v[first + i];
    at[0].tag = serial << 2 | (uint32_t)got;
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

static inline size_t cut(const ns_bpe *m, const uint8_t *p, size_t n, size_t i)
{
    do i++;
    while (i < n && ns_bpe_joins(m, p[i - 1], p[i]));
    return i;
}

/* `lead` is a constant of each caller below, so that each has its own loop. */
static inline __attribute__((always_inline)) ns_status run(const ns_bpe *m, uint32_t serial, ns_split_fn next, int lead,
                                                           ns_bpe_work *w, ns_ids *out, const uint8_t *p, size_t n,
                                                           ns_error *err)
{
    uint8_t tail[32] = {0}; /* the last 16 bytes with zeros behind, so that 16 can be read anywhere */
    size_t tail_at = n > 16 ? n - 16 : 0;
    memcpy(tail, p + tail_at, n - tail_at);
    for (size_t i = 0, e; i < n; i = e) {
        const uint8_t *q = i <= tail_at && n >= 16 ? p + i : tail + (i - tail_at);
        size_t len = lead != LEAD_NONE ? ascii_word(q, lead) : 0;
        e = i + len;
        if (!len) {
            e = next ? next(p, n, i) : cut(m, p, n, i);
            NS_VERIFY(e > i && e <= n);
            len = e - i;
        }
        if (len > WORD_MAX) {
            ns_status st = meet(m, serial, w, out, p + i, len, NULL, NULL, err);
            if (st != NS_OK) return st;
            continue;
        }
        word k = key_of(q, len), *line = line_of(&k);
        word *hit = line + !is_word(line, &k, serial);
        if (out->cap - out->n <= WORD_IDS)
            NS_TRY(ns_grow((void **)&out->v, &out->cap, out->n + WORD_IDS + 1, sizeof *out->v, "tok.ids", err), "ids");
        if (is_word(hit, &k, serial)) {
            memcpy(out->v + out->n, hit->id, 16);
            out->n += hit->tag & 3;
            continue;
        }
        ns_status st = meet(m, serial, w, out, p + i, len, &k, line, err);
        if (st != NS_OK) return st;
    }
    return NS_OK;
}

static ns_status run_any(const ns_bpe *m, uint32_t serial, ns_split_fn next, ns_bpe_work *w, ns_ids *out,
                         const uint8_t *p, size_t n, ns_error *err)
{
    return run(m, serial, next, LEAD_ANY, w, out, p, n, err);
}
static ns_status run_blank(const ns_bpe *m, uint32_t serial, ns_split_fn next, ns_bpe_work *w, ns_ids *out,
                           const uint8_t *p, size_t n, ns_error *err)
{
    return run(m, serial, next, LEAD_BLANK, w, out, p, n, err);
}
static ns_status run_none(const ns_bpe *m, uint32_t serial, ns_split_fn next, ns_bpe_work *w, ns_ids *out,
                          const uint8_t *p, size_t n, ns_error *err)
{
    return run(m, serial, next, LEAD_NONE, w, out, p, n, err);
}

ns_status ns_words_encode(const ns_bpe *m, uint32_t serial, ns_split_fn next, ns_bpe_work *w, ns_ids *out,
                          const uint8_t *p, size_t n, ns_error *err)
{
    if (!n) return NS_OK;
    if (serial && m->joins && next == ns_split_marks)
        next = NULL; /* joins knows more borders than those before U+2581 */
    if (serial && (next == ns_split_llama3 || next == ns_split_qwen2))
        return run_any(m, serial, next, w, out, p, n, err);
    if (serial && next == ns_split_gpt2) return run_blank(m, serial, next, w, out, p, n, err);
    if (serial && (next || m->joins)) return run_none(m, serial, next, w, out, p, n, err);
    for (size_t i = 0, e; i < n; i = e) {
        e = next && next != ns_split_marks ? next(p, n, i) : n;
        NS_VERIFY(e > i && e <= n);
        NS_TRY(ns_bpe_encode(m, w, out, p + i, e - i, err), "%s", "");
    }
    return NS_OK;
}
