/* JSON writer: the two styles and the indented one, doubles as Python's repr prints them. */
#include "base/testing.h"

#include <math.h>

#include "base/json.h"

static void doubles_as_repr(void **state)
{
    (void)state;
    static const struct {
        double x;
        const char *want;
    } cases[] = {
        {0.0, "0.0"},
        {-0.0, "-0.0"},
        {1, "1.0"},
        {-1.5, "-1.5"},
        {0.1, "0.1"},
        {0.1 + 0.2, "0.30000000000000004"},
        {1e5, "100000.0"},
        {1e15, "1000000000000000.0"},
        {1e16, "1e+16"},
        {9999999999999998.0, "9999999999999998.0"},
        {123456789012345680.0, "1.2345678901234568e+17"},
        {1e-4, "0.0001"},
        {1e-5, "1e-05"},
        {0.00012345, "0.00012345"},
        {1.2345e-5, "1.2345e-05"},
        {1e22, "1e+22"},
        {1e100, "1e+100"},
        {-2.5e-100, "-2.5e-100"},
        {5e-324, "5e-324"},
        {2.2250738585072014e-308, "2.2250738585072014e-308"},
        {2.225073858507201e-308, "2.225073858507201e-308"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {0x1p-44, "5.684341886080802e-14"}, /* the nearest 16 digits do not read back, the next do */
        {0x1p-1022 * 3, "6.675221575521604e-308"},
        {9007199254740993.0, "9007199254740992.0"},
        {3.141592653589793, "3.141592653589793"},
        {100, "100.0"},
        {1024 * 1024, "1048576.0"},
        {(double)NAN, "NaN"},
        {(double)INFINITY, "Infinity"},
        {-(double)INFINITY, "-Infinity"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char got[32];
        ns_json_format_double(got, cases[i].x);
        assert_string_equal(got, cases[i].want);
    }
}

/* Whatever the bits: the text reads back equal, and no shorter %g text does. */
static void doubles_read_back(void **state)
{
    (void)state;
    uint64_t s = 88172645463325252u;
    for (int i = 0; i < 20000; i++) {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        double x;
        char got[32], shorter[40];
        memcpy(&x, &s, sizeof x);
        if (!isfinite(x)) continue;
        ns_json_format_double(got, x);
        assert_true(strtod(got, NULL) == x);
        int digits = 0;
        for (const char *p = got; *p && *p != 'e'; p++) digits += *p >= '0' && *p <= '9';
        if (digits > 16 && strchr(got, 'e')) {
            snprintf(shorter, sizeof shorter, "%.16g", x);
            assert_true(strtod(shorter, NULL) != x);
        }
    }
}

static const char *written(const char *text, int style, ns_status want)
{
    static char copy[4096];
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_buf out = {0};
    ns_json *v;
    assert_ns_ok(ns_json_parse(&v, &a, text, strlen(text), "t", NS_JSON_LONE_OK, &err), &err);
    ns_status st = style < 0 ? ns_json_write_pretty(&out, v, &err) : ns_json_write(&out, v, style, &err);
    assert_int_equal(st, want);
    snprintf(copy, sizeof copy, "%s", st == NS_OK ? out.data : err.msg);
    ns_buf_free(&out);
    ns_arena_free(&a);
    return copy;
}

static void styles(void **state)
{
    (void)state;
    static const char text[] =
        "{\"k\xc3\xa9y\":[1,-0,1e5,12345678901234567890123],\"s\":\"a/\\u007f\\u0001\\u000b\\b\\f\\n\\r\\t\\\"\\\\ "
        "\xe4\xb8\xad\xf0\x9f\x98\x80\xc2\x80\xef\xbf\xbf\",\"t\":true,\"f\":false,\"n\":null,\"e\":[],\"o\":{}}";
    assert_string_equal(written(text, NS_JSON_ASCII, NS_OK),
                        "{\"k\\u00e9y\": [1, 0, 100000.0, 12345678901234567890123], \"s\": "
                        "\"a/\\u007f\\u0001\\u000b\\b\\f\\n\\r\\t\\\"\\\\ \\u4e2d\\ud83d\\ude00\\u0080\\uffff\", "
                        "\"t\": true, \"f\": false, \"n\": null, \"e\": [], \"o\": {}}");
    assert_string_equal(
        written(text, NS_JSON_UTF8, NS_OK),
        "{\"k\xc3\xa9y\": [1, 0, 100000.0, 12345678901234567890123], \"s\": "
        "\"a/\x7f\\u0001\\u000b\\b\\f\\n\\r\\t\\\"\\\\ \xe4\xb8\xad\xf0\x9f\x98\x80\xc2\x80\xef\xbf\xbf\", "
        "\"t\": true, \"f\": false, \"n\": null, \"e\": [], \"o\": {}}");
    assert_string_equal(written("{\"a\":1,\"b\":[1,{\"c\":[]}],\"d\":{},\"\xc3\xa9\":{\"x\":null}}", -1, NS_OK),
                        "{\n  \"a\": 1,\n  \"b\": [\n    1,\n    {\n      \"c\": []\n    }\n  ],\n  \"d\": {},\n"
                        "  \"\\u00e9\": {\n    \"x\": null\n  }\n}");
    assert_string_equal(written("\"\\udfff\"", NS_JSON_ASCII, NS_OK), "\"\\udfff\"");
    assert_non_null(strstr(written("[\"x\\udfff\"]", NS_JSON_UTF8, NS_ERR_INPUT), "\\udfff"));
}

static void strings_of_every_length_and_byte(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    for (int c = 0; c < 256; c++) {
        for (size_t n = 1; n < 36; n++) {
            char *s = malloc(n); /* exact size, for the sanitizer */
            memset(s, 'x', n);
            s[n / 2] = (char)c;
            ns_str v = {s, n};
            ns_buf out = {0};
            if (c >= 0x80) {
                assert_ns_fails(ns_json_write_str(&out, v, NS_JSON_ASCII, &err), NS_ERR_INPUT, "is not UTF-8", &err);
            } else {
                char esc[16], want[80];
                static const char *const named = "\b\t\n\f\r\"\\";
                if (c && strchr(named, c))
                    snprintf(esc, sizeof esc, "\\%c", "btnfr\"\\"[strchr(named, c) - named]);
                else if (c < 0x20 || c == 0x7f)
                    snprintf(esc, sizeof esc, "\\u%04x", (unsigned)c);
                else
                    snprintf(esc, sizeof esc, "%c", c);
                snprintf(want, sizeof want, "\"%.*s%s%.*s\"", (int)(n / 2), "xxxxxxxxxxxxxxxxxxxxxxxx", esc,
                         (int)(n - n / 2 - 1), "xxxxxxxxxxxxxxxxxxxxxxxx");
                assert_ns_ok(ns_json_write_str(&out, v, NS_JSON_ASCII, &err), &err);
                assert_string_equal(out.data, want);
                assert_int_equal(out.len, strlen(want));
            }
            ns_buf_free(&out);
            free(s);
        }
    }
    ns_buf out = {0}; /* all escapes: six times as long */
    char *dels = malloc(5000);
    memset(dels, 0x7f, 5000);
    ns_str v = {dels, 5000};
    assert_ns_ok(ns_json_write_str(&out, v, NS_JSON_ASCII, &err), &err);
    assert_int_equal(out.len, 30002);
    ns_buf_free(&out);
    ns_str empty = {NULL, 0};
    assert_ns_ok(ns_json_write_str(&out, empty, NS_JSON_UTF8, &err), &err);
    assert_string_equal(out.data, "\"\"");
    ns_buf_free(&out);
    free(dels);
    static const char *const wrong[] = {"\xc0\x80",         "\xe0\x80\x80", "\xf0\x80\x80\x80",
                                        "\xf4\x90\x80\x80", "\xe2\x82",     "\xc3x"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        ns_str w = {wrong[i], strlen(wrong[i])};
        assert_ns_fails(ns_json_write_str(&out, w, NS_JSON_UTF8, &err), NS_ERR_INPUT, "byte 0", &err);
        ns_buf_free(&out);
    }
}

static void long_numbers(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_buf text = {0}, out = {0};
    ns_json *v;
    double x;
    assert_ns_ok(ns_buf_adds(&text, "0.", &err), &err);
    for (int i = 0; i < 2000; i++) assert_ns_ok(ns_buf_addc(&text, (char)(i < 3 ? '1' : '0'), &err), &err);
    assert_ns_ok(ns_json_parse(&v, &a, text.data, text.len, "t", 0, &err), &err);
    assert_ns_ok(ns_json_write(&out, v, NS_JSON_ASCII, &err), &err);
    assert_string_equal(out.data, "0.111");
    ns_mem_fail_at(1, 0);
    assert_false(ns_json_is_num(v, &x));
    ns_mem_fail_at(1, 0);
    assert_ns_fails(ns_json_write(&out, v, NS_JSON_ASCII, &err), NS_ERR_MEMORY, "2002 digits", &err);
    ns_mem_fail_at(0, 0);
    ns_buf_free(&text);
    ns_buf_free(&out);
    ns_arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(doubles_as_repr), cmocka_unit_test(doubles_read_back),
                                       cmocka_unit_test(styles), cmocka_unit_test(strings_of_every_length_and_byte),
                                       cmocka_unit_test(long_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
