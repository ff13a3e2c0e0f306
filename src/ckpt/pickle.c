/* Pickle machine, data only. Opcodes as in Python's pickletools; those that only protocol 0 writes are refused. The stack holds
 * values and marks; REDUCE, NEWOBJ and BUILD make nodes. Safety: no opcode calls anything, every length is compared with what
 * is left of the input first, and names must be on the list below: a pickle that asks for os.system is refused at once. */
#include "ckpt/pickle.h"

#include <stdio.h>
#include <string.h>

typedef struct machine {
    const unsigned char *p, *start, *end;
    const char *where;
    ns_arena *arena;
    ns_pk **stack, **memo;
    size_t n, cap, n_memo, memo_cap;
    ns_pk mark;
    ns_error *err;
} machine;

/* Modules whose names may appear: they stay names. */
static const char *const modules[] = {"torch",
                                      "collections",
                                      "megatron",
                                      "nemo",
                                      "nemo_aligner",
                                      "omegaconf",
                                      "argparse",
                                      "pathlib",
                                      "numpy",
                                      "_codecs",
                                      "io",
                                      "apex",
                                      "transformer_engine",
                                      "pytorch_lightning",
                                      "lightning",
                                      "lightning_fabric",
                                      "typing",
                                      "enum",
                                      "datetime",
                                      "copyreg"};
static const char *const builtin[] = {"set",  "frozenset", "int",   "float",     "complex",
                                      "bool", "str",       "bytes", "bytearray", "list",
                                      "dict", "tuple",     "slice", "object",    "NoneType"};

static int allowed(ns_str module, ns_str name)
{
    size_t top = 0;
    while (top < module.n && module.p[top] != '.') top++;
    if (ns_str_eq(module, "builtins") || ns_str_eq(module, "__builtin__")) {
        for (size_t i = 0; i < sizeof builtin / sizeof builtin[0]; i++)
            if (ns_str_eq(name, builtin[i])) return 1;
        return 0;
    }
    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++)
        if (ns_str_eq((ns_str){module.p, top}, modules[i])) return 1;
    return 0;
}

static ns_status fail(machine *m, const char *what)
{
    return ns_error_set(m->err, NS_ERR_INPUT, __FILE__, __LINE__, "%s: byte %llu: %s", m->where,
                        (unsigned long long)(m->p - m->start), what);
}

static ns_status push(machine *m, ns_pk *v)
{
    ns_error *err = m->err;
    if (!v) return NS_ERR_MEMORY;
    NS_TRY(ns_grow((void **)&m->stack, &m->cap, m->n + 1, sizeof *m->stack, "pickle", err), "%s", m->where);
    m->stack[m->n++] = v;
    return NS_OK;
}

static ns_pk *node(machine *m, ns_pk_kind kind)
{
    ns_pk *v = ns_arena_alloc(m->arena, sizeof *v, m->err);
    if (v) v->kind = kind;
    return v;
}

static ns_status push_int(machine *m, ns_pk_kind kind, int64_t i)
{
    ns_pk *v = node(m, kind);
    if (v) v->i = i;
    return push(m, v);
}

static int take(machine *m, size_t n, uint64_t *out)
{
    *out = 0;
    if ((size_t)(m->end - m->p) < n) return 0;
    for (size_t i = n; i-- > 0;) *out = *out << 8 | m->p[i];
    m->p += n;
    return 1;
}

/* Bytes that a length of `n_len` bytes announces. */
static ns_status counted(machine *m, size_t n_len, ns_str *s)
{
    uint64_t n;
    if (!take(m, n_len, &n) || n > (uint64_t)(m->end - m->p)) return fail(m, "length runs past the end: truncated");
    *s = (ns_str){(const char *)m->p, (size_t)n};
    m->p += n;
    return NS_OK;
}

static ns_status push_text(machine *m, ns_pk_kind kind, size_t n_len)
{
    ns_str s = {NULL, 0};
    ns_status st = counted(m, n_len, &s);
    ns_pk *v = st == NS_OK ? node(m, kind) : NULL;
    if (st != NS_OK) return st;
    if (v) v->s = s;
    return push(m, v);
}

static ns_status push_long(machine *m, size_t n_len)
{
    ns_str s = {NULL, 0};
    uint64_t v = 0;
    ns_status st = counted(m, n_len, &s);
    if (st != NS_OK) return st;
    if (s.n > 8)
        return fail(m, "an integer of more than 8 bytes (the pre-1.6 torch format? save it again with a newer torch)");
    for (size_t i = s.n; i-- > 0;) v = v << 8 | (unsigned char)s.p[i];
    if (s.n && s.n < 8 && (s.p[s.n - 1] & 0x80)) v |= ~(uint64_t)0 << (8 * s.n);
    return push_int(m, NS_PK_INT, (int64_t)v);
}

static ns_status line(machine *m, ns_str *s)
{
    const unsigned char *nl = memchr(m->p, '\n', (size_t)(m->end - m->p));
    if (!nl) return fail(m, "name without its end of line: truncated");
    *s = (ns_str){(const char *)m->p, (size_t)(nl - m->p)};
    m->p = nl + 1;
    return NS_OK;
}

static ns_status push_global(machine *m, ns_str module, ns_str name)
{
    if (!allowed(module, name)) {
        return ns_error_set(
            m->err, NS_ERR_INPUT, __FILE__, __LINE__,
            "%s: byte %llu: the file asks for '%.*s.%.*s', which is not data: refused (nothing was run)", m->where,
            (unsigned long long)(m->p - m->start), (int)(module.n < 60 ? module.n : 60), module.p,
            (int)(name.n < 60 ? name.n : 60), name.p);
    }
    ns_pk *v = node(m, NS_PK_GLOBAL);
    if (v) {
        v->module = module;
        v->s = name;
    }
    return push(m, v);
}

/* The n topmost values, none of them a mark; NULL if there are fewer. */
static ns_pk **top(machine *m, size_t n)
{
    if (m->n < n) return NULL;
    for (size_t i = 0; i < n; i++)
        if (m->stack[m->n - 1 - i] == &m->mark) return NULL;
    return m->stack + m->n - n;
}

static int find_mark(const machine *m, size_t *at)
{
    for (size_t i = m->n; i-- > 0;) {
        if (m->stack[i] != &m->mark) continue;
        *at = i;
        return 1;
    }
    return 0;
}

/* Appends values to a container in the arena; dictionaries get key and value. */
static ns_status extend(machine *m, ns_pk *c, ns_pk **v, size_t n)
{
    size_t width = c->kind == NS_PK_DICT || c->kind == NS_PK_OBJECT ? 2 : 1, have = c->n * width;
    if (n % width) return fail(m, "a key without its value");
    if (have + n > c->cap) {
        size_t cap = have + n > 2 * c->cap ? have + n : 2 * c->cap;
        ns_pk **grown = ns_arena_alloc(m->arena, cap * sizeof *grown, m->err);
        if (!grown) return NS_ERR_MEMORY;
        if (have) memcpy(grown, c->item, have * sizeof *grown);
        c->item = grown;
        c->cap = cap;
    }
    if (n) memcpy(c->item + have, v, n * sizeof *v);
    c->n += n / width;
    return NS_OK;
}

/* k values become one container; in place of them. */
static ns_status collect(machine *m, ns_pk_kind kind, size_t k, int drop_mark)
{
    ns_pk *c = node(m, kind);
    if (!c) return NS_ERR_MEMORY;
    ns_status st = extend(m, c, m->stack + m->n - k, k);
    if (st != NS_OK) return st;
    m->n -= k + (size_t)drop_mark;
    return push(m, c);
}

static ns_status to_mark(machine *m, ns_pk_kind kind)
{
    size_t at;
    if (!find_mark(m, &at)) return fail(m, "no mark on the stack");
    return collect(m, kind, m->n - at - 1, 1);
}

/* APPENDS, SETITEMS, ADDITEMS: what lies above the mark goes into what lies below it. */
static ns_status fill_from_mark(machine *m)
{
    size_t at;
    if (!find_mark(m, &at) || at == 0 || m->stack[at - 1] == &m->mark) return fail(m, "no mark on the stack");
    ns_pk *c = m->stack[at - 1];
    if (c->kind != NS_PK_LIST && c->kind != NS_PK_DICT && c->kind != NS_PK_SET && c->kind != NS_PK_OBJECT)
        return fail(m, "items for something that has none");
    ns_status st = extend(m, c, m->stack + at + 1, m->n - at - 1);
    m->n = at;
    return st;
}

static ns_status fill_one(machine *m, size_t k)
{
    ns_pk **v = top(m, k + 1);
    if (!v || (v[0]->kind != NS_PK_LIST && v[0]->kind != NS_PK_DICT && v[0]->kind != NS_PK_OBJECT))
        return fail(m, "items for something that has none");
    ns_status st = extend(m, v[0], v + 1, k);
    m->n -= k;
    return st;
}

/* cls(*args), as a node. An ordered dictionary is a dictionary. */
static ns_status call(machine *m, size_t n_args)
{
    ns_pk **v = top(m, 1 + n_args);
    if (!v) return fail(m, "too few values on the stack");
    if (v[0]->kind != NS_PK_GLOBAL && v[0]->kind != NS_PK_OBJECT)
        return fail(m, "a call of something that is not a name");
    int dict = v[0]->kind == NS_PK_GLOBAL && ns_str_eq(v[0]->s, "OrderedDict") && v[1]->kind == NS_PK_TUPLE && !v[1]->n;
    ns_pk *o = node(m, dict ? NS_PK_DICT : NS_PK_OBJECT);
    if (!o) return NS_ERR_MEMORY;
    o->cls = v[0];
    o->args = v[1];
    m->n -= 1 + n_args;
    return push(m, o);
}

static ns_status build(machine *m)
{
    ns_pk **v = top(m, 2);
    if (!v) return fail(m, "too few values on the stack");
    if (v[0]->kind == NS_PK_OBJECT) v[0]->state = v[1];
    m->n--;
    return NS_OK;
}

static ns_status memo_put(machine *m, uint64_t at)
{
    ns_error *err = m->err;
    ns_pk **v = top(m, 1);
    if (!v) return fail(m, "too few values on the stack");
    if (at >
        m->n_memo) { /* writers number from 0 (or 1) upwards; a jump is allowed as far as the input could fill it */
        if (at > (uint64_t)(m->end - m->start)) return fail(m, "memo index out of range");
    }
    if (at >= m->n_memo) {
        NS_TRY(ns_grow((void **)&m->memo, &m->memo_cap, (size_t)at + 1, sizeof *m->memo, "pickle", err), "%s",
               m->where);
        while (m->n_memo <= at) m->memo[m->n_memo++] = NULL;
    }
    m->memo[at] = v[0];
    return NS_OK;
}

static ns_status memo_get(machine *m, uint64_t at)
{
    if (at >= m->n_memo || !m->memo[at]) return fail(m, "memo entry that was never stored");
    return push(m, m->memo[at]);
}

static ns_status push_double(machine *m)
{
    uint64_t u = 0;
    if (m->end - m->p < 8) return fail(m, "truncated");
    for (int i = 0; i < 8; i++) u = u << 8 | *m->p++;
    ns_pk *v = node(m, NS_PK_FLOAT);
    if (v) memcpy(&v->f, &u, 8);
    return push(m, v);
}

static ns_status pop(machine *m, size_t n)
{
    if (m->n < n) return fail(m, "too few values on the stack");
    m->n -= n;
    return NS_OK;
}

static ns_status step(machine *m, unsigned char op)
{
    uint64_t u;
    ns_str a, b;
    ns_pk **v;
    size_t at;
    switch (op) {
    case 0x80: /* PROTO */
        if (!take(m, 1, &u) || u < 2 || u > 5) return fail(m, "pickle protocol is not 2 to 5");
        return NS_OK;
    case 0x95: return take(m, 8, &u) ? NS_OK : fail(m, "truncated"); /* FRAME */
    case '(': return push(m, &m->mark);
    case '0': return pop(m, 1);
    case '1': /* POP_MARK */
        if (!find_mark(m, &at)) return fail(m, "no mark on the stack");
        m->n = at;
        return NS_OK;
    case 'N': return push(m, node(m, NS_PK_NONE));
    case 0x88: return push_int(m, NS_PK_BOOL, 1);
    case 0x89: return push_int(m, NS_PK_BOOL, 0);
    case 'J': return take(m, 4, &u) ? push_int(m, NS_PK_INT, (int32_t)(uint32_t)u) : fail(m, "truncated");
    case 'K': return take(m, 1, &u) ? push_int(m, NS_PK_INT, (int64_t)u) : fail(m, "truncated");
    case 'M': return take(m, 2, &u) ? push_int(m, NS_PK_INT, (int64_t)u) : fail(m, "truncated");
    case 0x8a: return push_long(m, 1);
    case 0x8b: return push_long(m, 4);
    case 'G': return push_double(m);
    case 0x8c: return push_text(m, NS_PK_STR, 1);
    case 'X': return push_text(m, NS_PK_STR, 4);
    case 0x8d: return push_text(m, NS_PK_STR, 8);
    case 'C':
    case 'U': return push_text(m, NS_PK_BYTES, 1);
    case 'B':
    case 'T': return push_text(m, NS_PK_BYTES, 4);
    case 0x8e:
    case 0x96: return push_text(m, NS_PK_BYTES, 8);
    case ']': return push(m, node(m, NS_PK_LIST));
    case ')': return push(m, node(m, NS_PK_TUPLE));
    case '}': return push(m, node(m, NS_PK_DICT));
    case 0x8f: return push(m, node(m, NS_PK_SET));
    case 'a': return fill_one(m, 1);
    case 's': return fill_one(m, 2);
    case 'e':
    case 'u':
    case 0x90: return fill_from_mark(m);
    case 't': return to_mark(m, NS_PK_TUPLE);
    case 'l': return to_mark(m, NS_PK_LIST);
    case 'd': return to_mark(m, NS_PK_DICT);
    case 0x91: return to_mark(m, NS_PK_SET); /* FROZENSET */
    case 0x85:
    case 0x86:
    case 0x87:
        if (!top(m, (size_t)op - 0x84)) return fail(m, "too few values on the stack");
        return collect(m, NS_PK_TUPLE, (size_t)op - 0x84, 0);
    case 'c': { /* GLOBAL */
        ns_status st = line(m, &a);
        if (st == NS_OK) st = line(m, &b);
        return st == NS_OK ? push_global(m, a, b) : st;
    }
    case 0x93: /* STACK_GLOBAL */
        v = top(m, 2);
        if (!v || v[0]->kind != NS_PK_STR || v[1]->kind != NS_PK_STR) return fail(m, "a name that is not text");
        a = v[0]->s;
        b = v[1]->s;
        m->n -= 2;
        return push_global(m, a, b);
    case 'R':
    case 0x81: return call(m, 1);
    case 0x92: return call(m, 2); /* NEWOBJ_EX: cls, args, kwargs */
    case 'b': return build(m);
    case 'q':
    case 'r': return take(m, op == 'q' ? 1 : 4, &u) ? memo_put(m, u) : fail(m, "truncated");
    case 0x94: return memo_put(m, m->n_memo);
    case 'h':
    case 'j': return take(m, op == 'h' ? 1 : 4, &u) ? memo_get(m, u) : fail(m, "truncated");
    case 'Q': { /* BINPERSID */
        v = top(m, 1);
        ns_pk *id = v ? node(m, NS_PK_PERSID) : NULL;
        if (!v) return fail(m, "too few values on the stack");
        if (!id) return NS_ERR_MEMORY;
        id->args = v[0];
        v[0] = id;
        return NS_OK;
    }
    default: break;
    }
    m->p--;
    char text[64];
    snprintf(text, sizeof text, "pickle opcode 0x%02x is not one that data needs", op);
    return fail(m, text);
}

ns_status ns_pickle_parse(ns_pk **out, ns_arena *arena, const unsigned char *p, size_t n, const char *where,
                          ns_error *err)
{
    machine m = {.p = p, .start = p, .end = p + n, .where = where, .arena = arena, .err = err};
    ns_status st = NS_OK;
    *out = NULL;
    for (;;) {
        NS_BAIL_IF(st, m.p == m.end, NS_ERR_INPUT, "%s: byte %zu: pickle without its end: truncated", where, n);
        unsigned char op = *m.p++;
        if (op == '.') break;
        NS_CHECK(st, step(&m, op), "%s", "");
    }
    NS_BAIL_IF(st, m.n != 1 || m.stack[0] == &m.mark, NS_ERR_INPUT,
               "%s: %zu values at the end of the pickle, expected 1", where, m.n);
    *out = m.stack[0];
done:
    ns_free(m.stack);
    ns_free(m.memo);
    return st;
}

/* ---- looking at values ---- */
const ns_pk *ns_pk_get(const ns_pk *v, const char *key)
{
    if (v && v->kind == NS_PK_OBJECT && v->state) v = v->state;
    if (!v || (v->kind != NS_PK_DICT && v->kind != NS_PK_OBJECT)) return NULL;
    for (size_t i = v->n; i-- > 0;) /* the last of equal keys wins, as in Python */
        if (ns_pk_is_str(v->item[2 * i], key)) return v->item[2 * i + 1];
    return NULL;
}

int ns_pk_is(const ns_pk *v, const char *name)
{
    if (v && v->kind == NS_PK_OBJECT) v = v->cls;
    return v && v->kind == NS_PK_GLOBAL && ns_str_eq(v->s, name);
}

int ns_pk_is_str(const ns_pk *v, const char *text)
{
    return v && v->kind == NS_PK_STR && ns_str_eq(v->s, text);
}

int ns_pk_ints(const ns_pk *v, int64_t out[8])
{
    if (ns_pk_is(v, "Size")) v = v->args && v->args->n == 1 ? v->args->item[0] : NULL;
    if (!v || (v->kind != NS_PK_TUPLE && v->kind != NS_PK_LIST) || v->n > 8) return -1;
    for (size_t i = 0; i < v->n; i++) {
        if (v->item[i]->kind != NS_PK_INT || v->item[i]->i < 0) return -1;
        out[i] = v->item[i]->i;
    }
    return (int)v->n;
}
