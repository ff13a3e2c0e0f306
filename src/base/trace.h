/* What happened when, as a Chrome trace (chrome://tracing, ui.perfetto.dev): one process a rank, one row a lane.
 *
 *     ns_trace *t;
 *     NS_TRY(ns_trace_open(&t, "trace.json", rank, capacity, err), "trace");   // writes trace.json.rankN
 *     double began = ns_time_now();
 *     ...;
 *     ns_trace_span(t, NS_TRACE_COMPUTE, "forward", began, bytes);    // t NULL: nothing
 *     NS_TRY(ns_trace_flush(t, err), "trace");                       // between steps: events to the file
 *     ns_trace_close(&t);
 *     NS_TRY(ns_trace_join("trace.json", n_ranks, err), "trace");     // one process, when all have closed
 *
 * Spans may come from several threads. No allocation after open; spans beyond the capacity between two flushes are counted and said
 * in the file. Times are of the system's clock, so that ranks of several machines lie side by side as well as their clocks agree. */
#ifndef NS_BASE_TRACE_H
#define NS_BASE_TRACE_H

#include <stdint.h>

#include "base/error.h"

typedef struct ns_trace ns_trace;
typedef enum ns_trace_lane { NS_TRACE_COMPUTE, NS_TRACE_COMM, NS_TRACE_BEHIND, NS_TRACE_N_LANES } ns_trace_lane;

NS_MUST_USE ns_status ns_trace_open(ns_trace **out, const char *path, int rank, int capacity, ns_error *err);
/* From `began` until now; name: a static string. bytes 0: not said. */
void ns_trace_span(ns_trace *t, ns_trace_lane lane, const char *name, double began, int64_t bytes);
/* From `began` until `ended`, both of ns_time_now. */
void ns_trace_add(ns_trace *t, ns_trace_lane lane, const char *name, double began, double ended, int64_t bytes);
NS_MUST_USE ns_status ns_trace_flush(ns_trace *t, ns_error *err);
NS_MUST_USE ns_status ns_trace_close(ns_trace **t, ns_error *err);
/* Joins PATH.rank0 .. PATH.rankN-1 into PATH and removes them. */
NS_MUST_USE ns_status ns_trace_join(const char *path, int n_ranks, ns_error *err);

#endif
