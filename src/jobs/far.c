/* Files on the other side of an ssh tunnel: see far.h. The line that ssh hands to the shell there is quoted by ns_shell_line. */
#include "jobs/far.h"

#include <string.h>

#include "jobs/jobs_priv.h"
#include "jobs/proc.h"

ns_status ns_far_ssh(ns_words *out, ns_arena *a, const ns_cluster *c, ns_error *err)
{
    static const char *const first[] = {"ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20"};
    if (!c->ssh_host || strcmp(c->executor, "slurm")) return NS_OK;
    JOBS_TRY(ns_words_add_all(out, a, first, 5, err));
    if (c->ssh_identity) {
        JOBS_TRY(ns_words_add(out, a, "-i", err));
        JOBS_TRY(ns_words_add(out, a, c->ssh_identity, err));
    }
    return c->ssh_user ? ns_words_addf(out, a, err, "%s@%s", c->ssh_user, c->ssh_host)
                       : ns_words_add(out, a, c->ssh_host, err);
}

/* w: ssh, then `text` as a program of sh with "$1" = path. */
static ns_status far_words(ns_words *w, ns_arena *a, const ns_cluster *c, const char *text, const char *path,
                           ns_error *err)
{
    const char *const argv[] = {"sh", "-c", text, "sh", path};
    ns_buf line = {0};
    JOBS_TRY(ns_far_ssh(w, a, c, err));
    ns_status st = c->ssh_pre_command ? ns_buf_printf(&line, err, "%s; ", c->ssh_pre_command) : NS_OK;
    if (st == NS_OK) st = ns_shell_line(&line, argv, 5, err);
    if (st == NS_OK)
        st = ns_words_add(w, a, ns_arena_strndup(a, line.data, line.len, err), err); /* the words are only pointed at */
    ns_buf_free(&line);
    return st;
}

static ns_status finish(ns_proc_result *r, const ns_cluster *c, const char *what, const char *path, ns_error *err)
{
    char said[300];
    int rc = r->rc;
    ns_proc_said(said, sizeof said, r);
    ns_proc_free(r);
    NS_FAIL_IF(rc, NS_ERR_IO, "ssh to %s: cannot %s %s: %s", c->ssh_host, what, path, said);
    return NS_OK;
}

ns_status ns_far_fetch(const ns_cluster *c, const char *from, const char *to, ns_error *err)
{
    static const char there[] = "cd \"$1\" && find . -name '*-logs' -prune -o \\( -name 'output*.jsonl' -o -name "
                                "UNFINISHED \\) -print0 | tar --null -T - -czf -";
    static const char *const here[] = {"bash", "-c", "set -o pipefail; to=$1; shift; \"$@\" | tar -C \"$to\" -xzf -",
                                       "ns"};
    ns_arena a = NS_ARENA_INIT("jobs.far");
    ns_words w = {0};
    ns_proc_result r = {0};
    ns_status st = ns_words_add_all(&w, &a, here, 4, err);
    if (st == NS_OK) st = ns_words_add(&w, &a, to, err);
    if (st == NS_OK) st = far_words(&w, &a, c, there, from, err);
    if (st == NS_OK) st = ns_proc_run(&r, w.v, NULL, 0, 3600, err);
    ns_arena_free(&a);
    return st == NS_OK ? finish(&r, c, "read", from, err) : st;
}

ns_status ns_far_put(const ns_cluster *c, const char *text, size_t n, const char *to, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("jobs.far");
    ns_words w = {0};
    ns_proc_result r = {0};
    ns_status st = far_words(&w, &a, c, "cat >\"$1.tmp\" && mv -f \"$1.tmp\" \"$1\"", to, err);
    if (st == NS_OK) st = ns_proc_run(&r, w.v, text, n, 120, err);
    ns_arena_free(&a);
    return st == NS_OK ? finish(&r, c, "write", to, err) : st;
}
