/* Few-shot examples by retrieval: the rows of a file that are most like a question, by Okapi BM25 (data.md §3.3).
 *
 *     ns_retriever *r;
 *     NS_TRY(ns_retriever_open(&r, &o, err), "prompt");             reads o.file once
 *     NS_TRY(ns_retriever_examples(r, &list, &arena, row, "data.jsonl:1", err), "prompt");
 *     ns_retriever_free(&r);
 *
 * Scores: rank_bm25's BM25Okapi (k1 1.5, b 0.75, epsilon 0.25) term by term in its order of sums, so that they are the same
 * doubles; words are what single blanks divide. Const after open: any number of threads may ask. */
#ifndef NS_DATA_RETRIEVE_H
#define NS_DATA_RETRIEVE_H

#include "base/json.h"

typedef struct ns_retriever ns_retriever;

typedef struct ns_retriever_options {
    const char *file;  /* rows: .jsonl and what else ns_jsonl_open reads */
    const char *field; /* its text is compared, in the file and in the row that asks */
    int64_t entries;   /* the best so many; leading ones that equal the question are dropped, too long ones too */
    int64_t keep;      /* of the rest so many are shown, the best last */
    int64_t max_chars; /* characters of length_field must be fewer; < 0: no limit */
    const char *length_field; /* must be there in every retrieved row when max_chars is set */
    int shuffle;              /* shown in an order that depends on the question alone */
} ns_retriever_options;

/* Strings of o are copied. Err: NS_ERR_IO, NS_ERR_INPUT (file:line) for a row without the field, an empty file. */
NS_MUST_USE ns_status ns_retriever_open(ns_retriever **out, const ns_retriever_options *o, ns_error *err);
void ns_retriever_free(ns_retriever **r); /* says how many rows got fewer than `keep` examples, if any */
/* A list in arena `a` whose rows belong to r. Err: NS_ERR_INPUT for a row without the field. */
NS_MUST_USE ns_status ns_retriever_examples(const ns_retriever *r, const ns_json **out, ns_arena *a, const ns_json *row,
                                            const char *where, ns_error *err);

#endif
