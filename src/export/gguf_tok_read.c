/* Metadata -> tokenizer.json or a SentencePiece model, and tokenizer_config.json. Trailing ids that no text has ("[PAD<id>]", type
 * UNUSED) are padding of the embedding and left out. */
#include "export/gguf_tok_read.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "ckpt/path.h"
#include "export/gguf_pre.h"

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE }; /* as in the file */

typedef struct vocab {
    const ns_gguf *g;
    ns_arena arena;
    size_t n;
    ns_str *text;
    int32_t *type;
    const unsigned char *score; /* NULL: none */
    ns_buf *out;
} vocab;

static ns_str text_at(const ns_gguf *g, const char *key)
{
    const ns_gguf_value *v = ns_gguf_get(g, key);
    return v && v->type == NS_GGUF_STRING ? v->s : (ns_str){NULL, 0};
}

/* A token's id in the vocabulary, -1: none. */
static int64_t id_at(const vocab *v, const char *key)
{
    const ns_gguf_value *x = ns_gguf_get(v->g, key);
    return x && x->type != NS_GGUF_STRING && x->type != NS_GGUF_ARRAY && x->num >= 0 && x->num < (double)v->n
               ? (int64_t)x->num
               : -1;
}

/* 1, 0, or `otherwise` if the file does not say. */
static int flag_at(const ns_gguf *g, const char *key, int otherwise)
{
    const ns_gguf_value *x = ns_gguf_get(g, key);
    return x && x->type == NS_GGUF_BOOL ? x->num != 0 : otherwise;
}

/* Strings of an array; their lengths were checked when the file was parsed. */
static ns_status strings(ns_str **out, size_t *n, vocab *v, const char *key, ns_error *err)
{
    const ns_gguf_value *a = ns_gguf_get(v->g, key);
    NS_FAIL_IF(!a || a->type != NS_GGUF_ARRAY || a->item != NS_GGUF_STRING || a->n > 1 << 24, NS_ERR_INPUT,
               "GGUF: %s is missing or no list of texts", key);
    const unsigned char *p = (const unsigned char *)a->s.p;
    *n = (size_t)a->n;
    *out = ns_arena_alloc(&v->arena, (*n + 1) * sizeof **out, err);
    if (!*out) return NS_ERR_MEMORY;
    for (size_t i = 0; i < *n; i++) {
        uint64_t len = 0;
        for (int k = 8; k-- > 0;) len = len << 8 | p[k];
        (*out)[i] = (ns_str){(const char *)p + 8, (size_t)len};
        p += 8 + len;
    }
    return NS_OK;
}

static const unsigned char *numbers(const ns_gguf *g, const char *key, ns_gguf_type type, size_t n)
{
    const ns_gguf_value *a = ns_gguf_get(g, key);
    return a && a->type == NS_GGUF_ARRAY && a->item == type && a->n == n ? (const unsigned char *)a->s.p : NULL;
}

/* SentencePiece has a piece of that type; a writer that started from tokenizer.json calls it a control symbol. */
static void find_unknown(vocab *v)
{
    int64_t id = id_at(v, "tokenizer.ggml.unknown_token_id");
    for (size_t i = 0; i < v->n; i++) {
        if (v->type[i] == UNKNOWN) return;
        if (id < 0 && ns_str_eq(v->text[i], "<unk>")) id = (int64_t)i;
    }
    if (v->score && id >= 0) v->type[id] = UNKNOWN;
}

static ns_status read_vocab(vocab *v, ns_error *err)
{
    NS_TRY(strings(&v->text, &v->n, v, "tokenizer.ggml.tokens", err), "%s", "");
    const unsigned char *type = numbers(v->g, "tokenizer.ggml.token_type", NS_GGUF_I32, v->n);
    v->score = numbers(v->g, "tokenizer.ggml.scores", NS_GGUF_F32, v->n);
    v->type = ns_arena_alloc(&v->arena, (v->n + 1) * sizeof *v->type, err);
    if (!v->type) return NS_ERR_MEMORY;
    for (size_t i = 0; i < v->n; i++) {
        v->type[i] = NORMAL;
        if (type) memcpy(&v->type[i], type + 4 * i, 4);
        NS_FAIL_IF(v->type[i] < NORMAL || v->type[i] > BYTE, NS_ERR_INPUT,
                   "GGUF: token %zu has type %d, known are 1 to 6", i, v->type[i]);
        NS_FAIL_IF(memchr(v->text[i].p, 0, v->text[i].n), NS_ERR_INPUT, "GGUF: the text of token %zu has a NUL in it",
                   i);
    }
    while (v->n && v->type[v->n - 1] == UNUSED) v->n--;
    find_unknown(v);
    NS_FAIL_IF(!v->n, NS_ERR_INPUT, "GGUF: the tokenizer has no tokens");
    return NS_OK;
}

/* ---- JSON ---- */
static ns_status quoted(ns_buf *b, ns_str s, ns_error *err)
{
    return ns_json_write_str(b, s, NS_JSON_UTF8, err);
}

static int is_added(const vocab *v, size_t i)
{
    return v->type[i] == CONTROL || v->type[i] == USER;
}

/* "content" and what goes with it, of an added token. */
static ns_status added_fields(const vocab *v, ns_buf *b, size_t i, ns_error *err)
{
    NS_TRY(ns_buf_adds(b, "\"content\": ", err), "%s", "");
    NS_TRY(quoted(b, v->text[i], err), "%s", "");
    return ns_buf_printf(b, err,
                         ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                         "\"special\": %s}",
                         v->type[i] == USER ? "false" : "true");
}

static ns_status json_added(const vocab *v, ns_error *err)
{
    int n = 0;
    NS_TRY(ns_buf_adds(v->out, "  \"added_tokens\": [", err), "%s", "");
    for (size_t i = 0; i < v->n; i++) {
        if (!is_added(v, i)) continue;
        NS_TRY(ns_buf_printf(v->out, err, "%s\n    {\"id\": %zu, ", n++ ? "," : "", i), "%s", "");
        NS_TRY(added_fields(v, v->out, i, err), "%s", "");
    }
    return ns_buf_adds(v->out, "\n  ],\n", err);
}

static ns_status json_pipeline(const vocab *v, const ns_gguf_pre *pre, ns_error *err)
{
    int64_t bos = id_at(v, "tokenizer.ggml.bos_token_id");
    NS_TRY(ns_buf_printf(v->out, err, "  \"normalizer\": %s,\n", pre->nfc ? "{\"type\": \"NFC\"}" : "null"), "%s", "");
    if (pre->regex) {
        NS_TRY(ns_buf_adds(v->out,
                           "  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
                           "\"pattern\": {\"Regex\": ",
                           err),
               "%s", "");
        NS_TRY(quoted(v->out, (ns_str){pre->regex, strlen(pre->regex)}, err), "%s", "");
        NS_TRY(ns_buf_adds(v->out,
                           "}, \"behavior\": \"Isolated\", \"invert\": false}, {\"type\": \"ByteLevel\", "
                           "\"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}]},\n",
                           err),
               "%s", "");
    } else {
        NS_TRY(ns_buf_adds(v->out,
                           "  \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                           "\"trim_offsets\": true, \"use_regex\": true},\n",
                           err),
               "%s", "");
    }
    static const char byte_level[] =
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false, \"use_regex\": false}";
    if (bos >= 0 && flag_at(v->g, "tokenizer.ggml.add_bos_token", !strcmp(pre->name, "llama-bpe"))) {
        ns_buf b = {0};
        ns_status st = quoted(&b, v->text[bos], err);
        if (st == NS_OK)
            st = ns_buf_printf(
                v->out, err,
                "  \"post_processor\": {\"type\": \"Sequence\", \"processors\": [%s, {\"type\": "
                "\"TemplateProcessing\", "
                "\"single\": [{\"SpecialToken\": {\"id\": %s, \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", "
                "\"type_id\": 0}}], \"pair\": [{\"SpecialToken\": {\"id\": %s, \"type_id\": 0}}, {\"Sequence\": "
                "{\"id\": "
                "\"A\", \"type_id\": 0}}, {\"SpecialToken\": {\"id\": %s, \"type_id\": 1}}, {\"Sequence\": {\"id\": "
                "\"B\", \"type_id\": 1}}], \"special_tokens\": {%s: {\"id\": %s, \"ids\": [%lld], \"tokens\": "
                "[%s]}}}]},\n",
                byte_level, b.data, b.data, b.data, b.data, b.data, (long long)bos, b.data);
        ns_buf_free(&b);
        if (st != NS_OK) return st;
    } else {
        NS_TRY(ns_buf_printf(v->out, err, "  \"post_processor\": %s,\n", byte_level), "%s", "");
    }
    return ns_buf_printf(v->out, err, "  \"decoder\": %s,\n", byte_level);
}

static ns_status json_model(vocab *v, const ns_gguf_pre *pre, ns_error *err)
{
    ns_str *merge;
    size_t n = 0, k = 0;
    NS_TRY(strings(&merge, &n, v, "tokenizer.ggml.merges", err), "%s", "");
    NS_TRY(ns_buf_printf(v->out, err,
                         "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
                         "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false, "
                         "\"byte_fallback\": false, \"ignore_merges\": %s, \"vocab\": {",
                         pre->ignore_merges ? "true" : "false"),
           "%s", "");
    for (size_t i = 0; i < v->n; i++) {
        if (is_added(v, i) || v->type[i] == UNUSED) continue;
        NS_TRY(ns_buf_adds(v->out, k++ ? ", " : "", err), "%s", "");
        NS_TRY(quoted(v->out, v->text[i], err), "%s", "");
        NS_TRY(ns_buf_printf(v->out, err, ": %zu", i), "%s", "");
    }
    NS_TRY(ns_buf_adds(v->out, "}, \"merges\": [", err), "%s", "");
    for (size_t i = 0; i < n; i++) {
        NS_TRY(ns_buf_adds(v->out, i ? ", " : "", err), "%s", "");
        NS_TRY(quoted(v->out, merge[i], err), "%s", "");
    }
    return ns_buf_adds(v->out, "]}\n}\n", err);
}

static ns_status write_json(vocab *v, ns_error *err)
{
    ns_str name = text_at(v->g, "tokenizer.ggml.pre");
    const ns_gguf_pre *pre = NULL;
    for (size_t i = 0; name.p && i < NS_GGUF_N_PRE; i++)
        if (ns_str_eq(name, ns_gguf_pre_known[i].name) || ns_str_eq(name, ns_gguf_pre_known[i].also))
            pre = &ns_gguf_pre_known[i];
    NS_FAIL_IF(
        !pre, NS_ERR_UNSUPPORTED,
        "GGUF: how its tokenizer cuts text is not known here (tokenizer.ggml.pre '%.*s'; known: gpt-2, llama-bpe, "
        "qwen2, tekken)",
        (int)(name.n < 60 ? name.n : 60), name.p ? name.p : "");
    NS_TRY(ns_buf_adds(v->out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n", err),
           "%s", "");
    NS_TRY(json_added(v, err), "%s", "");
    NS_TRY(json_pipeline(v, pre, err), "%s", "");
    return json_model(v, pre, err);
}

/* ---- SentencePiece ---- */
static ns_status varint(ns_buf *b, uint64_t x, ns_error *err)
{
    for (; x >= 0x80; x >>= 7) NS_TRY(ns_buf_addc(b, (char)(uint8_t)(x | 0x80), err), "%s", "");
    return ns_buf_addc(b, (char)(uint8_t)x, err);
}

static ns_status bytes_field(ns_buf *b, int number, const char *p, size_t n, ns_error *err)
{
    NS_TRY(varint(b, (uint64_t)number << 3 | 2, err), "%s", "");
    NS_TRY(varint(b, n, err), "%s", "");
    return ns_buf_add(b, p, n, err);
}

static ns_status int_field(ns_buf *b, int number, int64_t x, ns_error *err)
{
    NS_TRY(varint(b, (uint64_t)number << 3, err), "%s", "");
    return varint(b, (uint64_t)x, err);
}

/* Blanks of an added token are "▁" in a piece. */
static ns_status piece_text(ns_buf *b, ns_str s, int type, ns_error *err)
{
    ns_buf t = {0};
    ns_status st = NS_OK;
    for (size_t i = 0; i < s.n && st == NS_OK; i++)
        st = s.p[i] == ' ' && type == USER ? ns_buf_adds(&t, "\xe2\x96\x81", err) : ns_buf_addc(&t, s.p[i], err);
    if (st == NS_OK) st = bytes_field(b, 1, t.data ? t.data : "", t.len, err);
    ns_buf_free(&t);
    return st;
}

static ns_status add_piece(const vocab *v, size_t i, ns_buf *part, ns_error *err)
{
    unsigned char score[4] = {0};
    ns_buf_clear(part);
    if (v->score) memcpy(score, v->score + 4 * i, 4);
    NS_TRY(piece_text(part, v->text[i], v->type[i], err), "%s", "");
    NS_TRY(varint(part, 2 << 3 | 5, err), "%s", "");
    NS_TRY(ns_buf_add(part, (const char *)score, 4, err), "%s", "");
    NS_TRY(int_field(part, 3, v->type[i], err), "%s", "");
    return bytes_field(v->out, 1, part->data, part->len, err);
}

static ns_status settings(const vocab *v, ns_buf *part, ns_error *err)
{
    static const struct {
        int id, piece;
        const char *key, *otherwise;
    } special[] = {{40, 45, "tokenizer.ggml.unknown_token_id", "<unk>"},
                   {41, 46, "tokenizer.ggml.bos_token_id", "<s>"},
                   {42, 47, "tokenizer.ggml.eos_token_id", "</s>"}};
    int64_t id[3], bytes = 0;
    for (size_t i = 0; i < v->n; i++) bytes |= v->type[i] == BYTE;
    ns_buf_clear(part);
    NS_TRY(int_field(part, 3, 2, err), "%s", ""); /* BPE */
    NS_TRY(int_field(part, 4, (int64_t)v->n, err), "%s", "");
    NS_TRY(int_field(part, 35, bytes, err), "%s", "");
    for (int k = 0; k < 3; k++) {
        id[k] = id_at(v, special[k].key);
        for (size_t i = 0; k == 0 && i < v->n; i++)
            if (v->type[i] == UNKNOWN) id[k] = (int64_t)i;
        NS_TRY(int_field(part, special[k].id, id[k], err), "%s", "");
    }
    NS_TRY(int_field(part, 43, -1, err), "%s", "");
    for (int k = 0; k < 3; k++) {
        ns_str s = id[k] >= 0 ? v->text[id[k]] : (ns_str){special[k].otherwise, strlen(special[k].otherwise)};
        NS_TRY(bytes_field(part, special[k].piece, s.p, s.n, err), "%s", "");
    }
    NS_TRY(bytes_field(v->out, 2, part->data, part->len, err), "%s", "");
    ns_buf_clear(part);
    NS_TRY(bytes_field(part, 1, "identity", 8, err), "%s", "");
    NS_TRY(int_field(part, 3, flag_at(v->g, "tokenizer.ggml.add_space_prefix", 1), err), "%s", "");
    NS_TRY(int_field(part, 4, flag_at(v->g, "tokenizer.ggml.remove_extra_whitespaces", 0), err), "%s", "");
    NS_TRY(int_field(part, 5, 1, err), "%s", "");
    return bytes_field(v->out, 3, part->data, part->len, err);
}

static ns_status write_spm(const vocab *v, ns_error *err)
{
    ns_buf part = {0};
    ns_status st = NS_OK;
    for (size_t i = 0; i < v->n; i++) NS_CHECK(st, add_piece(v, i, &part, err), "token %zu", i);
    NS_CHECK(st, settings(v, &part, err), "%s", "");
done:
    ns_buf_free(&part);
    return st;
}

/* ---- tokenizer_config.json ---- */
static ns_status config_token(const vocab *v, ns_buf *b, const char *name, const char *key, ns_error *err)
{
    int64_t id = id_at(v, key);
    if (id < 0) return NS_OK;
    NS_TRY(ns_buf_printf(b, err, "  \"%s\": ", name), "%s", "");
    NS_TRY(quoted(b, v->text[id], err), "%s", "");
    return ns_buf_adds(b, ",\n", err);
}

static ns_status write_config(const vocab *v, ns_buf *b, int spm, ns_error *err)
{
    ns_str chat = text_at(v->g, "tokenizer.chat_template");
    int n = 0;
    NS_TRY(ns_buf_adds(b, "{\n", err), "%s", "");
    NS_TRY(config_token(v, b, "bos_token", "tokenizer.ggml.bos_token_id", err), "%s", "");
    NS_TRY(config_token(v, b, "eos_token", "tokenizer.ggml.eos_token_id", err), "%s", "");
    NS_TRY(config_token(v, b, "unk_token", "tokenizer.ggml.unknown_token_id", err), "%s", "");
    NS_TRY(config_token(v, b, "pad_token", "tokenizer.ggml.padding_token_id", err), "%s", "");
    if (spm) {
        int bos = id_at(v, "tokenizer.ggml.bos_token_id") >= 0 && flag_at(v->g, "tokenizer.ggml.add_bos_token", 1);
        NS_TRY(
            ns_buf_printf(b, err, "  \"add_bos_token\": %s,\n  \"add_eos_token\": %s,\n  \"added_tokens_decoder\": {",
                          bos ? "true" : "false", flag_at(v->g, "tokenizer.ggml.add_eos_token", 0) ? "true" : "false"),
            "%s", "");
        for (size_t i = 0; i < v->n; i++) {
            if (!is_added(v, i) && v->type[i] != UNKNOWN) continue;
            NS_TRY(ns_buf_printf(b, err, "%s\n    \"%zu\": {", n++ ? "," : "", i), "%s", "");
            NS_TRY(added_fields(v, b, i, err), "%s", "");
        }
        NS_TRY(ns_buf_adds(b, "\n  },\n", err), "%s", "");
    }
    if (chat.p) {
        NS_TRY(ns_buf_adds(b, "  \"chat_template\": ", err), "%s", "");
        NS_TRY(quoted(b, chat, err), "%s", "");
        NS_TRY(ns_buf_adds(b, ",\n", err), "%s", "");
    }
    return ns_buf_printf(b, err, "  \"tokenizer_class\": \"%s\"\n}\n",
                         spm ? "LlamaTokenizer" : "PreTrainedTokenizerFast");
}

ns_status ns_gguf_tok_read(ns_gguf_tok_files *f, const ns_gguf *g, ns_error *err)
{
    vocab v = {.g = g, .arena = NS_ARENA_INIT("gguf.tokenizer"), .out = &f->model};
    ns_str kind = text_at(g, "tokenizer.ggml.model");
    ns_status st = NS_OK;
    memset(f, 0, sizeof *f);
    if (!kind.p || ns_str_eq(kind, "no_vocab") || ns_str_eq(kind, "none")) return NS_OK;
    int spm = ns_str_eq(kind, "llama");
    NS_FAIL_IF(!spm && !ns_str_eq(kind, "gpt2"), NS_ERR_UNSUPPORTED,
               "GGUF: its tokenizer is of kind '%.*s' (known: gpt2, llama)", (int)(kind.n < 60 ? kind.n : 60), kind.p);
    NS_CHECK(st, read_vocab(&v, err), "%s", "");
    NS_CHECK(st, spm ? write_spm(&v, err) : write_json(&v, err), "%s", "");
    NS_CHECK(st, write_config(&v, &f->config, spm, err), "%s", "");
    f->name = spm ? "tokenizer.model" : "tokenizer.json";
done:
    if (st != NS_OK) ns_gguf_tok_files_free(f);
    ns_arena_free(&v.arena);
    return st;
}

void ns_gguf_tok_files_free(ns_gguf_tok_files *f)
{
    ns_buf_free(&f->model);
    ns_buf_free(&f->config);
    f->name = NULL;
}

ns_status ns_gguf_tok_write(int *made, const char *dir, const char *gguf_path, ns_error *err)
{
    char file[4096], path[4096];
    ns_gguf *g = NULL;
    ns_gguf_tok_files f = {0};
    ns_status st = NS_OK;
    *made = 0;
    NS_FAIL_IF(!ns_gguf_find(file, gguf_path), NS_ERR_INPUT, "%s: no GGUF file", gguf_path);
    NS_TRY(ns_gguf_open(&g, file, err), "%s", "");
    NS_CHECK(st, ns_gguf_tok_read(&f, g, err), "%s", file);
    if (!f.name) goto done;
    NS_CHECK(st, ns_mkdirs(dir, err), "tokenizer");
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/%s", dir, f.name), "%s", "");
    NS_CHECK(st, ns_file_replace(path, f.model.data, f.model.len, err), "tokenizer");
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/tokenizer_config.json", dir), "%s", "");
    NS_CHECK(st, ns_file_replace(path, f.config.data, f.config.len, err), "tokenizer");
    *made = 1;
done:
    ns_gguf_tok_files_free(&f);
    ns_gguf_close(&g);
    return st;
}
