/* The general way through a tokenizer for a stretch of text between added tokens: any list of pre-tokenizer steps, and
 * where each token came from. What is common and asks for no spans goes through tok.c instead.
 *   gap -> normalizer steps -> added tokens matched normalised -> pre-tokenizer steps -> model, piece by piece */
#include <string.h>

#include "tok/tok_internal.h"
#include "tok/unicode.h"

size_t ns_bpe_length(const ns_bpe *m, int32_t id, const uint8_t *p, size_t n)
{
    ns_bpe_span s = m->span[id];
    size_t len = 1, i = 0;
    if (m->by_char) ns_utf8_at(p, 0, &len);
    /* The unknown symbol for a character without a token: what its own text is (`<unk>`) says nothing then. */
    int unknown = id == m->unk && m->byte_id[p[0]] < 0 && (!m->by_char || ns_bpe_find(m, p, len) < 0);
    if (!unknown && s.len <= n && s.len && !memcmp(m->text + s.at, p, s.len)) return s.len;
    if (!m->by_char) {
        if (id != m->unk || !m->fuse_unk) return 1;
        while (i < n && m->byte_id[p[i]] < 0) i++;
        return i ? i : 1;
    }
    if (m->byte_id[p[0]] == id) return 1;
    for (; i < n; i += len) {
        ns_utf8_at(p, i, &len);
        if (i && (!m->fuse_unk || ns_bpe_find(m, p + i, len) >= 0)) break;
    }
    return i;
}

/* Bytes that were put in count for nothing beside others. */
ns_span ns_pieces_source(const ns_pieces *q, size_t i, size_t j)
{
    if (!q->al) return (ns_span){q->at + i, q->at + j};
    if (i >= j) { /* nothing of the text: the place behind what came before */
        size_t at = i ? q->al[i - 1].to : q->n ? q->al[0].from : 0;
        return (ns_span){at, at};
    }
    while (i + 1 < j && q->al[i].from == q->al[i].to) i++;
    while (j - 1 > i && q->al[j - 1].from == q->al[j - 1].to) j--;
    return (ns_span){q->al[i].from, q->al[j - 1].to};
}

static ns_status add_spans(const ns_tok *t, const ns_ids *out, size_t first, ns_spans *spans, const ns_pieces *q,
                           ns_span piece, ns_error *err)
{
    size_t i = piece.from;
    for (size_t k = first; k < out->n; k++) {
        size_t left = piece.to - i, len = left ? ns_bpe_length(&t->bpe, out->v[k], q->p + i, left) : 0;
        if (k + 1 == out->n) len = left;
        ns_span s = len ? ns_pieces_source(q, i, i + len) : (ns_span){0, 0};
        NS_TRY(ns_spans_add(spans, 1, s.from, s.to, err), "spans");
        i += len;
    }
    return NS_OK;
}

/* q: one piece, between two added tokens. */
static ns_status run_steps(const ns_tok *t, ns_gap_work *w, ns_ids *out, ns_spans *spans, const ns_pieces *q,
                           ns_error *err)
{
    ns_pieces *a = &w->a;
    a->p = q->p;
    a->n = q->n;
    a->at = q->at;
    a->al = q->al;
    a->tracked = q->tracked;
    NS_TRY(ns_pieces_start(a, err), "%s", "");
    for (int i = 0; i < t->n_pre; i++) NS_TRY(ns_pre_step_run(&t->pre[i], i, &w->pre, a, &w->b, err), "pre_tokenizer");
    for (size_t k = 0; k < a->n_pieces; k++) {
        ns_span s = a->piece[k];
        for (size_t end = a->piece[k].to; s.from < end; s.from = s.to) {
            size_t first = out->n;
            s.to = t->marks_apart ? s.from + ns_split_marks(a->p + s.from, end - s.from, 0) : end;
            NS_TRY(ns_bpe_encode(&t->bpe, &w->bpe, out, a->p + s.from, s.to - s.from, err), "%s", "");
            if (spans) NS_TRY(add_spans(t, out, first, spans, a, s, err), "%s", "");
        }
    }
    return NS_OK;
}

/* The part i..j of q. */
static ns_pieces part(const ns_pieces *q, size_t i, size_t j)
{
    ns_pieces x = {.p = q->p + i, .n = j - i, .tracked = q->tracked};
    x.al = q->al ? q->al + i : NULL;
    x.at = !i || !q->al ? q->at + i : i < q->n ? q->al[i].from : 0;
    return x;
}

ns_status ns_gap_encode(const ns_tok *t, ns_gap_work *w, ns_ids *out, ns_spans *spans, const uint8_t *p, size_t n,
                        size_t at, int no_special, ns_error *err)
{
    if (t->sp) return ns_spm_encode(t, w, out, spans, p, n, at, err);
    ns_pieces q = {.p = p, .n = n, .at = at, .tracked = spans || t->track};
    if (!ns_norm_quick(&t->norm, p, n)) {
        ns_buf_clear(&w->norm);
        w->map.n = 0;
        NS_TRY(ns_norm_apply(&t->norm, &w->norm, q.tracked ? &w->map : NULL, p, n, err), "normalise");
        for (size_t i = 0; i < w->map.n; i++) {
            w->map.v[i].from += at;
            w->map.v[i].to += at;
        }
        q.p = (const uint8_t *)w->norm.data;
        q.n = w->norm.len;
        q.al = q.tracked ? w->map.v : NULL;
    }
    ns_added_scan s = {.p = q.p, .n = q.n};
    const ns_added *hit;
    ns_pieces x;
    while ((hit = ns_added_next(&t->added, NS_ADDED_NORMALIZED, &s, no_special))) {
        x = part(&q, s.gap, s.start);
        NS_TRY(run_steps(t, w, out, spans, &x, err), "text before '%.*s'", (int)hit->content.n, hit->content.p);
        NS_TRY(ns_ids_push(out, hit->id, err), "ids");
        if (spans) {
            ns_span from = ns_pieces_source(&q, s.start, s.next_gap);
            NS_TRY(ns_spans_add(spans, 1, from.from, from.to, err), "spans");
        }
    }
    x = part(&q, s.gap, q.n);
    return run_steps(t, w, out, spans, &x, err);
}

void ns_gap_work_free(ns_gap_work *w)
{
    ns_bpe_work_free(&w->bpe);
    ns_pre_work_free(&w->pre);
    ns_pieces_free(&w->a);
    ns_pieces_free(&w->b);
    ns_buf_free(&w->norm);
    ns_spans_free(&w->map);
    ns_spans_free(&w->tmp);
    ns_ids_free(&w->ids);
    ns_free(w->best);
}
