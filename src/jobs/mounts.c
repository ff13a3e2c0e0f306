/* Path translation: see mounts.h. A path begins at the start of the text or behind a character that cannot be part of one
 * (= [ , : quotes, blanks, shell operators), and a mount's destination must end where a component ends. */
#include "jobs/mounts.h"

#include <string.h>

#define CODE "/nemo_run/code"

static int ends_component(char c)
{
    return c == 0 || c == '/' || strchr(" \t\n\r=[](){},:;'\"&|<>$*?\\", c) != NULL;
}

static int begins_path(const char *text, const char *p)
{
    return *p == '/' && (p == text || (p[-1] && strchr(" \t\n\r=[({,:;'\"&|<>", p[-1])));
}

/* The mount whose destination stands at p, or NULL; *len = bytes of it. */
static const char *match(const ns_mounts *m, const char *p, size_t *len)
{
    const char *from = NULL;
    *len = 0;
    if (strncmp(p, CODE, strlen(CODE)) == 0 && ends_component(p[strlen(CODE)])) {
        from = m->code;
        *len = strlen(CODE);
    }
    for (size_t i = 0; i < m->n; i++) {
        size_t n = strlen(m->v[i].to);
        if (n <= *len || strncmp(p, m->v[i].to, n) != 0 || !ends_component(p[n])) continue;
        from = m->v[i].from;
        *len = n;
    }
    return from;
}

ns_status ns_mounts_path(const ns_mounts *m, ns_arena *a, const char *path, const char **out, ns_error *err)
{
    size_t n = 0;
    NS_FAIL_IF(!*path, NS_ERR_CONFIG, "an empty path");
    const char *from = path[0] == '/' ? match(m, path, &n) : NULL;
    if (from) {
        *out = ns_arena_printf(a, err, "%s%s", from, path + n);
    } else if (path[0] != '/') {
        *out = ns_arena_printf(a, err, "%s/%s", m->code, path);
    } else {
        NS_FAIL_IF(m->strict, NS_ERR_CONFIG, "The path '%s' is not mounted. Check cluster config.", path);
        *out = path;
    }
    return *out ? NS_OK : NS_ERR_MEMORY;
}

/* Appends a host path where `quote` is open ('\'', '"', 0) or, with shell 0, as it is. */
static ns_status put(ns_buf *b, const char *s, int shell, char quote, ns_error *err)
{
    for (; *s; s++) {
        if (shell && quote == '\'' && *s == '\'') {
            NS_TRY(ns_buf_adds(b, "'\\''", err), "%s", "path");
            continue;
        }
        int plain = !shell || quote == '\'' ||
                    (quote == '"' ? !strchr("\"\\$`", *s) : !strchr(" \t\n'\"\\$`;&|<>(){}[]*?#~!", *s));
        if (!plain) NS_TRY(ns_buf_addc(b, '\\', err), "%s", "path");
        NS_TRY(ns_buf_addc(b, *s, err), "%s", "path");
    }
    return NS_OK;
}

static ns_status translate(const ns_mounts *m, ns_arena *a, const char *text, int shell, const char **out,
                           ns_error *err)
{
    ns_buf b = {0};
    char quote = 0;
    ns_status st = ns_buf_adds(&b, "", err);
    for (const char *p = text; *p && st == NS_OK;) {
        size_t n = 0;
        const char *from = begins_path(text, p) ? match(m, p, &n) : NULL;
        if (from) {
            st = put(&b, from, shell, quote, err);
            p += n;
            continue;
        }
        if (shell && *p == '\\' && quote != '\'' && p[1]) {
            st = ns_buf_add(&b, p, 2, err);
            p += 2;
            continue;
        }
        if (shell && (*p == '\'' || *p == '"') && (!quote || quote == *p)) quote = quote ? 0 : *p;
        st = ns_buf_addc(&b, *p++, err);
    }
    if (st == NS_OK) {
        *out = ns_arena_strndup(a, b.data ? b.data : "", b.len, err);
        if (!*out) st = NS_ERR_MEMORY;
    }
    ns_buf_free(&b);
    return st;
}

ns_status ns_mounts_word(const ns_mounts *m, ns_arena *a, const char *word, const char **out, ns_error *err)
{
    return translate(m, a, word, 0, out, err);
}

ns_status ns_mounts_line(const ns_mounts *m, ns_arena *a, const char *line, const char **out, ns_error *err)
{
    return translate(m, a, line, 1, out, err);
}
