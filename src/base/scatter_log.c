/* resume.log (scatter_log.h):
 *     ns-resume 1 KEY
 *     run AT N CRC32 CRC32C FILE              N bytes at AT of FILE were written; sums in hexadecimal
 *     note TEXT
 * Lines are appended by single writes: a cut last line has no line end and is dropped. */
#include "base/scatter_log.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/sys.h"

typedef struct kept_file {
    const char *rel;
    ns_scatter_run *runs;
    size_t n, cap;
} kept_file;

static struct {
    pthread_mutex_t mutex; /* appending */
    int fd, open;
    char dir[4096], path[4096];
    ns_buf text; /* of the interrupted run; names and notes point into it */
    kept_file *file;
    size_t n_files, files_cap;
    const char **note;
    size_t n_notes, notes_cap;
} g = {.mutex = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

static void forget(void)
{
    for (size_t i = 0; i < g.n_files; i++) ns_free(g.file[i].runs);
    ns_free(g.file);
    ns_free(g.note);
    ns_buf_free(&g.text);
    g.file = NULL;
    g.note = NULL;
    g.n_files = g.files_cap = g.n_notes = g.notes_cap = 0;
}

static kept_file *find(const char *rel)
{
    for (size_t i = g.n_files; i-- > 0;) /* lines of a file are near each other */
        if (!strcmp(g.file[i].rel, rel)) return &g.file[i];
    return NULL;
}

static ns_status add_run(const char *rel, const ns_scatter_run *r, ns_error *err)
{
    kept_file *f = find(rel);
    if (!f) {
        NS_TRY(ns_grow((void **)&g.file, &g.files_cap, g.n_files + 1, sizeof *g.file, "resume.files", err), "%s", "");
        f = &g.file[g.n_files++];
        *f = (kept_file){.rel = rel};
    }
    NS_TRY(ns_grow((void **)&f->runs, &f->cap, f->n + 1, sizeof *f->runs, "resume.runs", err), "%s", "");
    f->runs[f->n++] = *r;
    return NS_OK;
}

static int by_offset(const void *a, const void *b)
{
    const ns_scatter_run *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

/* One line, without its end. Unknown ones: the log is not ours. */
static ns_status take_line(char *line, int *good, ns_error *err)
{
    ns_scatter_run r;
    int used = 0;
    if (sscanf(line, "run %" SCNu64 " %" SCNu64 " %" SCNx32 " %" SCNx32 " %n", &r.at, &r.n, &r.crc32, &r.crc32c,
               &used) == 4 &&
        used && line[used])
        return add_run(line + used, &r, err);
    if (!strncmp(line, "note ", 5)) {
        NS_TRY(ns_grow((void **)&g.note, &g.notes_cap, g.n_notes + 1, sizeof *g.note, "resume.notes", err), "%s", "");
        g.note[g.n_notes++] = line + 5;
        return NS_OK;
    }
    *good = 0;
    return NS_OK;
}

static ns_status parse(const char *key, int *good, ns_error *err)
{
    char *p = g.text.data, *end = p + g.text.len;
    size_t n = strlen(key);
    *good = g.text.len > n + 13 && !memcmp(p, "ns-resume 1 ", 12) && !memcmp(p + 12, key, n) && p[12 + n] == '\n';
    if (!*good) return NS_OK;
    for (p += n + 13; *good && p < end;) {
        char *stop = memchr(p, '\n', (size_t)(end - p));
        if (!stop) break; /* cut */
        *stop = 0;
        NS_TRY(take_line(p, good, err), "%s", g.path);
        p = stop + 1;
    }
    for (size_t i = 0; i < g.n_files; i++) qsort(g.file[i].runs, g.file[i].n, sizeof *g.file[i].runs, by_offset);
    return NS_OK;
}

static const char *relative(const char *path)
{
    size_t n = strlen(g.dir);
    return g.open && !strncmp(path, g.dir, n) && path[n] == '/' ? path + n + 1 : NULL;
}

static int remove_stray(const char *path, const struct stat *sb, int type, struct FTW *ftw)
{
    (void)sb;
    (void)ftw;
    const char *rel = relative(path);
    if (type == FTW_D || !rel || !strcmp(rel, "resume.log") || find(rel)) return 0;
    return unlink(path) ? 1 : 0;
}

/* Opens tmp/resume.log and locks it; *kept: it is of the same key and was read. */
static ns_status try_keep(const char *key, int *kept, ns_error *err)
{
    *kept = 0;
    g.fd = open(g.path, O_RDWR | O_APPEND | O_CLOEXEC);
    if (g.fd < 0) return NS_OK;
    NS_FAIL_IF(flock(g.fd, LOCK_EX | LOCK_NB) != 0, NS_ERR_INPUT,
               "%s: another process is writing this output: wait for it, or choose another output", g.dir);
    if (!key) return NS_OK;
    NS_TRY(ns_file_read(&g.text, g.path, err), "%s", "");
    NS_TRY(parse(key, kept, err), "%s", "");
    if (*kept && nftw(g.dir, remove_stray, 16, FTW_PHYS) != 0) *kept = 0;
    return NS_OK;
}

static void close_log(void)
{
    if (g.fd >= 0) close(g.fd);
    g.fd = -1;
    g.open = 0;
    forget();
}

static ns_status append(const char *text, size_t n, ns_error *err)
{
    pthread_mutex_lock(&g.mutex);
    int bad = ns_sys_write_all(g.fd, text, n);
    pthread_mutex_unlock(&g.mutex);
    return bad ? ns_sys_error(err, "write", g.path) : NS_OK;
}

static ns_status start_anew(char *tmp, size_t tmp_size, const char *parent, const char *name, const char *key,
                            ns_error *err)
{
    ns_buf b = {0};
    NS_TRY(ns_dir_begin(tmp, tmp_size, parent, name, err), "%s", "");
    g.fd = ns_sys_open(g.path, O_RDWR | O_APPEND | O_CREAT | O_EXCL, 0666);
    if (g.fd < 0) return ns_sys_error(err, "create", g.path);
    NS_FAIL_IF(flock(g.fd, LOCK_EX | LOCK_NB) != 0, NS_ERR_INPUT, "%s: another process is writing this output", g.dir);
    ns_status st = ns_buf_printf(&b, err, "ns-resume 1 %s\n", key ? key : "");
    if (st == NS_OK) st = append(b.data, b.len, err);
    ns_buf_free(&b);
    return st;
}

ns_status ns_scatter_log_begin(char *tmp, size_t tmp_size, const char *parent, const char *name, const char *key,
                               int *kept, ns_error *err)
{
    ns_status st = NS_OK;
    NS_ASSERT(!g.open);
    *kept = 0;
    int n = snprintf(g.dir, sizeof g.dir, "%s/.%s.tmp", parent, name);
    NS_FAIL_IF(n < 0 || (size_t)n + 16 >= sizeof g.path || (size_t)n >= tmp_size, NS_ERR_INPUT,
               "path is too long: '%.100s...'", parent);
    snprintf(g.path, sizeof g.path, "%.4000s/resume.log", g.dir);
    g.open = 1;
    NS_CHECK(st, try_keep(key, kept, err), "%s", "");
    if (*kept) {
        memcpy(tmp, g.dir, (size_t)n + 1);
        return NS_OK;
    }
    int old = g.fd; /* stays locked until its folder is gone */
    forget();
    g.fd = -1;
    st = start_anew(tmp, tmp_size, parent, name, key, err);
    if (old >= 0) close(old);
done:
    if (st != NS_OK) close_log();
    return st;
}

ns_status ns_scatter_log_note(const char *line, ns_error *err)
{
    ns_buf b = {0};
    if (!g.open) return NS_OK;
    ns_status st = ns_buf_printf(&b, err, "note %s\n", line);
    if (st == NS_OK) st = append(b.data, b.len, err);
    ns_buf_free(&b);
    return st;
}

const char *ns_scatter_log_kept(size_t i)
{
    return g.open && i < g.n_notes ? g.note[i] : NULL;
}

void ns_scatter_log_end(void)
{
    if (g.open) unlink(g.path);
    close_log();
}

int ns_scatter_log_covers(const char *path)
{
    return relative(path) != NULL;
}

const ns_scatter_run *ns_scatter_log_runs(const char *path, size_t *n)
{
    const char *rel = relative(path);
    const kept_file *f = rel ? find(rel) : NULL;
    *n = f ? f->n : 0;
    return f ? f->runs : NULL;
}

ns_status ns_scatter_log_run(const char *path, const ns_scatter_run *r, ns_error *err)
{
    ns_buf b = {0};
    ns_status st = ns_buf_printf(&b, err, "run %" PRIu64 " %" PRIu64 " %08" PRIx32 " %08" PRIx32 " %s\n", r->at, r->n,
                                 r->crc32, r->crc32c, relative(path));
    if (st == NS_OK) st = append(b.data, b.len, err);
    ns_buf_free(&b);
    return st;
}
