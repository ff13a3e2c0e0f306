/* Grading, plain form: the answer in the last \boxed{} of a generation against expected_answer, as text after light
 * normalisation (blanks, `$`, thousands commas, a trailing period or `.0`). The full grader compares mathematics; this one only text. */
#ifndef NS_EVAL_GRADE_H
#define NS_EVAL_GRADE_H

#include "base/buf.h"

/* data.md §2.6. Returns 1 and the text between the braces, 0 if there is no complete last box. */
int ns_extract_boxed(ns_str *answer, ns_str text);
int ns_answers_equal(ns_str a, ns_str b);

#endif
