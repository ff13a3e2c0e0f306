/* A model as a Hugging Face folder, as a sink (model_io.h writes whole parameters in order instead).                          */
#ifndef NS_CKPT_HF_WRITE_H
#define NS_CKPT_HF_WRITE_H

#include "ckpt/sink.h"

NS_MUST_USE ns_status ns_hf_sink(ns_sink **out, const char *dir, const ns_param_table *t, ns_dtype dt,
                                 int64_t max_shard_bytes, const char *tokenizer_dir, ns_error *err);

#endif
