/* Fuzz target for the Parquet reader. The bytes are the file.
 * Properties: no crash; a row is one line and one JSON object; a refusal names the file, on one line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/parquet/parquet.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void must(int ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "parquet_fuzz: %s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    unsigned char *file = malloc(size ? size : 1); /* exact: a sanitizer sees reading past the end */
    memcpy(file, data, size);
    ns_error err = NS_ERROR_INIT;
    ns_parquet *r;
    const char *row;
    size_t n, bytes = 0;
    ns_arena a = NS_ARENA_INIT("fuzz");
    ns_status st = ns_parquet_open_memory(&r, file, size, "fuzz", &err);
    if (st == NS_OK) ns_parquet_longest_row(r, 1 << 16);
    for (int i = 0; st == NS_OK && i < 2000 && bytes < 1 << 20; i++) {
        st = ns_parquet_next(r, &row, &n, &err);
        if (st != NS_OK || !row) break;
        bytes += n;
        ns_json *v;
        must(!memchr(row, '\n', n), "a row is one line");
        ns_error deep = NS_ERROR_INIT; /* a JSON column may nest 512 deep, and the row above it */
        ns_status parsed = ns_json_parse(&v, &a, row, n, "row", 0, &deep);
        must(parsed == NS_OK || strstr(deep.msg, "levels of nesting"), "a row is JSON");
        must(parsed != NS_OK || v->type == NS_JSON_OBJECT, "a row is an object");
        ns_arena_free(&a);
    }
    if (st != NS_OK) {
        must(st == NS_ERR_INPUT || st == NS_ERR_UNSUPPORTED, "a refusal is about the input");
        must(!strncmp(err.msg, "fuzz: ", 6) && !strchr(err.msg, '\n'), "a refusal names the file, on one line");
    }
    ns_parquet_close(&r);
    ns_arena_free(&a);
    free(file);
    return 0;
}
