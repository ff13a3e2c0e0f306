#include "ckpt/gunzip.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/unpack.h"
#include "ckpt/path.h"

enum { STEP = 1 << 20, HEAD = 512 };

/* The archive unpacked last; its name is gone, the descriptor keeps it. */
static struct {
    pthread_mutex_t lock;
    int fd; /* -1: none */
    struct stat of;
} last = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

static int is_last(const struct stat *sb)
{
    return last.fd >= 0 && last.of.st_dev == sb->st_dev && last.of.st_ino == sb->st_ino &&
           last.of.st_size == sb->st_size && last.of.st_mtim.tv_sec == sb->st_mtim.tv_sec &&
           last.of.st_mtim.tv_nsec == sb->st_mtim.tv_nsec;
}

static int nameless_in(const char *dir)
{
    char name[4096];
    int fd;
#ifdef O_TMPFILE
    fd = ns_sys_open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
#endif
    if (ns_path(name, sizeof name, NULL, "%s/ns-unpacked-XXXXXX", dir) != NS_OK) return -1;
    fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0) unlink(name);
    return fd;
}

static ns_status nameless(int *fd, char dir[4096], const char *path, ns_error *err)
{
    const char *env = getenv("TMPDIR"), *slash = strrchr(path, '/');
    const char *beside = slash == path ? "/" : slash ? path : ".";
    *fd = -1;
    if (env && env[0]) {
        NS_TRY(ns_path(dir, 4096, err, "%s", env), "TMPDIR");
        *fd = nameless_in(dir);
        return *fd < 0 ? ns_sys_error(err, "make a temporary file in", dir) : NS_OK;
    }
    NS_TRY(ns_path(dir, 4096, err, "%.*s", slash > path ? (int)(slash - path) : (int)strlen(beside), beside), "%s", "");
    if ((*fd = nameless_in(dir)) >= 0) return NS_OK;
    NS_TRY(ns_path(dir, 4096, err, "/tmp"), "%s", "");
    *fd = nameless_in(dir);
    return *fd < 0 ? ns_sys_error(err, "make a temporary file in", dir) : NS_OK;
}

static ns_status unpack(int in, int out, const char *path, const char *dir, int (*begins)(const unsigned char *),
                        double packed, ns_error *err)
{
    ns_unpack *u = NULL;
    unsigned char *buf = NULL;
    size_t got = 1, have = 0;
    ns_status st = NS_OK;
    ns_progress *p = ns_progress_begin("unpack", packed, "bytes");
    NS_CHECK(st, ns_unpack_open(&u, in, path, err), "%s", "open model");
    NS_CHECK(st, ns_alloc((void **)&buf, STEP, "gunzip", err), "%s", path);
    while (have < HEAD && got) {
        NS_CHECK(st, ns_unpack_read(u, buf + have, STEP - have, &got, err), "%s", "open model");
        have += got;
    }
    NS_BAIL_IF(st, have < HEAD || !begins(buf), NS_ERR_INPUT,
               "%s: gzip data, but no tar archive in it (broken first header)", path);
    while (have) {
        NS_BAIL_IF(st, ns_sys_write_all(out, buf, have) != 0, NS_ERR_IO,
                   "%s: cannot unpack it into a temporary file in '%s' (%s): name a folder with room in TMPDIR", path,
                   dir, strerror(errno));
        ns_progress_set(p, (double)lseek(in, 0, SEEK_CUR), NULL);
        NS_CHECK(st, ns_unpack_read(u, buf, STEP, &have, err), "%s", "open model");
    }
done:
    ns_progress_end(&p, NULL);
    ns_free(buf);
    ns_unpack_close(&u);
    return st;
}

static ns_status map_fd(ns_map *m, int fd, const char *path, ns_error *err)
{
    struct stat sb;
    if (ns_sys_fstat(fd, &sb) != 0) return ns_sys_error(err, "examine", path);
    m->data = ns_sys_mmap((size_t)sb.st_size, fd);
    if (!m->data) return ns_sys_error(err, "map", path);
    m->size = (size_t)sb.st_size;
    return NS_OK;
}

ns_status ns_gunzip_map(ns_map *m, const char *path, int (*begins)(const unsigned char *head), ns_error *err)
{
    ns_status st = NS_OK;
    struct stat sb;
    char dir[4096];
    int out = -1, in = ns_sys_open(path, O_RDONLY | O_CLOEXEC, 0);
    if (in < 0) return ns_sys_error(err, "open", path);
    pthread_mutex_lock(&last.lock);
    NS_SYS_BAIL_IF(st, ns_sys_fstat(in, &sb) != 0, "examine", path);
    if (!is_last(&sb)) {
        NS_CHECK(st, nameless(&out, dir, path, err), "open '%s'", path);
        NS_CHECK(st, unpack(in, out, path, dir, begins, (double)sb.st_size, err), "%s", "");
        if (last.fd >= 0) close(last.fd);
        last.fd = out;
        last.of = sb;
        out = -1;
    }
    NS_CHECK(st, map_fd(m, last.fd, path, err), "open model");
done:
    pthread_mutex_unlock(&last.lock);
    if (out >= 0) close(out);
    ns_sys_close(in);
    return st;
}
