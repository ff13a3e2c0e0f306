/* Options: one table per verb gives parsing, --help, bounds, defaults, the resolved-config dump and the doc page.
 *
 *     static const ns_option opts[] = {
 *         {.key = "trainer.sft.max_epochs", .type = NS_OPT_INT, .at = offsetof(sft_options, max_epochs), .def = "2",
 *          .min = 1, .max = 1e6, .help = "passes over the training data"},
 *         {.key = "input", .flag = 1, .short_name = 'i', .type = NS_OPT_STRING, ... },   // --input X, --input=X, -i X
 *     };
 * Two spellings in one table: `flag` rows are `--name` options; all others are configuration keys written `++key=value`
 * (also `key=value`, `+key=value`, `~key`) or in a YAML file named by --config-name/--config-path. A key row's field is filled
 * from the resolved configuration tree. A default is YAML text and may contain ${...}; the default of a STRING row is taken
 * literally unless it starts with a quote or is null. Order, later wins: defaults, the YAML file, the words from left to
 * right. Every verb also understands --help/-h, --json, --quiet, --config-name/-cn, --config-path/-cp, --config-dir/-cd
 * and -- (the rest is positional). Types are checked and bounds enforced before the verb starts; an unknown key or flag is
 * an error with a suggestion. NS_OPT_COMPAT rows are accepted for compatibility and not acted on: using one with a
 * value other than its default logs one line at start-up that says so (`compat_note`). */
#ifndef NS_BASE_OPTIONS_H
#define NS_BASE_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/config.h"
#include "base/error.h"

typedef enum ns_opt_type {
    NS_OPT_BOOL,   /* int field */
    NS_OPT_INT,    /* int64_t field; integral floats such as 138.0 are accepted */
    NS_OPT_FLOAT,  /* double field */
    NS_OPT_STRING, /* const char * field (owned by the parsed options); NULL for null */
    NS_OPT_LIST,   /* ns_opt_list field: list, or a single scalar as a list of one */
    NS_OPT_NODE    /* const ns_node * field: anything (maps, int-or-float values); NULL for null or absent */
} ns_opt_type;

typedef struct ns_opt_list {
    const char **v;
    size_t n;
} ns_opt_list;

enum {
    NS_OPT_REQUIRED = 1,
    NS_OPT_COMPAT = 2,
    NS_OPT_HIDDEN = 4,
    NS_OPT_WORDS =
        16, /* an unquoted override value may have commas: file lists (elsewhere a comma is a refused sweep) */
    NS_OPT_MODEL =
        32, /* STRING: a path, or a name in the Hugging Face cache, which becomes its path (base/hub/hub.h) */
    NS_OPT_NULLABLE = 8 /* null allowed: INT/FLOAT/BOOL field gets `null_value` */
};

typedef struct ns_option {
    const char *key; /* dotted key, or flag name without dashes */
    int flag;        /* 1: `--key`; 0: configuration key */
    char short_name; /* flags only, 0 = none */
    ns_opt_type type;
    size_t at;           /* offsetof the field */
    const char *def;     /* default as YAML text; NULL = null/unset */
    double min, max;     /* bounds for INT and FLOAT when min < max */
    const char *choices; /* "bf16|32|16": allowed strings */
    unsigned flags;
    double null_value;
    const char *help; /* one line: meaning, unit */
    const char *compat_note;
} ns_option;

typedef struct ns_parsed ns_parsed;

typedef struct ns_verb {
    const char *name;     /* "sft" */
    const char *group;    /* heading in `ns --help`: "data", "training", "models", "evaluation", "help" */
    const char *summary;  /* one line */
    const char *usage;    /* "ns sft ++model.restore_from_path=DIR ++..." */
    const char *examples; /* lines, shown by --help */
    const ns_option *options;
    size_t n_options, options_size;
    int allow_positional;                    /* 1: words that are neither flags nor overrides are kept; 2: the first
                                                such word ends the options and everything from it on is kept */
    int (*run)(void *options, ns_parsed *p); /* exit code; prints its own errors through cli.h */
    const char *const *builtin_configs;      /* name, YAML text, name, YAML text, ..., NULL: found by --config-name */
    const char *default_config;              /* read when no --config-name is given; NULL: none */
    int open_config;    /* 1: a YAML file may define keys of its own (for ${...}); else they must be in the table */
    int no_json;        /* 1: it prints no data, and --json is answered with a warning */
    int keep_overrides; /* 1: key=value words are not applied but kept in order in p->overrides (pipeline verbs) */
    /* "convert_to=trtllm": when this option is given, unknown --options and the words behind them are kept there, too
       (meant for another program); without it neither these nor key=value words are known */
    const char *keep_unknown;
    const struct ns_verb
        *words_of; /* whose settings the kept key=value words are: unknown keys are errors here already */
} ns_verb;

/* The result of parsing: owns every string that the options struct points to. */
struct ns_parsed {
    ns_config *config;
    void *options; /* options_size bytes, filled */
    const char **positional;
    size_t n_positional;
    const char **overrides; /* keep_overrides verbs only */
    size_t n_overrides;
    int help, json, quiet; /* --help/-h, --json, --quiet are understood by every verb */
    char **argv_copy;      /* the words as typed, for run.json and resume commands */
    int argc;
};

NS_MUST_USE ns_status ns_options_parse(ns_parsed *out, const ns_verb *v, int argc, const char *const *argv,
                                       ns_error *err);
void ns_parsed_free(ns_parsed *p);
/* Is the table itself sound: no key, flag or letter twice, every default within its own type, bounds and choices? */
NS_MUST_USE ns_status ns_options_check(const ns_verb *v, ns_error *err);
/* --help text; doc page in Markdown (doc/options/<verb>.md). */
NS_MUST_USE ns_status ns_options_help(ns_buf *out, const ns_verb *v, ns_error *err);
NS_MUST_USE ns_status ns_options_markdown(ns_buf *out, const ns_verb *v, ns_error *err);

#endif
