/* Arithmetic of a whole training step: zero, forward, loss, backward, clip, AdamW of a small Llama on one packed
 * micro-batch of 4096 tokens, for every CPU level that this machine has, and the share of each op.
 *     bench_step [C [LENGTH [THREADS [DTYPE]]]]       default: 256 128 0 bf16   (0 threads: all)
 * 4 layers, F = 8/3 C, heads of 32, two query heads a kv head, 1000 words, tied. Segments of LENGTH tokens. */
#include "bench.h"

#include "base/mem.h"
#include "model/engine.h"

enum { T = 4096, LAYERS = 4, VOCAB = 1000 };

/* Every op of the table goes through a stopwatch. */
static ns_ops real;
static double spent[20];
#define WATCH(i, op, type)                    \
    static void op(ns_exec *x, const type *a) \
    {                                         \
        double t = bench_now();               \
        real.op(x, a);                        \
        spent[i] += bench_now() - t;          \
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
WATCH(15, adamw, ns_opt_args)
WATCH(16, prepare, ns_weight)
static const char *const names[] = {"embed_fwd",    "embed_bwd", "norm_fwd",   "norm_bwd", "linear_fwd", "linear_dgrad",
                                    "linear_wgrad", "rope",      "attn_fwd",   "attn_bwd", "act_fwd",    "act_bwd",
                                    "head",         "zero",      "grad_sumsq", "adamw",    "prepare"};

static void watch(ns_ops *o)
{
    real = *o;
    o->embed_fwd = embed_fwd, o->embed_bwd = embed_bwd, o->norm_fwd = norm_fwd, o->norm_bwd = norm_bwd;
    o->linear_fwd = linear_fwd, o->linear_dgrad = linear_dgrad, o->linear_wgrad = linear_wgrad, o->rope = rope;
    o->attn_fwd = attn_fwd, o->attn_bwd = attn_bwd, o->act_fwd = act_fwd, o->act_bwd = act_bwd, o->head = head;
    o->zero = zero, o->grad_sumsq = grad_sumsq, o->adamw = adamw, o->prepare = prepare;
}

static void step(void *arg)
{
    ns_engine *e = arg;
    e->model.step->t++;
    e->model.step->loss_sum = 0;
    ns_model_zero_grad(&e->model, &e->exec);
    ns_model_forward(&e->model, &e->exec, 0);
    ns_model_loss(&e->model, &e->exec, NULL, 1);
    ns_model_backward(&e->model, &e->exec, 0);
    ns_model_grad_sumsq(&e->model, &e->exec);
    ns_model_update(&e->model, &e->exec);
    ns_model_prepare(&e->model, &e->exec);
}

/* Weights and tokens: any that keep the numbers ordinary. */
static void fill(ns_engine *e, int length)
{
    for (int i = 0; i < e->table.n_params; i++) {
        const ns_weight *w = &e->model.w[i];
        float *d = NULL;
        ns_error err = NS_ERROR_INIT;
        if (ns_alloc((void **)&d, (size_t)(w->rows * w->cols) * sizeof *d, "bench", &err) != NS_OK)
            exit(bench_fail(&err));
        for (int64_t k = 0; k < w->rows * w->cols; k++)
            d[k] = w->cols == 1 ? 1.0f : 0.05f * ((float)((uint64_t)k * 2654435761u >> 9 & 1023) / 512 - 1);
        ns_model_put_param(&e->model, &e->exec, i, d);
        ns_free(d);
    }
    ns_engine_loaded(e);
    ns_batch *b = &e->model.batch;
    for (int t = 0; t < T; t++) {
        b->ids[t] = (t * 7919 + t / 3) % VOCAB, b->label[t] = t * 31 % VOCAB;
        b->weight[t] = 1, b->position[t] = t % length;
    }
    for (int s = 0; s <= T / length; s++) b->cu_seqlens[s] = s * length;
    *e->model.step = (ns_step){.weight_sum = T, .lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.98f, .eps = 1e-8f, .clip = 1};
}

static int run(const char *level, int C, int length, int threads, ns_dtype dt)
{
    ns_arch a = {.family = NS_FAMILY_LLAMA,
                 .vocab = VOCAB,
                 .vocab_rows = 1024,
                 .C = C,
                 .F = C * 8 / 3 / 64 * 64,
                 .L = LAYERS,
                 .n_heads = C / 32,
                 .n_kv = C / 64,
                 .head_dim = 32,
                 .max_pos = 8192,
                 .norm_eps = 1e-5f,
                 .tied = 1,
                 .rope_theta = 1e4,
                 .dt = dt};
    ns_model_options o = {.dt = dt, .T_cap = T, .S_cap = T / length, .max_len = length, .n_slots = 1, .train = 1};
    ns_error err = NS_ERROR_INIT;
    ns_engine e;
    double best, median, total = 0;
    char more[1536];
    if (ns_engine_plan(&e, &a, &o, level, threads, &err) != NS_OK || ns_engine_start(&e, &err) != NS_OK)
        return bench_fail(&err);
    watch(&e.ops);
    fill(&e, length);
    memset(spent, 0, sizeof spent);
    bench_time(&best, &median, step, &e);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) total += spent[i];
    int n = snprintf(more, sizeof more,
                     "\"level\": \"%s\", \"dtype\": \"%s\", \"C\": %d, \"length\": %d, \"threads\": %d, "
                     "\"gflop_s\": %.1f, \"loss\": %.4f, \"share\": {",
                     level, ns_dtype_name(dt), C, length, ns_threads_count(e.pool), e.step_flops / best / 1e9,
                     e.model.step->loss_sum / T);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        n += snprintf(more + n, sizeof more - (size_t)n, "%s\"%s\": %.3f", i ? ", " : "", names[i], spent[i] / total);
    snprintf(more + n, sizeof more - (size_t)n, "}");
    bench_line("step.train", more, T / best, "tokens/s", best, median);
    int failed = e.exec.err.code != NS_OK;
    if (failed) bench_fail(&e.exec.err);
    ns_engine_free(&e);
    return failed;
}

int main(int argc, char **argv)
{
    static const char *const levels[] = {"f32", "avx2", "avx512", "amx"};
    int C = argc > 1 ? atoi(argv[1]) : 256, length = argc > 2 ? atoi(argv[2]) : 128, rc = 0;
    int threads = argc > 3 ? atoi(argv[3]) : 0;
    ns_dtype dt = argc > 4 && !strcmp(argv[4], "f32") ? NS_DTYPE_F32 : NS_DTYPE_BF16;
    if (C < 64 || C % 64 || length < 1 || length > T) {
        fprintf(stderr, "bench_step: C is a multiple of 64, LENGTH from 1 to %d\n", T);
        return 2;
    }
    for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
        ns_ops ops;
        if (ns_ops_cpu(&ops, levels[l], NULL) == NS_OK)
            rc |= run(levels[l], C, length, threads, dt);
        else
            bench_skip("step.train", levels[l]);
    }
    return rc;
}
