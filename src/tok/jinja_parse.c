/* Tokens -> tree. Recursive descent with the precedence of Jinja 3.1:
 *   x if c else y  <  or  <  and  <  not  <  comparisons, in  <  + -  <  ~  <  * / // %  <  **  <  unary - +  <  postfix, | filter, is test
 * Invariant: no node is deeper than JINJA_MAX_TREE, so that walking the tree needs bounded stack. Unknown filters, tests
 * and tags are refused here, before any row is rendered. */
#include <stdio.h>

#include "tok/jinja_internal.h"

typedef struct parser {
    ns_jinja *t;
    const jtoken *tok;
    int depth;         /* of the recursion */
    int loops, macros; /* enclosing: for break, continue and caller */
    ns_error *err;
} parser;

enum { MAX_NAMES = 4096 };

static jnode *fail(parser *p, const jtoken *at, const char *what)
{
    ns_error_set(p->err, NS_ERR_INPUT, __FILE__, __LINE__, "%s:%d:%d: %s", p->t->name, at->line, at->col, what);
    return NULL;
}

static jnode *fail_found(parser *p, const char *expected)
{
    const jtoken *k = p->tok;
    char what[200];
    ns_str s = k->s;
    if (k->type == JT_STRING) s = JS("a text");
    if (k->type == JT_DATA) s = JS("text outside of tags");
    snprintf(what, sizeof what, "found '%.*s', expected %s", (int)(s.n < 60 ? s.n : 60), s.p, expected);
    return fail(p, k, what);
}

static jnode *node(parser *p, jn_kind kind, const jtoken *at)
{
    jnode *n = ns_arena_alloc(&p->t->arena, sizeof *n, p->err);
    if (!n) return NULL;
    n->kind = (uint8_t)kind;
    n->line = at->line;
    n->col = at->col;
    return n;
}

/* Sets the depth of n from its parts; NULL when it is too deep. */
static jnode *done(parser *p, jnode *n)
{
    int d = 0;
    const jnode *kids[] = {n->a, n->b, n->c, n->d};
    for (int i = 0; i < 4; i++)
        if (kids[i] && kids[i]->depth > d) d = kids[i]->depth;
    for (size_t i = 0; i < n->n; i++)
        if (n->list[i]->depth > d) d = n->list[i]->depth;
    for (size_t i = 0; i < n->n_args; i++)
        if (n->args[i].value && n->args[i].value->depth > d) d = n->args[i].value->depth;
    n->depth = d + 1;
    if (n->depth > JINJA_MAX_TREE) {
        ns_error_set(p->err, NS_ERR_INPUT, __FILE__, __LINE__, "%s:%d:%d: nested more than %d deep", p->t->name,
                     n->line, n->col, JINJA_MAX_TREE);
        return NULL;
    }
    return n;
}

static int enter(parser *p)
{
    if (++p->depth <= JINJA_MAX_TREE) return 1;
    char what[60];
    snprintf(what, sizeof what, "nested more than %d deep", JINJA_MAX_TREE);
    fail(p, p->tok, what);
    return 0;
}

static int intern(parser *p, ns_str s)
{
    ns_jinja *t = p->t;
    for (size_t i = 0; i < t->n_names; i++)
        if (js_eq(t->names[i], s)) return (int)i;
    if (t->n_names == MAX_NAMES) {
        fail(p, p->tok, "more than 4096 variable names");
        return -1;
    }
    if (ns_grow((void **)&t->names, &t->names_cap, t->n_names + 1, sizeof *t->names, "jinja.names", p->err) != NS_OK)
        return -1;
    t->names[t->n_names] = s;
    return (int)t->n_names++;
}

static int add(parser *p, jnode ***list, size_t *n, jnode *item)
{
    if (!item) return 0;
    if ((*n & (*n - 1)) == 0) { /* full at 0, 1, 2, 4, 8 ... */
        jnode **v = ns_arena_alloc(&p->t->arena, (*n ? *n * 2 : 1) * sizeof *v, p->err);
        if (!v) return 0;
        if (*n) memcpy(v, *list, *n * sizeof *v);
        *list = v;
    }
    (*list)[(*n)++] = item;
    return 1;
}

static int add_arg(parser *p, jnode *n, jn_arg arg)
{
    if ((n->n_args & (n->n_args - 1)) == 0) {
        jn_arg *v = ns_arena_alloc(&p->t->arena, (n->n_args ? n->n_args * 2 : 1) * sizeof *v, p->err);
        if (!v) return 0;
        if (n->n_args) memcpy(v, n->args, n->n_args * sizeof *v);
        n->args = v;
    }
    n->args[n->n_args++] = arg;
    return 1;
}

static int is_op(const parser *p, const char *op)
{
    return p->tok->type == JT_OP && jis(p->tok->s, op);
}
static int is_name(const parser *p, const char *name)
{
    return p->tok->type == JT_NAME && jis(p->tok->s, name);
}
static int take_op(parser *p, const char *op)
{
    if (!is_op(p, op)) return 0;
    p->tok++;
    return 1;
}
static int take_name(parser *p, const char *name)
{
    if (!is_name(p, name)) return 0;
    p->tok++;
    return 1;
}
static int want_op(parser *p, const char *op)
{
    char what[16];
    snprintf(what, sizeof what, "'%s'", op);
    return take_op(p, op) ? 1 : (fail_found(p, what), 0);
}

static jnode *expression(parser *p, int with_cond);
static jnode *unary(parser *p, int with_filter);
static jnode *postfix(parser *p, jnode *n);
static jnode *primary(parser *p);

/* ---- arguments ---- */
static int call_args(parser *p, jnode *n)
{
    if (!want_op(p, "(")) return 0;
    int named = 0;
    while (!is_op(p, ")")) {
        jn_arg arg = {.id = -1};
        const jtoken *at = p->tok;
        if (n->n_args && !want_op(p, ",")) return 0;
        if (is_op(p, ")")) break; /* a comma may end the list */
        if (take_op(p, "*"))
            arg.star = 1;
        else if (take_op(p, "**"))
            arg.star = 2;
        else if (p->tok->type == JT_NAME && p->tok[1].type == JT_OP && jis(p->tok[1].s, "=")) {
            arg.name = p->tok->s;
            p->tok += 2;
            named = 1;
        } else if (named) {
            fail(p, at, "a positional argument after a named one");
            return 0;
        }
        arg.value = expression(p, 1);
        if (!arg.value || !add_arg(p, n, arg)) return 0;
    }
    return want_op(p, ")");
}

static jnode *filter(parser *p, jnode *x)
{
    while (is_op(p, "|")) {
        p->tok++;
        if (p->tok->type != JT_NAME) return fail_found(p, "the name of a filter");
        jnode *n = node(p, JN_FILTER, p->tok);
        if (!n) return NULL;
        n->a = x;
        n->s = p->tok->s;
        n->filter = jfilter_find(n->s);
        if (!n->filter) {
            const char *near = jfilter_suggest(n->s);
            ns_error_set(p->err, NS_ERR_UNSUPPORTED, __FILE__, __LINE__, "%s:%d:%d: no filter named '%.*s'%s%s%s",
                         p->t->name, p->tok->line, p->tok->col, (int)(n->s.n < 60 ? n->s.n : 60), n->s.p,
                         near ? ": did you mean '" : "", near ? near : "", near ? "'?" : "");
            return NULL;
        }
        p->tok++;
        if (is_op(p, "(") && !call_args(p, n)) return NULL;
        x = done(p, n);
        if (!x) return NULL;
    }
    return x;
}

static jnode *test(parser *p, jnode *x)
{
    int negated = take_name(p, "not");
    if (p->tok->type != JT_NAME) return fail_found(p, "the name of a test");
    jnode *n = node(p, JN_TEST, p->tok);
    if (!n) return NULL;
    n->a = x;
    n->s = p->tok->s;
    n->test = jtest_find(n->s);
    if (!n->test) {
        const char *near = jtest_suggest(n->s);
        ns_error_set(p->err, NS_ERR_UNSUPPORTED, __FILE__, __LINE__, "%s:%d:%d: no test named '%.*s'%s%s%s", p->t->name,
                     p->tok->line, p->tok->col, (int)(n->s.n < 60 ? n->s.n : 60), n->s.p,
                     near ? ": did you mean '" : "", near ? near : "", near ? "'?" : "");
        return NULL;
    }
    p->tok++;
    jt k = p->tok->type;
    if (is_op(p, "(")) {
        if (!call_args(p, n)) return NULL;
    } else if ((k == JT_NAME || k == JT_STRING || k == JT_INT || k == JT_FLOAT || is_op(p, "[") || is_op(p, "{")) &&
               !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and")) {
        if (is_name(p, "is")) return fail(p, p->tok, "tests with 'is' cannot be chained");
        jn_arg arg = {.id = -1};
        arg.value = primary(p);
        if (arg.value) arg.value = postfix(p, arg.value);
        if (!arg.value || !add_arg(p, n, arg)) return NULL;
    }
    if (n->n_args > 1 || (n->n_args == 1 && n->args[0].star))
        return fail(p, p->tok, "a test takes one argument at most");
    if ((int)n->n_args != n->test->n_args) {
        char what[120];
        snprintf(what, sizeof what, "test '%s' takes %d argument%s, found %zu", n->test->name, n->test->n_args,
                 n->test->n_args == 1 ? "" : "s", n->n_args);
        return fail(p, p->tok, what);
    }
    x = done(p, n);
    if (x && negated) {
        n = node(p, JN_NOT, p->tok);
        if (!n) return NULL;
        n->a = x;
        x = done(p, n);
    }
    return x;
}

static jnode *filter_expr(parser *p, jnode *x)
{
    while (x) {
        if (is_op(p, "|")) {
            x = filter(p, x);
        } else if (is_name(p, "is")) {
            p->tok++;
            x = test(p, x);
        } else if (is_op(p, "(")) { /* calls are valid behind filters */
            jnode *n = node(p, JN_CALL, p->tok);
            if (!n) return NULL;
            n->a = x;
            if (!call_args(p, n)) return NULL;
            x = done(p, n);
        } else {
            break;
        }
    }
    return x;
}

/* ---- postfix ---- */
static jnode *subscript(parser *p, jnode *x)
{
    jnode *n = node(p, JN_ITEM, p->tok);
    if (!n) return NULL;
    n->a = x;
    p->tok++; /* [ */
    if (is_op(p, "]")) return fail(p, p->tok, "found ']', expected an index");
    if (!is_op(p, ":")) {
        n->b = expression(p, 1);
        if (!n->b) return NULL;
    }
    if (take_op(p, ":")) {
        n->kind = JN_SLICE;
        if (!is_op(p, ":") && !is_op(p, "]") && !(n->c = expression(p, 1))) return NULL;
        if (take_op(p, ":") && !is_op(p, "]") && !(n->d = expression(p, 1))) return NULL;
    }
    if (is_op(p, ",")) return fail(p, p->tok, "several indices in one pair of brackets are not supported");
    return want_op(p, "]") ? done(p, n) : NULL;
}

static jnode *postfix(parser *p, jnode *x)
{
    while (x) {
        if (is_op(p, ".")) {
            p->tok++;
            jnode *n = node(p, JN_ATTR, p->tok);
            if (!n) return NULL;
            n->a = x;
            if (p->tok->type == JT_NAME) {
                n->s = p->tok->s;
            } else if (p->tok->type == JT_INT) {
                n->kind = JN_ITEM;
                n->b = node(p, JN_CONST, p->tok);
                if (!n->b) return NULL;
                n->b->value = jv_int(p->tok->i);
                n->b->depth = 1;
            } else {
                return fail_found(p, "a name or a number after '.'");
            }
            p->tok++;
            x = done(p, n);
        } else if (is_op(p, "[")) {
            x = subscript(p, x);
        } else if (is_op(p, "(")) {
            jnode *n = node(p, JN_CALL, p->tok);
            if (!n) return NULL;
            n->a = x;
            if (!call_args(p, n)) return NULL;
            x = done(p, n);
        } else {
            break;
        }
    }
    return x;
}

/* ---- primary ---- */
static jnode *constant(parser *p, const jtoken *at, jv v)
{
    jnode *n = node(p, JN_CONST, at);
    if (!n) return NULL;
    n->value = v;
    return done(p, n);
}

static jnode *name_node(parser *p)
{
    jnode *n = node(p, JN_NAME, p->tok);
    if (!n) return NULL;
    n->s = p->tok->s;
    n->id = intern(p, n->s);
    p->tok++;
    return n->id < 0 ? NULL : done(p, n);
}

static jnode *text_node(parser *p)
{
    const jtoken *first = p->tok;
    size_t total = 0;
    while (p->tok->type == JT_STRING) total += (p->tok++)->s.n;
    if (p->tok - first == 1) return constant(p, first, jv_text(first->s));
    char *s = ns_arena_alloc(&p->t->arena, total + 1, p->err);
    if (!s) return NULL;
    size_t k = 0;
    for (const jtoken *q = first; q < p->tok; q++) {
        memcpy(s + k, q->s.p, q->s.n);
        k += q->s.n;
    }
    return constant(p, first, jv_str(s, total));
}

/* A list up to `close`; entries are expressions, or key: value pairs. */
static jnode *bracketed(parser *p, jn_kind kind, const char *close)
{
    jnode *n = node(p, kind, p->tok);
    if (!n) return NULL;
    p->tok++;
    while (!is_op(p, close)) {
        if (n->n && !want_op(p, ",")) return NULL;
        if (is_op(p, close)) break;
        if (!add(p, &n->list, &n->n, expression(p, 1))) return NULL;
        if (kind == JN_DICT && (!want_op(p, ":") || !add(p, &n->list, &n->n, expression(p, 1)))) return NULL;
    }
    p->tok++;
    return done(p, n);
}

/* Expressions with commas between them: a tuple, or the single one. */
static jnode *tuple(parser *p, int with_cond, int explicit_parens)
{
    const jtoken *at = p->tok;
    jnode *n = NULL;
    jnode *first = NULL;
    while (!is_op(p, ")") && p->tok->type != JT_BLOCK_END && p->tok->type != JT_VAR_END && !is_name(p, "in")) {
        jnode *x = expression(p, with_cond);
        if (!x) return NULL;
        if (!first)
            first = x;
        else if (!add(p, &n->list, &n->n, x))
            return NULL;
        if (!is_op(p, ",")) break;
        p->tok++;
        if (!n) {
            n = node(p, JN_TUPLE, at);
            if (!n || !add(p, &n->list, &n->n, first)) return NULL;
        }
    }
    if (!first) {
        if (!explicit_parens) return fail_found(p, "an expression");
        n = node(p, JN_TUPLE, at);
        return n ? done(p, n) : NULL;
    }
    return n ? done(p, n) : first;
}

static jnode *primary(parser *p)
{
    const jtoken *k = p->tok;
    if (k->type == JT_NAME) {
        static const char *const words[] = {"true", "True", "false", "False", "none", "None"};
        for (int i = 0; i < 6; i++)
            if (jis(k->s, words[i])) {
                p->tok++;
                return constant(p, k, i < 4 ? jv_bool(i < 2) : jv_none());
            }
        return name_node(p);
    }
    if (k->type == JT_STRING) return text_node(p);
    if (k->type == JT_INT || k->type == JT_FLOAT) {
        p->tok++;
        return constant(p, k, k->type == JT_INT ? jv_int(k->i) : jv_float(k->f));
    }
    if (is_op(p, "(")) {
        p->tok++;
        jnode *n = tuple(p, 1, 1);
        return n && want_op(p, ")") ? n : NULL;
    }
    if (is_op(p, "[")) return bracketed(p, JN_LIST, "]");
    if (is_op(p, "{")) return bracketed(p, JN_DICT, "}");
    return fail_found(p, "an expression");
}

/* ---- operators ---- */
static jnode *unary(parser *p, int with_filter)
{
    jnode *x;
    if (!enter(p)) return NULL;
    if (is_op(p, "-") || is_op(p, "+")) {
        jnode *n = node(p, is_op(p, "-") ? JN_NEG : JN_POS, p->tok);
        p->tok++;
        if (!n || !(n->a = unary(p, 0))) return NULL;
        x = done(p, n);
    } else {
        x = primary(p);
    }
    if (x) x = postfix(p, x);
    if (x && with_filter) x = filter_expr(p, x);
    p->depth--;
    return x;
}

static jnode *binary(parser *p, int op, const jtoken *at, jnode *a, jnode *b)
{
    if (!a || !b) return NULL;
    jnode *n = node(p, JN_BINARY, at);
    if (!n) return NULL;
    n->op = (uint8_t)op;
    n->a = a;
    n->b = b;
    return done(p, n);
}

static jnode *power(parser *p)
{
    jnode *x = unary(p, 1);
    while (x && is_op(p, "**")) {
        const jtoken *at = p->tok++;
        x = binary(p, JO_POW, at, x, unary(p, 1));
    }
    return x;
}

static jnode *product(parser *p)
{
    jnode *x = power(p);
    while (x) {
        int op = is_op(p, "*")    ? JO_MUL
                 : is_op(p, "/")  ? JO_DIV
                 : is_op(p, "//") ? JO_FLOORDIV
                 : is_op(p, "%")  ? JO_MOD
                                  : -1;
        if (op < 0) break;
        const jtoken *at = p->tok++;
        x = binary(p, op, at, x, power(p));
    }
    return x;
}

static jnode *concat(parser *p)
{
    jnode *x = product(p);
    if (!x || !is_op(p, "~")) return x;
    jnode *n = node(p, JN_CONCAT, p->tok);
    if (!n || !add(p, &n->list, &n->n, x)) return NULL;
    while (take_op(p, "~"))
        if (!add(p, &n->list, &n->n, product(p))) return NULL;
    return done(p, n);
}

static jnode *sum(parser *p)
{
    jnode *x = concat(p);
    while (x && (is_op(p, "+") || is_op(p, "-"))) {
        const jtoken *at = p->tok++;
        x = binary(p, jis(at->s, "+") ? JO_ADD : JO_SUB, at, x, concat(p));
    }
    return x;
}

static jnode *compare(parser *p)
{
    static const char *const ops[] = {"==", "!=", "<", "<=", ">", ">="};
    jnode *x = sum(p), *n = NULL;
    while (x) {
        int op = -1;
        const jtoken *at = p->tok;
        for (int i = 0; i < 6; i++)
            if (is_op(p, ops[i])) op = JO_EQ + i;
        if (is_name(p, "in")) op = JO_IN;
        if (is_name(p, "not") && p->tok[1].type == JT_NAME && jis(p->tok[1].s, "in")) op = JO_NOT_IN, p->tok++;
        if (op < 0) break;
        p->tok++;
        if (!n) {
            n = node(p, JN_COMPARE, at);
            if (!n) return NULL;
            n->a = x;
        }
        uint8_t *v = ns_arena_alloc(&p->t->arena, n->n + 1, p->err);
        if (!v) return NULL;
        if (n->n) memcpy(v, n->ops, n->n);
        v[n->n] = (uint8_t)op;
        n->ops = v;
        if (!add(p, &n->list, &n->n, sum(p))) return NULL;
        if (n->n > JINJA_MAX_TREE) return fail(p, at, "too many comparisons in a row");
    }
    return n && x ? done(p, n) : x;
}

static jnode *negation(parser *p)
{
    if (!is_name(p, "not")) return compare(p);
    jnode *n = node(p, JN_NOT, p->tok);
    p->tok++;
    if (!n || !enter(p)) return NULL;
    n->a = negation(p);
    p->depth--;
    return n->a ? done(p, n) : NULL;
}

static jnode *logic(parser *p, int is_or)
{
    jnode *x = is_or ? logic(p, 0) : negation(p);
    while (x && is_name(p, is_or ? "or" : "and")) {
        jnode *n = node(p, is_or ? JN_OR : JN_AND, p->tok);
        p->tok++;
        if (!n) return NULL;
        n->a = x;
        n->b = is_or ? logic(p, 0) : negation(p);
        x = n->b ? done(p, n) : NULL;
    }
    return x;
}

static jnode *expression(parser *p, int with_cond)
{
    if (!enter(p)) return NULL;
    jnode *x = logic(p, 1);
    while (x && with_cond && is_name(p, "if")) {
        jnode *n = node(p, JN_COND, p->tok);
        p->tok++;
        if (!n) return NULL;
        n->b = x;
        if (!(n->a = logic(p, 1))) return NULL;
        if (take_name(p, "else") && !(n->c = expression(p, 1))) return NULL;
        x = done(p, n);
    }
    p->depth--;
    return x;
}

/* ---- statements ---- */
static int body(parser *p, jnode *n, const char *const *ends);

static int block_end(parser *p)
{
    if (p->tok->type != JT_BLOCK_END) return fail_found(p, "the end of the tag, '%}'"), 0;
    p->tok++;
    return 1;
}

/* The body after a tag's own end, and the closing tag whose name must be `end`. */
static int closed_body(parser *p, jnode *n, const char *end)
{
    const char *const ends[] = {end, NULL};
    if (!block_end(p) || !body(p, n, ends)) return 0;
    p->tok++;
    return block_end(p);
}

/* x, x.attribute, or several of them. */
static jnode *target(parser *p, int with_namespace)
{
    const jtoken *at = p->tok;
    jnode *list = NULL, *first = NULL;
    for (;;) {
        jnode *x;
        if (take_op(p, "(")) {
            x = target(p, 0);
            if (!x || !want_op(p, ")")) return NULL;
        } else {
            if (p->tok->type != JT_NAME) return fail_found(p, "a variable name");
            static const char *const words[] = {"true", "false", "none", "True", "False", "None"};
            for (int i = 0; i < 6; i++)
                if (jis(p->tok->s, words[i])) return fail(p, p->tok, "a constant cannot be assigned to");
            x = name_node(p);
            if (x && with_namespace && take_op(p, ".")) {
                if (p->tok->type != JT_NAME) return fail_found(p, "an attribute name");
                x->kind = JN_NSREF;
                x->b = constant(p, p->tok, jv_text(p->tok->s));
                p->tok++;
            }
        }
        if (!x) return NULL;
        if (!first) first = x;
        if (list && !add(p, &list->list, &list->n, x)) return NULL;
        if (!is_op(p, ",")) break;
        p->tok++;
        if (!list) {
            list = node(p, JN_TUPLE, at);
            if (!list || !add(p, &list->list, &list->n, first)) return NULL;
        }
        if (is_name(p, "in") || is_op(p, "=")) break;
    }
    return list ? done(p, list) : first;
}

static jnode *parse_if(parser *p, const jtoken *at)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    jnode *n = node(p, JN_IF, at);
    if (!n || !enter(p) || !(n->a = tuple(p, 0, 0)) || !block_end(p) || !body(p, n, ends)) return NULL;
    const jtoken *k = p->tok++;
    if (jis(k->s, "elif")) {
        if (!(n->c = parse_if(p, k))) return NULL;
    } else if (jis(k->s, "else")) {
        n->c = node(p, JN_BLOCK, k);
        if (!n->c || !block_end(p) || !body(p, n->c, last)) return NULL;
        if (!(n->c = done(p, n->c))) return NULL;
        p->tok++;
        if (!block_end(p)) return NULL;
    } else if (!block_end(p)) {
        return NULL;
    }
    p->depth--;
    return done(p, n);
}

static jnode *parse_for(parser *p, const jtoken *at)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    jnode *n = node(p, JN_FOR, at);
    if (!n || !(n->a = target(p, 0))) return NULL;
    if (!take_name(p, "in")) return fail_found(p, "'in'");
    if (!(n->b = tuple(p, 0, 0))) return NULL;
    if (take_name(p, "if") && !(n->c = expression(p, 1))) return NULL;
    if (take_name(p, "recursive")) n->op = 1;
    p->loops++;
    int ok = block_end(p) && body(p, n, ends);
    p->loops--;
    if (!ok) return NULL;
    if (jis((p->tok++)->s, "else")) {
        n->d = node(p, JN_BLOCK, p->tok);
        if (!n->d || !block_end(p) || !body(p, n->d, last) || !(n->d = done(p, n->d))) return NULL;
        p->tok++;
    }
    return block_end(p) ? done(p, n) : NULL;
}

static jnode *parse_set(parser *p, const jtoken *at)
{
    jnode *n = node(p, JN_SET, at);
    if (!n || !(n->a = target(p, 1))) return NULL;
    if (take_op(p, "=")) {
        if (!(n->b = tuple(p, 1, 0)) || !block_end(p)) return NULL;
        return done(p, n);
    }
    n->kind = JN_SET_BLOCK;
    if (n->a->kind == JN_TUPLE) return fail_found(p, "'='");
    if (is_op(p, "|")) {
        /* filters of a block: the innermost has no operand */
        if (!(n->b = filter(p, NULL))) return NULL;
    }
    return closed_body(p, n, "endset") ? done(p, n) : NULL;
}

static int parameters(parser *p, jnode *n)
{
    if (!want_op(p, "(")) return 0;
    int defaults = 0;
    while (!is_op(p, ")")) {
        if (n->n_args && !want_op(p, ",")) return 0;
        if (is_op(p, ")")) break;
        if (p->tok->type != JT_NAME) return fail_found(p, "the name of a parameter"), 0;
        jn_arg arg = {.name = p->tok->s, .id = intern(p, p->tok->s)};
        if (arg.id < 0) return 0;
        p->tok++;
        if (take_op(p, "=")) {
            defaults = 1;
            if (!(arg.value = expression(p, 1))) return 0;
        } else if (defaults) {
            return fail(p, p->tok, "a parameter without default after one with"), 0;
        }
        if (!add_arg(p, n, arg)) return 0;
    }
    return want_op(p, ")");
}

static jnode *parse_macro(parser *p, const jtoken *at)
{
    jnode *n = node(p, JN_MACRO, at);
    if (!n) return NULL;
    if (p->tok->type != JT_NAME) return fail_found(p, "the name of the macro");
    n->s = p->tok->s;
    n->id = intern(p, n->s);
    p->tok++;
    if (n->id < 0 || !parameters(p, n)) return NULL;
    int loops = p->loops;
    p->loops = 0;
    int ok = closed_body(p, n, "endmacro");
    p->loops = loops;
    return ok ? done(p, n) : NULL;
}

static jnode *parse_call_block(parser *p, const jtoken *at)
{
    jnode *n = node(p, JN_CALL_BLOCK, at);
    if (!n || (is_op(p, "(") && !parameters(p, n))) return NULL;
    if (!(n->a = expression(p, 1))) return NULL;
    if (n->a->kind != JN_CALL) return fail(p, at, "{% call %} needs a call of a macro");
    int loops = p->loops;
    p->loops = 0;
    int ok = closed_body(p, n, "endcall");
    p->loops = loops;
    return ok ? done(p, n) : NULL;
}

static jnode *parse_with(parser *p, const jtoken *at)
{
    jnode *n = node(p, JN_WITH, at);
    if (!n) return NULL;
    while (p->tok->type != JT_BLOCK_END) {
        if (n->n_args && !want_op(p, ",")) return NULL;
        if (p->tok->type != JT_NAME) return fail_found(p, "a variable name");
        jn_arg arg = {.name = p->tok->s, .id = intern(p, p->tok->s)};
        p->tok++;
        if (arg.id < 0 || !want_op(p, "=") || !(arg.value = expression(p, 1)) || !add_arg(p, n, arg)) return NULL;
    }
    return closed_body(p, n, "endwith") ? done(p, n) : NULL;
}

static jnode *flow(parser *p, const jtoken *at, jn_kind kind)
{
    jnode *n = node(p, kind, at);
    if (!n) return NULL;
    if (!p->loops) return fail(p, at, kind == JN_BREAK ? "break outside of a loop" : "continue outside of a loop");
    return block_end(p) ? done(p, n) : NULL;
}

static jnode *statement(parser *p)
{
    const jtoken *at = p->tok;
    if (at->type != JT_NAME) return fail_found(p, "the name of a tag");
    p->tok++;
    if (jis(at->s, "if")) return parse_if(p, at);
    if (jis(at->s, "for")) return parse_for(p, at);
    if (jis(at->s, "set")) return parse_set(p, at);
    if (jis(at->s, "macro")) return parse_macro(p, at);
    if (jis(at->s, "call")) return parse_call_block(p, at);
    if (jis(at->s, "with")) return parse_with(p, at);
    if (jis(at->s, "break")) return flow(p, at, JN_BREAK);
    if (jis(at->s, "continue")) return flow(p, at, JN_CONTINUE);
    if (jis(at->s, "generation")) {
        jnode *n = node(p, JN_GENERATION, at);
        int loops = p->loops;
        p->loops = 0; /* the block is a function of its own in Jinja: break cannot leave it */
        int ok = n && closed_body(p, n, "endgeneration");
        p->loops = loops;
        p->t->has_generation = 1;
        return ok ? done(p, n) : NULL;
    }
    if (jis(at->s, "filter")) {
        jnode *n = node(p, JN_FILTER_BLOCK, at);
        jtoken bar = *at; /* {% filter a|b %} reads like |a|b */
        bar.type = JT_OP;
        bar.s = JS("|");
        if (!n) return NULL;
        const jtoken *rest = p->tok;
        if (rest->type != JT_NAME) return fail_found(p, "the name of a filter");
        size_t count = 0;
        while (rest[count].type != JT_BLOCK_END && rest[count].type != JT_EOF) count++;
        jtoken *v = ns_arena_alloc(&p->t->arena, (count + 2) * sizeof *v, p->err);
        if (!v) return NULL;
        v[0] = bar;
        memcpy(v + 1, rest, (count + 1) * sizeof *v);
        p->tok = v;
        n->a = filter(p, NULL);
        if (!n->a) return NULL;
        if (p->tok->type != JT_BLOCK_END) return fail_found(p, "the end of the tag, '%}'");
        p->tok = rest + count;
        return closed_body(p, n, "endfilter") ? done(p, n) : NULL;
    }
    static const char *const other[] = {"include",    "import", "from", "extends", "block",
                                        "autoescape", "trans",  "do",   "debug"};
    char what[160];
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        if (jis(at->s, other[i])) {
            ns_error_set(p->err, NS_ERR_UNSUPPORTED, __FILE__, __LINE__, "%s:%d:%d: the tag '%s' is not supported",
                         p->t->name, at->line, at->col, other[i]);
            return NULL;
        }
    snprintf(what, sizeof what, "unknown tag '%.*s' here", (int)(at->s.n < 60 ? at->s.n : 60), at->s.p);
    return fail(p, at, what);
}

/* Statements until a tag named in `ends` (its name is the current token then), or the end of the text without ends. */
static int body(parser *p, jnode *n, const char *const *ends)
{
    const jtoken *begin = p->tok;
    if (!enter(p)) return 0;
    for (;;) {
        const jtoken *k = p->tok;
        jnode *x = NULL;
        if (k->type == JT_EOF) {
            if (!ends) break;
            char what[200];
            const char *last = ends[0];
            for (int i = 0; ends[i]; i++) last = ends[i];
            snprintf(what, sizeof what, "the block that begins here is not closed: expected {%% %s %%}", last);
            fail(p, begin > p->tok ? k : begin - 1, what);
            return 0;
        }
        if (k->type == JT_DATA) {
            x = node(p, JN_TEXT, k);
            p->tok++;
            if (x) x->s = k->s, x = done(p, x);
        } else if (k->type == JT_VAR_BEGIN) {
            p->tok++;
            x = node(p, JN_OUT, k);
            if (!x || !(x->a = tuple(p, 1, 0))) return 0;
            if (p->tok->type != JT_VAR_END) return fail_found(p, "the end of the tag, '}}'"), 0;
            p->tok++;
            x = done(p, x);
        } else { /* JT_BLOCK_BEGIN */
            p->tok++;
            for (int i = 0; ends && ends[i]; i++)
                if (is_name(p, ends[i])) {
                    p->depth--;
                    return 1;
                }
            x = statement(p);
        }
        if (!add(p, &n->list, &n->n, x)) return 0;
    }
    p->depth--;
    return 1;
}

ns_status ns_jinja_parse(ns_jinja *t, const jtokens *tokens, ns_error *err)
{
    ns_error own = NS_ERROR_INIT;
    parser p = {.t = t, .tok = tokens->v, .err = err ? err : &own};
    jtoken zero = {.type = JT_EOF, .line = 1, .col = 1};
    jnode *root = node(&p, JN_BLOCK, &zero);
    if (root && body(&p, root, NULL)) t->root = done(&p, root);
    return t->root ? NS_OK : p.err->code;
}
