/* Block types of GGUF files: rows of f32 into blocks and back. Layouts and rounding are those of ggml's reference functions
 * (ggml-quants.c, quantize_row_*_ref and dequantize_row_*), so values equal what llama.cpp and the gguf package compute.
 *     const ns_ggml *q = ns_ggml_find(NS_GGML_Q4_K);  ns_ggml_pack(q, bytes, values, n);  ns_ggml_unpack(q, values, bytes, n);
 * n is a multiple of q->block. */
#ifndef NS_CKPT_GGML_H
#define NS_CKPT_GGML_H

#include <stdint.h>

#include "tensor/dtype.h"

enum { /* numbers of the file format */
       NS_GGML_F32 = 0,
       NS_GGML_F16 = 1,
       NS_GGML_Q4_0 = 2,
       NS_GGML_Q4_1 = 3,
       NS_GGML_Q5_0 = 6,
       NS_GGML_Q5_1 = 7,
       NS_GGML_Q8_0 = 8,
       NS_GGML_Q4_K = 12,
       NS_GGML_Q5_K = 13,
       NS_GGML_Q6_K = 14,
       NS_GGML_BF16 = 30
};

typedef struct ns_ggml {
    int type;
    const char *name;
    int64_t block, bytes; /* elements and bytes of a block */
    ns_dtype dt;          /* plain types: theirs; else F32 */
    int can_pack;
} ns_ggml;

const ns_ggml *ns_ggml_find(int type); /* NULL: not known */
static inline int ns_ggml_is_plain(const ns_ggml *q)
{
    return q->block == 1;
}
void ns_ggml_pack(const ns_ggml *q, void *out, const float *x, int64_t n);
void ns_ggml_unpack(const ns_ggml *q, float *out, const void *p, int64_t n);
/* The same without vector instructions: for tests. */
void ns_ggml_pack_plain(const ns_ggml *q, void *out, const float *x, int64_t n);
void ns_ggml_unpack_plain(const ns_ggml *q, float *out, const void *p, int64_t n);

#endif
