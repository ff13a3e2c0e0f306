/* Integers and scales against TensorRT-LLM's own steps (tests/golden/formats/check_trt_quant.py), byte for byte; back again within half
 * a step. */
#include "ckpt/trt_quant.h"

#include <math.h>

#include "base/file.h"
#include "base/testing.h"

enum { R = 128, C = 192 };
static float x[R][C];

static void make(void) /* golden_weight of the script */
{
    uint32_t s = 12345;
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) {
            s = (s * 1103515245u + 12345u) & 0x7fffffffu;
            x[r][c] = (float)((int)((s >> 8) % 65536) - 32768) * ldexpf(1, r % 7 - 20);
        }
    memset(x[5], 0, sizeof x[5]);
}

static void golden(ns_buf *b, const char *kind, int bits, size_t want)
{
    char path[512];
    ns_error err = NS_ERROR_INIT;
    snprintf(path, sizeof path, NS_SOURCE_DIR "/tests/golden/formats/trt/wq_%s%d.bin", kind, bits);
    assert_ns_ok(ns_file_read(b, path, &err), &err);
    assert_int_equal(b->len, want);
}

static void bytes_are_theirs(void **state)
{
    (void)state;
    make();
    for (int bits = 8; bits >= 4; bits -= 4) {
        static unsigned char out[R * C];
        float scale[R], back[C];
        int8_t q[C];
        ns_buf want = {0}, scales = {0};
        ns_wq w = {.bits = bits, .rows = R, .cols = C, .data = out, .scale = scale, .scale_dt = NS_DTYPE_F32};
        golden(&want, "int", bits, (size_t)(R * C * bits / 8));
        golden(&scales, "scale", bits, sizeof scale);
        for (int r = 0; r < R; r++) {
            scale[r] = ns_wq_quantise(&w, x[r], q);
            ns_wq_put_row(&w, out, r, q);
        }
        assert_memory_equal(out, want.data, want.len);
        assert_memory_equal(scale, scales.data, sizeof scale);
        for (int r = 0; r < R; r++) {
            ns_wq_row(&w, r, back);
            float top = scale[r] * (bits == 8 ? 127.0f : 7.0f); /* beyond it: cut, up to a whole step */
            for (int c = 0; c < C; c++)
                assert_true(fabsf(back[c] - x[r][c]) <= scale[r] * (x[r][c] > top ? 1.0f : 0.5001f));
        }
        out[7] ^= 1; /* the comparison sees a single bit */
        ns_wq_row(&w, 0, back);
        int seen = 0;
        for (int r = 0; r < ns_wq_group(&w); r++) {
            float other[C];
            ns_wq_row(&w, r, back);
            out[7] ^= 1;
            ns_wq_row(&w, r, other);
            out[7] ^= 1;
            for (int c = 0; c < C; c++) seen += back[c] != other[c];
        }
        assert_int_equal(seen, 1);
        ns_buf_free(&want);
        ns_buf_free(&scales);
    }
}

static void sizes_are_checked(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_wq a = {.bits = 8, .rows = 96, .cols = 64}, b = {.bits = 4, .rows = 64, .cols = 32};
    assert_ns_fails(ns_wq_check(&a, "w", &err), NS_ERR_CONFIG, "multiples of 64", &err);
    assert_ns_fails(ns_wq_check(&b, "w", &err), NS_ERR_CONFIG, "multiples of 64", &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bytes_are_theirs), cmocka_unit_test(sizes_are_checked)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
