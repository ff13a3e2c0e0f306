/* `ns tokenize`: text to token ids. One text (the whole input, or --text), or with --lines one a line; with --chat
 * conversations, as training or inference writes them. `ns detokenize` is
 * the way back and reads what this writes. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/threads.h"
#include "cli/chat_flags.h"
#include "cli/tok_io.h"
#include "tok/unicode.h"

typedef struct tokenize_options {
    tok_io io; /* first: TOK_IO_OPTIONS count on it */
    int lines, add_special, plain, count, pieces, offsets;
    int chat, generation_prompt, render, add_bos, add_eos;
    const char *tools;
    chat_flags conv;
    int64_t threads;
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
    {.key = "threads",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = offsetof(tokenize_options, threads),
     .def = "0",
     .min = 0,
     .max = 1024,
     .help = "threads for --lines (one conversation or text has one); 0: NS_THREADS, or all"},
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

static void free_work(work *w)
{
    ns_ids_free(&w->ids);
    ns_spans_free(&w->spans);
    ns_buf_free(&w->piece);
    ns_buf_free(&w->clean);
}

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

/* The ids with `between`. (printf would take ten times as long as finding them.) */
static ns_status write_ids(ns_buf *out, const ns_ids *ids, const char *between, ns_error *err)
{
    size_t n = strlen(between);
    NS_TRY(ns_buf_reserve(out, ids->n * (10 + n) + 1, err), "%s", "");
    char *to = out->data + out->len;
    for (size_t i = 0; i < ids->n; i++) {
        char digit[10];
        int k = 0;
        if (i) {
            memcpy(to, between, n);
            to += n;
        }
        for (uint32_t x = (uint32_t)ids->v[i]; x || !k; x /= 10) digit[k++] = (char)('0' + x % 10);
        while (k) *to++ = digit[--k];
    }
    *to = 0;
    out->len = (size_t)(to - out->data);
    return NS_OK;
}

static ns_status add_ids(work *w, ns_error *err)
{
    ns_buf *out = &w->io.out;
    if (w->o->offsets) NS_TRY(ns_buf_adds(out, "{\"ids\": ", err), "%s", "");
    if (w->json) NS_TRY(ns_buf_addc(out, '[', err), "%s", "");
    NS_TRY(write_ids(out, &w->ids, w->json ? ", " : " ", err), "%s", "");
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
    return o->pieces ? add_pieces(w, err) : add_ids(w, err);
}

/* ---- many lines, many threads ---- */
/* Some lines of the input: what a thread does at a time. Their output is written in the order of the input, so the number of
 * threads shows nowhere. */
typedef struct part {
    work w;
    ns_status st;
    ns_error err;
} part;
enum { PART_BYTES = 1 << 18, PARTS_PER_THREAD = 4 };

static ns_status one_line(work *w, ns_str line, ns_error *err)
{
    size_t before = w->io.out.len;
    ns_status st = one_text(w, line.p, line.n, err);
    if (st != NS_OK) w->io.out.len = before;
    NS_TRY(st, "%s", w->io.where);
    return NS_OK;
}

static void run_part(void *arg, int tile, int worker)
{
    part *x = (part *)arg + tile;
    work *w = &x->w;
    ns_str line;
    (void)worker;
    x->st = NS_OK;
    x->err = (ns_error)NS_ERROR_INIT;
    while (x->st == NS_OK && tok_io_line(&w->io, &line)) x->st = one_line(w, line, &x->err);
}

/* The next lines of `from` into x, as an input of its own. */
static void take_part(work *from, part *x)
{
    tok_work *in = &from->io, *to = &x->w.io;
    size_t end = in->at + PART_BYTES;
    if (end < in->input.len) {
        const char *nl = memchr(in->input.data + end, '\n', in->input.len - end);
        end = nl ? (size_t)(nl - in->input.data) + 1 : in->input.len;
    } else
        end = in->input.len;
    to->input = (ns_buf){.data = in->input.data, .len = end};
    to->at = in->at;
    to->line = in->line;
    for (const char *p = in->input.data + in->at, *stop = in->input.data + end; p < stop; in->line++) {
        p = memchr(p, '\n', (size_t)(stop - p));
        p = p ? p + 1 : stop;
    }
    in->at = end;
}

static ns_status all_lines(work *w, ns_error *err)
{
    ns_threads *pool = NULL;
    part *parts = NULL;
    ns_status st = NS_OK;
    int n = 1;
    NS_CHECK(st, ns_threads_new(&pool, (int)w->o->threads, err), "threads");
    n = ns_threads_count(pool) * PARTS_PER_THREAD;
    NS_CHECK(st, ns_alloc((void **)&parts, (size_t)n * sizeof *parts, "tokenize", err), "%s", "");
    for (int i = 0; i < n; i++) {
        parts[i].w = (work){.o = w->o, .json = w->json};
        parts[i].w.io = (tok_work){.io = w->io.io, .literal_key = w->io.literal_key, .t = w->io.t};
    }
    while (st == NS_OK && w->io.at < w->io.input.len) {
        int k = 0;
        for (; k < n && w->io.at < w->io.input.len; k++) take_part(w, &parts[k]);
        ns_parallel_for(pool, k, run_part, parts);
        for (int i = 0; i < k && st == NS_OK; i++) {
            if (tok_io_flush(&parts[i].w.io, 1, err) != NS_OK)
                st = err->code;
            else if (parts[i].st != NS_OK) {
                *err = parts[i].err;
                st = parts[i].st;
            }
        }
    }
done:
    for (int i = 0; parts && i < n; i++) {
        ns_buf_free(&parts[i].w.io.out);
        free_work(&parts[i].w);
    }
    ns_free(parts);
    ns_threads_free(&pool);
    return st;
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
    if (o->chat) return chat(w, err);
    NS_FAIL_IF(o->tools || o->generation_prompt || o->render || o->add_bos || o->add_eos || chat_flags_given(&o->conv),
               NS_ERR_CONFIG, "an option for conversations is set without --chat");
    NS_FAIL_IF(o->count && (o->pieces || o->offsets), NS_ERR_CONFIG, "--count excludes --pieces and --offsets");
    NS_FAIL_IF(o->offsets && !o->pieces && !w->json, NS_ERR_CONFIG, "--offsets needs --pieces or --json");
    NS_TRY(tok_io_open(&w->io, err), "%s", "");
    NS_TRY(tok_io_read(&w->io, err), "%s", "");
    if (o->lines) return all_lines(w, err);
    NS_TRY(one_text(w, w->io.input.data, w->io.input.len, err), "%s", tok_io_name(&w->io));
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
    free_work(&w);
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
