/* System calls with fault injection: see sys.h. The hook costs one relaxed load per call while it is off. */
#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"

static atomic_uint_fast64_t g_countdown; /* 0: off */
static atomic_int g_hit;
static char g_what[16]; /* "" = any kind; written only while the hook is off */
static int g_errno;
static atomic_int g_no_exchange;

void ns_sys_fail_at(const char *what, uint64_t n, int errno_value)
{
    atomic_store(&g_countdown, 0);
    atomic_store(&g_hit, 0);
    snprintf(g_what, sizeof g_what, "%s", what ? what : "");
    g_errno = errno_value;
    atomic_store(&g_countdown, n);
}

int ns_sys_fault_hit(void)
{
    return atomic_load(&g_hit);
}

/* 1: this call must fail, errno is set. */
static int fault(const char *kind)
{
    if (atomic_load_explicit(&g_countdown, memory_order_relaxed) == 0) return 0;
    if (g_what[0] && strcmp(g_what, kind) != 0) return 0;
    if (atomic_fetch_sub(&g_countdown, 1) != 1) return 0;
    atomic_store(&g_hit, 1);
    if (g_errno < 0) _exit(-g_errno);
    errno = g_errno;
    return 1;
}

#define RETRY(call) \
    do {            \
        r = (call); \
    } while (r < 0 && errno == EINTR)

int ns_sys_open(const char *path, int flags, mode_t mode)
{
    int r;
    if (fault("open")) return -1;
    RETRY(open(path, flags | O_CLOEXEC, mode));
    return r;
}

ssize_t ns_sys_read(int fd, void *p, size_t n)
{
    ssize_t r;
    if (fault("read")) return -1;
    RETRY(read(fd, p, n));
    return r;
}

ssize_t ns_sys_pread(int fd, void *p, size_t n, off_t at)
{
    ssize_t r;
    if (fault("read")) return -1;
    RETRY(pread(fd, p, n, at));
    return r;
}

ssize_t ns_sys_write(int fd, const void *p, size_t n)
{
    ssize_t r;
    if (fault("write")) { /* a full disk takes a part first */
        if (n > 1) {
            int e = errno;
            RETRY(write(fd, p, n / 2));
            errno = e;
        }
        return -1;
    }
    RETRY(write(fd, p, n));
    return r;
}

int ns_sys_fsync(int fd)
{
    int r;
    if (fault("fsync")) return -1;
    RETRY(fsync(fd));
    return r;
}

int ns_sys_close(int fd)
{
    int failed = fault("close"), e = errno;
    int r = close(fd); /* never repeated: Linux has freed the number even on EINTR */
    if (failed) {
        errno = e;
        return -1;
    }
    return r < 0 && errno == EINTR ? 0 : r;
}

int ns_sys_rename(const char *from, const char *to)
{
    return fault("rename") ? -1 : rename(from, to);
}

void ns_sys_no_exchange(int on)
{
    atomic_store(&g_no_exchange, on);
}

int ns_sys_exchange(const char *a, const char *b)
{
    if (fault("rename")) return -1;
    if (atomic_load(&g_no_exchange)) {
        errno = EINVAL;
        return -1;
    }
#ifdef SYS_renameat2
    return (int)syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 2u /* RENAME_EXCHANGE */);
#else
    (void)a;
    (void)b;
    errno = ENOSYS;
    return -1;
#endif
}

int ns_sys_link(const char *from, const char *to)
{
    return fault("link") ? -1 : link(from, to);
}

int ns_sys_unlinkat(int dir, const char *name, int flags)
{
    return fault(flags & AT_REMOVEDIR ? "rmdir" : "unlink") ? -1 : unlinkat(dir, name, flags);
}

int ns_sys_mkdir(const char *path, mode_t mode)
{
    return fault("mkdir") ? -1 : mkdir(path, mode);
}

int ns_sys_fstat(int fd, struct stat *sb)
{
    return fault("stat") ? -1 : fstat(fd, sb);
}

int ns_sys_lstat(const char *path, struct stat *sb)
{
    return fault("stat") ? -1 : lstat(path, sb);
}

DIR *ns_sys_fdopendir(int fd)
{
    return fault("opendir") ? NULL : fdopendir(fd);
}

void *ns_sys_mmap(size_t n, int fd)
{
    if (fault("mmap")) return NULL;
    void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

int ns_sys_write_all(int fd, const void *p, size_t n)
{
    const char *q = p;
    while (n > 0) {
        ssize_t k = ns_sys_write(fd, q, n < ((size_t)1 << 30) ? n : (size_t)1 << 30);
        if (k < 0) return -1;
        q += k;
        n -= (size_t)k;
    }
    return 0;
}

int ns_sys_pwrite_all(int fd, const void *p, size_t n, uint64_t at)
{
    const char *q = p;
    while (n > 0) {
        size_t want = n < ((size_t)1 << 30) ? n : (size_t)1 << 30;
        ssize_t k = -1;
        if (fault("write")) return -1;
        do {
            k = pwrite(fd, q, want, (off_t)at);
        } while (k < 0 && errno == EINTR);
        if (k < 0) return -1;
        q += k;
        n -= (size_t)k;
        at += (uint64_t)k;
    }
    return 0;
}

ssize_t ns_sys_read_all(int fd, void *p, size_t n)
{
    size_t got = 0;
    while (got < n) {
        size_t want = n - got < ((size_t)1 << 30) ? n - got : (size_t)1 << 30;
        ssize_t k = ns_sys_read(fd, (char *)p + got, want);
        if (k < 0) return -1;
        if (k == 0) break;
        got += (size_t)k;
    }
    return (ssize_t)got;
}

ssize_t ns_sys_pread_all(int fd, void *p, size_t n, uint64_t at)
{
    size_t got = 0;
    while (got < n) {
        size_t want = n - got < ((size_t)1 << 30) ? n - got : (size_t)1 << 30;
        ssize_t k = ns_sys_pread(fd, (char *)p + got, want, (off_t)(at + got));
        if (k < 0) return -1;
        if (k == 0) break;
        got += (size_t)k;
    }
    return (ssize_t)got;
}

ns_status ns_sys_error(ns_error *err, const char *verb, const char *path)
{
    int e = errno;
    uint64_t free_bytes = 0;
    if ((e == ENOSPC || e == EDQUOT) && ns_disk_free(&free_bytes, path, NULL) == NS_OK)
        NS_FAIL(NS_ERR_IO, "cannot %s '%s': %s (%.1f MB free there: make room or choose another disk)", verb, path,
                strerror(e), (double)free_bytes / 1e6);
    NS_FAIL(NS_ERR_IO, "cannot %s '%s': %s", verb, path, strerror(e));
}

int ns_plugin_find(char *path, size_t size, const char *file, const char *env)
{
    static const char *const places[] = {"", "../lib/", "../"};
    char self[PATH_MAX];
    const char *named = getenv(env);
    if (named && *named) {
        snprintf(path, size, "%s", named);
        return access(path, R_OK) == 0;
    }
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    if (slash) slash[1] = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int k = snprintf(path, size, "%s%s%s", self, places[i], file);
        if (k > 0 && (size_t)k < size && access(path, R_OK) == 0) return 1;
    }
    snprintf(path, size, "%s", file);
    return 0;
}
