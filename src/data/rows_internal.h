/* Inside of rows: how one parsed JSON row becomes ids. rows.c reads, detects and collects; rows_text.c does template
 * rows (input/output and alike), rows_chat.c does turns. Both are const after init and called from many threads. */
#ifndef NS_DATA_ROWS_INTERNAL_H
#define NS_DATA_ROWS_INTERNAL_H

#include "base/json.h"
#include "base/mem.h"
#include "data/rows.h"

/* One tokenised row, appended to by the two converters. */
typedef struct ns_row_out {
    ns_ids ids;    /* of many rows, one after another */
    uint8_t *mask; /* chat rows: as long as ids */
    size_t mask_cap;
    size_t row_begin;     /* chat rows: where the row in hand begins in ids */
    int32_t answer_start; /* of the row in hand */
    int truncated, empty; /* of the row in hand: cut; no answer text */
    unsigned notes;       /* of the row in hand: NS_CHAT_NOTE_* */
    ns_buf *text;         /* NULL, or where the text of a templated row goes, too */
    int64_t full;         /* of the row in hand: ids before truncation */
    int short_field;      /* the truncation field was shorter than its share */
    ns_ids *piece;        /* scratch, one per template piece */
    /* which part of the template or which role the ids of the row in hand belong to: span i ends at id end (of the row,
     * before a chat row is truncated) */
    struct ns_row_span {
        int part;
        int64_t end;
    } * span;
    size_t n_span, span_cap;
    int n_parts;
    ns_rows_part part[NS_ROWS_MAX_PARTS]; /* totals of all rows so far */
} ns_row_out;

/* The ids since the last call, up to `end` of the row in hand, are of part `name`. */
NS_MUST_USE ns_status ns_row_span_add(ns_row_out *out, ns_str name, int64_t end, ns_error *err);

/* ---- template rows ---- */
enum { NS_ROWS_MAX_PIECES = 32 };
typedef struct ns_rows_piece {
    ns_str key;      /* placeholder name; NULL p: literal text */
    ns_str text;     /* literal text, or blanks before the placeholder */
    int truncatable; /* key is one of truncation_field */
} ns_rows_piece;
typedef struct ns_rows_template {
    char *text; /* escape-decoded template, owned; pieces point into it */
    ns_rows_piece piece[NS_ROWS_MAX_PIECES];
    int n, n_fields; /* pieces; truncation fields named */
} ns_rows_template;

NS_MUST_USE ns_status ns_rows_template_init(ns_rows_template *t, const ns_rows_options *o, int space_sensitive,
                                            ns_error *err);
void ns_rows_template_free(ns_rows_template *t);
/* Is every placeholder a key of row? */
int ns_rows_template_fits(const ns_rows_template *t, const ns_json *row);
NS_MUST_USE ns_status ns_rows_text(ns_row_out *out, const ns_rows_template *t, const ns_rows_options *o,
                                   const ns_tok *tok, const ns_json *row, const char *where, ns_error *err);

/* ---- chat rows ---- */
enum {                            /* what a chat template did with a row */
       NS_CHAT_NOTE_CHANGED = 1,  /* a trained turn is written differently because others follow it */
       NS_CHAT_NOTE_THINK = 2,    /* the generation prompt opens a thought that the turn does not have */
       NS_CHAT_NOTE_STRADDLE = 4, /* a token would lie across the beginning of a trained turn */
       NS_CHAT_NOTE_SPECIAL = 8,  /* special tokens in what people wrote (allowed) */
       NS_CHAT_NOTE_NO_END = 16,  /* a trained turn has no end token (allowed) */
       NS_CHAT_N_NOTES = 5
};
typedef enum ns_chat_form {
    NS_CHAT_MESSAGES,          /* messages: role, content */
    NS_CHAT_SHAREGPT,          /* conversations: from, value; optional system and mask */
    NS_CHAT_ALPACA,            /* instruction, input, output */
    NS_CHAT_PROMPT_COMPLETION, /* prompt, completion: lists of messages; only the completion is trained */
} ns_chat_form;
typedef struct ns_chat_layout {
    const char *name; /* "llama3", "chatml", "alpaca" */
    const char *begin, *before_role, *after_role, *after_turn;
    int strip;         /* llama3: contents are stripped of white space, as its template does */
    const char *jinja; /* the same as a chat template; NULL: none */
} ns_chat_layout;
/* The layout whose special tokens the tokenizer has; NS_ERR_UNSUPPORTED names what is missing. alpaca rows always find
 * one: without chat tokens the "### Instruction:" headings are used. */
NS_MUST_USE ns_status ns_chat_layout_find(const ns_chat_layout **out, const ns_tok *tok, ns_chat_form form,
                                          ns_error *err);
NS_MUST_USE ns_status ns_rows_chat(ns_row_out *out, ns_chat_form form, const ns_chat_layout *layout,
                                   const ns_rows_options *o, const ns_tok *tok, const ns_json *row, ns_arena *a,
                                   const char *where, ns_error *err);
enum { NS_CHAT_N_FORMS = 4 };
extern const char *const ns_chat_form_name[NS_CHAT_N_FORMS];
/* The chat form of a row, or -1. `standard`: prompt_template is the default, so that instruction and output mean alpaca. */
int ns_chat_form_of(const ns_json *row, int standard);
int ns_rows_form(const ns_json *row, const ns_chat *c); /* the forced form, else the row's own; -1: no chat row */

/* Names the row's keys in buf: "question, answer". */
const char *ns_rows_keys(const ns_json *row, char *buf, size_t n);
const char *ns_json_type_text(const ns_json *v); /* "a number", "text", ... */

#endif
