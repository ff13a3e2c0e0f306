/* `ns export` beside the disk's own copy, in turn, on one random model: hf to nemo, nemo to hf, hf to gguf q8_0. The rival is
 * `cp -r` and sync of the same folder. The inputs are dropped from the file cache before each run, where the system does it (clean
 * pages only); what was written is removed after it.
 *     bench_export PROGRAM [GIGABYTES] [REPEATS] [FOLDER]            (1, 3, $TMPDIR or /tmp; needs 3 times the room)
 * A line each: bytes of input a second of the best run, share of cp's best by the clock, CPU seconds, peak memory. */
#include "bench.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_CASES = 4, MOST = 25 };

typedef struct what {
    const char *name, *input, *to, *extra;
    double clock[MOST], cpu[MOST], memory; /* s, s, MB */
} what;

static double tree_bytes;

static int drop(const char *path, const struct stat *sb, int type, struct FTW *f)
{
    (void)f;
    if (type != FTW_F) return 0;
    tree_bytes += (double)sb->st_size;
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 0;
    (void)!posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    return 0;
}

/* sh -c COMMAND, timed. */
static void run(const char *command, double *clock, double *cpu, double *memory)
{
    struct rusage u;
    int status = 0;
    double t0 = bench_now();
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    if (pid < 0 || wait4(pid, &status, 0, &u) != pid || status) {
        fprintf(stderr, "bench_export: failed: %s\n", command);
        exit(1);
    }
    *clock = bench_now() - t0;
    *cpu = (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
    if (memory && (double)u.ru_maxrss / 1024 > *memory) *memory = (double)u.ru_maxrss / 1024;
}

static void shell(const char *command)
{
    double a, b;
    run(command, &a, &b, NULL);
}

/* A Llama with layers of 0.134 GB in bf16, as many as asked for. */
static void make_model(const char *ns, const char *dir, double gigabytes)
{
    char command[8192];
    int layers = (int)(gigabytes / 0.1344 + 0.5);
    snprintf(
        command, sizeof command,
        "cat >'%s/config.json' <<'JSON'\n"
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 2048, "
        "\"intermediate_size\": 8704, \"num_hidden_layers\": %d, \"num_attention_heads\": 32, "
        "\"num_key_value_heads\": 8, \"vocab_size\": 4096, \"max_position_embeddings\": 4096, \"rms_norm_eps\": "
        "1e-5, \"rope_theta\": 500000.0, \"tie_word_embeddings\": true, \"hidden_act\": \"silu\", \"torch_dtype\": "
        "\"bfloat16\"}\nJSON\n"
        "'%s' init --config '%s/config.json' --output '%s/hf' --quiet >/dev/null && '%s' export '%s/hf' '%s/nemo' "
        "--convert_to nemo --parity off --quiet >/dev/null 2>&1",
        dir, layers > 0 ? layers : 1, ns, dir, dir, ns, dir, dir);
    shell(command);
}

static void measure(what *w, int i, const char *ns, const char *dir)
{
    char command[8192], path[2048];
    snprintf(path, sizeof path, "%s/%s", dir, w->input);
    tree_bytes = 0;
    (void)!nftw(path, drop, 16, FTW_PHYS);
    if (w->to)
        snprintf(command, sizeof command,
                 "exec '%s' export '%s' '%s/out' --convert_to %s %s --parity off --quiet >/dev/null 2>&1", ns, path,
                 dir, w->to, w->extra);
    else
        snprintf(command, sizeof command, "cp -r '%s' '%s/out' && find '%s/out' -type f -exec sync '{}' +", path, dir,
                 dir);
    run(command, &w->clock[i], &w->cpu[i], &w->memory);
    snprintf(command, sizeof command, "rm -rf '%s/out' && sync '%s'", dir, dir);
    shell(command);
}

static void report(what *w, int n, double bytes, const what *copy)
{
    char more[400], share[80] = "";
    qsort(w->clock, (size_t)n, sizeof *w->clock, bench_compare);
    qsort(w->cpu, (size_t)n, sizeof *w->cpu, bench_compare);
    if (w->to)
        snprintf(share, sizeof share, "\"share_of_cp\": %.3g, \"cpu_of_cp\": %.3g, ", copy->clock[0] / w->clock[0],
                 w->cpu[0] / copy->cpu[0]);
    snprintf(more, sizeof more, "%s\"cpu_s\": %.3g, \"memory_mb\": %.4g, \"input_gb\": %.3g", share, w->cpu[0],
             w->memory, bytes / 1e9);
    bench_line(w->name, more, bytes / w->clock[0] / 1e6, "MB/s", w->clock[0], w->clock[n / 2]);
}

int main(int argc, char **argv)
{
    static what cases[N_CASES] = {{.name = "export.cp", .input = "hf"},
                                  {.name = "export.hf_nemo", .input = "hf", .to = "nemo", .extra = ""},
                                  {.name = "export.nemo_hf", .input = "nemo", .to = "hf", .extra = ""},
                                  {.name = "export.hf_q8_0", .input = "hf", .to = "gguf", .extra = "--gguf-type q8_0"}};
    const char *tmp = getenv("TMPDIR");
    char dir[1024], command[1200];
    if (argc < 2 || argc > 5) {
        fprintf(stderr, "usage: bench_export PROGRAM [GIGABYTES] [REPEATS] [FOLDER]\n");
        return 2;
    }
    int n = argc > 3 ? atoi(argv[3]) : 3;
    n = n < 1 ? 1 : n > MOST ? MOST : n;
    snprintf(dir, sizeof dir, "%s/ns-bench-XXXXXX", argc > 4 ? argv[4] : tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) return bench_skip("export", "no folder to work in");
    double bytes = 0;
    make_model(argv[1], dir, argc > 2 ? atof(argv[2]) : 1);
    for (int i = 0; i < n; i++) /* in turn: what disturbs one disturbs the others */
        for (int k = 0; k < N_CASES; k++) {
            measure(&cases[k], i, argv[1], dir);
            if (k == 0) bytes = tree_bytes;
        }
    for (int k = 0; k < N_CASES; k++) report(&cases[k], n, bytes, &cases[0]);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    shell(command);
    return 0;
}
