#include "train/pipeline.h"

#include <inttypes.h>

int ns_stages_slots(int stage, int stages, int64_t n)
{
    const int64_t most = stages - stage;
    return (int)(n < 1 ? 1 : n < most ? n : most);
}

enum { NONE = -1 };

static int64_t stream_bytes(const ns_stages *p, int64_t i)
{
    const ns_engine *e = p->engine;
    return p->rows[i] * e->arch.C * (int64_t)ns_dtype_size(e->opt.dt);
}

static ns_status enter(ns_stages *p, int64_t i, ns_error *err)
{
    NS_TRY(p->enter(p->user, i, err), "micro-batch %" PRId64, i);
    p->rows[i] = p->engine->model.Ts;
    return NS_OK;
}

static ns_status forward(ns_stages *p, int64_t i, int slots, ns_error *err)
{
    NS_TRY(enter(p, i, err), "%s", "forward");
    return p->forward(p->user, i, (int)(i % slots), err);
}

static ns_status backward(ns_stages *p, int64_t i, int slots, ns_error *err)
{
    NS_TRY(enter(p, i, err), "%s", "backward");
    return p->backward(p->user, i, (int)(i % slots), err);
}

/* With the stage before: the gradient of micro-batch `out` goes there, the stream of `in` comes (NONE: nothing). */
static ns_status meet_before(ns_stages *p, int64_t out, int64_t in, int slots, ns_error *err)
{
    ns_comm *c = p->comm;
    if (c->rank == 0 || (out == NONE && in == NONE)) return NS_OK;
    if (in != NONE) NS_TRY(enter(p, in, err), "%s", "receive"); /* its size */
    const int64_t out_bytes = out == NONE ? 0 : stream_bytes(p, out), in_bytes = in == NONE ? 0 : stream_bytes(p, in);
    return ns_comm_send_recv(c, out == NONE ? -1 : c->rank - 1, p->engine->model.dh, out_bytes,
                             in == NONE ? -1 : c->rank - 1,
                             ns_model_in(&p->engine->model, in == NONE ? 0 : (int)(in % slots)), in_bytes, err);
}

/* With the next stage: the stream of `out` goes there, the gradient of `in` comes. */
static ns_status meet_next(ns_stages *p, int64_t out, int64_t in, ns_error *err)
{
    ns_comm *c = p->comm;
    if (c->rank == c->size - 1 || (out == NONE && in == NONE)) return NS_OK;
    return ns_comm_send_recv(c, out == NONE ? -1 : c->rank + 1, p->engine->model.hL,
                             out == NONE ? 0 : stream_bytes(p, out), in == NONE ? -1 : c->rank + 1, p->engine->model.dh,
                             in == NONE ? 0 : stream_bytes(p, in), err);
}

ns_status ns_stages_run(ns_stages *p, int64_t n, ns_error *err)
{
    const int left = p->comm->size - 1 - p->comm->rank;
    const int64_t w = p->backward ? left < n ? left : n : n;
    const int slots = p->backward ? ns_stages_slots(p->comm->rank, p->comm->size, n) : 1;
    for (int64_t i = 0; i < w; i++) {
        NS_TRY(meet_before(p, NONE, i, slots, err), "stream of micro-batch %" PRId64, i);
        NS_TRY(forward(p, i, slots, err), "%s", "warm-up");
        NS_TRY(meet_next(p, i, NONE, err), "stream of micro-batch %" PRId64, i);
    }
    if (!p->backward) return NS_OK;
    if (w < n) NS_TRY(meet_before(p, NONE, w, slots, err), "stream of micro-batch %" PRId64, w);
    for (int64_t i = 0; i < n; i++) {
        const int64_t f = w + i < n ? w + i : NONE, next = w + i + 1 < n ? w + i + 1 : NONE;
        if (f != NONE) NS_TRY(forward(p, f, slots, err), "%s", "steady");
        NS_TRY(meet_next(p, f, i, err), "gradient of micro-batch %" PRId64, i);
        NS_TRY(backward(p, i, slots, err), "%s", "steady");
        NS_TRY(meet_before(p, i, next, slots, err), "gradient of micro-batch %" PRId64, i);
    }
    return NS_OK;
}
