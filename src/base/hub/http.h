/* GET over HTTP and HTTPS by libcurl, which is opened on use (NS_ERR_UNSUPPORTED without it).
 *     ns_http_get g = {.url = "https://huggingface.co/api/models/x/y", .token = getenv("HF_TOKEN"), .sink = take, .user = &x};
 *     NS_TRY(ns_http_run(&g, err), "...");  if (g.status == 200) ...
 * Redirects are followed; the token goes to the first host alone, and over plain http to this machine alone. */
#ifndef NS_BASE_HUB_HTTP_H
#define NS_BASE_HUB_HTTP_H

#include <stdint.h>

#include "base/error.h"

typedef struct ns_http_get {
    const char *url, *token; /* token NULL: none */
    int64_t from;            /* > 0: asks for the bytes from there on (Range) */
    /* Takes a piece of the body of an answer 200 or 206; status says which. Not 0: stop, ns_http_run returns NS_ERR_STOPPED. */
    int (*sink)(void *user, int status, const void *p, size_t n);
    void *user;
    int status;     /* out: HTTP status, 0: no answer */
    int retry;      /* out: worth another try (no answer, cut answer, 408, 429, 5xx) */
    char what[256]; /* out: why it failed, for people */
} ns_http_get;

/* NS_OK: a whole answer came, of any status. NS_ERR_IO: it did not (what, retry). NS_ERR_UNSUPPORTED: no libcurl. */
NS_MUST_USE ns_status ns_http_run(ns_http_get *g, ns_error *err);
/* A secret may go to this address: it is encrypted, or this machine. */
int ns_http_keeps_secrets(const char *url);
const char *ns_http_version(void); /* of libcurl; NULL: it does not open */

#endif
