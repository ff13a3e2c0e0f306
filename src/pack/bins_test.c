/* Bin assignment against the definition: first fit by scanning all packs, and laws that hold for every algorithm. */
#include "pack/bins.h"

#include "base/mem.h"
#include "base/rng.h"
#include "base/testing.h"

enum { MANY = 3000 };
static int32_t len[MANY];

static void random_lengths(uint32_t seed, int n, int32_t most)
{
    ns_mt g;
    ns_mt_seed(&g, seed);
    for (int i = 0; i < n; i++) len[i] = (int32_t)ns_mt_below_numpy(&g, (uint32_t)most + 1);
}

static void each_once(const ns_bins *b, int n, int32_t pack)
{
    static char seen[MANY];
    memset(seen, 0, sizeof seen);
    assert_int_equal(b->start[0], 0);
    assert_int_equal(b->start[b->n], n);
    for (int64_t i = 0; i < b->n; i++) {
        int64_t sum = 0;
        assert_true(b->start[i + 1] > b->start[i]);
        for (int64_t k = b->start[i]; k < b->start[i + 1]; k++) {
            assert_in_range(b->item[k], 0, n - 1);
            assert_false(seen[b->item[k]]);
            seen[b->item[k]] = 1;
            sum += len[b->item[k]];
        }
        assert_in_range(sum, 0, pack);
    }
}

static void laws(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++)
        for (int n = 1; n < MANY; n = n * 3 + 1) {
            ns_error err = NS_ERROR_INIT;
            ns_bins b;
            random_lengths((uint32_t)n, n, n % 2 ? 100 : 37);
            assert_ns_ok(ns_bins_assign(&b, len, n, 100, (ns_pack_algorithm)how, 7, &err), &err);
            each_once(&b, n, 100);
            ns_bins_free(&b);
        }
}

/* Longest first, each into the first pack that has room, or into the fullest: the sums of the packs, in order. */
static void by_definition(void **state)
{
    (void)state;
    for (int best = 0; best < 2; best++)
        for (uint32_t seed = 0; seed < 20; seed++) {
            static int64_t order[MANY], room[MANY], left[MANY];
            ns_error err = NS_ERROR_INIT;
            ns_bins b;
            int n = 500, n_bins = 0, at = 0;
            random_lengths(seed, n, 90);
            for (int32_t l = 90; l >= 0; l--)
                for (int i = 0; i < n; i++)
                    if (len[i] == l) order[at++] = l;
            for (int i = 0; i < n; i++) {
                int to = -1;
                for (int k = 0; k < n_bins; k++)
                    if (room[k] >= order[i] && (to < 0 || (best && room[k] < room[to]))) to = k;
                if (to < 0) room[to = n_bins++] = 128;
                room[to] -= order[i];
            }
            assert_ns_ok(
                ns_bins_assign(&b, len, n, 128, best ? NS_PACK_BEST_FIT : NS_PACK_FIRST_FIT_DECREASING, 0, &err), &err);
            assert_int_equal(b.n, n_bins);
            for (int64_t i = 0; i < b.n; i++) {
                left[i] = 128;
                for (int64_t k = b.start[i]; k < b.start[i + 1]; k++) left[i] -= len[b.item[k]];
                if (!best) assert_int_equal(left[i], room[i]);
            }
            ns_bins_free(&b);
        }
}

static void refuses(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_bins b;
    int32_t l[] = {1, 101};
    assert_ns_fails(ns_bins_assign(&b, l, 2, 100, NS_PACK_BEST_FIT, 0, &err), NS_ERR_INTERNAL, "101", &err);
    assert_int_not_equal(ns_bins_assign(&b, l, 0, 100, NS_PACK_BEST_FIT, 0, &err), NS_OK);
}

static void memory(void **state)
{
    (void)state;
    random_lengths(1, 100, 50);
    for (uint64_t at = 1;; at++) {
        ns_error err = NS_ERROR_INIT;
        ns_bins b;
        ns_mem_fail_at(at, 0);
        ns_status st =
            ns_bins_assign(&b, len, 100, 100, at % 2 ? NS_PACK_BEST_FIT : NS_PACK_FIRST_FIT_SHUFFLE, 0, &err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        if (st == NS_OK) ns_bins_free(&b);
        assert_int_equal(st, hit ? NS_ERR_MEMORY : NS_OK);
        if (!hit && at > 20) break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(laws),
        cmocka_unit_test(by_definition),
        cmocka_unit_test(refuses),
        cmocka_unit_test(memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
