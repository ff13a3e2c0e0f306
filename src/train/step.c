/* One step: a global batch cut into micro-batches, those of this rank through forward and backward (pipeline.c), gradients and
 * norms summed over ranks, update. Sums over micro-batches happen in ns_step and in the gradients, in their order. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "train/sft.h"

ns_status ns_sft_step_new(ns_sft *t, int64_t gbs, ns_error *err)
{
    NS_TRY(ns_alloc((void **)&t->micro, (size_t)gbs * sizeof *t->micro, "sft.micro", err), "%s", "batches");
    return ns_alloc((void **)&t->micro_rows, (size_t)gbs * sizeof *t->micro_rows, "sft.micro", err);
}

void ns_sft_step_free(ns_sft *t)
{
    ns_free(t->micro);
    ns_free(t->micro_rows);
}

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

static int64_t tokens_of(const ns_examples *ex, const int64_t *rows, int64_t n)
{
    int64_t tokens = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t len = rows[i] < 0 ? 0 : ns_examples_len(ex, rows[i]) - 1;
        tokens += len > 0 ? len : 0;
    }
    return tokens;
}

/* Micro-batches as many as ranks, or a multiple, of about equal size; one rank fills them up to T_cap. */
static int32_t balanced_cap(const ns_sft *t, const ns_examples *ex, int64_t n_rows)
{
    int64_t total = 0, longest = 1, dp = ns_ranks_dp(&t->ranks);
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t len = t->index[i] < 0 ? 0 : ns_examples_len(ex, t->index[i]) - 1;
        total += len > 0 ? len : 0;
        longest = len > longest ? len : longest;
    }
    int64_t rounds = (total + dp * t->T_cap - 1) / (dp * t->T_cap);
    int64_t cap = dp == 1 || rounds < 1 ? t->T_cap : total / (rounds * dp) + total / (rounds * dp) / 16 + 1;
    return (int32_t)(cap < longest ? longest : cap > t->T_cap ? t->T_cap : cap);
}

/* The present global batch into micro-batches: packs as they are, or rows by tokens, or mbs rows each. */
static ns_status split_step(ns_sft *t, int by_rows, ns_error *err)
{
    const ns_sft_options *o = t->o;
    int64_t size = ns_sft_pack_size(t);
    if (t->packs.packs.n) {
        ns_split_packs(&t->split, &t->packs, t->index, o->train.gbs);
        return NS_OK;
    }
    int32_t cap = balanced_cap(t, &t->rows, o->train.gbs);
    if (size == 0)
        return ns_split_batch(&t->split, &t->rows, t->index, o->train.gbs, o->train.mbs, by_rows,
                              by_rows ? t->T_cap : cap, t->S_cap, err);
    ns_pack_algorithm how = NS_PACK_FIRST_FIT_SHUFFLE;
    if (o->pack.algorithm) (void)ns_pack_algorithm_parse(&how, o->pack.algorithm); /* one of the choices */
    uint32_t seed = (uint32_t)((o->pack.seed > 0 ? o->pack.seed : 0) + t->state.step);
    return ns_split_into_packs(&t->split, &t->rows, t->index, o->train.gbs, cap < size ? cap : (int32_t)size, how, seed,
                               err);
}

/* Micro-batch k of the step belongs to data-parallel rank k mod dp. All masked: contributes nothing (0/0 in the original). */
static void deal(ns_sft *t, const ns_examples *ex, int64_t *tokens)
{
    t->n_mine = 0;
    t->entered = -1;
    *tokens = 0;
    for (int64_t k = 0; k < t->split.n_micro; k++) {
        const int64_t *rows = t->split.rows + t->split.start[k], n = t->split.start[k + 1] - t->split.start[k];
        if (ns_examples_targets(ex, rows, n) <= 0) continue;
        if (k % ns_ranks_dp(&t->ranks) == ns_ranks_dp_rank(&t->ranks)) t->micro[t->n_mine++] = k;
        *tokens += tokens_of(ex, rows, n);
    }
}

/* A stretch of computation for the trace: on a GPU when it runs there, not when it is enqueued. */
typedef struct stretch {
    double began;
    int span;
} stretch;

static stretch begin(ns_sft *t, const char *what)
{
    return (stretch){ns_time_now(), ns_gpu_span_begin(t->spans, NULL, NS_TRACE_COMPUTE, what)};
}

static void end(ns_sft *t, stretch s, const char *what)
{
    ns_gpu_span_end(t->spans, s.span, 0);
    if (!t->spans) ns_trace_span(t->trace, NS_TRACE_COMPUTE, what, s.began, 0);
}

typedef struct pass { /* what the pipeline's callbacks see */
    ns_sft *t;
    const ns_examples *rows;
    ns_step s;
    int by_rows;
    double mean, before; /* by_rows: sum of the micro-batches' own means; loss_sum before this one */
    double targets;      /* validation */
} pass;

static ns_status enter(void *user, int64_t i, ns_error *err)
{
    pass *p = user;
    ns_sft *t = p->t;
    const int64_t k = t->micro[i];
    if (t->entered == i) return NS_OK;
    NS_TRY(ns_batch_fill(&t->batch, p->rows, t->split.rows + t->split.start[k],
                         t->split.start[k + 1] - t->split.start[k], err),
           "micro-batch %" PRId64, k);
    give_batch(t);
    t->entered = i;
    return NS_OK;
}

static ns_status forward(void *user, int64_t i, int slot, ns_error *err)
{
    pass *p = user;
    ns_model *m = &p->t->engine.model;
    ns_exec *x = &p->t->engine.exec;
    (void)i;
    ns_world_note(p->t->ranks.world, p->t->state.step + 1, "forward");
    if (p->by_rows && ns_model_is_last(m)) { /* each micro-batch has its own divisor, and its loss is read back */
        p->before = p->s.loss_sum;
        p->s.weight_sum = p->t->batch.weight_sum * (double)p->t->split.n_micro;
        ns_model_put_step(m, x, &p->s);
    }
    const stretch s = begin(p->t, "forward");
    ns_model_forward(m, x, slot);
    if (ns_model_is_last(m)) ns_model_loss(m, x, NULL, 1);
    end(p->t, s, "forward");
    NS_FAIL_IF(x->err.code != NS_OK, x->err.code, "%s", x->err.msg);
    return NS_OK;
}

static ns_status backward(void *user, int64_t i, int slot, ns_error *err)
{
    pass *p = user;
    ns_model *m = &p->t->engine.model;
    ns_exec *x = &p->t->engine.exec;
    ns_world_note(p->t->ranks.world, p->t->state.step + 1, "backward");
    const stretch s = begin(p->t, "backward");
    m->grad_ready = p->t->overlap && p->t->o->overlap_grads && i == p->t->n_mine - 1
                        ? ns_overlap_ready
                        : NULL; /* the gradients' last addend */
    m->grad_user = p->t->overlap;
    ns_model_backward(m, x, slot);
    end(p->t, s, "backward");
    ns_traffic_micro(&p->t->traffic, m->T, m->cp_rows, m->n_whole, p->t->computed);
    if (p->by_rows && ns_model_is_last(m)) {
        ns_model_get_step(m, x, &p->s);
        p->mean += (p->s.loss_sum - p->before) / p->s.weight_sum;
    }
    NS_FAIL_IF(x->err.code != NS_OK, x->err.code, "%s", x->err.msg);
    return NS_OK;
}

static ns_status score(void *user, int64_t i, int slot, ns_error *err)
{
    pass *p = user;
    ns_model *m = &p->t->engine.model;
    ns_exec *x = &p->t->engine.exec;
    (void)i;
    ns_world_note(p->t->ranks.world, p->t->state.step, "validation");
    const stretch s = begin(p->t, "validation");
    ns_model_forward(m, x, slot);
    if (ns_model_is_last(m)) ns_model_loss(m, x, NULL, 0);
    end(p->t, s, "validation");
    p->targets += p->t->batch.weight_sum;
    NS_FAIL_IF(x->err.code != NS_OK, x->err.code, "%s", x->err.msg);
    return NS_OK;
}

static ns_stages pipe_of(ns_sft *t, pass *p)
{
    return (ns_stages){.comm = &t->ranks.pp,
                       .engine = &t->engine,
                       .rows = t->micro_rows,
                       .user = p,
                       .enter = enter,
                       .forward = forward,
                       .backward = backward};
}

/* The loss lies on the last stage, the same on all its tensor-parallel ranks. */
static int has_loss(const ns_sft *t)
{
    return ns_ranks_tp_rank(&t->ranks) == 0 && ns_model_is_last(&t->engine.model);
}

/* The sums that all ranks share: loss, gradient norm. */
static ns_status sum_over_ranks(ns_sft *t, double *mean, ns_error *err)
{
    ns_step s;
    if (t->ranks.all.size == 1) return NS_OK;
    ns_model_get_step(&t->engine.model, &t->engine.exec, &s);
    const int counts = has_loss(t);
    double x[4] = {counts ? s.loss_sum : 0, s.grad_sumsq, counts ? *mean : 0, s.nonfinite};
    NS_TRY(ns_comm_scalars(&t->ranks.all, x, 4, NS_COMM_SUM, err), "%s", "loss and gradient norm");
    s.loss_sum = x[0];
    s.grad_sumsq = x[1];
    *mean = x[2];
    s.nonfinite = x[3] != 0 || !isfinite(x[1]);
    ns_model_put_step(&t->engine.model, &t->engine.exec, &s);
    return NS_OK;
}

static ns_status update(ns_sft *t, double *mean, ns_error *err)
{
    ns_model *m = &t->engine.model;
    ns_exec *x = &t->engine.exec;
    ns_world_note(t->ranks.world, t->state.step + 1, "update");
    ns_model_settle_grad(m, x); /* a rank without a micro-batch adds zeros */
    NS_TRY(t->overlap ? ns_overlap_finish(t->overlap, err) : ns_ranks_reduce(&t->ranks, &t->engine, err), "%s",
           "gradients");
    ns_model_grad_sumsq(m, x);
    NS_TRY(sum_over_ranks(t, mean, err), "%s", "sums");
    ns_snapshot_hold(t->snapshot); /* what an async save copies must not change before it is read */
    ns_model_update(m, x);
    if (t->overlap) return ns_overlap_gather(t->overlap, err);
    NS_TRY(ns_ranks_gather(&t->ranks, &t->engine, err), "%s", "weights");
    ns_model_prepare(m, x);
    return NS_OK;
}

ns_status ns_sft_step(ns_sft *t, double *loss, double *grad_norm, int64_t *tokens, ns_error *err)
{
    const ns_sft_options *o = t->o;
    ns_model *m = &t->engine.model;
    ns_exec *x = &t->engine.exec;
    pass p = {.t = t, .rows = &t->rows, .by_rows = !strcmp(o->loss, "micro_batch")};
    NS_TRY(ns_sampler_batch(&t->sampler, t->state.consumed_samples, t->index, err), "sampler");
    const double began = ns_time_now(), waited = ns_world_waited(t->ranks.world);
    NS_TRY(split_step(t, p.by_rows, err), "micro-batches");
    t->step_examples = t->split.start[t->split.n_micro];
    double targets = ns_examples_targets(&t->rows, t->split.rows, t->step_examples);
    t->step_targets = (int64_t)targets;
    p.s = (ns_step){.weight_sum = targets,
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
    uint64_t before[NS_COMM_N_KINDS], after[NS_COMM_N_KINDS];
    ns_ranks_sent(&t->ranks, 0, before);
    uint64_t allocations = ns_mem_get_stats().n_alloc;
    const int writing = ns_ckpt_saver_busy(t->saver);
    ns_model_put_step(m, x, &p.s);
    ns_model_zero_grad(m, x);
    deal(t, &t->rows, tokens);
    ns_stages pipe = pipe_of(t, &p);
    ns_world_device(t->ranks.world, t->ranks.direct);
    ns_gpu_spans_step(t->spans);
    NS_TRY(ns_stages_run(&pipe, t->n_mine, err), "step %" PRId64, t->state.step + 1);
    const double others = ns_world_waited(t->ranks.world) - waited, own_seconds = ns_time_now() - began - others;
    const stretch updating = begin(t, "update");
    NS_TRY(update(t, &p.mean, err), "step %" PRId64, t->state.step + 1);
    end(t, updating, "update");
    NS_TRY(ns_ranks_watch(&t->ranks, own_seconds, t->state.step + 1, err), "step %" PRId64, t->state.step + 1);
    ns_traffic_update(&t->traffic, &t->engine, t->computed);
    ns_ranks_sent(&t->ranks, 0, after);
    for (int k = 0; k < NS_COMM_N_KINDS; k++) t->counted[k] += after[k] - before[k];
    ns_model_get_step(m, x, &p.s);
    ns_world_device(t->ranks.world, 0);
    ns_gpu_spans_flush(t->spans);
    NS_ASSERT(ns_mem_get_stats().n_alloc == allocations || writing); /* all memory was planned; a writer has its own */
    *loss = p.by_rows ? p.mean : p.s.loss_sum / targets;
    *grad_norm = sqrt(p.s.grad_sumsq);
    t->targets_done += (int64_t)targets;
    NS_FAIL_IF(x->err.code != NS_OK, x->err.code, "step %" PRId64 ": %s", t->state.step + 1, x->err.msg);
    NS_FAIL_IF(p.s.nonfinite || !isfinite(*loss), NS_ERR_NUMERIC,
               "step %" PRId64 ": loss %g, gradient norm %g: training diverged; the weights were not updated. Lower "
               "model.optim.lr (now %g), add warm-up or set trainer.sft.gradient_clip_val=1.0",
               t->state.step + 1, *loss, *grad_norm, o->lr);
    return NS_OK;
}

/* Mean over the targets of the validation batches; restarts at the first row each time. */
ns_status ns_sft_validate(ns_sft *t, ns_error *err)
{
    if (t->n_val_batches <= 0) return NS_OK;
    ns_model *m = &t->engine.model;
    ns_exec *x = &t->engine.exec;
    double start = ns_time_now();
    pass p = {.t = t, .rows = t->val_is_train ? &t->rows : &t->val_rows, .s = {.weight_sum = 1}};
    const ns_packed *packs = t->val_is_train ? &t->packs : &t->val_packs;
    int64_t tokens;
    ns_model_put_step(m, x, &p.s);
    const float hidden = m->opt.hidden_dropout, ffn = m->opt.ffn_dropout, attention = m->opt.attention_dropout;
    m->opt.hidden_dropout = m->opt.ffn_dropout = m->opt.attention_dropout = 0;
    for (int64_t b = 0; b < t->n_val_batches; b++) {
        NS_TRY(ns_sampler_batch(&t->val_sampler, b * t->o->val.gbs, t->index, err), "validation sampler");
        if (packs->packs.n)
            ns_split_packs(&t->split, packs, t->index, t->o->val.gbs);
        else
            NS_TRY(ns_split_batch(&t->split, p.rows, t->index, t->o->val.gbs, t->o->val.mbs, 0,
                                  balanced_cap(t, p.rows, t->o->val.gbs), t->S_cap, err),
                   "validation batch");
        deal(t, p.rows, &tokens);
        ns_stages pipe = pipe_of(t, &p);
        pipe.forward = score;
        pipe.backward = NULL;
        NS_TRY(ns_stages_run(&pipe, t->n_mine, err), "%s", "validation");
    }
    m->opt.hidden_dropout = hidden;
    m->opt.ffn_dropout = ffn;
    m->opt.attention_dropout = attention;
    ns_model_get_step(m, x, &p.s);
    NS_FAIL_IF(x->err.code != NS_OK, x->err.code, "validation: %s", x->err.msg);
    /* all ranks of one context-parallel group have the targets of the whole micro-batch */
    double sums[2] = {has_loss(t) ? p.s.loss_sum : 0, has_loss(t) && ns_ranks_cp_rank(&t->ranks) == 0 ? p.targets : 0};
    NS_TRY(ns_comm_scalars(&t->ranks.all, sums, 2, NS_COMM_SUM, err), "%s", "validation loss");
    t->state.val_loss = sums[1] > 0 ? sums[0] / sums[1] : NAN;
    return ns_sft_record_val(t, t->state.val_loss, ns_time_now() - start, err);
}
