/* Where the rows of each view lie in the files of a TensorRT-LLM checkpoint (training.md §5.7): shared by writer and reader.
 *     ns_trt_layout l; NS_TRY(ns_trt_layout_build(&l, &table, tp, pp, err), "..."); ... ns_trt_layout_free(&l);          */
#ifndef NS_CKPT_TRT_LAYOUT_H
#define NS_CKPT_TRT_LAYOUT_H

#include "arch/params.h"

/* config.json: ours, for TensorRT-LLM a word it does not know. In what order the bytes of int8 matrices are: "sm80" (trt_quant.h). */
#define NS_TRT_LAYOUT_KEY "ns_weight_only_layout"

typedef struct
    ns_trt_dest { /* rows [src, src+n) of a view, columns from col0 on, are rows from `row` on of a rank's tensor */
    int rank, tensor, next; /* next: of the same view, -1 */
    int64_t row, src, n, col0;
} ns_trt_dest;

/* Matrices of a layer; those of a kind have one fp8 scale. 0: none. */
typedef enum ns_trt_matrix {
    NS_TRT_PLAIN,
    NS_TRT_QKV,
    NS_TRT_DENSE,
    NS_TRT_GATE_UP,
    NS_TRT_DOWN,
    NS_TRT_KINDS
} ns_trt_matrix;

typedef struct ns_trt_tensor {
    char name[96];
    int64_t shape[2], rows; /* rows: that views fill; the rest are zeros */
    int nd;
    ns_trt_matrix matrix; /* of a layer: what quantisation takes */
    int layer;            /* of the whole model, -1 */
} ns_trt_tensor;

typedef struct ns_trt_rank {
    ns_trt_tensor *t;
    int n;
} ns_trt_rank;

typedef struct ns_trt_layout {
    const ns_param_table *table;
    ns_arena arena;
    int tp, pp;
    ns_trt_rank *r; /* pp * tp */
    ns_trt_dest *d;
    size_t n_dest, cap;
    int *first; /* by view: index in d, -1 */
} ns_trt_layout;

/* What other writers do and ours does not: the embedding is cut by rows (use_parallel_embedding); a tied head is not written. */
enum { NS_TRT_SPLIT_EMBEDDING = 1, NS_TRT_NO_HEAD = 2 };
/* Err: NS_ERR_CONFIG if the model cannot be cut so. */
NS_MUST_USE ns_status ns_trt_layout_build(ns_trt_layout *l, const ns_param_table *t, int tp, int pp, int how,
                                          ns_error *err);
void ns_trt_layout_free(ns_trt_layout *l);
/* "….qkv.weight" -> "….qkv.<what>": per_channel_scale, weights_scaling_factor, activation_scaling_factor. */
void ns_trt_scale_name(char out[128], const char *weight, const char *what);

#endif
