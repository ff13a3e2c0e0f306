/* Stages that need all rows: grouping, choosing among the solutions of a problem, shuffling and sampling (data.md §2.8).
 * The text of the rows is held once; only the line table is permuted.
 * Without shuffling and sampling the last stage hands its input on, block by block. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "data/prepare_internal.h"
#include "data/prompt.h"

/* What such a stage holds: the blocks' text, and one table of lines. */
typedef struct held {
    ns_buf *keep;
    size_t n_keep, keep_cap;
    ns_block all;
    int done;
} held;

ns_status ns_stage_pull_all(ns_stage *s, ns_block *all, ns_buf **keep, size_t *n_keep, size_t *keep_cap, ns_error *err)
{
    for (;;) {
        ns_block b = {0};
        ns_status st = ns_stage_next(s, &b, err);
        if (st == NS_OK && b.n) {
            st = ns_grow((void **)keep, keep_cap, *n_keep + 1, sizeof **keep, "prepare.keep", err);
            if (st == NS_OK)
                st = ns_grow((void **)&all->line, &all->cap, all->n + b.n, sizeof *all->line, "prepare.lines", err);
            if (st == NS_OK) {
                memcpy(all->line + all->n, b.line, b.n * sizeof *b.line);
                all->n += b.n;
                (*keep)[(*n_keep)++] = b.text; /* moves: the lines go on pointing into it */
                b.text = (ns_buf){0};
            }
        }
        size_t n = b.n;
        ns_block_free(&b);
        if (st != NS_OK || !n) return st;
    }
}

static ns_status hold(ns_stage *s, held *h, ns_error *err)
{
    return ns_stage_pull_all(s->input, &h->all, &h->keep, &h->n_keep, &h->keep_cap, err);
}

static void release(held *h)
{
    for (size_t i = 0; i < h->n_keep; i++) ns_buf_free(&h->keep[i]);
    ns_free(h->keep);
    ns_block_free(&h->all);
    memset(h, 0, sizeof *h);
}

/* Hands the line table to the puller; the text stays here until the stage is freed. */
static void give(held *h, ns_block *out)
{
    out->line = h->all.line;
    out->n = h->all.n;
    out->cap = h->all.cap;
    h->all = (ns_block){0};
}

/* Replaces the table by the lines order[0..n). */
static ns_status reorder(ns_block *b, const int64_t *order, size_t n, ns_error *err)
{
    ns_line *line = NULL;
    NS_TRY(ns_alloc((void **)&line, n * sizeof *line, "prepare.lines", err), "reorder");
    for (size_t i = 0; i < n; i++) line[i] = b->line[order[i]];
    ns_free(b->line);
    b->line = line;
    b->n = b->cap = n;
    return NS_OK;
}

/* ---- GroupSamples ---- */
typedef struct group_state {
    held h;
    const char *key;
} group_state;

static const char *const group_params[] = {"group_key", NULL};

static ns_status group_init(ns_stage *s, ns_error *err)
{
    NS_TRY(ns_alloc(&s->state, sizeof(group_state), "prepare.group", err), "group");
    group_state *g = s->state;
    return ns_param_str(s, "group_key", "input", &g->key, err);
}

static ns_status group_row(void *arg, const ns_line *in, const char *where, ns_arena *a, ns_buf *out, ns_line *note,
                           ns_error *err)
{
    const group_state *g = arg;
    ns_json *row;
    ns_str unused;
    (void)out;
    NS_TRY(ns_row_parse(&row, a, in, where, err), "GroupSamples");
    const ns_json *v = ns_json_get(row, g->key);
    if (!v) return ns_row_text(&unused, row, g->key, where, err);
    note->key = (ns_hash){{0, 0}};
    return ns_json_hash(&note->key, v, err);
}

/* Group numbers in order of first appearance: an open-addressing table from key to number. */
static ns_status number_groups(ns_block *b, const ns_line *keyed, int64_t *n_groups, ns_error *err)
{
    size_t cap = 1024;
    while (cap < b->n * 2) cap *= 2;
    int64_t *slot = NULL; /* row + 1 that opened the group */
    NS_TRY(ns_alloc((void **)&slot, cap * sizeof *slot, "prepare.groups", err), "groups");
    *n_groups = 0;
    for (size_t i = 0; i < b->n; i++) {
        size_t k = (size_t)keyed[i].key.v[0] & (cap - 1);
        while (slot[k] && memcmp(&keyed[slot[k] - 1].key, &keyed[i].key, sizeof keyed[i].key)) k = (k + 1) & (cap - 1);
        if (!slot[k]) {
            slot[k] = (int64_t)i + 1;
            b->line[i].group = (*n_groups)++;
        } else {
            b->line[i].group = b->line[slot[k] - 1].group;
        }
    }
    ns_free(slot);
    return NS_OK;
}

/* Stable counting sort by group number. */
static ns_status sort_by_group(ns_block *b, int64_t n_groups, ns_error *err)
{
    int64_t *at = NULL, *order = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_alloc((void **)&at, (size_t)(n_groups + 1) * sizeof *at, "prepare.groups", err), "groups");
    NS_CHECK(st, ns_alloc((void **)&order, b->n * sizeof *order, "prepare.groups", err), "groups");
    for (size_t i = 0; i < b->n; i++) at[b->line[i].group + 1]++;
    for (int64_t g = 0; g < n_groups; g++) at[g + 1] += at[g];
    for (size_t i = 0; i < b->n; i++) order[at[b->line[i].group]++] = (int64_t)i;
    NS_CHECK(st, reorder(b, order, b->n, err), "groups");
done:
    ns_free(at);
    ns_free(order);
    return st;
}

static ns_status group_next(ns_stage *s, ns_block *out, ns_error *err)
{
    group_state *g = s->state;
    if (g->h.done) return NS_OK;
    g->h.done = 1;
    NS_TRY(hold(s, &g->h, err), "GroupSamples");
    ns_block keyed = {0};
    int64_t n_groups;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_block_map(&keyed, &g->h.all, s->run, NS_MAP_KEEP_DROPPED, group_row, g, err), "GroupSamples");
    NS_CHECK(st, number_groups(&g->h.all, keyed.line, &n_groups, err), "GroupSamples");
    NS_CHECK(st, sort_by_group(&g->h.all, n_groups, err), "GroupSamples");
    give(&g->h, out);
done:
    ns_block_free(&keyed);
    return st;
}

static void group_free(ns_stage *s)
{
    group_state *g = s->state;
    if (g) release(&g->h);
    ns_free(g);
}

const ns_stage_class ns_stage_group = {
    .name = "GroupSamples", .params = group_params, .init = group_init, .next = group_next, .free = group_free};

/* ---- CodeTextFilter ---- */
typedef enum code_mode { ALL_BOTH, ONLY_CODE, MAJORITY_CODE, MAJORITY_TEXT, ANY_CODE } code_mode;
typedef struct code_state {
    held h;
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

static ns_status code_row(void *arg, const ns_line *in, const char *where, ns_arena *a, ns_buf *out, ns_line *note,
                          ns_error *err)
{
    const code_state *c = arg;
    ns_json *row;
    ns_str t;
    (void)out;
    NS_TRY(ns_row_parse(&row, a, in, where, err), "CodeTextFilter");
    NS_TRY(ns_row_text(&t, row, c->key, where, err), "CodeTextFilter");
    note->flag = memmem(t.p, t.n, c->t.code_begin, strlen(c->t.code_begin)) != NULL;
    return NS_OK;
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

static ns_status code_next(ns_stage *s, ns_block *out, ns_error *err)
{
    code_state *c = s->state;
    if (c->h.done) return NS_OK;
    c->h.done = 1;
    NS_TRY(hold(s, &c->h, err), "CodeTextFilter");
    ns_block marked = {0}, *b = &c->h.all;
    int64_t *order = NULL;
    size_t n = 0;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_block_map(&marked, b, s->run, NS_MAP_KEEP_DROPPED, code_row, c, err), "CodeTextFilter");
    NS_CHECK(st, ns_alloc((void **)&order, (b->n + 1) * sizeof *order, "prepare.code", err), "CodeTextFilter");
    for (size_t i = 0, end; i < b->n; i = end) {
        size_t n_code = 0;
        for (end = i; end < b->n && (end == i || (b->line[i].group >= 0 && b->line[end].group == b->line[i].group));
             end++)
            n_code += marked.line[end].flag == 1;
        int what = choose(c->mode, n_code, end - i);
        for (int text = 0; text < 2; text++)
            for (size_t k = i; k < end; k++)
                if (what >> text & 1 && marked.line[k].flag == !text) order[n++] = (int64_t)k;
    }
    NS_INFO("Number of entries after processing: %zu", n);
    NS_INFO("Number of removed entries: %zu", b->n - n);
    NS_CHECK(st, reorder(b, order, n, err), "CodeTextFilter");
    give(&c->h, out);
done:
    ns_free(order);
    ns_block_free(&marked);
    return st;
}

static void code_free(ns_stage *s)
{
    code_state *c = s->state;
    if (c) release(&c->h);
    ns_free(c);
}

const ns_stage_class ns_stage_code_text = {
    .name = "CodeTextFilter", .params = code_params, .init = code_init, .next = code_next, .free = code_free};

/* ---- ShuffleAndDownsampleData ---- */
typedef struct shuffle_state {
    held h;
    int64_t seed, n_samples; /* n_samples -1: all */
    int do_shuffle, fair;
} shuffle_state;

static const char *const shuffle_params[] = {"random_seed", "do_shuffle", "num_samples", "sampling_method", NULL};

static ns_status shuffle_init(ns_stage *s, ns_error *err)
{
    const char *method;
    NS_TRY(ns_alloc(&s->state, sizeof(shuffle_state), "prepare.shuffle", err), "shuffle");
    shuffle_state *f = s->state;
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

/* Row numbers, round-robin over the groups: first of every group, then second of every group, ... */
static size_t round_robin(const ns_block *b, int64_t *order, int64_t *start, size_t want)
{
    size_t n_groups = 0, n = 0;
    for (size_t i = 0; i < b->n; i++)
        if (!i || b->line[i].group < 0 || b->line[i].group != b->line[i - 1].group) start[n_groups++] = (int64_t)i;
    start[n_groups] = (int64_t)b->n;
    for (int64_t k = 0; n < want; k++)
        for (size_t g = 0; g < n_groups && n < want; g++)
            if (start[g] + k < start[g + 1]) order[n++] = start[g] + k;
    return n;
}

static ns_status shuffle_next(ns_stage *s, ns_block *out, ns_error *err)
{
    shuffle_state *f = s->state;
    ns_block *b = &f->h.all;
    int64_t *order = NULL, *start = NULL;
    ns_status st = NS_OK;
    ns_mt rng;
    if (!f->do_shuffle && f->n_samples < 0) { /* the order stays and all rows do: nothing needs holding */
        NS_TRY(ns_stage_next(s->input, out, err), "shuffle");
        for (size_t i = 0; i < out->n; i++) out->line[i].group = -1;
        return NS_OK;
    }
    if (f->h.done) return NS_OK;
    f->h.done = 1;
    NS_TRY(hold(s, &f->h, err), "shuffle");
    size_t want = f->n_samples < 0 || (size_t)f->n_samples > b->n ? b->n : (size_t)f->n_samples, n = b->n;
    if (f->n_samples >= 0 && (size_t)f->n_samples > b->n)
        NS_WARN("num_output_samples is %" PRId64 " and only %zu rows are left: all are kept", f->n_samples, b->n);
    NS_CHECK(st, ns_alloc((void **)&order, (b->n + 1) * sizeof *order, "prepare.shuffle", err), "shuffle");
    for (size_t i = 0; i < b->n; i++) order[i] = (int64_t)i;
    ns_mt_seed_python(&rng, (uint64_t)(f->seed < 0 ? -f->seed : f->seed));
    if (f->fair && want < b->n) {
        NS_CHECK(st, ns_alloc((void **)&start, (b->n + 1) * sizeof *start, "prepare.shuffle", err), "shuffle");
        n = round_robin(b, order, start, want);
    }
    if (f->do_shuffle) ns_shuffle_python(&rng, order, n);
    NS_CHECK(st, reorder(b, order, n < want ? n : want, err), "shuffle");
    for (size_t i = 0; i < b->n; i++) b->line[i].group = -1;
    give(&f->h, out);
done:
    ns_free(order);
    ns_free(start);
    return st;
}

static void shuffle_free(ns_stage *s)
{
    shuffle_state *f = s->state;
    if (f) release(&f->h);
    ns_free(f);
}

const ns_stage_class ns_stage_shuffle = {.name = "ShuffleAndDownsampleData",
                                         .params = shuffle_params,
                                         .init = shuffle_init,
                                         .next = shuffle_next,
                                         .free = shuffle_free};
