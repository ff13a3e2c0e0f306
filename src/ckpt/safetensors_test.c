/* The reader against files that must load and files that must not (each made here, with the words of its refusal), every
 * prefix of a good file, every flipped header byte; the writer read back, its shards, and its faults. */
#include "ckpt/safetensors.h"

#include <errno.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/testing.h"

static char root[256];

static const char *at(const char *name)
{
    static char path[4][512];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, 512, "%s/%s", root, name);
    return p;
}

static void put_bytes(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

/* A file of this header and n data bytes 0, 1, 2 ... */
static size_t make(const char *path, const char *header, size_t n)
{
    unsigned char b[4096];
    size_t h = strlen(header);
    assert_true(8 + h + n <= sizeof b);
    for (int i = 0; i < 8; i++) b[i] = (unsigned char)(h >> (8 * i));
    memcpy(b + 8, header, h);
    for (size_t i = 0; i < n; i++) b[8 + h + i] = (unsigned char)i;
    put_bytes(path, b, 8 + h + n);
    return 8 + h + n;
}

static void must_fail(const char *path, ns_status want, const char *needle)
{
    ns_error err = NS_ERROR_INIT;
    ns_st *st = NULL;
    assert_ns_fails(ns_st_open(&st, path, &err), want, needle, &err);
    assert_null(st);
}

static void fresh(const char *name)
{
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_remove_tree(at(name), &err), &err);
    assert_ns_ok(ns_mkdirs(at(name), &err), &err);
}

static void good_files(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_st *st;
    /* padded header, unsorted names, a scalar, an empty tensor, data that is not aligned */
    make(at("good.safetensors"),
         "{\"__metadata__\":{\"format\":\"pt\",\"x\":\"\\u00e9\"},\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_"
         "offsets\":[3,11]},"
         "\"a\\/"
         "\\\"q\":{\"dtype\":\"U8\",\"shape\":[3,1],\"data_offsets\":[0,3]},\"s\":{\"dtype\":\"BF16\",\"shape\":[],"
         "\"data_offsets\":[11,13]},\"e\":{\"dtype\":\"F64\",\"shape\":[0,5],\"data_offsets\":[3,3]}}     ",
         13);
    assert_ns_ok(ns_st_open(&st, at("good.safetensors"), &err), &err);
    assert_int_equal(ns_st_count(st), 4);
    assert_string_equal(ns_st_at(st, 0)->name, "a/\"q"); /* by offset */
    assert_string_equal(ns_st_at(st, 1)->name, "e");
    assert_string_equal(ns_st_at(st, 3)->name, "s");
    const ns_st_tensor *b = ns_st_find(st, "b");
    assert_non_null(b);
    assert_int_equal(b->dt, NS_DTYPE_F32);
    assert_int_equal(b->n, 2);
    assert_int_equal(((const unsigned char *)b->data)[0], 3);
    assert_int_equal(ns_st_find(st, "s")->nd, 0);
    assert_int_equal(ns_st_find(st, "s")->n, 1);
    assert_int_equal(ns_st_find(st, "e")->n, 0);
    assert_null(ns_st_find(st, "nothing"));
    assert_string_equal(ns_st_metadata(st, "format"), "pt");
    assert_string_equal(ns_st_metadata(st, "x"), "\xc3\xa9");
    assert_null(ns_st_metadata(st, "y"));
    ns_st_close(&st);
    assert_null(st);
    ns_st_close(&st);
    make(at("empty.safetensors"), "{}", 0);
    assert_ns_ok(ns_st_open(&st, at("empty.safetensors"), &err), &err);
    assert_int_equal(ns_st_count(st), 0);
    assert_null(ns_st_find(st, "a"));
    ns_st_close(&st);
}

#define T(name, dt, shape, b, e) \
    "\"" name "\":{\"dtype\":\"" dt "\",\"shape\":" shape ",\"data_offsets\":[" #b "," #e "]}"

static void bad_headers(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        ns_status st;
        const char *needle;
    } bad[] = {
        {"{" T("a", "F32", "[2]", 0, 8) "}", 7, NS_ERR_INPUT, "truncated: found"},
        {"{" T("a", "F32", "[2]", 0, 8) "}", 9, NS_ERR_INPUT, "1 bytes after the last tensor"},
        {"{" T("a", "F32", "[2]", 0, 7) "}", 7, NS_ERR_INPUT,
         "tensor \"a\": data_offsets span 7 bytes, dtype and shape need 8"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 5, 9) "}", 9, NS_ERR_INPUT,
         "tensor \"b\": data begins at 5, expected 4: a hole of 1 bytes"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 2, 6) "}", 6, NS_ERR_INPUT,
         "tensor \"b\": data begins at 2, inside the tensor before it (ends 4)"},
        {"{" T("a", "F32", "[1]", 1, 5) "}", 5, NS_ERR_INPUT, "a hole of 1 bytes"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 4, 8) "}", 8, NS_ERR_INPUT,
         "tensor \"a\" is in the header twice"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 0, 4) "}", 4, NS_ERR_INPUT,
         "tensor \"a\" is in the header twice"},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("\\u0061", "F32", "[1]", 0, 4) "}", 4, NS_ERR_INPUT,
         "is in the header twice"},
        {"{" T("a", "C64", "[1]", 0, 8) "}", 8, NS_ERR_UNSUPPORTED, "tensor \"a\": dtype \"C64\" is not supported"},
        {"{" T("a", "F32", "[-1]", 0, 4) "}", 4, NS_ERR_INPUT, "size 0 of \"shape\" is not a non-negative integer"},
        {"{" T("a", "F32", "[1.5]", 0, 4) "}", 4, NS_ERR_INPUT, "size 0 of \"shape\""},
        {"{" T("a", "F32", "[\"1\"]", 0, 4) "}", 4, NS_ERR_INPUT, "size 0 of \"shape\""},
        {"{" T("a", "F32", "1", 0, 4) "}", 4, NS_ERR_INPUT, "\"shape\" must be a list"},
        {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, NS_ERR_INPUT, "at most 8 sizes"},
        {"{" T("a", "F32", "[4294967296,4294967296]", 0, 0) "}", 0, NS_ERR_INPUT, "shape overflows"},
        {"{" T("a", "F32", "[9223372036854775807,2]", 0, 8) "}", 8, NS_ERR_INPUT, "shape overflows"},
        {"{" T("a", "F32", "[1]", 4, 0) "}", 4, NS_ERR_INPUT, "begin <= end"},
        {"{" T("a", "F32", "[1]", -4, 0) "}", 4, NS_ERR_INPUT, "begin <= end"},
        {"{" T("a", "F32", "[1]", 9223372036854775804, 9223372036854775807) "}", 4, NS_ERR_INPUT, "span 3 bytes"},
        {"{" T("a", "F32", "[1]", 9223372036854775803, 9223372036854775807) "}", 4, NS_ERR_INPUT, "truncated"},
        {"{\"a\":5}", 0, NS_ERR_INPUT, "tensor \"a\": header entry needs"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, NS_ERR_INPUT, "header entry needs"},
        {"{\"a\\u0000b\":{}}", 0, NS_ERR_INPUT, "NUL"},
        {"{\"__metadata__\":[]}", 0, NS_ERR_INPUT, "\"__metadata__\" must be an object"},
        {"{\"__metadata__\":{\"k\":1}}", 0, NS_ERR_INPUT, "\"k\" must be a string"},
        {"[]", 0, NS_ERR_INPUT, "header must begin with '{'"},
        {"{\"a\":", 0, NS_ERR_INPUT, "bad.safetensors"},
        {"", 0, NS_ERR_INPUT, "header must begin with '{'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        make(at("bad.safetensors"), bad[i].header, bad[i].data);
        must_fail(at("bad.safetensors"), bad[i].st, bad[i].needle);
    }
}

static void bad_lengths(void **state)
{
    (void)state;
    put_bytes(at("bad.safetensors"), "", 0);
    must_fail(at("bad.safetensors"), NS_ERR_INPUT, "found 0 bytes, expected at least 8");
    put_bytes(at("bad.safetensors"), "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    must_fail(at("bad.safetensors"), NS_ERR_INPUT, "header length 18446744073709551615 at byte 0 is absurd");
    put_bytes(at("bad.safetensors"), "\x03\0\0\0\0\0\0\0{}", 10);
    must_fail(at("bad.safetensors"), NS_ERR_INPUT, "truncated: found 10 bytes, expected at least 11");
    must_fail(at("absent.safetensors"), NS_ERR_IO, "absent.safetensors");
}

/* No prefix of a good file loads, and no flipped byte of a header does worse than fail. */
static void prefixes_and_flips(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    size_t n = make(at("good.safetensors"), "{" T("a", "F32", "[2]", 0, 8) "," T("b", "BF16", "[2,2]", 8, 16) "}", 16);
    assert_ns_ok(ns_file_read(&b, at("good.safetensors"), &err), &err);
    for (size_t k = 0; k < n; k++) {
        put_bytes(at("cut.safetensors"), b.data, k);
        must_fail(at("cut.safetensors"), NS_ERR_INPUT, "cut.safetensors");
    }
    for (size_t k = 0; k < n - 16; k++) {
        for (int bit = 0; bit < 8; bit++) {
            ns_st *st = NULL;
            ns_error e = NS_ERROR_INIT;
            b.data[k] = (char)(b.data[k] ^ (1 << bit));
            put_bytes(at("flip.safetensors"), b.data, n);
            b.data[k] = (char)(b.data[k] ^ (1 << bit));
            if (ns_st_open(&st, at("flip.safetensors"), &e) != NS_OK) continue;
            volatile unsigned sum = 0; /* what loads must be readable */
            for (int i = 0; i < ns_st_count(st); i++) {
                const ns_st_tensor *t = ns_st_at(st, i);
                for (size_t j = 0; j < (size_t)t->n * ns_dtype_size(t->dt); j++)
                    sum += ((const unsigned char *)t->data)[j];
            }
            ns_st_close(&st);
        }
    }
    ns_buf_free(&b);
}

static void folders(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_st *st;
    fresh("m");
    must_fail(at("m"), NS_ERR_INPUT, "neither model.safetensors nor model.safetensors.index.json");
    put_bytes(at("m/pytorch_model.bin"), "x", 1);
    must_fail(at("m"), NS_ERR_UNSUPPORTED, "only pytorch_model.bin weights");
    const char *index =
        "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}";
    put_bytes(at("m/model.safetensors.index.json"), index, strlen(index));
    make(at("m/s1.safetensors"), "{" T("a", "F32", "[1]", 0, 4) "}", 4);
    must_fail(at("m"), NS_ERR_INPUT, "missing shard s2.safetensors (2 of 2 files of the index)");
    make(at("m/s2.safetensors"), "{" T("b", "F32", "[1]", 0, 4) "}", 4);
    assert_ns_ok(ns_st_open(&st, at("m"), &err), &err);
    assert_int_equal(ns_st_count(st), 2);
    assert_non_null(strstr(ns_st_find(st, "b")->file, "s2.safetensors"));
    ns_st_close(&st);
    assert_ns_ok(ns_st_open(&st, at("m/model.safetensors.index.json"), &err), &err);
    assert_int_equal(ns_st_count(st), 2);
    ns_st_close(&st);
    make(at("m/s2.safetensors"), "{" T("a", "F32", "[1]", 0, 4) "}", 4);
    must_fail(at("m"), NS_ERR_INPUT, "tensor \"a\" is in two files");
    make(at("m/s2.safetensors"), "{" T("c", "F32", "[1]", 0, 4) "}", 4);
    must_fail(at("m"), NS_ERR_INPUT, "tensor \"b\" should be in s2.safetensors, found nowhere");
    static const char *const evil[] = {"../x", "/etc/passwd", "", ".hidden", "a\\u0000b", NULL};
    for (int i = 0; evil[i]; i++) {
        char text[200];
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"%s\"}}", evil[i]);
        put_bytes(at("m/model.safetensors.index.json"), text, strlen(text));
        must_fail(at("m"), NS_ERR_INPUT, "does not name a file of this folder");
    }
    put_bytes(at("m/model.safetensors.index.json"), "{}", 2);
    must_fail(at("m"), NS_ERR_INPUT, "\"weight_map\" is missing");
}

/* ---- writer ---- */

static ns_status write_five(const char *dir, int64_t max, ns_error *err)
{
    ns_st_writer *w = NULL;
    ns_status st = NS_OK;
    unsigned char data[120];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)i;
    NS_CHECK(st, ns_st_writer_new(&w, dir, "model", max, err), "%s", "");
    NS_CHECK(st, ns_st_declare(w, "a", NS_DTYPE_F32, (int64_t[]){2, 5}, 2, err), "%s", ""); /* 40 bytes */
    NS_CHECK(st, ns_st_declare(w, "empty", NS_DTYPE_F32, (int64_t[]){0}, 1, err), "%s", "");
    NS_CHECK(st, ns_st_declare(w, "b", NS_DTYPE_BF16, (int64_t[]){10}, 1, err), "%s", ""); /* 20 */
    NS_CHECK(st, ns_st_declare(w, "c \"\xc3\xa9", NS_DTYPE_U8, (int64_t[]){30}, 1, err), "%s", "");
    NS_CHECK(st, ns_st_declare(w, "d", NS_DTYPE_F16, (int64_t[]){3, 5}, 2, err), "%s", ""); /* 30 */
    NS_CHECK(st, ns_st_meta(w, "who", "me", err), "%s", "");
    for (int i = 0; i < 120; i += 7) NS_CHECK(st, ns_st_write(w, data + i, i + 7 <= 120 ? 7 : 120 - i, err), "%s", "");
    NS_CHECK(st, ns_st_writer_close(&w, err), "%s", "");
done:
    ns_st_writer_abort(&w);
    return st;
}

static void check_five(const char *dir)
{
    ns_error err = NS_ERROR_INIT;
    ns_st *st;
    assert_ns_ok(ns_st_open(&st, dir, &err), &err);
    assert_int_equal(ns_st_count(st), 5);
    static const char *const names[] = {"a", "b", "c \"\xc3\xa9", "d"};
    static const int first[] = {0, 40, 60, 90}, last[] = {39, 59, 89, 119};
    for (int i = 0; i < 4; i++) {
        const ns_st_tensor *t = ns_st_find(st, names[i]);
        assert_non_null(t);
        const unsigned char *p = t->data;
        assert_int_equal(p[0], first[i]);
        assert_int_equal(p[t->n * (int64_t)ns_dtype_size(t->dt) - 1], last[i]);
    }
    assert_int_equal(ns_st_find(st, "d")->shape[1], 5);
    assert_string_equal(ns_st_metadata(st, "format"), "pt");
    assert_string_equal(ns_st_metadata(st, "who"), "me");
    ns_st_close(&st);
}

static void write_and_read(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    fresh("w");
    assert_ns_ok(write_five(at("w"), 0, &err), &err);
    assert_true(ns_path_exists(at("w/model.safetensors")));
    assert_false(ns_path_exists(at("w/model.safetensors.index.json")));
    check_five(at("w"));
    struct stat sb;
    assert_int_equal(stat(at("w/model.safetensors"), &sb), 0);
    assert_int_equal(sb.st_size % 8, 0); /* 8 + header padded to 8 + 120 */
    fresh("w");
    assert_ns_ok(write_five(at("w"), 60, &err), &err); /* a+empty+b = 60 | c+d = 60 */
    assert_true(ns_path_exists(at("w/model-00001-of-00002.safetensors")));
    assert_true(ns_path_exists(at("w/model-00002-of-00002.safetensors")));
    check_five(at("w"));
    fresh("w");
    assert_ns_ok(write_five(at("w"), 10, &err), &err); /* each larger than the limit: one a file */
    assert_true(ns_path_exists(at("w/model-00004-of-00004.safetensors")));
    check_five(at("w"));
}

static void wrong_use(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_st_writer *w;
    fresh("w");
    assert_ns_ok(ns_st_writer_new(&w, at("w"), "model", 0, &err), &err);
    assert_ns_ok(ns_st_declare(w, "a", NS_DTYPE_F32, (int64_t[]){2}, 1, &err), &err);
    assert_ns_ok(ns_st_write(w, "1234", 4, &err), &err);
    assert_ns_fails(ns_st_writer_close(&w, &err), NS_ERR_INTERNAL, "tensor \"a\": 4 of 8 bytes", &err);
    assert_null(w);
    assert_false(ns_path_exists(at("w/model.safetensors")));
    assert_ns_ok(ns_st_writer_new(&w, at("w"), "model", 0, &err), &err);
    assert_ns_ok(ns_st_declare(w, "a", NS_DTYPE_U8, (int64_t[]){2}, 1, &err), &err);
    assert_ns_fails(ns_st_write(w, "123", 3, &err), NS_ERR_INTERNAL, "1 bytes more", &err);
    ns_st_writer_abort(&w);
    assert_false(ns_path_exists(at("w/model.safetensors")));
    assert_ns_ok(ns_st_writer_new(&w, at("w"), "model", 0, &err), &err); /* no tensors at all */
    assert_ns_ok(ns_st_writer_close(&w, &err), &err);
    ns_st *st;
    assert_ns_ok(ns_st_open(&st, at("w"), &err), &err);
    assert_int_equal(ns_st_count(st), 0);
    ns_st_close(&st);
}

/* Any failing system call or allocation is an error, never a crash or a leak; and the next try works. */
static void faults(void **state)
{
    (void)state;
    int hits = 0;
    for (uint64_t n = 1;; n++) {
        ns_error err = NS_ERROR_INIT;
        fresh("w");
        ns_sys_fail_at(NULL, n, ENOSPC);
        ns_status st = write_five(at("w"), 60, &err);
        int hit = ns_sys_fault_hit();
        ns_sys_fail_at(NULL, 0, 0);
        if (!hit) {
            assert_int_equal(st, NS_OK);
            break;
        }
        if (st == NS_OK) { /* a fault that does no harm, such as lstat */
            check_five(at("w"));
        } else {
            assert_int_equal(st, NS_ERR_IO);
        }
        hits += st != NS_OK;
    }
    assert_true(hits > 5);
    uint64_t live = ns_mem_get_stats().bytes_now;
    for (uint64_t n = 1;; n++) {
        ns_error err = NS_ERROR_INIT;
        ns_st *st = NULL;
        ns_mem_fail_at(n, 0);
        ns_status a = ns_st_open(&st, at("w"), &err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        ns_st_close(&st);
        assert_int_equal(ns_mem_get_stats().bytes_now, live);
        if (!hit) {
            assert_int_equal(a, NS_OK);
            break;
        }
        assert_int_equal(a, NS_ERR_MEMORY);
    }
}

/* Written by the safetensors library of Python. */
static void golden(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_st *st;
    assert_ns_ok(ns_st_open(&st, NS_SOURCE_DIR "/tests/golden/parity/llama3", &err), &err);
    const ns_st_tensor *t = ns_st_find(st, "model.layers.1.self_attn.k_proj.weight");
    assert_non_null(t);
    assert_int_equal(t->nd, 2);
    assert_int_equal(t->shape[0], 32);
    assert_int_equal(t->shape[1], 64);
    assert_int_equal(ns_st_count(st), 21);
    ns_st_close(&st);
}

static int setup(void **state)
{
    (void)state;
    ns_test_tmpdir(root, sizeof root);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return ns_remove_tree(root, NULL) == NS_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_files),         cmocka_unit_test(bad_headers), cmocka_unit_test(bad_lengths),
        cmocka_unit_test(prefixes_and_flips), cmocka_unit_test(folders),     cmocka_unit_test(write_and_read),
        cmocka_unit_test(wrong_use),          cmocka_unit_test(faults),      cmocka_unit_test(golden),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
