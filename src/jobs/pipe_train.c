/* `ns train`: num_training_jobs links of `ns sft`, all with the same command (each resumes from the newest -last checkpoint), then
 * one `ns average`. pipelines.md §1.3. Edges: link to link and last link to averaging afterany: a link that crashed or was stopped
 * is continued by the next, and what there is gets averaged and marked. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "jobs/jobs_priv.h"
#include "jobs/option_rows.h"
#include "jobs/pipes.h"

const ns_option ns_train_option_table[NS_TRAIN_N] = {
    ROW_TEXT(ns_train_options, "output_dir", output_dir, NULL, "where everything of this training goes"),
    ROW_TEXT(ns_train_options, "nemo_model", nemo_model, NULL, "model to start from"),
    ROW_TEXT(ns_train_options, "final_nemo_path", final_nemo_path, NULL,
             "the averaged model (default: <output_dir>/model-averaged-nemo)"),
    ROW_TEXT(ns_train_options, "training_data", training_data, NULL, "training rows"),
    ROW_TEXT(ns_train_options, "validation_data", validation_data, NULL,
             "validation rows (default: the training rows)"),
    ROW_COUNT(ns_train_options, "num_nodes", num_nodes, "1", 1, "nodes"),
    ROW_COUNT(ns_train_options, "num_gpus", num_gpus, NULL, 0, "GPUs, and training processes, a node"),
    ROW_COUNT(ns_train_options, "tp", tp, NULL, 1,
              "tensor parallel size (default: num_gpus; ++model.tensor_model_parallel_size has the last word)"),
    ROW_COUNT(ns_train_options, "num_training_jobs", num_training_jobs, "1", 0,
              "jobs in the chain; 0: only average what is there"),
    ROW_CHOICE(ns_train_options, "training_algo", training_algo, "sft", "sft|dpo|rm|grpo",
               "what to train: only sft is available"),
    ROW_TEXT(ns_train_options, "config_name", config_name, NULL,
             "YAML file of settings (default: sft_config, the settings' own defaults)"),
    ROW_TEXT(ns_train_options, "config_path", config_path, NULL, "folder of config_name"),
    ROW_TEXT(ns_train_options, "wandb_project", wandb_project, "nemo-skills", "project of the W&B run"),
    ROW_SWITCH(ns_train_options, "disable_wandb", disable_wandb, "false", "no W&B run"),
    ROW_SWITCH(ns_train_options, "with_sandbox", with_sandbox, "false", "not available yet"),
    ROW_TEXT(ns_train_options, "average_steps", average_steps, NULL,
             "checkpoints to average: all (default) or 1000,5000; empty: do not average"),
    ROW_SWITCH(ns_train_options, "save_last_ckpt", save_last_ckpt, "false",
               "take the last checkpoint instead of the average"),
    ROW_TEXT(ns_train_options, "server_model", server_model, NULL, "judge of grpo: not available yet"),
    ROW_TEXT(ns_train_options, "server_address", server_address, NULL, "judge of grpo: not available yet"),
    ROW_TEXT(ns_train_options, "server_type", server_type, NULL, "judge of grpo: not available yet"),
    ROW_COUNT(ns_train_options, "server_gpus", server_gpus, NULL, 0, "judge of grpo: not available yet"),
    ROW_COUNT(ns_train_options, "server_nodes", server_nodes, "1", 1, "judge of grpo: not available yet"),
    ROW_TEXT(ns_train_options, "server_args", server_args, NULL, "judge of grpo: not available yet"),
    NS_COMMON_OPTIONS(ns_train_options),
};

static ns_status check(const ns_train_options *o, ns_error *err)
{
    NS_FAIL_IF(!o->output_dir, NS_ERR_CONFIG, "missing: --output_dir (where everything of this training goes)");
    NS_FAIL_IF(!o->common.expname || !*o->common.expname, NS_ERR_CONFIG, "missing: --expname (name of the experiment)");
    if (o->num_training_jobs > 0) {
        NS_FAIL_IF(!o->training_data, NS_ERR_CONFIG, "training_data is required when num_training_jobs > 0");
        NS_FAIL_IF(!o->nemo_model, NS_ERR_CONFIG, "missing: --nemo_model (model to start from)");
        NS_FAIL_IF(o->num_gpus < 0, NS_ERR_CONFIG, "missing: --num_gpus (GPUs, and training processes, a node)");
    }
    NS_FAIL_IF(strcmp(o->training_algo, "sft"), NS_ERR_UNSUPPORTED,
               "--training_algo=%s " NS_LATER "; this one trains sft", o->training_algo);
    NS_FAIL_IF(o->server_model || o->server_address || o->server_type || o->server_args || o->server_gpus >= 0,
               NS_ERR_UNSUPPORTED, "--server_*: the judge of grpo " NS_LATER);
    NS_FAIL_IF(o->with_sandbox, NS_ERR_UNSUPPORTED, "--with_sandbox: the sandbox " NS_LATER);
    if (o->average_steps && *o->average_steps) {
        NS_FAIL_IF(o->save_last_ckpt, NS_ERR_CONFIG,
                   "--save_last_ckpt takes the last checkpoint, --average_steps averages: give one of them");
        NS_FAIL_IF(strchr(o->average_steps, ' ') != NULL, NS_ERR_CONFIG,
                   "average steps should be separated with commas: '%s'", o->average_steps);
    }
    return NS_OK;
}

const char *ns_setting(ns_arena *a, const char *key, const char *text, ns_error *err)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./:@%";
    if (strspn(text, plain) == strlen(text) && (*text == '/' || *text == '.'))
        return ns_arena_printf(a, err, "%s=%s", key, text);
    ns_buf b = {0};
    ns_status st = ns_buf_printf(&b, err, "%s='", key);
    for (const char *p = text; *p && st == NS_OK; p++) {
        size_t slashes = strspn(p, "\\"); /* doubled only in front of a quote or ${, where they would act */
        if (slashes && (p[slashes] == '\'' || p[slashes] == 0 || (p[slashes] == '$' && p[slashes + 1] == '{'))) {
            for (size_t i = 0; i < slashes && st == NS_OK; i++) st = ns_buf_adds(&b, "\\\\", err);
            p += slashes - 1;
            continue;
        }
        if (slashes) {
            st = ns_buf_add(&b, p, slashes, err);
            p += slashes - 1;
            continue;
        }
        if (*p == '\'' || (*p == '$' && p[1] == '{')) st = ns_buf_addc(&b, '\\', err);
        if (st == NS_OK) st = ns_buf_addc(&b, *p, err);
    }
    if (st == NS_OK) st = ns_buf_addc(&b, '\'', err);
    char *out = st == NS_OK ? ns_arena_strdup(a, b.data, err) : NULL;
    ns_buf_free(&b);
    return out;
}

typedef struct train_paths {
    const char *output, *model, *data, *validation, *final, *log_dir, *run, *config_path;
} train_paths;

static ns_status find_paths(ns_submission *s, const ns_train_options *o, train_paths *p, ns_error *err)
{
    ns_arena *a = &s->graph.arena;
    int needed = o->num_training_jobs > 0;
    NS_TRY(ns_submission_path(s, "--output_dir", o->output_dir, 0, &p->output, err), "%s", "train");
    NS_TRY(ns_submission_path(s, "--nemo_model", o->nemo_model, needed, &p->model, err), "%s", "train");
    NS_TRY(ns_submission_path(s, "--training_data", o->training_data, 0, &p->data, err), "%s", "train");
    NS_TRY(ns_submission_path(s, "--validation_data", o->validation_data, 0, &p->validation, err), "%s", "train");
    NS_TRY(ns_submission_path(s, "--final_nemo_path", o->final_nemo_path, 0, &p->final, err), "%s", "train");
    NS_TRY(ns_submission_path(s, "--log_dir", o->common.log_dir, 0, &p->log_dir, err), "%s", "train");
    NS_TRY(ns_submission_path(s, "--config_path", o->config_path, 0, &p->config_path, err), "%s", "train");
    size_t n = p->data ? strlen(p->data) : 0; /* a pack is three files behind one name */
    int pack = n > 4 && strcmp(p->data + n - 4, ".npy") == 0;
    if (needed && !pack)
        NS_TRY(ns_submission_path(s, "--training_data", o->training_data, 1, &p->data, err), "%s", "train");
    if (!p->final) p->final = ns_arena_printf(a, err, "%s/model-averaged-nemo", p->output);
    if (!p->log_dir) p->log_dir = p->output;
    p->run = ns_arena_printf(a, err, "%s/training", p->output);
    JOBS_NEED(p->final && p->run ? p->run : NULL);
    return NS_OK;
}

/* W&B as pipelines.md §1.3 wants it, without ever stopping a training: said now, done beside it. */
static ns_status choose_wandb(ns_submission *s, const ns_train_options *o, ns_error *err)
{
    if (o->disable_wandb || o->num_training_jobs == 0) return NS_OK;
    int key = 0;
    for (size_t i = 0; i < s->cluster.env.n; i++) key |= strncmp(s->cluster.env.v[i], "WANDB_API_KEY=", 14) == 0;
    if (!key)
        return ns_submission_note(
            s, err,
            "WANDB_API_KEY is not set: no W&B run; metrics.jsonl and TensorBoard files are written (--disable_wandb "
            "says so on purpose)");
    s->wandb_project = o->wandb_project;
    return ns_submission_note(
        s, err, "W&B: project %s, run %s, synced by a process beside each job where the command wandb is installed",
        o->wandb_project, s->graph.title);
}

static ns_status sft_words(ns_submission *s, const ns_train_options *o, const train_paths *p, ns_words *w,
                           ns_error *err)
{
    ns_arena *a = &s->graph.arena;
    if (o->config_name) JOBS_TRY(ns_words_addf(w, a, err, "--config-name=%s", o->config_name));
    if (p->config_path) JOBS_TRY(ns_words_addf(w, a, err, "--config-path=%s", p->config_path));
    int64_t devices = o->num_gpus > 0 ? o->num_gpus : 1;
    JOBS_TRY(
        ns_words_addf(w, a, err, "++model.tensor_model_parallel_size=%lld", (long long)(o->tp > 0 ? o->tp : devices)));
    JOBS_TRY(ns_words_addf(w, a, err, "trainer.devices=%lld", (long long)devices));
    JOBS_TRY(ns_words_addf(w, a, err, "trainer.num_nodes=%lld", (long long)o->num_nodes));
    JOBS_TRY(ns_words_add(w, a, "exp_manager.create_wandb_logger=False", err));
    JOBS_TRY(ns_words_add(w, a, "++exp_manager.create_tensorboard_logger=True", err));
    JOBS_TRY(ns_words_add(w, a, ns_setting(a, "exp_manager.name", s->graph.title, err), err));
    JOBS_TRY(ns_words_add(w, a, ns_setting(a, "exp_manager.explicit_log_dir", p->run, err), err));
    JOBS_TRY(ns_words_add(w, a, ns_setting(a, "exp_manager.exp_dir", p->run, err), err));
    if (s->limit_s > 0) {
        long t = (long)floor(s->limit_s - s->margin_s);
        JOBS_TRY(ns_words_addf(w, a, err, "++exp_manager.max_time_per_run=%02ld:%02ld:%02ld:%02ld", t / 86400,
                               t / 3600 % 24, t / 60 % 60, t % 60));
    }
    JOBS_TRY(ns_words_add(w, a, ns_setting(a, "++model.data.train_ds.file_path", p->data, err), err));
    JOBS_TRY(ns_words_add(
        w, a, ns_setting(a, "++model.data.validation_ds.file_path", p->validation ? p->validation : p->data, err),
        err));
    JOBS_TRY(ns_words_add(w, a, ns_setting(a, "model.restore_from_path", p->model, err), err));
    return ns_words_add_all(w, a, s->words.v, s->words.n, err);
}

static ns_status add_average(ns_submission *s, const ns_train_options *o, const train_paths *p, int last, ns_error *err)
{
    ns_arena *a = &s->graph.arena;
    int t;
    ns_job_step *step;
    const char *steps = o->save_last_ckpt ? "last" : o->average_steps ? o->average_steps : "all";
    if (!*steps) return NS_OK;
    if (o->num_training_jobs == 0 && !s->n_outer) { /* known now: there must be something to average */
        const char *dir = ns_arena_printf(a, err, "%s/checkpoints", p->run);
        JOBS_NEED(dir);
        NS_FAIL_IF(!s->graph.ssh.n && !ns_path_is_dir(dir), NS_ERR_INPUT,
                   "%s: there is no such folder: nothing to average", dir);
    }
    const char *logs = ns_arena_printf(a, err, "%s/prepare-eval-logs", p->log_dir);
    JOBS_NEED(logs);
    JOBS_TRY(ns_submission_task(s, ns_arena_printf(a, err, "%s-prepare-eval", s->graph.title), logs, &t, err));
    s->graph.tasks[t].groups[0].gpus = o->num_gpus > 0 && o->num_training_jobs > 0 ? (int)o->num_gpus : -1;
    if (last >= 0) JOBS_TRY(ns_graph_edge(&s->graph, t, last, NS_AFTER_ANY, err));
    JOBS_TRY(ns_submission_command(s, t, "average", &step, err));
    JOBS_TRY(ns_words_addf(&step->argv, a, err, "--input=%s/checkpoints", p->run));
    JOBS_TRY(ns_words_addf(&step->argv, a, err, "--output=%s", p->final));
    JOBS_TRY(ns_words_addf(&step->argv, a, err, "--steps=%s", steps));
    JOBS_TRY(ns_words_add(&step->argv, a, "--to=nemo", err));
    return ns_words_add(&step->argv, a, "--replace", err);
}

static ns_status build(ns_submission *s, void *options, const ns_parsed *p, ns_error *err)
{
    const ns_train_options *o = options;
    train_paths paths = {0};
    ns_arena *a = &s->graph.arena;
    JOBS_TRY(check(o, err));
    JOBS_TRY(ns_submission_words(s, p->overrides, p->n_overrides, err));
    JOBS_TRY(find_paths(s, o, &paths, err));
    JOBS_TRY(choose_wandb(s, o, err));
    if (o->num_training_jobs > 0 && o->tp < 0 && o->num_gpus > 1 &&
        !ns_words_setting(&s->words, "model.tensor_model_parallel_size"))
        JOBS_TRY(
            ns_submission_note(s, err,
                               "tensor parallel size %lld, the GPUs of a node, as documented: where the model fits "
                               "on one GPU, --tp=1 is faster",
                               (long long)o->num_gpus));
    const char *logs = ns_arena_printf(a, err, "%s/training-logs", paths.log_dir);
    JOBS_NEED(logs);
    int last = -1;
    for (int64_t j = 0; j < o->num_training_jobs; j++) {
        int t;
        ns_job_step *step;
        JOBS_TRY(ns_submission_task(
            s, ns_arena_printf(a, err, "%s-%s-%lld", s->graph.title, o->training_algo, (long long)j), logs, &t, err));
        ns_task *task = &s->graph.tasks[t];
        task->progress = paths.run;
        task->groups[0].nodes = (int)o->num_nodes;
        task->groups[0].gpus = (int)o->num_gpus;
        task->groups[0].tasks = strcmp(s->graph.executor, "slurm") == 0 && o->num_gpus > 0 ? (int)o->num_gpus : 1;
        if (last >= 0) JOBS_TRY(ns_graph_edge(&s->graph, t, last, NS_AFTER_ANY, err));
        JOBS_TRY(ns_submission_command(s, t, o->training_algo, &step, err));
        step->stop_ok = 1;
        JOBS_TRY(sft_words(s, o, &paths, &step->argv, err));
        last = t;
    }
    return add_average(s, o, &paths, last, err);
}

const ns_pipe ns_pipe_train = {.name = "train",
                               .default_name = "train",
                               .options = ns_train_option_table,
                               .n_options = NS_TRAIN_N,
                               .options_size = sizeof(ns_train_options),
                               .overrides = 1,
                               .build = build};
