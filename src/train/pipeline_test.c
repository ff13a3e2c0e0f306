/* The order of a pipeline without a model: forwards and backwards are numbers that pass through the stages. Every stage has the
 * right value for every micro-batch, backwards in order, no more in flight than planned; a dead or hung stage is named. */
#include "train/pipeline.h"

#include <poll.h>
#include <string.h>

#include "dist/dist_testing.h"

enum { C = 4, MOST_ROWS = 40, MOST_MICRO = 9 };

typedef struct stage {
    ns_world *world;
    ns_comm comm;
    ns_engine engine;
    ns_stages run;
    ns_block_acts acts[8];
    float in[8][MOST_ROWS * C], out[MOST_ROWS * C], grad[MOST_ROWS * C];
    int64_t rows[MOST_MICRO], entered, n_forward, n_backward;
    int in_flight, most_in_flight;
    int victim; /* this stage stops in the backward of micro-batch 1: 1 dies, 2 hangs */
} stage;

static int64_t rows_of(int64_t i)
{
    return 1 + i * 7 % MOST_ROWS; /* every micro-batch has its own size */
}

static ns_status enter(void *user, int64_t i, ns_error *err)
{
    stage *s = user;
    (void)err;
    s->entered = i;
    s->engine.model.Ts = rows_of(i);
    return NS_OK;
}

/* The first stage makes 1000 i; each stage adds one. */
static ns_status forward(void *user, int64_t i, int slot, ns_error *err)
{
    stage *s = user;
    (void)err;
    RANK_CHECK(s->entered == i && i == s->n_forward++);
    if (++s->in_flight > s->most_in_flight) s->most_in_flight = s->in_flight;
    for (int64_t k = 0; k < rows_of(i) * C; k++) {
        if (s->comm.rank == 0) s->in[slot][k] = (float)(1000 * i + k);
        RANK_CHECK(s->in[slot][k] == (float)(1000 * i + k + s->comm.rank));
        s->out[k] = s->in[slot][k] + 1;
    }
    return NS_OK;
}

/* The last stage sends -i back; each stage subtracts one. What it saved in the forward must still be there. */
static ns_status backward(void *user, int64_t i, int slot, ns_error *err)
{
    stage *s = user;
    (void)err;
    RANK_CHECK(s->entered == i && i == s->n_backward++);
    ns_world_note(s->world, 1, "backward");
    if (i == 1 && s->victim == 1) {
        poll(NULL, 0, 1100); /* a heartbeat carries the step */
        _exit(9);
    }
    if (i == 1 && s->victim == 2) sleep(5);
    s->in_flight--;
    for (int64_t k = 0; k < rows_of(i) * C; k++) {
        RANK_CHECK(s->in[slot][k] == (float)(1000 * i + k + s->comm.rank));
        if (s->comm.rank == s->comm.size - 1) s->grad[k] = (float)-i;
        RANK_CHECK(s->grad[k] == (float)(-i - (s->comm.size - 1 - s->comm.rank)));
        s->grad[k] -= 1;
    }
    return NS_OK;
}

static void open_stage(stage *s, ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    int ranks[8];
    memset(s, 0, sizeof *s);
    for (int r = 0; r < o->size; r++) ranks[r] = r;
    RANK_OK(ns_world_open(&s->world, o, &err), &err);
    RANK_OK(ns_comm_open(&s->comm, s->world, ranks, o->size, &err), &err);
    for (int i = 0; i < 8; i++) s->acts[i].h0 = s->in[i];
    s->engine.arch.C = C;
    s->engine.opt.dt = NS_DTYPE_F32;
    s->engine.model.acts = s->acts;
    s->engine.model.n_layers = 1;
    s->engine.model.hL = s->out;
    s->engine.model.dh = s->grad;
    s->run = (ns_stages){.comm = &s->comm,
                         .engine = &s->engine,
                         .rows = s->rows,
                         .user = s,
                         .enter = enter,
                         .forward = forward,
                         .backward = backward};
}

static int one_rank(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    stage *s = malloc(sizeof *s);
    open_stage(s, o);
    for (int n = 0; n <= MOST_MICRO; n++) {
        s->n_forward = s->n_backward = s->in_flight = s->most_in_flight = 0;
        s->entered = -1;
        RANK_OK(ns_stages_run(&s->run, n, &err), &err);
        RANK_CHECK(s->n_forward == n && s->n_backward == n);
        RANK_CHECK(n == 0 || s->most_in_flight == ns_stages_slots(o->rank, o->size, n));
        s->run.backward = NULL; /* validation */
        s->n_forward = 0;
        RANK_OK(ns_stages_run(&s->run, n, &err), &err);
        RANK_CHECK(s->n_forward == n);
        s->run.backward = backward;
    }
    /* each micro-batch crosses each border twice, once in validation */
    uint64_t bytes = 0, borders = (o->rank > 0) + 2 * (o->rank < o->size - 1);
    for (int m = 0; m <= MOST_MICRO; m++)
        for (int i = 0; i < m; i++) bytes += (uint64_t)rows_of(i) * C * 4;
    RANK_CHECK(s->comm.sent[NS_COMM_SEND] == bytes * borders);
    ns_comm_close(&s->comm);
    ns_world_close(&s->world);
    free(s);
    return 0;
}

static void test_order(void **state)
{
    (void)state;
    for (int n = 1; n <= 4; n++) {
        int code[4];
        ns_test_run_ranks(n, one_rank, code);
        for (int r = 0; r < n; r++) assert_int_equal(code[r], 0);
    }
}

static int how;
static const char *expect;

static int lost_rank(ns_world_options *o)
{
    ns_error err = NS_ERROR_INIT;
    stage *s = malloc(sizeof *s);
    char text[2048];
    o->hang_s = 2;
    open_stage(s, o);
    s->victim = o->rank == 1 ? how : 0;
    s->entered = -1;
    if (ns_stages_run(&s->run, 5, &err) == NS_OK) return 3;
    ns_error_text(&err, text, sizeof text);
    if (!strstr(text, "rank 1 (") || !strstr(text, expect) || !strstr(text, "at step 1 in backward")) {
        fprintf(stderr, "rank %d: '%s' lacks '%s'\n", o->rank, text, expect);
        return 2;
    }
    return err.code == NS_ERR_DEVICE ? 0 : 4;
}

static void test_lost(void **state)
{
    (void)state;
    for (how = 1; how <= 2; how++) {
        int code[3];
        expect = how == 1 ? "died" : "hangs: no progress";
        ns_test_run_ranks(3, lost_rank, code);
        assert_int_equal(code[0], 0);
        assert_int_equal(code[2], 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order), cmocka_unit_test(test_lost)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
