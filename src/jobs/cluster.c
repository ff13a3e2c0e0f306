/* Reader of cluster files: see cluster.h. */
#include "jobs/cluster.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

#define NEED(p)                         \
    do {                                \
        if (!(p)) return NS_ERR_MEMORY; \
    } while (0)

static const char *const known_keys[] = {
    "executor",
    "containers",
    "mounts",
    "env_vars",
    "required_env_vars",
    "ssh_tunnel",
    "job_dir",
    "account",
    "partition",
    "timeouts",
    "job_name_prefix",
    "dependency_type",
    "mail_type",
    "mail_user",
    "sbatch_args",
    "disable_gpus_per_node",
    "srun_args",
    "setup",
    "gpus",
    "max_jobs",
    "stop_margin",
    "gpu_memory",
    "container_runtime",
};
static const char *const ssh_keys[] = {"host", "user", "job_dir", "identity", "shell", "pre_command"};

static ns_status check_keys(const ns_node *map, const char *const *known, size_t n, ns_error *err)
{
    for (size_t i = 0; i < map->n; i++) {
        int ok = 0;
        for (size_t k = 0; k < n; k++) ok |= strcmp(map->keys[i], known[k]) == 0;
        const char *near = ok ? NULL : ns_suggest(map->keys[i], known, n);
        NS_FAIL_IF(!ok, NS_ERR_CONFIG, "%s: unknown key '%s'%s%s%s", map->items[i]->origin, map->keys[i],
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    }
    return NS_OK;
}

/* Text of a scalar key, NULL when absent or null. */
static ns_status text_of(const ns_node *map, const char *key, const char **out, ns_error *err)
{
    const ns_node *n = ns_node_get(map, key);
    *out = NULL;
    if (!n || n->type == NS_NODE_NULL) return NS_OK;
    NS_FAIL_IF(n->type == NS_NODE_LIST || n->type == NS_NODE_MAP, NS_ERR_CONFIG, "%s: %s: expected a text, found a %s",
               n->origin, key, ns_node_type_name(n->type));
    NS_FAIL_IF(n->type == NS_NODE_STRING && strlen(n->s) != n->n, NS_ERR_CONFIG, "%s: %s holds a NUL byte", n->origin,
               key);
    *out = n->s;
    return NS_OK;
}

/* A list of texts, or one text split into words (`split`) or taken as one. */
static ns_status words_of(ns_cluster *c, const ns_node *map, const char *key, int split, ns_words *out, ns_error *err)
{
    const ns_node *n = ns_node_get(map, key);
    if (!n || n->type == NS_NODE_NULL) return NS_OK;
    NS_FAIL_IF(n->type == NS_NODE_MAP, NS_ERR_CONFIG, "%s: %s: expected a list", n->origin, key);
    size_t count = n->type == NS_NODE_LIST ? n->n : 1;
    for (size_t i = 0; i < count; i++) {
        const ns_node *x = n->type == NS_NODE_LIST ? n->items[i] : n;
        NS_FAIL_IF(x->type == NS_NODE_MAP || x->type == NS_NODE_LIST || !x->s, NS_ERR_CONFIG, "%s: %s: expected a text",
                   x->origin, key);
        if (split)
            NS_TRY(ns_words_split(out, &c->arena, x->s, err), "%s: %s", x->origin, key);
        else
            NS_TRY(ns_words_add(out, &c->arena, x->s, err), "%s", key);
    }
    return NS_OK;
}

ns_status ns_parse_duration(double *seconds, const char *text, const char *where, ns_error *err)
{
    double days = 0, parts[3] = {0};
    int n = 0;
    const char *p = text;
    char *end = NULL;
    const char *dash = strchr(text, '-');
    if (dash) {
        days = strtod(p, &end);
        if (end != dash || !isdigit((unsigned char)*p)) goto bad;
        p = dash + 1;
    }
    for (; n < 3; n++) {
        if (!isdigit((unsigned char)*p)) goto bad;
        parts[n] = strtod(p, &end);
        p = end;
        if (*p != ':') break;
        p++;
    }
    if (*p || n == 3) goto bad;
    if (dash) /* D-HH[:MM[:SS]] */
        *seconds = days * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2];
    else
        *seconds = n == 2 ? parts[0] * 3600 + parts[1] * 60 + parts[2] : n == 1 ? parts[0] * 60 + parts[1] : parts[0];
    return NS_OK;
bad:
    NS_FAIL(NS_ERR_CONFIG, "%s: '%s' is not a duration: write HH:MM:SS or D-HH:MM:SS", where, text);
}

void ns_format_duration(char out[32], double seconds)
{
    long s = seconds < 0 ? 0 : (long)(seconds + 0.5), d = s / 86400;
    if (d)
        snprintf(out, 32, "%ld-%02ld:%02ld:%02ld", d % 100000, s / 3600 % 24, s / 60 % 60, s % 60);
    else
        snprintf(out, 32, "%02ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
}

/* ---- the keys ---- */
/* Replaces {VAR} by the environment's value. */
static ns_status expand(ns_cluster *c, const char *s, size_t n, const char *where, const char **out, ns_error *err)
{
    ns_buf b = {0};
    ns_status st = ns_buf_adds(&b, "", err);
    for (size_t i = 0; i < n && st == NS_OK;) {
        const char *close = s[i] == '{' ? memchr(s + i, '}', n - i) : NULL;
        if (!close) {
            st = ns_buf_addc(&b, s[i++], err);
            continue;
        }
        char name[256];
        snprintf(name, sizeof name, "%.*s", (int)(close - (s + i) - 1), s + i + 1);
        const char *value = getenv(name);
        NS_BAIL_IF(st, !value, NS_ERR_CONFIG, "%s: Required environment variable %s not found", where, name);
        st = ns_buf_adds(&b, value, err);
        i = (size_t)(close - s) + 1;
    }
    while (st == NS_OK && b.len > 1 && b.data[b.len - 1] == '/') b.data[--b.len] = 0;
    if (st == NS_OK) *out = ns_arena_strndup(&c->arena, b.data, b.len, err);
    if (st == NS_OK && !*out) st = NS_ERR_MEMORY;
done:
    ns_buf_free(&b);
    return st;
}

static ns_status read_mounts(ns_cluster *c, const ns_node *root, ns_error *err)
{
    ns_words w = {0};
    const ns_node *list = ns_node_get(root, "mounts");
    NS_TRY(words_of(c, root, "mounts", 0, &w, err), "%s", c->file);
    if (!w.n) return NS_OK;
    c->mounts.v = ns_arena_alloc(&c->arena, w.n * sizeof *c->mounts.v, err);
    NEED(c->mounts.v);
    for (size_t i = 0; i < w.n; i++) {
        const char *colon = strchr(w.v[i], ':'),
                   *where = list->type == NS_NODE_LIST ? list->items[i]->origin : list->origin;
        NS_FAIL_IF(!colon || strchr(colon + 1, ':'), NS_ERR_CONFIG,
                   "%s: Invalid mount format: '%s'; write source:destination", where, w.v[i]);
        ns_mount *m = &c->mounts.v[c->mounts.n];
        NS_TRY(expand(c, w.v[i], (size_t)(colon - w.v[i]), where, &m->from, err), "%s", "mount");
        NS_TRY(expand(c, colon + 1, strlen(colon + 1), where, &m->to, err), "%s", "mount");
        NS_FAIL_IF(m->from[0] != '/' || m->to[0] != '/', NS_ERR_CONFIG, "%s: mount '%s': both paths must be absolute",
                   where, w.v[i]);
        c->mounts.n++;
    }
    c->mounts.strict = 1;
    return NS_OK;
}

static ns_status add_env(ns_cluster *c, const char *entry, const char *where, int required, ns_error *err)
{
    const char *eq = strchr(entry, '=');
    char name[256];
    snprintf(name, sizeof name, "%.*s", (int)(eq ? eq - entry : (long)strlen(entry)), entry);
    size_t n = strlen(name);
    while (n && name[n - 1] == ' ') name[--n] = 0;
    const char *key = name + strspn(name, " ");
    int ok = isalpha((unsigned char)*key) || *key == '_';
    for (const char *p = key; *p; p++) ok &= isalnum((unsigned char)*p) || *p == '_';
    NS_FAIL_IF(!ok, NS_ERR_CONFIG, "%s: '%s' is not the name of an environment variable", where, key);
    const char *value = eq ? eq + 1 + strspn(eq + 1, " ") : getenv(key);
    NS_FAIL_IF(!value && required, NS_ERR_CONFIG, "%s: Required environment variable %s not found.", where, key);
    return value ? ns_words_addf(&c->env, &c->arena, err, "%s=%s", key, value) : NS_OK;
}

static ns_status read_env(ns_cluster *c, const ns_node *root, ns_error *err)
{
    static const char *const keys[] = {"required_env_vars", "env_vars"};
    static const char *const always[] = {"WANDB_API_KEY", "NVIDIA_API_KEY", "OPENAI_API_KEY", "HF_TOKEN"};
    for (size_t k = 0; k < 2; k++) {
        ns_words w = {0};
        const ns_node *n = ns_node_get(root, keys[k]);
        NS_TRY(words_of(c, root, keys[k], 0, &w, err), "%s", c->file);
        for (size_t i = 0; i < w.n; i++) NS_TRY(add_env(c, w.v[i], n->origin, k == 0, err), "%s", keys[k]);
    }
    for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
        NS_TRY(add_env(c, always[i], "", 0, err), "%s", "env");
    return NS_OK;
}

static ns_status read_timeouts(ns_cluster *c, const ns_node *root, ns_error *err)
{
    const ns_node *n = ns_node_get(root, "timeouts");
    if (!n || n->type == NS_NODE_NULL) return NS_OK;
    NS_FAIL_IF(n->type != NS_NODE_MAP, NS_ERR_CONFIG, "%s: timeouts: expected a map of partition: \"HH:MM:SS\"",
               n->origin);
    c->timeouts = ns_arena_alloc(&c->arena, n->n * sizeof *c->timeouts + 1, err);
    NEED(c->timeouts);
    for (size_t i = 0; i < n->n; i++) {
        NS_FAIL_IF(!n->items[i]->s, NS_ERR_CONFIG, "%s: expected \"HH:MM:SS\"", n->items[i]->origin);
        NS_TRY(ns_parse_duration(&c->timeouts[i], n->items[i]->s, n->items[i]->origin, err), "timeouts");
        NS_TRY(ns_words_add(&c->timeout_names, &c->arena, n->keys[i], err), "timeouts");
    }
    return NS_OK;
}

static ns_status read_ssh(ns_cluster *c, const ns_node *root, ns_error *err)
{
    const ns_node *n = ns_node_get(root, "ssh_tunnel");
    if (!n || n->type == NS_NODE_NULL) return NS_OK;
    NS_FAIL_IF(n->type != NS_NODE_MAP, NS_ERR_CONFIG, "%s: ssh_tunnel: expected a map", n->origin);
    NS_TRY(check_keys(n, ssh_keys, sizeof ssh_keys / sizeof ssh_keys[0], err), "ssh_tunnel");
    NS_TRY(text_of(n, "host", &c->ssh_host, err), "ssh_tunnel");
    NS_TRY(text_of(n, "user", &c->ssh_user, err), "ssh_tunnel");
    NS_TRY(text_of(n, "job_dir", &c->ssh_job_dir, err), "ssh_tunnel");
    NS_TRY(text_of(n, "identity", &c->ssh_identity, err), "ssh_tunnel");
    NS_TRY(text_of(n, "pre_command", &c->ssh_pre_command, err), "ssh_tunnel");
    NS_FAIL_IF(!c->ssh_host || !c->ssh_job_dir, NS_ERR_CONFIG, "%s: ssh_tunnel needs host and job_dir", n->origin);
    NS_FAIL_IF(c->ssh_host[0] == '-' || (c->ssh_user && c->ssh_user[0] == '-'), NS_ERR_CONFIG,
               "%s: ssh_tunnel: host and user cannot begin with '-'", n->origin);
    NS_FAIL_IF(c->ssh_job_dir[0] != '/', NS_ERR_CONFIG, "%s: ssh_tunnel.job_dir must be an absolute path", n->origin);
    return NS_OK;
}

static ns_status read_int(const ns_node *root, const char *key, int64_t *out, ns_error *err)
{
    const ns_node *n = ns_node_get(root, key);
    if (!n || n->type == NS_NODE_NULL) return NS_OK;
    NS_FAIL_IF(n->type != NS_NODE_INT || n->i < 0, NS_ERR_CONFIG, "%s: %s: expected a number of at least 0", n->origin,
               key);
    *out = n->i;
    return NS_OK;
}

/* "80GB", "80 GiB", or bytes. */
static ns_status read_size(const ns_node *root, const char *key, double *out, ns_error *err)
{
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"", 1}, {"GB", 1e9}, {"G", 1e9}, {"GiB", 1073741824.0}, {"MB", 1e6}, {"MiB", 1048576.0}};
    const char *text, *where = ns_node_get(root, key) ? ns_node_get(root, key)->origin : "";
    char *end;
    NS_TRY(text_of(root, key, &text, err), "%s", key);
    if (!text) return NS_OK;
    double x = strtod(text, &end);
    end += strspn(end, " ");
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(end, units[i].unit) || !(x > 0 && x * units[i].factor < 1e18)) continue;
        *out = x * units[i].factor;
        return NS_OK;
    }
    NS_FAIL(NS_ERR_CONFIG, "%s: %s: '%s' is not a size: write 80GB or 80GiB", where, key, text);
}

static ns_status read_keys(ns_cluster *c, ns_error *err)
{
    const ns_node *root = ns_config_root(c->config);
    NS_FAIL_IF(root->type != NS_NODE_MAP, NS_ERR_CONFIG, "%s: expected a map of keys", c->file);
    NS_TRY(check_keys(root, known_keys, sizeof known_keys / sizeof known_keys[0], err), "cluster config");
    struct {
        const char *key, **to;
    } texts[] = {
        {"executor", &c->executor},
        {"account", &c->account},
        {"partition", &c->partition},
        {"job_name_prefix", &c->job_name_prefix},
        {"mail_type", &c->mail_type},
        {"dependency_type", &c->dependency_type},
        {"mail_user", &c->mail_user},
        {"job_dir", &c->job_dir},
        {"container_runtime", &c->container_runtime},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        NS_TRY(text_of(root, texts[i].key, texts[i].to, err), "%s", c->file);
    NS_FAIL_IF(!c->executor, NS_ERR_CONFIG, "%s: executor is missing: local, slurm or none", c->file);
    NS_FAIL_IF(strcmp(c->executor, "local") && strcmp(c->executor, "slurm") && strcmp(c->executor, "none"),
               NS_ERR_CONFIG, "%s: executor '%s' is not known: local, slurm or none", c->file, c->executor);
    NS_FAIL_IF(c->dependency_type && strcmp(c->dependency_type, "afterok") && strcmp(c->dependency_type, "afterany"),
               NS_ERR_CONFIG, "%s: dependency_type '%s': expected afterok or afterany", c->file, c->dependency_type);
    NS_FAIL_IF(c->container_runtime && strcmp(c->container_runtime, "pyxis") &&
                   strcmp(c->container_runtime, "apptainer"),
               NS_ERR_CONFIG, "%s: container_runtime '%s': expected pyxis or apptainer", c->file, c->container_runtime);
    NS_FAIL_IF(c->container_runtime && strcmp(c->container_runtime, "pyxis") == 0 && strcmp(c->executor, "slurm"),
               NS_ERR_CONFIG, "%s: pyxis is a plug-in of Slurm's srun: with executor %s use apptainer", c->file,
               c->executor);
    NS_TRY(read_mounts(c, root, err), "mounts");
    NS_TRY(read_env(c, root, err), "environment");
    NS_TRY(read_timeouts(c, root, err), "timeouts");
    NS_TRY(read_ssh(c, root, err), "ssh_tunnel");
    NS_TRY(words_of(c, root, "sbatch_args", 1, &c->sbatch_args, err), "%s", c->file);
    NS_TRY(words_of(c, root, "srun_args", 1, &c->srun_args, err), "%s", c->file);
    NS_TRY(words_of(c, root, "setup", 0, &c->setup, err), "%s", c->file);
    NS_TRY(read_int(root, "gpus", &c->gpus, err), "%s", c->file);
    NS_TRY(read_int(root, "max_jobs", &c->max_jobs, err), "%s", c->file);
    NS_TRY(read_size(root, "gpu_memory", &c->gpu_memory, err), "%s", c->file);
    const char *margin = NULL;
    NS_TRY(text_of(root, "stop_margin", &margin, err), "%s", c->file);
    if (margin) NS_TRY(ns_parse_duration(&c->stop_margin, margin, "stop_margin", err), "%s", c->file);
    const ns_node *containers = ns_node_get(root, "containers"), *no_gpus = ns_node_get(root, "disable_gpus_per_node");
    c->has_containers = containers && containers->type == NS_NODE_MAP && containers->n > 0;
    NS_FAIL_IF(no_gpus && no_gpus->type != NS_NODE_BOOL, NS_ERR_CONFIG,
               "%s: disable_gpus_per_node: expected true or false", no_gpus->origin);
    c->disable_gpus_per_node = no_gpus && no_gpus->i;
    return NS_OK;
}

ns_status ns_cluster_image(const ns_cluster *c, const char *role, const char **out, ns_error *err)
{
    *out = NULL;
    if (!c->container_runtime) return NS_OK;
    const ns_node *map = ns_node_get(ns_config_root(c->config), "containers"), *n = map ? ns_node_get(map, role) : NULL;
    const char *near = map && map->type == NS_NODE_MAP ? ns_suggest(role, map->keys, map->n) : NULL;
    NS_FAIL_IF(!n || !n->s, NS_ERR_CONFIG, "%s: containers has no image '%s' for --container%s%s%s", c->file, role,
               near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    *out = n->s;
    return NS_OK;
}

/* ---- finding the file ---- */
static ns_status find_file(ns_cluster *c, const char *name, const char *config_dir, ns_error *err)
{
    size_t n = strlen(name);
    if (strchr(name, '/') || (n > 5 && strcmp(name + n - 5, ".yaml") == 0)) {
        NS_FAIL_IF(!ns_path_exists(name), NS_ERR_CONFIG, "there is no cluster file %s", name);
        c->file = name;
        return NS_OK;
    }
    const char *env = getenv("NEMO_SKILLS_CONFIG_DIR"), *home = getenv("HOME");
    const char *dir = config_dir ? config_dir : env && *env ? env : NULL;
    const char *places[2] = {dir ? dir : "./cluster_configs", NULL};
    if (!dir && home) {
        places[1] = ns_arena_printf(&c->arena, err, "%s/.ns/cluster_configs", home);
        NEED(places[1]);
    }
    for (size_t i = 0; i < 2 && places[i]; i++) {
        c->file = ns_arena_printf(&c->arena, err, "%s/%s.yaml", places[i], name);
        NEED(c->file);
        if (ns_path_exists(c->file)) return NS_OK;
    }
    NS_FAIL(NS_ERR_CONFIG, "Cluster config %s not found in any of the supported folders: looked for %s.yaml in %s%s%s",
            name, name, places[0], places[1] ? " and " : "", places[1] ? places[1] : "");
}

static ns_status open_named(ns_cluster *c, const char *name, const char *config_dir, ns_error *err)
{
    const char *inline_text = getenv("NS_CLUSTER_INLINE"), *path = getenv("NEMO_SKILLS_CONFIG");
    c->file = "(none)";
    c->executor = "none";
    if (name) {
        c->name = ns_arena_strdup(&c->arena, name, err);
        NEED(c->name);
        NS_TRY(find_file(c, c->name, config_dir, err), "--cluster=%s", name);
        NS_TRY(ns_config_load_yaml(c->config, c->file, err), "cluster config");
        return read_keys(c, err);
    }
    if (inline_text && *inline_text) { /* a configuration that a program passes: the Python interface's dictionaries */
        c->name = c->file = "inline";
        NS_TRY(ns_config_parse_yaml(c->config, inline_text, strlen(inline_text), "inline cluster", err),
               "cluster config");
        return read_keys(c, err);
    }
    if (path && *path) {
        c->name = c->file = ns_arena_strdup(&c->arena, path, err);
        NEED(c->file);
        NS_FAIL_IF(!ns_path_exists(path), NS_ERR_CONFIG, "NEMO_SKILLS_CONFIG=%s: there is no such file", path);
        NS_TRY(ns_config_load_yaml(c->config, path, err), "cluster config");
        return read_keys(c, err);
    }
    c->name = "none";
    ns_node empty = {.type = NS_NODE_MAP};
    return read_env(c, &empty, err);
}

ns_status ns_cluster_open(ns_cluster *c, const char *name, const char *config_dir, ns_error *err)
{
    char cwd[4096];
    memset(c, 0, sizeof *c);
    c->arena = (ns_arena)NS_ARENA_INIT("jobs.cluster");
    c->gpus = c->max_jobs = -1;
    c->stop_margin = -1;
    ns_status st = ns_config_new(&c->config, err);
    if (st == NS_OK && !getcwd(cwd, sizeof cwd))
        st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__,
                          "the current folder has no path: change to one that exists");
    if (st == NS_OK) {
        c->mounts.code = ns_arena_strdup(&c->arena, cwd, err);
        st = c->mounts.code ? open_named(c, name, config_dir, err) : NS_ERR_MEMORY;
    }
    if (st != NS_OK) ns_cluster_close(c);
    return st;
}

void ns_cluster_close(ns_cluster *c)
{
    ns_config_free(&c->config);
    ns_arena_free(&c->arena);
}

ns_status ns_cluster_timeout(const ns_cluster *c, const char *partition, double *seconds, ns_error *err)
{
    *seconds = 0;
    if (!c->timeout_names.n || !partition) return NS_OK;
    for (size_t i = 0; i < c->timeout_names.n; i++) {
        if (strcmp(c->timeout_names.v[i], partition)) continue;
        *seconds = c->timeouts[i];
        return NS_OK;
    }
    const char *near = ns_suggest(partition, c->timeout_names.v, c->timeout_names.n);
    NS_FAIL(NS_ERR_CONFIG, "%s: timeouts has no entry for the partition '%s'%s%s%s", c->file, partition,
            near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}
