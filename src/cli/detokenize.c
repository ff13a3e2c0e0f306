/* `ns detokenize`: token ids to text. One sequence a line: a JSON array, a JSON object with "ids" or "input_ids", or
 * numbers with blanks or commas between them. Bytes come out as they are, so `ns tokenize | ns detokenize` is exact. With
 * --stream the input is one sequence of numbers, and text is written as soon as its characters are whole. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mem.h"
#include "cli/tok_io.h"
#include "tok/unicode.h"

typedef struct detokenize_options {
    tok_io io; /* first: TOK_IO_OPTIONS count on it */
    int lines, skip_special, stream;
} detokenize_options;

static const ns_option opts[] = {
    TOK_IO_OPTIONS("ids", "the ids themselves", "file of ids, one sequence a line; - is standard input"),
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
    {.key = "stream",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = offsetof(detokenize_options, stream),
     .def = "false",
     .help = "all input is one text; write its characters as ids come in (what is not UTF-8 as U+FFFD)"},
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

/* JSON must be UTF-8: what is not becomes U+FFFD (ids may end inside a character). */
static ns_status add_json(ns_buf *out, ns_buf *clean, const ns_buf *text, ns_error *err)
{
    ns_buf_clear(clean);
    NS_TRY(ns_buf_reserve(clean, 1, err), "%s", "");
    NS_TRY(ns_utf8_repair(clean, (const uint8_t *)(text->data ? text->data : ""), text->len, err), "%s", "");
    NS_TRY(ns_json_write_str(out, (ns_str){clean->data, clean->len}, NS_JSON_UTF8, err), "%s", "");
    return ns_buf_addc(out, '\n', err);
}

typedef struct work {
    tok_work io;
    const detokenize_options *o;
    int json;
    ns_buf text, clean;
    ns_ids ids;
    size_t n_texts;
} work;

static ns_status one_line(work *w, ns_str line, ns_error *err)
{
    const detokenize_options *o = w->o;
    const char *where = w->io.where;
    ns_buf *out = &w->io.out;
    int is_json = line.n && (line.p[0] == '[' || line.p[0] == '{');
    w->ids.n = 0;
    ns_buf_clear(&w->text);
    NS_TRY((is_json ? ids_of_json : ids_of_words)(&w->ids, line.p, line.n, where, err), "%s", "");
    NS_TRY(ns_tok_decode(w->io.t, &w->text, w->ids.v, w->ids.n, o->skip_special, err), "%s", where);
    if (w->json) return add_json(out, &w->clean, &w->text, err);
    if (w->n_texts++ && !o->lines) NS_TRY(ns_buf_addc(out, '\n', err), "%s", where);
    if (w->text.len) NS_TRY(ns_buf_add(out, w->text.data, w->text.len, err), "%s", where);
    return o->lines ? ns_buf_addc(out, '\n', err) : NS_OK;
}

/* Numbers of any input, in pieces of what has come; a number may be cut by a piece's end. */
static ns_status stream(work *w, int fd, ns_error *err)
{
    ns_tok_stream s = {.t = w->io.t, .skip_special = w->o->skip_special};
    ns_status st = NS_OK;
    char block[4096];
    ns_buf *in = &w->text;
    const char *name = tok_io_name(&w->io);
    for (ssize_t got = 1; got > 0;) {
        do got = read(fd, block, sizeof block);
        while (got < 0 && errno == EINTR);
        NS_BAIL_IF(st, got < 0, NS_ERR_IO, "cannot read %s: %s", name, strerror(errno));
        for (ssize_t i = 0; i < got; i++)
            if (block[i] == '\n') block[i] = ' ';
        NS_CHECK(st, ns_buf_add(in, block, (size_t)got, err), "%s", name);
        size_t ready = in->len;
        while (got > 0 && ready > 0 && in->data[ready - 1] >= '0' && in->data[ready - 1] <= '9') ready--;
        w->ids.n = 0;
        NS_CHECK(st, ids_of_words(&w->ids, in->data, ready, name, err), "%s", "");
        memmove(in->data, in->data + ready, in->len - ready + 1);
        in->len -= ready;
        NS_BAIL_IF(st, in->len > 20, NS_ERR_INPUT, "%s: a number of more than 20 digits is no token id", name);
        NS_CHECK(st, ns_tok_stream_push(&s, &w->io.out, w->ids.v, w->ids.n, err), "%s", name);
        NS_CHECK(st, tok_io_flush(&w->io, 1, err), "%s", "");
    }
    NS_CHECK(st, ns_tok_stream_end(&s, &w->io.out, err), "%s", name);
    w->n_texts = 1;
done:
    ns_tok_stream_free(&s);
    return st;
}

static ns_status detokenize(work *w, ns_error *err)
{
    const detokenize_options *o = w->o;
    ns_str line;
    NS_FAIL_IF(o->stream && (w->json || o->lines || o->io.literal), NS_ERR_CONFIG,
               "--stream excludes --json, --lines and --ids");
    NS_TRY(tok_io_open(&w->io, err), "%s", "");
    if (o->stream) {
        int fd = strcmp(o->io.input, "-") ? open(o->io.input, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
        NS_FAIL_IF(fd < 0, NS_ERR_IO, "cannot open '%s': %s", o->io.input, strerror(errno));
        ns_status st = stream(w, fd, err);
        if (fd != STDIN_FILENO) close(fd);
        NS_TRY(st, "%s", "");
    } else {
        NS_TRY(tok_io_read(&w->io, err), "%s", "");
        while (tok_io_line(&w->io, &line)) {
            NS_TRY(one_line(w, line, err), "%s", "");
            NS_TRY(tok_io_flush(&w->io, 0, err), "%s", "");
        }
    }
    /* on a terminal the prompt starts on a line of its own */
    if (!w->json && !o->lines && w->n_texts && isatty(STDOUT_FILENO))
        NS_TRY(ns_buf_addc(&w->io.out, '\n', err), "%s", "");
    return tok_io_flush(&w->io, 1, err);
}

static int run(void *options, ns_parsed *p)
{
    ns_error err = NS_ERROR_INIT;
    const detokenize_options *o = options;
    work w = {.io = {.io = &o->io, .literal_key = "--ids"}, .o = o, .json = p->json};
    ns_status st = detokenize(&w, &err);
    tok_io_close(&w.io);
    ns_buf_free(&w.text);
    ns_buf_free(&w.clean);
    ns_ids_free(&w.ids);
    return st == NS_OK ? 0 : ns_cli_fail("detokenize", &err);
}

const ns_verb ns_verb_detokenize = {
    .name = "detokenize",
    .group = "data",
    .summary = "turn token ids back into text",
    .usage = "ns detokenize --tokenizer DIR [--input FILE | --ids \"1 2 3\"] [--lines] [--stream] [--json]",
    .examples = "ns detokenize -t llama3 --ids '9906 1917'\n"
                "ns tokenize -t llama3 <book.txt | ns detokenize -t llama3 | cmp - book.txt\n"
                "ns detokenize -t qwen2.5 --json -i ids.jsonl\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(detokenize_options),
    .run = run,
};
