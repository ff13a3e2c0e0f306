/* `ns setup`: asks for what a cluster file holds, writes it, and reads it back before saying so. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "cli/pipe.h"
#include "jobs/cluster.h"

typedef struct setup_options {
    int unused;
} setup_options;

/* One answer in `out`; `def` when the line is empty. 0 at the end of input. */
static int ask(const char *question, const char *def, char *out, size_t n)
{
    printf("%s%s%s%s: ", question, *def ? " [" : "", def, *def ? "]" : "");
    fflush(stdout);
    if (!fgets(out, (int)n, stdin)) return 0;
    out[strcspn(out, "\r\n")] = 0;
    if (!*out) snprintf(out, n, "%s", def);
    return 1;
}

/* A YAML text in double quotes: whatever was typed is a value. */
static ns_status put_text(ns_buf *b, const char *s, size_t n, ns_error *err)
{
    return ns_json_write_str(b, (ns_str){s, n}, NS_JSON_UTF8, err);
}

/* "a,b" as a list of texts, or (pairs) "p1:hh:mm:ss,p2:..." as a map split at the first colon. */
static ns_status put_list(ns_buf *b, const char *key, const char *answer, int pairs, ns_error *err)
{
    if (!*answer) return NS_OK;
    NS_TRY(ns_buf_printf(b, err, "%s:\n", key), "%s", key);
    for (const char *p = answer; *p; p += strcspn(p, ","), p += *p == ',') {
        p += strspn(p, " ");
        size_t n = strcspn(p, ","), k = pairs ? strcspn(p, ":") : 0;
        while (n && p[n - 1] == ' ') n--;
        if (!n) continue;
        NS_FAIL_IF(pairs && k >= n, NS_ERR_CONFIG, "%s: '%.*s': expected partition:hh:mm:ss", key, (int)n, p);
        NS_TRY(ns_buf_adds(b, pairs ? "  " : "  - ", err), "%s", key);
        if (pairs) {
            NS_TRY(put_text(b, p, k, err), "%s", key);
            NS_TRY(ns_buf_adds(b, ": ", err), "%s", key);
            NS_TRY(put_text(b, p + k + 1, n - k - 1, err), "%s", key);
        } else
            NS_TRY(put_text(b, p, n, err), "%s", key);
        NS_TRY(ns_buf_addc(b, '\n', err), "%s", key);
        p += n;
    }
    return NS_OK;
}

static ns_status put_key(ns_buf *b, const char *indent, const char *key, const char *value, ns_error *err)
{
    if (!*value) return NS_OK;
    NS_TRY(ns_buf_printf(b, err, "%s%s: ", indent, key), "%s", key);
    NS_TRY(put_text(b, value, strlen(value), err), "%s", key);
    return ns_buf_addc(b, '\n', err);
}

static ns_status ask_slurm(ns_buf *b, ns_error *err)
{
    char a[1024], user[256], job_dir[1024], identity[1024];
    NS_FAIL_IF(!ask("Login node to reach by ssh (empty: you submit on it)", "", a, sizeof a), NS_ERR_STOPPED,
               "no answer");
    if (*a) {
        NS_FAIL_IF(!ask("User name there", "", user, sizeof user) ||
                       !ask("Folder for jobs there (absolute)", "", job_dir, sizeof job_dir) ||
                       !ask("ssh key (empty: the default)", "", identity, sizeof identity),
                   NS_ERR_STOPPED, "no answer");
        NS_TRY(ns_buf_adds(b, "ssh_tunnel:\n", err), "%s", "ssh");
        NS_TRY(put_key(b, "  ", "host", a, err), "%s", "ssh");
        NS_TRY(put_key(b, "  ", "user", user, err), "%s", "ssh");
        NS_TRY(put_key(b, "  ", "job_dir", job_dir, err), "%s", "ssh");
        NS_TRY(put_key(b, "  ", "identity", identity, err), "%s", "ssh");
    }
    NS_FAIL_IF(!ask("Account", "", a, sizeof a), NS_ERR_STOPPED, "no answer");
    NS_TRY(put_key(b, "", "account", a, err), "%s", "account");
    NS_FAIL_IF(!ask("Partition", "", a, sizeof a), NS_ERR_STOPPED, "no answer");
    NS_TRY(put_key(b, "", "partition", a, err), "%s", "partition");
    NS_TRY(ns_buf_adds(b, "job_name_prefix: \"ns:\"\n", err), "%s", "prefix");
    NS_FAIL_IF(!ask("Time limits, partition:hh:mm:ss,...", "", a, sizeof a), NS_ERR_STOPPED, "no answer");
    return put_list(b, "timeouts", a, 1, err);
}

static ns_status ask_all(ns_buf *b, char path[2048], ns_error *err)
{
    char dir[1024], type[64], name[256], a[4096];
    NS_FAIL_IF(!ask("Folder of cluster files", "./cluster_configs", dir, sizeof dir), NS_ERR_STOPPED, "no answer");
    do NS_FAIL_IF(!ask("Kind: local or slurm", "local", type, sizeof type), NS_ERR_STOPPED, "no answer");
    while (strcmp(type, "local") && strcmp(type, "slurm"));
    NS_FAIL_IF(!ask("Name of the cluster", type, name, sizeof name), NS_ERR_STOPPED, "no answer");
    NS_FAIL_IF(strchr(name, '/'), NS_ERR_CONFIG, "'%s' is not a name", name);
    snprintf(path, 2048, "%s/%s.yaml", dir, name);
    if (ns_path_exists(path)) {
        NS_FAIL_IF(!ask("It exists. Replace it? yes or no", "no", a, sizeof a) || strcmp(a, "yes"), NS_ERR_STOPPED,
                   "%s stays as it is", path);
    }
    NS_TRY(ns_mkdirs(dir, err), "setup");
    NS_TRY(ns_buf_printf(b, err, "executor: %s\n", type), "%s", "setup");
    NS_FAIL_IF(!ask("Mounts, source:destination,...", "", a, sizeof a), NS_ERR_STOPPED, "no answer");
    NS_TRY(put_list(b, "mounts", a, 0, err), "%s", "setup");
    NS_FAIL_IF(!ask("Environment variables, NAME or NAME=value,...", "", a, sizeof a), NS_ERR_STOPPED, "no answer");
    NS_TRY(put_list(b, "env_vars", a, 0, err), "%s", "setup");
    return strcmp(type, "slurm") ? NS_OK : ask_slurm(b, err);
}

static int run(void *options, ns_parsed *p)
{
    (void)options;
    (void)p;
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    char path[2048], tmp[2100];
    ns_cluster c;
    ns_status st = ask_all(&b, path, &err);
    snprintf(tmp, sizeof tmp, "%s.new.yaml", st == NS_OK ? path : "");
    if (st == NS_OK) st = ns_file_replace(tmp, b.data, b.len, &err);
    if (st == NS_OK) {
        st = ns_cluster_open(&c, tmp, NULL, &err); /* what was typed must be a cluster file */
        if (st == NS_OK) ns_cluster_close(&c);
        if (st == NS_OK && rename(tmp, path) != 0)
            st = ns_error_set(&err, NS_ERR_IO, __FILE__, __LINE__, "cannot make %s", path);
        if (st != NS_OK) remove(tmp);
    }
    ns_buf_free(&b);
    if (st != NS_OK) return ns_cli_fail("setup", &err);
    printf("%s is written. `ns run_cmd --cluster=%s hostname` tries it; NEMO_SKILLS_CONFIG=%s makes it the default.\n",
           path, path, path);
    return 0;
}

const ns_verb ns_verb_setup = {
    .name = "setup",
    .group = "jobs",
    .summary = "write a cluster file by answering questions",
    .usage = "ns setup",
    .examples = "ns setup\n",
    .options_size = sizeof(setup_options),
    .run = run,
};
