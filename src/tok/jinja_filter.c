/* Filters of templates, with the argument names and defaults of Jinja 3.1 (tojson: those of transformers). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tok/jinja_internal.h"

/* soft_str: text as it is, anything else through str(). */
static int text_of(jctx *c, ns_str *s, jv x)
{
    return (x.type != JV_UNDEF || x.kind != 2 || jv_need_defined(c, x)) && jv_as_str(c, s, x);
}

static int flag(jctx *c, jargs *a, size_t i, const char *name, int def)
{
    jv v;
    return jarg(c, a, i, name, &v) ? jv_truth(v) : def;
}

static int text_arg(jctx *c, jargs *a, size_t i, const char *name, ns_str *out, const char *def)
{
    jv v;
    *out = (ns_str){def, strlen(def)};
    return !jarg(c, a, i, name, &v) || jv_as_str(c, out, v);
}

/* "a.b.0" looked up in v, item by item (attribute= of map, sort, join ...). */
static int lookup(jctx *c, jv *out, jv v, jv path)
{
    if (path.type == JV_INT) return jv_item(c, out, v, path);
    if (path.type != JV_STR)
        return jv_need_defined(c, path) && jfail(c, "attribute: expected text, found %s", jv_type_name(path));
    ns_str p = path.s;
    *out = v;
    for (;;) {
        const char *dot = p.n ? memchr(p.p, '.', p.n) : NULL;
        size_t n = dot ? (size_t)(dot - p.p) : p.n, digits = 0;
        int64_t index = 0;
        for (; digits < n && digits < 9 && p.p[digits] >= '0' && p.p[digits] <= '9'; digits++)
            index = index * 10 + (p.p[digits] - '0');
        jv key = n && digits == n ? jv_int(index) : jv_str(p.p, n);
        if (!jv_item(c, out, *out, key)) return 0;
        if (!dot) return 1;
        p.p += n + 1;
        p.n -= n + 1;
    }
}

/* ---- text ---- */
static int f_trim(jctx *c, jv *out, jv x, jargs *a)
{
    ns_str s, set;
    jv v;
    int given = jarg(c, a, 0, "chars", &v) && v.type != JV_NONE;
    if (!text_of(c, &s, x) || (given && !jv_as_str(c, &set, v))) return 0;
    *out = jv_text(jstr_strip(s, 1, 1, given ? &set : NULL));
    return jcharge(c, s.n / 32);
}
static int mapped(jctx *c, jv *out, jv x, int how)
{
    ns_str s;
    return text_of(c, &s, x) && jstr_map(c, out, s, how);
}
static int f_upper(jctx *c, jv *out, jv x, jargs *a)
{
    (void)a;
    return mapped(c, out, x, 'u');
}
static int f_lower(jctx *c, jv *out, jv x, jargs *a)
{
    (void)a;
    return mapped(c, out, x, 'l');
}
static int f_title(jctx *c, jv *out, jv x, jargs *a)
{
    (void)a;
    return mapped(c, out, x, 't');
}
static int f_capitalize(jctx *c, jv *out, jv x, jargs *a)
{
    (void)a;
    return mapped(c, out, x, 'c');
}

static int f_string(jctx *c, jv *out, jv x, jargs *a)
{
    ns_str s;
    (void)a;
    if (!text_of(c, &s, x)) return 0;
    *out = x.type == JV_STR ? x : jv_text(s);
    return 1;
}
static int f_safe(jctx *c, jv *out, jv x, jargs *a)
{
    int ok = f_string(c, out, x, a);
    out->kind = 1;
    return ok;
}

static int f_replace(jctx *c, jv *out, jv x, jargs *a)
{
    ns_str s, from, to;
    jv v;
    int64_t count = -1;
    if (!text_of(c, &s, x) || !jarg(c, a, 0, "old", &v) || !jv_as_str(c, &from, v) || !jarg(c, a, 1, "new", &v) ||
        !jv_as_str(c, &to, v))
        return jfail(c, "replace: expected two texts");
    if (jarg(c, a, 2, "count", &v) && v.type != JV_NONE && !jv_arg_int(c, v, "count", &count)) return 0;
    return jstr_replace(c, out, s, from, to, count);
}

static int spaces(jctx *c, ns_str *out, int64_t n, const char *what)
{
    if (n > 1 << 16) return jfail(c, "%s of %lld is too large", what, (long long)n);
    char *p = jalloc(c, n > 0 ? (size_t)n : 1);
    if (!p) return 0;
    if (n > 0) memset(p, ' ', (size_t)n);
    *out = (ns_str){p, n > 0 ? (size_t)n : 0};
    return 1;
}

static int f_indent(jctx *c, jv *out, jv x, jargs *a)
{
    ns_str s, by;
    jv v = jv_int(4);
    int64_t n;
    if (x.type != JV_STR) return jv_need_defined(c, x) && jfail(c, "indent: expected text, found %s", jv_type_name(x));
    s = x.s;
    jarg(c, a, 0, "width", &v);
    if (v.type == JV_STR)
        by = v.s;
    else if (!jv_arg_int(c, v, "indent", &n) || !spaces(c, &by, n, "an indent"))
        return 0;
    return jstr_indent(c, out, s, by, flag(c, a, 1, "first", 0), flag(c, a, 2, "blank", 0));
}

static int f_center(jctx *c, jv *out, jv x, jargs *a)
{
    ns_str s;
    jv width = jv_int(80);
    jarg(c, a, 0, "width", &width);
    jargs m = {.v = &width, .n = 1};
    return text_of(c, &s, x) && jstr_method(c, out, s, JS("center"), &m);
}

static int f_format(jctx *c, jv *out, jv x, jargs *a)
{
    ns_str s;
    jv all;
    if (!text_of(c, &s, x) || !jv_new_list(c, &all, JL_TUPLE, a->n)) return 0;
    for (size_t i = 0; i < a->n; i++)
        if (!jv_push(c, all.list, a->v[i])) return 0;
    return jstr_format_percent(c, out, s, all);
}

static int f_escape(jctx *c, jv *out, jv x, jargs *a)
{
    ns_str s;
    (void)a;
    if (x.type == JV_STR && x.kind) return *out = x, 1;
    if (!text_of(c, &s, x)) return 0;
    jv empty = jv_str("", 0); /* escaping is what joining with safe text does */
    empty.kind = 1;
    return jbinary(c, out, JO_ADD, empty, jv_text(s));
}

static int f_wordcount(jctx *c, jv *out, jv x, jargs *a)
{
    ns_str s;
    int64_t n = 0;
    (void)a;
    if (!text_of(c, &s, x)) return 0;
    for (size_t i = 0, w, in = 0; i < s.n; i += w) {
        size_t space = (size_t)jstr_is_space(s, i, &w);
        n += !space && !in;
        in = !space;
    }
    *out = jv_int(n);
    return jcharge(c, s.n / 16);
}

static int f_truncate(jctx *c, jv *out, jv x, jargs *a)
{
    ns_str s, end;
    jv v;
    int64_t length = 255, leeway = 5;
    if (!text_of(c, &s, x) || (jarg(c, a, 0, "length", &v) && !jv_arg_int(c, v, "length", &length)) ||
        !text_arg(c, a, 2, "end", &end, "...") ||
        (jarg(c, a, 3, "leeway", &v) && v.type != JV_NONE && !jv_arg_int(c, v, "leeway", &leeway)))
        return 0;
    int64_t n = (int64_t)jstr_len(s), n_end = (int64_t)jstr_len(end);
    if (n <= length + leeway) return *out = jv_text(s), 1;
    if (length < n_end) return jfail(c, "truncate: the length is shorter than the end text");
    ns_str cut = {s.p, jstr_byte(s, (size_t)(length - n_end))};
    if (!flag(c, a, 1, "killwords", 0)) {
        size_t k = cut.n;
        while (k && cut.p[k - 1] != ' ') k--;
        if (k) cut.n = k - 1;
    }
    return jbinary(c, out, JO_ADD, jv_text(cut), jv_text(end));
}

static int f_tojson(jctx *c, jv *out, jv x, jargs *a)
{
    jjson o = {.ascii = flag(c, a, 0, "ensure_ascii", 0), .sort = flag(c, a, 3, "sort_keys", 0)};
    jv v;
    int64_t n;
    ns_buf b = {0};
    if (jarg(c, a, 1, "indent", &v) && v.type != JV_NONE) {
        if (v.type == JV_STR)
            o.indent = v.s;
        else if (!jv_arg_int(c, v, "indent", &n) || !spaces(c, &o.indent, n, "an indent"))
            return 0;
    }
    o.item_sep = o.indent.p ? JS(",") : JS(", ");
    o.key_sep = JS(": ");
    if (jarg(c, a, 2, "separators", &v) && v.type != JV_NONE) {
        if (v.type != JV_LIST || v.list->n != 2 || v.list->v[0].type != JV_STR || v.list->v[1].type != JV_STR)
            return jfail(c, "tojson: separators must be two texts");
        o.item_sep = v.list->v[0].s;
        o.key_sep = v.list->v[1].s;
    }
    int ok = jv_tojson(c, &b, x, &o) && jv_keep(c, out, &b);
    ns_buf_free(&b);
    return ok;
}

/* ---- numbers ---- */
/* Python's float(text): white space around, digits, sign, exponent, inf, nan. */
static int parse_float(ns_str s, double *f)
{
    char text[64], *end;
    s = jstr_strip(s, 1, 1, NULL);
    if (!s.n || s.n >= sizeof text || memchr(s.p, 'x', s.n) || memchr(s.p, 'X', s.n)) return 0;
    memcpy(text, s.p, s.n);
    text[s.n] = 0;
    *f = strtod(text, &end);
    return !*end && end != text;
}

static int f_int(jctx *c, jv *out, jv x, jargs *a)
{
    jv def = jv_int(0), v;
    int64_t base = 10;
    double f;
    jarg(c, a, 0, "default", &def);
    if (jarg(c, a, 1, "base", &v) && !jv_arg_int(c, v, "base", &base)) return 0;
    if (!jv_need_defined(c, x)) return 0;
    if (x.type == JV_BIG) return *out = x, 1;
    if (x.type == JV_INT || x.type == JV_BOOL) return *out = jv_int(x.i), 1;
    if (x.type == JV_STR) {
        char text[64], *end;
        ns_str s = jstr_strip(x.s, 1, 1, NULL);
        if (base < 0 || base > 36 || base == 1) return jfail(c, "int: base must be 0 or 2 to 36");
        if (s.n && s.n < sizeof text) {
            size_t k = 0;
            for (size_t i = 0; i < s.n; i++)
                if (s.p[i] != '_') text[k++] = s.p[i];
            text[k] = 0;
            long long n = strtoll(text, &end, (int)base);
            if (!*end && end != text) return *out = jv_int(n), 1;
        }
        if (!parse_float(x.s, &f)) return *out = def, 1;
    } else if (x.type == JV_FLOAT) {
        f = x.f;
    } else {
        return *out = def, 1;
    }
    if (f != f || isinf(f)) return *out = def, 1;
    if (f >= 9.2e18 || f <= -9.2e18) return jfail(c, "int: the number is too large (more than 64 bits)");
    *out = jv_int((int64_t)f);
    return 1;
}

static int f_float(jctx *c, jv *out, jv x, jargs *a)
{
    jv def = jv_float(0);
    double f;
    jarg(c, a, 0, "default", &def);
    if (!jv_need_defined(c, x)) return 0;
    if (x.type == JV_FLOAT)
        *out = x;
    else if (x.type == JV_INT || x.type == JV_BOOL)
        *out = jv_float((double)x.i);
    else if ((x.type == JV_STR || x.type == JV_BIG) && parse_float(x.s, &f))
        *out = jv_float(f);
    else
        *out = def;
    return 1;
}

static int f_abs(jctx *c, jv *out, jv x, jargs *a)
{
    (void)a;
    if (x.type == JV_FLOAT) return *out = jv_float(fabs(x.f)), 1;
    int64_t i;
    if (!jv_arg_int(c, x, "abs", &i)) return 0;
    if (i == INT64_MIN) return jfail(c, "abs: the number is too large (more than 64 bits)");
    *out = jv_int(i < 0 ? -i : i);
    return 1;
}

static int f_round(jctx *c, jv *out, jv x, jargs *a)
{
    jv v;
    ns_str how;
    int64_t digits = 0;
    char text[400];
    if ((jarg(c, a, 0, "precision", &v) && !jv_arg_int(c, v, "precision", &digits)) ||
        !text_arg(c, a, 1, "method", &how, "common"))
        return 0;
    if (x.type != JV_FLOAT && x.type != JV_INT && x.type != JV_BOOL)
        return jv_need_defined(c, x) && jfail(c, "round: expected a number, found %s", jv_type_name(x));
    double f = x.type == JV_FLOAT ? x.f : (double)x.i, scale;
    if (digits < 0 || digits > 30) return jfail(c, "round: precision must be in 0..30");
    scale = pow(10, (double)digits);
    if (jis(how, "ceil"))
        f = ceil(f * scale) / scale;
    else if (jis(how, "floor"))
        f = floor(f * scale) / scale;
    else if (!jis(how, "common"))
        return jfail(c, "round: method must be common, ceil or floor");
    else if (fabs(f) < 1e15) {
        snprintf(text, sizeof text, "%.*f", (int)digits, f); /* exact decimal, ties to even: Python's round */
        f = strtod(text, NULL);
    }
    *out = x.type != JV_FLOAT && jis(how, "common") ? x : jv_float(f);
    return 1;
}

/* ---- lists ---- */
static int f_length(jctx *c, jv *out, jv x, jargs *a)
{
    int64_t n;
    (void)a;
    if (!jv_len(c, x, &n)) return 0;
    *out = jv_int(n);
    return 1;
}

static int f_list(jctx *c, jv *out, jv x, jargs *a)
{
    jv_list l;
    (void)a;
    if (!jv_iter(c, &l, x) || !jv_new_list(c, out, JL_LIST, l.n)) return 0;
    for (size_t i = 0; i < l.n; i++)
        if (!jv_push(c, out->list, l.v[i])) return 0;
    return 1;
}

static int f_first(jctx *c, jv *out, jv x, jargs *a)
{
    jv_list l;
    (void)a;
    if (x.type == JV_LIST && x.list->kind == JL_GEN) { /* takes one */
        jv_list *g = x.list;
        *out = g->at < g->n ? g->v[g->at++] : jv_undef(JS("No first item, sequence was empty."), 3);
        return 1;
    }
    if (!jv_iter(c, &l, x)) return 0;
    *out = l.n ? l.v[0] : jv_undef(JS("No first item, sequence was empty."), 3);
    return 1;
}

static int f_last(jctx *c, jv *out, jv x, jargs *a)
{
    jv_list l;
    (void)a;
    if (x.type == JV_LIST && x.list->kind == JL_GEN)
        return jfail(c, "last: a generator has no last item: use |list|last");
    if (!jv_iter(c, &l, x)) return 0;
    *out = l.n ? l.v[l.n - 1] : jv_undef(JS("No last item, sequence was empty."), 3);
    return 1;
}

static int f_join(jctx *c, jv *out, jv x, jargs *a)
{
    jv_list l;
    jv attr;
    ns_str d;
    ns_buf b = {0};
    int has_attr = jarg(c, a, 1, "attribute", &attr) && attr.type != JV_NONE;
    if (!text_arg(c, a, 0, "d", &d, "") || !jv_iter(c, &l, x)) return 0;
    int ok = 1;
    for (size_t i = 0; ok && i < l.n; i++) {
        jv v = l.v[i];
        if (has_attr) ok = lookup(c, &v, l.v[i], attr);
        if (ok && i) ok = jcharge(c, d.n / 64) && ns_buf_add(&b, d.p, d.n, c->err) == NS_OK;
        ok = ok && jv_to_text(c, &b, v);
        if (ok && b.len > c->max_bytes)
            ok = jfail(c, "the template needs more than %zu MiB of memory", c->max_bytes >> 20);
    }
    ok = ok && jv_keep(c, out, &b);
    ns_buf_free(&b);
    return ok;
}

static int f_reverse(jctx *c, jv *out, jv x, jargs *a)
{
    jv_list l;
    (void)a;
    if (!jv_iter(c, &l, x)) return 0;
    if (x.type == JV_STR) {
        char *p = jalloc(c, x.s.n + 1);
        size_t k = 0;
        if (!p) return 0;
        for (size_t i = l.n; i-- > 0; k += l.v[i].s.n) memcpy(p + k, l.v[i].s.p, l.v[i].s.n);
        *out = jv_str(p, k);
        return 1;
    }
    if (!jv_new_list(c, out, JL_GEN, l.n)) return 0;
    for (size_t i = l.n; i-- > 0;)
        if (!jv_push(c, out->list, l.v[i])) return 0;
    return 1;
}

static int f_items(jctx *c, jv *out, jv x, jargs *a)
{
    (void)a;
    if (!jv_new_list(c, out, JL_GEN, 0)) return 0;
    if (x.type == JV_UNDEF) return x.kind != 2 || jv_need_defined(c, x);
    if (x.type != JV_DICT) return jfail(c, "Can only get item pairs from a mapping, found %s", jv_type_name(x));
    for (size_t i = 0; i < x.dict->n; i++) {
        jv pair;
        if (!jv_new_list(c, &pair, JL_TUPLE, 2) || !jv_push(c, pair.list, x.dict->key[i]) ||
            !jv_push(c, pair.list, x.dict->val[i]) || !jv_push(c, out->list, pair))
            return 0;
    }
    return jcharge(c, x.dict->n);
}

/* ---- sorting: stable merge of (key, value) pairs ---- */
typedef struct keyed {
    jv key, val;
} keyed;

static int sort_keyed(jctx *c, keyed *v, keyed *tmp, size_t n, int reverse)
{
    if (n < 2) return 1;
    size_t h = n / 2, i = 0, j = h, k = 0;
    if (!sort_keyed(c, v, tmp, h, reverse) || !sort_keyed(c, v + h, tmp, n - h, reverse)) return 0;
    while (i < h && j < n) {
        int order;
        if (!jv_cmp(c, v[j].key, v[i].key, "<", &order)) return 0;
        if (order == 2) order = 0;
        tmp[k++] = (reverse ? order > 0 : order < 0) ? v[j++] : v[i++];
    }
    while (i < h) tmp[k++] = v[i++];
    while (j < n) tmp[k++] = v[j++];
    memcpy(v, tmp, n * sizeof *v);
    return 1;
}

static int ignore_case(jctx *c, jv *v)
{
    return v->type != JV_STR || jstr_map(c, v, v->s, 'l');
}

/* Pairs of (sort key, item) of a list, sorted. */
static int sorted(jctx *c, keyed **out, size_t *n, jv x, const jv *attr, int case_sensitive, int sort, int reverse)
{
    jv_list l;
    if (!jv_iter(c, &l, x)) return 0;
    keyed *v = jalloc(c, (l.n + 1) * 2 * sizeof *v);
    if (!v) return 0;
    for (size_t i = 0; i < l.n; i++) {
        v[i].val = v[i].key = l.v[i];
        if (attr && !lookup(c, &v[i].key, l.v[i], *attr)) return 0;
        if (!case_sensitive && !ignore_case(c, &v[i].key)) return 0;
    }
    *out = v;
    *n = l.n;
    return !sort || sort_keyed(c, v, v + l.n + 1, l.n, reverse);
}

static int f_sort(jctx *c, jv *out, jv x, jargs *a)
{
    jv attr;
    keyed *v;
    size_t n;
    int has = jarg(c, a, 2, "attribute", &attr) && attr.type != JV_NONE;
    if (has && attr.type == JV_STR && memchr(attr.s.p, ',', attr.s.n))
        return jfail(c, "sort: several attributes are not supported");
    if (!sorted(c, &v, &n, x, has ? &attr : NULL, flag(c, a, 1, "case_sensitive", 0), 1, flag(c, a, 0, "reverse", 0)) ||
        !jv_new_list(c, out, JL_LIST, n))
        return 0;
    for (size_t i = 0; i < n; i++)
        if (!jv_push(c, out->list, v[i].val)) return 0;
    return 1;
}

static int f_dictsort(jctx *c, jv *out, jv x, jargs *a)
{
    ns_str by;
    if (x.type != JV_DICT)
        return jv_need_defined(c, x) && jfail(c, "dictsort: expected a mapping, found %s", jv_type_name(x));
    if (!text_arg(c, a, 1, "by", &by, "key")) return 0;
    if (!jis(by, "key") && !jis(by, "value")) return jfail(c, "dictsort: by must be 'key' or 'value'");
    size_t n = x.dict->n;
    int cased = flag(c, a, 0, "case_sensitive", 0);
    keyed *v = jalloc(c, (n + 1) * 2 * sizeof *v);
    if (!v) return 0;
    for (size_t i = 0; i < n; i++) {
        v[i].key = jis(by, "key") ? x.dict->key[i] : x.dict->val[i];
        if (!cased && !ignore_case(c, &v[i].key)) return 0;
        if (!jv_new_list(c, &v[i].val, JL_TUPLE, 2) || !jv_push(c, v[i].val.list, x.dict->key[i]) ||
            !jv_push(c, v[i].val.list, x.dict->val[i]))
            return 0;
    }
    if (!sort_keyed(c, v, v + n + 1, n, flag(c, a, 2, "reverse", 0)) || !jv_new_list(c, out, JL_LIST, n)) return 0;
    for (size_t i = 0; i < n; i++)
        if (!jv_push(c, out->list, v[i].val)) return 0;
    return 1;
}

static int f_unique(jctx *c, jv *out, jv x, jargs *a)
{
    jv attr, seen, unused;
    keyed *v;
    size_t n;
    int has = jarg(c, a, 1, "attribute", &attr) && attr.type != JV_NONE;
    if (!sorted(c, &v, &n, x, has ? &attr : NULL, flag(c, a, 0, "case_sensitive", 0), 0, 0) || !jv_new_dict(c, &seen) ||
        !jv_new_list(c, out, JL_GEN, 0))
        return 0;
    for (size_t i = 0; i < n; i++) {
        int found = jv_dict_get(c, seen.dict, v[i].key, &unused);
        if (found < 0 ||
            (!found && (!jv_dict_set(c, seen.dict, v[i].key, jv_none()) || !jv_push(c, out->list, v[i].val))))
            return 0;
    }
    return 1;
}

static int extreme(jctx *c, jv *out, jv x, jargs *a, int largest)
{
    jv attr;
    keyed *v;
    size_t n, best = 0;
    int has = jarg(c, a, 1, "attribute", &attr) && attr.type != JV_NONE, order;
    if (!sorted(c, &v, &n, x, has ? &attr : NULL, flag(c, a, 0, "case_sensitive", 0), 0, 0)) return 0;
    for (size_t i = 1; i < n; i++) {
        if (!jv_cmp(c, v[i].key, v[best].key, "<", &order)) return 0;
        if (largest ? order == 1 : order == -1) best = i;
    }
    *out = n ? v[best].val : jv_undef(JS("No aggregated item, sequence was empty."), 3);
    return 1;
}
static int f_min(jctx *c, jv *out, jv x, jargs *a)
{
    return extreme(c, out, x, a, 0);
}
static int f_max(jctx *c, jv *out, jv x, jargs *a)
{
    return extreme(c, out, x, a, 1);
}

static int f_sum(jctx *c, jv *out, jv x, jargs *a)
{
    jv attr, v;
    jv_list l;
    int has = jarg(c, a, 0, "attribute", &attr) && attr.type != JV_NONE;
    *out = jv_int(0);
    jarg(c, a, 1, "start", out);
    if (!jv_iter(c, &l, x)) return 0;
    for (size_t i = 0; i < l.n; i++) {
        v = l.v[i];
        if ((has && !lookup(c, &v, l.v[i], attr)) || !jbinary(c, out, JO_ADD, *out, v)) return 0;
    }
    return 1;
}

static int f_groupby(jctx *c, jv *out, jv x, jargs *a)
{
    jv attr, def;
    keyed *v;
    size_t n;
    if (!jarg(c, a, 0, "attribute", &attr)) return jfail(c, "groupby: expected an attribute");
    if (jarg(c, a, 1, "default", &def)) return jfail(c, "groupby: default is not supported");
    if (!sorted(c, &v, &n, x, &attr, flag(c, a, 2, "case_sensitive", 0), 1, 0) || !jv_new_list(c, out, JL_LIST, 0))
        return 0;
    for (size_t i = 0; i < n;) {
        jv group, list, key;
        int same = 1;
        if (!lookup(c, &key, v[i].val, attr) || !jv_new_list(c, &group, JL_TUPLE, 2) ||
            !jv_new_list(c, &list, JL_LIST, 0))
            return 0;
        size_t from = i;
        for (; i < n && same; i += (size_t)same) {
            if (!jv_eq(c, v[from].key, v[i].key, &same)) return 0;
            if (same && !jv_push(c, list.list, v[i].val)) return 0;
        }
        if (!jv_push(c, group.list, key) || !jv_push(c, group.list, list) || !jv_push(c, out->list, group)) return 0;
    }
    return 1;
}

static int f_batch(jctx *c, jv *out, jv x, jargs *a)
{
    jv v, fill = jv_none(), part = jv_none();
    jv_list l;
    int64_t size;
    if (!jarg(c, a, 0, "linecount", &v) || !jv_arg_int(c, v, "batch", &size)) return jfail(c, "batch: expected a size");
    if (size < 1 || size > 1 << 20) return jfail(c, "batch: the size must be in 1..1048576");
    jarg(c, a, 1, "fill_with", &fill);
    if (!jv_iter(c, &l, x) || !jv_new_list(c, out, JL_GEN, 0)) return 0;
    for (size_t i = 0; i < l.n; i++) {
        if (i % (size_t)size == 0 && (!jv_new_list(c, &part, JL_LIST, 0) || !jv_push(c, out->list, part))) return 0;
        if (!jv_push(c, part.list, l.v[i])) return 0;
    }
    while (l.n && fill.type != JV_NONE && part.list->n < (size_t)size)
        if (!jv_push(c, part.list, fill)) return 0;
    return 1;
}

/* ---- map, select and their kin ---- */
static int f_map(jctx *c, jv *out, jv x, jargs *a)
{
    jv attr, def, name;
    jv_list l;
    const jfilter *f = NULL;
    int has_def = 0;
    jargs rest = {.caller = {.type = JV_UNDEF}};
    if (!jv_truth(x))
        return jv_new_list(c, out, JL_GEN, 0); /* Jinja looks at the arguments only when there is an item */
    if (a->n == 0) {
        if (!jarg(c, a, 0, "attribute", &attr)) return jfail(c, "map: expected the name of a filter, or attribute=");
        has_def = jarg(c, a, 9, "default", &def);
    } else {
        name = a->v[0];
        if (name.type != JV_STR || !(f = jfilter_find(name.s)))
            return jfail(c, "map: no filter named '%.*s'",
                         name.type == JV_STR ? (int)(name.s.n < 60 ? name.s.n : 60) : 0,
                         name.type == JV_STR ? name.s.p : "");
        rest = *a;
        rest.v++;
        rest.n--;
    }
    if (!jv_iter(c, &l, x) || !jv_new_list(c, out, JL_GEN, l.n)) return 0;
    for (size_t i = 0; i < l.n; i++) {
        jv v;
        if (!(f ? f->fn(c, &v, l.v[i], &rest) : lookup(c, &v, l.v[i], attr))) return 0;
        if (v.type == JV_UNDEF && has_def) v = def;
        if (!jv_push(c, out->list, v)) return 0;
    }
    return 1;
}

static int choose(jctx *c, jv *out, jv x, jargs *a, int by_attr, int want)
{
    jv_list l;
    size_t k = 0;
    jv attr = jv_none(), name, arg = jv_none();
    const jtest *t = NULL;
    if (!jv_truth(x)) return jv_new_list(c, out, JL_GEN, 0);
    if (by_attr && !jarg(c, a, k++, "", &attr)) return jfail(c, "selectattr: expected an attribute");
    if (jarg(c, a, k, "", &name)) {
        if (name.type != JV_STR || !(t = jtest_find(name.s)))
            return jfail(c, "no test named '%.*s'", name.type == JV_STR ? (int)(name.s.n < 60 ? name.s.n : 60) : 0,
                         name.type == JV_STR ? name.s.p : "");
        if ((int)(a->n - k - 1) != t->n_args)
            return jfail(c, "test '%s' takes %d arguments, found %zu", t->name, t->n_args, a->n - k - 1);
        if (t->n_args) arg = a->v[k + 1];
    }
    if (!jv_iter(c, &l, x) || !jv_new_list(c, out, JL_GEN, 0)) return 0;
    for (size_t i = 0; i < l.n; i++) {
        jv v = l.v[i];
        int yes;
        if (by_attr && !lookup(c, &v, l.v[i], attr)) return 0;
        if (!t)
            yes = jv_truth(v);
        else if (!t->fn(c, &yes, v, arg))
            return 0;
        if (!!yes == want && !jv_push(c, out->list, l.v[i])) return 0;
    }
    return 1;
}
static int f_select(jctx *c, jv *out, jv x, jargs *a)
{
    return choose(c, out, x, a, 0, 1);
}
static int f_reject(jctx *c, jv *out, jv x, jargs *a)
{
    return choose(c, out, x, a, 0, 0);
}
static int f_selectattr(jctx *c, jv *out, jv x, jargs *a)
{
    return choose(c, out, x, a, 1, 1);
}
static int f_rejectattr(jctx *c, jv *out, jv x, jargs *a)
{
    return choose(c, out, x, a, 1, 0);
}

/* ---- others ---- */
static int f_default(jctx *c, jv *out, jv x, jargs *a)
{
    jv def = jv_str("", 0);
    jarg(c, a, 0, "default_value", &def);
    *out = x.type == JV_UNDEF || (flag(c, a, 1, "boolean", 0) && !jv_truth(x)) ? def : x;
    return 1;
}

static int f_attr(jctx *c, jv *out, jv x, jargs *a)
{
    jv name;
    if (!jarg(c, a, 0, "name", &name) || name.type != JV_STR) return jfail(c, "attr: expected a name");
    if (x.type == JV_NS) return jv_attr(c, out, x, name.s);
    if (!jv_need_defined(c, x)) return 0;
    return *out = jv_undef(name.s, 1), 1; /* plain data has no attributes: attr never looks at keys */
}

static const jfilter filters[] = {
    {"trim", f_trim, 1, "chars"},
    {"upper", f_upper, 0, ""},
    {"lower", f_lower, 0, ""},
    {"title", f_title, 0, ""},
    {"capitalize", f_capitalize, 0, ""},
    {"string", f_string, 0, ""},
    {"safe", f_safe, 0, ""},
    {"escape", f_escape, 0, ""},
    {"e", f_escape, 0, ""},
    {"forceescape", f_escape, 0, ""},
    {"replace", f_replace, 3, "old new count"},
    {"indent", f_indent, 3, "width first blank"},
    {"center", f_center, 1, "width"},
    {"format", f_format, 64, ""},
    {"wordcount", f_wordcount, 0, ""},
    {"truncate", f_truncate, 4, "length killwords end leeway"},
    {"tojson", f_tojson, 4, "ensure_ascii indent separators sort_keys"},
    {"int", f_int, 2, "default base"},
    {"float", f_float, 1, "default"},
    {"abs", f_abs, 0, ""},
    {"round", f_round, 2, "precision method"},
    {"length", f_length, 0, ""},
    {"count", f_length, 0, ""},
    {"list", f_list, 0, ""},
    {"first", f_first, 0, ""},
    {"last", f_last, 0, ""},
    {"join", f_join, 2, "d attribute"},
    {"reverse", f_reverse, 0, ""},
    {"items", f_items, 0, ""},
    {"sort", f_sort, 3, "reverse case_sensitive attribute"},
    {"dictsort", f_dictsort, 3, "case_sensitive by reverse"},
    {"unique", f_unique, 2, "case_sensitive attribute"},
    {"min", f_min, 2, "case_sensitive attribute"},
    {"max", f_max, 2, "case_sensitive attribute"},
    {"sum", f_sum, 2, "attribute start"},
    {"groupby", f_groupby, 3, "attribute default case_sensitive"},
    {"batch", f_batch, 2, "linecount fill_with"},
    {"map", f_map, 64, "attribute default"},
    {"select", f_select, 64, ""},
    {"reject", f_reject, 64, ""},
    {"selectattr", f_selectattr, 64, ""},
    {"rejectattr", f_rejectattr, 64, ""},
    {"default", f_default, 2, "default_value boolean"},
    {"d", f_default, 2, "default_value boolean"},
    {"attr", f_attr, 1, "name"},
};

const jfilter *jfilter_find(ns_str name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (jis(name, filters[i].name)) return &filters[i];
    return NULL;
}

const char *jfilter_suggest(ns_str name)
{
    const char *names[sizeof filters / sizeof *filters];
    char word[64];
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) names[i] = filters[i].name;
    snprintf(word, sizeof word, "%.*s", (int)(name.n < 60 ? name.n : 60), name.p);
    return ns_suggest(word, names, sizeof filters / sizeof *filters);
}
