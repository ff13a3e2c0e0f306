/* Running commands by argv: no shell in between, output caught, time bounded. */
#ifndef NS_JOBS_PROC_H
#define NS_JOBS_PROC_H

#include <stdint.h>

#include "jobs/words.h"

typedef struct ns_proc_result {
    ns_buf out, err; /* what it wrote; more than 64 MB is an error, not cut */
    int rc;          /* exit code; 128 + signal; 127: there is no such program */
} ns_proc_result;

/* Runs argv (NULL-terminated) with `input` (may be NULL) on its stdin. `timeout_s` 0: none; past it the program is killed and
 * the call fails (NS_ERR_IO). A bad exit code is not a failure of the call. */
NS_MUST_USE ns_status ns_proc_run(ns_proc_result *r, const char *const *argv, const void *input, size_t n_input,
                                  double timeout_s, ns_error *err);
void ns_proc_free(ns_proc_result *r);
/* The first line of what it said on stderr (or stdout), for messages. */
void ns_proc_said(char *out, size_t n, const ns_proc_result *r);
/* 1: a program of that name is in $PATH. */
int ns_proc_exists(const char *name);
/* Start time of a process in clock ticks (0: no such process, or a zombie). */
uint64_t ns_proc_ticks(int64_t pid);

#endif
