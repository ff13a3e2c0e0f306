/* Errors: a status, and a record that says what failed, where, and what to do.
 *
 * Use:
 *     ns_status load(ns_thing **out, const char *path, ns_error *err) {
 *         NS_FAIL_IF(!path[0], NS_ERR_INPUT, "path is empty: give a file name");
 *         NS_TRY(ns_file_read(&buf, path, err), "load %s", path);      // adds a frame, returns the status
 *         return NS_OK;
 *     }
 * With something to free, use one label: `ns_status st = NS_OK; ... NS_CHECK(st, call, "...") ... done: free; return st;`
 *
 * Rules: the record is untouched on success; the first error wins (a second NS_FAIL on a full record is ignored);
 * `err` may be NULL. A message names the object (path:line, byte offset, tensor, job), what was found against what was
 * expected, and the next action. Only src/cli prints and exits. Bugs of ours use NS_ASSERT, never input. */
#ifndef NS_BASE_ERROR_H
#define NS_BASE_ERROR_H

#include <stdarg.h>
#include <stddef.h>

typedef enum ns_status {
    NS_OK = 0,
    NS_ERR_INPUT,       /* a file, row or value from outside is wrong; the message names it */
    NS_ERR_CONFIG,      /* unknown or conflicting setting, found before any work started */
    NS_ERR_IO,          /* the system refused: errno text is in the message */
    NS_ERR_MEMORY,      /* an allocation failed (label and size are in the message) */
    NS_ERR_UNSUPPORTED, /* understood but not implemented: the message names the component */
    NS_ERR_MISMATCH,    /* two things that must agree do not (shape, tokenizer, checkpoint) */
    NS_ERR_NUMERIC,     /* NaN or Inf where training must stop */
    NS_ERR_STOPPED,     /* interrupted by signal or time limit: state is saved, not a failure of the work */
    NS_ERR_DEVICE,      /* accelerator, driver or transport failed */
    NS_ERR_INTERNAL     /* a bug of ours */
} ns_status;

#define NS_ERROR_CTX_MAX 8

typedef struct ns_error {
    ns_status code; /* NS_OK while unused */
    int n_ctx;      /* frames used; the innermost is first */
    struct {
        char what[120];
        const char *file; /* static string */
        int line;
    } ctx[NS_ERROR_CTX_MAX];
    char msg[768]; /* the leaf: one line, no newline at the end */
} ns_error;

#define NS_ERROR_INIT               \
    {                               \
        NS_OK, 0, {{{0}, NULL, 0}}, \
        {                           \
            0                       \
        }                           \
    }
#define NS_MUST_USE __attribute__((warn_unused_result))
#define NS_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Sets the leaf if `err` is still NS_OK. Returns `code`, so `return ns_fail(...)` reads well. */
ns_status ns_error_set(ns_error *err, ns_status code, const char *file, int line, const char *fmt, ...) NS_PRINTF(5, 6);
/* Adds a context frame (dropped silently past NS_ERROR_CTX_MAX: the leaf matters most). */
void ns_error_frame(ns_error *err, const char *file, int line, const char *fmt, ...) NS_PRINTF(4, 5);
/* Writes "outer: inner: leaf" into out (always terminated). Returns out. */
const char *ns_error_text(const ns_error *err, char *out, size_t out_size);
/* Short stable name ("input", "config", ...) for --json output; exit code for the CLI (0, 2 config, 3 input, 130 stopped ...). */
const char *ns_status_name(ns_status code);
int ns_status_exit_code(ns_status code);

#define NS_FAIL(code, ...) return ns_error_set(err, (code), __FILE__, __LINE__, __VA_ARGS__)
#define NS_FAIL_IF(cond, code, ...)                                                  \
    do {                                                                             \
        if (cond) return ns_error_set(err, (code), __FILE__, __LINE__, __VA_ARGS__); \
    } while (0)
#define NS_TRY(call, ...)                                         \
    do {                                                          \
        ns_status ns_try_st_ = (call);                            \
        if (ns_try_st_ != NS_OK) {                                \
            ns_error_frame(err, __FILE__, __LINE__, __VA_ARGS__); \
            return ns_try_st_;                                    \
        }                                                         \
    } while (0)
/* As NS_TRY / NS_FAIL_IF but jump to `done:` with the status in `st`. */
#define NS_CHECK(st, call, ...)                                   \
    do {                                                          \
        (st) = (call);                                            \
        if ((st) != NS_OK) {                                      \
            ns_error_frame(err, __FILE__, __LINE__, __VA_ARGS__); \
            goto done;                                            \
        }                                                         \
    } while (0)
#define NS_BAIL_IF(st, cond, code, ...)                                        \
    do {                                                                       \
        if (cond) {                                                            \
            (st) = ns_error_set(err, (code), __FILE__, __LINE__, __VA_ARGS__); \
            goto done;                                                         \
        }                                                                      \
    } while (0)

/* Impossible state: prints file, line and text, then aborts. Cheap conditions only; always on. Never for input. */
#define NS_ASSERT(cond) ((cond) ? (void)0 : ns_assert_fail(#cond, __FILE__, __LINE__))
#ifdef NS_VERIFY_BUILD
#define NS_VERIFY(cond) NS_ASSERT(cond) /* heavy checks, debug and sanitizer builds only */
#else
#define NS_VERIFY(cond) ((void)0)
#endif
void ns_assert_fail(const char *cond, const char *file, int line) __attribute__((noreturn));

#endif
