/* JSON writer: the bytes that Python's json.dumps gives (data.md 0.1), with ensure_ascii (NS_JSON_ASCII, pretty) and
 * without (NS_JSON_UTF8). Numbers that were written as integers are copied digit by digit; all others go through double
 * and come out as repr would print them. The program never calls setlocale, so printf and strtod speak "C". */
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_scan.h"

/* ---- doubles ---- */

/* Shortest digits that read back as x > 0, as "d.ddde[+-]dd". */
static void shortest(char *out, size_t size, double x)
{
    int first = x < 2.2250738585072014e-308 ? 0 : 14; /* from 15 digits down a normal double gives every decimal back */
    for (int p = first; p < 16; p++) {
        snprintf(out, size, "%.*e", p, x);
        if (strtod(out, NULL) == x) return;
    }
    /* Below a power of two the doubles are twice as dense: the nearest 16 digits may miss x where the next do not. */
    int exponent;
    if (frexp(x, &exponent) == 0.5) {
        char *last = strchr(out, 'e') - 1;
        if (*last < '9') {
            ++*last;
            if (strtod(out, NULL) == x) return;
        }
    }
    snprintf(out, size, "%.16e", x);
}

void ns_json_format_double(char out[32], double x)
{
    char e[40], digits[24];
    if (isnan(x) || isinf(x)) {
        snprintf(out, 32, "%s", isnan(x) ? "NaN" : x < 0 ? "-Infinity" : "Infinity");
        return;
    }
    char *o = out;
    if (signbit(x)) *o++ = '-';
    if (x == 0) {
        memcpy(o, "0.0", 4);
        return;
    }
    shortest(e, sizeof e, fabs(x));
    int n = 0;
    for (const char *p = e; *p != 'e'; p++)
        if (*p != '.') digits[n++] = *p;
    while (n > 1 && digits[n - 1] == '0') n--;
    int point = atoi(strchr(e, 'e') + 1) + 1; /* the value is 0.DIGITS * 10^point */
    if (point <= -4 || point > 16) {
        *o++ = digits[0];
        if (n > 1) *o++ = '.';
        memcpy(o, digits + 1, (size_t)(n - 1));
        o += n - 1;
        int ten = abs(point - 1);
        *o++ = 'e';
        *o++ = point - 1 < 0 ? '-' : '+';
        if (ten >= 100) *o++ = (char)('0' + ten / 100);
        *o++ = (char)('0' + ten / 10 % 10);
        *o++ = (char)('0' + ten % 10);
        *o = 0;
        return;
    }
    if (point <= 0) { /* 0.000ddd */
        *o++ = '0';
        *o++ = '.';
        for (int i = point; i < 0; i++) *o++ = '0';
    }
    for (int i = 0; i < n || i < point; i++) {
        if (i == point && i > 0) *o++ = '.';
        *o++ = i < n ? digits[i] : '0';
    }
    if (n <= point) {
        *o++ = '.';
        *o++ = '0';
    }
    *o = 0;
}

static ns_status write_number(ns_buf *out, const ns_json *v, ns_error *err)
{
    size_t minus = v->s.n > 0 && v->s.p[0] == '-', i = minus;
    while (i < v->s.n && v->s.p[i] >= '0' && v->s.p[i] <= '9') i++;
    if (i == v->s.n && i > minus) { /* an integer: in full, any size */
        if (v->s.n == 2 && minus && v->s.p[1] == '0') return ns_buf_addc(out, '0', err);
        return ns_buf_add(out, v->s.p, v->s.n, err);
    }
    double x;
    char text[32];
    NS_FAIL_IF(!ns_json_is_num(v, &x), NS_ERR_MEMORY, "out of memory for a number of %zu digits", v->s.n);
    ns_json_format_double(text, x);
    return ns_buf_adds(out, text, err);
}

/* ---- strings ---- */

/* Reads one character of (W)UTF-8 at p; *n = its length. -1: not UTF-8. Lone surrogates are returned as such. */
static int read_char(const unsigned char *p, size_t left, size_t *n)
{
    int c = p[0];
    if (c < 0x80) {
        *n = 1;
        return c;
    }
    int extra = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
    if (c < 0xC2 || c > 0xF4 || left < (size_t)extra + 1) return -1;
    int v = c & (0x3F >> extra);
    for (int i = 1; i <= extra; i++) {
        if ((p[i] & 0xC0) != 0x80) return -1;
        v = v << 6 | (p[i] & 0x3F);
    }
    static const int least[] = {0, 0x80, 0x800, 0x10000};
    *n = (size_t)extra + 1;
    return v < least[extra] || v > 0x10FFFF ? -1 : v;
}

enum { LONGEST = 12 }; /* bytes of one escaped character: \\ud83d\\ude00 */

static char *put_u(char *o, unsigned c)
{
    static const char hex[] = "0123456789abcdef";
    *o++ = '\\';
    *o++ = 'u';
    for (int shift = 12; shift >= 0; shift -= 4) *o++ = hex[c >> shift & 15];
    return o;
}

/* The character c, spelled p[0..n), in the given style; o has room for LONGEST bytes. NULL: the style cannot write it. */
static char *put_char(char *o, int c, const unsigned char *p, size_t n, int style)
{
    static const char names[] = "btn.fr"; /* 8, 9, 10, (11), 12, 13 */
    if (c == '"' || c == '\\' || (c >= 8 && c <= 13 && c != 11)) {
        *o++ = '\\';
        *o++ = c < 32 ? names[c - 8] : (char)c;
        return o;
    }
    if (c >= 0x20 && (style == NS_JSON_UTF8 || c < 0x7f)) {
        if (c >= 0xD800 && c <= 0xDFFF) return NULL;
        memcpy(o, p, n);
        return o + n;
    }
    if (c < 0x10000) return put_u(o, (unsigned)c);
    unsigned u = (unsigned)c - 0x10000;
    return put_u(put_u(o, 0xD800 + (u >> 10)), 0xDC00 + (u & 0x3FF));
}

ns_status ns_json_write_str(ns_buf *out, ns_str s, int style, ns_error *err)
{
    const char *p = s.p, *end = s.p + s.n;
    NS_TRY(ns_buf_reserve(out, s.n + 2 + LONGEST, err), "write a string");
    out->data[out->len++] = '"';
    while (p < end) {
        const char *q = ns_json_skip_plain(p, end, 1);
        size_t plain = (size_t)(q - p), n = 0;
        if (out->cap - out->len < plain + 2 + LONGEST)
            NS_TRY(ns_buf_reserve(out, (size_t)(end - p) + 2 + LONGEST, err), "write a string");
        memcpy(out->data + out->len, p, plain);
        out->len += plain;
        if (q == end) break;
        const unsigned char *at = (const unsigned char *)q;
        int c = read_char(at, (size_t)(end - q), &n);
        NS_FAIL_IF(c < 0, NS_ERR_INPUT, "string to write: byte %zu (0x%02x) is not UTF-8", (size_t)(q - s.p), *at);
        char *o = put_char(out->data + out->len, c, at, n, style);
        NS_FAIL_IF(!o, NS_ERR_INPUT,
                   "half of a surrogate pair (\\u%04x) cannot be written as UTF-8: remove it from the input", c);
        out->len = (size_t)(o - out->data);
        p = q + n;
    }
    out->data[out->len++] = '"';
    out->data[out->len] = 0;
    return NS_OK;
}

/* ---- values ---- */

/* indent < 0: on one line. */
static ns_status new_line(ns_buf *out, int indent, ns_error *err)
{
    if (indent < 0) return NS_OK;
    return ns_buf_printf(out, err, "\n%*s", 2 * indent, "");
}

static ns_status write_value(ns_buf *out, const ns_json *v, int style, int indent, ns_error *err)
{
    switch (v->type) {
    case NS_JSON_NULL: return ns_buf_adds(out, "null", err);
    case NS_JSON_BOOL: return ns_buf_adds(out, v->b ? "true" : "false", err);
    case NS_JSON_NUMBER: return write_number(out, v, err);
    case NS_JSON_STRING: return ns_json_write_str(out, v->s, style, err);
    default: break;
    }
    int is_object = v->type == NS_JSON_OBJECT, inner = indent < 0 ? -1 : indent + 1;
    if (v->n == 0) return ns_buf_adds(out, is_object ? "{}" : "[]", err);
    NS_TRY(ns_buf_addc(out, is_object ? '{' : '[', err), "%s", "");
    for (size_t i = 0; i < v->n; i++) {
        if (i > 0) NS_TRY(ns_buf_adds(out, indent < 0 ? ", " : ",", err), "%s", "");
        NS_TRY(new_line(out, inner, err), "%s", "");
        if (is_object) {
            NS_TRY(ns_json_write_str(out, v->keys[i], style, err), "%s", "");
            NS_TRY(ns_buf_adds(out, ": ", err), "%s", "");
        }
        NS_TRY(write_value(out, &v->items[i], style, inner, err), "%s", "");
    }
    NS_TRY(new_line(out, indent, err), "%s", "");
    return ns_buf_addc(out, is_object ? '}' : ']', err);
}

ns_status ns_json_write(ns_buf *out, const ns_json *v, int style, ns_error *err)
{
    return write_value(out, v, style, -1, err);
}

ns_status ns_json_write_pretty(ns_buf *out, const ns_json *v, ns_error *err)
{
    return write_value(out, v, NS_JSON_ASCII, 0, err);
}
