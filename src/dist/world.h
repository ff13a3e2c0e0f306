/* The ranks of one run: who they are, how they find each other, and how all stop together when one of them is lost.
 *
 *     ns_world_options o;
 *     NS_TRY(ns_world_from_env(&o, err), "ranks");     // who started us: ns itself, srun, mpirun, torchrun-like variables
 *     o.identity = "version 0.1.0;config 5f3a..";      // must be the same text on all ranks
 *     NS_TRY(ns_world_open(&w, &o, err), "join the other ranks");
 *     ns_world_note(w, step, "forward");               // where this rank is: named if it hangs
 *     ... collectives (comm.h) ...
 *     ns_world_close(&w);                              // waits for the others
 *
 * Control plane: every rank keeps one TCP connection to rank 0 (the hub), beside the one that carries tensors, served by a
 * thread. It carries heartbeats, the first error, and the abort. Found by the hub:
 *   dead    the connection closed without a goodbye                              -> at once
 *   silent  no heartbeat for dead_s (frozen process, lost node)                  -> dead_s, default 10
 *   hung    others wait in a collective, this rank has not moved for hang_s      -> hang_s, default 60
 *           (collectives of a device: nobody has moved, this rank came least far, ns_world_device)
 * Whatever is found first is told to all (rank, host, pid, step, operation); every wait of every rank then fails with
 * NS_ERR_DEVICE and that text. A rank that does not come back from its own work within abort_grace_s has on_abort called
 * on the control thread; there a program may exit. The library never does.
 *
 * Tensors travel by MPI where ranks were started by mpirun or srun --mpi=pmix and libns_mpi.so is there (mpi/mpi_plugin.h), else
 * by TCP, each to each; NS_TRANSPORT=mpi|tcp decides otherwise. Without other ranks (size 1) nothing is opened. */
#ifndef NS_DIST_WORLD_H
#define NS_DIST_WORLD_H

#include <stdint.h>

#include "base/error.h"
#include "base/trace.h"

typedef struct ns_world ns_world;

typedef struct ns_world_options {
    int rank, size;
    int local_rank, local_size; /* place among the ranks of this machine; picks the GPU, divides the cores */
    char host[256];             /* rendezvous: rank 0 listens on this name ... */
    int port;                   /* ... and port */
    uint64_t run;         /* equal on all ranks of a run, most likely another in other runs: strangers are told by it */
    int any_port;         /* the port was made of `run`: where another process has it, all ranks try the next one */
    int listener;         /* rank 0: socket that already listens on `port`, taken over; 0: none */
    const char *identity; /* equal on all ranks, "name value;name value"; the first difference is named */
    int lanes;            /* 0 and 1: one; 2: a second set of connections, for exchanges of another thread */
    double join_s, dead_s, hang_s, abort_grace_s; /* 0: 120, 10, 60, 5 */
    void (*on_abort)(const char *why, void *user);
    void *user;
    const char *started_by; /* "ns", "srun", "mpirun", "RANK and WORLD_SIZE", or "" for a single process */
} ns_world_options;

/* Reads who we are from the environment, first match: NS_RANK.. (ns itself), OMPI_COMM_WORLD_*, SLURM_PROCID (inside srun),
 * RANK/WORLD_SIZE/MASTER_ADDR/MASTER_PORT. A half-set family is an error that names the missing variable. */
NS_MUST_USE ns_status ns_world_from_env(ns_world_options *o, ns_error *err);

/* Err: NS_ERR_MISMATCH (identity or size differs, or two ranks with one number), NS_ERR_DEVICE (nobody came in join_s:
 * the missing ranks are listed). */
NS_MUST_USE ns_status ns_world_open(ns_world **out, const ns_world_options *o, ns_error *err);
int ns_world_rank(const ns_world *w);
int ns_world_size(const ns_world *w);
const char *ns_world_transport(const ns_world *w); /* "none", "tcp", "mpi" */

/* Progress of this rank; cheap (no system call). `op` must be a static string. waiting = inside a collective. */
void ns_world_note(ns_world *w, int64_t step, const char *op);

/* 1: from here on what this rank does may wait for others without its knowing, on a device (NCCL): where no rank moves for hang_s, the
 * one that came least far hangs. 0: it computes by itself again. */
void ns_world_device(ns_world *w, int on);

/* This rank waits for others in `op` (a static string) until it leaves; the time counts as waited. */
typedef struct ns_world_place {
    const char *before;
    double began;
} ns_world_place;
ns_world_place ns_world_enter(ns_world *w, const char *op);
void ns_world_leave(ns_world *w, ns_world_place p);

void ns_world_trace(ns_world *w, ns_trace *t); /* exchanges are spans of it; NULL: none */
double ns_world_waited(const ns_world *w);     /* seconds this rank has spent in exchanges */

/* Not OK once the run was aborted, by whom and why in the text. */
NS_MUST_USE ns_status ns_world_check(ns_world *w, ns_error *err);
/* Tells all ranks that this one failed (first error wins), then behaves as aborted. For errors found by this rank alone. */
void ns_world_fail(ns_world *w, const ns_error *why);

/* Called on the control thread about once a second, and at once when the run was aborted (then with aborted 1, more than once). A text
 * left in problem[n] is passed on as this rank's failure. Not called in a world of one. remove waits for a call that runs. */
typedef struct ns_world_watch {
    void (*fn)(void *user, int aborted, char *problem, size_t n);
    void *user;
    struct ns_world_watch *next;
} ns_world_watch;
void ns_world_watch_add(ns_world *w, ns_world_watch *watch); /* the caller's memory, until it is removed */
void ns_world_watch_remove(ns_world *w, ns_world_watch *watch);

/* Says goodbye and closes; returns at once (collectives before it have matched already). NULL is fine. */
void ns_world_close(ns_world **w);

/* ---- transport: point to point between ranks, for comm.c ---- */
typedef struct ns_xfer {
    int peer; /* rank */
    int recv; /* 1: into buf, 0: from buf */
    void *buf;
    int64_t bytes;
    int64_t done; /* of the 16-byte header and the bytes; set to 0 by exchange */
} ns_xfer;

/* Lane 0 belongs to the main thread, lane 1 to one other thread: exchanges of one do not wait for those of the other. What lane 1 does is
 * not where the rank is; when the main thread waits for it, that is (ns_world_enter).
 * Runs all transfers at once and returns when all are complete. Between two ranks messages keep their order; sizes and `op`
 * must agree (NS_ERR_MISMATCH names both sides). A transfer to the rank itself is copied, first send to first receive. */
NS_MUST_USE ns_status ns_world_exchange_on(ns_world *w, int lane, const char *op, ns_xfer *x, int n, ns_error *err);
NS_MUST_USE ns_status ns_world_exchange(ns_world *w, const char *op, ns_xfer *x, int n, ns_error *err);

/* The same while the caller computes: a thread of the world moves the bytes. One at a time; until wait has returned the caller
 * leaves x and its buffers alone and starts no other exchange. wait gives the exchange's result; without a start, NS_OK. */
NS_MUST_USE ns_status ns_world_start(ns_world *w, const char *op, ns_xfer *x, int n, ns_error *err);
NS_MUST_USE ns_status ns_world_wait(ns_world *w, ns_error *err);

#endif
