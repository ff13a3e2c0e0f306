/* Preparing data: the recorded runs of the reference byte for byte, documented command lines, the processors' own rules, and
 * the messages of bad input. */
#include "data/prepare.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/testing.h"
#include "data/files.h"

static char dir[256], log_text[1 << 16];
static ns_threads *pool;

static void sink(ns_log_level level, const char *line, void *user)
{
    (void)user;
    size_t n = strlen(log_text);
    snprintf(log_text + n, sizeof log_text - n, "%d %s\n", (int)level, line);
}

static int setup(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_log_set_sink(sink, NULL);
    ns_test_tmpdir(dir, sizeof dir);
    return ns_threads_new(&pool, 2, &err) != NS_OK;
}

static int teardown(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_threads_free(&pool);
    return ns_remove_tree(dir, &err) != NS_OK;
}

static const char *in_dir(const char *name)
{
    static char path[8][600];
    static int next;
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static const char *write_file(const char *name, const char *text)
{
    ns_error err = NS_ERROR_INIT;
    const char *path = in_dir(name);
    assert_ns_ok(ns_file_replace(path, text, strlen(text), &err), &err);
    return path;
}

static ns_status run_words(const char *config, const char *const *words, size_t n, ns_error *err)
{
    ns_config *c = NULL;
    const char *yaml = NULL;
    log_text[0] = 0;
    for (size_t i = 0; ns_prepare_configs[i]; i += 2)
        if (!strcmp(ns_prepare_configs[i], config)) yaml = ns_prepare_configs[i + 1];
    if (!yaml) yaml = config;
    ns_status st = ns_config_new(&c, err);
    if (st == NS_OK) st = ns_config_parse_yaml(c, yaml, strlen(yaml), "test.yaml", err);
    for (size_t i = 0; st == NS_OK && i < n; i++) st = ns_config_override(c, words[i], err);
    if (st == NS_OK) st = ns_prepare_run(c, pool, NULL, err);
    ns_config_free(&c);
    return st;
}

/* "++key=value" with printf; lives until the test ends */
static const char *word(const char *fmt, ...)
{
    static char text[32][700];
    static int next;
    char *t = text[next++ % 32];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t, sizeof text[0], fmt, ap);
    va_end(ap);
    return t;
}
#define RUN(config, err, ...)                                                                                          \
    run_words(config, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *), \
              err)
#define QUIET "++filters.remove_contaminated=false", "++filters.remove_len_outlier_problems=false"

static void expect_file(const char *path, const char *want)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    assert_ns_ok(ns_file_read(&b, path, &err), &err);
    assert_string_equal(b.data ? b.data : "", want);
    ns_buf_free(&b);
}

static void expect_same_files(const char *a, const char *b)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf x = {0}, y = {0};
    assert_ns_ok(ns_file_read(&x, a, &err), &err);
    assert_ns_ok(ns_file_read(&y, b, &err), &err);
    size_t n = x.len < y.len ? x.len : y.len;
    for (size_t i = 0; i < n; i++)
        if (x.data[i] != y.data[i])
            fail_msg("%s differs from %s at byte %zu: ...%.80s, expected ...%.80s", a, b, i, x.data + i, y.data + i);
    assert_int_equal(x.len, y.len);
    ns_buf_free(&x);
    ns_buf_free(&y);
}

/* ---- recorded runs ---- */
/* tests/data/X and contamination.jsonl are files of the data folder. */
static const char *place(const char *value)
{
    ns_buf b = {0};
    ns_error err = NS_ERROR_INIT;
    static char out[700];
    for (const char *p = value; *p;) {
        if (!strncmp(p, "tests/data/", 11)) {
            assert_ns_ok(ns_buf_printf(&b, &err, "%s/prepare_data/", ns_test_data()), &err);
            p += 11;
        } else if (!strcmp(p, "contamination.jsonl") && p == value) {
            assert_ns_ok(ns_buf_printf(&b, &err, "%s/prepare_data/%s", ns_test_data(), p), &err);
            break;
        } else {
            assert_ns_ok(ns_buf_addc(&b, *p++, &err), &err);
        }
    }
    snprintf(out, sizeof out, "%s", b.data);
    ns_buf_free(&b);
    return out;
}

/* Recorded log lines must appear in this order among ours, which say more. */
static void expect_log(const ns_json *lines, const char *name)
{
    const char *at = log_text;
    for (size_t i = 0; i < lines->n; i++) {
        char want[300];
        ns_str s = lines->items[i].s;
        const char *text = memchr(s.p, ' ', s.n);
        while (*text == ' ') text++;
        snprintf(want, sizeof want, "%d %.*s\n", s.p[0] == 'W' ? NS_LOG_WARN : NS_LOG_INFO, (int)(s.p + s.n - text),
                 text);
        const char *hit = strstr(at, want);
        if (!hit) fail_msg("%s: log line missing or out of order: %s\nlog:\n%s", name, want, log_text);
        at = hit + strlen(want) - 1;
    }
}

/* apart: every processor parses and writes rows by itself, since a file between two of them is asked for */
static void recorded_runs_within(const char *memory, int apart)
{
    ns_error err = NS_ERROR_INIT;
    ns_arena a = NS_ARENA_INIT("test");
    ns_json *cases;
    char path[4200], want[4400];
    int n_equal = 0;
    snprintf(path, sizeof path, "%s/prepare_data/cases.json", ns_test_data());
    assert_ns_ok(ns_json_read_file(&cases, &a, path, &err), &err);
    for (size_t i = 0; i < cases->n; i++) {
        const ns_json *k = &cases->items[i], *o = ns_json_get(k, "overrides");
        char name[64], config[64];
        const char *words[32], *out = in_dir("out.jsonl");
        size_t n = 0;
        snprintf(name, sizeof name, "%.*s", (int)ns_json_get(k, "case")->s.n, ns_json_get(k, "case")->s.p);
        snprintf(config, sizeof config, "%.*s", (int)ns_json_get(k, "config")->s.n, ns_json_get(k, "config")->s.p);
        words[n++] = word("++output_path=%s", out);
        words[n++] = word("++memory=%s", memory);
        if (apart) words[n++] = word("++processors.0.output_manifest_file=%s", in_dir("read.jsonl"));
        for (size_t j = 0; j < o->n; j++) {
            char value[300];
            snprintf(value, sizeof value, "%.*s", (int)o->items[j].s.n, o->items[j].s.p);
            const char *v = !strcmp(value, "OUT") ? out : place(value);
            const char *quote = strchr(v, ',') ? "'" : "";
            words[n++] = word("++%.*s=%s%s%s", (int)o->keys[j].n, o->keys[j].p, quote, v, quote);
        }
        assert_ns_ok(run_words(config, words, n, &err), &err);
        if (!strcmp(name, "generic_math_chat_fails")) continue; /* works here: examples are empty in chat records */
        snprintf(want, sizeof want, "%s/prepare_data/expected/%s.jsonl", ns_test_data(), name);
        if (!strcmp(name, "fair_equal_total")) { /* the reference loses every row when the total equals the request */
            assert_non_null(strstr(log_text, "Prepared dataset size: 101"));
            continue;
        }
        expect_same_files(out, want);
        expect_log(ns_json_get(k, "log"), name);
        n_equal++;
    }
    assert_int_equal(n_equal, 14);
    print_message("memory %s, apart %d: %d recorded runs are equal byte for byte; 2 differ on purpose\n", memory, apart,
                  n_equal);
    ns_arena_free(&a);
}

static void recorded_runs(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    recorded_runs_within("1.5GB", 0);
    recorded_runs_within("20kB", 0);
    recorded_runs_within("1", 0);
    recorded_runs_within("1.5GB", 1);
    recorded_runs_within("1", 1);
}

static void gsm8k(void **state)
{
    (void)state;
    NS_SKIP_WITHOUT_DATA();
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    const char *out = in_dir("gsm8k.jsonl"),
               *input = word("++preprocessed_dataset_files=%s/gsm8k/train.jsonl", ns_test_data());
    assert_ns_ok(RUN("math_sft", &err, input, word("++output_path=%s", out), "++input_key=question",
                     "++output_key=answer", "++prompt_config=generic/default", "++prompt_template=llama3-instruct",
                     QUIET, "++do_shuffle=false"),
                 &err);
    assert_non_null(strstr(log_text, "Prepared dataset size: 7473"));
    assert_ns_ok(ns_file_read(&b, out, &err), &err);
    const char *first =
        "{\"input\": \"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\\n\\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\\n\\nNatalia sold clips to 48 of her friends in April";
    assert_memory_equal(b.data, first, strlen(first));
    ns_buf_free(&b);
    assert_ns_fails(RUN("math_sft", &err, input, word("++output_path=%s", in_dir("no.jsonl")), "++input_key=question",
                        "++output_key=answer", "++prompt_config=generic/math", "++prompt_template=llama3-instruct",
                        QUIET, "++do_shuffle=false"),
                    NS_ERR_INPUT,
                    "train.jsonl:1: prompt_config generic/math needs a field \"problem\" (available: question)", &err);
    assert_false(ns_path_exists(in_dir("no.jsonl")));
}

/* ---- rules ---- */
static void run_small(const char *rows, const char *w1, const char *w2, const char *want)
{
    ns_error err = NS_ERROR_INIT;
    const char *in = write_file("in.jsonl", rows), *out = in_dir("small.jsonl");
    assert_ns_ok(RUN("math_sft", &err, word("++preprocessed_dataset_files=%s", in), word("++output_path=%s", out),
                     QUIET, "++do_shuffle=false", w1, w2),
                 &err);
    expect_file(out, want);
}

static void rules(void **state)
{
    (void)state;
    /* values: big integers in full, shortest floats, escapes of the ASCII style, order of keys */
    run_small(
        "{\"problem\":\"\\u00e9\\ud83d\\ude00\\u007f/\",\"generation\":\"a\\tb\",\"n\":123456789012345678901234567890,"
        "\"f\":1e5,\"g\":0.00001,\"expected_answer\":true}\n",
        "++exclude_optional_keys=false", "++processors.0.keys_to_keep=[n,f,g,expected_answer]",
        "{\"problem\": \"\\u00e9\\ud83d\\ude00\\u007f/\", \"generation\": \"a\\tb\", \"n\": "
        "123456789012345678901234567890, \"f\": 100000.0, \"g\": 1e-05, \"expected_answer\": true, \"input\": "
        "\"\\u00e9\\ud83d\\ude00\\u007f/\", \"output\": \"a\\tb\"}\n");
    /* the answer becomes text; metadata comes last and wins */
    run_small("{\"problem\":\"p\",\"generation\":\"g\",\"expected_answer\":1.50}\n",
              "++metadata={src: gsm8k, output: X}", "++deduplicate=true",
              "{\"expected_answer\": \"1.5\", \"input\": \"p\", \"output\": \"X\", \"src\": \"gsm8k\"}\n");
    /* boxes: cut behind the last one, two drop the row */
    run_small("{\"problem\":\"p\",\"generation\":\"My solution:\\nx \\\\boxed{a{b}c} y\\nz\"}\n"
              "{\"problem\":\"q\",\"generation\":\"\\\\boxed{1} \\\\boxed{2}\"}\n"
              "{\"problem\":\"r\",\"generation\":\"\\\\boxed 5\\nz\"}\n",
              "++skip_first=0", "++add_correct=true",
              "{\"input\": \"p\", \"output\": \"x \\\\boxed{a{b}c} y\"}\n{\"input\": \"r\", \"output\": \"\\\\boxed "
              "5\\nz\"}\n");
    assert_non_null(strstr(log_text, "DropMultiBoxed: removed 1, modified 0"));
    /* the switches of the two trimmers are separate */
    run_small("{\"problem\":\"p\",\"generation\":\"My solution:\\nx \\\\boxed{1}\\nz\"}\n",
              "++filters.trim_prefix=false", "++filters.trim_solutions=true",
              "{\"input\": \"p\", \"output\": \"My solution:\\nx \\\\boxed{1}\"}\n");
    /* majority votes */
    run_small("{\"problem\":\"p\",\"generation\":\"g\",\"majority_votes\":3,\"total_votes\":8}\n"
              "{\"problem\":\"q\",\"generation\":\"g\",\"majority_votes\":4,\"total_votes\":8}\n"
              "{\"problem\":\"r\",\"generation\":\"g\",\"majority_votes\":null,\"total_votes\":8}\n",
              "++filters.majority_filter=true", "++majority_filter.min_majority_percentage=0.5",
              "{\"input\": \"q\", \"output\": \"g\"}\n{\"input\": \"r\", \"output\": \"g\"}\n");
    /* literal texts */
    run_small(
        "{\"problem\":\"p\",\"generation\":\"Traceback (most recent call last)\"}\n{\"problem\":\"q\",\"generation\":"
        "\"Traceback most\"}\n",
        "++filters.remove_code_errors=true", "++skip_first=0", "{\"input\": \"q\", \"output\": \"Traceback most\"}\n");
    /* code or text by majority */
    const char *mixed = "{\"problem\":\"p\",\"generation\":\"t1\"}\n{\"problem\":\"q\",\"generation\":\"t2\"}\n"
                        "{\"problem\":\"p\",\"generation\":\"```python\\nc1\"}\n{\"problem\":\"p\",\"generation\":\"```"
                        "python\\nc2\"}\n";
    ns_error err = NS_ERROR_INIT;
    const char *in = write_file("mixed.jsonl", mixed), *out = in_dir("mixed-out.jsonl");
    const struct {
        const char *mode, *order;
    } modes[] = {
        {"all", "c1 c2"}, {"majority_code", "c1 c2 t2"}, {"majority_text", "c1 c2 t2"}, {"any_code", "c1 c2 t2"}};
    for (size_t i = 0; i < 4; i++) {
        assert_ns_ok(RUN("math_sft", &err, word("++preprocessed_dataset_files=%s", in), word("++output_path=%s", out),
                         QUIET, "++do_shuffle=false", word("++filters.code_text_filter=%s", modes[i].mode),
                         "++prompt_template=qwen-instruct"),
                     &err);
        ns_buf b = {0};
        char got[64] = "";
        assert_ns_ok(ns_file_read(&b, out, &err), &err);
        for (const char *p = b.data; (p = strstr(p, "output\": \"")) != NULL;) {
            p += 10;
            if (!strncmp(p, "```python\\n", 11)) p += 11;
            snprintf(got + strlen(got), sizeof got - strlen(got), "%s%.2s", *got ? " " : "", p);
        }
        assert_string_equal(got, modes[i].order);
        ns_buf_free(&b);
    }
}

static void judgement_and_labels(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    const char *out = in_dir("j.jsonl");
    const char *in = write_file(
        "raw.jsonl", "{\"problem\":\"a\",\"generation\":\"1\",\"judgement\":\"x Judgement: no Judgement:  YES \"}\n"
                     "{}\n{\"problem\":\"b\",\"generation\":\"2\",\"judgement\":\"Judgement: no\"}\n"
                     "{\"problem\":\"c\",\"generation\":\"3\"}\n"
                     "{\"problem\":\"d\",\"generation\":\"4\",\"judgement\":\"Yes\"}\n");
    assert_ns_ok(RUN("math_sft", &err, word("++input_files=%s", in), word("++output_path=%s", out), QUIET,
                     "++do_shuffle=false", "++use_judgement=true"),
                 &err);
    expect_file(out, "{\"input\": \"a\", \"output\": \"1\"}\n");
    assert_non_null(strstr(log_text, "1 rows have no \"judgement\" and were skipped"));
    assert_ns_fails(RUN("math_sft", &err, word("++input_files=%s", in), word("++output_path=%s", out), QUIET),
                    NS_ERR_INPUT, "has the field \"is_correct\": use ++preprocessed_dataset_files", &err);
    /* two files, one twice: every one is read, in the order of the list */
    write_file("b1.jsonl", "{\"problem\":\"1\",\"generation\":\"x\"}\n");
    write_file("b2.jsonl", "{\"problem\":\"2\",\"generation\":\"x\"}\n");
    assert_ns_ok(RUN("math_sft", &err,
                     word("++preprocessed_dataset_files=%s %s", in_dir("b2.jsonl"), in_dir("b?.jsonl")),
                     word("++output_path=%s", out), QUIET, "++do_shuffle=false"),
                 &err);
    assert_non_null(strstr(log_text, "before deduplication: 3"));
    expect_file(out, "{\"input\": \"2\", \"output\": \"x\"}\n{\"input\": \"1\", \"output\": \"x\"}\n");
}

static void other_configs(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    const char *out = in_dir("c.jsonl");
    const char *in = write_file(
        "code.jsonl", "{\"input\":\"a\",\"output\":\"```python\\n1\"}\n{\"input\":\"b\",\"output\":\"none\"}\n");
    assert_ns_ok(RUN("code_sft", &err, word("++preprocessed_dataset_files=%s", in), word("++output_path=%s", out),
                     "++filters.drop_incorrect_code_blocks=true"),
                 &err);
    expect_file(out, "{\"input\": \"a\", \"output\": \"```python\\n1\"}\n");
    in = write_file("rl.jsonl",
                    "{\"problem\":\"a\",\"expected_answer\":5}\n{\"problem\":\"b\",\"expected_answer\":\"\"}\n"
                    "{\"problem\":\"c\",\"expected_answer\":null}\n");
    assert_ns_ok(RUN("math_rl", &err, word("++input_files=%s", in), word("++output_path=%s", out), QUIET,
                     "++num_output_samples=1"),
                 &err);
    expect_file(out, "{\"expected_answer\": \"5\", \"problem\": \"a\", \"input\": \"a\", \"task_name\": \"math\"}\n");
    assert_non_null(strstr(log_text, "Downsampled dataset size: 1"));
    /* groups survive a file between two runs */
    in = write_file("g.jsonl", "{\"problem\":\"a\",\"generation\":\"1\"}\n{\"problem\":\"b\",\"generation\":\"2\"}\n"
                               "{\"problem\":\"a\",\"generation\":\"\\u00e9\"}\n");
    const char *mid = in_dir("groups.jsonl");
    assert_ns_ok(RUN("math_sft", &err, word("++preprocessed_dataset_files=%s", in), QUIET, "++processors_to_run=0:3",
                     word("++processors.2.output_manifest_file=%s", mid)),
                 &err);
    expect_file(mid,
                "[{\"problem\": \"a\", \"generation\": \"1\"}, {\"problem\": \"a\", \"generation\": \"\\u00e9\"}]\n"
                "[{\"problem\": \"b\", \"generation\": \"2\"}]\n");
    assert_ns_ok(RUN("math_sft", &err, "++processors_to_run='3:'", word("++processors.2.output_manifest_file=%s", mid),
                     word("++output_path=%s", out), "++downsampling_method=fair", "++num_output_samples=2",
                     "++do_shuffle=false"),
                 &err);
    expect_file(out, "{\"input\": \"a\", \"output\": \"1\"}\n{\"input\": \"b\", \"output\": \"2\"}\n");
}

static void no_temporary_file_is_left(void)
{
    ns_error err = NS_ERROR_INIT;
    ns_files f = {0};
    assert_ns_ok(ns_files_add_pattern(&f, in_dir("*.tmp*"), &err), &err);
    assert_ns_ok(ns_files_add_pattern(&f, in_dir(".*.tmp*"), &err), &err);
    assert_int_equal(f.n, 0);
    ns_files_free(&f);
}

/* Rows beyond one block and one tile; any number of workers writes the same bytes. */
static void many_rows(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    for (int i = 0; i < 20000; i++)
        assert_ns_ok(ns_buf_printf(&b, &err, "{\"problem\":\"p%d\",\"generation\":\"g%d \\\\boxed{%d}\\ntail\"}\n",
                                   i % 7000, i % 15000, i),
                     &err);
    const char *in = write_file("many.jsonl", b.data), *one = in_dir("one.jsonl"), *two = in_dir("two.jsonl");
    ns_threads *keep = pool;
    static const char *const memory[] = {"100MB", "1 GiB", "2MiB", "200kB"};
    static const char *const sampling[] = {"++filters.remove_code_errors=true", "++downsampling_method=random",
                                           "++downsampling_method=fair"};
    for (int how = 0; how < 3; how++) {
        for (int k = 0; k < 4; k++) { /* one thread; two; rows on disk; keys in several passes, too */
            pool = k ? keep : NULL;
            assert_ns_ok(RUN("math_sft", &err, word("++preprocessed_dataset_files=%s", in),
                             word("++output_path=%s", k ? two : one), QUIET, sampling[how],
                             how ? "++num_output_samples=15000" : "++random_seed=7", word("++memory=%s", memory[k])),
                         &err);
            assert_non_null(strstr(log_text, how ? "Prepared dataset size: 15000" : "Prepared dataset size: 20000"));
            assert_int_equal(strstr(log_text, "they go to temporary files in") != NULL, k > 1);
            if (k) expect_same_files(one, two);
        }
    }
    pool = keep;
    for (int k = 0; k < 2; k++) /* groups that go on in the next block */
        assert_ns_ok(RUN("math_sft", &err, word("++preprocessed_dataset_files=%s", in), QUIET,
                         "++processors_to_run=0:3", word("++processors.2.output_manifest_file=%s", k ? two : one),
                         word("++memory=%s", memory[3 * k])),
                     &err);
    expect_same_files(one, two);
    for (int k = 0; k < 2; k++)
        assert_ns_ok(RUN("math_rl", &err, word("++input_files=%s", in), word("++output_path=%s", k ? two : one), QUIET,
                         "++filters.drop_none_answers=false", word("++memory=%s", memory[3 * k])),
                     &err);
    expect_same_files(one, two);
    no_temporary_file_is_left();
    /* unshuffled rows pass block by block, in the order of the input */
    assert_ns_ok(RUN("code_sft", &err, word("++preprocessed_dataset_files=%s", in), word("++output_path=%s", two),
                     "++input_key=problem", "++output_key=generation"),
                 &err);
    ns_buf got = {0}, want = {0};
    assert_ns_ok(ns_file_read(&got, two, &err), &err);
    for (int i = 0; i < 20000; i++)
        assert_ns_ok(ns_buf_printf(&want, &err, "{\"input\": \"p%d\", \"output\": \"g%d \\\\boxed{%d}\\ntail\"}\n",
                                   i % 7000, i % 15000, i),
                     &err);
    assert_string_equal(got.data, want.data);
    ns_buf_free(&got);
    ns_buf_free(&want);
    ns_buf_free(&b);
}

/* What was left out, by whom and why: counted, saved, and listed when asked. */
static void statistics(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    const char *in =
        write_file("s.jsonl", "{\"problem\":\"a\",\"generation\":\"1\",\"is_correct\":true}\n{}\n"
                              "{\"problem\":\"b\",\"generation\":\"2\",\"is_correct\":false}\n"
                              "{\"problem\":\"a\",\"generation\":\"1\",\"is_correct\":true}\n"
                              "{\"problem\":\"c\",\"generation\":\"\\\\boxed{1} \\\\boxed{2}\",\"is_correct\":true}\n"
                              "{\"problem\":\"d\",\"generation\":\"3\"}\n"
                              "{\"problem\":\"a\",\"generation\":\"My solution:\\n1\",\"is_correct\":true}\n"
                              "{\"problem\":\"e\",\"generation\":\"4\",\"is_correct\":true}\n"
                              "{\"problem\":\"f\",\"generation\":\"5\",\"is_correct\":true}\n");
    const char *out = in_dir("s-out.jsonl"), *dropped = in_dir("dropped.jsonl");
    char want[4000];
    const struct {
        int line;
        const char *by, *path, *why;
    } rows[] = {{2, "ReadData", "processors.0", "empty"},
                {3, "ReadData", "processors.0", "incorrect"},
                {4, "ReadData", "processors.0", "repeated"},
                {6, "ReadData", "processors.0", "no label"},
                {5, "DropMultiBoxed", "processors.1.processor_configs.0", "DropMultiBoxed"},
                {9, "ShuffleAndDownsampleData", "processors.4", "not sampled"},
                {7, "WriteFinalSftManifest", "processors.5", "repeated"}};
    want[0] = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        snprintf(want + strlen(want), sizeof want - strlen(want),
                 "{\"file\": \"%s\", \"line\": %d, \"by\": \"%s\", \"path\": \"%s\", \"why\": \"%s\"}\n", in,
                 rows[i].line, rows[i].by, rows[i].path, rows[i].why);
    for (int k = 0; k < 2; k++) {
        assert_ns_ok(RUN("math_sft", &err, word("++input_files=%s", in), word("++output_path=%s", out),
                         "++filters.remove_len_outlier_problems=false", "++do_shuffle=false",
                         "++downsampling_method=random", "++num_output_samples=3", word("++dropped_file=%s", dropped),
                         k ? "++memory=1" : "++memory=1GB"),
                     &err);
        if (!k) expect_file(dropped, want);
        ns_arena a = NS_ARENA_INIT("test");
        ns_json *o;
        assert_ns_ok(ns_json_read_file(&o, &a, word("%s.stats.json", out), &err), &err);
        const ns_json *stages = ns_json_get(o, "processors");
        const struct {
            int stage;
            const char *key;
            int64_t n;
        } counts[] = {{0, "rows_out", 5},      {0, "samples", 6},   {0, "repeated", 1}, {0, "empty", 1},
                      {0, "without_label", 1}, {0, "incorrect", 1}, {1, "rows_in", 5},  {1, "rows_out", 4},
                      {1, "removed", 1},       {1, "modified", 1},  {2, "groups", 3},   {3, "removed", 1},
                      {3, "rows_out", 3},      {4, "repeated", 1},  {4, "rows_out", 2}};
        int64_t n = 0;
        assert_true(ns_json_is_int(ns_json_get(o, "rows"), &n) && n == 2);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            const ns_json *v = ns_json_get(&stages->items[counts[i].stage], counts[i].key);
            if (!v || !ns_json_is_int(v, &n) || n != counts[i].n)
                fail_msg("memory %d: %s of processor %d is %lld, expected %lld", k, counts[i].key, counts[i].stage,
                         (long long)n, (long long)counts[i].n);
        }
        const ns_json *filters = ns_json_get(&stages->items[1], "filters");
        assert_true(ns_str_eq(ns_json_get(&filters->items[1], "skipped_without")->s, "contamination_file"));
        ns_arena_free(&a);
    }
}

/* An error of a row counts only if the row gets to the processor that finds it. */
static void errors_in_turn(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    const char *out = in_dir("turn.jsonl");
    const char *in = write_file("turn-in.jsonl",
                                "{\"problem\":\"a\",\"generation\":\"1\"}\n"
                                "{\"problem\":\"a\",\"generation\":\"1\",\"majority_votes\":[],\"total_votes\":1}\n");
    assert_ns_ok(RUN("math_sft", &err, word("++preprocessed_dataset_files=%s", in), word("++output_path=%s", out),
                     QUIET, "++filters.majority_filter=true"),
                 &err);
    expect_file(out, "{\"input\": \"a\", \"output\": \"1\"}\n");
    const char *words[] = {
        word("++preprocessed_dataset_files=%s", in),   word("++output_path=%s", out), "++filters.majority_filter=true",
        "++filters.remove_len_outlier_problems=false", "++deduplicate=false",         NULL};
    for (int k = 0; k < 2; k++) {
        words[5] = k ? word("++processors.0.output_manifest_file=%s", in_dir("read.jsonl")) : "++random_seed=1";
        assert_ns_fails(run_words("math_sft", words, 6, &err), NS_ERR_INPUT,
                        "turn-in.jsonl:2: majority_votes and total_votes must be numbers", &err);
    }
}

/* ---- bad input ---- */
static void errors(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    const char *out = word("++output_path=%s", in_dir("never.jsonl"));
#define ROWS_FAIL(text, needle)                                                                                    \
    assert_ns_fails(                                                                                               \
        RUN("math_sft", &err, word("++preprocessed_dataset_files=%s", write_file("bad.jsonl", text)), out, QUIET), \
        NS_ERR_INPUT, needle, &err)
    ROWS_FAIL("{\"problem\":\"p\",\"generation\":\"g\"}\n{\"problem\":\"p\",\n", "bad.jsonl:2");
    ROWS_FAIL("{\"problem\":\"p\",\"generation\":\"g\"}\n\n{\"problem\":\"q\",\"generation\":\"g\"}\n", "bad.jsonl:2");
    ROWS_FAIL("{\"problem\":\"p\xff\",\"generation\":\"g\"}\n", "bad.jsonl:1");
    ROWS_FAIL("{\"problem\":\"p\",\"generatio\":\"g\"}\n",
              "bad.jsonl:1: no field \"generation\" (the row has: problem, generatio)");
    ROWS_FAIL("{\"question\":\"p\",\"generation\":\"g\"}\n", "set ++input_key to the right name");
    ROWS_FAIL("{\"problem\":\"p\",\"generation\":5}\n", "field \"generation\" is a number, expected text");
    ROWS_FAIL("[]\n", "the row is a list, expected an object");
    ROWS_FAIL("", "no rows in");
    assert_false(ns_path_exists(in_dir("never.jsonl")));

    const char *in =
        word("++preprocessed_dataset_files=%s", write_file("good.jsonl", "{\"problem\":\"p\",\"generation\":\"g\"}\n"));
    char in_kept[700], out_kept[700];
    snprintf(in_kept, sizeof in_kept, "%s", in);
    snprintf(out_kept, sizeof out_kept, "%s", out);
#define SETTING_FAILS(code, needle, ...) assert_ns_fails(RUN("math_sft", &err, __VA_ARGS__), code, needle, &err)
    SETTING_FAILS(NS_ERR_INPUT, "No files found with the given pattern.", word("++input_files=%s/none*", dir),
                  out_kept);
    SETTING_FAILS(NS_ERR_INPUT, "none*' matches nothing", word("++input_files=%s/none*", dir), out_kept,
                  "++preprocessed_dataset_files=/dev/null");
    SETTING_FAILS(NS_ERR_CONFIG, "no processor of this configuration uses 'filters.drop_none_answers'", in_kept,
                  out_kept, "++filters.drop_none_answers=true");
    SETTING_FAILS(NS_ERR_CONFIG, "uses 'outptu_key': did you mean 'output_key'?", in_kept, out_kept, "++outptu_key=a");
    assert_ns_fails(RUN("math_rl", &err, in_kept, out_kept, "++chat_format=llama"), NS_ERR_CONFIG,
                    "no processor of this configuration uses 'chat_format'", &err);
    SETTING_FAILS(NS_ERR_CONFIG, "no input: set ++input_files", out_kept);
    SETTING_FAILS(NS_ERR_CONFIG, "output_path is not set: add ++output_path=FILE.jsonl", in_kept);
    SETTING_FAILS(NS_ERR_CONFIG, "is both an input and the output", in_kept,
                  word("++output_path=%s", in_dir("good.jsonl")));
    SETTING_FAILS(NS_ERR_CONFIG, "nothing would be read", in_kept, out_kept, "++add_correct=false");
    SETTING_FAILS(NS_ERR_CONFIG, "needs ++num_output_samples", in_kept, out_kept, "++downsampling_method=fair");
    SETTING_FAILS(NS_ERR_CONFIG, "needs ++downsampling_method", in_kept, out_kept, "++num_output_samples=5");
    SETTING_FAILS(NS_ERR_CONFIG, "expected fair, random", in_kept, out_kept, "++downsampling_method=fare",
                  "++num_output_samples=5");
    SETTING_FAILS(NS_ERR_CONFIG, "chat_format=gpt", in_kept, out_kept, "++chat_format=gpt");
    SETTING_FAILS(NS_ERR_CONFIG, "did you mean 'generic/math'?", in_kept, out_kept, "++prompt_config=generic/mat",
                  "++prompt_template=llama3-instruct");
    SETTING_FAILS(NS_ERR_CONFIG, "needs ++prompt_template", in_kept, out_kept, "++filters.code_text_filter=all");
    SETTING_FAILS(NS_ERR_CONFIG, "expected all, start:stop", in_kept, out_kept, "++processors_to_run=some");
    SETTING_FAILS(NS_ERR_CONFIG, "has no input", in_kept, out_kept, "++processors_to_run='2:'");
    SETTING_FAILS(NS_ERR_CONFIG, "ReadData has no parameter 'skip_frist': did you mean 'skip_first'?", in_kept,
                  out_kept, "++processors.0.skip_frist=1");
    SETTING_FAILS(NS_ERR_CONFIG, "memory=lots: expected a size such as 1.5GB", in_kept, out_kept, "++memory=lots");
    SETTING_FAILS(NS_ERR_CONFIG, "memory=-1: expected a size", in_kept, out_kept, "++memory=-1");
    SETTING_FAILS(NS_ERR_CONFIG, "temp_dir=/no/such is not a folder", in_kept, out_kept, "++temp_dir=/no/such");
    SETTING_FAILS(NS_ERR_CONFIG, "is both an input and the output", in_kept, out_kept,
                  word("++dropped_file=%s", in_dir("good.jsonl")));
    SETTING_FAILS(NS_ERR_CONFIG, "is both an input and the output", in_kept, out_kept,
                  word("++stats_file=%s", in_dir("good.jsonl")));
    SETTING_FAILS(NS_ERR_CONFIG, "metadata is a", in_kept, out_kept, "++metadata=text");
    SETTING_FAILS(NS_ERR_IO, "contamination_file", in_kept, out_kept, "++contamination_file=/no/such/file",
                  "++filters.remove_len_outlier_problems=false");
    /* filters whose input is missing are skipped, with one line each that names the switch */
    assert_ns_ok(RUN("math_sft", &err, in_kept, out_kept), &err);
    assert_non_null(strstr(log_text, "++filters.remove_contaminated=false"));
    assert_non_null(strstr(log_text, "++hf_model_name=TOKENIZER, or ++filters.remove_len_outlier_problems=false"));

    const char *yaml = "processors:\n  - _target_: some.where.ReadDta\n";
    assert_ns_fails(run_words(yaml, NULL, 0, &err), NS_ERR_CONFIG,
                    "unknown processor 'some.where.ReadDta': did you mean 'ReadData'?", &err);
    assert_ns_fails(run_words("x: 1\n", NULL, 0, &err), NS_ERR_CONFIG, "no list of processors", &err);
    char own[1200];
    snprintf(own, sizeof own,
             "processors:\n  - _target_: ReadData\n    preprocessed_dataset_files: %s\n    input_key: problem\n"
             "  - _target_: TrimPrefix\n    output_manifest_file: %s\n    test_cases:\n"
             "      - {input: {generation: \"My solution:\\nx\"}, output: {generation: %s}}\n",
             in_dir("good.jsonl"), in_dir("trimmed.jsonl"), "y");
    assert_ns_fails(
        run_words(own, NULL, 0, &err), NS_ERR_CONFIG,
        "test case 0 of TrimPrefix fails: produced {\"generation\": \"x\"}, expected {\"generation\": \"y\"}", &err);
    own[strlen(own) - 4] = 'x'; /* the right expectation */
    assert_ns_ok(run_words(own, NULL, 0, &err), &err);
    expect_file(in_dir("trimmed.jsonl"), "{\"problem\": \"p\", \"generation\": \"g\"}\n");
}

/* A failing write leaves an earlier file untouched and no temporary file behind. */
static void write_faults(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    const char *in = write_file("f.jsonl", "{\"problem\":\"p\",\"generation\":\"g\"}\n"),
               *kinds[] = {"write", "fsync", "rename"};
    for (int i = 0; i < 3; i++) {
        const char *out = write_file("kept.jsonl", "old\n");
        ns_sys_fail_at(kinds[i], 1, 28 /* ENOSPC */);
        ns_status st =
            RUN("math_sft", &err, word("++preprocessed_dataset_files=%s", in), word("++output_path=%s", out), QUIET);
        assert_true(ns_sys_fault_hit());
        ns_sys_fail_at(NULL, 0, 0);
        assert_int_equal(st, NS_ERR_IO);
        expect_file(out, "old\n");
        ns_files f = {0};
        err = (ns_error)NS_ERROR_INIT;
        assert_ns_ok(ns_files_add_pattern(&f, in_dir("kept.jsonl.tmp*"), &err), &err);
        assert_int_equal(f.n, 0);
        ns_files_free(&f);
    }
}

/* An input is never replaced by the output, under whatever name; a pipe or device is written in place and stays one. */
static void output_names(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    const char *row = "{\"problem\":\"p\",\"generation\":\"g\"}\n", *want = "{\"input\": \"p\", \"output\": \"g\"}\n";
    const char *in = write_file("raw-in.jsonl", row), *given = word("++preprocessed_dataset_files=%s", in);
    const char *hard = in_dir("hard.jsonl"), *soft = in_dir("soft.jsonl");
    const char *bad = write_file("bad-problems.jsonl", "{\"problem\":\"q\",\"contaminated\":true}\n");
    assert_int_equal(link(in, hard), 0);
    assert_int_equal(symlink(in, soft), 0);
    const char *others[] = {word("%s/./raw-in.jsonl", dir), word("%s/../%s/raw-in.jsonl", dir, strrchr(dir, '/') + 1),
                            hard, soft};
    for (size_t i = 0; i < 4; i++) {
        assert_ns_fails(RUN("math_sft", &err, given, word("++output_path=%s", others[i]), QUIET), NS_ERR_CONFIG,
                        "is both an input and the output (as '", &err);
        expect_file(in, row);
    }
    assert_ns_fails(RUN("math_sft", &err, given, word("++output_path=%s", bad), word("++contamination_file=%s", bad)),
                    NS_ERR_CONFIG, "bad-problems.jsonl is both an input and the output:", &err);
    const char *packed[] = {"o.jsonl.gz", "o.jsonl.zst", "o.parquet"};
    for (size_t i = 0; i < 3; i++) {
        assert_ns_fails(RUN("math_sft", &err, given, word("++output_path=%s", in_dir(packed[i])), QUIET), NS_ERR_CONFIG,
                        "is read but not written: choose a name that ends in .jsonl", &err);
        assert_false(ns_path_exists(in_dir(packed[i])));
    }

    const char *pipe_name = in_dir("pipe"), *target = write_file("target.jsonl", "old\n"),
               *link_name = in_dir("link.jsonl");
    char got[200] = "";
    struct stat sb;
    assert_int_equal(mkfifo(pipe_name, 0600), 0);
    int fd = open(pipe_name, O_RDWR | O_NONBLOCK);
    assert_true(fd >= 0);
    assert_ns_ok(RUN("math_sft", &err, given, word("++output_path=%s", pipe_name), QUIET), &err);
    assert_int_equal(read(fd, got, sizeof got - 1), strlen(want));
    assert_string_equal(got, want);
    close(fd);
    assert_true(lstat(pipe_name, &sb) == 0 && S_ISFIFO(sb.st_mode));
    assert_int_equal(symlink(target, link_name), 0);
    assert_ns_ok(RUN("math_sft", &err, given, word("++output_path=%s", link_name), QUIET), &err);
    expect_file(target, want);
    assert_true(lstat(link_name, &sb) == 0 && S_ISLNK(sb.st_mode));
    no_temporary_file_is_left();
}

static void file_lists(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char root[600];
    snprintf(root, sizeof root, "%s/glob", dir);
    assert_ns_ok(ns_mkdirs(in_dir("glob/sub/deep"), &err), &err);
    const char *names[] = {"glob/b.x", "glob/a.x", "glob/.hidden.x", "glob/sub/c.x", "glob/sub/deep/d.x", "glob/e 1.y"};
    for (size_t i = 0; i < 6; i++) write_file(names[i], "");
    const struct {
        const char *pattern, *want;
    } cases[] = {
        {"%s/*.x", "a.x b.x"},
        {"%s/[!a].x", "b.x"},
        {"%s/b.x %s/a.x", "b.x a.x"},
        {"%s/e 1.y,%s/a.x", "e 1.y a.x"},
        {" %s/e 1.y , %s/b.x ", "e 1.y b.x"},
        {"%s/b.x, %s/a.x", "b.x a.x"},
        {"%s/b.x  %s/a.x,", "b.x a.x"},
        {"[%s/b.x,%s/a.x]", "b.x a.x"},
        {"%s/e 1.y", "e 1.y"},
        {"%s/.h*.x", ".hidden.x"},
        {"%s/**/*.x", "a.x b.x sub/c.x sub/deep/d.x"},
        {"%s/**", "a.x b.x e 1.y sub/c.x sub/deep/d.x"},
        {"%s/*/c.x", "sub/c.x"},
        {"%s/none", ""},
        {"%s/a.x,%s/a.x", "a.x a.x"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1300], got[600] = "";
        ns_files f = {0};
        snprintf(text, sizeof text, cases[i].pattern, root, root);
        assert_ns_ok(ns_files_add(&f, text, &err), &err);
        for (size_t k = 0; k < f.n; k++)
            snprintf(got + strlen(got), sizeof got - strlen(got), "%s%s", k ? " " : "", f.path[k] + strlen(root) + 1);
        assert_string_equal(got, cases[i].want);
        ns_files_free(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recorded_runs), cmocka_unit_test(gsm8k),
        cmocka_unit_test(rules),         cmocka_unit_test(judgement_and_labels),
        cmocka_unit_test(other_configs), cmocka_unit_test(many_rows),
        cmocka_unit_test(errors),        cmocka_unit_test(write_faults),
        cmocka_unit_test(statistics),    cmocka_unit_test(errors_in_turn),
        cmocka_unit_test(file_lists),    cmocka_unit_test(output_names),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
