/* Taking a folder out of a published directory (DONE format: dir.c). DONE is replaced first: a crash in between leaves a
 * complete directory with files that nobody counts, and the next call removes them. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"

/* 1 if the DONE line "size crc path" names something below sub. */
static int is_below(const char *line, size_t n, const char *sub)
{
    size_t k = strlen(sub), blanks = 0, i = 0;
    while (i < n && blanks < 2) blanks += line[i++] == ' ';
    return blanks == 2 && n - i > k && memcmp(line + i, sub, k) == 0 && line[i + k] == '/';
}

ns_status ns_dir_drop(const char *path, const char *sub, ns_error *err)
{
    char done_path[4096], sub_path[4096];
    ns_buf old = {0}, text = {0};
    ns_status st = NS_OK;
    size_t kept = 0, dropped = 0;
    int ended = 0;
    snprintf(done_path, sizeof done_path, "%s/DONE", path);
    snprintf(sub_path, sizeof sub_path, "%s/%s", path, sub);
    NS_CHECK(st, ns_file_read(&old, done_path, err), "drop '%s'", sub_path);
    const char *end = old.data ? old.data + old.len : NULL;
    for (const char *p = old.data, *nl; p && p < end && (nl = memchr(p, '\n', (size_t)(end - p))) != NULL; p = nl + 1) {
        size_t n = (size_t)(nl - p);
        if (n > 4 && memcmp(p, "end ", 4) == 0) {
            NS_CHECK(st, ns_buf_printf(&text, err, "end %zu\n", kept - 1), "drop '%s'",
                     sub_path); /* not the first line */
            ended = 1;
            break;
        }
        if (is_below(p, n, sub)) {
            dropped++;
            continue;
        }
        NS_CHECK(st, ns_buf_add(&text, p, n + 1, err), "drop '%s'", sub_path);
        kept++;
    }
    NS_BAIL_IF(st, !ended || kept == 0, NS_ERR_INPUT, "'%s' is cut short: the folder is not complete", done_path);
    if (dropped) NS_CHECK(st, ns_file_replace(done_path, text.data, text.len, err), "drop '%s'", sub_path);
    if (ns_path_exists(sub_path)) NS_CHECK(st, ns_remove_tree(sub_path, err), "drop '%s'", sub_path);
done:
    ns_buf_free(&old);
    ns_buf_free(&text);
    return st;
}
