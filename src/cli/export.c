/* `ns export`: convert a model; what `ns convert` submits (pipelines.md §1.4). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hub/hub.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "export/export.h"

typedef struct export_options {
    const char *input, *output, *model_type, *from, *to, *hf, *dtype, *gguf_type, *parity, *nemo_format, *max_shard,
        *weight_only_precision, *weight_only_layout;
    int64_t num_gpus, num_nodes;
    const char *calib_dataset;
    int64_t calib_size, calib_max_seq_length;
    int force, use_weight_only, use_fp8, fp8_kv_cache;
} export_options;

#define AT(f) offsetof(export_options, f)
#define TEXT(k, f, d, ch, h)                                                                        \
    {                                                                                               \
        .key = k, .flag = 1, .type = NS_OPT_STRING, .at = AT(f), .def = d, .choices = ch, .help = h \
    }

static const ns_option opts[] = {
    TEXT("input_model", input, NULL, NULL,
         "model to convert: Hugging Face or NeMo folder, .nemo file, TensorRT-LLM checkpoint, GGUF file"),
    TEXT("output_model", output, NULL, NULL, "model to make"),
    TEXT("model_type", model_type, NULL, "llama|qwen",
         "refuse an input of another type (llama includes Mistral); default: detected"),
    TEXT("convert_from", from, NULL, "nemo|hf|trtllm|gguf", "format of input_model; default: detected"),
    TEXT("convert_to", to, NULL, "nemo|hf|trtllm|gguf", "format of output_model; required"),
    TEXT("hf_model_name", hf, NULL, NULL,
         "folder, or name in the Hugging Face cache (ns download), that gives config and tokenizer; default: the "
         "input's own"),
    TEXT("dtype", dtype, NULL, "bf16|fp16|fp32", "type of the weights; default: the input's"),
    TEXT("gguf-type", gguf_type, NULL, "f32|f16|bf16|q8_0|q6_k|q4_k_m",
         "gguf: type of the matrices; default: as --dtype or the input"),
    TEXT("nemo-format", nemo_format, "torch_dist", "torch_dist|zarr", "layout of the weights in a NeMo folder"),
    TEXT("parity", parity, "auto", "auto|on|off",
         "run both models on 24 tokens and compare their logits; auto: up to a billion parameters"),
    TEXT("max-shard-size", max_shard, "10GB", NULL, "hf: largest .safetensors file (5GB, 500MB, 2GiB)"),
    {.key = "num_gpus",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(num_gpus),
     .def = "1",
     .min = 1,
     .max = 1024,
     .help = "trtllm: tensor parallel size"},
    {.key = "num_nodes",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(num_nodes),
     .def = "1",
     .min = 1,
     .max = 1024,
     .help = "trtllm: pipeline parallel size"},
    {.key = "use_weight_only",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(use_weight_only),
     .def = "false",
     .help = "trtllm: weight-only quantisation of the layers' matrices (quant_algo W8A16 or W4A16)"},
    {.key = "use_fp8",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(use_fp8),
     .def = "false",
     .help = "trtllm: the layers' matrices in FP8 (quant_algo FP8: weights and activations); needs --calib_dataset"},
    {.key = "fp8_kv_cache",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(fp8_kv_cache),
     .def = "false",
     .help = "with --use_fp8: the key/value cache in FP8, too"},
    TEXT("calib_dataset", calib_dataset, NULL, NULL,
         "with --use_fp8: JSONL rows with \"text\", or \"input\" and \"output\"; the model runs over them (on the "
         "processor) to measure its activations"),
    {.key = "calib_size",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(calib_size),
     .def = "512",
     .min = 1,
     .max = 1000000,
     .help = "rows of calib_dataset to use, the first ones"},
    {.key = "calib_max_seq_length",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(calib_max_seq_length),
     .def = "512",
     .min = 1,
     .max = 131072,
     .help = "tokens of a row to use, the first ones"},
    TEXT("weight_only_precision", weight_only_precision, NULL, "int8|int4", "with --use_weight_only; default: int8"),
    TEXT("weight_only_layout", weight_only_layout, NULL, "any|sm80",
         "any (default): weights as they are, quantised by trtllm-build for its GPU; sm80: integers for compute "
         "capability 7.5 "
         "to 8.9"),
    {.key = "force",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(force),
     .def = "false",
     .help = "replace an existing model at output_model"},
};

static ns_status parse_size(const char *text, int64_t *bytes, ns_error *err)
{
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"", 1},     {"B", 1},        {"KB", 1e3},        {"MB", 1e6},
                 {"GB", 1e9}, {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}};
    char *end;
    double x = strtod(text, &end);
    for (size_t i = 0; end != text && i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(end, units[i].unit) || !(x * units[i].factor >= 1 && x * units[i].factor < 9e18)) continue;
        *bytes = (int64_t)(x * units[i].factor);
        return NS_OK;
    }
    NS_FAIL(NS_ERR_CONFIG, "--max-shard-size '%s': expected a size such as 10GB, 500MB or 2GiB", text);
}

static void print_trt(const export_options *o, const ns_parsed *p, const char *output)
{
    const char *dt = o->dtype && o->dtype[0] == 'f' ? (o->dtype[2] == '1' ? "float16" : "float32") : "bfloat16";
    printf("To build the engine:\n  trtllm-build --checkpoint_dir %s --output_dir %s/engine --gpt_attention_plugin %s "
           "--use_paged_context_fmha enable --max_batch_size 512 --max_input_len 4096 --max_seq_len 8192 "
           "--max_num_tokens 8192",
           output, output, dt);
    for (size_t i = 0; i < p->n_overrides; i++) printf(" %s", p->overrides[i]);
    printf("\n");
}

/* Quantisations of TensorRT-LLM's converter that are not made here: never passed on in silence to trtllm-build, which has no such words. */
static ns_status check_words(const export_options *o, const ns_parsed *p, ns_error *err)
{
    static const char *const not_here[] = {
        "use_fp8_rowwise", "use_nvfp4",  "smoothquant",   "per_token",       "per_channel",
        "per_group",       "use_qserve", "int8_kv_cache", "quant_ckpt_path", "disable_weight_only_quant_plugin"};
    for (size_t i = 0; i < p->n_overrides; i++) {
        const char *w = p->overrides[i] + strspn(p->overrides[i], "-");
        size_t n = strcspn(w, "=");
        for (size_t k = 0; k < sizeof not_here / sizeof not_here[0]; k++)
            NS_FAIL_IF(
                strlen(not_here[k]) == n && !strncmp(w, not_here[k], n), NS_ERR_UNSUPPORTED,
                "--%s is not supported; known: --use_fp8 --calib_dataset FILE [--fp8_kv_cache], --use_weight_only "
                "--weight_only_precision int8|int4",
                not_here[k]);
    }
    NS_FAIL_IF(!o->use_weight_only && (o->weight_only_layout || o->weight_only_precision), NS_ERR_CONFIG,
               "--%s needs --use_weight_only", o->weight_only_layout ? "weight_only_layout" : "weight_only_precision");
    NS_FAIL_IF(!o->use_fp8 && (o->fp8_kv_cache || o->calib_dataset), NS_ERR_CONFIG, "--%s needs --use_fp8",
               o->fp8_kv_cache ? "fp8_kv_cache" : "calib_dataset");
    return NS_OK;
}

static int run(void *options, ns_parsed *p)
{
    const export_options *o = options;
    ns_error err = NS_ERROR_INIT;
    ns_export_args a = NS_EXPORT_DEFAULT;
    ns_export_report *r = NULL;
    size_t at = 0;
    a.input = o->input ? o->input : at < p->n_positional ? p->positional[at++] : NULL;
    a.output = o->output ? o->output : at < p->n_positional ? p->positional[at++] : NULL;
    ns_status st = NS_OK;
    if (!a.input || !a.output || at < p->n_positional)
        st = ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__,
                          "give --input_model MODEL and --output_model MODEL, and nothing else by position");
    char where[4096];
    if (st == NS_OK) st = ns_hub_resolve(&a.input, where, "--input_model", &err);
    if (st == NS_OK) st = ns_alloc((void **)&r, sizeof *r, "export", &err);
    if (st == NS_OK) st = parse_size(o->max_shard, &a.max_shard_bytes, &err);
    a.from = o->from;
    a.to = o->to;
    if (st == NS_OK && !a.to)
        st = ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "give --convert_to: hf, nemo, trtllm or gguf");
    a.model_type = o->model_type;
    a.hf_model_name = o->hf;
    a.nemo_format = o->nemo_format;
    a.gguf_type = o->gguf_type;
    a.parity = o->parity;
    a.has_dtype = o->dtype != NULL;
    if (o->dtype) a.dt = o->dtype[0] == 'b' ? NS_DTYPE_BF16 : o->dtype[2] == '1' ? NS_DTYPE_F16 : NS_DTYPE_F32;
    a.tp = (int)o->num_gpus;
    a.pp = (int)o->num_nodes;
    a.force = o->force;
    a.fp8 = o->use_fp8;
    a.fp8_kv = o->fp8_kv_cache;
    a.calib_rows = o->calib_dataset;
    a.calib_size = o->calib_size;
    a.calib_max_tokens = o->calib_max_seq_length;
    if (o->use_weight_only) {
        a.weight_only = o->weight_only_precision && o->weight_only_precision[3] == '4' ? 4 : 8;
        a.weight_only_packed = o->weight_only_layout && !strcmp(o->weight_only_layout, "sm80");
    }
    if (st == NS_OK) st = check_words(o, p, &err);
    ns_cli_when_stopped("ns export: stopped by a signal; the same command goes on where it was", NULL);
    if (st == NS_OK) st = ns_export(&a, r, &err);
    if (st == NS_OK && p->json) {
        printf("{\"from\": \"%s\", \"to\": \"%s\", \"dtype\": \"%s\", \"tensors\": %lld, \"compared\": %lld, ", r->from,
               a.to, r->type, (long long)r->n_tensors, (long long)r->n_compared);
        ns_cli_print_json("parity", r->parity);
        printf("}\n");
    } else if (st == NS_OK && !p->quiet) {
        printf("%s: %s -> %s, %s, %lld tensors%s%s%s; report: %s/conversion.json\n", a.output, r->from, a.to, r->type,
               (long long)r->n_tensors, r->n_compared ? ", each read back and equal" : "", r->parity[0] ? "; " : "",
               r->parity, a.output);
        if (!strcmp(a.to, "trtllm")) print_trt(o, p, a.output);
    }
    ns_free(r);
    return st == NS_OK ? 0 : ns_cli_fail("export", &err);
}

const ns_verb ns_verb_export = {
    .name = "export",
    .group = "models",
    .summary = "convert a model: Hugging Face, NeMo, TensorRT-LLM, GGUF",
    .usage =
        "ns export --input_model MODEL --output_model MODEL --convert_to hf|nemo|trtllm|gguf [--dtype bf16|fp16|fp32]",
    .examples =
        "ns export run1/model-averaged-nemo run1/model-hf --convert_to hf\n"
        "ns export --input_model run1/model-hf --output_model run1/model-trtllm --convert_to trtllm --num_gpus 8\n"
        "ns export run1/model-hf run1/model-gguf --convert_to gguf --gguf-type q4_k_m",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(export_options),
    .allow_positional = 1,
    .keep_overrides = 1,
    .keep_unknown = "convert_to=trtllm",
    .run = run,
};
