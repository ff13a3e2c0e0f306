/* Inside of the template engine: tokens, tree, values. jinja_lex.c -> jinja_parse.c -> jinja_eval.c (statements,
 * expressions) with jinja_value.c (what a value is: text, truth, order, JSON), jinja_call.c (filters, tests, methods,
 * functions) and jinja_str.c (text functions). Everything of one rendering lives in one arena that counts its bytes. */
#ifndef NS_TOK_JINJA_INTERNAL_H
#define NS_TOK_JINJA_INTERNAL_H

#include <string.h>

#include "base/mem.h"
#include "tok/jinja.h"

/* ---- tokens ---- */
typedef enum jt {
    JT_DATA,
    JT_VAR_BEGIN,
    JT_VAR_END,
    JT_BLOCK_BEGIN,
    JT_BLOCK_END,
    JT_NAME,
    JT_STRING,
    JT_INT,
    JT_FLOAT,
    JT_OP, /* s is the operator */
    JT_EOF
} jt;
typedef struct jtoken {
    jt type;
    int line, col; /* from 1; columns count characters */
    ns_str s;      /* DATA and STRING: decoded text */
    int64_t i;
    double f;
} jtoken;
typedef struct jtokens {
    jtoken *v;
    size_t n, cap;
} jtokens;

/* ---- values ---- */
typedef enum jv_type {
    JV_UNDEF, /* s: the missing name; kind: 0 a variable, 1 an attribute, 2 a method that changes its object, 3 s is the text */
    JV_NONE,
    JV_BOOL,
    JV_INT,
    JV_BIG, /* an integer outside of int64: s holds its digits */
    JV_FLOAT,
    JV_STR, /* kind 1: safe markup */
    JV_LIST,
    JV_DICT,
    JV_NS, /* namespace(): a dict that may be written */
    JV_FUNC
} jv_type;
typedef enum jl_kind { JL_LIST, JL_TUPLE, JL_RANGE, JL_KEYS, JL_VALUES, JL_ITEMS, JL_GEN } jl_kind;

typedef struct jv {
    uint8_t type, kind;
    union {
        int64_t i;
        double f;
        ns_str s;
        struct jv_list *list;
        struct jv_dict *dict;
        struct jv_func *func;
    };
} jv;
typedef struct jv_list {
    jv *v;
    size_t n, cap, at; /* at: items of a generator that were taken */
    jl_kind kind;
} jv_list;
typedef struct jv_dict {
    jv *key, *val;
    size_t n, cap;
    uint32_t *index; /* NULL while small */
    size_t index_cap, indexed;
} jv_dict;

/* ---- tree ---- */
typedef enum jn_kind {
    /* expressions */
    JN_CONST,
    JN_NAME,
    JN_LIST,
    JN_TUPLE,
    JN_DICT,   /* list: key, value, key, value, ... */
    JN_ATTR,   /* a.s */
    JN_ITEM,   /* a[b] */
    JN_SLICE,  /* a[b:c:d] */
    JN_CALL,   /* a(args) */
    JN_FILTER, /* a|s(args); a NULL in {% filter %} */
    JN_TEST,   /* a is s(args) */
    JN_NOT,
    JN_NEG,
    JN_POS,
    JN_AND,
    JN_OR,
    JN_BINARY,  /* op */
    JN_CONCAT,  /* list ~ */
    JN_COMPARE, /* a, then list of operands with ops */
    JN_COND,    /* b if a else c */
    /* statements */
    JN_TEXT,
    JN_OUT,          /* {{ a }} */
    JN_IF,           /* a, body list; c: else (a JN_BLOCK or JN_IF) */
    JN_FOR,          /* target a, over b, filter c, else d, body list; op 1: recursive */
    JN_SET,          /* target a, value b */
    JN_SET_BLOCK,    /* target a, filter b, body list */
    JN_MACRO,        /* s name, args, body list */
    JN_CALL_BLOCK,   /* args of the caller, call a, body list */
    JN_FILTER_BLOCK, /* filter chain a, body list */
    JN_WITH,         /* args: name=value, body list */
    JN_GENERATION,   /* body list */
    JN_BLOCK,        /* body list */
    JN_BREAK,
    JN_CONTINUE,
    JN_NSREF /* target s(id).b */
} jn_kind;
enum jop {
    JO_ADD,
    JO_SUB,
    JO_MUL,
    JO_DIV,
    JO_FLOORDIV,
    JO_MOD,
    JO_POW,
    JO_EQ,
    JO_NE,
    JO_LT,
    JO_LE,
    JO_GT,
    JO_GE,
    JO_IN,
    JO_NOT_IN
};

typedef struct jnode jnode;
typedef struct jn_arg { /* of a call, or a parameter of a macro */
    ns_str name;        /* p NULL: positional */
    int id;
    int star;     /* 1: *x, 2: **x */
    jnode *value; /* NULL: parameter without default */
} jn_arg;
struct jnode {
    uint8_t kind, op;
    int line, col, id, depth;
    jv value;
    ns_str s;
    jnode *a, *b, *c, *d;
    jnode **list;
    uint8_t *ops; /* JN_COMPARE */
    jn_arg *args;
    size_t n, n_args;
    const struct jfilter *filter; /* JN_FILTER */
    const struct jtest *test;
};

struct ns_jinja {
    ns_arena arena;
    const char *name;
    jnode *root;
    ns_str *names; /* interned variable names */
    size_t n_names, names_cap;
    int has_generation;
};

enum { JINJA_MAX_TREE = 400, JINJA_MAX_DEPTH = 900, JINJA_MAX_TEXT = 4 << 20, JINJA_MAX_RANGE = 100000 };

NS_MUST_USE ns_status ns_jinja_lex(jtokens *out, ns_arena *a, const char *text, size_t n, const char *name,
                                   ns_error *err);
NS_MUST_USE ns_status ns_jinja_parse(ns_jinja *t, const jtokens *tokens, ns_error *err);

/* ---- one rendering ---- */
typedef struct jscope {
    struct jscope *parent;
    int *id;
    jv *v;
    size_t n, cap;
} jscope;
typedef struct jctx {
    const ns_jinja *t;
    ns_arena arena;
    ns_jinja_render *r;
    ns_buf out;     /* all text; a capture is cut off its end */
    int n_captures; /* nested macro calls, set blocks, ... */
    jscope *scope, *globals;
    const jnode *at; /* for messages */
    uint64_t steps, max_steps;
    size_t bytes, max_bytes;
    int depth;
    enum { JFLOW_NONE, JFLOW_BREAK, JFLOW_CONTINUE } flow;
    ns_error *err;
} jctx;

struct jargs;
struct jjson;
typedef enum jf_kind { JF_GLOBAL, JF_METHOD, JF_MACRO, JF_CALLER, JF_LOOP, JF_JOINER, JF_CYCLER } jf_kind;
typedef struct jloop {
    jv_list *items;
    size_t at;
    int64_t depth;
    jv changed; /* last argument of loop.changed */
    int has_changed;
    const jnode *node;
} jloop;
typedef struct jv_func {
    jf_kind kind;
    ns_str name;
    jv self;           /* METHOD */
    const jnode *node; /* MACRO, CALLER */
    jscope *scope;     /* where it was defined */
    jv caller;         /* MACRO inside {% call %} */
    jloop *loop;
    jv_list *items; /* CYCLER */
    size_t at;      /* CYCLER, JOINER */
    int (*call)(jctx *c, jv *out, struct jargs *a);
} jv_func;

typedef struct jkw {
    ns_str name;
    jv v;
} jkw;
typedef struct jargs { /* evaluated arguments */
    jv *v;
    size_t n;
    jkw *kw;
    size_t n_kw;
    uint64_t used_kw; /* asked for by name so far */
    jv caller;        /* {% call %}: JV_FUNC, else JV_UNDEF */
} jargs;

/* Inside the engine a function returns 1, or 0 with c->err set. */
typedef int (*jfilter_fn)(jctx *c, jv *out, jv x, jargs *a);
typedef struct jfilter {
    const char *name;
    jfilter_fn fn;
    int max_args;
    const char *kw; /* "width first blank": names in order of position */
} jfilter;
typedef struct jtest {
    const char *name;
    int n_args;
    int (*fn)(jctx *c, int *yes, jv x, jv arg);
} jtest;

int jfail(jctx *c, const char *fmt, ...) NS_PRINTF(2, 3);
void *jalloc(jctx *c, size_t size);
int jcharge(jctx *c, size_t work); /* work: items, or bytes / 32 */

/* values (jinja_value.c) */
static inline jv jv_none(void)
{
    return (jv){.type = JV_NONE};
}
static inline jv jv_bool(int b)
{
    return (jv){.type = JV_BOOL, .i = !!b};
}
static inline jv jv_int(int64_t i)
{
    return (jv){.type = JV_INT, .i = i};
}
static inline jv jv_float(double f)
{
    return (jv){.type = JV_FLOAT, .f = f};
}
static inline jv jv_str(const char *p, size_t n)
{
    return (jv){.type = JV_STR, .s = {p, n}};
}
static inline jv jv_text(ns_str s)
{
    return (jv){.type = JV_STR, .s = s};
}
static inline jv jv_undef(ns_str name, int kind)
{
    return (jv){.type = JV_UNDEF, .kind = (uint8_t)kind, .s = name};
}
#define JS(lit) ((ns_str){lit, sizeof lit - 1})
static inline int jis(ns_str a, const char *b)
{
    return ns_str_eq(a, b);
}
static inline int js_eq(ns_str a, ns_str b)
{
    return a.n == b.n && (!a.n || !memcmp(a.p, b.p, a.n));
}

int jv_new_list(jctx *c, jv *out, jl_kind kind, size_t cap);
int jv_push(jctx *c, jv_list *l, jv v);
int jv_new_dict(jctx *c, jv *out);
int jv_dict_set(jctx *c, jv_dict *d, jv key, jv val);
int jv_dict_get(jctx *c, jv_dict *d, jv key, jv *out); /* 1 found, 0 not, -1 failed */
int jv_from_json(jctx *c, jv *out, const ns_json *v);
int jv_truth(jv v);
int jv_eq(jctx *c, jv a, jv b, int *yes);
int jv_cmp(jctx *c, jv a, jv b, const char *op, int *order);
int jv_contains(jctx *c, jv item, jv in, int *yes);
const char *jv_type_name(jv v);             /* Python's: "str", "dict", ... */
int jv_need_defined(jctx *c, jv v);         /* fails with Jinja's words when undefined */
int jv_to_text(jctx *c, ns_buf *out, jv v); /* str(v) */
int jv_as_str(jctx *c, ns_str *out, jv v);  /* str(v), without a copy for text */
int jv_repr(jctx *c, ns_buf *out, jv v);
int jv_tojson(jctx *c, ns_buf *out, jv v, const struct jjson *o);
typedef struct jjson {
    int ascii, sort;
    ns_str indent; /* p NULL: one line */
    ns_str item_sep, key_sep;
} jjson;
int jv_iter(jctx *c, jv_list *out, jv v); /* items to visit; generators are used up */
int jv_len(jctx *c, jv v, int64_t *n);
int jv_keep(jctx *c, jv *out, ns_buf *b);        /* moves the text of b into the arena, frees b */
int jv_keep_from(jctx *c, jv *out, size_t from); /* cuts c->out from `from` */

/* text (jinja_str.c): indices count characters */
size_t jstr_len(ns_str s);
size_t jstr_char(ns_str s, size_t at);    /* bytes of the character at byte `at` */
size_t jstr_byte(ns_str s, size_t index); /* byte offset of character `index` */
ns_str jstr_strip(ns_str s, int left, int right, const ns_str *set);
int jstr_is_space(ns_str s, size_t at, size_t *len);
int jstr_map(jctx *c, jv *out, ns_str s, int how); /* 'u' 'l' 't' (Jinja title) 'T' (str.title) 'c' 's' */
int jstr_replace(jctx *c, jv *out, ns_str s, ns_str from, ns_str to, int64_t count);
int jstr_splitlines(jctx *c, jv *out, ns_str s, int keep);
int jstr_indent(jctx *c, jv *out, ns_str s, ns_str by, int first, int blank);
int jstr_format_percent(jctx *c, jv *out, ns_str f, jv args);
/* Method `name` of text s; *known 0 when text has none of that name. */
int jstr_method_known(ns_str name);
int jstr_method(jctx *c, jv *out, ns_str s, ns_str name, jargs *a);

/* calls (jinja_call.c) */
const jfilter *jfilter_find(ns_str name);
const jtest *jtest_find(ns_str name);
const char *jfilter_suggest(ns_str name);
const char *jtest_suggest(ns_str name);
int jarg(jctx *c, jargs *a, size_t index, const char *name, jv *out); /* 1 when given */
int jargs_done(jctx *c, jargs *a, size_t max, const char *what);
int jglobal_find(jctx *c, ns_str name, jv *out); /* 1 when it is a function that templates may call */
int jv_attr(jctx *c, jv *out, jv v, ns_str name);
int jv_item(jctx *c, jv *out, jv v, jv index);
int jcall(jctx *c, jv *out, jv f, jargs *a);
int jcall_macro(jctx *c, jv *out, jv_func *f, jargs *a);  /* jinja_eval.c */
int jloop_recurse(jctx *c, jv *out, jv_func *f, jv over); /* jinja_eval.c */
int jbinary(jctx *c, jv *out, int op, jv a, jv b);
int jv_arg_int(jctx *c, jv v, const char *what, int64_t *out);

#endif
