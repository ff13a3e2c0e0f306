/* What lets a long write of many files (scatter.h) go on after a kill: DIR/resume.log, one line a finished run of bytes or note.
 *     NS_TRY(ns_scatter_log_begin(tmp, sizeof tmp, parent, name, key, &kept, err), "..."); // key: what must be equal to go on
 *     ... while it is open, ns_scatter_create below tmp opens a kept file as it is, ns_scatter_put with p NULL takes over a run of it,
 *     and every put of bytes is written down; ns_scatter_log_note adds a line of the caller's, ns_scatter_log_kept gives the old ones
 *     ns_scatter_log_end();                                          // removes resume.log; then ns_dir_publish, or ns_remove_tree
 * One log at a time in a process; a lock keeps a second process away. Lines are not synced: after a power cut they may promise bytes
 * that are not there, so the caller compares checksums of what it reads back. */
#ifndef NS_BASE_SCATTER_LOG_H
#define NS_BASE_SCATTER_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* As ns_dir_begin, but parent/.name.tmp of an interrupted run with the same key is kept (*kept 1), without the files that no line
 * names. Err: NS_ERR_INPUT when another process writes there. key: one line; NULL: nothing is kept. */
NS_MUST_USE ns_status ns_scatter_log_begin(char *tmp, size_t tmp_size, const char *parent, const char *name,
                                           const char *key, int *kept, ns_error *err);
NS_MUST_USE ns_status ns_scatter_log_note(const char *line, ns_error *err);
const char *ns_scatter_log_kept(size_t i); /* the i-th note of the interrupted run; NULL: no more */
void ns_scatter_log_end(void);

/* ---- for scatter.c ---- */
typedef struct ns_scatter_run {
    uint64_t at, n;
    uint32_t crc32, crc32c;
} ns_scatter_run;
/* Runs of the file that the interrupted run wrote, sorted, the newest of equal ones last; owned by the log. */
const ns_scatter_run *ns_scatter_log_runs(const char *path, size_t *n);
int ns_scatter_log_covers(const char *path);
NS_MUST_USE ns_status ns_scatter_log_run(const char *path, const ns_scatter_run *r, ns_error *err);

#endif
