/* NFC and UTF-8 checking: examples of UAX #15, Hangul, exclusions, order of marks, the Unicode 9.0 boundary, long runs. */
#include "base/mem.h"
#include "base/testing.h"
#include "tok/unicode.h"

static void check(const char *in, const char *want)
{
    ns_buf out = {0};
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_nfc(&out, (const uint8_t *)in, strlen(in), &err), &err);
    assert_string_equal(out.data, want);
    if (ns_nfc_quick((const uint8_t *)in, strlen(in))) assert_string_equal(in, want);
    ns_buf_free(&out);
}

static void examples(void **state)
{
    (void)state;
    check("", "");
    check("plain ascii", "plain ascii");
    check("e\xcc\x81", "\xc3\xa9");
    check("xe\xcc\x81ye\xcc\x81", "x\xc3\xa9y\xc3\xa9");
    check("\xc3\xa9", "\xc3\xa9");
    check("\xe2\x84\xa6 \xe2\x84\xab", "\xce\xa9 \xc3\x85"); /* Ohm and Angstrom signs are singletons */
    check("\xef\xac\x81", "\xef\xac\x81");                   /* compatibility characters stay */
    check("q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87");         /* marks in order of class */
    check("a\xcc\x81\xcc\xa3", "\xe1\xba\xa1\xcc\x81");      /* the dot below composes past the acute */
    check("\xcc\x81"
          "e",
          "\xcc\x81"
          "e"); /* a leading mark stays */
    check("a\xcc\x81\xcc\x81", "\xc3\xa1\xcc\x81");
    check("a\xcc\x85\xcc\x81", "a\xcc\x85\xcc\x81");   /* a mark of the same class blocks */
    check("\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"); /* composition exclusion: decomposed even in NFC */
    check("\xcd\xb4", "\xca\xb9");
}

static void hangul(void **state)
{
    (void)state;
    check("\xe1\x84\x80\xe1\x85\xa1", "\xea\xb0\x80");                             /* L V */
    check("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81");                 /* L V T */
    check("\xea\xb0\x80\xe1\x86\xa8", "\xea\xb0\x81");                             /* LV T */
    check("\xea\xb0\x81\xe1\x86\xa8", "\xea\xb0\x81\xe1\x86\xa8");                 /* LVT T stays */
    check("\xe1\x84\x80\xcc\x81\xe1\x85\xa1", "\xe1\x84\x80\xcc\x81\xe1\x85\xa1"); /* blocked by a mark */
    check("\xed\x95\x9c\xea\xb5\xad", "\xed\x95\x9c\xea\xb5\xad");
}

/* Marks younger than Unicode 9.0 are no marks to the reference normaliser (dev/gen_unicode.py). */
static void pinned_to_unicode_9(void **state)
{
    (void)state;
    check("a\xdf\xbd\xcc\x81", "a\xdf\xbd\xcc\x81"); /* U+07FD, Unicode 11: blocks the acute */
}

static void every_composite_round_trips(void **state)
{
    (void)state;
    assert_true(ns_uni_n_comp > 900);
    for (uint32_t i = 0; i < ns_uni_n_comp; i++) {
        char in[16], want[8];
        size_t n = ns_utf8_put((uint8_t *)in, ns_uni_comps[i].first);
        in[n + ns_utf8_put((uint8_t *)in + n, ns_uni_comps[i].second)] = 0;
        want[ns_utf8_put((uint8_t *)want, ns_uni_comps[i].composed)] = 0;
        check(in, want);
        check(want, want);
    }
}

static void a_megabyte_of_marks(void **state)
{
    (void)state;
    enum { N = 500000 };
    ns_buf in = {0}, out = {0}, again = {0};
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_buf_adds(&in, "a", &err), &err);
    for (int i = 0; i < N; i++) assert_ns_ok(ns_buf_adds(&in, i % 2 ? "\xcc\xa3" : "\xcc\x87", &err), &err);
    assert_ns_ok(ns_nfc(&out, (const uint8_t *)in.data, in.len, &err), &err);
    assert_memory_equal(out.data, "\xe1\xba\xa1\xcc\xa3\xcc\xa3",
                        7); /* a + dot below first, then the other dots below */
    assert_memory_equal(out.data + out.len - 2, "\xcc\x87", 2);
    assert_ns_ok(ns_nfc(&again, (const uint8_t *)out.data, out.len, &err), &err);
    assert_int_equal(again.len, out.len);
    assert_memory_equal(again.data, out.data, out.len);
    ns_buf_free(&in);
    ns_buf_free(&out);
    ns_buf_free(&again);
}

static void utf8_check(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n, bad;
    } cases[] = {
        {"", 0, 0},
        {"abcdefghijk", 11, 11},
        {"a\0b", 3, 3},
        {"abcdefghijklmnop\xff", 17, 16},
        {"\x80", 1, 0},
        {"a\xc3", 2, 1},
        {"\xc0\x80", 2, 0},          /* overlong NUL */
        {"\xe0\x9f\xbf", 3, 0},      /* overlong */
        {"\xed\xa0\x80", 3, 0},      /* surrogate */
        {"x\xf0\x8f\xbf\xbf", 5, 1}, /* overlong */
        {"\xf4\x90\x80\x80", 4, 0},  /* past U+10FFFF */
        {"\xf4\x8f\xbf\xbf", 4, 4},
        {"\xf0\x9f\x98\x80\xe4\xb8", 6, 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(ns_utf8_check((const uint8_t *)cases[i].text, cases[i].n), cases[i].bad);
    for (uint32_t c = 0; c < 0x110000; c++) {
        uint8_t b[4];
        size_t n = ns_utf8_put(b, c), len;
        assert_int_equal(ns_utf8_check(b, n), c >= 0xd800 && c < 0xe000 ? 0 : n);
        assert_int_equal(ns_utf8_at(b, 0, &len), c);
        assert_int_equal(len, n);
    }
}

/* Expected values: bytes.decode("utf-8", "replace") of Python 3.11. */
static void utf8_repair(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
#define BAD "\xef\xbf\xbd"
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"", ""},
        {"plain", "plain"},
        {"caf\xc3\xa9", "caf\xc3\xa9"},
        {"\xa5", BAD},
        {"a\xa5\xa5z", "a" BAD BAD "z"},
        {"a\xc3", "a" BAD},
        {"\xf0\x9f\x98", BAD},
        {"\xf0\x9f\x98x", BAD "x"},
        {"\xe4\xb8\xe4\xb8\xad", BAD "\xe4\xb8\xad"},
        {"\xc0\x80", BAD BAD},
        {"\xe0\x9f\xbf", BAD BAD BAD},
        {"\xed\xa0\x80", BAD BAD BAD},
        {"\xf4\x90\x80\x80", BAD BAD BAD BAD},
        {"\xf5\xc3\xa9", BAD "\xc3\xa9"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ns_buf out = {0};
        const char *s = cases[i].text;
        assert_ns_ok(ns_utf8_repair(&out, (const uint8_t *)s, strlen(s), &err), &err);
        assert_string_equal(out.data ? out.data : "", cases[i].want);
        ns_buf_free(&out);
    }
}

static void out_of_memory(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    for (uint64_t k = 1;; k++) {
        ns_buf out = {0};
        ns_error e = NS_ERROR_INIT;
        err = e;
        ns_mem_fail_at(k, 0);
        ns_status st = ns_nfc(&out, (const uint8_t *)"ae\xcc\x81\xea\xb0\x81", 7, &err);
        ns_mem_fail_at(0, 0);
        ns_buf_free(&out);
        if (st == NS_OK) break;
        assert_int_equal(st, NS_ERR_MEMORY);
        assert_true(k < 50);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples),
        cmocka_unit_test(hangul),
        cmocka_unit_test(pinned_to_unicode_9),
        cmocka_unit_test(every_composite_round_trips),
        cmocka_unit_test(a_megabyte_of_marks),
        cmocka_unit_test(utf8_check),
        cmocka_unit_test(utf8_repair),
        cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
