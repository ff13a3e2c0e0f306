/* Fuzz target for the JSON parser, the writers and the line rules. First byte: flags; the rest is the text.
 * Properties: no crash; what is accepted prints in ASCII, reads back, and prints the same; the message of a refusal names
 * a byte inside the text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void must(int ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "json_fuzz: %s\n", what);
    abort();
}

static void check_refusal(const ns_error *err, size_t n)
{
    const char *at = strstr(err->msg, "byte ");
    unsigned long byte;
    must(err->code == NS_ERR_INPUT && strncmp(err->msg, "fuzz: ", 6) == 0,
         "a refusal is an input error that names the place");
    must(at && sscanf(at, "byte %lu:", &byte) == 1 && byte <= n, "the byte lies inside the text");
    must(!strchr(err->msg, '\n'), "a message is one line");
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    if (size == 0) return 0;
    int flags = data[0] & NS_JSON_LONE_OK;
    char *text = malloc(size > 1 ? size - 1 : 1); /* exact: a sanitizer sees reading past the end */
    memcpy(text, data + 1, size - 1);
    ns_arena a = NS_ARENA_INIT("fuzz");
    ns_error err = NS_ERROR_INIT;
    ns_buf one = {0}, two = {0}, raw = {0}, pretty = {0};
    ns_json *v, *w;
    if (ns_json_parse(&v, &a, text, size - 1, "fuzz", flags, &err) != NS_OK)
        check_refusal(&err, size - 1);
    else {
        must(ns_json_write(&one, v, NS_JSON_ASCII, &err) == NS_OK, "the ASCII style writes every value");
        for (size_t i = 0; i < one.len; i++) must(one.data[i] >= 0x20 && one.data[i] < 0x7f, "ASCII is ASCII");
        must(ns_json_parse(&w, &a, one.data, one.len, "again", flags, &err) == NS_OK, "what was written reads back");
        must(ns_json_write(&two, w, NS_JSON_ASCII, &err) == NS_OK && one.len == two.len &&
                 !memcmp(one.data, two.data, one.len),
             "and prints the same");
        ns_status st = ns_json_write(&raw, v, NS_JSON_UTF8, &err);
        must(st == NS_OK || flags, "only lone surrogates cannot be written as UTF-8");
        ns_buf_clear(&two);
        if (st == NS_OK) {
            must(ns_json_parse(&w, &a, raw.data, raw.len, "raw", 0, &err) == NS_OK, "the UTF-8 style reads back");
            must(ns_json_write(&two, w, NS_JSON_ASCII, &err) == NS_OK && one.len == two.len &&
                     !memcmp(one.data, two.data, one.len),
                 "to the same value");
        }
        ns_error fresh = NS_ERROR_INIT;
        err = fresh;
        must(ns_json_write_pretty(&pretty, v, &err) == NS_OK, "the indented style writes every value");
    }
    ns_buf_free(&one);
    ns_buf_free(&two);
    ns_buf_free(&raw);
    ns_buf_free(&pretty);
    ns_arena_free(&a);
    free(text);
    return 0;
}
