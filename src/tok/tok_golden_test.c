/* Every supported kind of tokenizer.json against the Hugging Face library: small tokenizers and recorded ids, offsets and
 * texts (tests/golden/tokenizers/hf.json). Each case also: spans lie in order, decoding as a stream gives the same, and
 * every allocation failing in turn. */
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/testing.h"
#include "tok/tok_internal.h"
#include "tok/unicode.h"

typedef struct golden {
    ns_arena arena;
    ns_json *root;
} golden;

static void open_golden(golden *g, const char *name)
{
    ns_error err = NS_ERROR_INIT;
    char path[600];
    *g = (golden){.arena = NS_ARENA_INIT("test")};
    snprintf(path, sizeof path, "%s/tests/golden/tokenizers/%s", NS_SOURCE_DIR, name);
    assert_ns_ok(ns_json_read_file(&g->root, &g->arena, path, &err), &err);
}

/* The tokenizer.json text of a case: its sections, its model with the case's options. */
static void write_case(golden *g, const ns_json *c, ns_buf *out)
{
    ns_error err = NS_ERROR_INIT;
    const ns_json *sections = ns_json_get(c, "sections"), *options = ns_json_get(c, "options");
    const ns_json *base = ns_json_at(ns_json_get(g->root, "models"), "");
    ns_json *root = ns_json_new(&g->arena, NS_JSON_OBJECT, &err), *model = ns_json_new(&g->arena, NS_JSON_OBJECT, &err);
    char name[40];
    snprintf(name, sizeof name, "%.*s", (int)ns_json_get(c, "model")->s.n, ns_json_get(c, "model")->s.p);
    base = ns_json_get(ns_json_get(g->root, "models"), name);
    assert_non_null(base);
    for (size_t i = 0; i < base->n; i++) {
        char key[80];
        snprintf(key, sizeof key, "%.*s", (int)base->keys[i].n, base->keys[i].p);
        const ns_json *v = ns_json_get(options, key);
        assert_ns_ok(ns_json_set(model, &g->arena, key, v ? v : &base->items[i], &err), &err);
    }
    for (size_t i = 0; i < sections->n; i++) {
        char key[80];
        snprintf(key, sizeof key, "%.*s", (int)sections->keys[i].n, sections->keys[i].p);
        assert_ns_ok(ns_json_set(root, &g->arena, key, &sections->items[i], &err), &err);
    }
    assert_ns_ok(ns_json_set(root, &g->arena, "model", model, &err), &err);
    ns_buf_clear(out);
    assert_ns_ok(ns_json_write(out, root, NS_JSON_UTF8, &err), &err);
}

static ns_status build(ns_tok **out, const ns_buf *text, ns_error *err)
{
    ns_tok_source src = {.json = text->data, .json_n = text->len, .where = "tokenizer.json"};
    return ns_tok_build(out, &src, err);
}

static void show(const char *name, ns_str text, const char *what, const ns_json *want, const ns_ids *got)
{
    print_error("case %s, text '%.*s': %s\n  want", name, (int)text.n, text.p, what);
    for (size_t i = 0; i < want->n; i++) print_error(" %.*s", (int)want->items[i].s.n, want->items[i].s.p);
    print_error("\n  got ");
    for (size_t i = 0; i < got->n; i++) print_error(" %d", (int)got->v[i]);
    print_error("\n");
    fail();
}

static int same_ids(const ns_json *want, const ns_ids *got)
{
    if (want->n != got->n) return 0;
    for (size_t i = 0; i < got->n; i++) {
        int64_t x;
        if (!ns_json_is_int(&want->items[i], &x) || x != got->v[i]) return 0;
    }
    return 1;
}

/* The library's offsets are those of whole characters, and it gives text that it put in those of the next character. Of
 * several characters that became one it names a part only; then ours must hold that part. */
static void check_spans(const char *name, ns_str text, const ns_json *want, const ns_spans *got)
{
    const uint8_t *p = (const uint8_t *)text.p;
    static const char *const changing[] = {"strip_replace", "nf", "mistral_norm", "nemotron", "qwen2", "added_flags"};
    int changes = 0;
    for (size_t i = 0; i < sizeof changing / sizeof *changing; i++)
        changes |= !strncmp(name, changing[i], strlen(changing[i]));
    assert_int_equal(want->n, got->n);
    for (size_t i = 0; i < got->n; i++) {
        int64_t a, b;
        size_t from = got->v[i].from, to = got->v[i].to;
        assert_true(from <= to && to <= text.n);
        if (from == to) continue;
        assert_true(ns_json_is_int(&want->items[i].items[0], &a) && ns_json_is_int(&want->items[i].items[1], &b));
        while (from > 0 && (p[from] & 0xc0) == 0x80) from--;
        while (to < text.n && (p[to] & 0xc0) == 0x80) to++;
        int exact = (int64_t)from == a && (int64_t)to == b, holds = (int64_t)from <= a && (int64_t)to >= b;
        if (!exact && !(changes && holds)) {
            print_error("case %s, text '%.*s', token %zu: span %zu..%zu, expected %d..%d\n", name, (int)text.n, text.p,
                        i, from, to, (int)a, (int)b);
            fail();
        }
    }
}

static void check_stream(const ns_tok *t, const ns_ids *ids, const ns_buf *whole)
{
    ns_error err = NS_ERROR_INIT;
    ns_tok_stream s = {.t = t};
    ns_buf out = {0}, want = {0};
    assert_ns_ok(ns_utf8_repair(&want, (const uint8_t *)(whole->data ? whole->data : ""), whole->len, &err), &err);
    for (size_t i = 0; i < ids->n; i++) {
        assert_ns_ok(ns_tok_stream_push(&s, &out, ids->v + i, 1, &err), &err);
        assert_int_equal(ns_utf8_check((const uint8_t *)out.data, out.len), out.len);
    }
    assert_ns_ok(ns_tok_stream_end(&s, &out, &err), &err);
    assert_int_equal(out.len, want.len);
    if (out.len) assert_memory_equal(out.data, want.data, out.len);
    ns_tok_stream_free(&s);
    ns_buf_free(&out);
    ns_buf_free(&want);
}

static void check_vector(const ns_tok *t, const char *name, const ns_json *v)
{
    ns_error err = NS_ERROR_INIT;
    ns_str text = ns_json_get(v, "text")->s, decoded = ns_json_get(v, "decoded")->s;
    const ns_json *want = ns_json_get(v, "ids"), *spans = ns_json_get(v, "spans");
    ns_ids ids = {0}, again = {0};
    ns_spans got = {0};
    ns_buf back = {0}, repaired = {0};
    assert_ns_ok(ns_tok_encode(t, &ids, text.p, text.n, 0, &err), &err);
    if (!same_ids(want, &ids)) show(name, text, "ids", want, &ids);
    assert_ns_ok(ns_tok_encode_spans(t, &again, &got, text.p, text.n, 0, &err), &err);
    if (!same_ids(want, &again)) show(name, text, "ids with spans", want, &again);
    if (spans) check_spans(name, text, spans, &got);
    assert_ns_ok(ns_tok_decode(t, &back, ids.v, ids.n, 0, &err), &err);
    assert_ns_ok(ns_utf8_repair(&repaired, (const uint8_t *)(back.data ? back.data : ""), back.len, &err), &err);
    int lossy =
        !strcmp(name, "added_flags") && memmem(decoded.p, decoded.n, "\xef\xbf\xbd", 3); /* README: added tokens */
    if (!lossy && (repaired.len != decoded.n || (decoded.n && memcmp(repaired.data, decoded.p, decoded.n) != 0))) {
        print_error("case %s: decoded '%s', expected '%.*s'\n", name, repaired.data, (int)decoded.n, decoded.p);
        fail();
    }
    check_stream(t, &ids, &back);
    ns_ids_free(&ids);
    ns_ids_free(&again);
    ns_spans_free(&got);
    ns_buf_free(&back);
    ns_buf_free(&repaired);
}

static int needs_pcre2(const char *name)
{
    static const char *const known[] = {
        "llama2", "mistral", "metaspace_always", "metaspace_never", "gemma",  "nemotron", "nfc", "nfd",
        "nfkc",   "nfkd",    "llama3",           "qwen2",           "tekken", "digits",   "unk_"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strncmp(name, known[i], strlen(known[i]))) return 0;
    return 1;
}

static void hugging_face(void **state)
{
    (void)state;
    golden g;
    ns_buf text = {0};
    int skipped = 0;
    open_golden(&g, "hf.json");
    const ns_json *cases = ns_json_get(g.root, "cases");
    assert_true(cases->n > 30);
    for (size_t i = 0; i < cases->n; i++) {
        const ns_json *c = &cases->items[i], *v = ns_json_get(c, "vectors");
        ns_error err = NS_ERROR_INIT;
        ns_tok *t = NULL;
        ns_ids ids = {0};
        char name[60];
        snprintf(name, sizeof name, "%.*s", (int)ns_json_get(c, "name")->s.n, ns_json_get(c, "name")->s.p);
        if (!ns_regex_available() && needs_pcre2(name)) {
            skipped++;
            continue;
        }
        write_case(&g, c, &text);
        ns_status st = build(&t, &text, &err);
        if (st != NS_OK) print_error("case %s\n", name);
        assert_ns_ok(st, &err);
        for (size_t k = 0; k < v->n; k++) check_vector(t, name, &v->items[k]);
        assert_ns_ok(ns_tok_encode(t, &ids, "a", 1, NS_TOK_ADD_SPECIAL, &err), &err);
        assert_true(same_ids(ns_json_get(c, "with_special"), &ids));
        ns_ids_free(&ids);
        ns_tok_free(&t);
    }
    if (skipped) print_message("SKIPPED: %d cases need PCRE2\n", skipped);
    ns_buf_free(&text);
    ns_arena_free(&g.arena);
}

/* Cases that between them reach every kind of step. */
static void out_of_memory(void **state)
{
    (void)state;
    static const char *const names[] = {"nemotron", "metaspace_after_split", "strip_replace", "unk_fused"};
    static const char in[] = "cafe\xcc\x81  12\tna\xc3\xafve \xf0\x9f\x98\x80 <s> a";
    golden g;
    ns_buf text = {0};
    open_golden(&g, "hf.json");
    const ns_json *cases = ns_json_get(g.root, "cases");
    for (size_t i = 0; i < cases->n; i++) {
        int chosen = 0;
        for (size_t k = 0; k < 4; k++) chosen |= ns_str_eq(ns_json_get(&cases->items[i], "name")->s, names[k]);
        if (!chosen || !ns_regex_available()) continue;
        write_case(&g, &cases->items[i], &text);
        uint64_t before = ns_mem_get_stats().bytes_now;
        int hit = 1;
        for (uint64_t k = 1; hit; k++) {
            ns_tok *t = NULL;
            ns_ids ids = {0};
            ns_spans spans = {0};
            ns_buf out = {0};
            ns_error err = NS_ERROR_INIT;
            ns_tok_stream s = {0};
            ns_mem_fail_at(k, 0);
            ns_status st = build(&t, &text, &err);
            if (st == NS_OK) st = ns_tok_encode_spans(t, &ids, &spans, in, sizeof in - 1, NS_TOK_ADD_SPECIAL, &err);
            s.t = t;
            if (st == NS_OK) st = ns_tok_stream_push(&s, &out, ids.v, ids.n, &err);
            if (st == NS_OK) st = ns_tok_stream_end(&s, &out, &err);
            hit = ns_mem_fault_hit();
            ns_tok_free(&t);
            ns_ids_free(&ids);
            ns_spans_free(&spans);
            ns_buf_free(&out);
            ns_tok_stream_free(&s);
            assert_int_equal(ns_mem_get_stats().bytes_now, before);
            /* without memory for its machine code a pattern is interpreted */
            const char *label = ns_mem_fault_label();
            int spared = hit && st == NS_OK && label && !strcmp(label, "tok.regex");
            assert_true(st == (hit ? NS_ERR_MEMORY : NS_OK) || spared);
            ns_mem_fail_at(0, 0);
        }
    }
    ns_buf_free(&text);
    ns_arena_free(&g.arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(hugging_face), cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
