/* `ns average`: the mean of the checkpoints of a run, as a model folder. Says which steps went in and which were evicted, and whether
 * the run has come to its last step. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "ckpt/model_io.h"
#include "ckpt/scan.h"
#include "cli/cli.h"
#include "jobs/graph.h"

typedef struct average_options {
    const char *input, *output, *to, *nemo_format, *model;
    double ema;
    ns_opt_list steps;
    int force, replace;
} average_options;

#define AT(field) offsetof(average_options, field)
static const ns_option opts[] = {
    {.key = "input",
     .flag = 1,
     .short_name = 'i',
     .type = NS_OPT_STRING,
     .at = AT(input),
     .help = "folder of checkpoints (<output_dir>/training/checkpoints)"},
    {.key = "output",
     .flag = 1,
     .short_name = 'o',
     .type = NS_OPT_STRING,
     .at = AT(output),
     .help = "model folder to make"},
    {.key = "steps",
     .flag = 1,
     .type = NS_OPT_LIST,
     .at = AT(steps),
     .def = "all",
     .help = "all | 1000,5000 | 1000-5000 | last | last:N (the newest N)"},
    {.key = "to",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(to),
     .def = "hf",
     .choices = "hf|nemo",
     .help = "layout of the model: Hugging Face or NeMo folder"},
    {.key = "nemo-format",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(nemo_format),
     .def = "torch_dist",
     .choices = "torch_dist|zarr",
     .help = "how the weights lie in a NeMo folder"},
    {.key = "ema",
     .flag = 1,
     .type = NS_OPT_FLOAT,
     .at = AT(ema),
     .def = "0",
     .min = 0,
     .max = 0.999999,
     .help = "exponential mean in order of step, of this decay: e = ema * e + (1 - ema) * checkpoint; 0: the mean"},
    {.key = "model",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(model),
     .help = "model that gives configuration and tokenizer, for checkpoints without (NeMo's training checkpoints)"},
    {.key = "force",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(force),
     .def = "false",
     .help = "remove an existing model at --output first"},
    {.key = "replace",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(replace),
     .def = "false",
     .help = "swap with an existing model of ours at --output when done; the old one stays as OUTPUT.previous"},
};

/* The folder of checkpoints of a run may be named by the run's folder too. */
static const char *find_checkpoints(const char *dir, char out[4096])
{
    static const char *const below[] = {"training/checkpoints", "checkpoints"};
    for (size_t i = 0; i < sizeof below / sizeof below[0]; i++) {
        int n = snprintf(out, 4096, "%s/%s", dir, below[i]);
        if (n > 0 && n < 4096 && ns_path_is_dir(out)) return out;
    }
    return dir;
}

static ns_status clear_output(const average_options *o, const char *output, ns_error *err)
{
    char config[4096];
    if (!o->force || !ns_path_exists(output)) return NS_OK;
    int n = snprintf(config, sizeof config, "%s/model_config.yaml", output);
    if (n > 0 && n < (int)sizeof config && !ns_path_exists(config))
        n = snprintf(config, sizeof config, "%s/config.json", output);
    NS_FAIL_IF(n < 0 || n >= (int)sizeof config || !ns_path_exists(config), NS_ERR_INPUT,
               "%s exists and is not a model folder (no config.json or model_config.yaml): remove it by hand", output);
    return ns_remove_tree(output, err);
}

static void print_steps(const char *title, const int64_t *steps, int n, int json)
{
    printf(json ? "\"%s\": [" : "%s: ", title);
    for (int i = 0; i < n; i++) printf("%s%lld", i ? ", " : "", (long long)steps[i]);
    printf(json ? "]" : "\n");
}

static void report(const ns_average_report *r, const char *output, double ema, const ns_parsed *p)
{
    if (p->json) {
        printf("{\"n\": %d, ", r->n_used);
        print_steps("steps", r->steps_used, r->n_used, 1);
        printf(", ");
        print_steps("evicted", r->steps_evicted, r->n_evicted, 1);
        printf("}\n");
        return;
    }
    if (p->quiet) return;
    printf("%s: ", output);
    if (ema > 0) printf("exponential mean (decay %g) of ", ema);
    printf("%s%d checkpoint%s\n", ema > 0 ? "" : "mean of ", r->n_used, r->n_used == 1 ? "" : "s");
    print_steps("steps", r->steps_used, r->n_used, 0);
    if (r->n_evicted) print_steps("not included, evicted by save_top_k", r->steps_evicted, r->n_evicted, 0);
}

/* Where the run stands, and whether only -last is there (stopped before its first whole checkpoint). */
typedef struct run_end {
    int64_t step, of;
    int only_last;
} run_end;

static ns_status look_at_run(run_end *r, const char *dir, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("average");
    ns_ckpt_entry *e = NULL;
    size_t n = 0, n_last = 0;
    ns_status st = ns_ckpt_scan(&e, &n, dir, &a, err);
    for (size_t i = 0; i < n; i++) n_last += (size_t)e[i].is_last;
    if (n) *r = (run_end){e[n - 1].state.step, e[n - 1].state.schedule_max_steps, n_last == n};
    ns_arena_free(&a);
    return st;
}

/* The command that submitted this job, from the experiment's record (MARK is .../state/<n>): typed again, it adds jobs. */
static void print_command(const char *mark)
{
    char path[4096];
    ns_graph g;
    ns_error damaged = NS_ERROR_INIT;
    const char *slash = strrchr(mark, '/');
    int n = snprintf(path, sizeof path, "%.*s/../experiment.json", (int)(slash ? slash - mark : 0), mark);
    if (n < 0 || n >= (int)sizeof path || ns_graph_read(&g, path, &damaged) != NS_OK) return;
    printf("this command adds jobs to it:\n  %s\n", g.command);
    ns_graph_free(&g);
}

/* A run that ended early must not look like one that did not: in the log, beside the model, and for `ns status`. */
static ns_status mark_unfinished(const run_end *r, const char *model, ns_error *err)
{
    char text[200], path[4096];
    const char *mark = getenv("NS_MARK"); /* a job: base name of its marks (jobs/store.h) */
    if (!r->of || r->step >= r->of) return NS_OK;
    int n = snprintf(text, sizeof text, "unfinished: step %lld of %lld", (long long)r->step, (long long)r->of);
    printf("%s\n", text);
    if (mark && *mark) print_command(mark);
    int m = snprintf(path, sizeof path, "%s/UNFINISHED", model);
    NS_FAIL_IF(m < 0 || m >= (int)sizeof path, NS_ERR_INPUT, "--output is too long");
    NS_TRY(ns_file_replace(path, text, (size_t)n, err), "mark");
    snprintf(path, sizeof path, "%s.note", mark ? mark : "");
    return mark && *mark ? ns_file_replace(path, text, (size_t)n, err) : NS_OK;
}

/* OUTPUT.new becomes OUTPUT in one step; what was there stays as OUTPUT.previous. */
static ns_status swap_in(const char *fresh, const char *output, ns_error *err)
{
    char previous[4096];
    int n = snprintf(previous, sizeof previous, "%s.previous", output);
    NS_FAIL_IF(n < 0 || n >= (int)sizeof previous, NS_ERR_INPUT, "--output is too long");
    if (!ns_path_exists(output)) {
        NS_FAIL_IF(rename(fresh, output) != 0, NS_ERR_IO, "cannot make %s: %s", output, strerror(errno));
        return NS_OK;
    }
    NS_TRY(ns_remove_tree(previous, err), "remove %s", previous);
    if (renameat2(AT_FDCWD, fresh, AT_FDCWD, output, RENAME_EXCHANGE) == 0) {
        NS_FAIL_IF(rename(fresh, previous) != 0, NS_ERR_IO, "cannot make %s: %s", previous, strerror(errno));
        return NS_OK;
    }
    /* a file system that cannot exchange: between the two the name is missing, and both models are complete */
    NS_FAIL_IF(rename(output, previous) != 0 || rename(fresh, output) != 0, NS_ERR_IO, "cannot replace %s: %s", output,
               strerror(errno));
    return NS_OK;
}

static ns_status average(const average_options *o, const char *input, const char *output, const char *steps,
                         ns_average_report *r, ns_error *err)
{
    char below[4096], fresh[4096];
    run_end end = {0};
    const char *dir = find_checkpoints(input, below);
    NS_TRY(look_at_run(&end, dir, err), "look into %s", dir);
    if (end.only_last && strcmp(steps, "all") == 0) {
        printf("no whole checkpoint yet: taking what the last stop saved\n");
        steps = "last";
    }
    NS_TRY(clear_output(o, output, err), "%s", "output");
    snprintf(fresh, sizeof fresh, "%s%s", output, o->replace ? ".new" : "");
    if (o->replace) {
        NS_FAIL_IF(ns_path_exists(output) && !ns_dir_is_done(output, 0, NULL), NS_ERR_INPUT,
                   "%s exists and is not a finished model of ours: remove it by hand", output);
        NS_FAIL_IF(strlen(output) + 16 > sizeof fresh, NS_ERR_INPUT, "--output is too long");
        if (ns_dir_is_done(fresh, 0, NULL))
            NS_TRY(ns_remove_tree(fresh, err), "remove %s", fresh); /* of a killed run */
    }
    const ns_average_args a = {dir, steps, fresh, o->to[0] == 'n' ? o->nemo_format : NULL, o->ema, o->model};
    NS_TRY(ns_average_models(&a, r, err), "%s", "average");
    NS_TRY(mark_unfinished(&end, fresh, err), "mark");
    return o->replace ? swap_in(fresh, output, err) : NS_OK;
}

static int run(void *options, ns_parsed *p)
{
    const average_options *o = options;
    ns_error err = NS_ERROR_INIT;
    ns_average_report r;
    ns_buf steps = {0};
    size_t at = 0;
    const char *input = o->input ? o->input : at < p->n_positional ? p->positional[at++] : NULL;
    const char *output = o->output ? o->output : at < p->n_positional ? p->positional[at++] : NULL;
    ns_status st = NS_OK;
    if (!input || !output || at < p->n_positional) {
        st = ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, input && output ? "'%s' is one word too many" : "%s",
                          input && output ? p->positional[at] : "give --input DIR and --output DIR");
    }
    for (size_t i = 0; st == NS_OK && i < o->steps.n; i++) {
        st = ns_buf_printf(&steps, &err, "%s%s", i ? "," : "", o->steps.v[i]);
    }
    if (st == NS_OK) st = average(o, input, output, steps.data ? steps.data : "all", &r, &err);
    ns_buf_free(&steps);
    if (st != NS_OK) return ns_cli_fail("average", &err);
    report(&r, output, o->ema, p);
    return 0;
}

const ns_verb ns_verb_average = {
    .name = "average",
    .group = "models",
    .summary = "average checkpoints of a run, or models of any format, into one model",
    .usage =
        "ns average --input CHECKPOINTS --output MODEL [--steps all|1000,5000|1000-5000|last|last:N] [--ema DECAY]",
    .examples = "ns average --input run1/training/checkpoints --output run1/model-averaged\n"
                "ns average run1 run1/model-averaged --steps last:3\n"
                "ns average --input nemo-run/checkpoints --model base-nemo --output averaged --to nemo --ema 0.9",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(average_options),
    .allow_positional = 1,
    .run = run,
};
