/* Mounts: paths as the documented commands write them (inside of a container) to paths of the host.
 *
 * A mount `src:dst` turns dst and dst/... into src and src/...; whole path components are compared, so that a mount /data
 * leaves /database alone. The longest destination that fits wins. /nemo_run/code is the folder a job starts in. */
#ifndef NS_JOBS_MOUNTS_H
#define NS_JOBS_MOUNTS_H

#include "jobs/words.h"

typedef struct ns_mount {
    const char *from, *to; /* host path, path as written; no trailing slash */
} ns_mount;

typedef struct ns_mounts {
    ns_mount *v;
    size_t n;
    const char *code; /* what /nemo_run/code stands for */
    int strict;       /* 1: an absolute path of an option must lie under a mount */
} ns_mounts;

/* A path of an option: translated, made absolute. Err NS_ERR_CONFIG: not under a mount though there are mounts. */
NS_MUST_USE ns_status ns_mounts_path(const ns_mounts *m, ns_arena *a, const char *path, const char **out,
                                     ns_error *err);
/* Paths inside of a word: the whole, a value behind '=', an element of a list. Unmounted paths stay as they are. */
NS_MUST_USE ns_status ns_mounts_word(const ns_mounts *m, ns_arena *a, const char *word, const char **out,
                                     ns_error *err);
/* The same in a line for bash: what is put in is quoted as its place needs. */
NS_MUST_USE ns_status ns_mounts_line(const ns_mounts *m, ns_arena *a, const char *line, const char **out,
                                     ns_error *err);

#endif
