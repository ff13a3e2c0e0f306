/* A conversation written with a chat template -> ids and exact targets.
 *
 *   whole = template(all messages)                                what the model sees
 *   marks in the template ({% generation %}): they are the targets, one stretch for each assistant turn
 *   otherwise, for each trained turn i:
 *     before = template(messages < i, generation prompt)          must be the beginning of whole: the turn starts behind it
 *     after  = template(messages <= i)                            the turn ends with it; if the template writes a turn
 *              differently once others follow (thoughts dropped), at the first end-of-turn token behind `before`
 *   blanks behind the turn's end token are no targets
 *
 * What cannot be told apart is refused with the first difference. A generation prompt that opens a thought which the turn
 * does not have (<think>) counts up to there, and is reported. The whole is tokenised at once, as at inference; a token that
 * would lie across the beginning of a trained turn is avoided by cutting there, as the prompt of inference does (tokenizers
 * that put a blank in front of a text cannot be cut: there the token counts as trained). */
#include <stdio.h>
#include <string.h>

#include "data/chat_internal.h"

typedef struct masker {
    const ns_chat *c;
    const ns_conversation *v;
    const ns_tok *tok;
    const char *where;
    ns_buf whole, part;
    ns_jinja_span *span; /* trained stretches of whole, in order */
    size_t n, cap;
    ns_row_out *out;
} masker;

static ns_status render(masker *m, ns_buf *out, size_t n_messages, int prompt, ns_chat_render *marks, ns_error *err)
{
    ns_json first = *m->v->messages;
    ns_chat_render r = {.tools = m->v->tools,
                        .documents = m->v->documents,
                        .extra = m->c->extra,
                        .add_generation_prompt = prompt,
                        .now = m->c->now,
                        .want_spans = marks != NULL};
    first.n = n_messages;
    r.messages = &first;
    ns_buf_clear(out);
    ns_status st = ns_chat_template_render(m->c->tmpl, out, &r, err);
    if (st == NS_OK && !out->data) st = ns_buf_reserve(out, 1, err);
    if (marks)
        *marks = r;
    else
        ns_free(r.spans);
    return st;
}

static int begins(const ns_buf *whole, const ns_buf *part)
{
    return part->len <= whole->len && !memcmp(whole->data, part->data, part->len);
}

static ns_status add_span(masker *m, size_t from, size_t to, ns_error *err)
{
    if (m->n && from < m->span[m->n - 1].to) from = m->span[m->n - 1].to;
    if (from >= to) return NS_OK;
    NS_TRY(ns_grow((void **)&m->span, &m->cap, m->n + 1, sizeof *m->span, "rows.spans", err), "spans");
    m->span[m->n++] = (ns_jinja_span){from, to};
    return NS_OK;
}

/* ---- marks of the template ---- */
static ns_status from_marks(masker *m, const ns_chat_render *r, ns_error *err)
{
    size_t assistants = 0, trained = 0, k = 0;
    const ns_conversation *v = m->v;
    for (size_t i = 0; i < v->messages->n; i++) {
        assistants += ns_str_eq(ns_json_get(&v->messages->items[i], "role")->s, "assistant");
        trained += v->train[i];
    }
    NS_FAIL_IF(r->n_spans != assistants && trained != assistants, NS_ERR_UNSUPPORTED,
               "%s: the template marks %zu stretches with {%% generation %%} for %zu assistant turns, of which only "
               "%zu are to be "
               "trained: which marks are theirs is not known",
               m->where, r->n_spans, assistants, trained);
    if (r->n_spans != assistants) {
        for (k = 0; k < r->n_spans; k++) NS_TRY(add_span(m, r->spans[k].from, r->spans[k].to, err), "marks");
        return NS_OK;
    }
    for (size_t i = 0; i < v->messages->n; i++) {
        if (!ns_str_eq(ns_json_get(&v->messages->items[i], "role")->s, "assistant")) continue;
        if (v->train[i]) NS_TRY(add_span(m, r->spans[k].from, r->spans[k].to, err), "marks");
        k++;
    }
    return NS_OK;
}

/* ---- differences of renderings ---- */
static void shown(char *out, size_t size, const ns_buf *b, size_t at)
{
    size_t k = 0, n = b->len - at < 24 ? b->len - at : 24;
    for (size_t i = 0; i < n && k + 3 < size; i++) {
        unsigned char ch = (unsigned char)b->data[at + i];
        if (ch == '\n')
            out[k++] = '\\', out[k++] = 'n';
        else
            out[k++] = (char)(ch < 0x20 ? '?' : ch);
    }
    while (k && ((unsigned char)out[k - 1] & 0xc0) == 0x80) k--; /* no half character */
    if (k && (unsigned char)out[k - 1] >= 0xc0) k--;
    out[k] = 0;
}

static ns_status differs(const masker *m, size_t i, ns_error *err)
{
    size_t at = 0;
    char alone[80], together[80];
    while (at < m->part.len && at < m->whole.len && m->part.data[at] == m->whole.data[at]) at++;
    shown(alone, sizeof alone, &m->part, at);
    shown(together, sizeof together, &m->whole, at);
    NS_FAIL(NS_ERR_UNSUPPORTED,
            "%s: what is trained of turn %zu cannot be told: the template writes the turns in front of it as '%s' when "
            "it is about "
            "to come and '%s' in the whole row (byte %zu): mark the trained text in a template of your own with {%% "
            "generation "
            "%%} (chat_template=FILE), or train the last turn only (mask_history=true)",
            m->where, i, alone, together, at);
}

/* Where turn i begins in whole. */
static ns_status turn_begin(masker *m, size_t i, size_t *from, ns_error *err)
{
    int assistant = ns_str_eq(ns_json_get(&m->v->messages->items[i], "role")->s, "assistant");
    ns_error own = NS_ERROR_INIT;
    ns_status st = render(m, &m->part, i, assistant, NULL, &own);
    NS_FAIL_IF(st == NS_ERR_MEMORY, NS_ERR_MEMORY, "out of memory");
    NS_FAIL_IF(st != NS_OK, NS_ERR_UNSUPPORTED,
               "%s: what is trained of turn %zu cannot be told: the template refuses the turns in front of it alone "
               "(%.200s): mark "
               "the trained text in a template of your own with {%% generation %%} (chat_template=FILE)",
               m->where, i, own.msg);
    if (!begins(&m->whole, &m->part) && assistant) {
        const char *think = m->part.len ? memmem(m->part.data, m->part.len, "<think>", 7) : NULL, *last = NULL;
        for (; think; think = memmem(think + 1, m->part.len - (size_t)(think + 1 - m->part.data), "<think>", 7))
            last = think;
        if (last) {
            size_t keep = (size_t)(last - m->part.data), all = m->part.len;
            m->part.len = keep;
            if (begins(&m->whole, &m->part)) {
                m->out->notes |= NS_CHAT_NOTE_THINK;
            } else {
                m->part.len = all;
            }
        }
    }
    if (!begins(&m->whole, &m->part)) return differs(m, i, err);
    *from = m->part.len;
    return NS_OK;
}

static int is_blank(char ch)
{
    return ch == ' ' || ch == '\n' || ch == '\t' || ch == '\r';
}

/* The special token that ends the text of m->part, blanks aside; appended to end, which stays empty if there is none. */
static ns_status end_token(masker *m, ns_buf *end, ns_error *err)
{
    size_t n = m->part.len, from;
    ns_ids ids = {0};
    ns_status st = NS_OK;
    while (n && is_blank(m->part.data[n - 1])) n--;
    from = n > 96 ? n - 96 : 0;
    while (from < n && ((unsigned char)m->part.data[from] & 0xc0) == 0x80) from++;
    NS_CHECK(st, ns_tok_encode(m->tok, &ids, m->part.data + from, n - from, 0, err), "%s", "");
    if (ids.n && ns_tok_is_special(m->tok, ids.v[ids.n - 1]))
        NS_CHECK(st, ns_tok_decode(m->tok, end, &ids.v[ids.n - 1], 1, 0, err), "%s", "");
done:
    ns_ids_free(&ids);
    return st;
}

static ns_status turn_span(masker *m, size_t i, ns_error *err)
{
    size_t from = 0;
    ns_buf end = {0};
    ns_status st = NS_OK;
    NS_TRY(turn_begin(m, i, &from, err), "%s", "");
    if (i + 1 == m->v->messages->n) return add_span(m, from, m->whole.len, err);
    NS_TRY(render(m, &m->part, i + 1, 0, NULL, err), "%s: the turns up to %zu", m->where, i);
    if (begins(&m->whole, &m->part)) return add_span(m, from, m->part.len, err);
    NS_CHECK(st, end_token(m, &end, err), "%s", "");
    const char *hit = end.len ? memmem(m->whole.data + from, m->whole.len - from, end.data, end.len) : NULL;
    if (!hit) {
        st = differs(m, i + 1, err);
        goto done;
    }
    m->out->notes |= NS_CHAT_NOTE_CHANGED;
    NS_CHECK(st, add_span(m, from, (size_t)(hit - m->whole.data) + end.len, err), "span");
done:
    ns_buf_free(&end);
    return st;
}

static ns_status find_spans(masker *m, ns_error *err)
{
    ns_chat_render marks = {0};
    ns_status st = NS_OK;
    int marked = m->c->only_assistant && ns_chat_template_has_generation(m->c->tmpl, m->v->tools != NULL);
    st = render(m, &m->whole, m->v->messages->n, 0, marked ? &marks : NULL, err);
    if (st != NS_OK) {
        ns_error_frame(err, __FILE__, __LINE__, "%s", m->where);
        goto done;
    }
    if (marked) {
        NS_CHECK(st, from_marks(m, &marks, err), "%s", "");
        goto done;
    }
    for (size_t i = 0; i < m->v->messages->n; i++)
        if (m->v->train[i]) NS_CHECK(st, turn_span(m, i, err), "%s", "");
done:
    ns_free(marks.spans);
    return st;
}

/* ---- tokens ---- */
static ns_status encode_cut(masker *m, ns_spans *spans, ns_error *err)
{
    ns_row_out *out = m->out;
    size_t begin = out->row_begin;
    int straddles = 0;
    out->ids.n = begin;
    spans->n = 0;
    NS_TRY(ns_tok_encode_spans(m->tok, &out->ids, spans, m->whole.data, m->whole.len, 0, err), "%s", "");
    for (size_t t = 0, s = 0; t < spans->n && s < m->n; t++) {
        while (s < m->n && m->span[s].from <= spans->v[t].from) s++;
        if (s < m->n && m->span[s].from < spans->v[t].to) straddles = 1;
    }
    if (!straddles) return NS_OK;
    out->notes |= NS_CHAT_NOTE_STRADDLE;
    if (!ns_tok_space_sensitive(m->tok)) return NS_OK;
    out->ids.n = begin;
    spans->n = 0;
    for (size_t s = 0, at = 0; s <= m->n; s++) {
        size_t to = s < m->n ? m->span[s].from : m->whole.len, k = spans->n;
        NS_TRY(ns_tok_encode_spans(m->tok, &out->ids, spans, m->whole.data + at, to - at, 0, err), "%s", "");
        for (; k < spans->n; k++) spans->v[k].from += at, spans->v[k].to += at;
        at = to;
    }
    return NS_OK;
}

static int token_blank(const masker *m, ns_span s)
{
    for (size_t i = s.from; i < s.to; i++)
        if (!is_blank(m->whole.data[i])) return 0;
    return 1;
}

/* Targets of the row's ids; *open: index behind the first trained stretch that has no end token, or 0. */
static void set_mask(masker *m, const ns_spans *spans, uint8_t *mask, size_t *open)
{
    const int32_t *ids = m->out->ids.v + m->out->row_begin;
    size_t n = spans->n, t = 0;
    int32_t eos = ns_tok_eos(m->tok);
    *open = 0;
    memset(mask, 0, n);
    for (size_t s = 0; s < m->n; s++) {
        size_t first = n, last = 0;
        for (; t < n && spans->v[t].to <= m->span[s].from; t++) {
        }
        for (; t < n && spans->v[t].from < m->span[s].to; t++) {
            if (spans->v[t].from == spans->v[t].to && spans->v[t].from <= m->span[s].from) continue;
            mask[t] = 1;
            if (first == n) first = t;
            last = t;
        }
        if (first == n) continue;
        size_t e = last;
        while (e > first && token_blank(m, spans->v[e])) e--;
        int ends = ns_tok_is_special(m->tok, ids[e]) || ids[e] == eos;
        for (size_t k = e + 1; ends && k <= last; k++) mask[k] = 0;
        if (!ends && !*open) *open = last + 1;
    }
}

/* Is there text of a special token in what people wrote? It would be read as the token. */
static ns_status check_special_text(masker *m, ns_error *err)
{
    ns_ids ids = {0};
    ns_status st = NS_OK;
    ns_buf text = {0};
    for (size_t i = 0; i < m->v->messages->n; i++) {
        const ns_json *content = ns_json_get(&m->v->messages->items[i], "content");
        if (!content || content->type != NS_JSON_STRING || !content->s.n) continue;
        if (!memchr(content->s.p, '<', content->s.n) && !memchr(content->s.p, '[', content->s.n)) continue;
        ids.n = 0;
        NS_CHECK(st, ns_tok_encode(m->tok, &ids, content->s.p, content->s.n, 0, err), "%s", "");
        for (size_t k = 0; k < ids.n; k++) {
            if (!ns_tok_is_special(m->tok, ids.v[k])) continue;
            m->out->notes |= NS_CHAT_NOTE_SPECIAL;
            if (m->c->allow_special_text) continue;
            NS_CHECK(st, ns_tok_decode(m->tok, &text, &ids.v[k], 1, 0, err), "%s", "");
            NS_BAIL_IF(st, 1, NS_ERR_INPUT,
                       "%s: the content of turn %zu holds the special token '%.60s', which would be read as the token: "
                       "take it out, "
                       "or allow it with allow_special_text=true",
                       m->where, i, text.data);
        }
    }
done:
    ns_ids_free(&ids);
    ns_buf_free(&text);
    return st;
}

/* One more id in front (BOS) or behind (EOS). */
static ns_status put_id(ns_row_out *out, int32_t id, int front, int target, ns_error *err)
{
    size_t at = front ? out->row_begin : out->ids.n;
    NS_TRY(ns_grow((void **)&out->ids.v, &out->ids.cap, out->ids.n + 1, sizeof *out->ids.v, "rows.ids", err), "ids");
    NS_TRY(ns_grow((void **)&out->mask, &out->mask_cap, out->ids.n + 1, 1, "rows.mask", err), "mask");
    memmove(out->ids.v + at + 1, out->ids.v + at, (out->ids.n - at) * sizeof *out->ids.v);
    memmove(out->mask + at + 1, out->mask + at, out->ids.n - at);
    out->ids.v[at] = id;
    out->mask[at] = (uint8_t)(target != 0);
    out->ids.n++;
    return NS_OK;
}

static ns_status finish(masker *m, const ns_rows_options *o, size_t open, ns_error *err)
{
    ns_row_out *out = m->out;
    int32_t bos = o->bos_id >= 0 ? o->bos_id : ns_tok_bos(m->tok);
    if (o->add_eos && (out->ids.n == out->row_begin || out->ids.v[out->ids.n - 1] != o->eos_id)) {
        int target = m->n && m->span[m->n - 1].to == m->whole.len;
        if (target && open == out->ids.n - out->row_begin) open = 0; /* this is the end token */
        NS_TRY(put_id(out, o->eos_id, 0, target, err), "%s", "");
    }
    if (o->add_bos) NS_TRY(put_id(out, o->bos_id, 1, 0, err), "%s", "");
    const int32_t *ids = out->ids.v + out->row_begin;
    NS_FAIL_IF(out->ids.n - out->row_begin > 1 && bos >= 0 && ids[0] == bos && ids[1] == bos && !m->c->allow_double_bos,
               NS_ERR_INPUT,
               "%s: the row begins with two BOS tokens: the chat template writes one and %s; set add_bos=false, or "
               "allow it with "
               "allow_double_bos=true",
               m->where, o->add_bos ? "add_bos adds one" : "the text has one");
    if (open) out->notes |= NS_CHAT_NOTE_NO_END;
    if (open && !m->c->allow_missing_end) {
        char tail[80];
        size_t at = m->whole.len > 24 ? m->whole.len - 24 : 0;
        while (at < m->whole.len && ((unsigned char)m->whole.data[at] & 0xc0) == 0x80) at++;
        shown(tail, sizeof tail, &m->whole, at);
        NS_FAIL(NS_ERR_INPUT,
                "%s: a trained turn ends without an end token (the row ends '%s'), so the model would not learn to "
                "stop: use a template "
                "that writes one, set add_eos=true, or allow it with allow_missing_end=true",
                m->where, tail);
    }
    return NS_OK;
}

/* Parts for reports: trained stretches and the rest. */
static ns_status add_parts(masker *m, ns_error *err)
{
    ns_row_out *out = m->out;
    const uint8_t *mask = out->mask + out->row_begin;
    size_t n = out->ids.n - out->row_begin;
    ns_str trained = m->c->only_assistant ? (ns_str){"assistant", 9} : (ns_str){"trained turns", 13},
           rest = {"prompt", 6};
    for (size_t i = 0; i < n; i++)
        if (i + 1 == n || mask[i + 1] != mask[i])
            NS_TRY(ns_row_span_add(out, mask[i] ? trained : rest, (int64_t)i + 1, err), "%s", "");
    return NS_OK;
}

ns_status ns_chat_prompt(ns_ids *ids, ns_buf *text, const ns_chat *c, const ns_conversation *v, const ns_tok *tok,
                         const char *where, ns_error *err)
{
    ns_row_out unused = {0};
    masker m = {.c = c, .v = v, .tok = tok, .where = where, .out = &unused};
    ns_status st = NS_OK;
    NS_CHECK(st, check_special_text(&m, err), "%s", "");
    NS_CHECK(st, render(&m, &m.whole, v->messages->n, 1, NULL, err), "%s", where);
    NS_CHECK(st, ns_buf_add(text, m.whole.data, m.whole.len, err), "text");
    NS_CHECK(st, ns_tok_encode(tok, ids, m.whole.data, m.whole.len, 0, err), "%s", where);
done:
    ns_buf_free(&m.whole);
    return st;
}

ns_status ns_chat_tokens(ns_row_out *out, const ns_chat *c, const ns_conversation *v, const ns_rows_options *o,
                         const ns_tok *tok, const char *where, ns_error *err)
{
    masker m = {.c = c, .v = v, .tok = tok, .where = where, .out = out};
    ns_spans spans = {0};
    ns_status st = NS_OK;
    size_t open = 0;
    NS_CHECK(st, check_special_text(&m, err), "%s", "");
    NS_CHECK(st, find_spans(&m, err), "%s", "");
    if (out->text) NS_CHECK(st, ns_buf_add(out->text, m.whole.data, m.whole.len, err), "text");
    NS_CHECK(st, encode_cut(&m, &spans, err), "%s", "");
    NS_CHECK(st, ns_grow((void **)&out->mask, &out->mask_cap, out->ids.n + 1, 1, "rows.mask", err), "mask");
    set_mask(&m, &spans, out->mask + out->row_begin, &open);
    NS_CHECK(st, finish(&m, o, open, err), "%s", "");
    NS_CHECK(st, add_parts(&m, err), "%s", "");
    for (size_t i = 0; i < v->messages->n; i++) {
        const ns_json *content = ns_json_get(&v->messages->items[i], "content");
        if (v->train[i] &&
            ((content->type == NS_JSON_STRING && content->s.n) || ns_json_get(&v->messages->items[i], "tool_calls")))
            out->empty = 0;
    }
done:
    ns_spans_free(&spans);
    ns_free(m.span);
    ns_buf_free(&m.whole);
    ns_buf_free(&m.part);
    return st;
}
