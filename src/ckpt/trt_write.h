/* A model as a TensorRT-LLM checkpoint (training.md §5.7): config.json and one rank<r>.safetensors a GPU, cut over tp x pp; as a
 * sink (sink.h).
 *     ns_trt_args a = {.table = &t, .dt = NS_DTYPE_BF16, .tp = 8, .pp = 1};
 *     NS_TRY(ns_trt_sink(&sink, tmp, &a, err), "write");                                  // into an existing directory
 * The sink takes rows of type dt, f32 if packed (dt is then the type of what is not a matrix, and of the scales).
 * Quantised to FP8: NVIDIA's Model Optimizer (0.40, modelopt/torch/export) is the model of names, scales and bytes.
 * `trtllm-build --checkpoint_dir DIR` makes the engine of it. */
#ifndef NS_CKPT_TRT_WRITE_H
#define NS_CKPT_TRT_WRITE_H

#include "ckpt/sink.h"
#include "ckpt/trt_layout.h"

typedef struct
    ns_trt_fp8_layer { /* largest magnitudes, by ns_trt_matrix: of the weights, of what they are multiplied with */
    float w[NS_TRT_KINDS], x[NS_TRT_KINDS];
    float k, v; /* of keys and values */
} ns_trt_fp8_layer;

typedef struct ns_trt_args {
    const ns_param_table *table;
    ns_dtype dt;
    int tp, pp;
    int bits; /* 8, 4: weight-only quantisation of the layers' matrices; 0: none */
    int packed; /* bits: the integers are written, for compute capability 7.5 to 8.9 (trt_quant.h); 0: the weights as they are, and
                   TensorRT-LLM quantises them when it loads them, for whatever GPU it runs on */
    const ns_trt_fp8_layer *fp8; /* [L], must outlive the sink: matrices in e4m3, one scale each; NULL: no */
    int fp8_kv;                  /* fp8: the key/value cache too */
} ns_trt_args;

NS_MUST_USE ns_status ns_trt_sink(ns_sink **out, const char *dir, const ns_trt_args *a, ns_error *err);

#endif
