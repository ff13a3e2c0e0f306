/* `ns convert`: one task, `ns export` (pipelines.md §1.4). For trtllm: where trtllm-build is installed, export to <output>-tmp and build
 * the engine from it, with the words that are no options of ours; where it is not, the complete checkpoint at <output>. */
#include <stdio.h>
#include <string.h>

#include "jobs/jobs_priv.h"
#include "jobs/option_rows.h"
#include "jobs/pipes.h"

const ns_option ns_convert_option_table[NS_CONVERT_N] = {
    ROW_NEEDED(ns_convert_options, "input_model", input_model, "model to convert"),
    ROW_NEEDED(ns_convert_options, "output_model", output_model, "model to make"),
    ROW_CHOICE(ns_convert_options, "model_type", model_type, NULL, "llama|qwen|deepseek_v3", "family"),
    ROW_CHOICE(ns_convert_options, "convert_from", convert_from, NULL, "nemo|hf", "format of input_model"),
    ROW_CHOICE(ns_convert_options, "convert_to", convert_to, NULL, "nemo|hf|trtllm", "format of output_model"),
    ROW_TEXT(ns_convert_options, "hf_model_name", hf_model_name, NULL,
             "Hugging Face name or folder that gives config and tokenizer"),
    ROW_CHOICE(ns_convert_options, "dtype", dtype, "bf16", "bf16|fp16|fp32", "type of the weights"),
    ROW_NEEDED_COUNT(ns_convert_options, "num_gpus", num_gpus, 0, "GPUs; trtllm: tensor parallel size"),
    ROW_COUNT(ns_convert_options, "num_nodes", num_nodes, "1", 1, "trtllm: pipeline parallel size"),
    ROW_TEXT(ns_convert_options, "trt_prepare_args", trt_prepare_args, NULL, "trtllm: more words for the first step"),
    ROW_SWITCH(ns_convert_options, "trt_reuse_tmp_engine", trt_reuse_tmp_engine, "true",
               "trtllm: keep a first step that is there"),
    NS_COMMON_OPTIONS(ns_convert_options),
};

static ns_status check(const ns_convert_options *o, ns_error *err)
{
    int trt = strcmp(o->convert_to, "trtllm") == 0;
    NS_FAIL_IF(trt && strcmp(o->convert_from, "hf"), NS_ERR_CONFIG,
               "Conversion from %s to trtllm is not supported directly. Convert to HF first.", o->convert_from);
    NS_FAIL_IF(strcmp(o->convert_from, o->convert_to) == 0, NS_ERR_CONFIG,
               "--convert_from and --convert_to are both %s", o->convert_to);
    NS_FAIL_IF(!trt && !o->hf_model_name, NS_ERR_CONFIG, "--hf_model_name is required");
    NS_FAIL_IF(!trt && strcmp(o->model_type, "deepseek_v3") == 0, NS_ERR_UNSUPPORTED,
               "--model_type=deepseek_v3 is not available for %s", o->convert_to);
    return NS_OK;
}

/* $1 tmp, $2 output, $3 input, $4 reuse, $5 number of words of `ns export`, these words, the words of trtllm-build. */
static const char trt_text[] =
    "tmp=$1 out=$2 in=$3 reuse=$4 n=$5; shift 5\n"
    "if ! command -v trtllm-build >/dev/null; then\n"
    "    \"${@:1:n}\" --quiet \"--output_model=$out\" || exit\n"
    "    shift \"$n\"\n"
    "    echo \"trtllm-build is not installed on $(hostname): $out is a complete TensorRT-LLM checkpoint, not an "
    "engine. Where it is:\"\n"
    "    echo \"  trtllm-build --checkpoint_dir $out --output_dir $out-engine $*\"\n"
    "    exit 0\n"
    "fi\n"
    "if [ \"$reuse\" = 1 ] && [ -e \"$tmp/config.json\" ]; then\n"
    "    echo \"$tmp is there and is taken (--no-trt_reuse_tmp_engine makes it anew)\"\n"
    "else\n"
    "    rm -rf \"$tmp\"\n"
    "    \"${@:1:n}\" --quiet \"--output_model=$tmp\" || exit\n"
    "fi\n"
    "shift \"$n\"\n"
    "trtllm-build --checkpoint_dir \"$tmp\" --output_dir \"$out\" \"$@\" || exit\n"
    "for f in \"$in\"/tokenizer*; do [ ! -e \"$f\" ] || cp -r \"$f\" \"$out\" || exit; done\n";

static ns_status add_trt(ns_submission *s, const ns_convert_options *o, int t, const char *in, const char *out,
                         const ns_words *export, ns_error *err)
{
    static const char *const fixed[] = {"--use_paged_context_fmha", "enable", "--max_batch_size", "512",
                                        "--max_input_len",          "4096",   "--max_seq_len",    "8192",
                                        "--max_num_tokens",         "8192"};
    ns_arena *a = &s->graph.arena;
    ns_words w = {0};
    JOBS_TRY(ns_words_addf(&w, a, err, "%s-tmp", out));
    JOBS_TRY(ns_words_add(&w, a, out, err));
    JOBS_TRY(ns_words_add(&w, a, in, err));
    JOBS_TRY(ns_words_add(&w, a, o->trt_reuse_tmp_engine ? "1" : "0", err));
    JOBS_TRY(ns_words_addf(&w, a, err, "%zu", export->n));
    JOBS_TRY(ns_words_add_all(&w, a, export->v, export->n, err));
    JOBS_TRY(ns_words_add(&w, a, "--gpt_attention_plugin", err));
    JOBS_TRY(ns_words_add(&w, a, o->dtype[0] == 'b' ? "bfloat16" : o->dtype[2] == '1' ? "float16" : "float32", err));
    JOBS_TRY(ns_words_add_all(&w, a, fixed, sizeof fixed / sizeof fixed[0], err));
    JOBS_TRY(ns_words_add_all(&w, a, s->words.v, s->words.n, err)); /* later ones win */
    return ns_submission_script(s, t, trt_text, w.v, w.n, err);
}

static ns_status build(ns_submission *s, void *options, const ns_parsed *p, ns_error *err)
{
    const ns_convert_options *o = options;
    ns_arena *a = &s->graph.arena;
    const char *in, *out, *hf = o->hf_model_name, *logs;
    int t, trt = strcmp(o->convert_to, "trtllm") == 0;
    ns_job_step *step;
    ns_words w = {0};
    JOBS_TRY(ns_submission_words(s, p->overrides, p->n_overrides, err));
    JOBS_TRY(check(o, err));
    NS_TRY(ns_submission_path(s, "--input_model", o->input_model, 1, &in, err), "%s", "convert");
    NS_TRY(ns_submission_path(s, "--output_model", o->output_model, 0, &out, err), "%s", "convert");
    if (hf && *hf == '/') NS_TRY(ns_submission_path(s, "--hf_model_name", hf, 0, &hf, err), "%s", "convert");
    NS_TRY(ns_submission_path(s, "--log_dir", o->common.log_dir, 0, &logs, err), "%s", "convert");
    if (!logs) logs = ns_arena_printf(a, err, "%s/conversion-logs", out);
    JOBS_NEED(logs);
    JOBS_TRY(ns_submission_task(s, s->graph.title, logs, &t, err));
    s->graph.tasks[t].groups[0].gpus = (int)o->num_gpus;
    JOBS_TRY(ns_words_add(&w, a, "ns", err));
    JOBS_TRY(ns_words_add(&w, a, "export", err));
    JOBS_TRY(ns_words_addf(&w, a, err, "--input_model=%s", in));
    JOBS_TRY(ns_words_addf(&w, a, err, "--model_type=%s", o->model_type));
    JOBS_TRY(ns_words_addf(&w, a, err, "--convert_from=%s", o->convert_from));
    JOBS_TRY(ns_words_addf(&w, a, err, "--convert_to=%s", o->convert_to));
    if (hf) JOBS_TRY(ns_words_addf(&w, a, err, "--hf_model_name=%s", hf));
    JOBS_TRY(ns_words_addf(&w, a, err, "--dtype=%s", o->dtype));
    JOBS_TRY(ns_words_addf(&w, a, err, "--num_gpus=%lld", (long long)(o->num_gpus > 0 ? o->num_gpus : 1)));
    JOBS_TRY(ns_words_addf(&w, a, err, "--num_nodes=%lld", (long long)o->num_nodes));
    if (o->trt_prepare_args && *o->trt_prepare_args)
        NS_TRY(ns_words_split(&w, a, o->trt_prepare_args, err), "--trt_prepare_args");
    if (trt) {
        NS_TRY(ns_submission_check(w.v, w.n, err), "convert");
        JOBS_TRY(add_trt(s, o, t, in, out, &w, err));
    } else {
        JOBS_TRY(ns_graph_step(&s->graph, &s->graph.tasks[t].groups[0], &step, err));
        JOBS_TRY(ns_words_add_all(&step->argv, a, w.v, w.n, err));
        JOBS_TRY(ns_words_addf(&step->argv, a, err, "--output_model=%s", out));
        JOBS_TRY(ns_words_add_all(&step->argv, a, s->words.v, s->words.n, err));
    }
    return ns_submission_carry_mark(s, t, in, out, err);
}

const ns_pipe ns_pipe_convert = {.name = "convert",
                                 .default_name = "conversion",
                                 .options = ns_convert_option_table,
                                 .n_options = NS_CONVERT_N,
                                 .options_size = sizeof(ns_convert_options),
                                 .overrides = 1,
                                 .unknown = "convert_to=trtllm",
                                 .build = build};
