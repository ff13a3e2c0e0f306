/* libns_nccl.so: one C file (shim/nccl_shim.c) that opens NVIDIA's libnccl.so.2 at run time, so that the arrays of ranks that have a
 * GPU each travel from device to device. Nothing else of the program knows NCCL; without it arrays travel through the host
 * (comm_space.c). The table moves bytes within a group; order, sums and failures stay in direct.c.
 *
 *     cc -shared -fPIC -Isrc -I/usr/local/cuda/include src/dist/nccl/shim/nccl_shim.c -ldl -o libns_nccl.so            */
#ifndef NS_DIST_NCCL_NCCL_PLUGIN_H
#define NS_DIST_NCCL_NCCL_PLUGIN_H

#include "dist/world.h"

enum { NS_NCCL_ABI = 1, NS_NCCL_ID = 128 };
typedef enum ns_nccl_state { NS_NCCL_READY, NS_NCCL_BUSY, NS_NCCL_FAILED } ns_nccl_state;

/* No call waits for another rank, but with NS_NCCL_BLOCKING=1 joining and the first exchange with a member do: every exchange is then
 * enqueued by its caller, not by a thread that NCCL starts for it (9 us instead of 51 on an H100's host). `why` (static, or good until the next call): what NCCL says, when FAILED. */
typedef struct ns_nccl_plugin {
    uint32_t abi;
    /* Opens the library, once a process (NS_NCCL_LIBRARY names another). NULL: fine, else a static text. */
    const char *(*open)(const char **version);
    ns_nccl_state (*new_id)(void *id, const char **why); /* [NS_NCCL_ID], by one member, for all of a group */
    /* Begins to join on the thread's GPU; BUSY until all members have. */
    ns_nccl_state (*join)(void **group, const void *id, int rank, int size, const char **why);
    ns_nccl_state (*state)(void *group, const char **why); /* also finds what went wrong later */
    /* Enqueues all transfers as one on `stream` (cudaStream_t); peers are members. BUSY: ask state until it is READY, then it is enqueued.
     * Between two members messages keep their order. A member may send to itself. */
    ns_nccl_state (*exchange)(void *group, void *stream, const ns_xfer *x, int n, const char **why);
    void (*close)(void *group, int broken); /* broken: kernels that wait for other ranks are ended; from any thread */
} ns_nccl_plugin;

typedef const ns_nccl_plugin *(*ns_nccl_plugin_fn)(void); /* exported as ns_nccl_plugin_get */

/* Looks beside the program, in ../lib, and where NS_NCCL_PLUGIN says. Err: NS_ERR_DEVICE says what is missing. */
NS_MUST_USE ns_status ns_nccl_open(const ns_nccl_plugin **out, const char **version, ns_error *err);

#endif
