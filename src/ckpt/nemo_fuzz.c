/* Any bytes as a .nemo archive: its record, and every value of the model that it describes (tar, model_config.yaml, torch_dist,
 * zarr and legacy layouts). */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ckpt/model_source.h"
#include "ckpt/nemo.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const char *path, ns_tree *t)
{
    ns_arena arena = NS_ARENA_INIT("fuzz");
    ns_error err = NS_ERROR_INIT;
    ns_arch arch;
    ns_param_table table;
    ns_archive native, hf;
    float row[4096];
    ns_archive_init(&native, path);
    ns_archive_init(&hf, path);
    if (ns_nemo_arch(&arch, t, &err) == NS_OK && arch.L <= 64 &&
        ns_param_table_build(&table, &arch, &arena, &err) == NS_OK &&
        ns_nemo_read(&native, &hf, t, &table, &err) == NS_OK) {
        for (size_t i = 0; i < hf.n; i++) {
            ns_arc_tensor *x = &hf.t[i];
            if (x->shape[0] > 0 && (x->nd == 1 || x->shape[1] <= 4096))
                (void)!ns_archive_rows(x, -1, x->shape[0] - 1, 1, row, &err);
        }
    }
    ns_archive_free(&hf);
    ns_archive_free(&native);
    ns_arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    ns_tree *t = NULL;
    ns_error err = NS_ERROR_INIT;
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (ns_tree_open(&t, path, &err) == NS_OK)
        read_all(path, t);
    else
        NS_ASSERT(err.code != NS_OK && err.msg[0]);
    ns_tree_close(&t);
    close(fd);
    return 0;
}
