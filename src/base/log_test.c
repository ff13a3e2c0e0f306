/* Log: levels, sink, long lines, what really arrives on stderr; progress on a pseudo-terminal and without one. */
#include "base/testing.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"

typedef struct captured {
    int n;
    ns_log_level level;
    char last[8192];
} captured;

static void capture(ns_log_level level, const char *line, void *user)
{
    captured *c = user;
    c->n++;
    c->level = level;
    snprintf(c->last, sizeof c->last, "%s", line);
}

static void levels_and_sink(void **state)
{
    (void)state;
    captured c = {0};
    ns_log_set_sink(capture, &c);
    NS_DEBUG("hidden");
    assert_int_equal(c.n, 0);
    errno = 77;
    NS_INFO("shown %d", 5);
    assert_int_equal(errno, 77);
    assert_int_equal(c.n, 1);
    assert_string_equal(c.last, "shown 5");
    ns_log_set_level(NS_LOG_WARN);
    NS_INFO("hidden");
    assert_int_equal(c.n, 1);
    NS_WARN("careful");
    assert_int_equal(c.level, NS_LOG_WARN);
    ns_log_set_level(NS_LOG_DEBUG);
    NS_DEBUG("now");
    assert_string_equal(c.last, "now");
    ns_log_set_level(NS_LOG_INFO);
    for (int n = 940; n < 1100; n++) { /* around the size of the small buffer */
        char *s = malloc((size_t)n + 1);
        memset(s, 'x', (size_t)n);
        s[n] = 0;
        NS_INFO("%s", s);
        assert_string_equal(c.last, s);
        if (n > 1020) { /* without memory the line is cut, not lost */
            ns_mem_fail_at(1, 0);
            NS_INFO("%s", s);
            assert_true(ns_mem_fault_hit());
            ns_mem_fail_at(0, 0);
            assert_in_range(strlen(c.last), 900, 1023);
        }
        free(s);
    }
    ns_log_set_sink(NULL, NULL);
}

typedef void (*child_fn)(void);

/* Runs fn in a child whose stderr is a pipe, or a terminal of `columns`; returns what arrived. */
static void stderr_of(char *out, size_t size, int columns, child_fn fn)
{
    int fds[2];
    if (columns) {
        fds[0] = posix_openpt(O_RDWR | O_NOCTTY);
        if (fds[0] < 0 || grantpt(fds[0]) || unlockpt(fds[0])) skip(); /* no /dev/pts here */
        fds[1] = open(ptsname(fds[0]), O_RDWR | O_NOCTTY);
        assert_true(fds[1] >= 0);
        struct winsize ws = {.ws_row = 24, .ws_col = (unsigned short)columns};
        ioctl(fds[1], TIOCSWINSZ, &ws);
    } else
        assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], 2);
        close(fds[0]);
        fn();
        _exit(0);
    }
    close(fds[1]);
    size_t n = 0;
    ssize_t k;
    while (n + 1 < size && (k = read(fds[0], out + n, size - 1 - n)) > 0) n += (size_t)k; /* a terminal ends with EIO */
    out[n] = 0;
    close(fds[0]);
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
}

static void two_lines(void)
{
    NS_INFO("first");
    ns_log(NS_LOG_ERROR, "second %s", "x");
    NS_DEBUG("never");
}

static void line_format(void **state)
{
    (void)state;
    char out[4096];
    int y, mo, d, h, mi, s, used = 0;
    stderr_of(out, sizeof out, 0, two_lines);
    assert_int_equal(sscanf(out, "%4d-%2d-%2d %2d:%2d:%2d INFO  first\n%n", &y, &mo, &d, &h, &mi, &s, &used), 6);
    assert_int_equal(used, 19 + 13);
    assert_string_equal(out + used + 19, " ERROR  second x\n");
    assert_memory_equal(out + 19, " INFO  first\n", 13);
}

static void work(void)
{
    ns_progress *p = ns_progress_begin("prepare", 1000, "rows");
    ns_progress *inner = ns_progress_begin("inner", 0, "B");
    double t0 = ns_time_now();
    for (int i = 0; ns_time_now() - t0 < 1.35; i++) {
        ns_progress_set(p, 410, "note");
        ns_progress_set(inner, 5, NULL);
        usleep(1000);
    }
    NS_INFO("in between");
    ns_progress_end(&inner, NULL);
    ns_progress_end(&p, "410 rows kept");
}

static void progress_without_terminal_is_one_line(void **state)
{
    (void)state;
    char out[4096];
    stderr_of(out, sizeof out, 0, work);
    assert_non_null(strstr(out, " INFO  in between\n"));
    assert_non_null(strstr(out, " INFO  prepare: 410 rows kept in 1."));
    assert_null(strstr(out, "inner"));
    assert_null(strchr(out, '\r'));
    int lines = 0;
    for (char *q = out; *q; q++) lines += *q == '\n';
    assert_int_equal(lines, 2);
}

static void progress_on_a_terminal(void **state)
{
    (void)state;
    char out[8192];
    stderr_of(out, sizeof out, 80, work);
    int drawn = 0;
    for (char *q = out; (q = strstr(q, "\r\033[Kprepare 41% 410 rows ")); q++) drawn++;
    assert_in_range(drawn, 2, 5); /* from 1 s to 1.35 s at 10 Hz */
    assert_non_null(strstr(out, " rows/s ETA 0:02 note"));
    assert_null(strstr(out, "inner"));
    char *log_line = strstr(out, "INFO  in between");
    assert_non_null(log_line);
    assert_memory_equal(log_line - 24, "\r\033[K", 4); /* cleared, then the date */
    stderr_of(out, sizeof out, 20, work);
    assert_non_null(strstr(out, "\r\033[Kprepare 41% 410 row\r")); /* 19 columns, never wrapped */
}

static void null_progress_is_fine(void **state)
{
    (void)state;
    captured c = {0};
    ns_log_set_sink(capture, &c);
    ns_mem_fail_at(1, 0);
    ns_progress *p = ns_progress_begin("x", 1, "y");
    ns_mem_fail_at(0, 0);
    assert_null(p);
    ns_progress_set(p, 1, "n");
    ns_progress_end(&p, "done");
    assert_int_equal(c.n, 0);
    p = ns_progress_begin("read", 0, NULL);
    ns_progress_end(&p, "3 rows");
    assert_null(p);
    assert_int_equal(strncmp(c.last, "read: 3 rows in 0.", 18), 0);
    ns_log_set_sink(NULL, NULL);
}

static void count_line(ns_log_level level, const char *line, void *user)
{
    (void)level;
    int *n = user;
    if (strlen(line) == 40) ++*n; /* under the log's mutex */
}

static void *logger(void *arg)
{
    (void)arg;
    for (int i = 0; i < 500; i++) NS_INFO("%040d", i);
    return NULL;
}

static void many_threads(void **state)
{
    (void)state;
    int n = 0;
    pthread_t t[4];
    ns_log_set_sink(count_line, &n);
    for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, logger, NULL);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    ns_log_set_sink(NULL, NULL);
    assert_int_equal(n, 2000);
}

int main(void)
{
    unsetenv("NS_LOG");
    const struct CMUnitTest tests[] = {cmocka_unit_test(levels_and_sink),
                                       cmocka_unit_test(line_format),
                                       cmocka_unit_test(progress_without_terminal_is_one_line),
                                       cmocka_unit_test(progress_on_a_terminal),
                                       cmocka_unit_test(null_progress_is_fine),
                                       cmocka_unit_test(many_threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
