/* Rows of an Apache Parquet file, one after the other, each as the line of JSON that a JSONL file would hold.
 *
 *     ns_parquet *r;
 *     NS_TRY(ns_parquet_open(&r, fd, "rows.parquet", err), "open");      // the descriptor stays the caller's
 *     NS_TRY(ns_parquet_next(r, &line, &n, err), "read");                // line NULL: the end
 *     ns_parquet_close(&r);
 *
 * Reads what writers of data sets use: every type, nesting and null; plain, dictionary, RLE, delta and byte-stream-split
 * encodings; data pages v1 and v2; uncompressed, snappy, gzip, zstd, lz4_raw. In memory: the file's directory and, of each
 * column, its dictionary and one page. How values become JSON is said in parquet_text.c, how rows do in parquet_row.c.
 *
 * Err: NS_ERR_INPUT where the file is damaged, cut short or contradicts itself, NS_ERR_UNSUPPORTED where it is encrypted or
 * needs a codec or type that is not read; the message names file, column and byte. Read through base/jsonl. */
#ifndef NS_BASE_PARQUET_H
#define NS_BASE_PARQUET_H

#include <stdint.h>

#include "base/error.h"

typedef struct ns_parquet ns_parquet;

/* Do these first bytes of a file begin a Parquet file? n: at least 4, else no. */
int ns_parquet_is(const void *first, size_t n);

/* name: for messages, must stay alive. The file is read with pread: its position does not matter and does not move. */
NS_MUST_USE ns_status ns_parquet_open(ns_parquet **out, int fd, const char *name, ns_error *err);
NS_MUST_USE ns_status ns_parquet_open_memory(ns_parquet **out, const void *file, size_t n, const char *name,
                                             ns_error *err);
/* *row: one JSON object without a newline, valid until the next call; NULL after the last row. */
NS_MUST_USE ns_status ns_parquet_next(ns_parquet *r, const char **row, size_t *n, ns_error *err);
void ns_parquet_longest_row(ns_parquet *r, size_t bytes); /* longer rows are refused; 1 GiB if not called */
int64_t ns_parquet_rows(const ns_parquet *r);             /* in the whole file */
uint64_t ns_parquet_bytes(const ns_parquet *r);           /* of the file, read so far: for progress */
void ns_parquet_close(ns_parquet **r);

#endif
