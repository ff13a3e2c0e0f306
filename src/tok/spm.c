/* SentencePiece at work: normalise a text, cut out user-defined symbols, encode what is between by BPE (the tables of
 * bpe.c with ranks by score) or by Unigram (the best path), and replace what is unknown by bytes or by one unk.
 * Each rule is that of the sentencepiece library (normalizer.cc, bpe_model.cc, unigram_model.cc). */
#include "tok/spm.h"

#include <string.h>

#include "tok/tok_internal.h"
#include "tok/unicode.h"

/* ---- normaliser ---- */
/* The longest rule of the map that starts at p[i]: bytes it takes (0: none) and what they become (p NULL: damaged). */
static size_t map_longest(const ns_spm_map *m, const uint8_t *p, size_t n, size_t i, ns_str *to)
{
    size_t best = 0, start = i, node = 0;
    if (!m->n_units) return 0;
    uint32_t unit = m->unit[0];
#define OFFSET(u) ((size_t)((u) >> 10) << (((u) & (1u << 9)) >> 6))
    node ^= OFFSET(unit);
    for (; i < n; i++) {
        node ^= p[i];
        if (node >= m->n_units) break;
        unit = m->unit[node];
        if ((unit & ((1u << 31) | 0xff)) != p[i]) break;
        node ^= OFFSET(unit);
        if (!(unit >> 8 & 1)) continue;
        if (node >= m->n_units) break;
        size_t value = m->unit[node] & 0x7fffffff;
        if (value >= m->text_n) break;
        best = i + 1 - start;
        *to = (ns_str){m->text + value, strlen(m->text + value)}; /* the loader saw the last NUL */
        /* A rule takes whole characters and gives some; another one is damage. */
        if (((uint8_t)to->p[0] & 0xc0) == 0x80 || (i + 1 < n && (p[i + 1] & 0xc0) == 0x80)) to->p = NULL;
    }
    return best;
}

/* One unit of text at p[i]: a user-defined symbol, a rule of the map, or a character. */
static size_t next_unit(const ns_spm *sp, const uint8_t *p, size_t n, size_t i, ns_str *to)
{
    int32_t id;
    size_t len = sp->user.n ? ns_ptrie_longest(&sp->user, p, n, i, &id) : 0;
    if (!len) {
        len = map_longest(&sp->map, p, n, i, to);
        if (len) return len;
        ns_utf8_at(p, i, &len);
    }
    *to = (ns_str){(const char *)p + i, len};
    return len;
}

typedef struct sink {
    const ns_spm *sp;
    ns_buf *out;
    ns_spans *map;
} sink;

static ns_status put(sink *s, const char *p, size_t n, size_t from, size_t to, ns_error *err)
{
    NS_TRY(ns_buf_add(s->out, p, n, err), "normalise");
    return s->map ? ns_spans_add(s->map, n, from, to, err) : NS_OK;
}
static ns_status put_blank(sink *s, size_t from, size_t to, ns_error *err)
{
    return s->sp->escape_blanks ? put(s, NS_META, 3, from, to, err) : put(s, " ", 1, from, to, err);
}

/* A unit that stands for p[i..i+len); bytes that are p's own keep their places. */
static ns_status put_unit(sink *s, ns_str unit, const uint8_t *p, size_t i, size_t len, ns_error *err)
{
    int own = (const uint8_t *)unit.p >= p + i && (const uint8_t *)unit.p < p + i + len;
    for (size_t k = 0; k < unit.n;) {
        size_t from = own ? (size_t)((const uint8_t *)unit.p + k - p) : i, to = own ? from + 1 : i + len, stop = k;
        if (unit.p[k] == ' ' && s->sp->escape_blanks) {
            NS_TRY(put_blank(s, from, to, err), "%s", "");
            k++;
            continue;
        }
        while (stop < unit.n && !(unit.p[stop] == ' ' && s->sp->escape_blanks)) stop++;
        if (own && s->map) NS_TRY(ns_spans_copy(s->map, stop - k, from, err), "%s", "");
        if (own)
            NS_TRY(ns_buf_add(s->out, unit.p + k, stop - k, err), "normalise");
        else
            NS_TRY(put(s, unit.p + k, stop - k, from, to, err), "%s", "");
        k = stop;
    }
    return NS_OK;
}

/* Characters that are certain to be units of their own: then a stretch of them is copied at once. */
static size_t plain_run(const ns_spm *sp, const uint8_t *p, size_t n, size_t i)
{
    if (sp->user.n || sp->map.n_units || sp->remove_blanks) return 0;
    const uint8_t *blank = memchr(p + i, ' ', n - i);
    return (blank ? (size_t)(blank - p) : n) - i;
}

ns_status ns_spm_normalize(const ns_spm *sp, ns_buf *out, ns_spans *map, const uint8_t *p, size_t n, ns_error *err)
{
    sink s = {sp, out, map};
    ns_str unit = {0};
    size_t i = 0, len, first = out->len;
    NS_TRY(ns_buf_reserve(out, n + n / 4 + 4, err), "normalise");
    out->data[out->len] = 0;
    if (sp->remove_blanks)
        for (; i < n; i += len) {
            len = next_unit(sp, p, n, i, &unit);
            if (!unit.p || unit.n != 1 || unit.p[0] != ' ') break;
        }
    if (i == n) return NS_OK;
    if (sp->dummy_prefix && !sp->suffix) NS_TRY(put_blank(&s, i, i, err), "%s", "");
    for (int after_blank = sp->remove_blanks; i < n; i += len) {
        len = plain_run(sp, p, n, i);
        if (len)
            unit = (ns_str){(const char *)p + i, len};
        else
            len = next_unit(sp, p, n, i, &unit);
        NS_FAIL_IF(!unit.p, NS_ERR_INPUT,
                   "text byte %zu: the rule of precompiled_charsmap for it cuts a character: the "
                   "tokenizer file is damaged",
                   i);
        while (after_blank && unit.n && unit.p[0] == ' ') {
            unit.p++;
            unit.n--;
        }
        if (!unit.n) continue;
        NS_TRY(put_unit(&s, unit, p, i, len, err), "%s", "");
        after_blank = sp->remove_blanks && unit.p[unit.n - 1] == ' ';
    }
    const char *blank = sp->escape_blanks ? NS_META : " ";
    size_t blank_n = strlen(blank);
    while (sp->remove_blanks && out->len - first >= blank_n &&
           !memcmp(out->data + out->len - blank_n, blank, blank_n)) {
        out->len -= blank_n;
        if (map) map->n -= blank_n;
    }
    out->data[out->len] = 0;
    return sp->dummy_prefix && sp->suffix ? put_blank(&s, n, n, err) : NS_OK;
}

/* ---- results ---- */
typedef struct emitter {
    const ns_tok *t;
    ns_ids *out;
    ns_spans *spans; /* NULL: not asked for */
    const ns_pieces *q;
    int after_unk;
} emitter;

static ns_status push(emitter *e, int32_t id, size_t from, size_t to, ns_error *err)
{
    e->after_unk = id == e->t->sp->unk;
    NS_TRY(ns_ids_push(e->out, id, err), "ids");
    if (!e->spans) return NS_OK;
    ns_span s = ns_pieces_source(e->q, from, to);
    return ns_spans_add(e->spans, 1, s.from, s.to, err);
}

/* A symbol of the encoder that covers q->p[from..to). */
static ns_status emit(emitter *e, int32_t id, size_t from, size_t to, ns_error *err)
{
    const ns_spm *sp = e->t->sp;
    if (id < sp->n && sp->kind[id] == NS_SPM_UNUSED && sp->part && sp->part[id][0] >= 0) {
        size_t mid = from + e->t->bpe.span[sp->part[id][0]].len;
        NS_TRY(emit(e, sp->part[id][0], from, mid, err), "%s", "");
        return emit(e, sp->part[id][1], mid, to, err);
    }
    if (id < sp->n && id != sp->unk) return push(e, id, from, to, err);
    if (sp->byte_fallback) {
        for (; from < to; from++) NS_TRY(push(e, e->t->bpe.byte_id[e->q->p[from]], from, from + 1, err), "%s", "");
        return NS_OK;
    }
    if (!e->after_unk) return push(e, sp->unk, from, to, err);
    if (e->spans) e->spans->v[e->spans->n - 1].to = ns_pieces_source(e->q, from, to).to; /* one unk for all of them */
    return NS_OK;
}

/* ---- BPE ---- */
static ns_status word(emitter *e, ns_gap_work *w, size_t from, size_t to, ns_error *err)
{
    const ns_bpe *m = &e->t->bpe;
    const uint8_t *p = e->q->p;
    w->ids.n = 0;
    NS_TRY(ns_bpe_encode(m, &w->bpe, &w->ids, p + from, to - from, err), "%s", "");
    for (size_t k = 0; k < w->ids.n; k++) {
        size_t len = from < to ? ns_bpe_length(m, w->ids.v[k], p + from, to - from) : 0;
        NS_TRY(emit(e, w->ids.v[k], from, from + len, err), "%s", "");
        from += len;
    }
    return NS_OK;
}

static ns_status bpe(emitter *e, ns_gap_work *w, size_t from, size_t to, ns_error *err)
{
    const ns_spm *sp = e->t->sp;
    const uint8_t *p = e->q->p;
    /* Without these there is nothing to look at afterwards. */
    int plain = !e->spans && !sp->n_virtual && !sp->part && sp->byte_fallback;
    if (from < to && plain) e->after_unk = 0;
    for (size_t end; from < to; from = end) {
        end = e->t->marks_apart ? from + ns_split_marks(p + from, to - from, 0) : to;
        if (plain)
            NS_TRY(ns_bpe_encode(&e->t->bpe, &w->bpe, e->out, p + from, end - from, err), "%s", "");
        else
            NS_TRY(word(e, w, from, end, err), "%s", "");
    }
    return NS_OK;
}

/* ---- Unigram: the best path to each byte ---- */
typedef struct ns_spm_best {
    float score;
    int32_t id;
    size_t from; /* SIZE_MAX: not reached */
} ns_spm_best;

static void reach(ns_spm_best *b, double score, int32_t id, size_t from)
{
    if (b->from != SIZE_MAX && !(score > (double)b->score)) return;
    *b = (ns_spm_best){(float)score, id, from};
}

static void forward(const ns_spm *sp, ns_spm_best *best, const uint8_t *p, size_t n)
{
    const double unknown = (double)(sp->min_score - 10.0f); /* the penalty of the library */
    size_t first;
    for (size_t i = 0; i < n; i += first) {
        double here = (double)best[i].score;
        int alone = 0;
        uint32_t node = 0;
        ns_utf8_at(p, i, &first);
        for (size_t k = i; k < n && (node = ns_ptrie_step(&sp->pieces, node, p[k])); k++) {
            int32_t id = sp->pieces.value[node];
            ns_bpe_steps++;
            if (id < 0) continue;
            size_t len = k + 1 - i;
            double score =
                sp->kind[id] == NS_SPM_USER ? (double)((float)len * sp->max_score) - 0.1 : (double)sp->score[id];
            if (sp->kind[id] == NS_SPM_USER)
                reach(&best[k + 1], score + here, id, i);
            else /* in single precision, as there */
                reach(&best[k + 1], (double)((float)score + (float)here), id, i);
            alone |= len == first;
        }
        if (!alone) reach(&best[i + first], (double)((float)unknown + (float)here), sp->unk, i);
    }
}

static ns_status unigram(emitter *e, ns_gap_work *w, ns_error *err)
{
    const ns_spm *sp = e->t->sp;
    const uint8_t *p = e->q->p;
    size_t n = e->q->n, k = 0;
    if (!n) return NS_OK;
    NS_TRY(ns_grow((void **)&w->best, &w->best_cap, n + 1, sizeof(ns_spm_best), "tok.unigram", err), "best path");
    ns_spm_best *best = w->best;
    for (size_t i = 0; i <= n; i++) best[i] = (ns_spm_best){0, -1, SIZE_MAX};
    forward(sp, best, p, n);
    for (size_t i = n; i > 0; i = best[i].from) k++;
    w->tmp.n = 0;
    NS_TRY(ns_spans_add(&w->tmp, k, 0, 0, err), "best path");
    for (size_t i = n; i > 0; i = best[i].from) w->tmp.v[--k] = (ns_span){best[i].from, i};
    for (k = 0; k < w->tmp.n; k++)
        NS_TRY(emit(e, best[w->tmp.v[k].to].id, w->tmp.v[k].from, w->tmp.v[k].to, err), "%s", "");
    return NS_OK;
}

ns_status ns_spm_encode(const ns_tok *t, ns_gap_work *w, ns_ids *out, ns_spans *spans, const uint8_t *p, size_t n,
                        size_t at, ns_error *err)
{
    const ns_spm *sp = t->sp;
    ns_buf_clear(&w->norm);
    w->map.n = 0;
    NS_TRY(ns_spm_normalize(sp, &w->norm, spans ? &w->map : NULL, p, n, err), "normalise");
    for (size_t i = 0; i < w->map.n; i++) {
        w->map.v[i].from += at;
        w->map.v[i].to += at;
    }
    ns_pieces q = {.p = (const uint8_t *)w->norm.data, .n = w->norm.len, .al = spans ? w->map.v : NULL};
    emitter e = {t, out, spans, &q, 0};
    if (sp->unigram) return unigram(&e, w, err);
    size_t gap = 0, i = 0;
    while (sp->user.n && i < q.n) {
        int32_t id;
        size_t len = ns_ptrie_longest(&sp->user, q.p, q.n, i, &id);
        if (!len) {
            i++; /* a symbol is whole characters, so it starts at none of the bytes inside one */
            continue;
        }
        NS_TRY(bpe(&e, w, gap, i, err), "%s", "");
        NS_TRY(push(&e, id, i, i + len, err), "%s", "");
        gap = i += len;
    }
    return bpe(&e, w, gap, q.n, err);
}

void ns_spm_free(ns_spm *sp)
{
    if (!sp) return;
    ns_free(sp->kind);
    ns_free(sp->score);
    ns_free(sp->part);
    ns_ptrie_free(&sp->user);
    ns_ptrie_free(&sp->pieces);
    ns_free(sp);
}
