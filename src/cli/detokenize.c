/* `ns detokenize`: token ids to text. One sequence a line: a JSON array, a JSON object with "ids" or "input_ids", or
 * numbers with blanks or commas between them. Bytes come out as they are, so `ns tokenize | ns detokenize` is exact. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "cli/cli.h"
#include "tok/tok.h"
#include "tok/unicode.h"

typedef struct detokenize_options {
    const char *tokenizer, *input, *ids;
    int lines, skip_special;
} detokenize_options;

static const ns_option opts[] = {
    {.key = "tokenizer",
     .flag = 1,
     .short_name = 't',
     .type = NS_OPT_STRING,
     .at = offsetof(detokenize_options, tokenizer),
     .flags = NS_OPT_REQUIRED,
     .help = "model folder or tokenizer.json"},
    {.key = "input",
     .flag = 1,
     .short_name = 'i',
     .type = NS_OPT_STRING,
     .at = offsetof(detokenize_options, input),
     .def = "-",
     .help = "file of ids, one sequence a line; - is standard input"},
    {.key = "ids",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = offsetof(detokenize_options, ids),
     .help = "the ids themselves, instead of --input"},
    {.key = "lines",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = offsetof(detokenize_options, lines),
     .def = "false",
     .help = "a newline after every text, not only between texts"},
    {.key = "skip-special",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = offsetof(detokenize_options, skip_special),
     .def = "false",
     .help = "leave special tokens out"},
};

static ns_status ids_of_json(ns_ids *ids, const char *p, size_t n, const char *where, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("detokenize");
    ns_json *v = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_json_parse(&v, &a, p, n, where, 0, err), "%s", "");
    const ns_json *list = v->type == NS_JSON_OBJECT ? ns_json_get(v, "ids") : v;
    if (!list) list = ns_json_get(v, "input_ids");
    NS_BAIL_IF(st, !list || list->type != NS_JSON_ARRAY, NS_ERR_INPUT,
               "%s: expected a list of ids, or an object with \"ids\" or \"input_ids\"", where);
    NS_CHECK(st, ns_grow((void **)&ids->v, &ids->cap, list->n + 1, sizeof *ids->v, "detokenize", err), "%s", where);
    for (size_t i = 0; i < list->n; i++) {
        int64_t x;
        NS_BAIL_IF(st, !ns_json_is_int(&list->items[i], &x) || x < 0 || x > INT32_MAX, NS_ERR_INPUT,
                   "%s: item %zu is not a token id (an integer from 0)", where, i);
        ids->v[ids->n++] = (int32_t)x;
    }
done:
    ns_arena_free(&a);
    return st;
}

static ns_status ids_of_words(ns_ids *ids, const char *p, size_t n, const char *where, ns_error *err)
{
    for (size_t i = 0; i < n;) {
        if (strchr(" \t\r,", p[i]) && p[i]) {
            i++;
            continue;
        }
        int64_t x = -1;
        size_t start = i;
        for (; i < n && p[i] >= '0' && p[i] <= '9' && x <= INT32_MAX; i++) x = (x < 0 ? 0 : x) * 10 + (p[i] - '0');
        NS_FAIL_IF(x < 0 || x > INT32_MAX || (i < n && (!p[i] || !strchr(" \t\r,", p[i]))), NS_ERR_INPUT,
                   "%s: byte %zu: found '%.*s', expected token ids (whole numbers) with blanks between", where, start,
                   (int)strcspn(p + start, " \t\r\n,"), p + start);
        NS_TRY(ns_grow((void **)&ids->v, &ids->cap, ids->n + 1, sizeof *ids->v, "detokenize", err), "%s", where);
        ids->v[ids->n++] = (int32_t)x;
    }
    return NS_OK;
}

/* JSON must be UTF-8: each byte that is not becomes U+FFFD (ids may end inside a character). */
static ns_status add_json(ns_buf *out, ns_buf *clean, const ns_buf *text, ns_error *err)
{
    ns_buf_clear(clean);
    for (size_t i = 0; i < text->len;) {
        size_t good = ns_utf8_check((const uint8_t *)text->data + i, text->len - i);
        NS_TRY(ns_buf_add(clean, text->data + i, good, err), "%s", "");
        i += good;
        if (i == text->len) break;
        NS_TRY(ns_buf_adds(clean, "\xef\xbf\xbd", err), "%s", "");
        i++;
    }
    NS_TRY(ns_json_write_str(out, (ns_str){clean->data ? clean->data : "", clean->len}, NS_JSON_UTF8, err), "%s", "");
    return ns_buf_addc(out, '\n', err);
}

typedef struct work {
    ns_tok *t;
    ns_buf input, text, clean, out;
    ns_ids ids;
    size_t n_texts;
} work;

static ns_status one_line(work *w, const detokenize_options *o, int json, const char *p, size_t n, const char *where,
                          ns_error *err)
{
    w->ids.n = 0;
    ns_buf_clear(&w->text);
    NS_TRY((n && (p[0] == '[' || p[0] == '{') ? ids_of_json : ids_of_words)(&w->ids, p, n, where, err), "%s", "");
    NS_TRY(ns_tok_decode(w->t, &w->text, w->ids.v, w->ids.n, o->skip_special, err), "%s", where);
    if (json) return add_json(&w->out, &w->clean, &w->text, err);
    if (w->n_texts++ && !o->lines) NS_TRY(ns_buf_addc(&w->out, '\n', err), "%s", where);
    if (w->text.len) NS_TRY(ns_buf_add(&w->out, w->text.data, w->text.len, err), "%s", where);
    return o->lines ? ns_buf_addc(&w->out, '\n', err) : NS_OK;
}

static ns_status detokenize(work *w, const detokenize_options *o, int json, ns_error *err)
{
    char where[4200];
    NS_TRY(ns_tok_load(&w->t, o->tokenizer, err), "%s", "");
    if (o->ids)
        NS_TRY(ns_buf_adds(&w->input, o->ids, err), "%s", "");
    else
        NS_TRY(ns_file_read(&w->input, strcmp(o->input, "-") ? o->input : "/dev/stdin", err), "%s", "");
    size_t line = 1;
    for (size_t i = 0, n; i < w->input.len; i += n + 1, line++) {
        const char *p = w->input.data + i, *end = memchr(p, '\n', w->input.len - i);
        n = end ? (size_t)(end - p) : w->input.len - i;
        if (o->ids)
            snprintf(where, sizeof where, "--ids");
        else
            snprintf(where, sizeof where, "%s:%zu", strcmp(o->input, "-") ? o->input : "standard input", line);
        NS_TRY(one_line(w, o, json, p, n, where, err), "%s", "");
        if (w->out.len >= 1 << 20) {
            fwrite(w->out.data, 1, w->out.len, stdout);
            ns_buf_clear(&w->out);
        }
    }
    /* on a terminal the prompt starts on a line of its own */
    if (!json && !o->lines && w->n_texts && isatty(STDOUT_FILENO)) NS_TRY(ns_buf_addc(&w->out, '\n', err), "%s", "");
    if (w->out.len) fwrite(w->out.data, 1, w->out.len, stdout);
    return NS_OK;
}

static int run(void *options, ns_parsed *p)
{
    ns_error err = NS_ERROR_INIT;
    work w = {0};
    ns_status st = detokenize(&w, options, p->json, &err);
    ns_tok_free(&w.t);
    ns_buf_free(&w.input);
    ns_buf_free(&w.text);
    ns_buf_free(&w.clean);
    ns_buf_free(&w.out);
    ns_ids_free(&w.ids);
    return st == NS_OK ? 0 : ns_cli_fail("detokenize", &err);
}

const ns_verb ns_verb_detokenize = {
    .name = "detokenize",
    .group = "data",
    .summary = "turn token ids back into text",
    .usage = "ns detokenize --tokenizer DIR [--input FILE | --ids \"1 2 3\"] [--lines] [--json]",
    .examples = "ns detokenize -t llama3 --ids '9906 1917'\n"
                "ns tokenize -t llama3 <book.txt | ns detokenize -t llama3 | cmp - book.txt\n"
                "ns detokenize -t qwen2.5 --json -i ids.jsonl\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(detokenize_options),
    .run = run,
};
