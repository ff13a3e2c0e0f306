/* Prompt loading and filling. YAML is read through base/config.h as a raw tree: `${` in a prompt is text, not a reference.
 *
 *   text_begin system_begin SYSTEM system_end user_begin USER user_end assistant_begin
 *
 * SYSTEM and USER are filled with str.format rules (format.h); {examples} is "" or prefix + filled examples + suffix. */
#include "data/prompt.h"

#include <dirent.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "base/file.h"
#include "data/format.h"

/* ---- finding files ---- */
ns_status ns_share_path(char *out, size_t n, const char *relative, ns_error *err)
{
    char exe[4096], tried[3][4200];
    const char *env = getenv("NS_SHARE"), *dir = NULL;
    ssize_t len = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[len > 0 ? len : 0] = 0;
    if (len > 0) dir = dirname(exe);
    int k = 0;
    if (env && *env) {
        snprintf(tried[k++], sizeof *tried, "%s", env);
    } else {
        if (dir) {
            snprintf(tried[k++], sizeof *tried, "%s/../share/ns", dir);
            snprintf(tried[k++], sizeof *tried, "%s/../share", dir);
        }
        snprintf(tried[k++], sizeof *tried, "%s/share", NS_DATA_DIR);
    }
    for (int i = 0; i < k; i++) {
        int m = snprintf(out, n, "%s/%s", tried[i], relative);
        if (m > 0 && (size_t)m < n && ns_path_exists(out)) return NS_OK;
    }
    NS_FAIL(NS_ERR_IO, "shipped file %s not found in %s: set NS_SHARE to the share folder of the installation",
            relative, tried[k - 1]);
}

/* Names under share/prompt/<kind>, for suggestions. */
static void collect_names(const char *dir, const char *prefix, ns_arena *a, const char **names, size_t *n, size_t max)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL && *n < max;) {
        char sub[4200];
        size_t len = strlen(e->d_name);
        if (e->d_name[0] == '.') continue;
        snprintf(sub, sizeof sub, "%s/%s", dir, e->d_name);
        if (ns_path_is_dir(sub)) {
            char *p = ns_arena_printf(a, NULL, "%s%s/", prefix, e->d_name);
            if (p) collect_names(sub, p, a, names, n, max);
        } else if (len > 5 && !strcmp(e->d_name + len - 5, ".yaml")) {
            char *p = ns_arena_printf(a, NULL, "%s%.*s", prefix, (int)(len - 5), e->d_name);
            if (p) names[(*n)++] = p;
        }
    }
    if (d) closedir(d);
}

static ns_status unknown_name(const char *kind, const char *name, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("prompt.names");
    const char *names[200], *close_one = NULL;
    char dir[4200], rel[64], list[512] = "";
    size_t n = 0, at = 0;
    snprintf(rel, sizeof rel, "prompt/%s", kind);
    if (ns_share_path(dir, sizeof dir, rel, NULL) == NS_OK) collect_names(dir, "", &a, names, &n, 200);
    if (n) close_one = ns_suggest(name, names, n);
    for (size_t i = 0; i < n && at + 60 < sizeof list; i++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%.50s", i ? ", " : "", names[i]);
    ns_status st =
        close_one
            ? ns_error_set(err, NS_ERR_CONFIG, __FILE__, __LINE__,
                           "no prompt %s '%s': did you mean '%s'? (a path must end in .yaml)", kind, name, close_one)
            : ns_error_set(err, NS_ERR_CONFIG, __FILE__, __LINE__,
                           "no prompt %s '%s': known are %s; a path must end in .yaml", kind, name, list);
    ns_arena_free(&a);
    return st;
}

static ns_status find_yaml(char *out, size_t n, const char *kind, const char *name, ns_error *err)
{
    size_t len = strlen(name);
    if (len > 5 && !strcmp(name + len - 5, ".yaml")) {
        snprintf(out, n, "%s", name);
        NS_FAIL_IF(!ns_path_exists(name), NS_ERR_IO, "prompt %s %s: no such file", kind, name);
        return NS_OK;
    }
    char rel[1024], full[1024];
    snprintf(full, sizeof full, "nemo_skills/prompt/%s/", kind); /* names of the original's own files work too */
    if (!strncmp(name, full, strlen(full))) name += strlen(full);
    snprintf(rel, sizeof rel, "prompt/%s/%s.yaml", kind, name);
    if (strstr(name, "..") || ns_share_path(out, n, rel, NULL) != NS_OK) return unknown_name(kind, name, err);
    return NS_OK;
}

/* ---- reading ---- */
typedef struct field {
    const char *key;
    const char **at;
    const char *def; /* NULL: required */
} field;

static int known(const char *key, const field *f, size_t n, const char *const *more)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(f[i].key, key)) return 1;
    for (; more && *more; more++)
        if (!strcmp(*more, key)) return 1;
    return 0;
}

/* Fills string fields from a map; rejects unknown keys. */
static ns_status read_fields(const ns_node *map, const field *f, size_t n, const char *const *more, ns_arena *a,
                             const char *path, ns_error *err)
{
    NS_FAIL_IF(map->type != NS_NODE_MAP, NS_ERR_CONFIG, "%s: expected a map of settings, found %s",
               map->origin ? map->origin : path, ns_node_type_name(map->type));
    for (size_t i = 0; i < map->n; i++) {
        const char *names[40];
        size_t n_names = 0;
        for (size_t k = 0; k < n && n_names < 40; k++) names[n_names++] = f[k].key;
        for (size_t k = 0; more && more[k] && n_names < 40; k++) names[n_names++] = more[k];
        if (known(map->keys[i], f, n, more)) continue;
        const char *s = ns_suggest(map->keys[i], names, n_names);
        NS_FAIL(NS_ERR_CONFIG, "%s: unknown key '%s'%s%s%s", map->items[i]->origin ? map->items[i]->origin : path,
                map->keys[i], s ? ": did you mean '" : "", s ? s : "", s ? "'?" : "");
    }
    for (size_t i = 0; i < n; i++) {
        const ns_node *v = ns_node_get(map, f[i].key);
        if (!v || v->type == NS_NODE_NULL) {
            NS_FAIL_IF(!f[i].def, NS_ERR_CONFIG, "%s: key '%s' is missing", path, f[i].key);
            *f[i].at = f[i].def;
            continue;
        }
        NS_FAIL_IF(v->type == NS_NODE_LIST || v->type == NS_NODE_MAP, NS_ERR_CONFIG, "%s: '%s' is a %s, expected text",
                   v->origin ? v->origin : path, f[i].key, ns_node_type_name(v->type));
        NS_FAIL_IF(!(*f[i].at = ns_arena_strdup(a, v->s, err)), NS_ERR_MEMORY, "%s", path);
    }
    return NS_OK;
}

ns_status ns_prompt_template_load(ns_prompt_template *t, ns_arena *a, const char *name, ns_error *err)
{
    char path[4200];
    ns_config *c = NULL;
    ns_status st = NS_OK;
    memset(t, 0, sizeof *t);
    const field fields[] = {
        {"text_begin", &t->text_begin, NULL},
        {"system_begin", &t->system_begin, NULL},
        {"system_end", &t->system_end, NULL},
        {"user_begin", &t->user_begin, NULL},
        {"user_end", &t->user_end, NULL},
        {"assistant_begin", &t->assistant_begin, NULL},
        {"assistant_end", &t->assistant_end, NULL},
        {"code_begin", &t->code_begin, "<llm-code>"},
        {"code_end", &t->code_end, "</llm-code>"},
        {"code_output_begin", &t->code_output_begin, "<llm-code-output>"},
        {"code_output_end", &t->code_output_end, "</llm-code-output>"},
        {"code_output_format", &t->code_output_format, "qwen"},
    };
    const char *const more[] = {"stop_phrases", NULL};
    NS_CHECK(st, find_yaml(path, sizeof path, "template", name, err), "prompt_template");
    NS_CHECK(st, ns_config_new(&c, err), "prompt_template");
    NS_CHECK(st, ns_config_load_yaml(c, path, err), "prompt_template %s", name);
    const ns_node *root = ns_config_root(c);
    NS_CHECK(st, read_fields(root, fields, sizeof fields / sizeof *fields, more, a, path, err), "prompt_template %s",
             name);
    const ns_node *stop = ns_node_get(root, "stop_phrases");
    NS_BAIL_IF(st, !stop || stop->type != NS_NODE_LIST, NS_ERR_CONFIG, "%s: key 'stop_phrases' must be a list", path);
    t->stop_phrases = ns_arena_alloc(a, (stop->n + 1) * sizeof *t->stop_phrases, err);
    t->name = ns_arena_strdup(a, name, err);
    NS_BAIL_IF(st, !t->stop_phrases || !t->name, NS_ERR_MEMORY, "%s", path);
    for (size_t i = 0; i < stop->n; i++) {
        NS_BAIL_IF(st, stop->items[i]->type == NS_NODE_LIST || stop->items[i]->type == NS_NODE_MAP, NS_ERR_CONFIG,
                   "%s: stop_phrases must be texts", path);
        t->stop_phrases[t->n_stop] = ns_arena_strdup(a, stop->items[i]->s ? stop->items[i]->s : "", err);
        NS_BAIL_IF(st, !t->stop_phrases[t->n_stop], NS_ERR_MEMORY, "%s", path);
        t->n_stop++;
    }
done:
    ns_config_free(&c);
    return st;
}

/* Few-shot sets are lists of maps of texts. */
static ns_status load_examples(const ns_json **out, ns_arena *a, const char *type, ns_error *err)
{
    char path[4200];
    ns_config *c = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, find_yaml(path, sizeof path, "few_shot", type, err), "examples_type");
    NS_CHECK(st, ns_config_new(&c, err), "examples_type");
    NS_CHECK(st, ns_config_load_yaml(c, path, err), "examples_type %s", type);
    const ns_node *list = ns_node_get(ns_config_root(c), "examples");
    NS_BAIL_IF(st, !list || list->type != NS_NODE_LIST, NS_ERR_CONFIG, "%s: expected 'examples:' and a list", path);
    ns_json *array = ns_json_new(a, NS_JSON_ARRAY, err);
    NS_BAIL_IF(st, !array, NS_ERR_MEMORY, "%s", path);
    for (size_t i = 0; i < list->n; i++) {
        const ns_node *m = list->items[i];
        ns_json *o = ns_json_new(a, NS_JSON_OBJECT, err);
        NS_BAIL_IF(st, !o, NS_ERR_MEMORY, "%s", path);
        NS_BAIL_IF(st, m->type != NS_NODE_MAP, NS_ERR_CONFIG, "%s: example %zu is not a map", path, i);
        for (size_t k = 0; k < m->n; k++) {
            NS_BAIL_IF(st, !m->items[k]->s, NS_ERR_CONFIG, "%s: '%s' of example %zu is not text", path, m->keys[k], i);
            NS_CHECK(st, ns_json_set(o, a, m->keys[k], ns_json_new_str(a, m->items[k]->s, err), err), "%s", path);
        }
        NS_CHECK(st, ns_json_append(array, a, o, err), "%s", path);
    }
    *out = array;
done:
    ns_config_free(&c);
    return st;
}

/* A whole number at `key` of map: def when absent; least: the smallest allowed. */
static ns_status read_count(const ns_node *map, const char *key, int64_t least, int64_t *at, const char *path,
                            ns_error *err)
{
    const ns_node *v = ns_node_get(map, key);
    if (!v || v->type == NS_NODE_NULL) return NS_OK;
    NS_FAIL_IF(v->type != NS_NODE_INT || v->i < least, NS_ERR_CONFIG, "%s: '%s' must be a whole number from %lld",
               v->origin ? v->origin : path, key, (long long)least);
    *at = v->i;
    return NS_OK;
}

static ns_status open_retriever(ns_prompt *p, const ns_node *few, const char *file, const char *field_name,
                                const char *path, ns_error *err)
{
    const ns_node *shuffle = ns_node_get(few, "randomize_retrieved_entries");
    const ns_node *by = ns_node_get(few, "max_retrieved_chars_field");
    ns_retriever_options o = {.file = file,
                              .field = field_name,
                              .entries = 10,
                              .keep = 5,
                              .max_chars = -1,
                              .length_field = by && by->s && *by->s ? by->s : "reference_solution"};
    NS_FAIL_IF(!*file || !*field_name, NS_ERR_CONFIG,
               "%s: retrieval_file and retrieval_field need each other: %s is missing", path,
               *file ? "retrieval_field" : "retrieval_file");
    NS_FAIL_IF(p->few_shot.type, NS_ERR_CONFIG, "%s: examples come by examples_type or from retrieval_file, not both",
               path);
    NS_FAIL_IF(shuffle && shuffle->type != NS_NODE_BOOL && shuffle->type != NS_NODE_NULL, NS_ERR_CONFIG,
               "%s: 'randomize_retrieved_entries' must be true or false", shuffle->origin ? shuffle->origin : path);
    o.shuffle = shuffle && shuffle->type == NS_NODE_BOOL && shuffle->i;
    NS_TRY(read_count(few, "retrieved_entries", 0, &o.entries, path, err), "few_shot_examples");
    NS_TRY(read_count(few, "retrieved_few_shots", 0, &o.keep, path, err), "few_shot_examples");
    NS_TRY(read_count(few, "max_retrieved_chars", 0, &o.max_chars, path, err), "few_shot_examples");
    return ns_retriever_open(&p->retriever, &o, err);
}

static ns_status read_few_shot(ns_prompt *p, const ns_node *few, const char *examples_type, const char *path,
                               ns_error *err)
{
    const char *field_name = NULL, *file = NULL, *retriever = NULL;
    const field fields[] = {
        {"prefix", &p->few_shot.prefix, ""},  {"template", &p->few_shot.tmpl, ""},
        {"suffix", &p->few_shot.suffix, ""},  {"examples_type", &p->few_shot.type, ""},
        {"retrieval_field", &field_name, ""}, {"retrieval_file", &file, ""},
        {"retriever", &retriever, ""},
    };
    const char *const more[] = {"retrieved_entries",   "retrieved_few_shots",       "randomize_retrieved_entries",
                                "max_retrieved_chars", "max_retrieved_chars_field", NULL};
    NS_TRY(read_fields(few, fields, sizeof fields / sizeof *fields, more, &p->arena, path, err), "few_shot_examples");
    NS_FAIL_IF(*retriever, NS_ERR_UNSUPPORTED,
               "%s: 'retriever' is an object of Python: use retrieval_file and retrieval_field", path);
    if (examples_type) p->few_shot.type = examples_type;
    if (!*p->few_shot.type) p->few_shot.type = NULL;
    if (*field_name || *file) NS_TRY(open_retriever(p, few, file, field_name, path, err), "few_shot_examples");
    return NS_OK;
}

static ns_status read_config(ns_prompt *p, const char *name, const char *examples_type, ns_error *err)
{
    char path[4200];
    ns_config *c = NULL;
    ns_status st = NS_OK;
    const field fields[] = {{"user", &p->user, NULL}, {"system", &p->system, ""}};
    const char *const more[] = {"few_shot_examples", NULL};
    p->few_shot.prefix = p->few_shot.tmpl = p->few_shot.suffix = "";
    NS_CHECK(st, find_yaml(path, sizeof path, "config", name, err), "prompt_config");
    NS_CHECK(st, ns_config_new(&c, err), "prompt_config");
    NS_CHECK(st, ns_config_load_yaml(c, path, err), "prompt_config %s", name);
    const ns_node *root = ns_config_root(c), *few = ns_node_get(root, "few_shot_examples");
    NS_CHECK(st, read_fields(root, fields, 2, more, &p->arena, path, err), "prompt_config %s", name);
    p->few_shot.type = examples_type;
    if (few && few->type != NS_NODE_NULL)
        NS_CHECK(st, read_few_shot(p, few, examples_type, path, err), "prompt_config %s", name);
done:
    ns_config_free(&c);
    return st;
}

ns_status ns_prompt_load(ns_prompt **out, const ns_prompt_options *o, ns_error *err)
{
    ns_prompt *p = NULL;
    ns_status st = NS_OK;
    *out = NULL;
    NS_TRY(ns_alloc((void **)&p, sizeof *p, "prompt", err), "prompt");
    p->arena.label = "prompt";
    p->name = ns_arena_printf(&p->arena, err, "prompt_config %s", o->config);
    NS_BAIL_IF(st, !p->name, NS_ERR_MEMORY, "prompt");
    const char *type = NULL;
    if (o->examples_type) {
        type = ns_arena_strdup(&p->arena, o->examples_type, err);
        NS_BAIL_IF(st, !type, NS_ERR_MEMORY, "prompt");
    }
    NS_CHECK(st, read_config(p, o->config, type, err), "prompt");
    if (o->tmpl) NS_CHECK(st, ns_prompt_template_load(&p->t, &p->arena, o->tmpl, err), "prompt");
    p->has_template = o->tmpl != NULL;
    if (!p->has_template) { /* few-shot solutions with code still need tags */
        p->t.code_begin = "<llm-code>", p->t.code_end = "</llm-code>";
        p->t.code_output_begin = "<llm-code-output>", p->t.code_output_end = "</llm-code-output>";
        p->t.code_output_format = "qwen";
    }
    if (p->few_shot.type && !strchr(p->few_shot.type, '{'))
        NS_CHECK(st, load_examples(&p->examples, &p->arena, p->few_shot.type, err), "prompt");
    *out = p;
done:
    if (st != NS_OK) ns_prompt_free(&p);
    return st;
}

void ns_prompt_free(ns_prompt **p)
{
    if (!p || !*p) return;
    ns_retriever_free(&(*p)->retriever);
    ns_arena_free(&(*p)->arena);
    ns_free(*p);
    *p = NULL;
}

/* ---- code blocks in example solutions ---- */
ns_status ns_prompt_code_output(const ns_prompt_template *t, ns_buf *out, const char *status, ns_str std_out,
                                ns_str std_err, int left, ns_error *err)
{
    int llama = !strcmp(t->code_output_format, "llama");
    NS_FAIL_IF(!llama && strcmp(t->code_output_format, "qwen"), NS_ERR_CONFIG,
               "code_output_format '%s' is not one of llama, qwen", t->code_output_format);
    char block[160] = "";
    if (left >= 0)
        snprintf(block, sizeof block, "```system\n%s%.0d%s\n```\n", left ? "Remaining code executions: " : "", left,
                 left ? "" : "You have run out of code executions!");
    NS_TRY(ns_buf_adds(out, t->code_output_begin, err), "code output");
    if (llama) {
        NS_TRY(ns_buf_printf(out, err, "\n\n%s", status), "code output");
        if (std_out.n) NS_TRY(ns_buf_printf(out, err, "\n[stdout]\n%.*s[/stdout]", (int)std_out.n, std_out.p), "out");
        if (std_err.n) NS_TRY(ns_buf_printf(out, err, "\n[stderr]\n%.*s[/stderr]", (int)std_err.n, std_err.p), "err");
        NS_TRY(ns_buf_adds(out, block, err), "code output");
        NS_TRY(ns_buf_printf(out, err, "%s\n\n", t->code_output_end), "code output");
    } else {
        NS_TRY(ns_buf_add(out, std_out.p, std_out.n, err), "code output");
        NS_TRY(ns_buf_add(out, std_err.p, std_err.n, err), "code output");
        NS_TRY(ns_buf_printf(out, err, "%s%s", t->code_output_end, block), "code output");
    }
    return NS_OK;
}

/* `{code_begin}`, `{code_end}` and output blocks in a solution -> the template's tags. */
static ns_status render_solution(const ns_prompt_template *t, ns_buf *out, ns_str s, ns_error *err)
{
    static const char ob[] = "{code_output_begin}", oe[] = "{code_output_end}", cb[] = "{code_begin}",
                      ce[] = "{code_end}";
    for (size_t i = 0; i < s.n;) {
        const char *p = s.p + i;
        size_t n = s.n - i;
#define STARTS(lit) (n >= sizeof(lit) - 1 && !memcmp(p, lit, sizeof(lit) - 1))
        if (STARTS(ob)) {
            size_t head = sizeof ob - 1;
            const char *end = n > head && p[head] == '\n' ? memmem(p + head, n - head, oe, sizeof oe - 1) : NULL;
            i += head;
            if (!end) continue; /* leftover marker */
            ns_str text = {p + head + 1, (size_t)(end - p) - head - 1}, none = {"", 0};
            NS_TRY(ns_prompt_code_output(t, out, "completed", text, none, -1, err), "code output");
            i = (size_t)(end - s.p) + sizeof oe - 1;
        } else if (STARTS(oe)) {
            i += sizeof oe - 1;
        } else if (STARTS(cb)) {
            NS_TRY(ns_buf_adds(out, t->code_begin, err), "code");
            i += sizeof cb - 1;
        } else if (STARTS(ce)) {
            NS_TRY(ns_buf_adds(out, t->code_end, err), "code");
            i += sizeof ce - 1;
        } else {
            NS_TRY(ns_buf_addc(out, *p, err), "solution");
            i++;
        }
#undef STARTS
    }
    return NS_OK;
}

/* ---- filling ---- */
static ns_status set_text(ns_json *o, ns_arena *a, const char *key, const char *s, ns_error *err)
{
    return ns_json_set(o, a, key, ns_json_new_str(a, s ? s : "", err), err);
}

static ns_status fill_examples(const ns_prompt *p, ns_buf *out, ns_arena *a, const ns_json *list, const char *where,
                               ns_error *err)
{
    ns_buf solution = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_buf_adds(out, p->few_shot.prefix, err), "examples");
    for (size_t i = 0; i < list->n; i++) {
        ns_json *tags = ns_json_new(a, NS_JSON_OBJECT, err); /* rendered solution and the template's tags */
        NS_BAIL_IF(st, !tags, NS_ERR_MEMORY, "examples");
        const ns_json *sol = ns_json_get(&list->items[i], "solution");
        if (sol && sol->type == NS_JSON_STRING) {
            ns_buf_clear(&solution);
            NS_CHECK(st, ns_buf_reserve(&solution, sol->s.n + 1, err), "examples");
            solution.data[0] = 0;
            NS_CHECK(st, render_solution(&p->t, &solution, sol->s, err), "examples");
            NS_CHECK(st, set_text(tags, a, "solution", solution.data, err), "examples");
        }
        const struct {
            const char *key, *text;
        } tag[] = {{"text_begin", p->t.text_begin},
                   {"system_begin", p->t.system_begin},
                   {"system_end", p->t.system_end},
                   {"user_begin", p->t.user_begin},
                   {"user_end", p->t.user_end},
                   {"assistant_begin", p->t.assistant_begin},
                   {"assistant_end", p->t.assistant_end},
                   {"code_begin", p->t.code_begin},
                   {"code_end", p->t.code_end},
                   {"code_output_begin", p->t.code_output_begin},
                   {"code_output_end", p->t.code_output_end}};
        for (size_t k = 0; k < sizeof tag / sizeof *tag; k++)
            NS_CHECK(st, set_text(tags, a, tag[k].key, tag[k].text, err), "examples");
        ns_format_args args = {&list->items[i], tags, NULL, p->name, where};
        NS_CHECK(st, ns_format(out, p->few_shot.tmpl, &args, err), "few-shot template");
    }
    NS_CHECK(st, ns_buf_adds(out, p->few_shot.suffix, err), "examples");
done:
    ns_buf_free(&solution);
    return st;
}

ns_status ns_prompt_user(const ns_prompt *p, ns_buf *out, const ns_json *row, const char *hidden, int with_examples,
                         const char *where, ns_error *err)
{
    ns_status st = NS_OK;
    ns_arena a = NS_ARENA_INIT("prompt.fill");
    ns_buf examples = {0}, type = {0};
    const ns_json *list = p->examples;
    NS_BAIL_IF(st, ns_json_get(row, "examples") && !(hidden && !strcmp(hidden, "examples")), NS_ERR_INPUT,
               "%s: the row has a field \"examples\", which the prompt needs for itself: rename it", where);
    if (!strstr(p->user, "{examples")) with_examples = 0; /* nothing asks for them */
    ns_format_args args = {row, NULL, hidden, p->name, where};
    if (with_examples && p->few_shot.type && !list) {
        NS_CHECK(st, ns_format(&type, p->few_shot.type, &args, err), "examples_type");
        NS_CHECK(st, load_examples(&list, &a, type.data ? type.data : "", err), "%s", where);
    }
    if (with_examples && p->retriever)
        NS_CHECK(st, ns_retriever_examples(p->retriever, &list, &a, row, where, err), "few-shot examples");
    if (with_examples && list && list->n) NS_CHECK(st, fill_examples(p, &examples, &a, list, where, err), "%s", where);
    ns_json text = {.type = NS_JSON_STRING, .s = {examples.data ? examples.data : "", examples.len}};
    ns_str key = {"examples", 8};
    ns_json extra = {.type = NS_JSON_OBJECT, .n = 1, .items = &text, .keys = &key}; /* only read */
    args.extra = &extra;
    NS_CHECK(st, ns_format(out, p->user, &args, err), "user text");
done:
    ns_buf_free(&examples);
    ns_buf_free(&type);
    ns_arena_free(&a);
    return st;
}

static ns_status put_system(const ns_prompt *p, ns_buf *out, const ns_json *row, const char *hidden, const char *where,
                            ns_error *err)
{
    NS_FAIL_IF(!p->has_template, NS_ERR_CONFIG, "%s was loaded without a prompt_template", p->name);
    NS_TRY(ns_buf_adds(out, p->t.text_begin, err), "prompt");
    NS_TRY(ns_buf_adds(out, p->t.system_begin, err), "prompt");
    ns_format_args args = {row, NULL, hidden, p->name, where};
    NS_TRY(ns_format(out, p->system, &args, err), "system text");
    return ns_buf_adds(out, p->t.system_end, err);
}

static ns_status put_user(const ns_prompt *p, ns_buf *out, const ns_json *row, const char *hidden, const char *where,
                          ns_error *err)
{
    NS_TRY(ns_buf_adds(out, p->t.user_begin, err), "prompt");
    NS_TRY(ns_prompt_user(p, out, row, hidden, 1, where, err), "prompt");
    NS_TRY(ns_buf_adds(out, p->t.user_end, err), "prompt");
    return ns_buf_adds(out, p->t.assistant_begin, err);
}

ns_status ns_prompt_fill(const ns_prompt *p, ns_buf *out, const ns_json *row, const char *hidden, const char *where,
                         ns_error *err)
{
    NS_TRY(put_system(p, out, row, hidden, where, err), "%s", where);
    return put_user(p, out, row, hidden, where, err);
}

ns_status ns_prompt_fill_turns(const ns_prompt *p, ns_buf *out, const ns_json *row, const char *key, const char *where,
                               ns_error *err)
{
    const ns_json *turns = ns_json_get(row, key);
    NS_FAIL_IF(!turns || turns->type != NS_JSON_ARRAY || !turns->n, NS_ERR_INPUT,
               "%s: field \"%s\" must be a list of turns with at least one", where, key);
    NS_TRY(put_system(p, out, row, NULL, where, err), "%s", where);
    for (size_t i = 0; i < turns->n; i++) {
        NS_TRY(put_user(p, out, &turns->items[i], NULL, where, err), "turn %zu", i);
        if (i + 1 == turns->n) break;
        const ns_json *reply = ns_json_get(&turns->items[i], "assistant");
        NS_FAIL_IF(!reply || reply->type != NS_JSON_STRING, NS_ERR_INPUT, "%s: turn %zu has no \"assistant\" text",
                   where, i);
        NS_TRY(ns_buf_add(out, reply->s.p, reply->s.n, err), "turn");
        NS_TRY(ns_buf_adds(out, p->t.assistant_end, err), "turn");
    }
    return NS_OK;
}

static ns_status message(ns_json *list, ns_arena *a, const char *role, const char *content, ns_error *err)
{
    ns_json *m = ns_json_new(a, NS_JSON_OBJECT, err);
    NS_FAIL_IF(!m, NS_ERR_MEMORY, "message");
    NS_TRY(set_text(m, a, "role", role, err), "message");
    NS_TRY(set_text(m, a, "content", content, err), "message");
    return ns_json_append(list, a, m, err);
}

ns_status ns_prompt_messages(const ns_prompt *p, ns_json **out, ns_arena *a, const ns_json *row, const char *where,
                             ns_error *err)
{
    ns_buf user = {0};
    ns_status st = NS_OK;
    ns_json *list = ns_json_new(a, NS_JSON_ARRAY, err);
    NS_BAIL_IF(st, !list, NS_ERR_MEMORY, "messages");
    if (p->system[0]) NS_CHECK(st, message(list, a, "system", p->system, err), "messages");
    NS_CHECK(st, ns_prompt_user(p, &user, row, NULL, 1, where, err), "messages");
    NS_CHECK(st, message(list, a, "user", user.data ? user.data : "", err), "messages");
    *out = list;
done:
    ns_buf_free(&user);
    return st;
}
