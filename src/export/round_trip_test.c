/* Every family through every format and back: tensors bit for bit, the record too (table below). Quantised GGUF: what is read is
 * what was meant, and near the input. */
#include <math.h>

#include "base/file.h"
#include "base/log.h"
#include "base/testing.h"
#include "ckpt/model_io.h"
#include "ckpt/model_source.h"
#include "ckpt/sink.h"
#include "export/export.h"
#include "export/parity.h"

#define SIZES "\"num_hidden_layers\":2,\"vocab_size\":300,\"max_position_embeddings\":4096,\"hidden_act\":\"silu\","
#define LLAMA3(factor)                                                                      \
    "\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":" factor \
    ",\"low_freq_factor\":1.0,"                                                             \
    "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}"
/* 8 query heads, 4 key/value heads: tp 4 cuts both. Rows of 256: whole blocks of every GGUF type. */
#define HEADS "\"hidden_size\":256,\"intermediate_size\":512,\"num_attention_heads\":8,\"num_key_value_heads\":4,"
static const struct {
    const char *name, *config;
} models[] = {
    {"llama2", "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"]," SIZES
               "\"hidden_size\":256,\"intermediate_size\":512,\"num_attention_heads\":8,\"num_key_value_heads\":8,"
               "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"bos_token_id\":1,\"eos_token_id\":2}"},
    {"llama31", "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"]," SIZES HEADS
                "\"rms_norm_eps\":1e-5,\"bos_token_id\":280,\"eos_token_id\":[281,289]," LLAMA3("8.0") "}"},
    {"llama32", "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"]," SIZES HEADS
                "\"head_dim\":32,\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true," LLAMA3("32.0") "}"},
    {"qwen25", "{\"model_type\":\"qwen2\",\"architectures\":[\"Qwen2ForCausalLM\"]," SIZES HEADS
               "\"rms_norm_eps\":1e-6,\"rope_theta\":1000000.0,\"eos_token_id\":7}"},
    {"qwen25tied", "{\"model_type\":\"qwen2\",\"architectures\":[\"Qwen2ForCausalLM\"]," SIZES HEADS
                   "\"rms_norm_eps\":1e-6,\"rope_theta\":1000000.0,\"tie_word_embeddings\":true}"},
    {"qwen3", "{\"model_type\":\"qwen3\",\"architectures\":[\"Qwen3ForCausalLM\"]," SIZES HEADS
              "\"head_dim\":64,\"rms_norm_eps\":1e-6,\"rope_theta\":1000000.0,\"tie_word_embeddings\":true}"},
    {"mistral", "{\"model_type\":\"mistral\",\"architectures\":[\"MistralForCausalLM\"]," SIZES HEADS
                "\"head_dim\":64,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"sliding_window\":1024}"},
};
enum { N_MODELS = sizeof models / sizeof models[0] };

typedef struct opened {
    ns_arena arena;
    ns_arch arch;
    ns_param_table table;
    ns_model_source src;
} opened;

static void open_model(opened *o, const char *path)
{
    ns_error err = NS_ERROR_INIT;
    memset(o, 0, sizeof *o);
    o->arena.label = "test";
    assert_ns_ok(ns_model_arch(&o->arch, path, &err), &err);
    assert_ns_ok(ns_param_table_build(&o->table, &o->arch, &o->arena, &err), &err);
    assert_ns_ok(ns_model_source_open(&o->src, path, &o->table, &err), &err);
}

static void close_model(opened *o)
{
    ns_model_source_close(&o->src);
    ns_arena_free(&o->arena);
}

/* Largest relative error (root mean square of a tensor), 0 for bit-equal ones. */
static double compare(const char *a_path, const char *b_path)
{
    ns_error err = NS_ERROR_INIT;
    static float x[1 << 18], y[1 << 18];
    opened a, b;
    double worst = 0;
    open_model(&a, a_path);
    open_model(&b, b_path);
    assert_string_equal(a.table.hash, b.table.hash);
    assert_int_equal(a.arch.family, b.arch.family);
    assert_int_equal(a.arch.tied, b.arch.tied);
    assert_int_equal(a.arch.window, b.arch.window);
    assert_int_equal(a.arch.rope, b.arch.rope);
    assert_true(a.arch.rope_theta == b.arch.rope_theta && a.arch.norm_eps == b.arch.norm_eps);
    if (a.arch.rope == NS_ROPE_LLAMA3) assert_true(a.arch.rope_factor == b.arch.rope_factor);
    for (int v = 0; v < a.table.n_views; v++) {
        int64_t rows = a.table.views[v].rows, n = rows * a.table.params[a.table.views[v].param].cols;
        double e = 0, s = 0;
        assert_true(n <= 1 << 18);
        assert_ns_ok(ns_model_source_rows(&a.src, v, 0, rows, x, &err), &err);
        assert_ns_ok(ns_model_source_rows(&b.src, v, 0, rows, y, &err), &err);
        if (!memcmp(x, y, (size_t)n * sizeof *x)) continue;
        for (int64_t i = 0; i < n; i++) {
            e += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
            s += (double)x[i] * (double)x[i];
        }
        if (sqrt(e / s) > worst) worst = sqrt(e / s);
        if (e == 0) worst = 1; /* signs of zeros differ */
    }
    close_model(&a);
    close_model(&b);
    return worst;
}

static char dir[256];

static int make_models(void **s)
{
    (void)s;
    ns_error err = NS_ERROR_INIT;
    char config[400], out[400];
    ns_test_tmpdir(dir, sizeof dir);
    for (int m = 0; m < N_MODELS; m++) {
        int64_t n;
        snprintf(config, sizeof config, "%s/%s.json", dir, models[m].name);
        snprintf(out, sizeof out, "%s/%s", dir, models[m].name);
        if (ns_file_replace(config, models[m].config, strlen(models[m].config), &err) != NS_OK) return -1;
        ns_model_init_args a = {.config_path = config, .out = out, .dt = NS_DTYPE_BF16, .seed = 5};
        if (ns_model_init(&a, &n, &err) != NS_OK) {
            print_error("%s\n", err.msg);
            return -1;
        }
    }
    return 0;
}

static int remove_models(void **s)
{
    (void)s;
    return ns_remove_tree(dir, NULL) == NS_OK ? 0 : -1;
}

static double there_and_back(int m, const ns_export_args *how, const char *label)
{
    static ns_export_report r;
    ns_error err = NS_ERROR_INIT;
    char in[400], there[400], back[400];
    ns_export_args a = *how, b = NS_EXPORT_DEFAULT;
    snprintf(in, sizeof in, "%s/%s", dir, models[m].name);
    snprintf(there, sizeof there, "%s/%s-%s", dir, models[m].name, label);
    snprintf(back, sizeof back, "%s/%s-%s-hf", dir, models[m].name, label);
    a.input = in;
    a.output = b.input = there;
    b.output = back;
    b.to = "hf";
    assert_ns_ok(ns_export(&a, &r, &err), &err);
    assert_int_equal(r.n_compared, r.n_tensors);
    assert_ns_ok(ns_export(&b, &r, &err), &err);
    double e = compare(in, back);
    assert_ns_ok(ns_remove_tree(there, &err), &err);
    assert_ns_ok(ns_remove_tree(back, &err), &err);
    return e;
}

static void nemo(void **s)
{
    (void)s;
    for (int m = 0; m < N_MODELS; m++) {
        for (int z = 0; z < 2; z++) {
            ns_export_args a = NS_EXPORT_DEFAULT;
            a.to = "nemo";
            a.nemo_format = z ? "zarr" : "torch_dist";
            assert_true(there_and_back(m, &a, "nemo") == 0);
        }
    }
}

static void tensorrt_llm(void **s)
{
    (void)s;
    for (int m = 0; m < N_MODELS; m++) {
        for (int tp = 1; tp <= 4; tp *= 2) {
            for (int pp = 1; pp <= 2; pp++) {
                ns_export_args a = NS_EXPORT_DEFAULT;
                a.to = "trtllm";
                a.tp = tp;
                a.pp = pp;
                assert_true(there_and_back(m, &a, "trt") == 0);
            }
        }
    }
}

/* Weight-only: "any" keeps every value, integers lose what int8 and int4 rows lose; at any cut. The bytes themselves: trt_quant_test. */
static void weight_only(void **s)
{
    (void)s;
    for (int m = 0; m < N_MODELS; m++) {
        for (int k = 0; k < 8; k++) {
            ns_export_args a = NS_EXPORT_DEFAULT;
            a.to = "trtllm";
            a.tp = k & 4 ? 4 : 1;
            a.pp = k & 4 ? 2 : 1;
            a.weight_only = k & 1 ? 4 : 8;
            a.weight_only_packed = (k & 2) != 0;
            double e = there_and_back(m, &a, "wq"), most = k & 1 ? 0.2 : 0.012;
            if (e > most) print_error("%s int%d: %g\n", models[m].name, a.weight_only, e);
            assert_true(a.weight_only_packed ? e <= most && e > most / 4 : e == 0);
        }
    }
    ns_error err = NS_ERROR_INIT;
    static ns_export_report r;
    char in[400], out[400];
    ns_export_args a = NS_EXPORT_DEFAULT; /* 512 rows of the MLP in 8: 64; 8 heads of 32 in 8: 96 rows, refused */
    snprintf(in, sizeof in, "%s/llama31", dir);
    snprintf(out, sizeof out, "%s/refused", dir);
    a.input = in;
    a.output = out;
    a.to = "trtllm";
    a.tp = 8;
    a.weight_only = 8;
    a.weight_only_packed = 1;
    assert_ns_fails(ns_export(&a, &r, &err), NS_ERR_CONFIG, "attention.qkv.weight: 96 x 256", &err);
    assert_false(ns_path_exists(out));
    a.to = "hf";
    assert_ns_fails(ns_export(&a, &r, &err), NS_ERR_CONFIG, "is for --convert_to trtllm", &err);
}

static void gguf(void **s)
{
    (void)s;
    static const struct {
        const char *type;
        double most; /* relative error; of normal values: measured, rounded up */
    } types[] = {{"f32", 0}, {"bf16", 0}, {"f16", 1e-3}, {"q8_0", 0.01}, {"q6_k", 0.03}, {"q4_k_m", 0.1}};
    for (int m = 0; m < N_MODELS; m++) {
        for (int t = 0; t < 6; t++) {
            ns_export_args a = NS_EXPORT_DEFAULT;
            a.to = "gguf";
            a.gguf_type = types[t].type;
            double e = there_and_back(m, &a, types[t].type);
            if (e > types[t].most) print_error("%s %s: %g\n", models[m].name, types[t].type, e);
            assert_true(e <= types[t].most);
            assert_true(t < 3 || e > types[t].most / 20); /* a type that loses nothing is another type */
        }
    }
}

/* The proofs can fail: other weights answer differently; a checksum that is not that of the file is noticed and named. */
static void proofs_fail(void **s)
{
    (void)s;
    ns_error err = NS_ERROR_INIT;
    char a[400], b[400], config[400];
    int64_t n;
    ns_parity p;
    opened o;
    ns_view_stats stats[64];
    snprintf(a, sizeof a, "%s/llama31", dir);
    snprintf(b, sizeof b, "%s/other", dir);
    snprintf(config, sizeof config, "%s/llama31.json", dir);
    ns_model_init_args init = {.config_path = config, .out = b, .dt = NS_DTYPE_BF16, .seed = 6};
    assert_ns_ok(ns_model_init(&init, &n, &err), &err);
    open_model(&o, a);
    assert_ns_ok(ns_parity_check(&p, a, &o.arch, a, &o.arch, 0, &err), &err);
    assert_true(!p.skipped[0] && p.relative == 0 && p.n_same_top == p.n_tokens);
    assert_ns_ok(ns_parity_check(&p, a, &o.arch, b, &o.arch, 0, &err), &err);
    assert_true(p.relative > 0.5);
    ns_arch scaled = o.arch; /* one constant */
    scaled.rope_theta = 10000;
    assert_ns_ok(ns_parity_check(&p, a, &o.arch, a, &scaled, 0, &err), &err);
    assert_true(p.relative > 0);
    assert_true(o.table.n_views <= 64);
    ns_convert c = {.table = &o.table, .rows = ns_model_source_rows_as, .user = &o.src, .dt = NS_DTYPE_BF16};
    assert_ns_ok(ns_model_convert(&c, stats, &err), &err);
    c.expect = stats;
    assert_ns_ok(ns_model_convert(&c, NULL, &err), &err);
    stats[7].crc ^= 1;
    assert_ns_fails(ns_model_convert(&c, NULL, &err), NS_ERR_INTERNAL, o.table.views[7].name, &err);
    close_model(&o);
}

int main(void)
{
    ns_log_set_level(NS_LOG_ERROR); /* models without a tokenizer: said in every conversion */
    const struct CMUnitTest tests[] = {cmocka_unit_test(nemo), cmocka_unit_test(tensorrt_llm),
                                       cmocka_unit_test(weight_only), cmocka_unit_test(gguf),
                                       cmocka_unit_test(proofs_fail)};
    return cmocka_run_group_tests(tests, make_models, remove_models);
}
