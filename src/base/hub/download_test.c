/* Downloads from a small server on this machine: layout of the cache, continuing, faults of server and way, refusals; the resolver;
 * SHA-1 and SHA-256 against FIPS 180's examples. */
#include "base/hub/download.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "base/file.h"
#include "base/hub/http.h"
#include "base/hub/hub.h"
#include "base/hub/sha.h"
#include "base/log.h"
#include "base/testing.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"
enum { BIG = 300000 };

static char dir[256], endpoint[64], small[] = "{\"model_type\": \"llama\"}", small_sum[65], big[BIG], big_sum[65];
static const char *rfilename = "config.json";

/* ---- the server ---- */
static struct {
    int fd;
    atomic_int n_503, n_cut, n_wrong; /* so many of the next answers for the big file are broken so */
    atomic_int status;                /* of the list; 0: 200 */
    atomic_int no_ranges, n_requests, n_ranges, saw_token;
} srv;

static void send_all(int c, const char *p, size_t n)
{
    while (n) {
        ssize_t k = send(c, p, n, MSG_NOSIGNAL);
        if (k <= 0) return;
        p += k;
        n -= (size_t)k;
    }
}

static void answer(int c, int status, const char *p, size_t n, size_t sent)
{
    char head[256];
    int k = snprintf(head, sizeof head, "HTTP/1.1 %d x\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status, n);
    send_all(c, head, (size_t)k);
    send_all(c, p, sent);
}

static void send_list(int c)
{
    char text[1024];
    int n = snprintf(
        text, sizeof text,
        "{\"sha\": \"" COMMIT "\", \"siblings\": [{\"rfilename\": \"%s\", \"size\": %zu, \"blobId\": \"%s\"}, "
        "{\"rfilename\": \"sub/model.safetensors\", \"size\": %d, \"blobId\": \"%040d\", \"lfs\": {\"sha256\": "
        "\"%s\", \"size\": %d, \"pointerSize\": 135}}, {\"rfilename\": \"pytorch_model.bin\", \"size\": 1, "
        "\"blobId\": \"%040d\"}]}",
        rfilename, strlen(small), small_sum, BIG, 1, big_sum, BIG, 2);
    answer(c, 200, text, (size_t)n, (size_t)n);
}

static int take_one(atomic_int *n)
{
    int had = atomic_load(n);
    return had > 0 && atomic_fetch_sub(n, 1) > 0;
}

static void send_big(int c, const char *request)
{
    const char *range = strstr(request, "Range: bytes=");
    size_t from = range && !srv.no_ranges ? (size_t)strtoul(range + 13, NULL, 10) : 0;
    int status = range && !srv.no_ranges ? 206 : 200;
    if (range) srv.n_ranges++;
    if (take_one(&srv.n_503)) {
        answer(c, 503, "busy", 4, 4);
    } else if (take_one(&srv.n_cut)) {
        answer(c, status, big + from, BIG - from, (BIG - from) / 2);
    } else if (take_one(&srv.n_wrong)) {
        char *copy = malloc(BIG);
        memcpy(copy, big, BIG);
        copy[BIG - 1] ^= 1;
        answer(c, status, copy + from, BIG - from, BIG - from);
        free(copy);
    } else {
        answer(c, status, big + from, BIG - from, BIG - from);
    }
}

static void serve_one(int c)
{
    char request[4096];
    size_t n = 0;
    while (n < sizeof request - 1) {
        ssize_t k = recv(c, request + n, sizeof request - 1 - n, 0);
        if (k <= 0) return;
        n += (size_t)k;
        request[n] = 0;
        if (strstr(request, "\r\n\r\n")) break;
    }
    srv.n_requests++;
    if (strstr(request, "Authorization: Bearer secret")) srv.saw_token = 1;
    if (!strncmp(request, "GET /api/models/org/tiny/revision/main?blobs=true ", 50)) {
        if (srv.status)
            answer(c, srv.status, "no", 2, 2);
        else
            send_list(c);
    } else if (!strncmp(request, "GET /org/tiny/resolve/" COMMIT "/config.json ", 75)) {
        answer(c, 200, small, strlen(small), strlen(small));
    } else if (!strncmp(request, "GET /org/tiny/resolve/" COMMIT "/sub/model.safetensors ", 85)) {
        send_big(c, request);
    } else {
        answer(c, 404, "no", 2, 2);
    }
}

static void *serve(void *user)
{
    (void)user;
    for (;;) {
        int c = accept(srv.fd, NULL, NULL);
        if (c < 0) return NULL;
        serve_one(c);
        shutdown(c, SHUT_WR);
        close(c);
    }
}

static int setup(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof a;
    pthread_t t;
    ns_sha s;
    char head[32];
    (void)state;
    ns_test_tmpdir(dir, sizeof dir);
    for (int i = 0; i < BIG; i++) big[i] = (char)(i * 2654435761u >> 13);
    ns_sha256_begin(&s);
    ns_sha_add(&s, big, BIG);
    ns_sha_hex(&s, big_sum);
    ns_sha1_begin(&s);
    ns_sha_add(&s, head, (size_t)snprintf(head, sizeof head, "blob %zu", strlen(small)) + 1);
    ns_sha_add(&s, small, strlen(small));
    ns_sha_hex(&s, small_sum);
    srv.fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(srv.fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(getsockname(srv.fd, (struct sockaddr *)&a, &n), 0);
    assert_int_equal(listen(srv.fd, 16), 0);
    assert_int_equal(pthread_create(&t, NULL, serve, NULL), 0);
    pthread_detach(t);
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", ntohs(a.sin_port));
    return 0;
}

static int teardown(void **state)
{
    ns_error err = NS_ERROR_INIT;
    (void)state;
    shutdown(srv.fd, SHUT_RDWR);
    assert_ns_ok(ns_remove_tree(dir, &err), &err);
    return 0;
}

static void fresh(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    setenv("HF_HUB_CACHE", path, 1);
    unsetenv("HF_HUB_OFFLINE");
    srv.n_503 = srv.n_cut = srv.n_wrong = srv.status = srv.no_ranges = srv.n_requests = srv.n_ranges = srv.saw_token =
        0;
    rfilename = "config.json";
}

static ns_download_report r;
static ns_status get(ns_error *err)
{
    ns_download_args a = {.name = "org/tiny", .endpoint = endpoint, .token = "secret", .n_tries = 4, .backoff_ms = 1};
    return ns_download(&a, &r, err);
}

static const char *at(const char *rel)
{
    static char path[8192];
    snprintf(path, sizeof path, "%s/models--org--tiny/%s", getenv("HF_HUB_CACHE"), rel);
    return path;
}

static void assert_whole(void)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    assert_ns_ok(ns_file_read(&b, at("snapshots/" COMMIT "/sub/model.safetensors"), &err), &err);
    assert_int_equal(b.len, BIG);
    assert_memory_equal(b.data, big, BIG);
    ns_buf_clear(&b);
    assert_ns_ok(ns_file_read(&b, at("snapshots/" COMMIT "/config.json"), &err), &err);
    assert_string_equal(b.data, small);
    ns_buf_free(&b);
}

#define NEEDS_CURL()                                             \
    do {                                                         \
        if (!ns_http_version()) {                                \
            print_message("SKIP: no libcurl on this machine\n"); \
            skip();                                              \
        }                                                        \
    } while (0)

/* The layout of huggingface_hub; a second run fetches nothing; the name is then found by every verb. */
static void layout(void **state)
{
    (void)state;
    NEEDS_CURL();
    ns_error err = NS_ERROR_INIT;
    char target[256] = "", where[4096];
    const char *name = "org/tiny";
    fresh("layout");
    assert_ns_fails(ns_hub_resolve(&name, where, "--model", &err), NS_ERR_INPUT, "ns download org/tiny", &err);
    assert_ns_ok(get(&err), &err);
    assert_whole();
    assert_int_equal(r.n_fetched, 2);
    assert_int_equal(r.n_skipped, 1);
    assert_true(srv.saw_token);
    assert_true(readlink(at("snapshots/" COMMIT "/sub/model.safetensors"), target, sizeof target - 1) > 0);
    assert_memory_equal(target, "../../../blobs/", 15);
    assert_string_equal(target + 15, big_sum);
    ns_buf b = {0};
    assert_ns_ok(ns_file_read(&b, at("refs/main"), &err), &err);
    assert_string_equal(b.data, COMMIT);
    ns_buf_free(&b);
    assert_ns_ok(ns_hub_resolve(&name, where, "--model", &err), &err);
    assert_string_equal(name, at("snapshots/" COMMIT));
    srv.n_requests = 0;
    assert_ns_ok(get(&err), &err);
    assert_int_equal(srv.n_requests, 1); /* the list */
    assert_int_equal(r.n_fetched, 0);
}

static void put_part(size_t n, int right)
{
    ns_error err = NS_ERROR_INIT;
    char name[128];
    char *copy = malloc(n);
    memcpy(copy, big, n);
    if (!right) copy[7] ^= 1;
    assert_ns_ok(ns_mkdirs(at("blobs"), &err), &err);
    snprintf(name, sizeof name, "blobs/%s.incomplete", big_sum);
    assert_ns_ok(ns_file_replace(at(name), copy, n, &err), &err);
    free(copy);
}

static void continues(void **state)
{
    (void)state;
    NEEDS_CURL();
    ns_error err = NS_ERROR_INIT;
    fresh("part"); /* what an earlier run left */
    put_part(100001, 1);
    assert_ns_ok(get(&err), &err);
    assert_whole();
    assert_int_equal(srv.n_ranges, 1);
    assert_int_equal(r.n_continued, 1);
    assert_int_equal(r.bytes_fetched, BIG - 100001 + (int)strlen(small));
    fresh("whole"); /* only the name was missing */
    put_part(BIG, 1);
    assert_ns_ok(get(&err), &err);
    assert_whole();
    assert_int_equal(srv.n_ranges, 0);
    fresh("damaged"); /* noticed, fetched anew */
    put_part(100001, 0);
    assert_ns_ok(get(&err), &err);
    assert_whole();
    fresh("plain"); /* a server without ranges */
    srv.no_ranges = 1;
    put_part(100001, 1);
    assert_ns_ok(get(&err), &err);
    assert_whole();
}

static void faults(void **state)
{
    (void)state;
    NEEDS_CURL();
    ns_error err = NS_ERROR_INIT;
    fresh("busy");
    srv.n_503 = 3;
    assert_ns_ok(get(&err), &err);
    assert_whole();
    fresh("cut"); /* each answer is cut in the middle: every one brings half of the rest */
    srv.n_cut = 5;
    assert_ns_ok(get(&err), &err);
    assert_whole();
    assert_true(srv.n_ranges >= 5);
    fresh("wrong");
    srv.n_wrong = 1;
    assert_ns_ok(get(&err), &err);
    assert_whole();
    fresh("always busy");
    srv.n_503 = 99;
    assert_ns_fails(get(&err), NS_ERR_IO, "503", &err);
    assert_false(ns_path_exists(at("snapshots")));
    fresh("always wrong");
    srv.n_wrong = 2;
    assert_ns_fails(get(&err), NS_ERR_IO, "checksum", &err);
    assert_false(ns_path_exists(at("snapshots")));
    assert_false(ns_path_exists(at("refs")));
    srv.n_cut = 99; /* a run that gives up leaves its part for the next one */
    ns_download_args a = {.name = "org/tiny", .endpoint = endpoint, .token = "", .n_tries = 1};
    assert_ns_fails(ns_download(&a, &r, &err), NS_ERR_IO, "", &err);
    srv.n_cut = 0;
    srv.n_ranges = 0;
    assert_ns_ok(get(&err), &err);
    assert_whole();
    assert_int_equal(srv.n_ranges, 1);
}

static void refusals(void **state)
{
    (void)state;
    NEEDS_CURL();
    ns_error err = NS_ERROR_INIT;
    static const struct {
        int status;
        const char *says;
    } cases[] = {{401, "HF_TOKEN"}, {403, "accept its licence"}, {404, "not found"}};
    for (int i = 0; i < 3; i++) {
        fresh("refused");
        srv.status = cases[i].status;
        assert_ns_fails(get(&err), NS_ERR_INPUT, cases[i].says, &err);
        assert_int_equal(srv.n_requests, 1); /* not tried again */
        assert_false(ns_path_exists(at("")));
    }
    static const char *const bad[] = {"../evil", "/etc/evil", "a/../../evil", "a//b", "x\\\\y", "."};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fresh("evil");
        rfilename = bad[i];
        assert_ns_fails(get(&err), NS_ERR_IO, "refused", &err);
    }
    fresh("names");
    ns_download_args a = {.name = "../x", .endpoint = endpoint, .n_tries = 1};
    assert_ns_fails(ns_download(&a, &r, &err), NS_ERR_CONFIG, "not the name of a model", &err);
    a.name = "org/tiny";
    a.endpoint = "ftp://x";
    assert_ns_fails(ns_download(&a, &r, &err), NS_ERR_CONFIG, "https://HOST", &err);
    a.endpoint = "http://127.0.0.1:1";
    assert_ns_fails(ns_download(&a, &r, &err), NS_ERR_IO, "is the network there", &err);
    const char *const none[] = {"*.nothing"};
    a.endpoint = endpoint;
    a.include = none;
    a.n_include = 1;
    assert_ns_fails(ns_download(&a, &r, &err), NS_ERR_INPUT, "--include", &err);
    setenv("HF_HUB_OFFLINE", "1", 1);
    assert_ns_fails(get(&err), NS_ERR_CONFIG, "HF_HUB_OFFLINE", &err);
    unsetenv("HF_HUB_OFFLINE");
}

static void resolver(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    char where[4096], path[512];
    static const char *const names[] = {"a/b", "gpt2", "Qwen/Qwen2.5-0.5B", "a_b/c-d.e"};
    static const char *const not_names[] = {"", "/a", "a/b/c", "./a", "../a", "a/..", "a/", "a b", "a//b", "-a"};
    fresh("resolver");
    for (size_t i = 0; i < 4; i++) assert_true(ns_hub_is_name(names[i]));
    for (size_t i = 0; i < sizeof not_names / sizeof not_names[0]; i++) assert_false(ns_hub_is_name(not_names[i]));
    const char *p = NULL;
    assert_ns_ok(ns_hub_resolve(&p, where, "--x", &err), &err);
    p = "/no/such/path"; /* whoever opens it says so */
    assert_ns_ok(ns_hub_resolve(&p, where, "--x", &err), &err);
    assert_string_equal(p, "/no/such/path");
    p = dir;
    assert_ns_ok(ns_hub_resolve(&p, where, "--x", &err), &err);
    assert_ptr_equal(p, dir);
    /* without refs/main: the newest snapshot */
    snprintf(path, sizeof path, "snapshots/%s", "aa");
    assert_ns_ok(ns_mkdirs(at(path), &err), &err);
    p = "org/tiny";
    assert_ns_ok(ns_hub_resolve(&p, where, "--x", &err), &err);
    assert_string_equal(p, at("snapshots/aa"));
    p = "org/other";
    assert_ns_fails(ns_hub_resolve(&p, where, "--x", &err), NS_ERR_INPUT, "models--org--other", &err);
}

static void sums(void **state)
{
    (void)state;
    ns_sha s;
    char hex[65];
    ns_sha256_begin(&s);
    ns_sha_add(&s, "abc", 3);
    ns_sha_hex(&s, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    ns_sha1_begin(&s);
    ns_sha_add(&s, "abc", 3);
    ns_sha_hex(&s, hex);
    assert_string_equal(hex, "a9993e364706816aba3e25717850c26c9cd0d89d");
    ns_sha256_begin(&s);
    for (int i = 0; i < 1000000; i += 125) { /* a million times 'a', in pieces that do not fit blocks */
        char a[125];
        memset(a, 'a', sizeof a);
        ns_sha_add(&s, a, sizeof a);
    }
    ns_sha_hex(&s, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

int main(void)
{
    ns_log_set_level(NS_LOG_ERROR);
    const struct CMUnitTest tests[] = {cmocka_unit_test(sums),   cmocka_unit_test(resolver),
                                       cmocka_unit_test(layout), cmocka_unit_test(continues),
                                       cmocka_unit_test(faults), cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
