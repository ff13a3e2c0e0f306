/* `ns sft`: supervised fine-tuning. Prints the plan before step 1 and what to do next at the end. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"
#include "train/sft.h"

/* The command as typed, quoted for a shell, so that it can be pasted to resume. */
static void print_command(FILE *f, const ns_parsed *p)
{
    fputs("ns sft", f);
    for (int i = 0; i < p->argc; i++) {
        const char *a = p->argv_copy[i];
        int plain =
            *a && strspn(a, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%") == strlen(a);
        fputc(' ', f);
        if (plain) {
            fputs(a, f);
            continue;
        }
        fputc('\'', f);
        for (; *a; a++) fputs(*a == '\'' ? "'\\''" : (char[]){*a, 0}, f);
        fputc('\'', f);
    }
    fputc('\n', f);
}

static int run(void *options, ns_parsed *p)
{
    ns_sft_options *o = options;
    ns_error err = NS_ERROR_INIT;
    ns_sft t;
    ns_buf text = {0}, yaml = {0};
    ns_status st = ns_sft_open(&t, o, &err);
    if (st == NS_OK) st = ns_sft_report(&t, &text, 0, &err);
    if (st == NS_OK && !p->quiet) fputs(text.data, stderr);
    if (st == NS_OK) st = ns_config_dump(p->config, &yaml, 1, &err);
    if (st == NS_OK) st = ns_sft_run(&t, yaml.data ? yaml.data : "", p->argc, p->argv_copy, &err);
    int code = 0;
    if (st != NS_OK) code = ns_cli_fail("sft", &err);
    if (st == NS_ERR_STOPPED && t.save_interval > 0) {
        fprintf(stderr, "Resume with the same command:\n  ");
        print_command(stderr, p);
    }
    if (st == NS_OK && !p->quiet && t.n_saved > 0)
        fprintf(stderr,
                "Next: average the checkpoints into one model\n  ns average --input %s --output %s/../model-averaged\n",
                t.ckpt_dir, t.train_dir);
    ns_sft_close(&t);
    ns_buf_free(&text);
    ns_buf_free(&yaml);
    return code;
}

/* `--config-name=sft_config`, as documented commands may say, is the table's own defaults. */
static const char *const builtin[] = {"sft_config", "", NULL};

const ns_verb ns_verb_sft = {
    .name = "sft",
    .group = "training",
    .summary = "fine-tune a model on rows of prompt and answer",
    .usage = "ns sft ++model.restore_from_path=MODEL ++model.data.train_ds.file_path=ROWS.jsonl "
             "++exp_manager.explicit_log_dir=DIR [++key=value ...]",
    .examples = "ns sft ++model.restore_from_path=llama3.2-1b ++model.data.train_ds.file_path=sft-data.jsonl \\\n"
                "    ++model.data.validation_ds.file_path=val.jsonl ++exp_manager.explicit_log_dir=out/training\n"
                "ns sft --config-name my_sft.yaml ++model.optim.lr=1e-5 ++trainer.sft.max_steps=200\n",
    .builtin_configs = builtin,
    .options = ns_sft_option_table,
    .n_options = NS_SFT_N_OPTIONS,
    .options_size = sizeof(ns_sft_options),
    .run = run,
};
