/* Errors, allocator, arena, buffer: the rules that everything else relies on. */
#include "base/testing.h"

#include "base/buf.h"
#include "base/mem.h"

static ns_status leaf(ns_error *err)
{
    NS_FAIL(NS_ERR_INPUT, "data.jsonl:3: found %d, expected %d", 1, 2);
}
static ns_status middle(ns_error *err)
{
    NS_TRY(leaf(err), "load %s", "rows");
    return NS_OK;
}

static void chain_names_everything(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char text[512];
    assert_int_equal(middle(&err), NS_ERR_INPUT);
    assert_string_equal(ns_error_text(&err, text, sizeof text), "load rows: data.jsonl:3: found 1, expected 2");
    assert_int_equal(middle(NULL), NS_ERR_INPUT);
    ns_error_set(&err, NS_ERR_IO, "f", 1, "second");
    assert_int_equal(err.code, NS_ERR_INPUT); /* the first error wins */
}

static void nth_allocation_fails(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    void *a = NULL, *b = NULL;
    ns_mem_fail_at(2, 0);
    assert_ns_ok(ns_alloc(&a, 10, "first", &err), &err);
    assert_false(ns_mem_fault_hit());
    assert_ns_fails(ns_alloc(&b, 10, "second", &err), NS_ERR_MEMORY, "second", &err);
    assert_true(ns_mem_fault_hit());
    assert_ns_ok(ns_alloc(&b, 10, "third", &err), &err);
    ns_mem_fail_at(0, 0);
    ns_free(a);
    ns_free(b);
    assert_ns_fails(ns_alloc(&b, SIZE_MAX, "huge", &err), NS_ERR_MEMORY, "huge", &err);
}

static void arena_rolls_back(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    uint64_t before = ns_mem_get_stats().bytes_now;
    char *s = ns_arena_strdup(&a, "keep", &err);
    ns_arena_mark m = ns_arena_save(&a);
    char *x = ns_arena_alloc(&a, 100, &err);
    memset(x, 7, 100);
    ns_arena_alloc(&a, 200000, &err);
    ns_arena_rollback(&a, m);
    char *y = ns_arena_alloc(&a, 100, &err);
    assert_ptr_equal(x, y);
    assert_int_equal(y[50], 0);
    assert_string_equal(s, "keep");
    ns_arena_free(&a);
    m = ns_arena_save(&a); /* back to empty: the first block stays, zeroed, and free still frees all */
    x = ns_arena_alloc(&a, 100, &err);
    memset(x, 7, 100);
    ns_arena_alloc(&a, 200000, &err);
    ns_arena_rollback(&a, m);
    uint64_t calls = ns_mem_get_stats().n_alloc;
    y = ns_arena_alloc(&a, 100, &err);
    assert_ptr_equal(x, y);
    assert_int_equal(y[0] | y[99], 0);
    assert_int_equal(ns_mem_get_stats().n_alloc, calls);
    ns_arena_free(&a);
    assert_int_equal(ns_mem_get_stats().bytes_now, before);
}

static void buffer_and_suggestion(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    assert_ns_ok(ns_buf_reserve(&b, 100, &err), &err);
    assert_string_equal(b.data, ""); /* a string before anything is appended */
    for (int i = 0; i < 1000; i++) assert_ns_ok(ns_buf_printf(&b, &err, "%d,", i), &err);
    assert_int_equal(b.len, 10 * 2 + 90 * 3 + 900 * 4);
    assert_int_equal(b.data[b.len], 0);
    ns_buf_free(&b);
    const char *names[] = {"micro_batch_size", "global_batch_size", "max_seq_length"};
    assert_string_equal(ns_suggest("mirco_batch_size", names, 3), "micro_batch_size");
    assert_null(ns_suggest("zzz", names, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(chain_names_everything), cmocka_unit_test(nth_allocation_fails),
                                       cmocka_unit_test(arena_rolls_back), cmocka_unit_test(buffer_and_suggestion)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
