/* Inside of src/jobs. */
#ifndef NS_JOBS_PRIV_H
#define NS_JOBS_PRIV_H

#include <stddef.h>

#include "base/error.h"

enum { JOBS_PATH = 4096 };

#define JOBS_TRY(call)                          \
    do {                                        \
        ns_status jobs_st_ = (call);            \
        if (jobs_st_ != NS_OK) return jobs_st_; \
    } while (0)
#define JOBS_NEED(p)                    \
    do {                                \
        if (!(p)) return NS_ERR_MEMORY; \
    } while (0)

/* A path into a buffer of JOBS_PATH bytes; too long is an error that names it. */
NS_MUST_USE ns_status jobs_path(char out[JOBS_PATH], ns_error *err, const char *fmt, ...) NS_PRINTF(3, 4);
/* Seconds and counter at the end of an experiment id. */
void jobs_id_time(const char *path, long *seconds, long *k);
double jobs_now(void); /* Unix seconds */

#endif
