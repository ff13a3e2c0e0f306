/* Any bytes as a torch.save file: open, take every tensor of its dictionary, read a row of each. */
#include "ckpt/torch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ns_archive a;
    ns_torch_file f;
    ns_error err = NS_ERROR_INIT;
    ns_archive_init(&a, "fuzz");
    if (ns_torch_open(&f, data, size, "fuzz", &a.arena, &err) == NS_OK && f.root->kind == NS_PK_DICT) {
        for (size_t i = 0; i < f.root->n; i++) {
            ns_box p;
            ns_dtype dt;
            ns_arc_tensor *t;
            int64_t shape[8];
            int nd;
            float row[256];
            ns_error why = NS_ERROR_INIT;
            if (ns_torch_tensor(&f, f.root->item[2 * i + 1], &p, &dt, shape, &nd, &why) != NS_OK) continue;
            if (nd < 1 || nd > 2 || (nd == 2 && shape[1] > 256) || !shape[0]) continue;
            if (ns_archive_add(&a, &t, "t", dt, shape, nd, &why) != NS_OK) continue;
            if (ns_arc_box_add(&a, t, &p, &why) == NS_OK) (void)!ns_archive_rows(t, -1, shape[0] - 1, 1, row, &why);
        }
    }
    ns_archive_free(&a);
    return 0;
}
