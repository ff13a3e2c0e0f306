/* Folder or tar -> list of files. Tar: POSIX ustar with prefix, GNU long names ('L'), pax path and size ('x'); format by
 * POSIX.1-2017 pax. Header (512 bytes): name 0:100, size 124:12 octal or base-256, checksum 148:8, type 156, magic 257, prefix
 * 345:155. Nothing is unpacked: members are views of the mapped file (gzip: of its plain bytes, gunzip.h). */
#include "ckpt/tree.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "ckpt/gunzip.h"
#include "ckpt/path.h"

enum { MAX_FILES = 1 << 20, MAX_DEPTH = 16 };

typedef struct item {
    ns_tree_file f; /* first: ns_tree_file * is item * */
    ns_map map;
    const unsigned char *data; /* tar: where it lies */
} item;

struct ns_tree {
    ns_arena arena;
    const char *path;
    item *items;
    size_t n, cap;
    ns_map tar;
    int is_tar;
};

static ns_status add(ns_tree *t, const char *name, size_t n, uint64_t size, const unsigned char *data, ns_error *err)
{
    NS_FAIL_IF(t->n >= MAX_FILES, NS_ERR_INPUT, "%s: more than %d files", t->path, MAX_FILES);
    NS_TRY(ns_grow((void **)&t->items, &t->cap, t->n + 1, sizeof *t->items, "tree", err), "%s", t->path);
    item *it = &t->items[t->n];
    memset(it, 0, sizeof *it);
    it->f.name = ns_arena_strndup(&t->arena, name, n, err);
    if (!it->f.name) return NS_ERR_MEMORY;
    it->f.size = size;
    it->data = data;
    t->n++;
    return NS_OK;
}

/* ---- folder ---- */
static ns_status list_dir(ns_tree *t, const char *rel, int depth, ns_error *err)
{
    char path[4096], sub[4096];
    ns_status st = NS_OK;
    DIR *d = NULL;
    NS_FAIL_IF(depth > MAX_DEPTH, NS_ERR_INPUT, "%s: folders are nested more than %d deep", t->path, MAX_DEPTH);
    NS_TRY(ns_path(path, sizeof path, err, rel[0] ? "%s/%s" : "%s%s", t->path, rel), "%s", "");
    d = opendir(path);
    NS_FAIL_IF(!d, NS_ERR_IO, "cannot list folder '%s'", path);
    for (struct dirent *e; (e = readdir(d));) {
        struct stat sb;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        NS_CHECK(st, ns_path(sub, sizeof sub, err, "%s%s%s", rel, rel[0] ? "/" : "", e->d_name), "%s", "");
        NS_CHECK(st, ns_path(path, sizeof path, err, "%s/%s", t->path, sub), "%s", "");
        if (stat(path, &sb)) continue; /* a dangling link is nobody's file */
        if (S_ISDIR(sb.st_mode)) {
            NS_CHECK(st, list_dir(t, sub, depth + 1, err), "%s", "");
        } else if (S_ISREG(sb.st_mode)) {
            NS_CHECK(st, add(t, sub, strlen(sub), (uint64_t)sb.st_size, NULL, err), "%s", "");
        }
    }
done:
    closedir(d);
    return st;
}

/* ---- tar ---- */
static int number(const unsigned char *p, int n, uint64_t *out)
{
    uint64_t v = 0;
    int i = 0;
    if (p[0] & 0x80) { /* base-256 */
        for (i = 1; i < n; i++) {
            if (v >> 55) return 0;
            v = v << 8 | p[i];
        }
        *out = v;
        return (p[0] & 0x7f) == 0;
    }
    while (i < n && p[i] == ' ') i++;
    for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) {
        if (v >> 60) return 0;
        v = v << 3 | (uint64_t)(p[i] - '0');
    }
    *out = v;
    return i == n || p[i] == 0 || p[i] == ' ';
}

static int checksum_ok(const unsigned char *h)
{
    uint64_t want, sum = 0;
    for (int i = 0; i < 512; i++) sum += i >= 148 && i < 156 ? ' ' : h[i];
    return number(h + 148, 8, &want) && want == sum;
}

static ns_status check_name(const ns_tree *t, const char *name, uint64_t at, ns_error *err)
{
    int bad = name[0] == '/' || !name[0];
    for (const char *p = name; *p && !bad; p = strchr(p, '/') ? strchr(p, '/') + 1 : p + strlen(p)) {
        bad = p[0] == '.' && p[1] == '.' && (p[2] == '/' || !p[2]);
    }
    NS_FAIL_IF(bad, NS_ERR_INPUT, "%s: byte %llu: member '%.200s' leads outside the archive: refused", t->path,
               (unsigned long long)at, name);
    return NS_OK;
}

/* "LEN key=value\n" records of a pax header; only path and size matter here. */
static ns_status read_pax(ns_tree *t, const unsigned char *p, uint64_t n, char name[4096], uint64_t *size,
                          int *has_size, ns_error *err)
{
    while (n > 0) {
        uint64_t len = 0, i = 0;
        for (; i < n && p[i] >= '0' && p[i] <= '9' && len < 1000000; i++) len = len * 10 + (uint64_t)(p[i] - '0');
        NS_FAIL_IF(i == 0 || i >= n || p[i] != ' ' || len <= i + 1 || len > n || p[len - 1] != '\n', NS_ERR_INPUT,
                   "%s: broken pax record", t->path);
        const char *kv = (const char *)p + i + 1;
        size_t k = (size_t)(len - i - 2);
        if (k > 5 && !memcmp(kv, "path=", 5)) {
            NS_FAIL_IF(k - 5 >= 4096 || memchr(kv + 5, 0, k - 5), NS_ERR_INPUT, "%s: member name too long", t->path);
            memcpy(name, kv + 5, k - 5);
            name[k - 5] = 0;
        } else if (k > 5 && !memcmp(kv, "size=", 5)) {
            *size = 0;
            for (size_t j = 5; j < k; j++) {
                NS_FAIL_IF(kv[j] < '0' || kv[j] > '9' || *size > UINT64_MAX / 16, NS_ERR_INPUT, "%s: broken pax size",
                           t->path);
                *size = *size * 10 + (uint64_t)(kv[j] - '0');
            }
            *has_size = 1;
        }
        p += len;
        n -= len;
    }
    return NS_OK;
}

static ns_status list_tar(ns_tree *t, ns_error *err)
{
    const unsigned char *p = t->tar.data;
    uint64_t at = 0, total = t->tar.size, pax_size = 0;
    char name[4096] = "";
    int has_size = 0, zero = 0;
    while (total - at >= 512) {
        const unsigned char *h = p + at;
        uint64_t size;
        for (zero = 0; zero < 512 && !h[zero]; zero++) continue;
        if (zero == 512) return NS_OK;
        NS_FAIL_IF(!checksum_ok(h) || !number(h + 124, 12, &size), NS_ERR_INPUT,
                   "%s: byte %llu: broken tar header (checksum or size)", t->path, (unsigned long long)at);
        char type = (char)h[156];
        if (has_size && (type == '0' || !type)) size = pax_size;
        NS_FAIL_IF(size > total - at - 512, NS_ERR_INPUT,
                   "%s: byte %llu: member of %llu bytes runs past the end of the file (%llu): truncated", t->path,
                   (unsigned long long)at, (unsigned long long)size, (unsigned long long)total);
        const unsigned char *data = h + 512;
        if (type == 'L') {
            NS_FAIL_IF(size >= sizeof name, NS_ERR_INPUT, "%s: member name too long", t->path);
            memcpy(name, data, size);
            name[size] = 0;
        } else if (type == 'x') {
            NS_TRY(read_pax(t, data, size, name, &pax_size, &has_size, err), "%s", "");
        } else if (type != 'g') {
            if (!name[0] && h[345] && !memcmp(h + 257, "ustar", 6)) {
                snprintf(name, sizeof name, "%.155s/%.100s", (const char *)h + 345, (const char *)h);
            } else if (!name[0]) {
                snprintf(name, sizeof name, "%.100s", (const char *)h);
            }
            NS_TRY(check_name(t, name, at, err), "%s", "");
            NS_FAIL_IF(type && type != '0' && type != '5' && type != '7', NS_ERR_INPUT,
                       "%s: byte %llu: member '%.200s' is a link or device (type '%c'): refused", t->path,
                       (unsigned long long)at, name, type);
            const char *rel = name;
            while (rel[0] == '.' && rel[1] == '/') rel += 2;
            if (type != '5' && rel[0]) NS_TRY(add(t, rel, strlen(rel), size, data, err), "%s", "");
            name[0] = 0;
            has_size = 0;
        }
        uint64_t step = 512 + (size + 511) / 512 * 512;
        at = step > total - at ? total : at + step;
    }
    NS_FAIL(NS_ERR_INPUT, "%s: tar without its end marker: truncated at byte %llu", t->path, (unsigned long long)total);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const item *)a)->f.name, ((const item *)b)->f.name);
}

ns_status ns_tree_open(ns_tree **out, const char *path, ns_error *err)
{
    ns_tree *t = NULL;
    ns_status st = NS_OK;
    *out = NULL;
    NS_TRY(ns_alloc((void **)&t, sizeof *t, "tree", err), "%s", path);
    t->arena.label = "tree";
    t->path = ns_arena_strdup(&t->arena, path, err);
    NS_BAIL_IF(st, !t->path, NS_ERR_MEMORY, "out of memory");
    if (ns_path_is_dir(path)) {
        NS_CHECK(st, list_dir(t, "", 0, err), "%s", path);
    } else {
        t->is_tar = 1;
        NS_CHECK(st, ns_map_open(&t->tar, path, err), "open model");
        if (t->tar.size >= 2 && t->tar.data[0] == 0x1f && t->tar.data[1] == 0x8b) {
            ns_map_close(&t->tar);
            memset(&t->tar, 0, sizeof t->tar);
            NS_CHECK(st, ns_gunzip_map(&t->tar, path, checksum_ok, err), "%s", "");
        }
        NS_BAIL_IF(st, t->tar.size < 512, NS_ERR_INPUT, "%s: neither a folder nor a tar archive (%zu bytes)", path,
                   t->tar.size);
        NS_CHECK(st, list_tar(t, err), "%s", "");
    }
    if (t->n) qsort(t->items, t->n, sizeof *t->items, by_name);
    for (size_t i = 1; i < t->n; i++) {
        NS_BAIL_IF(st, !strcmp(t->items[i].f.name, t->items[i - 1].f.name), NS_ERR_INPUT,
                   "%s: member '%s' is in the archive twice: refused", path, t->items[i].f.name);
    }
    *out = t;
    return NS_OK;
done:
    ns_tree_close(&t);
    return st;
}

void ns_tree_close(ns_tree **tp)
{
    ns_tree *t = *tp;
    if (!t) return;
    for (size_t i = 0; i < t->n; i++) {
        if (t->items[i].map.data) ns_map_close(&t->items[i].map);
    }
    if (t->tar.data) ns_map_close(&t->tar);
    ns_free(t->items);
    ns_arena_free(&t->arena);
    ns_free(t);
    *tp = NULL;
}

const char *ns_tree_path(const ns_tree *t)
{
    return t->path;
}

int ns_tree_is_tar(const ns_tree *t)
{
    return t->is_tar;
}

size_t ns_tree_count(const ns_tree *t)
{
    return t->n;
}

const ns_tree_file *ns_tree_at(const ns_tree *t, size_t i)
{
    return &t->items[i].f;
}

const ns_tree_file *ns_tree_find(const ns_tree *t, const char *name)
{
    size_t lo = 0, hi = t->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int c = strcmp(t->items[mid].f.name, name);
        if (!c) return &t->items[mid].f;
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

int ns_tree_has_dir(const ns_tree *t, const char *dir)
{
    size_t n = strlen(dir);
    for (size_t i = 0; i < t->n; i++) {
        const char *s = t->items[i].f.name;
        if (!n || (!strncmp(s, dir, n) && s[n] == '/')) return 1;
    }
    return 0;
}

ns_status ns_tree_map(ns_tree *t, const ns_tree_file *f, const unsigned char **data, size_t *size, ns_error *err)
{
    item *it = &t->items[(const item *)(const void *)f - t->items];
    *size = (size_t)it->f.size;
    *data = it->data;
    if (it->data || !it->f.size) return NS_OK;
    if (!it->map.data) {
        char path[4096];
        NS_TRY(ns_path(path, sizeof path, err, "%s/%s", t->path, f->name), "%s", "");
        NS_TRY(ns_map_open(&it->map, path, err), "read model");
    }
    *data = it->map.data;
    *size = it->map.size;
    return NS_OK;
}
