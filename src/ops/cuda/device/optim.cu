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

/* ---- forms: W 0 f32, 1 bf16 and remainder, 2 bf16 alone; M, V: a moment is bf16 (1) or f32. bf16 alone is rounded stochastically ---- */
struct rounding { uint32_t k0, k1, step; };
/* ns_round_words: what is 0 for weights, 1 for m, 2 for v; e: element of the tensor, any of the 8 */
__device__ __forceinline__ void round_words(uint32_t (&w)[4], const rounding &r, uint32_t tensor, uint32_t what, int64_t e)
{
    int64_t g = e >> 3;
    w[0] = (uint32_t)g, w[1] = (uint32_t)(g >> 32) << 8 | what, w[2] = tensor, w[3] = r.step;
    philox(w, r.k0, r.k1);
}
__device__ __forceinline__ uint16_t round_random(float f, uint32_t r) /* ns_f32_to_bf16_random */
{
    uint32_t u = __float_as_uint(f), up = (u + r) >> 16;
    if ((u & 0x7f800000u) == 0x7f800000u) return (uint16_t)(u >> 16 | ((u & 0x007fffffu) ? 0x40u : 0u));
    return (uint16_t)((up & 0x7f80u) == 0x7f80u ? u >> 16 : up);
}
__device__ __forceinline__ float widen(uint16_t h) { return __uint_as_float((uint32_t)h << 16); }

template <int BF16> __device__ __forceinline__ float get_one(const void *p, int64_t i)
{
    return BF16 ? widen(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}
template <int BF16>
__device__ __forceinline__ void put_one(const rounding &r, const nsk_opt &o, void *p, int64_t i, float f, uint32_t what)
{
    if (!BF16) {
        ((float *)p)[i] = f;
        return;
    }
    uint32_t w[4], k = (uint32_t)(o.first + i) & 7;
    round_words(w, r, o.tensor, what, o.first + i);
    uint32_t word = k & 4 ? (k & 2 ? w[3] : w[2]) : (k & 2 ? w[1] : w[0]);
    ((uint16_t *)p)[i] = round_random(f, word >> (16 * (k & 1)) & 0xffffu);
}
template <int W, int M, int V>
__device__ __forceinline__ void adam_one(const adam &s, const rounding &r, const nsk_opt &o, int64_t i)
{
    float m = get_one<M>(o.m, i), v = get_one<V>(o.v, i), p;
    uint16_t hi;
    int16_t lo;
    p = W == 1 ? join_main(((const uint16_t *)o.w)[i], o.rem[i]) : get_one<W == 2>(o.w, i);
    p = update(s, p, o.grad[i], m, v);
    put_one<M>(r, o, o.m, i, m, 1);
    put_one<V>(r, o, o.v, i, v, 2);
    if (W == 1) {
        split_main(p, hi, lo);
        ((uint16_t *)o.w)[i] = hi, o.rem[i] = lo;
    } else {
        put_one<W == 2>(r, o, o.w, i, p, 0);
    }
}

/* 8 elements, 16-byte accesses; what is read once is not kept in the caches. */
template <int BF16> __device__ __forceinline__ void get_eight(float (&d)[8], const void *p, int64_t i)
{
    if (BF16) {
        uint4 u = __ldcs((const uint4 *)((const uint16_t *)p + i));
        uint32_t w[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
        for (int k = 0; k < 4; k++) d[2 * k] = __uint_as_float(w[k] << 16), d[2 * k + 1] = __uint_as_float(w[k] & 0xffff0000u);
    } else {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            float4 f = __ldcs((const float4 *)((const float *)p + i) + k);
            d[4 * k] = f.x, d[4 * k + 1] = f.y, d[4 * k + 2] = f.z, d[4 * k + 3] = f.w;
        }
    }
}
template <int BF16>
__device__ __forceinline__ void put_eight(const rounding &r, const nsk_opt &o, void *p, int64_t i, const float (&d)[8], uint32_t what)
{
    if (BF16) {
        uint32_t w[4];
        round_words(w, r, o.tensor, what, o.first + i);
#pragma unroll
        for (int k = 0; k < 4; k++)
            w[k] = round_random(d[2 * k], w[k] & 0xffffu) | (uint32_t)round_random(d[2 * k + 1], w[k] >> 16) << 16;
        __stcs((uint4 *)((uint16_t *)p + i), make_uint4(w[0], w[1], w[2], w[3]));
    } else {
#pragma unroll
        for (int k = 0; k < 2; k++)
            __stcs((float4 *)((float *)p + i) + k, make_float4(d[4 * k], d[4 * k + 1], d[4 * k + 2], d[4 * k + 3]));
    }
}
template <int W, int M, int V>
__device__ __forceinline__ void adam_eight(const adam &s, const rounding &r, const nsk_opt &o, int64_t i)
{
    float g[8], m[8], v[8], p[8];
    __align__(16) uint16_t hi[8];
    __align__(16) int16_t lo[8];
    get_eight<0>(g, o.grad, i);
    get_eight<M>(m, o.m, i);
    get_eight<V>(v, o.v, i);
    if (W == 1)
        *(uint4 *)hi = __ldcs((const uint4 *)((const uint16_t *)o.w + i)), *(uint4 *)lo = __ldcs((const uint4 *)(o.rem + i));
    else
        get_eight<W == 2>(p, o.w, i);
    int ok = s.c1 > 0x1p-40f && s.c2 > 0x1p-40f;
    float old_m[8], old_v[8], old_p[8];
#pragma unroll
    for (int k = 0; k < 8; k++) {
        if (W == 1) p[k] = join_main(hi[k], lo[k]);
        old_m[k] = m[k], old_v[k] = v[k], old_p[k] = p[k];
        p[k] = update_fast(s, p[k], g[k], m[k], v[k], ok);
    }
    if (!ok) /* rare: denormal moments and the like */
#pragma unroll
        for (int k = 0; k < 8; k++) {
            m[k] = old_m[k], v[k] = old_v[k];
            p[k] = update(s, old_p[k], g[k], m[k], v[k]);
        }
    put_eight<M>(r, o, o.m, i, m, 1);
    put_eight<V>(r, o, o.v, i, v, 2);
    if (W == 1) {
#pragma unroll
        for (int k = 0; k < 8; k++) split_main(p[k], hi[k], lo[k]);
        __stcs((uint4 *)((uint16_t *)o.w + i), *(uint4 *)hi), __stcs((uint4 *)(o.rem + i), *(uint4 *)lo);
    } else {
        put_eight<W == 2>(r, o, o.w, i, p, 0);
    }
}

template <int W, int M, int V>
__global__ void __launch_bounds__(256)
    adamw(const adam *scalars, uint32_t k0, uint32_t k1, const int64_t *t, const nsk_opt *items, int n_items, int64_t n_chunks)
{
    adam s = *scalars;
    const rounding r = {k0, k1, (uint32_t)*t};
    int at = 0;
    float wd = s.wd;
    if (s.skip) return;
    for (int64_t chunk = blockIdx.x; chunk < n_chunks; chunk += gridDim.x) {
        const nsk_opt o = item_of(items, n_items, chunk, at);
        int64_t from = (chunk - o.first_chunk) * CHUNK, n = o.n - from < CHUNK ? o.n - from : CHUNK;
        s.wd = o.decay ? wd : 0.0f;
        if (o.aligned && n == CHUNK)
            for (int k = 0; k < CHUNK / 2048; k++) adam_eight<W, M, V>(s, r, o, from + (k * 256 + (int)threadIdx.x) * 8);
        else
            for (int64_t i = threadIdx.x; i < n; i += 256) adam_one<W, M, V>(s, r, o, from + i);
    }
}

extern "C" void nsk_adamw(nsk_stream s, const nsk_opt_form *f, const nsk_adamw_scalars *sc, const nsk_opt *items, int n_items,
                          int64_t n_chunks)
{
    if (n_chunks <= 0) return;
    adam *scalars = (adam *)((char *)items + (n_items * (int64_t)sizeof(nsk_opt) + 255) / 256 * 256);
    adam_scalars<<<1, 1, 0, cs(s)>>>(*sc, scalars);
    const unsigned blocks = n_chunks < ADAM_BLOCKS ? (unsigned)n_chunks : ADAM_BLOCKS;
#define RUN(w, m, v)                                                                                                             \
    case (w) * 4 + (m) * 2 + (v): adamw<w, m, v><<<blocks, 256, 0, cs(s)>>>(scalars, f->k0, f->k1, sc->t, items, n_items, n_chunks); break
    switch ((f->bf16 ? 1 + (f->no_rem != 0) : 0) * 4 + (f->m_bf16 != 0) * 2 + (f->v_bf16 != 0)) {
        RUN(0, 0, 0);
        RUN(0, 0, 1);
        RUN(0, 1, 0);
        RUN(0, 1, 1);
        RUN(1, 0, 0);
        RUN(1, 0, 1);
        RUN(1, 1, 0);
        RUN(1, 1, 1);
        RUN(2, 0, 0);
        RUN(2, 0, 1);
        RUN(2, 1, 0);
        RUN(2, 1, 1);
    }
#undef RUN
}

/* Error code of the first thing that fails when the library holds no machine code for the present device. */
extern "C" int nsk_probe(void)
{
    cudaFuncAttributes a;
    return (int)cudaFuncGetAttributes(&a, clip_kernel);
}
