/* Files: reads, maps, writer, atomic replacement; every system call failed in turn, and a crash at every one. */
#include "base/testing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/file.h"
#include "base/mem.h"

static char g_dir[256];

static const char *in_dir(const char *name)
{
    static char path[4][512];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[0], "%s/%s", g_dir, name);
    return path[turn];
}

static int setup(void **state)
{
    (void)state;
    ns_test_tmpdir(g_dir, sizeof g_dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ns_sys_fail_at(NULL, 0, 0);
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

static void reads_and_maps(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    ns_map m;
    static const size_t sizes[] = {0, 1, 15, 16, 17, 65535, 65536, 65537, 3000001};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t n = sizes[i];
        char *want = malloc(n + 1);
        for (size_t k = 0; k < n; k++) want[k] = (char)(k * 31 + (k >> 8));
        assert_ns_ok(ns_file_replace(in_dir("x"), want, n, &err), &err);
        ns_buf_clear(&b);
        assert_ns_ok(ns_buf_adds(&b, "head", &err), &err);
        assert_ns_ok(ns_file_read(&b, in_dir("x"), &err), &err); /* appends */
        assert_int_equal(b.len, n + 4);
        assert_memory_equal(b.data, "head", 4);
        if (n) assert_memory_equal(b.data + 4, want, n);
        assert_int_equal(b.data[b.len], 0);
        assert_ns_ok(ns_map_open(&m, in_dir("x"), &err), &err);
        assert_int_equal(m.size, n);
        assert_non_null(m.data);
        if (n) assert_memory_equal(m.data, want, n);
        ns_map_close(&m);
        assert_null(m.data);
        free(want);
    }
    ns_buf_free(&b);
    assert_ns_ok(ns_file_read(&b, "/dev/null", &err), &err);
    assert_int_equal(b.len, 0);
    assert_string_equal(b.data, "");
    ns_buf_free(&b);
    int fds[2];
    char name[64];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "from a pipe", 11), 11);
    close(fds[1]);
    snprintf(name, sizeof name, "/dev/fd/%d", fds[0]);
    assert_ns_ok(ns_file_read(&b, name, &err), &err);
    assert_string_equal(b.data, "from a pipe");
    close(fds[0]);
    ns_buf_free(&b);
}

static void errors_name_path_and_reason(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    ns_map m;
    ns_file *f;
    assert_ns_fails(ns_file_read(&b, in_dir("none"), &err), NS_ERR_IO, "none': No such file", &err);
    assert_ns_fails(ns_file_read(&b, g_dir, &err), NS_ERR_IO, "directory", &err);
    ns_buf_free(&b);
    assert_ns_fails(ns_map_open(&m, g_dir, &err), NS_ERR_INPUT, "expected a regular file", &err);
    assert_ns_fails(ns_map_open(&m, "/dev/null", &err), NS_ERR_INPUT, "pipe or device", &err);
    assert_ns_fails(ns_file_create(&f, in_dir("no/such/x"), &err), NS_ERR_IO, "cannot create '", &err);
    assert_ns_fails(ns_file_replace(in_dir("no/x"), "a", 1, &err), NS_ERR_IO, "no/x", &err);
    ns_sys_fail_at("write", 1, ENOSPC);
    assert_ns_fails(ns_file_replace(in_dir("x"), "abc", 3, &err), NS_ERR_IO, "MB free there", &err);
    assert_false(ns_path_exists(in_dir("x")));
    if (ns_path_exists("/dev/full")) {
        assert_ns_ok(ns_file_create(&f, "/dev/full", &err), &err);
        assert_ns_ok(ns_file_write(f, "x", 1, &err), &err);
        assert_ns_fails(ns_file_close(&f, &err), NS_ERR_IO, "/dev/full': No space left", &err);
        assert_true(ns_path_exists("/dev/full")); /* a device is not removed */
    }
    char *longname = malloc(6000);
    memset(longname, 'x', 5999);
    longname[5999] = 0;
    assert_ns_fails(ns_file_replace(longname, "a", 1, &err), NS_ERR_INPUT, "too long", &err);
    assert_ns_fails(ns_mkdirs(longname, &err), NS_ERR_INPUT, "5999", &err);
    uint64_t n;
    assert_ns_fails(ns_disk_free(&n, longname, &err), NS_ERR_INPUT, "too long", &err);
    free(longname);
}

static void folders_and_free_space(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    uint64_t here, there;
    assert_ns_ok(ns_mkdirs(in_dir("a/b//c/"), &err), &err);
    assert_true(ns_path_is_dir(in_dir("a/b/c")));
    assert_ns_ok(ns_mkdirs(in_dir("a/b/c"), &err), &err);
    spit(in_dir("file"), "x");
    assert_true(ns_path_exists(in_dir("file")));
    assert_false(ns_path_is_dir(in_dir("file")));
    assert_ns_fails(ns_mkdirs(in_dir("file/sub"), &err), NS_ERR_IO, "file': Not a directory", &err);
    assert_ns_fails(ns_mkdirs("", &err), NS_ERR_INPUT, "bad folder name", &err);
    assert_ns_ok(ns_disk_free(&here, g_dir, &err), &err);
    assert_ns_ok(ns_disk_free(&there, in_dir("not/yet/there"), &err), &err);
    assert_true(here > 0 && (here > there ? here - there : there - here) < here / 2 + 1);
    assert_ns_ok(ns_disk_free(&there, "relative/none", &err), &err);
    assert_ns_ok(ns_fsync_dir(g_dir, &err), &err);
    assert_ns_fails(ns_fsync_dir(in_dir("file"), &err), NS_ERR_IO, "open folder", &err);
}

static void writer_keeps_every_byte(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    enum { N = 5 << 20 };
    char *want = malloc(N + 1);
    for (size_t i = 0; i < N; i++) want[i] = (char)('a' + (i * 7 + i / 1000) % 26);
    want[N] = 0;
    static const size_t steps[] = {1000003, 1 << 20, (1 << 20) - 1, (1 << 20) + 1, 4097, 1};
    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
        ns_file *f;
        size_t total = steps[s] == 1 ? 100000 : N;
        assert_ns_ok(ns_file_create(&f, in_dir("w"), &err), &err);
        for (size_t i = 0; i < total; i += steps[s])
            assert_ns_ok(ns_file_write(f, want + i, total - i < steps[s] ? total - i : steps[s], &err), &err);
        assert_ns_ok(ns_file_write(f, NULL, 0, &err), &err);
        assert_ns_ok(ns_file_close(&f, &err), &err);
        assert_null(f);
        char saved = want[total];
        want[total] = 0;
        assert_true(holds(in_dir("w"), want));
        want[total] = saved;
    }
    free(want);
}

static void writer_errors_stick(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char *block = calloc(1, 1 << 19);
    static const char *const kinds[] = {"write", "fsync", "close"};
    for (int k = 0; k < 3; k++) {
        ns_file *f;
        assert_ns_ok(ns_file_create(&f, in_dir("w"), &err), &err);
        ns_sys_fail_at(kinds[k], 1, EIO);
        ns_status st = NS_OK;
        for (int i = 0; i < 6; i++) {
            ns_status now = ns_file_write(f, block, 1 << 19, &err);
            assert_true(st == NS_OK || now == NS_ERR_IO); /* no success after the first error */
            st = now;
        }
        assert_int_equal(st, k == 0 ? NS_ERR_IO : NS_OK);
        assert_ns_fails(ns_file_close(&f, &err), NS_ERR_IO, "Input/output error", &err);
        assert_true(ns_sys_fault_hit());
        assert_null(f);
        assert_false(ns_path_exists(in_dir("w"))); /* nothing torn under the final name */
    }
    free(block);
    ns_file *f;
    assert_ns_ok(ns_file_create(&f, in_dir("w"), &err), &err);
    ns_file_abort(&f);
    assert_null(f);
    ns_file_abort(&f);
    assert_ns_ok(ns_file_close(&f, &err), &err);
    assert_false(ns_path_exists(in_dir("w")));
    for (uint64_t n = 1; n <= 3; n++) {
        ns_mem_fail_at(n, 0);
        assert_ns_fails(ns_file_create(&f, in_dir("w"), &err), NS_ERR_MEMORY, "file", &err);
        assert_true(ns_mem_fault_hit());
        assert_null(f);
    }
    ns_mem_fail_at(0, 0);
}

static void writer_spares_hard_links(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_file *f;
    spit(in_dir("a"), "shared");
    assert_int_equal(link(in_dir("a"), in_dir("b")), 0);
    assert_ns_ok(ns_file_create(&f, in_dir("b"), &err), &err);
    assert_ns_ok(ns_file_write(f, "mine", 4, &err), &err);
    assert_ns_ok(ns_file_close(&f, &err), &err);
    assert_true(holds(in_dir("a"), "shared"));
    assert_true(holds(in_dir("b"), "mine"));
}

static void writer_to_standard_output(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    fflush(stdout);
    int saved = dup(1), fd = open(in_dir("out"), O_RDWR | O_CREAT, 0600);
    assert_true(saved >= 0 && fd >= 0);
    dup2(fd, 1);
    close(fd);
    ns_file *f = NULL;
    ns_status st = ns_file_create(&f, "-", &err);
    if (st == NS_OK) st = ns_file_write(f, "hello", 5, &err);
    ns_status closed = ns_file_close(&f, &err);
    int still_open = fcntl(1, F_GETFD) >= 0;
    dup2(saved, 1);
    close(saved);
    assert_ns_ok(st, &err);
    assert_ns_ok(closed, &err);
    assert_true(still_open);
    assert_true(holds(in_dir("out"), "hello"));
    assert_false(ns_path_exists("-"));
}

static int count_names(const char *path)
{
    DIR *d = opendir(path);
    int n = 0;
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n - 2;
}

/* Each system call fails once: the file holds the old or the new text, the status tells the truth, no litter. */
static void replace_with_every_call_failing(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    static const char *const kinds[] = {"open", "write", "fsync", "close", "rename", NULL};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        int hits = 0;
        for (uint64_t n = 1;; n++) {
            assert_ns_ok(ns_file_replace(in_dir("f"), "old", 3, &err), &err);
            ns_sys_fail_at(kinds[k], n, EIO);
            ns_status st = ns_file_replace(in_dir("f"), "new text", 8, &err);
            int hit = ns_sys_fault_hit();
            ns_sys_fail_at(NULL, 0, 0);
            int is_old = holds(in_dir("f"), "old"), is_new = holds(in_dir("f"), "new text");
            assert_true(is_old || is_new);
            if (st == NS_OK) assert_true(is_new);
            assert_int_equal(count_names(g_dir), 1);
            ns_error fresh = NS_ERROR_INIT;
            err = fresh;
            if (!hit) break;
            hits++;
        }
        assert_true(hits >= 1);
    }
}

/* A pipe (or a device such as /dev/null) stays what it is; through a link the file behind it is replaced. */
static void replace_spares_pipes_and_links(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char fifo[400], file[400], name[400], got[16] = "";
    struct stat sb;
    snprintf(fifo, sizeof fifo, "%s/fifo", g_dir);
    snprintf(file, sizeof file, "%s/behind", g_dir);
    snprintf(name, sizeof name, "%s/link", g_dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    int fd = open(fifo, O_RDWR | O_NONBLOCK);
    assert_true(fd >= 0);
    assert_ns_ok(ns_file_replace(fifo, "abc", 3, &err), &err);
    assert_int_equal(read(fd, got, sizeof got - 1), 3);
    assert_string_equal(got, "abc");
    close(fd);
    assert_true(lstat(fifo, &sb) == 0 && S_ISFIFO(sb.st_mode));
    spit(file, "old");
    assert_int_equal(symlink(file, name), 0);
    assert_ns_ok(ns_file_replace(name, "new!", 4, &err), &err);
    assert_true(lstat(name, &sb) == 0 && S_ISLNK(sb.st_mode));
    assert_true(stat(file, &sb) == 0 && sb.st_size == 4);
}

static void crash_in_replace(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    int crashes = 0, saw_old = 0, saw_new = 0;
    for (uint64_t n = 1;; n++) {
        assert_ns_ok(ns_file_replace(in_dir("f"), "old", 3, &err), &err);
        pid_t pid = fork();
        if (pid == 0) {
            ns_sys_fail_at(NULL, n, -86);
            _exit(ns_file_replace(in_dir("f"), "new text", 8, NULL) == NS_OK ? 0 : 1);
        }
        int status;
        waitpid(pid, &status, 0);
        int is_old = holds(in_dir("f"), "old"), is_new = holds(in_dir("f"), "new text");
        assert_true(is_old || is_new);
        saw_old += is_old;
        saw_new += is_new;
        if (WEXITSTATUS(status) != 86) {
            assert_int_equal(status, 0);
            break;
        }
        crashes++;
    }
    assert_true(crashes >= 7); /* open write fsync close rename open fsync close */
    assert_true(saw_old >= 4 && saw_new >= 3);
}

static void checksums(void **state)
{
    (void)state;
    assert_int_equal(ns_crc32c(0, "123456789", 9), 0xe3069283u); /* the check value of the catalogue */
    unsigned char zeros[32] = {0}, ones[32];
    memset(ones, 0xff, 32);
    assert_int_equal(ns_crc32c(0, zeros, 32), 0x8a9136aau); /* RFC 3720 B.4 */
    assert_int_equal(ns_crc32c(0, ones, 32), 0x62a8ab43u);
    unsigned char x[300];
    for (int i = 0; i < 300; i++) x[i] = (unsigned char)(i * i + 3);
    for (size_t n = 0; n < 300; n++) {
        uint32_t c = ns_crc32c(0, x, n);
        assert_int_equal(c, ns_crc32c_plain(0, x, n));
        assert_int_equal(c, ns_crc32c(ns_crc32c(0, x, n / 3), x + n / 3, n - n / 3)); /* in two parts, unaligned */
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(reads_and_maps),
                                       T(errors_name_path_and_reason),
                                       T(folders_and_free_space),
                                       T(writer_keeps_every_byte),
                                       T(writer_errors_stick),
                                       T(writer_spares_hard_links),
                                       T(writer_to_standard_output),
                                       T(replace_with_every_call_failing),
                                       T(crash_in_replace),
                                       T(replace_spares_pipes_and_links),
                                       cmocka_unit_test(checksums)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
