/* A model as one GGUF file, as a sink (sink.h): metadata, tensors in the types of a quantisation ("f32", "f16", "bf16", "q8_0", "q6_k",
 * "q4_k_m": which tensors get more bits is llama.cpp's choice).
 *     ns_gguf_kv kv = {0}; NS_TRY(ns_gguf_kv_str(&kv, "tokenizer.ggml.model", text, err), "..."); ...
 *     ns_gguf_args a = {.table = &t, .quant = "q4_k_m", .kv = &kv, .name = "model"};
 *     NS_TRY(ns_gguf_sink(&sink, "tmp/model.gguf", &a, err), "write");                                               */
#ifndef NS_CKPT_GGUF_WRITE_H
#define NS_CKPT_GGUF_WRITE_H

#include "base/buf.h"
#include "ckpt/gguf.h"
#include "ckpt/sink.h"

typedef struct ns_gguf_kv {
    ns_buf b;
    uint64_t n;
} ns_gguf_kv;
NS_MUST_USE ns_status ns_gguf_kv_u32(ns_gguf_kv *k, const char *key, uint32_t v, ns_error *err);
NS_MUST_USE ns_status ns_gguf_kv_f32(ns_gguf_kv *k, const char *key, double v, ns_error *err);
NS_MUST_USE ns_status ns_gguf_kv_bool(ns_gguf_kv *k, const char *key, int v, ns_error *err);
NS_MUST_USE ns_status ns_gguf_kv_str(ns_gguf_kv *k, const char *key, ns_str v, ns_error *err);
NS_MUST_USE ns_status ns_gguf_kv_strs(ns_gguf_kv *k, const char *key, const ns_str *v, size_t n, ns_error *err);
/* n items of `type` (4 bytes each: F32, I32). */
NS_MUST_USE ns_status ns_gguf_kv_items(ns_gguf_kv *k, const char *key, ns_gguf_type type, const void *v, size_t n,
                                       ns_error *err);
void ns_gguf_kv_free(ns_gguf_kv *k);

typedef struct ns_gguf_args {
    const ns_param_table *table;
    const char *quant;    /* above */
    const ns_gguf_kv *kv; /* tokenizer */
    const char *name;     /* general.name */
} ns_gguf_args;
NS_MUST_USE ns_status ns_gguf_sink(ns_sink **out, const char *path, const ns_gguf_args *a, ns_error *err);

#endif
