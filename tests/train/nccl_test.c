/* NCCL itself, as far as one GPU goes: a group of one rank that talks to itself, through every collective of dist/direct.c, between
 * kernels before and behind on one stream; two ranks on one GPU, which NCCL refuses: told with its own words; a join whose other
 * member never comes is given up. Without GPU, plug-in or NCCL all of it is skipped, with the reason. */
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

static int open_all(ns_error *err)
{
    if (ns_cuda_open(&ops, &device, &info, err) != NS_OK) return 0;
    return ns_nccl_open(&nccl, &version, err) == NS_OK;
}

static void need(void)
{
    ns_error err = NS_ERROR_INIT;
    if (open_all(&err)) return;
    print_message("SKIP: NCCL: %s\n", err.msg);
    ns_cuda_close(&device);
    skip();
}

enum { N = (5 << 20) / 4 * 3 + 77, BYTES = 64 << 20 }; /* more than a round of a sum */
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
        const int64_t es = bf16 ? 2 : 4, piece = (4 << 20) / es, len = cut[1] - cut[0],
                      last = (len - 1) / piece * piece;
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
        cmocka_unit_test(two_ranks_on_one_gpu_are_refused),
        cmocka_unit_test(a_group_of_one),
        cmocka_unit_test(a_join_is_given_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
