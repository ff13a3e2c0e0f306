/* Rates of known GPUs, measured with `ns bench train` (doc/performance.md): an op takes its arithmetic or its bytes, whichever
 * is longer at the rate that such an op reached in a step. */
#include "model/gpu_known.h"

#include <stdio.h>
#include <string.h>

typedef struct gpu_rates {
    const char *name, *full;
    double total, free, extra;            /* bytes; extra: the driver's figure less the plan */
    double product, head;                 /* flop/s within a step (power limits it below a product alone) */
    double product8;                      /* of fp8 products with the casts of their factors */
    double attn_fwd[2], attn_bwd[2];      /* head size up to 64, above */
    double rows, optimizer, norm, launch; /* bytes/s of row ops, AdamW, gradient norm; seconds a launch adds */
} gpu_rates;

static const gpu_rates known[] = {{.name = "h200",
                                   .full = "NVIDIA H200 (not here)",
                                   .total = 150.12e9,
                                   .free = 149.6e9,
                                   .extra = 0.635e9,
                                   .product = 680e12,
                                   .head = 640e12,
                                   .product8 = 1075e12,
                                   .attn_fwd = {320e12, 430e12},
                                   .attn_bwd = {295e12, 360e12},
                                   .rows = 3.4e12,
                                   .optimizer = 2.95e12,
                                   .norm = 4.2e12,
                                   .launch = 2e-6}};

static const gpu_rates *find(const char *name)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) return &known[i];
    return NULL;
}

ns_status ns_gpu_known(ns_cuda_info *out, const char *name, ns_error *err)
{
    const gpu_rates *g = find(name);
    NS_FAIL_IF(!g, NS_ERR_CONFIG, "GPU '%s' is not known: %s", name, NS_GPU_KNOWN);
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "%s", g->full);
    out->total_bytes = (int64_t)g->total;
    out->free_bytes = (int64_t)g->free;
    return NS_OK;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static double seconds_of(const gpu_rates *g, const char *op, int wide, double flops, double bytes)
{
    if (!strncmp(op, "linear8", 7)) return larger(flops / g->product8, bytes / g->rows);
    if (!strncmp(op, "linear", 6)) return larger(flops / g->product, bytes / g->rows);
    if (!strcmp(op, "head")) return larger(flops / g->head, bytes / g->rows);
    if (!strcmp(op, "attn_fwd")) return larger(flops / g->attn_fwd[wide], bytes / g->rows);
    if (!strcmp(op, "attn_bwd")) return larger(flops / g->attn_bwd[wide], bytes / g->rows);
    if (!strcmp(op, "adamw")) return bytes / g->optimizer;
    if (!strcmp(op, "grad_sumsq")) return bytes / g->norm;
    return bytes / g->rows;
}

ns_gpu_guess ns_gpu_predict(const ns_engine *e, int64_t micro_batches)
{
    const gpu_rates *g = find(e->opt.plan_gpu);
    ns_gpu_guess guess = {0};
    const char *op;
    double flops, bytes, each = 0, once = 0;
    int64_t count;
    for (int i = 0; ns_plan_get_op(ns_space_plan(e->space), i, &op, &count, &flops, &bytes); i++) {
        double s = seconds_of(g, op, e->arch.head_dim > 64, flops, bytes) + (double)count * g->launch;
        if (!strcmp(op, "adamw") || !strcmp(op, "grad_sumsq") || !strcmp(op, "clip") || !strcmp(op, "prepare"))
            once += s;
        else
            each += s;
    }
    guess.used_bytes = (double)e->total_bytes + g->extra;
    guess.step_s = each * (double)micro_batches + once;
    return guess;
}
