/* Memory-bound row kernels: RMSNorm, bias gradient, rotary embedding, activations, dropout, add, scatter.
 * Each has a vector form (8 elements a thread, when rows are aligned) and a scalar form: same arithmetic, same rounding. */
#include "common.cuh"
#include "kernels.h"

/* ---- RMSNorm; one block a row; f32 sums squares in double, as the tolerance of f32 asks ---- */
template <class E> struct acc_of { typedef double type; };
template <> struct acc_of<bf16> { typedef float type; };

template <class E, class W, int V>
__global__ void norm_fwd(int64_t C, float eps, int plus_one, const W *w, const E *x, const E *delta, E *h, E *y, float *rstd,
                         int given)
{
    typedef typename acc_of<E>::type A;
    int64_t row = (int64_t)blockIdx.x * C;
    const E *in = delta ? h : x;
    A ss = 0;
    for (int64_t c = (int64_t)threadIdx.x * V; c < C && !given; c += (int64_t)blockDim.x * V) {
        float a[V];
        load<V>(a, x + row + c);
        if (delta) {
            float d[V];
            load<V>(d, delta + row + c);
#pragma unroll
            for (int i = 0; i < V; i++) a[i] += d[i];
            store<V>(h + row + c, a);
            load<V>(a, h + row + c); /* the norm sees the stored (rounded) sum; the same thread wrote it */
        }
#pragma unroll
        for (int i = 0; i < V; i++) ss += (A)a[i] * (A)a[i];
    }
    float r = 0;
    if (given) { /* the norm again, for the backward pass */
        r = rstd[blockIdx.x];
    } else {
        ss = block_sum(ss);
        r = (float)(1.0 / sqrt((double)ss / (double)C + (double)eps));
        if (rstd && threadIdx.x == 0) rstd[blockIdx.x] = r;
    }
    for (int64_t c = (int64_t)threadIdx.x * V; c < C; c += (int64_t)blockDim.x * V) {
        float a[V], g[V];
        load<V>(a, in + row + c);
        load<V>(g, w + c);
#pragma unroll
        for (int i = 0; i < V; i++) {
            float n = a[i] * r;
            if (sizeof(E) == 2 && !plus_one) n = __bfloat162float(__float2bfloat16_rn(n));
            a[i] = n * (plus_one ? g[i] + 1.0f : g[i]);
        }
        store<V>(y + row + c, a);
    }
}

/* The same for bf16 rows of at most 8192: a thread owns 8 columns; the next row is on its way while the block adds up this one. */
__device__ __forceinline__ void unpack8(float (&d)[8], uint4 u)
{
    uint32_t w[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
    for (int i = 0; i < 4; i++) d[2 * i] = __uint_as_float(w[i] << 16), d[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
}
template <class W>
__global__ void __launch_bounds__(1024) norm_fwd_rows(int T, int C, float eps, int plus_one, const W *w, const bf16 *x, const bf16 *delta,
                                                      bf16 *h, bf16 *y, float *rstd)
{
    __shared__ float sums[2][32];
    int c = (int)threadIdx.x * 8, mine = c < C, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = blockDim.x >> 5;
    float k[8] = {0};
    if (mine) load<8>(k, w + c);
    uint4 a4 = {0, 0, 0, 0}, d4 = a4;
    auto fetch = [&](int t) {
        if (t >= T || !mine) return;
        a4 = *(const uint4 *)(x + (int64_t)t * C + c);
        if (delta) d4 = *(const uint4 *)(delta + (int64_t)t * C + c);
    };
    fetch(blockIdx.x);
    for (int t = blockIdx.x, odd = 0; t < T; t += gridDim.x, odd ^= 1) {
        int64_t at = (int64_t)t * C + c;
        float a[8], d[8], ss = 0;
        unpack8(a, a4);
        unpack8(d, d4);
        fetch(t + (int)gridDim.x);
        if (delta && mine) {
#pragma unroll
            for (int i = 0; i < 8; i++) a[i] = __bfloat162float(__float2bfloat16_rn(a[i] + d[i])); /* the norm sees the stored sum */
            store<8>(h + at, a);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) ss += a[i] * a[i];
        ss = warp_sum(ss);
        if (lane == 0) sums[odd][warp] = ss;
        __syncthreads();
        ss = warp_sum(lane < n_warps ? sums[odd][lane] : 0.0f);
        float r = (float)(1.0 / sqrt((double)ss / (double)C + (double)eps));
        if (rstd && threadIdx.x == 0) rstd[t] = r;
        if (!mine) continue;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float n = a[i] * r;
            if (!plus_one) n = __bfloat162float(__float2bfloat16_rn(n));
            a[i] = n * (plus_one ? k[i] + 1.0f : k[i]);
        }
        store<8>(y + at, a);
    }
}
static int norm_rows_fit(int bf, int64_t T, int64_t C) { return bf && C % 8 == 0 && C <= 8192 && T < 1 << 30; }
static unsigned row_threads(int64_t C) { return C < 8 ? 32 : (unsigned)((C / 8 + 31) / 32 * 32); }

template <class E, class W>
static void norm_fwd_go(nsk_stream s, int64_t T, int64_t C, float eps, int p1, const void *w, const void *x, const void *d,
                        void *h, void *y, float *rstd, int given = 0)
{
    int vec = C % 8 == 0 && aligned16(w) && aligned16(x) && aligned16(d) && aligned16(h) && aligned16(y);
    unsigned th = C / (vec ? 8 : 1) >= 512 ? 512 : C / (vec ? 8 : 1) > 128 ? 256 : 128;
    if (vec && !given && norm_rows_fit(sizeof(E) == 2, T, C)) {
        unsigned rt = row_threads(C), n = 132 * (rt > 1024 / 2 ? 2 : 2048 / rt < 16 ? 2048 / rt : 16);
        norm_fwd_rows<W><<<T < n ? (unsigned)T : n, rt, 0, cs(s)>>>((int)T, (int)C, eps, p1, (const W *)w, (const bf16 *)x, (const bf16 *)d,
                                                                  (bf16 *)h, (bf16 *)y, rstd);
    } else if (vec)
        norm_fwd<E, W, 8><<<(unsigned)T, th, 0, cs(s)>>>(C, eps, p1, (const W *)w, (const E *)x, (const E *)d, (E *)h, (E *)y, rstd, given);
    else
        norm_fwd<E, W, 1><<<(unsigned)T, th, 0, cs(s)>>>(C, eps, p1, (const W *)w, (const E *)x, (const E *)d, (E *)h, (E *)y, rstd, given);
}

extern "C" void nsk_norm_fwd(nsk_stream s, int b, int wb, int64_t T, int64_t C, float eps, int p1, const void *w,
                             const void *x, const void *d, void *h, void *y, float *rstd)
{
    if (T <= 0) return;
    if (b && wb)
        norm_fwd_go<bf16, bf16>(s, T, C, eps, p1, w, x, d, h, y, rstd);
    else if (b)
        norm_fwd_go<bf16, float>(s, T, C, eps, p1, w, x, d, h, y, rstd);
    else if (wb)
        norm_fwd_go<float, bf16>(s, T, C, eps, p1, w, x, d, h, y, rstd);
    else
        norm_fwd_go<float, float>(s, T, C, eps, p1, w, x, d, h, y, rstd);
}

/* Rows are dealt to a fixed number of blocks; each adds its rows to dw in shared memory (a thread owns its columns), then
 * norm_dw adds the blocks' sums in block order. */
enum { NORM_BLOCKS = 264 };
template <class E, class W, int V>
__global__ void norm_bwd(int64_t T, int64_t C, int plus_one, const W *w, int want_dw, const E *h, const float *rstd,
                         const E *dy, const E *dres, E *dh, float *part)
{
    typedef typename acc_of<E>::type A;
    extern __shared__ float dw[];
    if (want_dw)
        for (int64_t c = (int64_t)threadIdx.x * V; c < C; c += (int64_t)blockDim.x * V)
#pragma unroll
            for (int i = 0; i < V; i++) dw[c + i] = 0;
    for (int64_t t = blockIdx.x; t < T; t += gridDim.x) {
        int64_t row = t * C;
        float r = rstd[t];
        A dot = 0;
        for (int64_t c = (int64_t)threadIdx.x * V; c < C; c += (int64_t)blockDim.x * V) {
            float a[V], g[V], k[V];
            load<V>(a, h + row + c);
            load<V>(g, dy + row + c);
            load<V>(k, w + c);
#pragma unroll
            for (int i = 0; i < V; i++) {
                A n = (A)a[i] * (A)r;
                dot += (A)g[i] * (A)(plus_one ? k[i] + 1.0f : k[i]) * n;
                if (want_dw) dw[c + i] += (float)((A)g[i] * n);
            }
        }
        dot = block_sum(dot) / (A)C;
        for (int64_t c = (int64_t)threadIdx.x * V; c < C; c += (int64_t)blockDim.x * V) {
            float a[V], g[V], k[V], d[V];
            load<V>(a, h + row + c);
            load<V>(g, dy + row + c);
            load<V>(k, w + c);
            if (dres) load<V>(d, dres + row + c);
#pragma unroll
            for (int i = 0; i < V; i++) {
                A n = (A)a[i] * (A)r, q = (A)g[i] * (A)(plus_one ? k[i] + 1.0f : k[i]);
                a[i] = (float)((A)r * (q - n * dot) + (dres ? (A)d[i] : (A)0));
            }
            store<V>(dh + row + c, a);
        }
    }
    if (want_dw)
        for (int64_t c = (int64_t)threadIdx.x * V; c < C; c += (int64_t)blockDim.x * V)
#pragma unroll
            for (int i = 0; i < V; i++) part[blockIdx.x * C + c + i] = dw[c + i];
}

/* The same for bf16 rows of at most 8192: a thread owns 8 columns and holds their weights and sums; the next row is on its way
 * while the block adds up this one. y: the norm's output again, rounded as norm_fwd rounds it, or NULL. */
template <class W>
__global__ void __launch_bounds__(1024) norm_bwd_rows(int T, int C, int plus_one, const W *w, int want_dw, const bf16 *h, const float *rstd,
                                                      const bf16 *dy, const bf16 *dres, bf16 *dh, bf16 *y, float *part)
{
    __shared__ float sums[2][32];
    int c = (int)threadIdx.x * 8, mine = c < C, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = blockDim.x >> 5;
    float k[8] = {0}, dw[8] = {0};
    if (mine) load<8>(k, w + c);
#pragma unroll
    for (int i = 0; i < 8; i++) k[i] = plus_one ? k[i] + 1.0f : k[i];
    uint4 a4 = {0, 0, 0, 0}, g4 = a4, d4 = a4;
    float r = 0;
    auto fetch = [&](int t) {
        if (t >= T) return;
        int64_t at = (int64_t)t * C + c;
        r = rstd[t];
        if (!mine) return;
        a4 = *(const uint4 *)(h + at);
        g4 = *(const uint4 *)(dy + at);
        if (dres) d4 = *(const uint4 *)(dres + at);
    };
    fetch(blockIdx.x);
    for (int t = blockIdx.x, odd = 0; t < T; t += gridDim.x, odd ^= 1) {
        float a[8], g[8], d[8], rr = r, dot = 0;
        unpack8(a, a4);
        unpack8(g, g4);
        unpack8(d, d4);
        fetch(t + (int)gridDim.x);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            a[i] *= rr;
            dw[i] += g[i] * a[i];
            g[i] *= k[i];
            dot += g[i] * a[i];
        }
        dot = warp_sum(dot);
        if (lane == 0) sums[odd][warp] = dot;
        __syncthreads();
        dot = warp_sum(lane < n_warps ? sums[odd][lane] : 0.0f) / (float)C;
        if (!mine) continue;
        int64_t at = (int64_t)t * C + c;
        if (y) {
            float o[8];
#pragma unroll
            for (int i = 0; i < 8; i++) o[i] = (plus_one ? a[i] : __bfloat162float(__float2bfloat16_rn(a[i]))) * k[i];
            store<8>(y + at, o);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) g[i] = rr * (g[i] - a[i] * dot) + d[i];
        store<8>(dh + at, g);
    }
    if (want_dw && mine)
#pragma unroll
        for (int i = 0; i < 8; i++) part[(int64_t)blockIdx.x * C + c + i] = dw[i];
}
/* Blocks that fit the chip at once, about; a fixed number, so that sums keep their order. */
static unsigned norm_rows_blocks(int64_t T, int64_t C)
{
    unsigned th = row_threads(C), n = 132 * (th > 512 ? 1 : 1024 / th < 8 ? 1024 / th : 8);
    return T < n ? (unsigned)T : n;
}

/* out[c] += sum over parts of part[p][c], in order of p within 32 strands, strands in order. Block: 32 columns x 32 strands. */
enum { STRANDS = 32 };
__global__ void add_parts(int64_t C, int n, const float *part, float *out)
{
    __shared__ float s[STRANDS][33];
    int64_t c = (int64_t)blockIdx.x * 32 + threadIdx.x;
    float sum = 0;
    if (c < C) {
#pragma unroll 8
        for (int p = threadIdx.y; p < n; p += STRANDS) sum += part[(int64_t)p * C + c];
    }
    s[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || c >= C) return;
    for (int i = 1; i < STRANDS; i++) sum += s[i][threadIdx.x];
    out[c] += sum;
}

extern "C" int64_t nsk_norm_bwd_work(int64_t T, int64_t C)
{
    int64_t n = T < NORM_BLOCKS ? T : NORM_BLOCKS, rows = C % 8 == 0 && C <= 8192 ? norm_rows_blocks(T, C) : 0;
    return (n > rows ? n : rows) * C * 4;
}

template <class E, class W>
static void norm_bwd_go(nsk_stream s, int64_t T, int64_t C, int p1, const void *w, float *dw, const void *h,
                        const float *rstd, const void *dy, const void *dres, void *dh, void *y, float *work)
{
    int vec = C % 8 == 0 && aligned16(w) && aligned16(h) && aligned16(dy) && aligned16(dres) && aligned16(dh);
    unsigned th = C / (vec ? 8 : 1) >= 512 ? 512 : C / (vec ? 8 : 1) > 128 ? 256 : 128;
    unsigned blocks = (unsigned)(T < NORM_BLOCKS ? T : NORM_BLOCKS);
    if (vec && aligned16(y) && norm_rows_fit(sizeof(E) == 2, T, C)) {
        blocks = norm_rows_blocks(T, C);
        norm_bwd_rows<W><<<blocks, row_threads(C), 0, cs(s)>>>(
            (int)T, (int)C, p1, (const W *)w, dw != 0, (const bf16 *)h, rstd, (const bf16 *)dy, (const bf16 *)dres, (bf16 *)dh, (bf16 *)y, work);
        if (dw) add_parts<<<cdiv(C, 32), dim3(32, STRANDS), 0, cs(s)>>>(C, (int)blocks, work, dw);
        return;
    }
    if (y) norm_fwd_go<E, W>(s, T, C, 0, p1, w, h, 0, 0, y, (float *)rstd, 1);
    size_t sh = dw ? (size_t)C * 4 : 0;
    if (vec) {
        if (sh > 40000) cudaFuncSetAttribute(norm_bwd<E, W, 8>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)sh);
        norm_bwd<E, W, 8><<<blocks, th, sh, cs(s)>>>(T, C, p1, (const W *)w, dw != 0, (const E *)h, rstd, (const E *)dy,
                                                    (const E *)dres, (E *)dh, work);
    } else {
        if (sh > 40000) cudaFuncSetAttribute(norm_bwd<E, W, 1>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)sh);
        norm_bwd<E, W, 1><<<blocks, th, sh, cs(s)>>>(T, C, p1, (const W *)w, dw != 0, (const E *)h, rstd, (const E *)dy,
                                                    (const E *)dres, (E *)dh, work);
    }
    if (dw) add_parts<<<cdiv(C, 32), dim3(32, STRANDS), 0, cs(s)>>>(C, (int)blocks, work, dw);
}

extern "C" void nsk_norm_bwd(nsk_stream s, int b, int wb, int64_t T, int64_t C, int p1, const void *w, float *dw,
                             const void *h, const float *rstd, const void *dy, const void *dres, void *dh, void *y,
                             float *work)
{
    if (T <= 0) return;
    if (b && wb)
        norm_bwd_go<bf16, bf16>(s, T, C, p1, w, dw, h, rstd, dy, dres, dh, y, work);
    else if (b)
        norm_bwd_go<bf16, float>(s, T, C, p1, w, dw, h, rstd, dy, dres, dh, y, work);
    else if (wb)
        norm_bwd_go<float, bf16>(s, T, C, p1, w, dw, h, rstd, dy, dres, dh, y, work);
    else
        norm_bwd_go<float, float>(s, T, C, p1, w, dw, h, rstd, dy, dres, dh, y, work);
}

/* ---- bias gradient: column sums of dy, by parts of its rows ---- */
enum { BIAS_PARTS = 256 };
template <class E> __global__ void column_sums(int64_t M, int64_t N, const E *dy, float *part)
{
    int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, rows = (M + gridDim.y - 1) / gridDim.y;
    int64_t m0 = blockIdx.y * rows, m1 = m0 + rows < M ? m0 + rows : M;
    if (n >= N) return;
    double sum = 0;
    for (int64_t m = m0; m < m1; m++) sum += ld(dy, m * N + n);
    part[blockIdx.y * N + n] = (float)sum;
}
/* The same for bf16 and whole groups of 8 columns: a thread has one group, 8 threads share the rows of a part. */
__global__ void column_sums8(int64_t M, int64_t N, const bf16 *dy, float *part)
{
    __shared__ float s[8][32][9]; /* 9: banks */
    int64_t n = ((int64_t)blockIdx.x * 32 + threadIdx.x) * 8, rows = (M + gridDim.y - 1) / gridDim.y;
    int64_t m0 = blockIdx.y * rows, m1 = m0 + rows < M ? m0 + rows : M;
    float sum[8] = {0};
    if (n < N) {
#pragma unroll 4
        for (int64_t m = m0 + threadIdx.y; m < m1; m += 8) {
            float v[8];
            load<8>(v, dy + m * N + n);
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i] += v[i];
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) s[threadIdx.y][threadIdx.x][i] = sum[i];
    __syncthreads();
    int column = threadIdx.y * 32 + threadIdx.x; /* of the block's 256 */
    n = (int64_t)blockIdx.x * 256 + column;
    if (n >= N) return;
    float all = 0;
    for (int y = 0; y < 8; y++) all += s[y][column / 8][column % 8];
    part[blockIdx.y * N + n] = all;
}

extern "C" int64_t nsk_bias_grad_work(int64_t N) { return BIAS_PARTS * N * 4; }
extern "C" void nsk_bias_grad(nsk_stream s, int b, int64_t M, int64_t N, const void *dy, float *grad, float *work)
{
    unsigned parts = cdiv(M, 32) < BIAS_PARTS ? cdiv(M, 32) : BIAS_PARTS;
    if (M <= 0) return;
    if (b && N % 8 == 0 && aligned16(dy))
        column_sums8<<<dim3(cdiv(N, 256), parts), dim3(32, 8), 0, cs(s)>>>(M, N, (const bf16 *)dy, work);
    else if (b)
        column_sums<<<dim3(cdiv(N, 128), parts), 128, 0, cs(s)>>>(M, N, (const bf16 *)dy, work);
    else
        column_sums<<<dim3(cdiv(N, 128), parts), 128, 0, cs(s)>>>(M, N, (const float *)dy, work);
    add_parts<<<cdiv(N, 32), dim3(32, STRANDS), 0, cs(s)>>>(N, (int)parts, work, grad);
}

/* ---- rotary embedding ---- */
/* i / F for i < n; 32-bit division where it is enough. */
__device__ __forceinline__ int64_t row_of(int64_t i, int64_t n, int64_t F)
{
    return n <= INT32_MAX ? (int64_t)((uint32_t)i / (uint32_t)F) : i / F;
}
template <class E, int V>
__global__ void rope(int64_t n, int64_t n_heads, int64_t hd, int64_t stride, int64_t half, const int32_t *pos,
                     const float *cos_sin, E *qk, float sign)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int64_t per = half / V, q = row_of(i, n, per), j = (i - q * per) * V, t = row_of(q, n, n_heads), h = q - t * n_heads;
    const float *c = cos_sin + ((int64_t)pos[t] * half + j) * 2;
    E *p = qk + t * stride + h * hd + j;
    float a[V], b[V];
    load<V>(a, p);
    load<V>(b, p + half);
#pragma unroll
    for (int k = 0; k < V; k++) {
        float co = c[2 * k], si = sign * c[2 * k + 1], x = a[k], y = b[k];
        a[k] = __fsub_rn(__fmul_rn(x, co), __fmul_rn(y, si));
        b[k] = __fadd_rn(__fmul_rn(y, co), __fmul_rn(x, si));
    }
    store<V>(p, a);
    store<V>(p + half, b);
}

template <class E>
static void rope_go(nsk_stream s, int64_t T, int64_t nh, int64_t hd, int64_t stride, int64_t rot, const int32_t *pos,
                    const float *cs_, void *qk, int inverse)
{
    int64_t half = rot / 2;
    float sign = inverse ? -1.0f : 1.0f;
    int vec = half % 8 == 0 && hd % 8 == 0 && stride % 8 == 0 && aligned16(qk);
    int64_t n = T * nh * (vec ? half / 8 : half);
    if (n <= 0) return;
    if (vec)
        rope<E, 8><<<cdiv(n, 256), 256, 0, cs(s)>>>(n, nh, hd, stride, half, pos, cs_, (E *)qk, sign);
    else
        rope<E, 1><<<cdiv(n, 256), 256, 0, cs(s)>>>(n, nh, hd, stride, half, pos, cs_, (E *)qk, sign);
}

extern "C" void nsk_rope(nsk_stream s, int b, int64_t T, int64_t nh, int64_t hd, int64_t stride, int64_t rot,
                         const int32_t *pos, const float *cs_, void *qk, int inverse)
{
    if (b)
        rope_go<bf16>(s, T, nh, hd, stride, rot, pos, cs_, qk, inverse);
    else
        rope_go<float>(s, T, nh, hd, stride, rot, pos, cs_, qk, inverse);
}

/* ---- activations: 0 SwiGLU, 1 GEGLU (tanh form), 2 squared ReLU (plain) ---- */
__device__ __forceinline__ float nonlinear(int act, float g, float *slope)
{
    if (act == 0) {
        float s = 1.0f / (1.0f + expf(-g));
        *slope = s * (1.0f + g * (1.0f - s));
        return g * s;
    }
    if (act == 1) {
        float k = 0.79788456080286535588f, t = tanhf(k * (g + 0.044715f * g * g * g));
        *slope = 0.5f * (1 + t) + 0.5f * g * (1 - t * t) * k * (1 + 3 * 0.044715f * g * g);
        return 0.5f * g * (1 + t);
    }
    float r = g > 0 ? g : 0;
    *slope = 2 * r;
    return r * r;
}

template <class E, int V> __global__ void act_fwd(int act, int64_t n, int64_t F, const E *x, E *y)
{
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    int64_t t = row_of(i, n, F), f = i - t * F, at = act == 2 ? i : t * 2 * F + f;
    float g[V], u[V], slope;
    load<V>(g, x + at);
    if (act != 2) load<V>(u, x + at + F);
#pragma unroll
    for (int k = 0; k < V; k++) {
        g[k] = nonlinear(act, g[k], &slope);
        if (act != 2) g[k] *= u[k];
    }
    store<V>(y + i, g);
}

template <class E, int V> __global__ void act_bwd(int act, int64_t n, int64_t F, const E *x, const E *dy, E *dx, E *y)
{
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    int64_t t = row_of(i, n, F), f = i - t * F, at = act == 2 ? i : t * 2 * F + f;
    float g[V], u[V], d[V], o[V], slope;
    load<V>(g, x + at);
    load<V>(d, dy + i);
    if (act != 2) load<V>(u, x + at + F);
#pragma unroll
    for (int k = 0; k < V; k++) {
        float v = nonlinear(act, g[k], &slope);
        g[k] = d[k] * slope * (act != 2 ? u[k] : 1.0f);
        o[k] = act != 2 ? v * u[k] : v;
        if (act != 2) u[k] = d[k] * v;
    }
    if (y) store<V>(y + i, o);
    store<V>(dx + at, g);
    if (act != 2) store<V>(dx + at + F, u);
}

template <class E> static void act_go(nsk_stream s, int act, int64_t T, int64_t F, const void *x, void *y, const void *dy, void *dx)
{
    int64_t n = T * F;
    if (n <= 0) return;
    int vec = F % 8 == 0 && aligned16(x) && aligned16(y) && aligned16(dy) && aligned16(dx);
    unsigned g = cdiv(vec ? n / 8 : n, 256);
    if (!dx && vec)
        act_fwd<E, 8><<<g, 256, 0, cs(s)>>>(act, n, F, (const E *)x, (E *)y);
    else if (!dx)
        act_fwd<E, 1><<<g, 256, 0, cs(s)>>>(act, n, F, (const E *)x, (E *)y);
    else if (vec)
        act_bwd<E, 8><<<g, 256, 0, cs(s)>>>(act, n, F, (const E *)x, (const E *)dy, (E *)dx, (E *)y);
    else
        act_bwd<E, 1><<<g, 256, 0, cs(s)>>>(act, n, F, (const E *)x, (const E *)dy, (E *)dx, (E *)y);
}
extern "C" void nsk_act_fwd(nsk_stream s, int b, int act, int64_t T, int64_t F, const void *x, void *y)
{
    if (b)
        act_go<bf16>(s, act, T, F, x, y, 0, 0);
    else
        act_go<float>(s, act, T, F, x, y, 0, 0);
}
extern "C" void nsk_act_bwd(nsk_stream s, int b, int act, int64_t T, int64_t F, const void *x, const void *dy, void *dx, void *y)
{
    if (b)
        act_go<bf16>(s, act, T, F, x, y, dy, dx);
    else
        act_go<float>(s, act, T, F, x, y, dy, dx);
}

/* ---- dropout: Philox4x32-10, counter (element / 4, token, step, op << 24 | layer), as the reference; column 0 is element c0 ---- */
template <class E>
__global__ void dropout(int64_t n, int64_t C, float p, uint32_t op_layer, uint32_t token0, uint32_t k0, uint32_t k1,
                        const uint32_t *step, const E *x, E *y, const uint32_t *token, int64_t c0)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, first = c0 / 4, per = (c0 + C + 3) / 4 - first;
    if (i >= n * per) return;
    int64_t t = i / per, q = first + i % per;
    uint32_t w[4] = {(uint32_t)q, token ? token[t] : token0 + (uint32_t)t, *step, op_layer};
    philox(w, k0, k1);
    float scale = 1.0f / (1.0f - p);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int64_t c = q * 4 + k - c0;
        if (c >= 0 && c < C) st(y, t * C + c, unit(w[k]) >= p ? ld(x, t * C + c) * scale : 0.0f);
    }
}
extern "C" void nsk_dropout(nsk_stream s, int b, int64_t T, int64_t C, float p, uint32_t op_layer, int64_t token0,
                            uint32_t k0, uint32_t k1, const uint32_t *step, const void *x, void *y, const uint32_t *token,
                            int64_t c0)
{
    int64_t n = T * ((c0 + C + 3) / 4 - c0 / 4);
    if (n <= 0) return;
    if (b)
        dropout<<<cdiv(n, 256), 256, 0, cs(s)>>>(T, C, p, op_layer, (uint32_t)token0, k0, k1, step, (const bf16 *)x, (bf16 *)y, token, c0);
    else
        dropout<<<cdiv(n, 256), 256, 0, cs(s)>>>(T, C, p, op_layer, (uint32_t)token0, k0, k1, step, (const float *)x, (float *)y, token, c0);
}

/* ---- add, scatter ---- */
template <class E, int V> __global__ void add_kernel(int64_t n, const E *x, const E *d, E *y)
{
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= n) return;
    float a[V], b[V];
    load<V>(a, x + i);
    load<V>(b, d + i);
#pragma unroll
    for (int k = 0; k < V; k++) a[k] += b[k];
    store<V>(y + i, a);
}
extern "C" void nsk_add(nsk_stream s, int b, int64_t n, const void *x, const void *d, void *y)
{
    if (n <= 0) return;
    int vec = n % 8 == 0 && aligned16(x) && aligned16(d) && aligned16(y);
    unsigned g = cdiv(vec ? n / 8 : n, 256);
    if (b && vec)
        add_kernel<bf16, 8><<<g, 256, 0, cs(s)>>>(n, (const bf16 *)x, (const bf16 *)d, (bf16 *)y);
    else if (b)
        add_kernel<bf16, 1><<<g, 256, 0, cs(s)>>>(n, (const bf16 *)x, (const bf16 *)d, (bf16 *)y);
    else if (vec)
        add_kernel<float, 8><<<g, 256, 0, cs(s)>>>(n, (const float *)x, (const float *)d, (float *)y);
    else
        add_kernel<float, 1><<<g, 256, 0, cs(s)>>>(n, (const float *)x, (const float *)d, (float *)y);
}

/* row NULL: in order */
template <class U>
__global__ void scatter(int64_t cols, const U *src, int64_t stride, U *dst, const int32_t *row, int64_t dst_stride)
{
    int64_t t = blockIdx.x, r = row ? row[t] : t;
    if (r < 0) return;
    for (int64_t c = threadIdx.x; c < cols; c += blockDim.x) dst[r * dst_stride + c] = src[t * stride + c];
}
extern "C" void nsk_scatter(nsk_stream s, int bytes, int64_t T, int64_t cols, const void *src, int64_t stride, void *dst,
                            const int32_t *row, int64_t dst_stride)
{
    if (T <= 0) return;
    if (bytes == 2)
        scatter<<<(unsigned)T, 128, 0, cs(s)>>>(cols, (const uint16_t *)src, stride, (uint16_t *)dst, row, dst_stride);
    else
        scatter<<<(unsigned)T, 128, 0, cs(s)>>>(cols, (const uint32_t *)src, stride, (uint32_t *)dst, row, dst_stride);
}

/* ---- values of several ranks ---- */
template <class E>
__global__ void add_members(int64_t n, E *own, const E *in, int64_t each, int members, int rank)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        float sum = 0;
        for (int r = 0, k = 0; r < members; r++) {
            float x = r == rank ? ld(own, i) : ld(in, k++ * each + i);
            sum = r == 0 ? x : sum + x;
        }
        st(own, i, sum);
    }
}
extern "C" void nsk_add_members(nsk_stream s, int b, int64_t n, void *own, const void *in, int64_t each, int members, int rank)
{
    if (n <= 0) return;
    unsigned g = cdiv(n, 256) < 4096 ? cdiv(n, 256) : 4096;
    if (b)
        add_members<<<g, 256, 0, cs(s)>>>(n, (bf16 *)own, (const bf16 *)in, each, members, rank);
    else
        add_members<<<g, 256, 0, cs(s)>>>(n, (float *)own, (const float *)in, each, members, rank);
}
