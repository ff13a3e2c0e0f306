/* Inspection of a toy set whose every count is known by hand; the tokenizer has a few letters, a BOS and an end. */
#include "data/inspect.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/testing.h"

static const char tokenizer[] =
    "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 9, \"content\": \"<s>\", \"special\": true, \"normalized\": "
    "false, "
    "\"single_word\": false, \"lstrip\": false, \"rstrip\": false}, {\"id\": 12, \"content\": \"<|eot_id|>\", "
    "\"special\": "
    "true, \"normalized\": false, \"single_word\": false, \"lstrip\": false, \"rstrip\": false}], \"normalizer\": "
    "null, "
    "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": "
    "true}, "
    "\"decoder\": {\"type\": \"ByteLevel\"}, \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": "
    "[{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], "
    "\"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [9], \"tokens\": [\"<s>\"]}}}, \"model\": {\"type\": "
    "\"BPE\", "
    "\"vocab\": {\"a\": 0, \"b\": 1, \"\xc4\xa0\": 2, \"\xc4\x8a\": 3, \"\xc3\x83\": 4, \"\xc2\xa9\": 5, \"ab\": 6, "
    "\"\xc4\xa0"
    "ab\": 7, \"<\": 8, \"s\": 10, \">\": 11}, \"merges\": [\"a b\", \"\xc4\xa0 ab\"]}}";

static const char rows[] = "{\"input\": \"ab\", \"output\": \"b<|eot_id|>\"}\n"          /* 1: 3 ids, 2 trained */
                           "{\"input\": \"ab\", \"output\": \"a\"}\n"                    /* 2: no end */
                           "{\"input\": \"ab\", \"output\": \"b<|eot_id|>\"}\n"          /* 3: = 1 */
                           "{\"input\": \"<s><s>a\", \"output\": \"<|eot_id|>\"}\n"      /* 4: two BOS */
                           "{\"input\": \"a\", \"output\": \"\"}\n"                      /* 5: empty, nothing trained */
                           "{\"input\": \"ab\", \"output\": \"b<|eot_id|>\"}\n"          /* 6: = 1 */
                           "{\"input\": \"aaaaaaaaaaaa\", \"output\": \"<|eot_id|>\"}\n" /* 7: 13 ids: cut to 8 */
                           "{\"input\": \"a\", \"output\": \"<s\xc3\xa9>\"}\n"; /* 8: half characters, no end */

static char dir[256], path[300];
static ns_tok *tok;
static ns_examples ex;
static ns_rows_options options = NS_ROWS_OPTIONS_DEFAULT;

static void no_log(ns_log_level level, const char *line, void *user)
{
    (void)level, (void)line, (void)user;
}

static int setup(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char file[300], text[2048];
    ns_log_set_sink(no_log, NULL);
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(file, sizeof file, "%s/tokenizer.json", dir);
    snprintf(path, sizeof path, "%s/rows.jsonl", dir);
    options.max_seq_length = 8;
    if (ns_file_replace(file, tokenizer, sizeof tokenizer - 1, &err) != NS_OK ||
        ns_file_replace(path, rows, sizeof rows - 1, &err) != NS_OK || ns_tok_load(&tok, file, &err) != NS_OK ||
        ns_rows_load(&ex, path, tok, &options, NULL, &err) != NS_OK) {
        print_message("%s\n", ns_error_text(&err, text, sizeof text));
        return 1;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_examples_free(&ex);
    ns_tok_free(&tok);
    return ns_remove_tree(dir, &err) != NS_OK;
}

static ns_inspect look(void)
{
    ns_error err = NS_ERROR_INIT;
    ns_inspect in;
    assert_ns_ok(ns_inspect_rows(&in, &ex, tok, "rows.jsonl", &options, &err), &err);
    return in;
}

static void counts(void **state)
{
    (void)state;
    static const struct {
        int64_t n, first[NS_INSPECT_FIRST];
    } want[NS_INSPECT_KINDS] = {
        [NS_INSPECT_TRUNCATED] = {1, {6}}, [NS_INSPECT_SHORT_FIELD] = {0, {0}},  [NS_INSPECT_ALL_MASKED] = {1, {4}},
        [NS_INSPECT_EMPTY] = {1, {4}},     [NS_INSPECT_DUPLICATE] = {2, {2, 5}}, [NS_INSPECT_DOUBLE_BOS] = {1, {3}},
        [NS_INSPECT_NO_END] = {2, {1, 7}},
    };
    ns_inspect in = look();
    for (int k = 0; k < NS_INSPECT_KINDS; k++) {
        if (in.found[k].n != want[k].n) fail_msg("%s: %d", ns_inspect_key((ns_inspect_kind)k), (int)in.found[k].n);
        for (int i = 0; i < want[k].n; i++) assert_int_equal(in.found[k].first[i], want[k].first[i]);
    }
    /* ids: 3 + 2 + 3 + 4 + 1 + 3 + 8 + 6; the loader's own totals must agree with what is listed */
    assert_int_equal(in.tokens, 30);
    assert_int_equal(ex.n_truncated, in.found[NS_INSPECT_TRUNCATED].n);
    assert_int_equal(ex.n_all_masked, in.found[NS_INSPECT_ALL_MASKED].n);
    assert_int_equal(ex.n_empty, in.found[NS_INSPECT_EMPTY].n);
    assert_int_equal(ex.n_duplicate, in.found[NS_INSPECT_DUPLICATE].n);
    int64_t trained = 0;
    for (int64_t i = 0; i < ex.n; i++)
        for (int64_t q = 0; q < ex.start[i + 1] - ex.start[i]; q++) trained += ns_inspect_is_trained(&ex, i, q);
    assert_int_equal(trained, ex.n_targets);
    assert_int_equal(trained, 2 + 1 + 2 + 1 + 0 + 2 + 1 + 5);
    assert_int_equal(in.shortest, 4);
    assert_int_equal(in.longest, 6);
    assert_int_equal(in.n_top, 1);
    assert_int_equal(in.top[0].n, 3);
    assert_int_equal(in.top[0].first[0], 0);
    assert_int_equal(in.top[0].first[2], 5);
}

/* Bars cover every length once, for all sizes of the longest row. */
static void bars(void **state)
{
    (void)state;
    static const int64_t longest[] = {0, 1, 11, 12, 13, 23, 24, 59, 60, 119, 120, 4096, 131072};
    for (size_t c = 0; c < sizeof longest / sizeof *longest; c++) {
        int64_t start[] = {0, 0, longest[c]}, same[] = {0, 1};
        uint8_t flags[2] = {0};
        int32_t answer[] = {0, 0}, *ids = NULL;
        ns_error err = NS_ERROR_INIT;
        ns_inspect in;
        assert_ns_ok(ns_alloc((void **)&ids, 64 + (size_t)longest[c] * sizeof *ids, "test", &err), &err);
        ns_examples e = {.n = 2, .start = start, .ids = ids, .answer_start = answer, .flags = flags, .same_as = same};
        assert_ns_ok(ns_inspect_rows(&in, &e, tok, "x", &options, &err), &err);
        assert_true(in.n_bars >= 1 && in.n_bars <= NS_INSPECT_BARS);
        assert_true(in.n_bars * in.bar_width > longest[c]);
        int64_t sum = 0;
        for (int64_t i = 0; i < in.n_bars; i++) sum += in.bar[i];
        assert_int_equal(sum, 2);
        assert_true(in.bar[longest[c] / in.bar_width] >= 1);
        ns_free(ids);
    }
}

static void text(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_inspect in = look();
    ns_buf b = {0};
    assert_ns_ok(ns_inspect_tokens(&b, &in, 0, 0, &err), &err);
    assert_string_equal(b.data, "rows.jsonl:1: 3 tokens, 2 trained\n"
                                "      0        6  \"ab\"\n"
                                "[     1        1  \"b\"\n"
                                "      2       12  \"<|eot_id|>\" ]\n");
    ns_buf_clear(&b);
    assert_ns_ok(ns_inspect_tokens(&b, &in, 1, 1, &err), &err);
    assert_string_equal(b.data, "rows.jsonl:2: 2 tokens, 1 trained\n"
                                "\033[2m     0        6  \"ab\"\033[0m\n"
                                "\033[32m     1        0  \"a\"\033[0m\n");
    ns_buf_clear(&b);
    assert_ns_ok(ns_inspect_tokens(&b, &in, 7, 0, &err), &err);
    assert_non_null(strstr(b.data, "4  \"\\xc3\"\n"));
    ns_buf_clear(&b);
    assert_ns_ok(ns_inspect_line(&b, &in, 7, 0, &err), &err);
    assert_string_equal(b.data, "rows.jsonl:8: 6 tokens, 5 trained\n\"a\"[\"<s\xc3\xa9>\"]\n");
    ns_buf_clear(&b);
    assert_ns_ok(ns_inspect_text(&b, &in, &err), &err);
    assert_non_null(strstr(b.data, "rows.jsonl: 8 rows, format input/output\n"));
    assert_non_null(strstr(b.data, "3 times  lines 1, 3, 6  \"abb<|eot_id|>\"\n"));
    assert_non_null(strstr(b.data, "does not learn to stop"));
    ns_buf_free(&b);
}

/* A terminal acts on C0 and C1 controls and on broken bytes: none reaches it. */
static void quote(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    const char in[] = "a\x1b[1m\xc2\x9b"
                      "1m\xc2\xa0\xc3\xa9\x7f\xff\xc2";
    assert_ns_ok(ns_tok_quote(&b, in, sizeof in - 1, &err), &err);
    assert_string_equal(b.data, "\"a\\u001b[1m\\u009b1m\xc2\xa0\xc3\xa9\\u007f\\xff\\xc2\"");
    ns_buf_clear(&b);
    assert_ns_ok(ns_tok_quote(&b, "\xc2\x80", 2, &err), &err);
    assert_string_equal(b.data, "\"\\u0080\"");
    ns_buf_free(&b);
}

/* Every token belongs to one part. */
static void parts(void **state)
{
    (void)state;
    int64_t tokens = 0, trained = 0;
    assert_int_equal(ex.n_parts, 2);
    assert_string_equal(ex.part[0].name, "{input}");
    assert_string_equal(ex.part[1].name, "{output}");
    for (int i = 0; i < ex.n_parts; i++) tokens += ex.part[i].tokens, trained += ex.part[i].trained;
    assert_int_equal(tokens, ex.start[ex.n]);
    assert_int_equal(trained, ex.n_targets);
    assert_int_equal(ex.part[0].trained, 0);
}

static void json(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_inspect in = look();
    ns_arena a = NS_ARENA_INIT("test");
    ns_buf b = {0};
    ns_json *v;
    int64_t x;
    assert_ns_ok(ns_inspect_json(&b, &in, 7, 8, &err), &err);
    assert_ns_ok(ns_json_parse(&v, &a, b.data, b.len, "json", 0, &err), &err);
    assert_true(ns_json_is_int(ns_json_at(v, "duplicate.rows"), &x) && x == 2);
    assert_int_equal(ns_json_at(v, "no_end.first_lines")->n, 2);
    assert_true(ns_json_is_int(&ns_json_at(v, "no_end.first_lines")->items[1], &x) && x == 8);
    const ns_json *shown = ns_json_get(v, "shown");
    assert_int_equal(shown->n, 1);
    const ns_json *t = ns_json_get(&shown->items[0], "tokens");
    assert_int_equal(t->n, 6);
    assert_int_equal(ns_json_get(&t->items[0], "trained")->b, 0);
    assert_int_equal(ns_json_get(&t->items[1], "trained")->b, 1);
    assert_true(ns_str_eq(ns_json_get(&t->items[3], "text")->s, "\xef\xbf\xbd"));
    ns_buf_free(&b);
    ns_arena_free(&a);
}

static void page(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_inspect in = look();
    ns_buf b = {0};
    in.path = "<script>\"&'.jsonl";
    assert_ns_ok(ns_inspect_html(&b, &in, 0, ex.n, &err), &err);
    assert_null(strstr(b.data, "<script"));
    assert_null(strstr(b.data, "<s>"));
    assert_null(strstr(b.data, "http"));
    assert_null(strstr(b.data, "src="));
    assert_non_null(strstr(b.data, "&lt;script&gt;&quot;&amp;&#39;.jsonl"));
    assert_non_null(strstr(b.data, ">b&lt;|eot_id|&gt;</span>"));
    assert_non_null(strstr(b.data, "line 8"));
    ns_buf_free(&b);
}

/* Whatever allocation fails, the call fails and nothing leaks (the sanitizer builds watch). */
static void memory(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n++) {
        ns_error err = NS_ERROR_INIT;
        ns_inspect in;
        ns_buf b = {0};
        ns_mem_fail_at(n, 0);
        ns_status st = ns_inspect_rows(&in, &ex, tok, "x", &options, &err);
        if (st == NS_OK) st = ns_inspect_text(&b, &in, &err);
        if (st == NS_OK) st = ns_inspect_tokens(&b, &in, 3, 0, &err);
        if (st == NS_OK) st = ns_inspect_json(&b, &in, 0, ex.n, &err);
        if (st == NS_OK) st = ns_inspect_html(&b, &in, 0, ex.n, &err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        ns_buf_free(&b);
        if (hit && st != NS_ERR_MEMORY)
            fail_msg("allocation %d failed and the status is %s", (int)n, ns_status_name(st));
        if (!hit) {
            assert_int_equal(st, NS_OK);
            assert_true(n > 20);
            break;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts), cmocka_unit_test(bars), cmocka_unit_test(text), cmocka_unit_test(quote),
        cmocka_unit_test(parts),  cmocka_unit_test(json), cmocka_unit_test(page), cmocka_unit_test(memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
