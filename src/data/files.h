/* File lists in options: "a.jsonl b*.jsonl", "a.jsonl, b.jsonl", both mixed, or a YAML list (data.md §2.2).
 *     ns_files f = {0};
 *     NS_TRY(ns_files_add(&f, "out/output-rs*.jsonl", err), "input_files");
 *     NS_FAIL_IF(!f.n, ...);
 * A text is split on commas and trimmed; a part that matches nothing as it is, is split on blanks (so a name with a blank in
 * it is found). What each pattern matched is kept in `pattern`. Each part is a pattern with
 * * ? [abc] [!abc] and ** (any number of folders); a leading dot is matched only explicitly. Matches of one pattern are
 * sorted by byte; patterns keep their order; a file matched twice is listed twice. Folders are not listed. "-" is standard input. */
#ifndef NS_DATA_FILES_H
#define NS_DATA_FILES_H

#include "base/mem.h"

typedef struct ns_file_pattern {
    char *text; /* owned */
    size_t n;   /* files that it matched */
} ns_file_pattern;
typedef struct ns_files {
    char **path; /* owned */
    size_t n, cap;
    ns_file_pattern *pattern;
    size_t n_patterns, patterns_cap;
} ns_files;

NS_MUST_USE ns_status ns_files_add(ns_files *f, const char *text, ns_error *err);            /* splits */
NS_MUST_USE ns_status ns_files_add_pattern(ns_files *f, const char *pattern, ns_error *err); /* one pattern */
void ns_files_free(ns_files *f);

#endif
