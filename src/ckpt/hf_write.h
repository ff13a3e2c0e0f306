/* A model as a Hugging Face folder, streamed by rows (model_io.h writes whole parameters instead).
 *     NS_TRY(ns_hf_write(tmp, table, NS_DTYPE_BF16, max_shard_bytes, tokenizer_dir, rows, user, err), "write");               */
#ifndef NS_CKPT_HF_WRITE_H
#define NS_CKPT_HF_WRITE_H

#include "ckpt/nemo_write.h"

NS_MUST_USE ns_status ns_hf_write(const char *dir, const ns_param_table *t, ns_dtype dt, int64_t max_shard_bytes,
                                  const char *tokenizer_dir, ns_rows_fn rows, void *user, ns_error *err);

#endif
