/* Parity of logits: see parity.h. Values are read by the formats' own readers and computed in f32, so a conversion that keeps every
 * value gives the same bits. Tokens are spread over the vocabulary: a wrong row of the embedding or the head shows. */
#include "export/parity.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ckpt/model_io.h"
#include "model/engine.h"

enum { N_TOKENS = 24 };

static int32_t token(const ns_arch *a, int i)
{
    return (int32_t)((uint64_t)(i + 1) * 2654435761u % (uint64_t)a->vocab);
}

/* logits: [N_TOKENS, vocab]. */
static ns_status run(float *logits, const char *path, const ns_arch *a, ns_error *err)
{
    ns_engine e;
    ns_status st = NS_OK;
    ns_model_options o = {.dt = NS_DTYPE_F32,
                          .T_cap = 32,
                          .S_cap = N_TOKENS,
                          .max_len = 32,
                          .n_slots = 1,
                          .kv_rows = 32,
                          .accelerator = "cpu"};
    memset(&e, 0, sizeof e);
    NS_CHECK(st, ns_engine_plan(&e, a, &o, NULL, 0, err), "plan");
    NS_CHECK(st, ns_engine_start(&e, err), "start");
    NS_CHECK(st, ns_model_read(path, &e.table, ns_engine_put, &e, err), "model %s", path);
    ns_engine_loaded(&e);
    ns_model *m = &e.model;
    ns_batch *b = &m->batch;
    int32_t rows[N_TOKENS];
    for (int i = 0; i < 32; i++) {
        b->ids[i] = i < N_TOKENS ? token(a, i) : 0;
        b->position[i] = i < N_TOKENS ? i : 0;
        m->kv_row[i] = i < N_TOKENS ? i : -1;
    }
    for (int i = 0; i < N_TOKENS; i++) {
        rows[i] = i;
        m->kv_start[i] = 0;
        m->kv_len[i] = i ? 0 : N_TOKENS;
        b->cu_seqlens[i + 1] = N_TOKENS;
    }
    b->cu_seqlens[0] = 0;
    b->n_tok = N_TOKENS;
    b->n_seg = 1;
    ns_model_set_rows(m, 32);
    ns_model_forward(m, &e.exec, 0);
    ns_model_logits(m, &e.exec, rows, N_TOKENS, logits);
    NS_BAIL_IF(st, e.exec.err.code != NS_OK, e.exec.err.code, "%s", e.exec.err.msg);
done:
    ns_engine_free(&e);
    return st;
}

static int64_t top(const float *p, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (p[i] > p[best]) best = i;
    return best;
}

static void compare(ns_parity *p, const float *x, const float *y, int64_t vocab)
{
    double e = 0, s = 0;
    p->n_tokens = N_TOKENS;
    for (int64_t t = 0; t < N_TOKENS; t++, x += vocab, y += vocab) {
        for (int64_t i = 0; i < vocab; i++) {
            double d = (double)x[i] - (double)y[i];
            e += d * d;
            s += (double)x[i] * (double)x[i];
            if (!(fabs(d) <= p->largest)) p->largest = fabs(d);
        }
        p->n_same_top += top(x, vocab) == top(y, vocab);
    }
    p->relative = s > 0 ? sqrt(e / s) : e > 0 ? 1 : 0;
}

/* Weights in f32, one parameter more while reading, and as much again for activations and panels. */
static int fits(const ns_arch *a, double *need, double *have, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("parity");
    ns_param_table t;
    long pages = sysconf(_SC_AVPHYS_PAGES), all = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    int ok = ns_param_table_build(&t, a, &arena, err) == NS_OK;
    *have = (double)(pages > all / 2 ? pages : all / 2) * (double)size; /* free pages do not count the file cache */
    *need = ok ? 4.0 * 1.3 * (double)(t.n_elements + ns_param_table_largest(&t)) + 256e6 : 0;
    ns_arena_free(&arena);
    return ok;
}

ns_status ns_parity_check(ns_parity *p, const char *a_path, const ns_arch *a, const char *b_path, const ns_arch *b,
                          int always, ns_error *err)
{
    float *x = NULL, *y = NULL;
    double need, have;
    ns_error why = NS_ERROR_INIT;
    ns_status st = NS_OK;
    memset(p, 0, sizeof *p);
    if (!fits(a, &need, &have, err)) return NS_ERR_MEMORY;
    if (need > have)
        snprintf(p->skipped, sizeof p->skipped, "it needs %.1f GB of memory, %.1f GB are free", need / 1e9, have / 1e9);
    else if (need > 5.5e9 && !always)
        snprintf(p->skipped, sizeof p->skipped, "more than a billion parameters: --parity on runs it all the same");
    if (p->skipped[0]) return NS_OK;
    size_t size = (size_t)(N_TOKENS * a->vocab) * sizeof *x;
    NS_CHECK(st, ns_alloc((void **)&x, size, "parity.logits", err), "parity");
    NS_CHECK(st, ns_alloc((void **)&y, size, "parity.logits", err), "parity");
    st = run(x, a_path, a, &why);
    if (st == NS_ERR_UNSUPPORTED) { /* a family that is converted and not run here */
        snprintf(p->skipped, sizeof p->skipped, "%.240s", why.msg);
        st = NS_OK;
        goto done;
    }
    if (st != NS_OK && err) *err = why;
    if (st != NS_OK) goto done;
    NS_CHECK(st, run(y, b_path, b, err), "parity");
    compare(p, x, y, a->vocab);
done:
    ns_free(x);
    ns_free(y);
    return st;
}
