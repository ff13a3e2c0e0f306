/* Rotary position table and operation counts of an architecture record.
 * Formula: training.md §4.8; theta_i = base^(-2i/head_dim). "linear" divides positions by the factor; "llama3" leaves short
 * wavelengths alone, divides long ones, and blends between (constants from the record, never built in). */
#include <math.h>

#include "arch/arch.h"

static double frequency(const ns_arch *a, int64_t i)
{
    double theta = pow(a->rope_theta, -2.0 * (double)i / (double)a->head_dim);
    if (a->rope == NS_ROPE_LINEAR) return theta / a->rope_factor;
    if (a->rope != NS_ROPE_LLAMA3) return theta;
    double orig = (double)a->rope_orig_max, wavelength = 2.0 * 3.14159265358979323846 / theta;
    if (wavelength < orig / a->rope_high) return theta;
    if (wavelength > orig / a->rope_low) return theta / a->rope_factor;
    double s = (orig / wavelength - a->rope_low) / (a->rope_high - a->rope_low);
    return (1.0 - s) * theta / a->rope_factor + s * theta;
}

void ns_arch_rope_table(const ns_arch *a, float *out, int64_t max_pos)
{
    int64_t half = a->head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        double f = frequency(a, i);
        for (int64_t p = 0; p < max_pos; p++) {
            out[(p * half + i) * 2] = (float)cos((double)p * f);
            out[(p * half + i) * 2 + 1] = (float)sin((double)p * f);
        }
    }
}

/* A matmul weight costs 2 forward and 4 backward. Attention: two products of 2 * keys * n_heads * head_dim forward, twice
 * that backward; a token sees len/2 keys on average, fewer with a window. The embedding is a copy and costs nothing. */
double ns_arch_train_flops(const ns_arch *a, int64_t len)
{
    double C = (double)a->C, F = (double)a->F, hd = (double)a->head_dim, q = (double)a->n_heads * hd;
    double kv = (double)a->n_kv * hd, n = (double)len, keys = n / 2;
    if (a->window > 0 && len > a->window) keys = (double)a->window - (double)a->window * (double)a->window / (2 * n);
    double per_layer = 6.0 * (C * (q + 2 * kv) + q * C + 3 * C * F) + 12.0 * keys * q;
    return (double)a->L * per_layer + 6.0 * (double)a->vocab_rows * C;
}
