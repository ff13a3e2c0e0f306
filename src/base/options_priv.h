/* Inside of options*.c. */
#ifndef NS_BASE_OPTIONS_PRIV_H
#define NS_BASE_OPTIONS_PRIV_H

#include "base/config_priv.h"
#include "base/options.h"

typedef struct opt_parser {
    ns_parsed *out;
    const ns_verb *verb;
    ns_config *c;
    const char *const *argv;
    int argc, at;
    ns_node **flag_values; /* per row: what the command line gave, or NULL */
    const char **overrides;
    size_t n_overrides;
    const char *config_name, *config_path, *config_dir;
    int has_keys;                     /* the table has configuration rows */
    int keep_overrides, keep_unknown; /* as the verb says, for these words */
} opt_parser;

/* ---- options_words.c ---- */
/* Sorts the words into flag_values, overrides and positional; stops at --help. */
NS_MUST_USE ns_status opt_sort_words(opt_parser *s, ns_error *err);
int opt_same_name(const char *a, const char *b); /* '-' and '_' are the same in option names */
const ns_option *opt_find_flag(const opt_parser *s, const char *name, char short_name); /* by letter if not 0 */

/* ---- options_fill.c ---- */
/* "an integer from 1 to 8", "true or false", "one of bf16, 16, 32": for messages and help. */
NS_MUST_USE ns_status opt_expectation(ns_buf *out, const ns_option *o, ns_error *err);
/* Checks the value and stores it in the field. `n` NULL: absent. Strings and lists go into the configuration's arena. */
NS_MUST_USE ns_status opt_fill(ns_parsed *p, const ns_option *o, const ns_node *n, ns_error *err);
/* The default of a row as a node; NULL for none. */
NS_MUST_USE ns_status opt_default(ns_config *c, const ns_option *o, ns_node **out, ns_error *err);

#endif
