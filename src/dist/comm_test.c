/* Collectives between real processes: values, order of addition, counted bytes, refusal of mixed-up calls. */
#include <math.h>
#include <pthread.h>

#include "dist/dist_testing.h"

static float value(int rank, int64_t i)
{
    return (float)(rank + 1) * 0.1f + (float)i * 1e-3f;
}

/* Sums on lane 1, of another thread, while lane 0 is used. */
typedef struct behind {
    ns_comm c;
    float x[3];
    int good;
} behind;
static void *sum_behind(void *arg)
{
    behind *b = arg;
    ns_error err = NS_ERROR_INIT;
    b->good = 1;
    for (int i = 0; i < 40; i++) b->good &= ns_comm_all_reduce(&b->c, b->x, NS_DTYPE_F32, 3, &err) == NS_OK;
    return NULL;
}

static int collectives(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    ns_world *w;
    ns_comm c;
    int ranks[8];
    for (int r = 0; r < o->size; r++) ranks[r] = r;
    o->lanes = 2;
    RANK_OK(ns_world_open(&w, o, &err), &err);
    RANK_OK(ns_comm_open(&c, w, ranks, o->size, &err), &err);
    c.scratch = malloc((size_t)ns_comm_scratch_bytes(c.size));
    behind b1 = {.x = {(float)o->rank, 1, 2}};
    pthread_t thread;
    RANK_OK(ns_comm_open(&b1.c, w, ranks, o->size, &err), &err);
    b1.c.lane = 1;
    b1.c.scratch = malloc((size_t)ns_comm_scratch_bytes(c.size));
    RANK_CHECK(pthread_create(&thread, NULL, sum_behind, &b1) == 0);
    const int64_t n = 3 * NS_COMM_PIECE + 17; /* more than one round, an odd rest */
    float *a = malloc((size_t)n * sizeof *a), *b = malloc((size_t)n * sizeof *b);
    int64_t cut[9];

    /* sum, rank 0 first: bit for bit what one process adds in that order */
    for (int64_t i = 0; i < n; i++) a[i] = value(o->rank, i);
    for (int64_t i = 0; i < n; i++) {
        b[i] = value(0, i);
        for (int r = 1; r < o->size; r++) b[i] += value(r, i);
    }
    RANK_OK(ns_comm_all_reduce(&c, a, NS_DTYPE_F32, n, &err), &err);
    RANK_CHECK(memcmp(a, b, (size_t)n * sizeof *a) == 0);
    uint64_t moved = c.sent[NS_COMM_REDUCE_SCATTER] + c.sent[NS_COMM_ALL_GATHER];
    ns_comm_cut(n, 1, o->size, cut);
    int64_t own = cut[o->rank + 1] - cut[o->rank];
    RANK_CHECK(moved == (uint64_t)((n - own) + own * (o->size - 1)) * sizeof(float));

    /* reduce_scatter leaves the pieces of the others alone; uneven pieces, one of them empty */
    for (int r = 0; r <= o->size; r++) cut[r] = r <= 1 ? r * 5 : r == o->size ? n : 5;
    for (int64_t i = 0; i < n; i++) a[i] = value(o->rank, i);
    RANK_OK(ns_comm_reduce_scatter(&c, a, NS_DTYPE_F32, cut, &err), &err);
    for (int64_t i = 0; i < n; i++) {
        int mine = i >= cut[o->rank] && i < cut[o->rank + 1];
        RANK_CHECK(a[i] == (mine ? b[i] : value(o->rank, i)));
    }
    RANK_OK(ns_comm_all_gather(&c, a, cut, sizeof(float), &err), &err);
    RANK_CHECK(memcmp(a, b, (size_t)n * sizeof *a) == 0);

    /* bf16: added in f32, rounded once */
    uint16_t *h = (uint16_t *)(void *)a;
    for (int64_t i = 0; i < n; i++) h[i] = ns_f32_to_bf16(value(o->rank, i % 1000));
    RANK_OK(ns_comm_all_reduce(&c, h, NS_DTYPE_BF16, n, &err), &err);
    for (int64_t i = 0; i < n; i++) {
        float want = ns_bf16_to_f32(ns_f32_to_bf16(value(0, i % 1000)));
        for (int r = 1; r < o->size; r++) want += ns_bf16_to_f32(ns_f32_to_bf16(value(r, i % 1000)));
        RANK_CHECK(h[i] == ns_f32_to_bf16(want));
    }

    /* broadcast, numbers, ring */
    memset(a, o->rank == o->size - 1 ? 7 : 0, 1000);
    RANK_OK(ns_comm_broadcast(&c, a, 1000, o->size - 1, &err), &err);
    for (int i = 0; i < 1000; i++) RANK_CHECK(((char *)a)[i] == 7);
    double x[2] = {o->rank, 1.0 / (o->rank + 1)}, all[8], sum = 0;
    RANK_OK(ns_comm_scalars(&c, x, 2, NS_COMM_MAX, &err), &err);
    RANK_CHECK(x[0] == o->size - 1 && x[1] == 1.0);
    x[0] = o->rank;
    RANK_OK(ns_comm_scalars(&c, x, 1, NS_COMM_MIN, &err), &err);
    RANK_CHECK(x[0] == 0);
    x[0] = 1.0 / (o->rank + 3);
    for (int r = 0; r < o->size; r++) sum = r == 0 ? 1.0 / 3 : sum + 1.0 / (r + 3);
    RANK_OK(ns_comm_scalars(&c, x, 1, NS_COMM_SUM, &err), &err);
    RANK_CHECK(x[0] == sum);
    RANK_OK(ns_comm_gather_scalar(&c, 10 + o->rank, all, &err), &err);
    for (int r = 0; r < o->size; r++) RANK_CHECK(all[r] == 10 + r);
    int next = (o->rank + 1) % o->size, before = (o->rank + o->size - 1) % o->size;
    int64_t out = o->rank, in = -1;
    RANK_OK(ns_comm_send_recv(&c, next, &out, sizeof out, before, &in, sizeof in, &err), &err);
    RANK_CHECK(in == before);

    /* a ring: what started at a member has seen all when it comes home; two buffers a turn, large ones too; other calls in between */
    uint64_t sent = c.sent[NS_COMM_SEND];
    int64_t *big[2] = {malloc((size_t)n * sizeof *big[0]), malloc((size_t)n * sizeof *big[0])}, seen[2] = {o->rank, -1};
    for (int64_t i = 0; i < n; i++) big[0][i] = o->rank * n + i;
    for (int s = 0; s < o->size; s++) {
        const ns_comm_turn t[] = {{big[s % 2], big[(s + 1) % 2], n * (int64_t)sizeof *big[0]},
                                  {&seen[s % 2], &seen[(s + 1) % 2], sizeof *seen}};
        RANK_OK(ns_comm_turn_start(&c, t, o->size > 1 ? 2 : 1, &err), &err);
        for (int64_t i = 0; i < n; i++) RANK_CHECK(big[s % 2][i] == (o->rank + o->size - s) % o->size * n + i);
        RANK_OK(ns_comm_turn_wait(&c, &err), &err);
        RANK_OK(ns_comm_barrier(&c, &err), &err);
    }
    RANK_CHECK(big[o->size % 2][n - 1] == o->rank * n + n - 1 && (o->size == 1 || seen[o->size % 2] == o->rank));
    RANK_CHECK(c.sent[NS_COMM_SEND] - sent == (o->size > 1 ? (uint64_t)(o->size * (n + 1)) * sizeof(int64_t) : 0));
    free(big[0]);
    free(big[1]);

    RANK_CHECK(pthread_join(thread, NULL) == 0 && b1.good && b1.x[1] == powf((float)o->size, 40));
    RANK_CHECK(c.sent[NS_COMM_BROADCAST] == (o->rank == o->size - 1 ? 1000u * (unsigned)(o->size - 1) : 0));
    free(b1.c.scratch);
    ns_comm_close(&b1.c);

    if (o->rank == 0 && getenv("NS_TRANSPORT")) {
        printf("transport %s\n", ns_world_transport(w));
        RANK_CHECK(!strcmp(getenv("NS_TRANSPORT"), ns_world_transport(w)) || o->size == 1);
    }
    free(c.scratch);
    ns_comm_close(&c);
    ns_world_close(&w);
    free(a);
    free(b);
    return 0;
}

static void test_collectives(void **state)
{
    (void)state;
    for (int n = 1; n <= 5; n += n == 1 ? 1 : 3) { /* 1, 2, 5 */
        int code[8];
        ns_test_run_ranks(n, collectives, code);
        for (int r = 0; r < n; r++) assert_int_equal(code[r], 0);
    }
}

/* Ranks 0,2 and 1,3 are two groups that work at the same time. */
static int two_groups(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    ns_world *w;
    ns_comm c;
    int ranks[2] = {o->rank % 2, o->rank % 2 + 2};
    RANK_OK(ns_world_open(&w, o, &err), &err);
    RANK_OK(ns_comm_open(&c, w, ranks, 2, &err), &err);
    c.scratch = malloc((size_t)ns_comm_scratch_bytes(c.size));
    float x[3] = {(float)o->rank, 1, 2};
    for (int i = 0; i < 50; i++) RANK_OK(ns_comm_all_reduce(&c, x, NS_DTYPE_F32, 3, &err), &err);
    RANK_CHECK(x[0] == ldexpf(o->rank % 2 ? 4 : 2, 49) && x[1] == ldexpf(1, 50));
    free(c.scratch);
    ns_comm_close(&c);
    ns_world_close(&w);
    return 0;
}

static void test_two_groups(void **state)
{
    (void)state;
    int code[4];
    ns_test_run_ranks(4, two_groups, code);
    for (int r = 0; r < 4; r++) assert_int_equal(code[r], 0);
}

/* Different lengths, different operations: refused, with both sides named; the other rank is told. */
static int mixed_up(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    ns_world *w;
    ns_comm c;
    float x[8] = {0};
    int ranks[2] = {0, 1};
    char text[2048];
    RANK_OK(ns_world_open(&w, o, &err), &err);
    RANK_OK(ns_comm_open(&c, w, ranks, 2, &err), &err);
    c.scratch = malloc((size_t)ns_comm_scratch_bytes(c.size));
    ns_status st =
        o->rank == 0 ? ns_comm_broadcast(&c, x, 16, 1, &err) : ns_comm_all_reduce(&c, x, NS_DTYPE_F32, 8, &err);
    if (st == NS_OK) st = ns_comm_barrier(&c, &err); /* rank 1 may have sent all it had to send */
    RANK_CHECK(st != NS_OK);
    if (err.code == NS_ERR_MISMATCH) ns_world_fail(w, &err);
    ns_error_text(&err, text, sizeof text);
    RANK_CHECK(strstr(text, "the ranks are not doing the same thing"));
    free(c.scratch);
    ns_comm_close(&c);
    ns_world_close(&w);
    return 0;
}

static void test_mixed_up(void **state)
{
    (void)state;
    int code[2];
    ns_test_run_ranks(2, mixed_up, code);
    for (int r = 0; r < 2; r++) assert_int_equal(code[r], 0);
}

static void test_cut(void **state)
{
    (void)state;
    int64_t cut[5];
    ns_comm_cut(1000, 16, 4, cut);
    assert_int_equal(cut[0], 0);
    assert_int_equal(cut[4], 1000);
    for (int r = 1; r < 4; r++) assert_true(cut[r] % 16 == 0 && cut[r] >= 224 && cut[r] - cut[r - 1] <= 256);
    ns_comm_cut(10, 16, 4, cut); /* smaller than a unit: one member has all */
    assert_true(cut[3] == 0 && cut[4] == 10);
}

int main(void)
{
    /* started by mpirun: one rank of the collectives (tests/train/mpi_test.sh) */
    ns_error err = NS_ERROR_INIT;
    ns_world_options o;
    RANK_OK(ns_world_from_env(&o, &err), &err);
    if (o.size > 1) return collectives(&o);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_collectives),
        cmocka_unit_test(test_two_groups),
        cmocka_unit_test(test_mixed_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
