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
    int blank_joins;   /* only a blank stands before letters (and before digits), not any character */
    int digits;        /* in a piece; 64: any number */
    int contractions;  /* 0 none, 1 as written, 2 in capitals too */
    int camel;         /* a capital behind a small letter starts a piece */
    int newlines;      /* CR and LF end punctuation, and white space up to the last of them is a piece */
    int slash;         /* `/` goes on with the newlines behind punctuation */
    int joins;         /* SentencePiece style: none of the above */
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
    uint64_t last = B & ~(S >> 1);                             /* of a run of white space */
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

typedef struct cursor {
    const word_call *c;
    int32_t *to; /* where the next id goes; the list's length is set before a call */
} cursor;

__attribute__((noinline)) static ns_status miss(cursor *u, const uint8_t *p, size_t n, const word *k, word *at,
                                                ns_error *err)
{
    ns_ids *out = u->c->out;
    out->n = (size_t)(u->to - out->v);
    NS_TRY(ns_words_meet(u->c, p, n, k, at, err), "%s", "");
    NS_TRY(ns_words_room(out, 64 * WORD_IDS, err), "ids");
    u->to = out->v + out->n;
    return NS_OK;
}

static inline __attribute__((always_inline)) ns_status piece(cursor *u, uint32_t serial, const uint8_t *p, size_t n,
                                                             ns_error *err)
{
    if (n > WORD_MAX) return miss(u, p, n, NULL, NULL, err);
    __m128i v = _mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p); /* reads nothing else */
    word k;
    k.lo = (uint64_t)_mm_cvtsi128_si64(v);
    k.hi = (uint64_t)_mm_extract_epi64(v, 1) | (uint64_t)n << 56;
    word *line = word_line(k.lo, k.hi), *hit = line + !word_is(line, k.lo, k.hi, serial);
    if (!word_is(hit, k.lo, k.hi, serial)) return miss(u, p, n, &k, line, err);
    memcpy(u->to, hit->id, 16);
    u->to += hit->tag & 3;
    return NS_OK;
}

static inline __attribute__((always_inline)) ns_status run(const pattern x, const word_call *c, const uint8_t *p,
                                                           size_t n, ns_error *err)
{
    uint32_t serial = c->t->serial;
    const uint64_t *joins = c->t->joins;
    cursor u = {c, NULL};
    for (size_t i = 0; i < n;) {
        size_t w = n - i < 64 ? n - i : 64;
        __m512i v = _mm512_maskz_loadu_epi8(low_bits(w), p + i);
        uint64_t high = x.joins ? 0 : _mm512_movepi8_mask(v);
        int ends = i + w == n && !high;
        if (high) w = (size_t)__builtin_ctzll(high);
        classes k = {.width = low_bits(w)};
        k.L = below(_mm512_or_si512(v, _mm512_set1_epi8(0x20)), 'a', 26) & k.width;
        k.blank = is(v, ' ');
        uint64_t starts, known;
        if (x.joins) {
            starts = starts_by_joins(joins, p + i, v, &k);
            known = k.width;
        } else {
            uint64_t crlf = is(v, '\r') | is(v, '\n');
            k.N = below(v, '0', 10) & k.width;
            k.S = k.blank | below(v, '\t', 5);
            k.R = crlf;
            k.P = k.width & ~(k.L | k.N | k.S);
            uint64_t words = k.L | k.N;
            known = ends ? k.width : words ? low_bits(64 - (size_t)__builtin_clzll(words)) : 0;
            starts = starts_of(x, v, &k, ends);
            if (x.slash && (is(v, '/') & crlf << 1)) known = 0;
            if (x.slash) ends &= known != 0;
        }
        NS_TRY(ns_words_room(c->out, 64 * WORD_IDS, err), "ids");
        u.to = c->out->v + c->out->n;
        size_t from = 0;
        for (uint64_t m = starts & known & ~(uint64_t)1; m; m &= m - 1) {
            size_t e = (size_t)__builtin_ctzll(m);
            ns_status st = piece(&u, serial, p + i + from, e - from, err);
            if (st != NS_OK) return st;
            from = e;
        }
        if (ends || !from) {
            size_t e = ends ? w : word_cut(c->t, p, n, i + from) - i;
            NS_VERIFY(e > from && i + e <= n);
            ns_status st = piece(&u, serial, p + i + from, e - from, err);
            if (st != NS_OK) return st;
            from = e;
        }
        c->out->n = (size_t)(u.to - c->out->v);
        i += from;
    }
    return NS_OK;
}

#define LOOP(name, ...)                                                                           \
    static ns_status name(const word_call *c, const uint8_t *p, size_t n, ns_error *err)          \
    {                                                                                             \
        const pattern x = {__VA_ARGS__};                                                          \
        return run(x, c, p, n, err);                                                              \
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
