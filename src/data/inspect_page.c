/* Inspection as one JSON object and as a page (inspect.h). Text of rows is foreign: bytes that are no UTF-8 become U+FFFD,
 * and everything is escaped, so that no row can end a JSON string or open an element. The page has no script and loads
 * nothing. */
#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "data/inspect.h"
#include "tok/unicode.h"

#define PUT(...) NS_TRY(ns_buf_printf(out, err, __VA_ARGS__), "report")

/* ---- JSON ---- */
static ns_status add_json(ns_buf *out, const char *p, size_t n, ns_error *err)
{
    ns_buf clean = {0};
    ns_status st = NS_OK;
    while (n) {
        size_t good = ns_utf8_check((const uint8_t *)p, n);
        NS_CHECK(st, ns_buf_add(&clean, p, good, err), "text");
        p += good;
        n -= good;
        if (!n) break;
        NS_CHECK(st, ns_buf_adds(&clean, "\xef\xbf\xbd", err), "text");
        p++;
        n--;
    }
    NS_CHECK(st, ns_json_write_str(out, (ns_str){clean.data ? clean.data : "", clean.len}, NS_JSON_UTF8, err), "text");
done:
    ns_buf_free(&clean);
    return st;
}

static ns_status json_found(ns_buf *out, const ns_inspect_rows_found *f, ns_error *err)
{
    PUT("{\"rows\": %" PRId64 ", \"first_lines\": [", f->n);
    for (int64_t i = 0; i < f->n && i < NS_INSPECT_FIRST; i++) PUT("%s%" PRId64, i ? ", " : "", f->first[i] + 1);
    PUT("]}");
    return NS_OK;
}

static ns_status json_row(ns_buf *out, const ns_inspect *in, int64_t row, ns_error *err)
{
    const ns_examples *ex = in->ex;
    const int32_t *ids = ex->ids + ex->start[row];
    int64_t n = ex->start[row + 1] - ex->start[row];
    ns_buf piece = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_buf_printf(out, err, "{\"line\": %" PRId64 ", \"tokens\": [", row + 1), "row");
    for (int64_t q = 0; q < n; q++) {
        ns_buf_clear(&piece);
        NS_CHECK(st, ns_tok_decode(in->tok, &piece, &ids[q], 1, 0, err), "row");
        NS_CHECK(st,
                 ns_buf_printf(out, err, "%s{\"id\": %d, \"trained\": %s, \"text\": ", q ? ", " : "", (int)ids[q],
                               ns_inspect_is_trained(ex, row, q) ? "true" : "false"),
                 "row");
        NS_CHECK(st, add_json(out, piece.data ? piece.data : "", piece.len, err), "row");
        NS_CHECK(st, ns_buf_addc(out, '}', err), "row");
    }
    NS_CHECK(st, ns_buf_adds(out, "]}", err), "row");
done:
    ns_buf_free(&piece);
    return st;
}

static ns_status json_top(ns_buf *out, const ns_inspect *in, int i, ns_error *err)
{
    const ns_examples *ex = in->ex;
    int64_t row = in->top[i].first[0];
    size_t n = (size_t)(ex->start[row + 1] - ex->start[row]);
    ns_buf text = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_buf_printf(out, err, "%s{\"found\": ", i ? ", " : ""), "repeated row");
    NS_CHECK(st, json_found(out, &in->top[i], err), "repeated row");
    NS_CHECK(st, ns_tok_decode(in->tok, &text, ex->ids + ex->start[row], n < 32 ? n : 32, 0, err), "repeated row");
    NS_CHECK(st, ns_buf_adds(out, ", \"beginning\": ", err), "repeated row");
    NS_CHECK(st, add_json(out, text.data ? text.data : "", text.len, err), "repeated row");
    NS_CHECK(st, ns_buf_addc(out, '}', err), "repeated row");
done:
    ns_buf_free(&text);
    return st;
}

static int64_t length(const ns_examples *ex, int64_t row)
{
    return row < 0 ? 0 : ex->start[row + 1] - ex->start[row];
}

ns_status ns_inspect_json(ns_buf *out, const ns_inspect *in, int64_t from, int64_t to, ns_error *err)
{
    const ns_examples *ex = in->ex;
    PUT("{\"file\": ");
    NS_TRY(add_json(out, in->path, strlen(in->path), err), "report");
    PUT(", \"format\": \"%s\", \"hash\": \"%s\", \"rows\": %" PRId64 ", \"tokens\": %" PRId64
        ", \"trained_tokens\": %" PRId64 ", \"trained_share\": %.6f",
        ex->format, ex->hash, ex->n, in->tokens, ex->n_targets,
        in->tokens ? (double)ex->n_targets / (double)in->tokens : 0.0);
    PUT(", \"mean\": %.3f, \"shortest\": {\"tokens\": %" PRId64 ", \"line\": %" PRId64
        "}, \"longest\": {\"tokens\": %" PRId64 ", \"line\": %" PRId64 "}, \"max_seq_length\": %" PRId64,
        in->mean, length(ex, in->shortest), in->shortest + 1, length(ex, in->longest), in->longest + 1,
        in->max_seq_length);
    PUT(", \"parts\": [");
    for (int i = 0; i < ex->n_parts; i++) {
        PUT("%s{\"part\": ", i ? ", " : "");
        NS_TRY(add_json(out, ex->part[i].name, strlen(ex->part[i].name), err), "report");
        PUT(", \"tokens\": %" PRId64 ", \"trained\": %" PRId64 "}", ex->part[i].tokens, ex->part[i].trained);
    }
    PUT("], \"histogram\": [");
    for (int64_t i = 0; i < in->n_bars; i++)
        PUT("%s{\"from\": %" PRId64 ", \"to\": %" PRId64 ", \"rows\": %" PRId64 "}", i ? ", " : "", i * in->bar_width,
            (i + 1) * in->bar_width - 1, in->bar[i]);
    PUT("]");
    for (int k = 0; k < NS_INSPECT_KINDS; k++) {
        PUT(", \"%s\": ", ns_inspect_key((ns_inspect_kind)k));
        NS_TRY(json_found(out, &in->found[k], err), "report");
    }
    PUT(", \"most_repeated\": [");
    for (int i = 0; i < in->n_top; i++) NS_TRY(json_top(out, in, i, err), "report");
    PUT("], \"shown\": [");
    for (int64_t i = from; i < to; i++) {
        if (i > from) PUT(", ");
        NS_TRY(json_row(out, in, i, err), "line %" PRId64, i + 1);
    }
    PUT("]}\n");
    return NS_OK;
}

/* ---- HTML ---- */
static ns_status add_html(ns_buf *out, const char *p, size_t n, ns_error *err)
{
    for (size_t i = 0; i < n;) {
        size_t good = ns_utf8_check((const uint8_t *)p + i, n - i), stop = i + good;
        for (; i < stop; i++) {
            unsigned char c = (unsigned char)p[i];
            const char *e = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&quot;" : NULL;
            if (c == '\'') e = "&#39;";
            if (c < 0x20 && c != '\n' && c != '\t') e = "\xef\xbf\xbd";
            NS_TRY(e ? ns_buf_adds(out, e, err) : ns_buf_addc(out, (char)c, err), "text");
        }
        if (i < n) {
            NS_TRY(ns_buf_adds(out, "\xef\xbf\xbd", err), "text");
            i++;
        }
    }
    return NS_OK;
}

static ns_status html_row(ns_buf *out, const ns_inspect *in, int64_t row, ns_error *err)
{
    const ns_examples *ex = in->ex;
    ns_buf text = {0};
    ns_status st = NS_OK;
    NS_CHECK(st,
             ns_buf_printf(out, err, "<h2>line %" PRId64 " <small>%" PRId64 " tokens%s%s%s</small></h2>\n<div class=r>",
                           row + 1, length(ex, row), ex->flags[row] & NS_ROW_TRUNCATED ? ", truncated" : "",
                           ex->flags[row] & NS_ROW_EMPTY ? ", empty answer" : "",
                           ex->same_as[row] != row ? ", repeats an earlier row" : ""),
             "row");
    for (int64_t q = 0, end; q < length(ex, row); q = end) {
        int trained = ns_inspect_is_trained(ex, row, q);
        NS_CHECK(st, ns_inspect_stretch(&text, &end, in, row, q, err), "row");
        NS_CHECK(st,
                 ns_buf_printf(out, err, "<span class=%s title=\"%s, tokens %" PRId64 " to %" PRId64 "\">",
                               trained ? "t" : "c", trained ? "trained" : "context", q, end - 1),
                 "row");
        NS_CHECK(st, add_html(out, text.data ? text.data : "", text.len, err), "row");
        NS_CHECK(st, ns_buf_adds(out, "</span>", err), "row");
    }
    NS_CHECK(st, ns_buf_adds(out, "</div>\n", err), "row");
done:
    ns_buf_free(&text);
    return st;
}

ns_status ns_inspect_html(ns_buf *out, const ns_inspect *in, int64_t from, int64_t to, ns_error *err)
{
    ns_buf summary = {0};
    ns_status st = NS_OK;
    NS_CHECK(st,
             ns_buf_adds(out,
                         "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8><title>ns inspect</title>\n<style>"
                         "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
                         "pre,.r{white-space:pre-wrap;overflow-wrap:anywhere;font-family:monospace;line-height:1.4}"
                         ".r{border:1px solid #bbb;padding:.6em}.t{background:#c9f2cf;color:#063}.c{color:#666}"
                         "h2{font-size:1em}small{font-weight:normal;color:#666}</style></head><body>\n<pre>",
                         err),
             "page");
    NS_CHECK(st, ns_inspect_text(&summary, in, err), "page");
    NS_CHECK(st, add_html(out, summary.data, summary.len, err), "page");
    NS_CHECK(st, ns_buf_adds(out, "</pre>\n<p><span class=t>trained</span> <span class=c>context</span></p>\n", err),
             "page");
    for (int64_t i = from; i < to; i++) NS_CHECK(st, html_row(out, in, i, err), "line %" PRId64, i + 1);
    NS_CHECK(st, ns_buf_adds(out, "</body></html>\n", err), "page");
done:
    ns_buf_free(&summary);
    return st;
}
