/* Final writers: rows -> SFT or RL records, filled with prompts (data.md §2.9-2.10).
 *
 *   SFT: {[expected_answer | every key], input, output, metadata} or a chat record; one per distinct (question, output)
 *   RL:  {[expected_answer, problem | every key], input, task_name, metadata}; shuffled, cut to num_output_samples
 *
 * Records are ASCII-style JSON. The file appears under its name when it is complete, or not at all. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "data/format.h"
#include "data/prepare_fuse.h"
#include "data/prepare_rows.h"
#include "data/prompt.h"

enum { SLICE_ROWS = 8192 };
typedef enum chat_format { CHAT_NONE, CHAT_NEMOTRON, CHAT_LLAMA } chat_format;

typedef struct writer {
    const char *input_key, *output_key; /* output_key NULL: RL */
    ns_prompt *prompt;                  /* NULL: raw fields */
    chat_format chat;
    int exclude_optional;
    const ns_json *metadata; /* NULL or an object */
    /* RL */
    const char *task_name;
    ns_shuffler shuffle;
    ns_first seen; /* (question, output) pairs that were written */
    int64_t n_repeated;
    int done;
} writer;

static const char *const sft_params[] = {"prompt_config", "prompt_template",       "chat_format", "input_key",
                                         "output_key",    "exclude_optional_keys", "metadata",    NULL};
static const char *const rl_params[] = {
    "prompt_config", "prompt_template", "input_key",  "exclude_optional_keys", "metadata",
    "task_name",     "random_seed",     "do_shuffle", "num_output_samples",    NULL};

/* ---- options ---- */
/* The documented command has a stray '>' before ++output_path=...: the shell then sends standard output to a file of that name. */
static ns_status explain_redirection(ns_error *err)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/fd/1", path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    const char *name = strstr(path, "output_path=");
    if (!name || path[0] != '/') return NS_OK;
    while (name > path && name[-1] == '+') name--;
    NS_FAIL(NS_ERR_CONFIG,
            "output_path is not set, and standard output goes to a file named '%s': there is a '>' before it in the "
            "command, which is for the shell; take the '>' away (and remove that empty file)",
            name);
}

static ns_status init_common(ns_stage *s, ns_error *err)
{
    const char *config, *tmpl;
    const ns_node *meta;
    ns_json *v = NULL;
    NS_TRY(ns_alloc(&s->state, sizeof(writer), "prepare.writer", err), "writer");
    writer *w = s->state;
    ns_first_init(&w->seen, s->run, "writer", 0);
    if (!s->output_manifest) NS_TRY(explain_redirection(err), "%s", "writer");
    NS_FAIL_IF(
        !s->output_manifest, NS_ERR_CONFIG,
        "output_path is not set: add ++output_path=FILE.jsonl (the rows go to that file, the log to standard error)");
    NS_TRY(ns_param_str(s, "input_key", "input", &w->input_key, err), "writer");
    NS_TRY(ns_param_bool(s, "exclude_optional_keys", 1, &w->exclude_optional, err), "writer");
    NS_TRY(ns_param_str(s, "prompt_config", NULL, &config, err), "writer");
    NS_TRY(ns_param_str(s, "prompt_template", NULL, &tmpl, err), "writer");
    NS_TRY(ns_param(s, "metadata", &meta, err), "writer");
    NS_FAIL_IF(meta && meta->type != NS_NODE_MAP, NS_ERR_CONFIG,
               "metadata is a %s, expected a map: ++metadata={source:gsm8k}", ns_node_type_name(meta->type));
    if (meta) NS_TRY(ns_json_from_node(&v, &s->run->arena, meta, err), "metadata");
    w->metadata = v;
    if (config && *config && tmpl && *tmpl)
        NS_TRY(ns_prompt_load(&w->prompt, &(ns_prompt_options){config, tmpl, NULL}, err), "writer");
    else
        NS_WARN("Prompt details are missing! The processed data won't be formatted using any prompt.%s%s",
                config ? " (prompt_template is not set)" : "", !config && tmpl ? " (prompt_config is not set)" : "");
    return NS_OK;
}

static ns_status sft_init(ns_stage *s, ns_error *err)
{
    const char *chat;
    ns_status st = init_common(s, err);
    if (st != NS_OK) return st;
    writer *w = s->state;
    NS_TRY(ns_param_str(s, "output_key", "output", &w->output_key, err), "writer");
    NS_TRY(ns_param_str(s, "chat_format", NULL, &chat, err), "writer");
    w->chat = !chat ? CHAT_NONE : !strcasecmp(chat, "nemotron") ? CHAT_NEMOTRON : CHAT_LLAMA;
    NS_FAIL_IF(w->chat == CHAT_LLAMA && strcasecmp(chat, "llama"), NS_ERR_CONFIG,
               "chat_format=%s: expected nemotron, llama or null", chat);
    return NS_OK;
}

static ns_status rl_init(ns_stage *s, ns_error *err)
{
    ns_status st = init_common(s, err);
    if (st != NS_OK) return st;
    writer *w = s->state;
    NS_TRY(ns_param_str(s, "task_name", NULL, &w->task_name, err), "writer");
    NS_TRY(ns_param_int(s, "random_seed", 0, &w->shuffle.seed, err), "writer");
    NS_TRY(ns_param_bool(s, "do_shuffle", 1, &w->shuffle.do_shuffle, err), "writer");
    return ns_param_int(s, "num_output_samples", -1, &w->shuffle.n_samples, err);
}

static void writer_free(ns_stage *s)
{
    writer *w = s->state;
    if (!w) return;
    ns_prompt_free(&w->prompt);
    ns_shuffler_free(&w->shuffle);
    ns_first_free(&w->seen);
    ns_free(w);
}

/* ---- records ---- */
static ns_status set_str(ns_json *o, ns_arena *a, const char *key, const char *p, size_t n, ns_error *err)
{
    char *copy = ns_arena_strndup(a, p ? p : "", n, err);
    NS_FAIL_IF(!copy, NS_ERR_MEMORY, "record");
    ns_json v = {.type = NS_JSON_STRING, .s = {copy, n}};
    return ns_json_set(o, a, key, &v, err);
}

/* expected_answer as text, whatever it was. */
static ns_status set_answer(ns_json *record, const ns_json *row, ns_arena *a, ns_error *err)
{
    const ns_json *answer = ns_json_get(row, "expected_answer");
    ns_buf b = {0};
    if (!answer) return NS_OK;
    ns_status st = ns_py_str(&b, answer, err);
    if (st == NS_OK) st = set_str(record, a, "expected_answer", b.data, b.len, err);
    ns_buf_free(&b);
    return st;
}

static ns_status put_metadata(ns_json *record, const writer *w, ns_arena *a, ns_error *err)
{
    for (size_t i = 0; w->metadata && i < w->metadata->n; i++)
        NS_TRY(ns_json_set(record, a, w->metadata->keys[i].p, &w->metadata->items[i], err), "metadata");
    return NS_OK;
}

static ns_status turn(ns_json *list, ns_arena *a, const char *from, ns_str value, ns_error *err)
{
    ns_json *t = ns_json_new(a, NS_JSON_OBJECT, err);
    NS_FAIL_IF(!t, NS_ERR_MEMORY, "record");
    NS_TRY(set_str(t, a, "value", value.p, value.n, err), "turn");
    NS_TRY(set_str(t, a, "from", from, strlen(from), err), "turn");
    NS_TRY(set_str(t, a, "canonical_form", "", 0, err), "turn");
    return ns_json_append(list, a, t, err);
}

/* The user text has no few-shot examples; the system text is raw. */
static ns_status chat_record(ns_json *record, const writer *w, const ns_json *row, ns_str output, const char *where,
                             ns_arena *a, ns_error *err)
{
    int llama = w->chat == CHAT_LLAMA;
    const char *user_name = llama ? "<|start_header_id|>user<|end_header_id|>" : "User";
    const char *reply_name = llama ? "<|start_header_id|>assistant<|end_header_id|>" : "Assistant";
    ns_buf user = {0};
    ns_str raw;
    ns_status st = NS_OK;
    ns_json *list = ns_json_new(a, NS_JSON_ARRAY, err);
    NS_BAIL_IF(st, !list, NS_ERR_MEMORY, "%s", where);
    if (w->prompt) {
        NS_CHECK(st, ns_prompt_user(w->prompt, &user, row, w->output_key, 0, where, err), "chat record");
    } else {
        NS_CHECK(st, ns_row_text(&raw, row, w->input_key, where, err), "chat record");
        NS_CHECK(st, ns_buf_add(&user, raw.p, raw.n, err), "chat record");
    }
    NS_CHECK(st, turn(list, a, user_name, (ns_str){user.data ? user.data : "", user.len}, err), "chat record");
    NS_CHECK(st, turn(list, a, reply_name, output, err), "chat record");
    NS_CHECK(st, ns_json_set(record, a, "conversations", list, err), "chat record");
    const char *system = w->prompt ? w->prompt->system : "";
    NS_CHECK(st, set_str(record, a, "system", system, strlen(system), err), "chat record");
    NS_CHECK(st, set_str(record, a, "mask", user_name, strlen(user_name), err), "chat record");
done:
    ns_buf_free(&user);
    return st;
}

/* The filled prompt, or the raw input field. */
static ns_status set_input(ns_json *record, const writer *w, const ns_json *row, const char *where, ns_arena *a,
                           ns_error *err)
{
    ns_buf b = {0};
    ns_status st = NS_OK;
    if (w->prompt) {
        NS_CHECK(st, ns_prompt_fill(w->prompt, &b, row, w->output_key, where, err), "prompt");
        NS_CHECK(st, set_str(record, a, "input", b.data, b.len, err), "%s", where);
    } else {
        const ns_json *v = ns_json_get(row, w->input_key);
        ns_str unused;
        if (!v) {
            st = ns_row_text(&unused, row, w->input_key, where, err);
            goto done;
        }
        ns_json copy = *v;
        NS_CHECK(st, ns_json_set(record, a, "input", &copy, err), "%s", where);
    }
done:
    ns_buf_free(&b);
    return st;
}

/* A copy of the row that can grow without touching the row. */
static ns_json *copy_row(const ns_json *row, ns_arena *a, ns_error *err)
{
    ns_json *c = ns_json_new(a, NS_JSON_OBJECT, err);
    for (size_t i = 0; c && i < row->n; i++) {
        const char *key = ns_arena_strndup(a, row->keys[i].p, row->keys[i].n, err);
        if (!key || ns_json_set(c, a, key, &row->items[i], err) != NS_OK) return NULL;
    }
    return c;
}

/* What sft_record makes by way of a tree, for the usual case. */
static ns_status plain_record(const writer *w, const ns_json *row, ns_str output, const char *where, ns_buf *out,
                              ns_error *err)
{
    const ns_json *answer = ns_json_get(row, "expected_answer");
    ns_buf b = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_buf_adds(out, "{", err), "record");
    if (answer) {
        NS_CHECK(st, ns_py_str(&b, answer, err), "%s", where);
        NS_CHECK(st, ns_buf_adds(out, "\"expected_answer\": ", err), "record");
        NS_CHECK(st, ns_json_write_str(out, (ns_str){b.data ? b.data : "", b.len}, NS_JSON_ASCII, err), "%s", where);
        NS_CHECK(st, ns_buf_adds(out, ", ", err), "record");
        ns_buf_clear(&b);
    }
    NS_CHECK(st, ns_buf_reserve(&b, 1 << 10, err), "record");
    NS_CHECK(st, ns_prompt_fill(w->prompt, &b, row, w->output_key, where, err), "prompt");
    NS_CHECK(st, ns_buf_adds(out, "\"input\": ", err), "record");
    NS_CHECK(st, ns_json_write_str(out, (ns_str){b.data, b.len}, NS_JSON_ASCII, err), "%s", where);
    NS_CHECK(st, ns_buf_adds(out, ", \"output\": ", err), "record");
    NS_CHECK(st, ns_json_write_str(out, output, NS_JSON_ASCII, err), "%s", where);
    size_t quote = out->len - 1; /* assistant_end goes on within the string */
    ns_str end = {w->prompt->t.assistant_end, strlen(w->prompt->t.assistant_end)};
    NS_CHECK(st, ns_json_write_str(out, end, NS_JSON_ASCII, err), "%s", where);
    memmove(out->data + quote, out->data + quote + 2, out->len - quote - 2);
    out->len -= 2;
    NS_CHECK(st, ns_buf_adds(out, "}", err), "record");
done:
    ns_buf_free(&b);
    return st;
}

static ns_status sft_record(const writer *w, const ns_json *row, const char *where, ns_arena *a, ns_buf *out,
                            ns_hash *key, ns_error *err)
{
    ns_json *record;
    ns_str question, output;
    NS_TRY(ns_row_text(&question, row, w->input_key, where, err), "writer");
    NS_TRY(ns_row_text(&output, row, w->output_key, where, err), "writer");
    *key = ns_hash_bytes((ns_hash){{0, 0}}, question.p, question.n);
    *key = ns_hash_bytes(*key, output.p, output.n);
    if (w->prompt && !w->chat && w->exclude_optional && !w->metadata)
        return plain_record(w, row, output, where, out, err);
    record = w->exclude_optional ? ns_json_new(a, NS_JSON_OBJECT, err) : copy_row(row, a, err);
    NS_FAIL_IF(!record, NS_ERR_MEMORY, "%s", where);
    if (w->exclude_optional) NS_TRY(set_answer(record, row, a, err), "%s", where);
    if (w->chat) {
        NS_TRY(chat_record(record, w, row, output, where, a, err), "%s", where);
    } else {
        const char *end = w->prompt ? w->prompt->t.assistant_end : "";
        ns_buf text = {0};
        NS_TRY(set_input(record, w, row, where, a, err), "%s", where);
        ns_status st = ns_buf_add(&text, output.p, output.n, err);
        if (st == NS_OK) st = ns_buf_adds(&text, end, err);
        if (st == NS_OK) st = set_str(record, a, "output", text.data, text.len, err);
        ns_buf_free(&text);
        if (st != NS_OK) return st;
    }
    NS_TRY(put_metadata(record, w, a, err), "%s", where);
    return ns_json_write(out, record, NS_JSON_ASCII, err);
}

static ns_status rl_record(const writer *w, const ns_json *row, const char *where, ns_arena *a, ns_buf *out,
                           ns_error *err)
{
    ns_json *record;
    record = w->exclude_optional ? ns_json_new(a, NS_JSON_OBJECT, err) : copy_row(row, a, err);
    NS_FAIL_IF(!record, NS_ERR_MEMORY, "%s", where);
    if (w->exclude_optional) {
        const ns_json *problem = ns_json_get(row, "problem");
        NS_TRY(set_answer(record, row, a, err), "%s", where);
        if (problem) NS_TRY(ns_json_set(record, a, "problem", problem, err), "%s", where);
    }
    NS_TRY(set_input(record, w, row, where, a, err), "%s", where);
    if (w->task_name)
        NS_TRY(set_str(record, a, "task_name", w->task_name, strlen(w->task_name), err), "%s", where);
    else
        NS_TRY(ns_json_set(record, a, "task_name", ns_json_new(a, NS_JSON_NULL, err), err), "%s", where);
    NS_TRY(put_metadata(record, w, a, err), "%s", where);
    return ns_json_write(out, record, NS_JSON_ASCII, err);
}

ns_status ns_writer_record(const ns_stage *s, const ns_json *row, const char *where, ns_arena *a, ns_buf *out,
                           ns_hash *key, ns_error *err)
{
    const writer *w = s->state;
    return w->output_key ? sft_record(w, row, where, a, out, key, err) : rl_record(w, row, where, a, out, err);
}

int ns_writer_is_short(const ns_stage *s)
{
    const writer *w = s->state;
    return !w->prompt || !w->prompt->few_shot.type || w->chat;
}

static ns_status write_row(void *arg, const ns_line *in, const char *where, ns_arena *a, ns_buf *out, ns_line *note,
                           ns_error *err)
{
    ns_json *row;
    NS_TRY(ns_row_parse(&row, a, in, where, err), "writer");
    return ns_writer_record(arg, row, where, a, out, &note->key, err);
}

/* ---- writing ---- */
static ns_status put_line(ns_out_file *f, const ns_line *l, ns_error *err)
{
    NS_TRY(ns_file_write(f->f, l->p, l->n, err), "write");
    return ns_file_write(f->f, "\n", 1, err);
}

/* Writes the records, each (question, output) once. */
static ns_status put_new(ns_stage *s, const ns_block *b, ns_out_file *f, ns_error *err)
{
    writer *w = s->state;
    for (size_t i = 0; i < b->n; i++) {
        ns_seen seen = NS_SEEN_NEW;
        if (w->output_key) NS_TRY(ns_first_see(&w->seen, &b->line[i], &seen, NULL, err), "writer");
        if (seen == NS_SEEN_AGAIN) {
            w->n_repeated++;
            NS_TRY(ns_stage_drops(s, &b->line[i], "repeated", err), "writer");
        }
        if (seen != NS_SEEN_NEW) continue;
        NS_TRY(put_line(f, &b->line[i], err), "writer");
        s->run->n_written++;
    }
    return NS_OK;
}

/* Turns rows into records and writes them, a slice at a time: the text of all records is never held at once. */
static ns_status write_rows(ns_stage *s, ns_block *in, ns_out_file *f, ns_error *err)
{
    const ns_fuse *fuse = s->run->fuse;
    for (size_t i = 0; fuse && i < in->n; i++) {
        ns_note note = ns_fuse_note(&in->line[i]);
        if (note.failed) return ns_fuse_raise(&in->line[i], err);
        in->line[i] = ns_fuse_strip(&in->line[i]);
        in->line[i].key = note.record;
    }
    if (fuse && fuse->render) return put_new(s, in, f, err);
    for (size_t from = 0; from < in->n;) {
        size_t n = 0, bytes = 0;
        while (from + n < in->n && n < SLICE_ROWS && bytes < ns_prepare_block_bytes(s->run))
            bytes += in->line[from + n++].n;
        ns_block slice = {.line = in->line + from, .n = n}, out = {0};
        ns_status st = ns_block_map(&out, &slice, s->run, 0, write_row, s, err);
        if (st == NS_OK) st = put_new(s, &out, f, err);
        ns_block_free(&out);
        if (st != NS_OK) return st;
        from += n;
    }
    return NS_OK;
}

static ns_status pull_next(ns_stage *s, ns_block *out, ns_error *err)
{
    writer *w = s->state;
    if (w->output_key) return ns_stage_next(s->input, out, err);
    int first = !w->shuffle.pulled;
    NS_TRY(ns_shuffler_next(&w->shuffle, s, out, err), "rows");
    if (first) NS_INFO("Full dataset size: %zu", w->shuffle.n_in);
    if (first && w->shuffle.n_samples >= 0) NS_INFO("Downsampled dataset size: %zu", w->shuffle.n_kept);
    return NS_OK;
}

static ns_status write_all(ns_stage *s, ns_out_file *f, ns_error *err)
{
    writer *w = s->state;
    for (size_t n = 1; n > 0;) {
        ns_block in = {0};
        ns_status st = pull_next(s, &in, err);
        if (st == NS_OK) st = write_rows(s, &in, f, err);
        n = in.n;
        s->n_seen += (int64_t)n;
        ns_block_free(&in);
        if (st != NS_OK) return st;
    }
    for (size_t n = 1; n > 0;) {
        ns_block rest = {0};
        ns_status st = ns_first_rest(&w->seen, &rest, err);
        if (st == NS_OK) st = put_new(s, &rest, f, err);
        n = rest.n;
        ns_block_free(&rest);
        if (st != NS_OK) return st;
    }
    return NS_OK;
}

static ns_status write_next(ns_stage *s, ns_block *unused, ns_error *err)
{
    writer *w = s->state;
    (void)unused;
    if (w->done) return NS_OK;
    w->done = 1;
    NS_TRY(ns_out_open(&s->manifest, s->output_manifest, err), "output_path");
    NS_TRY(write_all(s, &s->manifest, err), "output_path");
    NS_TRY(ns_out_commit(&s->manifest, err), "output_path");
    if (w->output_key) NS_INFO("Prepared dataset size: %" PRId64, s->run->n_written);
    if (w->n_repeated)
        NS_INFO("%" PRId64 " rows repeated an earlier question and output and were left out", w->n_repeated);
    if (!s->run->n_written) NS_WARN("%s has no rows: every row was filtered out", s->output_manifest);
    return NS_OK;
}

static ns_status write_report(const ns_stage *s, ns_json *o, ns_arena *a, ns_error *err)
{
    const writer *w = s->state;
    if (w->output_key) return ns_json_set(o, a, "repeated", ns_json_new_int(a, w->n_repeated, err), err);
    return ns_json_set(o, a, "removed", ns_json_new_int(a, s->n_removed, err), err);
}

const ns_stage_class ns_stage_write_sft = {.name = "WriteFinalSftManifest",
                                           .params = sft_params,
                                           .init = sft_init,
                                           .next = write_next,
                                           .free = writer_free,
                                           .report = write_report};
const ns_stage_class ns_stage_write_rl = {.name = "WriteFinalRLManifest",
                                          .params = rl_params,
                                          .init = rl_init,
                                          .next = write_next,
                                          .free = writer_free,
                                          .report = write_report};
