/* NCCL itself. With two GPUs or more: a rank each, every collective of dist/direct.c in every type against sums made on the host in member
 * order, bit for bit, twice; how fast. With one: a group of one rank that talks to itself, between kernels before and behind on one stream;
 * two ranks on one GPU, which NCCL refuses: told with its own words; a join whose other member never comes is given up. Without GPU,
 * plug-in or NCCL all of it is skipped, with the reason. */
#include <unistd.h>

#include "base/log.h"
#include "dist/direct.h"
#include "dist/dist_testing.h"
#include "ops/cuda/cuda.h"

static ns_ops ops;
static ns_cuda_info info;
static void *device;
static const ns_nccl_plugin *nccl;
static const char *version = "";

static int open_nth(int nth, ns_error *err)
{
    if (ns_cuda_open_nth(&ops, &device, &info, nth, err) != NS_OK) return 0;
    return ns_nccl_open(&nccl, &version, err) == NS_OK;
}

static int open_all(ns_error *err)
{
    return open_nth(0, err);
}

static void need(void)
{
    ns_error err = NS_ERROR_INIT;
    if (open_all(&err)) return;
    print_message("SKIP: NCCL: %s\n", err.msg);
    ns_cuda_close(&device);
    skip();
}

enum { N = (5 << 20) / 4 * 3 + 77, BYTES = 64 << 20, PIECE = 4 << 20 }; /* more than a round of a sum */
static ns_exec x;
static char *memory;
static float *host, *back;

static ns_comm_space space_of(void)
{
    ns_error err = NS_ERROR_INIT;
    memset(&x, 0, sizeof x);
    x.ops = &ops;
    x.backend = device;
    assert_ns_ok(ops.mem_new(&x, (void **)&memory, BYTES, &err), &err);
    return (ns_comm_space){.base = memory,
                           .bytes = BYTES,
                           .stream = ns_cuda_opened()->stream(device),
                           .device = device,
                           .sums = memory + BYTES / 2,
                           .sums_bytes = PIECE,
                           .add = ns_cuda_opened()->add_members};
}

/* Kernels before: the array is host + host. */
static void produce(char *to, ns_dtype dt)
{
    const int64_t bytes = N * (int64_t)ns_dtype_size(dt);
    ops.upload(&x, memory, host, bytes);
    ops.add(&x, &(ns_add_args){.n = N, .dt = dt, .x = memory, .delta = memory, .y = to});
}

static void a_group_of_one(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_world_options o = {.size = 1, .local_size = 1};
    ns_world *w;
    ns_comm c;
    const int64_t cut[2] = {3, N - 5};
    need();
    host = malloc((size_t)N * 4);
    back = malloc((size_t)N * 4);
    for (int64_t i = 0; i < N; i++) host[i] = (float)(i % 4001) * 0.25f;
    assert_ns_ok(ns_world_open(&w, &o, &err), &err);
    assert_ns_ok(ns_comm_open(&c, w, (int[]){0}, 1, &err), &err);
    ns_comm_space s = space_of();
    char *a = memory + (16 << 20), *sums = s.sums;
    assert_true((int64_t)N * 4 <= 16 << 20);
    c.space = &s;
    assert_ns_ok(ns_direct_open(&c, nccl, 1, &err), &err);
    print_message("%s on %s\n", version, info.name);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        const ns_dtype dt = bf16 ? NS_DTYPE_BF16 : NS_DTYPE_F32;
        const int64_t es = bf16 ? 2 : 4, piece = PIECE / es, len = cut[1] - cut[0], last = (len - 1) / piece * piece;
        for (int64_t i = 0; bf16 && i < N; i++) ((uint16_t *)(void *)host)[i] = ns_f32_to_bf16((float)(i % 401));
        produce(a, dt);
        ops.download(&x, back, a, N * es);
        memcpy(host, back, (size_t)(N * es)); /* what is to come out of all of these */
        ops.upload(&x, memory, host, N * es);
        assert_ns_ok(ns_comm_reduce_scatter(&c, a, dt, cut, &err), &err);
        ops.download(&x, back, a, N * es);
        assert_memory_equal(back, host, (size_t)(N * es));
        ops.download(&x, back, sums, (len - last) * es); /* it went over NCCL: the last round is still there */
        assert_memory_equal(back, (char *)host + (cut[0] + last) * es, (size_t)((len - last) * es));
        assert_ns_ok(ns_comm_all_gather(&c, a, cut, (int)es, &err), &err);
        assert_ns_ok(ns_comm_all_reduce(&c, a, dt, N, &err), &err);
        ops.download(&x, back, a, N * es);
        assert_memory_equal(back, host, (size_t)(N * es));
    }
    assert_ns_ok(ns_comm_broadcast(&c, a, N, 0, &err), &err);
    /* a kernel, NCCL, a kernel: nothing waits in between; in the order of the stream */
    for (int64_t i = 0; i < N; i++) host[i] = (float)(i % 997);
    for (int turn = 0; turn < 20; turn++) {
        char *from = a, *to = memory + BYTES / 2;
        produce(from, NS_DTYPE_F32);
        assert_ns_ok(ns_comm_send_recv(&c, 0, from, (int64_t)N * 4, 0, to, (int64_t)N * 4, &err), &err);
        ops.zero(&x, &(ns_fill_args){from, (int64_t)N * 4}); /* NCCL has read it by then */
        ops.add(&x, &(ns_add_args){.n = N, .dt = NS_DTYPE_F32, .x = to, .delta = to, .y = from});
        ops.zero(&x, &(ns_fill_args){to, (int64_t)N * 4});
    }
    ops.download(&x, back, a, (int64_t)N * 4);
    for (int64_t i = 0; i < N; i++) assert_true(back[i] == 4 * host[i]);
    const double began = ns_time_now();
    for (int i = 0; i < 1000; i++) assert_ns_ok(ns_comm_send_recv(&c, 0, a, 1024, 0, memory, 1024, &err), &err);
    const double enqueued = ns_time_now();
    ops.download(&x, back, a, 4);
    print_message("1000 exchanges of 1 KiB: %.1f us each to enqueue, %.1f us each in all\n", (enqueued - began) * 1e3,
                  (ns_time_now() - began) * 1e3);
    assert_int_equal(x.err.code, NS_OK);
    assert_true(c.sent[NS_COMM_SEND] == 0); /* to itself: nothing left the rank */
    ns_comm_close(&c);
    ns_world_close(&w);
    ops.mem_free(&x, memory);
    ns_cuda_close(&device);
    free(host);
    free(back);
}

/* ---- a GPU each ---- */
enum { EACH = (1 << 20) + 1357, WIDE = 160 << 20, MOST_RANKS = 8 }; /* values of a rank; bytes of its arrays */

/* What rank r has in element i: of any size, so that the order of a sum shows. */
static float value_of(int r, int64_t i, uint32_t salt)
{
    uint32_t s = ((uint32_t)i * 2654435761u) ^ ((uint32_t)r * 747796405u + salt);
    s = (s ^ s >> 15) * 2246822519u;
    return (float)(int32_t)(s ^ s >> 13) * (s & 4096 ? 0x1p-31f : 0x1p-40f);
}

static void put_values(void *to, ns_dtype dt, int rank, uint32_t salt)
{
    for (int64_t i = 0; i < EACH; i++)
        if (dt == NS_DTYPE_BF16)
            ((uint16_t *)to)[i] = ns_f32_to_bf16(value_of(rank, i, salt));
        else
            ((float *)to)[i] = value_of(rank, i, salt);
}

/* Elements [from, to) of the sum over n ranks in their order. */
static void put_sums(void *out, ns_dtype dt, int n, int64_t from, int64_t to, uint32_t salt)
{
    for (int64_t i = from; i < to; i++) {
        float sum = 0;
        for (int r = 0; r < n; r++) {
            const float whole = value_of(r, i, salt),
                        v = dt == NS_DTYPE_BF16 ? ns_bf16_to_f32(ns_f32_to_bf16(whole)) : whole;
            sum = r == 0 ? v : sum + v;
        }
        if (dt == NS_DTYPE_BF16)
            ((uint16_t *)out)[i] = ns_f32_to_bf16(sum);
        else
            ((float *)out)[i] = sum;
    }
}

/* The device's array has the values of `want`. */
static int holds(const void *there, const void *want, int64_t bytes)
{
    ops.download(&x, back, there, bytes);
    return memcmp(back, want, (size_t)bytes) == 0;
}

static int every_collective(ns_comm *c, ns_dtype dt, uint32_t salt)
{
    ns_error err = NS_ERROR_INIT;
    const int n = c->size, rank = c->rank;
    const int64_t es = (int64_t)ns_dtype_size(dt), bytes = EACH * es;
    char *a = memory, *want = malloc((size_t)bytes);
    int64_t cut[MOST_RANKS + 1];
    for (int r = 0; r <= n; r++) cut[r] = r == 0 ? 3 : r == n ? EACH - 5 : 3 + EACH / (n + 1) * r; /* uneven */
    for (int turn = 0; turn < 2; turn++) {
        if (turn) cut[1] = cut[0]; /* and one piece empty */
        put_values(host, dt, rank, salt);
        ops.upload(&x, a, host, bytes);
        RANK_OK(ns_comm_reduce_scatter(c, a, dt, cut, &err), &err);
        memcpy(want, host, (size_t)bytes);
        put_sums(want, dt, n, cut[rank], cut[rank + 1], salt);
        RANK_CHECK(holds(a, want, bytes)); /* the rest keeps its values */
        RANK_OK(ns_comm_all_gather(c, a, cut, (int)es, &err), &err);
        put_sums(want, dt, n, cut[0], cut[n], salt);
        RANK_CHECK(holds(a, want, bytes));
        ops.upload(&x, a, host, bytes);
        RANK_OK(ns_comm_all_reduce(c, a, dt, EACH, &err), &err);
        put_sums(want, dt, n, 0, EACH, salt);
        RANK_CHECK(holds(a, want, bytes));
        for (int root = 0; root < n; root++) {
            ops.upload(&x, a, host, bytes);
            RANK_OK(ns_comm_broadcast(c, a, bytes - 3, root, &err), &err);
            put_values(want, dt, root, salt);
            memcpy(want + bytes - 3, (char *)host + bytes - 3, 3);
            RANK_CHECK(holds(a, want, bytes));
        }
        /* a ring, and one direction of it only, odd lengths */
        const int next = (rank + 1) % n, before = (rank + n - 1) % n;
        const int64_t half = EACH / 2 * es - 1;
        ops.upload(&x, a, host, bytes);
        RANK_OK(ns_comm_send_recv(c, next, a, half, before, a + half + 1, half, &err), &err);
        put_values(want, dt, before, salt);
        memmove(want + half + 1, want, (size_t)half);
        memcpy(want, host, (size_t)half + 1);
        memcpy(want + 2 * half + 1, (char *)host + 2 * half + 1, (size_t)(bytes - 2 * half - 1));
        RANK_CHECK(holds(a, want, bytes));
        RANK_OK(ns_comm_send_recv(c, rank == 0 ? 1 : -1, a, 999, rank == 1 ? 0 : -1, a, 999, &err), &err);
        if (rank == 1) {
            put_values(want, dt, 0, salt);
            RANK_CHECK(holds(a, want, 999));
        }
    }
    free(want);
    return 0;
}

static void say_speed(ns_comm *c, const char *what, int64_t bytes, int64_t sent, int op)
{
    ns_error err = NS_ERROR_INIT;
    enum { TIMES = 20 };
    double best = 1e9;
    char byte;
    ns_comm_cut(bytes / 4, 64, c->size, c->cut);
    int64_t cut[MOST_RANKS + 1];
    memcpy(cut, c->cut, sizeof *cut * ((size_t)c->size + 1));
    for (int round = 0; round < 4; round++) {
        if (ns_comm_barrier(c, &err) != NS_OK) return;
        const double began = ns_time_now();
        for (int i = 0; i < TIMES; i++) {
            ns_status st =
                op == 0   ? ns_comm_all_gather(c, memory, cut, 4, &err)
                : op == 1 ? ns_comm_reduce_scatter(c, memory, NS_DTYPE_F32, cut, &err)
                : op == 2 ? ns_comm_all_reduce(c, memory, NS_DTYPE_BF16, bytes / 2, &err)
                          : ns_comm_send_recv(c, (c->rank + 1) % c->size, memory, bytes / 2,
                                              (c->rank + c->size - 1) % c->size, memory + WIDE / 2, bytes / 2, &err);
            if (st != NS_OK) return;
        }
        ops.download(&x, &byte, memory, 1);
        const double s = (ns_time_now() - began) / TIMES;
        if (s < best) best = s;
    }
    if (c->rank == 0)
        printf("%s of %.3f MB: %.1f us, %.1f GB/s sent by each rank\n", what, (double)bytes / 1e6, best * 1e6,
               (double)sent / best / 1e9);
    fflush(stdout);
}

/* Exit code 9: nothing to test with. */
static int a_gpu_each(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    ns_world *w;
    ns_comm c;
    int ranks[MOST_RANKS];
    alarm(200);
    if (!open_nth(o->rank, &err)) return 9;
    if (info.count < o->size) return 9;
    for (int r = 0; r < o->size; r++) ranks[r] = r;
    host = malloc((size_t)EACH * 4);
    back = malloc((size_t)EACH * 4);
    RANK_OK(ns_world_open(&w, o, &err), &err);
    RANK_OK(ns_comm_open(&c, w, ranks, o->size, &err), &err);
    memset(&x, 0, sizeof x);
    x.ops = &ops;
    x.backend = device;
    const int64_t sums = ns_direct_sums_bytes(o->size);
    RANK_OK(ops.mem_new(&x, (void **)&memory, WIDE + sums, &err), &err);
    ns_comm_space s = {.base = memory,
                       .bytes = WIDE + sums,
                       .stream = ns_cuda_opened()->stream(device),
                       .device = device,
                       .sums = memory + WIDE,
                       .sums_bytes = (o->size - 1) * (1 << 20), /* several rounds */
                       .add = ns_cuda_opened()->add_members};
    c.space = &s;
    RANK_OK(ns_direct_open(&c, nccl, 0, &err), &err);
    if (o->rank == 0) printf("%s, %d ranks on %s\n", version, o->size, info.name);
    for (uint32_t salt = 1; salt <= 2; salt++) {
        RANK_CHECK(every_collective(&c, NS_DTYPE_F32, salt) == 0);
        RANK_CHECK(every_collective(&c, NS_DTYPE_BF16, salt) == 0);
    }
    const int64_t n = o->size, large = 128 << 20, small = 64 << 10;
    s.sums_bytes = sums;
    say_speed(&c, "all_gather", large, large / n * (n - 1), 0);
    say_speed(&c, "reduce_scatter (f32)", large, large / n * (n - 1), 1);
    say_speed(&c, "all_reduce (bf16)", 16 << 20, (16 << 20) / n * (n - 1) * 2, 2);
    say_speed(&c, "send_recv", large, large / 2, 3);
    say_speed(&c, "all_reduce (bf16)", small, small / n * (n - 1) * 2, 2);
    say_speed(&c, "send_recv", 2048, 1024, 3);
    RANK_CHECK(x.err.code == NS_OK);
    RANK_OK(ns_comm_barrier(&c, &err), &err);
    ns_comm_close(&c);
    ns_world_close(&w);
    ops.mem_free(&x, memory);
    ns_cuda_close(&device);
    return 0;
}

static void ranks_with_a_gpu_each(void **state)
{
    (void)state;
    int code[MOST_RANKS], most = 2; /* before this process opens the GPU */
    ns_test_run_ranks(most, a_gpu_each, code);
    if (code[0] == 9) {
        print_message("SKIP: no two GPUs, or no NCCL\n");
        skip();
    }
    for (int r = 0; r < most; r++) assert_int_equal(code[r], 0);
}

/* Exit code 0: refused as wanted; 9: nothing to test with. */
static int two_on_one(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    ns_world *w;
    ns_comm c;
    if (!open_all(&err)) return 9;
    RANK_OK(ns_world_open(&w, o, &err), &err);
    RANK_OK(ns_comm_open(&c, w, (int[]){0, 1}, 2, &err), &err);
    ns_status st = ns_direct_open(&c, nccl, 0, &err);
    if (st != NS_OK) ns_world_fail(w, &err);
    if (o->rank == 0) printf("two ranks on one GPU: %s\n", err.msg);
    fflush(stdout);
    RANK_CHECK(st == NS_ERR_DEVICE && strstr(err.msg, "NCCL"));
    ns_comm_close(&c);
    ns_world_close(&w);
    return 0;
}

static void two_ranks_on_one_gpu_are_refused(void **state)
{
    (void)state;
    int code[2];
    ns_test_run_ranks(2, two_on_one, code); /* before this process opens the GPU: a forked child cannot use it */
    if (code[0] == 9) {
        print_message("SKIP: no GPU or no NCCL\n");
        skip();
    }
    assert_int_equal(code[0], 0);
    assert_int_equal(code[1], 0);
}

static void a_join_is_given_up(void **state)
{
    (void)state;
    char id[NS_NCCL_ID];
    const char *why = "";
    void *group = NULL;
    need();
    if (getenv("NS_NCCL_BLOCKING")) {
        print_message("SKIP: NS_NCCL_BLOCKING: it would wait\n");
        skip();
    }
    alarm(60);
    assert_int_equal(nccl->new_id(id, &why), NS_NCCL_READY);
    ns_nccl_state s = nccl->join(&group, id, 0, 2, &why);
    for (int i = 0; i < 100 && s == NS_NCCL_BUSY; i++) {
        usleep(10000);
        s = nccl->state(group, &why);
    }
    assert_int_equal(s, NS_NCCL_BUSY);
    const double began = ns_time_now();
    nccl->close(group, 1);
    print_message("given up in %.2f s\n", ns_time_now() - began);
    alarm(0);
    ns_cuda_close(&device);
}

/* No GPU needed. */
static void a_missing_plugin_is_named(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    const ns_nccl_plugin *p;
    const char *v;
    setenv("NS_NCCL_PLUGIN", "/nowhere/libns_nccl.so", 1);
    assert_int_equal(ns_nccl_open(&p, &v, &err), NS_ERR_DEVICE);
    assert_non_null(strstr(err.msg, "/nowhere/libns_nccl.so"));
    err = (ns_error)NS_ERROR_INIT;
    setenv("NS_NCCL_PLUGIN", NS_PROGRAM, 1); /* a file, but no plug-in */
    assert_int_equal(ns_nccl_open(&p, &v, &err), NS_ERR_DEVICE);
    unsetenv("NS_NCCL_PLUGIN");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_plugin_is_named),
        cmocka_unit_test(ranks_with_a_gpu_each),
        cmocka_unit_test(two_ranks_on_one_gpu_are_refused),
        cmocka_unit_test(a_group_of_one),
        cmocka_unit_test(a_join_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
