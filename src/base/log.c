/* Log lines and the progress line: the only part of the library that writes to stderr.
 *
 * One mutex guards the level, the sink and the terminal. A log line is one write(2), so that lines of several processes
 * do not mix. While a progress line is on the screen (g_drawn), a log line first clears it; the next ns_progress_set
 * draws it again. Only the first of nested progresses is live. errno is left as it was. */
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

struct ns_progress {
    char what[64], unit[24];
    double total, done, start, last_draw;
};

static const double SHOW_AFTER = 1.0, REDRAW_EVERY = 0.1; /* seconds */
static const char CLEAR_LINE[] = "\r\033[K";

static pthread_mutex_t g_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t g_once = PTHREAD_ONCE_INIT;
static atomic_int g_level = NS_LOG_INFO;
static ns_log_sink_fn g_sink;
static void *g_sink_user;
static ns_progress *g_live; /* owns the terminal line */
static int g_drawn;

double ns_time_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* stderr may be gone; there is nobody to tell. */
static void put(const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = write(STDERR_FILENO, p, n);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return;
        p += k;
        n -= (size_t)k;
    }
}

static void read_env(void)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    const char *env = getenv("NS_LOG");
    if (!env || !*env) return;
    for (int i = 0; i < 4; i++) {
        if (strcmp(env, names[i]) == 0) {
            atomic_store(&g_level, i);
            return;
        }
    }
    char line[160];
    int n =
        snprintf(line, sizeof line, "NS_LOG: found '%.60s', expected debug, info, warn or error; using info\n", env);
    put(line, (size_t)n);
}

void ns_log_set_level(ns_log_level level)
{
    pthread_once(&g_once, read_env); /* so that a later first line does not undo this call */
    atomic_store(&g_level, (int)level);
}

void ns_log_set_sink(ns_log_sink_fn fn, void *user)
{
    pthread_mutex_lock(&g_mutex);
    g_sink = fn;
    g_sink_user = user;
    pthread_mutex_unlock(&g_mutex);
}

/* "[clear]2026-01-31 12:00:00 INFO  " into out; local time, as Python's logging has it. */
static size_t line_head(char *out, size_t size, ns_log_level level)
{
    static const char *const names[] = {"DEBUG", "INFO", "WARNING", "ERROR"};
    char when[32];
    struct tm tm;
    time_t t = time(NULL);
    localtime_r(&t, &tm);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
    return (size_t)snprintf(out, size, "%s%s %s  ", g_drawn ? CLEAR_LINE : "", when, names[level]);
}

void ns_log(ns_log_level level, const char *fmt, ...)
{
    pthread_once(&g_once, read_env);
    if ((int)level < atomic_load(&g_level)) return;
    int saved_errno = errno;
    char small[1024], *text = small, *big = NULL;
    enum { HEAD = 64 }; /* room for line_head */
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(small + HEAD, sizeof small - HEAD - 1, fmt, ap);
    va_end(ap);
    if (n < 0) n = 0;
    size_t len = (size_t)n, room = sizeof small - HEAD - 2;
    if (len > room && ns_alloc((void **)&big, len + HEAD + 2, "log", NULL) == NS_OK) {
        text = big;
        va_start(ap, fmt);
        vsnprintf(text + HEAD, len + 1, fmt, ap);
        va_end(ap);
    } else if (len > room)
        len = room; /* no memory: a cut line is better than none */
    pthread_mutex_lock(&g_mutex);
    if (g_sink)
        g_sink(level, text + HEAD, g_sink_user);
    else {
        char head[HEAD];
        size_t h = line_head(head, sizeof head, level);
        memcpy(text + HEAD - h, head, h);
        text[HEAD + len] = '\n';
        put(text + HEAD - h, h + len + 1);
        g_drawn = 0;
    }
    pthread_mutex_unlock(&g_mutex);
    ns_free(big);
    errno = saved_errno;
}

/* ---- progress ---- */

/* 7 -> "7", 1234567 -> "1.23M"; three digits are all that a glance can use. */
static const char *human(char *out, size_t size, double x)
{
    static const char suffix[] = "\0kMGTP";
    int i = 0;
    while (x >= 999.5 && i < 5) {
        x /= 1000;
        i++;
    }
    int digits = i == 0 || x >= 99.95 ? 0 : x >= 9.995 ? 1 : 2;
    snprintf(out, size, "%.*f%.1s", digits, x, i ? &suffix[i] : "");
    return out;
}

static const char *clock_text(char *out, size_t size, double seconds)
{
    if (!(seconds < 3.6e6))
        snprintf(out, size, "?");
    else {
        int s = (int)(seconds + 0.5);
        if (s >= 3600)
            snprintf(out, size, "%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
        else
            snprintf(out, size, "%d:%02d", s / 60, s % 60);
    }
    return out;
}

/* "prepare 41% 1.2M rows 34k rows/s ETA 0:12 note" */
static size_t progress_text(char *out, size_t size, const ns_progress *p, double elapsed, const char *note)
{
    char a[32], b[32];
    const char *gap = strcmp(p->unit, "B") ? " " : "";
    double rate = elapsed > 0 ? p->done / elapsed : 0;
    int n = snprintf(out, size, "%s", p->what);
    if (p->total > 0) n += snprintf(out + n, size - (size_t)n, " %d%%", (int)(100 * p->done / p->total));
    n += snprintf(out + n, size - (size_t)n, " %s%s%s %s%s%s/s", human(a, sizeof a, p->done), gap, p->unit,
                  human(b, sizeof b, rate), gap, p->unit);
    if (p->total > 0 && rate > 0) {
        double left = (p->total - p->done) / rate;
        n += snprintf(out + n, size - (size_t)n, " ETA %s", clock_text(a, sizeof a, left > 0 ? left : 0));
    }
    if (note && *note && (size_t)n < size) n += snprintf(out + n, size - (size_t)n, " %s", note);
    return (size_t)n < size ? (size_t)n : size - 1;
}

ns_progress *ns_progress_begin(const char *what, double total, const char *unit)
{
    ns_progress *p = NULL;
    if (ns_alloc((void **)&p, sizeof *p, "progress", NULL) != NS_OK) return NULL;
    snprintf(p->what, sizeof p->what, "%s", what);
    snprintf(p->unit, sizeof p->unit, "%s", unit ? unit : "");
    p->total = total;
    p->start = ns_time_now();
    p->last_draw = p->start + SHOW_AFTER - REDRAW_EVERY;
    pthread_mutex_lock(&g_mutex);
    if (!g_live && isatty(STDERR_FILENO)) g_live = p;
    pthread_mutex_unlock(&g_mutex);
    return p;
}

void ns_progress_set(ns_progress *p, double done, const char *note)
{
    if (!p) return;
    p->done = done;
    double now = ns_time_now();
    if (now - p->last_draw < REDRAW_EVERY) return;
    p->last_draw = now;
    char line[512];
    struct winsize ws;
    pthread_mutex_lock(&g_mutex);
    if (g_live == p && !g_sink && atomic_load(&g_level) <= NS_LOG_INFO) {
        size_t head = sizeof CLEAR_LINE - 1, n;
        memcpy(line, CLEAR_LINE, head);
        n = progress_text(line + head, sizeof line - head, p, now - p->start, note);
        if (ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 1 && n > ws.ws_col - 1u) {
            n = ws.ws_col - 1u; /* a wrapped line could not be cleared; and never cut inside a character */
            while (n > 0 && ((unsigned char)line[head + n] & 0xC0) == 0x80) n--;
        }
        put(line, head + n);
        g_drawn = 1;
    }
    pthread_mutex_unlock(&g_mutex);
}

void ns_progress_end(ns_progress **p, const char *summary)
{
    if (!*p) return;
    pthread_mutex_lock(&g_mutex);
    if (g_live == *p) {
        if (g_drawn) put(CLEAR_LINE, sizeof CLEAR_LINE - 1);
        g_drawn = 0;
        g_live = NULL;
    }
    pthread_mutex_unlock(&g_mutex);
    if (summary) {
        double took = ns_time_now() - (*p)->start;
        if (took < 60)
            NS_INFO("%s: %s in %.1f s", (*p)->what, summary, took);
        else {
            char t[32];
            NS_INFO("%s: %s in %s", (*p)->what, summary, clock_text(t, sizeof t, took));
        }
    }
    ns_free(*p);
    *p = NULL;
}
