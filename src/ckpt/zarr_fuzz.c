/* Any bytes as a zarr array: text up to the first NUL is .zarray, the rest is every one of its chunks; its first and last row. */
#include "ckpt/dist_read.h"
#include "ckpt/fuzz_tar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(ns_tree *t)
{
    ns_archive a;
    ns_error err = NS_ERROR_INIT;
    float row[4096];
    ns_archive_init(&a, "fuzz");
    ns_status st = ns_zarr_read(&a, t, "", &err);
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
    static const char *const chunks[] = {"w/0",   "w/1",   "w/0.0",   "w/0.1",   "w/1.0",  "w/1.1",
                                         "w/0/0", "w/0/1", "w/0.0.0", "w/1.0.0", "w/0.1.0"};
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t head = nul ? (size_t)(nul - data) : size;
    fuzz_tar x;
    if (!fuzz_tar_begin(&x)) return 0;
    fuzz_tar_add(&x, "w/.zarray", data, head);
    for (size_t i = 0; nul && i < sizeof chunks / sizeof chunks[0]; i++)
        fuzz_tar_add(&x, chunks[i], nul + 1, size - head - 1);
    ns_tree *t = fuzz_tar_open(&x);
    if (t) read_all(t);
    ns_tree_close(&t);
    fuzz_tar_end(&x);
    return 0;
}
