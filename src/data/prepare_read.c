/* ReadData: raw generations and ready rows from many files, filtered by correctness, stripped of unwanted keys,
 * deduplicated (data.md §2.3). Also the hidden source stage that reads an input_manifest_file.
 *
 *   files ─lines─▶ block ─parse, test, hash (all threads)─▶ first occurrence of every (input, output) pair
 *
 * Only hashes are held (24 to 48 bytes a distinct row, within ++memory), never the whole data set. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "data/files.h"
#include "data/prepare_fuse.h"
#include "data/prepare_rows.h"

enum { BLOCK_ROWS = 8192, LONG_LINE = 4 << 20, SHORT_LIMIT = 64 << 20 };
enum { KEPT, SKIP_EMPTY, SKIP_NO_LABEL, SKIP_WRONG };

typedef struct reader {
    ns_files raw, ready; /* raw files come first */
    const char *input_key, *output_key;
    int64_t skip_first;
    int add_correct, add_incorrect, use_judgement, deduplicate;
    const char **keep; /* NULL: every key */
    size_t n_keep;
    /* position */
    size_t file;    /* in raw, then ready */
    int first_file; /* number of our first file in ns_prepare.file */
    ns_jsonl *open;
    ns_block lines;   /* as read; its memory is used again */
    const char *line; /* read, and not yet in a block */
    size_t line_bytes;
    int is_raw; /* of the block in hand */
    ns_first seen;
    int64_t n_read, n_unique, n_empty, n_no_label, n_wrong;
    ns_progress *progress; /* may be NULL */
    int started, at_end, finished;
    double bytes_before;
} reader;

static const char *const read_params[] = {"input_files",         "preprocessed_dataset_files",
                                          "input_key",           "output_key",
                                          "skip_first",          "add_correct",
                                          "add_incorrect",       "use_judgement",
                                          "keys_to_keep",        "deduplicate",
                                          "allow_missing_files", NULL};

/* ---- options ---- */
static ns_status list_files(const ns_stage *s, const char *key, ns_files *out, int *given, ns_error *err)
{
    const ns_node *n;
    NS_TRY(ns_param(s, key, &n, err), "%s", key);
    if (!n) return NS_OK;
    *given = 1;
    if (n->type == NS_NODE_LIST) {
        for (size_t i = 0; i < n->n; i++) {
            NS_FAIL_IF(!n->items[i]->s, NS_ERR_CONFIG, "%s: item %zu is not a file name", key, i);
            NS_TRY(ns_files_add_pattern(out, n->items[i]->s, err), "%s", key);
        }
        return NS_OK;
    }
    NS_FAIL_IF(n->type == NS_NODE_MAP || !n->s, NS_ERR_CONFIG, "%s is a %s, expected file names or patterns", key,
               ns_node_type_name(n->type));
    return ns_files_add(out, n->s, err);
}

/* Says what each pattern matched; one without a match is an error, or a warning with allow_missing_files. */
static ns_status check_patterns(const ns_files *f, const char *key, int allow_missing, ns_error *err)
{
    for (size_t i = 0; i < f->n_patterns; i++) {
        const ns_file_pattern *p = &f->pattern[i];
        if (p->n) {
            NS_INFO("%s: %s: %zu file%s", key, p->text, p->n, p->n == 1 ? "" : "s");
            continue;
        }
        NS_FAIL_IF(
            !allow_missing, NS_ERR_INPUT,
            "%s: No files found with the given pattern. '%s' matches nothing: correct it, or go on without it with "
            "++allow_missing_files=true",
            key, p->text);
        NS_WARN("%s: '%s' matches no file", key, p->text);
    }
    return NS_OK;
}

static ns_status list_keep(ns_stage *s, reader *r, ns_error *err)
{
    const ns_node *n;
    NS_TRY(ns_param(s, "keys_to_keep", &n, err), "keys_to_keep");
    if (!n) return NS_OK;
    NS_FAIL_IF(n->type != NS_NODE_LIST, NS_ERR_CONFIG, "keys_to_keep is a %s, expected a list of names",
               ns_node_type_name(n->type));
    r->keep = ns_arena_alloc(&s->run->arena, (n->n + 4) * sizeof *r->keep, err);
    NS_FAIL_IF(!r->keep, NS_ERR_MEMORY, "keys_to_keep");
    for (size_t i = 0; i < n->n; i++) {
        NS_FAIL_IF(!n->items[i]->s, NS_ERR_CONFIG, "keys_to_keep: item %zu is not a name", i);
        r->keep[r->n_keep++] = n->items[i]->s;
    }
    r->keep[r->n_keep++] = r->input_key;
    if (r->output_key) {
        r->keep[r->n_keep++] = r->output_key;
        r->keep[r->n_keep++] = "is_correct";
        r->keep[r->n_keep++] = "judgement";
    }
    return NS_OK;
}

static ns_status register_files(ns_prepare *p, reader *r, ns_error *err)
{
    r->first_file = (int)p->n_files;
    for (size_t i = 0; i < r->raw.n + r->ready.n; i++) {
        NS_TRY(ns_grow((void **)&p->file, &p->files_cap, p->n_files + 1, sizeof *p->file, "prepare.files", err),
               "files");
        p->file[p->n_files++] = i < r->raw.n ? r->raw.path[i] : r->ready.path[i - r->raw.n];
    }
    return NS_OK;
}

static ns_status read_init(ns_stage *s, ns_error *err)
{
    reader *r = NULL;
    int raw = 0, ready = 0, missing_ok = 0;
    NS_TRY(ns_alloc((void **)&r, sizeof *r, "prepare.reader", err), "reader");
    s->state = r;
    ns_first_init(&r->seen, s->run, "ReadData", 0);
    NS_TRY(ns_param_str(s, "input_key", "question", &r->input_key, err), "ReadData");
    NS_TRY(ns_param_str(s, "output_key", NULL, &r->output_key, err), "ReadData");
    NS_TRY(ns_param_int(s, "skip_first", 0, &r->skip_first, err), "ReadData");
    NS_TRY(ns_param_bool(s, "add_correct", 1, &r->add_correct, err), "ReadData");
    NS_TRY(ns_param_bool(s, "add_incorrect", 0, &r->add_incorrect, err), "ReadData");
    NS_TRY(ns_param_bool(s, "use_judgement", 0, &r->use_judgement, err), "ReadData");
    NS_TRY(ns_param_bool(s, "deduplicate", 1, &r->deduplicate, err), "ReadData");
    NS_FAIL_IF(r->output_key && !r->add_correct && !r->add_incorrect, NS_ERR_CONFIG,
               "add_correct and add_incorrect are both false: nothing would be read");
    NS_TRY(list_keep(s, r, err), "ReadData");
    NS_TRY(ns_param_bool(s, "allow_missing_files", 0, &missing_ok, err), "ReadData");
    NS_TRY(list_files(s, "input_files", &r->raw, &raw, err), "input_files");
    NS_TRY(list_files(s, "preprocessed_dataset_files", &r->ready, &ready, err), "preprocessed_dataset_files");
    NS_TRY(check_patterns(&r->raw, "input_files", missing_ok, err), "ReadData");
    NS_TRY(check_patterns(&r->ready, "preprocessed_dataset_files", missing_ok, err), "ReadData");
    NS_FAIL_IF(!raw && !ready, NS_ERR_CONFIG,
               "no input: set ++input_files=PATTERN (generations with is_correct) or "
               "++preprocessed_dataset_files=PATTERN (ready rows)");
    NS_FAIL_IF(
        !r->raw.n && !r->ready.n, NS_ERR_INPUT,
        "No files found with the given pattern. (input_files, preprocessed_dataset_files; patterns are separated by "
        "commas or blanks)");
    return register_files(s->run, r, err);
}

static void read_free(ns_stage *s)
{
    reader *r = s->state;
    if (!r) return;
    ns_files_free(&r->raw);
    ns_files_free(&r->ready);
    ns_first_free(&r->seen);
    ns_block_free(&r->lines);
    if (r->open) ns_jsonl_close(&r->open);
    if (r->progress) ns_progress_end(&r->progress, NULL);
    ns_free(r);
}

/* ---- rows ---- */
static int judged_correct(ns_str j)
{
    const char mark[] = "Judgement:";
    const char *last = NULL;
    for (const char *p = j.p; j.n >= sizeof mark - 1;) {
        const char *hit = memmem(p, (size_t)(j.p + j.n - p), mark, sizeof mark - 1);
        if (!hit) break;
        last = hit;
        p = hit + 1;
    }
    if (!last) return 0;
    ns_str s = {last + sizeof mark - 1, 0};
    s.n = (size_t)(j.p + j.n - s.p);
    while (s.n && strchr(" \t\r\n\v\f", s.p[0])) s.p++, s.n--;
    while (s.n && strchr(" \t\r\n\v\f", s.p[s.n - 1])) s.n--;
    return s.n == 3 && !strncasecmp(s.p, "yes", 3);
}

static int kept_key(const reader *r, ns_str key)
{
    if (!r->keep) return 1;
    for (size_t i = 0; i < r->n_keep; i++)
        if (ns_str_eq(key, r->keep[i])) return 1;
    return 0;
}

/* Does the row pass the correctness test? Sets note->flag when not. */
static int passes(const reader *r, const ns_json *row, ns_line *note)
{
    const ns_json *v = ns_json_get(row, r->use_judgement ? "judgement" : "is_correct");
    if (!v) {
        note->flag = SKIP_NO_LABEL;
        return 0;
    }
    int correct = !r->use_judgement ? ns_json_truthy(v) : v->type == NS_JSON_STRING && judged_correct(v->s);
    if (correct ? r->add_correct : r->add_incorrect) return 1;
    note->flag = SKIP_WRONG;
    return 0;
}

static ns_status hash_key(ns_hash *h, const reader *r, const ns_json *row, const char *where, ns_error *err)
{
    const char *keys[] = {r->input_key, r->output_key};
    for (int i = 0; i < 2 && keys[i]; i++) {
        const ns_json *v = ns_json_get(row, keys[i]);
        ns_str unused;
        if (!v) {
            ns_status st = ns_row_text(&unused, row, keys[i], where, err); /* names the keys that there are */
            ns_error_frame(err, __FILE__, __LINE__, "set ++%s to the right name", i ? "output_key" : "input_key");
            return st;
        }
        NS_TRY(ns_json_hash(h, v, err), "%s", where);
    }
    return NS_OK;
}

static ns_status read_row(void *arg, const ns_line *in, const char *where, ns_arena *a, ns_buf *out, ns_line *note,
                          ns_error *err)
{
    const ns_stage *s = arg;
    const reader *r = s->state;
    ns_json *row;
    note->flag = KEPT;
    NS_TRY(ns_row_parse(&row, a, in, where, err), "ReadData");
    if (r->is_raw && !row->n) {
        note->flag = SKIP_EMPTY;
        return NS_OK;
    }
    if (r->is_raw && r->output_key && !passes(r, row, note)) return NS_OK;
    if (r->is_raw && !r->keep)
        NS_TRY(ns_json_set(row, a, "filename", ns_json_new_str(a, s->run->file[in->file], err), err), "%s", where);
    NS_TRY(hash_key(&note->key, r, row, where, err), "ReadData");
    if (r->keep) {
        size_t n = 0;
        for (size_t i = 0; i < row->n; i++) {
            if (!kept_key(r, row->keys[i])) continue;
            row->keys[n] = row->keys[i];
            row->items[n++] = row->items[i];
        }
        row->n = n;
    }
    if (s->run->fuse) return ns_fuse_row(s->run->fuse, row, where, a, out, err);
    return ns_json_write(out, row, NS_JSON_UTF8, err);
}

/* ---- blocks ---- */
static ns_status open_next(ns_stage *s, reader *r, ns_error *err)
{
    const char *path = s->run->file[(size_t)r->first_file + r->file];
    struct stat sb;
    size_t third = s->run->memory / 3; /* text, its decoded strings and the record */
    NS_TRY(ns_jsonl_open(&r->open, path, err), "input file");
    ns_jsonl_limit_line(r->open, third < SHORT_LIMIT ? SHORT_LIMIT : third);
    for (int64_t i = 0; i < r->skip_first; i++) {
        const char *line, *where;
        size_t n;
        NS_TRY(ns_jsonl_next_line(r->open, &line, &n, &where, err), "skip_first");
        if (!line) break;
    }
    if (!r->started) {
        r->started = 1;
        double total = 0;
        for (size_t i = 0; i < r->raw.n + r->ready.n; i++)
            total += stat(s->run->file[(size_t)r->first_file + i], &sb) == 0 ? (double)sb.st_size : 0;
        r->progress = ns_progress_begin("prepare", total, "B");
    }
    return NS_OK;
}

/* r->line: the next line of the files, of either kind; NULL at the end. It lives in the file's buffer. */
static ns_status peek(ns_stage *s, reader *r, ns_error *err)
{
    while (!r->line && r->file < r->raw.n + r->ready.n) {
        const char *where;
        if (!r->open) NS_TRY(open_next(s, r, err), "ReadData");
        ns_status st = ns_jsonl_next_line(r->open, &r->line, &r->line_bytes, &where, err);
        if (st != NS_OK && err && strstr(err->msg, "found a line of more than"))
            ns_error_frame(err, __FILE__, __LINE__, "a third of ++memory (raise it)");
        if (st != NS_OK) return st;
        if (r->line) break;
        r->bytes_before += (double)ns_jsonl_bytes(r->open);
        ns_jsonl_close(&r->open);
        r->file++;
    }
    return NS_OK;
}

/* Lines of one kind of file (raw or ready) until the block is full. A very long line is a block of its own and is not
 * copied. *end: nothing is left. */
static ns_status fill(ns_stage *s, reader *r, ns_block *b, int *end, ns_error *err)
{
    size_t most = ns_prepare_block_bytes(s->run), at = 0;
    NS_TRY(ns_buf_reserve(&b->text, most, err), "ReadData");
    while (b->n < BLOCK_ROWS && b->text.len < most) {
        NS_TRY(peek(s, r, err), "ReadData");
        *end = !r->line;
        int raw = r->file < r->raw.n, in_place = r->line_bytes >= LONG_LINE;
        if (*end || (b->n && (raw != r->is_raw || in_place))) break;
        r->is_raw = raw;
        NS_TRY(ns_grow((void **)&b->line, &b->cap, b->n + 1, sizeof *b->line, "prepare.lines", err), "ReadData");
        b->line[b->n++] = (ns_line){.p = r->line,
                                    .n = r->line_bytes,
                                    .group = -1,
                                    .file = r->first_file + (int32_t)r->file,
                                    .line = (int64_t)ns_jsonl_line_no(r->open)};
        r->line = NULL;
        if (in_place) return NS_OK; /* valid until the next line is read, for the next block */
        NS_TRY(ns_buf_add(&b->text, b->line[b->n - 1].p, r->line_bytes, err), "ReadData");
    }
    for (size_t i = 0; i < b->n; i++) {
        b->line[i].p = b->text.data + at;
        at += b->line[i].n;
    }
    ns_progress_set(r->progress, r->bytes_before + (r->open ? (double)ns_jsonl_bytes(r->open) : 0), NULL);
    return NS_OK;
}

static ns_status left_out(ns_stage *s, reader *r, const ns_line *l, ns_error *err)
{
    static const char *const why[] = {"", "empty", "no label", "incorrect"};
    r->n_empty += l->flag == SKIP_EMPTY;
    r->n_no_label += l->flag == SKIP_NO_LABEL;
    r->n_wrong += l->flag == SKIP_WRONG;
    const char *text = l->flag == SKIP_WRONG && !r->add_correct ? "correct" : why[l->flag];
    return ns_stage_drops(s, l, text, err);
}

/* Counts, and keeps the first of equal rows. again: rows whose turn had not come, already counted. */
static ns_status deduplicate(ns_stage *s, reader *r, ns_block *b, int again, ns_error *err)
{
    size_t n = 0;
    for (size_t i = 0; i < b->n; i++) {
        const ns_line *l = &b->line[i];
        ns_seen seen = NS_SEEN_NEW;
        if (l->flag != KEPT) {
            NS_TRY(left_out(s, r, l, err), "ReadData");
            continue;
        }
        r->n_read += !again;
        if (r->deduplicate) NS_TRY(ns_first_see(&r->seen, l, &seen, NULL, err), "deduplicate");
        if (seen == NS_SEEN_AGAIN) NS_TRY(ns_stage_drops(s, l, "repeated", err), "deduplicate");
        r->n_unique += seen == NS_SEEN_NEW;
        if (seen == NS_SEEN_NEW) b->line[n++] = *l;
    }
    b->n = n;
    return NS_OK;
}

static ns_status finish(ns_stage *s, reader *r, ns_error *err)
{
    ns_progress_end(&r->progress, NULL);
    if (r->n_no_label)
        NS_WARN("%" PRId64 " rows have no \"%s\" and were skipped (for rows that are ready, use "
                "++preprocessed_dataset_files)",
                r->n_no_label, r->use_judgement ? "judgement" : "is_correct");
    if (r->deduplicate) {
        NS_INFO("Total samples before deduplication: %" PRId64, r->n_read);
        NS_INFO("Total samples after deduplication: %" PRId64, r->n_unique);
    } else {
        NS_INFO("Total samples: %" PRId64, r->n_read);
    }
    const char *first = s->run->file[r->first_file];
    size_t more = r->raw.n + r->ready.n - 1;
    char others[40] = "";
    if (more) snprintf(others, sizeof others, " and %zu more files", more);
    NS_FAIL_IF(!r->n_read && r->n_no_label, NS_ERR_INPUT,
               "no row of %s%s has the field \"%s\": use ++preprocessed_dataset_files for rows that are ready", first,
               others, r->use_judgement ? "judgement" : "is_correct");
    NS_FAIL_IF(!r->n_read && r->n_wrong, NS_ERR_INPUT,
               "all %" PRId64 " rows of %s%s were left out as %s: see ++add_correct and ++add_incorrect", r->n_wrong,
               first, others, r->add_correct ? "incorrect" : "correct");
    NS_FAIL_IF(!r->n_read, NS_ERR_INPUT, "no rows in %s%s%s", first, others,
               r->skip_first ? ": skip_first leaves nothing" : ": empty input");
    return NS_OK;
}

static ns_status next_lines(ns_stage *s, reader *r, ns_block *out, int *end, ns_error *err)
{
    ns_buf_clear(&r->lines.text);
    r->lines.n = 0;
    NS_TRY(fill(s, r, &r->lines, end, err), "ReadData");
    NS_TRY(ns_block_map(out, &r->lines, s->run, NS_MAP_KEEP_DROPPED, read_row, s, err), "ReadData");
    return deduplicate(s, r, out, 0, err);
}

static ns_status read_next(ns_stage *s, ns_block *out, ns_error *err)
{
    reader *r = s->state;
    while (!out->n && !r->at_end) {
        ns_block_free(out);
        NS_TRY(next_lines(s, r, out, &r->at_end, err), "ReadData");
    }
    while (!out->n && !r->finished) {
        ns_block_free(out);
        NS_TRY(ns_first_rest(&r->seen, out, err), "ReadData");
        if (!out->n) break;
        NS_TRY(deduplicate(s, r, out, 1, err), "ReadData");
    }
    if (out->n || r->finished) return NS_OK;
    r->finished = 1;
    return finish(s, r, err);
}

static ns_status read_report(const ns_stage *s, ns_json *o, ns_arena *a, ns_error *err)
{
    const reader *r = s->state;
    ns_json *files = ns_json_new(a, NS_JSON_ARRAY, err);
    NS_FAIL_IF(!files, NS_ERR_MEMORY, "statistics");
    for (size_t i = 0; i < r->raw.n + r->ready.n; i++)
        NS_TRY(ns_json_append(files, a, ns_json_new_str(a, s->run->file[(size_t)r->first_file + i], err), err),
               "files");
    NS_TRY(ns_json_set(o, a, "files", files, err), "statistics");
    const struct {
        const char *name;
        int64_t n;
    } counts[] = {{"bytes", (int64_t)r->bytes_before},
                  {"empty", r->n_empty},
                  {"without_label", r->n_no_label},
                  {r->add_correct ? "incorrect" : "correct", r->n_wrong},
                  {"samples", r->n_read},
                  {"repeated", r->n_read - r->n_unique}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        NS_TRY(ns_json_set(o, a, counts[i].name, ns_json_new_int(a, counts[i].n, err), err), "statistics");
    return NS_OK;
}

const ns_stage_class ns_stage_read = {.name = "ReadData",
                                      .params = read_params,
                                      .init = read_init,
                                      .next = read_next,
                                      .free = read_free,
                                      .report = read_report,
                                      .needs_no_input = 1};

/* ---- input_manifest_file: rows, or lists of rows (groups), one a line ---- */
typedef struct manifest {
    ns_jsonl *open;
    int64_t n_groups;
    int file;
} manifest;

static ns_status manifest_next(ns_stage *s, ns_block *out, ns_error *err)
{
    manifest *m = s->state;
    if (!m) {
        NS_TRY(ns_alloc((void **)&m, sizeof *m, "prepare.manifest", err), "manifest");
        s->state = m;
        NS_TRY(ns_jsonl_open(&m->open, s->input_manifest, err), "input_manifest_file");
        NS_TRY(ns_grow((void **)&s->run->file, &s->run->files_cap, s->run->n_files + 1, sizeof *s->run->file,
                       "prepare.files", err),
               "files");
        m->file = (int)s->run->n_files;
        s->run->file[s->run->n_files++] = s->input_manifest;
    }
    while (out->n < BLOCK_ROWS && out->text.len < ns_prepare_block_bytes(s->run)) {
        ns_arena a = NS_ARENA_INIT("prepare.manifest");
        const char *line, *where;
        size_t n;
        ns_json *v;
        ns_status st = ns_jsonl_next_line(m->open, &line, &n, &where, err);
        if (st != NS_OK) return st;
        if (!line) break;
        NS_CHECK(st, ns_json_parse(&v, &a, line, n, where, 0, err), "input_manifest_file");
        int list = v->type == NS_JSON_ARRAY;
        for (size_t i = 0; i < (list ? v->n : 1); i++) {
            size_t begin = out->text.len;
            NS_CHECK(st, ns_json_write(&out->text, list ? &v->items[i] : v, NS_JSON_UTF8, err), "%s", where);
            NS_CHECK(st, ns_grow((void **)&out->line, &out->cap, out->n + 1, sizeof *out->line, "prepare.lines", err),
                     "rows");
            out->line[out->n++] = (ns_line){.n = out->text.len - begin,
                                            .group = list ? m->n_groups : -1,
                                            .file = m->file,
                                            .line = (int64_t)ns_jsonl_line_no(m->open)};
        }
        m->n_groups += list;
    done:
        ns_arena_free(&a);
        if (st != NS_OK) return st;
    }
    size_t at = 0;
    for (size_t i = 0; i < out->n; i++) {
        out->line[i].p = out->text.data + at;
        at += out->line[i].n;
    }
    return NS_OK;
}

static void manifest_free(ns_stage *s)
{
    manifest *m = s->state;
    if (m && m->open) ns_jsonl_close(&m->open);
    ns_free(m);
}

static const char *const no_params[] = {NULL};
const ns_stage_class ns_stage_manifest = {
    .name = "(input manifest)", .params = no_params, .next = manifest_next, .free = manifest_free, .needs_no_input = 1};
