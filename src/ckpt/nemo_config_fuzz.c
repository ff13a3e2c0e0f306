/* Any bytes as model_config.yaml: what is accepted must make a table of parameters. */
#include "arch/params.h"
#include "ckpt/fuzz_tar.h"
#include "ckpt/nemo.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ns_arena arena = NS_ARENA_INIT("fuzz");
    ns_error err = NS_ERROR_INIT;
    ns_param_table table;
    ns_arch arch;
    fuzz_tar x;
    if (!fuzz_tar_begin(&x)) return 0;
    fuzz_tar_add(&x, "model_config.yaml", data, size);
    ns_tree *t = fuzz_tar_open(&x);
    if (t && ns_nemo_arch(&arch, t, &err) == NS_OK) {
        if (arch.L <= 64) NS_ASSERT(ns_param_table_build(&table, &arch, &arena, &err) == NS_OK);
    } else if (t) {
        NS_ASSERT(err.code != NS_OK && err.msg[0]);
    }
    ns_tree_close(&t);
    fuzz_tar_end(&x);
    ns_arena_free(&arena);
    return 0;
}
