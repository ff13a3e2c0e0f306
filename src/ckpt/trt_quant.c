#include "ckpt/trt_quant.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "tensor/fp8.h"

/* Column of a group that stands at place i (get_permutation_map). */
static const int8_t perm8[16] = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};
static const int8_t perm4[32] = {0, 1, 8,  9,  16, 17, 24, 25, 2, 3, 10, 11, 18, 19, 26, 27,
                                 4, 5, 12, 13, 20, 21, 28, 29, 6, 7, 14, 15, 22, 23, 30, 31};

/* Column (of 64) whose value is the i-th stored: in memory order, int4: lower nibble first. */
static int column_of(const ns_wq *w, int i)
{
    if (w->bits == 8) { /* [3 1 2 0] of each word */
        static const int8_t word[4] = {0, 2, 1, 3};
        int k = i / 4 * 4 + word[i % 4];
        return k / 16 * 16 + perm8[k % 16];
    }
    int d = i % 8, k = i / 8 * 8 + (d < 4 ? 2 * d : 2 * (d - 4) + 1);
    return k / 32 * 32 + perm4[k % 32];
}

static int bias_of(const ns_wq *w)
{
    return w->bits == 8 ? 128 : 8;
}

int ns_wq_group(const ns_wq *w)
{
    return w->fp8 ? 1 : w->bits == 8 ? 2 : 4;
}

/* First byte of chunk c of row r. */
static int64_t chunk_at(const ns_wq *w, int64_t r, int64_t c)
{
    int64_t n = ns_wq_group(w);
    return (r / n * n * w->cols + NS_WQ_CHUNK * (n * c + r % n)) * w->bits / 8;
}

ns_status ns_wq_check(const ns_wq *w, const char *name, ns_error *err)
{
    if (w->fp8) return NS_OK;
    NS_FAIL_IF(w->rows % 64 || w->cols % 64, NS_ERR_CONFIG,
               "%s: %lld x %lld on a GPU: weight-only quantisation takes multiples of 64: use fewer GPUs or none", name,
               (long long)w->rows, (long long)w->cols);
    return NS_OK;
}

float ns_wq_quantise(const ns_wq *w, const float *x, int8_t *q)
{
    float most = 0, top = w->bits == 8 ? 127.0f : 7.0f;
    for (int64_t i = 0; i < w->cols; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    float scale = most * (w->bits == 8 ? 1.0f / 128 : 1.0f / 8);
    for (int64_t i = 0; i < w->cols; i++) {
        float v = scale != 0 ? roundf(x[i] / scale) : 0;
        q[i] = (int8_t)(v > top ? top : v < -top - 1 ? -top - 1 : v);
    }
    return scale;
}

void ns_wq_put_row(const ns_wq *w, unsigned char *out, int64_t r, const int8_t *q)
{
    int bias = bias_of(w);
    for (int64_t c = 0; c < w->cols / NS_WQ_CHUNK; c++, q += NS_WQ_CHUNK) {
        unsigned char *o = out + chunk_at(w, r, c);
        for (int i = 0; i < NS_WQ_CHUNK && w->bits == 8; i++) o[i] = (unsigned char)(q[column_of(w, i)] + bias);
        for (int i = 0; i < NS_WQ_CHUNK && w->bits == 4; i += 2)
            o[i / 2] =
                (unsigned char)(((q[column_of(w, i)] + bias) & 15) | ((q[column_of(w, i + 1)] + bias) & 15) << 4);
    }
}

static float scale_of(const ns_wq *w, int64_t r)
{
    double copy = 0; /* aligned for every type */
    float f;
    size_t size = ns_dtype_size(w->scale_dt);
    memcpy(&copy, (const char *)w->scale + (size_t)r * size, size);
    ns_to_f32(&f, &copy, w->scale_dt, 1);
    return f;
}

static float fp8_value[256];

static void fill_values(void)
{
    for (int i = 0; i < 256; i++) fp8_value[i] = ns_fp8_decode((uint8_t)i, NS_DTYPE_F8_E4M3);
}

static void fp8_row(const ns_wq *w, int64_t r, float *x)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const unsigned char *p = w->data + r * w->cols;
    float scale = scale_of(w, 0);
    pthread_once(&once, fill_values);
    for (int64_t i = 0; i < w->cols; i++) x[i] = fp8_value[p[i]] * scale;
}

/* The bits of ns_fp8_encode(v, NS_DTYPE_F8_E4M3), without its calls. */
static uint8_t e4m3(float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    uint32_t sign = u >> 24 & 0x80, a = u & 0x7fffffff;
    if (a >= 0x43e00000) return (uint8_t)(sign | 0x7e);                           /* 448 and more */
    if (a < 0x3c800000) return (uint8_t)(sign | (uint32_t)rintf(fabsf(v) * 512)); /* below 2^-6: steps of 2^-9 */
    return (uint8_t)(sign | (((a + 0x7ffff + (a >> 20 & 1)) >> 20) - (120 << 3)));
}

void ns_wq_fp8(const float *x, int64_t n, float scale, uint8_t *q)
{
    for (int64_t i = 0; i < n; i++) q[i] = e4m3(x[i] / scale);
}

void ns_wq_row(const ns_wq *w, int64_t r, float *x)
{
    if (w->fp8) {
        fp8_row(w, r, x);
        return;
    }
    int bias = bias_of(w);
    float scale = scale_of(w, r);
    for (int64_t c = 0; c < w->cols / NS_WQ_CHUNK; c++, x += NS_WQ_CHUNK) {
        const unsigned char *p = w->data + chunk_at(w, r, c);
        for (int i = 0; i < NS_WQ_CHUNK; i++) {
            int v = w->bits == 8 ? p[i] : p[i / 2] >> (4 * (i % 2)) & 15;
            x[column_of(w, i)] = (float)(v - bias) * scale;
        }
    }
}
