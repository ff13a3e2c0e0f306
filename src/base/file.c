/* Files: whole reads, mappings, atomic replacement, buffered writer (trees and published directories: dir.c).
 *
 * Invariants: a name that ns_file_replace works on holds the old or the new bytes at every moment. A failed writer leaves
 * no file behind (a short file under its final name would look right); devices and pipes are never removed. A writer
 * never writes through a hard link that it shares with another tree: such a file is unlinked first. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/sync.h"
#include "base/sys.h"

enum { WRITER_BUF = 1 << 20, READ_STEP = 1 << 16 };

/* Folder part of path: "a/b" -> "a", "b" -> ".", "/b" -> "/". */
static ns_status parent_of(char *out, size_t size, const char *path, ns_error *err)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    while (n > 0 && path[n - 1] != '/') n--;
    while (n > 1 && path[n - 1] == '/') n--;
    NS_FAIL_IF(n >= size, NS_ERR_INPUT, "path is too long (%zu bytes): '%.100s...'", strlen(path), path);
    if (n == 0)
        snprintf(out, size, ".");
    else
        snprintf(out, size, "%.*s", (int)n, path);
    return NS_OK;
}

int ns_path_exists(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0;
}

int ns_path_is_dir(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

int ns_path_is_special(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && !S_ISREG(sb.st_mode) && !S_ISDIR(sb.st_mode);
}

ns_status ns_path_target(ns_buf *out, const char *path, ns_error *err)
{
    struct stat sb;
    char real[PATH_MAX];
    int linked = lstat(path, &sb) == 0 && S_ISLNK(sb.st_mode) && realpath(path, real) != NULL;
    return ns_buf_adds(out, linked ? real : path, err);
}

ns_status ns_disk_free(uint64_t *bytes, const char *path, ns_error *err)
{
    char at[4096];
    struct statvfs v;
    NS_FAIL_IF(strlen(path) >= sizeof at, NS_ERR_INPUT, "path is too long: '%.100s...'", path);
    snprintf(at, sizeof at, "%s", path[0] ? path : ".");
    while (statvfs(at, &v) != 0) {
        char up[4096];
        if (errno != ENOENT && errno != ENOTDIR) return ns_sys_error(err, "ask for the free space of", path);
        NS_TRY(parent_of(up, sizeof up, at, err), "%s", "");
        if (strcmp(up, at) == 0) return ns_sys_error(err, "ask for the free space of", path);
        memcpy(at, up, sizeof at);
    }
    *bytes = (uint64_t)v.f_bavail * v.f_frsize;
    return NS_OK;
}

/* ---- reading ---- */

ns_status ns_file_read(ns_buf *out, const char *path, ns_error *err)
{
    ns_status st = NS_OK;
    struct stat sb;
    int fd = ns_sys_open(path, O_RDONLY, 0);
    if (fd < 0) return ns_sys_error(err, "open", path);
    NS_SYS_BAIL_IF(st, ns_sys_fstat(fd, &sb) != 0, "examine", path);
    if (S_ISREG(sb.st_mode)) NS_CHECK(st, ns_buf_reserve(out, (size_t)sb.st_size + 1, err), "read '%s'", path);
    for (;;) { /* to the end and not to st_size: pipes have none, and files may grow */
        if (out->cap - out->len < 2) NS_CHECK(st, ns_buf_reserve(out, READ_STEP, err), "read '%s'", path);
        if (!out->data) NS_CHECK(st, ns_buf_reserve(out, READ_STEP, err), "read '%s'", path);
        size_t room = out->cap - out->len - 1;
        ssize_t k = ns_sys_read(fd, out->data + out->len, room < ((size_t)1 << 30) ? room : (size_t)1 << 30);
        NS_SYS_BAIL_IF(st, k < 0, "read", path);
        out->len += (size_t)k;
        out->data[out->len] = 0;
        if (k == 0) break;
    }
done:
    ns_sys_close(fd);
    return st;
}

ns_status ns_map_open(ns_map *m, const char *path, ns_error *err)
{
    struct stat sb;
    m->data = NULL;
    m->size = 0;
    int fd = ns_sys_open(path, O_RDONLY, 0);
    if (fd < 0) return ns_sys_error(err, "open", path);
    ns_status st = NS_OK;
    NS_SYS_BAIL_IF(st, ns_sys_fstat(fd, &sb) != 0, "examine", path);
    NS_BAIL_IF(st, !S_ISREG(sb.st_mode), NS_ERR_INPUT, "cannot map '%s': found a %s, expected a regular file", path,
               S_ISDIR(sb.st_mode) ? "folder" : "pipe or device");
    if (sb.st_size == 0)
        m->data = (const unsigned char *)"";
    else {
        m->data = ns_sys_mmap((size_t)sb.st_size, fd);
        NS_SYS_BAIL_IF(st, !m->data, "map", path);
        m->size = (size_t)sb.st_size;
    }
done:
    ns_sys_close(fd);
    return st;
}

void ns_map_close(ns_map *m)
{
    if (m->data && m->size) munmap((void *)(uintptr_t)m->data, m->size);
    m->data = NULL;
    m->size = 0;
}

/* ---- durable writing ---- */

ns_status ns_fsync_dir(const char *path, ns_error *err)
{
    int fd = ns_sys_open(path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) return ns_sys_error(err, "open folder", path);
    ns_status st = NS_OK;
    if (ns_sys_fsync(fd) != 0 && errno != EINVAL) st = ns_sys_error(err, "sync folder", path);
    ns_sys_close(fd);
    return st;
}

static ns_status write_synced(const char *path, const void *data, size_t n, ns_error *err)
{
    int fd = ns_sys_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0) return ns_sys_error(err, "create", path);
    ns_status st = NS_OK;
    if (ns_sys_write_all(fd, data, n) != 0) st = ns_sys_error(err, "write", path);
    if (st == NS_OK && ns_sys_fsync(fd) != 0) st = ns_sys_error(err, "sync", path);
    if (ns_sys_close(fd) != 0 && st == NS_OK) st = ns_sys_error(err, "close", path);
    return st;
}

/* A device or pipe takes the bytes as they come: a rename would put a plain file in its place. */
static ns_status write_through(const char *path, const void *data, size_t n, ns_error *err)
{
    ns_file *f = NULL;
    NS_TRY(ns_file_create(&f, path, err), "%s", "");
    ns_status st = n ? ns_file_write(f, data, n, err) : NS_OK;
    if (st == NS_OK) return ns_file_close(&f, err);
    ns_file_abort(&f);
    return st;
}

static ns_status replace_regular(const char *path, const void *data, size_t n, ns_error *err)
{
    static atomic_uint serial; /* two threads may replace the same file */
    char tmp[4096], parent[4096];
    unsigned id = atomic_fetch_add(&serial, 1);
    int k = snprintf(tmp, sizeof tmp, "%s.tmp.%ld", path, (long)getpid());
    if (id > 0 && k > 0 && (size_t)k < sizeof tmp) k += snprintf(tmp + k, sizeof tmp - (size_t)k, ".%u", id);
    NS_FAIL_IF(k < 0 || (size_t)k >= sizeof tmp, NS_ERR_INPUT, "path is too long: '%.100s...'", path);
    NS_TRY(parent_of(parent, sizeof parent, path, err), "%s", "");
    ns_status st = write_synced(tmp, data, n, err);
    if (st == NS_OK && ns_sys_rename(tmp, path) != 0) st = ns_sys_error(err, "rename the new file to", path);
    if (st != NS_OK) {
        unlink(tmp);
        return st;
    }
    NS_TRY(ns_fsync_dir(parent, err), "replace '%s'", path);
    return NS_OK;
}

ns_status ns_file_replace(const char *path, const void *data, size_t n, ns_error *err)
{
    ns_buf target = {0};
    if (ns_path_is_special(path)) return write_through(path, data, n, err);
    ns_status st = ns_path_target(&target, path, err);
    if (st == NS_OK) st = replace_regular(target.data, data, n, err);
    ns_buf_free(&target);
    return st;
}

ns_status ns_mkdirs(const char *path, ns_error *err)
{
    char at[4096], up[4096];
    size_t n = strlen(path);
    NS_FAIL_IF(n == 0 || n >= sizeof at, NS_ERR_INPUT, "bad folder name '%.100s' (%zu bytes)", path, n);
    memcpy(at, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (at[i] != '/' && at[i] != 0) continue;
        char c = at[i];
        at[i] = 0;
        if (ns_sys_mkdir(at, 0777) == 0) { /* the new name must survive a crash, too */
            NS_TRY(parent_of(up, sizeof up, at, err), "%s", "");
            NS_TRY(ns_fsync_dir(up, err), "make folder '%s'", path);
        } else {
            int e = errno;
            if (!ns_path_is_dir(at)) {
                errno = e == EEXIST ? ENOTDIR : e;
                return ns_sys_error(err, "make folder", at);
            }
        }
        at[i] = c;
    }
    return NS_OK;
}

void ns_file_prefetch(const char *path)
{
    struct stat sb;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return;
    if (fstat(fd, &sb) == 0 && S_ISREG(sb.st_mode)) (void)posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED);
    close(fd);
}

/* ---- buffered writer ---- */

struct ns_file {
    int fd, is_stdout, is_regular;
    ns_error first; /* the first error; sticks */
    size_t n;
    char *buf, *path;
};

/* Makes and opens the file. A file with other names (hard links) is unlinked, not truncated. */
static int open_fresh(const char *path)
{
    struct stat sb;
    if (ns_sys_lstat(path, &sb) == 0 && S_ISREG(sb.st_mode) && sb.st_nlink > 1 &&
        ns_sys_unlinkat(AT_FDCWD, path, 0) != 0)
        return -1;
    return ns_sys_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
}

static void writer_free(ns_file **f)
{
    if (!*f) return;
    ns_free((*f)->buf);
    ns_free((*f)->path);
    ns_free(*f);
    *f = NULL;
}

ns_status ns_file_create(ns_file **out, const char *path, ns_error *err)
{
    ns_status st = NS_OK;
    ns_file *f = NULL;
    struct stat sb;
    *out = NULL;
    NS_CHECK(st, ns_alloc((void **)&f, sizeof *f, "file", err), "create '%s'", path);
    NS_CHECK(st, ns_alloc((void **)&f->path, strlen(path) + 1, "file.path", err), "create '%s'", path);
    NS_CHECK(st, ns_alloc((void **)&f->buf, WRITER_BUF, "file.buffer", err), "create '%s'", path);
    memcpy(f->path, path, strlen(path) + 1);
    f->is_stdout = strcmp(path, "-") == 0;
    f->fd = f->is_stdout ? STDOUT_FILENO : open_fresh(path);
    NS_SYS_BAIL_IF(st, f->fd < 0, "create", path);
    f->is_regular = !f->is_stdout && fstat(f->fd, &sb) == 0 && S_ISREG(sb.st_mode);
    *out = f;
    return NS_OK;
done:
    writer_free(&f);
    return st;
}

/* Records the first error of f. */
static ns_status stick(ns_file *f, const char *verb)
{
    return ns_sys_error(&f->first, verb, f->is_stdout ? "standard output" : f->path);
}

/* Hands the stuck error to the caller. */
static ns_status give(const ns_file *f, ns_error *err)
{
    return ns_error_set(err, f->first.code, __FILE__, __LINE__, "%s", f->first.msg);
}

static ns_status flush(ns_file *f)
{
    if (f->first.code == NS_OK && ns_sys_write_all(f->fd, f->buf, f->n) != 0) stick(f, "write");
    f->n = 0;
    return f->first.code;
}

ns_status ns_file_write(ns_file *f, const void *p, size_t n, ns_error *err)
{
    if (f->first.code == NS_OK && n >= WRITER_BUF) { /* large blocks go straight through */
        if (flush(f) == NS_OK && ns_sys_write_all(f->fd, p, n) != 0) stick(f, "write");
        return f->first.code == NS_OK ? NS_OK : give(f, err);
    }
    if (f->first.code == NS_OK && n > WRITER_BUF - f->n) flush(f);
    if (f->first.code != NS_OK) return give(f, err);
    if (n) memcpy(f->buf + f->n, p, n);
    f->n += n;
    return NS_OK;
}

ns_status ns_file_write_at(ns_file *f, uint64_t at, const void *p, size_t n, ns_error *err)
{
    if (ns_sys_pwrite_all(f->fd, p, n, at) != 0) return ns_sys_error(err, "write", f->path);
    (void)sync_file_range(f->fd, (off_t)at, (off_t)n, SYNC_FILE_RANGE_WRITE); /* a hint */
    return NS_OK;
}

ns_status ns_file_close(ns_file **pf, ns_error *err)
{
    ns_file *f = *pf;
    if (!f) return NS_OK;
    flush(f);
    if (f->is_regular && f->first.code == NS_OK)
        (void)!ns_sync_close(f->fd, f->path, &f->first); /* the error is in `first` */
    else if (!f->is_stdout && ns_sys_close(f->fd) != 0 && f->first.code == NS_OK)
        stick(f, "close");
    ns_status st = f->first.code;
    if (st != NS_OK) {
        give(f, err);
        if (f->is_regular) unlink(f->path);
    }
    writer_free(pf);
    return st;
}

void ns_file_abort(ns_file **pf)
{
    ns_file *f = *pf;
    if (!f) return;
    if (!f->is_stdout) close(f->fd);
    if (f->is_regular) unlink(f->path);
    writer_free(pf);
}
