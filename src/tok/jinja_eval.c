/* Walking the tree: expressions and statements. Names are looked up through nested scopes: a loop body, a macro, a `with`
 * block, a captured block each have one; `if` has none. A macro sees the scope that it was written in, as it is when the
 * macro runs. All text goes to one buffer; what a macro or a set block writes is cut off its end again. */
#include <stdio.h>

#include "tok/jinja_internal.h"

static int eval(jctx *c, jv *out, const jnode *n);
static int exec_list(jctx *c, const jnode *n);

/* ---- scopes ---- */
static jscope *new_scope(jctx *c, jscope *parent)
{
    jscope *s = jalloc(c, sizeof *s);
    if (s) *s = (jscope){.parent = parent};
    return s;
}

static int set_in(jctx *c, jscope *s, int id, jv v)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->id[i] == id) {
            s->v[i] = v;
            return 1;
        }
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 4;
        int *ids = jalloc(c, cap * sizeof *ids);
        jv *vs = jalloc(c, cap * sizeof *vs);
        if (!ids || !vs) return 0;
        if (s->n) {
            memcpy(ids, s->id, s->n * sizeof *ids);
            memcpy(vs, s->v, s->n * sizeof *vs);
        }
        s->id = ids;
        s->v = vs;
        s->cap = cap;
    }
    s->id[s->n] = id;
    s->v[s->n++] = v;
    return 1;
}

static int lookup(jctx *c, jv *out, const jnode *n)
{
    for (jscope *s = c->scope; s; s = s->parent)
        for (size_t i = s->n; i-- > 0;)
            if (s->id[i] == n->id) {
                *out = s->v[i];
                return 1;
            }
    return jglobal_find(c, n->s, out);
}

static int name_id(const ns_jinja *t, const char *name)
{
    for (size_t i = 0; i < t->n_names; i++)
        if (jis(t->names[i], name)) return (int)i;
    return -1;
}

static int set_named(jctx *c, const char *name, jv v)
{
    int id = name_id(c->t, name);
    return id < 0 || set_in(c, c->scope, id, v);
}

static int assign(jctx *c, const jnode *target, jv v)
{
    if (target->kind == JN_NAME) return set_in(c, c->scope, target->id, v);
    if (target->kind == JN_NSREF) {
        jv ns;
        jnode name = *target;
        c->at = target;
        if (!lookup(c, &ns, &name)) return 0;
        if (ns.type != JV_NS)
            return jfail(c, "cannot assign an attribute of '%.*s', which is no namespace", (int)name.s.n, name.s.p);
        if (target->b->value.s.n && target->b->value.s.p[0] == '_')
            return jfail(c, "a namespace attribute may not begin with '_'");
        return jv_dict_set(c, ns.dict, target->b->value, v);
    }
    jv_list l;
    c->at = target;
    if (!jv_need_defined(c, v) || !jv_iter(c, &l, v)) return 0;
    if (l.n != target->n) return jfail(c, "%zu values to unpack, expected %zu", l.n, target->n);
    for (size_t i = 0; i < l.n; i++)
        if (!assign(c, target->list[i], l.v[i])) return 0;
    return 1;
}

/* ---- calls ---- */
static int eval_args(jctx *c, jargs *a, const jnode *n)
{
    memset(a, 0, sizeof *a);
    a->caller = jv_undef(JS("caller"), 0);
    jv list;
    size_t kw_cap = 0;
    if (!n->n_args) return 1;
    if (!jv_new_list(c, &list, JL_LIST, n->n_args)) return 0;
    for (size_t i = 0; i < n->n_args; i++) {
        jv v;
        const jn_arg *arg = &n->args[i];
        if (!eval(c, &v, arg->value)) return 0;
        if (arg->star == 1) {
            jv_list l;
            if (!jv_iter(c, &l, v)) return 0;
            for (size_t k = 0; k < l.n; k++)
                if (!jv_push(c, list.list, l.v[k])) return 0;
            continue;
        }
        if (!arg->star && !arg->name.p) {
            if (!jv_push(c, list.list, v)) return 0;
            continue;
        }
        if (arg->star && v.type != JV_DICT) return jfail(c, "**: expected a mapping, found %s", jv_type_name(v));
        size_t more = arg->star ? v.dict->n : 1;
        if (a->n_kw + more > kw_cap) {
            kw_cap = (a->n_kw + more) * 2;
            jkw *kw = jalloc(c, kw_cap * sizeof *kw);
            if (!kw) return 0;
            if (a->n_kw) memcpy(kw, a->kw, a->n_kw * sizeof *kw);
            a->kw = kw;
        }
        for (size_t k = 0; k < more; k++) {
            if (arg->star && v.dict->key[k].type != JV_STR) return jfail(c, "**: the keys must be text");
            a->kw[a->n_kw++] = arg->star ? (jkw){v.dict->key[k].s, v.dict->val[k]} : (jkw){arg->name, v};
        }
    }
    a->v = list.list->v;
    a->n = list.list->n;
    return 1;
}

static int capture(jctx *c, jv *out, const jnode *body)
{
    size_t from = c->out.len;
    c->n_captures++;
    int ok = exec_list(c, body) && jv_keep_from(c, out, from);
    c->n_captures--;
    return ok;
}

/* Binds the parameters of a macro in the current scope. */
static int bind(jctx *c, const jv_func *f, jargs *a)
{
    const jnode *m = f->node;
    int n = (int)(f->name.n < 60 ? f->name.n : 60), varargs = name_id(c->t, "varargs"),
        kwargs = name_id(c->t, "kwargs");
    for (size_t i = 0; i < m->n_args; i++) {
        const jn_arg *p = &m->args[i];
        jv v = jv_undef(p->name, 0);
        int given = i < a->n;
        if (given) v = a->v[i];
        for (size_t k = 0; k < a->n_kw; k++)
            if (js_eq(a->kw[k].name, p->name)) {
                if (given)
                    return jfail(c, "macro %.*s: '%.*s' is given twice", n, f->name.p, (int)p->name.n, p->name.p);
                v = a->kw[k].v;
                given = 1;
                if (k < 64) a->used_kw |= (uint64_t)1 << k;
            }
        if (!given && p->value && !eval(c, &v, p->value)) return 0;
        if (!set_in(c, c->scope, p->id, v)) return 0;
    }
    if (varargs >= 0) {
        jv rest;
        if (!jv_new_list(c, &rest, JL_TUPLE, 0)) return 0;
        for (size_t i = m->n_args; i < a->n; i++)
            if (!jv_push(c, rest.list, a->v[i])) return 0;
        if (!set_in(c, c->scope, varargs, rest)) return 0;
    } else if (a->n > m->n_args) {
        return jfail(c, "macro %.*s takes at most %zu arguments, found %zu", n, f->name.p, m->n_args, a->n);
    }
    jv rest;
    if (kwargs >= 0 && (!jv_new_dict(c, &rest) || !set_in(c, c->scope, kwargs, rest))) return 0;
    for (size_t k = 0; k < a->n_kw; k++) {
        if (k < 64 && a->used_kw >> k & 1) continue;
        if (kwargs < 0)
            return jfail(c, "macro %.*s has no argument named '%.*s'", n, f->name.p, (int)a->kw[k].name.n,
                         a->kw[k].name.p);
        if (!jv_dict_set(c, rest.dict, jv_text(a->kw[k].name), a->kw[k].v)) return 0;
    }
    return 1;
}

int jcall_macro(jctx *c, jv *out, jv_func *f, jargs *a)
{
    jscope *saved = c->scope;
    const jnode *at = c->at;
    c->scope = new_scope(c, f->scope);
    int ok = c->scope && bind(c, f, a) && (f->kind == JF_CALLER || set_named(c, "caller", a->caller)) &&
             capture(c, out, f->node);
    c->scope = saved;
    if (ok) c->at = at;
    return ok;
}

static int call_filter(jctx *c, jv *out, const jnode *n, jv x)
{
    jargs a;
    char kw[64];
    if (!eval_args(c, &a, n)) return 0;
    c->at = n;
    if ((int)a.n > n->filter->max_args)
        return jfail(c, "filter '%s' takes at most %d arguments, found %zu", n->filter->name, n->filter->max_args, a.n);
    for (size_t i = 0; i < a.n_kw; i++) {
        const char *hit = NULL;
        ns_str name = a.kw[i].name;
        if (name.n < sizeof kw - 2) {
            snprintf(kw, sizeof kw, "%.*s", (int)name.n, name.p);
            for (hit = strstr(n->filter->kw, kw); hit; hit = strstr(hit + 1, kw))
                if ((hit == n->filter->kw || hit[-1] == ' ') && (hit[name.n] == ' ' || !hit[name.n])) break;
        }
        if (!hit)
            return jfail(c, "filter '%s' has no argument named '%.*s'", n->filter->name,
                         (int)(name.n < 60 ? name.n : 60), name.p);
    }
    return n->filter->fn(c, out, x, &a);
}

/* A chain of filters whose innermost has no operand: x goes there. */
static int filter_chain(jctx *c, jv *out, const jnode *n, jv x)
{
    if (n->a && !filter_chain(c, &x, n->a, x)) return 0;
    return call_filter(c, out, n, x);
}

/* ---- expressions ---- */
static int eval_slice(jctx *c, jv *out, const jnode *n)
{
    jv v, part[3];
    const jnode *kids[3] = {n->b, n->c, n->d};
    int64_t at[3] = {0, 0, 1}, len;
    int given[3];
    if (!eval(c, &v, n->a)) return 0;
    for (int i = 0; i < 3; i++) {
        given[i] = kids[i] != NULL;
        if (!given[i]) continue;
        if (!eval(c, &part[i], kids[i])) return 0;
        c->at = n;
        if (part[i].type == JV_NONE)
            given[i] = 0;
        else if (!jv_arg_int(c, part[i], "slice", &at[i]))
            return 0;
    }
    c->at = n;
    if (!jv_need_defined(c, v)) return 0;
    if (v.type != JV_STR && !(v.type == JV_LIST && v.list->kind <= JL_RANGE))
        return jfail(c, "a %s cannot be sliced", jv_type_name(v));
    if (given[2] && at[2] == 0) return jfail(c, "slice step cannot be zero");
    jv_list l;
    int64_t step = given[2] ? at[2] : 1;
    if (v.type == JV_STR && step == 1)
        len = (int64_t)jstr_len(v.s);
    else if (!jv_iter(c, &l, v))
        return 0;
    else
        len = (int64_t)l.n;
    int64_t lo = step > 0 ? 0 : -1, hi = step > 0 ? len : len - 1, from = step > 0 ? lo : hi, to = step > 0 ? hi : lo;
    for (int i = 0; i < 2; i++) {
        if (!given[i]) continue;
        int64_t x = at[i] < 0 ? (at[i] < -len ? lo : at[i] + len) : at[i];
        if (x < lo) x = lo;
        if (x > hi) x = hi;
        *(i ? &to : &from) = x;
    }
    if (v.type == JV_STR && step == 1) {
        if (to < from) to = from;
        size_t a = jstr_byte(v.s, (size_t)from);
        ns_str rest = {v.s.p + a, v.s.n - a};
        *out = jv_str(rest.p, jstr_byte(rest, (size_t)(to - from)));
        return jcharge(c, v.s.n / 16);
    }
    jv list;
    if (!jv_new_list(c, &list, v.type == JV_LIST ? v.list->kind : JL_LIST, 0)) return 0;
    for (int64_t i = from; step > 0 ? i < to : i > to; i += step) {
        if (!jcharge(c, 1) || !jv_push(c, list.list, l.v[i])) return 0;
        if (step > 0 ? step > len - i : step < -1 - i) break; /* the next index would be out of range */
    }
    if (v.type == JV_LIST) return *out = list, 1;
    jv sep = list; /* text again */
    jargs a = {.v = &sep, .n = 1};
    return jstr_method(c, out, JS(""), JS("join"), &a);
}

static int eval_compare(jctx *c, jv *out, const jnode *n)
{
    static const char *const names[] = {"==", "!=", "<", "<=", ">", ">="};
    jv a, b;
    int yes = 1, order;
    if (!eval(c, &a, n->a)) return 0;
    for (size_t i = 0; yes && i < n->n; i++, a = b) {
        if (!eval(c, &b, n->list[i])) return 0;
        c->at = n;
        int op = n->ops[i];
        if (op == JO_IN || op == JO_NOT_IN) {
            if (!jv_contains(c, a, b, &yes)) return 0;
            yes = yes == (op == JO_IN);
        } else if (op == JO_EQ || op == JO_NE) {
            if (!jv_eq(c, a, b, &yes)) return 0;
            yes = yes == (op == JO_EQ);
        } else {
            if (!jv_cmp(c, a, b, names[op - JO_EQ], &order)) return 0;
            yes = order != 2 && (op == JO_LT   ? order < 0
                                 : op == JO_LE ? order <= 0
                                 : op == JO_GT ? order > 0
                                               : order >= 0);
        }
    }
    *out = jv_bool(yes);
    return 1;
}

static int eval_concat(jctx *c, jv *out, const jnode *n)
{
    ns_buf b = {0};
    int ok = 1;
    for (size_t i = 0; ok && i < n->n; i++) {
        jv v;
        ok = eval(c, &v, n->list[i]);
        c->at = ok ? n : c->at;
        ok = ok && jv_to_text(c, &b, v);
        if (ok && b.len > c->max_bytes)
            ok = jfail(c, "the template needs more than %zu MiB of memory", c->max_bytes >> 20);
    }
    ok = ok && jv_keep(c, out, &b);
    ns_buf_free(&b);
    return ok;
}

static int eval_items(jctx *c, jv *out, const jnode *n)
{
    jv v, key;
    if (n->kind == JN_DICT) {
        if (!jv_new_dict(c, out)) return 0;
        for (size_t i = 0; i < n->n; i += 2) {
            if (!eval(c, &key, n->list[i]) || !eval(c, &v, n->list[i + 1])) return 0;
            c->at = n;
            if (!jv_dict_set(c, out->dict, key, v)) return 0;
        }
        return 1;
    }
    if (!jv_new_list(c, out, n->kind == JN_LIST ? JL_LIST : JL_TUPLE, n->n)) return 0;
    for (size_t i = 0; i < n->n; i++)
        if (!eval(c, &v, n->list[i]) || !jv_push(c, out->list, v)) return 0;
    return 1;
}

static int eval_call(jctx *c, jv *out, const jnode *n, jv caller)
{
    jv f;
    jargs a;
    if (!eval(c, &f, n->a) || !eval_args(c, &a, n)) return 0;
    a.caller = caller;
    c->at = n;
    return jcall(c, out, f, &a);
}

static int eval_sign(jctx *c, jv *out, const jnode *n)
{
    jv v;
    if (!eval(c, &v, n->a)) return 0;
    c->at = n;
    if (v.type == JV_FLOAT) return *out = n->kind == JN_NEG ? jv_float(-v.f) : v, 1;
    if (v.type == JV_INT || v.type == JV_BOOL)
        return n->kind == JN_NEG ? jbinary(c, out, JO_SUB, jv_int(0), v) : (*out = jv_int(v.i), 1);
    return jv_need_defined(c, v) && jfail(c, "a sign needs a number, found %s", jv_type_name(v));
}

static int eval_node(jctx *c, jv *out, const jnode *n)
{
    jv x, y;
    switch (n->kind) {
    case JN_CONST: return *out = n->value, 1;
    case JN_NAME: return lookup(c, out, n);
    case JN_LIST:
    case JN_TUPLE:
    case JN_DICT: return eval_items(c, out, n);
    case JN_ATTR:
        if (!eval(c, &x, n->a)) return 0;
        c->at = n;
        return jv_attr(c, out, x, n->s);
    case JN_ITEM:
        if (!eval(c, &x, n->a) || !eval(c, &y, n->b)) return 0;
        c->at = n;
        return jv_item(c, out, x, y);
    case JN_SLICE: return eval_slice(c, out, n);
    case JN_CALL: return eval_call(c, out, n, jv_undef(JS("caller"), 0));
    case JN_FILTER: return eval(c, &x, n->a) && call_filter(c, out, n, x);
    case JN_TEST: {
        int yes;
        y = jv_none();
        if (!eval(c, &x, n->a) || (n->n_args && !eval(c, &y, n->args[0].value))) return 0;
        c->at = n;
        if (!n->test->fn(c, &yes, x, y)) return 0;
        *out = jv_bool(yes);
        return 1;
    }
    case JN_NOT:
        if (!eval(c, &x, n->a)) return 0;
        *out = jv_bool(!jv_truth(x));
        return 1;
    case JN_NEG:
    case JN_POS: return eval_sign(c, out, n);
    case JN_AND:
        if (!eval(c, out, n->a)) return 0;
        return !jv_truth(*out) || eval(c, out, n->b);
    case JN_OR:
        if (!eval(c, out, n->a)) return 0;
        return jv_truth(*out) || eval(c, out, n->b);
    case JN_BINARY:
        if (!eval(c, &x, n->a) || !eval(c, &y, n->b)) return 0;
        c->at = n;
        return jbinary(c, out, n->op, x, y);
    case JN_CONCAT: return eval_concat(c, out, n);
    case JN_COMPARE: return eval_compare(c, out, n);
    default: /* JN_COND */
        if (!eval(c, &x, n->a)) return 0;
        if (jv_truth(x)) return eval(c, out, n->b);
        if (n->c) return eval(c, out, n->c);
        *out = jv_undef(JS("the inline if-expression is false and has no else"), 3);
        return 1;
    }
}

static int eval(jctx *c, jv *out, const jnode *n)
{
    c->at = n;
    if (++c->depth > JINJA_MAX_DEPTH) return jfail(c, "nested too deeply (a macro that calls itself for ever?)");
    int ok = jcharge(c, 1) && eval_node(c, out, n);
    c->depth--;
    return ok;
}

/* ---- statements ---- */
static int loop_body(jctx *c, const jnode *n, jloop *l, jv loop)
{
    for (l->at = 0; l->at < l->items->n; l->at++) {
        c->scope->n = 0;
        if (!jcharge(c, 1) || !set_named(c, "loop", loop) || !assign(c, n->a, l->items->v[l->at]) || !exec_list(c, n))
            return 0;
        int flow = c->flow;
        c->flow = JFLOW_NONE;
        if (flow == JFLOW_BREAK) break;
    }
    return 1;
}

static int run_loop(jctx *c, const jnode *n, jv over, int64_t depth)
{
    jscope *saved = c->scope;
    jv items, cond;
    jv_list l;
    jloop *loop = jalloc(c, sizeof *loop);
    jv_func *f = jalloc(c, sizeof *f);
    if (!loop || !f || !jv_iter(c, &l, over) || !jv_new_list(c, &items, JL_LIST, 0)) return 0;
    c->scope = new_scope(c, saved);
    int ok = c->scope != NULL;
    if (n->c) { /* for x in xs if condition */
        for (size_t i = 0; ok && i < l.n; i++) {
            c->scope->n = 0;
            ok = assign(c, n->a, l.v[i]) && eval(c, &cond, n->c) && (!jv_truth(cond) || jv_push(c, items.list, l.v[i]));
        }
    } else {
        *items.list = l;
        items.list->kind = JL_LIST;
    }
    if (ok && items.list->n) {
        *loop = (jloop){.items = items.list, .depth = depth, .node = n};
        memset(f, 0, sizeof *f);
        f->kind = JF_LOOP;
        f->node = n;
        f->scope = saved;
        f->loop = loop;
        ok = loop_body(c, n, loop, (jv){.type = JV_FUNC, .func = f});
    } else if (ok && n->d) {
        c->scope->n = 0;
        ok = exec_list(c, n->d);
    }
    c->scope = saved;
    return ok;
}

int jloop_recurse(jctx *c, jv *out, jv_func *f, jv over)
{
    if (!f->node->op) return jfail(c, "loop can be called only in a loop that says 'recursive'");
    jscope *saved = c->scope;
    size_t from = c->out.len;
    c->scope = f->scope;
    c->n_captures++;
    int ok = run_loop(c, f->node, over, f->loop->depth + 1) && jv_keep_from(c, out, from);
    c->n_captures--;
    c->scope = saved;
    return ok;
}

static int exec_set(jctx *c, const jnode *n)
{
    jv v;
    if (n->kind == JN_SET) return eval(c, &v, n->b) && assign(c, n->a, v);
    jscope *saved = c->scope;
    c->scope = new_scope(c, saved);
    int ok = c->scope && capture(c, &v, n) && (!n->b || filter_chain(c, &v, n->b, v));
    c->scope = saved;
    return ok && assign(c, n->a, v);
}

static int new_macro(jctx *c, jv *out, const jnode *n, jf_kind kind)
{
    jv_func *f = jalloc(c, sizeof *f);
    if (!f) return 0;
    memset(f, 0, sizeof *f);
    f->kind = kind;
    f->name = n->s.p ? n->s : JS("caller");
    f->node = n;
    f->scope = c->scope;
    *out = (jv){.type = JV_FUNC, .func = f};
    return 1;
}

static int exec_with(jctx *c, const jnode *n)
{
    jscope *saved = c->scope, *inner = new_scope(c, saved);
    jv v;
    int ok = inner != NULL;
    for (size_t i = 0; ok && i < n->n_args; i++) /* values are evaluated outside */
        ok = eval(c, &v, n->args[i].value) && set_in(c, inner, n->args[i].id, v);
    c->scope = inner;
    ok = ok && exec_list(c, n);
    c->scope = saved;
    return ok;
}

static int exec_generation(jctx *c, const jnode *n)
{
    jscope *saved = c->scope;
    size_t from = c->out.len;
    ns_jinja_render *r = c->r;
    c->scope = new_scope(c, saved);
    c->at = n;
    if (r->want_spans && c->n_captures)
        return jfail(c, "generation inside of a macro or a captured block: where its text ends up is not known");
    int ok = c->scope && exec_list(c, n);
    c->scope = saved;
    if (!ok || !r->want_spans) return ok;
    if (ns_grow((void **)&r->spans, &r->spans_cap, r->n_spans + 1, sizeof *r->spans, "jinja.spans", c->err) != NS_OK)
        return 0;
    r->spans[r->n_spans++] = (ns_jinja_span){from, c->out.len};
    return 1;
}

static int put_text(jctx *c, const char *p, size_t n)
{
    if (c->out.len + n > c->max_bytes) return jfail(c, "the template writes more than %zu MiB", c->max_bytes >> 20);
    return jcharge(c, n / 64) && ns_buf_add(&c->out, p, n, c->err) == NS_OK;
}

static int exec(jctx *c, const jnode *n)
{
    jv v;
    c->at = n;
    switch (n->kind) {
    case JN_TEXT: return put_text(c, n->s.p, n->s.n);
    case JN_OUT:
        if (!eval(c, &v, n->a)) return 0;
        if (v.type == JV_STR) return put_text(c, v.s.p, v.s.n);
        return jv_to_text(c, &c->out, v);
    case JN_IF:
        if (!eval(c, &v, n->a)) return 0;
        if (jv_truth(v)) return exec_list(c, n);
        return !n->c || (n->c->kind == JN_IF ? exec(c, n->c) : exec_list(c, n->c));
    case JN_FOR: return eval(c, &v, n->b) && (c->at = n, run_loop(c, n, v, 0));
    case JN_SET:
    case JN_SET_BLOCK: return exec_set(c, n);
    case JN_MACRO: return new_macro(c, &v, n, JF_MACRO) && set_in(c, c->scope, n->id, v);
    case JN_CALL_BLOCK: {
        jv caller;
        if (!new_macro(c, &caller, n, JF_CALLER) || !eval_call(c, &v, n->a, caller)) return 0;
        return jv_to_text(c, &c->out, v);
    }
    case JN_FILTER_BLOCK: {
        jscope *saved = c->scope;
        c->scope = new_scope(c, saved);
        int ok = c->scope && capture(c, &v, n) && filter_chain(c, &v, n->a, v);
        c->scope = saved;
        return ok && jv_to_text(c, &c->out, v);
    }
    case JN_WITH: return exec_with(c, n);
    case JN_GENERATION: return exec_generation(c, n);
    case JN_BREAK: c->flow = JFLOW_BREAK; return 1;
    case JN_CONTINUE: c->flow = JFLOW_CONTINUE; return 1;
    default: return exec_list(c, n);
    }
}

static int exec_list(jctx *c, const jnode *n)
{
    if (++c->depth > JINJA_MAX_DEPTH) return jfail(c, "nested too deeply (a macro that calls itself for ever?)");
    for (size_t i = 0; i < n->n && c->flow == JFLOW_NONE; i++)
        if (!jcharge(c, 1) || !exec(c, n->list[i])) return 0;
    c->depth--;
    return 1;
}

/* ---- public ---- */
ns_status ns_jinja_compile(ns_jinja **out, const char *text, size_t n, const char *name, ns_error *err)
{
    ns_jinja *t = NULL;
    jtokens tokens = {0};
    ns_status st = NS_OK;
    *out = NULL;
    NS_CHECK(st, ns_alloc((void **)&t, sizeof *t, "jinja", err), "template");
    t->arena.label = "jinja.tree";
    t->name = ns_arena_strdup(&t->arena, name, err);
    NS_BAIL_IF(st, !t->name, NS_ERR_MEMORY, "out of memory");
    NS_CHECK(st, ns_jinja_lex(&tokens, &t->arena, text, n, t->name, err), "template");
    NS_CHECK(st, ns_jinja_parse(t, &tokens, err), "template");
    *out = t;
    t = NULL;
done:
    ns_jinja_free(&t);
    return st;
}

void ns_jinja_free(ns_jinja **tp)
{
    ns_jinja *t = *tp;
    if (!t) return;
    ns_free(t->names);
    ns_arena_free(&t->arena);
    ns_free(t);
    *tp = NULL;
}

int ns_jinja_has_generation(const ns_jinja *t)
{
    return t->has_generation;
}

int ns_jinja_uses(const ns_jinja *t, const char *name)
{
    return name_id(t, name) >= 0;
}

static int run(jctx *c)
{
    ns_jinja_render *r = c->r;
    c->at = NULL;
    c->scope = c->globals = new_scope(c, NULL);
    if (!c->scope) return 0;
    for (size_t i = 0; i < r->n_vars; i++) {
        jv v;
        int id = name_id(c->t, r->vars[i].name);
        if (id < 0) continue; /* not read by the template */
        if (!jv_from_json(c, &v, r->vars[i].value) || !set_in(c, c->scope, id, v)) return 0;
    }
    c->scope = new_scope(c, c->globals);
    return c->scope && exec_list(c, c->t->root);
}

ns_status ns_jinja_run(const ns_jinja *t, ns_buf *out, ns_jinja_render *r, ns_error *err)
{
    ns_error own = NS_ERROR_INIT;
    jctx c = {.t = t, .r = r, .arena = NS_ARENA_INIT("jinja.render"), .err = err ? err : &own};
    c.max_steps = r->limits.steps ? r->limits.steps : 50000000;
    c.max_bytes = r->limits.bytes ? r->limits.bytes : (size_t)256 << 20;
    size_t spans = r->n_spans;
    ns_status st = run(&c) ? ns_buf_add(out, c.out.data ? c.out.data : "", c.out.len, c.err) : c.err->code;
    for (size_t i = spans; st == NS_OK && i < r->n_spans; i++) { /* relative to the caller's buffer */
        r->spans[i].from += out->len - c.out.len;
        r->spans[i].to += out->len - c.out.len;
    }
    if (st != NS_OK) r->n_spans = spans;
    ns_buf_free(&c.out);
    ns_arena_free(&c.arena);
    return st;
}
