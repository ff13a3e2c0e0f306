#include "train/overlap.h"

#include <pthread.h>
#include <string.h>

#include "base/mem.h"

struct ns_overlap {
    ns_ranks *ranks;
    ns_engine *engine;
    int *order, n; /* parameters: final norm and head, layers from the last to the first, embedding */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work, idle;
    int handed, done, stop; /* under lock: order[0..handed) may be reduced, order[0..done) are */
    ns_error err;           /* first failure; nothing is exchanged after it */
};

static void *run(void *arg)
{
    ns_overlap *o = arg;
    pthread_mutex_lock(&o->lock);
    for (;;) {
        while (o->done == o->handed && !o->stop) pthread_cond_wait(&o->work, &o->lock);
        if (o->done == o->handed) break;
        const int param = o->order[o->done], failed = o->err.code != NS_OK;
        pthread_mutex_unlock(&o->lock);
        ns_error err = NS_ERROR_INIT;
        ns_status st = failed ? NS_OK : ns_ranks_reduce_one(o->ranks, o->engine, param, &err);
        pthread_mutex_lock(&o->lock);
        if (st != NS_OK) o->err = err;
        if (++o->done == o->handed) pthread_cond_signal(&o->idle);
    }
    pthread_mutex_unlock(&o->lock);
    return NULL;
}

ns_status ns_overlap_new(ns_overlap **out, ns_ranks *r, ns_engine *e, ns_error *err)
{
    const ns_param_table *t = &e->table;
    NS_TRY(ns_alloc((void **)out, sizeof **out, "overlap", err), "%s", "overlap");
    ns_overlap *o = *out;
    ns_status st = ns_alloc((void **)&o->order, (size_t)t->n_params * sizeof *o->order, "overlap", err);
    o->ranks = r;
    o->engine = e;
    for (int layer = (int)t->arch->L; st == NS_OK && layer >= -1; layer--)
        for (int i = 0; i < t->n_params; i++) {
            const ns_param *p = &t->params[i];
            const int of = p->layer >= 0 ? p->layer : p->kind == NS_P_EMBED ? -1 : (int)t->arch->L;
            if (of == layer && e->model.w[i].grad) o->order[o->n++] = i;
        }
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->work, NULL);
    pthread_cond_init(&o->idle, NULL);
    int rc = st == NS_OK ? pthread_create(&o->thread, NULL, run, o) : 0;
    if (rc != 0) st = ns_error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__, "no thread for gradients: %s", strerror(rc));
    if (st == NS_OK) return NS_OK;
    ns_free(o->order);
    ns_free(o);
    *out = NULL;
    return st;
}

static void hand_over(ns_overlap *o, int layer)
{
    pthread_mutex_lock(&o->lock);
    for (; o->handed < o->n; o->handed++) {
        const ns_param *p = &o->engine->table.params[o->order[o->handed]];
        if (layer >= 0 && (p->kind == NS_P_EMBED || (p->layer >= 0 && p->layer < layer))) break;
    }
    pthread_cond_signal(&o->work);
    pthread_mutex_unlock(&o->lock);
}

void ns_overlap_ready(void *overlap, int layer)
{
    hand_over(overlap, layer);
}

ns_status ns_overlap_finish(ns_overlap *o, ns_error *err)
{
    hand_over(o, -1);
    pthread_mutex_lock(&o->lock);
    while (o->done < o->n) pthread_cond_wait(&o->idle, &o->lock);
    o->handed = o->done = 0;
    pthread_mutex_unlock(&o->lock);
    if (o->err.code == NS_OK) return NS_OK;
    *err = o->err;
    return err->code;
}

void ns_overlap_free(ns_overlap **po)
{
    ns_overlap *o = *po;
    if (!o) return;
    pthread_mutex_lock(&o->lock);
    o->stop = 1;
    pthread_cond_signal(&o->work);
    pthread_mutex_unlock(&o->lock);
    pthread_join(o->thread, NULL);
    pthread_mutex_destroy(&o->lock);
    pthread_cond_destroy(&o->work);
    pthread_cond_destroy(&o->idle);
    ns_free(o->order);
    ns_free(o);
    *po = NULL;
}
