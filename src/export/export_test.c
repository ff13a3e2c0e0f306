/* Conversions there and back, bit for bit; the TensorRT-LLM files element by element against the cuts of training.md §5.7; what must
 * be refused; faults in every allocation and system call: the output is complete or absent. */
#include "export/export.h"

#include <errno.h>

#include "base/file.h"
#include "base/log.h"
#include "base/testing.h"
#include "ckpt/gguf.h"
#include "ckpt/model_source.h"

#define GOLDEN NS_SOURCE_DIR "/tests/golden/formats"

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

static void assert_same(const char *a_path, const char *b_path)
{
    ns_error err = NS_ERROR_INIT;
    opened a, b;
    open_model(&a, a_path);
    open_model(&b, b_path);
    assert_string_equal(a.table.hash, b.table.hash);
    assert_int_equal(a.arch.family, b.arch.family);
    assert_int_equal(a.arch.bos, b.arch.bos);
    assert_int_equal(a.arch.n_eos, b.arch.n_eos);
    assert_memory_equal(a.arch.eos, b.arch.eos, (size_t)a.arch.n_eos * sizeof a.arch.eos[0]);
    assert_true(a.arch.rope_factor == b.arch.rope_factor && a.arch.rope_high == b.arch.rope_high);
    for (int i = 0; i < a.table.n_params; i++) {
        float x[4096], y[4096];
        assert_ns_ok(ns_model_source_read(&a.src, i, x, &err), &err);
        assert_ns_ok(ns_model_source_read(&b.src, i, y, &err), &err);
        assert_memory_equal(x, y, (size_t)(a.table.params[i].rows * a.table.params[i].cols) * sizeof *x);
    }
    close_model(&a);
    close_model(&b);
}

static ns_status convert(const char *in, const char *out, const char *to, const char *nemo_format, ns_error *err)
{
    static ns_export_report r; /* large */
    ns_export_args a = NS_EXPORT_DEFAULT;
    a.input = in;
    a.output = out;
    a.to = to;
    if (nemo_format) a.nemo_format = nemo_format;
    return ns_export(&a, &r, err);
}

static void there_and_back(void **s)
{
    (void)s;
    static const char *const models[] = {"llama", "qwen2", "qwen3"}, *const formats[] = {"torch_dist", "zarr"};
    char dir[256], hf[512], nemo[512], back[512];
    ns_error err = NS_ERROR_INIT;
    ns_test_tmpdir(dir, sizeof dir);
    for (int m = 0; m < 3; m++) {
        for (int f = 0; f < 2; f++) {
            snprintf(hf, sizeof hf, GOLDEN "/hf/%s", models[m]);
            snprintf(nemo, sizeof nemo, "%s/%s-%s", dir, models[m], formats[f]);
            snprintf(back, sizeof back, "%s/%s-%s-hf", dir, models[m], formats[f]);
            assert_ns_ok(convert(hf, nemo, "nemo", formats[f], &err), &err);
            assert_same(hf, nemo);
            assert_ns_ok(convert(nemo, back, "hf", NULL, &err), &err);
            assert_same(hf, back);
            assert_int_equal(ns_dir_is_done(back, 1, &err), 1);
        }
    }
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

/* ---- TensorRT-LLM ---- */
typedef struct trt {
    const opened *m;
    int tp, pp;
} trt;

static void view_rows(const opened *m, const char *name, float *out)
{
    ns_error err = NS_ERROR_INIT;
    int v = ns_view_find(&m->table, name);
    assert_true(v >= 0);
    assert_ns_ok(ns_model_source_rows(&m->src, v, 0, m->table.views[v].rows, out, &err), &err);
}

/* rows [r0, r0+n), columns [c0, c0+k) of the named view (`cols` wide) are rows [at, at+n) of the tensor. */
static void expect_block(const opened *m, const ns_st_tensor *t, int64_t at, const char *name, int64_t cols, int64_t r0,
                         int64_t n, int64_t c0, int64_t k)
{
    float x[4096];
    view_rows(m, name, x);
    assert_non_null(t);
    assert_int_equal(t->dt, NS_DTYPE_BF16);
    assert_int_equal(t->nd == 2 ? t->shape[1] : 1, k);
    assert_true(at + n <= t->shape[0]);
    const uint16_t *got = t->data;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < k; j++)
            assert_int_equal(got[(at + i) * k + j], ns_f32_to_bf16(x[(r0 + i) * cols + c0 + j]));
}

static void check_rank(const trt *c, const ns_st *st, int tp, int pp)
{
    const ns_arch *a = &c->m->arch;
    int64_t C = a->C, F = a->F / c->tp, hd = a->head_dim, q = a->n_heads / c->tp * hd;
    int64_t kv_heads = a->n_kv >= c->tp ? a->n_kv / c->tp : 1, kv0 = tp * a->n_kv / c->tp * hd, kv = kv_heads * hd;
    for (int64_t l = 0; l < a->L / c->pp; l++) {
        char t[128], v[128];
        int64_t g = l + pp * (a->L / c->pp);
#define T(name) (snprintf(t, sizeof t, "transformer.layers.%d." name, (int)l), ns_st_find(st, t))
#define V(name) (snprintf(v, sizeof v, "model.layers.%d." name, (int)g), v)
        expect_block(c->m, T("attention.qkv.weight"), 0, V("self_attn.q_proj.weight"), C, tp * q, q, 0, C);
        expect_block(c->m, T("attention.qkv.weight"), q, V("self_attn.k_proj.weight"), C, kv0, kv, 0, C);
        expect_block(c->m, T("attention.qkv.weight"), q + kv, V("self_attn.v_proj.weight"), C, kv0, kv, 0, C);
        assert_int_equal(T("attention.qkv.weight")->shape[0], q + 2 * kv);
        if (a->qkv_bias) expect_block(c->m, T("attention.qkv.bias"), q, V("self_attn.k_proj.bias"), 1, kv0, kv, 0, 1);
        expect_block(c->m, T("attention.dense.weight"), 0, V("self_attn.o_proj.weight"), a->n_heads * hd, 0, C, tp * q,
                     q);
        expect_block(c->m, T("mlp.fc.weight"), 0, V("mlp.gate_proj.weight"), C, tp * F, F, 0, C);
        expect_block(c->m, T("mlp.gate.weight"), 0, V("mlp.up_proj.weight"), C, tp * F, F, 0, C);
        expect_block(c->m, T("mlp.proj.weight"), 0, V("mlp.down_proj.weight"), a->F, 0, C, tp * F, F);
        expect_block(c->m, T("input_layernorm.weight"), 0, V("input_layernorm.weight"), 1, 0, C, 0, 1);
        expect_block(c->m, T("post_layernorm.weight"), 0, V("post_attention_layernorm.weight"), 1, 0, C, 0, 1);
    }
    assert_true((ns_st_find(st, "transformer.vocab_embedding.weight") != NULL) == (pp == 0));
    assert_true((ns_st_find(st, "lm_head.weight") != NULL) == (pp == c->pp - 1));
    if (pp < c->pp - 1) return;
    int64_t each = a->vocab / c->tp;
    expect_block(c->m, ns_st_find(st, "lm_head.weight"), 0, a->tied ? "model.embed_tokens.weight" : "lm_head.weight", C,
                 tp * each, each, 0, C);
}

static void tensorrt_llm(void **s)
{
    (void)s;
    static const int cuts[][2] = {{1, 1}, {2, 1}, {2, 2}, {4, 2}}; /* 2 key/value heads: 4 ranks repeat them */
    static const char *const models[] = {"llama", "qwen2", "qwen3"};
    static ns_export_report r;
    char dir[256], hf[512], out[512], file[600];
    ns_error err = NS_ERROR_INIT;
    ns_test_tmpdir(dir, sizeof dir);
    for (int m = 0; m < 3; m++) {
        for (int k = 0; k < 4; k++) {
            opened o;
            ns_export_args a = NS_EXPORT_DEFAULT;
            snprintf(hf, sizeof hf, GOLDEN "/hf/%s", models[m]);
            snprintf(out, sizeof out, "%s/%s-%d", dir, models[m], k);
            a.input = hf;
            a.output = out;
            a.to = "trtllm";
            a.tp = cuts[k][0];
            a.pp = cuts[k][1];
            assert_ns_ok(ns_export(&a, &r, &err), &err);
            open_model(&o, hf);
            trt c = {&o, a.tp, a.pp};
            for (int i = 0; i < a.tp * a.pp; i++) {
                ns_st *st = NULL;
                snprintf(file, sizeof file, "%s/rank%d.safetensors", out, i);
                assert_ns_ok(ns_st_open(&st, file, &err), &err);
                check_rank(&c, st, i % a.tp, i / a.tp);
                ns_st_close(&st);
            }
            close_model(&o);
        }
    }
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

static void refused(void **s)
{
    (void)s;
    static ns_export_report r;
    char dir[256], out[300];
    ns_error err = NS_ERROR_INIT;
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(out, sizeof out, "%s/o", dir);
    ns_export_args base = NS_EXPORT_DEFAULT, a;
    base.input = GOLDEN "/hf/llama";
    base.output = out;
    base.to = "hf";
#define CASE(set, code, text)                                   \
    a = base;                                                   \
    set;                                                        \
    assert_ns_fails(ns_export(&a, &r, &err), code, text, &err); \
    assert_false(ns_path_exists(out))
    CASE(a.model_type = "qwen", NS_ERR_MISMATCH, "is of type llama");
    CASE(a.input = dir, NS_ERR_INPUT, "no model found");
    CASE(a.input = "/nowhere", NS_ERR_INPUT, "no model found");
    CASE((a.input = GOLDEN "/nemo/llama.nemo", a.from = "hf"), NS_ERR_CONFIG, "is in nemo layout");
    CASE(a.hf_model_name = "no/such-name", NS_ERR_INPUT, "no tokenizer found");
    CASE((a.to = "trtllm", a.tp = 3), NS_ERR_CONFIG, "cannot be cut in 3");
    CASE((a.to = "trtllm", a.pp = 3), NS_ERR_CONFIG, "3 stages");
    assert_ns_ok(ns_export(&base, &r, &err), &err);
    assert_ns_fails(ns_export(&base, &r, &err), NS_ERR_INPUT, "exists already", &err);
    a = base;
    a.force = 1;
    assert_ns_ok(ns_export(&a, &r, &err), &err);
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

/* A tokenizer of any kind goes along, into the container and out of it. */
static void tokenizer_goes_along(void **s)
{
    (void)s;
    static const char *const kinds[] = {"tokenizer.json", "tokenizer.model"};
    char dir[256], in[300], nemo[300], back[300], path[600];
    ns_error err = NS_ERROR_INIT;
    for (int k = 0; k < 2; k++) {
        ns_test_tmpdir(dir, sizeof dir);
        snprintf(in, sizeof in, "%s/in", dir);
        snprintf(nemo, sizeof nemo, "%s/nemo", dir);
        snprintf(back, sizeof back, "%s/back", dir);
        assert_ns_ok(convert(GOLDEN "/hf/llama", in, "hf", NULL, &err), &err);
        snprintf(path, sizeof path, "%s/%s", in, kinds[k]);
        assert_ns_ok(ns_file_replace(path, "{}", 2, &err), &err);
        assert_ns_ok(convert(in, nemo, "nemo", NULL, &err), &err);
        assert_ns_ok(convert(nemo, back, "hf", NULL, &err), &err);
        snprintf(path, sizeof path, "%s/%s", back, kinds[k]);
        assert_true(ns_path_exists(path));
        assert_ns_ok(ns_remove_tree(dir, &err), &err);
    }
}

/* A base model (its config stops at 0) with a tokenizer whose template ends a turn with another token: the output lists that first,
 * for every reader, and keeps the rest. */
static void stop_tokens(void **s)
{
    (void)s;
    static const char tok[] =
        "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":["
        "{\"id\":0,\"content\":\"<|endoftext|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
        "\"normalized\":false,\"special\":true},"
        "{\"id\":3,\"content\":\"<|done|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
        "\"normalized\":false,\"special\":true}],"
        "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"n\":2},\"merges\":[]}}";
    static const char cfg[] = "{\"eos_token\":\"<|endoftext|>\",\"chat_template\":\"{% for m in messages %}"
                              "{{ m.content + '<|done|>' }}{% endfor %}\"}";
    char dir[256], in[300], out[300], path[600];
    ns_error err = NS_ERROR_INIT;
    opened o;
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(in, sizeof in, "%s/in", dir);
    assert_ns_ok(convert(GOLDEN "/hf/qwen2", in, "hf", NULL, &err), &err);
    snprintf(path, sizeof path, "%s/tokenizer.json", in);
    assert_ns_ok(ns_file_replace(path, tok, sizeof tok - 1, &err), &err);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", in);
    assert_ns_ok(ns_file_replace(path, cfg, sizeof cfg - 1, &err), &err);
    snprintf(path, sizeof path, "%s/generation_config.json", in);
    assert_ns_ok(ns_file_replace(path, "{\"eos_token_id\":5}", 18, &err), &err);
    static const char *const to[] = {"hf", "nemo", "gguf"};
    for (int k = 0; k < 3; k++) {
        snprintf(out, sizeof out, "%s/%s", dir, to[k]);
        assert_ns_ok(convert(in, out, to[k], NULL, &err), &err);
        open_model(&o, out);
        assert_true(o.arch.n_eos >= 3);
        assert_int_equal(o.arch.eos[0], 3);
        int seen = 0; /* the tokenizer's, that of generation_config.json */
        for (int i = 1; i < o.arch.n_eos; i++) seen |= o.arch.eos[i] == 0 ? 1 : o.arch.eos[i] == 5 ? 2 : 0;
        assert_int_equal(seen, 3);
        close_model(&o);
    }
    ns_gguf *g;
    snprintf(path, sizeof path, "%s/gguf/model-bf16.gguf", dir);
    assert_ns_ok(ns_gguf_open(&g, path, &err), &err);
    assert_true(ns_gguf_get(g, "tokenizer.ggml.eos_token_id")->num == 3);
    assert_true(ns_gguf_get(g, "tokenizer.ggml.eot_token_id")->num == 3);
    assert_true(ns_gguf_get(g, "tokenizer.ggml.eos_token_ids")->n >= 3);
    assert_non_null(ns_gguf_get(g, "tokenizer.chat_template"));
    ns_gguf_close(&g);
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

/* The log folder of the job that converts lies in the output from the start (pipelines.md §1.4). */
static void logs_in_the_output(void **s)
{
    (void)s;
    char dir[256], out[300], logs[400], file[500];
    ns_error err = NS_ERROR_INIT;
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(out, sizeof out, "%s/o", dir);
    snprintf(logs, sizeof logs, "%s/conversion-logs", out);
    snprintf(file, sizeof file, "%s/a.log", logs);
    assert_ns_ok(ns_mkdirs(logs, &err), &err);
    assert_ns_ok(ns_file_replace(file, "x", 1, &err), &err);
    assert_ns_ok(convert(GOLDEN "/hf/llama", out, "nemo", NULL, &err), &err);
    assert_int_equal(ns_dir_is_done(out, 1, &err), 1);
    assert_true(ns_path_exists(file));
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

static void faults(void **s)
{
    (void)s;
    static const char *const to[] = {"nemo", "hf", "trtllm"};
    char dir[256], out[300];
    ns_error err = NS_ERROR_INIT;
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(out, sizeof out, "%s/o", dir);
    for (int k = 0; k < 3; k++) {
        for (uint64_t n = 1, hit = 1; hit; n += 1 + n / 16) {
            ns_error why = NS_ERROR_INIT;
            ns_mem_fail_at(n, 0);
            ns_status st = convert(GOLDEN "/hf/qwen2", out, to[k], NULL, &why);
            hit = (uint64_t)ns_mem_fault_hit();
            ns_mem_fail_at(0, 0);
            if (st != NS_OK) assert_false(ns_path_exists(out));
            assert_true(hit || st == NS_OK);
            assert_ns_ok(ns_remove_tree(out, &err), &err);
        }
        static const char *const calls[] = {"write", "fsync", "open", "rename", "close"};
        for (size_t c = 0; c < sizeof calls / sizeof calls[0]; c++) {
            for (uint64_t n = 1, hit = 1; hit; n += 1 + n / 4) {
                ns_error why = NS_ERROR_INIT;
                ns_sys_fail_at(calls[c], n, ENOSPC);
                ns_status st = convert(GOLDEN "/hf/qwen2", out, to[k], NULL, &why);
                hit = (uint64_t)ns_sys_fault_hit();
                ns_sys_fail_at(NULL, 0, 0);
                if (st != NS_OK && ns_path_exists(out)) assert_int_equal(ns_dir_is_done(out, 1, &err), 1);
                assert_ns_ok(ns_remove_tree(out, &err), &err);
            }
        }
    }
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
}

int main(void)
{
    ns_log_set_level(NS_LOG_ERROR); /* models without a tokenizer: said in every conversion */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back),     cmocka_unit_test(tensorrt_llm),         cmocka_unit_test(refused),
        cmocka_unit_test(logs_in_the_output), cmocka_unit_test(tokenizer_goes_along), cmocka_unit_test(faults),
        cmocka_unit_test(stop_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
