/* Chat rows with templates: which text is trained, which rows are refused and why, forms mixed and forced, settings.
 * The tokenizer is byte-level with one merge ("\nh") and the special tokens of the templates in tests/golden/chat. */
#include "base/testing.h"

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "data/rows.h"
#include "tok/chat_template.h"

static char dir[256], log_text[16384];
static ns_tok *tok;

static void keep_log(ns_log_level level, const char *text, void *user)
{
    (void)user;
    size_t at = strlen(log_text);
    if (level >= NS_LOG_INFO) snprintf(log_text + at, sizeof log_text - at, "%s\n", text);
}

static const char *put_file(const char *name, const char *text)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static const char *const specials[] = {"<s>",
                                       "</s>",
                                       "<|im_start|>",
                                       "<|im_end|>",
                                       "<|start_header_id|>",
                                       "<|end_header_id|>",
                                       "<|eot_id|>",
                                       "[INST]",
                                       "[/INST]",
                                       "<|user|>",
                                       "<|assistant|>",
                                       "<start_of_turn>",
                                       "<end_of_turn>",
                                       "<｜User｜>",
                                       "<｜Assistant｜>",
                                       "<｜end▁of▁sentence｜>",
                                       "[AVAILABLE_TOOLS]",
                                       "[/AVAILABLE_TOOLS]"};

static int setup(void **state)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    (void)state;
    ns_test_tmpdir(dir, sizeof dir);
    assert_ns_ok(
        ns_buf_adds(&b,
                    "{\"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                    "\"use_regex\": false}, \"decoder\": {\"type\": \"ByteLevel\"}, \"added_tokens\": [",
                    &err),
        &err);
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++)
        assert_ns_ok(ns_buf_printf(&b, &err,
                                   "%s{\"id\": %zu, \"content\": \"%s\", \"special\": true, \"normalized\": false}",
                                   i ? ", " : "", 300 + i, specials[i]),
                     &err);
    assert_ns_ok(ns_buf_adds(&b, "], \"model\": {\"type\": \"BPE\", \"vocab\": {", &err), &err);
    for (int i = 0, next = 0x100; i < 256; i++) {
        int plain = (i >= 0x21 && i <= 0x7e) || (i >= 0xa1 && i <= 0xac) || i >= 0xae;
        assert_ns_ok(ns_buf_printf(&b, &err, "\"\\u%04x\": %d, ", plain ? i : next, i), &err);
        next += !plain;
    }
    assert_ns_ok(ns_buf_adds(&b, "\"\\u010ah\": 256}, \"merges\": [\"\\u010a h\"]}}", &err), &err);
    put_file("tokenizer.json", b.data);
    put_file("tokenizer_config.json", "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}");
    ns_buf_free(&b);
    assert_ns_ok(ns_tok_load(&tok, dir, &err), &err);
    ns_log_set_sink(keep_log, NULL);
    return 0;
}

static int teardown(void **state)
{
    char cmd[300];
    (void)state;
    ns_log_set_sink(NULL, NULL);
    ns_tok_free(&tok);
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

/* Path of a golden template. */
static const char *shape(const char *name)
{
    static char path[4200];
    snprintf(path, sizeof path, "%s/tests/golden/chat/templates/%s.jinja", NS_SOURCE_DIR, name);
    return path;
}

static ns_status load(ns_examples *ex, const char *rows, const ns_chat_options *c, ns_rows_options *o, ns_error *err)
{
    ns_chat *chat = NULL;
    char path[512];
    ns_rows_options def = NS_ROWS_OPTIONS_DEFAULT;
    log_text[0] = 0;
    memset(ex, 0, sizeof *ex);
    snprintf(path, sizeof path, "%s", put_file("rows.jsonl", rows));
    ns_status st = ns_chat_open(&chat, dir, c, err);
    if (!o) o = &def;
    o->chat = chat;
    if (st == NS_OK) st = ns_rows_load(ex, path, tok, o, NULL, err);
    ns_chat_free(&chat);
    return st;
}

/* Text of row r: all of it, or what is trained, stretches divided by '|'. */
static void text_of(ns_buf *b, const ns_examples *ex, int64_t r, int trained)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf_clear(b);
    for (int64_t i = ex->start[r]; i < ex->start[r + 1]; i++) {
        if (trained && !ex->mask[i]) continue;
        if (trained && b->len && !ex->mask[i - 1]) assert_ns_ok(ns_buf_addc(b, '|', &err), &err);
        assert_ns_ok(ns_tok_decode(tok, b, ex->ids + i, 1, 0, &err), &err);
    }
}

static void trains(const char *template, const char *row, const ns_chat_options *o, const char *want)
{
    ns_error err = NS_ERROR_INIT;
    ns_chat_options c = NS_CHAT_OPTIONS_DEFAULT;
    ns_examples ex;
    ns_buf b = {0};
    if (o) c = *o;
    c.tmpl = shape(template);
    assert_ns_ok(load(&ex, row, &c, NULL, &err), &err);
    text_of(&b, &ex, 0, 1);
    assert_string_equal(b.data ? b.data : "", want);
    ns_examples_free(&ex);
    ns_buf_free(&b);
}

static void refuses(const char *template, const char *row, const ns_chat_options *o, ns_rows_options *r, ns_status code,
                    const char *needle)
{
    ns_error err = NS_ERROR_INIT;
    ns_chat_options c = NS_CHAT_OPTIONS_DEFAULT;
    ns_examples ex;
    if (o) c = *o;
    if (template) c.tmpl = shape(template);
    assert_ns_fails(load(&ex, row, &c, r, &err), code, needle, &err);
    ns_examples_free(&ex);
}

#define U(t) "{\"role\": \"user\", \"content\": \"" t "\"}"
#define A(t) "{\"role\": \"assistant\", \"content\": \"" t "\"}"
#define ROW(turns) "{\"messages\": [" turns "]}"
#define TALK ROW(U("q1") ", " A("a1") ", " U("q2") ", " A("a2"))

static void shapes(void **state)
{
    (void)state;
    trains("chatml", TALK, NULL, "a1<|im_end|>|a2<|im_end|>");
    trains("chatml_generation", TALK, NULL, "a1<|im_end|>|a2<|im_end|>");
    trains("zephyr", TALK, NULL, "a1</s>|a2</s>");
    trains("llama2", TALK, NULL, " a1 </s>| a2 </s>");
    trains("gemma", TALK, NULL, "a1<end_of_turn>|a2<end_of_turn>");
    trains("llama31", TALK, NULL, "a1<|eot_id|>|a2<|eot_id|>");
    trains("mistral_v3_tools", TALK, NULL, " a1</s>| a2</s>");
    trains("qwen25_tools", TALK, NULL, "a1<|im_end|>|a2<|im_end|>");
    /* the last turn gets an empty thought in front, an earlier one does not: its end is found by its end token */
    trains("qwen3_thinking", TALK, NULL, "a1<|im_end|>|<think>\n\n</think>\n\na2<|im_end|>");
    assert_non_null(strstr(log_text, "1 rows have a trained turn that the chat template writes differently"));
    trains("qwen3_thinking",
           ROW(U("q") ", {\"role\": \"assistant\", \"content\": \"a\", \"reasoning_content\": \"r\"}"), NULL,
           "<think>\nr\n</think>\n\na<|im_end|>");
    /* the generation prompt opens a thought that the rows do not have */
    trains("deepseek_distill", TALK, NULL, "a1<｜end▁of▁sentence｜>|a2<｜end▁of▁sentence｜>");
    assert_non_null(strstr(log_text, "1 rows have a trained turn without the thought (<think>)"));
}

static void choices(void **state)
{
    (void)state;
    ns_chat_options o = NS_CHAT_OPTIONS_DEFAULT;
    o.last_turn_only = 1;
    trains("chatml", TALK, &o, "a2<|im_end|>");
    trains("chatml_generation", TALK, &o, "a2<|im_end|>");
    o = (ns_chat_options)NS_CHAT_OPTIONS_DEFAULT;
    o.roles = "assistant, user";
    trains("chatml", TALK, &o,
           "<|im_start|>user\nq1<|im_end|>|a1<|im_end|>|<|im_start|>user\nq2<|im_end|>|a2<|im_end|>");
    o.roles = "user";
    trains("chatml_generation", ROW(U("q1") ", " A("a1")), &o, "<|im_start|>user\nq1<|im_end|>");
    trains("chatml", ROW(U("q") ", {\"role\": \"assistant\", \"content\": \"a\", \"weight\": 0}, " U("r") ", " A("b")),
           NULL, "b<|im_end|>");
    trains("chatml",
           ROW(U("q") ", {\"role\": \"assistant\", \"content\": \"a\", \"train\": false}, " U("r") ", " A("b")), NULL,
           "b<|im_end|>");
    trains("chatml_generation",
           ROW(U("q") ", {\"role\": \"assistant\", \"content\": \"a\", \"weight\": 0}, " U("r") ", " A("b")), NULL,
           "b<|im_end|>");
    /* variables, tools as a list or its text, arguments as text, parts of a content */
    o = (ns_chat_options)NS_CHAT_OPTIONS_DEFAULT;
    ns_error err = NS_ERROR_INIT;
    ns_examples ex;
    ns_buf b = {0};
    const char *call =
        "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"type\": \"function\", \"function\": "
        "{\"name\": \"f\", \"arguments\": \"{\\\"x\\\": 1}\"}}]}, {\"role\": \"tool\", \"content\": \"7\"}, " A(
            "seven");
    char row[1024], twice[2100];
    snprintf(row, sizeof row,
             "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}, {\"type\": "
             "\"text\", "
             "\"text\": \"b\"}]}, %s], \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]}",
             call);
    trains("qwen25_tools", row, NULL,
           "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call><|im_end|>|seven<|im_end|>");
    snprintf(twice, sizeof twice,
             "%s\n{\"messages\": [{\"role\": \"user\", \"content\": \"ab\"}, %s], \"tools\": \"[{\\\"type\\\": "
             "\\\"function\\\", \\\"function\\\": {\\\"name\\\": \\\"f\\\"}}]\"}\n",
             row, call);
    o.tmpl = shape("qwen25_tools");
    assert_ns_ok(load(&ex, twice, &o, NULL, &err), &err);
    assert_int_equal(ex.n_duplicate, 1); /* both spellings of tools and content give the same row */
    ns_examples_free(&ex);
    o.tmpl = shape("llama31");
    o.kwargs = "{\"date_string\": \"1 May 2026\", \"unused\": 1}";
    assert_ns_ok(load(&ex, TALK, &o, NULL, &err), &err);
    text_of(&b, &ex, 0, 0);
    assert_non_null(strstr(b.data, "Today: 1 May 2026\n"));
    assert_non_null(strstr(log_text, "never reads 'unused'"));
    assert_non_null(strstr(log_text, "format messages, layout "));
    ns_examples_free(&ex);
    ns_buf_free(&b);
}

static void refusals(void **state)
{
    (void)state;
    ns_chat_options o = NS_CHAT_OPTIONS_DEFAULT;
    ns_rows_options r = NS_ROWS_OPTIONS_DEFAULT;
    ns_error err = NS_ERROR_INIT;
    ns_examples ex;
    const char *tools = "{\"messages\": [" U("q1") ", " A("a1") ", " U("q2") ", " A(
        "a2") "], \"tools\": [{\"function\": {\"name\": \"f\"}}]}";
    /* tools stand in front of the last question: alone, the first turn looks different */
    refuses("mistral_v3_tools", tools, NULL, NULL, NS_ERR_UNSUPPORTED,
            "what is trained of turn 1 cannot be told: the template writes");
    refuses("mistral_v3_tools", tools, NULL, NULL, NS_ERR_UNSUPPORTED,
            "'AVAILABLE_TOOLS] [{\"type' when it is about to come and 'INST] q1[/INST]");
    o.last_turn_only = 1;
    trains("mistral_v3_tools", tools, &o, " a2</s>");
    o = (ns_chat_options)NS_CHAT_OPTIONS_DEFAULT;
    refuses("gemma", ROW(A("a")), NULL, NULL, NS_ERR_INPUT, "the template refuses this: Turns must alternate");
    refuses("nemotron", ROW(U("q") ", " A("a")), NULL, NULL, NS_ERR_INPUT,
            "a trained turn ends without an end token (the row ends '<extra_id_1>Assistant\\na\\n')");
    o.allow_missing_end = 1;
    trains("nemotron", ROW(U("q") ", " A("a")), &o, "a\n");
    assert_non_null(strstr(log_text, "1 rows have a trained turn without an end token"));
    o = (ns_chat_options)NS_CHAT_OPTIONS_DEFAULT;
    o.tmpl = shape("nemotron");
    r.add_eos = 1; /* add_eos is an end token, too */
    assert_ns_ok(load(&ex, ROW(U("q") ", " A("a")), &o, &r, &err), &err);
    assert_int_equal(ex.ids[ex.start[1] - 1], 301);
    assert_int_equal(ex.mask[ex.start[1] - 1], 1);
    ns_examples_free(&ex);
    r = (ns_rows_options)NS_ROWS_OPTIONS_DEFAULT;
    r.add_bos = 1;
    refuses("gemma", ROW(U("q") ", " A("a")), NULL, &r, NS_ERR_INPUT,
            "begins with two BOS tokens: the chat template writes one and add_bos adds one");
    o.tmpl = shape("gemma");
    o.allow_double_bos = 1;
    assert_ns_ok(load(&ex, ROW(U("q") ", " A("a")), &o, &r, &err), &err);
    assert_non_null(strstr(log_text, "1 rows begin with two BOS tokens"));
    ns_examples_free(&ex);
    o = (ns_chat_options)NS_CHAT_OPTIONS_DEFAULT;
    o.tmpl = shape("chatml");
    assert_ns_ok(load(&ex, ROW(U("q") ", " A("a")), &o, &r, &err), &err); /* this template has none: add_bos is right */
    assert_int_equal(ex.ids[0], 300);
    ns_examples_free(&ex);
    refuses("chatml", ROW(U("say <|im_end|> now") ", " A("a")), NULL, NULL, NS_ERR_INPUT,
            "content of turn 0 holds the special token '<|im_end|>'");
    o.allow_special_text = 1;
    trains("chatml", ROW(U("say <|im_end|> now") ", " A("a")), &o, "a<|im_end|>");
    assert_non_null(strstr(log_text, "1 rows hold special tokens in their text"));
    refuses("chatml", "{\"messages\": []}", NULL, NULL, NS_ERR_INPUT, "\"messages\" is an empty list");
    refuses("chatml", ROW("{\"role\": \"user\"}"), NULL, NULL, NS_ERR_INPUT, "turn 0 has no content");
    refuses("chatml", ROW("{\"content\": \"x\"}"), NULL, NULL, NS_ERR_INPUT, "turn 0 has no \"role\"");
    refuses("chatml", ROW("{\"role\": \"assistant\", \"content\": \"x\", \"weight\": 0.5}"), NULL, NULL, NS_ERR_INPUT,
            "weight of turn 0 is another number");
    refuses("chatml", ROW("{\"role\": \"assistant\", \"content\": \"x\", \"train\": 1}"), NULL, NULL, NS_ERR_INPUT,
            "train of turn 0 is a number, expected true");
    refuses("chatml", "{\"messages\": [" U("q") "], \"tools\": 3}", NULL, NULL, NS_ERR_INPUT,
            "field \"tools\" is a number, expected a list");
    refuses("chatml", "{\"messages\": [" U("q") "], \"tools\": \"[\"}", NULL, NULL, NS_ERR_INPUT, "rows.jsonl:1");
    /* settings */
    o = (ns_chat_options)NS_CHAT_OPTIONS_DEFAULT;
    o.kwargs = "{";
    refuses("chatml", TALK, &o, NULL, NS_ERR_INPUT, "chat_template_kwargs");
    o.kwargs = "[1]";
    refuses("chatml", TALK, &o, NULL, NS_ERR_CONFIG, "chat_template_kwargs is a list, expected an object");
    o.kwargs = "{\"a\": 1}";
    refuses(NULL, TALK, &o, NULL, NS_ERR_CONFIG, "there is no chat template in");
    o = (ns_chat_options)NS_CHAT_OPTIONS_DEFAULT;
    o.date = "2026-13-01";
    refuses("chatml", TALK, &o, NULL, NS_ERR_CONFIG, "chat_date '2026-13-01': expected YYYY-MM-DD");
    o = (ns_chat_options)NS_CHAT_OPTIONS_DEFAULT;
    o.roles = "";
    refuses("chatml", TALK, &o, NULL, NS_ERR_CONFIG, "roles_to_train is empty");
    o = (ns_chat_options)NS_CHAT_OPTIONS_DEFAULT;
    o.tmpl = "rag";
    refuses(NULL, TALK, &o, NULL, NS_ERR_CONFIG, "no chat template named 'rag'");
    o = (ns_chat_options)NS_CHAT_OPTIONS_DEFAULT;
    refuses(NULL, tools, &o, NULL, NS_ERR_UNSUPPORTED,
            "the row has tools, and the shipped llama3 layout has no place for them");
}

/* A folder's template that cannot be used matters only to chat rows. */
static void unusable(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_chat_options o = NS_CHAT_OPTIONS_DEFAULT;
    ns_examples ex;
    put_file("chat_template.jinja", "a\n{% include 'x' %}");
    assert_ns_ok(load(&ex, "{\"input\": \"q\", \"output\": \"a\"}", &o, NULL, &err), &err);
    ns_examples_free(&ex);
    assert_ns_fails(load(&ex, TALK, &o, NULL, &err), NS_ERR_UNSUPPORTED,
                    "chat_template.jinja:2:4: the tag 'include' is not supported (another one:", &err);
    o.tmpl = "shipped";
    assert_ns_ok(load(&ex, TALK, &o, NULL, &err), &err);
    ns_examples_free(&ex);
    /* the date: one moment for all rows, said unless it is fixed */
    o.tmpl = "auto";
    put_file("chat_template.jinja",
             "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}");
    assert_ns_ok(load(&ex, TALK, &o, NULL, &err), &err);
    assert_non_null(strstr(log_text, "writes today's date into the rows"));
    ns_examples_free(&ex);
    o.date = "2026-05-01";
    ns_buf b = {0};
    assert_ns_ok(load(&ex, TALK, &o, NULL, &err), &err);
    assert_null(strstr(log_text, "today's date"));
    text_of(&b, &ex, 0, 0);
    assert_string_equal(b.data, "2026-05-01q1</s>a1</s>q2</s>a2</s>");
    ns_examples_free(&ex);
    ns_buf_free(&b);
    char path[512];
    snprintf(path, sizeof path, "%s/chat_template.jinja", dir);
    unlink(path);
}

static void forms(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_chat_options o = NS_CHAT_OPTIONS_DEFAULT;
    ns_examples ex;
    ns_buf b = {0};
    const char *rows = ROW(U("q") ", " A("a")) "\n{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}, "
                                               "{\"from\": \"gpt\", \"value\": \"a\"}]}\n"
                                               "{\"instruction\": \"q\", \"output\": \"a\"}\n"
                                               "{\"prompt\": [" U("q") "], \"completion\": [" A(
                                                   "a") "]}\n"
                                                        "{\"conversations\": [" U("q") ", " A("a") "]}\n";
    o.tmpl = shape("chatml");
    assert_ns_ok(load(&ex, rows, &o, NULL, &err), &err);
    assert_string_equal(ex.format, "messages 1, sharegpt 2, alpaca 1, prompt/completion 1");
    assert_int_equal(ex.n_duplicate, 4); /* all five say the same */
    text_of(&b, &ex, 2, 0);
    assert_string_equal(b.data, "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n");
    ns_examples_free(&ex);
    trains("chatml", "{\"prompt\": [" U("q") ", " A("old") ", " U("r") "], \"completion\": [" A("a") "]}", NULL,
           "a<|im_end|>");
    trains("chatml",
           "{\"system\": \"s\", \"instruction\": \"i\", \"input\": \"n\", \"output\": \"o\", \"history\": [[\"x\", "
           "\"y\"]]}",
           NULL, "y<|im_end|>|o<|im_end|>");
    /* prepare's rows keep the shipped layout, as they were made for it */
    const char *nemo = "{\"system\": \"\", \"mask\": \"User\", \"conversations\": [{\"from\": \"User\", \"value\": "
                       "\"q\"}, {\"from\": \"Assistant\", "
                       "\"value\": \"a\"}]}";
    assert_ns_ok(load(&ex, nemo, &o, NULL, &err), &err);
    text_of(&b, &ex, 0, 0);
    assert_string_equal(b.data, "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n<|eot_id|><|start_"
                                "header_id|>user<|end_header_id|>"
                                "\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>");
    assert_non_null(strstr(log_text, "layout llama3 (rows of prepare's chat formats)"));
    ns_examples_free(&ex);
    /* forced */
    o.form = "sharegpt";
    assert_ns_fails(load(&ex, TALK, &o, NULL, &err), NS_ERR_INPUT,
                    "field \"conversations\" is missing, expected a list", &err);
    o.form = "template";
    assert_ns_fails(load(&ex, TALK, &o, NULL, &err), NS_ERR_INPUT, "expected the fields of prompt_template", &err);
    o.form = "auto";
    assert_ns_fails(load(&ex, TALK "\n{\"text\": 3}\n", &o, NULL, &err), NS_ERR_INPUT,
                    "rows.jsonl:2: the row has text and no conversation", &err);
    /* both input, output and messages: prepared text wins unless the form is forced */
    const char *both = "{\"input\": \"I\", \"output\": \"O\", \"messages\": [" U("q") ", " A("a") "]}";
    assert_ns_ok(load(&ex, both, &o, NULL, &err), &err);
    assert_string_equal(ex.format, "input/output");
    ns_examples_free(&ex);
    o.form = "messages";
    assert_ns_ok(load(&ex, both, &o, NULL, &err), &err);
    assert_string_equal(ex.format, "messages");
    ns_examples_free(&ex);
    ns_buf_free(&b);
}

/* "\nh" is one token: the header's newline must stay with the prompt, as it is at inference. */
static void borders(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_chat_options o = NS_CHAT_OPTIONS_DEFAULT;
    ns_examples ex;
    trains("chatml", ROW(U("q") ", " A("hello\\nh")), NULL, "hello\nh<|im_end|>");
    assert_non_null(strstr(log_text, "1 rows would have a token across the beginning of a trained turn"));
    o.tmpl = shape("chatml");
    assert_ns_ok(load(&ex, ROW(U("h") ", " A("hello\\nh")), &o, NULL, &err), &err);
    int merged = 0;
    for (int64_t i = 0; i < ex.start[1]; i++) merged += ex.ids[i] == 256;
    assert_int_equal(merged, 2); /* "user\nh" and the answer's own */
    ns_examples_free(&ex);
    ns_rows_options r = NS_ROWS_OPTIONS_DEFAULT;
    r.max_seq_length = 30;
    assert_ns_ok(load(&ex, TALK, &o, &r, &err), &err);
    assert_int_equal(ex.start[1], 30);
    assert_int_equal(ex.n_truncated, 1);
    ns_examples_free(&ex);
}

static void out_of_memory(void **state)
{
    (void)state;
    for (uint64_t n = 1;; n += 1 + n / 40) {
        ns_error err = NS_ERROR_INIT;
        ns_chat_options o = NS_CHAT_OPTIONS_DEFAULT;
        ns_examples ex;
        o.tmpl = shape(n % 2 ? "qwen3_thinking" : "chatml_generation");
        o.kwargs = "{\"enable_thinking\": false}";
        ns_mem_fail_at(n, 0);
        ns_status st = load(&ex, TALK, &o, NULL, &err);
        int hit = ns_mem_fault_hit();
        int needed = hit && strcmp(ns_mem_fault_label(), "progress") != 0; /* a run goes on without its progress line */
        ns_mem_fail_at(0, 0);
        if (needed)
            assert_int_equal(st, NS_ERR_MEMORY);
        else
            assert_ns_ok(st, &err);
        ns_examples_free(&ex);
        if (!hit) break;
    }
}

/* The shipped layouts as templates for other programs write what training wrote. */
static void layouts_as_templates(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *prompt;
    } cases[] = {{"llama3",
                  "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                  "<|start_header_id|>assistant<|end_header_id|>\n\nho<|eot_id|>",
                  "<|start_header_id|>assistant<|end_header_id|>\n\n"},
                 {"chatml", "<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\nho<|im_end|>\n",
                  "<|im_start|>assistant\n"}};
    static const char talk[] =
        "[{\"role\": \"user\", \"content\": \" hi \"}, {\"role\": \"assistant\", \"content\": \"ho\"}]";
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_json *v;
    assert_null(ns_chat_layout_template("alpaca"));
    assert_null(ns_chat_layout_template("no"));
    assert_ns_ok(ns_json_parse(&v, &a, talk, sizeof talk - 1, "talk", 0, &err), &err);
    for (int i = 0; i < 2; i++) {
        const char *text = ns_chat_layout_template(cases[i].name);
        ns_chat_template *t;
        ns_buf b = {0};
        ns_chat_render r = {.messages = v};
        assert_ns_ok(ns_chat_template_build(&t, text, strlen(text), cases[i].name, NULL, &err), &err);
        assert_ns_ok(ns_chat_template_render(t, &b, &r, &err), &err);
        assert_string_equal(b.data, cases[i].text);
        r.add_generation_prompt = 1;
        assert_ns_ok(ns_chat_template_render(t, &b, &r, &err), &err); /* appends */
        assert_string_equal(b.data + b.len - strlen(cases[i].prompt), cases[i].prompt);
        ns_buf_free(&b);
        ns_chat_template_free(&t);
    }
    /* the layout itself, in this tokenizer's ids */
    ns_chat_options o = NS_CHAT_OPTIONS_DEFAULT;
    ns_chat_show_options so = {0};
    ns_chat *c;
    ns_chat_shown shown;
    o.tmpl = "shipped";
    assert_ns_ok(ns_chat_open(&c, dir, &o, &err), &err);
    assert_ns_ok(ns_chat_show(&shown, c, tok, v, &so, "talk", &err), &err);
    ns_buf b = {0};
    assert_ns_ok(ns_tok_decode(tok, &b, shown.ids.v, shown.ids.n, 0, &err), &err);
    assert_string_equal(b.data, cases[0].text);
    ns_buf_free(&b);
    ns_chat_shown_free(&shown);
    ns_chat_free(&c);
    ns_arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes),        cmocka_unit_test(choices),
        cmocka_unit_test(refusals),      cmocka_unit_test(unusable),
        cmocka_unit_test(forms),         cmocka_unit_test(borders),
        cmocka_unit_test(out_of_memory), cmocka_unit_test(layouts_as_templates),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
