/* The two distributed layouts of Megatron (training.md §5.3) into an archive: torch_dist (.metadata, *.distcp) and zarr.
 *     NS_TRY(ns_torch_dist_read(&archive, tree, "model_weights", err), "read weights");
 * Optimiser tensors and extra states are left out. The archive's pieces point into the tree: it must outlive them. */
#ifndef NS_CKPT_DIST_READ_H
#define NS_CKPT_DIST_READ_H

#include "ckpt/archive.h"

NS_MUST_USE ns_status ns_torch_dist_read(ns_archive *a, ns_tree *t, const char *dir, ns_error *err);
NS_MUST_USE ns_status ns_zarr_read(ns_archive *a, ns_tree *t, const char *dir, ns_error *err);
/* "torch_dist", "zarr", "zarr 3" (not read) or "" by what lies in dir of the tree. */
const char *ns_dist_kind(const ns_tree *t, const char *dir);

#endif
