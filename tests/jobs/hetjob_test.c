/* Heterogeneous groups on a real Slurm: a task of three groups (server, main, sandbox) is one het job; its groups start together, each on
 * nodes of its own with its own resources, and all end when one of them ends, with its exit code. Starts its own Slurm; without one: skipped. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/testing.h"
#include "jobs/exec.h"
#include "jobs/submit.h"

static char dir[256];
static int have_slurm;

static int sh(const char *fmt, ...) NS_PRINTF(1, 2);
static int sh(const char *fmt, ...)
{
    char text[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return system(text);
}

static int begin(void **state)
{
    (void)state;
    char text[600];
    snprintf(dir, sizeof dir, "/tmp/ns-het-XXXXXX");
    if (!mkdtemp(dir)) return 1;
    snprintf(text, sizeof text, "%s/slurm", dir);
    setenv("DIR", text, 1);
    setenv("NODES", "3", 1);
    snprintf(text, sizeof text, "%s/home", dir);
    setenv("NS_HOME", text, 1);
    setenv("NS_PROGRAM", NS_PROGRAM, 1);
    sh("mkdir -p %s/slurm %s/work", dir, dir);
    have_slurm = sh("bash %s/dev/slurm_cluster.sh up", NS_SOURCE_DIR) == 0;
    snprintf(text, sizeof text, "%s/slurm/etc/slurm.conf", dir);
    setenv("SLURM_CONF", text, 1);
    sh("printf 'executor: local\n' >%s/local.yaml", dir);
    snprintf(text, sizeof text, "%s/slurm.yaml", dir);
    FILE *f = fopen(text, "w");
    if (!f) return 1;
    fprintf(f, "executor: slurm\naccount: acct\npartition: main\nmounts: [\"%s/work:/workspace\"]\n", dir);
    return fclose(f);
}

static int end(void **state)
{
    (void)state;
    if (have_slurm) sh("bash %s/dev/slurm_cluster.sh down", NS_SOURCE_DIR);
    return getenv("NS_KEEP") ? 0 : sh("rm -rf %s", dir) ? 1 : 0;
}

static void step(ns_submission *s, ns_group *g, const char *line)
{
    ns_error err = NS_ERROR_INIT;
    ns_job_step *x;
    assert_int_equal(ns_graph_step(&s->graph, g, &x, &err), NS_OK);
    assert_int_equal(ns_words_add(&x->argv, &s->graph.arena, "bash", &err), NS_OK);
    assert_int_equal(ns_words_add(&x->argv, &s->graph.arena, "-c", &err), NS_OK);
    assert_int_equal(ns_words_addf(&x->argv, &s->graph.arena, &err, "%s", line), NS_OK);
}

/* server: 1 node, 2 GPUs, runs until told; main: its client, on 1 node; sandbox: 1 node. */
static void submit(const char *title, const char *executor, const char *client, int *rc, char id[512])
{
    ns_error err = NS_ERROR_INIT;
    ns_submission s;
    char cluster[400], line[2000];
    int t, failed = -1;
    ns_group *g;
    snprintf(cluster, sizeof cluster, "%s/%s.yaml", dir, executor);
    ns_common_options o = {.cluster = cluster, .expname = title, .exclusive = 1, .not_exclusive = 1};
    assert_int_equal(ns_submission_open(&s, &o, "test", "test", 0, NULL, &err), NS_OK);
    assert_int_equal(ns_submission_task(&s, title, NULL, &t, &err), NS_OK);
    ns_task *task = &s.graph.tasks[t];
    task->groups[0].role = "server";
    if (strcmp(executor, "slurm") == 0) task->groups[0].gpus = 2;
    snprintf(line, sizeof line,
             "trap 'echo told >> %s/work/%s.server; exit 9' TERM USR1; (hostname; echo $CUDA_VISIBLE_DEVICES) > "
             "%s/work/%s.new; mv "
             "%s/work/%s.new %s/work/%s.server; while :; do sleep 0.1; done",
             dir, title, dir, title, dir, title, dir, title);
    step(&s, &task->groups[0], line);
    assert_int_equal(ns_graph_group(&s.graph, t, "main", &g, &err), NS_OK);
    step(&s, g, client);
    assert_int_equal(ns_graph_group(&s.graph, t, "sandbox", &g, &err), NS_OK);
    snprintf(line, sizeof line, "hostname > %s/work/%s.sandbox; sleep 600", dir, title);
    step(&s, g, line);
    ns_status st = ns_submission_send(&s, &err);
    if (st != NS_OK) print_message("%s\n", err.msg);
    assert_int_equal(st, NS_OK);
    snprintf(id, 512, "%s", s.graph.id);
    assert_int_equal(ns_steer_wait(&s.graph, &failed, &err), NS_OK);
    *rc = failed;
    ns_submission_close(&s);
}

static void read_line(char out[256], const char *name, int line)
{
    char path[600];
    snprintf(path, sizeof path, "%s/work/%s", dir, name);
    FILE *f = fopen(path, "r");
    out[0] = 0;
    for (int i = 0; f && i <= line; i++)
        if (!fgets(out, 256, f)) out[0] = 0;
    if (f) fclose(f);
    out[strcspn(out, "\n")] = 0;
}

static void groups_start_together(void **state)
{
    (void)state;
    char client[2000], a[256], b[256], c[256], text[256], id[512];
    int failed;
    if (!have_slurm) skip();
    snprintf(client, sizeof client,
             "for i in $(seq 600); do [ -s %s/work/good.server ] && [ -s %s/work/good.sandbox ] && break; sleep 0.1; "
             "done; hostname > "
             "%s/work/good.main; echo $SLURM_HET_SIZE >> %s/work/good.main",
             dir, dir, dir, dir);
    submit("good", "slurm", client, &failed, id);
    assert_int_equal(failed, 0);
    read_line(a, "good.server", 0);
    read_line(b, "good.main", 0);
    read_line(c, "good.sandbox", 0);
    assert_true(a[0] == 'n' && b[0] == 'n' && c[0] == 'n');
    assert_true(strcmp(a, b) && strcmp(b, c) && strcmp(a, c)); /* three components, three nodes */
    read_line(text, "good.server", 1);
    assert_string_equal(text, "0,1"); /* its GPUs */
    read_line(text, "good.main", 1);
    assert_string_equal(text, "3");
    read_line(text, "good.server", 2);
    assert_string_equal(text, "told"); /* the client has ended: the server was asked to, and the sandbox */
    assert_int_equal(sh("[ -z \"$(squeue -h)\" ]"), 0);
    assert_int_equal(sh("ls %s/home/experiments/good/*/logs/server_good_*_srun.log "
                        "%s/home/experiments/good/*/logs/sandbox_good_*_srun.log >%s/ls",
                        dir, dir, dir),
                     0);
}

static void one_that_fails_ends_all(void **state)
{
    (void)state;
    char id[512];
    int failed;
    if (!have_slurm) skip();
    submit("bad", "slurm", "sleep 1; exit 7", &failed, id);
    assert_int_equal(failed, 1);
    assert_int_equal(
        sh("%s status bad | grep -q 'failed' && %s status --json bad | grep -q '\"rc\": 7'", NS_PROGRAM, NS_PROGRAM),
        0);
    assert_int_equal(sh("[ -z \"$(squeue -h)\" ]"), 0);
}

/* The same without Slurm: the programs of the other groups are told, and none is left. */
static void groups_on_this_machine(void **state)
{
    (void)state;
    char client[2000], text[256], id[512];
    int failed;
    snprintf(client, sizeof client,
             "for i in $(seq 600); do [ -s %s/work/here.server ] && [ -s %s/work/here.sandbox ] && break; sleep 0.1; "
             "done; exit 7",
             dir, dir);
    submit("here", "local", client, &failed, id);
    assert_int_equal(failed, 1);
    read_line(text, "here.server", 2);
    assert_string_equal(text, "told");
    assert_int_equal(sh("%s status --json here | grep -q '\"rc\": 7'", NS_PROGRAM), 0);
    assert_int_not_equal(sh("pgrep -f '%s/work/[h]ere.s' >/dev/null", dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(groups_start_together),
                                       cmocka_unit_test(one_that_fails_ends_all),
                                       cmocka_unit_test(groups_on_this_machine)};
    return cmocka_run_group_tests(tests, begin, end);
}
