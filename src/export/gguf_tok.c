/* Tokenizers for GGUF, as llama.cpp's converter stores them (gguf-py/gguf/vocab.py, conversion/base.py): tokens by id, types, scores
 * or merges, the name of the pre-tokeniser, special ids. Ids without a token become [PAD<id>] of type UNUSED.
 *
 * "llama" merges the pair with the best score. A tokenizer.json has no scores: here a piece gets minus the rank of the first merge
 * that makes it, so the same pairs merge first. */
#include "export/gguf_tok.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "ckpt/path.h"
#include "export/gguf_pre.h"
#include "tok/proto.h"
#include "tok/tok.h"

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE }; /* as in the file */

typedef struct vocab {
    ns_arena *arena;
    size_t n;
    ns_str *text;
    int32_t *type;
    float *score;
} vocab;

static ns_status vocab_new(vocab *v, ns_arena *a, size_t n, ns_error *err)
{
    v->arena = a;
    v->n = n;
    v->text = ns_arena_alloc(a, (n + 1) * sizeof *v->text, err);
    v->type = ns_arena_alloc(a, (n + 1) * sizeof *v->type, err);
    v->score = ns_arena_alloc(a, (n + 1) * sizeof *v->score, err);
    if (!v->text || !v->type || !v->score) return NS_ERR_MEMORY;
    for (size_t i = 0; i < n; i++) v->score[i] = -10000;
    return NS_OK;
}

static ns_status fill_gaps(vocab *v, ns_error *err)
{
    for (size_t i = 0; i < v->n; i++) {
        if (v->text[i].p) continue;
        char *s = ns_arena_printf(v->arena, err, "[PAD%zu]", i);
        if (!s) return NS_ERR_MEMORY;
        v->text[i] = (ns_str){s, strlen(s)};
        v->type[i] = UNUSED;
    }
    return NS_OK;
}

static int looks_special(ns_str s)
{
    return (s.n >= 4 && !memcmp(s.p, "<|", 2) && !memcmp(s.p + s.n - 2, "|>", 2)) || ns_str_eq(s, "<pad>");
}

/* "▁" is a blank in tokens that are found in text as they are. */
static ns_status plain_blanks(vocab *v, ns_str *s, ns_error *err)
{
    char *p = ns_arena_alloc(v->arena, s->n + 1, err);
    size_t n = 0;
    if (!p) return NS_ERR_MEMORY;
    for (size_t i = 0; i < s->n;) {
        if (s->n - i >= 3 && !memcmp(s->p + i, "\xe2\x96\x81", 3)) {
            p[n++] = ' ';
            i += 3;
        } else {
            p[n++] = s->p[i++];
        }
    }
    *s = (ns_str){p, n};
    return NS_OK;
}

static ns_status add_token(vocab *v, int64_t id, ns_str text, int special, float score, ns_error *err)
{
    if (id < 0 || (size_t)id >= v->n) {
        NS_WARN("token %lld ('%.*s') lies behind the model's vocabulary of %zu: left out", (long long)id,
                (int)(text.n < 60 ? text.n : 60), text.p, v->n);
        return NS_OK;
    }
    v->type[id] = special || looks_special(text) ? CONTROL : USER;
    if (v->type[id] == USER) NS_TRY(plain_blanks(v, &text, err), "%s", "");
    v->text[id] = text;
    v->score[id] = score;
    return NS_OK;
}

/* added_tokens of tokenizer.json; added_tokens_decoder of tokenizer_config.json; added_tokens.json. */
static ns_status added_tokens(vocab *v, const ns_json *list, ns_error *err)
{
    for (size_t i = 0; list && list->type == NS_JSON_ARRAY && i < list->n; i++) {
        const ns_json *t = &list->items[i], *text = ns_json_get(t, "content");
        int64_t id;
        if (!text || text->type != NS_JSON_STRING || !ns_json_is_int(ns_json_get(t, "id"), &id)) continue;
        NS_TRY(add_token(v, id, text->s, ns_json_truthy(ns_json_get(t, "special")), -1000, err), "%s", "");
    }
    return NS_OK;
}

static ns_status added_by_config(vocab *v, const ns_json *cfg, const ns_json *plain, ns_error *err)
{
    for (size_t i = 0; plain && plain->type == NS_JSON_OBJECT && i < plain->n; i++) {
        int64_t id;
        if (ns_json_is_int(&plain->items[i], &id)) NS_TRY(add_token(v, id, plain->keys[i], 0, -1000, err), "%s", "");
    }
    const ns_json *d = ns_json_get(cfg, "added_tokens_decoder");
    for (size_t i = 0; d && d->type == NS_JSON_OBJECT && i < d->n; i++) {
        const ns_json *text = ns_json_get(&d->items[i], "content");
        char num[24];
        snprintf(num, sizeof num, "%.*s", (int)(d->keys[i].n < 23 ? d->keys[i].n : 23), d->keys[i].p);
        if (!text || text->type != NS_JSON_STRING) continue;
        NS_TRY(add_token(v, strtoll(num, NULL, 10), text->s, ns_json_truthy(ns_json_get(&d->items[i], "special")),
                         -1000, err),
               "%s", "");
    }
    return NS_OK;
}

/* ---- tokenizer.model ---- */
static ns_status read_piece(vocab *v, size_t id, ns_proto in, ns_error *err)
{
    ns_proto_field f;
    ns_str text = {"", 0};
    float score = 0;
    int type = NORMAL;
    for (int more = 1;;) {
        NS_TRY(ns_proto_next(&in, &f, &more, err), "%s", "");
        if (!more) break;
        uint32_t bits = (uint32_t)f.value;
        if (f.number == 1 && f.wire == NS_WIRE_BYTES) text = f.bytes;
        if (f.number == 2 && f.wire == NS_WIRE_32) memcpy(&score, &bits, 4);
        if (f.number == 3 && f.wire == NS_WIRE_VARINT) type = (int)f.value;
    }
    if (id >= v->n) {
        NS_WARN("token %zu of tokenizer.model lies behind the model's vocabulary of %zu: left out", id, v->n);
        return NS_OK;
    }
    v->text[id] = text;
    v->score[id] = score;
    v->type[id] = type; /* sentencepiece numbers types as GGUF does */
    return NS_OK;
}

static ns_status spm_vocab(vocab *v, const char *path, ns_buf *file, ns_error *err)
{
    NS_TRY(ns_file_read(file, path, err), "%s", path);
    ns_proto r = {.p = file->data, .n = file->len, .where = path};
    ns_proto_field f;
    size_t id = 0;
    for (int more = 1;;) {
        NS_TRY(ns_proto_next(&r, &f, &more, err), "read tokenizer");
        if (!more) break;
        if (f.number == 1 && f.wire == NS_WIRE_BYTES)
            NS_TRY(read_piece(v, id++, ns_proto_inside(&r, &f), err), "read tokenizer");
    }
    return NS_OK;
}

/* ---- tokenizer.json ---- */
static int is_byte(ns_str s)
{
    return s.n == 6 && !memcmp(s.p, "<0x", 3) && s.p[5] == '>';
}

static ns_status json_vocab(vocab *v, const ns_json *model, int is_llama, ns_error *err)
{
    const ns_json *map = ns_json_get(model, "vocab"), *unk = ns_json_get(model, "unk_token");
    NS_FAIL_IF(!map || map->type != NS_JSON_OBJECT, NS_ERR_INPUT, "tokenizer.json: model.vocab is missing");
    for (size_t i = 0; i < map->n; i++) {
        int64_t id;
        NS_FAIL_IF(!ns_json_is_int(&map->items[i], &id) || id < 0 || (size_t)id >= v->n, NS_ERR_MISMATCH,
                   "tokenizer.json: token '%.*s' has no id below the model's vocabulary of %zu",
                   (int)(map->keys[i].n < 60 ? map->keys[i].n : 60), map->keys[i].p, v->n);
        v->text[id] = map->keys[i];
        v->type[id] = !is_llama               ? NORMAL
                      : is_byte(map->keys[i]) ? BYTE
                      : unk && unk->type == NS_JSON_STRING && map->keys[i].n == unk->s.n &&
                              !memcmp(map->keys[i].p, unk->s.p, unk->s.n)
                          ? UNKNOWN
                          : NORMAL;
        v->score[id] = is_llama ? -1e6f : 0;
        if (v->type[id] == BYTE || v->type[id] == UNKNOWN) v->score[id] = 0;
    }
    return NS_OK;
}

/* "a b" of a merge in either spelling; blanks inside a part as the byte alphabet has them. */
static ns_status merge_text(ns_str *out, const ns_json *m, ns_arena *a, ns_error *err)
{
    if (m->type == NS_JSON_STRING) {
        *out = m->s;
        return NS_OK;
    }
    NS_FAIL_IF(m->type != NS_JSON_ARRAY || m->n != 2 || m->items[0].type != NS_JSON_STRING ||
                   m->items[1].type != NS_JSON_STRING,
               NS_ERR_INPUT, "tokenizer.json: a merge is neither a text nor a pair");
    ns_buf b = {0};
    ns_status st = NS_OK;
    for (int i = 0; i < 2; i++) {
        if (i) NS_CHECK(st, ns_buf_addc(&b, ' ', err), "%s", "");
        for (size_t k = 0; k < m->items[i].s.n; k++) {
            if (m->items[i].s.p[k] == ' ')
                NS_CHECK(st, ns_buf_adds(&b, "\xc4\xa0", err), "%s", ""); /* U+0120 */
            else
                NS_CHECK(st, ns_buf_addc(&b, m->items[i].s.p[k], err), "%s", "");
        }
    }
    out->p = ns_arena_strndup(a, b.data, b.len, err);
    out->n = b.len;
    if (!out->p) st = NS_ERR_MEMORY;
done:
    ns_buf_free(&b);
    return st;
}

static ns_status merges_kv(ns_gguf_kv *kv, const ns_json *model, ns_arena *a, ns_error *err)
{
    const ns_json *m = ns_json_get(model, "merges");
    NS_FAIL_IF(!m || m->type != NS_JSON_ARRAY, NS_ERR_INPUT, "tokenizer.json: model.merges is missing");
    ns_str *v = ns_arena_alloc(a, (m->n + 1) * sizeof *v, err);
    if (!v) return NS_ERR_MEMORY;
    for (size_t i = 0; i < m->n; i++) NS_TRY(merge_text(&v[i], &m->items[i], a, err), "%s", "");
    return ns_gguf_kv_strs(kv, "tokenizer.ggml.merges", v, m->n, err);
}

typedef struct slot {
    ns_str s;
    int64_t id;
} slot;

static int by_text(const void *a, const void *b)
{
    const slot *x = a, *y = b;
    size_t n = x->s.n < y->s.n ? x->s.n : y->s.n;
    int c = n ? memcmp(x->s.p, y->s.p, n) : 0;
    return c ? c : (x->s.n > y->s.n) - (x->s.n < y->s.n);
}

static ns_status scores_by_merge(vocab *v, const ns_json *model, ns_error *err)
{
    const ns_json *m = ns_json_get(model, "merges");
    slot *sorted = ns_arena_alloc(v->arena, (v->n + 1) * sizeof *sorted, err);
    size_t n = 0;
    NS_FAIL_IF(!m || m->type != NS_JSON_ARRAY, NS_ERR_INPUT, "tokenizer.json: model.merges is missing");
    if (!sorted) return NS_ERR_MEMORY;
    for (size_t i = 0; i < v->n; i++)
        if (v->text[i].p) sorted[n++] = (slot){v->text[i], (int64_t)i};
    qsort(sorted, n, sizeof *sorted, by_text);
    for (size_t i = m->n; i-- > 0;) { /* from the last: the first merge that makes a piece stays */
        char text[1024];
        slot key = {{text, 0}, 0};
        const ns_json *x = &m->items[i];
        if (x->type == NS_JSON_STRING) {
            const char *blank = memchr(x->s.p, ' ', x->s.n);
            if (!blank || x->s.n >= sizeof text) continue;
            size_t k = (size_t)(blank - x->s.p);
            memcpy(text, x->s.p, k);
            memcpy(text + k, blank + 1, x->s.n - k - 1);
            key.s.n = x->s.n - 1;
        } else if (x->type == NS_JSON_ARRAY && x->n == 2 && x->items[0].s.n + x->items[1].s.n < sizeof text) {
            memcpy(text, x->items[0].s.p, x->items[0].s.n);
            memcpy(text + x->items[0].s.n, x->items[1].s.p, x->items[1].s.n);
            key.s.n = x->items[0].s.n + x->items[1].s.n;
        }
        slot *hit = bsearch(&key, sorted, n, sizeof *sorted, by_text);
        if (hit && v->type[hit->id] == NORMAL) v->score[hit->id] = -(float)i;
    }
    return NS_OK;
}

/* ---- the name of the pre-tokeniser ---- */
static ns_status pre_name(const char **out, const ns_json *pre, ns_error *err)
{
    const ns_json *list = ns_json_get(pre, "pretokenizers"), *type = ns_json_get(pre, "type"), *split = NULL;
    size_t n_split = 0, n_other = 0;
    int gpt2 = 0;
    for (size_t i = 0; i < (list ? list->n : 1); i++) {
        const ns_json *p = list ? &list->items[i] : pre, *t = list ? ns_json_get(p, "type") : type;
        if (!t || t->type != NS_JSON_STRING) continue;
        if (ns_str_eq(t->s, "Split")) {
            split = ns_json_at(p, "pattern.Regex");
            n_split++;
        } else if (ns_str_eq(t->s, "ByteLevel")) {
            const ns_json *use = ns_json_get(p, "use_regex");
            gpt2 = !use || use->b;
        } else {
            n_other++;
        }
    }
    *out = n_split == 0 && n_other == 0 && gpt2 ? "gpt-2" : NULL;
    for (size_t i = 0; split && n_split == 1 && !n_other && !gpt2 && i < NS_GGUF_N_PRE; i++)
        if (ns_gguf_pre_known[i].regex && split->type == NS_JSON_STRING &&
            ns_str_eq(split->s, ns_gguf_pre_known[i].regex))
            *out = ns_gguf_pre_known[i].name;
    NS_FAIL_IF(
        !*out, NS_ERR_UNSUPPORTED,
        "GGUF: no name is known for the tokenizer's pre_tokenizer (known: those of GPT-2, Llama 3, Qwen 2, Mistral "
        "Tekken)%s%.*s",
        split && split->type == NS_JSON_STRING ? "; its pattern is " : "",
        split && split->type == NS_JSON_STRING ? (int)(split->s.n < 200 ? split->s.n : 200) : 0,
        split && split->type == NS_JSON_STRING ? split->s.p : "");
    return NS_OK;
}

/* ---- special tokens, template ---- */
/* Readers stop at eos_token_id and eot_token_id (llama.cpp), at all of eos_token_ids (Ollama), or know eos_token_id alone. */
static ns_status stop_kv(ns_gguf_kv *kv, const ns_tok *t, const ns_arch *a, int64_t eos, int64_t eot, ns_error *err)
{
    static const char *const ends[] = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"};
    int32_t ids[sizeof a->eos / sizeof a->eos[0]];
    for (int i = 0; i < a->n_eos; i++) {
        ids[i] = (int32_t)a->eos[i];
        for (size_t k = 0; k < 4; k++)
            if (eot < 0 && a->eos[i] != eos && a->eos[i] == ns_tok_id(t, ends[k])) eot = a->eos[i];
    }
    if (eos >= 0) NS_TRY(ns_gguf_kv_u32(kv, "tokenizer.ggml.eos_token_id", (uint32_t)eos, err), "%s", "");
    if (eot >= 0) NS_TRY(ns_gguf_kv_u32(kv, "tokenizer.ggml.eot_token_id", (uint32_t)eot, err), "%s", "");
    if (a->n_eos < 2) return NS_OK;
    return ns_gguf_kv_items(kv, "tokenizer.ggml.eos_token_ids", NS_GGUF_I32, ids, (size_t)a->n_eos, err);
}

static ns_status special_kv(ns_gguf_kv *kv, const ns_tok *t, const ns_json *cfg, const ns_arch *a, int64_t eot,
                            ns_error *err)
{
    int64_t bos = ns_tok_bos(t), eos = a->n_eos ? a->eos[0] : ns_tok_eos(t);
    const ns_json *pad = ns_json_get(cfg, "pad_token");
    ns_ids ids = {0};
    if (bos < 0) bos = a->bos;
    if (bos >= 0) NS_TRY(ns_gguf_kv_u32(kv, "tokenizer.ggml.bos_token_id", (uint32_t)bos, err), "%s", "");
    NS_TRY(stop_kv(kv, t, a, eos, eot, err), "%s", "");
    if (pad && pad->type == NS_JSON_OBJECT) pad = ns_json_get(pad, "content");
    if (pad && pad->type == NS_JSON_STRING && pad->s.n < 200) {
        char text[200];
        snprintf(text, sizeof text, "%.*s", (int)pad->s.n, pad->s.p);
        int32_t id = ns_tok_id(t, text);
        if (id >= 0) NS_TRY(ns_gguf_kv_u32(kv, "tokenizer.ggml.padding_token_id", (uint32_t)id, err), "%s", "");
    }
    const ns_json *unk = ns_json_get(cfg, "unk_token");
    if (unk && unk->type == NS_JSON_OBJECT) unk = ns_json_get(unk, "content");
    if (unk && unk->type == NS_JSON_STRING && unk->s.n < 200) {
        char text[200];
        snprintf(text, sizeof text, "%.*s", (int)unk->s.n, unk->s.p);
        int32_t id = ns_tok_id(t, text);
        if (id >= 0) NS_TRY(ns_gguf_kv_u32(kv, "tokenizer.ggml.unknown_token_id", (uint32_t)id, err), "%s", "");
    }
    ns_status st = ns_tok_encode(t, &ids, "a", 1, NS_TOK_ADD_SPECIAL, err);
    int first = st == NS_OK && ids.n > 1 && ids.v[0] == bos,
        last = st == NS_OK && ids.n > 1 && ids.v[ids.n - 1] == ns_tok_eos(t);
    ns_ids_free(&ids);
    if (st != NS_OK) return st;
    NS_TRY(ns_gguf_kv_bool(kv, "tokenizer.ggml.add_bos_token", first, err), "%s", "");
    return ns_gguf_kv_bool(kv, "tokenizer.ggml.add_eos_token", last, err);
}

static ns_status template_kv(ns_gguf_kv *kv, const char *dir, const ns_json *cfg, ns_error *err)
{
    char path[4096];
    ns_buf b = {0};
    NS_TRY(ns_path(path, sizeof path, err, "%s/chat_template.jinja", dir), "%s", "");
    if (ns_path_exists(path)) {
        ns_status st = ns_file_read(&b, path, err);
        if (st == NS_OK) st = ns_gguf_kv_str(kv, "tokenizer.chat_template", (ns_str){b.data, b.len}, err);
        ns_buf_free(&b);
        return st;
    }
    const ns_json *t = ns_json_get(cfg, "chat_template");
    if (t && t->type == NS_JSON_ARRAY) { /* named ones */
        const ns_json *list = t;
        t = NULL;
        for (size_t i = 0; i < list->n; i++) {
            const ns_json *name = ns_json_get(&list->items[i], "name");
            if (name && name->type == NS_JSON_STRING && ns_str_eq(name->s, "default"))
                t = ns_json_get(&list->items[i], "template");
        }
    }
    return t && t->type == NS_JSON_STRING ? ns_gguf_kv_str(kv, "tokenizer.chat_template", t->s, err) : NS_OK;
}

static ns_status optional_json(ns_json **out, ns_arena *a, const char *dir, const char *name, ns_error *err)
{
    char path[4096];
    *out = NULL;
    NS_TRY(ns_path(path, sizeof path, err, "%s/%s", dir, name), "%s", "");
    return ns_path_exists(path) ? ns_json_read_file(out, a, path, err) : NS_OK;
}

static ns_status vocab_kv(ns_gguf_kv *kv, const vocab *v, const char *model, const char *pre, ns_error *err)
{
    int is_llama = !strcmp(model, "llama");
    NS_TRY(ns_gguf_kv_str(kv, "tokenizer.ggml.model", (ns_str){model, strlen(model)}, err), "%s", "");
    NS_TRY(ns_gguf_kv_str(kv, "tokenizer.ggml.pre", (ns_str){pre, strlen(pre)}, err), "%s", "");
    NS_TRY(ns_gguf_kv_strs(kv, "tokenizer.ggml.tokens", v->text, v->n, err), "%s", "");
    if (is_llama) NS_TRY(ns_gguf_kv_items(kv, "tokenizer.ggml.scores", NS_GGUF_F32, v->score, v->n, err), "%s", "");
    return ns_gguf_kv_items(kv, "tokenizer.ggml.token_type", NS_GGUF_I32, v->type, v->n, err);
}

static ns_status write_kv(ns_gguf_kv *kv, const char *dir, const ns_arch *a, int64_t eot, ns_arena *m, ns_buf *file,
                          ns_error *err)
{
    char spm[4096];
    vocab v;
    ns_json *tok, *cfg, *plain;
    const char *pre = "default";
    NS_TRY(ns_path(spm, sizeof spm, err, "%s/tokenizer.model", dir), "%s", "");
    NS_TRY(optional_json(&tok, m, dir, "tokenizer.json", err), "%s", "");
    NS_TRY(optional_json(&cfg, m, dir, "tokenizer_config.json", err), "%s", "");
    NS_TRY(optional_json(&plain, m, dir, "added_tokens.json", err), "%s", "");
    NS_TRY(vocab_new(&v, m, (size_t)a->vocab, err), "%s", "");
    const ns_json *model = ns_json_get(tok, "model"), *bytes = ns_json_get(model, "byte_fallback");
    int has_spm = ns_path_exists(spm), is_llama = has_spm || (bytes && bytes->b);
    NS_FAIL_IF(!has_spm && !tok, NS_ERR_UNSUPPORTED,
               "GGUF: %s has neither tokenizer.json nor tokenizer.model (other kinds of tokenizer cannot be stored)",
               dir);
    if (has_spm) {
        NS_TRY(spm_vocab(&v, spm, file, err), "%s", "");
        NS_TRY(added_by_config(&v, cfg, plain, err), "%s", "");
    } else {
        NS_TRY(json_vocab(&v, model, is_llama, err), "%s", "");
        if (is_llama) NS_TRY(scores_by_merge(&v, model, err), "%s", "");
        NS_TRY(added_tokens(&v, ns_json_get(tok, "added_tokens"), err), "%s", "");
    }
    NS_TRY(fill_gaps(&v, err), "%s", "");
    if (!is_llama) NS_TRY(pre_name(&pre, ns_json_get(tok, "pre_tokenizer"), err), "%s", "");
    NS_TRY(vocab_kv(kv, &v, is_llama ? "llama" : "gpt2", pre, err), "%s", "");
    if (!is_llama) NS_TRY(merges_kv(kv, model, m, err), "%s", "");
    ns_tok *t = NULL;
    NS_TRY(ns_tok_load(&t, dir, err), "%s", "");
    ns_status st = special_kv(kv, t, cfg, a, eot, err);
    ns_tok_free(&t);
    return st == NS_OK ? template_kv(kv, dir, cfg, err) : st;
}

ns_status ns_gguf_tokenizer(ns_gguf_kv *kv, const char *dir, const ns_arch *a, int64_t eot, ns_error *err)
{
    ns_arena m = NS_ARENA_INIT("gguf.tokenizer");
    ns_buf file = {0};
    if (!dir) return ns_gguf_kv_str(kv, "tokenizer.ggml.model", (ns_str){"no_vocab", 8}, err);
    ns_status st = write_kv(kv, dir, a, eot, &m, &file, err);
    ns_buf_free(&file);
    ns_arena_free(&m);
    return st;
}
