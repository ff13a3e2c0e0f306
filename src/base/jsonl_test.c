/* JSONL reader: line ends, sizes around the buffer, blank lines, slow pipes, failures. */
#include "base/testing.h"

#include <errno.h>
#include <pthread.h>

#include "base/file.h"
#include "base/json.h"

static char g_dir[256], g_path[300];

static int setup(void **state)
{
    (void)state;
    snprintf(g_path, sizeof g_path, "%s/x.jsonl", ns_test_tmpdir(g_dir, sizeof g_dir));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ns_sys_fail_at(NULL, 0, 0);
    ns_mem_fail_at(0, 0);
    return ns_remove_tree(g_dir, NULL) == NS_OK ? 0 : -1;
}

/* Lines joined by '|', or the message of the error behind "!". */
static const char *lines_of(const char *text, size_t n, int allow_blank)
{
    static char out[4096];
    ns_error err = NS_ERROR_INIT;
    ns_jsonl *r;
    const char *line, *where;
    size_t len, at = 0;
    uint64_t count = 0;
    out[0] = 0;
    assert_ns_ok(ns_file_replace(g_path, text, n, &err), &err);
    assert_ns_ok(ns_jsonl_open(&r, g_path, &err), &err);
    if (allow_blank) ns_jsonl_allow_trailing_blank(r);
    for (;;) {
        char want[400];
        if (ns_jsonl_next_line(r, &line, &len, &where, &err) != NS_OK) {
            at += (size_t)snprintf(out + at, sizeof out - at, "!%s", strrchr(err.msg, '/') + 1);
            break;
        }
        if (!line) {
            assert_int_equal(ns_jsonl_bytes(r), n);
            break;
        }
        snprintf(want, sizeof want, "%s:%llu", g_path, (unsigned long long)++count);
        assert_string_equal(where, want);
        assert_int_equal(ns_jsonl_line_no(r), count);
        at += (size_t)snprintf(out + at, sizeof out - at, "%.*s|", (int)len, line);
    }
    ns_jsonl_close(&r);
    assert_null(r);
    return out;
}

static void line_ends(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", ""},
        {"a", "a|"},
        {"a\n", "a|"},
        {"a\nb", "a|b|"},
        {"a\r\nb\r\n", "a|b|"},
        {"a\r\nb", "a|b|"},
        {"a\rb\r", "a|b|"}, /* a lone CR ends a line, as in Python's text mode */
        {"a\rb\nc\r\nd", "a|b|c|d|"},
        {"\n", "!x.jsonl:1: found a blank line, expected a JSON value: remove the line"},
        {"a\n\nb\n", "a|!x.jsonl:2: found a blank line, expected a JSON value: remove the line"},
        {"a\n \t\nb\n", "a|!x.jsonl:2: found a blank line, expected a JSON value: remove the line"},
        {"a\n\n", "a|!x.jsonl:2: found a blank line, expected a JSON value: remove the line"},
        {"a\r\r\nb", "a|!x.jsonl:2: found a blank line, expected a JSON value: remove the line"},
        {"a\n  ", "a|!x.jsonl:2: found a blank line, expected a JSON value: remove the line"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_string_equal(lines_of(cases[i][0], strlen(cases[i][0]), 0), cases[i][1]);
    static const char *const allowed[][2] = {
        {"a\n\n", "a|"},  {"a\nb\n\r\n \n\n", "a|b|"},
        {"\n\n", ""},     {"a\n\n\nb\n", "a|!x.jsonl:2: found a blank line, expected a JSON value: remove the line"},
        {"a\nb", "a|b|"},
    };
    for (size_t i = 0; i < sizeof allowed / sizeof allowed[0]; i++)
        assert_string_equal(lines_of(allowed[i][0], strlen(allowed[i][0]), 1), allowed[i][1]);
}

/* Line k has a length near the buffer size and starts with k; ends differ by `end`. */
static void check_sizes(const size_t *sizes, size_t n, const char *end)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    for (size_t k = 0; k < n; k++) {
        size_t at = b.len;
        assert_ns_ok(ns_buf_reserve(&b, sizes[k], &err), &err);
        memset(b.data + at, 'a' + (int)(k % 26), sizes[k]);
        b.len += sizes[k];
        b.data[b.len] = 0;
        assert_ns_ok(ns_buf_adds(&b, end, &err), &err);
    }
    assert_ns_ok(ns_file_replace(g_path, b.data, b.len, &err), &err);
    ns_jsonl *r;
    const char *line;
    size_t len;
    assert_ns_ok(ns_jsonl_open(&r, g_path, &err), &err);
    for (size_t k = 0; k < n; k++) {
        assert_ns_ok(ns_jsonl_next_line(r, &line, &len, NULL, &err), &err);
        assert_non_null(line);
        assert_int_equal(len, sizes[k]);
        for (size_t i = 0; i < len; i++)
            if (line[i] != (char)('a' + (int)(k % 26))) fail_msg("line %zu byte %zu", k, i);
    }
    assert_ns_ok(ns_jsonl_next_line(r, &line, &len, NULL, &err), &err);
    assert_null(line);
    assert_ns_ok(ns_jsonl_next_line(r, &line, &len, NULL, &err), &err); /* the end stays the end */
    assert_null(line);
    assert_int_equal(ns_jsonl_bytes(r), b.len);
    ns_jsonl_close(&r);
    ns_buf_free(&b);
}

static void any_size(void **state)
{
    (void)state;
    enum { M = 1 << 20 };
    static const char *const ends[] = {"\n", "\r\n", "\r"};
    for (int e = 0; e < 3; e++) {
        for (size_t first = M - 4; first <= M + 2; first++) {
            size_t sizes[] = {first, 1, 2, M - first % 7, 5 * M + 3, 1, M, M - 1, 7};
            check_sizes(sizes, sizeof sizes / sizeof sizes[0], ends[e]);
        }
        size_t *many = malloc(60000 * sizeof *many);
        for (int i = 0; i < 60000; i++) many[i] = (size_t)(1 + i * 7919 % 97);
        check_sizes(many, 60000, ends[e]);
        free(many);
    }
}

static void *drip(void *arg)
{
    static const char text[] = "{\"a\":1}\r\n[2]\r\n\"last\"";
    int fd = *(int *)arg;
    for (size_t i = 0; i < sizeof text - 1; i++) {
        if (write(fd, text + i, 1) != 1) break;
        usleep(500);
    }
    close(fd);
    return NULL;
}

static void slow_pipe(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    int fds[2];
    pthread_t t;
    ns_jsonl *r;
    const char *line, *where;
    size_t n;
    static const char *const want[] = {"{\"a\":1}", "[2]", "\"last\""};
    assert_int_equal(pipe(fds), 0);
    int saved = dup(0);
    dup2(fds[0], 0);
    close(fds[0]);
    pthread_create(&t, NULL, drip, &fds[1]);
    assert_ns_ok(ns_jsonl_open(&r, "-", &err), &err);
    for (int i = 0; i < 3; i++) {
        assert_ns_ok(ns_jsonl_next_line(r, &line, &n, &where, &err), &err);
        assert_int_equal(n, strlen(want[i]));
        assert_memory_equal(line, want[i], n);
    }
    assert_string_equal(where, "standard input:3");
    assert_ns_ok(ns_jsonl_next_line(r, &line, &n, &where, &err), &err);
    assert_null(line);
    ns_jsonl_close(&r);
    pthread_join(t, NULL);
    dup2(saved, 0); /* works only if close left standard input open */
    close(saved);
}

static void failures(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_jsonl *r;
    const char *line, *where;
    size_t n;
    assert_ns_fails(ns_jsonl_open(&r, "/no/such/file", &err), NS_ERR_IO, "cannot open '/no/such/file': No such file",
                    &err);
    assert_null(r);
    ns_jsonl_close(&r);
    char *long_line = calloc(1, 3 << 20);
    memset(long_line, 'x', 3 << 20);
    assert_ns_ok(ns_file_replace(g_path, long_line, 3 << 20, &err), &err);
    free(long_line);
    uint64_t before = ns_mem_get_stats().bytes_now, k;
    for (k = 1;; k++) {
        ns_error fresh = NS_ERROR_INIT;
        err = fresh;
        ns_mem_fail_at(k, 0);
        ns_status st = ns_jsonl_open(&r, g_path, &err);
        if (st == NS_OK) st = ns_jsonl_next_line(r, &line, &n, &where, &err);
        ns_jsonl_close(&r);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        assert_int_equal(st, hit ? NS_ERR_MEMORY : NS_OK);
        assert_int_equal(ns_mem_get_stats().bytes_now, before);
        if (!hit) break;
    }
    assert_true(k >= 6);
    assert_ns_ok(ns_jsonl_open(&r, g_path, &err), &err);
    ns_sys_fail_at("read", 2, EIO);
    assert_ns_fails(ns_jsonl_next_line(r, &line, &n, &where, &err), NS_ERR_IO, "x.jsonl': Input/output error", &err);
    ns_jsonl_close(&r);
}

/* A line beyond the limit is an error; one of just that length is not, whatever the buffer's size. */
static void limit(void **state)
{
    (void)state;
    static const size_t sizes[] = {10, (1 << 20) - 3, 1 << 20, 40 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i], n;
        const char *line, *where;
        ns_error err = NS_ERROR_INIT;
        ns_jsonl *r;
        char *text = malloc(size + 6);
        memcpy(text, "ab\n", 3);
        memset(text + 3, 'x', size);
        memcpy(text + 3 + size, "\nc\n", 3);
        assert_ns_ok(ns_file_replace(g_path, text, size + 6, &err), &err);
        free(text);
        for (size_t less = 0; less < 2; less++) {
            assert_ns_ok(ns_jsonl_open(&r, g_path, &err), &err);
            ns_jsonl_limit_line(r, size - less);
            assert_ns_ok(ns_jsonl_next_line(r, &line, &n, &where, &err), &err);
            assert_int_equal(n, 2);
            if (less) {
                assert_ns_fails(ns_jsonl_next_line(r, &line, &n, &where, &err), NS_ERR_INPUT,
                                "x.jsonl:2: found a line of more than", &err);
            } else {
                assert_ns_ok(ns_jsonl_next_line(r, &line, &n, &where, &err), &err);
                assert_int_equal(n, size);
                assert_ns_ok(ns_jsonl_next_line(r, &line, &n, &where, &err), &err);
                assert_true(n == 1 && *line == 'c' && !strcmp(where + strlen(where) - 2, ":3"));
            }
            ns_jsonl_close(&r);
        }
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(line_ends), T(any_size), T(slow_pipe), T(limit), T(failures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
