/* When the work of a GPU ran, for a trace: it is enqueued long before. Stamps in its streams, read when they have passed.
 *
 *     NS_TRY(ns_gpu_spans_new(&g, engine, trace, err), "trace");   // exchanges by NCCL become spans as well (ns_comm_space.spans)
 *     ns_gpu_spans_step(g);                                       // the ops' stream is empty: its clock meets the host's
 *     int s = ns_gpu_span_begin(g, NULL, NS_TRACE_COMPUTE, "forward");  ... ops ...  ns_gpu_span_end(g, s, 0);
 *     ns_gpu_spans_flush(g);                                      // what has ended goes to the trace; the rest stays for the next time
 *     ns_gpu_spans_free(&g);
 *
 * g NULL: nothing happens. Spans beyond the stamps (NS_CUDA_STAMPS) are left out. */
#ifndef NS_MODEL_GPU_SPANS_H
#define NS_MODEL_GPU_SPANS_H

#include "base/trace.h"
#include "model/engine.h"

typedef struct ns_gpu_spans ns_gpu_spans;

NS_MUST_USE ns_status ns_gpu_spans_new(ns_gpu_spans **out, ns_engine *e, ns_trace *t, ns_error *err);
void ns_gpu_spans_step(ns_gpu_spans *g);
int ns_gpu_span_begin(ns_gpu_spans *g, void *stream, ns_trace_lane lane, const char *name); /* stream NULL: the ops' */
void ns_gpu_span_end(ns_gpu_spans *g, int span, int64_t bytes);
void ns_gpu_spans_flush(ns_gpu_spans *g);
void ns_gpu_spans_free(ns_gpu_spans **g);

#endif
