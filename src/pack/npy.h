/* NumPy's .npy files (format 1.0): two-dimensional arrays of int32 or bool, as pack files are. Data only: arrays of pickled
 * objects are refused by name and nothing of them is read.
 *
 *     ns_npy a;
 *     NS_TRY(ns_npy_open(&a, "packed_16384_seed0.input_ids.npy", err), "ids");
 *     const unsigned char *row = ns_npy_row(&a, 7);       // cols items of `item` bytes
 *     ns_npy_close(&a); */
#ifndef NS_PACK_NPY_H
#define NS_PACK_NPY_H

#include "base/file.h"

typedef struct ns_npy {
    ns_map map;
    const unsigned char *data;
    int64_t rows, cols;
    char descr[8]; /* "<i4", "|b1", "<i8", "|u1" */
    size_t item;
} ns_npy;

NS_MUST_USE ns_status ns_npy_open(ns_npy *out, const char *path, ns_error *err);
void ns_npy_close(ns_npy *a);
static inline const unsigned char *ns_npy_row(const ns_npy *a, int64_t row)
{
    return a->data + (size_t)row * (size_t)a->cols * a->item;
}
/* *bytes, if wanted: of the header, where the items begin. */
NS_MUST_USE ns_status ns_npy_write_header(ns_file *f, const char *descr, int64_t rows, int64_t cols, uint64_t *bytes,
                                          ns_error *err);

#endif
