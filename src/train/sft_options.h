/* The settings of `ns sft`: documented keys and defaults (training.md §1.4) in one table, shared with `ns plan`. */
#ifndef NS_TRAIN_SFT_OPTIONS_H
#define NS_TRAIN_SFT_OPTIONS_H

#include "base/options.h"

typedef struct ns_sft_data_options {
    const char *file_path;
    int64_t gbs, mbs, max_seq_length, sep_id;
    int drop_last, add_eos, add_sep, add_bos, packed;
    const char *label_key, *truncation_field, *prompt_template, *truncation_method;
} ns_sft_data_options;

typedef struct ns_sft_options {
    const char *name;
    int64_t num_nodes, devices;
    const char *precision;
    int64_t copy_epochs, copy_steps, copy_mbs, copy_gbs; /* second places of a setting: must agree with the first */
    int64_t max_epochs, max_steps, save_interval, num_checkpoints;
    const ns_node *val_check_interval, *limit_val_batches, *limit_train_batches;
    double clip; /* 0: none */
    const char *log_dir, *exp_dir, *exp_name, *max_time;
    int wandb, tensorboard, resume, resume_ignore_missing;
    int64_t save_top_k, keep_optimizer;
    const char *monitor, *mode, *filename;
    int save_forced_named, async_save;
    int64_t seed;
    int64_t tp, pp, cp;
    const char *cp_comm;
    int sequence_parallel, overlap_grads, overlap_params;
    const ns_node *vpp;
    double dead_s, hang_s; /* of dist/world.h */
    const char *trace, *plan_layouts;
    const char *restore_from, *resume_from;
    double hidden_dropout, attention_dropout, ffn_dropout;
    int fp8, fp8_e4m3, fp8_hybrid, fp8_split;
    const char *recompute;
    int deterministic;
    const char *plan_gpu;
    const char *peft;
    ns_sft_data_options train, val;
    int64_t global_examples; /* 0: train.gbs counts */
    struct {                 /* rows packed in memory, pack/packed.h */
        int64_t size;        /* 0: train.max_seq_length */
        const char *algorithm;
        int64_t seed, chunk; /* -1: 0 and 100000 */
    } pack;
    struct { /* data/chat.h */
        const char *tmpl, *form, *tools_field, *date;
        const ns_node *kwargs;
        ns_opt_list roles;
        int mask_history, allow_double_bos, allow_missing_end, allow_special_text;
    } chat;
    const char *optim_name;
    double lr, weight_decay, eps;
    ns_opt_list betas;
    const char *main_dtype, *m_dtype, *v_dtype;
    const char *sched;
    int64_t warmup, constant, sched_max_steps; /* sched_max_steps -1: the run's steps */
    double warmup_ratio, constant_ratio;       /* of the schedule's steps; < 0: not given */
    double min_lr;
    const char *sampler, *loss;
    int norm_decay;
    const char *isa, *accelerator;
    int64_t threads;
    int allow_masked;
    double max_truncated_share, max_dropped_share, max_masked_share, max_duplicate_share;
    const char *tokenizer;
    const ns_node *compat; /* receives every setting that is accepted and not acted on */
    /* filled by ns_sft_check */
    double max_seconds;
    double beta1, beta2;
} ns_sft_options;

enum { NS_SFT_N_OPTIONS = 179 };
enum { NS_SFT_DEFAULT_GBS = 512 };
extern const ns_option ns_sft_option_table[NS_SFT_N_OPTIONS];

/* Combinations, before any work: sizes that do not divide, layouts this build cannot run, missing paths. */
NS_MUST_USE ns_status ns_sft_check(ns_sft_options *o, ns_error *err);

#endif
