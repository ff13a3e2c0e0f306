#include "train/traffic.h"

#include "arch/part.h"

ns_traffic ns_traffic_of(const ns_engine *e, const ns_ranks *r)
{
    int first = 0, layers = 0, repeated = 0;
    ns_error never = NS_ERROR_INIT; /* the engine was planned: there are enough layers */
    (void)!ns_part_layers(&e->arch, ns_ranks_pp_rank(r), ns_ranks_pp(r), &first, &layers, &never);
    for (int l = 0; l < layers; l++) repeated += ns_block_recompute(&e->opt, l) == NS_RECOMPUTE_FULL;
    return (ns_traffic){.world = ns_ranks_world(r),
                        .tp = ns_ranks_tp(r),
                        .tp_rank = ns_ranks_tp_rank(r),
                        .cp = ns_ranks_cp(r),
                        .cp_rank = ns_ranks_cp_rank(r),
                        .ring = e->opt.cp_ring,
                        .grads = ns_ranks_grads(r),
                        .stages = ns_ranks_pp(r),
                        .stage = ns_ranks_pp_rank(r),
                        .first = first == 0,
                        .last = first + layers == e->arch.L,
                        .stream_split = e->opt.stream_split && ns_ranks_tp(r) > 1,
                        .layers = layers,
                        .repeated = repeated,
                        .C = e->arch.C,
                        .kv = 2 * e->part_arch.n_kv * e->arch.head_dim,
                        .es = (int64_t)ns_dtype_size(e->opt.dt)};
}

/* Length of a rank's piece of n elements in equal division (ns_comm_cut). */
static int64_t piece(int64_t n, int rank, int size)
{
    return n * (rank + 1) / size - n * rank / size;
}

static void scatter(uint64_t *bytes, int64_t times, int64_t n, int64_t own, int64_t es)
{
    bytes[NS_COMM_REDUCE_SCATTER] += (uint64_t)(times * (n - own) * es);
}

static void gather(uint64_t *bytes, int64_t times, int64_t own, int size, int64_t es)
{
    bytes[NS_COMM_ALL_GATHER] += (uint64_t)(times * own * (size - 1) * es);
}

static void sum(uint64_t *bytes, int64_t times, int64_t n, int rank, int size, int64_t es)
{
    scatter(bytes, times, n, piece(n, rank, size), es);
    gather(bytes, times, piece(n, rank, size), size, es);
}

void ns_traffic_micro(const ns_traffic *f, int64_t T, int64_t cp_rows, int64_t n_whole, uint64_t *bytes)
{
    const int64_t n = T * f->C, L = f->layers, rows = f->stream_split ? piece(T, f->tp_rank, f->tp) : T;
    /* two sums a layer in each direction, the embedding's and the head's */
    const int64_t sums = 4 * L + 2 * f->repeated + f->first + f->last;
    if (f->tp > 1 && !f->stream_split) sum(bytes, sums, n, f->tp_rank, f->tp, f->es);
    if (f->tp > 1 && f->stream_split) {
        scatter(bytes, sums, n, rows * f->C, f->es);
        /* a layer: n1, n2 forward; the gradient of both sub-layers, n1, n2 backward; the head's input, the embedding's gradient */
        gather(bytes, 6 * L + 2 * f->repeated + f->first + f->last, rows * f->C, f->tp, f->es);
    }
    if (f->tp > 1 && f->last) gather(bytes, 1, 2 * T, f->tp, 4); /* what each knows of the softmax */
    if (f->cp > 1 && f->ring) { /* keys and values in both directions, their gradients in f32 */
        const int64_t block = (f->cp - 1) * cp_rows * f->kv;
        bytes[NS_COMM_SEND] += (uint64_t)((2 * L + f->repeated) * block * f->es + L * block * 4);
    }
    if (f->cp > 1 && !f->ring) {
        gather(bytes, 2 * L + f->repeated, cp_rows * f->kv, f->cp, f->es);
        sum(bytes, L, n_whole * f->kv, f->cp_rank, f->cp, f->es);
    }
    bytes[NS_COMM_SEND] += (uint64_t)(((f->stage < f->stages - 1) + (f->stage > 0)) * rows * f->C * f->es);
}

void ns_traffic_update(const ns_traffic *f, const ns_engine *e, uint64_t *bytes)
{
    int64_t cut[NS_MAX_DP + 1];
    int first = 0, layers = 0;
    ns_error never = NS_ERROR_INIT;
    (void)!ns_part_layers(&e->arch, f->stage, f->stages, &first, &layers, &never);
    for (int i = 0; i < e->part.n_params; i++) {
        const ns_param *p = &e->part.params[i];
        if (!p->trainable || !ns_part_holds(&e->part, i, first, layers)) continue;
        ns_model_cut(&e->part, i, f->grads, cut);
        const int64_t n = cut[f->grads], own = cut[e->opt.dp_rank + 1] - cut[e->opt.dp_rank];
        scatter(bytes, 1, n, own, 4);
        gather(bytes, 1, own, f->grads, f->es);
        if (p->tp == NS_SPLIT_NONE && (f->stream_split || (f->tp > 1 && ns_kind_of_head(p->kind))))
            sum(bytes, 1, own, f->tp_rank, f->tp, 4);
        if (f->stages > 1 && e->arch.tied && p->kind == NS_P_EMBED) sum(bytes, 1, own, f->stage > 0, 2, 4);
    }
    /* loss, norm, mean, finiteness; seconds */
    bytes[NS_COMM_SCALARS] += (uint64_t)(5 * (int64_t)sizeof(double) * (f->world - 1));
}
