/* Training on packs against the same segments as separate rows: forward, loss and backward of 8 packs of 1024 tokens (about 3.67
 * sequences each) and of their sequences one by one; a small Llama, bf16, CPU time of one thread.
 *     bench_packed [PACK [C]]
 * Both do the work of live tokens alone: a row is not padded to the longest one, a pack's unused end is not computed. */
#include "bench.h"

#include <inttypes.h>
#include <math.h>

#include "base/mem.h"
#include "model/engine.h"
#include "pack/packed.h"

enum { PACKS = 8, VOCAB = 1000, LAYERS = 4 };

typedef struct job {
    ns_engine *e;
    const ns_examples *ex;
    ns_mb_split *split;
    ns_batch *batch;
} job;

static void step(void *arg)
{
    job *j = arg;
    ns_error err = NS_ERROR_INIT;
    ns_model *m = &j->e->model;
    ns_exec *x = &j->e->exec;
    m->step->loss_sum = 0;
    ns_model_zero_grad(m, x);
    for (int64_t k = 0; k < j->split->n_micro; k++) {
        const int64_t *start = j->split->start;
        if (ns_batch_fill(j->batch, j->ex, j->split->rows + start[k], start[k + 1] - start[k], &err) != NS_OK)
            exit(bench_fail(&err));
        ns_model_set_batch(m, x, j->batch);
        ns_model_forward(m, x, 0);
        ns_model_loss(m, x, NULL, 1);
        ns_model_backward(m, x, 0);
    }
}

static ns_status make_rows(ns_examples *ex, int64_t n, int pack, ns_error *err)
{
    uint64_t s = 88172645463325252u;
    NS_TRY(ns_alloc((void **)&ex->start, ((size_t)n + 1) * sizeof *ex->start, "bench", err), "rows");
    NS_TRY(ns_alloc((void **)&ex->answer_start, (size_t)n * sizeof *ex->answer_start, "bench", err), "rows");
    NS_TRY(ns_alloc((void **)&ex->ids, (size_t)n * ((size_t)pack + 1) * sizeof *ex->ids, "bench", err), "rows");
    ex->n = n;
    for (int64_t i = 0; i < n; i++) {
        double u[2];
        for (int k = 0; k < 2; k++) {
            s ^= s << 13, s ^= s >> 7, s ^= s << 17;
            u[k] = ((double)(s >> 11) + 0.5) / 9007199254740992.0;
        }
        double len = 0.227 * pack * exp(0.6 * sqrt(-2 * log(u[0])) * cos(6.283185307179586 * u[1]));
        int64_t ids = 1 + (int64_t)(len < 16 ? 16 : len > pack ? pack : len);
        ex->start[i + 1] = ex->start[i] + ids;
        ex->answer_start[i] = (int32_t)ids / 3;
        for (int64_t q = 0; q < ids; q++) ex->ids[ex->start[i] + q] = (int32_t)((i * 31 + q * 7919 + q / 3) % VOCAB);
        if (ids > ex->longest) ex->longest = ids;
    }
    ex->n_ids = ex->start[n];
    snprintf(ex->hash, sizeof ex->hash, "bench");
    return NS_OK;
}

static ns_status fill_weights(ns_engine *e, ns_error *err)
{
    for (int i = 0; i < e->table.n_params; i++) {
        const ns_weight *w = &e->model.w[i];
        float *d = NULL;
        NS_TRY(ns_alloc((void **)&d, (size_t)(w->rows * w->cols) * sizeof *d, "bench", err), "weights");
        for (int64_t k = 0; k < w->rows * w->cols; k++)
            d[k] = w->cols == 1 ? 1.0f : 0.05f * ((float)((uint64_t)k * 2654435761u >> 9 & 1023) / 512 - 1);
        ns_model_put_param(&e->model, &e->exec, i, d);
        ns_free(d);
    }
    ns_engine_loaded(e);
    return NS_OK;
}

static ns_status bench(int pack, int C, ns_error *err)
{
    ns_arch a = {.family = NS_FAMILY_LLAMA,
                 .vocab = VOCAB,
                 .vocab_rows = 1024,
                 .C = C,
                 .F = C * 8 / 3 / 64 * 64,
                 .L = LAYERS,
                 .n_heads = C / 32,
                 .n_kv = C / 64,
                 .head_dim = 32,
                 .max_pos = 65536,
                 .norm_eps = 1e-5f,
                 .tied = 1,
                 .rope_theta = 1e4,
                 .dt = NS_DTYPE_BF16};
    ns_examples ex = {0};
    ns_packed p;
    ns_mb_split packs, rows;
    ns_engine e;
    ns_batch b;
    int64_t index[PACKS], tokens = 0;
    NS_TRY(make_rows(&ex, PACKS * 6, pack, err), "rows");
    NS_TRY(ns_packed_make(&p, &ex, pack, NS_PACK_BEST_FIT, 0, 1000000, err), "packs");
    for (int64_t i = 0; i < PACKS; i++) index[i] = i;
    NS_TRY(ns_split_new(&packs, ex.n, err), "split");
    NS_TRY(ns_split_new(&rows, ex.n, err), "split");
    ns_split_packs(&packs, &p, index, PACKS);
    rows.n_micro = packs.start[PACKS];
    for (int64_t i = 0; i <= rows.n_micro; i++) rows.start[i] = i;
    for (int64_t i = 0; i < rows.n_micro; i++) {
        rows.rows[i] = packs.rows[i];
        tokens += ns_examples_len(&ex, rows.rows[i]) - 1;
    }
    ns_model_options o = {.dt = a.dt,
                          .T_cap = (pack + 127) / 128 * 128,
                          .S_cap = (int32_t)p.most,
                          .max_len = pack + 1,
                          .n_slots = 1,
                          .train = 1};
    NS_TRY(ns_batch_new(&b, (int32_t)o.T_cap, (int32_t)o.S_cap, err), "batch");
    NS_TRY(ns_engine_plan(&e, &a, &o, NULL, 1, err), "plan");
    NS_TRY(ns_engine_start(&e, err), "start");
    NS_TRY(fill_weights(&e, err), "weights");
    ns_step s = {.weight_sum = (double)tokens};
    ns_model_put_step(&e.model, &e.exec, &s);
    job j[2] = {{&e, &ex, &packs, &b}, {&e, &ex, &rows, &b}};
    double best[2] = {1e9, 1e9}, all[2][BENCH_MIN_CALLS];
    for (int k = -1; k < BENCH_MIN_CALLS; k++) /* in turns: a machine that slows down slows both */
        for (int i = 0; i < 2; i++) {
            double t = bench_cpu();
            step(&j[i]);
            t = bench_cpu() - t;
            if (k < 0) continue;
            all[i][k] = t;
            if (t < best[i]) best[i] = t;
        }
    for (int i = 0; i < 2; i++) {
        char more[300];
        qsort(all[i], BENCH_MIN_CALLS, sizeof **all, bench_compare);
        snprintf(more, sizeof more,
                 "\"as\": \"%s\", \"pack\": %d, \"micro_batches\": %" PRId64 ", \"segments\": %" PRId64
                 ", \"tokens\": %" PRId64 ", \"C\": %d, \"threads\": 1, \"of_rows\": %.3f",
                 i ? "rows one by one" : "packs", pack, j[i].split->n_micro, rows.n_micro, tokens, C,
                 best[1] / best[i]);
        bench_line("packed.step", more, (double)tokens / best[i], "tokens/s of CPU", best[i],
                   all[i][BENCH_MIN_CALLS / 2]);
    }
    ns_engine_free(&e);
    ns_batch_free(&b);
    ns_split_free(&packs);
    ns_split_free(&rows);
    ns_packed_free(&p);
    ns_examples_free(&ex);
    return NS_OK;
}

int main(int argc, char **argv)
{
    int pack = argc > 1 ? atoi(argv[1]) : 1024, C = argc > 2 ? atoi(argv[2]) : 256;
    ns_error err = NS_ERROR_INIT;
    if (pack < 128 || C < 64 || C % 64) {
        fprintf(stderr, "bench_packed: PACK is at least 128, C a multiple of 64\n");
        return 2;
    }
    return bench(pack, C, &err) == NS_OK ? 0 : bench_fail(&err);
}
