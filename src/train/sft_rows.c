/* The rows of a training: JSONL, pack files, or rows packed in memory (pack/packed.h), and what a global batch of packs is. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "pack/pack_files.h"
#include "train/sft.h"

static ns_status load_rows(ns_sft *t, ns_examples *out, const ns_sft_data_options *d, ns_threads *pool, ns_error *err)
{
    ns_rows_options r = NS_ROWS_OPTIONS_DEFAULT;
    r.prompt_template = d->prompt_template;
    r.label_key = d->label_key;
    r.truncation_field = d->truncation_field;
    (void)ns_rows_long_parse(&r.too_long, d->truncation_method); /* one of the choices */
    r.add_sep = d->add_sep;
    r.sep_id = (int32_t)d->sep_id;
    r.max_seq_length = d->max_seq_length;
    r.add_bos = d->add_bos;
    r.add_eos = d->add_eos;
    r.eos_id = ns_tok_eos(t->tok);
    r.bos_id = ns_tok_bos(t->tok);
    r.chat = t->chat;
    NS_FAIL_IF(d->add_eos && r.eos_id < 0, NS_ERR_CONFIG, "add_eos=True, but the tokenizer names no EOS token");
    NS_FAIL_IF(d->add_bos && r.bos_id < 0, NS_ERR_CONFIG, "add_bos=True, but the tokenizer names no BOS token");
    NS_TRY(ns_rows_load(out, d->file_path, t->tok, &r, pool, err), "rows of %s", d->file_path);
    NS_FAIL_IF(out->n == 0, NS_ERR_INPUT,
               "%s: no rows are left: all %" PRId64 " are longer than max_seq_length=%" PRId64, d->file_path,
               out->n_dropped, d->max_seq_length);
    for (int64_t i = 0; i < out->start[out->n]; i++)
        NS_FAIL_IF(out->ids[i] >= t->arch.vocab, NS_ERR_MISMATCH,
                   "%s: token id %d, but the model has %" PRId64
                   " rows of vocabulary: tokenizer and model do not belong together",
                   d->file_path, out->ids[i], t->arch.vocab);
    return NS_OK;
}

static ns_status read_packs(ns_sft *t, ns_examples *out, ns_packed *packs, const ns_sft_data_options *d,
                            ns_threads *pool, ns_error *err)
{
    char hash[17];
    NS_TRY(ns_pack_tokenizer_hash(hash, t->tok, err), "tokenizer");
    ns_packed_want w = {.max_seq_length = d->max_seq_length,
                        .vocab = t->arch.vocab,
                        .tokenizer_hash = hash,
                        .tokenizer = t->tokenizer_dir};
    return ns_packed_read(out, packs, d->file_path, &w, pool, err);
}

static ns_status make_packs(ns_sft *t, ns_error *err)
{
    const ns_sft_options *o = t->o;
    ns_packed *p = &t->packs;
    ns_pack_algorithm how = NS_PACK_FIRST_FIT_SHUFFLE;
    int64_t size = o->pack.size > 0 ? o->pack.size : o->train.max_seq_length;
    if (o->pack.algorithm) (void)ns_pack_algorithm_parse(&how, o->pack.algorithm); /* one of the choices */
    double start = ns_time_now();
    NS_TRY(ns_packed_make(p, &t->rows, (int32_t)size, how, o->pack.seed >= 0 ? (uint32_t)o->pack.seed : 0,
                          o->pack.chunk >= 0 ? o->pack.chunk : 100000, err),
           "%s", o->train.file_path);
    NS_INFO("Packing is %.2f%% efficient (%.2f s)", 100.0 * (double)p->tokens / ((double)p->packs.n * (double)p->size),
            ns_time_now() - start);
    NS_INFO(">>>>> For pack size %" PRId64 ", average number of sequences per pack is n = %.3f <<<<<", p->size,
            (double)p->samples / (double)p->packs.n);
    return NS_OK;
}

int64_t ns_sft_units(const ns_sft *t, int validation)
{
    int own = validation && !t->val_is_train;
    const ns_packed *p = own ? &t->val_packs : &t->packs;
    return p->packs.n ? p->packs.n : own ? t->val_rows.n : t->rows.n;
}

int64_t ns_sft_pack_size(const ns_sft *t)
{
    const ns_sft_options *o = t->o;
    if (!o->train.packed || !o->global_examples || ns_packed_is_name(o->train.file_path)) return 0;
    return o->pack.size > 0 ? o->pack.size : o->train.max_seq_length;
}

/* How many packs a step: as asked, or as many as hold about so many examples. */
static ns_status batch_of_packs(ns_sft *t, ns_error *err)
{
    ns_sft_options *o = t->o;
    int64_t dp = ns_ranks_dp(&t->ranks), old = o->train.gbs;
    if (o->global_examples && t->packs.packs.n) {
        double n = (double)t->packs.samples / (double)t->packs.packs.n;
        o->train.gbs = ns_sft_packs_for(t, n, o->global_examples);
        NS_INFO("global_batch_examples=%" PRId64 ", n = %.3f sequences a pack: global_batch_size=%" PRId64
                " packs, about %.1f examples a step",
                o->global_examples, n, o->train.gbs, (double)o->train.gbs * n);
    } else if (o->global_examples) {
        o->train.gbs = o->global_examples;
    }
    if (o->val.gbs == old) /* it follows training */
        o->val.gbs = o->global_examples && !(t->val_is_train ? t->packs.packs.n : t->val_packs.packs.n)
                         ? o->global_examples
                         : o->train.gbs;
    if (!t->packs.packs.n || o->train.gbs % dp == 0) return NS_OK;
    int64_t below = o->train.gbs / dp * dp;
    NS_FAIL_IF(below == 0, NS_ERR_CONFIG,
               "model.data.train_ds.global_batch_size=%" PRId64 " packs are not divisible by %" PRId64
               " data-parallel ranks: the nearest valid value is %" PRId64,
               o->train.gbs, dp, dp);
    NS_FAIL(NS_ERR_CONFIG,
            "model.data.train_ds.global_batch_size=%" PRId64 " packs are not divisible by %" PRId64
            " data-parallel ranks: the nearest valid values are %" PRId64 " and %" PRId64,
            o->train.gbs, dp, below, below + dp);
}

ns_status ns_sft_open_data(ns_sft *t, ns_threads *pool, ns_error *err)
{
    ns_sft_options *o = t->o;
    int files = ns_packed_is_name(o->train.file_path);
    t->val_is_train = !strcmp(o->val.file_path, o->train.file_path);
    if (files)
        NS_TRY(read_packs(t, &t->rows, &t->packs, &o->train, pool, err), "%s", "training data");
    else
        NS_TRY(load_rows(t, &t->rows, &o->train, pool, err), "%s", "load data");
    if (!t->val_is_train && ns_packed_is_name(o->val.file_path))
        NS_TRY(read_packs(t, &t->val_rows, &t->val_packs, &o->val, pool, err), "%s", "validation data");
    else if (!t->val_is_train)
        NS_TRY(load_rows(t, &t->val_rows, &o->val, pool, err), "%s", "load data");
    NS_TRY(ns_sft_check_rows(t, &t->rows, o->train.file_path, err), "training rows");
    if (!t->val_is_train) NS_TRY(ns_sft_check_rows(t, &t->val_rows, o->val.file_path, err), "validation rows");
    if (!files && o->train.packed && !o->global_examples) NS_TRY(make_packs(t, err), "packs");
    return batch_of_packs(t, err);
}
