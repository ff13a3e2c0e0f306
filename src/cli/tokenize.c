/* `ns tokenize`: text to token ids. One text (the whole input, or --text), or with --lines one a line. `ns detokenize` is
 * the way back and reads what this writes. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "tok/tok.h"

typedef struct tokenize_options {
    const char *tokenizer, *input, *text;
    int lines, add_special, plain, count, pieces;
} tokenize_options;

static const ns_option opts[] = {
    {.key = "tokenizer",
     .flag = 1,
     .short_name = 't',
     .type = NS_OPT_STRING,
     .at = offsetof(tokenize_options, tokenizer),
     .flags = NS_OPT_REQUIRED,
     .help = "model folder or tokenizer.json"},
    {.key = "input",
     .flag = 1,
     .short_name = 'i',
     .type = NS_OPT_STRING,
     .at = offsetof(tokenize_options, input),
     .def = "-",
     .help = "UTF-8 text file; - is standard input"},
    {.key = "text",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = offsetof(tokenize_options, text),
     .help = "the text itself, instead of --input"},
    {.key = "lines",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = offsetof(tokenize_options, lines),
     .def = "false",
     .help = "every line is a text of its own (its newline is left out)"},
    {.key = "add-special",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = offsetof(tokenize_options, add_special),
     .def = "false",
     .help = "add what the tokenizer's template adds (BOS ...)"},
    {.key = "plain",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = offsetof(tokenize_options, plain),
     .def = "false",
     .help = "special-token text such as <|eot_id|> is ordinary text"},
    {.key = "count",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = offsetof(tokenize_options, count),
     .def = "false",
     .help = "print the number of tokens of each text only"},
    {.key = "pieces",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = offsetof(tokenize_options, pieces),
     .def = "false",
     .help = "print one token a line: id, tab, its text quoted as in JSON"},
};

static ns_status add_pieces(ns_buf *out, const ns_tok *t, const ns_ids *ids, ns_error *err)
{
    ns_buf piece = {0};
    ns_status st = NS_OK;
    for (size_t i = 0; i < ids->n; i++) {
        ns_buf_clear(&piece);
        NS_CHECK(st, ns_tok_decode(t, &piece, &ids->v[i], 1, 0, err), "%s", "");
        NS_CHECK(st, ns_buf_printf(out, err, "%d\t", (int)ids->v[i]), "%s", "");
        NS_CHECK(st, ns_tok_quote(out, piece.data ? piece.data : "", piece.len, err), "%s", "");
        NS_CHECK(st, ns_buf_addc(out, '\n', err), "%s", "");
    }
done:
    ns_buf_free(&piece);
    return st;
}

static ns_status add_ids(ns_buf *out, const ns_ids *ids, int json, ns_error *err)
{
    if (json) NS_TRY(ns_buf_addc(out, '[', err), "%s", "");
    for (size_t i = 0; i < ids->n; i++)
        NS_TRY(ns_buf_printf(out, err, "%s%d", !i ? "" : json ? ", " : " ", (int)ids->v[i]), "%s", "");
    return ns_buf_adds(out, json ? "]\n" : "\n", err);
}

static ns_status one_text(ns_buf *out, ns_ids *ids, const ns_tok *t, const tokenize_options *o, int json, const char *p,
                          size_t n, ns_error *err)
{
    int flags = (o->add_special ? NS_TOK_ADD_SPECIAL : 0) | (o->plain ? NS_TOK_NO_SPECIAL_TEXT : 0);
    ids->n = 0;
    NS_TRY(ns_tok_encode(t, ids, p, n, flags, err), "%s", "");
    if (o->count) return ns_buf_printf(out, err, "%zu\n", ids->n);
    return o->pieces ? add_pieces(out, t, ids, err) : add_ids(out, ids, json, err);
}

static ns_status tokenize(const tokenize_options *o, int json, ns_error *err)
{
    ns_tok *t = NULL;
    ns_buf text = {0}, out = {0};
    ns_ids ids = {0};
    ns_status st = NS_OK;
    const char *name = o->text ? "--text" : strcmp(o->input, "-") ? o->input : "standard input";
    NS_CHECK(st, ns_tok_load(&t, o->tokenizer, err), "%s", "");
    if (o->text)
        NS_CHECK(st, ns_buf_adds(&text, o->text, err), "%s", "");
    else
        NS_CHECK(st, ns_file_read(&text, strcmp(o->input, "-") ? o->input : "/dev/stdin", err), "%s", "");
    const char *p = text.data ? text.data : "";
    if (!o->lines) NS_CHECK(st, one_text(&out, &ids, t, o, json, p, text.len, err), "%s", name);
    size_t line = 1;
    for (size_t i = 0, n; o->lines && i < text.len; i += n + 1, line++) {
        const char *end = memchr(p + i, '\n', text.len - i);
        n = end ? (size_t)(end - p) - i : text.len - i;
        NS_CHECK(st, one_text(&out, &ids, t, o, json, p + i, n, err), "%s:%zu", name, line);
        if (out.len >= 1 << 20) {
            fwrite(out.data, 1, out.len, stdout);
            ns_buf_clear(&out);
        }
    }
    if (out.len) fwrite(out.data, 1, out.len, stdout);
done:
    ns_tok_free(&t);
    ns_buf_free(&text);
    ns_buf_free(&out);
    ns_ids_free(&ids);
    return st;
}

static int run(void *options, ns_parsed *p)
{
    ns_error err = NS_ERROR_INIT;
    return tokenize(options, p->json, &err) == NS_OK ? 0 : ns_cli_fail("tokenize", &err);
}

const ns_verb ns_verb_tokenize = {
    .name = "tokenize",
    .group = "data",
    .summary = "turn text into token ids",
    .usage = "ns tokenize --tokenizer DIR [--input FILE | --text TEXT] [--lines] [--json]",
    .examples = "ns tokenize -t llama3 --text 'Hello world' --pieces\n"
                "ns tokenize -t qwen2.5 --lines --json -i questions.txt >ids.jsonl\n"
                "ns tokenize -t llama3 --count <book.txt\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(tokenize_options),
    .run = run,
};
