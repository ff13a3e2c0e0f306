/* `ns bench train`: speed of the whole training step of a known model shape, with random weights and tokens: no files, no
 * data path, the same engine as `ns sft`. One JSON object a line: the step, then (--ops) each op.
 *
 *   tokens/s   rows of a step x length / median step time (device idle before and after each step)
 *   tflop_s    tokens/s x flops per token: 6 per matmul weight (head yes, embedding no) + 6 x layers x heads x head size x length
 *              (attention, causal half; recomputation is not counted)
 *   ceiling    the gate/up product of this shape and micro-batch, alone, on the step's own data, in the same run
 * With --devices N: N ranks on this machine, as ns sft starts them; tokens/s of all, TFLOP/s of each, the bytes that rank 0 sends in a
 * step, and what part of the step they would take alone on a link as fast as a large gathering measured in the same run.
 * A step is zero, micro-batches, norm, clip, AdamW, gradients f32; --optimizer says what is kept of weights and moments:
 * exact (bf16 + remainder, f32 moments: 16 bytes a parameter with the gradient), moments-bf16 (12), bf16 (no remainder either: 10). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "cli/bench_ranks.h"
#include "cli/cli.h"
#include "dist/launch.h"
#include "model/engine.h"
#include "model/gpu_known.h"
#include "model/snapshot.h"

typedef struct bench_options {
    const char *shape, *accelerator, *isa;
    int64_t rows, length, global_rows, steps, layers, threads, segment;
    const char *recompute, *predict, *optimizer, *fp8;
    int ops, deterministic, snapshot, fp8_split;
    int64_t devices, tp, cp, pp;
    const char *cp_comm;
    int overlap, sequence_parallel;
} bench_options;

#define AT(f) offsetof(bench_options, f)
static const ns_option opts[] = {
    {.key = "shape",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(shape),
     .def = "llama3.2-1b",
     .choices = "llama3.1-8b|llama3.2-3b|llama3.2-1b|qwen2.5-0.5b|qwen2.5-1.5b|qwen2.5-7b|tiny",
     .help = "model shape"},
    {.key = "rows",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(rows),
     .def = "1",
     .min = 1,
     .max = 4096,
     .help = "rows of a micro-batch"},
    {.key = "length",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(length),
     .def = "4096",
     .min = 8,
     .max = 131072,
     .help = "tokens of a row"},
    {.key = "segment",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(segment),
     .def = "0",
     .min = 0,
     .max = 131072,
     .help = "tokens of each packed piece of a row; 0: a row is one piece"},
    {.key = "global-rows",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(global_rows),
     .def = "0",
     .min = 0,
     .max = 1e6,
     .help = "rows of a step, in micro-batches; 0: one micro-batch"},
    {.key = "steps",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(steps),
     .def = "5",
     .min = 1,
     .max = 1000,
     .help = "timed steps, after two that are not"},
    {.key = "layers",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(layers),
     .def = "0",
     .min = 0,
     .max = 1000,
     .help = "fewer layers than the shape has; 0: all"},
    {.key = "recompute",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(recompute),
     .def = "none",
     .choices = "none|selective|full",
     .help = "selective: norms, activations, and whole layers as far as memory demands; full: keep only layer inputs"},
    {.key = "optimizer",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(optimizer),
     .def = "exact",
     .choices = "exact|moments-bf16|bf16",
     .help = "main weights exact to fp32 and fp32 moments (16 bytes a parameter), bf16 moments (12), or all bf16 with "
             "stochastic rounding (10)"},
    {.key = "predict",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(predict),
     .def = "null",
     .choices = "null|h200",
     .flags = NS_OPT_NULLABLE,
     .help = "memory and step time on this GPU, which need not be here; nothing is run"},
    {.key = "deterministic",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(deterministic),
     .def = "false",
     .help = "the same bits in every run, as ns sft does unless deterministic=false"},
    {.key = "fp8",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(fp8),
     .def = "off",
     .choices = "off|hybrid|e4m3",
     .help = "products of the layers in fp8; hybrid: gradients e5m2, the rest e4m3"},
    {.key = "fp8-use-split-accumulator",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(fp8_split),
     .def = "false",
     .help = "fp8: products of the backward sum in f32 registers, not within the tensor cores"},
    {.key = "snapshot",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(snapshot),
     .def = "false",
     .help = "copy weights and optimiser state to host memory at every timed step, as a save with async_save=True "
             "does: its stall"},
    {.key = "ops",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(ops),
     .def = "false",
     .help = "one more step, waiting after every op: where the time goes"},
    {.key = "devices",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(devices),
     .def = "1",
     .min = 1,
     .max = 1024,
     .help = "ranks on this machine; those that the next three leave are data parallel: each --rows of --global-rows"},
    {.key = "tp",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(tp),
     .def = "1",
     .min = 1,
     .max = 1024,
     .help = "tensor-parallel ranks"},
    {.key = "cp",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(cp),
     .def = "1",
     .min = 1,
     .max = 1024,
     .help = "context-parallel ranks"},
    {.key = "pp",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(pp),
     .def = "1",
     .min = 1,
     .max = 1024,
     .help = "stages of a pipeline"},
    {.key = "cp-comm",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(cp_comm),
     .def = "all_gather",
     .choices = "all_gather|p2p",
     .help = "keys and values of context-parallel ranks: gathered, or by turns in a ring"},
    {.key = "sequence-parallel",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(sequence_parallel),
     .def = "false",
     .help = "tensor-parallel ranks split the stream by tokens"},
    {.key = "overlap",
     .flag = 1,
     .type = NS_OPT_BOOL,
     .at = AT(overlap),
     .def = "false",
     .help = "gradients reduced during the backward, weights gathered during the next forward"},
    {.key = "accelerator",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(accelerator),
     .def = "auto",
     .choices = "auto|cpu|gpu",
     .help = "where to run"},
    {.key = "isa",
     .flag = 1,
     .type = NS_OPT_STRING,
     .at = AT(isa),
     .def = "auto",
     .help = "CPU level: auto, amx, avx512, avx2, f32, ref"},
    {.key = "threads",
     .flag = 1,
     .type = NS_OPT_INT,
     .at = AT(threads),
     .def = "0",
     .min = 0,
     .max = 4096,
     .help = "CPU threads; 0: all"},
};

static const struct shape {
    const char *name;
    ns_family family;
    int64_t C, F, L, heads, kv, hd, vocab;
    int bias, tied;
    double theta;
} shapes[] = {
    {"llama3.1-8b", NS_FAMILY_LLAMA, 4096, 14336, 32, 32, 8, 128, 128256, 0, 0, 5e5},
    {"llama3.2-3b", NS_FAMILY_LLAMA, 3072, 8192, 28, 24, 8, 128, 128256, 0, 1, 5e5},
    {"llama3.2-1b", NS_FAMILY_LLAMA, 2048, 8192, 16, 32, 8, 64, 128256, 0, 1, 5e5},
    {"qwen2.5-0.5b", NS_FAMILY_QWEN2, 896, 4864, 24, 14, 2, 64, 151936, 1, 1, 1e6},
    {"qwen2.5-1.5b", NS_FAMILY_QWEN2, 1536, 8960, 28, 12, 2, 128, 151936, 1, 1, 1e6},
    {"qwen2.5-7b", NS_FAMILY_QWEN2, 3584, 18944, 28, 28, 4, 128, 152064, 1, 0, 1e6},
    {"tiny", NS_FAMILY_LLAMA, 256, 704, 4, 4, 2, 64, 1000, 0, 1, 1e4},
};

static ns_arch arch_of(const bench_options *o)
{
    size_t i = 0;
    while (strcmp(shapes[i].name, o->shape)) i++;
    const struct shape *s = &shapes[i];
    return (ns_arch){.family = s->family,
                     .vocab = s->vocab,
                     .vocab_rows = s->vocab,
                     .C = s->C,
                     .F = s->F,
                     .L = o->layers > 0 && o->layers < s->L ? o->layers : s->L,
                     .n_heads = s->heads,
                     .n_kv = s->kv,
                     .head_dim = s->hd,
                     .max_pos = 131072,
                     .norm_eps = 1e-5f,
                     .qkv_bias = s->bias,
                     .tied = s->tied,
                     .rope_theta = s->theta,
                     .dt = NS_DTYPE_BF16};
}

/* ---- a stopwatch round every op of the table ---- */
enum { N_OPS = 18 };
static ns_ops real;
static double spent[N_OPS];
static int64_t calls[N_OPS];
static void lap(ns_exec *x, int i, double began)
{
    char byte;
    real.download(x, &byte, x->step, 1); /* waits */
    spent[i] += ns_time_now() - began;
    calls[i]++;
}
#define WATCH(i, op, type)                    \
    static void op(ns_exec *x, const type *a) \
    {                                         \
        double began = ns_time_now();         \
        real.op(x, a);                        \
        lap(x, i, began);                     \
    }
WATCH(0, embed_fwd, ns_embed_args)
WATCH(1, embed_bwd, ns_embed_args)
WATCH(2, norm_fwd, ns_norm_args)
WATCH(3, norm_bwd, ns_norm_bwd_args)
WATCH(4, linear_fwd, ns_linear_args)
WATCH(5, linear_dgrad, ns_linear_args)
WATCH(6, linear_wgrad, ns_linear_args)
WATCH(7, rope, ns_rope_args)
WATCH(8, attn_fwd, ns_attn_args)
WATCH(9, attn_bwd, ns_attn_args)
WATCH(10, act_fwd, ns_act_args)
WATCH(11, act_bwd, ns_act_args)
WATCH(12, head, ns_head_args)
WATCH(13, zero, ns_fill_args)
WATCH(14, grad_sumsq, ns_opt_args)
WATCH(15, clip, ns_opt_args)
WATCH(16, adamw, ns_opt_args)
WATCH(17, prepare, ns_weight)
static const char *const op_names[N_OPS] = {
    "embed_fwd", "embed_bwd", "norm_fwd", "norm_bwd", "linear_fwd", "linear_dgrad", "linear_wgrad", "rope",  "attn_fwd",
    "attn_bwd",  "act_fwd",   "act_bwd",  "head",     "zero",       "grad_sumsq",   "clip",         "adamw", "prepare"};
static void watch(ns_ops *o)
{
    real = *o;
    o->embed_fwd = embed_fwd, o->embed_bwd = embed_bwd, o->norm_fwd = norm_fwd, o->norm_bwd = norm_bwd;
    o->linear_fwd = linear_fwd, o->linear_dgrad = linear_dgrad, o->linear_wgrad = linear_wgrad, o->rope = rope;
    o->attn_fwd = attn_fwd, o->attn_bwd = attn_bwd, o->act_fwd = act_fwd, o->act_bwd = act_bwd, o->head = head;
    o->zero = zero, o->grad_sumsq = grad_sumsq, o->clip = clip, o->adamw = adamw, o->prepare = prepare;
}

/* ---- data ---- */
typedef struct bench {
    const bench_options *o;
    ns_engine engine;
    ns_batch batch;
    ns_step step;
    int64_t micro;
    double first_s, *times;
    ns_snapshot *snapshot;
    bench_ranks ranks;
    ns_error err; /* of a step */
    double enqueue_s,
        held_s; /* worst of the timed steps: host seconds to begin a copy; device seconds the update waited for it */
} bench;

/* Normal numbers of 0.02 for matrices, ones for vectors: one block of them, over and over. */
static ns_status fill_weights(bench *b, ns_error *err)
{
    enum { BLOCK = 1 << 20 };
    uint16_t *block = NULL, *ones = NULL;
    ns_engine *e = &b->engine;
    NS_TRY(ns_alloc((void **)&block, 2 * BLOCK * sizeof *block, "bench.block", err), "weights");
    ones = block + BLOCK;
    for (uint64_t i = 0; i < BLOCK; i++) {
        block[i] = ns_f32_to_bf16((float)(0.02 * ns_philox_normal((ns_philox_key){{1, 2}}, 3, i)));
        ones[i] = ns_f32_to_bf16(1);
    }
    for (int i = 0; i < e->table.n_params; i++) {
        const ns_weight *w = &e->model.w[i];
        int64_t n = w->data ? w->rows * w->cols : 0; /* nothing: another stage has it */
        int norm = e->table.params[i].kind == NS_P_ATTN_NORM || e->table.params[i].kind == NS_P_MLP_NORM ||
                   e->table.params[i].kind == NS_P_FINAL_NORM;
        for (int64_t k = 0; k < n; k += BLOCK)
            e->ops.upload(&e->exec, (uint16_t *)w->data + k, norm ? ones : block, (n - k < BLOCK ? n - k : BLOCK) * 2);
    }
    ns_engine_loaded(e);
    char byte;
    e->ops.download(&e->exec, &byte, e->model.step, 1);
    ns_free(block);
    return NS_OK;
}

static ns_status fill_batch(bench *b, ns_error *err)
{
    const bench_options *o = b->o;
    int64_t T = o->rows * o->length, piece = o->segment > 0 && o->segment < o->length ? o->segment : o->length, s = 0;
    ns_batch *d = &b->batch;
    const int64_t S = o->rows * ((o->length + piece - 1) / piece), seed = ns_ranks_dp_rank(&b->ranks.ranks);
    *d = (ns_batch){.T_cap = (int32_t)T, .S_cap = (int32_t)S, .n_tok = (int32_t)T, .max_len = (int32_t)piece};
    NS_TRY(ns_alloc((void **)&d->ids, (size_t)T * 4, "bench.ids", err), "batch");
    NS_TRY(ns_alloc((void **)&d->label, (size_t)T * 4, "bench.label", err), "batch");
    NS_TRY(ns_alloc((void **)&d->weight, (size_t)T * 4, "bench.weight", err), "batch");
    NS_TRY(ns_alloc((void **)&d->position, (size_t)T * 4, "bench.position", err), "batch");
    NS_TRY(ns_alloc((void **)&d->token, (size_t)T * 4, "bench.token", err), "batch");
    NS_TRY(ns_alloc((void **)&d->cu_seqlens, ((size_t)d->S_cap + 1) * 4, "bench.cu", err), "batch");
    for (int64_t row = 0; row < o->rows; row++)
        for (int64_t at = 0; at < o->length; at += piece) {
            d->cu_seqlens[s++] = (int32_t)(row * o->length + at);
            for (int64_t i = at; i < at + piece && i < o->length; i++)
                d->position[row * o->length + i] = (int32_t)(i - at);
        }
    d->n_seg = (int32_t)s;
    for (; s <= d->S_cap; s++) d->cu_seqlens[s] = (int32_t)T;
    for (int64_t t = 0; t < T; t++) {
        uint32_t w[4];
        ns_philox(w, (const uint32_t[4]){(uint32_t)t, (uint32_t)seed, 0, 0}, (ns_philox_key){{5, 6}});
        d->ids[t] = (int32_t)(w[0] % (uint64_t)b->engine.arch.vocab);
        d->label[t] = (int32_t)(w[1] % (uint64_t)b->engine.arch.vocab);
        d->weight[t] = 1;
    }
    d->weight_sum = (double)T;
    return NS_OK;
}

static void take_snapshot(bench *b)
{
    const double began = ns_time_now();
    ns_error err = NS_ERROR_INIT;
    if (ns_snapshot_take(b->snapshot, &err) != NS_OK) b->engine.exec.err = err;
    const double s = ns_time_now() - began;
    if (s > b->enqueue_s) b->enqueue_s = s;
}

static void hold(void *snapshot)
{
    ns_snapshot_hold(snapshot);
}

/* One step as ns sft does it; waits at the end. A failure is in b->err. */
static double run_step(bench *b, int64_t t)
{
    double began = ns_time_now();
    if (b->err.code != NS_OK) return 0;
    b->step = (ns_step){.weight_sum = b->batch.weight_sum * (double)(b->micro * ns_ranks_dp(&b->ranks.ranks)),
                        .lr = 1e-5f,
                        .beta1 = 0.9f,
                        .beta2 = 0.98f,
                        .eps = 1e-8f,
                        .weight_decay = 0.01f,
                        .clip = 1,
                        .t = t};
    if (b->snapshot && t > 2) take_snapshot(b);
    (void)!bench_ranks_step(&b->ranks, &b->step, hold, b->snapshot, &b->err);
    const double held = ns_snapshot_held(b->snapshot);
    if (held > b->held_s) b->held_s = held;
    return ns_time_now() - began;
}

/* Seconds of the gate/up product of layer 0, best of 10: in bf16, or in fp8 with the cast of its input. */
static double ceiling(bench *b, ns_fp8 fp8, double *flops)
{
    ns_engine *e = &b->engine;
    ns_model *m = &e->model;
    ns_weight w = m->w[ns_param_find(m->table, NS_P_GATE_UP, m->first)];
    w.fp8 = fp8;
    ns_linear_args a = {
        .M = m->T, .N = w.rows, .K = w.cols, .dt = m->opt.dt, .w = &w, .x = m->acts[0].n2, .y = m->acts[0].gu};
    double best = 1e30;
    char byte;
    *flops = 2.0 * (double)a.M * (double)a.N * (double)a.K;
    for (int i = 0; i < 10; i++) {
        double began = ns_time_now();
        for (int k = 0; k < 10; k++) e->ops.linear_fwd(&e->exec, &a);
        e->ops.download(&e->exec, &byte, m->step, 1);
        double s = (ns_time_now() - began) / 10;
        if (s < best) best = s;
    }
    return best;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_ops(bench *b, int64_t t, double step_s)
{
    watch(&b->engine.ops);
    double total = run_step(b, t), sum = 0;
    if (!ns_ranks_first(&b->ranks.ranks)) return;
    for (int i = 0; i < N_OPS; i++) sum += spent[i];
    for (int i = 0; i < N_OPS; i++)
        if (calls[i])
            printf("{\"bench\": \"train.op\", \"op\": \"%s\", \"calls\": %lld, \"ms\": %.3f, \"share\": %.4f}\n",
                   op_names[i], (long long)calls[i], spent[i] * 1e3, spent[i] / sum);
    printf("{\"bench\": \"train.ops\", \"sum_ms\": %.2f, \"waiting_step_ms\": %.2f, \"step_ms\": %.2f}\n", sum * 1e3,
           total * 1e3, step_s * 1e3);
}

static ns_opt_form form_of(const bench_options *o)
{
    const ns_dtype dt = !strcmp(o->optimizer, "exact") ? NS_DTYPE_F32 : NS_DTYPE_BF16;
    return (ns_opt_form){.no_rem = !strcmp(o->optimizer, "bf16"), .m = dt, .v = dt};
}

/* What rank 0 sends in a step, and how much of the step that would be with nothing else on the links. */
static ns_status tell_exchange(bench *b, const uint64_t *sent, double step_s, ns_error *err)
{
    const bench_options *o = b->o;
    double link = 0, total = 0;
    if (o->devices == 1) return NS_OK;
    NS_TRY(bench_ranks_link(&b->ranks, &link, err), "%s", "speed of the links");
    for (int k = 0; k < NS_COMM_N_KINDS; k++) total += (double)sent[k];
    if (!ns_ranks_first(&b->ranks.ranks)) return NS_OK;
    printf("{\"bench\": \"train.exchange\", \"by\": \"%s\", \"overlap\": %s, \"sequence_parallel\": %s, \"cp_comm\": "
           "\"%s\", "
           "\"gather_gb\": %.4f, \"reduce_gb\": %.4f, \"send_gb\": %.4f, \"link_gb_s\": %.1f, \"alone_s\": %.5f, "
           "\"alone_of_step\": %.4f}\n",
           b->ranks.ranks.direct ? "nccl" : "host", b->ranks.overlap ? "true" : "false",
           o->sequence_parallel ? "true" : "false", o->cp_comm, (double)sent[NS_COMM_ALL_GATHER] / 1e9,
           (double)sent[NS_COMM_REDUCE_SCATTER] / 1e9, (double)sent[NS_COMM_SEND] / 1e9, link / 1e9, total / link,
           total / link / step_s);
    return NS_OK;
}

static ns_status train(bench *b, double began, ns_error *err)
{
    const bench_options *o = b->o;
    ns_engine *e = &b->engine;
    ns_arch a = arch_of(o);
    int64_t pieces = o->segment > 0 && o->segment < o->length ? (o->length + o->segment - 1) / o->segment : 1,
            T = o->rows * o->length;
    const bench_layout layout = {o->devices,           o->tp,     o->cp, o->pp, !strcmp(o->cp_comm, "p2p"),
                                 o->sequence_parallel, o->overlap};
    const int64_t split = o->tp * o->cp * o->pp, dp = o->devices / split > 0 ? o->devices / split : 1;
    NS_FAIL_IF(o->global_rows % (o->rows * dp), NS_ERR_CONFIG,
               "--global-rows %lld is not a multiple of --rows %lld x %lld data-parallel ranks",
               (long long)o->global_rows, (long long)o->rows, (long long)dp);
    NS_FAIL_IF(T > 1 << 26, NS_ERR_CONFIG, "%lld tokens in a micro-batch: at most %d", (long long)T, 1 << 26);
    b->micro = o->global_rows ? o->global_rows / o->rows / dp : 1;
    ns_model_options m = {.dt = NS_DTYPE_BF16,
                          .max_len = o->length,
                          .train = 1,
                          .recompute = !strcmp(o->recompute, "full")        ? NS_RECOMPUTE_FULL
                                       : !strcmp(o->recompute, "selective") ? NS_RECOMPUTE_SELECTIVE
                                                                            : NS_RECOMPUTE_NONE,
                          .any_order = !o->deterministic,
                          .optim = form_of(o),
                          .fp8 = !strcmp(o->fp8, "off")      ? NS_FP8_OFF
                                 : !strcmp(o->fp8, "hybrid") ? NS_FP8_HYBRID
                                                             : NS_FP8_E4M3,
                          .fp8_split = o->fp8_split,
                          .plan_gpu = o->predict && strcmp(o->predict, "null") ? o->predict : NULL,
                          .accelerator = o->accelerator};
    NS_TRY(bench_ranks_layout(&b->ranks, &layout, T, o->rows * pieces, b->micro, &m, err), "%s", "ranks");
    NS_FAIL_IF(m.plan_gpu && o->devices > 1, NS_ERR_CONFIG, "%s",
               "--predict knows one GPU: leave out --devices (ns plan plan.layouts=h200 compares layouts)");
    NS_TRY(ns_engine_plan(e, &a, &m, o->isa, (int)o->threads, err), "%s", "plan");
    if (m.plan_gpu) {
        const ns_gpu_guess g = ns_gpu_predict(e, b->micro);
        printf("{\"bench\": \"train.predict\", \"shape\": \"%s\", \"on\": \"%s\", \"rows\": %lld, \"length\": %lld, "
               "\"segment\": %lld, \"global_rows\": %lld, \"recompute\": \"%s\", \"whole_layers_recomputed\": %d, "
               "\"fp8\": \"%s\", \"optimizer_bytes_per_parameter\": %d, \"planned_gb\": %.3f, \"used_gb\": %.3f, "
               "\"step_s\": %.5f, \"tokens_per_s\": %.1f}\n",
               o->shape, o->predict, (long long)o->rows, (long long)o->length, (long long)(pieces > 1 ? o->segment : 0),
               (long long)(o->rows * b->micro), o->recompute, e->opt.full_layers, o->fp8, ns_model_param_bytes(&e->opt),
               (double)e->total_bytes / 1e9, g.used_bytes / 1e9, g.step_s, (double)(T * b->micro) / g.step_s);
        NS_FAIL_IF(g.used_bytes > (double)e->gpu.total_bytes, NS_ERR_CONFIG,
                   "that is more than the %.1f GB of the card", (double)e->gpu.total_bytes / 1e9);
        return NS_OK;
    }
    NS_FAIL_IF(e->device && e->total_bytes > e->gpu.free_bytes, NS_ERR_CONFIG,
               "the plan needs %.2f GB, %.2f GB are free on %s: lower --rows, or --recompute=selective",
               (double)e->total_bytes / 1e9, (double)e->gpu.free_bytes / 1e9, e->gpu.name);
    NS_TRY(bench_ranks_start(&b->ranks, e, &layout, err), "%s", "start");
    NS_TRY(fill_weights(b, err), "%s", "weights");
    NS_TRY(fill_batch(b, err), "%s", "batch");
    NS_TRY(bench_ranks_batch(&b->ranks, &b->batch, b->micro, err), "%s", "batch");
    NS_TRY(ns_alloc((void **)&b->times, (size_t)o->steps * sizeof *b->times, "bench.times", err), "%s", "times");
    if (o->snapshot) NS_TRY(ns_snapshot_new(&b->snapshot, e, err), "%s", "snapshot");
    const double pinning = ns_time_now();
    run_step(b, 1);
    b->first_s = ns_time_now() - began;
    double first_loss = b->step.loss_sum / b->step.weight_sum;
    run_step(b, 2);
    double alone = 0, ready = 0;
    if (b->snapshot) {
        NS_TRY(ns_snapshot_take(b->snapshot, err), "%s", "snapshot"); /* waits for the pinned memory */
        ready = ns_time_now() - pinning;
        NS_TRY(e->ops.copy_wait(&e->exec, err), "%s", "snapshot");
        const double again = ns_time_now();
        NS_TRY(ns_snapshot_take(b->snapshot, err), "%s", "snapshot");
        NS_TRY(e->ops.copy_wait(&e->exec, err), "%s", "snapshot");
        alone = ns_time_now() - again;
    }
    uint64_t before[NS_COMM_N_KINDS], sent[NS_COMM_N_KINDS];
    bench_ranks_sent(&b->ranks, before);
    for (int64_t i = 0; i < o->steps; i++) b->times[i] = run_step(b, i + 3);
    bench_ranks_sent(&b->ranks, sent);
    NS_FAIL_IF(b->err.code != NS_OK, b->err.code, "%s", b->err.msg);
    for (int k = 0; k < NS_COMM_N_KINDS; k++) sent[k] = (sent[k] - before[k]) / (uint64_t)o->steps;
    qsort(b->times, (size_t)o->steps, sizeof *b->times, by_value);
    double s = b->times[(o->steps - 1) / 2], flops, per = ns_arch_train_flops(&a, pieces > 1 ? o->segment : o->length);
    double product = ceiling(b, NS_FP8_OFF, &flops), product8 = m.fp8 ? ceiling(b, m.fp8, &flops) : 0,
           rate = (double)(T * b->micro * dp) / s, each = rate / (double)o->devices;
    int64_t used = e->device ? ns_cuda_used(e->device) : (int64_t)ns_mem_get_stats().bytes_peak;
    NS_FAIL_IF(e->exec.err.code != NS_OK, e->exec.err.code, "%s", e->exec.err.msg);
    int64_t dnn, own;
    const char *why;
    ns_cuda_served(e->device, &dnn, &own, &why);
    if (own > 0 && !o->deterministic)
        NS_INFO("attention by our own kernels in %lld of %lld passes: %s", (long long)own, (long long)(own + dnn), why);
    if (ns_ranks_first(&b->ranks.ranks))
        printf(
            "{\"bench\": \"train\", \"shape\": \"%s\", \"layers\": %lld, \"parameters\": %lld, \"on\": \"%s\", "
            "\"blas\": "
            "\"%s\", \"rows\": %lld, "
            "\"length\": %lld, \"segment\": %lld, \"global_rows\": %lld, \"recompute\": \"%s\", "
            "\"whole_layers_recomputed\": %d, "
            "\"optimizer\": \"%s\", \"optimizer_bytes_per_parameter\": %d, "
            "\"fp8\": \"%s\", \"fp8_use_split_accumulator\": %s, \"fp8_product_tflop_s\": %.1f, "
            "\"transposed_weights_kept\": %s, "
            "\"deterministic\": %s, \"dnn\": \"%s\", \"attention_by_dnn\": %.3f, \"tokens_per_s\": %.1f, \"step_s\": "
            "%.5f, "
            "\"best_s\": %.5f, \"worst_s\": %.5f, \"devices\": %lld, \"tp\": %lld, \"cp\": %lld, \"dp\": %lld, \"pp\": "
            "%lld, \"tokens_per_s_per_device\": %.1f, "
            "\"flops_per_token\": %.6g, \"tflop_s\": %.2f, \"matmul_ceiling_tflop_s\": %.1f, \"of_ceiling\": %.4f, "
            "\"planned_gb\": %.3f, \"used_gb\": %.3f, \"first_step_s\": %.2f, \"loss_first\": %.4f, \"loss_last\": "
            "%.4f}\n",
            o->shape, (long long)a.L, (long long)e->table.n_elements, e->device ? e->gpu.name : e->ops.name,
            e->gpu.blas, (long long)o->rows, (long long)o->length, (long long)(pieces > 1 ? o->segment : 0),
            (long long)(o->rows * b->micro * dp), o->recompute, e->opt.full_layers, o->optimizer,
            ns_model_param_bytes(&e->opt), o->fp8, o->fp8_split ? "true" : "false",
            m.fp8 ? flops / product8 / 1e12 : 0.0, m.fp8 && !e->opt.fp8_lean ? "true" : "false",
            o->deterministic ? "true" : "false", e->gpu.dnn, (double)dnn / (double)(dnn + own > 0 ? dnn + own : 1),
            rate, s, b->times[0], b->times[o->steps - 1], (long long)o->devices, (long long)o->tp, (long long)o->cp,
            (long long)dp, (long long)o->pp, each, per, each * per / 1e12, flops / product / 1e12,
            each * per / (flops / product), (double)e->total_bytes / 1e9, (double)used / 1e9, b->first_s, first_loss,
            b->step.loss_sum / b->step.weight_sum);
    if (b->snapshot && ns_ranks_first(&b->ranks.ranks))
        printf("{\"bench\": \"train.snapshot\", \"gb\": %.3f, \"copy_alone_s\": %.4f, \"ready_after_s\": %.2f, "
               "\"enqueue_s\": "
               "%.5f, \"update_held_s\": %.5f, \"stall_s\": %.5f, \"of_step\": %.4f}\n",
               (double)ns_snapshot_bytes(e) / 1e9, alone, ready, b->enqueue_s, b->held_s, b->enqueue_s + b->held_s,
               (b->enqueue_s + b->held_s) / s);
    if (o->ops) print_ops(b, o->steps + 3, s);
    return tell_exchange(b, sent, s, err);
}

/* --devices N: this process starts N of itself and waits. */
static int start_ranks(int n, const ns_parsed *p)
{
    ns_error err = NS_ERROR_INIT;
    int code = 0;
    const char *argv[p->argc + 3];
    argv[0] = "ns";
    argv[1] = "bench";
    for (int i = 0; i < p->argc; i++) argv[i + 2] = p->argv_copy[i];
    argv[p->argc + 2] = NULL;
    if (ns_launch(n, (char *const *)argv, &code, &err) != NS_OK) code = ns_cli_fail("bench", &err);
    return code;
}

static int run(void *options, ns_parsed *p)
{
    double began = ns_time_now();
    ns_error err = NS_ERROR_INIT;
    bench b = {.o = options};
    if (p->n_positional != 1 || strcmp(p->positional[0], "train")) {
        (void)ns_error_set(&err, NS_ERR_CONFIG, __FILE__, __LINE__, "say what to measure: ns bench train");
        return ns_cli_fail("bench", &err);
    }
    if (b.o->devices <= NS_MAX_DP && ns_launch_wanted((int)b.o->devices)) return start_ranks((int)b.o->devices, p);
    ns_world_options who;
    ns_error unsaid = NS_ERROR_INIT; /* the layout says it */
    if (ns_world_from_env(&who, &unsaid) == NS_OK && who.rank > 0) ns_log_set_level(NS_LOG_ERROR);
    ns_status st = train(&b, began, &err);
    if (st != NS_OK && b.ranks.ranks.world) ns_world_fail(b.ranks.ranks.world, &err); /* the others learn why */
    bench_ranks_close(&b.ranks);
    ns_snapshot_free(&b.snapshot);
    ns_engine_free(&b.engine);
    ns_free(b.batch.ids);
    ns_free(b.batch.label);
    ns_free(b.batch.weight);
    ns_free(b.batch.position);
    ns_free(b.batch.token);
    ns_free(b.batch.cu_seqlens);
    ns_free(b.times);
    return st == NS_OK ? 0 : ns_cli_fail("bench", &err);
}

const ns_verb ns_verb_bench = {
    .name = "bench",
    .group = "training",
    .summary = "measure a training step of a known model shape",
    .usage = "ns bench train [--shape SHAPE] [--rows N] [--length N] [--global-rows N]",
    .examples = "ns bench train --shape llama3.2-1b --rows 4 --ops\n"
                "ns bench train --shape llama3.1-8b --global-rows 32 --recompute selective\n"
                "ns bench train --shape llama3.2-3b --rows 2 --global-rows 32 --devices 2 --overlap\n",
    .options = opts,
    .n_options = sizeof opts / sizeof opts[0],
    .options_size = sizeof(bench_options),
    .allow_positional = 1,
    .run = run,
};
