/* `ns run pipeline.yaml`: submits the verbs of a file, after checking all of them. */
#include <stdio.h>

#include "cli/pipe.h"

typedef struct run_options {
    int dry_run;
} run_options;

static const ns_option opts[] = {
    {.key = "dry_run",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = offsetof(run_options, dry_run),
     .def = "false",
     .help = "print graphs, scripts and commands; submit nothing"},
};

typedef struct told {
    int json, quiet, failed;
} told;

static void say(void *user, const char *verb, const ns_pipe_result *r)
{
    told *t = user;
    ns_cli_say_result(verb, r, t->json, t->quiet);
    t->failed += r->failed;
}

static int run(void *options, ns_parsed *p)
{
    const run_options *o = options;
    ns_error err = NS_ERROR_INIT;
    told t = {p->json, p->quiet, 0};
    ns_submission_set_check(ns_cli_check_words);
    ns_submission_set_plan(ns_cli_plan_words);
    if (p->n_positional != 1)
        ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "name one file: ns run pipeline.yaml");
    else if (ns_pipe_yaml(p->positional[0], o->dry_run, say, &t, &err) == NS_OK)
        return t.failed != 0;
    return ns_cli_fail("run", &err);
}

const ns_verb ns_verb_run = {
    .name = "run",
    .group = "jobs",
    .summary = "submit the pipeline of a YAML file",
    .usage = "ns run [--dry_run] pipeline.yaml",
    .examples = "ns run --dry_run examples/pipeline/pipeline.yaml\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(run_options),
    .allow_positional = 1,
    .run = run,
};
