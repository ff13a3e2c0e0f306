/* Which samples share a pack: seconds, efficiency and memory of each algorithm on made-up lengths; the packs of one step.
 *     bench_pack [N [PACK [ALGORITHM [DRAWN]]]]          default: 100000 and 1000000 lengths, packs of 16384, every algorithm
 *     bench_pack --lengths N FILE                 the same lengths as int32, for pack_rival.py
 * Lengths: log-normal, mean near 4465 tokens, 3.67 a pack, cut to 32 .. 16384, as the documented data set's figures are. DRAWN
 * "short": mean near 300. Memory is what the allocator handed out at most, without the lengths themselves (4 bytes each). */
#include "bench.h"

#include <inttypes.h>
#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "pack/packed.h"

static const char *const names[] = {"first_fit_shuffle", "first_fit_decreasing", "best_fit"};

static uint64_t next(uint64_t *s)
{
    *s += 0x9e3779b97f4a7c15u; /* splitmix64 */
    uint64_t z = (*s ^ (*s >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void draw(int32_t *len, int64_t n, double median, int32_t most)
{
    uint64_t s = 1;
    for (int64_t i = 0; i < n; i++) {
        double u = ((double)(next(&s) >> 11) + 0.5) / 9007199254740992.0,
               v = (double)(next(&s) >> 11) / 9007199254740992.0;
        double x = median * exp(0.6 * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
        len[i] = (int32_t)(x < 32 ? 32 : x > most ? most : x);
    }
}

typedef struct job {
    const int32_t *len;
    int64_t n;
    int32_t pack;
    ns_pack_algorithm how;
    int64_t packs;
    double fill;
    uint64_t peak;
} job;

static void assign(void *arg)
{
    job *j = arg;
    ns_bins b;
    ns_error err = NS_ERROR_INIT;
    uint64_t before = ns_mem_get_stats().bytes_now; /* the lengths */
    if (ns_bins_assign(&b, j->len, j->n, j->pack, j->how, 0, &err) != NS_OK) exit(bench_fail(&err));
    j->packs = b.n;
    j->peak = ns_mem_get_stats().bytes_peak - before;
    ns_bins_free(&b);
}

/* In a process of its own: the allocator's peak is this run's. */
static void run(const int32_t *len, int64_t n, int32_t pack, int how)
{
    int status = 0;
    pid_t child = fork();
    if (child > 0) {
        if (waitpid(child, &status, 0) != child || status != 0) exit(1);
        return;
    }
    job j = {.len = len, .n = n, .pack = pack, .how = (ns_pack_algorithm)how};
    double best, median, tokens = 0;
    char more[400];
    for (int64_t i = 0; i < n; i++) tokens += len[i];
    if (n > 2000000) {
        best = bench_now();
        assign(&j);
        best = median = bench_now() - best;
    } else {
        bench_time(&best, &median, assign, &j);
    }
    snprintf(more, sizeof more,
             "\"algorithm\": \"%s\", \"samples\": %" PRId64 ", \"pack\": %d, \"n\": %.3f, \"efficiency\": %.4f, "
             "\"packs\": %" PRId64 ", \"bytes_a_sample\": %.1f, \"threads\": 1",
             names[how], n, pack, (double)n / (double)j.packs, tokens / ((double)j.packs * pack), j.packs,
             (double)j.peak / (double)n);
    bench_line("pack.assign", more, (double)n / best, "samples/s", best, median);
    exit(0);
}

typedef struct step_job {
    ns_mb_split s;
    ns_examples ex;
    int64_t index[512];
    int how;
} step_job;

static void pack_step(void *arg)
{
    step_job *j = arg;
    ns_error err = NS_ERROR_INIT;
    if (ns_split_into_packs(&j->s, &j->ex, j->index, 512, 16384, (ns_pack_algorithm)j->how, 0, &err) != NS_OK)
        exit(bench_fail(&err));
}

/* What packing inside a step costs: 512 examples, as the documented batch. */
static void run_step(const int32_t *len, int how)
{
    static step_job j;
    static int64_t start[513];
    double best, median;
    char more[200];
    ns_error err = NS_ERROR_INIT;
    for (int64_t i = 0; i < 512; i++) start[i + 1] = start[i] + len[i] + 1, j.index[i] = i;
    j.ex = (ns_examples){.n = 512, .start = start};
    j.how = how;
    if (ns_split_new(&j.s, 512, &err) != NS_OK) exit(bench_fail(&err));
    bench_time(&best, &median, pack_step, &j);
    snprintf(more, sizeof more, "\"algorithm\": \"%s\", \"samples\": 512, \"tokens\": %" PRId64 ", \"packs\": %" PRId64,
             names[how], start[512] - 512, j.s.n_micro);
    bench_line("pack.step", more, 512 / best, "samples/s", best, median);
    ns_split_free(&j.s);
}

int main(int argc, char **argv)
{
    int file = argc == 4 && !strcmp(argv[1], "--lengths");
    int64_t n = file ? strtoll(argv[2], NULL, 10) : argc > 1 ? strtoll(argv[1], NULL, 10) : 1000000;
    int32_t pack = !file && argc > 2 ? (int32_t)strtol(argv[2], NULL, 10) : 16384, *len = NULL;
    ns_error err = NS_ERROR_INIT;
    if (n < 512 || pack < 64) {
        fprintf(stderr, "bench_pack: N is at least 512, PACK at least 64\n");
        return 2;
    }
    if (ns_alloc((void **)&len, (size_t)n * sizeof *len, "bench", &err) != NS_OK) return bench_fail(&err);
    draw(len, n, argc > 4 && !strcmp(argv[4], "short") ? 250 : 3730, pack);
    if (file) {
        FILE *f = fopen(argv[3], "wb");
        int bad = !f || fwrite(len, 4, (size_t)n, f) != (size_t)n;
        if (f && fclose(f) != 0) bad = 1;
        if (bad) perror(argv[3]);
        return bad;
    }
    for (int how = 0; how < 3; how++) {
        if (argc > 3 && strcmp(argv[3], "all") && strcmp(argv[3], names[how])) continue;
        if (argc == 1) run(len, 100000, pack, how);
        run(len, n, pack, how);
        if (argc == 1) run_step(len, how);
    }
    ns_free(len);
    return 0;
}
