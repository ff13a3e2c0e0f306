/* Every op, from one case table (ops_cases.h):
 *   check    each level of the CPU back-end against ref: values within a tolerance that follows from type and reduction
 *            length, guard bytes round every buffer, inputs untouched, no NaN left, the same bits for any thread count;
 *   grad     every gradient of ref against central differences of its own forward;
 *   broken   variants with one deliberate mistake each must fail the check, or the check is worth nothing;
 *   plan     the plan back-end stays inside every buffer it is shown. */
#include "ops/ops_check.h"
#include "ops/space.h"

/* ---- check: ops_check.h ---- */

static void check_level(const char *level)
{
    ns_error err = NS_ERROR_INIT;
    ns_ops ops;
    if (ns_ops_cpu(&ops, level, &err) != NS_OK) {
        char text[1024];
        print_message("SKIP: level %s: %s\n", level, ns_error_text(&err, text, sizeof text));
        skip();
    }
    int bad = 0;
    ns_threads *pool = NULL;
    assert_ns_ok(ns_threads_new(&pool, 3, &err), &err);
    for (int i = 0; i < N_CASES; i++) {
        char msg[1024] = "";
        if (needs_more(&cases[i], &ops)) continue;
        for (int threads = 0; threads < 2; threads++) {
            if (check(&cases[i], &ops, threads ? pool : NULL, msg, sizeof msg)) continue;
            print_error("%s, level %s, %s: %s\n", cases[i].name, level, threads ? "3 threads" : "inline", msg);
            bad++;
        }
    }
    ns_threads_free(&pool);
    assert_int_equal(bad, 0);
}

static void cpu_ref_agrees(void **s)
{
    (void)s, check_level("ref");
}
static void cpu_f32_agrees(void **s)
{
    (void)s, check_level("f32");
}
static void cpu_avx2_agrees(void **s)
{
    (void)s, check_level("avx2");
}
static void cpu_avx512_agrees(void **s)
{
    (void)s, check_level("avx512");
}
static void cpu_amx_agrees(void **s)
{
    (void)s, check_level("amx");
}
static void cpu_auto_agrees(void **s)
{
    (void)s, check_level("auto");
}

/* The same bits for 1, 2 and 5 workers. */
static void thread_count_changes_nothing(void **state)
{
    (void)state;
    static const char *const levels[] = {"f32", "avx2", "avx512", "amx"};
    ns_error err = NS_ERROR_INIT;
    for (size_t l = 0; l < sizeof levels / sizeof *levels; l++) {
        ns_ops ops;
        if (ns_ops_cpu(&ops, levels[l], NULL) != NS_OK) continue;
        for (int i = 0; i < N_CASES; i++) {
            static prob one, many;
            if (needs_more(&cases[i], &ops)) continue;
            prob_new(&one, &cases[i], &ops, NULL);
            one.c->fwd(&one);
            if (one.c->bwd) one.c->bwd(&one);
            for (int n = 2; n <= 5; n += 3) {
                ns_threads *pool = NULL;
                assert_ns_ok(ns_threads_new(&pool, n, &err), &err);
                prob_new(&many, &cases[i], &ops, pool);
                many.c->fwd(&many);
                if (many.c->bwd) many.c->bwd(&many);
                for (int b = 0; b < one.n; b++)
                    if (memcmp(one.b[b].p, many.b[b].p, (size_t)one.b[b].bytes) != 0)
                        fail_msg("%s, level %s: %s differs with %d workers", cases[i].name, levels[l], one.b[b].name,
                                 n);
                prob_free(&many);
                ns_threads_free(&pool);
            }
            prob_free(&one);
        }
    }
}

/* ---- grad ---- */

static double objective(prob *p)
{
    double L = 0;
    p->c->fwd(p);
    for (int i = 0; i < p->n; i++) {
        const tbuf *o = &p->b[i], *cot = o->cot ? find(p, o->cot) : NULL;
        if (!cot) continue;
        if (o->dt == NS_DTYPE_F64) {
            L += *(double *)o->p * *(double *)cot->p;
            continue;
        }
        for (int64_t k = 0; k < o->n; k++) L += (double)((float *)o->p)[k] * (double)((float *)cot->p)[k];
    }
    return L;
}

static void diff_buffer(prob *p, tbuf *b, const double *analytic, double scale)
{
    float *x = b->p;
    int64_t step = b->n > 40 ? b->n / 29 : 1;
    for (int64_t i = 0; i < b->n; i += step) {
        float keep = x[i], h = 4e-3f * (fabsf(keep) < 1e-2f ? fabsf(keep) + 1e-2f : 1.0f);
        x[i] = keep + h;
        double hi = (double)x[i], up = objective(p);
        x[i] = keep - h;
        double lo = (double)x[i], down = objective(p);
        x[i] = keep;
        double numeric = (up - down) / (hi - lo);
        if (fabs(numeric - analytic[i]) > 3e-3 * (fabs(numeric) + scale))
            fail_msg("%s: d/d %s[%lld]: op %.6g, differences %.6g", p->c->name, b->name, (long long)i, analytic[i],
                     numeric);
    }
}

/* dL/db of the op, from g, against differences. */
static void diff_input(prob *p, tbuf *b, tbuf *g)
{
    p->c->fwd(p);
    p->c->bwd(p);
    double *analytic = must_alloc(b->n * 8), sum = 0;
    for (int64_t j = 0; j < b->n; j++) {
        analytic[j] = (double)get(g->p, g->dt, j) - (g->inout ? (double)g->init[j] : 0.0);
        sum += analytic[j] * analytic[j];
    }
    diff_buffer(p, b, analytic, sqrt(sum / (double)b->n));
    give(analytic);
}

static void gradients_match_differences(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const cas *c = &cases[i];
        if (c->dt != NS_DTYPE_F32 || !c->bwd || c->no_diff || c->T > 40) continue;
        for (int k = 0; k < MAX_BUFS; k++) {
            static prob p; /* anew for each input: the differences disturb accumulators */
            prob_new(&p, c, &ns_ops_ref, NULL);
            tbuf *b = &p.b[k], *g = k < p.n && b->grad ? find(&p, b->grad) : NULL;
            if (g) diff_input(&p, b, g);
            assert_int_equal(p.x.err.code, NS_OK);
            prob_free(&p);
        }
    }
}

/* ---- broken variants: ref with one argument or one element wrong ---- */
#define BREAK(name, op, args_type, change)              \
    static void name(ns_exec *x, const args_type *args) \
    {                                                   \
        args_type a = *args;                            \
        change;                                         \
        ns_ops_ref.op(x, &a);                           \
    }
BREAK(norm_no_eps, norm_fwd, ns_norm_args, a.eps = 0)
BREAK(norm_plus_one, norm_fwd, ns_norm_args, a.plus_one = !a.plus_one)
BREAK(norm_bwd_no_dres, norm_bwd, ns_norm_bwd_args, a.dres = NULL)
BREAK(norm_bwd_short, norm_bwd, ns_norm_bwd_args, a.T--)
BREAK(embed_bwd_short, embed_bwd, ns_embed_args, a.T--)
BREAK(linear_no_bias, linear_fwd, ns_linear_args, a.b = NULL)
BREAK(dgrad_add, linear_dgrad, ns_linear_args, a.add_dx = !a.add_dx)
BREAK(wgrad_short, linear_wgrad, ns_linear_args, a.M -= a.M > 1)
BREAK(rope_forward_only, rope, ns_rope_args, a.inverse = 0)
BREAK(rope_shifted, rope, ns_rope_args, a.cos_sin += a.rot_dim; a.max_pos = 1 << 20)
BREAK(attn_not_causal, attn_fwd, ns_attn_args, a.causal = !a.causal)
BREAK(attn_wide_window, attn_fwd, ns_attn_args, a.window += a.window > 0)
BREAK(attn_no_cap, attn_fwd, ns_attn_args, a.softcap = 0)
BREAK(attn_scale, attn_fwd, ns_attn_args, a.scale *= 1.05f)
BREAK(attn_live_tail, attn_fwd, ns_attn_args, a.T = a.cu_q[a.n_seg])
BREAK(attn_bwd_no_cap, attn_bwd, ns_attn_args, a.softcap = 0)
BREAK(attn_bwd_window, attn_bwd, ns_attn_args, a.window += a.window > 0)
BREAK(act_other, act_bwd, ns_act_args, a.act = a.act == NS_ACT_SWIGLU ? NS_ACT_GEGLU_TANH : a.act)
BREAK(head_padding_inside, head, ns_head_args, a.V = a.w->rows)
BREAK(head_no_cap, head, ns_head_args, a.softcap = 0)
BREAK(dropout_layer, dropout, ns_dropout_args, a.layer++)
BREAK(dropout_token, dropout, ns_dropout_args, a.token0++)
BREAK(dropout_column, dropout, ns_dropout_args, a.c0++)
BREAK(add_short, add, ns_add_args, a.n--)
BREAK(add_long, add, ns_add_args, a.n++)
BREAK(sumsq_short, grad_sumsq, ns_opt_args, a.n_items--)

static void wgrad_assigns(ns_exec *x, const ns_linear_args *a)
{
    if (a->w->grad) memset(a->w->grad, 0, (size_t)(a->N * a->K) * 4);
    ns_ops_ref.linear_wgrad(x, a);
}
static void clip_nothing(ns_exec *x, const ns_opt_args *a)
{
    (void)a;
    x->step->clip_coef = 1;
}
static void adamw_no_bias_correction(ns_exec *x, const ns_opt_args *a)
{
    int64_t t = x->step->t;
    x->step->t = 1000000;
    ns_ops_ref.adamw(x, a);
    x->step->t = t;
}
static void adamw_on_nan(ns_exec *x, const ns_opt_args *a)
{
    x->step->nonfinite = 0;
    ns_ops_ref.adamw(x, a);
    x->step->nonfinite = 1;
}
static void adamw_other_key(ns_exec *x, const ns_opt_args *a)
{
    x->key.k[0]++;
    ns_ops_ref.adamw(x, a);
    x->key.k[0]--;
}
static void adamw_by_item(ns_exec *x, const ns_opt_args *a)
{
    ns_opt_item it[3] = {a->items[0], a->items[1], a->items[2]};
    for (int k = 0; k < 3; k++) it[k].first = 0;
    ns_ops_ref.adamw(x, &(ns_opt_args){it, 3});
}
static void linear_one_element(ns_exec *x, const ns_linear_args *a)
{
    ns_ops_ref.linear_fwd(x, a);
    int64_t i = a->M * a->N - 1;
    put(a->y, a->dt, i, get(a->y, a->dt, i) * 1.05f + 0.01f);
}
static void linear_writes_x(ns_exec *x, const ns_linear_args *a)
{
    ns_ops_ref.linear_fwd(x, a);
    put((void *)(uintptr_t)a->x, a->dt, 0, 3.0f);
}

/* ---- fp8: another rounding ---- */
#define BREAK_FP8(name, op, type)                            \
    static void name(ns_exec *x, const ns_linear_args *args) \
    {                                                        \
        ns_linear_args a = *args;                            \
        ns_weight w = *a.w;                                  \
        w.fp8 = (type);                                      \
        a.w = &w;                                            \
        ns_ops_ref.op(x, &a);                                \
    }
BREAK_FP8(fp8_not_in_fwd, linear_fwd, NS_FP8_OFF)
BREAK_FP8(fp8_not_in_dgrad, linear_dgrad, NS_FP8_OFF)
BREAK_FP8(fp8_not_in_wgrad, linear_wgrad, NS_FP8_OFF)
BREAK_FP8(fp8_other_gradient, linear_dgrad, w.fp8 == NS_FP8_HYBRID ? NS_FP8_E4M3 : NS_FP8_HYBRID)

BREAK(attn_drop_nothing, attn_fwd, ns_attn_args, a.dropout = 0)
BREAK(attn_drop_by_row, attn_fwd, ns_attn_args, a.token = NULL)
BREAK(attn_drop_local_head, attn_fwd, ns_attn_args, a.head0 = 0)
BREAK(attn_bwd_drop_nothing, attn_bwd, ns_attn_args, a.dropout = 0)
BREAK(attn_bwd_drop_other, attn_bwd, ns_attn_args, a.layer++)

BREAK(merge_no_shrink, attn_merge, ns_attn_merge_args, a.head_dim -= !a.assign)
BREAK(merge_short, attn_merge, ns_attn_merge_args, a.n_seg--)
BREAK(merge_assigns, attn_merge, ns_attn_merge_args, a.assign = 1)
BREAK(sum_forgets, sum_rows, ns_sum_rows_args, a.assign = 1)
BREAK(sum_no_more, sum_rows, ns_sum_rows_args, a.more = NULL)
BREAK(sum_no_map, sum_rows, ns_sum_rows_args, a.row = NULL)

static void merge_by_halves(ns_exec *x, const ns_attn_merge_args *a) /* as if both parts weighed the same */
{
    float *lse = NULL;
    ns_error err = NS_ERROR_INIT;
    const int64_t n = a->n_heads * a->T;
    assert_ns_ok(ns_alloc((void **)&lse, (size_t)n * sizeof *lse, "test", &err), &err);
    ns_attn_merge_args b = *a;
    b.part_lse = memcpy(lse, a->lse, (size_t)n * sizeof *lse);
    ns_ops_ref.attn_merge(x, &b);
    ns_free(lse);
}

typedef struct broken {
    const char *name, *hits; /* hits: prefix of the cases that may notice */
    ns_ops ops;
} broken;

static void broken_variants_fail(void **state)
{
    (void)state;
#define B(fn, op, prefix)                            \
    do {                                             \
        list[n] = (broken){#fn, prefix, ns_ops_ref}; \
        list[n++].ops.op = fn;                       \
    } while (0)
    static broken list[64];
    int n = 0;
    B(attn_drop_nothing, attn_fwd, "attn.dropout");
    B(attn_drop_by_row, attn_fwd, "attn.dropout");
    B(attn_drop_local_head, attn_fwd, "attn.dropout");
    B(attn_bwd_drop_nothing, attn_bwd, "attn.dropout");
    B(attn_bwd_drop_other, attn_bwd, "attn.dropout");
    B(merge_no_shrink, attn_merge, "ring");
    B(merge_short, attn_merge, "ring");
    B(merge_assigns, attn_merge, "ring");
    B(merge_by_halves, attn_merge, "ring");
    B(sum_forgets, sum_rows, "ring");
    B(sum_no_more, sum_rows, "sum_rows");
    B(sum_no_map, sum_rows, "sum_rows");
    B(fp8_not_in_fwd, linear_fwd, "linear.fp8");
    B(fp8_not_in_dgrad, linear_dgrad, "linear.fp8_e");
    B(fp8_not_in_wgrad, linear_wgrad, "linear.fp8_lean");
    B(fp8_other_gradient, linear_dgrad, "linear.fp8");
    B(norm_no_eps, norm_fwd, "norm");
    B(norm_plus_one, norm_fwd, "norm");
    B(norm_bwd_no_dres, norm_bwd, "norm");
    B(norm_bwd_short, norm_bwd, "norm");
    B(embed_bwd_short, embed_bwd, "embed");
    B(linear_no_bias, linear_fwd, "linear.bias");
    B(dgrad_add, linear_dgrad, "linear");
    B(wgrad_short, linear_wgrad, "linear");
    B(wgrad_assigns, linear_wgrad, "linear");
    B(linear_one_element, linear_fwd, "linear");
    B(linear_writes_x, linear_fwd, "linear");
    B(rope_forward_only, rope, "rope");
    B(rope_shifted, rope, "rope");
    B(attn_not_causal, attn_fwd, "attn");
    B(attn_wide_window, attn_fwd, "attn.window");
    B(attn_no_cap, attn_fwd, "attn.softcap");
    B(attn_scale, attn_fwd, "attn");
    B(attn_live_tail, attn_fwd, "attn");
    B(attn_bwd_no_cap, attn_bwd, "attn.softcap");
    B(attn_bwd_window, attn_bwd, "attn.window");
    B(act_other, act_bwd, "swiglu");
    B(head_padding_inside, head, "head.padded");
    B(head_no_cap, head, "head.softcap");
    B(dropout_layer, dropout, "dropout");
    B(dropout_token, dropout, "dropout.f32");
    B(dropout_column, dropout, "dropout");
    B(add_short, add, "add");
    B(add_long, add, "add");
    B(sumsq_short, grad_sumsq, "adamw.bf16");
    B(clip_nothing, clip, "adamw.f32");
    B(adamw_no_bias_correction, adamw, "adamw");
    B(adamw_on_nan, adamw, "adamw.nan");
    B(adamw_other_key, adamw, "adamw.small");
    B(adamw_by_item, adamw, "adamw.small");
    for (int k = 0; k < n; k++) {
        int tried = 0, caught = 0, caught_bf16 = 0, tried_bf16 = 0;
        for (int i = 0; i < N_CASES; i++) {
            if (strncmp(cases[i].name, list[k].hits, strlen(list[k].hits)) != 0) continue;
            char msg[1024];
            int ok = check(&cases[i], &list[k].ops, NULL, msg, sizeof msg);
            tried++, caught += !ok;
            if (cases[i].dt == NS_DTYPE_BF16) tried_bf16++, caught_bf16 += !ok;
        }
        if (!tried || !caught || (tried_bf16 && !caught_bf16))
            fail_msg("broken variant %s passes the check (%d of %d cases caught it, bf16 %d of %d)", list[k].name,
                     caught, tried, caught_bf16, tried_bf16);
    }
}

/* ---- plan: every operand lies inside its buffer, every buffer but integer side inputs is used ---- */
static void plan_touches_what_ops_use(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        static prob p;
        ns_error err = NS_ERROR_INIT;
        ns_space *s = NULL;
        assert_ns_ok(ns_space_new(&s, &err), &err);
        prob_new(&p, &cases[i], &ns_ops_ref, NULL);
        ns_plan *plan = ns_space_plan(s);
        /* real arrays are host arrays to the plan: it must count flops and bytes and touch nothing */
        p.x.ops = &ns_ops_plan;
        p.x.plan = plan;
        if (strncmp(cases[i].name, "rope", 4) != 0) cases[i].fwd(&p);
        ns_plan_totals t = ns_plan_get_totals(plan);
        if (strncmp(cases[i].name, "rope", 4) != 0) assert_true(t.n_ops > 0 && t.bytes > 0);
        if (!strncmp(cases[i].name, "linear", 6))
            assert_true(t.flops == 2.0 * (double)cases[i].T * (double)cases[i].N * (double)cases[i].C);
        prob_free(&p);
        ns_space_free(&s);
    }
}

/* Values of bf16 stay, others go to either neighbour so that the mean is right; a thousand updates of a hundredth of a unit arrive. */
static void stochastic_rounding_keeps_the_mean(void **state)
{
    (void)state;
    enum { N = 4096 };
    static uint16_t w[N];
    static float g[N], m[N], v[N];
    const float kept[] = {0, -0.0f, 1.5f, -3.0e38f, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        uint16_t h = ns_f32_to_bf16(kept[i]);
        assert_int_equal(ns_f32_to_bf16_random(ns_bf16_to_f32(h), 0xffff), h);
    }
    assert_int_equal(ns_f32_to_bf16_random(3.4028235e38f, 0xffff), 0x7f7f); /* finite stays finite */
    assert_true(isnan(ns_bf16_to_f32(ns_f32_to_bf16_random(NAN, 0xffff))));
    ns_step s = {.lr = 1.0f / 256 / 128, .beta1 = 0, .beta2 = 0, .eps = 0, .clip_coef = 1};
    ns_exec x = {.ops = &ns_ops_ref, .step = &s, .key = {{1, 0}}};
    for (int i = 0; i < N; i++) w[i] = ns_f32_to_bf16(1.25f), g[i] = -1;
    ns_opt_item it = {.n = N, .dt = NS_DTYPE_BF16, .w = w, .grad = g, .m = m, .v = v, .form = {.no_rem = 1}};
    for (s.t = 1; s.t <= 1000; s.t++) ns_ops_ref.adamw(&x, &(ns_opt_args){&it, 1}); /* 1/256 of a unit each */
    double sum = 0;
    for (int i = 0; i < N; i++) sum += (double)ns_bf16_to_f32(w[i]);
    assert_true(fabs(sum / N - (1.25 + 1000.0 / 256 / 128)) <
                1.0 / 256 / 4); /* 4096 of them: a quarter of a unit is 8 sigma */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_ref_agrees),
        cmocka_unit_test(cpu_f32_agrees),
        cmocka_unit_test(cpu_avx2_agrees),
        cmocka_unit_test(cpu_avx512_agrees),
        cmocka_unit_test(cpu_amx_agrees),
        cmocka_unit_test(cpu_auto_agrees),
        cmocka_unit_test(thread_count_changes_nothing),
        cmocka_unit_test(gradients_match_differences),
        cmocka_unit_test(broken_variants_fail),
        cmocka_unit_test(plan_touches_what_ops_use),
        cmocka_unit_test(stochastic_rounding_keeps_the_mean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
