/* Files: reading whole, mapping, and durable writing.
 *
 * Durable single file:  ns_file_replace(path, data, n): write `path.tmp.PID`, fsync, rename, fsync directory.
 * Durable directory:    ns_dir_begin(&tmp, parent, name) makes parent/.name.tmp; write files into it with ns_file_create /
 *                       ns_file_close (which fsyncs); ns_dir_publish fsyncs, writes DONE (sizes and checksums of all
 *                       files) last, renames to parent/name and fsyncs parent. A directory without DONE does not exist.
 *
 * Every system call that can fail goes through ns_sys (below) so that tests can make the N-th write, fsync, rename fail. */
#ifndef NS_BASE_FILE_H
#define NS_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"

NS_MUST_USE ns_status ns_file_read(ns_buf *out, const char *path, ns_error *err); /* appends the whole file */
NS_MUST_USE ns_status ns_file_replace(const char *path, const void *data, size_t n, ns_error *err);
NS_MUST_USE ns_status ns_mkdirs(const char *path, ns_error *err); /* like mkdir -p */
NS_MUST_USE ns_status ns_fsync_dir(const char *path, ns_error *err);
NS_MUST_USE ns_status ns_remove_tree(const char *path, ns_error *err); /* missing is fine; never follows links */
NS_MUST_USE ns_status ns_link_tree(const char *from, const char *to, ns_error *err); /* `to`: new dir of hard links */
int ns_path_exists(const char *path);
int ns_path_is_dir(const char *path);
/* A device, pipe or socket (links followed): written in place, never replaced by a file of its name. */
int ns_path_is_special(const char *path);
/* Where a file of this name really lies: the end of a chain of links, else path itself. Free with ns_buf_free. */
NS_MUST_USE ns_status ns_path_target(ns_buf *out, const char *path, ns_error *err);
/* Free bytes for an ordinary user on the file system of `path` (nearest existing parent). */
NS_MUST_USE ns_status ns_disk_free(uint64_t *bytes, const char *path, ns_error *err);

/* The system starts to read the file, in the background; a hint. */
void ns_file_prefetch(const char *path);

/* Read-only mapping of a whole file. */
typedef struct ns_map {
    const unsigned char *data;
    size_t size;
} ns_map;
NS_MUST_USE ns_status ns_map_open(ns_map *m, const char *path, ns_error *err);
void ns_map_close(ns_map *m);

/* Buffered writer: create truncates; close flushes, fsyncs and reports the first error; abort closes and unlinks. */
typedef struct ns_file ns_file;
NS_MUST_USE ns_status ns_file_create(ns_file **out, const char *path, ns_error *err); /* "-": stdout, no fsync */
NS_MUST_USE ns_status ns_file_write(ns_file *f, const void *p, size_t n, ns_error *err);
/* At a place of its own, past the buffer and beside what ns_file_write appends; from many threads at once. The bytes set out for the
 * disk at once, so that close has less to wait for. A failure is the caller's to act on: it does not stick. */
NS_MUST_USE ns_status ns_file_write_at(ns_file *f, uint64_t at, const void *p, size_t n, ns_error *err);
NS_MUST_USE ns_status ns_file_close(ns_file **f, ns_error *err);
void ns_file_abort(ns_file **f);

/* Published directories (checkpoints, models). */
NS_MUST_USE ns_status ns_dir_begin(char *tmp, size_t tmp_size, const char *parent, const char *name, ns_error *err);
NS_MUST_USE ns_status ns_dir_publish(const char *tmp, const char *parent, const char *name, ns_error *err);
/* Takes the folder `sub` out of a published directory: DONE is replaced by one without its files, then they are removed.
 * The directory is complete at every moment. No such folder is fine. */
NS_MUST_USE ns_status ns_dir_drop(const char *path, const char *sub, ns_error *err);
/* Checks DONE. Returns 1 complete, 0 not complete. With `deep` also compares checksums (err says what differs). */
int ns_dir_is_done(const char *path, int deep, ns_error *err);

/* Test hook: the n-th call from now of kind `what` ("write", "fsync", "rename", "open", "link", NULL = any) fails with
 * `errno_value`; n = 0 turns it off. ns_sys_fault_hit() tells whether it was reached. */
void ns_sys_fail_at(const char *what, uint64_t n, int errno_value);
int ns_sys_fault_hit(void);

#endif
