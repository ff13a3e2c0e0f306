#include "ckpt/saver.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/threads.h"

struct ns_ckpt_saver {
    ns_ckpt_save_args args;
    ns_ckpt_state state;
    char name[256];
    int busy;
    atomic_int done;
    double seconds;
    ns_status st;
    ns_error err;
    pthread_t thread;
};

ns_status ns_ckpt_saver_new(ns_ckpt_saver **out, ns_error *err)
{
    return ns_alloc((void **)out, sizeof **out, "ckpt.saver", err);
}

static void *run(void *arg)
{
    ns_ckpt_saver *s = arg;
    const double began = ns_time_now();
    s->st = ns_ckpt_save(&s->args, &s->err);
    s->seconds = ns_time_now() - began;
    atomic_store(&s->done, 1);
    return NULL;
}

ns_status ns_ckpt_saver_start(ns_ckpt_saver *s, const ns_ckpt_save_args *a, ns_error *err)
{
    NS_FAIL_IF(s->busy || a->n_ranks > 1, NS_ERR_INTERNAL, "%s", "a save beside another, or of several ranks");
    NS_FAIL_IF(strlen(a->name) >= sizeof s->name, NS_ERR_CONFIG, "checkpoint name is longer than %zu bytes",
               sizeof s->name - 1);
    snprintf(s->name, sizeof s->name, "%s", a->name);
    s->args = *a;
    s->state = *a->state;
    s->args.name = s->name;
    s->args.state = &s->state;
    s->err = (ns_error)NS_ERROR_INIT;
    atomic_store(&s->done, 0);
    int rc = ns_thread_start(&s->thread, NULL, run, s);
    NS_FAIL_IF(rc != 0, NS_ERR_DEVICE, "no thread to write a checkpoint: %s", strerror(rc));
    s->busy = 1;
    return NS_OK;
}

int ns_ckpt_saver_busy(const ns_ckpt_saver *s)
{
    return s && s->busy;
}

ns_status ns_ckpt_saver_end(ns_ckpt_saver *s, int wait, int *ended, double *seconds, ns_error *err)
{
    *ended = 0;
    if (!s->busy || (!wait && !atomic_load(&s->done))) return NS_OK;
    pthread_join(s->thread, NULL);
    s->busy = 0;
    *ended = 1;
    *seconds = s->seconds;
    if (s->st != NS_OK && err) *err = s->err;
    return s->st;
}

void ns_ckpt_saver_free(ns_ckpt_saver **ps)
{
    ns_ckpt_saver *s = *ps;
    ns_error err = NS_ERROR_INIT;
    char text[1200];
    double seconds;
    int ended;
    if (!s) return;
    if (ns_ckpt_saver_end(s, 1, &ended, &seconds, &err) != NS_OK)
        NS_WARN("checkpoint %s was not saved: %s", s->name, ns_error_text(&err, text, sizeof text));
    ns_free(s);
    *ps = NULL;
}
