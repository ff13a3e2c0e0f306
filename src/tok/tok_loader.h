/* What the parts of the loader share: tok_load.c (files, model, added tokens) and tok_pipeline.c (normalizer,
 * pre-tokenizer, post-processor, decoder). */
#ifndef NS_TOK_TOK_LOADER_H
#define NS_TOK_TOK_LOADER_H

#include <stdio.h>
#include <string.h>

#include "tok/tok_internal.h"
#include "tok/unicode.h"

typedef struct loader {
    ns_tok *t;
    ns_arena arena; /* the parsed JSON */
    const ns_tok_source *src;
    ns_buf text;                /* scratch */
    int crossing;               /* a merge joins something with a U+2581 behind it */
    int fused;                  /* decoder steps so far: Fuse has been */
    int no_template;            /* the file has none: BOS and EOS by the settings below */
    int32_t file_bos, file_eos; /* what the main file says; -1 nothing */
    int add_bos, add_eos;       /* tokenizer_config.json; -1 nothing */
} loader;

/* Does left + right join something with a U+2581 behind it? */
static inline int crosses_mark(ns_str left, ns_str right)
{
    int ends = left.n >= 3 && !memcmp(left.p + left.n - 3, NS_META, 3);
    return !ends && right.n >= 3 && !memcmp(right.p, NS_META, 3);
}

/* Adds the token, or updates the flags of one with the same text (later files win, as in transformers). */
NS_MUST_USE ns_status ns_tok_add_token(loader *l, const ns_added *a, const char *where, ns_error *err);
NS_MUST_USE ns_status ns_spm_read(loader *l, ns_error *err);      /* spm_load.c */
NS_MUST_USE ns_status ns_tiktoken_read(loader *l, ns_error *err); /* tiktoken.c */
NS_MUST_USE ns_status ns_tekken_read(loader *l, const ns_json *root, ns_error *err);
NS_MUST_USE ns_status ns_tok_read_pipeline(loader *l, const ns_json *root, ns_error *err);

/* ---- small readers ---- */
static inline const char *type_name(const ns_json *v)
{
    static const char *const names[] = {"null", "a boolean", "a number", "a string", "an array", "an object"};
    return v ? names[v->type] : "nothing";
}
static inline int is_set(const ns_json *v)
{
    return v && v->type != NS_JSON_NULL;
}
static inline int is_type(const ns_json *v, const char *name)
{
    const ns_json *t = ns_json_get(v, "type");
    return t && t->type == NS_JSON_STRING && ns_str_eq(t->s, name);
}
/* "type" for messages; never NULL. */
static inline ns_str type_of(const ns_json *v)
{
    const ns_json *t = ns_json_get(v, "type");
    return t && t->type == NS_JSON_STRING ? t->s : (ns_str){"(no type)", 9};
}
/* A number as written, anything else by its type: for "found ..." in messages. */
static inline ns_str shown(const ns_json *v)
{
    const char *name = type_name(v);
    return v && v->type == NS_JSON_NUMBER ? v->s : (ns_str){name, strlen(name)};
}
static inline int flag(const ns_json *obj, const char *key)
{
    const ns_json *v = ns_json_get(obj, key);
    return v && v->type == NS_JSON_BOOL && v->b;
}
/* Id from a JSON number, or -1. */
static inline int32_t id_of(const ns_json *v)
{
    int64_t x;
    return v && ns_json_is_int(v, &x) && x >= 0 && x < NS_BPE_MAX_IDS ? (int32_t)x : -1;
}

#define S(str) (int)((str).n < 80 ? (str).n : 80), (str).p /* for %.*s */

#endif
