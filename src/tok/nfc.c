/* UTF-8 checking and the Unicode normalisation forms C, D, KC and KD (UAX #15); form C is what the Qwen tokenizers do
 * before splitting.
 *
 * Most text has its form already, so ns_normalize copies stretches of "inert" characters (quick check Yes and class 0: they start a
 * segment and never join with what precedes them) and works only on segments between two inert characters:
 *   decompose fully -> stable sort of each run of marks by class -> (C, KC) compose with the last starter.
 * A segment starts at the inert character before the first doubtful one, because that one may compose into it.
 * All steps are linear except the sort, which counts when a run is long, so a megabyte of accents stays fast. */
#include "tok/unicode.h"

#include <string.h>

#include "base/mem.h"

enum {
    S_BASE = 0xac00,
    L_BASE = 0x1100,
    V_BASE = 0x1161,
    T_BASE = 0x11a7,
    L_COUNT = 19,
    V_COUNT = 21,
    T_COUNT = 28,
    S_COUNT = L_COUNT * V_COUNT * T_COUNT
};

/* End of the ASCII characters at i. */
static inline size_t ascii_end(const uint8_t *p, size_t n, size_t i)
{
    uint64_t w[4];
    while (i + 32 <= n && (memcpy(w, p + i, 32), !((w[0] | w[1] | w[2] | w[3]) & 0x8080808080808080u))) i += 32;
    while (i + 8 <= n && (memcpy(w, p + i, 8), !(w[0] & 0x8080808080808080u))) i += 8;
    while (i < n && p[i] < 0x80) i++;
    return i;
}

size_t ns_utf8_check(const uint8_t *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        if (p[i] < 0x80) {
            i = ascii_end(p, n, i);
            continue;
        }
        uint8_t c = p[i];
        size_t len = c >= 0xc2 && c < 0xe0 ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
        if (!len || n - i < len) return i;
        for (size_t k = 1; k < len; k++)
            if ((p[i + k] & 0xc0) != 0x80) return i;
        uint8_t d = p[i + 1]; /* overlong forms, surrogates, past U+10FFFF */
        if ((c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) || (c == 0xf0 && d < 0x90) || (c == 0xf4 && d > 0x8f))
            return i;
        i += len;
    }
    return n;
}

/* Bytes of the ill-formed sequence at p: as many as could have begun a character (Unicode 15, section 3.9, "maximal
 * subpart"), at least 1. */
static size_t bad_length(const uint8_t *p, size_t n)
{
    uint8_t c = p[0];
    size_t len = c >= 0xc2 && c < 0xe0 ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
    uint8_t lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    size_t k = 1;
    while (k < len && k < n && p[k] >= lo && p[k] <= hi) {
        lo = 0x80;
        hi = 0xbf;
        k++;
    }
    return k;
}

ns_status ns_utf8_repair(ns_buf *out, const uint8_t *p, size_t n, ns_error *err)
{
    for (size_t i = 0; i < n;) {
        size_t good = ns_utf8_check(p + i, n - i);
        NS_TRY(ns_buf_add(out, p + i, good, err), "text");
        i += good;
        if (i == n) break;
        NS_TRY(ns_buf_adds(out, "\xef\xbf\xbd", err), "text");
        i += bad_length(p + i, n - i);
    }
    return NS_OK;
}

size_t ns_utf8_put(uint8_t out[4], uint32_t c)
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xc0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xe0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 63));
        out[2] = (uint8_t)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 63));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 63));
    out[3] = (uint8_t)(0x80 | (c & 63));
    return 4;
}

/* Offset of the first character at or after i that is not inert. Characters below bytes < 0xcc (U+0300) are inert in form C,
 * those below 0xc2 (ASCII) in all. */
static size_t skip_inert(ns_form form, const uint8_t *p, size_t n, size_t i)
{
    uint8_t safe = form == NS_NFC ? 0xcc : 0xc2;
    while (i < n) {
        if (p[i] < 0x80) {
            i = ascii_end(p, n, i);
            continue;
        }
        if (p[i] < safe) {
            i += 2;
            continue;
        }
        size_t len;
        if (ns_uni_qc(ns_utf8_at(p, i, &len)) >> form & 1) return i;
        i += len;
    }
    return n;
}

int ns_form_quick(ns_form form, const uint8_t *p, size_t n)
{
    return skip_inert(form, p, n, 0) == n;
}

/* Code points of one segment, each with the bytes of the source that it came from. */
typedef struct point {
    uint32_t cp;
    size_t from, to;
} point;
typedef struct segment {
    point *at;
    size_t n, cap;
    point *tmp;
    size_t tmp_cap;
    ns_form form;
} segment;

static ns_status push(segment *s, uint32_t c, ns_span src, ns_error *err)
{
    if (s->n == s->cap) NS_TRY(ns_grow((void **)&s->at, &s->cap, s->n + 1, sizeof *s->at, "tok.nfc", err), "grow");
    s->at[s->n++] = (point){c, src.from, src.to};
    return NS_OK;
}

static const ns_uni_decomp *find_decomp(const ns_uni_decomp *table, uint32_t n, uint32_t c)
{
    uint32_t lo = 0, hi = n;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        if (table[mid].cp < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && table[lo].cp == c ? &table[lo] : NULL;
}

static ns_status decompose(segment *s, uint32_t c, ns_span src, ns_error *err)
{
    if (c - S_BASE < S_COUNT) {
        uint32_t k = c - S_BASE;
        NS_TRY(push(s, L_BASE + k / (V_COUNT * T_COUNT), src, err), "hangul");
        NS_TRY(push(s, V_BASE + k / T_COUNT % V_COUNT, src, err), "hangul");
        return k % T_COUNT ? push(s, T_BASE + k % T_COUNT, src, err) : NS_OK;
    }
    const ns_uni_decomp *f = NULL;
    if (s->form == NS_NFKC || s->form == NS_NFKD) f = find_decomp(ns_uni_compats, ns_uni_n_compat, c);
    if (!f) f = find_decomp(ns_uni_decomps, ns_uni_n_decomp, c);
    if (!f) return push(s, c, src, err);
    const uint32_t *d = ns_uni_decomp_pool + f->at / 32;
    for (uint32_t k = 0; k < f->at % 32; k++) NS_TRY(push(s, d[k], src, err), "decompose");
    return NS_OK;
}

/* Stable sort of at[0..n), all marks, by class. */
static ns_status sort_marks(segment *s, point *at, size_t n, ns_error *err)
{
    if (n <= 32) {
        for (size_t i = 1; i < n; i++) {
            point c = at[i];
            size_t j = i;
            for (uint8_t k = ns_uni_ccc(c.cp); j > 0 && ns_uni_ccc(at[j - 1].cp) > k; j--) at[j] = at[j - 1];
            at[j] = c;
        }
        return NS_OK;
    }
    NS_TRY(ns_grow((void **)&s->tmp, &s->tmp_cap, n, sizeof *s->tmp, "tok.nfc", err), "grow");
    size_t first[257] = {0};
    for (size_t i = 0; i < n; i++) first[ns_uni_ccc(at[i].cp) + 1]++;
    for (size_t k = 1; k < 257; k++) first[k] += first[k - 1];
    for (size_t i = 0; i < n; i++) s->tmp[first[ns_uni_ccc(at[i].cp)]++] = at[i];
    memcpy(at, s->tmp, n * sizeof *at);
    return NS_OK;
}

static uint32_t compose_pair(uint32_t a, uint32_t b)
{
    if (a - L_BASE < L_COUNT && b - V_BASE < V_COUNT) return S_BASE + ((a - L_BASE) * V_COUNT + b - V_BASE) * T_COUNT;
    if (a - S_BASE < S_COUNT && (a - S_BASE) % T_COUNT == 0 && b - T_BASE - 1 < T_COUNT - 1) return a + b - T_BASE;
    uint32_t lo = 0, hi = ns_uni_n_comp;
    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;
        const ns_uni_comp *m = &ns_uni_comps[mid];
        if (m->first < a || (m->first == a && m->second < b))
            lo = mid + 1;
        else
            hi = mid;
    }
    const ns_uni_comp *m = &ns_uni_comps[lo];
    return lo < ns_uni_n_comp && m->first == a && m->second == b ? m->composed : 0;
}

/* Composes in place: a character joins the last starter unless something of its class or higher lies between. */
static void compose(segment *s)
{
    size_t w = 0, starter = SIZE_MAX;
    int last = -1; /* class of the last character kept after the starter; -1: none */
    for (size_t i = 0; i < s->n; i++) {
        point c = s->at[i];
        int k = ns_uni_ccc(c.cp);
        if (starter != SIZE_MAX && (last < 0 || last < k)) {
            point *to = &s->at[starter];
            uint32_t x = compose_pair(to->cp, c.cp);
            if (x) {
                to->cp = x;
                if (c.from < to->from) to->from = c.from;
                if (c.to > to->to) to->to = c.to;
                continue;
            }
        }
        if (k == 0) {
            starter = w;
            last = -1;
        } else
            last = k;
        s->at[w++] = c;
    }
    s->n = w;
}

/* p[i..end) */
static ns_status do_segment(segment *s, ns_buf *out, ns_spans *al, const uint8_t *p, size_t i, size_t end,
                            ns_error *err)
{
    s->n = 0;
    for (size_t len; i < end; i += len) {
        uint32_t c = ns_utf8_at(p, i, &len);
        NS_TRY(decompose(s, c, (ns_span){i, i + len}, err), "decompose");
    }
    for (size_t k = 0; k < s->n;) {
        size_t j = k;
        while (j < s->n && ns_uni_ccc(s->at[j].cp)) j++;
        if (j - k > 1) NS_TRY(sort_marks(s, s->at + k, j - k, err), "order marks");
        k = j + 1;
    }
    if (s->form == NS_NFC || s->form == NS_NFKC) compose(s);
    NS_TRY(ns_buf_reserve(out, s->n * 4, err), "grow");
    for (size_t k = 0; k < s->n; k++) {
        uint8_t *to = (uint8_t *)out->data + out->len;
        size_t len = ns_utf8_put(to, s->at[k].cp), from = s->at[k].from;
        out->len += len;
        if (!al) continue;
        if (s->at[k].to - from == len && !memcmp(to, p + from, len)) /* unchanged */
            NS_TRY(ns_spans_copy(al, len, from, err), "%s", "");
        else
            NS_TRY(ns_spans_add(al, len, from, s->at[k].to, err), "%s", "");
    }
    out->data[out->len] = 0;
    return NS_OK;
}

ns_status ns_normalize(ns_form form, ns_buf *out, ns_spans *al, const uint8_t *p, size_t n, ns_error *err)
{
    segment s = {.form = form};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_buf_reserve(out, n, err), "grow");
    out->data[out->len] = 0; /* also when there is nothing to add */
    for (size_t i = 0; i < n;) {
        size_t j = skip_inert(form, p, n, i), end = j;
        if (j < n && j > i) j = ns_utf8_back(p, j); /* the starter that the doubtful character may join */
        NS_CHECK(st, ns_buf_add(out, p + i, j - i, err), "copy");
        if (al) NS_CHECK(st, ns_spans_copy(al, j - i, i, err), "%s", "");
        size_t len;
        while (end < n && (ns_uni_qc(ns_utf8_at(p, end, &len)) >> form & 1)) end += len;
        if (end > j) NS_CHECK(st, do_segment(&s, out, al, p, j, end, err), "normalise");
        i = end;
    }
done:
    ns_free(s.at);
    ns_free(s.tmp);
    return st;
}
