/* SHA-256 and SHA-1 (FIPS 180-4), for checking downloads: the hub names big files by SHA-256 and small ones as git does.
 *     ns_sha s; ns_sha256_begin(&s); ns_sha_add(&s, p, n); char hex[65]; ns_sha_hex(&s, hex);       */
#ifndef NS_BASE_HUB_SHA_H
#define NS_BASE_HUB_SHA_H

#include <stddef.h>
#include <stdint.h>

typedef struct ns_sha {
    int is_256;
    uint32_t h[8];
    uint64_t n; /* bytes so far */
    unsigned char block[64];
} ns_sha;
void ns_sha256_begin(ns_sha *s);
void ns_sha1_begin(ns_sha *s);
void ns_sha_add(ns_sha *s, const void *p, size_t n);
void ns_sha_hex(ns_sha *s, char out[65]); /* ends it; 64 or 40 digits */

#endif
