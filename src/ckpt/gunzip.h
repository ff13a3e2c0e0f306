/* A gzip-compressed archive (old `.nemo` files) as plain mapped bytes: unpacked as a stream into a file without a name, so memory stays
 * small and nothing is left behind, whatever happens. The file lies in TMPDIR, else beside the archive, else in /tmp; it takes the
 * unpacked size until the process ends or another archive is opened (a model is opened several times: unpacked once).
 *     NS_TRY(ns_gunzip_map(&m, "model.nemo", is_tar_header, err), "open model"); ... ns_map_close(&m);
 * Err: NS_ERR_INPUT naming the packed byte if damaged or cut; NS_ERR_IO if the disk is full; NS_ERR_UNSUPPORTED without zlib. */
#ifndef NS_CKPT_GUNZIP_H
#define NS_CKPT_GUNZIP_H

#include "base/file.h"

/* begins: 1 if the first 512 unpacked bytes look right; asked before the rest is unpacked. */
NS_MUST_USE ns_status ns_gunzip_map(ns_map *m, const char *path, int (*begins)(const unsigned char *head),
                                    ns_error *err);

#endif
