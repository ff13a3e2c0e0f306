/* SFT rows: a file of rows -> ns_examples (rows.h).
 *
 *   mapped file (packed, Parquet: read) ─lines─▶ tiles of 256 rows ─parse, tokenise (all threads)─▶ per-tile ids ─join in file order─▶ counts, hash
 *
 * Invariants: the result does not depend on the number of threads or on timing: tiles are cut by row number and joined in
 * order, and of several bad rows the first in the file is reported. Truncated, empty, duplicate and target-less rows are
 * kept, counted and named in the log; rows are dropped only with NS_LONG_DROP, counted and listed. */
#include "data/rows.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "data/chat_internal.h"
#include "data/spool.h"

enum { TILE_ROWS = 256, TILES_A_ROUND = 64, MAX_ROW_IDS = 1 << 28 };

typedef struct tile_out {
    ns_row_out row;
    int64_t *len;    /* ids of each row; -1: dropped */
    int64_t *full;   /* ids of each row before truncation */
    int32_t *answer; /* answer_start of each row */
    uint8_t *flags;  /* NS_ROW_* of each row */
    uint64_t *key;   /* [2 per row] content hash */
    int64_t n_truncated, n_empty, n_short_field;
    int64_t n_note[NS_CHAT_N_NOTES], n_form[NS_CHAT_N_FORMS];
    ns_error err;
} tile_out;

typedef struct loader {
    const char *path;
    const ns_tok *tok;
    ns_rows_options o;
    ns_rows_template tmpl;
    const ns_chat_layout *layout; /* shipped layout of chat rows, NULL: chat template or template rows */
    int chat, form, standard;     /* chat rows; form that row_form names, else -2: each row's own */
    ns_map map;                   /* the file, or */
    ns_buf text;                  /* its rows where it is packed or Parquet */
    const char **line;            /* [n+1] starts of lines; line[i+1] - 1 is the newline */
    size_t *line_len, line_cap, line_len_cap;
    int64_t n;
    tile_out *tile; /* of one round */
    int64_t first_tile;
    atomic_int_fast64_t first_bad; /* lowest tile that failed: later ones need not run */
} loader;

const char *ns_json_type_text(const ns_json *v)
{
    if (!v) return "missing";
    switch (v->type) {
    case NS_JSON_NULL: return "null";
    case NS_JSON_BOOL: return "true or false";
    case NS_JSON_NUMBER: return "a number";
    case NS_JSON_STRING: return "text";
    case NS_JSON_ARRAY: return "a list";
    case NS_JSON_OBJECT: return "an object";
    }
    return "unknown";
}

const char *ns_rows_keys(const ns_json *row, char *buf, size_t n)
{
    size_t at = 0;
    buf[0] = 0;
    for (size_t i = 0; row->type == NS_JSON_OBJECT && i < row->n && at + 40 < n; i++)
        at += (size_t)snprintf(buf + at, n - at, "%s%.*s", i ? ", " : "",
                               (int)(row->keys[i].n < 30 ? row->keys[i].n : 30), row->keys[i].p);
    return buf[0] ? buf : "no keys";
}

/* splitmix64 finaliser: every input bit reaches every output bit */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void hash_row(uint64_t key[2], const int32_t *ids, const uint8_t *mask, int64_t n, int32_t answer)
{
    uint64_t a = mix((uint64_t)n), b = mix(~(uint64_t)answer);
    for (int64_t i = 0; i < n; i++) {
        uint64_t v = (uint64_t)(uint32_t)ids[i] | (uint64_t)(mask ? mask[i] : 0) << 32;
        a = mix(a ^ v);
        b = mix(b + (v ^ 0x9e3779b97f4a7c15u));
    }
    key[0] = a;
    key[1] = b;
}

/* ---- lines ---- */
/* A plain file is mapped; of a packed one, or of Parquet, the lines are held in memory until they are tokenised. */
static ns_status open_rows(loader *l, ns_error *err)
{
    ns_jsonl *r = NULL;
    const char *line = "", *where;
    size_t n;
    ns_status st;
    if (!strcmp(l->path, "-")) return ns_map_open(&l->map, l->path, err); /* rows are read twice: not from a pipe */
    NS_TRY(ns_jsonl_open(&r, l->path, err), "%s", "");
    if (!strcmp(ns_jsonl_kind(r), "plain")) {
        ns_jsonl_close(&r);
        return ns_map_open(&l->map, l->path, err);
    }
    ns_jsonl_allow_trailing_blank(r);
    NS_CHECK(st, ns_buf_reserve(&l->text, 1, err), "rows");
    for (;;) {
        NS_CHECK(st, ns_jsonl_next_line(r, &line, &n, &where, err), "%s", "");
        if (!line) break;
        NS_CHECK(st, ns_buf_add(&l->text, line, n, err), "%s", where);
        NS_CHECK(st, ns_buf_addc(&l->text, '\n', err), "%s", where);
    }
done:
    ns_jsonl_close(&r);
    return st;
}

static ns_status find_lines(loader *l, ns_error *err)
{
    size_t size = l->text.data ? l->text.len : l->map.size;
    const char *p = l->text.data ? l->text.data : (const char *)l->map.data, *end = p + size;
    if (end - p >= 3 && !memcmp(p, "\xef\xbb\xbf", 3)) p += 3;     /* a byte-order mark is not a row */
    while (end > p && (end[-1] == '\n' || end[-1] == '\r')) end--; /* trailing empty lines are no rows */
    NS_FAIL_IF(p == end, NS_ERR_INPUT, "%s: no rows: the file has %zu bytes and no JSON line", l->path, size);
    while (p < end) {
        const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl ? nl : end;
        size_t n = (size_t)(stop - p);
        if (n && p[n - 1] == '\r') n--;
        NS_FAIL_IF(n == 0, NS_ERR_INPUT, "%s:%" PRId64 ": blank line, expected one JSON object a line: delete the line",
                   l->path, l->n + 1);
        NS_TRY(ns_grow((void **)&l->line, &l->line_cap, (size_t)l->n + 1, sizeof *l->line, "rows.lines", err), "lines");
        NS_TRY(
            ns_grow((void **)&l->line_len, &l->line_len_cap, (size_t)l->n + 1, sizeof *l->line_len, "rows.lines", err),
            "lines");
        l->line[l->n] = p;
        l->line_len[l->n++] = n;
        p = nl ? nl + 1 : end;
    }
    return NS_OK;
}

static ns_status parse_row(const loader *l, ns_json **row, ns_arena *a, int64_t i, char *where, size_t where_size,
                           ns_error *err)
{
    snprintf(where, where_size, "%s:%" PRId64, l->path, i + 1);
    NS_TRY(ns_json_parse(row, a, l->line[i], l->line_len[i], where, 0, err), "read row");
    NS_FAIL_IF((*row)->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s: the row is %s, expected an object", where,
               ns_json_type_text(*row));
    return NS_OK;
}

/* ---- format ---- */
static int is_text(const ns_json *row, const char *key)
{
    const ns_json *v = ns_json_get(row, key);
    return v && v->type == NS_JSON_STRING;
}

static int is_list(const ns_json *row, const char *key)
{
    const ns_json *v = ns_json_get(row, key);
    return v && v->type == NS_JSON_ARRAY;
}

/* Alpaca rows also have input and output. What tells them from prepared rows that kept an `instruction` key: there the
 * input is the whole prompt, instruction included. */
static int is_alpaca(const ns_json *row)
{
    if (!is_text(row, "instruction") || !is_text(row, "output")) return 0;
    if (!is_text(row, "input")) return 1;
    ns_str in = ns_json_get(row, "input")->s, what = ns_json_get(row, "instruction")->s;
    return what.n == 0 || !in.n || !memmem(in.p, in.n, what.p, what.n);
}

const char *const ns_chat_form_name[NS_CHAT_N_FORMS] = {"messages", "sharegpt", "alpaca", "prompt/completion"};

int ns_chat_form_of(const ns_json *row, int standard)
{
    if (standard && is_alpaca(row)) return NS_CHAT_ALPACA;
    if (is_list(row, "messages")) return NS_CHAT_MESSAGES;
    if (is_list(row, "conversations")) /* from and value, or role and content under another name */
        return NS_CHAT_SHAREGPT;
    return is_list(row, "prompt") && is_list(row, "completion") ? NS_CHAT_PROMPT_COMPLETION : -1;
}

/* The form that row_form names; -1: template rows, -2: none is named. */
static int forced_form(const ns_rows_options *o)
{
    static const char *const names[NS_CHAT_N_FORMS] = {"messages", "sharegpt", "alpaca", "prompt_completion"};
    if (!o->chat || !o->chat->form) return -2;
    for (int i = 0; i < NS_CHAT_N_FORMS; i++)
        if (!strcmp(o->chat->form, names[i])) return i;
    return -1;
}

int ns_rows_form(const ns_json *row, const ns_chat *c)
{
    const ns_rows_options o = {.chat = c};
    int forced = forced_form(&o);
    return forced != -2 ? forced : ns_chat_form_of(row, 1);
}

static ns_status detect(loader *l, ns_examples *out, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("rows.first");
    ns_json *row;
    ns_status st = NS_OK;
    char where[4200], keys[256];
    const char *name = NULL;
    int standard = !strcmp(l->o.prompt_template, "{input}{output}");
    NS_CHECK(st, ns_rows_template_init(&l->tmpl, &l->o, ns_tok_space_sensitive(l->tok), err), "prompt template");
    NS_CHECK(st, parse_row(l, &row, &a, 0, where, sizeof where, err), "first row");
    int forced = forced_form(&l->o), form = forced != -2 ? forced : ns_chat_form_of(row, standard);
    l->form = forced;
    l->standard = standard;
    if (form == NS_CHAT_ALPACA || forced >= 0)
        name = ns_chat_form_name[form], l->chat = 1;
    else if (ns_rows_template_fits(&l->tmpl, row))
        name = standard ? "input/output" : "template";
    else if (form >= 0)
        name = ns_chat_form_name[form], l->chat = 1;
    else if (is_text(row, "prompt") && is_text(row, "completion")) {
        name = "prompt/completion";
        l->o.prompt_template = "{prompt}{completion}";
        l->o.label_key = "completion";
        l->o.truncation_field = "prompt";
        ns_rows_template_free(&l->tmpl);
        NS_CHECK(st, ns_rows_template_init(&l->tmpl, &l->o, ns_tok_space_sensitive(l->tok), err), "prompt template");
    }
    NS_BAIL_IF(st, !name, NS_ERR_INPUT,
               "%s: the row has %s; expected the fields of prompt_template '%s', or prompt and completion, instruction "
               "and output (alpaca), conversations (sharegpt) or messages: set prompt_template and label_key (for "
               "example '{question}{answer}' and answer), or run ns prepare first",
               where, ns_rows_keys(row, keys, sizeof keys), l->o.prompt_template);
    const char *file = ns_chat_template_file(l->o.chat);
    const ns_json *nemo = form == NS_CHAT_SHAREGPT ? ns_json_get(row, "mask") : NULL;
    int own = nemo && nemo->type == NS_JSON_STRING;
    if (l->chat && !own) NS_CHECK(st, ns_chat_usable(l->o.chat, err), "chat template");
    if (l->chat && (!file || own))
        NS_CHECK(st, ns_chat_layout_find(&l->layout, l->tok, (ns_chat_form)form, err), "%s", where);
    snprintf(out->format, sizeof out->format, "%s", name);
    if (l->chat)
        snprintf(out->layout, sizeof out->layout, "%s%s", l->layout ? l->layout->name : file,
                 own && file ? " (rows of prepare's chat formats)" : "");
done:
    ns_arena_free(&a);
    return st;
}

/* ---- parts ---- */
/* Number of the part of that name; the last one collects whatever exceeds the table. */
static int part_number(ns_rows_part *part, int *n, ns_str name)
{
    size_t len = name.n < sizeof part->name - 1 ? name.n : sizeof part->name - 1;
    for (int i = 0; i < *n; i++)
        if (strlen(part[i].name) == len && !memcmp(part[i].name, name.p, len)) return i;
    if (*n == NS_ROWS_MAX_PARTS) return *n - 1;
    memcpy(part[*n].name, name.p, len);
    part[*n].name[len] = 0;
    return (*n)++;
}

ns_status ns_row_span_add(ns_row_out *out, ns_str name, int64_t end, ns_error *err)
{
    NS_TRY(ns_grow((void **)&out->span, &out->span_cap, out->n_span + 1, sizeof *out->span, "rows.span", err), "span");
    out->span[out->n_span++] = (struct ns_row_span){part_number(out->part, &out->n_parts, name), end};
    return NS_OK;
}

/* Adds the row of n ids to the totals of its parts. A chat row cut on the left has lost `lost` ids in front. */
static void count_parts(ns_row_out *out, const uint8_t *mask, int64_t n, int64_t lost)
{
    int64_t at = 0;
    for (size_t i = 0; i < out->n_span && at < n; i++) {
        ns_rows_part *p = &out->part[out->span[i].part];
        int64_t end = out->span[i].end - lost < n ? out->span[i].end - lost : n;
        for (; at < end; at++) {
            p->tokens++;
            p->trained += at > 0 && (mask ? mask[at] != 0 : at >= out->answer_start);
        }
    }
}

/* ---- tiles ---- */
static ns_status row_to_ids(loader *l, tile_out *t, ns_arena *a, int64_t i, int64_t k, ns_error *err)
{
    ns_json *row;
    char where[4200];
    size_t begin = t->row.ids.n;
    NS_TRY(parse_row(l, &row, a, i, where, sizeof where, err), "format %s", l->chat ? "chat" : "template");
    t->row.truncated = t->row.empty = t->row.short_field = 0;
    t->row.n_span = 0;
    t->row.notes = 0;
    if (l->chat) {
        int form = l->form >= 0 ? l->form : ns_chat_form_of(row, l->standard);
        char keys[256];
        NS_FAIL_IF(form < 0, NS_ERR_INPUT,
                   "%s: the row has %s and no conversation (messages, conversations, instruction and output, prompt "
                   "and completion); "
                   "the file began with one",
                   where, ns_rows_keys(row, keys, sizeof keys));
        NS_TRY(ns_rows_chat(&t->row, (ns_chat_form)form, l->layout, &l->o, l->tok, row, a, where, err), "row");
        t->n_form[form]++;
        for (int q = 0; q < NS_CHAT_N_NOTES; q++) t->n_note[q] += t->row.notes >> q & 1;
    } else
        NS_TRY(ns_rows_text(&t->row, &l->tmpl, &l->o, l->tok, row, where, err), "row");
    size_t n = t->row.ids.n - begin;
    NS_FAIL_IF(n > MAX_ROW_IDS, NS_ERR_INPUT, "%s: the row has %zu tokens, more than %d", where, n, MAX_ROW_IDS);
    const int32_t *ids = t->row.ids.v + begin;
    t->full[k] = t->row.full;
    NS_FAIL_IF(t->row.truncated && l->o.too_long == NS_LONG_ERROR, NS_ERR_INPUT,
               "%s: the row has %" PRId64 " tokens, max_seq_length is %" PRId64
               ": raise it, or choose truncation_method=right, left or drop",
               where, t->row.full, l->o.max_seq_length);
    if (t->row.truncated && l->o.too_long == NS_LONG_DROP) {
        t->row.ids.n = begin;
        t->len[k] = -1;
        return NS_OK;
    }
    int32_t bos = l->o.bos_id >= 0 ? l->o.bos_id : ns_tok_bos(l->tok);
    t->len[k] = (int64_t)n;
    t->answer[k] = t->row.answer_start;
    t->flags[k] = (uint8_t)((t->row.truncated ? NS_ROW_TRUNCATED : 0) | (t->row.empty ? NS_ROW_EMPTY : 0) |
                            (t->row.short_field ? NS_ROW_SHORT_FIELD : 0) |
                            (n > 1 && bos >= 0 && ids[0] == bos && ids[1] == bos ? NS_ROW_DOUBLE_BOS : 0));
    t->n_truncated += t->row.truncated;
    t->n_empty += t->row.empty;
    t->n_short_field += t->row.short_field;
    const uint8_t *mask = l->chat ? t->row.mask + begin : NULL;
    NS_TRY(ns_row_span_add(&t->row, (ns_str){"other", 5}, INT64_MAX / 2, err), "%s", where);
    int64_t whole = t->row.n_span > 1 ? t->row.span[t->row.n_span - 2].end : 0;
    count_parts(&t->row, mask, (int64_t)n,
                l->o.too_long == NS_LONG_LEFT && whole > (int64_t)n ? whole - (int64_t)n : 0);
    hash_row(t->key + 2 * k, ids, mask, (int64_t)n, t->row.answer_start);
    return NS_OK;
}

static void run_tile(void *arg, int index, int worker)
{
    (void)worker;
    loader *l = arg;
    tile_out *t = &l->tile[index];
    int64_t tile = l->first_tile + index, from = tile * TILE_ROWS;
    int64_t rows = l->n - from < TILE_ROWS ? l->n - from : TILE_ROWS;
    if (tile > atomic_load(&l->first_bad)) return;
    ns_error *err = &t->err;
    ns_status st = NS_OK;
    ns_arena a = NS_ARENA_INIT("rows.tile");
    NS_CHECK(st, ns_alloc((void **)&t->len, TILE_ROWS * sizeof *t->len, "rows.tile", err), "tile");
    NS_CHECK(st, ns_alloc((void **)&t->full, TILE_ROWS * sizeof *t->full, "rows.tile", err), "tile");
    NS_CHECK(st, ns_alloc((void **)&t->answer, TILE_ROWS * sizeof *t->answer, "rows.tile", err), "tile");
    NS_CHECK(st, ns_alloc((void **)&t->flags, TILE_ROWS, "rows.tile", err), "tile");
    NS_CHECK(st, ns_alloc((void **)&t->key, TILE_ROWS * 2 * sizeof *t->key, "rows.tile", err), "tile");
    NS_CHECK(st, ns_alloc((void **)&t->row.piece, NS_ROWS_MAX_PIECES * sizeof *t->row.piece, "rows.tile", err), "tile");
    for (int64_t k = 0; k < rows; k++) {
        ns_arena_mark m = ns_arena_save(&a);
        NS_CHECK(st, row_to_ids(l, t, &a, from + k, k, err), "tokenise");
        ns_arena_rollback(&a, m);
    }
done:
    ns_arena_free(&a);
    if (st != NS_OK) {
        int_fast64_t seen = atomic_load(&l->first_bad);
        while (tile < seen && !atomic_compare_exchange_weak(&l->first_bad, &seen, tile)) {
        }
    }
}

static void free_tile(tile_out *t)
{
    ns_ids_free(&t->row.ids);
    ns_free(t->row.mask);
    for (int i = 0; t->row.piece && i < NS_ROWS_MAX_PIECES; i++) ns_ids_free(&t->row.piece[i]);
    ns_free(t->row.piece);
    ns_free(t->row.span);
    ns_free(t->len);
    ns_free(t->full);
    ns_free(t->answer);
    ns_free(t->flags);
    ns_free(t->key);
    memset(t, 0, sizeof *t);
}

/* ---- joining, in file order ---- */
typedef struct joined {
    size_t ids_cap, mask_cap, dropped_cap;
    ns_spool ids, masks; /* when rows are kept in files */
    uint64_t *key;       /* [2n] */
    int64_t n, n_short_field, n_note[NS_CHAT_N_NOTES], n_form[NS_CHAT_N_FORMS];
} joined;

static ns_status join_tile(joined *j, ns_examples *out, const loader *l, const tile_out *t, int64_t from, int64_t rows,
                           ns_error *err)
{
    size_t at = (size_t)out->start[j->n], n = t->row.ids.n;
    if (l->o.spool) {
        NS_TRY(ns_spool_add(&j->ids, t->row.ids.v, n * sizeof *out->ids, err), "ids");
        if (l->chat) NS_TRY(ns_spool_add(&j->masks, t->row.mask, n, err), "mask");
    } else {
        NS_TRY(ns_grow((void **)&out->ids, &j->ids_cap, at + n, sizeof *out->ids, "rows.ids", err), "ids");
        if (n) memcpy(out->ids + at, t->row.ids.v, n * sizeof *out->ids);
    }
    if (l->chat && !l->o.spool) {
        NS_TRY(ns_grow((void **)&out->mask, &j->mask_cap, at + n, 1, "rows.mask", err), "mask");
        if (n) memcpy(out->mask + at, t->row.mask, n);
    }
    for (int64_t k = 0; k < rows; k++) {
        if (t->len[k] < 0) {
            NS_TRY(ns_grow((void **)&out->dropped, &j->dropped_cap, (size_t)out->n_dropped + 1, sizeof *out->dropped,
                           "rows.dropped", err),
                   "dropped rows");
            out->dropped[out->n_dropped++] = (struct ns_row_dropped){from + k + 1, t->full[k]};
            continue;
        }
        int64_t len = t->len[k], e = j->n++;
        if (out->line) out->line[e] = from + k + 1;
        out->full[e] = (int32_t)t->full[k];
        out->n_double_bos += (t->flags[k] & NS_ROW_DOUBLE_BOS) != 0;
        out->start[e + 1] = out->start[e] + len;
        out->answer_start[e] = t->answer[k];
        out->flags[e] = t->flags[k];
        memcpy(j->key + 2 * e, t->key + 2 * k, 2 * sizeof *j->key);
        if (len > out->longest) out->longest = len;
        int64_t targets = 0;
        if (l->chat)
            for (int64_t q = 1; q < len; q++) targets += t->row.mask[(size_t)out->start[e] - at + (size_t)q];
        else if (len > 1)
            targets = len - (t->answer[k] > 1 ? t->answer[k] : 1);
        if (targets < 0) targets = 0;
        out->n_targets += targets;
        out->n_all_masked += targets == 0;
    }
    for (int i = 0; i < t->row.n_parts; i++) {
        const ns_rows_part *p = &t->row.part[i];
        if (!p->tokens) continue; /* "other" of most rows */
        int k = part_number(out->part, &out->n_parts, (ns_str){p->name, strlen(p->name)});
        out->part[k].tokens += p->tokens;
        out->part[k].trained += p->trained;
    }
    out->n_truncated += t->n_truncated;
    out->n_empty += t->n_empty;
    j->n_short_field += t->n_short_field;
    for (int i = 0; i < NS_CHAT_N_NOTES; i++) j->n_note[i] += t->n_note[i];
    for (int i = 0; i < NS_CHAT_N_FORMS; i++) j->n_form[i] += t->n_form[i];
    return NS_OK;
}

/* Rows whose ids, mask and answer start equal an earlier row's (128-bit content hash). */
static ns_status count_duplicates(ns_examples *out, const uint64_t *key, ns_error *err)
{
    size_t cap = 16;
    while (cap < (size_t)out->n + (size_t)out->n / 2) cap *= 2;
    uint32_t *slot = NULL; /* row + 1 */
    NS_FAIL_IF(out->n >= UINT32_MAX, NS_ERR_INPUT, "%" PRId64 " rows in one file: at most %u", out->n, UINT32_MAX - 1);
    NS_TRY(ns_alloc((void **)&slot, cap * sizeof *slot, "rows.duplicates", err), "duplicates");
    for (int64_t i = 0; i < out->n; i++) {
        size_t h = (size_t)key[2 * i] & (cap - 1);
        while (slot[h] && memcmp(key + 2 * (size_t)(slot[h] - 1), key + 2 * i, 2 * sizeof *key))
            h = (h + 1) & (cap - 1);
        out->n_duplicate += slot[h] != 0;
        if (!slot[h]) slot[h] = (uint32_t)i + 1;
        out->same_as[i] = (int64_t)slot[h] - 1;
    }
    ns_free(slot);
    return NS_OK;
}

static ns_status tokenise_all(loader *l, ns_examples *out, ns_threads *pool, joined *j, ns_error *err)
{
    ns_status st = NS_OK;
    int64_t n_tiles = (l->n + TILE_ROWS - 1) / TILE_ROWS;
    ns_progress *progress = ns_progress_begin("tokenise", (double)l->n, "rows");
    atomic_store(&l->first_bad, INT64_MAX);
    NS_CHECK(st, ns_alloc((void **)&l->tile, TILES_A_ROUND * sizeof *l->tile, "rows.tiles", err), "tiles");
    NS_CHECK(st, ns_alloc((void **)&out->start, (size_t)(l->n + 1) * sizeof *out->start, "rows.start", err), "start");
    NS_CHECK(st, ns_alloc((void **)&out->answer_start, (size_t)l->n * sizeof *out->answer_start, "rows.answer", err),
             "answer");
    NS_CHECK(st, ns_alloc((void **)&out->full, (size_t)l->n * sizeof *out->full, "rows.full", err), "full");
    if (l->o.too_long == NS_LONG_DROP)
        NS_CHECK(st, ns_alloc((void **)&out->line, (size_t)l->n * sizeof *out->line, "rows.line", err), "line");
    NS_CHECK(st, ns_alloc((void **)&out->flags, (size_t)l->n, "rows.flags", err), "flags");
    NS_CHECK(st, ns_alloc((void **)&out->same_as, (size_t)l->n * sizeof *out->same_as, "rows.same_as", err), "same_as");
    NS_CHECK(st, ns_alloc((void **)&j->key, (size_t)l->n * 2 * sizeof *j->key, "rows.keys", err), "keys");
    for (l->first_tile = 0; l->first_tile < n_tiles; l->first_tile += TILES_A_ROUND) {
        int64_t left = n_tiles - l->first_tile;
        int round = (int)(left < TILES_A_ROUND ? left : TILES_A_ROUND);
        ns_parallel_for(pool, round, run_tile, l);
        for (int i = 0; i < round; i++) {
            tile_out *t = &l->tile[i];
            if (t->err.code != NS_OK) { /* first in file order */
                if (err) *err = t->err;
                st = t->err.code;
                goto done;
            }
            int64_t from = (l->first_tile + i) * TILE_ROWS, rest = l->n - from;
            NS_CHECK(st, join_tile(j, out, l, t, from, rest < TILE_ROWS ? rest : TILE_ROWS, err), "%s", l->path);
            free_tile(t);
        }
        ns_progress_set(progress, (double)(j->n + out->n_dropped), NULL);
    }
    out->n = j->n;
    out->n_ids = out->start[out->n];
    if (l->o.spool) {
        NS_CHECK(st, ns_spool_map(&out->map[0], &j->ids, err), "ids");
        NS_CHECK(st, ns_spool_map(&out->map[1], &j->masks, err), "mask");
        out->ids = (int32_t *)(uintptr_t)out->map[0].data;
        if (l->chat) out->mask = (uint8_t *)(uintptr_t)out->map[1].data;
    }
done:
    ns_spool_close(&j->ids);
    ns_spool_close(&j->masks);
    for (int i = 0; l->tile && i < TILES_A_ROUND; i++) free_tile(&l->tile[i]);
    ns_progress_end(&progress, NULL);
    return st;
}

static ns_status check_options(ns_rows_options *o, const ns_tok *tok, ns_error *err)
{
    NS_FAIL_IF(o->max_seq_length < 2, NS_ERR_CONFIG, "max_seq_length %" PRId64 " leaves nothing to predict: at least 2",
               o->max_seq_length);
    NS_FAIL_IF(o->max_seq_length > MAX_ROW_IDS, NS_ERR_CONFIG, "max_seq_length %" PRId64 " is more than %d",
               o->max_seq_length, MAX_ROW_IDS);
    o->add_bos = !!o->add_bos, o->add_eos = !!o->add_eos, o->add_sep = !!o->add_sep;
    if (o->bos_id < 0) o->bos_id = ns_tok_bos(tok);
    if (o->eos_id < 0) o->eos_id = ns_tok_eos(tok);
    NS_FAIL_IF(o->add_bos && o->bos_id < 0, NS_ERR_CONFIG, "add_bos is set and the tokenizer has no BOS token");
    NS_FAIL_IF(o->add_eos && o->eos_id < 0, NS_ERR_CONFIG, "add_eos is set and the tokenizer has no EOS token");
    NS_FAIL_IF(o->add_sep && o->sep_id < 0, NS_ERR_CONFIG, "add_sep is set without a sep_id");
    return NS_OK;
}

/* "messages 90, sharegpt 10" when the file mixes forms. */
static void name_forms(ns_examples *out, const joined *j)
{
    size_t at = 0, kinds = 0;
    for (int i = 0; i < NS_CHAT_N_FORMS; i++) kinds += j->n_form[i] > 0;
    for (int i = 0; kinds > 1 && i < NS_CHAT_N_FORMS; i++)
        if (j->n_form[i] && at < sizeof out->format)
            at += (size_t)snprintf(out->format + at, sizeof out->format - at, "%s%s %" PRId64, at ? ", " : "",
                                   ns_chat_form_name[i], j->n_form[i]);
}

static void report_notes(const loader *l, const joined *j)
{
    if (l->chat && !l->layout && !l->o.chat->date_fixed && ns_chat_template_uses(l->o.chat->tmpl, "strftime_now"))
        NS_WARN("%s: the chat template writes today's date into the rows: another day gives other rows; fix it with "
                "chat_date=YYYY-MM-DD",
                l->path);
    if (l->chat && !l->layout)
        NS_INFO("%s: what is trained: turns of %s%s%s, found by %s", l->path, l->o.chat->roles[0],
                l->o.chat->n_roles > 1 ? " and other roles" : "",
                l->o.chat->last_turn_only ? ", the last one of a row" : "",
                l->o.chat->only_assistant && ns_chat_template_has_generation(l->o.chat->tmpl, 0)
                    ? "the template's {% generation %} marks"
                    : "comparing renderings with and without the turn");
    static const char *const texts[NS_CHAT_N_NOTES] = {
        "have a trained turn that the chat template writes differently once others follow it (thoughts are dropped): "
        "it is trained "
        "as the whole row shows it",
        "have a trained turn without the thought (<think>) that the generation prompt opens: at inference the model is "
        "asked to think",
        "would have a token across the beginning of a trained turn: it is cut there, as the prompt is at inference",
        "hold special tokens in their text, which are read as the tokens (allow_special_text=true)",
        "have a trained turn without an end token (allow_missing_end=true)"};
    for (int i = 0; i < NS_CHAT_N_NOTES; i++)
        if (j->n_note[i]) NS_WARN("%s: %" PRId64 " rows %s", l->path, j->n_note[i], texts[i]);
}

static void report(const ns_examples *out, const loader *l, const joined *j)
{
    NS_INFO("%s: %" PRId64 " rows, format %s%s%s, %" PRId64 " tokens, %" PRId64 " targets, longest row %" PRId64,
            l->path, out->n, out->format, l->chat ? ", layout " : "", out->layout, out->start[out->n], out->n_targets,
            out->longest);
    if (out->n_truncated)
        NS_WARN("%s: %" PRId64 " of %" PRId64 " rows are longer than max_seq_length %" PRId64 " and were cut (%s)",
                l->path, out->n_truncated, out->n, l->o.max_seq_length,
                l->chat ? (l->o.too_long == NS_LONG_LEFT ? "their beginning" : "their end")
                        : (l->o.too_long == NS_LONG_LEFT
                               ? "the beginning of the truncation field, then of the row"
                               : "the end of the truncation field, assistant header included, then of "
                                 "the row"));
    if (out->n_dropped)
        NS_WARN("%s: %" PRId64 " of %" PRId64 " rows are longer than max_seq_length %" PRId64
                " and were dropped (truncation_method=drop)",
                l->path, out->n_dropped, out->n + out->n_dropped, l->o.max_seq_length);
    if (j->n_short_field)
        NS_WARN("%s: in %" PRId64 " of them %s is not long enough to truncate", l->path, j->n_short_field,
                l->o.truncation_field);
    if (out->n_all_masked)
        NS_WARN("%s: %" PRId64 " rows have no trained token: they cost time and teach nothing", l->path,
                out->n_all_masked);
    if (out->n_empty) NS_WARN("%s: %" PRId64 " rows have an empty answer", l->path, out->n_empty);
    if (out->n_duplicate) NS_WARN("%s: %" PRId64 " rows repeat an earlier row", l->path, out->n_duplicate);
    if (out->n_double_bos)
        NS_WARN("%s: %" PRId64 " rows begin with two BOS tokens: the text has one, set add_bos=false", l->path,
                out->n_double_bos);
    report_notes(l, j);
}

static void hash_all(ns_examples *out, const uint64_t *key)
{
    uint64_t h = mix((uint64_t)out->n);
    for (int64_t i = 0; i < 2 * out->n; i++) h = mix(h ^ key[i]);
    snprintf(out->hash, sizeof out->hash, "%016" PRIx64, h);
}

int ns_rows_long_parse(ns_rows_long *out, const char *name)
{
    static const char *const names[] = {"right", "left", "drop", "error"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(name, names[i])) {
            *out = (ns_rows_long)i;
            return 1;
        }
    return 0;
}

ns_status ns_rows_load(ns_examples *out, const char *path, const ns_tok *tok, const ns_rows_options *o,
                       ns_threads *pool, ns_error *err)
{
    loader l = {.path = path, .tok = tok, .o = *o};
    joined j = {0};
    ns_status st = NS_OK;
    memset(out, 0, sizeof *out);
    NS_CHECK(st, check_options(&l.o, tok, err), "%s", path);
    NS_CHECK(st, open_rows(&l, err), "training data");
    NS_CHECK(st, find_lines(&l, err), "training data");
    NS_CHECK(st, detect(&l, out, err), "training data");
    j.ids = j.masks = (ns_spool)NS_SPOOL_INIT(l.o.spool);
    NS_CHECK(st, tokenise_all(&l, out, pool, &j, err), "training data");
    ns_free(l.line);
    ns_free(l.line_len);
    l.line = NULL, l.line_len = NULL;
    NS_CHECK(st, count_duplicates(out, j.key, err), "training data");
    hash_all(out, j.key);
    name_forms(out, &j);
    report(out, &l, &j);
done:
    if (st != NS_OK) ns_examples_free(out);
    ns_free(j.key);
    ns_free(l.tile);
    ns_free(l.line);
    ns_free(l.line_len);
    ns_rows_template_free(&l.tmpl);
    ns_map_close(&l.map);
    ns_buf_free(&l.text);
    return st;
}

void ns_examples_free(ns_examples *ex)
{
    if (!ex) return;
    ns_free(ex->start);
    ns_free(ex->len);
    ns_free(ex->targets);
    ns_free(ex->answer_start);
    if (!ex->map[0].data) ns_free(ex->ids);
    if (!ex->map[1].data) ns_free(ex->mask);
    for (int k = 0; k < 2; k++) ns_map_close(&ex->map[k]);
    ns_free(ex->flags);
    ns_free(ex->same_as);
    ns_free(ex->dropped);
    ns_free(ex->line);
    ns_free(ex->full);
    memset(ex, 0, sizeof *ex);
}
