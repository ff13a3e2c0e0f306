/* What templates can call: attributes and items, methods of lists, dicts and loops, global functions, tests, operators.
 * (Methods of text: jinja_str.c; filters: jinja_filter.c.) Attribute lookup follows Jinja: x.name tries the methods of x,
 * then the key "name"; x["name"] tries them the other way round; what is not there is undefined, which prints as nothing
 * and fails when it is used. Methods that would change a list or a dict are refused, as in the immutable sandbox. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tok/jinja_internal.h"

/* ---- arguments ---- */
int jarg(jctx *c, jargs *a, size_t index, const char *name, jv *out)
{
    (void)c;
    if (index < a->n) return *out = a->v[index], 1;
    for (size_t i = 0; name[0] && i < a->n_kw; i++)
        if (jis(a->kw[i].name, name)) {
            *out = a->kw[i].v;
            if (i < 64) a->used_kw |= (uint64_t)1 << i;
            return 1;
        }
    return 0;
}

int jargs_done(jctx *c, jargs *a, size_t max, const char *what)
{
    if (a->n > max) return jfail(c, "%s takes at most %zu arguments, found %zu", what, max, a->n);
    for (size_t i = 0; i < a->n_kw; i++)
        if (i >= 64 || !(a->used_kw >> i & 1))
            return jfail(c, "%s has no argument named '%.*s'", what, (int)(a->kw[i].name.n < 60 ? a->kw[i].name.n : 60),
                         a->kw[i].name.p);
    return 1;
}

int jv_arg_int(jctx *c, jv v, const char *what, int64_t *out)
{
    if (v.type == JV_INT || v.type == JV_BOOL) return *out = v.i, 1;
    return jv_need_defined(c, v) && jfail(c, "%s: expected an integer, found %s", what, jv_type_name(v));
}

/* ---- attributes and items ---- */
static int one_of(ns_str s, const char *const *names)
{
    for (; *names; names++)
        if (jis(s, *names)) return 1;
    return 0;
}

static int method(jctx *c, jv *out, jv self, ns_str name)
{
    jv_func *f = jalloc(c, sizeof *f);
    if (!f) return 0;
    memset(f, 0, sizeof *f);
    f->kind = JF_METHOD;
    f->name = name;
    f->self = self;
    *out = (jv){.type = JV_FUNC, .func = f};
    return 1;
}

static int loop_attr(jctx *c, jv *out, const jloop *l, ns_str name, int *known)
{
    int64_t i = (int64_t)l->at, n = (int64_t)l->items->n;
    *known = 1;
    (void)c;
    if (jis(name, "index")) return *out = jv_int(i + 1), 1;
    if (jis(name, "index0")) return *out = jv_int(i), 1;
    if (jis(name, "first")) return *out = jv_bool(i == 0), 1;
    if (jis(name, "last")) return *out = jv_bool(i + 1 == n), 1;
    if (jis(name, "length")) return *out = jv_int(n), 1;
    if (jis(name, "revindex")) return *out = jv_int(n - i), 1;
    if (jis(name, "revindex0")) return *out = jv_int(n - i - 1), 1;
    if (jis(name, "depth")) return *out = jv_int(l->depth + 1), 1;
    if (jis(name, "depth0")) return *out = jv_int(l->depth), 1;
    if (jis(name, "previtem")) return *out = i ? l->items->v[i - 1] : jv_undef(JS("there is no previous item"), 3), 1;
    if (jis(name, "nextitem"))
        return *out = i + 1 < n ? l->items->v[i + 1] : jv_undef(JS("there is no next item"), 3), 1;
    *known = 0;
    return 1;
}

/* Python attributes of v. *known 0: v has none of that name. */
static int py_attr(jctx *c, jv *out, jv v, ns_str name, int *known)
{
    static const char *const dict_reads[] = {"items", "keys", "values", "get", "copy", NULL},
                             *const dict_writes[] = {"clear",  "pop",      "popitem", "setdefault",
                                                     "update", "fromkeys", NULL},
                             *const list_reads[] = {"index", "count", "copy", NULL},
                             *const list_writes[] = {"append", "clear",   "extend", "insert", "pop",
                                                     "remove", "reverse", "sort",   NULL},
                             *const loop_reads[] = {"cycle", "changed", NULL};
    const char *const *reads = NULL, *const *writes = NULL;
    *known = 1;
    if (v.type == JV_STR && jstr_method_known(name)) return method(c, out, v, name);
    if (v.type == JV_DICT) reads = dict_reads, writes = dict_writes;
    if (v.type == JV_LIST && v.list->kind <= JL_TUPLE) {
        reads = list_reads;
        writes = v.list->kind == JL_LIST ? list_writes : NULL;
        if (v.list->kind == JL_TUPLE && jis(name, "copy")) reads = NULL;
    }
    if (v.type == JV_FUNC && v.func->kind == JF_LOOP) {
        if (one_of(name, loop_reads)) return method(c, out, v, name);
        return loop_attr(c, out, v.func->loop, name, known);
    }
    if (v.type == JV_FUNC && v.func->kind == JF_MACRO && jis(name, "name")) return *out = jv_text(v.func->name), 1;
    if (v.type == JV_FUNC && v.func->kind == JF_CYCLER && jis(name, "next")) return method(c, out, v, name);
    if (v.type == JV_NS) {
        int found = jv_dict_get(c, v.dict, jv_text(name), out);
        *known = found == 1;
        return found >= 0;
    }
    if (reads && one_of(name, reads)) return method(c, out, v, name);
    if (writes && one_of(name, writes)) return *out = jv_undef(name, 2), 1;
    *known = 0;
    return 1;
}

static int index_item(jctx *c, jv *out, jv v, jv index, int *known)
{
    *known = 0;
    if (v.type == JV_DICT) {
        if (index.type == JV_DICT || index.type == JV_NS || index.type == JV_LIST) return 1; /* TypeError: undefined */
        int found = jv_dict_get(c, v.dict, index, out);
        *known = found == 1;
        return found >= 0;
    }
    if (index.type != JV_INT && index.type != JV_BOOL) return 1;
    int64_t i = index.i;
    if (v.type == JV_LIST && v.list->kind <= JL_RANGE) {
        int64_t n = (int64_t)v.list->n;
        if (i < 0) i += n;
        if (i >= 0 && i < n) *out = v.list->v[i], *known = 1;
    } else if (v.type == JV_STR) {
        int64_t n = (int64_t)jstr_len(v.s);
        if (!jcharge(c, v.s.n / 16)) return 0;
        if (i < 0) i += n;
        if (i >= 0 && i < n) {
            size_t at = jstr_byte(v.s, (size_t)i);
            *out = jv_str(v.s.p + at, jstr_char(v.s, at));
            *known = 1;
        }
    }
    return 1;
}

int jv_attr(jctx *c, jv *out, jv v, ns_str name)
{
    int known;
    if (!jv_need_defined(c, v)) return 0;
    if (!py_attr(c, out, v, name, &known)) return 0;
    if (known) return 1;
    if (!index_item(c, out, v, jv_text(name), &known)) return 0;
    if (!known) *out = jv_undef(name, 1);
    return 1;
}

int jv_item(jctx *c, jv *out, jv v, jv index)
{
    int known;
    if (!jv_need_defined(c, v)) return 0;
    if (!index_item(c, out, v, index, &known)) return 0;
    if (known) return 1;
    if (index.type == JV_STR) {
        if (!py_attr(c, out, v, index.s, &known)) return 0;
        if (known) return 1;
        *out = jv_undef(index.s, 1);
        return 1;
    }
    ns_str text;
    if (!jv_as_str(c, &text, index)) return 0;
    *out = jv_undef(text, 1);
    return 1;
}

/* ---- methods ---- */
static int dict_view(jctx *c, jv *out, const jv_dict *d, jl_kind kind)
{
    if (!jv_new_list(c, out, kind, d->n)) return 0;
    for (size_t i = 0; i < d->n; i++) {
        jv item = kind == JL_KEYS ? d->key[i] : d->val[i];
        if (kind == JL_ITEMS && (!jv_new_list(c, &item, JL_TUPLE, 2) || !jv_push(c, item.list, d->key[i]) ||
                                 !jv_push(c, item.list, d->val[i])))
            return 0;
        if (!jv_push(c, out->list, item)) return 0;
    }
    return jcharge(c, d->n);
}

static int dict_method(jctx *c, jv *out, jv self, ns_str name, jargs *a)
{
    jv k;
    if (jis(name, "items")) return dict_view(c, out, self.dict, JL_ITEMS);
    if (jis(name, "keys")) return dict_view(c, out, self.dict, JL_KEYS);
    if (jis(name, "values")) return dict_view(c, out, self.dict, JL_VALUES);
    if (jis(name, "copy")) return *out = self, 1;
    if (!jarg(c, a, 0, "", &k)) return jfail(c, "get: expected a key");
    int found = jv_dict_get(c, self.dict, k, out);
    if (found == 0 && !jarg(c, a, 1, "", out)) *out = jv_none();
    return found >= 0;
}

static int list_method(jctx *c, jv *out, jv self, ns_str name, jargs *a)
{
    jv x;
    int same;
    int64_t n = 0;
    if (jis(name, "copy")) return *out = self, 1;
    if (!jarg(c, a, 0, "", &x)) return jfail(c, "%.*s: expected a value", (int)name.n, name.p);
    for (size_t i = 0; i < self.list->n; i++) {
        if (!jv_eq(c, self.list->v[i], x, &same)) return 0;
        if (same && jis(name, "index")) return *out = jv_int((int64_t)i), 1;
        n += same;
    }
    if (jis(name, "index")) return jfail(c, "index: the value is not in the list");
    *out = jv_int(n);
    return 1;
}

static int loop_method(jctx *c, jv *out, jloop *l, ns_str name, jargs *a)
{
    if (jis(name, "cycle")) {
        if (!a->n) return jfail(c, "cycle: expected values");
        return *out = a->v[l->at % a->n], 1;
    }
    jv all;
    int same = 0;
    if (!jv_new_list(c, &all, JL_TUPLE, a->n)) return 0;
    for (size_t i = 0; i < a->n; i++)
        if (!jv_push(c, all.list, a->v[i])) return 0;
    if (l->has_changed && !jv_eq(c, l->changed, all, &same)) return 0;
    l->changed = all;
    l->has_changed = 1;
    *out = jv_bool(!same);
    return 1;
}

/* ---- global functions ---- */
static int g_range(jctx *c, jv *out, jargs *a)
{
    int64_t v[3] = {0, 0, 1};
    if (a->n < 1 || a->n > 3) return jfail(c, "range takes 1 to 3 arguments, found %zu", a->n);
    for (size_t i = 0; i < a->n; i++)
        if (!jv_arg_int(c, a->v[i], "range", &v[i])) return 0;
    if (a->n == 1) v[1] = v[0], v[0] = 0;
    if (v[2] == 0) return jfail(c, "range: the step must not be 0");
    double count = ceil(((double)v[1] - (double)v[0]) / (double)v[2]);
    if (count > JINJA_MAX_RANGE)
        return jfail(c, "range of %.0f numbers is too long: at most %d", count, JINJA_MAX_RANGE);
    if (!jv_new_list(c, out, JL_RANGE, count > 0 ? (size_t)count : 0)) return 0;
    for (int64_t i = 0; i < (int64_t)count; i++)
        if (!jv_push(c, out->list, jv_int(v[0] + i * v[2]))) return 0;
    return 1;
}

static int g_dict(jctx *c, jv *out, jargs *a)
{
    if (!jv_new_dict(c, out)) return 0;
    if (a->n > 1) return jfail(c, "dict takes at most 1 positional argument, found %zu", a->n);
    if (a->n && a->v[0].type == JV_DICT) {
        for (size_t i = 0; i < a->v[0].dict->n; i++)
            if (!jv_dict_set(c, out->dict, a->v[0].dict->key[i], a->v[0].dict->val[i])) return 0;
    } else if (a->n) {
        jv_list l, pair;
        if (!jv_iter(c, &l, a->v[0])) return 0;
        for (size_t i = 0; i < l.n; i++) {
            if (!jv_iter(c, &pair, l.v[i])) return 0;
            if (pair.n != 2) return jfail(c, "dict: item %zu has %zu parts, expected 2", i, pair.n);
            if (!jv_dict_set(c, out->dict, pair.v[0], pair.v[1])) return 0;
        }
    }
    for (size_t i = 0; i < a->n_kw; i++)
        if (!jv_dict_set(c, out->dict, jv_text(a->kw[i].name), a->kw[i].v)) return 0;
    a->used_kw = ~(uint64_t)0;
    return 1;
}

static int g_namespace(jctx *c, jv *out, jargs *a)
{
    if (!g_dict(c, out, a)) return 0;
    out->type = JV_NS;
    return 1;
}

static int g_raise(jctx *c, jv *out, jargs *a)
{
    jv v;
    ns_str text = {"", 0};
    *out = jv_none();
    if (jarg(c, a, 0, "message", &v) && !jv_as_str(c, &text, v)) return 0;
    return jfail(c, "the template refuses this: %.*s", (int)(text.n < 400 ? text.n : 400), text.p);
}

static int g_strftime(jctx *c, jv *out, jargs *a)
{
    jv v;
    struct tm tm;
    char fmt[128], text[512];
    if (!jarg(c, a, 0, "format", &v) || v.type != JV_STR) return jfail(c, "strftime_now: expected a format");
    if (v.s.n >= sizeof fmt) return jfail(c, "strftime_now: the format is longer than %zu bytes", sizeof fmt - 1);
    memcpy(fmt, v.s.p, v.s.n);
    fmt[v.s.n] = 0;
    time_t now = c->r->now ? (time_t)c->r->now : time(NULL);
    if (!(c->r->now ? gmtime_r(&now, &tm) : localtime_r(&now, &tm))) return jfail(c, "strftime_now: no time");
    size_t n = fmt[0] ? strftime(text, sizeof text, fmt, &tm) : 0;
    char *p = jalloc(c, n + 1);
    if (!p) return 0;
    memcpy(p, text, n);
    *out = jv_str(p, n);
    return 1;
}

static int g_joiner(jctx *c, jv *out, jargs *a)
{
    jv sep;
    jv_func *f = jalloc(c, sizeof *f);
    if (!f) return 0;
    memset(f, 0, sizeof *f);
    f->kind = JF_JOINER;
    f->self = jarg(c, a, 0, "sep", &sep) ? sep : jv_str(", ", 2);
    *out = (jv){.type = JV_FUNC, .func = f};
    return 1;
}

static int g_cycler(jctx *c, jv *out, jargs *a)
{
    jv l;
    jv_func *f = jalloc(c, sizeof *f);
    if (!a->n) return jfail(c, "cycler: expected values");
    if (!f || !jv_new_list(c, &l, JL_LIST, a->n)) return 0;
    for (size_t i = 0; i < a->n; i++)
        if (!jv_push(c, l.list, a->v[i])) return 0;
    memset(f, 0, sizeof *f);
    f->kind = JF_CYCLER;
    f->items = l.list;
    *out = (jv){.type = JV_FUNC, .func = f};
    return 1;
}

int jglobal_find(jctx *c, ns_str name, jv *out)
{
    static const struct {
        const char *name;
        int (*call)(jctx *, jv *, jargs *);
    } all[] = {
        {"range", g_range},           {"dict", g_dict},     {"namespace", g_namespace}, {"raise_exception", g_raise},
        {"strftime_now", g_strftime}, {"joiner", g_joiner}, {"cycler", g_cycler}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (jis(name, all[i].name)) {
            jv_func *f = jalloc(c, sizeof *f);
            if (!f) return 0;
            memset(f, 0, sizeof *f);
            f->kind = JF_GLOBAL;
            f->name = name;
            f->call = all[i].call;
            *out = (jv){.type = JV_FUNC, .func = f};
            return 1;
        }
    *out = jv_undef(name, 0);
    return 1;
}

int jcall(jctx *c, jv *out, jv v, jargs *a)
{
    char what[64];
    if (!jv_need_defined(c, v)) return 0;
    if (v.type != JV_FUNC) return jfail(c, "'%s' object is not callable", jv_type_name(v));
    jv_func *f = v.func;
    snprintf(what, sizeof what, "%.*s", (int)(f->name.n < 60 ? f->name.n : 60), f->name.n ? f->name.p : "");
    switch (f->kind) {
    case JF_MACRO:
    case JF_CALLER: return jcall_macro(c, out, f, a);
    case JF_LOOP:
        if (a->n != 1) return jfail(c, "loop takes 1 argument, found %zu", a->n);
        return jloop_recurse(c, out, f, a->v[0]);
    case JF_JOINER: *out = f->at++ ? f->self : jv_str("", 0); return 1;
    case JF_CYCLER: return jfail(c, "a cycler is used by its method next()");
    case JF_GLOBAL: return f->call(c, out, a) && jargs_done(c, a, 64, what);
    case JF_METHOD: break;
    }
    int ok;
    if (f->self.type == JV_STR)
        ok = jstr_method(c, out, f->self.s, f->name, a);
    else if (f->self.type == JV_DICT)
        ok = dict_method(c, out, f->self, f->name, a);
    else if (f->self.type == JV_LIST)
        ok = list_method(c, out, f->self, f->name, a);
    else if (f->self.func->kind == JF_CYCLER) {
        jv_func *cy = f->self.func;
        *out = cy->items->v[cy->at];
        cy->at = (cy->at + 1) % cy->items->n;
        ok = 1;
    } else
        ok = loop_method(c, out, f->self.func->loop, f->name, a);
    int any = f->self.type == JV_FUNC || jis(f->name, "format");
    return ok && (any || jargs_done(c, a, 3, what));
}

/* ---- tests ---- */
static int t_defined(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type != JV_UNDEF;
    return 1;
}
static int t_undefined(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_UNDEF;
    return 1;
}
static int t_none(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_NONE;
    return 1;
}
static int t_boolean(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_BOOL;
    return 1;
}
static int t_true(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_BOOL && x.i;
    return 1;
}
static int t_false(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_BOOL && !x.i;
    return 1;
}
static int t_string(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_STR;
    return 1;
}
static int t_mapping(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_DICT;
    return 1;
}
static int t_float(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_FLOAT;
    return 1;
}
static int t_callable(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_FUNC;
    return 1;
}
static int t_integer(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_INT || x.type == JV_BIG;
    return 1;
}
static int t_number(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_INT || x.type == JV_BIG || x.type == JV_FLOAT || x.type == JV_BOOL;
    return 1;
}
static int t_iterable(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_STR || x.type == JV_LIST || x.type == JV_DICT || x.type == JV_UNDEF;
    return 1;
}
static int t_sequence(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes =
        x.type == JV_STR || x.type == JV_DICT || x.type == JV_UNDEF || (x.type == JV_LIST && x.list->kind <= JL_RANGE);
    return 1;
}
static int t_parity(jctx *c, int *yes, jv x, int want)
{
    int64_t i = 0;
    if (!jv_arg_int(c, x, want ? "odd" : "even", &i)) return 0;
    *yes = (i & 1) == want;
    return 1;
}
static int t_odd(jctx *c, int *yes, jv x, jv y)
{
    (void)y;
    return t_parity(c, yes, x, 1);
}
static int t_even(jctx *c, int *yes, jv x, jv y)
{
    (void)y;
    return t_parity(c, yes, x, 0);
}
static int t_divisible(jctx *c, int *yes, jv x, jv y)
{
    int64_t a = 0, b = 0;
    if (!jv_arg_int(c, x, "divisibleby", &a) || !jv_arg_int(c, y, "divisibleby", &b)) return 0;
    if (!b) return jfail(c, "divisibleby: division by zero");
    *yes = b == -1 || a % b == 0;
    return 1;
}
static int t_eq(jctx *c, int *yes, jv x, jv y)
{
    return jv_eq(c, x, y, yes);
}
static int t_ne(jctx *c, int *yes, jv x, jv y)
{
    int ok = jv_eq(c, x, y, yes);
    *yes = !*yes;
    return ok;
}
#define ORDER_TEST(name, op, expr)                  \
    static int name(jctx *c, int *yes, jv x, jv y)  \
    {                                               \
        int order;                                  \
        if (!jv_cmp(c, x, y, op, &order)) return 0; \
        *yes = order != 2 && (expr);                \
        return 1;                                   \
    }
ORDER_TEST(t_lt, "<", order < 0)
ORDER_TEST(t_le, "<=", order <= 0)
ORDER_TEST(t_gt, ">", order > 0)
ORDER_TEST(t_ge, ">=", order >= 0)
static int t_in(jctx *c, int *yes, jv x, jv y)
{
    return jv_contains(c, x, y, yes);
}
static int t_sameas(jctx *c, int *yes, jv x, jv y)
{
    if (x.type != y.type) return *yes = 0, 1;
    if (x.type == JV_LIST) return *yes = x.list == y.list, 1;
    if (x.type == JV_DICT || x.type == JV_NS) return *yes = x.dict == y.dict, 1;
    return jv_eq(c, x, y, yes);
}
static int t_case(jctx *c, int *yes, jv x, int how)
{
    ns_str s;
    jv v;
    static const char *const name[] = {"isupper", "islower"};
    jargs none = {0};
    if (!jv_as_str(c, &s, x) || !jstr_method(c, &v, s, (ns_str){name[how], 7}, &none)) return 0;
    *yes = v.i != 0;
    return 1;
}
static int t_upper(jctx *c, int *yes, jv x, jv y)
{
    (void)y;
    return t_case(c, yes, x, 0);
}
static int t_lower(jctx *c, int *yes, jv x, jv y)
{
    (void)y;
    return t_case(c, yes, x, 1);
}
static int t_escaped(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_STR && x.kind;
    return 1;
}
static int t_filter(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_STR && jfilter_find(x.s);
    return 1;
}
static int t_test(jctx *c, int *yes, jv x, jv y)
{
    (void)c, (void)y;
    *yes = x.type == JV_STR && jtest_find(x.s);
    return 1;
}

static const jtest tests[] = {
    {"defined", 0, t_defined},
    {"undefined", 0, t_undefined},
    {"none", 0, t_none},
    {"boolean", 0, t_boolean},
    {"true", 0, t_true},
    {"false", 0, t_false},
    {"string", 0, t_string},
    {"mapping", 0, t_mapping},
    {"integer", 0, t_integer},
    {"float", 0, t_float},
    {"number", 0, t_number},
    {"iterable", 0, t_iterable},
    {"sequence", 0, t_sequence},
    {"callable", 0, t_callable},
    {"odd", 0, t_odd},
    {"even", 0, t_even},
    {"upper", 0, t_upper},
    {"lower", 0, t_lower},
    {"escaped", 0, t_escaped},
    {"filter", 0, t_filter},
    {"test", 0, t_test},
    {"divisibleby", 1, t_divisible},
    {"eq", 1, t_eq},
    {"equalto", 1, t_eq},
    {"==", 1, t_eq},
    {"ne", 1, t_ne},
    {"!=", 1, t_ne},
    {"lt", 1, t_lt},
    {"lessthan", 1, t_lt},
    {"<", 1, t_lt},
    {"le", 1, t_le},
    {"<=", 1, t_le},
    {"gt", 1, t_gt},
    {"greaterthan", 1, t_gt},
    {">", 1, t_gt},
    {"ge", 1, t_ge},
    {">=", 1, t_ge},
    {"in", 1, t_in},
    {"sameas", 1, t_sameas},
};

const jtest *jtest_find(ns_str name)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (jis(name, tests[i].name)) return &tests[i];
    return NULL;
}

const char *jtest_suggest(ns_str name)
{
    const char *names[sizeof tests / sizeof *tests];
    char word[64];
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) names[i] = tests[i].name;
    snprintf(word, sizeof word, "%.*s", (int)(name.n < 60 ? name.n : 60), name.p);
    return ns_suggest(word, names, sizeof tests / sizeof *tests);
}

/* ---- operators ---- */
static int is_int(jv v)
{
    return v.type == JV_INT || v.type == JV_BOOL;
}

static int int_op(jctx *c, jv *out, int op, int64_t a, int64_t b)
{
    int64_t r = 0;
    int over = 0;
    switch (op) {
    case JO_ADD: over = __builtin_add_overflow(a, b, &r); break;
    case JO_SUB: over = __builtin_sub_overflow(a, b, &r); break;
    case JO_MUL: over = __builtin_mul_overflow(a, b, &r); break;
    case JO_DIV:
        if (!b) return jfail(c, "division by zero");
        return *out = jv_float((double)a / (double)b), 1;
    case JO_FLOORDIV:
    case JO_MOD:
        if (!b) return jfail(c, "division by zero");
        if (b == -1) { /* INT64_MIN / -1 */
            if (op == JO_MOD) return *out = jv_int(0), 1;
            over = __builtin_sub_overflow((int64_t)0, a, &r);
            break;
        }
        r = op == JO_MOD ? a % b : a / b;
        if (a % b != 0 && (a < 0) != (b < 0)) r = op == JO_MOD ? r + b : r - 1;
        break;
    default: /* JO_POW */
        if (b < 0) return *out = jv_float(pow((double)a, (double)b)), 1;
        for (r = 1; b > 0 && !over; b--) {
            over = __builtin_mul_overflow(r, a, &r);
            if ((a == 1 || a == 0 || a == -1) && b > 2) b -= (b - 2) / 2 * 2; /* 1, 0, -1 repeat */
        }
    }
    if (over) return jfail(c, "an integer is too large (more than 64 bits)");
    *out = jv_int(r);
    return 1;
}

static int float_op(jctx *c, jv *out, int op, double a, double b)
{
    double r = 0;
    if ((op == JO_DIV || op == JO_FLOORDIV || op == JO_MOD) && b == 0) return jfail(c, "division by zero");
    switch (op) {
    case JO_ADD: r = a + b; break;
    case JO_SUB: r = a - b; break;
    case JO_MUL: r = a * b; break;
    case JO_DIV: r = a / b; break;
    case JO_FLOORDIV: r = floor(a / b); break;
    case JO_MOD:
        r = fmod(a, b);
        if (r != 0 && (r < 0) != (b < 0)) r += b;
        break;
    default: r = pow(a, b);
    }
    *out = jv_float(r);
    return 1;
}

static int joined(jctx *c, jv *out, ns_str a, ns_str b)
{
    char *p = jalloc(c, a.n + b.n + 1);
    if (!p) return 0;
    if (a.n) memcpy(p, a.p, a.n);
    if (b.n) memcpy(p + a.n, b.p, b.n);
    *out = jv_str(p, a.n + b.n);
    return 1;
}

static int html_escape(jctx *c, jv *out, ns_str s)
{
    ns_buf b = {0};
    int ok = jcharge(c, s.n / 8);
    for (size_t i = 0; ok && i < s.n; i++) {
        const char *e = s.p[i] == '&'    ? "&amp;"
                        : s.p[i] == '<'  ? "&lt;"
                        : s.p[i] == '>'  ? "&gt;"
                        : s.p[i] == '\'' ? "&#39;"
                        : s.p[i] == '"'  ? "&#34;"
                                         : NULL;
        ok = (e ? ns_buf_adds(&b, e, c->err) : ns_buf_addc(&b, s.p[i], c->err)) == NS_OK;
    }
    ok = ok && jv_keep(c, out, &b);
    ns_buf_free(&b);
    out->kind = 1;
    return ok;
}

static int repeat(jctx *c, jv *out, jv v, int64_t n)
{
    if (n < 0) n = 0;
    if (v.type == JV_STR) {
        size_t total;
        if (__builtin_mul_overflow(v.s.n, (size_t)n, &total)) total = SIZE_MAX / 2;
        char *p = jalloc(c, total);
        if (!p) return 0;
        for (int64_t i = 0; v.s.n && i < n; i++) memcpy(p + (size_t)i * v.s.n, v.s.p, v.s.n);
        *out = jv_str(p, total);
        return 1;
    }
    if (!jv_new_list(c, out, v.list->kind, 0)) return 0;
    for (int64_t k = 0; v.list->n && k < n; k++)
        for (size_t i = 0; i < v.list->n; i++)
            if (!jcharge(c, 1) || !jv_push(c, out->list, v.list->v[i])) return 0;
    return 1;
}

int jbinary(jctx *c, jv *out, int op, jv a, jv b)
{
    static const char *const names[] = {"+", "-", "*", "/", "//", "%", "**"};
    if (op == JO_MOD && a.type == JV_STR) return jstr_format_percent(c, out, a.s, b);
    if (!jv_need_defined(c, a) || !jv_need_defined(c, b)) return 0;
    if (is_int(a) && is_int(b)) return int_op(c, out, op, a.i, b.i);
    if ((is_int(a) || a.type == JV_FLOAT) && (is_int(b) || b.type == JV_FLOAT))
        return float_op(c, out, op, is_int(a) ? (double)a.i : a.f, is_int(b) ? (double)b.i : b.f);
    if (op == JO_ADD && a.type == JV_STR && b.type == JV_STR) {
        int safe = a.kind || b.kind; /* text marked `safe` escapes what it is joined with */
        if (safe && !a.kind && !html_escape(c, &a, a.s)) return 0;
        if (safe && !b.kind && !html_escape(c, &b, b.s)) return 0;
        if (!joined(c, out, a.s, b.s)) return 0;
        out->kind = (uint8_t)safe;
        return 1;
    }
    if (op == JO_ADD && a.type == JV_LIST && b.type == JV_LIST && a.list->kind == b.list->kind &&
        a.list->kind <= JL_TUPLE) {
        if (!jv_new_list(c, out, a.list->kind, a.list->n + b.list->n)) return 0;
        for (size_t i = 0; i < a.list->n + b.list->n; i++)
            if (!jv_push(c, out->list, i < a.list->n ? a.list->v[i] : b.list->v[i - a.list->n])) return 0;
        return 1;
    }
    if (op == JO_MUL) {
        if (is_int(a)) {
            jv t = a;
            a = b;
            b = t;
        }
        if (is_int(b) && (a.type == JV_STR || (a.type == JV_LIST && a.list->kind <= JL_TUPLE)))
            return repeat(c, out, a, b.i);
    }
    return jfail(c, "unsupported operand types for %s: '%s' and '%s'", names[op], jv_type_name(a), jv_type_name(b));
}
