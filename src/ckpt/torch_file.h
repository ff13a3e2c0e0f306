/* A torch.save file (training.md §5.5): a zip of stored members, data.pkl and one member a storage.
 *     ns_torch_file f; NS_TRY(ns_torch_open(&f, data, size, "x.pt", &arena, err), "...");
 *     const ns_pk *w = ns_pk_get(f.root, "weight"); ns_box p; ns_dtype dt; int64_t shape[8]; int nd;
 *     NS_TRY(ns_torch_tensor(&f, w, &p, &dt, shape, &nd, err), "...");     // p points into data
 * Everything lives in `arena` and `data`. */
#ifndef NS_CKPT_TORCH_FILE_H
#define NS_CKPT_TORCH_FILE_H

#include "ckpt/archive.h"
#include "ckpt/pickle.h"

typedef struct ns_zip_member {
    const char *name; /* without the top folder */
    const unsigned char *data;
    uint64_t size;
    ns_crc *crc;
} ns_zip_member;

typedef struct ns_torch_file {
    const char *where;
    ns_zip_member *m; /* sorted by name */
    size_t n;
    ns_pk *root;
    ns_arena *arena;
} ns_torch_file;

NS_MUST_USE ns_status ns_torch_open(ns_torch_file *f, const unsigned char *data, size_t size, const char *where,
                                    ns_arena *arena, ns_error *err);
int ns_torch_is_tensor(const ns_pk *v);
/* The tensor v as one piece at offset 0 (strides honoured). */
NS_MUST_USE ns_status ns_torch_tensor(const ns_torch_file *f, const ns_pk *v, ns_box *p, ns_dtype *dt, int64_t shape[8],
                                      int *nd, ns_error *err);

#endif
