/* Inside of config*.c: tree building, the value grammar and interpolation share these. Not for other files.
 * A node's children arrays have room for the next power of two >= n, so no capacity is stored. */
#ifndef NS_BASE_CONFIG_PRIV_H
#define NS_BASE_CONFIG_PRIV_H

#include "base/config.h"

#define CFG_MAX_DEPTH 100
#define CFG_ORIGIN_DEFAULT "default" /* `+key=` treats a key that only has its default as absent */

struct ns_config {
    ns_arena arena; /* everything: nodes, strings, origins, resolved copies */
    ns_node *root;  /* always a MAP */
};

/* Passes on a failure that the arena has already written into err. */
#define CFG_NEED(ptr)                     \
    do {                                  \
        if (!(ptr)) return NS_ERR_MEMORY; \
    } while (0)

/* As NS_TRY and NS_CHECK without a frame: the message already says where, and frames are few. */
#define CFG_TRY(call)                                 \
    do {                                              \
        ns_status cfg_try_st_ = (call);               \
        if (cfg_try_st_ != NS_OK) return cfg_try_st_; \
    } while (0)
#define CFG_CHECK(st, call)           \
    do {                              \
        (st) = (call);                \
        if ((st) != NS_OK) goto done; \
    } while (0)

/* ---- config.c ---- */
ns_node *cfg_new(ns_config *c, ns_node_type t, const char *origin, ns_error *err); /* NULL: out of memory */
ns_node *cfg_string(ns_config *c, const char *s, size_t n, const char *origin, ns_error *err);
NS_MUST_USE ns_status cfg_append(ns_config *c, ns_node *parent, const char *key, ns_node *child, ns_error *err);
NS_MUST_USE ns_status cfg_copy(ns_config *c, const ns_node *from, ns_node **out, ns_error *err);
NS_MUST_USE ns_status cfg_merge(ns_config *c, ns_node *into, const ns_node *from, ns_error *err);
/* Puts a copy of value at a dotted path, creating parents; maps merge into maps. `origin` names the setting in messages. */
NS_MUST_USE ns_status cfg_assign(ns_config *c, const char *path, const ns_node *value, const char *origin,
                                 ns_error *err);
/* As written, without resolving interpolations. *out NULL if absent. */
NS_MUST_USE ns_status cfg_find(ns_config *c, const char *path, const ns_node **out, ns_error *err);
/* ns_config_override; may_create: the plain form, too, may create its key. */
NS_MUST_USE ns_status cfg_override(ns_config *c, const char *word, int may_create, ns_error *err);
void cfg_remove(ns_node *map, const char *key);
/* Levels of lists and maps below and including n; 0 for a scalar. No tree is deeper than CFG_MAX_DEPTH. */
int cfg_depth(const ns_node *n);
int cfg_equal(const ns_node *a, const ns_node *b);
/* Writes the dotted path of a node; returns out. */
const char *cfg_path_of(const ns_node *n, char *out, size_t size);
/* Fails unless the whole path is well formed. */
NS_MUST_USE ns_status cfg_path_check(const char *path, const char *origin, ns_error *err);
/* Splits off the next component of "a.b[0].c" into comp; returns 0 at the end, -1 when malformed. */
int cfg_path_next(const char **p, char *comp, size_t size);
int cfg_list_index(const char *comp, size_t *index); /* 1 if comp is a plain integer */
/* "; did you mean a.b or a.c?" or "": near spellings first, then names that end in the same component. */
const char *cfg_suggest(char *out, size_t size, const char *word, const char *const *names, size_t n);
/* All dotted paths below the root, for suggestions. */
NS_MUST_USE ns_status cfg_all_paths(ns_config *c, const char ***names, size_t *n, ns_error *err);

/* ---- config_scalar.c ---- */
/* Types a plain scalar in place: YAML 1.1 as OmegaConf reads it, or Hydra's command-line rules. */
NS_MUST_USE ns_status cfg_type_yaml(ns_config *c, ns_node *n, ns_error *err);
NS_MUST_USE ns_status cfg_type_hydra(ns_config *c, ns_node *n, ns_error *err);
/* Text of a scalar as Python's str() prints it: True, None, 1e-05. */
NS_MUST_USE ns_status cfg_to_text(const ns_node *n, ns_buf *out, ns_error *err);
/* Length of the valid UTF-8 at the front; n when all of it is. */
size_t cfg_utf8_valid(const char *s, size_t n);
void cfg_format_double(char out[40], double x);

/* ---- config_yaml.c ---- */
/* One YAML document as a value (defaults of option tables); every node gets this origin. */
NS_MUST_USE ns_status cfg_parse_yaml_value(ns_config *c, const char *text, const char *origin, ns_node **out,
                                           ns_error *err);

/* ---- config_value.c ---- */
/* Parses one element of the override grammar at *p, up to an unquoted byte of `stops` (left in place) or the end. */
NS_MUST_USE ns_status cfg_parse_element(ns_config *c, const char **p, const char *stops, const char *origin,
                                        ns_node **out, ns_error *err);
NS_MUST_USE ns_status cfg_parse_value(ns_config *c, const char *key, const char *text, const char *origin,
                                      ns_node **out, ns_error *err);

/* ---- config_resolve.c ---- */
int cfg_has_interpolation(const ns_node *n); /* anywhere below */
/* Past the closing brace of the "${" at p, or NULL if it never closes. Quotes and nesting are respected. */
const char *cfg_skip_interpolation(const char *p);

#endif
