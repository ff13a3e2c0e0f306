/* safetensors (training.md §5.6): u64 LE header length, JSON header, data. One reader for single files and for sharded
 * directories (model.safetensors.index.json); one streaming writer. Every length is checked before use.
 *
 *     ns_st *st; NS_TRY(ns_st_open(&st, "model/", err), "open model");       // directory or file
 *     const ns_st_tensor *t = ns_st_find(st, "model.norm.weight");            // NULL if absent
 *     t->data is mapped, read-only, little-endian.                                                           */
#ifndef NS_CKPT_SAFETENSORS_H
#define NS_CKPT_SAFETENSORS_H

#include <stdint.h>

#include "base/error.h"
#include "base/mem.h"
#include "tensor/dtype.h"

typedef struct ns_st_tensor {
    const char *name;
    ns_dtype dt;
    int nd;
    int64_t shape[8];
    int64_t n; /* elements */
    const void *data;
    const char *file; /* which shard, for messages */
} ns_st_tensor;

typedef struct ns_st ns_st;
NS_MUST_USE ns_status ns_st_open(ns_st **out, const char *path, ns_error *err);
void ns_st_close(ns_st **st);
int ns_st_count(const ns_st *st);
const ns_st_tensor *ns_st_at(const ns_st *st, int i); /* in file order */
const ns_st_tensor *ns_st_find(const ns_st *st, const char *name);
const char *ns_st_metadata(const ns_st *st, const char *key); /* NULL if absent */

/* Writer: declare all tensors first (name, dtype, shape), then write the data in the same order, piece by piece.
 * Shards when the total exceeds max_shard_bytes (0: one file "model.safetensors"); writes the index. The caller owns
 * durability of the directory (base/file.h); each file is fsynced on close. */
typedef struct ns_st_writer ns_st_writer;
NS_MUST_USE ns_status ns_st_writer_new(ns_st_writer **out, const char *dir, const char *base, int64_t max_shard_bytes,
                                       ns_error *err);
NS_MUST_USE ns_status ns_st_declare(ns_st_writer *w, const char *name, ns_dtype dt, const int64_t *shape, int nd,
                                    ns_error *err);
NS_MUST_USE ns_status ns_st_meta(ns_st_writer *w, const char *key, const char *value,
                                 ns_error *err); /* "format":"pt" is always set */
NS_MUST_USE ns_status ns_st_write(ns_st_writer *w, const void *data, int64_t bytes, ns_error *err);
/* Instead of ns_st_write: n bytes at byte `at` of the i-th declared tensor, from any thread, in any order, each byte once. */
NS_MUST_USE ns_status ns_st_put(ns_st_writer *w, size_t i, int64_t at, const void *data, int64_t n, ns_error *err);
NS_MUST_USE ns_status ns_st_writer_close(ns_st_writer **w, ns_error *err); /* fails if data is missing */
void ns_st_writer_abort(ns_st_writer **w);

#endif
