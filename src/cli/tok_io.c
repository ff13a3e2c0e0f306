/* Input and output of the two tokenizer verbs (tok_io.h). */
#include "cli/tok_io.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/parquet/parquet.h"

const char *tok_io_name(const tok_work *w)
{
    return w->io->literal ? w->literal_key : strcmp(w->io->input, "-") ? w->io->input : "standard input";
}

ns_status tok_io_open(tok_work *w, ns_error *err)
{
    NS_FAIL_IF(w->io->literal && strcmp(w->io->input, "-") != 0, NS_ERR_CONFIG, "--input and %s exclude each other",
               w->literal_key);
    return ns_tok_load(&w->t, w->io->tokenizer, err);
}

/* The input is a Parquet file: its rows take its place. */
static ns_status rows_as_lines(tok_work *w, ns_error *err)
{
    ns_parquet *r = NULL;
    ns_buf rows = {0};
    const char *row = "";
    size_t n;
    ns_status st = NS_OK;
    NS_FAIL_IF(!w->rows_allowed, NS_ERR_CONFIG,
               "%s is a Parquet file: its rows are conversations (--chat --lines), there is no text to read",
               tok_io_name(w));
    NS_CHECK(st, ns_parquet_open_memory(&r, w->input.data, w->input.len, tok_io_name(w), err), "%s", "");
    while (row) {
        NS_CHECK(st, ns_parquet_next(r, &row, &n, err), "%s", "");
        if (!row) break;
        NS_CHECK(st, ns_buf_add(&rows, row, n, err), "%s", "");
        NS_CHECK(st, ns_buf_addc(&rows, '\n', err), "%s", "");
    }
    ns_buf_free(&w->input);
    w->input = rows;
    rows = (ns_buf){0};
done:
    ns_parquet_close(&r);
    ns_buf_free(&rows);
    return st;
}

ns_status tok_io_read(tok_work *w, ns_error *err)
{
    if (w->io->literal) return ns_buf_adds(&w->input, w->io->literal, err);
    NS_TRY(ns_buf_reserve(&w->input, 1, err), "%s", "");
    NS_TRY(ns_file_read(&w->input, strcmp(w->io->input, "-") ? w->io->input : "/dev/stdin", err), "%s", "");
    size_t n = w->input.len; /* a text may begin with PARENT; rows of JSON may not */
    int parquet = ns_parquet_is(w->input.data, n) && (w->rows_allowed || ns_parquet_is(w->input.data + n - 4, 4));
    return parquet ? rows_as_lines(w, err) : NS_OK;
}

int tok_io_line(tok_work *w, ns_str *line)
{
    if (w->at >= w->input.len) return 0;
    const char *p = w->input.data + w->at, *end = memchr(p, '\n', w->input.len - w->at);
    *line = (ns_str){p, end ? (size_t)(end - p) : w->input.len - w->at};
    w->at += line->n + 1;
    w->line++;
    if (w->io->literal)
        snprintf(w->where, sizeof w->where, "%s", w->literal_key);
    else
        snprintf(w->where, sizeof w->where, "%.4000s:%zu", tok_io_name(w), w->line);
    return 1;
}

ns_status tok_io_flush(tok_work *w, int all, ns_error *err)
{
    if (!w->out.len || (!all && w->out.len < 1 << 20)) return NS_OK;
    int ok = fwrite(w->out.data, 1, w->out.len, stdout) == w->out.len && (!all || fflush(stdout) == 0);
    NS_FAIL_IF(!ok, NS_ERR_IO, "cannot write to standard output: %s", strerror(errno));
    ns_buf_clear(&w->out);
    return NS_OK;
}

void tok_io_close(tok_work *w)
{
    ns_tok_free(&w->t);
    ns_buf_free(&w->input);
    ns_buf_free(&w->out);
}
