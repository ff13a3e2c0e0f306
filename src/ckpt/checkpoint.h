/* Training checkpoints (DESIGN.md §4, doc/checkpoint.md). A checkpoint is an HF model directory plus
 *
 *   optimizer/rank*.safetensors       tensors `<state>/<param>@off:len` (state: main, m, v); off, len in elements of the storage
 *                                     parameter; contiguous ranges >= 1 MiB unless the parameter is smaller
 *                                     F32; BF16 where the run keeps a state so (main: no remainder), which is then exact
 *   optimizer/index.json              {"format":1,"tensors":{"<state>/<param>":[{"off":..,"len":..,"file":".."}]}}
 *   state.json                        {"format":1,"param_hash":..,"step":..,"consumed_samples":..,"epoch":..,"rng":{..},"schedule":{..},...}
 *   DONE                              sizes and checksums of all files, written last
 *
 * States of a checkpoint on disk, and who moves it:
 *   (none) --ns_ckpt_save: ns_dir_begin--> .name.tmp --write all, fsync, DONE, rename (ns_dir_publish)--> name
 *   name --ns_ckpt_save: ns_link_tree + publish--> name + name-last --remove older -last (only after the new one is published)--> ...
 * A kill at any instant leaves the old complete set, the new complete set, or both, plus at most one .*.tmp, which the next start removes. */
#ifndef NS_CKPT_CHECKPOINT_H
#define NS_CKPT_CHECKPOINT_H

#include "ckpt/model_io.h"

typedef struct ns_ckpt_state { /* state.json */
    int64_t step, consumed_samples, epoch;
    uint64_t seed;
    int64_t schedule_max_steps, warmup_steps, constant_steps; /* stored schedule wins over a new config on resume */
    double lr, min_lr;
    int64_t n_rows;     /* rows of the training data when saved; a change is an error */
    char data_hash[17]; /* of names, sizes and the ids of the first rows */
    double val_loss;    /* NaN if none */
    int forced;         /* 1: saved by time limit or signal */
} ns_ckpt_state;

/* Optimiser state source: f32 main weight, m, v of elements [off, off+len) of a parameter. NULL pointers are skipped. */
typedef ns_status (*ns_opt_get_fn)(void *user, int param, int64_t off, int64_t len, float *main, float *m, float *v,
                                   ns_error *err);
/* Receives a whole parameter (n = rows*cols), one at a time. */
typedef ns_status (*ns_opt_put_fn)(void *user, int param, const float *main, const float *m, const float *v,
                                   ns_error *err);

/* Which elements of a parameter each rank holds: cut[n_ranks+1], the same on all ranks. */
typedef void (*ns_opt_cut_fn)(void *user, int param, int64_t *cut);
/* Several ranks save together: called by all at the same points with how it went so far; OK only if all are. */
typedef ns_status (*ns_ckpt_vote_fn)(void *user, ns_status mine, ns_error *err);

/* With several ranks all call ns_ckpt_save with the same name: each writes optimizer/rankNNNNN.safetensors with its own
 * pieces, rank 0 everything else, and publishes when all have written. The folder must be seen by all. */
typedef struct ns_ckpt_save_args {
    const char *dir;  /* .../training/checkpoints */
    const char *name; /* without -last */
    int keep_named;   /* 0: only -last is updated (forced saves) */
    const ns_param_table *table;
    ns_dtype dt; /* dtype of the model files */
    const char *tokenizer_dir;
    ns_str chat_template; /* becomes that of the written tokenizer; p NULL: the folder's own */
    ns_param_get_fn get_model;
    ns_opt_get_fn get_opt;
    ns_dtype state_dt[3]; /* types of main, m, v in the files: F32, or BF16 where get_opt gives values of bf16 */
    void *user;
    int rank, n_ranks; /* n_ranks 0 or 1: one process; cut and vote are not used then */
    int collective; /* get_model and get_opt need all ranks: called on all, in the same order, also for empty ranges */
    ns_opt_cut_fn cut;
    ns_ckpt_vote_fn vote;
    void *vote_user;
    const ns_ckpt_state *state;
    int save_top_k;     /* -1 all */
    int keep_optimizer; /* optimiser state kept for the last N named checkpoints */
} ns_ckpt_save_args;
NS_MUST_USE ns_status ns_ckpt_save(const ns_ckpt_save_args *a, ns_error *err);

/* The newest complete `-last` (highest step) in dir, or "" if none; removes stale .*.tmp directories. */
NS_MUST_USE ns_status ns_ckpt_find_last(char *path, size_t path_size, const char *dir, ns_error *err);
NS_MUST_USE ns_status ns_ckpt_read_state(ns_ckpt_state *s, const char *ckpt, ns_error *err);
/* Restores the optimiser state (and with it the exact main weights). param_hash must agree. found: types of main, m, v in the
 * files (put gets f32 of any); NULL: not wanted. */
NS_MUST_USE ns_status ns_ckpt_load(const char *ckpt, const ns_param_table *t, ns_opt_put_fn put, void *user,
                                   ns_dtype found[3], ns_error *err);
/* `{val_loss:.3f}`-style names: training.md §2.8; pattern of the config key exp_manager...filename. */
NS_MUST_USE ns_status ns_ckpt_format_name(ns_buf *out, const char *pattern, const ns_ckpt_state *s, ns_error *err);

#endif
