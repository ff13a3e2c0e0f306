/* `ns export` beside the disk's own copy, in turn, on one random model, every direction. The rival is `cp -r` and sync of the Hugging
 * Face folder. What was written is removed after each run.
 *     bench_export PROGRAM [GIGABYTES|8b] [REPEATS] [FOLDER] [cold|warm] [CASE,...]
 *         1, 3, $TMPDIR or /tmp; needs 5 times the room (f32). 8b: the shape of Llama 3.1 8B
 *         cold: inputs leave the file cache before each run, where the system does it (clean pages only); warm: they are read before it
 * With NS_BENCH_ORIGINAL (nemo_skills/conversion of NeMo-Skills) and NS_BENCH_PYTHON (torch, transformers, omegaconf) also the
 * original's scripts, export_rival.py, once each.
 * A line each on stdout: bytes of input a second of the best run, share of cp's best by the clock (cp's seconds through ours), CPU
 * seconds, peak memory. The same as a table on stderr. */
#include "bench.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 25 };

typedef struct what {
    const char *name, *input, *options; /* options NULL: cp; "" : the original's script */
    int n;
    double clock[MOST], cpu[MOST], memory, out; /* s, s, MB, bytes */
} what;

static what cases[] = {{.name = "cp", .input = "hf"},
                       {.name = "hf_hf", .input = "hf", .options = "--convert_to hf"},
                       {.name = "hf_nemo", .input = "hf", .options = "--convert_to nemo"},
                       {.name = "nemo_hf", .input = "nemo", .options = "--convert_to hf"},
                       {.name = "hf_zarr", .input = "hf", .options = "--convert_to nemo --nemo-format zarr"},
                       {.name = "hf_trtllm", .input = "hf", .options = "--convert_to trtllm --num_gpus 2"},
                       {.name = "hf_bf16", .input = "hf", .options = "--convert_to gguf --gguf-type bf16"},
                       {.name = "hf_q8_0", .input = "hf", .options = "--convert_to gguf --gguf-type q8_0"},
                       {.name = "hf_f32", .input = "hf", .options = "--convert_to gguf --gguf-type f32"},
                       {.name = "original.hf_nemo", .input = "hf", .options = ""},
                       {.name = "original.nemo_hf", .input = "nemo", .options = ""}};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static double tree_bytes;

static int warm;

/* Counts, and puts the file out of the cache or into it. */
static int visit(const char *path, const struct stat *sb, int type, struct FTW *f)
{
    static char buf[1 << 20];
    (void)f;
    if (type != FTW_F) return 0;
    tree_bytes += (double)sb->st_size;
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 0;
    if (!warm) (void)!posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    while (warm && read(fd, buf, sizeof buf) > 0) {
    }
    close(fd);
    return 0;
}

static double count(const char *dir, const char *name)
{
    char path[2048];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    tree_bytes = 0;
    (void)!nftw(path, visit, 16, FTW_PHYS);
    return tree_bytes;
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

/* A Llama with layers of 0.134 GB in bf16, as many as asked for, or the shape of 8B. */
static void make_model(const char *ns, const char *dir, const char *size)
{
    char command[8192];
    int big = !strcmp(size, "8b"), layers = big ? 32 : (int)(atof(size) / 0.1344 + 0.5);
    snprintf(
        command, sizeof command,
        "cat >'%s/config.json' <<'JSON'\n"
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": %d, "
        "\"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": 32, "
        "\"num_key_value_heads\": 8, \"vocab_size\": %d, \"max_position_embeddings\": 4096, \"rms_norm_eps\": "
        "1e-5, \"rope_theta\": 10000.0, \"tie_word_embeddings\": false, \"hidden_act\": \"silu\", \"torch_dtype\": "
        "\"bfloat16\"}\nJSON\n"
        "'%s' init --config '%s/config.json' --output '%s/hf' --quiet >/dev/null && '%s' export '%s/hf' '%s/nemo' "
        "--convert_to nemo --parity off --quiet >/dev/null 2>&1 && sync -f '%s'",
        dir, big ? 4096 : 2048, big ? 14336 : 8704, layers > 0 ? layers : 1, big ? 128256 : 4096, ns, dir, dir, ns, dir,
        dir, dir);
    shell(command);
}

static void measure(what *w, const char *ns, const char *dir)
{
    char command[8192];
    count(dir, w->input);
    if (!w->options)
        snprintf(command, sizeof command, "cp -r '%s/%s' '%s/out' && find '%s/out' -type f -exec sync '{}' +", dir,
                 w->input, dir, dir);
    else if (!*w->options)
        snprintf(command, sizeof command, "exec '%s' bench/export_rival.py '%s' %s '%s/%s' '%s/out' >/dev/null 2>&1",
                 getenv("NS_BENCH_PYTHON"), getenv("NS_BENCH_ORIGINAL"), strchr(w->name, '.') + 1, dir, w->input, dir);
    else
        snprintf(command, sizeof command, "exec '%s' export '%s/%s' '%s/out' %s --parity off --quiet >/dev/null 2>&1",
                 ns, dir, w->input, dir, w->options);
    run(command, &w->clock[w->n], &w->cpu[w->n], &w->memory);
    w->n++;
    int keep = warm;
    warm = 0;
    w->out = count(dir, "out");
    warm = keep;
    snprintf(command, sizeof command, "rm -rf '%s/out' && sync -f '%s'", dir, dir);
    shell(command);
}

static void report(what *w, double bytes)
{
    char more[400], share[80] = "", name[64];
    const what *cp = &cases[0];
    if (!w->n) return;
    qsort(w->clock, (size_t)w->n, sizeof *w->clock, bench_compare);
    qsort(w->cpu, (size_t)w->n, sizeof *w->cpu, bench_compare);
    if (w != cp && cp->n)
        snprintf(share, sizeof share, "\"share_of_cp\": %.3g, \"cpu_of_cp\": %.3g, ", cp->clock[0] / w->clock[0],
                 w->cpu[0] / cp->cpu[0]);
    snprintf(more, sizeof more, "%s\"cpu_s\": %.3g, \"memory_mb\": %.4g, \"input_gb\": %.3g, \"cache\": \"%s\"", share,
             w->cpu[0], w->memory, bytes / 1e9, warm ? "warm" : "cold");
    snprintf(name, sizeof name, "export.%s", w->name);
    bench_line(name, more, bytes / w->clock[0] / 1e6, "MB/s", w->clock[0], w->clock[w->n / 2]);
    fprintf(
        stderr,
        "%-17s %5.1f GB -> %5.1f GB  best %6.2f s  median %6.2f s  %5.2f of cp (median %5.2f)  cpu %6.2f s  %6.0f MB\n",
        w->name, bytes / 1e9, w->out / 1e9, w->clock[0], w->clock[w->n / 2], cp->n ? cp->clock[0] / w->clock[0] : 0,
        cp->n ? cp->clock[cp->n / 2] / w->clock[w->n / 2] : 0, w->cpu[0], w->memory);
}

/* Is the case wanted, and can it run? */
static int wanted(const what *w, const char *list)
{
    size_t n = strlen(w->name);
    if (w->options && !*w->options && (!getenv("NS_BENCH_ORIGINAL") || !getenv("NS_BENCH_PYTHON") || w->n)) return 0;
    for (const char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
        if (!strncmp(p, w->name, n) && (!p[n] || p[n] == ',')) return 1;
    return !list;
}

int main(int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR"), *list = argc > 6 ? argv[6] : NULL;
    char dir[1024], command[1200];
    if (argc < 2 || argc > 7) {
        fprintf(stderr, "usage: bench_export PROGRAM [GIGABYTES|8b] [REPEATS] [FOLDER] [cold|warm] [CASE,...]\n");
        return 2;
    }
    int n = argc > 3 ? atoi(argv[3]) : 3;
    n = n < 1 ? 1 : n > MOST ? MOST : n;
    warm = argc > 5 && !strcmp(argv[5], "warm");
    snprintf(dir, sizeof dir, "%s/ns-bench-XXXXXX", argc > 4 ? argv[4] : tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(dir)) return bench_skip("export", "no folder to work in");
    make_model(argv[1], dir, argc > 2 ? argv[2] : "1");
    double bytes = count(dir, "hf");
    for (int i = 0; i < n; i++) /* in turn: what disturbs one disturbs the others */
        for (int k = 0; k < N_CASES; k++)
            if (wanted(&cases[k], list)) measure(&cases[k], argv[1], dir);
    for (int k = 0; k < N_CASES; k++) report(&cases[k], bytes);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    shell(command);
    return 0;
}
