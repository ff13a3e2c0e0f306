/* Where text came from: spans of bytes of a source, one for each token, or one for each byte of a changed text. */
#ifndef NS_TOK_SPAN_H
#define NS_TOK_SPAN_H

#include <stddef.h>

#include "base/error.h"

typedef struct ns_span {
    size_t from, to; /* from == to: it was put in there and comes from no byte */
} ns_span;
typedef struct ns_spans { /* zero-initialise; ns_spans_free */
    ns_span *v;
    size_t n, cap;
} ns_spans;

NS_MUST_USE ns_status ns_spans_add(ns_spans *a, size_t n, size_t from, size_t to, ns_error *err); /* n times the same */
NS_MUST_USE ns_status ns_spans_copy(ns_spans *a, size_t n, size_t from, ns_error *err); /* n bytes, each its own */
void ns_spans_free(ns_spans *a);

#endif
