/* state.json as text, for checkpoint.c (format: ckpt_state.c).
 *     ns_buf b = {0}; NS_TRY(ns_ckpt_state_json(&b, state, table->hash, err), "...");                    */
#ifndef NS_CKPT_CKPT_STATE_H
#define NS_CKPT_CKPT_STATE_H

#include "base/buf.h"
#include "ckpt/checkpoint.h"

NS_MUST_USE ns_status ns_ckpt_state_json(ns_buf *out, const ns_ckpt_state *s, const char *param_hash, ns_error *err);

#endif
