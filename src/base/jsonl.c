/* JSONL reader, also of gzip and zstd files (unpack.h) and of Parquet (parquet/parquet.h), whose rows are handed out as lines: one buffer, refilled from the file; a line is handed out in place. Lines end at LF, CRLF or a lone CR
 * (data.md 0.1, "universal newlines"; a raw CR is never part of a JSON string). The buffer doubles when a line does not
 * fit, so lines may be of any size. */
#include "base/json.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/parquet/parquet.h"
#include "base/sys.h"
#include "base/unpack.h"

enum { FIRST_BUF = 1 << 20, BIG_BUF = 32 << 20, MAX_DIGITS = 24 };

struct ns_jsonl {
    int fd, is_stdin, at_end, trailing_blank_ok;
    ns_unpack *packed;
    ns_parquet *parquet; /* instead of lines */
    char *name;          /* for messages; where[] begins with it */
    char *buf;
    size_t cap, pos, len; /* unread bytes: buf[pos..len) */
    size_t no_lf, no_cr;  /* buf[pos..no_lf) holds no LF, buf[pos..no_cr) no CR: long lines are scanned once */
    uint64_t line_no, consumed;
    size_t most; /* bytes of a line; 0: any number */
    char *where;
    size_t where_head; /* length of "path:" */
};

ns_status ns_jsonl_open(ns_jsonl **out, const char *path, ns_error *err)
{
    ns_status st = NS_OK;
    ns_jsonl *r = NULL;
    *out = NULL;
    int is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? "standard input" : path;
    size_t n = strlen(name);
    NS_CHECK(st, ns_alloc((void **)&r, sizeof *r, "jsonl", err), "open '%s'", path);
    r->fd = -1;
    r->is_stdin = is_stdin;
    NS_CHECK(st, ns_alloc((void **)&r->where, n + MAX_DIGITS, "jsonl.where", err), "open '%s'", path);
    NS_CHECK(st, ns_alloc((void **)&r->buf, FIRST_BUF, "jsonl.buffer", err), "open '%s'", path);
    r->cap = FIRST_BUF;
    memcpy(r->where, name, n);
    r->where[n] = ':';
    r->where_head = n + 1;
    r->fd = is_stdin ? STDIN_FILENO : ns_sys_open(path, O_RDONLY, 0);
    NS_SYS_BAIL_IF(st, r->fd < 0, "open", path);
    NS_CHECK(st, ns_alloc((void **)&r->name, n + 1, "jsonl.where", err), "open '%s'", path);
    memcpy(r->name, name, n);
    NS_CHECK(st, ns_unpack_open(&r->packed, r->fd, r->name, err), "open '%s'", path);
    if (!strcmp(ns_unpack_kind(r->packed), "parquet"))
        NS_CHECK(st, ns_parquet_open(&r->parquet, r->fd, r->name, err), "open '%s'", path);
    *out = r;
    return NS_OK;
done:
    ns_jsonl_close(&r);
    return st;
}

void ns_jsonl_allow_trailing_blank(ns_jsonl *r)
{
    r->trailing_blank_ok = 1;
}

void ns_jsonl_limit_line(ns_jsonl *r, size_t most)
{
    r->most = most;
    if (r->parquet) ns_parquet_longest_row(r->parquet, most);
}

static void write_where(ns_jsonl *r, uint64_t line_no);

static ns_status too_long(ns_jsonl *r, uint64_t line_no, ns_error *err)
{
    write_where(r, line_no);
    NS_FAIL(NS_ERR_INPUT, "%s: found a line of more than %zu bytes, expected at most that", r->where, r->most);
}

/* After a very long line the buffer goes back to a usual size; pos is 0. */
static ns_status shrink(ns_jsonl *r, ns_error *err)
{
    if (r->cap <= BIG_BUF || r->len >= FIRST_BUF) return NS_OK;
    NS_TRY(ns_realloc((void **)&r->buf, FIRST_BUF, "jsonl.buffer", err), "%s", r->name);
    r->cap = FIRST_BUF;
    return NS_OK;
}

/* Reads more behind the unread bytes. */
static ns_status refill(ns_jsonl *r, ns_error *err)
{
    if (r->pos > 0) {
        memmove(r->buf, r->buf + r->pos, r->len - r->pos);
        r->no_lf = r->no_lf > r->pos ? r->no_lf - r->pos : 0;
        r->no_cr = r->no_cr > r->pos ? r->no_cr - r->pos : 0;
        r->len -= r->pos;
        r->pos = 0;
        NS_TRY(shrink(r, err), "%s", "");
    }
    if (r->most && r->len > r->most) return too_long(r, r->line_no + 1, err);
    if (r->len == r->cap)
        NS_TRY(ns_grow((void **)&r->buf, &r->cap, r->cap + 1, 1, "jsonl.buffer", err), "line %llu is very long",
               (unsigned long long)r->line_no + 1);
    size_t k;
    NS_TRY(ns_unpack_read(r->packed, r->buf + r->len, r->cap - r->len, &k, err), "after line %llu",
           (unsigned long long)r->line_no);
    if (k == 0) r->at_end = 1;
    r->len += k;
    return NS_OK;
}

static void write_where(ns_jsonl *r, uint64_t line_no)
{
    char digits[MAX_DIGITS];
    int n = 0;
    for (uint64_t v = line_no; v > 0; v /= 10) digits[n++] = (char)('0' + v % 10);
    char *o = r->where + r->where_head;
    while (n > 0) *o++ = digits[--n];
    *o = 0;
}

/* The next line as it is; *line NULL at the end. */
static ns_status raw_line(ns_jsonl *r, const char **line, size_t *n, ns_error *err)
{
    for (;;) {
        const char *begin = r->buf + r->pos, *end = r->buf + r->len;
        size_t from = r->no_lf > r->pos ? r->no_lf : r->pos;
        const char *lf = memchr(r->buf + from, '\n', r->len - from);
        r->no_lf = lf ? (size_t)(lf - r->buf) : r->len;
        const char *stop = lf ? lf : end;
        size_t cr_from = r->no_cr > r->pos ? r->no_cr : r->pos;
        const char *cr =
            r->buf + cr_from < stop ? memchr(r->buf + cr_from, '\r', (size_t)(stop - r->buf) - cr_from) : NULL;
        r->no_cr = (size_t)((cr ? cr : stop) - r->buf);
        size_t skip = 1;
        if (cr && (cr + 1 < end || r->at_end)) { /* with the byte after it in sight */
            if (cr + 1 == lf) skip = 2;
            stop = cr;
        } else if (!lf) {
            if (!r->at_end) {
                NS_TRY(refill(r, err), "%s", "");
                continue;
            }
            skip = 0;
            if (begin == end) {
                *line = NULL;
                *n = 0;
                return NS_OK;
            }
        }
        *line = begin;
        *n = (size_t)(stop - begin);
        r->pos = (size_t)(stop - r->buf) + skip;
        r->consumed += *n + skip;
        r->line_no++;
        return NS_OK;
    }
}

static int is_blank(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && (p[i] == ' ' || p[i] == '\t')) i++;
    return i == n;
}

ns_status ns_jsonl_next_line(ns_jsonl *r, const char **line, size_t *n, const char **where, ns_error *err)
{
    uint64_t blank = 0;
    if (r->parquet) {
        NS_TRY(ns_parquet_next(r->parquet, line, n, err), "%s", r->name);
        if (!*line) return NS_OK;
        write_where(r, ++r->line_no);
        if (where) *where = r->where;
        return NS_OK;
    }
    NS_TRY(raw_line(r, line, n, err), "%s", "");
    while (*line && is_blank(*line, *n) && r->trailing_blank_ok) {
        if (!blank) blank = r->line_no;
        NS_TRY(raw_line(r, line, n, err), "%s", "");
    }
    if (!*line) return NS_OK;
    if (r->most && *n > r->most) return too_long(r, r->line_no, err);
    if (!blank && is_blank(*line, *n)) blank = r->line_no;
    if (blank) r->line_no = blank;
    write_where(r, r->line_no);
    if (where) *where = r->where;
    NS_FAIL_IF(blank, NS_ERR_INPUT, "%s: found a blank line, expected a JSON value: remove the line", r->where);
    return NS_OK;
}

uint64_t ns_jsonl_line_no(const ns_jsonl *r)
{
    return r->line_no;
}

uint64_t ns_jsonl_bytes(const ns_jsonl *r)
{
    return r->parquet ? ns_parquet_bytes(r->parquet) : r->consumed;
}

const char *ns_jsonl_kind(const ns_jsonl *r)
{
    return ns_unpack_kind(r->packed);
}

void ns_jsonl_close(ns_jsonl **pr)
{
    ns_jsonl *r = *pr;
    if (!r) return;
    ns_parquet_close(&r->parquet);
    ns_unpack_close(&r->packed);
    if (r->fd >= 0 && !r->is_stdin) ns_sys_close(r->fd);
    ns_free(r->name);
    ns_free(r->buf);
    ns_free(r->where);
    ns_free(r);
    *pr = NULL;
}
