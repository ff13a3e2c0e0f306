/* Prompts: every recorded filling of the ten shipped templates, str.format rules, and the messages of bad input. */
#include "data/prompt.h"

#include "base/file.h"
#include "base/testing.h"
#include "data/format.h"

static ns_json *parse(ns_arena *a, const char *text)
{
    ns_error err = NS_ERROR_INIT;
    ns_json *v = NULL;
    assert_ns_ok(ns_json_parse(&v, a, text, strlen(text), "test", 0, &err), &err);
    return v;
}

static const char *text_of(const ns_json *o, const char *key)
{
    static char buf[8][512];
    static int next;
    const ns_json *v = ns_json_get(o, key);
    if (!v || v->type != NS_JSON_STRING) return NULL;
    char *out = buf[next++ % 8];
    snprintf(out, sizeof buf[0], "%.*s", (int)v->s.n, v->s.p);
    return out;
}

static void check_template(const ns_prompt *p, const ns_json *k)
{
    const ns_json *stop = ns_json_get(k, "stop_phrases"), *code = ns_json_get(k, "code");
    if (!stop) return;
    assert_int_equal(p->t.n_stop, stop->n);
    for (size_t i = 0; i < stop->n; i++) assert_true(ns_str_eq(stop->items[i].s, p->t.stop_phrases[i]));
    assert_true(ns_str_eq(ns_json_get(code, "code_begin")->s, p->t.code_begin));
    assert_true(ns_str_eq(ns_json_get(code, "code_end")->s, p->t.code_end));
    assert_true(ns_str_eq(ns_json_get(code, "code_output_begin")->s, p->t.code_output_begin));
    assert_true(ns_str_eq(ns_json_get(code, "code_output_end")->s, p->t.code_output_end));
    assert_true(ns_str_eq(ns_json_get(code, "code_output_format")->s, p->t.code_output_format));
}

static void golden(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_json *cases;
    char path[4200];
    snprintf(path, sizeof path, "%s/prepare_data/golden_prompts.json", ns_test_data());
    assert_ns_ok(ns_json_read_file(&cases, &a, path, &err), &err);
    int n_text = 0, n_not_shipped = 0;
    for (size_t i = 0; i < cases->n; i++) {
        const ns_json *k = &cases->items[i], *want = ns_json_get(k, "filled");
        ns_prompt *p;
        ns_buf out = {0};
        ns_prompt_options o = {text_of(k, "config"), text_of(k, "template"), text_of(k, "examples_type")};
        if (!want) { /* a hash of a filling with an example set that is not shipped */
            assert_ns_fails(ns_prompt_load(&p, &o, &err), NS_ERR_CONFIG, "no prompt few_shot 'math_text_with_code'",
                            &err);
            n_not_shipped++;
            continue;
        }
        assert_ns_ok(ns_prompt_load(&p, &o, &err), &err);
        const ns_json *row = ns_json_get(k, "input");
        if (want->type == NS_JSON_ARRAY) {
            ns_json *list;
            assert_ns_ok(ns_prompt_messages(p, &list, &a, row, "row", &err), &err);
            ns_buf w = {0};
            assert_ns_ok(ns_json_write(&out, list, NS_JSON_UTF8, &err), &err);
            assert_ns_ok(ns_json_write(&w, want, NS_JSON_UTF8, &err), &err);
            assert_string_equal(out.data, w.data);
            ns_buf_free(&w);
        } else {
            const char *turns = text_of(k, "multi_turn_key");
            if (turns)
                assert_ns_ok(ns_prompt_fill_turns(p, &out, row, turns, "row", &err), &err);
            else
                assert_ns_ok(ns_prompt_fill(p, &out, row, NULL, "row", &err), &err);
            assert_int_equal(out.len, want->s.n);
            assert_memory_equal(out.data, want->s.p, out.len);
            check_template(p, k);
        }
        n_text++;
        ns_buf_free(&out);
        ns_prompt_free(&p);
    }
    print_message("%d fillings compared, %d use example sets that are not shipped\n", n_text, n_not_shipped);
    assert_true(n_text >= 33);
    ns_arena_free(&a);
}

static void check_format(const char *fmt, const char *row, const char *want)
{
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_buf out = {0};
    ns_format_args args = {parse(&a, row), NULL, NULL, "text", "row"};
    assert_ns_ok(ns_format(&out, fmt, &args, &err), &err);
    assert_string_equal(out.data ? out.data : "", want);
    ns_buf_free(&out);
    ns_arena_free(&a);
}

static void fails_format(const char *fmt, ns_status code, const char *needle)
{
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_buf out = {0};
    ns_format_args args = {parse(&a, "{\"a\": \"x\", \"n\": 3, \"l\": [1], \"hidden\": 1}"), NULL, "hidden", "text",
                           "f:1"};
    assert_ns_fails(ns_format(&out, fmt, &args, &err), code, needle, &err);
    ns_buf_free(&out);
    ns_arena_free(&a);
}

/* Expected values: Python's str.format */
static void formats(void **state)
{
    (void)state;
    check_format("", "{}", "");
    check_format("{{}} {a}{{{a}}}", "{\"a\": \"{b}\"}", "{} {b}{{b}}"); /* values are not scanned again */
    check_format("{a} {b} {c} {d} {e}", "{\"a\": true, \"b\": null, \"c\": 1.0, \"d\": 1e5, \"e\": -7}",
                 "True None 1.0 100000.0 -7");
    check_format("{a}", "{\"a\": [1, \"x\", {\"k\": \"it's\"}, null, \"a\\\"'b\", \"\\n\"]}",
                 "[1, 'x', {'k': \"it's\"}, None, 'a\"\\'b', '\\n']");
    check_format("{a[k]}-{l[1]}-{a.k}", "{\"a\": {\"k\": 5}, \"l\": [1, 2]}", "5-2-5");
    check_format("{a!r} {a!s} {u!a}", "{\"a\": \"x\", \"u\": \"\\u00e9\\u20ac\\ud83d\\ude00\"}",
                 "'x' x '\\xe9\\u20ac\\U0001f600'");
    check_format("[{a:>5}][{a:^5}][{a:*<5}][{a:.2}][{a:5s}]", "{\"a\": \"xyz\"}", "[  xyz][ xyz ][xyz**][xy][xyz  ]");
    check_format("[{n:5}][{n:05d}][{n:+}][{n:,}][{m:,}][{m:<9}]", "{\"n\": 42, \"m\": -1234567}",
                 "[   42][00042][+42][42][-1,234,567][-1234567 ]");
    check_format("[{f:.2f}][{f:8.1f}][{f:e}][{f:%}][{n:.1f}]", "{\"f\": 0.125, \"n\": 2}",
                 "[0.12][     0.1][1.250000e-01][12.500000%][2.0]");
    check_format("{\xc3\xa9:^5}", "{\"\xc3\xa9\": \"\xc3\xa9\"}", "  \xc3\xa9  ");
    fails_format("{b}", NS_ERR_INPUT, "f:1: text needs a field \"b\" (available: a, n, l)");
    fails_format("{hidden}", NS_ERR_INPUT, "needs a field \"hidden\"");
    fails_format("{}", NS_ERR_INPUT, "has no name");
    fails_format("{0}", NS_ERR_INPUT, "has no name");
    fails_format("a } b", NS_ERR_INPUT, "single '}'");
    fails_format("a { b", NS_ERR_INPUT, "no closing");
    fails_format("{a", NS_ERR_INPUT, "no closing");
    fails_format("{a!x}", NS_ERR_INPUT, "conversion must be");
    fails_format("{l[3]}", NS_ERR_INPUT, "no '3'");
    fails_format("{a:d}", NS_ERR_INPUT, "needs a number");
    fails_format("{a:{n}}", NS_ERR_UNSUPPORTED, "inside placeholder");
    fails_format("{a:??}", NS_ERR_UNSUPPORTED, "specification");
}

static const char *write_yaml(const char *dir, const char *text)
{
    static char path[300];
    ns_error err = NS_ERROR_INIT;
    snprintf(path, sizeof path, "%s/p.yaml", dir);
    assert_ns_ok(ns_file_replace(path, text, strlen(text), &err), &err);
    return path;
}

static void own_files(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_buf out = {0};
    char dir[256];
    ns_prompt *p;
    ns_test_tmpdir(dir, sizeof dir);
    ns_json *row = parse(&a, "{\"problem\": \"1+1\", \"output\": \"2\"}");

    /* LaTeX next to placeholders: nothing is an interpolation */
    const char *path = write_yaml(dir, "system: \"be {tone}\"\nuser: \"${problem}$ \\\\frac{{1}}{{2}}\"\n");
    assert_ns_ok(ns_prompt_load(&p, &(ns_prompt_options){path, "qwen-instruct", NULL}, &err), &err);
    assert_ns_fails(ns_prompt_fill(p, &out, row, NULL, "data.jsonl:7", &err), NS_ERR_INPUT,
                    "needs a field \"tone\" (available: problem, output)", &err);
    ns_buf_clear(&out);
    assert_ns_ok(ns_prompt_user(p, &out, row, NULL, 1, "row", &err), &err);
    assert_string_equal(out.data, "$1+1$ \\frac{1}{2}");
    ns_prompt_free(&p);

    /* code blocks in example solutions */
    char few[400];
    ns_buf_clear(&out);
    snprintf(few, sizeof few, "%s/few.yaml", dir);
    const char *examples = "examples:\n  - problem: P\n    solution: \"A {code_begin}x{code_end}{code_output_begin}\\n"
                           "4\\n{code_output_end} end {code_output_end}\"\n";
    assert_ns_ok(ns_file_replace(few, examples, strlen(examples), &err), &err);
    path = write_yaml(dir, "user: '{examples}{problem}'\nfew_shot_examples:\n  prefix: 'E:{x} '\n  template: "
                           "'[{problem}|{solution}]'\n  suffix: ' Q: '\n");
    assert_ns_ok(ns_prompt_load(&p, &(ns_prompt_options){path, "llama3-instruct", few}, &err), &err);
    assert_ns_ok(ns_prompt_user(p, &out, row, NULL, 1, "row", &err), &err);
    assert_string_equal(out.data, "E:{x} [P|A <|python_tag|>x<|eom_id|><|start_header_id|>ipython<|end_header_id|>\n\n"
                                  "completed\n[stdout]\n4\n[/stdout]<|eot_id|><|start_header_id|>assistant"
                                  "<|end_header_id|>\n\n end ] Q: 1+1");
    ns_buf_clear(&out);
    assert_ns_ok(ns_prompt_user(p, &out, row, NULL, 0, "row", &err), &err);
    assert_string_equal(out.data, "1+1");
    assert_ns_fails(ns_prompt_user(p, &out, parse(&a, "{\"examples\": 1}"), NULL, 1, "f:3", &err), NS_ERR_INPUT,
                    "f:3: the row has a field \"examples\"", &err);
    ns_prompt_free(&p);

#define LOAD_FAILS(yaml, code, needle)                                                                            \
    assert_ns_fails(ns_prompt_load(&p, &(ns_prompt_options){write_yaml(dir, yaml), "qwen-instruct", NULL}, &err), \
                    code, needle, &err)
    LOAD_FAILS("sistem: x\nuser: y\n", NS_ERR_CONFIG, "unknown key 'sistem': did you mean 'system'?");
    LOAD_FAILS("system: x\n", NS_ERR_CONFIG, "key 'user' is missing");
    LOAD_FAILS("user: [1]\n", NS_ERR_CONFIG, "'user' is a list, expected text");
    LOAD_FAILS("- user\n", NS_ERR_CONFIG, "found a list");
    LOAD_FAILS("user: x\nfew_shot_examples: {retriever: f}\n", NS_ERR_UNSUPPORTED, "use retrieval_file");
    LOAD_FAILS("user: x\nfew_shot_examples: {retrieval_field: g}\n", NS_ERR_CONFIG, "retrieval_file is missing");
    LOAD_FAILS("user: x\nfew_shot_examples: {retrieval_file: f}\n", NS_ERR_CONFIG, "retrieval_field is missing");
    LOAD_FAILS("user: x\nfew_shot_examples: {retrieval_file: f, retrieval_field: g, examples_type: h}\n", NS_ERR_CONFIG,
               "not both");
    LOAD_FAILS("user: x\nfew_shot_examples: {retrieval_file: f, retrieval_field: g, retrieved_entries: -1}\n",
               NS_ERR_CONFIG, "'retrieved_entries' must be a whole number from 0");
    LOAD_FAILS("user: x\nfew_shot_examples: {retrieval_file: /no/such.jsonl, retrieval_field: g}\n", NS_ERR_IO,
               "/no/such.jsonl");
    assert_ns_fails(ns_prompt_load(&p, &(ns_prompt_options){"generic/mathh", NULL, NULL}, &err), NS_ERR_CONFIG,
                    "no prompt config 'generic/mathh': did you mean 'generic/math'?", &err);
    assert_ns_fails(ns_prompt_load(&p, &(ns_prompt_options){"generic/math", "llama3-instuct", NULL}, &err),
                    NS_ERR_CONFIG, "did you mean 'llama3-instruct'?", &err);
    assert_ns_fails(ns_prompt_load(&p, &(ns_prompt_options){"/no/such.yaml", NULL, NULL}, &err), NS_ERR_IO,
                    "no such file", &err);
    ns_prompt_template t;
    assert_ns_fails(ns_prompt_template_load(&t, &a, write_yaml(dir, "text_begin: ''\n"), &err), NS_ERR_CONFIG,
                    "key 'system_begin' is missing", &err);
    /* names that the original's documentation prints */
    assert_ns_ok(ns_prompt_load(&p, &(ns_prompt_options){"nemo_skills/prompt/config/generic/math", NULL, NULL}, &err),
                 &err);
    ns_prompt_free(&p);
    ns_buf_free(&out);
    ns_arena_free(&a);
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

static void code_output(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_prompt_template t;
    ns_buf out = {0};
    assert_ns_ok(ns_prompt_template_load(&t, &a, "qwen-instruct", &err), &err);
    assert_ns_ok(ns_prompt_code_output(&t, &out, "completed", (ns_str){"4\n", 2}, (ns_str){"", 0}, 2, &err), &err);
    assert_string_equal(out.data, "```output\n4\n```\n```system\nRemaining code executions: 2\n```\n");
    ns_buf_clear(&out);
    assert_ns_ok(ns_prompt_code_output(&t, &out, "completed", (ns_str){"4\n", 2}, (ns_str){"", 0}, 0, &err), &err);
    assert_string_equal(out.data, "```output\n4\n```\n```system\nYou have run out of code executions!\n```\n");
    t.code_output_format = "odd";
    assert_ns_fails(ns_prompt_code_output(&t, &out, "completed", (ns_str){"", 0}, (ns_str){"", 0}, -1, &err),
                    NS_ERR_CONFIG, "'odd' is not one of llama, qwen", &err);
    ns_buf_free(&out);
    ns_arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden),
        cmocka_unit_test(formats),
        cmocka_unit_test(own_files),
        cmocka_unit_test(code_output),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
