/* Every allocation and every system call of a run of prepare fails in turn: the run reports an error if and only if what
 * failed mattered, with one message; it frees everything; the output is whole or not there, and nothing else is left.
 * In memory and with rows on disk; a sample of the faults normally, all of them with NS_FULL=1, few under tsan, for which
 * they are all alike and slow. */
#include "base/testing.h"

#include <dirent.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "data/prepare.h"

enum { N_ROWS = 60 };
static char g_dir[256], g_out[300], g_rows[300];
static ns_buf g_whole; /* the output of a run without a fault */

static void quiet(ns_log_level level, const char *line, void *user)
{
    (void)level, (void)line, (void)user;
}

static ns_status prepare(const char *memory, ns_error *err)
{
    const char *yaml = ns_prepare_configs[1];
    char words[6][400];
    ns_config *c = NULL;
    snprintf(words[0], sizeof words[0], "++input_files=%s", g_rows);
    snprintf(words[1], sizeof words[1], "++output_path=%s", g_out);
    snprintf(words[2], sizeof words[2], "++memory=%s", memory);
    snprintf(words[3], sizeof words[3], "++dropped_file=%s/dropped.jsonl", g_dir);
    snprintf(words[4], sizeof words[4], "++prompt_config=generic/math");
    snprintf(words[5], sizeof words[5], "++prompt_template=llama3-instruct");
    ns_status st = ns_config_new(&c, err);
    if (st == NS_OK) st = ns_config_parse_yaml(c, yaml, strlen(yaml), "math_sft", err);
    for (int i = 0; st == NS_OK && i < 6; i++) st = ns_config_override(c, words[i], err);
    if (st == NS_OK) st = ns_prepare_run(c, NULL, NULL, err);
    ns_config_free(&c);
    return st;
}

static int under_tsan(void)
{
    const char *kind = getenv("NS_SANITIZER");
    return kind && !strcmp(kind, "tsan");
}

static int setup(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    ns_log_set_sink(quiet, NULL);
    ns_test_tmpdir(g_dir, sizeof g_dir);
    snprintf(g_out, sizeof g_out, "%s/out.jsonl", g_dir);
    snprintf(g_rows, sizeof g_rows, "%s/rows", g_dir);
    for (int i = 0; i < N_ROWS; i++)
        if (ns_buf_printf(&b, &err,
                          "{\"problem\": \"%d + 1?\", \"generation\": \"It is \\\\boxed{%d}.\\nYes.\", \"is_correct\": "
                          "%s}\n",
                          i % 20, i % 30 + 1, i % 5 ? "true" : "false") != NS_OK)
            return 1;
    int bad = ns_file_replace(g_rows, b.data, b.len, &err) != NS_OK;
    ns_buf_free(&b);
    if (bad || prepare("1GB", &err) != NS_OK) return 1; /* what is kept for the life of the process is allocated here */
    return ns_file_read(&g_whole, g_out, &err) != NS_OK;
}

static int teardown(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_buf_free(&g_whole);
    return ns_remove_tree(g_dir, &err) != NS_OK;
}

static void clear_outputs(void)
{
    char path[400];
    static const char *const names[] = {"out.jsonl", "out.jsonl.stats.json", "dropped.jsonl"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", g_dir, names[i]);
        remove(path);
    }
}

static int is_whole(const char *name, const char *last)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    char path[400];
    size_t n = strlen(last);
    snprintf(path, sizeof path, "%s/%s", g_dir, name);
    int whole = ns_file_read(&b, path, &err) == NS_OK && b.len > n && !memcmp(b.data + b.len - n, last, n);
    ns_buf_free(&b);
    return whole;
}

/* Only the input and complete files are there. */
static void check_folder(ns_status st, unsigned long long n)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    DIR *d = opendir(g_dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (strstr(e->d_name, ".tmp") || !strncmp(e->d_name, ".ns", 3))
            fail_msg("fault %llu (status %s): '%s' is left", n, ns_status_name(st), e->d_name);
    closedir(d);
    if (ns_path_exists(g_out)) {
        assert_ns_ok(ns_file_read(&b, g_out, &err), &err);
        if (b.len != g_whole.len || memcmp(b.data, g_whole.data, b.len))
            fail_msg("fault %llu (status %s): the output differs", n, ns_status_name(st));
        ns_buf_free(&b);
    } else if (st == NS_OK) {
        fail_msg("fault %llu: no output, and no error", n);
    }
    if (st == NS_OK) assert_true(is_whole("out.jsonl.stats.json", "}\n") && is_whole("dropped.jsonl", "}\n"));
}

static void check_message(const ns_error *err, unsigned long long n)
{
    if (!err->msg[0] || strchr(err->msg, '\n')) fail_msg("fault %llu: message '%s'", n, err->msg);
}

static void every_allocation(const char *memory)
{
    int hit = 1, n_faults = 0, step = getenv("NS_FULL") ? 1 : under_tsan() ? 23 : 7;
    uint64_t bytes = ns_mem_get_stats().bytes_now;
    for (uint64_t n = 1; hit; n += (uint64_t)step) {
        ns_error err = NS_ERROR_INIT;
        clear_outputs();
        ns_mem_fail_at(n, 0);
        ns_status st = prepare(memory, &err);
        hit = ns_mem_fault_hit();
        const char *label = hit ? ns_mem_fault_label() : "";
        ns_mem_fail_at(0, 0);
        if (!hit) assert_ns_ok(st, &err);
        if (hit && st == NS_OK && strcmp(label, "progress"))
            fail_msg("allocation %llu (%s) failed and nobody noticed", (unsigned long long)n, label);
        if (st != NS_OK) check_message(&err, n);
        if (st != NS_OK && st != NS_ERR_MEMORY)
            fail_msg("allocation %llu (%s): status %s, '%s'", (unsigned long long)n, label, ns_status_name(st),
                     err.msg);
        if (ns_mem_get_stats().bytes_now != bytes)
            fail_msg("allocation %llu (%s): %lld bytes are not freed", (unsigned long long)n, label,
                     (long long)(ns_mem_get_stats().bytes_now - bytes));
        check_folder(st, n);
        n_faults += hit;
    }
    assert_true(n_faults > (under_tsan() ? 10 : 20));
    print_message("memory %s: %d allocation faults\n", memory, n_faults);
}

static void allocations(void **state)
{
    (void)state;
    every_allocation("1GB");
    every_allocation("1kB");
}

static void every_system_call(const char *memory)
{
    int hit = 1, n_faults = 0, n_failed = 0;
    uint64_t bytes = ns_mem_get_stats().bytes_now;
    for (uint64_t n = 1, step = under_tsan() ? 11 : 1; hit; n += step) {
        ns_error err = NS_ERROR_INIT;
        clear_outputs();
        ns_sys_fail_at(NULL, n, 28 /* ENOSPC */);
        ns_status st = prepare(memory, &err);
        hit = ns_sys_fault_hit();
        ns_sys_fail_at(NULL, 0, 0);
        if (!hit) assert_ns_ok(st, &err);
        if (st != NS_OK) check_message(&err, n);
        if (ns_mem_get_stats().bytes_now != bytes)
            fail_msg("system call %llu: %lld bytes are not freed", (unsigned long long)n,
                     (long long)(ns_mem_get_stats().bytes_now - bytes));
        check_folder(st, n);
        n_faults += hit;
        n_failed += st != NS_OK;
    }
    assert_true(n_faults > (under_tsan() ? 3 : 10) && n_failed > n_faults / 2);
    print_message("memory %s: %d system call faults, %d of them ended the run\n", memory, n_faults, n_failed);
}

static void system_calls(void **state)
{
    (void)state;
    every_system_call("1GB");
    every_system_call("1kB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(allocations), cmocka_unit_test(system_calls)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
