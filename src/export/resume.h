/* What an interrupted export left and the next one takes over (base/scatter_log.h): tensors that are in the output already, with their
 * checksums and statistics. Only for the same input files, the same settings and the same program.
 *     ns_buf key = {0}; NS_TRY(ns_export_key(&key, args, tokenizer_dir, table, err), "...");
 *     NS_TRY(ns_export_kept(kept, stats, n_views, &n, err), "...");        // kept[v] 1: stats[v] is filled
 *     c.view_done = ...ns_export_note(v, s, err)                                                                    */
#ifndef NS_EXPORT_RESUME_H
#define NS_EXPORT_RESUME_H

#include "base/buf.h"
#include "ckpt/sink.h"
#include "export/export.h"

/* Settings, sizes and times of the files of input and tokenizer: one line. */
NS_MUST_USE ns_status ns_export_key(ns_buf *key, const ns_export_args *a, const char *tokenizer,
                                    const ns_param_table *t, ns_error *err);
NS_MUST_USE ns_status ns_export_note(int view, const ns_view_stats *s, ns_error *err);
void ns_export_kept(uint8_t *kept, ns_view_stats *stats, int n_views, int *n);

#endif
