/* File lists in options: "a.jsonl b*.jsonl", "a.jsonl,b.jsonl" or a YAML list (data.md §2.2).
 *     ns_files f = {0};
 *     NS_TRY(ns_files_add(&f, "out/output-rs*.jsonl", err), "input_files");
 *     NS_FAIL_IF(!f.n, ...);
 * A text is split on commas if it has any, else on single blanks; parts are not trimmed. Each part is a pattern with
 * * ? [abc] [!abc] and ** (any number of folders); a leading dot is matched only explicitly. Matches of one pattern are
 * sorted by byte; patterns keep their order; a file matched twice is listed twice. Folders are not listed. */
#ifndef NS_DATA_FILES_H
#define NS_DATA_FILES_H

#include "base/mem.h"

typedef struct ns_files {
    char **path; /* owned */
    size_t n, cap;
} ns_files;

NS_MUST_USE ns_status ns_files_add(ns_files *f, const char *text, ns_error *err);            /* splits */
NS_MUST_USE ns_status ns_files_add_pattern(ns_files *f, const char *pattern, ns_error *err); /* one pattern */
void ns_files_free(ns_files *f);

#endif
