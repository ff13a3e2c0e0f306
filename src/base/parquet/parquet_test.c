/* Parquet: every committed file gives exactly its lines (tests/golden/parquet), every lie its refusal; a file cut at any byte is refused,
 * a damaged byte never more than refused; out of memory at every allocation, every read failing; through the line reader. */
#include <errno.h>
#include <fcntl.h>

#include "base/file.h"
#include "base/json.h"
#include "base/parquet/parquet.h"
#include "base/testing.h"
#include "base/unpack.h"

#define GOLDEN NS_SOURCE_DIR "/tests/golden/parquet/"

static ns_buf read_file(const char *name, const char *ext)
{
    char path[4096];
    ns_buf b = {0};
    ns_error err = NS_ERROR_INIT;
    snprintf(path, sizeof path, GOLDEN "%s%s", name, ext);
    assert_ns_ok(ns_buf_reserve(&b, 1, &err), &err);
    assert_ns_ok(ns_file_read(&b, path, &err), &err);
    return b;
}

/* All rows (at most `most`) of a file in memory as lines in *out. */
static ns_status read_rows(const void *p, size_t n, int most, ns_buf *out, ns_error *err)
{
    ns_parquet *r;
    const char *row = "";
    size_t len;
    ns_status st = ns_parquet_open_memory(&r, p, n, "rows.parquet", err);
    if (st == NS_OK) ns_parquet_longest_row(r, 1 << 20);
    while (st == NS_OK && row && most-- > 0) {
        st = ns_parquet_next(r, &row, &len, err);
        if (st != NS_OK || !row) break;
        if (out) st = ns_buf_add(out, row, len, err);
        if (out && st == NS_OK) st = ns_buf_addc(out, '\n', err);
    }
    ns_parquet_close(&r);
    return st;
}

/* Some files need a library that this build may lack. */
static int readable(const char *name)
{
    return (!strstr(name, "gzip") && strcmp(name, "many_pages") != 0 ? 1 : ns_unpack_can("gzip")) &&
           (!strstr(name, "zstd") && strcmp(name, "groups") != 0 && strcmp(name, "split_ints") != 0
                ? 1
                : ns_unpack_can("zstd"));
}

static void expect_lines(const char *name, const char *lines)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf file = read_file(name, ".parquet"), want = read_file(lines, ".jsonl"), got = {0};
    ns_status st = read_rows(file.data, file.len, 1 << 20, &got, &err);
    char text[2048];
    if (st != NS_OK) fail_msg("%s: %s", name, ns_error_text(&err, text, sizeof text));
    size_t i = 0;
    while (i < got.len && i < want.len && got.data[i] == want.data[i]) i++;
    if (got.len != want.len || i < got.len) fail_msg("%s: differs from byte %zu on: %.60s", name, i, got.data + i);
    ns_buf_free(&file);
    ns_buf_free(&want);
    ns_buf_free(&got);
}

static void test_golden(void **state)
{
    (void)state;
    char name[64], lines[64];
    int n = 0, used;
    ns_buf index = read_file("index", ".txt");
    for (const char *p = index.data; sscanf(p, "%63s %63s%n", name, lines, &used) == 2; p += used, n++)
        if (readable(name))
            expect_lines(name, lines);
        else
            print_message("SKIP: %s: this build lacks its codec\n", name);
    assert_true(n > 40);
    ns_buf_free(&index);
}

static void test_odd(void **state)
{
    (void)state;
    int n = 0;
    ns_buf index = read_file("odd/index", ".txt");
    char *next = NULL;
    for (char *line = strtok_r(index.data, "\n", &next); line; line = strtok_r(NULL, "\n", &next), n++) {
        char *says = strchr(line, '\t'), name[128];
        assert_non_null(says);
        *says++ = 0;
        snprintf(name, sizeof name, "odd/%s", line);
        if (!strcmp(says, "=")) {
            expect_lines(name, name);
            continue;
        }
        ns_error err = NS_ERROR_INIT;
        ns_buf file = read_file(name, ".parquet");
        ns_status st = read_rows(file.data, file.len, 100, NULL, &err);
        char text[2048];
        ns_error_text(&err, text, sizeof text);
        if ((st != NS_ERR_INPUT && st != NS_ERR_UNSUPPORTED) || !strstr(err.msg, says))
            fail_msg("%s: status %s, '%s', expected '%s'", name, ns_status_name(st), text, says);
        if (strncmp(err.msg, "rows.parquet: ", 14)) fail_msg("%s: does not name the file: %s", name, err.msg);
        ns_buf_free(&file);
    }
    assert_true(n > 60);
    ns_buf_free(&index);
}

static void test_cut_anywhere(void **state)
{
    (void)state;
    static const char *const names[] = {"odd/old_forms", "text_snappy_v1", "nested_plain_v2", "types"};
    for (size_t i = 0; i < 4; i++) {
        ns_buf file = read_file(names[i], ".parquet");
        for (size_t k = 0; k < file.len; k++) {
            ns_error err = NS_ERROR_INIT;
            ns_status st = read_rows(file.data, k, 1000, NULL, &err);
            if (st == NS_OK) fail_msg("%s cut at byte %zu is read", names[i], k);
        }
        ns_buf_free(&file);
    }
}

/* A page with a checksum: a damaged byte of it is always found. Elsewhere it may change what the file says, but no more. */
static void test_damaged_anywhere(void **state)
{
    (void)state;
    static const char *const names[] = {"odd/old_forms", "text_snappy_v1", "text_lz4_v2", "nested_plain_v1",
                                        "delta_ints"};
    for (size_t i = 0; i < 5; i++) {
        ns_buf file = read_file(names[i], ".parquet");
        for (size_t k = 0; k < file.len; k++) {
            char was = file.data[k];
            for (int bit = 0; bit < 3; bit++) {
                ns_error err = NS_ERROR_INIT;
                file.data[k] = (char)(was ^ (1 << (3 * bit)));
                ns_status st = read_rows(file.data, file.len, 1000, NULL, &err);
                if (st != NS_OK && st != NS_ERR_INPUT && st != NS_ERR_UNSUPPORTED)
                    fail_msg("%s, byte %zu: status %s: %s", names[i], k, ns_status_name(st), err.msg);
                if (st != NS_OK && strchr(err.msg, '\n')) fail_msg("more than a line: %s", err.msg);
            }
            file.data[k] = was;
        }
        ns_buf_free(&file);
    }
}

static void test_checksums(void **state)
{
    (void)state;
    ns_buf file = read_file("text_none_v1", ".parquet"), want = {0};
    ns_error err = NS_ERROR_INIT;
    size_t found = 0, tried = 0, first = 4, last = 0;
    assert_ns_ok(read_rows(file.data, file.len, 1000, &want, &err), &err);
    const char *at = memmem(file.data, file.len, "What is 59 plus", 15);
    assert_non_null(at);
    last = (size_t)(at - file.data) + 15;
    for (size_t k = first; k < last; k++, tried++) {
        ns_buf got = {0};
        ns_error e = NS_ERROR_INIT;
        file.data[k] ^= 4;
        ns_status st = read_rows(file.data, file.len, 1000, &got, &e);
        if (st == NS_OK && (got.len != want.len || memcmp(got.data, want.data, got.len)))
            fail_msg("byte %zu: other rows, and no error", k);
        found += st != NS_OK && strstr(e.msg, "found checksum") != NULL;
        file.data[k] ^= 4;
        ns_buf_free(&got);
    }
    assert_true(found > tried * 9 / 10);
    ns_buf_free(&file);
    ns_buf_free(&want);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    static const char *const names[] = {"nested_snappy_v1", "delta_v2", "extension", "types_dict"};
    for (size_t i = 0; i < 4; i++) {
        ns_buf file = read_file(names[i], ".parquet");
        uint64_t k = 1, before = ns_mem_get_stats().bytes_now;
        for (;; k++) {
            ns_error err = NS_ERROR_INIT;
            ns_mem_fail_at(k, 0);
            ns_status st = read_rows(file.data, file.len, 1000, NULL, &err);
            int hit = ns_mem_fault_hit();
            ns_mem_fail_at(0, 0);
            if (st != (hit ? NS_ERR_MEMORY : NS_OK))
                fail_msg("%s, allocation %llu: status %s", names[i], (unsigned long long)k, ns_status_name(st));
            assert_true(ns_mem_get_stats().bytes_now == before);
            if (!hit) break;
        }
        assert_true(k > 10);
        ns_buf_free(&file);
    }
}

static ns_status read_lines(const char *path, int *n_lines, ns_error *err)
{
    ns_jsonl *r;
    const char *line = "", *where;
    size_t n;
    char want[4200];
    ns_status st = ns_jsonl_open(&r, path, err);
    *n_lines = 0;
    while (st == NS_OK && (st = ns_jsonl_next_line(r, &line, &n, &where, err)) == NS_OK && line) {
        snprintf(want, sizeof want, "%s:%d", path, ++*n_lines);
        assert_string_equal(where, want);
        assert_int_equal(ns_jsonl_line_no(r), *n_lines);
        assert_string_equal(ns_jsonl_kind(r), "parquet");
        assert_true(ns_jsonl_bytes(r) > 0);
    }
    ns_jsonl_close(&r);
    return st;
}

static void test_lines(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    int n;
    assert_ns_ok(read_lines(GOLDEN "text_snappy_v1.parquet", &n, &err), &err);
    assert_int_equal(n, 60);
    assert_ns_fails(read_lines(GOLDEN "odd/not_utf8.parquet", &n, &err), NS_ERR_INPUT, "row 2", &err);
    assert_int_equal(n, 1);
    for (uint64_t k = 1;; k++) { /* every read fails in turn */
        ns_error e = NS_ERROR_INIT;
        ns_sys_fail_at("read", k, EIO);
        ns_status st = read_lines(GOLDEN "nested_plain_v1.parquet", &n, &e);
        int hit = ns_sys_fault_hit();
        ns_sys_fail_at(NULL, 0, 0);
        assert_int_equal(st, hit ? NS_ERR_IO : NS_OK);
        if (!hit) break;
    }
    int fd[2];
    char name[64];
    assert_int_equal(pipe(fd), 0);
    assert_int_equal(write(fd[1], "PAR1PAR1", 8), 8);
    close(fd[1]);
    snprintf(name, sizeof name, "/dev/fd/%d", fd[0]);
    assert_ns_fails(read_lines(name, &n, &err), NS_ERR_INPUT, "which a pipe does not allow", &err);
    close(fd[0]);
}

static void test_long_row(void **state)
{
    (void)state;
    ns_parquet *r;
    const char *row;
    size_t n;
    ns_error err = NS_ERROR_INIT;
    ns_buf file = read_file("many_pages", ".parquet");
    if (!ns_unpack_can("gzip")) skip();
    assert_ns_ok(ns_parquet_open_memory(&r, file.data, file.len, "long.parquet", &err), &err);
    assert_int_equal(ns_parquet_rows(r), 50);
    ns_parquet_longest_row(r, 100);
    ns_status st = NS_OK;
    do st = ns_parquet_next(r, &row, &n, &err);
    while (st == NS_OK && row);
    assert_int_equal(st, NS_ERR_INPUT);
    assert_non_null(strstr(err.msg, "found a line of more than 100 bytes for one row"));
    ns_parquet_close(&r);
    ns_buf_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),       cmocka_unit_test(test_odd),
                                       cmocka_unit_test(test_cut_anywhere), cmocka_unit_test(test_damaged_anywhere),
                                       cmocka_unit_test(test_checksums),    cmocka_unit_test(test_out_of_memory),
                                       cmocka_unit_test(test_lines),        cmocka_unit_test(test_long_row)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
