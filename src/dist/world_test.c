/* Joining, and failing well: who is dead, silent or hung is named on every other rank, in time. */
#include <errno.h>
#include <poll.h>
#include <signal.h>

#include "base/log.h"
#include "dist/dist_testing.h"
#include "dist/world_priv.h"

static double started_at; /* before the fork */

/* Every other rank works in a loop of barriers; `victim` does `act` at step 3. Exit 10 + seconds it took to know. */
static int victim, expect_code;
static void (*act)(void);
static const char *expect[4];

static int worker(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    ns_world *w;
    ns_comm c;
    int ranks[4] = {0, 1, 2, 3};
    char text[2048];
    o->dead_s = 2;
    o->hang_s = 2;
    RANK_OK(ns_world_open(&w, o, &err), &err);
    RANK_OK(ns_comm_open(&c, w, ranks, o->size, &err), &err);
    ns_status st = NS_OK;
    for (int step = 1; step <= 5 && st == NS_OK; step++) {
        ns_world_note(w, step, "forward");
        if (step == 3 && o->rank == victim) {
            act();
            ns_world_fail(w, &(ns_error){.code = NS_ERR_IO, .msg = "disk is full"});
        }
        if (step == 3) poll(NULL, 0, 1100); /* a heartbeat carries the step */
        st = ns_comm_barrier(&c, &err);
    }
    RANK_CHECK(st != NS_OK && (int)err.code == expect_code);
    ns_error_text(&err, text, sizeof text);
    for (int i = 0; i < 4 && expect[i]; i++)
        if (!strstr(text, expect[i])) {
            fprintf(stderr, "rank %d: '%s' lacks '%s'\n", o->rank, text, expect[i]);
            return 2;
        }
    RANK_CHECK(ns_time_now() - started_at < 10);
    ns_comm_close(&c);
    ns_world_close(&w);
    return 0;
}

static void run_case(int who, void (*what)(void), int victim_exit)
{
    int code[3];
    victim = who;
    act = what;
    started_at = ns_time_now();
    expect_code = NS_ERR_DEVICE;
    ns_test_run_ranks(3, worker, code);
    for (int r = 0; r < 3; r++) assert_int_equal(code[r], r == who ? victim_exit : 0);
}

static void die(void)
{
    poll(NULL, 0, 1200);
    raise(SIGKILL);
}

static void sleep_long(void)
{
    poll(NULL, 0, 5500);
    _exit(9);
}

static void freeze(void)
{
    pid_t me = getpid();
    if (fork() == 0) { /* wakes it up again after the others have ended */
        poll(NULL, 0, 5000);
        kill(me, SIGKILL);
        _exit(0);
    }
    poll(NULL, 0, 1200);
    raise(SIGSTOP);
}

static void nothing(void) {}

static void test_death(void **state)
{
    (void)state;
    expect[0] = "rank 2 (", expect[1] = "at step 3 in forward died", expect[2] = NULL;
    run_case(2, die, 1000 + SIGKILL);
    expect[0] = "rank 0 (", expect[1] = "died", expect[2] = NULL;
    run_case(0, die, 1000 + SIGKILL);
}

static void test_hang(void **state)
{
    (void)state;
    expect[0] = "rank 1 (", expect[1] = "at step 3 in forward hangs", expect[2] = "in barrier waits", expect[3] = NULL;
    run_case(1, sleep_long, 9);
}

/* GPU ranks: the others do not know that they wait; the one that came least far is named. */
static int on_a_device(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    ns_world *w;
    char text[2048];
    o->hang_s = 2;
    RANK_OK(ns_world_open(&w, o, &err), &err);
    ns_world_device(w, 1);
    for (int i = 0; i < 8; i++) { /* all move: slower than heartbeats, nothing is wrong */
        ns_world_note(w, 2, "backward");
        poll(NULL, 0, 500);
        RANK_OK(ns_world_check(w, &err), &err);
    }
    if (o->rank != 1) ns_world_note(w, 3, "forward");
    ns_status st = NS_OK;
    for (const double until = ns_time_now() + 6; st == NS_OK && ns_time_now() < until; poll(NULL, 0, 20))
        st = ns_world_check(w, &err);
    ns_error_text(&err, text, sizeof text);
    RANK_CHECK(st == NS_ERR_DEVICE && strstr(text, "rank 1 (") && strstr(text, "at step 2 in backward hangs"));
    ns_world_close(&w);
    return 0;
}

static void test_hang_on_a_device(void **state)
{
    (void)state;
    int code[3];
    ns_test_run_ranks(3, on_a_device, code);
    for (int r = 0; r < 3; r++) assert_int_equal(code[r], 0);
}

static void test_frozen(void **state)
{
    (void)state;
    expect[0] = "rank 1 (", expect[1] = "is silent", expect[2] = NULL;
    run_case(1, freeze, 1000 + SIGKILL);
    expect[0] = "rank 0 (", expect[1] = "is silent", expect[2] = NULL;
    run_case(0, freeze, 1000 + SIGKILL);
}

/* An error found by one rank: the others stop with its text. */
static void test_failure_is_passed_on(void **state)
{
    (void)state;
    expect[0] = "disk is full", expect[1] = NULL;
    run_case(1, nothing, 0);
    run_case(0, nothing, 0);
}

/* ---- joining ---- */

static int join_only(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    ns_world *w;
    char text[2048];
    o->join_s = 3;
    if (o->rank == victim) act();
    o->identity = o->rank == victim && expect_code == NS_ERR_MISMATCH ? "version 2;config b" : "version 2;config a";
    if (ns_world_open(&w, o, &err) == NS_OK) {
        ns_world_close(&w);
        return 3;
    }
    ns_error_text(&err, text, sizeof text);
    for (int i = 0; i < 4 && expect[i]; i++)
        if (!strstr(text, expect[i])) {
            fprintf(stderr, "rank %d: '%s' lacks '%s'\n", o->rank, text, expect[i]);
            return 2;
        }
    return err.code == (ns_status)expect_code ? 0 : 4;
}

static void leave(void)
{
    _exit(9);
}

static void test_join_refused(void **state)
{
    (void)state;
    int code[3];
    victim = 2, act = nothing, expect_code = NS_ERR_MISMATCH;
    expect[0] = "rank 2 (", expect[1] = "'config b' against 'config a' on rank 0", expect[2] = NULL;
    ns_test_run_ranks(3, join_only, code);
    assert_true(code[0] == 0 && code[2] == 0);

    victim = 1, act = leave, expect_code = NS_ERR_DEVICE;
    expect[0] = "", expect[1] = NULL;
    ns_test_run_ranks(3, join_only, code);
    assert_true(code[0] == 0 && code[1] == 9 && code[2] == 0);
}

/* ---- ports that others have ---- */

enum { RUNS = 2, RANKS_EACH = 3 };
static uint64_t runs[RUNS];

/* Joins without a port of its own, tells who was met: the tokens of a run's ranks agree. */
static int join_run(uint64_t run, int rank, int write_to)
{
    ns_error err = NS_ERROR_INIT;
    ns_world *w;
    ns_world_options o = {.rank = rank,
                          .size = RANKS_EACH,
                          .local_rank = rank,
                          .local_size = RANKS_EACH,
                          .host = "127.0.0.1",
                          .port = dist_port(run, 0),
                          .any_port = 1,
                          .run = run,
                          .join_s = 20};
    RANK_OK(ns_world_open(&w, &o, &err), &err);
    RANK_CHECK(write(write_to, &w->token, sizeof w->token) == sizeof w->token);
    ns_world_close(&w);
    return 0;
}

/* All ranks of all runs at once; the ranks of a run must have met each other and nobody else. */
static void join_all(void)
{
    pid_t pid[RUNS * RANKS_EACH];
    uint64_t token[RUNS];
    int pipes[RUNS][2];
    for (int i = 0; i < RUNS; i++) assert_return_code(pipe(pipes[i]), errno);
    fflush(NULL);
    for (int i = 0; i < RUNS * RANKS_EACH; i++) {
        pid[i] = fork(); /* rank 2 first, rank 0 last */
        if (pid[i] == 0) _exit(join_run(runs[i % RUNS], RANKS_EACH - 1 - i / RUNS, pipes[i % RUNS][1]));
    }
    for (int i = 0; i < RUNS * RANKS_EACH; i++) {
        int st = 0;
        waitpid(pid[i], &st, 0);
        assert_true(WIFEXITED(st) && WEXITSTATUS(st) == 0);
    }
    for (int i = 0; i < RUNS; i++) {
        for (int r = 0; r < RANKS_EACH; r++) {
            uint64_t t;
            assert_int_equal(read(pipes[i][0], &t, sizeof t), sizeof t);
            if (r == 0) token[i] = t;
            assert_true(t == token[i]);
        }
        close(pipes[i][0]), close(pipes[i][1]);
    }
    assert_true(token[0] != token[1]);
}

/* Two runs whose first ports are the same (two jobs on a machine, by chance; two clusters that both have a job 1), and a port that
 * belongs to a program which never answers. */
static void test_ports_in_use(void **state)
{
    (void)state;
    runs[0] = 1234567;
    runs[1] = runs[0] + 1;
    while (dist_port(runs[1], 0) != dist_port(runs[0], 0)) runs[1]++;
    join_all();

    int port = dist_port(runs[0], 0), mute = ns_test_listen(&port); /* takes connections and never answers */
    assert_true(mute >= 0);
    join_all();
    close(mute);
}

static int join_taken(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    ns_world *w;
    char text[2048];
    o->listener = 0;
    o->join_s = 2;
    RANK_CHECK(ns_world_open(&w, o, &err) == NS_ERR_DEVICE);
    ns_error_text(&err, text, sizeof text);
    if (o->rank == 0) poll(NULL, 0, 2500); /* holds the port on */
    RANK_CHECK(strstr(text, o->rank ? "rank 0 of this run does not answer there: set MASTER_PORT"
                                    : "another run uses it: set MASTER_PORT"));
    return 0;
}

/* A port that was asked for is the only one tried. */
static void test_wanted_port_in_use(void **state)
{
    (void)state;
    int code[2]; /* ns_test_run_ranks holds the port in rank 0, which does not use it here */
    ns_test_run_ranks(2, join_taken, code);
    assert_true(code[0] == 0 && code[1] == 0);
}

/* ---- environment ---- */

static void clear(void)
{
    static const char *const names[] = {"NS_RANK",
                                        "NS_WORLD_SIZE",
                                        "NS_RENDEZVOUS_HOST",
                                        "NS_RENDEZVOUS_PORT",
                                        "RANK",
                                        "WORLD_SIZE",
                                        "MASTER_ADDR",
                                        "MASTER_PORT",
                                        "LOCAL_RANK",
                                        "LOCAL_WORLD_SIZE",
                                        "SLURM_PROCID",
                                        "SLURM_STEP_NUM_TASKS",
                                        "SLURM_STEP_NODELIST",
                                        "SLURM_LOCALID",
                                        "SLURM_TASKS_PER_NODE",
                                        "SLURM_JOB_ID",
                                        "SLURM_STEP_ID",
                                        "OMPI_COMM_WORLD_RANK",
                                        "OMPI_COMM_WORLD_SIZE",
                                        "OMPI_COMM_WORLD_LOCAL_RANK",
                                        "OMPI_COMM_WORLD_LOCAL_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
}

static void test_environment(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_world_options o;
    clear();
    assert_ns_ok(ns_world_from_env(&o, &err), &err);
    assert_true(o.size == 1 && o.rank == 0);

    setenv("SLURM_PROCID", "3", 1), setenv("SLURM_STEP_NUM_TASKS", "4", 1), setenv("SLURM_LOCALID", "1", 1);
    setenv("SLURM_STEP_NODELIST", "gpu-a[07-09,12]", 1), setenv("SLURM_TASKS_PER_NODE", "2(x2)", 1);
    setenv("SLURM_JOB_ID", "77", 1), setenv("SLURM_STEP_ID", "0", 1);
    assert_ns_ok(ns_world_from_env(&o, &err), &err);
    assert_string_equal(o.host, "gpu-a07");
    assert_true(o.rank == 3 && o.size == 4 && o.local_rank == 1 && o.local_size == 2 && o.port >= 20000);
    assert_string_equal(o.started_by, "srun");
    unsetenv("SLURM_STEP_NUM_TASKS");
    assert_ns_fails(ns_world_from_env(&o, &err), NS_ERR_CONFIG, "SLURM_STEP_NUM_TASKS is not set", &err);

    clear();
    setenv("RANK", "0", 1);
    assert_ns_fails(ns_world_from_env(&o, &err), NS_ERR_CONFIG, "WORLD_SIZE is not set", &err);
    clear();
    setenv("WORLD_SIZE", "2", 1);
    assert_ns_fails(ns_world_from_env(&o, &err), NS_ERR_CONFIG, "RANK is not set", &err);
    setenv("RANK", "5", 1), setenv("WORLD_SIZE", "4", 1);
    assert_ns_fails(ns_world_from_env(&o, &err), NS_ERR_CONFIG, "RANK is 5 but WORLD_SIZE is 4", &err);
    setenv("WORLD_SIZE", "many", 1);
    assert_ns_fails(ns_world_from_env(&o, &err), NS_ERR_CONFIG, "WORLD_SIZE is 'many'", &err);
    setenv("WORLD_SIZE", "8", 1), setenv("LOCAL_WORLD_SIZE", "4", 1);
    assert_ns_fails(ns_world_from_env(&o, &err), NS_ERR_CONFIG, "set MASTER_ADDR", &err);
    setenv("MASTER_ADDR", "node1", 1), setenv("MASTER_PORT", "29500", 1);
    assert_ns_ok(ns_world_from_env(&o, &err), &err);
    assert_true(!strcmp(o.host, "node1") && o.port == 29500);
    clear();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ports_in_use),
        cmocka_unit_test(test_wanted_port_in_use),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_join_refused),
        cmocka_unit_test(test_death),
        cmocka_unit_test(test_hang),
        cmocka_unit_test(test_hang_on_a_device),
        cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_failure_is_passed_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
