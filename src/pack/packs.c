/* Packing a set of samples and writing the three arrays (packs.h).
 *
 *   lengths ─chunks─▶ ns_bins_assign (a chunk a thread) ─▶ widths ─▶ blocks of rows, all threads ─▶ <name>.tmp ─▶ renamed when all are whole
 *
 * How wide a row is and where it begins is known when the last chunk is assigned, not before: nothing can be written while rows are still
 * tokenised. So writing is made short: each thread lays out blocks of rows and writes them at their place, and the system is told at once
 * to bring them to the disk, so that the sync at the end finds little to do. What is written depends neither on threads nor on timing.
 *
 * A sample of n ids has length n - 1 (inputs and labels lose one) and is stored whole, so a row is wider than the pack size.
 * With cp > 1 the sample is padded with EOS to a multiple of lcm(16, 2 cp), at most max_seq_length. */
#include "pack/packs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "pack/pack_files.h"

typedef struct sample {
    const int32_t *ids;
    int64_t n, stored; /* ids; with padding */
    int32_t answer;
    const uint8_t *mask;
} sample;

typedef struct failure { /* of the first in order of the tiles that failed */
    pthread_mutex_t lock;
    atomic_int any; /* the others need not run */
    int at;
    ns_error err;
} failure;
#define NO_FAILURE                                              \
    (failure)                                                   \
    {                                                           \
        .lock = PTHREAD_MUTEX_INITIALIZER, .err = NS_ERROR_INIT \
    }

static void fail(failure *f, int tile, const ns_error *err)
{
    pthread_mutex_lock(&f->lock);
    if (f->err.code == NS_OK || tile < f->at) f->err = *err, f->at = tile;
    pthread_mutex_unlock(&f->lock);
    atomic_store(&f->any, 1);
}

static ns_status outcome(failure *f, ns_error *err)
{
    pthread_mutex_destroy(&f->lock);
    if (f->err.code != NS_OK && err) *err = f->err;
    return f->err.code;
}

typedef struct packer {
    const ns_pack_set *set;
    const ns_pack_options *o;
    int64_t n;       /* samples with at least one id */
    int64_t *number; /* [n] sample -> row number over all files */
    int32_t *len;    /* [n] */
    int64_t n_chunks;
    ns_bins *bins;             /* [n_chunks] */
    int64_t *tokens;           /* [n_chunks] in the packs of a chunk */
    failure failed;            /* of a chunk */
    int64_t rows, width, most; /* of the arrays */
} packer;

static sample get(const packer *p, int64_t i)
{
    int64_t row = p->number[i];
    const ns_examples *ex = p->set->file;
    while (row >= ex->n) row -= ex->n, ex++;
    int64_t n = ex->start[row + 1] - ex->start[row];
    return (sample){.ids = ex->ids + ex->start[row],
                    .n = n,
                    .stored = p->len[i] + 1,
                    .answer = ex->answer_start[row],
                    .mask = ex->mask ? ex->mask + ex->start[row] : NULL};
}

static int64_t padded(const ns_pack_options *o, int64_t n)
{
    if (o->cp <= 1) return n;
    int64_t a = 16, b = 2 * o->cp;
    while (b) {
        int64_t r = a % b;
        a = b;
        b = r;
    }
    int64_t m = 16 / a * 2 * o->cp, t = (n + m - 1) / m * m;
    if (t > o->max_seq_length) t = o->max_seq_length;
    return n <= t ? t + 1 : n;
}

static ns_status measure(packer *p, ns_pack_sum *sum, ns_error *err)
{
    int64_t all = 0, base = 0;
    for (int f = 0; f < p->set->n_files; f++) all += p->set->file[f].n;
    NS_TRY(ns_alloc((void **)&p->number, (size_t)all * sizeof *p->number, "packs.number", err), "samples");
    NS_TRY(ns_alloc((void **)&p->len, (size_t)all * sizeof *p->len, "packs.len", err), "samples");
    for (int f = 0; f < p->set->n_files; base += p->set->file[f++].n) {
        const ns_examples *ex = &p->set->file[f];
        for (int64_t i = 0; i < ex->n; i++) {
            int64_t n = ex->start[i + 1] - ex->start[i];
            if (n == 0) {
                sum->skipped++;
                continue;
            }
            int64_t len = padded(p->o, n) - 1;
            NS_FAIL_IF(len > p->o->size, NS_ERR_INPUT,
                       "%s:%" PRId64 ": the row has %" PRId64
                       " tokens, more than the pack size %d: set ++model.data.train_ds.max_seq_length=%d or less, or a "
                       "larger ++pack_sizes",
                       p->set->path ? p->set->path[f] : "rows", ns_examples_line(ex, i), len, p->o->size, p->o->size);
            p->number[p->n] = base + i;
            p->len[p->n++] = (int32_t)len;
        }
    }
    NS_FAIL_IF(p->n == 0, NS_ERR_INPUT, "no sample to pack: all rows are empty");
    return NS_OK;
}

static void log_figures(const ns_pack_options *o, double fill, int64_t packs, int64_t samples)
{
    NS_INFO("Packing is %.2f%% efficient", 100.0 * fill / (double)packs);
    NS_INFO(">>>>> For pack size %d, average number of sequences per pack is n = %.3f <<<<<", o->size,
            (double)samples / (double)packs);
}

/* The first sample of a chunk; chunks are nearly equal. */
static int64_t chunk_from(const packer *p, int64_t c)
{
    int64_t more = p->n % p->n_chunks;
    return c * (p->n / p->n_chunks) + (c < more ? c : more);
}

static void assign_chunk(void *arg, int chunk, int worker)
{
    packer *p = arg;
    const ns_pack_options *o = p->o;
    const int64_t from = chunk_from(p, chunk), n = chunk_from(p, chunk + 1) - from;
    ns_bins *b = &p->bins[chunk];
    ns_error err = NS_ERROR_INIT;
    (void)worker;
    if (atomic_load(&p->failed.any)) return;
    if (ns_bins_assign(b, p->len + from, n, o->size, o->how, o->seed + (uint32_t)chunk, &err) != NS_OK) {
        fail(&p->failed, chunk, &err);
        return;
    }
    for (int64_t j = 0; j < n; j++) {
        b->item[j] += from;
        p->tokens[chunk] += p->len[b->item[j]];
    }
}

static ns_status assign(packer *p, ns_pack_sum *sum, ns_error *err)
{
    const ns_pack_options *o = p->o;
    int64_t k = p->n_chunks = (p->n + o->chunk - 1) / o->chunk;
    NS_FAIL_IF(k > INT32_MAX, NS_ERR_CONFIG, "split_packing_length=%" PRId64 " gives %" PRId64 " chunks: raise it",
               o->chunk, k);
    NS_TRY(ns_alloc((void **)&p->bins, (size_t)k * sizeof *p->bins, "packs.chunks", err), "chunks");
    NS_TRY(ns_alloc((void **)&p->tokens, (size_t)k * sizeof *p->tokens, "packs.chunks", err), "chunks");
    if (k > 1) NS_INFO("Processing dataset in %" PRId64 " chunks of %" PRId64 " samples", k, o->chunk);
    NS_INFO("Packing sequences to length %d...", o->size);
    p->failed = NO_FAILURE;
    ns_parallel_for(o->pool, (int)k, assign_chunk, p);
    NS_TRY(outcome(&p->failed, err), "chunk %d", p->failed.at);
    for (int64_t c = 0; c < k; c++) {
        const ns_bins *b = &p->bins[c];
        if (k > 1) NS_INFO("Processing chunk %" PRId64, c);
        for (int64_t i = 0; i < b->n; i++) {
            int64_t stored = 0, count = b->start[i + 1] - b->start[i];
            for (int64_t j = b->start[i]; j < b->start[i + 1]; j++) stored += p->len[b->item[j]] + 1;
            if (stored > p->width) p->width = stored;
            if (count > p->most) p->most = count;
        }
        p->rows += b->n;
        sum->tokens += p->tokens[c];
        sum->fill += (double)p->tokens[c] / o->size;
        if (k > 1) log_figures(o, (double)p->tokens[c] / o->size, b->n, chunk_from(p, c + 1) - chunk_from(p, c));
    }
    sum->packs = p->rows;
    sum->samples = p->n;
    return NS_OK;
}

/* Target flags of stored positions: does the original, or the exact rule, train what a position predicts? */
static void put_mask(uint8_t *out, const ns_pack_options *o, const sample *s)
{
    memset(out, 0, (size_t)s->stored);
    if (s->mask) {
        for (int64_t q = 0; q + 1 < s->n; q++) out[q] = s->mask[q + 1] != 0;
        return;
    }
    int64_t from = s->answer > 1 ? s->answer - 1 : 0;
    if (o->exact_mask) {
        if (from < s->n - 1) memset(out + from, 1, (size_t)(s->n - 1 - from));
        return;
    }
    for (int64_t q = from; q < s->n; q++) out[q] = s->ids[q] != o->eos;
}

typedef struct outputs {
    ns_file *file[3];
    uint64_t header[3]; /* bytes before the rows */
    ns_error failed[3];
    char path[3][4200], tmp[3][4210];
} outputs;

static ns_status open_outputs(outputs *f, const char *base, int64_t rows, int64_t width, int64_t most, ns_error *err)
{
    for (int k = 0; k < 3; k++) {
        snprintf(f->path[k], sizeof f->path[k], "%s.%s.npy", base, ns_pack_suffix[k]);
        snprintf(f->tmp[k], sizeof f->tmp[k], "%s.tmp", f->path[k]);
        NS_TRY(ns_file_create(&f->file[k], f->tmp[k], err), "pack files");
        NS_TRY(ns_npy_write_header(f->file[k], ns_pack_descr[k], rows, k == 2 ? most : width, &f->header[k], err), "%s",
               f->tmp[k]);
    }
    return NS_OK;
}

static void close_one(void *outs, int k, int worker)
{
    outputs *f = outs;
    (void)worker;
    (void)!ns_file_close(&f->file[k], &f->failed[k]);
}

/* The three syncs at once, where there are threads: a disk takes them better together. */
static ns_status close_outputs(outputs *f, ns_threads *pool, ns_error *err)
{
    for (int k = 0; k < 3; k++) f->failed[k] = (ns_error)NS_ERROR_INIT;
    ns_parallel_for(pool, 3, close_one, f);
    for (int k = 0; k < 3; k++)
        if (f->failed[k].code != NS_OK) {
            if (err) *err = f->failed[k];
            return f->failed[k].code;
        }
    /* over an older pack: one file of the three is missing until the last is new, so that a mixture is never read */
    NS_FAIL_IF(ns_sys_unlinkat(AT_FDCWD, f->path[2], 0) != 0 && errno != ENOENT, NS_ERR_IO, "%s: remove: %s",
               f->path[2], strerror(errno));
    for (int k = 0; k < 3; k++)
        NS_FAIL_IF(ns_sys_rename(f->tmp[k], f->path[k]) != 0, NS_ERR_IO, "%s: rename: %s", f->path[k], strerror(errno));
    return NS_OK;
}

/* After a failure: no half file stays behind. */
static void drop_outputs(outputs *f)
{
    for (int k = 0; k < 3; k++) {
        if (f->file[k]) ns_file_abort(&f->file[k]);
        if (f->tmp[k][0]) (void)unlink(f->tmp[k]);
    }
}

/* ---- rows ---- */
enum { BLOCK_BYTES = 1 << 20 };

typedef struct writer {
    const packer *p;
    const outputs *f;
    int64_t *first;     /* [n_chunks+1] number of the first pack of a chunk */
    int64_t rows_each;  /* of a block */
    char *memory;       /* of all workers: ids, starts, mask of a block each */
    size_t memory_each; /* a multiple of 64 */
    uint64_t at[3];     /* where the rows begin in the files */
    failure failed;     /* of a block */
} writer;

static void lay_out_row(const packer *p, const ns_bins *b, int64_t i, int32_t *ids, uint8_t *mask, int32_t *starts)
{
    int64_t at = 0, k = 0;
    for (int64_t j = b->start[i]; j < b->start[i + 1]; j++) {
        sample s = get(p, b->item[j]);
        starts[k++] = (int32_t)at;
        memcpy(ids + at, s.ids, (size_t)s.n * sizeof *ids);
        for (int64_t q = s.n; q < s.stored; q++) ids[at + q] = p->o->eos;
        put_mask(mask + at, p->o, &s);
        at += s.stored;
    }
    for (; k < p->most; k++) starts[k] = -1;
    for (int64_t q = at; q < p->width; q++) ids[q] = -1;
    memset(mask + at, 1, (size_t)(p->width - at));
}

static void write_block(void *arg, int block, int worker)
{
    writer *w = arg;
    const packer *p = w->p;
    const int64_t from = block * w->rows_each, left = p->rows - from, n = left < w->rows_each ? left : w->rows_each;
    const size_t width = (size_t)p->width, most = (size_t)p->most, each[3] = {width * 4, width, most * 4};
    char *memory = w->memory + (size_t)worker * w->memory_each;
    int32_t *ids = (int32_t *)(void *)memory, *starts = ids + (size_t)w->rows_each * width;
    uint8_t *mask = (uint8_t *)(starts + (size_t)w->rows_each * most);
    if (atomic_load(&w->failed.any)) return;
    int64_t c = 0;
    while (w->first[c + 1] <= from) c++;
    for (int64_t i = 0; i < n; i++) {
        if (from + i == w->first[c + 1]) c++;
        lay_out_row(p, &p->bins[c], from + i - w->first[c], ids + (size_t)i * width, mask + (size_t)i * width,
                    starts + (size_t)i * most);
    }
    const void *const data[3] = {ids, mask, starts};
    ns_error err = NS_ERROR_INIT;
    for (int k = 0; k < 3; k++)
        if (ns_file_write_at(w->f->file[k], w->at[k] + (uint64_t)from * each[k], data[k], (size_t)n * each[k], &err) !=
            NS_OK)
            break;
    if (err.code != NS_OK) fail(&w->failed, block, &err);
}

static ns_status write_rows(const packer *p, const outputs *f, ns_error *err)
{
    writer w = {.p = p, .f = f, .failed = NO_FAILURE};
    ns_status st = NS_OK;
    const size_t a_row = (size_t)p->width * 5 + (size_t)p->most * 4;
    w.rows_each = a_row < BLOCK_BYTES ? (int64_t)(BLOCK_BYTES / a_row) : 1;
    while ((p->rows + w.rows_each - 1) / w.rows_each > INT32_MAX) w.rows_each *= 2;
    if (w.rows_each > p->rows) w.rows_each = p->rows;
    w.memory_each = ((size_t)w.rows_each * a_row + 63) / 64 * 64;
    for (int k = 0; k < 3; k++) w.at[k] = f->header[k];
    NS_CHECK(st, ns_alloc((void **)&w.first, (size_t)(p->n_chunks + 1) * sizeof *w.first, "packs.rows", err), "rows");
    for (int64_t c = 0; c < p->n_chunks; c++) w.first[c + 1] = w.first[c] + p->bins[c].n;
    NS_CHECK(st, ns_alloc((void **)&w.memory, (size_t)ns_threads_count(p->o->pool) * w.memory_each, "packs.rows", err),
             "rows");
    ns_parallel_for(p->o->pool, (int)((p->rows + w.rows_each - 1) / w.rows_each), write_block, &w);
    st = outcome(&w.failed, err);
done:
    ns_free(w.first);
    ns_free(w.memory);
    return st;
}

/* The meta file, from what it says. */
static ns_status put_meta(const ns_pack_files *f, const char *base, int64_t packs, ns_error *err)
{
    char path[4200];
    ns_buf b = {0};
    ns_status st = NS_OK;
    snprintf(path, sizeof path, "%s.meta.json", base);
    NS_CHECK(st,
             ns_buf_printf(&b, err,
                           "{\"format\": 1, \"pack_size\": %" PRId64 ", \"context_parallel_size\": %" PRId64
                           ", \"packs\": %" PRId64,
                           f->size, f->cp, packs),
             "meta");
    if (f->samples >= 0)
        NS_CHECK(st, ns_buf_printf(&b, err, ", \"samples\": %" PRId64 ", \"tokens\": %" PRId64, f->samples, f->tokens),
                 "meta");
    NS_CHECK(st, ns_buf_printf(&b, err, ", \"eos_id\": %" PRId64 ", \"loss_mask\": \"%s\"", f->eos, f->mask), "meta");
    if (f->tokenizer_hash[0]) {
        NS_CHECK(st, ns_buf_printf(&b, err, ", \"tokenizer_hash\": \"%s\", \"tokenizer\": ", f->tokenizer_hash),
                 "meta");
        NS_CHECK(st, ns_json_write_str(&b, (ns_str){f->tokenizer_path, strlen(f->tokenizer_path)}, NS_JSON_UTF8, err),
                 "meta");
    }
    NS_CHECK(st, ns_buf_adds(&b, "}\n", err), "meta");
    NS_CHECK(st, ns_file_replace(path, b.data, b.len, err), "meta");
done:
    ns_buf_free(&b);
    return st;
}

static ns_status write_meta(const packer *p, const char *base, const ns_pack_sum *sum, ns_error *err)
{
    const ns_pack_options *o = p->o;
    ns_pack_files f = {.size = o->size, .cp = o->cp, .eos = o->eos, .samples = sum->samples, .tokens = sum->tokens};
    snprintf(f.mask, sizeof f.mask, "%s", o->exact_mask ? "exact" : "original");
    snprintf(f.tokenizer_hash, sizeof f.tokenizer_hash, "%s", o->tokenizer_hash);
    snprintf(f.tokenizer_path, sizeof f.tokenizer_path, "%s", o->tokenizer);
    return put_meta(&f, base, sum->packs, err);
}

ns_status ns_packs_write(const ns_pack_set *set, const char *base, const ns_pack_options *o, ns_pack_sum *sum,
                         ns_error *err)
{
    packer p = {.set = set, .o = o};
    outputs f = {0};
    ns_status st = NS_OK;
    double start = ns_time_now();
    *sum = (ns_pack_sum){0};
    NS_CHECK(st, measure(&p, sum, err), "samples");
    NS_CHECK(st, assign(&p, sum, err), "assign");
    sum->assign_s = ns_time_now() - start;
    start = ns_time_now();
    NS_CHECK(st, open_outputs(&f, base, p.rows, p.width, p.most, err), "%s", base);
    NS_CHECK(st, write_rows(&p, &f, err), "%s", base);
    NS_CHECK(st, close_outputs(&f, o->pool, err), "%s", base);
    NS_CHECK(st, write_meta(&p, base, sum, err), "%s", base);
    sum->write_s = ns_time_now() - start;
done:
    drop_outputs(&f);
    for (int64_t c = 0; p.bins && c < p.n_chunks; c++) ns_bins_free(&p.bins[c]);
    ns_free(p.bins);
    ns_free(p.tokens);
    ns_free(p.number);
    ns_free(p.len);
    return st;
}

void ns_packs_report(const ns_pack_options *o, const ns_pack_sum *sum)
{
    log_figures(o, sum->fill, sum->packs, sum->samples);
}

/* ---- merge ---- */
static ns_status check_fit(const ns_pack_files *x, const char *a, const ns_pack_files *y, const char *b, ns_error *err)
{
    if (x->size < 0 || y->size < 0) return NS_OK;
    NS_FAIL_IF(x->size != y->size, NS_ERR_MISMATCH, "%s has packs of %" PRId64 ", %s of %" PRId64, a, x->size, b,
               y->size);
    NS_FAIL_IF(x->cp != y->cp || x->eos != y->eos || strcmp(x->mask, y->mask), NS_ERR_MISMATCH,
               "%s and %s differ in context_parallel_size (%" PRId64 ", %" PRId64 "), EOS (%" PRId64 ", %" PRId64
               ") or loss mask (%s, %s): pack them alike",
               a, b, x->cp, y->cp, x->eos, y->eos, x->mask, y->mask);
    NS_FAIL_IF(*x->tokenizer_hash && *y->tokenizer_hash && strcmp(x->tokenizer_hash, y->tokenizer_hash),
               NS_ERR_MISMATCH, "%s was made with tokenizer %s, %s with another, %s: pack them alike", a,
               x->tokenizer_path, b, y->tokenizer_path);
    return NS_OK;
}

static ns_status copy_rows(outputs *f, const ns_pack_files *in, const int64_t cols[3], ns_error *err)
{
    static const unsigned char minus[256] = {[0 ... 255] = 255}, ones[256] = {[0 ... 255] = 1};
    for (int64_t i = 0; i < in->a[0].rows; i++)
        for (int k = 0; k < 3; k++) {
            size_t have = (size_t)in->a[k].cols * in->a[k].item, want = (size_t)cols[k] * in->a[k].item;
            NS_TRY(ns_file_write(f->file[k], ns_npy_row(&in->a[k], i), have, err), "row");
            for (size_t n; have < want; have += n) {
                n = want - have < 256 ? want - have : 256;
                NS_TRY(ns_file_write(f->file[k], k == 1 ? ones : minus, n, err), "row");
            }
        }
    return NS_OK;
}

/* What the packs have in common; nothing where one of them does not say. */
static ns_status merge_meta(const ns_pack_files *in, size_t n, const char *output, int64_t rows, ns_error *err)
{
    ns_pack_files all = in[0];
    char path[4200];
    int known = 1;
    all.samples = all.tokens = 0;
    for (size_t i = 0; i < n; i++) {
        known &= in[i].size >= 0;
        if (!in[i].tokenizer_hash[0]) all.tokenizer_hash[0] = 0;
        all.tokens = all.samples < 0 || in[i].samples < 0 ? -1 : all.tokens + in[i].tokens;
        all.samples = all.samples < 0 || in[i].samples < 0 ? -1 : all.samples + in[i].samples;
    }
    snprintf(path, sizeof path, "%s.meta.json", output);
    if (known) return put_meta(&all, output, rows, err);
    (void)remove(path); /* of an older pack of that name */
    return NS_OK;
}

ns_status ns_packs_merge(const char *const *prefix, size_t n, const char *output, ns_error *err)
{
    ns_pack_files *in = NULL;
    outputs f = {0};
    int64_t rows = 0, cols[3] = {0};
    ns_status st = NS_OK;
    NS_FAIL_IF(n < 1, NS_ERR_CONFIG, "nothing to merge: name --input_prefixes A B ...");
    for (size_t i = 0; i < n; i++) {
        NS_FAIL_IF(!strcmp(prefix[i], output), NS_ERR_CONFIG, "%s is input and output: choose another --output_prefix",
                   output);
        for (size_t j = 0; j < i; j++)
            NS_FAIL_IF(!strcmp(prefix[i], prefix[j]), NS_ERR_CONFIG, "%s is named twice", prefix[i]);
    }
    NS_TRY(ns_alloc((void **)&in, n * sizeof *in, "packs.merge", err), "merge");
    for (size_t i = 0; i < n; i++) {
        NS_CHECK(st, ns_pack_files_open(&in[i], prefix[i], err), "merge");
        NS_CHECK(st, check_fit(&in[0], prefix[0], &in[i], prefix[i], err), "merge");
        NS_INFO("%s: %" PRId64 " packs", prefix[i], in[i].a[0].rows);
        rows += in[i].a[0].rows;
        for (int k = 0; k < 3; k++)
            if (in[i].a[k].cols > cols[k]) cols[k] = in[i].a[k].cols;
    }
    NS_CHECK(st, open_outputs(&f, output, rows, cols[0], cols[2], err), "%s", output);
    for (size_t i = 0; i < n; i++) NS_CHECK(st, copy_rows(&f, &in[i], cols, err), "%s", prefix[i]);
    NS_CHECK(st, close_outputs(&f, NULL, err), "%s", output);
    NS_CHECK(st, merge_meta(in, n, output, rows, err), "%s", output);
    NS_INFO("%s: %" PRId64 " packs in all", output, rows);
done:
    drop_outputs(&f);
    for (size_t i = 0; i < n; i++) ns_pack_files_close(&in[i]);
    ns_free(in);
    return st;
}
