/* Nameless where the file system can (O_TMPFILE), else created, and unlinked at once. */
#include "data/spill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/sys.h"

enum { BUF = 1 << 20 };

struct ns_spill {
    int fd;
    const char *dir;
    uint64_t size; /* bytes appended, flushed or not */
    char *buf;
    size_t n;
};

static int open_nameless(const char *dir)
{
    static atomic_int number;
    char name[4200];
    int fd = ns_sys_open(dir, O_TMPFILE | O_RDWR, 0600);
    if (fd >= 0) return fd;
    snprintf(name, sizeof name, "%s/.ns-rows.%ld.%d.tmp", dir, (long)getpid(), atomic_fetch_add(&number, 1));
    fd = ns_sys_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
    if (fd >= 0) unlink(name);
    return fd;
}

ns_status ns_spill_open(ns_spill **out, const char *dir, ns_error *err)
{
    ns_spill *s = NULL;
    ns_status st = NS_OK;
    NS_TRY(ns_alloc((void **)&s, sizeof *s, "spill", err), "temporary file");
    s->fd = -1;
    s->dir = dir;
    NS_CHECK(st, ns_alloc((void **)&s->buf, BUF, "spill", err), "temporary file");
    s->fd = open_nameless(dir);
    NS_SYS_BAIL_IF(st, s->fd < 0, "create a temporary file in", dir);
done:
    if (st != NS_OK) ns_spill_close(&s);
    *out = s;
    return st;
}

static ns_status put(ns_spill *s, const void *p, size_t n, ns_error *err)
{
    if (ns_sys_write_all(s->fd, p, n) == 0) return NS_OK;
    ns_status st = ns_sys_error(err, "write a temporary file in", s->dir);
    ns_error_frame(err, __FILE__, __LINE__, "rows that do not fit ++memory (++temp_dir=DIR names another folder)");
    return st;
}

ns_status ns_spill_flush(ns_spill *s, ns_error *err)
{
    size_t n = s->n;
    s->n = 0;
    return n ? put(s, s->buf, n, err) : NS_OK;
}

ns_status ns_spill_write(ns_spill *s, const void *p, size_t n, ns_error *err)
{
    s->size += n;
    if (n > BUF - s->n) NS_TRY(ns_spill_flush(s, err), "%s", "temporary file");
    if (n > BUF) return put(s, p, n, err);
    memcpy(s->buf + s->n, p, n);
    s->n += n;
    return NS_OK;
}

ns_status ns_spill_read(ns_spill *s, uint64_t at, void *p, size_t n, ns_error *err)
{
    for (size_t got = 0; got < n;) {
        ssize_t k = ns_sys_pread(s->fd, (char *)p + got, n - got, (off_t)(at + got));
        if (k < 0) return ns_sys_error(err, "read a temporary file in", s->dir);
        NS_FAIL_IF(k == 0, NS_ERR_IO, "a temporary file in '%s' is shorter than what was written to it", s->dir);
        got += (size_t)k;
    }
    return NS_OK;
}

uint64_t ns_spill_size(const ns_spill *s)
{
    return s->size;
}

void ns_spill_close(ns_spill **ps)
{
    ns_spill *s = *ps;
    if (!s) return;
    if (s->fd >= 0) ns_sys_close(s->fd);
    ns_free(s->buf);
    ns_free(s);
    *ps = NULL;
}
