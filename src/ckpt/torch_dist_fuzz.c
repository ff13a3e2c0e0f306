/* Any bytes as a torch_dist checkpoint: 4 bytes length (little-endian), so much .metadata, the rest is __0_0.distcp and __1_0.distcp;
 * the first and last row of every tensor. */
#include "ckpt/dist_read.h"
#include "ckpt/fuzz_tar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(ns_tree *t)
{
    ns_archive a;
    ns_error err = NS_ERROR_INIT;
    float row[4096];
    ns_archive_init(&a, "fuzz");
    ns_status st = ns_torch_dist_read(&a, t, "", &err);
    if (st == NS_OK) st = ns_archive_check(&a, &err);
    if (st != NS_OK) NS_ASSERT(err.code != NS_OK && err.msg[0]);
    for (size_t i = 0; st == NS_OK && i < a.n; i++) {
        ns_arc_tensor *x = &a.t[i];
        int lead = x->nd == 3;
        if (x->nd < 1 || x->nd > 3 || x->n == 0 || x->n / x->shape[0] > 4096) continue;
        (void)!ns_archive_rows(x, lead ? 0 : -1, 0, 1, row, &err);
        (void)!ns_archive_rows(x, lead ? x->shape[0] - 1 : -1, x->shape[lead] - 1, 1, row, &err);
    }
    ns_archive_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_tar x;
    if (size < 4 || !fuzz_tar_begin(&x)) return 0;
    size_t n = (size_t)data[0] | (size_t)data[1] << 8 | (size_t)data[2] << 16 | (size_t)data[3] << 24;
    if (n > size - 4) n = size - 4;
    fuzz_tar_add(&x, ".metadata", data + 4, n);
    fuzz_tar_add(&x, "__0_0.distcp", data + 4 + n, size - 4 - n);
    fuzz_tar_add(&x, "__1_0.distcp", data + 4 + n, size - 4 - n);
    ns_tree *t = fuzz_tar_open(&x);
    if (t) read_all(t);
    ns_tree_close(&t);
    fuzz_tar_end(&x);
    return 0;
}
