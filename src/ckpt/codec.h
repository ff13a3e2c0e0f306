/* Compressed runs of bytes that are unpacked when first looked at (zarr chunks): "zlib", "gzip", "zstd", "blosc".
 *     ns_codec k; NS_TRY(ns_codec_find(&k, "zstd", where, err), "...");          // by the name that zarr gives it; or why not
 *     ns_packed *p; NS_TRY(ns_packed_new(&p, cache, k, data, size, want, file, arena, err), "...");
 *     const unsigned char *q; NS_TRY(ns_packed_acquire(p, &q, err), "read"); ... want bytes ...; ns_packed_release(p);
 * Unpacked runs stay in memory up to CACHE bytes together, the least recently used go first; what is in use stays. From several
 * threads. libblosc is opened at run time. Err: NS_ERR_INPUT if the data is damaged or is not `want` bytes long. */
#ifndef NS_CKPT_CODEC_H
#define NS_CKPT_CODEC_H

#include "base/mem.h"

typedef enum ns_codec { NS_CODEC_ZLIB, NS_CODEC_GZIP, NS_CODEC_ZSTD, NS_CODEC_BLOSC } ns_codec;
/* Err: NS_ERR_UNSUPPORTED: no such codec here, or the library is not installed. */
NS_MUST_USE ns_status ns_codec_find(ns_codec *k, const char *name, const char *where, ns_error *err);
int ns_codec_has_blosc(void);

typedef struct ns_packed ns_packed;
typedef struct ns_packed_cache ns_packed_cache; /* NULL: made by the first ns_packed_new */
NS_MUST_USE ns_status ns_packed_new(ns_packed **out, ns_packed_cache **cache, ns_codec k, const unsigned char *data,
                                    size_t size, size_t want, const char *file, ns_arena *arena, ns_error *err);
NS_MUST_USE ns_status ns_packed_acquire(ns_packed *p, const unsigned char **plain, ns_error *err);
void ns_packed_release(ns_packed *p);
void ns_packed_cache_free(ns_packed_cache **cache); /* before the arena */

#endif
