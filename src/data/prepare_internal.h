/* Inside of prepare: rows travel between processors in blocks of serialised JSON objects, pulled from the end of the chain.
 *
 *   writer ──pull──▶ shuffle ──pull──▶ group ──pull──▶ filters ──pull──▶ reader
 *
 * A row is one line of JSON text (UTF-8 style) and where it came from. Groups are runs of lines with equal group number:
 * what the reference writes as a list. Per-row work runs on all threads over fixed tiles; everything that depends on the
 * order (deduplication, statistics, shuffling) is serial. */
#ifndef NS_DATA_PREPARE_INTERNAL_H
#define NS_DATA_PREPARE_INTERNAL_H

#include "base/config.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/threads.h"
#include "data/hash.h"

typedef struct ns_line {
    const char *p; /* JSON text of the row */
    size_t n;
    int64_t group; /* -1: none */
    int32_t file;  /* index in ns_prepare.files, -1 unknown */
    int32_t flag;  /* set by the row function: why it was dropped, or a mark */
    int64_t line;  /* in that file, from 1 */
    ns_hash key;   /* set by the row function */
} ns_line;

typedef struct ns_block {
    ns_buf text; /* owns what the lines point to, unless a stage keeps it */
    ns_line *line;
    size_t n, cap;
} ns_block;
void ns_block_free(ns_block *b);

/* ---- durable output file, possibly ASCII-styled ---- */
typedef struct ns_out_file {
    ns_file *f;
    char *path, *tmp; /* tmp NULL: standard output, a device or a pipe, written in place */
    int note;         /* among the names that a signal handler removes; -1: not */
} ns_out_file;
NS_MUST_USE ns_status ns_out_open(ns_out_file *o, const char *path, ns_error *err); /* creates folders */
NS_MUST_USE ns_status ns_out_commit(ns_out_file *o, ns_error *err);
void ns_out_abort(ns_out_file *o); /* the final name is untouched */

typedef struct ns_prepare {
    ns_config *config;
    ns_threads *pool;
    ns_arena arena;    /* names, parameters */
    const char **file; /* input files, for messages */
    size_t n_files, files_cap;
    /* ++memory: bytes for rows that are held and for keys that were seen, and what they use now (prepare_rows.h) */
    size_t memory, rows_bytes, table_bytes;
    const char *temp_dir;
    int spills;          /* said that rows go to disk */
    ns_out_file dropped; /* ++dropped_file: a line for every row that is left out; f NULL: not wanted */
    int64_t n_written;
    struct ns_tile *tiles;      /* of ns_block_map */
    const struct ns_fuse *fuse; /* NULL: every processor parses and writes rows by itself */
} ns_prepare;
/* "file:line" of a row, in buf. */
const char *ns_line_where(const ns_prepare *p, const ns_line *l, char *buf, size_t n);

/* Text of a block that is read or given at a time: enough for all threads, less with a small ++memory. */
size_t ns_prepare_block_bytes(const ns_prepare *p);

/* ---- per-row work on all threads ---- */
/* Reads `in`, appends the new row's text to `out` (nothing: the row is dropped), may set note->key and note->flag. Called
 * from many threads; the arena is reset between rows. */
typedef ns_status (*ns_row_fn)(void *arg, const ns_line *in, const char *where, ns_arena *a, ns_buf *out, ns_line *note,
                               ns_error *err);
enum { NS_MAP_KEEP_DROPPED = 1 }; /* rows without output stay, as empty lines with their flag */
/* out must be empty. Rows keep their order; of several failing rows the first is reported. */
NS_MUST_USE ns_status ns_block_map(ns_block *out, const ns_block *in, ns_prepare *p, int flags, ns_row_fn fn, void *arg,
                                   ns_error *err);
void ns_prepare_free_tiles(ns_prepare *p);
/* Parses a row; it must be an object. */
NS_MUST_USE ns_status ns_row_parse(ns_json **out, ns_arena *a, const ns_line *l, const char *where, ns_error *err);
/* row[key] as text; err names row, key and what was found. */
NS_MUST_USE ns_status ns_row_text(ns_str *out, const ns_json *row, const char *key, const char *where, ns_error *err);
/* Hash of any value; chains. */
NS_MUST_USE ns_status ns_json_hash(ns_hash *h, const ns_json *v, ns_error *err);
int ns_json_equal(const ns_json *a, const ns_json *b); /* objects in any key order, numbers by value */
NS_MUST_USE ns_status ns_json_from_node(ns_json **out, ns_arena *a, const ns_node *n, ns_error *err);

/* JSON text with every non-ASCII character escaped. */
NS_MUST_USE ns_status ns_json_to_ascii(ns_buf *out, const char *p, size_t n, ns_error *err);

/* ---- stages ---- */
typedef struct ns_stage ns_stage;
typedef struct ns_entry { /* one row in a filter */
    ns_json *row;
    ns_arena *arena;
    const char *where;
    int dropped, modified;
} ns_entry;

typedef struct ns_stage_class {
    const char *name;
    const char *const *params; /* names, NULL at the end */
    ns_status (*init)(ns_stage *s, ns_error *err);
    ns_status (*next)(ns_stage *s, ns_block *out, ns_error *err);      /* out->n = 0: the end */
    ns_status (*entry)(const ns_stage *s, ns_entry *e, ns_error *err); /* filters have this instead of next */
    void (*free)(ns_stage *s);
    /* what it counted, for the statistics */
    ns_status (*report)(const ns_stage *s, ns_json *o, ns_arena *a, ns_error *err);
    int needs_no_input;
} ns_stage_class;

struct ns_stage {
    const ns_stage_class *cls;
    ns_prepare *run;
    const char *path; /* "processors.1.processor_configs.0" */
    ns_stage *input;
    const char *input_manifest, *output_manifest; /* NULL: none */
    ns_out_file manifest;                         /* copy of what passes, for output_manifest of inner stages */
    int64_t manifest_group;                       /* whose list is open there; -1: none */
    int manifest_done;
    void *state;      /* of the class */
    const char *skip; /* filter switched itself off: the input that is missing (a warning was given) */
    int64_t n_removed, n_modified;
    int64_t n_seen, n_rows; /* rows that came and that were passed on */
    size_t fuse_at;         /* number of its first filter among all that are fused */
};

extern const ns_stage_class ns_stage_read, ns_stage_manifest, ns_stage_merge, ns_stage_group, ns_stage_code_text,
    ns_stage_shuffle, ns_stage_write_sft, ns_stage_write_rl;
extern const ns_stage_class *const ns_filter_classes[]; /* NULL at the end */

/* New stage from the configuration node at path: checks parameter names, runs init and test_cases. */
NS_MUST_USE ns_status ns_stage_new(ns_stage **out, ns_prepare *p, const char *path, ns_error *err);
void ns_stage_free(ns_stage **s);
/* Pulls the next block: from the class, or filters applied to the input. */
NS_MUST_USE ns_status ns_stage_next(ns_stage *s, ns_block *out, ns_error *err);
/* Notes in ++dropped_file that this stage left the row out, and why. */
NS_MUST_USE ns_status ns_stage_drops(const ns_stage *s, const ns_line *l, const char *why, ns_error *err);
/* Applies filters[0..n) to every row of the input (the merged stage, or one filter alone). */
NS_MUST_USE ns_status ns_filters_next(ns_stage *s, ns_stage *const *filters, size_t n, ns_block *out, ns_error *err);

/* What single processors do with a row (prepare_fuse.h). */
ns_stage *const *ns_merge_filters(const ns_stage *s, size_t *n);
NS_MUST_USE ns_status ns_group_key(const ns_stage *s, const ns_json *row, const char *where, ns_hash *key,
                                   ns_error *err);
NS_MUST_USE ns_status ns_code_mark(const ns_stage *s, const ns_json *row, const char *where, int32_t *is_code,
                                   ns_error *err);
NS_MUST_USE ns_status ns_writer_record(const ns_stage *s, const ns_json *row, const char *where, ns_arena *a,
                                       ns_buf *out, ns_hash *key, ns_error *err);
int ns_writer_is_short(const ns_stage *s); /* records are not much longer than rows */

/* Parameters, resolved. Missing or null: *out = def / NULL. */
NS_MUST_USE ns_status ns_param(const ns_stage *s, const char *key, const ns_node **out, ns_error *err);
NS_MUST_USE ns_status ns_param_str(const ns_stage *s, const char *key, const char *def, const char **out,
                                   ns_error *err);
NS_MUST_USE ns_status ns_param_num(const ns_stage *s, const char *key, double def, double *out, ns_error *err);
NS_MUST_USE ns_status ns_param_int(const ns_stage *s, const char *key, int64_t def, int64_t *out, ns_error *err);
NS_MUST_USE ns_status ns_param_bool(const ns_stage *s, const char *key, int def, int *out, ns_error *err);
int ns_node_truthy(const ns_node *n); /* Python truth value; NULL is false */

#endif
