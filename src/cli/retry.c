/* `ns retry`: submits again what failed, was lost, skipped or cancelled, and what was skipped because of it in other experiments. */
#include <stdio.h>

#include "cli/pipe.h"

typedef struct retry_options {
    int wait;
} retry_options;

static const ns_option opts[] = {
    {.key = "wait",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = offsetof(retry_options, wait),
     .def = "false",
     .help = "return when the jobs have ended, with their exit code"},
};

static int run(void *options, ns_parsed *p)
{
    const retry_options *o = options;
    ns_error err = NS_ERROR_INIT;
    int failed = 0;
    if (!p->n_positional) ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "name an experiment");
    for (size_t i = 0; i < p->n_positional && err.code == NS_OK; i++) {
        ns_graph g;
        int n = 0, f = 0;
        if (ns_cli_experiment(&g, p->positional[i], &err) != NS_OK) break;
        ns_status st = ns_steer_retry(&g, &n, &err);
        if (st == NS_OK && !p->quiet)
            printf(n ? "%s: %d job%s submitted again\n" : "%s: nothing to do again\n", g.id, n, n == 1 ? "" : "s");
        if (st == NS_OK && o->wait) st = ns_steer_wait(&g, &f, &err);
        failed += f;
        ns_graph_free(&g);
    }
    return err.code == NS_OK ? failed > 0 : ns_cli_fail("retry", &err);
}

const ns_verb ns_verb_retry = {
    .name = "retry",
    .group = "jobs",
    .summary = "submit again what failed in an experiment",
    .usage = "ns retry [--wait] EXPERIMENT ...",
    .examples = "ns retry my-training-job-to-hf\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(retry_options),
    .allow_positional = 1,
    .run = run,
};
