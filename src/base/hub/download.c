/* The hub's interface as far as a download needs it:
 *     GET ENDPOINT/api/models/NAME/revision/REV?blobs=true    {"sha": commit, "siblings": [{"rfilename", "size", "blobId", "lfs":
 *                                                             {"sha256"}}]}
 *     GET ENDPOINT/NAME/resolve/COMMIT/FILE                   the file, often by a redirect to another host
 * Writes, in the cache: blobs/ETAG.incomplete (locked), then blobs/ETAG; snapshots/COMMIT with links to them; refs/REV last. */
#include "base/hub/download.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hub/http.h"
#include "base/hub/hub.h"
#include "base/hub/list.h"
#include "base/hub/sha.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/threads.h"

enum { LIST_MOST = 64 << 20, READ_STEP = 1 << 20 };
typedef ns_hub_file remote;

typedef struct job {
    const ns_download_args *a;
    ns_download_report *r;
    ns_arena arena;
    const char *endpoint, *revision;
    char token[512];
    char base[4096]; /* .../models--ORG--NAME */
    remote *f;
    int n;
    atomic_int next;
    atomic_llong done;     /* bytes that are on disk, for the progress line */
    atomic_int busy;       /* workers */
    pthread_mutex_t mutex; /* below, and counts of r */
    ns_status status;
    ns_error err;
} job;

/* ---- requests ---- */
static int tries(const job *j)
{
    return j->a->n_tries > 0 ? j->a->n_tries : 6;
}

static void wait_before(const job *j, int attempt)
{
    int64_t ms = (j->a->backoff_ms > 0 ? j->a->backoff_ms : 1000) * ((int64_t)1 << (attempt < 6 ? attempt : 6));
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* What to do about an answer that is no file. */
static ns_status refused(const job *j, const ns_http_get *g, const char *file, ns_error *err)
{
    const char *name = j->a->name, *sep = file ? "/" : "";
    if (!file) file = "";
    switch (g->status) {
    case 401:
        NS_FAIL(
            NS_ERR_INPUT,
            j->token[0]
                ? "%s%s%s: the token is not accepted (401): make a new one at %s/settings/tokens and put it into "
                  "HF_TOKEN"
                : "%s%s%s: not found, or it needs a login (401): check the name, or put a token of %s/settings/tokens "
                  "into HF_TOKEN",
            name, sep, file, j->endpoint);
    case 403:
        NS_FAIL(NS_ERR_INPUT,
                "%s%s%s: no access (403): accept its licence at %s/%s with the account of the token in HF_TOKEN", name,
                sep, file, j->endpoint, name);
    case 404:
        NS_FAIL(NS_ERR_INPUT, "%s%s%s: not found at %s, revision %s (404): check the name and --revision", name, sep,
                file, j->endpoint, j->revision);
    default:
        NS_FAIL(NS_ERR_IO, "%s%s%s: %s answers with HTTP status %d, after %d tries: try again later", name, sep, file,
                j->endpoint, g->status, tries(j));
    }
}

static ns_status url_of(ns_buf *out, const job *j, const char *middle, const char *rev, const char *file, ns_error *err)
{
    NS_TRY(ns_buf_printf(out, err, "%s/%s%s", j->endpoint, middle, j->a->name), "%s", "");
    NS_TRY(ns_buf_adds(out, file ? "/resolve/" : "/revision/", err), "%s", "");
    for (int part = 0; part < 2; part++) {
        if (part && !file) break;
        if (part) NS_TRY(ns_buf_addc(out, '/', err), "%s", "");
        for (const char *p = part ? file : rev; *p; p++) {
            unsigned char c = (unsigned char)*p;
            int plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                        strchr("-_.~", c) || (part && c == '/');
            NS_TRY(plain ? ns_buf_addc(out, (char)c, err) : ns_buf_printf(out, err, "%%%02X", c), "%s", "");
        }
    }
    return file ? NS_OK : ns_buf_adds(out, "?blobs=true", err);
}

/* ---- the list of files ---- */
static int take_list(void *user, int status, const void *p, size_t n)
{
    ns_buf *b = user;
    (void)status;
    return b->len + n > LIST_MOST || ns_buf_add(b, p, n, NULL) != NS_OK;
}

static ns_status list_files(job *j, ns_error *err)
{
    ns_buf url = {0}, b = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, url_of(&url, j, "api/models/", j->revision, NULL, err), "%s", "");
    for (int i = 0;; i++) {
        ns_error why = NS_ERROR_INIT;
        ns_http_get g = {.url = url.data, .token = j->token[0] ? j->token : NULL, .sink = take_list, .user = &b};
        ns_buf_clear(&b);
        st = ns_http_run(&g, &why);
        if (st == NS_OK && g.status == 200) break;
        if (g.retry && i + 1 < tries(j)) {
            NS_INFO("%s: %s: trying again", j->a->name, g.what);
            wait_before(j, i);
            continue;
        }
        if (st == NS_OK)
            st = refused(j, &g, NULL, err);
        else
            st = ns_error_set(err, st == NS_ERR_STOPPED ? NS_ERR_IO : st, __FILE__, __LINE__, "%s%s", why.msg,
                              st == NS_ERR_IO ? ": is the network there? HF_ENDPOINT names another server" : "");
        goto done;
    }
    ns_hub_list list = {.name = j->a->name, .include = j->a->include, .n_include = j->a->n_include};
    NS_CHECK(st, ns_hub_list_parse(&list, &j->arena, b.data ? b.data : "", b.len, err), "%s", "");
    j->f = list.f;
    j->n = list.n;
    j->r->n_skipped = list.n_skipped;
    snprintf(j->r->commit, sizeof j->r->commit, "%s", list.commit);
done:
    ns_buf_free(&url);
    ns_buf_free(&b);
    return st;
}

/* ---- one file ---- */
typedef struct fetch {
    job *j;
    const remote *f;
    int fd, failed; /* failed: errno of a write */
    int64_t have;   /* bytes in the file */
    ns_sha sha;
} fetch;

static void begin_sum(fetch *x)
{
    char head[48];
    if (x->f->is_lfs) {
        ns_sha256_begin(&x->sha);
        return;
    }
    ns_sha1_begin(&x->sha); /* as git: the size belongs to it */
    ns_sha_add(&x->sha, head, (size_t)snprintf(head, sizeof head, "blob %lld", (long long)x->f->size) + 1);
}

static int start_over(fetch *x)
{
    if (ftruncate(x->fd, 0) != 0 || lseek(x->fd, 0, SEEK_SET) != 0) return errno;
    atomic_fetch_sub(&x->j->done, x->have);
    x->have = 0;
    begin_sum(x);
    return 0;
}

/* What an earlier run left: read for the checksum, then the file goes on behind it. */
static ns_status take_part(fetch *x, const char *path, ns_error *err)
{
    void *buf = NULL;
    ssize_t n = 0;
    begin_sum(x);
    NS_TRY(ns_alloc(&buf, READ_STEP, "download.part", err), "%s", "");
    while ((n = read(x->fd, buf, READ_STEP)) > 0) {
        ns_sha_add(&x->sha, buf, (size_t)n);
        x->have += n;
        atomic_fetch_add(&x->j->done, n);
    }
    ns_free(buf);
    NS_FAIL_IF(n < 0, NS_ERR_IO, "cannot read '%s': %s", path, strerror(errno));
    if (x->f->size >= 0 && x->have > x->f->size) NS_FAIL_IF(start_over(x), NS_ERR_IO, "cannot cut '%s'", path);
    return NS_OK;
}

static int take_body(fetch *x, const char *p, size_t n)
{
    if (x->f->size >= 0 && x->have + (int64_t)n > x->f->size) x->failed = EFBIG;
    if (x->failed) return 1;
    ns_sha_add(&x->sha, p, n);
    for (size_t left = n; left;) {
        ssize_t k = write(x->fd, p, left);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            x->failed = errno;
            return 1;
        }
        p += k;
        left -= (size_t)k;
    }
    x->have += (int64_t)n;
    atomic_fetch_add(&x->j->done, (long long)n);
    return 0;
}

/* One request: begins where the last one ended, if the server does ranges. */
typedef struct body {
    fetch *x;
    int begun;
} body;

static int take(void *user, int status, const void *p, size_t n)
{
    body *b = user;
    if (!b->begun && status == 200 && b->x->have) b->x->failed = start_over(b->x); /* the whole file comes */
    b->begun = 1;
    return take_body(b->x, p, n);
}

static ns_status transfer(fetch *x, ns_error *err)
{
    ns_buf url = {0};
    job *j = x->j;
    ns_status st = url_of(&url, j, "", j->r->commit, x->f->path, err);
    for (int i = 0; st == NS_OK && x->have != x->f->size; i++) {
        ns_error why = NS_ERROR_INIT;
        body b = {.x = x};
        int64_t before = x->have;
        ns_http_get g = {
            .url = url.data, .token = j->token[0] ? j->token : NULL, .from = before, .sink = take, .user = &b};
        ns_status got = ns_http_run(&g, &why);
        if (got == NS_OK && (g.status == 200 || g.status == 206)) break;
        if (x->failed) {
            st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "%s: %s", x->f->path,
                              x->failed == EFBIG ? "the server sends more bytes than the hub says"
                                                 : strerror(x->failed));
        } else if (got == NS_OK && g.status == 416 && before) { /* the part is not of this file */
            x->failed = start_over(x);
        } else if (g.retry && (i + 1 < tries(j))) {
            if (x->have > before) i = 0; /* it goes on: tries are for standstill */
            NS_INFO("%s: %s: going on at byte %lld", x->f->path, g.what, (long long)x->have);
            wait_before(j, i);
        } else if (got == NS_OK) {
            st = refused(j, &g, x->f->path, err);
        } else {
            st = ns_error_set(err, got, __FILE__, __LINE__, "%s", why.msg);
        }
    }
    ns_buf_free(&url);
    return st;
}

static ns_status check_sum(fetch *x, int *right, ns_error *err)
{
    char sum[65];
    *right = 0;
    NS_FAIL_IF(x->f->size >= 0 && x->have != x->f->size, NS_ERR_IO, "%s: %lld bytes came, the hub says %lld",
               x->f->path, (long long)x->have, (long long)x->f->size);
    ns_sha_hex(&x->sha, sum);
    *right = !strcmp(sum, x->f->etag) || (!x->f->is_lfs && x->f->size < 0);
    return NS_OK;
}

static ns_status fetch_blob(fetch *x, const char *part, const char *blob, ns_error *err)
{
    int right = 0;
    NS_FAIL_IF(flock(x->fd, LOCK_EX | LOCK_NB) != 0, NS_ERR_INPUT,
               "%s is being downloaded by another process: wait for it, then run this again", x->f->path);
    NS_TRY(take_part(x, part, err), "%s", "");
    int64_t had = x->have;
    for (int k = 0; k < 2 && !right; k++) {
        NS_TRY(transfer(x, err), "%s", "");
        NS_TRY(check_sum(x, &right, err), "%s", "");
        if (right) break;
        NS_WARN("%s: wrong checksum%s: fetched anew", x->f->path, had ? " of what was continued" : "");
        NS_FAIL_IF(start_over(x), NS_ERR_IO, "cannot cut '%s'", part);
    }
    if (!right) unlink(part);
    NS_FAIL_IF(!right, NS_ERR_IO, "%s: the checksum is not %s, twice: the server or the way to it damages the file",
               x->f->path, x->f->etag);
    NS_FAIL_IF(fsync(x->fd) != 0 || rename(part, blob) != 0, NS_ERR_IO, "cannot write '%s': %s", blob, strerror(errno));
    pthread_mutex_lock(&x->j->mutex);
    x->j->r->n_fetched++;
    x->j->r->n_continued += had > 0;
    x->j->r->bytes_fetched += x->have - had;
    pthread_mutex_unlock(&x->j->mutex);
    return NS_OK;
}

static ns_status get_file(job *j, const remote *f, ns_error *err)
{
    char blob[4096], part[4096];
    struct stat sb;
    fetch x = {.j = j, .f = f, .fd = -1};
    int n = snprintf(blob, sizeof blob, "%s/blobs/%s", j->base, f->etag);
    NS_FAIL_IF(n < 0 || n + 16 >= (int)sizeof part, NS_ERR_INPUT, "path is too long: '%.100s...'", j->base);
    snprintf(part, sizeof part, "%.4000s.incomplete", blob);
    if (stat(blob, &sb) == 0 && (f->size < 0 || sb.st_size == f->size)) {
        atomic_fetch_add(&j->done, (long long)sb.st_size);
        return NS_OK;
    }
    x.fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    NS_FAIL_IF(x.fd < 0, NS_ERR_IO, "cannot write '%s': %s", part, strerror(errno));
    ns_status st = fetch_blob(&x, part, blob, err);
    close(x.fd);
    return st;
}

static void *worker(void *user)
{
    job *j = user;
    for (;;) {
        int i = atomic_fetch_add(&j->next, 1);
        ns_error err = NS_ERROR_INIT;
        pthread_mutex_lock(&j->mutex);
        int stop = i >= j->n || j->status != NS_OK;
        pthread_mutex_unlock(&j->mutex);
        if (stop) break;
        ns_status st = get_file(j, &j->f[i], &err);
        if (st == NS_OK) continue;
        pthread_mutex_lock(&j->mutex);
        if (j->status == NS_OK) {
            j->status = st;
            j->err = err;
        }
        pthread_mutex_unlock(&j->mutex);
    }
    atomic_fetch_sub(&j->busy, 1);
    return NULL;
}

static ns_status fetch_all(job *j, ns_error *err)
{
    pthread_t t[16];
    int n = j->a->n_parallel > 0 ? j->a->n_parallel : 4, started = 0;
    double total = 0;
    for (int i = 0; i < j->n; i++) total += j->f[i].size > 0 ? (double)j->f[i].size : 0;
    ns_progress *progress = ns_progress_begin(j->a->name, total, "bytes");
    if (n > 16) n = 16;
    for (int i = 0; i < n; i++) {
        atomic_fetch_add(&j->busy, 1);
        if (ns_thread_start(&t[started], NULL, worker, j) == 0)
            started++;
        else
            atomic_fetch_sub(&j->busy, 1);
    }
    while (started && atomic_load(&j->busy)) {
        struct timespec tick = {0, 20 * 1000 * 1000};
        nanosleep(&tick, NULL);
        ns_progress_set(progress, (double)atomic_load(&j->done), NULL);
    }
    for (int i = 0; i < started; i++) pthread_join(t[i], NULL);
    ns_progress_end(&progress, NULL);
    NS_FAIL_IF(!started, NS_ERR_IO, "no thread for the download");
    if (j->status != NS_OK && err) *err = j->err;
    return j->status;
}

/* ---- the snapshot ---- */
static ns_status link_file(const job *j, const char *dir, const remote *f, ns_error *err)
{
    char path[4096], up[4096], target[1400] = "../../";
    size_t n = 6;
    NS_FAIL_IF(snprintf(path, sizeof path, "%s/%s", dir, f->path) >= (int)sizeof path, NS_ERR_INPUT,
               "path is too long: '%.100s...'", dir);
    for (const char *p = f->path; *p; p++) { /* out of the file's folders, too */
        if (*p != '/') continue;
        NS_FAIL_IF(n + 80 >= sizeof target, NS_ERR_INPUT, "%s is nested too deep", f->path);
        memcpy(target + n, "../", 4);
        n += 3;
    }
    snprintf(target + n, sizeof target - n, "blobs/%s", f->etag);
    snprintf(up, sizeof up, "%s", path);
    *strrchr(up, '/') = 0;
    NS_TRY(ns_mkdirs(up, err), "%s", j->a->name);
    if (symlink(target, path) == 0) return NS_OK;
    NS_FAIL_IF(errno != EEXIST, NS_ERR_IO, "cannot make '%s': %s", path, strerror(errno));
    struct stat sb;
    if (stat(path, &sb) == 0) return NS_OK; /* of an earlier download of the same commit */
    NS_FAIL_IF(unlink(path) != 0 || symlink(target, path) != 0, NS_ERR_IO, "cannot make '%s': %s", path,
               strerror(errno));
    return NS_OK;
}

static ns_status publish(job *j, ns_error *err)
{
    char dir[4096], tmp[4096], ref[4096], up[4096];
    int old;
    NS_FAIL_IF(strlen(j->base) + strlen(j->revision) + 200 > sizeof dir, NS_ERR_INPUT, "path is too long: '%.100s...'",
               j->base);
    snprintf(dir, sizeof dir, "%.3700s/snapshots/%s", j->base, j->r->commit);
    snprintf(tmp, sizeof tmp, "%.3700s/snapshots/.%s.tmp.%ld", j->base, j->r->commit, (long)getpid());
    snprintf(ref, sizeof ref, "%.3700s/refs/%s", j->base, j->revision);
    snprintf(up, sizeof up, "%.3700s/snapshots", j->base);
    NS_TRY(ns_mkdirs(up, err), "%s", "");
    old = ns_path_is_dir(dir); /* some files of it: the others are added */
    NS_TRY(ns_mkdirs(old ? dir : tmp, err), "%s", "");
    for (int i = 0; i < j->n; i++) NS_TRY(link_file(j, old ? dir : tmp, &j->f[i], err), "%s", "");
    NS_TRY(ns_fsync_dir(old ? dir : tmp, err), "%s", "");
    NS_FAIL_IF(!old && rename(tmp, dir) != 0, NS_ERR_IO, "cannot make '%s': %s", dir, strerror(errno));
    NS_TRY(ns_fsync_dir(up, err), "%s", "");
    snprintf(j->r->path, sizeof j->r->path, "%s", dir);
    if (!strcmp(j->revision, j->r->commit)) return NS_OK;
    snprintf(up, sizeof up, "%s", ref);
    *strrchr(up, '/') = 0;
    NS_TRY(ns_mkdirs(up, err), "%s", "");
    return ns_file_replace(ref, j->r->commit, strlen(j->r->commit), err);
}

/* ---- settings ---- */
static void find_token(job *j)
{
    const char *t = j->a->token ? j->a->token : getenv("HF_TOKEN"), *home = getenv("HF_HOME"), *h = getenv("HOME");
    char path[4096];
    ns_buf b = {0};
    if (!t &&
        (!h || snprintf(path, sizeof path, "%s%s/token", home ? home : h, home ? "" : "/.cache/huggingface") <
                   (int)sizeof path) &&
        (home || h) && ns_path_exists(path) && ns_file_read(&b, path, NULL) == NS_OK)
        t = b.data;
    size_t n = t ? strcspn(t, " \t\r\n") : 0;
    if (n && n < sizeof j->token) snprintf(j->token, sizeof j->token, "%.*s", (int)n, t);
    ns_buf_free(&b);
}

static ns_status settings(job *j, ns_error *err)
{
    const ns_download_args *a = j->a;
    const char *e = a->endpoint ? a->endpoint : getenv("HF_ENDPOINT"), *offline = getenv("HF_HUB_OFFLINE");
    char *end;
    NS_FAIL_IF(!ns_hub_is_name(a->name), NS_ERR_CONFIG,
               "'%s' is not the name of a model: ORG/NAME, such as Qwen/Qwen2.5-0.5B", a->name);
    j->revision = a->revision ? a->revision : "main";
    NS_FAIL_IF(!ns_hub_good_path(j->revision), NS_ERR_CONFIG, "--revision '%s': expected a branch, tag or commit",
               j->revision);
    NS_FAIL_IF(offline && *offline && strcmp(offline, "0"), NS_ERR_CONFIG,
               "HF_HUB_OFFLINE is set: nothing is downloaded");
    end = ns_arena_strdup(&j->arena, e && *e ? e : "https://huggingface.co", err);
    if (!end) return NS_ERR_MEMORY;
    for (size_t n = strlen(end); n && end[n - 1] == '/'; n--) end[n - 1] = 0;
    NS_FAIL_IF(strncmp(end, "https://", 8) && strncmp(end, "http://", 7), NS_ERR_CONFIG,
               "HF_ENDPOINT '%s': expected https://HOST", end);
    j->endpoint = end;
    find_token(j);
    if (j->token[0] && !ns_http_keeps_secrets(end)) {
        NS_WARN("%s is not encrypted: the token (HF_TOKEN) is not sent there", end);
        j->token[0] = 0;
    }
    return ns_hub_folder(j->base, a->name, err);
}

static ns_status enough_room(const job *j, ns_error *err)
{
    uint64_t room, need = 0;
    char path[4096];
    struct stat sb;
    for (int i = 0; i < j->n; i++) {
        if (j->f[i].size <= 0 || snprintf(path, sizeof path, "%s/blobs/%s", j->base, j->f[i].etag) >= (int)sizeof path)
            continue;
        if (stat(path, &sb) == 0) continue;
        need += (uint64_t)j->f[i].size;
        size_t n = strlen(path);
        if (n + 12 < sizeof path) memcpy(path + n, ".incomplete", 12);
        if (stat(path, &sb) == 0 && sb.st_size <= j->f[i].size) need -= (uint64_t)sb.st_size;
    }
    NS_TRY(ns_disk_free(&room, j->base, err), "%s", "");
    NS_FAIL_IF(
        need > room, NS_ERR_IO,
        "%s: %.2f GB are still to be fetched, and %s has %.2f GB free: make room, or set HF_HOME to another disk",
        j->a->name, (double)need / 1e9, j->base, (double)room / 1e9);
    return NS_OK;
}

ns_status ns_download(const ns_download_args *a, ns_download_report *r, ns_error *err)
{
    job j = {
        .a = a, .r = r, .arena = NS_ARENA_INIT("download"), .mutex = PTHREAD_MUTEX_INITIALIZER, .err = NS_ERROR_INIT};
    char blobs[4096];
    ns_status st = NS_OK;
    memset(r, 0, sizeof *r);
    NS_CHECK(st, settings(&j, err), "%s", "");
    NS_CHECK(st, list_files(&j, err), "%s", "");
    NS_CHECK(st, enough_room(&j, err), "%s", "");
    snprintf(blobs, sizeof blobs, "%.4000s/blobs", j.base);
    NS_CHECK(st, ns_mkdirs(blobs, err), "%s", a->name);
    NS_CHECK(st, fetch_all(&j, err), "%s", a->name);
    NS_CHECK(st, publish(&j, err), "%s", a->name);
    r->n_files = j.n;
    for (int i = 0; i < j.n; i++) r->bytes += j.f[i].size > 0 ? j.f[i].size : 0;
done:
    pthread_mutex_destroy(&j.mutex);
    ns_arena_free(&j.arena);
    return st;
}
