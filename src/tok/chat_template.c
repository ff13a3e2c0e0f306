/* Chat templates of a tokenizer folder (chat_template.h): which file, which of several, and the variables around messages.
 * Order of the sources and the choice among named templates follow transformers. */
#include "tok/chat_template.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { MAX_NAMED = 64, MAX_TOKENS = 8 };

typedef struct named {
    const char *name; /* "default", "tool_use", "rag", ... */
    ns_jinja *t;
    ns_str text; /* as it was found */
} named;

struct ns_chat_template {
    ns_arena arena;
    const char *label; /* for logs */
    named v[MAX_NAMED];
    size_t n;
    int only; /* index chosen by the caller, or -1 */
    const char *token_name[MAX_TOKENS];
    ns_json token[MAX_TOKENS]; /* texts */
    size_t n_tokens;
};

static const char *const roles[MAX_TOKENS] = {"bos_token", "eos_token", "unk_token",  "sep_token",
                                              "pad_token", "cls_token", "mask_token", NULL};

/* Special tokens as transformers gives them: those that are set, as text. */
static ns_status read_tokens(ns_chat_template *t, const ns_json *config, ns_error *err)
{
    for (int i = 0; roles[i]; i++) {
        const ns_json *v = ns_json_get(config, roles[i]);
        if (v && v->type == NS_JSON_OBJECT) v = ns_json_get(v, "content");
        if (!v || v->type != NS_JSON_STRING) continue;
        size_t k = 0;
        while (k < t->n_tokens && strcmp(t->token_name[k], roles[i])) k++;
        if (k < t->n_tokens) continue; /* tokenizer_config.json is read before special_tokens_map.json */
        char *s = ns_arena_strndup(&t->arena, v->s.p, v->s.n, err);
        if (!s) return NS_ERR_MEMORY;
        t->token_name[k] = roles[i];
        t->token[k] = (ns_json){.type = NS_JSON_STRING, .s = {s, v->s.n}};
        t->n_tokens++;
    }
    return NS_OK;
}

static ns_status add(ns_chat_template *t, const char *name, ns_str text, const char *where, ns_error *err)
{
    for (size_t i = 0; i < t->n; i++)
        NS_FAIL_IF(!strcmp(t->v[i].name, name), NS_ERR_INPUT, "%s: two chat templates are named '%s'", where, name);
    NS_FAIL_IF(t->n == MAX_NAMED, NS_ERR_INPUT, "%s: more than %d chat templates", where, MAX_NAMED);
    char *copy = ns_arena_strdup(&t->arena, name, err);
    if (!copy) return NS_ERR_MEMORY;
    char *kept = ns_arena_strndup(&t->arena, text.p, text.n, err);
    if (!kept) return NS_ERR_MEMORY;
    t->v[t->n].text = (ns_str){kept, text.n};
    NS_TRY(ns_jinja_compile(&t->v[t->n].t, text.p, text.n, where, err), "chat template '%s'", name);
    t->v[t->n++].name = copy;
    return NS_OK;
}

static ns_status add_file(ns_chat_template *t, const char *name, const char *path, ns_error *err)
{
    ns_buf b = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_file_read(&b, path, err), "chat template");
    NS_CHECK(st, add(t, name, (ns_str){b.data ? b.data : "", b.len}, path, err), "%s", path);
done:
    ns_buf_free(&b);
    return st;
}

/* chat_template of tokenizer_config.json. */
static ns_status add_config(ns_chat_template *t, const ns_json *v, const char *path, ns_error *err)
{
    const char *where = ns_arena_printf(&t->arena, err, "%s: chat_template", path);
    if (!where) return NS_ERR_MEMORY;
    if (!v || v->type == NS_JSON_NULL) return NS_OK;
    if (v->type == NS_JSON_STRING) return add(t, "default", v->s, where, err);
    NS_FAIL_IF(v->type != NS_JSON_ARRAY, NS_ERR_INPUT, "%s is neither a text nor a list of named texts", where);
    for (size_t i = 0; i < v->n; i++) {
        const ns_json *name = ns_json_get(&v->items[i], "name"), *text = ns_json_get(&v->items[i], "template");
        NS_FAIL_IF(!name || name->type != NS_JSON_STRING || !text || text->type != NS_JSON_STRING, NS_ERR_INPUT,
                   "%s[%zu]: expected an object with the texts \"name\" and \"template\"", where, i);
        char *key = ns_arena_strndup(&t->arena, name->s.p, name->s.n, err);
        if (!key) return NS_ERR_MEMORY;
        const char *each = ns_arena_printf(&t->arena, err, "%s '%s'", where, key);
        if (!each) return NS_ERR_MEMORY;
        NS_TRY(add(t, key, text->s, each, err), "%s", path);
    }
    return NS_OK;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static ns_status add_folder(ns_chat_template *t, const char *dir, ns_error *err)
{
    char path[4200];
    const char *names[MAX_NAMED];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/additional_chat_templates", dir);
    DIR *d = opendir(path);
    if (!d) return NS_OK;
    for (const struct dirent *e; (e = readdir(d)) && n < MAX_NAMED;) {
        size_t len = strlen(e->d_name);
        if (len < 7 || strcmp(e->d_name + len - 6, ".jinja")) continue;
        if ((names[n] = ns_arena_strndup(&t->arena, e->d_name, len - 6, err))) n++;
    }
    closedir(d);
    qsort(names, n, sizeof *names, by_text);
    for (size_t i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/additional_chat_templates/%s.jinja", dir, names[i]);
        NS_TRY(add_file(t, names[i], path, err), "additional_chat_templates");
    }
    return NS_OK;
}

static ns_status choose(ns_chat_template *t, const char *which, const char *dir, ns_error *err)
{
    char names[512] = "";
    size_t at = 0;
    t->only = -1;
    for (size_t i = 0; i < t->n; i++) {
        if (which && !strcmp(t->v[i].name, which)) t->only = (int)i;
        if (at + 80 < sizeof names)
            at += (size_t)snprintf(names + at, sizeof names - at, "%s%.60s", i ? ", " : "", t->v[i].name);
    }
    NS_FAIL_IF(which && t->only < 0, NS_ERR_CONFIG,
               "%s has no chat template named '%s' (it has: %s); a template file is named by its path", dir, which,
               t->n ? names : "none");
    int has_default = t->n == 1;
    for (size_t i = 0; i < t->n; i++) has_default |= !strcmp(t->v[i].name, "default");
    NS_FAIL_IF(!which && t->n && !has_default, NS_ERR_CONFIG,
               "%s has several chat templates and none is named default: choose one of %s", dir, names);
    return NS_OK;
}

static ns_status load(ns_chat_template *t, const char *dir, const char *which, ns_error *err)
{
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json"};
    char path[4200];
    ns_arena a = NS_ARENA_INIT("chat_template.config");
    ns_status st = NS_OK;
    const ns_json *own = NULL;
    int is_file = which && (strchr(which, '/') || (strlen(which) > 6 && !strcmp(which + strlen(which) - 6, ".jinja")));
    for (int i = 0; i < 2; i++) {
        ns_json *cfg = NULL;
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        if (!ns_path_exists(path)) continue;
        NS_CHECK(st, ns_json_read_file(&cfg, &a, path, err), "%s", path);
        NS_CHECK(st, read_tokens(t, cfg, err), "%s", path);
        if (i == 0) own = ns_json_get(cfg, "chat_template");
    }
    if (is_file) {
        NS_CHECK(st, add_file(t, "default", which, err), "chat template");
        t->label = ns_arena_strdup(&t->arena, which, err);
    } else {
        snprintf(path, sizeof path, "%s/chat_template.jinja", dir);
        int own_file = ns_path_exists(path);
        if (own_file)
            NS_CHECK(st, add_file(t, "default", path, err), "chat template");
        else {
            snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
            NS_CHECK(st, add_config(t, own, path, err), "chat template");
        }
        NS_CHECK(st, add_folder(t, dir, err), "chat template");
        NS_CHECK(st, choose(t, which, dir, err), "chat template");
        t->label = ns_arena_printf(&t->arena, err, "%s%s%s", path, which ? " " : "", which ? which : "");
    }
    NS_BAIL_IF(st, !t->label, NS_ERR_MEMORY, "out of memory");
done:
    ns_arena_free(&a);
    return st;
}

static ns_status fresh(ns_chat_template **out, ns_error *err)
{
    *out = NULL;
    NS_TRY(ns_alloc((void **)out, sizeof **out, "chat_template", err), "chat template");
    (*out)->arena.label = "chat_template";
    (*out)->only = -1;
    return NS_OK;
}

ns_status ns_chat_template_load(ns_chat_template **out, const char *dir, const char *which, ns_error *err)
{
    ns_buf path = {0};
    ns_status st = NS_OK;
    *out = NULL;
    NS_CHECK(st, ns_buf_adds(&path, dir, err), "chat template");
    if (!ns_path_is_dir(dir)) { /* a file in the folder */
        char *slash = strrchr(path.data, '/');
        ns_buf_clear(&path);
        NS_CHECK(st, slash ? ns_buf_add(&path, dir, (size_t)(slash - path.data), err) : ns_buf_addc(&path, '.', err),
                 "chat template");
    }
    while (path.len > 1 && path.data[path.len - 1] == '/') path.data[--path.len] = 0;
    NS_CHECK(st, fresh(out, err), "chat template");
    NS_CHECK(st, load(*out, path.data, which, err), "%s", dir);
    if (!(*out)->n) ns_chat_template_free(out);
done:
    if (st != NS_OK) ns_chat_template_free(out);
    ns_buf_free(&path);
    return st;
}

ns_status ns_chat_template_build(ns_chat_template **out, const char *text, size_t n, const char *name,
                                 const ns_json *config, ns_error *err)
{
    ns_status st = NS_OK;
    NS_CHECK(st, fresh(out, err), "chat template");
    NS_CHECK(st, add(*out, "default", (ns_str){text, n}, name, err), "chat template");
    (*out)->label = ns_arena_strdup(&(*out)->arena, name, err);
    NS_BAIL_IF(st, !(*out)->label, NS_ERR_MEMORY, "out of memory");
    if (config) NS_CHECK(st, read_tokens(*out, config, err), "chat template");
done:
    if (st != NS_OK) ns_chat_template_free(out);
    return st;
}

static const named *pick_named(const ns_chat_template *t, int with_tools)
{
    if (t->only >= 0) return &t->v[t->only];
    const named *def = &t->v[0];
    for (size_t i = 0; i < t->n; i++)
        if (!strcmp(t->v[i].name, "default")) def = &t->v[i];
    for (size_t i = 0; with_tools && i < t->n; i++)
        if (!strcmp(t->v[i].name, "tool_use")) def = &t->v[i];
    return def;
}

static const ns_jinja *pick(const ns_chat_template *t, int with_tools)
{
    return pick_named(t, with_tools)->t;
}

ns_str ns_chat_template_text(const ns_chat_template *t)
{
    return pick_named(t, 0)->text;
}

/* transformers fills reasoning_content (and thinking) from whichever of three names a message has. */
static ns_status alias_reasoning(const ns_json **out, ns_arena *a, const ns_json *messages, ns_error *err)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    ns_json *copy = NULL;
    *out = messages;
    for (size_t i = 0; i < messages->n; i++) {
        const ns_json *m = &messages->items[i], *r = NULL;
        for (int k = 0; k < 3; k++) {
            const ns_json *v = ns_json_get(m, names[k]);
            if (!r && v && v->type != NS_JSON_NULL) r = v;
        }
        if (!r) continue;
        if (!copy) {
            copy = ns_json_new(a, NS_JSON_ARRAY, err);
            if (!copy) return NS_ERR_MEMORY;
            for (size_t k = 0; k < messages->n; k++)
                NS_TRY(ns_json_append(copy, a, &messages->items[k], err), "messages");
            *out = copy;
        }
        ns_json *n = ns_json_new(a, NS_JSON_OBJECT, err);
        if (!n) return NS_ERR_MEMORY;
        NS_TRY(ns_json_set(n, a, "thinking", r, err), "messages");
        for (size_t k = 0; k < m->n; k++) {
            char *key = ns_arena_strndup(a, m->keys[k].p, m->keys[k].n, err);
            if (!key) return NS_ERR_MEMORY;
            NS_TRY(ns_json_set(n, a, key, &m->items[k], err), "messages");
        }
        NS_TRY(ns_json_set(n, a, "reasoning_content", r, err), "messages");
        copy->items[i] = *n;
    }
    return NS_OK;
}

ns_status ns_chat_template_render(const ns_chat_template *t, ns_buf *out, ns_chat_render *r, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("chat_template.render");
    ns_json yes = {.type = NS_JSON_BOOL, .b = r->add_generation_prompt != 0};
    ns_jinja_var *v = NULL;
    size_t n = 0, n_extra = r->extra && r->extra->type == NS_JSON_OBJECT ? r->extra->n : 0;
    const ns_json *messages = r->messages;
    ns_status st = NS_OK;
    NS_BAIL_IF(st, !messages || messages->type != NS_JSON_ARRAY, NS_ERR_INPUT, "messages: expected a list");
    for (size_t i = 0; i < messages->n; i++)
        NS_BAIL_IF(st, messages->items[i].type != NS_JSON_OBJECT, NS_ERR_INPUT, "message %zu: expected an object", i);
    NS_CHECK(st, alias_reasoning(&messages, &a, messages, err), "messages");
    v = ns_arena_alloc(&a, (t->n_tokens + n_extra + 4) * sizeof *v, err);
    NS_BAIL_IF(st, !v, NS_ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < t->n_tokens; i++) v[n++] = (ns_jinja_var){t->token_name[i], &t->token[i]};
    for (size_t i = 0; i < n_extra; i++) {
        char *key = ns_arena_strndup(&a, r->extra->keys[i].p, r->extra->keys[i].n, err);
        NS_BAIL_IF(st, !key, NS_ERR_MEMORY, "out of memory");
        v[n++] = (ns_jinja_var){key, &r->extra->items[i]};
    }
    v[n++] = (ns_jinja_var){"messages", messages};
    v[n++] = (ns_jinja_var){"tools", r->tools};
    v[n++] = (ns_jinja_var){"documents", r->documents};
    v[n++] = (ns_jinja_var){"add_generation_prompt", &yes};
    ns_jinja_render j = {.vars = v,
                         .n_vars = n,
                         .limits = r->limits,
                         .now = r->now,
                         .want_spans = r->want_spans,
                         .spans = r->spans,
                         .n_spans = r->n_spans,
                         .spans_cap = r->spans_cap};
    st = ns_jinja_run(pick(t, r->tools != NULL), out, &j, err);
    r->spans = j.spans;
    r->n_spans = j.n_spans;
    r->spans_cap = j.spans_cap;
done:
    ns_arena_free(&a);
    return st;
}

int ns_chat_template_has_generation(const ns_chat_template *t, int with_tools)
{
    return ns_jinja_has_generation(pick(t, with_tools));
}

int ns_chat_template_uses(const ns_chat_template *t, const char *variable)
{
    for (size_t i = 0; i < t->n; i++)
        if (ns_jinja_uses(t->v[i].t, variable)) return 1;
    return 0;
}

const char *ns_chat_template_name(const ns_chat_template *t)
{
    return t->label;
}

ns_str ns_chat_template_token(const ns_chat_template *t, const char *role)
{
    for (size_t i = 0; i < t->n_tokens; i++)
        if (!strcmp(t->token_name[i], role)) return t->token[i].s;
    return (ns_str){NULL, 0};
}

void ns_chat_template_free(ns_chat_template **tp)
{
    ns_chat_template *t = *tp;
    if (!t) return;
    for (size_t i = 0; i < MAX_NAMED; i++) ns_jinja_free(&t->v[i].t);
    ns_arena_free(&t->arena);
    ns_free(t);
    *tp = NULL;
}
