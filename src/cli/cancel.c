/* `ns cancel`: stops an experiment, or one task of it, and everything that waits for it, in other experiments too. */
#include <stdio.h>
#include <string.h>

#include "cli/pipe.h"

typedef struct cancel_options {
    int64_t task;
} cancel_options;

static const ns_option opts[] = {
    {.key = "task",
     .flag = 1,
     .short_name = 't',
     .type = NS_OPT_INT,
     .at = offsetof(cancel_options, task),
     .def = "-1",
     .min = -1,
     .max = 1e6,
     .help = "only this task and what waits for it"},
};

static int run(void *options, ns_parsed *p)
{
    const cancel_options *o = options;
    ns_error err = NS_ERROR_INIT;
    if (!p->n_positional) ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "name an experiment");
    for (size_t i = 0; i < p->n_positional && err.code == NS_OK; i++) {
        ns_graph g;
        int n = 0;
        if (ns_cli_experiment(&g, p->positional[i], &err) != NS_OK) break;
        if (o->task >= (int64_t)g.n_tasks)
            ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "%s has tasks 0 to %zu", g.id, g.n_tasks - 1);
        else if (ns_steer_cancel(&g, (int)o->task, &n, &err) == NS_OK && !p->quiet)
            printf("%s: %d job%s cancelled, dependants included\n", g.id, n, n == 1 ? "" : "s");
        ns_graph_free(&g);
    }
    return err.code == NS_OK ? 0 : ns_cli_fail("cancel", &err);
}

const ns_verb ns_verb_cancel = {
    .name = "cancel",
    .group = "jobs",
    .summary = "stop an experiment and everything that waits for it",
    .usage = "ns cancel [--task N] EXPERIMENT ...",
    .examples = "ns cancel my-training-job\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(cancel_options),
    .allow_positional = 1,
    .run = run,
};
