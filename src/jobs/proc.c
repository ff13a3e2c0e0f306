/* fork, exec, pipes: see proc.h. */
#include "jobs/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "jobs/jobs_priv.h"

ns_status jobs_path(char out[JOBS_PATH], ns_error *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, JOBS_PATH, fmt, ap);
    va_end(ap);
    NS_FAIL_IF(n < 0 || n >= JOBS_PATH, NS_ERR_CONFIG, "a path of more than %d bytes: %.80s...", JOBS_PATH - 1, out);
    return NS_OK;
}

double jobs_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Of the child: all but 0, 1, 2. In one call where the kernel has it, as a chain of 200 jobs starts 200 programs. */
static void close_others(void)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, 3u, ~0u, 0u) == 0) return;
#endif
    for (int fd = 3; fd < 1024; fd++) close(fd);
}

static void child(const char *const *argv, int in, int out, int err_fd)
{
    dup2(in, 0);
    dup2(out, 1);
    dup2(err_fd, 2);
    close_others();
    signal(SIGPIPE, SIG_DFL);
    execvp(argv[0], (char *const *)argv);
    dprintf(2, "%s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

static ns_status add_output(ns_buf *b, int fd, int *open_fds, struct pollfd *slot, ns_error *err)
{
    char chunk[65536];
    ssize_t n = read(fd, chunk, sizeof chunk);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return NS_OK;
    if (n <= 0) {
        slot->fd = -1;
        (*open_fds)--;
        return NS_OK;
    }
    NS_FAIL_IF(b->len >= (size_t)64 << 20, NS_ERR_IO, "%s", "it wrote more than 64 MB");
    return ns_buf_add(b, chunk, (size_t)n, err);
}

static ns_status exchange(ns_proc_result *r, int in, int out, int err_fd, const char *input, size_t n_input,
                          double deadline, const char *name, ns_error *err)
{
    struct pollfd p[3] = {{out, POLLIN, 0}, {err_fd, POLLIN, 0}, {n_input ? in : -1, POLLOUT, 0}};
    int open_fds = 2;
    size_t sent = 0;
    if (!n_input) close(in);
    while (open_fds > 0) {
        double left = deadline > 0 ? deadline - ns_time_now() : 3600;
        if (left <= 0) {
            if (p[2].fd >= 0) close(in);
            NS_FAIL(NS_ERR_IO, "%s does not answer", name);
        }
        int k = poll(p, 3, left > 3600 ? 3600000 : (int)(left * 1000) + 1);
        if (k < 0 && errno != EINTR) break;
        ns_status st = NS_OK;
        for (int i = 0; i < 2 && k > 0 && st == NS_OK; i++)
            if (p[i].fd >= 0 && p[i].revents) st = add_output(i ? &r->err : &r->out, p[i].fd, &open_fds, &p[i], err);
        if (st != NS_OK) {
            if (p[2].fd >= 0) close(in);
            NS_TRY(st, "%s", name);
        }
        if (k > 0 && p[2].fd >= 0 && p[2].revents) {
            ssize_t n = write(in, input + sent, n_input - sent < 65536 ? n_input - sent : 65536);
            if (n > 0) sent += (size_t)n;
            if ((n < 0 && errno != EAGAIN && errno != EINTR) || sent == n_input) {
                close(in);
                p[2].fd = -1;
            }
        }
    }
    if (p[2].fd >= 0) close(in);
    return NS_OK;
}

ns_status ns_proc_run(ns_proc_result *r, const char *const *argv, const void *input, size_t n_input, double timeout_s,
                      ns_error *err)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, er[2] = {-1, -1};
    memset(r, 0, sizeof *r);
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(er, O_CLOEXEC) != 0)
        NS_FAIL(NS_ERR_IO, "%s: cannot make a pipe: %s", argv[0], strerror(errno));
    signal(SIGPIPE, SIG_IGN);
    pid_t pid = fork();
    if (pid == 0) child(argv, in[0], out[1], er[1]);
    close(in[0]);
    close(out[1]);
    close(er[1]);
    if (pid < 0) {
        close(in[1]);
        close(out[0]);
        close(er[0]);
        NS_FAIL(NS_ERR_IO, "%s: cannot fork: %s", argv[0], strerror(errno));
    }
    fcntl(in[1], F_SETFL, O_NONBLOCK);
    double deadline = timeout_s > 0 ? ns_time_now() + timeout_s : 0;
    ns_status st = exchange(r, in[1], out[0], er[0], input, n_input, deadline, argv[0], err);
    close(out[0]);
    close(er[0]);
    if (st != NS_OK) kill(pid, SIGKILL);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    r->rc = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (st != NS_OK) ns_proc_free(r);
    return st;
}

void ns_proc_free(ns_proc_result *r)
{
    ns_buf_free(&r->out);
    ns_buf_free(&r->err);
}

void ns_proc_said(char *out, size_t n, const ns_proc_result *r)
{
    const ns_buf *b = r->err.len ? &r->err : &r->out;
    size_t k = b->data ? strcspn(b->data, "\n") : 0;
    snprintf(out, n, "%.*s", (int)(k < n ? k : n - 1), b->data ? b->data : "");
}

int ns_proc_exists(const char *name)
{
    const char *path = getenv("PATH");
    char file[JOBS_PATH];
    while (path && *path) {
        size_t n = strcspn(path, ":");
        snprintf(file, sizeof file, "%.*s/%s", (int)n, path, name);
        if (n && access(file, X_OK) == 0) return 1;
        path += n + (path[n] == ':');
    }
    return 0;
}

uint64_t ns_proc_ticks(int64_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    char *p = strrchr(text, ')'); /* the name may hold anything; fields 3.. follow its last parenthesis */
    if (!p || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X') return 0;
    p += 2;
    for (int field = 3; field < 22 && p; field++) {
        p = strchr(p, ' ');
        if (p) p++;
    }
    return p ? strtoull(p, NULL, 10) : 0;
}
