/* Chat templates in the shapes that models use, against transformers (tests/golden/chat); which file of a folder is taken;
 * the real templates of the shared tokenizer folders. */
#include "base/testing.h"

#include "base/file.h"
#include "base/mem.h"
#include "tok/chat_template.h"

static char dir[256];

static void put_file(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void forget(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
}

static int setup(void **state)
{
    char path[512];
    (void)state;
    ns_test_tmpdir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/additional_chat_templates", dir);
    return mkdir(path, 0700);
}

static int teardown(void **state)
{
    char cmd[300];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

static size_t characters(const char *p, size_t bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) n += ((unsigned char)p[i] & 0xc0) != 0x80;
    return n;
}

/* One case of templates.json: does the rendering equal the reference's? */
static int same(const ns_chat_template *t, const ns_json *root, const ns_json *k, ns_arena *a)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf out = {0};
    char name[64], text[2048];
    snprintf(name, sizeof name, "%.*s", (int)k->items[1].s.n, k->items[1].s.p);
    const ns_json *messages = ns_json_get(ns_json_get(root, "conversations"), name);
    snprintf(name, sizeof name, "%.*s", (int)k->items[2].s.n, k->items[2].s.p);
    const ns_json *o = ns_json_get(ns_json_get(root, "options"), name), *tools = ns_json_get(o, "tools");
    ns_json *extra = ns_json_new(a, NS_JSON_OBJECT, &err);
    for (size_t i = 0; i < o->n; i++) {
        char *key = ns_arena_strndup(a, o->keys[i].p, o->keys[i].n, &err);
        if (strcmp(key, "tools") && strcmp(key, "documents") && strcmp(key, "add_generation_prompt"))
            assert_ns_ok(ns_json_set(extra, a, key, &o->items[i], &err), &err);
    }
    ns_chat_render r = {.messages = messages,
                        .tools = tools->type == NS_JSON_NULL ? NULL : tools,
                        .extra = extra,
                        .add_generation_prompt = ns_json_get(o, "add_generation_prompt")->b,
                        .want_spans = k->n > 4};
    ns_status st = ns_chat_template_render(t, &out, &r, &err);
    const ns_json *want = &k->items[3];
    int ok = want->type == NS_JSON_NULL ? st == NS_ERR_INPUT
                                        : st == NS_OK && out.len == want->s.n && !memcmp(out.data, want->s.p, out.len);
    for (size_t i = 0; ok && st == NS_OK && k->n > 4 && i < r.n_spans; i++) {
        const ns_json *w = &k->items[4].items[i];
        int64_t from = -1, to = -1;
        ns_json_is_int(&w->items[0], &from);
        ns_json_is_int(&w->items[1], &to);
        ok = r.n_spans == k->items[4].n && (int64_t)characters(out.data, r.spans[i].from) == from &&
             (int64_t)characters(out.data, r.spans[i].to) == to;
    }
    if (!ok)
        print_message("%.*s, %.*s, %.*s:\n got  %s\n want %.*s\n", (int)k->items[0].s.n, k->items[0].s.p,
                      (int)k->items[1].s.n, k->items[1].s.p, (int)k->items[2].s.n, k->items[2].s.p,
                      st == NS_OK ? out.data : ns_error_text(&err, text, sizeof text),
                      want->type == NS_JSON_NULL ? 7 : (int)want->s.n,
                      want->type == NS_JSON_NULL ? "refused" : want->s.p);
    ns_buf_free(&out);
    ns_free(r.spans);
    return ok;
}

static void shapes(void **state)
{
    (void)state;
    ns_arena a = NS_ARENA_INIT("test");
    ns_error err = NS_ERROR_INIT;
    ns_json *root;
    char path[4200], loaded[64] = "";
    snprintf(path, sizeof path, "%s/tests/golden/chat/templates.json", NS_SOURCE_DIR);
    assert_ns_ok(ns_json_read_file(&root, &a, path, &err), &err);
    const ns_json *cases = ns_json_get(root, "cases");
    ns_chat_template *t = NULL;
    size_t bad = 0, with_spans = 0;
    assert_true(cases->n > 500);
    for (size_t i = 0; i < cases->n; i++) {
        const ns_json *k = &cases->items[i];
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)k->items[0].s.n, k->items[0].s.p);
        if (strcmp(name, loaded)) {
            ns_buf text = {0};
            ns_chat_template_free(&t);
            snprintf(path, sizeof path, "%s/tests/golden/chat/templates/%s.jinja", NS_SOURCE_DIR, name);
            assert_ns_ok(ns_file_read(&text, path, &err), &err);
            assert_ns_ok(ns_chat_template_build(&t, text.data, text.len, name, ns_json_get(root, "tokens"), &err),
                         &err);
            ns_buf_free(&text);
            snprintf(loaded, sizeof loaded, "%s", name);
        }
        bad += !same(t, root, k, &a);
        with_spans += k->n > 4;
    }
    assert_int_equal(bad, 0);
    assert_true(with_spans > 0);
    ns_chat_template_free(&t);
    ns_arena_free(&a);
}

/* Renders one user message "hi" with the folder's template. */
static void expect(const char *which, int with_tools, const char *want)
{
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_chat_template *t = NULL;
    ns_json *m, *tools;
    ns_buf out = {0};
    const char *text = "[{\"role\": \"user\", \"content\": \"hi\"}]";
    assert_ns_ok(ns_json_parse(&m, &a, text, strlen(text), "m", 0, &err), &err);
    assert_ns_ok(ns_json_parse(&tools, &a, "[]", 2, "m", 0, &err), &err);
    assert_ns_ok(ns_chat_template_load(&t, dir, which, &err), &err);
    assert_non_null(t);
    ns_chat_render r = {.messages = m, .tools = with_tools ? tools : NULL};
    assert_ns_ok(ns_chat_template_render(t, &out, &r, &err), &err);
    assert_string_equal(out.data, want);
    ns_chat_template_free(&t);
    ns_buf_free(&out);
    ns_arena_free(&a);
}

static void folders(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_chat_template *t = NULL;
    char file[512];
    assert_ns_ok(ns_chat_template_load(&t, dir, NULL, &err), &err);
    assert_null(t); /* nothing there is no error */
    assert_ns_fails(ns_chat_template_load(&t, dir, "rag", &err), NS_ERR_CONFIG,
                    "has no chat template named 'rag' (it has: none)", &err);
    put_file("tokenizer_config.json",
             "{\"chat_template\": \"cfg {{ messages[0].content }}{{ eos_token }}{{ bos_token }}\", "
             "\"eos_token\": {\"content\": \"</s>\"}, \"bos_token\": null}");
    expect(NULL, 0, "cfg hi</s>"); /* a token that is not set is undefined */
    snprintf(file, sizeof file, "%s/tokenizer_config.json", dir);
    assert_ns_ok(ns_chat_template_load(&t, file, NULL, &err), &err); /* a file of the folder works too */
    assert_non_null(t);
    ns_chat_template_free(&t);
    put_file("tokenizer_config.json",
             "{\"chat_template\": [{\"name\": \"default\", \"template\": \"d\"}, {\"name\": \"tool_use\", "
             "\"template\": \"t{{ tools is defined and tools is not none }}\"}]}");
    expect(NULL, 0, "d");
    expect(NULL, 1, "tTrue");
    expect("tool_use", 0, "tFalse");
    assert_ns_fails(ns_chat_template_load(&t, dir, "x", &err), NS_ERR_CONFIG, "(it has: default, tool_use)", &err);
    put_file("chat_template.jinja", "file\n");
    put_file("additional_chat_templates/rag.jinja", "rag {{ documents }}");
    expect(NULL, 0, "file"); /* the file comes before tokenizer_config.json */
    expect("rag", 0, "rag None");
    put_file("own.jinja", "own");
    snprintf(file, sizeof file, "%s/own.jinja", dir);
    expect(file, 1, "own");
    forget("chat_template.jinja");
    put_file("tokenizer_config.json", "{\"chat_template\": \"{{ 'a' }}{% if %}\"}");
    assert_ns_fails(ns_chat_template_load(&t, dir, NULL, &err), NS_ERR_INPUT,
                    "tokenizer_config.json: chat_template:1:16: found '%}'", &err);
    put_file("tokenizer_config.json", "{\"chat_template\": 3}");
    assert_ns_fails(ns_chat_template_load(&t, dir, NULL, &err), NS_ERR_INPUT, "neither a text nor a list", &err);
    put_file("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"a\"}]}");
    assert_ns_fails(ns_chat_template_load(&t, dir, NULL, &err), NS_ERR_INPUT, "chat_template[0]: expected an object",
                    &err);
    put_file("tokenizer_config.json",
             "{\"chat_template\": [{\"name\": \"a\", \"template\": \"\"}, {\"name\": \"a\", \"template\": \"\"}]}");
    assert_ns_fails(ns_chat_template_load(&t, dir, NULL, &err), NS_ERR_INPUT, "two chat templates are named 'a'", &err);
    put_file("tokenizer_config.json",
             "{\"chat_template\": [{\"name\": \"a\", \"template\": \"\"}, {\"name\": \"b\", \"template\": \"\"}]}");
    assert_ns_fails(ns_chat_template_load(&t, dir, NULL, &err), NS_ERR_CONFIG, "none is named default", &err);
    put_file("tokenizer_config.json", "{\"chat_template\": ");
    assert_ns_fails(ns_chat_template_load(&t, dir, NULL, &err), NS_ERR_INPUT, "tokenizer_config.json", &err);
}

static void bad_messages(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_chat_template *t;
    ns_buf out = {0};
    ns_json *m;
    assert_ns_ok(ns_chat_template_build(&t, "x", 1, "t", NULL, &err), &err);
    ns_chat_render r = {0};
    assert_ns_fails(ns_chat_template_render(t, &out, &r, &err), NS_ERR_INPUT, "messages: expected a list", &err);
    assert_ns_ok(ns_json_parse(&m, &a, "[3]", 3, "m", 0, &err), &err);
    r.messages = m;
    assert_ns_fails(ns_chat_template_render(t, &out, &r, &err), NS_ERR_INPUT, "message 0: expected an object", &err);
    ns_chat_template_free(&t);
    ns_buf_free(&out);
    ns_arena_free(&a);
}

/* The published templates in the shared folder: they load, and a plain exchange comes out as documented. */
static void published(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    static const char *const folders_[] = {"qwen2.5", "qwen3"};
    static const char *const want[] = {
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"};
    const char *text = "[{\"role\": \"system\", \"content\": \"be kind\"}, {\"role\": \"user\", \"content\": \"hi\"}]";
    for (int i = 0; i < 2; i++) {
        ns_error err = NS_ERROR_INIT;
        ns_arena a = NS_ARENA_INIT("test");
        ns_chat_template *t;
        ns_json *m;
        ns_buf out = {0};
        char path[4200];
        snprintf(path, sizeof path, "%s/tokenizers/%s", ns_test_data(), folders_[i]);
        assert_ns_ok(ns_chat_template_load(&t, path, NULL, &err), &err);
        assert_non_null(t);
        assert_ns_ok(ns_json_parse(&m, &a, text, strlen(text), "m", 0, &err), &err);
        ns_chat_render r = {.messages = m, .add_generation_prompt = 1};
        assert_ns_ok(ns_chat_template_render(t, &out, &r, &err), &err);
        assert_string_equal(out.data, want[i]);
        ns_chat_template_free(&t);
        ns_buf_free(&out);
        ns_arena_free(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes),
        cmocka_unit_test_setup_teardown(folders, setup, teardown),
        cmocka_unit_test(bad_messages),
        cmocka_unit_test(published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
