/* Any bytes as config.json: what is accepted must make a table, a small rotary table, and survive being written and read. */
#include <string.h>

#include "arch/params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ns_arena arena = NS_ARENA_INIT("fuzz");
    ns_error err = NS_ERROR_INIT;
    ns_json *j = NULL;
    ns_arch a, b;
    ns_buf out = {0};
    if (ns_json_parse(&j, &arena, (const char *)data, size, "fuzz", 0, &err) != NS_OK) goto done;
    if (ns_arch_from_json(&a, j, "fuzz", &err) != NS_OK) {
        NS_ASSERT(err.code != NS_OK && err.msg[0]);
        goto done;
    }
    NS_ASSERT(ns_arch_write_json(&out, &a, j, &err) == NS_OK);
    NS_ASSERT(ns_json_parse(&j, &arena, out.data, out.len, "written", 0, &err) == NS_OK);
    NS_ASSERT(ns_arch_from_json(&b, j, "written", &err) == NS_OK);
    NS_ASSERT(memcmp(&a, &b, sizeof a) == 0);
    if (a.L <= 64) {
        ns_param_table t;
        NS_ASSERT(ns_param_table_build(&t, &a, &arena, &err) == NS_OK);
    }
    if (a.head_dim <= 256) {
        float table[2 * 256];
        ns_arch_rope_table(&a, table, 2);
    }
done:
    ns_buf_free(&out);
    ns_arena_free(&arena);
    return 0;
}
