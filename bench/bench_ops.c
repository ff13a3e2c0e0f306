/* Arithmetic: the matrix products of one training step of a Llama-like layer, for every CPU level that this machine has.
 *     bench_ops [THREADS]...          default: 1 and all
 * GFLOP/s counts 2 M N K a product. `level` is forced, so a slower level is never taken for a faster one. */
#include "bench.h"

#include <inttypes.h>

#include "base/mem.h"
#include "ops/ops.h"

typedef struct job {
    ns_exec x;
    ns_linear_args a;
    void (*op)(ns_exec *, const ns_linear_args *);
} job;

static void run(void *arg)
{
    job *j = arg;
    j->op(&j->x, &j->a);
}

/* Values of size ~1 with all mantissa bits in use; any bytes would do for speed, but NaN and denormals would not. */
static void fill(void *p, ns_dtype dt, int64_t n)
{
    uint32_t s = 12345;
    for (int64_t i = 0; i < n; i++) {
        s = s * 1664525u + 1013904223u;
        float v = (float)(int32_t)s / 2147483648.0f;
        uint32_t bits;
        memcpy(&bits, &v, sizeof bits);
        if (dt == NS_DTYPE_F32)
            ((float *)p)[i] = v;
        else
            ((uint16_t *)p)[i] = (uint16_t)(bits >> 16);
    }
}

static void *must_alloc(int64_t bytes)
{
    void *p = NULL;
    ns_error err = NS_ERROR_INIT;
    if (ns_alloc(&p, (size_t)bytes, "bench.ops", &err) != NS_OK) exit(bench_fail(&err));
    return p;
}

static int shape(const ns_ops *ops, const char *level, ns_threads *pool, ns_dtype dt, int64_t M, int64_t N, int64_t K)
{
    int64_t e = (int64_t)ns_dtype_size(dt), fwd = 0, dx = 0;
    ns_weight w = {.name = "bench", .rows = N, .cols = K, .dt = dt, .data = must_alloc(N * K * e)};
    fill(w.data, dt, N * K);
    w.grad = must_alloc(N * K * (int64_t)sizeof(float));
    job j = {.x = {.ops = ops, .pool = pool}};
    if (ops->prepare_bytes) ops->prepare_bytes(&w, &fwd, &dx);
    w.panels_fwd = must_alloc(fwd);
    w.panels_dx = must_alloc(dx);
    j.x.work_bytes = ops->work_bytes(&j.x, M, M, K, N, N, 1, 64);
    j.x.work = must_alloc(j.x.work_bytes);
    if (ops->prepare) ops->prepare(&j.x, &w);
    void *x = must_alloc(M * K * e), *y = must_alloc(M * N * e), *dxp = must_alloc(M * K * e);
    fill(x, dt, M * K);
    fill(y, dt, M * N);
    j.a = (ns_linear_args){.M = M, .N = N, .K = K, .dt = dt, .w = &w, .x = x, .y = y, .dy = y, .dx = dxp};
    const struct {
        const char *name;
        void (*op)(ns_exec *, const ns_linear_args *);
    } which[] = {{"ops.linear_fwd", ops->linear_fwd},
                 {"ops.linear_dgrad", ops->linear_dgrad},
                 {"ops.linear_wgrad", ops->linear_wgrad}};
    for (size_t i = 0; i < sizeof which / sizeof which[0]; i++) {
        double best, median;
        char more[192];
        j.op = which[i].op;
        bench_time(&best, &median, run, &j);
        snprintf(more, sizeof more,
                 "\"level\": \"%s\", \"dtype\": \"%s\", \"M\": %" PRId64 ", \"N\": %" PRId64 ", \"K\": %" PRId64
                 ", \"threads\": %d",
                 level, ns_dtype_name(dt), M, N, K, ns_threads_count(pool));
        bench_line(which[i].name, more, 2.0 * (double)M * (double)N * (double)K / best / 1e9, "GFLOP/s", best, median);
    }
    int failed = j.x.err.code != NS_OK;
    if (failed) bench_fail(&j.x.err);
    void *all[] = {w.data, w.grad, w.panels_fwd, w.panels_dx, j.x.work, x, y, dxp};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) ns_free(all[i]);
    return failed;
}

int main(int argc, char **argv)
{
    static const char *const levels[] = {"f32", "avx2", "avx512", "amx"};
    int threads[16] = {1, 0}, n_threads = 2, rc = 0;
    if (argc > 1)
        for (n_threads = 0; n_threads < argc - 1 && n_threads < 16; n_threads++)
            threads[n_threads] = atoi(argv[n_threads + 1]);
    for (int t = 0; t < n_threads; t++) {
        ns_error err = NS_ERROR_INIT;
        ns_threads *pool = NULL;
        if (ns_threads_new(&pool, threads[t], &err) != NS_OK) return bench_fail(&err);
        if (t && ns_threads_count(pool) == 1) { /* "all" is 1: measured already */
            ns_threads_free(&pool);
            continue;
        }
        for (size_t l = 0; l < sizeof levels / sizeof levels[0]; l++) {
            ns_ops ops;
            if (ns_ops_cpu(&ops, levels[l], NULL) != NS_OK) {
                char why[96];
                snprintf(why, sizeof why, "level %s is not available on this machine", levels[l]);
                if (!t) bench_skip("ops.linear", why);
                continue;
            }
            rc |= shape(&ops, levels[l], pool, NS_DTYPE_F32, 1024, 1024, 1024);
            rc |= shape(&ops, levels[l], pool, NS_DTYPE_BF16, 1024, 1024, 1024);
            rc |= shape(&ops, levels[l], pool, NS_DTYPE_BF16, 1024, 2816, 1024); /* gate or up of a 0.5 B model */
        }
        ns_threads_free(&pool);
    }
    return rc;
}
