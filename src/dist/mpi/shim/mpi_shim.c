/* The whole of MPI in ns: bytes between ranks (mpi_plugin.h). Tags carry the operation, so that ranks that do different things
 * are told so instead of waiting for ever. Compiled into libns_mpi.so alone. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dist/mpi/mpi_plugin.h"

enum { TAG_BITS = 15, MAX_MESSAGE = 1 << 30, MAX_PENDING = 4096 };

static MPI_Request pending[MAX_PENDING];
static struct {
    const ns_xfer *x;
    int bytes;
} what_is[MAX_PENDING];

static const char *shim_open(int *rank, int *size, const char **version)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int done = 0, level = 0, n = 0;
    MPI_Initialized(&done);
    if (!done && MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level) != MPI_SUCCESS) return "MPI_Init failed";
    if (done) MPI_Query_thread(&level);
    if (level < MPI_THREAD_SERIALIZED) return "this MPI serves one thread only: set NS_TRANSPORT=tcp";
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
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
    MPI_Error_string(rc, text, &n);
    snprintf(what, (size_t)size, "%s: %s", step, text);
    return 2;
}

/* One finished receive must have the expected length and operation. */
static int check(int i, const MPI_Status *s, int tag, char *what, int size)
{
    int got = 0;
    if (!what_is[i].x->recv) return 0;
    MPI_Get_count(s, MPI_BYTE, &got);
    if (got == what_is[i].bytes && s->MPI_TAG == tag) return 0;
    snprintf(what, (size_t)size,
             "expected %d bytes from rank %d and got %d bytes of %s: the ranks are not doing the same thing",
             what_is[i].bytes, what_is[i].x->peer, got, s->MPI_TAG == tag ? "it" : "another operation");
    return 2;
}

static int wait_all(int n, int tag, int (*keep_waiting)(void *), void *user, char *what, int size)
{
    static int done[MAX_PENDING];
    static MPI_Status status[MAX_PENDING];
    unsigned idle = 0;
    for (int left = n; left > 0;) {
        int k = 0, rc = MPI_Testsome(n, pending, &k, done, status);
        if (rc != MPI_SUCCESS && rc != MPI_ERR_IN_STATUS) return failed(rc, "MPI_Testsome", what, size);
        for (int j = 0; k != MPI_UNDEFINED && j < k; j++) {
            if (rc == MPI_ERR_IN_STATUS && status[j].MPI_ERROR == MPI_ERR_TRUNCATE) {
                snprintf(what, (size_t)size,
                         "rank %d sent more than the %d bytes expected: the ranks are not doing the same thing",
                         what_is[done[j]].x->peer, what_is[done[j]].bytes);
                return 2;
            }
            if (rc == MPI_ERR_IN_STATUS && status[j].MPI_ERROR != MPI_SUCCESS && status[j].MPI_ERROR != MPI_ERR_PENDING)
                return failed(status[j].MPI_ERROR, "transfer", what, size);
            if (check(done[j], &status[j], tag, what, size)) return 2;
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

static int shim_exchange(uint32_t op, ns_xfer *x, int n, int (*keep_waiting)(void *), void *user, char *what, int size)
{
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
                what_is[k].x = &x[i];
                what_is[k].bytes = bytes;
                rc = receives ? MPI_Irecv(p, bytes, MPI_BYTE, x[i].peer, MPI_ANY_TAG, MPI_COMM_WORLD, &pending[k])
                              : MPI_Isend(p, bytes, MPI_BYTE, x[i].peer, tag, MPI_COMM_WORLD, &pending[k]);
                if (rc != MPI_SUCCESS) return failed(rc, receives ? "MPI_Irecv" : "MPI_Isend", what, size);
                k++;
            }
        }
    return wait_all(k, tag, keep_waiting, user, what, size);
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
