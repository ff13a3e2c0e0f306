/* Attention on Hopper's warpgroup products (wgmma, sm_90a): the kernels of attn_mma.cuh with the same tiles of ranges, masks,
 * orders of sums and outputs; a warpgroup of 128 threads owns 64 rows and reads the other operand from shared memory once
 * for all of them, where mma.sync reads it once a warp. Generic twin: attn_mma.cuh (NS_CUDA_SMALL_TILES=1 forces it).
 *
 * Shared tiles are panels of 64 columns: [panel][row][128 bytes], 16-byte chunk c of row r at c ^ (r & 7): the 128-byte
 * swizzle that wgmma reads. As an operand A B^T (rows are outer, columns are summed) a panel is K-major, 8 rows every 1024
 * bytes; as P B (rows are summed) it is MN-major, panels a panel size apart. Panels start at multiples of 1024 bytes.
 * Accumulators have the layout of m16n8 tiles, warp w of the group owning rows 16w..16w+15: as in attn_mma.cuh. */
#ifndef NS_CUDA_ATTN_WG_CUH
#define NS_CUDA_ATTN_WG_CUH

#include "attn_mma.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define NS_WGMMA 1
#endif

__device__ __forceinline__ uint64_t wg_desc(uint32_t addr, uint32_t lead, uint32_t stride)
{
    return (uint64_t)((addr & 0x3ffff) >> 4) | (uint64_t)(lead >> 4) << 16 | (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}
__device__ __forceinline__ void wg_fence()
{
#ifdef NS_WGMMA
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#endif
}
__device__ __forceinline__ void wg_wait()
{
#ifdef NS_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n" ::: "memory");
#endif
}
__device__ __forceinline__ void wg_proxy() /* what cp.async wrote, seen by wgmma */
{
#ifdef NS_WGMMA
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
}
template <int N> struct wg_ss; /* acc[64,N] (+)= A B^T, both in shared memory, K-major */
template <int N> struct wg_rs; /* acc[64,N] += A B, A in registers, B in shared memory, MN-major */

template <int N> struct wg_ss0; /* the same, the old acc is not read: products in flight may follow each other */
template <> struct wg_ss0<64> {
    static __device__ __forceinline__ void go(float (&d)[8][4], uint64_t a, uint64_t b)
    {
#ifdef NS_WGMMA
        asm volatile("{.reg .pred p;\nsetp.ne.b32 p, 0, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, 0, 0;}\n"
                     : "=f"(d[0][0]), "=f"(d[0][1]), "=f"(d[0][2]), "=f"(d[0][3]), "=f"(d[1][0]), "=f"(d[1][1]), "=f"(d[1][2]), "=f"(d[1][3]), "=f"(d[2][0]), "=f"(d[2][1]), "=f"(d[2][2]), "=f"(d[2][3]), "=f"(d[3][0]), "=f"(d[3][1]), "=f"(d[3][2]), "=f"(d[3][3]), "=f"(d[4][0]), "=f"(d[4][1]), "=f"(d[4][2]), "=f"(d[4][3]), "=f"(d[5][0]), "=f"(d[5][1]), "=f"(d[5][2]), "=f"(d[5][3]), "=f"(d[6][0]), "=f"(d[6][1]), "=f"(d[6][2]), "=f"(d[6][3]), "=f"(d[7][0]), "=f"(d[7][1]), "=f"(d[7][2]), "=f"(d[7][3])
                     : "l"(a), "l"(b));
#endif
    }
};
template <> struct wg_ss0<128> {
    static __device__ __forceinline__ void go(float (&d)[16][4], uint64_t a, uint64_t b)
    {
#ifdef NS_WGMMA
        asm volatile("{.reg .pred p;\nsetp.ne.b32 p, 0, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1, 0, 0;}\n"
                     : "=f"(d[0][0]), "=f"(d[0][1]), "=f"(d[0][2]), "=f"(d[0][3]), "=f"(d[1][0]), "=f"(d[1][1]), "=f"(d[1][2]), "=f"(d[1][3]), "=f"(d[2][0]), "=f"(d[2][1]), "=f"(d[2][2]), "=f"(d[2][3]), "=f"(d[3][0]), "=f"(d[3][1]), "=f"(d[3][2]), "=f"(d[3][3]), "=f"(d[4][0]), "=f"(d[4][1]), "=f"(d[4][2]), "=f"(d[4][3]), "=f"(d[5][0]), "=f"(d[5][1]), "=f"(d[5][2]), "=f"(d[5][3]), "=f"(d[6][0]), "=f"(d[6][1]), "=f"(d[6][2]), "=f"(d[6][3]), "=f"(d[7][0]), "=f"(d[7][1]), "=f"(d[7][2]), "=f"(d[7][3]), "=f"(d[8][0]), "=f"(d[8][1]), "=f"(d[8][2]), "=f"(d[8][3]), "=f"(d[9][0]), "=f"(d[9][1]), "=f"(d[9][2]), "=f"(d[9][3]), "=f"(d[10][0]), "=f"(d[10][1]), "=f"(d[10][2]), "=f"(d[10][3]), "=f"(d[11][0]), "=f"(d[11][1]), "=f"(d[11][2]), "=f"(d[11][3]), "=f"(d[12][0]), "=f"(d[12][1]), "=f"(d[12][2]), "=f"(d[12][3]), "=f"(d[13][0]), "=f"(d[13][1]), "=f"(d[13][2]), "=f"(d[13][3]), "=f"(d[14][0]), "=f"(d[14][1]), "=f"(d[14][2]), "=f"(d[14][3]), "=f"(d[15][0]), "=f"(d[15][1]), "=f"(d[15][2]), "=f"(d[15][3])
                     : "l"(a), "l"(b));
#endif
    }
};
template <> struct wg_ss<64> {
    static __device__ __forceinline__ void go(float (&d)[8][4], uint64_t a, uint64_t b, int add)
    {
#ifdef NS_WGMMA
        asm volatile("{.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, 0, 0;}\n"
                     : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
                     : "l"(a), "l"(b), "r"(add));
#endif
    }
};
template <> struct wg_rs<64> {
    static __device__ __forceinline__ void go(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b)
    {
#ifdef NS_WGMMA
        asm volatile("{.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;}\n"
                     : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#endif
    }
};
template <> struct wg_ss<128> {
    static __device__ __forceinline__ void go(float (&d)[16][4], uint64_t a, uint64_t b, int add)
    {
#ifdef NS_WGMMA
        asm volatile("{.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1, 0, 0;}\n"
                     : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]), "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]), "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]), "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3])
                     : "l"(a), "l"(b), "r"(add));
#endif
    }
};
template <> struct wg_rs<128> {
    static __device__ __forceinline__ void go(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b)
    {
#ifdef NS_WGMMA
        asm volatile("{.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;}\n"
                     : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]), "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]), "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]), "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#endif
    }
};

/* ROWS x HD tile into panels; zeros outside [0, T) and beyond hd columns. HD a multiple of 64. */
template <int ROWS, int HD, int NT>
__device__ __forceinline__ void wg_load(char *s, const bf16 *g, int64_t stride, int row0, int T, int hd)
{
    enum { CH = HD / 8, STEP = NT / CH }; /* rows between two chunks of a thread: a multiple of 8, so its swizzle stays */
    static_assert(STEP % 8 == 0 && ROWS % STEP == 0, "whole swizzle groups");
    int r = (int)threadIdx.x / CH, c = (int)threadIdx.x % CH, rows = c * 8 < hd ? T - row0 - r : 0;
    const bf16 *from = g + (int64_t)(row0 + r) * stride + c * 8;
    char *to = s + (c >> 3) * (ROWS * 128) + r * 128 + (((c & 7) ^ (r & 7)) << 4);
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++) {
        int ok = i * STEP < rows;
        cp16(to + i * STEP * 128, ok ? from : g, ok);
        from += STEP * stride;
    }
}

/* acc[64 rows of the group, N] = A B^T; a: tile of AROWS rows, first row a_row (multiple of 64); b: tile of N rows. */
template <int N, int HD, int AROWS>
__device__ __forceinline__ void wg_abt(float (&acc)[N / 8][4], uint32_t a, int a_row, uint32_t b)
{
#pragma unroll
    for (int k = 0; k < HD; k += 16) {
        uint64_t da = wg_desc(a + (k / 64) * (AROWS * 128) + a_row * 128 + (k % 64) * 2, 16, 1024);
        uint64_t db = wg_desc(b + (k / 64) * (N * 128) + (k % 64) * 2, 16, 1024);
        k ? wg_ss<N>::go(acc, da, db, 1) : wg_ss0<N>::go(acc, da, db);
    }
}

/* acc[64, HD] += P B; P: accumulators of N columns, rounded to bf16; b: tile of N rows. */
template <int N, int HD>
__device__ __forceinline__ void wg_pb(float (&acc)[HD / 8][4], const uint32_t (&p)[N / 8][2], uint32_t b)
{
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        uint32_t fa[4] = {p[2 * k][0], p[2 * k][1], p[2 * k + 1][0], p[2 * k + 1][1]};
        wg_rs<HD>::go(acc, fa, wg_desc(b + k * 2048, N * 128, 1024));
    }
}
template <int N> __device__ __forceinline__ void wg_pack(uint32_t (&p)[N / 8][2], const float (&s)[N / 8][4])
{
#pragma unroll
    for (int n = 0; n < N / 8; n++) p[n][0] = pack(s[n][0], s[n][1]), p[n][1] = pack(s[n][2], s[n][3]);
}
template <int B> __device__ __forceinline__ void wg_clear(float (&x)[B][4])
{
#pragma unroll
    for (int b = 0; b < B; b++)
#pragma unroll
        for (int i = 0; i < 4; i++) x[b][i] = 0;
}

/* ---- forward: G warpgroups share the key tiles ---- */
template <int HD, int G, int BN, int CAP, int BLOCKS>
__global__ void __launch_bounds__(G * 128, BLOCKS) attn_fwd_wg(attn_p p)
{
    enum { BM = 64 * G, NT = G * 128, NB = BN / 8, QB = BM * HD * 2, KB = BN * HD * 2 };
    extern __shared__ __align__(1024) char panels[];
    uint32_t sq = smem_at(panels), sk = sq + QB, sv = sk + 2 * KB;
    int tile = (int)gridDim.x - 1 - (int)blockIdx.x, h = blockIdx.y;
    int kvh = h / (p.n_heads / p.n_kv), row0 = tile * BM, last = min(row0 + BM, p.T) - 1;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const bf16 *K = p.k + (int64_t)kvh * p.hd, *V = p.v + (int64_t)kvh * p.hd;
    int first = first_row(p);
    if (last < first) return;
    int lo_first = p.range[max(row0, first)].x, hi_last = p.range[last].y, lo_last = p.range[last].x, hi_first = p.range[row0].y;
    int j0 = lo_first / BN * BN, n_tiles = hi_last > j0 ? (hi_last - j0 + BN - 1) / BN : 0;
    wg_load<BM, HD, NT>(panels, p.q + (int64_t)h * p.hd, p.q_stride, row0, p.T, p.hd);
    if (n_tiles) {
        wg_load<BN, HD, NT>(panels + QB, K, p.k_stride, j0, p.Tk, p.hd);
        wg_load<BN, HD, NT>(panels + QB + 2 * KB, V, p.v_stride, j0, p.Tk, p.hd);
    }
    cp_commit();
    float o[HD / 8][4], top[2], sum[2];
    int lo[2], hi[2];
    wg_clear(o);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int4 g = range_of(p, row0 + warp * 16 + r * 8 + lane / 4);
        lo[r] = g.x, hi[r] = g.y, top[r] = -INFINITY, sum[r] = 0;
    }
    float to_exp = CAP ? LOG2E : p.scale * LOG2E;
    for (int it = 0; it < n_tiles; it++) {
        int j = j0 + it * BN, st = it & 1;
        if (it + 1 < n_tiles) {
            wg_load<BN, HD, NT>(panels + QB + (st ^ 1) * KB, K, p.k_stride, j + BN, p.Tk, p.hd);
            wg_load<BN, HD, NT>(panels + QB + (2 + (st ^ 1)) * KB, V, p.v_stride, j + BN, p.Tk, p.hd);
            cp_commit();
            cp_wait<1>();
        } else {
            cp_wait<0>();
        }
        wg_proxy();
        __syncthreads();
        float s[NB][4];
        wg_fence();
        wg_abt<BN, HD, BM>(s, sq, (warp >> 2) * 64, sk + st * KB);
        wg_wait();
        if (CAP)
#pragma unroll
            for (int n = 0; n < NB; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[n][i] = p.softcap * tanhf(s[n][i] * p.scale / p.softcap);
        if (!(lo_last <= j && j + BN <= hi_first && row0 + BM <= p.T))
#pragma unroll
            for (int n = 0; n < NB; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int key = j + n * 8 + (lane & 3) * 2 + (i & 1);
                    if (key < lo[i >> 1] || key >= hi[i >> 1]) s[n][i] = -INFINITY;
                }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float t = top[r];
#pragma unroll
            for (int n = 0; n < NB; n++) t = fmaxf(t, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
            t = fmaxf(t, __shfl_xor_sync(0xffffffffu, t, 1));
            t = fmaxf(t, __shfl_xor_sync(0xffffffffu, t, 2));
            float base = t == -INFINITY ? 0 : t * to_exp, f = exp2f(top[r] * to_exp - base), add = 0;
            top[r] = t;
#pragma unroll
            for (int n = 0; n < NB; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float e = exp2f(s[n][2 * r + i] * to_exp - base);
                    s[n][2 * r + i] = e;
                    add += e;
                }
            sum[r] = sum[r] * f + add;
#pragma unroll
            for (int n = 0; n < HD / 8; n++) o[n][2 * r] *= f, o[n][2 * r + 1] *= f;
        }
        uint32_t pp[NB][2];
        wg_pack<BN>(pp, s);
        wg_fence();
        wg_pb<BN, HD>(o, pp, sv + st * KB);
        wg_wait();
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float l = sum[r];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        int t = row0 + warp * 16 + r * 8 + lane / 4;
        if (t >= p.T || t < first) continue;
        float inv = l > 0 ? 1.0f / l : 0.0f;
        if (p.lse && (lane & 3) == 0) p.lse[(int64_t)h * p.T + t] = l > 0 ? top[r] * (CAP ? 1.0f : p.scale) + logf(l) : no_key(p, t);
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
            int c = n * 8 + (lane & 3) * 2;
            if (c < p.hd)
                *(uint32_t *)(p.o + (int64_t)t * p.o_stride + (int64_t)h * p.hd + c) = pack(o[n][2 * r] * inv, o[n][2 * r + 1] * inv);
        }
    }
}

/* p and slope from the raw product; k = scale * log2 e, l = lse * log2 e. */
template <int CAP> __device__ __forceinline__ float wg_prob(const attn_p &p, float raw, float k, float l, float &slope)
{
    slope = p.scale;
    if (!CAP) return exp2f(raw * k - l);
    float t = tanhf(raw * p.scale / p.softcap);
    slope = p.scale * (1 - t * t);
    return exp2f(p.softcap * t * LOG2E - l);
}

/* ---- dQ ---- */
template <int HD, int G, int BN, int CAP, int BLOCKS>
__global__ void __launch_bounds__(G * 128, BLOCKS) attn_dq_wg(attn_p p)
{
    enum { BM = 64 * G, NT = G * 128, NB = BN / 8, QB = BM * HD * 2, KB = BN * HD * 2 };
    extern __shared__ __align__(1024) char panels[];
    uint32_t sq = smem_at(panels), sd = sq + QB, sk = sd + QB, sv = sk + 2 * KB;
    int tile = (int)gridDim.x - 1 - (int)blockIdx.x, h = blockIdx.y;
    int kvh = h / (p.n_heads / p.n_kv), row0 = tile * BM, last = min(row0 + BM, p.T) - 1;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const bf16 *K = p.k + (int64_t)kvh * p.hd, *V = p.v + (int64_t)kvh * p.hd;
    int first = first_row(p);
    if (last < first) return;
    int lo_first = p.range[max(row0, first)].x, hi_last = p.range[last].y, lo_last = p.range[last].x, hi_first = p.range[row0].y;
    int j0 = lo_first / BN * BN, n_tiles = hi_last > j0 ? (hi_last - j0 + BN - 1) / BN : 0;
    wg_load<BM, HD, NT>(panels, p.q + (int64_t)h * p.hd, p.q_stride, row0, p.T, p.hd);
    wg_load<BM, HD, NT>(panels + QB, p.dout + (int64_t)h * p.hd, p.o_stride, row0, p.T, p.hd);
    if (n_tiles) {
        wg_load<BN, HD, NT>(panels + 2 * QB, K, p.k_stride, j0, p.Tk, p.hd);
        wg_load<BN, HD, NT>(panels + 2 * QB + 2 * KB, V, p.v_stride, j0, p.Tk, p.hd);
    }
    cp_commit();
    float dq[HD / 8][4], lse[2], D[2], k = p.scale * LOG2E;
    int lo[2], hi[2];
    wg_clear(dq);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int t = row0 + warp * 16 + r * 8 + lane / 4;
        int4 g = range_of(p, t);
        lo[r] = g.x, hi[r] = g.y;
        lse[r] = t < p.T ? p.lse[(int64_t)h * p.T + t] * LOG2E : 0;
        D[r] = t < p.T ? p.D[(int64_t)h * p.T + t] : 0;
    }
    for (int it = 0; it < n_tiles; it++) {
        int j = j0 + it * BN, st = it & 1;
        if (it + 1 < n_tiles) {
            wg_load<BN, HD, NT>(panels + 2 * QB + (st ^ 1) * KB, K, p.k_stride, j + BN, p.Tk, p.hd);
            wg_load<BN, HD, NT>(panels + 2 * QB + (2 + (st ^ 1)) * KB, V, p.v_stride, j + BN, p.Tk, p.hd);
            cp_commit();
            cp_wait<1>();
        } else {
            cp_wait<0>();
        }
        wg_proxy();
        __syncthreads();
        float s[NB][4], dp[NB][4];
        wg_fence();
        wg_abt<BN, HD, BM>(s, sq, (warp >> 2) * 64, sk + st * KB);
        wg_abt<BN, HD, BM>(dp, sd, (warp >> 2) * 64, sv + st * KB);
        wg_wait();
        int whole = lo_last <= j && j + BN <= hi_first && row0 + BM <= p.T;
#pragma unroll
        for (int n = 0; n < NB; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = j + n * 8 + (lane & 3) * 2 + (i & 1), r = i >> 1;
                float slope, q = wg_prob<CAP>(p, s[n][i], k, lse[r], slope);
                if (!whole && (key < lo[r] || key >= hi[r])) q = 0;
                s[n][i] = q * (dp[n][i] - D[r]) * slope;
            }
        uint32_t pp[NB][2];
        wg_pack<BN>(pp, s);
        wg_fence();
        wg_pb<BN, HD>(dq, pp, sk + st * KB);
        wg_wait();
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int t = row0 + warp * 16 + r * 8 + lane / 4;
        if (t >= p.T || t < first) continue;
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
            int c = n * 8 + (lane & 3) * 2;
            if (c < p.hd)
                *(uint32_t *)(p.dq + (int64_t)t * p.q_stride + (int64_t)h * p.hd + c) = pack(dq[n][2 * r], dq[n][2 * r + 1]);
        }
    }
}

/* ---- dK, dV ---- */
template <int HD, int G, int BQ, int CAP, int BLOCKS>
__global__ void __launch_bounds__(G * 128, BLOCKS) attn_dkv_wg(attn_p p)
{
    enum { BK = 64 * G, NT = G * 128, NB = BQ / 8, KB = BK * HD * 2, QB = BQ * HD * 2 };
    extern __shared__ __align__(1024) char panels[];
    __shared__ float s_lse[2][BQ], s_D[2][BQ];
    __shared__ int s_lo[2][BQ], s_hi[2][BQ];
    uint32_t sk = smem_at(panels), sv = sk + KB, sq = sv + KB, sd = sq + 2 * QB;
    int tile = blockIdx.x, kvh = blockIdx.y, group = p.n_heads / p.n_kv;
    int key0 = tile * BK, last = min(key0 + BK, p.Tk) - 1, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int t_lo = p.range[key0].z, t_hi = p.range[last].w;
    int t0 = t_lo / BQ * BQ, per = t_hi > t0 ? (t_hi - t0 + BQ - 1) / BQ : 0, n_tiles = per * group;
    wg_load<BK, HD, NT>(panels, p.k + (int64_t)kvh * p.hd, p.k_stride, key0, p.Tk, p.hd);
    wg_load<BK, HD, NT>(panels + KB, p.v + (int64_t)kvh * p.hd, p.v_stride, key0, p.Tk, p.hd);
    auto fetch = [&](int it) {
        int st = it & 1, h = kvh * group + it / per, t = t0 + it % per * BQ;
        wg_load<BQ, HD, NT>(panels + 2 * KB + st * QB, p.q + (int64_t)h * p.hd, p.q_stride, t, p.T, p.hd);
        wg_load<BQ, HD, NT>(panels + 2 * KB + (2 + st) * QB, p.dout + (int64_t)h * p.hd, p.o_stride, t, p.T, p.hd);
        if (threadIdx.x < BQ) {
            int r = t + (int)threadIdx.x;
            int4 g = range_of(p, r);
            s_lo[st][threadIdx.x] = g.x, s_hi[st][threadIdx.x] = g.y;
            s_lse[st][threadIdx.x] = r < p.T ? p.lse[(int64_t)h * p.T + r] * LOG2E : 0;
            s_D[st][threadIdx.x] = g.x < g.y ? p.D[(int64_t)h * p.T + r] : 0;
        }
    };
    if (n_tiles) fetch(0);
    cp_commit();
    float dk[HD / 8][4], dv[HD / 8][4], k = p.scale * LOG2E;
    wg_clear(dk);
    wg_clear(dv);
    for (int it = 0; it < n_tiles; it++) {
        int st = it & 1, t = t0 + it % per * BQ;
        if (it + 1 < n_tiles) {
            fetch(it + 1);
            cp_commit();
            cp_wait<1>();
        } else {
            cp_wait<0>();
        }
        wg_proxy();
        __syncthreads();
        float s[NB][4], dp[NB][4];
        wg_fence();
        wg_abt<BQ, HD, BK>(s, sk, (warp >> 2) * 64, sq + st * QB);
        wg_abt<BQ, HD, BK>(dp, sv, (warp >> 2) * 64, sd + st * QB);
        wg_wait();
        int whole = s_lo[st][BQ - 1] <= key0 && key0 + BK <= s_hi[st][0] && t + BQ <= p.T;
#pragma unroll
        for (int n = 0; n < NB; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int col = n * 8 + (lane & 3) * 2 + (i & 1), key = key0 + warp * 16 + (i >> 1) * 8 + lane / 4;
                float slope, q = wg_prob<CAP>(p, s[n][i], k, s_lse[st][col], slope);
                if (!whole && (key < s_lo[st][col] || key >= s_hi[st][col])) q = 0;
                dp[n][i] = q * (dp[n][i] - s_D[st][col]) * slope;
                s[n][i] = q;
            }
        uint32_t pp[NB][2], pd[NB][2];
        wg_pack<BQ>(pp, s);
        wg_pack<BQ>(pd, dp);
        wg_fence();
        wg_pb<BQ, HD>(dv, pp, sd + st * QB);
        wg_pb<BQ, HD>(dk, pd, sq + st * QB);
        wg_wait();
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
            *(uint32_t *)(p.dk + (int64_t)j * p.k_stride + (int64_t)kvh * p.hd + c) = pack(dk[n][2 * r], dk[n][2 * r + 1]);
            *(uint32_t *)(p.dv + (int64_t)j * p.v_stride + (int64_t)kvh * p.hd + c) = pack(dv[n][2 * r], dv[n][2 * r + 1]);
        }
    }
}

/* BLOCKS: blocks that must fit one multiprocessor, which bounds the registers. */
template <int HD, int G, int BN, int CAP, int BLOCKS> static void wg_fwd(cudaStream_t s, const attn_p &p)
{
    launch(attn_fwd_wg<HD, G, BN, CAP, BLOCKS>, dim3(cdiv(p.T, G * 64), p.n_heads), G * 128, (G * 64 + 4 * BN) * HD * 2, s, p);
}
template <int HD, int G, int BN, int CAP, int BLOCKS> static void wg_dq(cudaStream_t s, const attn_p &p)
{
    launch(attn_dq_wg<HD, G, BN, CAP, BLOCKS>, dim3(cdiv(p.T, G * 64), p.n_heads), G * 128, (G * 128 + 4 * BN) * HD * 2, s, p);
}
template <int HD, int G, int BQ, int CAP, int BLOCKS> static void wg_dkv(cudaStream_t s, const attn_p &p)
{
    launch(attn_dkv_wg<HD, G, BQ, CAP, BLOCKS>, dim3(cdiv(p.Tk, G * 64), p.n_kv), G * 128, (G * 128 + 4 * BQ) * HD * 2, s, p);
}

#endif
