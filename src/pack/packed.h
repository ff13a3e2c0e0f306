/* Packs to train on: from pack files, or made of rows in memory.
 *
 *     ns_examples ex;                                        // one row a sequence; its ids and mask lie in the mapped files
 *     ns_packed p;                                           // which of them share a pack
 *     ns_packed_want w = {.max_seq_length = 16384, .vocab = 128256, .tokenizer_hash = hash};
 *     NS_TRY(ns_packed_read(&ex, &p, "packs/packed_16384_seed0.npy", &w, pool, err), "packs");
 *     NS_TRY(ns_packed_make(&p, &rows, 16384, NS_PACK_BEST_FIT, 0, 100000, err), "packs");       // no files
 *     NS_TRY(ns_split_packs(&split, &p, index, gbs, err), "micro-batches");                        // a pack, a micro-batch
 *
 * Reading: a sequence of n stored ids gives inputs ids[0..n-2]; position p is trained iff the stored mask has it at p (the mask
 * is aligned with inputs). What stands behind a sequence's last trained position is left out: attention is
 * causal, so it can reach neither the loss nor a gradient. That is the EOS padding of packs made for context parallel. */
#ifndef NS_PACK_PACKED_H
#define NS_PACK_PACKED_H

#include "pack/bins.h"
#include "pack/microbatch.h"

typedef struct ns_packed {
    ns_bins packs;      /* n 0: there are none. item NULL: the samples of pack i are start[i] .. start[i+1]-1 */
    int64_t most;       /* sequences of a pack at most */
    int64_t longest;    /* tokens of a pack at most */
    int64_t samples;    /* sequences in all packs */
    int64_t tokens;     /* computed on, of all packs */
    int64_t stored;     /* tokens the files have: tokens and what was left out */
    int64_t size;       /* pack size; of foreign packs: the longest as stored */
    char algorithm[24]; /* "" when read */
} ns_packed;

typedef struct ns_packed_want {
    int64_t max_seq_length;                 /* no pack may be longer */
    int64_t vocab;                          /* ids are smaller */
    const char *tokenizer_hash, *tokenizer; /* what the model uses: pack_files.h; its path */
} ns_packed_want;

/* Is this the name of packs (NAME.npy, which need not exist, or NAME.input_ids.npy)? */
int ns_packed_is_name(const char *path);
NS_MUST_USE ns_status ns_packed_read(ns_examples *ex, ns_packed *p, const char *name, const ns_packed_want *want,
                                     ns_threads *pool, ns_error *err);
/* Changes ex->hash: packs made in another way are other data. */
NS_MUST_USE ns_status ns_packed_make(ns_packed *p, ns_examples *ex, int32_t size, ns_pack_algorithm how, uint32_t seed,
                                     int64_t chunk, ns_error *err);
void ns_packed_free(ns_packed *p);
/* packs with a negative number (padding of a short batch) are left out. */
void ns_split_packs(ns_mb_split *s, const ns_packed *p, const int64_t *index, int64_t n);
/* Rows of one global batch into packs of at most `size` tokens, by the algorithm: a global batch of so many examples. */
NS_MUST_USE ns_status ns_split_into_packs(ns_mb_split *s, const ns_examples *ex, const int64_t *rows, int64_t n,
                                          int32_t size, ns_pack_algorithm how, uint32_t seed, ns_error *err);
/* The most of these rows that fit into `size` tokens. */
NS_MUST_USE ns_status ns_packed_most(int64_t *most, const ns_examples *ex, int32_t size, ns_error *err);

#endif
