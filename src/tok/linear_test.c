/* Hard texts take work in proportion to their length: one letter, blanks, Chinese characters, digits, random bytes, for every
 * kind of model. Work is counted (ns_bpe_steps: looks at pairs, moves in the heap, steps of the Unigram search), not timed. */
#include "base/testing.h"
#include "tok/tok_internal.h"

static const char *const kinds[] = {"one letter",       "blanks",       "one Chinese character", "Chinese characters",
                                    "digits",           "random ASCII", "random characters",     "two letters in turn",
                                    "a long word again"};
enum { KINDS = sizeof kinds / sizeof *kinds, N = 1 << 15 };

static uint32_t rng;
static uint32_t draw(uint32_t n)
{
    rng = rng * 1664525 + 1013904223;
    return (rng >> 8) % n;
}

static size_t fill(int kind, char *p, size_t n)
{
    static const char again[] = "Donaudampfschifffahrtsgesellschaft";
    size_t k = 0;
    rng = 3;
    while (k + 4 <= n) {
        uint32_t c = kind == 0   ? 'a'
                     : kind == 1 ? ' '
                     : kind == 2 ? 0x4e2d
                     : kind == 3 ? 0x4e00 + draw(20000)
                     : kind == 4 ? '0' + draw(10)
                     : kind == 5 ? draw(128)
                     : kind == 6 ? draw(0xd800)
                     : kind == 7 ? (uint32_t) "ab"[k & 1]
                                 : (uint32_t)again[k % (sizeof again - 1)];
        k += ns_utf8_put((uint8_t *)p + k, c);
    }
    return k;
}

static uint64_t work(const ns_tok *t, int kind, size_t n, int spans)
{
    ns_error err = NS_ERROR_INIT;
    ns_ids ids = {0};
    ns_spans from = {0};
    char *p = malloc(n);
    assert_non_null(p);
    n = fill(kind, p, n);
    uint64_t before = ns_bpe_steps;
    assert_ns_ok(ns_tok_encode_spans(t, &ids, spans ? &from : NULL, p, n, 0, &err), &err);
    free(p);
    ns_ids_free(&ids);
    ns_spans_free(&from);
    return ns_bpe_steps - before;
}

/* Four times the text: at most 4.8 times the work (the heap's depth grows by two), and never more than 200 steps a byte. */
static void check(ns_tok *t, const char *name)
{
    for (int kind = 0; kind < KINDS; kind++)
        for (int spans = 0; spans < 2; spans++) {
            uint64_t w[3];
            for (int k = 0; k < 3; k++) {
                t->serial = ns_words_serial(); /* nothing is remembered */
                w[k] = work(t, kind, (size_t)N << k, spans);
            }
            if (w[2] * 10 > w[0] * 48 + 10000 || w[1] * 10 > w[0] * 24 + 10000 || w[2] > 200 * (uint64_t)(N << 2))
                fail_msg("%s, %s%s: %llu, %llu, %llu steps for %d bytes, twice and four times as many", name,
                         kinds[kind], spans ? " with spans" : "", (unsigned long long)w[0], (unsigned long long)w[1],
                         (unsigned long long)w[2], N);
        }
}

static void all(const char *folder, const char *const *files)
{
    for (; *files; files++) {
        ns_error err = NS_ERROR_INIT;
        ns_tok *t;
        char path[4200];
        snprintf(path, sizeof path, "%s/%s", folder, *files);
        assert_ns_ok(ns_tok_load(&t, path, &err), &err);
        check(t, *files);
        ns_tok_free(&t);
    }
}

static void small_models(void **state)
{
    (void)state;
    static const char *const files[] = {"bpe_llama2.model", "bpe_no_prefix.model", "unigram_bytes.model",
                                        "unigram_holes.model", NULL};
    all(NS_SOURCE_DIR "/tests/golden/tokenizers/spm", files);
}

static void real_models(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    static const char *const files[] = {"tokenizers/llama3/tokenizer.assembled.json",
                                        "tokenizers/qwen2.5/tokenizer.assembled.json",
                                        "tokenizers/llama2/tokenizer.json",
                                        "tokenizers/llama2/tokenizer.model",
                                        "tokenizers/mistral/tokenizer.model.v3",
                                        "tokenizers/llama3/tokenizer.model#llama3.1",
                                        NULL};
    all(ns_test_data(), files);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(small_models), cmocka_unit_test(real_models)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
