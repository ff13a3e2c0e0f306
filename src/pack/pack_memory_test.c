/* A program of its own: the allocator's peak is that of packing alone. */
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/testing.h"
#include "pack/packs.h"

/* Packing keeps at most 64 bytes a sample in memory, and buffers: the tokens are in a file. */
static void memory_of_packing(void **state)
{
    (void)state;
    enum { N = 150000, BUFFERS = 12 << 20 };
    ns_error err = NS_ERROR_INIT;
    char path[400], dir[256];
    ns_tok *demo = NULL;
    ns_examples rows;
    ns_test_tmpdir(dir, sizeof dir);
    assert_ns_ok(ns_tok_load(&demo, NS_SOURCE_DIR "/examples/demo/tokenizer", &err), &err);
    snprintf(path, sizeof path, "%s/many.jsonl", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < N; i++)
        fprintf(f,
                "{\"input\": \"What is %d plus %d, and what of it if one adds another %d, which nobody asked? \", "
                "\"output\": \"It is %d, of course, and then %d, as one sees after a while of thinking about it.\"}\n",
                i, i * 7 % 13, i % 97, i + i * 7 % 13, i + i % 97);
    assert_int_equal(fclose(f), 0);
    ns_rows_options r = NS_ROWS_OPTIONS_DEFAULT;
    ns_pack_options o = {
        .size = 4096, .how = NS_PACK_BEST_FIT, .chunk = 100000, .max_seq_length = 4096, .cp = 1, .tokenizer = "x"};
    ns_pack_set set = {&rows, 1, NULL};
    ns_pack_sum sum;
    uint64_t before = ns_mem_get_stats().bytes_now;
    r.spool = dir;
    assert_ns_ok(ns_rows_load(&rows, path, demo, &r, NULL, &err), &err);
    snprintf(path, sizeof path, "%s/many", dir);
    assert_ns_ok(ns_packs_write(&set, path, &o, &sum, &err), &err);
    uint64_t peak = ns_mem_get_stats().bytes_peak - before;
    print_message("# %d samples, %lld tokens (%lld MB): %.1f MB at most\n", N, (long long)rows.n_ids,
                  (long long)rows.n_ids * 4 >> 20, (double)peak / 1048576);
    assert_int_equal(sum.samples, N);
    assert_true(rows.n_ids * 4 > 64 * N + BUFFERS); /* it would be seen if they were in memory */
    assert_true(peak < 64 * N + BUFFERS);
    ns_examples_free(&rows);
    ns_tok_free(&demo);
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(memory_of_packing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
