/* Pre-tokenizer steps in general: each cuts every piece of the one before, or changes its text. (The common steps of
 * byte-level tokenizers run without this, in tok.c.)
 *     ns_pieces a = {.p = text, .n = n, .at = offset of the text in its source}, b = {0};
 *     NS_TRY(ns_pieces_start(&a, err), "...");                       // one piece: all of it
 *     NS_TRY(ns_pre_step_run(step, &work, &a, &b, err), "...");      // a changes; b is scratch */
#ifndef NS_TOK_PRETOK_H
#define NS_TOK_PRETOK_H

#include "tok/regex.h"
#include "tok/split.h"

typedef enum ns_pre_kind {
    NS_PRE_SPLIT,     /* cut at matches of fn, re, literal or number characters */
    NS_PRE_METASPACE, /* blanks to `literal`, one in front by `scheme`, perhaps cut before each */
    NS_PRE_SPACE      /* a blank in front of a piece that has none (ByteLevel's add_prefix_space) */
} ns_pre_kind;
typedef enum ns_behavior {
    NS_CUT_ISOLATED,
    NS_CUT_REMOVED,
    NS_CUT_MERGED_WITH_PREVIOUS,
    NS_CUT_MERGED_WITH_NEXT,
    NS_CUT_CONTIGUOUS
} ns_behavior;
typedef enum ns_scheme { NS_SCHEME_ALWAYS, NS_SCHEME_FIRST, NS_SCHEME_NEVER } ns_scheme;

typedef struct ns_pre_step {
    ns_pre_kind kind;
    ns_split_fn fn; /* the matches cover all of the text */
    ns_regex *re;
    ns_str literal; /* SPLIT: what is looked for; METASPACE: the mark */
    int numbers;    /* SPLIT: every number character is a match */
    ns_behavior behavior;
    int invert;
    ns_scheme scheme;
    int split;
} ns_pre_step;

typedef struct ns_pieces {
    const uint8_t *p;
    size_t n, at;      /* at: where in the source p[0] comes from */
    const ns_span *al; /* for each byte its source; NULL: byte i is source byte at + i */
    ns_span *piece;    /* in p; not empty, in order */
    size_t n_pieces, cap;
    ns_buf text; /* p and al, when a step has changed the text */
    ns_spans map;
    int tracked; /* keep al when text changes */
} ns_pieces;
typedef struct ns_pre_work {
    ns_regex_work regex[16]; /* by step */
    struct ns_cut *cut;
    size_t n_cut, cut_cap;
} ns_pre_work;

enum { NS_PRE_MAX = 16 };

/* SentencePiece style: a run of U+2581 and what follows up to the next. A tokenizer none of whose merges joins something with a
 * U+2581 behind it may be cut there without a change of ids: merging never crosses the cut, and on its two sides it is
 * independent. Such words are short, and known after the first time. */
size_t ns_split_marks(const uint8_t *p, size_t n, size_t i);

NS_MUST_USE ns_status ns_pieces_start(ns_pieces *a, ns_error *err);
/* i: which step it is (its regex scratch). */
NS_MUST_USE ns_status ns_pre_step_run(const ns_pre_step *x, int i, ns_pre_work *w, ns_pieces *a, ns_pieces *b,
                                      ns_error *err);
void ns_pieces_free(ns_pieces *a);
void ns_pre_work_free(ns_pre_work *w);

#endif
