/* Pack files: samples -> <base>.input_ids.npy, .loss_mask.npy, .seq_start_id.npy (data.md §5.5), readable by the original.
 *
 *     ns_packs_write(&set, base, &options, &sum, err);          // one pack size
 *     ns_packs_merge(prefixes, n, output_prefix, err);          // several packs into one
 * Beside them <base>.meta.json says what they were made from, so that a merge can tell packs that do not belong together. */
#ifndef NS_PACK_PACKS_H
#define NS_PACK_PACKS_H

#include "base/threads.h"
#include "data/rows.h"
#include "pack/bins.h"

typedef struct ns_pack_set { /* samples of several files, one after another */
    const ns_examples *file;
    int n_files;
    char *const *path; /* NULL, or of the files: named in messages */
} ns_pack_set;

typedef struct ns_pack_options {
    int32_t size; /* tokens of a pack */
    ns_pack_algorithm how;
    uint32_t seed;
    int64_t chunk; /* split_packing_length: at most that many samples are packed together */
    int64_t max_seq_length;
    int64_t cp;
    int32_t eos;
    int exact_mask; /* 1: a position is trained iff its label is a target; 0: the original's rule */
    const char *tokenizer;
    char tokenizer_hash[17]; /* pack_files.h */
    ns_threads *pool;        /* NULL: one thread; the files are the same for any number */
} ns_pack_options;

typedef struct ns_pack_sum {
    int64_t packs, samples, tokens, skipped; /* skipped: samples without any token */
    double fill;                             /* sum over packs of tokens / size */
    double assign_s, write_s;                /* seconds it took */
} ns_pack_sum;

NS_MUST_USE ns_status ns_packs_write(const ns_pack_set *set, const char *base, const ns_pack_options *o,
                                     ns_pack_sum *sum, ns_error *err);
/* Logs efficiency and sequences a pack of the whole set, in the original's words: the caller's last lines. */
void ns_packs_report(const ns_pack_options *o, const ns_pack_sum *sum);
NS_MUST_USE ns_status ns_packs_merge(const char *const *prefix, size_t n, const char *output, ns_error *err);

#endif
