/* `ns start_server` and `ns check_contamination`: options, graphs and paths of pipelines.md §1.8, §1.10. Both need a server of models, which
 * is not in this build: a submission is refused by name, with what there is instead; --dry_run shows the jobs. */
#include <stdio.h>
#include <string.h>

#include "jobs/jobs_priv.h"
#include "jobs/option_rows.h"
#include "jobs/pipes.h"

const ns_option ns_start_server_option_table[NS_START_SERVER_N] = {
    ROW_NEEDED(ns_start_server_options, "model", server.model, "model to serve"),
    ROW_CHOICE(ns_start_server_options, "server_type", server.type, "native", "native|trtllm|vllm|nemo|sglang",
               "native: our engine; trtllm, vllm, nemo, sglang, openai are not installed by us"),
    ROW_COUNT(ns_start_server_options, "server_gpus", server.gpus, NULL, 0, "GPUs a node"),
    ROW_COUNT(ns_start_server_options, "server_nodes", server.nodes, "1", 1, "nodes"),
    ROW_TEXT(ns_start_server_options, "server_args", server.args, NULL, "more words for the server"),
    ROW_SWITCH(ns_start_server_options, "with_sandbox", with_sandbox, "false",
               "also start a sandbox: there is none yet"),
    ROW_SWITCH(ns_start_server_options, "get_random_port", random_port, "false", "a free port instead of 5000"),
    NS_COMMON_OPTIONS(ns_start_server_options),
};

const ns_option ns_contamination_option_table[NS_CONTAMINATION_N] = {
    ROW_NEEDED(ns_contamination_options, "input_file", input_file, "rows with similar_items"),
    ROW_NEEDED(ns_contamination_options, "output_file", output_file, "the rows with contaminated and all_generations"),
    ROW_TEXT(ns_contamination_options, "model", server.model, NULL, "model that judges"),
    ROW_CHOICE(ns_contamination_options, "server_type", server.type, "native", "native|trtllm|vllm|nemo|openai",
               "native: our engine; trtllm, vllm, nemo, sglang, openai are not installed by us"),
    ROW_TEXT(ns_contamination_options, "server_address", server.address, NULL, "a running server"),
    ROW_COUNT(ns_contamination_options, "server_gpus", server.gpus, NULL, 0, "GPUs of the server"),
    ROW_COUNT(ns_contamination_options, "server_nodes", server.nodes, "1", 1, "nodes of the server"),
    ROW_TEXT(ns_contamination_options, "server_args", server.args, NULL, "more words for the server"),
    ROW_COUNT(ns_contamination_options, "dependent_jobs", dependent_jobs, "0", 0,
              "copies of the job chained behind it, to finish what a time limit cut"),
    ROW_TEXT(ns_contamination_options, "preprocess_cmd", preprocess_cmd, NULL, "bash command line to run before"),
    ROW_TEXT(ns_contamination_options, "postprocess_cmd", postprocess_cmd, NULL, "bash command line to run after"),
    NS_COMMON_OPTIONS(ns_contamination_options),
};

/* The one place that says what is not there; a dry run goes on. */
static ns_status not_yet(ns_submission *s, const char *what, ns_error *err)
{
    s->show_only = 1;
    if (s->options->dry_run) return ns_submission_note(s, err, "%s; these jobs can only be shown", what);
    NS_FAIL(NS_ERR_UNSUPPORTED, "%s (--dry_run shows the jobs)", what);
}

static ns_status server_words(ns_submission *s, const ns_server_options *o, const char *model, const char *port,
                              ns_words *w, ns_error *err)
{
    ns_arena *a = &s->graph.arena;
    JOBS_TRY(ns_words_add(w, a, "ns", err));
    JOBS_TRY(ns_words_add(w, a, "serve", err));
    JOBS_TRY(ns_words_addf(w, a, err, "--model=%s", model));
    JOBS_TRY(ns_words_addf(w, a, err, "--num_gpus=%lld", (long long)(o->gpus > 0 ? o->gpus : 0)));
    JOBS_TRY(ns_words_addf(w, a, err, "--port=%s", port));
    if (o->args && *o->args) NS_TRY(ns_words_split(w, a, o->args, err), "--server_args");
    return NS_OK;
}

static ns_status build_server(ns_submission *s, void *options, const ns_parsed *p, ns_error *err)
{
    const ns_start_server_options *o = options;
    const char *model, *logs;
    int t;
    ns_job_step *step;
    (void)p;
    NS_FAIL_IF(o->server.gpus < 0, NS_ERR_CONFIG, "missing: --server_gpus (GPUs a node)");
    NS_TRY(ns_submission_path(s, "--model", o->server.model, 1, &model, err), "%s", "start_server");
    NS_TRY(ns_submission_path(s, "--log_dir", o->common.log_dir, 0, &logs, err), "%s", "start_server");
    NS_FAIL_IF(o->with_sandbox, NS_ERR_UNSUPPORTED, "--with_sandbox: the sandbox " NS_LATER);
    JOBS_TRY(not_yet(s,
                     strcmp(o->server.type, "native")
                         ? "start_server: no server is installed by ns, and its own (--server_type=native) " NS_LATER
                           "; ns generate and ns eval answer inside of their job"
                         : "start_server: the server (--server_type=native) " NS_LATER
                           "; ns generate and ns eval answer inside of their job",
                     err));
    JOBS_TRY(ns_submission_task(s, s->graph.title, logs, &t, err));
    ns_group *g = &s->graph.tasks[t].groups[0];
    g->role = "server";
    g->nodes = (int)o->server.nodes;
    g->gpus = (int)o->server.gpus;
    JOBS_TRY(ns_graph_step(&s->graph, g, &step, err));
    return server_words(s, &o->server, model, o->random_port ? "0" : "5000", &step->argv, err);
}

static ns_status contamination_task(ns_submission *s, const ns_contamination_options *o, int t, const char *model,
                                    const char *in, const char *out, ns_error *err)
{
    ns_arena *a = &s->graph.arena;
    ns_job_step *step;
    JOBS_TRY(ns_submission_bash(s, t, o->preprocess_cmd, err));
    JOBS_TRY(ns_submission_command(s, t, "judge", &step, err));
    JOBS_TRY(ns_words_add(&step->argv, a, "check_contamination", err));
    JOBS_TRY(ns_words_add(&step->argv, a, ns_setting(a, "++input_file", in, err), err));
    JOBS_TRY(ns_words_add(&step->argv, a, ns_setting(a, "++output_file", out, err), err));
    JOBS_TRY(ns_words_add(&step->argv, a, ns_setting(a, "++model", model, err), err));
    if (o->dependent_jobs > 0) JOBS_TRY(ns_words_add(&step->argv, a, "++skip_filled=True", err));
    JOBS_TRY(ns_words_add_all(&step->argv, a, s->words.v, s->words.n, err));
    return ns_submission_bash(s, t, o->postprocess_cmd, err);
}

static ns_status build_contamination(ns_submission *s, void *options, const ns_parsed *p, ns_error *err)
{
    const ns_contamination_options *o = options;
    const char *in, *out, *model, *logs;
    int last = -1;
    JOBS_TRY(ns_check_server(s, &o->server, "check_contamination", err));
    JOBS_TRY(ns_submission_words(s, p->overrides, p->n_overrides, err));
    NS_TRY(ns_submission_path(s, "--input_file", o->input_file, 1, &in, err), "%s", "check_contamination");
    NS_TRY(ns_submission_path(s, "--output_file", o->output_file, 0, &out, err), "%s", "check_contamination");
    NS_TRY(ns_submission_path(s, "--model", o->server.model, 1, &model, err), "%s", "check_contamination");
    NS_TRY(ns_submission_path(s, "--log_dir", o->common.log_dir, 0, &logs, err), "%s", "check_contamination");
    JOBS_TRY(not_yet(s,
                     "check_contamination: a model as judge " NS_LATER
                     "; `ns prepare` drops rows whose problems occur in "
                     "a test set (++contamination_file)",
                     err));
    for (int64_t j = 0; j <= o->dependent_jobs; j++) {
        int t;
        JOBS_TRY(ns_submission_task(s, s->graph.title, logs, &t, err));
        s->graph.tasks[t].groups[0].gpus = (int)o->server.gpus;
        if (last >= 0) JOBS_TRY(ns_graph_edge(&s->graph, t, last, NS_AFTER_ANY, err));
        JOBS_TRY(contamination_task(s, o, t, model, in, out, err));
        last = t;
    }
    return NS_OK;
}

const ns_pipe ns_pipe_start_server = {.name = "start_server",
                                      .default_name = "server",
                                      .options = ns_start_server_option_table,
                                      .n_options = NS_START_SERVER_N,
                                      .options_size = sizeof(ns_start_server_options),
                                      .build = build_server};
const ns_pipe ns_pipe_check_contamination = {.name = "check_contamination",
                                             .default_name = "check-contamination",
                                             .options = ns_contamination_option_table,
                                             .n_options = NS_CONTAMINATION_N,
                                             .options_size = sizeof(ns_contamination_options),
                                             .overrides = 1,
                                             .build = build_contamination};
