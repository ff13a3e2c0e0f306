/* Placeholder filling with the rules of Python's str.format, over JSON values (data.md §3.2).
 *     {name}  {{ and }} for braces  {a[b]} {a[0]} {a.b}  !s !r !a  :spec (fill, align, sign, 0, width, comma, .precision, type)
 * Substituted values are never scanned again. Thread-safe. */
#ifndef NS_DATA_FORMAT_H
#define NS_DATA_FORMAT_H

#include "base/buf.h"
#include "base/json.h"

/* The value of a name, or NULL. Names are looked up in order: extra (may be NULL), then row; `hidden` names are absent. */
typedef struct ns_format_args {
    const ns_json *row;   /* object */
    const ns_json *extra; /* object or NULL: wins over row */
    const char *hidden;   /* one key of row that is not available, or NULL */
    const char *what;     /* names the text in messages: "prompt_config generic/math" */
    const char *where;    /* names the row: "data.jsonl:12" */
} ns_format_args;

NS_MUST_USE ns_status ns_format(ns_buf *out, const char *fmt, const ns_format_args *a, ns_error *err);
/* Python's str(v) and repr(v). */
NS_MUST_USE ns_status ns_py_str(ns_buf *out, const ns_json *v, ns_error *err);
NS_MUST_USE ns_status ns_py_repr(ns_buf *out, const ns_json *v, ns_error *err);

#endif
