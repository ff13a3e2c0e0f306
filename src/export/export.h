/* A model of any format into any other, in one step, with proof: every tensor of what was written is read back and compared with the
 * input rounded to the stored type; the record of the architecture must agree; a report lists every tensor.
 *     ns_export_args a = NS_EXPORT_DEFAULT; a.input = "model-averaged-nemo"; a.output = "model-hf"; a.to = "hf";
 *     NS_TRY(ns_export(&a, &report, err), "export");
 * Streams (a block of rows in memory). The output appears complete or not at all; a run that was killed is continued by the next one of the same
 * settings and input (resume.h). */
#ifndef NS_EXPORT_EXPORT_H
#define NS_EXPORT_EXPORT_H

#include "arch/arch.h"

typedef struct ns_export_args {
    const char *input, *output;
    const char *from;          /* hf, nemo, trtllm, gguf; NULL: detected */
    const char *to;            /* hf, nemo, trtllm, gguf */
    const char *model_type;    /* llama, qwen: compared with what the input is; NULL: not compared */
    const char *hf_model_name; /* folder or cached name that gives config and tokenizer; NULL: the input's own */
    const char *gguf_type;     /* f32, f16, bf16, q8_0, q6_k, q4_k_m; NULL: bf16, f16 or f32 as the input */
    const char *parity;        /* auto, on, off: both models run and their logits are compared; NULL: auto */
    const char *nemo_format;   /* torch_dist, zarr */
    int has_dtype;
    ns_dtype dt;
    int64_t max_shard_bytes; /* hf */
    int tp, pp;              /* trtllm */
    int weight_only;         /* trtllm: 8, 4 bits, 0: none (ckpt/trt_write.h) */
    int weight_only_packed;  /* the integers themselves, for compute capability 7.5 to 8.9 */
    int fp8, fp8_kv;         /* trtllm: matrices in e4m3; the key/value cache, too */
    const char *calib_rows;  /* fp8: rows that the model runs over (calibrate.h) */
    int64_t calib_size, calib_max_tokens;
    int force; /* an existing output is replaced */
} ns_export_args;
#define NS_EXPORT_DEFAULT                                                                                      \
    {                                                                                                          \
        .nemo_format = "torch_dist", .dt = NS_DTYPE_BF16, .max_shard_bytes = (int64_t)10 * 1000 * 1000 * 1000, \
        .tp = 1, .pp = 1, .calib_size = 512, .calib_max_tokens = 512                                           \
    }

typedef struct ns_export_report {
    const char *from, *tokenizer_from; /* "hf"; path or "" */
    char tokenizer_dir[4096];
    int64_t n_tensors, n_compared, n_elements;
    ns_dtype dt;
    const char *type;     /* of the weights as stored: "BF16", "q4_k_m" */
    char calibrated[128]; /* fp8: over what; "": not */
    char parity[256];     /* what the comparison of logits gave; "" : off */
} ns_export_report;

NS_MUST_USE ns_status ns_export(const ns_export_args *a, ns_export_report *report, ns_error *err);

#endif
