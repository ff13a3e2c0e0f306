/* Values of Parquet as JSON.
 *
 *   numbers, booleans        as such; floats as Python's json.dumps writes them (NaN, Infinity too)
 *   text, enum, uuid         strings
 *   json                     the value itself
 *   decimal                  a string with all its digits: "12.30" (a JSON number would pass through a double)
 *   date, time, timestamp    strings as Python's isoformat: "2024-05-01", "13:00:00.250000", "2024-05-01T13:00:00+00:00"
 *                            (with the offset where the file says that the time is UTC); nine digits where nanoseconds
 *                            need them. int96 is a timestamp without an offset.
 *   bytes without a meaning  strings where they are UTF-8; else refused, as nothing says what they are */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/parquet/parquet_priv.h"

enum { MAX_LIMBS = 16 };

static ns_status write_uint(ns_buf *out, uint64_t v, int negative, ns_error *err)
{
    char digits[24], *end = digits + sizeof digits, *o = end;
    do *--o = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    if (negative) *--o = '-';
    return ns_buf_add(out, o, (size_t)(end - o), err);
}

static ns_status write_int(ns_buf *out, int64_t v, ns_error *err)
{
    return write_uint(out, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, v < 0, err);
}

static int64_t int_of(ns_str b)
{
    const uint8_t *p = (const uint8_t *)b.p;
    return b.n == 4 ? (int32_t)pq_u32(p) : (int64_t)pq_u64(p);
}

static ns_status write_float(ns_buf *out, ns_str b, ns_error *err)
{
    char text[32];
    double x;
    if (b.n == 4) {
        uint32_t u = pq_u32((const uint8_t *)b.p);
        float f;
        memcpy(&f, &u, 4);
        x = (double)f;
    } else {
        uint64_t u = pq_u64((const uint8_t *)b.p);
        memcpy(&x, &u, 8);
    }
    ns_json_format_double(text, x);
    return ns_buf_adds(out, text, err);
}

static ns_status write_half(ns_buf *out, ns_str b, ns_error *err)
{
    unsigned h = (unsigned)(uint8_t)b.p[0] | (unsigned)(uint8_t)b.p[1] << 8, exponent = h >> 10 & 31, part = h & 1023;
    uint32_t f = (h & 0x8000u) << 16;
    if (exponent == 31) {
        f |= 0x7f800000u | part << 13;
    } else if (exponent > 0) {
        f |= (exponent + 112) << 23 | part << 13;
    } else if (part > 0) { /* subnormal: normalise */
        unsigned shift = 0;
        while (!(part & 1024)) part <<= 1, shift++;
        f |= (113 - shift) << 23 | (part & 1023) << 13;
    }
    char le[4] = {(char)(f & 255), (char)(f >> 8 & 255), (char)(f >> 16 & 255), (char)(f >> 24)};
    return write_float(out, (ns_str){le, 4}, err);
}

/* Big-endian two's complement (numbers: little-endian) to decimal digits with a point. */
static ns_status write_decimal(const pq_column *c, ns_buf *out, ns_str b, ns_error *err)
{
    uint32_t limb[MAX_LIMBS] = {0}; /* least first */
    char digits[9 * 18];
    size_t n_limbs = (b.n + 3) / 4, n = 0;
    int little = c->type == PQ_INT32 || c->type == PQ_INT64;
    PQ_FAIL_IF(c, b.n == 0 || n_limbs > MAX_LIMBS, NS_ERR_UNSUPPORTED, "found a decimal of %zu bytes, expected 1 to %d",
               b.n, 4 * MAX_LIMBS);
    const uint8_t *p = (const uint8_t *)b.p;
    int negative = p[little ? b.n - 1 : 0] >> 7;
    for (size_t i = 0; i < 4 * n_limbs; i++) {
        uint32_t byte = i < b.n ? p[little ? i : b.n - 1 - i] : negative ? 255 : 0;
        limb[i / 4] |= byte << (8 * (i % 4));
    }
    uint64_t carry = 1;
    for (size_t i = 0; negative && i < n_limbs; i++) {
        carry += (uint32_t)~limb[i];
        limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
    while (n_limbs > 0) { /* nine digits a round */
        uint64_t rest = 0;
        for (size_t i = n_limbs; i-- > 0;) {
            rest = rest << 32 | limb[i];
            limb[i] = (uint32_t)(rest / 1000000000);
            rest %= 1000000000;
        }
        while (n_limbs > 0 && limb[n_limbs - 1] == 0) n_limbs--;
        for (int k = 0; k < 9; k++, rest /= 10) digits[n++] = (char)('0' + rest % 10);
    }
    while (n > 1 && digits[n - 1] == '0') n--;
    size_t scale = (size_t)c->scale, whole = n > scale ? n : scale + 1;
    NS_TRY(ns_buf_adds(out, negative ? "\"-" : "\"", err), "%s", "");
    for (size_t i = whole; i-- > 0;) {
        NS_TRY(ns_buf_addc(out, i < n ? digits[i] : '0', err), "%s", "");
        if (i == scale && scale > 0) NS_TRY(ns_buf_addc(out, '.', err), "%s", "");
    }
    return ns_buf_addc(out, '"', err);
}

/* ---- time ---- */
/* Days since 1970-01-01 in the Gregorian calendar (Howard Hinnant, "chrono-compatible low-level date algorithms"). */
static ns_status write_date(ns_buf *out, int64_t days, ns_error *err)
{
    int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097, doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365, doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153, month = mp < 10 ? mp + 3 : mp - 9, year = yoe + era * 400 + (month <= 2);
    return ns_buf_printf(out, err, "%s%04" PRId64 "-%02d-%02d", year < 0 ? "-" : "", year < 0 ? -year : year,
                         (int)month, (int)(doy - (153 * mp + 2) / 5 + 1));
}

/* Nanoseconds of a day: as Python, the fraction only if there is one; nine digits only if six do not do. */
static ns_status write_clock(ns_buf *out, int64_t nanos, ns_error *err)
{
    int64_t s = nanos / 1000000000, f = nanos % 1000000000;
    NS_TRY(ns_buf_printf(out, err, "%02d:%02d:%02d", (int)(s / 3600), (int)(s / 60 % 60), (int)(s % 60)), "%s", "");
    if (f % 1000) return ns_buf_printf(out, err, ".%09d", (int)f);
    return f ? ns_buf_printf(out, err, ".%06d", (int)(f / 1000)) : NS_OK;
}

static ns_status write_time(const pq_column *c, ns_buf *out, ns_str b, ns_error *err)
{
    static const int64_t a_day[] = {86400000, 86400000000, 86400000000000}, nanos[] = {1000000, 1000, 1};
    int64_t day = 0, in_day;
    if (c->as == PQ_AS_INT96) {
        uint64_t n = pq_u64((const uint8_t *)b.p);
        day = (int64_t)pq_u32((const uint8_t *)b.p + 8) - 2440588; /* Julian day of 1970-01-01 */
        PQ_FAIL_IF(c, n >= 86400000000000u, NS_ERR_INPUT, "found %" PRIu64 " nanoseconds in a day, expected a time", n);
        in_day = (int64_t)n;
    } else {
        int64_t v = int_of(b), whole = a_day[c->unit];
        day = v / whole - (v % whole < 0);
        in_day = (v % whole + (v % whole < 0 ? whole : 0)) * nanos[c->unit];
        PQ_FAIL_IF(c, c->as == PQ_AS_TIME && day != 0, NS_ERR_INPUT,
                   "found a time of day of %" PRId64 ", expected 0 to %" PRId64, v, whole - 1);
    }
    NS_TRY(ns_buf_addc(out, '"', err), "%s", "");
    if (c->as != PQ_AS_TIME) {
        NS_TRY(write_date(out, day, err), "%s", "");
        NS_TRY(ns_buf_addc(out, 'T', err), "%s", "");
    }
    NS_TRY(write_clock(out, in_day, err), "%s", "");
    return ns_buf_adds(out, c->as == PQ_AS_TIMESTAMP && c->utc ? "+00:00\"" : "\"", err);
}

static ns_status write_uuid(ns_buf *out, ns_str b, ns_error *err)
{
    static const char hex[] = "0123456789abcdef";
    char text[38], *o = text;
    *o++ = '"';
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) *o++ = '-';
        *o++ = hex[(uint8_t)b.p[i] >> 4];
        *o++ = hex[(uint8_t)b.p[i] & 15];
    }
    *o++ = '"';
    return ns_buf_add(out, text, (size_t)(o - text), err);
}

static ns_status write_text(const pq_column *c, ns_buf *out, ns_str b, ns_error *err)
{
    ns_error why = NS_ERROR_INIT;
    ns_status st = ns_json_write_str(out, b, NS_JSON_UTF8, &why);
    if (st == NS_OK) return NS_OK;
    NS_FAIL_IF(st == NS_ERR_MEMORY, st, "%s", why.msg);
    PQ_FAIL_IF(c, c->as == PQ_AS_BYTES, NS_ERR_UNSUPPORTED,
               "found %zu bytes that are no text, and nothing says what they are: leave the column out, or write it as "
               "text",
               b.n);
    PQ_FAIL_IF(c, 1, NS_ERR_INPUT, "found text that is not UTF-8 (%s): write the text again", why.msg);
}

static ns_status write_json(const pq_column *c, ns_buf *out, ns_str b, ns_arena *scratch, ns_error *err)
{
    ns_error why = NS_ERROR_INIT;
    ns_json *v;
    ns_status st = ns_json_parse(&v, scratch, b.p, b.n, "the value", 0, &why);
    if (st == NS_OK) st = ns_json_write(out, v, NS_JSON_UTF8, &why);
    NS_FAIL_IF(st == NS_ERR_MEMORY, st, "%s", why.msg);
    PQ_FAIL_IF(c, st != NS_OK, NS_ERR_INPUT, "found a value that is not JSON (%.200s): write it again", why.msg);
    return NS_OK;
}

ns_status pq_write_value(const pq_column *c, ns_str b, ns_buf *out, ns_arena *scratch, ns_error *err)
{
    switch (c->as) {
    case PQ_AS_BOOL: return ns_buf_adds(out, b.p[0] ? "true" : "false", err);
    case PQ_AS_INT: return write_int(out, int_of(b), err);
    case PQ_AS_UINT:
        return write_uint(out, b.n == 4 ? pq_u32((const uint8_t *)b.p) : pq_u64((const uint8_t *)b.p), 0, err);
    case PQ_AS_FLOAT: return write_float(out, b, err);
    case PQ_AS_HALF: return write_half(out, b, err);
    case PQ_AS_DECIMAL: return write_decimal(c, out, b, err);
    case PQ_AS_DATE:
        NS_TRY(ns_buf_addc(out, '"', err), "%s", "");
        NS_TRY(write_date(out, int_of(b), err), "%s", "");
        return ns_buf_addc(out, '"', err);
    case PQ_AS_TIME:
    case PQ_AS_TIMESTAMP:
    case PQ_AS_INT96: return write_time(c, out, b, err);
    case PQ_AS_UUID: return write_uuid(out, b, err);
    case PQ_AS_JSON: return write_json(c, out, b, scratch, err);
    case PQ_AS_NULL: return ns_buf_adds(out, "null", err);
    case PQ_AS_TEXT:
    case PQ_AS_BYTES: break;
    }
    return write_text(c, out, b, err);
}
