/* What SFT training will see of a row file: counts and findings, rows token by token, a JSON object, a self-contained page.
 *
 *     ns_examples ex;                                       // from ns_rows_load: the very rows that training uses
 *     ns_inspect in;
 *     NS_TRY(ns_inspect_rows(&in, &ex, tok, path, &options, err), "inspect");
 *     NS_TRY(ns_inspect_text(&out, &in, err), "inspect");   // appends
 *                                                           // owns nothing: ex, tok and path must outlive it
 * Row numbers of this interface count from 0; what is printed are line numbers, from 1 (every line is a row). */
#ifndef NS_DATA_INSPECT_H
#define NS_DATA_INSPECT_H

#include <stdint.h>

#include "base/buf.h"
#include "data/rows.h"
#include "tok/tok.h"

enum { NS_INSPECT_FIRST = 5, NS_INSPECT_BARS = 12, NS_INSPECT_TOP = 5 };

/* Findings: rows of one kind. */
typedef enum ns_inspect_kind {
    NS_INSPECT_TRUNCATED,
    NS_INSPECT_SHORT_FIELD,
    NS_INSPECT_ALL_MASKED,
    NS_INSPECT_EMPTY,
    NS_INSPECT_DUPLICATE,
    NS_INSPECT_DOUBLE_BOS,
    NS_INSPECT_NO_END, /* the last trained token neither ends the text nor the turn */
    NS_INSPECT_KINDS
} ns_inspect_kind;

typedef struct ns_inspect_rows_found {
    int64_t n, first[NS_INSPECT_FIRST]; /* rows */
} ns_inspect_rows_found;

typedef struct ns_inspect {
    const ns_examples *ex;
    const ns_tok *tok;
    const char *path;
    int64_t max_seq_length;
    int64_t tokens, shortest, longest; /* rows; -1 in an empty set */
    double mean;                       /* tokens a row */
    ns_inspect_rows_found found[NS_INSPECT_KINDS];
    int64_t bar_width, n_bars, bar[NS_INSPECT_BARS]; /* bar i: rows of i*width .. (i+1)*width - 1 tokens */
    int n_top;
    ns_inspect_rows_found top[NS_INSPECT_TOP]; /* most repeated rows; n counts the first one too */
} ns_inspect;

NS_MUST_USE ns_status ns_inspect_rows(ns_inspect *out, const ns_examples *ex, const ns_tok *tok, const char *path,
                                      const ns_rows_options *o, ns_error *err);

/* Is id q of the row a target? The rule of pack/batch.c. */
int ns_inspect_is_trained(const ns_examples *ex, int64_t row, int64_t q);

NS_MUST_USE ns_status ns_inspect_text(ns_buf *out, const ns_inspect *in, ns_error *err);
/* One token a line: position, id, text. Trained tokens are green and the others dim with `colour`; without it trained
 * stretches stand in brackets. */
NS_MUST_USE ns_status ns_inspect_tokens(ns_buf *out, const ns_inspect *in, int64_t row, int colour, ns_error *err);
/* The row as running text, one line. */
NS_MUST_USE ns_status ns_inspect_line(ns_buf *out, const ns_inspect *in, int64_t row, int colour, ns_error *err);
/* One object; the rows from..to-1 token by token under "shown" (none if from == to). */
NS_MUST_USE ns_status ns_inspect_json(ns_buf *out, const ns_inspect *in, int64_t from, int64_t to, ns_error *err);
/* A page without outside resources: the summary and the rows from..to-1. */
NS_MUST_USE ns_status ns_inspect_html(ns_buf *out, const ns_inspect *in, int64_t from, int64_t to, ns_error *err);

/* For the writers: title and JSON key of a kind. */
const char *ns_inspect_title(ns_inspect_kind k);
const char *ns_inspect_key(ns_inspect_kind k);
/* The end (exclusive) of the stretch of equal trained flags that begins at q; its decoded bytes go to `text`, cleared first. */
NS_MUST_USE ns_status ns_inspect_stretch(ns_buf *text, int64_t *end, const ns_inspect *in, int64_t row, int64_t q,
                                         ns_error *err);

#endif
