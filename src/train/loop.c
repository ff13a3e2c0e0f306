/* The step loop. What trains is train_step; everything else in ns_sft_run is accounting around it. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "train/sft.h"
#include "train/stop.h"

/* One global batch: its loss by the rule of o->loss. Sums over micro-batches happen in ns_step, in order. */
static ns_status train_step(ns_sft *t, double *loss, double *grad_norm, int64_t *tokens, ns_error *err)
{
    const ns_sft_options *o = t->o;
    ns_model *m = &t->engine.model;
    ns_exec *x = &t->engine.exec;
    ns_step *s = m->step;
    int by_rows = !strcmp(o->loss, "micro_batch");
    NS_TRY(ns_sampler_batch(&t->sampler, t->state.consumed_samples, t->index, err), "sampler");
    NS_TRY(ns_split_batch(&t->split, &t->rows, t->index, o->train.gbs, o->train.mbs, by_rows, t->T_cap, t->S_cap, err),
           "micro-batches");
    double targets = ns_examples_targets(&t->rows, t->index, o->train.gbs), mean = 0;
    *s = (ns_step){.weight_sum = targets,
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
    ns_model_zero_grad(m, x);
    *tokens = 0;
    for (int64_t k = 0; k < t->split.n_micro; k++) {
        NS_TRY(ns_batch_fill(&t->batch, &t->rows, t->split.rows + t->split.start[k],
                             t->split.start[k + 1] - t->split.start[k], err),
               "micro-batch %" PRId64, k);
        if (t->batch.weight_sum <= 0) continue; /* all masked: contributes nothing (0/0 in the original) */
        double before = s->loss_sum;
        if (by_rows) s->weight_sum = t->batch.weight_sum * (double)t->split.n_micro;
        ns_model_set_batch(m, &t->batch);
        m->token0 = *tokens;
        ns_model_forward(m, x, 0);
        ns_model_loss(m, x, NULL, 1);
        ns_model_backward(m, x, 0);
        mean += (s->loss_sum - before) / s->weight_sum;
        *tokens += t->batch.n_tok;
    }
    ns_model_update(m, x);
    NS_ASSERT(ns_mem_get_stats().n_alloc == allocations); /* all memory was planned */
    *loss = by_rows ? mean : s->loss_sum / targets;
    *grad_norm = sqrt(s->grad_sumsq);
    t->targets_done += (int64_t)targets;
    NS_FAIL_IF(x->err.code != NS_OK, x->err.code, "step %" PRId64 ": %s", t->state.step + 1, x->err.msg);
    NS_FAIL_IF(s->nonfinite || !isfinite(*loss), NS_ERR_NUMERIC,
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
    *m->step = (ns_step){.weight_sum = 1};
    float hidden = m->opt.hidden_dropout, ffn = m->opt.ffn_dropout;
    m->opt.hidden_dropout = m->opt.ffn_dropout = 0;
    for (int64_t b = 0; b < t->n_val_batches; b++) {
        NS_TRY(ns_sampler_batch(&t->val_sampler, b * t->o->val.gbs, t->index, err), "validation sampler");
        NS_TRY(ns_split_batch(&t->split, rows, t->index, t->o->val.gbs, t->o->val.mbs, 0, t->T_cap, t->S_cap, err),
               "validation batch");
        for (int64_t k = 0; k < t->split.n_micro; k++) {
            NS_TRY(ns_batch_fill(&t->batch, rows, t->split.rows + t->split.start[k],
                                 t->split.start[k + 1] - t->split.start[k], err),
                   "validation");
            ns_model_set_batch(m, &t->batch);
            ns_model_forward(m, x, 0);
            ns_model_loss(m, x, NULL, 0);
            targets += t->batch.weight_sum;
        }
    }
    m->opt.hidden_dropout = hidden;
    m->opt.ffn_dropout = ffn;
    NS_FAIL_IF(x->err.code != NS_OK, x->err.code, "validation: %s", x->err.msg);
    t->state.val_loss = targets > 0 ? m->step->loss_sum / targets : NAN;
    return ns_sft_record_val(t, t->state.val_loss, ns_time_now() - start, err);
}

static void live_line(const ns_sft *t, ns_progress *p, double loss, double grad_norm, double lr, double seconds,
                      int64_t tokens)
{
    char note[256];
    double rate = (double)tokens / seconds;
    int n = snprintf(note, sizeof note, "loss %.4f  lr %.2e  %.0f tok/s  %.0f GFLOP/s  %.0f MB", loss, lr, rate,
                     t->engine.step_flops / (double)t->T_cap * rate / 1e9, (double)t->engine.total_bytes / 1e6);
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

        *stopped = ns_stop_check();
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

ns_status ns_sft_run(ns_sft *t, const char *config_yaml, int argc, char *const *argv, ns_error *err)
{
    t->state.val_loss = NAN;
    NS_TRY(ns_sft_lock(t, err), "%s", "output folder");
    NS_TRY(ns_engine_start(&t->engine, err), "start");
    NS_TRY(ns_sft_load_weights(t, err), "weights");
    if (t->state.step >= t->max_steps) {
        NS_INFO("finished already: step %" PRId64 " of %" PRId64 "; nothing to do", t->state.step, t->max_steps);
        return NS_OK;
    }
    t->engine.exec.key = (ns_philox_key){{(uint32_t)t->o->seed, 0x64726f70u}};
    NS_TRY(ns_sft_record_open(t, config_yaml, argc, argv, err), "records");
    ns_stop_install();
    ns_stop_set_limit(t->o->max_seconds);
    t->started = ns_time_now();
    ns_progress *p = ns_progress_begin("train", (double)t->max_steps, "steps");
    ns_stop_reason stopped = NS_STOP_NONE;
    ns_status st = run_steps(t, p, &stopped, err);
    ns_progress_end(&p, NULL);
    NS_TRY(st, "%s", "sft");
    NS_FAIL_IF(stopped, NS_ERR_STOPPED, "stopped by %s after step %" PRId64 " of %" PRId64 "%s%s", ns_stop_name(),
               t->state.step, t->max_steps, t->save_interval > 0 ? "; saved " : "; nothing saved (save_interval <= 0)",
               t->save_interval > 0 ? t->last_saved : "");
    double seconds = ns_time_now() - t->started;
    NS_INFO("trained %" PRId64 " steps in %.1f s: %.0f tokens/s, %.1f GFLOP/s", t->max_steps, seconds,
            (double)t->tokens_done / seconds,
            t->engine.step_flops / (double)t->T_cap * (double)t->tokens_done / seconds / 1e9);
    return NS_OK;
}
