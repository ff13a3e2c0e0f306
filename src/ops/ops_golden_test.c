/* Ops against values and gradients from PyTorch (tests/golden/ops/ops.safetensors, made by make_ops.py beside it), for ref
 * and for every level of the CPU back-end that this machine has. Tolerance: f32 on both sides. */
#include "base/testing.h"

#include <math.h>

#include "base/mem.h"
#include "ops/ops.h"

#define GOLDEN NS_SOURCE_DIR "/tests/golden/ops/ops.safetensors"

/* A reader for this one file: names are unique in the header and tensors are F32 or I32. */
static char *file_bytes;
static uint64_t header_size;

static int load_golden(void)
{
    FILE *f = fopen(GOLDEN, "rb");
    if (!f) return 0;
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    file_bytes = malloc((size_t)n + 1);
    assert_non_null(file_bytes);
    assert_int_equal(fread(file_bytes, 1, (size_t)n, f), n);
    fclose(f);
    memcpy(&header_size, file_bytes, 8);
    assert_true((long)header_size < n);
    return 1;
}

/* Data of tensor "group.name"; *n its elements. NULL if absent. */
static void *tensor(const char *group, const char *name, int64_t *n)
{
    char key[200];
    snprintf(key, sizeof key, "\"%s.%s\":{", group, name);
    const char *end = file_bytes + 8 + header_size, *h = memmem(file_bytes + 8, header_size, key, strlen(key));
    if (!h) return NULL;
    const char *off = memmem(h, (size_t)(end - h), "\"data_offsets\":[", 16);
    assert_non_null(off);
    uint64_t a = strtoull(off + 16, (char **)&off, 10), b = strtoull(off + 1, NULL, 10);
    if (n) *n = (int64_t)(b - a) / 4;
    return file_bytes + 8 + header_size + a;
}

static float *want(const char *group, const char *name)
{
    float *p = tensor(group, name, NULL);
    if (!p) fail_msg("golden file has no %s.%s", group, name);
    return p;
}

static float scalar(const char *group, const char *name)
{
    return want(group, name)[0];
}
static int32_t integer(const char *group, const char *name)
{
    return ((int32_t *)want(group, name))[0];
}

static int64_t count(const char *group, const char *name)
{
    int64_t n = 0;
    want(group, name);
    tensor(group, name, &n);
    return n;
}

/* ---- scratch: zeroed outputs of one test ---- */
static void *blocks[64];
static int n_blocks;
static ns_exec x;
static ns_step step;

static float *zeros(int64_t n)
{
    void *p = NULL;
    assert_ns_ok(ns_alloc(&p, (size_t)n * 4, "golden", NULL), NULL);
    blocks[n_blocks++] = p;
    return p;
}

static float *copy(const char *group, const char *name)
{
    int64_t n = count(group, name);
    return memcpy(zeros(n), want(group, name), (size_t)n * 4);
}

static void begin(int64_t T, int64_t C, int64_t V, int64_t nh, int64_t hd)
{
    memset(&step, 0, sizeof step);
    x.step = &step;
    x.work_bytes = x.ops->work_bytes(&x, T, T, C, C, V, nh, hd);
    x.work = zeros(x.work_bytes / 4 + 1);
}

static void finish(void)
{
    if (x.err.code) fail_msg("op failed: %s", x.err.msg);
    while (n_blocks) ns_free(blocks[--n_blocks]);
}

static void same(const char *group, const char *name, const float *got, double rtol)
{
    const float *w = want(group, name);
    int64_t n = count(group, name);
    double scale = 0;
    for (int64_t i = 0; i < n; i++) scale += (double)w[i] * (double)w[i];
    scale = sqrt(scale / (double)n);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)w[i]) <= rtol * (fabs((double)w[i]) + scale)))
            fail_msg("%s %s.%s[%lld]: got %.9g, PyTorch %.9g", x.ops->name, group, name, (long long)i, (double)got[i],
                     (double)w[i]);
}

static ns_weight param(const char *group, const char *name, int64_t rows)
{
    ns_weight w = {.name = name, .rows = rows, .cols = count(group, name) / rows, .dt = NS_DTYPE_F32};
    w.data = copy(group, name);
    w.grad = zeros(w.rows * w.cols);
    int64_t f, d;
    x.ops->prepare_bytes(&w, &f, &d);
    w.panels_fwd = f ? zeros(f / 4) : NULL;
    w.panels_dx = d ? zeros(d / 4) : NULL;
    x.ops->prepare(&x, &w);
    return w;
}

/* ---- one function an op ---- */
/* residual: 0 no, 1 yes, 2 yes and plus_one */
static void norm(const char *g, int residual)
{
    int64_t C = count(g, "w"), T = count(g, "x") / C, n = T * C;
    begin(T, C, 0, 1, 1);
    ns_weight w = param(g, "w", C);
    float *h = zeros(n), *y = zeros(n), *rstd = zeros(T), *dh = zeros(n);
    x.ops->norm_fwd(&x, &(ns_norm_args){.T = T,
                                        .C = C,
                                        .dt = NS_DTYPE_F32,
                                        .eps = scalar(g, "eps"),
                                        .w = &w,
                                        .plus_one = residual == 2,
                                        .x = want(g, "x"),
                                        .delta = residual ? want(g, "res") : NULL,
                                        .h = residual ? h : NULL,
                                        .y = y,
                                        .rstd = rstd});
    x.ops->norm_bwd(&x, &(ns_norm_bwd_args){.T = T,
                                            .C = C,
                                            .dt = NS_DTYPE_F32,
                                            .w = &w,
                                            .plus_one = residual == 2,
                                            .h = residual ? h : want(g, "x"),
                                            .rstd = rstd,
                                            .dy = want(g, "dy"),
                                            .dres = residual ? want(g, "dsum") : NULL,
                                            .dh = dh});
    if (residual) same(g, "sum", h, 1e-6);
    same(g, "y", y, 2e-6), same(g, "rstd", rstd, 2e-6), same(g, "dx", dh, 5e-6), same(g, "dw", w.grad, 5e-6);
    finish();
}

static void rope(const char *g, int64_t hd)
{
    int64_t T = count(g, "positions"), nh = count(g, "x") / T / hd, half = count(g, "cos") / T;
    begin(T, nh * hd, 0, nh, hd);
    float *cs = zeros(T * hd), *y = copy(g, "x"), *dx = copy(g, "dy"), *c = want(g, "cos"), *s = want(g, "sin");
    int32_t *pos = (int32_t *)zeros(T); /* row t of the table is the t-th listed position */
    for (int64_t t = 0; t < T; t++) {
        pos[t] = (int32_t)t;
        for (int64_t i = 0; i < half; i++)
            cs[(t * half + i) * 2] = c[t * half + i], cs[(t * half + i) * 2 + 1] = s[t * half + i];
    }
    ns_rope_args a = {.T = T,
                      .n_heads = nh,
                      .head_dim = hd,
                      .row_stride = nh * hd,
                      .rot_dim = 2 * half,
                      .dt = NS_DTYPE_F32,
                      .position = pos,
                      .cos_sin = cs,
                      .max_pos = T,
                      .qk = y};
    x.ops->rope(&x, &a);
    a.qk = dx;
    a.inverse = 1;
    x.ops->rope(&x, &a);
    same(g, "y", y, 2e-6), same(g, "dx", dx, 2e-6);
    finish();
}

static void attention(const char *g, int64_t nh, int64_t nkv, int64_t hd)
{
    int64_t n = count(g, "q"), nk = count(g, "k"), T = n / nh / hd, S = count(g, "cu_q") - 1;
    begin(T, nh * hd, 0, nh, hd);
    const int32_t *cu_q = (int32_t *)want(g, "cu_q"), *cu_k = (int32_t *)want(g, "cu_k");
    int32_t *kv_len = (int32_t *)zeros(S), max_q = 0, max_kv = 0;
    for (int64_t s = 0; s < S; s++) {
        kv_len[s] = cu_k[s + 1] - cu_k[s];
        max_kv = kv_len[s] > max_kv ? kv_len[s] : max_kv;
        max_q = cu_q[s + 1] - cu_q[s] > max_q ? cu_q[s + 1] - cu_q[s] : max_q;
    }
    float *o = zeros(n), *lse = zeros(nh * T), *dq = zeros(n), *dk = zeros(nk), *dv = zeros(nk);
    ns_attn_args a = {.T = T,
                      .n_seg = S,
                      .max_q = max_q,
                      .max_kv = max_kv,
                      .n_heads = nh,
                      .n_kv = nkv,
                      .head_dim = hd,
                      .dt = NS_DTYPE_F32,
                      .scale = 1 / sqrtf((float)hd),
                      .softcap = scalar(g, "softcap"),
                      .window = integer(g, "window"),
                      .causal = 1,
                      .cu_q = cu_q,
                      .kv_start = cu_k,
                      .kv_len = kv_len,
                      .q = want(g, "q"),
                      .k = want(g, "k"),
                      .v = want(g, "v"),
                      .q_stride = nh * hd,
                      .k_stride = nkv * hd,
                      .v_stride = nkv * hd,
                      .out = o,
                      .lse = lse,
                      .dout = want(g, "do"),
                      .dq = dq,
                      .dk = dk,
                      .dv = dv};
    x.ops->attn_fwd(&x, &a);
    x.ops->attn_bwd(&x, &a);
    same(g, "o", o, 5e-6), same(g, "lse", lse, 5e-6);
    same(g, "dq", dq, 1e-5), same(g, "dk", dk, 1e-5), same(g, "dv", dv, 1e-5);
    finish();
}

static void activation(const char *g, ns_act act)
{
    int64_t F = 40, T = count(g, "y") / F;
    begin(T, F, 0, 1, 1);
    float *y = zeros(T * F), *dx = zeros(count(g, "x"));
    ns_act_args a = {T, F, NS_DTYPE_F32, act, want(g, "x"), y, want(g, "dy"), dx};
    x.ops->act_fwd(&x, &a);
    x.ops->act_bwd(&x, &a);
    same(g, "y", y, 2e-6), same(g, "dx", dx, 5e-6);
    finish();
}

static void linear(const char *g, int bias)
{
    int64_t M = 7, K = count(g, "x") / M, N = count(g, "y") / M;
    begin(M, K > N ? K : N, 0, 1, 1);
    ns_weight w = param(g, "w", N), b = {0};
    if (bias) b = param(g, "b", N);
    float *y = zeros(M * N), *dx = zeros(M * K);
    ns_linear_args a = {.M = M,
                        .N = N,
                        .K = K,
                        .dt = NS_DTYPE_F32,
                        .w = &w,
                        .b = bias ? &b : NULL,
                        .x = want(g, "x"),
                        .y = y,
                        .dy = want(g, "dy"),
                        .dx = dx};
    x.ops->linear_fwd(&x, &a);
    x.ops->linear_dgrad(&x, &a);
    x.ops->linear_wgrad(&x, &a);
    same(g, "y", y, 3e-6), same(g, "dx", dx, 3e-6), same(g, "dw", w.grad, 3e-6);
    if (bias) same(g, "db", b.grad, 3e-6);
    finish();
}

static void embedding(void)
{
    const char *g = "embedding";
    int64_t T = count(g, "ids"), V = 11, C = count(g, "w") / V;
    begin(T, C, V, 1, 1);
    ns_weight w = param(g, "w", V);
    float *y = zeros(T * C);
    ns_embed_args a = {T, C, V, NS_DTYPE_F32, (int32_t *)want(g, "ids"), &w, y, want(g, "dy")};
    x.ops->embed_fwd(&x, &a);
    x.ops->embed_bwd(&x, &a);
    same(g, "y", y, 0), same(g, "dw", w.grad, 1e-6);
    finish();
}

static void head(const char *g, int64_t rows)
{
    int64_t T = count(g, "labels"), C = count(g, "h") / T, V = integer(g, "vocab");
    begin(T, C, V, 1, 1);
    ns_weight w = param(g, "w", rows);
    float *logp = zeros(T), *dx = zeros(T * C);
    step.weight_sum = (double)scalar(g, "norm");
    x.ops->head(&x, &(ns_head_args){.T = T,
                                    .C = C,
                                    .V = V,
                                    .dt = NS_DTYPE_F32,
                                    .softcap = scalar(g, "softcap"),
                                    .w = &w,
                                    .x = want(g, "h"),
                                    .label = (int32_t *)want(g, "labels"),
                                    .weight = want(g, "weights"),
                                    .logp = logp,
                                    .dx = dx});
    float loss = (float)(step.loss_sum / step.weight_sum);
    same(g, "loss", &loss, 2e-6), same(g, "logp", logp, 3e-6), same(g, "dh", dx, 1e-5), same(g, "dw", w.grad, 1e-5);
    finish();
}

static void adamw(const char *g)
{
    begin(1, 1, 1, 1, 1);
    step = (ns_step){.lr = scalar(g, "lr"),
                     .beta1 = scalar(g, "beta1"),
                     .beta2 = scalar(g, "beta2"),
                     .clip_coef = 1,
                     .eps = scalar(g, "eps"),
                     .weight_decay = scalar(g, "weight_decay"),
                     .t = integer(g, "t")};
    ns_opt_item it = {.n = count(g, "p"),
                      .dt = NS_DTYPE_F32,
                      .w = copy(g, "p"),
                      .grad = copy(g, "g"),
                      .m = copy(g, "m"),
                      .v = copy(g, "v"),
                      .decay = 1};
    x.ops->adamw(&x, &(ns_opt_args){&it, 1});
    same(g, "p_out", it.w, 1e-6), same(g, "m_out", it.m, 1e-6), same(g, "v_out", it.v, 1e-6);
    finish();
}

static void clip(const char *g)
{
    begin(1, 1, 1, 1, 1);
    step.clip = scalar(g, "max_norm");
    ns_opt_item it[2] = {{.n = count(g, "g0"), .grad = copy(g, "g0")}, {.n = count(g, "g1"), .grad = copy(g, "g1")}};
    ns_opt_args a = {it, 2};
    x.ops->grad_sumsq(&x, &a);
    x.ops->clip(&x, &a);
    float n = (float)sqrt(step.grad_sumsq);
    same(g, "norm", &n, 1e-6), same(g, "coef", &step.clip_coef, 1e-6);
    assert_int_equal(step.nonfinite, 0);
    finish();
}

static void all_ops(void **state)
{
    (void)state;
    if (!load_golden()) {
        print_message("SKIP: no %s\n", GOLDEN);
        skip();
    }
    static const char *const levels[] = {"table", "ref", "f32", "avx2", "avx512", "amx"};
    for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
        ns_ops ops = ns_ops_ref;
        if (l && ns_ops_cpu(&ops, levels[l], NULL) != NS_OK) {
            print_message("SKIP: level %s is not available here\n", levels[l]);
            continue;
        }
        x = (ns_exec){.ops = &ops};
        norm("rmsnorm.plain", 0), norm("rmsnorm.residual", 1), norm("rmsnorm.plus_one", 2);
        rope("rope.plain", 64), rope("rope.llama31", 128), rope("rope.llama32", 64), rope("rope.tiny", 16),
            rope("rope.partial", 32);
        attention("attention.causal", 4, 2, 16), attention("attention.window", 4, 2, 16);
        attention("attention.softcap", 4, 2, 16), attention("attention.window_softcap", 4, 2, 16);
        attention("attention.mha", 3, 3, 8), attention("attention.mqa", 4, 1, 32),
            attention("attention.prefix", 4, 2, 16);
        activation("swiglu", NS_ACT_SWIGLU), activation("geglu_tanh", NS_ACT_GEGLU_TANH),
            activation("relu2", NS_ACT_RELU2);
        linear("linear.plain", 0), linear("linear.bias", 1);
        embedding();
        head("head.plain", 50), head("head.padded", 64), head("head.softcap", 50);
        adamw("adamw.first"), adamw("adamw.later"), adamw("adamw.no_decay");
        clip("clip.above"), clip("clip.below");
    }
    free(file_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_ops)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
