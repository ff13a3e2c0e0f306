/* The three arrays of a pack and what <prefix>.meta.json says of them (data.md §5.5); shared by merging and by training.
 *
 *     ns_pack_files f;
 *     NS_TRY(ns_pack_files_open(&f, "packs/packed_16384_seed0", err), "packs");   // prefix: without .input_ids.npy
 *     const unsigned char *ids = ns_npy_row(&f.a[NS_PACK_IDS], 7);
 *     ns_pack_files_close(&f); */
#ifndef NS_PACK_PACK_FILES_H
#define NS_PACK_PACK_FILES_H

#include "pack/npy.h"
#include "tok/tok.h"

enum { NS_PACK_IDS, NS_PACK_MASK, NS_PACK_STARTS, NS_PACK_N_FILES };
extern const char *const ns_pack_suffix[NS_PACK_N_FILES]; /* "input_ids", ... */
extern const char *const ns_pack_descr[NS_PACK_N_FILES];

typedef struct ns_pack_files {
    ns_npy a[NS_PACK_N_FILES];
    int64_t size, cp, eos;    /* of the meta file; size -1: there is none */
    int64_t samples, tokens;  /* -1: not said (merged before they were kept) */
    char mask[16];            /* "original", "exact" */
    char tokenizer_hash[17];  /* "": not said */
    char tokenizer_path[512]; /* as given to ns pack */
} ns_pack_files;

/* Opens and checks that the three belong together. A missing meta file is a warning. */
NS_MUST_USE ns_status ns_pack_files_open(ns_pack_files *f, const char *prefix, ns_error *err);
void ns_pack_files_close(ns_pack_files *f);
/* Of the tokens by id and of how a text is cut: the same for any file form of one tokenizer. */
NS_MUST_USE ns_status ns_pack_tokenizer_hash(char out[17], const ns_tok *tok, ns_error *err);

#endif
