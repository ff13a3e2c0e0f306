/* Scattered writes: see scatter.h. Every put leaves (offset, length, both checksums); sorted at the end they must tile the file, and
 * the checksums are joined in that order. */
#include "base/scatter.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/scatter_log.h"
#include "base/sync.h"
#include "base/sys.h"

/* When a window is full the disk begins with it, in one piece; else closing waits for all of the file. */
static const uint64_t WINDOW = 8 << 20;

typedef ns_scatter_run run;

struct ns_scatter {
    int fd;
    char *path;
    uint64_t size, done;
    pthread_mutex_t mutex; /* runs, done, left */
    uint32_t *left;        /* by window: bytes still to be put */
    run *runs;
    size_t n, cap;
    int sorted, logged;
    const run *kept; /* of an interrupted process */
    size_t n_kept;
};

static void scatter_free(ns_scatter **pf)
{
    ns_scatter *f = *pf;
    if (!f) return;
    pthread_mutex_destroy(&f->mutex);
    ns_free(f->runs);
    ns_free(f->left);
    ns_free(f->path);
    ns_free(f);
    *pf = NULL;
}

static uint64_t window_size(const ns_scatter *f, uint64_t w)
{
    return f->size - w * WINDOW < WINDOW ? f->size - w * WINDOW : WINDOW;
}

ns_status ns_scatter_create(ns_scatter **out, const char *path, uint64_t size, ns_error *err)
{
    ns_status st = NS_OK;
    ns_scatter *f = NULL;
    *out = NULL;
    NS_TRY(ns_alloc((void **)&f, sizeof *f, "scatter", err), "create '%s'", path);
    pthread_mutex_init(&f->mutex, NULL);
    f->size = size;
    f->fd = -1;
    NS_CHECK(st, ns_alloc((void **)&f->path, strlen(path) + 1, "scatter.path", err), "create '%s'", path);
    memcpy(f->path, path, strlen(path) + 1);
    uint64_t n = size / WINDOW + 1;
    NS_CHECK(st, ns_alloc((void **)&f->left, (size_t)n * sizeof *f->left, "scatter.windows", err), "create '%s'", path);
    for (uint64_t w = 0; w < n; w++) f->left[w] = (uint32_t)window_size(f, w);
    f->logged = ns_scatter_log_covers(path);
    f->kept = f->logged ? ns_scatter_log_runs(path, &f->n_kept) : NULL;
    if (f->kept) { /* what an interrupted process wrote; if it is gone, its runs are missed at the end */
        f->fd = ns_sys_open(path, O_RDWR | O_CREAT, 0666);
        NS_SYS_BAIL_IF(st, f->fd < 0 || ftruncate(f->fd, (off_t)size) != 0, "continue", path);
        *out = f;
        return NS_OK;
    }
    if (ns_sys_unlinkat(AT_FDCWD, path, 0) != 0) NS_SYS_BAIL_IF(st, errno != ENOENT, "replace", path);
    f->fd = ns_sys_open(path, O_RDWR | O_CREAT | O_EXCL, 0666);
    NS_SYS_BAIL_IF(st, f->fd < 0, "create", path);
    *out = f;
    return NS_OK;
done:
    scatter_free(&f);
    return st;
}

static ns_status remember_run(ns_scatter *f, const run *r, ns_error *err)
{
    pthread_mutex_lock(&f->mutex);
    ns_status st = ns_grow((void **)&f->runs, &f->cap, f->n + 1, sizeof *f->runs, "scatter.runs", err);
    if (st == NS_OK) {
        f->runs[f->n++] = *r;
        f->done += r->n;
        f->sorted = 0;
    }
    pthread_mutex_unlock(&f->mutex);
    return st;
}

/* [at, at+n) was written. */
static void begin_disk(ns_scatter *f, uint64_t at, uint64_t n)
{
    for (uint64_t end = at + n; at < end;) {
        uint64_t w = at / WINDOW, stop = (w + 1) * WINDOW < end ? (w + 1) * WINDOW : end;
        pthread_mutex_lock(&f->mutex);
        uint32_t left = f->left[w], k = (uint32_t)(stop - at);
        f->left[w] = left > k ? left - k : 0; /* less than nothing: a run was put twice, closing says so */
        pthread_mutex_unlock(&f->mutex);
#ifdef SYNC_FILE_RANGE_WRITE /* a hint: failure means nothing */
        if (left && left <= k)
            (void)!sync_file_range(f->fd, (off_t)(w * WINDOW), (off_t)window_size(f, w), SYNC_FILE_RANGE_WRITE);
#endif
        at = stop;
    }
}

/* The run that an interrupted process wrote; it may have been written twice: the last counts, and both are the same bytes. */
static ns_status take_over(ns_scatter *f, uint64_t at, size_t n, ns_error *err)
{
    size_t lo = 0, hi = f->n_kept;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (f->kept[mid].at < at)
            lo = mid + 1;
        else
            hi = mid;
    }
    while (lo < f->n_kept && f->kept[lo].at == at && f->kept[lo].n != n) lo++;
    NS_FAIL_IF(lo == f->n_kept || f->kept[lo].at != at, NS_ERR_INTERNAL,
               "'%s': bytes %llu + %zu were not written by the interrupted run", f->path, (unsigned long long)at, n);
    begin_disk(f, at, n);
    return remember_run(f, &f->kept[lo], err);
}

ns_status ns_scatter_put(ns_scatter *f, uint64_t at, const void *p, size_t n, ns_error *err)
{
    if (!n) return NS_OK;
    if (!p) return take_over(f, at, n, err);
    run r = {at, n, 0, 0};
    ns_crc_both(&r.crc32, &r.crc32c, p, n);
    NS_FAIL_IF(at > f->size || n > f->size - at, NS_ERR_INTERNAL, "'%s': bytes %llu + %zu lie outside %llu", f->path,
               (unsigned long long)at, n, (unsigned long long)f->size);
    if (ns_sys_pwrite_all(f->fd, p, n, at) != 0) return ns_sys_error(err, "write", f->path);
    begin_disk(f, at, n);
    if (f->logged) NS_TRY(ns_scatter_log_run(f->path, &r, err), "%s", f->path);
    return remember_run(f, &r, err);
}

static int by_offset(const void *a, const void *b)
{
    const run *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

static void sort_runs(ns_scatter *f)
{
    if (!f->sorted && f->n) qsort(f->runs, f->n, sizeof *f->runs, by_offset);
    f->sorted = 1;
}

/* Joins the runs of [from, to). */
static ns_status join(ns_scatter *f, uint64_t from, uint64_t to, uint32_t *crc32, uint32_t *crc32c, ns_error *err)
{
    uint64_t at = from;
    size_t lo = 0, hi = f->n;
    sort_runs(f);
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (f->runs[mid].at < from)
            lo = mid + 1;
        else
            hi = mid;
    }
    *crc32 = *crc32c = 0;
    for (; at < to && lo < f->n && f->runs[lo].at == at; lo++) {
        const run *r = &f->runs[lo];
        *crc32 = ns_crc_join(NS_CRC32_POLY, *crc32, r->crc32, r->n);
        *crc32c = ns_crc_join(NS_CRC32C_POLY, *crc32c, r->crc32c, r->n);
        at += r->n;
    }
    NS_FAIL_IF(at != to, NS_ERR_INTERNAL, "'%s': bytes %llu to %llu were not written exactly once (at %llu)", f->path,
               (unsigned long long)from, (unsigned long long)to, (unsigned long long)at);
    return NS_OK;
}

ns_status ns_scatter_crc32(ns_scatter *f, uint64_t from, uint64_t to, uint32_t *crc, ns_error *err)
{
    uint32_t other;
    return join(f, from, to, crc, &other, err);
}

uint64_t ns_scatter_left(ns_scatter *f)
{
    pthread_mutex_lock(&f->mutex);
    uint64_t left = f->size > f->done ? f->size - f->done : 0;
    pthread_mutex_unlock(&f->mutex);
    return left;
}

ns_status ns_scatter_close(ns_scatter **pf, ns_error *err)
{
    ns_scatter *f = *pf;
    uint32_t zip, crc;
    ns_status st = NS_OK;
    if (!f) return NS_OK;
    NS_CHECK(st, join(f, 0, f->size, &zip, &crc, err), "%s", "");
    NS_BAIL_IF(st, f->done != f->size, NS_ERR_INTERNAL, "'%s': %llu bytes were written, expected %llu", f->path,
               (unsigned long long)f->done, (unsigned long long)f->size);
    ns_digest_remember(f->fd, crc);
    int fd = f->fd;
    f->fd = -1;
    NS_CHECK(st, ns_sync_close(fd, f->path, err), "%s", "");
    scatter_free(pf);
    return NS_OK;
done:
    ns_scatter_abort(pf);
    return st;
}

void ns_scatter_abort(ns_scatter **pf)
{
    ns_scatter *f = *pf;
    if (!f) return;
    if (f->fd >= 0) close(f->fd);
    unlink(f->path);
    scatter_free(pf);
}

/* ---- digests ---- */
typedef struct digest {
    dev_t dev;
    ino_t ino;
    uint64_t size;
    struct timespec mtime, ctime;
    uint32_t crc;
} digest;

enum { MAX_DIGESTS = 4096 }; /* a ring: the oldest is forgotten, and its file is then read */
static digest g_digest[MAX_DIGESTS];
static size_t g_next;
static pthread_mutex_t g_mutex = PTHREAD_MUTEX_INITIALIZER;

static int same_file(const digest *d, const struct stat *sb)
{
    return d->dev == sb->st_dev && d->ino == sb->st_ino && d->size == (uint64_t)sb->st_size && d->ino &&
           !memcmp(&d->mtime, &sb->st_mtim, sizeof d->mtime) && !memcmp(&d->ctime, &sb->st_ctim, sizeof d->ctime);
}

void ns_digest_remember(int fd, uint32_t crc)
{
    struct stat sb;
    if (fstat(fd, &sb) != 0) return;
    pthread_mutex_lock(&g_mutex);
    g_digest[g_next++ % MAX_DIGESTS] =
        (digest){sb.st_dev, sb.st_ino, (uint64_t)sb.st_size, sb.st_mtim, sb.st_ctim, crc};
    pthread_mutex_unlock(&g_mutex);
}

int ns_digest_recall(const char *path, uint64_t *size, uint32_t *crc)
{
    struct stat sb;
    int found = 0;
    if (lstat(path, &sb) != 0 || !S_ISREG(sb.st_mode)) return 0;
    pthread_mutex_lock(&g_mutex);
    for (size_t i = 0; i < MAX_DIGESTS && !found; i++) {
        if (!same_file(&g_digest[i], &sb)) continue;
        *size = g_digest[i].size;
        *crc = g_digest[i].crc;
        g_digest[i].ino = 0;
        found = 1;
    }
    pthread_mutex_unlock(&g_mutex);
    return found;
}
