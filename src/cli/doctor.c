/* `ns doctor`: what this program found on this machine, what is missing and what to do about it, and which other program or
 * package of the same name would be run instead of it. Also writes the option pages of all verbs (--write-docs).
 *
 * Every finding is one line {section, name, status, detail, action}; text and --json print the same list. Statuses: ok;
 * note (fine, good to know); missing (works without, something is slower or off); bad (fix this). Exit 1 if anything is bad. */
#include <dlfcn.h>
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/hub/http.h"
#include "base/unpack.h"
#include "ckpt/codec.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/doctor_node.h"
#include "cli/pipe.h"
#include "ops/cpu/cpu.h"
#include "dist/nccl/nccl_plugin.h"
#include "ops/cuda/cuda.h"
#include "ops/ops.h"
#include "tok/regex.h"

typedef struct doctor_options {
    const char *write_docs, *cluster, *config_dir;
    int64_t num_nodes, num_gpus, gpus;
    ns_opt_list mounts;
    int node;
} doctor_options;

typedef struct finding {
    const char *section, *name, *status, *action; /* static texts */
    char *detail;
} finding;

typedef struct report {
    ns_arena arena;
    finding list[64];
    size_t n;
    int bad, missing;
    ns_status st; /* the first failure; later calls do nothing */
    ns_error *err;
} report;

/* ---- findings ---- */
static void add(report *r, const char *section, const char *name, const char *status, const char *detail,
                const char *action)
{
    if (r->st != NS_OK || r->n == sizeof r->list / sizeof r->list[0]) return;
    finding f = {section, name, status, action, ns_arena_strdup(&r->arena, detail, r->err)};
    if (!f.detail) {
        r->st = NS_ERR_MEMORY;
        return;
    }
    r->bad += strcmp(status, "bad") == 0;
    r->missing += strcmp(status, "missing") == 0;
    r->list[r->n++] = f;
}

/* First line of a file that starts with `key`, the text after its ':' copied to out; 0 if there is none. */
static int proc_value(const char *path, const char *key, char *out, size_t size)
{
    char line[1024];
    int found = 0;
    FILE *f = fopen(path, "r");
    while (f && !found && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (!colon || strncmp(line, key, strlen(key)) != 0) continue;
        snprintf(out, size, "%s", colon + 1 + strspn(colon + 1, " \t"));
        out[strcspn(out, "\n")] = 0;
        found = 1;
    }
    if (f) fclose(f);
    return found;
}

/* ---- program ---- */
static int self_path(char out[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", out, PATH_MAX - 1);
    if (n <= 0) return 0;
    out[n] = 0;
    return 1;
}

static void check_program(report *r)
{
    char path[PATH_MAX], text[128];
    size_t n = 0, rows = 0;
    const ns_verb *const *v = ns_cli_verbs(&n);
    add(r, "program", "version", "ok", ns_cli_version(), NULL);
    add(r, "program", "path", "ok", self_path(path) ? path : "unknown", NULL);
    for (size_t i = 0; i < n; i++) {
        ns_error bad = NS_ERROR_INIT;
        rows += v[i]->n_options;
        if (ns_options_check(v[i], &bad) != NS_OK)
            add(r, "program", "options", "bad", bad.msg, "this is a bug in ns: please report it");
    }
    snprintf(text, sizeof text, "%zu verbs, %zu options and settings", n, rows);
    add(r, "program", "verbs", "ok", text, NULL);
}

/* ---- processor ---- */
#if defined(__x86_64__)
typedef struct cpu_bits {
    int avx2, avx512, avx512_bf16, amx;
} cpu_bits;

/* Leaf 7, and what the operating system saves (XCR0); AMX also wants permission from the kernel. */
static cpu_bits probe_cpu(void)
{
    cpu_bits b = {0, 0, 0, 0};
    unsigned a = 0, bx = 0, c = 0, d = 0, lo = 0, hi = 0;
    if (!__get_cpuid(1, &a, &bx, &c, &d) || !(c & bit_OSXSAVE)) return b;
    int fma = (c & bit_FMA) != 0;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    int os_avx = (lo & 0x6) == 0x6, os_512 = (lo & 0xe6) == 0xe6, os_amx = (lo & 0x60000) == 0x60000;
    if (!__get_cpuid_count(7, 0, &a, &bx, &c, &d)) return b;
    const unsigned need512 = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    b.avx2 = os_avx && fma && (bx & bit_AVX2);
    b.avx512 = os_512 && (bx & need512) == need512;
    int tiles = (d & (1u << 24)) && (d & (1u << 22)); /* AMX-TILE, AMX-BF16 */
    if (tiles && os_amx) b.amx = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &bx, &c, &d)) b.avx512_bf16 = b.avx512 && (a & (1u << 5));
    return b;
}

static void check_features(report *r)
{
    cpu_bits b = probe_cpu();
    char text[160];
    snprintf(text, sizeof text, "AVX2+FMA %s, AVX-512 %s, AVX-512-BF16 %s, AMX-BF16 %s", b.avx2 ? "yes" : "no",
             b.avx512 ? "yes" : "no", b.avx512_bf16 ? "yes" : "no", b.amx ? "yes" : "no");
    add(r, "processor", "features", b.avx2 ? "ok" : "missing", text,
        b.avx2 ? NULL : "a processor with AVX2 is several times faster");
}

static int has_avx2(void)
{
    return probe_cpu().avx2;
}
#else
static int has_avx2(void)
{
    return 0;
}

static void check_features(report *r)
{
    add(r, "processor", "features", "note", "not an x86-64 processor: portable code is used", NULL);
}
#endif

static void check_processor(report *r)
{
    char model[256] = "unknown", text[400];
    cpu_set_t set;
    long all = sysconf(_SC_NPROCESSORS_ONLN);
    long allowed = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : all;
    proc_value("/proc/cpuinfo", "model name", model, sizeof model);
    add(r, "processor", "model", "ok", model, NULL);
    snprintf(text, sizeof text, "%ld allowed of %ld%s%s", allowed, all, getenv("NS_THREADS") ? ", NS_THREADS=" : "",
             getenv("NS_THREADS") ? getenv("NS_THREADS") : "");
    add(r, "processor", "cores", "ok", text, NULL);
    check_features(r);
    ns_ops ops;
    ns_error bad = NS_ERROR_INIT;
    if (ns_ops_cpu(&ops, NULL, &bad) == NS_OK)
        add(r, "processor", "kernels", "ok", ops.name, NULL);
    else
        add(r, "processor", "kernels", "bad", bad.msg, "unset NS_ISA, or set it to a level that exists here");
}

/* ---- memory, disk ---- */
static int read_number(const char *path, double *out)
{
    FILE *f = fopen(path, "r");
    int ok = f && fscanf(f, "%lf", out) == 1;
    if (f) fclose(f);
    return ok;
}

static void check_memory(report *r)
{
    char total[64] = "0", avail[64] = "0", text[160];
    proc_value("/proc/meminfo", "MemTotal", total, sizeof total);
    proc_value("/proc/meminfo", "MemAvailable", avail, sizeof avail);
    snprintf(text, sizeof text, "%.1f GiB, %.1f GiB available", strtod(total, NULL) / 1048576,
             strtod(avail, NULL) / 1048576);
    add(r, "memory", "RAM", "ok", text, NULL);
    double limit = 0, gib = 1024.0 * 1024 * 1024;
    if ((read_number("/sys/fs/cgroup/memory.max", &limit) ||
         read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes", &limit)) &&
        limit < 1048576 * gib && limit / 1024 < strtod(total, NULL)) {
        snprintf(text, sizeof text, "%.1f GiB (control group)", limit / gib);
        add(r, "memory", "limit", "note", text, NULL);
    }
    struct statvfs v;
    if (statvfs(".", &v) != 0) {
        add(r, "disk", "current folder", "bad", strerror(errno), "change to a folder that exists");
        return;
    }
    snprintf(text, sizeof text, "%.1f GiB free%s", (double)v.f_bavail * (double)v.f_frsize / gib,
             access(".", W_OK) == 0 ? "" : ", not writable");
    add(r, "disk", "current folder", "ok", text, NULL);
}

/* ---- libraries and programs, all opened on use ---- */
/* OpenBLAS matters only where there is no kernel of our own. */
static void check_matrix_kernel(report *r)
{
    const char *name = ns_cpu_blas_name();
    if (strcmp(name, "own loop") == 0) {
        add(r, "libraries", "OpenBLAS", "missing", "f32 matrix products use our own loops, several times slower",
            "apt-get install libopenblas0-openmp");
        return;
    }
    add(r, "processor", "f32 matrices", "ok", name, NULL);
    if (strncmp(name, "OpenBLAS", 8) != 0) return;
    void *lib = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD); /* opened by the line above */
    char *(*core)(void) = NULL;
    if (lib) *(void **)&core = dlsym(lib, "openblas_get_corename");
    const char *kernels = core ? core() : "unknown";
    int slow = has_avx2() && (!strcmp(kernels, "Prescott") || !strcmp(kernels, "Core2") || !strcmp(kernels, "Generic"));
    add(r, "libraries", "OpenBLAS kernels", slow ? "missing" : "ok", kernels,
        slow ? "it does not know this processor and is several times too slow: set OPENBLAS_CORETYPE=HASWELL" : NULL);
}

static void check_patterns(report *r)
{
    if (ns_regex_available())
        add(r, "libraries", "PCRE2", "ok", "unusual split patterns of tokenizers can be read", NULL);
    else
        add(r, "libraries", "PCRE2", "note", "not found: tokenizers with unusual split patterns are refused",
            "apt-get install libpcre2-8-0 (to build: libpcre2-dev)");
}

static void check_download(report *r)
{
    if (ns_http_version())
        add(r, "libraries", "libcurl", "ok", "models can be downloaded", NULL);
    else
        add(r, "libraries", "libcurl", "note", "not found, or not in this build: no ns download",
            "apt-get install libcurl4 (to build: libcurl4-openssl-dev)");
}

static void check_packed_input(report *r)
{
    static const char *const kinds[][3] = {{"gzip", "zlib", "to build: zlib1g-dev"},
                                           {"zstd", "libzstd", "to build: libzstd-dev"}};
    for (int i = 0; i < 2; i++)
        if (ns_unpack_can(kinds[i][0]))
            add(r, "libraries", kinds[i][1], "ok",
                i ? "row files packed with zstd can be read" : "row files packed with gzip can be read", NULL);
        else
            add(r, "libraries", kinds[i][1], "note", "not in this build: such row files are refused", kinds[i][2]);
    if (ns_codec_has_blosc())
        add(r, "libraries", "blosc", "ok", "zarr checkpoints compressed with blosc can be read", NULL);
    else
        add(r, "libraries", "blosc", "note", "not found: zarr checkpoints compressed with blosc are refused",
            "apt-get install libblosc1");
}

static void check_gpu(report *r)
{
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        char path[PATH_MAX];
        add(r, "libraries", "NVIDIA driver", "note", "not found: work runs on the processor", NULL);
        add(r, "libraries", "GPU engine", "note",
            ns_cuda_find(path, sizeof path) ? "plug-in present, no driver"
                                            : "plug-in libns_cuda.so not built (needs nvcc)",
            NULL);
        return;
    }
    int n = 0, rc = -1;
    int (*init)(unsigned) = NULL, (*count)(int *) = NULL;
    *(void **)&init = dlsym(lib, "cuInit");
    *(void **)&count = dlsym(lib, "cuDeviceGetCount");
    if (init && count && (rc = init(0)) == 0) rc = count(&n);
    char text[128];
    if (rc == 0)
        snprintf(text, sizeof text, "%d GPU%s visible", n, n == 1 ? "" : "s");
    else
        snprintf(text, sizeof text, "found, but it does not start (error %d)", rc);
    add(r, "libraries", "NVIDIA driver", rc == 0 ? "ok" : "note", text,
        rc == 0 ? NULL : "nvidia-smi shows what the driver says");
    ns_ops ops;
    void *device = NULL;
    ns_cuda_info info;
    ns_error bad = NS_ERROR_INIT;
    char long_text[2000];
    if (ns_cuda_open(&ops, &device, &info, &bad) == NS_OK) {
        snprintf(long_text, sizeof long_text,
                 "%s (sm_%d), %.1f of %.1f GB free, %s, %s, driver for CUDA %d.%d, plug-in %s", info.name, info.cc,
                 (double)info.free_bytes / 1e9, (double)info.total_bytes / 1e9, info.blas, info.dnn, info.driver / 1000,
                 info.driver % 1000 / 10, info.plugin);
        add(r, "libraries", "GPU engine", "ok", long_text, NULL);
        ns_cuda_close(&device);
        const ns_nccl_plugin *nccl;
        const char *version = "";
        const int found = ns_nccl_open(&nccl, &version, &bad) == NS_OK;
        add(r, "libraries", "NCCL", found ? "ok" : "note", found ? version : bad.msg,
            found ? NULL : "arrays of several GPU ranks travel through the host");
    } else {
        add(r, "libraries", "GPU engine", rc == 0 && n > 0 ? "missing" : "note", bad.msg,
            "training runs on the processor");
    }
}

/* Calls fn for each entry of PATH. */
static void each_path_dir(report *r, void (*fn)(report *r, const char *dir, void *user), void *user)
{
    const char *p = getenv("PATH");
    while (p && *p) {
        size_t n = strcspn(p, ":");
        char dir[PATH_MAX];
        snprintf(dir, sizeof dir, "%.*s", (int)(n < PATH_MAX ? n : 0), p);
        if (*dir) fn(r, dir, user);
        p += n + (p[n] == ':');
    }
}

static int is_program(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISREG(sb.st_mode) && access(path, X_OK) == 0;
}

typedef struct search {
    const char *name;
    char found[PATH_MAX];
} search;

static void look_for(report *r, const char *dir, void *user)
{
    search *s = user;
    char path[PATH_MAX + 64];
    (void)r;
    snprintf(path, sizeof path, "%s/%s", dir, s->name);
    if (!s->found[0] && is_program(path)) snprintf(s->found, sizeof s->found, "%.*s", PATH_MAX - 1, path);
}

static void check_slurm(report *r)
{
    search s = {.name = "sbatch"};
    each_path_dir(r, look_for, &s);
    if (s.found[0])
        add(r, "programs", "Slurm", "ok", s.found, NULL);
    else
        add(r, "programs", "Slurm", "note", "sbatch is not on PATH: jobs run on this machine", NULL);
}

/* ---- who else answers to our name ---- */
typedef struct shadow {
    char self[PATH_MAX];
    int self_seen, others;
    char seen[8][PATH_MAX]; /* real paths, so that links and repeated PATH entries count once */
    int n_seen;
} shadow;

static int seen_before(shadow *s, const char *path)
{
    for (int i = 0; i < s->n_seen; i++)
        if (strcmp(s->seen[i], path) == 0) return 1;
    if (s->n_seen < 8) snprintf(s->seen[s->n_seen++], PATH_MAX, "%s", path);
    return 0;
}

static void look_for_ns(report *r, const char *dir, void *user)
{
    shadow *s = user;
    char path[PATH_MAX + 8], real[PATH_MAX], text[PATH_MAX + 128];
    snprintf(path, sizeof path, "%s/ns", dir);
    if (!is_program(path) || !realpath(path, real) || seen_before(s, real)) return;
    if (strcmp(real, s->self) == 0) {
        s->self_seen = 1;
        return;
    }
    s->others++;
    if (!s->self_seen) {
        snprintf(text, sizeof text, "%s comes first on PATH: typing `ns` runs it, not this program", path);
        add(r, "conflicts", "ns", "bad", text,
            "put the folder of this program first on PATH, or call it by its full path");
    }
    snprintf(text, sizeof text, "%s is on PATH behind this program: typing `ns` runs this one", path);
    add(r, "conflicts", "ns", "note", text, NULL);
}

/* A Python package of the pipeline that we are compatible with, beside a bin folder of PATH. Nothing is executed. */
static void look_for_package(report *r, const char *dir, void *user)
{
    static const char *const places[] = {"lib/python3*/site-packages", "lib/python3*/dist-packages",
                                         "lib/python3/dist-packages", "local/lib/python3*/dist-packages"};
    shadow *s = user;
    size_t n = strlen(dir);
    if (n < 4 || strcmp(dir + n - 4, "/bin") != 0) return;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        char pattern[PATH_MAX + 64], real[PATH_MAX], text[PATH_MAX + 128];
        glob_t g;
        snprintf(pattern, sizeof pattern, "%.*s/%s/nemo_skills", (int)(n - 4), dir, places[i]);
        if (glob(pattern, 0, NULL, &g) != 0) continue;
        for (size_t k = 0; k < g.gl_pathc; k++) {
            if (!realpath(g.gl_pathv[k], real) || seen_before(s, real)) continue;
            s->others++;
            snprintf(text, sizeof text, "%s is what `import nemo_skills` finds in that Python", real);
            add(r, "conflicts", "nemo_skills", "note", text,
                "to run Python chains with this program, put its python folder first on PYTHONPATH");
        }
        globfree(&g);
    }
}

static void check_conflicts(report *r)
{
    shadow programs = {.self_seen = 0}, packages = {.self_seen = 0};
    if (!self_path(programs.self)) programs.self[0] = 0;
    each_path_dir(r, look_for_ns, &programs);
    each_path_dir(r, look_for_package, &packages);
    if (!programs.self_seen && !programs.others)
        add(r, "conflicts", "PATH", "note", "this program is not on PATH", "add its folder to PATH to type just `ns`");
    if (programs.others + packages.others == 0)
        add(r, "conflicts", "other ns or nemo_skills", "ok", "none on PATH", NULL);
}

static ns_status collect(report *r)
{
    static void (*const checks[])(report *) = {check_program,  check_processor, check_matrix_kernel, check_memory,
                                               check_patterns, check_download,  check_packed_input,  check_gpu,
                                               check_slurm,    check_conflicts};
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) checks[i](r);
    return r->st;
}

/* ---- output ---- */
static void print_text(const report *r)
{
    const char *section = "";
    for (size_t i = 0; i < r->n; i++) {
        const finding *f = &r->list[i];
        if (strcmp(section, f->section) != 0) printf("%s%s\n", i ? "\n" : "", f->section);
        section = f->section;
        printf("  %-8s %-15s %s\n", f->status, f->name, f->detail);
        if (f->action) printf("  %-8s %-15s -> %s\n", "", "", f->action);
    }
    if (r->bad)
        printf("\n%d to fix, %d missing\n", r->bad, r->missing);
    else if (r->missing)
        printf("\nEverything needed is here; %d optional part%s missing.\n", r->missing, r->missing > 1 ? "s" : "");
    else
        printf("\nEverything is here.\n");
}

static ns_status add_pair(ns_buf *out, const char *key, const char *value, ns_error *err)
{
    ns_str v = {value, strlen(value)};
    NS_TRY(ns_buf_printf(out, err, "\"%s\": ", key), "report");
    return ns_json_write_str(out, v, NS_JSON_UTF8, err);
}

static ns_status print_json(const report *r)
{
    ns_buf out = {0};
    ns_error *err = r->err;
    ns_status st = NS_OK;
    NS_CHECK(st, ns_buf_printf(&out, err, "{\"ok\": %s, \"findings\": [", r->bad ? "false" : "true"), "report");
    for (size_t i = 0; i < r->n; i++) {
        const finding *f = &r->list[i];
        const char *const pairs[][2] = {{"section", f->section},
                                        {"name", f->name},
                                        {"status", f->status},
                                        {"detail", f->detail},
                                        {"action", f->action}};
        for (size_t k = 0; k < 5 && pairs[k][1]; k++) {
            NS_CHECK(st, ns_buf_adds(&out, k ? ", " : i ? ", {" : "{", err), "report");
            NS_CHECK(st, add_pair(&out, pairs[k][0], pairs[k][1], err), "report");
        }
        NS_CHECK(st, ns_buf_adds(&out, "}", err), "report");
    }
    NS_CHECK(st, ns_buf_adds(&out, "]}\n", err), "report");
    fwrite(out.data, 1, out.len, stdout);
done:
    ns_buf_free(&out);
    return st;
}

/* ---- --write-docs ---- */
static ns_status write_page(const char *dir, const char *name, const ns_buf *text, ns_error *err)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s.md", dir, name);
    NS_FAIL_IF(n < 0 || (size_t)n >= sizeof path, NS_ERR_INPUT, "%s: the path is too long", dir);
    return ns_file_replace(path, text->data, text->len, err);
}

static ns_status write_docs(const char *dir, ns_error *err)
{
    size_t n = 0;
    const ns_verb *const *v = ns_cli_verbs(&n);
    ns_buf page = {0}, list = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_mkdirs(dir, err), "write documentation");
    NS_CHECK(st,
             ns_buf_adds(
                 &list,
                 "# Options of every verb\n\nWritten by `make docs` from the option tables.\n\n| Verb | |\n|---|---|\n",
                 err),
             "index");
    for (size_t i = 0; i < n; i++) {
        ns_buf_clear(&page);
        NS_CHECK(st, ns_options_markdown(&page, v[i], err), "page of %s", v[i]->name);
        NS_CHECK(st, write_page(dir, v[i]->name, &page, err), "page of %s", v[i]->name);
        NS_CHECK(st, ns_buf_printf(&list, err, "| [%s](%s.md) | %s |\n", v[i]->name, v[i]->name, v[i]->summary),
                 "index");
    }
    NS_CHECK(st, write_page(dir, "README", &list, err), "index");
    printf("%zu pages in %s\n", n + 1, dir);
done:
    ns_buf_free(&page);
    ns_buf_free(&list);
    return st;
}

/* A job on the cluster that looks from inside: submitted, waited for, its log printed. */
static int ask_cluster(const doctor_options *o, ns_error *err)
{
    char words[4][1024];
    const char *v[6] = {words[0], words[1], words[2], "--wait", "--not_exclusive"};
    int n = 5;
    ns_pipe_result r;
    ns_graph g;
    int found = 0;
    ns_submission_set_check(ns_cli_check_words);
    snprintf(words[0], sizeof words[0], "--cluster=%s", o->cluster);
    snprintf(words[1], sizeof words[1], "--num_nodes=%lld", (long long)o->num_nodes);
    snprintf(words[2], sizeof words[2], "--num_gpus=%lld", (long long)o->num_gpus);
    if (o->config_dir) {
        snprintf(words[3], sizeof words[3], "--config_dir=%s", o->config_dir);
        v[n++] = words[3];
    }
    printf("a job of %lld node%s on %s:\n", (long long)o->num_nodes, o->num_nodes == 1 ? "" : "s", o->cluster);
    fflush(stdout);
    if (ns_pipe_call(&ns_pipe_doctor, n, v, &r, err) != NS_OK) return ns_cli_fail("doctor", err);
    int rc = r.failed ? 1 : 0;
    if (ns_store_open(&g, r.id, &found, err) != NS_OK) return ns_cli_fail("doctor", err);
    if (strcmp(g.executor, "none")) ns_cli_print_logs(&g, err); /* else they were printed here already */
    ns_graph_free(&g);
    printf(rc ? "\nSomething is to be fixed: ns status %s\n" : "\nThe cluster can run jobs (%s).\n", r.id);
    ns_pipe_result_free(&r);
    return err->code == NS_OK ? rc : ns_cli_fail("doctor", err);
}

static int run(void *options, ns_parsed *p)
{
    const doctor_options *o = options;
    ns_error err = NS_ERROR_INIT;
    if (o->node) return ns_doctor_node(&o->mounts, o->gpus);
    if (o->cluster) return ask_cluster(o, &err);
    report r = {.arena = NS_ARENA_INIT("doctor"), .err = &err};
    ns_status st = o->write_docs ? write_docs(o->write_docs, &err) : collect(&r);
    if (st == NS_OK && !o->write_docs) {
        if (p->json)
            st = print_json(&r);
        else
            print_text(&r);
    }
    ns_arena_free(&r.arena);
    if (st != NS_OK) return ns_cli_fail("doctor", &err);
    return r.bad ? 1 : 0;
}

static const ns_option opts[] = {{.key = "write-docs",
                                  .flag = 1,
                                  .type = NS_OPT_STRING,
                                  .at = offsetof(doctor_options, write_docs),
                                  .help = "write the option page of every verb (Markdown) into this folder instead"},
                                 {.key = "cluster",
                                  .flag = 1,
                                  .type = NS_OPT_STRING,
                                  .at = offsetof(doctor_options, cluster),
                                  .help = "look at a cluster: a job that checks program, GPUs, ranks, mounts, limits"},
                                 {.key = "config_dir",
                                  .flag = 1,
                                  .type = NS_OPT_STRING,
                                  .at = offsetof(doctor_options, config_dir),
                                  .help = "folder of cluster files"},
                                 {.key = "num_nodes",
                                  .flag = 1,
                                  .type = NS_OPT_INT,
                                  .at = offsetof(doctor_options, num_nodes),
                                  .def = "2",
                                  .min = 1,
                                  .max = 1e6,
                                  .help = "--cluster: nodes of the job"},
                                 {.key = "num_gpus",
                                  .flag = 1,
                                  .type = NS_OPT_INT,
                                  .at = offsetof(doctor_options, num_gpus),
                                  .def = "0",
                                  .min = 0,
                                  .max = 1e6,
                                  .help = "--cluster: GPUs, and processes, a node; 0: one process"},
                                 {.key = "node",
                                  .flag = 1,
                                  .type = NS_OPT_BOOL,
                                  .at = offsetof(doctor_options, node),
                                  .def = "false",
                                  .flags = NS_OPT_HIDDEN,
                                  .help = "what the job of --cluster runs on each node"},
                                 {.key = "gpus",
                                  .flag = 1,
                                  .type = NS_OPT_INT,
                                  .at = offsetof(doctor_options, gpus),
                                  .def = "0",
                                  .min = 0,
                                  .max = 1e6,
                                  .flags = NS_OPT_HIDDEN,
                                  .help = "--node: GPUs that were asked for"},
                                 {.key = "mount",
                                  .flag = 1,
                                  .type = NS_OPT_LIST,
                                  .at = offsetof(doctor_options, mounts),
                                  .flags = NS_OPT_HIDDEN,
                                  .help = "--node: a folder that must be there"}};

const ns_verb ns_verb_doctor = {.name = "doctor",
                                .group = "help",
                                .summary = "what this program found here, what is missing, what would shadow it",
                                .usage = "ns doctor [--json] | ns doctor --cluster NAME | ns doctor --write-docs DIR",
                                .examples = "ns doctor\nns doctor --json\nns doctor --cluster=slurm --num_gpus=8",
                                .options = opts,
                                .n_options = sizeof opts / sizeof opts[0],
                                .options_size = sizeof(doctor_options),
                                .run = run};
