/* Reads a file that may be packed: gzip (also of several members) and Zstandard (also of several frames) are recognised by their first
 * bytes, whatever the name; anything else is passed on as it is (Parquet is
 * recognised for base/parquet, which needs the whole file). Streams; 128 KiB of input in memory.
 *
 *     ns_unpack *u;
 *     NS_TRY(ns_unpack_open(&u, fd, "rows.jsonl.gz", err), "open");     // the descriptor stays the caller's
 *     NS_TRY(ns_unpack_read(u, buf, n, &got, err), "read");            // got 0: the end
 *     ns_unpack_close(&u);
 *
 * Err: NS_ERR_INPUT naming file and packed byte where a file is damaged or cut short; NS_ERR_UNSUPPORTED where this build lacks the
 * library (zlib, libzstd: optional). */
#ifndef NS_BASE_UNPACK_H
#define NS_BASE_UNPACK_H

#include "base/error.h"

typedef struct ns_unpack ns_unpack;

/* name: for messages, must stay alive. */
NS_MUST_USE ns_status ns_unpack_open(ns_unpack **out, int fd, const char *name, ns_error *err);
NS_MUST_USE ns_status ns_unpack_read(ns_unpack *u, void *buf, size_t n, size_t *got, ns_error *err);
void ns_unpack_close(ns_unpack **u);
const char *
ns_unpack_kind(const ns_unpack *u);  /* "plain", "gzip", "zstd", "parquet" (found, not unpacked: see parquet/) */
int ns_unpack_can(const char *what); /* "gzip", "zstd": is it in this build */

#endif
