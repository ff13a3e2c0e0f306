/* The whole of MPI in ns: bytes between ranks (mpi_plugin.h). Tags carry the operation, so that ranks that do different things
 * are told so instead of waiting for ever. Compiled into libns_mpi.so alone. */
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dist/mpi/mpi_plugin.h"

enum { TAG_BITS = 15, MAX_MESSAGE = 1 << 30, MAX_PENDING = 4096 };

/* A lane has a communicator of its own, so that its messages meet only one another. MPI is asked for no more than one thread at a time:
 * the lock is held for a call, not for a wait. */
static struct lane {
    MPI_Comm comm;
    MPI_Request pending[MAX_PENDING];
    struct {
        const ns_xfer *x;
        int bytes;
    } what_is[MAX_PENDING];
    int done[MAX_PENDING];
    MPI_Status status[MAX_PENDING];
} lanes[2];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static const char *shim_open(int *rank, int *size, const char **version)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int done = 0, level = 0, n = 0;
    MPI_Initialized(&done);
    if (!done && MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level) != MPI_SUCCESS) return "MPI_Init failed";
    if (done) MPI_Query_thread(&level);
    if (level < MPI_THREAD_SERIALIZED) return "this MPI serves one thread only: set NS_TRANSPORT=tcp";
    lanes[0].comm = MPI_COMM_WORLD;
    if (MPI_Comm_dup(MPI_COMM_WORLD, &lanes[1].comm) != MPI_SUCCESS) return "MPI_Comm_dup failed";
    for (int i = 0; i < 2; i++) MPI_Comm_set_errhandler(lanes[i].comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, rank);
    MPI_Comm_size(MPI_COMM_WORLD, size);
    MPI_Get_library_version(text, &n);
    text[strcspn(text, ",\n")] = 0;
    *version = text;
    return NULL;
}

static int failed(int rc, const char *step, char *what, int size)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    pthread_mutex_lock(&lock);
    MPI_Error_string(rc, text, &n);
    pthread_mutex_unlock(&lock);
    snprintf(what, (size_t)size, "%s: %s", step, text);
    return 2;
}

/* One finished receive must have the expected length and operation. */
static int check(const struct lane *l, int i, const MPI_Status *s, int tag, char *what, int size)
{
    int got = 0;
    if (!l->what_is[i].x->recv) return 0;
    pthread_mutex_lock(&lock);
    MPI_Get_count(s, MPI_BYTE, &got);
    pthread_mutex_unlock(&lock);
    if (got == l->what_is[i].bytes && s->MPI_TAG == tag) return 0;
    snprintf(what, (size_t)size,
             "expected %d bytes from rank %d and got %d bytes of %s: the ranks are not doing the same thing",
             l->what_is[i].bytes, l->what_is[i].x->peer, got, s->MPI_TAG == tag ? "it" : "another operation");
    return 2;
}

static int wait_all(struct lane *l, int n, int tag, int (*keep_waiting)(void *), void *user, char *what, int size)
{
    const int *done = l->done;
    const MPI_Status *status = l->status;
    unsigned idle = 0;
    for (int left = n; left > 0;) {
        int k = 0, rc;
        pthread_mutex_lock(&lock);
        rc = MPI_Testsome(n, l->pending, &k, l->done, l->status);
        pthread_mutex_unlock(&lock);
        if (rc != MPI_SUCCESS && rc != MPI_ERR_IN_STATUS) return failed(rc, "MPI_Testsome", what, size);
        for (int j = 0; k != MPI_UNDEFINED && j < k; j++) {
            if (rc == MPI_ERR_IN_STATUS && status[j].MPI_ERROR == MPI_ERR_TRUNCATE) {
                snprintf(what, (size_t)size,
                         "rank %d sent more than the %d bytes expected: the ranks are not doing the same thing",
                         l->what_is[done[j]].x->peer, l->what_is[done[j]].bytes);
                return 2;
            }
            if (rc == MPI_ERR_IN_STATUS && status[j].MPI_ERROR != MPI_SUCCESS && status[j].MPI_ERROR != MPI_ERR_PENDING)
                return failed(status[j].MPI_ERROR, "transfer", what, size);
            if (check(l, done[j], &status[j], tag, what, size)) return 2;
            left--;
        }
        if (k > 0) idle = 0;
        if (k <= 0 && ++idle % 64 == 0) { /* ranks may outnumber cores: give the core away, look for an abort */
            if (!keep_waiting(user)) return 1;
            struct timespec nap = {0, idle > 20000 ? 200000 : 0};
            nanosleep(&nap, NULL);
        }
    }
    return 0;
}

static int begin(struct lane *l, int k, int recv, char *p, int tag)
{
    const int peer = l->what_is[k].x->peer, bytes = l->what_is[k].bytes;
    pthread_mutex_lock(&lock);
    const int rc = recv ? MPI_Irecv(p, bytes, MPI_BYTE, peer, MPI_ANY_TAG, l->comm, &l->pending[k])
                        : MPI_Isend(p, bytes, MPI_BYTE, peer, tag, l->comm, &l->pending[k]);
    pthread_mutex_unlock(&lock);
    return rc;
}

static int shim_exchange(int lane, uint32_t op, ns_xfer *x, int n, int (*keep_waiting)(void *), void *user, char *what,
                         int size)
{
    struct lane *l = &lanes[lane];
    int tag = (int)(op & ((1u << TAG_BITS) - 1)), k = 0;
    for (int receives = 1; receives >= 0; receives--) /* receives first: nothing arrives unexpected */
        for (int i = 0; i < n; i++) {
            if (!x[i].recv != !receives) continue;
            for (int64_t at = 0; at == 0 || at < x[i].bytes; at += MAX_MESSAGE) {
                int64_t left = x[i].bytes - at;
                int bytes = (int)(left < MAX_MESSAGE ? left : MAX_MESSAGE), rc;
                char *p = (char *)x[i].buf + at;
                if (k == MAX_PENDING) {
                    snprintf(what, (size_t)size, "more than %d messages in one exchange", (int)MAX_PENDING);
                    return 2;
                }
                l->what_is[k].x = &x[i];
                l->what_is[k].bytes = bytes;
                rc = begin(l, k, receives, p, tag);
                if (rc != MPI_SUCCESS) return failed(rc, receives ? "MPI_Irecv" : "MPI_Isend", what, size);
                k++;
            }
        }
    return wait_all(l, k, tag, keep_waiting, user, what, size);
}

static void shim_close(int broken)
{
    int done = 0;
    MPI_Finalized(&done);
    if (!done && !broken) MPI_Finalize(); /* with lost ranks it would wait for them: the process just ends */
}

static const ns_mpi_plugin table = {NS_MPI_ABI, shim_open, shim_exchange, shim_close};

__attribute__((visibility("default"))) const ns_mpi_plugin *ns_mpi_plugin_get(void);
const ns_mpi_plugin *ns_mpi_plugin_get(void)
{
    return &table;
}
