/* Fuzz target for the tokenizer. First byte: what the rest is.
 *   '{'        tokenizer.json (the byte belongs to it), perhaps followed by a NUL and a tokenizer_config.json
 *   otherwise  text for one of three byte-complete tokenizers (byte % 3: Llama-3, GPT-2 with added tokens, Qwen2 with NFC)
 * Properties: no crash; a refusal is one line and of a kind that names bad input; what a tokenizer encodes decodes to the
 * text (to its NFC form, for the third); ids are in range; special text as plain text decodes to the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tok/tok_internal.h"
#include "tok/unicode.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static void must(int ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "tok_fuzz: %s\n", what);
    abort();
}

static void check_refusal(const ns_error *err)
{
    must(err->code == NS_ERR_INPUT || err->code == NS_ERR_UNSUPPORTED || err->code == NS_ERR_MISMATCH,
         "a refusal is about the input");
    must(!strchr(err->msg, '\n'), "a message is one line");
}

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

static void round_trip(const ns_tok *t, const char *text, size_t n, int flags, ns_str want, int must_work)
{
    ns_ids ids = {0};
    ns_buf back = {0};
    ns_error err = NS_ERROR_INIT;
    if (ns_tok_encode(t, &ids, text, n, flags, &err) != NS_OK) {
        check_refusal(&err);
        must(!must_work || ns_utf8_check((const uint8_t *)text, n) < n, "valid text is encoded");
    } else {
        for (size_t i = 0; i < ids.n; i++) must(ids.v[i] >= 0 && ids.v[i] < ns_tok_vocab_size(t), "ids are in range");
        must(ns_tok_decode(t, &back, ids.v, ids.n, 0, &err) == NS_OK, "what was encoded decodes");
        must(!must_work || (back.len == want.n && (!want.n || !memcmp(back.data, want.p, want.n))), "to the same text");
    }
    ns_ids_free(&ids);
    ns_buf_free(&back);
}

static void fuzz_file(const char *p, size_t n)
{
    static const char text[] =
        "the aab <s>  12345 e\xcc\x81\n\n'LL  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab";
    const char *nul = memchr(p, 0, n);
    ns_tok_source src = {.json = p, .json_n = nul ? (size_t)(nul - p) : n, .where = "fuzz", .config_where = "config"};
    ns_tok *t = NULL;
    ns_error err = NS_ERROR_INIT;
    if (nul) {
        src.config = nul + 1;
        src.config_n = n - src.json_n - 1;
    }
    if (ns_tok_build(&t, &src, &err) != NS_OK) {
        check_refusal(&err);
        must(!t, "nothing is handed out on failure");
        return;
    }
    ns_str none = {0};
    round_trip(t, text, strlen(text), NS_TOK_ADD_SPECIAL, none, 0);
    round_trip(t, text, strlen(text), NS_TOK_NO_SPECIAL_TEXT, none, 0);
    ns_tok_free(&t);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    static ns_tok *tok[3];
    if (!size) return 0;
    char *p = malloc(size); /* exact: a sanitizer sees reading past the end */
    memcpy(p, data, size);
    if (p[0] == '{')
        fuzz_file(p, size);
    else {
        int kind = data[0] % 3;
        ns_str want = {p + 1, size - 1};
        ns_buf nfc = {0};
        if (!tok[kind]) tok[kind] = make(kind);
        if (kind == 2 && ns_utf8_check(data + 1, size - 1) == size - 1) {
            must(ns_nfc(&nfc, data + 1, size - 1, NULL) == NS_OK, "NFC works");
            want = (ns_str){nfc.data, nfc.len};
        }
        round_trip(tok[kind], p + 1, size - 1, 0, want, 1);
        round_trip(tok[kind], p + 1, size - 1, NS_TOK_NO_SPECIAL_TEXT, want, 1);
        ns_buf_free(&nfc);
    }
    free(p);
    return 0;
}
