/* `ns eval` and `ns generate`: graphs of `ns infer` and `ns grade` as they are (greedy, in-process). Graph, options and paths are those
 * of pipelines.md §1.5, §1.6; what needs a serving engine (samples, chunks, servers, judges) is refused by name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "jobs/jobs_priv.h"
#include "jobs/option_rows.h"
#include "jobs/pipes.h"
#include "jobs/proc.h"

#define SERVER(s)                                                                                    \
    ROW_TEXT(s, "model", server.model, NULL, "model to answer with"),                                \
        ROW_CHOICE(s, "server_type", server.type, "native", "native|trtllm|vllm|nemo|openai|sglang", \
                   "native: our engine, in the job; other servers are not available yet"),           \
        ROW_TEXT(s, "server_address", server.address, NULL, "a running server: not available yet"),  \
        ROW_COUNT(s, "server_gpus", server.gpus, NULL, 0, "GPUs of the job"),                        \
        ROW_COUNT(s, "server_nodes", server.nodes, "1", 1, "nodes of a server: only 1"),             \
        ROW_TEXT(s, "server_args", server.args, NULL, "words for a server: not available yet")

const ns_option ns_eval_option_table[NS_EVAL_N] = {
    ROW_NEEDED(ns_eval_options, "output_dir", output_dir, "results go to <output_dir>/eval-results/<benchmark>"),
    ROW_NEEDED(ns_eval_options, "benchmarks", benchmarks, "NAME:SAMPLES[,NAME:SAMPLES...]; 0 samples: greedy only"),
    SERVER(ns_eval_options),
    ROW_COUNT(ns_eval_options, "starting_seed", starting_seed, "0", 0, "first seed of the samples"),
    ROW_TEXT(ns_eval_options, "split", split, "test", "which file of the data set"),
    ROW_COUNT(ns_eval_options, "num_jobs", num_jobs, "-1", -1, "jobs to spread the commands over; -1: one each"),
    ROW_COUNT(ns_eval_options, "num_chunks", num_chunks, NULL, 1, "not available yet"),
    ROW_TEXT(ns_eval_options, "chunk_ids", chunk_ids, NULL, "not available yet"),
    ROW_TEXT(ns_eval_options, "extra_eval_args", extra_eval_args, NULL, "more words for `ns grade`"),
    ROW_SWITCH(ns_eval_options, "skip_greedy", skip_greedy, "false", "no greedy run"),
    ROW_TEXT(ns_eval_options, "extra_datasets", extra_datasets, NULL,
             "folder of data sets: NAME/SPLIT.jsonl (also $NEMO_SKILLS_EXTRA_DATASETS)"),
    NS_COMMON_OPTIONS(ns_eval_options),
};

const ns_option ns_generate_option_table[NS_GENERATE_N] = {
    ROW_NEEDED(ns_generate_options, "output_dir", output_dir, "results go to <output_dir>/<output_prefix>.jsonl"),
    ROW_CHOICE(ns_generate_options, "generation_type", generation_type, "generate", "generate|reward|math_judge",
               "only generate is available"),
    SERVER(ns_generate_options),
    ROW_COUNT(ns_generate_options, "dependent_jobs", dependent_jobs, "0", 0,
              "copies of the job chained behind it, to finish what a time limit cut"),
    ROW_COUNT(ns_generate_options, "num_random_seeds", num_random_seeds, NULL, 1, "samples: not available yet"),
    ROW_TEXT(ns_generate_options, "random_seeds", random_seeds, NULL, "samples: not available yet"),
    ROW_COUNT(ns_generate_options, "starting_seed", starting_seed, "0", 0, "first seed of the samples"),
    ROW_COUNT(ns_generate_options, "num_chunks", num_chunks, NULL, 1, "not available yet"),
    ROW_TEXT(ns_generate_options, "chunk_ids", chunk_ids, NULL, "not available yet"),
    ROW_TEXT(ns_generate_options, "preprocess_cmd", preprocess_cmd, NULL, "bash command line to run before"),
    ROW_TEXT(ns_generate_options, "postprocess_cmd", postprocess_cmd, NULL, "bash command line to run after"),
    ROW_TEXT(ns_generate_options, "eval_args", eval_args, NULL, "grade the answers: words for `ns grade`"),
    ROW_TEXT(ns_generate_options, "output_prefix", output_prefix, "output", "base name of the result"),
    ROW_SWITCH(ns_generate_options, "rerun_done", rerun_done, "false", "also when the result is marked done"),
    ROW_SWITCH(ns_generate_options, "with_sandbox", with_sandbox, "false", "not available yet"),
    NS_COMMON_OPTIONS(ns_generate_options),
};

ns_status ns_check_server(ns_submission *s, const ns_server_options *o, const char *verb, ns_error *err)
{
    NS_FAIL_IF(!o->model, NS_ERR_CONFIG, "missing: --model (model to answer with)");
    NS_FAIL_IF(strcmp(o->type, "openai") == 0 || o->address, NS_ERR_UNSUPPORTED,
               "%s: asking a server that runs elsewhere (--server_address, --server_type=openai) " NS_LATER
               "; --server_type=native answers in the job",
               verb);
    NS_FAIL_IF(o->args && *o->args, NS_ERR_UNSUPPORTED,
               "%s: --server_args are words for a server, and ns answers in the job itself: leave them out", verb);
    NS_FAIL_IF(o->nodes > 1, NS_ERR_UNSUPPORTED, "%s: --server_nodes=%lld: the native engine runs on one node", verb,
               (long long)o->nodes);
    if (strcmp(o->type, "native") == 0) return NS_OK;
    NS_FAIL_IF(o->gpus < 0, NS_ERR_CONFIG, "Need to specify server_gpus if hosting the model");
    return ns_submission_note(
        s, err, "--server_type=%s is not available: ns answers with its own engine (--server_type=native)", o->type);
}

/* What a benchmark is asked with and how it is graded (pipelines.md §5.1); a name that is not here is a math set. */
typedef struct benchmark {
    const char *name, *prompt, *eval_type, *split;
} benchmark;
static const benchmark benchmarks[] = {
    {"mmlu", "generic/general-boxed", "multichoice", NULL},
    {"mmlu-pro", "generic/general-boxed", "multichoice", NULL},
    {"mmlu-redux", "generic/general-boxed", "multichoice", NULL},
    {"gpqa", "generic/general-boxed", "multichoice", "diamond"},
    {"human-eval", NULL, "code", NULL},
    {"mbpp", NULL, "code", NULL},
    {"ifeval", NULL, "if", NULL},
    {"arena-hard", NULL, "arena", NULL},
    {"mt-bench", NULL, "mt-bench", NULL},
    {"answer-judge", NULL, "answer_judgement", NULL},
    {"minif2f", NULL, "lean4-proof", NULL},
    {"proofnet", NULL, "lean4-proof", NULL},
};

static ns_status find_benchmark(benchmark *out, const char *name, ns_error *err)
{
    *out = (benchmark){name, "generic/math", "math", NULL};
    for (size_t i = 0; i < sizeof benchmarks / sizeof benchmarks[0]; i++)
        if (strcmp(benchmarks[i].name, name) == 0) *out = benchmarks[i];
    NS_FAIL_IF(!out->prompt, NS_ERR_UNSUPPORTED,
               "--benchmarks=%s: grading of the type %s " NS_LATER
               "; this one grades math and multichoice (its answers "
               "alone: ns generate)",
               name, out->eval_type);
    return NS_OK;
}

/* Where <name>/<split>.jsonl is; all places tried are in the message. */
static ns_status find_dataset(ns_submission *s, const ns_eval_options *o, const char *name, const char *split,
                              const char **out, ns_error *err)
{
    ns_arena *a = &s->graph.arena;
    const char *extra = o->extra_datasets ? o->extra_datasets : getenv("NEMO_SKILLS_EXTRA_DATASETS"),
               *home = getenv("HOME"), *dirs[3] = {0};
    size_t n = 0;
    if (extra && *extra) NS_TRY(ns_submission_path(s, "--extra_datasets", extra, 0, &dirs[n++], err), "%s", "eval");
    dirs[n++] = ns_arena_printf(a, err, "%s/nemo_skills/dataset", s->graph.workdir);
    if (home) dirs[n++] = ns_arena_printf(a, err, "%s/.ns/datasets", home);
    for (size_t i = 0; i < n; i++) {
        *out = dirs[i] ? ns_arena_printf(a, err, "%s/%s/%s.jsonl", dirs[i], name, split) : NULL;
        JOBS_NEED(*out);
        if (s->graph.ssh.n || ns_path_exists(*out)) return NS_OK;
    }
    NS_FAIL(NS_ERR_INPUT, "benchmark %s: there is no %s/%s.jsonl in %s%s%s%s%s: name its folder with --extra_datasets",
            name, name, split, dirs[0], n > 1 ? ", " : "", n > 1 ? dirs[1] : "", n > 2 ? ", " : "",
            n > 2 ? dirs[2] : "");
}

static ns_status add_eval(ns_submission *s, const ns_eval_options *o, int t, const char *name, const char *model,
                          const char *output, ns_error *err)
{
    ns_arena *a = &s->graph.arena;
    const char *rows, *file = ns_arena_printf(a, err, "%s/eval-results/%s/output.jsonl", output, name);
    ns_job_step *step;
    JOBS_NEED(file);
    benchmark kind;
    JOBS_TRY(find_benchmark(&kind, name, err));
    JOBS_TRY(find_dataset(s, o, name, kind.split && strcmp(o->split, "test") == 0 ? kind.split : o->split, &rows, err));
    JOBS_TRY(ns_graph_step(&s->graph, &s->graph.tasks[t].groups[0], &step, err));
    JOBS_TRY(ns_words_add(&step->argv, a, "mkdir", err));
    JOBS_TRY(ns_words_add(&step->argv, a, "-p", err));
    JOBS_TRY(ns_words_addf(&step->argv, a, err, "%s/eval-results/%s", output, name));
    JOBS_TRY(ns_submission_command(s, t, "infer", &step, err));
    JOBS_TRY(ns_words_add(&step->argv, a, ns_setting(a, "++model", model, err), err));
    JOBS_TRY(ns_words_add(&step->argv, a, ns_setting(a, "++input_file", rows, err), err));
    JOBS_TRY(ns_words_add(&step->argv, a, ns_setting(a, "++output_file", file, err), err));
    if (!ns_words_setting(&s->words, "input_key"))
        JOBS_TRY(ns_words_add(&step->argv, a, ns_setting(a, "++prompt_config", kind.prompt, err), err));
    JOBS_TRY(ns_words_add_all(&step->argv, a, s->words.v, s->words.n, err));
    JOBS_TRY(ns_submission_command(s, t, "grade", &step, err));
    JOBS_TRY(ns_words_add(&step->argv, a, ns_setting(a, "++input_files", file, err), err));
    JOBS_TRY(ns_words_addf(&step->argv, a, err, "++eval_type=%s", kind.eval_type));
    if (o->extra_eval_args) NS_TRY(ns_words_split(&step->argv, a, o->extra_eval_args, err), "--extra_eval_args");
    return ns_submission_carry_mark(s, t, model, ns_arena_printf(a, err, "%s/eval-results/%s", output, name), err);
}

static ns_status read_benchmarks(ns_submission *s, const ns_eval_options *o, ns_words *names, ns_error *err)
{
    const char *p = o->benchmarks;
    NS_FAIL_IF(strpbrk(p, " \t\n"), NS_ERR_CONFIG, "benchmarks should be separated with commas: '%s'", p);
    while (*p) {
        size_t n = strcspn(p, ",");
        const char *colon = memchr(p, ':', n);
        NS_FAIL_IF(!colon || colon == p || strspn(colon + 1, "0123456789") != n - (size_t)(colon - p) - 1 ||
                       colon[1] == ',' || !colon[1],
                   NS_ERR_CONFIG, "--benchmarks: '%.*s': expected NAME:SAMPLES", (int)n, p);
        NS_FAIL_IF(memchr(p, '/', (size_t)(colon - p)) || p[0] == '.', NS_ERR_CONFIG,
                   "--benchmarks: '%.*s' is not a name", (int)(colon - p), p);
        NS_FAIL_IF(atol(colon + 1) > 0, NS_ERR_UNSUPPORTED,
                   "--benchmarks=%.*s: samples need the serving engine, which " NS_LATER "; %.*s:0 answers greedily",
                   (int)n, p, (int)(colon - p), p);
        JOBS_TRY(
            ns_words_add(names, &s->graph.arena, ns_arena_strndup(&s->graph.arena, p, (size_t)(colon - p), err), err));
        p += n + (p[n] == ',');
    }
    NS_FAIL_IF(!names->n, NS_ERR_CONFIG, "--benchmarks is empty: NAME:SAMPLES");
    return NS_OK;
}

static ns_status build_eval(ns_submission *s, void *options, const ns_parsed *p, ns_error *err)
{
    const ns_eval_options *o = options;
    ns_arena *a = &s->graph.arena;
    ns_words names = {0};
    const char *output, *model, *logs;
    NS_FAIL_IF(o->num_chunks >= 0 || o->chunk_ids, NS_ERR_UNSUPPORTED,
               "--num_chunks, --chunk_ids: answering in chunks " NS_LATER);
    NS_FAIL_IF(o->skip_greedy, NS_ERR_UNSUPPORTED, "--skip_greedy: answering by samples alone " NS_LATER);
    JOBS_TRY(ns_check_server(s, &o->server, "eval", err));
    JOBS_TRY(read_benchmarks(s, o, &names, err));
    JOBS_TRY(ns_submission_words(s, p->overrides, p->n_overrides, err));
    NS_TRY(ns_submission_path(s, "--output_dir", o->output_dir, 0, &output, err), "%s", "eval");
    NS_TRY(ns_submission_path(s, "--model", o->server.model, 1, &model, err), "%s", "eval");
    NS_TRY(ns_submission_path(s, "--log_dir", o->common.log_dir, 0, &logs, err), "%s", "eval");
    if (!logs) logs = ns_arena_printf(a, err, "%s/eval-logs", output);
    JOBS_NEED(logs);
    size_t n = o->num_jobs > 0 && (size_t)o->num_jobs < names.n ? (size_t)o->num_jobs : names.n;
    for (size_t i = 0; i < n; i++) {
        int t;
        JOBS_TRY(ns_submission_task(s, ns_arena_printf(a, err, "%s-%zu", s->graph.title, i), logs, &t, err));
        s->graph.tasks[t].groups[0].gpus = (int)o->server.gpus;
        for (size_t k = i; k < names.n; k += n) JOBS_TRY(add_eval(s, o, t, names.v[k], model, output, err));
    }
    return NS_OK;
}

static ns_status simple_step(ns_submission *s, int t, const char *x, const char *y, const char *z, ns_error *err)
{
    ns_job_step *step;
    JOBS_TRY(ns_graph_step(&s->graph, &s->graph.tasks[t].groups[0], &step, err));
    JOBS_TRY(ns_words_add(&step->argv, &s->graph.arena, x, err));
    if (y) JOBS_TRY(ns_words_add(&step->argv, &s->graph.arena, y, err));
    return ns_words_add(&step->argv, &s->graph.arena, z, err);
}

static ns_status add_generate(ns_submission *s, const ns_generate_options *o, int t, const char *model,
                              const char *output, const char *file, ns_error *err)
{
    ns_arena *a = &s->graph.arena;
    ns_job_step *step;
    JOBS_TRY(ns_submission_bash(s, t, o->preprocess_cmd, err));
    JOBS_TRY(simple_step(s, t, "mkdir", "-p", output, err));
    JOBS_TRY(ns_submission_command(s, t, "infer", &step, err));
    JOBS_TRY(ns_words_add(&step->argv, a, "++skip_filled=True", err));
    JOBS_TRY(ns_words_add(&step->argv, a, ns_setting(a, "++model", model, err), err));
    JOBS_TRY(ns_words_add(&step->argv, a, ns_setting(a, "++output_file", file, err), err));
    JOBS_TRY(ns_words_add_all(&step->argv, a, s->words.v, s->words.n, err));
    if (o->eval_args) {
        JOBS_TRY(ns_submission_command(s, t, "grade", &step, err));
        JOBS_TRY(ns_words_add(&step->argv, a, ns_setting(a, "++input_files", file, err), err));
        NS_TRY(ns_words_split(&step->argv, a, o->eval_args, err), "--eval_args");
    }
    JOBS_TRY(simple_step(s, t, "touch", NULL, ns_arena_printf(a, err, "%s.done", file), err));
    return ns_submission_bash(s, t, o->postprocess_cmd, err);
}

static ns_status build_generate(ns_submission *s, void *options, const ns_parsed *p, ns_error *err)
{
    const ns_generate_options *o = options;
    ns_arena *a = &s->graph.arena;
    const char *output, *model, *logs, *file, *done;
    NS_FAIL_IF(strcmp(o->generation_type, "generate"), NS_ERR_UNSUPPORTED, "--generation_type=%s " NS_LATER,
               o->generation_type);
    NS_FAIL_IF(o->num_random_seeds >= 0 || o->random_seeds, NS_ERR_UNSUPPORTED,
               "--num_random_seeds, --random_seeds: samples need the serving engine, which " NS_LATER
               "; without them the answers are greedy");
    NS_FAIL_IF(o->num_chunks >= 0 || o->chunk_ids, NS_ERR_UNSUPPORTED,
               "--num_chunks, --chunk_ids: answering in chunks " NS_LATER);
    NS_FAIL_IF(o->with_sandbox, NS_ERR_UNSUPPORTED, "--with_sandbox: the sandbox " NS_LATER);
    NS_FAIL_IF(strchr(o->output_prefix, '/') || !*o->output_prefix, NS_ERR_CONFIG,
               "--output_prefix=%s: a base name is wanted", o->output_prefix);
    JOBS_TRY(ns_check_server(s, &o->server, "generate", err));
    JOBS_TRY(ns_submission_words(s, p->overrides, p->n_overrides, err));
    NS_FAIL_IF(ns_words_setting(&s->words, "dataset"), NS_ERR_UNSUPPORTED,
               "++dataset: name the rows with ++input_file=FILE");
    NS_TRY(ns_submission_path(s, "--output_dir", o->output_dir, 0, &output, err), "%s", "generate");
    NS_TRY(ns_submission_path(s, "--model", o->server.model, 1, &model, err), "%s", "generate");
    NS_TRY(ns_submission_path(s, "--log_dir", o->common.log_dir, 0, &logs, err), "%s", "generate");
    if (!logs) logs = ns_arena_printf(a, err, "%s/generation-logs", output);
    file = ns_arena_printf(a, err, "%s/%s.jsonl", output, o->output_prefix);
    done = ns_arena_printf(a, err, "%s/%s.jsonl.done", output, o->output_prefix);
    JOBS_NEED(logs && file ? done : NULL);
    if (!o->rerun_done && ns_path_exists(done))
        return ns_submission_note(s, err, "%s exists: nothing to do (--rerun_done to do it again)", done);
    int last = -1;
    for (int64_t j = 0; j <= o->dependent_jobs; j++) {
        int t;
        JOBS_TRY(ns_submission_task(s, s->graph.title, logs, &t, err));
        s->graph.tasks[t].groups[0].gpus = (int)o->server.gpus;
        if (last >= 0) JOBS_TRY(ns_graph_edge(&s->graph, t, last, NS_AFTER_ANY, err));
        JOBS_TRY(add_generate(s, o, t, model, output, file, err));
        last = t;
    }
    return NS_OK;
}

const ns_pipe ns_pipe_eval = {.name = "eval",
                              .default_name = "eval",
                              .options = ns_eval_option_table,
                              .n_options = NS_EVAL_N,
                              .options_size = sizeof(ns_eval_options),
                              .overrides = 1,
                              .build = build_eval};
const ns_pipe ns_pipe_generate = {.name = "generate",
                                  .default_name = "generate",
                                  .options = ns_generate_option_table,
                                  .n_options = NS_GENERATE_N,
                                  .options_size = sizeof(ns_generate_options),
                                  .overrides = 1,
                                  .build = build_generate};
