/* A model being written, and what moves one into it. Blocks of rows of views (arch/params.h) come from several threads, in no set
 * order, each row once; a format is one file that fills an ns_sink (hf_write.c, nemo_write.c, trt_write.c, gguf_write.c).
 *     ns_sink *out; NS_TRY(ns_hf_sink(&out, tmp, &table, NS_DTYPE_BF16, max_shard_bytes, tokenizer_dir, err), "...");
 *     ns_convert c = {.table = &table, .rows = ns_..., .native = types, .user = &src, .sink = out};
 *     NS_TRY(ns_model_convert(&c, stats, err), "convert");                  // stats: one a view, may be NULL
 *     ns_sink_free(&out);
 * Memory: a few blocks a thread. */
#ifndef NS_CKPT_SINK_H
#define NS_CKPT_SINK_H

#include "arch/params.h"
#include "base/threads.h"

enum {
    NS_BLOCK = 1 << 18
}; /* elements at most (or four rows, or the rows of one head): a block stays in a core's cache */

typedef struct ns_sink ns_sink;
struct ns_sink {
    const ns_param_table *t;
    ns_dtype dt;                                     /* of the rows that put takes */
    ns_dtype (*view_dt)(const ns_sink *s, int view); /* NULL: dt. Views that are not exact come in F32 */
    /* Heads are not cut: blocks of q, k, v begin and end at a head; others begin at a multiple of four rows. scratch: as large as the block's rows in f32.
     * back: NULL, or (a view that is not stored exactly) takes the f32 values that a reader will find.
     * rows NULL: an interrupted run wrote these rows (base/scatter_log.h); they stay. */
    ns_status (*put)(ns_sink *s, int view, int64_t row0, int64_t n, const void *rows, void *scratch, float *back,
                     ns_error *err);
    int (*is_exact)(const ns_sink *s, int view);          /* NULL: all are */
    const char *(*type_name)(const ns_sink *s, int view); /* how it is stored; NULL: as dt */
    ns_status (*finish)(ns_sink *s, ns_error *err);
    void (*free)(ns_sink *s); /* files that are not finished are removed */
};
void ns_sink_free(ns_sink **s);

/* n rows of view v from row0 on, in type dt (F32, or the view's native type). From several threads. */
typedef ns_status (*ns_rows_fn)(void *user, int view, int64_t row0, int64_t n, ns_dtype dt, void *out, ns_error *err);

typedef struct ns_view_stats {
    double min, max, sum;
    double err2, sum2; /* views that are not stored exactly: squared error, squared values */
    uint32_t crc;      /* CRC-32 of the rows as a reader finds them, in type dt: F32 if not exact */
    ns_dtype dt;
    int64_t n, lost; /* elements; finite before, not after rounding */
    int exact;
    const char *type; /* how it is stored */
} ns_view_stats;

typedef struct ns_convert {
    const ns_param_table *table;
    ns_rows_fn rows;
    const ns_dtype *native; /* by view: rows are asked for in this type if it is the sink's; NULL: always f32 */
    void *user;
    ns_sink *sink;                                 /* NULL: only look (statistics in type `dt`) */
    ns_dtype dt;                                   /* without a sink */
    const ns_view_stats *expect;                   /* compare with these: crc must agree, exact says in which type */
    void (*progress)(void *user, double elements); /* NULL: none. From one thread at a time */
    const uint8_t *kept; /* by view, or NULL: an interrupted run wrote it, and stats[view] says how it is */
    /* NULL, or called when a view is in the sink. From one thread at a time */
    ns_status (*view_done)(void *user, int view, const ns_view_stats *s, ns_error *err);
} ns_convert;
NS_MUST_USE ns_status ns_model_convert(const ns_convert *c, ns_view_stats *stats, ns_error *err);

#endif
