/* For fuzz targets: files as a tar in memory, so that bytes behind a path, a size and a checksum can be tried without the fuzzer
 * having to find those.
 *     fuzz_tar x; if (!fuzz_tar_begin(&x)) return 0;
 *     fuzz_tar_add(&x, "w/.zarray", data, n); ...
 *     ns_tree *t = fuzz_tar_open(&x);                 // NULL: no memory
 *     ns_tree_close(&t); fuzz_tar_end(&x); */
#ifndef NS_CKPT_FUZZ_TAR_H
#define NS_CKPT_FUZZ_TAR_H

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ckpt/tree.h"

typedef struct fuzz_tar {
    int fd, bad;
    char path[64];
} fuzz_tar;

static inline int fuzz_tar_begin(fuzz_tar *x)
{
    x->fd = memfd_create("fuzz", 0);
    x->bad = 0;
    snprintf(x->path, sizeof x->path, "/proc/self/fd/%d", x->fd);
    return x->fd >= 0;
}

static inline void fuzz_tar_put(fuzz_tar *x, const void *p, size_t n)
{
    x->bad |= n && write(x->fd, p, n) != (ssize_t)n;
}

static inline void fuzz_tar_add(fuzz_tar *x, const char *name, const uint8_t *p, size_t n)
{
    static const char zeros[512];
    char h[512] = "";
    unsigned sum = 0;
    snprintf(h, 100, "%s", name);
    snprintf(h + 124, 12, "%011zo", n);
    h[156] = '0';
    memset(h + 148, ' ', 8);
    for (int i = 0; i < 512; i++) sum += (unsigned char)h[i];
    snprintf(h + 148, 8, "%06o", sum);
    fuzz_tar_put(x, h, sizeof h);
    fuzz_tar_put(x, p, n);
    fuzz_tar_put(x, zeros, (512 - n % 512) % 512);
}

static inline ns_tree *fuzz_tar_open(fuzz_tar *x)
{
    static const char zeros[1024];
    ns_error err = NS_ERROR_INIT;
    ns_tree *t = NULL;
    fuzz_tar_put(x, zeros, sizeof zeros);
    if (x->bad) return NULL;
    NS_ASSERT(ns_tree_open(&t, x->path, &err) == NS_OK);
    return t;
}

static inline void fuzz_tar_end(const fuzz_tar *x)
{
    close(x->fd);
}

#endif
