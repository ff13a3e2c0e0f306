/* Encoding with a loaded tokenizer (data.md §6.2):
 *   text -> added tokens matched raw -> each gap normalised -> added tokens matched normalised -> pre-tokeniser stages -> BPE.
 * Everything is a view of the text or of per-call scratch, so the tokenizer stays const. Here is the way of the common
 * tokenizers; gap.c has the general one. Decoding: decode.c. */
#include "tok/tok.h"

#include <string.h>

#include "tok/tok_internal.h"
#include "tok/unicode.h"

void ns_ids_free(ns_ids *ids)
{
    ns_free(ids->v);
    memset(ids, 0, sizeof *ids);
}

void ns_tok_free(ns_tok **tp)
{
    ns_tok *t = *tp;
    if (!t) return;
    ns_bpe_free(&t->bpe);
    ns_added_free(&t->added);
    ns_norm_free(&t->norm);
    ns_spm_free(t->sp);
    for (int i = 0; i < t->n_pre; i++) ns_regex_free(&t->pre[i].re);
    ns_free(t->literal);
    ns_ids_free(&t->prefix);
    ns_ids_free(&t->suffix);
    ns_arena_free(&t->arena);
    ns_free(t);
    *tp = NULL;
}

/* One ns_tok_encode call. */
typedef struct call {
    const ns_tok *t;
    ns_ids *out;
    ns_bpe_work work;
    ns_buf nfc, blank;
    int no_special;
    ns_spans *spans; /* NULL: not asked for */
    int has_gap;
    ns_gap_work *gap; /* large, and short texts are many: set up on use */
} call;

static ns_status run_stages(call *c, int stage, const uint8_t *p, size_t n, ns_error *err)
{
    const ns_tok *t = c->t;
    if (!n) return NS_OK;
    int last = stage + 1 >= t->n_stages;
    ns_words words = {.bpe = &t->bpe, .serial = t->serial, .joins = t->bpe.joins};
    if (stage == t->n_stages) return ns_words_encode(&words, &c->work, c->out, p, n, err);
    ns_split_fn next = t->stage[stage];
    if (!next) { /* add_prefix_space; there is only one such stage, so one buffer is enough */
        if (p[0] == ' ') return run_stages(c, stage + 1, p, n, err);
        ns_buf_clear(&c->blank);
        NS_TRY(ns_buf_addc(&c->blank, ' ', err), "prefix space");
        NS_TRY(ns_buf_add(&c->blank, p, n, err), "prefix space");
        return run_stages(c, stage + 1, (const uint8_t *)c->blank.data, n + 1, err);
    }
    /* joins knows more borders than those before U+2581 */
    if (next != ns_split_marks || !words.joins) words.next = next;
    if (last) return ns_words_encode(&words, &c->work, c->out, p, n, err);
    for (size_t i = 0, e; i < n; i = e) {
        e = next(p, n, i);
        NS_VERIFY(e > i && e <= n);
        NS_TRY(run_stages(c, stage + 1, p + i, e - i, err), "%s", "");
    }
    return NS_OK;
}

static ns_status encode_normalized(call *c, const uint8_t *p, size_t n, ns_error *err)
{
    ns_added_scan s = {.p = p, .n = n};
    const ns_added *hit;
    while ((hit = ns_added_next(&c->t->added, NS_ADDED_NORMALIZED, &s, c->no_special))) {
        NS_TRY(run_stages(c, 0, p + s.gap, s.start - s.gap, err), "text before '%.*s'", (int)hit->content.n,
               hit->content.p);
        NS_TRY(ns_ids_push(c->out, hit->id, err), "ids");
    }
    return run_stages(c, 0, p + s.gap, n - s.gap, err);
}

/* May the text go without being normalised? */
static int as_it_is(const ns_tok *t, const uint8_t *p, size_t n)
{
    if (!t->blank_words || !t->serial) return 0;
    if (!t->n_guards || !memchr(p, t->guard[0].p[0], n)) return 1; /* all start with the same byte */
    for (size_t i = 0; i < t->n_guards; i++)
        if (memmem(p, n, t->guard[i].p, t->guard[i].n)) return 0;
    return 1;
}

/* at: where p[0] is in the whole text */
static ns_status encode_raw(call *c, const uint8_t *p, size_t n, size_t at, ns_error *err)
{
    if (!n) return NS_OK;
    const ns_tok *t = c->t;
    if (!c->spans && as_it_is(t, p, n)) {
        const ns_words words = {
            .bpe = &t->bpe, .serial = t->serial, .joins = t->blank_joins, .blanks = 1, .prefix = t->blank_prefix};
        return ns_words_encode(&words, &c->work, c->out, p, n, err);
    }
    if (t->general || c->spans) {
        if (!c->has_gap) memset(c->gap, 0, sizeof *c->gap);
        c->has_gap = 1;
        return ns_gap_encode(t, c->gap, c->out, c->spans, p, n, at, c->no_special, err);
    }
    if (ns_norm_quick(&c->t->norm, p, n)) return encode_normalized(c, p, n, err);
    ns_buf_clear(&c->nfc);
    NS_TRY(ns_norm_apply(&c->t->norm, &c->nfc, NULL, p, n, err), "normalise");
    return encode_normalized(c, (const uint8_t *)c->nfc.data, c->nfc.len, err);
}

static ns_status push_all(call *c, const ns_ids *add, size_t at, ns_error *err)
{
    for (size_t i = 0; i < add->n; i++) NS_TRY(ns_ids_push(c->out, add->v[i], err), "ids");
    return c->spans ? ns_spans_add(c->spans, add->n, at, at, err) : NS_OK;
}

ns_status ns_tok_encode_spans(const ns_tok *t, ns_ids *out, ns_spans *spans, const char *text, size_t n, int flags,
                              ns_error *err)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t bad = ns_utf8_check(p, n), n_before = out->n, spans_before = spans ? spans->n : 0;
    NS_FAIL_IF(bad < n, NS_ERR_INPUT,
               "text byte %zu (0x%02x) is not valid UTF-8: convert the text to UTF-8 or remove the byte", bad, p[bad]);
    ns_gap_work gap;
    call c = {.t = t, .out = out, .no_special = flags & NS_TOK_NO_SPECIAL_TEXT, .spans = spans, .gap = &gap};
    ns_added_scan s = {.p = p, .n = n};
    const ns_added *hit;
    ns_status st = NS_OK;
    if (flags & NS_TOK_ADD_SPECIAL) NS_CHECK(st, push_all(&c, &t->prefix, 0, err), "template");
    while ((hit = ns_added_next(&t->added, NS_ADDED_RAW, &s, c.no_special))) {
        NS_CHECK(st, encode_raw(&c, p + s.gap, s.start - s.gap, s.gap, err), "encode text from byte %zu", s.gap);
        NS_CHECK(st, ns_ids_push(out, hit->id, err), "ids");
        if (spans) NS_CHECK(st, ns_spans_add(spans, 1, s.start, s.next_gap, err), "spans");
    }
    NS_CHECK(st, encode_raw(&c, p + s.gap, n - s.gap, s.gap, err), "encode text from byte %zu", s.gap);
    if (flags & NS_TOK_ADD_SPECIAL) NS_CHECK(st, push_all(&c, &t->suffix, n, err), "template");
done:
    if (st != NS_OK) {
        out->n = n_before;
        if (spans) spans->n = spans_before;
    }
    ns_bpe_work_free(&c.work);
    ns_buf_free(&c.nfc);
    ns_buf_free(&c.blank);
    if (c.has_gap) ns_gap_work_free(&gap);
    return st;
}

ns_status ns_tok_encode(const ns_tok *t, ns_ids *out, const char *text, size_t n, int flags, ns_error *err)
{
    return ns_tok_encode_spans(t, out, NULL, text, n, flags, err);
}

int32_t ns_tok_id(const ns_tok *t, const char *token)
{
    size_t n = strlen(token);
    const ns_added *a = ns_added_by_text(&t->added, token, n);
    if (a) return a->id;
    int32_t id = ns_bpe_find(&t->bpe, token, n);
    for (size_t i = 0; id < 0 && i < t->n_literal; i++) {
        ns_bpe_span s = t->bpe.span[t->literal[i]];
        if (s.len == n && !memcmp(t->bpe.text + s.at, token, n)) id = t->literal[i];
    }
    return id;
}

int64_t ns_tok_vocab_size(const ns_tok *t)
{
    return t->n_ids;
}
int32_t ns_tok_bos(const ns_tok *t)
{
    return t->bos;
}
int32_t ns_tok_eos(const ns_tok *t)
{
    return t->eos;
}
int ns_tok_is_special(const ns_tok *t, int32_t id)
{
    const ns_added *a = ns_added_by_id(&t->added, id);
    return a && a->special;
}
int ns_tok_space_sensitive(const ns_tok *t)
{
    return t->space_sensitive;
}
