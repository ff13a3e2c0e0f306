/* A column chunk of Parquet as a stream of entries: reads page after page, checks and unpacks it, and sets up its levels
 * and values.
 *
 * Invariants: `in` holds the file's bytes [at, at + in_n); the page in hand is its first in_used of them and stays in place until the
 * next page is asked for. No page reaches beyond the chunk, no page's values beyond what the chunk promises. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/parquet/parquet_priv.h"

enum { READ_AHEAD = 1 << 16, MAX_HEADER = 1 << 24 };

ns_status pq_column_fail(const pq_column *c, ns_status code, ns_error *err, const char *file, int line, const char *fmt,
                         ...)
{
    char what[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return ns_error_set(err, code, file, line, "%.120s: column '%.120s', page at byte %" PRIu64 ": %s", c->src->name,
                        c->path, c->page_at, what);
}

ns_status pq_column_level_error(const pq_column *c, const char *which, uint32_t level, unsigned most, ns_error *err)
{
    PQ_FAIL_IF(c, level == UINT32_MAX, NS_ERR_INPUT,
               "its %s levels end before its values do: the file is damaged, copy or write it again", which);
    PQ_FAIL_IF(c, 1, NS_ERR_INPUT,
               "found %s level %" PRIu32 ", expected at most %u: the file is damaged, copy or write it again", which,
               level, most);
}

void pq_column_free(pq_column *c)
{
    ns_free(c->in);
    ns_free(c->raw);
    ns_free(c->dict_raw);
    ns_free(c->dict);
    ns_free(c->values.scratch);
}

ns_status pq_column_begin(pq_column *c, const pq_chunk *k, uint64_t data_end, ns_error *err)
{
    int64_t from = k->dict_at > 0 && k->dict_at < k->data_at ? k->dict_at : k->data_at;
    c->page_at = from < 0 ? 0 : (uint64_t)from;
    PQ_FAIL_IF(c, k->encrypted, NS_ERR_UNSUPPORTED, "it is encrypted, which is not read: write it without encryption");
    PQ_FAIL_IF(c, k->elsewhere, NS_ERR_UNSUPPORTED, "its data lie in another file, which is not read: write one file");
    PQ_FAIL_IF(c, !k->has_meta, NS_ERR_INPUT, "the directory says nothing about it: the file is damaged");
    PQ_FAIL_IF(c, k->type != c->type, NS_ERR_INPUT, "found type %s in its row group, expected %s of the schema",
               pq_type_name((int)k->type), pq_type_name(c->type));
    PQ_FAIL_IF(c, !pq_path_is(k->path, k->n_path, c->path), NS_ERR_INPUT,
               "its place in the row group is taken by another column: the file is damaged");
    PQ_FAIL_IF(c, k->codec < 0 || k->codec > PQ_LZ4_RAW || !pq_codec_can((int)k->codec), NS_ERR_UNSUPPORTED,
               "it is packed with codec %" PRId64
               " (%s), expected uncompressed, snappy, gzip, zstd or lz4_raw%s: write "
               "it with one of these",
               k->codec, pq_codec_name((int)k->codec),
               k->codec == PQ_GZIP   ? " (and this build has no zlib: build where zlib1g-dev is installed)"
               : k->codec == PQ_ZSTD ? " (and this build has no libzstd: build where libzstd-dev is installed)"
                                     : "");
    PQ_FAIL_IF(c,
               from < 4 || k->packed_bytes < 0 || (uint64_t)from > data_end ||
                   (uint64_t)k->packed_bytes > data_end - (uint64_t)from,
               NS_ERR_INPUT,
               "found %" PRId64 " bytes from byte %" PRId64 " on, expected them between byte 4 and %" PRIu64
               ": the file is cut short or damaged, copy it again",
               k->packed_bytes, from, data_end);
    PQ_FAIL_IF(c, k->n_values < 0, NS_ERR_INPUT, "found %" PRId64 " values, expected a number", k->n_values);
    c->codec = (int)k->codec;
    c->at = (uint64_t)from;
    c->end = c->at + (uint64_t)k->packed_bytes;
    c->values_left = k->n_values;
    c->page_left = 0;
    c->has_dict = 0;
    c->n_dict = 0;
    c->in_n = c->in_used = 0;
    c->have = 1;
    c->def = c->rep = 0;
    return pq_column_advance(c, err);
}

/* Makes `in` hold at least n bytes; the caller knows that the chunk has them. */
static ns_status ensure(pq_column *c, uint64_t n, ns_error *err)
{
    uint64_t left = c->end - c->at, to = n > READ_AHEAD ? n : left < READ_AHEAD ? left : READ_AHEAD;
    if (c->in_n >= n) return NS_OK;
    NS_TRY(ns_grow((void **)&c->in, &c->in_cap, (size_t)to, 1, "parquet.page", err), "page");
    NS_TRY(pq_read(c->src, c->at + c->in_n, c->in + c->in_n, (size_t)to - c->in_n, err), "column %.60s", c->path);
    c->bytes_read += to - c->in_n;
    c->in_n = (size_t)to;
    return NS_OK;
}

static ns_status read_header(pq_column *c, pq_page *h, size_t *used, ns_error *err)
{
    uint64_t left = c->end - c->at, n = left < 256 ? left : 256;
    const char *why = NULL;
    int rc = 1;
    while (rc > 0) {
        NS_TRY(ensure(c, n, err), "page header");
        rc = pq_page_parse(h, c->in, c->in_n, used, &why);
        if (rc > 0 && (c->in_n >= left || c->in_n >= MAX_HEADER)) rc = -1; /* statistics may make it long */
        n = c->in_n * 2 < left ? c->in_n * 2 : left;
    }
    PQ_FAIL_IF(c, rc < 0, NS_ERR_INPUT, "found a damaged page header (%s): copy or write the file again", why);
    PQ_FAIL_IF(c, (uint64_t)h->packed_size > left - *used, NS_ERR_INPUT,
               "found a page of %" PRId64 " bytes, expected at most the %" PRIu64
               " that are left of its column: the file is damaged, copy it again",
               h->packed_size, left - *used);
    return NS_OK;
}

/* *out: raw_size bytes, in *buf or in place. */
static ns_status unpack(pq_column *c, const uint8_t *p, size_t n, int packed, uint64_t raw_size, uint8_t **buf,
                        size_t *cap, const uint8_t **out, ns_error *err)
{
    if (!packed || c->codec == PQ_NONE) {
        PQ_FAIL_IF(c, raw_size != n, NS_ERR_INPUT,
                   "found %zu bytes that are not compressed, expected %" PRIu64 ": the file is damaged", n, raw_size);
        *out = p;
        return NS_OK;
    }
    NS_TRY(ns_grow((void **)buf, cap, raw_size > 0 ? (size_t)raw_size : 1, 1, "parquet.raw", err), "page");
    *out = *buf;
    if (raw_size == 0) return NS_OK; /* some writers pack nothing into nothing */
    PQ_FAIL_IF(c, raw_size > pq_codec_most(c->codec, n), NS_ERR_INPUT,
               "found %" PRIu64 " bytes said to be packed with %s into %zu, which is impossible: the file is damaged",
               raw_size, pq_codec_name(c->codec), n);
    const char *why = pq_unpack(c->codec, p, n, *buf, (size_t)raw_size);
    PQ_FAIL_IF(c, why, NS_ERR_INPUT, "found damaged %s data (%s): copy or write the file again",
               pq_codec_name(c->codec), why);
    return NS_OK;
}

static ns_status read_dictionary(pq_column *c, const pq_page *h, const uint8_t *body, ns_error *err)
{
    const uint8_t *p;
    PQ_FAIL_IF(c, c->has_dict, NS_ERR_INPUT, "found a second dictionary in the column, expected one");
    PQ_FAIL_IF(c, h->encoding != PQ_PLAIN && h->encoding != PQ_PLAIN_DICTIONARY, NS_ERR_UNSUPPORTED,
               "found a dictionary with encoding %" PRId64 " (%s), expected PLAIN", h->encoding,
               pq_encoding_name((int)h->encoding));
    PQ_FAIL_IF(c, c->type == PQ_BOOLEAN, NS_ERR_INPUT, "found a dictionary of booleans, which the format excludes");
    NS_TRY(unpack(c, body, (size_t)h->packed_size, 1, (uint64_t)h->raw_size, &c->dict_raw, &c->dict_raw_cap, &p, err),
           "dictionary");
    uint64_t least = (uint64_t)h->n_values * (c->width ? c->width : 4);
    PQ_FAIL_IF(c, least > (uint64_t)h->raw_size, NS_ERR_INPUT,
               "found a dictionary of %" PRId64 " values in %" PRId64 " bytes, expected at least %" PRIu64
               " bytes: the file is damaged",
               h->n_values, h->raw_size, least);
    if (p != c->dict_raw) { /* not compressed: `in` moves on */
        NS_TRY(ns_grow((void **)&c->dict_raw, &c->dict_raw_cap, (size_t)h->raw_size + 1, 1, "parquet.raw", err),
               "page");
        memcpy(c->dict_raw, p, (size_t)h->raw_size);
    }
    NS_TRY(
        ns_grow((void **)&c->dict, &c->dict_cap, (size_t)h->n_values + 1, sizeof *c->dict, "parquet.dictionary", err),
        "dictionary");
    pq_values *v = &c->values;
    NS_TRY(pq_values_init(v, PQ_PLAIN, c->dict_raw, c->dict_raw + h->raw_size, err), "dictionary");
    for (int64_t i = 0; i < h->n_values; i++)
        PQ_FAIL_IF(c, !pq_values_next(v, &c->dict[i]), NS_ERR_INPUT,
                   "dictionary value %" PRId64 ": %s: the file is damaged", i, v->wrong);
    c->n_dict = (size_t)h->n_values;
    c->has_dict = 1;
    return NS_OK;
}

/* Does the type have the encoding? */
static int fits(const pq_column *c, int64_t encoding)
{
    int number = c->type == PQ_INT32 || c->type == PQ_INT64;
    switch (encoding) {
    case PQ_PLAIN: return 1;
    case PQ_PLAIN_DICTIONARY:
    case PQ_RLE_DICTIONARY: return c->type != PQ_BOOLEAN;
    case PQ_RLE: return c->type == PQ_BOOLEAN;
    case PQ_DELTA_BINARY_PACKED: return number;
    case PQ_DELTA_LENGTH_BYTE_ARRAY: return c->type == PQ_BYTE_ARRAY;
    case PQ_DELTA_BYTE_ARRAY: return c->type == PQ_BYTE_ARRAY || c->type == PQ_FIXED;
    case PQ_BYTE_STREAM_SPLIT: return number || c->type == PQ_FLOAT || c->type == PQ_DOUBLE || c->type == PQ_FIXED;
    default: return 0;
    }
}

static unsigned bits_for(unsigned most)
{
    unsigned n = 0;
    for (; most; most >>= 1) n++;
    return n;
}

/* Levels of a page v1: a length, then the runs. */
static ns_status levels_v1(pq_column *c, pq_rle *r, unsigned most, int64_t encoding, const char *which,
                           const uint8_t **p, const uint8_t *end, ns_error *err)
{
    if (most == 0) return NS_OK;
    PQ_FAIL_IF(c, encoding != PQ_RLE, NS_ERR_UNSUPPORTED,
               "found %s levels with encoding %" PRId64 " (%s), expected RLE: write the file with a newer writer",
               which, encoding, pq_encoding_name((int)encoding));
    uint64_t left = (uint64_t)(end - *p), n = left >= 4 ? pq_u32(*p) : 0;
    PQ_FAIL_IF(c, left < 4 || n > left - 4, NS_ERR_INPUT,
               "found %" PRIu64 " bytes of %s levels, expected at most the %" PRIu64
               " of the page: the file is damaged",
               n, which, left);
    pq_rle_init(r, *p + 4, *p + 4 + n, bits_for(most));
    *p += 4 + n;
    return NS_OK;
}

static ns_status open_data(pq_column *c, const pq_page *h, const uint8_t *body, ns_error *err)
{
    const uint8_t *p, *end;
    size_t n = (size_t)h->packed_size;
    PQ_FAIL_IF(c, !fits(c, h->encoding), NS_ERR_UNSUPPORTED,
               "found encoding %" PRId64
               " (%s) of %s values, which is not read: write the file with plain or dictionary "
               "encoding",
               h->encoding, pq_encoding_name((int)h->encoding), pq_type_name(c->type));
    int dict = h->encoding == PQ_PLAIN_DICTIONARY || h->encoding == PQ_RLE_DICTIONARY;
    PQ_FAIL_IF(c, dict && !c->has_dict, NS_ERR_INPUT, "found dictionary indices without a dictionary before them");
    PQ_FAIL_IF(c, h->n_values > c->values_left, NS_ERR_INPUT,
               "found %" PRId64 " values, expected at most the %" PRId64 " that are left of the column's", h->n_values,
               c->values_left);
    if (h->type == PQ_DATA_V2) {
        int64_t levels = h->def_bytes + h->rep_bytes;
        PQ_FAIL_IF(c,
                   h->def_bytes < 0 || h->rep_bytes < 0 || h->def_bytes > h->packed_size ||
                       h->rep_bytes > h->packed_size || levels > h->packed_size || levels > h->raw_size,
                   NS_ERR_INPUT,
                   "found %" PRId64 " and %" PRId64 " bytes of levels in a page of %" PRId64 ": the file is damaged",
                   h->rep_bytes, h->def_bytes, h->packed_size);
        pq_rle_init(&c->reps, body, body + h->rep_bytes, bits_for(c->max_rep));
        pq_rle_init(&c->defs, body + h->rep_bytes, body + levels, bits_for(c->max_def));
        uint64_t raw_size = (uint64_t)(h->raw_size - levels);
        NS_TRY(unpack(c, body + levels, n - (size_t)levels, h->is_packed, raw_size, &c->raw, &c->raw_cap, &p, err),
               "page");
        end = p + raw_size;
    } else {
        NS_TRY(unpack(c, body, n, 1, (uint64_t)h->raw_size, &c->raw, &c->raw_cap, &p, err), "page");
        end = p + h->raw_size;
        NS_TRY(levels_v1(c, &c->reps, c->max_rep, h->rep_encoding, "repetition", &p, end, err), "page");
        NS_TRY(levels_v1(c, &c->defs, c->max_def, h->def_encoding, "definition", &p, end, err), "page");
    }
    c->values.dict = c->dict;
    c->values.n_dict = c->n_dict;
    c->page_left = h->n_values;
    return pq_values_init(&c->values, (int)h->encoding, p, end, err);
}

ns_status pq_column_next_page(pq_column *c, ns_error *err)
{
    pq_page h;
    size_t used;
    for (;;) {
        c->at += c->in_used;
        c->in_n -= c->in_used;
        if (c->in_used) memmove(c->in, c->in + c->in_used, c->in_n);
        c->in_used = 0;
        c->page_at = c->at;
        PQ_FAIL_IF(c, c->at == c->end, NS_ERR_INPUT,
                   "the column's bytes end and %" PRId64 " values are missing: the file is damaged", c->values_left);
        NS_TRY(read_header(c, &h, &used, err), "%s", "");
        NS_TRY(ensure(c, used + (uint64_t)h.packed_size, err), "%s", "");
        c->in_used = used + (size_t)h.packed_size;
        const uint8_t *body = c->in + used;
        uint32_t crc = h.has_crc ? pq_crc32(c->crc_table, body, (size_t)h.packed_size) : 0;
        PQ_FAIL_IF(c, crc != h.crc, NS_ERR_INPUT,
                   "found checksum %08" PRIx32 ", expected %08" PRIx32 ": the file is damaged, copy it again", crc,
                   h.crc);
        if (h.type == PQ_DATA || h.type == PQ_DATA_V2) return open_data(c, &h, body, err);
        if (h.type == PQ_DICTIONARY) NS_TRY(read_dictionary(c, &h, body, err), "%s", "");
        PQ_FAIL_IF(c, h.type > PQ_DATA_V2, NS_ERR_UNSUPPORTED, "found a page of type %" PRId64 ", which is not known",
                   h.type);
    }
}
