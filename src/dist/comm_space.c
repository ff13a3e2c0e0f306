/* Collectives on arrays of a device: through host memory, in pieces. Each round brings the pieces of this rank to the host, exchanges
 * them as comm.c does, adds there (dist_add: the bits of host arrays) and brings the result back. Counted as comm.c counts.
 *
 * The stage: `size` pieces that go out, member by member (the own one too), then `size` that come in. */
#include "dist/comm_priv.h"

enum { STAGE_MOST = 32 << 20, PIECE_MOST = 2 << 20, PIECE_UNIT = 256 };

/* Bytes of a piece: two for each member fit the stage. */
static int64_t piece_bytes(int n)
{
    const int64_t fits = STAGE_MOST / (2 * (int64_t)n) / PIECE_UNIT * PIECE_UNIT;
    return fits < PIECE_MOST ? fits : PIECE_MOST;
}

int64_t ns_comm_stage_bytes(int n)
{
    const int64_t most = 2 * (int64_t)n * PIECE_MOST; /* enough for narrower groups too */
    return most < STAGE_MOST ? most : STAGE_MOST;
}

int dist_in_space(const ns_comm *c, const void *array)
{
    const ns_comm_space *s = c->space;
    const char *p = array;
    return s && c->size > 1 && p >= s->base && p < s->base + s->bytes;
}

static char *going_out(const ns_comm *c, int member)
{
    return c->space->stage + member * piece_bytes(c->size);
}

static char *coming_in(const ns_comm *c, int k)
{
    return c->space->stage + (c->size + k) * piece_bytes(c->size);
}

static ns_status to_host(const ns_comm *c, void *dst, const void *src, int64_t bytes, ns_error *err)
{
    return bytes > 0 ? c->space->to_host(c->space->user, dst, src, bytes, err) : NS_OK;
}

static ns_status to_space(const ns_comm *c, void *dst, const void *src, int64_t bytes, ns_error *err)
{
    return bytes > 0 ? c->space->to_space(c->space->user, dst, src, bytes, err) : NS_OK;
}

ns_status dist_space_all_gather(ns_comm *c, void *data, const int64_t *cut, int elem_bytes, ns_error *err)
{
    const int64_t piece = piece_bytes(c->size), longest = dist_longest(c, cut) * elem_bytes,
                  len = (cut[c->rank + 1] - cut[c->rank]) * elem_bytes;
    char *own = going_out(c, c->rank);
    for (int64_t round = 0; round * piece < longest; round++) {
        char *p = (char *)data + round * piece;
        const int64_t mine = dist_part(len, round, piece);
        int n = 0;
        NS_TRY(to_host(c, own, p + cut[c->rank] * elem_bytes, mine, err), "%s", "all_gather");
        for (int r = 0; r < c->size; r++) {
            const int64_t theirs = dist_part((cut[r + 1] - cut[r]) * elem_bytes, round, piece);
            if (r == c->rank) continue;
            if (mine) c->xfers[n++] = dist_xfer(c, r, 0, own, mine);
            if (theirs) c->xfers[n++] = dist_xfer(c, r, 1, coming_in(c, r), theirs);
            c->sent[NS_COMM_ALL_GATHER] += (uint64_t)mine;
        }
        NS_TRY(ns_world_exchange_on(c->world, c->lane, "all_gather", c->xfers, n, err), "%s", "all_gather");
        for (int r = 0; r < c->size; r++) {
            const int64_t theirs = dist_part((cut[r + 1] - cut[r]) * elem_bytes, round, piece);
            if (r != c->rank)
                NS_TRY(to_space(c, p + cut[r] * elem_bytes, coming_in(c, r), theirs, err), "%s", "all_gather");
        }
    }
    return NS_OK;
}

ns_status dist_space_reduce_scatter(ns_comm *c, void *data, ns_dtype dt, const int64_t *cut, ns_error *err)
{
    NS_ASSERT(dt == NS_DTYPE_F32 || dt == NS_DTYPE_BF16);
    const int64_t es = (int64_t)ns_dtype_size(dt), piece = piece_bytes(c->size) / es, longest = dist_longest(c, cut),
                  len = cut[c->rank + 1] - cut[c->rank];
    for (int64_t round = 0; round * piece < longest; round++) {
        char *p = (char *)data + round * piece * es;
        const int64_t mine = dist_part(len, round, piece);
        int n = 0, k = 0;
        for (int r = 0; r < c->size; r++) {
            const int64_t out = dist_part(cut[r + 1] - cut[r], round, piece) * es;
            NS_TRY(to_host(c, going_out(c, r), p + cut[r] * es, out, err), "%s", "reduce_scatter");
            if (r == c->rank) continue;
            if (out) c->xfers[n++] = dist_xfer(c, r, 0, going_out(c, r), out);
            if (mine) c->xfers[n++] = dist_xfer(c, r, 1, coming_in(c, k), mine * es);
            c->sent[NS_COMM_REDUCE_SCATTER] += (uint64_t)out;
            k++;
        }
        NS_TRY(ns_world_exchange_on(c->world, c->lane, "reduce_scatter", c->xfers, n, err), "%s", "sum over ranks");
        dist_add(c, dt, going_out(c, c->rank), coming_in(c, 0), piece, mine);
        NS_TRY(to_space(c, p + cut[c->rank] * es, going_out(c, c->rank), mine * es, err), "%s", "reduce_scatter");
    }
    return NS_OK;
}

ns_status dist_space_broadcast(ns_comm *c, void *data, int64_t bytes, int root, ns_error *err)
{
    const int64_t piece = piece_bytes(c->size);
    char *all = going_out(c, 0);
    for (int64_t at = 0; at < bytes; at += piece) {
        const int64_t len = dist_part(bytes, at / piece, piece);
        int n = 0;
        if (c->rank == root) {
            NS_TRY(to_host(c, all, (char *)data + at, len, err), "%s", "broadcast");
            for (int r = 0; r < c->size; r++)
                if (r != root) c->xfers[n++] = dist_xfer(c, r, 0, all, len);
            c->sent[NS_COMM_BROADCAST] += (uint64_t)len * (uint64_t)n;
        } else
            c->xfers[n++] = dist_xfer(c, root, 1, all, len);
        NS_TRY(ns_world_exchange_on(c->world, c->lane, "broadcast", c->xfers, n, err), "%s", "broadcast");
        if (c->rank != root) NS_TRY(to_space(c, (char *)data + at, all, len, err), "%s", "broadcast");
    }
    return NS_OK;
}

ns_status dist_space_send_recv(ns_comm *c, int to, const void *out, int64_t out_bytes, int from, void *in,
                               int64_t in_bytes, ns_error *err)
{
    const int64_t piece = piece_bytes(c->size), sends = to >= 0 ? out_bytes : 0, comes = from >= 0 ? in_bytes : 0;
    for (int64_t round = 0; round * piece < sends || round * piece < comes; round++) {
        const int64_t go = dist_part(sends, round, piece), come = dist_part(comes, round, piece);
        int n = 0;
        NS_TRY(to_host(c, going_out(c, 0), (const char *)out + round * piece, go, err), "%s", "send");
        if (go) c->xfers[n++] = dist_xfer(c, to, 0, going_out(c, 0), go);
        if (come) c->xfers[n++] = dist_xfer(c, from, 1, coming_in(c, 0), come);
        if (to != c->rank) c->sent[NS_COMM_SEND] += (uint64_t)go;
        NS_TRY(ns_world_exchange_on(c->world, c->lane, "send_recv", c->xfers, n, err), "%s", "send and receive");
        NS_TRY(to_space(c, (char *)in + round * piece, coming_in(c, 0), come, err), "%s", "receive");
    }
    return NS_OK;
}
