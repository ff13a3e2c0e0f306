/* Finds and opens libns_cuda.so; checks that it was built from the same structures. See cuda.h. */
#include "ops/cuda/cuda.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/sys.h"

static const ns_cuda_plugin *opened;

int ns_cuda_find(char *path, size_t size)
{
    return ns_plugin_find(path, size, "libns_cuda.so", "NS_CUDA_PLUGIN");
}

static ns_status open_plugin(const ns_cuda_plugin **plugin, char *path, size_t size, ns_error *err)
{
    int beside = ns_cuda_find(path, size);
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        const char *why = dlerror();
        NS_FAIL_IF(
            !beside, NS_ERR_DEVICE,
            "the GPU plug-in libns_cuda.so is not beside the program (%s): build it on a machine with nvcc, copy it "
            "there or name it in NS_CUDA_PLUGIN; or run on the processor with ++trainer.accelerator=cpu",
            why ? why : "dlopen failed");
        NS_FAIL(NS_ERR_DEVICE, "%s does not open: %s", path, why ? why : "dlopen failed");
    }
    ns_cuda_plugin_fn get = NULL;
    *(void **)&get = dlsym(lib, "ns_cuda_plugin_get");
    const ns_cuda_plugin *p = get ? get() : NULL;
    NS_FAIL_IF(!p, NS_ERR_DEVICE, "%s is not a plug-in of ns: ns_cuda_plugin_get is missing", path);
    NS_FAIL_IF(
        p->abi != NS_CUDA_ABI || p->layout != ns_cuda_layout(), NS_ERR_DEVICE,
        "%s belongs to another version of ns (interface %u/%08x, this program %u/%08x): build both from one source",
        path, (unsigned)p->abi, (unsigned)p->layout, (unsigned)NS_CUDA_ABI, (unsigned)ns_cuda_layout());
    *plugin = p;
    return NS_OK;
}

ns_status ns_cuda_sizes(ns_ops *out, ns_error *err)
{
    char path[PATH_MAX];
    const ns_cuda_plugin *p = NULL;
    NS_TRY(open_plugin(&p, path, sizeof path, err), "sizes of a GPU's buffers");
    *out = *p->table;
    return NS_OK;
}

/* A run that is resumed without one of these is another run: nobody sets them unseen. */
static void warn_of_switches(void)
{
    static const char *const names[] = {"NS_CUDA_CUDNN", "NS_CUDA_GENERIC_ATTENTION", "NS_CUDA_SMALL_TILES",
                                        "NS_CUDA_HEAD_ROWS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i]))
            NS_WARN("%s=%s is set, a switch for tests: results and speed are not those of a run without it", names[i],
                    getenv(names[i]));
}

ns_status ns_cuda_open(ns_ops *out, void **device, ns_cuda_info *info, ns_error *err)
{
    return ns_cuda_open_nth(out, device, info, 0, err);
}

ns_status ns_cuda_open_nth(ns_ops *out, void **device, ns_cuda_info *info, int nth, ns_error *err)
{
    static const ns_cuda_host host = {ns_error_set};
    char path[PATH_MAX];
    const ns_cuda_plugin *p = NULL;
    *device = NULL;
    memset(info, 0, sizeof *info);
    info->nth = nth;
    NS_TRY(open_plugin(&p, path, sizeof path, err), "GPU");
    snprintf(info->plugin, sizeof info->plugin, "%.*s", (int)sizeof info->plugin - 1, path);
    NS_TRY(p->open(&host, out, device, info, err), "GPU plug-in %s", path);
    opened = p;
    warn_of_switches();
    return NS_OK;
}

void ns_cuda_close(void **device)
{
    if (*device && opened) opened->close(*device);
    *device = NULL;
}

int64_t ns_cuda_used(void *device)
{
    return device && opened ? opened->used(device) : 0;
}

void ns_cuda_served(void *device, int64_t *dnn, int64_t *own, const char **why)
{
    *dnn = *own = 0;
    *why = "";
    if (device && opened) opened->served(device, dnn, own, why);
}

const ns_cuda_plugin *ns_cuda_opened(void)
{
    return opened;
}
