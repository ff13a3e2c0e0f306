/* Collectives from device to device: see direct.h. Counted as comm.c counts. */
#include "dist/direct.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/threads.h"
#include "dist/comm_priv.h"

#define SPIN_S 0.02
enum { SUMS_MOST = 64 << 20, PIECE_MOST = 32 << 20, PIECE_UNIT = 256 };

struct ns_direct {
    const ns_nccl_plugin *nccl;
    ns_world *world;
    void *group;
    int self; /* a group of one sends to itself */
    ns_world_watch watch;
    pthread_mutex_t lock; /* of the group: this thread enqueues, the control thread looks after it and may end it */
    int gone; /* the control thread had it ended, by a thread: what waits for a GPU must not stop the control plane */
    pthread_t ender;
    int ends; /* there is such a thread */
};

/* Of what a member sends at once to be added: a piece of each other one fits. */
static int64_t piece_bytes(const ns_comm *c)
{
    return c->space->sums_bytes / (c->size > 2 ? c->size - 1 : 1) / PIECE_UNIT * PIECE_UNIT;
}

int64_t ns_direct_sums_bytes(int n)
{
    const int64_t most = (int64_t)(n - 1) * PIECE_MOST;
    return most < SUMS_MOST ? most : SUMS_MOST;
}

static void *end_group(void *direct)
{
    struct ns_direct *d = direct;
    d->nccl->close(d->group, 1);
    return NULL;
}

/* Control thread: once a second, and often when the run is over. It never waits: whoever enqueues may stand in a call of the driver. */
static void look_after(void *direct, int aborted, char *problem, size_t n)
{
    struct ns_direct *d = direct;
    const char *why = "";
    if (pthread_mutex_trylock(&d->lock) != 0) return;
    if (aborted && !d->gone) {
        d->gone = 1;
        d->ends = ns_thread_start(&d->ender, NULL, end_group, d) == 0;
    } else if (!d->gone && d->nccl->state(d->group, &why) == NS_NCCL_FAILED)
        snprintf(problem, n, "NCCL: %s", why);
    pthread_mutex_unlock(&d->lock);
}

static ns_nccl_state ask(struct ns_direct *d, const char **why)
{
    pthread_mutex_lock(&d->lock);
    ns_nccl_state s = d->gone ? NS_NCCL_FAILED : d->nccl->state(d->group, why);
    pthread_mutex_unlock(&d->lock);
    return s;
}

/* Until what was begun is enqueued (or joined). */
static ns_status settle(ns_comm *c, ns_nccl_state s, const char *why, const char *op, ns_error *err)
{
    const double began = ns_time_now();
    while (s == NS_NCCL_BUSY) {
        NS_TRY(ns_world_check(c->world, err), "%s", op);
        if (ns_time_now() - began >
            SPIN_S) /* a join, or others that come late; to enqueue takes less, and a nap would be longer */
            poll(NULL, 0, 1);
        else
            sched_yield();
        s = ask(c->direct, &why);
    }
    if (s == NS_NCCL_READY) return NS_OK;
    NS_TRY(ns_world_check(c->world, err), "%s", op); /* who was lost says more than what it broke */
    NS_FAIL(NS_ERR_DEVICE, "NCCL, %s: %s", op, why);
}

ns_status ns_direct_open(ns_comm *c, const ns_nccl_plugin *p, int talks_to_itself, ns_error *err)
{
    char id[NS_NCCL_ID] = "";
    const char *why = "";
    ns_nccl_state s = c->rank == 0 ? p->new_id(id, &why) : NS_NCCL_READY;
    NS_FAIL_IF(s != NS_NCCL_READY, NS_ERR_DEVICE, "NCCL: %s", why);
    NS_TRY(ns_comm_broadcast(c, id, sizeof id, 0, err), "%s", "meet for NCCL");
    NS_TRY(ns_alloc((void **)&c->direct, sizeof *c->direct, "dist.direct", err), "%s", "NCCL");
    struct ns_direct *d = c->direct;
    d->nccl = p;
    d->world = c->world;
    d->self = talks_to_itself && c->size == 1;
    d->watch = (ns_world_watch){.fn = look_after, .user = d};
    pthread_mutex_init(&d->lock, NULL);
    s = p->join(&d->group, id, c->rank, c->size, &why);
    if (d->group) ns_world_watch_add(c->world, &d->watch);
    return settle(c, s, why, "join", err);
}

void ns_direct_close(ns_comm *c)
{
    struct ns_direct *d = c->direct;
    ns_error lost = NS_ERROR_INIT;
    if (!d) return;
    if (d->group) ns_world_watch_remove(c->world, &d->watch);
    if (d->ends) pthread_join(d->ender, NULL);
    if (d->group && !d->gone) d->nccl->close(d->group, ns_world_check(c->world, &lost) != NS_OK);
    pthread_mutex_destroy(&d->lock);
    ns_free(d);
    c->direct = NULL;
}

int dist_goes_direct(const ns_comm *c, const void *array)
{
    const ns_comm_space *s = c->space;
    const char *p = array;
    return c->direct && (c->size > 1 || c->direct->self) && p >= s->base && p < s->base + s->bytes;
}

static int speaks(const ns_comm *c, int member)
{
    return member != c->rank || c->direct->self;
}

static ns_xfer transfer(int member, int recv, void *buf, int64_t bytes)
{
    return (ns_xfer){.peer = member, .recv = recv, .buf = buf, .bytes = bytes};
}

static ns_status enqueue_on(ns_comm *c, void *stream, const char *op, int n, ns_error *err)
{
    struct ns_direct *d = c->direct;
    const ns_comm_space *where = c->space;
    const char *why = "the group was ended";
    int64_t bytes = 0;
    if (n == 0) return NS_OK;
    const int span = where->spans ? where->span_begins(where->spans, stream, op) : -1;
    pthread_mutex_lock(&d->lock);
    ns_nccl_state s = d->gone ? NS_NCCL_FAILED : d->nccl->exchange(d->group, stream, c->xfers, n, &why);
    pthread_mutex_unlock(&d->lock);
    NS_TRY(settle(c, s, why, op, err), "%s", op);
    for (int i = 0; span >= 0 && i < n; i++) bytes += c->xfers[i].bytes;
    if (span >= 0) where->span_ends(where->spans, span, bytes);
    return NS_OK;
}

static ns_status enqueue(ns_comm *c, const char *op, int n, ns_error *err)
{
    return enqueue_on(c, c->space->stream, op, n, err);
}

ns_status dist_direct_all_gather(ns_comm *c, void *data, const int64_t *cut, int elem_bytes, ns_error *err)
{
    char *p = data;
    const int64_t mine = (cut[c->rank + 1] - cut[c->rank]) * elem_bytes;
    int n = 0;
    for (int r = 0; r < c->size; r++) {
        const int64_t theirs = (cut[r + 1] - cut[r]) * elem_bytes;
        if (!speaks(c, r)) continue;
        if (mine) c->xfers[n++] = transfer(r, 0, p + cut[c->rank] * elem_bytes, mine);
        if (theirs) c->xfers[n++] = transfer(r, 1, p + cut[r] * elem_bytes, theirs);
        c->sent[NS_COMM_ALL_GATHER] += (uint64_t)mine;
    }
    return enqueue(c, "all_gather", n, err);
}

ns_status dist_direct_reduce_scatter(ns_comm *c, void *data, ns_dtype dt, const int64_t *cut, ns_error *err)
{
    NS_ASSERT(dt == NS_DTYPE_F32 || dt == NS_DTYPE_BF16);
    const ns_comm_space *s = c->space;
    const int64_t es = (int64_t)ns_dtype_size(dt), piece = piece_bytes(c) / es, longest = dist_longest(c, cut),
                  len = cut[c->rank + 1] - cut[c->rank];
    for (int64_t round = 0; round * piece < longest; round++) {
        char *p = (char *)data + round * piece * es, *in = s->sums, *own = p + cut[c->rank] * es;
        const int64_t mine = dist_part(len, round, piece);
        int n = 0;
        for (int r = 0; r < c->size; r++) {
            const int64_t out = dist_part(cut[r + 1] - cut[r], round, piece) * es;
            if (!speaks(c, r)) continue;
            if (out) c->xfers[n++] = transfer(r, 0, p + cut[r] * es, out);
            if (mine) c->xfers[n++] = transfer(r, 1, in, mine * es);
            c->sent[NS_COMM_REDUCE_SCATTER] += (uint64_t)out;
            in += piece * es;
        }
        NS_TRY(enqueue(c, "reduce_scatter", n, err), "%s", "sum over ranks");
        NS_FAIL_IF(mine > 0 && !s->add(s->device, dt, mine, own, s->sums, piece, c->size, c->rank), NS_ERR_DEVICE, "%s",
                   "the sum over ranks does not start on the GPU");
    }
    return NS_OK;
}

ns_status dist_direct_broadcast(ns_comm *c, void *data, int64_t bytes, int root, ns_error *err)
{
    int n = 0;
    if (c->rank == root) {
        for (int r = 0; r < c->size; r++)
            if (speaks(c, r)) c->xfers[n++] = transfer(r, 0, data, bytes);
        c->sent[NS_COMM_BROADCAST] += (uint64_t)bytes * (uint64_t)n;
    }
    if (c->rank != root || c->direct->self) c->xfers[n++] = transfer(root, 1, data, bytes);
    return enqueue(c, "broadcast", n, err);
}

ns_status dist_direct_send_recv(ns_comm *c, int to, const void *out, int64_t out_bytes, int from, void *in,
                                int64_t in_bytes, ns_error *err)
{
    int n = 0;
    if (to >= 0 && out_bytes > 0) {
        c->xfers[n++] = transfer(to, 0, (void *)(uintptr_t)out, out_bytes);
        if (to != c->rank) c->sent[NS_COMM_SEND] += (uint64_t)out_bytes;
    }
    if (from >= 0 && in_bytes > 0) c->xfers[n++] = transfer(from, 1, in, in_bytes);
    return enqueue(c, "send_recv", n, err);
}

ns_status dist_direct_turn(ns_comm *c, const ns_comm_turn *t, int n, ns_error *err)
{
    const ns_comm_space *s = c->space;
    const int next = (c->rank + 1) % c->size, before = (c->rank + c->size - 1) % c->size;
    int k = 0;
    for (int i = 0; i < n; i++) {
        c->xfers[k++] = transfer(next, 0, (void *)(uintptr_t)t[i].out, t[i].bytes);
        c->xfers[k++] = transfer(before, 1, t[i].in, t[i].bytes);
        if (next != c->rank) c->sent[NS_COMM_SEND] += (uint64_t)t[i].bytes;
    }
    NS_FAIL_IF(!s->turn_begins(s->device), NS_ERR_DEVICE, "%s", "a turn of the ring does not start on the GPU");
    NS_TRY(enqueue_on(c, s->turn_stream, "ring", k, err), "%s", "ring");
    NS_FAIL_IF(!s->turn_ends(s->device), NS_ERR_DEVICE, "%s", "a turn of the ring does not end on the GPU");
    return NS_OK;
}
