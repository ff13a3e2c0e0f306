/* A TensorRT-LLM checkpoint (training.md §5.7) as a Hugging Face model: every rank's file, any tp and pp, plain or weight-only
 * quantised (W8A16, W4A16; int8 matrices are read as q * scale in f32).
 *     NS_TRY(ns_trt_arch(&a, dir, err), "..."); ns_trt *t; NS_TRY(ns_trt_read(&t, &archive, dir, &table, err), "...");
 * The archive's pieces point into *t. */
#ifndef NS_CKPT_TRT_READ_H
#define NS_CKPT_TRT_READ_H

#include "arch/params.h"
#include "ckpt/archive.h"

typedef struct ns_trt ns_trt;
NS_MUST_USE ns_status ns_trt_arch(ns_arch *a, const char *dir, ns_error *err);
NS_MUST_USE ns_status ns_trt_read(ns_trt **out, ns_archive *hf, const char *dir, const ns_param_table *t,
                                  ns_error *err);
void ns_trt_close(ns_trt **t);

#endif
