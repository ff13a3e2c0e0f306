/* What prepare holds, within ++memory: rows of a stage that needs all of them, and the keys that were seen.
 *
 *   ns_rows:  rows in, the same rows out in order of line.key.v[0] (equal ones as they came), or simply as they came.
 *             In memory while they fit; else runs of ordered rows in a nameless temporary file, merged at the end.
 *   ns_first: which keys were seen, numbered in order of first appearance. When its table may not grow, it is frozen: rows
 *             of keys that it does not know are put aside (nothing of an earlier number can come of them) and their turn
 *             comes at the end, with an empty table. So the result is the same for any ++memory.
 *
 *     ns_rows *r;
 *     NS_TRY(ns_rows_new(&r, run, "GroupSamples", 1, err), "rows");
 *     NS_TRY(ns_rows_add(r, &block, err), "rows");                  // takes the block's text over; any number of times
 *     NS_TRY(ns_rows_next(r, &out, err), "rows");                   // until out.n == 0
 *     ns_rows_free(&r);                                             // only now: lines may point into it              */
#ifndef NS_DATA_PREPARE_ROWS_H
#define NS_DATA_PREPARE_ROWS_H

#include "data/prepare_internal.h"

typedef struct ns_rows ns_rows;
NS_MUST_USE ns_status ns_rows_new(ns_rows **out, ns_prepare *p, const char *what, int sorted, ns_error *err);
NS_MUST_USE ns_status ns_rows_add(ns_rows *r, ns_block *b, ns_error *err);
NS_MUST_USE ns_status ns_rows_add_copy(ns_rows *r, const ns_line *l, ns_error *err);
NS_MUST_USE ns_status ns_rows_next(ns_rows *r, ns_block *out, ns_error *err);
size_t ns_rows_count(const ns_rows *r);
/* All are in memory: the first ns_rows_next gives them in one block, whose lines stay valid until ns_rows_free. */
int ns_rows_in_memory(const ns_rows *r);
void ns_rows_free(ns_rows **r);

typedef struct ns_first {
    ns_prepare *run;
    const char *what;
    ns_hash *slot;   /* {0,0} is free */
    int64_t *number; /* of the slot; NULL: not wanted */
    size_t cap, n, bytes;
    int numbered, frozen;
    int64_t next_number;
    ns_rows *now, *later;
} ns_first;
void ns_first_init(ns_first *f, ns_prepare *p, const char *what, int numbered);
void ns_first_free(ns_first *f);
typedef enum ns_seen { NS_SEEN_NEW, NS_SEEN_AGAIN, NS_SEEN_LATER } ns_seen;
/* Looks l->key up. NS_SEEN_LATER: a copy of the row was put aside. number (may be NULL): of the key. */
NS_MUST_USE ns_status ns_first_see(ns_first *f, const ns_line *l, ns_seen *seen, int64_t *number, ns_error *err);
/* The next block of rows that were put aside, to be asked about again. n = 0: none is left. */
NS_MUST_USE ns_status ns_first_rest(ns_first *f, ns_block *out, ns_error *err);

/* Python's random.shuffle of a stage's input and a selection of it. Zero-initialise, set the first fields. */
typedef struct ns_shuffler {
    int64_t seed, n_samples; /* n_samples -1: all */
    int do_shuffle, fair;    /* fair: round-robin over the groups */
    ns_rows *all, *by_turn, *ordered;
    int pulled;
    size_t n_in, n_kept;
} ns_shuffler;
/* All rows of the input are pulled by the first call. n = 0: the end. */
NS_MUST_USE ns_status ns_shuffler_next(ns_shuffler *f, ns_stage *s, ns_block *out, ns_error *err);
void ns_shuffler_free(ns_shuffler *f);

#endif
