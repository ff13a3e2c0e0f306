/* See spool.h. The file has no name from the start (O_TMPFILE), or loses it at once. */
#include "data/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int open_nameless(const char *folder)
{
    char path[4200];
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
    snprintf(path, sizeof path, "%s/.spool-XXXXXX", folder); /* a file system that has no such files */
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0) (void)unlink(path);
    return fd;
}

ns_status ns_spool_add(ns_spool *s, const void *p, size_t n, ns_error *err)
{
    if (n == 0) return NS_OK;
    if (s->fd < 0) s->fd = open_nameless(s->folder);
    NS_FAIL_IF(s->fd < 0, NS_ERR_IO, "%s: a temporary file: %s", s->folder, strerror(errno));
    for (size_t done = 0; done < n;) {
        ssize_t k = write(s->fd, (const char *)p + done, n - done);
        if (k < 0 && errno == EINTR) continue;
        NS_FAIL_IF(k <= 0, NS_ERR_IO, "%s: a temporary file of %zu bytes: write: %s", s->folder, s->size,
                   strerror(errno));
        done += (size_t)k;
        s->size += (size_t)k;
    }
    return NS_OK;
}

ns_status ns_spool_map(ns_map *out, ns_spool *s, ns_error *err)
{
    char path[64];
    *out = (ns_map){0};
    if (s->size == 0) return NS_OK;
    snprintf(path, sizeof path, "/proc/self/fd/%d", s->fd);
    return ns_map_open(out, path, err);
}

void ns_spool_close(ns_spool *s)
{
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
}
