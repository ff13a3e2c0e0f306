/* The table against hand-counted shapes: order, offsets, fused views, names, hash. */
#include "arch/params.h"
#include "base/testing.h"

static ns_arch small(ns_family f)
{
    ns_arch a = {
        .family = f, .vocab = 11, .vocab_rows = 12, .C = 8, .F = 6, .L = 2, .n_heads = 4, .n_kv = 2, .head_dim = 2};
    a.qkv_bias = f == NS_FAMILY_QWEN2;
    a.qk_norm = f == NS_FAMILY_QWEN3;
    return a;
}

static void llama_order(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t rows, cols;
        ns_split tp;
    } want[] = {
        {"embed", 12, 8, NS_SPLIT_ROWS},  {"l0.attn_norm", 8, 1, NS_SPLIT_NONE}, {"l0.qkv", 16, 8, NS_SPLIT_ROWS},
        {"l0.o", 8, 8, NS_SPLIT_COLS},    {"l0.mlp_norm", 8, 1, NS_SPLIT_NONE},  {"l0.gate_up", 12, 8, NS_SPLIT_ROWS},
        {"l0.down", 8, 6, NS_SPLIT_COLS}, {"l1.attn_norm", 8, 1, NS_SPLIT_NONE}, {"l1.qkv", 16, 8, NS_SPLIT_ROWS},
        {"l1.o", 8, 8, NS_SPLIT_COLS},    {"l1.mlp_norm", 8, 1, NS_SPLIT_NONE},  {"l1.gate_up", 12, 8, NS_SPLIT_ROWS},
        {"l1.down", 8, 6, NS_SPLIT_COLS}, {"final_norm", 8, 1, NS_SPLIT_NONE},   {"head", 12, 8, NS_SPLIT_ROWS},
    };
    ns_error err = NS_ERROR_INIT;
    ns_arena arena = NS_ARENA_INIT("test");
    ns_arch a = small(NS_FAMILY_LLAMA);
    ns_param_table t;
    assert_ns_ok(ns_param_table_build(&t, &a, &arena, &err), &err);
    assert_int_equal(t.n_params, sizeof want / sizeof want[0]);
    int64_t offset = 0;
    for (int i = 0; i < t.n_params; i++) {
        assert_string_equal(t.params[i].name, want[i].name);
        assert_int_equal(t.params[i].rows, want[i].rows);
        assert_int_equal(t.params[i].cols, want[i].cols);
        assert_int_equal(t.params[i].tp, want[i].tp);
        assert_int_equal(t.params[i].decays, 1); /* no biases here */
        assert_int_equal(t.params[i].offset, offset);
        offset += want[i].rows * want[i].cols;
    }
    assert_int_equal(t.n_elements, offset);
    assert_int_equal(t.first_of_layer, 1);
    assert_int_equal(t.per_layer, 6);
    assert_int_equal(ns_param_find(&t, NS_P_DOWN, 1), 12);
    assert_int_equal(ns_param_find(&t, NS_P_DOWN, 2), -1);
    assert_int_equal(ns_param_find(&t, NS_P_QKV_BIAS, 0), -1);
    assert_int_equal(ns_param_find(&t, NS_P_HEAD, -1), 14);
    ns_arena_free(&arena);
}

/* Every element of every parameter is in exactly one view, and views are in row order. */
static void views_tile(void **state)
{
    (void)state;
    static const ns_family all[] = {NS_FAMILY_LLAMA, NS_FAMILY_QWEN2, NS_FAMILY_QWEN3, NS_FAMILY_MISTRAL};
    ns_error err = NS_ERROR_INIT;
    ns_arena arena = NS_ARENA_INIT("test");
    for (size_t f = 0; f < 4; f++) {
        for (int tied = 0; tied < 2; tied++) {
            ns_arch a = small(all[f]);
            a.tied = tied;
            ns_param_table t;
            assert_ns_ok(ns_param_table_build(&t, &a, &arena, &err), &err);
            int param = 0;
            int64_t row = 0;
            for (int v = 0; v < t.n_views; v++) {
                assert_int_equal(t.views[v].param, param);
                assert_int_equal(t.views[v].row0, row);
                assert_int_equal(ns_view_find(&t, t.views[v].name), v);
                row += t.views[v].rows;
                if (row == t.params[param].rows) param++, row = 0;
            }
            assert_int_equal(param, t.n_params);
            assert_int_equal(ns_view_find(&t, "lm_head.weight") < 0, tied);
            assert_int_equal(ns_view_find(&t, "model.layers.1.self_attn.v_proj.bias") >= 0, a.qkv_bias);
            assert_int_equal(ns_view_find(&t, "model.layers.1.self_attn.q_norm.weight") >= 0, a.qk_norm);
        }
    }
    ns_arena_free(&arena);
}

static void fused_rows(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena arena = NS_ARENA_INIT("test");
    ns_arch a = small(NS_FAMILY_QWEN2);
    ns_param_table t;
    assert_ns_ok(ns_param_table_build(&t, &a, &arena, &err), &err);
    const ns_view *v = &t.views[ns_view_find(&t, "model.layers.1.self_attn.v_proj.weight")];
    assert_int_equal(v->row0, 12);
    assert_int_equal(v->rows, 4);
    assert_int_equal(v->nd, 2);
    const ns_view *b = &t.views[ns_view_find(&t, "model.layers.0.self_attn.k_proj.bias")];
    assert_int_equal(b->row0, 8);
    assert_int_equal(b->nd, 1);
    assert_int_equal(t.params[b->param].decays, 0);
    const ns_view *u = &t.views[ns_view_find(&t, "model.layers.0.mlp.up_proj.weight")];
    assert_int_equal(u->row0, 6);
    ns_arena_free(&arena);
}

static void hash_sees_shapes(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena arena = NS_ARENA_INIT("test");
    ns_arch a = small(NS_FAMILY_LLAMA), b = a, c = a;
    b.F = 7;
    c.tied = 1;
    ns_param_table ta, tb, tc, again;
    assert_ns_ok(ns_param_table_build(&ta, &a, &arena, &err), &err);
    assert_ns_ok(ns_param_table_build(&tb, &b, &arena, &err), &err);
    assert_ns_ok(ns_param_table_build(&tc, &c, &arena, &err), &err);
    assert_ns_ok(ns_param_table_build(&again, &a, &arena, &err), &err);
    assert_int_equal(strlen(ta.hash), 16);
    assert_string_equal(ta.hash, again.hash);
    assert_string_not_equal(ta.hash, tb.hash);
    assert_string_not_equal(ta.hash, tc.hash);
    ns_arena_free(&arena);
}

static void refusals(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena arena = NS_ARENA_INIT("test");
    ns_param_table t;
    ns_arch a = small(NS_FAMILY_GEMMA2);
    assert_ns_fails(ns_param_table_build(&t, &a, &arena, &err), NS_ERR_UNSUPPORTED, "family", &err);
    a = small(NS_FAMILY_LLAMA);
    a.n_experts = 8;
    assert_ns_fails(ns_param_table_build(&t, &a, &arena, &err), NS_ERR_UNSUPPORTED, "n_experts 8", &err);
    ns_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_order),      cmocka_unit_test(views_tile), cmocka_unit_test(fused_rows),
        cmocka_unit_test(hash_sees_shapes), cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
