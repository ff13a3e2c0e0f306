/* `ns sft`: supervised fine-tuning. Prints the plan before step 1 and what to do next at the end. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/cli.h"
#include "dist/launch.h"
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

/* A lost rank, and this one does not come back to hear of it. */
static void on_abort(const char *why, void *user)
{
    (void)user;
    fprintf(stderr, "ns sft: %s\n", why);
    fflush(stderr);
    _exit(ns_status_exit_code(NS_ERR_DEVICE));
}

/* trainer.devices=N on one machine without srun or mpirun: this process starts N of itself and waits. */
static int start_ranks(int n, const ns_parsed *p)
{
    ns_error err = NS_ERROR_INIT;
    int code = 0;
    const char *argv[p->argc + 3];
    argv[0] = "ns";
    argv[1] = "sft";
    for (int i = 0; i < p->argc; i++) argv[i + 2] = p->argv_copy[i];
    argv[p->argc + 2] = NULL;
    NS_INFO("starting %d ranks on this machine", n);
    if (ns_launch(n, (char *const *)argv, &code, &err) != NS_OK) code = ns_cli_fail("sft", &err);
    return code;
}

static int run(void *options, ns_parsed *p)
{
    ns_sft_options *o = options;
    if (o->plan_layouts) {
        ns_error asked = NS_ERROR_INIT;
        ns_error_set(&asked, NS_ERR_CONFIG, __FILE__, __LINE__,
                     "plan.layouts is a question to `ns plan`: leave it out to train");
        return ns_cli_fail("sft", &asked);
    }
    if (o->plan_gpu && strcmp(o->plan_gpu, "null")) {
        ns_error no = NS_ERROR_INIT;
        (void)ns_error_set(&no, NS_ERR_CONFIG, __FILE__, __LINE__,
                           "--gpu plans for a GPU that is not here: ns plan --gpu %s ...", o->plan_gpu);
        return ns_cli_fail("sft", &no);
    }
    if (o->num_nodes == 1 && o->devices <= NS_MAX_DP && ns_launch_wanted((int)o->devices))
        return start_ranks((int)o->devices, p);
    ns_error err = NS_ERROR_INIT;
    ns_sft t;
    ns_buf text = {0}, yaml = {0};
    ns_world_options who;
    char verb[32] = "sft";
    if (ns_world_from_env(&who, &err) == NS_OK && who.rank > 0) { /* rank 0 speaks for all, but for errors */
        ns_log_set_level(NS_LOG_ERROR);
        snprintf(verb, sizeof verb, "sft[%d]", who.rank);
    }
    err = (ns_error)NS_ERROR_INIT; /* ns_sft_open says it */
    ns_status st = ns_sft_open(&t, o, &err);
    int first = who.rank == 0;
    t.on_abort = on_abort;
    if (st != NS_OK && !first && !strcmp(who.started_by, "ns")) { /* rank 0, beside it, says the same */
        ns_sft_close(&t);
        return ns_status_exit_code(st);
    }
    if (t.rows_refused && first) {
        ns_error other = NS_ERROR_INIT; /* the first error is the one that counts */
        if (ns_sft_row_report(&t, &other) != NS_OK) ns_cli_fail("sft", &other);
    }
    if (st == NS_OK) st = ns_sft_report(&t, &text, 0, &err);
    if (st == NS_OK && !p->quiet && first) fputs(text.data, stderr);
    if (st == NS_OK) st = ns_config_dump(p->config, &yaml, 1, &err);
    if (st == NS_OK) st = ns_sft_run(&t, yaml.data ? yaml.data : "", p->argc, p->argv_copy, &err);
    int code = 0;
    if (st == NS_ERR_STOPPED && !first)
        code = ns_status_exit_code(st);
    else if (st != NS_OK)
        code = ns_cli_fail(verb, &err);
    if (st == NS_ERR_STOPPED && t.save_interval > 0 && first) {
        fprintf(stderr, "Resume with the same command:\n  ");
        print_command(stderr, p);
    }
    if (st == NS_OK && !p->quiet && t.n_saved > 0 && first)
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
    .no_json = 1,
    .run = run,
};
