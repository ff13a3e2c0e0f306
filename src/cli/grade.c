/* `ns grade`: extracts the answer of each generation, compares it with expected_answer, writes predicted_answer and is_correct into the
 * rows (each file is replaced atomically) and prints the share that is right. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "cli/cli.h"
#include "data/files.h"
#include "eval/grade.h"

typedef struct grade_options {
    ns_opt_list input_files;
    const char *generation_key, *expected_key, *eval_type;
    int write;
} grade_options;

static const ns_option options[] = {
    {.key = "input_files",
     .type = NS_OPT_LIST,
     .at = offsetof(grade_options, input_files),
     .flags = NS_OPT_REQUIRED,
     .help = "JSONL of generations: files and patterns (.gz, .zst, Parquet: with ++write=false)"},
    {.key = "eval_type",
     .type = NS_OPT_STRING,
     .at = offsetof(grade_options, eval_type),
     .def = "math",
     .choices = "math|multichoice|code|if|arena|mt-bench|answer_judgement|lean4-proof|lean4-statement",
     .help = "math: equal values; multichoice: equal texts; the others are not available yet"},
    {.key = "generation_key",
     .type = NS_OPT_STRING,
     .at = offsetof(grade_options, generation_key),
     .def = "generation",
     .help = "field with the generated text"},
    {.key = "expected_key",
     .type = NS_OPT_STRING,
     .at = offsetof(grade_options, expected_key),
     .def = "expected_answer",
     .help = "field with the right answer"},
    {.key = "write",
     .type = NS_OPT_BOOL,
     .at = offsetof(grade_options, write),
     .def = "true",
     .help = "write predicted_answer and is_correct into the files"},
};

typedef struct totals {
    int64_t rows, correct, no_answer;
} totals;

static int equal(ns_str answer, ns_str want, const grade_options *o)
{
    if (strcmp(o->eval_type, "math") == 0) return ns_answers_equal(answer, want);
    return answer.n == want.n && memcmp(answer.p, want.p, want.n) == 0;
}

static ns_status grade_row(ns_buf *out, ns_arena *a, ns_json *row, const grade_options *o, const char *where, totals *t,
                           ns_error *err)
{
    const ns_json *gen = ns_json_get(row, o->generation_key), *want = ns_json_get(row, o->expected_key);
    NS_FAIL_IF(!gen || gen->type != NS_JSON_STRING, NS_ERR_INPUT, "%s: no text field \"%s\" (set generation_key)",
               where, o->generation_key);
    NS_FAIL_IF(!want || (want->type != NS_JSON_STRING && want->type != NS_JSON_NUMBER), NS_ERR_INPUT,
               "%s: no field \"%s\" (set expected_key)", where, o->expected_key);
    ns_str answer = {0};
    int found = ns_extract_boxed(&answer, gen->s), right = found && equal(answer, want->s, o);
    ns_json predicted = {.type = found ? NS_JSON_STRING : NS_JSON_NULL, .s = answer},
            correct = {.type = NS_JSON_BOOL, .b = right};
    NS_TRY(ns_json_set(row, a, "predicted_answer", &predicted, err), "%s", where);
    NS_TRY(ns_json_set(row, a, "is_correct", &correct, err), "%s", where);
    NS_TRY(ns_json_write(out, row, NS_JSON_ASCII, err), "%s", where);
    t->rows++;
    t->correct += right;
    t->no_answer += !found;
    return ns_buf_addc(out, '\n', err);
}

static ns_status grade_file(const char *path, const grade_options *o, totals *t, ns_error *err)
{
    ns_jsonl *in = NULL;
    ns_buf out = {0};
    ns_arena a = NS_ARENA_INIT("grade");
    const char *line, *where;
    size_t n;
    ns_status st;
    NS_CHECK(st, ns_jsonl_open(&in, path, err), "grade");
    NS_BAIL_IF(st, o->write && strcmp(ns_jsonl_kind(in), "plain") != 0, NS_ERR_CONFIG,
               "%s: a %s file is read but not written: unpack it to .jsonl, or grade without writing (++write=false)",
               path, ns_jsonl_kind(in));
    for (;;) {
        ns_json *row;
        NS_CHECK(st, ns_jsonl_next_line(in, &line, &n, &where, err), "grade");
        if (!line) break;
        NS_CHECK(st, ns_json_parse(&row, &a, line, n, where, NS_JSON_LONE_OK, err), "grade");
        NS_CHECK(st, grade_row(&out, &a, row, o, where, t, err), "grade");
        ns_arena_free(&a);
    }
    NS_BAIL_IF(st, t->rows == 0, NS_ERR_INPUT, "%s: no rows", path);
    if (o->write) NS_CHECK(st, ns_file_replace(path, out.data, out.len, err), "write %s", path);
done:
    ns_jsonl_close(&in);
    ns_buf_free(&out);
    ns_arena_free(&a);
    return st;
}

static ns_status find_files(ns_files *f, const grade_options *o, ns_error *err)
{
    NS_FAIL_IF(strcmp(o->eval_type, "math") && strcmp(o->eval_type, "multichoice"), NS_ERR_UNSUPPORTED,
               "++eval_type=%s is not available yet: math and multichoice are", o->eval_type);
    for (size_t i = 0; i < o->input_files.n; i++) NS_TRY(ns_files_add(f, o->input_files.v[i], err), "input_files");
    for (size_t i = 0; i < f->n_patterns; i++)
        NS_FAIL_IF(!f->pattern[i].n, NS_ERR_INPUT, "++input_files: there is no file %s", f->pattern[i].text);
    return NS_OK;
}

static int run(void *opt, ns_parsed *p)
{
    const grade_options *o = opt;
    ns_error err = NS_ERROR_INIT;
    ns_files files = {0};
    ns_status st = find_files(&files, o, &err);
    for (size_t i = 0; i < files.n && st == NS_OK; i++) {
        totals t = {0};
        st = grade_file(files.path[i], o, &t, &err);
        if (st != NS_OK) break;
        if (p->json) {
            printf("{");
            ns_cli_print_json("file", files.path[i]);
            printf(", \"num_entries\": %" PRId64 ", \"correct\": %" PRId64 ", \"no_answer\": %" PRId64
                   ", \"symbolic_correct\": %.2f}\n",
                   t.rows, t.correct, t.no_answer, 100.0 * (double)t.correct / (double)t.rows);
        } else
            printf("%s: %" PRId64 " of %" PRId64 " right (%.1f %%), %" PRId64 " without an answer\n", files.path[i],
                   t.correct, t.rows, 100.0 * (double)t.correct / (double)t.rows, t.no_answer);
    }
    ns_files_free(&files);
    return st == NS_OK ? 0 : ns_cli_fail("grade", &err);
}

const ns_verb ns_verb_grade = {
    .name = "grade",
    .group = "evaluation",
    .summary = "compare generated answers with the expected ones",
    .usage = "ns grade ++input_files=FILE [++key=value ...]",
    .examples = "ns grade ++input_files=answers.jsonl\nns grade --json ++input_files=[a.jsonl,b.jsonl] ++write=false\n",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
    .options_size = sizeof(grade_options),
    .run = run,
};
