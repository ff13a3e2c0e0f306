#include "train/stop.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

static volatile sig_atomic_t g_signal;
static double g_deadline;

static void on_signal(int sig)
{
    if (sig == SIGINT && g_signal == SIGINT) _exit(130); /* asked twice: at once */
    g_signal = sig;
    if (sig == SIGINT) {
        static const char msg[] = "\nns: finishing this step, then saving (Ctrl-C again: stop now, without saving)\n";
        ssize_t n = write(2, msg, sizeof msg - 1);
        (void)n;
    }
}

void ns_stop_install(void)
{
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = on_signal;
    sa.sa_flags = SA_RESTART;
    sigemptyset(&sa.sa_mask);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGUSR1, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    g_signal = 0;
    g_deadline = 0;
}

void ns_stop_set_limit(double seconds)
{
    const char *at = getenv("NS_STOP_AT"); /* a job script counts from its own start: Unix seconds */
    g_deadline = seconds > 0 ? ns_time_now() + seconds : 0;
    double left = at && *at ? strtod(at, NULL) - (double)time(NULL) : 0;
    if (!at || !*at || (g_deadline > 0 && ns_time_now() + left > g_deadline)) return;
    g_deadline = ns_time_now() + (left > 0 ? left : 0);
}

double ns_stop_left(void)
{
    const char *at = getenv("NS_LIMIT_AT");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return at && *at ? strtod(at, NULL) - ((double)now.tv_sec + (double)now.tv_nsec * 1e-9) : (double)INFINITY;
}

void ns_stop_now(void)
{
    g_deadline = ns_time_now();
}

ns_stop_reason ns_stop_check(void)
{
    if (g_signal) return NS_STOP_SIGNAL;
    if (g_deadline > 0 && ns_time_now() >= g_deadline) return NS_STOP_TIME;
    return NS_STOP_NONE;
}

const char *ns_stop_name(void)
{
    switch (g_signal) {
    case SIGTERM: return "SIGTERM";
    case SIGUSR1: return "SIGUSR1";
    case SIGINT: return "Ctrl-C";
    default: return "time limit";
    }
}

ns_status ns_stop_parse_limit(double *seconds, const char *text, ns_error *err)
{
    double part[4], total = 0;
    int n = 0;
    const char *p = text;
    static const double unit[4] = {86400, 3600, 60, 1};
    while (n < 4) {
        char *end;
        part[n++] = strtod(p, &end);
        NS_FAIL_IF(end == p || part[n - 1] < 0, NS_ERR_CONFIG, "exp_manager.max_time_per_run=%s: expected D:H:M:S",
                   text);
        p = end;
        if (*p != ':' && !(*p == '-' && n == 1)) break;
        p++;
    }
    NS_FAIL_IF(*p, NS_ERR_CONFIG, "exp_manager.max_time_per_run=%s: expected D:H:M:S", text);
    for (int i = 0; i < n; i++) total += part[i] * unit[4 - n + i];
    *seconds = total;
    return NS_OK;
}
