/* One exchange that runs while its caller computes. MPI moves large messages only inside its own calls, and sockets only when
 * somebody reads them: so a thread of the world does both. The connections are the thread's from start to wait. */
#include <string.h>

#include "base/threads.h"
#include "dist/world_priv.h"

static void *fly(void *arg)
{
    ns_world *w = arg;
    flight *f = &w->flight;
    pthread_mutex_lock(&f->lock);
    for (;;) {
        while (f->now != FLIGHT_ON && !f->stop) pthread_cond_wait(&f->changed, &f->lock);
        if (f->now != FLIGHT_ON) break;
        pthread_mutex_unlock(&f->lock);
        ns_error err = NS_ERROR_INIT;
        ns_status st = dist_move(w, 0, f->op, f->x, f->n, &err);
        pthread_mutex_lock(&f->lock);
        f->st = st;
        f->err = err;
        f->now = FLIGHT_OVER;
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

static ns_status open_flight(ns_world *w, ns_error *err)
{
    flight *f = &w->flight;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    const int rc = ns_thread_start(&f->thread, NULL, fly, w);
    f->runs = rc == 0;
    if (f->runs) return NS_OK;
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    NS_FAIL(NS_ERR_DEVICE, "no thread for exchanges: %s", strerror(rc));
}

ns_status ns_world_start(ns_world *w, const char *op, ns_xfer *x, int n, ns_error *err)
{
    flight *f = &w->flight;
    if (w->size > 1 && !f->runs) NS_TRY(open_flight(w, err), "%s", op);
    if (!f->runs) return dist_move(w, 0, op, x, n, err);
    pthread_mutex_lock(&f->lock);
    NS_ASSERT(f->now == FLIGHT_NONE);
    f->op = op;
    f->x = x;
    f->n = n;
    f->now = FLIGHT_ON;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    return NS_OK;
}

ns_status ns_world_wait(ns_world *w, ns_error *err)
{
    flight *f = &w->flight;
    if (!f->runs) return NS_OK;
    pthread_mutex_lock(&f->lock);
    if (f->now == FLIGHT_ON) {
        const ns_world_place p = ns_world_enter(w, f->op);
        while (f->now == FLIGHT_ON) pthread_cond_wait(&f->changed, &f->lock);
        ns_world_leave(w, p);
    }
    const ns_status st = f->now == FLIGHT_OVER ? f->st : NS_OK;
    if (st != NS_OK && err) *err = f->err;
    f->now = FLIGHT_NONE;
    pthread_mutex_unlock(&f->lock);
    return st;
}

void dist_flight_close(ns_world *w)
{
    flight *f = &w->flight;
    if (!f->runs) return;
    pthread_mutex_lock(&f->lock);
    f->stop = 1;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    f->runs = 0;
}
