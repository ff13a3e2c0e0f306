/* Rank files: tiktoken's ("base64 rank" a line) and Mistral's tekken.json. Both hold the bytes of each token in order of
 * rank; two neighbours merge if their bytes together are a token, the lowest rank first. That becomes a merge list of every
 * cut of a token into two tokens, ranked by the token (data.md §6.5: equal to the published lists).
 *
 * A tiktoken file says nothing about its split pattern and its special tokens. They come from the family (tok.h), or the
 * pattern from the number of ranks and the special tokens from tokenizer_config.json. */
#include "tok/tok_loader.h"

/* ---- base64 ---- */
static int sextet(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Appends the bytes of strict base64 (padded, no blanks). Returns how many characters are right: n if all. */
static ns_status decode_base64(ns_buf *out, ns_str s, size_t *good, ns_error *err)
{
    size_t pad = s.n >= 4 && s.p[s.n - 1] == '=' ? 1 + (s.p[s.n - 2] == '=') : 0;
    *good = 0;
    if (!s.n || s.n % 4) {
        while (*good < s.n && sextet(s.p[*good]) >= 0) (*good)++;
        if (*good == s.n && s.n) (*good)--;
        return NS_OK;
    }
    NS_TRY(ns_buf_reserve(out, s.n / 4 * 3, err), "%s", "");
    for (size_t i = 0; i < s.n; i += 4) {
        uint32_t x = 0;
        size_t keep = i + 4 == s.n ? 3 - pad : 3;
        for (size_t k = 0; k < 4; k++) {
            int v = k > keep ? 0 : sextet(s.p[i + k]);
            *good = i + k;
            if (v < 0) return NS_OK;
            x = x << 6 | (uint32_t)v;
        }
        if (x & ((1u << (8 * (3 - keep))) - 1)) return NS_OK; /* bits that nothing should be in */
        for (size_t k = 0; k < keep; k++) out->data[out->len++] = (char)(x >> (16 - 8 * k));
    }
    out->data[out->len] = 0;
    *good = s.n;
    return NS_OK;
}

/* ---- ranks to tables ---- */
typedef struct ranks {
    loader *l;
    ns_buf text; /* bytes of all tokens, one behind the other */
    size_t *end; /* by rank */
    size_t n, cap;
    int32_t first_id; /* id of rank 0 */
} ranks;

static ns_str token(const ranks *r, size_t k)
{
    size_t from = k ? r->end[k - 1] : 0;
    return (ns_str){r->text.data + from, r->end[k] - from};
}

/* After the bytes were appended to text. */
static ns_status end_token(ranks *r, ns_error *err)
{
    NS_TRY(ns_grow((void **)&r->end, &r->cap, r->n + 1, sizeof *r->end, "tok.ranks", err), "%s", "");
    r->end[r->n++] = r->text.len;
    return NS_OK;
}

static size_t cut_tokens(ranks *r, int add)
{
    ns_bpe *m = &r->l->t->bpe;
    size_t n = 0;
    for (size_t k = 0; k < r->n; k++) {
        ns_str s = token(r, k);
        for (size_t i = 1; i < s.n; i++) {
            int32_t left = ns_bpe_find(m, s.p, i), right = left < 0 ? -1 : ns_bpe_find(m, s.p + i, s.n - i);
            if (right < 0) continue;
            n++;
            if (add) ns_bpe_add_merge(m, (uint32_t)k, left, right, r->first_id + (int32_t)k);
        }
    }
    return n;
}

static ns_status make_tables(ranks *r, ns_error *err)
{
    ns_tok *t = r->l->t;
    const char *w = r->l->src->where;
    t->byte_level = 1;
    t->bpe.ignore_merges = 1;
    NS_TRY(ns_bpe_init(&t->bpe, r->n, 0, err), "%s", "");
    for (size_t k = 0; k < r->n; k++) {
        ns_str s = token(r, k);
        int32_t clash;
        NS_TRY(ns_bpe_add_token(&t->bpe, r->first_id + (int32_t)k, s.p, s.n, NS_BPE_MAPPED, &clash, err), "%s", "");
        NS_FAIL_IF(clash >= 0, NS_ERR_INPUT, "%s: rank %zu has the bytes of rank %d already: each token once", w, k,
                   (int)(clash - r->first_id));
    }
    NS_TRY(ns_bpe_size_merges(&t->bpe, cut_tokens(r, 0), err), "%s", "");
    cut_tokens(r, 1);
    NS_TRY(ns_bpe_seal(&t->bpe, err), "%s", "");
    for (int b = 0; b < 256; b++)
        NS_FAIL_IF(t->bpe.byte_id[b] < 0, NS_ERR_INPUT,
                   "%s: no token for the single byte 0x%02x: the file is cut short", w, b);
    r->l->no_template = 1;
    return NS_OK;
}

static ns_status special(loader *l, int32_t id, ns_str text, int is_special, ns_error *err)
{
    ns_added a = {.id = id, .content = text, .special = (uint8_t)(is_special != 0)};
    return ns_tok_add_token(l, &a, l->src->where, err);
}

static void set_pattern(ns_tok *t, ns_split_fn fn, int nfc)
{
    t->pre[t->n_pre++] = (ns_pre_step){.kind = NS_PRE_SPLIT, .fn = fn};
    t->stage[t->n_stages++] = fn;
    if (nfc) t->norm.step[t->norm.n++] = (ns_norm_step){.kind = NS_NORM_FORM, .form = NS_NFC};
}

/* ---- families of tiktoken files ---- */
typedef struct family {
    const char *name;
    size_t n_ranks;
    ns_split_fn split;
    int nfc;
    const char *special; /* names from id n_ranks on, one a line; a leading '-': found in text, but not special */
    int reserved, n_all; /* then <|reserved_special_token_K|> from K = reserved up to n_all special tokens */
    const char *bos, *eos;
} family;

#define QWEN2 "<|endoftext|>\n<|im_start|>\n<|im_end|>\n"
#define QWEN25                                                                                                   \
    QWEN2 "<|object_ref_start|>\n<|object_ref_end|>\n<|box_start|>\n<|box_end|>\n<|quad_start|>\n<|quad_end|>\n" \
          "<|vision_start|>\n<|vision_end|>\n<|vision_pad|>\n<|image_pad|>\n<|video_pad|>\n-<tool_call>\n"       \
          "-</tool_call>\n-<|fim_prefix|>\n-<|fim_middle|>\n-<|fim_suffix|>\n-<|fim_pad|>\n-<|repo_name|>\n"     \
          "-<|file_sep|>\n"
#define RESERVED(k) "<|reserved_special_token_" k "|>\n"

static const family families[] = {
    {"llama3", 128000, ns_split_llama3, 0,
     "<|begin_of_text|>\n<|end_of_text|>\n" RESERVED("0") RESERVED("1") RESERVED("2")
         RESERVED("3") "<|start_header_id|>\n<|end_header_id|>\n" RESERVED("4") "<|eot_id|>\n",
     5, 256, "<|begin_of_text|>", "<|end_of_text|>"},
    {"llama3.1", 128000, ns_split_llama3, 0,
     "<|begin_of_text|>\n<|end_of_text|>\n" RESERVED("0") RESERVED("1") "<|finetune_right_pad_id|>\n" RESERVED(
         "2") "<|start_header_id|>\n<|end_header_id|>\n<|eom_id|>\n<|eot_id|>\n<|python_tag|>\n",
     3, 256, "<|begin_of_text|>", "<|end_of_text|>"},
    {"qwen2", 151643, ns_split_qwen2, 1, QWEN2, 0, 0, NULL, "<|endoftext|>"},
    {"qwen2.5", 151643, ns_split_qwen2, 1, QWEN25, 0, 0, NULL, "<|endoftext|>"},
    {"qwen3", 151643, ns_split_qwen2, 1, QWEN25 "-<tool_response>\n-</tool_response>\n-<think>\n-</think>\n", 0, 0,
     NULL, "<|im_end|>"},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

static ns_status add_family(loader *l, const family *f, ns_error *err)
{
    int32_t id = (int32_t)f->n_ranks, end = id + f->n_all;
    char name[80];
    for (const char *p = f->special; *p; p = strchr(p, '\n') + 1) {
        int plain = *p == '-';
        ns_str s = {p + plain, (size_t)(strchr(p, '\n') - p) - (size_t)plain};
        NS_TRY(special(l, id++, s, !plain, err), "%s", "");
        if (f->bos && ns_str_eq(s, f->bos)) l->file_bos = id - 1;
        if (ns_str_eq(s, f->eos)) l->file_eos = id - 1;
    }
    for (int k = f->reserved; id < end; k++) {
        int n = snprintf(name, sizeof name, "<|reserved_special_token_%d|>", k);
        NS_TRY(special(l, id++, (ns_str){name, (size_t)n}, 1, err), "%s", "");
    }
    return NS_OK;
}

/* The family by name; without one, and with tokenizer_config.json's special tokens, any of as many ranks (they share the
 * pattern). */
static ns_status choose_family(loader *l, size_t n_ranks, ns_error *err)
{
    const ns_tok_source *src = l->src;
    const family *f = NULL;
    for (int i = 0; i < N_FAMILIES && !f; i++)
        if (src->family ? !strcmp(families[i].name, src->family) : families[i].n_ranks == n_ranks) f = &families[i];
    NS_FAIL_IF(!f && src->family, NS_ERR_CONFIG,
               "%s: family '%s' is not known (llama3, llama3.1, qwen2, qwen2.5, qwen3 are)", src->where, src->family);
    NS_FAIL_IF(!f, NS_ERR_UNSUPPORTED,
               "%s: a tiktoken file of %zu ranks does not say how text is split: known are those of Llama-3 (128000 "
               "ranks) and "
               "Qwen (151643); use the model's tokenizer.json",
               src->where, n_ranks);
    NS_FAIL_IF(f->n_ranks != n_ranks, NS_ERR_MISMATCH, "%s: %zu ranks, but family %s has %zu", src->where, n_ranks,
               f->name, f->n_ranks);
    set_pattern(l->t, f->split, f->nfc);
    if (src->family) return add_family(l, f, err);
    NS_FAIL_IF(
        !src->config || !strstr(src->config, "\"added_tokens_decoder\""), NS_ERR_INPUT,
        "%s: a tiktoken file does not name its special tokens: put the model's tokenizer_config.json beside it, or say "
        "which family it is: %s#%s (llama3, llama3.1, qwen2, qwen2.5, qwen3)",
        src->where, src->where, f->name);
    return NS_OK;
}

/* "base64 rank" */
static ns_status read_line(ranks *r, ns_str line, size_t number, ns_error *err)
{
    const char *w = r->l->src->where, *sp = line.n ? memchr(line.p, ' ', line.n) : NULL;
    size_t len = sp ? (size_t)(sp - line.p) : 0, good = 0, i = len + 1;
    int64_t rank = i < line.n ? 0 : -1;
    for (; i < line.n && rank >= 0 && rank <= NS_BPE_MAX_IDS; i++)
        rank = line.p[i] >= '0' && line.p[i] <= '9' ? rank * 10 + (line.p[i] - '0') : -1;
    NS_FAIL_IF(!sp || rank < 0, NS_ERR_INPUT, "%s:%zu: found '%.*s', expected a base64 token, a blank and a rank", w,
               number, S(line));
    NS_FAIL_IF(rank != (int64_t)r->n, NS_ERR_INPUT,
               "%s:%zu: rank %.*s, expected %zu: ranks must count up from 0 (a line is "
               "missing, or the file is cut)",
               w, number, (int)(line.n - len - 1 < 20 ? line.n - len - 1 : 20), sp + 1, r->n);
    NS_FAIL_IF(r->n == NS_BPE_MAX_IDS / 2, NS_ERR_INPUT, "%s:%zu: more than %d ranks", w, number, NS_BPE_MAX_IDS / 2);
    NS_TRY(decode_base64(&r->text, (ns_str){line.p, len}, &good, err), "%s", "");
    NS_FAIL_IF(!len || good < len, NS_ERR_INPUT, "%s:%zu: byte %zu of the line is not base64 of a whole token: '%.*s'",
               w, number, good, S(((ns_str){line.p, len})));
    return end_token(r, err);
}

ns_status ns_tiktoken_read(loader *l, ns_error *err)
{
    const ns_tok_source *src = l->src;
    ranks r = {.l = l};
    ns_status st = NS_OK;
    size_t number = 1;
    for (size_t i = 0, n; i < src->json_n; i += n + 1, number++) {
        const char *end = memchr(src->json + i, '\n', src->json_n - i);
        n = end ? (size_t)(end - src->json) - i : src->json_n - i;
        ns_str line = {src->json + i, n};
        if (line.n && line.p[line.n - 1] == '\r') line.n--;
        if (!line.n && i + n + 1 >= src->json_n) break;
        NS_CHECK(st, read_line(&r, line, number, err), "%s", "");
    }
    NS_CHECK(st, make_tables(&r, err), "%s", "");
    NS_CHECK(st, choose_family(l, r.n, err), "%s", "");
done:
    ns_buf_free(&r.text);
    ns_free(r.end);
    return st;
}

/* ---- tekken.json ---- */
static ns_status tekken_ranks(ranks *r, const ns_json *vocab, size_t n, ns_error *err)
{
    const char *w = r->l->src->where;
    NS_FAIL_IF(vocab->n < n, NS_ERR_INPUT, "%s: vocab has %zu tokens, config.default_vocab_size needs %zu", w, vocab->n,
               n);
    for (size_t i = 0; i < n; i++) {
        const ns_json *v = &vocab->items[i], *b = ns_json_get(v, "token_bytes"), *rank = ns_json_get(v, "rank");
        size_t good = 0;
        NS_FAIL_IF(!b || b->type != NS_JSON_STRING || id_of(rank) != (int32_t)i, NS_ERR_INPUT,
                   "%s: vocab[%zu] needs a string 'token_bytes' and rank %zu, found %s and %.*s", w, i, i, type_name(b),
                   S(shown(rank)));
        NS_TRY(decode_base64(&r->text, b->s, &good, err), "%s", "");
        NS_FAIL_IF(!b->s.n || good < b->s.n, NS_ERR_INPUT, "%s: vocab[%zu].token_bytes '%.*s' is not base64 (byte %zu)",
                   w, i, S(b->s), good);
        NS_TRY(end_token(r, err), "%s", "");
    }
    return NS_OK;
}

/* Files of the first version do not list their special tokens. */
static const char *const tekken_special[] = {"<unk>",
                                             "<s>",
                                             "</s>",
                                             "[INST]",
                                             "[/INST]",
                                             "[AVAILABLE_TOOLS]",
                                             "[/AVAILABLE_TOOLS]",
                                             "[TOOL_RESULTS]",
                                             "[/TOOL_RESULTS]",
                                             "[TOOL_CALLS]",
                                             "[IMG]",
                                             "<pad>",
                                             "[IMG_BREAK]",
                                             "[IMG_END]",
                                             "[PREFIX]",
                                             "[MIDDLE]",
                                             "[SUFFIX]",
                                             "[SYSTEM_PROMPT]",
                                             "[/SYSTEM_PROMPT]",
                                             "[TOOL_CONTENT]"};
enum { N_TEKKEN_SPECIAL = sizeof tekken_special / sizeof *tekken_special };

static ns_status tekken_specials(loader *l, const ns_json *list, int32_t n, ns_error *err)
{
    char name[40];
    int listed = list && list->type == NS_JSON_ARRAY;
    for (size_t i = 0; listed && i < list->n; i++) {
        const ns_json *text = ns_json_get(&list->items[i], "token_str"), *rank = ns_json_get(&list->items[i], "rank");
        NS_FAIL_IF(!text || text->type != NS_JSON_STRING || !text->s.n || id_of(rank) < 0 || id_of(rank) >= n,
                   NS_ERR_INPUT, "%s: special_tokens[%zu] needs a string 'token_str' and a rank below %d",
                   l->src->where, i, (int)n);
        NS_TRY(special(l, id_of(rank), text->s, 1, err), "%s", "");
    }
    for (int32_t i = 0; !listed && i < n && i < N_TEKKEN_SPECIAL; i++)
        NS_TRY(special(l, i, (ns_str){tekken_special[i], strlen(tekken_special[i])}, 1, err), "%s", "");
    for (int32_t i = 0; i < n; i++) { /* the others: <SPECIAL_i> */
        int taken = 0;
        for (size_t k = 0; k < l->t->added.n && !taken; k++) taken = l->t->added.v[k].id == i;
        if (taken) continue;
        int len = snprintf(name, sizeof name, "<SPECIAL_%d>", (int)i);
        NS_TRY(special(l, i, (ns_str){name, (size_t)len}, 1, err), "%s", "");
    }
    for (size_t k = 0; k < l->t->added.n; k++) {
        if (ns_str_eq(l->t->added.v[k].content, "<s>")) l->file_bos = l->t->added.v[k].id;
        if (ns_str_eq(l->t->added.v[k].content, "</s>")) l->file_eos = l->t->added.v[k].id;
    }
    return NS_OK;
}

static ns_status tekken_pattern(loader *l, const ns_json *pattern, ns_error *err)
{
    const char *w = l->src->where;
    NS_FAIL_IF(!pattern || pattern->type != NS_JSON_STRING, NS_ERR_INPUT, "%s: config.pattern is %s, expected a string",
               w, type_name(pattern));
    ns_split_fn fn = ns_split_find(pattern->s.p, pattern->s.n);
    if (fn) {
        set_pattern(l->t, fn, 0);
        return NS_OK;
    }
    ns_error why = NS_ERROR_INIT;
    ns_pre_step x = {.kind = NS_PRE_SPLIT};
    ns_status st = ns_regex_compile(&x.re, pattern->s.p, pattern->s.n, &why);
    NS_FAIL_IF(st != NS_OK, st, "%s: config.pattern: %s", w, why.msg);
    l->t->pre[l->t->n_pre++] = x;
    l->t->general = 1;
    return NS_OK;
}

ns_status ns_tekken_read(loader *l, const ns_json *root, ns_error *err)
{
    const ns_json *config = ns_json_get(root, "config");
    int32_t size = id_of(ns_json_get(config, "default_vocab_size"));
    int32_t n_special = id_of(ns_json_get(config, "default_num_special_tokens"));
    NS_FAIL_IF(size < 0 || n_special < 0 || n_special >= size || n_special > 10000, NS_ERR_INPUT,
               "%s: config needs default_vocab_size and a smaller default_num_special_tokens (10000 at most), found "
               "%.*s and %.*s",
               l->src->where, S(shown(ns_json_get(config, "default_vocab_size"))),
               S(shown(ns_json_get(config, "default_num_special_tokens"))));
    ranks r = {.l = l, .first_id = n_special};
    ns_status st = NS_OK;
    NS_CHECK(st, tekken_ranks(&r, ns_json_get(root, "vocab"), (size_t)(size - n_special), err), "%s", "");
    NS_CHECK(st, make_tables(&r, err), "%s", "");
    NS_CHECK(st, tekken_pattern(l, ns_json_get(config, "pattern"), err), "%s", "");
    NS_CHECK(st, tekken_specials(l, ns_json_get(root, "special_tokens"), n_special, err), "%s", "");
done:
    ns_buf_free(&r.text);
    ns_free(r.end);
    return st;
}
