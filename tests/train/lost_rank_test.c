/* A rank that is lost while it trains, with ranks of our own launching and of mpirun: one that hangs in its own work (its main thread
 * is held, its heartbeat goes on), one that is slow, one that is told to stop. The lost rank is named with host, process, step
 * and operation, all others end within the time they were given, and the last checkpoint goes on. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/testing.h"

enum { MAX_WORDS = 40 };
static char dir[256], mpirun[300];

static int sh(const char *fmt, ...)
{
    char cmd[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cmd, sizeof cmd, fmt, ap);
    va_end(ap);
    return system(cmd);
}

/* Under a sanitizer, or beside other work, all takes longer: NS_SLOW times. */
static double patience(double seconds)
{
    const char *s = getenv("NS_SLOW");
    return seconds * (s ? atof(s) : 1);
}

/* ---- one run ---- */
typedef struct run {
    char out[300], log[310];
    pid_t pid; /* the launcher */
    int over, status;
} run;
static pid_t now_running; /* launcher of the last run: ended when a test fails */

static void start(run *r, const char *name, int by_mpi, int ranks, const char *const *more)
{
    static char words[MAX_WORDS][600];
    const char *argv[MAX_WORDS + 1];
    int n = 0;
    char count[12];
    memset(r, 0, sizeof *r);
    snprintf(r->out, sizeof r->out, "%s/%s", dir, name);
    snprintf(r->log, sizeof r->log, "%s.log", r->out);
    snprintf(count, sizeof count, "%d", ranks);
    const char *const launcher[] = {mpirun, "--oversubscribe", "--bind-to", "none", "-n", count};
    for (size_t i = 0; by_mpi && i < sizeof launcher / sizeof *launcher; i++) argv[n++] = launcher[i];
    argv[n++] = NS_PROGRAM;
    argv[n++] = "sft";
    snprintf(words[0], sizeof words[0], "++model.restore_from_path=%s/base", dir);
    snprintf(words[1], sizeof words[1], "++model.data.train_ds.file_path=%s/rows.jsonl", dir);
    snprintf(words[2], sizeof words[2], "++exp_manager.explicit_log_dir=%s", r->out);
    snprintf(words[3], sizeof words[3], "++trainer.devices=%d", ranks);
    for (int i = 0; i < 4; i++) argv[n++] = words[i];
    static const char *const usual[] = {"++model.data.train_ds.global_batch_size=12",
                                        "++model.data.train_ds.micro_batch_size=2", "++trainer.sft.max_epochs=100000",
                                        "++trainer.sft.val_check_interval=-1", "++trainer.accelerator=cpu"};
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) argv[n++] = usual[i];
    for (; *more; more++) argv[n++] = *more;
    argv[n] = NULL;
    assert_true(n <= MAX_WORDS);
    now_running = r->pid = fork();
    assert_true(r->pid >= 0);
    if (r->pid == 0) {
        int fd = open(r->log, O_WRONLY | O_CREAT | O_APPEND, 0666);
        dup2(fd, 1);
        dup2(fd, 2);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
}

/* Also whoever else this test must reap: a process that it traces and that has ended. */
static int is_over(run *r)
{
    int status;
    for (pid_t p; !r->over && (p = waitpid(-1, &status, WNOHANG | __WALL)) > 0;)
        if (p == r->pid) r->over = 1, r->status = status, now_running = 0;
    return r->over;
}

/* Exit code; -1: not within that time. */
static int end_of(run *r, double seconds)
{
    for (double until = ns_time_now() + seconds; !is_over(r) && ns_time_now() < until;) poll(NULL, 0, 20);
    return !r->over ? -1 : WIFEXITED(r->status) ? WEXITSTATUS(r->status) : 1000 + WTERMSIG(r->status);
}

static void show(const run *r)
{
    fprintf(stderr, "---- %s\n", r->log);
    sh("tail -n 12 '%s' >&2", r->log);
}

static int log_has(const run *r, const char *what)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    int found = 0;
    if (ns_file_read(&b, r->log, &err) == NS_OK && b.data) found = strstr(b.data, what) != NULL;
    ns_buf_free(&b);
    return found;
}

static int steps(const run *r)
{
    char path[400], line[2000];
    int n = 0;
    snprintf(path, sizeof path, "%s/metrics.jsonl", r->out);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) n += strstr(line, "\"loss\"") != NULL;
    if (f) fclose(f);
    return n;
}

static void wait_for_steps(run *r, int n)
{
    for (double until = ns_time_now() + patience(60); steps(r) < n; poll(NULL, 0, 10))
        if (is_over(r) || ns_time_now() > until) {
            show(r);
            fail_msg("%s does not get to step %d", r->out, n);
        }
}

/* The process of a rank: what its environment says, with the run's folder among its words. */
static pid_t process_of(const run *r, int rank)
{
    char want[2][48];
    snprintf(want[0], sizeof want[0], "NS_RANK=%d", rank);
    snprintf(want[1], sizeof want[1], "OMPI_COMM_WORLD_RANK=%d", rank);
    DIR *d = opendir("/proc");
    assert_non_null(d);
    pid_t found = 0;
    for (struct dirent *e; !found && (e = readdir(d));) {
        char path[300], text[1 << 16];
        if (e->d_name[0] < '1' || e->d_name[0] > '9') continue;
        for (int k = 0, good = 1; k < 2 && good; k++) {
            snprintf(path, sizeof path, "/proc/%s/%s", e->d_name, k ? "environ" : "cmdline");
            int fd = open(path, O_RDONLY);
            ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
            if (fd >= 0) close(fd);
            if (n <= 0) break;
            text[n] = 0;
            good = 0;
            for (char *p = text; p < text + n; p += strlen(p) + 1)
                good |= k ? !strcmp(p, want[0]) || !strcmp(p, want[1])
                          : !strncmp(p, "++exp_manager.", 14) && strstr(p, r->out);
            if (k && good) found = (pid_t)atoi(e->d_name);
        }
    }
    closedir(d);
    return found;
}

/* ---- holding a main thread while the others of its process go on ---- */
static int in_a_call(pid_t pid)
{
    char path[64], text[64] = "";
    snprintf(path, sizeof path, "/proc/%ld/syscall", (long)pid);
    FILE *f = fopen(path, "r");
    if (!f || !fgets(text, sizeof text, f)) text[0] = 0;
    if (f) fclose(f);
    return text[0] != '-' || text[1] != '1'; /* "-1 ...": stopped in its own work */
}

static int take(pid_t pid)
{
    return ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0;
}

/* Stops it in its own work; the process must be taken. */
static int hold(pid_t pid)
{
    for (int k = 0; k < 20000; k++) {
        int status;
        if (ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) != 0 || waitpid(pid, &status, __WALL) != pid) return 0;
        if (WIFSTOPPED(status) && !in_a_call(pid)) return 1;
        if (ptrace(PTRACE_CONT, pid, NULL, NULL) != 0) return 0;
        poll(NULL, 0, k % 3);
    }
    return 0;
}

/* The last complete checkpoint is there and goes on. */
static void goes_on(const char *name, int by_mpi, int ranks, int more)
{
    run r;
    char last[40];
    snprintf(r.out, sizeof r.out, "%s/%s", dir, name);
    const int done = steps(&r);
    snprintf(last, sizeof last, "++trainer.sft.max_steps=%d", done + more);
    start(&r, name, by_mpi, ranks, (const char *const[]){last, "++trainer.sft.save_interval=-1", NULL});
    if (end_of(&r, patience(60)) != 0 || !log_has(&r, "resumed ")) {
        show(&r);
        fail_msg("%s does not go on", name);
    }
    assert_int_equal(steps(&r), done + more);
}

static void hangs(int by_mpi, const char *name)
{
    run r;
    char want[100];
    start(&r, name, by_mpi, 3,
          (const char *const[]){"++trainer.sft.max_steps=100000", "++trainer.sft.save_interval=4",
                                "++trainer.rank_hang_seconds=2", NULL});
    wait_for_steps(&r, 6);
    const pid_t victim = process_of(&r, 1);
    assert_true(victim > 0);
    if (!take(victim) || !hold(victim)) {
        kill(r.pid, SIGKILL);
        (void)end_of(&r, 10);
        print_message("SKIP: the main thread of a process cannot be held here (ptrace: %s)\n", strerror(errno));
        skip();
    }
    const double began = ns_time_now();
    const int code = end_of(&r, patience(30));
    snprintf(want, sizeof want, ", pid %ld) at step ", (long)victim);
    if (code <= 0 || !log_has(&r, "rank 1 (") || !log_has(&r, want) || !log_has(&r, " hangs: no progress for ")) {
        show(&r);
        kill(r.pid, SIGKILL);
        kill(victim, SIGKILL);
        (void)end_of(&r, 10);
        fail_msg("a rank that hangs is not named: exit %d", code);
    }
    print_message("# %s: a hung rank was named and all had ended %.1f s later\n", name, ns_time_now() - began);
    assert_true(ns_time_now() - began < patience(2 + 15));
    goes_on(name, by_mpi, 3, 2);
}

static int tidy(void **state)
{
    (void)state;
    if (now_running > 0 && kill(now_running, SIGTERM) == 0) (void)waitpid(now_running, NULL, 0);
    now_running = 0;
    return 0;
}

static void need_mpi(void)
{
    if (mpirun[0]) return;
    print_message("SKIP: no mpirun, or no libns_mpi.so beside the program\n");
    skip();
}

static void a_hung_rank(void **state)
{
    (void)state;
    hangs(0, "hang");
}

static void a_hung_rank_of_mpi(void **state)
{
    (void)state;
    need_mpi();
    hangs(1, "hang-mpi");
}

static int same_checkpoints(const char *a, const char *b)
{
    return sh("cd '%s' && for d in %s %s; do (cd $d/checkpoints && find . -type f | sort | xargs cksum) >$d.sum; done; "
              "cmp "
              "-s %s.sum %s.sum",
              dir, a, b, a, b) == 0;
}

/* A signal to one rank of two stages: both save the same step, and the whole is the run without a stop. */
static void a_signal_to_one_rank_of_mpi(void **state)
{
    (void)state;
    run r;
    need_mpi();
    static const char *const words[] = {"++trainer.sft.max_steps=40", "++trainer.sft.save_interval=20",
                                        "++model.pipeline_model_parallel_size=2", NULL};
    start(&r, "whole", 0, 2, words);
    assert_int_equal(end_of(&r, patience(60)), 0);
    start(&r, "term", 1, 2, words);
    wait_for_steps(&r, 5);
    const pid_t victim = process_of(&r, 1);
    assert_true(victim > 0);
    assert_int_equal(kill(victim, SIGTERM), 0);
    const int code = end_of(&r, patience(60));
    if (code <= 0 || !log_has(&r, "stopped by another rank after step ") || !log_has(&r, "; saved ")) {
        show(&r);
        fail_msg("SIGTERM to one rank of mpirun: exit %d", code);
    }
    assert_true(steps(&r) < 40);
    start(&r, "term", 1, 2, words);
    if (end_of(&r, patience(60)) != 0 || !log_has(&r, "resumed ")) {
        show(&r);
        fail_msg("after a signal the run does not go on");
    }
    assert_true(same_checkpoints("whole", "term"));
}

/* One rank stands still for a while in each of its steps, longer than a step takes: it is named after ten of them. */
static void a_slow_rank(void **state)
{
    (void)state;
    run r;
    start(&r, "slow", 0, 2,
          (const char *const[]){"++trainer.sft.max_steps=100000", "++trainer.sft.save_interval=-1", NULL});
    wait_for_steps(&r, 3);
    const pid_t slow = process_of(&r, 1);
    assert_true(slow > 0);
    if (!take(slow)) {
        print_message("SKIP: the main thread of a process cannot be held here (ptrace: %s)\n", strerror(errno));
        skip();
    }
    int named = 0, rounds = 0;
    double step_s = 0.2;
    for (double until = ns_time_now() + patience(90); !named && ns_time_now() < until; rounds++) {
        const double began = ns_time_now();
        const int at = steps(&r);
        assert_true(hold(slow));
        const double wait_s = step_s * 2 + 0.1;
        poll(NULL, 0, (int)(wait_s * 1000));
        assert_int_equal(ptrace(PTRACE_CONT, slow, NULL, NULL), 0);
        while (steps(&r) == at && ns_time_now() < until) poll(NULL, 0, 1); /* the next one has begun */
        step_s = ns_time_now() - began - wait_s;
        if (step_s < 0.05) step_s = 0.05;
        named = log_has(&r, "rank 1 is slow: ");
    }
    if (!named) show(&r);
    assert_true(hold(slow)); /* let go: it is to get signals of its own again */
    assert_int_equal(ptrace(PTRACE_DETACH, slow, NULL, NULL), 0);
    print_message("# named after %d steps in which it was held\n", rounds);
    assert_true(named && log_has(&r, "the others wait for it"));
    kill(r.pid, SIGTERM);
    assert_int_equal(end_of(&r, patience(60)), 130);
}

static int setup(void **state)
{
    (void)state;
    char path[300];
    ns_test_tmpdir(dir, sizeof dir);
    setenv("NS_THREADS", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 1);
    FILE *which = popen("command -v mpirun.openmpi || command -v mpirun", "r");
    if (!which || !fgets(mpirun, sizeof mpirun, which)) mpirun[0] = 0;
    if (which) pclose(which);
    mpirun[strcspn(mpirun, "\n")] = 0;
    if (sh("test -e \"$(dirname %s)/libns_mpi.so\"", NS_PROGRAM) != 0) mpirun[0] = 0;
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "w");
    if (!f) return 1;
    fputs("{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 128, "
          "\"intermediate_size\": 512, \"num_hidden_layers\": 4, \"num_attention_heads\": 4, "
          "\"num_key_value_heads\": 2, \"vocab_size\": 1026, \"max_position_embeddings\": 256, \"rms_norm_eps\": 1e-5, "
          "\"rope_theta\": 10000.0, \"tie_word_embeddings\": true, \"hidden_act\": \"silu\", \"torch_dtype\": "
          "\"float32\", \"initializer_range\": 0.05}",
          f);
    fclose(f);
    snprintf(path, sizeof path, "%s/rows.jsonl", dir);
    f = fopen(path, "w");
    if (!f) return 1;
    for (int i = 0; i < 120; i++)
        fprintf(f,
                "{\"input\": \"What is %d plus %d? \", \"output\": \"It is %d, as one sees after a while of thinking "
                "about %d, %d and %d.\"}\n",
                i, i * 7 % 13, i + i * 7 % 13, i, i * i, i * i * i);
    fclose(f);
    return sh("%s init --config %s/config.json --tokenizer %s/examples/demo/tokenizer --output %s/base --seed 7 "
              ">%s/log 2>&1",
              NS_PROGRAM, dir, NS_SOURCE_DIR, dir, dir) != 0;
}

static int teardown(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    return ns_remove_tree(dir, &err) != NS_OK;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_hung_rank, tidy),
        cmocka_unit_test_teardown(a_hung_rank_of_mpi, tidy),
        cmocka_unit_test_teardown(a_signal_to_one_rank_of_mpi, tidy),
        cmocka_unit_test_teardown(a_slow_rank, tidy),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
