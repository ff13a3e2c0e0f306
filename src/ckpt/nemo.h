/* A NeMo container (folder or .nemo tar; training.md §5.1-5.4) as a Hugging Face model: its record, and its tensors by
 * Hugging Face name. Weights: torch_dist, zarr, or legacy model_weights.ckpt and [tp_|mp_]rank folders.
 *     ns_tree *t; NS_TRY(ns_tree_open(&t, "m.nemo", err), "..."); NS_TRY(ns_nemo_arch(&a, t, err), "...");
 *     NS_TRY(ns_nemo_read(&native, &hf, t, &table, err), "...");    // hf's pieces point into native and t: keep both     */
#ifndef NS_CKPT_NEMO_H
#define NS_CKPT_NEMO_H

#include "arch/params.h"
#include "ckpt/archive.h"

NS_MUST_USE ns_status ns_nemo_arch(ns_arch *a, ns_tree *t, ns_error *err);
/* Tensors as they are named in the container, without the prefixes "model." and "module.". */
NS_MUST_USE ns_status ns_nemo_native(ns_archive *native, ns_tree *t, const char **kind, ns_error *err);
NS_MUST_USE ns_status ns_nemo_read(ns_archive *native, ns_archive *hf, ns_tree *t, const ns_param_table *p,
                                   ns_error *err);
/* NeMo name of a storage parameter's tensor, below "decoder.layers." for those of layers. */
const char *ns_nemo_name(ns_kind kind);

#endif
