/* Template rows: `{input}{output}` filled from one JSON row -> ids and answer_start (data.md §4.3-4.4).
 *
 *   template ─split at blanks*{key}─▶ pieces ─each tokenised on its own─▶ truncation walk ─▶ [bos] context [sep] label [eos]
 *
 * Invariants: there is never a merge across a piece border, so the label's first token starts exactly where the label
 * text starts. Truncation takes from the truncation fields first, then walks the pieces; nothing is dropped. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "data/rows_internal.h"

/* `\n`, `\t`, ... typed on a command line become the character. Unknown escapes stay as they are. */
static void decode_escapes(char *s)
{
    char *w = s;
    for (const char *r = s; *r; r++) {
        if (*r != '\\' || !r[1]) {
            *w++ = *r;
            continue;
        }
        const char *from = "ntr\\'\"0", *to = "\n\t\r\\'\"\0", *hit = strchr(from, r[1]);
        if (hit && *hit != '0') {
            *w++ = to[hit - from];
            r++;
        } else {
            *w++ = *r;
        }
    }
    *w = 0;
}

static ns_status add_piece(ns_rows_template *t, ns_rows_piece p, ns_error *err)
{
    NS_FAIL_IF(t->n == NS_ROWS_MAX_PIECES, NS_ERR_CONFIG, "prompt_template has more than %d pieces",
               NS_ROWS_MAX_PIECES);
    t->piece[t->n++] = p;
    return NS_OK;
}

static ns_status split(ns_rows_template *t, ns_error *err)
{
    const char *p = t->text;
    while (*p) {
        const char *open = strchr(p, '{');
        if (!open) {
            NS_TRY(add_piece(t, (ns_rows_piece){.text = {p, strlen(p)}}, err), "template");
            return NS_OK;
        }
        const char *close = strchr(open, '}');
        NS_FAIL_IF(!close, NS_ERR_CONFIG, "'{' at byte %zu has no closing '}'", (size_t)(open - t->text));
        NS_FAIL_IF(close == open + 1, NS_ERR_CONFIG, "'{}' at byte %zu names no field", (size_t)(open - t->text));
        const char *blank = open;
        while (blank > p && blank[-1] == ' ') blank--;
        if (blank > p) NS_TRY(add_piece(t, (ns_rows_piece){.text = {p, (size_t)(blank - p)}}, err), "template");
        ns_rows_piece k = {.key = {open + 1, (size_t)(close - open - 1)}, .text = {blank, (size_t)(open - blank)}};
        NS_TRY(add_piece(t, k, err), "template");
        p = close + 1;
    }
    return NS_OK;
}

ns_status ns_rows_template_init(ns_rows_template *t, const ns_rows_options *o, int space_sensitive, ns_error *err)
{
    memset(t, 0, sizeof *t);
    size_t n = strlen(o->prompt_template);
    NS_FAIL_IF(n == 0, NS_ERR_CONFIG, "prompt_template is empty: give one such as '{input}{output}'");
    NS_TRY(ns_alloc((void **)&t->text, n + 1, "rows.template", err), "template");
    memcpy(t->text, o->prompt_template, n);
    decode_escapes(t->text);
    NS_TRY(split(t, err), "prompt_template '%s'", o->prompt_template);
    const ns_rows_piece *last = &t->piece[t->n - 1];
    NS_FAIL_IF(!last->key.p || !ns_str_eq(last->key, o->label_key), NS_ERR_CONFIG,
               "prompt_template '%s' must end with {%s}, the label_key", o->prompt_template, o->label_key);
    for (const char *p = o->truncation_field; p && *p;) { /* every named field must be a placeholder */
        size_t len = strcspn(p, ",");
        ns_str f = {p, len};
        while (f.n && f.p[0] == ' ') f.p++, f.n--;
        while (f.n && f.p[f.n - 1] == ' ') f.n--;
        if (ns_str_eq(f, "context")) f = (ns_str){"input", 5}; /* name used by old configurations */
        int found = 0;
        for (int i = 0; i < t->n; i++)
            if (t->piece[i].key.p && t->piece[i].key.n == f.n && !memcmp(t->piece[i].key.p, f.p, f.n))
                t->piece[i].truncatable = found = 1;
        NS_FAIL_IF(!found, NS_ERR_CONFIG, "truncation_field '%.*s' is not a placeholder of prompt_template '%s'",
                   (int)f.n, f.p, o->prompt_template);
        t->n_fields++;
        p += len + (p[len] == ',');
    }
    if (!space_sensitive)
        for (int i = 0; i < t->n; i++)
            if (t->piece[i].text.n && t->piece[i].text.p[0] == ' ') t->piece[i].text.p++, t->piece[i].text.n--;
    return NS_OK;
}

void ns_rows_template_free(ns_rows_template *t)
{
    ns_free(t->text);
    memset(t, 0, sizeof *t);
}

static const ns_json *get(const ns_json *row, ns_str key)
{
    if (row->type != NS_JSON_OBJECT) return NULL;
    for (size_t i = 0; i < row->n; i++)
        if (row->keys[i].n == key.n && !memcmp(row->keys[i].p, key.p, key.n)) return &row->items[i];
    return NULL;
}

int ns_rows_template_fits(const ns_rows_template *t, const ns_json *row)
{
    for (int i = 0; i < t->n; i++)
        if (t->piece[i].key.p && !get(row, t->piece[i].key)) return 0;
    return 1;
}

/* Tokenises piece i of row into *ids. */
static ns_status tokenise(ns_ids *ids, const ns_rows_piece *p, const ns_tok *tok, const ns_json *row, const char *where,
                          size_t *text_bytes, ns_error *err)
{
    ns_str v = p->text;
    char stack[1024], *joined = NULL;
    ids->n = 0;
    if (p->key.p) {
        const ns_json *f = get(row, p->key);
        char keys[256];
        NS_FAIL_IF(!f, NS_ERR_INPUT, "%s: no field \"%.*s\" (the row has: %s)", where, (int)p->key.n, p->key.p,
                   ns_rows_keys(row, keys, sizeof keys));
        NS_FAIL_IF(f->type != NS_JSON_STRING, NS_ERR_INPUT, "%s: field \"%.*s\" is %s, expected text", where,
                   (int)p->key.n, p->key.p, ns_json_type_text(f));
        v = f->s;
        while (v.n && v.p[0] == ' ') v.p++, v.n--; /* U+0020 only: newlines are content */
        while (v.n && v.p[v.n - 1] == ' ') v.n--;
        *text_bytes = v.n;
        if (p->text.n) { /* blanks of the template before the placeholder */
            size_t n = p->text.n + v.n;
            joined = stack;
            if (n > sizeof stack) {
                joined = NULL;
                NS_TRY(ns_alloc((void **)&joined, n, "rows.piece", err), "%s", where);
            }
            memcpy(joined, p->text.p, p->text.n);
            memcpy(joined + p->text.n, v.p, v.n);
            v = (ns_str){joined, n};
        }
    }
    ns_status st = ns_tok_encode(tok, ids, v.p, v.n, 0, err);
    if (joined != stack) ns_free(joined);
    if (st != NS_OK) ns_error_frame(err, __FILE__, __LINE__, "%s", where);
    return st;
}

/* Cuts `n` ids off a piece: its end (right), or its beginning (left). */
static void cut(ns_ids *ids, int64_t n, int left)
{
    if (left) memmove(ids->v, ids->v + n, (ids->n - (size_t)n) * sizeof *ids->v);
    ids->n -= (size_t)n;
}

static void truncate_pieces(ns_row_out *out, const ns_rows_template *t, int64_t excess, int left)
{
    int64_t n_fields = t->n_fields, over = excess, i_field = 0;
    for (int i = 0; i < t->n && n_fields; i++) {
        if (!t->piece[i].truncatable) continue;
        int64_t share = i_field < n_fields ? excess / n_fields + (i_field < excess % n_fields) : 0;
        i_field++;
        if ((int64_t)out->piece[i].n < share) {
            out->short_field = 1;
            share = (int64_t)out->piece[i].n;
        }
        over -= share;
        cut(&out->piece[i], share, left);
    }
    for (int k = 0; k < t->n && over > 0; k++) {
        ns_ids *ids = &out->piece[left ? k : t->n - 1 - k];
        int64_t n = (int64_t)ids->n < over ? (int64_t)ids->n : over;
        cut(ids, n, left);
        over -= n;
    }
}

static ns_status append(ns_ids *ids, const int32_t *v, size_t n, ns_error *err)
{
    NS_TRY(ns_grow((void **)&ids->v, &ids->cap, ids->n + n, sizeof *ids->v, "rows.ids", err), "ids");
    if (n) memcpy(ids->v + ids->n, v, n * sizeof *v);
    ids->n += n;
    return NS_OK;
}

static ns_status add_special(ns_row_out *out, const int32_t *id, const char *name, size_t begin, ns_error *err)
{
    NS_TRY(append(&out->ids, id, 1, err), "%s", name);
    return ns_row_span_add(out, (ns_str){name, strlen(name)}, (int64_t)(out->ids.n - begin), err);
}

static ns_status add_piece_ids(ns_row_out *out, const ns_rows_template *t, int i, size_t begin, ns_error *err)
{
    const ns_rows_piece *p = &t->piece[i];
    char name[40];
    NS_TRY(append(&out->ids, out->piece[i].v, out->piece[i].n, err), "piece %d", i);
    if (p->key.p)
        snprintf(name, sizeof name, "{%.*s}", (int)(p->key.n < 36 ? p->key.n : 36), p->key.p);
    else
        snprintf(name, sizeof name, "template text");
    return ns_row_span_add(out, (ns_str){name, strlen(name)}, (int64_t)(out->ids.n - begin), err);
}

ns_status ns_rows_text(ns_row_out *out, const ns_rows_template *t, const ns_rows_options *o, const ns_tok *tok,
                       const ns_json *row, const char *where, ns_error *err)
{
    int64_t total = o->add_bos + o->add_sep + o->add_eos;
    size_t label_bytes = 0, unused;
    for (int i = 0; i < t->n; i++) {
        NS_TRY(tokenise(&out->piece[i], &t->piece[i], tok, row, where, i == t->n - 1 ? &label_bytes : &unused, err),
               "tokenise");
        total += (int64_t)out->piece[i].n;
    }
    out->empty = label_bytes == 0;
    out->full = total;
    out->truncated = total > o->max_seq_length;
    if (out->truncated) truncate_pieces(out, t, total - o->max_seq_length, o->too_long == NS_LONG_LEFT);
    size_t begin = out->ids.n;
    if (o->add_bos) NS_TRY(add_special(out, &o->bos_id, "added BOS", begin, err), "%s", where);
    for (int i = 0; i < t->n - 1; i++) NS_TRY(add_piece_ids(out, t, i, begin, err), "%s", where);
    if (o->add_sep) NS_TRY(add_special(out, &o->sep_id, "added separator", begin, err), "%s", where);
    out->answer_start = (int32_t)(out->ids.n - begin);
    NS_TRY(add_piece_ids(out, t, t->n - 1, begin, err), "%s", where);
    if (o->add_eos) NS_TRY(add_special(out, &o->eos_id, "added EOS", begin, err), "%s", where);
    return NS_OK;
}
