/* Words, quoting, safe names: see words.h. Quoting is single quotes only: inside them bash acts on nothing, and a quote
 * itself is written '\''. */
#include "jobs/words.h"

#include <stdio.h>
#include <string.h>

static const char harmless[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%^";

ns_status ns_words_add(ns_words *w, ns_arena *a, const char *s, ns_error *err)
{
    if (!s) return err && err->code != NS_OK ? err->code : NS_ERR_MEMORY;
    if (w->n + 2 > w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 16;
        const char **v = ns_arena_alloc(a, cap * sizeof *v, err);
        if (!v) return NS_ERR_MEMORY;
        if (w->n) memcpy(v, w->v, w->n * sizeof *v);
        w->v = v;
        w->cap = cap;
    }
    w->v[w->n++] = s;
    w->v[w->n] = NULL;
    return NS_OK;
}

ns_status ns_words_addf(ns_words *w, ns_arena *a, ns_error *err, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *s = n < 0 ? NULL : ns_arena_alloc(a, (size_t)n + 1, err);
    if (s) vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return ns_words_add(w, a, s, err);
}

ns_status ns_words_add_all(ns_words *w, ns_arena *a, const char *const *v, size_t n, ns_error *err)
{
    for (size_t i = 0; i < n; i++) {
        ns_status st = ns_words_add(w, a, v[i], err);
        if (st != NS_OK) return st;
    }
    return NS_OK;
}

static int is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* One word of `p` without its quotes into `b`; *end is behind it. */
static ns_status take_word(ns_buf *b, const char *p, const char **end, ns_error *err)
{
    char quote = 0;
    for (; *p && (quote || !is_blank(*p)); p++) {
        if (quote == '\'' ? *p == '\'' : quote ? *p == '"' : *p == '\'' || *p == '"') {
            quote = quote ? 0 : *p;
            continue;
        }
        if (*p == '\\' && quote != '\'' && p[1] && (!quote || p[1] == '"' || p[1] == '\\')) p++;
        NS_TRY(ns_buf_addc(b, *p, err), "%s", "word");
    }
    NS_FAIL_IF(quote, NS_ERR_CONFIG, "the quote %c is not closed", quote);
    *end = p;
    return NS_OK;
}

ns_status ns_words_split(ns_words *out, ns_arena *a, const char *text, ns_error *err)
{
    ns_buf b = {0};
    ns_status st = NS_OK;
    for (const char *p = text; st == NS_OK;) {
        while (is_blank(*p)) p++;
        if (!*p) break;
        ns_buf_clear(&b);
        st = ns_buf_adds(&b, "", err);
        if (st == NS_OK) st = take_word(&b, p, &p, err);
        if (st == NS_OK) st = ns_words_add(out, a, ns_arena_strndup(a, b.data ? b.data : "", b.len, err), err);
    }
    ns_buf_free(&b);
    if (st != NS_OK) ns_error_frame(err, __FILE__, __LINE__, "'%.90s'", text);
    return st;
}

int ns_words_setting(const ns_words *w, const char *key)
{
    size_t n = strlen(key);
    for (size_t i = 0; i < w->n; i++) {
        const char *p = w->v[i] + strspn(w->v[i], "+");
        if (strncmp(p, key, n) == 0 && p[n] == '=') return 1;
    }
    return 0;
}

int ns_is_plain_line(const char *text)
{
    for (const char *p = text; *p; p++)
        if (!is_blank(*p) && !strchr(harmless, *p) && *p != '[' && *p != ']') return 0;
    return !strchr(text, '\n');
}

ns_status ns_shell_quote(ns_buf *out, const char *s, ns_error *err)
{
    if (*s && strspn(s, harmless) == strlen(s)) return ns_buf_adds(out, s, err);
    NS_TRY(ns_buf_addc(out, '\'', err), "%s", "quote");
    for (; *s; s++) NS_TRY(*s == '\'' ? ns_buf_adds(out, "'\\''", err) : ns_buf_addc(out, *s, err), "%s", "quote");
    return ns_buf_addc(out, '\'', err);
}

ns_status ns_shell_line(ns_buf *out, const char *const *v, size_t n, ns_error *err)
{
    for (size_t i = 0; i < n; i++) {
        if (i) NS_TRY(ns_buf_addc(out, ' ', err), "%s", "quote");
        NS_TRY(ns_shell_quote(out, v[i], err), "%s", "quote");
    }
    return NS_OK;
}

const char *ns_safe_name(ns_arena *a, const char *name, ns_error *err)
{
    size_t n = strlen(name), keep = n < 120 ? n : 120;
    char *s = ns_arena_strndup(a, name, keep, err);
    if (!s) return NULL;
    int changed = keep < n || !n;
    unsigned hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < n; i++) hash = (hash ^ (unsigned char)name[i]) * 16777619u;
    for (char *p = s; *p; p++) {
        int ok = strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+@=,-", *p) != NULL ||
                 (*p == '.' && p > s);
        if (!ok) *p = '_', changed = 1;
    }
    return changed ? ns_arena_printf(a, err, "%s-%08x", s, hash) : s;
}
