/* Attention on the tensor cores (mma.sync m16n8k16, bf16 in, f32 sums), FlashAttention-2 style (Dao 2023), for rows of one
 * flat batch: every query row t sees the keys [lo_t, hi_t), every key row j is seen by queries [qlo_j, qhi_j). Keys lie in the rows of the
 * queries, or in Tk rows of their own (context parallel). Both grow with the row number, so a tile's range is read off its first and last
 * row (`range` array, made by attn_ranges and attn_ranges_kv in attn.cu); segments, windows and the dead tail are nothing but these ranges.
 * Query rows before cu[0] are another call's: what is written there stays.
 *
 * Forward: a block owns a tile of queries, walks over key tiles. Backward is deterministic by construction, without a sum
 * over blocks: one kernel owns query tiles (dQ), one owns key tiles (dK, dV; it loops over the query heads of its group).
 * Rows in shared memory are padded by 16 bytes: HD/8 + 1 is odd for every HD here, so ldmatrix meets no bank twice.
 * Template: HD is the head size in shared memory (columns from head_dim on are zero), MT 16-row tiles a warp. */
#ifndef NS_CUDA_ATTN_MMA_CUH
#define NS_CUDA_ATTN_MMA_CUH

#include "common.cuh"

struct attn_p {
    const bf16 *q, *k, *v, *dout, *out;
    bf16 *o, *dq, *dk, *dv;
    float *lse;
    const float *D;
    const int4 *range; /* lo, hi of a query row; qlo, qhi of a key row */
    int64_t q_stride, k_stride, v_stride, o_stride;
    int T, Tk, n_heads, n_kv, hd, n_seg;
    float scale, softcap;
    const int32_t *cu;
    /* dropout > 0 (template DROP): the counter of ns_attn_args.dropout; seg0: first row of each row's segment */
    float dropout;
    uint32_t key0, key1, op_layer, head0;
    const uint32_t *step, *token;
    const int32_t *seg0;
};

__device__ __forceinline__ int first_row(const attn_p &p) { return p.n_seg > 0 ? p.cu[0] : 0; }
/* lse of a row that saw no key: a live one may, where keys come in parts. */
__device__ __forceinline__ float no_key(const attn_p &p, int t) { return p.n_seg > 0 && t < p.cu[p.n_seg] ? -INFINITY : 0.0f; }

/* What the probability of a query row is multiplied with: the row's words of the counter, and keys j of its segment. */
struct dropped_row {
    uint32_t token;
    int start;
};
__device__ __forceinline__ dropped_row dropped_row_of(const attn_p &p, int t)
{
    dropped_row r = {0, 0};
    if (t < p.T) r.token = p.token ? p.token[t] : (uint32_t)t, r.start = p.seg0[t];
    return r;
}
__device__ __forceinline__ uint32_t head_word(const attn_p &p, int h) { return p.op_layer | (p.head0 + (uint32_t)h) << 12; }
__device__ __forceinline__ float keep_of(const attn_p &p, const uint32_t (&c)[4], int j)
{
    uint32_t w = j & 2 ? (j & 1 ? c[3] : c[2]) : (j & 1 ? c[1] : c[0]);
    return unit(w) >= p.dropout ? 1.0f / (1.0f - p.dropout) : 0.0f;
}
/* Keys key and key + 1 (of the batch). Those that the row does not see give something: their probability is 0. */
__device__ __forceinline__ float2 keep2(const attn_p &p, const dropped_row &r, int key, uint32_t step, uint32_t head)
{
    int j = key - r.start;
    uint32_t c[4] = {(uint32_t)(j >> 2), r.token, step, head};
    philox(c, p.key0, p.key1);
    float2 k;
    k.x = keep_of(p, c, j);
    if ((j & 3) == 3) {
        c[0] = (uint32_t)((j + 1) >> 2), c[1] = r.token, c[2] = step, c[3] = head;
        philox(c, p.key0, p.key1);
    }
    k.y = keep_of(p, c, j + 1);
    return k;
}

__device__ __forceinline__ uint32_t smem_at(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void cp16(void *dst, const void *src, int ok)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(smem_at(dst)), "l"(src), "r"(ok ? 16 : 0));
}
__device__ __forceinline__ void cp_commit() { asm volatile("cp.async.commit_group;\n"); }
template <int N> __device__ __forceinline__ void cp_wait() { asm volatile("cp.async.wait_group %0;\n" ::"n"(N)); }

__device__ __forceinline__ void ldsm(uint32_t (&r)[4], const bf16 *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_at(p)));
}
__device__ __forceinline__ void ldsm_t(uint32_t (&r)[4], const bf16 *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(smem_at(p)));
}
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ uint32_t pack(float a, float b)
{
    __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
    return *(uint32_t *)&h;
}

/* ROWS x HD tile of a [T, .] matrix into shared memory, zeros outside [0, T) and beyond hd columns. */
template <int ROWS, int HD, int NT>
__device__ __forceinline__ void load_tile(bf16 *s, const bf16 *g, int64_t stride, int row0, int T, int hd)
{
    enum { CH = HD / 8, LD = HD + 8 };
#pragma unroll
    for (int i = 0; i < (ROWS * CH + NT - 1) / NT; i++) {
        int at = i * NT + (int)threadIdx.x, r = at / CH, c = at % CH;
        if (ROWS * CH % NT && at >= ROWS * CH) break;
        int ok = row0 + r < T && c * 8 < hd;
        cp16(s + r * LD + c * 8, ok ? g + (int64_t)(row0 + r) * stride + c * 8 : g, ok);
    }
}

/* acc[MT][NB][4] += A[MT*16, HD] B[NB*8, HD]^T, both row-major in shared memory (a: first row of the warp). */
template <int MT, int NB, int HD>
__device__ __forceinline__ void mm_abt(float (&acc)[MT][NB][4], const bf16 *a, const bf16 *b)
{
    enum { LD = HD + 8 };
    int lane = threadIdx.x & 31;
    const bf16 *pa = a + (lane & 15) * LD + (lane >> 4) * 8;
    const bf16 *pb = b + ((lane & 7) + (lane >> 4) * 8) * LD + ((lane >> 3) & 1) * 8;
#pragma unroll
    for (int k = 0; k < HD; k += 16) {
        uint32_t fa[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) ldsm(fa[m], pa + m * 16 * LD + k);
#pragma unroll
        for (int n = 0; n < NB; n += 2) {
            uint32_t fb[4];
            ldsm(fb, pb + n * 8 * LD + k);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma(acc[m][n], fa[m], fb[0], fb[1]);
                mma(acc[m][n + 1], fa[m], fb[2], fb[3]);
            }
        }
    }
}

/* acc[MT][HD/8][4] += P[MT*16, NB*8] B[NB*8, HD]; P in registers (accumulator layout), B row-major in shared memory. */
template <int MT, int NB, int HD>
__device__ __forceinline__ void mm_pb(float (&acc)[MT][HD / 8][4], const float (&p)[MT][NB][4], const bf16 *b)
{
    enum { LD = HD + 8 };
    int lane = threadIdx.x & 31;
    const bf16 *pb = b + ((lane & 7) + ((lane >> 3) & 1) * 8) * LD + (lane >> 4) * 8;
#pragma unroll
    for (int k = 0; k < NB / 2; k++) {
        uint32_t fa[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) {
            fa[m][0] = pack(p[m][2 * k][0], p[m][2 * k][1]);
            fa[m][1] = pack(p[m][2 * k][2], p[m][2 * k][3]);
            fa[m][2] = pack(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);
            fa[m][3] = pack(p[m][2 * k + 1][2], p[m][2 * k + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < HD / 8; n += 2) {
            uint32_t fb[4];
            ldsm_t(fb, pb + k * 16 * LD + n * 8);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma(acc[m][n], fa[m], fb[0], fb[1]);
                mma(acc[m][n + 1], fa[m], fb[2], fb[3]);
            }
        }
    }
}

template <int A, int B> __device__ __forceinline__ void clear(float (&x)[A][B][4])
{
#pragma unroll
    for (int a = 0; a < A; a++)
#pragma unroll
        for (int b = 0; b < B; b++)
#pragma unroll
            for (int i = 0; i < 4; i++) x[a][b][i] = 0;
}

#define LOG2E 1.4426950408889634f
__device__ __forceinline__ int4 range_of(const attn_p &p, int t) /* rows past T: nothing to see */
{
    return t < p.T ? p.range[t] : make_int4(p.T, p.T, p.T, p.T);
}

/* ---- forward ---- */
template <int HD, int MT, int NW, int BN, bool DROP>
__global__ void __launch_bounds__(NW * 32) attn_fwd_mma(attn_p p)
{
    enum { BM = MT * 16 * NW, LD = HD + 8, NT = NW * 32, NB = BN / 8 };
    extern __shared__ __align__(128) char smem[];
    bf16 *sq = (bf16 *)smem, *sk = sq + BM * LD, *sv = sk + 2 * BN * LD;
    int tile = (int)gridDim.x - 1 - (int)blockIdx.x, h = blockIdx.y; /* long rows of a causal batch first */
    int kvh = h / (p.n_heads / p.n_kv), row0 = tile * BM, last = min(row0 + BM, p.T) - 1;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const bf16 *K = p.k + (int64_t)kvh * p.hd, *V = p.v + (int64_t)kvh * p.hd;
    int first = first_row(p);
    if (last < first) return;
    int lo_first = p.range[max(row0, first)].x, hi_last = p.range[last].y, lo_last = p.range[last].x, hi_first = p.range[row0].y;
    int j0 = lo_first / BN * BN, n_tiles = hi_last > j0 ? (hi_last - j0 + BN - 1) / BN : 0;

    load_tile<BM, HD, NT>(sq, p.q + (int64_t)h * p.hd, p.q_stride, row0, p.T, p.hd);
    if (n_tiles) {
        load_tile<BN, HD, NT>(sk, K, p.k_stride, j0, p.Tk, p.hd);
        load_tile<BN, HD, NT>(sv, V, p.v_stride, j0, p.Tk, p.hd);
    }
    cp_commit();
    float o[MT][HD / 8][4], top[MT][2], sum[MT][2];
    int lo[MT][2], hi[MT][2];
    clear(o);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int4 g = range_of(p, row0 + (warp * MT + m) * 16 + r * 8 + lane / 4);
            lo[m][r] = g.x, hi[m][r] = g.y, top[m][r] = -INFINITY, sum[m][r] = 0;
        }
    dropped_row own[MT][2];
    uint32_t step = DROP ? *p.step : 0, head = DROP ? head_word(p, h) : 0;
    if (DROP)
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int r = 0; r < 2; r++) own[m][r] = dropped_row_of(p, row0 + (warp * MT + m) * 16 + r * 8 + lane / 4);
    float to_exp = p.softcap > 0 ? LOG2E : p.scale * LOG2E;
    for (int it = 0; it < n_tiles; it++) {
        int j = j0 + it * BN, st = it & 1;
        if (it + 1 < n_tiles) {
            load_tile<BN, HD, NT>(sk + (st ^ 1) * BN * LD, K, p.k_stride, j + BN, p.Tk, p.hd);
            load_tile<BN, HD, NT>(sv + (st ^ 1) * BN * LD, V, p.v_stride, j + BN, p.Tk, p.hd);
            cp_commit();
            cp_wait<1>();
        } else {
            cp_wait<0>();
        }
        __syncthreads();
        float s[MT][NB][4];
        clear(s);
        mm_abt<MT, NB, HD>(s, sq + warp * MT * 16 * LD, sk + st * BN * LD);
        if (p.softcap > 0)
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < NB; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) s[m][n][i] = p.softcap * tanhf(s[m][n][i] * p.scale / p.softcap);
        if (!(lo_last <= j && j + BN <= hi_first && row0 + BM <= p.T))
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < NB; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        int key = j + n * 8 + (lane & 3) * 2 + (i & 1);
                        if (key < lo[m][i >> 1] || key >= hi[m][i >> 1]) s[m][n][i] = -INFINITY;
                    }
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float t = top[m][r];
#pragma unroll
                for (int n = 0; n < NB; n++) t = fmaxf(t, fmaxf(s[m][n][2 * r], s[m][n][2 * r + 1]));
                t = fmaxf(t, __shfl_xor_sync(0xffffffffu, t, 1));
                t = fmaxf(t, __shfl_xor_sync(0xffffffffu, t, 2));
                float base = t == -INFINITY ? 0 : t * to_exp, f = exp2f(top[m][r] * to_exp - base), add = 0;
                top[m][r] = t;
#pragma unroll
                for (int n = 0; n < NB; n++)
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        float e = exp2f(s[m][n][2 * r + i] * to_exp - base);
                        s[m][n][2 * r + i] = e;
                        add += e;
                    }
                if (DROP)
#pragma unroll
                    for (int n = 0; n < NB; n++) {
                        float2 k = keep2(p, own[m][r], j + n * 8 + (lane & 3) * 2, step, head);
                        s[m][n][2 * r] *= k.x, s[m][n][2 * r + 1] *= k.y;
                    }
                sum[m][r] = sum[m][r] * f + add;
#pragma unroll
                for (int n = 0; n < HD / 8; n++) o[m][n][2 * r] *= f, o[m][n][2 * r + 1] *= f;
            }
        mm_pb<MT, NB, HD>(o, s, sv + st * BN * LD);
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float l = sum[m][r];
            l += __shfl_xor_sync(0xffffffffu, l, 1);
            l += __shfl_xor_sync(0xffffffffu, l, 2);
            int t = row0 + (warp * MT + m) * 16 + r * 8 + lane / 4;
            if (t >= p.T || t < first) continue;
            float inv = l > 0 ? 1.0f / l : 0.0f;
            if (p.lse && (lane & 3) == 0)
                p.lse[(int64_t)h * p.T + t] = l > 0 ? top[m][r] * (p.softcap > 0 ? 1.0f : p.scale) + logf(l) : no_key(p, t);
#pragma unroll
            for (int n = 0; n < HD / 8; n++) {
                int c = n * 8 + (lane & 3) * 2;
                if (c < p.hd)
                    *(uint32_t *)(p.o + (int64_t)t * p.o_stride + (int64_t)h * p.hd + c) =
                        pack(o[m][n][2 * r] * inv, o[m][n][2 * r + 1] * inv);
            }
        }
}

/* p = exp(score - lse) and the slope of the cap, from the raw product; lse in natural units. */
__device__ __forceinline__ float prob(const attn_p &p, float raw, float lse, int seen, float &slope)
{
    slope = p.scale;
    float s = raw * p.scale;
    if (p.softcap > 0) {
        float t = tanhf(s / p.softcap);
        s = p.softcap * t;
        slope = p.scale * (1 - t * t);
    }
    return seen ? exp2f((s - lse) * LOG2E) : 0.0f;
}

/* ---- dQ: a block owns a tile of queries ---- */
template <int HD, int MT, int NW, int BN, bool DROP>
__global__ void __launch_bounds__(NW * 32) attn_dq_mma(attn_p p)
{
    enum { BM = MT * 16 * NW, LD = HD + 8, NT = NW * 32, NB = BN / 8 };
    extern __shared__ __align__(128) char smem[];
    bf16 *sq = (bf16 *)smem, *sd = sq + BM * LD, *sk = sd + BM * LD, *sv = sk + 2 * BN * LD;
    int tile = (int)gridDim.x - 1 - (int)blockIdx.x, h = blockIdx.y;
    int kvh = h / (p.n_heads / p.n_kv), row0 = tile * BM, last = min(row0 + BM, p.T) - 1;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const bf16 *K = p.k + (int64_t)kvh * p.hd, *V = p.v + (int64_t)kvh * p.hd;
    int first = first_row(p);
    if (last < first) return;
    int lo_first = p.range[max(row0, first)].x, hi_last = p.range[last].y, lo_last = p.range[last].x, hi_first = p.range[row0].y;
    int j0 = lo_first / BN * BN, n_tiles = hi_last > j0 ? (hi_last - j0 + BN - 1) / BN : 0;

    load_tile<BM, HD, NT>(sq, p.q + (int64_t)h * p.hd, p.q_stride, row0, p.T, p.hd);
    load_tile<BM, HD, NT>(sd, p.dout + (int64_t)h * p.hd, p.o_stride, row0, p.T, p.hd);
    if (n_tiles) {
        load_tile<BN, HD, NT>(sk, K, p.k_stride, j0, p.Tk, p.hd);
        load_tile<BN, HD, NT>(sv, V, p.v_stride, j0, p.Tk, p.hd);
    }
    cp_commit();
    float dq[MT][HD / 8][4], lse[MT][2], D[MT][2];
    int lo[MT][2], hi[MT][2];
    clear(dq);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int t = row0 + (warp * MT + m) * 16 + r * 8 + lane / 4;
            int4 g = range_of(p, t);
            lo[m][r] = g.x, hi[m][r] = g.y;
            lse[m][r] = t < p.T ? p.lse[(int64_t)h * p.T + t] : 0;
            D[m][r] = t < p.T ? p.D[(int64_t)h * p.T + t] : 0;
        }
    dropped_row own[MT][2];
    uint32_t step = DROP ? *p.step : 0, head = DROP ? head_word(p, h) : 0;
    if (DROP)
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int r = 0; r < 2; r++) own[m][r] = dropped_row_of(p, row0 + (warp * MT + m) * 16 + r * 8 + lane / 4);
    for (int it = 0; it < n_tiles; it++) {
        int j = j0 + it * BN, st = it & 1;
        if (it + 1 < n_tiles) {
            load_tile<BN, HD, NT>(sk + (st ^ 1) * BN * LD, K, p.k_stride, j + BN, p.Tk, p.hd);
            load_tile<BN, HD, NT>(sv + (st ^ 1) * BN * LD, V, p.v_stride, j + BN, p.Tk, p.hd);
            cp_commit();
            cp_wait<1>();
        } else {
            cp_wait<0>();
        }
        __syncthreads();
        float s[MT][NB][4], dp[MT][NB][4];
        clear(s);
        clear(dp);
        mm_abt<MT, NB, HD>(s, sq + warp * MT * 16 * LD, sk + st * BN * LD);
        mm_abt<MT, NB, HD>(dp, sd + warp * MT * 16 * LD, sv + st * BN * LD);
        int whole = lo_last <= j && j + BN <= hi_first && row0 + BM <= p.T;
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < NB; n++) {
                if (DROP)
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        float2 k = keep2(p, own[m][r], j + n * 8 + (lane & 3) * 2, step, head);
                        dp[m][n][2 * r] *= k.x, dp[m][n][2 * r + 1] *= k.y;
                    }
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int key = j + n * 8 + (lane & 3) * 2 + (i & 1), r = i >> 1;
                    float slope, q = prob(p, s[m][n][i], lse[m][r], whole || (key >= lo[m][r] && key < hi[m][r]), slope);
                    s[m][n][i] = q * (dp[m][n][i] - D[m][r]) * slope;
                }
            }
        mm_pb<MT, NB, HD>(dq, s, sk + st * BN * LD);
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int t = row0 + (warp * MT + m) * 16 + r * 8 + lane / 4;
            if (t >= p.T || t < first) continue;
#pragma unroll
            for (int n = 0; n < HD / 8; n++) {
                int c = n * 8 + (lane & 3) * 2;
                if (c < p.hd)
                    *(uint32_t *)(p.dq + (int64_t)t * p.q_stride + (int64_t)h * p.hd + c) =
                        pack(dq[m][n][2 * r], dq[m][n][2 * r + 1]);
            }
        }
}

/* ---- dK, dV: a block owns a tile of keys (16 a warp) and loops over the query heads of the group and their tiles ---- */
template <int HD, int NW, int BQ, bool DROP>
__global__ void __launch_bounds__(NW * 32) attn_dkv_mma(attn_p p)
{
    enum { BK = 16 * NW, LD = HD + 8, NT = NW * 32, NB = BQ / 8 };
    extern __shared__ __align__(128) char smem[];
    bf16 *sk = (bf16 *)smem, *sv = sk + BK * LD, *sq = sv + BK * LD, *sd = sq + 2 * BQ * LD;
    __shared__ float s_lse[2][BQ], s_D[2][BQ];
    __shared__ int s_lo[2][BQ], s_hi[2][BQ];
    __shared__ dropped_row s_row[DROP ? 2 : 1][DROP ? BQ : 1];
    uint32_t step = DROP ? *p.step : 0;
    int tile = blockIdx.x, kvh = blockIdx.y, group = p.n_heads / p.n_kv; /* early keys are seen by most rows: first */
    int key0 = tile * BK, last = min(key0 + BK, p.Tk) - 1;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int t_lo = p.range[key0].z, t_hi = p.range[last].w;
    int t0 = t_lo / BQ * BQ, per = t_hi > t0 ? (t_hi - t0 + BQ - 1) / BQ : 0, n_tiles = per * group;

    load_tile<BK, HD, NT>(sk, p.k + (int64_t)kvh * p.hd, p.k_stride, key0, p.Tk, p.hd);
    load_tile<BK, HD, NT>(sv, p.v + (int64_t)kvh * p.hd, p.v_stride, key0, p.Tk, p.hd);
    auto fetch = [&](int it) {
        int st = it & 1, h = kvh * group + it / per, t = t0 + it % per * BQ;
        load_tile<BQ, HD, NT>(sq + st * BQ * LD, p.q + (int64_t)h * p.hd, p.q_stride, t, p.T, p.hd);
        load_tile<BQ, HD, NT>(sd + st * BQ * LD, p.dout + (int64_t)h * p.hd, p.o_stride, t, p.T, p.hd);
        if (threadIdx.x < BQ) {
            int r = t + (int)threadIdx.x;
            int4 g = range_of(p, r);
            s_lo[st][threadIdx.x] = g.x, s_hi[st][threadIdx.x] = g.y;
            s_lse[st][threadIdx.x] = r < p.T ? p.lse[(int64_t)h * p.T + r] : 0;
            s_D[st][threadIdx.x] = g.x < g.y ? p.D[(int64_t)h * p.T + r] : 0;
            if (DROP) s_row[DROP ? st : 0][DROP ? threadIdx.x : 0] = dropped_row_of(p, r);
        }
    };
    if (n_tiles) fetch(0);
    cp_commit();
    float dk[1][HD / 8][4], dv[1][HD / 8][4];
    clear(dk);
    clear(dv);
    for (int it = 0; it < n_tiles; it++) {
        int st = it & 1, t = t0 + it % per * BQ;
        if (it + 1 < n_tiles) {
            fetch(it + 1);
            cp_commit();
            cp_wait<1>();
        } else {
            cp_wait<0>();
        }
        __syncthreads();
        float s[1][NB][4], dp[1][NB][4];
        clear(s);
        mm_abt<1, NB, HD>(s, sk + warp * 16 * LD, sq + st * BQ * LD); /* S^T: rows are keys, columns queries */
        int whole = s_lo[st][BQ - 1] <= key0 && key0 + BK <= s_hi[st][0] && t + BQ <= p.T;
        clear(dp);
        mm_abt<1, NB, HD>(dp, sv + warp * 16 * LD, sd + st * BQ * LD);
#pragma unroll
        for (int n = 0; n < NB; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int col = n * 8 + (lane & 3) * 2 + (i & 1), key = key0 + warp * 16 + (i >> 1) * 8 + lane / 4;
                float slope, q = prob(p, s[0][n][i], s_lse[st][col], whole || (key >= s_lo[st][col] && key < s_hi[st][col]), slope);
                float keep = 1;
                if (DROP) {
                    const dropped_row &row = s_row[DROP ? st : 0][DROP ? col : 0];
                    uint32_t c[4] = {(uint32_t)((key - row.start) >> 2), row.token, step, head_word(p, kvh * group + it / per)};
                    philox(c, p.key0, p.key1);
                    keep = keep_of(p, c, key - row.start);
                }
                dp[0][n][i] = q * (keep * dp[0][n][i] - s_D[st][col]) * slope;
                s[0][n][i] = q * keep;
            }
        mm_pb<1, NB, HD>(dv, s, sd + st * BQ * LD);
        mm_pb<1, NB, HD>(dk, dp, sq + st * BQ * LD);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int j = key0 + warp * 16 + r * 8 + lane / 4;
        if (j >= p.Tk) continue;
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
            int c = n * 8 + (lane & 3) * 2;
            if (c >= p.hd) continue;
            *(uint32_t *)(p.dk + (int64_t)j * p.k_stride + (int64_t)kvh * p.hd + c) = pack(dk[0][n][2 * r], dk[0][n][2 * r + 1]);
            *(uint32_t *)(p.dv + (int64_t)j * p.v_stride + (int64_t)kvh * p.hd + c) = pack(dv[0][n][2 * r], dv[0][n][2 * r + 1]);
        }
    }
}

/* One head size: shapes of its tiles, launches. `small`: tiles for devices with 99 KB of shared memory a block (sm_86, 89,
 * 120). Called through NS_ATTN_HD in attn_hd*.cu. */
template <class K> static void launch(K kernel, dim3 grid, int threads, int bytes, cudaStream_t s, const attn_p &p)
{
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    kernel<<<grid, threads, bytes, s>>>(p);
}
template <int HD, int MT, int BN, bool DROP = false> static void go_fwd(cudaStream_t s, const attn_p &p)
{
    launch(attn_fwd_mma<HD, MT, 4, BN, DROP>, dim3(cdiv(p.T, MT * 64), p.n_heads), 128, (MT * 64 + 4 * BN) * (HD + 8) * 2, s, p);
}
template <int HD, int MT, int BN, bool DROP = false> static void go_dq(cudaStream_t s, const attn_p &p)
{
    launch(attn_dq_mma<HD, MT, 4, BN, DROP>, dim3(cdiv(p.T, MT * 64), p.n_heads), 128, (MT * 128 + 4 * BN) * (HD + 8) * 2, s, p);
}
template <int HD, int NW, int BQ, bool DROP = false> static void go_dkv(cudaStream_t s, const attn_p &p)
{
    launch(attn_dkv_mma<HD, NW, BQ, DROP>, dim3(cdiv(p.Tk, NW * 16), p.n_kv), NW * 32, (NW * 32 + 4 * BQ) * (HD + 8) * 2, s, p);
}
/* With dropout, which costs more than the tiles: the small ones. */
/* big and small: (forward MT, BN), (dQ MT, BN), (dKV warps, BQ) */
#define NS_ATTN_HD(HD, FM, FB, QM, QB, KW, KB, fm, fb, qm, qb, kw, kb)       \
    void nsk_attn_fwd_##HD(cudaStream_t s, const attn_p &p, int small)       \
    {                                                                        \
        if (p.dropout > 0)                                                   \
            go_fwd<HD, fm, fb, true>(s, p);                                  \
        else                                                                 \
            small ? go_fwd<HD, fm, fb>(s, p) : go_fwd<HD, FM, FB>(s, p);     \
    }                                                                        \
    void nsk_attn_bwd_##HD(cudaStream_t s, const attn_p &p, int small)       \
    {                                                                        \
        if (p.dropout > 0) {                                                 \
            go_dkv<HD, kw, kb, true>(s, p);                                  \
            go_dq<HD, qm, qb, true>(s, p);                                   \
            return;                                                          \
        }                                                                    \
        small ? go_dkv<HD, kw, kb>(s, p) : go_dkv<HD, KW, KB>(s, p);         \
        small ? go_dq<HD, qm, qb>(s, p) : go_dq<HD, QM, QB>(s, p);           \
    }

#endif
