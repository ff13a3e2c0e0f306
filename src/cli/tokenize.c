/* `ns tokenize`: text to token ids. One text (the whole input, or --text), or with --lines one a line; with --chat
 * conversations, as training or inference writes them. `ns detokenize` is
 * the way back and reads what this writes. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "cli/chat_flags.h"
#include "cli/tok_io.h"
#include "tok/unicode.h"

typedef struct tokenize_options {
    tok_io io; /* first: TOK_IO_OPTIONS count on it */
    int lines, add_special, plain, count, pieces, offsets;
    int chat, generation_prompt, render, add_bos, add_eos;
    const char *tools;
    chat_flags conv;
} tokenize_options;

#define BOOL(key_, f, help_)                                                                              \
    {                                                                                                     \
        .key = key_, .flag = 1, .type = NS_OPT_BOOL, .at = offsetof(tokenize_options, f), .def = "false", \
        .help = help_                                                                                     \
    }

static const ns_option opts[] = {
    TOK_IO_OPTIONS("text", "the text itself",
                   "UTF-8 text file; - is standard input; with --chat --lines also a Parquet file"),
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
    BOOL("chat", chat,
         "the input is a conversation in JSON: a row with messages (or another chat form), or a list of messages; with "
         "--lines "
         "one a line. Written with the chat template; which tokens are trained is shown by --pieces and --json"),
    {.key = "tools",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = offsetof(tokenize_options, tools),
     .help = "chat: JSON file with a list of tools, for rows without their own"},
    BOOL("generation-prompt", generation_prompt, "chat: up to the answer that is asked for, as at inference"),
    BOOL("render", render, "chat: print the text only"),
    BOOL("add-bos", add_bos, "chat: as model.data.train_ds.add_bos"),
    BOOL("add-eos", add_eos, "chat: as model.data.train_ds.add_eos"),
    CHAT_FLAGS(tokenize_options, conv),
};

typedef struct work {
    tok_work io;
    const tokenize_options *o;
    int json;
    ns_ids ids;
    ns_spans spans;
    ns_buf piece, clean;
    ns_chat *chat; /* --chat */
    ns_arena arena;
    ns_json *tools;
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

/* ---- conversations ---- */
/* id, T (trained) or ., text */
static ns_status add_chat_pieces(work *w, const ns_chat_shown *s, ns_error *err)
{
    for (size_t i = 0; i < s->ids.n; i++) {
        ns_buf_clear(&w->piece);
        NS_TRY(ns_buf_addc(&w->piece, '.', err), "%s", "");
        NS_TRY(ns_tok_decode(w->io.t, &w->piece, &s->ids.v[i], 1, 0, err), "%s", "");
        NS_TRY(ns_buf_printf(&w->io.out, err, "%d\t%c\t", (int)s->ids.v[i], s->mask[i] ? 'T' : '.'), "%s", "");
        NS_TRY(ns_tok_quote(&w->io.out, w->piece.data + 1, w->piece.len - 1, err), "%s", "");
        NS_TRY(ns_buf_addc(&w->io.out, '\n', err), "%s", "");
    }
    return NS_OK;
}

static ns_status add_chat_json(work *w, const ns_chat_shown *s, ns_error *err)
{
    ns_buf *out = &w->io.out;
    NS_TRY(ns_buf_printf(out, err, "{\"form\": \"%s\", \"text\": ", s->form), "%s", "");
    NS_TRY(ns_json_write_str(out, (ns_str){s->text.data, s->text.len}, NS_JSON_UTF8, err), "%s", "");
    for (int mask = 0; mask < 2; mask++) {
        NS_TRY(ns_buf_adds(out, mask ? "], \"mask\": [" : ", \"ids\": [", err), "%s", "");
        for (size_t i = 0; i < s->ids.n; i++)
            NS_TRY(ns_buf_printf(out, err, "%s%d", i ? ", " : "", mask ? (int)s->mask[i] : (int)s->ids.v[i]), "%s", "");
    }
    return ns_buf_adds(out, "]}\n", err);
}

static ns_status one_chat(work *w, const char *p, size_t n, const char *where, ns_error *err)
{
    const tokenize_options *o = w->o;
    ns_arena a = NS_ARENA_INIT("tokenize.chat");
    ns_chat_shown s = {0};
    ns_json *v;
    ns_status st = NS_OK;
    const ns_chat_show_options so = {w->tools, o->generation_prompt, o->add_bos, o->add_eos};
    NS_CHECK(st, ns_json_parse(&v, &a, p, n, where, 0, err), "%s", "");
    NS_CHECK(st, ns_chat_show(&s, w->chat, w->io.t, v, &so, where, err), "%s", "");
    if (o->count)
        NS_CHECK(st, ns_buf_printf(&w->io.out, err, "%zu\n", s.ids.n), "%s", "");
    else if (o->render)
        NS_CHECK(st, ns_buf_add(&w->io.out, s.text.data, s.text.len, err), "%s", "");
    else if (o->pieces)
        NS_CHECK(st, add_chat_pieces(w, &s, err), "%s", "");
    else if (w->json)
        NS_CHECK(st, add_chat_json(w, &s, err), "%s", "");
    else {
        for (size_t i = 0; i < s.ids.n; i++)
            NS_CHECK(st, ns_buf_printf(&w->io.out, err, "%s%d", i ? " " : "", (int)s.ids.v[i]), "%s", "");
        NS_CHECK(st, ns_buf_addc(&w->io.out, '\n', err), "%s", "");
    }
    NS_CHECK(st, tok_io_flush(&w->io, 0, err), "%s", "");
done:
    ns_chat_shown_free(&s);
    ns_arena_free(&a);
    return st;
}

static ns_status chat(work *w, ns_error *err)
{
    const tokenize_options *o = w->o;
    ns_str line;
    NS_FAIL_IF(o->add_special || o->plain || o->offsets, NS_ERR_CONFIG,
               "--chat excludes --add-special, --plain and --offsets: the chat template writes the special tokens");
    NS_FAIL_IF(o->count + o->render + o->pieces + w->json > 1, NS_ERR_CONFIG,
               "give one of --count, --render, --pieces and --json");
    NS_TRY(chat_flags_open(&w->chat, o->io.tokenizer, &o->conv, err), "%s", "");
    if (o->tools) {
        NS_TRY(ns_json_read_file(&w->tools, &w->arena, o->tools, err), "%s", "");
        NS_FAIL_IF(w->tools->type != NS_JSON_ARRAY, NS_ERR_INPUT, "%s: expected a list of tools", o->tools);
    }
    NS_TRY(tok_io_open(&w->io, err), "%s", "");
    w->io.rows_allowed = o->lines;
    NS_TRY(tok_io_read(&w->io, err), "%s", "");
    if (!o->lines) NS_TRY(one_chat(w, w->io.input.data, w->io.input.len, tok_io_name(&w->io), err), "%s", "");
    while (o->lines && tok_io_line(&w->io, &line)) NS_TRY(one_chat(w, line.p, line.n, w->io.where, err), "%s", "");
    return tok_io_flush(&w->io, 1, err);
}

static ns_status tokenize(work *w, ns_error *err)
{
    const tokenize_options *o = w->o;
    ns_str line;
    if (o->chat) return chat(w, err);
    NS_FAIL_IF(o->tools || o->generation_prompt || o->render || o->add_bos || o->add_eos || chat_flags_given(&o->conv),
               NS_ERR_CONFIG, "an option for conversations is set without --chat");
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
    work w = {
        .io = {.io = &o->io, .literal_key = "--text"}, .o = o, .json = p->json, .arena = NS_ARENA_INIT("tokenize")};
    ns_status st = tokenize(&w, &err);
    tok_io_close(&w.io);
    ns_ids_free(&w.ids);
    ns_spans_free(&w.spans);
    ns_buf_free(&w.piece);
    ns_buf_free(&w.clean);
    ns_chat_free(&w.chat);
    ns_arena_free(&w.arena);
    return st == NS_OK ? 0 : ns_cli_fail("tokenize", &err);
}

const ns_verb ns_verb_tokenize = {
    .name = "tokenize",
    .group = "data",
    .summary = "turn text into token ids",
    .usage = "ns tokenize --tokenizer DIR [--input FILE | --text TEXT] [--lines] [--chat] [--offsets] [--json]",
    .examples = "ns tokenize -t llama3 --text 'Hello world' --pieces --offsets\n"
                "ns tokenize -t qwen2.5 --lines --json -i questions.txt >ids.jsonl\n"
                "ns tokenize -t mistral/tokenizer.model --count <book.txt\n"
                "ns tokenize -t qwen3-0.6b --chat --pieces -i row.json\n"
                "ns tokenize -t qwen3-0.6b --chat --generation-prompt --render --tools tools.json "
                "--text '[{\"role\": \"user\", \"content\": \"Hi\"}]'\n"
                "ns tokenize -t qwen3-0.6b --chat --lines --json -i sft.jsonl --chat-template-kwargs "
                "'{\"enable_thinking\": false}'\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(tokenize_options),
    .run = run,
};
