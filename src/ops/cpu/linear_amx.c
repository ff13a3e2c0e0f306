/* Linear layers in bf16 on the tile unit. y and dx: weights come packed (prepare), rows of the activations are packed per
 * task; each output element is one f32 sum over k in order, rounded once. dW: both operands are packed per chunk of MC
 * rows, and C is the f32 gradient itself, so the sum over rows has one order too. */
#include "ops/cpu/amx.h"

enum { MB = 256, KC = 2048, NB = 256, MC = 512 };

/* ---- packed weights ---- */

void ns_amx_prepare_bytes(const ns_weight *w, int64_t *fwd, int64_t *dx)
{
    int64_t n = w->dt == NS_DTYPE_BF16 && w->cols > 1 ? ns_cpu_up(w->rows, 32) * ns_cpu_up(w->cols, 32) * 2 : 0;
    *fwd = *dx = n; /* vectors (norm weights, biases) have no panels */
}

static void prepare_tile(void *arg, int t, int worker)
{
    const ns_weight *w = arg;
    int64_t N = w->rows, K = w->cols, r = (int64_t)t * 32, nsteps = (N + 31) / 32, ksteps = (K + 31) / 32;
    const bf16 *src = (const bf16 *)w->data + r * K;
    (void)worker;
    for (int64_t k = 0; k < K; k += 32) {
        if (w->panels_fwd) pack_bt((bf16 *)w->panels_fwd + (t * ksteps + k / 32) * STEP, src + k, K, N - r, K - k);
        if (w->panels_dx) pack_b((bf16 *)w->panels_dx + (k / 32 * nsteps + t) * STEP, src + k, K, N - r, K - k);
    }
}

void ns_amx_prepare(ns_exec *x, const ns_weight *w)
{
    if (w->dt == NS_DTYPE_BF16 && (w->panels_fwd || w->panels_dx))
        ns_parallel_for(x->pool, (int)((w->rows + 31) / 32), prepare_tile, (void *)(uintptr_t)w);
}

/* ---- y[M,N] = x[M,K] B, B packed by panels of 32 columns ---- */

typedef struct rows_job {
    int64_t M, N, K, nb; /* nb: columns of a task */
    const bf16 *x, *panels;
    int64_t stride; /* steps from one panel to the next: those of the whole weight */
    void *y;        /* [M,N] */
    ns_dtype dt;
    int add;
    const ns_weight *bias;
    ns_cpu_scratch scratch;
} rows_job;

/* 32x32 f32 block -> rows of y at (m, n), with bias or addition. */
static void finish_block(const rows_job *j, const float *c, int64_t m, int64_t n)
{
    int64_t rows = ns_cpu_min(32, j->M - m), cols = j->N - n;
    __m512 add[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int h = 0; j->bias && h < 2; h++) {
        __mmask16 k = mask16(cols - 16 * h);
        if (j->bias->dt == NS_DTYPE_BF16)
            add[h] = bf16_to_ps(_mm256_maskz_loadu_epi16(k, (const bf16 *)j->bias->data + n + 16 * h));
        else
            add[h] = _mm512_maskz_loadu_ps(k, (const float *)j->bias->data + n + 16 * h);
    }
    for (int64_t r = 0; r < rows; r++) {
        for (int h = 0; h < 2; h++) {
            __mmask16 k = mask16(cols - 16 * h);
            __m512 v = _mm512_add_ps(_mm512_load_ps(c + r * 32 + 16 * h), add[h]);
            int64_t at = (m + r) * j->N + n + 16 * h;
            if (j->dt == NS_DTYPE_F32) {
                _mm512_mask_storeu_ps((float *)j->y + at, k, v);
                continue;
            }
            if (j->add) v = _mm512_add_ps(v, bf16_to_ps(_mm256_maskz_loadu_epi16(k, (bf16 *)j->y + at)));
            _mm256_mask_storeu_epi16((bf16 *)j->y + at, k, ps_to_bf16(v));
        }
    }
}

/* Per worker: packed rows of a K block, then either two blocks of C or, when K needs several blocks, C of the whole task. */
static int64_t rows_per(int64_t K)
{
    return MB * ns_cpu_min(ns_cpu_up(K, 32), KC) * 2 + (K > KC ? MB * NB * 4 : 2 * 4096);
}

typedef struct rows_task {
    const rows_job *j;
    int64_t m0, n0, n1, panels; /* panels of 32 rows */
    float *c;
    bf16 *a;
} rows_task;

static void pack_rows(const rows_task *t, int64_t k0, int64_t steps)
{
    const rows_job *j = t->j;
    for (int64_t p = 0; p < t->panels; p++)
        for (int64_t s = 0; s < steps; s++)
            pack_a(t->a + (p * steps + s) * STEP, j->x + (t->m0 + p * 32) * j->K + k0 + s * 32, j->K,
                   j->M - t->m0 - p * 32, j->K - k0 - s * 32);
}

/* The whole reduction at once: each block is finished one behind, while the tile unit is busy with the next. */
static void rows_short(const rows_task *t)
{
    const rows_job *j = t->j;
    int64_t steps = (j->K + 31) / 32, pm = -1, pn = -1;
    int which = 0;
    pack_rows(t, 0, steps);
    for (int64_t n = t->n0; n < t->n1; n += 32) {
        for (int64_t p = 0; p < t->panels; p++) {
            amx_zero();
            amx_mul(t->a + p * steps * STEP, j->panels + n / 32 * j->stride * STEP, steps);
            amx_store(t->c + which * 1024, 32);
            if (pm >= 0) finish_block(j, t->c + (1 - which) * 1024, pm, pn);
            pm = t->m0 + p * 32, pn = n, which = 1 - which;
        }
    }
    if (pm >= 0) finish_block(j, t->c + (1 - which) * 1024, pm, pn);
}

/* Blocks of KC: C of the task lives in scratch as 32x32 blocks between them. */
static void rows_long(const rows_task *t)
{
    const rows_job *j = t->j;
    for (int64_t k0 = 0; k0 < j->K; k0 += KC) {
        int64_t steps = (ns_cpu_min(KC, j->K - k0) + 31) / 32;
        pack_rows(t, k0, steps);
        for (int64_t n = t->n0; n < t->n1; n += 32) {
            for (int64_t p = 0; p < t->panels; p++) {
                float *c = t->c + ((n - t->n0) / 32 * t->panels + p) * 1024;
                if (k0)
                    amx_load(c, 32);
                else
                    amx_zero();
                amx_mul(t->a + p * steps * STEP, j->panels + (n / 32 * j->stride + k0 / 32) * STEP, steps);
                amx_store(c, 32);
                if (k0 + KC >= j->K) finish_block(j, c, t->m0 + p * 32, n);
            }
        }
    }
}

static void rows_tile(void *arg, int i, int worker)
{
    const rows_job *j = arg;
    int64_t tasks_n = (j->N + j->nb - 1) / j->nb;
    rows_task t = {.j = j, .m0 = i / tasks_n * MB, .n0 = i % tasks_n * j->nb};
    t.n1 = ns_cpu_min(j->N, t.n0 + j->nb);
    t.panels = (ns_cpu_min(MB, j->M - t.m0) + 31) / 32;
    t.a = ns_cpu_mine(&j->scratch, worker);
    t.c = (float *)(t.a + MB * ns_cpu_min(ns_cpu_up(j->K, 32), KC));
    amx_begin();
    if (j->K <= KC)
        rows_short(&t);
    else
        rows_long(&t);
    amx_end();
}

/* Columns of a task: all when the rows alone give enough tasks, else pieces of at least 64. */
static int64_t columns_per_task(int64_t M, int64_t N)
{
    int64_t blocks = (M + MB - 1) / MB, want = blocks >= 16 ? 1 : (16 + blocks - 1) / blocks;
    return ns_cpu_max(64, ns_cpu_up((N + want - 1) / want, 32));
}

static void rows_run(ns_exec *x, int64_t shared, rows_job *j, const char *op)
{
    if (!ns_cpu_get_scratch(&j->scratch, x, shared, rows_per(j->K), op)) return;
    j->nb = columns_per_task(j->M, j->N);
    if (j->K > KC) j->nb = ns_cpu_min(j->nb, NB);
    ns_parallel_for(x->pool, (int)((j->M + MB - 1) / MB * ((j->N + j->nb - 1) / j->nb)), rows_tile, j);
}

static int is_bf16(const ns_linear_args *a)
{
    return a->dt == NS_DTYPE_BF16 && a->w->dt == NS_DTYPE_BF16;
}

void ns_amx_linear_fwd(ns_exec *x, const ns_linear_args *a)
{
    if (!is_bf16(a) || !a->w->panels_fwd) {
        ns_cpu_linear_fwd(x, a, &ns_cpu_vec_avx512);
        return;
    }
    rows_job j = {.M = a->M,
                  .N = a->N,
                  .K = a->K,
                  .x = a->x,
                  .panels = a->w->panels_fwd,
                  .stride = (a->K + 31) / 32,
                  .y = a->y,
                  .dt = a->dt,
                  .bias = a->b};
    rows_run(x, 0, &j, "linear_fwd");
}

void ns_amx_linear_dgrad(ns_exec *x, const ns_linear_args *a)
{
    if (!is_bf16(a) || !a->w->panels_dx) {
        ns_cpu_linear_dgrad(x, a, &ns_cpu_vec_avx512);
        return;
    }
    rows_job j = {.M = a->M,
                  .N = a->K,
                  .K = a->N,
                  .x = a->dy,
                  .panels = a->w->panels_dx,
                  .stride = (a->N + 31) / 32,
                  .y = a->dx,
                  .dt = a->dt,
                  .add = a->add_dx};
    rows_run(x, 0, &j, "linear_dgrad");
}

/* ---- dW[N,K] += dy^T x ---- */

typedef struct wgrad_job {
    int64_t M, N, K, m0, rows; /* this chunk: rows [m0, m0 + rows) */
    const bf16 *x, *dy;
    float *dw;
    bf16 *a, *b; /* packed dy^T and x: panels of 32 columns over the chunk's steps */
    ns_cpu_scratch scratch;
} wgrad_job;

/* Task t packs step t: 32 rows of dy and x. */
static void wgrad_pack(void *arg, int t, int worker)
{
    const wgrad_job *j = arg;
    int64_t steps = (j->rows + 31) / 32, r = j->m0 + (int64_t)t * 32, left = j->M - r;
    (void)worker;
    for (int64_t n = 0; n < j->N; n += 32)
        pack_at(j->a + (n / 32 * steps + t) * STEP, j->dy + r * j->N + n, j->N, left, j->N - n);
    for (int64_t k = 0; k < j->K; k += 32)
        pack_b(j->b + (k / 32 * steps + t) * STEP, j->x + r * j->K + k, j->K, left, j->K - k);
}

/* Task t: rows [32 t, 32 t + 32) of dW. */
static void wgrad_mul(void *arg, int t, int worker)
{
    const wgrad_job *j = arg;
    int64_t steps = (j->rows + 31) / 32, n = (int64_t)t * 32, rows = ns_cpu_min(32, j->N - n);
    float *edge = ns_cpu_mine(&j->scratch, worker);
    amx_begin();
    for (int64_t k = 0; k < j->K; k += 32) {
        int64_t cols = ns_cpu_min(32, j->K - k);
        float *c = j->dw + n * j->K + k;
        int whole = rows == 32 && cols == 32;
        for (int64_t r = 0; !whole && r < rows; r++) memcpy(edge + r * 32, c + r * j->K, (size_t)cols * 4);
        amx_load(whole ? c : edge, whole ? j->K : 32);
        amx_mul(j->a + t * steps * STEP, j->b + k / 32 * steps * STEP, steps);
        amx_store(whole ? c : edge, whole ? j->K : 32);
        for (int64_t r = 0; !whole && r < rows; r++) memcpy(c + r * j->K, edge + r * 32, (size_t)cols * 4);
    }
    amx_end();
}

static int64_t wgrad_rows(int64_t M)
{
    return ns_cpu_min(MC, ns_cpu_up(M, 32));
}
static int64_t wgrad_shared(int64_t M, int64_t N, int64_t K)
{
    return wgrad_rows(M) * (ns_cpu_up(N, 32) + ns_cpu_up(K, 32)) * 2;
}

static void wgrad_run(ns_exec *x, int64_t shared, wgrad_job *j, const char *op)
{
    shared = ns_cpu_up(shared, 64);
    if (!ns_cpu_get_scratch(&j->scratch, x, shared + wgrad_shared(j->M, j->N, j->K), 4096, op)) return;
    j->a = (bf16 *)(j->scratch.shared + shared);
    j->b = j->a + wgrad_rows(j->M) * ns_cpu_up(j->N, 32);
    for (j->m0 = 0; j->m0 < j->M; j->m0 += MC) {
        j->rows = ns_cpu_min(MC, j->M - j->m0);
        ns_parallel_for(x->pool, (int)((j->rows + 31) / 32), wgrad_pack, j);
        ns_parallel_for(x->pool, (int)((j->N + 31) / 32), wgrad_mul, j);
    }
}

void ns_amx_linear_wgrad(ns_exec *x, const ns_linear_args *a)
{
    if (a->dt != NS_DTYPE_BF16) {
        ns_cpu_linear_wgrad(x, a, &ns_cpu_vec_avx512);
        return;
    }
    wgrad_job j = {.M = a->M, .N = a->N, .K = a->K, .x = a->x, .dy = a->dy, .dw = a->w->grad};
    if (j.dw) wgrad_run(x, 0, &j, "linear_wgrad");
    ns_cpu_bias_grad(x, a, &ns_cpu_vec_avx512);
}

/* ---- head: the same products on a chunk of tokens, logits in f32, d logits in bf16 ---- */

static void head_fwd(ns_exec *x, const ns_cpu_vec *v, int64_t shared, const ns_head_args *a, int64_t m,
                     const void *rows, float *logits)
{
    (void)v;
    rows_job j = {.M = m,
                  .N = a->V,
                  .K = a->C,
                  .x = rows,
                  .panels = a->w->panels_fwd,
                  .stride = (a->C + 31) / 32,
                  .y = logits,
                  .dt = NS_DTYPE_F32};
    rows_run(x, shared, &j, "head");
}
static void head_dgrad(ns_exec *x, const ns_cpu_vec *v, int64_t shared, const ns_head_args *a, int64_t m, const void *d,
                       void *dx)
{
    (void)v;
    rows_job j = {.M = m,
                  .N = a->C,
                  .K = a->V,
                  .x = d,
                  .panels = a->w->panels_dx,
                  .stride = (a->w->rows + 31) / 32,
                  .y = dx,
                  .dt = a->dt};
    rows_run(x, shared, &j, "head");
}
static void head_wgrad(ns_exec *x, const ns_cpu_vec *v, int64_t shared, const ns_head_args *a, int64_t m, const void *d,
                       const void *rows)
{
    (void)v;
    wgrad_job j = {.M = m, .N = a->V, .K = a->C, .x = rows, .dy = d, .dw = a->w->grad};
    wgrad_run(x, shared, &j, "head");
}
static const ns_cpu_head_gemms head_gemms = {NS_DTYPE_BF16, head_fwd, head_dgrad, head_wgrad};

void ns_amx_head(ns_exec *x, const ns_head_args *a, const ns_cpu_vec *v)
{
    int ok = a->dt == NS_DTYPE_BF16 && a->w->dt == NS_DTYPE_BF16 && a->w->panels_fwd && (a->w->panels_dx || !a->dx);
    ns_cpu_head(x, a, ok ? &head_gemms : &ns_cpu_head_f32, v);
}

/* Bytes of exec.work: layers have up to `wide` outputs on `narrow` inputs, or the other way round. */
int64_t ns_amx_work(int workers, int64_t T, int64_t wide, int64_t narrow, int64_t C, int64_t V)
{
    int64_t edge = (int64_t)workers * 4096, rows = workers * ns_cpu_up(rows_per(wide), 64);
    int64_t layers = ns_cpu_max(rows, ns_cpu_up(wgrad_shared(T, wide, narrow), 64) + edge);
    int64_t head_rows = workers * ns_cpu_up(rows_per(ns_cpu_max(V, C)), 64);
    int64_t head = ns_cpu_up(wgrad_shared(ns_cpu_head_rows(T, V), V, C), 64) + edge;
    return ns_cpu_max(layers, ns_cpu_up(ns_cpu_head_shared(T, C, V), 64) + ns_cpu_max(head_rows, head));
}
