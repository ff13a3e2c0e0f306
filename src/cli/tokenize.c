/* `ns tokenize`: text to token ids. One text (the whole input, or --text), or with --lines one a line. `ns detokenize` is
 * the way back and reads what this writes. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "cli/tok_io.h"
#include "tok/unicode.h"

typedef struct tokenize_options {
    tok_io io; /* first: TOK_IO_OPTIONS count on it */
    int lines, add_special, plain, count, pieces, offsets;
} tokenize_options;

static const ns_option opts[] = {
    TOK_IO_OPTIONS("text", "the text itself", "UTF-8 text file; - is standard input"),
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
     .help = "print one token a line: id, tab, its text quoted as in JSON (with --json: one list of objects)"},
    {.key = "offsets",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = offsetof(tokenize_options, offsets),
     .def = "false",
     .help = "also print which bytes of the text each token stands for, first and behind the last (needs --pieces or "
             "--json); nothing was there where both are equal"},
};

typedef struct work {
    tok_work io;
    const tokenize_options *o;
    int json;
    ns_ids ids;
    ns_spans spans;
    ns_buf piece, clean;
} work;

/* One token for people (id, bytes, text) or as a JSON object. */
static ns_status add_piece(work *w, size_t i, ns_error *err)
{
    ns_buf *out = &w->io.out, *piece = &w->piece;
    ns_span s = w->o->offsets ? w->spans.v[i] : (ns_span){0, 0};
    ns_buf_clear(piece);
    NS_TRY(ns_buf_addc(piece, '.', err), "%s", ""); /* inside a text, so that the blank in front is seen */
    NS_TRY(ns_tok_decode(w->io.t, piece, &w->ids.v[i], 1, 0, err), "%s", "");
    ns_str text = {piece->data + 1, piece->len - 1};
    if (!w->json) {
        NS_TRY(ns_buf_printf(out, err, "%d\t", (int)w->ids.v[i]), "%s", "");
        if (w->o->offsets) NS_TRY(ns_buf_printf(out, err, "%zu\t%zu\t", s.from, s.to), "%s", "");
        NS_TRY(ns_tok_quote(out, text.p, text.n, err), "%s", "");
        return ns_buf_addc(out, '\n', err);
    }
    ns_buf_clear(&w->clean);
    NS_TRY(ns_buf_reserve(&w->clean, 1, err), "%s", "");
    NS_TRY(ns_utf8_repair(&w->clean, (const uint8_t *)text.p, text.n, err), "%s", "");
    NS_TRY(ns_buf_printf(out, err, "%s{\"id\": %d, ", i ? ", " : "", (int)w->ids.v[i]), "%s", "");
    if (w->o->offsets) NS_TRY(ns_buf_printf(out, err, "\"offsets\": [%zu, %zu], ", s.from, s.to), "%s", "");
    NS_TRY(ns_buf_adds(out, "\"text\": ", err), "%s", "");
    NS_TRY(ns_json_write_str(out, (ns_str){w->clean.data, w->clean.len}, NS_JSON_UTF8, err), "%s", "");
    return ns_buf_addc(out, '}', err);
}

static ns_status add_pieces(work *w, ns_error *err)
{
    if (w->json) NS_TRY(ns_buf_addc(&w->io.out, '[', err), "%s", "");
    for (size_t i = 0; i < w->ids.n; i++) NS_TRY(add_piece(w, i, err), "%s", "");
    return w->json ? ns_buf_adds(&w->io.out, "]\n", err) : NS_OK;
}

static ns_status add_ids(work *w, ns_error *err)
{
    ns_buf *out = &w->io.out;
    if (w->o->offsets) NS_TRY(ns_buf_adds(out, "{\"ids\": ", err), "%s", "");
    if (w->json) NS_TRY(ns_buf_addc(out, '[', err), "%s", "");
    for (size_t i = 0; i < w->ids.n; i++)
        NS_TRY(ns_buf_printf(out, err, "%s%d", !i ? "" : w->json ? ", " : " ", (int)w->ids.v[i]), "%s", "");
    if (w->json) NS_TRY(ns_buf_addc(out, ']', err), "%s", "");
    if (!w->o->offsets) return ns_buf_addc(out, '\n', err);
    NS_TRY(ns_buf_adds(out, ", \"offsets\": [", err), "%s", "");
    for (size_t i = 0; i < w->spans.n; i++)
        NS_TRY(ns_buf_printf(out, err, "%s[%zu, %zu]", i ? ", " : "", w->spans.v[i].from, w->spans.v[i].to), "%s", "");
    return ns_buf_adds(out, "]}\n", err);
}

static ns_status one_text(work *w, const char *p, size_t n, ns_error *err)
{
    const tokenize_options *o = w->o;
    int flags = (o->add_special ? NS_TOK_ADD_SPECIAL : 0) | (o->plain ? NS_TOK_NO_SPECIAL_TEXT : 0);
    w->ids.n = w->spans.n = 0;
    NS_TRY(ns_tok_encode_spans(w->io.t, &w->ids, o->offsets ? &w->spans : NULL, p, n, flags, err), "%s", "");
    if (o->count) return ns_buf_printf(&w->io.out, err, "%zu\n", w->ids.n);
    NS_TRY(o->pieces ? add_pieces(w, err) : add_ids(w, err), "%s", "");
    return tok_io_flush(&w->io, 0, err);
}

static ns_status tokenize(work *w, ns_error *err)
{
    const tokenize_options *o = w->o;
    ns_str line;
    NS_FAIL_IF(o->count && (o->pieces || o->offsets), NS_ERR_CONFIG, "--count excludes --pieces and --offsets");
    NS_FAIL_IF(o->offsets && !o->pieces && !w->json, NS_ERR_CONFIG, "--offsets needs --pieces or --json");
    NS_TRY(tok_io_open(&w->io, err), "%s", "");
    NS_TRY(tok_io_read(&w->io, err), "%s", "");
    if (!o->lines) NS_TRY(one_text(w, w->io.input.data, w->io.input.len, err), "%s", tok_io_name(&w->io));
    while (o->lines && tok_io_line(&w->io, &line)) NS_TRY(one_text(w, line.p, line.n, err), "%s", w->io.where);
    return tok_io_flush(&w->io, 1, err);
}

static int run(void *options, ns_parsed *p)
{
    ns_error err = NS_ERROR_INIT;
    const tokenize_options *o = options;
    work w = {.io = {.io = &o->io, .literal_key = "--text"}, .o = o, .json = p->json};
    ns_status st = tokenize(&w, &err);
    tok_io_close(&w.io);
    ns_ids_free(&w.ids);
    ns_spans_free(&w.spans);
    ns_buf_free(&w.piece);
    ns_buf_free(&w.clean);
    return st == NS_OK ? 0 : ns_cli_fail("tokenize", &err);
}

const ns_verb ns_verb_tokenize = {
    .name = "tokenize",
    .group = "data",
    .summary = "turn text into token ids",
    .usage = "ns tokenize --tokenizer DIR [--input FILE | --text TEXT] [--lines] [--offsets] [--json]",
    .examples = "ns tokenize -t llama3 --text 'Hello world' --pieces --offsets\n"
                "ns tokenize -t qwen2.5 --lines --json -i questions.txt >ids.jsonl\n"
                "ns tokenize -t mistral/tokenizer.model --count <book.txt\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(tokenize_options),
    .run = run,
};
