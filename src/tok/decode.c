/* Decoding: the text of each token through the steps of the file (decode.h), joined. With a byte alphabet, an
 * added token gives its text as written; the reference library runs that text through the alphabet too, which turns "é"
 * into a stray byte: a loss we do not copy. Byte tokens that are no UTF-8 together stay the bytes that they are.
 *
 * A stream holds back the bytes that may still become a character, and knows whether text has come out (what is taken off
 * the front is taken off once). ns_tok_decode is a stream whose bytes are not held back. */
#include "tok/decode.h"

#include <string.h>

#include "tok/tok_internal.h"
#include "tok/unicode.h"

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* Appends p[0..n) with every `from` as `to`. */
static ns_status replace_all(ns_buf *out, const char *p, size_t n, ns_str from, ns_str to, ns_error *err)
{
    for (size_t i = 0; i < n;) {
        const char *f = memmem(p + i, n - i, from.p, from.n);
        size_t end = f ? (size_t)(f - p) : n;
        NS_TRY(ns_buf_add(out, p + i, end - i, err), "decode");
        if (!f) break;
        NS_TRY(ns_buf_add(out, to.p, to.n, err), "decode");
        i = end + from.n;
    }
    return NS_OK;
}

static ns_status add_token_text(ns_tok_stream *s, ns_buf *out, const char *p, size_t n, ns_error *err)
{
    const ns_dec *d = &s->t->dec;
    for (int i = 0; i + 1 < d->n_replace; i++) { /* all but the last; rare */
        ns_buf next = {0};
        ns_status st = replace_all(&next, p, n, d->from[i], d->to[i], err);
        ns_buf_free(&s->swap);
        s->swap = next;
        NS_TRY(st, "decode");
        p = next.data ? next.data : "";
        n = next.len;
    }
    ns_str last = d->n_replace ? d->to[d->n_replace - 1] : (ns_str){"", 0};
    if (d->drop_first && !s->n_ids) last.n = 0;
    size_t before = out->len;
    if (d->n_replace)
        NS_TRY(replace_all(out, p, n, d->from[d->n_replace - 1], last, err), "decode");
    else
        NS_TRY(ns_buf_add(out, p, n, err), "decode");
    n = out->len - before;
    p = out->data + before;
    if (d->byte_tokens && n == 6 && !memcmp(p, "<0x", 3) && p[5] == '>' && hex_digit(p[3]) >= 0 &&
        hex_digit(p[4]) >= 0) {
        out->data[before] = (char)(hex_digit(p[3]) * 16 + hex_digit(p[4]));
        out->len = before + 1;
        out->data[out->len] = 0;
    }
    return NS_OK;
}

/* The text of a SentencePiece piece. The blank that encoding put in front is taken off: once, or (where blanks are
 * removed) off every piece as long as there is no text. */
static ns_status add_piece_text(ns_tok_stream *s, ns_buf *out, int32_t id, ns_error *err)
{
    const ns_spm *sp = s->t->sp;
    ns_bpe_span x = s->t->bpe.span[id];
    const char *p = s->t->bpe.text + x.at;
    size_t n = x.len;
    if (id == sp->unk) {
        s->started = 1;
        return ns_buf_add(out, sp->unk_surface.p, sp->unk_surface.n, err);
    }
    if (sp->kind[id] == NS_SPM_BYTE) {
        s->started = 1;
        return ns_buf_addc(out, (char)(hex_digit(p[3]) * 16 + hex_digit(p[4])), err);
    }
    int front = !s->started && (sp->dummy_prefix || sp->remove_blanks), blank = n >= 3 && !memcmp(p, NS_META, 3);
    if (front && blank) {
        p += 3;
        n -= 3;
        if (!sp->remove_blanks) s->started = 1;
    }
    if (n) s->started = 1;
    return replace_all(out, p, n, (ns_str){NS_META, 3}, (ns_str){" ", 1}, err);
}

/* Appends the raw bytes of one id. */
static ns_status add_id(ns_tok_stream *s, ns_buf *out, int32_t id, size_t position, ns_error *err)
{
    const ns_tok *t = s->t;
    size_t before = out->len;
    const ns_added *a = ns_added_by_id(&t->added, id);
    if (a) {
        if (s->skip_special && a->special) return NS_OK;
        if (t->by_char && !t->sp)
            NS_TRY(add_token_text(s, out, a->shown.p, a->shown.n, err), "decode");
        else
            NS_TRY(ns_buf_add(out, a->shown.p, a->shown.n, err), "decode");
    } else {
        NS_FAIL_IF(
            id < 0 || id >= t->n_ids || (size_t)id >= t->bpe.n_ids || t->bpe.span[id].len == UINT32_MAX, NS_ERR_INPUT,
            "id %d at position %zu has no token (the tokenizer has ids 0..%lld): were these ids made with another "
            "tokenizer?",
            (int)id, position, (long long)t->n_ids - 1);
        ns_bpe_span x = t->bpe.span[id];
        if (t->sp) {
            s->n_ids++;
            return add_piece_text(s, out, id, err);
        }
        if (t->by_char)
            NS_TRY(add_token_text(s, out, t->bpe.text + x.at, x.len, err), "decode");
        else
            NS_TRY(ns_buf_add(out, t->bpe.text + x.at, x.len, err), "decode");
    }
    s->n_ids++;
    if (s->started || out->len == before) return NS_OK;
    size_t k = 0, most = t->dec.strip_left - s->n_stripped;
    while (k < most && before + k < out->len && out->data[before + k] == t->dec.strip_char) k++;
    s->n_stripped += k;
    memmove(out->data + before, out->data + before + k, out->len - before - k);
    out->len -= k;
    out->data[out->len] = 0;
    s->started = out->len > before || s->n_stripped == t->dec.strip_left;
    return NS_OK;
}

ns_status ns_tok_decode(const ns_tok *t, ns_buf *out, const int32_t *ids, size_t n, int skip_special, ns_error *err)
{
    size_t before = out->len;
    ns_tok_stream s = {.t = t, .skip_special = skip_special, .started = before > 0, .n_ids = before > 0};
    ns_status st = NS_OK;
    for (size_t i = 0; i < n && st == NS_OK; i++) st = add_id(&s, out, ids[i], i, err);
    ns_buf_free(&s.swap);
    if (st != NS_OK && out->data) {
        out->len = before;
        out->data[out->len] = 0;
    }
    return st;
}

/* How many bytes at the end of p[0..n) begin a character that is not whole yet. */
static size_t unfinished(const uint8_t *p, size_t n)
{
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        uint8_t c = p[n - k];
        if ((c & 0xc0) == 0x80) continue;
        size_t len = c >= 0xc2 && c < 0xe0 ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
        if (len <= k) return 0;
        uint8_t d = k > 1 ? p[n - k + 1] : 0;
        int bad = k > 1 && ((c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) || (c == 0xf0 && d < 0x90) ||
                            (c == 0xf4 && d > 0x8f));
        return bad ? 0 : k;
    }
    return 0;
}

ns_status ns_tok_stream_push(ns_tok_stream *s, ns_buf *out, const int32_t *ids, size_t n, ns_error *err)
{
    for (size_t i = 0; i < n; i++) NS_TRY(add_id(s, &s->raw, ids[i], s->n_ids, err), "%s", "");
    size_t keep = unfinished((const uint8_t *)s->raw.data, s->raw.len), ready = s->raw.len - keep;
    if (!ready) return NS_OK;
    NS_TRY(ns_utf8_repair(out, (const uint8_t *)s->raw.data, ready, err), "decode");
    memmove(s->raw.data, s->raw.data + ready, keep + 1); /* with the final NUL */
    s->raw.len = keep;
    return NS_OK;
}

ns_status ns_tok_stream_end(ns_tok_stream *s, ns_buf *out, ns_error *err)
{
    NS_TRY(ns_utf8_repair(out, (const uint8_t *)(s->raw.data ? s->raw.data : ""), s->raw.len, err), "decode");
    ns_buf_clear(&s->raw);
    return NS_OK;
}

void ns_tok_stream_free(ns_tok_stream *s)
{
    ns_buf_free(&s->raw);
    ns_buf_free(&s->swap);
}
