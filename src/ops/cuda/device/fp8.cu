/* Casts to fp8 with one power-of-two scale a tensor (tensor/fp8.h says what they mean; the bits are the reference's): the
 * largest magnitude in one pass, then a tile at a time in registers: scaled, rounded, written as it lies and, through shared
 * memory, transposed. Tensor cores of sm_89 and sm_90 read fp8 factors only with the summed dimension contiguous, so that most
 * tensors are wanted both ways. The maximum is taken on bits by atomics: the order does not matter. */
#include <cuda_fp8.h>

#include "common.cuh"
#include "kernels.h"

enum { TILE = 128, BYTES = 2 }; /* kinds of cast: NSK_E4M3, NSK_E5M2, and bytes that are fp8 already */

__global__ void __launch_bounds__(256) fp8_amax(int64_t n8, const uint4 *x, nsk_fp8_head *head)
{
    __shared__ uint32_t part[8];
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, step = (int64_t)gridDim.x * blockDim.x;
    uint32_t top = 0; /* two bf16 magnitudes */
    for (; i + 3 * step < n8; i += 4 * step) {
        uint4 u[4];
#pragma unroll
        for (int k = 0; k < 4; k++) u[k] = x[i + k * step];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            top = __vmaxu2(__vmaxu2(top, u[k].x & 0x7fff7fffu), u[k].y & 0x7fff7fffu);
            top = __vmaxu2(__vmaxu2(top, u[k].z & 0x7fff7fffu), u[k].w & 0x7fff7fffu);
        }
    }
    for (; i < n8; i += step) {
        uint4 u = x[i];
        top = __vmaxu2(__vmaxu2(top, u.x & 0x7fff7fffu), u.y & 0x7fff7fffu);
        top = __vmaxu2(__vmaxu2(top, u.z & 0x7fff7fffu), u.w & 0x7fff7fffu);
    }
    top = max(top & 0xffffu, top >> 16);
    top = __reduce_max_sync(0xffffffffu, top);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = top;
    __syncthreads();
    if (threadIdx.x) return;
    for (int w = 1; w < 8; w++) top = max(top, part[w]);
    atomicMax(&head->amax, top << 16); /* as f32 */
}

/* ns_fp8_scale, on bits: largest values are 1.75 * 2^8 and 1.75 * 2^15. */
__device__ __forceinline__ float scale_of(uint32_t amax, int kind, float *inverse)
{
    *inverse = amax < 0x7f800000u ? 1.0f : __int_as_float(0x7fffffff);
    if (amax == 0 || amax >= 0x7f800000u) return 1;
    if (amax < 0x00800000u) { /* subnormal */
        *inverse = __int_as_float(1 << 23);
        return __int_as_float(253 << 23);
    }
    int k = (kind == NSK_E4M3 ? 8 : 15) - ((int)(amax >> 23) - 127) - ((amax & 0x7fffffu) > 0x600000u);
    k = min(k, 126);
    *inverse = __int_as_float((127 - k) << 23);
    return __int_as_float((127 + k) << 23);
}

template <int KIND> __device__ __forceinline__ uint2 eight(const void *x, int64_t at, float scale)
{
    if (KIND == BYTES) return *(const uint2 *)((const uint8_t *)x + at);
    const __nv_fp8_interpretation_t type = KIND == NSK_E4M3 ? __NV_E4M3 : __NV_E5M2;
    float f[8];
    uint32_t w[4];
    load<8>(f, (const bf16 *)x + at);
#pragma unroll
    for (int i = 0; i < 4; i++)
        w[i] = __nv_cvt_float2_to_fp8x2(make_float2(f[2 * i] * scale, f[2 * i + 1] * scale), __NV_SATFINITE, type);
    return make_uint2(w[0] | w[1] << 16, w[2] | w[3] << 16);
}

/* Rows of four times four bytes to columns: out[j] = byte j of a, b, c, d. */
__device__ __forceinline__ void turn(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t *out)
{
    uint32_t p = __byte_perm(a, b, 0x5140), q = __byte_perm(c, d, 0x5140);
    uint32_t r = __byte_perm(a, b, 0x7362), s = __byte_perm(c, d, 0x7362);
    out[0] = __byte_perm(p, q, 0x5410), out[1] = __byte_perm(p, q, 0x7632);
    out[2] = __byte_perm(r, s, 0x5410), out[3] = __byte_perm(r, s, 0x7632);
}

/* x [M,K] -> row [M,K], trans [K,stride] with zeros behind M. K a multiple of 8. A word of the tile in shared memory is four
 * rows of a column; words are placed so that neither side has bank conflicts. */
template <int KIND, bool ROW, bool TRANS>
__global__ void __launch_bounds__(256) fp8_cast(int M, int K, int stride, const void *x, nsk_fp8_head *head, uint8_t *row,
                                                uint8_t *trans)
{
    __shared__ uint32_t tile[TRANS ? TILE * TILE / 4 : 1];
    int k0 = blockIdx.x * TILE, m0 = blockIdx.y * TILE, c8 = threadIdx.x & 15, k = k0 + c8 * 8;
    float scale = 1, inverse;
    if (KIND != BYTES) {
        scale = scale_of(head->amax, KIND, &inverse);
        if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) head->inverse = inverse;
    }
    uint2 v[2][4];
#pragma unroll
    for (int g = 0; g < 2; g++)
#pragma unroll
        for (int r = 0; r < 4; r++) {
            int m = m0 + ((threadIdx.x >> 4) + 16 * g) * 4 + r;
            v[g][r] = m < M && k < K ? eight<KIND>(x, (int64_t)m * K + k, scale) : make_uint2(0, 0);
        }
#pragma unroll
    for (int g = 0; g < 2; g++) {
        int group = (threadIdx.x >> 4) + 16 * g;
#pragma unroll
        for (int r = 0; r < 4; r++)
            if (ROW && m0 + group * 4 + r < M && k < K) *(uint2 *)(row + (int64_t)(m0 + group * 4 + r) * K + k) = v[g][r];
        if (!TRANS) continue;
        uint32_t w[8];
        turn(v[g][0].x, v[g][1].x, v[g][2].x, v[g][3].x, w);
        turn(v[g][0].y, v[g][1].y, v[g][2].y, v[g][3].y, w + 4);
#pragma unroll
        for (int j = 0; j < 8; j++) tile[((c8 * 8 + j) * 32 + (group ^ (c8 * 2))) % (TRANS ? TILE * TILE / 4 : 1)] = w[j];
    }
    if (!TRANS) return;
    __syncthreads();
    int lane = threadIdx.x & 31, m = m0 + lane * 4;
#pragma unroll 4
    for (int j = threadIdx.x >> 5; j < TILE; j += 8)
        if (k0 + j < K && m < stride)
            *(uint32_t *)(trans + (int64_t)(k0 + j) * stride + m) =
                tile[(j * 32 + (lane ^ (j >> 3) * 2)) % (TRANS ? TILE * TILE / 4 : 1)];
}

extern "C" void nsk_fp8_amax(nsk_stream s, int64_t n, const void *x, nsk_fp8_head *head)
{
    (void)cudaMemsetAsync(head, 0, sizeof *head, cs(s));
    int64_t blocks = (n / 8 + 1023) / 1024;
    fp8_amax<<<(unsigned)(blocks < 1 ? 1 : blocks > 1056 ? 1056 : blocks), 256, 0, cs(s)>>>(n / 8, (const uint4 *)x, head);
}

template <int KIND>
static void cast(nsk_stream s, int64_t M, int64_t K, const void *x, nsk_fp8_head *head, void *row, void *trans)
{
    dim3 grid(cdiv(K, TILE), cdiv(M, TILE));
    int stride = (int)((M + 15) / 16 * 16);
    uint8_t *r = (uint8_t *)row, *t = (uint8_t *)trans;
    if (row && trans)
        fp8_cast<KIND, true, true><<<grid, 256, 0, cs(s)>>>((int)M, (int)K, stride, x, head, r, t);
    else if (row)
        fp8_cast<KIND, true, false><<<grid, 256, 0, cs(s)>>>((int)M, (int)K, stride, x, head, r, t);
    else
        fp8_cast<KIND, false, true><<<grid, 256, 0, cs(s)>>>((int)M, (int)K, stride, x, head, r, t);
}
extern "C" void nsk_fp8_cast(nsk_stream s, int kind, int64_t M, int64_t K, const void *x, nsk_fp8_head *head, void *row,
                             void *trans)
{
    if (kind == NSK_E4M3)
        cast<NSK_E4M3>(s, M, K, x, head, row, trans);
    else
        cast<NSK_E5M2>(s, M, K, x, head, row, trans);
}
extern "C" void nsk_fp8_transpose(nsk_stream s, int64_t M, int64_t K, const void *x, void *trans)
{
    cast<BYTES>(s, M, K, x, NULL, NULL, trans);
}
