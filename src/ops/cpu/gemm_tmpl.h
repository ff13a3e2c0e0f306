/* f32 matrix product for one thread and one vector width (see rows_tmpl.h; MR is set there too): C[m,n] (+)= A B over k,
 * operands F32 or BF16, in any of the two orientations; bf16 becomes f32 while it is packed. (The chips that lack the tile
 * unit multiply bf16 no faster than f32.)
 *
 * Blocks as in Goto & van de Geijn 2008: B is packed as panels [k][NR], a panel of KC rows stays in the first-level cache;
 * A is packed as panels of up to MR rows; the kernel keeps MR x NR of C in 2 MR registers over KC. Rows are shared evenly
 * among the panels of a block (13,13,12 rather than 14,14,10): all run near full width. One order of addition for each
 * element of C: k ascending within KC, blocks of KC ascending. */
#include <string.h>

enum { NR = 2 * W, KC = 256, MB = 224 / MR * MR, NB = 256 };
/* Packed A: rows as they come ([row][KC + 16], the 16 spread the rows over cache sets) or k-major ([k][W]). */
enum { A_ROW = KC + 16, A_PANEL = MR * A_ROW > KC *W ? MR *A_ROW : KC *W };

int64_t SIMD(gemm_scratch)(void)
{
    return ((int64_t)(MB / MR + 1) * A_PANEL + (int64_t)NB * KC) * 4;
}

/* ---- packing ---- */

/* `left`: rows of the matrix from i0 on; a k-major vector may as well carry rows of the next panel. */
static void pack_a_panel(float *dst, const ns_cpu_operand *a, int64_t i0, int64_t rows, int64_t left, int64_t k0,
                         int64_t nk)
{
    if (a->k_contiguous) {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t k = 0; k < nk; k += W)
                vput(dst + i * A_ROW + k, vload(a->p, a->dt, (i0 + i) * a->ld + k0 + k, vmask(nk - k)));
        return;
    }
    vm m = vmask(left);
    for (int64_t k = 0; k < nk; k++) vput(dst + k * W, vload(a->p, a->dt, (k0 + k) * a->ld + i0, m));
}

/* Panel of NR columns from j0. */
static void pack_b_panel(float *dst, const ns_cpu_operand *b, int64_t j0, int64_t cols, int64_t k0, int64_t nk)
{
    if (!b->k_contiguous) {
        vm m0 = vmask(cols), m1 = vmask(cols - W);
        for (int64_t k = 0; k < nk; k++) {
            vput(dst + k * NR, vload(b->p, b->dt, (k0 + k) * b->ld + j0, m0));
            vput(dst + k * NR + W, vload(b->p, b->dt, (k0 + k) * b->ld + j0 + W, m1));
        }
        return;
    }
    for (int64_t k = 0; k < nk; k += W) {
        vm m = vmask(nk - k);
        for (int half = 0; half < 2; half++) {
            vf r[W];
            for (int64_t j = 0; j < W; j++)
                r[j] = half * W + j < cols ? vload(b->p, b->dt, (j0 + half * W + j) * b->ld + k0 + k, m) : vzero();
            vtranspose(r);
            for (int64_t q = 0; q < W; q++) vput(dst + (k + q) * NR + half * W, r[q]);
        }
    }
}

/* ---- kernel: rows x NR of C over nk; element (i,k) of A at a[i*ai + k*ak], all three constant in each copy ---- */

static inline __attribute__((always_inline)) void kernel(const int rows, const int64_t ai, const int64_t ak,
                                                         const float *a, const float *b, int64_t nk, float *c,
                                                         int64_t ldc, int add, vm m0, vm m1)
{
    vf s[MR][2];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) s[i][0] = s[i][1] = vzero();
    for (int64_t k = 0; k < nk; k++, a += ak, b += NR) {
        vf b0 = vget(b), b1 = vget(b + W);
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            vf v = vset(a[i * ai]);
            s[i][0] = vfma(v, b0, s[i][0]);
            s[i][1] = vfma(v, b1, s[i][1]);
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++, c += ldc) {
        if (add) {
            s[i][0] = vadd(s[i][0], vloadf(m0, c));
            s[i][1] = vadd(s[i][1], vloadf(m1, c + W));
        }
        vstoref(c, m0, s[i][0]);
        vstoref(c + W, m1, s[i][1]);
    }
}

#define KERNEL(n)                                                                                                 \
    static void kernel_row_##n(const float *a, const float *b, int64_t nk, float *c, int64_t ldc, int add, vm m0, \
                               vm m1)                                                                             \
    {                                                                                                             \
        kernel(n, A_ROW, 1, a, b, nk, c, ldc, add, m0, m1);                                                       \
    }                                                                                                             \
    static void kernel_col_##n(const float *a, const float *b, int64_t nk, float *c, int64_t ldc, int add, vm m0, \
                               vm m1)                                                                             \
    {                                                                                                             \
        kernel(n, 1, W, a, b, nk, c, ldc, add, m0, m1);                                                           \
    }
#define BOTH(n)                        \
    {                                  \
        kernel_col_##n, kernel_row_##n \
    }
typedef void (*kernel_fn)(const float *, const float *, int64_t, float *, int64_t, int, vm, vm);
KERNEL(1)
KERNEL(2)
KERNEL(3)
KERNEL(4)
KERNEL(5)
KERNEL(6)
#if SIMD_ROWS > 6
KERNEL(7)
KERNEL(8)
KERNEL(9)
KERNEL(10)
KERNEL(11)
KERNEL(12)
KERNEL(13)
KERNEL(14)
static const kernel_fn kernels[MR + 1][2] = {{NULL, NULL}, BOTH(1),  BOTH(2),  BOTH(3),  BOTH(4),
                                             BOTH(5),      BOTH(6),  BOTH(7),  BOTH(8),  BOTH(9),
                                             BOTH(10),     BOTH(11), BOTH(12), BOTH(13), BOTH(14)};
#else
static const kernel_fn kernels[MR + 1][2] = {{NULL, NULL}, BOTH(1), BOTH(2), BOTH(3), BOTH(4), BOTH(5), BOTH(6)};
#endif

/* One block: m <= MB rows from i0, n <= NB columns whose panels lie packed in bbuf. */
static void rows_block(const ns_cpu_operand *a, int64_t i0, int64_t m, int64_t n, int64_t k0, int64_t nk, float *c,
                       int64_t ldc, int add, float *abuf, const float *bbuf)
{
    int64_t panels = (m + MR - 1) / MR, at[MB / MR + 2];
    for (int64_t p = 0; p <= panels; p++) at[p] = p * m / panels;
    for (int64_t p = 0; p < panels; p++)
        pack_a_panel(abuf + p * A_PANEL, a, i0 + at[p], at[p + 1] - at[p], m - at[p], k0, nk);
    for (int64_t j = 0; j < n; j += NR)
        for (int64_t p = 0; p < panels; p++)
            kernels[at[p + 1] - at[p]][a->k_contiguous != 0](abuf + p * A_PANEL, bbuf + j * KC, nk, c + at[p] * ldc + j,
                                                             ldc, add, vmask(n - j), vmask(n - j - W));
}

void SIMD(gemm)(const ns_cpu_operand *a, const ns_cpu_operand *b, int64_t m, int64_t n, int64_t k, float *c,
                int64_t ldc, int add, void *scratch)
{
    float *bbuf = scratch, *abuf = bbuf + (int64_t)NB * KC;
    unsigned csr = flush_denormals();
    if (k == 0 && !add)
        for (int64_t i = 0; i < m; i++) memset(c + i * ldc, 0, (size_t)n * 4);
    for (int64_t j0 = 0; j0 < n; j0 += NB) {
        int64_t nb = ns_cpu_min(NB, n - j0);
        for (int64_t k0 = 0; k0 < k; k0 += KC) {
            int64_t nk = ns_cpu_min(KC, k - k0);
            for (int64_t j = 0; j < nb; j += NR) pack_b_panel(bbuf + j * KC, b, j0 + j, nb - j, k0, nk);
            for (int64_t i0 = 0; i0 < m; i0 += MB)
                rows_block(a, i0, ns_cpu_min(MB, m - i0), nb, k0, nk, c + i0 * ldc + j0, ldc, add || k0, abuf, bbuf);
        }
    }
    restore_denormals(csr);
}
