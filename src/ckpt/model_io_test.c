/* Models written and read back (every family, f32 exact, bf16 rounded once, shards), refusals by tensor name, tied heads,
 * padded vocabularies, files that travel along, initial values, and a model that Python wrote. */
#include "ckpt/model_io.h"

#include <errno.h>

#include "base/json.h"
#include "ckpt/ckpt_testing.h"

static char root[256];

static const char *at(const char *name)
{
    static char path[8][512];
    static int turn;
    char *p = path[turn++ % 8];
    snprintf(p, 512, "%s/%s", root, name);
    return p;
}

static void fresh(const char *name)
{
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_remove_tree(at(name), &err), &err);
    assert_ns_ok(ns_mkdirs(at(name), &err), &err);
}

static void put_text(const char *name, const char *text)
{
    ns_error err = NS_ERROR_INIT;
    assert_ns_ok(ns_file_replace(at(name), text, strlen(text), &err), &err);
}

static void round_trips(void **state)
{
    (void)state;
    static const ns_family families[] = {NS_FAMILY_LLAMA, NS_FAMILY_QWEN2, NS_FAMILY_QWEN3, NS_FAMILY_MISTRAL};
    static const ns_dtype types[] = {NS_DTYPE_F32, NS_DTYPE_BF16};
    ns_error err = NS_ERROR_INIT;
    for (int f = 0; f < 4; f++) {
        for (int k = 0; k < 8; k++) {
            tiny m;
            tiny_new(&m, families[f], k & 1);
            fresh("m");
            assert_ns_ok(
                ns_model_write(at("m"), &m.table, types[k >> 1 & 1], k & 4 ? 500 : 0, NULL, tiny_get, &m, &err), &err);
            assert_int_equal(ns_path_exists(at("m/model.safetensors.index.json")), (k & 4) != 0);
            tiny_check c = {&m, 0, k >> 1 & 1};
            assert_ns_ok(ns_model_read(at("m"), &m.table, tiny_put, &c, &err), &err);
            assert_int_equal(c.seen, m.table.n_params);
            ns_arch back;
            assert_ns_ok(ns_arch_read(&back, at("m/config.json"), &err), &err);
            m.arch.dt = types[k >> 1 & 1];
            assert_memory_equal(&back, &m.arch, sizeof back);
            assert_true(ns_path_exists(at("m/generation_config.json")));
            ns_arena_free(&m.arena);
        }
    }
}

/* Writes the tensors of `m` with changes: index `skip` left out, `misshape` with a row less, and an extra one. */
static void write_broken(const tiny *m, int skip, int misshape, const char *extra, float head_delta)
{
    ns_error err = NS_ERROR_INIT;
    ns_st_writer *w;
    const ns_param_table *t = &m->table;
    float *data;
    fresh("m");
    assert_ns_ok(ns_alloc((void **)&data, 4096 * sizeof *data, "test", &err), &err);
    assert_ns_ok(ns_st_writer_new(&w, at("m"), "model", 0, &err), &err);
    for (int v = 0; v < t->n_views; v++) {
        int64_t shape[2] = {t->views[v].rows - (v == misshape), t->params[t->views[v].param].cols};
        if (v != skip)
            assert_ns_ok(ns_st_declare(w, t->views[v].name, NS_DTYPE_F32, shape, t->views[v].nd, &err), &err);
    }
    int64_t es[2] = {t->params[0].rows, t->params[0].cols};
    if (extra) assert_ns_ok(ns_st_declare(w, extra, NS_DTYPE_F32, es, 2, &err), &err);
    for (int v = 0; v < t->n_views; v++) {
        int64_t cols = t->params[t->views[v].param].cols;
        assert_ns_ok(tiny_get((void *)(uintptr_t)m, t->views[v].param, data, &err), &err);
        if (v == skip) continue;
        assert_ns_ok(
            ns_st_write(w, data + t->views[v].row0 * cols, (t->views[v].rows - (v == misshape)) * cols * 4, &err),
            &err);
    }
    if (extra) {
        assert_ns_ok(tiny_get((void *)(uintptr_t)m, 0, data, &err), &err);
        data[es[0] * es[1] - 1] += head_delta;
        assert_ns_ok(ns_st_write(w, data, es[0] * es[1] * 4, &err), &err);
    }
    assert_ns_ok(ns_st_writer_close(&w, &err), &err);
    ns_free(data);
}

static void refusals(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    tiny m;
    tiny_new(&m, NS_FAMILY_LLAMA, 0);
    tiny_check c = {&m, 0, 0};
    int k_proj = ns_view_find(&m.table, "model.layers.1.self_attn.k_proj.weight");
    write_broken(&m, k_proj, -1, NULL, 0);
    assert_ns_fails(ns_model_read(at("m"), &m.table, tiny_put, &c, &err), NS_ERR_MISMATCH,
                    "tensor \"model.layers.1.self_attn.k_proj.weight\" is missing, expected shape [4,8] (1 of 21",
                    &err);
    write_broken(&m, -1, k_proj, NULL, 0);
    assert_ns_fails(ns_model_read(at("m"), &m.table, tiny_put, &c, &err), NS_ERR_MISMATCH,
                    "tensor \"model.layers.1.self_attn.k_proj.weight\" has shape [3,8], expected [4,8]", &err);
    write_broken(&m, -1, -1, "model.layers.0.self_attn.q_proj.bias", 0);
    assert_ns_fails(ns_model_read(at("m"), &m.table, tiny_put, &c, &err), NS_ERR_MISMATCH,
                    "tensor \"model.layers.0.self_attn.q_proj.bias\" of shape [11,8] has no place", &err);
    assert_int_equal(c.seen, 0); /* refused before the first value */
    write_broken(&m, -1, -1, "model.layers.0.self_attn.rotary_emb.inv_freq", 0);
    assert_ns_ok(ns_model_read(at("m"), &m.table, tiny_put, &c, &err), &err);
    assert_ns_fails(ns_model_write(at("m"), &m.table, NS_DTYPE_I8, 0, NULL, tiny_get, &m, &err), NS_ERR_UNSUPPORTED,
                    "I8", &err);
    ns_arena_free(&m.arena);
}

static void tied_heads(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    tiny m;
    tiny_new(&m, NS_FAMILY_QWEN2, 1);
    tiny_check c = {&m, 0, 0};
    write_broken(&m, -1, -1, "lm_head.weight", 0);
    assert_ns_ok(ns_model_read(at("m"), &m.table, tiny_put, &c, &err), &err);
    write_broken(&m, -1, -1, "lm_head.weight", 1);
    assert_ns_fails(ns_model_read(at("m"), &m.table, tiny_put, &c, &err), NS_ERR_MISMATCH,
                    "tensor \"lm_head.weight\" differs from the embedding at element 87", &err);
    ns_arena_free(&m.arena);
}

static float embed_rows[16 * 8], head_rows[16 * 8];
static ns_status keep_padded(void *user, int param, const float *data, ns_error *err)
{
    const ns_param_table *t = user;
    (void)err;
    if (t->params[param].kind == NS_P_EMBED) memcpy(embed_rows, data, sizeof embed_rows);
    if (t->params[param].kind == NS_P_HEAD) memcpy(head_rows, data, sizeof head_rows);
    return NS_OK;
}

/* A table with 16 vocabulary rows reads a file with 11: the rest is zero. */
static void padded_vocabulary(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    tiny m;
    ns_param_table padded;
    tiny_new(&m, NS_FAMILY_LLAMA, 0);
    fresh("m");
    assert_ns_ok(ns_model_write(at("m"), &m.table, NS_DTYPE_F32, 0, NULL, tiny_get, &m, &err), &err);
    ns_arch a = m.arch;
    a.vocab_rows = 16;
    assert_ns_ok(ns_param_table_build(&padded, &a, &m.arena, &err), &err);
    memset(embed_rows, 0x55, sizeof embed_rows);
    memset(head_rows, 0x55, sizeof head_rows);
    assert_ns_ok(ns_model_read(at("m"), &padded, keep_padded, &padded, &err), &err);
    for (int i = 0; i < 16 * 8; i++) {
        assert_true(embed_rows[i] == (i < 88 ? tiny_value(&m, 0, 0, i) : 0));
        assert_true(head_rows[i] == (i < 88 ? tiny_value(&m, 0, m.table.n_params - 1, i) : 0));
    }
    ns_arena_free(&m.arena);
}

static void files_travel(void **state)
{
    (void)state;
    static const char *const names[] = {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",       "vocab.json",
        "merges.txt",     "added_tokens.json",     "chat_template.jinja",     "generation_config.json"};
    ns_error err = NS_ERROR_INIT;
    tiny m;
    tiny_new(&m, NS_FAMILY_LLAMA, 0);
    fresh("m");
    fresh("tok");
    char text[64];
    for (int i = 0; i < 9; i++) {
        char name[64];
        snprintf(name, sizeof name, "tok/%s", names[i]);
        snprintf(text, sizeof text, "file %d", i);
        put_text(name, text);
    }
    put_text("tok/chat_template.jinja", ""); /* empty files, too */
    put_text("tok/generation_config.json", "{\"temperature\": 0.6, \"eos_token_id\": [7, 2]}");
    put_text("tok/README.md", "no");
    put_text("tok/config.json", "{\"model_type\":\"llama\",\"vocab_size\":5,\"hidden_size\":8,\"intermediate_size\":8,"
                                "\"num_hidden_layers\":1,\"num_attention_heads\":1,\"pad_token_id\":9}");
    assert_ns_ok(ns_model_write(at("m"), &m.table, NS_DTYPE_BF16, 0, at("tok"), tiny_get, &m, &err), &err);
    for (int i = 0; i < 8; i++) {
        char name[64];
        ns_buf b = {0};
        snprintf(name, sizeof name, "m/%s", names[i]);
        snprintf(text, sizeof text, "file %d", i);
        assert_ns_ok(ns_file_read(&b, at(name), &err), &err);
        assert_string_equal(b.data, i == 7 ? "" : text);
        ns_buf_free(&b);
    }
    assert_false(ns_path_exists(at("m/README.md")));
    ns_json *j;
    int64_t v = 0;
    assert_ns_ok(ns_json_read_file(&j, &m.arena, at("m/generation_config.json"), &err), &err);
    const ns_json *eos = ns_json_get(j, "eos_token_id"); /* the record's first, none twice; the rest is kept */
    assert_true(eos->n == 2 && ns_json_is_int(&eos->items[0], &v) && v == 2);
    assert_true(ns_json_is_int(&eos->items[1], &v) && v == 7);
    assert_non_null(ns_json_get(j, "temperature"));
    assert_ns_ok(ns_json_read_file(&j, &m.arena, at("m/config.json"), &err), &err);
    assert_true(ns_json_is_int(ns_json_get(j, "pad_token_id"), &v) && v == 9);
    assert_true(ns_json_is_int(ns_json_get(j, "vocab_size"), &v) && v == 11);
    ns_arena_free(&m.arena);
}

static void initial_values(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    tiny m;
    tiny_new(&m, NS_FAMILY_QWEN2, 0);
    m.arch.C = 64;
    m.arch.F = 96;
    m.arch.vocab_rows = m.arch.vocab = 300;
    assert_ns_ok(ns_param_table_build(&m.table, &m.arch, &m.arena, &err), &err);
    float *a, *b;
    size_t n = (size_t)ns_param_table_largest(&m.table);
    assert_ns_ok(ns_alloc((void **)&a, n * sizeof *a, "test", &err), &err);
    assert_ns_ok(ns_alloc((void **)&b, n * sizeof *b, "test", &err), &err);
    for (int i = 0; i < m.table.n_params; i++) {
        const ns_param *p = &m.table.params[i];
        int64_t k = p->rows * p->cols;
        assert_ns_ok(ns_model_init_values(&m.table, i, 7, a, &err), &err);
        assert_ns_ok(ns_model_init_values(&m.table, i, 7, b, &err), &err);
        assert_memory_equal(a, b, (size_t)k * sizeof *a);
        double sum = 0, sq = 0;
        for (int64_t j = 0; j < k; j++) sum += (double)a[j], sq += (double)a[j] * (double)a[j];
        double mean = sum / (double)k, std = sqrt(sq / (double)k);
        if (p->kind == NS_P_QKV_BIAS) {
            assert_true(std == 0);
        } else if (p->cols == 1) {
            assert_true(mean == 1 && std == 1);
        } else {
            double want = p->kind == NS_P_O || p->kind == NS_P_DOWN ? 0.02 / 2 : 0.02; /* sqrt(2 * 2 layers) = 2 */
            assert_true(fabs(mean) < 5 * want / sqrt((double)k));
            assert_true(fabs(std - want) < 5 * want / sqrt(2 * (double)k));
            assert_ns_ok(ns_model_init_values(&m.table, i, 8, b, &err), &err);
            assert_memory_not_equal(a, b, (size_t)k * sizeof *a);
        }
    }
    ns_free(a);
    ns_free(b);
    ns_arena_free(&m.arena);
}

static void init_publishes(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    int64_t n = 0;
    ns_model_init_args a = {.config_path = NS_SOURCE_DIR "/tests/golden/parity/qwen25",
                            .out = at("new/model"),
                            .dt = NS_DTYPE_BF16,
                            .seed = 3};
    char out[512];
    snprintf(out, sizeof out, "%s", a.out);
    a.out = out;
    assert_ns_ok(ns_model_init(&a, &n, &err), &err);
    assert_int_equal(ns_dir_is_done(out, 1, &err), 1);
    ns_st *st;
    assert_ns_ok(ns_st_open(&st, out, &err), &err);
    int64_t sum = 0;
    for (int i = 0; i < ns_st_count(st); i++) sum += ns_st_at(st, i)->n;
    assert_int_equal(sum, n);
    assert_null(ns_st_find(st, "lm_head.weight"));
    const ns_st_tensor *gate = ns_st_find(st, "model.layers.0.mlp.gate_proj.weight"); /* threads change nothing */
    float *one;
    ns_arch arch;
    ns_param_table t;
    ns_arena arena = NS_ARENA_INIT("test");
    assert_ns_ok(ns_arch_read(&arch, NS_SOURCE_DIR "/tests/golden/parity/qwen25/config.json", &err), &err);
    assert_ns_ok(ns_param_table_build(&t, &arch, &arena, &err), &err);
    assert_ns_ok(ns_alloc((void **)&one, (size_t)ns_param_table_largest(&t) * 4, "test", &err), &err);
    assert_ns_ok(ns_model_init_values(&t, ns_param_find(&t, NS_P_GATE_UP, 0), 3, one, &err), &err);
    for (int64_t i = 0; i < gate->n; i++) {
        uint16_t h;
        memcpy(&h, (const char *)gate->data + 2 * i, 2);
        assert_int_equal(h, ns_f32_to_bf16(one[i]));
    }
    ns_free(one);
    ns_arena_free(&arena);
    ns_st_close(&st);
    assert_ns_fails(ns_model_init(&a, &n, &err), NS_ERR_INPUT, "exists already", &err);
    a.replace = 1;
    assert_ns_ok(ns_model_init(&a, &n, &err), &err);
    fresh("other");
    a.out = at("other");
    assert_ns_fails(ns_model_init(&a, &n, &err), NS_ERR_INPUT, "is not a model folder", &err);
    a.out = at("third");
    a.config_path = at("nowhere");
    assert_ns_fails(ns_model_init(&a, &n, &err), NS_ERR_INPUT, "no such config.json", &err);
    /* a full disk leaves nothing under the name */
    a.config_path = NS_SOURCE_DIR "/tests/golden/parity/qwen25/config.json";
    ns_sys_fail_at("write", 2, ENOSPC);
    assert_ns_fails(ns_model_init(&a, &n, &err), NS_ERR_IO, "third", &err);
    ns_sys_fail_at(NULL, 0, 0);
    assert_false(ns_path_exists(at("third")));
    assert_false(ns_path_exists(at(".third.tmp")));
}

/* Fused storage parameters against the tensors that Python wrote. */
static ns_st *golden_st;
static ns_status compare_golden(void *user, int param, const float *data, ns_error *err)
{
    const ns_param_table *t = user;
    (void)err;
    for (int v = 0; v < t->n_views; v++) {
        if (t->views[v].param != param) continue;
        const ns_st_tensor *f = ns_st_find(golden_st, t->views[v].name);
        assert_non_null(f);
        assert_int_equal(f->dt, NS_DTYPE_F32);
        assert_memory_equal(data + t->views[v].row0 * t->params[param].cols, f->data, (size_t)f->n * 4);
    }
    return NS_OK;
}

static void golden_models(void **state)
{
    (void)state;
    static const char *const dirs[] = {NS_SOURCE_DIR "/tests/golden/parity/llama3",
                                       NS_SOURCE_DIR "/tests/golden/parity/qwen25"};
    ns_error err = NS_ERROR_INIT;
    for (int i = 0; i < 2; i++) {
        ns_arena arena = NS_ARENA_INIT("test");
        ns_arch a;
        ns_param_table t;
        char path[4096];
        snprintf(path, sizeof path, "%s/config.json", dirs[i]);
        assert_ns_ok(ns_arch_read(&a, path, &err), &err);
        assert_ns_ok(ns_param_table_build(&t, &a, &arena, &err), &err);
        assert_ns_ok(ns_st_open(&golden_st, dirs[i], &err), &err);
        assert_ns_ok(ns_model_read(dirs[i], &t, compare_golden, &t, &err), &err);
        ns_st_close(&golden_st);
        ns_arena_free(&arena);
    }
}

static int setup(void **state)
{
    (void)state;
    ns_test_tmpdir(root, sizeof root);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return ns_remove_tree(root, NULL) == NS_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),       cmocka_unit_test(refusals),      cmocka_unit_test(tied_heads),
        cmocka_unit_test(padded_vocabulary), cmocka_unit_test(files_travel),  cmocka_unit_test(initial_values),
        cmocka_unit_test(init_publishes),    cmocka_unit_test(golden_models),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
