/* The command line: ns.c finds the verb; each verb is one file that defines `const ns_verb ns_verb_<name>`, whose name stands
 * in the list verbs.h. Only this folder prints and exits.
 *
 *     static int run(void *options, ns_parsed *p)
 *     {
 *         const thing_options *o = options;
 *         ns_error err = NS_ERROR_INIT;
 *         if (ns_thing(o->input, &err) != NS_OK) return ns_cli_fail("thing", &err);
 *         return 0;
 *     }
 *     const ns_verb ns_verb_thing = {.name = "thing", .group = "data", .summary = "...", .options = opts, ..., .run = run}; */
#ifndef NS_CLI_CLI_H
#define NS_CLI_CLI_H

#include <stddef.h>

#include "base/error.h"
#include "base/options.h"

/* Prints "ns <verb>: outer: inner: leaf" to stderr, and a hint line where one helps; returns the exit code of the status. */
int ns_cli_fail(const char *verb, const ns_error *err);

/* From here on Ctrl-C, SIGTERM and SIGHUP end the program at once, wherever it waits, with `text` (two lines: what is left, how to go
 * on) on stderr. cleanup: NULL, or called before; only what is allowed in a signal handler. A signal that is ignored (nohup) stays so. */
void ns_cli_when_stopped(const char *text, void (*cleanup)(void));

/* Where a calling program wants the result as one JSON object ($NS_RESULT_FD), else -1. Errors go there by themselves. */
int ns_cli_result_fd(void);

/* "key": "text" on stdout, as JSON writes it. */
void ns_cli_print_json(const char *key, const char *text);

/* All verbs in this program, in help order; *n of them. */
const ns_verb *const *ns_cli_verbs(size_t *n);
/* The verb of that name (dashes count as underscores), or NULL. */
const ns_verb *ns_cli_find(const char *name);
/* "ns 0.1.0 (GNU 12.2.0, x86_64)" */
const char *ns_cli_version(void);

#endif
