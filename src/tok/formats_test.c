/* Tokenizer files other than tokenizer.json: SentencePiece models against the library (tests/golden/tokenizers/spm.json, and
 * real models when the test data is there), tiktoken and tekken files, and what is wrong with damaged ones. */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/testing.h"
#include "tok/tok_internal.h"
#include "tok/unicode.h"

static ns_status build(ns_tok **out, const void *p, size_t n, const char *family, ns_error *err)
{
    ns_tok_source src = {.json = p, .json_n = n, .where = "file", .family = family};
    *out = NULL;
    return ns_tok_build(out, &src, err);
}

/* A copy of the exact size: a sanitizer sees reading past the end. */
static ns_status build_copy(ns_tok **out, const void *p, size_t n, const char *family, ns_error *err)
{
    char *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    if (n) memcpy(copy, p, n);
    ns_status st = build(out, copy, n, family, err);
    free(copy);
    return st;
}

static void refused(const void *p, size_t n, const char *family, ns_status code, const char *text)
{
    ns_tok *t;
    ns_error err = NS_ERROR_INIT;
    assert_ns_fails(build_copy(&t, p, n, family, &err), code, text, &err);
    assert_null(t);
    assert_null(strchr(err.msg, '\n'));
}

static void read_golden(ns_buf *out, const char *name)
{
    ns_error err = NS_ERROR_INIT;
    char path[600];
    snprintf(path, sizeof path, "%s/tests/golden/tokenizers/%s", NS_SOURCE_DIR, name);
    ns_buf_clear(out);
    assert_ns_ok(ns_file_read(out, path, &err), &err);
}

static int same_ids(const ns_json *want, const ns_ids *got)
{
    if (want->n != got->n) return 0;
    for (size_t i = 0; i < got->n; i++) {
        int64_t x;
        if (!ns_json_is_int(&want->items[i], &x) || x != got->v[i]) return 0;
    }
    return 1;
}

/* Ids, the same with spans, spans in order inside the text, decoding whole and as a stream. decoded NULL: not compared. */
static void check_text(const ns_tok *t, const char *name, int flags, ns_str text, const ns_json *want,
                       const ns_json *decoded)
{
    ns_error err = NS_ERROR_INIT;
    ns_ids ids = {0}, again = {0};
    ns_spans spans = {0};
    ns_buf back = {0}, clean = {0}, streamed = {0};
    assert_ns_ok(ns_tok_encode(t, &ids, text.p, text.n, flags, &err), &err);
    if (!same_ids(want, &ids)) {
        print_error("%s: other ids for '%.*s':", name, (int)text.n, text.p);
        for (size_t i = 0; i < ids.n; i++) print_error(" %d", (int)ids.v[i]);
        fail();
    }
    assert_ns_ok(ns_tok_encode_spans(t, &again, &spans, text.p, text.n, flags, &err), &err);
    assert_true(same_ids(want, &again));
    assert_int_equal(spans.n, ids.n);
    for (size_t i = 0; i < spans.n; i++) {
        assert_true(spans.v[i].from <= spans.v[i].to && spans.v[i].to <= text.n);
        if (i) assert_true(spans.v[i].from >= spans.v[i - 1].from);
    }
    assert_ns_ok(ns_tok_decode(t, &back, ids.v, ids.n, 1, &err), &err);
    assert_ns_ok(ns_utf8_repair(&clean, (const uint8_t *)(back.data ? back.data : ""), back.len, &err), &err);
    if (decoded && (clean.len != decoded->s.n || (clean.len && memcmp(clean.data, decoded->s.p, clean.len) != 0))) {
        print_error("%s: decoded '%s', expected '%.*s'\n", name, clean.data, (int)decoded->s.n, decoded->s.p);
        fail();
    }
    ns_tok_stream s = {.t = t, .skip_special = 1};
    for (size_t i = 0; i < ids.n; i++) {
        assert_ns_ok(ns_tok_stream_push(&s, &streamed, &ids.v[i], 1, &err), &err);
        assert_int_equal(ns_utf8_check((const uint8_t *)streamed.data, streamed.len), streamed.len);
    }
    assert_ns_ok(ns_tok_stream_end(&s, &streamed, &err), &err);
    assert_int_equal(streamed.len, clean.len);
    if (clean.len) assert_memory_equal(streamed.data, clean.data, clean.len);
    ns_tok_stream_free(&s);
    ns_ids_free(&ids);
    ns_ids_free(&again);
    ns_spans_free(&spans);
    ns_buf_free(&back);
    ns_buf_free(&clean);
    ns_buf_free(&streamed);
}

static void sentencepiece(void **state)
{
    (void)state;
    ns_arena a = NS_ARENA_INIT("test");
    ns_error err = NS_ERROR_INIT;
    ns_buf text = {0}, model = {0};
    ns_json *cases;
    read_golden(&text, "spm.json");
    assert_ns_ok(ns_json_parse(&cases, &a, text.data, text.len, "spm.json", 0, &err), &err);
    assert_int_equal(cases->n, 9);
    for (size_t i = 0; i < cases->n; i++) {
        const ns_json *c = &cases->items[i], *v = ns_json_get(c, "vectors");
        char name[60], file[80];
        int64_t size, bos, eos;
        ns_tok *t;
        snprintf(name, sizeof name, "%.*s", (int)ns_json_get(c, "name")->s.n, ns_json_get(c, "name")->s.p);
        snprintf(file, sizeof file, "spm/%s.model", name);
        read_golden(&model, file);
        assert_ns_ok(build_copy(&t, model.data, model.len, NULL, &err), &err);
        assert_true(ns_json_is_int(ns_json_get(c, "vocab_size"), &size) &&
                    ns_json_is_int(ns_json_get(c, "bos"), &bos) && ns_json_is_int(ns_json_get(c, "eos"), &eos));
        assert_int_equal(ns_tok_vocab_size(t), size);
        assert_int_equal(ns_tok_bos(t), bos);
        assert_int_equal(ns_tok_eos(t), eos);
        assert_int_equal(ns_tok_is_special(t, (int32_t)bos), 1);
        assert_int_equal(ns_tok_id(t, "<s>"), bos);
        for (size_t k = 0; k < v->n; k++)
            check_text(t, name, NS_TOK_NO_SPECIAL_TEXT, ns_json_get(&v->items[k], "text")->s,
                       ns_json_get(&v->items[k], "ids"), ns_json_get(&v->items[k], "decoded"));
        ns_ids ids = {0};
        ns_buf out = {0};
        assert_ns_ok(ns_tok_encode(t, &ids, "<s>", 3, NS_TOK_ADD_SPECIAL, &err), &err);
        assert_int_equal(ids.v[0], bos); /* the template; <s> in the text is text */
        assert_true(ids.n > 2 || ids.v[1] != bos);
        assert_ns_ok(ns_tok_decode(t, &out, (int32_t[]){(int32_t)bos}, 1, 0, &err), &err);
        assert_string_equal(out.data, "<s>");
        assert_ns_fails(ns_tok_decode(t, &out, (int32_t[]){(int32_t)size}, 1, 0, &err), NS_ERR_INPUT, "has no token",
                        &err);
        ns_ids_free(&ids);
        ns_buf_free(&out);
        ns_tok_free(&t);
    }
    ns_buf_free(&text);
    ns_buf_free(&model);
    ns_arena_free(&a);
}

/* A folder with tokenizer_config.json: its added tokens are found in text, and it decides on BOS and EOS. */
static void with_config(void **state)
{
    (void)state;
    static const char config[] =
        "{\"add_bos_token\":false,\"add_eos_token\":true,\"bos_token\":\"<s>\",\"eos_token\":\"</s>\","
        "\"added_tokens_decoder\":{\"1\":{\"content\":\"<s>\",\"special\":true},\"800\":{\"content\":\"<new>\"}}}";
    ns_buf model = {0};
    ns_ids ids = {0};
    ns_tok *t = NULL;
    ns_error err = NS_ERROR_INIT;
    read_golden(&model, "spm/bpe_llama2.model");
    ns_tok_source src = {.json = model.data,
                         .json_n = model.len,
                         .where = "m",
                         .config = config,
                         .config_n = sizeof config - 1,
                         .config_where = "c"};
    assert_ns_ok(ns_tok_build(&t, &src, &err), &err);
    assert_int_equal(ns_tok_vocab_size(t), 801);
    assert_ns_ok(ns_tok_encode(t, &ids, "<s><new>", 8, NS_TOK_ADD_SPECIAL, &err), &err);
    assert_int_equal(ids.n, 3);
    assert_int_equal(ids.v[0], 1);
    assert_int_equal(ids.v[1], 800);
    assert_int_equal(ids.v[2], 2);
    ns_tok_free(&t);
    src.config = "{\"added_tokens_decoder\":{\"5\":{\"content\":\"<new>\"}}}";
    src.config_n = strlen(src.config);
    assert_ns_fails(ns_tok_build(&t, &src, &err), NS_ERR_MISMATCH, "'<new>' has id 5, which is another token", &err);
    ns_ids_free(&ids);
    ns_buf_free(&model);
}

/* Cut anywhere, and with any one byte changed: refused with the file's name, or read; never a crash. */
static void damaged_models(void **state)
{
    (void)state;
    ns_buf model = {0};
    ns_tok *t;
    ns_error fresh = NS_ERROR_INIT, err;
    read_golden(&model, "spm/bpe_user.model");
    for (size_t n = 0; n < model.len; n += n < 400 ? 1 : 37) {
        err = fresh;
        ns_status st = build_copy(&t, model.data, n, NULL, &err);
        assert_true(st == NS_ERR_INPUT || st == NS_ERR_UNSUPPORTED);
        assert_non_null(strstr(err.msg, "file"));
    }
    size_t read = 0, all = 0;
    for (size_t i = 0; i < model.len; i += i < 300 ? 1 : 19) {
        char old = model.data[i];
        model.data[i] = (char)(old ^ (i % 2 ? 0x01 : 0x80));
        err = fresh;
        ns_status st = build_copy(&t, model.data, model.len, NULL, &err);
        assert_true(st == NS_OK || st == NS_ERR_INPUT || st == NS_ERR_UNSUPPORTED);
        model.data[i] = old;
        read += st == NS_OK;
        all++;
        ns_tok_free(&t);
    }
    assert_true(read < all);
    ns_buf_free(&model);
}

#define PIECE(len, text_len, text) "\x0a" len "\x0a" text_len text
#define UNK "\x0a\x09\x0a\x05<unk>\x18\x02"
#define TRAINER(x) "\x12\x02\x18" x
#define NORMALIZER "\x1a\x02\x18\x01"

static void refused_models(void **state)
{
    (void)state;
    static const struct {
        const char *p;
        size_t n;
        ns_status code;
        const char *text;
    } cases[] = {
#define CASE(bytes, code, text) {bytes, sizeof bytes - 1, code, text}
        CASE(UNK, NS_ERR_INPUT, "1 pieces, 0 trainer_spec"),
        CASE(UNK TRAINER("\x03") NORMALIZER, NS_ERR_UNSUPPORTED, "model type 3 (word)"),
        CASE(UNK TRAINER("\x04") NORMALIZER, NS_ERR_UNSUPPORTED, "model type 4 (char)"),
        CASE(PIECE("\x03", "\x01", "a") TRAINER("\x02") NORMALIZER, NS_ERR_INPUT, "no piece of type unknown"),
        CASE(UNK UNK TRAINER("\x02") NORMALIZER, NS_ERR_INPUT, "second unknown piece"),
        CASE(UNK PIECE("\x03", "\x01", "a") PIECE("\x03", "\x01", "a") TRAINER("\x02") NORMALIZER, NS_ERR_INPUT,
             "piece 2 ('a') is piece 1 already"),
        CASE(UNK PIECE("\x03", "\x01", "\xff") TRAINER("\x02") NORMALIZER, NS_ERR_INPUT, "piece 1 is not UTF-8"),
        CASE(UNK PIECE("\x02", "\x00", "") TRAINER("\x02") NORMALIZER, NS_ERR_INPUT, "piece 1 is empty"),
        CASE("\x0a\x05\x0a\x01"
             "a\x18\x09" TRAINER("\x02") NORMALIZER,
             NS_ERR_UNSUPPORTED, "type 9, expected 1..6"),
        CASE("\x0a\x05\x0a\x01"
             "a\x10\x09" TRAINER("\x02") NORMALIZER,
             NS_ERR_INPUT, "the score of a piece has wire type 0, expected 5"),
        CASE("\x0a\x08\x0a\x01"
             "a\x15\x00\x00\xc0\x7f" TRAINER("\x02") NORMALIZER,
             NS_ERR_INPUT, "no number"),
        CASE(UNK "\x0a\x0a\x0a\x06<0x41>\x18\x06" TRAINER("\x02") NORMALIZER, NS_ERR_INPUT, "byte_fallback is off"),
        CASE(UNK "\x0a\x0a\x0a\x06<0x4g>\x18\x06"
                 "\x12\x05\x18\x02\x98\x02\x01" NORMALIZER,
             NS_ERR_INPUT, "'<0x4g>') is no byte piece"),
        CASE(UNK "\x0a\x0a\x0a\x06<0x41>\x18\x06"
                 "\x12\x05\x18\x02\x98\x02\x01" NORMALIZER,
             NS_ERR_INPUT, "byte piece <0x00> is missing"),
        CASE(UNK TRAINER("\x02") "\x1a\x06\x12\x04\x09\x00\x00\x00", NS_ERR_INPUT, "precompiled_charsmap of 4 bytes"),
        CASE(UNK TRAINER("\x02") NORMALIZER "\x2a\x03\x12\x01x", NS_ERR_UNSUPPORTED, "denormalizer_spec"),
        CASE(UNK TRAINER("\x01") NORMALIZER, NS_ERR_INPUT, "without normal pieces"),
        CASE("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", NS_ERR_INPUT, "but 0 are left"),
        CASE("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", NS_ERR_INPUT, "does not fit 64 bits"),
        CASE("\x0a\x80", NS_ERR_INPUT, "a length ends with the data"),
        CASE("\x12\x01\x03", NS_ERR_INPUT, "field number 0"),
        CASE("\x12\x01\x0b", NS_ERR_INPUT, "wire type 3"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(cases[i].p, cases[i].n, NULL, cases[i].code, cases[i].text);
}

/* ---- tiktoken ---- */
static void put_base64(ns_buf *out, const char *p, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    ns_error err = NS_ERROR_INIT;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t x = (uint32_t)(uint8_t)p[i] << 16;
        if (i + 1 < n) x |= (uint32_t)(uint8_t)p[i + 1] << 8;
        if (i + 2 < n) x |= (uint8_t)p[i + 2];
        char four[4] = {digits[x >> 18], digits[x >> 12 & 63], i + 1 < n ? digits[x >> 6 & 63] : '=',
                        i + 2 < n ? digits[x & 63] : '='};
        assert_ns_ok(ns_buf_add(out, four, 4, &err), &err);
    }
}

static const char *const more[] = {"th", "the", " the", "aa", "aaaa", "12", "345"};
enum { N_MORE = sizeof more / sizeof *more };

static void small_tiktoken(ns_buf *out)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf_clear(out);
    for (int i = 0; i < 256 + N_MORE; i++) {
        char byte = (char)i;
        put_base64(out, i < 256 ? &byte : more[i - 256], i < 256 ? 1 : strlen(more[i - 256]));
        assert_ns_ok(ns_buf_printf(out, &err, " %d\n", i), &err);
    }
}

static void damaged_ranks(void **state)
{
    (void)state;
    ns_buf b = {0};
    small_tiktoken(&b);
    refused(b.data, b.len, NULL, NS_ERR_UNSUPPORTED, "a tiktoken file of 263 ranks does not say how text is split");
    refused(b.data, b.len, "llama3", NS_ERR_MISMATCH, "263 ranks, but family llama3 has 128000");
    refused(b.data, b.len, "llama9", NS_ERR_CONFIG, "family 'llama9' is not known");
    refused("{}", 2, "llama3", NS_ERR_CONFIG, "is for tiktoken files");
    refused("AA== 0\nAQ== 2\n", 14, NULL, NS_ERR_INPUT, "file:2: rank 2, expected 1");
    refused("AA== 0\nAQ==\n", 12, NULL, NS_ERR_INPUT, "file:2: found 'AQ=='");
    refused("AA== 0\n\nAQ== 1\n", 15, NULL, NS_ERR_INPUT, "file:2: found ''");
    refused("AA== x\n", 7, NULL, NS_ERR_INPUT, "file:1: found 'AA== x'");
    refused("AA== 99999999999999999999\n", 26, NULL, NS_ERR_INPUT, "file:1: ");
    refused("A*== 0\n", 7, NULL, NS_ERR_INPUT, "file:1: byte 1 of the line");
    refused("AAA 0\n", 6, NULL, NS_ERR_INPUT, "not base64");
    refused("AB== 0\n", 7, NULL, NS_ERR_INPUT, "not base64"); /* bits behind the last byte */
    refused("AA== 0\nAA== 1\n", 14, NULL, NS_ERR_INPUT, "rank 1 has the bytes of rank 0 already");
    refused("AA== 0\r\nAQ== 1\r\n", 16, NULL, NS_ERR_INPUT, "no token for the single byte 0x02");
    ns_buf_free(&b);
}

static void write_tekken(ns_buf *out, const char *specials, int n_special)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf_clear(out);
    assert_ns_ok(
        ns_buf_printf(
            out, &err,
            "{\"config\":{\"pattern\":\"%s\",\"default_vocab_size\":%d,"
            "\"default_num_special_tokens\":%d},%s\"vocab\":[",
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+",
            256 + N_MORE + n_special, n_special, specials),
        &err);
    for (int i = 0; i < 256 + N_MORE + 2; i++) { /* two more than are used, as in real files */
        char byte = (char)i;
        const char *s = i < 256 ? &byte : i < 256 + N_MORE ? more[i - 256] : "unused";
        assert_ns_ok(ns_buf_printf(out, &err, "%s{\"rank\":%d,\"token_bytes\":\"", i ? "," : "", i), &err);
        put_base64(out, s, i < 256 ? 1 : strlen(s));
        assert_ns_ok(ns_buf_adds(out, "\"}", &err), &err);
    }
    assert_ns_ok(ns_buf_adds(out, "]}", &err), &err);
}

static void tekken(void **state)
{
    (void)state;
    ns_buf b = {0}, back = {0};
    ns_ids ids = {0};
    ns_tok *t;
    ns_error err = NS_ERROR_INIT;
    write_tekken(&b, "", 30);
    assert_ns_ok(build_copy(&t, b.data, b.len, NULL, &err), &err);
    assert_int_equal(ns_tok_vocab_size(t), 30 + 256 + N_MORE);
    assert_int_equal(ns_tok_bos(t), 1);
    assert_int_equal(ns_tok_eos(t), 2);
    assert_int_equal(ns_tok_id(t, "[INST]"), 3);
    assert_int_equal(ns_tok_id(t, "<SPECIAL_29>"), 29);
    const char *in = "[INST]the the aaaaa";
    const int32_t want[] = {1, 3, 30 + 257, 30 + 258, 30 + ' ', 30 + 260, 30 + 'a'};
    assert_ns_ok(ns_tok_encode(t, &ids, in, strlen(in), NS_TOK_ADD_SPECIAL, &err), &err);
    assert_int_equal(ids.n, sizeof want / sizeof *want);
    assert_memory_equal(ids.v, want, sizeof want);
    assert_ns_ok(ns_tok_decode(t, &back, ids.v, ids.n, 0, &err), &err);
    assert_string_equal(back.data, "<s>[INST]the the aaaaa");
    ns_tok_free(&t);
    write_tekken(&b, "\"special_tokens\":[{\"rank\":0,\"token_str\":\"<s>\",\"is_control\":true}],", 2);
    assert_ns_ok(build_copy(&t, b.data, b.len, NULL, &err), &err);
    assert_int_equal(ns_tok_bos(t), 0);
    assert_int_equal(ns_tok_eos(t), -1);
    assert_int_equal(ns_tok_id(t, "<SPECIAL_1>"), 1);
    ns_tok_free(&t);
    write_tekken(&b, "\"special_tokens\":[{\"rank\":2,\"token_str\":\"<s>\"}],", 2);
    refused(b.data, b.len, NULL, NS_ERR_INPUT, "special_tokens[0] needs a string 'token_str' and a rank below 2");
    write_tekken(&b, "", 2);
    char *at = strstr(b.data, "\"rank\":7,");
    assert_non_null(at);
    at[7] = '9';
    refused(b.data, b.len, NULL, NS_ERR_INPUT, "vocab[7] needs a string 'token_bytes' and rank 7");
    at[7] = '7';
    strstr(b.data, "BA==")[0] = '!';
    refused(b.data, b.len, NULL, NS_ERR_INPUT, "is not base64 (byte 0)");
    static const char bad[] = "{\"config\":{\"default_vocab_size\":5,\"default_num_special_tokens\":5},\"vocab\":[]}";
    refused(bad, sizeof bad - 1, NULL, NS_ERR_INPUT,
            "a smaller default_num_special_tokens (10000 at most), found 5 and 5");
    static const char few[] = "{\"config\":{\"default_vocab_size\":5,\"default_num_special_tokens\":1},\"vocab\":[]}";
    refused(few, sizeof few - 1, NULL, NS_ERR_INPUT, "vocab has 0 tokens, config.default_vocab_size needs 4");
    ns_ids_free(&ids);
    ns_buf_free(&b);
    ns_buf_free(&back);
}

/* Every allocation of loading, encoding with spans, and decoding fails in turn. */
static void one_without_memory(const ns_buf *file)
{
    static const char in[] = "x <user> caf\xc3\xa9 12\xe4\xb8\x96 ab \xef\xac\x81";
    uint64_t before = ns_mem_get_stats().bytes_now;
    int hit = 1;
    for (uint64_t k = 1; hit; k++) {
        ns_tok *t = NULL;
        ns_ids ids = {0};
        ns_spans spans = {0};
        ns_buf out = {0};
        ns_error err = NS_ERROR_INIT;
        ns_mem_fail_at(k, 0);
        ns_status st = build(&t, file->data, file->len, NULL, &err);
        if (st == NS_OK) st = ns_tok_encode_spans(t, &ids, &spans, in, sizeof in - 1, NS_TOK_ADD_SPECIAL, &err);
        if (st == NS_OK) st = ns_tok_decode(t, &out, ids.v, ids.n, 0, &err);
        hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        ns_tok_free(&t);
        ns_ids_free(&ids);
        ns_spans_free(&spans);
        ns_buf_free(&out);
        assert_int_equal(ns_mem_get_stats().bytes_now, before);
        assert_int_equal(st, hit ? NS_ERR_MEMORY : NS_OK);
    }
}

static void out_of_memory(void **state)
{
    (void)state;
    static const char *const files[] = {"spm/bpe_user.model", "spm/bpe_holes.model", "spm/bpe_plain.model",
                                        "spm/unigram.model"};
    ns_buf b = {0};
    for (size_t i = 0; i < 4; i++) {
        read_golden(&b, files[i]);
        one_without_memory(&b);
    }
    write_tekken(&b, "", 3);
    one_without_memory(&b);
    ns_buf_free(&b);
}

/* ---- real files ---- */
static void real_files(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    static const struct {
        const char *path, *vectors;
        int64_t size;
    } files[] = {{"llama2/tokenizer.model", "llama2_spm", 32000},
                 {"mistral/tokenizer.model.v1", "mistral_v1_spm", 32000},
                 {"mistral/tokenizer.model.v3", "mistral_v3_spm", 32768},
                 {"llama3/tokenizer.model#llama3.1", "llama3", 128256},
                 {"llama3/tokenizer.model#llama3", "llama3", 128256},
                 {"qwen2.5/qwen.tiktoken", "qwen2.5", 151665},
                 {"qwen2.5/qwen.tiktoken#qwen2.5", "qwen2.5", 151665},
                 {"qwen2.5/qwen.tiktoken#qwen3", "qwen2.5", 151669}};
    ns_arena a = NS_ARENA_INIT("test");
    ns_error err = NS_ERROR_INIT;
    char path[4200];
    ns_json *v;
    snprintf(path, sizeof path, "%s/tokenizers/oracle/vectors.json", ns_test_data());
    assert_ns_ok(ns_json_read_file(&v, &a, path, &err), &err);
    assert_true(v->n > 100);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ns_tok *t;
        snprintf(path, sizeof path, "%s/tokenizers/%s", ns_test_data(), files[i].path);
        assert_ns_ok(ns_tok_load(&t, path, &err), &err);
        assert_int_equal(ns_tok_vocab_size(t), files[i].size);
        for (size_t k = 0; k < v->n; k++)
            check_text(t, files[i].path, 0, ns_json_get(&v->items[k], "text")->s,
                       ns_json_get(&v->items[k], files[i].vectors), NULL);
        ns_tok_free(&t);
    }
    /* Families: the ids of their special tokens. */
    static const struct {
        const char *path, *token;
        int32_t id;
    } special[] = {{"llama3/tokenizer.model#llama3", "<|reserved_special_token_4|>", 128008},
                   {"llama3/tokenizer.model#llama3", "<|reserved_special_token_5|>", 128010},
                   {"llama3/tokenizer.model#llama3", "<|reserved_special_token_250|>", 128255},
                   {"llama3/tokenizer.model#llama3.1", "<|eom_id|>", 128008},
                   {"llama3/tokenizer.model#llama3.1", "<|python_tag|>", 128010},
                   {"llama3/tokenizer.model#llama3.1", "<|reserved_special_token_247|>", 128255},
                   {"qwen2.5/qwen.tiktoken#qwen2", "<|im_end|>", 151645},
                   {"qwen2.5/qwen.tiktoken#qwen2.5", "<|file_sep|>", 151664},
                   {"qwen2.5/qwen.tiktoken#qwen3", "</think>", 151668}};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
        ns_tok *t;
        snprintf(path, sizeof path, "%s/tokenizers/%s", ns_test_data(), special[i].path);
        assert_ns_ok(ns_tok_load(&t, path, &err), &err);
        assert_int_equal(ns_tok_id(t, special[i].token), special[i].id);
        ns_tok_free(&t);
    }
    ns_tok *t;
    snprintf(path, sizeof path, "%s/tokenizers/llama3/tokenizer.model", ns_test_data());
    assert_ns_fails(ns_tok_load(&t, path, &err), NS_ERR_INPUT, "does not name its special tokens", &err);
    ns_arena_free(&a);
}

/* Without byte fallback: one unk stands for all that is unknown side by side, whatever the unknown piece's own text is (here
 * it is U+2581 "aa"; the last one is the blank that the model puts behind the text), and a piece marked unused is cut into what it was joined from, which may be unknown as well. */
static void spans_of_unknown(void **state)
{
    (void)state;
    ns_tok *t;
    ns_error err = NS_ERROR_INIT;
    ns_buf file = {0};
    ns_ids ids = {0};
    ns_spans spans = {0};
    static const struct {
        int32_t id;
        size_t from, to;
    } want[] = {{2, 0, 2}, {4, 2, 3}, {0, 3, 6}, {5, 6, 7}, {0, 7, 8}, {6, 8, 9}, {0, 9, 9}};
    enum { N = sizeof want / sizeof *want };
    assert_ns_ok(ns_file_read(&file, NS_SOURCE_DIR "/tests/corpus/spm/spans-of-unused", &err), &err);
    assert_ns_ok(build_copy(&t, file.data, file.len, NULL, &err), &err);
    assert_ns_ok(ns_tok_encode_spans(t, &ids, &spans, "the aab x", 9, 0, &err), &err);
    assert_int_equal(ids.n, N);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(ids.v[i], want[i].id);
        assert_int_equal(spans.v[i].from, want[i].from);
        assert_int_equal(spans.v[i].to, want[i].to);
    }
    ns_tok_free(&t);
    ns_buf_free(&file);
    ns_ids_free(&ids);
    ns_spans_free(&spans);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sentencepiece),    cmocka_unit_test(with_config),   cmocka_unit_test(damaged_models),
        cmocka_unit_test(refused_models),   cmocka_unit_test(damaged_ranks), cmocka_unit_test(tekken),
        cmocka_unit_test(spans_of_unknown), cmocka_unit_test(out_of_memory), cmocka_unit_test(real_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
