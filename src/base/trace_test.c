/* A trace of two ranks is one JSON file with the spans of both; what does not fit is said; without a trace nothing happens. */
#include "base/trace.h"

#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/testing.h"

static void test_trace(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char path[64] = "/tmp/ns-trace-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    ns_trace *t[2];
    for (int r = 0; r < 2; r++) {
        assert_ns_ok(ns_trace_open(&t[r], path, r, 3, &err), &err);
        ns_trace_span(t[r], NS_TRACE_COMPUTE, "forward", ns_time_now() - 0.25, 0);
        ns_trace_span(t[r], NS_TRACE_COMM, "all_gather", ns_time_now(), 1234);
        assert_ns_ok(ns_trace_flush(t[r], &err), &err);
        for (int k = 0; k < 5; k++) ns_trace_span(t[r], NS_TRACE_COMM, "send", ns_time_now(), 1);
        assert_ns_ok(ns_trace_close(&t[r], &err), &err);
        assert_null(t[r]);
    }
    assert_ns_ok(ns_trace_join(path, 2, &err), &err);
    ns_buf text = {0};
    ns_json *root = NULL;
    ns_arena arena = NS_ARENA_INIT("trace_test");
    assert_ns_ok(ns_file_read(&text, path, &err), &err);
    assert_ns_ok(ns_json_parse(&root, &arena, text.data, text.len, path, 0, &err), &err);
    const ns_json *events = ns_json_get(root, "traceEvents");
    assert_int_equal(events->n,
                     2 * (1 + NS_TRACE_N_LANES + 2 + 3 + 1)); /* names, first spans, three of five, one that says so */
    assert_non_null(strstr(text.data, "\"2 more spans\""));
    assert_non_null(strstr(text.data, "\"args\": {\"bytes\": 1234}"));
    assert_non_null(strstr(text.data, "\"name\": \"forward\", \"ph\": \"X\", \"pid\": 1, \"tid\": 0"));
    ns_trace_span(NULL, NS_TRACE_COMM, "send", 0, 0);
    assert_ns_ok(ns_trace_flush(NULL, &err), &err);
    assert_ns_fails(ns_trace_join(path, 3, &err), NS_ERR_IO, "rank0", &err);
    assert_ns_fails(ns_trace_open(&t[0], "/nowhere/trace", 0, 3, &err), NS_ERR_IO, "/nowhere/trace.rank0", &err);
    unlink(path);
    ns_buf_free(&text);
    ns_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_trace)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
