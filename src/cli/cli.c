/* The verb list, and how failures are printed. */
#include "cli/cli.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"

#define NS_VERB(name) extern const ns_verb ns_verb_##name __attribute__((weak));
#include "cli/verbs.h"
#undef NS_VERB

const ns_verb *const *ns_cli_verbs(size_t *n)
{
#define NS_VERB(name) &ns_verb_##name,
    static const ns_verb *const listed[] = {
#include "cli/verbs.h"
    };
#undef NS_VERB
    static const ns_verb *present[sizeof listed / sizeof listed[0]];
    *n = 0;
    for (size_t i = 0; i < sizeof listed / sizeof listed[0]; i++)
        if (listed[i]) present[(*n)++] = listed[i];
    return present;
}

static char stop_text[1024]; /* made before any signal can come */
static void (*stop_cleanup)(void);

static void on_signal(int sig)
{
    if (stop_cleanup) stop_cleanup();
    if (write(STDERR_FILENO, stop_text, strlen(stop_text)) < 0) _exit(128 + sig);
    _exit(128 + sig);
}

void ns_cli_when_stopped(const char *text, void (*cleanup)(void))
{
    static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
    snprintf(stop_text, sizeof stop_text, "\n%.1000s\n", text);
    stop_cleanup = cleanup;
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++) {
        struct sigaction sa = {.sa_handler = on_signal}, old;
        sigfillset(&sa.sa_mask);
        if (sigaction(caught[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) sigaction(caught[i], &sa, NULL);
    }
}

static int same_word(const char *a, const char *b)
{
    for (; *a && *b; a++, b++)
        if (*a != *b && !(*a == '-' && *b == '_') && !(*a == '_' && *b == '-')) return 0;
    return *a == *b;
}

const ns_verb *ns_cli_find(const char *name)
{
    size_t n = 0;
    const ns_verb *const *v = ns_cli_verbs(&n);
    for (size_t i = 0; i < n; i++)
        if (same_word(v[i]->name, name)) return v[i];
    return NULL;
}

const char *ns_cli_version(void)
{
#if defined(__x86_64__)
    return "ns " NS_VERSION " (" NS_BUILD_INFO ", x86_64)";
#elif defined(__aarch64__)
    return "ns " NS_VERSION " (" NS_BUILD_INFO ", aarch64)";
#else
    return "ns " NS_VERSION " (" NS_BUILD_INFO ")";
#endif
}

int ns_cli_result_fd(void)
{
    const char *text = getenv("NS_RESULT_FD");
    int fd = text && *text ? atoi(text) : -1;
    return fd > 2 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0 ? fd : -1;
}

void ns_cli_print_json(const char *key, const char *text)
{
    ns_buf b = {0};
    ns_error ignored = NS_ERROR_INIT;
    if (ns_json_write_str(&b, (ns_str){text, strlen(text)}, NS_JSON_ASCII, &ignored) == NS_OK)
        printf("\"%s\": %s", key, b.data);
    ns_buf_free(&b);
}

static void report_error(const char *text)
{
    ns_buf b = {0};
    ns_error ignored = NS_ERROR_INIT;
    int fd = ns_cli_result_fd();
    const char *at = strstr(text, "missing: --");
    if (fd < 0) return;
    int n = at ? (int)strspn(at + 11, "abcdefghijklmnopqrstuvwxyz_") : 0;
    ns_status st = ns_buf_printf(&b, &ignored, "{\"missing\": \"%.*s\", \"error\": ", n, at ? at + 11 : "");
    if (st == NS_OK) st = ns_json_write_str(&b, (ns_str){text, strlen(text)}, NS_JSON_ASCII, &ignored);
    if (st == NS_OK) st = ns_buf_adds(&b, "}", &ignored);
    if (st == NS_OK && write(fd, b.data, b.len) < 0) ns_buf_clear(&b); /* nobody listens any more */
    ns_buf_free(&b);
}

int ns_cli_fail(const char *verb, const ns_error *err)
{
    char text[NS_ERROR_CTX_MAX * 122 + sizeof err->msg];
    fflush(stdout);
    fprintf(stderr, "ns%s%s: %s\n", verb && *verb ? " " : "", verb ? verb : "", ns_error_text(err, text, sizeof text));
    report_error(text);
    if (err->code == NS_ERR_CONFIG && verb && *verb && !strstr(text, "--help`"))
        fprintf(stderr, "  `ns %s --help` lists every setting with its default and range.\n", verb);
    if (err->code == NS_ERR_INTERNAL)
        fprintf(stderr, "  This is a bug in ns: please report the command line and the line above.\n");
    return ns_status_exit_code(err->code);
}
