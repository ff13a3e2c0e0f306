/* Placeholders over any row: first line the format text, the rest one JSON object. Nothing may crash, and a text without
 * braces is copied. */
#include <stdlib.h>
#include <string.h>

#include "data/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    const uint8_t *nl = n ? memchr(p, '\n', n) : NULL;
    if (!nl) return 0;
    size_t n_fmt = (size_t)(nl - p);
    ns_arena a = NS_ARENA_INIT("fuzz");
    ns_json *row = NULL;
    ns_buf out = {0};
    ns_error err = NS_ERROR_INIT;
    char *fmt = ns_arena_strndup(&a, (const char *)p, n_fmt, &err);
    if (ns_json_parse(&row, &a, (const char *)nl + 1, n - n_fmt - 1, "fuzz", 0, &err) == NS_OK && fmt) {
        ns_format_args args = {row, NULL, "hidden", "fuzz", "fuzz:1"};
        ns_status st = ns_format(&out, fmt, &args, &err);
        if (!strpbrk(fmt, "{}") && (st != NS_OK || strcmp(out.data ? out.data : "", fmt))) abort();
    }
    ns_buf_free(&out);
    ns_arena_free(&a);
    return 0;
}
