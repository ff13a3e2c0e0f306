/* config.json in every layout we claim to read, every refusal by name, the written file read back, rotary tables against
 * the formula of each kind, and the golden configs that PyTorch wrote (tests/golden/parity). */
#include "arch/arch.h"

#include <math.h>

#include "base/buf.h"
#include "base/testing.h"

static ns_status parse(ns_arch *a, const char *text, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("test");
    ns_json *j = NULL;
    ns_status st = ns_json_parse(&j, &arena, text, strlen(text), "config.json", 0, err);
    if (st == NS_OK) st = ns_arch_from_json(a, j, "config.json", err);
    ns_arena_free(&arena);
    return st;
}

#define SIZES                                                                                                          \
    "\"vocab_size\":320,\"hidden_size\":64,\"intermediate_size\":160,\"num_hidden_layers\":4,\"num_attention_heads\":" \
    "8,"                                                                                                               \
    "\"num_key_value_heads\":2"
#define LLAMA "{\"model_type\":\"llama\"," SIZES
#define QWEN2 "{\"model_type\":\"qwen2\"," SIZES
#define QWEN3 "{\"model_type\":\"qwen3\"," SIZES
#define MISTRAL "{\"model_type\":\"mistral\"," SIZES

static const char llama31[] =
    LLAMA ",\"rope_theta\":500000.0,\"rope_scaling\":{\"factor\":8.0,\"low_freq_factor\":1.0,"
          "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192,\"rope_type\":"
          "\"llama3\"},\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-05,\"torch_dtype\":"
          "\"bfloat16\",\"bos_token_id\":128000,\"eos_token_id\":[128001,128008,128009]}";

static void llama_fields(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arch a;
    assert_ns_ok(parse(&a, llama31, &err), &err);
    assert_int_equal(a.family, NS_FAMILY_LLAMA);
    assert_int_equal(a.vocab, 320);
    assert_int_equal(a.vocab_rows, 320);
    assert_int_equal(a.C, 64);
    assert_int_equal(a.F, 160);
    assert_int_equal(a.L, 4);
    assert_int_equal(a.n_heads, 8);
    assert_int_equal(a.n_kv, 2);
    assert_int_equal(a.head_dim, 8);
    assert_int_equal(a.max_pos, 131072);
    assert_int_equal(a.rope, NS_ROPE_LLAMA3);
    assert_true(a.rope_theta == 500000 && a.rope_factor == 8 && a.rope_low == 1 && a.rope_high == 4);
    assert_int_equal(a.rope_orig_max, 8192);
    assert_int_equal(a.dt, NS_DTYPE_BF16);
    assert_int_equal(a.bos, 128000);
    assert_int_equal(a.n_eos, 3);
    assert_int_equal(a.eos[2], 128009);
    assert_true(a.norm_eps == 1e-5f);
    assert_int_equal(a.qkv_bias | a.o_bias | a.qk_norm | a.tied | a.mlp_bias, 0);
    assert_int_equal(a.window, 0);
    /* Llama 1 and 2 have neither key-value heads nor a rope_scaling */
    assert_ns_ok(
        parse(&a,
              "{\"model_type\":\"llama\",\"vocab_size\":32000,\"hidden_size\":64,\"intermediate_size\":16,"
              "\"num_hidden_layers\":1,\"num_attention_heads\":8,\"rope_scaling\":null,\"attention_bias\":true}",
              &err),
        &err);
    assert_int_equal(a.n_kv, 8);
    assert_int_equal(a.rope, NS_ROPE_PLAIN);
    assert_true(a.rope_theta == 10000);
    assert_int_equal(a.qkv_bias, 1);
    assert_int_equal(a.o_bias, 1);
    assert_int_equal(a.bos, -1);
    assert_int_equal(a.n_eos, 0);
    assert_int_equal(a.dt, NS_DTYPE_F32);
}

static void newest_layout(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arch a;
    assert_ns_ok(parse(&a,
                       LLAMA ",\"dtype\":\"bfloat16\",\"rope_parameters\":{\"rope_theta\":7.5,\"rope_type\":\"linear\","
                             "\"factor\":4.0}}",
                       &err),
                 &err);
    assert_int_equal(a.rope, NS_ROPE_LINEAR);
    assert_true(a.rope_theta == 7.5 && a.rope_factor == 4);
    assert_int_equal(a.dt, NS_DTYPE_BF16);
    assert_ns_ok(parse(&a, QWEN2 ",\"rope_parameters\":{\"rope_theta\":1e6,\"rope_type\":\"default\"}}", &err), &err);
    assert_int_equal(a.rope, NS_ROPE_PLAIN);
    assert_true(a.rope_theta == 1e6);
    /* the old spelling "type", with theta outside */
    assert_ns_ok(parse(&a, LLAMA ",\"rope_theta\":9.0,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}}", &err),
                 &err);
    assert_int_equal(a.rope, NS_ROPE_LINEAR);
    assert_true(a.rope_theta == 9);
}

static void families_differ(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arch a;
    assert_ns_ok(
        parse(&a, QWEN2 ",\"tie_word_embeddings\":true,\"sliding_window\":4096,\"use_sliding_window\":false}", &err),
        &err);
    assert_int_equal(a.qkv_bias, 1);
    assert_int_equal(a.o_bias, 0);
    assert_int_equal(a.tied, 1);
    assert_int_equal(a.window, 0);
    assert_ns_ok(parse(&a, QWEN3 "}", &err), &err);
    assert_int_equal(a.head_dim, 128); /* not hidden / heads */
    assert_int_equal(a.qk_norm, 1);
    assert_int_equal(a.qkv_bias, 0);
    assert_ns_ok(parse(&a, MISTRAL ",\"sliding_window\":256}", &err), &err);
    assert_int_equal(a.window, 256);
    assert_ns_ok(parse(&a, MISTRAL ",\"sliding_window\":null}", &err), &err);
    assert_int_equal(a.window, 0);
    assert_ns_ok(parse(&a, MISTRAL ",\"head_dim\":32}", &err), &err);
    assert_int_equal(a.window, 4096); /* the class default when the key is absent */
    assert_int_equal(a.head_dim, 32);
    assert_ns_ok(parse(&a, QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":64,\"max_window_layers\":4}", &err),
                 &err);
    assert_int_equal(a.window, 0); /* all four layers are below max_window_layers */
    assert_ns_ok(parse(&a, QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":64,\"max_window_layers\":0}", &err),
                 &err);
    assert_int_equal(a.window, 64);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text, *needle;
        ns_status st;
    } bad[] = {
        {"[]", "expected a JSON object", NS_ERR_INPUT},
        {"{}", "\"model_type\" is missing", NS_ERR_INPUT},
        {"{\"model_type\":\"gpt2\"}", "\"model_type\" \"gpt2\" is not supported", NS_ERR_UNSUPPORTED},
        {"{\"model_type\":\"mixtral\"}", "\"mixtral\"", NS_ERR_UNSUPPORTED},
        {LLAMA ",\"num_local_experts\":8}", "\"num_local_experts\" is 8", NS_ERR_UNSUPPORTED},
        {QWEN3 ",\"num_experts\":128}", "\"num_experts\" is 128", NS_ERR_UNSUPPORTED},
        {LLAMA ",\"hidden_act\":\"gelu\"}", "\"hidden_act\" \"gelu\"", NS_ERR_UNSUPPORTED},
        {LLAMA ",\"mlp_bias\":true}", "\"mlp_bias\" true", NS_ERR_UNSUPPORTED},
        {LLAMA ",\"quantization_config\":{\"quant_method\":\"awq\"}}", "quant_method \"awq\"", NS_ERR_UNSUPPORTED},
        {LLAMA ",\"partial_rotary_factor\":0.5}", "\"partial_rotary_factor\" 0.5", NS_ERR_UNSUPPORTED},
        {QWEN2 ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0}}", "rope_scaling: \"rope_type\" \"yarn\"",
         NS_ERR_UNSUPPORTED},
        {LLAMA ",\"rope_parameters\":{\"rope_type\":\"dynamic\",\"factor\":4.0}}",
         "rope_parameters: \"rope_type\" \"dynamic\"", NS_ERR_UNSUPPORTED},
        {LLAMA ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}",
         "each layer type (\"full_attention\")", NS_ERR_UNSUPPORTED},
        {LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", "\"factor\" is missing", NS_ERR_INPUT},
        {LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}",
         "\"original_max_position_embeddings\" is missing", NS_ERR_INPUT},
        {QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":64,\"max_window_layers\":2}", "64 on 2 of 4 layers",
         NS_ERR_UNSUPPORTED},
        {LLAMA ",\"dtype\":\"float8_e4m3fn\"}", "\"dtype\" \"float8_e4m3fn\"", NS_ERR_UNSUPPORTED},
        {LLAMA ",\"rms_norm_eps\":\"x\"}", "\"rms_norm_eps\" is \"x\", expected a number", NS_ERR_INPUT},
        {LLAMA ",\"head_dim\":7}", "head_dim 7 is odd", NS_ERR_UNSUPPORTED},
        {LLAMA ",\"vocab_size\":-5}", "\"vocab_size\" is -5, expected an integer from 1", NS_ERR_INPUT},
        {LLAMA ",\"hidden_size\":1e99}", "\"hidden_size\" is 1e99", NS_ERR_INPUT},
        {LLAMA ",\"num_key_value_heads\":3}", "not a multiple of \"num_key_value_heads\" 3", NS_ERR_INPUT},
        {LLAMA ",\"hidden_size\":66}", "66 is not a multiple of \"num_attention_heads\" 8", NS_ERR_INPUT},
        {LLAMA ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", "lists 9 ids", NS_ERR_UNSUPPORTED},
        {"{\"model_type\":\"llama\",\"vocab_size\":5}", "\"hidden_size\" is missing", NS_ERR_INPUT},
    };
    ns_error err = NS_ERROR_INIT;
    ns_arch a;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_ns_fails(parse(&a, bad[i].text, &err), bad[i].st, bad[i].needle, &err);
    }
}

/* Written file read again gives the same record, for every family and rope kind. */
static void write_and_read(void **state)
{
    (void)state;
    static const char *const texts[] = {
        llama31,
        LLAMA
        ",\"head_dim\":16,\"tie_word_embeddings\":true,\"attention_bias\":true,\"rope_scaling\":{\"type\":\"linear\","
        "\"factor\":2.5},\"eos_token_id\":7,\"initializer_range\":0.006}",
        QWEN2 ",\"tie_word_embeddings\":true,\"rope_theta\":1000000.0,\"rms_norm_eps\":1e-06}",
        QWEN2 ",\"use_sliding_window\":true,\"sliding_window\":64,\"max_window_layers\":0}",
        QWEN2 ",\"head_dim\":16}",
        QWEN3 ",\"dtype\":\"float16\"}",
        MISTRAL ",\"sliding_window\":4096}",
        MISTRAL ",\"sliding_window\":null}",
    };
    ns_error err = NS_ERROR_INIT;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        ns_arch a, b;
        ns_buf out = {0};
        assert_ns_ok(parse(&a, texts[i], &err), &err);
        assert_ns_ok(ns_arch_write_json(&out, &a, NULL, &err), &err);
        assert_ns_ok(parse(&b, out.data, &err), &err);
        assert_memory_equal(&a, &b, sizeof a);
        ns_buf_free(&out);
    }
}

static void write_keeps_base(void **state)
{
    (void)state;
    static const char base[] =
        LLAMA ",\"pad_token_id\":9,\"use_cache\":false,\"_name_or_path\":\"/home/x\",\"dtype\":\"float16\","
              "\"rope_parameters\":{\"rope_theta\":5.0,\"rope_type\":\"default\"}}";
    ns_error err = NS_ERROR_INIT;
    ns_arena arena = NS_ARENA_INIT("test");
    ns_json *j = NULL, *back = NULL;
    ns_arch a;
    ns_buf out = {0};
    int64_t pad = 0;
    assert_ns_ok(ns_json_parse(&j, &arena, base, strlen(base), "base", 0, &err), &err);
    assert_ns_ok(ns_arch_from_json(&a, j, "base", &err), &err);
    a.dt = NS_DTYPE_BF16;
    assert_ns_ok(ns_arch_write_json(&out, &a, j, &err), &err);
    assert_ns_ok(ns_json_parse(&back, &arena, out.data, out.len, "out", 0, &err), &err);
    assert_true(ns_json_is_int(ns_json_get(back, "pad_token_id"), &pad) && pad == 9);
    assert_int_equal(ns_json_truthy(ns_json_get(back, "use_cache")), 0);
    assert_null(ns_json_get(back, "_name_or_path"));
    assert_null(ns_json_get(back, "dtype")); /* would contradict torch_dtype */
    assert_null(ns_json_get(back, "rope_parameters"));
    assert_true(ns_str_eq(ns_json_get(back, "torch_dtype")->s, "bfloat16"));
    assert_true(ns_str_eq(ns_json_get(back, "rope_theta")->s, "5.0"));
    ns_buf_free(&out);
    ns_arena_free(&arena);
}

static void rope_tables(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arch a;
    float t[40 * 4 * 2];
    assert_ns_ok(parse(&a, LLAMA ",\"rope_theta\":10000.0}", &err), &err); /* head_dim 8 */
    ns_arch_rope_table(&a, t, 40);
    for (int i = 0; i < 4; i++) assert_true(t[2 * i] == 1 && t[2 * i + 1] == 0); /* position 0 */
    assert_true(t[(39 * 4 + 0) * 2] == (float)cos(39.0));
    assert_true(t[(39 * 4 + 2) * 2 + 1] == (float)sin(39.0 * 0.01)); /* 10000^(-4/8) */
    a.rope = NS_ROPE_LINEAR;
    a.rope_factor = 4;
    ns_arch_rope_table(&a, t, 40);
    assert_true(t[(39 * 4 + 0) * 2] == (float)cos(39.0 / 4));
    /* llama3 with orig 64, factor 32: wavelengths 6.28 (kept), 62.8 (blended), 628 and 6283 (divided) */
    a.rope = NS_ROPE_LLAMA3;
    a.rope_factor = 32;
    a.rope_low = 1;
    a.rope_high = 4;
    a.rope_orig_max = 64;
    ns_arch_rope_table(&a, t, 40);
    assert_true(t[(39 * 4 + 0) * 2] == (float)cos(39.0));
    double th = 0.1, s = (64 / (2 * 3.14159265358979323846 / th) - 1) / 3, blended = (1 - s) * th / 32 + s * th;
    assert_true(s > 0 && s < 1);
    assert_float_equal(t[(39 * 4 + 1) * 2], cos(39.0 * blended), 1e-6);
    assert_float_equal(t[(39 * 4 + 2) * 2 + 1], sin(39.0 * 0.01 / 32), 1e-7);
}

static void flops(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arch a;
    assert_ns_ok(parse(&a, LLAMA "}", &err), &err);
    /* weights of a layer: qkv 64*96, o 64*64, mlp 3*64*160; head 320*64 */
    double weights = 4 * (64 * 96 + 64 * 64 + 3 * 64 * 160) + 320 * 64;
    assert_true(ns_arch_train_flops(&a, 0) == 6 * weights);
    assert_true(ns_arch_train_flops(&a, 100) == 6 * weights + 4 * 6.0 * 100 * 64);
    double full = ns_arch_train_flops(&a, 1000);
    a.window = 10;
    assert_true(ns_arch_train_flops(&a, 1000) < full);
}

static void golden_configs(void **state)
{
    (void)state;
    static const char *const files[] = {"llama3/config.json", "llama3/config_v4.json", "qwen25/config.json",
                                        "qwen25/config_v4.json"};
    ns_error err = NS_ERROR_INIT;
    ns_arch a[4];
    memset(a, 0, sizeof a);
    for (int i = 0; i < 4; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/tests/golden/parity/%s", NS_SOURCE_DIR, files[i]);
        assert_ns_ok(ns_arch_read(&a[i], path, &err), &err);
    }
    assert_memory_equal(&a[0], &a[1], sizeof a[0]); /* both layouts say the same */
    assert_memory_equal(&a[2], &a[3], sizeof a[0]);
    assert_int_equal(a[0].rope, NS_ROPE_LLAMA3);
    assert_int_equal(a[0].rope_orig_max, 64);
    assert_true(a[0].rope_factor == 32);
    assert_int_equal(a[2].tied, 1);
    assert_int_equal(a[2].head_dim, 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_fields), cmocka_unit_test(newest_layout),  cmocka_unit_test(families_differ),
        cmocka_unit_test(refusals),     cmocka_unit_test(write_and_read), cmocka_unit_test(write_keeps_base),
        cmocka_unit_test(rope_tables),  cmocka_unit_test(flops),          cmocka_unit_test(golden_configs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
