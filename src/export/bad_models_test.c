/* One model in every format, damaged in one place at a time: each damage is one clear line that names the file or tensor, and a
 * conversion of it leaves no output. The table in doc/formats.md ("Bad input") is this table and the tests that it names. */
#include <errno.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/testing.h"
#include "export/export.h"

static char dir[256];

typedef struct damage {
    const char *format, *file;
    const char *from, *to; /* text replaced; from NULL: the file is removed; to NULL: cut in the middle */
    ns_status st;
    const char *says;
} damage;

/* Made from the golden Llama (16 wide, 2 layers, 24 words); "hf" in shards of 4 kB, "trtllm" on 2 GPUs. */
static const damage table[] = {
    /* missing shard */
    {"hf", "model-00002-of-00003.safetensors", NULL, NULL, NS_ERR_INPUT,
     "missing shard model-00002-of-00003.safetensors"},
    {"torch_dist", "model_weights/__0_0.distcp", NULL, NULL, NS_ERR_INPUT, "which is missing"},
    {"torch_dist", "model_weights/.metadata", NULL, NULL, NS_ERR_INPUT, "no weights in it"},
    {"trtllm", "rank1.safetensors", NULL, NULL, NS_ERR_IO, "rank1.safetensors"},
    {"trtllm", "config.json", NULL, NULL, NS_ERR_IO, "config.json"},
    /* truncated */
    {"hf", "model-00002-of-00003.safetensors", "", NULL, NS_ERR_INPUT, "truncated"},
    {"torch_dist", "model_weights/__0_0.distcp", "", NULL, NS_ERR_INPUT, "truncated"},
    {"torch_dist", "model_weights/.metadata", "", NULL, NS_ERR_INPUT, ".metadata"},
    {"zarr", "model_weights/model.embedding.word_embeddings.weight/0.0", "", NULL, NS_ERR_INPUT, "truncated"},
    {"trtllm", "rank1.safetensors", "", NULL, NS_ERR_INPUT, "truncated"},
    {"gguf", "model-bf16.gguf", "", NULL, NS_ERR_INPUT, "model-bf16.gguf"},
    /* wrong dtype */
    {"hf", "model-00001-of-00003.safetensors", "\"BF16\"", "\"I16\" ", NS_ERR_UNSUPPORTED, "has dtype I16, expected"},
    {"zarr", "model_weights/model.decoder.final_layernorm.weight/.zarray", "\"bfloat16\"", "\"<i2\"",
     NS_ERR_UNSUPPORTED, "dtype is not one of"},
    {"trtllm", "rank0.safetensors", "dense.weight\":{\"dtype\":\"BF16\"", "dense.weight\":{\"dtype\":\"I16\" ",
     NS_ERR_INPUT, "another type than in other ranks"},
    /* foreign architecture */
    {"hf", "config.json", "\"llama\"", "\"mixtral\"", NS_ERR_UNSUPPORTED, "mixtral"},
    {"torch_dist", "model_config.yaml", "fast-swiglu", "squared-relu", NS_ERR_UNSUPPORTED, "squared-relu"},
    {"torch_dist", "model_config.yaml", "num_layers", "num_moe_experts: 8\nnum_layers", NS_ERR_UNSUPPORTED,
     "mixture-of-experts"},
    {"trtllm", "config.json", "LlamaForCausalLM", "GPTForCausalLM", NS_ERR_UNSUPPORTED,
     "'GPTForCausalLM' is not supported (known: LlamaForCausalLM"},
    {"gguf", "model-bf16.gguf", "\5\0\0\0\0\0\0\0llama", "\5\0\0\0\0\0\0\0bloom", NS_ERR_UNSUPPORTED,
     "'bloom' is not supported (known: llama"},
    /* vocabulary mismatch, other shapes */
    {"hf", "config.json", "\"vocab_size\": 24", "\"vocab_size\": 25", NS_ERR_MISMATCH,
     "has shape [24,16], expected [25,16]"},
    {"torch_dist", "model_config.yaml", "override_vocab_size: 24", "override_vocab_size: 25", NS_ERR_MISMATCH,
     "the embedding has 24 rows, the vocabulary 25"},
    {"trtllm", "config.json", "\"vocab_size\": 24", "\"vocab_size\": 26", NS_ERR_MISMATCH,
     "24 x 16, expected 2 axes, 26 x 16"},
    {"torch_dist", "model_config.yaml", "num_layers: 2", "num_layers: 3", NS_ERR_MISMATCH, "by model_config.yaml"},
    {"trtllm", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", NS_ERR_MISMATCH, "expected"},
    /* lengths of 2^63 and the like */
    {"hf", "config.json", "\"hidden_size\": 16", "\"hidden_size\": 9223372036854775807", NS_ERR_INPUT, "hidden_size"},
    {"torch_dist", "model_config.yaml", "hidden_size: 16", "hidden_size: 9223372036854775807", NS_ERR_INPUT,
     "hidden_size"},
    {"zarr", "model_weights/model.decoder.final_layernorm.weight/.zarray", "16", "9223372036854775807", NS_ERR_INPUT,
     "range"},
    {"trtllm", "config.json", "\"tp_size\": 2", "\"tp_size\": 9223372036854775807", NS_ERR_INPUT, "tp_size"},
    {"trtllm", "rank0.safetensors", "[24,16]", "[9e9,9]", NS_ERR_INPUT, "rank0.safetensors"},
    {"gguf", "model-bf16.gguf", "GGUF\3\0\0\0", "GGUF\3\0\0\0\377\377\377\377\377\377\377\177", NS_ERR_INPUT,
     "model-bf16.gguf"},
    /* paths and quantisation */
    {"hf", "model.safetensors.index.json", "model-00002-of-00003", "../../odel-00002-of-3", NS_ERR_INPUT,
     "does not name a file of this folder"},
    {"trtllm", "config.json", "\"quant_algo\": null", "\"quant_algo\": \"W4A16_AWQ\"", NS_ERR_UNSUPPORTED,
     "quantised weights (W4A16_AWQ) cannot be read (known: FP8, W8A16, W4A16)"},
    {"trtllm", "config.json", "\"mapping\"", "\"ns_weight_only_layout\": \"sm90\", \"mapping\"", NS_OK, ""},
};

static size_t length_of(const char *s) /* of a string that may hold NULs and ends with one more that is not counted */
{
    size_t n = strlen(s);
    return s[n] == 0 && n < 5 && n > 0 && s[0] == '\5' ? 8 + 5 : n;
}

static void replace(ns_buf *b, const damage *d)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf out = {0};
    int gguf_head = !strncmp(d->from, "GGUF", 4);
    size_t n = gguf_head ? 16 : length_of(d->from), k = gguf_head ? 16 : length_of(d->to);
    char *at = memmem(b->data, b->len, d->from, gguf_head ? 8 : n);
    if (!at) fail_msg("%s/%s: '%s' is not there", d->format, d->file, d->from);
    assert_ns_ok(ns_buf_add(&out, b->data, (size_t)(at - b->data), &err), &err);
    assert_ns_ok(ns_buf_add(&out, d->to, k, &err), &err);
    assert_ns_ok(ns_buf_add(&out, at + n, b->len - (size_t)(at - b->data) - n, &err), &err);
    ns_buf_free(b);
    *b = out;
}

static ns_status convert(const char *in, const char *out, ns_error *err)
{
    static ns_export_report r;
    ns_export_args a = NS_EXPORT_DEFAULT;
    a.input = in;
    a.output = out;
    a.to = "hf";
    a.parity = "off";
    return ns_export(&a, &r, err);
}

static void one(const damage *d)
{
    char in[400], out[400], path[900], text[2048];
    ns_error err = NS_ERROR_INIT;
    ns_buf good = {0}, b = {0};
    snprintf(in, sizeof in, "%s/%s", dir, d->format);
    snprintf(out, sizeof out, "%s/out", dir);
    snprintf(path, sizeof path, "%s/%s", in, d->file);
    assert_ns_ok(ns_file_read(&good, path, &err), &err);
    assert_ns_ok(ns_buf_add(&b, good.data, good.len, &err), &err);
    if (d->from && d->to) replace(&b, d);
    char *ours = strstr(d->says, "bloom") ? memmem(b.data, b.len, "ns.hf_config", 12) : NULL;
    if (ours) ours[0] = 'N'; /* a file of others: our own key would speak for the model */
    assert_int_equal(unlink(path), 0);
    if (d->from) assert_ns_ok(ns_file_replace(path, b.data, d->to ? b.len : b.len / 2, &err), &err);
    ns_status st = convert(in, out, &err);
    ns_error_text(&err, text, sizeof text);
    if (st != d->st || !strstr(text, d->says))
        fail_msg("%s/%s '%s': status %d '%s', expected %d '%s'", d->format, d->file, d->from ? d->from : "removed",
                 (int)st, text, (int)d->st, d->says);
    assert_null(strchr(text, '\n'));
    assert_int_equal(ns_path_exists(out), st == NS_OK);
    assert_ns_ok(ns_file_replace(path, good.data, good.len, &err), &err);
    assert_ns_ok(ns_remove_tree(out, &err), &err);
    ns_buf_free(&good);
    ns_buf_free(&b);
}

static void every_damage_is_one_line(void **s)
{
    (void)s;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) one(&table[i]);
}

/* The N-th write finds the disk full: one line says so, nothing is left. */
static void fill_disk(const ns_export_args *a, const char *label)
{
    static ns_export_report r;
    char text[2048];
    for (uint64_t n = 1, hit = 1; hit; n++) {
        ns_error err = NS_ERROR_INIT;
        ns_sys_fail_at("write", n, ENOSPC);
        ns_status st = ns_export(a, &r, &err);
        hit = (uint64_t)ns_sys_fault_hit();
        ns_sys_fail_at(NULL, 0, 0);
        assert_true(hit || n > 1);
        if (!hit) {
            assert_int_equal(st, NS_OK);
            assert_ns_ok(ns_remove_tree(a->output, &err), &err);
            break;
        }
        ns_error_text(&err, text, sizeof text);
        if (st != NS_ERR_IO || !strstr(text, "No space left")) fail_msg("%s, write %d: %s", label, (int)n, text);
        assert_null(strchr(text, '\n'));
        assert_false(ns_path_exists(a->output));
    }
}

/* Every format in, every format out. */
static void full_disk(void **s)
{
    (void)s;
    static const char *const formats[] = {"hf", "torch_dist", "zarr", "trtllm", "gguf"};
    static const char *const to[] = {"hf", "nemo", "nemo", "trtllm", "gguf"};
    char in[400], out[400];
    snprintf(out, sizeof out, "%s/out", dir);
    for (size_t i = 0; i < 9; i++) {
        ns_export_args a = NS_EXPORT_DEFAULT;
        snprintf(in, sizeof in, "%s/%s", dir, i < 5 ? formats[i] : "hf");
        a.input = in;
        a.output = out;
        a.parity = "off";
        a.to = i < 5 ? "hf" : to[i - 4];
        if (i > 4 && !strcmp(a.to, "nemo")) a.nemo_format = formats[i - 4];
        if (i > 4 && !strcmp(a.to, "trtllm")) a.tp = 2;
        fill_disk(&a, formats[i < 5 ? i : i - 4]);
    }
}

static int make(void **s)
{
    (void)s;
    static const struct {
        const char *name, *to;
    } formats[] = {{"hf", "hf"}, {"torch_dist", "nemo"}, {"zarr", "nemo"}, {"trtllm", "trtllm"}, {"gguf", "gguf"}};
    ns_test_tmpdir(dir, sizeof dir);
    for (size_t i = 0; i < 5; i++) {
        static ns_export_report r;
        char out[400];
        ns_error err = NS_ERROR_INIT;
        ns_export_args a = NS_EXPORT_DEFAULT;
        snprintf(out, sizeof out, "%s/%s", dir, formats[i].name);
        a.input = NS_SOURCE_DIR "/tests/golden/formats/hf/llama";
        a.output = out;
        a.to = formats[i].to;
        if (!strcmp(a.to, "nemo")) a.nemo_format = formats[i].name;
        a.max_shard_bytes = 2500;
        if (!strcmp(a.to, "trtllm")) a.tp = 2;
        if (ns_export(&a, &r, &err) != NS_OK) {
            print_error("%s: %s\n", formats[i].name, err.msg);
            return -1;
        }
    }
    return 0;
}

static int drop(void **s)
{
    (void)s;
    return ns_remove_tree(dir, NULL) == NS_OK ? 0 : -1;
}

int main(void)
{
    ns_log_set_level(NS_LOG_ERROR); /* models without a tokenizer: said in every conversion */
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_damage_is_one_line), cmocka_unit_test(full_disk)};
    return cmocka_run_group_tests(tests, make, drop);
}
