/* Block types: see ggml.h. Every block is read and written byte by byte, so no alignment is needed.
 *
 *     Q8_0  f16 d, 32 x i8                                    x = d q
 *     Q4_0  f16 d, 16 x (low: first half, high: second)       x = d (q - 8)         Q4_1: f16 d, f16 m: x = d q + m
 *     Q5_0  f16 d, u32 fifth bits, 16 x 4+4                   x = d (q - 16)        Q5_1: f16 d, f16 m: x = d q + m
 *     Q4_K  f16 d, f16 m, 12 bytes: 8 x (6-bit scale, 6-bit minimum), 128 x 4+4     x = d s q - m t      (256 elements)
 *     Q5_K  the same with 32 bytes of fifth bits before the 128
 *     Q6_K  128 x 4+4, 64 x 2+2+2+2, 16 x i8 scale, f16 d     x = d s (q - 32)                           (256 elements)  */
#include "ckpt/ggml.h"

#include <math.h>
#include <string.h>

#include "ckpt/ggml_simd.h"

static const ns_ggml types[] = {
    {NS_GGML_F32, "F32", 1, 4, NS_DTYPE_F32, 1},       {NS_GGML_F16, "F16", 1, 2, NS_DTYPE_F16, 1},
    {NS_GGML_BF16, "BF16", 1, 2, NS_DTYPE_BF16, 1},    {NS_GGML_Q4_0, "Q4_0", 32, 18, NS_DTYPE_F32, 0},
    {NS_GGML_Q4_1, "Q4_1", 32, 20, NS_DTYPE_F32, 0},   {NS_GGML_Q5_0, "Q5_0", 32, 22, NS_DTYPE_F32, 1},
    {NS_GGML_Q5_1, "Q5_1", 32, 24, NS_DTYPE_F32, 0},   {NS_GGML_Q8_0, "Q8_0", 32, 34, NS_DTYPE_F32, 1},
    {NS_GGML_Q4_K, "Q4_K", 256, 144, NS_DTYPE_F32, 1}, {NS_GGML_Q5_K, "Q5_K", 256, 176, NS_DTYPE_F32, 0},
    {NS_GGML_Q6_K, "Q6_K", 256, 210, NS_DTYPE_F32, 1},
};

const ns_ggml *ns_ggml_find(int type)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].type == type) return &types[i];
    return NULL;
}

static float get16(const uint8_t *p)
{
    return ns_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static void put16(uint8_t *p, float x)
{
    uint16_t h = ns_f32_to_f16(x);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
}

static int clamp(int x, int lo, int hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

/* To nearest, ties to even, by the addition of 1.5 * 2^23; what does not fit in 22 bits is no number here. */
static int nearest(float x)
{
    float y = x + 12582912.f;
    int32_t i;
    if (!(fabsf(x) <= 4194303.f)) return x > 0 ? 4194303 : x < 0 ? -4194303 : 0;
    memcpy(&i, &y, sizeof i);
    return (i & 0x007fffff) - 0x00400000;
}

/* ---- 32 elements ---- */
static void pack_q8_0(uint8_t *o, const float *x)
{
    float most = 0;
    for (int j = 0; j < 32; j++) most = fabsf(x[j]) > most ? fabsf(x[j]) : most;
    float d = most / 127, id = d != 0 ? 1.0f / d : 0.0f;
    put16(o, d);
    for (int j = 0; j < 32; j++) o[2 + j] = (uint8_t)(int8_t)clamp((int)roundf(x[j] * id), -127, 127);
}

static void pack_q5_0(uint8_t *o, const float *x)
{
    float most = 0, max = 0;
    uint32_t high = 0;
    for (int j = 0; j < 32; j++) {
        if (most >= fabsf(x[j])) continue;
        most = fabsf(x[j]);
        max = x[j];
    }
    float d = max / -16, id = d != 0 ? 1.0f / d : 0.0f;
    put16(o, d);
    for (int j = 0; j < 16; j++) {
        uint32_t a = (uint32_t)clamp((int)(x[j] * id + 16.5f), 0, 31);
        uint32_t b = (uint32_t)clamp((int)(x[j + 16] * id + 16.5f), 0, 31);
        o[6 + j] = (uint8_t)((a & 15) | (b & 15) << 4);
        high |= (a >> 4) << j | (b >> 4) << (j + 16);
    }
    for (int j = 0; j < 4; j++) o[2 + j] = (uint8_t)(high >> (8 * j));
}

/* Q4_0, Q4_1, Q5_0, Q5_1: `five` has the fifth bits, `min` a minimum in place of a middle. */
static void unpack_32(float *y, const uint8_t *p, int five, int min)
{
    float d = get16(p), m = min ? get16(p + 2) : 0;
    const uint8_t *q = p + 2 + 2 * min;
    uint32_t high = 0;
    int middle = min ? 0 : five ? 16 : 8;
    if (five) {
        high = (uint32_t)q[0] | (uint32_t)q[1] << 8 | (uint32_t)q[2] << 16 | (uint32_t)q[3] << 24;
        q += 4;
    }
    for (int j = 0; j < 16; j++) {
        int a = (q[j] & 15) | (int)(high >> j & 1) << 4, b = q[j] >> 4 | (int)(high >> (j + 16) & 1) << 4;
        y[j] = min ? (float)a * d + m : (float)(a - middle) * d;
        y[j + 16] = min ? (float)b * d + m : (float)(b - middle) * d;
    }
}

/* ---- 256 elements ---- */
static void scale_min(int j, const uint8_t *q, int *s, int *m)
{
    if (j < 4) {
        *s = q[j] & 63;
        *m = q[j + 4] & 63;
    } else {
        *s = (q[j + 4] & 15) | q[j - 4] >> 6 << 4;
        *m = q[j + 4] >> 4 | q[j] >> 6 << 4;
    }
}

/* Scale and minimum of 32 elements for values 0..15 with least weighted squared error, over 21 trial scales (make_qkx2_quants). */
static float fit_q4(const float *x, const float *w, float *the_min)
{
    float min = x[0], max = x[0], sw = w[0], sx = w[0] * x[0], best = 0;
    for (int i = 1; i < 32; i++) {
        if (x[i] < min) min = x[i];
        if (x[i] > max) max = x[i];
        sw += w[i];
        sx += w[i] * x[i];
    }
    if (min > 0) min = 0;
    if (max == min) {
        *the_min = -min;
        return 0;
    }
    const float low = min;
    float is = 15 / (max - min), scale = 1 / is;
    for (int i = 0; i < 32; i++) {
        float d = scale * (float)clamp(nearest(is * (x[i] - low)), 0, 15) + low - x[i];
        best += w[i] * (d * d);
    }
    for (int k = 0; k <= 20; k++) {
        int l[32];
        float sl = 0, sl2 = 0, sxl = 0, err = 0;
        is = (-1.f + 0.1f * (float)k + 15) / (max - min);
        for (int i = 0; i < 32; i++) {
            l[i] = clamp(nearest(is * (x[i] - min)), 0, 15);
            float v = (float)l[i];
            sl += w[i] * v;
            sl2 += w[i] * v * v;
            sxl += w[i] * v * x[i];
        }
        float D = sw * sl2 - sl * sl;
        if (!(D > 0)) continue;
        float s = (sw * sxl - sx * sl) / D, m = (sl2 * sx - sl * sxl) / D;
        if (m > 0) {
            m = 0;
            s = sxl / sl2;
        }
        for (int i = 0; i < 32; i++) {
            float d = s * (float)l[i] + m - x[i];
            err += w[i] * (d * d);
        }
        if (!(err < best)) continue;
        best = err;
        scale = s;
        min = m;
    }
    *the_min = -min;
    return scale;
}

static void pack_q4_k(uint8_t *o, const float *x)
{
    float scales[8], mins[8], most_s = 0, most_m = 0;
    uint8_t q[256] = {0};
    memset(o, 0, 144);
    for (int j = 0; j < 8; j++) {
        float w[32], sum = 0;
        for (int l = 0; l < 32; l++) sum += x[32 * j + l] * x[32 * j + l];
        float av = sqrtf(sum / 32);
        for (int l = 0; l < 32; l++) w[l] = av + fabsf(x[32 * j + l]);
        scales[j] = fit_q4(x + 32 * j, w, &mins[j]);
        if (scales[j] > most_s) most_s = scales[j];
        if (mins[j] > most_m) most_m = mins[j];
    }
    float is = most_s > 0 ? 63.f / most_s : 0, im = most_m > 0 ? 63.f / most_m : 0;
    for (int j = 0; j < 8; j++) {
        int s = clamp(nearest(is * scales[j]), 0, 63), m = clamp(nearest(im * mins[j]), 0, 63);
        if (j < 4) {
            o[4 + j] = (uint8_t)s;
            o[4 + j + 4] = (uint8_t)m;
        } else {
            o[4 + j + 4] = (uint8_t)((s & 15) | (m & 15) << 4);
            o[4 + j - 4] = (uint8_t)(o[4 + j - 4] | s >> 4 << 6);
            o[4 + j] = (uint8_t)(o[4 + j] | m >> 4 << 6);
        }
    }
    put16(o, most_s / 63.f);
    put16(o + 2, most_m / 63.f);
    for (int j = 0; j < 8; j++) {
        int s, m;
        scale_min(j, o + 4, &s, &m);
        float d = get16(o) * (float)s, dm = get16(o + 2) * (float)m;
        for (int l = 0; l < 32; l++) {
            const float v = x[32 * j + l];
            q[32 * j + l] = (uint8_t)(d != 0 ? clamp(nearest((v + dm) / d), 0, 15) : 0);
        }
    }
    for (int j = 0; j < 4; j++)
        for (int l = 0; l < 32; l++) o[16 + 32 * j + l] = (uint8_t)(q[64 * j + l] | q[64 * j + l + 32] << 4);
}

static void unpack_q45_k(float *y, const uint8_t *p, int five)
{
    float d = get16(p), min = get16(p + 2);
    const uint8_t *high = p + 16, *q = p + 16 + 32 * five;
    for (int j = 0; j < 4; j++, q += 32) {
        for (int half = 0; half < 2; half++) {
            int s, m, k = 2 * j + half;
            scale_min(k, p + 4, &s, &m);
            float ds = d * (float)s, dm = min * (float)m;
            for (int l = 0; l < 32; l++) {
                int v = half ? q[l] >> 4 : q[l] & 15;
                if (five) v += (high[l] >> k & 1) << 4;
                *y++ = ds * (float)v - dm;
            }
        }
    }
}

/* Scale of 16 elements for values -32..31, weighted by x^2, over 19 trials (make_qx_quants). */
static float fit_q6(const float *x)
{
    float most = 0, max = 0, sxl = 0, sl2 = 0;
    for (int i = 0; i < 16; i++) {
        if (fabsf(x[i]) <= most) continue;
        most = fabsf(x[i]);
        max = x[i];
    }
    if (most < 1e-15f) return 0;
    float is = -32 / max;
    for (int i = 0; i < 16; i++) {
        float l = (float)clamp(nearest(is * x[i]), -32, 31), w = x[i] * x[i];
        sxl += w * x[i] * l;
        sl2 += w * l * l;
    }
    float scale = sl2 != 0 ? sxl / sl2 : 0, best = scale * sxl;
    for (int k = -9; k <= 9; k++) {
        if (k == 0) continue;
        is = -(32 + 0.1f * (float)k) / max;
        sxl = sl2 = 0;
        for (int i = 0; i < 16; i++) {
            float l = (float)clamp(nearest(is * x[i]), -32, 31), w = x[i] * x[i];
            sxl += w * x[i] * l;
            sl2 += w * l * l;
        }
        if (!(sl2 > 0 && sxl * sxl > best * sl2)) continue;
        scale = sxl / sl2;
        best = scale * sxl;
    }
    return scale;
}

static void pack_q6_k(uint8_t *o, const float *x)
{
    float scales[16], most = 0, max = 0;
    uint8_t q[256];
    memset(o, 0, 210);
    for (int j = 0; j < 16; j++) {
        scales[j] = fit_q6(x + 16 * j);
        if (fabsf(scales[j]) <= most) continue;
        most = fabsf(scales[j]);
        max = scales[j];
    }
    if (most < 1e-15f) return;
    float is = -128.f / max;
    put16(o + 208, 1 / is);
    for (int j = 0; j < 16; j++) {
        int s = clamp(nearest(is * scales[j]), -128, 127);
        o[192 + j] = (uint8_t)(int8_t)s;
        float d = get16(o + 208) * (float)s;
        for (int l = 0; l < 16; l++)
            q[16 * j + l] = (uint8_t)(d != 0 ? clamp(nearest(x[16 * j + l] / d), -32, 31) + 32 : 32);
    }
    for (int h = 0; h < 2; h++) {
        for (int l = 0; l < 32; l++) {
            const uint8_t *v = q + 128 * h + l;
            o[64 * h + l] = (uint8_t)((v[0] & 15) | (v[64] & 15) << 4);
            o[64 * h + l + 32] = (uint8_t)((v[32] & 15) | (v[96] & 15) << 4);
            o[128 + 32 * h + l] = (uint8_t)(v[0] >> 4 | v[32] >> 4 << 2 | v[64] >> 4 << 4 | v[96] >> 4 << 6);
        }
    }
}

static void unpack_q6_k(float *y, const uint8_t *p)
{
    float d = get16(p + 208);
    for (int h = 0; h < 2; h++) {
        for (int k = 0; k < 4; k++) {
            for (int l = 0; l < 32; l++) {
                uint8_t byte = p[64 * h + l + 32 * (k & 1)], s = p[192 + 8 * h + 2 * k + l / 16];
                int v = (k < 2 ? byte & 15 : byte >> 4) | (p[128 + 32 * h + l] >> (2 * k) & 3) << 4;
                y[128 * h + 32 * k + l] = d * (float)(int8_t)s * (float)(v - 32);
            }
        }
    }
}

static void pack(const ns_ggml *q, void *out, const float *x, int64_t n)
{
    uint8_t *o = out;
    if (ns_ggml_is_plain(q)) {
        ns_from_f32(out, q->dt, x, (size_t)n);
        return;
    }
    for (int64_t i = 0; i < n; i += q->block, o += q->bytes) {
        switch (q->type) {
        case NS_GGML_Q8_0: pack_q8_0(o, x + i); break;
        case NS_GGML_Q5_0: pack_q5_0(o, x + i); break;
        case NS_GGML_Q4_K: pack_q4_k(o, x + i); break;
        default: pack_q6_k(o, x + i); break;
        }
    }
}

static void unpack_q8_0(float *y, const uint8_t *p)
{
    float d = get16(p);
    for (int j = 0; j < 32; j++) y[j] = (float)(int8_t)p[2 + j] * d;
}

static void unpack(const ns_ggml *q, float *out, const void *data, int64_t n)
{
    const uint8_t *p = data;
    for (int64_t i = 0; i < n; i += q->block, p += q->bytes) {
        switch (q->type) {
        case NS_GGML_Q8_0: unpack_q8_0(out + i, p); break;
        case NS_GGML_Q4_0: unpack_32(out + i, p, 0, 0); break;
        case NS_GGML_Q4_1: unpack_32(out + i, p, 0, 1); break;
        case NS_GGML_Q5_0: unpack_32(out + i, p, 1, 0); break;
        case NS_GGML_Q5_1: unpack_32(out + i, p, 1, 1); break;
        case NS_GGML_Q4_K: unpack_q45_k(out + i, p, 0); break;
        case NS_GGML_Q5_K: unpack_q45_k(out + i, p, 1); break;
        default: unpack_q6_k(out + i, p); break;
        }
    }
}

void ns_ggml_pack(const ns_ggml *q, void *out, const float *x, int64_t n)
{
    if (q->type == NS_GGML_Q8_0 && ns_ggml_has_simd())
        ns_ggml_pack_q8_0_simd(out, x, n);
    else
        pack(q, out, x, n);
}

void ns_ggml_unpack(const ns_ggml *q, float *out, const void *p, int64_t n)
{
    if (q->type == NS_GGML_Q8_0 && ns_ggml_has_simd())
        ns_ggml_unpack_q8_0_simd(out, p, n);
    else
        unpack(q, out, p, n);
}

void ns_ggml_pack_plain(const ns_ggml *q, void *out, const float *x, int64_t n)
{
    pack(q, out, x, n);
}

void ns_ggml_unpack_plain(const ns_ggml *q, float *out, const void *p, int64_t n)
{
    unpack(q, out, p, n);
}
