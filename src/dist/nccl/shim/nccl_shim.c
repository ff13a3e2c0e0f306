/* NCCL behind ns_nccl_plugin. Communicators are non-blocking, so that no call waits for a rank that may be lost; NS_NCCL_BLOCKING=1 makes
 * them blocking: faster to enqueue, and a rank that is lost at the wrong moment is then left to ns_world_options.on_abort. */
#include <dlfcn.h>
#include <nccl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dist/nccl/nccl_plugin.h"

enum { OLDEST = 21400 }; /* 2.14: non-blocking communicators */
_Static_assert(sizeof(ncclUniqueId) == NS_NCCL_ID, "the identifier of a group");

#define NAMES(X)              \
    X(ncclGetVersion)         \
    X(ncclGetUniqueId)        \
    X(ncclCommInitRankConfig) \
    X(ncclCommGetAsyncError)  \
    X(ncclCommFinalize)       \
    X(ncclCommDestroy)        \
    X(ncclCommAbort)          \
    X(ncclGroupStart)         \
    X(ncclGroupEnd)           \
    X(ncclSend)               \
    X(ncclRecv)               \
    X(ncclGetErrorString)     \
    X(ncclGetLastError)
static struct {
#define FIELD(f) __typeof__(&f) f;
    NAMES(FIELD)
#undef FIELD
} nccl;

static const char *shim_open(const char **version)
{
    static char text[64], why[400];
    const char *named = getenv("NS_NCCL_LIBRARY"), *name = named && *named ? named : "libnccl.so.2";
    int v = 0;
    void *lib = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        snprintf(why, sizeof why, "NCCL does not open (%s): install libnccl2, or name it in NS_NCCL_LIBRARY",
                 dlerror());
        return why;
    }
#define GET(f)                                                        \
    *(void **)&nccl.f = dlsym(lib, #f);                               \
    if (!nccl.f) {                                                    \
        snprintf(why, sizeof why, "%s has no %s: too old", name, #f); \
        return why;                                                   \
    }
    NAMES(GET)
#undef GET
    if (nccl.ncclGetVersion(&v) != ncclSuccess || v < OLDEST || v / 10000 != NCCL_MAJOR) {
        snprintf(why, sizeof why,
                 "NCCL %d.%d.%d does not fit: this plug-in was built with %d.%d and needs 2.14 or later", v / 10000,
                 v / 100 % 100, v % 100, NCCL_MAJOR, NCCL_MINOR);
        return why;
    }
    snprintf(text, sizeof text, "NCCL %d.%d.%d", v / 10000, v / 100 % 100, v % 100);
    *version = text;
    return NULL;
}

static ns_nccl_state verdict(ncclComm_t c, ncclResult_t r, const char **why)
{
    static char text[600];
    if (r == ncclSuccess) return NS_NCCL_READY;
    if (r == ncclInProgress) return NS_NCCL_BUSY;
    const char *more = nccl.ncclGetLastError(c);
    snprintf(text, sizeof text, "%s%s%.400s", nccl.ncclGetErrorString(r), more && *more ? ": " : "", more ? more : "");
    for (char *p = text; *p; p++)
        if (*p == '\n') *p = ' ';
    *why = text;
    return NS_NCCL_FAILED;
}

static ns_nccl_state shim_new_id(void *id, const char **why)
{
    return verdict(NULL, nccl.ncclGetUniqueId(id), why);
}

static ns_nccl_state shim_join(void **group, const void *id, int rank, int size, const char **why)
{
    ncclConfig_t how = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId u;
    ncclComm_t c = NULL;
    const char *blocking = getenv("NS_NCCL_BLOCKING");
    how.blocking = blocking && *blocking == '1';
    memcpy(&u, id, sizeof u);
    ncclResult_t r = nccl.ncclCommInitRankConfig(&c, size, u, rank, &how);
    *group = c;
    return verdict(c, r, why);
}

static ns_nccl_state shim_state(void *group, const char **why)
{
    ncclResult_t now = ncclSuccess, r = nccl.ncclCommGetAsyncError(group, &now);
    return verdict(group, r != ncclSuccess ? r : now, why);
}

static ns_nccl_state shim_exchange(void *group, void *stream, const ns_xfer *x, int n, const char **why)
{
    ncclResult_t bad = ncclSuccess, r = nccl.ncclGroupStart();
    if (r != ncclSuccess) return verdict(group, r, why);
    for (int i = 0; i < n && bad == ncclSuccess; i++) {
        r = x[i].recv ? nccl.ncclRecv(x[i].buf, (size_t)x[i].bytes, ncclInt8, x[i].peer, group, stream)
                      : nccl.ncclSend(x[i].buf, (size_t)x[i].bytes, ncclInt8, x[i].peer, group, stream);
        if (r != ncclSuccess && r != ncclInProgress) bad = r;
    }
    r = nccl.ncclGroupEnd();
    return verdict(group, bad != ncclSuccess ? bad : r, why);
}

static void shim_close(void *group, int broken)
{
    const char *why;
    if (!group) return;
    if (!broken && verdict(group, nccl.ncclCommFinalize(group), &why) != NS_NCCL_FAILED) {
        for (int i = 0; i < 5000 && shim_state(group, &why) == NS_NCCL_BUSY; i++) poll(NULL, 0, 1);
        if (shim_state(group, &why) == NS_NCCL_READY) {
            (void)nccl.ncclCommDestroy(group);
            return;
        }
    }
    (void)nccl.ncclCommAbort(group);
}

__attribute__((visibility("default"))) const ns_nccl_plugin *ns_nccl_plugin_get(void)
{
    static const ns_nccl_plugin p = {NS_NCCL_ABI, shim_open,     shim_new_id, shim_join,
                                     shim_state,  shim_exchange, shim_close};
    return &p;
}
