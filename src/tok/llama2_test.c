/* Llama-2 kind of tokenizer.json made by hand: its 256 byte tokens, memory that runs out, and long words. */
#include <time.h>

#include "base/mem.h"
#include "base/testing.h"
#include "tok/tok_internal.h"

#define HEAD                                                                                                           \
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true}],\"normalizer\":{\"type\":\"Sequence\","     \
    "\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":"   \
    "\" \"},\"content\":\"\\u2581\"}]},\"pre_tokenizer\":null,\"decoder\":{\"type\":\"Sequence\",\"decoders\":["       \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"       \
    "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\"," \
    "\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,"
#define TAIL                                                                                                   \
    "\"\\u2581\":300,\"a\":301,\"b\":302,\"aa\":303,\"\\u2581a\":304,\"aaaa\":305},\"merges\":[[\"a\",\"a\"]," \
    "[\"\\u2581\",\"a\"],[\"aa\",\"aa\"]]}}"

/* `without`: the byte whose token is left out; -1 none. */
static void write_file(ns_buf *out, int without)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf_clear(out);
    assert_ns_ok(ns_buf_adds(out, HEAD, &err), &err);
    for (int b = 0; b < 256; b++)
        if (b != without) assert_ns_ok(ns_buf_printf(out, &err, "\"<0x%02X>\":%d,", b, b + 3), &err);
    assert_ns_ok(ns_buf_adds(out, TAIL, &err), &err);
}

static ns_status build(ns_tok **out, const ns_buf *text, ns_error *err)
{
    ns_tok_source src = {.json = text->data, .json_n = text->len, .where = "tokenizer.json"};
    return ns_tok_build(out, &src, err);
}

static void byte_tokens(void **state)
{
    (void)state;
    ns_buf text = {0};
    ns_error fresh = NS_ERROR_INIT, err = NS_ERROR_INIT;
    ns_tok *t = NULL;
    for (int b = 0; b < 256; b++) {
        char want[80];
        write_file(&text, b);
        snprintf(want, sizeof want, "byte 0x%02x", b);
        err = fresh;
        assert_ns_fails(build(&t, &text, &err), NS_ERR_UNSUPPORTED, want, &err);
    }
    err = fresh;
    write_file(&text, -1);
    assert_ns_ok(build(&t, &text, &err), &err);
    ns_ids ids = {0};
    ns_buf back = {0};
    const char *in = "a aab\xc3\xa9\xf0\x9f\x98\x80";
    assert_ns_ok(ns_tok_encode(t, &ids, in, strlen(in), 0, &err), &err);
    const int32_t want[] = {304, 300, 303, 302, 3 + 0xc3, 3 + 0xa9, 3 + 0xf0, 3 + 0x9f, 3 + 0x98, 3 + 0x80};
    assert_int_equal(ids.n, sizeof want / sizeof *want);
    assert_memory_equal(ids.v, want, sizeof want);
    assert_ns_ok(ns_tok_decode(t, &back, ids.v, ids.n, 0, &err), &err);
    assert_string_equal(back.data, in);
    ns_ids_free(&ids);
    ns_buf_free(&back);
    ns_buf_free(&text);
    ns_tok_free(&t);
}

/* Ids without a token (1, 2, 259..299 here) are no tokens: decoding one is an error, loading is not. */
static void holes(void **state)
{
    (void)state;
    ns_buf text = {0}, out = {0};
    ns_error err = NS_ERROR_INIT;
    ns_tok *t = NULL;
    write_file(&text, -1);
    assert_ns_ok(build(&t, &text, &err), &err);
    assert_int_equal(ns_tok_vocab_size(t), 306);
    assert_ns_fails(ns_tok_decode(t, &out, (int32_t[]){301, 280}, 2, 0, &err), NS_ERR_INPUT,
                    "id 280 at position 1 has no token", &err);
    assert_int_equal(out.len, 0);
    ns_buf_free(&text);
    ns_buf_free(&out);
    ns_tok_free(&t);
}

static void out_of_memory(void **state)
{
    (void)state;
    ns_buf text = {0};
    write_file(&text, -1);
    uint64_t before = ns_mem_get_stats().bytes_now, k = 1;
    char longer[600];
    memset(longer, 'a', sizeof longer);
    memcpy(longer + 300, "\xc3\xa9", 2);
    for (int hit = 1; hit; k++) {
        ns_tok *t = NULL;
        ns_ids ids = {0};
        ns_buf back = {0};
        ns_error err = NS_ERROR_INIT;
        ns_mem_fail_at(k, 0);
        ns_status st = build(&t, &text, &err);
        if (st == NS_OK) st = ns_tok_encode(t, &ids, longer, sizeof longer, NS_TOK_ADD_SPECIAL, &err);
        if (st == NS_OK) st = ns_tok_decode(t, &back, ids.v, ids.n, 0, &err);
        hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        ns_tok_free(&t);
        ns_ids_free(&ids);
        ns_buf_free(&back);
        assert_int_equal(ns_mem_get_stats().bytes_now, before);
        assert_int_equal(st, hit ? NS_ERR_MEMORY : NS_OK);
    }
    assert_true(k > 20);
    ns_buf_free(&text);
}

static double seconds_of(const ns_tok *t, const char *p, size_t n)
{
    ns_ids ids = {0};
    ns_error err = NS_ERROR_INIT;
    struct timespec a, b;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    assert_ns_ok(ns_tok_encode(t, &ids, p, n, 0, &err), &err);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    ns_ids_free(&ids);
    return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

/* A gap is one word here, so a word may be megabytes. Sixteen times the text: about sixteen times the time, far from 256. */
static void long_words(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    ns_buf text = {0};
    ns_error err = NS_ERROR_INIT;
    ns_tok *t = NULL;
    write_file(&text, -1);
    assert_ns_ok(build(&t, &text, &err), &err);
    char *p = malloc(N);
    assert_non_null(p);
    for (int kind = 0; kind < 4; kind++) {
        for (size_t i = 0; i < N; i++) p[i] = "a b\1"[kind == 3 ? i * i % 3 : (size_t)kind];
        double small = seconds_of(t, p, N / 16), big = seconds_of(t, p, N);
#ifndef __SANITIZE_ADDRESS__ /* its memchr looks at all that it might look at: quadratic there alone */
        assert_true(big < 100 * (small + 1e-3));
#else
        (void)small, (void)big;
#endif
    }
    free(p);
    ns_buf_free(&text);
    ns_tok_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(byte_tokens), cmocka_unit_test(holes),
                                       cmocka_unit_test(out_of_memory), cmocka_unit_test(long_words)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
