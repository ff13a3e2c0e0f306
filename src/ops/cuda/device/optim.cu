/* Gradient norm, clipping, AdamW: scalars come from ns_step in device memory, nothing goes to the host. The update has one
 * rounded operation per line of the formula (no fused multiply-add), so that it gives the bits of the CPU back-ends. */
#include "common.cuh"
#include "kernels.h"

/* All items in one launch: chunks of CHUNK elements, dealt to blocks in turn. nsk_opt tables lie in device memory. */
enum { SUM_BLOCKS = 1056, CHUNK = 4096, ADAM_BLOCKS = 1056 };
extern "C" int64_t nsk_opt_chunks(int64_t n) { return (n + CHUNK - 1) / CHUNK; }
/* Item of a chunk; chunks of a block grow, so the search goes on from the last one. */
__device__ __forceinline__ const nsk_opt &item_of(const nsk_opt *items, int n_items, int64_t chunk, int &at)
{
    while (at + 1 < n_items && items[at + 1].first_chunk <= chunk) at++;
    return items[at];
}
__global__ void __launch_bounds__(256) sumsq(const nsk_opt *items, int n_items, int64_t n_chunks, double *part)
{
    double s = 0;
    int at = 0;
    for (int64_t chunk = blockIdx.x; chunk < n_chunks; chunk += gridDim.x) {
        const nsk_opt &o = item_of(items, n_items, chunk, at);
        int64_t from = (chunk - o.first_chunk) * CHUNK, n = o.n - from < CHUNK ? o.n - from : CHUNK;
        const float *g = o.grad + from;
        if (n == CHUNK && ((uintptr_t)g & 15) == 0) {
            float4 a[CHUNK / 1024];
#pragma unroll
            for (int k = 0; k < CHUNK / 1024; k++) a[k] = ((const float4 *)g)[k * 256 + threadIdx.x];
#pragma unroll
            for (int k = 0; k < CHUNK / 1024; k++)
                s += (double)a[k].x * a[k].x + (double)a[k].y * a[k].y + (double)a[k].z * a[k].z + (double)a[k].w * a[k].w;
        } else {
            for (int i = threadIdx.x; i < n; i += 256) s += (double)g[i] * g[i];
        }
    }
    s = block_sum(s);
    if (threadIdx.x == 0) part[blockIdx.x] = s;
}
__global__ void sumsq_join(int n, const double *part, double *sum)
{
    double s = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) s += part[i];
    s = block_sum(s);
    if (threadIdx.x == 0) *sum = s;
}
__global__ void sumsq_end(const double *sum, int32_t *nonfinite) { *nonfinite = !isfinite(*sum); }
__global__ void clip_kernel(const double *sumsq, const float *clip, float *coef)
{
    double c = *clip > 0 ? (double)*clip / (sqrt(*sumsq) + 1e-6) : 1.0;
    *coef = c < 1 ? (float)c : 1.0f;
}

extern "C" int64_t nsk_opt_work(int64_t n_items) { return (n_items * (int64_t)sizeof(nsk_opt) + 255) / 256 * 256 + SUM_BLOCKS * 8 + 256; }
extern "C" void nsk_sumsq(nsk_stream s, const nsk_opt *items, int n_items, int64_t n_chunks, double *sum)
{
    double *part = (double *)((char *)items + (n_items * (int64_t)sizeof(nsk_opt) + 255) / 256 * 256);
    unsigned blocks = n_chunks < SUM_BLOCKS ? (unsigned)n_chunks : SUM_BLOCKS;
    if (blocks) sumsq<<<blocks, 256, 0, cs(s)>>>(items, n_items, n_chunks, part);
    sumsq_join<<<1, 256, 0, cs(s)>>>((int)blocks, part, sum);
}
extern "C" void nsk_sumsq_end(nsk_stream s, const double *sum, int32_t *nonfinite) { sumsq_end<<<1, 1, 0, cs(s)>>>(sum, nonfinite); }
extern "C" void nsk_clip(nsk_stream s, const double *q, const float *clip, float *coef) { clip_kernel<<<1, 1, 0, cs(s)>>>(q, clip, coef); }

struct adam { float lr, b1, b2, a1, a2, c1, c2, eps, wd, coef, r1, r2; int skip; }; /* r1, r2: 1/c1, 1/c2 */
__device__ __forceinline__ float update(const adam &s, float p, float g, float &m, float &v)
{
    g = __fmul_rn(g, s.coef);
    m = __fadd_rn(__fmul_rn(s.b1, m), __fmul_rn(s.a1, g));
    v = __fadd_rn(__fmul_rn(s.b2, v), __fmul_rn(s.a2, __fmul_rn(g, g)));
    float u = __fadd_rn(__fdiv_rn(__fdiv_rn(m, s.c1), __fadd_rn(__fsqrt_rn(__fdiv_rn(v, s.c2)), s.eps)), __fmul_rn(s.wd, p));
    return __fsub_rn(p, __fmul_rn(s.lr, u));
}
/* Division and square root, correctly rounded as __fdiv_rn and __fsqrt_rn are, without their branches, for operands that are 0
 * or far from the ends of the exponent range (Markstein's steps: the remainder of an almost right quotient is exact). */
__device__ __forceinline__ float div_by(float a, float b, float r) /* r: 1/b to the last bit or so */
{
    float q = a * r;
    q = fmaf(fmaf(-b, q, a), r, q);
    return fmaf(fmaf(-b, q, a), r, q);
}
__device__ __forceinline__ float div_safe(float a, float b)
{
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
    r = fmaf(fmaf(-b, r, 1.0f), r, r);
    return div_by(a, b, r);
}
__device__ __forceinline__ float sqrt_safe(float x)
{
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    float s = x * y, h = 0.5f * y, e = fmaf(-h, s, 0.5f);
    s = fmaf(s, e, s);
    h = fmaf(h, e, h);
    s = fmaf(fmaf(-s, s, x), h, s);
    return x == 0 ? 0.0f : s;
}
__device__ __forceinline__ int in_range(float x) { return x == 0 || (fabsf(x) > 0x1p-80f && fabsf(x) < 0x1p80f); }
/* As update; *ok is cleared where its short cuts may not be taken. */
__device__ __forceinline__ float update_fast(const adam &s, float p, float g, float &m, float &v, int &ok)
{
    g = __fmul_rn(g, s.coef);
    m = __fadd_rn(__fmul_rn(s.b1, m), __fmul_rn(s.a1, g));
    v = __fadd_rn(__fmul_rn(s.b2, v), __fmul_rn(s.a2, __fmul_rn(g, g)));
    float root = __fadd_rn(sqrt_safe(div_by(v, s.c2, s.r2)), s.eps);
    ok &= in_range(m) && in_range(v) && root > 0x1p-40f && root < 0x1p40f;
    float u = __fadd_rn(div_safe(div_by(m, s.c1, s.r1), root), __fmul_rn(s.wd, p));
    return __fsub_rn(p, __fmul_rn(s.lr, u));
}
__device__ __forceinline__ float join_main(uint16_t hi, int16_t lo)
{
    return __uint_as_float(((uint32_t)hi << 16) + (uint32_t)(int32_t)lo);
}
__device__ __forceinline__ void split_main(float f, uint16_t &hi, int16_t &lo)
{
    uint32_t u = __float_as_uint(f);
    lo = (int16_t)(uint16_t)(u & 0xffffu);
    hi = (uint16_t)((u - (uint32_t)(int32_t)lo) >> 16);
}

__global__ void adam_scalars(nsk_adamw_scalars sc, adam *s)
{
    double b1 = *sc.beta1, b2 = *sc.beta2, t = (double)*sc.t;
    s->lr = *sc.lr, s->b1 = *sc.beta1, s->b2 = *sc.beta2, s->a1 = 1.0f - s->b1, s->a2 = 1.0f - s->b2;
    s->c1 = (float)(1.0 - pow(b1, t)), s->c2 = (float)(1.0 - pow(b2, t));
    s->r1 = 1.0f / s->c1, s->r2 = 1.0f / s->c2;
    s->eps = *sc.eps, s->wd = *sc.weight_decay, s->coef = *sc.clip_coef, s->skip = *sc.nonfinite;
}

template <int BF16> __device__ __forceinline__ void adam_one(const adam &s, const nsk_opt &o, int64_t i)
{
    float m = o.m[i], v = o.v[i], p;
    uint16_t hi;
    int16_t lo;
    if (BF16)
        p = join_main(((const uint16_t *)o.w)[i], o.rem[i]);
    else
        p = ((const float *)o.w)[i];
    p = update(s, p, o.grad[i], m, v);
    o.m[i] = m, o.v[i] = v;
    if (BF16) {
        split_main(p, hi, lo);
        ((uint16_t *)o.w)[i] = hi, o.rem[i] = lo;
    } else {
        ((float *)o.w)[i] = p;
    }
}

/* 8 elements of one item, 16-byte accesses; what is read once is not kept in the caches. */
template <int BF16> __device__ __forceinline__ void adam_eight(const adam &s, const nsk_opt &o, int64_t i)
{
    __align__(16) float g[8], m[8], v[8], p[8];
    __align__(16) uint16_t hi[8];
    __align__(16) int16_t lo[8];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        ((float4 *)g)[k] = __ldcs((const float4 *)(o.grad + i) + k);
        ((float4 *)m)[k] = __ldcs((const float4 *)(o.m + i) + k);
        ((float4 *)v)[k] = __ldcs((const float4 *)(o.v + i) + k);
        if (!BF16) ((float4 *)p)[k] = __ldcs((const float4 *)((const float *)o.w + i) + k);
    }
    if (BF16) *(uint4 *)hi = __ldcs((const uint4 *)((const uint16_t *)o.w + i)), *(uint4 *)lo = __ldcs((const uint4 *)(o.rem + i));
    int ok = s.c1 > 0x1p-40f && s.c2 > 0x1p-40f;
    float old_m[8], old_v[8], old_p[8];
#pragma unroll
    for (int k = 0; k < 8; k++) {
        if (BF16) p[k] = join_main(hi[k], lo[k]);
        old_m[k] = m[k], old_v[k] = v[k], old_p[k] = p[k];
        p[k] = update_fast(s, p[k], g[k], m[k], v[k], ok);
    }
    if (!ok) /* rare: denormal moments and the like */
#pragma unroll
        for (int k = 0; k < 8; k++) {
            m[k] = old_m[k], v[k] = old_v[k];
            p[k] = update(s, old_p[k], g[k], m[k], v[k]);
        }
#pragma unroll
    for (int k = 0; k < 8; k++)
        if (BF16) split_main(p[k], hi[k], lo[k]);
#pragma unroll
    for (int k = 0; k < 2; k++) {
        __stcs((float4 *)(o.m + i) + k, ((float4 *)m)[k]);
        __stcs((float4 *)(o.v + i) + k, ((float4 *)v)[k]);
        if (!BF16) __stcs((float4 *)((float *)o.w + i) + k, ((float4 *)p)[k]);
    }
    if (BF16) __stcs((uint4 *)((uint16_t *)o.w + i), *(uint4 *)hi), __stcs((uint4 *)(o.rem + i), *(uint4 *)lo);
}

template <int BF16> __device__ __forceinline__ void adam_chunk(const adam &s, const nsk_opt &o, int64_t from)
{
    int64_t n = o.n - from < CHUNK ? o.n - from : CHUNK;
    if (o.aligned && n == CHUNK)
        for (int k = 0; k < CHUNK / 2048; k++) adam_eight<BF16>(s, o, from + (k * 256 + (int)threadIdx.x) * 8);
    else
        for (int64_t i = threadIdx.x; i < n; i += 256) adam_one<BF16>(s, o, from + i);
}
__global__ void __launch_bounds__(256) adamw(const adam *scalars, const nsk_opt *items, int n_items, int64_t n_chunks)
{
    adam s = *scalars;
    int at = 0;
    float wd = s.wd;
    if (s.skip) return;
    for (int64_t chunk = blockIdx.x; chunk < n_chunks; chunk += gridDim.x) {
        const nsk_opt o = item_of(items, n_items, chunk, at);
        s.wd = o.decay ? wd : 0.0f;
        if (o.bf16)
            adam_chunk<1>(s, o, (chunk - o.first_chunk) * CHUNK);
        else
            adam_chunk<0>(s, o, (chunk - o.first_chunk) * CHUNK);
    }
}

extern "C" void nsk_adamw(nsk_stream s, const nsk_adamw_scalars *sc, const nsk_opt *items, int n_items, int64_t n_chunks)
{
    if (n_chunks <= 0) return;
    adam *scalars = (adam *)((char *)items + (n_items * (int64_t)sizeof(nsk_opt) + 255) / 256 * 256);
    adam_scalars<<<1, 1, 0, cs(s)>>>(*sc, scalars);
    adamw<<<n_chunks < ADAM_BLOCKS ? (unsigned)n_chunks : ADAM_BLOCKS, 256, 0, cs(s)>>>(scalars, items, n_items, n_chunks);
}

/* Error code of the first thing that fails when the library holds no machine code for the present device. */
extern "C" int nsk_probe(void)
{
    cudaFuncAttributes a;
    return (int)cudaFuncGetAttributes(&a, clip_kernel);
}
