/* System calls with fault injection: for file.c, dir.c, scatter.c and the readers of rows only (others use file.h).
 *
 * Each wrapper counts as one call of its kind ("open", "read", "write", "fsync", "close", "rename", "link", "unlink",
 * "mkdir", "rmdir", "stat", "opendir", "mmap"); ns_sys_fail_at (file.h) picks the one that fails. Interrupted calls are
 * repeated here. A negative errno_value in ns_sys_fail_at ends the process at once with that exit code, as a crash
 * would: nothing is flushed, nobody cleans up. */
#ifndef NS_BASE_SYS_H
#define NS_BASE_SYS_H

#include <dirent.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/error.h"

int ns_sys_open(const char *path, int flags, mode_t mode);
ssize_t ns_sys_read(int fd, void *p, size_t n);
ssize_t ns_sys_pread(int fd, void *p, size_t n, off_t at);
ssize_t ns_sys_write(int fd, const void *p, size_t n);
int ns_sys_fsync(int fd);
int ns_sys_close(int fd); /* fd is closed even if this reports an error */
int ns_sys_rename(const char *from, const char *to);
int ns_sys_exchange(const char *a, const char *b); /* swaps two names atomically; errno ENOSYS or EINVAL: cannot */
void ns_sys_no_exchange(int on);                   /* tests: behave like a file system that cannot */
int ns_sys_link(const char *from, const char *to);
int ns_sys_unlinkat(int dir, const char *name, int flags);
int ns_sys_mkdir(const char *path, mode_t mode);
int ns_sys_fstat(int fd, struct stat *sb);
int ns_sys_lstat(const char *path, struct stat *sb);
DIR *ns_sys_fdopendir(int fd);
void *ns_sys_mmap(size_t n, int fd); /* read-only, private; NULL on failure */

/* Whole-buffer forms. Write: -1 with errno. Read: bytes read, less than n only at the end of the file. */
int ns_sys_write_all(int fd, const void *p, size_t n);
int ns_sys_pwrite_all(int fd, const void *p, size_t n, uint64_t at);
ssize_t ns_sys_read_all(int fd, void *p, size_t n);
ssize_t ns_sys_pread_all(int fd, void *p, size_t n, uint64_t at); /* counts as "read" */

/* "cannot VERB 'path': reason" from errno; says how much is free when the disk is full. Returns NS_ERR_IO. */
ns_status ns_sys_error(ns_error *err, const char *verb, const char *path);
#define NS_SYS_BAIL_IF(st, cond, verb, path)          \
    do {                                              \
        if (cond) {                                   \
            (st) = ns_sys_error(err, (verb), (path)); \
            goto done;                                \
        }                                             \
    } while (0)

/* A plug-in: the file that the variable `env` names, else `file` beside the program, in ../lib or in .. . 1: it can be read; 0: it
 * cannot (path: what was looked for). */
int ns_plugin_find(char *path, size_t size, const char *file, const char *env);

#endif
