/* Pre-tokenizer steps with the meaning of the Hugging Face library: a Split step lists the matches and the stretches
 * between them, then its behavior says which neighbours are one piece and which are dropped (data.md §6.2). */
#include "tok/pretok.h"

#include <string.h>

#include "base/mem.h"

/* A stretch of a piece: a match, or what lies between two. */
typedef struct ns_cut {
    size_t from, to;
    int match, drop;
} ns_cut;

static ns_status add_cut(ns_pre_work *w, size_t from, size_t to, int match, ns_error *err)
{
    if (w->n_cut == w->cut_cap)
        NS_TRY(ns_grow((void **)&w->cut, &w->cut_cap, w->n_cut + 1, sizeof *w->cut, "tok.pieces", err), "%s", "");
    w->cut[w->n_cut++] = (ns_cut){from, to, match, 0};
    return NS_OK;
}

static ns_status add_piece(ns_pieces *a, size_t from, size_t to, ns_error *err)
{
    if (from == to) return NS_OK;
    if (a->n_pieces == a->cap)
        NS_TRY(ns_grow((void **)&a->piece, &a->cap, a->n_pieces + 1, sizeof *a->piece, "tok.pieces", err), "%s", "");
    a->piece[a->n_pieces++] = (ns_span){from, to};
    return NS_OK;
}

ns_status ns_pieces_start(ns_pieces *a, ns_error *err)
{
    a->n_pieces = 0;
    return add_piece(a, 0, a->n, err);
}

static inline int mark_at(const uint8_t *p, size_t n, size_t i)
{
    return n - i >= 3 && p[i] == 0xe2 && p[i + 1] == 0x96 && p[i + 2] == 0x81;
}

size_t ns_split_marks(const uint8_t *p, size_t n, size_t i)
{
    while (mark_at(p, n, i)) i += 3;
    for (; i < n; i++) {
        const uint8_t *next = memchr(p + i, 0xe2, n - i);
        i = next ? (size_t)(next - p) : n;
        if (mark_at(p, n, i)) break;
    }
    return i < n ? i : n;
}

/* First match at or after i; from == SIZE_MAX: none. */
static ns_status find(const ns_pre_step *x, ns_regex_work *rw, const uint8_t *p, size_t n, size_t i, ns_span *hit,
                      ns_error *err)
{
    hit->from = hit->to = SIZE_MAX;
    if (x->re) return ns_regex_next(x->re, rw, p, n, i, hit, err);
    if (x->fn) {
        *hit = (ns_span){i, x->fn(p, n, i)};
        return NS_OK;
    }
    if (x->numbers) {
        for (size_t len; i < n; i += len)
            if (ns_uni_class(ns_utf8_at(p, i, &len)) & NS_UC_N) {
                *hit = (ns_span){i, i + len};
                break;
            }
        return NS_OK;
    }
    const uint8_t *f = memmem(p + i, n - i, x->literal.p, x->literal.n);
    if (f) *hit = (ns_span){(size_t)(f - p), (size_t)(f - p) + x->literal.n};
    return NS_OK;
}

static ns_status list_cuts(const ns_pre_step *x, ns_regex_work *rw, ns_pre_work *w, const uint8_t *p, size_t n,
                           ns_error *err)
{
    ns_span hit;
    w->n_cut = 0;
    for (size_t i = 0; i < n; i = hit.to) {
        NS_TRY(find(x, rw, p, n, i, &hit, err), "%s", "");
        size_t end = hit.from == SIZE_MAX ? n : hit.from;
        if (end > i) NS_TRY(add_cut(w, i, end, x->invert, err), "%s", "");
        if (hit.from == SIZE_MAX) break;
        NS_TRY(add_cut(w, hit.from, hit.to, !x->invert, err), "%s", "");
    }
    return NS_OK;
}

/* Joins and drops neighbours in cut[]. */
static void behave(ns_behavior b, ns_pre_work *w)
{
    size_t k = 0;
    int previous = 0;
    ns_cut *c = w->cut;
    if (b == NS_CUT_REMOVED)
        for (size_t i = 0; i < w->n_cut; i++) c[i].drop = c[i].match;
    if (b == NS_CUT_MERGED_WITH_PREVIOUS || b == NS_CUT_CONTIGUOUS) {
        for (size_t i = 0; i < w->n_cut; i++) {
            int m = c[i].match, join = k && (b == NS_CUT_CONTIGUOUS ? m == previous : m && !previous);
            if (join)
                c[k - 1].to = c[i].to;
            else
                c[k++] = c[i];
            previous = m;
        }
        w->n_cut = k;
    }
    if (b == NS_CUT_MERGED_WITH_NEXT) { /* the same from the right: written to the end, then moved */
        size_t n = w->n_cut;
        k = n;
        for (size_t i = n; i-- > 0;) {
            int m = c[i].match;
            ns_cut x = c[i];
            if (k < n && m && !previous)
                c[k].from = x.from;
            else
                c[--k] = x;
            previous = m;
        }
        w->n_cut = n - k;
        if (w->n_cut) memmove(c, c + k, w->n_cut * sizeof *c);
    }
}

static ns_status split(const ns_pre_step *x, int i, ns_pre_work *w, ns_pieces *a, ns_pieces *b, ns_error *err)
{
    b->n_pieces = 0;
    for (size_t k = 0; k < a->n_pieces; k++) {
        size_t from = a->piece[k].from, n = a->piece[k].to - from;
        NS_TRY(list_cuts(x, &w->regex[i], w, a->p + from, n, err), "%s", "");
        behave(x->behavior, w);
        for (size_t j = 0; j < w->n_cut; j++)
            if (!w->cut[j].drop) NS_TRY(add_piece(b, from + w->cut[j].from, from + w->cut[j].to, err), "%s", "");
    }
    ns_span *old = a->piece; /* the cuts are b's now, the text stays a's */
    size_t old_cap = a->cap;
    a->piece = b->piece;
    a->cap = b->cap;
    a->n_pieces = b->n_pieces;
    b->piece = old;
    b->cap = old_cap;
    return NS_OK;
}

/* Sources of a->p[i..j). */
static ns_status copy_text(const ns_pieces *a, ns_pieces *b, size_t i, size_t j, ns_error *err)
{
    NS_TRY(ns_buf_add(&b->text, a->p + i, j - i, err), "%s", "");
    if (!a->tracked) return NS_OK;
    if (!a->al) return ns_spans_copy(&b->map, j - i, a->at + i, err);
    for (; i < j; i++) NS_TRY(ns_spans_add(&b->map, 1, a->al[i].from, a->al[i].to, err), "%s", "");
    return NS_OK;
}

/* `text` in the place of a->p[i..j); nothing is replaced when i == j. */
static ns_status put_text(const ns_pieces *a, ns_pieces *b, ns_str text, size_t i, size_t j, ns_error *err)
{
    NS_TRY(ns_buf_add(&b->text, text.p, text.n, err), "%s", "");
    if (!a->tracked) return NS_OK;
    size_t from = a->al ? a->al[i].from : a->at + i, to = i == j ? from : a->al ? a->al[j - 1].to : a->at + j;
    return ns_spans_add(&b->map, text.n, from, to, err);
}

static int starts_with(const uint8_t *p, size_t n, ns_str s)
{
    return n >= s.n && !memcmp(p, s.p, s.n);
}

static ns_status change_piece(const ns_pre_step *x, const ns_pieces *a, ns_pieces *b, size_t from, size_t to,
                              ns_error *err)
{
    const ns_str blank = {" ", 1};
    if (x->kind == NS_PRE_SPACE) {
        if (a->p[from] != ' ') NS_TRY(put_text(a, b, blank, from, from, err), "%s", "");
        return copy_text(a, b, from, to, err);
    }
    size_t source = from == 0 ? a->at : a->al ? a->al[from].from : a->at + from;
    int has = a->p[from] == ' ' || starts_with(a->p + from, to - from, x->literal);
    if (!has && (x->scheme == NS_SCHEME_ALWAYS || (x->scheme == NS_SCHEME_FIRST && source == 0)))
        NS_TRY(put_text(a, b, x->literal, from, from, err), "%s", "");
    for (size_t i = from; i < to;) {
        const uint8_t *f = memchr(a->p + i, ' ', to - i);
        size_t end = f ? (size_t)(f - a->p) : to;
        NS_TRY(copy_text(a, b, i, end, err), "%s", "");
        if (!f) break;
        NS_TRY(put_text(a, b, x->literal, end, end + 1, err), "%s", "");
        i = end + 1;
    }
    return NS_OK;
}

/* METASPACE and SPACE: the text is written anew into b, which then takes the place of a. */
static ns_status change(const ns_pre_step *x, ns_pieces *a, ns_pieces *b, ns_error *err)
{
    ns_buf_clear(&b->text);
    b->map.n = 0;
    b->n_pieces = 0;
    for (size_t k = 0; k < a->n_pieces; k++) {
        size_t start = b->text.len;
        NS_TRY(change_piece(x, a, b, a->piece[k].from, a->piece[k].to, err), "%s", "");
        NS_TRY(add_piece(b, start, b->text.len, err), "%s", "");
    }
    b->p = (const uint8_t *)b->text.data;
    b->n = b->text.len;
    b->at = a->at;
    b->tracked = a->tracked;
    b->al = a->tracked ? b->map.v : NULL;
    ns_pieces swap = *a;
    *a = *b;
    *b = swap;
    return NS_OK;
}

ns_status ns_pre_step_run(const ns_pre_step *x, int i, ns_pre_work *w, ns_pieces *a, ns_pieces *b, ns_error *err)
{
    if (x->kind == NS_PRE_SPLIT) return split(x, i, w, a, b, err);
    NS_TRY(change(x, a, b, err), "%s", "");
    if (x->kind != NS_PRE_METASPACE || !x->split) return NS_OK;
    ns_pre_step cut = {.kind = NS_PRE_SPLIT, .literal = x->literal, .behavior = NS_CUT_MERGED_WITH_NEXT};
    return split(&cut, i, w, a, b, err);
}

void ns_pieces_free(ns_pieces *a)
{
    ns_free(a->piece);
    ns_buf_free(&a->text);
    ns_spans_free(&a->map);
    memset(a, 0, sizeof *a);
}
void ns_pre_work_free(ns_pre_work *w)
{
    for (int i = 0; i < NS_PRE_MAX; i++) ns_regex_work_free(&w->regex[i]);
    ns_free(w->cut);
    memset(w, 0, sizeof *w);
}
