#include "train/overlap.h"

#include <pthread.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"

typedef struct queue { /* parameters in the order in which they are exchanged */
    int *order;
    int handed, done; /* under lock: order[0..handed) may be exchanged, order[0..done) are */
} queue;

struct ns_overlap {
    ns_ranks *ranks;
    ns_engine *engine;
    int n, weights_too, on_gpu; /* on_gpu: the main thread enqueues, there is no other; done means that */
    queue grads;                /* final norm and head, layers from the last to the first, embedding */
    queue weights;              /* the other way round */
    int prepared; /* main thread: weights.order[0..prepared) are here and in the forms that the ops want */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work, moved;
    int stop;
    ns_error err; /* under lock: first failure; nothing is exchanged after it */
};

/* Weights of a step come before its gradients, on every rank: a rank without micro-batches hands over both at once. */
static void *run(void *arg)
{
    ns_overlap *o = arg;
    pthread_mutex_lock(&o->lock);
    for (;;) {
        queue *q = o->weights.done < o->weights.handed ? &o->weights : &o->grads;
        if (q->done == q->handed && o->stop) break;
        if (q->done == q->handed) {
            pthread_cond_wait(&o->work, &o->lock);
            continue;
        }
        const int param = q->order[q->done], failed = o->err.code != NS_OK;
        pthread_mutex_unlock(&o->lock);
        ns_error err = NS_ERROR_INIT;
        ns_status st = failed             ? NS_OK
                       : q == &o->weights ? ns_ranks_gather_one(o->ranks, o->engine, param, &err)
                                          : ns_ranks_reduce_one(o->ranks, o->engine, param, &err);
        pthread_mutex_lock(&o->lock);
        if (st != NS_OK) o->err = err;
        q->done++;
        pthread_cond_signal(&o->moved);
    }
    pthread_mutex_unlock(&o->lock);
    return NULL;
}

/* -1 the embedding, a layer, L what comes behind the last. */
static int level(const ns_overlap *o, int param)
{
    const ns_param *p = &o->engine->table.params[param];
    return p->layer >= 0 ? p->layer : p->kind == NS_P_EMBED ? -1 : (int)o->engine->arch.L;
}

/* ---- GPU: marks of the stream of exchanges, by level from -1 to L; the gradients' behind them ---- */

static int mark_of(int at)
{
    return at + 1;
}

static int grads_mark(void)
{
    return NS_CUDA_MARKS - 1;
}

/* What was handed over, behind the kernels so far; of weights each level gets its mark. */
static ns_status enqueue(ns_overlap *o, queue *q, ns_error *err)
{
    if (q->done == q->handed) return NS_OK;
    NS_TRY(ns_engine_aside(o->engine, err), "%s", "overlap");
    for (; q->done < q->handed; q->done++) {
        const int param = q->order[q->done];
        if (q == &o->grads) {
            NS_TRY(ns_ranks_reduce_one(o->ranks, o->engine, param, err), "%s", "overlap");
            continue;
        }
        NS_TRY(ns_ranks_gather_one(o->ranks, o->engine, param, err), "%s", "overlap");
        if (q->done + 1 == o->n || level(o, q->order[q->done + 1]) != level(o, param))
            NS_TRY(ns_engine_mark(o->engine, mark_of(level(o, param)), err), "%s", "overlap");
    }
    return NS_OK;
}

static void enqueue_noted(ns_overlap *o, queue *q)
{
    ns_error err = NS_ERROR_INIT;
    if (o->err.code == NS_OK && enqueue(o, q, &err) != NS_OK) o->err = err;
}

static ns_status orders(ns_overlap *o, ns_error *err)
{
    const ns_param_table *t = &o->engine->table;
    const size_t bytes = (size_t)t->n_params * sizeof(int);
    NS_TRY(ns_alloc((void **)&o->grads.order, bytes, "overlap", err), "%s", "overlap");
    NS_TRY(ns_alloc((void **)&o->weights.order, bytes, "overlap", err), "%s", "overlap");
    for (int at = (int)t->arch->L; at >= -1; at--)
        for (int i = 0; i < t->n_params; i++)
            if (level(o, i) == at && o->engine->model.w[i].grad) o->grads.order[o->n++] = i;
    for (int i = 0; i < o->n; i++) o->weights.order[i] = o->grads.order[o->n - 1 - i];
    o->prepared = o->n;
    return NS_OK;
}

/* Until n of the queue are done; the rank is in `op` then. */
static void wait_for(ns_overlap *o, queue *q, int n, const char *op)
{
    pthread_mutex_lock(&o->lock);
    if (q->done < n) {
        const ns_world_place place = ns_world_enter(o->ranks->world, op);
        while (q->done < n) pthread_cond_wait(&o->moved, &o->lock);
        ns_world_leave(o->ranks->world, place);
    }
    pthread_mutex_unlock(&o->lock);
}

static ns_status first_failure(ns_overlap *o, ns_error *err)
{
    pthread_mutex_lock(&o->lock);
    const ns_status st = o->err.code;
    if (st != NS_OK) *err = o->err;
    pthread_mutex_unlock(&o->lock);
    return st;
}

/* ns_model.weights_needed: of this layer and of those before. */
static void need(void *overlap, int layer)
{
    ns_overlap *o = overlap;
    ns_exec *x = &o->engine->exec;
    while (o->prepared < o->n && level(o, o->weights.order[o->prepared]) <= layer) {
        const int at = level(o, o->weights.order[o->prepared]);
        if (!o->on_gpu) wait_for(o, &o->weights, o->prepared + 1, "all_gather");
        if (x->err.code == NS_OK && first_failure(o, &x->err) != NS_OK) return;
        if (o->on_gpu && x->err.code == NS_OK && ns_engine_need(o->engine, mark_of(at), &x->err) != NS_OK) return;
        ns_model_prepare_one(&o->engine->model, x, o->weights.order[o->prepared++]);
    }
}

ns_status ns_overlap_new(ns_overlap **out, ns_ranks *r, ns_engine *e, int weights, ns_error *err)
{
    NS_ASSERT(r->overlapped);
    NS_TRY(ns_alloc((void **)out, sizeof **out, "overlap", err), "%s", "overlap");
    ns_overlap *o = *out;
    o->ranks = r;
    o->engine = e;
    o->weights_too = weights;
    o->on_gpu = e->device != NULL;
    ns_status st = orders(o, err);
    if (st == NS_OK && o->on_gpu && e->arch.L + 2 >= NS_CUDA_MARKS)
        st = ns_error_set(err, NS_ERR_UNSUPPORTED, __FILE__, __LINE__,
                          "overlap_grad_sync, overlap_param_sync: %d layers are more than %d", (int)e->arch.L,
                          NS_CUDA_MARKS - 3);
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->work, NULL);
    pthread_cond_init(&o->moved, NULL);
    int rc = st == NS_OK && !o->on_gpu ? ns_thread_start(&o->thread, NULL, run, o) : 0;
    if (rc != 0) st = ns_error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__, "no thread for gradients: %s", strerror(rc));
    if (st == NS_OK) {
        e->model.weights_needed = weights ? need : NULL;
        e->model.weights_user = o;
        return NS_OK;
    }
    ns_free(o->grads.order);
    ns_free(o->weights.order);
    ns_free(o);
    *out = NULL;
    return st;
}

void ns_overlap_ready(void *overlap, int layer)
{
    ns_overlap *o = overlap;
    pthread_mutex_lock(&o->lock);
    while (o->grads.handed < o->n && level(o, o->grads.order[o->grads.handed]) >= layer) o->grads.handed++;
    pthread_cond_signal(&o->work);
    pthread_mutex_unlock(&o->lock);
    if (o->on_gpu) enqueue_noted(o, &o->grads);
}

ns_status ns_overlap_finish(ns_overlap *o, ns_error *err)
{
    ns_overlap_ready(o, -1);
    if (o->on_gpu) {
        NS_TRY(first_failure(o, err), "%s", "overlap");
        NS_TRY(ns_engine_mark(o->engine, grads_mark(), err), "%s", "overlap");
        NS_TRY(ns_engine_need(o->engine, grads_mark(), err), "%s", "overlap");
    }
    if (!o->on_gpu) wait_for(o, &o->grads, o->n, "reduce_scatter");
    pthread_mutex_lock(&o->lock);
    o->grads.handed = o->grads.done = 0;
    pthread_mutex_unlock(&o->lock);
    return first_failure(o, err);
}

ns_status ns_overlap_gather(ns_overlap *o, ns_error *err)
{
    pthread_mutex_lock(&o->lock);
    NS_ASSERT(o->weights.done == o->weights.handed);
    o->weights.done = 0;
    o->weights.handed = o->n;
    o->prepared = 0;
    pthread_cond_signal(&o->work);
    pthread_mutex_unlock(&o->lock);
    if (o->on_gpu) enqueue_noted(o, &o->weights);
    return o->weights_too ? NS_OK : ns_overlap_weights(o, err);
}

ns_status ns_overlap_weights(ns_overlap *o, ns_error *err)
{
    need(o, (int)o->engine->arch.L);
    return first_failure(o, err);
}

void ns_overlap_free(ns_overlap **po)
{
    ns_overlap *o = *po;
    if (!o) return;
    pthread_mutex_lock(&o->lock);
    o->stop = 1;
    pthread_cond_signal(&o->work);
    pthread_mutex_unlock(&o->lock);
    if (!o->on_gpu) pthread_join(o->thread, NULL);
    pthread_mutex_destroy(&o->lock);
    pthread_cond_destroy(&o->work);
    pthread_cond_destroy(&o->moved);
    ns_free(o->grads.order);
    ns_free(o->weights.order);
    ns_free(o);
    *po = NULL;
}
