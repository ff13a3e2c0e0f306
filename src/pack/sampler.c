/* Data order: which examples make global batch k (data.md §4.6, training.md §2.4).
 *
 *   consumed samples ─▶ epoch, offset ─▶ permutation of the epoch ─▶ gbs example numbers
 *
 * Invariants: the order is a pure function of (kind, n_rows, gbs, mbs, dp, seed, consumed), so a resumed run continues
 * the very same order from the one number that it stored. `global` ignores mbs and dp: the samples of a step never
 * depend on the layout. `megatron` gives every rank a fixed contiguous share of the file, as the original does.
 *
 * Layout of one global batch, all kinds: rank r's examples are out[r*gbs/dp .. (r+1)*gbs/dp), and micro-batch j of
 * that rank is the j-th run of mbs of these. Permutations: Torch randperm seeded with seed + epoch (base/rng.h). */
#include "pack/sft_data.h"

#include <inttypes.h>

#include "base/mem.h"
#include "base/rng.h"

/* A value near gbs that unit = mbs*dp divides: below (or NULL-like 0) and above. */
static ns_status check_divisible(int64_t gbs, int64_t mbs, int64_t dp, ns_error *err)
{
    int64_t unit = mbs * dp, below = gbs / unit * unit, above = below + unit;
    if (gbs % unit == 0) return NS_OK;
    if (below == 0)
        NS_FAIL(NS_ERR_CONFIG,
                "global batch size %" PRId64 " is not divisible by micro batch size %" PRId64
                " x data parallel size %" PRId64 " = %" PRId64 ": nearest valid global batch size is %" PRId64,
                gbs, mbs, dp, unit, above);
    NS_FAIL(NS_ERR_CONFIG,
            "global batch size %" PRId64 " is not divisible by micro batch size %" PRId64
            " x data parallel size %" PRId64 " = %" PRId64 ": nearest valid global batch sizes are %" PRId64
            " and %" PRId64,
            gbs, mbs, dp, unit, below, above);
}

ns_status ns_sampler_init(ns_sampler *s, ns_sampler_kind kind, int64_t n_rows, int64_t gbs, int64_t mbs, int64_t dp,
                          uint64_t seed, ns_error *err)
{
    *s = (ns_sampler){.kind = kind, .n_rows = n_rows, .gbs = gbs, .mbs = mbs, .dp = dp, .seed = seed, .epoch = -1};
    NS_FAIL_IF(gbs < 1 || mbs < 1 || dp < 1, NS_ERR_CONFIG,
               "global batch size %" PRId64 ", micro batch size %" PRId64 " and data parallel size %" PRId64
               " must all be at least 1",
               gbs, mbs, dp);
    NS_FAIL_IF(mbs > INT64_MAX / dp / 2, NS_ERR_CONFIG,
               "micro batch size %" PRId64 " x data parallel size %" PRId64 " is out of range", mbs, dp);
    NS_TRY(check_divisible(gbs, mbs, dp, err), "batch sizes");
    NS_FAIL_IF(n_rows < 1, NS_ERR_INPUT, "the data set has no rows");
    NS_FAIL_IF(kind != NS_SAMPLER_SEQUENTIAL && n_rows < gbs, NS_ERR_INPUT,
               "data set smaller than one global batch: %" PRId64 " rows, global batch size %" PRId64
               ": set the global batch size to at most %" PRId64 " or add data",
               n_rows, gbs, n_rows);
    return NS_OK;
}

/* Permutation of the n entries of `epoch`, cached in s. */
static ns_status permutation(ns_sampler *s, int64_t epoch, int64_t n, ns_error *err)
{
    if (s->epoch == epoch && s->n_perm == n) return NS_OK;
    if (s->n_perm != n) {
        ns_free(s->perm);
        s->perm = NULL;
        s->n_perm = 0;
        NS_TRY(ns_alloc((void **)&s->perm, (size_t)n * sizeof *s->perm, "pack.permutation", err), "permutation");
        s->n_perm = n;
    }
    ns_mt g;
    ns_mt_seed(&g, (uint32_t)(s->seed + (uint64_t)epoch)); /* torch keeps the low 32 bits */
    ns_randperm_torch(&g, s->perm, (size_t)n);
    s->epoch = epoch;
    return NS_OK;
}

ns_status ns_sampler_batch(ns_sampler *s, int64_t consumed, int64_t *out, ns_error *err)
{
    NS_FAIL_IF(consumed < 0, NS_ERR_INPUT, "consumed samples %" PRId64 " is negative", consumed);
    if (s->kind == NS_SAMPLER_SEQUENTIAL) {
        for (int64_t i = 0; i < s->gbs; i++) out[i] = consumed + i < s->n_rows ? consumed + i : -1;
        return NS_OK;
    }
    int64_t active = s->n_rows - s->n_rows % s->gbs;
    int64_t epoch = consumed / active, done = consumed % active;
    int64_t unit = s->mbs * s->dp;
    if (s->kind == NS_SAMPLER_GLOBAL) {
        /* A changed gbs leaves the offset anywhere in the epoch: a batch that would run past its end is not possible
         * because the caller starts a new epoch at multiples of `active`; refuse rather than wrap silently. */
        NS_FAIL_IF(done + s->gbs > active, NS_ERR_MISMATCH,
                   "%" PRId64 " consumed samples are not a whole number of batches of %" PRId64
                   " in an epoch of %" PRId64 ": the run was started with another global batch size",
                   consumed, s->gbs, active);
        NS_TRY(permutation(s, epoch, s->n_rows, err), "epoch %" PRId64, epoch);
        for (int64_t i = 0; i < s->gbs; i++) out[i] = s->perm[done + i];
        return NS_OK;
    }
    NS_FAIL_IF(done % unit != 0, NS_ERR_MISMATCH,
               "sampler=megatron: %" PRId64 " consumed samples are not divisible by micro batch size %" PRId64
               " x data parallel size %" PRId64 ": resume with the layout of the run, or use sampler=global",
               consumed, s->mbs, s->dp);
    int64_t bucket = s->n_rows / unit * s->mbs, share = s->gbs / s->dp, from = done / s->dp;
    NS_FAIL_IF(from + share > bucket, NS_ERR_MISMATCH,
               "%" PRId64 " consumed samples are not a whole number of batches of %" PRId64 " in an epoch of %" PRId64
               ": the run was started with another global batch size",
               consumed, s->gbs, active);
    NS_TRY(permutation(s, epoch, bucket, err), "epoch %" PRId64, epoch);
    for (int64_t r = 0; r < s->dp; r++)
        for (int64_t i = 0; i < share; i++) out[r * share + i] = r * bucket + s->perm[from + i];
    return NS_OK;
}

void ns_sampler_free(ns_sampler *s)
{
    if (!s) return;
    ns_free(s->perm);
    s->perm = NULL;
    s->n_perm = 0;
    s->epoch = -1;
}
