#include "dist/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "dist/world.h"
#include "dist/world_priv.h"

static volatile sig_atomic_t g_pending[NSIG];

static void note_signal(int sig, siginfo_t *info, void *context)
{
    (void)context;
    if (sig != SIGINT || info->si_code <= 0) g_pending[sig] = 1; /* the terminal's Ctrl-C reached the ranks already */
}

int ns_launch_wanted(int n_ranks)
{
    ns_world_options o;
    ns_error ignored = NS_ERROR_INIT;
    return n_ranks > 1 && ns_world_from_env(&o, &ignored) == NS_OK && o.size == 1 && !getenv("NS_RANK");
}

static void set_number(const char *name, int value)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

/* `listener`: the socket that the others will look for rank 0 at. It is open since before the first of them was started, so that no other
 * process of the machine can have its port; only rank 0 keeps it over exec. */
static void become_rank(int rank, int n, int port, int listener, pid_t parent, char *const *argv)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    set_number("NS_RANK", rank);
    set_number("NS_LOCAL_RANK", rank);
    set_number("NS_WORLD_SIZE", n);
    set_number("NS_LOCAL_SIZE", n);
    setenv("NS_RENDEZVOUS_HOST", "127.0.0.1", 1);
    set_number("NS_RENDEZVOUS_PORT", port);
    unsetenv("NS_RENDEZVOUS_FD");
    if (rank == 0) {
        fcntl(listener, F_SETFD, 0);
        set_number("NS_RENDEZVOUS_FD", listener);
    }
    for (int s = 1; s < NSIG; s++)
        if (s == SIGTERM || s == SIGUSR1 || s == SIGINT) signal(s, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv("/proc/self/exe", argv);
    _exit(127);
}

static void pass_signals(const pid_t *pid, int n)
{
    static const int passed[] = {SIGTERM, SIGUSR1, SIGINT};
    for (size_t s = 0; s < sizeof passed / sizeof *passed; s++) {
        if (!g_pending[passed[s]]) continue;
        g_pending[passed[s]] = 0;
        for (int r = 0; r < n; r++)
            if (pid[r] > 0) kill(pid[r], passed[s]);
    }
}

/* Waits for all. After the first bad end the others have 30 s to end, then SIGTERM, then SIGKILL. */
static int wait_for_all(pid_t *pid, int n, const sigset_t *unblocked)
{
    int left = n, code = 0, told = 0;
    double failed_at = 0;
    while (left > 0) {
        int status;
        pid_t p = waitpid(-1, &status, WNOHANG);
        if (p <= 0) {
            struct timespec wait = {0, 200 * 1000 * 1000};
            pselect(0, NULL, NULL, NULL, &wait, unblocked); /* SIGCHLD and the others interrupt it */
            pass_signals(pid, n);
            double since = failed_at > 0 ? ns_time_now() - failed_at : 0;
            int sig = since > 40 && told == 1 ? SIGKILL : since > 30 && told == 0 ? SIGTERM : 0;
            for (int r = 0; sig && r < n; r++)
                if (pid[r] > 0) kill(pid[r], sig);
            told += sig != 0;
            continue;
        }
        int bad = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        for (int r = 0; r < n; r++) {
            if (pid[r] != p) continue;
            pid[r] = 0;
            left--;
            if (WIFSIGNALED(status))
                ns_log(NS_LOG_ERROR, "rank %d (pid %ld) was ended by signal %d (%s)", r, (long)p, WTERMSIG(status),
                       strsignal(WTERMSIG(status)));
        }
        if (bad && !code) code = bad;
        if (bad && failed_at == 0) failed_at = ns_time_now();
    }
    return code;
}

static void ignore_child(int sig)
{
    (void)sig;
}

ns_status ns_launch(int n_ranks, char *const *argv, int *exit_code, ns_error *err)
{
    pid_t *pid = NULL, me = getpid();
    int port = 0, listener = -1;
    char run[64];
    sigset_t block, before;
    struct sigaction note = {.sa_sigaction = note_signal, .sa_flags = SA_SIGINFO}, child = {.sa_handler = ignore_child};
    NS_TRY(ns_alloc((void **)&pid, (size_t)n_ranks * sizeof *pid, "launch", err), "%s", "start ranks");
    ns_status st = dist_listen("127.0.0.1", &port, &listener, err);
    if (st != NS_OK) {
        ns_free(pid);
        return st;
    }
    snprintf(run, sizeof run, "%ld-%.6f", (long)me, ns_time_now());
    setenv("NS_RUN_ID", run, 1);
    sigemptyset(&block); /* signals wait until all ranks are there to get them */
    sigaddset(&block, SIGTERM);
    sigaddset(&block, SIGUSR1);
    sigaddset(&block, SIGINT);
    sigaddset(&block, SIGCHLD);
    sigprocmask(SIG_BLOCK, &block, &before);
    sigaction(SIGTERM, &note, NULL);
    sigaction(SIGUSR1, &note, NULL);
    sigaction(SIGINT, &note, NULL);
    sigaction(SIGCHLD, &child, NULL);
    int n = 0;
    for (; n < n_ranks; n++) {
        pid[n] = fork();
        if (pid[n] == 0) become_rank(n, n_ranks, port, listener, me, argv);
        if (pid[n] > 0) continue;
        st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "cannot start rank %d of %d: %s", n, n_ranks,
                          strerror(errno));
        for (int r = 0; r < n; r++) kill(pid[r], SIGTERM);
        break;
    }
    close(listener);
    *exit_code = wait_for_all(pid, n, &before);
    sigprocmask(SIG_SETMASK, &before, NULL);
    ns_free(pid);
    return st;
}
