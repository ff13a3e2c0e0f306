/* Values of override words: Hydra 1.3's grammar (data.md §1.2).
 *
 *     element   = quoted | list | map | cast | primitive
 *     quoted    = '...' or "..."; a backslash escapes only the quote and backslashes right before it
 *     list      = [ element, ... ]      map = { key: element, ... }      cast = int(x) float(x) str(x) bool(x)
 *     primitive = words, blanks inside, ${...}, escapes \\ \( \) \[ \] \{ \} \: \= \, \blank; typed when it is one token
 *
 * Wider than Hydra in two places: '=' and characters such as '<' or '!' need no quotes inside a primitive (checkpoint
 * names contain "step=100"), and None means null. A top-level comma is a sweep and refused with what to write instead. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/config_priv.h"

typedef struct parse {
    ns_config *c;
    const char *p;
    const char *start; /* for positions in messages */
    const char *origin;
    int depth;
    ns_error *err;
} parse;

static void skip_blanks(parse *v)
{
    while (*v->p == ' ' || *v->p == '\t') v->p++;
}

static ns_status fail_at(parse *v, const char *what)
{
    ns_error *err = v->err;
    if (!*v->p) NS_FAIL(NS_ERR_CONFIG, "%s: the value ends too early: %s", v->origin, what);
    NS_FAIL(NS_ERR_CONFIG, "%s: '%c' at character %zu of the value: %s", v->origin, *v->p,
            (size_t)(v->p - v->start) + 1, what);
}

/* ---- quoted ---- */
static ns_status parse_quoted(parse *v, ns_node **out)
{
    ns_error *err = v->err;
    char quote = *v->p++;
    char *text = ns_arena_alloc(&v->c->arena, strlen(v->p) + 1, err);
    CFG_NEED(text);
    size_t n = 0;
    for (;;) {
        if (!*v->p) NS_FAIL(NS_ERR_CONFIG, "%s: the quote %c is never closed", v->origin, quote);
        size_t slashes = strspn(v->p, "\\");
        if (v->p[slashes] != quote) {
            size_t take = slashes + (v->p[slashes] != 0);
            memcpy(text + n, v->p, take);
            n += take;
            v->p += take;
            continue;
        }
        memset(text + n, '\\', slashes / 2); /* pairs of backslashes before a quote are halved */
        n += slashes / 2;
        v->p += slashes + 1;
        if (slashes % 2 == 0) break;
        text[n++] = quote;
    }
    *out = cfg_string(v->c, text, n, v->origin, err);
    CFG_NEED(*out);
    return NS_OK;
}

/* ---- primitives ---- */
/* Scans a primitive up to an unquoted stop byte; copies it to text (NULL: only measures). *typed: no escapes, no ${}. */
static ns_status scan_primitive(parse *v, const char *stops, char *text, size_t *n_out, int *typed)
{
    const char *p = v->p;
    size_t n = 0, kept = 0; /* kept: up to the last byte that is not a blank */
    *typed = 1;
    while (*p && !strchr(stops, *p)) {
        if (p[0] == '$' && p[1] == '{') {
            const char *end = cfg_skip_interpolation(p);
            v->p = p;
            if (!end) return fail_at(v, "this ${ is never closed by }");
            if (text) memcpy(text + n, p, (size_t)(end - p));
            n += (size_t)(end - p);
            p = end;
            *typed = 0;
            kept = n;
            continue;
        }
        int escaped = p[0] == '\\' && p[1] && strchr("\\()[]{}:=, \t", p[1]);
        v->p = p;
        if (!escaped && strchr("()[]{}'\"", *p))
            return fail_at(v, "quote the whole value, \"'...'\", or write a backslash before this character");
        p += escaped;
        if (text) text[n] = *p;
        n++;
        if (escaped || (*p != ' ' && *p != '\t')) kept = n;
        if (escaped) *typed = 0;
        p++;
    }
    v->p = p;
    *n_out = kept;
    return NS_OK;
}

static ns_status parse_primitive(parse *v, const char *stops, ns_node **out)
{
    ns_error *err = v->err;
    const char *from = v->p;
    size_t n = 0;
    int typed = 0;
    CFG_TRY(scan_primitive(v, stops, NULL, &n, &typed));
    char *text = ns_arena_alloc(&v->c->arena, (size_t)(v->p - from) + 1, err);
    ns_node *node = cfg_new(v->c, NS_NODE_STRING, v->origin, err);
    CFG_NEED(text && node ? node : NULL);
    v->p = from;
    CFG_TRY(scan_primitive(v, stops, text, &n, &typed));
    text[n] = 0;
    node->s = text;
    node->n = n;
    *out = node;
    return typed ? cfg_type_hydra(v->c, node, err) : NS_OK;
}

/* ---- containers and casts ---- */
static ns_status parse_element(parse *v, const char *stops, ns_node **out);

static ns_status parse_list(parse *v, ns_node **out)
{
    ns_error *err = v->err;
    ns_node *list = cfg_new(v->c, NS_NODE_LIST, v->origin, err);
    CFG_NEED(list);
    v->p++;
    skip_blanks(v);
    while (*v->p != ']') {
        ns_node *item = NULL;
        if (!*v->p) return fail_at(v, "expected ']'");
        if (*v->p == ',') return fail_at(v, "an item is missing before it (write '' for an empty text)");
        CFG_TRY(parse_element(v, ",]", &item));
        CFG_TRY(cfg_append(v->c, list, NULL, item, err));
        if (*v->p == ',') {
            v->p++;
            skip_blanks(v);
            if (*v->p == ']') return fail_at(v, "an item is missing after the comma");
        } else if (*v->p != ']') {
            return fail_at(v, "expected ',' or ']'");
        }
    }
    v->p++;
    *out = list;
    return NS_OK;
}

static ns_status parse_map_key(parse *v, ns_node *map, const char **key)
{
    ns_error *err = v->err;
    ns_node *node = NULL;
    if (*v->p == '\'' || *v->p == '"')
        CFG_TRY(parse_quoted(v, &node));
    else
        CFG_TRY(parse_primitive(v, ":,}", &node));
    skip_blanks(v);
    if (*v->p != ':') return fail_at(v, "expected key:value inside {...}");
    v->p++;
    NS_FAIL_IF(node->n == 0, NS_ERR_CONFIG, "%s: an empty key inside {...}", v->origin);
    NS_FAIL_IF(cfg_has_interpolation(node), NS_ERR_UNSUPPORTED, "%s: a key inside {...} cannot contain ${...}",
               v->origin);
    NS_FAIL_IF(ns_node_get(map, node->s), NS_ERR_CONFIG, "%s: key '%s' is given twice inside {...}", v->origin,
               node->s);
    *key = node->s;
    return NS_OK;
}

static ns_status parse_map(parse *v, ns_node **out)
{
    ns_error *err = v->err;
    ns_node *map = cfg_new(v->c, NS_NODE_MAP, v->origin, err);
    CFG_NEED(map);
    v->p++;
    skip_blanks(v);
    while (*v->p != '}') {
        ns_node *item = NULL;
        const char *key = NULL;
        if (!*v->p) return fail_at(v, "expected '}'");
        CFG_TRY(parse_map_key(v, map, &key));
        CFG_TRY(parse_element(v, ",}", &item));
        CFG_TRY(cfg_append(v->c, map, key, item, err));
        if (*v->p == ',') {
            v->p++;
            skip_blanks(v);
            if (*v->p == '}') return fail_at(v, "a key is missing after the comma");
        } else if (*v->p != '}') {
            return fail_at(v, "expected ',' or '}'");
        }
    }
    v->p++;
    *out = map;
    return NS_OK;
}

/* int(x) and friends. Sweep functions (choice, range, ...) are refused by name. */
static ns_status parse_cast(parse *v, size_t name_len, ns_node **out)
{
    ns_error *err = v->err;
    char name[32] = "";
    ns_node *x = NULL;
    ns_buf text = {0};
    if (name_len < sizeof name) memcpy(name, v->p, name_len);
    NS_FAIL_IF(strcmp(name, "int") && strcmp(name, "float") && strcmp(name, "str") && strcmp(name, "bool"),
               NS_ERR_UNSUPPORTED,
               "%s: %.*s(...) is a sweep or an unknown function: run once per value, or quote the text", v->origin,
               (int)name_len, v->p);
    v->p += name_len + 1;
    CFG_TRY(parse_element(v, ")", &x));
    if (*v->p != ')') return fail_at(v, "expected ')'");
    v->p++;
    NS_FAIL_IF(x->type == NS_NODE_LIST || x->type == NS_NODE_MAP || cfg_has_interpolation(x), NS_ERR_UNSUPPORTED,
               "%s: %s(...) takes one plain value", v->origin, name);
    ns_status st = cfg_to_text(x, &text, err);
    ns_node *y = st == NS_OK ? cfg_string(v->c, text.data ? text.data : "", text.len, v->origin, err) : NULL;
    ns_buf_free(&text);
    CFG_NEED(y);
    *out = y;
    if (strcmp(name, "str") == 0) return NS_OK;
    CFG_TRY(cfg_type_hydra(v->c, y, err));
    int number = y->type == NS_NODE_INT || y->type == NS_NODE_FLOAT;
    if (y->type == NS_NODE_BOOL) y->f = (double)y->i;
    NS_FAIL_IF(!number && y->type != NS_NODE_BOOL, NS_ERR_CONFIG, "%s: %s(...) cannot convert '%s'", v->origin, name,
               y->s);
    if (strcmp(name, "float") == 0) {
        y->type = NS_NODE_FLOAT;
    } else if (strcmp(name, "bool") == 0) {
        y->i = y->type == NS_NODE_FLOAT ? y->f != 0 : y->i != 0;
        y->type = NS_NODE_BOOL;
    } else if (y->type != NS_NODE_INT) {
        NS_FAIL_IF(!(y->f > -9.2e18 && y->f < 9.2e18), NS_ERR_CONFIG, "%s: int(%s) does not fit", v->origin, y->s);
        y->i = (int64_t)y->f;
        y->f = (double)y->i;
        y->type = NS_NODE_INT;
    }
    return NS_OK;
}

static ns_status parse_element(parse *v, const char *stops, ns_node **out)
{
    ns_error *err = v->err;
    NS_FAIL_IF(++v->depth > CFG_MAX_DEPTH, NS_ERR_CONFIG, "%s: nested deeper than %d levels", v->origin, CFG_MAX_DEPTH);
    skip_blanks(v);
    size_t id = isalpha((unsigned char)*v->p) ? 1 : 0;
    while (id && (isalnum((unsigned char)v->p[id]) || v->p[id] == '_')) id++;
    int bracketed = 1;
    ns_status st;
    if (*v->p == '\'' || *v->p == '"')
        st = parse_quoted(v, out);
    else if (*v->p == '[')
        st = parse_list(v, out);
    else if (*v->p == '{')
        st = parse_map(v, out);
    else if (id && v->p[id] == '(')
        st = parse_cast(v, id, out);
    else {
        bracketed = 0;
        st = parse_primitive(v, stops, out);
    }
    if (st != NS_OK) return st;
    skip_blanks(v);
    if (bracketed && *v->p && !strchr(stops, *v->p))
        return fail_at(v, "nothing may follow a closed quote or bracket (quote the whole value, \"'...'\")");
    v->depth--;
    return NS_OK;
}

ns_status cfg_parse_element(ns_config *c, const char **p, const char *stops, const char *origin, ns_node **out,
                            ns_error *err)
{
    parse v = {c, *p, *p, origin, 0, err};
    ns_status st = parse_element(&v, stops, out);
    *p = v.p;
    return st;
}

ns_status cfg_parse_value(ns_config *c, const char *key, const char *text, const char *origin, ns_node **out,
                          ns_error *err)
{
    parse v = {c, text, text, origin, 0, err};
    const char *name = key ? key : "key";
    size_t n = strlen(text), good = cfg_utf8_valid(text, n);
    NS_FAIL_IF(good < n, NS_ERR_CONFIG, "%s: byte %zu of the value is not UTF-8", origin, good + 1);
    CFG_TRY(parse_element(&v, ",", out));
    NS_FAIL_IF(*v.p == ',', NS_ERR_CONFIG,
               "%s: a comma outside of quotes would be a sweep over several runs: write \"%s='%s'\" for one text or "
               "\"%s=[%s]\" for a list",
               origin, name, text, name, text);
    return NS_OK;
}
