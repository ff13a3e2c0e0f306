/* Rows of the option tables of the pipeline verbs. `s` is the verb's struct, `f` its field.
 *
 *     const ns_option ns_eval_option_table[NS_EVAL_N] = {
 *         ROW_NEEDED(ns_eval_options, "output_dir", output_dir, "where the results go"),
 *         ROW_COUNT(ns_eval_options, "num_jobs", num_jobs, "-1", -1, "jobs"),
 *         NS_COMMON_OPTIONS(ns_eval_options),
 *     };
 *
 * A count without a default is -1 when it is not given. */
#ifndef NS_JOBS_OPTION_ROWS_H
#define NS_JOBS_OPTION_ROWS_H

#include <stddef.h>

#include "base/options.h"

#define ROW_TEXT(s, k, f, d, h)                                                               \
    {                                                                                         \
        .key = k, .flag = 1, .type = NS_OPT_STRING, .at = offsetof(s, f), .def = d, .help = h \
    }
#define ROW_NEEDED(s, k, f, h)                                                                                \
    {                                                                                                         \
        .key = k, .flag = 1, .type = NS_OPT_STRING, .at = offsetof(s, f), .flags = NS_OPT_REQUIRED, .help = h \
    }
/* One of "a|b|c"; without a default it must be given. */
#define ROW_CHOICE(s, k, f, d, names, h)                                                              \
    {                                                                                                 \
        .key = k, .flag = 1, .type = NS_OPT_STRING, .at = offsetof(s, f), .def = d, .choices = names, \
        .flags = (d) ? 0 : NS_OPT_REQUIRED, .help = h                                                 \
    }
#define ROW_COUNT(s, k, f, d, lo, h)                                                                    \
    {                                                                                                   \
        .key = k, .flag = 1, .type = NS_OPT_INT, .at = offsetof(s, f), .def = d, .min = lo, .max = 1e9, \
        .flags = (d) ? 0 : NS_OPT_NULLABLE, .null_value = -1, .help = h                                 \
    }
#define ROW_NEEDED_COUNT(s, k, f, lo, h)                                                      \
    {                                                                                         \
        .key = k, .flag = 1, .type = NS_OPT_INT, .at = offsetof(s, f), .min = lo, .max = 1e9, \
        .flags = NS_OPT_REQUIRED, .help = h                                                   \
    }
#define ROW_SWITCH(s, k, f, d, h)                                                           \
    {                                                                                       \
        .key = k, .flag = 1, .type = NS_OPT_BOOL, .at = offsetof(s, f), .def = d, .help = h \
    }

/* What is documented and belongs to a later version is refused in these words. */
#define NS_LATER "is not available yet: a later version of ns brings it"

#endif
