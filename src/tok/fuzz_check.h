/* What the tokenizer fuzz targets check of a tokenizer that loaded: ids in range; spans inside the text, in order; the same
 * ids with and without spans; a stream gives the decoded text with U+FFFD for what is not UTF-8, whole characters at any
 * moment; refusals are about the input and one line. */
#ifndef NS_TOK_FUZZ_CHECK_H
#define NS_TOK_FUZZ_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tok/tok_internal.h"
#include "tok/unicode.h"

static inline void must(int ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "fuzz: %s\n", what);
    abort();
}

static inline void check_refusal(const ns_error *err)
{
    must(err->code == NS_ERR_INPUT || err->code == NS_ERR_UNSUPPORTED || err->code == NS_ERR_MISMATCH ||
             err->code == NS_ERR_CONFIG,
         "a refusal is about the input");
    must(err->msg[0] && !strchr(err->msg, '\n'), "a message is one line");
}

static inline void check_stream(const ns_tok *t, const ns_ids *ids, const ns_buf *whole)
{
    ns_error err = NS_ERROR_INIT;
    ns_tok_stream s = {.t = t};
    ns_buf out = {0}, want = {0};
    must(ns_utf8_repair(&want, (const uint8_t *)(whole->data ? whole->data : ""), whole->len, &err) == NS_OK, "memory");
    for (size_t i = 0; i < ids->n; i++) {
        must(ns_tok_stream_push(&s, &out, ids->v + i, 1, &err) == NS_OK, "a stream takes what decodes");
        must(ns_utf8_check((const uint8_t *)(out.data ? out.data : ""), out.len) == out.len, "whole characters only");
    }
    must(ns_tok_stream_end(&s, &out, &err) == NS_OK, "a stream ends");
    must(out.len == want.len && (!out.len || !memcmp(out.data, want.data, out.len)), "a stream gives the decoded text");
    ns_tok_stream_free(&s);
    ns_buf_free(&out);
    ns_buf_free(&want);
}

/* 1 if the text was taken; back (if not NULL) is what it decodes to. */
static inline int check_text(const ns_tok *t, const char *text, size_t n, int flags, ns_buf *back)
{
    ns_ids ids = {0}, again = {0};
    ns_spans spans = {0};
    ns_buf decoded = {0};
    ns_error err = NS_ERROR_INIT, other = NS_ERROR_INIT;
    int taken = ns_tok_encode(t, &ids, text, n, flags, &err) == NS_OK;
    ns_status st = ns_tok_encode_spans(t, &again, &spans, text, n, flags, &other);
    must(taken == (st == NS_OK), "spans change nothing");
    if (!taken) check_refusal(&err);
    if (taken) {
        must(ids.n == again.n && spans.n == ids.n && (!ids.n || !memcmp(ids.v, again.v, ids.n * sizeof *ids.v)),
             "the same ids with spans");
        for (size_t i = 0; i < ids.n; i++) {
            must(ids.v[i] >= 0 && ids.v[i] < ns_tok_vocab_size(t), "ids are in range");
            must(spans.v[i].from <= spans.v[i].to && spans.v[i].to <= n, "spans are in the text");
        }
        must(ns_tok_decode(t, &decoded, ids.v, ids.n, 0, &err) == NS_OK, "what was encoded decodes");
        check_stream(t, &ids, &decoded);
        if (back && decoded.len) must(ns_buf_add(back, decoded.data, decoded.len, &err) == NS_OK, "memory");
    }
    ns_ids_free(&ids);
    ns_ids_free(&again);
    ns_spans_free(&spans);
    ns_buf_free(&decoded);
    return taken;
}

/* Builds from the bytes (and a family or NULL); what loads must work on awkward texts. */
static inline void check_file(const char *p, size_t n, const char *config, size_t config_n, const char *family)
{
    static const char text[] = "the aab <s> <user>  12345 e\xcc\x81 \xe2\x96\x81x \xf0\x9f\x98\x80\n\n'LL \xc2\xa0 "
                               "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                               "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                               "aaaaaaaaaaab \xef\xac\x81 ";
    ns_tok_source src = {.json = p,
                         .json_n = n,
                         .where = "fuzz",
                         .config = config,
                         .config_n = config_n,
                         .config_where = "config",
                         .family = family};
    ns_tok *t = NULL;
    ns_error err = NS_ERROR_INIT;
    if (ns_tok_build(&t, &src, &err) != NS_OK) {
        check_refusal(&err);
        must(!t, "nothing is handed out on failure");
        return;
    }
    check_text(t, text, strlen(text), NS_TOK_ADD_SPECIAL, NULL);
    check_text(t, text, strlen(text), NS_TOK_NO_SPECIAL_TEXT, NULL);
    check_text(t, "", 0, NS_TOK_ADD_SPECIAL, NULL);
    ns_tok_free(&t);
}

#endif
