/* Interpolation, evaluated when a value is read, so that overriding a target changes all its users (data.md §1.3).
 *
 *     ${a.b} ${a[0]}       from the root            ${.x} ${..x}   from the value's own map, and one level up per dot
 *     ${name:arg,...}      resolver: oc.env oc.select oc.decode multiply int_div subtract not equal subfield
 *     text ${a} text       concatenation, as Python's str()         \${a}   the text ${a}
 *
 * A text that is exactly one ${...} keeps the type of what it names. Relative names start at the place where the text is
 * written, also when reached through another interpolation. A chain of the values being evaluated finds cycles. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config_priv.h"

/* One value under evaluation; the list of them ends in the caller's stack frames. */
typedef struct chain {
    const ns_node *node;
    const struct chain *up;
    int depth;
} chain;

enum { MAX_ARGS = 8 };

static ns_status deref(ns_config *c, const ns_node *n, const chain *up, const ns_node **out, ns_error *err);
static ns_status resolve_deep(ns_config *c, const ns_node *n, const chain *up, const ns_node **out, ns_error *err);

static int is_interpolated(const ns_node *n)
{
    return n->type == NS_NODE_STRING && strstr(n->s, "${") != NULL;
}

static int is_missing(const ns_node *n)
{
    return n->type == NS_NODE_STRING && strcmp(n->s, "???") == 0;
}

int cfg_has_interpolation(const ns_node *n)
{
    if (n->type != NS_NODE_LIST && n->type != NS_NODE_MAP) return is_interpolated(n);
    for (size_t i = 0; i < n->n; i++)
        if (cfg_has_interpolation(n->items[i])) return 1;
    return 0;
}

const char *cfg_skip_interpolation(const char *p)
{
    int depth = 0;
    char quote = 0;
    for (p += 2, depth = 1; *p; p++) {
        if (quote) {
            if (*p == '\\' && p[1])
                p++;
            else if (*p == quote)
                quote = 0;
        } else if (*p == '\'' || *p == '"') {
            quote = *p;
        } else if (*p == '{') {
            depth++;
        } else if (*p == '}' && --depth == 0) {
            return p + 1;
        }
    }
    return NULL;
}

static ns_status fail_missing(const ns_node *n, ns_error *err)
{
    char path[512];
    cfg_path_of(n, path, sizeof path);
    NS_FAIL(NS_ERR_CONFIG, "'%s' must be given (it is ??? in %s): write ++%s=VALUE", path, n->origin, path);
}

/* ---- paths through interpolations ---- */
static ns_status walk(ns_config *c, const ns_node *start, const char *path, const chain *up, const ns_node **out,
                      ns_error *err)
{
    const ns_node *n = start;
    const char *p = path;
    char comp[256];
    *out = NULL;
    CFG_TRY(cfg_path_check(path, NULL, err));
    while (cfg_path_next(&p, comp, sizeof comp) == 1) {
        size_t i = 0;
        CFG_TRY(deref(c, n, up, &n, err));
        if (is_missing(n)) return fail_missing(n, err);
        if (n->type == NS_NODE_MAP)
            n = ns_node_get(n, comp);
        else if (n->type == NS_NODE_LIST)
            n = cfg_list_index(comp, &i) && i < n->n ? n->items[i] : NULL;
        else
            n = NULL;
        if (!n) return NS_OK;
    }
    *out = n;
    return NS_OK;
}

/* The raw node that `ref` (with leading dots for relative) names from `at`. *out NULL if absent. */
static ns_status find_reference(ns_config *c, const ns_node *at, const char *ref, const chain *up, const ns_node **out,
                                ns_error *err)
{
    const ns_node *start = c->root;
    const char *p = ref;
    if (*p == '.') {
        for (start = at; *p == '.'; p++) {
            NS_FAIL_IF(!start->parent, NS_ERR_CONFIG, "%s: ${%s} has more dots than there are levels above it",
                       at->origin, ref);
            start = start->parent;
        }
    }
    return walk(c, start, p, up, out, err);
}

static ns_status fail_unknown(ns_config *c, const ns_node *at, const char *ref, ns_error *err)
{
    const char **names = NULL;
    size_t n = 0;
    char hint[512], path[256];
    CFG_TRY(cfg_all_paths(c, &names, &n, err));
    cfg_suggest(hint, sizeof hint, ref + strspn(ref, "."), names, n);
    cfg_path_of(at, path, sizeof path);
    NS_FAIL(NS_ERR_CONFIG, "%s: %s%s${%s} names a key that does not exist%s", at->origin, path, *path ? ": " : "", ref,
            hint);
}

/* ---- resolvers ---- */
typedef struct call {
    const char *name;
    const ns_node *args[MAX_ARGS];
    size_t n;
    const ns_node *at; /* where the text is written */
    const chain *up;
} call;

static ns_status need_args(const call *k, size_t least, size_t most, ns_error *err)
{
    NS_FAIL_IF(k->n < least || k->n > most, NS_ERR_CONFIG, "%s: ${%s:...} takes %zu%s arguments, found %zu",
               k->at->origin, k->name, least, most > least ? " or more" : "", k->n);
    return NS_OK;
}

static ns_status as_string(ns_config *c, const ns_node *x, const char *origin, const ns_node **out, ns_error *err)
{
    ns_buf text = {0};
    ns_status st = cfg_to_text(x, &text, err);
    if (st == NS_OK) *out = cfg_string(c, text.data ? text.data : "", text.len, origin, err);
    ns_buf_free(&text);
    return st != NS_OK ? st : *out ? NS_OK : NS_ERR_MEMORY;
}

static ns_status run_env(ns_config *c, const call *k, const ns_node **out, ns_error *err)
{
    CFG_TRY(need_args(k, 1, 2, err));
    NS_FAIL_IF(k->args[0]->type != NS_NODE_STRING, NS_ERR_CONFIG, "%s: ${oc.env:...} needs a variable name",
               k->at->origin);
    const char *v = getenv(k->args[0]->s);
    if (v) {
        *out = cfg_string(c, v, strlen(v), k->at->origin, err);
        return *out ? NS_OK : NS_ERR_MEMORY;
    }
    NS_FAIL_IF(k->n == 1, NS_ERR_CONFIG,
               "%s: environment variable '%s' is not set: set it, or give a default as ${oc.env:%s,DEFAULT}",
               k->at->origin, k->args[0]->s, k->args[0]->s);
    *out = k->args[1];
    return (*out)->type == NS_NODE_NULL ? NS_OK : as_string(c, *out, k->at->origin, out, err);
}

static ns_status run_select(ns_config *c, const call *k, const ns_node **out, ns_error *err)
{
    const ns_node *found = NULL;
    CFG_TRY(need_args(k, 1, 2, err));
    NS_FAIL_IF(k->args[0]->type != NS_NODE_STRING, NS_ERR_CONFIG, "%s: ${oc.select:...} needs a key", k->at->origin);
    CFG_TRY(find_reference(c, k->at, k->args[0]->s, k->up, &found, err));
    if (found) CFG_TRY(deref(c, found, k->up, &found, err));
    if (found && !is_missing(found)) {
        *out = found;
    } else if (k->n == 2) {
        *out = k->args[1];
    } else {
        *out = cfg_new(c, NS_NODE_NULL, k->at->origin, err);
        CFG_NEED(*out);
    }
    return NS_OK;
}

static ns_status run_decode(ns_config *c, const call *k, const ns_node **out, ns_error *err)
{
    ns_node *value = NULL;
    CFG_TRY(need_args(k, 1, 1, err));
    *out = k->args[0];
    if (k->args[0]->type != NS_NODE_STRING) return NS_OK;
    CFG_TRY(cfg_parse_value(c, NULL, k->args[0]->s, k->at->origin, &value, err));
    *out = value;
    return NS_OK;
}

static ns_status overflow(const call *k, ns_error *err)
{
    NS_FAIL(NS_ERR_CONFIG, "%s: ${%s:...} does not fit in 64 bits", k->at->origin, k->name);
}

static ns_status int_arithmetic(const call *k, char op, int64_t a, int64_t b, ns_node *r, ns_error *err)
{
    r->type = NS_NODE_INT;
    if (op == '*') {
        if (__builtin_mul_overflow(a, b, &r->i)) return overflow(k, err);
    } else if (op == '-') {
        if (__builtin_sub_overflow(a, b, &r->i)) return overflow(k, err);
    } else {
        if (a == INT64_MIN && b == -1) return overflow(k, err);
        r->i = a / b - (a % b != 0 && (a % b < 0) != (b < 0)); /* floor */
    }
    r->f = (double)r->i;
    return NS_OK;
}

static ns_status run_arithmetic(ns_config *c, const call *k, const ns_node **out, ns_error *err)
{
    char op = k->name[0] == 'm' ? '*' : k->name[0] == 's' ? '-' : '/';
    CFG_TRY(need_args(k, 2, 2, err));
    for (size_t i = 0; i < 2; i++) {
        ns_node_type t = k->args[i]->type;
        NS_FAIL_IF(t != NS_NODE_INT && t != NS_NODE_FLOAT && t != NS_NODE_BOOL, NS_ERR_CONFIG,
                   "%s: ${%s:...} needs numbers, argument %zu is the %s '%.60s'", k->at->origin, k->name, i + 1,
                   ns_node_type_name(t), k->args[i]->s ? k->args[i]->s : "");
    }
    const ns_node *a = k->args[0], *b = k->args[1];
    double x = a->type == NS_NODE_FLOAT ? a->f : (double)a->i, y = b->type == NS_NODE_FLOAT ? b->f : (double)b->i;
    NS_FAIL_IF(op == '/' && y == 0, NS_ERR_CONFIG, "%s: ${%s:...} divides by zero", k->at->origin, k->name);
    ns_node *r = cfg_new(c, NS_NODE_FLOAT, k->at->origin, err);
    CFG_NEED(r);
    *out = r;
    if (a->type != NS_NODE_FLOAT && b->type != NS_NODE_FLOAT) return int_arithmetic(k, op, a->i, b->i, r, err);
    r->f = op == '*' ? x * y : op == '-' ? x - y : floor(x / y);
    return NS_OK;
}

static int truthy(const ns_node *x)
{
    switch (x->type) {
    case NS_NODE_NULL: return 0;
    case NS_NODE_BOOL:
    case NS_NODE_INT: return x->i != 0;
    case NS_NODE_FLOAT: return x->f != 0;
    default: return x->n != 0;
    }
}

static ns_status run_logic(ns_config *c, const call *k, const ns_node **out, ns_error *err)
{
    int is_not = strcmp(k->name, "not") == 0;
    CFG_TRY(need_args(k, is_not ? 1 : 2, is_not ? 1 : 2, err));
    ns_node *r = cfg_new(c, NS_NODE_BOOL, k->at->origin, err);
    CFG_NEED(r);
    r->i = is_not ? !truthy(k->args[0]) : cfg_equal(k->args[0], k->args[1]);
    *out = r;
    return NS_OK;
}

static ns_status run_subfield(ns_config *c, const call *k, const ns_node **out, ns_error *err)
{
    const ns_node *key = NULL;
    CFG_TRY(need_args(k, 2, 2, err));
    CFG_TRY(as_string(c, k->args[1], k->at->origin, &key, err));
    size_t i = 0;
    if (k->args[0]->type == NS_NODE_MAP)
        *out = ns_node_get(k->args[0], key->s);
    else if (k->args[0]->type == NS_NODE_LIST)
        *out = cfg_list_index(key->s, &i) && i < k->args[0]->n ? k->args[0]->items[i] : NULL;
    NS_FAIL_IF(!*out, NS_ERR_CONFIG, "%s: ${subfield:...}: the %s has no '%s'", k->at->origin,
               ns_node_type_name(k->args[0]->type), key->s);
    return NS_OK;
}

static const struct {
    const char *name;
    ns_status (*run)(ns_config *c, const call *k, const ns_node **out, ns_error *err);
} resolvers[] = {{"oc.env", run_env},          {"oc.select", run_select},   {"oc.decode", run_decode},
                 {"multiply", run_arithmetic}, {"int_div", run_arithmetic}, {"subtract", run_arithmetic},
                 {"not", run_logic},           {"equal", run_logic},        {"subfield", run_subfield}};

static ns_status run_call(ns_config *c, const call *k, const ns_node **out, ns_error *err)
{
    const size_t n = sizeof resolvers / sizeof resolvers[0];
    *out = NULL;
    for (size_t i = 0; i < n; i++)
        if (strcmp(resolvers[i].name, k->name) == 0) return resolvers[i].run(c, k, out, err);
    NS_FAIL(NS_ERR_UNSUPPORTED,
            "%s: resolver '%s' in ${%s:...} is not known; there are oc.env, oc.select, oc.decode, multiply, int_div, "
            "subtract, not, equal, subfield",
            k->at->origin, k->name, k->name);
}

/* ---- evaluation of one text ---- */
static ns_status eval(ns_config *c, const ns_node *at, const char **p, const chain *up, const ns_node **out,
                      ns_error *err);

/* Arguments after `name:`, up to and past the closing brace. */
static ns_status eval_args(ns_config *c, call *k, const char **p, ns_error *err)
{
    for (;;) {
        *p += strspn(*p, " \t");
        if (**p == '}' && k->n == 0) break;
        NS_FAIL_IF(k->n == MAX_ARGS, NS_ERR_CONFIG, "%s: ${%s:...} has more than %d arguments", k->at->origin, k->name,
                   MAX_ARGS);
        ns_node *raw = NULL;
        CFG_TRY(cfg_parse_element(c, p, ",}", k->at->origin, &raw, err));
        raw->parent = k->at->parent; /* relative names count from the text itself */
        if (!is_missing(raw))
            CFG_TRY(resolve_deep(c, raw, k->up, &k->args[k->n], err));
        else
            k->args[k->n] = raw;
        k->n++;
        if (**p == '}') break;
        NS_FAIL_IF(**p != ',', NS_ERR_CONFIG, "%s: '%s' is never closed by }", k->at->origin, k->at->s);
        ++*p;
    }
    ++*p;
    return NS_OK;
}

/* Name part: up to ':' or '}', with nested ${...} replaced by their text. */
static ns_status eval_head(ns_config *c, const ns_node *at, const char **p, const chain *up, ns_buf *head,
                           ns_error *err)
{
    while (**p && **p != '}' && **p != ':') {
        const ns_node *inner = NULL;
        if ((*p)[0] == '$' && (*p)[1] == '{') {
            *p += 2;
            CFG_TRY(eval(c, at, p, up, &inner, err));
            if (is_missing(inner)) return fail_missing(inner, err);
            CFG_TRY(cfg_to_text(inner, head, err));
        } else {
            CFG_TRY(ns_buf_addc(head, *(*p)++, err));
        }
    }
    NS_FAIL_IF(!**p, NS_ERR_CONFIG, "%s: '%s' has a ${ that is never closed by }", at->origin, at->s);
    while (head->len && (head->data[head->len - 1] == ' ' || head->data[head->len - 1] == '\t'))
        head->data[--head->len] = 0;
    return NS_OK;
}

/* *p is just after "${". Leaves *p after the closing brace; *out is the (shallow) value. */
static ns_status eval(ns_config *c, const ns_node *at, const char **p, const chain *up, const ns_node **out,
                      ns_error *err)
{
    ns_buf head = {0};
    call k = {.at = at, .up = up};
    ns_status st = NS_OK;
    *p += strspn(*p, " \t");
    CFG_CHECK(st, eval_head(c, at, p, up, &head, err));
    k.name = head.data ? head.data : "";
    NS_BAIL_IF(st, !*k.name, NS_ERR_CONFIG, "%s: '%s' has an empty ${}", at->origin, at->s);
    if (*(*p)++ == ':') {
        CFG_CHECK(st, eval_args(c, &k, p, err));
        CFG_CHECK(st, run_call(c, &k, out, err));
    } else {
        CFG_CHECK(st, find_reference(c, at, k.name, up, out, err));
        if (!*out) st = fail_unknown(c, at, k.name, err);
        if (st == NS_OK) st = deref(c, *out, up, out, err);
    }
done:
    ns_buf_free(&head);
    return st;
}

/* Copies literal text up to the next live ${ (or the end), halving the backslashes before any ${. Returns 1 if *p is at
 * a live interpolation, 0 at the end, -1 on failure. */
static int take_literal(const char **p, const char *end, ns_buf *text, ns_status *st, ns_error *err)
{
    while (*p < end) {
        size_t slashes = strspn(*p, "\\");
        const char *q = *p + slashes;
        int live = q[0] == '$' && q[1] == '{';
        for (size_t i = 0; i < (live ? slashes / 2 : slashes); i++)
            if ((*st = ns_buf_addc(text, '\\', err)) != NS_OK) return -1;
        *p = q;
        if (live && slashes % 2 == 0) return 1;
        if (q >= end) return 0;
        size_t n = live ? 2 : 1;
        if ((*st = ns_buf_add(text, q, n, err)) != NS_OK) return -1;
        *p += n;
    }
    return 0;
}

static ns_status eval_string(ns_config *c, const ns_node *at, const chain *up, const ns_node **out, ns_error *err)
{
    const char *p = at->s, *end = at->s + at->n;
    ns_buf text = {0};
    ns_status st = NS_OK;
    int more;
    while ((more = take_literal(&p, end, &text, &st, err)) == 1) {
        const ns_node *value = NULL;
        int whole = p == at->s;
        p += 2;
        CFG_CHECK(st, eval(c, at, &p, up, &value, err));
        if (is_missing(value)) {
            st = fail_missing(value, err);
            goto done;
        }
        if (whole && p == end) { /* exactly one interpolation: the value itself */
            *out = value;
            goto done;
        }
        CFG_CHECK(st, cfg_to_text(value, &text, err));
    }
    if (more < 0) goto done;
    *out = cfg_string(c, text.data ? text.data : "", text.len, at->origin, err);
    if (!*out) st = NS_ERR_MEMORY;
done:
    ns_buf_free(&text);
    return st;
}

static ns_status check_chain(const ns_node *n, const chain *up, ns_error *err)
{
    char path[256];
    for (const chain *k = up; k; k = k->up)
        NS_FAIL_IF(k->node == n, NS_ERR_CONFIG, "%s: '%s' refers to itself through its interpolation '%.120s'",
                   n->origin, cfg_path_of(n, path, sizeof path), up->node->s ? up->node->s : "");
    NS_FAIL_IF(up && up->depth >= CFG_MAX_DEPTH, NS_ERR_CONFIG, "%s: interpolations nest deeper than %d", n->origin,
               CFG_MAX_DEPTH);
    return NS_OK;
}

/* Replaces a text with ${} by what it stands for; other nodes, also maps that contain some, stay as they are. */
static ns_status deref(ns_config *c, const ns_node *n, const chain *up, const ns_node **out, ns_error *err)
{
    *out = n;
    if (!is_interpolated(n)) return NS_OK;
    CFG_TRY(check_chain(n, up, err));
    chain here = {n, up, up ? up->depth + 1 : 1};
    return eval_string(c, n, &here, out, err);
}

static ns_status resolve_deep(ns_config *c, const ns_node *n, const chain *up, const ns_node **out, ns_error *err)
{
    const ns_node *v = n;
    CFG_TRY(deref(c, n, up, &v, err));
    *out = v;
    if ((v->type != NS_NODE_LIST && v->type != NS_NODE_MAP) || !cfg_has_interpolation(v)) return NS_OK;
    CFG_TRY(check_chain(v, up, err));
    chain here = {v, up, up ? up->depth + 1 : 1};
    ns_node *copy = cfg_new(c, v->type, v->origin, err);
    CFG_NEED(copy);
    copy->parent = v->parent;
    for (size_t i = 0; i < v->n; i++) {
        const ns_node *child = NULL;
        ns_node *own = NULL;
        CFG_TRY(resolve_deep(c, v->items[i], &here, &child, err));
        CFG_TRY(cfg_copy(c, child, &own, err));
        CFG_TRY(cfg_append(c, copy, v->keys ? v->keys[i] : NULL, own, err));
    }
    *out = copy;
    return NS_OK;
}

ns_status ns_config_get(ns_config *c, const char *path, const ns_node **out, ns_error *err)
{
    const ns_node *n = NULL;
    *out = NULL;
    CFG_TRY(walk(c, c->root, path, NULL, &n, err));
    if (!n) return NS_OK;
    if (is_missing(n)) return fail_missing(n, err);
    NS_TRY(resolve_deep(c, n, NULL, out, err), "%s", path);
    if (is_missing(*out)) return fail_missing(*out, err);
    return NS_OK;
}
