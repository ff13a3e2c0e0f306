/* A tiny model whose values are known, for the tests of this folder. `version` makes two saves differ. */
#ifndef NS_CKPT_CKPT_TESTING_H
#define NS_CKPT_CKPT_TESTING_H

#include <math.h>

#include "base/file.h"
#include "base/testing.h"
#include "ckpt/checkpoint.h"
#include "ckpt/model_source.h"

typedef struct tiny {
    ns_arena arena;
    ns_arch arch;
    ns_param_table table;
    int version;
} tiny;

static inline void tiny_new(tiny *m, ns_family family, int tied)
{
    ns_error err = NS_ERROR_INIT;
    memset(m, 0, sizeof *m);
    m->arena.label = "test";
    m->arch = (ns_arch){.family = family,
                        .vocab = 11,
                        .vocab_rows = 11,
                        .C = 8,
                        .F = 6,
                        .L = 2,
                        .n_heads = 4,
                        .n_kv = 2,
                        .head_dim = 2,
                        .max_pos = 64,
                        .norm_eps = 1e-5f,
                        .rope_theta = 10000,
                        .rope_factor = 1,
                        .rope_low = 1,
                        .rope_high = 1,
                        .rope_orig_max = 64,
                        .init_std = 0.02,
                        .dt = NS_DTYPE_F32,
                        .bos = 1,
                        .eos = {2},
                        .n_eos = 1,
                        .tied = tied,
                        .qkv_bias = family == NS_FAMILY_QWEN2,
                        .qk_norm = family == NS_FAMILY_QWEN3};
    assert_ns_ok(ns_param_table_build(&m->table, &m->arch, &m->arena, &err), &err);
}

/* Not representable in bf16, different for every element, state and version. */
static inline float tiny_value(const tiny *m, int state, int param, int64_t i)
{
    return (float)(state + 1) + (float)m->version * 0.25f + (float)param * 0.01f + (float)i * 1.0001e-4f;
}

static inline ns_status tiny_get(void *user, int param, float *data, ns_error *err)
{
    const tiny *m = user;
    (void)err;
    for (int64_t i = 0; i < m->table.params[param].rows * m->table.params[param].cols; i++)
        data[i] = tiny_value(m, 0, param, i);
    return NS_OK;
}

static inline ns_status tiny_get_opt(void *user, int param, int64_t off, int64_t len, float *main, float *m1, float *v,
                                     ns_error *err)
{
    const tiny *m = user;
    float *const out[3] = {main, m1, v};
    (void)err;
    for (int s = 0; s < 3; s++) {
        for (int64_t i = 0; out[s] && i < len; i++) {
            out[s][i] = tiny_value(m, s, param, off + i);
        }
    }
    return NS_OK;
}

/* Receivers that compare every value, bit for bit, and count parameters. */
typedef struct tiny_check {
    const tiny *m;
    int seen;
    int as_bf16;
} tiny_check;

static inline ns_status tiny_put(void *user, int param, const float *data, ns_error *err)
{
    tiny_check *c = user;
    (void)err;
    assert_int_equal(param, c->seen);
    c->seen++;
    for (int64_t i = 0; i < c->m->table.params[param].rows * c->m->table.params[param].cols; i++) {
        float want = tiny_value(c->m, 0, param, i);
        if (c->as_bf16) want = ns_bf16_to_f32(ns_f32_to_bf16(want));
        assert_true(data[i] == want);
    }
    return NS_OK;
}

static inline ns_status tiny_put_opt(void *user, int param, const float *main, const float *m1, const float *v,
                                     ns_error *err)
{
    tiny_check *c = user;
    const float *const in[3] = {main, m1, v};
    (void)err;
    c->seen++;
    for (int s = 0; s < 3; s++) {
        for (int64_t i = 0; i < c->m->table.params[param].rows * c->m->table.params[param].cols; i++) {
            assert_true(in[s][i] == tiny_value(c->m, s, param, i));
        }
    }
    return NS_OK;
}

#endif
