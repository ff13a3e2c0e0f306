#include "base/unpack.h"

#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "base/parquet/parquet.h"
#include "base/sys.h"
#ifdef NS_HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef NS_HAVE_ZSTD
#include <zstd.h>
#endif

enum { IN_BUF = 1 << 17 };
typedef enum kind { PLAIN, GZIP, ZSTD, PARQUET } kind;

struct ns_unpack {
    int fd, at_end; /* at_end: nothing more to read from fd */
    const char *name;
    kind kind;
    int in_member; /* within a gzip member or a zstd frame: the end of the file is not expected here */
    unsigned char *in;
    size_t pos, len; /* unread packed bytes: in[pos..len) */
    uint64_t before; /* packed bytes before in[0] */
#ifdef NS_HAVE_ZLIB
    z_stream z;
    int z_open;
#endif
#ifdef NS_HAVE_ZSTD
    ZSTD_DStream *zstd;
#endif
};

int ns_unpack_can(const char *what)
{
#ifdef NS_HAVE_ZLIB
    if (!strcmp(what, "gzip")) return 1;
#endif
#ifdef NS_HAVE_ZSTD
    if (!strcmp(what, "zstd")) return 1;
#endif
    return !strcmp(what, "plain");
}

static ns_status refill(ns_unpack *u, ns_error *err)
{
    if (u->at_end || u->pos < u->len) return NS_OK;
    u->before += u->len;
    u->pos = u->len = 0;
    ssize_t k = ns_sys_read(u->fd, u->in, IN_BUF);
    if (k < 0) return ns_sys_error(err, "read", u->name);
    u->at_end = k == 0;
    u->len = (size_t)k;
    return NS_OK;
}

static ns_status recognise(ns_unpack *u, ns_error *err)
{
    static const unsigned char gzip[2] = {0x1f, 0x8b}, zstd[4] = {0x28, 0xb5, 0x2f, 0xfd};
    while (u->len < 4 && !u->at_end) { /* a pipe may give single bytes */
        ssize_t k = ns_sys_read(u->fd, u->in + u->len, IN_BUF - u->len);
        if (k < 0) return ns_sys_error(err, "read", u->name);
        u->at_end = k == 0;
        u->len += (size_t)k;
    }
    if (u->len >= 2 && !memcmp(u->in, gzip, 2)) u->kind = GZIP;
    if (u->len >= 4 && !memcmp(u->in, zstd, 4)) u->kind = ZSTD;
    if (ns_parquet_is(u->in, u->len)) {
        u->kind = PARQUET;
        return NS_OK;
    }
    const char *what = u->kind == GZIP ? "gzip" : u->kind == ZSTD ? "zstd" : "plain";
    NS_FAIL_IF(!ns_unpack_can(what), NS_ERR_UNSUPPORTED,
               "'%s' is packed with %s, and this build has no %s: unpack it first, or build where %s is installed",
               u->name, what, u->kind == GZIP ? "zlib" : "libzstd", u->kind == GZIP ? "zlib1g-dev" : "libzstd-dev");
    return NS_OK;
}

ns_status ns_unpack_open(ns_unpack **out, int fd, const char *name, ns_error *err)
{
    ns_unpack *u = NULL;
    ns_status st = NS_OK;
    *out = NULL;
    NS_TRY(ns_alloc((void **)&u, sizeof *u, "unpack", err), "open '%s'", name);
    u->fd = fd;
    u->name = name;
    NS_CHECK(st, ns_alloc((void **)&u->in, IN_BUF, "unpack", err), "open '%s'", name);
    NS_CHECK(st, recognise(u, err), "%s", "open");
#ifdef NS_HAVE_ZLIB
    if (u->kind == GZIP) {
        NS_BAIL_IF(st, inflateInit2(&u->z, 16 + MAX_WBITS) != Z_OK, NS_ERR_MEMORY, "open '%s': zlib does not start",
                   name);
        u->z_open = 1;
    }
#endif
#ifdef NS_HAVE_ZSTD
    if (u->kind == ZSTD) {
        u->zstd = ZSTD_createDStream();
        NS_BAIL_IF(st, !u->zstd, NS_ERR_MEMORY, "open '%s': zstd does not start", name);
    }
#endif
    u->in_member = u->kind == GZIP || u->kind == ZSTD;
    *out = u;
    return NS_OK;
done:
    ns_unpack_close(&u);
    return st;
}

const char *ns_unpack_kind(const ns_unpack *u)
{
    static const char *const names[] = {"plain", "gzip", "zstd", "parquet"};
    return names[u->kind];
}

void ns_unpack_close(ns_unpack **pu)
{
    ns_unpack *u = *pu;
    if (!u) return;
#ifdef NS_HAVE_ZLIB
    if (u->z_open) inflateEnd(&u->z);
#endif
#ifdef NS_HAVE_ZSTD
    if (u->zstd) ZSTD_freeDStream(u->zstd);
#endif
    ns_free(u->in);
    ns_free(u);
    *pu = NULL;
}

static ns_status damaged(const ns_unpack *u, const char *why, ns_error *err)
{
    NS_FAIL(NS_ERR_INPUT, "%s: packed byte %" PRIu64 ": found damaged %s data (%s): copy the file again", u->name,
            u->before + u->pos, u->kind == GZIP ? "gzip" : "zstd", why);
}

#ifdef NS_HAVE_ZLIB
static ns_status gzip_step(ns_unpack *u, void *buf, size_t n, size_t *got, ns_error *err)
{
    if (!u->in_member) { /* another member follows the one that ended */
        inflateReset(&u->z);
        u->in_member = 1;
    }
    u->z.next_in = u->in + u->pos;
    u->z.avail_in = (uInt)(u->len - u->pos);
    u->z.next_out = buf;
    u->z.avail_out = n > 1 << 30 ? 1u << 30 : (uInt)n;
    uInt room = u->z.avail_out;
    int rc = inflate(&u->z, Z_NO_FLUSH);
    u->pos = u->len - u->z.avail_in;
    *got = room - u->z.avail_out;
    if (rc == Z_STREAM_END) u->in_member = 0;
    if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
        return damaged(u, u->z.msg ? u->z.msg : "inflate fails", err);
    return NS_OK;
}
#endif

#ifdef NS_HAVE_ZSTD
static ns_status zstd_step(ns_unpack *u, void *buf, size_t n, size_t *got, ns_error *err)
{
    ZSTD_inBuffer in = {u->in, u->len, u->pos};
    ZSTD_outBuffer out = {buf, n, 0};
    size_t rc = ZSTD_decompressStream(u->zstd, &out, &in);
    u->pos = in.pos;
    *got = out.pos;
    if (ZSTD_isError(rc)) return damaged(u, ZSTD_getErrorName(rc), err);
    u->in_member = rc != 0;
    return NS_OK;
}
#endif

ns_status ns_unpack_read(ns_unpack *u, void *buf, size_t n, size_t *got, ns_error *err)
{
    *got = 0;
    if (u->kind == PLAIN || u->kind == PARQUET) {
        if (u->pos < u->len) {
            *got = u->len - u->pos < n ? u->len - u->pos : n;
            memcpy(buf, u->in + u->pos, *got);
            u->pos += *got;
            return NS_OK;
        }
        ssize_t k = ns_sys_read(u->fd, buf, n);
        if (k < 0) return ns_sys_error(err, "read", u->name);
        *got = (size_t)k;
        return NS_OK;
    }
    while (*got == 0) {
        NS_TRY(refill(u, err), "%s", "unpack");
        int empty = u->pos == u->len;
        if (empty && !u->in_member) return NS_OK;
        ns_status st = NS_OK;
#ifdef NS_HAVE_ZLIB
        if (u->kind == GZIP) st = gzip_step(u, buf, n, got, err);
#endif
#ifdef NS_HAVE_ZSTD
        if (u->kind == ZSTD) st = zstd_step(u, buf, n, got, err);
#endif
        if (st != NS_OK) return st;
        NS_FAIL_IF(empty && *got == 0 && u->in_member, NS_ERR_INPUT,
                   "%s: packed byte %" PRIu64 ": the file ends within its %s data: it is cut short, copy it again",
                   u->name, u->before + u->pos, u->kind == GZIP ? "gzip" : "zstd");
    }
    return NS_OK;
}
