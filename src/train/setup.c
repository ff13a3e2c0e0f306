/* From settings to a planned run: model config, tokenizer, rows, step accounting (training.md §2.3), memory plan, report. */
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arch/part.h"
#include "base/file.h"
#include "base/log.h"
#include "model/gpu_known.h"
#include "train/sft.h"

/* int: that many; float: fraction (>= 1: all); null or negative: all. */
static int64_t limited(const ns_node *n, int64_t total)
{
    if (!n || n->type == NS_NODE_NULL) return total;
    if (n->type == NS_NODE_INT) return n->i < 0 || n->i > total ? total : n->i;
    double f = n->f;
    return f >= 1 || f < 0 ? total : (int64_t)((double)total * f);
}

static ns_status count_steps(ns_sft *t, ns_error *err)
{
    ns_sft_options *o = t->o;
    int64_t n = ns_sft_units(t, 0), gbs = o->train.gbs, dp = t->packs.packs.n ? ns_ranks_dp(&t->ranks) : 1;
    NS_FAIL_IF(n < gbs, NS_ERR_CONFIG,
               "data set smaller than one global batch: %s has %" PRId64 " %s, global_batch_size is %" PRId64
               ": use ++model.data.train_ds.global_batch_%s=%" PRId64 " or less",
               o->train.file_path, n, t->packs.packs.n ? "packs" : "rows", gbs,
               o->global_examples ? "examples" : "size", o->global_examples || n < 40 * dp ? dp : n / 20 / dp * dp);
    t->steps_per_epoch = limited(o->limit_train_batches, n / gbs);
    NS_FAIL_IF(t->steps_per_epoch < 1, NS_ERR_CONFIG,
               "trainer.sft.limit_train_batches leaves no step in an epoch of %" PRId64, n / gbs);
    t->save_interval = o->save_interval;
    t->max_steps = t->steps_per_epoch * o->max_epochs;
    if (o->max_steps >= 0 && o->max_steps < t->max_steps) t->max_steps = o->max_steps;
    if (o->num_checkpoints > 0) {
        int64_t total = o->max_steps > 0 ? o->max_steps : n * o->max_epochs / gbs,
                interval = total / o->num_checkpoints;
        NS_FAIL_IF(interval < 1, NS_ERR_CONFIG,
                   "trainer.sft.num_checkpoints_to_save=%" PRId64 " is more than the %" PRId64 " steps",
                   o->num_checkpoints, total);
        t->save_interval = t->val_interval = interval;
        t->max_steps = interval * o->num_checkpoints;
    } else {
        const ns_node *v = o->val_check_interval;
        if (v && v->type == NS_NODE_INT)
            t->val_interval = v->i;
        else if (v && v->type == NS_NODE_FLOAT)
            t->val_interval = (int64_t)((double)t->steps_per_epoch * v->f);
    }
    NS_FAIL_IF(t->max_steps < 1, NS_ERR_CONFIG, "trainer.sft.max_steps=%" PRId64 ": nothing to train", o->max_steps);
    int64_t nv = ns_sft_units(t, 1);
    t->n_val_batches = limited(o->limit_val_batches, (nv + (o->val.drop_last ? 0 : o->val.gbs - 1)) / o->val.gbs);
    NS_FAIL_IF(t->n_val_batches == 0 && o->val.drop_last && nv < o->val.gbs, NS_ERR_CONFIG,
               "model.data.validation_ds.drop_last=True leaves no batch of %" PRId64 " from %" PRId64
               " rows: set it to False or lower model.data.validation_ds.global_batch_size",
               o->val.gbs, nv);
    if (t->val_interval <= 0) t->n_val_batches = 0;
    int64_t horizon = o->sched_max_steps >= 0 ? o->sched_max_steps : t->max_steps;
    t->schedule =
        (ns_schedule){.lr = o->lr,
                      .min_lr = o->min_lr,
                      .max_steps = horizon,
                      .warmup = o->warmup_ratio >= 0 ? (int64_t)(o->warmup_ratio * (double)horizon) : o->warmup,
                      .constant = o->constant_ratio >= 0 ? (int64_t)(o->constant_ratio * (double)horizon) : o->constant,
                      .flat = !strcmp(o->sched, "constant")};
    return ns_schedule_check(&t->schedule, err);
}

/* Ranks on one machine share its cores. */
static int n_threads(const ns_sft *t)
{
    int local = t->ranks.who.local_size, all;
    if (t->o->threads > 0 || local <= 1 || getenv("NS_THREADS")) return (int)t->o->threads;
    cpu_set_t set;
    all = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return all / local > 1 ? all / local : 1;
}

/* Tokens and segments of a micro-batch, rows of a global batch: the larger of what training and validation need. */
static ns_status capacity(ns_sft *t, int64_t *tokens, int64_t *split_rows, ns_error *err)
{
    const ns_sft_options *o = t->o;
    int64_t T = 1, S = 1, size = ns_sft_pack_size(t);
    *split_rows = 1;
    for (int val = 0; val < (t->val_is_train ? 1 : 2); val++) {
        const ns_examples *r = val ? &t->val_rows : &t->rows;
        const ns_packed *p = val ? &t->val_packs : &t->packs;
        const ns_sft_data_options *d = val ? &o->val : &o->train;
        int64_t gbs = d->gbs, mbs = d->mbs;
        if (t->val_is_train && o->val.gbs > gbs) gbs = o->val.gbs;
        if (t->val_is_train && o->val.mbs > mbs) mbs = o->val.mbs;
        int64_t most = gbs < 1024 ? gbs : 1024, tokens_most = mbs * (r->longest > 2 ? r->longest - 1 : 1);
        if (most < mbs) most = mbs;
        if (val && o->train.packed) most = mbs; /* laid out as training's segments are */
        if (p->packs.n) most = p->most, tokens_most = p->longest;
        if (!val && size) {
            NS_TRY(ns_packed_most(&most, r, (int32_t)size, err), "%s", "segments of a pack");
            if (most > gbs) most = gbs;
            tokens_most = size;
            NS_FAIL_IF(r->longest - 1 > size, NS_ERR_CONFIG,
                       "a row has %" PRId64 " tokens, more than model.data.train_ds.pack_size=%" PRId64
                       ": set ++model.data.train_ds.max_seq_length=%" PRId64 " or less, or a larger pack_size",
                       r->longest - 1, size, size);
        }
        if (p->packs.n) gbs *= p->most;
        if (gbs > *split_rows) *split_rows = gbs;
        if (most > S) S = most;
        if (tokens_most > T) T = tokens_most;
    }
    *tokens = (T + 127) / 128 * 128;
    t->S_cap = (int32_t)S;
    return NS_OK;
}

static ns_status plan_memory(ns_sft *t, ns_error *err)
{
    const ns_sft_options *o = t->o;
    const ns_examples *v = t->val_is_train ? &t->rows : &t->val_rows;
    int64_t longest = t->rows.longest > v->longest ? t->rows.longest : v->longest;
    int64_t mbs = o->train.mbs > o->val.mbs ? o->train.mbs : o->val.mbs,
            gbs = o->train.gbs > o->val.gbs ? o->train.gbs : o->val.gbs, T = 0, split_rows = 0;
    NS_TRY(capacity(t, &T, &split_rows, err), "%s", "capacity");
    NS_FAIL_IF(T > INT32_MAX / 4, NS_ERR_CONFIG,
               "micro_batch_size=%" PRId64 " x longest row %" PRId64 " tokens is too large: lower micro_batch_size",
               mbs, longest);
    t->T_cap = (int32_t)T;
    int cp = ns_ranks_cp(&t->ranks);
    t->most_micro = (gbs + ns_ranks_dp(&t->ranks) - 1) / ns_ranks_dp(&t->ranks);
    ns_model_options m = {.dt = !strcmp(o->precision, "32") ? NS_DTYPE_F32 : NS_DTYPE_BF16,
                          .T_cap = ns_batch_part_rows(t->T_cap, t->S_cap, cp),
                          .S_cap = cp > 1 ? 2 * t->S_cap : t->S_cap,
                          .T_whole = t->T_cap,
                          .cp_rank = ns_ranks_cp_rank(&t->ranks),
                          .cp_size = cp,
                          .behind = (o->overlap_grads || o->overlap_params) && ns_ranks_grads(&t->ranks) > 1,
                          .cp_ring = !strcmp(o->cp_comm, "p2p"),
                          .max_len = longest,
                          .n_slots =
                              ns_stages_slots(ns_ranks_pp_rank(&t->ranks), ns_ranks_pp(&t->ranks), t->most_micro),
                          .pp_rank = ns_ranks_pp_rank(&t->ranks),
                          .pp_size = ns_ranks_pp(&t->ranks),
                          .train = 1,
                          .accelerator = o->accelerator,
                          .plan_gpu = o->plan_gpu && strcmp(o->plan_gpu, "null") ? o->plan_gpu : NULL,
                          .recompute = !o->recompute                   ? NS_RECOMPUTE_NONE
                                       : !strcmp(o->recompute, "full") ? NS_RECOMPUTE_FULL
                                       : !strcmp(o->recompute, "null") ? NS_RECOMPUTE_NONE
                                                                       : NS_RECOMPUTE_SELECTIVE,
                          .any_order = !o->deterministic,
                          .optim = {.no_rem = !strcmp(o->main_dtype, "bf16"),
                                    .m = !strcmp(o->m_dtype, "bf16") ? NS_DTYPE_BF16 : NS_DTYPE_F32,
                                    .v = !strcmp(o->v_dtype, "bf16") ? NS_DTYPE_BF16 : NS_DTYPE_F32},
                          .fp8 = !o->fp8       ? NS_FP8_OFF
                                 : o->fp8_e4m3 ? NS_FP8_E4M3
                                               : NS_FP8_HYBRID,
                          .fp8_split = o->fp8_split,
                          .hidden_dropout = (float)o->hidden_dropout,
                          .ffn_dropout = (float)o->ffn_dropout,
                          .attention_dropout = (float)o->attention_dropout,
                          .tp_rank = ns_ranks_tp_rank(&t->ranks),
                          .tp_size = ns_ranks_tp(&t->ranks),
                          .stream_split = o->sequence_parallel,
                          .dp_rank = ns_ranks_grads_rank(&t->ranks),
                          .dp_size = ns_ranks_grads(&t->ranks)};
    m.local_rank = t->ranks.env_size > 1 ? t->ranks.who.local_rank : 0;
    m.local_size = t->ranks.env_size > 1 ? t->ranks.who.local_size : (int)o->devices;
    NS_TRY(ns_engine_plan(&t->engine, &t->arch, &m, o->isa, n_threads(t), err), "plan");
    t->traffic = ns_traffic_of(&t->engine, &t->ranks);
    if (!o->norm_decay)
        for (int i = 0; i < t->engine.part.n_params; i++) {
            ns_param *p = &t->engine.part.params[i];
            if (p->cols == 1) p->decays = 0;
        }
    NS_TRY(ns_split_new(&t->split, split_rows, err), "batches");
    NS_TRY(ns_sft_step_new(t, gbs, err), "batches");
    NS_TRY(ns_batch_new(&t->batch, t->T_cap, t->S_cap, err), "batches");
    if (cp > 1) NS_TRY(ns_batch_part_new(&t->part, t->T_cap, t->S_cap, cp, err), "batches");
    return ns_alloc((void **)&t->index, (size_t)gbs * sizeof *t->index, "sft.index", err);
}

ns_status ns_sft_open(ns_sft *t, ns_sft_options *o, ns_error *err)
{
    memset(t, 0, sizeof *t);
    t->lock_fd = -1;
    t->o = o;
    NS_TRY(ns_sft_check(o, err), "settings");
    NS_TRY(ns_ranks_layout(&t->ranks, o->devices, o->num_nodes, o->tp, o->cp, o->pp, err), "settings");
    snprintf(t->train_dir, sizeof t->train_dir, "%s", o->log_dir);
    snprintf(t->ckpt_dir, sizeof t->ckpt_dir, "%s/checkpoints", o->log_dir);
    NS_TRY(ns_model_arch(&t->arch, o->restore_from, err), "base model %s", o->restore_from);
    NS_TRY(ns_model_tokenizer_dir(t->tokenizer_dir, sizeof t->tokenizer_dir,
                                  o->tokenizer ? o->tokenizer : o->restore_from, err),
           "tokenizer of %s", o->restore_from);
    NS_TRY(ns_tok_load(&t->tok, t->tokenizer_dir, err), "tokenizer %s", t->tokenizer_dir);
    NS_TRY(ns_sft_open_chat(t, err), "chat rows");
    ns_threads *pool = NULL;
    NS_TRY(ns_threads_new(&pool, n_threads(t), err), "threads");
    ns_status st = ns_sft_open_data(t, pool, err);
    ns_threads_free(&pool);
    NS_TRY(st, "%s", "data");
    NS_TRY(ns_sft_find_stop(t, err), "%s", "stop token");
    NS_TRY(count_steps(t, err), "steps");
    ns_sampler_kind kind = !strcmp(o->sampler, "megatron") ? NS_SAMPLER_MEGATRON : NS_SAMPLER_GLOBAL;
    NS_TRY(ns_sampler_init(&t->sampler, kind, ns_sft_units(t, 0), o->train.gbs, o->train.mbs, ns_ranks_dp(&t->ranks),
                           (uint64_t)o->seed, err),
           "sampler");
    int64_t nv = ns_sft_units(t, 1);
    NS_TRY(
        ns_sampler_init(&t->val_sampler, NS_SAMPLER_SEQUENTIAL, nv, o->val.gbs, o->val.mbs, 1, (uint64_t)o->seed, err),
        "validation sampler");
    return plan_memory(t, err);
}

/* Of a parameter in the optimiser files: main, m, v. */
static int64_t state_bytes(const ns_sft *t)
{
    const ns_opt_form f = t->engine.opt.optim;
    return (f.no_rem ? 2 : 4) + (int64_t)ns_dtype_size(f.m) + (int64_t)ns_dtype_size(f.v);
}

int64_t ns_sft_checkpoint_bytes(const ns_sft *t)
{
    return t->engine.table.n_elements * ((int64_t)ns_dtype_size(t->engine.opt.dt) + state_bytes(t)) + (1 << 20);
}

/* Of a step's update, or of a full micro-batch. */
static double bytes_sent(const ns_sft *t, int update)
{
    uint64_t bytes[NS_COMM_N_KINDS] = {0};
    double total = 0;
    if (update)
        ns_traffic_update(&t->traffic, &t->engine, bytes);
    else
        ns_traffic_micro(&t->traffic, t->engine.opt.T_cap, t->engine.opt.T_cap, t->T_cap, bytes);
    for (int i = 0; i < NS_COMM_N_KINDS; i++) total += (double)bytes[i];
    return total;
}

/* What each stage of the pipeline has: the same plan for its tensor, context and data rank 0. */
static ns_status report_stages(const ns_sft *t, ns_buf *out, int json, ns_error *err)
{
    const int stages = ns_ranks_pp(&t->ranks);
    if (json) NS_TRY(ns_buf_adds(out, ", \"stages\": [", err), "report");
    for (int s = 0; s < stages; s++) {
        ns_engine e;
        ns_model_options o = t->engine.opt;
        int first, n, k;
        o.pp_rank = s;
        o.n_slots = ns_stages_slots(s, stages, t->most_micro);
        int64_t params = 0, bytes;
        ns_status st = NS_OK;
        NS_CHECK(st, ns_engine_plan(&e, &t->arch, &o, t->o->isa, 1, err), "%s", "plan");
        bytes = e.total_bytes;
        NS_CHECK(st, ns_part_layers(&t->arch, s, stages, &first, &n, err), "%s", "stage");
        for (int i = 0; i < e.part.n_params; i++)
            if (ns_part_holds(&e.part, i, first, n)) params += e.part.params[i].rows * e.part.params[i].cols;
        k = o.n_slots;
        NS_CHECK(st,
                 json ? ns_buf_printf(out, err,
                                      "%s{\"first_layer\": %d, \"layers\": %d, \"parameters\": %" PRId64
                                      ", \"micro_batches_in_flight\": %d, \"total_bytes\": %" PRId64 "}",
                                      s ? ", " : "", first, n, params, k, bytes)
                      : ns_buf_printf(out, err,
                                      "stage %-4d layers %d to %d, %.2f M parameters a rank, up to %d micro-batches in "
                                      "flight, %.1f MB\n",
                                      s, first, first + n - 1, (double)params / 1e6, k, (double)bytes / 1e6),
                 "%s", "report");
    done:
        ns_engine_free(&e);
        NS_TRY(st, "stage %d", s);
    }
    return json ? ns_buf_adds(out, "]", err) : NS_OK;
}

/* Stages idle while the pipeline fills and drains: (p-1) of m + p-1 turns with m micro-batches. */
static ns_status report_pipeline(const ns_sft *t, ns_buf *out, ns_error *err)
{
    NS_TRY(report_stages(t, out, 0, err), "%s", "stages");
    const double p = ns_ranks_pp(&t->ranks),
                 tokens = (double)t->o->train.gbs * (double)t->rows.n_ids / (double)t->rows.n,
                 m = t->packs.packs.n ? (double)t->most_micro
                                      : ceil(tokens / (double)ns_ranks_dp(&t->ranks) / (double)t->T_cap),
                 idle = (p - 1) / (m + p - 1);
    NS_TRY(ns_buf_printf(
               out, err,
               "pipeline   about %.0f micro-batches a step and data rank: stages idle %.0f %% of a step (model)%s\n", m,
               100 * idle,
               idle > 0.3 ? "; a larger global_batch_size or a smaller micro_batch_size fills it better" : ""),
           "%s", "pipeline");
    return NS_OK;
}

static int64_t memory_available(void)
{
    FILE *f = fopen("/proc/meminfo", "r");
    char line[256];
    long long kb = -1;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lld kB", &kb) == 1) break;
    if (f) fclose(f);
    return kb < 0 ? INT64_MAX : (int64_t)kb * 1024;
}

/* Bytes of a parameter, by what they are. */
static ns_status report_optimizer(const ns_sft *t, ns_buf *out, ns_error *err)
{
    const ns_opt_form f = t->engine.opt.optim;
    const int bf16 = t->engine.opt.dt == NS_DTYPE_BF16, rounds = f.no_rem || f.m != NS_DTYPE_F32 || f.v != NS_DTYPE_F32;
    return ns_buf_printf(
        out, err, "optimizer  %d bytes a parameter: weight %d, remainder %d, gradient 4, moments %zu + %zu%s\n",
        ns_model_param_bytes(&t->engine.opt), bf16 ? 2 : 4, bf16 && !f.no_rem ? 2 : 0, ns_dtype_size(f.m),
        ns_dtype_size(f.v), rounds ? "; bf16 state is rounded stochastically" : "");
}

/* The copy of an async save is host memory; on the processor next to the plan itself. */
static ns_status report_async(const ns_sft *t, ns_buf *out, ns_error *err)
{
    if (!t->o->async_save || t->save_interval <= 0) return NS_OK;
    const int64_t copy = ns_snapshot_bytes(&t->engine), here = memory_available();
    const int on_gpu = t->engine.device || t->engine.opt.plan_gpu;
    NS_TRY(ns_buf_printf(out, err, "async save %.1f MB of host memory for a copy of the state; %.1f GB available\n",
                         (double)copy / 1e6, (double)here / 1e9),
           "report");
    NS_FAIL_IF(!t->engine.opt.plan_gpu && copy + (on_gpu ? 0 : t->engine.total_bytes) > here, NS_ERR_CONFIG,
               "exp_manager.checkpoint_callback_params.async_save=True needs %.2f GB of host memory for a copy of the "
               "state, %.2f GB are "
               "available: set it to False, or keep less (model.optim.exp_avg_dtype=bf16, exp_avg_sq_dtype=bf16)",
               (double)copy / 1e9, (double)here / 1e9);
    return NS_OK;
}

ns_status ns_sft_report(const ns_sft *t, ns_buf *out, int json, ns_error *err)
{
    const ns_sft_options *o = t->o;
    int64_t saves = t->save_interval > 0 ? (t->max_steps + t->save_interval - 1) / t->save_interval : 0,
            one = ns_sft_checkpoint_bytes(t);
    int64_t kept = o->save_top_k < 0 || saves < o->save_top_k ? saves : o->save_top_k;
    int64_t model = one - t->engine.table.n_elements * state_bytes(t),
            disk = saves ? kept * model + (o->keep_optimizer + 1) * (one - model) + model : 0;
    uint64_t free_bytes = 0;
    const int planned = t->engine.opt.plan_gpu != NULL, on_gpu = t->engine.device || planned;
    const int64_t micro = (o->train.gbs + o->train.mbs - 1) / o->train.mbs;
    const ns_gpu_guess guess = planned ? ns_gpu_predict(&t->engine, micro) : (ns_gpu_guess){0};
    NS_TRY(ns_disk_free(&free_bytes, t->train_dir, err), "disk");
    const ns_packed *packs = t->packs.packs.n ? &t->packs : NULL;
    double flops = t->engine.step_flops * (double)(packs ? packs->tokens : t->rows.n_ids) /
                   (double)t->engine.opt.T_cap * (double)t->max_steps * (double)o->train.gbs /
                   (double)ns_sft_units(t, 0);
    if (json) {
        NS_TRY(ns_buf_printf(out, err,
                             "{\"rows\": %" PRId64 ", \"tokens\": %" PRId64 ", \"target_tokens\": %" PRId64
                             ", \"steps\": %" PRId64 ", \"steps_per_epoch\": %" PRId64 ", \"saves\": %" PRId64
                             ", \"disk_bytes\": %" PRId64 ", \"async_save_bytes\": %" PRId64
                             ", \"parameters\": %" PRId64
                             ", \"optimizer_bytes_per_parameter\": %d, \"micro_batch_tokens\": %d, "
                             "\"training_flops\": %.4g",
                             t->rows.n, t->rows.n_ids, t->rows.n_targets, t->max_steps, t->steps_per_epoch, saves, disk,
                             o->async_save && saves ? ns_snapshot_bytes(&t->engine) : 0, t->engine.table.n_elements,
                             ns_model_param_bytes(&t->engine.opt), t->T_cap, flops),
               "report");
        if (planned)
            NS_TRY(ns_buf_printf(out, err, ", \"gpu_used_bytes\": %.0f, \"gpu_step_s\": %.4f", guess.used_bytes,
                                 guess.step_s),
                   "report");
        if (ns_ranks_pp(&t->ranks) > 1) NS_TRY(report_stages(t, out, 1, err), "report");
        NS_TRY(ns_sft_report_packs(t, out, 1, err), "report");
        NS_TRY(ns_buf_adds(out, ", \"memory\": ", err), "report");
        NS_TRY(ns_plan_table(ns_space_plan(t->engine.space), out, 1, err), "report");
        out->data[out->len - 1] = '}'; /* replaces the table's newline */
        return ns_buf_addc(out, '\n', err);
    }
    NS_TRY(ns_buf_printf(out, err,
                         "model      %.2f M parameters, %" PRId64 " layers, hidden %" PRId64 ", vocabulary %" PRId64
                         ", %s, %s %s\n",
                         (double)t->engine.table.n_elements / 1e6, t->arch.L, t->arch.C, t->arch.vocab,
                         t->engine.opt.dt != NS_DTYPE_BF16 ? "fp32"
                         : t->engine.opt.optim.no_rem      ? "bf16 (no other main weights)"
                                                           : "bf16 (main weights fp32)",
                         on_gpu ? "GPU" : "CPU level", on_gpu ? t->engine.gpu.name : t->engine.ops.name),
           "report");
    NS_TRY(report_optimizer(t, out, err), "report");
    NS_TRY(ns_buf_printf(out, err,
                         "rows       %" PRId64 " (%s%s%s), %" PRId64 " tokens, %" PRId64 " trained tokens (%.1f %%)\n",
                         t->rows.n, t->rows.format, t->rows.layout[0] ? ", layout " : "", t->rows.layout, t->rows.n_ids,
                         t->rows.n_targets, 100.0 * (double)t->rows.n_targets / (double)t->rows.n_ids),
           "report");
    NS_TRY(ns_sft_report_packs(t, out, 0, err), "report");
    NS_TRY(ns_buf_printf(out, err,
                         "steps      %" PRId64 " of %" PRId64 " %s, %.2f epochs (%" PRId64
                         " steps each), micro-batches of up to %d tokens\n",
                         t->max_steps, o->train.gbs, packs ? "packs" : "rows",
                         (double)t->max_steps / (double)t->steps_per_epoch, t->steps_per_epoch, t->T_cap),
           "report");
    NS_TRY(ns_buf_printf(out, err,
                         "saves      %" PRId64
                         " checkpoints, %.1f MB each with optimiser state, %.1f MB in all; %.1f GB free\n",
                         saves, (double)one / 1e6, (double)disk / 1e6, (double)free_bytes / 1e9),
           "report");
    NS_TRY(report_async(t, out, err), "%s", "async_save");
    NS_TRY(ns_buf_printf(out, err, "work       %.3g TFLOP for the whole run\n", flops / 1e12), "report");
    if (ns_ranks_world(&t->ranks) > 1)
        NS_TRY(ns_buf_printf(out, err,
                             "ranks      %d = tensor %d x context %d x data %d x pipeline %d; rank 0 sends %.1f MB a "
                             "step for gradients "
                             "and weights, up to %.1f MB a micro-batch within the model\n",
                             ns_ranks_world(&t->ranks), ns_ranks_tp(&t->ranks), ns_ranks_cp(&t->ranks),
                             ns_ranks_dp(&t->ranks), ns_ranks_pp(&t->ranks), bytes_sent(t, 1) / 1e6,
                             bytes_sent(t, 0) / 1e6),
               "report");
    if (ns_ranks_pp(&t->ranks) > 1 && ns_ranks_first(&t->ranks)) NS_TRY(report_pipeline(t, out, err), "report");
    if (planned)
        NS_TRY(ns_buf_printf(out, err,
                             "predicted  %.1f GB in use on the GPU, %.2f s a step of %" PRId64
                             " full micro-batches (%.0f tokens/s) with deterministic=false and cuDNN\n",
                             guess.used_bytes / 1e9, guess.step_s, micro,
                             (double)t->engine.opt.T_cap * (double)micro / guess.step_s),
               "report");
    const int sharers = ns_engine_gpu_ranks(&t->engine);
    if (t->engine.host_bytes > 0)
        NS_TRY(ns_buf_printf(out, err, "exchange   %.1f MB of host memory on each rank\n",
                             (double)t->engine.host_bytes / 1e6),
               "report");
    if (sharers > 1)
        NS_TRY(ns_buf_printf(
                   out, err,
                   "warning    %d ranks share GPU %d (%d on this machine): good for a test of a layout, slow; each "
                   "may use %.1f GB\n",
                   sharers, t->engine.gpu.nth, t->engine.gpu.count, (double)ns_engine_gpu_limit(&t->engine) / 1e9),
               "report");
    NS_TRY(ns_buf_adds(out, ns_ranks_world(&t->ranks) > 1 ? "memory plan of rank 0\n" : "memory plan\n", err),
           "report");
    NS_TRY(ns_plan_table(ns_space_plan(t->engine.space), out, 0, err), "report");
    if (t->max_steps < 20 || o->train.gbs * 10 > ns_sft_units(t, 0)) {
        int64_t unit = packs ? ns_ranks_dp(&t->ranks) : o->train.mbs, good = ns_sft_units(t, 0) / 20 / unit * unit;
        if (good < unit) good = unit;
        NS_TRY(ns_buf_printf(out, err, "warning    %s: consider ++model.data.train_ds.global_batch_size=%" PRId64 "\n",
                             t->max_steps < 20 ? "fewer than 20 steps" : "a batch is more than a tenth of the data",
                             good),
               "report");
    }
    NS_FAIL_IF(
        disk > 0 && (uint64_t)(one + model) > free_bytes, NS_ERR_CONFIG,
        "%s: a checkpoint needs %.1f MB, %.1f MB are free: free space or set another exp_manager.explicit_log_dir",
        t->train_dir, (double)(one + model) / 1e6, (double)free_bytes / 1e6);
    if ((uint64_t)disk > free_bytes)
        NS_TRY(ns_buf_printf(out, err,
                             "warning    checkpoints need %.1f GB, %.1f GB are free: lower "
                             "exp_manager.checkpoint_callback_params.save_top_k\n",
                             (double)disk / 1e9, (double)free_bytes / 1e9),
               "report");
    const int several = ns_ranks_world(&t->ranks) > 1;
    int64_t available = on_gpu && several && ns_engine_gpu_limit(&t->engine) < t->engine.gpu.free_bytes
                            ? ns_engine_gpu_limit(&t->engine)
                        : on_gpu ? t->engine.gpu.free_bytes
                                 : memory_available();
    NS_FAIL_IF(t->engine.total_bytes > available, NS_ERR_CONFIG,
               "the plan needs %.2f GB, %.2f GB are available%s: lower %s (now %" PRId64
               "), or set ++model.activations_checkpoint_granularity=selective (or full)",
               (double)t->engine.total_bytes / 1e9, (double)available / 1e9, on_gpu ? " on the GPU" : "",
               packs ? "the pack size" : "micro_batch_size", packs ? packs->size : o->train.mbs);
    return NS_OK;
}

void ns_sft_close(ns_sft *t)
{
    ns_ckpt_saver_free(&t->saver); /* waits: a run that fails still has the checkpoint it began */
    ns_snapshot_free(&t->snapshot);
    ns_sft_record_close(t);
    ns_error ignored = NS_ERROR_INIT; /* a run that ended badly: what it traced stays, rank by rank */
    ns_gpu_spans_free(&t->spans);
    (void)!ns_trace_close(&t->trace, &ignored);
    ns_overlap_free(&t->overlap);
    ns_ranks_close(&t->ranks);
    ns_engine_free(&t->engine);
    ns_tok_free(&t->tok);
    ns_chat_free(&t->chat);
    ns_examples_free(&t->rows);
    ns_examples_free(&t->val_rows);
    ns_packed_free(&t->packs);
    ns_packed_free(&t->val_packs);
    ns_sampler_free(&t->sampler);
    ns_sampler_free(&t->val_sampler);
    ns_split_free(&t->split);
    ns_batch_free(&t->batch);
    ns_batch_part_free(&t->part);
    ns_free(t->index);
    ns_sft_step_free(t);
    memset(t, 0, sizeof *t);
    t->lock_fd = -1;
}
