#include "model/snapshot.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mem.h"
#include "base/threads.h"

/* Pinned piece by piece, so that no call keeps the driver for long while steps run. */
#define PIECE ((int64_t)1 << 30)
enum { WEIGHT, REMAINDER, FIRST, SECOND, N_KINDS, PAGE = 4096, ALIGN = 256 };

typedef struct place {
    int64_t at[N_KINDS], bytes[N_KINDS];
} place;

struct ns_snapshot {
    ns_engine *engine;
    place *where; /* [n_params] */
    char *memory, *start;
    int64_t bytes;
    int held; /* 1: hold was called since take, and nobody has asked how long it was */
    int taken;
    int64_t pinned; /* bytes from start, by the thread */
    int ready;      /* the thread is joined */
    pthread_t thread;
    ns_error pin_err;
};

/* Places of one parameter behind *at. */
static place place_of(const ns_engine *e, int param, int64_t *at)
{
    const ns_param *p = &e->table.params[param];
    const ns_opt_form f = e->opt.optim;
    const int64_t n = p->rows * p->cols, trained = e->opt.train && p->trainable,
                  each[N_KINDS] = {
                      (int64_t)ns_dtype_size(e->opt.dt), trained && e->opt.dt == NS_DTYPE_BF16 && !f.no_rem ? 2 : 0,
                      trained ? (int64_t)ns_dtype_size(f.m) : 0, trained ? (int64_t)ns_dtype_size(f.v) : 0};
    place out;
    for (int k = 0; k < N_KINDS; k++) {
        out.at[k] = *at;
        out.bytes[k] = n * each[k];
        *at += (out.bytes[k] + ALIGN - 1) / ALIGN * ALIGN;
    }
    return out;
}

int64_t ns_snapshot_bytes(const ns_engine *e)
{
    int64_t at = 0;
    for (int i = 0; i < e->table.n_params; i++) (void)place_of(e, i, &at);
    return (at + PAGE - 1) / PAGE * PAGE;
}

static void *pin(void *arg)
{
    ns_snapshot *s = arg;
    for (int64_t at = 0; at < s->bytes; at += PIECE) {
        const int64_t n = s->bytes - at < PIECE ? s->bytes - at : PIECE;
        memset(s->start + at, 0, (size_t)n); /* here, not when the first copy waits for pages */
        if (s->engine->ops.pin(&s->engine->exec, s->start + at, n, &s->pin_err) != NS_OK) break;
        s->pinned = at + n;
    }
    return NULL;
}

ns_status ns_snapshot_new(ns_snapshot **out, ns_engine *e, ns_error *err)
{
    ns_status st = NS_OK;
    int64_t at = 0;
    int rc;
    *out = NULL;
    NS_FAIL_IF(ns_engine_split(e) || e->opt.dp_size > 1, NS_ERR_UNSUPPORTED, "%s",
               "a snapshot of a model on several ranks");
    ns_snapshot *s = NULL;
    NS_TRY(ns_alloc((void **)&s, sizeof *s, "snapshot", err), "%s", "snapshot");
    s->engine = e;
    s->pin_err = (ns_error)NS_ERROR_INIT;
    s->bytes = ns_snapshot_bytes(e);
    NS_CHECK(st, ns_alloc((void **)&s->where, (size_t)e->table.n_params * sizeof *s->where, "snapshot", err), "%s",
             "snapshot");
    NS_CHECK(st, ns_realloc((void **)&s->memory, (size_t)(s->bytes + PAGE), "snapshot", err), "%s", "snapshot");
    for (int i = 0; i < e->table.n_params; i++) s->where[i] = place_of(e, i, &at);
    s->start = (char *)(((uintptr_t)s->memory + PAGE - 1) / PAGE * PAGE);
    /* fewer pages to make and to pin; a kernel without it is fine */
    (void)madvise(s->start, (size_t)s->bytes, MADV_HUGEPAGE);
    rc = ns_thread_start(&s->thread, NULL, pin, s);
    NS_BAIL_IF(st, rc != 0, NS_ERR_DEVICE, "no thread for the snapshot: %s", strerror(rc));
    *out = s;
    return NS_OK;
done:
    ns_free(s->memory);
    ns_free(s->where);
    ns_free(s);
    return st;
}

static void join(ns_snapshot *s)
{
    if (!s->ready) pthread_join(s->thread, NULL);
    s->ready = 1;
}

void ns_snapshot_free(ns_snapshot **ps)
{
    ns_snapshot *s = *ps;
    ns_error ignored = NS_ERROR_INIT;
    if (!s) return;
    join(s);
    if (s->taken) (void)!s->engine->ops.copy_wait(&s->engine->exec, &ignored);
    for (int64_t at = 0; at < s->pinned; at += PIECE) s->engine->ops.unpin(&s->engine->exec, s->start + at);
    ns_free(s->memory);
    ns_free(s->where);
    ns_free(s);
    *ps = NULL;
}

/* No copy crosses a pinned piece. */
static void copy(ns_snapshot *s, int64_t at, const char *from, int64_t bytes)
{
    while (bytes > 0) {
        const int64_t room = PIECE - at % PIECE, n = bytes < room ? bytes : room;
        s->engine->ops.copy_out(&s->engine->exec, s->start + at, from, n);
        at += n, from += n, bytes -= n;
    }
}

ns_status ns_snapshot_take(ns_snapshot *s, ns_error *err)
{
    const ns_model *m = &s->engine->model;
    join(s);
    NS_FAIL_IF(s->pin_err.code != NS_OK, s->pin_err.code, "%s", s->pin_err.msg);
    s->engine->ops.copy_begin(&s->engine->exec);
    for (int i = 0; i < s->engine->table.n_params; i++) {
        const void *from[N_KINDS] = {m->w[i].data, m->rem[i], m->adam_m[i], m->adam_v[i]};
        for (int k = 0; k < N_KINDS; k++) copy(s, s->where[i].at[k], from[k], s->where[i].bytes[k]);
    }
    s->engine->ops.copy_end(&s->engine->exec);
    s->taken = 1;
    s->held = 0;
    NS_FAIL_IF(s->engine->exec.err.code != NS_OK, s->engine->exec.err.code, "%s", s->engine->exec.err.msg);
    return NS_OK;
}

void ns_snapshot_hold(ns_snapshot *s)
{
    if (!s || !s->taken || s->held) return;
    s->engine->ops.copy_hold(&s->engine->exec);
    s->held = 1;
}

double ns_snapshot_held(ns_snapshot *s)
{
    if (!s || s->held != 1) return 0;
    s->held = 2;
    return s->engine->ops.copy_held(&s->engine->exec);
}

ns_status ns_snapshot_get(void *snapshot, int param, float *data, ns_error *err)
{
    ns_snapshot *s = snapshot;
    const ns_param *p = &s->engine->table.params[param];
    NS_TRY(s->engine->ops.copy_wait(&s->engine->exec, err), "%s", "snapshot");
    ns_to_f32(data, s->start + s->where[param].at[WEIGHT], s->engine->opt.dt, (size_t)(p->rows * p->cols));
    return NS_OK;
}

ns_status ns_snapshot_get_opt(void *snapshot, int param, int64_t off, int64_t len, float *main, float *m, float *v,
                              ns_error *err)
{
    ns_snapshot *s = snapshot;
    const place *w = &s->where[param];
    const ns_dtype dt = s->engine->opt.dt, mdt = s->engine->opt.optim.m, vdt = s->engine->opt.optim.v;
    const char *weight = s->start + w->at[WEIGHT] + off * (int64_t)ns_dtype_size(dt);
    NS_TRY(s->engine->ops.copy_wait(&s->engine->exec, err), "%s", "snapshot");
    if (main && w->bytes[REMAINDER]) {
        const uint16_t *hi = (const uint16_t *)weight;
        const int16_t *lo = (const int16_t *)(s->start + w->at[REMAINDER]) + off;
        for (int64_t i = 0; i < len; i++) main[i] = ns_main_join(hi[i], lo[i]);
    } else if (main)
        ns_to_f32(main, weight, dt, (size_t)len);
    if (m) ns_to_f32(m, s->start + w->at[FIRST] + off * (int64_t)ns_dtype_size(mdt), mdt, (size_t)len);
    if (v) ns_to_f32(v, s->start + w->at[SECOND] + off * (int64_t)ns_dtype_size(vdt), vdt, (size_t)len);
    return NS_OK;
}
