/* Which token ends a turn, for the templates of known families (tests/golden/chat/templates) and a tokenizer with their tokens. */
#include "tok/end_of_turn.h"

#include "base/file.h"
#include "base/testing.h"

static ns_tok *tok;
static char dir[256];

static const char *const specials[] = {
    "<s>",        "</s>",          "<|im_start|>",   "<|im_end|>", "<|start_header_id|>",
    "<|eot_id|>", "<end_of_turn>", "<start_of_turn>"};

static int setup(void **state)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    char path[512];
    (void)state;
    ns_test_tmpdir(dir, sizeof dir);
    assert_ns_ok(
        ns_buf_adds(&b,
                    "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": "
                    "true}, \"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": "
                    "{\"a\": 8, \"Ċ\": 9, \"Ġ\": 10}, \"merges\": []}, \"added_tokens\": [",
                    &err),
        &err);
    for (int i = 0; i < 8; i++)
        assert_ns_ok(ns_buf_printf(&b, &err,
                                   "%s{\"id\": %d, \"content\": \"%s\", \"special\": true, \"normalized\": false, "
                                   "\"lstrip\": false, \"rstrip\": false, \"single_word\": false}",
                                   i ? ", " : "", i, specials[i]),
                     &err);
    assert_ns_ok(ns_buf_adds(&b, "]}", &err), &err);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    assert_ns_ok(ns_file_replace(path, b.data, b.len, &err), &err);
    ns_buf_free(&b);
    assert_ns_ok(ns_tok_load(&tok, dir, &err), &err);
    return 0;
}

static int teardown(void **state)
{
    ns_error err = NS_ERROR_INIT;
    (void)state;
    ns_tok_free(&tok);
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
    return 0;
}

static void families(void **state)
{
    (void)state;
    static const struct {
        const char *file, *token; /* NULL: none */
    } cases[] = {{"chatml", "<|im_end|>"},    {"chatml_generation", "<|im_end|>"}, {"qwen25_tools", "<|im_end|>"},
                 {"llama31", "<|eot_id|>"},   {"gemma", "<end_of_turn>"},          {"llama2", "</s>"},
                 {"mistral_v3_tools", "</s>"}};
    ns_error err = NS_ERROR_INIT;
    ns_json eos = {.type = NS_JSON_STRING, .s = {"</s>", 4}}, bos = {.type = NS_JSON_STRING, .s = {"<s>", 3}};
    ns_str keys[] = {{"eos_token", 9}, {"bos_token", 9}};
    ns_json values[] = {eos, bos}, config = {.type = NS_JSON_OBJECT, .n = 2, .items = values, .keys = keys};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[512];
        ns_buf b = {0};
        ns_chat_template *t = NULL;
        int32_t id = -2;
        snprintf(path, sizeof path, NS_SOURCE_DIR "/tests/golden/chat/templates/%s.jinja", cases[i].file);
        assert_ns_ok(ns_file_read(&b, path, &err), &err);
        assert_ns_ok(ns_chat_template_build(&t, b.data, b.len, cases[i].file, &config, &err), &err);
        assert_ns_ok(ns_chat_end_of_turn(&id, t, tok, &err), &err);
        if (id != ns_tok_id(tok, cases[i].token)) fail_msg("%s: %d", cases[i].file, id);
        ns_chat_template_free(&t);
        ns_buf_free(&b);
    }
}

/* A template that refuses the conversation, writes no answer, or ends it with plain text has no end of turn. */
static void none(void **state)
{
    (void)state;
    static const char *const texts[] = {"{{ raise_exception('no') }}", "{{ messages[0].content }}<|im_end|>",
                                        "{{ messages[1].content }} END"};
    ns_error err = NS_ERROR_INIT;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        ns_chat_template *t = NULL;
        int32_t id = -2;
        assert_ns_ok(ns_chat_template_build(&t, texts[i], strlen(texts[i]), "t", NULL, &err), &err);
        assert_ns_ok(ns_chat_end_of_turn(&id, t, tok, &err), &err);
        assert_int_equal(id, -1);
        ns_chat_template_free(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(families), cmocka_unit_test(none)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
