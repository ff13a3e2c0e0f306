/* Models on disk in Hugging Face layout <-> host arrays by storage parameter (arch/params.h). Streams: one tensor at a time.
 *
 * The receiver gives, for each storage parameter, where its rows go. Missing, extra, duplicated or misshapen tensors are
 * errors that name tensor, found and expected shape; a tied head may be absent or must equal the embedding. */
#ifndef NS_CKPT_MODEL_IO_H
#define NS_CKPT_MODEL_IO_H

#include "arch/params.h"
#include "ckpt/safetensors.h"

/* Called once per storage parameter with its f32 values: [rows, cols]. For reading: fill; for writing: provide.
 * `data` is scratch of rows*cols floats owned by the caller of the callback. */
typedef ns_status (*ns_param_get_fn)(void *user, int param, float *data, ns_error *err);
typedef ns_status (*ns_param_put_fn)(void *user, int param, const float *data, ns_error *err);

/* Record of a model of any format: Hugging Face folder, NeMo folder or .nemo. */
NS_MUST_USE ns_status ns_model_arch(ns_arch *a, const char *path, ns_error *err);
/* Where the tokenizer of a model lies: its folder, or the folder "tokenizer" inside a NeMo one. */
NS_MUST_USE ns_status ns_model_tokenizer_dir(char *out, size_t size, const char *path, ns_error *err);

/* Reads every parameter of `t` from the model (any format), in canonical order, calling put(user, i, values) for each. */
NS_MUST_USE ns_status ns_model_read(const char *dir, const ns_param_table *t, ns_param_put_fn put, void *user,
                                    ns_error *err);
/* Writes config.json, model*.safetensors in dtype `dt`, generation_config.json and copies the tokenizer files of
 * `tokenizer_dir` (may be NULL) into the existing directory `dir` (normally a temporary one from ns_dir_begin). */
NS_MUST_USE ns_status ns_model_write(const char *dir, const ns_param_table *t, ns_dtype dt, int64_t max_shard_bytes,
                                     const char *tokenizer_dir, ns_param_get_fn get, void *user, ns_error *err);
/* Everything but the weights: config.json, generation_config.json, tokenizer files of `from` (may be NULL). eos_token_id: the
 * record's, in generation_config.json followed by those that the one of `from` has beyond them. */
NS_MUST_USE ns_status ns_model_write_side_files(const char *dir, const ns_arch *a, const char *from, ns_error *err);
/* The template of the folder's tokenizer is from now on this text. */
NS_MUST_USE ns_status ns_model_set_chat_template(const char *dir, const char *text, size_t n, ns_error *err);
/* Random initial values (ns init): normal(0, init_std) by Philox stream = param index, element = flat index in the param;
 * norms 1, biases 0; o and down scaled by 1/sqrt(2 L) as GPT-2 does. Deterministic for (arch, seed), any platform. */
NS_MUST_USE ns_status ns_model_init_values(const ns_param_table *t, int param, uint64_t seed, float *data,
                                           ns_error *err);

/* Publishes a new model with random weights at `out` (ns init): config_path names a config.json or a folder with one. */
typedef struct ns_model_init_args {
    const char *config_path, *out;
    const char *tokenizer_dir; /* NULL: none */
    ns_dtype dt;               /* F32, BF16 or F16 */
    uint64_t seed;
    int replace; /* 1: an existing model at `out` is replaced in one step; 0: it is an error */
} ns_model_init_args;
NS_MUST_USE ns_status ns_model_init(const ns_model_init_args *a, int64_t *n_params, ns_error *err);

/* ---- averaging (ns average): fp32 accumulation, one tensor in memory ---- */
typedef struct ns_average_report {
    int n_used;
    int64_t steps_used[256];
    int n_evicted; /* steps that metrics or names show were saved but are gone (top-k eviction) */
    int64_t steps_evicted[256];
} ns_average_report;
/* `which`: "all", "1000,5000", "1000-5000", "last", "last:N". Sources: directories in checkpoints_dir that are DONE; `-last`
 * copies are not counted twice. Publishes `out` atomically. A missing step is an error that lists those present. */
NS_MUST_USE ns_status ns_average(const char *checkpoints_dir, const char *which, const char *out,
                                 ns_average_report *report, ns_error *err);
/* All of it. Where no checkpoint of ours lies in `dir`, its sub-folders with a model of any format are taken, by the number behind
 * "step=" in their names, or the one they end with (checkpoint-1000); -last ones are copies. An absent zarr chunk is an error here. */
typedef struct ns_average_args {
    const char *dir, *which, *out;
    const char *dist_format; /* as in ns_average_to */
    double ema;              /* 0: the mean; else 0 < ema < 1, in order of step: e = ema * e + (1 - ema) * x */
    const char *model; /* gives configuration and tokenizer (NeMo's training checkpoints have none); NULL: their own */
} ns_average_args;
NS_MUST_USE ns_status ns_average_models(const ns_average_args *a, ns_average_report *report, ns_error *err);
/* The same in NeMo layout (nemo_write.h): dist_format torch_dist or zarr; NULL: Hugging Face layout. */
NS_MUST_USE ns_status ns_average_to(const char *checkpoints_dir, const char *which, const char *out,
                                    const char *dist_format, ns_average_report *report, ns_error *err);

#endif
