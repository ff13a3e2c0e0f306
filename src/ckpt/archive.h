/* Tensors by name, whatever file format they lie in. A tensor is a set of pieces (boxes) of mapped memory: one for a plain
 * file, one a rank and layer for a sharded one. Readers (torch_file.c, torch_dist.c, zarr.c, nemo.c) fill an archive;
 * ns_archive_rows is the one way values come out, as f32 rows.
 *     ns_archive a = {0}; ns_archive_init(&a, "model/");
 *     ns_arc_tensor *t; NS_TRY(ns_archive_add(&a, &t, "w", NS_DTYPE_BF16, shape, 2, err), "...");
 *     NS_TRY(ns_arc_box_add(&a, t, &piece, err), "...");      NS_TRY(ns_archive_check(&a, err), "...");
 *     NS_TRY(ns_archive_rows(t, l, row0, n, values, err), "...");        ns_archive_free(&a);
 * Pieces must cover each tensor exactly once (ns_archive_check). */
#ifndef NS_CKPT_ARCHIVE_H
#define NS_CKPT_ARCHIVE_H

#include <stdatomic.h>

#include "base/mem.h"
#include "base/crc32.h"
#include "ckpt/codec.h"
#include "ckpt/ggml.h"
#include "ckpt/tree.h"
#include "ckpt/trt_quant.h"
#include "tensor/dtype.h"

typedef struct ns_crc { /* of a stored run of bytes, compared when first read; pieces of one run share it */
    const unsigned char *base;
    uint64_t bytes;
    uint32_t want;
    atomic_int checked;
    struct ns_crc_runs *runs; /* ns_archive_check_later: what was read; NULL: compared at once */
} ns_crc;

typedef struct ns_box {
    int64_t off[8], size[8], stride[8]; /* box in the tensor; stride: in elements of the data */
    const unsigned char *data;          /* NULL: zeros, or packed */
    ns_packed *packed;                  /* compressed: unpacked when read; the box begins `skip` bytes into it */
    size_t skip;
    const ns_wq *wq; /* rows of a weight-only matrix from row wq_row on, all its columns; NULL: plain */
    int64_t wq_row;
    ns_crc *crc; /* NULL: none */
    int cold;    /* its file was not in the system's cache, and is not left there by reading this */
    const char *file;
} ns_box;

typedef struct ns_arc_tensor {
    const char *name;
    ns_dtype dt;
    int nd;
    int64_t shape[8], n; /* n: elements */
    const ns_ggml *q;    /* data in blocks of GGUF, dt then F32 and rows whole; NULL: plain */
    ns_box *pieces;
    size_t n_pieces, cap_pieces;
} ns_arc_tensor;

typedef struct ns_archive {
    ns_arena arena;
    const char *where;
    ns_arc_tensor *t;
    size_t n, cap;
    int64_t n_zero_pieces; /* parts that no file holds (zarr: absent chunk): read as zeros */
    int sorted;
    struct ns_crc_runs *runs; /* ns_archive_check_later */
    ns_packed_cache
        *packed; /* of the compressed boxes that this archive made; other archives may have slices of them */
} ns_archive;

void ns_archive_init(ns_archive *a, const char *where);
void ns_archive_free(ns_archive *a);
/* *out stays valid until the next ns_archive_add or ns_archive_check. Err: bad shape, overflow. */
NS_MUST_USE ns_status ns_archive_add(ns_archive *a, ns_arc_tensor **out, const char *name, ns_dtype dt,
                                     const int64_t *shape, int nd, ns_error *err);
NS_MUST_USE ns_status ns_arc_box_add(ns_archive *a, ns_arc_tensor *t, const ns_box *p, ns_error *err);
/* Sorts by name; refuses duplicates, pieces outside their tensor, gaps and overlaps. */
NS_MUST_USE ns_status ns_archive_check(ns_archive *a, ns_error *err);
ns_arc_tensor *ns_archive_find(const ns_archive *a, const char *name); /* after ns_archive_check; NULL if absent */
/* C-order strides of p->size. */
void ns_box_dense(ns_box *p, int nd);
/* Rows [src_row0, +n) of src (lead as in ns_archive_rows) become rows [row0, +n) of dst: nothing is copied but pieces. */
NS_MUST_USE ns_status ns_archive_slice(ns_archive *a, ns_arc_tensor *dst, int64_t row0, const ns_arc_tensor *src,
                                       int64_t lead, int64_t src_row0, int64_t n, ns_error *err);
/* For who reads all of it: stored checksums are not compared piece by piece at the first reading, which reads everything twice, but are
 * summed up on the way; ns_archive_check_now compares, and must say yes before anything that was read is believed. */
NS_MUST_USE ns_status ns_archive_check_later(ns_archive *a, ns_error *err);
NS_MUST_USE ns_status ns_archive_check_now(ns_archive *a, ns_error *err);
/* Rows [row0, row0+n) as f32. lead < 0: the tensor is [rows] or [rows, cols]; else [L, rows] or [L, rows, cols] at index lead. */
NS_MUST_USE ns_status ns_archive_rows(ns_arc_tensor *t, int64_t lead, int64_t row0, int64_t n, float *out,
                                      ns_error *err);
/* The same in type dt: F32, or the tensor's own (the bytes as they are). From several threads. Mapped pages are asked for
 * ahead and let go afterwards, so that a large model does not stay in this process's memory. */
NS_MUST_USE ns_status ns_archive_rows_as(ns_arc_tensor *t, int64_t lead, int64_t row0, int64_t n, ns_dtype dt,
                                         void *out, ns_error *err);

#endif
