/* Codecs of Parquet pages: snappy and LZ4 blocks (small enough to be here), gzip and zstd from their libraries; CRC-32.
 *
 * All of them know how many bytes must come out; more, fewer, or input left over is damage. Sources: google/snappy
 * format_description.txt, lz4_Block_format.md, RFC 1952. */
#include <string.h>

#include "base/parquet/parquet_priv.h"
#include "base/unpack.h"
#ifdef NS_HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef NS_HAVE_ZSTD
#include <zstd.h>
#endif

const char *pq_codec_name(int codec)
{
    static const char *const names[] = {"uncompressed", "snappy", "gzip", "LZO", "Brotli", "LZ4", "zstd", "lz4_raw"};
    return codec >= 0 && codec < 8 ? names[codec] : "unknown";
}

int pq_codec_can(int codec)
{
    if (codec == PQ_GZIP) return ns_unpack_can("gzip");
    if (codec == PQ_ZSTD) return ns_unpack_can("zstd");
    return codec == PQ_NONE || codec == PQ_SNAPPY || codec == PQ_LZ4_RAW;
}

uint64_t pq_codec_most(int codec, uint64_t packed)
{
    switch (codec) {
    case PQ_SNAPPY: return packed * 64;          /* a copy of 64 bytes takes two or three */
    case PQ_LZ4_RAW: return packed * 255 + 64;   /* a byte more of length is 255 bytes */
    case PQ_GZIP: return packed * 1032 + 1024;   /* deflate: 258 bytes from two bits */
    case PQ_ZSTD: return (packed / 4 + 1) << 17; /* a block of 128 KiB takes at least four bytes */
    default: return packed;
    }
}

/* Repeats n bytes from `back` bytes ago; they may overlap. There is room for `room`, at least n: what lies behind the n is written
 * again by what follows, so short copies are made in whole steps. */
static inline void copy_back(uint8_t *o, size_t back, size_t n, size_t room)
{
    const uint8_t *from = o - back;
    if (n <= 64 && room >= 80 && back >= 16) {
        for (size_t i = 0; i < n; i += 16) memcpy(o + i, from + i, 16);
        return;
    }
    if (n <= 64 && room >= 80 && back >= 8) {
        for (size_t i = 0; i < n; i += 8) memcpy(o + i, from + i, 8);
        return;
    }
    if (back >= n) {
        memcpy(o, from, n);
        return;
    }
    while (n > back) { /* what was written doubles */
        memcpy(o, from, back);
        o += back, n -= back, back += back;
        from = o - back;
    }
    memcpy(o, from, n);
}

static const char *unpack_snappy(const uint8_t *p, size_t n, uint8_t *dst, size_t raw_size)
{
    const uint8_t *end = p + n;
    uint8_t *o = dst, *o_end = dst + raw_size;
    uint64_t said = 0;
    for (unsigned shift = 0;; shift += 7) {
        if (p == end || shift > 28) return "its length cannot be read";
        said |= (uint64_t)(*p & 0x7f) << shift;
        if (!(*p++ & 0x80)) break;
    }
    if (said != raw_size) return "its length is not that of the page header";
    while (p < end) {
        unsigned tag = *p++, kind = tag & 3;
        size_t len, back, extra;
        if (kind == 0) {
            len = tag >> 2;
            if (len >= 60) {
                extra = len - 59;
                if ((size_t)(end - p) < extra) return "it ends within a length";
                len = 0;
                for (size_t i = 0; i < extra; i++) len |= (size_t)p[i] << (8 * i);
                p += extra;
            }
            len++;
            if ((size_t)(end - p) < len) return "it ends within its bytes";
            if ((size_t)(o_end - o) < len) return "more comes out than the page header says";
            if (len <= 16 && end - p >= 16 && o_end - o >= 16)
                memcpy(o, p, 16);
            else
                memcpy(o, p, len);
            p += len, o += len;
            continue;
        }
        extra = kind == 3 ? 4 : kind;
        if ((size_t)(end - p) < extra) return "it ends within a distance";
        if (kind == 1) {
            len = 4 + (tag >> 2 & 7);
            back = (size_t)(tag >> 5) << 8 | p[0];
        } else {
            len = 1 + (tag >> 2);
            back = kind == 2 ? (size_t)p[0] | (size_t)p[1] << 8 : pq_u32(p);
        }
        p += extra;
        if (back == 0 || back > (size_t)(o - dst)) return "a copy begins before the page";
        if ((size_t)(o_end - o) < len) return "more comes out than the page header says";
        copy_back(o, back, len, (size_t)(o_end - o));
        o += len;
    }
    return o == o_end ? NULL : "less comes out than the page header says";
}

/* Adds the bytes of a long length to *len. */
static int lz4_length(const uint8_t **p, const uint8_t *end, size_t *len)
{
    uint8_t b;
    do {
        if (*p == end) return 0;
        b = *(*p)++;
        *len += b;
    } while (b == 255);
    return 1;
}

static const char *unpack_lz4(const uint8_t *p, size_t n, uint8_t *dst, size_t raw_size)
{
    const uint8_t *end = p + n;
    uint8_t *o = dst, *o_end = dst + raw_size;
    while (p < end) {
        unsigned token = *p++;
        size_t len = token >> 4;
        if (len == 15 && !lz4_length(&p, end, &len)) return "it ends within a length";
        if ((size_t)(end - p) < len) return "it ends within its bytes";
        if ((size_t)(o_end - o) < len) return "more comes out than the page header says";
        if (len <= 16 && end - p >= 16 && o_end - o >= 16)
            memcpy(o, p, 16);
        else
            memcpy(o, p, len);
        p += len, o += len;
        if (p == end) break; /* the last sequence has no copy */
        if (end - p < 2) return "it ends within a distance";
        size_t back = (size_t)p[0] | (size_t)p[1] << 8;
        p += 2;
        len = (token & 15) + 4;
        if (len == 19 && !lz4_length(&p, end, &len)) return "it ends within a length";
        if (back == 0 || back > (size_t)(o - dst)) return "a copy begins before the page";
        if ((size_t)(o_end - o) < len) return "more comes out than the page header says";
        copy_back(o, back, len, (size_t)(o_end - o));
        o += len;
    }
    return o == o_end ? NULL : "less comes out than the page header says";
}

#ifdef NS_HAVE_ZLIB
static const char *unpack_gzip(const uint8_t *p, size_t n, uint8_t *dst, size_t raw_size)
{
    z_stream z = {0};
    uint8_t none;
    if (inflateInit2(&z, 32 + MAX_WBITS) != Z_OK) return "zlib does not start"; /* gzip or zlib header */
    z.next_in = (Bytef *)(uintptr_t)p;                                          /* zlib only reads it */
    z.avail_in = (uInt)n;
    z.next_out = raw_size ? dst : &none;
    z.avail_out = (uInt)raw_size;
    int rc;
    do {
        rc = inflate(&z, Z_FINISH);
        if (rc == Z_STREAM_END && z.avail_in > 0 && inflateReset(&z) == Z_OK) rc = Z_OK; /* another member */
    } while (rc == Z_OK && z.avail_in > 0);
    uInt in_left = z.avail_in, out_left = z.avail_out;
    inflateEnd(&z);
    if (rc == Z_BUF_ERROR && in_left == 0) return "it ends within its data";
    if (rc == Z_BUF_ERROR) return "more comes out than the page header says";
    if (rc != Z_STREAM_END) return "inflate fails";
    return out_left == 0 ? NULL : "less comes out than the page header says";
}
#endif

const char *pq_unpack(int codec, const uint8_t *p, size_t n, uint8_t *dst, size_t raw_size)
{
    switch (codec) {
    case PQ_SNAPPY: return unpack_snappy(p, n, dst, raw_size);
    case PQ_LZ4_RAW: return unpack_lz4(p, n, dst, raw_size);
#ifdef NS_HAVE_ZLIB
    case PQ_GZIP: return unpack_gzip(p, n, dst, raw_size);
#endif
#ifdef NS_HAVE_ZSTD
    case PQ_ZSTD: {
        size_t k = ZSTD_decompress(dst, raw_size, p, n);
        if (ZSTD_isError(k)) return ZSTD_getErrorName(k);
        return k == raw_size ? NULL : "less comes out than the page header says";
    }
#endif
    default: return "this build cannot read it";
    }
}

/* ---- CRC-32 (IEEE 802.3), eight bytes a step ---- */
void pq_crc32_init(uint32_t table[8][256])
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
        table[0][i] = c;
    }
    for (int k = 1; k < 8; k++)
        for (int i = 0; i < 256; i++) table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xff];
}

uint32_t pq_crc32(const uint32_t t[8][256], const uint8_t *p, size_t n)
{
    uint32_t c = ~0u;
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t a = c ^ pq_u32(p), b = pq_u32(p + 4);
        c = t[7][a & 0xff] ^ t[6][a >> 8 & 0xff] ^ t[5][a >> 16 & 0xff] ^ t[4][a >> 24] ^ t[3][b & 0xff] ^
            t[2][b >> 8 & 0xff] ^ t[1][b >> 16 & 0xff] ^ t[0][b >> 24];
    }
    while (n-- > 0) c = c >> 8 ^ t[0][(c ^ *p++) & 0xff];
    return ~c;
}
