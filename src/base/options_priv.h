/* Inside of options*.c. */
#ifndef NS_BASE_OPTIONS_PRIV_H
#define NS_BASE_OPTIONS_PRIV_H

#include "base/config_priv.h"
#include "base/options.h"

/* "an integer from 1 to 8", "true or false", "one of bf16, 16, 32": for messages and help. */
NS_MUST_USE ns_status opt_expectation(ns_buf *out, const ns_option *o, ns_error *err);
/* Checks the value and stores it in the field. `n` NULL: absent. Strings and lists go into the configuration's arena. */
NS_MUST_USE ns_status opt_fill(ns_parsed *p, const ns_option *o, const ns_node *n, ns_error *err);
/* The default of a row as a node; NULL for none. */
NS_MUST_USE ns_status opt_default(ns_config *c, const ns_option *o, ns_node **out, ns_error *err);

#endif
