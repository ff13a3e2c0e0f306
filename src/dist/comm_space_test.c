/* Collectives on arrays of a device, without one: the fake device's addresses cannot be read or written by the host (they are
 * mapped with no access), its copies wait in a queue like a stream's, and a kernel that fills an array is an entry of the queue too.
 * Copies or, where NCCL is faked too, exchanges of the device's arrays: every collective must give the bits and count the bytes that it gives and counts on host arrays, in pieces, without allocating. */
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "dist/comm_priv.h"
#include "dist/direct.h"
#include "dist/dist_testing.h"

enum { SPACE = 64 << 20, PIECE_MOST = 2 << 20, QUEUE = 256 };

typedef struct entry { /* copied (or computed) when the queue gets there, from a copy taken when it was enqueued */
    int64_t at, bytes;
    char *data;
} entry;
static char *shown, *kept; /* what the host sees of the device; what it holds */
static entry queue[QUEUE];
static int n_queue, n_down, n_up;
static int64_t largest;

static void drain(void)
{
    for (int i = 0; i < n_queue; i++) {
        memcpy(kept + queue[i].at, queue[i].data, (size_t)queue[i].bytes);
        free(queue[i].data);
    }
    n_queue = 0;
}

static void enqueue(void *dst, const void *src, int64_t bytes)
{
    if (n_queue == QUEUE) drain();
    entry *e = &queue[n_queue++];
    *e = (entry){(char *)dst - shown, bytes, malloc((size_t)bytes)};
    memcpy(e->data, src, (size_t)bytes);
}

static ns_status to_host(void *user, void *dst, const void *src, int64_t bytes, ns_error *err)
{
    (void)user, (void)err;
    largest = bytes > largest ? bytes : largest;
    n_down++;
    drain();
    memcpy(dst, kept + ((const char *)src - shown), (size_t)bytes);
    return NS_OK;
}

static ns_status to_space(void *user, void *dst, const void *src, int64_t bytes, ns_error *err)
{
    (void)user, (void)err;
    largest = bytes > largest ? bytes : largest;
    n_up++;
    enqueue(dst, src, bytes);
    return NS_OK;
}

static ns_status broken_copy(void *user, void *dst, const void *src, int64_t bytes, ns_error *err)
{
    (void)user, (void)dst, (void)src;
    NS_FAIL(NS_ERR_DEVICE, "the device fell off the bus (%d bytes)", (int)bytes);
}

static void fill(char *a, int64_t bytes, int rank, uint32_t salt)
{
    uint32_t s = (uint32_t)rank * 747796405u + salt;
    float *f = (float *)(void *)a;
    for (int64_t i = 0; i < bytes / 4; i++) {
        s = s * 1664525u + 1013904223u;
        f[i] = (float)(int32_t)s * 0x1p-30f;
    }
}

/* ---- NCCL, without it: exchanges of the fake device's arrays, enqueued when asked for the second time ---- */
static ns_comm *direct_group;
static _Atomic int joined, ended, busy, nccl_breaks, n_posted; /* looked at by the control thread, too */

static ns_nccl_state fake_id(void *id, const char **why)
{
    (void)why;
    memcpy(id, "meet", 5);
    return NS_NCCL_READY;
}

static ns_nccl_state fake_join(void **group, const void *id, int rank, int size, const char **why)
{
    (void)why, (void)rank, (void)size;
    RANK_CHECK(!strcmp(id, "meet"));
    *group = &joined;
    joined++;
    busy = 3;
    return NS_NCCL_BUSY;
}

static ns_nccl_state fake_state(void *group, const char **why)
{
    RANK_CHECK(group == &joined);
    if (nccl_breaks) {
        *why = "unhandled cuda error";
        return NS_NCCL_FAILED;
    }
    return busy > 0 && busy-- ? NS_NCCL_BUSY : NS_NCCL_READY;
}

static ns_nccl_state fake_exchange(void *group, void *stream, const ns_xfer *x, int n, const char **why)
{
    ns_xfer real[16];
    ns_error err = NS_ERROR_INIT;
    RANK_CHECK(group == &joined && stream == kept && n <= 16);
    drain(); /* its producers */
    for (int i = 0; i < n; i++) {
        real[i] = x[i];
        real[i].buf = kept + ((char *)x[i].buf - shown);
    }
    n_posted++;
    busy = 2;
    *why = "exchange";
    return ns_world_exchange(direct_group->world, "direct", real, n, &err) == NS_OK ? NS_NCCL_BUSY : NS_NCCL_FAILED;
}

static void fake_close(void *group, int broken)
{
    RANK_CHECK(group == &joined);
    ended += broken ? 100 : 1;
}

static int fake_add(void *device, ns_dtype dt, int64_t n, void *own, const void *in, int64_t each, int members,
                    int rank)
{
    RANK_CHECK(device == &joined && members == direct_group->size && rank == direct_group->rank);
    drain();
    dist_add(direct_group, dt, kept + ((char *)own - shown), kept + ((const char *)in - shown), each, n);
    return 1;
}

static const ns_nccl_plugin fake_nccl = {
    .new_id = fake_id, .join = fake_join, .state = fake_state, .exchange = fake_exchange, .close = fake_close};

typedef struct both { /* the same group over host arrays and over the device */
    ns_comm host, away;
    char *a;   /* host array; the device's is `shown` */
    char *got; /* host copy of the device's */
} both;

static void start(both *b, int64_t bytes, int rank, uint32_t salt)
{
    fill(b->a, bytes, rank, salt);
    enqueue(shown, b->a, bytes); /* a kernel makes it: not there before the queue is drained */
}

static int same(both *b, int64_t bytes)
{
    ns_error err = NS_ERROR_INIT;
    const int64_t before = largest;
    (void)!to_host(NULL, b->got, shown, bytes, &err); /* what a later kernel finds */
    n_down--;
    largest = before;
    return memcmp(b->a, b->got, (size_t)bytes) == 0;
}

static int check_all(both *b, int64_t n)
{
    ns_error err = NS_ERROR_INIT;
    const int rank = b->host.rank, size = b->host.size;
    const int next = (rank + 1) % size, before = (rank + size - 1) % size;
    int64_t cut[9];
    for (int r = 0; r <= size; r++) cut[r] = r <= 1 ? r * 5 : r == size ? n : 5 + (r - 1) * (n / 7);
    if (size > 2) cut[3] = cut[2]; /* one piece is empty */
    const uint64_t allocations = ns_mem_get_stats().n_alloc;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        const ns_dtype dt = bf16 ? NS_DTYPE_BF16 : NS_DTYPE_F32;
        start(b, n * 4, rank, 1);
        RANK_OK(ns_comm_reduce_scatter(&b->host, b->a, dt, cut, &err), &err);
        RANK_OK(ns_comm_reduce_scatter(&b->away, shown, dt, cut, &err), &err);
        RANK_CHECK(same(b, n * 4));
        RANK_OK(ns_comm_all_gather(&b->host, b->a, cut, bf16 ? 2 : 4, &err), &err);
        RANK_OK(ns_comm_all_gather(&b->away, shown, cut, bf16 ? 2 : 4, &err), &err);
        RANK_CHECK(same(b, n * 4));
        start(b, n * 4, rank, 2);
        RANK_OK(ns_comm_all_reduce(&b->host, b->a, dt, n - 1, &err), &err);
        RANK_OK(ns_comm_all_reduce(&b->away, shown, dt, n - 1, &err), &err);
        RANK_CHECK(same(b, n * 4));
    }
    start(b, n * 4, rank, 3);
    RANK_OK(ns_comm_broadcast(&b->host, b->a, n * 4 - 3, size - 1, &err), &err);
    RANK_OK(ns_comm_broadcast(&b->away, shown, n * 4 - 3, size - 1, &err), &err);
    RANK_CHECK(same(b, n * 4));
    /* a ring; then one direction only, as stages of a pipeline do; more out than in */
    start(b, n * 4, rank, 4);
    const int64_t half = n / 2 * 4;
    RANK_OK(ns_comm_send_recv(&b->host, next, b->a, half, before, b->a + half, half, &err), &err);
    RANK_OK(ns_comm_send_recv(&b->away, next, shown, half, before, shown + half, half, &err), &err);
    RANK_CHECK(same(b, n * 4));
    const int to = rank == 0 ? 1 : rank == 1 ? 0 : -1;
    const int64_t out = rank == 0 ? half : 12, in = rank == 0 ? 12 : half;
    RANK_OK(ns_comm_send_recv(&b->host, to, b->a, out, to, b->a + half, in, &err), &err);
    RANK_OK(ns_comm_send_recv(&b->away, to, shown, out, to, shown + half, in, &err), &err);
    RANK_CHECK(same(b, n * 4));
    RANK_OK(ns_comm_send_recv(&b->host, rank == 0 ? 1 : -1, b->a, 40, rank == 1 ? 0 : -1, b->a, 40, &err), &err);
    RANK_OK(ns_comm_send_recv(&b->away, rank == 0 ? 1 : -1, shown, 40, rank == 1 ? 0 : -1, shown, 40, &err), &err);
    RANK_CHECK(same(b, n * 4));
    for (int k = 0; k < NS_COMM_N_KINDS; k++) RANK_CHECK(b->host.sent[k] == b->away.sent[k]);
    RANK_CHECK(ns_mem_get_stats().n_alloc == allocations);
    return 0;
}

static int on_a_device(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    ns_world *w;
    both b;
    int ranks[8];
    const int64_t n = 3 * PIECE_MOST / 4 + 1001; /* more than one round, an odd rest */
    shown = mmap(NULL, SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    kept = malloc(SPACE);
    RANK_CHECK(shown != MAP_FAILED && kept);
    for (int r = 0; r < o->size; r++) ranks[r] = r;
    RANK_OK(ns_world_open(&w, o, &err), &err);
    RANK_OK(ns_comm_open(&b.host, w, ranks, o->size, &err), &err);
    RANK_OK(ns_comm_open(&b.away, w, ranks, o->size, &err), &err);
    b.host.scratch = malloc((size_t)ns_comm_scratch_bytes(o->size));
    b.a = malloc((size_t)n * 4);
    b.got = malloc((size_t)n * 4);
    ns_comm_space s = {.base = shown,
                       .bytes = SPACE,
                       .to_host = to_host,
                       .to_space = to_space,
                       .stage = malloc((size_t)ns_comm_stage_bytes(o->size))};
    b.away.space = &s;
    const int bad = check_all(&b, n);
    RANK_CHECK(largest <= PIECE_MOST && n_down > 0 && n_up > 0);

    /* what lies on the host stays there */
    const int downs = n_down, ups = n_up;
    float few[4] = {1, 2, 3, (float)o->rank};
    const int64_t whole[9] = {0, 4, 4, 4, 4, 4, 4, 4, 4};
    RANK_OK(ns_comm_all_gather(&b.away, few, whole, 4, &err), &err);
    RANK_CHECK(few[3] == 0 && n_down == downs && n_up == ups);

    /* a copy that fails is the collective's error, and the others learn it: when all are here, perhaps still in the barrier */
    ns_status st = ns_comm_barrier(&b.host, &err);
    if (o->rank == 1) s.to_host = broken_copy;
    if (st == NS_OK) st = ns_comm_all_reduce(&b.away, shown, NS_DTYPE_F32, 1000, &err);
    if (st != NS_OK && o->rank == 1) ns_world_fail(w, &err);
    RANK_CHECK(st == NS_ERR_DEVICE && strstr(err.msg, "fell off the bus"));
    free(b.host.scratch);
    free(s.stage);
    free(b.a);
    free(b.got);
    drain();
    ns_comm_close(&b.host);
    ns_comm_close(&b.away);
    ns_world_close(&w);
    return bad;
}

static int direct(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    ns_world *w;
    both b;
    int ranks[8];
    const int64_t n = 5 * (4 << 20) / 4 + 1001; /* more than one round of a sum */
    shown = mmap(NULL, 2 * SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    kept = malloc(2 * SPACE);
    RANK_CHECK(shown != MAP_FAILED && kept && n * 4 < SPACE);
    for (int r = 0; r < o->size; r++) ranks[r] = r;
    RANK_OK(ns_world_open(&w, o, &err), &err);
    RANK_OK(ns_comm_open(&b.host, w, ranks, o->size, &err), &err);
    RANK_OK(ns_comm_open(&b.away, w, ranks, o->size, &err), &err);
    b.host.scratch = malloc((size_t)ns_comm_scratch_bytes(o->size));
    b.a = malloc((size_t)n * 4);
    b.got = malloc((size_t)n * 4);
    ns_comm_space s = {.base = shown,
                       .bytes = 2 * SPACE,
                       .to_host = broken_copy,
                       .to_space = broken_copy, /* nothing goes through the host */
                       .stream = kept,
                       .device = &joined,
                       .sums = shown + SPACE,
                       .sums_bytes = (o->size - 1) * (4 << 20),
                       .add = fake_add};
    b.away.space = &s;
    direct_group = &b.away;
    RANK_OK(ns_direct_open(&b.away, &fake_nccl, 0, &err), &err);
    RANK_CHECK(joined == 1);
    memset(b.away.sent, 0, sizeof b.away.sent);
    const int bad = check_all(&b, n);
    RANK_CHECK(n_posted > 10);

    /* what NCCL finds on one rank ends all, with its words, and the kernels that wait; when all are here */
    if (o->rank == 1) RANK_OK(ns_comm_barrier(&b.host, &err), &err);
    if (o->rank == 1) nccl_breaks = 1;
    ns_status st = NS_OK;
    const double until = ns_time_now() + 10;
    while (st == NS_OK && ns_time_now() < until) st = ns_comm_barrier(&b.host, &err);
    RANK_CHECK(st == NS_ERR_DEVICE && strstr(err.msg, "NCCL: unhandled cuda error"));
    if (o->rank != 1) RANK_CHECK(strstr(err.msg, "rank 1 (")); /* the others learn who */
    while (ended < 100 && ns_time_now() < until) usleep(1000);
    RANK_CHECK(ended == 100);
    st = ns_comm_all_reduce(&b.away, shown, NS_DTYPE_F32, 1000, &err);
    RANK_CHECK(st == NS_ERR_DEVICE);
    free(b.host.scratch);
    free(b.a);
    free(b.got);
    drain();
    ns_comm_close(&b.host);
    ns_comm_close(&b.away);
    RANK_CHECK(ended == 100);
    ns_world_close(&w);
    return bad;
}

static void two_and_five_ranks(int (*rank)(ns_world_options *))
{
    for (int n = 2; n <= 5; n += 3) {
        int code[8];
        ns_test_run_ranks(n, rank, code);
        for (int r = 0; r < n; r++) assert_int_equal(code[r], 0);
    }
}

static void test_direct(void **state)
{
    (void)state;
    two_and_five_ranks(direct);
}

static void test_device(void **state)
{
    (void)state;
    two_and_five_ranks(on_a_device);
}

static void test_stage_size(void **state)
{
    (void)state;
    for (int n = 2; n <= 4096; n *= 2) {
        assert_true(ns_comm_stage_bytes(n) <= 32 << 20);
        assert_true(ns_comm_stage_bytes(n) >= 2 * n * 256);
    }
    assert_int_equal(ns_comm_stage_bytes(2), 4 * PIECE_MOST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stage_size), cmocka_unit_test(test_device),
                                       cmocka_unit_test(test_direct)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
