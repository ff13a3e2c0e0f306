/* Pre-tokeniser scanners: exact pieces of hand-checked texts (each expectation was confirmed with the reference library),
 * cover and progress on random text, table sizes against the Unicode Character Database. */
#include "base/testing.h"
#include "tok/split.h"
#include "tok/unicode.h"

typedef struct split_case {
    ns_split_fn fn;
    const char *text, *want; /* pieces joined with "|"; no text here has one */
} split_case;

static const split_case cases[] = {
    {ns_split_llama3, "Hello world", "Hello| world"},
    {ns_split_llama3, "you've DON'T I'LL we'd 'x", "you|'ve| DON|'T| I|'LL| we|'d| '|x"},
    {ns_split_llama3, "it'\xc5\xbf ok", "it|'\xc5\xbf| ok"}, /* long s folds to s */
    {ns_split_llama3, "12345 1234", "123|45| |123|4"},
    {ns_split_llama3, "a   b", "a|  | b"},
    {ns_split_llama3, "   ", "   "},
    {ns_split_llama3, "x \n \n y", "x| \n \n| y"},
    {ns_split_llama3, "x \n\n  ", "x| \n\n|  "},
    {ns_split_llama3, "end.\n\nNew", "end|.\n\n|New"},
    {ns_split_llama3, "\tx\t1", "\tx|\t|1"},
    {ns_split_llama3, " !!\r\n(a)", " !!\r\n|(a|)"},
    {ns_split_llama3,
     "a\xc2\xa0"
     "b  c",
     "a|\xc2\xa0"
     "b| | c"},
    {ns_split_llama3, "\xe3\x80\x80\xe5\x85\xa8\xe8\xa7\x92", "\xe3\x80\x80\xe5\x85\xa8\xe8\xa7\x92"},
    {ns_split_llama3, "e\xcc\x81t", "e|\xcc\x81t"}, /* a mark is no letter, but may lead one */
    {ns_split_qwen2, "12345 x1", "1|2|3|4|5| x|1"},
    {ns_split_qwen2, "\xc2\xbd\xef\xbc\x91", "\xc2\xbd|\xef\xbc\x91"},
    {ns_split_gpt2, "it's IT'S 'llx", "it|'s| IT|'|S| '|llx"},
    {ns_split_gpt2, "a 123456 b\n\nc", "a| 123456| b|\n|\n|c"},
    {ns_split_gpt2, "\tx !?\n", "\t|x| !?|\n"},
    {ns_split_gpt2, "a  \n b", "a|  \n| b"},
    {ns_split_tekken, "HelloWorld ABC abCD 12", "Hello|World| ABC| ab|CD| |1|2"},
    {ns_split_tekken, "it's/\n\n//", "it|'s|/\n\n//"},
    {ns_split_tekken,
     "AB\xcc\x81"
     "C",
     "AB\xcc\x81|C"},
};

static void pieces(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const uint8_t *p = (const uint8_t *)cases[k].text;
        size_t n = strlen(cases[k].text), w = 0;
        char got[256];
        for (size_t i = 0, e; i < n; i = e) {
            e = cases[k].fn(p, n, i);
            if (w) got[w++] = '|';
            memcpy(got + w, p + i, e - i);
            w += e - i;
        }
        got[w] = 0;
        assert_string_equal(got, cases[k].want);
    }
}

static void known_patterns(void **state)
{
    (void)state;
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    assert_ptr_equal(ns_split_find(gpt2, strlen(gpt2)), ns_split_gpt2);
    assert_null(ns_split_find(gpt2, strlen(gpt2) - 1)); /* nearly is not enough */
    assert_null(ns_split_find("", 0));
}

static void covers_random_text(void **state)
{
    (void)state;
    static const ns_split_fn fns[] = {ns_split_gpt2, ns_split_llama3, ns_split_qwen2, ns_split_tekken};
    static const uint32_t odd[] = {'\'', ' ',  '\n',  '\r',  's',    'L',    '1',
                                   0x85, 0xa0, 0x17f, 0x301, 0x3000, 0x4e00, 0x1f600};
    uint32_t rng = 1;
    for (int round = 0; round < 2000; round++) {
        uint8_t text[400];
        size_t n = 0;
        for (int k = 0; k < 60; k++) {
            rng = rng * 1664525 + 1013904223;
            uint32_t c = rng >> 30 ? odd[(rng >> 8) % 14] : (rng >> 8) % 0x110000;
            if (c >= 0xd800 && c < 0xe000) c = '.';
            n += ns_utf8_put(text + n, c);
        }
        assert_int_equal(ns_utf8_check(text, n), n);
        for (int f = 0; f < 4; f++)
            for (size_t i = 0, e; i < n; i = e) {
                uint8_t copy[400]; /* the scanner must not look past the end */
                memcpy(copy, text, n);
                e = fns[f](copy, n, i);
                assert_true(e > i && e <= n);
                assert_true(e == n || (text[e] & 0xc0) != 0x80);
            }
    }
}

/* A long run must not be rescanned for each piece. */
static void long_runs_are_linear(void **state)
{
    (void)state;
    enum { N = 4000000 };
    static const ns_split_fn fns[] = {ns_split_gpt2, ns_split_llama3, ns_split_qwen2, ns_split_tekken};
    uint8_t *p = malloc(N);
    assert_non_null(p);
    for (int fill = 0; fill < 5; fill++) {
        memset(p, " A1\n'"[fill], N);
        for (int f = 0; f < 4; f++) {
            size_t count = 0;
            for (size_t i = 0; i < N; i = fns[f](p, N, i)) count++;
            assert_true(count >= 1);
        }
    }
    free(p);
}

static void table_sizes(void **state)
{
    (void)state;
    int letters = 0, numbers = 0, spaces = 0, crlf = 0;
    for (uint32_t c = 0; c < 0x110000; c++) {
        uint8_t k = ns_uni_class(c);
        letters += (k & NS_UC_L) != 0;
        numbers += (k & NS_UC_N) != 0;
        spaces += (k & NS_UC_S) != 0;
        crlf += (k & NS_UC_CRLF) != 0;
    }
    assert_string_equal(ns_uni_version, "15.0.0");
    assert_int_equal(letters, 136104);
    assert_int_equal(numbers, 1831);
    assert_int_equal(spaces, 25);
    assert_int_equal(crlf, 2);
    assert_false(ns_uni_class(0x180e) & NS_UC_S); /* was a space until Unicode 6.2 */
    assert_false(ns_uni_class(0x1c) & NS_UC_S);   /* Python's \s has it, the reference's does not */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces),
        cmocka_unit_test(known_patterns),
        cmocka_unit_test(covers_random_text),
        cmocka_unit_test(long_runs_are_linear),
        cmocka_unit_test(table_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
