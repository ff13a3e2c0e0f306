/* Borders of 64 bytes at a time. Every class of ASCII characters is a mask of 64 bits, bit i = byte i; the split patterns,
 * which are ordered alternations, become arithmetic on such masks:
 *
 *   prev(x) = x << 1: the byte before is in x.  next(x) = x >> 1: the byte behind is.
 *   runs by carry: for a bit s at the start of a run of R, (R + s) ^ R covers the run and the bit behind it
 *
 * A block always starts where a piece starts, so what is before it does not matter. What is behind it would: so borders
 * count only up to the last letter or digit of the block (all that is before is decided by bytes up to there), unless the
 * text ends inside. Other scripts end the block, as if the text went on unknown; a piece with such a character, and one
 * of 64 bytes or more, is cut by the scanner of split.c. That scanner is also what tests compare with (words_test.c).
 *
 * SentencePiece style has no pattern: a text is cut where no merge can join two bytes. Letters side by side are taken to
 * be joined, and so are a blank and a letter; every other place is looked up in the table of joins. */
#include "tok/words_table.h"

#include <string.h>

#ifdef __AVX512BW__
#include <immintrin.h>

/* What the patterns differ in. Constants of each loop. */
typedef struct pattern {
    int blank_joins;  /* only a blank stands before letters (and before digits), not any character */
    int digits;       /* in a piece; 64: any number */
    int contractions; /* 0 none, 1 as written, 2 in capitals too */
    int camel;        /* a capital behind a small letter starts a piece */
    int newlines;     /* CR and LF end punctuation, and white space up to the last of them is a piece */
    int slash;        /* `/` goes on with the newlines behind punctuation */
    int joins;        /* SentencePiece style: none of the above */
} pattern;

typedef struct classes {
    uint64_t L, N, S, R, P, blank; /* letters, digits, white space, CR and LF, others, ' ' */
    uint64_t width;                /* all bits of the block that are text in ASCII */
} classes;

static inline uint64_t low_bits(uint64_t n)
{
    return n >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1;
}

static inline uint64_t below(__m512i v, char first, int n)
{
    return _mm512_cmplt_epu8_mask(_mm512_sub_epi8(v, _mm512_set1_epi8(first)), _mm512_set1_epi8((char)n));
}
static inline uint64_t is(__m512i v, char c)
{
    return _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8(c));
}

/* Run of x from each bit of s, which are starts of runs. */
static inline uint64_t runs_from(uint64_t x, uint64_t s)
{
    return ((x + s) ^ x) & x;
}

/* 's 't 'm 'd 're 've 'll are pieces. A: apostrophes that start a piece and have a letter behind. */
static inline uint64_t contract(uint64_t starts, __m512i v, uint64_t A, uint64_t L, int fold)
{
    if (fold) v = _mm512_or_si512(v, _mm512_set1_epi8(0x20)); /* letters only are asked for below */
    uint64_t one = is(v, 's') | is(v, 't') | is(v, 'm') | is(v, 'd');
    uint64_t two = (is(v, 'l') & is(v, 'l') >> 1) | ((is(v, 'r') | is(v, 'v')) & is(v, 'e') >> 1);
    one = A & one >> 1;
    two = A & two >> 1;
    return (starts & ~((one | two) << 1)) | ((one << 2 | two << 3) & L);
}

/* White space behind a newline starts a piece unless a newline follows in the same run. */
static inline uint64_t behind_newlines(uint64_t B, uint64_t R)
{
    uint64_t s = B & R << 1;
    if (!(R & B << 1)) return s;
    uint64_t ok = 0;
    for (uint64_t m = s; m; m &= m - 1) {
        uint64_t bit = m & -m, end = (B + bit) & ~B; /* all runs behind the first carry on nothing: bit is alone */
        if (!(end & R)) ok |= bit;
    }
    return ok;
}

/* First bytes of pieces. `ends`: the text ends with the block. */
static inline __attribute__((always_inline)) uint64_t starts_of(const pattern x, __m512i v, const classes *c, int ends)
{
    uint64_t L = c->L, N = c->N, S = c->S, P = c->P, R = x.newlines ? c->R : 0, B = S & ~R;
    uint64_t lead = x.blank_joins ? c->blank : B, Ps = P & ~(P << 1), out;
    uint64_t join = x.blank_joins ? 0 : Ps & ~(P >> 1) & L >> 1 & ~(c->blank << 1); /* one such character and a word */
    out = (L & ~(L << 1) & ~(lead << 1) & ~(join << 1)) | (Ps & ~(c->blank << 1));
    if (x.camel) { /* no letter but a to z is small */
        uint64_t small = L & _mm512_test_epi8_mask(v, _mm512_set1_epi8(0x20));
        out |= L & ~small & small << 1;
    }
    uint64_t ns = N & ~(N << 1);
    if (x.digits == 1) ns = N;
    if (x.digits == 3) {
        uint64_t four = N & N << 1 & N << 2 & N << 3;
        for (uint64_t t = ns; (t = t << 3 & four);) ns |= t;
    }
    out |= x.blank_joins ? ns & ~(c->blank << 1) : ns;
    if (x.contractions) {
        uint64_t A = is(v, '\'') & Ps & L >> 1 & ~(c->blank << 1);
        if (A) out = contract(out, v, A, L, x.contractions == 2);
    }
    uint64_t eaten = x.newlines ? runs_from(R, R & P << 1) : 0; /* newlines that belong to punctuation */
    uint64_t last = B & ~(S >> 1);                              /* of a run of white space */
    if (ends) last &= c->width >> 1;
    out |= (S & ~(S << 1) & ~eaten) | last;
    if (x.newlines) out |= (B & eaten << 1) | behind_newlines(B, R);
    return out;
}

/* SentencePiece style: the bytes are looked up in pairs where that is needed. */
static inline uint64_t starts_by_joins(const uint64_t *joins, const uint8_t *p, __m512i v, const classes *c)
{
    uint64_t L = c->L, sp = c->blank, in_char = _mm512_cmplt_epi8_mask(v, _mm512_set1_epi8(-64));
    uint64_t joined = (L & (L | sp) << 1) | in_char | 1;
    uint64_t out = 1;
    for (uint64_t m = c->width & ~joined; m; m &= m - 1) {
        size_t i = (size_t)__builtin_ctzll(m);
        uint8_t a = p[i - 1], b = p[i];
        uint64_t yes = joins[a * 4 + (b >> 6)] >> (b & 63);
        out |= (~yes & 1) << i;
    }
    return out;
}

/* Pieces of a block that wait for their cache lines: those of one block are asked for while the block before is looked up. */
typedef struct pending {
    word key;
    word *line; /* NULL: too long for the table */
    const uint8_t *p;
    size_t n;
} pending;

static inline void push(pending *x, const uint8_t *p, size_t n)
{
    x->p = p;
    x->n = n;
    x->line = NULL;
    if (n > WORD_MAX) return;
    __m128i v = _mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p); /* reads nothing else */
    x->key.lo = (uint64_t)_mm_cvtsi128_si64(v);
    x->key.hi = (uint64_t)_mm_extract_epi64(v, 1) | (uint64_t)n << 56;
    x->line = word_line(x->key.lo, x->key.hi);
    __builtin_prefetch(x->line);
}

static ns_status look_up(const word_call *c, const pending *x, size_t n, ns_error *err)
{
    ns_ids *out = c->out;
    uint32_t serial = c->t->serial;
    NS_TRY(ns_words_room(out, n * WORD_IDS, err), "ids");
    int32_t *to = out->v + out->n;
    for (size_t i = 0; i < n; i++, x++) {
        uint64_t lo = x->key.lo, hi = x->key.hi;
        const word *hit = x->line;
        if (hit) {
            hit += !word_is(hit, lo, hi, serial);
            if (word_is(hit, lo, hi, serial)) {
                memcpy(to, hit->id, 16);
                to += hit->tag & 3;
                continue;
            }
        }
        out->n = (size_t)(to - out->v);
        NS_TRY(ns_words_meet(c, x->p, x->n, &x->key, x->line, err), "%s", "");
        NS_TRY(ns_words_room(out, (n - i) * WORD_IDS, err), "ids");
        to = out->v + out->n;
    }
    out->n = (size_t)(to - out->v);
    return NS_OK;
}

/* The pieces of the block at p[i], up to the last border that is sure; where the next block starts. */
static inline __attribute__((always_inline)) size_t block(const pattern x, const word_call *c, const uint8_t *p,
                                                          size_t n, size_t i, pending *to, size_t *n_to)
{
    size_t w = n - i < 64 ? n - i : 64, from = 0, k = 0;
    __m512i v = _mm512_maskz_loadu_epi8(low_bits(w), p + i);
    uint64_t high = x.joins ? 0 : _mm512_movepi8_mask(v), known, starts;
    int ends = i + w == n && !high;
    if (high) w = (size_t)__builtin_ctzll(high);
    classes s = {.width = low_bits(w)};
    s.L = below(_mm512_or_si512(v, _mm512_set1_epi8(0x20)), 'a', 26) & s.width;
    s.blank = is(v, ' ');
    if (x.joins) {
        starts = starts_by_joins(c->t->joins, p + i, v, &s);
        known = s.width;
    } else {
        s.R = is(v, '\r') | is(v, '\n');
        s.N = below(v, '0', 10) & s.width;
        s.S = s.blank | below(v, '\t', 5);
        s.P = s.width & ~(s.L | s.N | s.S);
        uint64_t words = s.L | s.N;
        known = ends ? s.width : words ? low_bits(64 - (size_t)__builtin_clzll(words)) : 0;
        if (x.slash && (is(v, '/') & s.R << 1)) known = 0;
        ends &= known != 0;
        starts = starts_of(x, v, &s, ends);
    }
    for (uint64_t m = starts & known & ~(uint64_t)1; m; m &= m - 1) {
        size_t e = (size_t)__builtin_ctzll(m);
        push(&to[k++], p + i + from, e - from);
        from = e;
    }
    if (ends || !from) {
        size_t e = ends ? w : word_cut(c->t, p, n, i) - i;
        NS_VERIFY(e > from && i + e <= n);
        push(&to[k++], p + i + from, e - from);
        from = e;
    }
    *n_to = k;
    return i + from;
}

static inline __attribute__((always_inline)) ns_status run(const pattern x, const word_call *c, const uint8_t *p,
                                                           size_t n, ns_error *err)
{
    pending wait[2][64];
    size_t count[2] = {0, 0};
    int k = 0;
    for (size_t i = 0; i < n; k = !k) {
        i = block(x, c, p, n, i, wait[k], &count[k]);
        NS_TRY(look_up(c, wait[!k], count[!k], err), "%s", "");
    }
    return look_up(c, wait[!k], count[!k], err);
}

#define LOOP(name, ...)                                                                  \
    static ns_status name(const word_call *c, const uint8_t *p, size_t n, ns_error *err) \
    {                                                                                    \
        const pattern x = {__VA_ARGS__};                                                 \
        return run(x, c, p, n, err);                                                     \
    }
LOOP(run_llama3, .digits = 3, .contractions = 2, .newlines = 1)
LOOP(run_qwen2, .digits = 1, .contractions = 2, .newlines = 1)
LOOP(run_gpt2, .blank_joins = 1, .digits = 64, .contractions = 1)
LOOP(run_tekken, .digits = 1, .camel = 1, .newlines = 1, .slash = 1)
LOOP(run_joins, .joins = 1)

ns_status ns_words_avx512(const word_call *c, const uint8_t *p, size_t n, int *done, ns_error *err)
{
    ns_split_fn next = c->t->next;
    *done = 1;
    if (!next && c->t->joins) return run_joins(c, p, n, err);
    if (next == ns_split_llama3) return run_llama3(c, p, n, err);
    if (next == ns_split_qwen2) return run_qwen2(c, p, n, err);
    if (next == ns_split_gpt2) return run_gpt2(c, p, n, err);
    if (next == ns_split_tekken) return run_tekken(c, p, n, err);
    *done = 0;
    return NS_OK;
}

#else /* another processor: words.c has the loops */
ns_status ns_words_avx512(const word_call *c, const uint8_t *p, size_t n, int *done, ns_error *err)
{
    (void)c, (void)p, (void)n, (void)err;
    *done = 0;
    return NS_OK;
}
#endif
