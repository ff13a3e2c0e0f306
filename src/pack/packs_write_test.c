/* Writing packs: the same files whatever the threads and the size of blocks; a failure of any system call or allocation is an error
 * that leaves no half file, and an older pack of that name is whole, or refused, or the new one: never a mixture. */
#include <dirent.h>
#include <errno.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/testing.h"
#include "pack/pack_files.h"
#include "pack/packs.h"

enum { ROWS = 24000, FEW = 3000, LONGEST = 90 }; /* ROWS: packs of several blocks of 1 MiB */
static char dir[256];
static int64_t start[ROWS + 1];
static int32_t ids[ROWS * LONGEST], answer[ROWS];

static void quiet(ns_log_level level, const char *line, void *user)
{
    (void)level, (void)line, (void)user;
}

static ns_examples rows_of(int64_t n)
{
    return (ns_examples){.n = n, .start = start, .ids = ids, .answer_start = answer};
}

static void make_rows(void)
{
    ns_mt g;
    ns_mt_seed(&g, 7);
    for (int64_t i = 0; i < ROWS; i++) {
        int64_t n = ns_mt_below_numpy(&g, LONGEST + 1);
        start[i + 1] = start[i] + n;
        answer[i] = (int32_t)(n / 3);
        for (int64_t k = start[i]; k < start[i + 1]; k++) ids[k] = (int32_t)(k * 31 % 977);
    }
}

static const ns_pack_options usual = {
    .size = 200, .chunk = 450, .max_seq_length = 100, .cp = 1, .eos = 3, .tokenizer = "x", .tokenizer_hash = "00ff"};

static void read_all(ns_buf *out, const char *name, const char *suffix)
{
    char path[400];
    ns_error err = NS_ERROR_INIT;
    ns_buf_clear(out);
    snprintf(path, sizeof path, "%s/%s.%s.npy", dir, name, suffix);
    assert_ns_ok(ns_file_read(out, path, &err), &err);
}

static void same_files(const char *a, const char *b)
{
    ns_buf x = {0}, y = {0};
    for (int k = 0; k < 3; k++) {
        read_all(&x, a, ns_pack_suffix[k]);
        read_all(&y, b, ns_pack_suffix[k]);
        assert_true(x.len > 128 && x.len == y.len);
        assert_memory_equal(x.data, y.data, x.len);
    }
    ns_buf_free(&x);
    ns_buf_free(&y);
}

static void any_number_of_threads(void **state)
{
    (void)state;
    ns_examples half[2] = {rows_of(ROWS / 3), {0}};
    half[1] =
        (ns_examples){.n = ROWS - ROWS / 3, .start = start + ROWS / 3, .ids = ids, .answer_start = answer + ROWS / 3};
    ns_pack_set set = {half, 2, NULL};
    for (int how = 0; how < 3; how++) {
        ns_pack_sum one = {0}, sum;
        for (int threads = 0; threads < 6; threads++) {
            ns_error err = NS_ERROR_INIT;
            ns_pack_options o = usual;
            char base[400], name[20];
            o.how = (ns_pack_algorithm)how;
            if (threads) assert_ns_ok(ns_threads_new(&o.pool, threads, &err), &err);
            snprintf(name, sizeof name, "t%d", threads);
            snprintf(base, sizeof base, "%s/%s", dir, name);
            assert_ns_ok(ns_packs_write(&set, base, &o, &sum, &err), &err);
            assert_true(sum.packs * 200 * 5 > 4 << 20 && sum.skipped > 0);
            if (threads == 0) one = sum;
            assert_true(sum.packs == one.packs && sum.tokens == one.tokens && sum.fill == one.fill);
            same_files("t0", name);
            ns_threads_free(&o.pool);
        }
    }
}

/* The rows as they lie in the files, against the definition: every row, one after another, with padding behind. */
static void the_rows_themselves(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_examples ex = rows_of(ROWS);
    ns_pack_set set = {&ex, 1, NULL};
    ns_pack_files f;
    ns_pack_sum sum;
    ns_pack_options o = usual;
    char base[400];
    int64_t seen = 0;
    snprintf(base, sizeof base, "%s/rows", dir);
    assert_ns_ok(ns_packs_write(&set, base, &o, &sum, &err), &err);
    assert_ns_ok(ns_pack_files_open(&f, base, &err), &err);
    const int64_t width = f.a[0].cols, most = f.a[2].cols;
    for (int64_t i = 0; i < f.a[0].rows; i++) {
        int32_t row[LONGEST * 100], begin[200];
        memcpy(row, ns_npy_row(&f.a[0], i), (size_t)width * 4);
        memcpy(begin, ns_npy_row(&f.a[2], i), (size_t)most * 4);
        int64_t used = 0, n = 0;
        while (used < width && row[used] >= 0) used++;
        for (int64_t k = used; k < width; k++) assert_true(row[k] == -1 && ns_npy_row(&f.a[1], i)[k] == 1);
        while (n < most && begin[n] >= 0) n++;
        for (int64_t k = n; k < most; k++) assert_int_equal(begin[k], -1);
        assert_true(n > 0 && begin[0] == 0);
        seen += n;
    }
    assert_int_equal(seen, sum.samples);
    ns_pack_files_close(&f);
}

static int left_behind(void)
{
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) n += strstr(e->d_name, ".tmp") != NULL;
    closedir(d);
    return n;
}

static void every_call_fails_once(void **state)
{
    (void)state;
    char base[400];
    ns_examples old = rows_of(FEW / 2), ex = rows_of(FEW);
    ns_pack_set set[2] = {{&old, 1, NULL}, {&ex, 1, NULL}};
    ns_pack_sum sum;
    int failed = 0, hit = 1;
    snprintf(base, sizeof base, "%s/new", dir);
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_packs_write(&set[1], base, &usual, &sum, &err), &err);
    const int64_t packs = sum.packs;
    snprintf(base, sizeof base, "%s/old", dir);
    for (int what = 0; what < 2; what++, hit = 1)
        for (uint64_t k = 1; hit; k++) {
            ns_pack_files f;
            assert_true(k < 1000);
            err = (ns_error)NS_ERROR_INIT;
            assert_ns_ok(ns_packs_write(&set[0], base, &usual, &sum, &err), &err);
            if (what)
                ns_sys_fail_at(NULL, k, ENOSPC);
            else
                ns_mem_fail_at(k, 0);
            ns_status st = ns_packs_write(&set[1], base, &usual, &sum, &err);
            hit = what ? ns_sys_fault_hit() : ns_mem_fault_hit();
            ns_sys_fail_at(NULL, 0, 0);
            ns_mem_fail_at(0, 0);
            if (st == NS_OK) {
                same_files("new", "old");
                continue;
            }
            failed++;
            assert_true(hit && err.msg[0]);
            assert_int_equal(left_behind(), 0);
            if (ns_pack_files_open(&f, base, &err) == NS_OK) { /* the old one, or all of the new but its meta file */
                if (f.a[0].rows == packs)
                    same_files("new", "old");
                else
                    assert_true(f.a[0].rows < packs && f.a[2].rows == f.a[0].rows);
                ns_pack_files_close(&f);
            }
        }
    print_message("# %d failures\n", failed);
    assert_true(failed > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(the_rows_themselves),
        cmocka_unit_test(every_call_fails_once),
    };
    ns_log_set_sink(quiet, NULL);
    ns_test_tmpdir(dir, sizeof dir);
    make_rows();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    ns_error err = NS_ERROR_INIT;
    return ns_remove_tree(dir, &err) == NS_OK ? rc : 1;
}
