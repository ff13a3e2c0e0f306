/* What every x_test.c includes: cmocka with its prerequisites, the data folder, loud skips, temporary folders. */
#ifndef NS_BASE_TESTING_H
#define NS_BASE_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"

#ifndef NS_SOURCE_DIR
#define NS_SOURCE_DIR "."
#endif

/* The runner reads verdicts from a file: line by line, so that a program that dies loses none. */
__attribute__((constructor)) static inline void ns_test_line_buffered(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
}

/* Folder of the real test inputs: $NS_TEST_DATA, else ../shared/data beside the source tree; NULL when absent. */
static inline const char *ns_test_data(void)
{
    static char path[4096];
    const char *env = getenv("NS_TEST_DATA");
    struct stat sb;
    snprintf(path, sizeof path, "%s", env && *env ? env : NS_SOURCE_DIR "/../shared/data");
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode) ? path : NULL;
}

/* Counted by the runner; says why. */
#define NS_SKIP_WITHOUT_DATA()                                               \
    do {                                                                     \
        if (!ns_test_data()) {                                               \
            print_message("SKIP: no test data folder (set NS_TEST_DATA)\n"); \
            skip();                                                          \
        }                                                                    \
    } while (0)

/* Asserts NS_OK and prints the whole error chain otherwise. */
#define assert_ns_ok(call, err)                                                   \
    do {                                                                          \
        if ((call) != NS_OK) {                                                    \
            char text_[2048];                                                     \
            fail_msg("%s: %s", #call, ns_error_text((err), text_, sizeof text_)); \
        }                                                                         \
    } while (0)
/* Asserts that the call fails with `code` and a message that contains `needle`. Resets the record. */
#define assert_ns_fails(call, want, needle, err)                                                         \
    do {                                                                                                 \
        ns_error fresh_ = NS_ERROR_INIT;                                                                 \
        *(err) = fresh_;                                                                                 \
        ns_status st_ = (call);                                                                          \
        char text_[2048];                                                                                \
        ns_error_text((err), text_, sizeof text_);                                                       \
        if (st_ != (want) || !strstr(text_, (needle)))                                                   \
            fail_msg("%s: status %s, text '%s', wanted %s with '%s'", #call, ns_status_name(st_), text_, \
                     ns_status_name(want), (needle));                                                    \
        *(err) = fresh_;                                                                                 \
    } while (0)

/* Fresh private folder under $TMPDIR or /tmp; the caller removes it. */
static inline const char *ns_test_tmpdir(char *out, size_t n)
{
    const char *t = getenv("TMPDIR");
    snprintf(out, n, "%s/ns-test-XXXXXX", t && *t ? t : "/tmp");
    if (!mkdtemp(out)) {
        perror("mkdtemp");
        exit(1);
    }
    return out;
}

#endif
