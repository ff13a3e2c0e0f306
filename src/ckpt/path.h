/* Paths put together with a check, so that none is ever cut short.
 *     char path[4096]; NS_TRY(ns_path(path, sizeof path, err, "%s/%s", dir, name), "%s", "");               */
#ifndef NS_CKPT_PATH_H
#define NS_CKPT_PATH_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

NS_MUST_USE static inline NS_PRINTF(4, 5) ns_status ns_path(char *out, size_t size, ns_error *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, size, fmt, ap);
    va_end(ap);
    NS_FAIL_IF(n < 0 || (size_t)n >= size, NS_ERR_INPUT, "path is too long (%d bytes): '%.100s...'", n, out);
    return NS_OK;
}

/* Splits "a/b/" into "a" and "b", "b" into "." and "b". */
NS_MUST_USE static inline ns_status ns_path_split(char parent[4096], char name[256], const char *path, ns_error *err)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t base = n;
    while (base > 0 && path[base - 1] != '/') base--;
    NS_TRY(ns_path(parent, 4096, err, "%.*s", base ? (int)base : 1, base ? path : "."), "%s", "");
    return ns_path(name, 256, err, "%.*s", (int)(n - base), path + base);
}

#endif
