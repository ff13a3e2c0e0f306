/* A file that several threads write, each at its own offsets: what a conversion makes of many tensors at once.
 *     ns_scatter *f; NS_TRY(ns_scatter_create(&f, path, size, err), "...");
 *     NS_TRY(ns_scatter_put(f, at, p, n, err), "...");                          // from any thread
 *     crc = ns_scatter_crc32(f, from, to);                                      // of bytes that have been put
 *     NS_TRY(ns_scatter_close(&f, err), "...");
 * Closing fails unless the puts cover [0, size) exactly once; then it syncs (sync.h: at once or at the end). The CRC-32C of the whole is known by then and goes
 * to ns_dir_publish, which need not read the file again. Buffers go straight to the system: put large runs. */
#ifndef NS_BASE_SCATTER_H
#define NS_BASE_SCATTER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct ns_scatter ns_scatter;
NS_MUST_USE ns_status ns_scatter_create(ns_scatter **out, const char *path, uint64_t size, ns_error *err);
/* p NULL: [at, at+n) is a run that an interrupted process wrote (scatter_log.h) and stays as it is. */
NS_MUST_USE ns_status ns_scatter_put(ns_scatter *f, uint64_t at, const void *p, size_t n, ns_error *err);
/* Zip's CRC-32 of [from, to): both must be edges of puts. One thread, after the puts. */
NS_MUST_USE ns_status ns_scatter_crc32(ns_scatter *f, uint64_t from, uint64_t to, uint32_t *crc, ns_error *err);
uint64_t ns_scatter_left(ns_scatter *f); /* bytes still to be put */
NS_MUST_USE ns_status ns_scatter_close(ns_scatter **f, ns_error *err);
void ns_scatter_abort(ns_scatter **f); /* removes the file */

/* CRC-32C of files of this process that were closed and not changed since (device, inode, size, time): for dir.c. */
void ns_digest_remember(int fd, uint32_t crc);
int ns_digest_recall(const char *path, uint64_t *size, uint32_t *crc); /* 1: known; it is forgotten then */

#endif
