/* Words, quoting, mounts, cluster files, the record and the store, without starting a job. What is quoted is read back by a real
 * bash; what is written as a setting is read back by the option parser. */
#include <fcntl.h>

#include "base/testing.h"

#include "base/config.h"
#include "base/file.h"
#include "jobs/cluster.h"
#include "jobs/pipes.h"
#include "jobs/proc.h"

static const char *const nasty[] = {
    "plain",    "",      "a b",   "it's",   "\"q\"", "$(touch x)", "`x`",    "$HOME",   "a\nb",
    "\\",       "a\\'b", "\\\\",  "-rf",    "*",     "#c",         "!x",     "a;b",     "${x}",
    "\\${x}",   "a,b",   "[a,b]", "{a: b}", "'",     "''",         "tail\\", "x='y\\'", "\t",
    "\xc3\xa4", "~/x",   "a=b",   "%j",     "null",  "1e5",        "true",   " lead",   "trail ",
};
enum { N_NASTY = sizeof nasty / sizeof nasty[0] };

static void quoted_words_come_back_from_bash(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_buf line = {0};
    ns_proc_result r;
    assert_ns_ok(ns_buf_adds(&line, "printf '%s\\0' ", &err), &err);
    assert_ns_ok(ns_shell_line(&line, nasty, N_NASTY, &err), &err);
    const char *const argv[] = {"bash", "-c", line.data, NULL};
    assert_ns_ok(ns_proc_run(&r, argv, NULL, 0, 30, &err), &err);
    assert_int_equal(r.rc, 0);
    const char *p = r.out.data;
    for (int i = 0; i < N_NASTY; p += strlen(p) + 1, i++) assert_string_equal(p, nasty[i]);
    assert_ptr_equal(p, r.out.data + r.out.len);
    ns_proc_free(&r);
    ns_buf_free(&line);
}

/* What a command writes is taken whole or not at all. */
static void long_output_is_an_error(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_proc_result r;
    const char *const fits[] = {"head", "-c", "60000000", "/dev/zero", NULL};
    const char *const too_long[] = {"head", "-c", "70000000", "/dev/zero", NULL};
    assert_ns_ok(ns_proc_run(&r, fits, NULL, 0, 60, &err), &err);
    assert_int_equal(r.out.len, 60000000);
    ns_proc_free(&r);
    assert_ns_fails(ns_proc_run(&r, too_long, "input", 5, 60, &err), NS_ERR_IO, "more than 64 MB", &err);
}

static void settings_mean_their_text(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    for (int i = 0; i < N_NASTY; i++) {
        ns_config *c;
        const ns_node *n;
        if (!*nasty[i]) continue;
        assert_ns_ok(ns_config_new(&c, &err), &err);
        const char *word = ns_setting(&a, "++a.b", nasty[i], &err);
        assert_non_null(word);
        assert_ns_ok(ns_config_override(c, word, &err), &err);
        assert_ns_ok(ns_config_get(c, "a.b", &n, &err), &err);
        if (!n || n->type != NS_NODE_STRING || strcmp(n->s, nasty[i]))
            fail_msg("%s gives '%s', wanted '%s'", word, n ? n->s : "", nasty[i]);
        ns_config_free(&c);
    }
    ns_arena_free(&a);
}

static void lines_are_split_like_a_shell(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_words w = {0};
    assert_ns_ok(ns_words_split(&w, &a, "python /x.py     ++a=[1,2]  '++b=it is' ++c=\"x \\\" y\"  e\\ f '' ", &err),
                 &err);
    const char *const want[] = {"python", "/x.py", "++a=[1,2]", "++b=it is", "++c=x \" y", "e f", ""};
    assert_int_equal(w.n, 7);
    for (int i = 0; i < 7; i++) assert_string_equal(w.v[i], want[i]);
    w.n = 0;
    assert_ns_fails(ns_words_split(&w, &a, "a 'b", &err), NS_ERR_CONFIG, "not closed", &err);
    assert_int_equal(ns_is_plain_line("python /x.py     ++a=[/d/x,2] "), 1);
    assert_int_equal(ns_is_plain_line("a && b"), 0);
    assert_int_equal(ns_is_plain_line("echo $x"), 0);
    ns_arena_free(&a);
}

static void names_become_files(void **state)
{
    (void)state;
    ns_arena a = NS_ARENA_INIT("test");
    assert_string_equal(ns_safe_name(&a, "my-exp_1.2", NULL), "my-exp_1.2");
    assert_string_not_equal(ns_safe_name(&a, "a b", NULL), ns_safe_name(&a, "a;b", NULL));
    for (int i = 0; i < N_NASTY; i++) {
        const char *s = ns_safe_name(&a, nasty[i], NULL);
        assert_true(strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+@=,-") == strlen(s) &&
                    *s && *s != '.');
    }
    ns_arena_free(&a);
}

static void mounts_translate_whole_components(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_mount v[] = {{"/host/my data", "/data"}, {"/deep", "/data/inner"}, {"/w", "/workspace"}};
    ns_mounts m = {v, 3, "/code", 1};
    static const char *const words[][2] = {
        {"/data/x", "/host/my data/x"},
        {"/database/x", "/database/x"},
        {"++a=/data", "++a=/host/my data"},
        {"++a=[/data/x,/data/inner/y,/other]", "++a=[/host/my data/x,/deep/y,/other]"},
        {"++a='/data/x'", "++a='/host/my data/x'"},
        {"x/data/y", "x/data/y"},
        {"/nemo_run/code/nemo_skills/x.py", "/code/nemo_skills/x.py"},
        {"/nemo_run/codex", "/nemo_run/codex"},
        {"{a: /workspace/b}", "{a: /w/b}"},
        {"/data", "/host/my data"},
        {"http://data/x", "http://data/x"},
    };
    const char *out;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        assert_ns_ok(ns_mounts_word(&m, &a, words[i][0], &out, &err), &err);
        assert_string_equal(out, words[i][1]);
    }
    assert_ns_ok(ns_mounts_line(&m, &a, "cat /data/x '/data/y' \"/data/z\" >/workspace/o", &out, &err), &err);
    assert_string_equal(out, "cat /host/my\\ data/x '/host/my data/y' \"/host/my data/z\" >/w/o");
    assert_ns_ok(ns_mounts_path(&m, &a, "/data/inner", &out, &err), &err);
    assert_string_equal(out, "/deep");
    assert_ns_ok(ns_mounts_path(&m, &a, "rel/x", &out, &err), &err);
    assert_string_equal(out, "/code/rel/x");
    assert_ns_fails(ns_mounts_path(&m, &a, "/datax", &out, &err), NS_ERR_CONFIG,
                    "The path '/datax' is not mounted. Check cluster config.", &err);
    ns_arena_free(&a);
}

static void durations(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    static const struct {
        const char *text;
        double s;
    } good[] = {{"01:02:03", 3723}, {"24:00:00", 86400}, {"1-00:00:00", 86400},
                {"2-01", 176400},   {"10:30", 630},      {"43200", 43200}};
    double s;
    char text[32];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_ns_ok(ns_parse_duration(&s, good[i].text, "x", &err), &err);
        assert_true(s == good[i].s);
    }
    static const char *const bad[] = {"", "soon", "1:2:3:4", "-1", "1:-2", "00:10:00x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_ns_fails(ns_parse_duration(&s, bad[i], "timeouts", &err), NS_ERR_CONFIG, "is not a duration", &err);
    ns_format_duration(text, 90061);
    assert_string_equal(text, "1-01:01:01");
    ns_format_duration(text, 3600);
    assert_string_equal(text, "01:00:00");
}

static char dir[4096];

static void put(const char *name, const char *text)
{
    char path[4200];
    ns_error err = NS_ERROR_INIT;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ns_ok(ns_file_replace(path, text, strlen(text), &err), &err);
}

static void cluster_files(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_cluster c;
    double s;
    setenv("NS_TEST_MOUNT", "/from/env", 1);
    put("slurm.yaml", "executor: slurm\ncontainers:\n  nemo: x.sqsh\nssh_tunnel:\n  host: login\n  user: me\n  "
                      "job_dir: /jobs\n  identity: ~/.ssh/id\n"
                      "account: acc\npartition: batch\njob_name_prefix: \"nemo_skills:\"\ntimeouts:\n  batch: "
                      "04:00:00\n  cpu_long: 2-00:00:00\n"
                      "mounts:\n  - {NS_TEST_MOUNT}:/data\n  - /a/b/:/workspace\nenv_vars:\n  - A=1 2\n  - "
                      "NS_TEST_MOUNT\n  - NS_TEST_ABSENT\n"
                      "sbatch_args: [\"--qos=high\", \"--mem 4G\"]\nsetup:\n  - module load x\n");
    /* a mount of a bare {VAR} is a YAML map: it must be quoted there, as in the documented files */
    put("quoted.yaml", "executor: slurm\nmounts:\n  - \"{NS_TEST_MOUNT}:/data\"\n  - /a/b/:/workspace\nenv_vars:\n  - "
                       "A=1 2\n  - NS_TEST_MOUNT\n  - NS_TEST_ABSENT\n"
                       "account: acc\npartition: batch\ntimeouts:\n  batch: 04:00:00\n  cpu_long: "
                       "2-00:00:00\nsbatch_args: [\"--qos=high\", \"--mem 4G\"]\n"
                       "ssh_tunnel:\n  host: login\n  user: me\n  job_dir: /jobs\n");
    if (ns_cluster_open(&c, "slurm", dir, &err) == NS_OK) ns_cluster_close(&c);
    err = (ns_error)NS_ERROR_INIT;
    assert_ns_ok(ns_cluster_open(&c, "quoted", dir, &err), &err);
    assert_int_equal(c.mounts.n, 2);
    assert_string_equal(c.mounts.v[0].from, "/from/env");
    assert_string_equal(c.mounts.v[1].from, "/a/b");
    assert_string_equal(c.env.v[0], "A=1 2");
    assert_string_equal(c.env.v[1], "NS_TEST_MOUNT=/from/env");
    assert_string_equal(c.ssh_host, "login");
    assert_int_equal(c.sbatch_args.n, 3);
    assert_string_equal(c.sbatch_args.v[2], "4G");
    assert_ns_ok(ns_cluster_timeout(&c, "cpu_long", &s, &err), &err);
    assert_true(s == 172800);
    assert_ns_ok(ns_cluster_timeout(&c, "batch", &s, &err), &err);
    assert_true(s == 14400);
    assert_ns_fails(ns_cluster_timeout(&c, "bach", &s, &err), NS_ERR_CONFIG, "did you mean batch?", &err);
    ns_cluster_close(&c);
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"executor: lokal\n", "executor 'lokal' is not known"},
        {"executer: local\n", "did you mean executor?"},
        {"mounts: []\n", "executor is missing"},
        {"executor: local\nmounts: [/a]\n", "Invalid mount format"},
        {"executor: local\nmounts: [/a:/b:ro]\n", "Invalid mount format"},
        {"executor: local\nmounts: [\"{NS_TEST_ABSENT}:/b\"]\n",
         "Required environment variable NS_TEST_ABSENT not found"},
        {"executor: local\nenv_vars: [\"A B=1\"]\n", "not the name of an environment variable"},
        {"executor: local\ndependency_type: after\n", "dependency_type 'after'"},
        {"executor: slurm\ntimeouts: {a: soon}\n", "is not a duration"},
        {"executor: slurm\nssh_tunnel: {host: -oProxyCommand=x, job_dir: /x}\n", "cannot begin with '-'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put("bad.yaml", bad[i].text);
        assert_ns_fails(ns_cluster_open(&c, "bad", dir, &err), NS_ERR_CONFIG, bad[i].says, &err);
    }
    assert_ns_fails(ns_cluster_open(&c, "nowhere", dir, &err), NS_ERR_CONFIG,
                    "not found in any of the supported folders", &err);
}

/* A record as submissions write it; every field is read back, and every damage is refused. */
static void records(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_graph g, back;
    int t, found;
    ns_job_step *step;
    setenv("NS_HOME", dir, 1);
    ns_graph_init(&g);
    g.title = "odd name;x";
    g.executor = "none";
    g.cluster = "none";
    g.workdir = "/w";
    g.host = "h";
    g.command = "ns x";
    for (int i = 0; i < 3; i++) {
        assert_ns_ok(ns_graph_add(&g, i ? "a'b" : "first", &t, &err), &err);
        g.tasks[t].log_dir = g.tasks[t].log = "/l";
        assert_ns_ok(ns_graph_step(&g, &g.tasks[t].groups[0], &step, &err), &err);
        assert_ns_ok(ns_words_add_all(&step->argv, &g.arena, nasty, N_NASTY, &err), &err);
        if (i) assert_ns_ok(ns_graph_edge(&g, t, i - 1, NS_AFTER_OK, &err), &err);
    }
    assert_ns_fails(ns_graph_edge(&g, 1, 2, NS_AFTER_OK, &err), NS_ERR_INPUT, "cannot wait", &err);
    ns_outer o = {"other_1", "/d", 0, NS_AFTER_ANY};
    assert_ns_ok(ns_graph_outer(&g, 0, &o, &err), &err);
    assert_ns_ok(ns_store_reserve(&g, &err), &err);
    ns_store_file secret = {"env.sh", "export A=1\n", 1};
    assert_ns_ok(ns_store_publish(&g, &secret, 1, &err), &err);
    assert_ns_ok(ns_store_open(&back, "odd name;x", &found, &err), &err);
    assert_int_equal(found, 1);
    assert_string_equal(back.id, g.id);
    assert_int_equal(back.n_tasks, 3);
    assert_int_equal(back.tasks[2].edges[0].kind, NS_AFTER_OK);
    assert_int_equal(back.tasks[0].outer[0].kind, NS_AFTER_ANY);
    assert_int_equal(ns_graph_is_final(&back, 2), 1);
    assert_int_equal(ns_graph_is_final(&back, 1), 0);
    for (int i = 0; i < N_NASTY; i++) assert_string_equal(back.tasks[1].groups[0].steps[0].argv.v[i], nasty[i]);
    ns_graph_free(&back);
    assert_ns_ok(ns_store_open(&back, g.id, &found, &err), &err);
    assert_int_equal(found, 1);
    ns_graph_free(&back);
    char path[4300], mode[4300];
    struct stat sb;
    snprintf(mode, sizeof mode, "%s/env.sh", g.dir);
    assert_int_equal(stat(mode, &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    snprintf(path, sizeof path, "%s/experiment.json", g.dir);
    ns_buf text = {0};
    assert_ns_ok(ns_file_read(&text, path, &err), &err);
    for (size_t n = 0; n + 2 < text.len; n += 7) { /* cut anywhere: refused or, never, half a graph */
        assert_ns_ok(ns_file_replace(path, text.data, n, &err), &err);
        ns_status st = ns_graph_read(&back, path, &err);
        assert_int_not_equal(st, NS_OK);
        err = (ns_error)NS_ERROR_INIT;
    }
    ns_buf_free(&text);
    ns_graph_free(&g);
}

/* The n-th allocation of a submission fails: an error or a good end, nothing leaks, nothing is half published. */
static void submissions_survive_failing_allocations(void **state)
{
    (void)state;
    ns_pipe_result r;
    const char *const argv[] = {"--expname=x",          "--output_dir=/o", "--nemo_model=/tmp", "--num_gpus=1",
                                "--training_data=/tmp", "--dry_run",       "--disable_wandb",   "++a=b"};
    setenv("NS_HOME", dir, 1);
    setenv("NS_PROGRAM", "/bin/true", 1);
    int failed = 0;
    for (uint64_t n = 1; n < 4000; n += 1 + n / 40) {
        ns_error err = NS_ERROR_INIT;
        ns_mem_fail_at(n, 0);
        ns_status st = ns_pipe_call(&ns_pipe_train, (int)(sizeof argv / sizeof argv[0]), argv, &r, &err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        if (st == NS_OK) ns_pipe_result_free(&r);
        if (!hit) break;
        failed += st == NS_ERR_MEMORY;
        if (st != NS_OK && st != NS_ERR_MEMORY)
            fail_msg("allocation %llu: status %s: %s", (unsigned long long)n, ns_status_name(st), err.msg);
    }
    assert_true(failed > 20);
}

static int make_dir(void **state)
{
    (void)state;
    ns_test_tmpdir(dir, sizeof dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    return ns_remove_tree(dir, &err) != NS_OK;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quoted_words_come_back_from_bash),
        cmocka_unit_test(long_output_is_an_error),
        cmocka_unit_test(settings_mean_their_text),
        cmocka_unit_test(lines_are_split_like_a_shell),
        cmocka_unit_test(names_become_files),
        cmocka_unit_test(mounts_translate_whole_components),
        cmocka_unit_test(durations),
        cmocka_unit_test(cluster_files),
        cmocka_unit_test(records),
        cmocka_unit_test(submissions_survive_failing_allocations),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
