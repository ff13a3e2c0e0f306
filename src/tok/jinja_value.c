/* What values are, in Python's words: text and repr, truth, equality, order, membership, JSON; and the memory of a rendering.
 * A generator (what map, select and `items` give) is walked once, is always true and has no length, as in Python. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tok/jinja_internal.h"
#include "tok/unicode.h"

/* ---- errors, memory, work ---- */
int jfail(jctx *c, const char *fmt, ...)
{
    char text[640];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *p = text; *p; p++) /* a message is one line */
        if (*p == '\n' || *p == '\r') *p = ' ';
    int line = c->at ? c->at->line : 0, col = c->at ? c->at->col : 0;
    ns_error_set(c->err, NS_ERR_INPUT, __FILE__, __LINE__, "%s:%d:%d: %s", c->t->name, line, col, text);
    return 0;
}

int jcharge(jctx *c, size_t work)
{
    c->steps += work;
    if (c->steps <= c->max_steps) return 1;
    return jfail(c, "the template runs for more than %llu operations: an endless or far too long loop",
                 (unsigned long long)c->max_steps);
}

static int jbytes(jctx *c, size_t size)
{
    if (size > c->max_bytes || c->bytes + size > c->max_bytes)
        return jfail(c, "the template needs more than %zu MiB of memory", c->max_bytes >> 20);
    c->bytes += size;
    return 1;
}

void *jalloc(jctx *c, size_t size)
{
    if (!jbytes(c, size + 16) || !jcharge(c, size / 64)) return NULL;
    return ns_arena_alloc(&c->arena, size ? size : 1, c->err);
}

int jv_keep(jctx *c, jv *out, ns_buf *b)
{
    char *p = jalloc(c, b->len + 1);
    if (p && b->len) memcpy(p, b->data, b->len);
    *out = jv_str(p, b->len);
    ns_buf_free(b);
    return p != NULL;
}

int jv_keep_from(jctx *c, jv *out, size_t from)
{
    size_t n = c->out.len - from;
    char *p = jalloc(c, n + 1);
    if (!p) return 0;
    if (n) memcpy(p, c->out.data + from, n);
    c->out.len = from;
    *out = jv_str(p, n);
    return 1;
}

/* Appends to a buffer, within the memory limit. */
static int put(jctx *c, ns_buf *out, const char *p, size_t n)
{
    if (out->len + n > c->max_bytes) return jbytes(c, out->len + n);
    return jcharge(c, n / 64) && ns_buf_add(out, p, n, c->err) == NS_OK;
}
static int puts_(jctx *c, ns_buf *out, const char *s)
{
    return put(c, out, s, strlen(s));
}

/* ---- lists and dicts ---- */
int jv_new_list(jctx *c, jv *out, jl_kind kind, size_t cap)
{
    jv_list *l = jalloc(c, sizeof *l);
    if (!l) return 0;
    static jv none[1]; /* never written: an empty list still has an address */
    memset(l, 0, sizeof *l);
    l->v = none;
    l->kind = kind;
    if (cap) {
        l->v = jalloc(c, cap * sizeof *l->v);
        if (!l->v) return 0;
        l->cap = cap;
    }
    *out = (jv){.type = JV_LIST, .list = l};
    return 1;
}

int jv_push(jctx *c, jv_list *l, jv v)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 8;
        jv *p = jalloc(c, cap * sizeof *p);
        if (!p) return 0;
        if (l->n) memcpy(p, l->v, l->n * sizeof *p);
        l->v = p;
        l->cap = cap;
    }
    l->v[l->n++] = v;
    return 1;
}

int jv_new_dict(jctx *c, jv *out)
{
    jv_dict *d = jalloc(c, sizeof *d);
    if (!d) return 0;
    memset(d, 0, sizeof *d);
    *out = (jv){.type = JV_DICT, .dict = d};
    return 1;
}

static int hashable(jctx *c, jv k)
{
    if (k.type == JV_DICT || k.type == JV_NS || (k.type == JV_LIST && k.list->kind != JL_TUPLE))
        return jfail(c, "a %s cannot be a key", jv_type_name(k));
    return 1;
}

static uint32_t hash_key(jv k)
{
    uint32_t h = 2166136261u;
    double f = k.type == JV_FLOAT ? k.f : k.type == JV_INT || k.type == JV_BOOL ? (double)k.i : 0;
    if (k.type == JV_STR)
        for (size_t i = 0; i < k.s.n; i++) h = (h ^ (unsigned char)k.s.p[i]) * 16777619u;
    else if (k.type == JV_INT || k.type == JV_BOOL || k.type == JV_FLOAT)
        for (size_t i = 0; i < sizeof f; i++) h = (h ^ ((unsigned char *)&f)[i]) * 16777619u;
    return h; /* other kinds share one chain */
}

/* Position of key, or d->n; SIZE_MAX on failure. */
static size_t dict_find(jctx *c, jv_dict *d, jv key)
{
    int same;
    if (!hashable(c, key)) return SIZE_MAX;
    if (d->n <= 12) {
        for (size_t i = 0; i < d->n; i++) {
            if (!jv_eq(c, d->key[i], key, &same)) return SIZE_MAX;
            if (same) return i;
        }
        return d->n;
    }
    if (d->index_cap < d->n * 2) {
        size_t cap = 64;
        while (cap < d->n * 4) cap *= 2;
        d->index = jalloc(c, cap * sizeof *d->index);
        if (!d->index) return SIZE_MAX;
        memset(d->index, 0, cap * sizeof *d->index);
        d->index_cap = cap;
        d->indexed = 0;
    }
    for (; d->indexed < d->n; d->indexed++) {
        size_t h = hash_key(d->key[d->indexed]) & (d->index_cap - 1);
        while (d->index[h]) h = (h + 1) & (d->index_cap - 1);
        d->index[h] = (uint32_t)d->indexed + 1;
    }
    for (size_t h = hash_key(key) & (d->index_cap - 1); d->index[h]; h = (h + 1) & (d->index_cap - 1)) {
        if (!jv_eq(c, d->key[d->index[h] - 1], key, &same)) return SIZE_MAX;
        if (same) return d->index[h] - 1;
    }
    return d->n;
}

int jv_dict_get(jctx *c, jv_dict *d, jv key, jv *out)
{
    size_t i = dict_find(c, d, key);
    if (i == SIZE_MAX) return -1;
    if (i == d->n) return 0;
    *out = d->val[i];
    return 1;
}

int jv_dict_set(jctx *c, jv_dict *d, jv key, jv val)
{
    size_t i = dict_find(c, d, key);
    if (i == SIZE_MAX) return 0;
    if (i == d->n) {
        if (d->n == d->cap) {
            size_t cap = d->cap ? d->cap * 2 : 4;
            jv *k = jalloc(c, cap * sizeof *k), *v = jalloc(c, cap * sizeof *v);
            if (!k || !v) return 0;
            if (d->n) {
                memcpy(k, d->key, d->n * sizeof *k);
                memcpy(v, d->val, d->n * sizeof *v);
            }
            d->key = k;
            d->val = v;
            d->cap = cap;
        }
        d->key[d->n++] = key;
    }
    d->val[i] = val;
    return 1;
}

int jv_from_json(jctx *c, jv *out, const ns_json *v)
{
    *out = jv_none();
    if (!v || !jcharge(c, 1)) return !v;
    switch (v->type) {
    case NS_JSON_NULL: return 1;
    case NS_JSON_BOOL: *out = jv_bool(v->b); return 1;
    case NS_JSON_NUMBER: {
        int64_t i;
        double f;
        int whole = v->s.n > 0;
        for (size_t k = 0; k < v->s.n; k++)
            if (!(v->s.p[k] >= '0' && v->s.p[k] <= '9') && !(k == 0 && v->s.p[k] == '-')) whole = 0;
        if (ns_json_is_int(v, &i) && whole)
            *out = jv_int(i);
        else if (whole)
            *out = (jv){.type = JV_BIG, .s = v->s};
        else if (ns_json_is_num(v, &f))
            *out = jv_float(f);
        else if (v->s.n && v->s.p[0] == 'N')
            *out = jv_float(NAN);
        else
            *out = jv_float(v->s.n && v->s.p[0] == '-' ? -INFINITY : INFINITY);
        return 1;
    }
    case NS_JSON_STRING: *out = v->s.n ? jv_text(v->s) : jv_str("", 0); return 1;
    case NS_JSON_ARRAY:
        if (!jv_new_list(c, out, JL_LIST, v->n)) return 0;
        for (size_t i = 0; i < v->n; i++) {
            jv item;
            if (!jv_from_json(c, &item, &v->items[i]) || !jv_push(c, out->list, item)) return 0;
        }
        return 1;
    case NS_JSON_OBJECT:
        if (!jv_new_dict(c, out)) return 0;
        for (size_t i = 0; i < v->n; i++) {
            jv item;
            if (!jv_from_json(c, &item, &v->items[i]) || !jv_dict_set(c, out->dict, jv_text(v->keys[i]), item))
                return 0;
        }
        return 1;
    }
    return 1;
}

/* ---- properties ---- */
const char *jv_type_name(jv v)
{
    static const char *const lists[] = {"list",        "tuple",      "range",    "dict_keys",
                                        "dict_values", "dict_items", "generator"};
    switch (v.type) {
    case JV_UNDEF: return "Undefined";
    case JV_NONE: return "NoneType";
    case JV_BOOL: return "bool";
    case JV_INT:
    case JV_BIG: return "int";
    case JV_FLOAT: return "float";
    case JV_STR: return "str";
    case JV_LIST: return lists[v.list->kind];
    case JV_DICT: return "dict";
    case JV_NS: return "namespace";
    default: return "function";
    }
}

int jv_need_defined(jctx *c, jv v)
{
    if (v.type != JV_UNDEF) return 1;
    int n = (int)(v.s.n < 80 ? v.s.n : 80);
    if (v.kind == 0) return jfail(c, "'%.*s' is undefined", n, v.s.p);
    if (v.kind == 1) return jfail(c, "there is no attribute '%.*s'", n, v.s.p);
    if (v.kind == 2)
        return jfail(c, "'%.*s' would change its object, which templates may not do (use + or a namespace)", n, v.s.p);
    return jfail(c, "%.*s", n, v.s.p);
}

int jv_truth(jv v)
{
    switch (v.type) {
    case JV_UNDEF:
    case JV_NONE: return 0;
    case JV_BOOL:
    case JV_INT: return v.i != 0;
    case JV_FLOAT: return v.f != 0;
    case JV_STR: return v.s.n != 0;
    case JV_LIST: return v.list->kind == JL_GEN || v.list->n != 0;
    case JV_DICT: return v.dict->n != 0;
    default: return 1;
    }
}

static int number(jv v, double *f)
{
    if (v.type == JV_INT || v.type == JV_BOOL) *f = (double)v.i;
    if (v.type == JV_FLOAT) *f = v.f;
    if (v.type == JV_BIG) *f = strtod(v.s.p, NULL); /* digits are followed by JSON text, never by a digit */
    return v.type == JV_INT || v.type == JV_BOOL || v.type == JV_FLOAT || v.type == JV_BIG;
}

int jv_eq(jctx *c, jv a, jv b, int *yes)
{
    double x, y;
    *yes = 0;
    if (!jcharge(c, 1)) return 0;
    if (a.type == JV_BIG && b.type == JV_BIG) return *yes = js_eq(a.s, b.s), 1;
    if ((a.type == JV_INT || a.type == JV_BOOL) && (b.type == JV_INT || b.type == JV_BOOL)) return *yes = a.i == b.i, 1;
    if (number(a, &x) && number(b, &y)) return *yes = x == y, 1;
    if (a.type != b.type) return 1;
    switch (a.type) {
    case JV_UNDEF:
    case JV_NONE: *yes = 1; return 1;
    case JV_STR: *yes = js_eq(a.s, b.s); return 1;
    case JV_FUNC: *yes = a.func == b.func; return 1;
    case JV_NS: *yes = a.dict == b.dict; return 1;
    case JV_LIST:
        if (a.list == b.list) return *yes = 1, 1;
        if (a.list->kind != b.list->kind || a.list->n != b.list->n || a.list->kind == JL_GEN) return 1;
        if (++c->depth > JINJA_MAX_DEPTH) return jfail(c, "a comparison is nested too deeply");
        *yes = 1;
        for (size_t i = 0; *yes && i < a.list->n; i++)
            if (!jv_eq(c, a.list->v[i], b.list->v[i], yes)) return 0;
        c->depth--;
        return 1;
    case JV_DICT:
        if (a.dict->n != b.dict->n) return 1;
        if (++c->depth > JINJA_MAX_DEPTH) return jfail(c, "a comparison is nested too deeply");
        *yes = 1;
        for (size_t i = 0; *yes && i < a.dict->n; i++) {
            jv other;
            int found = jv_dict_get(c, b.dict, a.dict->key[i], &other);
            if (found < 0) return 0;
            if (!found)
                *yes = 0;
            else if (!jv_eq(c, a.dict->val[i], other, yes))
                return 0;
        }
        c->depth--;
        return 1;
    default: return 1;
    }
}

int jv_cmp(jctx *c, jv a, jv b, const char *op, int *order)
{
    double x, y;
    if (!jv_need_defined(c, a) || !jv_need_defined(c, b) || !jcharge(c, 1)) return 0;
    if ((a.type == JV_INT || a.type == JV_BOOL) && (b.type == JV_INT || b.type == JV_BOOL))
        return *order = (a.i > b.i) - (a.i < b.i), 1;
    if (number(a, &x) && number(b, &y)) {
        *order = x != x || y != y ? 2 : (x > y) - (x < y); /* 2: NaN, no order at all */
        return 1;
    }
    if (a.type == JV_STR && b.type == JV_STR) { /* UTF-8 sorts like its code points */
        size_t n = a.s.n < b.s.n ? a.s.n : b.s.n;
        int r = n ? memcmp(a.s.p, b.s.p, n) : 0;
        *order = r ? (r > 0) - (r < 0) : (a.s.n > b.s.n) - (a.s.n < b.s.n);
        return jcharge(c, n / 64);
    }
    if (a.type == JV_LIST && b.type == JV_LIST && a.list->kind == b.list->kind && a.list->kind <= JL_TUPLE) {
        for (size_t i = 0; i < a.list->n && i < b.list->n; i++) {
            int same;
            if (!jv_eq(c, a.list->v[i], b.list->v[i], &same)) return 0;
            if (same) continue;
            if (++c->depth > JINJA_MAX_DEPTH) return jfail(c, "a comparison is nested too deeply");
            int ok = jv_cmp(c, a.list->v[i], b.list->v[i], op, order);
            c->depth--;
            return ok;
        }
        *order = (a.list->n > b.list->n) - (a.list->n < b.list->n);
        return 1;
    }
    return jfail(c, "'%s' not supported between '%s' and '%s'", op, jv_type_name(a), jv_type_name(b));
}

int jv_contains(jctx *c, jv item, jv in, int *yes)
{
    *yes = 0;
    switch (in.type) {
    case JV_UNDEF: return in.kind == 2 ? jv_need_defined(c, in) : 1;
    case JV_STR:
        if (item.type != JV_STR) return jfail(c, "'in <text>' needs text on the left, found %s", jv_type_name(item));
        *yes = !item.s.n || (in.s.n && memmem(in.s.p, in.s.n, item.s.p, item.s.n));
        return jcharge(c, in.s.n / 32);
    case JV_DICT: {
        jv found;
        int r = jv_dict_get(c, in.dict, item, &found);
        *yes = r == 1;
        return r >= 0;
    }
    case JV_LIST: {
        jv_list *l = in.list;
        for (size_t i = l->kind == JL_GEN ? l->at : 0; i < l->n; i++) {
            if (l->kind == JL_GEN) l->at = i + 1;
            if (!jv_eq(c, l->v[i], item, yes)) return 0;
            if (*yes) break;
        }
        return 1;
    }
    default: return jfail(c, "'in' does not work on %s", jv_type_name(in));
    }
}

int jv_iter(jctx *c, jv_list *out, jv v)
{
    memset(out, 0, sizeof *out);
    if (v.type == JV_UNDEF) return v.kind == 2 ? jv_need_defined(c, v) : 1;
    if (v.type == JV_LIST) {
        size_t from = v.list->kind == JL_GEN ? v.list->at : 0;
        out->v = v.list->v + from;
        out->n = v.list->n - from;
        if (v.list->kind == JL_GEN) v.list->at = v.list->n;
        return jcharge(c, out->n);
    }
    if (v.type == JV_DICT) {
        out->v = v.dict->key;
        out->n = v.dict->n;
        return jcharge(c, out->n);
    }
    if (v.type == JV_STR) { /* characters */
        jv l;
        if (!jv_new_list(c, &l, JL_LIST, jstr_len(v.s))) return 0;
        for (size_t i = 0, w; i < v.s.n; i += w) {
            w = jstr_char(v.s, i);
            if (!jv_push(c, l.list, jv_str(v.s.p + i, w))) return 0;
        }
        *out = *l.list;
        return jcharge(c, out->n);
    }
    return jfail(c, "'%s' object is not iterable", jv_type_name(v));
}

int jv_len(jctx *c, jv v, int64_t *n)
{
    if (v.type == JV_STR)
        *n = (int64_t)jstr_len(v.s);
    else if (v.type == JV_LIST && v.list->kind != JL_GEN)
        *n = (int64_t)v.list->n;
    else if (v.type == JV_DICT)
        *n = (int64_t)v.dict->n;
    else if (v.type == JV_UNDEF && v.kind != 2)
        *n = 0;
    else
        return jfail(c, "object of type '%s' has no len()%s", jv_type_name(v),
                     v.type == JV_LIST ? ": put |list in front of |length" : "");
    return jcharge(c, v.type == JV_STR ? v.s.n / 32 : 0);
}

/* ---- text ---- */
/* Characters that Python's repr escapes: separators other than the blank, format and private characters (the common ones). */
static int unprintable(uint32_t ch)
{
    static const uint32_t ranges[][2] = {{0x80, 0xa0},     {0xad, 0xad},     {0x600, 0x605},   {0x61c, 0x61c},
                                         {0x6dd, 0x6dd},   {0x1680, 0x1680}, {0x180e, 0x180e}, {0x2000, 0x200f},
                                         {0x2028, 0x202f}, {0x205f, 0x206f}, {0x3000, 0x3000}, {0xd800, 0xf8ff},
                                         {0xfeff, 0xfeff}, {0xfff0, 0xfffb}, {0xfffe, 0xffff}, {0xe0000, 0x10ffff}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (ch >= ranges[i][0] && ch <= ranges[i][1]) return !(ch >= 0xe0100 && ch <= 0xe01ef);
    return 0;
}

static int repr_str(jctx *c, ns_buf *out, ns_str s)
{
    int single = s.n && memchr(s.p, '\'', s.n), dbl = s.n && memchr(s.p, '"', s.n);
    char quote = single && !dbl ? '"' : '\'', esc[16];
    if (!put(c, out, &quote, 1)) return 0;
    for (size_t i = 0, w; i < s.n; i += w) {
        unsigned char ch = (unsigned char)s.p[i];
        w = jstr_char(s, i);
        esc[0] = 0;
        if (ch == '\\' || ch == (unsigned char)quote)
            snprintf(esc, sizeof esc, "\\%c", ch);
        else if (ch == '\n' || ch == '\r' || ch == '\t')
            snprintf(esc, sizeof esc, "\\%c", ch == '\n' ? 'n' : ch == '\r' ? 'r' : 't');
        else if (ch < 0x20 || ch == 0x7f)
            snprintf(esc, sizeof esc, "\\x%02x", ch);
        else if (ch >= 0xc2 && w == (ch < 0xe0 ? 2u : ch < 0xf0 ? 3u : 4u)) {
            size_t unused;
            uint32_t u = ns_utf8_at((const uint8_t *)s.p, i, &unused);
            if (unprintable(u))
                snprintf(esc, sizeof esc, u < 0x100 ? "\\x%02x" : u < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)u);
        }
        if (!(esc[0] ? puts_(c, out, esc) : put(c, out, s.p + i, w))) return 0;
    }
    return put(c, out, &quote, 1);
}

static int put_float(jctx *c, ns_buf *out, double f)
{
    char text[32];
    if (f != f) return puts_(c, out, "nan");
    if (isinf(f)) return puts_(c, out, f > 0 ? "inf" : "-inf");
    ns_json_format_double(text, f);
    return puts_(c, out, text);
}

static int repr_items(jctx *c, ns_buf *out, const jv *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((i && !puts_(c, out, ", ")) || !jv_repr(c, out, v[i])) return 0;
    return 1;
}

static int repr_list(jctx *c, ns_buf *out, const jv_list *l)
{
    static const char *const open[] = {"[", "(", "range(", "dict_keys([", "dict_values([", "dict_items(["},
                             *const close[] = {"]", ")", ")", "])", "])", "])"};
    char text[64];
    if (l->kind == JL_GEN) return puts_(c, out, "<generator object>");
    if (!puts_(c, out, open[l->kind])) return 0;
    if (l->kind == JL_RANGE) { /* the step is not shown when it is 1 */
        int64_t a = l->n ? l->v[0].i : 0, step = l->n > 1 ? l->v[1].i - a : 1, b = l->n ? l->v[l->n - 1].i + step : 0;
        snprintf(text, sizeof text, step == 1 ? "%lld, %lld" : "%lld, %lld, %lld", (long long)a, (long long)b,
                 (long long)step);
        if (!puts_(c, out, text)) return 0;
    } else if (!repr_items(c, out, l->v, l->n)) {
        return 0;
    }
    if (l->kind == JL_TUPLE && l->n == 1 && !puts_(c, out, ",")) return 0;
    return puts_(c, out, close[l->kind]);
}

int jv_repr(jctx *c, ns_buf *out, jv v)
{
    char text[32];
    if (!jcharge(c, 1)) return 0;
    switch (v.type) {
    case JV_UNDEF: return v.kind == 2 ? jv_need_defined(c, v) : puts_(c, out, "Undefined");
    case JV_NONE: return puts_(c, out, "None");
    case JV_BOOL: return puts_(c, out, v.i ? "True" : "False");
    case JV_INT: snprintf(text, sizeof text, "%lld", (long long)v.i); return puts_(c, out, text);
    case JV_BIG: return put(c, out, v.s.p, v.s.n);
    case JV_FLOAT: return put_float(c, out, v.f);
    case JV_STR: return repr_str(c, out, v.s);
    case JV_FUNC: return puts_(c, out, "<function>");
    default: break;
    }
    if (++c->depth > JINJA_MAX_DEPTH) return jfail(c, "a value is nested too deeply to print");
    int ok;
    if (v.type == JV_LIST) {
        ok = repr_list(c, out, v.list);
    } else {
        ok = puts_(c, out, v.type == JV_NS ? "<Namespace {" : "{");
        for (size_t i = 0; ok && i < v.dict->n; i++)
            ok = (!i || puts_(c, out, ", ")) && jv_repr(c, out, v.dict->key[i]) && puts_(c, out, ": ") &&
                 jv_repr(c, out, v.dict->val[i]);
        ok = ok && puts_(c, out, v.type == JV_NS ? "}>" : "}");
    }
    c->depth--;
    return ok;
}

int jv_to_text(jctx *c, ns_buf *out, jv v)
{
    if (v.type == JV_STR) return put(c, out, v.s.p, v.s.n);
    if (v.type == JV_UNDEF && v.kind != 2) return 1;
    return jv_repr(c, out, v);
}

int jv_as_str(jctx *c, ns_str *out, jv v)
{
    if (v.type == JV_STR) return *out = v.s, 1;
    ns_buf b = {0};
    jv t;
    int ok = jv_to_text(c, &b, v) && jv_keep(c, &t, &b);
    ns_buf_free(&b);
    if (ok) *out = t.s;
    return ok;
}

/* ---- JSON, as Python's json.dumps ---- */
static int json_str(jctx *c, ns_buf *out, ns_str s, int ascii)
{
    if (!jcharge(c, s.n / 16) || out->len + s.n > c->max_bytes) return jbytes(c, c->max_bytes) && 0;
    /* A lone surrogate has no UTF-8 form; json.dumps would pass it on and fail later. */
    return ns_json_write_str(out, s, ascii ? NS_JSON_ASCII : NS_JSON_UTF8, c->err) == NS_OK;
}

static int json_newline(jctx *c, ns_buf *out, const jjson *o, int level)
{
    if (!o->indent.p) return 1;
    if (!puts_(c, out, "\n")) return 0;
    for (int i = 0; i < level; i++)
        if (!put(c, out, o->indent.p, o->indent.n)) return 0;
    return 1;
}

static int json_key(jctx *c, ns_buf *out, jv k, const jjson *o)
{
    ns_buf b = {0};
    int ok = 1;
    if (k.type == JV_STR) return json_str(c, out, k.s, o->ascii);
    if (k.type == JV_NONE)
        ok = puts_(c, &b, "null");
    else if (k.type == JV_BOOL)
        ok = puts_(c, &b, k.i ? "true" : "false");
    else if (k.type == JV_INT || k.type == JV_FLOAT || k.type == JV_BIG)
        ok = jv_repr(c, &b, k);
    else
        ok = jfail(c, "keys must be str, int, float, bool or None, not %s", jv_type_name(k));
    ok = ok && json_str(c, out, (ns_str){b.data, b.len}, o->ascii);
    ns_buf_free(&b);
    return ok;
}

static int json_value(jctx *c, ns_buf *out, jv v, const jjson *o, int level);

typedef struct pair {
    ns_str key;
    size_t i;
} pair;
static int by_key(const void *x, const void *y)
{
    const pair *a = x, *b = y;
    size_t n = a->key.n < b->key.n ? a->key.n : b->key.n;
    int r = n ? memcmp(a->key.p, b->key.p, n) : 0;
    return r ? r : (a->key.n > b->key.n) - (a->key.n < b->key.n);
}

static int json_dict(jctx *c, ns_buf *out, const jv_dict *d, const jjson *o, int level)
{
    pair *order = NULL;
    if (!d->n) return puts_(c, out, "{}");
    if (o->sort) {
        order = jalloc(c, d->n * sizeof *order);
        if (!order) return 0;
        for (size_t i = 0; i < d->n; i++) {
            if (d->key[i].type != JV_STR)
                return jfail(c, "sort_keys needs text keys, found %s", jv_type_name(d->key[i]));
            order[i] = (pair){d->key[i].s, i};
        }
        qsort(order, d->n, sizeof *order, by_key);
    }
    if (!puts_(c, out, "{")) return 0;
    for (size_t i = 0; i < d->n; i++) {
        size_t k = order ? order[i].i : i;
        if ((i && !put(c, out, o->item_sep.p, o->item_sep.n)) || !json_newline(c, out, o, level + 1) ||
            !json_key(c, out, d->key[k], o) || !put(c, out, o->key_sep.p, o->key_sep.n) ||
            !json_value(c, out, d->val[k], o, level + 1))
            return 0;
    }
    return json_newline(c, out, o, level) && puts_(c, out, "}");
}

static int json_value(jctx *c, ns_buf *out, jv v, const jjson *o, int level)
{
    if (!jcharge(c, 1)) return 0;
    switch (v.type) {
    case JV_NONE: return puts_(c, out, "null");
    case JV_BOOL: return puts_(c, out, v.i ? "true" : "false");
    case JV_INT:
    case JV_BIG: return jv_repr(c, out, v);
    case JV_FLOAT:
        if (v.f != v.f) return puts_(c, out, "NaN");
        if (isinf(v.f)) return puts_(c, out, v.f > 0 ? "Infinity" : "-Infinity");
        return put_float(c, out, v.f);
    case JV_STR: return json_str(c, out, v.s, o->ascii);
    case JV_DICT: {
        if (++c->depth > JINJA_MAX_DEPTH) return jfail(c, "a value is nested too deeply for tojson");
        int ok = json_dict(c, out, v.dict, o, level);
        c->depth--;
        return ok;
    }
    case JV_LIST: {
        if (v.list->kind > JL_TUPLE) break;
        if (!v.list->n) return puts_(c, out, "[]");
        if (++c->depth > JINJA_MAX_DEPTH) return jfail(c, "a value is nested too deeply for tojson");
        int ok = puts_(c, out, "[");
        for (size_t i = 0; ok && i < v.list->n; i++)
            ok = (!i || put(c, out, o->item_sep.p, o->item_sep.n)) && json_newline(c, out, o, level + 1) &&
                 json_value(c, out, v.list->v[i], o, level + 1);
        c->depth--;
        return ok && json_newline(c, out, o, level) && puts_(c, out, "]");
    }
    default: break;
    }
    if (v.type == JV_UNDEF && v.kind < 2)
        return jfail(c, "tojson: %s '%.*s' is undefined", v.kind ? "attribute" : "variable",
                     (int)(v.s.n < 80 ? v.s.n : 80), v.s.p);
    return jfail(c, "tojson: a %s has no JSON form", jv_type_name(v));
}

int jv_tojson(jctx *c, ns_buf *out, jv v, const jjson *o)
{
    return json_value(c, out, v, o, 0);
}
