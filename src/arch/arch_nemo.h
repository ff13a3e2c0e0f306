/* Architecture record <-> NeMo's model_config.yaml (training.md §5.1).
 *     NS_TRY(ns_arch_from_nemo(&a, text, n, "m/model_config.yaml", err), "...");    // a.vocab 0: the file does not say
 *     ns_nemo_config o = {.dist_format = "torch_dist", .tokenizer = "meta-llama/Llama-3.1-8B"};
 *     NS_TRY(ns_arch_write_nemo(&buf, &a, &o, err), "...");
 * What is not understood (layernorm1p, other activations, experts) is NS_ERR_UNSUPPORTED naming key and value. */
#ifndef NS_ARCH_ARCH_NEMO_H
#define NS_ARCH_ARCH_NEMO_H

#include "arch/arch.h"

typedef struct ns_nemo_config {
    const char *dist_format; /* zarr, torch_dist */
    const char *tokenizer;   /* a Hugging Face name or folder; NULL: the container's own folder "tokenizer" */
    ns_dtype dt;
} ns_nemo_config;

NS_MUST_USE ns_status ns_arch_from_nemo(ns_arch *a, const char *yaml, size_t n, const char *where, ns_error *err);
/* tokenizer.type of library huggingface: a Hugging Face name or a folder; "" if the file names none. */
NS_MUST_USE ns_status ns_nemo_tokenizer_type(char out[512], const char *yaml, size_t n, const char *where,
                                             ns_error *err);
NS_MUST_USE ns_status ns_arch_write_nemo(ns_buf *out, const ns_arch *a, const ns_nemo_config *o, ns_error *err);

#endif
