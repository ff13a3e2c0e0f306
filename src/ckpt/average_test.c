/* Averages against sums done here, the forms of --steps, what is refused and what the report says. */
#include <errno.h>

#include "base/log.h"
#include "ckpt/ckpt_testing.h"

static char root[256], dir[300], out[300];
static tiny model;

static void save(int64_t step, double val_loss, int top_k, int named)
{
    ns_error err = NS_ERROR_INIT;
    ns_ckpt_state s = {
        .step = step, .consumed_samples = step * 4, .val_loss = val_loss, .data_hash = "0123456789abcdef"};
    char name[64];
    snprintf(name, sizeof name, "sft--step=%lld", (long long)step);
    model.version = (int)step;
    ns_ckpt_save_args a = {.dir = dir,
                           .name = name,
                           .keep_named = named,
                           .table = &model.table,
                           .dt = NS_DTYPE_BF16,
                           .get_model = tiny_get,
                           .get_opt = tiny_get_opt,
                           .user = &model,
                           .state = &s,
                           .save_top_k = top_k,
                           .keep_optimizer = 1};
    assert_ns_ok(ns_ckpt_save(&a, &err), &err);
}

static void fresh(void)
{
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
    assert_ns_ok(ns_remove_tree(out, &err), &err);
    assert_ns_ok(ns_mkdirs(dir, &err), &err);
}

typedef struct mean_check {
    const int *steps;
    int n, seen;
} mean_check;

/* f32 sum in order of step, one division, one rounding to bf16. */
static ns_status compare(void *user, int param, const float *data, ns_error *err)
{
    mean_check *c = user;
    tiny m = model;
    (void)err;
    c->seen++;
    for (int64_t i = 0; i < model.table.params[param].rows * model.table.params[param].cols; i++) {
        float sum = 0;
        for (int k = 0; k < c->n; k++) {
            m.version = c->steps[k];
            sum += ns_bf16_to_f32(ns_f32_to_bf16(tiny_value(&m, 0, param, i)));
        }
        assert_true(data[i] == ns_bf16_to_f32(ns_f32_to_bf16(sum / (float)c->n)));
    }
    return NS_OK;
}

static void check(const char *which, const int *steps, int n)
{
    ns_error err = NS_ERROR_INIT;
    ns_average_report r;
    static const char *const layouts[] = {"torch_dist", "zarr", NULL}; /* NeMo folders, and last a Hugging Face one */
    for (int k = 0; k < 3; k++) {
        assert_ns_ok(ns_remove_tree(out, &err), &err);
        assert_ns_ok(ns_average_to(dir, which, out, layouts[k], &r, &err), &err);
        assert_int_equal(r.n_used, n);
        for (int i = 0; i < n; i++) assert_int_equal(r.steps_used[i], steps[i]);
        mean_check c = {steps, n, 0};
        assert_ns_ok(ns_model_read(out, &model.table, compare, &c, &err), &err);
        assert_int_equal(c.seen, model.table.n_params);
        assert_int_equal(ns_dir_is_done(out, 1, &err), 1);
    }
}

/* Foreign folders: the same values as a NeMo checkpoint without configuration, and as Hugging Face folders checkpoint-N. */
static void of_others(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    ns_average_report r;
    char others[330], from[600], to[500], base[400], scratch[400];
    static const int use[] = {10, 20, 40};
    fresh();
    snprintf(others, sizeof others, "%s/others", root);
    snprintf(base, sizeof base, "%s/base", root);
    for (int kind = 0; kind < 3; kind++) {
        assert_ns_ok(ns_remove_tree(others, &err), &err);
        assert_ns_ok(ns_mkdirs(others, &err), &err);
        for (int i = 0; i < 3; i++) {
            assert_ns_ok(ns_remove_tree(dir, &err), &err);
            assert_ns_ok(ns_mkdirs(dir, &err), &err);
            save(use[i], 0.5, -1, 1);
            snprintf(from, sizeof from, "%s/sft--step=%d", dir, use[i]);
            if (kind)
                snprintf(to, sizeof to, "%s/gpt--val_loss=0.300-step=%d-epoch=3", others, use[i]);
            else
                snprintf(to, sizeof to, "%s/checkpoint-%d", others, use[i]);
            if (!kind) {
                assert_int_equal(rename(from, to), 0);
                snprintf(from, sizeof from, "%s/state.json", to); /* no longer one of ours */
                assert_int_equal(unlink(from), 0);
                continue;
            }
            assert_ns_ok(ns_remove_tree(base, &err), &err);
            assert_ns_ok(ns_average_to(dir, "all", base, kind == 1 ? "torch_dist" : "zarr", &r, &err), &err);
            snprintf(scratch, sizeof scratch, "%s/scratch", root);
            assert_ns_ok(ns_remove_tree(scratch, &err), &err);
            assert_ns_ok(ns_average_to(dir, "all", scratch, kind == 1 ? "torch_dist" : "zarr", &r, &err), &err);
            snprintf(from, sizeof from, "%s/model_weights", scratch);
            assert_int_equal(rename(from, to), 0); /* as NeMo's training leaves it: weights alone */
        }
        ns_average_args a = {others, "all", out, NULL, 0, kind ? base : NULL};
        assert_ns_ok(ns_remove_tree(out, &err), &err);
        if (kind) {
            a.model = NULL;
            assert_ns_fails(ns_average_models(&a, &r, &err), NS_ERR_INPUT, "model_config.yaml is missing", &err);
            a.model = base;
        }
        assert_ns_ok(ns_average_models(&a, &r, &err), &err);
        assert_int_equal(r.n_used, 3);
        mean_check c = {use, 3, 0};
        assert_ns_ok(ns_model_read(out, &model.table, compare, &c, &err), &err);
        assert_int_equal(c.seen, model.table.n_params);
        a.which = "20-40";
        assert_ns_ok(ns_remove_tree(out, &err), &err);
        assert_ns_ok(ns_average_models(&a, &r, &err), &err);
        mean_check d = {use + 1, 2, 0};
        assert_ns_ok(ns_model_read(out, &model.table, compare, &d, &err), &err);
        a.which = "30";
        assert_ns_ok(ns_remove_tree(out, &err), &err);
        assert_ns_fails(ns_average_models(&a, &r, &err), NS_ERR_INPUT, "there are: 10, 20, 40", &err);
        if (kind < 2) continue;
        snprintf(to, sizeof to, "%s/gpt--val_loss=0.300-step=20-epoch=3/model.embedding.word_embeddings.weight/0.0",
                 others);
        assert_int_equal(unlink(to), 0);
        a.which = "all";
        assert_ns_fails(ns_average_models(&a, &r, &err), NS_ERR_INPUT, "it is not complete", &err);
    }
    assert_ns_ok(ns_remove_tree(others, &err), &err);
    assert_ns_ok(ns_remove_tree(base, &err), &err);
    assert_ns_ok(ns_remove_tree(scratch, &err), &err);
}

static ns_status compare_ema(void *user, int param, const float *data, ns_error *err)
{
    mean_check *c = user;
    tiny m = model;
    (void)err;
    c->seen++;
    for (int64_t i = 0; i < model.table.params[param].rows * model.table.params[param].cols; i++) {
        double e = 0;
        for (int k = 0; k < c->n; k++) {
            m.version = c->steps[k];
            double x = (double)ns_bf16_to_f32(ns_f32_to_bf16(tiny_value(&m, 0, param, i)));
            e = k ? 0.9 * e + 0.1 * x : x;
        }
        assert_true(fabs((double)data[i] - e) <= e / 256);                                 /* one rounding to bf16 */
        assert_true(fabs((double)data[i] - (double)tiny_value(&m, 0, param, i)) > e / 50); /* not the last one */
    }
    return NS_OK;
}

static void exponential(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    ns_average_report r;
    fresh();
    save(10, 0.3, -1, 1);
    save(20, 0.3, -1, 1);
    save(40, 0.3, -1, 1);
    ns_average_args a = {dir, "all", out, NULL, 0.9, NULL};
    assert_ns_ok(ns_average_models(&a, &r, &err), &err);
    mean_check c = {(int[]){10, 20, 40}, 3, 0};
    assert_ns_ok(ns_model_read(out, &model.table, compare_ema, &c, &err), &err);
    assert_int_equal(c.seen, model.table.n_params);
    assert_ns_ok(ns_remove_tree(out, &err), &err);
    a.ema = 1;
    assert_ns_fails(ns_average_models(&a, &r, &err), NS_ERR_CONFIG, "decay", &err);
}

static void steps(void **unused)
{
    (void)unused;
    fresh();
    save(1000, 0.3, -1, 1);
    save(10000, 0.2, -1, 1);
    save(2000, 0.2, -1, 1);
    save(500, 0.5, -1, 1);
    check("all", (int[]){500, 1000, 2000, 10000}, 4); /* -last is not counted twice; order is by number */
    check(NULL, (int[]){500, 1000, 2000, 10000}, 4);
    check("1000", (int[]){1000}, 1); /* and not 10000 */
    check("2000,1000,2000", (int[]){1000, 2000}, 2);
    check("1000-5000", (int[]){1000, 2000}, 2);
    check("500,1000-2000", (int[]){500, 1000, 2000}, 3);
    check("last", (int[]){10000}, 1);
    check("last:1", (int[]){10000}, 1);
    check("last:3", (int[]){1000, 2000, 10000}, 3);
}

static void forced_last(void **unused)
{
    (void)unused;
    fresh();
    save(10, 0.3, -1, 1);
    save(20, 0.2, -1, 1);
    save(25, 0.2, -1, 0); /* time limit: -last only */
    check("all", (int[]){10, 20}, 2);
    check("last", (int[]){25}, 1);
    check("last:2", (int[]){10, 20}, 2);
}

static void refusals(void **unused)
{
    (void)unused;
    static const struct {
        const char *which;
        ns_status st;
        const char *needle;
    } bad[] = {
        {"30", NS_ERR_INPUT, "no checkpoint of step 30; there are: 20, 40 (evicted by save_top_k: 10, 30)"},
        {"20,31", NS_ERR_INPUT, "no checkpoint of step 31"},
        {"50-60", NS_ERR_INPUT, "no checkpoint in \"50-60\"; there are: 20, 40"},
        {"last:3", NS_ERR_INPUT, "needs 3 checkpoints; there are: 20, 40"},
        {"last:0", NS_ERR_CONFIG, "last:N"},
        {"last:x", NS_ERR_CONFIG, "last:N"},
        {"abc", NS_ERR_CONFIG, "expected all, last"},
        {"20,", NS_ERR_CONFIG, "expected all, last"},
        {"40-20", NS_ERR_CONFIG, "expected all, last"},
        {"-20", NS_ERR_CONFIG, "expected all, last"},
        {"20x", NS_ERR_CONFIG, "expected all, last"},
        {"99999999999999999999", NS_ERR_CONFIG, "expected all, last"},
    };
    ns_error err = NS_ERROR_INIT;
    ns_average_report r;
    fresh();
    save(10, 0.9, 2, 1);
    save(20, 0.2, 2, 1);
    save(30, 0.8, 2, 1);
    save(40, 0.3, 2, 1);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_ns_fails(ns_average(dir, bad[i].which, out, &r, &err), bad[i].st, bad[i].needle, &err);
        assert_false(ns_path_exists(out));
    }
    check("all", (int[]){20, 40}, 2);
    assert_ns_fails(ns_average(dir, "all", out, &r, &err), NS_ERR_INPUT, "exists already", &err);
    assert_ns_ok(ns_remove_tree(out, &err), &err);
    assert_ns_ok(ns_average(dir, "all", out, &r, &err), &err);
    assert_int_equal(r.n_evicted, 2);
    assert_int_equal(r.steps_evicted[0], 10);
    assert_int_equal(r.steps_evicted[1], 30);
    assert_ns_fails(ns_average(out, "all", "/nonexistent/x", &r, &err), NS_ERR_INPUT, "there are: none", &err);
    assert_ns_fails(ns_average("/nonexistent", "all", out, &r, &err), NS_ERR_INPUT, "no such folder", &err);
}

static void unfinished_and_damaged(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    ns_average_report r;
    char path[800];
    fresh();
    save(10, 0.9, -1, 1);
    save(20, 0.2, -1, 1);
    save(30, 0.2, -1, 1);
    snprintf(path, sizeof path, "%s/sft--step=20/DONE", dir);
    assert_int_equal(unlink(path), 0);
    check("all", (int[]){10, 30}, 2);
    snprintf(path, sizeof path, "%s/sft--step=30/model.safetensors", dir);
    ns_st_writer *w;
    struct stat sb;
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(truncate(path, sb.st_size - 1), 0);
    check("all", (int[]){10}, 1); /* DONE knows the size */
    char other[900];
    snprintf(other, sizeof other, "%s/alone/sft--step=30", root);
    snprintf(path, sizeof path, "%s/alone", root);
    assert_ns_ok(ns_mkdirs(path, &err), &err);
    snprintf(path, sizeof path, "%s/sft--step=30", dir);
    assert_int_equal(rename(path, other),
                     0); /* nothing but one of ours that is not complete: not taken for one of others */
    snprintf(path, sizeof path, "%s/alone", root);
    assert_ns_ok(ns_remove_tree(out, &err), &err);
    assert_ns_fails(ns_average(path, "all", out, &r, &err), NS_ERR_INPUT, "there are: none", &err);
    snprintf(path, sizeof path, "%s/sft--step=30", dir);
    assert_int_equal(rename(other, path), 0);
    snprintf(path, sizeof path, "%s/sft--step=30", dir); /* complete by its DONE, but without tensors */
    assert_ns_ok(ns_st_writer_new(&w, path, "model", 0, &err), &err);
    assert_ns_ok(ns_st_writer_close(&w, &err), &err);
    snprintf(path, sizeof path, "%s/sft--step=30/DONE", dir);
    assert_ns_ok(ns_file_replace(path, "ns-done 1 crc32c\nend 0\n", 23, &err), &err);
    assert_ns_ok(ns_remove_tree(out, &err), &err);
    assert_ns_fails(ns_average(dir, "all", out, &r, &err), NS_ERR_MISMATCH, "step 30: read model: ", &err);
    assert_false(ns_path_exists(out));
}

static void faults(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    char tmp[400];
    fresh();
    save(10, 0.9, -1, 1);
    save(20, 0.2, -1, 1);
    snprintf(tmp, sizeof tmp, "%s/.mean.tmp", root);
    uint64_t live = ns_mem_get_stats().bytes_now;
    for (int kind = 0; kind < 2; kind++) {
        for (uint64_t n = 1;; n++) {
            ns_error e = NS_ERROR_INIT;
            assert_ns_ok(ns_remove_tree(out, &err), &err);
            if (kind) {
                ns_mem_fail_at(n, 0);
            } else {
                ns_sys_fail_at("write", n, ENOSPC);
            }
            ns_status st = ns_average(dir, "all", out, NULL, &e);
            int hit = kind ? ns_mem_fault_hit() : ns_sys_fault_hit();
            ns_mem_fail_at(0, 0);
            ns_sys_fail_at(NULL, 0, 0);
            assert_int_equal(ns_path_exists(out), st == NS_OK);
            assert_false(ns_path_exists(tmp));
            assert_int_equal(ns_mem_get_stats().bytes_now, live);
            if (!hit) break;
        }
    }
}

static int setup(void **unused)
{
    (void)unused;
    struct stat sb;
    if (stat("/dev/shm", &sb) == 0 && access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0); /* many fsyncs */
    ns_test_tmpdir(root, sizeof root);
    snprintf(dir, sizeof dir, "%s/checkpoints", root);
    snprintf(out, sizeof out, "%s/mean", root);
    tiny_new(&model, NS_FAMILY_QWEN2, 1);
    ns_log_set_level(NS_LOG_ERROR);
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    ns_arena_free(&model.arena);
    return ns_remove_tree(root, NULL) == NS_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps),     cmocka_unit_test(forced_last),
        cmocka_unit_test(refusals),  cmocka_unit_test(unfinished_and_damaged),
        cmocka_unit_test(of_others), cmocka_unit_test(exponential),
        cmocka_unit_test(faults),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
