/* `ns version`: what `ns --version` prints; --json for scripts. */
#include <stdio.h>

#include "cli/cli.h"

typedef struct version_options {
    int unused;
} version_options;

static int run(void *options, ns_parsed *p)
{
    (void)options;
    if (p->json)
        printf("{\"name\": \"ns\", \"version\": \"%s\", \"build\": \"%s\"}\n", NS_VERSION, NS_BUILD_INFO);
    else
        puts(ns_cli_version());
    return 0;
}

const ns_verb ns_verb_version = {.name = "version",
                                 .group = "help",
                                 .summary = "version and compiler of this program",
                                 .usage = "ns version [--json]",
                                 .options_size = sizeof(version_options),
                                 .run = run};
