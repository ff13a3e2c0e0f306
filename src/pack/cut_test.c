/* Parts of a batch: every token is on exactly one rank with its label, weight and position; the pieces are those of the zig-zag; what
 * all ranks send, put in order by kv_row, is the whole batch; segments of every length, also shorter than the number of pieces. */
#include "base/testing.h"
#include "pack/sft_data.h"

static void fill(ns_batch *b, const int32_t *len, int32_t n)
{
    int32_t t = 0;
    b->cu_seqlens[0] = 0;
    for (int32_t s = 0; s < b->S_cap; s++) {
        for (int32_t p = 0; s < n && p < len[s]; p++, t++) {
            b->ids[t] = 1000 + t;
            b->label[t] = t % 3 ? 2000 + t : -1;
            b->weight[t] = t % 3 ? 1.0f : 0.0f;
            b->position[t] = p;
        }
        b->cu_seqlens[s + 1] = t;
    }
    b->n_seg = n;
    b->n_tok = t;
    b->weight_sum = 0;
    for (int32_t i = 0; i < t; i++) b->weight_sum += (double)b->weight[i];
}

/* Over all turns of the ring each query row sees exactly the keys at or before it of its segment, each once; mine in the order of ops.h:
 * within my own block causal, in the blocks of others all of the range. */
static void check_ring(const ns_batch *b, int rank, int size)
{
    enum { T = 256 };
    ns_error err = NS_ERROR_INIT;
    static int32_t block[8][T]; /* [rank][row of its block] token of the whole */
    ns_batch_part p;
    for (int r = 0; r < size; r++) {
        assert_ns_ok(ns_batch_part_new(&p, b->T_cap, b->S_cap, size, &err), &err);
        ns_batch_cut(&p, b, r, size);
        for (int32_t t = 0; t < p.batch.T_cap; t++) {
            assert_true((t < p.batch.n_tok) == (p.to_block[t] >= 0) && (t < p.batch.n_tok) == (p.of_block[t] >= 0));
            if (t >= p.batch.n_tok) continue;
            assert_int_equal(p.of_block[p.to_block[t]], t);
            block[r][p.to_block[t]] = p.batch.ids[t] - 1000;
        }
        ns_batch_part_free(&p);
    }
    assert_ns_ok(ns_batch_part_new(&p, b->T_cap, b->S_cap, size, &err), &err);
    ns_batch_cut(&p, b, rank, size);
    for (int32_t i = 0; i < p.batch.S_cap; i++) {
        const int32_t q0 = p.batch.cu_seqlens[i], q1 = p.batch.cu_seqlens[i + 1];
        for (int32_t q = q0; q < q1; q++) {
            int times[T] = {0};
            const int32_t mine = p.batch.ids[q] - 1000, first = mine - p.batch.position[q];
            for (int from = 0; from < size; from++) {
                const int32_t at = p.ring_start[from * p.batch.S_cap + i], n = p.ring_len[from * p.batch.S_cap + i];
                const int32_t seen = from == rank ? q - q0 + n - (q1 - q0) + 1 : n;
                for (int32_t k = 0; k < seen; k++) times[block[from][at + k]]++;
            }
            for (int32_t t = 0; t < T; t++) assert_int_equal(times[t], t >= first && t <= mine);
        }
    }
    ns_batch_part_free(&p);
}

static void check(const int32_t *len, int32_t n_seg, int size)
{
    enum { T = 256, S = 8 };
    ns_error err = NS_ERROR_INIT;
    ns_batch b;
    int seen[T] = {0}, order[T] = {0};
    double weights = 0;
    int32_t rows = 0;
    assert_ns_ok(ns_batch_new(&b, T, S, &err), &err);
    fill(&b, len, n_seg);
    for (int r = 0; r < size; r++) {
        ns_batch_part p;
        assert_ns_ok(ns_batch_part_new(&p, T, S, size, &err), &err);
        ns_batch_cut(&p, &b, r, size);
        assert_true(r == 0 || p.rows == rows); /* all ranks agree */
        rows = p.rows;
        weights += p.batch.weight_sum;
        for (int32_t t = 0; t < p.batch.n_tok; t++) {
            int32_t w = p.batch.ids[t] - 1000;
            assert_true(w >= 0 && w < b.n_tok);
            seen[w]++;
            assert_true(p.batch.label[t] == b.label[w] && p.batch.weight[t] == b.weight[w] &&
                        p.batch.position[t] == b.position[w]);
            assert_int_equal(p.own_row[w], t);
            assert_int_equal(p.kv_row[r * p.rows + t], w);
        }
        for (int32_t s = 0; s < 2 * S; s++) {
            int32_t q0 = p.batch.cu_seqlens[s], q1 = p.batch.cu_seqlens[s + 1];
            if (q1 == q0) continue;
            assert_int_equal(p.kv_start[s], b.cu_seqlens[s % S]);
            /* causal: the last query of a piece sees the keys up to itself */
            assert_int_equal(p.kv_start[s] + p.kv_len[s] - 1, p.batch.ids[q1 - 1] - 1000);
        }
        for (int32_t i = 0; i < size * p.rows; i++)
            if (p.kv_row[i] >= 0) order[p.kv_row[i]] += r == 0;
        ns_batch_part_free(&p);
        check_ring(&b, r, size);
    }
    for (int32_t t = 0; t < b.n_tok; t++) assert_true(seen[t] == 1 && order[t] == 1);
    assert_true(weights == b.weight_sum);
    ns_batch_free(&b);
}

static void test_cut(void **state)
{
    (void)state;
    const struct {
        int32_t n, len[8];
    } cases[] = {{1, {16}}, {1, {1}}, {3, {2, 3, 5}}, {8, {1, 2, 3, 4, 5, 6, 7, 8}}, {4, {63, 64, 65, 60}}, {0, {0}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int size = 1; size <= 8; size++) check(cases[i].len, cases[i].n, size);
}

static void test_zigzag(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_batch b;
    ns_batch_part p;
    const int32_t len[] = {8};
    assert_ns_ok(ns_batch_new(&b, 256, 8, &err), &err);
    assert_ns_ok(ns_batch_part_new(&p, 256, 8, 2, &err), &err);
    fill(&b, len, 1);
    ns_batch_cut(&p, &b, 0, 2); /* 8 tokens in 4 pieces: rank 0 has 0 1 and 6 7 */
    const int32_t want[] = {1000, 1001, 1006, 1007};
    assert_int_equal(p.batch.n_tok, 4);
    assert_memory_equal(p.batch.ids, want, sizeof want);
    assert_true(ns_batch_part_rows(16384, 102, 4) == 4224 && ns_batch_part_rows(4096, 8, 4) == 1152 &&
                ns_batch_part_rows(4096, 8, 1) == 4096);
    ns_batch_part_free(&p);
    ns_batch_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cut), cmocka_unit_test(test_zigzag)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
