/* The experiment store: see store.h. Rules that make it safe for several writers: a folder appears by rename, a state file is
 * replaced whole, names are chosen by an exclusive mkdir; nothing is locked, nothing is edited in place. */
#include "jobs/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "jobs/jobs_priv.h"

static const char *const state_names[] = {"waiting", "running", "done", "failed", "cancelled", "skipped", "lost"};

const char *ns_task_state_name(ns_task_state s)
{
    return state_names[s];
}

int ns_task_ended(ns_task_state s)
{
    return s != NS_TASK_WAITING && s != NS_TASK_RUNNING;
}

ns_status ns_store_home(char *out, size_t n, ns_error *err)
{
    const char *ours = getenv("NS_HOME"), *theirs = getenv("NEMORUN_HOME"), *home = getenv("HOME");
    char cwd[2048];
    int m;
    if (ours && *ours)
        m = snprintf(out, n, "%s", ours);
    else if (theirs && *theirs)
        m = snprintf(out, n, "%s", theirs);
    else {
        NS_FAIL_IF(!home || !*home, NS_ERR_CONFIG,
                   "neither NS_HOME nor HOME is set: there is no place for experiment records");
        m = snprintf(out, n, "%s/.ns", home);
    }
    if (m > 0 && out[0] != '/') {
        char rel[1024];
        snprintf(rel, sizeof rel, "%s", out);
        NS_FAIL_IF(!getcwd(cwd, sizeof cwd), NS_ERR_IO, "the current folder has no path");
        m = snprintf(out, n, "%s/%s", cwd, rel);
    }
    NS_FAIL_IF(m < 0 || (size_t)m + 600 > n, NS_ERR_CONFIG, "NS_HOME is too long: %.60s...", out);
    char dir[JOBS_PATH];
    NS_TRY(jobs_path(dir, err, "%s/experiments", out), "%s", "store");
    NS_TRY(ns_mkdirs(dir, err), "experiment store");
    NS_TRY(jobs_path(dir, err, "%s/queue", out), "%s", "store");
    return ns_mkdirs(dir, err);
}

ns_status ns_store_reserve(ns_graph *g, ns_error *err)
{
    char home[JOBS_PATH], dir[JOBS_PATH];
    const char *stem = ns_safe_name(&g->arena, g->title, err);
    if (!stem) return NS_ERR_MEMORY;
    NS_TRY(ns_store_home(home, sizeof home, err), "%s", "store");
    NS_TRY(jobs_path(dir, err, "%s/experiments/%s", home, stem), "%s", "store");
    NS_TRY(ns_mkdirs(dir, err), "experiment store");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    g->created = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    for (int k = 0; k < 10000; k++) {
        const char *id = k ? ns_arena_printf(&g->arena, err, "%s_%ld_%d", stem, (long)now.tv_sec, k)
                           : ns_arena_printf(&g->arena, err, "%s_%ld", stem, (long)now.tv_sec);
        const char *final = id ? ns_arena_printf(&g->arena, err, "%s/%s", dir, id) : NULL;
        const char *tmp = final ? ns_arena_printf(&g->arena, err, "%s/.%s.tmp", dir, id) : NULL;
        if (!tmp) return NS_ERR_MEMORY;
        if (mkdir(tmp, 0777) != 0) {
            if (errno == ENOENT) /* a submission that was refused has just taken the empty folder away */
                NS_TRY(ns_mkdirs(dir, err), "experiment store");
            else
                NS_FAIL_IF(errno != EEXIST, NS_ERR_IO, "cannot make %s: %s", tmp, strerror(errno));
            continue;
        }
        if (ns_path_exists(final)) {
            rmdir(tmp);
            continue;
        }
        g->id = id;
        g->dir = g->run_dir = final;
        return NS_OK;
    }
    NS_FAIL(NS_ERR_IO, "%s: no free name for another experiment", dir);
}

static ns_status tmp_path(char out[JOBS_PATH], const ns_graph *g, const char *below, ns_error *err)
{
    const char *slash = strrchr(g->dir, '/');
    return jobs_path(out, err, "%.*s/.%s.tmp%s%s", (int)(slash - g->dir), g->dir, g->id, *below ? "/" : "", below);
}

void ns_store_drop(ns_graph *g)
{
    char tmp[JOBS_PATH];
    ns_error ignored = NS_ERROR_INIT;
    if (!g->dir || tmp_path(tmp, g, "", &ignored) != NS_OK || ns_remove_tree(tmp, &ignored) != NS_OK) return;
    *strrchr(tmp, '/') = 0;
    rmdir(tmp); /* of the title: stays when it has other experiments */
}

/* Not yet on the disk: ns_store_sync follows, once for many files. */
static ns_status write_plain(const char *path, const char *text, size_t n, ns_error *err)
{
    FILE *f = fopen(path, "w");
    NS_FAIL_IF(!f, NS_ERR_IO, "cannot make %s: %s", path, strerror(errno));
    int bad = fwrite(text, 1, n, f) != n || fflush(f) != 0;
    if (fclose(f) != 0 || bad) {
        int e = errno;
        unlink(path);
        NS_FAIL(NS_ERR_IO, "cannot write %s: %s", path, strerror(e));
    }
    return NS_OK;
}

/* Whole or not at all for every reader. */
static ns_status write_fast(const char *path, const char *text, size_t n, ns_error *err)
{
    char tmp[JOBS_PATH];
    NS_TRY(jobs_path(tmp, err, "%s.tmp.%ld", path, (long)getpid()), "%s", "store");
    NS_TRY(write_plain(tmp, text, n, err), "%s", path);
    if (rename(tmp, path) != 0) {
        int e = errno;
        unlink(tmp);
        NS_FAIL(NS_ERR_IO, "cannot write %s: %s", path, strerror(e));
    }
    return NS_OK;
}

ns_status ns_store_sync(const char *folder, ns_error *err)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    NS_FAIL_IF(fd < 0, NS_ERR_IO, "cannot open %s: %s", folder, strerror(errno));
    int bad = syncfs(fd) != 0;
    close(fd);
    NS_FAIL_IF(bad, NS_ERR_IO, "%s: cannot bring it to the disk: %s", folder, strerror(errno));
    return NS_OK;
}

static ns_status write_secret(const char *path, const char *text, ns_error *err)
{
    FILE *f = NULL;
    mode_t old = umask(077);
    f = fopen(path, "wx");
    umask(old);
    NS_FAIL_IF(!f, NS_ERR_IO, "cannot make %s: %s", path, strerror(errno));
    int bad = fputs(text, f) < 0 || fflush(f) != 0 || fsync(fileno(f)) != 0;
    if (fclose(f) != 0 || bad) NS_FAIL(NS_ERR_IO, "cannot write %s: %s", path, strerror(errno));
    return NS_OK;
}

ns_status ns_store_publish(ns_graph *g, const ns_store_file *files, size_t n, ns_error *err)
{
    char path[JOBS_PATH], tmp[JOBS_PATH];
    ns_buf record = {0};
    NS_TRY(tmp_path(tmp, g, "", err), "%s", "store");
    ns_status st = NS_OK;
    static const char *const below[] = {"state", "scripts"};
    for (size_t i = 0; i < 2; i++) {
        NS_CHECK(st, tmp_path(path, g, below[i], err), "%s", "store");
        NS_CHECK(st, ns_mkdirs(path, err), "experiment record");
    }
    for (size_t i = 0; i < n; i++) {
        NS_CHECK(st, tmp_path(path, g, files[i].path, err), "%s", "store");
        if (files[i].secret)
            NS_CHECK(st, write_secret(path, files[i].text, err), "experiment record");
        else
            NS_CHECK(st, write_plain(path, files[i].text, strlen(files[i].text), err), "experiment record");
    }
    NS_CHECK(st, ns_graph_write(&record, g, err), "experiment record");
    NS_CHECK(st, tmp_path(path, g, "experiment.json", err), "%s", "store");
    NS_CHECK(st, ns_file_replace(path, record.data, record.len, err), "experiment record");
    NS_CHECK(st, ns_store_sync(tmp, err), "experiment record");
    NS_BAIL_IF(st, rename(tmp, g->dir) != 0, NS_ERR_IO, "cannot publish %s: %s", g->dir, strerror(errno));
    *strrchr(tmp, '/') = 0;
    NS_CHECK(st, ns_fsync_dir(tmp, err), "experiment record");
done:
    ns_buf_free(&record);
    return st;
}

/* ---- finding ---- */
static int by_time(const void *x, const void *y)
{
    const char *a = *(const char *const *)x, *b = *(const char *const *)y;
    long ta = 0, tb = 0, ka = 0, kb = 0;
    jobs_id_time(a, &ta, &ka);
    jobs_id_time(b, &tb, &kb);
    if (ta != tb) return ta < tb ? -1 : 1;
    return ka != kb ? (ka < kb ? -1 : 1) : strcmp(a, b);
}

/* ".../<stem>_<seconds>[_k]" */
void jobs_id_time(const char *path, long *seconds, long *k)
{
    const char *base = strrchr(path, '/'), *name = base ? base + 1 : path;
    const char *last = strrchr(name, '_');
    *seconds = *k = 0;
    if (!last) return;
    long x = strtol(last + 1, NULL, 10);
    const char *before = last;
    while (before > name && before[-1] != '_') before--;
    if (before > name && x < 100000 && strtol(before, NULL, 10) > 1000000000) {
        *k = x;
        *seconds = strtol(before, NULL, 10);
    } else
        *seconds = x;
}

static ns_status list_dir(ns_words *out, ns_arena *a, const char *dir, ns_error *err)
{
    DIR *d = opendir(dir);
    NS_FAIL_IF(!d && errno != ENOENT && errno != ENOTDIR, NS_ERR_IO, "cannot read %s: %s", dir, strerror(errno));
    ns_status st = NS_OK;
    struct dirent *e;
    while (d && st == NS_OK && (e = readdir(d)))
        if (e->d_name[0] != '.') st = ns_words_addf(out, a, err, "%s/%s", dir, e->d_name);
    if (d) closedir(d);
    return st;
}

ns_status ns_store_list(ns_words *dirs, ns_arena *a, ns_error *err)
{
    char home[JOBS_PATH], all[JOBS_PATH];
    ns_words titles = {0};
    NS_TRY(ns_store_home(home, sizeof home, err), "%s", "store");
    NS_TRY(jobs_path(all, err, "%s/experiments", home), "%s", "store");
    NS_TRY(list_dir(&titles, a, all, err), "experiment store");
    for (size_t i = 0; i < titles.n; i++) NS_TRY(list_dir(dirs, a, titles.v[i], err), "experiment store");
    if (dirs->n) qsort(dirs->v, dirs->n, sizeof *dirs->v, by_time);
    return NS_OK;
}

static ns_status read_record(ns_graph *g, const char *dir, int *found, ns_error *err)
{
    char path[JOBS_PATH];
    NS_TRY(jobs_path(path, err, "%s/experiment.json", dir), "%s", "store");
    if (!ns_path_exists(path)) return NS_OK;
    NS_TRY(ns_graph_read(g, path, err), "experiment store");
    *found = 1;
    return NS_OK;
}

ns_status ns_store_open(ns_graph *g, const char *name, int *found, ns_error *err)
{
    char home[JOBS_PATH], dir[JOBS_PATH];
    ns_arena a = NS_ARENA_INIT("jobs.find");
    ns_words runs = {0};
    const char *stem = ns_safe_name(&a, name, err);
    ns_status st = stem ? NS_OK : NS_ERR_MEMORY;
    *found = 0;
    memset(g, 0, sizeof *g);
    if (st == NS_OK && name[0] == '/') {
        st = read_record(g, name, found, err);
        goto done;
    }
    NS_CHECK(st, ns_store_home(home, sizeof home, err), "%s", "store");
    NS_CHECK(st, jobs_path(dir, err, "%s/experiments/%s", home, stem), "%s", "store");
    NS_CHECK(st, list_dir(&runs, &a, dir, err), "experiment store");
    if (runs.n) qsort(runs.v, runs.n, sizeof *runs.v, by_time);
    for (size_t i = runs.n; i-- > 0 && !*found && st == NS_OK;) st = read_record(g, runs.v[i], found, err);
    if (st != NS_OK || *found) goto done;
    /* an id: the title is what stands before _<seconds> */
    char title[512];
    snprintf(title, sizeof title, "%s", stem);
    for (int cut = 0; cut < 2 && !*found && st == NS_OK; cut++) {
        char *last = strrchr(title, '_');
        if (!last) break;
        *last = 0;
        NS_CHECK(st, jobs_path(dir, err, "%s/experiments/%s/%s", home, title, name), "%s", "store");
        if (!strchr(name, '/')) st = read_record(g, dir, found, err);
    }
done:
    ns_arena_free(&a);
    return st;
}

ns_status ns_store_hint(char *out, size_t n, const char *name, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("jobs.find");
    ns_words titles = {0};
    char home[JOBS_PATH], all[JOBS_PATH];
    out[0] = 0;
    ns_status st = ns_store_home(home, sizeof home, err);
    if (st == NS_OK) st = jobs_path(all, err, "%s/experiments", home);
    if (st == NS_OK) st = list_dir(&titles, &a, all, err);
    for (size_t i = 0; i < titles.n; i++) titles.v[i] = strrchr(titles.v[i], '/') + 1;
    const char *near = titles.n ? ns_suggest(name, titles.v, titles.n) : NULL;
    if (near) snprintf(out, n, "; did you mean %s?", near);
    ns_arena_free(&a);
    return st;
}

/* ---- states ---- */
static ns_status status_path(char out[JOBS_PATH], const ns_graph *g, int task, const char *end, ns_error *err)
{
    return jobs_path(out, err, "%s/state/%d.%s", g->dir, task, end);
}

static void copy_text(char *out, size_t n, const ns_json *o, const char *key)
{
    const ns_json *v = ns_json_get(o, key);
    out[0] = 0;
    if (v && v->type == NS_JSON_STRING) snprintf(out, n, "%.*s", (int)(v->s.n < n ? v->s.n : n - 1), v->s.p);
}

static double get_num(const ns_json *o, const char *key)
{
    double x = 0;
    const ns_json *v = ns_json_get(o, key);
    return v && ns_json_is_num(v, &x) ? x : 0;
}

ns_status ns_store_read_status(ns_task_status *s, const ns_graph *g, int task, ns_error *err)
{
    char path[JOBS_PATH], name[32];
    ns_arena a = NS_ARENA_INIT("jobs.state");
    ns_json *o = NULL;
    memset(s, 0, sizeof *s);
    s->attempt = 1;
    NS_TRY(status_path(path, g, task, "json", err), "%s", "store");
    if (access(path, F_OK) != 0 && errno == ENOENT) return NS_OK; /* not submitted yet */
    ns_status st = ns_json_read_file(&o, &a, path, err);
    if (st == NS_OK) {
        copy_text(name, sizeof name, o, "state");
        int known = -1;
        for (int i = 0; i <= NS_TASK_LOST; i++)
            if (strcmp(name, state_names[i]) == 0) known = i;
        NS_BAIL_IF(st, known < 0, NS_ERR_INPUT,
                   "%s: damaged state: \"state\" is '%s' (remove the file: the job is then unknown)", path, name);
        s->state = (ns_task_state)known;
        s->attempt = (int)get_num(o, "attempt");
        s->rc = (int)get_num(o, "rc");
        s->stopped = (int)get_num(o, "stopped");
        s->pid = (int64_t)get_num(o, "pid");
        s->ticks = (uint64_t)get_num(o, "ticks");
        s->started = get_num(o, "started");
        s->ended = get_num(o, "ended");
        copy_text(s->job, sizeof s->job, o, "job");
        copy_text(s->node, sizeof s->node, o, "node");
        copy_text(s->gpus, sizeof s->gpus, o, "gpus");
        copy_text(s->why, sizeof s->why, o, "why");
    }
done:
    ns_arena_free(&a);
    return st;
}

static ns_status status_json(ns_buf *b, const ns_task_status *s, ns_error *err)
{
    NS_TRY(ns_buf_printf(
               b, err,
               "{\"state\": \"%s\", \"attempt\": %d, \"rc\": %d, \"stopped\": %d, \"pid\": %lld, \"ticks\": %llu, "
               "\"started\": %.3f, \"ended\": %.3f",
               state_names[s->state], s->attempt, s->rc, s->stopped, (long long)s->pid, (unsigned long long)s->ticks,
               s->started, s->ended),
           "%s", "state");
    const char *const texts[][2] = {{"job", s->job}, {"node", s->node}, {"gpus", s->gpus}, {"why", s->why}};
    for (size_t i = 0; i < 4; i++) {
        NS_TRY(ns_buf_printf(b, err, ", \"%s\": ", texts[i][0]), "%s", "state");
        NS_TRY(ns_json_write_str(b, (ns_str){texts[i][1], strlen(texts[i][1])}, NS_JSON_ASCII, err), "%s", "state");
    }
    return ns_buf_adds(b, "}\n", err);
}

ns_status ns_store_write_status(const ns_graph *g, int task, const ns_task_status *s, ns_error *err)
{
    char path[JOBS_PATH];
    ns_buf b = {0};
    ns_status st = status_path(path, g, task, "json", err);
    if (st == NS_OK) st = status_json(&b, s, err);
    if (st == NS_OK) st = write_fast(path, b.data, b.len, err);
    ns_buf_free(&b);
    return st;
}

static int read_small(char *out, size_t n, const ns_graph *g, int task, const char *end)
{
    char path[JOBS_PATH];
    if (status_path(path, g, task, end, NULL) != NS_OK) return 0;
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    size_t got = fread(out, 1, n - 1, f);
    fclose(f);
    out[got] = 0;
    return 1;
}

int ns_store_read_marks(ns_task_status *s, const ns_graph *g, int task)
{
    char text[512], host[128] = "";
    double when = 0;
    long pid = 0;
    int rc = 0;
    if (read_small(text, sizeof text, g, task, "begin") && sscanf(text, "%lf %127s %ld", &when, host, &pid) >= 1) {
        s->started = when;
        snprintf(s->node, sizeof s->node, "%s", host);
    }
    if (!read_small(text, sizeof text, g, task, "end") || sscanf(text, "%d %lf", &rc, &when) != 2) return 0;
    s->rc = rc;
    s->ended = when;
    s->stopped = rc == 0 && read_small(text, sizeof text, g, task, "stopped");
    s->why[0] = 0;
    if (s->stopped)
        snprintf(s->why, sizeof s->why, "stopped at its limit, saved");
    else if (rc)
        snprintf(s->why, sizeof s->why, rc > 128 ? "killed by signal %d" : "exit code %d", rc > 128 ? rc - 128 : rc);
    if (!s->stopped && read_small(text, sizeof text, g, task, "note")) {
        size_t n = strlen(s->why);
        snprintf(s->why + n, sizeof s->why - n, "%s%.150s", n ? "; " : "", text);
    }
    return 1;
}

void ns_store_clear_marks(const ns_graph *g, int task)
{
    static const char *const ends[] = {"begin", "end", "stopped", "note", "good", "cancel"};
    char path[JOBS_PATH];
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (status_path(path, g, task, ends[i], NULL) == NS_OK) unlink(path);
}

ns_status ns_store_ask_cancel(const ns_graph *g, int task, ns_error *err)
{
    char path[JOBS_PATH];
    NS_TRY(status_path(path, g, task, "cancel", err), "%s", "store");
    return ns_file_replace(path, "cancel\n", 7, err);
}

int ns_store_cancel_asked(const ns_graph *g, int task)
{
    char path[JOBS_PATH];
    return status_path(path, g, task, "cancel", NULL) == NS_OK && access(path, F_OK) == 0;
}
