/* `ns average`: the mean of the checkpoints of a run, as a model folder. Says which steps went in and which were evicted. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "ckpt/model_io.h"
#include "cli/cli.h"

typedef struct average_options {
    const char *input, *output;
    ns_opt_list steps;
    int force;
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
    {.key = "force",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(force),
     .def = "false",
     .help = "remove an existing model at --output first"},
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
    int n = snprintf(config, sizeof config, "%s/config.json", output);
    NS_FAIL_IF(n < 0 || n >= (int)sizeof config || !ns_path_exists(config), NS_ERR_INPUT,
               "%s exists and is not a model folder (no config.json): remove it by hand", output);
    return ns_remove_tree(output, err);
}

static void print_steps(const char *title, const int64_t *steps, int n, int json)
{
    printf(json ? "\"%s\": [" : "%s: ", title);
    for (int i = 0; i < n; i++) printf("%s%lld", i ? ", " : "", (long long)steps[i]);
    printf(json ? "]" : "\n");
}

static void report(const ns_average_report *r, const char *output, const ns_parsed *p)
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
    printf("%s: mean of %d checkpoint%s\n", output, r->n_used, r->n_used == 1 ? "" : "s");
    print_steps("steps", r->steps_used, r->n_used, 0);
    if (r->n_evicted) print_steps("not included, evicted by save_top_k", r->steps_evicted, r->n_evicted, 0);
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
    char below[4096];
    ns_status st = NS_OK;
    if (!input || !output || at < p->n_positional) {
        st = ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, input && output ? "'%s' is one word too many" : "%s",
                          input && output ? p->positional[at] : "give --input DIR and --output DIR");
    }
    for (size_t i = 0; st == NS_OK && i < o->steps.n; i++) {
        st = ns_buf_printf(&steps, &err, "%s%s", i ? "," : "", o->steps.v[i]);
    }
    if (st == NS_OK) st = clear_output(o, output, &err);
    if (st == NS_OK) st = ns_average(find_checkpoints(input, below), steps.data ? steps.data : "all", output, &r, &err);
    ns_buf_free(&steps);
    if (st != NS_OK) return ns_cli_fail("average", &err);
    report(&r, output, p);
    return 0;
}

const ns_verb ns_verb_average = {
    .name = "average",
    .group = "models",
    .summary = "average the checkpoints of a run into one model",
    .usage = "ns average --input CHECKPOINTS --output MODEL [--steps all|1000,5000|1000-5000|last|last:N]",
    .examples = "ns average --input run1/training/checkpoints --output run1/model-averaged\n"
                "ns average run1 run1/model-averaged --steps last:3",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(average_options),
    .allow_positional = 1,
    .run = run,
};
