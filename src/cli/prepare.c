/* ns prepare: raw generations or ready rows -> SFT (or RL) rows. The settings are those of the configuration chosen with
 * --config-name; the table below describes them, the configuration has their defaults and what they feed. */
#include <stdio.h>
#include <string.h>

#include "data/prepare.h"

#include "cli/cli.h"

typedef struct prepare_options {
    const ns_node *anything; /* the run reads the configuration tree itself: fields only carry the checks */
    const ns_node *processors;
    const char *text;
    int64_t integer;
    double number;
    int flag;
} prepare_options;

#define AT(field) offsetof(prepare_options, field)
/* def: the default of math_sft, for --help; every configuration sets its own */
#define TEXT(key_, def_, help_)                                                                                  \
    {                                                                                                            \
        .key = key_, .type = NS_OPT_STRING, .at = AT(text), .def = def_, .flags = NS_OPT_NULLABLE, .help = help_ \
    }
#define ANY(key_, def_, help_)                                                                                     \
    {                                                                                                              \
        .key = key_, .type = NS_OPT_NODE, .at = AT(anything), .def = def_, .flags = NS_OPT_NULLABLE, .help = help_ \
    }
#define FILES(key_, def_, help_)                                                                                    \
    {                                                                                                               \
        .key = key_, .type = NS_OPT_NODE, .at = AT(anything), .def = def_, .flags = NS_OPT_NULLABLE | NS_OPT_WORDS, \
        .help = help_                                                                                               \
    }
#define FLAG(key_, def_, help_)                                                                                \
    {                                                                                                          \
        .key = key_, .type = NS_OPT_BOOL, .at = AT(flag), .def = def_, .flags = NS_OPT_NULLABLE, .help = help_ \
    }
#define INT(key_, def_, help_)                                                                 \
    {                                                                                          \
        .key = key_, .type = NS_OPT_INT, .at = AT(integer), .def = def_, .min = 0, .max = 2e9, \
        .flags = NS_OPT_NULLABLE, .null_value = -1, .help = help_                              \
    }

static const ns_option options[] = {
    FILES("input_files", NULL,
          "raw generations with is_correct or judgement: files or patterns, separated by blanks or commas; JSONL (also "
          ".gz, .zst) or Parquet"),
    FILES("preprocessed_dataset_files", NULL,
          "ready rows, without a correctness test: files or patterns, of the same kinds"),
    TEXT("output_path", NULL, "the file to write; it appears when it is complete"),
    TEXT("prompt_config", NULL, "what is said: a name in share/prompt/config (generic/math) or a .yaml file"),
    TEXT("prompt_template", NULL,
         "a model's turn tags: a name in share/prompt/template (llama3-instruct) or a .yaml file"),
    TEXT("input_key", "problem", "field with the question (problem)"),
    TEXT("output_key", "generation", "field with the answer (generation)"),
    FLAG("exclude_optional_keys", "true", "keep only input, output and expected_answer"),
    ANY("metadata", NULL, "map merged into every row: ++metadata={source:gsm8k}"),
    INT("skip_first", "0", "lines skipped at the start of every file"),
    FLAG("allow_missing_files", "false", "a pattern that matches no file is a warning, not an error"),
    FLAG("add_correct", "true", "keep correct generations"),
    FLAG("add_incorrect", "false", "keep incorrect generations"),
    FLAG("use_judgement", "false", "judgement decides instead of is_correct"),
    FLAG("deduplicate", "true", "keep the first of equal (question, answer) pairs"),
    {.key = "downsampling_method",
     .type = NS_OPT_STRING,
     .at = AT(text),
     .choices = "fair|random",
     .flags = NS_OPT_NULLABLE,
     .help = "fair: round-robin over questions; random; needs num_output_samples"},
    INT("num_output_samples", NULL, "rows to keep"),
    INT("random_seed", "42", "seed of the shuffle"),
    FLAG("do_shuffle", "true", "shuffle the rows"),
    TEXT("chat_format", NULL, "nemotron or llama: write conversations instead of input and output"),
    TEXT("hf_model_name", NULL, "tokenizer of the length filters: a tokenizer.json or a folder with one"),
    INT("min_problem_length", "0", "tokens"),
    INT("max_problem_length", "1024", "tokens"),
    INT("min_solution_length", "0", "tokens, or characters with use_chars_for_min_length"),
    INT("max_solution_length", "2048", "tokens"),
    FLAG("use_chars_for_min_length", "false", "min_solution_length counts characters"),
    TEXT("contamination_file", NULL, "JSONL with problem and contaminated, from a contamination check"),
    INT("majority_filter.min_majority_votes", "0", "least votes for the majority answer"),
    {.key = "majority_filter.min_majority_percentage",
     .type = NS_OPT_FLOAT,
     .at = AT(number),
     .def = "0.0",
     .min = 0,
     .max = 1,
     .flags = NS_OPT_NULLABLE,
     .help = "least share of votes for the majority answer"},
    FLAG("filters.drop_multi_boxed", "true", "drop solutions with more than one \\boxed{}"),
    FLAG("filters.remove_contaminated", "true", "drop problems that contamination_file marks"),
    FLAG("filters.majority_filter", "false", "drop weak majorities"),
    FLAG("filters.trim_prefix", "true", "remove a leading 'My solution:' line"),
    FLAG("filters.trim_solutions", "true", "cut solutions behind the line of the last box"),
    FLAG("filters.drop_incorrect_arithmetic", "false", "drop solutions with a wrong equation"),
    FLAG("filters.split_arithmetic", "false", "spell long equations out step by step"),
    FLAG("filters.remove_len_outlier_problems", "true", "drop problems outside the token limits (needs hf_model_name)"),
    FLAG("filters.remove_len_outlier_solutions", "false",
         "drop solutions outside the token limits (needs hf_model_name)"),
    {.key = "filters.code_text_filter",
     .type = NS_OPT_STRING,
     .at = AT(text),
     .choices = "all|majority_code|majority_text|any_code",
     .flags = NS_OPT_NULLABLE,
     .help = "which of a problem's solutions stay, by whether they contain code"},
    FLAG("filters.remove_code_errors", "false", "drop solutions that show a traceback or a timeout"),
    FLAG("filters.remove_verification_code", "false", "drop solutions that verify themselves with Python"),
    FLAG("filters.drop_incorrect_code_blocks", "false", "code_sft: keep outputs with exactly one Python block"),
    FLAG("filters.drop_none_answers", "true", "math_rl: drop rows without expected_answer"),
    TEXT("memory", NULL,
         "for rows and keys that are held (1.5GB, 512MiB); more go to disk; default: 1.5GB, or half of what is free"),
    TEXT("temp_dir", NULL, "folder of the temporary file beyond memory; default: that of the output, else TMPDIR"),
    TEXT("stats_file", NULL, "where the statistics go as JSON (also: --json); default: OUTPUT.stats.json"),
    TEXT("dropped_file", NULL, "JSONL to write: file, line, filter and reason of every row left out; default: none"),
    ANY("processors_to_run", "all", "all, a slice (0:2) or one index of the list of processors"),
    {.key = "processors",
     .type = NS_OPT_NODE,
     .at = AT(processors),
     .flags = NS_OPT_NULLABLE,
     .help = "the list itself: ++processors.0.output_manifest_file=FILE writes what a processor passes on"},
};

/* Leaves nothing half done. */
static void catch_signals(ns_parsed *p)
{
    const ns_node *out = ns_node_get(ns_config_root(p->config), "output_path");
    char text[1000];
    snprintf(text, sizeof text,
             "ns prepare: stopped by a signal: %s%.600s%s; the same command starts it again from the beginning",
             out && out->s ? "'" : "nothing", out && out->s ? out->s : " was written",
             out && out->s ? "' is as it was before" : "");
    ns_cli_when_stopped(text, ns_prepare_remove_unfinished);
}

static int run(void *opt, ns_parsed *p)
{
    ns_error err = NS_ERROR_INIT;
    ns_threads *pool = NULL;
    ns_buf statistics = {0};
    const ns_node *out = ns_node_get(ns_config_root(p->config), "output_path");
    (void)opt;
    ns_status st = NS_OK;
    catch_signals(p);
    if (p->json && out && out->s && !strcmp(out->s, "-"))
        st = ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__,
                          "--json and ++output_path=- both write to standard output: choose ++stats_file=FILE instead");
    if (st == NS_OK) st = ns_threads_new(&pool, 0, &err);
    if (st == NS_OK) st = ns_prepare_run(p->config, pool, &statistics, &err);
    ns_threads_free(&pool);
    if (st == NS_OK && p->json) fwrite(statistics.data, 1, statistics.len, stdout);
    ns_buf_free(&statistics);
    return st == NS_OK ? 0 : ns_cli_fail("prepare", &err);
}

const ns_verb ns_verb_prepare = {
    .name = "prepare",
    .group = "data",
    .summary = "raw generations -> SFT rows: read, deduplicate, filter, shuffle, fill prompts",
    .usage = "ns prepare [--config-name math_sft|code_sft|math_rl] ++input_files=PATTERN ++output_path=FILE\n"
             "           ++prompt_config=NAME ++prompt_template=NAME [++key=value ...]",
    .examples =
        "  ns prepare ++input_files=\"out/output-rs*.jsonl\" ++output_path=sft-data.jsonl \\\n"
        "      ++prompt_config=generic/math ++prompt_template=llama3-instruct\n"
        "  ns prepare ++preprocessed_dataset_files=train.jsonl ++output_path=sft.jsonl ++input_key=question \\\n"
        "      ++output_key=answer ++prompt_config=generic/default ++prompt_template=llama3-instruct\n"
        "  ns prepare --config-name math_rl ++input_files=\"out/*.jsonl\" ++output_path=rl.jsonl\n",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .options_size = sizeof(prepare_options),
    .run = run,
    .builtin_configs = ns_prepare_configs,
    .default_config = "math_sft",
    .open_config = 1,
};
