/* The CUDA back-end as seen by the program: a plug-in, libns_cuda.so, opened at run time (doc/cuda.md). Nothing here needs
 * CUDA to build or to run; without plug-in, driver or device, opening fails with one line that says what is missing.
 *
 *     ns_cuda_info info;
 *     NS_TRY(ns_cuda_open(&ops, &device, &info, err), "GPU");     // ops: the table; device: ns_exec.backend
 *     ns_cuda_close(&device);
 *
 * Search order of the plug-in: the variable NS_CUDA_PLUGIN (a path), the program's folder, ../lib and .. of it, the loader's path.
 * The device is number 0 of those CUDA shows (CUDA_VISIBLE_DEVICES chooses); ns_cuda_open_nth takes the nth modulo their number. */
#ifndef NS_OPS_CUDA_CUDA_H
#define NS_OPS_CUDA_CUDA_H

#include "ops/ops.h"

typedef struct ns_cuda_info {
    char name[96];    /* "NVIDIA H100 80GB HBM3" */
    char plugin[512]; /* path that was opened */
    char blas[64];    /* "cuBLASLt 13.1.0" */
    char dnn[300];    /* "cuDNN 9.19.0", or why there is none */
    int cc;           /* compute capability, 90 for 9.0 */
    int sms;
    int driver, runtime; /* CUDA versions, 13000 for 13.0 */
    int nth, count;      /* number of this one, of how many that CUDA shows */
    char uuid[40]; /* of the card, 32 hexadecimal digits: the same for all processes on it, whatever they are shown */
    int64_t total_bytes, free_bytes;
} ns_cuda_info;

/* Fills *out with a complete table. Err: NS_ERR_DEVICE; the message names plug-in, driver, architecture or library and what to do. */
NS_MUST_USE ns_status ns_cuda_open(ns_ops *out, void **device, ns_cuda_info *info, ns_error *err);
NS_MUST_USE ns_status ns_cuda_open_nth(ns_ops *out, void **device, ns_cuda_info *info, int nth, ns_error *err);
void ns_cuda_close(void **device); /* frees what the device still holds; NULL is fine */
/* The plug-in's table without a device, to plan with: prepare_bytes and work_bytes (backend NULL) alone may be called. */
NS_MUST_USE ns_status ns_cuda_sizes(ns_ops *out, ns_error *err);
int64_t
ns_cuda_used(void *device); /* bytes in use on the card, as its driver says: ours, the context's, other processes' */
/* Attention passes in bf16 that cuDNN and our own kernels served; the last reason for the latter. */
void ns_cuda_served(void *device, int64_t *dnn, int64_t *own, const char **why);
int ns_cuda_find(char *path, size_t size); /* 1: the plug-in file exists (its path); 0: none beside the program */

/* ---- between the program and the plug-in ---- */
enum { NS_CUDA_ABI = 4, NS_CUDA_SIDES = 2, NS_CUDA_MARKS = 1024, NS_CUDA_STAMPS = 8192 };
typedef struct ns_cuda_host { /* what the plug-in may call */
    ns_status (*error_set)(ns_error *err, ns_status code, const char *file, int line, const char *fmt, ...)
        NS_PRINTF(5, 6);
} ns_cuda_host;
typedef struct ns_cuda_plugin {
    uint32_t abi, layout; /* NS_CUDA_ABI, ns_cuda_layout(): both must match */
    const ns_ops *table;  /* for planning: sizes */
    const char *archs;    /* "sm_80 sm_86 ... + PTX 80" */
    ns_status (*open)(const ns_cuda_host *host, ns_ops *out, void **device, ns_cuda_info *info, ns_error *err);
    void (*close)(void *device);
    int64_t (*used)(void *device); /* bytes in use on the card, this process and others, as the driver says */
    void (*served)(void *device, int64_t *dnn, int64_t *own, const char **why); /* bf16 attention passes so far */
    void *(*host_alloc)(int64_t bytes); /* memory that host and device see under one address: tests */
    void (*host_free)(void *p);
    void *(*stream)(void *device); /* cudaStream_t that all ops of the device are enqueued on */
    /* own[n] becomes the sum over members in their order, as ns_comm_reduce_scatter adds; in: [members-1] arrays, `each` elements
     * apart. 0: the launch failed. */
    int (*add_members)(void *device, ns_dtype dt, int64_t n, void *own, const void *in, int64_t each, int members,
                       int rank);
    /* Streams beside that of the ops, for exchanges while kernels run: NS_CUDA_SIDES of them. What is enqueued there comes behind what
     * was on the ops' stream when side_follow was called; ops after side_need come behind what was on the side when side_mark(.., k) was. */
    void *(*side)(void *device, int side); /* takes the place of `device` for add_members_aside */
    void *(*side_stream)(void *device, int side);
    int (*side_follow)(void *device, int side); /* 0: failed, as the next two */
    int (*side_mark)(void *device, int side, int k);
    int (*side_need)(void *device, int side, int k);
    /* Stamp k in a stream; seconds from stamp a to b, 0: b has not passed yet. For traces. */
    int (*stamp)(void *device, void *stream, int k);
    int (*stamp_s)(void *device, int a, int b, double *seconds);
    int (*add_members_aside)(void *side, ns_dtype dt, int64_t n, void *own, const void *in, int64_t each, int members,
                             int rank);
} ns_cuda_plugin;
typedef const ns_cuda_plugin *(*ns_cuda_plugin_fn)(void); /* exported as ns_cuda_plugin_get */
const ns_cuda_plugin *ns_cuda_opened(void);               /* of the last successful ns_cuda_open; NULL: none */

/* Changes whenever a structure that crosses the border changes its size. */
static inline uint32_t ns_cuda_layout(void)
{
    const size_t sizes[] = {sizeof(ns_ops),          sizeof(ns_exec),          sizeof(ns_step),
                            sizeof(ns_weight),       sizeof(ns_attn_args),     sizeof(ns_head_args),
                            sizeof(ns_norm_args),    sizeof(ns_norm_bwd_args), sizeof(ns_linear_args),
                            sizeof(ns_rope_args),    sizeof(ns_act_args),      sizeof(ns_embed_args),
                            sizeof(ns_dropout_args), sizeof(ns_add_args),      sizeof(ns_opt_item),
                            sizeof(ns_opt_args),     sizeof(ns_scatter_args),  sizeof(ns_fill_args),
                            sizeof(ns_error),        sizeof(ns_cuda_info),     sizeof(ns_attn_merge_args),
                            sizeof(ns_sum_rows_args)};
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) h = (h ^ (uint32_t)sizes[i]) * 16777619u;
    return h;
}

#endif
