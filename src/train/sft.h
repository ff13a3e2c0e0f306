/* Supervised fine-tuning: settings -> data, plan -> steps -> checkpoints (training.md §2).
 *
 *     ns_sft t;
 *     NS_TRY(ns_sft_open(&t, &options, err), "prepare");      // model config, tokenizer, rows, step count, memory plan
 *     NS_TRY(ns_sft_report(&t, &text, err), "report");         // what will happen: printed before step 1, and by `ns plan`
 *     NS_TRY(ns_sft_run(&t, config_yaml, argc, argv, err), "train");
 *     ns_sft_close(&t);
 *
 * States of a run, and what moves it:
 *   open --ns_sft_run: lock, resume or base weights--> stepping --save_interval--> validate, save --> stepping
 *   stepping --signal or time limit--> validate, save -last--> stopped (NS_ERR_STOPPED);  --last step--> save--> finished
 * With several ranks (trainer.devices x num_nodes) all of this runs on each; rank 0 has the lock, writes and records.
 * The lock (training/.lock) is held from the first write to the end: a second run into the same folder is refused. */
#ifndef NS_TRAIN_SFT_H
#define NS_TRAIN_SFT_H

#include "ckpt/saver.h"
#include "model/snapshot.h"
#include "pack/sft_data.h"
#include "model/gpu_spans.h"
#include "pack/microbatch.h"
#include "pack/packed.h"
#include "train/overlap.h"
#include "train/pipeline.h"
#include "train/ranks.h"
#include "train/schedule.h"
#include "train/sft_options.h"
#include "train/tfevents.h"
#include "train/traffic.h"

typedef struct ns_sft {
    ns_sft_options *o;
    char train_dir[2048], ckpt_dir[2048], tokenizer_dir[2048];
    ns_arch arch;
    ns_tok *tok;
    ns_chat *chat;
    ns_str trained_template; /* p NULL: the tokenizer's own, or no conversations (sft_stop.c) */
    ns_examples rows, val_rows;
    ns_packed packs, val_packs; /* packs.n > 0: the sampler draws packs, not rows */
    int val_is_train;           /* no validation file: the training rows serve both */
    ns_sampler sampler, val_sampler;
    ns_mb_split split;
    ns_batch batch;
    ns_batch_part part; /* with several context-parallel ranks */
    int64_t *micro;     /* [n_mine] this rank's micro-batches of the present global batch, in order (step.c) */
    int64_t n_mine, most_micro, *micro_rows; /* at most so many */
    ns_traffic traffic;
    ns_overlap *overlap; /* model.optim.overlap_grad_sync, overlap_param_sync; NULL where nothing is shared */
    ns_trace *trace;     /* trainer.trace */
    ns_gpu_spans *spans; /* with it, on a GPU */
    uint64_t counted[NS_COMM_N_KINDS], computed[NS_COMM_N_KINDS]; /* bytes sent in steps; by traffic.h */
    int64_t entered;                                              /* the one that lies in the model; -1: none */
    ns_engine engine;
    ns_ranks ranks;
    void (*on_abort)(const char *why, void *user); /* set before ns_sft_run: a lost rank, see dist/world.h */
    int32_t T_cap, S_cap;
    ns_schedule schedule;
    int64_t steps_per_epoch, max_steps, save_interval, val_interval, n_val_batches;
    int64_t *index;      /* rows of the present global batch */
    ns_ckpt_state state; /* step, consumed samples, ...: what state.json will say */
    int lock_fd;
    int rows_refused; /* ns_sft_open failed because of the rows: ns_sft_row_report says which */
    struct ns_tfevents *events;
    void *metrics; /* FILE * of metrics.jsonl */
    double started, flops_done;
    int64_t n_saved, tokens_done, targets_done;
    int advise;                          /* set before ns_sft_report: also what packing the rows would give */
    int64_t step_examples, step_targets; /* of the last step, all ranks */
    char last_saved[4096];
    /* async_save: NULL, or the copy that is written and who writes it. Of the save under way, or the last one: */
    ns_snapshot *snapshot;
    ns_ckpt_saver *saver;
    char saving[4096];
    int64_t save_step;
    double save_longest; /* seconds that the slowest save has taken to be written */
    double save_stall;   /* seconds for which it kept training from going on */
} ns_sft;

NS_MUST_USE ns_status ns_sft_open(ns_sft *t, ns_sft_options *o, ns_error *err);
NS_MUST_USE ns_status ns_sft_report(const ns_sft *t, ns_buf *out, int json, ns_error *err);
/* NS_ERR_STOPPED after a signal or the time limit: everything is saved and the message says how to go on. */
NS_MUST_USE ns_status ns_sft_run(ns_sft *t, const char *config_yaml, int argc, char *const *argv, ns_error *err);
void ns_sft_close(ns_sft *t);

/* ---- between setup.c, loop.c, save.c, record.c ---- */
/* Chat settings of the options; tokenizer_dir is set. (sft_chat.c) */
ns_status ns_sft_open_data(ns_sft *t, ns_threads *pool, ns_error *err); /* rows and packs (sft_rows.c) */
int64_t ns_sft_units(const ns_sft *t, int validation);                  /* what the sampler draws: rows, or packs */
int64_t ns_sft_packs_for(const ns_sft *t, double n, int64_t examples);  /* a multiple of the data-parallel ranks */
ns_status ns_sft_report_packs(const ns_sft *t, ns_buf *out, int json, ns_error *err); /* plan_packs.c */
int64_t ns_sft_pack_size(const ns_sft *t); /* of rows packed step by step (global_batch_examples); 0: not so */
ns_status ns_sft_open_chat(ns_sft *t, ns_error *err);
/* What the saved model carries so that other programs stop where this training does: arch.eos, trained_template. (sft_stop.c) */
ns_status ns_sft_find_stop(ns_sft *t, ns_error *err);
ns_status ns_sft_lock(ns_sft *t, ns_error *err);
ns_status ns_sft_load_weights(ns_sft *t, ns_error *err);     /* base model, or the newest checkpoint */
ns_status ns_sft_save(ns_sft *t, int forced, ns_error *err); /* async_save: begins it */
/* How an async save ended, once: its error, or the news and a line in metrics.jsonl. wait 0: only if it has ended. */
ns_status ns_sft_save_end(ns_sft *t, int wait, ns_error *err);
ns_status ns_sft_save_open(ns_sft *t, ns_error *err); /* memory and writer of async_save; before the first step */
int64_t ns_sft_checkpoint_bytes(const ns_sft *t);
/* One global batch through forward, backward and update: loss by the rule of o->loss, gradient norm, tokens of all ranks. (step.c) */
ns_status ns_sft_step(ns_sft *t, double *loss, double *grad_norm, int64_t *tokens, ns_error *err);
ns_status ns_sft_validate(ns_sft *t, ns_error *err); /* state.val_loss */
ns_status ns_sft_step_new(ns_sft *t, int64_t gbs, ns_error *err);
void ns_sft_step_free(ns_sft *t);
/* Stops a run whose rows are truncated, dropped, without target or repeated beyond the shares of the options. */
ns_status ns_sft_check_rows(ns_sft *t, const ns_examples *r, const char *path, ns_error *err);
ns_status ns_sft_row_report(const ns_sft *t, ns_error *err); /* writes row_report.jsonl */
/* Refuses to begin when not even one step, as long as the last one of the job before, ends within `left_s`. */
ns_status ns_sft_check_time(const ns_sft *t, double left_s, ns_error *err);
ns_status ns_sft_record_open(ns_sft *t, const char *config_yaml, int argc, char *const *argv, ns_error *err);
ns_status ns_sft_record_step(ns_sft *t, double loss, double grad_norm, double lr, double step_s, int64_t tokens,
                             ns_error *err);
ns_status ns_sft_record_val(ns_sft *t, double loss, double seconds, ns_error *err);
ns_status ns_sft_record_save(ns_sft *t, int64_t step, double stall, double seconds, ns_error *err);
void ns_sft_record_close(ns_sft *t);

#endif
