/* Element access, warp and block reductions for all kernels. */
#ifndef NS_CUDA_COMMON_CUH
#define NS_CUDA_COMMON_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;

__device__ __forceinline__ float ld(const float *p, int64_t i) { return p[i]; }
__device__ __forceinline__ float ld(const bf16 *p, int64_t i) { return __bfloat162float(p[i]); }
__device__ __forceinline__ void st(float *p, int64_t i, float v) { p[i] = v; }
__device__ __forceinline__ void st(bf16 *p, int64_t i, float v) { p[i] = __float2bfloat16_rn(v); }

/* V consecutive elements as floats; V = 8 needs 16-byte (bf16) or 16-byte (f32) alignment. */
template <int V> __device__ __forceinline__ void load(float (&d)[V], const float *p)
{
    if (V == 8) {
        float4 a = ((const float4 *)p)[0], b = ((const float4 *)p)[1];
        d[0] = a.x, d[1 % V] = a.y, d[2 % V] = a.z, d[3 % V] = a.w;
        d[4 % V] = b.x, d[5 % V] = b.y, d[6 % V] = b.z, d[7 % V] = b.w;
    } else {
        d[0] = p[0];
    }
}
template <int V> __device__ __forceinline__ void load(float (&d)[V], const bf16 *p)
{
    if (V == 8) {
        uint4 u = *(const uint4 *)p;
        uint32_t w[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            d[(2 * i) % V] = __uint_as_float(w[i] << 16);
            d[(2 * i + 1) % V] = __uint_as_float(w[i] & 0xffff0000u);
        }
    } else {
        d[0] = __bfloat162float(p[0]);
    }
}
template <int V> __device__ __forceinline__ void store(float *p, const float (&d)[V])
{
    if (V == 8) {
        ((float4 *)p)[0] = make_float4(d[0], d[1 % V], d[2 % V], d[3 % V]);
        ((float4 *)p)[1] = make_float4(d[4 % V], d[5 % V], d[6 % V], d[7 % V]);
    } else {
        p[0] = d[0];
    }
}
template <int V> __device__ __forceinline__ void store(bf16 *p, const float (&d)[V])
{
    if (V == 8) {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            __nv_bfloat162 h = __floats2bfloat162_rn(d[(2 * i) % V], d[(2 * i + 1) % V]);
            w[i] = *(uint32_t *)&h;
        }
        *(uint4 *)p = make_uint4(w[0], w[1], w[2], w[3]);
    } else {
        p[0] = __float2bfloat16_rn(d[0]);
    }
}

template <class T> __device__ __forceinline__ T warp_sum(T v)
{
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}
/* Sum over the block, the same value and order in every thread. blockDim.x a multiple of 32, at most 1024. */
template <class T> __device__ __forceinline__ T block_sum(T v)
{
    __shared__ T part[32];
    int lane = threadIdx.x & 31, w = threadIdx.x >> 5, n = blockDim.x >> 5;
    v = warp_sum(v);
    __syncthreads(); /* an earlier call may still be read */
    if (lane == 0) part[w] = v;
    __syncthreads();
    v = part[0];
    for (int i = 1; i < n; i++) v += part[i];
    return v;
}

/* Philox 4x32-10 (base/rng.h) in place of its counter. */
__device__ __forceinline__ void philox(uint32_t (&c)[4], uint32_t k0, uint32_t k1)
{
#pragma unroll
    for (int r = 0; r < 10; r++) {
        uint32_t h0 = __umulhi(0xD2511F53u, c[0]), l0 = 0xD2511F53u * c[0];
        uint32_t h1 = __umulhi(0xCD9E8D57u, c[2]), l1 = 0xCD9E8D57u * c[2];
        c[0] = h1 ^ c[1] ^ k0;
        c[1] = l1;
        c[2] = h0 ^ c[3] ^ k1;
        c[3] = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}
__device__ __forceinline__ float unit(uint32_t u) { return (float)(u >> 8) * 0x1p-24f; } /* [0,1) */

static inline int aligned16(const void *p) { return ((uintptr_t)p & 15) == 0; }
static inline cudaStream_t cs(void *s) { return (cudaStream_t)s; }
static inline unsigned cdiv(int64_t a, int64_t b) { return (unsigned)((a + b - 1) / b); }

#endif
