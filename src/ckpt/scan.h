/* What lies in a folder of checkpoints: complete ones, evicted ones, left-overs. Shared by checkpoint.c and average.c.
 *     ns_ckpt_entry *e; size_t n;
 *     NS_TRY(ns_ckpt_scan(&e, &n, dir, &arena, err), "look into %s", dir);     // complete checkpoints, by step           */
#ifndef NS_CKPT_SCAN_H
#define NS_CKPT_SCAN_H

#include "ckpt/checkpoint.h"

typedef struct ns_ckpt_entry {
    const char *name; /* folder name */
    int is_last;      /* ends in -last */
    ns_ckpt_state state;
} ns_ckpt_entry;

/* Complete checkpoints (DONE and state.json), sorted by step, then name. A folder that does not exist has none. */
NS_MUST_USE ns_status ns_ckpt_scan(ns_ckpt_entry **out, size_t *n, const char *dir, ns_arena *arena, ns_error *err);
/* Folders of others with a model in them (any format) and a step in their names: "…step=1000…", else the number at the end. Only name,
 * is_last and state.step are set. */
NS_MUST_USE ns_status ns_ckpt_scan_models(ns_ckpt_entry **out, size_t *n, const char *dir, ns_arena *arena,
                                          ns_error *err);
/* Removes .*.tmp, and .*.old whose replacement is in place; a lone .*.old that is complete goes back to its name. */
NS_MUST_USE ns_status ns_ckpt_clean(const char *dir, ns_error *err);
/* Takes a checkpoint away: it vanishes under its name at once (renamed to .name.tmp), then its files go. */
NS_MUST_USE ns_status ns_ckpt_retire(const char *dir, const char *name, ns_error *err);

typedef struct ns_ckpt_evicted {
    int64_t step;
    double val_loss;
} ns_ckpt_evicted;
/* evicted.json: what top-k removed. An absent file is an empty list. */
NS_MUST_USE ns_status ns_ckpt_evicted_read(ns_ckpt_evicted **out, size_t *n, const char *dir, ns_arena *arena,
                                           ns_error *err);
NS_MUST_USE ns_status ns_ckpt_evicted_add(const char *dir, const ns_ckpt_entry *e, ns_error *err);

/* Parameter-table hash in state.json. */
NS_MUST_USE ns_status ns_ckpt_read_param_hash(char hash[17], const char *ckpt, ns_error *err);

#endif
