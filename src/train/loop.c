/* The run: start, the loop over steps (a step is step.c), validation, saves, the end. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "base/mem.h"
#include "train/sft.h"
#include "train/stop.h"

static void live_line(const ns_sft *t, ns_progress *p, double loss, double grad_norm, double lr, double seconds,
                      int64_t tokens)
{
    char note[256];
    double rate = (double)tokens / seconds;
    int n =
        snprintf(note, sizeof note, "loss %.4f  lr %.2e  %.0f tok/s  %.0f GFLOP/s  %.0f MB", loss, lr, rate,
                 t->engine.step_flops / (double)t->engine.opt.T_cap * rate / 1e9, (double)t->engine.total_bytes / 1e6);
    if (t->o->clip > 0 && n > 0 && n < (int)sizeof note)
        snprintf(note + n, sizeof note - (size_t)n, "  norm %.3f", grad_norm);
    ns_progress_set(p, (double)t->state.step, note);
}

/* A step as long as those so far, and a save, must end before the job is killed; the margin of the limit is for ordinary ones. */
static void stop_in_time(double seconds, double *longest_step, double longest_save)
{
    if (seconds > *longest_step) *longest_step = seconds;
    if (*longest_step + longest_save > ns_stop_left()) ns_stop_now();
}

static ns_status run_steps(ns_sft *t, ns_progress *p, ns_stop_reason *stopped, ns_error *err)
{
    double longest_step = 0, longest_save = 0;
    while (t->state.step < t->max_steps) {
        double start = ns_time_now(), loss = 0, norm = 0;
        int64_t tokens = 0;
        double lr = ns_schedule_lr(&t->schedule, t->state.step);
        NS_TRY(ns_sft_step(t, &loss, &norm, &tokens, err), "%s", "train");
        double seconds = ns_time_now() - start;
        t->tokens_done += tokens;
        t->save_stall += ns_snapshot_held(t->snapshot);
        NS_TRY(ns_sft_save_end(t, 0, err), "%s", "save");
        NS_TRY(ns_sft_record_step(t, loss, norm, lr, seconds, tokens, err), "metrics");
        t->state.step++;
        t->state.consumed_samples += t->o->train.gbs;
        t->state.epoch = t->state.step / t->steps_per_epoch;
        live_line(t, p, loss, norm, lr, seconds, tokens);

        if (t->save_longest > longest_save) longest_save = t->save_longest; /* written beside the steps */
        stop_in_time(seconds, &longest_step, longest_save);
        double stop = ns_stop_check(); /* whoever is told to stop: all stop at the same step */
        NS_TRY(ns_comm_scalars(&t->ranks.all, &stop, 1, NS_COMM_MAX, err), "%s", "stop");
        *stopped = (ns_stop_reason)stop;
        int last = t->state.step == t->max_steps, due = t->save_interval > 0 && t->state.step % t->save_interval == 0;
        int save = t->save_interval > 0 && (last || due || *stopped);
        const double ended = ns_time_now();
        if (t->val_interval > 0 && (t->state.step % t->val_interval == 0 || last || save))
            NS_TRY(ns_sft_validate(t, err), "validate");
        const double began = ns_time_now();
        if (save && t->overlap) NS_TRY(ns_overlap_weights(t->overlap, err), "save step %" PRId64, t->state.step);
        if (save) NS_TRY(ns_sft_save(t, *stopped && !last && !due, err), "save step %" PRId64, t->state.step);
        if (save && ns_time_now() - ended > longest_save) longest_save = ns_time_now() - ended;
        if (save) ns_trace_span(t->trace, NS_TRACE_COMPUTE, "save", began, 0);
        NS_TRY(ns_trace_flush(t->trace, err), "%s", "trace");
        if (*stopped && !last) return ns_sft_save_end(t, 1, err);
    }
    *stopped = NS_STOP_NONE;
    return ns_sft_save_end(t, 1, err);
}

/* All ranks must be in the same run: the same program, settings, rows and model. */
static ns_status join_ranks(ns_sft *t, const char *config_yaml, ns_error *err)
{
    char identity[400], card[64] = "";
    if (t->engine.device) snprintf(card, sizeof card, " of %.0f MB", (double)t->engine.gpu.total_bytes / 1e6);
    snprintf(identity, sizeof identity, "version %s;settings %08x;rows %s;parameters %s;%s %s%s", NS_VERSION,
             ns_crc32c(0, config_yaml, strlen(config_yaml)), t->rows.hash, t->engine.table.hash,
             t->engine.device ? "GPU" : "CPU level", t->engine.device ? t->engine.gpu.name : t->engine.ops.name, card);
    t->ranks.overlapped = t->engine.opt.behind;
    t->ranks.dead_s = t->o->dead_s;
    t->ranks.hang_s = t->o->hang_s;
    return ns_ranks_join(&t->ranks, identity, t->on_abort, err);
}

static ns_status start_overlap(ns_sft *t, ns_error *err)
{
    if (t->engine.opt.behind && !t->ranks.overlapped)
        NS_INFO("%s",
                "overlap_grad_sync, overlap_param_sync: arrays travel through the host, so gradients are reduced after "
                "the backward, weights gathered after the update");
    if (!t->ranks.overlapped) return NS_OK;
    return ns_overlap_new(&t->overlap, &t->ranks, &t->engine, t->o->overlap_params, err);
}

enum { SPANS_A_STEP = 1 << 16 };

static ns_status open_trace(ns_sft *t, ns_error *err)
{
    if (!t->o->trace) return NS_OK;
    NS_TRY(ns_trace_open(&t->trace, t->o->trace, t->ranks.topology.rank, SPANS_A_STEP, err), "%s", "trainer.trace");
    ns_world_trace(t->ranks.world, t->trace);
    return t->engine.device ? ns_gpu_spans_new(&t->spans, &t->engine, t->trace, err) : NS_OK;
}

static ns_status join_trace(ns_sft *t, ns_error *err)
{
    if (!t->trace) return NS_OK;
    ns_world_trace(t->ranks.world, NULL);
    ns_gpu_spans_flush(t->spans);
    ns_gpu_spans_free(&t->spans);
    ns_status st = ns_trace_close(&t->trace, err);
    NS_TRY(ns_ranks_vote(&t->ranks, st, err), "%s", "all ranks");
    if (!ns_ranks_first(&t->ranks)) return NS_OK;
    NS_TRY(ns_trace_join(t->o->trace, ns_ranks_world(&t->ranks), err), "%s", t->o->trace);
    NS_INFO("wrote %s", t->o->trace);
    return NS_OK;
}

/* What was sent in steps against the formulas, on every rank. */
static ns_status compare_bytes(ns_sft *t, ns_error *err)
{
    uint64_t c[NS_COMM_N_KINDS];
    const uint64_t *f = t->computed;
    double differ = 0, total = 0;
    if (ns_ranks_world(&t->ranks) == 1) return NS_OK;
    ns_ranks_sent(&t->ranks, 1, c); /* whatever it sent belongs to steps */
    for (int k = 0; k < NS_COMM_N_KINDS; k++) c[k] += t->counted[k];
    for (int k = 0; k < NS_COMM_N_KINDS; k++) {
        if (c[k] != f[k]) differ = 1;
        total += (double)c[k];
    }
    NS_TRY(ns_comm_scalars(&t->ranks.all, &differ, 1, NS_COMM_SUM, err), "%s", "bytes sent");
    if (!ns_ranks_first(&t->ranks)) return NS_OK;
    if (differ > 0)
        NS_WARN("bytes sent in steps differ from the formula on %.0f ranks; rank 0 sent/computed: gather %" PRIu64
                "/%" PRIu64 ", reduce %" PRIu64 "/%" PRIu64 ", send %" PRIu64 "/%" PRIu64 ", numbers %" PRIu64
                "/%" PRIu64,
                differ, c[NS_COMM_ALL_GATHER], f[NS_COMM_ALL_GATHER], c[NS_COMM_REDUCE_SCATTER],
                f[NS_COMM_REDUCE_SCATTER], c[NS_COMM_SEND], f[NS_COMM_SEND], c[NS_COMM_SCALARS], f[NS_COMM_SCALARS]);
    else
        NS_INFO("rank 0 sent %.2f MB in steps: gather %.2f, reduce %.2f, send %.2f; on all ranks the bytes are those "
                "of the formula",
                total / 1e6, (double)c[NS_COMM_ALL_GATHER] / 1e6, (double)c[NS_COMM_REDUCE_SCATTER] / 1e6,
                (double)c[NS_COMM_SEND] / 1e6);
    return NS_OK;
}

/* What was really allocated, at most and on any rank, beside the plan that was printed. */
static ns_status tell_memory(ns_sft *t, ns_error *err)
{
    double bytes[2] = {(double)ns_mem_get_stats().bytes_peak, (double)t->engine.total_bytes};
    NS_TRY(ns_comm_scalars(&t->ranks.all, bytes, 2, NS_COMM_MAX, err), "%s", "memory");
    if (ns_ranks_first(&t->ranks))
        NS_INFO("%sallocated at most %.3f MB of host memory; %s plan %.3f MB%s", t->ranks.all.size > 1 ? "a rank " : "",
                bytes[0] / 1e6, t->ranks.all.size > 1 ? "its" : "the", bytes[1] / 1e6,
                t->engine.device ? " on the GPU" : " of it");
    return NS_OK;
}

static ns_status train(ns_sft *t, const char *config_yaml, int argc, char *const *argv, ns_stop_reason *stopped,
                       ns_error *err)
{
    ns_status st = ns_ranks_first(&t->ranks) ? ns_sft_lock(t, err) : NS_OK;
    NS_TRY(ns_ranks_vote(&t->ranks, st, err), "%s", "output folder");
    t->engine.tp = &t->ranks.tp;
    t->engine.cp = &t->ranks.cp;
    t->engine.grads = &t->ranks.grads;
    t->engine.pp = &t->ranks.pp;
    NS_TRY(ns_engine_start(&t->engine, err), "start");
    ns_ranks_memory(&t->ranks, &t->engine);
    NS_TRY(ns_ranks_direct(&t->ranks, &t->engine, err), "%s", "exchange between GPUs");
    NS_TRY(ns_sft_load_weights(t, err), "weights");
    if (t->state.step >= t->max_steps) {
        NS_INFO("finished already: step %" PRId64 " of %" PRId64 "; nothing to do", t->state.step, t->max_steps);
        return NS_OK;
    }
    t->engine.exec.key = (ns_philox_key){{(uint32_t)t->o->seed, 0x64726f70u}};
    st = ns_ranks_first(&t->ranks) ? ns_sft_check_time(t, ns_stop_left(), err) : NS_OK;
    NS_TRY(ns_ranks_vote(&t->ranks, st, err), "%s", "time limit");
    if (ns_ranks_first(&t->ranks)) NS_TRY(ns_sft_row_report(t, err), "row report");
    if (ns_ranks_first(&t->ranks)) NS_TRY(ns_sft_record_open(t, config_yaml, argc, argv, err), "records");
    ns_stop_install();
    ns_stop_set_limit(t->o->max_seconds);
    t->started = ns_time_now();
    ns_progress *p = ns_ranks_first(&t->ranks) ? ns_progress_begin("train", (double)t->max_steps, "steps") : NULL;
    st = open_trace(t, err);
    if (st == NS_OK) st = start_overlap(t, err);
    if (st == NS_OK) st = ns_sft_save_open(t, err);
    if (st == NS_OK) st = run_steps(t, p, stopped, err);
    if (st == NS_OK && t->overlap)
        st = ns_overlap_weights(t->overlap, err); /* the last gathering belongs to the last step */
    ns_progress_end(&p, NULL);
    NS_TRY(st, "%s", "sft");
    NS_TRY(ns_comm_barrier(&t->ranks.all, err), "%s", "end"); /* nobody leaves while another still needs it */
    NS_TRY(compare_bytes(t, err), "%s", "bytes sent");
    NS_TRY(tell_memory(t, err), "%s", "memory");
    NS_TRY(join_trace(t, err), "%s", "trace");
    NS_FAIL_IF(*stopped, NS_ERR_STOPPED, "stopped by %s after step %" PRId64 " of %" PRId64 "%s%s",
               ns_stop_check() ? ns_stop_name() : "another rank", t->state.step, t->max_steps,
               t->save_interval > 0 ? "; saved " : "; nothing saved (save_interval <= 0)",
               t->save_interval > 0 ? t->last_saved : "");
    double seconds = ns_time_now() - t->started;
    NS_INFO("trained %" PRId64 " steps in %.1f s: %.0f tokens/s, %.1f GFLOP/s", t->max_steps, seconds,
            (double)t->tokens_done / seconds,
            t->engine.step_flops / (double)t->engine.opt.T_cap * (double)t->tokens_done / seconds / 1e9);
    return NS_OK;
}

ns_status ns_sft_run(ns_sft *t, const char *config_yaml, int argc, char *const *argv, ns_error *err)
{
    ns_stop_reason stopped = NS_STOP_NONE;
    t->state.val_loss = NAN;
    NS_TRY(join_ranks(t, config_yaml, err), "%s", "start");
    ns_status st = train(t, config_yaml, argc, argv, &stopped, err);
    if (st != NS_OK && st != NS_ERR_STOPPED) ns_world_fail(t->ranks.world, err); /* the others learn why */
    return st;
}
