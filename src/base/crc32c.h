/* CRC-32C (Castagnoli): checksum of files in DONE. Pass 0 to start, the last result to go on.
 *     uint32_t c = ns_crc32c(0, p, n);                                                         */
#ifndef NS_BASE_CRC32C_H
#define NS_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t ns_crc32c(uint32_t crc, const void *p, size_t n);
uint32_t ns_crc32c_plain(uint32_t crc, const void *p, size_t n); /* without the instruction; for tests */

#endif
