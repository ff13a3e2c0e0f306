/* Inside of the Parquet reader: what its files share.
 *
 *   footer ─meta─▶ schema elements, row groups ─schema─▶ tree of nodes, columns
 *   column chunk ─column─▶ pages ─codec─▶ levels (rle) and values (values) ─row, text─▶ a line of JSON
 *
 * Format: parquet-format 2.11 (parquet.thrift, Encodings.md, LogicalTypes.md). */
#ifndef NS_BASE_PARQUET_PRIV_H
#define NS_BASE_PARQUET_PRIV_H

#include <stdint.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/parquet/parquet.h"

/* ---- numbers of the format ---- */
enum { PQ_BOOLEAN, PQ_INT32, PQ_INT64, PQ_INT96, PQ_FLOAT, PQ_DOUBLE, PQ_BYTE_ARRAY, PQ_FIXED, PQ_N_TYPES };
enum { PQ_REQUIRED, PQ_OPTIONAL, PQ_REPEATED };
enum { PQ_DATA, PQ_INDEX, PQ_DICTIONARY, PQ_DATA_V2 }; /* pages */
enum {
    PQ_PLAIN = 0,
    PQ_PLAIN_DICTIONARY = 2,
    PQ_RLE = 3,
    PQ_BIT_PACKED = 4,
    PQ_DELTA_BINARY_PACKED = 5,
    PQ_DELTA_LENGTH_BYTE_ARRAY = 6,
    PQ_DELTA_BYTE_ARRAY = 7,
    PQ_RLE_DICTIONARY = 8,
    PQ_BYTE_STREAM_SPLIT = 9
};
enum { PQ_NONE, PQ_SNAPPY, PQ_GZIP, PQ_LZO, PQ_BROTLI, PQ_LZ4, PQ_ZSTD, PQ_LZ4_RAW };
enum { PQ_MILLI, PQ_MICRO, PQ_NANO }; /* units of time */
const char *pq_type_name(int type);
const char *pq_codec_name(int codec);
const char *pq_encoding_name(int encoding);

/* What a column's bytes mean, from logical or converted type. */
typedef enum pq_meaning {
    PQ_AS_BOOL,
    PQ_AS_INT,
    PQ_AS_UINT,
    PQ_AS_FLOAT,
    PQ_AS_HALF,
    PQ_AS_TEXT,
    PQ_AS_BYTES, /* not annotated: text where it is UTF-8, else refused */
    PQ_AS_JSON,
    PQ_AS_DECIMAL,
    PQ_AS_DATE,
    PQ_AS_TIME,
    PQ_AS_TIMESTAMP,
    PQ_AS_INT96,
    PQ_AS_UUID,
    PQ_AS_NULL
} pq_meaning;

/* ---- bytes of the file ---- */
typedef struct pq_source {
    int fd;
    const uint8_t *mem; /* instead of fd */
    uint64_t size;
    const char *name;
} pq_source;
NS_MUST_USE ns_status pq_read(const pq_source *s, uint64_t at, void *dst, size_t n, ns_error *err);

static inline uint32_t pq_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t pq_u64(const uint8_t *p)
{
    return pq_u32(p) | (uint64_t)pq_u32(p + 4) << 32;
}

/* ---- directory (parquet_meta.c): Thrift, compact protocol ---- */
typedef struct pq_element { /* of the schema; numbers are -1 where the file has none */
    ns_str name;            /* in the footer's bytes */
    int64_t type, length, repetition, n_children, converted, scale, precision;
    int64_t logical, unit, utc, bits, is_signed; /* logical: field number of the union LogicalType */
} pq_element;
typedef struct pq_chunk { /* of a column in a row group */
    int64_t type, codec, n_values, packed_bytes, data_at, dict_at;
    ns_str path; /* n_path names as Thrift binaries */
    int64_t n_path;
    uint8_t has_meta, encrypted, elsewhere;
} pq_chunk;
typedef struct pq_group {
    int64_t n_rows;
    size_t n_chunks;
    pq_chunk *chunk;
} pq_group;
typedef struct pq_meta {
    size_t n_elements, n_groups;
    pq_element *element;
    pq_group *group;
    int64_t n_rows;
    int encrypted;
} pq_meta;
/* at: offset of p in the file, for messages. */
NS_MUST_USE ns_status pq_meta_parse(pq_meta *out, ns_arena *a, const uint8_t *p, size_t n, const char *name,
                                    uint64_t at, ns_error *err);
/* Is path (n names as Thrift binaries) "a.b.c"? */
int pq_path_is(ns_str path, int64_t n, const char *text);

typedef struct pq_page { /* header */
    int64_t type, raw_size, packed_size, n_values, encoding, def_encoding, rep_encoding;
    int64_t def_bytes, rep_bytes; /* v2 */
    uint32_t crc;
    uint8_t has_crc, has_part, is_packed;
} pq_page;
/* *used: bytes of the header. 0: good; 1: needs more bytes than n; -1: damaged, *why says how. */
int pq_page_parse(pq_page *out, const uint8_t *p, size_t n, size_t *used, const char **why);

/* ---- codecs (parquet_codec.c) ---- */
/* Exactly raw_size bytes into dst. NULL: done, else what is wrong. */
const char *pq_unpack(int codec, const uint8_t *p, size_t n, uint8_t *dst, size_t raw_size);
int pq_codec_can(int codec);                        /* in this build */
uint64_t pq_codec_most(int codec, uint64_t packed); /* more bytes than this cannot come out */
uint32_t pq_crc32(const uint32_t table[8][256], const uint8_t *p, size_t n);
void pq_crc32_init(uint32_t table[8][256]);

/* ---- encodings (parquet_values.c) ---- */
typedef struct pq_rle { /* hybrid of runs and bit-packed groups of 8 */
    const uint8_t *p, *end;
    uint64_t run; /* values left of it */
    uint32_t value, lit[8];
    unsigned width;
    int n_lit, lit_at, packed;
} pq_rle;
void pq_rle_init(pq_rle *r, const uint8_t *p, const uint8_t *end, unsigned width);
int pq_rle_refill(pq_rle *r); /* 0: nothing is left, or damaged */
static inline int pq_rle_next(pq_rle *r, uint32_t *out)
{
    if (r->lit_at < r->n_lit) {
        *out = r->lit[r->lit_at++];
        return 1;
    }
    if (r->packed || r->run == 0) {
        if (!pq_rle_refill(r)) return 0;
        if (r->packed) {
            *out = r->lit[r->lit_at++];
            return 1;
        }
    }
    r->run--;
    *out = r->value;
    return 1;
}

typedef struct pq_delta {
    const uint8_t *p, *end, *widths, *mini; /* mini: the miniblock in hand */
    uint64_t left, per_mini, n_minis, mini_at, mini_left, bit, mini_bits;
    uint64_t value, min_delta;
    unsigned width;
    int first;
} pq_delta;

/* Values of one page, one after the other, each as its little-endian bytes (BOOLEAN: one byte). */
typedef struct pq_values {
    int encoding, type, started;
    size_t width; /* bytes of a value, 0: BYTE_ARRAY */
    const uint8_t *p, *end;
    unsigned bit; /* BOOLEAN, plain */
    pq_rle rle;
    const ns_str *dict;
    size_t n_dict;
    pq_delta ints, lengths; /* ints: numbers, or lengths of prefixes */
    size_t n_split, split_at;
    uint8_t *scratch; /* previous value of DELTA_BYTE_ARRAY, or a gathered one */
    size_t scratch_cap, scratch_n;
    uint8_t tmp[8];
    char wrong[120]; /* why the last call failed */
} pq_values;
/* scratch stays for the next page; free it with ns_free(v->scratch). Err: memory. */
NS_MUST_USE ns_status pq_values_init(pq_values *v, int encoding, const uint8_t *p, const uint8_t *end, ns_error *err);
int pq_values_next(pq_values *v, ns_str *out); /* 0: v->wrong */

/* ---- columns (parquet_column.c) ---- */
typedef struct pq_column {
    const pq_source *src;
    const uint32_t (*crc_table)[256];
    char *path; /* "messages.list.element.role" */
    int type, scale, unit, utc;
    pq_meaning as;
    uint8_t max_def, max_rep;
    size_t width;
    /* the chunk */
    int codec;
    uint64_t at, end; /* of the bytes in `in`, of the chunk */
    int64_t values_left;
    uint64_t page_at; /* offset of the page in hand, for messages */
    int64_t page_left;
    int has_dict;
    /* the entry in hand */
    int have, def, rep;
    /* buffers */
    uint8_t *in, *raw, *dict_raw;
    size_t in_cap, in_n, in_used, raw_cap, dict_raw_cap, dict_cap, n_dict;
    ns_str *dict;
    pq_rle defs, reps;
    pq_values values;
    uint64_t bytes_read;
} pq_column;
NS_MUST_USE ns_status pq_column_begin(pq_column *c, const pq_chunk *chunk, uint64_t data_end, ns_error *err);
NS_MUST_USE ns_status pq_column_next_page(pq_column *c, ns_error *err);
NS_MUST_USE ns_status pq_column_level_error(const pq_column *c, const char *which, uint32_t level, unsigned most,
                                            ns_error *err);
void pq_column_free(pq_column *c);
/* "name: column 'path', page at byte N: " and what is said. */
ns_status pq_column_fail(const pq_column *c, ns_status code, ns_error *err, const char *file, int line, const char *fmt,
                         ...) NS_PRINTF(6, 7);
#define PQ_FAIL_IF(c, cond, code, ...)                                                      \
    do {                                                                                    \
        if (cond) return pq_column_fail((c), (code), err, __FILE__, __LINE__, __VA_ARGS__); \
    } while (0)

/* To the next entry: its levels in c->rep, c->def. At the end of the chunk c->have is 0. */
static inline ns_status pq_column_advance(pq_column *c, ns_error *err)
{
    uint32_t level;
    if (c->page_left == 0) {
        while (c->page_left == 0 && c->values_left > 0) NS_TRY(pq_column_next_page(c, err), "%s", "");
        if (c->page_left == 0) {
            c->have = 0;
            return NS_OK;
        }
    }
    c->page_left--;
    c->values_left--;
    if (c->max_rep) {
        if (!pq_rle_next(&c->reps, &level)) return pq_column_level_error(c, "repetition", UINT32_MAX, 0, err);
        if (level > c->max_rep) return pq_column_level_error(c, "repetition", level, c->max_rep, err);
        c->rep = (int)level;
    }
    if (c->max_def) {
        if (!pq_rle_next(&c->defs, &level)) return pq_column_level_error(c, "definition", UINT32_MAX, 0, err);
        if (level > c->max_def) return pq_column_level_error(c, "definition", level, c->max_def, err);
        c->def = (int)level;
    }
    return NS_OK;
}

/* ---- schema (parquet_schema.c) ---- */
enum { PQ_MAX_DEPTH = 100 };
typedef struct pq_node {
    enum { PQ_LEAF, PQ_STRUCT, PQ_LIST, PQ_MAP, PQ_PAIRS } kind; /* PQ_PAIRS: a map whose keys are not text */
    int optional;
    uint8_t def;                /* definition level from which the value itself is there */
    uint8_t item_def, item_rep; /* LIST, MAP: levels of an item */
    size_t first_leaf, n_leaves;
    size_t n;
    struct pq_node *child; /* STRUCT: fields; LIST: the item; MAP, PAIRS: key and value */
    ns_str key;            /* of a field: `"name": ` */
} pq_node;
/* Columns are allocated with room for every leaf. */
NS_MUST_USE ns_status pq_schema_build(pq_node *root, pq_column **columns, size_t *n_columns, const pq_meta *m,
                                      ns_arena *a, const char *name, ns_error *err);

/* ---- JSON ---- */
NS_MUST_USE ns_status pq_write_value(const pq_column *c, ns_str bytes, ns_buf *out, ns_arena *scratch, ns_error *err);
/* One row of the file; columns stand on its first entries, and afterwards on those of the next. */
NS_MUST_USE ns_status pq_write_row(const pq_node *root, pq_column *columns, size_t longest, ns_buf *out,
                                   ns_arena *scratch, ns_error *err);

#endif
