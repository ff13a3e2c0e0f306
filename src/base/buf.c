/* Growing buffer, string view, spelling suggestion. */
#include "base/buf.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

ns_status ns_buf_reserve(ns_buf *b, size_t extra, ns_error *err)
{
    NS_TRY(ns_grow((void **)&b->data, &b->cap, b->len + extra + 1, 1, "buf", err), "%s", "");
    b->data[b->len] = 0; /* also before the first append */
    return NS_OK;
}

ns_status ns_buf_add(ns_buf *b, const void *p, size_t n, ns_error *err)
{
    if (b->cap - b->len <= n || !b->data) NS_TRY(ns_buf_reserve(b, n, err), "%s", "");
    if (n) memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = 0;
    return NS_OK;
}

ns_status ns_buf_adds(ns_buf *b, const char *s, ns_error *err)
{
    return ns_buf_add(b, s, strlen(s), err);
}
ns_status ns_buf_addc(ns_buf *b, char c, ns_error *err)
{
    return ns_buf_add(b, &c, 1, err);
}

ns_status ns_buf_printf(ns_buf *b, ns_error *err, const char *fmt, ...)
{
    va_list ap, ap2;
    va_start(ap, fmt);
    va_copy(ap2, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    ns_status st = n < 0 ? ns_error_set(err, NS_ERR_INTERNAL, __FILE__, __LINE__, "bad format")
                         : ns_buf_reserve(b, (size_t)n, err);
    if (st == NS_OK) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap2);
        b->len += (size_t)n;
    }
    va_end(ap2);
    return st;
}

void ns_buf_free(ns_buf *b)
{
    ns_free(b->data);
    b->data = NULL;
    b->len = b->cap = 0;
}

int ns_str_eq(ns_str a, const char *b)
{
    return a.n == strlen(b) && memcmp(a.p, b, a.n) == 0;
}

/* Levenshtein distance with two rows; words longer than 79 bytes are never close. */
static int edit_distance(const char *a, const char *b)
{
    enum { MAX = 80 };
    int row[2][MAX];
    size_t na = strlen(a), nb = strlen(b);
    if (na >= MAX || nb >= MAX) return MAX;
    for (size_t j = 0; j <= nb; j++) row[0][j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        int *cur = row[i & 1], *old = row[(i - 1) & 1];
        cur[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int sub = old[j - 1] + (a[i - 1] != b[j - 1]);
            int del = old[j] + 1, ins = cur[j - 1] + 1;
            int m = sub < del ? sub : del;
            cur[j] = m < ins ? m : ins;
        }
    }
    return row[na & 1][nb];
}

const char *ns_suggest(const char *word, const char *const *names, size_t n_names)
{
    const char *best = NULL;
    int limit = (int)strlen(word) / 3 + 1, best_d = limit + 1;
    for (size_t i = 0; i < n_names; i++) {
        int d = edit_distance(word, names[i]);
        if (d < best_d) {
            best_d = d;
            best = names[i];
        }
    }
    return best;
}
