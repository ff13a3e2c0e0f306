/* A micro-batch: one flat row of T_cap tokens in S_cap segments (DESIGN.md §3, doc/batch.md).
 *
 * Every batch is packed. Segment s owns tokens [cu_seqlens[s], cu_seqlens[s+1]), positions restart at 0 in each, and
 * attention, loss and position never cross a border. Tokens from cu_seqlens[n_seg] to T_cap are the dead tail: id 0,
 * label -1, weight 0, position 0; attention skips it and writes zeros. Arrays have fixed capacity so that a step can be
 * captured and planned. label[t] is the target of position t (already shifted); weight[t] is its loss weight. */
#ifndef NS_TENSOR_BATCH_H
#define NS_TENSOR_BATCH_H

#include <stdint.h>

typedef struct ns_batch {
    int32_t T_cap, S_cap; /* capacities, fixed for a run */
    int32_t n_tok, n_seg; /* live tokens = cu_seqlens[n_seg]; live segments */
    int32_t max_len;      /* longest live segment (tokens) */
    int32_t *ids;         /* [T_cap] */
    int32_t *label;       /* [T_cap], -1 where weight is 0 */
    float *weight;        /* [T_cap] */
    int32_t *position;    /* [T_cap] */
    uint32_t *token;      /* [T_cap] number in the data set (mod 2^32), whatever the batch: dropout masks follow it */
    int32_t *cu_seqlens;  /* [S_cap+1]; entries past n_seg repeat n_tok */
    /* per segment, [S_cap] */
    int64_t *example;  /* row number in its data set, -1 dead */
    int32_t *pair;     /* preference pair number in the batch, -1 none */
    int32_t *role;     /* 0 plain, 1 chosen, 2 rejected */
    int32_t *data_set; /* index of the data set */
    int32_t *last;     /* index of the segment's last token */
    double weight_sum; /* sum of weight[] (targets when weights are 0/1) */
} ns_batch;

/* What one of several context-parallel ranks has of a batch. Its segments are pieces of the whole's: [0, S_cap/2) the first
 * pieces of all segments, then the second ones; unused ones are empty. Keys and values come from all ranks:
 * every rank sends `rows` rows, row i of all that arrives is token kv_row[i] of the whole batch. */
typedef struct ns_batch_part {
    ns_batch batch;
    int32_t T_whole, n_whole; /* capacity and live tokens of the whole batch */
    int32_t rows;             /* the most live tokens of any rank; 1 if there are none */
    int32_t *kv_start; /* [S_cap] per segment: its keys are tokens [kv_start, kv_start+kv_len) of the whole batch */
    int32_t *kv_len;   /* [S_cap] */
    int32_t *kv_row;   /* [size * T_cap], the first size * rows are used; -1: filler */
    /* For the ring, where keys and values of one rank after another pass by: its block has its segments one after another, the two
     * pieces of each side by side, so that what a piece of mine sees of it is one range. */
    int32_t *to_block, *of_block; /* [T_cap] my row t lies in row to_block[t] of my block; the reverse; -1: filler */
    int32_t *ring_start;          /* [size * S_cap] per rank and segment of mine: its keys are rows */
    int32_t *ring_len;            /* ... [ring_start, ring_start+ring_len) of that rank's block; 0: none, all masked */
    int32_t *own_row;             /* [T_whole] my row of a token of the whole batch, -1: another rank's */
} ns_batch_part;

#endif
