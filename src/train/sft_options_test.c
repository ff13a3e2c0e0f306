/* The settings table: whole, unique, with the documented defaults; integral floats; refused combinations. */
#include "base/testing.h"

#include "train/sft_options.h"

static const ns_verb verb = {.name = "sft",
                             .group = "training",
                             .summary = "test",
                             .usage = "ns sft",
                             .options = ns_sft_option_table,
                             .n_options = NS_SFT_N_OPTIONS,
                             .options_size = sizeof(ns_sft_options)};

static void table_is_whole_and_unique(void **state)
{
    (void)state;
    for (size_t i = 0; i < NS_SFT_N_OPTIONS; i++) {
        assert_non_null(ns_sft_option_table[i].key); /* a wrong count would leave empty rows */
        assert_non_null(ns_sft_option_table[i].help);
        for (size_t j = 0; j < i; j++) assert_string_not_equal(ns_sft_option_table[i].key, ns_sft_option_table[j].key);
        if (ns_sft_option_table[i].flags & NS_OPT_COMPAT) assert_non_null(ns_sft_option_table[i].compat_note);
    }
}

static ns_status parse(ns_parsed *p, ns_error *err, int n, const char *const *words)
{
    const char *argv[16] = {"++model.restore_from_path=m", "++model.data.train_ds.file_path=d",
                            "++exp_manager.exp_dir=o"};
    for (int i = 0; i < n; i++) argv[3 + i] = words[i];
    memset(p, 0, sizeof *p);
    ns_status st = ns_options_parse(p, &verb, 3 + n, argv, err);
    return st == NS_OK ? ns_sft_check(p->options, err) : st;
}

static void documented_defaults(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_parsed p;
    assert_ns_ok(parse(&p, &err, 0, NULL), &err);
    const ns_sft_options *o = p.options;
    assert_int_equal(o->max_epochs, 2);
    assert_int_equal(o->max_steps, -1);
    assert_int_equal(o->save_interval, 1000);
    assert_int_equal(o->val_check_interval->i, 1000); /* follows save_interval */
    assert_int_equal(o->limit_val_batches->i, 1);
    assert_true(o->clip == 0 && o->lr == 5e-6 && o->min_lr == 5e-6 && o->weight_decay == 0.01);
    assert_true(o->beta1 == 0.9 && o->beta2 == 0.98);
    assert_int_equal(o->seed, 1234);
    assert_int_equal(o->save_top_k, 50);
    assert_int_equal(o->train.gbs, 512);
    assert_int_equal(o->train.mbs, 1);
    assert_int_equal(o->train.max_seq_length, 4096);
    assert_int_equal(o->val.gbs, 512); /* follows training */
    assert_string_equal(o->precision, "bf16");
    assert_string_equal(o->log_dir, "o");
    assert_string_equal(o->val.file_path, "d");
    assert_string_equal(o->filename, "megatron_gpt_sft--{val_loss:.3f}-{step}-{consumed_samples}-{epoch}");
    ns_parsed_free(&p);
}

static void documented_words(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_parsed p;
    const char *words[] = {"++model.data.train_ds.global_batch_size=138.0",
                           "++model.ffn_dropout=0.1",
                           "++model.attention_dropout=0.1",
                           "++model.hidden_dropout=0.1",
                           "trainer.sft.val_check_interval=0.5",
                           "++model.optim.lr=1e-5"};
    assert_ns_ok(parse(&p, &err, 6, words), &err);
    const ns_sft_options *o = p.options;
    assert_int_equal(o->train.gbs, 138);
    assert_int_equal(o->val.gbs, 138);
    assert_true(o->val_check_interval->type == NS_NODE_FLOAT && o->val_check_interval->f == 0.5);
    assert_true(o->min_lr == 1e-5); /* default follows the rate */
    ns_parsed_free(&p);
}

static void combinations_are_refused_before_work(void **state)
{
    (void)state;
    static const struct {
        const char *word, *needle;
        ns_status code;
    } bad[] = {
        {"++model.data.train_ds.micro_batch_size=5", "not divisible by micro_batch_size=5", NS_ERR_CONFIG},
        {"++model.peft.peft_scheme=lora", "adapters", NS_ERR_UNSUPPORTED},
        {"++trainer.precision=16", "fp16", NS_ERR_UNSUPPORTED},
        {"++trainer.precision=int8", "precision", NS_ERR_CONFIG},
        {"++model.data.train_ds.file_path=p.npy", "set ++model.data.train_ds.packed_sequence=True", NS_ERR_CONFIG},
        {"++model.data.train_ds.pack_size=64", "only with ++model.data.train_ds.packed_sequence=True", NS_ERR_CONFIG},
        {"++model.data.train_ds.global_batch_examples=64", "set ++model.data.train_ds.global_batch_size=64",
         NS_ERR_CONFIG},
        {"++model.data.train_ds.drop_last=False", "drop_last", NS_ERR_CONFIG},
        {"++model.optim.betas=[0.9]", "two numbers", NS_ERR_CONFIG},
        {"++model.optim.betas=[0.9,1.5]", "[0,1)", NS_ERR_CONFIG},
        {"++exp_manager.max_time_per_run=soon", "D:H:M:S", NS_ERR_CONFIG},
        {"++exp_manager.create_wandb_logger=True", "wandb", NS_ERR_UNSUPPORTED},
        {"++trainer.max_epochs=5", "set only trainer.sft.max_epochs", NS_ERR_CONFIG},
        {"++model.global_batch_size=64", "set only model.data.train_ds.global_batch_size", NS_ERR_CONFIG},
        {"++exp_manager.checkpoint_callback_params.monitor=acc", "monitor", NS_ERR_CONFIG},
        {"++model.optim.sched.min_lrr=1", "min_lr", NS_ERR_CONFIG},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ns_error err = NS_ERROR_INIT;
        ns_parsed p;
        assert_ns_fails(parse(&p, &err, 1, &bad[i].word), bad[i].code, bad[i].needle, &err);
        ns_parsed_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(table_is_whole_and_unique),
                                       cmocka_unit_test(documented_defaults), cmocka_unit_test(documented_words),
                                       cmocka_unit_test(combinations_are_refused_before_work)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
