/* See sync.h. */
#include "base/sync.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/sys.h"

enum { MOST = 200 };

typedef struct held {
    int fd;
    char *path;
} held;

static struct {
    pthread_mutex_t mutex;
    int on, n;
    held file[MOST]; /* oldest first */
} g = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static ns_status sync_now(int fd, const char *path, ns_error *err)
{
    ns_status st = ns_sys_fsync(fd) != 0 ? ns_sys_error(err, "sync", path) : NS_OK;
    if (ns_sys_close(fd) != 0 && st == NS_OK) st = ns_sys_error(err, "close", path);
    return st;
}

static ns_status sync_held(held *h, ns_error *err)
{
    ns_status st = sync_now(h->fd, h->path, err);
    ns_free(h->path);
    return st;
}

void ns_sync_hold(void)
{
    pthread_mutex_lock(&g.mutex);
    NS_ASSERT(!g.on);
    g.on = 1;
    pthread_mutex_unlock(&g.mutex);
}

ns_status ns_sync_close(int fd, const char *path, ns_error *err)
{
    held h = {.fd = fd}, oldest = {.fd = -1};
    pthread_mutex_lock(&g.mutex);
    int on = g.on;
    if (on && ns_alloc((void **)&h.path, strlen(path) + 1, "sync.path", NULL) != NS_OK) on = 0;
    if (on) {
        memcpy(h.path, path, strlen(path) + 1);
        if (g.n == MOST) {
            oldest = g.file[0];
            memmove(g.file, g.file + 1, (MOST - 1) * sizeof *g.file);
            g.n--;
        }
        g.file[g.n++] = h;
    }
    pthread_mutex_unlock(&g.mutex);
    if (!on) return sync_now(fd, path, err);
#ifdef SYNC_FILE_RANGE_WRITE
    (void)!sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE); /* a hint: the whole file */
#endif
    return oldest.fd >= 0 ? sync_held(&oldest, err) : NS_OK;
}

ns_status ns_sync_all(ns_error *err)
{
    ns_status st = NS_OK;
    pthread_mutex_lock(&g.mutex);
    for (int i = 0; i < g.n; i++) { /* all are closed; the first error counts */
        ns_error later = NS_ERROR_INIT;
        ns_status s = sync_held(&g.file[i], st == NS_OK ? err : &later);
        if (st == NS_OK) st = s;
    }
    g.n = g.on = 0;
    pthread_mutex_unlock(&g.mutex);
    return st;
}

void ns_sync_drop(void)
{
    pthread_mutex_lock(&g.mutex);
    for (int i = 0; i < g.n; i++) {
        close(g.file[i].fd);
        ns_free(g.file[i].path);
    }
    g.n = g.on = 0;
    pthread_mutex_unlock(&g.mutex);
}
