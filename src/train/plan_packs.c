/* What the plan says of packs: how full they are, how many a step hold so many examples; and of rows that are not packed, what
 * packing them would give and need. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "train/sft.h"

static const int64_t examples[] = {128, 256, 512, 1024};
enum { N_EXAMPLES = sizeof examples / sizeof *examples };

int64_t ns_sft_packs_for(const ns_sft *t, double n, int64_t wanted)
{
    int64_t dp = ns_ranks_dp(&t->ranks), packs = (int64_t)llround((double)wanted / n / (double)dp) * dp;
    return packs < dp ? dp : packs;
}

static ns_status say_packs(const ns_sft *t, ns_buf *out, int json, ns_error *err)
{
    const ns_packed *p = &t->packs;
    const double N = (double)p->packs.n, n = (double)p->samples / N, gbs = (double)t->o->train.gbs,
                 full = (double)p->stored / (N * (double)p->size);
    if (json) {
        NS_TRY(ns_buf_printf(out, err,
                             ", \"packs\": {\"packs\": %" PRId64 ", \"size\": %" PRId64
                             ", \"full\": %.4f, \"n\": %.3f, "
                             "\"examples_a_step\": %.1f, \"global_batch_size_for_examples\": {",
                             p->packs.n, p->size, full, n, gbs * n),
               "report");
        for (int i = 0; i < N_EXAMPLES; i++)
            NS_TRY(ns_buf_printf(out, err, "%s\"%" PRId64 "\": %" PRId64, i ? ", " : "", examples[i],
                                 ns_sft_packs_for(t, n, examples[i])),
                   "report");
        return ns_buf_adds(out, "}}", err);
    }
    NS_TRY(ns_buf_printf(out, err,
                         "packs      %" PRId64 " of %" PRId64 " tokens, %.2f %% full, n = %.3f sequences each (at most "
                         "%" PRId64 "); a step is about %.1f examples, %.0f tokens\nbatches   ",
                         p->packs.n, p->size, 100 * full, n, p->most, gbs * n, gbs * (double)p->tokens / N),
           "report");
    for (int i = 0; i < N_EXAMPLES; i++)
        NS_TRY(ns_buf_printf(out, err, "%s %" PRId64 " examples: %" PRId64, i ? "," : "", examples[i],
                             ns_sft_packs_for(t, n, examples[i])),
               "report");
    return ns_buf_printf(out, err, " packs as global_batch_size (multiples of %d data-parallel rank%s)\n",
                         ns_ranks_dp(&t->ranks), ns_ranks_dp(&t->ranks) == 1 ? "" : "s");
}

/* The memory of rank 0 if micro-batches were packs of so many tokens and sequences. */
static ns_status bytes_of(const ns_sft *t, int64_t size, int64_t most, int64_t *bytes, ns_error *err)
{
    ns_engine e;
    ns_model_options o = t->engine.opt;
    int32_t T = (int32_t)((size + 127) / 128 * 128), S = (int32_t)most;
    o.T_cap = ns_batch_part_rows(T, S, o.cp_size);
    o.S_cap = o.cp_size > 1 ? 2 * S : S;
    o.T_whole = T;
    ns_status st = ns_engine_plan(&e, &t->arch, &o, t->o->isa, 1, err);
    *bytes = e.total_bytes;
    ns_engine_free(&e);
    return st;
}

static ns_status say_as_packs(const ns_sft *t, ns_buf *out, int json, ns_error *err)
{
    const ns_examples *ex = &t->rows;
    int64_t size = t->o->train.max_seq_length, n = 0, most = 1, bytes = 0, tokens = 0;
    int32_t *len = NULL;
    ns_bins b = {0};
    ns_status st = NS_OK;
    if (size > 1 << 24 || ex->n < 2 || ex->longest - 1 > size) return NS_OK;
    NS_CHECK(st, ns_alloc((void **)&len, (size_t)ex->n * sizeof *len, "plan.len", err), "report");
    for (int64_t i = 0; i < ex->n; i++)
        if (ns_examples_len(ex, i) > 0) tokens += len[n++] = (int32_t)ns_examples_len(ex, i) - 1;
    if (n < 2) goto done;
    NS_CHECK(st, ns_bins_assign_chunks(&b, len, n, (int32_t)size, NS_PACK_FIRST_FIT_SHUFFLE, 0, 100000, err), "report");
    double each = (double)n / (double)b.n, full = (double)tokens / ((double)b.n * (double)size);
    if (each < 1.5) goto done; /* rows of about the length of a pack */
    for (int64_t i = 0; i < b.n; i++)
        if (b.start[i + 1] - b.start[i] > most) most = b.start[i + 1] - b.start[i];
    NS_CHECK(st, bytes_of(t, size, most, &bytes, err), "report");
    int64_t gbs = ns_sft_packs_for(t, each, t->o->train.gbs);
    if (json)
        st = ns_buf_printf(out, err,
                           ", \"as_packs\": {\"size\": %" PRId64 ", \"packs\": %" PRId64
                           ", \"full\": %.4f, \"n\": %.3f, "
                           "\"global_batch_size\": %" PRId64 ", \"total_bytes\": %" PRId64 "}",
                           size, b.n, full, each, gbs, bytes);
    else
        st = ns_buf_printf(out, err,
                           "as packs   %" PRId64 " of %" PRId64 " tokens, %.2f %% full, n = %.3f rows each: "
                           "++model.data.train_ds.packed_sequence=True ++model.data.train_ds.global_batch_size=%" PRId64
                           " keeps a step at %" PRId64 " examples; %.1f MB instead of %.1f\n",
                           b.n, size, 100 * full, each, gbs, t->o->train.gbs, (double)bytes / 1e6,
                           (double)t->engine.total_bytes / 1e6);
done:
    ns_free(len);
    ns_bins_free(&b);
    return st;
}

ns_status ns_sft_report_packs(const ns_sft *t, ns_buf *out, int json, ns_error *err)
{
    if (t->packs.packs.n) return say_packs(t, out, json, err);
    return t->advise ? say_as_packs(t, out, json, err) : NS_OK;
}
