/* Trees and published folders: DONE, swaps, every system call failed in turn, a crash at every one, links. */
#include "base/testing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"

static char g_dir[256];

static const char *in_dir(const char *name)
{
    static char path[8][512];
    static int turn;
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[0], "%s/%s", g_dir, name);
    return path[turn];
}

static void quiet(ns_log_level level, const char *line, void *user)
{
    (void)level;
    (void)line;
    (void)user;
}

static int setup(void **state)
{
    (void)state;
    ns_test_tmpdir(g_dir, sizeof g_dir);
    ns_log_set_sink(quiet, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ns_log_set_sink(NULL, NULL);
    ns_sys_fail_at(NULL, 0, 0);
    ns_sys_no_exchange(0);
    ns_mem_fail_at(0, 0);
    return ns_remove_tree(g_dir, NULL) == NS_OK ? 0 : -1;
}

static void spit(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int holds(const char *path, const char *text)
{
    ns_buf b = {0};
    int same = ns_file_read(&b, path, NULL) == NS_OK && b.len == strlen(text) && !memcmp(b.data, text, b.len);
    ns_buf_free(&b);
    return same;
}

/* The state that a caller publishes: two files, one in a sub-folder. */
static ns_status fill(const char *tmp, const char *text, ns_error *err)
{
    char path[700];
    ns_file *f;
    static const char *const names[] = {"weights", "sub/state"};
    snprintf(path, sizeof path, "%.600s/sub", tmp);
    NS_TRY(ns_mkdirs(path, err), "%s", "");
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%.600s/%s", tmp, names[i]);
        NS_TRY(ns_file_create(&f, path, err), "%s", "");
        ns_status st = ns_file_write(f, text, strlen(text), err);
        ns_status closed = ns_file_close(&f, err);
        if (st != NS_OK || closed != NS_OK) return st != NS_OK ? st : closed;
    }
    return NS_OK;
}

static ns_status publish(const char *text, ns_error *err)
{
    char tmp[600];
    NS_TRY(ns_dir_begin(tmp, sizeof tmp, in_dir("runs/a"), "ckpt", err), "%s", "");
    NS_TRY(fill(tmp, text, err), "%s", "");
    return ns_dir_publish(tmp, in_dir("runs/a"), "ckpt", err);
}

/* 1 if runs/a/ckpt is complete and all of it holds text. */
static int is_published(const char *text)
{
    return ns_dir_is_done(in_dir("runs/a/ckpt"), 1, NULL) && holds(in_dir("runs/a/ckpt/weights"), text) &&
           holds(in_dir("runs/a/ckpt/sub/state"), text);
}

static void done_lists_everything(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(publish("123456789", &err), &err);
    assert_true(
        holds(in_dir("runs/a/ckpt/DONE"), "ns-done 1 crc32c\n9 e3069283 sub/state\n9 e3069283 weights\nend 2\n"));
    assert_true(ns_dir_is_done(in_dir("runs/a/ckpt"), 0, &err));
    assert_true(ns_dir_is_done(in_dir("runs/a/ckpt"), 1, &err));
    assert_int_equal(err.code, NS_OK);
    assert_false(ns_path_exists(in_dir("runs/a/.ckpt.tmp")));
    assert_ns_ok(publish("newer", &err), &err); /* over the existing one */
    assert_true(is_published("newer"));
    assert_false(ns_path_exists(in_dir("runs/a/.ckpt.tmp")));
    ns_sys_no_exchange(1);
    assert_ns_ok(publish("newest", &err), &err);
    assert_true(is_published("newest"));
    assert_false(ns_path_exists(in_dir("runs/a/.ckpt.tmp")));
    assert_false(ns_path_exists(in_dir("runs/a/.ckpt.old")));
}

static ns_status done_status(int deep, ns_error *err)
{
    return ns_dir_is_done(in_dir("runs/a/ckpt"), deep, err) ? NS_OK : err->code;
}

static void damage_is_found(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    assert_ns_fails(done_status(0, &err), NS_ERR_IO, "is not complete", &err);
    assert_ns_ok(publish("123456789", &err), &err);
    spit(in_dir("runs/a/ckpt/weights"), "123456780");
    assert_true(ns_dir_is_done(in_dir("runs/a/ckpt"), 0, &err)); /* same size: only the deep check sees it */
    assert_ns_fails(done_status(1, &err), NS_ERR_MISMATCH, "weights': content has changed", &err);
    spit(in_dir("runs/a/ckpt/weights"), "12345678");
    assert_ns_fails(done_status(0, &err), NS_ERR_MISMATCH, "weights': found 8 bytes, DONE says 9", &err);
    unlink(in_dir("runs/a/ckpt/weights"));
    assert_ns_fails(done_status(0, &err), NS_ERR_IO, "weights': No such file", &err);
    spit(in_dir("runs/a/ckpt/weights"), "123456789");
    ns_buf done = {0};
    assert_ns_ok(ns_file_read(&done, in_dir("runs/a/ckpt/DONE"), &err), &err);
    for (size_t n = 0; n < done.len; n++) { /* every cut of DONE is noticed */
        assert_ns_ok(ns_file_replace(in_dir("runs/a/ckpt/DONE"), done.data, n, &err), &err);
        assert_false(ns_dir_is_done(in_dir("runs/a/ckpt"), 0, NULL));
    }
    static const char *const wrong[] = {
        "ns-done 2 crc32c\nend 0\n",
        "ns-done 1 crc32c\n9 e3069283 ../ckpt/weights\nend 1\n",
        "ns-done 1 crc32c\n9 e3069283 /etc/passwd\nend 1\n",
        "ns-done 1 crc32c\n9 e3069283 weights\nend 2\n",
        "ns-done 1 crc32c\n9 e3069283 weights\nend 1\nmore\n",
        "ns-done 1 crc32c\nnine e3069283 weights\nend 1\n",
        "ns-done 1 crc32c\n3 00000000 sub\nend 1\n",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        spit(in_dir("runs/a/ckpt/DONE"), wrong[i]);
        if (ns_dir_is_done(in_dir("runs/a/ckpt"), 0, NULL)) fail_msg("accepted: %s", wrong[i]);
    }
    spit(in_dir("runs/a/ckpt/DONE"), done.data);
    assert_true(ns_dir_is_done(in_dir("runs/a/ckpt"), 1, &err));
    ns_buf_free(&done);
}

static void bad_names_are_refused(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char tmp[600], small[8];
    static const char *const names[] = {"", ".", "..", "a/b"};
    for (int i = 0; i < 4; i++)
        assert_ns_fails(ns_dir_begin(tmp, sizeof tmp, g_dir, names[i], &err), NS_ERR_INPUT, "not a name", &err);
    assert_ns_fails(ns_dir_begin(small, sizeof small, g_dir, "x", &err), NS_ERR_INPUT, "too long", &err);
    assert_ns_ok(ns_dir_begin(tmp, sizeof tmp, g_dir, "x", &err), &err);
    char link_path[700];
    snprintf(link_path, sizeof link_path, "%s/l", tmp);
    assert_int_equal(symlink("/etc/passwd", link_path), 0);
    assert_ns_fails(ns_dir_publish(tmp, g_dir, "x", &err), NS_ERR_INPUT, "l' cannot be published", &err);
    assert_false(ns_path_exists(in_dir("x")));
}

/* One call of `kind` fails, for every n: the name shows the old or the new state, whole; a retry then succeeds. */
static void fail_each(const char *kind, int no_exchange, int expect_hits)
{
    int hits = 0;
    for (uint64_t n = 1;; n++) {
        ns_error err = NS_ERROR_INIT;
        ns_sys_no_exchange(no_exchange);
        assert_ns_ok(publish("old", &err), &err);
        ns_sys_fail_at(kind, n, EIO);
        ns_status st = publish("new", &err);
        int hit = ns_sys_fault_hit();
        ns_sys_fail_at(NULL, 0, 0);
        int is_old = is_published("old"), is_new = is_published("new");
        if (!is_old && !is_new) fail_msg("%s call %d: neither old nor new", kind ? kind : "any", (int)n);
        if (st == NS_OK && !is_new)
            fail_msg("%s call %d: success reported, old state found", kind ? kind : "any", (int)n);
        if (st != NS_OK) assert_true(hit && err.code == NS_ERR_IO && strstr(err.msg, "Input/output error"));
        ns_error fresh = NS_ERROR_INIT;
        err = fresh;
        assert_ns_ok(publish("retry", &err), &err);
        assert_true(is_published("retry"));
        if (!hit) break;
        hits++;
    }
    assert_true(hits >= expect_hits);
}

static void publish_with_every_call_failing(void **state)
{
    (void)state;
    fail_each("write", 0, 3);
    fail_each("fsync", 0, 8);
    fail_each("rename", 0, 2);
    fail_each("rename", 1, 4);
    fail_each(NULL, 0, 40);
    fail_each(NULL, 1, 40);
}

/* The process dies at every call. With exchange the name never lacks a whole state; without, ns_dir_begin restores. */
static void crash_at_every_call(void **state)
{
    (void)state;
    for (int no_exchange = 0; no_exchange < 2; no_exchange++) {
        int crashes = 0, absent = 0;
        ns_sys_no_exchange(no_exchange);
        for (uint64_t n = 1;; n++) {
            ns_error err = NS_ERROR_INIT;
            char tmp[600];
            int status;
            assert_ns_ok(publish("old", &err), &err);
            pid_t pid = fork();
            if (pid == 0) {
                ns_sys_fail_at(NULL, n, -86);
                _exit(publish("new", NULL) == NS_OK ? 0 : 1);
            }
            waitpid(pid, &status, 0);
            if (no_exchange && !ns_path_exists(in_dir("runs/a/ckpt"))) {
                absent++;
                assert_ns_ok(ns_dir_begin(tmp, sizeof tmp, in_dir("runs/a"), "ckpt", &err), &err);
            }
            if (!is_published("old") && !is_published("new")) fail_msg("crash at call %d: neither old nor new", (int)n);
            if (WEXITSTATUS(status) != 86) {
                assert_int_equal(status, 0);
                break;
            }
            crashes++;
        }
        assert_true(crashes >= 40);
        assert_int_equal(absent, no_exchange); /* exactly the moment between the two renames */
    }
}

static void memory_failures(void **state)
{
    (void)state;
    int hits = 0;
    for (uint64_t n = 1;; n++) {
        ns_error err = NS_ERROR_INIT;
        assert_ns_ok(publish("old", &err), &err);
        uint64_t before = ns_mem_get_stats().bytes_now;
        ns_mem_fail_at(n, 0);
        ns_status st = publish("new", &err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        assert_int_equal(ns_mem_get_stats().bytes_now, before); /* nothing leaks */
        assert_true(is_published(st == NS_OK ? "new" : "old"));
        if (!hit) break;
        assert_int_equal(st, NS_ERR_MEMORY);
        hits++;
    }
    assert_true(hits >= 8);
    ns_mem_fail_at(1, 0);
    assert_false(ns_dir_is_done(in_dir("runs/a/ckpt"), 1, NULL));
    ns_mem_fail_at(0, 0);
}

static void removal_never_follows_links(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_mkdirs(in_dir("outside"), &err), &err);
    spit(in_dir("outside/keep"), "keep");
    assert_ns_ok(ns_mkdirs(in_dir("tree/a/b/c"), &err), &err);
    spit(in_dir("tree/a/b/c/f"), "x");
    spit(in_dir("tree/DONE"), "x");
    assert_int_equal(symlink(in_dir("outside"), in_dir("tree/a/dirlink")), 0);
    assert_int_equal(symlink(in_dir("outside/keep"), in_dir("tree/filelink")), 0);
    assert_int_equal(symlink(in_dir("outside"), in_dir("toplink")), 0);
    assert_ns_ok(ns_remove_tree(in_dir("tree"), &err), &err);
    assert_ns_ok(ns_remove_tree(in_dir("toplink"), &err), &err);
    assert_false(ns_path_exists(in_dir("tree")));
    assert_false(ns_path_exists(in_dir("toplink")));
    assert_true(holds(in_dir("outside/keep"), "keep"));
    assert_ns_ok(ns_remove_tree(in_dir("never-there"), &err), &err);
    spit(in_dir("file"), "x");
    assert_ns_ok(ns_remove_tree(in_dir("file"), &err), &err);
    assert_false(ns_path_exists(in_dir("file")));
    assert_ns_ok(publish("x", &err), &err);
    ns_sys_fail_at("unlink", 2, EIO); /* the first entry of the folder, whichever it is: DONE has gone before */
    assert_ns_fails(ns_remove_tree(in_dir("runs/a/ckpt"), &err), NS_ERR_IO, "remove", &err);
    assert_false(ns_path_exists(in_dir("runs/a/ckpt/DONE")));
    assert_ns_ok(publish("x", &err), &err);
    ns_sys_fail_at("rmdir", 1, EIO); /* half removed is not complete */
    assert_ns_fails(ns_remove_tree(in_dir("runs/a/ckpt"), &err), NS_ERR_IO, "remove folder", &err);
    assert_false(ns_dir_is_done(in_dir("runs/a/ckpt"), 0, NULL));
}

static void trees_are_linked(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    struct stat a, b;
    assert_ns_ok(publish("text", &err), &err);
    assert_ns_ok(ns_link_tree(in_dir("runs/a/ckpt"), in_dir("copy"), &err), &err);
    assert_true(ns_dir_is_done(in_dir("copy"), 1, &err));
    assert_int_equal(stat(in_dir("copy/sub/state"), &a) | stat(in_dir("runs/a/ckpt/sub/state"), &b), 0);
    assert_int_equal(a.st_ino, b.st_ino);
    assert_ns_fails(ns_link_tree(in_dir("runs/a/ckpt"), in_dir("copy"), &err), NS_ERR_IO, "File exists", &err);
    assert_ns_fails(ns_link_tree(in_dir("none"), in_dir("copy2"), &err), NS_ERR_IO, "none", &err);
    static const int refusals[] = {EXDEV, EPERM, EMLINK};
    for (int i = 0; i < 3; i++) { /* links refused: copies */
        assert_ns_ok(ns_remove_tree(in_dir("copy"), &err), &err);
        ns_sys_fail_at("link", 1, refusals[i]);
        assert_ns_ok(ns_link_tree(in_dir("runs/a/ckpt"), in_dir("copy"), &err), &err);
        assert_true(ns_sys_fault_hit());
        assert_true(ns_dir_is_done(in_dir("copy"), 1, &err));
        assert_int_equal(stat(in_dir("copy/sub/state"), &a), 0);
        assert_int_not_equal(a.st_ino, b.st_ino);
    }
    for (uint64_t n = 1;; n++) { /* a failed linking is never taken for complete */
        assert_ns_ok(ns_remove_tree(in_dir("copy"), &err), &err);
        ns_sys_fail_at(NULL, n, EIO);
        ns_error fresh = NS_ERROR_INIT;
        err = fresh;
        ns_status st = ns_link_tree(in_dir("runs/a/ckpt"), in_dir("copy"), &err);
        int hit = ns_sys_fault_hit();
        ns_sys_fail_at(NULL, 0, 0);
        err = fresh;
        if (ns_dir_is_done(in_dir("copy"), 0, NULL))
            assert_true(ns_dir_is_done(in_dir("copy"), 1, NULL));
        else
            assert_int_equal(st, NS_ERR_IO);
        if (!hit) break;
    }
    assert_true(is_published("text"));
}

/* A checkpoint that re-uses files of the last one by links must not change the last one, nor its DONE. */
static void publishing_a_linked_tree_spares_the_source(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char tmp[600];
    assert_ns_ok(publish("text", &err), &err);
    assert_ns_ok(ns_dir_begin(tmp, sizeof tmp, g_dir, "next", &err), &err);
    assert_int_equal(rmdir(tmp), 0);
    assert_ns_ok(ns_link_tree(in_dir("runs/a/ckpt"), tmp, &err), &err);
    ns_file *f;
    char path[700];
    snprintf(path, sizeof path, "%s/weights", tmp);
    assert_ns_ok(ns_file_create(&f, path, &err), &err);
    assert_ns_ok(ns_file_write(f, "changed", 7, &err), &err);
    assert_ns_ok(ns_file_close(&f, &err), &err);
    assert_ns_ok(ns_dir_publish(tmp, g_dir, "next", &err), &err);
    assert_true(is_published("text"));
    assert_true(ns_dir_is_done(in_dir("next"), 1, &err));
    assert_true(holds(in_dir("next/weights"), "changed"));
    assert_true(holds(in_dir("next/sub/state"), "text"));
}

int main(void)
{
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0); /* thousands of fsyncs: spare the disk */
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(done_lists_everything),           T(damage_is_found),     T(bad_names_are_refused),
        T(publish_with_every_call_failing), T(crash_at_every_call), T(memory_failures),
        T(removal_never_follows_links),     T(trees_are_linked),    T(publishing_a_linked_tree_spares_the_source)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
