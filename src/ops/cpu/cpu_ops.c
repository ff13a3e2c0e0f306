/* CPU back-end: picks for each op the fastest version that this machine runs (ns_ops_cpu, ops.h). */
#include <stdlib.h>
#include <string.h>

#include "ops/cpu/cpu.h"

ns_status ns_ops_cpu(ns_ops *out, const char *level, ns_error *err)
{
    const char *env = getenv("NS_ISA");
    if (!level || !*level || !strcmp(level, "auto")) level = env && *env ? env : "ref";
    *out = ns_ops_ref;
    out->name = "cpu-ref";
    NS_FAIL_IF(strcmp(level, "ref") != 0, NS_ERR_UNSUPPORTED, "CPU level '%s' is not available here: take ref", level);
    return NS_OK;
}
