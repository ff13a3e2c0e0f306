/* transformers loads what we write: a training checkpoint and the averaged model give the logits that our engine gives; TensorBoard's
 * reader reads our events. Needs a Python with torch, transformers, tensorboard, named by NS_PEER_PYTHON; skips loudly else. */
#include "base/testing.h"

#include "base/buf.h"
#include "base/mem.h"
#include "ckpt/model_io.h"
#include "model/engine.h"

static char g_dir[256];

static void sh(const char *fmt, ...)
{
    char cmd[4096], full[5000];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cmd, sizeof cmd, fmt, ap);
    va_end(ap);
    snprintf(full, sizeof full, "(%s) > %s/log 2>&1", cmd, g_dir);
    if (system(full) != 0) {
        snprintf(full, sizeof full, "tail -20 %s/log", g_dir);
        if (system(full)) {
        }
        fail_msg("%s", cmd);
    }
}

/* Logits of `dir` by our engine in f32, written as ids + logits. */
static void dump_logits(const char *dir, const char *out)
{
    ns_error err = NS_ERROR_INIT;
    ns_arch arch;
    ns_engine e;
    char path[600];
    enum { T = 24 };
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_ns_ok(ns_arch_read(&arch, path, &err), &err);
    ns_model_options o = {.dt = NS_DTYPE_F32, .T_cap = 32, .S_cap = 4, .max_len = 32, .n_slots = 1};
    assert_ns_ok(ns_engine_plan(&e, &arch, &o, NULL, 2, &err), &err);
    assert_ns_ok(ns_engine_start(&e, &err), &err);
    assert_ns_ok(ns_model_read(dir, &e.table, ns_engine_put, &e, &err), &err);
    ns_engine_loaded(&e);
    ns_batch *b = &e.model.batch;
    int32_t rows[T], ids[T];
    for (int i = 0; i < T; i++) {
        rows[i] = i;
        ids[i] = b->ids[i] = (i * 37 + 11) % 600;
        b->position[i] = i;
    }
    b->cu_seqlens[0] = 0;
    for (int s = 1; s <= 4; s++) b->cu_seqlens[s] = T;
    e.model.T = 32;
    ns_model_forward(&e.model, &e.exec, 0);
    float *logits = malloc(sizeof *logits * T * (size_t)arch.vocab);
    ns_model_logits(&e.model, &e.exec, rows, T, logits);
    ns_st_writer *w = NULL;
    assert_ns_ok(ns_st_writer_new(&w, out, "logits", 0, &err), &err);
    assert_ns_ok(ns_st_declare(w, "ids", NS_DTYPE_I32, (int64_t[]){T}, 1, &err), &err);
    assert_ns_ok(ns_st_declare(w, "logits", NS_DTYPE_F32, (int64_t[]){T, arch.vocab}, 2, &err), &err);
    assert_ns_ok(ns_st_write(w, ids, sizeof ids, &err), &err);
    assert_ns_ok(ns_st_write(w, logits, (int64_t)sizeof *logits * T * arch.vocab, &err), &err);
    assert_ns_ok(ns_st_writer_close(&w, &err), &err);
    free(logits);
    ns_engine_free(&e);
}

static void compare(const char *python, const char *model)
{
    char out[600];
    snprintf(out, sizeof out, "%s/logits-out", g_dir);
    sh("rm -rf %s; mkdir %s", out, out);
    dump_logits(model, out);
    sh("%s %s/tests/golden/hf_logits.py '%s' --compare %s/logits.safetensors --atol 2e-5 --rtol 1e-5", python,
       NS_SOURCE_DIR, model, out);
}

static void transformers_reads_our_models(void **state)
{
    (void)state;
    const char *python = getenv("NS_PEER_PYTHON");
    if (!python) {
        print_message("SKIP: no peer Python (set NS_PEER_PYTHON to one with torch, transformers, tensorboard)\n");
        skip();
        return;
    }
    ns_test_tmpdir(g_dir, sizeof g_dir);
    const char *configs[] = {"llama", "qwen2"};
    for (int c = 0; c < 2; c++) {
        char run[600], path[1200];
        snprintf(run, sizeof run, "%s/%s", g_dir, configs[c]);
        sh("mkdir %s; printf '{\"model_type\": \"%s\", \"architectures\": [\"%s\"], \"hidden_size\": 64, "
           "\"intermediate_size\": 128, \"num_hidden_layers\": 2, "
           "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"vocab_size\": 640, \"max_position_embeddings\": "
           "256, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, "
           "\"tie_word_embeddings\": %s, \"hidden_act\": \"silu\", \"torch_dtype\": \"bfloat16\", "
           "\"initializer_range\": 0.1}' > %s/config.json",
           run, configs[c], c ? "Qwen2ForCausalLM" : "LlamaForCausalLM", c ? "true" : "false", run);
        sh("for i in $(seq 60); do echo '{\"input\": \"'$i' plus 3 is \", \"output\": \"'$((i + 3))'\"}'; done > "
           "%s/rows.jsonl",
           run);
        sh("%s init --config %s/config.json --tokenizer %s/examples/demo/tokenizer --output %s/base", NS_PROGRAM, run,
           NS_SOURCE_DIR, run);
        sh("%s sft ++model.restore_from_path=%s/base ++model.data.train_ds.file_path=%s/rows.jsonl "
           "++exp_manager.explicit_log_dir=%s/out "
           "++model.data.train_ds.global_batch_size=8 ++trainer.sft.max_steps=6 ++trainer.sft.save_interval=2 "
           "++model.optim.lr=1e-3",
           NS_PROGRAM, run, run, run);
        sh("%s average --input %s/out/checkpoints --output %s/averaged", NS_PROGRAM, run, run);
        snprintf(path, sizeof path, "%s/averaged", run);
        compare(python, path);
        snprintf(path, sizeof path, "%s/last", run);
        sh("ln -s %s/out/checkpoints/*-last %s", run, path);
        compare(python, path);
        sh("%s %s/tests/golden/tensorboard/read_events.py %s/out > %s/events.txt && grep -q 'train/loss' %s/events.txt "
           "&& grep -q 'val/loss' %s/events.txt",
           python, NS_SOURCE_DIR, run, run, run, run);
    }
    sh("rm -rf %s/llama %s/qwen2 %s/logits-out", g_dir, g_dir, g_dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(transformers_reads_our_models)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
