/* Remembered words and fast cutting against the plain way (serial 0: one scanner call and one merge run a piece): the same
 * ids for random text of many kinds, in the first meeting and in later ones, with other tokenizers in between. */
#include "base/file.h"
#include "base/testing.h"
#include "tok/tok_internal.h"
#include "tok/words_table.h"

static uint32_t rng;
static uint32_t draw(uint32_t n)
{
    rng = rng * 1664525 + 1013904223;
    return (rng >> 8) % n;
}

/* Words, blanks, digits, contractions, line ends, quotes, other scripts, NUL, long runs, added tokens. */
static size_t random_text(char *p, size_t cap)
{
    static const char *const bits[] = {" the",
                                       " a",
                                       "The",
                                       "s",
                                       "'s",
                                       "'T",
                                       "'re",
                                       "'Ve",
                                       "'ll",
                                       "don't",
                                       " ",
                                       "  ",
                                       "   ",
                                       "\n",
                                       "\r\n",
                                       "\t",
                                       "1",
                                       "23",
                                       "4567",
                                       ",",
                                       ".",
                                       "...",
                                       "\"",
                                       "(",
                                       "/",
                                       "$",
                                       "\xc3\xa9",
                                       "\xc3\xa9t\xc3\xa9",
                                       "\xc5\xbf",
                                       "'\xc5\xbf",
                                       "\xe4\xb8\xad",
                                       "\xe2\x80\x99",
                                       "\xe2\x96\x81",
                                       "\xf0\x9f\x98\x80",
                                       "e\xcc\x81",
                                       "\xc2\xa0",
                                       "\xe2\x80\xa8",
                                       "a'b",
                                       "X",
                                       "Internationally",
                                       " internationalization",
                                       "zzzzzzzzzzzzzzzzzzzzzzz",
                                       "<|",
                                       "<|im_start|>",
                                       "<|eot_id|>",
                                       "</s>",
                                       "==",
                                       "abcdefghijklmn",
                                       "abcdefghijklmno",
                                       "abcdefghijklmnop",
                                       "-",
                                       "_",
                                       "A",
                                       "\x7f",
                                       "\x01"};
    size_t n = 0;
    int kind = (int)draw(4); /* of all, or of few */
    uint32_t first = draw(sizeof bits / sizeof *bits - 4);
    for (uint32_t k = draw(40); k; k--) {
        const char *s = bits[kind ? draw(sizeof bits / sizeof *bits) : first + draw(4)];
        size_t len = strlen(s);
        if (kind == 3 && !draw(3)) { /* random ASCII, NUL too */
            if (n < cap) p[n++] = (char)draw(128);
            continue;
        }
        if (n + len > cap) break;
        memcpy(p + n, s, len);
        n += len;
    }
    return n;
}

static void same(ns_tok *t, const char *p, size_t n)
{
    ns_error err = NS_ERROR_INIT;
    ns_ids fast = {0}, plain = {0};
    uint32_t serial = t->serial, other_serial = serial + 1000;
    char *exact = malloc(n ? n : 1); /* so that a read behind the end is seen by the sanitizer */
    assert_non_null(exact);
    memcpy(exact, p, n);
    assert_true(serial > 0);
    t->serial = 0;
    assert_ns_ok(ns_tok_encode(t, &plain, exact, n, 0, &err), &err);
    for (int off = 0; off < 2; off++) { /* the loops for this processor, and for every one */
        ns_words_avx512_off = off;
        t->serial = off ? other_serial : serial; /* so that the second really merges what it cuts */
        fast.n = 0;
        assert_ns_ok(ns_tok_encode(t, &fast, exact, n, 0, &err), &err);
        if (fast.n != plain.n || (fast.n && memcmp(fast.v, plain.v, fast.n * sizeof *fast.v)))
            fail_msg("other ids for '%.*s'%s", (int)n, p, off ? " (loops for every processor)" : "");
    }
    ns_words_avx512_off = 0;
    t->serial = serial;
    free(exact);
    ns_ids_free(&fast);
    ns_ids_free(&plain);
}

static void real_tokenizers(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    static const char *const files[] = {"llama3/tokenizer.assembled.json", "qwen2.5/tokenizer.assembled.json",
                                        "llama2/tokenizer.json", "llama2/tokenizer.model",
                                        "mistral/tokenizer.model.v3"};
    enum { N = sizeof files / sizeof *files };
    ns_tok *t[N];
    ns_error err = NS_ERROR_INIT;
    char path[4200], text[2048];
    ns_buf novel = {0};
    for (int k = 0; k < N; k++) {
        snprintf(path, sizeof path, "%s/tokenizers/%s", ns_test_data(), files[k]);
        assert_ns_ok(ns_tok_load(&t[k], path, &err), &err);
    }
    assert_non_null(t[2]->bpe.joins); /* or nothing is cut */
    for (int k = 2; k < N; k++) assert_true(t[k]->blank_words);
    assert_true(t[0]->serial != t[1]->serial && t[1]->serial != t[2]->serial);
    rng = 5;
    for (int round = 0; round < 6000; round++) {
        size_t n = random_text(text, sizeof text);
        for (int k = 0; k < N; k++) same(t[k], text, n);
    }
    snprintf(path, sizeof path, "%s/tokenizers/corpus/war-and-peace.txt", ns_test_data());
    assert_ns_ok(ns_file_read(&novel, path, &err), &err);
    for (int round = 0; round < 300;
         round++) { /* windows of all lengths, from the start of a character to that of another */
        size_t i = draw((uint32_t)novel.len - 3000), j = i + draw(round % 2 ? 60 : 2000);
        while ((novel.data[i] & 0xc0) == 0x80) i++;
        while (j > i && (novel.data[j] & 0xc0) == 0x80) j--;
        for (int k = 0; k < N; k++) same(t[k], novel.data + i, j > i ? j - i : 0);
    }
    for (int k = 0; k < 2; k++) same(t[k], novel.data, novel.len); /* more words than places */
    ns_buf_free(&novel);
    for (int k = 0; k < N; k++) ns_tok_free(&t[k]);
}

/* A tokenizer in the shape of another that is gone, at the same address perhaps, does not see its words. */
static void small(ns_tok **out, const char *pattern, int b)
{
    ns_error err = NS_ERROR_INIT;
    char json[2000];
    snprintf(json, sizeof json,
             "{\"pre_tokenizer\":%s,\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{"
             "\"a\":%d,\"b\":%d,\"ab\":2,\"\xc4\xa0\":3,\"\xc4\xa0"
             "a\":4},\"merges\":[[\"a\",\"b\"],[\"\xc4\xa0\",\"a\"]]}}",
             pattern, 1 - b, b);
    ns_tok_source src = {.json = json, .json_n = strlen(json), .where = "small"};
    assert_ns_ok(ns_tok_build(out, &src, &err), &err);
}

static void words_belong_to_one_tokenizer(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) {
        ns_tok *t;
        ns_error err = NS_ERROR_INIT;
        ns_ids ids = {0};
        small(&t, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}", round & 1);
        for (int again = 0; again < 2; again++) {
            ids.n = 0;
            assert_ns_ok(ns_tok_encode(t, &ids, "b a ab bab", 10, 0, &err), &err);
            const int32_t want[] = {round & 1, 4, 3, 2, 3, round & 1, 2};
            assert_int_equal(ids.n, 7);
            assert_memory_equal(ids.v, want, sizeof want);
        }
        ns_ids_free(&ids);
        ns_tok_free(&t);
    }
}

/* Every text of up to 4 characters out of those that the patterns tell apart, and 16 to 20 with them at the end. */
static void all_short_texts(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    static const char *const unit[] = {"a", "E", " ", "\n", "\r", "\t",       "1",        "'",
                                       "s", "l", "r", ".",  "/",  "\xc3\xa9", "\xc2\xa0", "\xcc\x81"};
    enum { U = sizeof unit / sizeof *unit };
    ns_tok *t;
    ns_error err = NS_ERROR_INIT;
    char path[4200];
    snprintf(path, sizeof path, "%s/tokenizers/qwen2.5/tokenizer.assembled.json", ns_test_data());
    assert_ns_ok(ns_tok_load(&t, path, &err), &err);
    static ns_split_fn const fns[] = {ns_split_gpt2, ns_split_llama3, ns_split_qwen2, ns_split_tekken};
    for (size_t f = 0; f < sizeof fns / sizeof *fns; f++) {
        t->stage[0] = fns[f];
        t->n_stages = 1;
        t->serial = ns_words_serial();
        for (int x = 0; x < U * U * U * U; x++) {
            char text[64];
            int lead = x % 5 ? 0 : 12 + x % 7;
            memset(text, 'q', (size_t)lead);
            snprintf(text + lead, sizeof text - (size_t)lead, "%s%s%s%s", unit[x % U], unit[x / U % U],
                     unit[x / U / U % U], unit[x / U / U / U]);
            same(t, text, strlen(text));
        }
        for (int round = 0; round < 4000; round++) { /* borders at every place of a block, and behind it */
            char text[700] = "";
            size_t n = 0;
            for (uint32_t k = draw(160), of = 2 + draw(U - 1); k && n + 4 < sizeof text; k--) {
                const char *u = unit[draw(round % 3 ? U - 3 : of)];
                memcpy(text + n, u, strlen(u));
                n += strlen(u);
            }
            same(t, text, n);
        }
    }
    ns_tok_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_tokenizers),
        cmocka_unit_test(words_belong_to_one_tokenizer),
        cmocka_unit_test(all_short_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
