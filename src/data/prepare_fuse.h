/* Per-row work of several processors done at once, when a row is read: it is parsed once and written once.
 *
 *   reader ─▶ filters ─▶ key of the group, code or text ─▶ record        what a row alone decides, on all threads
 *
 * What came out is noted in front of the row's text. The processors, pulled as always, only read their part of the note
 * (count, drop, order), so that nothing else changes: an error of a row is kept in place of its text, and raised by its
 * processor if the row ever gets there. Used when the plan is a reader, filters, then GroupSamples, CodeTextFilter, a shuffle,
 * and a writer, and no processor in between writes a file. */
#ifndef NS_DATA_PREPARE_FUSE_H
#define NS_DATA_PREPARE_FUSE_H

#include "data/prepare_internal.h"

typedef struct ns_fuse {
    ns_stage *filter[64]; /* in order, of all filter processors */
    size_t n_filters;
    ns_stage *group, *code, *writer; /* group, code may be NULL */
    int render;                      /* records are made at once; not when they are much longer than rows */
} ns_fuse;

typedef struct ns_note {
    ns_hash group, record; /* keys */
    uint64_t modified;     /* bits of filters */
    int32_t dropped_by;    /* 1 + number of the filter; 0: none */
    int32_t failed;        /* 1 + number of the filter, or one of these; the text is an ns_error then */
    int32_t code, unused;
} ns_note;
enum { NS_FUSE_GROUP = 1000, NS_FUSE_CODE, NS_FUSE_RECORD };

/* NULL: this plan cannot be fused. */
NS_MUST_USE ns_status ns_fuse_plan(const ns_fuse **out, ns_prepare *p, ns_stage *const *stage, size_t n, ns_error *err);
/* Appends note and text of a row that was read. */
NS_MUST_USE ns_status ns_fuse_row(const ns_fuse *f, ns_json *row, const char *where, ns_arena *a, ns_buf *out,
                                  ns_error *err);
ns_note ns_fuse_note(const ns_line *l);
/* The line without its note. */
ns_line ns_fuse_strip(const ns_line *l);
/* The error that was kept. */
ns_status ns_fuse_raise(const ns_line *l, ns_error *err);

#endif
