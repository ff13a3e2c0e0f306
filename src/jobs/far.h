/* Results behind an ssh tunnel: brought here, their summary taken back.
 *
 *     NS_TRY(ns_far_fetch(&cluster, "/results", tmp, err), "results");           // output*.jsonl, UNFINISHED
 *     NS_TRY(ns_far_put(&cluster, text, n, "/results/metrics.json", err), "metrics"); */
#ifndef NS_JOBS_FAR_H
#define NS_JOBS_FAR_H

#include "jobs/cluster.h"

/* The words of `ssh` up to the host; none when the cluster has no tunnel. */
NS_MUST_USE ns_status ns_far_ssh(ns_words *out, ns_arena *a, const ns_cluster *c, ns_error *err);
/* Result files of folder `from` there into folder `to` here, streamed through tar: nothing is stored on the way. */
NS_MUST_USE ns_status ns_far_fetch(const ns_cluster *c, const char *from, const char *to, ns_error *err);
/* Text as file `to` there, whole or not at all. */
NS_MUST_USE ns_status ns_far_put(const ns_cluster *c, const char *text, size_t n, const char *to, ns_error *err);

#endif
