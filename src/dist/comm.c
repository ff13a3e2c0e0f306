/* Collectives as all-to-all exchanges. Each byte crosses the wire once (twice for all_reduce); see comm.h for the counts. */
#include "dist/comm.h"

#include <string.h>

#include "base/mem.h"
#include "dist/comm_priv.h"
#include "dist/direct.h"

/* Values of each member that are on the way at once: less in large groups, so that all together stay below 16 MiB. */
static int64_t piece_of(int n)
{
    return n <= 64 ? NS_COMM_PIECE : NS_COMM_PIECE * 64 / n;
}

int64_t ns_comm_scratch_bytes(int n)
{
    return (n - 1) * piece_of(n) * (int64_t)sizeof(float);
}

ns_status ns_comm_open(ns_comm *c, ns_world *w, const int *ranks, int n, ns_error *err)
{
    *c = (ns_comm){.world = w, .rank = -1, .size = n};
    ns_status st = NS_OK;
    size_t k = (size_t)n;
    NS_CHECK(st, ns_alloc((void **)&c->ranks, k * sizeof(int), "dist.comm", err), "%s", "group");
    NS_CHECK(st, ns_alloc((void **)&c->xfers, 2 * k * sizeof(ns_xfer), "dist.comm", err), "%s", "group");
    NS_CHECK(st, ns_alloc((void **)&c->numbers, k * NS_COMM_MAX_SCALARS * sizeof(double), "dist.comm", err), "%s",
             "group");
    NS_CHECK(st, ns_alloc((void **)&c->cut, (k + 1) * sizeof(int64_t), "dist.comm", err), "%s", "group");
    for (int i = 0; i < n; i++) {
        c->ranks[i] = ranks[i];
        if (ranks[i] == ns_world_rank(w)) c->rank = i;
    }
    NS_BAIL_IF(st, c->rank < 0, NS_ERR_INTERNAL, "rank %d is not in its own group", ns_world_rank(w));
    return NS_OK;
done:
    ns_comm_close(c);
    return st;
}

void ns_comm_close(ns_comm *c)
{
    ns_direct_close(c);
    ns_free(c->ranks);
    ns_free(c->xfers);
    ns_free(c->numbers);
    ns_free(c->cut);
    *c = (ns_comm){0};
}

void ns_comm_cut(int64_t n, int64_t unit, int size, int64_t *cut)
{
    int64_t units = n / unit;
    for (int r = 0; r <= size; r++) cut[r] = units * r / size * unit;
    cut[size] = n;
}

ns_status ns_comm_all_gather(ns_comm *c, void *data, const int64_t *cut, int elem_bytes, ns_error *err)
{
    if (dist_goes_direct(c, data)) return dist_direct_all_gather(c, data, cut, elem_bytes, err);
    if (dist_in_space(c, data)) return dist_space_all_gather(c, data, cut, elem_bytes, err);
    char *p = data;
    int n = 0;
    int64_t mine = (cut[c->rank + 1] - cut[c->rank]) * elem_bytes;
    for (int r = 0; r < c->size; r++) {
        int64_t theirs = (cut[r + 1] - cut[r]) * elem_bytes;
        if (r == c->rank) continue;
        if (mine) c->xfers[n++] = dist_xfer(c, r, 0, p + cut[c->rank] * elem_bytes, mine);
        if (theirs) c->xfers[n++] = dist_xfer(c, r, 1, p + cut[r] * elem_bytes, theirs);
        c->sent[NS_COMM_ALL_GATHER] += (uint64_t)mine;
    }
    return ns_world_exchange_on(c->world, c->lane, "all_gather", c->xfers, n, err);
}

static void add_f32(const ns_comm *c, float *mine, const float *in, int64_t piece, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int64_t r = 0, k = 0; r < c->size; r++) {
            float x = r == c->rank ? mine[i] : in[k++ * piece + i];
            sum = r == 0 ? x : sum + x;
        }
        mine[i] = sum;
    }
}

/* bf16: added in f32, rounded once. */
static void add_bf16(const ns_comm *c, uint16_t *mine, const uint16_t *in, int64_t piece, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int64_t r = 0, k = 0; r < c->size; r++) {
            float x = ns_bf16_to_f32(r == c->rank ? mine[i] : in[k++ * piece + i]);
            sum = r == 0 ? x : sum + x;
        }
        mine[i] = ns_f32_to_bf16(sum);
    }
}

void dist_add(const ns_comm *c, ns_dtype dt, void *own, const void *in, int64_t piece, int64_t n)
{
    if (dt == NS_DTYPE_F32)
        add_f32(c, own, in, piece, n);
    else
        add_bf16(c, own, in, piece, n);
}

ns_status ns_comm_reduce_scatter(ns_comm *c, void *data, ns_dtype dt, const int64_t *cut, ns_error *err)
{
    if (dist_goes_direct(c, data)) return dist_direct_reduce_scatter(c, data, dt, cut, err);
    if (dist_in_space(c, data)) return dist_space_reduce_scatter(c, data, dt, cut, err);
    NS_ASSERT((dt == NS_DTYPE_F32 || dt == NS_DTYPE_BF16) && (c->scratch || c->size == 1));
    const int64_t es = (int64_t)ns_dtype_size(dt), len = cut[c->rank + 1] - cut[c->rank], piece = piece_of(c->size);
    const int64_t longest = dist_longest(c, cut);
    for (int64_t round = 0; c->size > 1 && round * piece < longest; round++) {
        char *p = (char *)data + round * piece * es, *in = (char *)c->scratch;
        const int64_t k = dist_part(len, round, piece);
        int n = 0;
        for (int r = 0; r < c->size; r++) {
            const int64_t out = dist_part(cut[r + 1] - cut[r], round, piece) * es;
            if (r == c->rank) continue;
            if (out) c->xfers[n++] = dist_xfer(c, r, 0, p + cut[r] * es, out);
            if (k) c->xfers[n++] = dist_xfer(c, r, 1, in, k * es);
            c->sent[NS_COMM_REDUCE_SCATTER] += (uint64_t)out;
            in += piece * es;
        }
        NS_TRY(ns_world_exchange_on(c->world, c->lane, "reduce_scatter", c->xfers, n, err), "%s", "sum over ranks");
        dist_add(c, dt, p + cut[c->rank] * es, c->scratch, piece, k);
    }
    return NS_OK;
}

ns_status ns_comm_all_reduce(ns_comm *c, void *data, ns_dtype dt, int64_t n, ns_error *err)
{
    ns_comm_cut(n, 1, c->size, c->cut);
    NS_TRY(ns_comm_reduce_scatter(c, data, dt, c->cut, err), "%s", "all_reduce");
    return ns_comm_all_gather(c, data, c->cut, (int)ns_dtype_size(dt), err);
}

ns_status ns_comm_broadcast(ns_comm *c, void *data, int64_t bytes, int root, ns_error *err)
{
    if (dist_goes_direct(c, data)) return dist_direct_broadcast(c, data, bytes, root, err);
    if (dist_in_space(c, data)) return dist_space_broadcast(c, data, bytes, root, err);
    int n = 0;
    if (c->rank == root) {
        for (int r = 0; r < c->size; r++)
            if (r != root) c->xfers[n++] = dist_xfer(c, r, 0, data, bytes);
        c->sent[NS_COMM_BROADCAST] += (uint64_t)bytes * (uint64_t)n;
    } else
        c->xfers[n++] = dist_xfer(c, root, 1, data, bytes);
    return ns_world_exchange_on(c->world, c->lane, "broadcast", c->xfers, n, err);
}

/* numbers[r*n..] = the n numbers of member r. */
static ns_status share_numbers(ns_comm *c, const double *x, int n, const char *op, ns_error *err)
{
    int k = 0;
    NS_ASSERT(n <= NS_COMM_MAX_SCALARS);
    double *own = c->numbers + (ptrdiff_t)c->rank * n;
    int64_t bytes = n * (int64_t)sizeof(double);
    memcpy(own, x, (size_t)bytes);
    for (int r = 0; r < c->size; r++) {
        if (r == c->rank) continue;
        c->xfers[k++] = dist_xfer(c, r, 0, own, bytes);
        c->xfers[k++] = dist_xfer(c, r, 1, c->numbers + (ptrdiff_t)r * n, bytes);
        c->sent[NS_COMM_SCALARS] += (uint64_t)bytes;
    }
    return ns_world_exchange_on(c->world, c->lane, op, c->xfers, k, err);
}

ns_status ns_comm_scalars(ns_comm *c, double *x, int n, ns_comm_op op, ns_error *err)
{
    NS_TRY(share_numbers(c, x, n,
                         op == NS_COMM_SUM   ? "scalars(sum)"
                         : op == NS_COMM_MAX ? "scalars(max)"
                                             : "scalars(min)",
                         err),
           "%s", "numbers of all ranks");
    for (int i = 0; i < n; i++) {
        double v = c->numbers[i];
        for (int r = 1; r < c->size; r++) {
            double y = c->numbers[(ptrdiff_t)r * n + i];
            v = op == NS_COMM_SUM ? v + y : op == NS_COMM_MAX ? (y > v ? y : v) : (y < v ? y : v);
        }
        x[i] = v;
    }
    return NS_OK;
}

ns_status ns_comm_gather_scalar(ns_comm *c, double x, double *out, ns_error *err)
{
    NS_TRY(share_numbers(c, &x, 1, "gather_scalar", err), "%s", "one number of each rank");
    memcpy(out, c->numbers, (size_t)c->size * sizeof(double));
    return NS_OK;
}

ns_status ns_comm_barrier(ns_comm *c, ns_error *err)
{
    double none = 0;
    return share_numbers(c, &none, 1, "barrier", err);
}

ns_status ns_comm_send_recv(ns_comm *c, int to, const void *out, int64_t out_bytes, int from, void *in,
                            int64_t in_bytes, ns_error *err)
{
    if (dist_goes_direct(c, to >= 0 ? out : in))
        return dist_direct_send_recv(c, to, out, out_bytes, from, in, in_bytes, err);
    if (dist_in_space(c, to >= 0 ? out : in))
        return dist_space_send_recv(c, to, out, out_bytes, from, in, in_bytes, err);
    int n = 0;
    if (to >= 0) {
        c->xfers[n++] = dist_xfer(c, to, 0, (void *)(uintptr_t)out, out_bytes);
        if (to != c->rank) c->sent[NS_COMM_SEND] += (uint64_t)out_bytes;
    }
    if (from >= 0) c->xfers[n++] = dist_xfer(c, from, 1, in, in_bytes);
    return ns_world_exchange_on(c->world, c->lane, "send_recv", c->xfers, n, err);
}

ns_status ns_comm_turn_start(ns_comm *c, const ns_comm_turn *t, int n, ns_error *err)
{
    const int next = (c->rank + 1) % c->size, before = (c->rank + c->size - 1) % c->size;
    int k = 0;
    NS_ASSERT(n > 0 && n <= 2 && n <= c->size && c->lane == 0);
    c->turn = NS_TURN_OF_HOST;
    if (dist_goes_direct(c, t->out)) {
        c->turn = NS_TURN_DIRECT;
        return dist_direct_turn(c, t, n, err);
    }
    if (dist_in_space(c, t->out)) {
        c->turn = NS_TURN_DONE;
        for (int i = 0; i < n; i++)
            NS_TRY(dist_space_send_recv(c, next, t[i].out, t[i].bytes, before, t[i].in, t[i].bytes, err), "%s", "ring");
        return NS_OK;
    }
    for (int i = 0; i < n; i++) {
        c->xfers[k++] = dist_xfer(c, next, 0, (void *)(uintptr_t)t[i].out, t[i].bytes);
        c->xfers[k++] = dist_xfer(c, before, 1, t[i].in, t[i].bytes);
        if (next != c->rank) c->sent[NS_COMM_SEND] += (uint64_t)t[i].bytes;
    }
    return ns_world_start(c->world, "ring", c->xfers, k, err);
}

ns_status ns_comm_turn_wait(ns_comm *c, ns_error *err)
{
    if (c->turn == NS_TURN_OF_HOST) return ns_world_wait(c->world, err);
    NS_FAIL_IF(c->turn == NS_TURN_DIRECT && !c->space->turn_waits(c->space->device), NS_ERR_DEVICE, "%s",
               "the GPU does not wait for a turn of the ring");
    return NS_OK;
}
