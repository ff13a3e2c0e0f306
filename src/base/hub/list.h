/* The hub's answer to "which files has this model?": names, sizes and checksums, each looked at before it is used.
 *     ns_hub_list l = {.name = "org/model", .include = patterns, .n_include = 1};     // no pattern: what a model needs
 *     NS_TRY(ns_hub_list_parse(&l, &arena, text, n, err), "list");                     // l.f[0, l.n) in l.commit
 * A file's name stays inside its folder (no "..", no leading '/', nothing unprintable); a checksum is hexadecimal. */
#ifndef NS_BASE_HUB_LIST_H
#define NS_BASE_HUB_LIST_H

#include "base/mem.h"

typedef struct ns_hub_file {
    const char *path, *etag; /* etag: its SHA-256 (lfs) or git's SHA-1; also the name of its blob in the cache */
    int64_t size;            /* -1: not told */
    int is_lfs;
} ns_hub_file;

typedef struct ns_hub_list {
    const char *name; /* of the model, for messages */
    const char *const *include;
    size_t n_include;
    char commit[64];
    ns_hub_file *f;
    int n, n_skipped; /* skipped: not wanted */
} ns_hub_list;

/* 1: a relative path without "..", of printable characters. */
int ns_hub_good_path(const char *p);
NS_MUST_USE ns_status ns_hub_list_parse(ns_hub_list *l, ns_arena *arena, const char *text, size_t n, ns_error *err);

#endif
