/* Encoding and decoding with a loaded tokenizer (data.md §6.2):
 *   text -> added tokens matched raw -> NFC of each gap -> added tokens matched normalised -> pre-tokeniser stages -> BPE.
 * Everything is a view of the text or of per-call scratch, so the tokenizer stays const.
 *
 * Decoding joins the bytes of the tokens. An added token gives its text as written; the reference library runs that text
 * through the byte alphabet too, which turns "é" into a stray byte: a loss we do not copy. */
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
} call;

static ns_status run_stages(call *c, int stage, const uint8_t *p, size_t n, ns_error *err)
{
    const ns_tok *t = c->t;
    if (!n) return NS_OK;
    if (stage == t->n_stages) return ns_bpe_encode(&t->bpe, &c->work, c->out, p, n, err);
    ns_split_fn next = t->stage[stage];
    if (!next) { /* add_prefix_space; there is only one such stage, so one buffer is enough */
        if (p[0] == ' ') return run_stages(c, stage + 1, p, n, err);
        ns_buf_clear(&c->blank);
        NS_TRY(ns_buf_addc(&c->blank, ' ', err), "prefix space");
        NS_TRY(ns_buf_add(&c->blank, p, n, err), "prefix space");
        return run_stages(c, stage + 1, (const uint8_t *)c->blank.data, n + 1, err);
    }
    int last = stage + 1 == t->n_stages;
    for (size_t i = 0, e; i < n; i = e) {
        e = next(p, n, i);
        NS_VERIFY(e > i && e <= n);
        ns_status st = last ? ns_bpe_encode(&t->bpe, &c->work, c->out, p + i, e - i, err)
                            : run_stages(c, stage + 1, p + i, e - i, err);
        if (st != NS_OK) return st;
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

static ns_status encode_raw(call *c, const uint8_t *p, size_t n, ns_error *err)
{
    if (!n) return NS_OK;
    if (ns_norm_quick(&c->t->norm, p, n)) return encode_normalized(c, p, n, err);
    ns_buf_clear(&c->nfc);
    NS_TRY(ns_norm_apply(&c->t->norm, &c->nfc, p, n, err), "normalise");
    return encode_normalized(c, (const uint8_t *)c->nfc.data, c->nfc.len, err);
}

static ns_status push_all(ns_ids *out, const ns_ids *add, ns_error *err)
{
    for (size_t i = 0; i < add->n; i++) NS_TRY(ns_ids_push(out, add->v[i], err), "ids");
    return NS_OK;
}

ns_status ns_tok_encode(const ns_tok *t, ns_ids *out, const char *text, size_t n, int flags, ns_error *err)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t bad = ns_utf8_check(p, n), n_before = out->n;
    NS_FAIL_IF(bad < n, NS_ERR_INPUT,
               "text byte %zu (0x%02x) is not valid UTF-8: convert the text to UTF-8 or remove the byte", bad, p[bad]);
    call c = {.t = t, .out = out, .no_special = flags & NS_TOK_NO_SPECIAL_TEXT};
    ns_added_scan s = {.p = p, .n = n};
    const ns_added *hit;
    ns_status st = NS_OK;
    if (flags & NS_TOK_ADD_SPECIAL) NS_CHECK(st, push_all(out, &t->prefix, err), "template");
    while ((hit = ns_added_next(&t->added, NS_ADDED_RAW, &s, c.no_special))) {
        NS_CHECK(st, encode_raw(&c, p + s.gap, s.start - s.gap, err), "encode text from byte %zu", s.gap);
        NS_CHECK(st, ns_ids_push(out, hit->id, err), "ids");
    }
    NS_CHECK(st, encode_raw(&c, p + s.gap, n - s.gap, err), "encode text from byte %zu", s.gap);
    if (flags & NS_TOK_ADD_SPECIAL) NS_CHECK(st, push_all(out, &t->suffix, err), "template");
done:
    if (st != NS_OK) out->n = n_before;
    ns_bpe_work_free(&c.work);
    ns_buf_free(&c.nfc);
    ns_buf_free(&c.blank);
    return st;
}

/* Text of a vocabulary entry. */
static ns_status decode_token(const ns_tok *t, ns_buf *out, int32_t id, ns_error *err)
{
    ns_bpe_span s = t->bpe.span[id];
    const char *p = t->bpe.text + s.at;
    if (!t->spm) return ns_buf_add(out, p, s.len, err);
    if (s.len == 6 && !memcmp(p, "<0x", 3) && p[5] == '>') /* U+2581 is 3 bytes: no byte token has it */
        for (int b = 0; b < 256; b++)
            if (t->bpe.byte_id[b] == id) return ns_buf_addc(out, (char)b, err);
    for (size_t i = 0; i < s.len;) {
        int blank = s.len - i >= 3 && !memcmp(p + i, NS_META, 3);
        NS_TRY(ns_buf_addc(out, blank ? ' ' : p[i], err), "decode");
        i += blank ? 3 : 1;
    }
    return NS_OK;
}

ns_status ns_tok_decode(const ns_tok *t, ns_buf *out, const int32_t *ids, size_t n, int skip_special, ns_error *err)
{
    size_t len_before = out->len;
    ns_status st = NS_OK;
    for (size_t i = 0; i < n; i++) {
        const ns_added *a = ns_added_by_id(&t->added, ids[i]);
        if (a) {
            if (!(skip_special && a->special)) NS_CHECK(st, ns_buf_add(out, a->content.p, a->content.n, err), "decode");
            continue;
        }
        int ok = ids[i] >= 0 && (size_t)ids[i] < t->bpe.n_ids && t->bpe.span[ids[i]].len != UINT32_MAX;
        NS_BAIL_IF(
            st, !ok, NS_ERR_INPUT,
            "id %d at position %zu has no token (the tokenizer has ids 0..%lld): were these ids made with another "
            "tokenizer?",
            (int)ids[i], i, (long long)t->n_ids - 1);
        NS_CHECK(st, decode_token(t, out, ids[i], err), "decode");
    }
    /* Strip: the blank that encoding put in front. Text that is continued call by call has it only at its start. */
    if (t->spm && !len_before && out->len && out->data[0] == ' ') {
        memmove(out->data, out->data + 1, out->len); /* with the final NUL */
        out->len--;
    }
done:
    if (st != NS_OK && out->data) {
        out->len = len_before;
        out->data[out->len] = 0;
    }
    return st;
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
