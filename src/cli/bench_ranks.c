#include "cli/bench_ranks.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

ns_status bench_ranks_layout(bench_ranks *r, const bench_layout *l, int64_t T, int64_t S, int64_t micro,
                             ns_model_options *m, ns_error *err)
{
    const ns_ranks *k = &r->ranks;
    NS_TRY(ns_ranks_layout(&r->ranks, l->devices, 1, l->tp, l->cp, l->pp, err), "%s", "layout");
    const int cp = ns_ranks_cp(k);
    m->T_cap = ns_batch_part_rows((int32_t)T, (int32_t)S, cp);
    m->S_cap = cp > 1 ? 2 * S : S;
    m->T_whole = T;
    m->cp_rank = ns_ranks_cp_rank(k);
    m->cp_size = cp;
    m->cp_ring = l->ring;
    m->tp_rank = ns_ranks_tp_rank(k);
    m->tp_size = ns_ranks_tp(k);
    m->stream_split = l->split_stream;
    m->dp_rank = ns_ranks_grads_rank(k);
    m->dp_size = ns_ranks_grads(k);
    m->pp_rank = ns_ranks_pp_rank(k);
    m->pp_size = ns_ranks_pp(k);
    m->behind = l->overlap && ns_ranks_grads(k) > 1;
    m->n_slots = ns_stages_slots(m->pp_rank, m->pp_size, micro);
    m->local_rank = k->env_size > 1 ? k->who.local_rank : 0;
    m->local_size = k->env_size > 1 ? k->who.local_size : (int)l->devices;
    return NS_OK;
}

/* A lost rank, and this one does not come back to hear of it. */
static void on_abort(const char *why, void *user)
{
    (void)user;
    fprintf(stderr, "ns bench: %s\n", why);
    fflush(stderr);
    _exit(ns_status_exit_code(NS_ERR_DEVICE));
}

ns_status bench_ranks_start(bench_ranks *r, ns_engine *e, const bench_layout *l, ns_error *err)
{
    char identity[300];
    snprintf(identity, sizeof identity, "version %s;parameters %s;engine %s", NS_VERSION, e->table.hash,
             e->device ? e->gpu.name : e->ops.name);
    r->engine = e;
    r->ranks.overlapped = e->opt.behind;
    NS_TRY(ns_ranks_join(&r->ranks, identity, on_abort, err), "%s", "start");
    e->tp = &r->ranks.tp;
    e->cp = &r->ranks.cp;
    e->grads = &r->ranks.grads;
    e->pp = &r->ranks.pp;
    NS_TRY(ns_engine_start(e, err), "%s", "start");
    ns_ranks_memory(&r->ranks, e);
    NS_TRY(ns_ranks_direct(&r->ranks, e, err), "%s", "exchange between GPUs");
    return r->ranks.overlapped ? ns_overlap_new(&r->overlap, &r->ranks, e, l->overlap, err) : NS_OK;
}

ns_status bench_ranks_batch(bench_ranks *r, const ns_batch *batch, int64_t micro, ns_error *err)
{
    r->batch = batch;
    r->micro = micro;
    NS_TRY(ns_alloc((void **)&r->rows, (size_t)micro * sizeof *r->rows, "bench.rows", err), "%s", "batch");
    if (ns_ranks_cp(&r->ranks) == 1) return NS_OK;
    return ns_batch_part_new(&r->part, batch->T_cap, batch->S_cap, ns_ranks_cp(&r->ranks), err);
}

/* ---- a step: the callbacks of pipeline.h ---- */

static ns_status enter(void *user, int64_t i, ns_error *err)
{
    bench_ranks *r = user;
    ns_engine *e = r->engine;
    (void)err;
    if (r->entered == i) return NS_OK;
    r->entered = i;
    if (ns_ranks_cp(&r->ranks) == 1) {
        ns_model_set_batch(&e->model, &e->exec, r->batch);
        return NS_OK;
    }
    ns_batch_cut(&r->part, r->batch, ns_ranks_cp_rank(&r->ranks), ns_ranks_cp(&r->ranks));
    ns_model_set_part(&e->model, &e->exec, &r->part);
    return NS_OK;
}

static ns_status failed(const ns_exec *x, ns_error *err)
{
    NS_FAIL_IF(x->err.code != NS_OK, x->err.code, "%s", x->err.msg);
    return NS_OK;
}

static ns_status forward(void *user, int64_t i, int slot, ns_error *err)
{
    bench_ranks *r = user;
    ns_model *m = &r->engine->model;
    ns_world_note(r->ranks.world, i, "forward");
    ns_model_forward(m, &r->engine->exec, slot);
    if (ns_model_is_last(m)) ns_model_loss(m, &r->engine->exec, NULL, 1);
    return failed(&r->engine->exec, err);
}

static ns_status backward(void *user, int64_t i, int slot, ns_error *err)
{
    bench_ranks *r = user;
    ns_model *m = &r->engine->model;
    ns_world_note(r->ranks.world, i, "backward");
    m->grad_ready = r->overlap && i == r->micro - 1 ? ns_overlap_ready : NULL;
    m->grad_user = r->overlap;
    ns_model_backward(m, &r->engine->exec, slot);
    return failed(&r->engine->exec, err);
}

/* The loss and the gradient norm of all ranks. */
static ns_status share_sums(bench_ranks *r, ns_error *err)
{
    ns_model *m = &r->engine->model;
    ns_exec *x = &r->engine->exec;
    ns_step s;
    if (r->ranks.all.size == 1) return NS_OK;
    ns_model_get_step(m, x, &s);
    double sums[2] = {ns_ranks_tp_rank(&r->ranks) == 0 && ns_model_is_last(m) ? s.loss_sum : 0, s.grad_sumsq};
    NS_TRY(ns_comm_scalars(&r->ranks.all, sums, 2, NS_COMM_SUM, err), "%s", "loss and gradient norm");
    s.loss_sum = sums[0];
    s.grad_sumsq = sums[1];
    ns_model_put_step(m, x, &s);
    return NS_OK;
}

ns_status bench_ranks_step(bench_ranks *r, ns_step *s, void (*hold)(void *user), void *user, ns_error *err)
{
    ns_engine *e = r->engine;
    ns_model *m = &e->model;
    ns_stages pipe = {.comm = &r->ranks.pp,
                      .engine = e,
                      .rows = r->rows,
                      .user = r,
                      .enter = enter,
                      .forward = forward,
                      .backward = backward};
    r->entered = -1;
    ns_world_device(r->ranks.world, r->ranks.direct);
    ns_model_put_step(m, &e->exec, s);
    ns_model_zero_grad(m, &e->exec);
    NS_TRY(ns_stages_run(&pipe, r->micro, err), "%s", "micro-batches");
    ns_model_settle_grad(m, &e->exec);
    NS_TRY(r->overlap ? ns_overlap_finish(r->overlap, err) : ns_ranks_reduce(&r->ranks, e, err), "%s", "gradients");
    ns_model_grad_sumsq(m, &e->exec);
    NS_TRY(share_sums(r, err), "%s", "sums");
    if (hold) hold(user);
    ns_model_update(m, &e->exec);
    if (r->overlap)
        NS_TRY(ns_overlap_gather(r->overlap, err), "%s", "weights");
    else {
        NS_TRY(ns_ranks_gather(&r->ranks, e, err), "%s", "weights");
        ns_model_prepare(m, &e->exec);
    }
    ns_model_get_step(m, &e->exec, s);
    ns_world_device(r->ranks.world, 0);
    return failed(&e->exec, err);
}

void bench_ranks_sent(const bench_ranks *r, uint64_t *out)
{
    uint64_t behind[NS_COMM_N_KINDS];
    ns_ranks_sent(&r->ranks, 0, out);
    ns_ranks_sent(&r->ranks, 1, behind);
    for (int k = 0; k < NS_COMM_N_KINDS; k++) out[k] += behind[k];
}

/* A large array of this rank's gradients, gathered again and again in the group that sends most. */
ns_status bench_ranks_link(bench_ranks *r, double *bytes_a_second, ns_error *err)
{
    enum { TIMES = 5, MOST = 256 << 20 };
    ns_engine *e = r->engine;
    ns_comm *const groups[] = {&r->ranks.grads, &r->ranks.tp, &r->ranks.cp, &r->ranks.pp};
    ns_comm *c = NULL;
    float *data = NULL;
    double n = 0;
    char byte;
    *bytes_a_second = 0;
    for (size_t g = 0; g < sizeof groups / sizeof *groups && !c; g++) c = groups[g]->size > 1 ? groups[g] : NULL;
    if (!c) return NS_OK;
    for (int i = 0; i < e->table.n_params; i++) {
        const ns_weight *w = &e->model.w[i];
        if (!w->grad || (double)w->rows * (double)w->cols <= n) continue;
        n = (double)w->rows * (double)w->cols;
        data = w->grad;
    }
    if (n > MOST / 4) n = MOST / 4;
    NS_TRY(ns_comm_scalars(&r->ranks.all, &n, 1, NS_COMM_MIN, err), "%s", "link");
    const int64_t each = (int64_t)n / c->size;
    double best = 1e30;
    for (int k = 0; k < 3; k++) {
        NS_TRY(ns_comm_barrier(&r->ranks.all, err), "%s", "link");
        const double began = ns_time_now();
        for (int i = 0; i < TIMES; i++) {
            for (int m = 0; m <= c->size; m++) c->cut[m] = m * each;
            NS_TRY(ns_comm_all_gather(c, data, c->cut, 4, err), "%s", "link");
        }
        e->ops.download(&e->exec, &byte, e->model.step, 1); /* waits */
        const double s = (ns_time_now() - began) / TIMES;
        if (s < best) best = s;
    }
    *bytes_a_second = (double)each * 4 * (c->size - 1) / best;
    return failed(&e->exec, err);
}

void bench_ranks_close(bench_ranks *r)
{
    ns_overlap_free(&r->overlap);
    ns_ranks_close(&r->ranks);
    ns_batch_part_free(&r->part);
    ns_free(r->rows);
    r->rows = NULL;
}
