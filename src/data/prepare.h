/* Preparing data: a configuration that lists processors -> files of rows (data.md §1.4, §2).
 *
 *     ns_config *c;                                  // one of ns_prepare_configs, overridden
 *     NS_TRY(ns_prepare_run(c, pool, NULL, err), "prepare");
 *
 * Processors, by the last part of `_target_`: ReadData, MergeProcessor, the filters of prepare_filters.c, RenameFields,
 * GroupSamples, CodeTextFilter, ShuffleAndDownsampleData, WriteFinalSftManifest, WriteFinalRLManifest. The output bytes
 * depend on inputs and options only. */
#ifndef NS_DATA_PREPARE_H
#define NS_DATA_PREPARE_H

#include "base/config.h"
#include "base/threads.h"

/* name, YAML text, name, YAML text, ..., NULL: math_sft (default), code_sft, math_rl */
extern const char *const ns_prepare_configs[];

/* statistics (may be NULL) gets one JSON object: what was read, what every processor and filter removed and changed. The
 * same is written beside the output (++stats_file). */
NS_MUST_USE ns_status ns_prepare_run(ns_config *c, ns_threads *pool, ns_buf *statistics, ns_error *err);
/* For a signal handler that ends the process: removes the unfinished output files. Async-signal-safe. */
void ns_prepare_remove_unfinished(void);

#endif
