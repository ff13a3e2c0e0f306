/* `ns summarize_results`: the graded answers of `ns eval` as a table and metrics.json (pipelines.md §1.9, §6.4), greedy results. A file
 * of samples (output-rs*.jsonl) is named and refused: its metrics need the full grader. */
#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "cli/pipe.h"
#include "jobs/far.h"
#include "jobs/option_rows.h"

typedef struct summarize_options {
    const char *cluster, *config_dir, *benchmarks, *metric_type, *extra_datasets, *remote_tar_dir, *wandb_name,
        *wandb_group, *wandb_project;
    int64_t max_samples;
    int debug, verbose;
} summarize_options;

#define AT(f) offsetof(summarize_options, f)
#define HIDDEN(k, t, f, d, h)                                                                    \
    {                                                                                            \
        .key = k, .flag = 1, .type = t, .at = AT(f), .def = d, .flags = NS_OPT_HIDDEN, .help = h \
    }
static const ns_option opts[] = {
    {.key = "cluster",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(cluster),
     .help = "cluster file whose mounts translate RESULTS_DIR; results behind its ssh_tunnel are fetched"},
    {.key = "config_dir", .flag = 1, .type = NS_OPT_STRING, .at = AT(config_dir), .help = "folder of cluster files"},
    {.key = "benchmarks", .flag = 1, .type = NS_OPT_STRING, .at = AT(benchmarks), .help = "only these: NAME[,NAME...]"},
    {.key = "max_samples",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(max_samples),
     .def = "-1",
     .min = -1,
     .max = 1e12,
     .help = "only the first rows; -1: all"},
    {.key = "debug",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(debug),
     .def = "false",
     .help = "also name each row that is wrong"},
    ROW_CHOICE(summarize_options, "metric_type", metric_type, "math",
               "math|multichoice|code|if|arena|mt-bench|answer-judgement|lean4-proof|lean4-statement",
               "what is summed up: only math and multichoice (the same numbers) are available"),
    ROW_TEXT(summarize_options, "wandb_name", wandb_name, NULL, "W&B run of the metrics: not available yet"),
    ROW_TEXT(summarize_options, "wandb_group", wandb_group, NULL, "the same"),
    ROW_TEXT(summarize_options, "wandb_project", wandb_project, "nemo-skills", "the same"),
    /* Documented, and nothing to do: the numbers of all sets are those of math; results of a cluster come as a stream. */
    HIDDEN("extra_datasets", NS_OPT_STRING, extra_datasets, NULL, "folder of data sets"),
    HIDDEN("remote_tar_dir", NS_OPT_STRING, remote_tar_dir, NULL, "nothing is stored on the way"),
    HIDDEN("verbose", NS_OPT_BOOL, verbose, "true", "the transfer is silent"),
};

typedef struct benchmark {
    char name[256], file[4096];
    int64_t rows, correct, no_answer;
} benchmark;

static ns_status count_rows(benchmark *b, const summarize_options *o, ns_error *err)
{
    ns_jsonl *in = NULL;
    ns_arena a = NS_ARENA_INIT("summarize");
    const char *line, *where;
    size_t n;
    ns_status st;
    NS_CHECK(st, ns_jsonl_open(&in, b->file, err), "%s", b->name);
    while (o->max_samples < 0 || b->rows < o->max_samples) {
        ns_json *row;
        NS_CHECK(st, ns_jsonl_next_line(in, &line, &n, &where, err), "%s", b->name);
        if (!line) break;
        NS_CHECK(st, ns_json_parse(&row, &a, line, n, where, NS_JSON_LONE_OK, err), "%s", b->name);
        const ns_json *right = ns_json_get(row, "is_correct"), *answer = ns_json_get(row, "predicted_answer");
        NS_BAIL_IF(st, !right || !answer, NS_ERR_INPUT,
                   "%s: no is_correct and predicted_answer: grade it first (ns grade ++input_files=%s)", where,
                   b->file);
        b->rows++;
        b->correct += ns_json_truthy(right);
        b->no_answer += answer->type == NS_JSON_NULL;
        if (o->debug && !ns_json_truthy(right)) printf("%s: wrong\n", where);
        ns_arena_free(&a);
    }
    NS_BAIL_IF(st, b->rows == 0, NS_ERR_INPUT, "%s: no rows", b->file);
done:
    ns_jsonl_close(&in);
    ns_arena_free(&a);
    return st;
}

static int chosen(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; p && *p; p += strcspn(p, ","), p += *p == ',')
        if (strncmp(p, name, n) == 0 && (p[n] == ',' || !p[n])) return 1;
    return !list;
}

/* A folder with output.jsonl is one benchmark. *found: it has result files at all. */
static ns_status look(const char *dir, const char *name, const summarize_options *o, benchmark **v, size_t *n,
                      size_t *cap, int *found, ns_error *err)
{
    char pattern[4200], file[4096];
    glob_t g;
    snprintf(pattern, sizeof pattern, "%s/output-rs*.jsonl", dir);
    int samples = glob(pattern, 0, NULL, &g) == 0;
    if (samples) globfree(&g);
    int m = snprintf(file, sizeof file, "%s/output.jsonl", dir);
    NS_FAIL_IF(m < 0 || m >= (int)sizeof file, NS_ERR_INPUT, "%.60s...: the path is too long", dir);
    int greedy = ns_path_exists(file);
    *found |= samples || greedy;
    if (!(samples || greedy) || strstr(name, "-logs") || !chosen(o->benchmarks, name)) return NS_OK;
    NS_FAIL_IF(samples, NS_ERR_UNSUPPORTED,
               "%s holds samples (output-rs*.jsonl): only greedy results (output.jsonl) can be summed up yet", dir);
    NS_TRY(ns_grow((void **)v, cap, *n + 1, sizeof **v, "summarize", err), "%s", name);
    benchmark *b = &(*v)[*n];
    *b = (benchmark){.rows = 0};
    snprintf(b->name, sizeof b->name, "%s", name);
    memcpy(b->file, file, (size_t)m + 1);
    ++*n;
    return NS_OK;
}

static int by_name(const void *x, const void *y)
{
    return strcmp(((const benchmark *)x)->name, ((const benchmark *)y)->name);
}

static ns_status find_all(const char *dir, const char *shown, const summarize_options *o, benchmark **v, size_t *n,
                          ns_error *err)
{
    size_t cap = 0;
    int found = 0;
    const char *slash = strrchr(shown, '/');
    NS_TRY(look(dir, slash ? slash + 1 : shown, o, v, n, &cap, &found, err), "results");
    DIR *d = found ? NULL : opendir(dir);
    struct dirent *e;
    ns_status st = NS_OK;
    while (d && st == NS_OK && (e = readdir(d))) {
        char sub[4096];
        if (e->d_name[0] == '.') continue;
        int m = snprintf(sub, sizeof sub, "%s/%s", dir, e->d_name);
        if (m > 0 && m < (int)sizeof sub && ns_path_is_dir(sub)) st = look(sub, e->d_name, o, v, n, &cap, &found, err);
    }
    if (d) closedir(d);
    if (st != NS_OK) return st;
    NS_FAIL_IF(!*n, NS_ERR_INPUT,
               found ? "%s: no such benchmark (--benchmarks)" : "%s: no output.jsonl there, nor in a folder below",
               shown);
    qsort(*v, *n, sizeof **v, by_name);
    return NS_OK;
}

static double percent(int64_t a, int64_t b)
{
    return 100.0 * (double)a / (double)b;
}

/* "unfinished: step 40 of 100", when the model's training had not come to its end. */
static int mark_of(char *out, size_t n, const benchmark *b)
{
    char path[4200];
    ns_buf text = {0};
    ns_error ignored = NS_ERROR_INIT;
    snprintf(path, sizeof path, "%.*s/UNFINISHED", (int)(strrchr(b->file, '/') - b->file), b->file);
    int found = ns_path_exists(path) && ns_file_read(&text, path, &ignored) == NS_OK && text.len > 0;
    if (found) snprintf(out, n, "%s", text.data);
    if (found) out[strcspn(out, "\n")] = 0;
    ns_buf_free(&text);
    return found;
}

static void print_table(const benchmark *b)
{
    static const int width = 64;
    int pad = width - (int)strlen(b->name) - 2;
    for (int i = 0; i < pad / 2; i++) putchar('-');
    printf(" %s ", b->name);
    for (int i = 0; i < pad - pad / 2; i++) putchar('-');
    char unfinished[200];
    printf("\n");
    if (mark_of(unfinished, sizeof unfinished, b)) printf("the model is %s\n", unfinished);
    printf("evaluation_mode | num_entries | symbolic_correct | no_answer\n");
    printf("greedy          | %-11lld | %15.2f%% | %.2f%%\n\n\n", (long long)b->rows, percent(b->correct, b->rows),
           percent(b->no_answer, b->rows));
}

static ns_status write_metrics(const char *dir, const ns_cluster *far, const benchmark *v, size_t n, ns_error *err)
{
    ns_buf b = {0};
    char path[4096];
    ns_status st = ns_buf_adds(&b, "{\n", err);
    for (size_t i = 0; i < n && st == NS_OK; i++) {
        st = ns_buf_adds(&b, "  ", err);
        if (st == NS_OK) st = ns_json_write_str(&b, (ns_str){v[i].name, strlen(v[i].name)}, NS_JSON_ASCII, err);
        char mark[200];
        if (st == NS_OK) st = ns_buf_adds(&b, ": {\n", err);
        if (st == NS_OK && mark_of(mark, sizeof mark, &v[i])) {
            st = ns_buf_adds(&b, "    \"model\": ", err);
            if (st == NS_OK) st = ns_json_write_str(&b, (ns_str){mark, strlen(mark)}, NS_JSON_ASCII, err);
            if (st == NS_OK) st = ns_buf_adds(&b, ",\n", err);
        }
        if (st == NS_OK)
            st = ns_buf_printf(&b, err,
                               "    \"greedy\": {\n      \"num_entries\": %lld,\n      \"symbolic_correct\": "
                               "%.4f,\n      \"no_answer\": %.4f\n    }\n  }%s\n",
                               (long long)v[i].rows, percent(v[i].correct, v[i].rows),
                               percent(v[i].no_answer, v[i].rows), i + 1 < n ? "," : "");
    }
    if (st == NS_OK) st = ns_buf_adds(&b, "}\n", err);
    snprintf(path, sizeof path, "%.4000s/metrics.json", dir);
    if (st == NS_OK) st = far ? ns_far_put(far, b.data, b.len, path, err) : ns_file_replace(path, b.data, b.len, err);
    ns_buf_free(&b);
    if (st == NS_OK) printf("Metrics are saved to %s%s%s\n", far ? far->ssh_host : "", far ? ":" : "", path);
    return st;
}

/* Results in `below` (a folder here); `shown`: the same folder where it really is, `far`: the cluster where that is, or NULL. */
static ns_status sum_up(const summarize_options *o, const char *below, const char *shown, const ns_cluster *far,
                        ns_error *err)
{
    benchmark *v = NULL;
    size_t n = 0;
    ns_status st = find_all(below, shown, o, &v, &n, err);
    for (size_t i = 0; i < n && st == NS_OK; i++) {
        st = count_rows(&v[i], o, err);
        if (st == NS_OK) print_table(&v[i]);
    }
    if (st == NS_OK) st = write_metrics(shown, far, v, n, err);
    ns_free(v);
    return st;
}

/* Brings the results here first. */
static ns_status sum_up_far(const summarize_options *o, const char *there, const ns_cluster *c, ns_error *err)
{
    const char *tmp = getenv("TMPDIR");
    char dir[1024], below[1100], shown[4200];
    ns_error ignored = NS_ERROR_INIT;
    snprintf(dir, sizeof dir, "%.900s/ns-results-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    NS_FAIL_IF(!mkdtemp(dir), NS_ERR_IO, "cannot make %s: %s", dir, strerror(errno));
    ns_status st = ns_far_fetch(c, there, dir, err);
    snprintf(below, sizeof below, "%s/eval-results", dir);
    int inner = ns_path_is_dir(below);
    snprintf(shown, sizeof shown, "%s%s", there, inner ? "/eval-results" : "");
    if (st == NS_OK) st = sum_up(o, inner ? below : dir, shown, c, err);
    if (ns_remove_tree(dir, &ignored) != NS_OK) return st; /* litter, not a failure */
    return st;
}

static ns_status summarize(const summarize_options *o, const char *dir, ns_error *err)
{
    char below[4200];
    ns_cluster c = {0};
    const char *here;
    ns_status st = ns_cluster_open(&c, o->cluster, o->config_dir, err);
    if (st == NS_OK) st = ns_mounts_path(&c.mounts, &c.arena, dir, &here, err);
    if (st == NS_OK) {
        snprintf(below, sizeof below, "%s", here);
        for (size_t k = strlen(below); k > 1 && below[k - 1] == '/';) below[--k] = 0;
        size_t k = strlen(below);
        if (c.ssh_host && strcmp(c.executor, "slurm") == 0) {
            st = sum_up_far(o, below, &c, err);
        } else {
            snprintf(below + k, sizeof below - k, "/eval-results");
            if (!ns_path_is_dir(below)) below[k] = 0;
            st = sum_up(o, below, below, NULL, err);
        }
    }
    if (c.config) ns_cluster_close(&c);
    return st;
}

static int run(void *options, ns_parsed *p)
{
    const summarize_options *o = options;
    ns_error err = NS_ERROR_INIT;
    if (p->n_positional != 1)
        ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "name one folder of results");
    else if (o->benchmarks && strpbrk(o->benchmarks, " \t"))
        ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "benchmarks should be separated with commas: '%s'",
                     o->benchmarks);
    else if (strcmp(o->metric_type, "math") && strcmp(o->metric_type, "multichoice"))
        ns_error_set(&err, NS_ERR_UNSUPPORTED, __FILE__, __LINE__, "--metric_type=%s " NS_LATER, o->metric_type);
    else if (o->wandb_name || o->wandb_group)
        ns_error_set(&err, NS_ERR_UNSUPPORTED, __FILE__, __LINE__,
                     "--wandb_name, --wandb_group: sending metrics to W&B " NS_LATER);
    else if (summarize(o, p->positional[0], &err) == NS_OK)
        return 0;
    return ns_cli_fail("summarize_results", &err);
}

const ns_verb ns_verb_summarize_results = {
    .name = "summarize_results",
    .group = "evaluation",
    .summary = "the results of ns eval as a table and metrics.json",
    .usage = "ns summarize_results RESULTS_DIR [--benchmarks NAME,...]",
    .examples = "ns summarize_results --cluster=slurm /workspace/my-training-job/results\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(summarize_options),
    .allow_positional = 1,
    .run = run,
};
