/* Event{ 1: double wall_time; 2: int64 step; 3: string file_version; 5: Summary{ 1: Value{ 1: string tag; 2: float } } } */
#include "train/tfevents.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/mem.h"

struct ns_tfevents {
    FILE *f;
    char path[4096];
};

static uint32_t masked(const unsigned char *p, size_t n)
{
    uint32_t c = ns_crc32c(0, p, n);
    return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

static void put(unsigned char **p, const void *v, size_t n) /* little-endian host */
{
    memcpy(*p, v, n);
    *p += n;
}

static void put_varint(unsigned char **p, uint64_t v)
{
    while (v >= 128) {
        *(*p)++ = (unsigned char)(v | 128);
        v >>= 7;
    }
    *(*p)++ = (unsigned char)v;
}

static ns_status write_record(ns_tfevents *e, const unsigned char *data, size_t n, ns_error *err)
{
    uint64_t len = n;
    uint32_t c1 = masked((const unsigned char *)&len, 8), c2 = masked(data, n);
    int ok = fwrite(&len, 8, 1, e->f) == 1 && fwrite(&c1, 4, 1, e->f) == 1 && fwrite(data, 1, n, e->f) == n &&
             fwrite(&c2, 4, 1, e->f) == 1 && fflush(e->f) == 0;
    NS_FAIL_IF(!ok, NS_ERR_IO, "%s: write: %s", e->path, strerror(errno));
    return NS_OK;
}

static double wall_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

ns_status ns_tfevents_open(ns_tfevents **out, const char *dir, ns_error *err)
{
    NS_TRY(ns_alloc((void **)out, sizeof **out, "tfevents", err), "%s", dir);
    ns_tfevents *e = *out;
    char host[256] = "host";
    gethostname(host, sizeof host - 1);
    snprintf(e->path, sizeof e->path, "%s/events.out.tfevents.%010ld.%s.%ld", dir, (long)time(NULL), host,
             (long)getpid());
    e->f = fopen(e->path, "wb");
    if (!e->f) {
        ns_status st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "%s: create: %s", e->path, strerror(errno));
        ns_free(e);
        *out = NULL;
        return st;
    }
    unsigned char buf[64], *p = buf;
    double t = wall_time();
    *p++ = 0x09;
    put(&p, &t, 8);
    *p++ = 0x1a;
    put_varint(&p, 13);
    put(&p, "brain.Event:2", 13);
    return write_record(e, buf, (size_t)(p - buf), err);
}

ns_status ns_tfevents_scalar(ns_tfevents *e, const char *tag, int64_t step, double value, ns_error *err)
{
    unsigned char buf[512], *p = buf;
    size_t n = strlen(tag);
    NS_ASSERT(n < 200);
    double t = wall_time();
    float v = (float)value;
    *p++ = 0x09;
    put(&p, &t, 8);
    *p++ = 0x10;
    put_varint(&p, (uint64_t)step);
    size_t val = 1 + 1 + n + (n > 127 ? 1 : 0) + 5; /* Value: tag field and float field */
    *p++ = 0x2a;
    put_varint(&p, 1 + (val > 127 ? 2u : 1u) + val);
    *p++ = 0x0a;
    put_varint(&p, val);
    *p++ = 0x0a;
    put_varint(&p, n);
    put(&p, tag, n);
    *p++ = 0x15;
    put(&p, &v, 4);
    return write_record(e, buf, (size_t)(p - buf), err);
}

void ns_tfevents_close(ns_tfevents **e)
{
    if (!*e) return;
    if ((*e)->f) fclose((*e)->f);
    ns_free(*e);
    *e = NULL;
}
