/* SentencePiece model file to tokenizer: ModelProto of sentencepiece_model.proto, read strictly. Whatever would change ids
 * and is not understood is refused by name: model types word and char, a denormalizer map.
 *
 * BPE: a pair of symbols merges if its text is a piece, best score first. That becomes a merge list: every way to cut a
 * piece into two symbols, ranked by the piece's score (equal scores: equal rank, and the leftmost goes first). A symbol is
 * a piece or a single character; characters that are no piece themselves get ids behind the pieces ("virtual"). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tok/proto.h"
#include "tok/tok_loader.h"

typedef struct piece {
    ns_str text;
    float score;
    int kind;
    size_t at;
} piece;

typedef struct reading {
    loader *l;
    ns_spm *sp;
    piece *v;
    size_t n, cap;
    const char *where;
    ns_str bos, eos;
    int have_trainer, have_normalizer;
    uint64_t model_type;
    uint8_t *seen; /* bit by code point: 1 occurs in a piece, 2 is a piece */
    size_t n_merges;
} reading;

static ns_status read_piece(reading *r, ns_proto in, size_t at, ns_error *err)
{
    piece x = {.kind = NS_SPM_NORMAL, .at = at};
    ns_proto_field f;
    for (int more = 1;;) {
        NS_TRY(ns_proto_next(&in, &f, &more, err), "%s", "");
        if (!more) break;
        if (f.number == 1) {
            NS_TRY(ns_proto_want(&in, &f, NS_WIRE_BYTES, "the text of a piece", err), "%s", "");
            x.text = f.bytes;
        } else if (f.number == 2) {
            NS_TRY(ns_proto_want(&in, &f, NS_WIRE_32, "the score of a piece", err), "%s", "");
            uint32_t bits = (uint32_t)f.value;
            memcpy(&x.score, &bits, 4);
        } else if (f.number == 3) {
            NS_TRY(ns_proto_want(&in, &f, NS_WIRE_VARINT, "the type of a piece", err), "%s", "");
            NS_FAIL_IF(f.value < NS_SPM_NORMAL || f.value > NS_SPM_BYTE, NS_ERR_UNSUPPORTED,
                       "%s: byte %zu: piece %zu has type %llu, expected 1..6", r->where, f.at, r->n,
                       (unsigned long long)f.value);
            x.kind = (int)f.value;
        }
    }
    size_t bad = ns_utf8_check((const uint8_t *)x.text.p, x.text.n);
    NS_FAIL_IF(!x.text.n || bad < x.text.n, NS_ERR_INPUT, "%s: byte %zu: piece %zu is %s", r->where, at, r->n,
               x.text.n ? "not UTF-8" : "empty");
    NS_FAIL_IF(!isfinite(x.score), NS_ERR_INPUT, "%s: byte %zu: piece %zu ('%.*s') has a score that is no number",
               r->where, at, r->n, S(x.text));
    NS_FAIL_IF(r->n == NS_BPE_MAX_IDS / 2, NS_ERR_INPUT, "%s: byte %zu: more than %d pieces", r->where, at,
               NS_BPE_MAX_IDS / 2);
    NS_TRY(ns_grow((void **)&r->v, &r->cap, r->n + 1, sizeof *r->v, "tok.spm", err), "%s", "");
    r->v[r->n++] = x;
    return NS_OK;
}

static ns_status read_trainer(reading *r, ns_proto in, ns_error *err)
{
    ns_proto_field f;
    ns_spm *sp = r->sp;
    for (int more = 1;;) {
        NS_TRY(ns_proto_next(&in, &f, &more, err), "%s", "");
        if (!more) break;
        int wire = f.number >= 44 && f.number <= 48 ? NS_WIRE_BYTES : NS_WIRE_VARINT;
        int ours =
            f.number == 3 || f.number == 24 || f.number == 35 || f.number == 44 || f.number == 46 || f.number == 47;
        if (!ours) continue;
        NS_TRY(ns_proto_want(&in, &f, wire, "a trainer setting", err), "%s", "");
        if (f.number == 3) r->model_type = f.value;
        if (f.number == 24) sp->suffix = f.value != 0;
        if (f.number == 35) sp->byte_fallback = f.value != 0;
        if (f.number == 46) r->bos = f.bytes;
        if (f.number == 47) r->eos = f.bytes;
        if (f.number != 44) continue;
        sp->unk_surface.p = ns_arena_strndup(&r->l->t->arena, f.bytes.p, f.bytes.n, err);
        sp->unk_surface.n = f.bytes.n;
        if (!sp->unk_surface.p) return NS_ERR_MEMORY;
    }
    return NS_OK;
}

/* u32 size of the double array, the double array, the texts. */
static ns_status read_map(reading *r, const ns_proto *in, const ns_proto_field *f, ns_error *err)
{
    ns_spm_map *m = &r->sp->map;
    ns_str b = f->bytes;
    uint32_t size = 0;
    if (!b.n) return NS_OK;
    if (b.n >= 4)
        size = (uint32_t)(uint8_t)b.p[0] | (uint32_t)(uint8_t)b.p[1] << 8 | (uint32_t)(uint8_t)b.p[2] << 16 |
               (uint32_t)(uint8_t)b.p[3] << 24;
    NS_FAIL_IF(b.n < 9 || !size || size % 4 || size > b.n - 5 || b.p[b.n - 1], NS_ERR_INPUT,
               "%s: byte %zu: precompiled_charsmap of %zu bytes says that its trie has %u: damaged", in->where, f->at,
               b.n, size);
    uint32_t *unit = ns_arena_alloc(&r->l->t->arena, size, err);
    if (!unit) return NS_ERR_MEMORY;
    for (size_t i = 0; i < size / 4; i++) {
        const uint8_t *q = (const uint8_t *)b.p + 4 + 4 * i;
        unit[i] = (uint32_t)q[0] | (uint32_t)q[1] << 8 | (uint32_t)q[2] << 16 | (uint32_t)q[3] << 24;
    }
    m->unit = unit;
    m->n_units = size / 4;
    m->text_n = b.n - 4 - size;
    size_t bad = ns_utf8_check((const uint8_t *)b.p + 4 + size, m->text_n);
    NS_FAIL_IF(bad < m->text_n, NS_ERR_INPUT, "%s: byte %zu: a text of precompiled_charsmap is not UTF-8", in->where,
               f->at + 4 + size + bad);
    m->text = ns_arena_strndup(&r->l->t->arena, b.p + 4 + size, m->text_n, err);
    return m->text ? NS_OK : NS_ERR_MEMORY;
}

static ns_status read_normalizer(reading *r, ns_proto in, ns_error *err)
{
    ns_proto_field f;
    for (int more = 1;;) {
        NS_TRY(ns_proto_next(&in, &f, &more, err), "%s", "");
        if (!more) break;
        if (f.number == 2) {
            NS_TRY(ns_proto_want(&in, &f, NS_WIRE_BYTES, "precompiled_charsmap", err), "%s", "");
            NS_TRY(read_map(r, &in, &f, err), "%s", "");
        }
        if (f.number < 3 || f.number > 5) continue;
        NS_TRY(ns_proto_want(&in, &f, NS_WIRE_VARINT, "a normalizer setting", err), "%s", "");
        int *to[] = {&r->sp->dummy_prefix, &r->sp->remove_blanks, &r->sp->escape_blanks};
        *to[f.number - 3] = f.value != 0;
    }
    return NS_OK;
}

static ns_status read_denormalizer(const reading *r, ns_proto in, ns_error *err)
{
    ns_proto_field f;
    for (int more = 1;;) {
        NS_TRY(ns_proto_next(&in, &f, &more, err), "%s", "");
        if (!more) break;
        NS_FAIL_IF(f.number == 2 && f.bytes.n, NS_ERR_UNSUPPORTED,
                   "%s: byte %zu: denormalizer_spec.precompiled_charsmap is not supported", r->where, f.at);
    }
    return NS_OK;
}

static ns_status read_model(reading *r, ns_error *err)
{
    ns_proto in = {.p = r->l->src->json, .n = r->l->src->json_n, .where = r->where};
    ns_proto_field f;
    for (int more = 1;;) {
        NS_TRY(ns_proto_next(&in, &f, &more, err), "%s", "");
        if (!more) break;
        if (f.number > 5) continue;
        NS_TRY(ns_proto_want(&in, &f, NS_WIRE_BYTES, "a part of the model", err), "%s", "");
        ns_proto inside = ns_proto_inside(&in, &f);
        if (f.number == 1) NS_TRY(read_piece(r, inside, f.at, err), "%s", "");
        if (f.number == 2) NS_TRY(read_trainer(r, inside, err), "trainer_spec");
        if (f.number == 3) NS_TRY(read_normalizer(r, inside, err), "normalizer_spec");
        if (f.number == 5) NS_TRY(read_denormalizer(r, inside, err), "%s", "");
        r->have_trainer += f.number == 2;
        r->have_normalizer += f.number == 3;
    }
    NS_FAIL_IF(
        !r->n || r->have_trainer != 1 || r->have_normalizer != 1, NS_ERR_INPUT,
        "%s: %zu pieces, %d trainer_spec, %d normalizer_spec, expected pieces and one of each: the file is cut short "
        "or no SentencePiece model",
        r->where, r->n, r->have_trainer, r->have_normalizer);
    static const char *const types[] = {"?", "unigram", "bpe", "word", "char"};
    NS_FAIL_IF(r->model_type != 1 && r->model_type != 2, NS_ERR_UNSUPPORTED,
               "%s: SentencePiece model type %llu (%s) is not supported (unigram and bpe are)", r->where,
               (unsigned long long)r->model_type, types[r->model_type <= 4 ? r->model_type : 0]);
    r->sp->unigram = r->model_type == 1;
    return NS_OK;
}

/* ---- pieces to tables ---- */
static int is_text(int kind)
{
    return kind == NS_SPM_NORMAL || kind == NS_SPM_USER || kind == NS_SPM_UNUSED;
}

/* The one character of a text, or -1. */
static int64_t single(ns_str s)
{
    size_t len;
    uint32_t c = ns_utf8_at((const uint8_t *)s.p, 0, &len);
    return len == s.n ? (int64_t)c : -1;
}

static ns_status check_piece(reading *r, size_t id, ns_error *err)
{
    const piece *x = &r->v[id];
    ns_spm *sp = r->sp;
    unsigned byte = 256;
    if (x->kind == NS_SPM_UNKNOWN) {
        NS_FAIL_IF(sp->unk >= 0, NS_ERR_INPUT,
                   "%s: byte %zu: piece %zu ('%.*s') is a second unknown piece (the first: %d)", r->where, x->at, id,
                   S(x->text), (int)sp->unk);
        sp->unk = (int32_t)id;
    }
    if (x->kind == NS_SPM_BYTE) {
        char want[8] = "", copy[8] = "";
        if (x->text.n == 6) memcpy(copy, x->text.p, 6);
        if (x->text.n == 6 && sscanf(copy, "<0x%2X>", &byte) != 1) byte = 256;
        if (byte < 256) snprintf(want, sizeof want, "<0x%02X>", byte);
        NS_FAIL_IF(byte > 255 || !ns_str_eq(x->text, want) || r->l->t->bpe.byte_id[byte] >= 0, NS_ERR_INPUT,
                   "%s: byte %zu: piece %zu ('%.*s') is no byte piece, expected <0x00> .. <0xFF>, each once", r->where,
                   x->at, id, S(x->text));
        NS_FAIL_IF(!sp->byte_fallback, NS_ERR_INPUT,
                   "%s: byte %zu: piece %zu is a byte piece, but byte_fallback is off", r->where, x->at, id);
        r->l->t->bpe.byte_id[byte] = (int32_t)id;
    }
    NS_FAIL_IF(!is_text(x->kind) && single(x->text) >= 0, NS_ERR_UNSUPPORTED,
               "%s: byte %zu: piece %zu ('%.*s') is a single character and no text", r->where, x->at, id, S(x->text));
    return NS_OK;
}

/* Adds the token and its row in the tables of kinds and scores. */
static ns_status add_piece(reading *r, size_t id, ns_error *err)
{
    const piece *x = &r->v[id];
    ns_tok *t = r->l->t;
    int32_t clash;
    NS_TRY(ns_bpe_add_token(&t->bpe, (int32_t)id, x->text.p, x->text.n,
                            is_text(x->kind) ? NS_BPE_MAPPED : NS_BPE_LITERAL, &clash, err),
           "%s", "");
    NS_FAIL_IF(clash >= 0, NS_ERR_INPUT, "%s: byte %zu: piece %zu ('%.*s') is piece %d already", r->where, x->at, id,
               S(x->text), (int)clash);
    r->sp->kind[id] = (uint8_t)x->kind;
    r->sp->score[id] = x->score;
    r->sp->has_unused |= x->kind == NS_SPM_UNUSED;
    if (is_text(x->kind)) return NS_OK;
    NS_TRY(ns_grow((void **)&t->literal, &t->literal_cap, t->n_literal + 1, sizeof *t->literal, "tok.vocab", err), "%s",
           "");
    t->literal[t->n_literal++] = (int32_t)id;
    if (x->kind != NS_SPM_CONTROL) return NS_OK;
    NS_FAIL_IF(t->added.n == 20000, NS_ERR_UNSUPPORTED, "%s: byte %zu: more than 20000 control pieces", r->where,
               x->at);
    ns_added a = {.id = (int32_t)id, .content = x->text, .special = 1, .unseen = 1};
    return ns_tok_add_token(r->l, &a, r->where, err);
}

/* Which characters occur in pieces without being one: they become virtual ids. */
static ns_status find_virtual(reading *r, ns_error *err)
{
    NS_TRY(ns_alloc((void **)&r->seen, 0x110000, "tok.spm", err), "%s", "");
    for (size_t id = 0; id < r->n; id++) {
        const piece *x = &r->v[id];
        if (!is_text(x->kind)) continue;
        int64_t c = single(x->text);
        if (c >= 0) r->seen[c] |= 2;
        for (size_t i = 0, len; i < x->text.n; i += len) r->seen[ns_utf8_at((const uint8_t *)x->text.p, i, &len)] |= 1;
    }
    for (size_t c = 0; c < 0x110000 && !r->sp->unigram; c++) r->sp->n_virtual += r->seen[c] == 1;
    return NS_OK;
}

static ns_status add_virtual(reading *r, ns_error *err)
{
    int32_t id = (int32_t)r->n, clash;
    for (uint32_t c = 0; c < 0x110000 && r->sp->n_virtual; c++) {
        uint8_t text[4];
        if (r->seen[c] != 1) continue;
        size_t len = ns_utf8_put(text, c);
        NS_TRY(ns_bpe_add_token(&r->l->t->bpe, id++, (const char *)text, len, NS_BPE_MAPPED, &clash, err), "%s", "");
        NS_ASSERT(clash < 0);
    }
    return NS_OK;
}

/* Calls for every cut of a text piece into two symbols; `add` 0: counts only. */
static ns_status each_merge(reading *r, const uint32_t *rank, int add, ns_error *err)
{
    ns_bpe *m = &r->l->t->bpe;
    ns_spm *sp = r->sp;
    r->n_merges = 0;
    for (size_t id = 0; id < r->n; id++) {
        const piece *x = &r->v[id];
        if (!is_text(x->kind)) continue;
        size_t len;
        ns_utf8_at((const uint8_t *)x->text.p, 0, &len);
        for (size_t i = len; i < x->text.n; i += len) {
            ns_utf8_at((const uint8_t *)x->text.p, i, &len);
            int32_t left = ns_bpe_find(m, x->text.p, i), right = ns_bpe_find(m, x->text.p + i, x->text.n - i);
            if (left < 0 || right < 0) continue;
            /* user-defined symbols are never joined with anything */
            if ((left < sp->n && sp->kind[left] == NS_SPM_USER) || (right < sp->n && sp->kind[right] == NS_SPM_USER))
                continue;
            r->n_merges++;
            if (!add) continue;
            r->l->crossing |= crosses_mark((ns_str){x->text.p, i}, (ns_str){x->text.p + i, x->text.n - i});
            ns_bpe_add_merge(m, rank[id], left, right, (int32_t)id);
            if (x->kind != NS_SPM_UNUSED) continue;
            NS_FAIL_IF(sp->part[id][0] >= 0, NS_ERR_UNSUPPORTED,
                       "%s: byte %zu: unused piece %zu ('%.*s') can be joined in two ways: not supported", r->where,
                       x->at, id, S(x->text));
            sp->part[id][0] = left;
            sp->part[id][1] = right;
        }
    }
    return NS_OK;
}

typedef struct scored {
    float score;
    uint32_t id;
} scored;
static int by_score(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

static ns_status make_merges(reading *r, ns_error *err)
{
    ns_spm *sp = r->sp;
    scored *order = NULL;
    uint32_t *rank = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_alloc((void **)&order, r->n * sizeof *order, "tok.spm", err), "%s", "");
    NS_CHECK(st, ns_alloc((void **)&rank, r->n * sizeof *rank, "tok.spm", err), "%s", "");
    for (size_t i = 0; i < r->n; i++) order[i] = (scored){r->v[i].score, (uint32_t)i};
    qsort(order, r->n, sizeof *order, by_score);
    for (size_t i = 0, k = 0; i < r->n; i++) {
        if (i && order[i].score != order[i - 1].score) k = i;
        rank[order[i].id] = (uint32_t)k;
    }
    if (sp->has_unused) {
        NS_CHECK(st, ns_alloc((void **)&sp->part, r->n * sizeof *sp->part, "tok.spm", err), "%s", "");
        for (size_t i = 0; i < r->n; i++) sp->part[i][0] = sp->part[i][1] = -1;
    }
    NS_CHECK(st, each_merge(r, rank, 0, err), "%s", "");
    NS_CHECK(st, ns_bpe_size_merges(&r->l->t->bpe, r->n_merges, err), "%s", "");
    NS_CHECK(st, each_merge(r, rank, 1, err), "%s", "");
done:
    ns_free(order);
    ns_free(rank);
    return st;
}

static ns_status make_tries(reading *r, ns_error *err)
{
    ns_spm *sp = r->sp;
    size_t user = 0, all = 0, n_user = 0;
    sp->min_score = INFINITY;
    sp->max_score = -INFINITY;
    for (size_t i = 0; i < r->n; i++) {
        const piece *x = &r->v[i];
        if (x->kind == NS_SPM_USER) {
            user += x->text.n;
            n_user++;
        }
        if (is_text(x->kind)) all += x->text.n;
        if (x->kind != NS_SPM_NORMAL) continue;
        if (x->score < sp->min_score) sp->min_score = x->score;
        if (x->score > sp->max_score) sp->max_score = x->score;
    }
    if (n_user) NS_TRY(ns_ptrie_init(&sp->user, user, err), "%s", "");
    if (sp->unigram) NS_TRY(ns_ptrie_init(&sp->pieces, all, err), "%s", "");
    NS_FAIL_IF(sp->unigram && sp->max_score == -INFINITY, NS_ERR_INPUT, "%s: a Unigram model without normal pieces",
               r->where);
    for (size_t i = 0; i < r->n; i++) {
        ns_str s = r->v[i].text;
        int kind = r->v[i].kind;
        if (kind == NS_SPM_USER) NS_TRY(ns_ptrie_add(&sp->user, s.p, s.n, (int32_t)i, err), "%s", "");
        if (sp->unigram && is_text(kind) && kind != NS_SPM_UNUSED)
            NS_TRY(ns_ptrie_add(&sp->pieces, s.p, s.n, (int32_t)i, err), "%s", "");
    }
    return NS_OK;
}

/* A control piece by name, or -1. */
static int32_t control(const reading *r, ns_str name)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->v[i].kind == NS_SPM_CONTROL && r->v[i].text.n == name.n && !memcmp(r->v[i].text.p, name.p, name.n))
            return (int32_t)i;
    return -1;
}

static ns_status make_tables(reading *r, ns_error *err)
{
    ns_tok *t = r->l->t;
    ns_spm *sp = r->sp;
    ns_bpe *m = &t->bpe;
    sp->n = (int32_t)r->n;
    for (int b = 0; b < 256; b++) m->byte_id[b] = -1;
    m->by_char = t->by_char = 1;
    t->general = 1;
    for (size_t i = 0; i < r->n; i++) NS_TRY(check_piece(r, i, err), "%s", "");
    NS_FAIL_IF(sp->unk < 0, NS_ERR_INPUT, "%s: no piece of type unknown", r->where);
    for (int b = 0; b < 256 && sp->byte_fallback; b++)
        NS_FAIL_IF(m->byte_id[b] < 0, NS_ERR_INPUT, "%s: byte_fallback is on, but the byte piece <0x%02X> is missing",
                   r->where, b);
    NS_TRY(find_virtual(r, err), "%s", "");
    NS_TRY(ns_bpe_init(m, r->n + (size_t)sp->n_virtual, 0, err), "%s", "");
    NS_TRY(ns_alloc((void **)&sp->kind, r->n, "tok.spm", err), "%s", "");
    NS_TRY(ns_alloc((void **)&sp->score, r->n * sizeof *sp->score, "tok.spm", err), "%s", "");
    for (size_t i = 0; i < r->n; i++) NS_TRY(add_piece(r, i, err), "%s", "");
    NS_TRY(add_virtual(r, err), "%s", "");
    if (!sp->unigram) NS_TRY(make_merges(r, err), "%s", "");
    NS_TRY(make_tries(r, err), "%s", "");
    m->unk = sp->unk;
    r->l->no_template = 1;
    r->l->file_bos = control(r, r->bos);
    r->l->file_eos = control(r, r->eos);
    return NS_OK;
}

ns_status ns_spm_read(loader *l, ns_error *err)
{
    reading r = {.l = l, .where = l->src->where, .bos = {"<s>", 3}, .eos = {"</s>", 4}, .model_type = 1};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_alloc((void **)&l->t->sp, sizeof *l->t->sp, "tok.spm", err), "%s", "");
    r.sp = l->t->sp;
    r.sp->unk = -1;
    r.sp->dummy_prefix = r.sp->remove_blanks = r.sp->escape_blanks = 1;
    r.sp->unk_surface = (ns_str){" \xe2\x81\x87 ", 5};
    NS_CHECK(st, read_model(&r, err), "%s", "");
    NS_CHECK(st, make_tables(&r, err), "%s", "");
done:
    ns_free(r.v);
    ns_free(r.seen);
    return st;
}
