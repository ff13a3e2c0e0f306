/* safetensors writer: declare every tensor, then stream the data in the same order. Shards are cut greedily in declaration
 * order, as the original does (training.md §5.6): a new file when the next tensor would exceed the maximum. One file is open
 * at a time (ns_st_put: several); each is fsynced when its last byte is in. The header is padded with blanks to 8 bytes so that data is aligned. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/scatter.h"
#include "ckpt/safetensors.h"

typedef struct decl {
    const char *name;
    ns_dtype dt;
    int nd;
    int64_t shape[8];
    int64_t bytes, begin; /* begin: offset in its file */
    int file;
} decl;

typedef struct put_file { /* ns_st_put: a file that is being filled */
    ns_scatter *f;
    int64_t head, left;
    int closed;
} put_file;

struct ns_st_writer {
    pthread_mutex_t mutex; /* ns_st_put */
    put_file *put;
    ns_arena arena;
    const char *dir, *base;
    int64_t max_bytes;
    decl *d;
    size_t n, cap;
    ns_str *meta; /* key, value, key, value ... */
    size_t n_meta, meta_cap;
    int started, n_files;
    ns_file *f;
    int f_index;     /* which file is open */
    size_t at;       /* tensor being written */
    int64_t at_done; /* its bytes so far */
};

ns_status ns_st_writer_new(ns_st_writer **out, const char *dir, const char *base, int64_t max_shard_bytes,
                           ns_error *err)
{
    *out = NULL;
    ns_st_writer *w = NULL;
    NS_TRY(ns_alloc((void **)&w, sizeof *w, "safetensors.writer", err), "%s", dir);
    w->arena.label = "safetensors.writer";
    pthread_mutex_init(&w->mutex, NULL);
    w->dir = ns_arena_strdup(&w->arena, dir, err);
    w->base = ns_arena_strdup(&w->arena, base, err);
    w->max_bytes = max_shard_bytes;
    w->f_index = -1;
    ns_status st = w->dir && w->base ? ns_st_meta(w, "format", "pt", err) : NS_ERR_MEMORY;
    if (st != NS_OK) {
        ns_st_writer_abort(&w);
        return st;
    }
    *out = w;
    return NS_OK;
}

ns_status ns_st_meta(ns_st_writer *w, const char *key, const char *value, ns_error *err)
{
    NS_ASSERT(!w->started);
    NS_TRY(ns_grow((void **)&w->meta, &w->meta_cap, w->n_meta + 2, sizeof *w->meta, "safetensors.meta", err), "%s",
           w->dir);
    char *k = ns_arena_strdup(&w->arena, key, err), *v = ns_arena_strdup(&w->arena, value, err);
    if (!k || !v) return NS_ERR_MEMORY;
    w->meta[w->n_meta++] = (ns_str){k, strlen(k)};
    w->meta[w->n_meta++] = (ns_str){v, strlen(v)};
    return NS_OK;
}

ns_status ns_st_declare(ns_st_writer *w, const char *name, ns_dtype dt, const int64_t *shape, int nd, ns_error *err)
{
    NS_ASSERT(!w->started && nd >= 0 && nd <= 8);
    NS_TRY(ns_grow((void **)&w->d, &w->cap, w->n + 1, sizeof *w->d, "safetensors.decl", err), "%s", w->dir);
    decl *d = &w->d[w->n];
    memset(d, 0, sizeof *d);
    d->name = ns_arena_strdup(&w->arena, name, err);
    if (!d->name) return NS_ERR_MEMORY;
    d->dt = dt;
    d->nd = nd;
    d->bytes = (int64_t)ns_dtype_size(dt);
    for (int i = 0; i < nd; i++) {
        NS_ASSERT(shape[i] >= 0);
        d->shape[i] = shape[i];
        d->bytes *= shape[i];
    }
    w->n++;
    return NS_OK;
}

static void cut_shards(ns_st_writer *w)
{
    int64_t used = 0;
    int file = 0;
    for (size_t i = 0; i < w->n; i++) {
        decl *d = &w->d[i];
        if (w->max_bytes > 0 && used > 0 && used + d->bytes > w->max_bytes) {
            file++;
            used = 0;
        }
        d->file = file;
        d->begin = used;
        used += d->bytes;
    }
    w->n_files = file + 1;
}

static void file_name(const ns_st_writer *w, int file, char *out, size_t size)
{
    if (w->n_files == 1) {
        snprintf(out, size, "%s.safetensors", w->base);
    } else {
        snprintf(out, size, "%s-%05d-of-%05d.safetensors", w->base, file + 1, w->n_files);
    }
}

static ns_status add_quoted(ns_buf *b, const char *s, ns_error *err)
{
    return ns_json_write_str(b, (ns_str){s, strlen(s)}, NS_JSON_UTF8, err);
}

static ns_status header_text(const ns_st_writer *w, int file, ns_buf *b, ns_error *err)
{
    NS_TRY(ns_buf_adds(b, "{\"__metadata__\":{", err), "%s", "");
    for (size_t i = 0; i < w->n_meta; i += 2) {
        if (i) NS_TRY(ns_buf_addc(b, ',', err), "%s", "");
        NS_TRY(add_quoted(b, w->meta[i].p, err), "%s", "");
        NS_TRY(ns_buf_addc(b, ':', err), "%s", "");
        NS_TRY(add_quoted(b, w->meta[i + 1].p, err), "%s", "");
    }
    NS_TRY(ns_buf_addc(b, '}', err), "%s", "");
    for (size_t i = 0; i < w->n; i++) {
        const decl *d = &w->d[i];
        if (d->file != file) continue;
        NS_TRY(ns_buf_addc(b, ',', err), "%s", "");
        NS_TRY(add_quoted(b, d->name, err), "%s", "");
        NS_TRY(ns_buf_printf(b, err, ":{\"dtype\":\"%s\",\"shape\":[", ns_dtype_name(d->dt)), "%s", "");
        for (int k = 0; k < d->nd; k++) {
            NS_TRY(ns_buf_printf(b, err, "%s%lld", k ? "," : "", (long long)d->shape[k]), "%s", "");
        }
        NS_TRY(ns_buf_printf(b, err, "],\"data_offsets\":[%lld,%lld]}", (long long)d->begin,
                             (long long)(d->begin + d->bytes)),
               "%s", "");
    }
    NS_TRY(ns_buf_addc(b, '}', err), "%s", "");
    while (b->len % 8) NS_TRY(ns_buf_addc(b, ' ', err), "%s", "");
    return NS_OK;
}

/* Path and first bytes of a file: length of the header, header. */
static ns_status file_head(ns_st_writer *w, int file, const char **path, ns_buf *b, ns_error *err)
{
    char name[512];
    file_name(w, file, name, sizeof name);
    *path = ns_arena_printf(&w->arena, err, "%s/%s", w->dir, name);
    if (!*path) return NS_ERR_MEMORY;
    NS_TRY(ns_buf_add(b, "\0\0\0\0\0\0\0\0", 8, err), "header of %s", name);
    NS_TRY(header_text(w, file, b, err), "header of %s", name);
    for (int i = 0; i < 8; i++) b->data[i] = (char)(unsigned char)((uint64_t)(b->len - 8) >> (8 * i));
    return NS_OK;
}

static ns_status open_file(ns_st_writer *w, int file, ns_error *err)
{
    const char *path;
    ns_buf b = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, file_head(w, file, &path, &b, err), "%s", "");
    NS_CHECK(st, ns_file_create(&w->f, path, err), "write %s", path);
    w->f_index = file;
    NS_CHECK(st, ns_file_write(w->f, b.data, b.len, err), "write %s", path);
done:
    ns_buf_free(&b);
    return st;
}

static ns_status close_file(ns_st_writer *w, ns_error *err)
{
    return w->f ? ns_file_close(&w->f, err) : NS_OK;
}

/* Opens the file of the current tensor if it is not open; steps over finished tensors. */
static ns_status advance(ns_st_writer *w, ns_error *err)
{
    if (!w->started) {
        w->started = 1;
        cut_shards(w);
        if (w->n == 0) return open_file(w, 0, err);
    }
    while (w->at < w->n) {
        const decl *d = &w->d[w->at];
        if (w->f_index != d->file) {
            NS_TRY(close_file(w, err), "write %s", w->dir);
            NS_TRY(open_file(w, d->file, err), "write %s", w->dir);
        }
        if (w->at_done < d->bytes) return NS_OK;
        w->at++;
        w->at_done = 0;
    }
    return NS_OK;
}

ns_status ns_st_write(ns_st_writer *w, const void *data, int64_t bytes, ns_error *err)
{
    const char *p = data;
    while (bytes > 0) {
        NS_TRY(advance(w, err), "%s", "");
        NS_FAIL_IF(w->at >= w->n, NS_ERR_INTERNAL, "%s: %lld bytes more than the declared tensors hold", w->dir,
                   (long long)bytes);
        int64_t room = w->d[w->at].bytes - w->at_done, n = bytes < room ? bytes : room;
        NS_TRY(ns_file_write(w->f, p, (size_t)n, err), "write tensor %s", w->d[w->at].name);
        w->at_done += n;
        p += n;
        bytes -= n;
    }
    return NS_OK;
}

static ns_status write_index(ns_st_writer *w, ns_error *err)
{
    ns_buf b = {0};
    ns_file *f = NULL;
    ns_status st = NS_OK;
    int64_t total = 0;
    char name[512];
    for (size_t i = 0; i < w->n; i++) total += w->d[i].bytes;
    NS_CHECK(st,
             ns_buf_printf(&b, err, "{\n  \"metadata\": {\n    \"total_size\": %lld\n  },\n  \"weight_map\": {",
                           (long long)total),
             "%s", "");
    for (size_t i = 0; i < w->n; i++) {
        NS_CHECK(st, ns_buf_adds(&b, i ? ",\n    " : "\n    ", err), "%s", "");
        NS_CHECK(st, add_quoted(&b, w->d[i].name, err), "%s", "");
        file_name(w, w->d[i].file, name, sizeof name);
        NS_CHECK(st, ns_buf_printf(&b, err, ": \"%s\"", name), "%s", "");
    }
    NS_CHECK(st, ns_buf_adds(&b, "\n  }\n}\n", err), "%s", "");
    const char *path = ns_arena_printf(&w->arena, err, "%s/%s.safetensors.index.json", w->dir, w->base);
    if (!path) st = NS_ERR_MEMORY;
    if (st != NS_OK) goto done;
    NS_CHECK(st, ns_file_create(&f, path, err), "write shard index");
    NS_CHECK(st, ns_file_write(f, b.data, b.len, err), "write shard index");
    NS_CHECK(st, ns_file_close(&f, err), "write shard index");
done:
    ns_file_abort(&f);
    ns_buf_free(&b);
    return st;
}

/* ---- in any order ---- */
static ns_status open_put_file(ns_st_writer *w, int file, ns_error *err)
{
    put_file *p = &w->put[file];
    const char *path;
    ns_buf b = {0};
    ns_status st = NS_OK;
    int64_t bytes = 0;
    for (size_t i = 0; i < w->n; i++)
        if (w->d[i].file == file) bytes += w->d[i].bytes;
    NS_CHECK(st, file_head(w, file, &path, &b, err), "%s", "");
    p->head = (int64_t)b.len;
    p->left = bytes;
    NS_CHECK(st, ns_scatter_create(&p->f, path, (uint64_t)(bytes + p->head), err), "write %s", path);
    NS_CHECK(st, ns_scatter_put(p->f, 0, b.data, b.len, err), "write %s", path);
done:
    ns_buf_free(&b);
    return st;
}

/* Under the lock: the file of tensor i is open. */
static ns_status open_for(ns_st_writer *w, size_t i, ns_error *err)
{
    if (!w->started) {
        w->started = 1;
        cut_shards(w);
        w->put = ns_arena_alloc(&w->arena, (size_t)w->n_files * sizeof *w->put, err);
        if (!w->put) return NS_ERR_MEMORY;
    }
    NS_FAIL_IF(!w->put, NS_ERR_MEMORY, "%s: not started", w->dir);
    NS_ASSERT(!w->put[w->d[i].file].closed);
    return w->put[w->d[i].file].f ? NS_OK : open_put_file(w, w->d[i].file, err);
}

ns_status ns_st_put(ns_st_writer *w, size_t i, int64_t at, const void *data, int64_t n, ns_error *err)
{
    NS_ASSERT(i < w->n && !w->f);
    const decl *d = &w->d[i];
    pthread_mutex_lock(&w->mutex);
    ns_status st = open_for(w, i, err);
    pthread_mutex_unlock(&w->mutex);
    if (st != NS_OK) return st;
    put_file *p = &w->put[d->file];
    NS_FAIL_IF(at < 0 || n < 0 || n > d->bytes - at, NS_ERR_INTERNAL, "%s: tensor \"%s\": bytes %lld + %lld of %lld",
               w->dir, d->name, (long long)at, (long long)n, (long long)d->bytes);
    NS_TRY(ns_scatter_put(p->f, (uint64_t)(p->head + d->begin + at), data, (size_t)n, err), "write tensor %s", d->name);
    pthread_mutex_lock(&w->mutex);
    p->left -= n;
    int last = p->left == 0;
    if (last) p->closed = 1;
    pthread_mutex_unlock(&w->mutex);
    return last ? ns_scatter_close(&p->f, err) : NS_OK; /* whoever brings the last byte: nobody else uses it now */
}

ns_status ns_st_writer_close(ns_st_writer **wp, ns_error *err)
{
    ns_st_writer *w = *wp;
    ns_status st = NS_OK;
    for (int i = 0; w->put && i < w->n_files; i++)
        NS_BAIL_IF(st, !w->put[i].closed, NS_ERR_INTERNAL, "%s: file %d: %lld bytes were not written", w->dir, i + 1,
                   (long long)w->put[i].left);
    if (!w->put) NS_CHECK(st, advance(w, err), "%s", "");
    NS_BAIL_IF(st, !w->put && w->at < w->n, NS_ERR_INTERNAL, "%s: tensor \"%s\": %lld of %lld bytes were written",
               w->dir, w->d[w->at].name, (long long)w->at_done, (long long)w->d[w->at].bytes);
    NS_CHECK(st, close_file(w, err), "write %s", w->dir);
    if (w->n_files > 1) NS_CHECK(st, write_index(w, err), "write %s", w->dir);
done:
    ns_st_writer_abort(wp);
    return st;
}

void ns_st_writer_abort(ns_st_writer **wp)
{
    ns_st_writer *w = *wp;
    if (!w) return;
    ns_file_abort(&w->f); /* NULL after a good close */
    for (int i = 0; w->put && i < w->n_files; i++) ns_scatter_abort(&w->put[i].f);
    pthread_mutex_destroy(&w->mutex);
    ns_free(w->d);
    ns_free(w->meta);
    ns_arena_free(&w->arena);
    ns_free(w);
    *wp = NULL;
}
