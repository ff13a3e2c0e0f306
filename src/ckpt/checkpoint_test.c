/* Checkpoints saved and loaded bit for bit, the order of things on disk, eviction and its record, names, state.json; then the
 * faults: every system call of a save fails in turn, the process dies at every system call, and dies by SIGKILL at
 * random moments. After each, ns_ckpt_find_last must give the old or the new complete checkpoint, never neither. */
#include "ckpt/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "base/log.h"
#include "ckpt/ckpt_testing.h"
#include "ckpt/saver.h"
#include "ckpt/scan.h"

static char root[256], dir[300];
static tiny model;

static const char *at(const char *name)
{
    static char path[8][800];
    static int turn;
    char *p = path[turn++ % 8];
    snprintf(p, 800, "%s/%s", dir, name);
    return p;
}

static ns_ckpt_state state_of(int64_t step, double val_loss)
{
    ns_ckpt_state s = {.step = step,
                       .consumed_samples = step * 512,
                       .epoch = step / 100,
                       .seed = 0xfedcba9876543210u,
                       .schedule_max_steps = 5000,
                       .warmup_steps = 10,
                       .constant_steps = 3,
                       .lr = 1.1e-5,
                       .min_lr = 0.1,
                       .n_rows = 777,
                       .data_hash = "0123456789abcdef",
                       .val_loss = val_loss};
    return s;
}

static int beside; /* 1: by a thread of its own (saver.h) */

static ns_status save_beside(const ns_ckpt_save_args *a, ns_error *err)
{
    ns_ckpt_saver *s = NULL;
    int ended = 0;
    double seconds = 0;
    NS_TRY(ns_ckpt_saver_new(&s, err), "%s", "saver");
    ns_status st = ns_ckpt_saver_start(s, a, err);
    assert_int_equal(ns_ckpt_saver_busy(s), st == NS_OK);
    if (st == NS_OK) st = ns_ckpt_saver_end(s, 1, &ended, &seconds, err);
    assert_false(ns_ckpt_saver_busy(s));
    ns_ckpt_saver_free(&s);
    return st;
}

/* Saves step `step`; the values on disk tell the step (tiny.version). */
static ns_status save(int64_t step, double val_loss, int top_k, int keep_opt, int named, ns_error *err)
{
    static const char pattern[] = "sft--{val_loss:.3f}-{step}-{consumed_samples}-{epoch}";
    ns_ckpt_state s = state_of(step, val_loss);
    ns_buf name = {0};
    model.version = (int)step;
    s.forced = !named;
    ns_status st = ns_ckpt_format_name(&name, pattern, &s, err);
    ns_ckpt_save_args a = {.dir = dir,
                           .name = name.data,
                           .keep_named = named,
                           .table = &model.table,
                           .dt = NS_DTYPE_BF16,
                           .get_model = tiny_get,
                           .get_opt = tiny_get_opt,
                           .user = &model,
                           .state = &s,
                           .save_top_k = top_k,
                           .keep_optimizer = keep_opt};
    if (st == NS_OK) st = beside ? save_beside(&a, err) : ns_ckpt_save(&a, err);
    ns_buf_free(&name);
    return st;
}

static void fresh(void)
{
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
    assert_ns_ok(ns_mkdirs(dir, &err), &err);
}

/* Loads a checkpoint completely and compares every bit with what step `step` saved. Returns the step it holds. */
static int64_t check_content(const char *path)
{
    ns_error err = NS_ERROR_INIT;
    ns_ckpt_state s;
    assert_int_equal(ns_dir_is_done(path, 1, &err), 1);
    assert_ns_ok(ns_ckpt_read_state(&s, path, &err), &err);
    tiny was = model;
    was.version = (int)s.step;
    tiny_check c = {&was, 0, 0};
    assert_ns_ok(ns_ckpt_load(path, &was.table, tiny_put_opt, &c, NULL, &err), &err);
    assert_int_equal(c.seen, was.table.n_params);
    c = (tiny_check){&was, 0, 1};
    assert_ns_ok(ns_model_read(path, &was.table, tiny_put, &c, &err), &err);
    assert_int_equal(c.seen, was.table.n_params);
    return s.step;
}

/* Number of entries of dir that end in `suffix` ("" counts all). */
static int count(const char *suffix)
{
    DIR *d = opendir(dir);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        size_t a = strlen(e->d_name), b = strlen(suffix);
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        n += a >= b && strcmp(e->d_name + a - b, suffix) == 0;
    }
    closedir(d);
    return n;
}

static void save_and_load(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    ns_ckpt_state s;
    char last[1024];
    struct stat a, b;
    fresh();
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    assert_string_equal(last, "");
    assert_ns_ok(save(100, 0.4121, -1, 5, 1, &err), &err);
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    assert_string_equal(last, at("sft--val_loss=0.412-step=100-consumed_samples=51200-epoch=1-last"));
    assert_int_equal(check_content(last), 100);
    assert_int_equal(check_content(at("sft--val_loss=0.412-step=100-consumed_samples=51200-epoch=1")), 100);
    assert_ns_ok(ns_ckpt_read_state(&s, last, &err), &err);
    ns_ckpt_state want = state_of(100, 0.4121);
    assert_memory_equal(&s, &want, sizeof s);
    /* the copy costs no space */
    assert_int_equal(stat(at("sft--val_loss=0.412-step=100-consumed_samples=51200-epoch=1-last/model.safetensors"), &a),
                     0);
    assert_int_equal(stat(at("sft--val_loss=0.412-step=100-consumed_samples=51200-epoch=1/model.safetensors"), &b), 0);
    assert_int_equal(a.st_ino, b.st_ino);
    assert_ns_ok(save(200, NAN, -1, 5, 1, &err), &err);
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    assert_int_equal(check_content(last), 200);
    assert_int_equal(count("-last"), 1); /* the older -last is gone, the named one is not */
    assert_int_equal(count(""), 3);
    assert_ns_ok(ns_ckpt_read_state(&s, last, &err), &err);
    assert_true(isnan(s.val_loss));
    /* the same step again (a run resumed from before it): replaced, not doubled */
    assert_ns_ok(save(200, NAN, -1, 5, 1, &err), &err);
    assert_int_equal(count(""), 3);
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    assert_int_equal(check_content(last), 200);
    /* a folder that is not there has no checkpoint */
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, at("nowhere"), &err), &err);
    assert_string_equal(last, "");
}

static void forced_saves(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    char last[1024];
    ns_ckpt_state s;
    fresh();
    assert_ns_ok(save(100, 0.5, -1, 5, 1, &err), &err);
    assert_ns_ok(save(130, 0.5, -1, 5, 0, &err), &err);
    assert_int_equal(count("-last"), 1);
    assert_int_equal(count(""), 2);
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    assert_int_equal(check_content(last), 130);
    assert_ns_ok(ns_ckpt_read_state(&s, last, &err), &err);
    assert_int_equal(s.forced, 1);
    assert_ns_ok(save(200, 0.5, 0, 5, 1, &err), &err); /* top_k 0: -last only */
    assert_int_equal(count(""), 2);
}

/* step=N present? */
static int has(int64_t step)
{
    ns_error err = NS_ERROR_INIT;
    ns_arena arena = NS_ARENA_INIT("test");
    ns_ckpt_entry *e;
    size_t n;
    int found = 0;
    assert_ns_ok(ns_ckpt_scan(&e, &n, dir, &arena, &err), &err);
    for (size_t i = 0; i < n; i++) found |= !e[i].is_last && e[i].state.step == step;
    ns_arena_free(&arena);
    return found;
}

static void top_k(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    char last[1024];
    fresh();
    assert_ns_ok(save(1, 0.9, 3, 5, 1, &err), &err);
    assert_ns_ok(save(2, 0.3, 3, 5, 1, &err), &err);
    assert_ns_ok(save(3, 0.5, 3, 5, 1, &err), &err);
    assert_true(has(1) && has(2) && has(3));
    assert_false(ns_path_exists(at("evicted.json")));
    assert_ns_ok(save(4, 0.95, 3, 5, 1, &err), &err); /* the worst of all, but the newest: 1 goes */
    assert_true(!has(1) && has(2) && has(3) && has(4));
    assert_ns_ok(save(5, NAN, 3, 5, 1, &err), &err);
    assert_true(has(2) && has(3) && !has(4) && has(5));
    assert_ns_ok(save(6, 0.7, 3, 5, 1, &err), &err); /* no loss is the worst loss */
    assert_true(has(2) && has(3) && !has(5) && has(6));
    assert_ns_ok(save(7, 0.5, 2, 5, 1, &err), &err); /* a smaller k */
    assert_true(has(2) && !has(3) && !has(6) && has(7));
    ns_arena arena = NS_ARENA_INIT("test");
    ns_ckpt_evicted *e;
    size_t n;
    assert_ns_ok(ns_ckpt_evicted_read(&e, &n, dir, &arena, &err), &err);
    static const int64_t order[] = {1, 4, 5, 6, 3};
    assert_int_equal(n, 5);
    for (size_t i = 0; i < n; i++) assert_int_equal(e[i].step, order[i]);
    assert_true(e[0].val_loss == 0.9 && isnan(e[2].val_loss));
    ns_arena_free(&arena);
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    assert_int_equal(check_content(last), 7);
    assert_int_equal(count(""), 4); /* 2, 7, 7-last, evicted.json */
}

static void optimizer_of_the_newest(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    char last[1024];
    tiny_check c = {&model, 0, 1};
    fresh();
    for (int64_t s = 1; s <= 4; s++) assert_ns_ok(save(s, 0.5, -1, 2, 1, &err), &err);
    for (int64_t s = 1; s <= 4; s++) {
        char name[200];
        snprintf(name, sizeof name, "sft--val_loss=0.500-step=%d-consumed_samples=%d-epoch=0", (int)s, (int)s * 512);
        const char *path = at(name);
        assert_int_equal(ns_dir_is_done(path, 1, &err), 1); /* still complete by its own DONE */
        snprintf(name + strlen(name), sizeof name - strlen(name), "/optimizer");
        assert_int_equal(ns_path_exists(at(name)), s > 2);
        model.version = (int)s;
        c.seen = 0;
        assert_ns_ok(ns_model_read(path, &model.table, tiny_put, &c, &err), &err);
        if (s <= 2) {
            assert_ns_fails(ns_ckpt_load(path, &model.table, tiny_put_opt, &c, NULL, &err), NS_ERR_INPUT,
                            "has no optimiser state", &err);
        }
    }
    assert_ns_ok(save(5, 0.5, -1, 0, 1, &err), &err); /* none for named ones: -last keeps its own */
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    assert_int_equal(check_content(last), 5);
}

static void names(void **unused)
{
    (void)unused;
    static const struct {
        const char *pattern, *want;
    } good[] = {
        {"megatron_gpt_sft--{val_loss:.3f}-{step}-{consumed_samples}-{epoch}",
         "megatron_gpt_sft--val_loss=0.412-step=1000-consumed_samples=512000-epoch=10"},
        {"x", "x"},
        {"{step:06d}", "step=001000"},
        {"{val_loss:.2e}{lr}", "val_loss=4.12e-01lr=1.1e-05"},
        {"{global_step:g}", "global_step=1000"},
        {"{val_loss}", "val_loss=0.4121"},
    };
    static const struct {
        const char *pattern, *needle;
    } bad[] = {
        {"{val_los}", "unknown field {val_los}, did you mean val_loss"},
        {"{step", "has no '}'"},
        {"a/b", "'/' in \"a/b\" at byte 1"},
        {"a}", "'}'"},
        {"", "empty"},
        {".{step}", "hidden"},
        {"{step:s}", "format must look like"},
        {"{step:%n}", "format must look like"},
        {"{val_loss:d}", "format must look like"},
        {"{val_loss:1.2.3f}", "format must look like"},
        {"{val_loss:999999f}", "too long"},
    };
    ns_error err = NS_ERROR_INIT;
    ns_ckpt_state s = state_of(1000, 0.4121);
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        ns_buf b = {0};
        assert_ns_ok(ns_ckpt_format_name(&b, good[i].pattern, &s, &err), &err);
        assert_string_equal(b.data, good[i].want);
        ns_buf_free(&b);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ns_buf b = {0};
        assert_ns_fails(ns_ckpt_format_name(&b, bad[i].pattern, &s, &err), NS_ERR_CONFIG, bad[i].needle, &err);
        ns_buf_free(&b);
    }
    s.val_loss = NAN;
    ns_buf b = {0};
    assert_ns_ok(ns_ckpt_format_name(&b, "{val_loss:.3f}", &s, &err), &err);
    assert_string_equal(b.data, "val_loss=nan");
    ns_buf_free(&b);
}

/* ---- damage ---- */

static void rewrite(const char *path, const char *from, const char *to)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0}, out = {0};
    assert_ns_ok(ns_file_read(&b, path, &err), &err);
    char *p = strstr(b.data, from);
    assert_non_null(p);
    assert_ns_ok(ns_buf_add(&out, b.data, (size_t)(p - b.data), &err), &err);
    assert_ns_ok(ns_buf_adds(&out, to, &err), &err);
    assert_ns_ok(ns_buf_adds(&out, p + strlen(from), &err), &err);
    assert_ns_ok(ns_file_replace(path, out.data, out.len, &err), &err);
    ns_buf_free(&b);
    ns_buf_free(&out);
}

static void bad_state_and_index(void **unused)
{
    (void)unused;
    static const struct {
        const char *file, *from, *to;
        ns_status st;
        const char *needle;
    } bad[] = {
        {"state.json", "\"format\": 1", "\"format\": 2", NS_ERR_UNSUPPORTED, "checkpoint format 2"},
        {"state.json", "\"param_hash\": \"", "\"param_hash\": \"0", NS_ERR_INPUT, "\"param_hash\""},
        {"state.json", "\"step\": 5", "\"step\": 5.5", NS_ERR_INPUT, "\"step\" is missing or not an integer"},
        {"state.json", "\"n_rows\"", "\"rows\"", NS_ERR_INPUT, "\"data.n_rows\""},
        {"optimizer/index.json", "\"format\": 1", "\"format\": 3", NS_ERR_UNSUPPORTED, "format 3"},
        {"optimizer/index.json", "\"m/l1.o\"", "\"m/l1.x\"", NS_ERR_MISMATCH, "\"m/l1.o\" is missing"},
        {"optimizer/index.json", "\"main/embed\": [{\"off\": 0", "\"main/embed\": [{\"off\": 4", NS_ERR_MISMATCH,
         "covers [4,+88), expected it to begin at 0 and end by 88"},
        {"optimizer/index.json", "\"len\": 88", "\"len\": 99", NS_ERR_MISMATCH, "covers [0,+99)"},
        {"optimizer/index.json", "\"len\": 88", "\"len\": 80", NS_ERR_MISMATCH, "tensor \"main/embed@0:80\": missing"},
        {"optimizer/index.json", "rank00000.safetensors", "../../x", NS_ERR_INPUT, "must name a file of that folder"},
    };
    ns_error err = NS_ERROR_INIT;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char last[1024], path[1100];
        tiny_check c = {&model, 0, 0};
        fresh();
        assert_ns_ok(save(5, 0.5, 0, 5, 1, &err), &err);
        assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
        snprintf(path, sizeof path, "%s/%s", last, bad[i].file);
        rewrite(path, bad[i].from, bad[i].to);
        assert_ns_fails(ns_ckpt_load(last, &model.table, tiny_put_opt, &c, NULL, &err), bad[i].st, bad[i].needle, &err);
    }
}

static void another_model(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    char last[1024];
    tiny other;
    tiny_new(&other, NS_FAMILY_QWEN3, 0);
    tiny_check c = {&other, 0, 0};
    fresh();
    assert_ns_ok(save(5, 0.5, -1, 5, 1, &err), &err);
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    assert_ns_fails(ns_ckpt_load(last, &other.table, tiny_put_opt, &c, NULL, &err), NS_ERR_MISMATCH,
                    "other parameters (param_hash", &err);
    ns_arena_free(&other.arena);
}

/* Ranges written by several ranks, in several files. */
static void many_ranges(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    char last[1024], opt[1100], path[1200];
    fresh();
    assert_ns_ok(save(5, 0.5, 0, 5, 1, &err), &err);
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    snprintf(opt, sizeof opt, "%s/optimizer", last);
    float embed[88];
    for (int i = 0; i < 88; i++) embed[i] = tiny_value(&model, 0, 0, i);
    ns_st_writer *w;
    assert_ns_ok(ns_st_writer_new(&w, opt, "rank00001", 0, &err), &err);
    assert_ns_ok(ns_st_declare(w, "main/embed@30:50", NS_DTYPE_F32, (int64_t[]){50}, 1, &err), &err);
    assert_ns_ok(ns_st_write(w, embed + 30, 200, &err), &err);
    assert_ns_ok(ns_st_writer_close(&w, &err), &err);
    assert_ns_ok(ns_st_writer_new(&w, opt, "rank00002", 0, &err), &err);
    assert_ns_ok(ns_st_declare(w, "main/embed@80:8", NS_DTYPE_F32, (int64_t[]){8}, 1, &err), &err);
    assert_ns_ok(ns_st_declare(w, "main/embed@0:30", NS_DTYPE_F32, (int64_t[]){30}, 1, &err), &err);
    assert_ns_ok(ns_st_write(w, embed + 80, 32, &err), &err);
    assert_ns_ok(ns_st_write(w, embed, 120, &err), &err);
    assert_ns_ok(ns_st_writer_close(&w, &err), &err);
    snprintf(path, sizeof path, "%s/index.json", opt);
    rewrite(path, "[{\"off\": 0, \"len\": 88, \"file\": \"rank00000.safetensors\"}]",
            "[{\"off\": 0, \"len\": 30, \"file\": \"rank00002.safetensors\"}, {\"off\": 30, \"len\": 50, \"file\": "
            "\"rank00001.safetensors\"}, {\"off\": 80, \"len\": 8, \"file\": \"rank00002.safetensors\"}]");
    tiny_check c = {&model, 0, 0};
    assert_ns_ok(ns_ckpt_load(last, &model.table, tiny_put_opt, &c, NULL, &err), &err);
    assert_int_equal(c.seen, model.table.n_params);
}

static ns_status put_rounded(void *user, int param, const float *main, const float *m, const float *v, ns_error *err)
{
    tiny_check *c = user;
    (void)err;
    c->seen++;
    for (int64_t i = 0; i < c->m->table.params[param].rows * c->m->table.params[param].cols; i++) {
        assert_true(main[i] == ns_bf16_to_f32(ns_f32_to_bf16(tiny_value(c->m, 0, param, i))));
        assert_true(m[i] == tiny_value(c->m, 1, param, i));
        assert_true(v[i] == ns_bf16_to_f32(ns_f32_to_bf16(tiny_value(c->m, 2, param, i))));
    }
    return NS_OK;
}

/* State kept in bf16: the files say so, the reader gets its values and is told the types. */
static void states_in_bf16(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    char last[1024];
    ns_dtype found[3];
    ns_ckpt_state s = state_of(6, 0.5);
    fresh();
    model.version = 6;
    ns_ckpt_save_args a = {.dir = dir,
                           .name = "sft--step=6",
                           .keep_named = 1,
                           .table = &model.table,
                           .dt = NS_DTYPE_BF16,
                           .get_model = tiny_get,
                           .get_opt = tiny_get_opt,
                           .state_dt = {NS_DTYPE_BF16, NS_DTYPE_F32, NS_DTYPE_BF16},
                           .user = &model,
                           .state = &s,
                           .save_top_k = -1,
                           .keep_optimizer = 1};
    assert_ns_ok(ns_ckpt_save(&a, &err), &err);
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    tiny_check c = {&model, 0, 0};
    assert_ns_ok(ns_ckpt_load(last, &model.table, put_rounded, &c, found, &err), &err);
    assert_int_equal(c.seen, model.table.n_params);
    assert_memory_equal(found, a.state_dt, sizeof found);
}

static void left_overs(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    char last[1024];
    fresh();
    assert_ns_ok(save(5, 0.5, -1, 5, 1, &err), &err);
    assert_ns_ok(ns_mkdirs(at(".sft--step=6.tmp/optimizer"), &err), &err);
    assert_ns_ok(ns_mkdirs(at("half-last"), &err), &err);      /* no DONE: does not exist */
    assert_ns_ok(ns_mkdirs(at("somebody-elses"), &err), &err); /* not ours: stays */
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    assert_int_equal(check_content(last), 5);
    assert_int_equal(count(".tmp"), 0);
    assert_true(ns_path_exists(at("somebody-elses")));
    /* optimiser state being dropped: DONE was about to be replaced */
    char torn[1200];
    snprintf(torn, sizeof torn, "%s/DONE.tmp.4711.3", last);
    FILE *f = fopen(torn, "w");
    assert_non_null(f);
    fclose(f);
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    assert_false(ns_path_exists(torn));
    assert_int_equal(check_content(last), 5);
    /* a replacement that died between its two renames */
    char old[1100];
    snprintf(old, sizeof old, "%s/.%s.old", dir, strrchr(last, '/') + 1);
    assert_int_equal(rename(last, old), 0);
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    assert_int_equal(check_content(last), 5);
    assert_int_equal(count(".old"), 0);
}

/* ---- faults ---- */

/* What a start after the crash sees: exactly one of the two steps, complete. */
static int64_t after_crash(int64_t old, int64_t new)
{
    ns_error err = NS_ERROR_INIT;
    char last[1024];
    assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
    assert_true(last[0] != 0);
    int64_t step = check_content(last);
    assert_true(step == old || step == new);
    assert_int_equal(count(".tmp"), 0);
    return step;
}

/* Two named checkpoints; the next save of top_k 2 evicts one and drops optimiser state, so every kind of write happens. */
static void prepare_two(void)
{
    ns_error err = NS_ERROR_INIT;
    fresh();
    assert_ns_ok(save(1, 0.9, 2, 1, 1, &err), &err);
    assert_ns_ok(save(2, 0.8, 2, 1, 1, &err), &err);
}

static void every_call_fails(void **unused)
{
    (void)unused;
    static const char *const kinds[] = {"write", "fsync", "rename", "link", "open", "mkdir", "unlink"};
    int failed = 0;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        for (uint64_t n = 1;; n++) {
            ns_error err = NS_ERROR_INIT;
            prepare_two();
            ns_sys_fail_at(kinds[k], n, ENOSPC);
            ns_status st = save(3, 0.7, 2, 1, 1, &err);
            int hit = ns_sys_fault_hit();
            ns_sys_fail_at(NULL, 0, 0);
            int64_t step = after_crash(2, 3);
            if (st == NS_OK) assert_int_equal(step, 3);
            failed += st != NS_OK;
            ns_error again = NS_ERROR_INIT;
            assert_ns_ok(save(4, 0.6, 2, 1, 1, &again), &again); /* and the run goes on */
            assert_int_equal(after_crash(4, 4), 4);
            if (!hit) break;
        }
    }
    assert_true(failed > 50);
}

static void allocations_fail(void **unused)
{
    (void)unused;
    uint64_t live = ns_mem_get_stats().bytes_now;
    for (uint64_t n = 1;; n++) {
        ns_error err = NS_ERROR_INIT;
        prepare_two();
        ns_mem_fail_at(n, 0);
        ns_status st = save(3, 0.7, 2, 1, 1, &err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        assert_true(st == NS_OK || st == NS_ERR_MEMORY);
        assert_int_equal(after_crash(2, 3), st == NS_OK ? 3 : after_crash(2, 3));
        assert_int_equal(ns_mem_get_stats().bytes_now, live);
        if (!hit) break;
    }
}

static void dies_at_every_call(void **unused)
{
    (void)unused;
    int64_t before = 0, after = 0;
    for (uint64_t n = 1;; n += 1) {
        prepare_two();
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            ns_error err = NS_ERROR_INIT;
            ns_sys_fail_at(NULL, n, -77); /* exits there and then */
            _exit(save(3, 0.7, 2, 1, 1, &err) == NS_OK ? 0 : 1);
        }
        int status = 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        int64_t step = after_crash(2, 3);
        if (WEXITSTATUS(status) == 0) {
            assert_int_equal(step, 3);
            break;
        }
        assert_int_equal(WEXITSTATUS(status), 77);
        before += step == 2;
        after += step == 3;
    }
    assert_true(before > 20 && after > 10); /* both sides of the publication were hit */
}

static void killed_at_random(void **unused)
{
    (void)unused;
    int rounds = getenv("NS_FULL") ? 200 : 25;
    unsigned rnd = 12345;
    prepare_two();
    /* kills fall within the first few saves, however slow a sanitizer or a busy machine makes them */
    struct timespec t0, t1;
    ns_error timing = NS_ERROR_INIT;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    assert_ns_ok(save(3, 0.7, 2, 1, 1, &timing), &timing);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    double window = 4 * ((double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec));
    if (window < 0.04) window = 0.04;
    if (window > 2) window = 2;
    const int64_t begin = 3;
    int64_t first = begin;
    for (int i = 0; i < rounds; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            ns_error err = NS_ERROR_INIT;
            for (int64_t s = first + 1;; s++) {
                if (save(s, 1.0 / (double)(s % 7 + 1), 2, 1, s % 5 != 0, &err) != NS_OK) _exit(1);
            }
        }
        rnd = rnd * 1103515245u + 12345u;
        double wait = 0.001 + window * (rnd / 65536 % 4096) / 4096.0;
        struct timespec t = {(time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9)};
        nanosleep(&t, NULL);
        kill(pid, SIGKILL);
        int status = 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        ns_error err = NS_ERROR_INIT;
        char last[1024];
        assert_ns_ok(ns_ckpt_find_last(last, sizeof last, dir, &err), &err);
        assert_true(last[0] != 0);
        int64_t step = check_content(last);
        assert_true(step >= first);
        first = step;
    }
    assert_true(first > begin);
}

/* The same faults and kills when another thread writes. */
static void beside_the_caller(void **unused)
{
    beside = 1;
    save_and_load(unused);
    every_call_fails(unused);
    allocations_fail(unused);
    dies_at_every_call(unused);
    killed_at_random(unused);
    beside = 0;
}

/* A save goes on while the caller does something else; its failure is told once, at the end, and the checkpoint before it stays. */
static void failure_is_told_at_the_end(void **unused)
{
    (void)unused;
    ns_error err = NS_ERROR_INIT;
    ns_ckpt_saver *s = NULL;
    ns_ckpt_state state = state_of(3, 0.7);
    int ended = 7;
    double seconds = -1;
    prepare_two();
    assert_ns_ok(ns_ckpt_saver_new(&s, &err), &err);
    assert_ns_ok(ns_ckpt_saver_end(s, 1, &ended, &seconds, &err), &err); /* none under way */
    assert_int_equal(ended, 0);
    ns_ckpt_save_args a = {.dir = dir,
                           .name = "sft--step=3",
                           .keep_named = 1,
                           .table = &model.table,
                           .dt = NS_DTYPE_BF16,
                           .get_model = tiny_get,
                           .get_opt = tiny_get_opt,
                           .user = &model,
                           .state = &state,
                           .save_top_k = 2,
                           .keep_optimizer = 1};
    ns_sys_fail_at("fsync", 2, ENOSPC);
    assert_ns_ok(ns_ckpt_saver_start(s, &a, &err), &err);
    state.step = 99; /* the caller goes on */
    assert_ns_fails(ns_ckpt_saver_end(s, 1, &ended, &seconds, &err), NS_ERR_IO, "save checkpoint", &err);
    ns_sys_fail_at(NULL, 0, 0);
    assert_int_equal(ended, 1);
    assert_true(seconds >= 0);
    assert_int_equal(after_crash(2, 2), 2);
    ns_error none = NS_ERROR_INIT;
    assert_ns_ok(ns_ckpt_saver_end(s, 1, &ended, &seconds, &none), &none);
    assert_int_equal(ended, 0);
    ns_ckpt_saver_free(&s);
}

static int setup(void **unused)
{
    (void)unused;
    struct stat sb; /* thousands of fsyncs: in memory if there is such a place (a killed process is no power cut) */
    if (stat("/dev/shm", &sb) == 0 && access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 0);
    ns_test_tmpdir(root, sizeof root);
    snprintf(dir, sizeof dir, "%s/checkpoints", root);
    tiny_new(&model, NS_FAMILY_LLAMA, 0);
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
        cmocka_unit_test(save_and_load),
        cmocka_unit_test(forced_saves),
        cmocka_unit_test(top_k),
        cmocka_unit_test(optimizer_of_the_newest),
        cmocka_unit_test(names),
        cmocka_unit_test(bad_state_and_index),
        cmocka_unit_test(another_model),
        cmocka_unit_test(many_ranges),
        cmocka_unit_test(states_in_bf16),
        cmocka_unit_test(left_overs),
        cmocka_unit_test(every_call_fails),
        cmocka_unit_test(allocations_fail),
        cmocka_unit_test(dies_at_every_call),
        cmocka_unit_test(killed_at_random),
        cmocka_unit_test(beside_the_caller),
        cmocka_unit_test(failure_is_told_at_the_end),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
