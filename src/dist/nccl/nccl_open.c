/* Finds and opens libns_nccl.so, and NCCL behind it. See nccl_plugin.h. */
#include <dlfcn.h>
#include <limits.h>

#include "base/sys.h"
#include "dist/nccl/nccl_plugin.h"

ns_status ns_nccl_open(const ns_nccl_plugin **out, const char **version, ns_error *err)
{
    char path[PATH_MAX];
    NS_FAIL_IF(!ns_plugin_find(path, sizeof path, "libns_nccl.so", "NS_NCCL_PLUGIN"), NS_ERR_DEVICE,
               "the NCCL plug-in %s is not beside the program: build where nccl.h is, or name it in NS_NCCL_PLUGIN",
               path);
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    NS_FAIL_IF(!lib, NS_ERR_DEVICE, "%s does not open: %s", path, dlerror());
    ns_nccl_plugin_fn get = NULL;
    *(void **)&get = dlsym(lib, "ns_nccl_plugin_get");
    const ns_nccl_plugin *p = get ? get() : NULL;
    NS_FAIL_IF(!p, NS_ERR_DEVICE, "%s is not a plug-in of ns: ns_nccl_plugin_get is missing", path);
    NS_FAIL_IF(p->abi != NS_NCCL_ABI, NS_ERR_DEVICE,
               "%s belongs to another version of ns (interface %u, this program %u)", path, (unsigned)p->abi,
               (unsigned)NS_NCCL_ABI);
    const char *why = p->open(version);
    NS_FAIL_IF(why, NS_ERR_DEVICE, "%s", why);
    *out = p;
    return NS_OK;
}
