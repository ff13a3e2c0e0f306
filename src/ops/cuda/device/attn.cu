/* Attention: which kernels serve a call, the ranges that the tensor-core kernels read, and the generic kernels.
 *
 * Tensor-core kernels (attn_mma.cuh): bf16, keys in the same flat batch as the queries or in rows of their own in the order of
 * segments (ns_attn_args.T_kv), head size a multiple of 8 up to 256, 16-byte aligned rows. Everything else (f32, a key/value cache, odd
 * head sizes) goes to one warp per row and head with sums in double: slow, exact, any shape up to head size 512. */
#include <stdlib.h>

#include "attn_mma.cuh"
#include "kernels.h"

void nsk_attn_fwd_32(cudaStream_t, const attn_p &, int), nsk_attn_bwd_32(cudaStream_t, const attn_p &, int);
void nsk_attn_fwd_64(cudaStream_t, const attn_p &, int), nsk_attn_bwd_64(cudaStream_t, const attn_p &, int);
void nsk_attn_fwd_80(cudaStream_t, const attn_p &, int), nsk_attn_bwd_80(cudaStream_t, const attn_p &, int);
void nsk_attn_fwd_96(cudaStream_t, const attn_p &, int), nsk_attn_bwd_96(cudaStream_t, const attn_p &, int);
void nsk_attn_fwd_128(cudaStream_t, const attn_p &, int), nsk_attn_bwd_128(cudaStream_t, const attn_p &, int);
void nsk_attn_fwd_256(cudaStream_t, const attn_p &, int), nsk_attn_bwd_256(cudaStream_t, const attn_p &, int);

void nsk_attn_fwd_wg64(cudaStream_t, const attn_p &), nsk_attn_bwd_wg64(cudaStream_t, const attn_p &);
void nsk_attn_fwd_wg128(cudaStream_t, const attn_p &), nsk_attn_bwd_wg128(cudaStream_t, const attn_p &);

/* Segment of row t: the last s with cu[s] <= t (empty segments before it are skipped); n_seg when t is dead. */
__device__ __forceinline__ int segment_of(const int32_t *cu, int n_seg, int t)
{
    if (n_seg < 1 || t >= cu[n_seg]) return n_seg;
    int lo = 0, hi = n_seg; /* cu[lo] <= t < cu[hi] */
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (cu[mid] <= t)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

__global__ void attn_ranges(int T, int n_seg, int causal, int64_t window, const int32_t *cu, int4 *range, int32_t *seg0)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= T) return;
    int s = segment_of(cu, n_seg, t), live = n_seg > 0 ? cu[n_seg] : 0;
    if (seg0) seg0[t] = s == n_seg ? live : cu[s];
    if (s == n_seg) {
        range[t] = make_int4(live, live, live, live);
        return;
    }
    int64_t b = cu[s], e = cu[s + 1], lo = window > 0 && t - window + 1 > b ? t - window + 1 : b;
    int64_t qhi = window > 0 && t + window < e ? t + window : e;
    range[t] = make_int4((int)lo, (int)(causal ? t + 1 : e), (int)(causal ? t : b), (int)qhi);
}

/* The same where keys have rows of their own: ascending from segment to segment, so that ranges grow with the row as well. */
__global__ void attn_ranges_kv(int T, int Tk, int n_seg, int causal, int64_t window, const int32_t *cu, const int32_t *kv_start,
                               const int32_t *kv_len, int4 *range, int32_t *seg0)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= max(T, Tk)) return;
    int first = n_seg > 0 ? cu[0] : 0, end = n_seg > 0 ? cu[n_seg] : 0;
    int4 g = make_int4(0, 0, first, first);
    if (t < T && t >= first && end > first) { /* a query; dead ones stand behind all keys */
        int dead = t >= end, s = segment_of(cu, n_seg, dead ? end - 1 : t);
        int64_t k0 = kv_start[s], nk = kv_len[s], seen = t - cu[s] + nk - (cu[s + 1] - cu[s]) + 1; /* keys in front of the mask */
        int64_t hi = causal && seen < nk ? max(seen, (int64_t)0) : nk, lo = window > 0 && seen > window ? seen - window : 0;
        g.x = (int)(k0 + (dead ? nk : lo)), g.y = (int)(k0 + (dead ? nk : hi));
        if (seg0) seg0[t] = dead ? 0 : (int)k0;
    } else if (t < T && seg0)
        seg0[t] = 0;
    if (t < Tk && n_seg > 0 && kv_start[0] <= t) {
        int lo = 0, hi = n_seg; /* kv_start[lo] <= t < kv_start[hi] */
        while (hi - lo > 1) {
            int mid = (lo + hi) / 2;
            if (kv_start[mid] <= t)
                lo = mid;
            else
                hi = mid;
        }
        int64_t nq = cu[lo + 1] - cu[lo], j = t - kv_start[lo], i = j - (kv_len[lo] - nq); /* the query whose own key it is */
        int64_t from = causal ? min(max(i, (int64_t)0), nq) : 0, to = window > 0 ? min(max(i + window, (int64_t)0), nq) : nq;
        if (j >= kv_len[lo]) from = to = nq;
        g.z = cu[lo] + (int)from, g.w = cu[lo] + (int)to;
    }
    range[t] = g;
}

/* D[h,t] = dout . out; one warp a row and head. */
__global__ void attn_dot(int T, int nh, int hd, const bf16 *dout, const bf16 *out, float *D)
{
    int i = (int)((blockIdx.x * (int64_t)blockDim.x + threadIdx.x) >> 5), lane = threadIdx.x & 31;
    if (i >= T * nh) return;
    int64_t at = (int64_t)i * hd;
    float s = 0;
    for (int c = lane * 2; c < hd; c += 64) {
        float2 a = __bfloat1622float2(*(const __nv_bfloat162 *)(dout + at + c));
        float2 b = __bfloat1622float2(*(const __nv_bfloat162 *)(out + at + c));
        s += a.x * b.x + a.y * b.y;
    }
    s = warp_sum(s);
    if (lane == 0) D[(int64_t)(i % nh) * T + i / nh] = s;
}

/* ---- generic kernels; rows before the first segment are another call's: left alone ---- */
enum { PER = 16 }; /* elements of a head a lane holds: head_dim <= 512 */
struct seg { int64_t q0, nq, k0, nk; };
__device__ __forceinline__ seg get_seg(const nsk_attn &a, int s)
{
    seg g = {a.cu_q[s], a.cu_q[s + 1] - a.cu_q[s], 0, 0};
    g.k0 = a.kv_start ? a.kv_start[s] : g.q0;
    g.nk = a.kv_len ? a.kv_len[s] : g.nq;
    return g;
}
__device__ __forceinline__ void visible(const nsk_attn &a, const seg &g, int64_t i, int64_t &lo, int64_t &hi)
{
    int64_t last = i + g.nk - g.nq;
    lo = a.window > 0 && last - a.window + 1 > 0 ? last - a.window + 1 : 0;
    hi = a.causal && last + 1 < g.nk ? last + 1 : g.nk;
}
template <class E> __device__ __forceinline__ void fetch(double (&r)[PER], const void *p, int64_t at, int hd, int lane)
{
#pragma unroll
    for (int i = 0; i < PER; i++) r[i] = lane + 32 * i < hd ? (double)ld((const E *)p, at + lane + 32 * i) : 0.0;
}
__device__ __forceinline__ double dot(const double (&a)[PER], const double (&b)[PER])
{
    double s = 0;
#pragma unroll
    for (int i = 0; i < PER; i++) s += a[i] * b[i];
    return warp_sum(s);
}
template <class E> __device__ __forceinline__ void put(const double (&r)[PER], void *p, int64_t at, int hd, int lane)
{
#pragma unroll
    for (int i = 0; i < PER; i++)
        if (lane + 32 * i < hd) st((E *)p, at + lane + 32 * i, (float)r[i]);
}
__device__ __forceinline__ double capped(const nsk_attn &a, double raw, double &slope)
{
    double s = raw * (double)a.scale;
    slope = 1;
    if (a.softcap > 0) {
        double t = tanh(s / (double)a.softcap);
        s = (double)a.softcap * t;
        slope = 1 - t * t;
    }
    return s;
}

/* What the probability of row t (of the batch) and key j (of the segment) is multiplied with. */
__device__ double kept(const nsk_attn &a, int64_t t, int64_t j, int64_t h)
{
    if (a.dropout <= 0) return 1;
    uint32_t c[4] = {(uint32_t)(j >> 2), a.token ? a.token[t] : (uint32_t)t, *a.dropout_step,
                     a.op_layer | (a.head0 + (uint32_t)h) << 12};
    philox(c, a.key[0], a.key[1]);
    uint32_t w = j & 2 ? (j & 1 ? c[3] : c[2]) : (j & 1 ? c[1] : c[0]);
    return unit(w) >= a.dropout ? 1 / (1 - (double)a.dropout) : 0;
}

template <class E> __global__ void generic_fwd(nsk_attn a)
{
    int lane = threadIdx.x & 31, hd = (int)a.head_dim;
    int64_t i = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) >> 5;
    if (i >= a.T * a.n_heads) return;
    int64_t t = i / a.n_heads, h = i % a.n_heads, kvh = h / (a.n_heads / a.n_kv);
    if (a.n_seg > 0 && t < a.cu_q[0]) return;
    int s = segment_of(a.cu_q, (int)a.n_seg, (int)t), dead = s == (int)a.n_seg;
    double acc[PER] = {0}, q[PER], r[PER], top = -INFINITY, sum = 0, slope;
    if (!dead) {
        seg g = get_seg(a, s);
        int64_t lo, hi;
        visible(a, g, t - g.q0, lo, hi);
        fetch<E>(q, a.q, t * a.q_stride + h * hd, hd, lane);
        for (int64_t j = lo; j < hi; j++) {
            fetch<E>(r, a.k, (g.k0 + j) * a.k_stride + kvh * hd, hd, lane);
            double x = capped(a, dot(q, r), slope), big = fmax(top, x), f = exp(top - big), p = exp(x - big);
            fetch<E>(r, a.v, (g.k0 + j) * a.v_stride + kvh * hd, hd, lane);
            double keep = kept(a, t, j, h);
#pragma unroll
            for (int k = 0; k < PER; k++) acc[k] = acc[k] * f + p * keep * r[k];
            sum = sum * f + p;
            top = big;
        }
    }
#pragma unroll
    for (int k = 0; k < PER; k++) acc[k] = sum > 0 ? acc[k] / sum : 0.0;
    put<E>(acc, a.out, (t * a.n_heads + h) * hd, hd, lane);
    if (a.lse && lane == 0) a.lse[h * a.T + t] = dead ? 0.0f : sum > 0 ? (float)(top + log(sum)) : -INFINITY;
}

/* The kept p, and ds, of one pair; q, do_: rows of the query, k and v fetched. */
template <class E>
__device__ __forceinline__ void pair(const nsk_attn &a, const double (&q)[PER], const double (&o)[PER], double D, double lse,
                                     const double (&k)[PER], const double (&v)[PER], double keep, double &p, double &ds)
{
    double slope, s = capped(a, dot(q, k), slope);
    p = exp(s - lse);
    ds = p * (keep * dot(o, v) - D) * slope * (double)a.scale;
    p *= keep;
}

template <class E> __global__ void generic_dq(nsk_attn a)
{
    int lane = threadIdx.x & 31, hd = (int)a.head_dim;
    int64_t i = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) >> 5;
    if (i >= a.T * a.n_heads) return;
    int64_t t = i / a.n_heads, h = i % a.n_heads, kvh = h / (a.n_heads / a.n_kv), o_at = (t * a.n_heads + h) * hd;
    if (a.n_seg > 0 && t < a.cu_q[0]) return;
    int s = segment_of(a.cu_q, (int)a.n_seg, (int)t);
    double acc[PER] = {0};
    if (s != (int)a.n_seg) {
        double q[PER], o[PER], k[PER], v[PER], p, ds;
        seg g = get_seg(a, s);
        int64_t lo, hi;
        visible(a, g, t - g.q0, lo, hi);
        fetch<E>(q, a.q, t * a.q_stride + h * hd, hd, lane);
        fetch<E>(o, a.dout, o_at, hd, lane);
        fetch<E>(k, a.out, o_at, hd, lane);
        double D = dot(o, k), lse = a.lse[h * a.T + t];
        for (int64_t j = lo; j < hi; j++) {
            fetch<E>(k, a.k, (g.k0 + j) * a.k_stride + kvh * hd, hd, lane);
            fetch<E>(v, a.v, (g.k0 + j) * a.v_stride + kvh * hd, hd, lane);
            pair<E>(a, q, o, D, lse, k, v, kept(a, t, j, h), p, ds);
#pragma unroll
            for (int c = 0; c < PER; c++) acc[c] += ds * k[c];
        }
    }
    put<E>(acc, a.dq, t * a.q_stride + h * hd, hd, lane);
}

/* One warp a key row and kv head. Keys of the same batch: row index = token. Keys elsewhere: index = segment * max_kv + row. */
template <class E> __global__ void generic_dkv(nsk_attn a)
{
    int lane = threadIdx.x & 31, hd = (int)a.head_dim;
    int64_t i = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) >> 5;
    int64_t n = a.kv_start ? a.n_seg * a.max_kv : a.T;
    if (i >= n * a.n_kv) return;
    int64_t row = i / a.n_kv, kvh = i % a.n_kv, group = a.n_heads / a.n_kv, j, at;
    if (!a.kv_start && a.n_seg > 0 && row < a.cu_q[0]) return;
    int s = a.kv_start ? (int)(row / a.max_kv) : segment_of(a.cu_q, (int)a.n_seg, (int)row);
    double dk[PER] = {0}, dv[PER] = {0};
    seg g = {0, 0, 0, 0};
    if (s < (int)a.n_seg) g = get_seg(a, s);
    j = a.kv_start ? row % a.max_kv : row - g.k0;
    at = a.kv_start ? g.k0 + j : row;
    if (a.kv_start && j >= g.nk) return;
    if (s < (int)a.n_seg) {
        double q[PER], o[PER], k[PER], v[PER], out[PER], p, ds;
        fetch<E>(k, a.k, at * a.k_stride + kvh * hd, hd, lane);
        fetch<E>(v, a.v, at * a.v_stride + kvh * hd, hd, lane);
        for (int64_t h = kvh * group; h < (kvh + 1) * group; h++)
            for (int64_t r = 0; r < g.nq; r++) {
                int64_t lo, hi, t = g.q0 + r;
                visible(a, g, r, lo, hi);
                if (j < lo || j >= hi) continue;
                fetch<E>(q, a.q, t * a.q_stride + h * hd, hd, lane);
                fetch<E>(o, a.dout, (t * a.n_heads + h) * hd, hd, lane);
                fetch<E>(out, a.out, (t * a.n_heads + h) * hd, hd, lane);
                pair<E>(a, q, o, dot(o, out), a.lse[h * a.T + t], k, v, kept(a, t, j, h), p, ds);
#pragma unroll
                for (int c = 0; c < PER; c++) dk[c] += ds * q[c], dv[c] += p * o[c];
            }
    }
    put<E>(dk, a.dk, at * a.k_stride + kvh * hd, hd, lane);
    put<E>(dv, a.dv, at * a.v_stride + kvh * hd, hd, lane);
}

/* ---- dispatch ---- */
static int rows_ok(const void *p, int64_t stride)
{
    return aligned16(p) && stride % 8 == 0;
}
extern "C" int nsk_attn_fast(const nsk_attn *a)
{
    return a->bf16 && (a->kv_start && a->kv_len ? a->T_kv > 0 : !a->kv_start && !a->kv_len) && a->head_dim % 8 == 0 &&
           a->head_dim <= 256 && a->T < 1 << 22 && a->T_kv < 1 << 22 &&
           rows_ok(a->q, a->q_stride) && rows_ok(a->k, a->k_stride) && rows_ok(a->v, a->v_stride) && rows_ok(a->out, 0) &&
           rows_ok(a->dout, 0) && rows_ok(a->dq, 0) && rows_ok(a->dk, 0) && rows_ok(a->dv, 0);
}
static int64_t range_bytes(int64_t T, int64_t T_kv) { return ((T > T_kv ? T : T_kv) * 16 + 255) / 256 * 256; }
extern "C" int64_t nsk_attn_work(int64_t T, int64_t T_kv, int64_t n_heads) { return range_bytes(T, T_kv) + T * n_heads * 4 + T * 4; }

static int small_memory(void)
{
    static int bytes = 0;
    const char *force = getenv("NS_CUDA_SMALL_TILES");
    int dev = 0;
    if (!bytes && cudaGetDevice(&dev) == cudaSuccess)
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, dev);
    return bytes < 150 * 1024 || (force && *force == '1');
}

/* Hopper: the warpgroup kernels (machine code for sm_90a alone). */
static int hopper(void)
{
    static int cc = 0;
    int dev = 0, major = 0, minor = 0;
    if (!cc && cudaGetDevice(&dev) == cudaSuccess &&
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, dev) == cudaSuccess &&
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, dev) == cudaSuccess)
        cc = major * 10 + minor;
    return cc == 90;
}

static attn_p params(nsk_stream s, const nsk_attn *a)
{
    int64_t Tk = a->kv_start ? a->T_kv : a->T, rows = Tk > a->T ? Tk : a->T;
    attn_p p = {(const bf16 *)a->q, (const bf16 *)a->k, (const bf16 *)a->v, (const bf16 *)a->dout, (const bf16 *)a->out,
                (bf16 *)a->out, (bf16 *)a->dq, (bf16 *)a->dk, (bf16 *)a->dv, a->lse,
                (const float *)((char *)a->work + range_bytes(a->T, Tk)), (const int4 *)a->work, a->q_stride, a->k_stride,
                a->v_stride, a->n_heads * a->head_dim, (int)a->T, (int)Tk, (int)a->n_heads, (int)a->n_kv, (int)a->head_dim,
                (int)a->n_seg, a->scale, a->softcap, a->cu_q, a->dropout, a->key[0], a->key[1], a->op_layer, a->head0,
                a->dropout_step, a->token, NULL};
    if (a->dropout > 0) p.seg0 = (const int32_t *)(p.D + a->T * a->n_heads);
    if (a->kv_start)
        attn_ranges_kv<<<cdiv(rows, 256), 256, 0, cs(s)>>>((int)a->T, (int)Tk, (int)a->n_seg, a->causal, a->window, a->cu_q, a->kv_start,
                                                           a->kv_len, (int4 *)a->work, (int32_t *)p.seg0);
    else
        attn_ranges<<<cdiv(a->T, 256), 256, 0, cs(s)>>>((int)a->T, (int)a->n_seg, a->causal, a->window, a->cu_q, (int4 *)a->work,
                                                        (int32_t *)p.seg0);
    return p;
}

#define BY_HEAD(pass, p)                                     \
    (wg && a->head_dim <= 64 ? nsk_attn_##pass##_wg64(cs(s), p) \
     : wg                    ? nsk_attn_##pass##_wg128(cs(s), p) \
     : a->head_dim <= 32    ? nsk_attn_##pass##_32(cs(s), p, sm)  \
     : a->head_dim <= 64  ? nsk_attn_##pass##_64(cs(s), p, sm)  \
     : a->head_dim <= 80  ? nsk_attn_##pass##_80(cs(s), p, sm)  \
     : a->head_dim <= 96  ? nsk_attn_##pass##_96(cs(s), p, sm)  \
     : a->head_dim <= 128 ? nsk_attn_##pass##_128(cs(s), p, sm) \
                          : nsk_attn_##pass##_256(cs(s), p, sm))

extern "C" void nsk_attn_fwd(nsk_stream s, const nsk_attn *a, int force_generic)
{
    if (a->T <= 0) return;
    if (!force_generic && nsk_attn_fast(a)) {
        int sm = small_memory(), wg = !sm && hopper() && a->dropout <= 0 && a->head_dim > 32 && a->head_dim <= 128;
        attn_p p = params(s, a);
        BY_HEAD(fwd, p);
        return;
    }
    unsigned g = cdiv(a->T * a->n_heads * 32, 128);
    if (a->bf16)
        generic_fwd<bf16><<<g, 128, 0, cs(s)>>>(*a);
    else
        generic_fwd<float><<<g, 128, 0, cs(s)>>>(*a);
}

extern "C" void nsk_attn_bwd(nsk_stream s, const nsk_attn *a, int force_generic)
{
    if (a->T <= 0) return;
    if (!force_generic && nsk_attn_fast(a)) {
        int sm = small_memory(), wg = !sm && hopper() && a->dropout <= 0 && a->head_dim > 32 && a->head_dim <= 128;
        attn_p p = params(s, a);
        attn_dot<<<cdiv(a->T * a->n_heads * 32, 256), 256, 0, cs(s)>>>((int)a->T, (int)a->n_heads, (int)a->head_dim, p.dout, p.out,
                                                                       (float *)p.D);
        BY_HEAD(bwd, p);
        return;
    }
    unsigned g = cdiv(a->T * a->n_heads * 32, 128), k = cdiv((a->kv_start ? a->n_seg * a->max_kv : a->T) * a->n_kv * 32, 128);
    if (a->bf16) {
        generic_dq<bf16><<<g, 128, 0, cs(s)>>>(*a);
        if (k) generic_dkv<bf16><<<k, 128, 0, cs(s)>>>(*a);
    } else {
        generic_dq<float><<<g, 128, 0, cs(s)>>>(*a);
        if (k) generic_dkv<float><<<k, 128, 0, cs(s)>>>(*a);
    }
}

/* ---- beside cuDNN ---- */
__global__ void cudnn_offsets(int b, int n_seg, const int32_t *cu, int row, int wide, int nh, int32_t *out, int64_t each)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i > b) return;
    int at = cu[min(i, n_seg)], next = cu[min(i + 1, n_seg)];
    if (i < b) out[i] = next - at;
    out[each + i] = at * row;
    out[2 * each + i] = at * wide;
    out[3 * each + i] = at * nh;
}
extern "C" void nsk_cudnn_offsets(nsk_stream s, int64_t b, int64_t n_seg, const int32_t *cu, int64_t row, int64_t wide, int64_t nh,
                                  int32_t *out, int64_t each)
{
    cudnn_offsets<<<cdiv(b + 1, 128), 128, 0, cs(s)>>>((int)b, (int)n_seg, cu, (int)row, (int)wide, (int)nh, out, each);
}
__global__ void cudnn_lse(int T, int nh, int len, int rows, float *lse, float *theirs, int to)
{
    int t = blockIdx.x * 32 + threadIdx.x, h = blockIdx.y * 8 + threadIdx.y;
    if (t >= T || h >= nh) return;
    int64_t at = len ? ((int64_t)(t / len) * nh + h) * len + t % len : (int64_t)t * nh + h;
    if (to && t < rows)
        theirs[at] = lse[(int64_t)h * T + t];
    else if (!to)
        lse[(int64_t)h * T + t] = t < rows ? theirs[at] : 0.0f;
}
extern "C" void nsk_cudnn_lse(nsk_stream s, int64_t T, int64_t nh, int64_t len, int64_t rows, float *lse, float *theirs, int to)
{
    cudnn_lse<<<dim3(cdiv(T, 32), cdiv(nh, 8)), dim3(32, 8), 0, cs(s)>>>((int)T, (int)nh, (int)len, (int)rows, lse, theirs, to);
}
extern "C" void nsk_cudnn_tail(nsk_stream s, const nsk_attn *a, int backward)
{
    size_t n = (size_t)(a->T - a->live_rows), hd = (size_t)a->head_dim * 2;
    struct { void *p; int64_t stride, heads; } all[] = {{a->out, a->n_heads * a->head_dim, a->n_heads},
                                                        {a->dq, a->q_stride, a->n_heads},
                                                        {a->dk, a->k_stride, a->n_kv},
                                                        {a->dv, a->v_stride, a->n_kv}};
    for (int i = backward ? 1 : 0; i < (backward ? 4 : 1); i++)
        (void)cudaMemset2DAsync((char *)all[i].p + a->live_rows * all[i].stride * 2, (size_t)all[i].stride * 2, 0,
                                (size_t)all[i].heads * hd, n, cs(s));
}
