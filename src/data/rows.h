/* SFT rows: JSONL in any usual form -> ns_examples, which pack/ turns into micro-batches.
 * Forms, detected and named in the log (chat forms may be mixed, and are counted): input/output, prompt/completion, alpaca (instruction, input,
 * output), sharegpt (conversations: from/value), messages (role/content). Rules: data.md §4.3-4.4. */
#ifndef NS_DATA_ROWS_H
#define NS_DATA_ROWS_H

#include <stdint.h>

#include "base/error.h"
#include "base/file.h"
#include "base/threads.h"
#include "data/chat.h"
#include "tok/tok.h"

enum { /* of one row */
       NS_ROW_TRUNCATED = 1,
       NS_ROW_EMPTY = 2,       /* no answer text */
       NS_ROW_SHORT_FIELD = 4, /* truncated, and the truncation field was not long enough */
       NS_ROW_DOUBLE_BOS = 8   /* begins with two BOS tokens */
};

enum { NS_ROWS_MAX_PARTS = 40 };
typedef struct ns_rows_part { /* tokens of one field of the template, or of one role, over all rows */
    char name[40];
    int64_t tokens, trained;
} ns_rows_part;

typedef struct ns_examples { /* tokenised data set, in file order */
    int64_t n;               /* rows */
    int64_t *start;          /* [n+1] offsets into ids */
    int32_t *len;            /* NULL, or [n] ids of a row, where rows do not follow each other (pack files) */
    int32_t *targets;        /* NULL, or [n] trained tokens of a row */
    ns_map map[2];           /* of files that hold ids and mask (packs, ns_rows_options.spool): these are not written */
    int32_t *ids;
    int32_t *answer_start; /* [n] index in the row's ids */
    uint8_t *mask;     /* NULL, or [start[n]] explicit target mask for ids (chat rows): mask[i]=1: id i is a target */
    int64_t n_targets; /* trained tokens over the whole set */
    int64_t n_truncated, n_all_masked, n_duplicate, n_empty, n_double_bos;
    int64_t n_dropped; /* too long, with NS_LONG_DROP: not among the n rows */
    struct ns_row_dropped {
        int64_t line, full; /* line of the file, from 1; ids */
    } * dropped;            /* [n_dropped] */
    int64_t *line;          /* [n] lines of the file, from 1; NULL: row i is line i + 1. See ns_examples_line */
    int32_t *full;          /* [n] ids before truncation */
    uint8_t *flags;         /* [n] NS_ROW_* */
    int64_t *same_as;       /* [n] first row with the same ids and mask; its own number if it is the first */
    int n_parts;
    ns_rows_part part[NS_ROWS_MAX_PARTS]; /* in order of appearance; their tokens add up to all tokens */
    int64_t longest;                      /* tokens (ids) of the longest row after truncation */
    /* detected row format: "input/output", "prompt/completion", "alpaca", "sharegpt", "messages"; of several: with counts */
    char format[96];
    char layout[256]; /* chat rows: the template's file, or the name of the shipped layout */
    char hash[17];
    int64_t n_ids; /* of all rows */
} ns_examples;
void ns_examples_free(ns_examples *ex);

static inline int64_t ns_examples_line(const ns_examples *ex, int64_t row)
{
    return ex->line ? ex->line[row] : row + 1;
}

static inline int64_t ns_examples_len(const ns_examples *ex, int64_t row) /* ids */
{
    return ex->len ? ex->len[row] : ex->start[row + 1] - ex->start[row];
}

/* What happens to a row of more than max_seq_length ids. */
typedef enum ns_rows_long {
    NS_LONG_RIGHT, /* the truncation field loses its end, then the row (documented) */
    NS_LONG_LEFT,  /* their beginning (documented) */
    NS_LONG_DROP,  /* the row is left out, counted and listed */
    NS_LONG_ERROR  /* the first such row is an error */
} ns_rows_long;
/* "right", "left", "drop", "error" */
int ns_rows_long_parse(ns_rows_long *out, const char *name);

typedef struct ns_rows_options {
    const char *prompt_template;  /* "{input}{output}" */
    const char *label_key;        /* "output" */
    const char *truncation_field; /* "input" */
    ns_rows_long too_long;        /* truncation_method */
    int64_t max_seq_length;       /* 4096 */
    int add_bos, add_eos, add_sep;
    int32_t sep_id, eos_id, bos_id;
    const char *spool;   /* NULL, or a folder: ids and mask are kept there in files without a name, not in memory */
    const ns_chat *chat; /* chat template and what is trained; NULL: shipped layouts, all assistant turns */
} ns_rows_options;
#define NS_ROWS_OPTIONS_DEFAULT                                                                   \
    {                                                                                             \
        "{input}{output}", "output", "input", NS_LONG_RIGHT, 4096, 0, 0, 0, 0, -1, -1, NULL, NULL \
    }

NS_MUST_USE ns_status ns_rows_load(ns_examples *out, const char *path, const ns_tok *tok, const ns_rows_options *o,
                                   ns_threads *pool, ns_error *err);

#endif
