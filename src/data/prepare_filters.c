/* Filters: one row in, the same row, a changed row or nothing out (data.md §2.5-2.6), and MergeProcessor, which applies
 * several in one pass and stops at the first that drops the row. Every filter is const after init. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/hub/hub.h"
#include "data/arithmetic.h"
#include "data/prepare_fuse.h"
#include "tok/tok.h"

enum { CHUNK = 250000 };

/* Most filters look at one text field. */
typedef struct text_filter {
    const char *key;
    const char **pattern; /* DropIfRegex(Not)Match: literal texts */
    size_t n_patterns;
    double tolerance;
} text_filter;

static ns_status init_text(ns_stage *s, const char *param, const char *def, ns_error *err)
{
    NS_TRY(ns_alloc(&s->state, sizeof(text_filter), "prepare.filter", err), "filter");
    text_filter *f = s->state;
    return ns_param_str(s, param, def, &f->key, err);
}

static ns_status init_solution(ns_stage *s, ns_error *err)
{
    return init_text(s, "solution_key", "generation", err);
}

static void free_state(ns_stage *s)
{
    ns_free(s->state);
}

static ns_status set_text(ns_entry *e, const char *key, const char *p, size_t n, ns_error *err)
{
    char *copy = ns_arena_strndup(e->arena, p, n, err);
    NS_FAIL_IF(!copy, NS_ERR_MEMORY, "%s", e->where);
    ns_json v = {.type = NS_JSON_STRING, .s = {copy, n}};
    return ns_json_set(e->row, e->arena, key, &v, err);
}

/* ---- boxes ---- */
static const char *const solution_params[] = {"solution_key", NULL};

static ns_status drop_multi_boxed(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const text_filter *f = s->state;
    ns_str t;
    int n = 0;
    NS_TRY(ns_row_text(&t, e->row, f->key, e->where, err), "DropMultiBoxed");
    for (const char *p = t.p, *end = t.p + t.n; n < 2;) {
        const char *hit = memmem(p, (size_t)(end - p), "\\boxed{", 7);
        const char *close = hit ? memchr(hit + 7, '}', (size_t)(end - hit) - 7) : NULL;
        if (!close) break;
        n++;
        p = close + 1;
    }
    e->dropped = n > 1;
    return NS_OK;
}

/* Text of the last \boxed{...}: 1 when there is one with balanced braces. */
static int last_box(ns_str *answer, ns_str t)
{
    const char *last = NULL;
    for (const char *p = t.p, *end = t.p + t.n;;) {
        const char *hit = memmem(p, (size_t)(end - p), "\\boxed", 6);
        if (!hit) break;
        last = hit;
        p = hit + 6;
    }
    if (!last) return 0;
    int open = 0;
    for (const char *p = last; p < t.p + t.n; p++) {
        if (*p == '{') open++;
        if (*p == '}' && --open == 0) {
            if (last[6] != '{') return 0;
            *answer = (ns_str){last + 7, (size_t)(p - last) - 7};
            return 1;
        }
    }
    return 0;
}

static ns_status trim_solutions(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const text_filter *f = s->state;
    ns_str t, answer;
    NS_TRY(ns_row_text(&t, e->row, f->key, e->where, err), "TrimSolutions");
    if (!last_box(&answer, t)) return NS_OK;
    const char *after = answer.p + answer.n + 1; /* behind the box, which is the last one with this text */
    const char *newline = memchr(after, '\n', (size_t)(t.p + t.n - after));
    if (!newline) return NS_OK;
    e->modified = 1;
    return set_text(e, f->key, t.p, (size_t)(newline - t.p), err);
}

static ns_status trim_prefix(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const text_filter *f = s->state;
    static const char prefix[] = "My solution:\n";
    ns_str t;
    NS_TRY(ns_row_text(&t, e->row, f->key, e->where, err), "TrimPrefix");
    if (t.n < sizeof prefix - 1 || memcmp(t.p, prefix, sizeof prefix - 1)) return NS_OK;
    e->modified = 1;
    return set_text(e, f->key, t.p + sizeof prefix - 1, t.n - (sizeof prefix - 1), err);
}

/* ---- texts that must or must not occur ---- */
static const char *const pattern_params[] = {"regex_patterns", "text_key", NULL};

static ns_status init_patterns(ns_stage *s, ns_error *err)
{
    const ns_node *n;
    NS_TRY(init_text(s, "text_key", "text", err), "%s", s->cls->name);
    text_filter *f = s->state;
    NS_TRY(ns_param(s, "regex_patterns", &n, err), "%s", s->cls->name);
    NS_FAIL_IF(!n || n->type != NS_NODE_LIST, NS_ERR_CONFIG, "%s: regex_patterns must be a list of texts",
               s->cls->name);
    f->pattern = ns_arena_alloc(&s->run->arena, (n->n + 1) * sizeof *f->pattern, err);
    NS_FAIL_IF(!f->pattern, NS_ERR_MEMORY, "regex_patterns");
    for (size_t i = 0; i < n->n; i++) {
        NS_FAIL_IF(!n->items[i]->s, NS_ERR_CONFIG, "%s: regex_patterns: item %zu is not text", s->cls->name, i);
        f->pattern[f->n_patterns++] = n->items[i]->s;
    }
    return NS_OK;
}

static int occurs(ns_str t, const char *what)
{
    return memmem(t.p, t.n, what, strlen(what)) != NULL;
}

static ns_status drop_if_match(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const text_filter *f = s->state;
    ns_str t;
    NS_TRY(ns_row_text(&t, e->row, f->key, e->where, err), "DropIfRegexMatch");
    for (size_t i = 0; i < f->n_patterns && !e->dropped; i++) e->dropped = occurs(t, f->pattern[i]);
    return NS_OK;
}

static ns_status drop_if_not_match(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const text_filter *f = s->state;
    ns_str t;
    NS_TRY(ns_row_text(&t, e->row, f->key, e->where, err), "DropIfRegexNotMatch");
    for (size_t i = 0; i < f->n_patterns && !e->dropped; i++) e->dropped = !occurs(t, f->pattern[i]);
    return NS_OK;
}

static ns_status drop_incorrect_code_blocks(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const text_filter *f = s->state;
    ns_str t;
    int n = 0;
    NS_TRY(ns_row_text(&t, e->row, f->key, e->where, err), "DropIncorrectCodeBlocks");
    for (size_t i = 0; i + 9 <= t.n; i++) n += !memcmp(t.p + i, "```python", 9) || !memcmp(t.p + i, "```Python", 9);
    e->dropped = n != 1;
    return NS_OK;
}

/* ---- values ---- */
typedef struct value_filter {
    const char *key;
    const ns_json *values;
    double min_votes, min_percentage;
} value_filter;

static const char *const equal_params[] = {"values", "key", NULL};

static ns_status init_equal(ns_stage *s, ns_error *err)
{
    const ns_node *n;
    ns_json *v = NULL;
    NS_TRY(ns_alloc(&s->state, sizeof(value_filter), "prepare.filter", err), "filter");
    value_filter *f = s->state;
    NS_TRY(ns_param_str(s, "key", NULL, &f->key, err), "DropIfEqual");
    NS_TRY(ns_param(s, "values", &n, err), "DropIfEqual");
    NS_FAIL_IF(!f->key || !n || n->type != NS_NODE_LIST, NS_ERR_CONFIG, "DropIfEqual needs key and a list of values");
    NS_TRY(ns_json_from_node(&v, &s->run->arena, n, err), "DropIfEqual");
    f->values = v;
    return NS_OK;
}

static ns_status drop_if_equal(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const value_filter *f = s->state;
    const ns_json *v = ns_json_get(e->row, f->key);
    ns_str unused;
    if (!v) return ns_row_text(&unused, e->row, f->key, e->where, err); /* names the keys that there are */
    for (size_t i = 0; i < f->values->n && !e->dropped; i++) e->dropped = ns_json_equal(v, &f->values->items[i]);
    return NS_OK;
}

static const char *const majority_params[] = {"min_majority_votes", "min_majority_percentage", NULL};

static ns_status init_majority(ns_stage *s, ns_error *err)
{
    NS_TRY(ns_alloc(&s->state, sizeof(value_filter), "prepare.filter", err), "filter");
    value_filter *f = s->state;
    NS_TRY(ns_param_num(s, "min_majority_votes", 0, &f->min_votes, err), "MajorityFilter");
    return ns_param_num(s, "min_majority_percentage", 0, &f->min_percentage, err);
}

static ns_status majority(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const value_filter *f = s->state;
    const ns_json *votes = ns_json_get(e->row, "majority_votes"), *total = ns_json_get(e->row, "total_votes");
    double v, t;
    if (!votes || !total || votes->type == NS_JSON_NULL || total->type == NS_JSON_NULL) return NS_OK;
    NS_FAIL_IF(!ns_json_is_num(votes, &v) || !ns_json_is_num(total, &t), NS_ERR_INPUT,
               "%s: majority_votes and total_votes must be numbers", e->where);
    e->dropped = v < f->min_votes || v < t * f->min_percentage;
    return NS_OK;
}

/* ---- contamination ---- */
typedef struct contamination {
    const char *key;
    ns_hash_set bad;
} contamination;

static const char *const contamination_params[] = {"contamination_file", "check_key", NULL};

static ns_status load_contaminated(contamination *c, const char *path, ns_error *err)
{
    ns_jsonl *in = NULL;
    ns_status st = NS_OK;
    int64_t n = 0, n_bad = 0;
    ns_arena a = NS_ARENA_INIT("prepare.contamination");
    NS_CHECK(st, ns_jsonl_open(&in, path, err), "contamination_file");
    for (;; n++) {
        const char *line, *where;
        size_t len;
        ns_json *row;
        ns_arena_mark mark = ns_arena_save(&a);
        NS_CHECK(st, ns_jsonl_next_line(in, &line, &len, &where, err), "contamination_file");
        if (!line) break;
        NS_CHECK(st, ns_json_parse(&row, &a, line, len, where, 0, err), "contamination_file");
        const ns_json *flag = ns_json_get(row, "contaminated"), *v = ns_json_get(row, c->key);
        NS_BAIL_IF(st, !flag, NS_ERR_INPUT, "%s: no field \"contaminated\"", where);
        if (ns_json_truthy(flag)) {
            ns_hash h = {{0, 0}};
            int is_new;
            NS_BAIL_IF(st, !v, NS_ERR_INPUT, "%s: no field \"%s\"", where, c->key);
            NS_CHECK(st, ns_json_hash(&h, v, err), "%s", where);
            NS_CHECK(st, ns_hash_set_add(&c->bad, h, &is_new, err), "%s", where);
            n_bad += is_new;
        }
        ns_arena_rollback(&a, mark);
    }
    NS_INFO("%s: %" PRId64 " of %" PRId64 " problems are contaminated", path, n_bad, n);
done:
    ns_arena_free(&a);
    if (in) ns_jsonl_close(&in);
    return st;
}

static ns_status init_contamination(ns_stage *s, ns_error *err)
{
    const char *path;
    NS_TRY(ns_alloc(&s->state, sizeof(contamination), "prepare.filter", err), "filter");
    contamination *c = s->state;
    NS_TRY(ns_param_str(s, "check_key", "problem", &c->key, err), "RemoveContaminated");
    NS_TRY(ns_param_str(s, "contamination_file", NULL, &path, err), "RemoveContaminated");
    if (!path) {
        NS_WARN(
            "filters.remove_contaminated is on and contamination_file is not set: nothing is checked for contamination "
            "(set ++contamination_file=FILE, or ++filters.remove_contaminated=false)");
        s->skip = "contamination_file";
        return NS_OK;
    }
    ns_prepare *p = s->run; /* among the inputs, so that no output replaces it */
    NS_TRY(ns_grow((void **)&p->file, &p->files_cap, p->n_files + 1, sizeof *p->file, "prepare.files", err), "files");
    p->file[p->n_files++] = path;
    return load_contaminated(c, path, err);
}

static ns_status remove_contaminated(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const contamination *c = s->state;
    const ns_json *v = ns_json_get(e->row, c->key);
    ns_hash h = {{0, 0}};
    ns_str unused;
    if (!v) return ns_row_text(&unused, e->row, c->key, e->where, err);
    NS_TRY(ns_json_hash(&h, v, err), "%s", e->where);
    e->dropped = ns_hash_set_has(&c->bad, h);
    return NS_OK;
}

static void free_contamination(ns_stage *s)
{
    contamination *c = s->state;
    if (c) ns_hash_set_free(&c->bad);
    ns_free(c);
}

/* ---- lengths ---- */
typedef struct lengths {
    const char *key;
    double min, max; /* max < 0: none */
    int min_is_chars;
    ns_tok *tok;
} lengths;

static const char *const length_params[] = {
    "property_key", "min_length", "max_length", "hf_model_name", "use_chars_for_min_length", NULL};

static ns_status init_lengths(ns_stage *s, ns_error *err)
{
    const char *model;
    NS_TRY(ns_alloc(&s->state, sizeof(lengths), "prepare.filter", err), "filter");
    lengths *f = s->state;
    NS_TRY(ns_param_str(s, "property_key", "generation", &f->key, err), "RemoveLenOutliers");
    NS_TRY(ns_param_num(s, "min_length", 0, &f->min, err), "RemoveLenOutliers");
    NS_TRY(ns_param_num(s, "max_length", -1, &f->max, err), "RemoveLenOutliers");
    NS_TRY(ns_param_bool(s, "use_chars_for_min_length", 0, &f->min_is_chars, err), "RemoveLenOutliers");
    NS_TRY(ns_param_str(s, "hf_model_name", NULL, &model, err), "RemoveLenOutliers");
    if (!model) {
        NS_WARN("the length filter of \"%s\" is on and hf_model_name is not set: lengths are not checked (set "
                "++hf_model_name=TOKENIZER, or ++filters.remove_len_outlier_problems=false, "
                "++filters.remove_len_outlier_solutions=false)",
                f->key);
        s->skip = "hf_model_name";
        return NS_OK;
    }
    char where[4096];
    NS_TRY(ns_hub_resolve(&model, where, "hf_model_name", err), "RemoveLenOutliers");
    NS_TRY(ns_tok_load(&f->tok, model, err), "hf_model_name (a tokenizer.json, or a folder with one)");
    return NS_OK;
}

static ns_status remove_len_outliers(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const lengths *f = s->state;
    ns_str t;
    ns_ids ids = {0};
    NS_TRY(ns_row_text(&t, e->row, f->key, e->where, err), "RemoveLenOutliers");
    NS_TRY(ns_tok_encode(f->tok, &ids, t.p, t.n, 0, err), "%s", e->where);
    double n = (double)ids.n, chars = 0;
    ns_ids_free(&ids);
    for (size_t i = 0; i < t.n; i++) chars += ((unsigned char)t.p[i] & 0xc0) != 0x80;
    e->dropped = (f->min_is_chars ? chars : n) < f->min || (f->max >= 0 && n > f->max);
    return NS_OK;
}

static void free_lengths(ns_stage *s)
{
    lengths *f = s->state;
    if (f) ns_tok_free(&f->tok);
    ns_free(f);
}

/* ---- arithmetic ---- */
static const char *const arithmetic_params[] = {"solution_key", "tolerance", NULL};

static ns_status init_arithmetic(ns_stage *s, ns_error *err)
{
    NS_TRY(init_solution(s, err), "%s", s->cls->name);
    text_filter *f = s->state;
    return ns_param_num(s, "tolerance", 1e-4, &f->tolerance, err);
}

static ns_status drop_incorrect_arithmetic(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const text_filter *f = s->state;
    ns_str t;
    NS_TRY(ns_row_text(&t, e->row, f->key, e->where, err), "DropIncorrectArithmetic");
    return ns_arithmetic_check(&e->dropped, t, f->tolerance, err);
}

static ns_status split_arithmetic(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const text_filter *f = s->state;
    ns_str t;
    ns_buf out = {0};
    ns_status st = NS_OK;
    NS_TRY(ns_row_text(&t, e->row, f->key, e->where, err), "SplitArithmetic");
    NS_CHECK(st, ns_arithmetic_split(&out, t, err), "%s", e->where);
    e->modified = out.len != t.n || (t.n && memcmp(out.data, t.p, t.n));
    if (e->modified) NS_CHECK(st, set_text(e, f->key, out.data ? out.data : "", out.len, err), "%s", e->where);
done:
    ns_buf_free(&out);
    return st;
}

/* ---- names ---- */
typedef struct rename_keys {
    const char *from[16], *to[16];
    size_t n;
} rename_keys;

static const char *const rename_params[] = {"rename_fields", "old", "new", NULL};

static ns_status init_rename(ns_stage *s, ns_error *err)
{
    const ns_node *map;
    NS_TRY(ns_alloc(&s->state, sizeof(rename_keys), "prepare.filter", err), "filter");
    rename_keys *f = s->state;
    NS_TRY(ns_param_str(s, "old", NULL, &f->from[0], err), "RenameFields");
    NS_TRY(ns_param_str(s, "new", NULL, &f->to[0], err), "RenameFields");
    f->n = f->from[0] && f->to[0];
    NS_TRY(ns_param(s, "rename_fields", &map, err), "RenameFields");
    NS_FAIL_IF(map && map->type != NS_NODE_MAP, NS_ERR_CONFIG, "rename_fields must be a map of old: new");
    NS_FAIL_IF((!map && !f->n) || (map && map->n > 15), NS_ERR_CONFIG,
               "RenameFields needs rename_fields, 1 to 15 names");
    for (size_t i = 0; map && i < map->n; i++) {
        NS_FAIL_IF(!map->items[i]->s, NS_ERR_CONFIG, "rename_fields: the new name of %s is not text", map->keys[i]);
        f->from[f->n] = map->keys[i];
        f->to[f->n++] = map->items[i]->s;
    }
    return NS_OK;
}

/* The value moves to the end of the row under its new name. */
static ns_status rename_entry(const ns_stage *s, ns_entry *e, ns_error *err)
{
    const rename_keys *f = s->state;
    for (size_t i = 0; i < f->n; i++) {
        const ns_json *v = ns_json_get(e->row, f->from[i]);
        ns_str unused;
        if (!strcmp(f->from[i], f->to[i])) continue;
        if (!v) return ns_row_text(&unused, e->row, f->from[i], e->where, err);
        ns_json copy = *v;
        size_t at = (size_t)(v - e->row->items);
        memmove(e->row->items + at, e->row->items + at + 1, (e->row->n - at - 1) * sizeof *e->row->items);
        memmove(e->row->keys + at, e->row->keys + at + 1, (e->row->n - at - 1) * sizeof *e->row->keys);
        e->row->n--;
        NS_TRY(ns_json_set(e->row, e->arena, f->to[i], &copy, err), "%s", e->where);
        e->modified = 1;
    }
    return NS_OK;
}

static ns_status report_one(const ns_stage *f, ns_json *o, ns_arena *a, ns_error *err)
{
    NS_TRY(ns_json_set(o, a, "removed", ns_json_new_int(a, f->n_removed, err), err), "statistics");
    NS_TRY(ns_json_set(o, a, "modified", ns_json_new_int(a, f->n_modified, err), err), "statistics");
    if (f->skip) NS_TRY(ns_json_set(o, a, "skipped_without", ns_json_new_str(a, f->skip, err), err), "statistics");
    return NS_OK;
}

#define FILTER(id, name_, params_, init_, entry_, free_) \
    static const ns_stage_class id = {                   \
        .name = name_, .params = params_, .init = init_, .entry = entry_, .free = free_, .report = report_one}
FILTER(f_multi, "DropMultiBoxed", solution_params, init_solution, drop_multi_boxed, free_state);
FILTER(f_prefix, "TrimPrefix", solution_params, init_solution, trim_prefix, free_state);
FILTER(f_trim, "TrimSolutions", solution_params, init_solution, trim_solutions, free_state);
FILTER(f_blocks, "DropIncorrectCodeBlocks", solution_params, init_solution, drop_incorrect_code_blocks, free_state);
FILTER(f_match, "DropIfRegexMatch", pattern_params, init_patterns, drop_if_match, free_state);
FILTER(f_not_match, "DropIfRegexNotMatch", pattern_params, init_patterns, drop_if_not_match, free_state);
FILTER(f_equal, "DropIfEqual", equal_params, init_equal, drop_if_equal, free_state);
FILTER(f_majority, "MajorityFilter", majority_params, init_majority, majority, free_state);
FILTER(f_contaminated, "RemoveContaminated", contamination_params, init_contamination, remove_contaminated,
       free_contamination);
FILTER(f_lengths, "RemoveLenOutliers", length_params, init_lengths, remove_len_outliers, free_lengths);
FILTER(f_arithmetic, "DropIncorrectArithmetic", arithmetic_params, init_arithmetic, drop_incorrect_arithmetic,
       free_state);
FILTER(f_split, "SplitArithmetic", solution_params, init_solution, split_arithmetic, free_state);
FILTER(f_rename, "RenameFields", rename_params, init_rename, rename_entry, free_state);
const ns_stage_class *const ns_filter_classes[] = {
    &f_multi,    &f_prefix,       &f_trim,    &f_blocks,     &f_match, &f_not_match, &f_equal,
    &f_majority, &f_contaminated, &f_lengths, &f_arithmetic, &f_split, &f_rename,    NULL};

/* ---- applying filters ---- */
typedef struct chain {
    ns_stage *owner;
    ns_stage *const *filters;
    size_t n;
} chain;

/* flag: 1 + the number of the filter that drops the row, key: bits of those that changed it. */
static ns_status filter_row(void *arg, const ns_line *in, const char *where, ns_arena *a, ns_buf *out, ns_line *note,
                            ns_error *err)
{
    const chain *c = arg;
    ns_entry e = {.arena = a, .where = where};
    note->flag = 0;
    note->key = (ns_hash){{0, 0}};
    NS_TRY(ns_row_parse(&e.row, a, in, where, err), "%s", c->owner->cls->name);
    for (size_t i = 0; i < c->n; i++) {
        const ns_stage *f = c->filters[i];
        if (f->skip) continue;
        e.modified = 0;
        NS_TRY(f->cls->entry(f, &e, err), "%s", f->cls->name);
        note->key.v[0] |= (uint64_t)(e.modified != 0) << i;
        if (!e.dropped) continue;
        note->flag = (int32_t)i + 1;
        return NS_OK;
    }
    if (note->key.v[0]) return ns_json_write(out, e.row, NS_JSON_UTF8, err);
    return ns_buf_add(out, in->p, in->n, err);
}

/* Counts what the filters did, in the order of the rows, and takes the dropped ones out. */
static ns_status count_filtered(ns_stage *s, ns_stage *const *filters, size_t n, ns_block *b, ns_error *err)
{
    size_t kept = 0;
    int merged = n == 0 || filters[0] != s;
    for (size_t i = 0; i < b->n; i++) {
        const ns_line *l = &b->line[i];
        for (uint64_t m = l->key.v[0]; m; m &= m - 1) filters[__builtin_ctzll(m)]->n_modified++;
        if (!l->flag) {
            if (merged) s->n_modified += l->key.v[0] != 0;
            b->line[kept++] = *l;
            continue;
        }
        ns_stage *f = filters[l->flag - 1];
        f->n_removed++;
        if (merged) s->n_removed++;
        NS_TRY(ns_stage_drops(f, l, f->cls->name, err), "%s", f->cls->name);
    }
    b->n = kept;
    return NS_OK;
}

static void log_statistics(ns_stage *s, ns_stage *const *filters, size_t n)
{
    if (s->n_seen % CHUNK) NS_INFO("Processing last chunk");
    NS_INFO("Number of entries after processing: %" PRId64, s->n_seen - s->n_removed);
    NS_INFO("Number of removed entries: %" PRId64, s->n_removed);
    NS_INFO("Number of modified entries: %" PRId64, s->n_modified);
    for (size_t i = 0; i < n && filters[0] != s; i++)
        if (!filters[i]->skip)
            NS_INFO("  %s: removed %" PRId64 ", modified %" PRId64, filters[i]->cls->name, filters[i]->n_removed,
                    filters[i]->n_modified);
}

/* Takes from the notes what filter_row would say. */
static ns_status read_notes(const ns_stage *s, size_t n, ns_block *b, ns_error *err)
{
    int32_t first = (int32_t)s->fuse_at, end = first + (int32_t)n;
    for (size_t i = 0; i < b->n; i++) {
        ns_note note = ns_fuse_note(&b->line[i]);
        if (note.failed > first && note.failed <= end) return ns_fuse_raise(&b->line[i], err);
        b->line[i].flag = note.dropped_by > first && note.dropped_by <= end ? note.dropped_by - first : 0;
        b->line[i].key.v[0] = note.modified >> first & (n < 64 ? ((uint64_t)1 << n) - 1 : ~(uint64_t)0);
    }
    return NS_OK;
}

ns_status ns_filters_next(ns_stage *s, ns_stage *const *filters, size_t n, ns_block *out, ns_error *err)
{
    chain c = {s, filters, n};
    while (!out->n) {
        ns_block in = {0};
        ns_block_free(out);
        ns_status st = ns_stage_next(s->input, &in, err);
        size_t n_in = in.n;
        if (st == NS_OK && n_in && !s->run->fuse) {
            st = ns_block_map(out, &in, s->run, NS_MAP_KEEP_DROPPED, filter_row, &c, err);
        } else if (st == NS_OK && n_in) {
            *out = in;
            in = (ns_block){0};
            st = read_notes(s, n, out, err);
        }
        ns_block_free(&in);
        if (st == NS_OK) st = count_filtered(s, filters, n, out, err);
        if (st != NS_OK) return st;
        if (!n_in) {
            log_statistics(s, filters, n);
            return NS_OK;
        }
        for (int64_t k = s->n_seen / CHUNK + 1; k <= (s->n_seen + (int64_t)n_in) / CHUNK; k++)
            NS_INFO("Processing chunk %" PRId64, k * CHUNK);
        s->n_seen += (int64_t)n_in;
    }
    return NS_OK;
}

/* ---- MergeProcessor ---- */
typedef struct merge {
    ns_stage **filter;
    size_t n;
} merge;

static const char *const merge_params[] = {"processor_configs", NULL};

static ns_status merge_init(ns_stage *s, ns_error *err)
{
    const ns_node *list;
    NS_TRY(ns_alloc(&s->state, sizeof(merge), "prepare.merge", err), "merge");
    merge *m = s->state;
    NS_TRY(ns_param(s, "processor_configs", &list, err), "MergeProcessor");
    NS_FAIL_IF(!list || list->type != NS_NODE_LIST || list->n > 64, NS_ERR_CONFIG,
               "MergeProcessor needs processor_configs, a list of at most 64 filters");
    NS_TRY(ns_alloc((void **)&m->filter, list->n * sizeof *m->filter, "prepare.merge", err), "merge");
    for (size_t i = 0; i < list->n; i++) {
        const ns_node *run = ns_node_get(list->items[i], "should_run");
        if (run && !ns_node_truthy(run)) continue;
        char *path = ns_arena_printf(&s->run->arena, err, "%s.processor_configs.%zu", s->path, i);
        NS_FAIL_IF(!path, NS_ERR_MEMORY, "merge");
        NS_TRY(ns_stage_new(&m->filter[m->n], s->run, path, err), "MergeProcessor");
        m->n++;
        NS_FAIL_IF(!m->filter[m->n - 1]->cls->entry, NS_ERR_CONFIG, "%s: %s is not a filter and cannot be merged", path,
                   m->filter[m->n - 1]->cls->name);
    }
    return NS_OK;
}

ns_stage *const *ns_merge_filters(const ns_stage *s, size_t *n)
{
    const merge *m = s->state;
    *n = m->n;
    return m->filter;
}

static ns_status merge_next(ns_stage *s, ns_block *out, ns_error *err)
{
    const merge *m = s->state;
    return ns_filters_next(s, m->filter, m->n, out, err);
}

static ns_status merge_report(const ns_stage *s, ns_json *o, ns_arena *a, ns_error *err)
{
    const merge *m = s->state;
    ns_json *list = ns_json_new(a, NS_JSON_ARRAY, err);
    NS_FAIL_IF(!list, NS_ERR_MEMORY, "statistics");
    NS_TRY(report_one(s, o, a, err), "statistics");
    for (size_t i = 0; i < m->n; i++) {
        ns_json *f = ns_json_new(a, NS_JSON_OBJECT, err);
        NS_TRY(ns_json_set(f, a, "name", ns_json_new_str(a, m->filter[i]->cls->name, err), err), "statistics");
        NS_TRY(ns_json_set(f, a, "path", ns_json_new_str(a, m->filter[i]->path, err), err), "statistics");
        NS_TRY(report_one(m->filter[i], f, a, err), "statistics");
        NS_TRY(ns_json_append(list, a, f, err), "statistics");
    }
    return ns_json_set(o, a, "filters", list, err);
}

static void merge_free(ns_stage *s)
{
    merge *m = s->state;
    for (size_t i = 0; m && m->filter && i < m->n; i++) ns_stage_free(&m->filter[i]);
    if (m) ns_free(m->filter);
    ns_free(m);
}

const ns_stage_class ns_stage_merge = {.name = "MergeProcessor",
                                       .params = merge_params,
                                       .init = merge_init,
                                       .next = merge_next,
                                       .free = merge_free,
                                       .report = merge_report};
