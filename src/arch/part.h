/* The part of a model that one tensor-parallel rank holds (training.md 4.2): a smaller architecture of the same layers, whose
 * storage parameters are row or column blocks of the whole model's. Ops and layout see only the small one; files only the whole.
 *
 *     NS_TRY(ns_part_arch(&mine, &whole, rank, size, err), "tensor parallel");   // heads, ffn, vocabulary divided
 *     ns_part_take(&whole, i, rank, size, global, local);                        // values of parameter i: global -> local
 *     ns_part_put(&whole, i, rank, size, local, global);                         // and back into its place
 *
 * Pipeline parallel: whole layers of consecutive numbers, one stage after another (ns_part_layers); the first stage has the
 * embedding, the last the final norm and the head (when tied, the embedding too).
 *
 * qkv: whole groups of heads (q, k and v block); gate_up: both blocks; o, down: columns; embedding, head: rows of the vocabulary,
 * rounded up to equal numbers (rows past the end are zero); norms: whole on every rank. */
#ifndef NS_ARCH_PART_H
#define NS_ARCH_PART_H

#include "arch/params.h"

/* Err: NS_ERR_CONFIG naming what does not divide and the sizes that would do. */
NS_MUST_USE ns_status ns_part_arch(ns_arch *mine, const ns_arch *whole, int rank, int size, ns_error *err);
/* t: table of the whole model; local has the rows and columns of the small one's parameter i. */
void ns_part_take(const ns_param_table *t, int param, int rank, int size, const float *global, float *local);
void ns_part_put(const ns_param_table *t, int param, int rank, int size, const float *local, float *global);
/* First row of the vocabulary that the rank has, and how many of its rows are real words (may be 0). */
void ns_part_vocab(const ns_arch *whole, int rank, int size, int64_t *first, int64_t *n);

/* Layers of a pipeline stage. When they do not divide, the middle stages have one more, then the first: the last has the head.
 * Err: NS_ERR_CONFIG when there are more stages than layers. */
NS_MUST_USE ns_status ns_part_layers(const ns_arch *whole, int stage, int stages, int *first, int *n, ns_error *err);
/* 1: parameter `param` lies on the stage that has layers [first, first + n). */
int ns_part_holds(const ns_param_table *t, int param, int first, int n);

#endif
