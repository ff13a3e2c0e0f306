/* Encodings of Parquet: levels and dictionary indices (hybrid of runs and bit-packed groups), and the values of a page.
 *
 * Everything is decoded value by value from the page's bytes, so that memory does not grow with the counts that a file
 * claims: a run of 2^31 nulls is a few bytes in the file and a few here. Source: parquet-format, Encodings.md. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/parquet/parquet_priv.h"

const char *pq_encoding_name(int e)
{
    static const char *const names[] = {
        "PLAIN",          "GROUP_VAR_INT",       "PLAIN_DICTIONARY",        "RLE",
        "BIT_PACKED",     "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY",
        "RLE_DICTIONARY", "BYTE_STREAM_SPLIT"};
    return e >= 0 && e < 10 ? names[e] : "unknown";
}

/* LEB128. 0: the bytes end, or more than 64 bits. */
static int varint(const uint8_t **p, const uint8_t *end, uint64_t *out)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && *p < end; shift += 7) {
        uint8_t b = *(*p)++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            *out = v;
            return 1;
        }
    }
    return 0;
}

/* `width` bits (0 to 64) from bit `at` on; all of them lie before end. */
static inline uint64_t bits_at(const uint8_t *p, const uint8_t *end, uint64_t at, unsigned width)
{
    if (width == 0) return 0;
    p += at >> 3;
    unsigned shift = at & 7;
    uint64_t v = 0;
    if (end - p >= 9) {
        v = pq_u64(p) >> shift;
        if (shift) v |= (uint64_t)p[8] << (64 - shift);
    } else {
        size_t n = (shift + width + 7) / 8;
        for (size_t i = 0; i < n && i < 8; i++) v |= (uint64_t)p[i] << (8 * i);
        v >>= shift;
        if (n == 9) v |= (uint64_t)p[8] << (64 - shift);
    }
    return width == 64 ? v : v & ((UINT64_C(1) << width) - 1);
}

/* ---- runs and bit-packed groups ---- */
void pq_rle_init(pq_rle *r, const uint8_t *p, const uint8_t *end, unsigned width)
{
    *r = (pq_rle){.p = p, .end = end, .width = width};
}

/* One group of eight, or what there is of a last one. */
static int unpack_group(pq_rle *r)
{
    uint64_t have = (uint64_t)(r->end - r->p);
    if (have > r->width) have = r->width;
    r->n_lit = r->width ? (int)(have * 8 / r->width) : 8;
    r->lit_at = 0;
    if (r->n_lit > 8) r->n_lit = 8;
    for (int i = 0; i < r->n_lit; i++) r->lit[i] = (uint32_t)bits_at(r->p, r->end, (uint64_t)i * r->width, r->width);
    r->p += have;
    r->run--;
    return r->n_lit > 0;
}

int pq_rle_refill(pq_rle *r)
{
    uint64_t head;
    if (r->packed && r->run > 0) return unpack_group(r);
    do {
        if (!varint(&r->p, r->end, &head)) return 0;
        r->run = head >> 1;
        r->packed = head & 1;
        r->n_lit = r->lit_at = 0;
        if (!r->packed) {
            size_t n = (r->width + 7) / 8;
            if ((size_t)(r->end - r->p) < n) {
                r->run = 0;
                return 0;
            }
            r->value = 0;
            for (size_t i = 0; i < n; i++) r->value |= (uint32_t)r->p[i] << (8 * i);
            r->p += n;
        }
    } while (r->run == 0);
    return r->packed ? unpack_group(r) : 1;
}

/* ---- DELTA_BINARY_PACKED ---- */
static const char delta_short[] = "its delta blocks end early or are damaged";

static int delta_init(pq_delta *d, const uint8_t *p, const uint8_t *end)
{
    uint64_t block, minis, total, first;
    *d = (pq_delta){.p = p, .end = end, .first = 1};
    if (!varint(&d->p, end, &block) || !varint(&d->p, end, &minis) || !varint(&d->p, end, &total) ||
        !varint(&d->p, end, &first))
        return 0;
    if (minis == 0 || block == 0 || block > INT32_MAX || block % minis || block / minis % 8) return 0;
    d->per_mini = block / minis;
    d->n_minis = d->mini_at = minis;
    d->left = total;
    d->value = first >> 1 ^ (0 - (first & 1));
    return 1;
}

/* To the next miniblock. */
static int delta_mini(pq_delta *d)
{
    uint64_t min;
    if (d->mini_at == d->n_minis) {
        if (!varint(&d->p, d->end, &min) || (uint64_t)(d->end - d->p) < d->n_minis) return 0;
        d->min_delta = min >> 1 ^ (0 - (min & 1));
        d->widths = d->p;
        d->p += d->n_minis;
        d->mini_at = 0;
    }
    d->width = d->widths[d->mini_at++];
    uint64_t n = d->per_mini / 8 * d->width, have = (uint64_t)(d->end - d->p);
    if (d->width > 64) return 0;
    if (n > have) n = have; /* a last one may be cut behind its values; each is looked at below */
    d->mini = d->p;
    d->bit = 0;
    d->mini_bits = n * 8;
    d->mini_left = d->per_mini;
    d->p += n;
    return 1;
}

static int delta_next(pq_delta *d, int64_t *out)
{
    if (d->left == 0) return 0;
    d->left--;
    if (d->first) {
        d->first = 0;
    } else {
        if (d->mini_left == 0 && !delta_mini(d)) return 0;
        if (d->mini_bits - d->bit < d->width) return 0;
        d->value += d->min_delta + bits_at(d->mini, d->p, d->bit, d->width);
        d->bit += d->width;
        d->mini_left--;
    }
    *out = (int64_t)d->value;
    return 1;
}

/* Where the bytes behind the blocks begin; NULL: damaged. */
static const uint8_t *delta_end(const pq_delta *from)
{
    pq_delta d = *from;
    uint64_t left = d.left ? d.left - 1 : 0;
    while (left > 0) {
        if (!delta_mini(&d)) return NULL;
        if (d.mini_bits != d.per_mini * d.width) return NULL;
        left -= left < d.per_mini ? left : d.per_mini;
    }
    return d.p;
}

/* ---- values ---- */
ns_status pq_values_init(pq_values *v, int encoding, const uint8_t *p, const uint8_t *end, ns_error *err)
{
    v->encoding = encoding;
    v->started = 0;
    v->p = p;
    v->end = end;
    v->bit = 0;
    v->scratch_n = 0;
    if (encoding == PQ_DELTA_BYTE_ARRAY || encoding == PQ_BYTE_STREAM_SPLIT) /* no value is longer than the page */
        NS_TRY(ns_grow((void **)&v->scratch, &v->scratch_cap, (size_t)(end - p) + 1, 1, "parquet.value", err), "value");
    return NS_OK;
}

static int wrong(pq_values *v, const char *why)
{
    snprintf(v->wrong, sizeof v->wrong, "%s", why);
    return 0;
}

/* The first value is asked for: a page of nulls has no bytes at all. */
static int start(pq_values *v)
{
    v->started = 1;
    switch (v->encoding) {
    case PQ_PLAIN_DICTIONARY:
    case PQ_RLE_DICTIONARY:
        if (v->p == v->end || *v->p > 32) return wrong(v, "found no possible width of dictionary indices");
        pq_rle_init(&v->rle, v->p + 1, v->end, *v->p);
        return 1;
    case PQ_RLE: /* BOOLEAN: a length before it */
        if (v->end - v->p < 4 || pq_u32(v->p) > (uint64_t)(v->end - v->p - 4))
            return wrong(v, "found a run-length block that is longer than the page");
        pq_rle_init(&v->rle, v->p + 4, v->p + 4 + pq_u32(v->p), 1);
        return 1;
    case PQ_DELTA_BINARY_PACKED: return delta_init(&v->ints, v->p, v->end) ? 1 : wrong(v, delta_short);
    case PQ_DELTA_LENGTH_BYTE_ARRAY:
        if (!delta_init(&v->lengths, v->p, v->end) || !(v->p = delta_end(&v->lengths))) return wrong(v, delta_short);
        return 1;
    case PQ_DELTA_BYTE_ARRAY:
        if (!delta_init(&v->ints, v->p, v->end) || !(v->p = delta_end(&v->ints)) ||
            !delta_init(&v->lengths, v->p, v->end) || !(v->p = delta_end(&v->lengths)))
            return wrong(v, delta_short);
        return 1;
    case PQ_BYTE_STREAM_SPLIT:
        if ((size_t)(v->end - v->p) % v->width) return wrong(v, "its bytes are not a whole number of values");
        v->n_split = (size_t)(v->end - v->p) / v->width;
        v->split_at = 0;
        return 1;
    default: return 1;
    }
}

static int plain(pq_values *v, ns_str *out)
{
    size_t left = (size_t)(v->end - v->p), n = v->width;
    if (v->type == PQ_BOOLEAN) {
        if (left == 0) return wrong(v, "its values end early");
        v->tmp[0] = *v->p >> v->bit & 1;
        v->bit = (v->bit + 1) & 7;
        v->p += v->bit == 0;
        *out = (ns_str){(const char *)v->tmp, 1};
        return 1;
    }
    if (n == 0) {
        if (left < 4) return wrong(v, "its values end early");
        n = pq_u32(v->p);
        v->p += 4;
        left -= 4;
    }
    if (n > left) {
        snprintf(v->wrong, sizeof v->wrong, "found a value of %zu bytes where %zu are left in the page", n, left);
        return 0;
    }
    *out = (ns_str){(const char *)v->p, n};
    v->p += n;
    return 1;
}

static int from_dictionary(pq_values *v, ns_str *out)
{
    uint32_t i;
    if (!pq_rle_next(&v->rle, &i)) return wrong(v, "its dictionary indices end early or are damaged");
    if (i >= v->n_dict) {
        snprintf(v->wrong, sizeof v->wrong, "found dictionary index %" PRIu32 ", expected less than %zu", i, v->n_dict);
        return 0;
    }
    *out = v->dict[i];
    return 1;
}

static int delta_number(pq_values *v, ns_str *out)
{
    int64_t x;
    if (!delta_next(&v->ints, &x)) return wrong(v, delta_short);
    for (int i = 0; i < 8; i++) v->tmp[i] = (uint8_t)((uint64_t)x >> (8 * i)); /* INT32 wraps: its low half */
    *out = (ns_str){(const char *)v->tmp, v->width};
    return 1;
}

/* Length and bytes of the next text (of DELTA_BYTE_ARRAY: its end). */
static int delta_text(pq_values *v, ns_str *out)
{
    int64_t n;
    if (!delta_next(&v->lengths, &n)) return wrong(v, delta_short);
    if (n < 0 || n > v->end - v->p) {
        snprintf(v->wrong, sizeof v->wrong, "found a value of %" PRId64 " bytes where %zu are left in the page", n,
                 (size_t)(v->end - v->p));
        return 0;
    }
    *out = (ns_str){(const char *)v->p, (size_t)n};
    v->p += n;
    return 1;
}

static int delta_prefixed(pq_values *v, ns_str *out)
{
    int64_t prefix;
    ns_str rest;
    if (!delta_next(&v->ints, &prefix)) return wrong(v, delta_short);
    if (!delta_text(v, &rest)) return 0;
    if (prefix < 0 || (uint64_t)prefix > v->scratch_n) {
        snprintf(v->wrong, sizeof v->wrong, "found %" PRId64 " bytes taken from the value before, which has %zu",
                 prefix, v->scratch_n);
        return 0;
    }
    memcpy(v->scratch + prefix, rest.p, rest.n); /* fits: all ends together lie in the page */
    v->scratch_n = (size_t)prefix + rest.n;
    *out = (ns_str){(const char *)v->scratch, v->scratch_n};
    return 1;
}

static int gather(pq_values *v, ns_str *out)
{
    if (v->split_at == v->n_split) return wrong(v, "its values end early");
    for (size_t k = 0; k < v->width; k++) v->scratch[k] = v->p[k * v->n_split + v->split_at];
    v->split_at++;
    *out = (ns_str){(const char *)v->scratch, v->width};
    return 1;
}

int pq_values_next(pq_values *v, ns_str *out)
{
    uint32_t b;
    if (!v->started && !start(v)) return 0;
    switch (v->encoding) {
    case PQ_PLAIN: return plain(v, out);
    case PQ_PLAIN_DICTIONARY:
    case PQ_RLE_DICTIONARY: return from_dictionary(v, out);
    case PQ_RLE:
        if (!pq_rle_next(&v->rle, &b) || b > 1) return wrong(v, "its values end early or are damaged");
        v->tmp[0] = (uint8_t)b;
        *out = (ns_str){(const char *)v->tmp, 1};
        return 1;
    case PQ_DELTA_BINARY_PACKED: return delta_number(v, out);
    case PQ_DELTA_LENGTH_BYTE_ARRAY: return delta_text(v, out);
    case PQ_DELTA_BYTE_ARRAY:
        if (!delta_prefixed(v, out)) return 0;
        if (v->width && out->n != v->width) {
            snprintf(v->wrong, sizeof v->wrong, "found a value of %zu bytes, expected %zu", out->n, v->width);
            return 0;
        }
        return 1;
    case PQ_BYTE_STREAM_SPLIT: return gather(v, out);
    default: return wrong(v, "its encoding is not known");
    }
}
