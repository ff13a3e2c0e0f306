/* JSON: one strict parser for rows and for configuration, and a writer with the two styles of data.md §0.1.
 *
 * The tree keeps key order and the spelling of numbers (no precision is lost); a duplicate key keeps the first position
 * and the last value. Strings are decoded to UTF-8. A lone surrogate escape is kept as its 3-byte (WTF-8) form when
 * NS_JSON_LONE_OK is given, else it is an error. Nodes live in the caller's arena; short strings without escapes may
 * point into the input, which must stay alive.
 *
 *     ns_json *row;
 *     NS_TRY(ns_json_parse(&row, &arena, line, n, "data.jsonl:12", 0, err), "read row");
 *     const ns_json *q = ns_json_get(row, "question");                                                        */
#ifndef NS_BASE_JSON_H
#define NS_BASE_JSON_H

#include <stdint.h>

#include "base/buf.h"
#include "base/mem.h"

typedef enum ns_json_type {
    NS_JSON_NULL,
    NS_JSON_BOOL,
    NS_JSON_NUMBER,
    NS_JSON_STRING,
    NS_JSON_ARRAY,
    NS_JSON_OBJECT
} ns_json_type;

typedef struct ns_json {
    ns_json_type type;
    int b;                 /* BOOL */
    ns_str s;              /* STRING: decoded bytes; NUMBER: text as written (also NaN, Infinity, -Infinity) */
    size_t n;              /* ARRAY, OBJECT: number of children */
    struct ns_json *items; /* ARRAY elements, OBJECT values */
    ns_str *keys;          /* OBJECT keys, decoded */
} ns_json;

enum { NS_JSON_LONE_OK = 1 };         /* parse flags */
enum { NS_JSON_ASCII, NS_JSON_UTF8 }; /* writer styles: non-ASCII as \uXXXX, or raw; both use ", " and ": " */

/* Parses exactly one value (surrounding white space allowed). `where` prefixes messages ("file:line"); the message adds
 * the byte offset, what was found and what was expected. Depth is limited to 512. Err: NS_ERR_INPUT. */
NS_MUST_USE ns_status ns_json_parse(ns_json **out, ns_arena *a, const char *p, size_t n, const char *where, int flags,
                                    ns_error *err);
NS_MUST_USE ns_status ns_json_read_file(ns_json **out, ns_arena *a, const char *path, ns_error *err);

const ns_json *ns_json_get(const ns_json *obj, const char *key); /* NULL if obj is not an object or has no such key */
const ns_json *ns_json_at(const ns_json *obj, const char *path); /* "a.b.c" */
int ns_json_is_int(const ns_json *v, int64_t *out);              /* 1 if NUMBER that is an integer in range */
int ns_json_is_num(const ns_json *v, double *out);
int ns_json_truthy(const ns_json *v); /* Python truth value; NULL pointer is false */

NS_MUST_USE ns_status ns_json_write_str(ns_buf *out, ns_str s, int style, ns_error *err); /* with quotes */
NS_MUST_USE ns_status ns_json_write(ns_buf *out, const ns_json *v, int style, ns_error *err);
/* Like ns_json_write but indented by two blanks a level, for config.json and reports. */
NS_MUST_USE ns_status ns_json_write_pretty(ns_buf *out, const ns_json *v, ns_error *err);
/* Shortest decimal that reads back equal, in Python repr form ("0.1", "1e-05", "100000.0"). */
void ns_json_format_double(char out[32], double x);

/* ---- building trees (all in arena; NULL on out of memory) ---- */
ns_json *ns_json_new(ns_arena *a, ns_json_type t, ns_error *err);
ns_json *ns_json_new_str(ns_arena *a, const char *s, ns_error *err);
ns_json *ns_json_new_int(ns_arena *a, int64_t v, ns_error *err);
ns_json *ns_json_new_num(ns_arena *a, double v, ns_error *err);
ns_json *ns_json_new_bool(ns_arena *a, int b, ns_error *err);
/* Sets obj[key] = *v (shallow copy; replaces in place or appends). Array append likewise. v NULL: passes an earlier failure on. */
NS_MUST_USE ns_status ns_json_set(ns_json *obj, ns_arena *a, const char *key, const ns_json *v, ns_error *err);
NS_MUST_USE ns_status ns_json_append(ns_json *arr, ns_arena *a, const ns_json *v, ns_error *err);

/* ---- JSONL ---- streaming reader: LF, CRLF; last line may lack a newline. A blank line is an error naming its number.
 * Files packed with gzip or zstd, and Parquet files, are known by their first bytes: the rows of the latter come as lines too. */
typedef struct ns_jsonl ns_jsonl;
NS_MUST_USE ns_status ns_jsonl_open(ns_jsonl **out, const char *path, ns_error *err); /* "-": stdin */
/* *line is NULL at the end. Valid until the next call. `where` is "path:line" (Parquet: row, from 1), kept inside the reader. */
NS_MUST_USE ns_status ns_jsonl_next_line(ns_jsonl *r, const char **line, size_t *n, const char **where, ns_error *err);
void ns_jsonl_allow_trailing_blank(ns_jsonl *r); /* blank lines at the very end of the file are dropped, not errors */
void ns_jsonl_limit_line(ns_jsonl *r, size_t most); /* a longer line is an error before it is all in memory */
uint64_t ns_jsonl_line_no(const ns_jsonl *r);
uint64_t ns_jsonl_bytes(const ns_jsonl *r);   /* consumed so far, for progress */
const char *ns_jsonl_kind(const ns_jsonl *r); /* "plain", "gzip", "zstd", "parquet" */
void ns_jsonl_close(ns_jsonl **r);

#endif
