/* See prepare_fuse.h. */
#include "data/prepare_fuse.h"

#include <string.h>

/* ---- which plans ---- */
static int add_filters(ns_fuse *f, ns_stage *s)
{
    size_t n = 1;
    ns_stage *const *list = s->cls == &ns_stage_merge ? ns_merge_filters(s, &n) : &s;
    if (f->n_filters + n > sizeof f->filter / sizeof *f->filter) return 0;
    s->fuse_at = f->n_filters;
    for (size_t i = 0; i < n; i++) f->filter[f->n_filters++] = list[i];
    return 1;
}

static int fits(ns_fuse *f, ns_stage *const *stage, size_t n)
{
    size_t i = 1;
    if (n < 2 || stage[0]->cls != &ns_stage_read) return 0;
    for (size_t k = 0; k + 1 < n; k++)
        if (stage[k]->output_manifest || (k && stage[k]->input != stage[k - 1])) return 0;
    for (; i < n && (stage[i]->cls->entry || stage[i]->cls == &ns_stage_merge); i++)
        if (!add_filters(f, stage[i])) return 0;
    for (; i + 1 < n; i++) {
        ns_stage **at = stage[i]->cls == &ns_stage_group       ? &f->group
                        : stage[i]->cls == &ns_stage_code_text ? &f->code
                                                               : NULL;
        if (at ? *at != NULL : stage[i]->cls != &ns_stage_shuffle) return 0;
        if (at) *at = stage[i];
    }
    if (i >= n || stage[i]->input != stage[i - 1]) return 0;
    f->writer = stage[i];
    return f->writer->cls == &ns_stage_write_sft || f->writer->cls == &ns_stage_write_rl;
}

ns_status ns_fuse_plan(const ns_fuse **out, ns_prepare *p, ns_stage *const *stage, size_t n, ns_error *err)
{
    ns_fuse *f = ns_arena_alloc(&p->arena, sizeof *f, err);
    *out = NULL;
    if (!f) return NS_ERR_MEMORY;
    if (!fits(f, stage, n)) return NS_OK;
    f->render = ns_writer_is_short(f->writer);
    *out = f;
    return NS_OK;
}

/* ---- rows ---- */
static ns_status filter(const ns_fuse *f, ns_entry *e, ns_note *note, ns_error *err)
{
    for (size_t i = 0; i < f->n_filters; i++) {
        const ns_stage *s = f->filter[i];
        if (s->skip) continue;
        e->modified = 0;
        note->failed = (int32_t)i + 1;
        NS_TRY(s->cls->entry(s, e, err), "%s", s->cls->name);
        note->modified |= (uint64_t)(e->modified != 0) << i;
        if (!e->dropped) continue;
        note->dropped_by = (int32_t)i + 1;
        break;
    }
    note->failed = 0;
    return NS_OK;
}

static ns_status all_steps(const ns_fuse *f, ns_entry *e, ns_note *note, ns_buf *out, ns_error *err)
{
    NS_TRY(filter(f, e, note, err), "%s", "filter");
    if (note->dropped_by) return NS_OK;
    note->failed = NS_FUSE_GROUP;
    if (f->group) NS_TRY(ns_group_key(f->group, e->row, e->where, &note->group, err), "GroupSamples");
    note->failed = NS_FUSE_CODE;
    if (f->code) NS_TRY(ns_code_mark(f->code, e->row, e->where, &note->code, err), "CodeTextFilter");
    note->failed = NS_FUSE_RECORD;
    if (f->render)
        NS_TRY(ns_writer_record(f->writer, e->row, e->where, e->arena, out, &note->record, err), "writer");
    else
        NS_TRY(ns_json_write(out, e->row, NS_JSON_UTF8, err), "%s", e->where);
    note->failed = 0;
    return NS_OK;
}

ns_status ns_fuse_row(const ns_fuse *f, ns_json *row, const char *where, ns_arena *a, ns_buf *out, ns_error *err)
{
    ns_note note;
    ns_entry e = {.row = row, .arena = a, .where = where};
    size_t begin = out->len;
    memset(&note, 0, sizeof note);
    NS_TRY(ns_buf_add(out, &note, sizeof note, err), "%s", where);
    ns_status st = all_steps(f, &e, &note, out, err);
    if (st == NS_ERR_MEMORY) return st;
    if (st != NS_OK) {
        ns_error kept = *err;
        *err = (ns_error)NS_ERROR_INIT;
        out->len = begin + sizeof note;
        NS_TRY(ns_buf_add(out, &kept, sizeof kept, err), "%s", where);
    }
    memcpy(out->data + begin, &note, sizeof note);
    return NS_OK;
}

ns_note ns_fuse_note(const ns_line *l)
{
    ns_note note;
    memcpy(&note, l->p, sizeof note);
    return note;
}

ns_line ns_fuse_strip(const ns_line *l)
{
    ns_line s = *l;
    s.p += sizeof(ns_note);
    s.n -= sizeof(ns_note);
    return s;
}

ns_status ns_fuse_raise(const ns_line *l, ns_error *err)
{
    ns_error kept;
    memcpy(&kept, l->p + sizeof(ns_note), sizeof kept);
    if (err && err->code == NS_OK) *err = kept;
    return kept.code;
}
