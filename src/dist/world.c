/* Joining the other ranks, and the exchange that every collective is made of.
 *
 * Joining, in lines of text over the control connection to rank 0 (the hub):
 *   rank -> hub   ns1 hello RUN RANK SIZE PID DATA_PORT HOST IDENTITY
 *   hub -> rank   ns1 welcome, to which the rank says  ns1 here       or   ns1 stranger: another run listens on this port
 *   hub -> rank   ns1 table TOKEN, then SIZE lines "RANK ADDR PORT PID HOST"     or   ns1 refuse TEXT (to all who are there)
 * then rank j opens the data connection to each rank i < j:  ns1 data RANK TOKEN. */
#include "dist/world.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "dist/mpi/mpi_plugin.h"
#include "dist/world_priv.h"

typedef struct header { /* before the bytes of every message */
    uint32_t magic, op; /* op: hash of its name */
    int64_t bytes;
} header;
enum { HEADER = sizeof(header), MAGIC = 0x6e73u, DATA_HELLO = 37 };

/* Names the first "name value" that differs. */
static void identity_difference(const char *mine, const char *theirs, char *out, size_t n)
{
    while (*mine && *theirs) {
        size_t a = strcspn(mine, ";"), b = strcspn(theirs, ";");
        if (a != b || memcmp(mine, theirs, a) != 0) {
            snprintf(out, n, "'%.*s' against '%.*s' on rank 0", (int)b, theirs, (int)a, mine);
            return;
        }
        mine += a + (mine[a] == ';');
        theirs += b + (theirs[b] == ';');
    }
    snprintf(out, n, "'%.100s' against '%.100s' on rank 0", theirs, mine);
}

static void refuse_all(ns_world *w, const ns_error *why)
{
    char line[LINE_MAX_BYTES];
    ns_error ignored = NS_ERROR_INIT;
    snprintf(line, sizeof line, "ns1 refuse %d %s", (int)why->code, why->msg);
    for (int r = 1; r < w->size; r++)
        if (w->peers[r].control >= 0) (void)!dist_send_line(w->peers[r].control, line, ns_time_now() + 1, &ignored);
}

/* One newcomer. A stranger (no valid hello) is dropped; a rank of ours that does not fit fails the run. */
static ns_status greet(ns_world *w, int fd, int *n_joined, ns_error *err)
{
    char line[LINE_MAX_BYTES], answer[LINE_MAX_BYTES], host[128], identity[LINE_MAX_BYTES] = "";
    line_reader in = {.n = 0};
    ns_error ignored = NS_ERROR_INIT;
    int rank, size, port, used = 0;
    long pid;
    uint64_t run;
    if (dist_recv_line(fd, &in, line, ns_time_now() + 5, &ignored) != NS_OK ||
        sscanf(line, "ns1 hello %" SCNx64 " %d %d %ld %d %127s %n", &run, &rank, &size, &pid, &port, host, &used) !=
            6 ||
        used == 0 || run != w->o.run) {
        NS_WARN("a connection that is not from a rank of this run was dropped");
        (void)!dist_send_line(fd, "ns1 stranger", ns_time_now() + 1, &ignored);
        close(fd);
        return NS_OK;
    }
    snprintf(identity, sizeof identity, "%s", line + used);
    ns_status st = NS_OK;
    peer *p = rank >= 1 && rank < w->size ? &w->peers[rank] : NULL;
    NS_BAIL_IF(st, size != w->size, NS_ERR_MISMATCH,
               "rank %d (%s, pid %ld) was started in a run of %d ranks, rank 0 in one of %d", rank, host, pid, size,
               w->size);
    NS_BAIL_IF(st, !p, NS_ERR_MISMATCH, "%s (pid %ld) says it is rank %d of %d", host, pid, rank, w->size);
    NS_BAIL_IF(st, p->control >= 0, NS_ERR_MISMATCH, "two processes are rank %d: %s pid %ld and %s pid %ld", rank,
               p->host, p->pid, host, pid);
    if (dist_send_line(fd, "ns1 welcome", ns_time_now() + 5, &ignored) != NS_OK ||
        dist_recv_line(fd, &in, answer, ns_time_now() + 5, &ignored) != NS_OK || strcmp(answer, "ns1 here") != 0) {
        close(fd); /* it gave up waiting for us, and comes again */
        return NS_OK;
    }
    p->control = fd;
    fd = -1;
    p->pid = pid;
    p->port = port;
    memcpy(p->host, host, sizeof host);
    dist_peer_address(p->control, p->addr);
    (*n_joined)++;
    if (strcmp(identity, w->o.identity) != 0) {
        char what[300];
        identity_difference(w->o.identity, identity, what, sizeof what);
        NS_BAIL_IF(st, 1, NS_ERR_MISMATCH,
                   "rank %d (%s, pid %ld) differs from rank 0: %s; all ranks need the same program and settings", rank,
                   host, pid, what);
    }
done:
    if (fd >= 0) { /* not kept: tell it here */
        snprintf(line, sizeof line, "ns1 refuse %d %.900s", (int)st, err ? err->msg : "");
        (void)!dist_send_line(fd, line, ns_time_now() + 1, &ignored);
        close(fd);
    }
    return st;
}

static void list_missing(const ns_world *w, char *out, size_t n)
{
    size_t at = 0;
    int missing = 0;
    out[0] = 0;
    for (int r = 1; r < w->size; r++)
        if (w->peers[r].control < 0 && missing++ < 8 && at < n)
            at += (size_t)snprintf(out + at, n - at, "%s%d", at ? ", " : "", r);
    if (missing > 8 && at < n) snprintf(out + at, n - at, " and %d more", missing - 8);
}

enum { PORTS = 8 }; /* of a run: how many another process may have before we give up */

/* Where the others look for rank 0: the socket that the launcher kept for it, the port asked for, or the first free one of the run. */
static ns_status open_rendezvous(ns_world *w, int *listener, ns_error *err)
{
    *listener = w->o.listener;
    if (w->o.listener) return dist_take_listener(w->o.listener, err);
    for (int n = 0;; n++) {
        ns_error why = NS_ERROR_INIT;
        if (w->o.any_port) w->o.port = dist_port(w->o.run, n);
        if (dist_listen(w->o.host, &w->o.port, listener, &why) == NS_OK) return NS_OK;
        if (w->o.any_port && n + 1 < PORTS) continue;
        *err = why;
        return why.code;
    }
}

static ns_status gather_ranks(ns_world *w, int data_port, double until, ns_error *err)
{
    int listener = -1, joined = 1;
    ns_status st = NS_OK;
    NS_TRY(open_rendezvous(w, &listener, err), "%s", "rendezvous");
    const int port = w->o.port;
    while (joined < w->size) {
        int fd;
        NS_CHECK(st, dist_accept(listener, until, &fd, err), "%s", "rendezvous");
        if (fd < 0) {
            char missing[128];
            list_missing(w, missing, sizeof missing);
            NS_BAIL_IF(st, 1, NS_ERR_DEVICE, "%d of %d ranks came to %s port %d in %.0f s; missing: %s", joined,
                       w->size, w->o.host, port, w->o.join_s, missing);
        }
        NS_CHECK(st, greet(w, fd, &joined, err), "%s", "rendezvous");
    }
    NS_BAIL_IF(st, getrandom(&w->token, sizeof w->token, 0) != sizeof w->token, NS_ERR_DEVICE, "no random numbers: %s",
               strerror(errno));
    snprintf(w->peers[0].addr, sizeof w->peers[0].addr, "-"); /* others know it: the rendezvous host */
    w->peers[0].port = data_port;
    for (int r = 1; r < w->size; r++)
        for (int i = -1; i < w->size; i++) {
            char line[LINE_MAX_BYTES];
            const peer *p = &w->peers[i < 0 ? 0 : i];
            if (i < 0)
                snprintf(line, sizeof line, "ns1 table %016" PRIx64, w->token);
            else
                snprintf(line, sizeof line, "%d %s %d %ld %s", i, p->addr, p->port, p->pid, p->host);
            NS_CHECK(st, dist_send_line(w->peers[r].control, line, until, err), "tell rank %d", r);
        }
done:
    if (st != NS_OK && err) refuse_all(w, err);
    close(listener);
    return st;
}

/* Knocks at one port. *fd -1: nobody there, or not rank 0 of this run (said in `err`), which may yet come; an error: it refuses us. */
static ns_status knock(ns_world *w, int port, int data_port, double until, int *fd, ns_error *err)
{
    char line[LINE_MAX_BYTES];
    peer *hub = &w->peers[0], *me = &w->peers[w->rank];
    ns_error ignored = NS_ERROR_INIT;
    double patience =
        w->o.any_port ? ns_time_now() + 3 : until; /* another process may have the port, and say nothing */
    if (until < patience) patience = until;
    if (dist_connect_once(w->o.host, port, patience, fd, err) != NS_OK) return NS_OK;
    hub->in.n = 0;
    snprintf(line, sizeof line, "ns1 hello %" PRIx64 " %d %d %ld %d %s %s", w->o.run, w->rank, w->size, me->pid,
             data_port, me->host, w->o.identity);
    int code = 0, used = 0;
    if (dist_send_line(*fd, line, patience, &ignored) != NS_OK ||
        dist_recv_line(*fd, &hub->in, line, patience, &ignored) != NS_OK)
        snprintf(line, sizeof line, "nothing");
    if (sscanf(line, "ns1 refuse %d %n", &code, &used) == 1 && used)
        NS_FAIL(code > 0 && code <= NS_ERR_INTERNAL ? (ns_status)code : NS_ERR_DEVICE, "%s", line + used);
    if (!strcmp(line, "ns1 welcome") && dist_send_line(*fd, "ns1 here", until, &ignored) == NS_OK) return NS_OK;
    close(*fd);
    *fd = -1;
    ns_error_set(
        err, NS_ERR_DEVICE, __FILE__, __LINE__, "%s port %d %s", w->o.host, port,
        !strcmp(line, "ns1 stranger")
            ? "is held by another run of ns: set MASTER_PORT to a free port on all ranks"
            : "is open, but rank 0 of this run does not answer there: set MASTER_PORT to a free port on all ranks");
    return NS_OK;
}

/* The hub is behind the first port of the run that it found free; it may start last. */
static ns_status find_hub(ns_world *w, int data_port, double until, ns_error *err)
{
    ns_error last = NS_ERROR_INIT;
    do {
        for (int n = 0; n < (w->o.any_port ? PORTS : 1); n++) {
            int port = w->o.any_port ? dist_port(w->o.run, n) : w->o.port;
            ns_error why = NS_ERROR_INIT;
            ns_status st = knock(w, port, data_port, until, &w->peers[0].control, &why);
            w->o.port = port;
            if (st == NS_OK && w->peers[0].control >= 0) return NS_OK;
            if (n == 0 || st != NS_OK) last = why;
            if (st != NS_OK) {
                *err = last;
                return st;
            }
        }
        poll(NULL, 0, 50);
    } while (ns_time_now() < until);
    *err = last;
    return last.code;
}

static ns_status join_hub(ns_world *w, int data_port, double until, ns_error *err)
{
    char line[LINE_MAX_BYTES];
    peer *hub = &w->peers[0];
    NS_TRY(find_hub(w, data_port, until, err), "rank %d looks for rank 0", w->rank);
    NS_TRY(dist_recv_line(hub->control, &hub->in, line, until, err), "wait for the other ranks at rank %d", 0);
    int code = 0, used = 0;
    if (sscanf(line, "ns1 refuse %d %n", &code, &used) == 1 && used)
        NS_FAIL(code > 0 && code <= NS_ERR_INTERNAL ? (ns_status)code : NS_ERR_DEVICE, "%s", line + used);
    NS_FAIL_IF(sscanf(line, "ns1 table %" SCNx64, &w->token) != 1, NS_ERR_DEVICE,
               "%s port %d answered '%.60s': not a rank 0 of ns", w->o.host, w->o.port, line);
    for (int i = 0; i < w->size; i++) {
        peer p = {0};
        int r;
        NS_TRY(dist_recv_line(hub->control, &hub->in, line, until, err), "table of ranks, line %d", i);
        NS_FAIL_IF(sscanf(line, "%d %63s %d %ld %127s", &r, p.addr, &p.port, &p.pid, p.host) != 5 || r != i,
                   NS_ERR_DEVICE, "table of ranks, line %d: found '%.60s'", i, line);
        peer *to = &w->peers[i];
        memcpy(to->addr, p.addr, sizeof to->addr);
        if (i == 0) /* the hub does not know its own: the one that answered */
            dist_peer_address(hub->control, to->addr);
        to->port = p.port;
        to->pid = p.pid;
        memcpy(to->host, p.host, sizeof p.host);
    }
    return NS_OK;
}

static ns_status call_rank(ns_world *w, int i, int lane, double until, ns_error *err)
{
    char line[LINE_MAX_BYTES];
    int *fd = &w->peers[i].data[lane];
    NS_TRY(dist_connect(w->peers[i].addr, w->peers[i].port, until, fd, err), "rank %d to rank %d", w->rank, i);
    snprintf(line, sizeof line, "ns1 data %8d %d %016" PRIx64, w->rank, lane, w->token);
    NS_ASSERT(strlen(line) + 1 == DATA_HELLO); /* with its newline: tensors follow at once, no byte more is read */
    return dist_send_line(*fd, line, until, err);
}

/* Rank j connects to every i < j and is connected to by every k > j, once a lane. */
static ns_status open_mesh(ns_world *w, int listener, double until, ns_error *err)
{
    char line[LINE_MAX_BYTES];
    for (int i = 0; i < w->rank; i++)
        for (int lane = 0; lane < w->n_lanes; lane++)
            NS_TRY(call_rank(w, i, lane, until, err), "rank %d to rank %d", w->rank, i);
    const int wanted = (w->size - w->rank - 1) * w->n_lanes;
    for (int n = 0; n < wanted;) {
        int fd, r, lane;
        uint64_t token;
        NS_TRY(dist_accept(listener, until, &fd, err), "%s", "data connections");
        NS_FAIL_IF(fd < 0, NS_ERR_DEVICE, "rank %d: only %d of %d data connections of higher ranks were opened",
                   w->rank, n, wanted);
        ns_error ignored = NS_ERROR_INIT;
        if (dist_recv_exact(fd, line, DATA_HELLO, ns_time_now() + 5, &ignored) != NS_OK ||
            sscanf(line, "ns1 data %d %d %" SCNx64, &r, &lane, &token) != 3 || token != w->token || r <= w->rank ||
            r >= w->size || lane < 0 || lane >= w->n_lanes || w->peers[r].data[lane] >= 0) {
            close(fd); /* a stranger */
            continue;
        }
        w->peers[r].data[lane] = fd;
        n++;
    }
    return NS_OK;
}

static ns_status join(ns_world *w, ns_error *err)
{
    int listener = -1, port = 0;
    double until = ns_time_now() + w->o.join_s;
    NS_TRY(dist_listen(w->o.host, &port, &listener, err), "rank %d", w->rank);
    ns_status st = w->rank == 0 ? gather_ranks(w, port, until, err) : join_hub(w, port, until, err);
    if (st == NS_OK && !w->mpi) st = open_mesh(w, listener, until, err);
    close(listener);
    return st;
}

/* All ranks decide alike: the environment of one launcher is the same for all. */
static ns_status choose_transport(ns_world *w, ns_error *err)
{
    const char *want = getenv("NS_TRANSPORT"), *version = "", *bad;
    int has_mpi = getenv("OMPI_COMM_WORLD_RANK") || getenv("PMIX_RANK"), rank = -1, size = -1;
    char path[4096];
    NS_FAIL_IF(want && *want && strcmp(want, "mpi") && strcmp(want, "tcp"), NS_ERR_CONFIG,
               "NS_TRANSPORT is '%s': use mpi or tcp", want);
    if (want && *want ? !strcmp(want, "tcp") : !has_mpi || !ns_mpi_find(path, sizeof path)) return NS_OK;
    NS_FAIL_IF(!has_mpi, NS_ERR_CONFIG, "%s",
               "NS_TRANSPORT=mpi, but the ranks were not started by mpirun or srun --mpi=pmix");
    NS_TRY(ns_mpi_open(&w->mpi, err), "%s", "transport");
    bad = w->mpi->open(&rank, &size, &version);
    NS_FAIL_IF(bad, NS_ERR_DEVICE, "%s", bad);
    NS_FAIL_IF(
        rank != w->rank || size != w->size, NS_ERR_MISMATCH,
        "MPI (%s) says rank %d of %d, the launcher's variables say %d of %d: the MPI of libns_mpi.so is not the one of "
        "the launcher; rebuild it against that MPI, or set NS_TRANSPORT=tcp",
        version, rank, size, w->rank, w->size);
    return NS_OK;
}

ns_status ns_world_open(ns_world **out, const ns_world_options *o, ns_error *err)
{
    ns_world *w = NULL;
    ns_status st = NS_OK;
    *out = NULL;
    NS_TRY(ns_alloc((void **)&w, sizeof *w, "dist.world", err), "%s", "ranks");
    w->o = *o;
    w->rank = o->rank;
    w->size = o->size;
    w->n_lanes = o->lanes > 1 ? N_LANES : 1;
    w->wake[0] = w->wake[1] = -1;
    pthread_mutex_init(&w->lock, NULL);
    pthread_mutex_init(&w->watch_lock, NULL);
    atomic_store(&w->op, "start");
    double *const times[] = {&w->o.join_s, &w->o.dead_s, &w->o.hang_s, &w->o.abort_grace_s};
    const double defaults[] = {120, 10, 60, 5};
    for (int i = 0; i < 4; i++)
        if (*times[i] <= 0) *times[i] = defaults[i];
    if (!w->o.identity) w->o.identity = "-";
    NS_BAIL_IF(st, strlen(w->o.identity) > 600 || strchr(w->o.identity, '\n'), NS_ERR_INTERNAL, "%s",
               "identity of a run: too long or not one line");
    size_t n = (size_t)w->size;
    NS_CHECK(st, ns_alloc((void **)&w->peers, n * sizeof *w->peers, "dist.world", err), "%s", "ranks");
    for (size_t i = 0; i < n; i++) w->peers[i].control = w->peers[i].data[0] = w->peers[i].data[1] = -1;
    for (int k = 0; k < w->n_lanes; k++) {
        struct lane *l = &w->lanes[k];
        NS_CHECK(st, ns_alloc(&l->polls, n * sizeof(struct pollfd), "dist.world", err), "%s", "ranks");
        NS_CHECK(st, ns_alloc((void **)&l->sending, n * sizeof(void *), "dist.world", err), "%s", "ranks");
        NS_CHECK(st, ns_alloc((void **)&l->receiving, n * sizeof(void *), "dist.world", err), "%s", "ranks");
    }
    peer *me = &w->peers[w->rank];
    if (gethostname(me->host, sizeof me->host - 1) != 0 || !me->host[0]) strcpy(me->host, "unnamed");
    me->pid = (long)getpid();
    if (w->size > 1) {
        NS_CHECK(st, choose_transport(w, err), "%s", "transport");
        NS_CHECK(st, join(w, err), "join %d ranks", w->size);
        NS_CHECK(st, dist_control_start(w, err), "%s", "control plane");
        NS_CHECK(st, dist_slow_link_open(w, err), "%s", "ranks");
    }
    *out = w;
    return NS_OK;
done:
    ns_world_close(&w);
    return st;
}

void ns_world_close(ns_world **pw)
{
    ns_world *w = *pw;
    if (!w) return;
    int broken = !w->thread_runs || atomic_load(&w->aborted);
    dist_flight_close(w);
    dist_control_stop(w);
    dist_slow_link_close(w);
    if (w->mpi) w->mpi->close(broken);
    for (int i = 0; w->peers && i < w->size; i++) {
        if (w->peers[i].control >= 0) close(w->peers[i].control);
        for (int k = 0; k < N_LANES; k++)
            if (w->peers[i].data[k] >= 0) close(w->peers[i].data[k]);
    }
    pthread_mutex_destroy(&w->lock);
    pthread_mutex_destroy(&w->watch_lock);
    ns_free(w->peers);
    for (int k = 0; k < N_LANES; k++) {
        ns_free(w->lanes[k].polls);
        ns_free((void *)w->lanes[k].sending);
        ns_free((void *)w->lanes[k].receiving);
    }
    ns_free(w);
    *pw = NULL;
}

int ns_world_rank(const ns_world *w)
{
    return w->rank;
}

int ns_world_size(const ns_world *w)
{
    return w->size;
}

const char *ns_world_transport(const ns_world *w)
{
    return w->size == 1 ? "none" : w->mpi ? "mpi" : "tcp";
}

void ns_world_trace(ns_world *w, ns_trace *t)
{
    w->trace = t;
}

double ns_world_waited(const ns_world *w)
{
    return (double)atomic_load(&w->waited_ns) * 1e-9;
}

void ns_world_note(ns_world *w, int64_t step, const char *op)
{
    atomic_store_explicit(&w->step, step, memory_order_relaxed);
    atomic_store_explicit(&w->op, op, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->seq, 1, memory_order_relaxed);
}

void ns_world_device(ns_world *w, int on)
{
    atomic_store(&w->on_device, on);
}

ns_status ns_world_check(ns_world *w, ns_error *err)
{
    if (!atomic_load(&w->aborted)) return NS_OK;
    pthread_mutex_lock(&w->lock);
    ns_error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__, "%s", w->why);
    pthread_mutex_unlock(&w->lock);
    return NS_ERR_DEVICE;
}

/* ---- exchange ---- */

static uint32_t op_hash(const char *op)
{
    uint32_t h = 2166136261u;
    for (; *op; op++) h = (h ^ (unsigned char)*op) * 16777619u;
    return h;
}

/* A broken data connection: the control plane knows better why (a dead rank) and says so within moments. */
static ns_status broken(ns_world *w, const char *op, int rank, const char *what, ns_error *err)
{
    for (double until = ns_time_now() + 1; ns_time_now() < until; poll(NULL, 0, 20))
        if (atomic_load(&w->aborted)) return ns_world_check(w, err);
    NS_FAIL(NS_ERR_DEVICE, "%s: the connection to rank %d (%s, pid %ld) broke: %s", op, rank, w->peers[rank].host,
            w->peers[rank].pid, what);
}

/* Moves as many bytes of one transfer as the socket takes. Out: 1 complete, 0 would block. */
static ns_status advance(ns_world *w, int lane, const char *op, ns_xfer *x, int *complete, ns_error *err)
{
    int fd = w->peers[x->peer].data[lane];
    *complete = 0;
    while (x->done < HEADER + x->bytes) {
        ssize_t k;
        if (x->done < HEADER) { /* header and start of the bytes are small: own call, and only once a message */
            if (x->recv) {
                header h;
                k = recv(fd, &h, HEADER, MSG_PEEK);
                if (k > 0 && k < HEADER) return NS_OK; /* waits for the rest of it */
                if (k == HEADER) {
                    k = recv(fd, &h, HEADER, 0);
                    NS_FAIL_IF(h.magic != MAGIC || h.op != op_hash(op) || h.bytes != x->bytes, NS_ERR_MISMATCH,
                               "rank %d expected %" PRId64 " bytes of '%s' from rank %d and got %" PRId64
                               " bytes of %s: the ranks are not doing the same thing",
                               w->rank, x->bytes, op, x->peer, h.bytes,
                               h.op == op_hash(op) ? "it" : "another operation");
                }
            } else {
                header h = {MAGIC, op_hash(op), x->bytes};
                k = send(fd, (char *)&h + x->done, (size_t)(HEADER - x->done),
                         MSG_NOSIGNAL | (x->bytes ? MSG_MORE : 0));
            }
        } else {
            char *p = (char *)x->buf + (x->done - HEADER);
            size_t left = (size_t)(HEADER + x->bytes - x->done);
            k = x->recv ? recv(fd, p, left, 0) : send(fd, p, left, MSG_NOSIGNAL);
        }
        if (k == 0 && x->recv) return broken(w, op, x->peer, "closed by the other side", err);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0 && errno == EAGAIN) return NS_OK;
        if (k < 0) return broken(w, op, x->peer, strerror(errno), err);
        x->done += k;
    }
    *complete = 1;
    return NS_OK;
}

static void copy_own(ns_world *w, ns_xfer *x, int n)
{
    for (int s = 0, r = 0; s < n; s++) {
        if (x[s].peer != w->rank || x[s].recv) continue;
        while (r < n && (x[r].peer != w->rank || !x[r].recv)) r++;
        NS_ASSERT(r < n && x[r].bytes == x[s].bytes); /* a collective of ours pairs them */
        memmove(x[r].buf, x[s].buf, (size_t)x[s].bytes);
        r++;
    }
}

/* Next unfinished transfer to (recv 0) or from (recv 1) a peer, at or after `from`. */
static ns_xfer *next_of(ns_xfer *from, ns_xfer *end, int rank, int recv_side)
{
    for (; from < end; from++)
        if (from->peer == rank && !from->recv == !recv_side) return from;
    return NULL;
}

static ns_status run_exchange(ns_world *w, int lane, const char *op, ns_xfer *x, int n, ns_error *err)
{
    struct lane *l = &w->lanes[lane];
    struct pollfd *polls = l->polls;
    ns_xfer *end = x + n;
    for (int r = 0; r < w->size; r++) {
        l->sending[r] = r == w->rank ? NULL : next_of(x, end, r, 0);
        l->receiving[r] = r == w->rank ? NULL : next_of(x, end, r, 1);
    }
    for (;;) {
        int n_poll = 0;
        for (int r = 0; r < w->size; r++) {
            int complete = 1;
            while (l->sending[r] && complete) {
                NS_TRY(advance(w, lane, op, l->sending[r], &complete, err), "to rank %d", r);
                if (complete) l->sending[r] = next_of(l->sending[r] + 1, end, r, 0);
            }
            for (complete = 1; l->receiving[r] && complete;) {
                NS_TRY(advance(w, lane, op, l->receiving[r], &complete, err), "from rank %d", r);
                if (complete) l->receiving[r] = next_of(l->receiving[r] + 1, end, r, 1);
            }
            if (l->sending[r] || l->receiving[r])
                polls[n_poll++] =
                    (struct pollfd){.fd = w->peers[r].data[lane],
                                    .events = (short)((l->sending[r] ? POLLOUT : 0) | (l->receiving[r] ? POLLIN : 0))};
        }
        if (n_poll == 0) return NS_OK;
        NS_TRY(ns_world_check(w, err), "%s", op);
        poll(polls, (nfds_t)n_poll, 50); /* wakes for an abort, too */
    }
}

static int keep_waiting(void *world)
{
    ns_world *w = world;
    return !atomic_load(&w->aborted);
}

/* Transfers to the rank itself were copied: the list without them. */
static ns_status run_mpi(ns_world *w, int lane, const char *op, ns_xfer *x, int n, ns_error *err)
{
    char what[400] = "";
    int k = 0;
    for (int i = 0; i < n; i++)
        if (x[i].peer != w->rank) x[k++] = x[i];
    int rc = w->mpi->exchange(lane, op_hash(op), x, k, keep_waiting, w, what, sizeof what);
    if (rc == 0) return NS_OK;
    NS_TRY(ns_world_check(w, err), "%s", op);
    NS_FAIL(strstr(what, "not doing the same") ? NS_ERR_MISMATCH : NS_ERR_DEVICE, "rank %d in %s: %s", w->rank, op,
            what);
}

ns_world_place ns_world_enter(ns_world *w, const char *op)
{
    ns_world_place p = {atomic_load_explicit(&w->op, memory_order_relaxed), ns_time_now()};
    atomic_store_explicit(&w->op, op, memory_order_relaxed);
    atomic_store(&w->waiting, 1);
    atomic_fetch_add(&w->seq, 1);
    return p;
}

void ns_world_leave(ns_world *w, ns_world_place p)
{
    atomic_fetch_add(&w->waited_ns, (int64_t)((ns_time_now() - p.began) * 1e9));
    atomic_store(&w->waiting, 0);
    atomic_fetch_add(&w->seq, 1);
    atomic_store_explicit(&w->op, p.before, memory_order_relaxed);
}

ns_status dist_move(ns_world *w, int lane, const char *op, ns_xfer *x, int n, ns_error *err)
{
    for (int i = 0; i < n; i++) x[i].done = 0;
    copy_own(w, x, n);
    if (w->size == 1) return NS_OK;
    const double began = ns_time_now();
    atomic_fetch_add(&w->seq, 1); /* whoever waits for this: it moves */
    ns_status st = w->mpi ? run_mpi(w, lane, op, x, n, err) : run_exchange(w, lane, op, x, n, err);
    if (st == NS_OK) st = dist_slow_link_wait(w, began, x, n, err);
    if (w->trace) {
        int64_t bytes = 0;
        for (int i = 0; i < n; i++) bytes += x[i].bytes;
        ns_trace_span(w->trace, lane ? NS_TRACE_BEHIND : NS_TRACE_COMM, op, began, bytes);
    }
    return st;
}

ns_status ns_world_exchange_on(ns_world *w, int lane, const char *op, ns_xfer *x, int n, ns_error *err)
{
    NS_ASSERT(lane < w->n_lanes);
    return lane ? dist_move(w, lane, op, x, n, err) : ns_world_exchange(w, op, x, n, err);
}

ns_status ns_world_exchange(ns_world *w, const char *op, ns_xfer *x, int n, ns_error *err)
{
    if (w->size == 1) return dist_move(w, 0, op, x, n, err);
    const ns_world_place p = ns_world_enter(w, op);
    ns_status st = dist_move(w, 0, op, x, n, err);
    ns_world_leave(w, p);
    return st;
}
