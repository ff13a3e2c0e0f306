/* Packs read for training: the original's collated batches, what is left out, packs made in memory, and broken files. */
#include "pack/packed.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/testing.h"
#include "pack/pack_files.h"
#include "pack/packs.h"

static char dir[256];
static ns_tok *tok;

static void quiet(ns_log_level level, const char *line, void *user)
{
    (void)level, (void)line, (void)user;
}

static int64_t number(const ns_json *v, size_t i, size_t j)
{
    int64_t x;
    assert_true(v && i < v->n && j < v->items[i].n && ns_json_is_int(&v->items[i].items[j], &x));
    return x;
}

/* Pack `i` as we train it against row i of the original's batch: equal up to the last trained position of each sequence. */
static void compare_pack(const ns_examples *ex, const ns_packed *p, int64_t i, const ns_json *want, int padded)
{
    ns_error err = NS_ERROR_INIT;
    ns_batch b;
    ns_mb_split s;
    const ns_json *tokens = ns_json_get(want, "tokens"), *labels = ns_json_get(want, "labels"),
                  *mask = ns_json_get(want, "loss_mask"), *position = ns_json_get(want, "position_ids"),
                  *cu = ns_json_get(want, "cu_seqlens"), *real = ns_json_get(want, "cu_seqlens_unpadded");
    size_t row = (size_t)i;
    assert_ns_ok(ns_split_new(&s, p->most, &err), &err);
    ns_split_packs(&s, p, (const int64_t[]){i, -1}, 2);
    assert_int_equal(s.n_micro, 1);
    assert_ns_ok(ns_batch_new(&b, (int32_t)p->longest, (int32_t)p->most, &err), &err);
    assert_ns_ok(ns_batch_fill(&b, ex, s.rows, s.start[1], &err), &err);
    double targets = 0;
    for (size_t k = 0; k < mask->items[row].n; k++) targets += (double)number(mask, row, k);
    assert_true(targets > 0 && targets == b.weight_sum && targets == ns_examples_targets(ex, s.rows, s.start[1]));
    int n_padded = 0;
    for (int32_t q = 0; q < b.n_seg; q++) {
        int32_t from = b.cu_seqlens[q], n = b.cu_seqlens[q + 1] - from;
        int64_t at = number(cu, row, (size_t)q), full = number(cu, row, (size_t)q + 1) - at;
        int64_t unpadded = number(real, row, (size_t)q + 1) - number(real, row, (size_t)q), need = 0;
        while (need < full && number(tokens, row, (size_t)(at + need)) != 128001) need++;
        /* the first EOS of the padding is a label, and no input is needed behind the one that predicts it */
        assert_int_equal(n, need);
        assert_int_equal(unpadded, need < full ? need + 1 : full);
        n_padded += n < full;
        for (int64_t k = 0; k < full; k++) {
            size_t c = (size_t)(at + k);
            if (k >= n) {
                assert_int_equal(number(mask, row, c), 0);
                continue;
            }
            int32_t t = from + (int32_t)k;
            assert_int_equal(number(tokens, row, c), b.ids[t]);
            assert_int_equal(number(position, row, c), b.position[t]);
            assert_int_equal(number(mask, row, c), b.weight[t] == 1.0f);
            assert_int_equal(b.label[t], number(mask, row, c) ? number(labels, row, c) : -1);
        }
    }
    assert_true(padded == (n_padded > 0));
    ns_batch_free(&b);
    ns_split_free(&s);
}

static void load_rows(ns_examples *rows)
{
    ns_error err = NS_ERROR_INIT;
    char path[4200];
    ns_rows_options o = NS_ROWS_OPTIONS_DEFAULT;
    o.max_seq_length = 512;
    o.eos_id = 128001;
    snprintf(path, sizeof path, "%s/sft/gsm8k_400_llama3-instruct.jsonl", ns_test_data());
    assert_ns_ok(ns_rows_load(rows, path, tok, &o, NULL, &err), &err);
}

static void recorded_batches(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_json *cases;
    ns_examples rows;
    char path[4200];
    snprintf(path, sizeof path, "%s/sft/golden_packing.json", ns_test_data());
    assert_ns_ok(ns_json_read_file(&cases, &a, path, &err), &err);
    load_rows(&rows);
    int n = 0;
    for (size_t c = 0; c < cases->n; c++) {
        const ns_json *k = &cases->items[c], *batch = ns_json_get(k, "collated_rows_0_1");
        int64_t cp;
        assert_true(ns_json_is_int(ns_json_get(k, "cp"), &cp));
        ns_pack_options o = {
            .size = 1024, .chunk = 100000, .max_seq_length = 512, .cp = cp, .eos = 128001, .tokenizer = "x"};
        char name[24];
        const ns_json *how = ns_json_get(k, "algorithm");
        snprintf(name, sizeof name, "%.*s", (int)how->s.n, how->s.p);
        assert_true(ns_pack_algorithm_parse(&o.how, name));
        ns_pack_set set = {&rows, 1, NULL};
        ns_pack_sum sum;
        ns_examples ex;
        ns_packed p;
        ns_packed_want w = {.max_seq_length = 1024, .vocab = 128256};
        snprintf(path, sizeof path, "%s/packed_1024_seed0", dir);
        assert_ns_ok(ns_packs_write(&set, path, &o, &sum, &err), &err);
        snprintf(path, sizeof path, "%s/packed_1024_seed0.npy", dir);
        if (cp == 2 && o.how == NS_PACK_FIRST_FIT_SHUFFLE) /* the original's own files */
            snprintf(path, sizeof path, "%s/sft/packed_example/packed_1024_seed0.npy", ns_test_data());
        assert_ns_ok(ns_packed_read(&ex, &p, path, &w, NULL, &err), &err);
        assert_int_equal(p.samples, 400);
        assert_int_equal(p.packs.n, sum.packs);
        for (int64_t i = 0; batch && i < 2; i++, n++) compare_pack(&ex, &p, i, batch, cp > 1);
        int64_t targets = 0, ids = 0;
        for (int64_t e = 0; e < ex.n; e++) targets += ex.targets[e], ids += ex.len[e];
        assert_int_equal(targets, ex.n_targets);
        assert_int_equal(ids, ex.n_ids);
        ns_examples_free(&ex);
        ns_packed_free(&p);
    }
    assert_true(n >= 4);
    ns_examples_free(&rows);
    ns_arena_free(&a);
}

/* Packs in memory hold the sequences that ns pack writes, in the same packs and order. */
static void made_in_memory(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_error err = NS_ERROR_INIT;
    ns_examples rows, ex;
    ns_packed made, read;
    char path[4200], hash[17];
    load_rows(&rows);
    for (int how = 0; how < 3; how++)
        for (int64_t chunk = 130; chunk < 1000; chunk *= 4) {
            ns_pack_options o = {.size = 700,
                                 .how = (ns_pack_algorithm)how,
                                 .seed = 5,
                                 .chunk = chunk,
                                 .max_seq_length = 512,
                                 .cp = 1,
                                 .eos = 128001,
                                 .exact_mask = 1,
                                 .tokenizer = "x"};
            ns_pack_set set = {&rows, 1, NULL};
            ns_pack_sum sum;
            ns_packed_want w = {.max_seq_length = 700, .vocab = 128256};
            snprintf(path, sizeof path, "%s/packs", dir);
            assert_ns_ok(ns_packs_write(&set, path, &o, &sum, &err), &err);
            snprintf(path, sizeof path, "%s/packs.npy", dir);
            assert_ns_ok(ns_packed_read(&ex, &read, path, &w, NULL, &err), &err);
            snprintf(hash, sizeof hash, "%s", rows.hash);
            assert_ns_ok(ns_packed_make(&made, &rows, 700, o.how, 5, chunk, &err), &err);
            assert_string_not_equal(hash, rows.hash); /* other packs are other data */
            assert_int_equal(made.packs.n, read.packs.n);
            assert_int_equal(made.most, read.most);
            assert_int_equal(made.tokens, read.tokens);
            for (int64_t i = 0; i <= made.packs.n; i++) assert_int_equal(made.packs.start[i], read.packs.start[i]);
            for (int64_t k = 0; k < made.samples; k++) {
                int64_t e = made.packs.item[k];
                assert_int_equal(ns_examples_len(&rows, e), ex.len[k]);
                assert_memory_equal(rows.ids + rows.start[e], ex.ids + ex.start[k], (size_t)ex.len[k] * 4);
            }
            ns_examples_free(&ex);
            ns_packed_free(&read);
            ns_packed_free(&made);
        }
    ns_examples_free(&rows);
}

/* One global batch of examples: each once, no pack over the size, the same for the same seed. */
static void packs_of_a_step(void **state)
{
    (void)state;
    enum { N = 200 };
    ns_error err = NS_ERROR_INIT;
    static int64_t start[N + 1], index[N + 1];
    ns_examples ex = {.n = N, .start = start};
    ns_mb_split a, b;
    int64_t most;
    for (int64_t i = 0; i < N; i++)
        start[i + 1] = start[i] + i * 37 % 90, index[i] = N - 1 - i; /* some have no token */
    index[N] = -1;
    assert_ns_ok(ns_packed_most(&most, &ex, 100, &err), &err);
    assert_ns_ok(ns_split_new(&a, N + 1, &err), &err);
    assert_ns_ok(ns_split_new(&b, N + 1, &err), &err);
    for (int how = 0; how < 3; how++) {
        int seen[N] = {0}, differ = 0;
        assert_ns_ok(ns_split_into_packs(&a, &ex, index, N + 1, 100, (ns_pack_algorithm)how, 3, &err), &err);
        for (int64_t k = 0; k < a.n_micro; k++) {
            int64_t sum = 0;
            for (int64_t j = a.start[k]; j < a.start[k + 1]; j++)
                sum += ns_examples_len(&ex, a.rows[j]) - 1, seen[a.rows[j]]++;
            assert_in_range(sum, 1, 100);
            assert_true(a.start[k + 1] - a.start[k] <= most);
        }
        for (int i = 0; i < N; i++) assert_int_equal(seen[i], ns_examples_len(&ex, i) > 1);
        assert_ns_ok(ns_split_into_packs(&b, &ex, index, N + 1, 100, (ns_pack_algorithm)how, 3, &err), &err);
        assert_int_equal(a.n_micro, b.n_micro);
        assert_memory_equal(a.rows, b.rows, (size_t)a.start[a.n_micro] * 8);
        assert_ns_ok(ns_split_into_packs(&b, &ex, index, N + 1, 100, (ns_pack_algorithm)how, 4, &err), &err);
        for (int64_t j = 0; j < a.start[a.n_micro]; j++) differ |= a.rows[j] != b.rows[j];
        assert_int_equal(differ, how != NS_PACK_BEST_FIT); /* which draws nothing */
    }
    ns_split_free(&a);
    ns_split_free(&b);
}

enum { COLS = 8, SEQ = 3 };
static const int32_t good_ids[2][COLS] = {{5, 6, 7, 8, 9, 1, 2, 3}, {4, 4, 4, -1, -1, -1, -1, -1}};
static const uint8_t good_mask[2][COLS] = {{0, 1, 1, 0, 1, 0, 0, 1}, {1, 1, 0, 1, 1, 1, 1, 1}};
static const int32_t good_start[2][SEQ] = {{0, 3, 5}, {0, -1, -1}};

static void write_array(const char *suffix, const char *descr, int64_t rows, int64_t cols, const void *data,
                        size_t item)
{
    ns_error err = NS_ERROR_INIT;
    char path[400];
    ns_file *f;
    snprintf(path, sizeof path, "%s/bad.%s.npy", dir, suffix);
    assert_ns_ok(ns_file_create(&f, path, &err), &err);
    assert_ns_ok(ns_npy_write_header(f, descr, rows, cols, NULL, &err), &err);
    assert_ns_ok(ns_file_write(f, data, (size_t)(rows * cols) * item, &err), &err);
    assert_ns_ok(ns_file_close(&f, &err), &err);
}

static void write_good(void)
{
    write_array("input_ids", "<i4", 2, COLS, good_ids, 4);
    write_array("loss_mask", "|b1", 2, COLS, good_mask, 1);
    write_array("seq_start_id", "<i4", 2, SEQ, good_start, 4);
}

static void broken_files(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_examples ex;
    ns_packed p;
    ns_packed_want w = {.max_seq_length = 8, .vocab = 10};
    char name[400], path[400];
    int32_t ids[2][COLS], start[2][SEQ];
    snprintf(name, sizeof name, "%s/bad.npy", dir);
#define READ() ns_packed_read(&ex, &p, name, &w, NULL, &err)
    assert_ns_fails(READ(), NS_ERR_INPUT, "no packs: expected", &err);
    write_good();
    assert_ns_ok(READ(), &err);
    /* sequence 0 of pack 0: inputs 5 6, trained both but the first; 1: input 8 not trained: left out; 2: 1 2, none */
    assert_int_equal(p.samples, 4);
    const int32_t want_len[] = {3, 0, 0, 3}, want_targets[] = {1, 0, 0, 2};
    for (int e = 0; e < 4; e++) {
        assert_int_equal(ex.len[e], want_len[e]);
        assert_int_equal(ex.targets[e], want_targets[e]);
    }
    assert_int_equal(ex.n_all_masked, 2);
    assert_int_equal(p.stored, 5 + 2);
    assert_int_equal(p.tokens, 2 + 2);
    ns_examples_free(&ex);
    ns_packed_free(&p);
    w.max_seq_length = 4;
    assert_ns_fails(READ(), NS_ERR_MISMATCH, "pack 0 has 5 tokens, more than model.data.train_ds.max_seq_length=4",
                    &err);
    w.max_seq_length = 8, w.vocab = 9;
    assert_ns_fails(READ(), NS_ERR_MISMATCH, "pack 0, position 4: token id 9", &err);
    w.vocab = 10;
    memcpy(ids, good_ids, sizeof ids);
    ids[1][1] = -1; /* padding inside */
    write_array("input_ids", "<i4", 2, COLS, ids, 4);
    assert_ns_fails(READ(), NS_ERR_MISMATCH, "pack 1, position 1: token id -1", &err);
    write_good();
    static const int32_t bad[][2] = {{0, 1}, {1, 3}, {2, 3}, {1, 8}, {0, -1}}; /* place, value */
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        memcpy(start, good_start, sizeof start);
        start[0][bad[k][0]] = bad[k][1];
        if (k == 1) start[0][2] = 3;
        write_array("seq_start_id", "<i4", 2, SEQ, start, 4);
        assert_ns_fails(READ(), NS_ERR_INPUT, k == 4 ? "pack 0 has no sequence" : "pack 0, sequence", &err);
    }
    write_good();
    write_array("loss_mask", "|b1", 2, COLS - 1, good_mask, 1);
    assert_ns_fails(READ(), NS_ERR_MISMATCH, "loss_mask is 7 wide, input_ids 8", &err);
    write_array("loss_mask", "|b1", 1, COLS, good_mask, 1);
    assert_ns_fails(READ(), NS_ERR_MISMATCH, "1 rows, input_ids has 2", &err);
    snprintf(path, sizeof path, "%s/bad.loss_mask.npy", dir);
    assert_int_equal(unlink(path), 0);
    assert_ns_fails(READ(), NS_ERR_INPUT, "bad.loss_mask.npy: missing: a pack is three files", &err);
    write_array("input_ids", "<i4", 0, COLS, good_ids, 4);
    write_array("loss_mask", "|b1", 0, COLS, good_mask, 1);
    write_array("seq_start_id", "<i4", 0, SEQ, good_start, 4);
    assert_ns_fails(READ(), NS_ERR_INPUT, "no packs", &err);
    write_good();
    static const char meta[] =
        "{\"pack_size\": 8, \"context_parallel_size\": 1, \"eos_id\": 0, \"loss_mask\": \"exact\", "
        "\"tokenizer_hash\": \"00ff\", \"tokenizer\": \"/models/theirs\"}";
    snprintf(path, sizeof path, "%s/bad.meta.json", dir);
    assert_ns_ok(ns_file_replace(path, meta, sizeof meta - 1, &err), &err);
    w.tokenizer_hash = "00fe", w.tokenizer = "/models/ours";
    assert_ns_fails(READ(), NS_ERR_MISMATCH, "packed with the tokenizer of /models/theirs, the model's (/models/ours)",
                    &err);
    w.tokenizer_hash = "00ff";
    assert_ns_ok(READ(), &err);
    ns_examples_free(&ex);
    ns_packed_free(&p);
    w.max_seq_length = 7;
    assert_ns_fails(READ(), NS_ERR_MISMATCH, "packs of 8 tokens, but model.data.train_ds.max_seq_length=7", &err);
}

static void out_of_memory(void **state)
{
    (void)state;
    ns_examples ex;
    ns_packed p;
    ns_packed_want w = {.max_seq_length = 8, .vocab = 10};
    char name[400];
    int hit = 1;
    snprintf(name, sizeof name, "%s/bad.npy", dir);
    write_good();
    uint64_t before = ns_mem_get_stats().bytes_now;
    for (uint64_t k = 1; hit; k++) {
        ns_error err = NS_ERROR_INIT;
        assert_true(k < 100);
        ns_mem_fail_at(k, 0);
        ns_status st = ns_packed_read(&ex, &p, name, &w, NULL, &err);
        hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        assert_int_equal(st, hit ? NS_ERR_MEMORY : NS_OK);
        if (st == NS_OK) {
            ns_examples_free(&ex);
            ns_packed_free(&p);
        }
        assert_int_equal(ns_mem_get_stats().bytes_now, before);
    }
}

static int setup(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char path[4200];
    ns_log_set_sink(quiet, NULL);
    ns_test_tmpdir(dir, sizeof dir);
    if (!ns_test_data()) return 0;
    snprintf(path, sizeof path, "%s/tokenizers/llama3/tokenizer.assembled.json", ns_test_data());
    return ns_tok_load(&tok, path, &err) != NS_OK;
}

static int teardown(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_tok_free(&tok);
    return ns_remove_tree(dir, &err) != NS_OK;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recorded_batches), cmocka_unit_test(made_in_memory), cmocka_unit_test(packs_of_a_step),
        cmocka_unit_test(broken_files),     cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
