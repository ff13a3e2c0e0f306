/* Fuzz target for the configuration: YAML text, override words, interpolation, dump. First byte: 0 YAML, else words (one a
 * line) on top of a small tree. Properties: no crash; an accepted tree that is dumped reads back equal; resolving ends in a
 * value without ${...} or in a message; every message is one line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config_priv.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void must(int ok, const char *what, const ns_error *err)
{
    if (ok) return;
    fprintf(stderr, "config_fuzz: %s (%s)\n", what, err->msg);
    abort();
}

static void check_refusal(ns_error *err)
{
    must(err->code != NS_OK && err->code != NS_ERR_INTERNAL && err->code != NS_ERR_MEMORY, "a refusal has a reason",
         err);
    must(err->msg[0] && !strchr(err->msg, '\n'), "a message is one line", err);
    memset(err, 0, sizeof *err);
}

/* NaN is not equal to itself: compare what is written. */
static void check_dump(ns_config *c)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf one = {0}, two = {0};
    ns_config *again = NULL;
    must(ns_config_dump(c, &one, 0, &err) == NS_OK, "every tree can be written", &err);
    must(ns_config_new(&again, &err) == NS_OK, "new", &err);
    must(ns_config_parse_yaml(again, one.data, one.len, "dump", &err) == NS_OK, "what was written reads back", &err);
    must(ns_config_dump(again, &two, 0, &err) == NS_OK, "and can be written again", &err);
    must(one.len == two.len && memcmp(one.data, two.data, one.len) == 0, "to the same text", &err);
    ns_config_free(&again);
    ns_buf_free(&one);
    ns_buf_free(&two);
}

static void check_resolution(ns_config *c)
{
    ns_error err = NS_ERROR_INIT;
    const ns_node *n = NULL;
    if (ns_config_get(c, "", &n, &err) != NS_OK) check_refusal(&err);
    const char **names = NULL;
    size_t count = 0;
    must(cfg_all_paths(c, &names, &count, &err) == NS_OK, "keys are listed", &err);
    for (size_t i = 0; i < count && i < 50; i++)
        if (ns_config_get(c, names[i], &n, &err) != NS_OK) check_refusal(&err);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    static const char base[] = "a: {b: 1, c: [x, {y: 2}], d: '${.b}'}\ne: null\nm: ???\nf: ${a.c}\n";
    ns_error err = NS_ERROR_INIT;
    ns_config *c = NULL;
    if (size == 0) return 0;
    must(ns_config_new(&c, &err) == NS_OK, "new", &err);
    char *text = malloc(size); /* exact, with a NUL in place of the first byte: words need one */
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    if (data[0] == 0) {
        if (ns_config_parse_yaml(c, text, size - 1, "fuzz", &err) != NS_OK) check_refusal(&err);
    } else {
        must(ns_config_parse_yaml(c, base, sizeof base - 1, "base", &err) == NS_OK, "base", &err);
        for (char *word = strtok(text, "\n"); word; word = strtok(NULL, "\n"))
            if (ns_config_override(c, word, &err) != NS_OK) check_refusal(&err);
    }
    check_dump(c);
    check_resolution(c);
    ns_config_free(&c);
    free(text);
    return 0;
}
