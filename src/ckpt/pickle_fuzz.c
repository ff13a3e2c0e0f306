/* Any bytes as a pickle: parse, and look at what readers look at. */
#include "ckpt/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ns_arena a = NS_ARENA_INIT("fuzz");
    ns_error err = NS_ERROR_INIT;
    ns_pk *root = NULL;
    int64_t ints[8];
    if (ns_pickle_parse(&root, &a, data, size, "fuzz", &err) == NS_OK) {
        NS_ASSERT(root);
        (void)ns_pk_get(root, "state_dict_metadata");
        (void)ns_pk_ints(root, ints);
        for (size_t i = 0; root->kind == NS_PK_DICT && i < root->n; i++) (void)ns_pk_ints(root->item[2 * i + 1], ints);
    } else {
        NS_ASSERT(err.code != NS_OK && err.msg[0]);
    }
    ns_arena_free(&a);
    return 0;
}
