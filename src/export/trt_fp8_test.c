/* FP8 checkpoints for TensorRT-LLM. One that NVIDIA's Model Optimizer wrote (tests/golden/formats/trt/modelopt-*) is read, and ours of the
 * same model has the same bytes and scales of weights; every family there and back; what must be refused. Scales of activations against
 * theirs, on real tokenizers: tests/golden/formats/check_trt_fp8.py. */
#include <math.h>

#include "base/file.h"
#include "base/log.h"
#include "base/testing.h"
#include "ckpt/model_source.h"
#include "ckpt/safetensors.h"
#include "ckpt/trt_quant.h"
#include "export/export.h"
#include "tensor/fp8.h"

#define GOLDEN NS_SOURCE_DIR "/tests/golden/formats"

static char dir[256], tokenizer[300], rows[300];

/* Of two letters: enough to run over something. */
static int set_up(void **s)
{
    (void)s;
    static const char tok[] =
        "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],\"normalizer\":null,"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"
        ","
        "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"n\":2,\"z\":90},\"merges\":[]}}";
    static const char text[] =
        "{\"text\": \"anna\"}\n{\"input\": \"na\", \"output\": \"nnn\"}\n{\"text\": \"aaaaaaaaaaaa\"}\n";
    char path[400];
    ns_error err = NS_ERROR_INIT;
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer", dir);
    snprintf(rows, sizeof rows, "%s/rows.jsonl", dir);
    snprintf(path, sizeof path, "%s/tokenizer.json", tokenizer);
    return ns_mkdirs(tokenizer, &err) == NS_OK && ns_file_replace(path, tok, sizeof tok - 1, &err) == NS_OK &&
                   ns_file_replace(rows, text, sizeof text - 1, &err) == NS_OK
               ? 0
               : -1;
}

static int tear_down(void **s)
{
    (void)s;
    return ns_remove_tree(dir, NULL) == NS_OK ? 0 : -1;
}

static ns_export_args fp8_of(const char *in, const char *out)
{
    ns_export_args a = NS_EXPORT_DEFAULT;
    a.input = in;
    a.output = out;
    a.to = "trtllm";
    a.hf_model_name = tokenizer;
    a.fp8 = 1;
    a.calib_rows = rows;
    a.calib_max_tokens = 8;
    return a;
}

static void bits_are_those_of_the_meaning(void **s)
{
    (void)s;
    for (uint64_t u = 0; u < UINT64_C(1) << 32; u += 4093) { /* a prime: all exponents, all ends of mantissas */
        uint32_t bits = (uint32_t)u;
        float x;
        uint8_t q;
        memcpy(&x, &bits, 4);
        if (!isfinite(x)) continue;
        ns_wq_fp8(&x, 1, 1, &q);
        assert_int_equal(q, ns_fp8_encode(x, NS_DTYPE_F8_E4M3));
    }
    for (int i = 0; i < 127; i++) { /* every value, and the middle between two: ties go to the even one */
        float x = ns_fp8_decode((uint8_t)i, NS_DTYPE_F8_E4M3), y = ns_fp8_decode((uint8_t)(i + 1), NS_DTYPE_F8_E4M3);
        uint8_t q;
        ns_wq_fp8(&x, 1, 1, &q);
        assert_int_equal(q, i);
        float middle = i < 126 ? (x + y) / 2 : 1e9f;
        ns_wq_fp8(&middle, 1, 1, &q);
        assert_int_equal(q, i < 126 ? i + (i & 1) : 126);
    }
}

/* Relative error of all matrices of the layers, root mean square; what is not one must be equal. */
static double compare(const char *a_path, const char *b_path)
{
    static float x[2][4096];
    ns_error err = NS_ERROR_INIT;
    ns_arena arena = NS_ARENA_INIT("test");
    ns_param_table t[2];
    ns_arch arch[2];
    ns_model_source src[2];
    const char *path[2] = {a_path, b_path};
    double e = 0, sum = 0;
    for (int k = 0; k < 2; k++) {
        assert_ns_ok(ns_model_arch(&arch[k], path[k], &err), &err);
        assert_ns_ok(ns_param_table_build(&t[k], &arch[k], &arena, &err), &err);
        assert_ns_ok(ns_model_source_open(&src[k], path[k], &t[k], &err), &err);
    }
    assert_string_equal(t[0].hash, t[1].hash);
    for (int v = 0; v < t[0].n_views; v++) {
        const ns_param *p = &t[0].params[t[0].views[v].param];
        int64_t n = t[0].views[v].rows * p->cols;
        for (int k = 0; k < 2; k++)
            assert_ns_ok(ns_model_source_rows(&src[k], v, 0, t[k].views[v].rows, x[k], &err), &err);
        if (p->layer < 0 || t[0].views[v].nd < 2) assert_memory_equal(x[0], x[1], (size_t)n * sizeof(float));
        for (int64_t i = 0; i < n && p->layer >= 0 && t[0].views[v].nd == 2; i++) {
            double d = (double)x[0][i] - (double)x[1][i];
            e += d * d;
            sum += (double)x[0][i] * (double)x[0][i];
        }
    }
    for (int k = 0; k < 2; k++) ns_model_source_close(&src[k]);
    ns_arena_free(&arena);
    return sqrt(e / sum);
}

static void every_family(void **s)
{
    (void)s;
    static const char *const models[] = {"llama", "qwen2", "qwen3"};
    static ns_export_report r;
    char in[400], out[400], back[400];
    ns_error err = NS_ERROR_INIT;
    snprintf(out, sizeof out, "%s/fp8", dir);
    snprintf(back, sizeof back, "%s/hf", dir);
    for (int m = 0; m < 3; m++) {
        for (int cut = 0; cut < 4; cut++) {
            snprintf(in, sizeof in, GOLDEN "/hf/%s", models[m]);
            ns_export_args a = fp8_of(in, out), b = NS_EXPORT_DEFAULT;
            a.tp = cut & 1 ? 4 : 1; /* of 2 key/value heads: they are repeated */
            a.pp = cut & 2 ? 2 : 1;
            a.fp8_kv = cut == 3;
            b.input = out;
            b.output = back;
            b.to = "hf";
            assert_ns_ok(ns_export(&a, &r, &err), &err);
            assert_string_equal(r.type, "fp8");
            assert_int_equal(r.n_compared, r.n_tensors);
            assert_non_null(strstr(r.calibrated, "3 rows, 17 tokens (1 rows cut off at 8 tokens)"));
            double e = compare(in, out);
            assert_true(e > 0.005 && e < 0.04); /* 3 bits of mantissa */
            assert_ns_ok(ns_export(&b, &r, &err), &err);
            assert_true(fabs(compare(in, back) - e) < 0.005); /* and bf16 */
            assert_ns_ok(ns_remove_tree(out, &err), &err);
            assert_ns_ok(ns_remove_tree(back, &err), &err);
        }
    }
}

static void assert_same_tensor(const ns_st *a, const ns_st_tensor *y)
{
    const ns_st_tensor *x = ns_st_find(a, y->name);
    if (!x) print_error("%s is missing\n", y->name);
    assert_non_null(x);
    assert_int_equal(x->dt, y->dt);
    assert_int_equal(x->n, y->n);
    assert_memory_equal(x->shape, y->shape, sizeof x->shape);
    if (strstr(y->name, "activation_scaling_factor")) return; /* other rows */
    if (memcmp(x->data, y->data, (size_t)x->n * ns_dtype_size(x->dt))) print_error("%s differs\n", y->name);
    assert_memory_equal(x->data, y->data, (size_t)x->n * ns_dtype_size(x->dt));
}

/* Theirs: qwen2 at tp 2, pp 1 (the embedding cut over the ranks), llama at tp 1, pp 2; the cache in fp8. */
static void equal_to_modelopt(void **s)
{
    (void)s;
    static const char *const models[] = {"qwen2", "llama"};
    static ns_export_report r;
    ns_error err = NS_ERROR_INIT;
    for (int m = 0; m < 2; m++) {
        char in[400], theirs[400], out[400], file[500];
        snprintf(in, sizeof in, GOLDEN "/hf/%s", models[m]);
        snprintf(theirs, sizeof theirs, GOLDEN "/trt/modelopt-%s", models[m]);
        snprintf(out, sizeof out, "%s/%s", dir, models[m]);
        ns_export_args a = fp8_of(in, out);
        a.tp = m ? 1 : 2;
        a.pp = m ? 2 : 1;
        a.fp8_kv = 1;
        assert_ns_ok(ns_export(&a, &r, &err), &err);
        for (int rank = 0; rank < 2; rank++) {
            ns_st *ours = NULL, *their = NULL;
            snprintf(file, sizeof file, "%s/rank%d.safetensors", out, rank);
            assert_ns_ok(ns_st_open(&ours, file, &err), &err);
            snprintf(file, sizeof file, "%s/rank%d.safetensors", theirs, rank);
            assert_ns_ok(ns_st_open(&their, file, &err), &err);
            assert_int_equal(ns_st_count(ours), ns_st_count(their));
            for (int i = 0; i < ns_st_count(their); i++)
                if (m || !strstr(ns_st_at(their, i)->name, "vocab_embedding"))
                    assert_same_tensor(ours, ns_st_at(their, i));
            ns_st_close(&ours);
            ns_st_close(&their);
        }
        assert_true(compare(out, theirs) == 0);
        assert_ns_ok(ns_remove_tree(out, &err), &err);
    }
}

static void refused(void **s)
{
    (void)s;
    static ns_export_report r;
    char out[400], bad[400];
    ns_error err = NS_ERROR_INIT;
    snprintf(out, sizeof out, "%s/o", dir);
    snprintf(bad, sizeof bad, "%s/bad.jsonl", dir);
    ns_export_args base = fp8_of(GOLDEN "/hf/llama", out), a;
#define CASE(set, code, text)                                   \
    a = base;                                                   \
    set;                                                        \
    assert_ns_fails(ns_export(&a, &r, &err), code, text, &err); \
    assert_false(ns_path_exists(out))
#define ROWS(text) (void)!ns_file_replace(bad, text, strlen(text), &err), a.calib_rows = bad
    CASE(a.to = "hf", NS_ERR_CONFIG, "is for --convert_to trtllm");
    CASE(a.weight_only = 8, NS_ERR_CONFIG, "not both");
    CASE(a.calib_rows = NULL, NS_ERR_CONFIG, "--calib_dataset FILE");
    CASE(a.calib_rows = "/nowhere.jsonl", NS_ERR_IO, "/nowhere.jsonl");
    CASE(a.hf_model_name = NULL, NS_ERR_INPUT, "has no tokenizer");
    CASE(ROWS(""), NS_ERR_INPUT, "no rows to calibrate with");
    CASE(ROWS("{\"text\": \"a\"}\n{\"question\": \"a\"}\n"), NS_ERR_INPUT, "bad.jsonl:2: no text");
    CASE(ROWS("{\"text\": \"a\"}\n[\n"), NS_ERR_INPUT, "bad.jsonl:2");
    CASE(ROWS("{\"text\": \"z\"}\n"), NS_ERR_MISMATCH, "token 90 lies behind the model's vocabulary of 24");
}

int main(void)
{
    ns_log_set_level(NS_LOG_ERROR);
    const struct CMUnitTest tests[] = {cmocka_unit_test(bits_are_those_of_the_meaning), cmocka_unit_test(every_family),
                                       cmocka_unit_test(equal_to_modelopt), cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
