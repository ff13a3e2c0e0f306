/* Parquet files as rows: opens a file, reads its directory, and goes through its row groups (parquet.h).
 *
 * Invariants: everything that the directory says is held against the file's size before it is used; a row group gives exactly
 * the rows it promises, and after them every column is at its end. */
#include "base/parquet/parquet.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/parquet/parquet_priv.h"
#include "base/sys.h"

enum { TAIL = 8, LEAST = 12 }; /* length and magic at the end; the smallest file */

struct ns_parquet {
    pq_source src;
    ns_arena arena, scratch;
    uint8_t *footer;
    uint64_t footer_at;
    pq_meta meta;
    pq_node root;
    pq_column *columns;
    size_t n_columns, group; /* group: the next one */
    int64_t rows_left;       /* in the group in hand */
    int64_t row;             /* rows handed out */
    ns_buf line;
    size_t longest;
    uint32_t crc_table[8][256];
};

int ns_parquet_is(const void *first, size_t n)
{
    return n >= 4 && (!memcmp(first, "PAR1", 4) || !memcmp(first, "PARE", 4));
}

ns_status pq_read(const pq_source *s, uint64_t at, void *dst, size_t n, ns_error *err)
{
    NS_FAIL_IF(at > s->size || n > s->size - at, NS_ERR_INPUT,
               "%s: byte %" PRIu64 ": found %" PRIu64 " bytes in the file, expected %zu from there on", s->name, at,
               s->size, n);
    if (s->mem) {
        memcpy(dst, s->mem + at, n);
        return NS_OK;
    }
    ssize_t k = ns_sys_pread_all(s->fd, dst, n, at);
    if (k < 0) return ns_sys_error(err, "read", s->name);
    NS_FAIL_IF((size_t)k < n, NS_ERR_INPUT, "%s: byte %" PRIu64 ": the file has become shorter while it was read",
               s->name, at + (uint64_t)k);
    return NS_OK;
}

static ns_status read_footer(ns_parquet *r, uint32_t *n, ns_error *err)
{
    uint8_t head[4], tail[TAIL];
    const char *name = r->src.name;
    NS_FAIL_IF(r->src.size < LEAST, NS_ERR_INPUT,
               "%s: found a Parquet file of %" PRIu64 " bytes, expected at least %d: it is cut short, copy it again",
               name, r->src.size, LEAST);
    NS_TRY(pq_read(&r->src, 0, head, 4, err), "begin");
    NS_TRY(pq_read(&r->src, r->src.size - TAIL, tail, TAIL, err), "end");
    NS_FAIL_IF(!memcmp(head, "PARE", 4) || !memcmp(tail + 4, "PARE", 4), NS_ERR_UNSUPPORTED,
               "%s: the Parquet file is encrypted, which is not read: write it without encryption", name);
    NS_FAIL_IF(memcmp(head, "PAR1", 4) || memcmp(tail + 4, "PAR1", 4), NS_ERR_INPUT,
               "%s: byte %" PRIu64
               ": found no 'PAR1' at the %s of the Parquet file, expected it at both ends: it is cut "
               "short or still being written, copy it again",
               name, memcmp(head, "PAR1", 4) ? 0 : r->src.size - 4, memcmp(head, "PAR1", 4) ? "beginning" : "end");
    *n = pq_u32(tail);
    NS_FAIL_IF(*n > r->src.size - LEAST, NS_ERR_INPUT,
               "%s: byte %" PRIu64 ": found a directory of %" PRIu32 " bytes, expected at most %" PRIu64
               ": the file is damaged, copy it again",
               name, r->src.size - TAIL, *n, r->src.size - LEAST);
    r->footer_at = r->src.size - TAIL - *n;
    NS_TRY(ns_alloc((void **)&r->footer, (size_t)*n + 1, "parquet.footer", err), "directory");
    return pq_read(&r->src, r->footer_at, r->footer, *n, err);
}

static ns_status check_groups(const ns_parquet *r, ns_error *err)
{
    int64_t rows = 0;
    for (size_t i = 0; i < r->meta.n_groups; i++) {
        const pq_group *g = &r->meta.group[i];
        NS_FAIL_IF(g->n_rows < 0 || g->n_rows > r->meta.n_rows - rows, NS_ERR_INPUT,
                   "%s: directory: found %" PRId64 " rows in row group %zu, expected at most the %" PRId64
                   " that are left of the file's: it is damaged",
                   r->src.name, g->n_rows, i + 1, r->meta.n_rows - rows);
        NS_FAIL_IF(g->n_chunks != r->n_columns, NS_ERR_INPUT,
                   "%s: directory: found %zu columns in row group %zu, expected %zu: the file is damaged", r->src.name,
                   g->n_chunks, i + 1, r->n_columns);
        rows += g->n_rows;
    }
    NS_FAIL_IF(rows != r->meta.n_rows, NS_ERR_INPUT,
               "%s: directory: found %" PRId64 " rows in the row groups, expected %" PRId64 ": the file is damaged",
               r->src.name, rows, r->meta.n_rows);
    return NS_OK;
}

static ns_status open_source(ns_parquet **out, pq_source src, ns_error *err)
{
    ns_parquet *r = NULL;
    uint32_t n = 0;
    ns_status st;
    *out = NULL;
    NS_TRY(ns_alloc((void **)&r, sizeof *r, "parquet", err), "open '%s'", src.name);
    r->src = src;
    r->longest = (size_t)1 << 30;
    r->arena.label = "parquet.directory";
    r->scratch.label = "parquet.json";
    pq_crc32_init(r->crc_table);
    NS_CHECK(st, read_footer(r, &n, err), "open");
    NS_CHECK(st, pq_meta_parse(&r->meta, &r->arena, r->footer, n, src.name, r->footer_at, err), "open");
    NS_BAIL_IF(st, r->meta.encrypted, NS_ERR_UNSUPPORTED,
               "%s: the Parquet file is encrypted, which is not read: write it without encryption", src.name);
    NS_CHECK(st, pq_schema_build(&r->root, &r->columns, &r->n_columns, &r->meta, &r->arena, src.name, err), "open");
    for (size_t i = 0; i < r->n_columns; i++) {
        r->columns[i].src = &r->src;
        r->columns[i].crc_table = (const uint32_t(*)[256])r->crc_table;
    }
    NS_CHECK(st, check_groups(r, err), "open");
    *out = r;
    return NS_OK;
done:
    ns_parquet_close(&r);
    return st;
}

ns_status ns_parquet_open(ns_parquet **out, int fd, const char *name, ns_error *err)
{
    struct stat sb;
    *out = NULL;
    if (ns_sys_fstat(fd, &sb) != 0) return ns_sys_error(err, "look at", name);
    NS_FAIL_IF(!S_ISREG(sb.st_mode), NS_ERR_INPUT,
               "%s: a Parquet file is read from its end, which a pipe does not allow: give the file's name", name);
    return open_source(out, (pq_source){fd, NULL, (uint64_t)sb.st_size, name}, err);
}

ns_status ns_parquet_open_memory(ns_parquet **out, const void *file, size_t n, const char *name, ns_error *err)
{
    return open_source(out, (pq_source){-1, file, n, name}, err);
}

/* The group's rows are read: nothing may be left in its columns. */
static ns_status end_group(const ns_parquet *r, ns_error *err)
{
    for (size_t i = 0; r->group > 0 && i < r->n_columns; i++) {
        const pq_column *c = &r->columns[i];
        PQ_FAIL_IF(c, c->have, NS_ERR_INPUT,
                   "found values after the last of the %" PRId64 " rows of row group %zu: the file is damaged",
                   r->meta.group[r->group - 1].n_rows, r->group);
    }
    return NS_OK;
}

static ns_status begin_group(ns_parquet *r, ns_error *err)
{
    const pq_group *g = &r->meta.group[r->group++];
    r->rows_left = g->n_rows;
    for (size_t i = 0; i < r->n_columns; i++) {
        pq_column *c = &r->columns[i];
        c->have = 0;
        if (g->n_rows == 0) continue; /* writers leave its offsets at 0 */
        NS_TRY(pq_column_begin(c, &g->chunk[i], r->footer_at, err), "row group %zu", r->group);
    }
    return NS_OK;
}

ns_status ns_parquet_next(ns_parquet *r, const char **row, size_t *n, ns_error *err)
{
    *row = NULL;
    *n = 0;
    while (r->rows_left == 0) {
        NS_TRY(end_group(r, err), "%s", "");
        if (r->group == r->meta.n_groups) return NS_OK;
        NS_TRY(begin_group(r, err), "%s", "");
    }
    ns_buf_clear(&r->line);
    ns_arena_mark m = ns_arena_save(&r->scratch);
    ns_status st = pq_write_row(&r->root, r->columns, r->longest, &r->line, &r->scratch, err);
    ns_arena_rollback(&r->scratch, m);
    NS_TRY(st, "row %" PRId64, r->row + 1);
    r->rows_left--;
    r->row++;
    *row = r->line.data;
    *n = r->line.len;
    return NS_OK;
}

void ns_parquet_longest_row(ns_parquet *r, size_t bytes)
{
    r->longest = bytes;
}

int64_t ns_parquet_rows(const ns_parquet *r)
{
    return r->meta.n_rows;
}

uint64_t ns_parquet_bytes(const ns_parquet *r)
{
    uint64_t n = 0;
    for (size_t i = 0; i < r->n_columns; i++) n += r->columns[i].bytes_read;
    return n;
}

void ns_parquet_close(ns_parquet **pr)
{
    ns_parquet *r = *pr;
    if (!r) return;
    for (size_t i = 0; i < r->n_columns; i++) pq_column_free(&r->columns[i]);
    ns_arena_free(&r->arena);
    ns_arena_free(&r->scratch);
    ns_buf_free(&r->line);
    ns_free(r->footer);
    ns_free(r);
    *pr = NULL;
}
