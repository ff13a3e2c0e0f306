/* Arithmetic in solutions: finding expressions, checking them, spelling them out step by step (data.md §2.7).
 *
 *     1 + 2 + 3 + 4 = 10   ──split──▶   1 + 2 + 3 + 4 = 3 + 3 + 4 = 6 + 4 = 10
 *
 * An expression that cannot be evaluated is left alone: that is never an error. Thread-safe. */
#ifndef NS_DATA_ARITHMETIC_H
#define NS_DATA_ARITHMETIC_H

#include <stdint.h>

#include "base/buf.h"

/* *wrong = 1 if some expression's left side differs from its right side by more than the relative tolerance. */
NS_MUST_USE ns_status ns_arithmetic_check(int *wrong, ns_str text, double tolerance, ns_error *err);
/* Appends the text with correct one-step expressions spelled out. */
NS_MUST_USE ns_status ns_arithmetic_split(ns_buf *out, ns_str text, ns_error *err);

/* ---- parts, for tests ---- */
typedef struct ns_expressions { /* iterates over the expressions of a text; zero it, set text and n_text */
    const uint32_t *text;       /* code points */
    size_t n_text, i, start;    /* start: of the expression, in code points */
    uint32_t *cur;              /* buffer of at least n_text */
    size_t n_cur, n_expr;       /* n_expr: length without trailing white space */
    int finished;
} ns_expressions;
int ns_expressions_next(ns_expressions *it); /* 1: cur[0..n_expr) at start */
/* All stages of solving `expression`, each followed by a newline byte 0x01; *solved = 0 when it cannot be evaluated. */
NS_MUST_USE ns_status ns_arithmetic_solve(ns_buf *stages, ns_str expression, int *solved, ns_error *err);
/* The stages joined by " = ". */
NS_MUST_USE ns_status ns_arithmetic_merge(ns_buf *out, ns_str stages, ns_error *err);

#endif
