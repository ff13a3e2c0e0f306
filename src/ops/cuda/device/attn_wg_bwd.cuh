/* The two backward kernels of attn_wg.cuh without soft cap, with their products in flight while the exponentials are made:
 *
 *   wait for S(i)        dP(i) runs      P = exp2(S k - lse), masked where the tile is not whole
 *   wait for dP(i)       dV += P^T dO    dS = P (dP - D)
 *                        dK += dS^T Q    S(i+1), dP(i+1) are started before this ends
 *
 * The scale of the scores is left out of dS and put on the sums at the end. A stage of shared memory is loaded again after the
 * barrier behind the wait that ends its last product. Sums and their order: as in attn_wg.cuh, so runs repeat their bits. */
#ifndef NS_CUDA_ATTN_WG_BWD_CUH
#define NS_CUDA_ATTN_WG_BWD_CUH

#include "attn_wg.cuh"

__device__ __forceinline__ void wg_commit()
{
#ifdef NS_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
#endif
}
template <int N> __device__ __forceinline__ void wg_wait_but() /* the last N groups may still run */
{
#ifdef NS_WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(N) : "memory");
#endif
}
/* Accumulators are read behind this and not before. */
template <int B> __device__ __forceinline__ void wg_hold(float (&x)[B][4])
{
#pragma unroll
    for (int b = 0; b < B; b++)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+f"(x[b][i])::"memory");
}
__device__ __forceinline__ float wg_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* A whole product in one statement, so that no copy of an accumulator comes between its parts. Tiles of 64 rows. */
#define WG_F4(c, d, b) c(d[b][0]), c(d[b][1]), c(d[b][2]), c(d[b][3])
#define WG_F32(c, d) WG_F4(c, d, 0), WG_F4(c, d, 1), WG_F4(c, d, 2), WG_F4(c, d, 3), WG_F4(c, d, 4), WG_F4(c, d, 5), WG_F4(c, d, 6), WG_F4(c, d, 7)
#define WG_F64(c, d) WG_F32(c, d), WG_F4(c, d, 8), WG_F4(c, d, 9), WG_F4(c, d, 10), WG_F4(c, d, 11), WG_F4(c, d, 12), WG_F4(c, d, 13), WG_F4(c, d, 14), WG_F4(c, d, 15)
#define WG_R32 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define WG_R64 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define WG_SS(on, at_) "add.u64 a, %32, " #at_ ";\nadd.u64 b, %33, " #at_ ";\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WG_R32 ", a, b, " on ", 1, 1, 0, 0;\n"
template <int HD> struct wg_abt1; /* acc[64, 64] = A B^T over HD columns */
template <> struct wg_abt1<64> {
    static __device__ __forceinline__ void go(float (&d)[8][4], uint32_t a, uint32_t b)
    {
#ifdef NS_WGMMA
        asm volatile("{.reg .pred p, z;\n.reg .b64 a, b;\nsetp.ne.b32 p, 1, 0;\nsetp.ne.b32 z, 0, 0;\n"
                     WG_SS("z", 0) WG_SS("p", 2) WG_SS("p", 4) WG_SS("p", 6) "}\n"
                     : WG_F32("=f", d)
                     : "l"(wg_desc(a, 16, 1024)), "l"(wg_desc(b, 16, 1024)));
#endif
    }
};
template <> struct wg_abt1<128> {
    static __device__ __forceinline__ void go(float (&d)[8][4], uint32_t a, uint32_t b)
    {
#ifdef NS_WGMMA
        asm volatile("{.reg .pred p, z;\n.reg .b64 a, b;\nsetp.ne.b32 p, 1, 0;\nsetp.ne.b32 z, 0, 0;\n"
                     WG_SS("z", 0) WG_SS("p", 2) WG_SS("p", 4) WG_SS("p", 6) WG_SS("p", 512) WG_SS("p", 514) WG_SS("p", 516) WG_SS("p", 518) "}\n"
                     : WG_F32("=f", d)
                     : "l"(wg_desc(a, 16, 1024)), "l"(wg_desc(b, 16, 1024)));
#endif
    }
};
#define WG_P(x) "r"(x[0][0]), "r"(x[0][1]), "r"(x[1][0]), "r"(x[1][1]), "r"(x[2][0]), "r"(x[2][1]), "r"(x[3][0]), "r"(x[3][1]), "r"(x[4][0]), "r"(x[4][1]), "r"(x[5][0]), "r"(x[5][1]), "r"(x[6][0]), "r"(x[6][1]), "r"(x[7][0]), "r"(x[7][1])
template <int HD> struct wg_pb1; /* acc[64, HD] = P[64, 64] B, or += */
template <> struct wg_pb1<64> {
    static __device__ __forceinline__ void go(float (&d)[8][4], const uint32_t (&x)[8][2], uint32_t b, int add)
    {
#ifdef NS_WGMMA
        asm volatile("{.reg .pred p, q;\n.reg .b64 b;\nsetp.ne.b32 p, 1, 0;\n"
                     "setp.ne.b32 q, %49, 0;\nadd.u64 b, %48, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WG_R32 ", {%32, %33, %34, %35}, b, q, 1, 1, 1;\n"
                     "add.u64 b, %48, 128;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WG_R32 ", {%36, %37, %38, %39}, b, p, 1, 1, 1;\n"
                     "add.u64 b, %48, 256;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WG_R32 ", {%40, %41, %42, %43}, b, p, 1, 1, 1;\n"
                     "add.u64 b, %48, 384;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WG_R32 ", {%44, %45, %46, %47}, b, p, 1, 1, 1;\n"
                     "}\n"
                     : WG_F32("+f", d)
                     : WG_P(x), "l"(wg_desc(b, 64 * 128, 1024)), "r"(add));
#endif
    }
};
template <> struct wg_pb1<128> {
    static __device__ __forceinline__ void go(float (&d)[16][4], const uint32_t (&x)[8][2], uint32_t b, int add)
    {
#ifdef NS_WGMMA
        asm volatile("{.reg .pred p, q;\n.reg .b64 b;\nsetp.ne.b32 p, 1, 0;\n"
                     "setp.ne.b32 q, %81, 0;\nadd.u64 b, %80, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WG_R64 ", {%64, %65, %66, %67}, b, q, 1, 1, 1;\n"
                     "add.u64 b, %80, 128;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WG_R64 ", {%68, %69, %70, %71}, b, p, 1, 1, 1;\n"
                     "add.u64 b, %80, 256;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WG_R64 ", {%72, %73, %74, %75}, b, p, 1, 1, 1;\n"
                     "add.u64 b, %80, 384;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WG_R64 ", {%76, %77, %78, %79}, b, p, 1, 1, 1;\n"
                     "}\n"
                     : WG_F64("+f", d)
                     : WG_P(x), "l"(wg_desc(b, 64 * 128, 1024)), "r"(add));
#endif
    }
};

template <int HD, int BLOCKS>
__global__ void __launch_bounds__(128, BLOCKS) attn_dq_wgp(attn_p p)
{
    enum { BM = 64, BN = 64, NT = 128, NB = 8, QB = BM * HD * 2, KB = BN * HD * 2 };
    extern __shared__ __align__(1024) char panels[];
    uint32_t sq = smem_at(panels), sd = sq + QB, sk = sd + QB, sv = sk + 2 * KB;
    int tile = (int)gridDim.y - 1 - (int)blockIdx.y, h = blockIdx.x; /* the long ones of all heads first */
    int kvh = h / (p.n_heads / p.n_kv), row0 = tile * BM, last = min(row0 + BM, p.T) - 1;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const bf16 *K = p.k + (int64_t)kvh * p.hd, *V = p.v + (int64_t)kvh * p.hd;
    int first = first_row(p);
    if (last < first) return;
    int lo_first = p.range[max(row0, first)].x, hi_last = p.range[last].y, lo_last = p.range[last].x, hi_first = p.range[row0].y;
    int j0 = lo_first / BN * BN, n_tiles = hi_last > j0 ? (hi_last - j0 + BN - 1) / BN : 0;
    float dq[HD / 8][4], lse[2], D[2], k = p.scale * LOG2E;
    int lo[2], hi[2];
    if (n_tiles) {
        wg_load<BM, HD, NT>(panels, p.q + (int64_t)h * p.hd, p.q_stride, row0, p.T, p.hd);
        wg_load<BM, HD, NT>(panels + QB, p.dout + (int64_t)h * p.hd, p.o_stride, row0, p.T, p.hd);
        wg_load<BN, HD, NT>(panels + 2 * QB, K, p.k_stride, j0, p.Tk, p.hd);
        wg_load<BN, HD, NT>(panels + 2 * QB + 2 * KB, V, p.v_stride, j0, p.Tk, p.hd);
        cp_commit();
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int t = row0 + warp * 16 + r * 8 + lane / 4;
            int4 g = range_of(p, t);
            lo[r] = g.x, hi[r] = g.y;
            lse[r] = t < p.T ? p.lse[(int64_t)h * p.T + t] * LOG2E : 0;
            D[r] = t < p.T ? p.D[(int64_t)h * p.T + t] : 0;
        }
    }
#pragma unroll 1
    for (int it = 0; it < n_tiles; it++) {
        int j = j0 + it * BN, st = it & 1;
        float s[NB][4], dp[NB][4];
        cp_wait<0>();
        wg_proxy();
        __syncthreads();
        wg_fence();
        wg_abt1<HD>::go(s, sq, sk + st * KB);
        wg_commit();
        wg_abt1<HD>::go(dp, sd, sv + st * KB);
        wg_commit();
        wg_wait_but<1>(); /* S, and dQ of the tile before */
        wg_hold(s);
        __syncthreads();
        if (it + 1 < n_tiles) {
            wg_load<BN, HD, NT>(panels + 2 * QB + (st ^ 1) * KB, K, p.k_stride, j + BN, p.Tk, p.hd);
            wg_load<BN, HD, NT>(panels + 2 * QB + (2 + (st ^ 1)) * KB, V, p.v_stride, j + BN, p.Tk, p.hd);
            cp_commit();
        }
        float pr[NB][4];
#pragma unroll
        for (int n = 0; n < NB; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) pr[n][i] = wg_exp2(s[n][i] * k - lse[i >> 1]);
        if (!(lo_last <= j && j + BN <= hi_first && row0 + BM <= p.T)) {
#pragma unroll
            for (int n = 0; n < NB; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int key = j + n * 8 + (lane & 3) * 2 + (i & 1);
                    if (key < lo[i >> 1] || key >= hi[i >> 1]) pr[n][i] = 0;
                }
        }
        wg_wait_but<0>();
        wg_hold(dp);
#pragma unroll
        for (int n = 0; n < NB; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) pr[n][i] *= dp[n][i] - D[i >> 1];
        uint32_t pp[NB][2];
        wg_pack<BN>(pp, pr);
        wg_fence();
        wg_pb1<HD>::go(dq, pp, sk + st * KB, it);
        wg_commit();
    }
    wg_wait_but<0>();
    wg_hold(dq);
    if (!n_tiles) wg_clear(dq);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int t = row0 + warp * 16 + r * 8 + lane / 4;
        if (t >= p.T || t < first) continue;
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
            int c = n * 8 + (lane & 3) * 2;
            if (c < p.hd)
                *(uint32_t *)(p.dq + (int64_t)t * p.q_stride + (int64_t)h * p.hd + c) =
                    pack(dq[n][2 * r] * p.scale, dq[n][2 * r + 1] * p.scale);
        }
    }
}

template <int HD, int BLOCKS>
__global__ void __launch_bounds__(128, BLOCKS) attn_dkv_wgp(attn_p p)
{
    enum { BK = 64, BQ = 64, NT = 128, NB = 8, KB = BK * HD * 2, QB = BQ * HD * 2 };
    extern __shared__ __align__(1024) char panels[];
    __shared__ __align__(16) float s_lse[2][BQ], s_D[2][BQ];
    __shared__ int s_lo[2][BQ], s_hi[2][BQ];
    uint32_t sk = smem_at(panels), sv = sk + KB, sq = sv + KB, sd = sq + 2 * QB;
    int tile = blockIdx.y, kvh = blockIdx.x, group = p.n_heads / p.n_kv;
    int key0 = tile * BK, last = min(key0 + BK, p.Tk) - 1, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int t_lo = p.range[key0].z, t_hi = p.range[last].w;
    int t0 = t_lo / BQ * BQ, per = t_hi > t0 ? (t_hi - t0 + BQ - 1) / BQ : 0, n_tiles = per * group;
    int h_next = kvh * group, t_next = t0; /* head and first row of the next tile to load */
    auto fetch = [&](int st) {
        wg_load<BQ, HD, NT>(panels + 2 * KB + st * QB, p.q + (int64_t)h_next * p.hd, p.q_stride, t_next, p.T, p.hd);
        wg_load<BQ, HD, NT>(panels + 2 * KB + (2 + st) * QB, p.dout + (int64_t)h_next * p.hd, p.o_stride, t_next, p.T, p.hd);
        if (threadIdx.x < BQ) {
            int r = t_next + (int)threadIdx.x;
            int4 g = range_of(p, r);
            s_lo[st][threadIdx.x] = g.x, s_hi[st][threadIdx.x] = g.y;
            s_lse[st][threadIdx.x] = r < p.T ? p.lse[(int64_t)h_next * p.T + r] * LOG2E : 0;
            s_D[st][threadIdx.x] = g.x < g.y ? p.D[(int64_t)h_next * p.T + r] : 0;
        }
        t_next += BQ;
        if (t_next >= t0 + per * BQ) t_next = t0, h_next++;
    };
    float dk[HD / 8][4], dv[HD / 8][4], k = p.scale * LOG2E;
    if (n_tiles) {
        wg_load<BK, HD, NT>(panels, p.k + (int64_t)kvh * p.hd, p.k_stride, key0, p.Tk, p.hd);
        wg_load<BK, HD, NT>(panels + KB, p.v + (int64_t)kvh * p.hd, p.v_stride, key0, p.Tk, p.hd);
        fetch(0);
        cp_commit();
    }
    int t = t0;
#pragma unroll 1
    for (int it = 0; it < n_tiles; it++) {
        int st = it & 1;
        float s[NB][4], dp[NB][4];
        cp_wait<0>();
        wg_proxy();
        __syncthreads();
        wg_fence();
        wg_abt1<HD>::go(s, sk, sq + st * QB);
        wg_commit();
        wg_abt1<HD>::go(dp, sv, sd + st * QB);
        wg_commit();
        wg_wait_but<1>(); /* S, and dV, dK of the tile before */
        wg_hold(s);
        __syncthreads();
        if (it + 1 < n_tiles) {
            fetch(st ^ 1);
            cp_commit();
        }
        int whole = s_lo[st][BQ - 1] <= key0 && key0 + BK <= s_hi[st][0] && t + BQ <= p.T;
        float pr[NB][4];
#pragma unroll
        for (int n = 0; n < NB; n++) {
            float2 l = *(const float2 *)&s_lse[st][n * 8 + (lane & 3) * 2];
#pragma unroll
            for (int i = 0; i < 4; i++) pr[n][i] = wg_exp2(s[n][i] * k - (i & 1 ? l.y : l.x));
        }
        if (!whole) {
#pragma unroll
            for (int n = 0; n < NB; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int col = n * 8 + (lane & 3) * 2 + (i & 1), key = key0 + warp * 16 + (i >> 1) * 8 + lane / 4;
                    if (key < s_lo[st][col] || key >= s_hi[st][col]) pr[n][i] = 0;
                }
        }
        uint32_t pp[NB][2], pd[NB][2];
        wg_pack<BQ>(pp, pr);
        wg_fence();
        wg_pb1<HD>::go(dv, pp, sd + st * QB, it);
        wg_commit();
        wg_wait_but<1>(); /* dP */
        wg_hold(dp);
#pragma unroll
        for (int n = 0; n < NB; n++) {
            float2 d = *(const float2 *)&s_D[st][n * 8 + (lane & 3) * 2];
#pragma unroll
            for (int i = 0; i < 4; i++) pr[n][i] *= dp[n][i] - (i & 1 ? d.y : d.x);
        }
        wg_pack<BQ>(pd, pr);
        wg_fence();
        wg_pb1<HD>::go(dk, pd, sq + st * QB, it);
        wg_commit();
        t += BQ;
        if (t >= t0 + per * BQ) t = t0;
    }
    wg_wait_but<0>();
    wg_hold(dk);
    wg_hold(dv);
    if (!n_tiles) wg_clear(dk), wg_clear(dv);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int j = key0 + warp * 16 + r * 8 + lane / 4;
        if (j >= p.Tk) continue;
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
            int c = n * 8 + (lane & 3) * 2;
            if (c >= p.hd) continue;
            *(uint32_t *)(p.dk + (int64_t)j * p.k_stride + (int64_t)kvh * p.hd + c) =
                pack(dk[n][2 * r] * p.scale, dk[n][2 * r + 1] * p.scale);
            *(uint32_t *)(p.dv + (int64_t)j * p.v_stride + (int64_t)kvh * p.hd + c) = pack(dv[n][2 * r], dv[n][2 * r + 1]);
        }
    }
}

template <int HD, int BLOCKS> static void wgp_dq(cudaStream_t s, const attn_p &p)
{
    launch(attn_dq_wgp<HD, BLOCKS>, dim3(p.n_heads, cdiv(p.T, 64)), 128, 6 * 64 * HD * 2, s, p);
}
template <int HD, int BLOCKS> static void wgp_dkv(cudaStream_t s, const attn_p &p)
{
    launch(attn_dkv_wgp<HD, BLOCKS>, dim3(p.n_kv, cdiv(p.Tk, 64)), 128, 6 * 64 * HD * 2, s, p);
}

#endif
