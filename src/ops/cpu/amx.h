/* Private to *_amx.c: the tile unit and the packed forms it eats.
 *
 * A tile register is 16 rows of 64 bytes. TDPBF16PS: C[16x16 f32] += A[16 rows x 32 k bf16] * B, with B as 16 rows of
 * k-pairs: B[k/2][col][k&1]. We always work on 32x32 blocks of C: tiles 0..3 = C, 4,5 = two row halves of A, 6,7 = two
 * column halves of B. Packed operands are sequences of 2 KB steps (32 k): [half][16][32] bf16; so a panel of 32 rows
 * (A) or 32 columns (B) over K is up(K,32)/32 steps, contiguous. Intel SDM vol. 1 ch. 18; the unit flushes denormals. */
#ifndef NS_OPS_CPU_AMX_H
#define NS_OPS_CPU_AMX_H

#include <string.h>

#include "ops/cpu/avx512.h"

enum { STEP = 1024 }; /* bf16 elements of one 32-k step of a 32-wide panel */

/* Once per task on the thread that multiplies; release when the task ends. */
static inline void amx_begin(void)
{
    struct {
        unsigned char palette, start, reserved[14];
        unsigned short colb[16];
        unsigned char rows[16];
    } t = {.palette = 1};
    for (int i = 0; i < 8; i++) t.colb[i] = 64, t.rows[i] = 16;
    _tile_loadconfig(&t);
}
static inline void amx_end(void)
{
    _tile_release();
}

/* The tile intrinsics do not tell the compiler that they read memory: everything stored so far must be there. */
static inline void amx_fence(void)
{
    __asm__ volatile("" ::: "memory");
}
static inline void amx_zero(void)
{
    amx_fence();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}
static inline void amx_load(const float *c, int64_t ldc)
{
    amx_fence();
    _tile_loadd(0, c, (size_t)ldc * 4);
    _tile_loadd(1, c + 16, (size_t)ldc * 4);
    _tile_loadd(2, c + 16 * ldc, (size_t)ldc * 4);
    _tile_loadd(3, c + 16 * ldc + 16, (size_t)ldc * 4);
}
static inline void amx_store(float *c, int64_t ldc)
{
    _tile_stored(0, c, (size_t)ldc * 4);
    _tile_stored(1, c + 16, (size_t)ldc * 4);
    _tile_stored(2, c + 16 * ldc, (size_t)ldc * 4);
    _tile_stored(3, c + 16 * ldc + 16, (size_t)ldc * 4);
}
/* C += A B over `steps`; both packed. */
static inline void amx_mul(const bf16 *a, const bf16 *b, int64_t steps)
{
    for (int64_t k = 0; k < steps; k++, a += STEP, b += STEP) {
        _tile_loadd(4, a, 64);
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + 512, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 512, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}
/* The same with A in place: rows of lda elements, 32 rows readable, K a multiple of 32. */
static inline void amx_mul_rows(const bf16 *a, int64_t lda, const bf16 *b, int64_t steps)
{
    for (int64_t k = 0; k < steps; k++, a += 32, b += STEP) {
        _tile_loadd(4, a, (size_t)lda * 2);
        _tile_loadd(6, b, 64);
        _tile_loadd(7, b + 512, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + 16 * lda, (size_t)lda * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* ---- packing; n_valid rows and columns outside become 0 ---- */

/* A step from 32 rows x 32 k as they lie: A[half][row][k]. */
static inline void pack_a(bf16 *dst, const bf16 *src, int64_t ld, int64_t rows, int64_t cols)
{
    __mmask32 m = mask32(cols);
    for (int64_t r = 0; r < 32; r++) {
        __m512i v = r < rows ? _mm512_maskz_loadu_epi16(m, src + r * ld) : _mm512_setzero_si512();
        _mm512_store_si512(dst + r * 32, v);
    }
}

/* B step from 32 columns stored as rows (element (col, k) at col*ld + k): B[half][k/2][col][k&1]. */
static inline void pack_bt(bf16 *dst, const bf16 *src, int64_t ld, int64_t cols, int64_t k)
{
    __mmask32 m = mask32(k);
    for (int half = 0; half < 2; half++) {
        __m512i r[16];
        for (int64_t c = 0; c < 16; c++)
            r[c] =
                half * 16 + c < cols ? _mm512_maskz_loadu_epi16(m, src + (half * 16 + c) * ld) : _mm512_setzero_si512();
        transpose16(r);
        for (int i = 0; i < 16; i++) _mm512_store_si512(dst + half * 512 + i * 32, r[i]);
    }
}

/* Rows 2i, 2i+1 of 32 columns each, interleaved: *lo columns 0-15, *hi columns 16-31. */
static inline void interleave(const bf16 *src, int64_t ld, int64_t i, int64_t rows, __mmask32 m, __m512i *lo,
                              __m512i *hi)
{
    const __m512i pick_lo = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                             37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i pick_hi = _mm512_add_epi16(pick_lo, _mm512_set1_epi16(16));
    __m512i a = 2 * i < rows ? _mm512_maskz_loadu_epi16(m, src + 2 * i * ld) : _mm512_setzero_si512();
    __m512i b = 2 * i + 1 < rows ? _mm512_maskz_loadu_epi16(m, src + (2 * i + 1) * ld) : _mm512_setzero_si512();
    *lo = _mm512_permutex2var_epi16(a, pick_lo, b);
    *hi = _mm512_permutex2var_epi16(a, pick_hi, b);
}

/* B step from 32 k-rows x 32 columns as they lie (element (k, col) at k*ld + col). */
static inline void pack_b(bf16 *dst, const bf16 *src, int64_t ld, int64_t k, int64_t cols)
{
    __mmask32 m = mask32(cols);
    for (int64_t i = 0; i < 16; i++) {
        __m512i lo, hi;
        interleave(src, ld, i, k, m, &lo, &hi);
        _mm512_store_si512(dst + i * 32, lo);
        _mm512_store_si512(dst + 512 + i * 32, hi);
    }
}

/* A step from 32 k-rows x 32 columns that become the rows of A (element (row, k) at k*ld + row). */
static inline void pack_at(bf16 *dst, const bf16 *src, int64_t ld, int64_t k, int64_t rows)
{
    __mmask32 m = mask32(rows);
    __m512i lo[16], hi[16];
    for (int64_t i = 0; i < 16; i++) interleave(src, ld, i, k, m, &lo[i], &hi[i]);
    transpose16(lo);
    transpose16(hi);
    for (int i = 0; i < 16; i++) {
        _mm512_store_si512(dst + i * 32, lo[i]);
        _mm512_store_si512(dst + 512 + i * 32, hi[i]);
    }
}

#endif
