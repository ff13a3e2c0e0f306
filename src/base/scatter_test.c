/* Files written in pieces: content, checksums, gaps and overlaps; CRC-32 against its definition; what ns_dir_publish makes of it. */
#include "base/scatter.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32.h"
#include "base/crc32c.h"
#include "base/file.h"
#include "base/sync.h"
#include "base/testing.h"

static void checksums(void **s)
{
    (void)s;
    unsigned char p[5000];
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof p; i++) p[i] = (unsigned char)((x = x * 1664525 + 1013904223) >> 24);
    assert_int_equal(ns_crc32("123456789", 9), 0xcbf43926); /* the check value of the polynomial */
    for (size_t n = 0; n < sizeof p; n += 1 + n / 7) {
        for (size_t at = 0; at < 17; at += 5) {
            size_t k = n > at ? n - at : 0;
            uint32_t zip = 7, crc = 9;
            ns_crc_both(&zip, &crc, p + at, k);
            assert_int_equal(zip, ns_crc32_plain(7, p + at, k));
            assert_int_equal(crc, ns_crc32c_plain(9, p + at, k));
            assert_int_equal(ns_crc32_more(7, p + at, k), zip);
            assert_int_equal(ns_crc32c(9, p + at, k), crc);
            assert_int_equal(ns_crc_narrow(NS_CRC32_POLY, 7, p + at, k), zip);
            assert_int_equal(ns_crc_narrow(NS_CRC32C_POLY, 9, p + at, k), crc);
            uint32_t a = ns_crc32(p, at), b = ns_crc32(p + at, k), c = ns_crc32c(0, p, at), d = ns_crc32c(0, p + at, k);
            assert_int_equal(ns_crc_join(NS_CRC32_POLY, a, b, k), ns_crc32(p, at + k));
            assert_int_equal(ns_crc_join(NS_CRC32C_POLY, c, d, k), ns_crc32c(0, p, at + k));
        }
    }
}

static void pieces(void **s)
{
    (void)s;
    char dir[256], path[300];
    ns_error err = NS_ERROR_INIT;
    ns_scatter *f = NULL;
    ns_buf b = {0};
    uint32_t crc;
    uint64_t size;
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/f", dir);
    assert_ns_ok(ns_scatter_create(&f, path, 9, &err), &err);
    assert_ns_ok(ns_scatter_put(f, 5, "6789", 4, &err), &err);
    assert_int_equal(ns_scatter_left(f), 5);
    assert_ns_ok(ns_scatter_put(f, 0, "12345", 5, &err), &err);
    assert_ns_ok(ns_scatter_crc32(f, 0, 9, &crc, &err), &err);
    assert_int_equal(crc, 0xcbf43926);
    assert_ns_ok(ns_scatter_close(&f, &err), &err);
    assert_ns_ok(ns_file_read(&b, path, &err), &err);
    assert_string_equal(b.data, "123456789");
    assert_true(ns_digest_recall(path, &size, &crc));
    assert_int_equal(crc, 0xe3069283);
    assert_false(ns_digest_recall(path, &size, &crc));
    static const struct { /* length of the second put at 4; what closing says */
        size_t n;
        uint64_t at;
    } bad[] = {{4, 4}, {5, 4}, {3, 5}, {6, 4}};
    for (int i = 0; i < 4; i++) {
        ns_error why = NS_ERROR_INIT;
        assert_ns_ok(ns_scatter_create(&f, path, 9, &err), &err);
        assert_ns_ok(ns_scatter_put(f, 0, "12345", 5, &err), &err);
        ns_status st = ns_scatter_put(f, bad[i].at, "678901", bad[i].n, &why);
        if (st == NS_OK) st = ns_scatter_close(&f, &why);
        assert_int_equal(st, NS_ERR_INTERNAL);
        ns_scatter_abort(&f);
        assert_false(ns_path_exists(path));
    }
    ns_buf_free(&b);
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

/* A file that was changed after it was closed is read again. */
static void changed_file(void **s)
{
    (void)s;
    char dir[256], tmp[300], path[400];
    ns_error err = NS_ERROR_INIT;
    ns_scatter *f = NULL;
    ns_test_tmpdir(dir, sizeof dir);
    assert_ns_ok(ns_dir_begin(tmp, sizeof tmp, dir, "m", &err), &err);
    snprintf(path, sizeof path, "%s/f", tmp);
    assert_ns_ok(ns_scatter_create(&f, path, 4, &err), &err);
    assert_ns_ok(ns_scatter_put(f, 0, "abcd", 4, &err), &err);
    assert_ns_ok(ns_scatter_close(&f, &err), &err);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "xyzz", 4, 0), 4);
    struct timespec later[2] = {{4000, 0}, {4000, 0}}; /* clocks of file systems are coarse */
    assert_int_equal(futimens(fd, later), 0);
    close(fd);
    assert_ns_ok(ns_dir_publish(tmp, dir, "m", &err), &err);
    snprintf(path, sizeof path, "%s/m", dir);
    assert_int_equal(ns_dir_is_done(path, 1, &err), 1);
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

/* While files are held nothing is synced; then all are, an error of the disk is reported, and what was dropped is forgotten. */
static void held_files(void **s)
{
    (void)s;
    char dir[256], path[300];
    ns_test_tmpdir(dir, sizeof dir);
    for (int fail = 0; fail < 2; fail++) {
        ns_error err = NS_ERROR_INIT;
        ns_sync_hold();
        ns_sys_fail_at("fsync", fail ? 2 : 1000, EIO);
        for (int i = 0; i < 250; i++) { /* more than are kept open */
            ns_scatter *f = NULL;
            snprintf(path, sizeof path, "%s/%d", dir, i);
            assert_ns_ok(ns_scatter_create(&f, path, 4, &err), &err);
            assert_ns_ok(ns_scatter_put(f, 0, "abcd", 4, &err), &err);
            if (ns_scatter_close(&f, &err) != NS_OK) break;
            if (i < 200) assert_false(ns_sys_fault_hit());
        }
        assert_int_equal(err.code, fail ? NS_ERR_IO : NS_OK);
        ns_sys_fail_at("fsync", fail ? 3 : 1000, EIO);
        if (fail) err = (ns_error)NS_ERROR_INIT;
        assert_int_equal(ns_sync_all(&err), fail ? NS_ERR_IO : NS_OK);
        ns_sys_fail_at(NULL, 0, 0);
        assert_ns_ok(ns_sync_all(fail ? NULL : &err), &err); /* nothing is left */
    }
    int fd = open(path, O_RDWR);
    ns_sync_hold();
    ns_sys_fail_at("fsync", 1, EIO);
    assert_int_equal(ns_sync_close(fd, path, NULL), NS_OK);
    ns_sync_drop();
    assert_int_equal(ns_sync_all(NULL), NS_OK);
    ns_sys_fail_at(NULL, 0, 0);
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksums),
        cmocka_unit_test(pieces),
        cmocka_unit_test(changed_file),
        cmocka_unit_test(held_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
