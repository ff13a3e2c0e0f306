#include "train/ranks.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"

ns_status ns_ranks_layout(ns_ranks *r, int64_t devices, int64_t nodes, int64_t tp, int64_t cp, int64_t pp,
                          ns_error *err)
{
    *r = (ns_ranks){.slowest = -1};
    NS_TRY(ns_world_from_env(&r->who, err), "%s", "ranks");
    r->env_size = r->who.size;
    int64_t asked = devices * nodes;
    NS_FAIL_IF(asked > NS_MAX_DP, NS_ERR_CONFIG,
               "trainer.devices=%" PRId64 " x trainer.num_nodes=%" PRId64 ": at most %d ranks", devices, nodes,
               NS_MAX_DP);
    NS_FAIL_IF(r->env_size > 1 && r->env_size != asked, NS_ERR_CONFIG,
               "%d ranks were started by %s, but trainer.devices=%" PRId64 " x trainer.num_nodes=%" PRId64
               " are %" PRId64 ": make them agree",
               r->env_size, r->who.started_by, devices, nodes, asked);
    r->who.size = (int)asked;
    NS_TRY(ns_topology_make(&r->topology, (int)asked, r->who.rank, (int)tp, (int)cp, (int)pp, err), "%s", "ranks");
    return NS_OK;
}

ns_status ns_ranks_join(ns_ranks *r, const char *identity, void (*on_abort)(const char *, void *), ns_error *err)
{
    int ranks[NS_MAX_DP];
    NS_FAIL_IF(r->env_size != r->who.size, NS_ERR_CONFIG,
               "%d ranks are asked for and one was started: start `ns sft` with srun or mpirun, one process a rank",
               r->who.size);
    r->who.identity = identity;
    r->who.on_abort = on_abort;
    r->who.lanes = r->overlapped ? 2 : 1;
    r->who.dead_s = r->dead_s;
    r->who.hang_s = r->hang_s;
    r->who.join_s = 600; /* reading the rows may take one rank longer than another */
    NS_TRY(ns_world_open(&r->world, &r->who, err), "%s", "ranks");
    r->who.identity = NULL;
    const struct {
        ns_comm *c;
        unsigned axes;
    } groups[] = {{&r->tp, 1u << NS_AXIS_TP},        {&r->cp, 1u << NS_AXIS_CP},
                  {&r->pp, 1u << NS_AXIS_PP},        {&r->grads, 1u << NS_AXIS_CP | 1u << NS_AXIS_DP},
                  {&r->behind.tp, 1u << NS_AXIS_TP}, {&r->behind.grads, 1u << NS_AXIS_CP | 1u << NS_AXIS_DP},
                  {&r->all, (1u << NS_N_AXES) - 1}};
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        ns_topology_group(&r->topology, groups[g].axes, ranks);
        NS_TRY(ns_comm_open(groups[g].c, r->world, ranks, ns_topology_group_size(&r->topology, groups[g].axes), err),
               "%s", "groups of ranks");
    }
    const int first = r->pp.ranks[0], last = r->pp.ranks[r->pp.size - 1];
    if (first != last && (r->pp.rank == 0 || r->pp.rank == r->pp.size - 1))
        for (int k = 0; k < 2; k++)
            NS_TRY(ns_comm_open(k ? &r->behind.ends : &r->ends, r->world, (int[]){first, last}, 2, err), "%s",
                   "groups of ranks");
    r->behind.grads.lane = r->behind.tp.lane = r->behind.ends.lane = 1;
    return ns_alloc((void **)&r->seconds, (size_t)r->all.size * sizeof *r->seconds, "ranks", err);
}

void ns_ranks_memory(ns_ranks *r, const ns_engine *e)
{
    ns_comm *const groups[] = {&r->tp, &r->cp, &r->pp, &r->grads, &r->ends};
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        groups[g]->scratch = e->device ? NULL : e->sums;
        groups[g]->space = e->away.bytes > 0 ? &e->away : NULL;
    }
    ns_comm *const behind[] = {&r->behind.tp, &r->behind.grads, &r->behind.ends};
    for (size_t g = 0; g < sizeof behind / sizeof *behind; g++) {
        behind[g]->scratch = e->device ? NULL : e->sums_behind;
        behind[g]->space = e->aside.bytes > 0 ? &e->aside : NULL;
    }
}

void ns_ranks_close(ns_ranks *r)
{
    ns_comm_close(&r->tp);
    ns_comm_close(&r->cp);
    ns_comm_close(&r->pp);
    ns_comm_close(&r->ends);
    ns_comm_close(&r->grads);
    ns_comm_close(&r->all);
    ns_comm_close(&r->behind.grads);
    ns_comm_close(&r->behind.tp);
    ns_comm_close(&r->behind.ends);
    ns_world_close(&r->world);
    ns_free(r->seconds);
    r->seconds = NULL;
}

int ns_ranks_dp(const ns_ranks *r)
{
    return r->topology.size[NS_AXIS_DP];
}

int ns_ranks_dp_rank(const ns_ranks *r)
{
    return r->topology.index[NS_AXIS_DP];
}

int ns_ranks_world(const ns_ranks *r)
{
    return r->topology.world;
}

int ns_ranks_tp(const ns_ranks *r)
{
    return r->topology.size[NS_AXIS_TP];
}

int ns_ranks_tp_rank(const ns_ranks *r)
{
    return r->topology.index[NS_AXIS_TP];
}

int ns_ranks_pp(const ns_ranks *r)
{
    return r->topology.size[NS_AXIS_PP];
}

int ns_ranks_pp_rank(const ns_ranks *r)
{
    return r->topology.index[NS_AXIS_PP];
}

int ns_ranks_cp(const ns_ranks *r)
{
    return r->topology.size[NS_AXIS_CP];
}

int ns_ranks_cp_rank(const ns_ranks *r)
{
    return r->topology.index[NS_AXIS_CP];
}

int ns_ranks_grads(const ns_ranks *r)
{
    return ns_ranks_cp(r) * ns_ranks_dp(r);
}

int ns_ranks_grads_rank(const ns_ranks *r)
{
    return ns_ranks_cp_rank(r) + ns_ranks_cp(r) * ns_ranks_dp_rank(r);
}

int ns_ranks_first(const ns_ranks *r)
{
    return r->topology.rank == 0;
}

void ns_ranks_sent(const ns_ranks *r, int behind, uint64_t *out)
{
    const ns_comm *const main[] = {&r->all, &r->tp, &r->cp, &r->pp, &r->grads, &r->ends}, *const other[] = {
                                                                                              &r->behind.grads,
                                                                                              &r->behind.tp,
                                                                                              &r->behind.ends};
    const ns_comm *const *all = behind ? other : main;
    for (int k = 0; k < NS_COMM_N_KINDS; k++) {
        out[k] = 0;
        for (int i = 0; i < (behind ? 3 : 6); i++) out[k] += all[i]->sent[k];
    }
}

ns_status ns_ranks_reduce_one(ns_ranks *r, ns_engine *e, int i, ns_error *err)
{
    ns_comm *grads = r->overlapped ? &r->behind.grads : &r->grads, *tp = r->overlapped ? &r->behind.tp : &r->tp,
            *ends = r->overlapped ? &r->behind.ends : &r->ends;
    const char *name = e->table.params[i].name;
    const ns_piece own = e->model.own[i];
    float *grad = e->model.w[i].grad;
    ns_model_cut(&e->part, i, grads->size, grads->cut);
    NS_TRY(ns_comm_reduce_scatter(grads, grad, NS_DTYPE_F32, grads->cut, err), "gradient of %s", name);
    const ns_param *p = &e->part.params[i]; /* not split: each had its rows of the stream, or its heads */
    if (p->tp == NS_SPLIT_NONE && (e->model.opt.stream_split || (tp->size > 1 && ns_kind_of_head(p->kind))))
        NS_TRY(ns_comm_all_reduce(tp, grad + own.off, NS_DTYPE_F32, own.len, err),
               "gradient of %s on all tensor-parallel ranks", name);
    if (ends->size == 2 && e->arch.tied && e->table.params[i].kind == NS_P_EMBED)
        NS_TRY(ns_comm_all_reduce(ends, grad + own.off, NS_DTYPE_F32, own.len, err),
               "gradient of %s on the first and last stage", name);
    return NS_OK;
}

ns_status ns_ranks_reduce(ns_ranks *r, ns_engine *e, ns_error *err)
{
    for (int i = 0; r->all.size > 1 && i < e->table.n_params; i++)
        if (e->model.w[i].grad) NS_TRY(ns_ranks_reduce_one(r, e, i, err), "%s", "reduce");
    return NS_OK;
}

ns_status ns_ranks_gather_one(ns_ranks *r, ns_engine *e, int i, ns_error *err)
{
    ns_comm *grads = r->overlapped ? &r->behind.grads : &r->grads;
    ns_model_cut(&e->part, i, grads->size, grads->cut);
    return ns_comm_all_gather(grads, e->model.w[i].data, grads->cut, (int)ns_dtype_size(e->opt.dt), err);
}

ns_status ns_ranks_gather(ns_ranks *r, ns_engine *e, ns_error *err)
{
    for (int i = 0; r->grads.size > 1 && i < e->table.n_params; i++)
        if (e->model.w[i].grad) NS_TRY(ns_ranks_gather_one(r, e, i, err), "weights of %s", e->table.params[i].name);
    return NS_OK;
}

ns_status ns_ranks_vote(void *ranks, ns_status mine, ns_error *err)
{
    ns_ranks *r = ranks;
    if (mine != NS_OK) {
        if (err) ns_world_fail(r->world, err); /* the others, in whatever exchange, learn why */
        return mine;
    }
    return ns_comm_barrier(&r->all, err);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

ns_status ns_ranks_watch(ns_ranks *r, double seconds, int64_t step, ns_error *err)
{
    if (r->all.size == 1) return NS_OK;
    NS_TRY(ns_comm_gather_scalar(&r->all, seconds, r->seconds, err), "%s", "times of all ranks");
    if (!ns_ranks_first(r)) return NS_OK;
    int slowest = 0;
    for (int i = 1; i < r->all.size; i++)
        if (r->seconds[i] > r->seconds[slowest]) slowest = i;
    double worst = r->seconds[slowest];
    qsort(r->seconds, (size_t)r->all.size, sizeof *r->seconds, by_value);
    double median = r->seconds[(r->all.size - 1) / 2];
    int slow = worst > 1.5 * median && worst - median > 0.05;
    r->slow_steps = slow && slowest == r->slowest ? r->slow_steps + 1 : slow;
    r->slowest = slow ? slowest : -1;
    if (r->slow_steps == 10)
        NS_WARN(
            "rank %d is slow: %.2f s of work a step against %.2f s of the median rank, for 10 steps up to step %" PRId64
            "; the others wait for it",
            slowest, worst, median, step);
    return NS_OK;
}
