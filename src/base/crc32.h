/* Checksum of zip members and of the tensors in a conversion's report; joining checksums of parts.
 *     uint32_t c = ns_crc32(p, n);   c = ns_crc32_more(c, more, k);
 *     ab = ns_crc_join(NS_CRC32_POLY, ns_crc32(a, na), ns_crc32(b, nb), nb);                                          */
#ifndef NS_BASE_CRC32_H
#define NS_BASE_CRC32_H

#include <stddef.h>
#include <stdint.h>

#define NS_CRC32_POLY 0xEDB88320u  /* zip */
#define NS_CRC32C_POLY 0x82F63B78u /* crc32c.h */

uint32_t ns_crc32(const void *p, size_t n);
uint32_t ns_crc32_more(uint32_t crc, const void *p, size_t n); /* goes on from what earlier bytes gave (0: none) */
/* Both checksums of the same bytes, read once; each goes on from what it is. */
void ns_crc_both(uint32_t *crc32, uint32_t *crc32c, const void *p, size_t n);
uint32_t ns_crc32_plain(uint32_t crc, const void *p, size_t n); /* without special instructions: for tests */
uint32_t ns_crc_narrow(uint32_t poly, uint32_t crc, const void *p, size_t n); /* without AVX-512: for tests */
/* CRC of a followed by b, from both CRCs and the length of b. */
uint32_t ns_crc_join(uint32_t poly, uint32_t a, uint32_t b, uint64_t b_bytes);

#endif
