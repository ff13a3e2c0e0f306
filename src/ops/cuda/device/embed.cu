/* Embedding: rows of a table by id, and the gradient of the table.
 *
 * Backward: the rows of all occurrences of an id are added in token order, so the sum is the reference's, bit for bit, and the work is
 * linear in tokens: tokens are counted by id, each id that occurs gets a stretch of one list, tokens go there as they come, and the
 * block of an id sorts its stretch. (Order of the list's parts and of the ids is of no consequence.) An id with more than LIST
 * occurrences is found again among all tokens instead, in order: there are few of these. */
#include "common.cuh"
#include "kernels.h"

template <class E, class W> __global__ void embed_fwd(int64_t C, const int32_t *ids, const W *table, E *x)
{
    int64_t t = blockIdx.x, row = (int64_t)ids[t] * C; /* a negative id gives zeros */
    for (int64_t c = threadIdx.x; c < C; c += blockDim.x) st(x, t * C + c, row < 0 ? 0.0f : ld(table, row + c));
}

extern "C" void nsk_embed_fwd(nsk_stream s, int b, int wb, int64_t T, int64_t C, const int32_t *ids, const void *table, void *x)
{
    if (T <= 0) return;
    unsigned g = (unsigned)T;
    if (b && wb && C % 8 == 0 && aligned16(table) && aligned16(x)) /* 8 bf16 as 4 floats: plain copies of 16 bytes... */
        embed_fwd<<<g, 256, 0, cs(s)>>>(C / 2, ids, (const float *)table, (float *)x); /* ...of 4: bits pass unchanged */
    else if (b && wb)
        embed_fwd<<<g, 256, 0, cs(s)>>>(C, ids, (const bf16 *)table, (bf16 *)x);
    else if (b)
        embed_fwd<<<g, 256, 0, cs(s)>>>(C, ids, (const float *)table, (bf16 *)x);
    else if (wb)
        embed_fwd<<<g, 256, 0, cs(s)>>>(C, ids, (const bf16 *)table, (float *)x);
    else
        embed_fwd<<<g, 256, 0, cs(s)>>>(C, ids, (const float *)table, (float *)x);
}

enum { LIST = 1024, WIDE = 4 }; /* WIDE: columns a thread adds at a time */

static __global__ void count_tokens(int64_t T, const int32_t *ids, int32_t *count)
{
    int64_t t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (t < T && ids[t] >= 0) atomicAdd(&count[ids[t]], 1);
}
/* n[0]: ids that occur, listed in `present`; n[1]: length of all stretches. One addition a warp. */
static __global__ void start_lists(int64_t V, const int32_t *count, int32_t *start, int32_t *present, int32_t *n)
{
    int64_t v = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int lane = threadIdx.x & 31, mine = v < V ? count[v] : 0, before = mine;
    unsigned there = __ballot_sync(0xffffffffu, mine > 0);
    for (int o = 1; o < 32; o <<= 1) {
        int other = __shfl_up_sync(0xffffffffu, before, o);
        if (lane >= o) before += other;
    }
    int first_id = 0, first_token = 0;
    if (lane == 31 && before > 0) {
        first_id = atomicAdd(&n[0], __popc(there));
        first_token = atomicAdd(&n[1], before);
    }
    first_id = __shfl_sync(0xffffffffu, first_id, 31);
    first_token = __shfl_sync(0xffffffffu, first_token, 31);
    if (mine <= 0) return;
    present[first_id + __popc(there & ((1u << lane) - 1))] = (int32_t)v;
    start[v] = first_token + before - mine;
}
static __global__ void fill_lists(int64_t T, const int32_t *ids, const int32_t *start, int32_t *filled, int32_t *list)
{
    int64_t t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (t < T && ids[t] >= 0) list[start[ids[t]] + atomicAdd(&filled[ids[t]], 1)] = (int32_t)t;
}

/* grad[c..] += rows of dx in the order of the list */
template <class E, int V> __device__ __forceinline__ void add_rows(int64_t C, const int32_t *list, int n, const E *dx, float *grad)
{
    for (int64_t c = (int64_t)threadIdx.x * V; c < C; c += (int64_t)blockDim.x * V) {
        float g[V];
        if (V == WIDE) {
            float4 q = *(const float4 *)(grad + c);
            g[0] = q.x, g[1 % V] = q.y, g[2 % V] = q.z, g[3 % V] = q.w;
        } else {
            g[0] = grad[c];
        }
#pragma unroll 4
        for (int i = 0; i < n; i++) {
            const E *row = dx + (int64_t)list[i] * C + c;
            float d[V];
            if (V == WIDE && sizeof(E) == 2) {
                uint2 u = *(const uint2 *)row;
                d[0] = __uint_as_float(u.x << 16), d[1 % V] = __uint_as_float(u.x & 0xffff0000u);
                d[2 % V] = __uint_as_float(u.y << 16), d[3 % V] = __uint_as_float(u.y & 0xffff0000u);
            } else {
#pragma unroll
                for (int k = 0; k < V; k++) d[k] = ld(row, k);
            }
#pragma unroll
            for (int k = 0; k < V; k++) g[k] += d[k];
        }
        if (V == WIDE)
            *(float4 *)(grad + c) = make_float4(g[0], g[1 % V], g[2 % V], g[3 % V]);
        else
            grad[c] = g[0];
    }
}

template <class E, int V>
__global__ void __launch_bounds__(256) embed_bwd(int64_t T, int64_t C, const int32_t *ids, const int32_t *count, const int32_t *start,
                                                 const int32_t *present, const int32_t *n_present, const int32_t *list, const E *dx,
                                                 float *grad)
{
    __shared__ int32_t raw[LIST], sorted[LIST];
    __shared__ int found, warp_n[8];
    if ((int)blockIdx.x >= *n_present) return;
    const int32_t id = present[blockIdx.x];
    const int n = count[id];
    float *g = grad + (int64_t)id * C;
    if (n <= LIST) {
        for (int i = threadIdx.x; i < n; i += blockDim.x) raw[i] = list[start[id] + i];
        __syncthreads();
        for (int i = threadIdx.x; i < n; i += blockDim.x) {
            int before = 0;
            for (int k = 0; k < n; k++) before += raw[k] < raw[i];
            sorted[before] = raw[i];
        }
        __syncthreads();
        add_rows<E, V>(C, sorted, n, dx, g);
        return;
    }
    int lane = threadIdx.x & 31, w = threadIdx.x >> 5;
    for (int64_t base = 0; base < T; base += 256) { /* blockDim.x: one token a thread */
        int64_t t = base + threadIdx.x;
        int hit = t < T && ids[t] == id;
        unsigned mask = __ballot_sync(0xffffffffu, hit);
        if (lane == 0) warp_n[w] = __popc(mask);
        __syncthreads();
        int at = 0;
        for (int i = 0; i < w; i++) at += warp_n[i];
        if (hit) sorted[at + __popc(mask & ((1u << lane) - 1))] = (int32_t)t;
        if (threadIdx.x == 255) found = at + __popc(mask);
        __syncthreads();
        if (found) add_rows<E, V>(C, sorted, found, dx, g);
        __syncthreads();
    }
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
extern "C" int64_t nsk_embed_bwd_work(int64_t T, int64_t V) { return 4 * (3 * V + T + least(T, V) + 4); }
extern "C" void nsk_embed_bwd(nsk_stream s, int b, int64_t T, int64_t C, int64_t V, const int32_t *ids, const void *dx, float *grad,
                              void *work)
{
    if (T <= 0 || V <= 0) return;
    int32_t *n = (int32_t *)work, *count = n + 4, *filled = count + V, *start = filled + V, *list = start + V, *present = list + T;
    cudaMemsetAsync(work, 0, (size_t)(4 + 2 * V) * 4, cs(s));
    count_tokens<<<cdiv(T, 256), 256, 0, cs(s)>>>(T, ids, count);
    start_lists<<<cdiv(V, 256), 256, 0, cs(s)>>>(V, count, start, present, n);
    fill_lists<<<cdiv(T, 256), 256, 0, cs(s)>>>(T, ids, start, filled, list);
    unsigned blocks = (unsigned)least(T, V);
    int vec = C % WIDE == 0 && aligned16(dx) && aligned16(grad);
    if (b && vec)
        embed_bwd<bf16, WIDE><<<blocks, 256, 0, cs(s)>>>(T, C, ids, count, start, present, n, list, (const bf16 *)dx, grad);
    else if (b)
        embed_bwd<bf16, 1><<<blocks, 256, 0, cs(s)>>>(T, C, ids, count, start, present, n, list, (const bf16 *)dx, grad);
    else
        embed_bwd<float, 1><<<blocks, 256, 0, cs(s)>>>(T, C, ids, count, start, present, n, list, (const float *)dx, grad);
}
