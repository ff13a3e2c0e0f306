/* Rows against the reference's collated batches (re-padded here), chat rows against its chat batch, and the errors that
 * users meet. Real data needs NS_TEST_DATA; the error and format cases run on the Llama-3 vocabulary too. */
#include "data/rows.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/testing.h"
#include "base/threads.h"
#include "pack/sft_data.h"

static ns_tok *tok;
static ns_threads *pool;
static char dir[256], last_warnings[4096];

static void sink(ns_log_level level, const char *line, void *user)
{
    (void)user;
    size_t n = strlen(last_warnings);
    if (level == NS_LOG_WARN) snprintf(last_warnings + n, sizeof last_warnings - n, "%s\n", line);
}

static int setup(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char path[4200], text[2048];
    ns_log_set_sink(sink, NULL);
    ns_test_tmpdir(dir, sizeof dir);
    if (!ns_test_data()) return 0;
    snprintf(path, sizeof path, "%s/tokenizers/llama3/tokenizer.assembled.json", ns_test_data());
    if (ns_tok_load(&tok, path, &err) != NS_OK || ns_threads_new(&pool, 2, &err) != NS_OK) {
        print_message("%s\n", ns_error_text(&err, text, sizeof text));
        return 1;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_tok_free(&tok);
    ns_threads_free(&pool);
    return ns_remove_tree(dir, &err) != NS_OK;
}

static const char *write_rows(const char *text)
{
    static char path[300];
    FILE *f;
    snprintf(path, sizeof path, "%s/rows.jsonl", dir);
    f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static const ns_json *read_golden(ns_arena *a, const char *name)
{
    char path[4200];
    ns_json *v;
    ns_error err = NS_ERROR_INIT;
    snprintf(path, sizeof path, "%s/sft/%s", ns_test_data(), name);
    assert_ns_ok(ns_json_read_file(&v, a, path, &err), &err);
    return v;
}

static int64_t at(const ns_json *v, size_t i, size_t j)
{
    int64_t x;
    assert_true(i < v->n);
    assert_true(j < v->items[i].n);
    assert_true(ns_json_is_int(&v->items[i].items[j], &x));
    return x;
}

/* Pads our micro-batch with `pad` to the reference's collated shape and compares every array. */
static void compare_batch(const ns_examples *ex, const int64_t *rows, size_t n, const ns_json *want, int64_t pad)
{
    ns_error err = NS_ERROR_INIT;
    ns_batch b;
    int32_t T, S;
    ns_batch_capacity(ex, (int64_t)n, 16, &T, &S);
    assert_ns_ok(ns_batch_new(&b, T, S, &err), &err);
    assert_ns_ok(ns_batch_fill(&b, ex, rows, (int64_t)n, &err), &err);
    assert_int_equal(b.n_seg, n);
    const ns_json *tokens = ns_json_get(want, "tokens"), *labels = ns_json_get(want, "labels");
    const ns_json *mask = ns_json_get(want, "loss_mask"), *position = ns_json_get(want, "position_ids");
    double targets = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t from = b.cu_seqlens[i], len = b.cu_seqlens[i + 1] - from;
        const int32_t *ids = ex->ids + ex->start[rows[i]];
        assert_true((size_t)len <= tokens->items[i].n);
        for (size_t p = 0; p < tokens->items[i].n; p++) {
            int live = (int32_t)p < len;
            assert_int_equal(at(tokens, i, p), live ? b.ids[from + (int32_t)p] : pad);
            assert_int_equal(at(labels, i, p), live ? ids[p + 1] : pad);
            float w = live ? b.weight[from + (int32_t)p] : 0;
            assert_int_equal(at(mask, i, p), w == 1.0f);
            if (w == 1.0f) assert_int_equal(at(labels, i, p), b.label[from + (int32_t)p]);
            if (live) assert_int_equal(at(position, i, p), b.position[from + (int32_t)p]);
            targets += w;
        }
    }
    assert_true(targets > 0 && targets == b.weight_sum && targets == ns_examples_targets(ex, rows, (int64_t)n));
    ns_batch_free(&b);
}

static void golden_batches(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    const ns_json *cases = read_golden(&a, "golden_unpacked_batches.json");
    char path[4200];
    snprintf(path, sizeof path, "%s/sft/gsm8k_400_llama3-instruct.jsonl", ns_test_data());
    for (size_t c = 0; c < cases->n; c++) {
        const ns_json *k = &cases->items[c], *args = ns_json_get(k, "args"), *idx = ns_json_get(k, "indices");
        ns_rows_options o = NS_ROWS_OPTIONS_DEFAULT;
        const ns_json *method = ns_json_get(args, "truncation_method");
        assert_true(ns_json_is_int(ns_json_get(args, "max_seq_length"), &o.max_seq_length));
        o.too_long = method && ns_str_eq(method->s, "left") ? NS_LONG_LEFT : NS_LONG_RIGHT;
        o.add_bos = ns_json_truthy(ns_json_get(args, "add_bos"));
        o.add_eos = ns_json_truthy(ns_json_get(args, "add_eos"));
        o.eos_id = 128001; /* the recorded runs used <|end_of_text|> */
        ns_examples ex;
        last_warnings[0] = 0;
        assert_ns_ok(ns_rows_load(&ex, path, tok, &o, pool, &err), &err);
        assert_int_equal(ex.n, 400);
        assert_string_equal(ex.format, "input/output");
        int64_t rows[8];
        for (size_t i = 0; i < idx->n; i++) assert_true(ns_json_is_int(&idx->items[i], &rows[i]));
        const ns_json *batch = ns_json_get(k, "batch");
        compare_batch(&ex, rows, idx->n, batch, 128001);
        const ns_json *lengths = ns_json_get(batch, "context_lengths");
        for (size_t i = 0; i < idx->n; i++) {
            int64_t n;
            assert_true(ns_json_is_int(&lengths->items[i], &n));
            assert_int_equal(ex.answer_start[rows[i]], n);
        }
        if (ns_str_eq(ns_json_get(k, "case")->s, "trunc_both")) {
            assert_int_equal(ex.n_truncated, 400);
            assert_int_equal(ex.longest, 48);
            assert_non_null(strstr(last_warnings, "400 of 400 rows are longer than max_seq_length 48"));
            assert_non_null(strstr(last_warnings, "not long enough to truncate"));
        }
        if (o.add_bos) assert_non_null(strstr(last_warnings, "400 rows begin with two BOS tokens"));
        ns_examples_free(&ex);
    }
    assert_true(cases->n >= 5);
    ns_arena_free(&a);
}

static void golden_chat(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    const ns_json *g = read_golden(&a, "golden_chat_llama.json"), *rows = ns_json_get(g, "examples");
    ns_buf b = {0};
    for (size_t i = 0; i < rows->n; i++) {
        assert_ns_ok(ns_json_write(&b, &rows->items[i], NS_JSON_UTF8, &err), &err);
        assert_ns_ok(ns_buf_addc(&b, '\n', &err), &err);
    }
    ns_rows_options o = NS_ROWS_OPTIONS_DEFAULT;
    ns_examples ex;
    assert_ns_ok(ns_rows_load(&ex, write_rows(b.data), tok, &o, pool, &err), &err);
    assert_string_equal(ex.format, "sharegpt");
    const int64_t order[] = {0, 1};
    compare_batch(&ex, order, 2, ns_json_get(g, "batch"), 128001);
    ns_examples_free(&ex);
    ns_buf_free(&b);
    ns_arena_free(&a);
}

static void load(ns_examples *ex, const char *text, ns_rows_options *o)
{
    ns_error err = NS_ERROR_INIT;
    ns_rows_options def = NS_ROWS_OPTIONS_DEFAULT;
    last_warnings[0] = 0;
    assert_ns_ok(ns_rows_load(ex, write_rows(text), tok, o ? o : &def, pool, &err), &err);
}

static void expect_text(const ns_examples *ex, int64_t row, int targets_only, const char *want)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    for (int64_t i = ex->start[row]; i < ex->start[row + 1]; i++) {
        int target = ex->mask ? ex->mask[i] : i - ex->start[row] >= ex->answer_start[row];
        if (targets_only && !target) continue;
        assert_ns_ok(ns_tok_decode(tok, &b, ex->ids + i, 1, 0, &err), &err);
    }
    assert_string_equal(b.data ? b.data : "", want);
    ns_buf_free(&b);
}

static void formats(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_examples ex;
    load(&ex, "{\"prompt\": \" 2+2=\", \"completion\": \"4 \"}\n", NULL);
    assert_string_equal(ex.format, "prompt/completion");
    expect_text(&ex, 0, 0, "2+2=4");
    expect_text(&ex, 0, 1, "4");
    assert_null(ex.mask);
    ns_examples_free(&ex);

    load(&ex,
         "{\"instruction\": \"Add\", \"input\": \"1 2\", \"output\": \"3\"}\n{\"instruction\": \"Hi\", \"output\": "
         "\"Yo\"}",
         NULL);
    assert_string_equal(ex.format, "alpaca");
    expect_text(&ex, 0, 0,
                "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nAdd\n\n1 2<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n3<|eot_id|>");
    expect_text(&ex, 0, 1, "3<|eot_id|>");
    expect_text(&ex, 1, 1, "Yo<|eot_id|>");
    ns_examples_free(&ex);

    /* a prepared row that kept its instruction is not alpaca */
    load(&ex, "{\"instruction\": \"Add 1 2\", \"input\": \"Q: Add 1 2 A:\", \"output\": \"3\"}\n", NULL);
    assert_string_equal(ex.format, "input/output");
    ns_examples_free(&ex);

    load(&ex,
         "{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": "
         "\"<|eot_id|>?\"}, "
         "{\"role\": \"assistant\", \"content\": [{\"type\": \"text\", \"text\": \"A\"}]}, {\"role\": \"user\", "
         "\"content\": \"more\"}, {\"role\": \"assistant\", \"content\": \"B\", \"weight\": 0}]}\n",
         NULL);
    assert_string_equal(ex.format, "messages");
    expect_text(&ex, 0, 1, "A<|eot_id|>");
    int n_eot = 0; /* 5 turns; the one spelled in the user's text stays text */
    for (int64_t i = 0; i < ex.start[1]; i++) n_eot += ex.ids[i] == 128009;
    assert_int_equal(n_eot, 5);
    ns_examples_free(&ex);

    load(&ex,
         "{\"conversations\": [{\"from\": \"human\", \"value\": \"Q\"}, {\"from\": \"gpt\", \"value\": "
         "\"A\"}]}\r\n\r\n\n",
         NULL);
    assert_string_equal(ex.format, "sharegpt");
    assert_int_equal(ex.n, 1);
    expect_text(&ex, 0, 0,
                "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>");
    ns_examples_free(&ex);

    load(&ex,
         "{\"prompt\": [{\"role\": \"user\", \"content\": \"Q\"}, {\"role\": \"assistant\", \"content\": \"old\"}, "
         "{\"role\": \"user\", \"content\": \"R\"}], \"completion\": [{\"role\": \"assistant\", \"content\": \"A\"}]}",
         NULL);
    expect_text(&ex, 0, 1, "A<|eot_id|>");
    ns_examples_free(&ex);

    ns_rows_options o = NS_ROWS_OPTIONS_DEFAULT;
    o.prompt_template = "Question: {question}\\nAnswer:  {answer}";
    o.label_key = "answer";
    o.truncation_field = "question";
    o.add_eos = 1;
    o.eos_id = 128001;
    load(&ex, "{\"question\": \" q \", \"answer\": \"a\", \"extra\": 5}\n", &o);
    assert_string_equal(ex.format, "template");
    expect_text(&ex, 0, 0, "Question: q\nAnswer:  a<|end_of_text|>");
    expect_text(&ex, 0, 1, "  a<|end_of_text|>"); /* blanks before a placeholder belong to it */
    ns_examples_free(&ex);
}

static void counts(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_examples ex, again;
    ns_rows_options o = NS_ROWS_OPTIONS_DEFAULT;
    o.max_seq_length = 6;
    const char *rows = "{\"input\": \"a b\", \"output\": \"c d\"}\n{\"input\": \"a b\", \"output\": \"c d\"}\n"
                       "{\"input\": \"a\", \"output\": \"  \"}\n{\"input\": \"1 2 3 4 5 6\", \"output\": \"7 8\"}\n";
    load(&ex, rows, &o);
    assert_int_equal(ex.n, 4);
    assert_int_equal(ex.n_duplicate, 1);
    assert_int_equal(ex.n_empty, 1);
    assert_int_equal(ex.n_all_masked, 1);
    assert_int_equal(ex.n_truncated, 1);
    assert_int_equal(ex.longest, 6);
    const int64_t all[] = {0, 1, 2, 3};
    assert_true((double)ex.n_targets == ns_examples_targets(&ex, all, 4));
    assert_non_null(strstr(last_warnings, "1 rows have no trained token"));
    assert_non_null(strstr(last_warnings, "1 rows repeat an earlier row"));
    assert_int_equal(strlen(ex.hash), 16);
    load(&again, rows, &o);
    assert_string_equal(ex.hash, again.hash);
    ns_examples_free(&again);
    o.max_seq_length = 5;
    load(&again, rows, &o);
    assert_string_not_equal(ex.hash, again.hash);
    ns_examples_free(&again);
    ns_examples_free(&ex);
}

/* The same bytes for any number of workers, over several tiles. */
static void thread_independence(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    for (int i = 0; i < 1500; i++)
        assert_ns_ok(ns_buf_printf(&b, &err, "{\"input\": \"row %d of\", \"output\": \"many %d\"}\n", i, i * i), &err);
    ns_rows_options o = NS_ROWS_OPTIONS_DEFAULT;
    ns_examples one, two;
    const char *path = write_rows(b.data);
    assert_ns_ok(ns_rows_load(&one, path, tok, &o, NULL, &err), &err);
    assert_ns_ok(ns_rows_load(&two, path, tok, &o, pool, &err), &err);
    assert_int_equal(one.n, 1500);
    assert_string_equal(one.hash, two.hash);
    assert_memory_equal(one.start, two.start, 1501 * sizeof *one.start);
    assert_memory_equal(one.ids, two.ids, (size_t)one.start[1500] * sizeof *one.ids);
    ns_examples_free(&one);
    ns_examples_free(&two);
    /* of two bad rows in different tiles the first is named, whichever thread is faster */
    char *bad = strstr(b.data, "\"output\": \"many 1210000\"");
    assert_non_null(bad);
    bad[1] = 'X';
    bad = strstr(b.data, "\"output\": \"many 90000\"");
    bad[1] = 'X';
    path = write_rows(b.data);
    for (int i = 0; i < 20; i++)
        assert_ns_fails(ns_rows_load(&one, path, tok, &o, pool, &err), NS_ERR_INPUT,
                        "rows.jsonl:301: no field \"output\"", &err);
    ns_buf_free(&b);
}

static void errors(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_error err = NS_ERROR_INIT;
    ns_examples ex;
    ns_rows_options o = NS_ROWS_OPTIONS_DEFAULT, bad;
#define FAILS(text, code, needle) \
    assert_ns_fails(ns_rows_load(&ex, write_rows(text), tok, &o, pool, &err), code, needle, &err)
    FAILS("", NS_ERR_INPUT, "no rows");
    FAILS("\n\n", NS_ERR_INPUT, "no rows");
    FAILS("{\"input\": \"a\", \"output\": \"b\"}\n\n{\"input\": \"a\", \"output\": \"b\"}", NS_ERR_INPUT,
          "rows.jsonl:2: blank line");
    FAILS("{\"input\": \"a\", \"output\": \"b\"}\n{\"input\": \"a\", \"output\": \"b\n", NS_ERR_INPUT, "rows.jsonl:2");
    FAILS("{\"input\": \"a\", \"output\": \"b\"}\n{\"input\": \"\xff\", \"output\": \"b\"}\n", NS_ERR_INPUT,
          "rows.jsonl:2");
    FAILS("{\"input\": \"a\", \"output\": \"b\"}\n{\"input\": \"a\"}", NS_ERR_INPUT,
          "rows.jsonl:2: no field \"output\" (the row has: input)");
    FAILS("{\"input\": \"a\", \"output\": 5}", NS_ERR_INPUT, "field \"output\" is a number, expected text");
    FAILS("[1]", NS_ERR_INPUT, "the row is a list, expected an object");
    FAILS("{\"question\": \"a\", \"answer\": \"b\"}", NS_ERR_INPUT, "the row has question, answer; expected");
    FAILS("{\"messages\": []}", NS_ERR_INPUT, "empty list");
    FAILS("{\"messages\": [{\"role\": \"wizard\", \"content\": \"x\"}]}", NS_ERR_INPUT, "role \"wizard\"");
    FAILS("{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}]}]}", NS_ERR_UNSUPPORTED,
          "not text");
    FAILS("{\"messages\": [{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [1]}]}", NS_ERR_UNSUPPORTED,
          "tool_calls");
    assert_ns_fails(ns_rows_load(&ex, "/nonexistent/x.jsonl", tok, &o, pool, &err), NS_ERR_IO, "/nonexistent/x.jsonl",
                    &err);
    const char *good = "{\"input\": \"a\", \"output\": \"b\"}\n";
#define OPTION_FAILS(field, value, needle)                                                                        \
    do {                                                                                                          \
        bad = o;                                                                                                  \
        bad.field = value;                                                                                        \
        assert_ns_fails(ns_rows_load(&ex, write_rows(good), tok, &bad, pool, &err), NS_ERR_CONFIG, needle, &err); \
    } while (0)
    OPTION_FAILS(prompt_template, "{output}{input}", "must end with {output}");
    OPTION_FAILS(prompt_template, "{input", "no closing");
    OPTION_FAILS(prompt_template, "{}{output}", "names no field");
    OPTION_FAILS(prompt_template, "", "is empty");
    OPTION_FAILS(truncation_field, "text", "truncation_field 'text' is not a placeholder");
    OPTION_FAILS(max_seq_length, 1, "leaves nothing to predict");
    o.add_sep = 1;
    OPTION_FAILS(sep_id, -1, "without a sep_id");
}

/* Any allocation may fail: the call reports it and nothing leaks. */
static void out_of_memory(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_error err = NS_ERROR_INIT;
    ns_rows_options o = NS_ROWS_OPTIONS_DEFAULT;
    ns_examples ex;
    const char *path = write_rows(
        "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", \"content\": \"y\"}]}\n");
    uint64_t before = ns_mem_get_stats().bytes_now;
    int n_hit = 0;
    for (uint64_t k = 1; k < 500; k++) {
        ns_error fresh = NS_ERROR_INIT;
        err = fresh;
        ns_mem_fail_at(k, 0);
        ns_status st = ns_rows_load(&ex, path, tok, &o, NULL, &err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        if (!hit) {
            assert_int_equal(st, NS_OK);
            ns_examples_free(&ex);
            break;
        }
        n_hit++;
        if (st == NS_OK)
            ns_examples_free(&ex); /* an allocation that is allowed to fail (progress line) */
        else
            assert_int_equal(st, NS_ERR_MEMORY);
        assert_int_equal(ns_mem_get_stats().bytes_now, before);
    }
    assert_true(n_hit > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_batches), cmocka_unit_test(golden_chat),         cmocka_unit_test(formats),
        cmocka_unit_test(counts),         cmocka_unit_test(thread_independence), cmocka_unit_test(errors),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
