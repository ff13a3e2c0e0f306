/* Configuration tree: nodes, dotted paths, merging, override words. YAML text: config_yaml.c; values of override words:
 * config_value.c; ${...}: config_resolve.c. Semantics follow Hydra 1.3 / OmegaConf 2.3 (data.md §1.1): a map given in an
 * override merges into the map that is there, everything else replaces. */
#include "base/config.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/config_priv.h"

/* ---- nodes ---- */
const char *ns_node_type_name(ns_node_type t)
{
    static const char *const names[] = {"null", "boolean", "integer", "float", "string", "list", "map"};
    return (unsigned)t < sizeof names / sizeof names[0] ? names[t] : "?";
}

ns_node *cfg_new(ns_config *c, ns_node_type t, const char *origin, ns_error *err)
{
    ns_node *n = ns_arena_alloc(&c->arena, sizeof *n, err);
    if (n) {
        n->type = t;
        n->origin = origin;
    }
    return n;
}

ns_node *cfg_string(ns_config *c, const char *s, size_t n, const char *origin, ns_error *err)
{
    ns_node *x = cfg_new(c, NS_NODE_STRING, origin, err);
    if (!x) return NULL;
    x->s = ns_arena_strndup(&c->arena, s, n, err);
    x->n = n;
    return x->s ? x : NULL;
}

ns_status cfg_append(ns_config *c, ns_node *parent, const char *key, ns_node *child, ns_error *err)
{
    size_t n = parent->n;
    if ((n & (n - 1)) == 0) { /* 0 or a power of two: full */
        size_t cap = n ? 2 * n : 1;
        ns_node **items = ns_arena_alloc(&c->arena, cap * sizeof *items, err);
        CFG_NEED(items);
        if (n) memcpy(items, parent->items, n * sizeof *items);
        if (parent->type == NS_NODE_MAP) {
            const char **keys = ns_arena_alloc(&c->arena, cap * sizeof *keys, err);
            CFG_NEED(keys);
            if (n) memcpy(keys, parent->keys, n * sizeof *keys);
            parent->keys = keys;
        }
        parent->items = items;
    }
    if (parent->type == NS_NODE_MAP) parent->keys[n] = key;
    parent->items[n] = child;
    parent->n = n + 1;
    child->parent = parent;
    return NS_OK;
}

static size_t find_key(const ns_node *map, const char *key)
{
    for (size_t i = 0; i < map->n; i++)
        if (strcmp(map->keys[i], key) == 0) return i;
    return SIZE_MAX;
}

const ns_node *ns_node_get(const ns_node *map, const char *key)
{
    if (!map || map->type != NS_NODE_MAP) return NULL;
    size_t i = find_key(map, key);
    return i == SIZE_MAX ? NULL : map->items[i];
}

ns_status cfg_copy(ns_config *c, const ns_node *from, ns_node **out, ns_error *err)
{
    ns_node *n = cfg_new(c, from->type, from->origin, err);
    CFG_NEED(n);
    *n = *from;
    n->parent = NULL;
    if (from->type == NS_NODE_LIST || from->type == NS_NODE_MAP) {
        n->n = 0;
        n->items = NULL;
        n->keys = NULL;
        for (size_t i = 0; i < from->n; i++) {
            ns_node *child = NULL;
            ns_status st = cfg_copy(c, from->items[i], &child, err);
            if (st == NS_OK) st = cfg_append(c, n, from->keys ? from->keys[i] : NULL, child, err);
            if (st != NS_OK) return st;
        }
    }
    *out = n;
    return NS_OK;
}

/* Replaces the contents of a node in place: whoever points to it sees the new value. */
static void become(ns_node *n, const ns_node *value)
{
    ns_node *parent = n->parent;
    *n = *value;
    n->parent = parent;
    for (size_t i = 0; (n->type == NS_NODE_LIST || n->type == NS_NODE_MAP) && i < n->n; i++) n->items[i]->parent = n;
}

ns_status cfg_merge(ns_config *c, ns_node *into, const ns_node *from, ns_error *err)
{
    ns_node *copy = NULL;
    if (into->type != NS_NODE_MAP || from->type != NS_NODE_MAP) {
        ns_status st = cfg_copy(c, from, &copy, err);
        if (st == NS_OK) become(into, copy);
        return st;
    }
    into->origin = from->origin;
    for (size_t i = 0; i < from->n; i++) {
        size_t at = find_key(into, from->keys[i]);
        ns_status st;
        if (at != SIZE_MAX) {
            st = cfg_merge(c, into->items[at], from->items[i], err);
        } else {
            st = cfg_copy(c, from->items[i], &copy, err);
            if (st == NS_OK) st = cfg_append(c, into, from->keys[i], copy, err);
        }
        if (st != NS_OK) return st;
    }
    return NS_OK;
}

int cfg_depth(const ns_node *n)
{
    int most = 0;
    if (n->type != NS_NODE_LIST && n->type != NS_NODE_MAP) return 0;
    for (size_t i = 0; i < n->n; i++) {
        int d = cfg_depth(n->items[i]);
        if (d > most) most = d;
    }
    return most + 1;
}

int cfg_equal(const ns_node *a, const ns_node *b)
{
    int num_a = a->type == NS_NODE_INT || a->type == NS_NODE_FLOAT || a->type == NS_NODE_BOOL;
    int num_b = b->type == NS_NODE_INT || b->type == NS_NODE_FLOAT || b->type == NS_NODE_BOOL;
    if (num_a && num_b) {
        if (a->type != NS_NODE_FLOAT && b->type != NS_NODE_FLOAT) return a->i == b->i;
        return (a->type == NS_NODE_BOOL ? (double)a->i : a->f) == (b->type == NS_NODE_BOOL ? (double)b->i : b->f);
    }
    if (a->type != b->type) return 0;
    switch (a->type) {
    case NS_NODE_STRING: return a->n == b->n && memcmp(a->s, b->s, a->n) == 0;
    case NS_NODE_LIST:
        if (a->n != b->n) return 0;
        for (size_t i = 0; i < a->n; i++)
            if (!cfg_equal(a->items[i], b->items[i])) return 0;
        return 1;
    case NS_NODE_MAP:
        if (a->n != b->n) return 0;
        for (size_t i = 0; i < a->n; i++) {
            const ns_node *other = ns_node_get(b, a->keys[i]);
            if (!other || !cfg_equal(a->items[i], other)) return 0;
        }
        return 1;
    default: return 1;
    }
}

/* ---- paths ---- */
const char *cfg_path_of(const ns_node *n, char *out, size_t size)
{
    size_t len = 0;
    out[0] = 0;
    for (; n && n->parent; n = n->parent) { /* from the leaf up, each component put in front */
        char part[256];
        size_t i = 0;
        while (i < n->parent->n && n->parent->items[i] != n) i++;
        if (n->parent->type == NS_NODE_MAP && i < n->parent->n)
            snprintf(part, sizeof part, "%s", n->parent->keys[i]);
        else
            snprintf(part, sizeof part, "%zu", i);
        size_t add = strlen(part) + (len ? 1 : 0);
        if (len + add + 1 > size) break;
        memmove(out + add, out, len + 1);
        memcpy(out, part, strlen(part));
        if (len) out[add - 1] = '.';
        len += add;
    }
    return out;
}

int cfg_path_next(const char **p, char *comp, size_t size)
{
    const char *s = *p;
    size_t n = 0;
    if (!*s) return 0;
    if (*s == '.') s++; /* the separator before this component */
    if (*s == '[') {
        const char *end = strchr(s, ']');
        n = end ? (size_t)(end - s - 1) : 0;
        if (!end || n == 0 || n >= size || (end[1] && end[1] != '.' && end[1] != '[')) return -1;
        memcpy(comp, s + 1, n);
        *p = end + 1;
    } else {
        n = strcspn(s, ".[");
        if (n == 0 || n >= size || (s[n] == '.' && !s[n + 1])) return -1;
        memcpy(comp, s, n);
        *p = s + n;
    }
    comp[n] = 0;
    return 1;
}

ns_status cfg_path_check(const char *path, const char *origin, ns_error *err)
{
    const char *p = path;
    char comp[256];
    int more = *path == '.' ? -1 : 1;
    while (more == 1) more = cfg_path_next(&p, comp, sizeof comp);
    NS_FAIL_IF(more < 0, NS_ERR_CONFIG, "%s%skey '%s' is malformed: write names joined by single dots, as in a.b.0.c",
               origin ? origin : "", origin ? ": " : "", path);
    return NS_OK;
}

int cfg_list_index(const char *comp, size_t *index)
{
    size_t v = 0;
    if (!*comp || strlen(comp) > 9) return 0;
    for (; *comp; comp++) {
        if (!isdigit((unsigned char)*comp)) return 0;
        v = v * 10 + (size_t)(*comp - '0');
    }
    *index = v;
    return 1;
}

/* Walks path without resolving interpolations. *out NULL if absent. */
static ns_status raw_find(ns_config *c, const char *path, ns_node **out, ns_error *err)
{
    ns_node *n = c->root;
    const char *p = path;
    char comp[256];
    *out = NULL;
    CFG_TRY(cfg_path_check(path, NULL, err));
    while (cfg_path_next(&p, comp, sizeof comp) == 1) {
        size_t i = SIZE_MAX;
        if (n->type == NS_NODE_MAP)
            i = find_key(n, comp);
        else if (n->type == NS_NODE_LIST && (!cfg_list_index(comp, &i) || i >= n->n))
            i = SIZE_MAX;
        if (i == SIZE_MAX) return NS_OK;
        n = n->items[i];
    }
    *out = n;
    return NS_OK;
}

ns_status cfg_find(ns_config *c, const char *path, const ns_node **out, ns_error *err)
{
    ns_node *n = NULL;
    ns_status st = raw_find(c, path, &n, err);
    *out = n;
    return st;
}

/* ---- suggestions ---- */
static const char *last_component(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

/* The right name in another group: up to three of them. */
static int suggest_same_end(char *out, size_t size, const char *word, const char *const *names, size_t n)
{
    size_t found = 0, len = 0;
    for (size_t i = 0; i < n && found < 3; i++) {
        if (strcmp(last_component(names[i]), last_component(word)) != 0) continue;
        int w = snprintf(out + len, size - len, "%s%s", found ? " or " : "; did you mean ", names[i]);
        if (w < 0 || (size_t)w + 2 > size - len) break;
        len += (size_t)w;
        found++;
    }
    out[len] = 0;
    if (found) snprintf(out + len, size - len, "?");
    return found > 0;
}

const char *cfg_suggest(char *out, size_t size, const char *word, const char *const *names, size_t n)
{
    out[0] = 0;
    if (!strchr(word, '.') && suggest_same_end(out, size, word, names, n))
        return out; /* only the group was forgotten */
    const char *best = ns_suggest(word, names, n);
    if (best) {
        snprintf(out, size, "; did you mean %s?", best);
        return out;
    }
    if (suggest_same_end(out, size, word, names, n)) return out;
    for (size_t i = 0; i < n; i++) { /* a near spelling of the last component, whatever the group */
        const char *const one[1] = {last_component(names[i])};
        if (ns_suggest(last_component(word), one, 1)) {
            snprintf(out, size, "; did you mean %s?", names[i]);
            break;
        }
    }
    return out;
}

typedef struct path_list {
    const char **v;
    size_t n, cap;
} path_list;

static ns_status collect_paths(ns_config *c, const ns_node *n, const char *prefix, path_list *l, int depth,
                               ns_error *err)
{
    for (size_t i = 0; n->type == NS_NODE_MAP && depth < CFG_MAX_DEPTH && i < n->n; i++) {
        const char *path = ns_arena_printf(&c->arena, err, "%s%s%s", prefix, *prefix ? "." : "", n->keys[i]);
        CFG_NEED(path);
        CFG_TRY(ns_grow((void **)&l->v, &l->cap, l->n + 1, sizeof *l->v, "config.paths", err));
        l->v[l->n++] = path;
        CFG_TRY(collect_paths(c, n->items[i], path, l, depth + 1, err));
    }
    return NS_OK;
}

ns_status cfg_all_paths(ns_config *c, const char ***names, size_t *n, ns_error *err)
{
    path_list l = {0};
    const char **out = NULL;
    ns_status st = collect_paths(c, c->root, "", &l, 0, err);
    if (st == NS_OK) {
        out = ns_arena_alloc(&c->arena, (l.n + 1) * sizeof *out, err);
        if (!out) st = NS_ERR_MEMORY;
    }
    if (st == NS_OK && l.n) memcpy(out, l.v, l.n * sizeof *out);
    ns_free(l.v);
    *names = out;
    *n = l.n;
    return st;
}

static void remove_node(ns_node *n)
{
    ns_node *parent = n->parent;
    size_t i = 0;
    while (i < parent->n && parent->items[i] != n) i++;
    size_t rest = parent->n - i - 1;
    memmove(parent->items + i, parent->items + i + 1, rest * sizeof *parent->items);
    if (parent->keys) memmove(parent->keys + i, parent->keys + i + 1, rest * sizeof *parent->keys);
    parent->n--;
}

void cfg_remove(ns_node *map, const char *key)
{
    size_t i = find_key(map, key);
    if (i != SIZE_MAX) remove_node(map->items[i]);
}

/* ---- life ---- */
ns_status ns_config_new(ns_config **out, ns_error *err)
{
    ns_config *c = NULL;
    *out = NULL;
    CFG_TRY(ns_alloc((void **)&c, sizeof *c, "config", err));
    c->arena.label = "config";
    c->root = cfg_new(c, NS_NODE_MAP, CFG_ORIGIN_DEFAULT, err);
    if (!c->root) {
        ns_config_free(&c);
        return NS_ERR_MEMORY;
    }
    *out = c;
    return NS_OK;
}

void ns_config_free(ns_config **c)
{
    if (!c || !*c) return;
    ns_arena_free(&(*c)->arena);
    ns_free(*c);
    *c = NULL;
}

ns_node *ns_config_root(ns_config *c)
{
    return c->root;
}

/* ---- setting ---- */
/* Puts value at path, creating parents; a null on the way becomes a map. Maps merge into maps. */
ns_status cfg_assign(ns_config *c, const char *path, const ns_node *value, const char *origin, ns_error *err)
{
    ns_node *n = c->root;
    const char *p = path;
    char comp[256], where[512];
    NS_FAIL_IF(!*path, NS_ERR_CONFIG, "%s: the key is empty", origin);
    CFG_TRY(cfg_path_check(path, origin, err));
    int levels = cfg_depth(value);
    while (cfg_path_next(&p, comp, sizeof comp) == 1) levels++;
    NS_FAIL_IF(levels > CFG_MAX_DEPTH, NS_ERR_CONFIG, "%s: '%.60s...': nested deeper than %d levels", origin, path,
               CFG_MAX_DEPTH);
    p = path;
    int more = cfg_path_next(&p, comp, sizeof comp);
    while (more == 1) {
        size_t i = SIZE_MAX;
        if (n->type == NS_NODE_LIST) {
            NS_FAIL_IF(!cfg_list_index(comp, &i), NS_ERR_CONFIG,
                       "%s: '%s' is a list (%s) and '%s' is not an index: use 0 to %zu", origin,
                       cfg_path_of(n, where, sizeof where), n->origin, comp, n->n ? n->n - 1 : 0);
            NS_FAIL_IF(i >= n->n, NS_ERR_CONFIG, "%s: index %zu is past the end of '%s', which has %zu items (%s)",
                       origin, i, cfg_path_of(n, where, sizeof where), n->n, n->origin);
        } else if (n->type == NS_NODE_MAP) {
            i = find_key(n, comp);
            if (i == SIZE_MAX) {
                const char *key = ns_arena_strdup(&c->arena, comp, err);
                ns_node *child = key ? cfg_new(c, NS_NODE_NULL, origin, err) : NULL;
                CFG_NEED(child);
                CFG_TRY(cfg_append(c, n, key, child, err));
                i = n->n - 1;
            }
        }
        n = n->items[i];
        more = cfg_path_next(&p, comp, sizeof comp);
        if (more == 1 && n->type == NS_NODE_NULL) {
            ns_node *empty = cfg_new(c, NS_NODE_MAP, origin, err);
            CFG_NEED(empty);
            become(n, empty);
        }
        NS_FAIL_IF(more == 1 && n->type != NS_NODE_MAP && n->type != NS_NODE_LIST, NS_ERR_CONFIG,
                   "%s: '%s' is the %s '%.80s' (%s), so it has no key '%s' below it", origin,
                   cfg_path_of(n, where, sizeof where), ns_node_type_name(n->type), n->s ? n->s : "", n->origin, comp);
    }
    return cfg_merge(c, n, value, err);
}

ns_status ns_config_set(ns_config *c, const char *key, const char *text, const char *origin, ns_error *err)
{
    ns_node *value = NULL;
    CFG_TRY(cfg_parse_yaml_value(c, text, origin, &value, err));
    return cfg_assign(c, key, value, origin, err);
}

/* ---- override words ---- */
static ns_status unknown_key(ns_config *c, const char *origin, const char *key, ns_error *err)
{
    const char **names = NULL;
    size_t n = 0;
    char hint[512];
    CFG_TRY(cfg_all_paths(c, &names, &n, err));
    cfg_suggest(hint, sizeof hint, key, names, n);
    NS_FAIL(NS_ERR_CONFIG, "%s: there is no key '%s'%s (++%s=... adds a key)", origin, key, hint, key);
}

static ns_status check_key(const char *origin, const char *key, ns_error *err)
{
    NS_FAIL_IF(!*key, NS_ERR_CONFIG, "%s: there is no key before '=': write key=value", origin);
    NS_FAIL_IF(cfg_utf8_valid(key, strlen(key)) < strlen(key), NS_ERR_CONFIG, "%s: the key is not UTF-8", origin);
    for (const char *p = key; *p; p++) {
        NS_FAIL_IF(*p == '@' || *p == '/', NS_ERR_UNSUPPORTED,
                   "%s: configuration groups ('%c' in a key) are not supported: name the key with dots", origin, *p);
        NS_FAIL_IF(!isalnum((unsigned char)*p) && !strchr("_-.$[]", *p) && (unsigned char)*p < 0x80, NS_ERR_CONFIG,
                   "%s: character '%c' cannot be part of a key (letters, digits, '_', '-', '$', dots)", origin, *p);
    }
    return NS_OK;
}

static ns_status delete_key(ns_config *c, const char *key, const char *value, const char *origin, ns_error *err)
{
    ns_node *n = NULL, *want = NULL;
    NS_TRY(raw_find(c, key, &n, err), "%s", origin);
    if (!n) return unknown_key(c, origin, key, err);
    if (value) {
        CFG_TRY(cfg_parse_value(c, key, value, origin, &want, err));
        NS_FAIL_IF(!cfg_equal(n, want), NS_ERR_CONFIG,
                   "%s: '%s' is not deleted because its value is %s '%.80s' (%s); ~%s deletes it whatever it is",
                   origin, key, ns_node_type_name(n->type), n->s ? n->s : "", n->origin, key);
    }
    remove_node(n);
    return NS_OK;
}

/* Only defaults at and below n? */
static int all_default(const ns_node *n)
{
    if (n->type != NS_NODE_MAP) return strcmp(n->origin, CFG_ORIGIN_DEFAULT) == 0;
    for (size_t i = 0; i < n->n; i++)
        if (!all_default(n->items[i])) return 0;
    return 1;
}

ns_status cfg_override(ns_config *c, const char *word, int may_create, ns_error *err)
{
    const char *origin = strlen(word) <= 160 ? ns_arena_printf(&c->arena, err, "override %s", word)
                                             : ns_arena_printf(&c->arena, err, "override %.150s...", word);
    CFG_NEED(origin);
    int del = word[0] == '~', plus = 0;
    const char *p = word + del;
    while (!del && plus < 2 && *p == '+') p++, plus++;
    const char *eq = strchr(p, '=');
    NS_FAIL_IF(!eq && !del, NS_ERR_CONFIG, "'%s' is not a setting: write key=value (or +key=value, ++key=value, ~key)",
               word);
    const char *key = ns_arena_strndup(&c->arena, p, eq ? (size_t)(eq - p) : strlen(p), err);
    CFG_NEED(key);
    CFG_TRY(check_key(origin, key, err));
    if (del) return delete_key(c, key, eq ? eq + 1 : NULL, origin, err);

    ns_node *value = NULL, *there = NULL;
    CFG_TRY(cfg_parse_value(c, key, eq + 1, origin, &value, err));
    NS_TRY(raw_find(c, key, &there, err), "%s", origin);
    if (plus == 0 && !there && !may_create) return unknown_key(c, origin, key, err);
    /* as Hydra: a null, a missing value, a list or a map may be added onto what is there */
    int may_add = !there || there->type == NS_NODE_NULL || all_default(there) || value->type == NS_NODE_LIST ||
                  value->type == NS_NODE_MAP || (there->type == NS_NODE_STRING && strcmp(there->s, "???") == 0);
    NS_FAIL_IF(plus == 1 && !may_add, NS_ERR_CONFIG,
               "%s: '%s' is already set (%s): write %s=... or ++%s=... to change it", origin, key, there->origin, key,
               key);
    return cfg_assign(c, key, value, origin, err);
}

ns_status ns_config_override(ns_config *c, const char *word, ns_error *err)
{
    return cfg_override(c, word, 0, err);
}

ns_status ns_config_value(ns_config *c, const char *text, ns_node **out, ns_error *err)
{
    return cfg_parse_value(c, NULL, text, "value", out, err);
}
