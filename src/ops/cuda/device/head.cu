/* Cross-entropy over a chunk of logits and its gradient in place. One block a token; a row of logits is read twice: once for
 * max and sum (one pass, running rescale), once to be replaced by d logits.
 *
 * A vocabulary split over ranks (v0: word of the first row here) comes twice: mode STATS leaves log-sum-exp and the label's logit in
 * stats[T,2] (-inf where the label is another rank's), mode GIVEN takes those of the whole vocabulary from there.
 *
 * In place with bf16: element v is read at byte 4v and written at byte 2v of the same row. Trip i reads [i*S, (i+1)*S) into
 * registers, meets the block, then writes; what it overwrites was read at trip i/2, before the meeting. */
#include "common.cuh"
#include "kernels.h"

struct run { float top, sum; };
__device__ __forceinline__ run join(run a, run b)
{
    float top = fmaxf(a.top, b.top);
    run r = {top, 0};
    /* -inf - -inf is NaN: an empty side adds nothing */
    r.sum = (a.sum == 0 ? 0 : a.sum * expf(a.top - top)) + (b.sum == 0 ? 0 : b.sum * expf(b.top - top));
    return r;
}

/* One thread, once a token: what the pass over a row of logits found, lse and the label's logit, to where the mode wants it. Returns
 * the log-sum-exp of the whole vocabulary. */
__device__ __forceinline__ float finish_token(int64_t t, float wt, double lse, float at_label, int mode, float *stats, float *logp,
                                              double *loss)
{
    if (mode == NSK_HEAD_STATS) {
        stats[2 * t] = (float)lse;
        stats[2 * t + 1] = at_label;
        return 0;
    }
    if (mode == NSK_HEAD_GIVEN) lse = (double)stats[2 * t], at_label = stats[2 * t + 1];
    double ce = lse - (double)at_label;
    loss[t] = (double)wt * ce;
    if (logp) logp[t] = (float)-ce;
    return (float)lse;
}

template <int BF16>
__global__ void head_chunk(int64_t V, int64_t ldl, float cap, float *logits, const int32_t *label, const float *weight,
                           const double *weight_sum, float *logp, double *loss, int with_grad, int mode, int64_t v0,
                           float *stats)
{
    __shared__ run part[32];
    __shared__ float shared_lse;
    int64_t t = blockIdx.x;
    float *z = logits + t * ldl, wt = weight[t];
    if (wt == 0) { /* no target: the label is not looked at */
        if (mode == NSK_HEAD_STATS) return;
        if (threadIdx.x == 0) {
            if (logp) logp[t] = 0;
            loss[t] = 0;
        }
        if (!with_grad) return;
        for (int64_t v = threadIdx.x; v < V; v += blockDim.x) {
            if (BF16)
                ((bf16 *)z)[v] = __float2bfloat16_rn(0.0f);
            else
                z[v] = 0;
        }
        return;
    }
    const int64_t lab = label[t] - v0;
    run r = {-INFINITY, 0};
    double exact = 0; /* f32 runs: a second, wider sum below */
    for (int64_t v = threadIdx.x; v < V && mode != NSK_HEAD_GIVEN; v += blockDim.x) {
        float x = z[v];
        if (cap > 0) x = cap * tanhf(x / cap);
        if (x > r.top) {
            r.sum = r.sum * expf(r.top - x) + 1;
            r.top = x;
        } else {
            r.sum += expf(x - r.top);
        }
    }
    for (int o = 16; o; o >>= 1) {
        run b = {__shfl_xor_sync(0xffffffffu, r.top, o), __shfl_xor_sync(0xffffffffu, r.sum, o)};
        r = (threadIdx.x & 31 & o) ? join(b, r) : join(r, b); /* the same order of operands on both sides */
    }
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = r;
    __syncthreads();
    r = part[0];
    for (int i = 1; i < (int)(blockDim.x >> 5); i++) r = join(r, part[i]);
    if (!BF16) { /* f32: the running sum of many terms is not good enough for its tolerance */
        for (int64_t v = threadIdx.x; v < V && mode != NSK_HEAD_GIVEN; v += blockDim.x) {
            float x = z[v];
            if (cap > 0) x = cap * tanhf(x / cap);
            exact += exp((double)x - (double)r.top);
        }
        exact = block_sum(exact);
    }
    if (threadIdx.x == 0) {
        double lse = (double)r.top + log(BF16 ? (double)r.sum : exact);
        float x = lab >= 0 && lab < V ? z[lab] : -INFINITY;
        if (cap > 0) x = cap * tanhf(x / cap);
        shared_lse = finish_token(t, wt, lse, x, mode, stats, logp, loss);
    }
    __syncthreads();
    if (!with_grad || mode == NSK_HEAD_STATS) return;
    float lse = shared_lse, scale = (float)((double)wt / *weight_sum);
    for (int64_t first = 0; first < V; first += blockDim.x) {
        int64_t v = first + threadIdx.x;
        float d = 0;
        if (v < V) {
            float x = z[v], slope = 1;
            if (cap > 0) {
                float th = tanhf(x / cap);
                x = cap * th;
                slope = 1 - th * th;
            }
            d = scale * (expf(x - lse) - (v == lab ? 1.0f : 0.0f)) * slope;
        }
        if (BF16) {
            __syncthreads();
            if (v < V) ((bf16 *)z)[v] = __float2bfloat16_rn(d);
        } else if (v < V) {
            z[v] = d;
        }
    }
}

/* The same for bf16 runs with rows of whole float4s: four logits a thread and trip, exponentials by ex2 (its error is far below
 * the rounding of what is written). */
__device__ __forceinline__ float fast_exp(float x) /* x <= 0 or so */
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
    return y;
}
__device__ __forceinline__ void capped4(float (&x)[4], float4 q, float cap)
{
    x[0] = q.x, x[1] = q.y, x[2] = q.z, x[3] = q.w;
    if (cap > 0)
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = cap * tanhf(x[i] / cap);
}
__global__ void __launch_bounds__(1024) head_chunk4(int64_t V, int64_t ldl, float cap, float *logits, const int32_t *label, const float *weight,
                                                    const double *weight_sum, float *logp, double *loss, int with_grad, int mode,
                                                    int64_t v0, float *stats)
{
    __shared__ run part[32];
    __shared__ float shared_lse;
    int64_t t = blockIdx.x;
    float *z = logits + t * ldl, wt = weight[t];
    int n = (int)(V / 4), tid = threadIdx.x, step = blockDim.x; /* the last V % 4 are done by one thread each */
    const float4 *z4 = (const float4 *)z;
    if (wt == 0) {
        if (mode == NSK_HEAD_STATS) return;
        if (tid == 0) {
            if (logp) logp[t] = 0;
            loss[t] = 0;
        }
        if (!with_grad) return;
        for (int k = tid; k < n; k += step) ((uint2 *)z)[k] = make_uint2(0, 0);
        if (tid < (int)(V % 4)) ((bf16 *)z)[4 * n + tid] = __float2bfloat16_rn(0.0f);
        return;
    }
    run r = {-INFINITY, 0};
    auto take = [&](const float (&x)[4], int m) {
        float top = r.top;
        for (int i = 0; i < m; i++) top = fmaxf(top, x[i]);
        if (top > r.top) r.sum *= fast_exp(r.top - top), r.top = top; /* r.top -inf: sum is 0 */
        for (int i = 0; i < m; i++) r.sum += fast_exp(x[i] - top);
    };
    const int first_pass = mode != NSK_HEAD_GIVEN;
    const int64_t lab = label[t] - v0;
#pragma unroll 4
    for (int k = tid; k < n && first_pass; k += step) {
        float x[4];
        capped4(x, z4[k], cap);
        take(x, 4);
    }
    if (tid < (int)(V % 4) && first_pass) {
        float v = z[4 * n + tid], x[4];
        capped4(x, make_float4(v, 0, 0, 0), cap);
        take(x, 1);
    }
    for (int o = 16; o; o >>= 1) {
        run b = {__shfl_xor_sync(0xffffffffu, r.top, o), __shfl_xor_sync(0xffffffffu, r.sum, o)};
        r = (tid & 31 & o) ? join(b, r) : join(r, b);
    }
    if ((tid & 31) == 0) part[tid >> 5] = r;
    __syncthreads();
    if (tid == 0) {
        r = part[0];
        for (int i = 1; i < (int)(blockDim.x >> 5); i++) r = join(r, part[i]);
        double lse = (double)r.top + log((double)r.sum);
        float x = lab >= 0 && lab < V ? z[lab] : -INFINITY;
        if (cap > 0) x = cap * tanhf(x / cap);
        shared_lse = finish_token(t, wt, lse, x, mode, stats, logp, loss);
    }
    __syncthreads();
    if (!with_grad || mode == NSK_HEAD_STATS) return;
    float lse = shared_lse, scale = (float)((double)wt / *weight_sum);
    float last = tid < (int)(V % 4) ? z[4 * n + tid] : 0; /* before anything is written over it */
    float4 q = tid < n ? z4[tid] : make_float4(0, 0, 0, 0);
    for (int k0 = 0; k0 < n; k0 += step) {
        int k = k0 + tid;
        float raw[4] = {q.x, q.y, q.z, q.w}, x[4], d[4];
        if (k + step < n) q = z4[k + step]; /* behind all that this trip writes */
        capped4(x, make_float4(raw[0], raw[1], raw[2], raw[3]), cap);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float slope = 1;
            if (cap > 0) slope = 1 - (x[i] / cap) * (x[i] / cap);
            d[i] = scale * (fast_exp(x[i] - lse) - (4 * k + i == lab ? 1.0f : 0.0f)) * slope;
        }
        __syncthreads();
        if (k < n) {
            __nv_bfloat162 a = __floats2bfloat162_rn(d[0], d[1]), b = __floats2bfloat162_rn(d[2], d[3]);
            ((uint2 *)z)[k] = make_uint2(*(uint32_t *)&a, *(uint32_t *)&b);
        }
    }
    if (tid < (int)(V % 4)) {
        float x = last, slope = 1;
        if (cap > 0) {
            float th = tanhf(x / cap);
            x = cap * th, slope = 1 - th * th;
        }
        ((bf16 *)z)[4 * n + tid] = __float2bfloat16_rn(scale * (fast_exp(x - lse) - (4 * n + tid == lab ? 1.0f : 0.0f)) * slope);
    }
}

extern "C" void nsk_head_chunk(nsk_stream s, int b, int64_t n, int64_t V, int64_t ldl, float cap, float *logits,
                               const int32_t *label, const float *weight, const double *weight_sum, float *logp,
                               double *loss, int with_grad, int mode, int64_t v0, float *stats)
{
    if (n <= 0) return;
    if (b && ldl % 4 == 0 && aligned16(logits) && V >= 16 && V < 1 << 30)
        head_chunk4<<<(unsigned)n, 1024, 0, cs(s)>>>(V, ldl, cap, logits, label, weight, weight_sum, logp, loss, with_grad, mode, v0, stats);
    else if (b)
        head_chunk<1><<<(unsigned)n, 1024, 0, cs(s)>>>(V, ldl, cap, logits, label, weight, weight_sum, logp, loss, with_grad, mode, v0, stats);
    else
        head_chunk<0><<<(unsigned)n, 512, 0, cs(s)>>>(V, ldl, cap, logits, label, weight, weight_sum, logp, loss, with_grad, mode, v0, stats);
}

__global__ void head_loss(int64_t T, const double *loss, double *sum)
{
    double s = 0;
    for (int64_t t = threadIdx.x; t < T; t += blockDim.x) s += loss[t];
    s = block_sum(s);
    if (threadIdx.x == 0) *sum += s;
}
extern "C" void nsk_head_loss(nsk_stream s, int64_t T, const double *loss, double *loss_sum)
{
    head_loss<<<1, 1024, 0, cs(s)>>>(T, loss, loss_sum);
}
