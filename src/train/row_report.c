/* What training will not see as it was written: rows truncated, dropped, without a target, with an empty answer, repeated.
 * They are counted, listed in <log dir>/row_report.jsonl (one object a row and reason), and beyond a stated share they stop
 * the run before step 1. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "train/sft.h"

static ns_status check_share(const char *path, int64_t n, int64_t rows, double most, const char *what, const char *key,
                             const ns_sft *t, ns_error *err)
{
    NS_FAIL_IF((double)n > most * (double)rows, NS_ERR_INPUT,
               "%s: %" PRId64 " of %" PRId64 " rows %s, %.2f %%, more than %s=%g allows: check the rows (ns inspect; "
               "ns sft lists them in %s/row_report.jsonl), or raise ++%s",
               path, n, rows, what, 100.0 * (double)n / (double)rows, key, most, t->train_dir, key);
    return NS_OK;
}

ns_status ns_sft_check_rows(ns_sft *t, const ns_examples *r, const char *path, ns_error *err)
{
    const ns_sft_options *o = t->o;
    int64_t rows = r->n + r->n_dropped;
    if (o->allow_masked) {
        NS_FAIL_IF(r->n_targets == 0, NS_ERR_INPUT, "%s: no row has a trained token", path);
        return NS_OK;
    }
    t->rows_refused = 1; /* until all are checked */
    NS_TRY(check_share(path, r->n_dropped, rows, o->max_dropped_share, "are longer than max_seq_length and dropped",
                       "max_dropped_share", t, err),
           "%s", "rows");
    NS_TRY(check_share(path, r->n_all_masked, rows, o->max_masked_share, "have no trained token", "max_masked_share", t,
                       err),
           "%s", "rows");
    NS_TRY(check_share(path, r->n_truncated, rows, o->max_truncated_share,
                       "are longer than max_seq_length and truncated", "max_truncated_share", t, err),
           "%s", "rows");
    NS_TRY(check_share(path, r->n_duplicate, rows, o->max_duplicate_share, "repeat an earlier row",
                       "max_duplicate_share", t, err),
           "%s", "rows");
    NS_FAIL_IF(r->n_targets == 0, NS_ERR_INPUT, "%s: no row has a trained token", path);
    t->rows_refused = 0;
    return NS_OK;
}

static ns_status put(ns_buf *out, const char *path, int64_t line, const char *reason, int64_t full, int64_t kept,
                     int64_t trained, int64_t same_line, ns_error *err)
{
    NS_TRY(ns_buf_adds(out, "{\"file\": ", err), "row report");
    NS_TRY(ns_json_write_str(out, (ns_str){path, strlen(path)}, NS_JSON_UTF8, err), "row report");
    NS_TRY(ns_buf_printf(out, err,
                         ", \"line\": %" PRId64 ", \"reason\": \"%s\", \"tokens\": %" PRId64
                         ", \"kept_tokens\": %" PRId64 ", \"trained_tokens\": %" PRId64,
                         line, reason, full, kept, trained),
           "row report");
    if (same_line) NS_TRY(ns_buf_printf(out, err, ", \"same_as_line\": %" PRId64, same_line), "row report");
    return ns_buf_adds(out, "}\n", err);
}

/* Of packs only what trains nothing: the rest happened when they were made. */
static ns_status add_packs(ns_file *f, ns_buf *b, const ns_examples *r, const ns_packed *p, const char *path,
                           ns_error *err)
{
    for (int64_t i = 0; i < p->packs.n; i++)
        for (int64_t e = p->packs.start[i]; e < p->packs.start[i + 1]; e++) {
            if (r->targets[e]) continue;
            NS_TRY(ns_buf_adds(b, "{\"file\": ", err), "row report");
            NS_TRY(ns_json_write_str(b, (ns_str){path, strlen(path)}, NS_JSON_UTF8, err), "row report");
            NS_TRY(ns_buf_printf(b, err,
                                 ", \"pack\": %" PRId64 ", \"sequence\": %" PRId64 ", \"reason\": \"no_target\"}\n", i,
                                 e - p->packs.start[i]),
                   "row report");
            if (b->len <= 1 << 16) continue;
            NS_TRY(ns_file_write(f, b->data, b->len, err), "row report");
            ns_buf_clear(b);
        }
    return NS_OK;
}

static ns_status add_rows(ns_file *f, ns_buf *b, const ns_examples *r, const ns_packed *p, const char *path,
                          ns_error *err)
{
    if (r->len) return add_packs(f, b, r, p, path, err);
    for (int64_t i = 0, d = 0; i <= r->n; i++) {
        int64_t line = i < r->n ? ns_examples_line(r, i) : INT64_MAX;
        for (; d < r->n_dropped && r->dropped[d].line < line; d++)
            NS_TRY(put(b, path, r->dropped[d].line, "dropped", r->dropped[d].full, 0, 0, 0, err), "row report");
        if (i == r->n) break;
        int64_t n = r->start[i + 1] - r->start[i], full = r->full[i];
        int64_t trained = (int64_t)ns_examples_targets(r, &i, 1);
        if (r->flags[i] & NS_ROW_TRUNCATED) NS_TRY(put(b, path, line, "truncated", full, n, trained, 0, err), "report");
        if (trained == 0) NS_TRY(put(b, path, line, "no_target", full, n, 0, 0, err), "report");
        if (r->flags[i] & NS_ROW_EMPTY) NS_TRY(put(b, path, line, "empty_answer", full, n, trained, 0, err), "report");
        if (r->flags[i] & NS_ROW_DOUBLE_BOS)
            NS_TRY(put(b, path, line, "double_bos", full, n, trained, 0, err), "report");
        if (r->same_as[i] != i)
            NS_TRY(put(b, path, line, "duplicate", full, n, trained, ns_examples_line(r, r->same_as[i]), err),
                   "report");
        if (b->len > 1 << 16) {
            NS_TRY(ns_file_write(f, b->data, b->len, err), "row report");
            ns_buf_clear(b);
        }
    }
    return NS_OK;
}

ns_status ns_sft_row_report(const ns_sft *t, ns_error *err)
{
    char path[2100], tmp[2120];
    ns_file *f = NULL;
    ns_buf b = {0};
    ns_status st = NS_OK;
    snprintf(path, sizeof path, "%s/row_report.jsonl", t->train_dir);
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    NS_CHECK(st, ns_mkdirs(t->train_dir, err), "make %s", t->train_dir);
    NS_CHECK(st, ns_file_create(&f, tmp, err), "row report");
    NS_CHECK(st, add_rows(f, &b, &t->rows, &t->packs, t->o->train.file_path, err), "row report");
    if (!t->val_is_train)
        NS_CHECK(st, add_rows(f, &b, &t->val_rows, &t->val_packs, t->o->val.file_path, err), "row report");
    if (b.len) NS_CHECK(st, ns_file_write(f, b.data, b.len, err), "row report");
    NS_CHECK(st, ns_file_close(&f, err), "row report");
    if (rename(tmp, path) != 0) st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "%s: rename failed", path);
done:
    if (f) ns_file_abort(&f);
    ns_buf_free(&b);
    return st;
}
