/* JSON parser and tree: what is accepted, what is refused and how that is said, building, no memory, real rows. */
#include "base/testing.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

static ns_status parse(ns_json **v, ns_arena *a, const char *text, int flags, ns_error *err)
{
    return ns_json_parse(v, a, text, strlen(text), "t:3", flags, err);
}

/* Re-printed in the ASCII style; the result is static. */
static const char *echo(const char *text, int flags)
{
    static ns_buf out;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_json *v = NULL;
    ns_buf_clear(&out);
    assert_ns_ok(parse(&v, &a, text, flags, &err), &err);
    assert_ns_ok(ns_json_write(&out, v, NS_JSON_ASCII, &err), &err);
    ns_arena_free(&a);
    static char copy[4096];
    snprintf(copy, sizeof copy, "%s", out.data);
    ns_buf_free(&out);
    return copy;
}

static void accepted(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"null", "null"},
        {" \t\r\n true ", "true"},
        {"[]", "[]"},
        {"{ }", "{}"},
        {"[1,2 , 3]", "[1, 2, 3]"},
        {"{\"a\":{\"b\":[{}]}}", "{\"a\": {\"b\": [{}]}}"},
        {"[NaN,Infinity,-Infinity]", "[NaN, Infinity, -Infinity]"},
        {"123456789012345678901234567890", "123456789012345678901234567890"},
        {"-0", "0"},
        {"[0, -1, 0.5, 1e5, -0.0, 1E+2, 1e-7]", "[0, -1, 0.5, 100000.0, -0.0, 100.0, 1e-07]"},
        {"1e999", "Infinity"},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\"", "\"\\\"\\\\/\\b\\f\\n\\r\\tA\""},
        {"\"\\u00e9\\u4e2d\\ud83d\\ude00\"", "\"\\u00e9\\u4e2d\\ud83d\\ude00\""},
        {"\"\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\"", "\"\\u00e9\\u4e2d\\ud83d\\ude00\""},
        {"\"\x7f\"", "\"\\u007f\""},
        {"{\"\":1}", "{\"\": 1}"},
        {"{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}"},
        {"{\"\\u0061\":1,\"a\":2}", "{\"a\": 2}"}, /* equal after decoding */
        {"\"\\u0000\"", "\"\\u0000\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) assert_string_equal(echo(cases[i][0], 0), cases[i][1]);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "t:3: byte 0: found end of text, expected a value"},
        {"  ", "t:3: byte 2: found end of text, expected a value"},
        {"tru", "byte 0: found 't', expected a value"},
        {"nulL", "found 'n', expected a value"},
        {"-Inf", "byte 1: found 'I', expected a digit"},
        {"[1,]", "byte 3: found ']', expected a value"},
        {"[1 2]", "byte 3: found '2', expected ',' or ']'"},
        {"[1", "byte 2: found end of text, expected ',' or ']'"},
        {"{\"a\":1,}", "byte 7: found '}', expected a key"},
        {"{a:1}", "byte 1: found 'a', expected a key in double quotes"},
        {"{\"a\" 1}", "byte 5: found '1', expected ':'"},
        {"{\"a\":1 \"b\":2}", "byte 7: found '\"', expected ',' or '}'"},
        {"{\"a\":1}x", "byte 7: found 'x', expected nothing after the value"},
        {"01", "byte 1: found '1', expected no digit after a leading zero"},
        {"-", "byte 1: found end of text, expected a digit"},
        {"+1", "found '+', expected a value"},
        {".5", "found '.', expected a value"},
        {"1.", "byte 2: found end of text, expected a digit after the decimal point"},
        {"1.e5", "found 'e', expected a digit after"},
        {"1e", "expected a digit in the exponent"},
        {"1e+", "byte 3: found end of text, expected a digit in the exponent"},
        {"0x10", "byte 1: found 'x', expected nothing"},
        {"\"abc", "byte 4: found end of text, expected \" at the end"},
        {"\"a\tb\"", "byte 2: found byte 0x09, expected no control character"},
        {"\"a\nb\"", "byte 2: found end of line, expected no control character"},
        {"\"\\x\"", "byte 2: found 'x', expected an escape"},
        {"\"\\", "found end of text, expected an escape"},
        {"\"\\u12\"", "byte 1: found a \\u escape that is not complete"},
        {"\"\\u12g4\"", "byte 1: found a \\u escape"},
        {"\"\\ud83d\"", "byte 1: found half of a surrogate pair"},
        {"\"\\ude00\"", "half of a surrogate pair"},
        {"\"\\ud83d\\u0041\"", "half of a surrogate pair"},
        {"'a'", "found ''', expected a value"},
        {"\xef\xbb\xbf{}", "byte order mark"},
        {"\xc3\xa9", "found byte 0xc3, expected a value"},
        {"[1,\n2,\n 3 4]", "t:3: line 3, byte 3: found '4'"},
        {"/* c */ 1", "found '/', expected a value"},
        {"[\f1]", "found byte 0x0c"},
    };
    ns_error err = NS_ERROR_INIT;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ns_arena a = NS_ARENA_INIT("test");
        ns_json *v = (ns_json *)&err;
        assert_ns_fails(parse(&v, &a, cases[i].text, 0, &err), NS_ERR_INPUT, cases[i].message, &err);
        assert_null(v);
        ns_arena_free(&a);
    }
}

/* Sequences are put at every distance from the end of the text, so that both the wide and the byte loop meet them. */
static void utf8_is_checked(void **state)
{
    (void)state;
    static const char *const good[] = {"\xc2\x80",     "\xdf\xbf",     "\xe0\xa0\x80",     "\xed\x9f\xbf",
                                       "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"};
    static const char *const wrong[] = {"\x80",
                                        "\xbf",
                                        "\xc0\x80",
                                        "\xc1\xbf",
                                        "\xc2",
                                        "\xc2z",
                                        "\xe0\x9f\xbf",
                                        "\xe0\xa0",
                                        "\xed\xa0\x80",
                                        "\xed\xbf\xbf",
                                        "\xe2\x82",
                                        "\xf0\x8f\xbf\xbf",
                                        "\xf4\x90\x80\x80",
                                        "\xf5\x80\x80\x80",
                                        "\xff",
                                        "\xf0\x9f\x98",
                                        "\xe2\x82z"};
    ns_error err = NS_ERROR_INIT;
    char text[128], message[64];
    for (int before = 0; before < 20; before++) {
        for (int after = 0; after < 20; after += 3) {
            for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
                ns_arena a = NS_ARENA_INIT("test");
                ns_json *v;
                snprintf(text, sizeof text, "\"%.*s%s%.*s\"", before, "xxxxxxxxxxxxxxxxxxxx", good[i], after,
                         "yyyyyyyyyyyyyyyyyyyy");
                assert_ns_ok(parse(&v, &a, text, 0, &err), &err);
                assert_int_equal(v->s.n, strlen(text) - 2);
                assert_memory_equal(v->s.p, text + 1, v->s.n);
                ns_arena_free(&a);
            }
            for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
                ns_arena a = NS_ARENA_INIT("test");
                ns_json *v;
                snprintf(text, sizeof text, "\"%.*s%s%.*s\"", before, "xxxxxxxxxxxxxxxxxxxx", wrong[i], after,
                         "yyyyyyyyyyyyyyyyyyyy");
                snprintf(message, sizeof message, "byte %d: found byte 0x%02x, expected valid UTF-8", before + 1,
                         (unsigned char)wrong[i][0]);
                assert_ns_fails(parse(&v, &a, text, NS_JSON_LONE_OK, &err), NS_ERR_INPUT, message, &err);
                ns_arena_free(&a);
            }
        }
    }
    for (int c = 0; c < 0x20; c++) { /* control characters, at every place of a wide block */
        for (int before = 0; before < 20; before++) {
            ns_arena a = NS_ARENA_INIT("test");
            ns_json *v;
            int n =
                snprintf(text, sizeof text, "\"%.*s?%s\"", before, "xxxxxxxxxxxxxxxxxxxx", "yyyyyyyyyyyyyyyyyyyyyyy");
            text[1 + before] = (char)c;
            assert_ns_fails(ns_json_parse(&v, &a, text, (size_t)n, "t", 0, &err), NS_ERR_INPUT, "control character",
                            &err);
            ns_arena_free(&a);
        }
    }
}

static void strings_of_every_length(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    for (size_t n = 0; n < 80; n++) {
        for (size_t at = 0; at <= n; at++) {                   /* an escape at every place, or none */
            char *text = malloc(n + 4), *want = malloc(n + 1); /* exact sizes: a sanitizer sees reading past the end */
            memset(text, 'x', n + 4);
            memset(want, 'x', n + 1);
            text[0] = text[n + (at < n ? 2 : 1)] = '"';
            if (at < n) {
                text[1 + at] = '\\';
                text[2 + at] = 'n';
                want[at] = '\n';
            }
            size_t total = n + (at < n ? 3 : 2);
            char *exact = malloc(total);
            memcpy(exact, text, total);
            ns_arena a = NS_ARENA_INIT("test");
            ns_json *v;
            assert_ns_ok(ns_json_parse(&v, &a, exact, total, "t", 0, &err), &err);
            assert_int_equal(v->s.n, n);
            assert_memory_equal(v->s.p, want, n);
            ns_arena_free(&a);
            free(exact);
            free(text);
            free(want);
        }
    }
}

static void lone_surrogates_survive(void **state)
{
    (void)state;
    assert_string_equal(echo("\"\\ud83d\"", NS_JSON_LONE_OK), "\"\\ud83d\"");
    assert_string_equal(echo("\"\\ude00\\ud83d\"", NS_JSON_LONE_OK), "\"\\ude00\\ud83d\"");
    assert_string_equal(echo("\"\\uD83D\\uD83D\\uDE00\"", NS_JSON_LONE_OK), "\"\\ud83d\\ud83d\\ude00\"");
    assert_string_equal(echo("\"\\ud83dx\\\\\"", NS_JSON_LONE_OK), "\"\\ud83dx\\\\\"");
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_json *v;
    assert_ns_ok(parse(&v, &a, "\"\\uD83D\"", NS_JSON_LONE_OK, &err), &err);
    assert_int_equal(v->s.n, 3);
    assert_memory_equal(v->s.p, "\xed\xa0\xbd", 3);
    ns_buf out = {0};
    assert_ns_fails(ns_json_write(&out, v, NS_JSON_UTF8, &err), NS_ERR_INPUT, "\\ud83d", &err);
    ns_buf_free(&out);
    ns_arena_free(&a);
}

static void nesting_is_limited(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_json *v;
    char text[1100];
    memset(text, '[', 512);
    memset(text + 512, ']', 512);
    assert_ns_ok(ns_json_parse(&v, &a, text, 1024, "t", 0, &err), &err);
    memset(text, '[', 513);
    memset(text + 513, ']', 513);
    assert_ns_fails(ns_json_parse(&v, &a, text, 1026, "t", 0, &err), NS_ERR_INPUT,
                    "byte 512: found '[', expected no more than 512", &err);
    ns_buf b = {0};
    assert_ns_ok(ns_buf_adds(&b, "[", &err), &err);
    for (int i = 0; i < 2000; i++) assert_ns_ok(ns_buf_adds(&b, "[[]],", &err), &err);
    assert_ns_ok(ns_buf_adds(&b, "1]", &err), &err);
    assert_ns_ok(ns_json_parse(&v, &a, b.data, b.len, "t", 0, &err), &err);
    assert_int_equal(v->n, 2001);
    ns_buf_free(&b);
    ns_arena_free(&a);
}

static void many_keys_and_repeats(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    static const int sizes[] = {1, 15, 16, 17, 18, 47, 48, 49, 50, 1000, 20000};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        int n = sizes[s];
        ns_arena a = NS_ARENA_INIT("test");
        ns_buf b = {0};
        ns_json *v;
        int64_t x;
        char key[32];
        assert_ns_ok(ns_buf_adds(&b, "{", &err), &err);
        for (int i = 0; i < n; i++) assert_ns_ok(ns_buf_printf(&b, &err, "\"key%d\": %d, ", i, i), &err);
        for (int i = n - 1; i >= 0; i -= 3) assert_ns_ok(ns_buf_printf(&b, &err, "\"k\\u0065y%d\": %d, ", i, -i), &err);
        assert_ns_ok(ns_buf_adds(&b, "\"last\": 0}", &err), &err);
        assert_ns_ok(ns_json_parse(&v, &a, b.data, b.len, "t", 0, &err), &err);
        assert_int_equal(v->n, n + 1);
        for (int i = 0; i < n; i++) {
            snprintf(key, sizeof key, "key%d", i);
            assert_true(ns_str_eq(v->keys[i], key));
            assert_true(ns_json_is_int(&v->items[i], &x));
            assert_int_equal(x, (n - 1 - i) % 3 == 0 ? -i : i);
        }
        assert_ptr_equal(ns_json_get(v, "last"), &v->items[n]);
        assert_null(ns_json_get(v, "las"));
        ns_buf_free(&b);
        ns_arena_free(&a);
    }
}

static void access_and_types(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_json *v;
    int64_t i;
    double d;
    assert_ns_ok(parse(&v, &a,
                       "{\"a\":{\"b\":{\"c\":7}},\"n\":[9223372036854775807,-9223372036854775808,9223372036854775808,-"
                       "9223372036854775809,1.0,1e2,-0,\"1\",NaN,0.0,-3]}",
                       0, &err),
                 &err);
    assert_true(ns_json_is_int(ns_json_at(v, "a.b.c"), &i) && i == 7);
    assert_null(ns_json_at(v, "a.x.c"));
    assert_null(ns_json_at(v, "a.b.c.d"));
    assert_null(ns_json_at(NULL, "a"));
    assert_null(ns_json_get(NULL, "a"));
    const ns_json *n = ns_json_get(v, "n")->items;
    assert_true(ns_json_is_int(&n[0], &i) && i == INT64_MAX);
    assert_true(ns_json_is_int(&n[1], &i) && i == INT64_MIN);
    for (int k = 2; k <= 5; k++) assert_false(ns_json_is_int(&n[k], &i));
    assert_true(ns_json_is_int(&n[6], &i) && i == 0);
    assert_false(ns_json_is_int(&n[7], &i) || ns_json_is_int(NULL, &i) || ns_json_is_num(&n[7], &d));
    assert_true(ns_json_is_num(&n[2], &d) && d == 9223372036854775808.0);
    assert_true(ns_json_is_num(&n[5], &d) && d == 100.0);
    assert_true(ns_json_is_num(&n[8], &d) && d != d);
    assert_true(ns_json_truthy(&n[8]) && ns_json_truthy(&n[10]) && ns_json_truthy(&n[7]));
    assert_false(ns_json_truthy(&n[6]) || ns_json_truthy(&n[9]) || ns_json_truthy(NULL));
    assert_ns_ok(parse(&v, &a, "[null,true,false,\"\",\"0\",[],[0],{},{\"a\":0},0e5,-0.0]", 0, &err), &err);
    static const int want[] = {0, 1, 0, 0, 1, 0, 1, 0, 1, 0, 0};
    for (int k = 0; k < 11; k++) assert_int_equal(ns_json_truthy(&v->items[k]), want[k]);
    ns_arena_free(&a);
}

static void building(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_json *obj = ns_json_new(&a, NS_JSON_OBJECT, &err), *arr = ns_json_new(&a, NS_JSON_ARRAY, &err);
    for (int i = 0; i < 100; i++) assert_ns_ok(ns_json_append(arr, &a, ns_json_new_int(&a, i - 50, &err), &err), &err);
    assert_int_equal(arr->n, 100);
    ns_json copy = *arr; /* two shallow copies that both grow do not disturb each other */
    assert_ns_ok(ns_json_append(arr, &a, ns_json_new_str(&a, "left", &err), &err), &err);
    assert_ns_ok(ns_json_append(&copy, &a, ns_json_new_str(&a, "right", &err), &err), &err);
    assert_true(ns_str_eq(arr->items[100].s, "left") && ns_str_eq(copy.items[100].s, "right"));
    assert_true(ns_str_eq(copy.items[99].s, "49"));
    char key[16];
    for (int i = 0; i < 60; i++) {
        snprintf(key, sizeof key, "k%d", i % 40);
        assert_ns_ok(ns_json_set(obj, &a, key, ns_json_new_num(&a, i / 4.0, &err), &err), &err);
    }
    assert_int_equal(obj->n, 40);
    assert_true(ns_str_eq(ns_json_get(obj, "k19")->s, "14.75") && ns_str_eq(ns_json_get(obj, "k20")->s, "5.0"));
    ns_json *v;
    assert_ns_ok(parse(&v, &a, "{\"a\":1,\"b\":[1]}", 0, &err), &err); /* parsed nodes grow, too */
    assert_ns_ok(ns_json_set(v, &a, "c", ns_json_new_bool(&a, 5, &err), &err), &err);
    assert_ns_ok(ns_json_set(v, &a, "a", &v->items[1], &err), &err);
    assert_ns_ok(ns_json_set(v, &a, "d", &v->items[1], &err), &err);
    assert_ns_ok(ns_json_set(v, &a, "e", &v->items[2], &err), &err); /* lives in the block that moves */
    ns_buf out = {0};
    assert_ns_ok(ns_json_write(&out, v, NS_JSON_ASCII, &err), &err);
    assert_string_equal(out.data, "{\"a\": [1], \"b\": [1], \"c\": true, \"d\": [1], \"e\": true}");
    ns_buf_free(&out);
    assert_int_equal(ns_json_set(v, &a, "x", NULL, &err), NS_ERR_MEMORY);
    assert_int_equal(ns_json_append(arr, &a, NULL, NULL), NS_ERR_MEMORY);
    ns_arena_free(&a);
}

static const char RICH[] =
    "{\"a\\n\": [1, 2.5, \"x\\u00e9\", {\"k\": null}], \"b\": true, \"c\": \"plain\", \"d\": {}}";

/* Every allocation fails once, in parsing, building and writing: an error, no leak, and success afterwards. */
static ns_status whole_cycle(ns_buf *out, ns_error *err)
{
    ns_arena a = {NULL, "test", 64}; /* small blocks: many allocations */
    ns_json *v = NULL;
    ns_buf big = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_json_parse(&v, &a, RICH, sizeof RICH - 1, "t", 0, err), "parse");
    NS_CHECK(st, ns_json_set(v, &a, "e", ns_json_new_int(&a, 5, err), err), "set");
    NS_CHECK(st, ns_json_set(v, &a, "f", ns_json_new_num(&a, 0.5, err), err), "set");
    NS_CHECK(st, ns_json_append(&v->items[0], &a, ns_json_new_bool(&a, 0, err), err), "append");
    NS_CHECK(st, ns_json_write(out, v, NS_JSON_UTF8, err), "write");
    NS_CHECK(st, ns_json_write_pretty(out, v, err), "write");
    NS_CHECK(st, ns_buf_adds(&big, "{\"x\": [", err), "big");
    for (int i = 0; i < 200; i++) NS_CHECK(st, ns_buf_printf(&big, err, "{\"%d\": %d}, ", i, i), "big");
    NS_CHECK(st, ns_buf_adds(&big, "{}]", err), "big");
    for (int i = 0; i < 100; i++) NS_CHECK(st, ns_buf_printf(&big, err, ", \"k%d\": \"\\t\"", i), "big");
    NS_CHECK(st, ns_buf_adds(&big, "}", err), "big");
    NS_CHECK(st, ns_json_parse(&v, &a, big.data, big.len, "t", 0, err), "parse");
    assert_int_equal(v->n, 101);
done:
    ns_buf_free(&big);
    ns_arena_free(&a);
    return st;
}

static void every_allocation_fails_once(void **state)
{
    (void)state;
    uint64_t n;
    for (n = 1;; n++) {
        ns_error err = NS_ERROR_INIT;
        ns_buf out = {0};
        uint64_t before = ns_mem_get_stats().bytes_now;
        ns_mem_fail_at(n, 0);
        ns_status st = whole_cycle(&out, &err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        ns_buf_free(&out);
        assert_int_equal(ns_mem_get_stats().bytes_now, before);
        assert_int_equal(st, hit ? NS_ERR_MEMORY : NS_OK);
        if (hit) assert_int_equal(err.code, NS_ERR_MEMORY);
        if (!hit) break;
    }
    assert_true(n > 30);
}

static void files(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char dir[256], path[300];
    ns_arena a = NS_ARENA_INIT("test");
    ns_json *v;
    snprintf(path, sizeof path, "%s/c.json", ns_test_tmpdir(dir, sizeof dir));
    assert_ns_ok(ns_file_replace(path, RICH, sizeof RICH - 1, &err), &err);
    assert_ns_ok(ns_json_read_file(&v, &a, path, &err), &err);
    assert_true(ns_str_eq(ns_json_get(v, "c")->s, "plain"));
    assert_ns_ok(ns_file_replace(path, "{\n \"a\": 1,\n}\n", 13, &err), &err);
    assert_ns_fails(ns_json_read_file(&v, &a, path, &err), NS_ERR_INPUT,
                    "c.json: line 3, byte 0: found '}', expected a key", &err);
    assert_ns_ok(ns_remove_tree(path, &err), &err);
    assert_ns_fails(ns_json_read_file(&v, &a, path, &err), NS_ERR_IO, "c.json': No such file", &err);
    ns_remove_tree(dir, NULL) == NS_OK ? (void)0 : fail();
    ns_arena_free(&a);
}

/* All rows of a real file: parsed, written in both styles, parsed again, equal; and how fast. */
static void real_rows(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_error err = NS_ERROR_INIT;
    char path[4200];
    snprintf(path, sizeof path, "%s/gsm8k/train.jsonl", ns_test_data());
    ns_buf text = {0}, one = {0}, two = {0};
    assert_ns_ok(ns_file_read(&text, path, &err), &err);
    ns_arena a = NS_ARENA_INIT("test");
    size_t rows = 0;
    double spent = 0;
    for (const char *p = text.data, *end = text.data + text.len; p < end;) {
        const char *q = memchr(p, '\n', (size_t)(end - p));
        ns_json *v, *w;
        ns_arena_mark m = ns_arena_save(&a);
        double t = ns_time_now();
        assert_ns_ok(ns_json_parse(&v, &a, p, (size_t)(q - p), path, 0, &err), &err);
        spent += ns_time_now() - t;
        assert_true(v->type == NS_JSON_OBJECT && ns_json_get(v, "question"));
        for (int style = NS_JSON_ASCII; style <= NS_JSON_UTF8; style++) {
            ns_buf_clear(&one);
            ns_buf_clear(&two);
            assert_ns_ok(ns_json_write(&one, v, style, &err), &err);
            assert_ns_ok(ns_json_parse(&w, &a, one.data, one.len, "again", 0, &err), &err);
            assert_ns_ok(ns_json_write(&two, w, style, &err), &err);
            assert_string_equal(one.data, two.data);
        }
        ns_arena_rollback(&a, m);
        rows++;
        p = q + 1;
    }
    assert_int_equal(rows, 7473);
    print_message("parsed %zu rows, %.0f MB/s\n", rows, (double)text.len / 1e6 / spent);
    ns_arena_free(&a);
    ns_buf_free(&text);
    ns_buf_free(&one);
    ns_buf_free(&two);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(accepted),
                                       cmocka_unit_test(refused),
                                       cmocka_unit_test(utf8_is_checked),
                                       cmocka_unit_test(strings_of_every_length),
                                       cmocka_unit_test(lone_surrogates_survive),
                                       cmocka_unit_test(nesting_is_limited),
                                       cmocka_unit_test(many_keys_and_repeats),
                                       cmocka_unit_test(access_and_types),
                                       cmocka_unit_test(building),
                                       cmocka_unit_test(every_allocation_fails_once),
                                       cmocka_unit_test(files),
                                       cmocka_unit_test(real_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
