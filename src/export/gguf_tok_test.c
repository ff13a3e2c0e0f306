/* A tokenizer into GGUF metadata and out again: the same ids, special tokens and template. On a tokenizer made here, and on Llama 2
 * (SentencePiece), Llama 3 and Qwen 2.5 over questions of GSM8K. */
#include "export/gguf_tok.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/testing.h"
#include "export/gguf_tok_read.h"
#include "tok/tok.h"

static char dir[256];

static int set_up(void **s)
{
    (void)s;
    ns_test_tmpdir(dir, sizeof dir);
    return 0;
}

static int tear_down(void **s)
{
    (void)s;
    return ns_remove_tree(dir, NULL) == NS_OK ? 0 : -1;
}

static void add_number(ns_buf *b, uint64_t x, int n)
{
    ns_error err = NS_ERROR_INIT;
    for (int i = 0; i < n; i++, x >>= 8) assert_ns_ok(ns_buf_addc(b, (char)(uint8_t)x, &err), &err);
}

/* A GGUF file without tensors. */
static void begin_file(ns_buf *b, const ns_gguf_kv *kv)
{
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_buf_adds(b, "GGUF", &err), &err);
    add_number(b, 3, 4);
    add_number(b, 0, 8);
    add_number(b, kv->n, 8);
    assert_ns_ok(ns_buf_add(b, kv->b.data, kv->b.len, &err), &err);
}

/* The tokenizer in `from` through a file into `to`. */
static void there_and_back(const char *from, const char *to, int64_t vocab, int64_t eot)
{
    char path[600];
    ns_error err = NS_ERROR_INIT;
    ns_gguf_kv kv = {0};
    ns_buf b = {0};
    ns_arch a = {.vocab = vocab, .bos = -1};
    int made = 0;
    assert_ns_ok(ns_gguf_tokenizer(&kv, from, &a, eot, &err), &err);
    begin_file(&b, &kv);
    snprintf(path, sizeof path, "%s/t.gguf", dir);
    assert_ns_ok(ns_file_replace(path, b.data, b.len, &err), &err);
    assert_ns_ok(ns_gguf_tok_write(&made, to, path, &err), &err);
    assert_int_equal(made, 1);
    ns_buf_free(&b);
    ns_gguf_kv_free(&kv);
}

static void assert_same_ids(const ns_tok *a, const ns_tok *b, const char *text, size_t n)
{
    ns_error err = NS_ERROR_INIT;
    for (int flags = 0; flags <= NS_TOK_ADD_SPECIAL; flags++) {
        ns_ids x = {0}, y = {0};
        assert_ns_ok(ns_tok_encode(a, &x, text, n, flags, &err), &err);
        assert_ns_ok(ns_tok_encode(b, &y, text, n, flags, &err), &err);
        assert_int_equal(x.n, y.n);
        assert_memory_equal(x.v, y.v, x.n * sizeof *x.v);
        ns_ids_free(&x);
        ns_ids_free(&y);
    }
}

static void put(const char *folder, const char *name, const char *text)
{
    char path[600];
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_mkdirs(folder, &err), &err);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ns_ok(ns_file_replace(path, text, strlen(text), &err), &err);
}

static void made_here(void **s)
{
    (void)s;
    static const char json[] =
        "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":["
        "{\"id\":5,\"content\":\"<|begin|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
        "\"normalized\":false,\"special\":true},"
        "{\"id\":7,\"content\":\"two words\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
        "\"normalized\":false,\"special\":false}],"
        "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"n\":2,\"an\":3,\"\\u0120\":4,\"\\\"\":6},"
        "\"merges\":[\"a n\"]}}";
    static const char config[] =
        "{\"bos_token\":\"<|begin|>\",\"chat_template\":\"{{ \\\"a\\\\n\\\" }}{% for m in messages %}{% endfor %}\"}";
    static const char text[] = "an n<|begin|>a \"n\" two words na";
    char from[300], to[300], path[600];
    ns_error err = NS_ERROR_INIT;
    ns_arena arena = NS_ARENA_INIT("test");
    ns_tok *a, *b;
    ns_json *x, *y;
    snprintf(from, sizeof from, "%s/made", dir);
    snprintf(to, sizeof to, "%s/made-back", dir);
    put(from, "tokenizer.json", json);
    put(from, "tokenizer_config.json", config);
    there_and_back(from, to, 64, -1); /* ids from 8 on are padding */
    assert_ns_ok(ns_tok_load(&a, from, &err), &err);
    assert_ns_ok(ns_tok_load(&b, to, &err), &err);
    assert_int_equal(ns_tok_vocab_size(b), 8);
    assert_int_equal(ns_tok_bos(b), 5);
    assert_int_equal(ns_tok_is_special(b, 5), 1);
    assert_int_equal(ns_tok_is_special(b, 7), 0);
    assert_same_ids(a, b, text, 4);
    assert_same_ids(a, b, text, sizeof text - 1);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", from);
    assert_ns_ok(ns_json_read_file(&x, &arena, path, &err), &err);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", to);
    assert_ns_ok(ns_json_read_file(&y, &arena, path, &err), &err);
    const ns_json *t = ns_json_get(x, "chat_template"), *u = ns_json_get(y, "chat_template");
    assert_true(t && u && t->s.n == u->s.n && !memcmp(t->s.p, u->s.p, t->s.n));
    ns_tok_free(&a);
    ns_tok_free(&b);
    ns_arena_free(&arena);
}

static void copy(const char *data, const char *file, const char *folder, const char *name)
{
    char path[4200];
    ns_buf b = {0};
    ns_error err = NS_ERROR_INIT;
    snprintf(path, sizeof path, "%s/tokenizers/%s", data, file);
    assert_ns_ok(ns_file_read(&b, path, &err), &err);
    assert_ns_ok(ns_mkdirs(folder, &err), &err);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ns_ok(ns_file_replace(path, b.data, b.len, &err), &err);
    ns_buf_free(&b);
}

static void of_others(void **s)
{
    (void)s;
    static const struct {
        const char *file, *name, *config;
        int64_t vocab;
    } models[] = {{"llama2/tokenizer.model", "tokenizer.model", "llama2/tokenizer_config.json", 32000},
                  {"llama2/tokenizer.json", "tokenizer.json", "llama2/tokenizer_config.json", 32000},
                  {"llama3/tokenizer.assembled.json", "tokenizer.json", NULL, 128256},
                  {"qwen2.5/tokenizer.assembled.json", "tokenizer.json", "qwen2.5/tokenizer_config.json", 152064}};
    static const char hard[] = "<s></s> a<|eot_id|>  x<|im_end|>\n\n \xf0\x9f\x98\x80"
                               "e\xcc\x81";
    NS_SKIP_WITHOUT_DATA();
    const char *data = ns_test_data();
    for (size_t m = 0; m < sizeof models / sizeof models[0]; m++) {
        char from[300], to[300], path[4200];
        const char *line, *where;
        size_t n;
        ns_error err = NS_ERROR_INIT;
        ns_tok *a, *b;
        ns_jsonl *in;
        snprintf(from, sizeof from, "%s/%zu", dir, m);
        snprintf(to, sizeof to, "%s/%zu-back", dir, m);
        copy(data, models[m].file, from, models[m].name);
        if (models[m].config) copy(data, models[m].config, from, "tokenizer_config.json");
        there_and_back(from, to, models[m].vocab, -1);
        assert_ns_ok(ns_tok_load(&a, from, &err), &err);
        assert_ns_ok(ns_tok_load(&b, to, &err), &err);
        assert_int_equal(ns_tok_vocab_size(a), ns_tok_vocab_size(b));
        snprintf(path, sizeof path, "%s/gsm8k/test.jsonl", data);
        assert_ns_ok(ns_jsonl_open(&in, path, &err), &err);
        for (int k = 0; k < 100; k++) {
            assert_ns_ok(ns_jsonl_next_line(in, &line, &n, &where, &err), &err);
            assert_same_ids(a, b, line, n);
        }
        /* SentencePiece and special tokens in a text: as llama.cpp has it, a blank is put behind each */
        assert_same_ids(a, b, hard + (m < 2 ? 7 : 0), sizeof hard - 1 - (m < 2 ? 7 : 0));
        ns_jsonl_close(&in);
        ns_tok_free(&a);
        ns_tok_free(&b);
    }
}

static void refused(void **s)
{
    (void)s;
    ns_error err = NS_ERROR_INIT;
    static const ns_str texts[] = {{"a", 1}, {"b", 1}};
    static const int32_t bad[] = {1, 9}, unused[] = {5, 5};
    for (int k = 0; k < 6; k++) {
        ns_gguf_kv kv = {0};
        ns_buf b = {0};
        ns_gguf *g;
        ns_gguf_tok_files f;
        ns_str model = k == 0 ? (ns_str){"bert", 4} : k == 5 ? (ns_str){"no_vocab", 8} : (ns_str){"gpt2", 4};
        assert_ns_ok(ns_gguf_kv_str(&kv, "tokenizer.ggml.model", model, &err), &err);
        if (k != 1) assert_ns_ok(ns_gguf_kv_strs(&kv, "tokenizer.ggml.tokens", texts, 2, &err), &err);
        if (k == 2) assert_ns_ok(ns_gguf_kv_items(&kv, "tokenizer.ggml.token_type", NS_GGUF_I32, bad, 2, &err), &err);
        if (k == 3)
            assert_ns_ok(ns_gguf_kv_items(&kv, "tokenizer.ggml.token_type", NS_GGUF_I32, unused, 2, &err), &err);
        if (k == 4) assert_ns_ok(ns_gguf_kv_str(&kv, "tokenizer.ggml.pre", (ns_str){"deepseek-llm", 12}, &err), &err);
        begin_file(&b, &kv);
        assert_ns_ok(ns_gguf_parse(&g, (const unsigned char *)b.data, b.len, "x.gguf", &err), &err);
        static const char *const says[] = {"of kind 'bert'", "tokenizer.ggml.tokens is missing", "token 1 has type 9",
                                           "has no tokens", "'deepseek-llm'"};
        if (k < 5) {
            ns_status st = k == 0 || k == 4 ? NS_ERR_UNSUPPORTED : NS_ERR_INPUT;
            assert_ns_fails(ns_gguf_tok_read(&f, g, &err), st, says[k], &err);
        } else {
            assert_ns_ok(ns_gguf_tok_read(&f, g, &err), &err);
        }
        assert_null(f.name);
        ns_gguf_close(&g);
        ns_buf_free(&b);
        ns_gguf_kv_free(&kv);
    }
}

int main(void)
{
    ns_log_set_level(NS_LOG_ERROR);
    const struct CMUnitTest tests[] = {cmocka_unit_test(made_here), cmocka_unit_test(of_others),
                                       cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
