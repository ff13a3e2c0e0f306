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
    if (stat(path, &sb) != 0 || S_ISDIR(sb.st_mode)) return NS_OK;
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

ns_status ns_files_add_pattern(ns_files *f, const char *pattern, ns_error *err)
{
    size_t from = f->n;
    if (!*pattern) return NS_OK;
    if (!has_magic(pattern, strlen(pattern))) return add_file(f, pattern, err);
    size_t root = strspn(pattern, "/");
    char base[8] = "";
    if (root) snprintf(base, sizeof base, "/");
    NS_TRY(walk(f, base, pattern + root, 0, err), "pattern '%s'", pattern);
    if (f->n > from) qsort(f->path + from, f->n - from, sizeof *f->path, by_name);
    return NS_OK;
}

ns_status ns_files_add(ns_files *f, const char *text, ns_error *err)
{
    char cut = strchr(text, ',') ? ',' : ' ';
    for (const char *p = text;;) {
        const char *end = strchr(p, cut);
        ns_buf part = {0};
        ns_status st = ns_buf_add(&part, p, end ? (size_t)(end - p) : strlen(p), err);
        if (st == NS_OK && part.data) st = ns_files_add_pattern(f, part.data, err);
        ns_buf_free(&part);
        if (st != NS_OK) return st;
        if (!end) return NS_OK;
        p = end + 1;
    }
}

void ns_files_free(ns_files *f)
{
    for (size_t i = 0; i < f->n; i++) ns_free(f->path[i]);
    ns_free(f->path);
    *f = (ns_files){0};
}
