/* Fuzz target for the tokenizer. First byte: what the rest is.
 *   '{'        tokenizer.json (the byte belongs to it), perhaps followed by a NUL and a tokenizer_config.json
 *   otherwise  text for one of three byte-complete tokenizers (byte % 3: Llama-3, GPT-2 with added tokens, Qwen2 with NFC)
 * Properties: no crash; a refusal is one line and of a kind that names bad input; what a tokenizer encodes decodes to the
 * text (to its NFC form, for the third); ids are in range; special text as plain text decodes to the same. */
#include "tok/fuzz_check.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

/* The pre-tokenizer patterns as they stand in files. */
#define SPLIT(digits)                                                                                                  \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|" \
    "'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|" digits                                                              \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|"                                                   \
    "\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"use_regex\":"     \
    "false}]}"

static ns_tok *make(int kind)
{
    static const char *const pre[] = {SPLIT("\\\\p{N}{1,3}"), "{\"type\":\"ByteLevel\"}", SPLIT("\\\\p{N}")};
    static const char tokens[] = "{\"id\":300,\"content\":\"<s>\",\"special\":true},"
                                 "{\"id\":301,\"content\":\"  \"},{\"id\":302,\"content\":\"<s>a\"}";
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    ns_tok *t = NULL;
    must(ns_buf_printf(
             &b, &err,
             "{\"added_tokens\":[%s],\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":{\"type\":\"ByteLevel\"},"
             "\"model\":{\"vocab\":{",
             kind == 1 ? tokens : "", kind == 2 ? "{\"type\":\"NFC\"}" : "null", pre[kind]) == NS_OK,
         "memory");
    for (int i = 0, next = 0x100; i < 256; i++) {
        int plain = (i >= 0x21 && i <= 0x7e) || (i >= 0xa1 && i <= 0xac) || i >= 0xae;
        must(ns_buf_printf(&b, &err, "\"\\u%04x\":%d,", plain ? i : next, i) == NS_OK, "memory");
        next += !plain;
    }
    must(ns_buf_adds(&b,
                     "\"aa\":256,\"aaaa\":257,\"ab\":258,\"\\u0120a\":259,\"ba\":260},\"merges\":[\"a a\",\"aa aa\","
                     "\"\\u0120 a\",\"b a\",\"a b\"]}}",
                     &err) == NS_OK,
         "memory");
    ns_tok_source src = {.json = b.data, .json_n = b.len, .where = "fuzz"};
    must(ns_tok_build(&t, &src, &err) == NS_OK, err.msg);
    ns_buf_free(&b);
    return t;
}

static void round_trip(const ns_tok *t, const char *text, size_t n, int flags, ns_str want)
{
    ns_buf back = {0};
    if (check_text(t, text, n, flags, &back))
        must(back.len == want.n && (!want.n || !memcmp(back.data, want.p, want.n)), "decodes to the same text");
    else
        must(ns_utf8_check((const uint8_t *)text, n) < n, "valid text is encoded");
    ns_buf_free(&back);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    static ns_tok *tok[3];
    if (!size) return 0;
    char *p = malloc(size); /* exact: a sanitizer sees reading past the end */
    memcpy(p, data, size);
    if (p[0] == '{') {
        const char *nul = memchr(p, 0, size);
        size_t n = nul ? (size_t)(nul - p) : size;
        check_file(p, n, nul ? nul + 1 : NULL, nul ? size - n - 1 : 0, NULL);
    } else {
        int kind = data[0] % 3;
        ns_str want = {p + 1, size - 1};
        ns_buf nfc = {0};
        if (!tok[kind]) tok[kind] = make(kind);
        if (kind == 2 && ns_utf8_check(data + 1, size - 1) == size - 1) {
            must(ns_nfc(&nfc, data + 1, size - 1, NULL) == NS_OK, "NFC works");
            want = (ns_str){nfc.data, nfc.len};
        }
        round_trip(tok[kind], p + 1, size - 1, 0, want);
        round_trip(tok[kind], p + 1, size - 1, NS_TOK_NO_SPECIAL_TEXT, want);
        ns_buf_free(&nfc);
    }
    free(p);
    return 0;
}
