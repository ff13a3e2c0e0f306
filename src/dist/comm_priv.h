/* Inside of the collectives: shared by comm.c (host memory) and comm_space.c (arrays on a device). */
#ifndef NS_DIST_COMM_PRIV_H
#define NS_DIST_COMM_PRIV_H

#include "dist/comm.h"

/* What of `len` is on the way in a round of `piece` each. */
static inline int64_t dist_part(int64_t len, int64_t round, int64_t piece)
{
    const int64_t left = len - round * piece;
    return left < 0 ? 0 : left < piece ? left : piece;
}

static inline ns_xfer dist_xfer(const ns_comm *c, int member, int recv, void *buf, int64_t bytes)
{
    return (ns_xfer){.peer = c->ranks[member], .recv = recv, .buf = buf, .bytes = bytes};
}

static inline int64_t dist_longest(const ns_comm *c, const int64_t *cut)
{
    int64_t most = 0;
    for (int r = 0; r < c->size; r++) most = cut[r + 1] - cut[r] > most ? cut[r + 1] - cut[r] : most;
    return most;
}

/* own[n] becomes the sum over members in member order; in: the others' values, `piece` elements apart. F32 or BF16. */
void dist_add(const ns_comm *c, ns_dtype dt, void *own, const void *in, int64_t piece, int64_t n);

/* 1: the array lies in the group's device memory, and there is somebody to talk to. */
int dist_in_space(const ns_comm *c, const void *array);
ns_status dist_space_all_gather(ns_comm *c, void *data, const int64_t *cut, int elem_bytes, ns_error *err);
ns_status dist_space_reduce_scatter(ns_comm *c, void *data, ns_dtype dt, const int64_t *cut, ns_error *err);
ns_status dist_space_broadcast(ns_comm *c, void *data, int64_t bytes, int root, ns_error *err);
ns_status dist_space_send_recv(ns_comm *c, int to, const void *out, int64_t out_bytes, int from, void *in,
                               int64_t in_bytes, ns_error *err);

/* 1: the same, and the group has met for NCCL (direct.c). */
int dist_goes_direct(const ns_comm *c, const void *array);
ns_status dist_direct_all_gather(ns_comm *c, void *data, const int64_t *cut, int elem_bytes, ns_error *err);
ns_status dist_direct_reduce_scatter(ns_comm *c, void *data, ns_dtype dt, const int64_t *cut, ns_error *err);
ns_status dist_direct_broadcast(ns_comm *c, void *data, int64_t bytes, int root, ns_error *err);
ns_status dist_direct_send_recv(ns_comm *c, int to, const void *out, int64_t out_bytes, int from, void *in,
                                int64_t in_bytes, ns_error *err);
ns_status dist_direct_turn(ns_comm *c, const ns_comm_turn *t, int n, ns_error *err);

#endif
