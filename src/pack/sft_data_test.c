/* Sampler order against the reference's recorded batches and against laws over all tiny cases; micro-batch filling
 * against a token-by-token restatement of the batch contract. */
#include "pack/sft_data.h"

#include "base/json.h"
#include "base/rng.h"
#include "base/testing.h"

static void sampler_golden(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    char path[4200];
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_json *cases;
    snprintf(path, sizeof path, "%s/sft/golden_sampler.json", ns_test_data());
    assert_ns_ok(ns_json_read_file(&cases, &a, path, &err), &err);
    int n_checked = 0;
    for (size_t c = 0; c < cases->n; c++) {
        const ns_json *k = &cases->items[c];
        int64_t v[7];
        const char *names[] = {"total", "mbs", "gbs", "dp", "rank", "consumed", "seed"};
        for (int i = 0; i < 7; i++) assert_true(ns_json_is_int(ns_json_get(k, names[i]), &v[i]));
        int64_t total = v[0], mbs = v[1], gbs = v[2], dp = v[3], rank = v[4], consumed = v[5];
        int random = ns_str_eq(ns_json_get(k, "kind")->s, "random");
        ns_sampler s;
        int64_t out[64];
        assert_ns_ok(ns_sampler_init(&s, random ? NS_SAMPLER_MEGATRON : NS_SAMPLER_SEQUENTIAL, total, gbs, mbs, dp,
                                     (uint64_t)v[6], &err),
                     &err);
        const ns_json *batches = ns_json_get(k, "batches");
        assert_true(batches->n > 0);
        for (size_t b = 0; b < batches->n; b++, consumed += gbs) {
            assert_ns_ok(ns_sampler_batch(&s, consumed, out, &err), &err);
            assert_int_equal(batches->items[b].n, gbs / dp);
            for (size_t i = 0; i < batches->items[b].n; i++, n_checked++) {
                int64_t want;
                assert_true(ns_json_is_int(&batches->items[b].items[i], &want));
                if (random)
                    assert_int_equal(out[rank * (gbs / dp) + (int64_t)i], want);
                else
                    assert_int_equal(out[rank + (int64_t)i * dp], want);
            }
        }
        ns_sampler_free(&s);
    }
    assert_true(n_checked > 100);
    ns_arena_free(&a);
}

/* All n_rows <= 12, gbs <= n_rows, mbs*dp | gbs: an epoch shows distinct rows; global does not depend on the layout and
 * equals megatron at dp = 1, mbs = 1; random access (resume) equals running through. */
static void sampler_laws(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    int64_t n_cases = 0;
    for (int64_t n = 1; n <= 12; n++)
        for (int64_t gbs = 1; gbs <= n; gbs++)
            for (int64_t mbs = 1; mbs <= gbs; mbs++)
                for (int64_t dp = 1; dp * mbs <= gbs; dp++) {
                    if (gbs % (mbs * dp)) continue;
                    n_cases++;
                    for (int kind = NS_SAMPLER_GLOBAL; kind <= NS_SAMPLER_MEGATRON; kind++) {
                        ns_sampler s, base, fresh;
                        int64_t out[16], want[16], again[16];
                        assert_ns_ok(ns_sampler_init(&s, (ns_sampler_kind)kind, n, gbs, mbs, dp, 7, &err), &err);
                        assert_ns_ok(ns_sampler_init(&base, NS_SAMPLER_MEGATRON, n, gbs, 1, 1, 7, &err), &err);
                        int64_t steps = n / gbs;
                        for (int64_t epoch = 0; epoch < 3; epoch++) {
                            int seen[16] = {0};
                            for (int64_t k = 0; k < steps; k++) {
                                int64_t consumed = (epoch * steps + k) * gbs;
                                assert_ns_ok(ns_sampler_batch(&s, consumed, out, &err), &err);
                                for (int64_t i = 0; i < gbs; i++) {
                                    assert_in_range(out[i], 0, n - 1);
                                    assert_int_equal(seen[out[i]]++, 0);
                                    int64_t bucket = n / (mbs * dp) * mbs, rank = i / (gbs / dp);
                                    if (kind == NS_SAMPLER_MEGATRON) assert_int_equal(out[i] / bucket, rank);
                                }
                                if (kind == NS_SAMPLER_GLOBAL) {
                                    assert_ns_ok(ns_sampler_batch(&base, consumed, want, &err), &err);
                                    assert_memory_equal(out, want, (size_t)gbs * sizeof *out);
                                }
                                assert_ns_ok(ns_sampler_init(&fresh, (ns_sampler_kind)kind, n, gbs, mbs, dp, 7, &err),
                                             &err);
                                assert_ns_ok(ns_sampler_batch(&fresh, consumed, again, &err), &err);
                                assert_memory_equal(out, again, (size_t)gbs * sizeof *out);
                                ns_sampler_free(&fresh);
                            }
                        }
                        ns_sampler_free(&s);
                        ns_sampler_free(&base);
                    }
                }
    assert_true(n_cases > 200);
}

static void sampler_seed_plus_epoch(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_sampler s;
    int64_t out[4], perm[10];
    assert_ns_ok(ns_sampler_init(&s, NS_SAMPLER_GLOBAL, 10, 4, 2, 2, 1234, &err), &err);
    assert_ns_ok(ns_sampler_batch(&s, 8 * 3 + 4, out, &err), &err); /* 8 active rows an epoch: epoch 3, offset 4 */
    ns_mt g;
    ns_mt_seed(&g, 1237);
    ns_randperm_torch(&g, perm, 10);
    assert_memory_equal(out, perm + 4, sizeof out);
    ns_sampler_free(&s);
}

static void sampler_sequential(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_sampler s;
    int64_t out[4];
    assert_ns_ok(ns_sampler_init(&s, NS_SAMPLER_SEQUENTIAL, 6, 4, 1, 2, 1, &err), &err);
    const int64_t want[2][4] = {{0, 1, 2, 3}, {4, 5, -1, -1}};
    for (int64_t k = 0; k < 2; k++) {
        assert_ns_ok(ns_sampler_batch(&s, 4 * k, out, &err), &err);
        assert_memory_equal(out, want[k], sizeof out);
    }
    ns_sampler_free(&s);
    /* a validation set smaller than its batch is fine */
    assert_ns_ok(ns_sampler_init(&s, NS_SAMPLER_SEQUENTIAL, 2, 4, 1, 1, 1, &err), &err);
    assert_ns_ok(ns_sampler_batch(&s, 0, out, &err), &err);
    assert_int_equal(out[2], -1);
    ns_sampler_free(&s);
}

static void sampler_errors(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_sampler s;
    int64_t out[64];
    assert_ns_fails(ns_sampler_init(&s, NS_SAMPLER_GLOBAL, 31, 32, 1, 1, 1, &err), NS_ERR_INPUT,
                    "data set smaller than one global batch: 31 rows, global batch size 32", &err);
    assert_ns_fails(ns_sampler_init(&s, NS_SAMPLER_GLOBAL, 0, 1, 1, 1, 1, &err), NS_ERR_INPUT, "no rows", &err);
    assert_ns_fails(ns_sampler_init(&s, NS_SAMPLER_GLOBAL, 100, 30, 4, 2, 1, &err), NS_ERR_CONFIG,
                    "global batch size 30 is not divisible by micro batch size 4 x data parallel size 2 = 8: nearest "
                    "valid global batch sizes are 24 and 32",
                    &err);
    assert_ns_fails(ns_sampler_init(&s, NS_SAMPLER_GLOBAL, 100, 3, 4, 2, 1, &err), NS_ERR_CONFIG,
                    "nearest valid global batch size is 8", &err);
    assert_ns_fails(ns_sampler_init(&s, NS_SAMPLER_GLOBAL, 100, 8, 0, 2, 1, &err), NS_ERR_CONFIG, "at least 1", &err);
    assert_ns_fails(ns_sampler_init(&s, NS_SAMPLER_GLOBAL, 100, 8, INT64_MAX, 2, 1, &err), NS_ERR_CONFIG, "range",
                    &err);
    assert_ns_ok(ns_sampler_init(&s, NS_SAMPLER_GLOBAL, 100, 32, 2, 2, 1, &err), &err);
    assert_ns_fails(ns_sampler_batch(&s, 80, out, &err), NS_ERR_MISMATCH, "another global batch size", &err);
    assert_ns_fails(ns_sampler_batch(&s, -1, out, &err), NS_ERR_INPUT, "negative", &err);
    ns_sampler_free(&s);
    assert_ns_ok(ns_sampler_init(&s, NS_SAMPLER_MEGATRON, 100, 32, 2, 2, 1, &err), &err);
    assert_ns_fails(ns_sampler_batch(&s, 18, out, &err), NS_ERR_MISMATCH, "sampler=megatron", &err);
    ns_sampler_free(&s);
}

/* ---- micro-batches ---- */
static int32_t toy_ids[] = {10, 11, 12, 13, 20, 30, 31, 40, 41, 42, 43, 44};
static int64_t toy_start[] = {0, 4, 5, 7, 7, 12}; /* lengths 4 1 2 0 5 */
static int32_t toy_answer[] = {2, 0, 1, 0, 5};    /* row 4 has no target at all */
static ns_examples toy(void)
{
    ns_examples ex = {.n = 5, .start = toy_start, .ids = toy_ids, .answer_start = toy_answer, .longest = 5};
    return ex;
}

static void batch_fill(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_examples ex = toy();
    ns_batch b;
    int32_t T, S;
    ns_batch_capacity(&ex, 5, 8, &T, &S);
    assert_int_equal(T, 24);
    assert_int_equal(S, 5);
    assert_ns_ok(ns_batch_new(&b, T, S, &err), &err);
    memset(b.ids, 0x55, sizeof *b.ids * 24); /* stale content must go */
    memset(b.weight, 0x55, sizeof *b.weight * 24);
    const int64_t rows[] = {4, -1, 0, 1, 2};
    assert_ns_ok(ns_batch_fill(&b, &ex, rows, 5, &err), &err);
    const int32_t ids[] = {40, 41, 42, 43, 10, 11, 12, 30}, label[] = {-1, -1, -1, -1, -1, 12, 13, 31};
    const int32_t pos[] = {0, 1, 2, 3, 0, 1, 2, 0}, cu[] = {0, 4, 7, 8, 8, 8}, last[] = {3, 6, 7, 0, 0};
    const int64_t example[] = {4, 0, 2, -1, -1};
    assert_int_equal(b.n_tok, 8);
    assert_int_equal(b.n_seg, 3);
    assert_int_equal(b.max_len, 4);
    for (int t = 0; t < 24; t++) {
        assert_int_equal(b.ids[t], t < 8 ? ids[t] : 0);
        assert_int_equal(b.label[t], t < 8 ? label[t] : -1);
        assert_int_equal(b.position[t], t < 8 ? pos[t] : 0);
        assert_true(b.weight[t] == (t < 8 && label[t] >= 0 ? 1.0f : 0.0f));
    }
    assert_memory_equal(b.cu_seqlens, cu, sizeof cu);
    assert_memory_equal(b.example, example, sizeof example);
    assert_memory_equal(b.last, last, sizeof last);
    assert_true(b.weight_sum == 3.0);
    assert_true(ns_examples_targets(&ex, rows, 5) == 3.0);
    /* refilling with less leaves nothing behind */
    const int64_t one[] = {2};
    assert_ns_ok(ns_batch_fill(&b, &ex, one, 1, &err), &err);
    assert_int_equal(b.n_tok, 1);
    for (int t = 1; t < 24; t++) assert_true(b.weight[t] == 0.0f && b.label[t] == -1 && b.ids[t] == 0);
    for (int s = 1; s <= 5; s++) assert_int_equal(b.cu_seqlens[s], 1);
    ns_batch_free(&b);
}

static void batch_mask(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_examples ex = toy();
    uint8_t mask[] = {1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0};
    ex.mask = mask;
    ns_batch b;
    assert_ns_ok(ns_batch_new(&b, 16, 5, &err), &err);
    const int64_t rows[] = {0, 1, 2, 3, 4};
    assert_ns_ok(ns_batch_fill(&b, &ex, rows, 5, &err), &err);
    const int32_t label[] = {-1, 12, -1, 31, -1, 42, 43, -1}; /* id 0 of a row never is a target: nothing predicts it */
    assert_int_equal(b.n_tok, 8);
    assert_memory_equal(b.label, label, sizeof label);
    assert_true(b.weight_sum == 4.0 && ns_examples_targets(&ex, rows, 5) == 4.0);
    ns_batch_free(&b);
}

static void batch_errors(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_examples ex = toy();
    ns_batch b;
    assert_ns_fails(ns_batch_new(&b, 0, 1, &err), NS_ERR_CONFIG, "0 tokens", &err);
    assert_ns_ok(ns_batch_new(&b, 6, 2, &err), &err);
    const int64_t many[] = {0, 2, 2}, longer[] = {4, 0}, outside[] = {5};
    assert_ns_fails(ns_batch_fill(&b, &ex, many, 3, &err), NS_ERR_INTERNAL, "capacity 2 segments", &err);
    assert_ns_fails(ns_batch_fill(&b, &ex, longer, 2, &err), NS_ERR_INTERNAL, "capacity 6 tokens", &err);
    assert_ns_fails(ns_batch_fill(&b, &ex, outside, 1, &err), NS_ERR_INTERNAL, "row 5", &err);
    ns_batch_free(&b);
    for (uint64_t k = 1; k <= 11; k++) { /* every allocation may fail, nothing leaks or is left set */
        ns_mem_stats before = ns_mem_get_stats();
        ns_mem_fail_at(k, 0);
        assert_ns_fails(ns_batch_new(&b, 6, 2, &err), NS_ERR_MEMORY, "batch", &err);
        assert_true(ns_mem_fault_hit());
        ns_mem_fail_at(0, 0);
        assert_null(b.ids);
        assert_int_equal(ns_mem_get_stats().bytes_now, before.bytes_now);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sampler_golden),
        cmocka_unit_test(sampler_laws),
        cmocka_unit_test(sampler_seed_plus_epoch),
        cmocka_unit_test(sampler_sequential),
        cmocka_unit_test(sampler_errors),
        cmocka_unit_test(batch_fill),
        cmocka_unit_test(batch_mask),
        cmocka_unit_test(batch_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
