/* Log lines to stderr: "2026-01-31 12:00:00 INFO  message". Levels by ns_log_set_level or NS_LOG=debug|info|warn|error.
 * The library never writes to stdout. `ns_log_set_sink` redirects (tests, servers). Progress lines (progress.h) are
 * cleared before a log line is written. Thread-safe. */
#ifndef NS_BASE_LOG_H
#define NS_BASE_LOG_H

#include "base/error.h"

typedef enum ns_log_level { NS_LOG_DEBUG, NS_LOG_INFO, NS_LOG_WARN, NS_LOG_ERROR } ns_log_level;

void ns_log(ns_log_level level, const char *fmt, ...) NS_PRINTF(2, 3);
#define NS_INFO(...) ns_log(NS_LOG_INFO, __VA_ARGS__)
#define NS_WARN(...) ns_log(NS_LOG_WARN, __VA_ARGS__)
#define NS_DEBUG(...) ns_log(NS_LOG_DEBUG, __VA_ARGS__)
void ns_log_set_level(ns_log_level level);
typedef void (*ns_log_sink_fn)(ns_log_level level, const char *line, void *user);
void ns_log_set_sink(ns_log_sink_fn fn, void *user); /* NULL: stderr again */

/* One live line on a terminal ("prepare 41% 1.2M rows 310 MB/s ETA 0:12"); on a non-terminal nothing until
 * ns_progress_end, which logs one summary line. Shown only after one second of work. One owner thread. */
typedef struct ns_progress ns_progress;
ns_progress *ns_progress_begin(const char *what, double total, const char *unit); /* total 0: unknown. NULL is fine */
void ns_progress_set(ns_progress *p, double done, const char *note);              /* cheap: rate-limited to 10 Hz */
void ns_progress_end(ns_progress **p, const char *summary);                       /* summary NULL: silent */

double ns_time_now(void); /* monotonic seconds */

#endif
