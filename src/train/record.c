/* What a run leaves besides checkpoints: run.json (once), metrics.jsonl (a line a step), TensorBoard events. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "train/sft.h"

#ifndef NS_VERSION
#define NS_VERSION "?"
#endif

static ns_status write_run_json(ns_sft *t, const char *config_yaml, int argc, char *const *argv, ns_error *err)
{
    ns_buf b = {0};
    char path[2100], host[128] = "?";
    ns_status st;
    gethostname(host, sizeof host - 1);
    snprintf(path, sizeof path, "%s/run.json", t->train_dir);
    NS_CHECK(
        st,
        ns_buf_printf(&b, err,
                      "{\"version\": \"%s\", \"host\": \"%s\", \"level\": \"%s\", \"gpu\": \"%s\", \"blas\": \"%s\", "
                      "\"threads\": %d, \"seed\": %" PRId64
                      ", \"deterministic\": %s, \"fp8\": \"%s\", \"fp8_use_split_accumulator\": %s, "
                      "\"recomputed_layers\": %d, \"data_hash\": \"%s\", "
                      "\"param_hash\": "
                      "\"%s\", \"resumed_at\": %" PRId64 ", \"argv\": [\"ns\", \"sft\"",
                      NS_VERSION, host, t->engine.ops.name, t->engine.gpu.name, t->engine.gpu.blas,
                      ns_threads_count(t->engine.pool), t->o->seed,
                      t->engine.device && t->engine.opt.any_order ? "false" : "true", ns_fp8_name(t->engine.opt.fp8),
                      t->engine.opt.fp8_split ? "true" : "false",
                      t->engine.opt.recompute == NS_RECOMPUTE_FULL ? (int)t->arch.L : t->engine.opt.full_layers,
                      t->rows.hash, t->engine.table.hash, t->state.step),
        "run.json");
    for (int i = 0; i < argc; i++) {
        NS_CHECK(st, ns_buf_adds(&b, ", ", err), "run.json");
        NS_CHECK(st, ns_json_write_str(&b, (ns_str){argv[i], strlen(argv[i])}, NS_JSON_UTF8, err), "run.json");
    }
    NS_CHECK(st, ns_buf_adds(&b, "], \"config_yaml\": ", err), "run.json");
    NS_CHECK(st, ns_json_write_str(&b, (ns_str){config_yaml, strlen(config_yaml)}, NS_JSON_UTF8, err), "run.json");
    NS_CHECK(st, ns_buf_adds(&b, ", \"plan\": ", err), "run.json");
    NS_CHECK(st, ns_sft_report(t, &b, 1, err), "run.json");
    NS_CHECK(st, ns_buf_adds(&b, "}\n", err), "run.json");
    NS_CHECK(st, ns_file_replace(path, b.data, b.len, err), "run.json");
done:
    ns_buf_free(&b);
    return st;
}

/* Keeps the lines of metrics.jsonl up to `step` (lines of steps that a resumed run will do again are dropped). */
static ns_status cut_metrics(const char *path, int64_t step, ns_error *err)
{
    if (!ns_path_exists(path)) return NS_OK;
    ns_buf in = {0}, out = {0};
    ns_status st;
    NS_CHECK(st, ns_file_read(&in, path, err), "read %s", path);
    for (char *line = in.data; line && *line;) {
        char *end = strchr(line, '\n'), *p = strstr(line, "\"step\": ");
        if (!end) break; /* a torn last line */
        if (p && p < end && strtoll(p + 8, NULL, 10) <= step)
            NS_CHECK(st, ns_buf_add(&out, line, (size_t)(end + 1 - line), err), "metrics");
        line = end + 1;
    }
    NS_CHECK(st, ns_file_replace(path, out.data ? out.data : "", out.len, err), "rewrite %s", path);
done:
    ns_buf_free(&in);
    ns_buf_free(&out);
    return st;
}

ns_status ns_sft_check_time(const ns_sft *t, double left_s, ns_error *err)
{
    char path[2100];
    ns_buf b = {0};
    snprintf(path, sizeof path, "%s/metrics.jsonl", t->train_dir);
    if (!(left_s < INFINITY) || !ns_path_exists(path)) return NS_OK;
    NS_TRY(ns_file_read(&b, path, err), "read %s", path);
    const char *last = NULL, *p = b.data;
    while (p && (p = strstr(p, "\"step_time\": "))) last = p += 13;
    double step_s = last ? strtod(last, NULL) : 0;
    ns_buf_free(&b);
    NS_FAIL_IF(
        step_s > left_s, NS_ERR_CONFIG,
        "the job's time limit leaves %.0f s, and a step took %.0f s in the job before: no step and save would fit; "
        "give the jobs more time (--time, or timeouts in the cluster file)",
        left_s > 0 ? left_s : 0, step_s);
    return NS_OK;
}

ns_status ns_sft_record_open(ns_sft *t, const char *config_yaml, int argc, char *const *argv, ns_error *err)
{
    char path[2100];
    NS_TRY(write_run_json(t, config_yaml, argc, argv, err), "%s", t->train_dir);
    snprintf(path, sizeof path, "%s/metrics.jsonl", t->train_dir);
    NS_TRY(cut_metrics(path, t->state.step, err), "%s", "metrics");
    FILE *f = fopen(path, "a");
    NS_FAIL_IF(!f, NS_ERR_IO, "%s: open: %s", path, strerror(errno));
    t->metrics = f;
    if (t->o->tensorboard) NS_TRY(ns_tfevents_open(&t->events, t->train_dir, err), "TensorBoard events");
    return NS_OK;
}

static ns_status put_line(ns_sft *t, const char *line, ns_error *err)
{
    FILE *f = t->metrics;
    NS_FAIL_IF(fputs(line, f) < 0 || fflush(f) != 0, NS_ERR_IO, "%s/metrics.jsonl: write: %s", t->train_dir,
               strerror(errno));
    return NS_OK;
}

ns_status ns_sft_record_step(ns_sft *t, double loss, double grad_norm, double lr, double step_s, int64_t tokens,
                             ns_error *err)
{
    char line[512], norm[64] = "";
    if (!ns_ranks_first(&t->ranks)) return NS_OK;
    int64_t step = t->state.step;
    double epoch = (double)(step / t->steps_per_epoch + 1);
    if (t->o->clip > 0) snprintf(norm, sizeof norm, "\"grad_norm\": %.9g, ", grad_norm);
    snprintf(line, sizeof line,
             "{\"step\": %" PRId64 ", \"loss\": %.9g, %s\"lr\": %.9g, \"consumed_samples\": %" PRId64
             ", \"epoch\": %.0f, \"examples\": %" PRId64 ", \"tokens\": %" PRId64 ", \"target_tokens\": %" PRId64
             ", \"step_time\": %.6f, \"tokens_per_s\": %.1f}\n",
             step + 1, loss, norm, lr, t->state.consumed_samples + t->o->train.gbs, epoch, t->step_examples, tokens,
             t->step_targets, step_s, (double)tokens / step_s);
    NS_TRY(put_line(t, line, err), "%s", "step");
    if (!t->events) return NS_OK;
    NS_TRY(ns_tfevents_scalar(t->events, "train/loss", step, loss, err), "events");
    NS_TRY(ns_tfevents_scalar(t->events, "train/lr", step, lr, err), "events");
    if (t->o->clip > 0) NS_TRY(ns_tfevents_scalar(t->events, "train/grad_norm", step, grad_norm, err), "events");
    NS_TRY(ns_tfevents_scalar(t->events, "train/consumed_samples", step,
                              (double)(t->state.consumed_samples + t->o->train.gbs), err),
           "events");
    NS_TRY(ns_tfevents_scalar(t->events, "train/step_time", step, step_s, err), "events");
    NS_TRY(ns_tfevents_scalar(t->events, "train/examples", step, (double)t->step_examples, err), "events");
    NS_TRY(ns_tfevents_scalar(t->events, "train/target_tokens", step, (double)t->step_targets, err), "events");
    return ns_tfevents_scalar(t->events, "train/epoch", step, epoch, err);
}

ns_status ns_sft_record_val(ns_sft *t, double loss, double seconds, ns_error *err)
{
    char line[256];
    if (!ns_ranks_first(&t->ranks)) return NS_OK;
    NS_INFO("step %" PRId64 ": validation loss %.4f (%.1f s)", t->state.step, loss, seconds);
    snprintf(line, sizeof line, "{\"step\": %" PRId64 ", \"val_loss\": %.9g, \"validation_step_time\": %.3f}\n",
             t->state.step, loss, seconds);
    NS_TRY(put_line(t, line, err), "%s", "validation");
    if (!t->events) return NS_OK;
    NS_TRY(ns_tfevents_scalar(t->events, "val/loss", t->state.step, loss, err), "events");
    return ns_tfevents_scalar(t->events, "val/validation_step_time", t->state.step, seconds, err);
}

/* stall: how long training stood still for it; seconds: until it was on disk. */
ns_status ns_sft_record_save(ns_sft *t, int64_t step, double stall, double seconds, ns_error *err)
{
    char line[256];
    if (!ns_ranks_first(&t->ranks)) return NS_OK;
    snprintf(line, sizeof line,
             "{\"step\": %" PRId64 ", \"save_stall\": %.4f, \"save_time\": %.4f, \"save_bytes\": %" PRId64 "}\n", step,
             stall, seconds, ns_sft_checkpoint_bytes(t));
    NS_TRY(put_line(t, line, err), "%s", "save");
    if (!t->events) return NS_OK;
    NS_TRY(ns_tfevents_scalar(t->events, "save/stall", step, stall, err), "events");
    return ns_tfevents_scalar(t->events, "save/time", step, seconds, err);
}

void ns_sft_record_close(ns_sft *t)
{
    if (t->metrics) fclose(t->metrics);
    t->metrics = NULL;
    ns_tfevents_close(&t->events);
    if (t->lock_fd >= 0) close(t->lock_fd); /* releases the lock */
    t->lock_fd = -1;
}
