/* `ns doctor --node`: one process of the job of `ns doctor --cluster` (jobs/pipe_doctor.c) looks at its machine. One line a finding,
 * written at once, so that the lines of many processes do not mix; exit 1 if anything is bad. */
#include <stdarg.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/doctor_node.h"
#include "dist/world.h"

typedef struct node {
    char who[300];
    int bad;
} node;

static void say(node *n, const char *status, const char *name, const char *fmt, ...) NS_PRINTF(4, 5);
static void say(node *n, const char *status, const char *name, const char *fmt, ...)
{
    char text[3000], line[3600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    n->bad += strcmp(status, "bad") == 0;
    int len = snprintf(line, sizeof line, "%-16s %-5s %-10s %s\n", n->who, status, name, text);
    if (write(1, line, (size_t)len) < 0) n->bad++;
}

static void check_program(node *n)
{
    char path[4096];
    ssize_t k = readlink("/proc/self/exe", path, sizeof path - 1);
    path[k > 0 ? k : 0] = 0;
    say(n, "ok", "program", "%s, %s", path, ns_cli_version());
}

static int visible_gpus(void)
{
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    if (list) {
        int k = *list != 0;
        for (; *list; list++) k += *list == ',';
        return k;
    }
    int k = 0;
    char path[64];
    while (snprintf(path, sizeof path, "/dev/nvidia%d", k) > 0 && ns_path_exists(path)) k++;
    return k;
}

static void check_gpus(node *n, int64_t wanted)
{
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    int k = visible_gpus();
    say(n, k < wanted ? "bad" : "ok", "GPUs", "%d visible%s%s, %lld asked for%s", k, list ? ": " : "", list ? list : "",
        (long long)wanted,
        k < wanted
            ? ": the cluster gives fewer than --gpus-per-node asks for (disable_gpus_per_node, gres in sbatch_args?)"
            : "");
}

static void check_mount(node *n, const char *path)
{
    struct statvfs v;
    if (!ns_path_exists(path) || statvfs(path, &v) != 0)
        say(n, "bad", "mount", "%s: %s on this node (mounts of the cluster file)", path,
            strerror(errno ? errno : ENOENT));
    else
        say(n, "ok", "mount", "%s: %s, %.1f GB free", path, access(path, W_OK) == 0 ? "writable" : "readable",
            (double)v.f_bavail * (double)v.f_frsize / 1e9);
}

static void limit_text(char out[32], rlim_t x)
{
    if (x == RLIM_INFINITY)
        snprintf(out, 32, "unlimited");
    else
        snprintf(out, 32, "%llu", (unsigned long long)x);
}

static void check_limits(node *n)
{
    struct rlimit files, locked, space;
    char f[32], l[32], a[32];
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_MEMLOCK, &locked);
    getrlimit(RLIMIT_AS, &space);
    limit_text(f, files.rlim_cur);
    limit_text(l, locked.rlim_cur);
    limit_text(a, space.rlim_cur);
    int few = files.rlim_cur < 1024, small = space.rlim_cur != RLIM_INFINITY;
    say(n, few || small ? "bad" : "ok", "limits", "open files %s, locked memory %s, address space %s%s%s", f, l, a,
        few ? ": fewer than 1024 open files (ulimit -n in `setup`)" : "",
        small ? ": address space is limited (ulimit -v in `setup`)" : "");
    if (locked.rlim_cur != RLIM_INFINITY)
        say(n, "note", "limits",
            "locked memory is limited: InfiniBand wants `ulimit -l unlimited` (slurm.conf: PropagateResourceLimits)");
    struct statvfs v;
    if (statvfs("/dev/shm", &v) == 0)
        say(n, "ok", "memory", "%.1f GB RAM, %.1f GB free in /dev/shm",
            (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGE_SIZE) / 1e9,
            (double)v.f_bavail * (double)v.f_frsize / 1e9);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The ranks of a training would find each other in the same way. */
static void check_ranks(node *n, ns_world_options *who)
{
    ns_world *w = NULL;
    ns_error err = NS_ERROR_INIT;
    char text[1024], id[200];
    snprintf(id, sizeof id, "version %s", ns_cli_version());
    who->identity = id;
    who->join_s = 60;
    double t = now();
    if (who->size == 1) {
        say(n, "ok", "ranks", "one process");
        return;
    }
    if (ns_world_open(&w, who, &err) != NS_OK) {
        ns_error_text(&err, text, sizeof text);
        say(n, "bad", "ranks", "%s", text);
    } else if (who->rank == 0)
        say(n, "ok", "ranks", "%d, started by %s, met at %s:%d in %.2f s, tensors by %s", who->size, who->started_by,
            who->host, who->port, now() - t, ns_world_transport(w));
    /* all others are still there when rank 0 leaves: an empty message from each */
    ns_xfer x[1024];
    char dot = 0;
    int k = 0;
    for (int r = 1; w && r < who->size && r <= 1024; r++)
        if (who->rank == 0 || who->rank == r)
            x[k++] = (ns_xfer){.peer = who->rank ? 0 : r, .recv = who->rank == 0, .buf = &dot, .bytes = 1};
    if (w && ns_world_exchange(w, "doctor", x, k, &err) != NS_OK) {
        ns_error_text(&err, text, sizeof text);
        say(n, "bad", "ranks", "%s", text);
    }
    ns_world_close(&w);
}

int ns_doctor_node(const ns_opt_list *mounts, int64_t gpus)
{
    node n = {.bad = 0};
    ns_world_options who;
    ns_error err = NS_ERROR_INIT;
    char host[200] = "?", text[1024];
    gethostname(host, sizeof host - 1);
    ns_status st = ns_world_from_env(&who, &err);
    snprintf(n.who, sizeof n.who, "%s [%d/%d]", host, who.rank, who.size);
    check_program(&n);
    check_gpus(&n, gpus);
    for (size_t i = 0; i < mounts->n && who.local_rank == 0; i++) check_mount(&n, mounts->v[i]);
    if (who.local_rank == 0) check_limits(&n);
    if (st == NS_OK)
        check_ranks(&n, &who);
    else {
        ns_error_text(&err, text, sizeof text);
        say(&n, "bad", "ranks", "%s", text);
    }
    return n.bad ? 1 : 0;
}
