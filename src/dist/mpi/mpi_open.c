/* Finds and opens libns_mpi.so. See mpi_plugin.h. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dist/mpi/mpi_plugin.h"

int ns_mpi_find(char *path, size_t size)
{
    static const char *const places[] = {"", "../lib/", "../"};
    char self[PATH_MAX];
    const char *env = getenv("NS_MPI_PLUGIN");
    if (env && *env) {
        snprintf(path, size, "%s", env);
        return access(path, R_OK) == 0;
    }
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = 0;
    char *slash = strrchr(self, '/');
    if (slash) slash[1] = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int k = snprintf(path, size, "%s%slibns_mpi.so", self, places[i]);
        if (k > 0 && (size_t)k < size && access(path, R_OK) == 0) return 1;
    }
    snprintf(path, size, "libns_mpi.so");
    return 0;
}

ns_status ns_mpi_open(const ns_mpi_plugin **out, ns_error *err)
{
    char path[PATH_MAX];
    NS_FAIL_IF(!ns_mpi_find(path, sizeof path), NS_ERR_DEVICE,
               "the MPI plug-in %s is not beside the program: build with MPI, name it in NS_MPI_PLUGIN, or set "
               "NS_TRANSPORT=tcp",
               path);
    void *lib = dlopen(path, RTLD_NOW | RTLD_GLOBAL); /* Open MPI's own plug-ins look for its symbols globally */
    NS_FAIL_IF(!lib, NS_ERR_DEVICE, "%s does not open: %s; set NS_TRANSPORT=tcp to do without MPI", path, dlerror());
    ns_mpi_plugin_fn get = NULL;
    *(void **)&get = dlsym(lib, "ns_mpi_plugin_get");
    const ns_mpi_plugin *p = get ? get() : NULL;
    NS_FAIL_IF(!p, NS_ERR_DEVICE, "%s is not a plug-in of ns: ns_mpi_plugin_get is missing", path);
    NS_FAIL_IF(p->abi != NS_MPI_ABI, NS_ERR_DEVICE,
               "%s belongs to another version of ns (interface %u, this program %u)", path, (unsigned)p->abi,
               (unsigned)NS_MPI_ABI);
    *out = p;
    return NS_OK;
}
