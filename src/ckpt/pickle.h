/* Python pickles as data (protocols 2 to 5): an interpreter that builds plain values and runs nothing. A class or function is
 * only a name; a call is a node (cls, args, state). Names outside the allow-list (pickle.c) are an error that names them.
 *     ns_pk *root; NS_TRY(ns_pickle_parse(&root, &arena, data, size, "model.pt: data.pkl", err), "...");
 *     const ns_pk *v = ns_pk_get(root, "state_dict");                          // NULL if absent
 * All values live in the arena; strings point into the input. Memory is linear in the input. Nodes may be shared or cyclic:
 * readers follow named paths and never walk everything. */
#ifndef NS_CKPT_PICKLE_H
#define NS_CKPT_PICKLE_H

#include "base/buf.h"
#include "base/mem.h"

typedef enum ns_pk_kind {
    NS_PK_NONE,
    NS_PK_BOOL,   /* i */
    NS_PK_INT,    /* i */
    NS_PK_FLOAT,  /* f */
    NS_PK_STR,    /* s */
    NS_PK_BYTES,  /* s */
    NS_PK_LIST,   /* item[n] */
    NS_PK_TUPLE,  /* item[n] */
    NS_PK_SET,    /* item[n] */
    NS_PK_DICT,   /* item[2n]: key, value, ... */
    NS_PK_GLOBAL, /* module, s: a class or function by name */
    NS_PK_OBJECT, /* cls, args, state; item[2n] if items were set */
    NS_PK_PERSID  /* args: what the persistent id was made of */
} ns_pk_kind;

typedef struct ns_pk {
    ns_pk_kind kind;
    int64_t i;
    double f;
    ns_str s, module;
    struct ns_pk **item;
    size_t n, cap;
    struct ns_pk *cls, *args, *state;
} ns_pk;

NS_MUST_USE ns_status ns_pickle_parse(ns_pk **out, ns_arena *a, const unsigned char *p, size_t n, const char *where,
                                      ns_error *err);
/* Value under a string key of a dictionary, or field of an object's state; NULL if absent. */
const ns_pk *ns_pk_get(const ns_pk *v, const char *key);
/* 1 if v is an object or global called `name` ("OrderedDict"), whatever its module. */
int ns_pk_is(const ns_pk *v, const char *name);
int ns_pk_is_str(const ns_pk *v, const char *text);
/* A tuple, list or torch.Size of non-negative integers: its length (at most 8) and values; -1 if it is something else. */
int ns_pk_ints(const ns_pk *v, int64_t out[8]);

#endif
