/* Growing byte buffer. Zero-initialise; free with ns_buf_free. Appends keep a NUL after the last byte.
 *     ns_buf b = {0};
 *     NS_CHECK(st, ns_buf_printf(&b, err, "x=%d", x), "format");
 *     ns_buf_free(&b);                                                                              */
#ifndef NS_BASE_BUF_H
#define NS_BASE_BUF_H

#include <stddef.h>

#include "base/error.h"

typedef struct ns_buf {
    char *data; /* NUL-terminated when not NULL */
    size_t len, cap;
} ns_buf;

NS_MUST_USE ns_status ns_buf_reserve(ns_buf *b, size_t extra, ns_error *err);
NS_MUST_USE ns_status ns_buf_add(ns_buf *b, const void *p, size_t n, ns_error *err);
NS_MUST_USE ns_status ns_buf_adds(ns_buf *b, const char *s, ns_error *err);
NS_MUST_USE ns_status ns_buf_addc(ns_buf *b, char c, ns_error *err);
NS_MUST_USE ns_status ns_buf_printf(ns_buf *b, ns_error *err, const char *fmt, ...) NS_PRINTF(3, 4);
static inline void ns_buf_clear(ns_buf *b)
{
    b->len = 0;
    if (b->data) b->data[0] = 0;
}
void ns_buf_free(ns_buf *b);

/* A view of bytes that somebody else owns. */
typedef struct ns_str {
    const char *p;
    size_t n;
} ns_str;
int ns_str_eq(ns_str a, const char *b);

/* Edit distance based suggestion: the closest of `names` to `word`, or NULL if none is close. */
const char *ns_suggest(const char *word, const char *const *names, size_t n_names);

#endif
