/* Stages that need all rows: grouping, choosing among the solutions of a problem, shuffling and sampling (data.md §2.8).
 * Rows are held within ++memory (prepare_rows.h); while all of them fit, only the line table is permuted.
 * Without shuffling and sampling the last stage hands its input on, block by block; CodeTextFilter holds one group. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "data/prepare_fuse.h"
#include "data/prepare_rows.h"
#include "data/prompt.h"

/* ---- GroupSamples ---- */
typedef struct group_state {
    const char *key;
    ns_first groups; /* key -> number of the group */
    ns_rows *rows;   /* by that number */
    int pulled;
} group_state;

static const char *const group_params[] = {"group_key", NULL};

static ns_status group_init(ns_stage *s, ns_error *err)
{
    NS_TRY(ns_alloc(&s->state, sizeof(group_state), "prepare.group", err), "group");
    group_state *g = s->state;
    ns_first_init(&g->groups, s->run, "GroupSamples", 1);
    return ns_param_str(s, "group_key", "input", &g->key, err);
}

ns_status ns_group_key(const ns_stage *s, const ns_json *row, const char *where, ns_hash *key, ns_error *err)
{
    const group_state *g = s->state;
    ns_str unused;
    const ns_json *v = ns_json_get(row, g->key);
    if (!v) return ns_row_text(&unused, row, g->key, where, err);
    *key = (ns_hash){{0, 0}};
    return ns_json_hash(key, v, err);
}

static ns_status group_row(void *arg, const ns_line *in, const char *where, ns_arena *a, ns_buf *out, ns_line *note,
                           ns_error *err)
{
    ns_json *row;
    (void)out;
    NS_TRY(ns_row_parse(&row, a, in, where, err), "GroupSamples");
    return ns_group_key(arg, row, where, &note->key, err);
}

/* Sets line->key. */
static ns_status find_keys(ns_stage *s, ns_block *b, ns_error *err)
{
    ns_block keyed = {0};
    ns_status st = NS_OK;
    for (size_t i = 0; s->run->fuse && i < b->n; i++) {
        ns_note note = ns_fuse_note(&b->line[i]);
        if (note.failed == NS_FUSE_GROUP) return ns_fuse_raise(&b->line[i], err);
        b->line[i].key = note.group;
    }
    if (s->run->fuse) return NS_OK;
    NS_CHECK(st, ns_block_map(&keyed, b, s->run, NS_MAP_KEEP_DROPPED, group_row, s, err), "GroupSamples");
    for (size_t i = 0; i < b->n; i++) b->line[i].key = keyed.line[i].key;
done:
    ns_block_free(&keyed);
    return st;
}

/* Numbers the rows' groups and takes the rows over; line->key has the hash of the group's key. */
static ns_status take_numbered(group_state *g, ns_block *b, ns_error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++) {
        ns_seen seen;
        int64_t number = 0;
        NS_TRY(ns_first_see(&g->groups, &b->line[i], &seen, &number, err), "GroupSamples");
        if (seen == NS_SEEN_LATER) continue;
        b->line[n] = b->line[i];
        b->line[n].group = number;
        b->line[n++].key = (ns_hash){{(uint64_t)number, 0}};
    }
    b->n = n;
    return ns_rows_add(g->rows, b, err);
}

/* *n: rows that came; 0 at the end. */
static ns_status group_block(ns_stage *s, group_state *g, size_t *n, ns_error *err)
{
    ns_block b = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_stage_next(s->input, &b, err), "GroupSamples");
    *n = b.n;
    NS_CHECK(st, find_keys(s, &b, err), "GroupSamples");
    NS_CHECK(st, take_numbered(g, &b, err), "GroupSamples");
done:
    ns_block_free(&b);
    return st;
}

static ns_status pull_groups(ns_stage *s, group_state *g, ns_error *err)
{
    NS_TRY(ns_rows_new(&g->rows, s->run, "GroupSamples", 1, err), "GroupSamples");
    for (size_t n = 1; n > 0;) NS_TRY(group_block(s, g, &n, err), "GroupSamples");
    for (size_t n = 1; n > 0;) {
        ns_block b = {0};
        ns_status st = ns_first_rest(&g->groups, &b, err);
        n = b.n;
        if (st == NS_OK && n) st = take_numbered(g, &b, err);
        ns_block_free(&b);
        if (st != NS_OK) return st;
    }
    ns_first_free(&g->groups);
    return NS_OK;
}

static ns_status group_next(ns_stage *s, ns_block *out, ns_error *err)
{
    group_state *g = s->state;
    if (!g->pulled) NS_TRY(pull_groups(s, g, err), "GroupSamples");
    g->pulled = 1;
    return ns_rows_next(g->rows, out, err);
}

static void group_free(ns_stage *s)
{
    group_state *g = s->state;
    if (!g) return;
    ns_first_free(&g->groups);
    ns_rows_free(&g->rows);
    ns_free(g);
}

static ns_status group_report(const ns_stage *s, ns_json *o, ns_arena *a, ns_error *err)
{
    const group_state *g = s->state;
    return ns_json_set(o, a, "groups", ns_json_new_int(a, g->groups.next_number, err), err);
}

const ns_stage_class ns_stage_group = {.name = "GroupSamples",
                                       .params = group_params,
                                       .init = group_init,
                                       .next = group_next,
                                       .free = group_free,
                                       .report = group_report};

/* ---- CodeTextFilter ---- */
typedef enum code_mode { ALL_BOTH, ONLY_CODE, MAJORITY_CODE, MAJORITY_TEXT, ANY_CODE } code_mode;
typedef struct code_state {
    ns_block in;    /* whole groups */
    ns_block carry; /* rows of the group at the end of `in`, which may go on; copies */
    int at_end;
    const char *key;
    code_mode mode;
    ns_prompt_template t;
} code_state;

static const char *const code_params[] = {"filter_type", "prompt_template", "solution_key", NULL};

static ns_status code_init(ns_stage *s, ns_error *err)
{
    static const char *const modes[] = {"", "all", "majority_code", "majority_text", "any_code"};
    const char *mode, *tmpl;
    NS_TRY(ns_alloc(&s->state, sizeof(code_state), "prepare.code", err), "code filter");
    code_state *c = s->state;
    NS_TRY(ns_param_str(s, "solution_key", "generation", &c->key, err), "CodeTextFilter");
    NS_TRY(ns_param_str(s, "filter_type", "", &mode, err), "CodeTextFilter");
    NS_TRY(ns_param_str(s, "prompt_template", NULL, &tmpl, err), "CodeTextFilter");
    int k = 0;
    while (k < 5 && strcmp(modes[k], mode)) k++;
    NS_FAIL_IF(k == 5, NS_ERR_CONFIG,
               "filters.code_text_filter=%s: expected all, majority_code, majority_text or any_code", mode);
    c->mode = (code_mode)k;
    NS_FAIL_IF(!tmpl, NS_ERR_CONFIG,
               "filters.code_text_filter needs ++prompt_template: it has the tag that begins code");
    return ns_prompt_template_load(&c->t, &s->run->arena, tmpl, err);
}

ns_status ns_code_mark(const ns_stage *s, const ns_json *row, const char *where, int32_t *is_code, ns_error *err)
{
    const code_state *c = s->state;
    ns_str t;
    NS_TRY(ns_row_text(&t, row, c->key, where, err), "CodeTextFilter");
    *is_code = memmem(t.p, t.n, c->t.code_begin, strlen(c->t.code_begin)) != NULL;
    return NS_OK;
}

static ns_status code_row(void *arg, const ns_line *in, const char *where, ns_arena *a, ns_buf *out, ns_line *note,
                          ns_error *err)
{
    ns_json *row;
    (void)out;
    NS_TRY(ns_row_parse(&row, a, in, where, err), "CodeTextFilter");
    return ns_code_mark(arg, row, where, &note->flag, err);
}

/* Sets line->flag: code or not. */
static ns_status mark_code(ns_stage *s, ns_block *b, ns_error *err)
{
    ns_block marked = {0};
    ns_status st = NS_OK;
    for (size_t i = 0; s->run->fuse && i < b->n; i++) {
        ns_note note = ns_fuse_note(&b->line[i]);
        if (note.failed == NS_FUSE_CODE) return ns_fuse_raise(&b->line[i], err);
        b->line[i].flag = note.code;
    }
    if (s->run->fuse) return NS_OK;
    NS_CHECK(st, ns_block_map(&marked, b, s->run, NS_MAP_KEEP_DROPPED, code_row, s, err), "CodeTextFilter");
    for (size_t i = 0; i < b->n; i++) b->line[i].flag = marked.line[i].flag;
done:
    ns_block_free(&marked);
    return st;
}

/* Which of code and text a group keeps: bit 0 code, bit 1 text. */
static int choose(code_mode mode, size_t n_code, size_t n)
{
    switch (mode) {
    case ALL_BOTH: return 3;
    case ONLY_CODE: return 1;
    case MAJORITY_CODE: return n_code <= n / 2 ? 3 : 1;
    case MAJORITY_TEXT: return n_code > n / 2 ? 1 : 2;
    case ANY_CODE: return n_code ? 1 : 2;
    }
    return 3;
}

/* Moves the rows from number `from` on into a block of its own; rows that it has stay in front. */
static ns_status carry_over(ns_block *carry, const ns_block *in, size_t from, ns_error *err)
{
    size_t at = 0;
    NS_TRY(
        ns_grow((void **)&carry->line, &carry->cap, carry->n + in->n - from, sizeof *carry->line, "prepare.lines", err),
        "CodeTextFilter");
    for (size_t i = from; i < in->n; i++) {
        NS_TRY(ns_buf_add(&carry->text, in->line[i].p, in->line[i].n, err), "CodeTextFilter");
        carry->line[carry->n++] = in->line[i];
    }
    for (size_t i = 0; i < carry->n; i++) {
        carry->line[i].p = carry->text.data + at;
        at += carry->line[i].n;
    }
    return NS_OK;
}

static int same_group(const ns_line *a, const ns_line *b)
{
    return a->group >= 0 && a->group == b->group;
}

/* The next whole groups in c->in; the one at its end waits in c->carry until another begins. */
static ns_status whole_groups(ns_stage *s, code_state *c, ns_error *err)
{
    ns_block b = {0}, last = {0};
    ns_status st = NS_OK;
    ns_block_free(&c->in);
    NS_CHECK(st, ns_stage_next(s->input, &b, err), "CodeTextFilter");
    c->at_end = b.n == 0;
    size_t whole = b.n;
    while (whole > 0 && same_group(&b.line[whole - 1], &b.line[b.n - 1])) whole--;
    if (!c->at_end && whole == 0 && (!c->carry.n || same_group(&c->carry.line[0], &b.line[0]))) {
        NS_CHECK(st, carry_over(&c->carry, &b, 0, err), "CodeTextFilter"); /* all of one group so far */
        goto done;
    }
    if (!c->at_end) NS_CHECK(st, carry_over(&last, &b, whole, err), "CodeTextFilter");
    b.n = whole;
    if (c->carry.n) {
        NS_CHECK(st, carry_over(&c->carry, &b, 0, err), "CodeTextFilter");
        c->in = c->carry;
    } else {
        c->in = b;
        b = (ns_block){0};
    }
    c->carry = last;
    last = (ns_block){0};
done:
    ns_block_free(&b);
    ns_block_free(&last);
    return st;
}

static ns_status choose_rows(ns_stage *s, code_state *c, ns_block *out, ns_error *err)
{
    ns_block *b = &c->in;
    NS_TRY(mark_code(s, b, err), "CodeTextFilter");
    NS_TRY(ns_grow((void **)&out->line, &out->cap, b->n, sizeof *out->line, "prepare.code", err), "code");
    for (size_t i = 0, end; i < b->n; i = end) {
        size_t n_code = 0;
        for (end = i; end < b->n && (end == i || same_group(&b->line[i], &b->line[end])); end++)
            n_code += b->line[end].flag == 1;
        int what = choose(c->mode, n_code, end - i);
        for (int text = 0; text < 2; text++)
            for (size_t k = i; k < end; k++) {
                if (b->line[k].flag == text) continue;
                if (what >> text & 1)
                    out->line[out->n++] = b->line[k];
                else
                    NS_TRY(ns_stage_drops(s, &b->line[k], s->cls->name, err), "CodeTextFilter");
            }
    }
    s->n_removed += (int64_t)(b->n - out->n);
    s->n_seen += (int64_t)b->n;
    return NS_OK;
}

static ns_status code_next(ns_stage *s, ns_block *out, ns_error *err)
{
    code_state *c = s->state;
    while (!out->n && !c->at_end) {
        ns_block_free(out);
        NS_TRY(whole_groups(s, c, err), "CodeTextFilter");
        NS_TRY(choose_rows(s, c, out, err), "CodeTextFilter");
        out->text = c->in.text; /* moves: the lines go on pointing into it */
        c->in.text = (ns_buf){0};
        if (!c->at_end) continue;
        NS_INFO("Number of entries after processing: %" PRId64, s->n_seen - s->n_removed);
        NS_INFO("Number of removed entries: %" PRId64, s->n_removed);
    }
    return NS_OK;
}

static void code_free(ns_stage *s)
{
    code_state *c = s->state;
    if (!c) return;
    ns_block_free(&c->in);
    ns_block_free(&c->carry);
    ns_free(c);
}

static ns_status code_report(const ns_stage *s, ns_json *o, ns_arena *a, ns_error *err)
{
    return ns_json_set(o, a, "removed", ns_json_new_int(a, s->n_removed, err), err);
}

const ns_stage_class ns_stage_code_text = {.name = "CodeTextFilter",
                                           .params = code_params,
                                           .init = code_init,
                                           .next = code_next,
                                           .free = code_free,
                                           .report = code_report};

/* ---- ShuffleAndDownsampleData ---- */
/* Pulls everything. For fair, a row's key is its number within its group. */
static ns_status pull(ns_shuffler *f, ns_stage *s, ns_error *err)
{
    int64_t group = -1;
    uint64_t k = 0;
    NS_TRY(ns_rows_new(&f->all, s->run, "shuffle", 0, err), "shuffle");
    for (size_t n = 1; n > 0;) {
        ns_block b = {0};
        ns_status st = ns_stage_next(s->input, &b, err);
        for (size_t i = 0; f->fair && i < b.n; i++) {
            ns_line *l = &b.line[i];
            k = l->group >= 0 && l->group == group ? k + 1 : 0;
            group = l->group;
            l->key = (ns_hash){{k, 0}};
        }
        n = b.n;
        if (st == NS_OK && n) st = ns_rows_add(f->all, &b, err);
        ns_block_free(&b);
        if (st != NS_OK) return st;
    }
    f->n_in = f->n_kept = ns_rows_count(f->all);
    if (f->n_samples >= 0 && (size_t)f->n_samples < f->n_in) f->n_kept = (size_t)f->n_samples;
    return NS_OK;
}

/* Round-robin: first of every group, then second of every group, ... */
static ns_status order_by_turn(ns_shuffler *f, ns_stage *s, ns_error *err)
{
    NS_TRY(ns_rows_new(&f->by_turn, s->run, "shuffle", 1, err), "shuffle");
    for (size_t n = 1; n > 0;) {
        ns_block b = {0};
        ns_status st = ns_rows_next(f->all, &b, err);
        n = b.n;
        if (st == NS_OK && n) st = ns_rows_add(f->by_turn, &b, err);
        ns_block_free(&b);
        if (st != NS_OK) return st;
    }
    if (!ns_rows_in_memory(f->all)) ns_rows_free(&f->all); /* else the lines point into it */
    return NS_OK;
}

/* Place i holds row order[i] -> row i goes to place order[i]: cycle by cycle, done ones marked by their complement. */
static void invert(int64_t *order, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int64_t from = (int64_t)i, at = order[i];
        if (at < 0) continue;
        while (at != (int64_t)i) {
            int64_t next = order[at];
            order[at] = ~from;
            from = at;
            at = next;
        }
        order[i] = ~from;
    }
    for (size_t i = 0; i < n; i++) order[i] = ~order[i];
}

static ns_status drop_rest(ns_stage *s, const ns_line *l, ns_error *err)
{
    s->n_removed++;
    return ns_stage_drops(s, l, "not sampled", err);
}

/* Rows to their places: 8 bytes a row for the permutation. A fair choice is made before the shuffle, a random one after. */
static ns_status arrange(ns_shuffler *f, ns_stage *s, ns_error *err)
{
    size_t n = f->fair ? f->n_kept : f->n_in, row = 0;
    int64_t *place = NULL;
    ns_rows *from = f->by_turn ? f->by_turn : f->all;
    ns_status st = NS_OK;
    ns_block b = {0};
    ns_mt rng;
    NS_CHECK(st, ns_alloc((void **)&place, (n + 1) * sizeof *place, "prepare.shuffle", err), "shuffle");
    for (size_t i = 0; i < n; i++) place[i] = (int64_t)i;
    ns_mt_seed_python(&rng, (uint64_t)(f->seed < 0 ? -f->seed : f->seed));
    if (f->do_shuffle) ns_shuffle_python(&rng, place, n);
    invert(place, n);
    NS_CHECK(st, ns_rows_new(&f->ordered, s->run, "shuffle", 1, err), "shuffle");
    do {
        size_t kept = 0;
        ns_block_free(&b);
        NS_CHECK(st, ns_rows_next(from, &b, err), "shuffle");
        for (size_t i = 0; i < b.n; i++, row++) {
            if (row >= n || (size_t)place[row] >= f->n_kept) {
                NS_CHECK(st, drop_rest(s, &b.line[i], err), "shuffle");
                continue;
            }
            b.line[i].key = (ns_hash){{(uint64_t)place[row], 0}};
            b.line[i].group = -1;
            b.line[kept++] = b.line[i];
        }
        int more = b.n > 0;
        b.n = kept;
        NS_CHECK(st, ns_rows_add(f->ordered, &b, err), "shuffle");
        if (!more) break;
    } while (1);
    if (!ns_rows_in_memory(from)) ns_rows_free(f->by_turn ? &f->by_turn : &f->all);
done:
    ns_free(place);
    ns_block_free(&b);
    return st;
}

ns_status ns_shuffler_next(ns_shuffler *f, ns_stage *s, ns_block *out, ns_error *err)
{
    if (!f->pulled) {
        NS_TRY(pull(f, s, err), "shuffle");
        if (f->fair && f->n_kept < f->n_in) NS_TRY(order_by_turn(f, s, err), "shuffle");
        NS_TRY(arrange(f, s, err), "shuffle");
        f->pulled = 1;
    }
    return ns_rows_next(f->ordered, out, err);
}

void ns_shuffler_free(ns_shuffler *f)
{
    ns_rows_free(&f->ordered);
    ns_rows_free(&f->by_turn);
    ns_rows_free(&f->all);
}

static const char *const shuffle_params[] = {"random_seed", "do_shuffle", "num_samples", "sampling_method", NULL};

static ns_status shuffle_init(ns_stage *s, ns_error *err)
{
    const char *method;
    NS_TRY(ns_alloc(&s->state, sizeof(ns_shuffler), "prepare.shuffle", err), "shuffle");
    ns_shuffler *f = s->state;
    NS_TRY(ns_param_int(s, "random_seed", 42, &f->seed, err), "shuffle");
    NS_TRY(ns_param_bool(s, "do_shuffle", 1, &f->do_shuffle, err), "shuffle");
    NS_TRY(ns_param_int(s, "num_samples", -1, &f->n_samples, err), "shuffle");
    NS_TRY(ns_param_str(s, "sampling_method", NULL, &method, err), "shuffle");
    f->fair = method && !strcmp(method, "fair");
    NS_FAIL_IF(method && !f->fair && strcmp(method, "random"), NS_ERR_CONFIG,
               "downsampling_method=%s: expected fair, random or null", method);
    NS_FAIL_IF(method && f->n_samples < 0, NS_ERR_CONFIG, "downsampling_method=%s needs ++num_output_samples=N",
               method);
    NS_FAIL_IF(!method && f->n_samples >= 0, NS_ERR_CONFIG,
               "num_output_samples=%" PRId64 " needs ++downsampling_method=fair or random", f->n_samples);
    return NS_OK;
}

static ns_status shuffle_next(ns_stage *s, ns_block *out, ns_error *err)
{
    ns_shuffler *f = s->state;
    if (!f->do_shuffle && f->n_samples < 0) { /* the order stays and all rows do: nothing needs holding */
        NS_TRY(ns_stage_next(s->input, out, err), "shuffle");
        for (size_t i = 0; i < out->n; i++) out->line[i].group = -1;
        return NS_OK;
    }
    int first = !f->pulled;
    NS_TRY(ns_shuffler_next(f, s, out, err), "shuffle");
    if (first && f->n_samples >= 0 && (size_t)f->n_samples > f->n_in)
        NS_WARN("num_output_samples is %" PRId64 " and only %zu rows are left: all are kept", f->n_samples, f->n_in);
    return NS_OK;
}

static void shuffle_free(ns_stage *s)
{
    ns_shuffler *f = s->state;
    if (f) ns_shuffler_free(f);
    ns_free(f);
}

static ns_status shuffle_report(const ns_stage *s, ns_json *o, ns_arena *a, ns_error *err)
{
    return ns_json_set(o, a, "removed", ns_json_new_int(a, s->n_removed, err), err);
}

const ns_stage_class ns_stage_shuffle = {.name = "ShuffleAndDownsampleData",
                                         .params = shuffle_params,
                                         .init = shuffle_init,
                                         .next = shuffle_next,
                                         .free = shuffle_free,
                                         .report = shuffle_report};
