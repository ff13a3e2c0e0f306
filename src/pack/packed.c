/* Packs to train on (packed.h).
 *
 *   three mapped arrays ─count sequences─▶ per pack, all threads: borders, ids and mask checked, trained tokens, hash ─▶ ns_examples
 *
 * Nothing is copied but 20 bytes a sequence: data larger than memory trains from the page cache. */
#include "pack/packed.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "data/hash.h"
#include "pack/pack_files.h"

enum { TILES = 256 };

typedef struct reader {
    const ns_pack_files *f;
    const ns_packed_want *want;
    const char *prefix;
    ns_examples *ex;
    int64_t *first;  /* [packs+1] its first sequence */
    ns_hash *hash;   /* [packs] */
    ns_error *error; /* [TILES] */
    struct tally {
        int64_t targets, masked, ids, tokens, stored, longest, longest_row, longest_stored;
    } tally[TILES];
} reader;

int ns_packed_is_name(const char *path)
{
    size_t n = strlen(path);
    return n > 4 && !strcmp(path + n - 4, ".npy");
}

/* Sequence borders of pack i, from ids up to the padding and starts up to the first -1. */
static ns_status borders(const reader *r, int64_t i, int64_t *n_seq, int64_t *n_ids, ns_error *err)
{
    const ns_npy *a = r->f->a;
    const int32_t *ids = (const void *)ns_npy_row(&a[NS_PACK_IDS], i);
    const int32_t *start = (const void *)ns_npy_row(&a[NS_PACK_STARTS], i);
    int64_t n = a[NS_PACK_IDS].cols, k = 0;
    while (n > 0 && ids[n - 1] == -1) n--;
    for (int64_t q = 0; q < n; q++)
        NS_FAIL_IF(ids[q] < 0 || ids[q] >= r->want->vocab, NS_ERR_MISMATCH,
                   "%s: pack %" PRId64 ", position %" PRId64 ": token id %d, but the model has %" PRId64
                   " rows of vocabulary: tokenizer and model do not belong together",
                   r->prefix, i, q, ids[q], r->want->vocab);
    while (k < a[NS_PACK_STARTS].cols && start[k] != -1) {
        NS_FAIL_IF(k == 0 ? start[k] != 0 : start[k] <= start[k - 1] || start[k] >= n, NS_ERR_INPUT,
                   "%s.seq_start_id.npy: pack %" PRId64 ", sequence %" PRId64 " begins at %d: expected 0 first, then "
                   "growing numbers below the pack's %" PRId64 " tokens",
                   r->prefix, i, k, start[k], n);
        k++;
    }
    NS_FAIL_IF(k == 0 || n == 0, NS_ERR_INPUT, "%s: pack %" PRId64 " has no sequence", r->prefix, i);
    *n_seq = k;
    *n_ids = n;
    return NS_OK;
}

static ns_status read_pack(reader *r, int64_t i, struct tally *t, ns_error *err)
{
    const ns_npy *a = r->f->a;
    const uint8_t *mask = ns_npy_row(&a[NS_PACK_MASK], i);
    const int32_t *start = (const void *)ns_npy_row(&a[NS_PACK_STARTS], i);
    ns_examples *ex = r->ex;
    int64_t n_seq = 0, n_ids = 0, tokens = 0, stored;
    NS_TRY(borders(r, i, &n_seq, &n_ids, err), "%s", "packs");
    stored = n_ids - n_seq;
    NS_FAIL_IF(stored > r->want->max_seq_length, NS_ERR_MISMATCH,
               "%s: pack %" PRId64 " has %" PRId64 " tokens, more than model.data.train_ds.max_seq_length=%" PRId64
               ": set ++model.data.train_ds.max_seq_length=%" PRId64 ", the pack size, or pack to a smaller size",
               r->prefix, i, stored, r->want->max_seq_length, r->f->size > 0 ? r->f->size : stored);
    for (int64_t k = 0; k < n_seq; k++) {
        int64_t e = r->first[i] + k, from = start[k], n = (k + 1 < n_seq ? start[k + 1] : n_ids) - from, last = -1,
                targets = 0;
        for (int64_t q = 0; q + 1 < n; q++)
            if (mask[from + q]) last = q, targets++;
        ex->start[e] = i * a[NS_PACK_IDS].cols + from;
        ex->len[e] = last < 0 ? 0 : (int32_t)last + 2;
        ex->targets[e] = (int32_t)targets;
        t->targets += targets;
        t->masked += targets == 0;
        t->ids += ex->len[e];
        tokens += last + 1;
        if (ex->len[e] > t->longest_row) t->longest_row = ex->len[e];
    }
    t->tokens += tokens;
    t->stored += stored;
    if (tokens > t->longest) t->longest = tokens;
    if (stored > t->longest_stored) t->longest_stored = stored;
    r->hash[i] = ns_hash_bytes((ns_hash){{0, 0}}, ns_npy_row(&a[NS_PACK_IDS], i), (size_t)n_ids * 4);
    r->hash[i] = ns_hash_bytes(r->hash[i], mask, (size_t)n_ids);
    r->hash[i] = ns_hash_bytes(r->hash[i], start, (size_t)n_seq * 4);
    return NS_OK;
}

static void read_tile(void *arg, int tile, int worker)
{
    reader *r = arg;
    int64_t n = r->f->a[NS_PACK_IDS].rows;
    (void)worker;
    for (int64_t i = n * tile / TILES; i < n * (tile + 1) / TILES; i++)
        if (read_pack(r, i, &r->tally[tile], &r->error[tile]) != NS_OK) return;
}

static ns_status count_sequences(reader *r, ns_packed *p, ns_error *err)
{
    const ns_npy *s = &r->f->a[NS_PACK_STARTS];
    NS_FAIL_IF(s->rows == 0, NS_ERR_INPUT, "%s: no packs", r->prefix);
    NS_TRY(ns_alloc((void **)&r->first, ((size_t)s->rows + 1) * sizeof *r->first, "packs.start", err), "packs");
    for (int64_t i = 0; i < s->rows; i++) {
        const int32_t *start = (const void *)ns_npy_row(s, i);
        int64_t k = 0;
        while (k < s->cols && start[k] != -1) k++;
        if (k > p->most) p->most = k;
        r->first[i + 1] = r->first[i] + k;
    }
    p->packs.n = s->rows;
    p->packs.start = r->first;
    p->samples = r->first[s->rows];
    return NS_OK;
}

static ns_status add_up(reader *r, ns_packed *p, ns_error *err)
{
    ns_examples *ex = r->ex;
    ns_hash h = {{0, 0}};
    for (int k = 0; k < TILES; k++) {
        const struct tally *t = &r->tally[k];
        if (r->error[k].code != NS_OK) { /* the first in file order */
            if (err) *err = r->error[k];
            return r->error[k].code;
        }
        ex->n_targets += t->targets;
        ex->n_all_masked += t->masked;
        ex->n_ids += t->ids;
        p->tokens += t->tokens;
        p->stored += t->stored;
        if (t->longest_row > ex->longest) ex->longest = t->longest_row;
        if (t->longest > p->longest) p->longest = t->longest;
        if (t->longest_stored > p->size) p->size = t->longest_stored;
    }
    for (int64_t i = 0; i < p->packs.n; i++) h = ns_hash_bytes(h, &r->hash[i], sizeof r->hash[i]);
    snprintf(ex->hash, sizeof ex->hash, "%016" PRIx64, h.v[0] ^ h.v[1]);
    snprintf(ex->format, sizeof ex->format, "packs");
    if (r->f->size > 0) p->size = r->f->size;
    return NS_OK;
}

static ns_status check_meta(const ns_pack_files *f, const char *prefix, const ns_packed_want *w, ns_error *err)
{
    NS_FAIL_IF(f->size > w->max_seq_length, NS_ERR_MISMATCH,
               "%s has packs of %" PRId64 " tokens, but model.data.train_ds.max_seq_length=%" PRId64
               ": set ++model.data.train_ds.max_seq_length=%" PRId64 ", or pack to a smaller size",
               prefix, f->size, w->max_seq_length, f->size);
    NS_FAIL_IF(w->tokenizer_hash && f->tokenizer_hash[0] && strcmp(w->tokenizer_hash, f->tokenizer_hash),
               NS_ERR_MISMATCH,
               "%s was packed with the tokenizer of %s, the model's (%s) is another: pack the rows again with "
               "++tokenizer_path=%s",
               prefix, f->tokenizer_path, w->tokenizer, w->tokenizer);
    if (w->tokenizer_hash && f->size >= 0 && !f->tokenizer_hash[0])
        NS_WARN("%s does not say which tokenizer it was made with: it cannot be compared", prefix);
    return NS_OK;
}

/* "x.npy" or "x.input_ids.npy" -> "x"; only at the end. */
static void prefix_of(char *out, size_t size, const char *name)
{
    static const char *const ends[] = {".input_ids.npy", ".npy"};
    snprintf(out, size, "%s", name);
    for (size_t i = 0; i < 2; i++) {
        size_t n = strlen(out), m = strlen(ends[i]);
        if (n > m && !strcmp(out + n - m, ends[i])) {
            out[n - m] = 0;
            return;
        }
    }
}

static ns_status open_files(ns_pack_files *f, char *prefix, size_t size, const char *name, ns_error *err)
{
    prefix_of(prefix, size, name);
    int none = 1;
    for (int k = 0; k < NS_PACK_N_FILES; k++) {
        char path[4200];
        snprintf(path, sizeof path, "%s.%s.npy", prefix, ns_pack_suffix[k]);
        none &= !ns_path_exists(path);
    }
    NS_FAIL_IF(
        none && ns_path_exists(name), NS_ERR_UNSUPPORTED,
        "%s: a pack in one file, the old form of pickled objects: its mask is off by one for this form and nothing "
        "is unpickled here; pack the rows again with ns pack",
        name);
    NS_FAIL_IF(none, NS_ERR_INPUT, "%s: no packs: expected %s.[input_ids|loss_mask|seq_start_id].npy", name, prefix);
    return ns_pack_files_open(f, prefix, err);
}

ns_status ns_packed_read(ns_examples *ex, ns_packed *p, const char *name, const ns_packed_want *want, ns_threads *pool,
                         ns_error *err)
{
    char prefix[4096];
    ns_pack_files f = {0};
    reader *r = NULL;
    ns_status st = NS_OK;
    memset(ex, 0, sizeof *ex);
    memset(p, 0, sizeof *p);
    NS_CHECK(st, open_files(&f, prefix, sizeof prefix, name, err), "%s", "packs");
    NS_CHECK(st, check_meta(&f, prefix, want, err), "%s", "packs");
    NS_CHECK(st, ns_alloc((void **)&r, sizeof *r, "packs.reader", err), "packs");
    r->f = &f, r->want = want, r->prefix = prefix, r->ex = ex;
    NS_CHECK(st, count_sequences(r, p, err), "packs");
    ex->n = p->samples;
    size_t n = (size_t)ex->n;
    NS_CHECK(st, ns_alloc((void **)&ex->start, (n + 1) * sizeof *ex->start, "packs.rows", err), "packs");
    NS_CHECK(st, ns_alloc((void **)&ex->len, (n + 1) * sizeof *ex->len, "packs.rows", err), "packs");
    NS_CHECK(st, ns_alloc((void **)&ex->targets, (n + 1) * sizeof *ex->targets, "packs.rows", err), "packs");
    NS_CHECK(st, ns_alloc((void **)&r->hash, (size_t)p->packs.n * sizeof *r->hash, "packs.hash", err), "packs");
    NS_CHECK(st, ns_alloc((void **)&r->error, TILES * sizeof *r->error, "packs.reader", err), "packs");
    ns_parallel_for(pool, TILES, read_tile, r);
    NS_CHECK(st, add_up(r, p, err), "packs");
    ex->ids = (int32_t *)(uintptr_t)f.a[NS_PACK_IDS].data;
    ex->mask = (uint8_t *)(uintptr_t)f.a[NS_PACK_MASK].data - 1; /* mask[i] is about id i: the header lies before it */
    for (int k = 0; k < 2; k++) {
        ex->map[k] = f.a[k].map; /* now the examples' */
        f.a[k].map = (ns_map){0};
    }
    NS_INFO("%s: %" PRId64 " packs of up to %" PRId64 " tokens, %" PRId64 " sequences (n = %.3f a pack), %" PRId64
            " tokens, %" PRId64 " targets",
            prefix, p->packs.n, p->size, p->samples, (double)p->samples / (double)p->packs.n, p->stored, ex->n_targets);
    if (p->stored > p->tokens)
        NS_INFO("%s: %" PRId64
                " tokens (%.1f %%) stand behind the last trained one of their sequence, padding for most "
                "part: they are not computed",
                prefix, p->stored - p->tokens, 100.0 * (double)(p->stored - p->tokens) / (double)p->stored);
    if (ex->n_all_masked)
        NS_WARN("%s: %" PRId64 " sequences have no trained token and are left out", prefix, ex->n_all_masked);
done:
    if (r) {
        ns_free(r->hash);
        ns_free(r->error);
    }
    ns_free(r);
    ns_pack_files_close(&f);
    if (st != NS_OK) {
        ns_examples_free(ex);
        ns_packed_free(p);
    }
    return st;
}

ns_status ns_packed_make(ns_packed *p, ns_examples *ex, int32_t size, ns_pack_algorithm how, uint32_t seed,
                         int64_t chunk, ns_error *err)
{
    int32_t *len = NULL;
    int64_t *number = NULL, n = 0;
    ns_status st = NS_OK;
    memset(p, 0, sizeof *p);
    NS_CHECK(st, ns_alloc((void **)&len, (size_t)ex->n * sizeof *len, "packs.len", err), "packs");
    NS_CHECK(st, ns_alloc((void **)&number, (size_t)ex->n * sizeof *number, "packs.number", err), "packs");
    for (int64_t e = 0; e < ex->n; e++) {
        int64_t ids = ns_examples_len(ex, e);
        NS_BAIL_IF(st, ids - 1 > size, NS_ERR_CONFIG,
                   "line %" PRId64 " has %" PRId64 " tokens, more than model.data.train_ds.pack_size=%d: set "
                   "++model.data.train_ds.max_seq_length=%d or less, or a larger pack_size",
                   ns_examples_line(ex, e), ids - 1, size, size);
        if (ids < 1) continue;
        len[n] = (int32_t)ids - 1;
        p->tokens += ids - 1;
        number[n++] = e;
    }
    NS_CHECK(st, ns_bins_assign_chunks(&p->packs, len, n, size, how, seed, chunk, err), "packs");
    for (int64_t i = 0; i < p->packs.n; i++) {
        int64_t tokens = 0, k = p->packs.start[i + 1] - p->packs.start[i];
        for (int64_t j = p->packs.start[i]; j < p->packs.start[i + 1]; j++) {
            tokens += len[p->packs.item[j]];
            p->packs.item[j] = number[p->packs.item[j]];
        }
        if (tokens > p->longest) p->longest = tokens;
        if (k > p->most) p->most = k;
    }
    p->samples = n;
    p->stored = p->tokens;
    p->size = size;
    ns_hash h = ns_hash_bytes((ns_hash){{0, 0}}, ex->hash, sizeof ex->hash);
    h = ns_hash_bytes(h, p->packs.item, (size_t)n * sizeof *p->packs.item);
    h = ns_hash_bytes(h, p->packs.start, (size_t)p->packs.n * sizeof *p->packs.start);
    snprintf(ex->hash, sizeof ex->hash, "%016" PRIx64, h.v[0] ^ h.v[1]);
done:
    ns_free(len);
    ns_free(number);
    if (st != NS_OK) ns_packed_free(p);
    return st;
}

void ns_packed_free(ns_packed *p)
{
    ns_bins_free(&p->packs);
    memset(p, 0, sizeof *p);
}

void ns_split_packs(ns_mb_split *s, const ns_packed *p, const int64_t *index, int64_t n)
{
    int64_t at = 0;
    s->n_micro = 0;
    for (int64_t i = 0; i < n; i++) {
        if (index[i] < 0) continue;
        s->start[s->n_micro++] = at;
        for (int64_t j = p->packs.start[index[i]]; j < p->packs.start[index[i] + 1]; j++) {
            NS_ASSERT(at < s->cap);
            s->rows[at++] = p->packs.item ? p->packs.item[j] : j;
        }
    }
    s->start[s->n_micro] = at;
}

ns_status ns_split_into_packs(ns_mb_split *s, const ns_examples *ex, const int64_t *rows, int64_t n, int32_t size,
                              ns_pack_algorithm how, uint32_t seed, ns_error *err)
{
    ns_bins b = {0};
    int32_t *len = (int32_t *)(void *)s->scratch;
    int64_t *row = s->scratch + s->cap, m = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t tokens = rows[i] < 0 ? 0 : ns_examples_len(ex, rows[i]) - 1;
        if (tokens < 1) continue; /* nothing to compute */
        len[m] = (int32_t)tokens;
        row[m++] = rows[i];
    }
    s->n_micro = 0;
    s->start[0] = 0;
    if (m == 0) return NS_OK;
    NS_TRY(ns_bins_assign(&b, len, m, size, how, seed, err), "packs of a step");
    for (int64_t j = 0; j < m; j++) s->rows[j] = row[b.item[j]];
    memcpy(s->start, b.start, ((size_t)b.n + 1) * sizeof *s->start);
    s->n_micro = b.n;
    ns_bins_free(&b);
    return NS_OK;
}

ns_status ns_packed_most(int64_t *most, const ns_examples *ex, int32_t size, ns_error *err)
{
    int64_t *count = NULL, room = size;
    *most = 0;
    NS_TRY(ns_alloc((void **)&count, ((size_t)size + 1) * sizeof *count, "packs.count", err), "packs");
    for (int64_t e = 0; e < ex->n; e++) {
        int64_t tokens = ns_examples_len(ex, e) - 1;
        if (tokens > 0 && tokens <= size) count[tokens]++;
    }
    for (int64_t l = 1; l <= room; l++) { /* shortest first */
        int64_t k = count[l] < room / l ? count[l] : room / l;
        *most += k;
        room -= k * l;
    }
    ns_free(count);
    return NS_OK;
}
