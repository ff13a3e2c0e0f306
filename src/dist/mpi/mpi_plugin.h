/* libns_mpi.so: one C file (shim/mpi_shim.c) that a site can rebuild against its own MPI; opened at run time when a run was
 * started by mpirun or by srun --mpi=pmix (then an MPI rank exists), else the ranks talk over TCP. Nothing else of the
 * program knows MPI. The table carries bytes between ranks; order, sums and failures stay in world.c and comm.c.
 *
 *     cc -shared -fPIC -Isrc src/dist/mpi/shim/mpi_shim.c $(mpicc --showme) -o libns_mpi.so                             */
#ifndef NS_DIST_MPI_MPI_PLUGIN_H
#define NS_DIST_MPI_MPI_PLUGIN_H

#include "dist/world.h"

enum { NS_MPI_ABI = 2 };

typedef struct ns_mpi_plugin {
    uint32_t abi;
    /* MPI_Init if needed, once a process. NULL: fine, else a static text. */
    const char *(*open)(int *rank, int *size, const char **version);
    /* As ns_world_exchange_on, two lanes, each one thread's at a time; without transfers to the rank itself. keep_waiting(user) is asked while nothing moves: 0 gives up
     * (returns 1; what is in flight is abandoned). Returns 0 when all is complete, 2 with a text in what[n] on an error. */
    int (*exchange)(int lane, uint32_t op, ns_xfer *x, int n, int (*keep_waiting)(void *), void *user, char *what,
                    int what_size);
    void (*close)(
        int broken); /* MPI_Finalize, or MPI_Abort's silent kin when ranks are lost: nothing that waits for them */
} ns_mpi_plugin;

typedef const ns_mpi_plugin *(*ns_mpi_plugin_fn)(void); /* exported as ns_mpi_plugin_get */

/* Looks beside the program, in ../lib, and where NS_MPI_PLUGIN says. path: what was found or looked for. */
int ns_mpi_find(char *path, size_t size);
NS_MUST_USE ns_status ns_mpi_open(const ns_mpi_plugin **out, ns_error *err);

#endif
