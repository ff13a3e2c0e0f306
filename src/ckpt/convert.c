/* The pipeline of every conversion: blocks of rows, dealt to threads; each is read, converted, looked at (extremes, checksum) and put
 * into the sink. Blocks of a view are merged in order afterwards, so the result does not depend on timing. */
#include <pthread.h>
#include <string.h>

#include "base/crc32.h"
#include "ckpt/look.h"
#include "ckpt/sink.h"

typedef struct block {
    int view;
    int64_t row0, n;
    ns_view_stats s;
} block;

typedef struct scratch {
    float *f, *back;
    void *bytes, *cut;
} scratch;

typedef struct job {
    const ns_convert *c;
    block *b;
    int n_blocks;
    scratch *w; /* by worker */
    int n_workers;
    int *first, *left;     /* by view: its first block, how many of its blocks are not done */
    pthread_mutex_t mutex; /* below; left */
    ns_status status;
    ns_error *err;
    double done;
} job;

static int is_head(ns_kind k)
{
    return k == NS_P_QKV || k == NS_P_QKV_BIAS;
}

/* Rows of a block of view v. */
static int64_t step_of(const ns_param_table *t, int v)
{
    const ns_param *p = &t->params[t->views[v].param];
    int64_t unit = is_head(p->kind) ? t->arch->head_dim : 4, k = NS_BLOCK / (p->cols * unit);
    return (k > 1 ? k : 1) * unit;
}

static ns_status cut_blocks(job *j, ns_error *err)
{
    const ns_param_table *t = j->c->table;
    int64_t n = 0;
    for (int v = 0; v < t->n_views; v++) n += (t->views[v].rows + step_of(t, v) - 1) / step_of(t, v);
    NS_FAIL_IF(n > INT32_MAX, NS_ERR_INPUT, "the model has too many tensors");
    NS_TRY(ns_alloc((void **)&j->b, (size_t)n * sizeof *j->b, "convert.blocks", err), "%s", "");
    NS_TRY(ns_alloc((void **)&j->first, 2 * (size_t)t->n_views * sizeof *j->first, "convert.blocks", err), "%s", "");
    j->left = j->first + t->n_views;
    for (int v = 0; v < t->n_views; v++) {
        int64_t step = step_of(t, v), rows = t->views[v].rows;
        j->first[v] = j->n_blocks;
        j->left[v] = (int)((rows + step - 1) / step);
        for (int64_t r = 0; r < rows; r += step)
            j->b[j->n_blocks++] = (block){.view = v, .row0 = r, .n = rows - r < step ? rows - r : step};
    }
    return NS_OK;
}

static ns_status make_scratch(job *j, ns_error *err)
{
    const ns_param_table *t = j->c->table;
    int64_t most = 1;
    for (int v = 0; v < t->n_views; v++) {
        int64_t rows = step_of(t, v) < t->views[v].rows ? step_of(t, v) : t->views[v].rows;
        int64_t n = rows * t->params[t->views[v].param].cols;
        if (n > most) most = n;
    }
    size_t size = (size_t)most * sizeof(float);
    NS_TRY(ns_alloc((void **)&j->w, (size_t)j->n_workers * sizeof *j->w, "convert.scratch", err), "%s", "");
    for (int i = 0; i < j->n_workers; i++) {
        NS_TRY(ns_alloc((void **)&j->w[i].f, size, "convert.scratch", err), "%s", "");
        NS_TRY(ns_alloc(&j->w[i].bytes, size, "convert.scratch", err), "%s", "");
        if (!j->c->sink) continue;
        NS_TRY(ns_alloc(&j->w[i].cut, size, "convert.scratch", err), "%s", "");
        if (j->c->sink->is_exact) NS_TRY(ns_alloc((void **)&j->w[i].back, size, "convert.scratch", err), "%s", "");
    }
    return NS_OK;
}

/* The type in which rows of view v are compared: as they are stored, if that is exact. */
static ns_dtype type_of(const ns_convert *c, int v)
{
    if (c->expect) return c->expect[v].dt;
    if (!c->sink) return c->dt;
    return c->sink->view_dt ? c->sink->view_dt(c->sink, v) : c->sink->dt;
}

static void look(ns_view_stats *s, const void *p, ns_dtype dt, int64_t n)
{
    ns_extremes e;
    ns_look(&e, p, dt, n);
    s->min = e.min;
    s->max = e.max;
    s->sum = e.sum;
}

/* The rows of a block in type dt: w->bytes, or w->f if that is F32. Looked at in the type that is stored. */
static ns_status read_rows(job *j, const block *b, scratch *w, ns_dtype dt, int64_t n, ns_view_stats *s, ns_error *err)
{
    const ns_convert *c = j->c;
    int see = !c->expect;
    if (dt != NS_DTYPE_F32 && c->native && c->native[b->view] == dt) { /* as they are */
        NS_TRY(c->rows(c->user, b->view, b->row0, b->n, dt, w->bytes, err), "%s", "");
        if (see && dt == NS_DTYPE_BF16) {
            look(s, w->bytes, dt, n);
        } else if (see) {
            ns_to_f32(w->f, w->bytes, dt, (size_t)n);
            look(s, w->f, NS_DTYPE_F32, n);
        }
        return NS_OK;
    }
    NS_TRY(c->rows(c->user, b->view, b->row0, b->n, NS_DTYPE_F32, w->f, err), "%s", "");
    if (dt == NS_DTYPE_F32) {
        if (see) look(s, w->f, dt, n);
        return NS_OK;
    }
    float *back = w->cut ? w->cut : w->f;
    ns_from_f32(w->bytes, dt, w->f, (size_t)n);
    if (!see) return NS_OK;
    ns_to_f32(back, w->bytes, dt, (size_t)n);
    if (back != w->f) s->lost = ns_look_lost(w->f, back, n);
    look(s, back, NS_DTYPE_F32, n);
    return NS_OK;
}

static ns_status do_block(job *j, block *b, scratch *w, ns_error *err)
{
    const ns_convert *c = j->c;
    const ns_view *v = &c->table->views[b->view];
    int64_t n = b->n * c->table->params[v->param].cols;
    ns_view_stats *s = &b->s;
    s->exact =
        c->expect ? c->expect[b->view].exact : !c->sink || !c->sink->is_exact || c->sink->is_exact(c->sink, b->view);
    s->dt = s->exact ? type_of(c, b->view) : NS_DTYPE_F32;
    s->n = n;
    if (c->kept && c->kept[b->view]) return c->sink->put(c->sink, b->view, b->row0, b->n, NULL, w->cut, NULL, err);
    NS_TRY(read_rows(j, b, w, s->dt, n, s, err), "%s", "");
    const void *rows = s->dt == NS_DTYPE_F32 ? (const void *)w->f : w->bytes;
    if (s->exact || !c->sink) s->crc = ns_crc32(rows, (size_t)n * ns_dtype_size(s->dt));
    if (!c->sink) return NS_OK;
    NS_TRY(c->sink->put(c->sink, b->view, b->row0, b->n, rows, w->cut, s->exact ? NULL : w->back, err), "write %s",
           v->name);
    if (!s->exact) {
        s->crc = ns_crc32(w->back, (size_t)n * sizeof *w->back);
        ns_look_errors(&s->err2, &s->sum2, rows, w->back, n);
    }
    return NS_OK;
}

/* Joins the blocks of view v, in order. */
static ns_status merge_view(const job *j, int v, ns_view_stats *out, ns_error *err)
{
    const ns_param_table *t = j->c->table;
    const block *b = &j->b[j->first[v]];
    ns_view_stats s = b->s;
    uint64_t size = ns_dtype_size(s.dt);
    for (int k = j->first[v] + 1; k < j->n_blocks && j->b[k].view == v; k++) {
        const ns_view_stats *x = &j->b[k].s;
        s.crc = ns_crc_join(NS_CRC32_POLY, s.crc, x->crc, (uint64_t)x->n * size);
        s.n += x->n;
        s.lost += x->lost;
        s.sum += x->sum;
        s.err2 += x->err2;
        s.sum2 += x->sum2;
        if (x->min < s.min) s.min = x->min;
        if (x->max > s.max) s.max = x->max;
    }
    NS_FAIL_IF(s.lost, NS_ERR_NUMERIC, "%s: %lld values are too large for %s: choose --dtype bf16 or fp32",
               t->views[v].name, (long long)s.lost, ns_dtype_name(s.dt));
    *out = s;
    return NS_OK;
}

/* Under the lock: a block of view v is in the sink. */
static ns_status block_done(job *j, int v, ns_error *err)
{
    ns_view_stats s;
    if (--j->left[v] || !j->c->view_done || (j->c->kept && j->c->kept[v])) return NS_OK;
    NS_TRY(merge_view(j, v, &s, err), "%s", "");
    return j->c->view_done(j->c->user, v, &s, err);
}

static void tile(void *arg, int i, int worker)
{
    job *j = arg;
    ns_error err = NS_ERROR_INIT;
    pthread_mutex_lock(&j->mutex);
    int stop = j->status != NS_OK;
    pthread_mutex_unlock(&j->mutex);
    if (stop) return;
    ns_status st = do_block(j, &j->b[i], &j->w[worker], &err);
    pthread_mutex_lock(&j->mutex);
    if (st == NS_OK) st = block_done(j, j->b[i].view, &err);
    if (st != NS_OK && j->status == NS_OK) {
        j->status = st;
        if (j->err) *j->err = err;
    }
    j->done += (double)j->b[i].s.n;
    if (j->c->progress) j->c->progress(j->c->user, j->done);
    pthread_mutex_unlock(&j->mutex);
}

static ns_status merge(const job *j, ns_view_stats *stats, ns_error *err)
{
    const ns_param_table *t = j->c->table;
    for (int v = 0; v < t->n_views; v++) {
        ns_view_stats s;
        if (j->c->kept && j->c->kept[v]) {
            s = stats[v];
            s.dt = j->b[j->first[v]].s.dt;
        } else {
            NS_TRY(merge_view(j, v, &s, err), "%s", "");
        }
        NS_FAIL_IF(j->c->expect && s.crc != j->c->expect[v].crc, NS_ERR_INTERNAL,
                   "%s: what was written does not read back as it should: checksum %08x, expected %08x",
                   t->views[v].name, s.crc, j->c->expect[v].crc);
        s.type = j->c->sink && j->c->sink->type_name ? j->c->sink->type_name(j->c->sink, v) : ns_dtype_name(s.dt);
        if (stats) stats[v] = s;
    }
    return NS_OK;
}

ns_status ns_model_convert(const ns_convert *c, ns_view_stats *stats, ns_error *err)
{
    job j = {.c = c, .err = err, .mutex = PTHREAD_MUTEX_INITIALIZER};
    ns_threads *pool = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, cut_blocks(&j, err), "convert");
    NS_CHECK(st, ns_threads_new(&pool, 0, err), "convert");
    j.n_workers = ns_threads_count(pool);
    NS_CHECK(st, make_scratch(&j, err), "convert");
    ns_parallel_for(pool, j.n_blocks, tile, &j);
    st = j.status;
    if (st != NS_OK) goto done; /* the first failure is the one to tell */
    NS_CHECK(st, merge(&j, stats, err), "%s", "");
    if (c->sink) NS_CHECK(st, c->sink->finish(c->sink, err), "write model");
done:
    ns_threads_free(&pool);
    for (int i = 0; j.w && i < j.n_workers; i++) {
        ns_free(j.w[i].f);
        ns_free(j.w[i].back);
        ns_free(j.w[i].bytes);
        ns_free(j.w[i].cut);
    }
    ns_free(j.w);
    ns_free(j.b);
    ns_free(j.first);
    pthread_mutex_destroy(&j.mutex);
    return st;
}

void ns_sink_free(ns_sink **s)
{
    if (*s) (*s)->free(*s);
    *s = NULL;
}
