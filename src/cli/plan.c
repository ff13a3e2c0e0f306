/* `ns plan`: everything that `ns sft` would do up to step 1: rows, steps, saves, disk, memory; from the same code. */
#include <stdio.h>

#include "cli/cli.h"
#include "train/layouts.h"

static int run(void *options, ns_parsed *p)
{
    ns_error err = NS_ERROR_INIT;
    const ns_sft_options *o = options;
    ns_sft t;
    ns_buf text = {0};
    ns_status st = ns_sft_open(&t, options, &err);
    t.advise = 1;
    if (st == NS_OK && o->plan_layouts && !p->json) { /* of another machine: also when this one is too small */
        st = ns_layouts_report(&text, &t, o->plan_layouts, &err);
        if (st == NS_OK) fputs(text.data, stdout);
        text.len = 0;
    }
    if (st == NS_OK) st = ns_sft_report(&t, &text, p->json, &err);
    if (text.len) fputs(text.data, stdout);
    int code = st == NS_OK ? 0 : ns_cli_fail("plan", &err);
    ns_sft_close(&t);
    ns_buf_free(&text);
    return code;
}

/* `--config-name=sft_config`, as documented commands may say, is the table's own defaults. */
static const char *const builtin[] = {"sft_config", "", NULL};

const ns_verb ns_verb_plan = {
    .name = "plan",
    .group = "training",
    .summary = "say what a training would do and need, without starting it",
    .usage = "ns plan <the words of an ns sft command>",
    .examples = "ns plan ++model.restore_from_path=llama3.2-1b ++model.data.train_ds.file_path=sft-data.jsonl "
                "++exp_manager.explicit_log_dir=out/training\n"
                "ns plan --json ... | jq .memory.total_bytes\n",
    .builtin_configs = builtin,
    .options = ns_sft_option_table,
    .n_options = NS_SFT_N_OPTIONS,
    .options_size = sizeof(ns_sft_options),
    .run = run,
};
