/* A temporary file without a name: appended to, then read at any place. It is gone with the process, however that ends.
 *
 *     ns_spill *s;
 *     NS_TRY(ns_spill_open(&s, "out", err), "temporary file");
 *     NS_TRY(ns_spill_write(s, rows, n, err), "temporary file");
 *     NS_TRY(ns_spill_read(s, 0, buf, 100, err), "temporary file");       // after ns_spill_flush
 *     ns_spill_close(&s);                                                                                   */
#ifndef NS_DATA_SPILL_H
#define NS_DATA_SPILL_H

#include <stdint.h>

#include "base/error.h"

typedef struct ns_spill ns_spill;

NS_MUST_USE ns_status ns_spill_open(ns_spill **out, const char *dir, ns_error *err); /* dir must live as long */
NS_MUST_USE ns_status ns_spill_write(ns_spill *s, const void *p, size_t n, ns_error *err);
NS_MUST_USE ns_status ns_spill_flush(ns_spill *s, ns_error *err);
/* Exactly n bytes, which must have been written and flushed. */
NS_MUST_USE ns_status ns_spill_read(ns_spill *s, uint64_t at, void *p, size_t n, ns_error *err);
uint64_t ns_spill_size(const ns_spill *s);
void ns_spill_close(ns_spill **s);

#endif
