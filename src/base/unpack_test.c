/* Packed files: content, members and frames one after the other, reads of every size, from a pipe byte by byte. A file cut at any byte is
 * refused or ends between members; a damaged byte is never a wrong row; out of memory at every allocation. */
#include <fcntl.h>

#include "base/json.h"
#include "base/testing.h"
#include "base/unpack.h"

/* the lines {"i": 0} .. {"i": 49}, 490 bytes, the first 200 packed apart from the rest: gzip -9n, zstd -19 */
static const unsigned char gzip_bytes[] = {
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x45, 0xcd, 0xbb, 0x0d, 0x80, 0x30, 0x00, 0xc4,
    0xd0, 0x9e, 0x29, 0x50, 0x26, 0xc0, 0x21, 0x7c, 0x37, 0x62, 0x86, 0x88, 0xdd, 0x41, 0x48, 0x67, 0xba, 0x57,
    0xd9, 0xbd, 0x5c, 0xe5, 0x1c, 0xa7, 0x7b, 0xe8, 0x1f, 0x08, 0x6a, 0x30, 0x07, 0x2d, 0x58, 0x82, 0x35, 0xd8,
    0x82, 0x3d, 0x38, 0x0c, 0xfe, 0x69, 0xdb, 0x18, 0xc7, 0x3a, 0xe6, 0xb1, 0x8f, 0x03, 0x3c, 0xe0, 0x02, 0x1f,
    0xf5, 0x7d, 0x3c, 0x7f, 0x75, 0x6f, 0xa7, 0xc8, 0x00, 0x00, 0x00, 0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x02, 0x03, 0x3d, 0xcd, 0xc1, 0x0d, 0x82, 0x40, 0x00, 0x04, 0xc0, 0xbf, 0x55, 0x18, 0x2a, 0x40, 0x76,
    0x41, 0xa1, 0x23, 0x6b, 0xb8, 0xd0, 0xbb, 0x26, 0x84, 0xf9, 0xcd, 0x6f, 0xc6, 0xf4, 0x9d, 0x8e, 0xe7, 0xf2,
    0x3a, 0x1f, 0xe3, 0xd2, 0x42, 0xa1, 0xd2, 0x4a, 0x1b, 0xbd, 0xe9, 0x43, 0xfb, 0xad, 0xcc, 0xe4, 0x88, 0x23,
    0x8e, 0x38, 0xe2, 0x88, 0x23, 0x8e, 0x38, 0xe2, 0xa8, 0xa3, 0x8e, 0x3a, 0xea, 0xa8, 0xa3, 0x8e, 0x3a, 0xea,
    0xa8, 0xa3, 0xff, 0xe3, 0x07, 0x5e, 0x53, 0x36, 0x87, 0x22, 0x01, 0x00, 0x00};
enum { GZIP_FIRST = 83 };
static const unsigned char zstd_bytes[] = {
    0x28, 0xb5, 0x2f, 0xfd, 0x24, 0xc8, 0xfd, 0x01, 0x00, 0x82, 0x02, 0x09, 0x10, 0xc0, 0xb7, 0x18, 0x5d, 0xfd,
    0x87, 0xa7, 0x26, 0x12, 0xd9, 0xbd, 0x7d, 0x42, 0x01, 0xa7, 0x07, 0x74, 0xec, 0xc6, 0xe2, 0xf0, 0xae, 0xe7,
    0xf8, 0xfd, 0x43, 0x84, 0xd5, 0xc4, 0x9b, 0x8e, 0x01, 0x52, 0xa5, 0x4c, 0x14, 0xa8, 0x10, 0xa0, 0xdd, 0x0e,
    0xc0, 0x53, 0x6b, 0x10, 0x1c, 0x81, 0x1e, 0x03, 0xf3, 0xec, 0x94, 0xc8, 0x23, 0xe5, 0xdd, 0x09, 0x76, 0x0a,
    0x79, 0x0b, 0xd8, 0x7e, 0x28, 0xb5, 0x2f, 0xfd, 0x64, 0x22, 0x00, 0x05, 0x02, 0x00, 0xa4, 0x02, 0x7b, 0x22,
    0x69, 0x22, 0x3a, 0x20, 0x32, 0x31, 0x7d, 0x0a, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x33, 0x30,
    0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x34, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37,
    0x38, 0x39, 0x7d, 0x0a, 0x1c, 0xa8, 0x10, 0xf0, 0xd6, 0x33, 0xe0, 0xd7, 0x10, 0x46, 0x8c, 0x0f, 0xfc, 0x26,
    0x6b, 0xa3, 0x69, 0x41, 0x4a, 0x01, 0xf8, 0xd4, 0x3f, 0x47};
enum { ZSTD_FIRST = 76 };

static char plain[600];
static size_t n_plain;

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < 50; i++)
        n_plain += (size_t)snprintf(plain + n_plain, sizeof plain - n_plain, "{\"i\": %d}\n", i);
    return 0;
}

/* A descriptor to read these bytes from; small enough for a pipe. */
static int pipe_of(const void *p, size_t n)
{
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    assert_int_equal(write(fd[1], p, n), (ssize_t)n);
    close(fd[1]);
    return fd[0];
}

static ns_status read_all(int fd, size_t step, char *out, size_t *n_out, ns_error *err)
{
    ns_unpack *u;
    ns_status st = ns_unpack_open(&u, fd, "rows.gz", err);
    *n_out = 0;
    for (size_t got = 1; st == NS_OK && got > 0; *n_out += got) {
        got = 0;
        if (*n_out + step > 4096) break;
        st = ns_unpack_read(u, out + *n_out, step, &got, err);
    }
    ns_unpack_close(&u);
    close(fd);
    return st;
}

static void expect_plain(const void *p, size_t n)
{
    char out[4096];
    size_t got, steps[] = {1, 3, 100, 2000};
    for (size_t i = 0; i < 4; i++) {
        ns_error err = NS_ERROR_INIT;
        assert_ns_ok(read_all(pipe_of(p, n), steps[i], out, &got, &err), &err);
        assert_int_equal(got, n_plain);
        assert_memory_equal(out, plain, n_plain);
    }
}

/* Cut anywhere: an error, or exactly what the whole members hold. */
static void cut_anywhere(const unsigned char *p, size_t n, size_t first)
{
    char out[4096];
    size_t got;
    for (size_t k = 4; k < n; k++) {
        ns_error err = NS_ERROR_INIT;
        ns_status st = read_all(pipe_of(p, k), 64, out, &got, &err);
        if (k == first) {
            assert_int_equal(st, NS_OK);
            assert_int_equal(got, 200);
            continue;
        }
        assert_int_equal(st, NS_ERR_INPUT);
        assert_non_null(strstr(err.msg, "rows.gz: packed byte "));
    }
}

/* One damaged byte: an error, or (in a header's free fields) the same content. */
static void damaged_anywhere(const unsigned char *p, size_t n, int has_checksum)
{
    unsigned char copy[600];
    char out[4096];
    size_t got;
    for (size_t k = 4; k < n; k++) {
        ns_error err = NS_ERROR_INIT;
        memcpy(copy, p, n);
        copy[k] ^= 0x10;
        ns_status st = read_all(pipe_of(copy, n), 64, out, &got, &err);
        if (st == NS_OK && has_checksum) assert_true(got >= n_plain && !memcmp(out, plain, n_plain));
    }
}

static void test_plain(void **state)
{
    (void)state;
    expect_plain(plain, n_plain);
    char out[4096];
    size_t got;
    ns_error err = NS_ERROR_INIT;
    for (size_t n = 0; n < 5; n++) { /* shorter than any magic number; looks like gzip at first */
        assert_ns_ok(read_all(pipe_of("\x1f"
                                      "abc",
                                      n),
                              64, out, &got, &err),
                     &err);
        assert_int_equal(got, n);
    }
}

static void test_gzip(void **state)
{
    (void)state;
    if (!ns_unpack_can("gzip")) {
        print_message("SKIP: this build has no zlib\n");
        skip();
    }
    expect_plain(gzip_bytes, sizeof gzip_bytes);
    cut_anywhere(gzip_bytes, sizeof gzip_bytes, GZIP_FIRST);
    damaged_anywhere(gzip_bytes, sizeof gzip_bytes, 1);
}

static void test_zstd(void **state)
{
    (void)state;
    if (!ns_unpack_can("zstd")) {
        print_message("SKIP: this build has no libzstd\n");
        skip();
    }
    expect_plain(zstd_bytes, sizeof zstd_bytes);
    cut_anywhere(zstd_bytes, sizeof zstd_bytes, ZSTD_FIRST);
    damaged_anywhere(zstd_bytes, sizeof zstd_bytes, 1);
}

/* Through the line reader: lines, numbers, and where it is cut. */
static void test_lines(void **state)
{
    (void)state;
    char dir[64], path[128];
    if (!ns_unpack_can("gzip")) skip();
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/rows.jsonl.gz", dir);
    for (int cut = 0; cut < 2; cut++) {
        ns_error err = NS_ERROR_INIT;
        ns_jsonl *r;
        const char *line, *where;
        size_t n;
        ns_status st = NS_OK;
        FILE *f = fopen(path, "wb");
        fwrite(gzip_bytes, 1, sizeof gzip_bytes - (cut ? 30 : 0), f);
        fclose(f);
        assert_ns_ok(ns_jsonl_open(&r, path, &err), &err);
        int lines = 0;
        while ((st = ns_jsonl_next_line(r, &line, &n, &where, &err)) == NS_OK && line) {
            char want[32];
            int len = snprintf(want, sizeof want, "{\"i\": %d}", lines++);
            assert_int_equal(n, len);
            assert_memory_equal(line, want, n);
        }
        if (!cut) assert_int_equal(lines, 50);
        assert_int_equal(st, cut ? NS_ERR_INPUT : NS_OK);
        if (cut) assert_non_null(strstr(err.msg, "the file ends within its gzip data"));
        ns_jsonl_close(&r);
    }
    for (uint64_t k = 1; k < 20; k++) { /* out of memory */
        ns_error err = NS_ERROR_INIT;
        ns_jsonl *r = NULL;
        ns_mem_fail_at(k, 0);
        ns_status st = ns_jsonl_open(&r, path, &err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        assert_int_equal(st, hit ? NS_ERR_MEMORY : NS_OK);
        ns_jsonl_close(&r);
        if (!hit) break;
    }
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain), cmocka_unit_test(test_gzip),
                                       cmocka_unit_test(test_zstd), cmocka_unit_test(test_lines)};
    return cmocka_run_group_tests(tests, setup, NULL);
}
