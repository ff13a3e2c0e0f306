/* `ns infer`: rows in, rows with a greedy generation out (documented keys of the generation program, pipelines.md §4.4). The output
 * is in input order and written atomically at the end; rows finished before a kill are in `<output_file>-async`, and
 * ++skip_filled=True goes on from there. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "ckpt/model_io.h"
#include "cli/cli.h"
#include "data/prompt.h"
#include "infer/generate.h"

typedef struct infer_options {
    const char *model, *input_file, *output_file, *prompt_config, *prompt_template, *examples_type, *generation_key,
        *input_key, *isa;
    int64_t max_new, max_samples, batch_size, threads;
    double temperature;
    int64_t top_k;
    double top_p, repetition_penalty;
    int skip_filled, dry_run, f32;
    ns_opt_list stops;
} infer_options;

#define AT(f) offsetof(infer_options, f)
static const ns_option options[] = {
    {.key = "model",
     .type = NS_OPT_STRING,
     .at = AT(model),
     .def = "???",
     .flags = NS_OPT_MODEL | NS_OPT_REQUIRED,
     .help = "Hugging Face folder, NeMo folder or .nemo file"},
    {.key = "input_file",
     .type = NS_OPT_STRING,
     .at = AT(input_file),
     .def = "???",
     .flags = NS_OPT_REQUIRED,
     .help = "rows: JSONL (also .gz, .zst) or Parquet"},
    {.key = "output_file",
     .type = NS_OPT_STRING,
     .at = AT(output_file),
     .def = "???",
     .flags = NS_OPT_REQUIRED,
     .help = "JSONL rows with the generation added"},
    {.key = "prompt_config",
     .type = NS_OPT_STRING,
     .at = AT(prompt_config),
     .help = "what to ask: a shipped name or a .yaml path; without it input_key is the whole prompt"},
    {.key = "prompt_template",
     .type = NS_OPT_STRING,
     .at = AT(prompt_template),
     .help = "the model's turn tags: a shipped name or a .yaml path"},
    {.key = "examples_type", .type = NS_OPT_STRING, .at = AT(examples_type), .help = "few-shot set"},
    {.key = "input_key",
     .type = NS_OPT_STRING,
     .at = AT(input_key),
     .def = "input",
     .help = "the prompt's field when there is no prompt_config"},
    {.key = "generation_key",
     .type = NS_OPT_STRING,
     .at = AT(generation_key),
     .def = "generation",
     .help = "output field"},
    {.key = "inference.tokens_to_generate",
     .type = NS_OPT_INT,
     .at = AT(max_new),
     .def = "2048",
     .min = 1,
     .max = 1e7,
     .help = "new tokens at most; shortened to what the model's positions allow"},
    {.key = "inference.temperature",
     .type = NS_OPT_FLOAT,
     .at = AT(temperature),
     .def = "0.0",
     .min = 0,
     .max = 100,
     .help = "only 0 (greedy) is available"},
    {.key = "inference.top_k",
     .type = NS_OPT_INT,
     .at = AT(top_k),
     .def = "0",
     .min = 0,
     .max = 1e9,
     .help = "no effect at temperature 0"},
    {.key = "inference.top_p",
     .type = NS_OPT_FLOAT,
     .at = AT(top_p),
     .def = "0.95",
     .min = 0,
     .max = 1,
     .help = "no effect at temperature 0"},
    {.key = "inference.repetition_penalty",
     .type = NS_OPT_FLOAT,
     .at = AT(repetition_penalty),
     .def = "1.0",
     .min = 0,
     .max = 100,
     .help = "only 1.0 is available"},
    {.key = "extra_stop_phrases", .type = NS_OPT_LIST, .at = AT(stops), .def = "[]", .help = "added to the template's"},
    {.key = "batch_size",
     .type = NS_OPT_INT,
     .at = AT(batch_size),
     .def = "64",
     .min = 1,
     .max = 65536,
     .help = "sequences in flight"},
    {.key = "max_samples",
     .type = NS_OPT_INT,
     .at = AT(max_samples),
     .def = "-1",
     .min = -1,
     .max = 9e15,
     .help = "only the first rows; <= 0: all"},
    {.key = "skip_filled",
     .type = NS_OPT_BOOL,
     .at = AT(skip_filled),
     .def = "false",
     .help = "keep what an earlier run finished"},
    {.key = "dry_run",
     .type = NS_OPT_BOOL,
     .at = AT(dry_run),
     .def = "false",
     .help = "print the first prompt and stop"},
    {.key = "f32",
     .type = NS_OPT_BOOL,
     .at = AT(f32),
     .def = "false",
     .help = "compute in fp32 whatever the model is stored as"},
    {.key = "isa",
     .type = NS_OPT_STRING,
     .at = AT(isa),
     .def = "auto",
     .help = "CPU level: auto, amx, avx512, f32, ref"},
    {.key = "threads",
     .type = NS_OPT_INT,
     .at = AT(threads),
     .def = "0",
     .min = 0,
     .max = 4096,
     .help = "CPU threads; 0: all"},
};

/* All rows in memory: prompts must be known before the cache is sized. */
typedef struct job {
    const infer_options *o;
    ns_arena arena;
    ns_json **rows;
    ns_str *prompts, *results;
    char **wheres;
    int64_t *order; /* rows to generate */
    int64_t n, n_todo;
    ns_generator *g;
    ns_tok *tok;
    FILE *part; /* <output_file>-async */
    ns_progress *progress;
    int64_t n_done;
} job;

static ns_status read_rows(job *j, ns_error *err)
{
    ns_jsonl *in = NULL;
    const char *line, *where;
    size_t n, cap = 0, cap2 = 0;
    ns_status st;
    NS_CHECK(st, ns_jsonl_open(&in, j->o->input_file, err), "read rows");
    while (j->o->max_samples <= 0 || j->n < j->o->max_samples) {
        NS_CHECK(st, ns_jsonl_next_line(in, &line, &n, &where, err), "read rows");
        if (!line) break;
        NS_CHECK(st, ns_grow((void **)&j->rows, &cap, (size_t)j->n + 1, sizeof *j->rows, "infer.rows", err), "rows");
        NS_CHECK(st, ns_grow((void **)&j->wheres, &cap2, (size_t)j->n + 1, sizeof *j->wheres, "infer.rows", err),
                 "rows");
        char *copy = ns_arena_strndup(&j->arena, line, n, err);
        j->wheres[j->n] = ns_arena_strdup(&j->arena, where, err);
        NS_BAIL_IF(st, !copy || !j->wheres[j->n], NS_ERR_MEMORY, "out of memory reading %s", where);
        NS_CHECK(st, ns_json_parse(&j->rows[j->n], &j->arena, copy, n, j->wheres[j->n], NS_JSON_LONE_OK, err),
                 "read rows");
        NS_BAIL_IF(st, j->rows[j->n]->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s: found a %s, expected an object", where,
                   j->rows[j->n]->type == NS_JSON_ARRAY ? "list" : "value");
        j->n++;
    }
    NS_BAIL_IF(st, j->n == 0, NS_ERR_INPUT, "%s: no rows", j->o->input_file);
done:
    ns_jsonl_close(&in);
    return st;
}

static ns_status fill_prompts(job *j, const ns_prompt *p, ns_error *err)
{
    ns_buf text = {0};
    ns_status st = ns_alloc((void **)&j->prompts, (size_t)j->n * sizeof *j->prompts, "infer.prompts", err);
    for (int64_t i = 0; st == NS_OK && i < j->n; i++) {
        ns_buf_clear(&text);
        if (p) {
            st = ns_prompt_fill(p, &text, j->rows[i], NULL, j->wheres[i], err);
        } else {
            const ns_json *v = ns_json_get(j->rows[i], j->o->input_key);
            NS_BAIL_IF(st, !v || v->type != NS_JSON_STRING, NS_ERR_INPUT,
                       "%s: no text field \"%s\" (set input_key or prompt_config)", j->wheres[i], j->o->input_key);
            st = ns_buf_add(&text, v->s.p, v->s.n, err);
        }
        if (st != NS_OK) break;
        j->prompts[i] = (ns_str){ns_arena_strndup(&j->arena, text.data ? text.data : "", text.len, err), text.len};
        NS_BAIL_IF(st, !j->prompts[i].p, NS_ERR_MEMORY, "out of memory for prompts");
    }
done:
    ns_buf_free(&text);
    return st;
}

static ns_status put_prompt(void *user, int64_t i, ns_ids *ids, ns_error *err)
{
    job *j = user;
    ns_str s = j->prompts[j->order[i]];
    return ns_tok_encode(j->tok, ids, s.p, s.n, 0, err);
}

/* One output row: the generation first, then the input's fields that it does not replace. */
static ns_status format_row(job *j, ns_buf *out, int64_t i, const char *text, size_t n, int64_t n_tokens,
                            int with_position, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("infer.row");
    ns_json *row = ns_json_new(&a, NS_JSON_OBJECT, err);
    ns_json gen = {.type = NS_JSON_STRING, .s = {text, n}};
    ns_status st = row ? NS_OK : NS_ERR_MEMORY;
    if (st == NS_OK) st = ns_json_set(row, &a, "num_generated_tokens", ns_json_new_int(&a, n_tokens, err), err);
    if (st == NS_OK) st = ns_json_set(row, &a, j->o->generation_key, &gen, err);
    for (size_t k = 0; st == NS_OK && k < j->rows[i]->n; k++) {
        char *key = ns_arena_strndup(&a, j->rows[i]->keys[k].p, j->rows[i]->keys[k].n, err);
        if (!key)
            st = NS_ERR_MEMORY;
        else if (!ns_json_get(row, key))
            st = ns_json_set(row, &a, key, &j->rows[i]->items[k], err);
    }
    if (st == NS_OK && with_position) st = ns_json_set(row, &a, "_async_position", ns_json_new_int(&a, i, err), err);
    if (st == NS_OK) st = ns_json_write(out, row, NS_JSON_ASCII, err);
    if (st == NS_OK) st = ns_buf_addc(out, '\n', err);
    ns_arena_free(&a);
    return st;
}

static ns_status done_one(void *user, int64_t k, const char *text, size_t n, int64_t n_tokens, ns_error *err)
{
    job *j = user;
    int64_t i = j->order[k];
    ns_buf line = {0}, plain = {0};
    ns_status st = format_row(j, &line, i, text, n, n_tokens, 1, err);
    if (st == NS_OK) st = format_row(j, &plain, i, text, n, n_tokens, 0, err);
    if (st == NS_OK && (fwrite(line.data, 1, line.len, j->part) != line.len || fflush(j->part)))
        st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "%s-async: write failed (disk full?)", j->o->output_file);
    if (st == NS_OK) {
        j->results[i] = (ns_str){ns_arena_strndup(&j->arena, plain.data, plain.len, err), plain.len};
        if (!j->results[i].p) st = NS_ERR_MEMORY;
    }
    ns_progress_set(j->progress, (double)++j->n_done, "");
    ns_buf_free(&line);
    ns_buf_free(&plain);
    return st;
}

/* Rows that an interrupted run finished; a torn last line is ignored. */
static ns_status take_finished(job *j, const char *part, ns_error *err)
{
    ns_buf in = {0}, row = {0};
    ns_status st = NS_OK;
    if (!ns_path_exists(part)) return NS_OK;
    NS_CHECK(st, ns_file_read(&in, part, err), "read %s", part);
    for (char *line = in.data, *end; line && (end = strchr(line, '\n')); line = end + 1) {
        ns_json *v;
        int64_t i;
        if (ns_json_parse(&v, &j->arena, line, (size_t)(end - line), part, NS_JSON_LONE_OK, NULL) != NS_OK) continue;
        const ns_json *pos = ns_json_get(v, "_async_position"), *gen = ns_json_get(v, j->o->generation_key),
                      *len = ns_json_get(v, "num_generated_tokens");
        int64_t n_tokens = 0;
        if (!pos || !ns_json_is_int(pos, &i) || i < 0 || i >= j->n || !gen || gen->type != NS_JSON_STRING) continue;
        if (len) ns_json_is_int(len, &n_tokens);
        ns_buf_clear(&row);
        NS_CHECK(st, format_row(j, &row, i, gen->s.p, gen->s.n, n_tokens, 0, err), "%s", part);
        j->results[i] = (ns_str){ns_arena_strndup(&j->arena, row.data, row.len, err), row.len};
        NS_BAIL_IF(st, !j->results[i].p, NS_ERR_MEMORY, "out of memory");
    }
done:
    ns_buf_free(&in);
    ns_buf_free(&row);
    return st;
}

static ns_status longest_prompt(const job *j, int64_t *longest, ns_error *err)
{
    ns_ids ids = {0};
    ns_status st = NS_OK;
    *longest = 1;
    for (int64_t k = 0; st == NS_OK && k < j->n_todo; k++) {
        ids.n = 0;
        st = ns_tok_encode(j->tok, &ids, j->prompts[j->order[k]].p, j->prompts[j->order[k]].n, 0, err);
        if (st == NS_OK && (int64_t)ids.n > *longest) *longest = (int64_t)ids.n;
    }
    ns_ids_free(&ids);
    return st;
}

static ns_status generate(job *j, const ns_prompt *p, ns_error *err)
{
    const infer_options *o = j->o;
    ns_generator g;
    ns_generate_options go = NS_GENERATE_OPTIONS_DEFAULT;
    ns_arch arch;
    const char **stops = NULL;
    int64_t longest;
    size_t n_template = p && p->has_template ? p->t.n_stop : 0;
    ns_status st;
    memset(&g, 0, sizeof g);
    NS_CHECK(st, ns_model_arch(&arch, o->model, err), "model %s", o->model);
    NS_CHECK(st, longest_prompt(j, &longest, err), "prompts");
    NS_CHECK(st, ns_alloc((void **)&stops, (n_template + o->stops.n + 1) * sizeof *stops, "infer.stops", err), "stops");
    for (size_t i = 0; i < n_template; i++) stops[go.n_stops++] = p->t.stop_phrases[i];
    for (size_t i = 0; i < o->stops.n; i++) stops[go.n_stops++] = o->stops.v[i];
    go.stops = stops;
    go.max_new = o->max_new;
    if (longest + go.max_new > arch.max_pos && longest < arch.max_pos) {
        go.max_new = arch.max_pos - longest;
        NS_WARN("inference.tokens_to_generate=%" PRId64 " with prompts of up to %" PRId64
                " tokens: shortened to %" PRId64 ", the model has %" PRId64 " positions",
                o->max_new, longest, go.max_new, arch.max_pos);
    }
    go.slots = o->batch_size < j->n_todo ? o->batch_size : j->n_todo;
    go.isa = o->isa;
    go.threads = (int)o->threads;
    go.f32 = o->f32;
    NS_CHECK(st, ns_generator_open(&g, o->model, &go, longest, err), "open");
    double start = ns_time_now();
    j->progress = ns_progress_begin("infer", (double)j->n_todo, "rows");
    st = ns_generate(&g, j->n_todo, put_prompt, done_one, j, err);
    ns_progress_end(&j->progress, NULL);
    if (st != NS_OK) goto done;
    double s = ns_time_now() - start;
    NS_INFO("%" PRId64 " rows, %" PRId64 " prompt tokens, %" PRId64
            " new tokens in %.1f s (%.0f new tokens/s); %" PRId64 " cut by the token limit",
            j->n_todo, g.n_prompt_tokens, g.n_new_tokens, s, (double)g.n_new_tokens / s, g.n_truncated);
done:
    ns_generator_close(&g);
    ns_free(stops);
    return st;
}

static ns_status write_all(job *j, const char *part, ns_error *err)
{
    ns_buf out = {0};
    ns_status st = NS_OK;
    for (int64_t i = 0; i < j->n; i++) NS_CHECK(st, ns_buf_add(&out, j->results[i].p, j->results[i].n, err), "output");
    NS_CHECK(st, ns_file_replace(j->o->output_file, out.data, out.len, err), "write %s", j->o->output_file);
    unlink(part);
done:
    ns_buf_free(&out);
    return st;
}

static ns_status infer(job *j, ns_error *err)
{
    const infer_options *o = j->o;
    ns_prompt *p = NULL;
    char part[4100];
    ns_status st;
    NS_BAIL_IF(st, o->temperature != 0, NS_ERR_UNSUPPORTED,
               "inference.temperature=%g: only 0 (greedy) is available yet", o->temperature);
    NS_BAIL_IF(st, o->repetition_penalty != 1, NS_ERR_UNSUPPORTED,
               "inference.repetition_penalty=%g: only 1.0 is available yet", o->repetition_penalty);
    NS_BAIL_IF(
        st, (o->prompt_config == NULL) != (o->prompt_template == NULL), NS_ERR_CONFIG,
        "prompt_config and prompt_template go together (or give neither and name the prompt's field with input_key)");
    snprintf(part, sizeof part, "%s-async", o->output_file);
    NS_CHECK(st, read_rows(j, err), "input");
    if (o->prompt_config) {
        ns_prompt_options po = {o->prompt_config, o->prompt_template, o->examples_type};
        NS_CHECK(st, ns_prompt_load(&p, &po, err), "prompt");
    }
    NS_CHECK(st, fill_prompts(j, p, err), "prompts");
    if (o->dry_run) {
        fwrite(j->prompts[0].p, 1, j->prompts[0].n, stdout);
        putchar('\n');
        goto done;
    }
    NS_DEBUG("first prompt: %s", j->prompts[0].p);
    char tok_dir[4096];
    NS_CHECK(st, ns_model_tokenizer_dir(tok_dir, sizeof tok_dir, o->model, err), "tokenizer");
    NS_CHECK(st, ns_tok_load(&j->tok, tok_dir, err), "tokenizer");
    NS_CHECK(st, ns_alloc((void **)&j->results, (size_t)j->n * sizeof *j->results, "infer.results", err), "results");
    NS_CHECK(st, ns_alloc((void **)&j->order, (size_t)j->n * sizeof *j->order, "infer.order", err), "results");
    if (o->skip_filled && ns_path_exists(o->output_file) && !ns_path_exists(part)) {
        NS_INFO("%s exists: nothing to do (skip_filled)", o->output_file);
        goto done;
    }
    if (o->skip_filled) NS_CHECK(st, take_finished(j, part, err), "resume");
    for (int64_t i = 0; i < j->n; i++)
        if (!j->results[i].p) j->order[j->n_todo++] = i;
    if (j->n_todo > 0) {
        j->part = fopen(part, o->skip_filled ? "a" : "w");
        NS_BAIL_IF(st, !j->part, NS_ERR_IO, "%s: cannot write", part);
        NS_CHECK(st, generate(j, p, err), "generate");
    }
    st = write_all(j, part, err);
done:
    if (j->part) fclose(j->part);
    ns_prompt_free(&p);
    ns_tok_free(&j->tok);
    return st;
}

/* A TensorRT-LLM checkpoint of ours names the model that it was made from (conversion.json, for an engine that of <model>-tmp): this
 * engine answers with that one, and says so. */
static ns_status native_model(infer_options *o, ns_arena *a, ns_error *err)
{
    char path[4096], tmp[4096];
    ns_json *j = NULL;
    NS_FAIL_IF(strlen(o->model) + 32 > sizeof path, NS_ERR_INPUT, "++model: the path is too long");
    snprintf(path, sizeof path, "%s/conversion.json", o->model);
    snprintf(tmp, sizeof tmp, "%s-tmp/conversion.json", o->model);
    const char *found = ns_path_exists(path) ? path : ns_path_exists(tmp) ? tmp : NULL;
    if (!found) return NS_OK;
    NS_TRY(ns_json_read_file(&j, a, found, err), "model %s", o->model);
    const ns_json *to = ns_json_get(j, "to"), *from = ns_json_get(j, "input");
    if (!to || to->type != NS_JSON_STRING || to->s.n != 6 || memcmp(to->s.p, "trtllm", 6)) return NS_OK;
    NS_FAIL_IF(!from || from->type != NS_JSON_STRING, NS_ERR_INPUT, "%s: no \"input\"", found);
    const char *source = ns_arena_strndup(a, from->s.p, from->s.n, err);
    if (!source) return NS_ERR_MEMORY;
    NS_FAIL_IF(!ns_path_exists(source), NS_ERR_INPUT,
               "%s is a TensorRT-LLM checkpoint, and the model that it was made from, %s, is not there: name a Hugging "
               "Face or NeMo folder with ++model",
               o->model, source);
    NS_INFO("%s is a TensorRT-LLM checkpoint: the native engine answers with the model it was made from, %s", o->model,
            source);
    o->model = source;
    return NS_OK;
}

static int run(void *opt, ns_parsed *p)
{
    job j = {.o = opt, .arena = NS_ARENA_INIT("infer")};
    ns_error err = NS_ERROR_INIT;
    ns_status st = native_model(opt, &j.arena, &err);
    if (st == NS_OK) st = infer(&j, &err);
    ns_free(j.rows);
    ns_free(j.wheres);
    ns_free(j.prompts);
    ns_free(j.results);
    ns_free(j.order);
    ns_arena_free(&j.arena);
    if (st != NS_OK) return ns_cli_fail("infer", &err);
    if (!p->quiet && !j.o->dry_run) fprintf(stderr, "Next: ns grade ++input_files=%s\n", j.o->output_file);
    return 0;
}

const ns_verb ns_verb_infer = {
    .name = "infer",
    .group = "evaluation",
    .summary = "generate answers for rows (greedy)",
    .usage = "ns infer ++model=DIR ++input_file=ROWS.jsonl ++output_file=OUT.jsonl [++key=value ...]",
    .examples =
        "ns infer ++model=model-averaged ++input_file=test.jsonl ++output_file=answers.jsonl \\\n"
        "    ++prompt_config=generic/math ++prompt_template=llama3-instruct ++inference.tokens_to_generate=512\n"
        "ns infer ++model=m ++input_file=rows.jsonl ++output_file=o.jsonl ++input_key=input --quiet\n",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
    .options_size = sizeof(infer_options),
    .no_json = 1,
    .run = run,
};
