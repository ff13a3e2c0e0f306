/* Inside of a world: shared by world.c (joining, exchange) and control.c (the thread). */
#ifndef NS_DIST_WORLD_PRIV_H
#define NS_DIST_WORLD_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "dist/world.h"

enum { LINE_MAX_BYTES = 1024, N_LANES = 2 };

typedef struct line_reader { /* text lines from a non-blocking socket */
    char buf[LINE_MAX_BYTES];
    size_t n;
} line_reader;

typedef struct peer {
    int control;       /* hub: socket to that rank; others: only [0] is used */
    int data[N_LANES]; /* sockets that carry tensors */
    char host[128];    /* as it names itself */
    long pid;
    char addr[64]; /* numeric address and port of its data listener */
    int port;
    /* control thread of the hub only */
    line_reader in;
    int said_bye, closed;
    uint64_t seq; /* progress counter in its last heartbeat */
    enum {
        STANDS_COMPUTING,
        STANDS_WAITING,
        STANDS_ON_DEVICE
    } stands;     /* it was inside a collective then, or ns_world_device */
    int64_t step; /* and where */
    char op[64];
    double heard, moved; /* times of the last heartbeat; of the last change of seq */
} peer;

typedef struct flight { /* the exchange that runs while its caller computes (flight.c) */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int runs;                                         /* there is a thread */
    enum { FLIGHT_NONE, FLIGHT_ON, FLIGHT_OVER } now; /* under lock, as the rest */
    int stop;
    const char *op;
    ns_xfer *x;
    int n;
    ns_status st;
    ns_error err;
} flight;

typedef struct slow_link { /* slow_link.c; seconds_a_byte 0: off */
    double seconds_a_byte, latency_s;
    pthread_mutex_t lock;
    double busy_until; /* under lock */
} slow_link;

struct ns_world {
    ns_world_options o;
    int rank, size;
    peer *peers; /* [size] */
    uint64_t token;
    const struct ns_mpi_plugin *mpi;    /* carries tensors instead of peer.data; NULL: TCP */
    struct lane {                       /* scratch of an exchange */
        void *polls;                    /* struct pollfd [size] */
        ns_xfer **sending, **receiving; /* [size] first unfinished transfer per peer */
    } lanes[N_LANES];
    int n_lanes;
    void *polls_control; /* struct pollfd [size+1], for the thread */

    pthread_t thread;
    int thread_runs, wake[2]; /* a byte in the pipe wakes the thread */
    _Atomic uint64_t seq;
    _Atomic int64_t step;
    _Atomic(const char *) op;
    ns_trace *trace;
    _Atomic int64_t waited_ns; /* in exchanges */
    _Atomic int waiting, on_device, aborted, closing;
    flight flight;
    slow_link slow;
    pthread_mutex_t watch_lock; /* of watches, while one of them runs too */
    ns_world_watch *watches;
    pthread_mutex_t lock; /* of `why` and `local_failure` */
    char why[700];
    char local_failure[700];
};

/* ---- net.c: sockets; every wait ends at `until` (ns_time_now) ---- */
/* Listens on `host` if it is a loopback address, else on all; *port 0: any, and set to the one taken. */
ns_status dist_listen(const char *host, int *port, int *fd, ns_error *err);
/* The n-th port of a run, 20000 to 31999: below those that systems give to any process. */
int dist_port(uint64_t run, int n);
/* Takes over a socket that listens already. */
ns_status dist_take_listener(int fd, ns_error *err);
ns_status dist_accept(int listener, double until, int *fd, ns_error *err);                /* *fd -1 when nobody came */
ns_status dist_connect(const char *host, int port, double until, int *fd, ns_error *err); /* retries refusals */
ns_status dist_connect_once(const char *host, int port, double until, int *fd, ns_error *err);
void dist_peer_address(int fd, char out[64]);
ns_status dist_send_line(int fd, const char *text, double until, ns_error *err);
ns_status dist_recv_line(int fd, line_reader *in, char out[LINE_MAX_BYTES], double until, ns_error *err);
/* n bytes and a NUL. */
ns_status dist_recv_exact(int fd, char *out, int n, double until, ns_error *err);
/* One complete line if there is one: 1, 0 not yet, -1 the connection is closed or broken. Never blocks. */
int dist_next_line(int fd, line_reader *in, char out[LINE_MAX_BYTES]);

/* Moves the bytes of one exchange: the part that any thread may do. Says nothing of where the rank is. */
ns_status dist_move(ns_world *w, int lane, const char *op, ns_xfer *x, int n, ns_error *err);
void dist_flight_close(ns_world *w);

ns_status dist_slow_link_open(ns_world *w, ns_error *err);
ns_status dist_slow_link_wait(ns_world *w, double began, const ns_xfer *x, int n, ns_error *err);
void dist_slow_link_close(ns_world *w);

ns_status dist_control_start(ns_world *w, ns_error *err);
void dist_control_stop(ns_world *w);

#endif
