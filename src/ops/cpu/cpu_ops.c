/* CPU back-end: picks for each op the fastest version that this machine runs (ns_ops_cpu, ops.h). */
#include <stdlib.h>
#include <string.h>

#include "ops/cpu/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Scratch of the tile code with the loops of `v`. */
static int64_t tiles_work(const ns_exec *x, const ns_cpu_vec *v, int64_t T, int64_t max_len, int64_t C, int64_t V,
                          int64_t n_heads, int64_t head_dim)
{
    int workers = ns_threads_count(x->pool);
    int64_t need = ns_cpu_linear_work(workers, v) + ns_cpu_up(ns_cpu_head_shared(T, C, V), 64);
    need = ns_cpu_max(need, ns_cpu_rows_work(ns_cpu_max(C, n_heads * head_dim)));
    return ns_cpu_up(ns_cpu_max(need, ns_cpu_attn_work(workers, v, T, max_len, head_dim)), 64);
}

/* One level: the pool code of cpu_*.c around the one-thread loops `vec` and the serial row ops `rows`_norm_fwd, ... */
#define LEVEL(level, vec, rows, sumsq)                                                                         \
    static void level##_norm_fwd(ns_exec *x, const ns_norm_args *a)                                            \
    {                                                                                                          \
        ns_cpu_norm_fwd(x, a, rows##_norm_fwd);                                                                \
    }                                                                                                          \
    static void level##_norm_bwd(ns_exec *x, const ns_norm_bwd_args *a)                                        \
    {                                                                                                          \
        ns_cpu_norm_bwd(x, a, rows##_norm_bwd);                                                                \
        if (a->y)                                                                                              \
            level##_norm_fwd(x, &(ns_norm_args){.T = a->T,                                                     \
                                                .C = a->C,                                                     \
                                                .dt = a->dt,                                                   \
                                                .eps = a->eps,                                                 \
                                                .plus_one = a->plus_one,                                       \
                                                .w = a->w,                                                     \
                                                .x = a->h,                                                     \
                                                .y = a->y});                                                   \
    }                                                                                                          \
    static void level##_rope(ns_exec *x, const ns_rope_args *a)                                                \
    {                                                                                                          \
        ns_cpu_rope(x, a, rows##_rope);                                                                        \
    }                                                                                                          \
    static void level##_act_fwd(ns_exec *x, const ns_act_args *a)                                              \
    {                                                                                                          \
        ns_cpu_act(x, a, rows##_act_fwd);                                                                      \
    }                                                                                                          \
    static void level##_act_bwd(ns_exec *x, const ns_act_args *a)                                              \
    {                                                                                                          \
        ns_cpu_act(x, a, rows##_act_bwd);                                                                      \
        if (a->y) level##_act_fwd(x, a);                                                                       \
    }                                                                                                          \
    static void level##_add(ns_exec *x, const ns_add_args *a)                                                  \
    {                                                                                                          \
        ns_cpu_add(x, a, rows##_add);                                                                          \
    }                                                                                                          \
    static void level##_grad_sumsq(ns_exec *x, const ns_opt_args *a)                                           \
    {                                                                                                          \
        ns_cpu_grad_sumsq(x, a, sumsq);                                                                        \
    }                                                                                                          \
    static void level##_adamw(ns_exec *x, const ns_opt_args *a)                                                \
    {                                                                                                          \
        ns_cpu_adamw(x, a, rows##_adamw);                                                                      \
    }                                                                                                          \
    static void level##_linear_fwd(ns_exec *x, const ns_linear_args *a)                                        \
    {                                                                                                          \
        ns_cpu_linear_fwd(x, a, vec);                                                                          \
    }                                                                                                          \
    static void level##_linear_dgrad(ns_exec *x, const ns_linear_args *a)                                      \
    {                                                                                                          \
        ns_cpu_linear_dgrad(x, a, vec);                                                                        \
    }                                                                                                          \
    static void level##_linear_wgrad(ns_exec *x, const ns_linear_args *a)                                      \
    {                                                                                                          \
        ns_cpu_linear_wgrad(x, a, vec);                                                                        \
    }                                                                                                          \
    static void level##_attn_fwd(ns_exec *x, const ns_attn_args *a)                                            \
    {                                                                                                          \
        ns_cpu_attn_fwd(x, a, vec);                                                                            \
    }                                                                                                          \
    static void level##_attn_bwd(ns_exec *x, const ns_attn_args *a)                                            \
    {                                                                                                          \
        ns_cpu_attn_bwd(x, a, vec);                                                                            \
    }                                                                                                          \
    static void level##_head(ns_exec *x, const ns_head_args *a)                                                \
    {                                                                                                          \
        ns_cpu_head(x, a, &ns_cpu_head_f32, vec);                                                              \
    }                                                                                                          \
    static int64_t level##_work(const ns_exec *x, int64_t T, int64_t max_len, int64_t C, int64_t F, int64_t V, \
                                int64_t n_heads, int64_t head_dim)                                             \
    {                                                                                                          \
        (void)F;                                                                                               \
        return tiles_work(x, vec, T, max_len, C, V, n_heads, head_dim);                                        \
    }                                                                                                          \
    static void use_##level(ns_ops *o)                                                                         \
    {                                                                                                          \
        o->name = "cpu-" #level;                                                                               \
        o->norm_fwd = level##_norm_fwd;                                                                        \
        o->norm_bwd = level##_norm_bwd;                                                                        \
        o->rope = level##_rope;                                                                                \
        o->act_fwd = level##_act_fwd;                                                                          \
        o->act_bwd = level##_act_bwd;                                                                          \
        o->add = level##_add;                                                                                  \
        o->grad_sumsq = level##_grad_sumsq;                                                                    \
        o->adamw = level##_adamw;                                                                              \
        o->linear_fwd = level##_linear_fwd;                                                                    \
        o->linear_dgrad = level##_linear_dgrad;                                                                \
        o->linear_wgrad = level##_linear_wgrad;                                                                \
        o->attn_fwd = level##_attn_fwd;                                                                        \
        o->attn_bwd = level##_attn_bwd;                                                                        \
        o->head = level##_head;                                                                                \
        o->work_bytes = level##_work;                                                                          \
    }
LEVEL(f32, &ns_cpu_vec_plain, ns_ref, ns_cpu_sumsq)
#if defined(__x86_64__)
LEVEL(avx2, &ns_cpu_vec_avx2, ns_avx2, ns_avx2_sumsq)
LEVEL(avx512, &ns_cpu_vec_avx512, ns_avx512, ns_avx512_sumsq)
#endif

/* What needs no vectors of its own: every level from f32 on. */
static void f32_dropout(ns_exec *x, const ns_dropout_args *a)
{
    ns_cpu_dropout(x, a, ns_ref_dropout);
}
static void use_pool(ns_ops *o)
{
    o->embed_fwd = ns_cpu_embed_fwd;
    o->embed_bwd = ns_cpu_embed_bwd;
    o->dropout = f32_dropout;
    o->zero = ns_cpu_zero;
    o->attn_merge = ns_cpu_attn_merge;
    o->sum_rows = ns_cpu_sum_rows;
}

#if defined(__x86_64__)
/* ---- level amx: bf16 products on the tile unit ---- */
static void amx_head(ns_exec *x, const ns_head_args *a)
{
    ns_amx_head(x, a, &ns_cpu_vec_avx512);
}

static int64_t amx_work_bytes(const ns_exec *x, int64_t T, int64_t max_len, int64_t C, int64_t F, int64_t V,
                              int64_t n_heads, int64_t head_dim)
{
    int64_t q = n_heads * head_dim, wide = ns_cpu_max(ns_cpu_max(2 * F, 3 * q), C);
    int64_t amx = ns_amx_work(ns_threads_count(x->pool), T, wide, ns_cpu_max(ns_cpu_max(F, q), C), C, V);
    amx = ns_cpu_max(amx, ns_amx_attn_work(ns_threads_count(x->pool), T, max_len, head_dim));
    return ns_cpu_up(ns_cpu_max(amx, avx512_work(x, T, max_len, C, F, V, n_heads, head_dim)), 64);
}

static void use_amx(ns_ops *o)
{
    o->name = "cpu-amx";
    o->linear_fwd = ns_amx_linear_fwd;
    o->linear_dgrad = ns_amx_linear_dgrad;
    o->linear_wgrad = ns_amx_linear_wgrad;
    o->attn_fwd = ns_amx_attn_fwd;
    o->attn_bwd = ns_amx_attn_bwd;
    o->head = amx_head;
    o->prepare = ns_amx_prepare;
    o->prepare_bytes = ns_amx_prepare_bytes;
    o->work_bytes = amx_work_bytes;
}

#endif

static const char *const level_names[] = {"ref", "f32", "avx2", "avx512", "amx"};
enum { N_LEVELS = 5 };

#if defined(__x86_64__)
/* The kernel must have given this process the tile registers: one request serves all its threads. */
static int amx_available(void)
{
    enum { GET_XCOMP_SUPP = 0x1021, REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    unsigned a, b, c, d;
    unsigned long mask = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return 0; /* amx-bf16, amx-tile */
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return 0;                    /* avx512-bf16 */
    if (syscall(SYS_arch_prctl, GET_XCOMP_SUPP, &mask) || !(mask >> XTILEDATA & 1)) return 0;
    return syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) == 0;
}

/* Best level of this machine. */
static ns_cpu_level best_level(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? NS_CPU_AVX2 : NS_CPU_F32;
    return amx_available() ? NS_CPU_AMX : NS_CPU_AVX512;
}
#else
static ns_cpu_level best_level(void)
{
    return NS_CPU_F32;
}
#endif

ns_status ns_ops_cpu(ns_ops *out, const char *level, ns_error *err)
{
    const char *env = getenv("NS_ISA");
    if (!level || !*level || !strcmp(level, "auto")) level = env && *env ? env : "auto";
    int best = (int)best_level(), want = strcmp(level, "auto") ? -1 : best;
    for (int i = 0; i < N_LEVELS; i++)
        if (!strcmp(level, level_names[i])) want = i;
    NS_FAIL_IF(want < 0, NS_ERR_CONFIG, "CPU level '%s' is unknown: auto, ref, f32, avx2, avx512 or amx", level);
    NS_FAIL_IF(want > best, NS_ERR_UNSUPPORTED, "CPU level '%s' is not available on this machine: the best is %s",
               level, level_names[best]);
    *out = ns_ops_ref;
    out->name = "cpu-ref";
    out->fp8 = want < NS_CPU_F32; /* the reference arithmetic alone */
    if (want >= NS_CPU_F32) use_pool(out);
    if (want == NS_CPU_F32) {
        (void)ns_cpu_blas_name(); /* opens it now: loading touches the environment */
        use_f32(out);
    }
#if defined(__x86_64__)
    if (want == NS_CPU_AVX2) use_avx2(out);
    if (want >= NS_CPU_AVX512) use_avx512(out);
    if (want >= NS_CPU_AMX) use_amx(out);
#endif
    return NS_OK;
}
