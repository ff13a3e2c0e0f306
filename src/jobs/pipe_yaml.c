/* `ns run pipeline.yaml`: verbs and options from a file. Every step is built once without being submitted, so that a mistake in the
 * last step is found before the first one runs. */
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "jobs/jobs_priv.h"
#include "jobs/pipes.h"

typedef struct yaml_step {
    const char *verb, *title, *origin;
    ns_words words;
} yaml_step;

static ns_status add_option(ns_words *w, ns_arena *a, const char *key, const ns_node *n, ns_error *err)
{
    if (n->type == NS_NODE_NULL) return NS_OK;
    if (n->type == NS_NODE_BOOL) return ns_words_addf(w, a, err, "--%s%s", n->i ? "" : "no-", key);
    NS_FAIL_IF(n->type == NS_NODE_MAP, NS_ERR_CONFIG, "%s: %s: expected a text, a number or a list", n->origin, key);
    if (n->type != NS_NODE_LIST) return ns_words_addf(w, a, err, "--%s=%s", key, n->s);
    for (size_t i = 0; i < n->n; i++) {
        NS_FAIL_IF(!n->items[i]->s, NS_ERR_CONFIG, "%s: %s: expected texts", n->items[i]->origin, key);
        JOBS_TRY(ns_words_addf(w, a, err, "--%s=%s", key, n->items[i]->s));
    }
    return NS_OK;
}

/* `args` or `command`: a list is words; a text is split (args) or one bash line (command). */
static ns_status add_words(ns_words *w, ns_arena *a, const ns_node *n, int split, ns_error *err)
{
    NS_FAIL_IF(n->type == NS_NODE_MAP, NS_ERR_CONFIG, "%s: expected a text or a list of words", n->origin);
    if (n->type != NS_NODE_LIST && split) NS_TRY(ns_words_split(w, a, n->s ? n->s : "", err), "%s", n->origin);
    if (n->type != NS_NODE_LIST)
        return split ? NS_OK : ns_words_add(w, a, ns_arena_strdup(a, n->s ? n->s : "", err), err);
    for (size_t i = 0; i < n->n; i++) {
        NS_FAIL_IF(!n->items[i]->s, NS_ERR_CONFIG, "%s: a word must be a text or a number (quote it)",
                   n->items[i]->origin);
        JOBS_TRY(ns_words_add(w, a, n->items[i]->s, err));
    }
    return NS_OK;
}

static ns_status read_step(yaml_step *s, ns_arena *a, const ns_node *root, const ns_node *n, ns_error *err)
{
    static const char *const shared[] = {"cluster",  "config_dir",    "partition", "time",
                                         "time_min", "not_exclusive", "wait"};
    const ns_pipe *pipe;
    NS_FAIL_IF(n->type != NS_NODE_MAP || n->n != 1, NS_ERR_CONFIG,
               "%s: a step is one verb with its options:\n  - train: {expname: ...}", n->origin);
    const ns_node *o = n->items[0];
    NS_TRY(ns_pipe_find(&pipe, n->keys[0], err), "%s", o->origin);
    NS_FAIL_IF(o->type != NS_NODE_MAP, NS_ERR_CONFIG, "%s: %s: expected a map of options", o->origin, n->keys[0]);
    *s = (yaml_step){.verb = pipe->name, .title = pipe->default_name, .origin = o->origin};
    for (size_t i = 0; i < sizeof shared / sizeof shared[0]; i++) {
        const ns_node *top = ns_node_get(root, shared[i]);
        if (top && !ns_node_get(o, shared[i])) JOBS_TRY(add_option(&s->words, a, shared[i], top, err));
    }
    for (size_t i = 0; i < o->n; i++) {
        if (strcmp(o->keys[i], "args") == 0 || strcmp(o->keys[i], "command") == 0) continue;
        JOBS_TRY(add_option(&s->words, a, o->keys[i], o->items[i], err));
        if (strcmp(o->keys[i], "expname") == 0 && o->items[i]->s) s->title = o->items[i]->s;
    }
    const ns_node *args = ns_node_get(o, "args"), *command = ns_node_get(o, "command");
    NS_FAIL_IF((command != NULL) != (strcmp(pipe->name, "run_cmd") == 0), NS_ERR_CONFIG, "%s: %s", o->origin,
               command ? "`command` belongs to run_cmd; other verbs take `args`" : "run_cmd needs a `command`");
    if (args) NS_TRY(add_words(&s->words, a, args, 1, err), "args");
    if (command) {
        JOBS_TRY(ns_words_add(&s->words, a, "--", err));
        NS_TRY(add_words(&s->words, a, command, 0, err), "command");
    }
    return NS_OK;
}

static ns_status read_steps(yaml_step **out, size_t *n, ns_arena *a, ns_config *c, const char *path, ns_error *err)
{
    static const char *const known[] = {"steps", "cluster",  "config_dir",    "partition",
                                        "time",  "time_min", "not_exclusive", "wait"};
    NS_TRY(ns_config_load_yaml(c, path, err), "pipeline");
    const ns_node *root = ns_config_root(c), *steps = ns_node_get(root, "steps");
    for (size_t i = 0; i < root->n; i++) {
        int ok = 0;
        for (size_t k = 0; k < 8; k++) ok |= strcmp(root->keys[i], known[k]) == 0;
        const char *near = ok ? NULL : ns_suggest(root->keys[i], known, 8);
        NS_FAIL_IF(!ok, NS_ERR_CONFIG, "%s: unknown key '%s'%s%s%s", root->items[i]->origin, root->keys[i],
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    }
    NS_FAIL_IF(!steps || steps->type != NS_NODE_LIST || !steps->n, NS_ERR_CONFIG,
               "%s: `steps` is missing: a list of verbs", path);
    *out = ns_arena_alloc(a, steps->n * sizeof **out, err);
    JOBS_NEED(*out);
    for (*n = 0; *n < steps->n; ++*n)
        NS_TRY(read_step(&(*out)[*n], a, root, steps->items[*n], err), "step %zu", *n + 1);
    return NS_OK;
}

/* Builds a step without submitting it; run_after may name earlier steps. */
static ns_status try_step(const yaml_step *s, ns_arena *a, ns_pipe_result *r, ns_error *err)
{
    const ns_pipe *pipe;
    ns_words w = {0};
    JOBS_TRY(ns_pipe_find(&pipe, s->verb, err));
    JOBS_TRY(ns_words_add(&w, a, "--dry_run", err));
    JOBS_TRY(ns_words_add_all(&w, a, s->words.v, s->words.n, err));
    return ns_pipe_call(pipe, (int)w.n, w.v, r, err);
}

static ns_status check_all(const yaml_step *s, size_t n, ns_arena *a, int show,
                           void (*say)(void *, const char *, const ns_pipe_result *), void *user, ns_error *err)
{
    ns_words titles = {0};
    ns_status st = NS_OK;
    for (size_t i = 0; i < n && st == NS_OK; i++) {
        ns_pipe_result r;
        ns_submission_expect(titles.v, titles.n, !show);
        st = try_step(&s[i], a, &r, err);
        if (st != NS_OK) {
            ns_error_frame(err, __FILE__, __LINE__, "%s: step %zu", s[i].origin, i + 1);
            break;
        }
        if (show) say(user, s[i].verb, &r);
        ns_pipe_result_free(&r);
        st = ns_words_add(&titles, a, s[i].title, err);
    }
    ns_submission_expect(NULL, 0, 0);
    return st;
}

ns_status ns_pipe_yaml(const char *path, int dry_run,
                       void (*say)(void *user, const char *verb, const ns_pipe_result *r), void *user, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("jobs.yaml");
    ns_config *c = NULL;
    yaml_step *s = NULL;
    size_t n = 0;
    ns_status st = ns_config_new(&c, err);
    if (st == NS_OK) st = read_steps(&s, &n, &a, c, path, err);
    if (st == NS_OK) st = check_all(s, n, &a, dry_run, say, user, err);
    for (size_t i = 0; i < n && st == NS_OK && !dry_run; i++) {
        const ns_pipe *pipe;
        ns_pipe_result r;
        st = ns_pipe_find(&pipe, s[i].verb, err);
        if (st == NS_OK) st = ns_pipe_call(pipe, (int)s[i].words.n, s[i].words.v, &r, err);
        if (st != NS_OK) {
            ns_error_frame(err, __FILE__, __LINE__, "step %zu (steps before it are submitted)", i + 1);
            break;
        }
        say(user, s[i].verb, &r);
        ns_pipe_result_free(&r);
    }
    ns_config_free(&c);
    ns_arena_free(&a);
    return st;
}
