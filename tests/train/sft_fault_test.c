/* Every allocation and every system call of a short training fails in turn: the run reports an error if and only if the fault was
 * reached and mattered, frees everything, never crashes, and what is on disk is a complete checkpoint or none.
 * A sample of the faults normally, all of them with NS_FULL=1. */
#include "base/testing.h"

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "train/sft.h"

static char g_dir[256];
static int g_async; /* 1: checkpoints are written beside the steps */

static const ns_verb verb = {.name = "sft",
                             .group = "training",
                             .summary = "test",
                             .usage = "ns sft",
                             .options = ns_sft_option_table,
                             .n_options = NS_SFT_N_OPTIONS,
                             .options_size = sizeof(ns_sft_options)};

static void sh(const char *fmt, ...)
{
    char cmd[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cmd, sizeof cmd, fmt, ap);
    va_end(ap);
    if (system(cmd) != 0) fail_msg("%s", cmd);
}

/* Two steps with a save after each. */
static ns_status train(ns_error *err)
{
    char words[4][400];
    const char *argv[10];
    snprintf(words[0], sizeof words[0], "++model.restore_from_path=%s/base", g_dir);
    snprintf(words[1], sizeof words[1], "++model.data.train_ds.file_path=%s/rows.jsonl", g_dir);
    snprintf(words[2], sizeof words[2], "++exp_manager.explicit_log_dir=%s/out", g_dir);
    for (int i = 0; i < 3; i++) argv[i] = words[i];
    argv[3] = "++model.data.train_ds.global_batch_size=4";
    argv[4] = "++model.data.train_ds.micro_batch_size=4";
    argv[5] = "++trainer.sft.max_steps=2";
    argv[6] = "++trainer.sft.save_interval=1";
    argv[7] = "++threads=1";
    argv[8] = "++exp_manager.resume_if_exists=false";
    argv[9] = g_async ? "++exp_manager.checkpoint_callback_params.async_save=True"
                      : "++exp_manager.checkpoint_callback_params.async_save=False";
    ns_parsed p;
    ns_sft t;
    memset(&p, 0, sizeof p);
    memset(&t, 0, sizeof t);
    t.lock_fd = -1;
    ns_status st = ns_options_parse(&p, &verb, 10, argv, err);
    if (st == NS_OK) {
        st = ns_sft_open(&t, p.options, err);
        if (st == NS_OK) st = ns_sft_run(&t, "", p.argc, p.argv_copy, err);
        ns_sft_close(&t);
    }
    ns_parsed_free(&p);
    return st;
}

static int g_warnings;

static void count_warnings(ns_log_level level, const char *line, void *user)
{
    (void)line, (void)user;
    g_warnings += level >= NS_LOG_WARN;
}

/* Whatever happened, the newest checkpoint is complete or there is none. */
static void check_disk(void)
{
    ns_error err = NS_ERROR_INIT;
    char dir[400], last[4096] = "";
    snprintf(dir, sizeof dir, "%s/out/checkpoints", g_dir);
    if (!ns_path_exists(dir)) return;
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    if (last[0]) assert_true(ns_dir_is_done(last, 1, &err) == 1);
}

static void setup_files(void)
{
    ns_test_tmpdir(g_dir, sizeof g_dir);
    ns_log_set_sink(count_warnings, NULL);
    sh("printf '{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 32, "
       "\"intermediate_size\": 64, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
       "\"num_key_value_heads\": 2, \"vocab_size\": 640, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, "
       "\"rope_theta\": 10000.0, \"tie_word_embeddings\": true, "
       "\"hidden_act\": \"silu\", \"torch_dtype\": \"bfloat16\"}' > %s/config.json",
       g_dir);
    sh("for i in 1 2 3 4 5 6 7 8; do echo '{\"input\": \"'$i' plus 3 is \", \"output\": \"'$((i + 3))'\"}'; done > "
       "%s/rows.jsonl",
       g_dir);
    sh("%s init --config %s/config.json --tokenizer %s/examples/demo/tokenizer --output %s/base > /dev/null 2>&1",
       NS_PROGRAM, g_dir, NS_SOURCE_DIR, g_dir);
}

static void every_allocation_fails_once(void **state)
{
    (void)state;
    setup_files();
    ns_error warm = NS_ERROR_INIT;
    assert_ns_ok(train(&warm), &warm); /* what is kept for the life of the process is allocated here */
    uint64_t bytes = ns_mem_get_stats().bytes_now;
    g_warnings = 0;
    assert_ns_ok(train(&warm), &warm);
    int usual =
        g_warnings; /* clean-up after a published save may fail: then it warns. A missing live line is nothing */
    int step = getenv("NS_FULL") ? 1 : 23, hit = 1, n_faults = 0, n_lost = 0;
    for (uint64_t n = 1; hit; n += (uint64_t)step) {
        ns_error err = NS_ERROR_INIT;
        sh("rm -rf %s/out", g_dir);
        g_warnings = 0;
        ns_mem_fail_at(n, 0);
        ns_status st = train(&err);
        hit = ns_mem_fault_hit();
        const char *label = hit ? ns_mem_fault_label() : "";
        ns_mem_fail_at(0, 0);
        if (!hit) assert_ns_ok(st, &err);
        if (hit && st == NS_OK && g_warnings == usual && strcmp(label, "progress")) {
            fprintf(stderr, "allocation %d (%s) failed and nobody noticed\n", (int)n, label);
            n_lost++;
        }
        if (hit && st != NS_OK && (st != NS_ERR_MEMORY || !err.msg[0]))
            fail_msg("allocation %d (%s): status %s, '%s'", (int)n, label, ns_status_name(st), err.msg);
        if (ns_mem_get_stats().bytes_now != bytes)
            fail_msg("allocation %d: %lld bytes are not freed", (int)n,
                     (long long)(ns_mem_get_stats().bytes_now - bytes));
        check_disk();
        n_faults += hit;
    }
    assert_int_equal(n_lost, 0);
    assert_true(n_faults > 10);
    print_message("%d allocation faults\n", n_faults);
    sh("rm -rf %s", g_dir);
}

static void every_system_call_fails_once(void **state)
{
    (void)state;
    setup_files();
    int step = getenv("NS_FULL") ? 1 : 11, hit = 1, n_faults = 0;
    for (uint64_t n = 1; hit; n += (uint64_t)step) {
        ns_error err = NS_ERROR_INIT;
        sh("rm -rf %s/out", g_dir);
        ns_sys_fail_at(NULL, n, 28 /* ENOSPC */);
        ns_status st = train(&err);
        hit = ns_sys_fault_hit();
        ns_sys_fail_at(NULL, 0, 0);
        if (!hit) assert_ns_ok(st, &err);
        if (st != NS_OK) assert_true(err.msg[0] != 0);
        check_disk();
        n_faults += hit;
    }
    assert_true(n_faults > 5);
    print_message("%d system call faults\n", n_faults);
    sh("rm -rf %s", g_dir);
}

static void faults_beside_the_steps(void **state)
{
    g_async = 1;
    every_allocation_fails_once(state);
    every_system_call_fails_once(state);
    g_async = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_fails_once),
                                       cmocka_unit_test(every_system_call_fails_once),
                                       cmocka_unit_test(faults_beside_the_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
