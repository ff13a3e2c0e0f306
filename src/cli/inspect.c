/* `ns inspect`: what SFT training will see of a row file. The rows are those of ns_rows_load with the options of
 * model.data.train_ds as flags; the counting and the forms of output are data/inspect.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/threads.h"
#include "cli/chat_flags.h"
#include "cli/cli.h"
#include "data/inspect.h"

typedef struct inspect_options {
    const char *tokenizer, *rows, *html, *prompt_template, *label_key, *truncation_field, *truncation_method;
    int64_t row, max_seq_length;
    int add_bos, add_eos;
    chat_flags chat;
} inspect_options;

#define AT(f) offsetof(inspect_options, f)
#define STR(key_, f, def_, help_)                                                              \
    {                                                                                          \
        .key = key_, .flag = 1, .type = NS_OPT_STRING, .at = AT(f), .def = def_, .help = help_ \
    }
#define BOOL(key_, f, help_)                                                                    \
    {                                                                                           \
        .key = key_, .flag = 1, .type = NS_OPT_BOOL, .at = AT(f), .def = "false", .help = help_ \
    }

static const ns_option opts[] = {
    {.key = "tokenizer",
     .flag = 1,
     .short_name = 't',
     .type = NS_OPT_STRING,
     .at = AT(tokenizer),
     .flags = NS_OPT_MODEL | NS_OPT_REQUIRED,
     .help = "model folder or tokenizer.json"},
    {.key = "row",
     .flag = 1,
     .short_name = 'n',
     .type = NS_OPT_INT,
     .at = AT(row),
     .min = 1,
     .max = 9e15,
     .flags = NS_OPT_NULLABLE,
     .null_value = 0,
     .help = "show the row of this line token by token, instead of the summary"},
    STR("rows", rows, NULL, "show lines A-B as text, instead of the summary; with --html: the rows of the page"),
    STR("html", html, NULL, "write a page with the summary and the first 50 rows (or --rows)"),
    {.key = "max-seq-length",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(max_seq_length),
     .def = "4096",
     .min = 2,
     .max = 1e8,
     .help = "as model.data.train_ds.max_seq_length: longer rows are cut"},
    STR("prompt-template", prompt_template, "'{input}{output}'", "as model.data.train_ds.prompt_template"),
    STR("label-key", label_key, "output", "as model.data.train_ds.label_key: the trained field"),
    STR("truncation-field", truncation_field, "input", "as model.data.train_ds.truncation_field"),
    {.key = "truncation-method",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(truncation_method),
     .def = "right",
     .choices = "right|left",
     .help = "as model.data.train_ds.truncation_method: the side that is cut"},
    BOOL("add-bos", add_bos, "as model.data.train_ds.add_bos"),
    BOOL("add-eos", add_eos, "as model.data.train_ds.add_eos"),
    CHAT_FLAGS(inspect_options, chat),
};

enum { PAGE_ROWS = 50 };

/* "A-B" or "A", lines from 1 -> rows from..to-1 */
static ns_status parse_rows(int64_t *from, int64_t *to, const char *text, ns_error *err)
{
    char *end;
    int64_t a = strtoll(text, &end, 10), b = a;
    int good = end != text && text[0] >= '0' && text[0] <= '9';
    if (good && *end == '-') {
        const char *second = end + 1;
        b = strtoll(second, &end, 10);
        good = end != second && second[0] >= '0' && second[0] <= '9';
    }
    NS_FAIL_IF(!good || *end || a < 1 || b < a, NS_ERR_CONFIG,
               "--rows '%s': expected lines A-B with 1 <= A <= B, for example 1-20", text);
    *from = a - 1;
    *to = b;
    return NS_OK;
}

/* The rows to show; past the end of the file is an error for the first, the end of the file for the last. */
static ns_status pick_rows(int64_t *from, int64_t *to, const inspect_options *o, const ns_inspect *in, ns_error *err)
{
    *from = *to = 0;
    if (o->row) *from = o->row - 1, *to = o->row;
    if (o->rows) NS_TRY(parse_rows(from, to, o->rows, err), "rows");
    if (!o->row && !o->rows && o->html) *to = PAGE_ROWS;
    NS_FAIL_IF(*from >= in->ex->n, NS_ERR_INPUT, "%s:%" PRId64 ": no such row: the file has %" PRId64 " rows", in->path,
               *from + 1, in->ex->n);
    if (*to > in->ex->n) *to = in->ex->n;
    return NS_OK;
}

static ns_status print(ns_buf *out, const ns_inspect *in, const inspect_options *o, int json, ns_error *err)
{
    int64_t from, to;
    const char *no_colour = getenv("NO_COLOR");
    int colour = isatty(STDOUT_FILENO) && !(no_colour && *no_colour);
    NS_TRY(pick_rows(&from, &to, o, in, err), "inspect");
    if (o->html) {
        NS_TRY(ns_inspect_html(out, in, from, to, err), "page");
        NS_TRY(ns_file_replace(o->html, out->data, out->len, err), "write %s", o->html);
        ns_buf_clear(out);
    }
    if (!o->row && !o->rows) to = from; /* the page's first rows were not asked for here */
    if (json) return ns_inspect_json(out, in, from, to, err);
    if (o->html || from == to) NS_TRY(ns_inspect_text(out, in, err), "summary");
    for (int64_t i = from; i < to && !o->html; i++) {
        NS_TRY((o->row ? ns_inspect_tokens : ns_inspect_line)(out, in, i, colour, err), "line %" PRId64, i + 1);
        if (out->len >= 1 << 20) {
            fwrite(out->data, 1, out->len, stdout);
            ns_buf_clear(out);
        }
    }
    return NS_OK;
}

static ns_status inspect(const char *path, const inspect_options *o, int json, ns_error *err)
{
    ns_rows_options r = NS_ROWS_OPTIONS_DEFAULT;
    ns_tok *tok = NULL;
    ns_chat *chat = NULL;
    ns_threads *pool = NULL;
    ns_examples ex = {0};
    ns_inspect in;
    ns_buf out = {0};
    ns_status st = NS_OK;
    int64_t from, to;
    r.prompt_template = o->prompt_template;
    r.label_key = o->label_key;
    r.truncation_field = o->truncation_field;
    (void)ns_rows_long_parse(&r.too_long, o->truncation_method); /* one of the choices */
    r.max_seq_length = o->max_seq_length;
    r.add_bos = o->add_bos;
    r.add_eos = o->add_eos;
    NS_BAIL_IF(st, o->row && o->rows, NS_ERR_CONFIG, "give --row or --rows, not both");
    if (o->rows) NS_CHECK(st, parse_rows(&from, &to, o->rows, err), "rows"); /* before the long work */
    if (!getenv("NS_LOG")) ns_log_set_level(NS_LOG_ERROR);                   /* the summary says what the log would */
    NS_CHECK(st, ns_tok_load(&tok, o->tokenizer, err), "tokenizer");
    NS_CHECK(st, chat_flags_open(&chat, o->tokenizer, &o->chat, err), "chat rows");
    r.chat = chat;
    NS_CHECK(st, ns_threads_new(&pool, 0, err), "threads");
    NS_CHECK(st, ns_rows_load(&ex, path, tok, &r, pool, err), "rows");
    NS_CHECK(st, ns_inspect_rows(&in, &ex, tok, path, &r, err), "inspect");
    NS_CHECK(st, print(&out, &in, o, json, err), "inspect");
    if (out.len) fwrite(out.data, 1, out.len, stdout);
done:
    ns_buf_free(&out);
    ns_examples_free(&ex);
    ns_threads_free(&pool);
    ns_chat_free(&chat);
    ns_tok_free(&tok);
    return st;
}

static int run(void *options, ns_parsed *p)
{
    ns_error err = NS_ERROR_INIT;
    ns_status st = p->n_positional == 1
                       ? inspect(p->positional[0], options, p->json, &err)
                       : ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "give one file of rows (JSONL)");
    return st == NS_OK ? 0 : ns_cli_fail("inspect", &err);
}

const ns_verb ns_verb_inspect = {
    .name = "inspect",
    .group = "data",
    .summary = "show what a training will see of a row file (JSONL, also .gz and .zst, or Parquet)",
    .usage = "ns inspect ROWS.jsonl --tokenizer DIR [--row N | --rows A-B] [--json] [--html FILE]",
    .examples = "ns inspect sft.jsonl -t llama3.2-1b --add-eos\n"
                "ns inspect sft.jsonl -t llama3.2-1b --row 3\n"
                "ns inspect sft.jsonl -t llama3.2-1b --html rows.html --rows 1-200\n"
                "ns inspect sft.jsonl -t llama3.2-1b --json | jq .trained_share\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(inspect_options),
    .allow_positional = 1,
    .run = run,
};
