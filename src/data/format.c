/* str.format over JSON values. One pass over the format text; a field is name(.attr|[index])* with an optional
 * conversion and specification. Python objects are imitated where prompts meet them: text, numbers, True/False/None, and
 * lists and dictionaries through repr. */
#include "data/format.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- str and repr ---- */
static int number_is_int(ns_str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] != '-' && (s.p[i] < '0' || s.p[i] > '9')) return 0;
    return 1;
}

static ns_status py_number(ns_buf *out, ns_str s, ns_error *err)
{
    char text[64], digits[32];
    if (number_is_int(s))
        return s.n == 2 && !memcmp(s.p, "-0", 2) ? ns_buf_adds(out, "0", err) : ns_buf_add(out, s.p, s.n, err);
    if (ns_str_eq(s, "NaN")) return ns_buf_adds(out, "nan", err);
    if (ns_str_eq(s, "Infinity")) return ns_buf_adds(out, "inf", err);
    if (ns_str_eq(s, "-Infinity")) return ns_buf_adds(out, "-inf", err);
    NS_FAIL_IF(s.n >= sizeof text, NS_ERR_INPUT, "number of %zu characters", s.n);
    memcpy(text, s.p, s.n);
    text[s.n] = 0;
    double x = strtod(text, NULL);
    if (isinf(x)) return ns_buf_adds(out, x < 0 ? "-inf" : "inf", err);
    ns_json_format_double(digits, x);
    return ns_buf_adds(out, digits, err);
}

/* Text as Python would quote it. Printable non-ASCII stays. */
static ns_status py_quote(ns_buf *out, ns_str s, ns_error *err)
{
    char q = memchr(s.p, '\'', s.n) && !memchr(s.p, '"', s.n) ? '"' : '\'';
    NS_TRY(ns_buf_addc(out, q, err), "repr");
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '\n' || c == '\r' || c == '\t')
            NS_TRY(ns_buf_adds(out, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t", err), "repr");
        else if (c == (unsigned char)q || c == '\\')
            NS_TRY(ns_buf_printf(out, err, "\\%c", c), "repr");
        else if (c < 0x20 || c == 0x7f)
            NS_TRY(ns_buf_printf(out, err, "\\x%02x", c), "repr");
        else
            NS_TRY(ns_buf_addc(out, (char)c, err), "repr");
    }
    return ns_buf_addc(out, q, err);
}

ns_status ns_py_repr(ns_buf *out, const ns_json *v, ns_error *err)
{
    switch (v->type) {
    case NS_JSON_NULL: return ns_buf_adds(out, "None", err);
    case NS_JSON_BOOL: return ns_buf_adds(out, v->b ? "True" : "False", err);
    case NS_JSON_NUMBER: return py_number(out, v->s, err);
    case NS_JSON_STRING: return py_quote(out, v->s, err);
    case NS_JSON_ARRAY:
    case NS_JSON_OBJECT: break;
    }
    int object = v->type == NS_JSON_OBJECT;
    NS_TRY(ns_buf_addc(out, object ? '{' : '[', err), "repr");
    for (size_t i = 0; i < v->n; i++) {
        if (i) NS_TRY(ns_buf_adds(out, ", ", err), "repr");
        if (object) {
            NS_TRY(py_quote(out, v->keys[i], err), "repr");
            NS_TRY(ns_buf_adds(out, ": ", err), "repr");
        }
        NS_TRY(ns_py_repr(out, &v->items[i], err), "repr");
    }
    return ns_buf_addc(out, object ? '}' : ']', err);
}

ns_status ns_py_str(ns_buf *out, const ns_json *v, ns_error *err)
{
    if (v->type == NS_JSON_STRING) return ns_buf_add(out, v->s.p, v->s.n, err);
    return ns_py_repr(out, v, err);
}

/* ---- specification ---- */
typedef struct spec {
    char fill[5], align, sign, type;
    int zero, comma;
    size_t width;
    int precision; /* -1: none */
} spec;

static size_t utf8_len(ns_str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    return n;
}

static size_t char_bytes(const char *p, size_t n)
{
    size_t k = 1;
    while (k < n && ((unsigned char)p[k] & 0xc0) == 0x80) k++;
    return k;
}

static ns_status parse_spec(spec *sp, ns_str s, const ns_format_args *a, ns_error *err)
{
    *sp = (spec){.fill = " ", .precision = -1};
    size_t i = 0, first = s.n ? char_bytes(s.p, s.n) : 0;
    if (first && first < s.n && first < sizeof sp->fill && strchr("<>^=", s.p[first])) {
        memcpy(sp->fill, s.p, first);
        sp->fill[first] = 0;
        sp->align = s.p[first];
        i = first + 1;
    } else if (s.n && strchr("<>^=", s.p[0])) {
        sp->align = s.p[i++];
    }
    if (i < s.n && strchr("+- ", s.p[i])) sp->sign = s.p[i++];
    if (i < s.n && s.p[i] == '0') sp->zero = 1, i++;
    for (; i < s.n && s.p[i] >= '0' && s.p[i] <= '9' && sp->width < 100000; i++)
        sp->width = sp->width * 10 + (size_t)(s.p[i] - '0');
    if (i < s.n && s.p[i] == ',') sp->comma = 1, i++;
    if (i < s.n && s.p[i] == '.') {
        sp->precision = 0;
        for (i++; i < s.n && s.p[i] >= '0' && s.p[i] <= '9' && sp->precision < 1000; i++)
            sp->precision = sp->precision * 10 + (s.p[i] - '0');
    }
    if (i < s.n && strchr("sdfFeEgG%", s.p[i])) sp->type = s.p[i++];
    NS_FAIL_IF(i != s.n, NS_ERR_UNSUPPORTED, "%s: format specification ':%.*s' is not supported", a->what, (int)s.n,
               s.p);
    return NS_OK;
}

static ns_status pad(ns_buf *out, ns_str s, const spec *sp, char align, ns_error *err)
{
    size_t n = utf8_len(s), gap = n < sp->width ? sp->width - n : 0;
    size_t left = align == '>' || align == '=' ? gap : align == '^' ? gap / 2 : 0;
    for (size_t i = 0; i < left; i++) NS_TRY(ns_buf_adds(out, sp->fill, err), "format");
    NS_TRY(ns_buf_add(out, s.p, s.n, err), "format");
    for (size_t i = left; i < gap; i++) NS_TRY(ns_buf_adds(out, sp->fill, err), "format");
    return NS_OK;
}

static ns_status format_number(ns_buf *out, ns_str text, spec sp, const ns_format_args *a, ns_error *err)
{
    char digits[512];
    size_t n = 0, from = text.n && text.p[0] == '-';
    int is_int = number_is_int(text);
    if (is_int && (!sp.type || sp.type == 'd')) {
        NS_FAIL_IF(sp.precision >= 0 || text.n > 300, NS_ERR_INPUT, "%s: %s: precision is not allowed for an integer",
                   a->where, a->what);
        for (size_t i = from; i < text.n; i++) {
            if (sp.comma && i > from && (text.n - i) % 3 == 0) digits[n++] = ',';
            digits[n++] = text.p[i];
        }
    } else {
        NS_FAIL_IF(sp.type == 'd' || sp.comma, NS_ERR_UNSUPPORTED, "%s: %s: this specification needs an integer",
                   a->where, a->what);
        ns_buf b = {0};
        ns_status st = py_number(&b, text, err);
        double x = st == NS_OK ? fabs(strtod(b.data, NULL)) : 0;
        if (!sp.type && sp.precision < 0)
            n = st == NS_OK ? (size_t)snprintf(digits, sizeof digits, "%s", b.data + from) : 0;
        ns_buf_free(&b);
        if (st != NS_OK) return st;
        if (sp.type || sp.precision >= 0) {
            char c[8] = {'%', '.', '*', sp.type && sp.type != '%' ? sp.type : sp.type ? 'f' : 'g', 0};
            n = (size_t)snprintf(digits, sizeof digits, c, sp.precision < 0 ? 6 : sp.precision,
                                 sp.type == '%' ? x * 100 : x);
            if (sp.type == '%' && n + 1 < sizeof digits) digits[n++] = '%';
        }
        NS_FAIL_IF(n >= sizeof digits, NS_ERR_INPUT, "%s: %s: number too long", a->where, a->what);
    }
    ns_buf b = {0};
    ns_status st = NS_OK;
    const char *sign = from ? "-" : sp.sign == '+' ? "+" : sp.sign == ' ' ? " " : "";
    if (sp.zero && !sp.align) sp.align = '=', sp.fill[0] = '0', sp.fill[1] = 0;
    if (sp.align == '=') { /* padding goes between sign and digits */
        size_t used = strlen(sign);
        sp.width = sp.width > used ? sp.width - used : 0;
        NS_CHECK(st, ns_buf_adds(out, sign, err), "format");
        NS_CHECK(st, pad(out, (ns_str){digits, n}, &sp, '=', err), "format");
    } else {
        NS_CHECK(st, ns_buf_adds(&b, sign, err), "format");
        NS_CHECK(st, ns_buf_add(&b, digits, n, err), "format");
        NS_CHECK(st, pad(out, (ns_str){b.data, b.len}, &sp, sp.align ? sp.align : '>', err), "format");
    }
done:
    ns_buf_free(&b);
    return st;
}

/* Python's ascii(): repr with every non-ASCII character escaped. */
static ns_status escape_non_ascii(ns_buf *out, ns_str s, ns_error *err)
{
    for (size_t i = 0; i < s.n;) {
        unsigned char c = (unsigned char)s.p[i];
        size_t n = char_bytes(s.p + i, s.n - i);
        if (c < 0x80) {
            NS_TRY(ns_buf_addc(out, (char)c, err), "ascii");
            i++;
            continue;
        }
        uint32_t u = n == 2 ? c & 0x1fu : n == 3 ? c & 0xfu : c & 0x7u;
        for (size_t k = 1; k < n; k++) u = u << 6 | ((unsigned char)s.p[i + k] & 0x3fu);
        NS_TRY(ns_buf_printf(out, err, u < 0x100 ? "\\x%02x" : u < 0x10000 ? "\\u%04x" : "\\U%08x", u), "ascii");
        i += n;
    }
    return NS_OK;
}

static ns_status put_value(ns_buf *out, const ns_json *v, char conversion, ns_str spec_text, const ns_format_args *a,
                           ns_error *err)
{
    if (!conversion && !spec_text.n) return ns_py_str(out, v, err);
    spec sp;
    ns_buf b = {0}, ascii = {0};
    ns_status st = NS_OK;
    NS_TRY(parse_spec(&sp, spec_text, a, err), "%s", a->where);
    if (!conversion && v->type == NS_JSON_NUMBER && sp.type != 's') return format_number(out, v->s, sp, a, err);
    NS_CHECK(st, conversion == 'r' || conversion == 'a' ? ns_py_repr(&b, v, err) : ns_py_str(&b, v, err), "format");
    if (conversion == 'a') {
        NS_CHECK(st, escape_non_ascii(&ascii, (ns_str){b.data, b.len}, err), "format");
        ns_buf t = b;
        b = ascii;
        ascii = t;
    }
    NS_BAIL_IF(st, sp.type && sp.type != 's', NS_ERR_INPUT, "%s: %s: ':%.*s' needs a number", a->where, a->what,
               (int)spec_text.n, spec_text.p);
    ns_str s = {b.data ? b.data : "", b.len};
    if (sp.precision >= 0) { /* characters, not bytes */
        size_t bytes = 0;
        for (int k = 0; k < sp.precision && bytes < s.n; k++) bytes += char_bytes(s.p + bytes, s.n - bytes);
        s.n = bytes;
    }
    NS_CHECK(st, pad(out, s, &sp, sp.align ? sp.align : '<', err), "format");
done:
    ns_buf_free(&b);
    ns_buf_free(&ascii);
    return st;
}

/* ---- fields ---- */
static const ns_json *member(const ns_json *o, ns_str key)
{
    if (!o || o->type != NS_JSON_OBJECT) return NULL;
    for (size_t i = 0; i < o->n; i++)
        if (o->keys[i].n == key.n && !memcmp(o->keys[i].p, key.p, key.n)) return &o->items[i];
    return NULL;
}

static void key_list(const ns_format_args *a, char *buf, size_t n)
{
    size_t at = 0;
    buf[0] = 0;
    const ns_json *o = a->row;
    for (size_t i = 0; o && o->type == NS_JSON_OBJECT && i < o->n && at + 40 < n; i++) {
        if (a->hidden && ns_str_eq(o->keys[i], a->hidden)) continue;
        at += (size_t)snprintf(buf + at, n - at, "%s%.*s", at ? ", " : "", (int)(o->keys[i].n < 30 ? o->keys[i].n : 30),
                               o->keys[i].p);
    }
}

static ns_status lookup(const ns_json **out, ns_str name, const ns_format_args *a, ns_error *err)
{
    size_t i = 0;
    while (i < name.n && name.p[i] != '.' && name.p[i] != '[') i++;
    ns_str first = {name.p, i};
    NS_FAIL_IF(first.n == 0 || (first.p[0] >= '0' && first.p[0] <= '9'), NS_ERR_INPUT,
               "%s: placeholder '{%.*s}' has no name: write {{ and }} for literal braces", a->what, (int)name.n,
               name.p);
    const ns_json *v = member(a->extra, first);
    if (!v && !(a->hidden && ns_str_eq(first, a->hidden))) v = member(a->row, first);
    if (!v) {
        char keys[300];
        key_list(a, keys, sizeof keys);
        NS_FAIL(NS_ERR_INPUT, "%s: %s needs a field \"%.*s\" (available: %s)", a->where, a->what, (int)first.n, first.p,
                keys);
    }
    while (i < name.n) {
        int bracket = name.p[i] == '[';
        size_t from = ++i;
        while (i < name.n && (bracket ? name.p[i] != ']' : name.p[i] != '.' && name.p[i] != '[')) i++;
        ns_str part = {name.p + from, i - from};
        NS_FAIL_IF(!part.n || (bracket && i == name.n), NS_ERR_INPUT, "%s: malformed placeholder '{%.*s}'", a->what,
                   (int)name.n, name.p);
        i += (size_t)bracket;
        const ns_json *next = member(v, part);
        if (bracket && v->type == NS_JSON_ARRAY) {
            size_t index = 0, k = 0;
            for (; k < part.n && part.p[k] >= '0' && part.p[k] <= '9' && index < v->n; k++)
                index = index * 10 + (size_t)(part.p[k] - '0');
            next = k == part.n && index < v->n ? &v->items[index] : NULL;
        }
        NS_FAIL_IF(!next, NS_ERR_INPUT, "%s: %s: placeholder '{%.*s}': no '%.*s'", a->where, a->what, (int)name.n,
                   name.p, (int)part.n, part.p);
        v = next;
    }
    *out = v;
    return NS_OK;
}

/* fmt points behind '{'; returns where the field ended, behind '}'. */
static ns_status put_field(ns_buf *out, const char **fmt, const ns_format_args *a, ns_error *err)
{
    const char *p = *fmt, *end = p;
    int depth = 0;
    for (; *end && (*end != '}' || depth); end++) depth += (*end == '[') - (*end == ']' && depth > 0);
    if (!*end) end = strchr(p, '}');
    NS_FAIL_IF(!end, NS_ERR_INPUT, "%s: '{' has no closing '}': write {{ for a literal brace", a->what);
    ns_str name = {p, 0}, spec_text = {p, 0};
    char conversion = 0;
    while (p + name.n < end && p[name.n] != '!' && p[name.n] != ':') {
        if (p[name.n] == '[')
            while (p + name.n < end && p[name.n] != ']') name.n++;
        if (p + name.n < end) name.n++;
    }
    const char *q = p + name.n;
    if (q < end && *q == '!') {
        NS_FAIL_IF(q + 1 >= end || !strchr("sra", q[1]) || (q + 2 < end && q[2] != ':'), NS_ERR_INPUT,
                   "%s: placeholder '{%.*s}': conversion must be !s, !r or !a", a->what, (int)(end - p), p);
        conversion = q[1];
        q += 2;
    }
    if (q < end) spec_text = (ns_str){q + 1, (size_t)(end - q - 1)};
    NS_FAIL_IF(memchr(p, '{', (size_t)(end - p)) != NULL, NS_ERR_UNSUPPORTED,
               "%s: '{' inside placeholder '{%.*s}': write {{ for a literal brace", a->what, (int)(end - p), p);
    const ns_json *v = NULL;
    NS_TRY(lookup(&v, name, a, err), "placeholder");
    NS_TRY(put_value(out, v, conversion, spec_text, a, err), "placeholder");
    *fmt = end + 1;
    return NS_OK;
}

ns_status ns_format(ns_buf *out, const char *fmt, const ns_format_args *a, ns_error *err)
{
    while (*fmt) {
        size_t n = strcspn(fmt, "{}");
        if (n) NS_TRY(ns_buf_add(out, fmt, n, err), "format");
        fmt += n;
        if (!*fmt) break;
        if (fmt[0] == fmt[1]) {
            NS_TRY(ns_buf_addc(out, *fmt, err), "format");
            fmt += 2;
        } else {
            NS_FAIL_IF(*fmt == '}', NS_ERR_INPUT, "%s: single '}': write }} for a literal brace", a->what);
            fmt++;
            NS_TRY(put_field(out, &fmt, a, err), "%s", a->what);
        }
    }
    return NS_OK;
}
