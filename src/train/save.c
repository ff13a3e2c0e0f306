/* Lock, base weights, resume, checkpoints. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "train/sft.h"

ns_status ns_sft_lock(ns_sft *t, ns_error *err)
{
    char path[2100], who[256] = "", host[128] = "?";
    NS_TRY(ns_mkdirs(t->ckpt_dir, err), "make %s", t->ckpt_dir);
    snprintf(path, sizeof path, "%s/.lock", t->train_dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    NS_FAIL_IF(fd < 0, NS_ERR_IO, "%s: create: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        ssize_t n = read(fd, who, sizeof who - 1);
        if (n > 0) who[n - 1] = 0;
        close(fd);
        NS_FAIL(
            NS_ERR_CONFIG,
            "%s: another training writes there (%s): wait for it, stop it, or set another exp_manager.explicit_log_dir",
            t->train_dir, who);
    }
    gethostname(host, sizeof host - 1);
    int n = snprintf(who, sizeof who, "host %s, process %ld\n", host, (long)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, who, (size_t)n, 0) != n)
        NS_WARN("%s: cannot write: %s", path, strerror(errno));
    t->lock_fd = fd;
    return NS_OK;
}

/* What must agree between a checkpoint and this run, or the continued run would not be the one that was started. */
static ns_status check_state(ns_sft *t, const ns_ckpt_state *s, const char *path, ns_error *err)
{
    NS_FAIL_IF(s->n_rows != t->rows.n || strcmp(s->data_hash, t->rows.hash), NS_ERR_MISMATCH,
               "%s was saved with other training data (%" PRId64 " rows, hash %s; now %" PRId64
               " rows, hash %s): use the same file, or start in a new exp_manager.explicit_log_dir",
               path, s->n_rows, s->data_hash, t->rows.n, t->rows.hash);
    NS_FAIL_IF(s->seed != (uint64_t)t->o->seed, NS_ERR_MISMATCH,
               "%s was saved with model.seed=%" PRIu64 ", now %" PRId64, path, s->seed, t->o->seed);
    NS_FAIL_IF(s->consumed_samples != s->step * t->o->train.gbs, NS_ERR_MISMATCH,
               "%s: %" PRId64 " samples in %" PRId64 " steps, but global_batch_size is %" PRId64
               ": keep the batch size of the first run",
               path, s->consumed_samples, s->step, t->o->train.gbs);
    return NS_OK;
}

/* Types of main weights and moments in this run's optimiser files. */
static void state_types(const ns_sft *t, ns_dtype dt[3])
{
    const ns_opt_form f = t->engine.opt.optim;
    dt[0] = f.no_rem ? NS_DTYPE_BF16 : NS_DTYPE_F32;
    dt[1] = f.m;
    dt[2] = f.v;
}

ns_status ns_sft_load_weights(ns_sft *t, ns_error *err)
{
    char path[4096] = "";
    if (t->o->resume_from)
        snprintf(path, sizeof path, "%s", t->o->resume_from);
    else if (t->o->resume) { /* rank 0 looks (and cleans up); all take what it found */
        ns_status st = ns_ranks_first(&t->ranks) ? ns_ckpt_find_last(path, sizeof path, t->ckpt_dir, err) : NS_OK;
        NS_TRY(ns_ranks_vote(&t->ranks, st, err), "look for a checkpoint");
        NS_TRY(ns_comm_broadcast(&t->ranks.all, path, sizeof path, 0, err), "look for a checkpoint");
    }
    if (!path[0]) {
        NS_FAIL_IF(t->o->resume && !t->o->resume_ignore_missing, NS_ERR_CONFIG, "%s: no checkpoint to resume from",
                   t->ckpt_dir);
        NS_TRY(ns_model_read(t->o->restore_from, &t->engine.table, ns_engine_put, &t->engine, err), "base model %s",
               t->o->restore_from);
        t->state = (ns_ckpt_state){.val_loss = NAN};
    } else {
        NS_TRY(ns_ckpt_read_state(&t->state, path, err), "%s", path);
        NS_TRY(check_state(t, &t->state, path, err), "resume");
        ns_dtype found[3], want[3];
        NS_TRY(ns_ckpt_load(path, &t->engine.table, ns_engine_put_opt, &t->engine, found, err), "%s", path);
        state_types(t, want);
        for (int k = 0; k < 3 && ns_ranks_first(&t->ranks); k++) {
            static const char *const keys[3] = {"main_params_dtype", "exp_avg_dtype", "exp_avg_sq_dtype"};
            if (found[k] == want[k]) continue;
            NS_WARN("%s was saved with model.optim.%s=%s, now %s: converted (%s); this is not the run that was started",
                    path, keys[k], found[k] == NS_DTYPE_BF16 ? "bf16" : "fp32",
                    want[k] == NS_DTYPE_BF16 ? "bf16" : "fp32",
                    want[k] == NS_DTYPE_BF16 ? "rounded to the nearest bf16" : "exact");
        }
        const ns_schedule *now = &t->schedule;
        if (now->max_steps != t->state.schedule_max_steps || now->warmup != t->state.warmup_steps ||
            now->constant != t->state.constant_steps || now->lr != t->state.lr || now->min_lr != t->state.min_lr)
            NS_WARN(
                "the learning-rate settings differ from the checkpoint's: its schedule goes on (lr %g to %g, %" PRId64
                " steps, warm-up %" PRId64 ", constant %" PRId64
                "); start in a new exp_manager.explicit_log_dir to change it",
                t->state.lr, t->state.min_lr, t->state.schedule_max_steps, t->state.warmup_steps,
                t->state.constant_steps);
        t->schedule.max_steps = t->state.schedule_max_steps; /* the stored schedule wins, as documented */
        t->schedule.warmup = t->state.warmup_steps;
        t->schedule.constant = t->state.constant_steps;
        t->schedule.lr = t->state.lr;
        t->schedule.min_lr = t->state.min_lr;
        NS_INFO("resumed %s: step %" PRId64 " of %" PRId64, path, t->state.step, t->max_steps);
    }
    ns_engine_loaded(&t->engine);
    return NS_OK;
}

ns_status ns_sft_save_open(ns_sft *t, ns_error *err)
{
    if (!t->o->async_save || t->save_interval <= 0) return NS_OK;
    NS_TRY(ns_snapshot_new(&t->snapshot, &t->engine, err), "%s", "async_save");
    return ns_ckpt_saver_new(&t->saver, err);
}

static ns_status saved(ns_sft *t, double seconds, ns_error *err)
{
    if (seconds > t->save_longest) t->save_longest = seconds;
    snprintf(t->last_saved, sizeof t->last_saved, "%s", t->saving);
    NS_INFO("saved %s", t->last_saved);
    t->n_saved++;
    return ns_sft_record_save(t, t->save_step, t->save_stall, seconds, err);
}

ns_status ns_sft_save_end(ns_sft *t, int wait, ns_error *err)
{
    int ended = 0;
    double seconds = 0;
    if (!t->saver) return NS_OK;
    NS_TRY(ns_ckpt_saver_end(t->saver, wait, &ended, &seconds, err), "save step %" PRId64, t->save_step);
    return ended ? saved(t, seconds, err) : NS_OK;
}

/* Writes here and now, or copies (beside the next step) and lets the saver write. */
static ns_status begin_save(ns_sft *t, ns_ckpt_save_args *a, ns_error *err)
{
    const double began = ns_time_now();
    t->save_step = t->state.step;
    if (!t->saver) {
        NS_TRY(ns_ckpt_save(a, err), "%s", "checkpoint");
        t->save_stall = ns_time_now() - began;
        return saved(t, t->save_stall, err);
    }
    a->get_model = ns_snapshot_get;
    a->get_opt = ns_snapshot_get_opt;
    a->user = t->snapshot;
    NS_TRY(ns_snapshot_take(t->snapshot, err), "%s", "copy of the state");
    NS_TRY(ns_ckpt_saver_start(t->saver, a, err), "%s", "checkpoint");
    t->save_stall = ns_time_now() - began;
    return NS_OK;
}

ns_status ns_sft_save(ns_sft *t, int forced, ns_error *err)
{
    ns_ckpt_state *s = &t->state;
    const double began = ns_time_now();
    NS_TRY(ns_sft_save_end(t, 1, err), "%s", "the save before"); /* one at a time: there is one copy */
    const double waited = ns_time_now() - began;
    s->seed = (uint64_t)t->o->seed;
    s->schedule_max_steps = t->schedule.max_steps;
    s->warmup_steps = t->schedule.warmup;
    s->constant_steps = t->schedule.constant;
    s->lr = t->schedule.lr;
    s->min_lr = t->schedule.min_lr;
    s->n_rows = t->rows.n;
    s->forced = forced;
    memcpy(s->data_hash, t->rows.hash, sizeof s->data_hash);
    int named = (!forced || t->o->save_forced_named) && !(isnan(s->val_loss) && t->n_val_batches > 0);
    ns_buf name = {0};
    ns_status st = ns_ckpt_format_name(&name, t->o->filename, s, err);
    if (st == NS_OK) {
        ns_ckpt_save_args a = {.dir = t->ckpt_dir,
                               .name = name.data,
                               .keep_named = named,
                               .table = &t->engine.table,
                               .dt = t->engine.opt.dt,
                               .tokenizer_dir = t->tokenizer_dir,
                               .chat_template = t->trained_template,
                               .get_model = ns_engine_get,
                               .get_opt = ns_engine_get_opt,
                               .user = &t->engine,
                               .rank = t->ranks.topology.rank,
                               .n_ranks = ns_ranks_world(&t->ranks),
                               .collective = ns_engine_split(&t->engine),
                               .cut = ns_engine_cut,
                               .vote = ns_ranks_vote,
                               .vote_user = &t->ranks,
                               .state = s,
                               .save_top_k = (int)t->o->save_top_k,
                               .keep_optimizer = (int)t->o->keep_optimizer};
        state_types(t, a.state_dt);
        snprintf(t->saving, sizeof t->saving, "%s/%s%s", t->ckpt_dir, name.data, named ? "" : "-last");
        st = begin_save(t, &a, err);
        if (t->saver) t->save_stall += waited;
    }
    ns_buf_free(&name);
    return st;
}
