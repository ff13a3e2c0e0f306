/* A vocabulary split over ranks: the head in two phases on each part gives the loss and gradients of one pass over the whole, at every
 * level of this machine; a part may have no word at all; words of other ranks give zero rows in the embedding and no gradient. */
#include <math.h>

#include "base/mem.h"
#include "base/testing.h"
#include "ops/ops.h"

enum { T = 37, C = 48, V = 77, PARTS = 3, ROWS = 40 }; /* parts of 40, 37 and 0 words */

static uint32_t seed = 7;
static float uniform(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / (float)(1 << 24) - 0.5f;
}

typedef struct problem {
    float x[T * C], w[PARTS * ROWS * C], grad[PARTS * ROWS * C], dx[T * C];
    int32_t label[T];
    float weight[T], logp[T];
} problem;

static void run(const ns_ops *ops, ns_step *step, ns_head_args *a)
{
    static _Alignas(64) char work[1 << 24]; /* as the planner gives it */
    ns_exec x = {.ops = ops, .work = work, .work_bytes = sizeof work, .step = step};
    ops->head(&x, a);
    assert_int_equal(x.err.code, NS_OK);
}

static double worst(const float *a, const float *b, int n)
{
    double most = 0, top = 0;
    for (int i = 0; i < n; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
        top = fmax(top, fabs((double)a[i]));
    }
    return top > 0 ? most / top : most;
}

static void two_phases(const ns_ops *ops, problem *p)
{
    static float stats[PARTS][2 * T], sum[T * C], grad[PARTS * ROWS * C], logp[T];
    ns_step step = {.weight_sum = 20}, split = {.weight_sum = 20};
    ns_weight w = {.name = "head", .rows = V, .cols = C, .dt = NS_DTYPE_F32, .data = p->w, .grad = p->grad};
    memset(p->grad, 0, sizeof p->grad);
    ns_head_args whole = {.T = T,
                          .C = C,
                          .V = V,
                          .dt = NS_DTYPE_F32,
                          .w = &w,
                          .x = p->x,
                          .label = p->label,
                          .weight = p->weight,
                          .logp = p->logp,
                          .dx = p->dx};
    run(ops, &step, &whole);

    memset(sum, 0, sizeof sum);
    memset(grad, 0, sizeof grad);
    ns_weight part[PARTS];
    ns_head_args a[PARTS];
    for (int r = 0; r < PARTS; r++) {
        part[r] = (ns_weight){.name = "part",
                              .rows = ROWS,
                              .cols = C,
                              .dt = NS_DTYPE_F32,
                              .data = p->w + r * ROWS * C,
                              .grad = grad + r * ROWS * C};
        a[r] = whole;
        a[r].w = &part[r];
        a[r].V = r * ROWS >= V ? 0 : V - r * ROWS < ROWS ? V - r * ROWS : ROWS;
        a[r].v0 = r * ROWS;
        a[r].phase = NS_HEAD_STATS;
        a[r].stats = stats[r];
        a[r].logp = NULL;
        a[r].dx = NULL;
        run(ops, &split, &a[r]);
        assert_true(split.loss_sum == 0);
    }
    for (int t = 0; t < T; t++) {
        double s = 0, label = -INFINITY;
        if (p->weight[t] == 0) continue;
        for (int r = 0; r < PARTS; r++) {
            s += exp((double)stats[r][2 * t]);
            label = fmax(label, (double)stats[r][2 * t + 1]);
        }
        for (int r = 0; r < PARTS; r++) stats[r][2 * t] = (float)log(s), stats[r][2 * t + 1] = (float)label;
    }
    for (int r = 0; r < PARTS; r++) {
        static float dx[T * C];
        split.loss_sum = 0;
        memset(dx, 0xff, sizeof dx);
        a[r].phase = NS_HEAD_GIVEN;
        a[r].dx = dx;
        a[r].logp = logp;
        run(ops, &split, &a[r]);
        for (int i = 0; i < T * C; i++) sum[i] += dx[i];
        assert_true(fabs(split.loss_sum - step.loss_sum) < 2e-6 * step.loss_sum); /* every rank has the whole loss */
        assert_true(worst(p->logp, logp, T) < 2e-6);
    }
    /* f32 sums of V and C terms in another order */
    assert_true(worst(p->dx, sum, T * C) < 5e-6);
    assert_true(worst(p->grad, grad, V * C) < 5e-6);
}

static void test_head(void **state)
{
    (void)state;
    static problem p;
    ns_error err = NS_ERROR_INIT;
    for (int i = 0; i < T * C; i++) p.x[i] = 4 * uniform();
    for (int i = 0; i < V * C; i++) p.w[i] = uniform();
    for (int t = 0; t < T; t++)
        p.label[t] = t % 5 == 4 ? -1 : (t * 31) % V, p.weight[t] = t % 5 == 4 ? 0 : 1 + uniform();
    two_phases(&ns_ops_ref, &p);
    static const char *const levels[] = {"f32", "avx2", "avx512"};
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        ns_ops ops;
        if (ns_ops_cpu(&ops, levels[i], &err) != NS_OK) {
            print_message("SKIP: level %s is not on this machine\n", levels[i]);
            err = (ns_error)NS_ERROR_INIT;
            continue;
        }
        two_phases(&ops, &p);
    }
}

static void test_embedding(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_ops cpu;
    assert_ns_ok(ns_ops_cpu(&cpu, "auto", &err), &err);
    const ns_ops *const both[] = {&ns_ops_ref, &cpu};
    for (int k = 0; k < 2; k++) {
        float table[3 * 4], grad[3 * 4] = {0}, out[4 * 4], dx[4 * 4];
        const int32_t ids[4] = {2, -1, 0, -1};
        for (int i = 0; i < 12; i++) table[i] = (float)(i + 1);
        for (int i = 0; i < 16; i++) dx[i] = (float)(100 + i);
        ns_weight w = {.name = "embed", .rows = 3, .cols = 4, .dt = NS_DTYPE_F32, .data = table, .grad = grad};
        ns_embed_args a = {.T = 4, .C = 4, .V = 3, .dt = NS_DTYPE_F32, .ids = ids, .table = &w, .x = out, .dx = dx};
        ns_exec x = {.ops = both[k]};
        both[k]->embed_fwd(&x, &a);
        both[k]->embed_bwd(&x, &a);
        for (int c = 0; c < 4; c++) {
            assert_true(out[c] == 9 + c && out[4 + c] == 0 && out[8 + c] == 1 + c && out[12 + c] == 0);
            assert_true(grad[8 + c] == 100 + c && grad[4 + c] == 0 && grad[c] == 108 + c);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_head), cmocka_unit_test(test_embedding)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
