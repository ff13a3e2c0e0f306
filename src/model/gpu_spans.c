#include "model/gpu_spans.h"

#include "base/log.h"
#include "base/mem.h"

enum {
    SPANS = (NS_CUDA_STAMPS - 2) / 2
}; /* span i has stamps 2 + 2 i and 3 + 2 i; two more are the beginnings of steps */

typedef struct span {
    const char *name;
    ns_trace_lane lane;
    void *stream;
    int64_t bytes;
    int step, state; /* which beginning; FREE, BEGUN, ENDED */
} span;

enum { FREE, BEGUN, ENDED };

struct ns_gpu_spans {
    ns_engine *engine;
    ns_trace *trace;
    void *ops;
    int step, next;  /* parity of the present step; where a free span is looked for */
    double began[2]; /* host time of the beginnings */
    span spans[SPANS];
};

static int exchange_begins(void *spans, void *stream, const char *op)
{
    ns_gpu_spans *g = spans;
    return ns_gpu_span_begin(g, stream, stream == g->ops ? NS_TRACE_COMM : NS_TRACE_BEHIND, op);
}

static void exchange_ends(void *spans, int which, int64_t bytes)
{
    ns_gpu_span_end(spans, which, bytes);
}

ns_status ns_gpu_spans_new(ns_gpu_spans **out, ns_engine *e, ns_trace *t, ns_error *err)
{
    NS_TRY(ns_alloc((void **)out, sizeof **out, "gpu.spans", err), "%s", "trace");
    ns_gpu_spans *g = *out;
    g->engine = e;
    g->trace = t;
    g->ops = ns_cuda_opened()->stream(e->device);
    ns_comm_space *const spaces[] = {&e->away, &e->aside};
    for (int i = 0; i < 2; i++) {
        spaces[i]->spans = g;
        spaces[i]->span_begins = exchange_begins;
        spaces[i]->span_ends = exchange_ends;
    }
    return NS_OK;
}

void ns_gpu_spans_step(ns_gpu_spans *g)
{
    if (!g) return;
    g->step ^= 1;
    (void)!ns_cuda_opened()->stamp(g->engine->device, g->ops, g->step);
    g->began[g->step] = ns_time_now();
}

int ns_gpu_span_begin(ns_gpu_spans *g, void *stream, ns_trace_lane lane, const char *name)
{
    if (!g) return -1;
    for (int n = 0; n < SPANS; n++) {
        const int i = (g->next + n) % SPANS;
        if (g->spans[i].state != FREE) continue;
        g->spans[i] =
            (span){.name = name, .lane = lane, .stream = stream ? stream : g->ops, .step = g->step, .state = BEGUN};
        g->next = i + 1;
        if (!ns_cuda_opened()->stamp(g->engine->device, g->spans[i].stream, 2 + 2 * i)) break;
        return i;
    }
    return -1;
}

void ns_gpu_span_end(ns_gpu_spans *g, int i, int64_t bytes)
{
    if (!g || i < 0) return;
    g->spans[i].bytes = bytes;
    g->spans[i].state = ns_cuda_opened()->stamp(g->engine->device, g->spans[i].stream, 3 + 2 * i) ? ENDED : FREE;
}

void ns_gpu_spans_flush(ns_gpu_spans *g)
{
    for (int i = 0; g && i < SPANS; i++) {
        span *s = &g->spans[i];
        double from = 0, to = 0;
        if (s->state != ENDED) continue;
        const ns_cuda_plugin *p = ns_cuda_opened();
        if (!p->stamp_s(g->engine->device, s->step, 3 + 2 * i, &to)) continue; /* still runs */
        (void)!p->stamp_s(g->engine->device, s->step, 2 + 2 * i, &from);
        ns_trace_add(g->trace, s->lane, s->name, g->began[s->step] + from, g->began[s->step] + to, s->bytes);
        s->state = FREE;
    }
}

void ns_gpu_spans_free(ns_gpu_spans **pg)
{
    ns_gpu_spans *g = *pg;
    if (!g) return;
    g->engine->away.spans = g->engine->aside.spans = NULL;
    ns_free(g);
    *pg = NULL;
}
