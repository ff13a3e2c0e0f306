/* Attention over keys that come in parts (context parallel as a ring): parts joined by their log-sum-exp, gradients added in f32.
 * A block a row; every element has one thread and one order of additions. */
#include "common.cuh"
#include "kernels.h"

/* exp(lse - new) and exp(part - new) of each head of the row, in shared memory; lse becomes new. No key on either side: both 0. */
__device__ void join_weights(int T, int nh, int t, float *lse, const float *part_lse, float *keep, float *take)
{
    for (int h = threadIdx.x; h < nh; h += blockDim.x) {
        float a = lse[(int64_t)h * T + t], b = part_lse[(int64_t)h * T + t], top = fmaxf(a, b);
        double sum = top == -INFINITY ? 0 : exp((double)a - (double)top) + exp((double)b - (double)top);
        double both = top == -INFINITY ? -INFINITY : (double)top + log(sum);
        keep[h] = top == -INFINITY ? 0.0f : (float)exp((double)a - both);
        take[h] = top == -INFINITY ? 0.0f : (float)exp((double)b - both);
        lse[(int64_t)h * T + t] = (float)both;
    }
    __syncthreads();
}

template <class E, int V>
__global__ void attn_merge(int T, int nh, int hd, int n_seg, const int32_t *cu, const E *part, const float *part_lse, float *acc,
                           float *lse, int assign, E *out)
{
    extern __shared__ float weights[];
    float *keep = weights, *take = weights + nh;
    int t = blockIdx.x, wide = nh * hd, seen = !assign && n_seg > 0 && t >= cu[0] && t < cu[n_seg];
    if (seen) join_weights(T, nh, t, lse, part_lse, keep, take);
    for (int c = threadIdx.x * V; c < wide; c += blockDim.x * V) {
        int64_t at = (int64_t)t * wide + c;
        float a[V], p[V];
        if (assign) {
            load<V>(a, part + at);
        } else {
            load<V>(a, acc + at);
            if (seen) {
                load<V>(p, part + at);
#pragma unroll
                for (int i = 0; i < V; i++) {
                    int h = (c + i) / hd;
                    a[i] = (keep[h] > 0 ? a[i] * keep[h] : 0.0f) + (take[h] > 0 ? p[i] * take[h] : 0.0f);
                }
            }
        }
        if (assign || seen) store<V>(acc + at, a);
        if (out) store<V>(out + at, a);
    }
}

template <class E, int V>
__global__ void sum_rows(int cols, int assign, const E *src, int64_t stride, const float *more, float *acc, E *out, int64_t out_stride,
                         const int32_t *row)
{
    int64_t t = blockIdx.x, to = row ? row[t] : t;
    for (int c = threadIdx.x * V; c < cols; c += blockDim.x * V) {
        float sum[V], x[V];
        int64_t at = t * cols + c;
#pragma unroll
        for (int i = 0; i < V; i++) sum[i] = 0;
        if (!assign) load<V>(sum, acc + at);
        if (src) {
            load<V>(x, src + t * stride + c);
#pragma unroll
            for (int i = 0; i < V; i++) sum[i] += x[i];
        }
        if (more) {
            load<V>(x, more + at);
#pragma unroll
            for (int i = 0; i < V; i++) sum[i] += x[i];
        }
        store<V>(acc + at, sum);
        if (out && to >= 0) store<V>(out + to * out_stride + c, sum);
    }
}

static int whole(const void *p, int64_t stride) /* 8 elements at a time */
{
    return aligned16(p) && stride % 8 == 0;
}

extern "C" void nsk_attn_merge(nsk_stream s, int b, int64_t T, int64_t nh, int64_t hd, int64_t n_seg, const int32_t *cu,
                               const void *part, const float *part_lse, float *acc, float *lse, int assign, void *out)
{
    if (T <= 0) return;
    size_t shared = (size_t)nh * 8;
#define MERGE(E, V) attn_merge<E, V><<<(unsigned)T, 128, shared, cs(s)>>>((int)T, (int)nh, (int)hd, (int)n_seg, cu, (const E *)part, part_lse, acc, lse, assign, (E *)out)
    if (whole(part, hd) && aligned16(acc) && aligned16(out)) {
        if (b)
            MERGE(bf16, 8);
        else
            MERGE(float, 8);
    } else if (b)
        MERGE(bf16, 1);
    else
        MERGE(float, 1);
}

extern "C" void nsk_sum_rows(nsk_stream s, int b, int64_t T, int64_t cols, int assign, const void *src, int64_t stride,
                             const float *more, float *acc, void *out, int64_t out_stride, const int32_t *row)
{
    if (T <= 0) return;
#define SUM(E, V) sum_rows<E, V><<<(unsigned)T, 128, 0, cs(s)>>>((int)cols, assign, (const E *)src, stride, more, acc, (E *)out, out_stride, row)
    if (cols % 8 == 0 && whole(src, stride) && aligned16(more) && aligned16(acc) && whole(out, out ? out_stride : 0)) {
        if (b)
            SUM(bf16, 8);
        else
            SUM(float, 8);
    } else if (b)
        SUM(bf16, 1);
    else
        SUM(float, 1);
}
