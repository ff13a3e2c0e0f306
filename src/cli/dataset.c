/* `ns dataset prepare`: raw files of benchmarks, which are on this machine, to NAME/SPLIT.jsonl with problem and expected_answer, as
 * `ns eval` reads them (pipelines.md §5.1, §5.2). Nothing is downloaded: a raw file that is missing is named with its origin. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "cli/cli.h"
#include "data/hash.h"

typedef struct dataset_options {
    const char *from, *output_dir, *split, *groups;
    int64_t random_seed, validation_size;
} dataset_options;

#define AT(f) offsetof(dataset_options, f)
#define TEXT(k, f, d, h)                                                             \
    {                                                                                \
        .key = k, .flag = 1, .type = NS_OPT_STRING, .at = AT(f), .def = d, .help = h \
    }
#define COUNT(k, f, d, h)                                                                                        \
    {                                                                                                            \
        .key = k, .flag = 1, .type = NS_OPT_INT, .at = AT(f), .def = d, .min = 0, .max = 4294967295.0, .help = h \
    }
static const ns_option opts[] = {
    TEXT("from", from, NULL,
         "folder of the raw files: DIR/NAME/FILE, or DIR/FILE when one data set is named (default: .)"),
    TEXT("output_dir", output_dir, NULL,
         "where NAME/SPLIT.jsonl is made (default: ~/.ns/datasets, where ns eval looks)"),
    TEXT("split", split, "all", "one split, or all that the raw files give"),
    TEXT("dataset_groups", groups, NULL, "all data sets of these groups instead of names: math"),
    COUNT("random_seed", random_seed, "42", "gsm8k: order of all splits but test"),
    COUNT("validation_size", validation_size, "1000", "gsm8k: rows of validation, taken off the training rows"),
};

/* ---- what there is ---- */
typedef struct split_row {
    const char *split, *file; /* raw file */
} split_row;
typedef struct dataset {
    const char *name, *group, *origin;
    split_row splits[5];
    int word_problems; /* question and "...#### answer"; else problem, answer, solution as fields */
} dataset;
static const dataset sets[] = {
    {"gsm8k",
     "math",
     "https://github.com/openai/grade-school-math, folder grade_school_math/data",
     {{"test", "test.jsonl"}, {"validation", "train.jsonl"}, {"train", "train.jsonl"}, {"train_full", "train.jsonl"}},
     1},
    {"math",
     "math",
     "https://github.com/QwenLM/Qwen2.5-Math, folder evaluation/data/math",
     {{"test", "test.jsonl"}, {"train", "train.jsonl"}},
     0},
    {"math-500", "math", "https://github.com/openai/prm800k, folder prm800k/math_splits", {{"test", "test.jsonl"}}, 0},
};
enum { N_SETS = sizeof sets / sizeof sets[0] };

/* Known by name elsewhere; their raw files need programs of their own. */
static const char *const others[] = {
    "aime24",          "aime25",       "amc23",        "algebra222",   "asdiv",         "mawps",        "svamp",
    "gsm-plus",        "omni-math",    "hle-math",     "minerva_math", "olympiadbench", "college_math", "gaokao2023en",
    "comp-math-24-25", "math-odyssey", "answer-judge", "mmlu",         "mmlu-pro",      "mmlu-redux",   "gpqa",
    "human-eval",      "mbpp",         "ifeval",       "arena-hard",   "mt-bench",      "minif2f",      "proofnet"};

static ns_status find_set(const dataset **out, const char *name, ns_error *err)
{
    const char *names[N_SETS];
    for (size_t i = 0; i < N_SETS; i++) {
        names[i] = sets[i].name;
        if (strcmp(sets[i].name, name) == 0) return *out = &sets[i], NS_OK;
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        NS_FAIL_IF(
            strcmp(others[i], name) == 0, NS_ERR_UNSUPPORTED,
            "%s cannot be prepared by ns: make %s/test.jsonl with problem and expected_answer yourself, and name "
            "its parent folder with `ns eval --extra_datasets`. gsm8k, math and math-500 can",
            name, name);
    const char *near = ns_suggest(name, names, N_SETS);
    NS_FAIL(NS_ERR_CONFIG, "there is no data set '%s'%s%s%s (gsm8k, math, math-500)", name,
            near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

/* ---- rows ---- */
typedef struct rows {
    ns_arena arena;
    ns_json *v;
    size_t n, cap;
} rows;

/* Eleven training rows of GSM8K have wrong answers; these are the right ones, by the hash of the question. */
static const struct {
    uint64_t question;
    const char *answer;
    int text;
} corrections[] = {
    {0x41d8b034601b9b47u, "10750", 0}, {0x1ebc54ab9c6088b7u, "10", 0},     {0x4f51fa9fcf3cad16u, "2740", 0},
    {0x157503620d6f7969u, "15", 0},    {0x5a2e961de0ad755bu, "19200", 0},  {0xff1688d4a2257e61u, "64", 0},
    {0x3bbc9ed64445e177u, "108", 0},   {0x43e9c0bbfc3c87d9u, "531000", 0}, {0xf950239f13248be7u, "6", 0},
    {0x525141af76298337u, "13", 0},    {0x717cb8fb3dd093a8u, "07:30", 1},
};

static ns_status correct(ns_json *out, ns_arena *a, ns_str question, ns_error *err)
{
    ns_hash h = ns_hash_bytes((ns_hash){{0, 0}}, question.p, question.n);
    for (size_t i = 0; i < sizeof corrections / sizeof corrections[0]; i++) {
        if (corrections[i].question != h.v[0]) continue;
        const ns_json *x = corrections[i].text ? ns_json_new_str(a, corrections[i].answer, err)
                                               : ns_json_new_int(a, strtoll(corrections[i].answer, NULL, 10), err);
        if (!x) return NS_ERR_MEMORY;
        return ns_json_set(out, a, "expected_answer", x, err);
    }
    return NS_OK;
}

/* "<<16-3-4=9>>" goes, within a line. */
static const char *without_marks(ns_arena *a, ns_str s, ns_error *err)
{
    char *out = ns_arena_alloc(a, s.n + 1, err);
    size_t n = 0;
    for (size_t i = 0; out && i < s.n; i++) {
        if (s.p[i] == '<' && i + 1 < s.n && s.p[i + 1] == '<') {
            size_t k = i + 2;
            while (k + 1 < s.n && s.p[k] != '\n' && !(s.p[k] == '>' && s.p[k + 1] == '>')) k++;
            if (k + 1 < s.n && s.p[k] == '>') {
                i = k + 1;
                continue;
            }
        }
        out[n++] = s.p[i];
    }
    if (out) out[n] = 0;
    return out;
}

static ns_status number_after(double *x, ns_str s, const char *where, ns_error *err)
{
    char text[64], *end;
    size_t n = 0;
    for (size_t i = 0; i < s.n && n + 1 < sizeof text; i++)
        if (s.p[i] != ',') text[n++] = s.p[i];
    text[n] = 0;
    *x = strtod(text, &end);
    end += strspn(end, " \n\r\t");
    NS_FAIL_IF(end == text || *end || !isfinite(*x), NS_ERR_INPUT, "%s: '%.40s' behind #### is not a number", where,
               text);
    return NS_OK;
}

static ns_status word_problem(ns_json *out, ns_arena *a, const ns_json *in, const char *where, ns_error *err)
{
    const ns_json *q = ns_json_get(in, "question"), *ans = ns_json_get(in, "answer");
    NS_FAIL_IF(!q || !ans || q->type != NS_JSON_STRING || ans->type != NS_JSON_STRING, NS_ERR_INPUT,
               "%s: expected the texts \"question\" and \"answer\" of GSM8K", where);
    const char *mark = memmem(ans->s.p, ans->s.n, "####", 4);
    NS_FAIL_IF(!mark, NS_ERR_INPUT, "%s: no #### in \"answer\"", where);
    size_t head = (size_t)(mark - ans->s.p);
    double x;
    NS_TRY(number_after(&x, (ns_str){mark + 4, ans->s.n - head - 4}, where, err), "gsm8k");
    NS_TRY(ns_json_set(out, a, "problem", q, err), "gsm8k");
    const ns_json *value =
        x == floor(x) && fabs(x) < 9e15 ? ns_json_new_int(a, (int64_t)x, err) : ns_json_new_num(a, x, err);
    NS_TRY(ns_json_set(out, a, "expected_answer", value, err), "gsm8k");
    const char *solution = without_marks(a, (ns_str){ans->s.p, head}, err);
    if (!solution) return NS_ERR_MEMORY;
    NS_TRY(ns_json_set(out, a, "reference_solution", ns_json_new_str(a, solution, err), err), "gsm8k");
    return correct(out, a, q->s, err);
}

/* problem (or question), answer -> expected_answer, solution -> reference_solution; other fields stay. */
static ns_status fields(ns_json *out, ns_arena *a, const ns_json *in, const char *where, ns_error *err)
{
    static const char *const names[][2] = {
        {"question", "problem"}, {"answer", "expected_answer"}, {"solution", "reference_solution"}};
    NS_FAIL_IF(in->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s: expected an object", where);
    for (size_t i = 0; i < in->n; i++) {
        char key[256];
        snprintf(key, sizeof key, "%.*s", (int)(in->keys[i].n < 255 ? in->keys[i].n : 255), in->keys[i].p);
        for (size_t k = 0; k < 3; k++)
            if (strcmp(key, names[k][0]) == 0 && !ns_json_get(in, names[k][1]))
                snprintf(key, sizeof key, "%s", names[k][1]);
        const char *kept = ns_arena_strdup(a, key, err);
        if (!kept) return NS_ERR_MEMORY;
        NS_TRY(ns_json_set(out, a, kept, &in->items[i], err), "%s", where);
    }
    NS_FAIL_IF(!ns_json_get(out, "problem") || !ns_json_get(out, "expected_answer"), NS_ERR_INPUT,
               "%s: expected \"problem\" (or \"question\") and \"answer\"", where);
    return NS_OK;
}

static ns_status read_raw(rows *r, const dataset *d, const char *path, ns_error *err)
{
    ns_jsonl *in = NULL;
    const char *line, *where;
    size_t n;
    ns_status st;
    NS_CHECK(st, ns_jsonl_open(&in, path, err), "%s", d->name);
    ns_jsonl_allow_trailing_blank(in);
    for (;;) {
        ns_json *raw;
        NS_CHECK(st, ns_jsonl_next_line(in, &line, &n, &where, err), "%s", d->name);
        if (!line) break;
        const char *kept = ns_arena_strndup(&r->arena, line, n, err);
        st = kept ? NS_OK : NS_ERR_MEMORY;
        NS_CHECK(st, st == NS_OK ? ns_json_parse(&raw, &r->arena, kept, n, where, 0, err) : st, "%s", d->name);
        NS_CHECK(st, ns_grow((void **)&r->v, &r->cap, r->n + 1, sizeof *r->v, "dataset", err), "%s", d->name);
        ns_json *out = &r->v[r->n++];
        *out = (ns_json){.type = NS_JSON_OBJECT};
        NS_CHECK(st, (d->word_problems ? word_problem : fields)(out, &r->arena, raw, where, err), "%s", d->name);
    }
    NS_BAIL_IF(st, !r->n, NS_ERR_INPUT, "%s: no rows", path);
done:
    ns_jsonl_close(&in);
    return st;
}

/* ---- splits ---- */
static ns_status write_rows(const rows *r, const int64_t *order, size_t from, size_t to, const char *path,
                            ns_error *err)
{
    ns_buf b = {0};
    ns_status st = NS_OK;
    for (size_t i = from; i < to && st == NS_OK; i++) {
        st = ns_json_write(&b, &r->v[order[i]], NS_JSON_ASCII, err);
        if (st == NS_OK) st = ns_buf_addc(&b, '\n', err);
    }
    if (st == NS_OK) st = ns_file_replace(path, b.data ? b.data : "", b.len, err);
    ns_buf_free(&b);
    if (st == NS_OK) printf("%s: %zu rows\n", path, to - from);
    return st;
}

static ns_status one_split(const dataset_options *o, const dataset *d, const split_row *s, const char *raw,
                           const char *dir, ns_error *err)
{
    rows r = {.arena = NS_ARENA_INIT("dataset")};
    char path[4096];
    int64_t *order = NULL;
    int n = snprintf(path, sizeof path, "%s/%s.jsonl", dir, s->split);
    ns_status st = read_raw(&r, d, raw, err);
    NS_BAIL_IF(st, st == NS_OK && (n < 0 || n >= (int)sizeof path), NS_ERR_INPUT, "--output_dir is too long");
    if (st == NS_OK) st = ns_alloc((void **)&order, (r.n + 1) * sizeof *order, "dataset", err);
    if (st != NS_OK) goto done;
    for (size_t i = 0; i < r.n; i++) order[i] = (int64_t)i;
    size_t from = 0, to = r.n, cut = (size_t)o->validation_size;
    if (d->word_problems && strcmp(s->split, "test")) {
        ns_mt g;
        ns_mt_seed_python(&g, (uint64_t)o->random_seed);
        ns_shuffle_python(&g, order, r.n);
        NS_BAIL_IF(st, cut >= r.n, NS_ERR_CONFIG, "--validation_size=%zu: %s has %zu rows", cut, raw, r.n);
        if (strcmp(s->split, "validation") == 0) to = cut;
        if (strcmp(s->split, "train") == 0) from = cut;
    }
    st = write_rows(&r, order, from, to, path, err);
done:
    ns_free(order);
    ns_free(r.v);
    ns_arena_free(&r.arena);
    return st;
}

static ns_status find_raw(char out[4096], const dataset_options *o, const dataset *d, const char *file, int alone)
{
    const char *from = o->from ? o->from : ".";
    int n = snprintf(out, 4096, "%s/%s/%s", from, d->name, file);
    if (n > 0 && n < 4096 && ns_path_exists(out)) return NS_OK;
    n = snprintf(out, 4096, "%s/%s", from, file);
    return alone && n > 0 && n < 4096 && ns_path_exists(out) ? NS_OK : NS_ERR_INPUT;
}

static ns_status prepare(const dataset_options *o, const dataset *d, int alone, ns_error *err)
{
    char dir[4096], raw[4096];
    const char *home = getenv("HOME");
    int done = 0, known = 0;
    NS_FAIL_IF(!o->output_dir && !home, NS_ERR_CONFIG, "HOME is not set: give --output_dir");
    int n = o->output_dir ? snprintf(dir, sizeof dir, "%s/%s", o->output_dir, d->name)
                          : snprintf(dir, sizeof dir, "%s/.ns/datasets/%s", home, d->name);
    NS_FAIL_IF(n < 0 || n >= (int)sizeof dir, NS_ERR_INPUT, "--output_dir is too long");
    for (size_t i = 0; i < 5 && d->splits[i].split; i++) {
        const split_row *s = &d->splits[i];
        int all = strcmp(o->split, "all") == 0;
        if (!all && strcmp(o->split, s->split)) continue;
        known = 1;
        if (find_raw(raw, o, d, s->file, alone) != NS_OK) {
            NS_FAIL_IF(!all, NS_ERR_INPUT, "%s: %s/%s/%s is not there, and ns downloads nothing: get it from %s",
                       d->name, o->from ? o->from : ".", d->name, s->file, d->origin);
            continue;
        }
        if (!done++) {
            printf("Preparing %s\n", d->name);
            NS_TRY(ns_mkdirs(dir, err), "%s", d->name);
        }
        NS_TRY(one_split(o, d, s, raw, dir, err), "%s", d->name);
    }
    NS_FAIL_IF(!known, NS_ERR_CONFIG, "%s has no split '%s'", d->name, o->split);
    NS_FAIL_IF(!done, NS_ERR_INPUT,
               "%s: no %s in %s/%s%s%s, and ns downloads nothing: get it from %s, and name its folder with --from",
               d->name, d->splits[0].file, o->from ? o->from : ".", d->name, alone ? " nor in " : "",
               alone ? o->from ? o->from : "." : "", d->origin);
    return NS_OK;
}

static ns_status prepare_all(const dataset_options *o, const ns_parsed *p, ns_error *err)
{
    const dataset *d;
    NS_FAIL_IF(!p->n_positional || strcmp(p->positional[0], "prepare"), NS_ERR_CONFIG,
               "the one thing that can be done is `ns dataset prepare [NAME ...]`");
    NS_FAIL_IF(o->groups && p->n_positional > 1, NS_ERR_CONFIG, "give names or --dataset_groups, not both");
    NS_FAIL_IF(o->groups && strcmp(o->groups, "math"), NS_ERR_UNSUPPORTED,
               "--dataset_groups=%s: ns prepares data sets of the group math (gsm8k, math, math-500)", o->groups);
    for (size_t i = 1; i < p->n_positional; i++) NS_TRY(find_set(&d, p->positional[i], err), "names");
    for (size_t i = 1; i < p->n_positional; i++) {
        NS_TRY(find_set(&d, p->positional[i], err), "names");
        NS_TRY(prepare(o, d, p->n_positional == 2, err), "%s", "prepare");
    }
    for (size_t i = 0; p->n_positional == 1 && i < N_SETS; i++) NS_TRY(prepare(o, &sets[i], 0, err), "%s", "prepare");
    return NS_OK;
}

static int run(void *options, ns_parsed *p)
{
    ns_error err = NS_ERROR_INIT;
    return prepare_all(options, p, &err) == NS_OK ? 0 : ns_cli_fail("dataset", &err);
}

const ns_verb ns_verb_dataset = {
    .name = "dataset",
    .group = "data",
    .summary = "make the files of a benchmark from its raw files",
    .usage = "ns dataset prepare [NAME ...] [--from DIR] [--output_dir DIR] [--split SPLIT]",
    .examples = "ns dataset prepare gsm8k --from grade-school-math/grade_school_math/data\n"
                "ns dataset prepare gsm8k math-500 --from raw --output_dir datasets\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(dataset_options),
    .allow_positional = 1,
    .no_json = 1,
    .run = run,
};
