/* From a configuration value to a field of the options struct: types, bounds, choices, null. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/hub/hub.h"
#include "base/options_priv.h"

static int bounded(const ns_option *o)
{
    return o->min < o->max && (o->type == NS_OPT_INT || o->type == NS_OPT_FLOAT);
}

static void format_bound(char out[40], const ns_option *o, double v)
{
    if (o->type == NS_OPT_INT && fabs(v) < 1e18)
        snprintf(out, 40, "%.0f", v);
    else
        cfg_format_double(out, v);
}

/* A very large bound only keeps nonsense out: not worth a reader's time. */
static ns_status add_bounds(ns_buf *out, const ns_option *o, ns_error *err)
{
    char lo[40], hi[40];
    format_bound(lo, o, o->min);
    format_bound(hi, o, o->max);
    if (o->max >= 1e9 && o->min > -1e9) return ns_buf_printf(out, err, " of at least %s", lo);
    return ns_buf_printf(out, err, " from %s to %s", lo, hi);
}

ns_status opt_expectation(ns_buf *out, const ns_option *o, ns_error *err)
{
    static const char *const names[] = {"true or false", "an integer", "a number", "a text", "a list", "any value"};
    if (o->choices) {
        CFG_TRY(ns_buf_adds(out, o->type == NS_OPT_LIST ? "a list of " : "one of ", err));
        for (const char *p = o->choices; *p; p++) {
            if (*p == '|')
                CFG_TRY(ns_buf_adds(out, ", ", err));
            else
                CFG_TRY(ns_buf_addc(out, *p, err));
        }
    } else {
        CFG_TRY(ns_buf_adds(out, names[o->type], err));
    }
    if (bounded(o)) CFG_TRY(add_bounds(out, o, err));
    return o->flags & NS_OPT_NULLABLE ? ns_buf_adds(out, " or null", err) : NS_OK;
}

/* "key must be X, found the integer '0' (origin)", "--flag must be X, found '0'" */
static ns_status fail_value(const ns_option *o, const ns_node *n, ns_error *err)
{
    ns_buf want = {0}, found = {0};
    ns_status st = opt_expectation(&want, o, err);
    if (st == NS_OK && n->type != NS_NODE_NULL) st = cfg_to_text(n, &found, err);
    const char *text = found.data ? found.data : "";
    if (st != NS_OK)
        ;
    else if (o->flag)
        st = ns_error_set(err, NS_ERR_CONFIG, __FILE__, __LINE__, "--%s must be %s, found '%.120s'", o->key, want.data,
                          text);
    else if (n->type == NS_NODE_NULL)
        st = ns_error_set(err, NS_ERR_CONFIG, __FILE__, __LINE__, "%s must be %s, found null (%s)", o->key, want.data,
                          n->origin);
    else
        st = ns_error_set(err, NS_ERR_CONFIG, __FILE__, __LINE__, "%s must be %s, found the %s '%.120s' (%s)", o->key,
                          want.data, ns_node_type_name(n->type), text, n->origin);
    ns_buf_free(&want);
    ns_buf_free(&found);
    return st;
}

/* A text that reads as a number counts as one: quoted numbers, and what ${oc.env:...} gives. */
static ns_status as_number(ns_parsed *p, const ns_node *n, ns_node *out, ns_error *err)
{
    *out = *n;
    return n->type == NS_NODE_STRING ? cfg_type_hydra(p->config, out, err) : NS_OK;
}

static int in_bounds(const ns_option *o, double v)
{
    return !bounded(o) || (v >= o->min && v <= o->max);
}

static int in_choices(const ns_option *o, const char *s)
{
    size_t n = strlen(s);
    for (const char *p = o->choices; p && *p;) {
        size_t k = strcspn(p, "|");
        if (k == n && memcmp(p, s, n) == 0) return 1;
        p += k + (p[k] == '|');
    }
    return !o->choices;
}

static ns_status fill_bool(ns_parsed *p, const ns_option *o, const ns_node *n, ns_error *err)
{
    int *field = (int *)((char *)p->options + o->at);
    const char *s = n->s ? n->s : "";
    int is_text = n->type == NS_NODE_STRING;
    if (n->type == NS_NODE_BOOL || (n->type == NS_NODE_INT && (n->i == 0 || n->i == 1)))
        *field = (int)n->i;
    else if (is_text && (!strcasecmp(s, "true") || !strcasecmp(s, "yes") || !strcasecmp(s, "on") || !strcmp(s, "1")))
        *field = 1;
    else if (is_text && (!strcasecmp(s, "false") || !strcasecmp(s, "no") || !strcasecmp(s, "off") || !strcmp(s, "0")))
        *field = 0;
    else
        return fail_value(o, n, err);
    return NS_OK;
}

static ns_status fill_number(ns_parsed *p, const ns_option *o, const ns_node *n, ns_error *err)
{
    ns_node v;
    CFG_TRY(as_number(p, n, &v, err));
    void *field = (char *)p->options + o->at;
    if (o->type == NS_OPT_FLOAT) {
        if (v.type != NS_NODE_INT && v.type != NS_NODE_FLOAT) return fail_value(o, n, err);
        double x = v.type == NS_NODE_INT ? (double)v.i : v.f;
        if (isnan(x) || !in_bounds(o, x)) return fail_value(o, n, err);
        *(double *)field = x;
        return NS_OK;
    }
    /* the documented pack arithmetic gives 138.0: integral floats are integers */
    int integral = v.type == NS_NODE_FLOAT && v.f == floor(v.f) && fabs(v.f) < 9007199254740992.0;
    if (v.type != NS_NODE_INT && !integral) return fail_value(o, n, err);
    int64_t i = integral ? (int64_t)v.f : v.i;
    if (!in_bounds(o, (double)i)) return fail_value(o, n, err);
    *(int64_t *)field = i;
    return NS_OK;
}

/* Scalars as written: `++expname=007` names "007". */
static ns_status text_of(ns_parsed *p, const ns_option *o, const ns_node *n, const char **out, ns_error *err)
{
    if (n->type == NS_NODE_LIST || n->type == NS_NODE_MAP || n->type == NS_NODE_NULL) return fail_value(o, n, err);
    NS_FAIL_IF(n->type == NS_NODE_STRING && strlen(n->s) != n->n, NS_ERR_CONFIG, "%s contains a zero byte (%s)", o->key,
               n->origin);
    if (n->s) {
        *out = n->s;
    } else { /* computed by an interpolation */
        ns_buf text = {0};
        ns_status st = cfg_to_text(n, &text, err);
        *out = st == NS_OK ? ns_arena_strdup(&p->config->arena, text.data, err) : NULL;
        ns_buf_free(&text);
        CFG_NEED(*out);
    }
    return in_choices(o, *out) ? NS_OK : fail_value(o, n, err);
}

static ns_status fill_list(ns_parsed *p, const ns_option *o, const ns_node *n, ns_error *err)
{
    ns_opt_list *field = (ns_opt_list *)((char *)p->options + o->at);
    size_t count = n->type == NS_NODE_LIST ? n->n : 1;
    if (n->type == NS_NODE_MAP) return fail_value(o, n, err);
    const char **v = ns_arena_alloc(&p->config->arena, (count + 1) * sizeof *v, err);
    CFG_NEED(v);
    for (size_t i = 0; i < count; i++) CFG_TRY(text_of(p, o, n->type == NS_NODE_LIST ? n->items[i] : n, &v[i], err));
    field->v = v;
    field->n = count;
    return NS_OK;
}

static void fill_null(ns_parsed *p, const ns_option *o)
{
    void *field = (char *)p->options + o->at;
    switch (o->type) {
    case NS_OPT_BOOL: *(int *)field = (int)o->null_value; break;
    case NS_OPT_INT: *(int64_t *)field = (int64_t)o->null_value; break;
    case NS_OPT_FLOAT: *(double *)field = o->null_value; break;
    case NS_OPT_STRING: *(const char **)field = NULL; break;
    case NS_OPT_LIST: *(ns_opt_list *)field = (ns_opt_list){NULL, 0}; break;
    case NS_OPT_NODE: *(const ns_node **)field = NULL; break;
    }
}

ns_status opt_default(ns_config *c, const ns_option *o, ns_node **out, ns_error *err)
{
    *out = NULL;
    if (!o->def) return NS_OK;
    int literal = o->type == NS_OPT_STRING && o->def[0] != '\'' && o->def[0] != '"' && strcmp(o->def, "null") &&
                  strcmp(o->def, "~");
    if (!literal) return cfg_parse_yaml_value(c, o->def, CFG_ORIGIN_DEFAULT, out, err);
    *out = cfg_string(c, o->def, strlen(o->def), CFG_ORIGIN_DEFAULT, err);
    CFG_NEED(*out);
    return NS_OK;
}

static ns_status fill_string(ns_parsed *p, const ns_option *o, const ns_node *n, ns_error *err)
{
    const char **field = (const char **)((char *)p->options + o->at);
    char where[4096], option[160];
    NS_TRY(text_of(p, o, n, field, err), "%s", "");
    if (!(o->flags & NS_OPT_MODEL)) return NS_OK;
    const char *path = *field;
    snprintf(option, sizeof option, "%s%s", o->flag ? "--" : "", o->key);
    NS_TRY(ns_hub_resolve(&path, where, option, err), "%s", "");
    if (path == *field) return NS_OK;
    *field = ns_arena_strdup(&p->config->arena, path, err);
    return *field ? NS_OK : NS_ERR_MEMORY;
}

ns_status opt_fill(ns_parsed *p, const ns_option *o, const ns_node *n, ns_error *err)
{
    int null_ok = (o->flags & NS_OPT_NULLABLE) ||
                  (!(o->flags & NS_OPT_REQUIRED) && (!o->def || !strcmp(o->def, "null") || !strcmp(o->def, "~")));
    if (!n || n->type == NS_NODE_NULL) {
        if (n && !null_ok && o->type != NS_OPT_NODE) return fail_value(o, n, err);
        fill_null(p, o);
        return NS_OK;
    }
    switch (o->type) {
    case NS_OPT_BOOL: return fill_bool(p, o, n, err);
    case NS_OPT_INT:
    case NS_OPT_FLOAT: return fill_number(p, o, n, err);
    case NS_OPT_STRING: return fill_string(p, o, n, err);
    case NS_OPT_LIST: return fill_list(p, o, n, err);
    case NS_OPT_NODE: *(const ns_node **)((char *)p->options + o->at) = n; return NS_OK;
    }
    return NS_OK;
}
