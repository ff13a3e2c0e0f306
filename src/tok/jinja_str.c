/* Text functions of templates: Python's str methods. Indices count characters; white space is Unicode's (Python's isspace
 * set: White_Space and U+001C-001F). Upper and lower case go character by character, so "ß".upper() stays "ß" (Python: "SS"). */
#include <locale.h>
#include <stdio.h>
#include <wchar.h>
#include <wctype.h>

#include "tok/jinja_internal.h"
#include "tok/unicode.h"

/* Strings may hold lone surrogates in their 3-byte form: stepping never reads past the end. */
size_t jstr_char(ns_str s, size_t at)
{
    unsigned char ch = (unsigned char)s.p[at];
    size_t w = ch < 0xc0 ? 1 : ch < 0xe0 ? 2 : ch < 0xf0 ? 3 : 4;
    return w < s.n - at ? w : s.n - at;
}

static uint32_t code_at(ns_str s, size_t at, size_t *w)
{
    *w = jstr_char(s, at);
    unsigned char ch = (unsigned char)s.p[at];
    size_t need = ch < 0xc0 ? 1 : ch < 0xe0 ? 2 : ch < 0xf0 ? 3 : 4;
    if (*w < need) return ch;
    return ns_utf8_at((const uint8_t *)s.p, at, w);
}

size_t jstr_len(ns_str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    return n;
}

size_t jstr_byte(ns_str s, size_t index)
{
    size_t i = 0;
    while (index-- && i < s.n) i += jstr_char(s, i);
    return i;
}

int jstr_is_space(ns_str s, size_t at, size_t *len)
{
    uint32_t ch = code_at(s, at, len);
    return (ns_uni_class(ch) & NS_UC_S) || (ch >= 0x1c && ch <= 0x1f);
}

static int in_set(ns_str set, ns_str ch)
{
    for (size_t i = 0, w; i < set.n; i += w) {
        w = jstr_char(set, i);
        if (w == ch.n && !memcmp(set.p + i, ch.p, w)) return 1;
    }
    return 0;
}

ns_str jstr_strip(ns_str s, int left, int right, const ns_str *set)
{
    size_t w;
    while (left && s.n) {
        w = jstr_char(s, 0);
        if (set ? !in_set(*set, (ns_str){s.p, w}) : !jstr_is_space(s, 0, &w)) break;
        s.p += w;
        s.n -= w;
    }
    while (right && s.n) {
        size_t i = s.n - 1;
        while (i && ((unsigned char)s.p[i] & 0xc0) == 0x80) i--;
        if (set ? !in_set(*set, (ns_str){s.p + i, s.n - i}) : !jstr_is_space(s, i, &w)) break;
        s.n = i;
    }
    return s;
}

/* ---- case ---- */
static locale_t unicode_locale(void)
{
    static _Thread_local locale_t loc;
    if (!loc) loc = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    return loc;
}

static uint32_t to_case(uint32_t ch, int upper)
{
    if (ch < 0x80) {
        if (upper) return ch >= 'a' && ch <= 'z' ? ch - 32 : ch;
        return ch >= 'A' && ch <= 'Z' ? ch + 32 : ch;
    }
    locale_t loc = unicode_locale();
    if (!loc) return ch;
    return (uint32_t)(upper ? towupper_l((wint_t)ch, loc) : towlower_l((wint_t)ch, loc));
}

static int has_case(uint32_t ch)
{
    return to_case(ch, 1) != ch || to_case(ch, 0) != ch;
}

int jstr_map(jctx *c, jv *out, ns_str s, int how)
{
    char *p = jalloc(c, s.n * 2 + 8);
    size_t k = 0;
    int word = 0; /* inside of a word already */
    if (!p || !jcharge(c, s.n / 8)) return 0;
    for (size_t i = 0, w; i < s.n; i += w) {
        uint32_t ch = code_at(s, i, &w), up;
        size_t unused;
        if (how == 'u' || how == 'l')
            up = to_case(ch, how == 'u');
        else if (how == 's')
            up = to_case(ch, to_case(ch, 1) != ch);
        else
            up = to_case(ch, !word);
        if (how == 'c')
            word = 1;
        else if (how == 'T') /* str.title: a word is a run of letters with case */
            word = has_case(ch);
        else if (how == 't') /* Jinja's: words begin behind white space, '-' and brackets */
            word = !(jstr_is_space(s, i, &unused) || (ch < 0x80 && strchr("-({[<", (int)ch)));
        uint8_t u[4];
        size_t n = up == ch ? w : ns_utf8_put(u, up);
        memcpy(p + k, up == ch ? (const uint8_t *)s.p + i : u, n);
        k += n;
    }
    *out = jv_str(p, k);
    return 1;
}

/* ---- replace, split, indent ---- */
static const char *find(ns_str s, size_t from, ns_str what)
{
    if (from > s.n) return NULL;
    if (!what.n) return s.p + from;
    return s.n - from < what.n ? NULL : memmem(s.p + from, s.n - from, what.p, what.n);
}

static int keep(jctx *c, jv *out, ns_buf *b, int ok)
{
    if (ok) return jv_keep(c, out, b);
    ns_buf_free(b);
    return 0;
}

static int put(jctx *c, ns_buf *b, const char *p, size_t n)
{
    if (b->len + n > c->max_bytes)
        return jfail(c, "the template needs more than %zu MiB of memory", c->max_bytes >> 20);
    return jcharge(c, n / 64) && ns_buf_add(b, p, n, c->err) == NS_OK;
}

int jstr_replace(jctx *c, jv *out, ns_str s, ns_str from, ns_str to, int64_t count)
{
    ns_buf b = {0};
    int ok = jcharge(c, s.n / 32);
    size_t at = 0;
    if (!from.n) { /* between all characters */
        for (;; count--) {
            if (count != 0) ok = ok && put(c, &b, to.p, to.n);
            if (at >= s.n || !ok) break;
            size_t w = jstr_char(s, at);
            ok = ok && jcharge(c, 1) && put(c, &b, s.p + at, w);
            at += w;
            if (count == 0) count = 1;
        }
        return keep(c, out, &b, ok);
    }
    for (const char *hit; ok && count != 0 && (hit = find(s, at, from)); count--) {
        ok = jcharge(c, 1) && put(c, &b, s.p + at, (size_t)(hit - s.p) - at) && put(c, &b, to.p, to.n);
        at = (size_t)(hit - s.p) + from.n;
    }
    if (at == 0 && ok) {
        ns_buf_free(&b);
        *out = jv_text(s);
        return 1;
    }
    return keep(c, out, &b, ok && put(c, &b, s.p + at, s.n - at));
}

static size_t line_end(ns_str s, size_t at, size_t *w)
{
    uint32_t ch = code_at(s, at, w);
    if (ch == '\r' && at + 1 < s.n && s.p[at + 1] == '\n') return *w = 2, 1;
    return ch == '\n' || ch == '\r' || ch == 0x0b || ch == 0x0c || (ch >= 0x1c && ch <= 0x1e) || ch == 0x85 ||
           ch == 0x2028 || ch == 0x2029;
}

int jstr_splitlines(jctx *c, jv *out, ns_str s, int keep_ends)
{
    if (!jv_new_list(c, out, JL_LIST, 0) || !jcharge(c, s.n / 8)) return 0;
    size_t from = 0;
    for (size_t i = 0, w; i < s.n; i += w) {
        if (!line_end(s, i, &w)) continue;
        if (!jv_push(c, out->list, jv_str(s.p + from, i - from + (keep_ends ? w : 0)))) return 0;
        from = i + w;
    }
    return from == s.n || jv_push(c, out->list, jv_str(s.p + from, s.n - from));
}

int jstr_indent(jctx *c, jv *out, ns_str s, ns_str by, int first, int blank)
{
    jv lines;
    ns_buf b = {0}, with_end = {0};
    int ok = put(c, &with_end, s.p, s.n) && put(c, &with_end, "\n", 1);
    jv all;
    if (!keep(c, &all, &with_end, ok) || !jstr_splitlines(c, &lines, all.s, 0)) return 0;
    for (size_t i = 0; ok && i < lines.list->n; i++) {
        ns_str line = lines.list->v[i].s;
        if (i) ok = put(c, &b, "\n", 1);
        if (ok && (i ? line.n || blank : first)) ok = put(c, &b, by.p, by.n);
        ok = ok && put(c, &b, line.p, line.n);
    }
    return keep(c, out, &b, ok);
}

static int split_space(jctx *c, jv *out, ns_str s, int64_t max, int from_right)
{
    /* the words, then join what is over the limit */
    if (!jv_new_list(c, out, JL_LIST, 0) || !jcharge(c, s.n / 8)) return 0;
    jv_list *l = out->list;
    size_t i = 0, w;
    while (i < s.n) {
        while (i < s.n && jstr_is_space(s, i, &w)) i += w;
        if (i >= s.n) break;
        size_t from = i;
        while (i < s.n && !jstr_is_space(s, i, &w)) i += w;
        if (!jv_push(c, l, jv_str(s.p + from, i - from))) return 0;
    }
    if (max < 0 || l->n <= (size_t)max + 1) return 1;
    size_t keep_n = (size_t)max + 1;
    if (!from_right) {
        const char *last = l->v[max].s.p; /* the rest keeps its white space */
        l->v[max].s = (ns_str){last, (size_t)(s.p + s.n - last)};
        l->n = keep_n;
    } else {
        size_t drop = l->n - keep_n;
        ns_str first = l->v[drop].s;
        memmove(l->v, l->v + drop, keep_n * sizeof *l->v);
        l->v[0].s = (ns_str){s.p, (size_t)(first.p + first.n - s.p)};
        l->n = keep_n;
    }
    return 1;
}

static int split_on(jctx *c, jv *out, ns_str s, ns_str sep, int64_t max, int from_right)
{
    if (!sep.n) return jfail(c, "split: empty separator");
    if (!jv_new_list(c, out, JL_LIST, 0) || !jcharge(c, s.n / 16)) return 0;
    jv_list *l = out->list;
    if (!from_right) {
        size_t at = 0;
        for (const char *hit; max != 0 && (hit = find(s, at, sep)); max--) {
            if (!jv_push(c, l, jv_str(s.p + at, (size_t)(hit - s.p) - at))) return 0;
            at = (size_t)(hit - s.p) + sep.n;
        }
        return jv_push(c, l, jv_str(s.p + at, s.n - at));
    }
    size_t end = s.n;
    while (max != 0 && end >= sep.n) {
        size_t i = end - sep.n;
        for (; i > 0 && memcmp(s.p + i, sep.p, sep.n); i--)
            if (!jcharge(c, 1 + sep.n / 64)) return 0;
        if (memcmp(s.p + i, sep.p, sep.n)) break;
        if (!jcharge(c, (end - i) / 16) || !jv_push(c, l, jv_str(s.p + i + sep.n, end - i - sep.n))) return 0;
        end = i;
        max--;
    }
    if (!jv_push(c, l, jv_str(s.p, end))) return 0;
    for (size_t i = 0, j = l->n - 1; i < j; i++, j--) {
        jv t = l->v[i];
        l->v[i] = l->v[j];
        l->v[j] = t;
    }
    return 1;
}

/* ---- % formatting ---- */
static int percent_one(jctx *c, ns_buf *b, const char *spec, size_t n, jv v)
{
    char fmt[32], text[400];
    char kind = spec[n - 1];
    ns_str s;
    int64_t i;
    if (n > 20) return jfail(c, "a %% format is too long");
    if (kind == 's' || kind == 'r') {
        ns_buf r = {0};
        jv t;
        int ok = kind == 'r' ? jv_repr(c, &r, v) && jv_keep(c, &t, &r) : (jv_as_str(c, &s, v) && (t = jv_text(s), 1));
        ns_buf_free(&r);
        if (n != 2) return jfail(c, "the format '%.*s' is not supported (%%s is)", (int)n, spec);
        return ok && put(c, b, t.s.p, t.s.n);
    }
    for (size_t k = 1; k + 1 < n; k++)
        if (!strchr("0123456789.+- ", spec[k])) return jfail(c, "the format '%.*s' is not supported", (int)n, spec);
    const char *digits = spec + 1;
    long width = 0;
    for (; digits < spec + n; digits++)
        if (*digits >= '0' && *digits <= '9') width = width * 10 + (*digits - '0');
    if (width > 300) return jfail(c, "the format '%.*s' is too wide", (int)n, spec);
    if (kind == 'd' || kind == 'i' || kind == 'x' || kind == 'X' || kind == 'o') {
        if (v.type == JV_FLOAT && v.f > -9e18 && v.f < 9e18) v = jv_int((int64_t)v.f);
        if (!jv_arg_int(c, v, "%d", &i)) return 0;
        snprintf(fmt, sizeof fmt, "%.*sll%c", (int)n - 1, spec, kind);
        snprintf(text, sizeof text, fmt, (long long)i);
    } else {
        double f = v.type == JV_FLOAT ? v.f : (double)v.i;
        if (v.type != JV_FLOAT && v.type != JV_INT && v.type != JV_BOOL)
            return jfail(c, "%%%c needs a number, found %s", kind, jv_type_name(v));
        if (f > 1e15 || f < -1e15) return jfail(c, "%%%c: the number is too large", kind);
        snprintf(fmt, sizeof fmt, "%.*s", (int)n, spec);
        snprintf(text, sizeof text, fmt, f);
    }
    return put(c, b, text, strlen(text));
}

int jstr_format_percent(jctx *c, jv *out, ns_str f, jv args)
{
    ns_buf b = {0};
    jv_list one = {.v = &args, .n = 1}, *l = args.type == JV_LIST && args.list->kind == JL_TUPLE ? args.list : &one;
    size_t used = 0, n_args = l->n;
    int ok = 1;
    for (size_t i = 0; ok && i < f.n;) {
        if (f.p[i] != '%') {
            size_t j = i;
            while (j < f.n && f.p[j] != '%') j++;
            ok = put(c, &b, f.p + i, j - i);
            i = j;
            continue;
        }
        size_t j = i + 1;
        while (j < f.n && strchr("0123456789.+- #", f.p[j])) j++;
        if (j >= f.n) {
            ok = jfail(c, "incomplete format");
        } else if (f.p[j] == '%') {
            ok = put(c, &b, "%", 1);
        } else if (!strchr("sdirxXofFeEgG", f.p[j])) {
            ok = jfail(c, "the format '%%%c' is not supported", f.p[j]);
        } else if (used >= n_args) {
            ok = jfail(c, "not enough arguments for format string");
        } else {
            ok = percent_one(c, &b, f.p + i, j - i + 1, l->v[used++]);
        }
        i = j + 1;
    }
    if (ok && used < n_args && !(l == &one && args.type == JV_DICT))
        ok = jfail(c, "not all arguments converted during string formatting");
    return keep(c, out, &b, ok);
}

/* str.format with {}, {0}, {name}: no attributes, conversions or specifications. */
static int format_braces(jctx *c, jv *out, ns_str f, jargs *a)
{
    ns_buf b = {0};
    size_t next = 0;
    int ok = 1;
    for (size_t i = 0; ok && i < f.n; i++) {
        char ch = f.p[i];
        if ((ch == '{' || ch == '}') && i + 1 < f.n && f.p[i + 1] == ch) {
            ok = put(c, &b, &ch, 1);
            i++;
            continue;
        }
        if (ch == '}') ok = jfail(c, "format: single '}'");
        if (ch != '{') {
            ok = ok && put(c, &b, &ch, 1);
            continue;
        }
        const char *end = memchr(f.p + i, '}', f.n - i);
        if (!end) {
            ok = jfail(c, "format: '{' has no '}'");
            break;
        }
        ns_str name = {f.p + i + 1, (size_t)(end - f.p) - i - 1}, text;
        size_t index = 0, k = 0;
        for (; k < name.n && name.p[k] >= '0' && name.p[k] <= '9' && k < 6; k++)
            index = index * 10 + (size_t)(name.p[k] - '0');
        const jv *v = NULL;
        if (k == name.n) {
            if (!name.n) index = next++;
            if (index < a->n) v = &a->v[index];
        }
        for (size_t q = 0; q < a->n_kw; q++)
            if (js_eq(a->kw[q].name, name)) v = &a->kw[q].v;
        if (!v && memchr(name.p, ':', name.n))
            ok =
                jfail(c, "format: the specification '%.*s' is not supported", (int)(name.n < 40 ? name.n : 40), name.p);
        else if (!v)
            ok = jfail(c, "format: no argument for '{%.*s}'", (int)(name.n < 40 ? name.n : 40), name.p);
        ok = ok && jv_as_str(c, &text, *v) && put(c, &b, text.p, text.n);
        i = (size_t)(end - f.p);
    }
    return keep(c, out, &b, ok);
}

/* ---- methods ---- */
enum method {
    M_UPPER,
    M_LOWER,
    M_TITLE,
    M_CAPITALIZE,
    M_SWAPCASE,
    M_CASEFOLD,
    M_STRIP,
    M_LSTRIP,
    M_RSTRIP,
    M_SPLIT,
    M_RSPLIT,
    M_SPLITLINES,
    M_STARTSWITH,
    M_ENDSWITH,
    M_REPLACE,
    M_FIND,
    M_RFIND,
    M_INDEX,
    M_RINDEX,
    M_COUNT,
    M_JOIN,
    M_FORMAT,
    M_ISDIGIT,
    M_ISDECIMAL,
    M_ISNUMERIC,
    M_ISALPHA,
    M_ISALNUM,
    M_ISSPACE,
    M_ISUPPER,
    M_ISLOWER,
    M_ZFILL,
    M_CENTER,
    M_LJUST,
    M_RJUST,
    M_REMOVEPREFIX,
    M_REMOVESUFFIX,
    M_PARTITION,
    M_RPARTITION,
    N_METHODS
};
static const char *const methods[N_METHODS] = {
    "upper",     "lower",   "title",        "capitalize",   "swapcase",   "casefold",   "strip",   "lstrip",
    "rstrip",    "split",   "rsplit",       "splitlines",   "startswith", "endswith",   "replace", "find",
    "rfind",     "index",   "rindex",       "count",        "join",       "format",     "isdigit", "isdecimal",
    "isnumeric", "isalpha", "isalnum",      "isspace",      "isupper",    "islower",    "zfill",   "center",
    "ljust",     "rjust",   "removeprefix", "removesuffix", "partition",  "rpartition",
};

static int method_of(ns_str name)
{
    for (int i = 0; i < N_METHODS; i++)
        if (jis(name, methods[i])) return i;
    return -1;
}

int jstr_method_known(ns_str name)
{
    return method_of(name) >= 0;
}

static int is_kind(ns_str s, enum method m)
{
    int cased = 0;
    if (!s.n) return 0;
    for (size_t i = 0, w; i < s.n; i += w) {
        uint32_t ch = code_at(s, i, &w);
        unsigned cls = ns_uni_class(ch);
        size_t unused;
        if (m == M_ISSPACE) {
            if (!jstr_is_space(s, i, &unused)) return 0;
        } else if (m == M_ISALPHA || m == M_ISALNUM) {
            if (!(cls & (m == M_ISALPHA ? NS_UC_L : NS_UC_L | NS_UC_N))) return 0;
        } else if (m == M_ISUPPER || m == M_ISLOWER) {
            if (to_case(ch, m != M_ISUPPER) != ch) cased |= 1;
            if (to_case(ch, m == M_ISUPPER) != ch) return 0;
        } else if (!(cls & NS_UC_N)) {
            return 0;
        }
    }
    return m == M_ISUPPER || m == M_ISLOWER ? cased : 1;
}

/* str argument number i; *given 0 when absent or None. */
static int str_arg(jctx *c, jargs *a, size_t i, const char *name, ns_str *out, int *given, const char *method)
{
    jv v;
    *given = jarg(c, a, i, name, &v) && v.type != JV_NONE;
    if (!*given) return 1;
    if (v.type != JV_STR)
        return jv_need_defined(c, v) && jfail(c, "%s: expected text, found %s", method, jv_type_name(v));
    *out = v.s;
    return 1;
}

static int starts_or_ends(jctx *c, jv *out, ns_str s, jargs *a, int ends)
{
    jv what, from;
    int64_t start = 0;
    if (!jarg(c, a, 0, "", &what)) return jfail(c, "%s: expected a text", ends ? "endswith" : "startswith");
    if (jarg(c, a, 1, "", &from)) {
        if (!jv_arg_int(c, from, "start", &start)) return 0;
        if (start < 0) start += (int64_t)jstr_len(s);
        size_t cut = jstr_byte(s, start > 0 ? (size_t)start : 0);
        s.p += cut;
        s.n -= cut;
    }
    jv_list one = {.v = &what, .n = 1}, *l = what.type == JV_LIST && what.list->kind == JL_TUPLE ? what.list : &one;
    *out = jv_bool(0);
    for (size_t i = 0; i < l->n; i++) {
        ns_str w = l->v[i].s;
        if (l->v[i].type != JV_STR)
            return jv_need_defined(c, l->v[i]) && jfail(c, "%s: expected text or a tuple of texts, found %s",
                                                        ends ? "endswith" : "startswith", jv_type_name(l->v[i]));
        if (w.n <= s.n && !memcmp(ends ? s.p + s.n - w.n : s.p, w.p, w.n)) *out = jv_bool(1);
    }
    return 1;
}

static int find_method(jctx *c, jv *out, ns_str s, ns_str what, enum method m)
{
    size_t at = SIZE_MAX, n = 0;
    if (!jcharge(c, s.n / 32)) return 0;
    if (m == M_COUNT) {
        if (!what.n) return *out = jv_int((int64_t)jstr_len(s) + 1), 1;
        for (const char *hit = s.p; (hit = find(s, (size_t)(hit - s.p), what)); hit += what.n) n++;
        return *out = jv_int((int64_t)n), 1;
    }
    const char *hit = find(s, 0, what);
    if (hit) at = (size_t)(hit - s.p);
    if (hit && (m == M_RFIND || m == M_RINDEX))
        for (at = s.n - what.n; what.n && memcmp(s.p + at, what.p, what.n); at--)
            if (!jcharge(c, 1 + what.n / 64)) return 0;
    if (at == SIZE_MAX) {
        if (m == M_INDEX || m == M_RINDEX) return jfail(c, "%s: the text is not found", methods[m]);
        return *out = jv_int(-1), 1;
    }
    *out = jv_int((int64_t)jstr_len((ns_str){s.p, at}));
    return 1;
}

static int partition(jctx *c, jv *out, ns_str s, ns_str sep, int right)
{
    jv parts;
    if (!split_on(c, &parts, s, sep, 1, right) || !jv_new_list(c, out, JL_TUPLE, 3)) return 0;
    jv_list *l = parts.list;
    jv none = jv_str("", 0);
    int hit = l->n == 2;
    return jv_push(c, out->list, hit || !right ? l->v[0] : none) && jv_push(c, out->list, hit ? jv_text(sep) : none) &&
           jv_push(c, out->list,
                   hit     ? l->v[1]
                   : right ? l->v[0]
                           : none);
}

static int pad(jctx *c, jv *out, ns_str s, jargs *a, enum method m)
{
    jv v;
    int64_t width;
    ns_str fill = JS(" ");
    int given;
    if (!jarg(c, a, 0, "", &v) || !jv_arg_int(c, v, methods[m], &width))
        return jfail(c, "%s: expected a width", methods[m]);
    if (!str_arg(c, a, 1, "", &fill, &given, methods[m])) return 0;
    if (m == M_ZFILL) fill = JS("0");
    int64_t missing = width - (int64_t)jstr_len(s);
    if (missing <= 0) return *out = jv_text(s), 1;
    if (missing > 1 << 20) return jfail(c, "%s: the width %lld is too large", methods[m], (long long)width);
    int64_t left = m == M_RJUST || m == M_ZFILL ? missing : m == M_LJUST ? 0 : missing / 2 + (missing & width & 1);
    ns_buf b = {0};
    int ok = 1;
    if (m == M_ZFILL && s.n && (s.p[0] == '-' || s.p[0] == '+')) {
        ok = put(c, &b, s.p, 1);
        s.p++, s.n--;
    }
    for (int64_t i = 0; ok && i < left; i++) ok = put(c, &b, fill.p, fill.n);
    ok = ok && put(c, &b, s.p, s.n);
    for (int64_t i = left; ok && i < missing; i++) ok = put(c, &b, fill.p, fill.n);
    return keep(c, out, &b, ok);
}

static int join_method(jctx *c, jv *out, ns_str s, jargs *a)
{
    jv v;
    jv_list l;
    ns_buf b = {0};
    if (!jarg(c, a, 0, "", &v)) return jfail(c, "join: expected a list");
    if (!jv_iter(c, &l, v)) return 0;
    int ok = 1;
    for (size_t i = 0; ok && i < l.n; i++) {
        if (l.v[i].type != JV_STR) ok = jfail(c, "join: item %zu is %s, expected text", i, jv_type_name(l.v[i]));
        ok = ok && (!i || put(c, &b, s.p, s.n)) && put(c, &b, l.v[i].s.p, l.v[i].s.n);
    }
    return keep(c, out, &b, ok);
}

static int split_method(jctx *c, jv *out, ns_str s, jargs *a, int right)
{
    ns_str sep;
    int given;
    jv v;
    int64_t max = -1;
    if (!str_arg(c, a, 0, "sep", &sep, &given, "split")) return 0;
    if (jarg(c, a, 1, "maxsplit", &v) && !jv_arg_int(c, v, "maxsplit", &max)) return 0;
    return given ? split_on(c, out, s, sep, max, right) : split_space(c, out, s, max, right);
}

int jstr_method(jctx *c, jv *out, ns_str s, ns_str name, jargs *a)
{
    int m = method_of(name), given;
    ns_str x, y;
    jv v;
    int64_t n = -1;
    switch (m) {
    case M_UPPER: return jstr_map(c, out, s, 'u');
    case M_LOWER:
    case M_CASEFOLD: return jstr_map(c, out, s, 'l');
    case M_TITLE: return jstr_map(c, out, s, 'T');
    case M_CAPITALIZE: return jstr_map(c, out, s, 'c');
    case M_SWAPCASE: return jstr_map(c, out, s, 's');
    case M_STRIP:
    case M_LSTRIP:
    case M_RSTRIP:
        if (!str_arg(c, a, 0, "", &x, &given, methods[m])) return 0;
        *out = jv_text(jstr_strip(s, m != M_RSTRIP, m != M_LSTRIP, given ? &x : NULL));
        return jcharge(c, s.n / 32);
    case M_SPLIT:
    case M_RSPLIT: return split_method(c, out, s, a, m == M_RSPLIT);
    case M_SPLITLINES: return jstr_splitlines(c, out, s, jarg(c, a, 0, "keepends", &v) && jv_truth(v));
    case M_STARTSWITH:
    case M_ENDSWITH: return starts_or_ends(c, out, s, a, m == M_ENDSWITH);
    case M_REPLACE:
        if (!str_arg(c, a, 0, "old", &x, &given, "replace") || !given) return jfail(c, "replace: expected two texts");
        if (!str_arg(c, a, 1, "new", &y, &given, "replace") || !given) return jfail(c, "replace: expected two texts");
        if (jarg(c, a, 2, "count", &v) && !jv_arg_int(c, v, "count", &n)) return 0;
        return jstr_replace(c, out, s, x, y, n);
    case M_FIND:
    case M_RFIND:
    case M_INDEX:
    case M_RINDEX:
    case M_COUNT:
        if (a->n > 1) return jfail(c, "%s: start and end are not supported", methods[m]);
        if (!str_arg(c, a, 0, "", &x, &given, methods[m]) || !given) return jfail(c, "%s: expected a text", methods[m]);
        return find_method(c, out, s, x, (enum method)m);
    case M_JOIN: return join_method(c, out, s, a);
    case M_FORMAT: return format_braces(c, out, s, a);
    case M_ZFILL:
    case M_CENTER:
    case M_LJUST:
    case M_RJUST: return pad(c, out, s, a, (enum method)m);
    case M_REMOVEPREFIX:
    case M_REMOVESUFFIX:
        if (!str_arg(c, a, 0, "", &x, &given, methods[m]) || !given) return jfail(c, "%s: expected a text", methods[m]);
        if (x.n <= s.n && !memcmp(m == M_REMOVEPREFIX ? s.p : s.p + s.n - x.n, x.p, x.n)) {
            if (m == M_REMOVEPREFIX) s.p += x.n;
            s.n -= x.n;
        }
        return *out = jv_text(s), 1;
    case M_PARTITION:
    case M_RPARTITION:
        if (!str_arg(c, a, 0, "", &x, &given, methods[m]) || !given) return jfail(c, "%s: expected a text", methods[m]);
        return partition(c, out, s, x, m == M_RPARTITION);
    default: return *out = jv_bool(is_kind(s, (enum method)m)), jcharge(c, s.n / 8);
    }
}
