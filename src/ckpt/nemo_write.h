/* A model as a NeMo folder (training.md §5.1-5.3): model_config.yaml, model_weights/ in torch_dist or zarr layout, and a folder
 * "tokenizer" with the tokenizer's files and the Hugging Face config.json; as a sink (sink.h).
 *     ns_nemo_args a = {.table = &t, .dt = NS_DTYPE_BF16, .dist_format = "torch_dist"};
 *     NS_TRY(ns_nemo_sink(&sink, tmp, &a, err), "write");              // into an existing directory (ns_dir_begin)         */
#ifndef NS_CKPT_NEMO_WRITE_H
#define NS_CKPT_NEMO_WRITE_H

#include "ckpt/sink.h"

typedef struct ns_nemo_args {
    const ns_param_table *table;
    ns_dtype dt;
    const char *dist_format;    /* torch_dist, zarr */
    const char *tokenizer_dir;  /* NULL: none */
    const char *tokenizer_name; /* what model_config.yaml names; NULL: the folder "tokenizer" */
} ns_nemo_args;

NS_MUST_USE ns_status ns_nemo_sink(ns_sink **out, const char *dir, const ns_nemo_args *a, ns_error *err);

#endif
