/* Configuration tree: YAML (libyaml events), Hydra-style overrides, lazy interpolation. Grammar: data.md §1, training.md §1.3.
 *
 *     ns_config *c;
 *     NS_TRY(ns_config_new(&c, err), "config");
 *     NS_TRY(ns_config_load_yaml(c, "sft.yaml", err), "...");            // overlays onto what is there
 *     NS_TRY(ns_config_override(c, "++model.seed=7", err), "...");
 *     const ns_node *n; NS_TRY(ns_config_get(c, "model.data.train_ds.file_path", &n, err), "..."); // resolved, NULL if absent
 *
 * Every node knows its origin ("sft.yaml:12:5", "override ++model.seed=7", "default") so that errors can name it.
 * Strings are UTF-8. Dup keys in YAML are errors with both lines. `???` read => NS_ERR_CONFIG naming the key. */
#ifndef NS_BASE_CONFIG_H
#define NS_BASE_CONFIG_H

#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/mem.h"

typedef enum ns_node_type {
    NS_NODE_NULL,
    NS_NODE_BOOL,
    NS_NODE_INT,
    NS_NODE_FLOAT,
    NS_NODE_STRING,
    NS_NODE_LIST,
    NS_NODE_MAP
} ns_node_type;

typedef struct ns_node {
    ns_node_type type;
    int64_t i;     /* BOOL, INT */
    double f;      /* FLOAT (also set for INT) */
    const char *s; /* STRING: NUL-terminated; other scalars: text as written */
    size_t n;      /* LIST, MAP: children; STRING: bytes (a YAML "\0" can put a NUL inside) */
    struct ns_node **items;
    const char **keys;      /* MAP */
    const char *origin;     /* where the value came from */
    struct ns_node *parent; /* for relative interpolation */
} ns_node;

typedef struct ns_config ns_config;

NS_MUST_USE ns_status ns_config_new(ns_config **out, ns_error *err);
void ns_config_free(ns_config **c);
ns_node *ns_config_root(ns_config *c);
NS_MUST_USE ns_status ns_config_load_yaml(ns_config *c, const char *path, ns_error *err);
NS_MUST_USE ns_status ns_config_parse_yaml(ns_config *c, const char *text, size_t n, const char *name, ns_error *err);
/* One command-line word: `a.b=v`, `+a.b=v`, `++a.b=v`, `~a.b`, `~a.b=v`. Unknown key for the plain form: error + suggestion. */
NS_MUST_USE ns_status ns_config_override(ns_config *c, const char *word, ns_error *err);
/* Sets key to the value written in YAML/override syntax (`text`), creating parents. For defaults. */
NS_MUST_USE ns_status ns_config_set(ns_config *c, const char *key, const char *text, const char *origin, ns_error *err);
/* Resolved node at a dotted path (list indices allowed: a.0, a[0]); *out NULL if absent. Cycles are errors. */
NS_MUST_USE ns_status ns_config_get(ns_config *c, const char *path, const ns_node **out, ns_error *err);
/* Parses one override value ("[a,b]", "1e-5", "'x'", "${y}") into a node of c's arena. */
NS_MUST_USE ns_status ns_config_value(ns_config *c, const char *text, ns_node **out, ns_error *err);
/* Whole tree as YAML; resolved = interpolations replaced. */
NS_MUST_USE ns_status ns_config_dump(ns_config *c, ns_buf *out, int resolved, ns_error *err);
const ns_node *ns_node_get(const ns_node *map, const char *key);
const char *ns_node_type_name(ns_node_type t);
/* Appends the node as JSON. (config_json.c) */
NS_MUST_USE ns_status ns_node_json(ns_buf *out, const ns_node *n, ns_error *err);

#endif
