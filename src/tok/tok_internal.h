/* The tokenizer object, shared by tok.c (use) and tok_load.c (construction from tokenizer.json). */
#ifndef NS_TOK_TOK_INTERNAL_H
#define NS_TOK_TOK_INTERNAL_H

#include "base/json.h"
#include "base/mem.h"
#include "tok/added.h"
#include "tok/bpe.h"
#include "tok/decode.h"
#include "tok/norm.h"
#include "tok/words.h"
#include "tok/pretok.h"
#include "tok/split.h"
#include "tok/spm.h"
#include "tok/tok.h"

enum { NS_TOK_MAX_STAGES = 8 };

struct ns_tok {
    ns_arena arena; /* added-token texts */
    ns_bpe bpe;
    ns_added_set added;
    int32_t *literal; /* vocabulary ids whose text is outside the byte alphabet */
    size_t n_literal, literal_cap;
    ns_norm norm;
    ns_dec dec;
    ns_spm *sp;      /* NULL unless the file is a SentencePiece model; then norm, pre and dec are not used */
    int marks_apart; /* no merge crosses a place before U+2581: text may be cut there (ns_split_marks) */
    int by_char;     /* vocabulary in plain UTF-8 (SentencePiece style), not in the byte alphabet */
    /* Pre-tokenizer, in general (gap.c): run if `general`, and whenever spans are asked for. */
    ns_pre_step pre[NS_PRE_MAX];
    int n_pre, general, track; /* track: a step needs to know where text came from */
    /* The same in the common case: each stage cuts every piece of the one before. NULL = put a blank before a piece
     * without one. */
    ns_split_fn stage[NS_TOK_MAX_STAGES];
    int n_stages, byte_level;
    ns_ids prefix, suffix; /* post-processor template around the text */
    int32_t bos, eos;
    int64_t n_ids;
    uint32_t serial; /* of words remembered (words.h); 0: none are */
    /* SentencePiece style: texts may go the short way as they are, with their blanks, unless a guard is in them: an added
     * token that is looked for in normalised text. */
    int blank_words, blank_prefix;
    uint64_t blank_joins[256 * 4];
    ns_str guard[8];
    size_t n_guards;
    int space_sensitive;
};

/* ---- gap.c: text between added tokens, in general ---- */
typedef struct ns_gap_work {
    ns_bpe_work bpe;
    ns_pre_work pre;
    ns_pieces a, b;
    ns_buf norm;
    ns_spans map, tmp;
    ns_ids ids;
    struct ns_spm_best *best;
    size_t best_cap;
} ns_gap_work;
/* Appends the ids of p[0..n), and to spans (if not NULL) where each came from; p[0] is byte `at` of the whole text. */
NS_MUST_USE ns_status ns_gap_encode(const ns_tok *t, ns_gap_work *w, ns_ids *out, ns_spans *spans, const uint8_t *p,
                                    size_t n, size_t at, int no_special, ns_error *err);
/* The same for a SentencePiece model (spm.c). */
NS_MUST_USE ns_status ns_spm_encode(const ns_tok *t, ns_gap_work *w, ns_ids *out, ns_spans *spans, const uint8_t *p,
                                    size_t n, size_t at, ns_error *err);
/* Bytes at p that a result `id` of ns_bpe_encode stands for: its text, or what has no token (a byte token, or unk). */
size_t ns_bpe_length(const ns_bpe *m, int32_t id, const uint8_t *p, size_t n);
ns_span ns_pieces_source(const ns_pieces *q, size_t i, size_t j); /* source of bytes i..j, i < j */
void ns_gap_work_free(ns_gap_work *w);

/* Builds a tokenizer from its main file (`json`: tokenizer.json, SentencePiece model, tiktoken ranks or tekken.json, told
 * apart by the first bytes) and, optionally, from the texts of tokenizer_config.json and special_tokens_map.json (NULL:
 * absent). family: of a tiktoken file, or NULL. `where` and friends are the names used in messages. */
typedef struct ns_tok_source {
    const char *json, *config, *map;
    size_t json_n, config_n, map_n;
    const char *where, *config_where, *map_where, *family;
} ns_tok_source;
NS_MUST_USE ns_status ns_tok_build(ns_tok **out, const ns_tok_source *src, ns_error *err);
/* Bytes behind a byte-alphabet string ("Ġthe" -> " the") appended to out; *mapped 0 if a character is outside of it. */
NS_MUST_USE ns_status ns_tok_unmap(ns_buf *out, ns_str s, int *mapped, ns_error *err);

#endif
