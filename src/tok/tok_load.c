/* Construction of a tokenizer from Hugging Face files: tokenizer.json (the pipeline), tokenizer_config.json (BOS, EOS and
 * more added tokens) and special_tokens_map.json (BOS, EOS when the config has none). data.md §6.1, §6.2.
 *
 * Rule: what is not understood is refused by name, and what contradicts itself is refused with both facts, because a
 * tokenizer that is nearly right spoils a training run without a sign. Left out on purpose: "truncation" and "padding" of
 * tokenizer.json (every user of the file resets them) and "trim_offsets" (moves no id).
 *
 * Vocabulary strings are written in the byte alphabet (each byte one printable character). They are turned back into
 * bytes here, so that encoding never touches that alphabet. */
#include "base/file.h"
#include "tok/tok_loader.h"
#include "tok/unicode.h"

/* ---- byte alphabet: 0x21-0x7e, 0xa1-0xac, 0xae-0xff are themselves, the other 68 bytes follow from U+0100 ---- */
static int is_plain(uint32_t c)
{
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

static int byte_of(uint32_t c)
{
    if (c < 0x100) return is_plain(c) ? (int)c : -1;
    if (c >= 0x100 + 68) return -1;
    uint32_t k = c - 0x100; /* the k-th byte that is not plain: 0x00-0x20, 0x7f-0xa0, 0xad */
    return k < 33 ? (int)k : k < 67 ? (int)(0x7f + k - 33) : 0xad;
}

ns_status ns_tok_unmap(ns_buf *out, ns_str s, int *mapped, ns_error *err)
{
    const uint8_t *p = (const uint8_t *)s.p;
    *mapped = 1;
    NS_TRY(ns_buf_reserve(out, s.n, err), "%s", "");
    for (size_t i = 0, len; i < s.n; i += len) {
        int b = byte_of(ns_utf8_at(p, i, &len));
        if (b < 0) {
            *mapped = 0;
            return NS_OK;
        }
        out->data[out->len++] = (char)b;
    }
    out->data[out->len] = 0;
    return NS_OK;
}

/* Bytes behind a string of the file. SentencePiece-style vocabularies are written in plain UTF-8. */
static ns_status text_of(loader *l, ns_str s, int *mapped, ns_error *err)
{
    if (!l->t->by_char) return ns_tok_unmap(&l->text, s, mapped, err);
    *mapped = 1;
    return ns_buf_add(&l->text, s.p, s.n, err);
}

/* ---- model ---- */
static ns_status check_model(loader *l, const ns_json *m, ns_error *err)
{
    const char *w = l->src->where;
    NS_FAIL_IF(!m || m->type != NS_JSON_OBJECT, NS_ERR_INPUT,
               "%s: 'model' is %s, expected an object: is this a Hugging Face tokenizer.json?", w, type_name(m));
    NS_FAIL_IF(is_set(ns_json_get(m, "type")) && !is_type(m, "BPE"), NS_ERR_UNSUPPORTED,
               "%s: model '%.*s' is not supported (BPE is)", w, S(type_of(m)));
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const ns_json *v = ns_json_get(m, affixes[i]);
        NS_FAIL_IF(is_set(v) && !(v->type == NS_JSON_STRING && !v->s.n), NS_ERR_UNSUPPORTED,
                   "%s: model.%s is not supported", w, affixes[i]);
    }
    double drop = 0;
    const ns_json *d = ns_json_get(m, "dropout");
    NS_FAIL_IF(is_set(d) && !(ns_json_is_num(d, &drop) && drop == 0), NS_ERR_UNSUPPORTED,
               "%s: model.dropout is not supported: results would differ from run to run", w);
    l->t->bpe.ignore_merges = flag(m, "ignore_merges");
    l->t->bpe.fuse_unk = flag(m, "fuse_unk");
    l->t->bpe.by_char = l->t->by_char;
    l->t->bpe.byte_fallback = flag(m, "byte_fallback");
    return NS_OK;
}

static ns_status read_vocab(loader *l, const ns_json *vocab, ns_error *err)
{
    ns_tok *t = l->t;
    for (size_t i = 0; i < vocab->n; i++) {
        ns_str key = vocab->keys[i];
        int32_t id = id_of(&vocab->items[i]), clash;
        int mapped;
        NS_FAIL_IF(id < 0, NS_ERR_INPUT, "%s: model.vocab: token '%.*s' has id %.*s, expected an integer in 0..%d",
                   l->src->where, S(key), S(shown(&vocab->items[i])), NS_BPE_MAX_IDS - 1);
        ns_buf_clear(&l->text);
        NS_TRY(text_of(l, key, &mapped, err), "%s", "");
        if (mapped)
            NS_TRY(ns_bpe_add_token(&t->bpe, id, l->text.data, l->text.len, NS_BPE_MAPPED, &clash, err), "%s", "");
        else {
            NS_TRY(ns_bpe_add_token(&t->bpe, id, key.p, key.n, NS_BPE_LITERAL, &clash, err), "%s", "");
            NS_TRY(
                ns_grow((void **)&t->literal, &t->literal_cap, t->n_literal + 1, sizeof *t->literal, "tok.vocab", err),
                "%s", "");
            t->literal[t->n_literal++] = id;
        }
        NS_FAIL_IF(clash >= 0, NS_ERR_INPUT, "%s: model.vocab: token '%.*s' has id %d, which another token has already",
                   l->src->where, S(key), (int)id);
    }
    return NS_OK;
}

/* One merge as a joined string and the length of its left part, both in vocabulary spelling. */
static ns_status merge_parts(loader *l, const ns_json *v, size_t i, ns_str *left, ns_str *right, ns_error *err)
{
    const char *w = l->src->where;
    if (v->type == NS_JSON_ARRAY) {
        NS_FAIL_IF(v->n != 2 || v->items[0].type != NS_JSON_STRING || v->items[1].type != NS_JSON_STRING, NS_ERR_INPUT,
                   "%s: model.merges[%zu] is not a list of two strings", w, i);
        *left = v->items[0].s;
        *right = v->items[1].s;
    } else {
        NS_FAIL_IF(v->type != NS_JSON_STRING, NS_ERR_INPUT,
                   "%s: model.merges[%zu] is %s, expected \"a b\" or [\"a\", \"b\"]", w, i, type_name(v));
        const char *sp = v->s.n ? memchr(v->s.p, ' ', v->s.n) : NULL;
        size_t k = sp ? (size_t)(sp - v->s.p) : 0;
        NS_FAIL_IF(!sp || memchr(sp + 1, ' ', v->s.n - k - 1), NS_ERR_INPUT,
                   "%s: model.merges[%zu] is '%.*s', expected two tokens with one space between", w, i, S(v->s));
        *left = (ns_str){v->s.p, k};
        *right = (ns_str){sp + 1, v->s.n - k - 1};
    }
    NS_FAIL_IF(!left->n || !right->n, NS_ERR_INPUT, "%s: model.merges[%zu] has an empty part: it would merge for ever",
               w, i);
    return NS_OK;
}

static ns_status read_merges(loader *l, const ns_json *merges, ns_error *err)
{
    ns_bpe *m = &l->t->bpe;
    for (size_t i = 0; i < merges->n; i++) {
        const ns_json *v = &merges->items[i];
        if (v->type == NS_JSON_STRING && v->s.n >= 8 && !memcmp(v->s.p, "#version", 8)) continue;
        ns_str part[2];
        int ok[2];
        NS_TRY(merge_parts(l, v, i, &part[0], &part[1], err), "%s", "");
        ns_buf_clear(&l->text);
        NS_TRY(text_of(l, part[0], &ok[0], err), "%s", "");
        size_t k = l->text.len;
        NS_TRY(text_of(l, part[1], &ok[1], err), "%s", "");
        int32_t left = ok[0] ? ns_bpe_find(m, l->text.data, k) : -1;
        int32_t right = ok[1] ? ns_bpe_find(m, l->text.data + k, l->text.len - k) : -1;
        int32_t both = ns_bpe_find(m, l->text.data, l->text.len);
        for (int side = 0; side < 2; side++)
            NS_FAIL_IF((side ? right : left) < 0, NS_ERR_INPUT,
                       "%s: model.merges[%zu]: token '%.*s' is not in the vocabulary", l->src->where, i, S(part[side]));
        NS_FAIL_IF(both < 0, NS_ERR_INPUT, "%s: model.merges[%zu]: '%.*s' + '%.*s' is not in the vocabulary",
                   l->src->where, i, S(part[0]), S(part[1]));
        l->crossing |= crosses_mark(part[0], part[1]);
        ns_bpe_add_merge(m, (uint32_t)i, left, right, both);
    }
    return NS_OK;
}

/* unk_token; byte_fallback needs all 256 bytes, so that no text is half lost. */
static ns_status read_unknown(loader *l, const ns_json *model, ns_error *err)
{
    ns_bpe *m = &l->t->bpe;
    const ns_json *unk = ns_json_get(model, "unk_token");
    int missing = -1, mapped;
    for (int b = 0; b < 256; b++)
        if (m->byte_id[b] < 0) missing = b;
    if (missing < 0) return NS_OK; /* unk_token can never act */
    NS_FAIL_IF(flag(model, "byte_fallback"), NS_ERR_UNSUPPORTED,
               "%s: model.byte_fallback with a vocabulary that lacks byte 0x%02x is not supported", l->src->where,
               missing);
    if (is_set(unk) && unk->type == NS_JSON_STRING && unk->s.n) {
        ns_buf_clear(&l->text);
        NS_TRY(text_of(l, unk->s, &mapped, err), "%s", "");
        m->unk = mapped ? ns_bpe_find(m, l->text.data, l->text.len) : -1;
        NS_FAIL_IF(m->unk < 0, NS_ERR_INPUT, "%s: model.unk_token '%.*s' is not in the vocabulary", l->src->where,
                   S(unk->s));
    }
    return NS_OK;
}

static ns_status read_model(loader *l, const ns_json *model, ns_error *err)
{
    NS_TRY(check_model(l, model, err), "%s", "");
    ns_bpe *m = &l->t->bpe;
    const char *w = l->src->where;
    const ns_json *vocab = ns_json_get(model, "vocab"), *merges = ns_json_get(model, "merges");
    NS_FAIL_IF(!vocab || vocab->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s: model.vocab is %s, expected an object", w,
               type_name(vocab));
    NS_FAIL_IF(!merges || merges->type != NS_JSON_ARRAY, NS_ERR_INPUT, "%s: model.merges is %s, expected an array", w,
               type_name(merges));
    NS_TRY(ns_bpe_init(m, vocab->n, merges->n, err), "%s", "");
    NS_TRY(read_vocab(l, vocab, err), "%s", "");
    NS_TRY(read_merges(l, merges, err), "%s", "");
    NS_TRY(ns_bpe_seal(m, err), "%s", "");
    return read_unknown(l, model, err);
}

/* ---- added tokens ---- */
/* Id of a vocabulary entry spelled `s`, or -1. */
static ns_status vocab_id(loader *l, ns_str s, int32_t *id, ns_error *err)
{
    const ns_tok *t = l->t;
    int mapped;
    ns_buf_clear(&l->text);
    NS_TRY(text_of(l, s, &mapped, err), "%s", "");
    *id = mapped ? ns_bpe_find(&t->bpe, l->text.data, l->text.len) : -1;
    for (size_t i = 0; *id < 0 && i < t->n_literal; i++) {
        ns_bpe_span v = t->bpe.span[t->literal[i]];
        if (v.len == s.n && !memcmp(t->bpe.text + v.at, s.p, s.n)) *id = t->literal[i];
    }
    return NS_OK;
}

ns_status ns_tok_add_token(loader *l, const ns_added *a, const char *where, ns_error *err)
{
    ns_added_set *set = &l->t->added;
    int32_t in_vocab;
    for (size_t i = 0; i < set->n; i++) {
        ns_added *o = &set->v[i];
        int same = o->content.n == a->content.n && !memcmp(o->content.p, a->content.p, a->content.n);
        NS_FAIL_IF(same != (o->id == a->id), NS_ERR_MISMATCH,
                   "%s: added token '%.*s' has id %d, but '%.*s' has id %d already", where, S(a->content), (int)a->id,
                   S(o->content), (int)o->id);
        if (same) {
            ns_str keep = o->content;
            *o = *a;
            o->content = keep;
            return NS_OK;
        }
    }
    NS_TRY(vocab_id(l, a->content, &in_vocab, err), "%s", "");
    NS_FAIL_IF(in_vocab >= 0 && in_vocab != a->id, NS_ERR_MISMATCH,
               "%s: added token '%.*s' has id %d, but the vocabulary has it at %d", where, S(a->content), (int)a->id,
               (int)in_vocab);
    int taken = (size_t)a->id < l->t->bpe.n_ids && l->t->bpe.span[a->id].len != UINT32_MAX;
    NS_FAIL_IF(in_vocab < 0 && taken, NS_ERR_MISMATCH,
               "%s: added token '%.*s' has id %d, which is another token in the vocabulary", where, S(a->content),
               (int)a->id);
    NS_TRY(ns_grow((void **)&set->v, &set->cap, set->n + 1, sizeof *set->v, "tok.added", err), "%s", "");
    ns_added *o = &set->v[set->n];
    *o = *a;
    o->content.p = ns_arena_strndup(&l->t->arena, a->content.p, a->content.n, err);
    if (!o->content.p) return NS_ERR_MEMORY;
    set->n++;
    return NS_OK;
}

static ns_status read_added(loader *l, const ns_json *v, int32_t id, const char *where, ns_error *err)
{
    const ns_json *content = ns_json_get(v, "content");
    NS_FAIL_IF(!content || content->type != NS_JSON_STRING || id < 0, NS_ERR_INPUT,
               "%s: added token needs a string 'content' (found %s) and an integer id in 0..%d", where,
               type_name(content), NS_BPE_MAX_IDS - 1);
    if (!content->s.n) return NS_OK; /* the reference ignores an empty one */
    ns_added a = {.id = id,
                  .content = content->s,
                  .single_word = (uint8_t)flag(v, "single_word"),
                  .lstrip = (uint8_t)flag(v, "lstrip"),
                  .rstrip = (uint8_t)flag(v, "rstrip"),
                  .special = (uint8_t)flag(v, "special")};
    const ns_json *norm = ns_json_get(v, "normalized");
    a.normalized = is_set(norm) ? (uint8_t)(norm->b != 0) : !a.special;
    return ns_tok_add_token(l, &a, where, err);
}

/* ---- tokenizer_config.json, special_tokens_map.json ---- */
static const ns_json *token_text(const ns_json *v) /* "x" or {"content": "x"} */
{
    if (v && v->type == NS_JSON_OBJECT) v = ns_json_get(v, "content");
    return v && v->type == NS_JSON_STRING ? v : NULL;
}

/* A token named by role is special even if no list says so. *id = its id, or -1 if the tokenizer does not have it. */
static ns_status role_token(loader *l, ns_str s, int32_t *id, const char *where, ns_error *err)
{
    ns_added_set *set = &l->t->added;
    for (size_t i = 0; i < set->n; i++)
        if (set->v[i].content.n == s.n && !memcmp(set->v[i].content.p, s.p, s.n)) {
            set->v[i].special = 1;
            *id = set->v[i].id;
            return NS_OK;
        }
    NS_TRY(vocab_id(l, s, id, err), "%s", "");
    if (*id < 0) return NS_OK;
    ns_added a = {.id = *id, .content = s, .special = 1};
    return ns_tok_add_token(l, &a, where, err);
}

/* bos_token and eos_token: *known tells that the file decides (also with null). */
static ns_status read_role(loader *l, const ns_json *cfg, const char *key, const char *where, int32_t *id, int *known,
                           ns_error *err)
{
    const ns_json *v = ns_json_get(cfg, key), *s = token_text(v);
    if (*known || !v) return NS_OK;
    *known = 1;
    *id = -1;
    if (!is_set(v)) return NS_OK;
    NS_FAIL_IF(!s, NS_ERR_INPUT, "%s: %s is %s, expected a string or an object with 'content'", where, key,
               type_name(v));
    NS_TRY(role_token(l, s->s, id, where, err), "%s", "");
    NS_FAIL_IF(*id < 0, NS_ERR_MISMATCH,
               "%s: %s '%.*s' is not a token of %s: the two files belong to different tokenizers", where, key, S(s->s),
               l->src->where);
    return NS_OK;
}

static ns_status read_config(loader *l, const ns_json *cfg, const char *where, int32_t roles[2], int known[2],
                             ns_error *err)
{
    const ns_json *more = ns_json_get(cfg, "added_tokens_decoder"),
                  *list = ns_json_get(cfg, "additional_special_tokens");
    for (size_t i = 0; more && more->type == NS_JSON_OBJECT && i < more->n; i++) {
        ns_json number = {.type = NS_JSON_NUMBER, .s = more->keys[i]};
        NS_TRY(read_added(l, &more->items[i], id_of(&number), where, err), "added_tokens_decoder '%.*s'",
               S(more->keys[i]));
    }
    const ns_json *bos = ns_json_get(cfg, "add_bos_token"), *eos = ns_json_get(cfg, "add_eos_token");
    if (bos && bos->type == NS_JSON_BOOL) l->add_bos = bos->b;
    if (eos && eos->type == NS_JSON_BOOL) l->add_eos = eos->b;
    NS_TRY(read_role(l, cfg, "bos_token", where, &roles[0], &known[0], err), "%s", "");
    NS_TRY(read_role(l, cfg, "eos_token", where, &roles[1], &known[1], err), "%s", "");
    static const char *const others[] = {"pad_token", "unk_token", "sep_token", "cls_token", "mask_token"};
    int32_t id;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        const ns_json *s = token_text(ns_json_get(cfg, others[i]));
        if (s) NS_TRY(role_token(l, s->s, &id, where, err), "%s", others[i]);
    }
    for (size_t i = 0; list && list->type == NS_JSON_ARRAY && i < list->n; i++) {
        const ns_json *s = token_text(&list->items[i]);
        if (s) NS_TRY(role_token(l, s->s, &id, where, err), "additional_special_tokens[%zu]", i);
    }
    return NS_OK;
}

/* ---- all together ---- */
/* Where may text be cut before U+2581? With unknown characters only if that one is known: one unk may stand for a run. */
static void cut_at_marks(loader *l)
{
    ns_tok *t = l->t;
    int known = t->bpe.byte_id[0xe2] >= 0 || ns_bpe_find(&t->bpe, NS_META, 3) >= 0;
    t->marks_apart = t->by_char && known && !l->crossing && !t->bpe.ignore_merges && !(t->sp && t->sp->unigram);
    if (t->marks_apart && !t->general && !t->n_stages) t->stage[t->n_stages++] = ns_split_marks;
}

/* Is the normalizer "a U+2581 in front and for every blank", or the latter alone? */
static int marks_only(const ns_norm *norm, int *prefix)
{
    int replaced = 0;
    *prefix = 0;
    for (int i = 0; i < norm->n; i++) {
        const ns_norm_step *x = &norm->step[i];
        int mark = (x->kind == NS_NORM_PREPEND || x->kind == NS_NORM_REPLACE) && ns_str_eq(x->text, NS_META);
        if (!mark || (x->kind == NS_NORM_REPLACE && (x->re || !ns_str_eq(x->pattern, " ")))) return 0;
        if (x->kind == NS_NORM_PREPEND ? (*prefix)++ : replaced++) return 0;
    }
    return replaced == 1;
}

/* A text with g in it must be normalised. Guards with the same four bytes in front become one. 0: no room. */
static int add_guard(ns_tok *t, ns_str g)
{
    for (size_t i = 0, k = 0; i < t->n_guards; i++, k = 0) {
        ns_str *x = &t->guard[i];
        while (k < x->n && k < g.n && x->p[k] == g.p[k]) k++;
        if (k < 4 && k < g.n && k < x->n) continue;
        x->n = k;
        return 1;
    }
    if (t->n_guards == sizeof t->guard / sizeof *t->guard || (t->n_guards && t->guard[0].p[0] != g.p[0])) return 0;
    t->guard[t->n_guards++] = g;
    return 1;
}

/* May texts be encoded with their blanks in them (words.h)? Not those with an added token that is looked for in normalised
 * text, or a user-defined symbol. Such a token is seen in the raw text if it has neither blanks nor U+2581. */
static void find_blank_words(loader *l)
{
    ns_tok *t = l->t;
    const ns_spm *sp = t->sp;
    int prefix;
    if (!t->by_char) return;
    if (sp) {
        if (sp->unigram || sp->map.n_units || sp->remove_blanks || !sp->escape_blanks) return;
        if ((sp->dummy_prefix && sp->suffix) || sp->n_virtual || sp->part || !sp->byte_fallback) return;
        prefix = sp->dummy_prefix;
    } else {
        int cut_only = !t->n_stages || (t->n_stages == 1 && t->stage[0] == ns_split_marks);
        if (t->general || !cut_only || !marks_only(&t->norm, &prefix)) return;
    }
    for (size_t i = 0; i < t->added.n; i++) {
        const ns_added *a = &t->added.v[i];
        if (!a->normalized || a->unseen || !a->content.n) continue;
        ns_str g = a->content;
        if (memchr(g.p, ' ', g.n) || memmem(g.p, g.n, NS_META, 3) || !add_guard(t, g)) return;
    }
    for (int32_t i = 0; sp && sp->user.n && i < sp->n; i++) {
        ns_bpe_span s = t->bpe.span[i];
        ns_str g = {t->bpe.text + s.at, s.len};
        if (sp->kind[i] != NS_SPM_USER) continue;
        if (!g.n || memmem(g.p, g.n, NS_META, 3) || memchr(g.p, ' ', g.n) || !add_guard(t, g)) return;
    }
    t->blank_prefix = prefix;
    t->blank_words = ns_words_blank_joins(t->blank_joins, &t->bpe, t->marks_apart);
}

/* What added tokens decode to. In SentencePiece style one that is found in normalised text is decoded as it is found there
 * ("<s>" found as U+2581 "<s>" comes back with its blank), as the reference does. */
static ns_status show_added(ns_tok *t, ns_error *err)
{
    ns_buf b = {0};
    ns_status st = NS_OK;
    for (size_t i = 0; i < t->added.n; i++) {
        ns_added *a = &t->added.v[i];
        a->shown = a->content;
        if (!a->normalized || !t->by_char || !t->norm.n) continue;
        ns_buf_clear(&b);
        NS_CHECK(st, ns_norm_apply(&t->norm, &b, NULL, (const uint8_t *)a->content.p, a->content.n, err),
                 "added token");
        a->shown = (ns_str){ns_arena_strndup(&t->arena, b.data, b.len, err), b.len};
        if (!a->shown.p) st = NS_ERR_MEMORY;
        if (st != NS_OK) break;
    }
done:
    ns_buf_free(&b);
    return st;
}

static ns_status finish(loader *l, ns_error *err)
{
    ns_tok *t = l->t;
    for (size_t i = 0; t->sp && i < t->added.n; i++)
        t->added.v[i].normalized = 0; /* all are looked for in the raw text */
    NS_TRY(ns_added_seal(&t->added, &t->norm, err), "%s", "");
    NS_TRY(show_added(t, err), "%s", "");
    cut_at_marks(l);
    if (t->sp && !t->sp->unigram) NS_TRY(ns_bpe_find_joins(&t->bpe, err), "%s", "");
    find_blank_words(l);
    t->n_ids = t->sp ? t->sp->n : (int64_t)t->bpe.n_ids;
    if (t->added.n && t->added.v[t->added.n - 1].id >= t->n_ids) t->n_ids = t->added.v[t->added.n - 1].id + 1;
    for (int side = 0; side < 2; side++) {
        const ns_ids *ids = side ? &t->suffix : &t->prefix;
        for (size_t i = 0; i < ids->n; i++) {
            size_t k = (size_t)ids->v[i];
            int ok = ns_added_by_id(&t->added, ids->v[i]) || (k < t->bpe.n_ids && t->bpe.span[k].len != UINT32_MAX);
            NS_FAIL_IF(!ok, NS_ERR_INPUT, "%s: post-processor template uses id %d, which is no token", l->src->where,
                       (int)ids->v[i]);
        }
    }
    /* tokens("x y") against tokens("x") + tokens("y"). */
    ns_ids whole = {0}, parts = {0};
    ns_error ignored = NS_ERROR_INIT; /* a vocabulary without x, y or blank: byte-level text is space sensitive */
    t->space_sensitive = 1;
    if (ns_tok_encode(t, &whole, "x y", 3, 0, &ignored) == NS_OK &&
        ns_tok_encode(t, &parts, "x", 1, 0, &ignored) == NS_OK &&
        ns_tok_encode(t, &parts, "y", 1, 0, &ignored) == NS_OK)
        t->space_sensitive = whole.n != parts.n || memcmp(whole.v, parts.v, whole.n * sizeof *whole.v) != 0;
    ns_ids_free(&whole);
    ns_ids_free(&parts);
    NS_FAIL_IF(ignored.code == NS_ERR_MEMORY, NS_ERR_MEMORY, "out of memory while probing the tokenizer");
    return NS_OK;
}

/* tokenizer.json, or tekken.json. */
static ns_status read_json(loader *l, ns_error *err)
{
    const ns_tok_source *src = l->src;
    ns_json *root = NULL;
    NS_TRY(ns_json_parse(&root, &l->arena, src->json, src->json_n, src->where, 0, err), "%s", "");
    NS_FAIL_IF(root->type != NS_JSON_OBJECT, NS_ERR_INPUT,
               "%s: found %s, expected an object: is this a Hugging Face tokenizer.json?", src->where, type_name(root));
    const ns_json *vocab = ns_json_get(root, "vocab");
    if (ns_json_get(root, "config") && vocab && vocab->type == NS_JSON_ARRAY) return ns_tekken_read(l, root, err);
    NS_TRY(ns_tok_read_pipeline(l, root, err), "%s", "");
    NS_TRY(read_model(l, ns_json_get(root, "model"), err), "%s", "");
    const ns_json *added = ns_json_get(root, "added_tokens");
    for (size_t i = 0; added && added->type == NS_JSON_ARRAY && i < added->n; i++)
        NS_TRY(read_added(l, &added->items[i], id_of(ns_json_get(&added->items[i], "id")), src->where, err),
               "added_tokens[%zu]", i);
    return NS_OK;
}

/* A protobuf file starts with the tag of field 1, 2 or 3. 0a is a newline too: then JSON has an object behind white space. */
static int is_protobuf(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && (p[i] == ' ' || p[i] == '\t' || p[i] == '\r' || p[i] == '\n')) i++;
    return n && (p[0] == 0x0a || p[0] == 0x12 || p[0] == 0x1a) && i < n && p[i] != '{';
}

/* The main file, by its first byte. */
static ns_status read_main(loader *l, ns_error *err)
{
    const ns_tok_source *src = l->src;
    char c = src->json_n ? src->json[0] : 0;
    int base64 = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' || c == '/';
    NS_FAIL_IF(src->family && !base64, NS_ERR_CONFIG, "%s: a family ('%s') is for tiktoken files, and this is none",
               src->where, src->family);
    if (is_protobuf(src->json, src->json_n)) return ns_spm_read(l, err);
    if (base64) return ns_tiktoken_read(l, err);
    return read_json(l, err);
}

/* Files without a template: BOS in front if there is one, unless tokenizer_config.json says otherwise. */
static ns_status make_template(loader *l, ns_error *err)
{
    ns_tok *t = l->t;
    if (t->bos >= 0 && l->add_bos != 0) NS_TRY(ns_ids_push(&t->prefix, t->bos, err), "%s", "");
    if (t->eos >= 0 && l->add_eos == 1) NS_TRY(ns_ids_push(&t->suffix, t->eos, err), "%s", "");
    return NS_OK;
}

static ns_status build(loader *l, ns_error *err)
{
    const ns_tok_source *src = l->src;
    NS_TRY(read_main(l, err), "%s", "");
    int32_t roles[2] = {-1, -1};
    int known[2] = {0, 0};
    const char *const text[2] = {src->config, src->map}, *const where[2] = {src->config_where, src->map_where};
    const size_t n[2] = {src->config_n, src->map_n};
    for (int i = 0; i < 2; i++) {
        ns_json *cfg = NULL;
        if (!text[i]) continue;
        NS_TRY(ns_json_parse(&cfg, &l->arena, text[i], n[i], where[i], 0, err), "%s", "");
        NS_TRY(read_config(l, cfg, where[i], roles, known, err), "%s", "");
    }
    l->t->bos = known[0] ? roles[0] : l->t->prefix.n ? l->t->prefix.v[0] : l->file_bos;
    l->t->eos = known[1] ? roles[1] : l->file_eos;
    if (l->no_template) NS_TRY(make_template(l, err), "%s", "");
    return finish(l, err);
}

ns_status ns_tok_build(ns_tok **out, const ns_tok_source *src, ns_error *err)
{
    loader l = {
        .src = src, .arena = NS_ARENA_INIT("tok.load"), .file_bos = -1, .file_eos = -1, .add_bos = -1, .add_eos = -1};
    ns_status st = NS_OK;
    l.arena.block_size = 1 << 20;
    NS_CHECK(st, ns_alloc((void **)&l.t, sizeof *l.t, "tok", err), "%s", "");
    l.t->arena.label = "tok.added";
    l.t->bos = l.t->eos = -1;
    l.t->serial = ns_words_serial();
    NS_CHECK(st, build(&l, err), "%s", "");
    *out = l.t;
    l.t = NULL;
done:
    ns_tok_free(&l.t);
    ns_buf_free(&l.text);
    ns_arena_free(&l.arena);
    return st;
}

/* Reads dir/name if it exists; *text stays NULL otherwise. */
static ns_status read_beside(ns_buf *file, ns_buf *path, const char *dir, size_t dir_n, const char *name, ns_error *err)
{
    ns_buf_clear(path);
    NS_TRY(ns_buf_printf(path, err, "%.*s%s", (int)dir_n, dir, name), "path");
    return ns_path_exists(path->data) ? ns_file_read(file, path->data, err) : NS_OK;
}

/* The main file of a folder. */
static ns_status find_main(ns_buf *path, const char *dir, ns_error *err)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "tekken.json", "qwen.tiktoken"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ns_buf_clear(path);
        NS_TRY(ns_buf_adds(path, dir, err), "path");
        while (path->len > 1 && path->data[path->len - 1] == '/') path->data[--path->len] = 0;
        NS_TRY(ns_buf_printf(path, err, "/%s", names[i]), "path");
        if (ns_path_exists(path->data)) return NS_OK;
    }
    NS_FAIL(NS_ERR_INPUT,
            "%s has no tokenizer.json, tokenizer.model, tekken.json or qwen.tiktoken: give the file itself if it has "
            "another "
            "name",
            dir);
}

/* path, perhaps with "#family" behind a file name. */
static ns_status split_path(ns_buf *path, const char *given, const char **family, ns_error *err)
{
    const char *hash = strrchr(given, '#');
    *family = hash && !strchr(hash, '/') && !ns_path_exists(given) ? hash + 1 : NULL;
    return ns_buf_add(path, given, *family ? (size_t)(hash - given) : strlen(given), err);
}

ns_status ns_tok_load(ns_tok **out, const char *path, ns_error *err)
{
    ns_buf main_path = {0}, names[2] = {{0}}, files[2] = {{0}};
    ns_map json = {0};
    ns_status st = NS_OK;
    const char *family;
    *out = NULL;
    NS_CHECK(st, split_path(&main_path, path, &family, err), "%s", "");
    int folder = ns_path_is_dir(main_path.data);
    if (folder) {
        NS_CHECK(st, ns_buf_adds(&names[0], main_path.data, err), "%s", "");
        NS_CHECK(st, find_main(&main_path, names[0].data, err), "%s", "");
    }
    NS_CHECK(st, ns_map_open(&json, main_path.data, err), "%s", "");
    const char *slash = strrchr(main_path.data, '/');
    size_t dir_n = slash ? (size_t)(slash - main_path.data) + 1 : 0;
    /* A SentencePiece file given by itself is that and nothing else (data.md §6.1): control symbols are no text. */
    int alone = !folder && is_protobuf((const char *)json.data, json.size);
    if (!alone) {
        NS_CHECK(st, read_beside(&files[0], &names[0], main_path.data, dir_n, "tokenizer_config.json", err), "%s", "");
        NS_CHECK(st, read_beside(&files[1], &names[1], main_path.data, dir_n, "special_tokens_map.json", err), "%s",
                 "");
    }
    ns_tok_source src = {.json = (const char *)json.data,
                         .json_n = json.size,
                         .where = main_path.data,
                         .config = files[0].data,
                         .config_n = files[0].len,
                         .config_where = names[0].data,
                         .map = files[1].data,
                         .map_n = files[1].len,
                         .map_where = names[1].data,
                         .family = family};
    NS_CHECK(st, ns_tok_build(out, &src, err), "%s", "");
done:
    ns_map_close(&json);
    ns_buf_free(&main_path);
    for (int i = 0; i < 2; i++) {
        ns_buf_free(&names[i]);
        ns_buf_free(&files[i]);
    }
    return st;
}
