/* Job scripts. Every value in them goes through ns_shell_quote: nothing that a user typed is ever program text, except the one
 * place that is documented as a bash command line (run_cmd's line, preprocess_cmd, postprocess_cmd), which is the argument of bash -c.
 *
 *   scripts/<n>.sh          the task: marks begin and end, starts the groups, stops the others when one ends
 *   scripts/<n>-<k>.sh      group k: folder, environment, then its steps until one fails
 *   env.sh                  variables, mode 0600: secrets are in no script, log or command line */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "jobs/jobs_priv.h"
#include "jobs/submit.h"

#ifndef NS_VERSION
#define NS_VERSION "?"
#endif

static ns_status assign(ns_buf *b, const char *name, const char *value, ns_error *err)
{
    JOBS_TRY(ns_buf_printf(b, err, "%s=", name));
    JOBS_TRY(ns_shell_quote(b, value, err));
    return ns_buf_addc(b, '\n', err);
}

/* A comment must stay one line, whatever the name holds. */
static ns_status comment(ns_buf *b, const char *what, const char *name, ns_error *err)
{
    JOBS_TRY(ns_buf_printf(b, err, "# %s ", what));
    for (const char *p = name; *p; p++) JOBS_TRY(ns_buf_addc(b, (unsigned char)*p < 32 ? '?' : *p, err));
    return ns_buf_addc(b, '\n', err);
}

extern char **environ;

static ns_status put_variable(ns_buf *out, const char *entry, int own, ns_error *err)
{
    static const char *const skip[] = {
        "_", "PWD", "OLDPWD", "SHLVL", "SHELLOPTS", "BASHOPTS", "NS_CLUSTER_INLINE", "CUDA_VISIBLE_DEVICES"};
    const char *eq = strchr(entry, '=');
    size_t n = eq ? (size_t)(eq - entry) : 0;
    for (size_t i = 0; i < n; i++)
        if (!(isalpha((unsigned char)entry[i]) || entry[i] == '_' || (i && isdigit((unsigned char)entry[i]))))
            return NS_OK;
    for (size_t i = 0; own && i < sizeof skip / sizeof skip[0]; i++)
        if (strlen(skip[i]) == n && strncmp(skip[i], entry, n) == 0) return NS_OK;
    if (!n) return NS_OK;
    JOBS_TRY(ns_buf_printf(out, err, "export %.*s=", (int)n, entry));
    JOBS_TRY(ns_shell_quote(out, eq + 1, err));
    return ns_buf_addc(out, '\n', err);
}

ns_status ns_script_env(ns_buf *out, const ns_submission *s, ns_error *err)
{
    JOBS_TRY(ns_buf_adds(out, "# variables of the jobs; this file may hold secrets\n", err));
    int here = strcmp(s->graph.executor, "local") == 0; /* slurm passes the environment itself; `none` has it */
    for (char **e = environ; here && *e; e++) JOBS_TRY(put_variable(out, *e, 1, err));
    for (size_t i = 0; i < s->cluster.env.n; i++) JOBS_TRY(put_variable(out, s->cluster.env.v[i], 0, err));
    return NS_OK;
}

/* Beside the training, of rank 0 alone: its events every few minutes, and once more when it has ended. Niced, bounded in time, its
 * words in wandb.log; whatever happens here, the training ends as it ends. */
static const char wandb_text[] =
    "ns_wandb() {\n"
    "    find \"$ns_tb\" -maxdepth 1 -name 'events.out.tfevents*' -newer \"$NS_MARK.begin\" -exec env "
    "WANDB_NAME=\"$ns_wandb_id\" nice timeout \"$1\" wandb sync --append \\\n"
    "        -p \"$ns_wandb_project\" --id \"$ns_wandb_id\" {} + </dev/null >>\"$ns_tb/wandb.log\" 2>&1\n"
    "}\n"
    "ns_wandb_pid=''\n"
    "if [ \"${SLURM_PROCID:-0}\" = 0 ] && [ -n \"${WANDB_API_KEY:-}\" ]; then\n"
    "    if command -v wandb >/dev/null; then\n"
    "        (while sleep \"${NS_WANDB_INTERVAL:-300}\"; do ns_wandb 300; done) &\n"
    "        ns_wandb_pid=$!\n"
    "    else\n"
    "        echo 'ns: the command wandb is not on this node: no W&B run; TensorBoard files are written'\n"
    "    fi\n"
    "fi\n";
static const char wandb_end_text[] =
    "if [ -n \"$ns_wandb_pid\" ]; then\n"
    "    pkill -P \"$ns_wandb_pid\" 2>/dev/null; kill \"$ns_wandb_pid\" 2>/dev/null; wait \"$ns_wandb_pid\" "
    "2>/dev/null\n"
    "    ns_wandb \"$ns_wandb_last\" || echo \"ns: wandb sync failed, see $ns_tb/wandb.log\"\n"
    "fi\n";

static ns_status put_step(ns_buf *out, const ns_job_step *step, ns_error *err)
{
    ns_buf line = {0};
    const char *const *v = step->argv.v;
    int ours = step->argv.n > 3 && !strcmp(v[0], "bash") &&
               !strcmp(v[3], "ns"); /* ns_submission_script: says itself what it does */
    ns_status st = ns_shell_line(&line, v, step->argv.n, err);
    if (st == NS_OK && !ours) st = ns_buf_adds(out, "[ \"${SLURM_PROCID:-0}\" != 0 ] || printf '+ %s\\n' ", err);
    if (st == NS_OK && !ours) st = ns_shell_quote(out, line.data ? line.data : "", err);
    if (st == NS_OK) st = ns_buf_printf(out, err, "\n%s\nrc=$?\n", line.data ? line.data : "");
    ns_buf_free(&line);
    JOBS_TRY(st);
    if (step->stop_ok)
        JOBS_TRY(ns_buf_adds(
            out,
            "if [ $rc = 130 ]; then : >\"$NS_MARK.stopped\"; rc=0; fi # stopped, all saved: the next job goes on\n",
            err));
    return NS_OK;
}

ns_status ns_script_group(ns_buf *out, const ns_submission *s, int task, size_t group, ns_error *err)
{
    const ns_graph *g = &s->graph;
    const ns_task *t = &g->tasks[task];
    const ns_group *k = &t->groups[group];
    JOBS_TRY(ns_buf_adds(out, "#!/bin/bash\n", err));
    JOBS_TRY(comment(out, k->role, t->name, err));
    JOBS_TRY(assign(out, "NS_EXP", g->run_dir, err));
    JOBS_TRY(ns_buf_printf(out, err, "export NS_MARK=$NS_EXP/state/%d\n", task));
    JOBS_TRY(assign(out, "ns_bin", s->program, err));
    JOBS_TRY(ns_buf_adds(out, ". \"$NS_EXP/env.sh\" || exit 1\n", err));
    if (!k->image) /* an image has programs of its own */
        JOBS_TRY(ns_buf_adds(out, "export PATH=\"$ns_bin/shim:$ns_bin/bin:$PATH\"\n", err));
    JOBS_TRY(ns_buf_adds(out, "trap : TERM USR1 INT # the program is told too; wait for what it has to save\n", err));
    JOBS_TRY(ns_buf_adds(out, "cd ", err));
    JOBS_TRY(ns_shell_quote(out, k->image ? "/nemo_run/code" : g->workdir, err));
    JOBS_TRY(ns_buf_adds(out, " || exit 1\n", err));
    for (size_t i = 0; i < s->cluster.setup.n; i++)
        JOBS_TRY(ns_buf_printf(out, err, "%s\n",
                               s->cluster.setup.v[i])); /* shell lines of the cluster file, by its author */
    int wandb = s->wandb_project && t->progress;
    if (wandb) {
        JOBS_TRY(assign(out, "ns_tb", t->progress, err));
        JOBS_TRY(assign(out, "ns_wandb_project", s->wandb_project, err));
        JOBS_TRY(assign(out, "ns_wandb_id", g->title, err));
        /* the last sync must end before the limit does: the margin is for the training's own save */
        JOBS_TRY(ns_buf_printf(out, err, "ns_wandb_last=%.0f\n",
                               t->limit_s > 0 ? (t->margin_s / 2 < 5 ? 5 : t->margin_s / 2) : 600.0));
        JOBS_TRY(ns_buf_adds(out, wandb_text, err));
    }
    for (size_t i = 0; i < k->n_steps; i++) {
        JOBS_TRY(put_step(out, &k->steps[i], err));
        if (i + 1 < k->n_steps) JOBS_TRY(ns_buf_adds(out, "[ $rc = 0 ] || exit $rc\n", err));
    }
    if (wandb) JOBS_TRY(ns_buf_adds(out, wandb_end_text, err));
    JOBS_TRY(ns_buf_adds(
        out, "[ $rc != 0 ] || [ \"${SLURM_PROCID:-0}\" != 0 ] || : >\"$NS_MARK.good\" # see the task's script\n", err));
    return ns_buf_adds(out, "exit $rc\n", err);
}

/* "from:to" of everything that a container sees, as words (apptainer) or one list (pyxis). */
static ns_status put_binds(ns_buf *out, const ns_submission *s, const char *before, const char *between, ns_error *err)
{
    const ns_graph *g = &s->graph;
    const char *pairs[2][2] = {{g->run_dir, g->run_dir}, {g->workdir, "/nemo_run/code"}};
    size_t n = s->cluster.mounts.n;
    for (size_t i = 0; i < n + 2; i++) {
        const char *from = i < n ? s->cluster.mounts.v[i].from : pairs[i - n][0],
                   *to = i < n ? s->cluster.mounts.v[i].to : pairs[i - n][1];
        NS_FAIL_IF(strpbrk(from, ",:") || strpbrk(to, ",:"), NS_ERR_CONFIG,
                   "%s: a folder with a comma or colon in its name cannot be mounted into a container", from);
        JOBS_TRY(ns_buf_adds(out, i ? between : before, err));
        JOBS_TRY(ns_shell_quote(out, from, err));
        JOBS_TRY(ns_buf_addc(out, ':', err));
        JOBS_TRY(ns_shell_quote(out, to, err));
    }
    return NS_OK;
}

static ns_status put_pyxis(ns_buf *out, const ns_submission *s, const ns_group *k, ns_error *err)
{
    JOBS_TRY(ns_buf_adds(out, " --container-image=", err));
    JOBS_TRY(ns_shell_quote(out, k->image, err));
    JOBS_TRY(put_binds(out, s, " --container-mounts=", ",", err));
    return ns_buf_adds(out, " --container-workdir=/nemo_run/code --no-container-mount-home", err);
}

static ns_status put_apptainer(ns_buf *out, const ns_submission *s, const ns_group *k, ns_error *err)
{
    const char *i = k->image;
    int file = i[0] == '/' || i[0] == '.' || strstr(i, "://");
    JOBS_TRY(ns_buf_printf(out, err, "apptainer exec%s --no-home", k->gpus > 0 ? " --nv" : ""));
    JOBS_TRY(put_binds(out, s, " --bind ", " --bind ", err));
    JOBS_TRY(ns_buf_printf(out, err, " --pwd /nemo_run/code %s", file ? "" : "docker://"));
    JOBS_TRY(ns_shell_quote(out, i, err));
    return ns_buf_addc(out, ' ', err);
}

/* The line that starts group k in the background. */
static ns_status put_launch(ns_buf *out, const ns_submission *s, int task, size_t group, ns_error *err)
{
    const ns_task *t = &s->graph.tasks[task];
    const ns_group *k = &t->groups[group];
    if (strcmp(s->graph.executor, "slurm") == 0) {
        ns_buf log = {0};
        ns_status st = NS_OK;
        for (const char *c = t->log_dir; *c && st == NS_OK; c++) /* '%' begins a pattern of Slurm's */
            st = ns_buf_add(&log, *c == '%' ? "%%" : c, *c == '%' ? 2 : 1, err);
        if (st == NS_OK) st = ns_buf_printf(&log, err, "/%s_%s_", k->role, t->stem);
        if (st == NS_OK) st = ns_buf_adds(out, "srun --output=", err);
        if (st == NS_OK) st = ns_shell_quote(out, log.data, err);
        ns_buf_free(&log);
        JOBS_TRY(st);
        JOBS_TRY(ns_buf_printf(out, err,
                               "\"${SLURM_JOB_ID}\"_srun.log --open-mode=append --kill-on-bad-exit=1 --wait=10 "
                               "--overlap --nodes=%d --ntasks-per-node=%d",
                               k->nodes, k->tasks));
        if (t->n_groups > 1) JOBS_TRY(ns_buf_printf(out, err, " --het-group=%zu", group));
        for (size_t i = 0; i < s->cluster.srun_args.n; i++) {
            JOBS_TRY(ns_buf_addc(out, ' ', err));
            JOBS_TRY(ns_shell_quote(out, s->cluster.srun_args.v[i], err));
        }
        if (k->image && strcmp(s->cluster.container_runtime, "pyxis") == 0) JOBS_TRY(put_pyxis(out, s, k, err));
        JOBS_TRY(ns_buf_addc(out, ' ', err));
    }
    if (k->image && strcmp(s->cluster.container_runtime, "apptainer") == 0) JOBS_TRY(put_apptainer(out, s, k, err));
    return ns_buf_printf(out, err, "bash \"$NS_EXP/scripts/%d-%zu.sh\" &\npids=\"$pids $!\"\n", task, group);
}

static const char head_text[] =
    "finish() { # exit code\n"
    "    if [ \"$1\" != 0 ] && [ ! -e \"$NS_MARK.note\" ] && [ \"$(df -Pk \"$ns_logs\" 2>/dev/null | awk 'NR == 2 { "
    "print $4 }')\" = 0 ]; then\n"
    "        printf 'the disk of the log folder %s is full' \"$ns_logs\" >\"$NS_MARK.note\"\n"
    "    fi\n"
    "    printf '%s %s\\n' \"$1\" \"$(date +%s)\" >\"$NS_MARK.end.tmp\" && mv -f \"$NS_MARK.end.tmp\" "
    "\"$NS_MARK.end\"\n"
    "    exit \"$1\"\n"
    "}\n"
    "rm -f \"$NS_MARK.end\" \"$NS_MARK.stopped\" \"$NS_MARK.note\" \"$NS_MARK.good\"\n"
    "printf '%s %s %s\\n' \"$(date +%s)\" \"${SLURM_JOB_NODELIST:-$(hostname)}\" $$ >\"$NS_MARK.begin.tmp\" &&\n"
    "    mv -f \"$NS_MARK.begin.tmp\" \"$NS_MARK.begin\" || exit 1\n"
    "trap : TERM USR1 INT # the programs are told too; wait for what they have to save\n"
    "pids=''\n";

/* `wait` also returns when a signal comes: ask whether the process is still there. A group that ended in that moment has its
 * exit code kept by the shell. */
static const char wait_text[] =
    "p=${pids# }\n"
    "while :; do wait \"$p\"; rc=$?; kill -0 \"$p\" 2>/dev/null || break; done\n"
    "if [ $rc -gt 128 ]; then wait \"$p\" 2>/dev/null; again=$?; [ $again = 127 ] || rc=$again; fi\n";
/* srun ends with 0 when Slurm takes its step away (a lost node): a success is what the step itself has marked. */
static const char good_text[] = "if [ $rc = 0 ] && [ ! -e \"$NS_MARK.good\" ]; then\n"
                                "    rc=1; printf 'it was taken away before its end' >\"$NS_MARK.note\"\n"
                                "fi\n";
static const char wait_first_text[] =
    "ended=''\n"
    "while [ -z \"$ended\" ]; do\n"
    "    for p in $pids; do kill -0 \"$p\" 2>/dev/null || { ended=$p; break; }; done\n"
    "    [ -n \"$ended\" ] || { sleep 1 & wait $!; }\n"
    "done\n"
    "wait \"$ended\"; rc=$?\n";
/* The other groups are asked to stop, then made to. srun passes USR1 on to its programs, and takes TERM as an order to kill; here the
 * programs are our own descendants. */
static const char stop_others_text[] =
    "tree() { local c; for c in $(pgrep -P \"$1\"); do tree \"$c\"; echo \"$c\"; done; }\n"
    "if [ $ns_srun = 1 ]; then kill -USR1 $pids 2>/dev/null; else for p "
    "in $pids; do kill $(tree \"$p\") 2>/dev/null; done; fi\n"
    "for i in $(seq 100); do\n"
    "    alive=''\n"
    "    for p in $pids; do kill -0 \"$p\" 2>/dev/null && alive=1; done\n"
    "    [ -n \"$alive\" ] || break\n"
    "    sleep 0.2\n"
    "done\n"
    "if [ $ns_srun = 1 ]; then kill $pids 2>/dev/null; else for p in "
    "$pids; do kill -9 $(tree \"$p\") \"$p\" 2>/dev/null; done; fi\n"
    "wait\n";

ns_status ns_script_task(ns_buf *out, const ns_submission *s, int task, ns_error *err)
{
    const ns_graph *g = &s->graph;
    const ns_task *t = &g->tasks[task];
    JOBS_TRY(ns_buf_adds(out, "#!/bin/bash\n", err));
    JOBS_TRY(comment(out, "ns " NS_VERSION ", task", t->name, err));
    JOBS_TRY(assign(out, "NS_EXP", g->run_dir, err));
    JOBS_TRY(ns_buf_printf(out, err, "NS_MARK=$NS_EXP/state/%d\n", task));
    JOBS_TRY(assign(out, "ns_logs", t->log_dir, err));
    JOBS_TRY(ns_buf_adds(out, head_text, err));
    if (t->limit_s > 0) /* trainings stop by themselves in time, counted from here */
        JOBS_TRY(ns_buf_printf(
            out, err, "ns_now=$(date +%%s)\nexport NS_STOP_AT=$((ns_now + %.0f)) NS_LIMIT_AT=$((ns_now + %.0f))\n",
            t->limit_s - t->margin_s, t->limit_s));
    for (size_t i = 0; i < t->n_groups; i++) JOBS_TRY(put_launch(out, s, task, i, err));
    JOBS_TRY(ns_buf_adds(out, t->n_groups > 1 ? wait_first_text : wait_text, err));
    if (t->n_groups == 1) JOBS_TRY(ns_buf_adds(out, good_text, err));
    if (t->n_groups > 1) JOBS_TRY(ns_buf_printf(out, err, "ns_srun=%d\n", strcmp(g->executor, "slurm") == 0));
    if (t->n_groups > 1) JOBS_TRY(ns_buf_adds(out, stop_others_text, err));
    return ns_buf_adds(out, "finish $rc\n", err);
}
