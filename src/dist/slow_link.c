/* NS_SLOW_LINK=MB_PER_S[,MICROSECONDS]: exchanges between ranks last as long as over such a link. For tests and for finding out, on one
 * machine, what a slow network would cost a layout: the bytes have arrived long before, and the thread that exchanges sleeps for the rest
 * of the time, so that the processor is free, as it is while a network card works. All threads of a rank share the link: what one of them
 * moves, the other waits for. Results do not change. Rank 0 says at the start that it is on. */
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "dist/world_priv.h"

ns_status dist_slow_link_open(ns_world *w, ns_error *err)
{
    const char *text = getenv("NS_SLOW_LINK");
    char *end;
    if (!text || !*text || w->size == 1) return NS_OK;
    const double rate = strtod(text, &end), us = *end == ',' ? strtod(end + 1, &end) : 0;
    NS_FAIL_IF(*end || end == text || !isfinite(rate) || !isfinite(us) || rate <= 0 || us < 0 || us > 1e7,
               NS_ERR_CONFIG, "NS_SLOW_LINK is '%s': expected MB_PER_S or MB_PER_S,MICROSECONDS, for example 100,50",
               text);
    w->slow = (slow_link){.seconds_a_byte = 1e-6 / rate, .latency_s = us * 1e-6};
    pthread_mutex_init(&w->slow.lock, NULL);
    if (w->rank == 0)
        NS_WARN("NS_SLOW_LINK=%s: exchanges between ranks are slowed down on purpose, to %g MB/s and %g us each", text,
                rate, us);
    return NS_OK;
}

void dist_slow_link_close(ns_world *w)
{
    if (w->slow.seconds_a_byte > 0) pthread_mutex_destroy(&w->slow.lock);
}

ns_status dist_slow_link_wait(ns_world *w, double began, const ns_xfer *x, int n, ns_error *err)
{
    slow_link *s = &w->slow;
    int64_t way[2] = {0, 0};
    if (!(s->seconds_a_byte > 0)) return NS_OK;
    for (int i = 0; i < n; i++)
        if (x[i].peer != w->rank) way[!!x[i].recv] += x[i].bytes;
    pthread_mutex_lock(&s->lock);
    const double from = began > s->busy_until ? began : s->busy_until;
    const double until = from + s->latency_s + (double)(way[0] > way[1] ? way[0] : way[1]) * s->seconds_a_byte;
    s->busy_until = until;
    pthread_mutex_unlock(&s->lock);
    for (double left; (left = until - ns_time_now()) > 0;) {
        NS_TRY(ns_world_check(w, err), "%s", "slow link");
        if (left > 0.05) left = 0.05;
        nanosleep(&(struct timespec){0, (long)(left * 1e9)}, NULL);
    }
    return NS_OK;
}
