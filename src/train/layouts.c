#include "train/layouts.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "arch/part.h"
#include "base/mem.h"

typedef struct gpu {
    const char *name;
    double memory, flops, hbm, link,
        network; /* bytes; dense bf16 a second; bytes a second: memory, NVLink and InfiniBand each way */
} gpu;

/* Makers' figures. */
static const gpu known[] = {{"a100", 80e9, 312e12, 2.0e12, 300e9, 25e9},
                            {"h100", 80e9, 989e12, 3.35e12, 450e9, 50e9},
                            {"h200", 141e9, 989e12, 4.8e12, 450e9, 50e9},
                            {"b200", 180e9, 2250e12, 8.0e12, 900e9, 50e9}};
static const double compute_part = 0.45, link_part = 0.7, memory_part = 0.95,
                    extra_bytes = 3e9; /* driver, libraries, NCCL */

typedef struct choice {
    int64_t mbs;
    int tp, cp, pp, dp, full; /* full: recomputation */
    double step_s, bytes;     /* model; planned on the fullest stage, 0: not yet */
} choice;

typedef struct search {
    const ns_sft *t;
    gpu g;
    int gpus, a_node;
    int64_t gbs, longest;
    double row_tokens; /* of a row, on average */
} search;

static int divides(const search *s, const choice *c)
{
    const ns_arch *a = &s->t->arch;
    return c->tp <= s->a_node && a->n_heads % c->tp == 0 && a->n_kv % c->tp == 0 && a->F % c->tp == 0 &&
           c->pp <= a->L && s->gpus % (c->tp * c->cp * c->pp) == 0 && s->gbs % (c->mbs * c->dp) == 0;
}

/* Seconds of a step. */
static double predict(const search *s, const choice *c)
{
    const ns_arch *a = &s->t->arch;
    const double T = (double)(c->mbs * s->longest), tokens = (double)s->gbs * s->row_tokens;
    const double m = ceil(tokens / c->dp / T), used = tokens / c->dp / m; /* tokens in a micro-batch */
    const double head = 6.0 * (double)a->C * (double)a->vocab,
                 layer =
                     (ns_arch_train_flops(a, (int64_t)s->row_tokens) - head) / (double)a->L * (c->full ? 4.0 / 3 : 1);
    const int64_t layers = (a->L + c->pp - 1) / c->pp, last = a->L / c->pp;
    const double stage = fmax((double)layers * layer, (double)last * layer + head) * used / (c->tp * c->cp);
    ns_traffic f = {.world = s->gpus,
                    .tp = c->tp,
                    .cp = c->cp,
                    .ring = s->t->engine.opt.cp_ring,
                    .grads = c->cp * c->dp,
                    .stages = c->pp,
                    .first = 1,
                    .last = c->pp == 1,
                    .stream_split = c->tp > 1,
                    .layers = layers,
                    .repeated = c->full ? layers : 0,
                    .C = a->C,
                    .kv = 2 * a->n_kv / c->tp * a->head_dim,
                    .es = 2};
    uint64_t bytes[NS_COMM_N_KINDS] = {0};
    ns_traffic_micro(&f, (int64_t)used / c->cp, (int64_t)used / c->cp, (int64_t)used, bytes);
    const double near = s->g.link * link_part, far = s->g.network * link_part;
    const double inner = (double)(bytes[NS_COMM_ALL_GATHER] + bytes[NS_COMM_REDUCE_SCATTER]) /
                         (c->tp * c->cp > s->a_node ? far : near),
                 send = (double)bytes[NS_COMM_SEND] / (s->gpus > s->a_node ? far : near);
    const double params = (double)s->t->engine.table.n_elements / (c->tp * c->pp), g = c->cp * c->dp;
    const double outer = 6 * params * (g - 1) / g / (c->tp * g > s->a_node ? far : near),
                 update = 32 * params / g / s->g.hbm;
    return (m + c->pp - 1) * (stage / (s->g.flops * compute_part) + inner + send) + outer + update;
}

/* Bytes of one stage as a run would plan them, without a GPU's kernel workspaces. */
static ns_status stage_bytes(const search *s, const choice *c, int stage, double *out, ns_error *err)
{
    ns_engine e;
    const int32_t T = (int32_t)((c->mbs * s->longest + 127) / 128 * 128), S = s->t->S_cap;
    const int64_t most = s->gbs / c->mbs / c->dp;
    ns_model_options o = {.dt = NS_DTYPE_BF16,
                          .T_cap = ns_batch_part_rows(T, S, c->cp),
                          .S_cap = c->cp > 1 ? 2 * S : S,
                          .T_whole = T,
                          .cp_size = c->cp,
                          .cp_ring = s->t->engine.opt.cp_ring,
                          .max_len = s->longest,
                          .n_slots = ns_stages_slots(stage, c->pp, most),
                          .pp_rank = stage,
                          .pp_size = c->pp,
                          .train = 1,
                          .optim = s->t->engine.opt.optim,
                          .recompute = c->full ? NS_RECOMPUTE_FULL : NS_RECOMPUTE_NONE,
                          .tp_size = c->tp,
                          .stream_split = c->tp > 1,
                          .dp_size = c->cp * c->dp};
    NS_TRY(ns_engine_plan(&e, &s->t->arch, &o, "ref", 1, err), "%s", "plan");
    *out = (double)e.total_bytes + extra_bytes;
    ns_engine_free(&e);
    return NS_OK;
}

static ns_status plan_choice(const search *s, choice *c, ns_error *err)
{
    double first = 0, last = 0;
    NS_TRY(stage_bytes(s, c, 0, &first, err), "%s", "first stage");
    if (c->pp > 1) NS_TRY(stage_bytes(s, c, c->pp - 1, &last, err), "%s", "last stage");
    c->bytes = fmax(first, last);
    return NS_OK;
}

static int faster(const void *a, const void *b)
{
    const choice *x = a, *y = b;
    if (x->step_s != y->step_s) return x->step_s > y->step_s ? 1 : -1;
    return x->mbs != y->mbs ? (x->mbs > y->mbs ? 1 : -1) : (x->pp > y->pp) - (x->pp < y->pp); /* less memory first */
}

enum { MOST = 8 * 8 * 8 * 8 * 2 };

static int enumerate(const search *s, choice *out)
{
    int n = 0;
    const ns_opt_form f = s->t->engine.opt.optim;
    const int exact = !f.no_rem && f.m == NS_DTYPE_F32 && f.v == NS_DTYPE_F32; /* else not with tensor parallel */
    for (int64_t mbs = 1; mbs <= 8; mbs *= 2)
        for (int tp = 1; tp <= 8; tp *= 2)
            for (int cp = 1; cp <= 8; cp *= 2)
                for (int pp = 1; pp <= 8; pp *= 2)
                    for (int full = 0; full < 2 && n < MOST; full++) {
                        choice c = {.mbs = mbs, .tp = tp, .cp = cp, .pp = pp, .full = full};
                        if (s->gpus < tp * cp * pp || (tp > 1 && !exact)) continue;
                        c.dp = s->gpus / (tp * cp * pp);
                        if (!divides(s, &c)) continue;
                        c.step_s = predict(s, &c);
                        out[n++] = c;
                    }
    qsort(out, (size_t)n, sizeof *out, faster);
    return n;
}

static ns_status line(ns_buf *out, const search *s, const choice *c, const char *what, ns_error *err)
{
    return ns_buf_printf(out, err,
                         "  micro-batch %" PRId64
                         ", tp %d, cp %d, pp %d, dp %-4d %s  %7.2f s a step, %8.0f tokens/s, %6.1f GB%s%s\n",
                         c->mbs, c->tp, c->cp, c->pp, c->dp, c->full ? "recomputed" : "          ", c->step_s,
                         (double)s->gbs * s->row_tokens / c->step_s, c->bytes / 1e9,
                         c->bytes > memory_part * s->g.memory ? " DOES NOT FIT" : "", what);
}

/* The fastest that fit, at most `want`, of all that divide. Out: how many. */
static ns_status best(const search *s, choice *found, int want, int *n_found, ns_error *err)
{
    choice *all = NULL;
    ns_status st = NS_OK;
    *n_found = 0;
    NS_TRY(ns_alloc((void **)&all, MOST * sizeof *all, "layouts", err), "%s", "layouts");
    const int n = enumerate(s, all);
    for (int i = 0; i < n && *n_found < want; i++) {
        NS_CHECK(st, plan_choice(s, &all[i], err), "%s", "layouts");
        if (all[i].bytes <= memory_part * s->g.memory) found[(*n_found)++] = all[i];
    }
done:
    ns_free(all);
    return st;
}

/* A layout that somebody would type, whatever its place in the list. */
static ns_status named(ns_buf *out, const search *s, int64_t mbs, int tp, const char *what, ns_error *err)
{
    choice c = {.mbs = mbs, .tp = tp, .cp = 1, .pp = 1, .dp = s->gpus / tp};
    ns_arch part;
    ns_error why = NS_ERROR_INIT;
    if (ns_part_arch(&part, &s->t->arch, 0, tp, &why) != NS_OK)
        return ns_buf_printf(out, err, "  refused%s: %s\n", what, why.msg);
    if (s->gpus % tp || !divides(s, &c))
        return ns_buf_printf(out, err, "  refused%s: global_batch_size=%" PRId64 " or %d GPUs do not divide\n", what,
                             s->gbs, s->gpus);
    c.step_s = predict(s, &c);
    NS_TRY(plan_choice(s, &c, err), "%s", what);
    return line(out, s, &c, what, err);
}

ns_status ns_layouts_report(ns_buf *out, const ns_sft *t, const char *name, ns_error *err)
{
    search s = {.t = t,
                .gpus = ns_ranks_world(&t->ranks),
                .a_node = (int)t->o->devices,
                .gbs = t->o->train.gbs,
                .longest = t->engine.opt.max_len};
    choice found[4];
    int n = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) s.g = known[i];
    NS_FAIL_IF(!s.g.name, NS_ERR_CONFIG, "plan.layouts=%s: a100, h100, h200 or b200", name);
    const int64_t units = ns_sft_units(t, 0);
    s.row_tokens = (double)(t->packs.packs.n ? t->packs.tokens : t->rows.n_ids) / (double)(units > 0 ? units : 1);
    NS_TRY(ns_buf_printf(
               out, err,
               "layouts of %d %s (model, not measured: %.0f %% of %.0f TFLOP/s, %.0f %% of NVLink %.0f and "
               "InfiniBand %.0f "
               "GB/s each way, nothing overlapped; memory as planned + %.0f GB, %.0f %% of %.0f GB may be used)\n",
               s.gpus, s.g.name, 100 * compute_part, s.g.flops / 1e12, 100 * link_part, s.g.link / 1e9,
               s.g.network / 1e9, extra_bytes / 1e9, 100 * memory_part, s.g.memory / 1e9),
           "%s", "layouts");
    NS_TRY(best(&s, found, 4, &n, err), "%s", "layouts");
    for (int i = 0; i < n; i++)
        NS_TRY(line(out, &s, &found[i], i ? "" : "  <- fastest that fits", err), "%s", "layouts");
    if (n == 0)
        NS_TRY(ns_buf_adds(out, "  none fits: more GPUs, shorter rows, or another global_batch_size\n", err), "%s",
               "layouts");
    NS_TRY(named(out, &s, 4, 4, "  (documented for 8B)", err), "%s", "layouts");
    NS_TRY(named(out, &s, t->o->train.mbs, s.a_node, "  (default of ns train: tp = num_gpus)", err), "%s", "layouts");
    NS_TRY(ns_buf_adds(out, "growing with the cluster, rows a GPU kept (model):\n", err), "%s", "layouts");
    double one = 0;
    for (int gpus = 8; gpus <= 1024; gpus *= gpus == 8 ? 8 : 4) {
        search w = s;
        w.gpus = gpus;
        w.gbs = (s.gbs * gpus + s.gpus - 1) / s.gpus;
        NS_TRY(best(&w, found, 1, &n, err), "%s", "layouts");
        if (n == 0) continue;
        const double rate = (double)w.gbs * w.row_tokens / found[0].step_s / gpus;
        if (one == 0) one = rate;
        NS_TRY(ns_buf_printf(out, err,
                             "  %4d GPUs, %6" PRId64 " rows: micro-batch %" PRId64
                             ", tp %d, cp %d, pp %d, dp %d: %.0f tokens/s a GPU, %.0f %%\n",
                             gpus, w.gbs, found[0].mbs, found[0].tp, found[0].cp, found[0].pp, found[0].dp, rate,
                             100 * rate / one),
               "%s", "layouts");
    }
    return NS_OK;
}
