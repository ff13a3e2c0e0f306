/* Error records: see error.h for the rules. No allocation here, so that "out of memory" can be reported. */
#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ns_status ns_error_set(ns_error *err, ns_status code, const char *file, int line, const char *fmt, ...)
{
    if (!err || err->code != NS_OK) return code;
    va_list ap;
    err->code = code;
    err->n_ctx = 0;
    (void)file;
    (void)line;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    for (char *p = err->msg; *p; p++) /* one line, whatever was quoted from the input */
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    return code;
}

void ns_error_frame(ns_error *err, const char *file, int line, const char *fmt, ...)
{
    if (!err || err->n_ctx >= NS_ERROR_CTX_MAX) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->ctx[err->n_ctx].what, sizeof err->ctx[0].what, fmt, ap);
    va_end(ap);
    if (!err->ctx[err->n_ctx].what[0]) return; /* an empty frame says nothing and would take a place */
    err->ctx[err->n_ctx].file = file;
    err->ctx[err->n_ctx].line = line;
    err->n_ctx++;
}

const char *ns_error_text(const ns_error *err, char *out, size_t out_size)
{
    size_t n = 0;
    out[0] = 0;
    for (int i = err->n_ctx - 1; i >= 0 && n < out_size; i--) {
        if (!err->ctx[i].what[0]) continue;
        n += (size_t)snprintf(out + n, out_size - n, "%s: ", err->ctx[i].what);
    }
    if (n < out_size) snprintf(out + n, out_size - n, "%s", err->msg);
    return out;
}

const char *ns_status_name(ns_status code)
{
    static const char *const names[] = {"ok",       "input",   "config",  "io",     "memory",  "unsupported",
                                        "mismatch", "numeric", "stopped", "device", "internal"};
    return (unsigned)code < sizeof names / sizeof names[0] ? names[code] : "?";
}

int ns_status_exit_code(ns_status code)
{
    switch (code) {
    case NS_OK: return 0;
    case NS_ERR_CONFIG: return 2;
    case NS_ERR_INPUT: return 3;
    case NS_ERR_STOPPED: return 130;
    default: return 1;
    }
}

void ns_assert_fail(const char *cond, const char *file, int line)
{
    fprintf(stderr, "ns: internal error: %s:%d: assertion failed: %s\nThis is a bug: please report the command line.\n",
            file, line, cond);
    abort();
}
