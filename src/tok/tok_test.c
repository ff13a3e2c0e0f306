/* The whole tokenizer: small hand-made tokenizer.json texts for every flag and every refusal (expectations confirmed with
 * the Hugging Face library), and the real Llama-3 and Qwen2.5 vocabularies against recorded ids. */
#include <pthread.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/testing.h"
#include "tok/tok_internal.h"
#include "tok/unicode.h"

/* ---- a tokenizer of 256 bytes (id = byte) and a few merges ---- */
typedef struct tiny {
    const char *added, *normalizer, *pre, *post, *decoder, *model, *vocab, *merges; /* NULL: the default below */
    const char *config;
} tiny;

#define GPT2_PRE "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"
#define TOKEN(id, text, flags) "{\"id\":" #id ",\"content\":\"" text "\"," flags "}"
#define RAW "\"normalized\":false,\"special\":true"

static uint32_t char_of_byte(int b)
{
    uint32_t next = 0x100;
    for (int k = 0;; k++) {
        int plain = (k >= 0x21 && k <= 0x7e) || (k >= 0xa1 && k <= 0xac) || k >= 0xae;
        if (k == b) return plain ? (uint32_t)k : next;
        next += !plain;
    }
}

static void write_tiny(ns_buf *out, const tiny *t)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf_clear(out);
    assert_ns_ok(ns_buf_printf(out, &err,
                               "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[%s],"
                               "\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":%s,\"decoder\":%s,"
                               "\"model\":{\"type\":\"BPE\",%s\"vocab\":{",
                               t->added ? t->added : "", t->normalizer ? t->normalizer : "null",
                               t->pre ? t->pre : GPT2_PRE, t->post ? t->post : "null",
                               t->decoder ? t->decoder : "{\"type\":\"ByteLevel\"}",
                               t->model ? t->model : "\"dropout\":null,\"unk_token\":null,"),
                 &err);
    for (int b = 0; b < 256; b++)
        assert_ns_ok(ns_buf_printf(out, &err, "%s\"\\u%04x\":%d", b ? "," : "", char_of_byte(b), b), &err);
    assert_ns_ok(ns_buf_printf(out, &err, "%s},\"merges\":[%s]}}",
                               t->vocab ? t->vocab : ",\"th\":256,\"the\":257,\"\\u0120the\":258,\"he\":259",
                               t->merges ? t->merges : "\"t h\",\"th e\",\"\\u0120 the\",\"h e\""),
                 &err);
}

static ns_status build(ns_tok **out, const tiny *t, ns_error *err)
{
    ns_buf text = {0};
    write_tiny(&text, t);
    ns_tok_source src = {.json = text.data,
                         .json_n = text.len,
                         .where = "tokenizer.json",
                         .config = t->config,
                         .config_n = t->config ? strlen(t->config) : 0,
                         .config_where = "tokenizer_config.json"};
    ns_status st = ns_tok_build(out, &src, err);
    ns_buf_free(&text);
    return st;
}

static ns_tok *must_build(const tiny *t)
{
    ns_error err = NS_ERROR_INIT;
    ns_tok *tok = NULL;
    assert_ns_ok(build(&tok, t, &err), &err);
    return tok;
}

/* Ids as text: printable single bytes as themselves, other ids in <>. */
static void encodes(const ns_tok *t, const char *text, int flags, const char *want)
{
    ns_ids ids = {0};
    ns_error err = NS_ERROR_INIT;
    char got[512] = "";
    assert_ns_ok(ns_tok_encode(t, &ids, text, strlen(text), flags, &err), &err);
    for (size_t i = 0; i < ids.n; i++) {
        int c = ids.v[i] < 127 && ids.v[i] >= 32;
        snprintf(got + strlen(got), sizeof got - strlen(got), c ? "%c" : "<%d>", (int)ids.v[i]);
    }
    assert_string_equal(got, want);
    ns_ids_free(&ids);
}

static void decodes(const ns_tok *t, const int32_t *ids, size_t n, int skip, const char *want)
{
    ns_buf out = {0};
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_buf_addc(&out, '>', &err), &err);
    assert_ns_ok(ns_tok_decode(t, &out, ids, n, skip, &err), &err);
    assert_string_equal(out.data + 1, want);
    ns_buf_free(&out);
}

static void small_vocabulary(void **state)
{
    (void)state;
    ns_tok *t = must_build(&(tiny){0});
    encodes(t, "", 0, "");
    encodes(t, "the the he\xc3\xa9", 0, "<257><258> <259><195><169>");
    assert_int_equal(ns_tok_vocab_size(t), 260);
    assert_int_equal(ns_tok_id(t, " the"), 258);
    assert_int_equal(ns_tok_id(t, "\n"), 10);
    assert_int_equal(ns_tok_id(t, "\xc4\xa0the"), -1); /* raw text, not the byte alphabet */
    assert_int_equal(ns_tok_bos(t), -1);
    assert_int_equal(ns_tok_eos(t), -1);
    assert_int_equal(ns_tok_space_sensitive(t), 1);
    assert_int_equal(ns_tok_is_special(t, 258), 0);
    decodes(t, (int32_t[]){258, 195}, 2, 0, " the\xc3"); /* half a character is the caller's to keep */
    ns_tok_free(&t);
    assert_null(t);
    t = must_build(&(tiny){.merges = "[\"t\",\"h\"],[\"th\",\"e\"],[\"\\u0120\",\"the\"],[\"h\",\"e\"]"});
    encodes(t, "the the he", 0, "<257><258> <259>");
    ns_tok_free(&t);
    t = must_build(&(tiny){.merges = "\"#version: 0.2\",\"h e\"", .model = "\"ignore_merges\":true,"});
    encodes(t, "the then", 0, "<257> t<259>n"); /* "the" is whole by name, " then" needs merges */
    ns_tok_free(&t);
}

static void added_tokens(void **state)
{
    (void)state;
    ns_tok *t = must_build(&(tiny){
        .added = TOKEN(260, "<a>", "\"lstrip\":true,\"rstrip\":true," RAW) "," TOKEN(261, " b", RAW) "," TOKEN(
            262, "<w>",
            "\"single_word\":true," RAW) "," TOKEN(263, "<a>b",
                                                   "\"normalized\":false,\"special\":false") "," TOKEN(264, "", RAW)});
    encodes(t, "x  <a>  b<a> y", 0, "x<260><261><260>y"); /* blanks swallowed by <a> still start " b" */
    encodes(t, "<w> z<w>k <w>", 0, "<262> z<w>k <262>");
    encodes(t, "<a>b<a>c", 0, "<263><260>c"); /* longest */
    encodes(t, "<a", 0, "<a");
    encodes(t, "q<a>b<a> ", NS_TOK_NO_SPECIAL_TEXT, "q<263><a> ");
    assert_int_equal(ns_tok_id(t, "<w>"), 262);
    assert_int_equal(ns_tok_vocab_size(t), 264); /* an empty one is ignored */
    assert_int_equal(ns_tok_is_special(t, 262), 1);
    assert_int_equal(ns_tok_is_special(t, 263), 0);
    decodes(t, (int32_t[]){'x', 260, 263, 'y'}, 4, 0, "x<a><a>by");
    decodes(t, (int32_t[]){'x', 260, 263, 'y'}, 4, 1, "x<a>by");
    ns_tok_free(&t);
}

/* Matches do not overlap, and a refused one is stepped over whole. */
static void overlapping_tokens(void **state)
{
    (void)state;
    ns_tok *t =
        must_build(&(tiny){.added = TOKEN(260, "xy", RAW) "," TOKEN(261, "yz", RAW) "," TOKEN(
                               262, "<a>", RAW) "," TOKEN(263, "a>b", "\"normalized\":false,\"special\":false")});
    encodes(t, "xyz yz", 0, "<260>z <261>");
    encodes(t, "<a>b a>b", 0, "<262>b <263>");
    encodes(t, "<a>b a>b", NS_TOK_NO_SPECIAL_TEXT, "<a>b <263>");
    ns_tok_free(&t);
}

static void normalized_tokens(void **state)
{
    (void)state;
    const char *nfc = "{\"type\":\"NFC\"}";
    /* <ṡ> is looked for in the normalised gaps; ṡ itself in the raw text before, so it hides the written-out form. */
    ns_tok *t = must_build(&(tiny){
        .normalizer = nfc,
        .added = TOKEN(260, "<s\\u0307>", "\"normalized\":true,\"special\":true") "," TOKEN(261, "\\u1e61", RAW)});
    encodes(t, "x<s\xcc\x87>y<\xe1\xb9\xa1>", 0, "x<260>y<<261>>");
    encodes(t, "s\xcc\x87", 0, "<225><185><161>");
    encodes(t, "e\xcc\x81<|", NS_TOK_NO_SPECIAL_TEXT, "<195><169><|");
    decodes(t, (int32_t[]){261}, 1, 0, "\xe1\xb9\xa1");
    ns_tok_free(&t);
    t = must_build(&(tiny){.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[]}"});
    encodes(t, "e\xcc\x81", 0, "e<204><129>");
    ns_tok_free(&t);
}

static void templates(void **state)
{
    (void)state;
    const char *added = TOKEN(260, "<s>", RAW) "," TOKEN(261, "</s>", RAW);
    const char *item =
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"B\",\"type_id\":0}},"
        "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"</s>\",\"type_id\":0}}],"
        "\"special_tokens\":{\"B\":{\"id\":\"B\",\"ids\":[260,104]},\"</s>\":{\"id\":\"</s>\",\"ids\":[261]}}}";
    char twice[2048];
    snprintf(twice, sizeof twice, "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},%s,%s]}", item,
             item);
    ns_tok *t = must_build(&(tiny){.added = added, .post = item});
    encodes(t, "x", 0, "x");
    encodes(t, "x", NS_TOK_ADD_SPECIAL, "<260>hx<261>");
    encodes(t, "", NS_TOK_ADD_SPECIAL, "<260>h<261>");
    assert_int_equal(ns_tok_bos(t), 260);
    assert_int_equal(ns_tok_eos(t), -1);
    ns_tok_free(&t);
    t = must_build(&(tiny){.added = added, .post = twice});
    encodes(t, "x", NS_TOK_ADD_SPECIAL, "<260>h<260>hx<261><261>");
    ns_tok_free(&t);
}

static void pre_tokenizers(void **state)
{
    (void)state;
    const char *split =
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|"
        "'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r"
        "\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"%s\",\"invert\":%s},{\"type\":"
        "\"ByteLevel\",\"add_prefix_space\":%s,\"use_regex\":false}]}";
    char pre[2048];
    const char *vocab = ",\"12\":256,\"\\u01201\":257", *merges = "\"1 2\",\"\\u0120 1\"";
    snprintf(pre, sizeof pre, split, "Isolated", "false", "false");
    ns_tok *t = must_build(&(tiny){.pre = pre, .vocab = vocab, .merges = merges});
    encodes(t, "12 1", 0, "12 1"); /* every digit alone: no merge can cross */
    ns_tok_free(&t);
    snprintf(pre, sizeof pre, split, "Removed", "true", "false"); /* the same, said differently */
    t = must_build(&(tiny){.pre = pre, .vocab = vocab, .merges = merges});
    encodes(t, "12 1", 0, "12 1");
    ns_tok_free(&t);
    snprintf(pre, sizeof pre, split, "Isolated", "false", "true"); /* a blank before each piece */
    t = must_build(&(tiny){.pre = pre, .vocab = vocab, .merges = merges});
    encodes(t, "12 x", 0, "<257> 2 x");
    ns_tok_free(&t);
    t = must_build(
        &(tiny){.pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", .vocab = vocab, .merges = merges});
    encodes(t, "12", 0, " <256>");
    encodes(t, " 12", 0, " <256>");
    encodes(t, "\n1", 0, " <10>1");
    ns_tok_free(&t);
}

static void config_file(void **state)
{
    (void)state;
    const char *added = TOKEN(260, "<s>", "\"normalized\":false,\"special\":false");
    ns_tok *t = must_build(&(tiny){
        .added = added,
        .config =
            "{\"bos_token\":{\"content\":\"<s>\",\"lstrip\":false},\"eos_token\":\"</s>\",\"pad_token\":null,"
            "\"additional_special_tokens\":[\"<x>\",\"the\"],\"added_tokens_decoder\":{\"260\":{\"content\":\"<s>\","
            "\"rstrip\":true,\"special\":false},\"262\":{\"content\":\"</"
            "s>\",\"special\":true,\"normalized\":false}}}"});
    assert_int_equal(ns_tok_bos(t), 260);
    assert_int_equal(ns_tok_eos(t), 262);
    assert_int_equal(ns_tok_vocab_size(t), 263);
    assert_int_equal(ns_tok_is_special(t, 260), 1); /* special by its role */
    assert_int_equal(ns_tok_is_special(t, 257), 1);
    encodes(t, "<s>  x</s>other", 0, "<260>x<262>o<257>r"); /* "the" is cut out now; rstrip came from the config */
    ns_error err = NS_ERROR_INIT;
    ns_buf out = {0};
    assert_ns_fails(ns_tok_decode(t, &out, (int32_t[]){'a', 261}, 2, 0, &err), NS_ERR_INPUT, "id 261 at position 1",
                    &err);
    assert_int_equal(out.len, 0);
    assert_ns_fails(ns_tok_decode(t, &out, (int32_t[]){-1}, 1, 0, &err), NS_ERR_INPUT, "id -1 at position 0", &err);
    ns_buf_free(&out);
    ns_tok_free(&t);
    t = must_build(&(tiny){.added = added, .config = "{\"bos_token\":null,\"eos_token\":\"<s>\"}"});
    assert_int_equal(ns_tok_bos(t), -1);
    assert_int_equal(ns_tok_eos(t), 260);
    ns_tok_free(&t);
}

static void literal_and_unknown(void **state)
{
    (void)state;
    /* A vocabulary text outside the byte alphabet never comes out of encoding, but has an id and decodes. */
    ns_tok *t = must_build(&(tiny){.vocab = ",\"\\u4f60 \":256,\"\\u00e4\\u00bd\\u0142\":257", .merges = ""});
    assert_int_equal(ns_tok_id(t, "\xe4\xbd\xa0 "), 256);
    assert_int_equal(ns_tok_id(t, "\xe4\xbd\xa0"), 257);
    encodes(t, "\xe4\xbd\xa0 ", 0, "<228><189><160> ");
    decodes(t, (int32_t[]){256, 257}, 2, 0, "\xe4\xbd\xa0 \xe4\xbd\xa0");
    ns_tok_free(&t);
}

static void bad_text(void **state)
{
    (void)state;
    ns_tok *t = must_build(&(tiny){0});
    ns_ids ids = {0};
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_tok_encode(t, &ids, "a", 1, 0, &err), &err);
    assert_ns_fails(ns_tok_encode(t, &ids, "the \xff", 5, 0, &err), NS_ERR_INPUT, "text byte 4 (0xff)", &err);
    assert_ns_fails(ns_tok_encode(t, &ids, "\xed\xa0\x80", 3, 0, &err), NS_ERR_INPUT, "text byte 0 (0xed)", &err);
    assert_ns_fails(ns_tok_encode(t, &ids, "12345678\xe4\xbd", 10, 0, &err), NS_ERR_INPUT, "text byte 8 (0xe4)", &err);
    assert_int_equal(ids.n, 1); /* nothing appended */
    ns_ids_free(&ids);
    ns_tok_free(&t);
}

/* ---- refusals ---- */
static void refusals(void **state)
{
    (void)state;
#define SPLIT(re, behavior) \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" re "\"},\"behavior\":\"" behavior "\",\"invert\":false}"
    static const struct {
        tiny t;
        ns_status code;
        const char *text;
    } cases[] = {
        {{.normalizer = "{\"type\":\"Lowercase\"}"}, NS_ERR_UNSUPPORTED, "normalizer: 'Lowercase'"},
        {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Nmt\"}]}"},
         NS_ERR_UNSUPPORTED,
         "normalizer.normalizers[1]: 'Nmt'"},
        {{.normalizer = "3"}, NS_ERR_UNSUPPORTED, "(no type)"},
        {{.normalizer = "{\"type\":\"Prepend\",\"prepend\":7}"}, NS_ERR_INPUT, "normalizer.prepend is a number"},
        {{.normalizer = "{\"type\":\"Replace\",\"content\":\"x\"}"}, NS_ERR_INPUT, "normalizer.pattern must be"},
        {{.normalizer = "{\"type\":\"Replace\",\"content\":\"x\",\"pattern\":{\"String\":\"\"}}"},
         NS_ERR_UNSUPPORTED,
         "normalizer.pattern is the empty string"},
        {{.normalizer = "{\"type\":\"Strip\",\"strip_left\":true}"}, NS_ERR_INPUT, "normalizer.strip_right is nothing"},
        {{.pre = "null"}, NS_ERR_UNSUPPORTED, "decoder: ByteLevel without a ByteLevel pre_tokenizer"},
        {{.pre = "{\"type\":\"Metaspace\"}"}, NS_ERR_INPUT, "pre_tokenizer.replacement must be one character"},
        {{.pre = "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}"},
         NS_ERR_INPUT,
         "pre_tokenizer.prepend_scheme is last, expected always, first or never"},
        {{.pre = "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false}"},
         NS_ERR_INPUT,
         "add_prefix_space false contradicts prepend_scheme 'always'"},
        {{.pre = "{\"type\":\"Punctuation\"}"}, NS_ERR_UNSUPPORTED, "pre_tokenizer: 'Punctuation'"},
        {{.pre = "{\"type\":\"Digits\"}"}, NS_ERR_INPUT, "pre_tokenizer.individual_digits is nothing"},
        {{.pre = SPLIT("a(b", "Isolated")}, NS_ERR_UNSUPPORTED, "a(b"},
        {{.pre = SPLIT("^a", "Isolated")}, NS_ERR_UNSUPPORTED, "pre_tokenizer.pattern.Regex: pattern byte 0: ^"},
        {{.pre = SPLIT("a", "Isolate")}, NS_ERR_UNSUPPORTED, "pre_tokenizer.behavior is Isolate, expected"},
        {{.pre = "{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"Removed\"}"},
         NS_ERR_INPUT,
         "pre_tokenizer.invert is nothing"},
        {{.pre = "{\"type\":\"Sequence\",\"pretokenizers\":[" GPT2_PRE "," GPT2_PRE "]}"},
         NS_ERR_UNSUPPORTED,
         "after ByteLevel"},
        {{.decoder = "null"}, NS_ERR_UNSUPPORTED, "decoder is null"},
        {{.decoder = "{\"type\":\"WordPiece\"}"}, NS_ERR_UNSUPPORTED, "decoder: 'WordPiece'"},
        {{.post = "{\"type\":\"RobertaProcessing\"}"}, NS_ERR_UNSUPPORTED, "post_processor: 'RobertaProcessing'"},
        {{.post = "{\"type\":\"TemplateProcessing\",\"single\":[]}"}, NS_ERR_UNSUPPORTED, "the text ($A) once"},
        {{.post =
              "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<q>\"}},{\"Sequence\":{\"id\":"
              "\"A\"}}],\"special_tokens\":{}}"},
         NS_ERR_INPUT,
         "'<q>', which its special_tokens lack"},
        {{.post =
              "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"q\"}},{\"Sequence\":{\"id\":"
              "\"A\"}}],\"special_tokens\":{\"q\":{\"ids\":[999]}}}"},
         NS_ERR_INPUT,
         "uses id 999, which is no token"},
        {{.model = "\"dropout\":0.1,"}, NS_ERR_UNSUPPORTED, "model.dropout"},
        {{.model = "\"end_of_word_suffix\":\"</w>\","}, NS_ERR_UNSUPPORTED, "model.end_of_word_suffix"},
        {{.vocab = ",\"ab\":255"}, NS_ERR_INPUT, "token 'ab' has id 255, which another token has already"},
        {{.vocab = ",\"ab\":-1"}, NS_ERR_INPUT, "token 'ab' has id -1, expected an integer"},
        {{.vocab = ",\"ab\":1.5"}, NS_ERR_INPUT, "has id 1.5"},
        {{.vocab = ",\"ab\":4000000000"}, NS_ERR_INPUT, "has id 4000000000"},
        {{.vocab = ",\"ab\":\"x\""}, NS_ERR_INPUT, "has id a string"},
        {{.merges = "\"t q\""}, NS_ERR_INPUT, "model.merges[0]: 't' + 'q' is not in the vocabulary"},
        {{.merges = "\"t h\",\"tq h\""}, NS_ERR_INPUT, "model.merges[1]: token 'tq' is not in the vocabulary"},
        {{.merges = "\"th\""}, NS_ERR_INPUT, "model.merges[0] is 'th', expected two tokens"},
        {{.merges = "\"t h e\""}, NS_ERR_INPUT, "model.merges[0] is 't h e', expected two tokens"},
        {{.merges = "[\"t\"]"}, NS_ERR_INPUT, "model.merges[0] is not a list of two strings"},
        {{.merges = "[\"\",\"t\"]"}, NS_ERR_INPUT, "empty part"},
        {{.merges = "\" t\""}, NS_ERR_INPUT, "empty part"},
        {{.merges = "7"}, NS_ERR_INPUT, "model.merges[0] is a number"},
        {{.merges = "\"\\u4f60 t\""}, NS_ERR_INPUT, "is not in the vocabulary"},
        {{.added = "7"}, NS_ERR_INPUT, "added_tokens[0]"},
        {{.added = TOKEN(255, "<x>", RAW)}, NS_ERR_MISMATCH, "'<x>' has id 255, which is another token"},
        {{.added = TOKEN(300, "the", RAW)}, NS_ERR_MISMATCH, "'the' has id 300, but the vocabulary has it at 257"},
        {{.added = TOKEN(300, "<x>", RAW) "," TOKEN(300, "<y>", RAW)}, NS_ERR_MISMATCH, "'<x>' has id 300 already"},
        {{.added = TOKEN(300, "<x>", RAW) "," TOKEN(301, "<x>", RAW)}, NS_ERR_MISMATCH, "has id 300 already"},
        {{.config = "{\"eos_token\":\"<nope>\"}"}, NS_ERR_MISMATCH, "eos_token '<nope>' is not a token"},
        {{.config = "{\"eos_token\":7}"}, NS_ERR_INPUT, "eos_token is a number"},
        {{.config = "{\"added_tokens_decoder\":{\"x\":{\"content\":\"<x>\"}}}"},
         NS_ERR_INPUT,
         "added_tokens_decoder 'x'"},
        {{.config = "{\"added_tokens_decoder\":{\"300\":{}}}"}, NS_ERR_INPUT, "found nothing"},
        {{.config = "{"}, NS_ERR_INPUT, "tokenizer_config.json"},
    };
    ns_error err = NS_ERROR_INIT;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ns_tok *t = NULL;
        assert_ns_fails(build(&t, &cases[i].t, &err), cases[i].code, cases[i].text, &err);
        assert_null(t);
    }
    static const struct {
        const char *json, *text;
        ns_status code;
    } whole[] = {
        {"", "tokenizer.json", NS_ERR_INPUT},
        {"[]", "found an array, expected an object", NS_ERR_INPUT},
        {"{\"pre_tokenizer\":" GPT2_PRE ",\"decoder\":{\"type\":\"ByteLevel\"}}", "'model' is nothing", NS_ERR_INPUT},
        {"{\"pre_tokenizer\":" GPT2_PRE ",\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"Unigram\"}}",
         "model 'Unigram'", NS_ERR_UNSUPPORTED},
        {"{\"pre_tokenizer\":" GPT2_PRE ",\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":[]}}",
         "model.vocab is an array", NS_ERR_INPUT},
        {"{\"pre_tokenizer\":" GPT2_PRE ",\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{}}}",
         "model.merges is nothing", NS_ERR_INPUT},
    };
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        ns_tok *t = NULL;
        ns_tok_source src = {.json = whole[i].json, .json_n = strlen(whole[i].json), .where = "tokenizer.json"};
        assert_ns_fails(ns_tok_build(&t, &src, &err), whole[i].code, whole[i].text, &err);
    }
}

static void missing_bytes(void **state)
{
    (void)state;
#define SMALL(model)                                                                         \
    "{\"pre_tokenizer\":" GPT2_PRE ",\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{" model \
    "\"vocab\":{\"a\":0,\"?\":1},\"merges\":[]}}"
    ns_tok *t = NULL;
    ns_ids ids = {0};
    ns_error err = NS_ERROR_INIT;
    ns_tok_source src = {.json = SMALL(""), .json_n = strlen(SMALL("")), .where = "t"};
    assert_ns_ok(ns_tok_build(&t, &src, &err), &err);
    assert_ns_fails(ns_tok_encode(t, &ids, "ab", 2, 0, &err), NS_ERR_INPUT, "byte 0x62 has no token", &err);
    assert_ns_fails(ns_tok_encode(t, &ids, "a?b", 3, 0, &err), NS_ERR_INPUT, "byte 0x62 has no token", &err);
    assert_int_equal(ids.n, 0); /* the first piece is taken back */
    ns_tok_free(&t);
    src.json = SMALL("\"unk_token\":\"?\",");
    src.json_n = strlen(src.json);
    assert_ns_ok(ns_tok_build(&t, &src, &err), &err);
    assert_ns_ok(ns_tok_encode(t, &ids, "abb", 3, 0, &err), &err);
    assert_int_equal(ids.n, 3);
    assert_int_equal(ids.v[2], 1);
    ns_ids_free(&ids);
    ns_tok_free(&t);
    src.json = SMALL("\"unk_token\":\"!\",");
    assert_ns_fails(ns_tok_build(&t, &src, &err), NS_ERR_INPUT, "unk_token '!' is not in the vocabulary", &err);
    src.json = SMALL("\"byte_fallback\":true,");
    src.json_n = strlen(src.json);
    assert_ns_fails(ns_tok_build(&t, &src, &err), NS_ERR_UNSUPPORTED, "byte_fallback", &err);
}

static const tiny rich = {
    .normalizer = "{\"type\":\"NFC\"}",
    .added = TOKEN(260, "<s>", RAW) "," TOKEN(261, "<e\\u0301>", "\"normalized\":true,\"special\":false"),
    .post = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
            "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[260]}}}",
    .config = "{\"bos_token\":\"<s>\",\"eos_token\":\"the\"}"};

/* A file cut anywhere is refused. */
static void truncated_file(void **state)
{
    (void)state;
    ns_buf text = {0};
    ns_error fresh = NS_ERROR_INIT, err;
    write_tiny(&text, &rich);
    for (size_t n = 0; n < text.len; n += n % 16 == 0 ? 1 : 3) {
        char *copy = malloc(n ? n : 1); /* exact size: a sanitizer sees reading past the end */
        assert_non_null(copy);
        memcpy(copy, text.data, n);
        ns_tok *t = NULL;
        ns_tok_source src = {.json = copy, .json_n = n, .where = "tokenizer.json"};
        err = fresh;
        assert_int_equal(ns_tok_build(&t, &src, &err), NS_ERR_INPUT);
        assert_non_null(strstr(err.msg, "tokenizer.json"));
        free(copy);
    }
    ns_buf_free(&text);
}

static void out_of_memory(void **state)
{
    (void)state;
    ns_buf text = {0};
    write_tiny(&text, &rich);
    uint64_t before = ns_mem_get_stats().bytes_now;
    ns_tok_source src = {.json = text.data,
                         .json_n = text.len,
                         .where = "t",
                         .config = rich.config,
                         .config_n = strlen(rich.config),
                         .config_where = "c"};
    char longer[600];
    memset(longer, 'h', sizeof longer);
    memcpy(longer, "e\xcc\x81", 3);
    for (uint64_t k = 1;; k++) {
        ns_tok *t = NULL;
        ns_ids ids = {0};
        ns_buf back = {0};
        ns_error err = NS_ERROR_INIT;
        ns_mem_fail_at(k, 0);
        ns_status st = ns_tok_build(&t, &src, &err);
        if (st == NS_OK) st = ns_tok_encode(t, &ids, longer, sizeof longer, NS_TOK_ADD_SPECIAL, &err);
        if (st == NS_OK) st = ns_tok_decode(t, &back, ids.v, ids.n, 0, &err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        ns_tok_free(&t);
        ns_ids_free(&ids);
        ns_buf_free(&back);
        assert_int_equal(ns_mem_get_stats().bytes_now, before);
        if (!hit) {
            assert_int_equal(st, NS_OK);
            assert_true(k > 20);
            break;
        }
        assert_int_equal(st, NS_ERR_MEMORY);
    }
    ns_buf_free(&text);
}

static void load_from_disk(void **state)
{
    (void)state;
    char dir[4096], path[4200];
    ns_error err = NS_ERROR_INIT;
    ns_buf text = {0};
    ns_tok *t = NULL;
    ns_test_tmpdir(dir, sizeof dir);
    assert_ns_fails(ns_tok_load(&t, dir, &err), NS_ERR_INPUT, "has no tokenizer.json", &err);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    assert_ns_fails(ns_tok_load(&t, path, &err), NS_ERR_IO, path, &err);
    write_tiny(&text, &rich);
    assert_ns_ok(ns_file_replace(path, text.data, text.len, &err), &err);
    assert_ns_ok(ns_tok_load(&t, dir, &err), &err);
    assert_int_equal(ns_tok_bos(t), 260); /* from the template */
    assert_int_equal(ns_tok_eos(t), -1);
    ns_tok_free(&t);
    snprintf(path, sizeof path, "%s/special_tokens_map.json", dir);
    assert_ns_ok(ns_file_replace(path, "{\"eos_token\":\"he\",\"bos_token\":\"he\"}", 35, &err), &err);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    assert_ns_ok(ns_file_replace(path, "{\"bos_token\":\"the\"}", 19, &err), &err);
    snprintf(path, sizeof path, "%s/", dir);
    assert_ns_ok(ns_tok_load(&t, path, &err), &err);
    assert_int_equal(ns_tok_bos(t), 257); /* the config first, then the map */
    assert_int_equal(ns_tok_eos(t), 259);
    ns_tok_free(&t);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    assert_ns_ok(ns_file_replace(path, "", 0, &err), &err);
    assert_ns_fails(ns_tok_load(&t, path, &err), NS_ERR_INPUT, path, &err);
    assert_ns_ok(ns_file_replace(path, text.data, text.len - 9, &err), &err);
    assert_ns_fails(ns_tok_load(&t, path, &err), NS_ERR_INPUT, path, &err);
    assert_null(t);
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
    ns_buf_free(&text);
}

/* ---- the real vocabularies ---- */
static ns_tok *real(const char *name)
{
    char path[4200];
    ns_error err = NS_ERROR_INIT;
    ns_tok *t = NULL;
    snprintf(path, sizeof path, "%s/tokenizers/%s/tokenizer.assembled.json", ns_test_data(), name);
    assert_ns_ok(ns_tok_load(&t, path, &err), &err);
    return t;
}

static const ns_json *oracle(ns_arena *a, const char *name)
{
    char path[4200];
    ns_error err = NS_ERROR_INIT;
    ns_json *v = NULL;
    snprintf(path, sizeof path, "%s/tokenizers/oracle/%s", ns_test_data(), name);
    assert_ns_ok(ns_json_read_file(&v, a, path, &err), &err);
    return v;
}

static void same_ids(const ns_tok *t, ns_str text, const ns_json *want, int flags)
{
    ns_ids ids = {0};
    ns_error err = NS_ERROR_INIT;
    int64_t x;
    assert_ns_ok(ns_tok_encode(t, &ids, text.p, text.n, flags, &err), &err);
    if (ids.n != want->n) print_message("text: %.*s\n", (int)text.n, text.p);
    assert_int_equal(ids.n, want->n);
    for (size_t i = 0; i < ids.n; i++) {
        assert_true(ns_json_is_int(&want->items[i], &x));
        assert_int_equal(ids.v[i], x);
    }
    ns_ids_free(&ids);
}

static void recorded_ids(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_arena a = NS_ARENA_INIT("test");
    ns_tok *llama = real("llama3"), *qwen = real("qwen2.5");
    const ns_json *v = oracle(&a, "vectors.json");
    assert_int_equal(v->n, 101);
    for (size_t i = 0; i < v->n; i++) {
        ns_str text = ns_json_get(&v->items[i], "text")->s;
        same_ids(llama, text, ns_json_get(&v->items[i], "llama3"), 0);
        same_ids(qwen, text, ns_json_get(&v->items[i], "qwen2.5"), 0);
    }
    v = oracle(&a, "hf_llama3.2_cases.json");
    assert_int_equal(v->n, 18);
    for (size_t i = 0; i < v->n; i++) {
        ns_str text = ns_json_get(&v->items[i], "input")->s;
        const ns_json *want = ns_json_at(&v->items[i], "encoded.input_ids");
        ns_ids ids = {0};
        ns_buf back = {0};
        ns_error err = NS_ERROR_INIT;
        same_ids(llama, text, want, NS_TOK_ADD_SPECIAL);
        assert_ns_ok(ns_tok_encode(llama, &ids, text.p, text.n, NS_TOK_ADD_SPECIAL, &err), &err);
        assert_ns_ok(ns_tok_decode(llama, &back, ids.v, ids.n, 1, &err), &err);
        assert_int_equal(back.len, text.n);
        assert_memory_equal(back.data, text.p, text.n);
        ns_ids_free(&ids);
        ns_buf_free(&back);
    }
    ns_arena_free(&a);
    ns_tok_free(&llama);
    ns_tok_free(&qwen);
}

static void real_properties(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_tok *llama = real("llama3"), *qwen = real("qwen2.5"), *no = NULL;
    ns_error err = NS_ERROR_INIT;
    char path[4200];
    assert_int_equal(ns_tok_vocab_size(llama), 128256);
    assert_int_equal(ns_tok_bos(llama), 128000);
    assert_int_equal(ns_tok_id(llama, "<|eot_id|>"), 128009);
    assert_int_equal(ns_tok_id(llama, " hello"), 24748);
    assert_int_equal(ns_tok_is_special(llama, 128009), 1);
    assert_int_equal(ns_tok_space_sensitive(llama), 1);
    assert_int_equal(ns_tok_vocab_size(qwen), 151665);
    assert_int_equal(ns_tok_bos(qwen), -1);
    assert_int_equal(ns_tok_eos(qwen), 151645);
    assert_int_equal(ns_tok_is_special(qwen, 151657), 0); /* <tool_call> */
    assert_int_equal(ns_tok_space_sensitive(qwen), 1);
    snprintf(path, sizeof path, "%s/tokenizers/mistral", ns_test_data());
    assert_ns_fails(ns_tok_load(&no, path, &err), NS_ERR_INPUT, "give the file itself", &err);
    ns_tok_free(&llama);
    ns_tok_free(&qwen);
}

/* Llama-2's tokenizer.json: SentencePiece style. The vectors were recorded without cutting out added tokens. */
static void llama2_ids(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_arena a = NS_ARENA_INIT("test");
    ns_error err = NS_ERROR_INIT;
    char path[4200];
    ns_tok *t = NULL;
    snprintf(path, sizeof path, "%s/tokenizers/llama2", ns_test_data());
    assert_ns_ok(ns_tok_load(&t, path, &err), &err);
    assert_int_equal(ns_tok_vocab_size(t), 32000);
    assert_int_equal(ns_tok_bos(t), 1);
    assert_int_equal(ns_tok_eos(t), 2);
    assert_int_equal(ns_tok_space_sensitive(t), 0);
    const ns_json *v = oracle(&a, "vectors.json");
    for (size_t i = 0; i < v->n; i++) {
        ns_str text = ns_json_get(&v->items[i], "text")->s;
        ns_ids ids = {0};
        ns_buf back = {0};
        same_ids(t, text, ns_json_get(&v->items[i], "llama2_hf"), NS_TOK_NO_SPECIAL_TEXT);
        assert_ns_ok(ns_tok_encode(t, &ids, text.p, text.n, NS_TOK_NO_SPECIAL_TEXT, &err), &err);
        assert_ns_ok(ns_tok_decode(t, &back, ids.v, ids.n, 0, &err), &err);
        if (!strstr(text.p, NS_META)) { /* that character comes back as a blank, as in the reference */
            assert_int_equal(back.len, text.n);
            if (text.n) assert_memory_equal(back.data, text.p, text.n);
        }
        ns_ids_free(&ids);
        ns_buf_free(&back);
    }
    v = oracle(&a, "hf_llama2_cases.json");
    assert_true(v->n > 10);
    for (size_t i = 0; i < v->n; i++) {
        static const char *const key[] = {"decoded_with_special", "decoded_without_special"};
        ns_str text = ns_json_get(&v->items[i], "input")->s;
        ns_ids ids = {0};
        same_ids(t, text, ns_json_at(&v->items[i], "encoded.input_ids"), NS_TOK_ADD_SPECIAL);
        assert_ns_ok(ns_tok_encode(t, &ids, text.p, text.n, NS_TOK_ADD_SPECIAL, &err), &err);
        for (int skip = 0; skip < 2; skip++) {
            ns_buf back = {0};
            ns_str want = ns_json_get(&v->items[i], key[skip])->s;
            assert_ns_ok(ns_tok_decode(t, &back, ids.v, ids.n, skip, &err), &err);
            assert_int_equal(back.len, want.n);
            if (want.n) assert_memory_equal(back.data, want.p, want.n);
            ns_buf_clear(&back); /* one id at a time, as generation does */
            for (size_t j = 0; j < ids.n; j++) assert_ns_ok(ns_tok_decode(t, &back, ids.v + j, 1, skip, &err), &err);
            assert_int_equal(back.len, want.n);
            if (want.n) assert_memory_equal(back.data, want.p, want.n);
            ns_buf_free(&back);
        }
        ns_ids_free(&ids);
    }
    ns_arena_free(&a);
    /* The novel is one word here: line by line and whole, both in n log n. */
    ns_buf novel = {0}, back = {0};
    ns_ids ids = {0};
    snprintf(path, sizeof path, "%s/tokenizers/corpus/war-and-peace.txt", ns_test_data());
    assert_ns_ok(ns_file_read(&novel, path, &err), &err);
    for (size_t i = 0, n; i < novel.len; i += n) {
        const char *end = memchr(novel.data + i, '\n', novel.len - i);
        n = end ? (size_t)(end - novel.data) + 1 - i : novel.len - i;
        assert_ns_ok(ns_tok_encode(t, &ids, novel.data + i, n, 0, &err), &err);
    }
    assert_int_equal(ids.n, 853346);
    ids.n = 0;
    assert_ns_ok(ns_tok_encode(t, &ids, novel.data, novel.len, 0, &err), &err);
    assert_ns_ok(ns_tok_decode(t, &back, ids.v, ids.n, 0, &err), &err);
    assert_int_equal(back.len, novel.len);
    assert_memory_equal(back.data, novel.data, novel.len);
    ns_buf_free(&novel);
    ns_buf_free(&back);
    ns_ids_free(&ids);
    ns_tok_free(&t);
}

/* Counts are those of the reference library over the same pieces of text. */
static void whole_corpora(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    static const struct {
        const char *name;
        size_t novel, novel_lines, gsm8k;
    } want[] = {{"llama3", 760377, 773291, 1177960}, {"qwen2.5", 761086, 774000, 1355905}};
    char path[4200];
    ns_error err = NS_ERROR_INIT;
    for (int k = 0; k < 2; k++) {
        ns_tok *t = real(want[k].name);
        ns_buf text = {0}, back = {0};
        ns_ids ids = {0};
        snprintf(path, sizeof path, "%s/tokenizers/corpus/war-and-peace.txt", ns_test_data());
        assert_ns_ok(ns_file_read(&text, path, &err), &err);
        assert_ns_ok(ns_tok_encode(t, &ids, text.data, text.len, 0, &err), &err);
        assert_int_equal(ids.n, want[k].novel);
        assert_ns_ok(ns_tok_decode(t, &back, ids.v, ids.n, 0, &err), &err);
        assert_int_equal(back.len, text.len);
        assert_memory_equal(back.data, text.data, text.len);
        ids.n = 0;
        for (size_t i = 0, n; i < text.len; i += n) {
            const char *end = memchr(text.data + i, '\n', text.len - i);
            n = end ? (size_t)(end - text.data) + 1 - i : text.len - i;
            assert_ns_ok(ns_tok_encode(t, &ids, text.data + i, n, 0, &err), &err);
        }
        assert_int_equal(ids.n, want[k].novel_lines);
        ns_jsonl *rows = NULL;
        ns_arena a = NS_ARENA_INIT("test");
        const char *line, *where;
        size_t n;
        ids.n = 0;
        snprintf(path, sizeof path, "%s/gsm8k/train.jsonl", ns_test_data());
        assert_ns_ok(ns_jsonl_open(&rows, path, &err), &err);
        for (;;) {
            ns_json *row;
            assert_ns_ok(ns_jsonl_next_line(rows, &line, &n, &where, &err), &err);
            if (!line) break;
            assert_ns_ok(ns_json_parse(&row, &a, line, n, where, 0, &err), &err);
            ns_str q = ns_json_get(row, "question")->s, r = ns_json_get(row, "answer")->s;
            assert_ns_ok(ns_tok_encode(t, &ids, q.p, q.n, 0, &err), &err);
            assert_ns_ok(ns_tok_encode(t, &ids, r.p, r.n, 0, &err), &err);
            ns_arena_free(&a);
        }
        assert_int_equal(ids.n, want[k].gsm8k);
        ns_jsonl_close(&rows);
        ns_ids_free(&ids);
        ns_buf_free(&text);
        ns_buf_free(&back);
        ns_tok_free(&t);
    }
}

/* A megabyte of one letter, of digits, of blanks: seconds would mean quadratic work. */
static void hostile_text(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    enum { N = 1 << 20 };
    char *text = malloc(N);
    assert_non_null(text);
    for (int k = 0; k < 2; k++) {
        ns_tok *t = real(k ? "qwen2.5" : "llama3");
        for (const char *c = "a1 \n.<"; *c; c++) {
            ns_ids ids = {0};
            ns_buf back = {0};
            ns_error err = NS_ERROR_INIT;
            memset(text, *c, N);
            assert_ns_ok(ns_tok_encode(t, &ids, text, N, 0, &err), &err);
            assert_ns_ok(ns_tok_decode(t, &back, ids.v, ids.n, 0, &err), &err);
            assert_int_equal(back.len, N);
            assert_memory_equal(back.data, text, N);
            ns_ids_free(&ids);
            ns_buf_free(&back);
        }
        ns_tok_free(&t);
    }
    free(text);
}

/* One tokenizer, two threads, from its first use on (the remembered answers are filled concurrently). */
typedef struct job {
    const ns_tok *t;
    ns_ids ids;
    ns_status st;
} job;

static void *encode_often(void *arg)
{
    job *j = arg;
    static const char text[] = "the other then, he theth <s> the\xcc\x81";
    for (int i = 0; i < 200 && j->st == NS_OK; i++) j->st = ns_tok_encode(j->t, &j->ids, text, strlen(text), 0, NULL);
    return NULL;
}

static void threads(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        ns_tok *t = must_build(&rich);
        job jobs[2] = {{.t = t}, {.t = t}};
        pthread_t id[2];
        for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&id[i], NULL, encode_often, &jobs[i]), 0);
        for (int i = 0; i < 2; i++) assert_int_equal(pthread_join(id[i], NULL), 0);
        assert_int_equal(jobs[0].st, NS_OK);
        assert_int_equal(jobs[1].st, NS_OK);
        assert_int_equal(jobs[0].ids.n, jobs[1].ids.n);
        assert_memory_equal(jobs[0].ids.v, jobs[1].ids.v, jobs[0].ids.n * sizeof(int32_t));
        for (int i = 0; i < 2; i++) ns_ids_free(&jobs[i].ids);
        ns_tok_free(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_vocabulary),   cmocka_unit_test(added_tokens),
        cmocka_unit_test(overlapping_tokens), cmocka_unit_test(normalized_tokens),
        cmocka_unit_test(templates),          cmocka_unit_test(pre_tokenizers),
        cmocka_unit_test(config_file),        cmocka_unit_test(literal_and_unknown),
        cmocka_unit_test(bad_text),           cmocka_unit_test(refusals),
        cmocka_unit_test(missing_bytes),      cmocka_unit_test(truncated_file),
        cmocka_unit_test(out_of_memory),      cmocka_unit_test(load_from_disk),
        cmocka_unit_test(recorded_ids),       cmocka_unit_test(real_properties),
        cmocka_unit_test(llama2_ids),         cmocka_unit_test(whole_corpora),
        cmocka_unit_test(hostile_text),       cmocka_unit_test(threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
