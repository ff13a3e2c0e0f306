/* Fuzz target for chat templates: the text up to the first NUL is the template, what follows it (if JSON) the variables'
 * values as an object. Properties: no crash; a refusal is one line and of a kind that names bad input or memory bounds; what
 * compiles renders within its limits; spans are inside of the output, in order. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tok/jinja.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void must(int ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "chat_template_fuzz: %s\n", what);
    abort();
}

static void check_refusal(const ns_error *err)
{
    must(err->code == NS_ERR_INPUT || err->code == NS_ERR_UNSUPPORTED, "a refusal is about the input");
    must(err->msg[0] && !strchr(err->msg, '\n'), "a message is one line");
}

static const char messages[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \" be kind\\n\"}, {\"role\": \"user\", \"content\": "
    "\"h\\u00e9 <b>\"}, "
    "{\"role\": \"assistant\", \"content\": \"<think>\\nx</think>y\", \"tool_calls\": [{\"id\": \"abcdefghi\", "
    "\"function\": "
    "{\"name\": \"f\", \"arguments\": {\"a\": [1, 2.5, null, true]}}}]}, {\"role\": \"tool\", \"content\": [{\"type\": "
    "\"text\", "
    "\"text\": \"r\"}]}], \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {}}}], "
    "\"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}";

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    ns_error err = NS_ERROR_INIT, ignored = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("fuzz");
    ns_jinja *t = NULL;
    const unsigned char *nul = size ? memchr(data, 0, size) : NULL;
    size_t n = nul ? (size_t)(nul - data) : size;
    ns_json *root = NULL;
    if (ns_jinja_compile(&t, (const char *)data, n, "t", &err) != NS_OK) {
        check_refusal(&err);
        return 0;
    }
    if (!nul ||
        ns_json_parse(&root, &a, (const char *)nul + 1, size - n - 1, "v", NS_JSON_LONE_OK, &ignored) != NS_OK ||
        root->type != NS_JSON_OBJECT)
        must(ns_json_parse(&root, &a, messages, sizeof messages - 1, "v", 0, &err) == NS_OK, "own messages");
    ns_jinja_var v[64];
    size_t n_vars = 0;
    for (size_t i = 0; i < root->n && i < 64; i++) {
        char *name = ns_arena_strndup(&a, root->keys[i].p, root->keys[i].n, &err);
        must(name != NULL, "memory");
        v[n_vars++] = (ns_jinja_var){name, &root->items[i]};
    }
    ns_buf out = {0};
    ns_jinja_render r = {
        .vars = v, .n_vars = n_vars, .now = 1, .want_spans = 1, .limits = {.steps = 200000, .bytes = 8 << 20}};
    if (ns_jinja_run(t, &out, &r, &err) != NS_OK) {
        check_refusal(&err);
        must(out.len == 0, "nothing is written on failure");
    }
    size_t at = 0;
    for (size_t i = 0; i < r.n_spans; i++) {
        must(r.spans[i].from <= r.spans[i].to && r.spans[i].to <= out.len, "a span lies in the text");
        at = r.spans[i].to;
    }
    must(at <= out.len, "order");
    ns_free(r.spans);
    ns_buf_free(&out);
    ns_jinja_free(&t);
    ns_arena_free(&a);
    return 0;
}
