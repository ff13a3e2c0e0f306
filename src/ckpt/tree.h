/* The files of a model, whether they lie in a folder or in a tar (`.nemo`, also gzip-compressed): relative names, each mapped when
 * asked for.
 *     ns_tree *t; NS_TRY(ns_tree_open(&t, "model.nemo", err), "open");
 *     const ns_tree_file *f = ns_tree_find(t, "model_config.yaml");            // NULL if absent
 *     NS_TRY(ns_tree_map(t, f, &data, &size, err), "read");                     // valid until ns_tree_close
 * A tar is strict: absolute names, "..", links, devices, duplicates and truncated members are errors; it is never unpacked.  */
#ifndef NS_CKPT_TREE_H
#define NS_CKPT_TREE_H

#include "base/buf.h"
#include "base/mem.h"

typedef struct ns_tree_file {
    const char *name; /* "model_weights/common.pt": no leading "./" */
    uint64_t size;
} ns_tree_file;

typedef struct ns_tree ns_tree;
NS_MUST_USE ns_status ns_tree_open(ns_tree **out, const char *path, ns_error *err);
void ns_tree_close(ns_tree **t);
const char *ns_tree_path(const ns_tree *t); /* as opened, for messages */
int ns_tree_is_tar(const ns_tree *t);
size_t ns_tree_count(const ns_tree *t);
const ns_tree_file *ns_tree_at(const ns_tree *t, size_t i); /* sorted by name */
const ns_tree_file *ns_tree_find(const ns_tree *t, const char *name);
/* 1 if any file lies below `dir` ("" : any). */
int ns_tree_has_dir(const ns_tree *t, const char *dir);
NS_MUST_USE ns_status ns_tree_map(ns_tree *t, const ns_tree_file *f, const unsigned char **data, size_t *size,
                                  ns_error *err);

#endif
