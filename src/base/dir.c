/* Folder trees and published folders.
 *
 * DONE, the proof that a published folder is complete, is written last and is text:
 *     ns-done 1 crc32c
 *     10485760 9a71bb4c model.safetensors        size, CRC-32C, path; sorted by path
 *     end 1                                      number of files: a cut DONE is no DONE
 *
 * Publishing over an existing folder swaps the two names in one step (RENAME_EXCHANGE), so that `name` is the old or the
 * new folder at every moment. Where a file system cannot swap, the old one waits as .name.old between two renames, and
 * ns_dir_begin puts it back if a crash fell in between. Removing a tree starts with its DONE: half of a folder is never
 * taken for a whole. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/scatter.h"
#include "base/sync.h"
#include "base/sys.h"

enum { COPY_BUF = 1 << 20, MAX_DEPTH = 64 };

static ns_status join(char out[4096], const char *a, const char *b, ns_error *err)
{
    int k = snprintf(out, 4096, "%s%s%s", a, a[0] && b[0] ? "/" : "", b);
    NS_FAIL_IF(k < 0 || k >= 4096, NS_ERR_INPUT, "path is too long: '%.100s/%.100s'", a, b);
    return NS_OK;
}

/* ---- listing ---- */

typedef struct entry {
    const char *path; /* relative to the root of the listing */
    char kind;        /* 'f' file, 'd' folder (before its content), '?' link, device, ... */
} entry;

typedef struct listing {
    ns_arena arena;
    entry *v;
    size_t n, cap;
} listing;

static void listing_free(listing *l)
{
    ns_arena_free(&l->arena);
    ns_free(l->v);
    l->v = NULL;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->path, ((const entry *)b)->path);
}

static ns_status list_into(listing *l, const char *root, const char *rel, int depth, ns_error *err);

static ns_status list_one(listing *l, const char *root, const char *rel, const char *name, int depth, ns_error *err)
{
    char sub[4096], full[4096];
    struct stat sb;
    NS_TRY(join(sub, rel, name, err), "%s", "");
    NS_TRY(join(full, root, sub, err), "%s", "");
    if (ns_sys_lstat(full, &sb) != 0) return ns_sys_error(err, "examine", full);
    NS_TRY(ns_grow((void **)&l->v, &l->cap, l->n + 1, sizeof *l->v, "dir.list", err), "list '%s'", root);
    char *copy = ns_arena_strdup(&l->arena, sub, err);
    if (!copy) return NS_ERR_MEMORY;
    entry e = {copy, S_ISREG(sb.st_mode) ? 'f' : S_ISDIR(sb.st_mode) ? 'd' : '?'};
    l->v[l->n++] = e;
    return e.kind == 'd' ? list_into(l, root, copy, depth + 1, err) : NS_OK;
}

static ns_status list_into(listing *l, const char *root, const char *rel, int depth, ns_error *err)
{
    char full[4096];
    NS_FAIL_IF(depth > MAX_DEPTH, NS_ERR_INPUT, "'%s/%s': folders are nested more than %d deep", root, rel, MAX_DEPTH);
    NS_TRY(join(full, root, rel, err), "%s", "");
    int fd = ns_sys_open(full, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) return ns_sys_error(err, "open folder", full);
    DIR *d = ns_sys_fdopendir(fd);
    if (!d) {
        ns_status bad = ns_sys_error(err, "read folder", full);
        ns_sys_close(fd);
        return bad;
    }
    ns_status st = NS_OK;
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(d);
        NS_SYS_BAIL_IF(st, !e && errno, "read folder", full);
        if (!e) break;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        NS_CHECK(st, list_one(l, root, rel, e->d_name, depth, err), "%s", "");
    }
done:
    closedir(d);
    return st;
}

/* Everything below root, sorted (so a folder comes before its content). */
static ns_status list_tree(listing *l, const char *root, ns_error *err)
{
    listing empty = {NS_ARENA_INIT("dir.names"), NULL, 0, 0};
    *l = empty;
    ns_status st = list_into(l, root, "", 0, err);
    if (st == NS_OK && l->n) qsort(l->v, l->n, sizeof *l->v, by_path);
    if (st != NS_OK) listing_free(l);
    return st;
}

/* ---- removing ---- */

/* Removes what the open folder `dir` holds. Links are removed, not followed. */
static ns_status remove_content(int dir, const char *path, int depth, ns_error *err);

static ns_status remove_entry(int dir, const char *path, const char *name, int depth, ns_error *err)
{
    if (ns_sys_unlinkat(dir, name, 0) == 0 || errno == ENOENT) return NS_OK;
    if (errno != EISDIR && errno != EPERM) return ns_sys_error(err, "remove", path);
    int plain_file_errno = errno;
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOTDIR) errno = plain_file_errno;
        return ns_sys_error(err, "remove", path);
    }
    NS_TRY(remove_content(fd, path, depth + 1, err), "%s", "");
    if (ns_sys_unlinkat(dir, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        return ns_sys_error(err, "remove folder", path);
    return NS_OK;
}

static ns_status remove_content(int fd, const char *path, int depth, ns_error *err)
{
    ns_status st = NS_OK;
    char sub[4096];
    DIR *d = depth > MAX_DEPTH ? NULL : ns_sys_fdopendir(fd);
    if (!d) {
        if (depth > MAX_DEPTH) errno = ELOOP;
        st = ns_sys_error(err, "read folder", path);
        ns_sys_close(fd);
        return st;
    }
    if (unlinkat(fd, "DONE", 0) != 0 && errno != ENOENT && errno != EISDIR && errno != EPERM)
        st = ns_sys_error(err, "remove DONE of", path);
    while (st == NS_OK) {
        errno = 0;
        struct dirent *e = readdir(d);
        NS_SYS_BAIL_IF(st, !e && errno, "read folder", path);
        if (!e) break;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        NS_CHECK(st, join(sub, path, e->d_name, err), "%s", "");
        st = remove_entry(dirfd(d), sub, e->d_name, depth, err);
    }
done:
    closedir(d);
    return st;
}

ns_status ns_remove_tree(const char *path, ns_error *err)
{
    return remove_entry(AT_FDCWD, path, path, 0, err);
}

/* ---- linking ---- */

static ns_status copy_file(const char *from, const char *to, ns_error *err)
{
    ns_status st = NS_OK;
    void *buf = NULL;
    struct stat sb;
    int in = -1, out = -1;
    NS_CHECK(st, ns_alloc(&buf, COPY_BUF, "dir.copy", err), "copy '%s'", from);
    in = ns_sys_open(from, O_RDONLY, 0);
    NS_SYS_BAIL_IF(st, in < 0, "open", from);
    NS_SYS_BAIL_IF(st, ns_sys_fstat(in, &sb) != 0, "examine", from);
    out = ns_sys_open(to, O_WRONLY | O_CREAT | O_EXCL, sb.st_mode & 0777);
    NS_SYS_BAIL_IF(st, out < 0, "create", to);
    for (;;) {
        ssize_t k = ns_sys_read(in, buf, COPY_BUF);
        NS_SYS_BAIL_IF(st, k < 0, "read", from);
        if (k == 0) break;
        NS_SYS_BAIL_IF(st, ns_sys_write_all(out, buf, (size_t)k) != 0, "write", to);
    }
    NS_SYS_BAIL_IF(st, ns_sys_fsync(out) != 0, "sync", to);
done:
    if (in >= 0) ns_sys_close(in);
    if (out >= 0 && ns_sys_close(out) != 0 && st == NS_OK) st = ns_sys_error(err, "close", to);
    ns_free(buf);
    return st;
}

static ns_status link_or_copy(const char *from, const char *to, ns_error *err)
{
    if (ns_sys_link(from, to) == 0) return NS_OK;
    int e = errno;
    if (e == EXDEV || e == EPERM || e == EMLINK || e == ENOTSUP || e == EOPNOTSUPP || e == ENOSYS)
        return copy_file(from, to, err);
    return ns_sys_error(err, "make a link to", from);
}

ns_status ns_link_tree(const char *from, const char *to, ns_error *err)
{
    listing l;
    ns_status st = NS_OK;
    char a[4096], b[4096], up[4096];
    const entry *last = NULL; /* the DONE of `from`: only when all else is there */
    NS_TRY(list_tree(&l, from, err), "link '%s' to '%s'", from, to);
    NS_SYS_BAIL_IF(st, ns_sys_mkdir(to, 0777) != 0, "make folder", to);
    for (size_t i = 0; i < l.n; i++) {
        const entry *e = &l.v[i];
        NS_CHECK(st, join(a, from, e->path, err), "%s", "");
        NS_CHECK(st, join(b, to, e->path, err), "%s", "");
        NS_BAIL_IF(st, e->kind == '?', NS_ERR_INPUT, "'%s' is neither a file nor a folder: remove it and try again", a);
        if (e->kind == 'd')
            NS_SYS_BAIL_IF(st, ns_sys_mkdir(b, 0777) != 0, "make folder", b);
        else if (strcmp(e->path, "DONE") == 0)
            last = e;
        else
            NS_CHECK(st, link_or_copy(a, b, err), "link '%s' to '%s'", from, to);
    }
    for (size_t i = 0; i < l.n; i++) {
        if (l.v[i].kind != 'd') continue;
        NS_CHECK(st, join(b, to, l.v[i].path, err), "%s", "");
        NS_CHECK(st, ns_fsync_dir(b, err), "%s", "");
    }
    if (last) {
        NS_CHECK(st, ns_fsync_dir(to, err), "%s", "");
        NS_CHECK(st, join(a, from, "DONE", err), "%s", "");
        NS_CHECK(st, join(b, to, "DONE", err), "%s", "");
        NS_CHECK(st, link_or_copy(a, b, err), "link '%s' to '%s'", from, to);
    }
    NS_CHECK(st, ns_fsync_dir(to, err), "%s", "");
    NS_CHECK(st, join(up, to, "..", err), "%s", "");
    NS_CHECK(st, ns_fsync_dir(up, err), "%s", "");
done:
    listing_free(&l);
    return st;
}

/* ---- publishing ---- */

static ns_status side_name(char out[4096], const char *parent, const char *name, const char *suffix, ns_error *err)
{
    NS_FAIL_IF(!name[0] || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0, NS_ERR_INPUT,
               "'%s' is not a name for a folder in '%s'", name, parent);
    int k =
        suffix ? snprintf(out, 4096, "%s/.%s.%s", parent, name, suffix) : snprintf(out, 4096, "%s/%s", parent, name);
    NS_FAIL_IF(k < 0 || k >= 4096, NS_ERR_INPUT, "path is too long: '%.100s/%.100s'", parent, name);
    return NS_OK;
}

/* Puts parent/.name.old back if a crash fell between the two renames of swap_slowly; else removes it. */
static ns_status recover_old(const char *parent, const char *name, ns_error *err)
{
    char old[4096], final[4096];
    struct stat sb;
    NS_TRY(side_name(old, parent, name, "old", err), "%s", "");
    NS_TRY(side_name(final, parent, name, NULL, err), "%s", "");
    if (lstat(old, &sb) != 0) return NS_OK;
    if (lstat(final, &sb) == 0) return ns_remove_tree(old, err);
    if (ns_sys_rename(old, final) != 0) return ns_sys_error(err, "put back", old);
    return ns_fsync_dir(parent, err);
}

ns_status ns_dir_begin(char *tmp, size_t tmp_size, const char *parent, const char *name, ns_error *err)
{
    char path[4096];
    NS_TRY(side_name(path, parent, name, "tmp", err), "%s", "");
    NS_FAIL_IF(strlen(path) >= tmp_size, NS_ERR_INPUT, "path is too long: '%.200s'", path);
    NS_TRY(ns_mkdirs(parent, err), "%s", "");
    NS_TRY(recover_old(parent, name, err), "recover '%s/%s'", parent, name);
    NS_TRY(ns_remove_tree(path, err), "clear what an interrupted run left");
    if (ns_sys_mkdir(path, 0777) != 0) return ns_sys_error(err, "make folder", path);
    memcpy(tmp, path, strlen(path) + 1);
    return NS_OK;
}

/* Size and CRC of a file; with `sync` also makes its content durable. */
static ns_status digest(uint64_t *size, uint32_t *crc, const char *path, void *buf, int sync, ns_error *err)
{
    ns_status st = NS_OK;
    int fd = ns_sys_open(path, O_RDONLY, 0);
    *size = 0;
    *crc = 0;
    if (fd < 0) return ns_sys_error(err, "open", path);
    for (;;) {
        ssize_t k = ns_sys_read(fd, buf, COPY_BUF);
        NS_SYS_BAIL_IF(st, k < 0, "read", path);
        if (k == 0) break;
        *crc = ns_crc32c(*crc, buf, (size_t)k);
        *size += (uint64_t)k;
    }
    NS_SYS_BAIL_IF(st, sync && ns_sys_fsync(fd) != 0, "sync", path);
done:
    ns_sys_close(fd);
    return st;
}

/* The text of DONE for what is in tmp; syncs every file and folder on the way. */
static ns_status describe(ns_buf *text, const char *tmp, ns_error *err)
{
    listing l;
    ns_status st = NS_OK;
    void *buf = NULL;
    char full[4096];
    size_t n_files = 0;
    NS_TRY(list_tree(&l, tmp, err), "%s", "");
    NS_CHECK(st, ns_alloc(&buf, COPY_BUF, "dir.digest", err), "%s", "");
    NS_CHECK(st, ns_buf_adds(text, "ns-done 1 crc32c\n", err), "%s", "");
    for (size_t i = 0; i < l.n; i++) {
        const entry *e = &l.v[i];
        NS_CHECK(st, join(full, tmp, e->path, err), "%s", "");
        NS_BAIL_IF(st, e->kind == '?' || strchr(e->path, '\n'), NS_ERR_INPUT,
                   "'%s' cannot be published: only files and folders with names of one line can", full);
        if (e->kind == 'd') {
            NS_CHECK(st, ns_fsync_dir(full, err), "%s", "");
            continue;
        }
        uint64_t size;
        uint32_t crc;
        if (!ns_digest_recall(full, &size, &crc)) /* else it was synced when it was closed */
            NS_CHECK(st, digest(&size, &crc, full, buf, 1, err), "%s", "");
        NS_CHECK(st, ns_buf_printf(text, err, "%llu %08x %s\n", (unsigned long long)size, crc, e->path), "%s", "");
        n_files++;
    }
    NS_CHECK(st, ns_buf_printf(text, err, "end %zu\n", n_files), "%s", "");
done:
    ns_free(buf);
    listing_free(&l);
    return st;
}

/* Two renames, for file systems that cannot exchange. On failure the old folder is put back. */
static ns_status swap_slowly(const char *tmp, const char *parent, const char *name, const char *final, ns_error *err)
{
    char old[4096];
    NS_TRY(side_name(old, parent, name, "old", err), "%s", "");
    NS_TRY(ns_remove_tree(old, err), "%s", "");
    if (ns_sys_rename(final, old) != 0) return ns_sys_error(err, "move aside", final);
    if (ns_sys_rename(tmp, final) != 0) {
        ns_status st = ns_sys_error(err, "rename the new folder to", final);
        if (rename(old, final) != 0) ns_error_frame(err, __FILE__, __LINE__, "the old folder is now '%s'", old);
        return st;
    }
    NS_TRY(ns_fsync_dir(parent, err), "%s", "");
    if (ns_remove_tree(old, NULL) != NS_OK) NS_WARN("cannot remove '%s'; the next run will", old);
    return NS_OK;
}

static ns_status put_in_place(const char *tmp, const char *parent, const char *name, ns_error *err)
{
    char final[4096];
    struct stat sb;
    NS_TRY(side_name(final, parent, name, NULL, err), "%s", "");
    if (lstat(final, &sb) != 0) {
        if (ns_sys_rename(tmp, final) != 0) return ns_sys_error(err, "rename the new folder to", final);
        return ns_fsync_dir(parent, err);
    }
    if (ns_sys_exchange(tmp, final) != 0) {
        if (errno != ENOSYS && errno != EINVAL && errno != ENOTSUP)
            return ns_sys_error(err, "swap the new folder with", final);
        return swap_slowly(tmp, parent, name, final, err);
    }
    NS_TRY(ns_fsync_dir(parent, err), "%s", "");
    if (ns_remove_tree(tmp, NULL) != NS_OK) NS_WARN("cannot remove the old folder '%s'; the next run will", tmp);
    return NS_OK;
}

ns_status ns_dir_publish(const char *tmp, const char *parent, const char *name, ns_error *err)
{
    ns_status st = NS_OK;
    ns_buf text = {0};
    char done_path[4096];
    NS_CHECK(st, ns_sync_all(err), "publish '%s/%s'", parent, name);
    NS_CHECK(st, join(done_path, tmp, "DONE", err), "%s", "");
    if (ns_sys_unlinkat(AT_FDCWD, done_path, 0) != 0) /* of a linked tree or an earlier try; never overwritten */
        NS_SYS_BAIL_IF(st, errno != ENOENT, "remove", done_path);
    NS_CHECK(st, describe(&text, tmp, err), "publish '%s/%s'", parent, name);
    NS_CHECK(st, ns_file_replace(done_path, text.data, text.len, err), "publish '%s/%s'", parent, name);
    NS_CHECK(st, put_in_place(tmp, parent, name, err), "publish '%s/%s'", parent, name);
done:
    ns_buf_free(&text);
    return st;
}

/* ---- checking ---- */

/* A path of DONE must stay inside the folder. */
static int is_inside(const char *rel)
{
    if (!rel[0] || rel[0] == '/') return 0;
    for (const char *p = rel; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL)
        if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || p[2] == 0)) return 0;
    return 1;
}

static ns_status check_line(const char *root, const char *line, int deep, void *buf, ns_error *err)
{
    unsigned long long size;
    unsigned crc, found_crc = 0;
    int at = 0;
    char full[4096];
    struct stat sb;
    NS_FAIL_IF(sscanf(line, "%llu %x %n", &size, &crc, &at) != 2 || !at || !is_inside(line + at), NS_ERR_INPUT,
               "'%s/DONE': bad line '%.200s'", root, line);
    NS_TRY(join(full, root, line + at, err), "%s", "");
    if (ns_sys_lstat(full, &sb) != 0) return ns_sys_error(err, "examine", full);
    NS_FAIL_IF(!S_ISREG(sb.st_mode) || (unsigned long long)sb.st_size != size, NS_ERR_MISMATCH,
               "'%s': found %lld bytes, DONE says %llu", full, (long long)sb.st_size, size);
    if (!deep) return NS_OK;
    uint64_t found_size;
    NS_TRY(digest(&found_size, &found_crc, full, buf, 0, err), "%s", "");
    NS_FAIL_IF(found_crc != crc || found_size != size, NS_ERR_MISMATCH,
               "'%s': content has changed (CRC-32C %08x, DONE says %08x): restore the file from a copy", full,
               found_crc, crc);
    return NS_OK;
}

static ns_status check_done(const char *root, char *text, int deep, void *buf, ns_error *err)
{
    char *line = text, *end;
    size_t n_files = 0, want = 0;
    int first = 1, ended = 0;
    for (; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = 0;
        NS_FAIL_IF(ended, NS_ERR_INPUT, "'%s/DONE': text after the end line", root);
        if (first) {
            NS_FAIL_IF(strcmp(line, "ns-done 1 crc32c") != 0, NS_ERR_UNSUPPORTED,
                       "'%s/DONE': found '%.60s', expected 'ns-done 1 crc32c'", root, line);
            first = 0;
        } else if (sscanf(line, "end %zu", &want) == 1)
            ended = 1;
        else {
            NS_TRY(check_line(root, line, deep, buf, err), "%s", "");
            n_files++;
        }
    }
    NS_FAIL_IF(!ended || *line || want != n_files, NS_ERR_INPUT, "'%s/DONE' is cut short: %zu files named", root,
               n_files);
    return NS_OK;
}

int ns_dir_is_done(const char *path, int deep, ns_error *err)
{
    ns_status st = NS_OK;
    ns_buf text = {0};
    void *buf = NULL;
    char done_path[4096];
    NS_CHECK(st, join(done_path, path, "DONE", err), "%s", "");
    NS_CHECK(st, ns_file_read(&text, done_path, err), "folder '%s' is not complete", path);
    NS_BAIL_IF(st, memchr(text.data, 0, text.len) != NULL, NS_ERR_INPUT, "'%s' holds a NUL byte", done_path);
    if (deep) NS_CHECK(st, ns_alloc(&buf, COPY_BUF, "dir.digest", err), "check '%s'", path);
    NS_CHECK(st, check_done(path, text.data, deep, buf, err), "folder '%s' is not complete", path);
done:
    ns_free(buf);
    ns_buf_free(&text);
    return st == NS_OK;
}
