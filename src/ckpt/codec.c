/* Decoders write into a buffer of exactly the wanted size, known from the array's shape, and must fill it: what a chunk says of itself
 * never decides how much is allocated. */
#include "ckpt/codec.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#ifdef NS_HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef NS_HAVE_ZSTD
#include <zstd.h>
#endif

#include "base/unpack.h"

/* CACHE: two or three chunks of a large model. MAX_RATIO: a run that claims to shrink more is refused before memory is taken
 * (deflate reaches 1032, a zstd block of one repeated byte 32768). */
enum { CACHE = 256 << 20, MAX_RATIO = 65536 };

struct ns_packed {
    ns_packed_cache *cache;
    ns_codec codec;
    const unsigned char *data;
    size_t size, want;
    const char *file;
    unsigned char *plain; /* NULL: not unpacked */
    int users, busy;      /* busy: a thread unpacks it */
    uint64_t used;        /* time of the last use */
    ns_packed *next;      /* of those unpacked */
};

struct ns_packed_cache {
    pthread_mutex_t lock;
    pthread_cond_t ready;
    ns_packed *live;
    size_t bytes;
    uint64_t now;
};

/* ---- blosc (c-blosc 1.x): its own names and types, so that no header is needed to build ---- */
typedef struct blosc {
    int (*validate)(const void *in, size_t bytes, size_t *out_bytes);
    int (*decompress)(const void *in, void *out, size_t out_bytes, int threads);
} blosc;

static const blosc *open_blosc(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static blosc b;
    static int tried;
    pthread_mutex_lock(&lock);
    void *lib = tried ? NULL : dlopen("libblosc.so.1", RTLD_NOW | RTLD_LOCAL);
    tried = 1;
    if (lib) {
        *(void **)&b.validate = dlsym(lib, "blosc_cbuffer_validate");
        *(void **)&b.decompress = dlsym(lib, "blosc_decompress_ctx");
    }
    pthread_mutex_unlock(&lock);
    return b.validate && b.decompress ? &b : NULL;
}

int ns_codec_has_blosc(void)
{
    return open_blosc() != NULL;
}

ns_status ns_codec_find(ns_codec *k, const char *name, const char *where, ns_error *err)
{
    static const char *const names[] = {"zlib", "gzip", "zstd", "blosc"};
    static const char *const needs[] = {"zlib", "zlib", "libzstd", "libblosc (Debian: libblosc1)"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, names[i])) continue;
        int here = i == NS_CODEC_BLOSC ? ns_codec_has_blosc() : ns_unpack_can(i == NS_CODEC_ZSTD ? "zstd" : "gzip");
        NS_FAIL_IF(!here, NS_ERR_UNSUPPORTED, "%s: chunks are compressed with '%s', and %s is not here: install it",
                   where, name, needs[i]);
        *k = (ns_codec)i;
        return NS_OK;
    }
    NS_FAIL(NS_ERR_UNSUPPORTED,
            "%s: chunks are compressed with '%.40s' (known: zlib, gzip, zstd, blosc): write the checkpoint without a "
            "compressor",
            where, name);
}

/* ---- one run: 1 if it gave exactly the wanted bytes ---- */
static int inflate_run(const ns_packed *p, unsigned char *out)
{
#ifdef NS_HAVE_ZLIB
    z_stream z;
    size_t in_at = 0, out_at = 0;
    int rc = Z_OK;
    memset(&z, 0, sizeof z);
    if (inflateInit2(&z, p->codec == NS_CODEC_GZIP ? 16 + MAX_WBITS : MAX_WBITS) != Z_OK) return 0;
    while (rc == Z_OK) { /* zlib counts in 32 bits */
        size_t in = p->size - in_at < 1u << 30 ? p->size - in_at : 1u << 30;
        size_t room = p->want - out_at < 1u << 30 ? p->want - out_at : 1u << 30;
        z.next_in = (Bytef *)(uintptr_t)(p->data + in_at);
        z.avail_in = (uInt)in;
        z.next_out = out + out_at;
        z.avail_out = (uInt)room;
        rc = inflate(&z, Z_NO_FLUSH);
        in_at += in - z.avail_in;
        out_at += room - z.avail_out;
        if (rc == Z_OK && z.avail_in == in && z.avail_out == room) break; /* no progress */
    }
    inflateEnd(&z);
    return rc == Z_STREAM_END && in_at == p->size && out_at == p->want;
#else
    (void)p;
    (void)out;
    return 0;
#endif
}

static int decode(const ns_packed *p, unsigned char *out)
{
    if (!p->size) return 0; /* an empty file has no address */
    if (p->codec == NS_CODEC_BLOSC) {
        const blosc *b = open_blosc();
        size_t n = 0;
        return b && b->validate(p->data, p->size, &n) == 0 && n == p->want && p->want <= INT32_MAX &&
               b->decompress(p->data, out, p->want, 1) == (int)p->want;
    }
#ifdef NS_HAVE_ZSTD
    if (p->codec == NS_CODEC_ZSTD) {
        size_t n = ZSTD_decompress(out, p->want, p->data, p->size);
        return !ZSTD_isError(n) && n == p->want;
    }
#endif
    return p->codec != NS_CODEC_ZSTD && inflate_run(p, out);
}

/* ---- cache ---- */
ns_status ns_packed_new(ns_packed **out, ns_packed_cache **cache, ns_codec k, const unsigned char *data, size_t size,
                        size_t want, const char *file, ns_arena *arena, ns_error *err)
{
    NS_FAIL_IF(want / MAX_RATIO > size, NS_ERR_INPUT, "%s: chunk of %zu bytes, which cannot hold %zu: truncated?", file,
               size, want);
    if (!*cache) {
        NS_TRY(ns_alloc((void **)cache, sizeof **cache, "codec", err), "%s", file);
        pthread_mutex_init(&(*cache)->lock, NULL);
        pthread_cond_init(&(*cache)->ready, NULL);
    }
    ns_packed *p = ns_arena_alloc(arena, sizeof *p, err);
    if (!p) return NS_ERR_MEMORY;
    *p = (ns_packed){.cache = *cache, .codec = k, .data = data, .size = size, .want = want, .file = file};
    *out = p;
    return NS_OK;
}

static void drop(ns_packed_cache *c, ns_packed **at)
{
    ns_packed *p = *at;
    *at = p->next;
    c->bytes -= p->want;
    ns_free(p->plain);
    p->plain = NULL;
}

static void make_room(ns_packed_cache *c, size_t n)
{
    while (c->bytes && c->bytes + n > CACHE) {
        ns_packed **old = NULL;
        for (ns_packed **q = &c->live; *q; q = &(*q)->next)
            if (!(*q)->users && (!old || (*q)->used < (*old)->used)) old = q;
        if (!old) return; /* all are in use */
        drop(c, old);
    }
}

static ns_status unpack_run(ns_packed *p, unsigned char **plain, ns_error *err)
{
    NS_TRY(ns_alloc((void **)plain, p->want ? p->want : 1, "codec", err), "%s", p->file);
    if (decode(p, *plain)) return NS_OK;
    ns_free(*plain);
    NS_FAIL(NS_ERR_INPUT, "%s: a compressed chunk of %zu bytes does not unpack to %zu bytes: damaged or cut short",
            p->file, p->size, p->want);
}

ns_status ns_packed_acquire(ns_packed *p, const unsigned char **plain, ns_error *err)
{
    ns_packed_cache *c = p->cache;
    ns_status st = NS_OK;
    pthread_mutex_lock(&c->lock);
    while (p->busy) pthread_cond_wait(&c->ready, &c->lock);
    if (!p->plain) {
        unsigned char *mine = NULL;
        p->busy = 1;
        make_room(c, p->want);
        c->bytes += p->want; /* others see it coming */
        pthread_mutex_unlock(&c->lock);
        st = unpack_run(p, &mine, err);
        pthread_mutex_lock(&c->lock);
        p->busy = 0;
        if (st == NS_OK) {
            p->plain = mine;
            p->next = c->live;
            c->live = p;
        } else {
            c->bytes -= p->want;
        }
        pthread_cond_broadcast(&c->ready);
    }
    if (st == NS_OK) {
        p->users++;
        p->used = ++c->now;
        *plain = p->plain;
    }
    pthread_mutex_unlock(&c->lock);
    return st;
}

void ns_packed_release(ns_packed *p)
{
    pthread_mutex_lock(&p->cache->lock);
    p->users--;
    pthread_mutex_unlock(&p->cache->lock);
}

void ns_packed_cache_free(ns_packed_cache **pc)
{
    ns_packed_cache *c = *pc;
    if (!c) return;
    while (c->live) drop(c, &c->live);
    pthread_cond_destroy(&c->ready);
    pthread_mutex_destroy(&c->lock);
    ns_free(c);
    *pc = NULL;
}
