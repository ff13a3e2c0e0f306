/* Pattern expansion with the rules of Python's recursive glob. Walks one path component at a time. */
#include "data/files.h"

#include <dirent.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buf.h"

enum { MAX_DEPTH = 64 };

static int has_magic(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strchr("*?[", s[i])) return 1;
    return 0;
}

static ns_status add_file(ns_files *f, const char *path, ns_error *err)
{
    struct stat sb;
    if (strcmp(path, "-") && (stat(path, &sb) != 0 || S_ISDIR(sb.st_mode))) return NS_OK;
    NS_TRY(ns_grow((void **)&f->path, &f->cap, f->n + 1, sizeof *f->path, "files", err), "files");
    size_t n = strlen(path) + 1;
    NS_TRY(ns_alloc((void **)&f->path[f->n], n, "files.path", err), "files");
    memcpy(f->path[f->n++], path, n);
    return NS_OK;
}

static int is_dir(const char *path, int follow)
{
    struct stat sb;
    return (follow ? stat(path, &sb) : lstat(path, &sb)) == 0 && S_ISDIR(sb.st_mode);
}

static ns_status walk(ns_files *f, const char *base, const char *rest, int depth, ns_error *err);

/* Every entry of `base` that the component matches, each continued with `rest`. */
static ns_status match_entries(ns_files *f, const char *base, const char *part, const char *rest, int depth,
                               ns_error *err)
{
    ns_status st = NS_OK;
    DIR *d = opendir(*base ? base : ".");
    for (struct dirent *e; st == NS_OK && d && (e = readdir(d)) != NULL;) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (fnmatch(part, e->d_name, FNM_NOESCAPE | FNM_PERIOD) != 0) continue;
        ns_buf path = {0};
        st = ns_buf_printf(&path, err, "%s%s", base, e->d_name);
        if (st == NS_OK && *rest) {
            if (is_dir(path.data, strncmp(rest, "**", 2) != 0)) { /* ** does not follow links: they may form loops */
                st = ns_buf_addc(&path, '/', err);
                if (st == NS_OK) st = walk(f, path.data, rest, depth + 1, err);
            }
        } else if (st == NS_OK) {
            st = add_file(f, path.data, err);
        }
        ns_buf_free(&path);
    }
    if (d) closedir(d);
    return st;
}

/* base: "" or a folder with its final '/'. rest: the pattern that is left. */
static ns_status walk(ns_files *f, const char *base, const char *rest, int depth, ns_error *err)
{
    if (depth > MAX_DEPTH) return NS_OK;
    size_t n = strcspn(rest, "/");
    const char *next = rest + n;
    while (*next == '/') next++;
    ns_buf part = {0}, path = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_buf_add(&part, rest, n, err), "files");
    NS_CHECK(st, ns_buf_adds(&part, "", err), "files");
    if (n == 2 && !memcmp(rest, "**", 2)) {
        NS_CHECK(st, walk(f, base, *next ? next : "*", depth + 1, err), "files"); /* no folder */
        NS_CHECK(st, match_entries(f, base, "*", *next ? rest : "**", depth, err), "files");
    } else if (has_magic(rest, n)) {
        NS_CHECK(st, match_entries(f, base, part.data, next, depth, err), "files");
    } else {
        NS_CHECK(st, ns_buf_printf(&path, err, "%s%.*s", base, (int)(next - rest), rest), "files");
        if (*next)
            NS_CHECK(st, walk(f, path.data, next, depth + 1, err), "files");
        else
            NS_CHECK(st, add_file(f, path.data, err), "files");
    }
done:
    ns_buf_free(&part);
    ns_buf_free(&path);
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static ns_status match(ns_files *f, const char *pattern, ns_error *err)
{
    size_t from = f->n;
    if (!has_magic(pattern, strlen(pattern))) return add_file(f, pattern, err);
    size_t root = strspn(pattern, "/");
    char base[8] = "";
    if (root) snprintf(base, sizeof base, "/");
    NS_TRY(walk(f, base, pattern + root, 0, err), "pattern '%s'", pattern);
    if (f->n > from) qsort(f->path + from, f->n - from, sizeof *f->path, by_name);
    return NS_OK;
}

/* keep_empty: note the pattern also when it matched nothing. */
static ns_status add_noted(ns_files *f, const char *pattern, int keep_empty, ns_error *err)
{
    size_t from = f->n, n = strlen(pattern) + 1;
    if (!*pattern) return NS_OK;
    NS_TRY(match(f, pattern, err), "%s", "files");
    if (f->n == from && !keep_empty) return NS_OK;
    NS_TRY(ns_grow((void **)&f->pattern, &f->patterns_cap, f->n_patterns + 1, sizeof *f->pattern, "files.pattern", err),
           "files");
    ns_file_pattern *p = &f->pattern[f->n_patterns];
    NS_TRY(ns_alloc((void **)&p->text, n, "files.pattern", err), "files");
    memcpy(p->text, pattern, n);
    p->n = f->n - from;
    f->n_patterns++;
    return NS_OK;
}

ns_status ns_files_add_pattern(ns_files *f, const char *pattern, ns_error *err)
{
    return add_noted(f, pattern, 1, err);
}

/* One part between commas, trimmed: a pattern as it is, or several with blanks between. */
static ns_status add_part(ns_files *f, char *part, ns_error *err)
{
    static const char blanks[] = " \t\r\n";
    size_t before = f->n_patterns;
    part += strspn(part, blanks);
    for (size_t n = strlen(part); n > 0 && strchr(blanks, part[n - 1]); n--) part[n - 1] = 0;
    int several = part[strcspn(part, blanks)] != 0;
    NS_TRY(add_noted(f, part, !several, err), "%s", "files");
    if (!several || f->n_patterns > before) return NS_OK;
    char *rest = NULL;
    for (char *w = strtok_r(part, blanks, &rest); w; w = strtok_r(NULL, blanks, &rest))
        NS_TRY(add_noted(f, w, 1, err), "%s", "files");
    return NS_OK;
}

ns_status ns_files_add(ns_files *f, const char *text, ns_error *err)
{
    size_t n = strlen(text);
    const char *end = text + n;
    while (n > 0 && strchr(" \t", *text)) text++, n--;
    if (n > 1 && *text == '[' && end[-1] == ']') text++, end--; /* a list that a shell made one word of */
    for (const char *p = text; p <= end;) {
        const char *comma = memchr(p, ',', (size_t)(end - p)), *stop = comma ? comma : end;
        char *part = NULL;
        NS_TRY(ns_alloc((void **)&part, (size_t)(stop - p) + 1, "files", err), "files");
        memcpy(part, p, (size_t)(stop - p));
        ns_status st = add_part(f, part, err);
        ns_free(part);
        if (st != NS_OK) return st;
        p = stop + 1;
    }
    return NS_OK;
}

void ns_files_free(ns_files *f)
{
    for (size_t i = 0; i < f->n; i++) ns_free(f->path[i]);
    for (size_t i = 0; i < f->n_patterns; i++) ns_free(f->pattern[i].text);
    ns_free(f->path);
    ns_free(f->pattern);
    *f = (ns_files){0};
}
