/* Plan, print, allocate once. The planning run goes over the same straight lines as the real one, on ns_ops_plan. */
#include "model/engine.h"

#include <string.h>

/* What one step does, as recorded: two micro-batches (so that "accumulate" is seen), then the update. */
static void record(ns_engine *e)
{
    ns_exec x = {.ops = &ns_ops_plan, .plan = ns_space_plan(e->space), .step = e->model.step};
    ns_model *m = &e->model;
    ns_model_forward(m, &x, 0);
    if (!e->opt.train) {
        e->step_flops = ns_plan_get_totals(x.plan).flops;
        return;
    }
    ns_model_loss(m, &x, NULL, 1);
    ns_model_backward(m, &x, 0);
    e->step_flops = ns_plan_get_totals(x.plan).flops;
    ns_model_grad_sumsq(m, &x);
    ns_model_update(m, &x);
    ns_model_prepare(m, &x);
}

ns_status ns_engine_plan(ns_engine *e, const ns_arch *a, const ns_model_options *o, const char *isa, int n_threads,
                         ns_error *err)
{
    memset(e, 0, sizeof *e);
    e->arch = *a;
    e->opt = *o;
    e->arena = (ns_arena)NS_ARENA_INIT("engine");
    NS_TRY(ns_ops_cpu(&e->ops, isa ? isa : "auto", err), "choose CPU operations");
    NS_TRY(ns_threads_new(&e->pool, n_threads, err), "thread pool");
    e->opt.pool = e->pool;
    NS_TRY(ns_param_table_build(&e->table, &e->arch, &e->arena, err), "parameter table");
    NS_TRY(ns_space_new(&e->space, err), "plan");
    NS_TRY(ns_model_layout(&e->model, &e->arch, &e->table, e->space, &e->ops, &e->opt, err), "plan");
    record(e);
    e->totals = ns_plan_get_totals(ns_space_plan(e->space));
    NS_TRY(ns_space_fit(e->space, &e->total_bytes, err), "plan");
    e->totals = ns_plan_get_totals(ns_space_plan(e->space));
    ns_model_free(&e->model);
    return NS_OK;
}

ns_status ns_engine_start(ns_engine *e, ns_error *err)
{
    NS_TRY(ns_alloc(&e->memory, (size_t)e->total_bytes, "engine", err), "allocate the planned memory");
    ns_space_bind(e->space, e->memory);
    NS_TRY(ns_model_layout(&e->model, &e->arch, &e->table, e->space, &e->ops, &e->opt, err), "lay out");
    ns_model_start(&e->model);
    e->exec = (ns_exec){.ops = &e->ops,
                        .pool = e->pool,
                        .work = e->model.work,
                        .work_bytes = e->model.work_bytes,
                        .step = e->model.step};
    return NS_OK;
}

void ns_engine_loaded(ns_engine *e)
{
    ns_model_prepare(&e->model, &e->exec);
}

void ns_engine_free(ns_engine *e)
{
    ns_model_free(&e->model);
    ns_space_free(&e->space);
    ns_threads_free(&e->pool);
    ns_free(e->memory);
    ns_arena_free(&e->arena);
    memset(e, 0, sizeof *e);
}

ns_status ns_engine_put(void *engine, int param, const float *data, ns_error *err)
{
    (void)err;
    ns_model_put_param(&((ns_engine *)engine)->model, param, data);
    return NS_OK;
}

ns_status ns_engine_get(void *engine, int param, float *data, ns_error *err)
{
    (void)err;
    ns_model_get_param(&((ns_engine *)engine)->model, param, data);
    return NS_OK;
}

ns_status ns_engine_get_opt(void *engine, int param, int64_t off, int64_t len, float *main, float *m, float *v,
                            ns_error *err)
{
    (void)err;
    const ns_model *mo = &((ns_engine *)engine)->model;
    const int64_t at = off - mo->own[param].off;
    size_t n = (size_t)len * sizeof(float);
    if (main) ns_model_get_main(mo, param, off, len, main);
    if (m) memcpy(m, mo->adam_m[param] + at, n);
    if (v) memcpy(v, mo->adam_v[param] + at, n);
    return NS_OK;
}

ns_status ns_engine_put_opt(void *engine, int param, const float *main, const float *m, const float *v, ns_error *err)
{
    (void)err;
    ns_model *mo = &((ns_engine *)engine)->model;
    const ns_piece own = mo->own[param];
    size_t n = (size_t)own.len * sizeof(float);
    if (main) ns_model_put_param(mo, param, main);
    if (m && n) memcpy(mo->adam_m[param], m + own.off, n);
    if (v && n) memcpy(mo->adam_v[param], v + own.off, n);
    return NS_OK;
}

void ns_engine_cut(void *engine, int param, int64_t *cut)
{
    const ns_engine *e = engine;
    ns_model_cut(&e->table, param, e->opt.dp_size < 1 ? 1 : e->opt.dp_size, cut);
}
