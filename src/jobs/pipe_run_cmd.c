/* `ns run_cmd`: one command as a job. Parse rules: options end at the first plain word. One word (also wrap_arguments of Python) is a
 * bash command line; several words are an argv and meet no shell. Both: mounts are translated in every word. The documented
 * `python [-m] nemo_skills...` programs become verbs of ns; in a bash line that needs a shell, the job's own `python` does it. */
#include <stdio.h>
#include <string.h>

#include "jobs/jobs_priv.h"
#include "jobs/option_rows.h"
#include "jobs/pipes.h"

const ns_option ns_run_cmd_option_table[NS_RUN_CMD_N] = {
    ROW_TEXT(
        ns_run_cmd_options, "container", container, "nemo-skills",
        "role of an image: used where container_runtime is set in the cluster file, for programs that are not ours"),
    ROW_TEXT(ns_run_cmd_options, "preprocess_cmd", preprocess_cmd, NULL, "bash command line to run before"),
    ROW_TEXT(ns_run_cmd_options, "postprocess_cmd", postprocess_cmd, NULL,
             "bash command line to run after, when all went well"),
    ROW_COUNT(ns_run_cmd_options, "num_gpus", num_gpus, NULL, 0,
              "GPUs a node (default on slurm: 1, unless the partition's name contains cpu)"),
    ROW_COUNT(ns_run_cmd_options, "num_nodes", num_nodes, "1", 1, "nodes"),
    NS_COMMON_OPTIONS(ns_run_cmd_options),
};

static const struct {
    const char *program, *verb, *second;
} programs[] = {
    {"training.prepare_data", "prepare", NULL},
    {"training.prepare_packed_ft_dataset", "pack", NULL},
    {"training.merge_packed_data", "merge", NULL},
    {"training.start_sft", "sft", NULL},
    {"training.start_dpo", "dpo", NULL},
    {"training.start_rm", "rm", NULL},
    {"training.average_checkpoints", "average", NULL},
    {"dataset.prepare", "dataset", "prepare"},
    {"inference.generate", "infer", NULL},
    {"evaluation.evaluate_results", "grade", NULL},
};

/* Name of a nemo_skills program ("training.prepare_data") and how many words name it; 0: something else. */
static size_t program_name(char out[128], const ns_words *w)
{
    const char *base = w->n > 1 && strrchr(w->v[0], '/') ? strrchr(w->v[0], '/') + 1 : w->n > 1 ? w->v[0] : "";
    if (strcmp(base, "python") && strcmp(base, "python3")) return 0;
    if (w->n > 2 && strcmp(w->v[1], "-m") == 0 && strncmp(w->v[2], "nemo_skills.", 12) == 0) {
        snprintf(out, 128, "%s", w->v[2] + 12);
        return 3;
    }
    const char *at = strstr(w->v[1], "nemo_skills/");
    size_t n = strlen(w->v[1]);
    if (!at || (at != w->v[1] && at[-1] != '/') || n < 4 || strcmp(w->v[1] + n - 3, ".py")) return 0;
    snprintf(out, 128, "%.*s", (int)(strlen(at) - 15 < 127 ? strlen(at) - 15 : 127), at + 12);
    for (char *p = out; *p; p++)
        if (*p == '/') *p = '.';
    return 2;
}

static ns_status native(ns_submission *s, ns_words *out, const ns_words *w, ns_error *err)
{
    char name[128];
    ns_arena *a = &s->graph.arena;
    size_t skip = program_name(name, w);
    for (size_t i = 0; skip && i < sizeof programs / sizeof programs[0]; i++) {
        if (strcmp(programs[i].program, name)) continue;
        JOBS_TRY(ns_words_add(out, a, "ns", err));
        JOBS_TRY(ns_words_add(out, a, programs[i].verb, err));
        if (programs[i].second) JOBS_TRY(ns_words_add(out, a, programs[i].second, err));
        JOBS_TRY(ns_submission_note(s, err, "nemo_skills.%s runs as `ns %s`", name, programs[i].verb));
        return ns_words_add_all(out, a, w->v + skip, w->n - skip, err);
    }
    NS_FAIL_IF(skip, NS_ERR_UNSUPPORTED, "nemo_skills.%s has no counterpart in ns", name);
    return ns_words_add_all(out, a, w->v, w->n, err);
}

/* The command as words, and whether it is one of the programs that run as verbs of ns (also inside of a bash line). */
static ns_status read_command(ns_submission *s, const char *const *v, size_t n, ns_words *w, int *bash, int *ours,
                              ns_error *err)
{
    ns_arena *a = &s->graph.arena;
    char name[128];
    *bash = n == 1 && !ns_is_plain_line(v[0]);
    if (*bash) {
        *ours = strstr(v[0], "nemo_skills") != NULL;
        return NS_OK;
    }
    JOBS_TRY(n == 1 ? ns_words_split(w, a, v[0], err) : ns_words_add_all(w, a, v, n, err));
    NS_FAIL_IF(!w->n, NS_ERR_CONFIG, "the command is empty");
    *ours = program_name(name, w) || strcmp(w->v[0], "ns") == 0;
    *bash = n == 1 && !*ours; /* builtins, aliases, VAR=x cmd */
    return NS_OK;
}

static ns_status command(ns_submission *s, int t, const char *const *v, size_t n, ns_error *err)
{
    ns_arena *a = &s->graph.arena;
    ns_words w = {0}, here = {0};
    ns_group *g = &s->graph.tasks[t].groups[0];
    int bash, ours;
    JOBS_TRY(read_command(s, v, n, &w, &bash, &ours, err));
    if (bash) return ns_submission_bash(s, t, v[0], err);
    for (size_t i = 0; i < w.n; i++) {
        const char *word = w.v[i];
        if (!g->image) JOBS_TRY(ns_mounts_word(&s->cluster.mounts, a, word, &word, err));
        JOBS_TRY(ns_words_add(&here, a, word, err));
    }
    ns_job_step *step;
    JOBS_TRY(ns_graph_step(&s->graph, g, &step, err));
    return native(s, &step->argv, &here, err);
}

/* Images serve foreign programs, where a runtime is configured. */
static ns_status choose_image(ns_submission *s, const ns_run_cmd_options *o, int t, const char *const *v, size_t n,
                              ns_error *err)
{
    ns_words w = {0};
    int bash, ours;
    const char *image;
    JOBS_TRY(read_command(s, v, n, &w, &bash, &ours, err));
    if (ours) return NS_OK;
    JOBS_TRY(ns_cluster_image(&s->cluster, o->container, &image, err));
    s->graph.tasks[t].groups[0].image = image;
    return image ? ns_submission_note(s, err, "the command runs in the image %s (%s)", image,
                                      s->cluster.container_runtime)
                 : NS_OK;
}

static ns_status build(ns_submission *s, void *options, const ns_parsed *p, ns_error *err)
{
    const ns_run_cmd_options *o = options;
    const char *logs, *ctx = o->common.ctx, *const *v = p->n_positional ? p->positional : &ctx;
    size_t n = p->n_positional ? p->n_positional : 1;
    int t;
    NS_FAIL_IF(!p->n_positional && (!ctx || !*ctx), NS_ERR_CONFIG,
               "there is no command: ns run_cmd [options] COMMAND [WORD ...]");
    NS_FAIL_IF(p->n_positional && ctx && *ctx, NS_ERR_CONFIG, "give the command as words or by --ctx, not both");
    NS_TRY(ns_submission_path(s, "--log_dir", o->common.log_dir, 0, &logs, err), "%s", "run_cmd");
    JOBS_TRY(ns_submission_task(s, s->graph.title, logs, &t, err));
    ns_task *task = &s->graph.tasks[t];
    int slurm = strcmp(s->graph.executor, "slurm") == 0, cpu = task->partition && strstr(task->partition, "cpu");
    task->groups[0].nodes = (int)o->num_nodes;
    task->groups[0].gpus = o->num_gpus >= 0 ? (int)o->num_gpus : slurm && !cpu ? 1 : -1;
    JOBS_TRY(choose_image(s, o, t, v, n, err));
    JOBS_TRY(ns_submission_bash(s, t, o->preprocess_cmd, err));
    JOBS_TRY(command(s, t, v, n, err));
    return ns_submission_bash(s, t, o->postprocess_cmd, err);
}

const ns_pipe ns_pipe_run_cmd = {.name = "run_cmd",
                                 .default_name = "script",
                                 .options = ns_run_cmd_option_table,
                                 .n_options = NS_RUN_CMD_N,
                                 .options_size = sizeof(ns_run_cmd_options),
                                 .positional = 2,
                                 .build = build};
