/* The command line: ns.c finds the verb; each verb is one file that defines `const ns_verb ns_verb_<name>` and adds itself
 * to the list in verbs.h. Only this folder prints and exits. */
#ifndef NS_CLI_CLI_H
#define NS_CLI_CLI_H

#include "base/error.h"
#include "base/options.h"

/* Prints "ns <verb>: outer: inner: leaf" to stderr and returns the exit code of the status. */
int ns_cli_fail(const char *verb, const ns_error *err);

#endif
