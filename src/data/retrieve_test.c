/* BM25 retrieval: the rankings of rank_bm25 (tests/golden/retrieve), the rules on what is shown, through a prompt, bad input. */
#include "data/retrieve.h"

#include "base/file.h"
#include "base/testing.h"
#include "data/prompt.h"

static const ns_json *questions(ns_arena *a, size_t *n, ns_error *err)
{
    static char path[4200];
    ns_jsonl *in;
    const char *line, *where;
    size_t len;
    ns_json *list = ns_json_new(a, NS_JSON_ARRAY, err), *row;
    snprintf(path, sizeof path, "%s/tests/golden/retrieve/expected.jsonl", NS_SOURCE_DIR);
    assert_ns_ok(ns_jsonl_open(&in, path, err), err);
    for (;;) {
        assert_ns_ok(ns_jsonl_next_line(in, &line, &len, &where, err), err);
        if (!line) break;
        const char *copy = ns_arena_strndup(a, line, len, err);
        assert_ns_ok(ns_json_parse(&row, a, copy, len, where, 0, err), err);
        assert_ns_ok(ns_json_append(list, a, row, err), err);
    }
    ns_jsonl_close(&in);
    *n = list->n;
    return list->items;
}

static const char *rows_file(void)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/tests/golden/retrieve/rows.jsonl", NS_SOURCE_DIR);
    return path;
}

static void same_ids(const ns_json *got, const ns_json *want, int backwards)
{
    assert_int_equal(got->n, want->n);
    for (size_t i = 0; i < got->n; i++) {
        int64_t have = -1, expected = -2;
        assert_true(ns_json_is_int(ns_json_get(&got->items[i], "id"), &have));
        assert_true(ns_json_is_int(&want->items[backwards ? got->n - 1 - i : i], &expected));
        assert_int_equal(have, expected);
    }
}

static void rankings(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_retriever *all, *five;
    size_t n;
    const ns_json *q = questions(&a, &n, &err), *got;
    ns_retriever_options o = {rows_file(), "problem", 10, 10, -1, "reference_solution", 0};
    assert_ns_ok(ns_retriever_open(&all, &o, &err), &err);
    o.keep = 5, o.max_chars = 50;
    assert_ns_ok(ns_retriever_open(&five, &o, &err), &err);
    assert_int_equal(n, 40);
    for (size_t i = 0; i < n; i++) {
        const ns_json *best = ns_json_get(&q[i], "best");
        if (i % 4) { /* every fourth question is a row of the file, which is left out */
            assert_ns_ok(ns_retriever_examples(all, &got, &a, &q[i], "row", &err), &err);
            same_ids(got, best, 1);
        }
        assert_ns_ok(ns_retriever_examples(five, &got, &a, &q[i], "row", &err), &err);
        same_ids(got, ns_json_get(&q[i], "shown"), 0);
    }
    ns_retriever_free(&all);
    ns_retriever_free(&five);
    ns_arena_free(&a);
}

/* The shuffled order has the same rows, is the same when asked again, and differs for some question. */
static void shuffled(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_retriever *r;
    size_t n, moved = 0;
    const ns_json *q = questions(&a, &n, &err), *one, *two;
    ns_retriever_options o = {rows_file(), "problem", 10, 5, 50, "reference_solution", 1};
    assert_ns_ok(ns_retriever_open(&r, &o, &err), &err);
    for (size_t i = 0; i < n; i++) {
        const ns_json *shown = ns_json_get(&q[i], "shown");
        int64_t sum = 0, want = 0, x, y;
        assert_ns_ok(ns_retriever_examples(r, &one, &a, &q[i], "row", &err), &err);
        assert_ns_ok(ns_retriever_examples(r, &two, &a, &q[i], "row", &err), &err);
        assert_int_equal(one->n, shown->n);
        for (size_t k = 0; k < one->n; k++) {
            assert_ptr_equal(one->items[k].items, two->items[k].items);
            assert_true(ns_json_is_int(ns_json_get(&one->items[k], "id"), &x) && ns_json_is_int(&shown->items[k], &y));
            moved += x != y;
            sum += 1 << (x % 30), want += 1 << (y % 30);
        }
        assert_int_equal(sum, want);
    }
    assert_true(moved > 10);
    ns_retriever_free(&r);
    ns_arena_free(&a);
}

static void write_text(char *path, size_t n, const char *dir, const char *name, const char *text)
{
    ns_error err = NS_ERROR_INIT;
    snprintf(path, n, "%s/%s", dir, name);
    assert_ns_ok(ns_file_replace(path, text, strlen(text), &err), &err);
}

static void through_a_prompt(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_prompt *p;
    ns_json *row;
    ns_buf out = {0};
    char dir[200];
    ns_test_tmpdir(dir, sizeof dir);
    char rows[4200], config[4200], yaml[9000];
    write_text(rows, sizeof rows, dir, "few.jsonl",
               "{\"q\": \"red box\", \"a\": \"1\"}\n{\"q\": \"blue box of tea\", \"a\": \"2\"}\n{\"q\": \"a cat\", "
               "\"a\": \"3\"}\n"
               "{\"q\": \"a dog and a cat\", \"a\": \"4\"}\n{\"q\": \"one more\", \"a\": \"5\"}\n");
    snprintf(yaml, sizeof yaml,
             "user: '{examples}{q}'\nfew_shot_examples: {prefix: '<', suffix: '>', template: '{q}={a};', "
             "retrieval_file: %s,\n"
             "  retrieval_field: q, retrieved_entries: 3, retrieved_few_shots: 2}\n",
             rows);
    write_text(config, sizeof config, dir, "few.yaml", yaml);
    assert_ns_ok(ns_prompt_load(&p, &(ns_prompt_options){config, NULL, NULL}, &err), &err);
    static const char text[] = "{\"q\": \"a cat\"}", wrong[] = "{\"q\": 5}";
    assert_ns_ok(ns_json_parse(&row, &a, text, sizeof text - 1, "t", 0, &err), &err);
    assert_ns_ok(ns_prompt_user(p, &out, row, NULL, 1, "t", &err), &err);
    /* best first: itself (left out), the dog, and of those without a common word the last */
    assert_string_equal(out.data, "<one more=5;a dog and a cat=4;>a cat");
    assert_ns_ok(ns_json_parse(&row, &a, wrong, sizeof wrong - 1, "t", 0, &err), &err);
    assert_ns_fails(ns_prompt_user(p, &out, row, NULL, 1, "f:3", &err), NS_ERR_INPUT, "f:3: found no text \"q\"", &err);
    ns_prompt_free(&p);
    assert_ns_fails(ns_prompt_load(&p, &(ns_prompt_options){config, NULL, "gsm8k_standard_few_shot"}, &err),
                    NS_ERR_CONFIG, "not both", &err);
    ns_buf_free(&out);
    ns_arena_free(&a);
}

static void bad_files(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_retriever *r;
    const ns_json *got;
    ns_json *row;
    char path[4200], dir[200];
    ns_test_tmpdir(dir, sizeof dir);
    ns_retriever_options o = {path, "q", 10, 5, -1, "a", 0};
    write_text(path, sizeof path, dir, "bad.jsonl", "");
    assert_ns_fails(ns_retriever_open(&r, &o, &err), NS_ERR_INPUT, "no rows", &err);
    write_text(path, sizeof path, dir, "bad.jsonl", "{\"q\": \"x\"}\n{\"p\": 1}\n");
    assert_ns_fails(ns_retriever_open(&r, &o, &err), NS_ERR_INPUT, "bad.jsonl:2: found no text \"q\"", &err);
    write_text(path, sizeof path, dir, "bad.jsonl", "{\"q\": \"x\"}\n{\"q\": \n");
    assert_ns_fails(ns_retriever_open(&r, &o, &err), NS_ERR_INPUT, "bad.jsonl:2", &err);
    write_text(path, sizeof path, dir, "bad.jsonl", "{\"q\": \"x\"}\n");
    o.max_chars = 3;
    assert_ns_ok(ns_retriever_open(&r, &o, &err), &err);
    assert_ns_ok(ns_json_parse(&row, &a, "{\"q\": \"y\"}", 10, "t", 0, &err), &err);
    assert_ns_fails(ns_retriever_examples(r, &got, &a, row, "t", &err), NS_ERR_INPUT, "row 1 has no text \"a\"", &err);
    ns_retriever_free(&r);
    ns_arena_free(&a);
}

/* Every allocation fails in turn: an error, nothing leaked (the test ends with as many bytes as it began with). */
static void out_of_memory(void **state)
{
    (void)state;
    uint64_t before = ns_mem_get_stats().bytes_now;
    ns_retriever_options o = {rows_file(), "problem", 10, 5, -1, "reference_solution", 0};
    for (uint64_t i = 1; i < 1000; i++) {
        ns_error err = NS_ERROR_INIT;
        ns_retriever *r = NULL;
        ns_mem_fail_at(i, 0);
        ns_status st = ns_retriever_open(&r, &o, &err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        if (hit) assert_int_equal(st, NS_ERR_MEMORY);
        ns_retriever_free(&r);
        assert_int_equal(ns_mem_get_stats().bytes_now, before);
        if (!hit) {
            assert_true(i > 10);
            return;
        }
    }
    fail_msg("more than 1000 allocations");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rankings),  cmocka_unit_test(shuffled),      cmocka_unit_test(through_a_prompt),
        cmocka_unit_test(bad_files), cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
