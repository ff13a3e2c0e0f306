/* Collectives over a group of ranks, in fixed order: a layout repeats itself bitwise.
 *
 *     ns_comm dp;
 *     NS_TRY(ns_comm_open(&dp, world, ranks, n, err), "group");        // no communication; the same list on all members
 *     NS_TRY(ns_comm_reduce_scatter(&dp, grad, NS_DTYPE_F32, cut, err), "reduce");   // my piece of grad: the sum, rank 0 first
 *     NS_TRY(ns_comm_all_gather(&dp, weights, cut, 2, err), "gather"); // everybody's piece, to everybody
 *     ns_comm_close(&dp);
 *
 * `cut[size+1]` divides an array among the members: member r owns elements [cut[r], cut[r+1]); pieces may be empty.
 * Sums are made in f32 (f64 for the scalars) by the owner of a piece, member 0 first, so that neither timing nor transport
 * decides a bit. All members call the same collectives in the same order; else NS_ERR_MISMATCH. A lost rank:
 * NS_ERR_DEVICE with its name (world.h). At size 1 all return at once. Nothing is allocated after open.
 *
 * `sent` counts payload bytes this rank sent to others, per kind; for a group of n and S bytes in all (equal pieces) it is
 *     all_gather (n-1)/n S   reduce_scatter (n-1)/n S   all_reduce 2 (n-1)/n S   broadcast (n-1) S at the root
 *     send: its bytes   scalars: (n-1) * 8 a number                                                                   */
#ifndef NS_DIST_COMM_H
#define NS_DIST_COMM_H

#include "dist/world.h"
#include "tensor/dtype.h"

typedef enum ns_comm_kind {
    NS_COMM_ALL_GATHER,
    NS_COMM_REDUCE_SCATTER,
    NS_COMM_BROADCAST,
    NS_COMM_SEND,
    NS_COMM_SCALARS,
    NS_COMM_N_KINDS
} ns_comm_kind;

/* Memory that only a device reads and writes. Arrays of collectives may lie there (those of one call all do): they travel in pieces
 * of fixed size through `stage`, and sums are made on the host by the code that adds host arrays, so that a layout gives the same bits
 * either way. Nothing else on the device may be waited for: to_host returns when the producers of src, enqueued before, are done
 * and dst is filled; what is enqueued after to_space finds the new values, and its src may be reused at once. */
typedef struct ns_comm_space {
    const char *base; /* arrays in [base, base + bytes) are there; all others are host memory */
    int64_t bytes;
    ns_status (*to_host)(void *user, void *dst, const void *src, int64_t bytes, ns_error *err);
    ns_status (*to_space)(void *user, void *dst, const void *src, int64_t bytes, ns_error *err);
    void *user;
    char *stage; /* host memory, ns_comm_stage_bytes of the widest group */
    /* From device to device (direct.h): what is enqueued on `stream` runs in order; add enqueues own[n] = sum over members in their order
     * with in[members-1] arrays `each` elements apart, 0: it failed. */
    void *stream, *device;
    char *sums;         /* device memory: pieces of the others before they are added */
    int64_t sums_bytes; /* ns_direct_sums_bytes of the widest group */
    int (*add)(void *device, ns_dtype dt, int64_t n, void *own, const void *in, int64_t each, int members, int rank);
    /* Turns of a ring run on a stream of their own: begins puts it behind what is enqueued on `stream`, ends marks it, what is enqueued
     * on `stream` after waits comes behind that mark. 0: it failed. */
    void *turn_stream;
    int (*turn_begins)(void *device), (*turn_ends)(void *device), (*turn_waits)(void *device);
    /* NULL, or told of each exchange that is enqueued: before, and behind it with what begins gave (model/gpu_spans.h). */
    void *spans;
    int (*span_begins)(void *spans, void *stream, const char *op);
    void (*span_ends)(void *spans, int span, int64_t bytes);
} ns_comm_space;
struct ns_direct;

typedef struct ns_comm {
    ns_world *world;
    int lane;       /* of the world: 1 in a group of another thread, set after open */
    int rank, size; /* my place in the group; members */
    int *ranks;     /* [size] world ranks */
    ns_xfer *xfers; /* [2*size] scratch */
    float *
        scratch; /* ns_comm_scratch_bytes: pieces of the others, before they are added; the caller's, set before a sum */
    double *numbers;                                             /* [size * NS_COMM_MAX_SCALARS] */
    int64_t *cut;                                                /* [size+1] of all_reduce */
    const ns_comm_space *space;                                  /* NULL (as opened): all arrays are host memory */
    struct ns_direct *direct;                                    /* NULL: arrays of the space travel through the host */
    enum { NS_TURN_OF_HOST, NS_TURN_DONE, NS_TURN_DIRECT } turn; /* what wait has to wait for */
    uint64_t sent[NS_COMM_N_KINDS];
} ns_comm;

enum { NS_COMM_PIECE = 1 << 16, NS_COMM_MAX_SCALARS = 64 };
typedef enum ns_comm_op { NS_COMM_SUM, NS_COMM_MAX, NS_COMM_MIN } ns_comm_op;

/* Of a group of n. Groups that one thread uses may share it. */
int64_t ns_comm_scratch_bytes(int n);
int64_t ns_comm_stage_bytes(int n); /* of ns_comm_space.stage; at most 32 MiB for up to 4096 members */
NS_MUST_USE ns_status ns_comm_open(ns_comm *c, ns_world *w, const int *ranks, int n, ns_error *err);
void ns_comm_close(ns_comm *c);

/* Equal division of n elements in multiples of `unit` (the last piece takes the rest). */
void ns_comm_cut(int64_t n, int64_t unit, int size, int64_t *cut);

NS_MUST_USE ns_status ns_comm_all_gather(ns_comm *c, void *data, const int64_t *cut, int elem_bytes, ns_error *err);
/* data[cut[rank]..cut[rank+1]) becomes the sum over members; the rest of data keeps this member's values. bf16 values are added in
 * f32 and rounded once. */
NS_MUST_USE ns_status ns_comm_reduce_scatter(ns_comm *c, void *data, ns_dtype dt, const int64_t *cut, ns_error *err);
/* Sum of n values on all members. */
NS_MUST_USE ns_status ns_comm_all_reduce(ns_comm *c, void *data, ns_dtype dt, int64_t n, ns_error *err);
NS_MUST_USE ns_status ns_comm_broadcast(ns_comm *c, void *data, int64_t bytes, int root, ns_error *err);
/* Up to NS_COMM_MAX_SCALARS numbers, in f64, combined in member order; all members get the same bits. */
NS_MUST_USE ns_status ns_comm_scalars(ns_comm *c, double *x, int n, ns_comm_op op, ns_error *err);
/* One number of each member: out[size]. */
NS_MUST_USE ns_status ns_comm_gather_scalar(ns_comm *c, double x, double *out, ns_error *err);
NS_MUST_USE ns_status ns_comm_barrier(ns_comm *c, ns_error *err);
/* A turn of the ring: up to two buffers to the next member, as many of the same sizes from the one before, while the caller computes on
 * others. Until wait the group's world does nothing else. Counted as send. Arrays of a device: by NCCL the turn and the wait are enqueued,
 * kernels enqueued in between run beside it; through the host it is over at once. */
typedef struct ns_comm_turn {
    const void *out;
    void *in;
    int64_t bytes;
} ns_comm_turn;
NS_MUST_USE ns_status ns_comm_turn_start(ns_comm *c, const ns_comm_turn *t, int n, ns_error *err);
NS_MUST_USE ns_status ns_comm_turn_wait(ns_comm *c, ns_error *err);
/* To one member and from one member at the same time; -1: none. Stages of a pipeline. */
NS_MUST_USE ns_status ns_comm_send_recv(ns_comm *c, int to, const void *out, int64_t out_bytes, int from, void *in,
                                        int64_t in_bytes, ns_error *err);

#endif
