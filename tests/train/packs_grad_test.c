/* No attention, position or loss crosses a border of a pack: loss and gradient on packs are those of the same samples one by
 * one, on one rank (in this process) and on every layout (the program; the gradient is read from Adam's first moment after
 * one step). What is broken on purpose - attention across a border, positions that restart elsewhere, loss over a border - is
 * seen.
 *
 * Tolerance. A gradient is a sum over all tokens and, within, over hidden units; two orders of such a sum of n terms in f32
 * differ by about 2^-24 sqrt(n) of its terms' size. n = 6000 tokens, and the terms of several layers add up: 1e-5 of the norm of
 * the parameter's gradient. Rounding of whole tokens would show: a missing token changes it by 1/6000, 17 times as much. */
#include "base/testing.h"

#include <math.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "pack/npy.h"
#include "train/sft.h"

#define TOLERANCE 1e-5
#define BETA1 0.9

static char dir[256];
static double worst; /* of the last comparison */

static const ns_verb verb = {.name = "sft",
                             .group = "training",
                             .summary = "test",
                             .usage = "ns sft",
                             .options = ns_sft_option_table,
                             .n_options = NS_SFT_N_OPTIONS,
                             .options_size = sizeof(ns_sft_options)};

/* One opened training, and its gradient of one global batch. */
typedef struct run {
    ns_parsed p;
    ns_sft t;
    float **grad; /* [n_params] */
    double loss;
} run;

static int sh(const char *fmt, ...)
{
    char cmd[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cmd, sizeof cmd, fmt, ap);
    va_end(ap);
    return system(cmd);
}

static void quiet(ns_log_level level, const char *line, void *user)
{
    (void)level, (void)line, (void)user;
}

/* Rows of 15 to 60 tokens, odd and even, and one cut at 128, so that position tables reach over a whole pack; packs of 128: the last sequence of many ends before the pack does. */
static void setup_files(void)
{
    char path[300];
    ns_error err = NS_ERROR_INIT;
    ns_test_tmpdir(dir, sizeof dir);
    ns_log_set_sink(quiet, NULL);
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "w");
    fputs("{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 64, "
          "\"intermediate_size\": 128, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
          "\"num_key_value_heads\": 2, \"vocab_size\": 1026, \"max_position_embeddings\": 256, \"rms_norm_eps\": 1e-5, "
          "\"rope_theta\": 10000.0, \"tie_word_embeddings\": true, \"hidden_act\": \"silu\", \"torch_dtype\": "
          "\"float32\", "
          "\"initializer_range\": 0.2}",
          f);
    fclose(f);
    snprintf(path, sizeof path, "%s/rows.jsonl", dir);
    f = fopen(path, "w");
    for (int i = 0; i < 220; i++) {
        fprintf(f, "{\"input\": \"What is %d and %d? \", \"output\": \"It is %d", i, i * 7 % 13, i * i);
        for (int k = 0; k < (i == 100 ? 80 : i * 11 % 17); k++) fprintf(f, " then %d", (i + k) % 10);
        fprintf(f, ".\"}\n");
    }
    fclose(f);
    assert_int_equal(
        sh("%s init --config %s/config.json --tokenizer %s/examples/demo/tokenizer --output %s/base --seed 7 "
           ">%s/log 2>&1 && for cp in 1 3; do %s pack ++model.data.train_ds.file_names=[%s/rows.jsonl] "
           "++model.data.train_ds.max_seq_length=128 ++tokenizer_path=%s/base ++output_dir=%s/cp$cp "
           "++pack_sizes=[128] ++loss_mask=exact ++model.context_parallel_size=$cp >>%s/log 2>&1 || exit 1; done",
           NS_PROGRAM, dir, NS_SOURCE_DIR, dir, dir, NS_PROGRAM, dir, dir, dir, dir),
        0);
    /* packs whose borders are lost: one sequence each, as plain causal attention would have it */
    assert_int_equal(sh("mkdir %s/broken && cp %s/cp1/packed_128_seed0.* %s/broken", dir, dir, dir), 0);
    ns_npy a;
    snprintf(path, sizeof path, "%s/broken/packed_128_seed0.seq_start_id.npy", dir);
    assert_ns_ok(ns_npy_open(&a, path, &err), &err);
    int64_t rows = a.rows, cols = a.cols;
    ns_npy_close(&a);
    ns_file *out;
    assert_ns_ok(ns_file_create(&out, path, &err), &err);
    assert_ns_ok(ns_npy_write_header(out, "<i4", rows, cols, NULL, &err), &err);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < cols; k++) assert_ns_ok(ns_file_write(out, (int32_t[]){k ? -1 : 0}, 4, &err), &err);
    assert_ns_ok(ns_file_close(&out, &err), &err);
}

static void open_run(run *r, const char *data, int gbs)
{
    char words[4][400];
    const char *argv[11];
    ns_error err = NS_ERROR_INIT;
    memset(r, 0, sizeof *r);
    snprintf(words[0], sizeof words[0], "++model.restore_from_path=%s/base", dir);
    snprintf(words[1], sizeof words[1], "++model.data.train_ds.file_path=%s/%s", dir, data);
    snprintf(words[2], sizeof words[2], "++exp_manager.explicit_log_dir=%s/none", dir);
    snprintf(words[3], sizeof words[3], "++model.data.train_ds.global_batch_size=%d", gbs);
    for (int i = 0; i < 4; i++) argv[i] = words[i];
    argv[4] = "++model.data.train_ds.max_seq_length=128";
    argv[5] = "++trainer.precision=32";
    argv[6] = "++trainer.accelerator=cpu";
    argv[7] = "++max_duplicate_share=1";
    argv[8] = strstr(data, ".npy") ? "++model.data.train_ds.packed_sequence=True" : "++threads=1";
    argv[9] = "++threads=1";
    argv[10] = "++exp_manager.resume_if_exists=false";
    assert_ns_ok(ns_options_parse(&r->p, &verb, 11, argv, &err), &err);
    assert_ns_ok(ns_sft_open(&r->t, r->p.options, &err), &err);
    assert_ns_ok(ns_ranks_join(&r->t.ranks, "test", NULL, &err), &err);
    assert_ns_ok(ns_engine_start(&r->t.engine, &err), &err);
    assert_ns_ok(ns_sft_load_weights(&r->t, &err), &err);
    int n = r->t.engine.table.n_params;
    assert_ns_ok(ns_alloc((void **)&r->grad, (size_t)n * sizeof *r->grad, "test", &err), &err);
    for (int i = 0; i < n; i++) {
        const ns_weight *w = &r->t.engine.model.w[i];
        assert_ns_ok(ns_alloc((void **)&r->grad[i], (size_t)(w->rows * w->cols) * sizeof(float), "test", &err), &err);
    }
}

static void close_run(run *r)
{
    for (int i = 0; i < r->t.engine.table.n_params; i++) ns_free(r->grad[i]);
    ns_free(r->grad);
    ns_sft_close(&r->t);
    ns_parsed_free(&r->p);
}

static void begin(run *r, double targets)
{
    ns_step s = {.weight_sum = targets};
    ns_model_put_step(&r->t.engine.model, &r->t.engine.exec, &s);
    ns_model_zero_grad(&r->t.engine.model, &r->t.engine.exec);
}

static void pass(run *r)
{
    ns_model *m = &r->t.engine.model;
    ns_exec *x = &r->t.engine.exec;
    ns_model_set_batch(m, x, &r->t.batch);
    ns_model_forward(m, x, 0);
    ns_model_loss(m, x, NULL, 1);
    ns_model_backward(m, x, 0);
}

static void end(run *r, double targets)
{
    ns_step s;
    ns_model_get_step(&r->t.engine.model, &r->t.engine.exec, &s);
    r->loss = s.loss_sum / targets;
    for (int i = 0; i < r->t.engine.table.n_params; i++) {
        const ns_weight *w = &r->t.engine.model.w[i];
        memcpy(r->grad[i], w->grad, (size_t)(w->rows * w->cols) * sizeof(float));
    }
}

/* The samples one by one, each a micro-batch of its own. Sequences of packs are found by their tokens' order in the file. */
static void one_by_one(run *r, const int64_t *rows, int64_t n)
{
    ns_error err = NS_ERROR_INIT;
    double targets = ns_examples_targets(&r->t.rows, rows, n);
    begin(r, targets);
    for (int64_t i = 0; i < n; i++) {
        assert_ns_ok(ns_batch_fill(&r->t.batch, &r->t.rows, &rows[i], 1, &err), &err);
        pass(r);
    }
    end(r, targets);
}

typedef void (*breaker)(ns_batch *b);

static void by_packs(run *r, const int64_t *index, int64_t n, breaker damage)
{
    ns_error err = NS_ERROR_INIT;
    ns_mb_split *s = &r->t.split;
    ns_split_packs(s, &r->t.packs, index, n);
    double targets = ns_examples_targets(&r->t.rows, s->rows, s->start[s->n_micro]);
    begin(r, targets);
    for (int64_t k = 0; k < s->n_micro; k++) {
        assert_ns_ok(ns_batch_fill(&r->t.batch, &r->t.rows, s->rows + s->start[k], s->start[k + 1] - s->start[k], &err),
                     &err);
        if (damage) damage(&r->t.batch);
        pass(r);
    }
    end(r, targets);
}

/* Largest difference of a parameter's gradient, of its norm; the loss is compared, too. */
static int equal(const ns_param_table *t, float *const *a, double loss_a, float *const *b, double loss_b)
{
    worst = fabs(loss_a - loss_b) / fabs(loss_a);
    for (int i = 0; i < t->n_params; i++) {
        double d = 0, n = 0;
        for (int64_t k = 0; k < t->params[i].rows * t->params[i].cols; k++) {
            double e = (double)a[i][k] - (double)b[i][k];
            d += e * e, n += (double)a[i][k] * (double)a[i][k];
        }
        assert_true(n > 0);
        d = sqrt(d / n);
        if (!(d <= worst)) worst = d;
    }
    return worst <= TOLERANCE;
}

static void attend_across(ns_batch *b)
{
    b->n_seg = 1;
    for (int32_t s = 1; s <= b->S_cap; s++) b->cu_seqlens[s] = b->n_tok;
    b->max_len = b->n_tok;
}

/* Rotary attention sees differences of positions alone: within a sequence these stay, and nothing may change. */
static void run_on(ns_batch *b)
{
    for (int32_t i = 0; i < b->n_tok; i++) b->position[i] = i;
    b->max_len = b->n_tok;
}

static void restart_late(ns_batch *b)
{
    for (int32_t i = b->n_tok - 1; i >= 3; i--) b->position[i] = b->position[i - 3];
}

static void train_border(ns_batch *b)
{
    for (int32_t s = 0; s + 1 < b->n_seg; s++) {
        int32_t last = b->cu_seqlens[s + 1] - 1;
        b->label[last] = b->ids[last + 1]; /* instead of the sequence's own last token */
    }
}

static void packs_on_one_rank(void **state)
{
    (void)state;
    int64_t index[512], rows[512];
    run packs, padded, jsonl;
    open_run(&packs, "cp1/packed_128_seed0.npy", 2);
    int64_t n = packs.t.packs.packs.n;
    assert_int_equal(packs.t.engine.opt.max_len, 128);
    assert_true(n > 20 && n < 512 && packs.t.packs.samples == 220);
    for (int64_t i = 0; i < 512; i++) index[i] = i < n ? i : -1, rows[i] = i;
    close_run(&packs);
    open_run(&packs, "cp1/packed_128_seed0.npy", (int)n);
    open_run(&jsonl, "rows.jsonl", 220);
    one_by_one(&jsonl, rows, 220);
    one_by_one(&packs, rows, 220); /* the same sequences, from the files */
    assert_true(equal(&jsonl.t.engine.table, jsonl.grad, jsonl.loss, packs.grad, packs.loss));
    print_message("# rows and sequences of packs, one by one: within %.1e\n", worst);
    by_packs(&packs, index, n, NULL);
    assert_true(equal(&jsonl.t.engine.table, jsonl.grad, jsonl.loss, packs.grad, packs.loss));
    print_message("# packs: within %.1e, loss %.6f\n", worst, packs.loss);
    const struct {
        const char *name;
        breaker damage;
    } broken[] = {{"attention across borders", attend_across},
                  {"positions that restart three tokens late", restart_late},
                  {"loss over a border", train_border}};
    for (size_t k = 0; k < sizeof broken / sizeof *broken; k++) {
        by_packs(&packs, index, n, broken[k].damage);
        assert_false(equal(&jsonl.t.engine.table, jsonl.grad, jsonl.loss, packs.grad, packs.loss));
        print_message("# %s: %.1e off\n", broken[k].name, worst);
        assert_true(worst > 100 * TOLERANCE);
    }
    by_packs(&packs, index, n, run_on);
    assert_true(equal(&jsonl.t.engine.table, jsonl.grad, jsonl.loss, packs.grad, packs.loss));
    close_run(&packs);
    /* padded for context parallel: the padding is not computed, and nothing changes */
    open_run(&padded, "cp3/packed_128_seed0.npy", 2);
    int64_t m = padded.t.packs.packs.n;
    assert_true(padded.t.packs.stored > padded.t.packs.tokens && padded.t.packs.tokens == jsonl.t.rows.n_ids - 220);
    for (int64_t i = 0; i < 512; i++) index[i] = i < m ? i : -1;
    close_run(&padded);
    open_run(&padded, "cp3/packed_128_seed0.npy", (int)m);
    by_packs(&padded, index, m, NULL);
    assert_true(equal(&jsonl.t.engine.table, jsonl.grad, jsonl.loss, padded.grad, padded.loss));
    close_run(&padded);
    close_run(&jsonl);
}

static ns_status take_moment(void *user, int param, const float *main, const float *m, const float *v, ns_error *err)
{
    run *r = user;
    (void)main, (void)v, (void)err;
    const ns_param *p = &r->t.engine.table.params[param];
    for (int64_t k = 0; k < p->rows * p->cols; k++) r->grad[param][k] = m[k] / (float)(1 - BETA1);
    return NS_OK;
}

/* One step of the program; its gradient and loss into r. */
static void train_once(run *r, const char *data, int gbs, int tp, int cp, int dp, int pp)
{
    char path[4096];
    ns_error err = NS_ERROR_INIT;
    int rc =
        sh("rm -rf %s/out; NS_THREADS=1 %s sft ++model.restore_from_path=%s/base ++model.data.train_ds.file_path=%s/%s "
           "++exp_manager.explicit_log_dir=%s/out ++model.data.train_ds.global_batch_size=%d.0 "
           "++model.data.train_ds.micro_batch_size=1 ++model.data.train_ds.max_seq_length=160 "
           "++model.data.train_ds.packed_sequence=True ++trainer.sft.max_steps=1 ++trainer.precision=32 "
           "++model.tensor_model_parallel_size=%d ++model.context_parallel_size=%d ++trainer.devices=%d "
           "++model.pipeline_model_parallel_size=%d ++trainer.accelerator=cpu >%s/sft.log 2>&1",
           dir, NS_PROGRAM, dir, dir, data, dir, gbs, tp, cp, tp * cp * dp * pp, pp, dir);
    if (rc) sh("tail -5 %s/sft.log >&2", dir);
    assert_int_equal(rc, 0);
    snprintf(path, sizeof path, "%s/out/metrics.jsonl", dir);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "{\"step\": 1, \"loss\": %lf", &r->loss), 1);
    fclose(f);
    snprintf(path, sizeof path, "%s/out/checkpoints", dir);
    char last[4096] = "";
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, path, &err), &err);
    assert_ns_ok(ns_ckpt_load(last, &r->t.engine.table, take_moment, r, NULL, &err), &err);
}

static void packs_on_every_layout(void **state)
{
    (void)state;
    static const int layout[][4] = {{1, 1, 1, 1}, {1, 1, 2, 1}, {2, 1, 1, 1}, {1, 2, 1, 1},
                                    {2, 2, 1, 1}, {1, 3, 1, 1}, {1, 1, 1, 2}, {2, 1, 1, 2}};
    ns_error err = NS_ERROR_INIT;
    int64_t index[512], rows[8192], n_rows = 0;
    run one, got;
    open_run(&one, "cp1/packed_128_seed0.npy", 2);
    int gbs = (int)(one.t.packs.packs.n / 2 * 2);
    close_run(&one);
    open_run(&one, "cp1/packed_128_seed0.npy", gbs);
    open_run(&got, "cp1/packed_128_seed0.npy", gbs);
    assert_ns_ok(ns_sampler_batch(&one.t.sampler, 0, index, &err), &err);
    ns_split_packs(&one.t.split, &one.t.packs, index, gbs);
    n_rows = one.t.split.start[one.t.split.n_micro];
    memcpy(rows, one.t.split.rows, (size_t)n_rows * sizeof *rows);
    one_by_one(&one, rows, n_rows);
    for (size_t k = 0; k < sizeof layout / sizeof *layout; k++) {
        const int *l = layout[k];
        train_once(&got, "cp1/packed_128_seed0.npy", gbs, l[0], l[1], l[2], l[3]);
        int good = equal(&one.t.engine.table, one.grad, one.loss, got.grad, got.loss);
        print_message("# tensor %d context %d data %d pipeline %d: within %.1e of one by one\n", l[0], l[1], l[2], l[3],
                      worst);
        assert_true(good);
        train_once(&got, "broken/packed_128_seed0.npy", gbs, l[0], l[1], l[2], l[3]);
        assert_false(equal(&one.t.engine.table, one.grad, one.loss, got.grad, got.loss));
        assert_true(worst > 100 * TOLERANCE);
    }
    close_run(&one);
    close_run(&got);
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(packs_on_one_rank), cmocka_unit_test(packs_on_every_layout)};
    setup_files();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
