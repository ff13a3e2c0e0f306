/* The file is read back by an independent walk over TFRecord framing and protobuf fields. (TensorBoard's own reader is run on such
 * files by tests/golden/tensorboard/read_events.py, a development check.) */
#include "base/testing.h"

#include <dirent.h>

#include "train/tfevents.h"

/* Bit-by-bit CRC-32C, most plainly. */
static uint32_t crc(const unsigned char *p, size_t n)
{
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++) c = c & 1 ? (c >> 1) ^ 0x82f63b78u : c >> 1;
    }
    c = ~c;
    return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

static void records_and_fields(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char dir[256], path[600] = "";
    ns_test_tmpdir(dir, sizeof dir);
    ns_tfevents *e = NULL;
    assert_ns_ok(ns_tfevents_open(&e, dir, &err), &err);
    assert_ns_ok(ns_tfevents_scalar(e, "train/loss", 300, 1.25, &err), &err);
    ns_tfevents_close(&e);
    DIR *d = opendir(dir);
    for (struct dirent *x; (x = readdir(d));)
        if (!strncmp(x->d_name, "events.out.tfevents.", 20)) snprintf(path, sizeof path, "%s/%s", dir, x->d_name);
    closedir(d);
    unsigned char b[512];
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(b, 1, sizeof b, f), at = 0;
    fclose(f);
    int n_records = 0;
    unsigned char *last = NULL;
    uint64_t len = 0;
    while (at < n) {
        uint32_t c;
        memcpy(&len, b + at, 8);
        memcpy(&c, b + at + 8, 4);
        assert_int_equal(c, crc(b + at, 8));
        last = b + at + 12;
        memcpy(&c, last + len, 4);
        assert_int_equal(c, crc(last, len));
        at += 16 + len;
        n_records++;
    }
    assert_int_equal(at, n);
    assert_int_equal(n_records, 2);
    /* field 1 double, field 2 varint 300, field 5 { field 1 { tag, simple_value } } */
    const unsigned char want[] = {0x10, 0xac, 0x02, 0x2a, 19,  0x0a, 17,  0x0a, 10, 't', 'r',  'a',
                                  'i',  'n',  '/',  'l',  'o', 's',  's', 0x15, 0,  0,   0xa0, 0x3f};
    assert_int_equal(last[0], 9);
    assert_int_equal(len, 9 + sizeof want);
    assert_memory_equal(last + 9, want, sizeof want);
    remove(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(records_and_fields)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
