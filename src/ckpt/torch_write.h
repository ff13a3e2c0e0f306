/* Writing torch.save files and pickles (training.md §5.5): what torch.load and torch.distributed.checkpoint read. The data of the
 * tensor is written by the caller; what stands before and behind it comes from here.
 *     ns_torch_out w = {.b = &buf};
 *     NS_TRY(ns_torch_begin(&w, NS_DTYPE_BF16, shape, 2, err), "...");  // buf: all before the data, w.expect: bytes of data
 *     NS_TRY(ns_torch_end(&w, crc32_of_data, err), "...");              // buf: and all behind it, ns_torch_tail bytes
 * A tensor has less than 4 GiB. */
#ifndef NS_CKPT_TORCH_WRITE_H
#define NS_CKPT_TORCH_WRITE_H

#include "base/buf.h"
#include "tensor/dtype.h"

enum { NS_TORCH_MEMBERS = 6 };
typedef struct ns_torch_out {
    ns_buf *b;
    int64_t at; /* bytes of the file so far, with the data */
    struct {
        const char *name;
        int64_t at;
        uint64_t size;
        uint32_t crc;
    } m[NS_TORCH_MEMBERS];
    int n;
    uint64_t expect; /* bytes of data that must come */
} ns_torch_out;

NS_MUST_USE ns_status ns_torch_begin(ns_torch_out *w, ns_dtype dt, const int64_t *shape, int nd, ns_error *err);
NS_MUST_USE ns_status ns_torch_end(ns_torch_out *w, uint32_t crc, ns_error *err);
/* A whole file that holds an empty dictionary. */
NS_MUST_USE ns_status ns_torch_write_empty(const char *path, ns_error *err);

/* Pickle pieces. */
NS_MUST_USE ns_status ns_pkw_str(ns_buf *b, const char *s, ns_error *err);
NS_MUST_USE ns_status ns_pkw_int(ns_buf *b, int64_t v, ns_error *err);
NS_MUST_USE ns_status ns_pkw_ints(ns_buf *b, const int64_t *v, int n, ns_error *err); /* a tuple */

#endif
