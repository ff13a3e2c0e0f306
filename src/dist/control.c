/* The control thread: heartbeats to and from rank 0, who is lost, and the abort. Lines after joining:
 *   rank -> hub   beat SEQ STANDS STEP OP       once a second; STANDS: 0 computes, 1 waits for others, 2 gives work to a device
 *                 fail TEXT                     this rank found an error by itself
 *                 bye                           it is done: closing its connection is not a death
 *   hub -> rank   beat                          once a second: rank 0 lives
 *                 abort TEXT                    the run is over, and why */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/threads.h"
#include "dist/world_priv.h"

static void set_aborted(ns_world *w, const char *why)
{
    pthread_mutex_lock(&w->lock);
    if (!atomic_load(&w->aborted)) snprintf(w->why, sizeof w->why, "%s", why);
    atomic_store(&w->aborted, 1);
    pthread_mutex_unlock(&w->lock);
}

static void describe(const ns_world *w, int rank, char *out, size_t n)
{
    const peer *p = &w->peers[rank];
    snprintf(out, n, "rank %d (%s, pid %ld) at step %" PRId64 " in %s", rank, p->host, p->pid, p->step, p->op);
}

/* What a rank does, as far as it knows (world_priv.h). */
static int stands(const ns_world *w)
{
    return atomic_load(&w->waiting) ? STANDS_WAITING : atomic_load(&w->on_device) ? STANDS_ON_DEVICE : STANDS_COMPUTING;
}

static void send_quietly(int fd, const char *line)
{
    ns_error ignored = NS_ERROR_INIT;
    if (fd >= 0) (void)!dist_send_line(fd, line, ns_time_now() + 0.5, &ignored);
}

static void abort_all(ns_world *w, const char *why)
{
    if (atomic_load(&w->aborted)) return; /* the first error wins */
    char line[LINE_MAX_BYTES];
    set_aborted(w, why);
    snprintf(line, sizeof line, "abort %.900s", why);
    if (w->rank == 0)
        for (int r = 1; r < w->size; r++)
            if (!w->peers[r].closed) send_quietly(w->peers[r].control, line);
}

/* ---- hub ---- */

static void hub_line(ns_world *w, int r, const char *line)
{
    peer *p = &w->peers[r];
    uint64_t seq;
    int standing, used = 0;
    int64_t step;
    p->heard = ns_time_now();
    if (sscanf(line, "beat %" SCNu64 " %d %" SCNd64 " %n", &seq, &standing, &step, &used) == 3 && used) {
        if (seq != p->seq) p->moved = p->heard;
        p->seq = seq;
        p->stands = standing;
        p->step = step;
        snprintf(p->op, sizeof p->op, "%s", line + used);
    } else if (!strncmp(line, "fail ", 5)) {
        char who[300], why[700];
        describe(w, r, who, sizeof who);
        snprintf(why, sizeof why, "%s failed: %.380s", who, line + 5);
        abort_all(w, why);
    } else if (!strcmp(line, "bye"))
        p->said_bye = 1;
}

static void hub_listen(ns_world *w, int r)
{
    peer *p = &w->peers[r];
    char line[LINE_MAX_BYTES];
    int got;
    while ((got = dist_next_line(p->control, &p->in, line)) == 1) hub_line(w, r, line);
    if (got == 0) return;
    p->closed = 1;
    if (p->said_bye) return;
    char who[300], why[700];
    describe(w, r, who, sizeof who);
    snprintf(why, sizeof why,
             "%s died: its connection closed without a goodbye; look for its last lines, or for the "
             "kernel's out-of-memory killer on that machine",
             who);
    abort_all(w, why);
}

static void note_self(ns_world *w, double now)
{
    peer *p = &w->peers[w->rank];
    uint64_t seq = atomic_load(&w->seq);
    if (seq != p->seq) p->moved = now;
    p->seq = seq;
    p->heard = now;
    p->stands = stands(w);
    p->step = atomic_load(&w->step);
    snprintf(p->op, sizeof p->op, "%s", atomic_load(&w->op));
}

/* The rank that came least far. */
static int hindmost(const ns_world *w)
{
    int r = 0;
    for (int i = 1; i < w->size; i++)
        if (w->peers[i].seq < w->peers[r].seq) r = i;
    return r;
}

/* Silent ranks; and ranks that stand still while others wait for them. If all wait, the one that moved least is behind. A rank whose GPU
 * waits for others knows nothing of it: it waits for its GPU, or cannot give it more to do. So where no rank moves and one of them is at
 * that, the one that came least far is behind as well. */
static void hub_judge(ns_world *w, double now)
{
    int hung = -1, waits_long = -1, on_device = -1, moves = 0;
    char who[300], why[700];
    for (int r = 0; r < w->size; r++) {
        const peer *p = &w->peers[r];
        if (now - p->moved <= w->o.hang_s) moves = 1;
        if (p->closed || p->said_bye) continue;
        if (now - p->heard > w->o.dead_s) {
            describe(w, r, who, sizeof who);
            snprintf(why, sizeof why, "%s is silent for %.0f s: frozen, or its machine or network is lost", who,
                     now - p->heard);
            abort_all(w, why);
            return;
        }
        if (now - p->moved <= w->o.hang_s) continue;
        if (p->stands == STANDS_WAITING) waits_long = r;
        if (p->stands == STANDS_ON_DEVICE && (on_device < 0 || p->seq > w->peers[on_device].seq)) on_device = r;
        if (p->stands != STANDS_WAITING && (hung < 0 || p->seq < w->peers[hung].seq)) hung = r;
    }
    if (waits_long < 0) { /* all compute: slow, not hung */
        if (moves || on_device < 0) return;
        waits_long = on_device;
        hung = hindmost(w);
    }
    if (hung < 0) {
        if (moves) return; /* somebody still moves */
        hung = hindmost(w);
    }
    char other[300];
    describe(w, hung, who, sizeof who);
    describe(w, waits_long, other, sizeof other);
    snprintf(why, sizeof why, "%s hangs: no progress for %.0f s, while %.250s waits", who, now - w->peers[hung].moved,
             other);
    abort_all(w, why);
}

static void hub_beat(ns_world *w, double now)
{
    note_self(w, now);
    for (int r = 1; r < w->size; r++)
        if (!w->peers[r].closed) send_quietly(w->peers[r].control, "beat");
    if (!atomic_load(&w->closing)) hub_judge(w, now);
}

/* ---- the others ---- */

static void rank_listen(ns_world *w)
{
    peer *hub = &w->peers[0];
    char line[LINE_MAX_BYTES];
    int got;
    while ((got = dist_next_line(hub->control, &hub->in, line)) == 1) {
        hub->heard = ns_time_now();
        if (!strncmp(line, "abort ", 6)) set_aborted(w, line + 6);
        if (!strcmp(line, "bye")) hub->said_bye = 1;
    }
    if (got == 0) return;
    hub->closed = 1;
    if (hub->said_bye || atomic_load(&w->closing)) return;
    char why[400];
    snprintf(why, sizeof why, "rank 0 (%s, pid %ld) died: its connection closed without a goodbye", hub->host,
             hub->pid);
    set_aborted(w, why);
}

static void rank_beat(ns_world *w, double now)
{
    char line[LINE_MAX_BYTES], why[400];
    peer *hub = &w->peers[0];
    if (hub->closed) return;
    snprintf(line, sizeof line, "beat %" PRIu64 " %d %" PRId64 " %s", atomic_load(&w->seq), stands(w),
             atomic_load(&w->step), atomic_load(&w->op));
    send_quietly(hub->control, line);
    if (now - hub->heard > w->o.dead_s && !atomic_load(&w->closing)) {
        snprintf(why, sizeof why,
                 "rank 0 (%s, pid %ld) is silent for %.0f s: frozen, or its machine or network is lost", hub->host,
                 hub->pid, now - hub->heard);
        set_aborted(w, why);
    }
}

/* An error that this rank found by itself: passed on once. */
static void pass_on_failure(ns_world *w)
{
    char text[700], line[LINE_MAX_BYTES];
    pthread_mutex_lock(&w->lock);
    memcpy(text, w->local_failure, sizeof text);
    w->local_failure[0] = 0;
    pthread_mutex_unlock(&w->lock);
    if (!text[0]) return;
    if (w->rank == 0) {
        char who[300], why[700];
        note_self(w, ns_time_now());
        describe(w, 0, who, sizeof who);
        snprintf(why, sizeof why, "%s failed: %.380s", who, text);
        abort_all(w, why);
    } else {
        snprintf(line, sizeof line, "fail %.900s", text);
        send_quietly(w->peers[0].control, line);
        set_aborted(w, text);
    }
}

void ns_world_watch_add(ns_world *w, ns_world_watch *watch)
{
    pthread_mutex_lock(&w->watch_lock);
    watch->next = w->watches;
    w->watches = watch;
    pthread_mutex_unlock(&w->watch_lock);
}

void ns_world_watch_remove(ns_world *w, ns_world_watch *watch)
{
    pthread_mutex_lock(&w->watch_lock);
    for (ns_world_watch **at = &w->watches; *at; at = &(*at)->next)
        if (*at == watch) {
            *at = watch->next;
            break;
        }
    pthread_mutex_unlock(&w->watch_lock);
}

static void run_watches(ns_world *w)
{
    pthread_mutex_lock(&w->watch_lock);
    for (ns_world_watch *x = w->watches; x; x = x->next) {
        char problem[700] = "";
        x->fn(x->user, atomic_load(&w->aborted), problem, sizeof problem);
        if (!problem[0] || atomic_load(&w->aborted)) continue;
        pthread_mutex_lock(&w->lock);
        memcpy(w->local_failure, problem, sizeof problem);
        pthread_mutex_unlock(&w->lock);
    }
    pthread_mutex_unlock(&w->watch_lock);
}

static void *control_main(void *arg)
{
    ns_world *w = arg;
    struct pollfd *p = w->polls_control;
    double next_beat = ns_time_now(), aborted_at = 0;
    int called = 0;
    while (!atomic_load(&w->closing)) {
        double now = ns_time_now();
        run_watches(w);
        pass_on_failure(w);
        if (now >= next_beat) {
            if (w->rank == 0)
                hub_beat(w, now);
            else
                rank_beat(w, now);
            next_beat = now + 1;
        }
        if (atomic_load(&w->aborted) && aborted_at == 0) aborted_at = now;
        if (aborted_at > 0 && now - aborted_at >= w->o.abort_grace_s && w->o.on_abort && !called) {
            called = 1;
            w->o.on_abort(w->why, w->o.user);
        }
        int n = 0;
        p[n++] = (struct pollfd){.fd = w->wake[0], .events = POLLIN};
        for (int r = 0; r < (w->rank == 0 ? w->size : 1); r++)
            p[n++] = (struct pollfd){.fd = w->peers[r].closed ? -1 : w->peers[r].control, .events = POLLIN};
        int wait_ms = (int)((next_beat - now) * 1000) + 1;
        if (aborted_at > 0 && wait_ms > 100) wait_ms = 100;
        poll(p, (nfds_t)n, wait_ms < 1 ? 1 : wait_ms);
        char sink[64];
        while (read(w->wake[0], sink, sizeof sink) > 0) {
        }
        for (int i = 1; i < n; i++)
            if (p[i].revents) {
                if (w->rank == 0)
                    hub_listen(w, i - 1);
                else
                    rank_listen(w);
            }
    }
    return NULL;
}

static void wake(ns_world *w)
{
    while (write(w->wake[1], "x", 1) < 0 && errno == EINTR) {
    }
}

ns_status dist_control_start(ns_world *w, ns_error *err)
{
    NS_TRY(ns_alloc(&w->polls_control, ((size_t)w->size + 1) * sizeof(struct pollfd), "dist.control", err), "%s",
           "control plane");
    NS_FAIL_IF(pipe2(w->wake, O_CLOEXEC | O_NONBLOCK) != 0, NS_ERR_DEVICE, "no pipe for the control plane: %s",
               strerror(errno));
    double now = ns_time_now();
    for (int r = 0; r < w->size; r++) {
        w->peers[r].heard = w->peers[r].moved = now;
        snprintf(w->peers[r].op, sizeof w->peers[r].op, "start");
    }
    int rc = ns_thread_start(&w->thread, NULL, control_main, w);
    NS_FAIL_IF(rc != 0, NS_ERR_DEVICE, "no thread for the control plane: %s", strerror(rc));
    w->thread_runs = 1;
    return NS_OK;
}

void dist_control_stop(ns_world *w)
{
    if (w->thread_runs) {
        atomic_store(&w->closing, 1);
        wake(w);
        pthread_join(w->thread, NULL);
        pass_on_failure(w); /* one that came with the end */
        if (w->rank != 0)
            send_quietly(w->peers[0].control, "bye");
        else
            for (int r = 1; r < w->size; r++)
                if (!w->peers[r].closed) send_quietly(w->peers[r].control, "bye");
        w->thread_runs = 0;
    }
    for (int i = 0; i < 2; i++)
        if (w->wake[i] >= 0) close(w->wake[i]);
    ns_free(w->polls_control);
    w->polls_control = NULL;
}

void ns_world_fail(ns_world *w, const ns_error *why)
{
    if (w->size == 1 || atomic_load(&w->aborted)) return;
    char text[700];
    ns_error_text(why, text, sizeof text);
    for (char *p = text; *p; p++)
        if (*p == '\n') *p = ' ';
    pthread_mutex_lock(&w->lock);
    memcpy(w->local_failure, text, sizeof text);
    pthread_mutex_unlock(&w->lock);
    wake(w);
    for (double until = ns_time_now() + 1; !atomic_load(&w->aborted) && ns_time_now() < until;) poll(NULL, 0, 5);
}
