/* Command line and configuration -> filled options struct. Steps: sort the words (flags, overrides, positional); put every
 * row's default into the tree; overlay the YAML file; apply the overrides in order; refuse unknown keys; fill the fields.
 * Nothing of a verb runs before all of it has been checked. */
#include "base/options.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/options_priv.h"

/* ---- the tree ---- */
static ns_status put_defaults(opt_parser *s, ns_error *err)
{
    for (size_t i = 0; i < s->verb->n_options; i++) {
        const ns_option *o = &s->verb->options[i];
        if (o->flag) continue;
        ns_node *n = NULL;
        const ns_node *there = NULL;
        CFG_TRY(opt_default(s->c, o, &n, err));
        CFG_TRY(cfg_find(s->c, o->key, &there, err));
        if (!n && there && there->type == NS_NODE_MAP) continue; /* rows below it came first */
        const char *text = !n && (o->flags & NS_OPT_REQUIRED) ? "???" : "null";
        if (n)
            NS_TRY(cfg_assign(s->c, o->key, n, CFG_ORIGIN_DEFAULT, err), "default of %s", o->key);
        else
            NS_TRY(ns_config_set(s->c, o->key, text, CFG_ORIGIN_DEFAULT, err), "default of %s", o->key);
    }
    return NS_OK;
}

static int is_file(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && !S_ISDIR(sb.st_mode);
}

/* DIR/NAME, DIR/NAME.yaml, DIR/NAME.yml; *found NULL if none is a file. */
static ns_status look_in(opt_parser *s, const char *dir, const char *name, const char **found, ns_error *err)
{
    static const char *const ends[] = {"", ".yaml", ".yml"};
    for (size_t i = 0; i < 3 && !*found; i++) {
        const char *path = dir && name[0] != '/' ? ns_arena_printf(&s->c->arena, err, "%s/%s%s", dir, name, ends[i])
                                                 : ns_arena_printf(&s->c->arena, err, "%s%s", name, ends[i]);
        CFG_NEED(path);
        if (is_file(path)) *found = path;
    }
    return NS_OK;
}

static const char *builtin_text(const ns_verb *v, const char *name)
{
    for (const char *const *b = v->builtin_configs; b && b[0]; b += 2) {
        size_t n = strlen(b[0]);
        if (strncmp(b[0], name, n) == 0 && (name[n] == 0 || strcmp(name + n, ".yaml") == 0)) return b[1];
    }
    return NULL;
}

static ns_status fail_no_config(opt_parser *s, const char *name, ns_error *err)
{
    ns_buf known = {0};
    ns_status st = NS_OK;
    for (const char *const *b = s->verb->builtin_configs; st == NS_OK && b && b[0]; b += 2)
        st = ns_buf_printf(&known, err, "%s%s", known.len ? ", " : "; built in: ", b[0]);
    if (st == NS_OK)
        st = ns_error_set(err, NS_ERR_CONFIG, __FILE__, __LINE__,
                          "there is no configuration '%s' (also not with .yaml) in %s%s%s%s", name,
                          s->config_path ? s->config_path : "the current folder", s->config_dir ? " or " : "",
                          s->config_dir ? s->config_dir : "", known.data ? known.data : "");
    ns_buf_free(&known);
    return st;
}

/* Settings of Hydra itself that documented files carry; they configure nothing here. */
static ns_status drop_hydra_keys(opt_parser *s, ns_error *err)
{
    const ns_node *defaults = ns_node_get(s->c->root, "defaults");
    for (size_t i = 0; defaults && defaults->type == NS_NODE_LIST && i < defaults->n; i++)
        NS_FAIL_IF(defaults->items[i]->type != NS_NODE_STRING || strcmp(defaults->items[i]->s, "_self_") != 0,
                   NS_ERR_UNSUPPORTED,
                   "%s: 'defaults' that include other files are not supported: write the settings here",
                   defaults->items[i]->origin);
    if (defaults) cfg_remove(s->c->root, "defaults");
    if (ns_node_get(s->c->root, "hydra")) cfg_remove(s->c->root, "hydra");
    return NS_OK;
}

static ns_status read_files(opt_parser *s, ns_error *err)
{
    const char *name = s->config_name ? s->config_name : s->verb->default_config, *found = NULL;
    NS_FAIL_IF(!name && (s->config_path || s->config_dir), NS_ERR_CONFIG,
               "--config-path and --config-dir say where to look: add --config-name=NAME");
    if (!name) return NS_OK;
    if (s->config_name || s->config_path || s->config_dir) {
        if (s->config_path) CFG_TRY(look_in(s, s->config_path, name, &found, err));
        if (!found && s->config_dir) CFG_TRY(look_in(s, s->config_dir, name, &found, err));
        if (!found && !s->config_path) CFG_TRY(look_in(s, NULL, name, &found, err));
    }
    if (found) {
        NS_TRY(ns_config_load_yaml(s->c, found, err), "configuration %s", name);
    } else {
        const char *text = builtin_text(s->verb, name);
        if (!text) return fail_no_config(s, name, err);
        NS_TRY(ns_config_parse_yaml(s->c, text, strlen(text), name, err), "built-in configuration");
    }
    return drop_hydra_keys(s, err);
}

/* ---- known and unknown keys ---- */
/* A row; a map of rows; below a row that takes anything: one with a default, or one without, where nothing is known about
 * the keys and the plain `row.sub=value` may create them unless a file has filled it. */
enum { KEY_UNKNOWN, KEY_ROW, KEY_GROUP, KEY_INSIDE, KEY_FREE };

static int classify(const opt_parser *s, const char *key)
{
    size_t n = strlen(key);
    int kind = KEY_UNKNOWN;
    for (size_t i = 0; i < s->verb->n_options; i++) {
        const ns_option *o = &s->verb->options[i];
        size_t m = strlen(o->key);
        if (o->flag) continue;
        if (n == m && memcmp(key, o->key, n) == 0) return KEY_ROW;
        if (m > n && o->key[n] == '.' && memcmp(key, o->key, n) == 0) kind = KEY_GROUP;
        int takes_children = o->type == NS_OPT_NODE || o->type == NS_OPT_LIST;
        if (n > m && takes_children && (key[m] == '.' || key[m] == '[') && memcmp(key, o->key, m) == 0)

            return o->def && strcmp(o->def, "null") != 0 && strcmp(o->def, "{}") != 0 ? KEY_INSIDE : KEY_FREE;
    }
    return kind;
}

/* The value of a NS_OPT_WORDS key that is not a list, a map or quoted, as one quoted text. */
static ns_status quote_words(opt_parser *s, const char **word, ns_error *err)
{
    const char *key = *word + strspn(*word, "+"), *eq = strchr(key, '=');
    int words = 0;
    if (!eq || !strchr(eq, ',') || strchr("[{'\"", eq[1 + strspn(eq + 1, " ")])) return NS_OK;
    for (size_t i = 0; i < s->verb->n_options; i++) {
        const ns_option *o = &s->verb->options[i];
        words |= !o->flag && (o->flags & NS_OPT_WORDS) && strlen(o->key) == (size_t)(eq - key) &&
                 !memcmp(o->key, key, (size_t)(eq - key));
    }
    if (!words) return NS_OK;
    char *out = ns_arena_alloc(&s->c->arena, 2 * strlen(*word) + 3, err), *p = out;
    CFG_NEED(out);
    size_t head = (size_t)(eq + 1 - *word);
    memcpy(p, *word, head);
    p += head;
    *p++ = '\'';
    for (const char *q = eq + 1; *q; q++) {
        const char *run = q; /* backslashes before a quote count double */
        while (*q == '\\') *p++ = *q++;
        if (*q == '\'' || !*q)
            for (const char *k = run; k < q; k++) *p++ = '\\';
        if (!*q) break;
        if (*q == '\'') *p++ = '\\';
        *p++ = *q;
    }
    *p++ = '\'';
    *word = out;
    return NS_OK;
}

static ns_status fail_unknown(opt_parser *s, const char *where, const char *key, size_t more, ns_error *err)
{
    char hint[512], others[64] = "";
    size_t n = 0;
    const char **names = ns_arena_alloc(&s->c->arena, (s->verb->n_options + 1) * sizeof *names, err);
    CFG_NEED(names);
    for (size_t i = 0; i < s->verb->n_options; i++)
        if (!s->verb->options[i].flag) names[n++] = s->verb->options[i].key;
    cfg_suggest(hint, sizeof hint, key, names, n);
    if (!*hint && opt_find_flag(s, key, 0)) snprintf(hint, sizeof hint, "; did you mean the option --%s?", key);
    if (more) snprintf(others, sizeof others, " (%zu more unknown keys follow)", more);
    NS_FAIL(NS_ERR_CONFIG, "%s: unknown key '%s'%s%s", where, key, hint, others);
}

/* The nearest value above key that exists holds nothing from a file: null, or made by earlier words. Cuts key there. */
static ns_status is_unfilled(opt_parser *s, char *key, int *yes, ns_error *err)
{
    const ns_node *n = NULL;
    for (char *dot = strrchr(key, '.'); dot && !n; dot = strrchr(key, '.')) {
        *dot = 0;
        CFG_TRY(cfg_find(s->c, key, &n, err));
    }
    *yes = n && (n->type == NS_NODE_NULL || strncmp(n->origin, "override ", 9) == 0);
    return NS_OK;
}

/* May this override create or change its key? Keys that a YAML file defined are known when the verb allows them. */
static ns_status check_override(opt_parser *s, const char *word, int *may_create, ns_error *err)
{
    *may_create = 0;
    if (*word == '~') return NS_OK;
    const char *from = word + strspn(word, "+"), *eq = strchr(from, '=');
    if (!eq || eq == from) return NS_OK; /* malformed: the configuration says how */
    char *key = ns_arena_strndup(&s->c->arena, from, (size_t)(eq - from), err);
    const char *where = ns_arena_printf(&s->c->arena, err, "override %.160s", word);
    CFG_NEED(key && where ? key : NULL);
    int kind = classify(s, key);
    if (kind == KEY_FREE) return is_unfilled(s, key, may_create, err);
    if (kind != KEY_UNKNOWN) return NS_OK;
    if (s->verb->open_config) {
        const ns_node *n = NULL;
        CFG_TRY(cfg_find(s->c, key, &n, err));
        if (n) return NS_OK;
        for (char *dot = strrchr(key, '.'); dot && !n; dot = strrchr(key, '.')) {
            *dot = 0;
            CFG_TRY(cfg_find(s->c, key, &n, err));
        }
        if (n && classify(s, key) == KEY_UNKNOWN) return NS_OK; /* inside of a map that the file defined */
        key = ns_arena_strndup(&s->c->arena, from, (size_t)(eq - from), err);
        CFG_NEED(key);
    }
    return fail_unknown(s, where, key, 0, err);
}

typedef struct unknown_keys {
    const char *first, *origin;
    size_t n;
} unknown_keys;

static ns_status scan_tree(opt_parser *s, const ns_node *map, const char *prefix, unknown_keys *u, ns_error *err)
{
    for (size_t i = 0; i < map->n; i++) {
        const ns_node *n = map->items[i];
        const char *key = ns_arena_printf(&s->c->arena, err, "%s%s%s", prefix, *prefix ? "." : "", map->keys[i]);
        CFG_NEED(key);
        int kind = classify(s, key);
        NS_FAIL_IF(kind == KEY_GROUP && n->type != NS_NODE_MAP && n->type != NS_NODE_NULL, NS_ERR_CONFIG,
                   "%s: '%s' is a group of settings and cannot be the %s '%.60s'", n->origin, key,
                   ns_node_type_name(n->type), n->s ? n->s : "");
        if (kind == KEY_GROUP && n->type == NS_NODE_MAP) CFG_TRY(scan_tree(s, n, key, u, err));
        if (kind != KEY_UNKNOWN || s->verb->open_config) continue;
        if (!u->n++) u->first = key, u->origin = n->origin;
    }
    return NS_OK;
}

static ns_status check_keys(opt_parser *s, ns_error *err)
{
    unknown_keys u = {0};
    if (!s->has_keys) return NS_OK;
    CFG_TRY(scan_tree(s, s->c->root, "", &u, err));
    return u.n ? fail_unknown(s, u.origin, u.first, u.n - 1, err) : NS_OK;
}

/* ---- filling ---- */
static ns_status fail_missing(opt_parser *s, ns_buf *list, ns_error *err)
{
    ns_error_set(err, NS_ERR_CONFIG, __FILE__, __LINE__, "missing: %s (see `ns %s --help`)", list->data, s->verb->name);
    return NS_ERR_CONFIG;
}

static int is_required_and_missing(opt_parser *s, size_t row)
{
    const ns_option *o = &s->verb->options[row];
    const ns_node *n = NULL;
    if (!(o->flags & NS_OPT_REQUIRED)) return 0;
    if (o->flag) return !s->flag_values[row] && !o->def;
    ns_error ignored = NS_ERROR_INIT;
    if (cfg_find(s->c, o->key, &n, &ignored) != NS_OK) return 0;
    return !n ? !o->def : n->type == NS_NODE_STRING && strcmp(n->s, "???") == 0;
}

/* All missing settings in one message. */
static ns_status check_required(opt_parser *s, ns_error *err)
{
    ns_buf list = {0};
    ns_status st = NS_OK;
    for (size_t i = 0; st == NS_OK && i < s->verb->n_options; i++) {
        const ns_option *o = &s->verb->options[i];
        if (!is_required_and_missing(s, i)) continue;
        st = ns_buf_printf(&list, err, "%s%s%s%s%s%s%s", list.len ? ", " : "", o->flag ? "--" : "++", o->key,
                           o->flag ? "" : "=...", o->help ? " (" : "", o->help ? o->help : "", o->help ? ")" : "");
    }
    if (st == NS_OK && list.len) st = fail_missing(s, &list, err);
    ns_buf_free(&list);
    return st;
}

static ns_status note_compat(opt_parser *s, const ns_option *o, const ns_node *n, ns_error *err)
{
    ns_node *def = NULL;
    const ns_node null_node = {.type = NS_NODE_NULL};
    CFG_TRY(opt_default(s->c, o, &def, err));
    if (def && cfg_has_interpolation(def)) return NS_OK; /* follows another setting: cannot tell */
    if (cfg_equal(n ? n : &null_node, def ? def : &null_node)) return NS_OK;
    ns_buf text = {0};
    ns_status st = n ? cfg_to_text(n, &text, err) : NS_OK;
    if (st == NS_OK)
        NS_WARN("%s%s=%s is accepted for compatibility and changes nothing%s%s", o->flag ? "--" : "", o->key,
                text.data ? text.data : "", o->compat_note ? ": " : "", o->compat_note ? o->compat_note : "");
    ns_buf_free(&text);
    return st;
}

static ns_status fill_row(opt_parser *s, size_t row, ns_error *err)
{
    const ns_option *o = &s->verb->options[row];
    const ns_node *n = NULL;
    ns_node *def = NULL;
    if (o->flag) {
        n = s->flag_values[row];
    } else {
        CFG_TRY(ns_config_get(s->c, o->key, &n, err));
    }
    if (!n) { /* not given, or deleted with ~key */
        CFG_TRY(opt_default(s->c, o, &def, err));
        n = def;
        if (!o->flag && o->flags & NS_OPT_NULLABLE) n = NULL;
        if (n && cfg_has_interpolation(n)) { /* as if it were written in its place again */
            NS_TRY(cfg_assign(s->c, o->key, def, CFG_ORIGIN_DEFAULT, err), "default of %s", o->key);
            CFG_TRY(ns_config_get(s->c, o->key, &n, err));
        }
    }
    CFG_TRY(opt_fill(s->out, o, n, err));
    return o->flags & NS_OPT_COMPAT ? note_compat(s, o, n, err) : NS_OK;
}

/* ---- public ---- */
static ns_status prepare(opt_parser *s, int argc, const char *const *argv, ns_error *err)
{
    ns_arena *a = &s->c->arena;
    size_t n = (size_t)argc;
    char **copy = ns_arena_alloc(a, (n + 1) * sizeof *copy, err);
    CFG_NEED(copy);
    for (size_t i = 0; i < n; i++) {
        copy[i] = ns_arena_strdup(a, argv[i], err);
        CFG_NEED(copy[i]);
    }
    s->out->argv_copy = copy;
    s->out->argc = argc;
    s->argv = (const char *const *)copy;
    s->argc = argc;
    s->out->positional = ns_arena_alloc(a, (n + 1) * sizeof(char *), err);
    s->out->overrides = ns_arena_alloc(a, (n + 1) * sizeof(char *), err);
    s->overrides = ns_arena_alloc(a, (n + 1) * sizeof(char *), err);
    s->flag_values = ns_arena_alloc(a, (s->verb->n_options + 1) * sizeof *s->flag_values, err);
    s->out->options = ns_arena_alloc(a, s->verb->options_size + 1, err);
    CFG_NEED(s->out->positional && s->out->overrides && s->overrides && s->flag_values ? s->out->options : NULL);
    for (size_t i = 0; i < s->verb->n_options; i++) s->has_keys |= !s->verb->options[i].flag;
    return NS_OK;
}

/* Keys of words that are kept for another verb. */
static ns_status check_kept(const opt_parser *s, ns_error *err)
{
    opt_parser other = *s;
    other.verb = s->verb->words_of;
    for (size_t i = 0; other.verb && !other.verb->open_config && i < s->out->n_overrides; i++) {
        int may_create;
        if (s->out->overrides[i][0] != '-') CFG_TRY(check_override(&other, s->out->overrides[i], &may_create, err));
    }
    return NS_OK;
}

static ns_status parse_all(opt_parser *s, ns_error *err)
{
    CFG_TRY(opt_sort_words(s, err));
    if (s->out->help) return NS_OK; /* nothing else matters */
    CFG_TRY(check_kept(s, err));
    CFG_TRY(put_defaults(s, err));
    CFG_TRY(read_files(s, err));
    for (size_t i = 0; i < s->n_overrides; i++) {
        int may_create = 0;
        CFG_TRY(check_override(s, s->overrides[i], &may_create, err));
        const char *word = s->overrides[i];
        CFG_TRY(quote_words(s, &word, err));
        CFG_TRY(cfg_override(s->c, word, may_create, err));
    }
    CFG_TRY(check_keys(s, err));
    CFG_TRY(check_required(s, err));
    for (size_t i = 0; i < s->verb->n_options; i++) CFG_TRY(fill_row(s, i, err));
    return NS_OK;
}

ns_status ns_options_parse(ns_parsed *out, const ns_verb *v, int argc, const char *const *argv, ns_error *err)
{
    opt_parser s = {.out = out, .verb = v};
    memset(out, 0, sizeof *out);
    CFG_TRY(ns_config_new(&out->config, err));
    s.c = out->config;
    ns_status st = prepare(&s, argc, argv, err);
    if (st == NS_OK) st = parse_all(&s, err);
    if (st != NS_OK) ns_parsed_free(out);
    return st;
}

/* ---- self-check of a table ---- */
static ns_status check_names(const ns_verb *v, ns_error *err)
{
    for (size_t i = 0; i < v->n_options; i++)
        for (size_t j = 0; j < i; j++) {
            const ns_option *a = &v->options[i], *b = &v->options[j];
            if (a->flag != b->flag) continue;
            int same = a->flag ? opt_same_name(a->key, b->key) : strcmp(a->key, b->key) == 0;
            NS_FAIL_IF(same, NS_ERR_INTERNAL, "ns %s: option '%s' stands in the table twice", v->name, a->key);
            NS_FAIL_IF(a->short_name && a->short_name == b->short_name, NS_ERR_INTERNAL,
                       "ns %s: -%c is both '%s' and '%s'", v->name, a->short_name, b->key, a->key);
        }
    return NS_OK;
}

static size_t field_size(ns_opt_type t)
{
    static const size_t sizes[] = {sizeof(int),          sizeof(int64_t),     sizeof(double),
                                   sizeof(const char *), sizeof(ns_opt_list), sizeof(const ns_node *)};
    return sizes[t];
}

static ns_status check_row(opt_parser *s, size_t row, ns_error *err)
{
    const ns_option *o = &s->verb->options[row];
    ns_error got = NS_ERROR_INIT;
    char text[1024];
    NS_FAIL_IF(o->at + field_size(o->type) > s->verb->options_size, NS_ERR_INTERNAL,
               "ns %s: option '%s' is stored past the end of the struct", s->verb->name, o->key);
    if (o->flags & NS_OPT_REQUIRED) return NS_OK;
    ns_status st = fill_row(s, row, &got);
    if (st == NS_OK || strstr(got.msg, "must be given")) return NS_OK; /* a default that follows a required setting */
    NS_FAIL_IF(st == NS_ERR_MEMORY, st, "%s", got.msg);
    NS_FAIL(NS_ERR_INTERNAL, "ns %s: the default of '%s' breaks its own rule: %s", s->verb->name, o->key,
            ns_error_text(&got, text, sizeof text));
}

ns_status ns_options_check(const ns_verb *v, ns_error *err)
{
    ns_parsed out = {0};
    opt_parser s = {.out = &out, .verb = v};
    CFG_TRY(check_names(v, err));
    CFG_TRY(ns_config_new(&out.config, err));
    s.c = out.config;
    ns_status st = prepare(&s, 0, NULL, err);
    if (st == NS_OK) st = put_defaults(&s, err);
    for (size_t i = 0; st == NS_OK && i < v->n_options; i++) st = check_row(&s, i, err);
    for (const char *const *b = v->builtin_configs; st == NS_OK && b && b[0]; b += 2) { /* each must fit the table */
        const char *const words[] = {"--config-name", b[0]};
        ns_parsed p;
        ns_error got = NS_ERROR_INIT;
        if (ns_options_parse(&p, v, 2, words, &got) == NS_OK)
            ns_parsed_free(&p);
        else if (!strstr(got.msg, "missing: ") && !strstr(got.msg, "must be given"))
            st = ns_error_set(err, NS_ERR_INTERNAL, __FILE__, __LINE__, "ns %s --config-name %s: %s", v->name, b[0],
                              got.msg);
    }
    ns_parsed_free(&out);
    return st;
}

void ns_parsed_free(ns_parsed *p)
{
    if (!p) return;
    ns_config_free(&p->config); /* its arena holds everything else */
    memset(p, 0, sizeof *p);
}
