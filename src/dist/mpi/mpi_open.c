/* Finds and opens libns_mpi.so. See mpi_plugin.h. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/sys.h"
#include "dist/mpi/mpi_plugin.h"

int ns_mpi_find(char *path, size_t size)
{
    return ns_plugin_find(path, size, "libns_mpi.so", "NS_MPI_PLUGIN");
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
