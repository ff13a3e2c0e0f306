/* Shared by archive.c and archive_crc.c: checksums of stored pieces, compared at once or in the end. */
#ifndef NS_CKPT_ARCHIVE_PRIV_H
#define NS_CKPT_ARCHIVE_PRIV_H

#include "ckpt/archive.h"

/* n bytes at `stored` of box p were read; `same` holds equal bytes. */
NS_MUST_USE ns_status ns_crc_note(const ns_arc_tensor *t, const ns_box *p, const unsigned char *stored,
                                  const void *same, size_t n, ns_error *err);
/* Goes on from sum over mapped bytes, which are let go afterwards. */
uint32_t ns_crc_stored(uint32_t sum, const unsigned char *p, uint64_t n);
/* Err: found is not what the file says. Else the piece counts as checked. */
NS_MUST_USE ns_status ns_crc_compare(ns_crc *c, const ns_arc_tensor *t, const char *file, uint32_t found,
                                     ns_error *err);
void ns_crc_runs_free(ns_archive *a);

#endif
