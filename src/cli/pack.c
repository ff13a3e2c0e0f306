/* `ns pack`: rows to pack files, with the options of the original's prepare_packed_ft_dataset. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/chat_flags.h"
#include "cli/cli.h"
#include "data/files.h"
#include "pack/pack_files.h"
#include "pack/packs.h"

typedef struct pack_options {
    ns_opt_list files, sizes;
    const char *tokenizer, *output, *algorithm, *mask, *label_key, *truncation_field, *prompt_template,
        *truncation_method;
    int64_t seed, chunk, cp, max_seq_length, threads, eos, sep_id;
    int add_bos, add_eos, add_sep;
    chat_flags chat; /* its kwargs are those below, as JSON */
    const ns_node *kwargs, *compat;
} pack_options;

#define AT(f) offsetof(pack_options, f)
#define DS "model.data.train_ds."
#define STR(k, f, d, h)                                                   \
    {                                                                     \
        .key = k, .type = NS_OPT_STRING, .at = AT(f), .def = d, .help = h \
    }
#define INT(k, f, d, lo, hi, h)                                                              \
    {                                                                                        \
        .key = k, .type = NS_OPT_INT, .at = AT(f), .def = d, .min = lo, .max = hi, .help = h \
    }
#define BOOL(k, f, h)                                                         \
    {                                                                         \
        .key = k, .type = NS_OPT_BOOL, .at = AT(f), .def = "false", .help = h \
    }
#define COMPAT(k, d, note)                                                                             \
    {                                                                                                  \
        .key = k, .type = NS_OPT_NODE, .at = AT(compat), .def = d, .flags = NS_OPT_COMPAT, .help = "", \
        .compat_note = note                                                                            \
    }

static const ns_option opts[] = {
    {.key = DS "file_names",
     .type = NS_OPT_LIST,
     .at = AT(files),
     .help = "row files (JSONL, also .gz and .zst, or Parquet), all of them are packed"},
    {.key = "pack_sizes", .type = NS_OPT_LIST, .at = AT(sizes), .help = "tokens of a pack; one file set for each size"},
    {.key = "tokenizer_path",
     .type = NS_OPT_STRING,
     .at = AT(tokenizer),
     .flags = NS_OPT_MODEL,
     .help = "model folder, tokenizer file, or a name in the Hugging Face cache"},
    STR("output_dir", output, NULL, "folder of the pack files"),
    {.key = "packing_algorithm",
     .type = NS_OPT_STRING,
     .at = AT(algorithm),
     .def = "first_fit_shuffle",
     .choices = "first_fit_shuffle|first_fit_decreasing|best_fit",
     .help = "best_fit: longest first into the fullest pack with room (ours)"},
    INT("seed", seed, "0", 0, 4294967295.0, "of the shuffling; part of the file name"),
    INT("split_packing_length", chunk, "100000", 1, 1e9, "samples packed together at most; more: fuller packs"),
    INT("model.context_parallel_size", cp, "1", 1, 1e6, "samples are padded to a multiple of lcm(16, 2 x this) if > 1"),
    {.key = "loss_mask",
     .type = NS_OPT_STRING,
     .at = AT(mask),
     .def = "original",
     .choices = "original|exact",
     .help = "original: not where the input is EOS, and the EOS padding after an answer; exact: as without packs"},
    {.key = "eos_id",
     .type = NS_OPT_INT,
     .at = AT(eos),
     .def = "null",
     .min = 0,
     .max = INT32_MAX,
     .flags = NS_OPT_NULLABLE,
     .null_value = -1,
     .help = "EOS id (default: the tokenizer's)"},
    INT(DS "max_seq_length", max_seq_length, "2048", 2, 1e9, "longer rows are truncated"),
    STR(DS "label_key", label_key, "output", "the field that is trained on"),
    STR(DS "truncation_field", truncation_field, "input", "comma list of fields cut first"),
    STR(DS "prompt_template", prompt_template, "'{input}{output}'", "row layout; must end in the label"),
    {.key = DS "truncation_method",
     .type = NS_OPT_STRING,
     .at = AT(truncation_method),
     .def = "right",
     .choices = "right|left|drop|error",
     .help = "rows over max_seq_length: the end that is cut, or drop them, or stop"},
    BOOL(DS "add_bos", add_bos, "put the tokenizer's BOS in front of each row"),
    BOOL(DS "add_eos", add_eos, "append the tokenizer's EOS to each answer"),
    BOOL(DS "add_sep", add_sep, "separator token sep_id between prompt and answer"),
    STR("model.data.chat_template", chat.tmpl, "auto",
        "chat rows: auto (the tokenizer folder's template, else a shipped layout), shipped, a name in the folder, or a "
        "file"),
    {.key = "model.data.chat_template_kwargs",
     .type = NS_OPT_NODE,
     .at = AT(kwargs),
     .def = "null",
     .help = "variables for the template, {enable_thinking: false}"},
    STR("model.data.chat_date", chat.date, NULL, "YYYY-MM-DD for templates that write today's date (default: today)"),
    {.key = "model.data.row_form",
     .type = NS_OPT_STRING,
     .at = AT(chat.form),
     .def = "auto",
     .choices = "auto|messages|sharegpt|alpaca|prompt_completion|template",
     .help = "form of the rows; auto: detected, each row its own"},
    {.key = "model.data.roles_to_train",
     .type = NS_OPT_LIST,
     .at = AT(chat.roles),
     .def = "[assistant]",
     .help = "chat rows: the turns of these roles are trained"},
    BOOL("model.data.mask_history", chat.mask_history, "chat rows: train only the last trained turn of a row"),
    STR("model.data.tools_field", chat.tools_field, "tools",
        "chat rows: field with the tools of a row (list, or JSON text)"),
    BOOL("model.data.allow_double_bos", chat.allow_double_bos, "chat rows: go on with two BOS tokens in front"),
    BOOL("model.data.allow_missing_end", chat.allow_missing_end,
         "chat rows: go on although trained turns have no end token"),
    BOOL("model.data.allow_special_text", chat.allow_special_text,
         "chat rows: text that spells a special token is read as the token"),
    INT("sep_id", sep_id, "49704", 0, INT32_MAX, "id of the separator token"),
    INT("threads", threads, "0", 0, 4096, "CPU threads; 0: all"),
    COMPAT("num_workers", "null", "packing needs one thread; see threads"),
    COMPAT(DS "hf_dataset", "false", "one reader serves all"),
    COMPAT(DS "min_seq_length", "1", "short rows are kept, as in the original"),
    COMPAT(DS "memmap_workers", "2", "rows are read by one streaming reader"),
    COMPAT(DS "index_mapping_dir", "null", "no index files are made"),
};

/* Conversations are written as a training on the same rows would write them. */
static ns_status open_chat(ns_chat **out, const pack_options *o, ns_error *err)
{
    chat_flags f = o->chat;
    ns_buf kwargs = {0};
    ns_status st = NS_OK;
    if (o->kwargs && o->kwargs->type != NS_NODE_NULL)
        NS_CHECK(st, ns_node_json(&kwargs, o->kwargs, err), "model.data.chat_template_kwargs");
    f.kwargs = kwargs.data;
    NS_CHECK(st, chat_flags_open(out, o->tokenizer, &f, err), "model.data");
done:
    ns_buf_free(&kwargs);
    return st;
}

static ns_status load(ns_pack_set *set, ns_examples *file, const ns_files *f, const pack_options *o, const ns_tok *tok,
                      const ns_chat *chat, ns_threads *pool, ns_error *err)
{
    ns_rows_options r = NS_ROWS_OPTIONS_DEFAULT;
    r.prompt_template = o->prompt_template;
    r.label_key = o->label_key;
    r.truncation_field = o->truncation_field;
    (void)ns_rows_long_parse(&r.too_long, o->truncation_method); /* one of the choices */
    r.max_seq_length = o->max_seq_length;
    r.add_bos = o->add_bos;
    r.add_eos = o->add_eos;
    r.add_sep = o->add_sep;
    r.sep_id = (int32_t)o->sep_id;
    r.eos_id = (int32_t)o->eos;
    r.spool = o->output;
    r.chat = chat;
    NS_INFO("Tokenizing dataset...");
    for (size_t i = 0; i < f->n; i++) {
        NS_TRY(ns_rows_load(&file[i], f->path[i], tok, &r, pool, err), "rows");
        set->n_files = (int)i + 1;
    }
    return NS_OK;
}

static ns_status parse_size(int32_t *out, const char *text, ns_error *err)
{
    char *end;
    long long v = strtoll(text, &end, 10);
    NS_FAIL_IF(end == text || *end || v < 2 || v >= 1 << 30, NS_ERR_CONFIG,
               "pack_sizes: '%s', expected a number of tokens from 2 to %d", text, (1 << 30) - 1);
    *out = (int32_t)v;
    return NS_OK;
}

/* What the command is measured by: how much longer it takes than the one thing that cannot be done without. */
static void tell_times(double whole, double start, double tokenised, double assigned, double written)
{
    const double most = tokenised > written ? tokenised : written;
    NS_INFO("Tokenizer loaded in %.2f s, rows tokenised in %.2f s, packs assigned in %.2f s, written in %.2f s; in all "
            "%.2f s, %.2f times %s (%.2f with the loading of the tokenizer)",
            start, tokenised, assigned, written, whole, whole / most, tokenised > written ? "tokenising" : "writing",
            whole / (most + (tokenised > written ? start : 0)));
}

static ns_status pack(const pack_options *o, ns_error *err)
{
    ns_files f = {0};
    ns_tok *tok = NULL;
    ns_chat *chat = NULL;
    ns_threads *pool = NULL;
    ns_examples *file = NULL;
    ns_pack_set set = {0};
    double began = ns_time_now(), loaded = 0, tokenised = 0, assigned = 0, written = 0;
    ns_pack_options p = {.seed = (uint32_t)o->seed,
                         .chunk = o->chunk,
                         .max_seq_length = o->max_seq_length,
                         .cp = o->cp,
                         .exact_mask = !strcmp(o->mask, "exact"),
                         .tokenizer = o->tokenizer};
    ns_status st = NS_OK;
    (void)ns_pack_algorithm_parse(&p.how, o->algorithm); /* one of the choices */
    for (size_t i = 0; i < o->sizes.n; i++) NS_CHECK(st, parse_size(&p.size, o->sizes.v[i], err), "pack_sizes");
    for (size_t i = 0; i < o->files.n; i++) NS_CHECK(st, ns_files_add_pattern(&f, o->files.v[i], err), "file_names");
    NS_BAIL_IF(st, !f.n, NS_ERR_INPUT, "%s: no such file", o->files.v[0]);
    for (size_t i = 0; i < f.n; i++) ns_file_prefetch(f.path[i]); /* the disk reads while the tokenizer is loaded */
    NS_CHECK(st, ns_tok_load(&tok, o->tokenizer, err), "tokenizer_path");
    p.eos = o->eos >= 0 ? (int32_t)o->eos : ns_tok_eos(tok);
    NS_BAIL_IF(st, p.eos < 0, NS_ERR_CONFIG, "%s names no EOS token: give its id with ++eos_id=ID", o->tokenizer);
    NS_CHECK(st, open_chat(&chat, o, err), "chat rows");
    NS_CHECK(st, ns_pack_tokenizer_hash(p.tokenizer_hash, tok, err), "tokenizer_path");
    NS_CHECK(st, ns_mkdirs(o->output, err), "output_dir");
    NS_CHECK(st, ns_threads_new(&pool, (int)o->threads, err), "threads");
    NS_CHECK(st, ns_alloc((void **)&file, f.n * sizeof *file, "pack.files", err), "files");
    set.file = file;
    set.path = f.path;
    loaded = ns_time_now();
    NS_CHECK(st, load(&set, file, &f, o, tok, chat, pool, err), "rows");
    tokenised = ns_time_now() - loaded;
    p.pool = pool;
    for (size_t i = 0; i < o->sizes.n; i++) {
        char base[4096];
        ns_pack_sum sum;
        NS_CHECK(st, parse_size(&p.size, o->sizes.v[i], err), "pack_sizes");
        snprintf(base, sizeof base, "%s/packed_%d_seed%" PRId64, o->output, p.size, o->seed);
        NS_CHECK(st, ns_packs_write(&set, base, &p, &sum, err), "pack");
        if (sum.skipped) NS_WARN("%" PRId64 " rows have no token and were left out", sum.skipped);
        NS_INFO("Done, output written to %s.[input_ids|loss_mask|seq_start_id].npy", base);
        assigned += sum.assign_s;
        written += sum.write_s;
        if (i + 1 == o->sizes.n) tell_times(ns_time_now() - began, loaded - began, tokenised, assigned, written);
        ns_packs_report(&p, &sum); /* of the whole set, last */
    }
done:
    for (size_t i = 0; file && i < f.n; i++) ns_examples_free(&file[i]);
    ns_free(file);
    ns_files_free(&f);
    ns_threads_free(&pool);
    ns_chat_free(&chat);
    ns_tok_free(&tok);
    return st;
}

static int run(void *options, ns_parsed *p)
{
    const pack_options *o = options;
    ns_error err = NS_ERROR_INIT;
    ns_status st;
    (void)p;
    if (!o->files.n || !o->sizes.n || !o->tokenizer || !o->output)
        st = ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "Please specify %s",
                          !o->output      ? "++output_dir=DIR"
                          : !o->sizes.n   ? "++pack_sizes=[N]"
                          : !o->tokenizer ? "++tokenizer_path=DIR"
                                          : "++model.data.train_ds.file_names=[FILE]");
    else
        st = pack(o, &err);
    return st == NS_OK ? 0 : ns_cli_fail("pack", &err);
}

static const char *const builtin[] = {"pack_config", "", NULL};

const ns_verb ns_verb_pack = {
    .name = "pack",
    .group = "data",
    .summary = "tokenise rows and lay them together into packs of a fixed size",
    .usage =
        "ns pack ++model.data.train_ds.file_names=[ROWS.jsonl] ++pack_sizes=[N] ++tokenizer_path=DIR ++output_dir=DIR",
    .examples =
        "ns pack ++model.data.train_ds.file_names=[sft-data.jsonl] ++model.data.train_ds.max_seq_length=16384 \\\n"
        "    ++tokenizer_path=llama3.2-1b ++output_dir=packs ++pack_sizes=[16384]\n",
    .builtin_configs = builtin,
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(pack_options),
    .no_json = 1,
    .run = run,
};
