/* Gradient norm, clipping, AdamW: scalars come from ns_step in device memory, nothing goes to the host. The update has one
 * rounded operation per line of the formula (no fused multiply-add), so that it gives the bits of the CPU back-ends. */
#include "common.cuh"

enum { SUM_BLOCKS = 512 };
__global__ void sumsq(int64_t n, const float *g, double *part)
{
    double s = 0;
    int64_t step = (int64_t)gridDim.x * blockDim.x, i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (((uintptr_t)g & 15) == 0) {
        const float4 *q = (const float4 *)g;
        for (int64_t k = i; k < n / 4; k += step) {
            float4 a = q[k];
            s += (double)a.x * a.x + (double)a.y * a.y + (double)a.z * a.z + (double)a.w * a.w;
        }
        i += n / 4 * 4;
    }
    for (; i < n; i += step) s += (double)g[i] * g[i];
    s = block_sum(s);
    if (threadIdx.x == 0) part[blockIdx.x] = s;
}
__global__ void sumsq_join(int n, const double *part, double *sum, int first)
{
    double s = (int)threadIdx.x < n ? part[threadIdx.x] : 0;
    s = block_sum(s);
    if (threadIdx.x == 0) *sum = first ? s : *sum + s;
}
__global__ void sumsq_end(const double *sum, int32_t *nonfinite) { *nonfinite = !isfinite(*sum); }
__global__ void clip_kernel(const double *sumsq, const float *clip, float *coef)
{
    double c = *clip > 0 ? (double)*clip / (sqrt(*sumsq) + 1e-6) : 1.0;
    *coef = c < 1 ? (float)c : 1.0f;
}

extern "C" int64_t nsk_sumsq_work(void) { return SUM_BLOCKS * 8; }
extern "C" void nsk_sumsq(nsk_stream s, int64_t n, const float *g, double *sum, int first, double *work)
{
    unsigned blocks = cdiv(n > 0 ? n : 1, 4096);
    if (blocks > SUM_BLOCKS) blocks = SUM_BLOCKS;
    sumsq<<<blocks, 512, 0, cs(s)>>>(n, g, work);
    sumsq_join<<<1, SUM_BLOCKS, 0, cs(s)>>>((int)blocks, work, sum, first);
}
extern "C" void nsk_sumsq_end(nsk_stream s, const double *sum, int32_t *nonfinite) { sumsq_end<<<1, 1, 0, cs(s)>>>(sum, nonfinite); }
extern "C" void nsk_clip(nsk_stream s, const double *q, const float *clip, float *coef) { clip_kernel<<<1, 1, 0, cs(s)>>>(q, clip, coef); }

struct adam { float lr, b1, b2, a1, a2, c1, c2, eps, wd, coef; };
__device__ __forceinline__ float update(const adam &s, float p, float g, float &m, float &v)
{
    g = __fmul_rn(g, s.coef);
    m = __fadd_rn(__fmul_rn(s.b1, m), __fmul_rn(s.a1, g));
    v = __fadd_rn(__fmul_rn(s.b2, v), __fmul_rn(s.a2, __fmul_rn(g, g)));
    float u = __fadd_rn(__fdiv_rn(__fdiv_rn(m, s.c1), __fadd_rn(__fsqrt_rn(__fdiv_rn(v, s.c2)), s.eps)), __fmul_rn(s.wd, p));
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

/* V = 4 elements a thread when aligned, else 1. */
template <int BF16, int V>
__global__ void adamw(nsk_adamw_scalars sc, int64_t n, void *w, int16_t *rem, const float *g, float *m, float *v, int decay)
{
    __shared__ adam sh;
    if (*sc.nonfinite) return;
    if (threadIdx.x == 0) {
        double b1 = *sc.beta1, b2 = *sc.beta2, t = (double)*sc.t;
        sh.lr = *sc.lr, sh.b1 = *sc.beta1, sh.b2 = *sc.beta2, sh.a1 = 1.0f - sh.b1, sh.a2 = 1.0f - sh.b2;
        sh.c1 = (float)(1.0 - pow(b1, t)), sh.c2 = (float)(1.0 - pow(b2, t));
        sh.eps = *sc.eps, sh.wd = decay ? *sc.weight_decay : 0.0f, sh.coef = *sc.clip_coef;
    }
    __syncthreads();
    adam s = sh;
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; k < n / V; k += step) {
        int64_t i = k * V;
        __align__(16) float gg[V], mm[V], vv[V], p[V];
        __align__(8) uint16_t hi[V];
        __align__(8) int16_t lo[V];
        if (V == 4) {
            *(float4 *)gg = *(const float4 *)(g + i);
            *(float4 *)mm = *(const float4 *)(m + i);
            *(float4 *)vv = *(const float4 *)(v + i);
            if (BF16) {
                *(uint2 *)hi = *(const uint2 *)((const uint16_t *)w + i);
                *(uint2 *)lo = *(const uint2 *)(rem + i);
            } else {
                *(float4 *)p = *(const float4 *)((const float *)w + i);
            }
        } else {
            gg[0] = g[i], mm[0] = m[i], vv[0] = v[i];
            if (BF16)
                hi[0] = ((const uint16_t *)w)[i], lo[0] = rem[i];
            else
                p[0] = ((const float *)w)[i];
        }
#pragma unroll
        for (int j = 0; j < V; j++) {
            if (BF16) p[j] = join_main(hi[j], lo[j]);
            p[j] = update(s, p[j], gg[j], mm[j], vv[j]);
            if (BF16) split_main(p[j], hi[j], lo[j]);
        }
        if (V == 4) {
            *(float4 *)(m + i) = *(float4 *)mm;
            *(float4 *)(v + i) = *(float4 *)vv;
            if (BF16) {
                *(uint2 *)((uint16_t *)w + i) = *(uint2 *)hi;
                *(uint2 *)(rem + i) = *(uint2 *)lo;
            } else {
                *(float4 *)((float *)w + i) = *(float4 *)p;
            }
        } else {
            m[i] = mm[0], v[i] = vv[0];
            if (BF16)
                ((uint16_t *)w)[i] = hi[0], rem[i] = lo[0];
            else
                ((float *)w)[i] = p[0];
        }
    }
}

extern "C" void nsk_adamw(nsk_stream s, const nsk_adamw_scalars *sc, int64_t n, int b, void *w, int16_t *rem, const float *g,
                          float *m, float *v, int decay)
{
    if (n <= 0) return;
    int vec = n % 4 == 0 && aligned16(w) && aligned16(rem) && aligned16(g) && aligned16(m) && aligned16(v);
    unsigned blocks = cdiv(vec ? n / 4 : n, 256);
    if (blocks > 132 * 16) blocks = 132 * 16;
    if (b && vec)
        adamw<1, 4><<<blocks, 256, 0, cs(s)>>>(*sc, n, w, rem, g, m, v, decay);
    else if (b)
        adamw<1, 1><<<blocks, 256, 0, cs(s)>>>(*sc, n, w, rem, g, m, v, decay);
    else if (vec)
        adamw<0, 4><<<blocks, 256, 0, cs(s)>>>(*sc, n, w, rem, g, m, v, decay);
    else
        adamw<0, 1><<<blocks, 256, 0, cs(s)>>>(*sc, n, w, rem, g, m, v, decay);
}

/* Error code of the first thing that fails when the library holds no machine code for the present device. */
extern "C" int nsk_probe(void)
{
    cudaFuncAttributes a;
    return (int)cudaFuncGetAttributes(&a, clip_kernel);
}
