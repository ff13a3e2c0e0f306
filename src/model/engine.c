/* Plan, print, allocate once. The planning run goes over the same straight lines as the real one, on ns_ops_plan. */
#include "model/engine.h"

#include <stdlib.h>
#include <string.h>

#include "arch/part.h"
#include "base/log.h"
#include "base/mem.h"
#include "dist/direct.h"
#include "model/gpu_known.h"

/* The stream of the stage before arrives while our gradient is sent, and the gradient of the next one while our stream is. */
static void record_sends(ns_model *m, ns_exec *x, int slot, int forward)
{
    const int64_t bytes = m->Ts * m->arch.C * (int64_t)ns_dtype_size(m->opt.dt);
    if (forward ? ns_model_is_last(m) : ns_model_is_first(m)) return;
    ns_plan_op(x->plan, "send", 0, (double)bytes);
    ns_plan_touch(x->plan, forward ? m->hL : ns_model_in(m, slot), bytes);
    ns_plan_touch(x->plan, m->dh, bytes);
}

static void record_forward(ns_model *m, ns_exec *x, int slot)
{
    record_sends(m, x, slot, 0);
    ns_model_forward(m, x, slot);
    if (ns_model_is_last(m)) ns_model_loss(m, x, NULL, 1);
    record_sends(m, x, slot, 1);
}

static void record_backward(ns_model *m, ns_exec *x, int slot)
{
    ns_model_backward(m, x, slot);
    record_sends(m, x, slot, 0);
}

/* What one step does, as recorded: a micro-batch; with several in flight a turn of all slots, so that no buffer of a slot that waits
 * for its backward shares memory with what another slot uses; then the update. */
static void record(ns_engine *e)
{
    ns_exec x = {.ops = &ns_ops_plan, .plan = ns_space_plan(e->space), .step = e->model.step};
    ns_model *m = &e->model;
    const int slots = e->opt.n_slots;
    if (!e->opt.train) {
        ns_model_forward(m, &x, 0);
        e->step_flops = ns_plan_get_totals(x.plan).flops;
        return;
    }
    for (int s = 0; s < slots; s++) record_forward(m, &x, s);
    for (int s = 0; s < slots; s++) {
        record_backward(m, &x, s);
        if (slots > 1) record_forward(m, &x, s);
    }
    for (int s = 0; slots > 1 && s < slots; s++) record_backward(m, &x, s);
    e->step_flops = ns_plan_get_totals(x.plan).flops / (slots > 1 ? 2 * slots : 1);
    ns_model_grad_sumsq(m, &x);
    ns_model_update(m, &x);
    ns_model_prepare(m, &x);
}

static int tp_size(const ns_engine *e)
{
    return e->opt.tp_size > 1 ? e->opt.tp_size : 1;
}

static int on_gpu(const ns_engine *e)
{
    return e->device || e->opt.plan_gpu;
}

/* Members of the widest group; of those that add, where stages only do in pairs. */
static int widest_group(const ns_engine *e, int adds)
{
    const int stages = e->opt.pp_size > 1 && adds ? 2 : e->opt.pp_size;
    const int groups[] = {tp_size(e), e->opt.cp_size, e->opt.dp_size, stages};
    int widest = 1;
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) widest = groups[g] > widest ? groups[g] : widest;
    return widest;
}

static int64_t stage_bytes(const ns_engine *e)
{
    return ns_comm_stage_bytes(widest_group(e, 0));
}

static int64_t whole_bytes(const ns_engine *e)
{
    return ns_engine_split(e) ? ns_param_table_largest(&e->table) * 4 : 0;
}

static int64_t piece_bytes(const ns_engine *e)
{
    return ns_engine_split(e) ? ns_param_table_largest(&e->part) * 4 * (tp_size(e) + 1) : 0;
}

/* The model's buffers, and what exchanging sums and whole parameters needs where the host can read it. */
static ns_status lay_out(ns_engine *e, ns_error *err)
{
    NS_TRY(ns_model_layout(&e->model, &e->part_arch, &e->part, e->space, &e->ops, &e->opt, err), "%s", "model");
    if (on_gpu(e)) { /* what the host reads: start_away */
        e->sums = ns_space_take(e->space, "comm.sums", ns_direct_sums_bytes(widest_group(e, 1)), NS_LIFE_RUN);
        if (e->opt.behind)
            e->sums_behind =
                ns_space_take(e->space, "comm.sums_behind", ns_direct_sums_bytes(widest_group(e, 1)), NS_LIFE_RUN);
        return NS_OK;
    }
    e->sums = ns_space_take(e->space, "comm.sums", ns_comm_scratch_bytes(widest_group(e, 1)), NS_LIFE_RUN);
    if (e->opt.behind)
        e->sums_behind =
            ns_space_take(e->space, "comm.sums_behind", ns_comm_scratch_bytes(widest_group(e, 1)), NS_LIFE_RUN);
    e->whole = ns_space_take(e->space, "comm.whole", whole_bytes(e), NS_LIFE_RUN);
    e->piece = ns_space_take(e->space, "comm.parts", piece_bytes(e), NS_LIFE_RUN);
    return NS_OK;
}

/* A GPU when asked for, or with "auto" when one opens and nobody named a CPU level. */
static ns_status choose_ops(ns_engine *e, const char *isa, ns_error *err)
{
    const char *want = e->opt.accelerator ? e->opt.accelerator : "cpu", *level = isa ? isa : "auto";
    const char *env = getenv("NS_ACCELERATOR"), *env_isa = getenv("NS_ISA");
    char path[4096];
    if (!strcmp(want, "auto") && env && *env) want = env;
    int gpu = !strcmp(want, "gpu"), automatic = !strcmp(want, "auto");
    NS_FAIL_IF(!gpu && !automatic && strcmp(want, "cpu"), NS_ERR_CONFIG,
               "accelerator '%s' is unknown: auto, cpu or gpu", want);
    if (e->opt.plan_gpu) {
        NS_TRY(ns_gpu_known(&e->gpu, e->opt.plan_gpu, err), "plan");
        return ns_cuda_sizes(&e->ops, err);
    }
    NS_FAIL_IF(gpu && !e->opt.train, NS_ERR_UNSUPPORTED, "inference runs on the processor only");
    if (gpu) return ns_cuda_open_nth(&e->ops, &e->device, &e->gpu, e->opt.local_rank, err);
    if (automatic && e->opt.train && !strcmp(level, "auto") && !(env_isa && *env_isa) &&
        ns_cuda_find(path, sizeof path)) {
        ns_error why = NS_ERROR_INIT;
        if (ns_cuda_open_nth(&e->ops, &e->device, &e->gpu, e->opt.local_rank, &why) != NS_OK)
            NS_INFO("no GPU: %s", why.msg);
        else if (ns_engine_gpu_ranks(e) == 1)
            return NS_OK;
        else {
            NS_INFO("%d ranks and %d GPUs on this machine: on the processor; ++trainer.accelerator=gpu lets ranks "
                    "share them",
                    e->opt.local_size, e->gpu.count);
            ns_cuda_close(&e->device);
            e->gpu = (ns_cuda_info){0};
        }
    }
    return ns_ops_cpu(&e->ops, level, err);
}

/* The back-end has what the options ask for. */
static ns_status check_fp8(const ns_engine *e, ns_error *err)
{
    if (!e->opt.fp8) return NS_OK;
    NS_FAIL_IF(!e->ops.fp8 && e->device, NS_ERR_UNSUPPORTED,
               "fp8: %s (sm_%d) has no fp8 matrix products, which came with sm_89: train in bf16", e->gpu.name,
               e->gpu.cc);
    NS_FAIL_IF(!e->ops.fp8, NS_ERR_UNSUPPORTED, "%s",
               "fp8 runs on a GPU (sm_89 or later); on a processor there is its reference arithmetic alone, for "
               "comparisons: CPU level ref. Train in bf16, or on a GPU");
    NS_FAIL_IF(e->opt.dt != NS_DTYPE_BF16 && (e->device || e->opt.plan_gpu), NS_ERR_UNSUPPORTED, "%s",
               "fp8 products take bf16 activations: precision bf16");
    return NS_OK;
}

/* What the driver takes beside the planned block: modules, library workspaces, the fragments of its pages. */
#define GPU_EXTRA ((int64_t)1 << 30)

int ns_engine_gpu_ranks(const ns_engine *e)
{
    const int ranks = e->opt.local_size, gpus = e->gpu.count > 0 ? e->gpu.count : 1;
    return e->device && ranks > gpus ? (ranks - e->gpu.nth + gpus - 1) / gpus : 1;
}

static int several(const ns_engine *e)
{
    return e->opt.dp_size > 1 || ns_engine_split(e);
}

int64_t ns_engine_gpu_limit(const ns_engine *e)
{
    if (!several(e) || !e->device) return e->gpu.free_bytes - GPU_EXTRA;
    return e->gpu.total_bytes / 16 * 15 / ns_engine_gpu_ranks(e) - GPU_EXTRA;
}

static ns_status plan_once(ns_engine *e, ns_error *err)
{
    ns_space_free(&e->space);
    NS_TRY(ns_space_new(&e->space, err), "plan");
    NS_TRY(lay_out(e, err), "plan");
    record(e);
    NS_TRY(ns_space_fit(e->space, &e->total_bytes, err), "plan");
    e->totals = ns_plan_get_totals(ns_space_plan(e->space));
    ns_model_free(&e->model);
    return NS_OK;
}

ns_status ns_engine_plan(ns_engine *e, const ns_arch *a, const ns_model_options *o, const char *isa, int n_threads,
                         ns_error *err)
{
    memset(e, 0, sizeof *e);
    e->arch = *a;
    e->opt = *o;
    if (e->opt.n_slots < 1) e->opt.n_slots = 1;
    e->arena = (ns_arena)NS_ARENA_INIT("engine");
    NS_TRY(choose_ops(e, isa, err), "%s", "choose where to run");
    NS_TRY(check_fp8(e, err), "%s", "settings");
    NS_TRY(ns_threads_new(&e->pool, n_threads, err), "thread pool");
    e->opt.pool = e->pool;
    e->opt.backend = e->device;
    e->exec = (ns_exec){.ops = &e->ops,
                        .pool = e->pool,
                        .backend = e->device,
                        .fp8 = o->fp8,
                        .any_order = o->any_order,
                        .fp8_split = o->fp8_split};
    int tp = o->tp_size > 1 ? o->tp_size : 1;
    int64_t words;
    NS_TRY(ns_param_table_build(&e->table, &e->arch, &e->arena, err), "parameter table");
    NS_TRY(ns_part_arch(&e->part_arch, &e->arch, o->tp_rank, tp, err), "%s", "tensor parallel");
    NS_TRY(ns_param_table_build(&e->part, &e->part_arch, &e->arena, err), "parameter table");
    ns_part_vocab(&e->arch, o->tp_rank, tp, &e->opt.vocab_first, &words);
    if (on_gpu(e) && !e->opt.memory_limit) e->opt.memory_limit = ns_engine_gpu_limit(e);
    if (on_gpu(e) && several(e)) e->host_bytes = stage_bytes(e) + whole_bytes(e) + piece_bytes(e);
    NS_TRY(plan_once(e, err), "plan");
    if (e->opt.fp8 && e->opt.memory_limit > 0 && e->total_bytes > e->opt.memory_limit) {
        e->opt.fp8_lean = 1;
        NS_TRY(plan_once(e, err), "plan");
    }
    if (e->opt.recompute != NS_RECOMPUTE_SELECTIVE || e->opt.memory_limit <= 0) return NS_OK;
    while (e->total_bytes > e->opt.memory_limit && e->opt.full_layers < e->arch.L) {
        e->opt.full_layers++;
        NS_TRY(plan_once(e, err), "plan");
    }
    return NS_OK;
}

/* A copy that failed (a device that went away) is the caller's error. */
static ns_status copied(ns_engine *e, ns_error *err)
{
    if (err == &e->exec.err) return err->code;
    NS_FAIL_IF(e->exec.err.code != NS_OK, e->exec.err.code, "%s", e->exec.err.msg);
    return NS_OK;
}

static ns_status to_host(void *engine, void *dst, const void *src, int64_t bytes, ns_error *err)
{
    ns_engine *e = engine;
    e->ops.download(&e->exec, dst, src, bytes);
    return copied(e, err);
}

static ns_status to_space(void *engine, void *dst, const void *src, int64_t bytes, ns_error *err)
{
    ns_engine *e = engine;
    e->ops.upload(&e->exec, dst, src, bytes);
    return copied(e, err);
}

enum { NS_SIDE_BEHIND, NS_SIDE_TURNS };

static int turn_begins(void *device)
{
    return ns_cuda_opened()->side_follow(device, NS_SIDE_TURNS);
}

static int turn_ends(void *device)
{
    return ns_cuda_opened()->side_mark(device, NS_SIDE_TURNS, 0);
}

static int turn_waits(void *device)
{
    return ns_cuda_opened()->side_need(device, NS_SIDE_TURNS, 0);
}

/* GPU and several ranks: what the host reads is host memory. */
static ns_status start_away(ns_engine *e, ns_error *err)
{
    if (!e->device || e->host_bytes == 0) return NS_OK;
    NS_TRY(ns_alloc((void **)&e->host, (size_t)e->host_bytes, "engine.host", err), "%s", "exchange with other ranks");
    e->whole = (float *)(void *)(e->host + stage_bytes(e));
    e->piece = e->whole + whole_bytes(e) / 4;
    e->away = (ns_comm_space){.base = e->memory,
                              .bytes = e->total_bytes,
                              .to_host = to_host,
                              .to_space = to_space,
                              .user = e,
                              .stage = e->host,
                              .stream = ns_cuda_opened()->stream(e->device),
                              .device = e->device,
                              .sums = (char *)(void *)e->sums,
                              .sums_bytes = ns_direct_sums_bytes(widest_group(e, 1)),
                              .add = ns_cuda_opened()->add_members,
                              .turn_begins = turn_begins,
                              .turn_ends = turn_ends,
                              .turn_waits = turn_waits};
    e->aside = e->away;
    e->aside.stream = ns_cuda_opened()->side_stream(e->device, NS_SIDE_BEHIND);
    e->aside.device = ns_cuda_opened()->side(e->device, NS_SIDE_BEHIND);
    e->aside.sums = (char *)(void *)e->sums_behind;
    e->aside.add = ns_cuda_opened()->add_members_aside;
    e->away.turn_stream = ns_cuda_opened()->side_stream(e->device, NS_SIDE_TURNS);
    NS_FAIL_IF(!e->aside.stream || !e->away.turn_stream, NS_ERR_DEVICE, "%s",
               "no streams for exchanges beside the kernels");
    return NS_OK;
}

/* ---- exchanges beside the ops ---- */

static ns_status aside(int done, ns_error *err)
{
    NS_FAIL_IF(!done, NS_ERR_DEVICE, "%s", "an exchange beside the kernels does not start on the GPU");
    return NS_OK;
}

ns_status ns_engine_aside(ns_engine *e, ns_error *err)
{
    return aside(ns_cuda_opened()->side_follow(e->device, NS_SIDE_BEHIND), err);
}

ns_status ns_engine_mark(ns_engine *e, int k, ns_error *err)
{
    NS_ASSERT(k >= 0 && k < NS_CUDA_MARKS);
    return aside(ns_cuda_opened()->side_mark(e->device, NS_SIDE_BEHIND, k), err);
}

ns_status ns_engine_need(ns_engine *e, int k, ns_error *err)
{
    return aside(ns_cuda_opened()->side_need(e->device, NS_SIDE_BEHIND, k), err);
}

ns_status ns_engine_start(ns_engine *e, ns_error *err)
{
    NS_FAIL_IF(e->opt.plan_gpu, NS_ERR_CONFIG, "a plan for a GPU that is not here does not run: leave out --gpu");
    NS_TRY(e->ops.mem_new(&e->exec, &e->memory, e->total_bytes, err), "allocate the planned memory");
    ns_space_bind(e->space, e->memory);
    NS_TRY(lay_out(e, err), "lay out");
    NS_TRY(start_away(e, err), "%s", "start");
    e->model.tp = e->opt.tp_size > 1 ? e->tp : NULL;
    e->model.cp = e->opt.cp_size > 1 ? e->cp : NULL;
    e->exec.work = e->model.work;
    e->exec.work_bytes = e->model.work_bytes;
    e->exec.step = e->model.step;
    return ns_model_start(&e->model, &e->exec, err);
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
    if (e->memory) e->ops.mem_free(&e->exec, e->memory);
    ns_cuda_close(&e->device);
    ns_free(e->host);
    ns_arena_free(&e->arena);
    memset(e, 0, sizeof *e);
}

int ns_engine_split(const ns_engine *e)
{
    return e->opt.tp_size > 1 || e->opt.pp_size > 1;
}

static int holds(const ns_engine *e, int param)
{
    return ns_part_holds(&e->table, param, e->model.first, e->model.n_layers);
}

/* The first stage that has it. */
static int stage_of(const ns_engine *e, int param)
{
    int first = 0, n = 0, stage = 0;
    ns_error never = NS_ERROR_INIT;
    for (; stage < e->opt.pp_size - 1; stage++)
        if (ns_part_layers(&e->arch, stage, e->opt.pp_size, &first, &n, &never) == NS_OK &&
            ns_part_holds(&e->table, param, first, n))
            break;
    return stage;
}

ns_status ns_engine_put(void *engine, int param, const float *data, ns_error *err)
{
    ns_engine *e = engine;
    if (!holds(e, param)) return NS_OK;
    if (ns_engine_split(e)) {
        ns_part_take(&e->table, param, e->opt.tp_rank, tp_size(e), data, e->piece);
        data = e->piece;
    }
    ns_model_put_param(&e->model, &e->exec, param, data);
    return copied(e, err);
}

/* Parts of all tensor-parallel ranks -> out[rows, cols] of the whole parameter. My part is e->piece[0..n). */
static ns_status join_parts(ns_engine *e, int param, float *out, ns_error *err)
{
    const int64_t n = e->part.params[param].rows * e->part.params[param].cols;
    float *all = e->piece + n;
    for (int r = 0; r <= e->tp->size; r++) e->tp->cut[r] = r * n;
    memcpy(all + e->tp->rank * n, e->piece, (size_t)n * sizeof *all);
    NS_TRY(ns_comm_all_gather(e->tp, all, e->tp->cut, sizeof *all, err), "parts of %s", e->table.params[param].name);
    for (int r = 0; r < e->tp->size; r++) ns_part_put(&e->table, param, r, e->tp->size, all + r * n, out);
    return NS_OK;
}

ns_status ns_engine_get(void *engine, int param, float *data, ns_error *err)
{
    ns_engine *e = engine;
    if (!ns_engine_split(e)) {
        ns_model_get_param(&e->model, &e->exec, param, data);
        return copied(e, err);
    }
    const int holder = stage_of(e, param), stage = e->opt.pp_rank;
    const int64_t bytes = e->table.params[param].rows * e->table.params[param].cols * (int64_t)sizeof *data;
    if (stage == holder) {
        ns_model_get_param(&e->model, &e->exec, param, e->piece);
        NS_TRY(join_parts(e, param, data, err), "%s", "parameter");
    }
    /* the first stage writes the files, one column of ranks is enough */
    if (holder > 0 && e->opt.tp_rank == 0 && e->opt.dp_rank == 0 && (stage == holder || stage == 0))
        NS_TRY(ns_comm_send_recv(e->pp, stage ? 0 : -1, data, bytes, stage ? -1 : holder, data, bytes, err),
               "%s to the first stage", e->table.params[param].name);
    return copied(e, err);
}

enum { MAIN, MOMENT1, MOMENT2 };

/* A moment of a parameter: where it lies, and in what type. */
static char *moment_of(const ns_model *m, int param, int state, ns_dtype *dt)
{
    *dt = state == MOMENT1 ? m->opt.optim.m : m->opt.optim.v;
    return (state == MOMENT1 ? m->adam_m : m->adam_v)[param];
}

enum { STAGE_HALVES = NS_MODEL_STAGE / 2 };
static void get_moment(ns_engine *e, int param, int state, int64_t at, int64_t len, float *out)
{
    ns_dtype dt;
    const char *from = moment_of(&e->model, param, state, &dt);
    if (dt == NS_DTYPE_F32) {
        e->ops.download(&e->exec, out, from + at * 4, len * 4);
        return;
    }
    for (int64_t k = 0; k < len; k += STAGE_HALVES) {
        const int64_t c = len - k < STAGE_HALVES ? len - k : STAGE_HALVES;
        e->ops.download(&e->exec, e->model.stage, from + (at + k) * 2, c * 2);
        ns_to_f32(out + k, e->model.stage, NS_DTYPE_BF16, (size_t)c);
    }
}

/* Of the whole own piece; a bf16 moment is the value given, or the nearest to it. */
static void put_moment(ns_engine *e, int param, int state, const float *in, int64_t len)
{
    ns_dtype dt;
    char *to = moment_of(&e->model, param, state, &dt);
    if (dt == NS_DTYPE_F32) {
        e->ops.upload(&e->exec, to, in, len * 4);
        return;
    }
    for (int64_t k = 0; k < len; k += STAGE_HALVES) {
        const int64_t c = len - k < STAGE_HALVES ? len - k : STAGE_HALVES;
        ns_from_f32(e->model.stage, NS_DTYPE_BF16, in + k, (size_t)c);
        e->ops.upload(&e->exec, to + k * 2, e->model.stage, c * 2);
    }
}

/* Elements [off, off+len) of the own piece of my part. */
static void own_state(ns_engine *e, int param, int state, int64_t off, int64_t len, float *out)
{
    const ns_model *m = &e->model;
    const int64_t at = off - m->own[param].off;
    if (state == MAIN)
        ns_model_get_main(m, &e->exec, param, off, len, out);
    else
        get_moment(e, param, state, at, len, out);
}

/* One state of the whole parameter: pieces of the data-parallel ranks, then parts of the tensor-parallel ones. */
static ns_status whole_state(ns_engine *e, int param, int state, ns_error *err)
{
    const ns_piece own = e->model.own[param];
    if (own.len > 0) own_state(e, param, state, own.off, own.len, e->piece + own.off);
    ns_model_cut(&e->part, param, e->grads->size, e->grads->cut);
    NS_TRY(ns_comm_all_gather(e->grads, e->piece, e->grads->cut, sizeof *e->piece, err), "pieces of %s",
           e->table.params[param].name);
    return join_parts(e, param, e->whole, err);
}

ns_status ns_engine_get_opt(void *engine, int param, int64_t off, int64_t len, float *main, float *m, float *v,
                            ns_error *err)
{
    ns_engine *e = engine;
    float *const out[] = {main, m, v};
    if (ns_engine_split(e) && stage_of(e, param) != e->opt.pp_rank) return NS_OK;
    for (int state = MAIN; state <= MOMENT2; state++) {
        if (!out[state]) continue;
        if (ns_engine_split(e)) {
            NS_TRY(whole_state(e, param, state, err), "%s", "optimiser state");
            memcpy(out[state], e->whole + off, (size_t)len * sizeof *e->whole);
        } else
            own_state(e, param, state, off, len, out[state]);
    }
    return copied(e, err);
}

ns_status ns_engine_put_opt(void *engine, int param, const float *main, const float *m, const float *v, ns_error *err)
{
    ns_engine *e = engine;
    ns_model *mo = &e->model;
    const ns_piece own = mo->own[param];
    if (!holds(e, param)) return NS_OK;
    const float *in[] = {m, v};
    if (main) NS_TRY(ns_engine_put(e, param, main, err), "%s", "main weights");
    for (int k = 0; k < 2; k++) {
        if (!in[k] || own.len == 0) continue;
        if (ns_engine_split(e)) ns_part_take(&e->table, param, e->opt.tp_rank, tp_size(e), in[k], e->piece);
        put_moment(e, param, MOMENT1 + k, (ns_engine_split(e) ? e->piece : in[k]) + own.off, own.len);
    }
    return copied(e, err);
}

void ns_engine_cut(void *engine, int param, int64_t *cut)
{
    const ns_engine *e = engine;
    /* all ranks of a stage have the whole parameter by then; ranks are numbered stage by stage */
    const int dp = e->opt.dp_size < 1 ? 1 : e->opt.dp_size, n = dp * tp_size(e), stages = e->opt.pp_size;
    const int first = stages > 1 ? stage_of(e, param) * n : 0;
    for (int r = 0; r < first; r++) cut[r] = 0;
    ns_model_cut(&e->table, param, n, cut + first);
    for (int r = first + n + 1; r <= stages * n; r++) cut[r] = cut[first + n];
}
