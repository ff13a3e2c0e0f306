/* A checkpoint written by a thread of its own while the caller goes on: ns_ckpt_save with getters that stay valid meanwhile (a snapshot).
 *
 *     NS_TRY(ns_ckpt_saver_new(&s, err), "saver");
 *     NS_TRY(ns_ckpt_saver_end(s, 1, &done, &seconds, err), "save");    // the one before, if it still writes
 *     NS_TRY(ns_ckpt_saver_start(s, &args, err), "save");
 *     ... NS_TRY(ns_ckpt_saver_end(s, 0, ...)) now and then: how it ended, once ...
 *
 * One save at a time, one rank. What is on disk at any instant is what ns_ckpt_save promises: the old checkpoint or the new one. */
#ifndef NS_CKPT_SAVER_H
#define NS_CKPT_SAVER_H

#include "ckpt/checkpoint.h"

typedef struct ns_ckpt_saver ns_ckpt_saver;

NS_MUST_USE ns_status ns_ckpt_saver_new(ns_ckpt_saver **out, ns_error *err);
/* Copies name and state; everything else a points to must live until the save has ended. None may be under way. */
NS_MUST_USE ns_status ns_ckpt_saver_start(ns_ckpt_saver *s, const ns_ckpt_save_args *a, ns_error *err);
int ns_ckpt_saver_busy(const ns_ckpt_saver *s); /* 1 from start until ns_ckpt_saver_end has told the end; NULL: 0 */
/* *ended 1 once for each save that has ended (wait 1: waits for it): its error is returned then, *seconds is how long it wrote. */
NS_MUST_USE ns_status ns_ckpt_saver_end(ns_ckpt_saver *s, int wait, int *ended, double *seconds, ns_error *err);
/* Waits for the save under way; a failure of it, which nobody asked for, is a warning. */
void ns_ckpt_saver_free(ns_ckpt_saver **s);

#endif
