/* The step loop. What trains is train_step; everything else in ns_sft_run is accounting around it. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "base/mem.h"
#include "train/sft.h"
#include "train/stop.h"

/* The micro-batch in t->batch, or this rank's tokens of it. */
static void give_batch(ns_sft *t)
{
    if (ns_ranks_cp(&t->ranks) == 1) {
        ns_model_set_batch(&t->engine.model, &t->engine.exec, &t->batch);
        return;
    }
    ns_batch_cut(&t->part, &t->batch, ns_ranks_cp_rank(&t->ranks), ns_ranks_cp(&t->ranks));
    ns_model_set_part(&t->engine.model, &t->engine.exec, &t->part);
}

/* Tokens of a micro-batch that another rank computes: masks of dropout follow tokens in the order of one rank. */
static int64_t tokens_of(const ns_sft *t, int64_t k)
{
    const int64_t *rows = t->split.rows + t->split.start[k];
    int64_t n = t->split.start[k + 1] - t->split.start[k], tokens = 0;
    if (ns_examples_targets(&t->rows, rows, n) <= 0) return 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t len = rows[i] < 0 ? 0 : t->rows.start[rows[i] + 1] - t->rows.start[rows[i]] - 1;
        tokens += len > 0 ? len : 0;
    }
    return tokens;
}

/* Micro-batches as many as ranks, or a multiple, of about equal size; one rank fills them up to T_cap. */
static int32_t balanced_cap(const ns_sft *t, const ns_examples *ex, int64_t n_rows)
{
    int64_t total = 0, longest = 1, dp = ns_ranks_dp(&t->ranks);
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t len = t->index[i] < 0 ? 0 : ex->start[t->index[i] + 1] - ex->start[t->index[i]] - 1;
        total += len > 0 ? len : 0;
        longest = len > longest ? len : longest;
    }
    int64_t rounds = (total + dp * t->T_cap - 1) / (dp * t->T_cap);
    int64_t cap = dp == 1 || rounds < 1 ? t->T_cap : total / (rounds * dp) + total / (rounds * dp) / 16 + 1;
    return (int32_t)(cap < longest ? longest : cap > t->T_cap ? t->T_cap : cap);
}

/* The sums that all ranks share: loss, gradient norm. */
static ns_status sum_over_ranks(ns_sft *t, double *mean, ns_error *err)
{
    ns_step s;
    if (t->ranks.all.size == 1) return NS_OK;
    ns_model_get_step(&t->engine.model, &t->engine.exec, &s);
    int counts = ns_ranks_tp_rank(&t->ranks) == 0; /* tensor-parallel ranks have the same loss */
    double x[4] = {counts ? s.loss_sum : 0, s.grad_sumsq, counts ? *mean : 0, s.nonfinite};
    NS_TRY(ns_comm_scalars(&t->ranks.all, x, 4, NS_COMM_SUM, err), "%s", "loss and gradient norm");
    s.loss_sum = x[0];
    s.grad_sumsq = x[1];
    *mean = x[2];
    s.nonfinite = x[3] != 0 || !isfinite(x[1]);
    ns_model_put_step(&t->engine.model, &t->engine.exec, &s);
    return NS_OK;
}

/* One global batch: its loss by the rule of o->loss. Sums over micro-batches happen in ns_step, in order. */
static ns_status train_step(ns_sft *t, double *loss, double *grad_norm, int64_t *tokens, ns_error *err)
{
    const ns_sft_options *o = t->o;
    ns_model *m = &t->engine.model;
    ns_exec *x = &t->engine.exec;
    ns_step s;
    int by_rows = !strcmp(o->loss, "micro_batch");
    NS_TRY(ns_sampler_batch(&t->sampler, t->state.consumed_samples, t->index, err), "sampler");
    int32_t cap = balanced_cap(t, &t->rows, o->train.gbs);
    double began = ns_time_now();
    NS_TRY(ns_split_batch(&t->split, &t->rows, t->index, o->train.gbs, o->train.mbs, by_rows, by_rows ? t->T_cap : cap,
                          t->S_cap, err),
           "micro-batches");
    double targets = ns_examples_targets(&t->rows, t->index, o->train.gbs), mean = 0;
    s = (ns_step){.weight_sum = targets,
                  .lr = (float)ns_schedule_lr(&t->schedule, t->state.step),
                  .beta1 = (float)o->beta1,
                  .beta2 = (float)o->beta2,
                  .eps = (float)o->eps,
                  .weight_decay = (float)o->weight_decay,
                  .clip = (float)o->clip,
                  .t = t->state.step + 1,
                  .dropout_step = (uint32_t)t->state.step};
    NS_FAIL_IF(targets <= 0, NS_ERR_INPUT, "step %" PRId64 ": no row of the batch has a trained token",
               t->state.step + 1);
    uint64_t allocations = ns_mem_get_stats().n_alloc;
    ns_model_put_step(m, x, &s);
    ns_model_zero_grad(m, x);
    *tokens = 0;
    for (int64_t k = 0; k < t->split.n_micro; k++) {
        if (k % ns_ranks_dp(&t->ranks) != ns_ranks_dp_rank(&t->ranks)) {
            *tokens += tokens_of(t, k);
            continue;
        }
        ns_world_note(t->ranks.world, t->state.step + 1, "micro-batch");
        NS_TRY(ns_batch_fill(&t->batch, &t->rows, t->split.rows + t->split.start[k],
                             t->split.start[k + 1] - t->split.start[k], err),
               "micro-batch %" PRId64, k);
        if (t->batch.weight_sum <= 0) continue; /* all masked: contributes nothing (0/0 in the original) */
        double before = s.loss_sum;
        if (by_rows) { /* each micro-batch has its own divisor, and its loss is read back */
            s.weight_sum = t->batch.weight_sum * (double)t->split.n_micro;
            ns_model_put_step(m, x, &s);
        }
        give_batch(t);
        m->token0 = *tokens;
        ns_model_forward(m, x, 0);
        ns_model_loss(m, x, NULL, 1);
        ns_model_backward(m, x, 0);
        if (by_rows) {
            ns_model_get_step(m, x, &s);
            mean += (s.loss_sum - before) / s.weight_sum;
        }
        *tokens += t->batch.n_tok;
    }
    double own_seconds = ns_time_now() - began;
    ns_world_note(t->ranks.world, t->state.step + 1, "update");
    NS_TRY(ns_ranks_reduce(&t->ranks, &t->engine, err), "step %" PRId64, t->state.step + 1);
    ns_model_grad_sumsq(m, x);
    NS_TRY(sum_over_ranks(t, &mean, err), "step %" PRId64, t->state.step + 1);
    ns_model_update(m, x);
    NS_TRY(ns_ranks_gather(&t->ranks, &t->engine, err), "step %" PRId64, t->state.step + 1);
    ns_model_prepare(m, x);
    NS_TRY(ns_ranks_watch(&t->ranks, own_seconds, t->state.step + 1, err), "step %" PRId64, t->state.step + 1);
    ns_model_get_step(m, x, &s);
    NS_ASSERT(ns_mem_get_stats().n_alloc == allocations); /* all memory was planned */
    *loss = by_rows ? mean : s.loss_sum / targets;
    *grad_norm = sqrt(s.grad_sumsq);
    t->targets_done += (int64_t)targets;
    NS_FAIL_IF(x->err.code != NS_OK, x->err.code, "step %" PRId64 ": %s", t->state.step + 1, x->err.msg);
    NS_FAIL_IF(s.nonfinite || !isfinite(*loss), NS_ERR_NUMERIC,
               "step %" PRId64 ": loss %g, gradient norm %g: training diverged; the weights were not updated. Lower "
               "model.optim.lr (now %g), add warm-up or set trainer.sft.gradient_clip_val=1.0",
               t->state.step + 1, *loss, *grad_norm, o->lr);
    return NS_OK;
}

/* Mean over the targets of the validation batches; restarts at the first row each time. */
static ns_status validate(ns_sft *t, ns_error *err)
{
    if (t->n_val_batches <= 0) return NS_OK;
    const ns_examples *rows = t->val_is_train ? &t->rows : &t->val_rows;
    ns_model *m = &t->engine.model;
    ns_exec *x = &t->engine.exec;
    double start = ns_time_now(), targets = 0;
    ns_step s = {.weight_sum = 1};
    ns_model_put_step(m, x, &s);
    float hidden = m->opt.hidden_dropout, ffn = m->opt.ffn_dropout;
    m->opt.hidden_dropout = m->opt.ffn_dropout = 0;
    for (int64_t b = 0; b < t->n_val_batches; b++) {
        NS_TRY(ns_sampler_batch(&t->val_sampler, b * t->o->val.gbs, t->index, err), "validation sampler");
        NS_TRY(ns_split_batch(&t->split, rows, t->index, t->o->val.gbs, t->o->val.mbs, 0,
                              balanced_cap(t, rows, t->o->val.gbs), t->S_cap, err),
               "validation batch");
        ns_world_note(t->ranks.world, t->state.step, "validation");
        for (int64_t k = ns_ranks_dp_rank(&t->ranks); k < t->split.n_micro; k += ns_ranks_dp(&t->ranks)) {
            NS_TRY(ns_batch_fill(&t->batch, rows, t->split.rows + t->split.start[k],
                                 t->split.start[k + 1] - t->split.start[k], err),
                   "validation");
            give_batch(t);
            ns_model_forward(m, x, 0);
            ns_model_loss(m, x, NULL, 0);
            if (ns_ranks_cp_rank(&t->ranks) == 0) targets += t->batch.weight_sum; /* all of one micro-batch have it */
        }
    }
    m->opt.hidden_dropout = hidden;
    m->opt.ffn_dropout = ffn;
    ns_model_get_step(m, x, &s);
    NS_FAIL_IF(x->err.code != NS_OK, x->err.code, "validation: %s", x->err.msg);
    double sums[2] = {s.loss_sum, targets};
    NS_TRY(ns_comm_scalars(&t->ranks.grads, sums, 2, NS_COMM_SUM, err), "%s", "validation loss");
    t->state.val_loss = sums[1] > 0 ? sums[0] / sums[1] : NAN;
    return ns_sft_record_val(t, t->state.val_loss, ns_time_now() - start, err);
}

static void live_line(const ns_sft *t, ns_progress *p, double loss, double grad_norm, double lr, double seconds,
                      int64_t tokens)
{
    char note[256];
    double rate = (double)tokens / seconds;
    int n =
        snprintf(note, sizeof note, "loss %.4f  lr %.2e  %.0f tok/s  %.0f GFLOP/s  %.0f MB", loss, lr, rate,
                 t->engine.step_flops / (double)t->engine.opt.T_cap * rate / 1e9, (double)t->engine.total_bytes / 1e6);
    if (t->o->clip > 0 && n > 0 && n < (int)sizeof note)
        snprintf(note + n, sizeof note - (size_t)n, "  norm %.3f", grad_norm);
    ns_progress_set(p, (double)t->state.step, note);
}

static ns_status run_steps(ns_sft *t, ns_progress *p, ns_stop_reason *stopped, ns_error *err)
{
    while (t->state.step < t->max_steps) {
        double start = ns_time_now(), loss = 0, norm = 0;
        int64_t tokens = 0;
        double lr = ns_schedule_lr(&t->schedule, t->state.step);
        NS_TRY(train_step(t, &loss, &norm, &tokens, err), "%s", "train");
        double seconds = ns_time_now() - start;
        t->tokens_done += tokens;
        NS_TRY(ns_sft_record_step(t, loss, norm, lr, seconds, tokens, err), "metrics");
        t->state.step++;
        t->state.consumed_samples += t->o->train.gbs;
        t->state.epoch = t->state.step / t->steps_per_epoch;
        live_line(t, p, loss, norm, lr, seconds, tokens);

        double stop = ns_stop_check(); /* whoever is told to stop: all stop at the same step */
        NS_TRY(ns_comm_scalars(&t->ranks.all, &stop, 1, NS_COMM_MAX, err), "%s", "stop");
        *stopped = (ns_stop_reason)stop;
        int last = t->state.step == t->max_steps, due = t->save_interval > 0 && t->state.step % t->save_interval == 0;
        int save = t->save_interval > 0 && (last || due || *stopped);
        if (t->val_interval > 0 && (t->state.step % t->val_interval == 0 || last || save))
            NS_TRY(validate(t, err), "validate");
        if (save) NS_TRY(ns_sft_save(t, *stopped && !last && !due, err), "save step %" PRId64, t->state.step);
        if (*stopped && !last) return NS_OK;
    }
    *stopped = NS_STOP_NONE;
    return NS_OK;
}

/* All ranks must be in the same run: the same program, settings, rows and model. */
static ns_status join_ranks(ns_sft *t, const char *config_yaml, ns_error *err)
{
    char identity[256];
    snprintf(identity, sizeof identity, "version %s;settings %08x;rows %s;parameters %s;CPU level %s", NS_VERSION,
             ns_crc32c(0, config_yaml, strlen(config_yaml)), t->rows.hash, t->engine.table.hash, t->engine.ops.name);
    return ns_ranks_join(&t->ranks, identity, t->on_abort, err);
}

static ns_status train(ns_sft *t, const char *config_yaml, int argc, char *const *argv, ns_stop_reason *stopped,
                       ns_error *err)
{
    ns_status st = ns_ranks_first(&t->ranks) ? ns_sft_lock(t, err) : NS_OK;
    NS_TRY(ns_ranks_vote(&t->ranks, st, err), "%s", "output folder");
    t->engine.tp = &t->ranks.tp;
    t->engine.cp = &t->ranks.cp;
    t->engine.grads = &t->ranks.grads;
    NS_TRY(ns_engine_start(&t->engine, err), "start");
    NS_TRY(ns_sft_load_weights(t, err), "weights");
    if (t->state.step >= t->max_steps) {
        NS_INFO("finished already: step %" PRId64 " of %" PRId64 "; nothing to do", t->state.step, t->max_steps);
        return NS_OK;
    }
    t->engine.exec.key = (ns_philox_key){{(uint32_t)t->o->seed, 0x64726f70u}};
    if (ns_ranks_first(&t->ranks)) NS_TRY(ns_sft_row_report(t, err), "row report");
    if (ns_ranks_first(&t->ranks)) NS_TRY(ns_sft_record_open(t, config_yaml, argc, argv, err), "records");
    ns_stop_install();
    ns_stop_set_limit(t->o->max_seconds);
    t->started = ns_time_now();
    ns_progress *p = ns_ranks_first(&t->ranks) ? ns_progress_begin("train", (double)t->max_steps, "steps") : NULL;
    st = run_steps(t, p, stopped, err);
    ns_progress_end(&p, NULL);
    NS_TRY(st, "%s", "sft");
    NS_TRY(ns_comm_barrier(&t->ranks.all, err), "%s", "end"); /* nobody leaves while another still needs it */
    NS_FAIL_IF(*stopped, NS_ERR_STOPPED, "stopped by %s after step %" PRId64 " of %" PRId64 "%s%s",
               ns_stop_check() ? ns_stop_name() : "another rank", t->state.step, t->max_steps,
               t->save_interval > 0 ? "; saved " : "; nothing saved (save_interval <= 0)",
               t->save_interval > 0 ? t->last_saved : "");
    double seconds = ns_time_now() - t->started;
    NS_INFO("trained %" PRId64 " steps in %.1f s: %.0f tokens/s, %.1f GFLOP/s", t->max_steps, seconds,
            (double)t->tokens_done / seconds,
            t->engine.step_flops / (double)t->engine.opt.T_cap * (double)t->tokens_done / seconds / 1e9);
    return NS_OK;
}

ns_status ns_sft_run(ns_sft *t, const char *config_yaml, int argc, char *const *argv, ns_error *err)
{
    ns_stop_reason stopped = NS_STOP_NONE;
    t->state.val_loss = NAN;
    NS_TRY(join_ranks(t, config_yaml, err), "%s", "start");
    ns_status st = train(t, config_yaml, argc, argv, &stopped, err);
    if (st != NS_OK && st != NS_ERR_STOPPED) ns_world_fail(t->ranks.world, err); /* the others learn why */
    return st;
}
