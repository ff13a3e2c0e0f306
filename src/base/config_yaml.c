/* YAML text -> typed tree, through libyaml's events; and tree -> YAML text, through its emitter (whose style is PyYAML's).
 * Every node's origin is "file:line:column". Refused by name: duplicate keys (both lines), a second document, tags other
 * than !!str int float bool null seq map, complex keys. Anchors are copied (with a budget, so that nested aliases cannot
 * explode) and `<<` merges as in YAML 1.1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "base/config_priv.h"
#include "base/file.h"

enum { ALIAS_BUDGET = 1000000 }; /* nodes that aliases may copy in one file */

typedef struct anchor {
    const char *name;
    ns_node *node;
    struct anchor *next;
} anchor;

typedef struct reader {
    ns_config *c;
    yaml_parser_t parser;
    yaml_event_t event;
    int have_event;
    const char *name;         /* file name in origins */
    const char *fixed_origin; /* or one origin for everything */
    anchor *anchors;
    size_t copied;
} reader;

static ns_status next_event(reader *r, ns_error *err)
{
    if (r->have_event) yaml_event_delete(&r->event);
    r->have_event = 0;
    if (yaml_parser_parse(&r->parser, &r->event)) {
        r->have_event = 1;
        return NS_OK;
    }
    const yaml_parser_t *p = &r->parser;
    NS_FAIL_IF(p->error == YAML_MEMORY_ERROR, NS_ERR_MEMORY, "out of memory while reading %s", r->name);
    NS_FAIL_IF(p->error == YAML_READER_ERROR, NS_ERR_CONFIG,
               "%s: byte %zu: %s (YAML must be UTF-8 without control bytes)", r->name, p->problem_offset,
               p->problem ? p->problem : "unreadable");
    NS_FAIL(NS_ERR_CONFIG, "%s:%zu:%zu: not valid YAML: %s%s%s", r->name, p->problem_mark.line + 1,
            p->problem_mark.column + 1, p->problem ? p->problem : "?", p->context ? " " : "",
            p->context ? p->context : "");
}

static const char *origin_at(reader *r, yaml_mark_t m, ns_error *err)
{
    if (r->fixed_origin) return r->fixed_origin;
    return ns_arena_printf(&r->c->arena, err, "%s:%zu:%zu", r->name, m.line + 1, m.column + 1);
}

static size_t count_nodes(const ns_node *n)
{
    size_t k = 1;
    for (size_t i = 0; (n->type == NS_NODE_LIST || n->type == NS_NODE_MAP) && i < n->n; i++)
        k += count_nodes(n->items[i]);
    return k;
}

static ns_status read_alias(reader *r, ns_node **out, int depth, ns_error *err)
{
    const char *name = (const char *)r->event.data.alias.anchor;
    const anchor *a = r->anchors;
    while (a && strcmp(a->name, name) != 0) a = a->next;
    NS_FAIL_IF(!a, NS_ERR_CONFIG, "%s:%zu:%zu: alias *%s has no anchor &%s before it", r->name,
               r->event.start_mark.line + 1, r->event.start_mark.column + 1, name, name);
    r->copied += count_nodes(a->node);
    NS_FAIL_IF(r->copied > ALIAS_BUDGET, NS_ERR_CONFIG, "%s:%zu: aliases expand to more than %d values", r->name,
               r->event.start_mark.line + 1, ALIAS_BUDGET);
    NS_FAIL_IF(depth + cfg_depth(a->node) > CFG_MAX_DEPTH, NS_ERR_CONFIG, "%s:%zu: nested deeper than %d levels",
               r->name, r->event.start_mark.line + 1, CFG_MAX_DEPTH);
    return cfg_copy(r->c, a->node, out, err);
}

static ns_status add_anchor(reader *r, const char *name, ns_node *n, ns_error *err)
{
    anchor *a = ns_arena_alloc(&r->c->arena, sizeof *a, err);
    CFG_NEED(a);
    a->name = name;
    a->node = n;
    a->next = r->anchors;
    r->anchors = a;
    return NS_OK;
}

/* Core tags by short name; NULL for a tag that is not ours. */
static const char *core_tag(const yaml_char_t *tag)
{
    static const char prefix[] = "tag:yaml.org,2002:";
    static const char *const names[] = {"str", "int", "float", "bool", "null", "seq", "map"};
    if (!tag) return "";
    if (strcmp((const char *)tag, "!") == 0) return "str";
    if (strncmp((const char *)tag, prefix, sizeof prefix - 1) != 0) return NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp((const char *)tag + sizeof prefix - 1, names[i]) == 0) return names[i];
    return NULL;
}

static ns_status check_tag(reader *r, const yaml_char_t *tag, const char *origin, const char **name, ns_error *err)
{
    *name = core_tag(tag);
    NS_FAIL_IF(!*name, NS_ERR_UNSUPPORTED, "%s: tag %.100s is not supported: remove it",
               r->fixed_origin ? r->name : origin, (const char *)tag);
    return NS_OK;
}

static ns_status read_scalar(reader *r, ns_node **out, ns_error *err)
{
    const char *origin = origin_at(r, r->event.start_mark, err), *tag = NULL;
    CFG_NEED(origin);
    CFG_TRY(check_tag(r, r->event.data.scalar.tag, origin, &tag, err));
    ns_node *n = cfg_string(r->c, (const char *)r->event.data.scalar.value, r->event.data.scalar.length, origin, err);
    CFG_NEED(n);
    *out = n;
    int plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (*tag ? strcmp(tag, "str") == 0 : !plain) return NS_OK;
    CFG_TRY(cfg_type_yaml(r->c, n, err));
    if (*tag && strcmp(tag, "float") == 0 && n->type == NS_NODE_INT) n->type = NS_NODE_FLOAT;
    int agrees = !*tag || (!strcmp(tag, "int") && n->type == NS_NODE_INT) ||
                 (!strcmp(tag, "float") && n->type == NS_NODE_FLOAT) ||
                 (!strcmp(tag, "bool") && n->type == NS_NODE_BOOL) || (!strcmp(tag, "null") && n->type == NS_NODE_NULL);
    NS_FAIL_IF(!agrees, NS_ERR_CONFIG, "%s: '%.60s' is a %s, its tag says !!%s", origin, n->s,
               ns_node_type_name(n->type), tag);
    return NS_OK;
}

/* ---- maps ---- */
typedef struct key_ref {
    const char *key;
    const char *origin; /* of the key */
    size_t index;
} key_ref;

static int by_key(const void *a, const void *b)
{
    const key_ref *x = a, *y = b;
    int d = strcmp(x->key, y->key);
    return d ? d : x->index < y->index ? -1 : 1;
}

/* Sorted, so that a file with 100 000 keys does not take a quadratic time. */
static ns_status check_duplicates(key_ref *keys, size_t n, ns_error *err)
{
    if (n > 1) qsort(keys, n, sizeof *keys, by_key);
    for (size_t i = 1; i < n; i++)
        NS_FAIL_IF(strcmp(keys[i - 1].key, keys[i].key) == 0, NS_ERR_CONFIG,
                   "%s: key '%s' is given twice (first at %s): remove one of them", keys[i].origin, keys[i].key,
                   keys[i - 1].origin);
    return NS_OK;
}

static ns_status merge_missing(reader *r, ns_node *map, const ns_node *from, const char *origin, ns_error *err)
{
    NS_FAIL_IF(from->type != NS_NODE_MAP, NS_ERR_CONFIG, "%s: << needs a map or a list of maps, found a %s", origin,
               ns_node_type_name(from->type));
    for (size_t i = 0; i < from->n; i++) {
        ns_node *copy = NULL;
        if (ns_node_get(map, from->keys[i])) continue;
        CFG_TRY(cfg_copy(r->c, from->items[i], &copy, err));
        CFG_TRY(cfg_append(r->c, map, from->keys[i], copy, err));
    }
    return NS_OK;
}

static ns_status read_node(reader *r, ns_node **out, int depth, ns_error *err);

/* One `key:`; leaves the value's event current. */
static ns_status read_key(reader *r, const char **key, const char **origin, int *is_merge, ns_error *err)
{
    *origin = origin_at(r, r->event.start_mark, err);
    CFG_NEED(*origin);
    NS_FAIL_IF(r->event.type != YAML_SCALAR_EVENT, NS_ERR_UNSUPPORTED, "%s: a key must be a plain word, found a %s",
               *origin, r->event.type == YAML_ALIAS_EVENT ? "alias" : "list or map");
    NS_FAIL_IF(strlen((const char *)r->event.data.scalar.value) != r->event.data.scalar.length, NS_ERR_CONFIG,
               "%s: a key contains a zero byte", *origin);
    *key = ns_arena_strdup(&r->c->arena, (const char *)r->event.data.scalar.value, err);
    CFG_NEED(*key);
    *is_merge = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE && strcmp(*key, "<<") == 0;
    return next_event(r, err);
}

static ns_status apply_merges(reader *r, ns_node *map, ns_node *merge, ns_error *err)
{
    if (merge->type != NS_NODE_LIST) return merge_missing(r, map, merge, merge->origin, err);
    for (size_t i = 0; i < merge->n; i++) CFG_TRY(merge_missing(r, map, merge->items[i], merge->origin, err));
    return NS_OK;
}

static ns_status read_map(reader *r, ns_node *map, int depth, ns_error *err)
{
    key_ref *keys = NULL;
    size_t cap = 0, n = 0;
    ns_node *merge = NULL;
    ns_status st = NS_OK;
    CFG_CHECK(st, next_event(r, err));
    while (r->event.type != YAML_MAPPING_END_EVENT) {
        const char *key = NULL, *origin = NULL;
        int is_merge = 0;
        ns_node *value = NULL;
        CFG_CHECK(st, read_key(r, &key, &origin, &is_merge, err));
        CFG_CHECK(st, read_node(r, &value, depth + 1, err));
        CFG_CHECK(st, ns_grow((void **)&keys, &cap, n + 1, sizeof *keys, "config.keys", err));
        keys[n] = (key_ref){key, origin, n};
        n++;
        if (is_merge)
            merge = value;
        else
            CFG_CHECK(st, cfg_append(r->c, map, key, value, err));
        CFG_CHECK(st, next_event(r, err));
    }
    CFG_CHECK(st, check_duplicates(keys, n, err));
    if (merge) CFG_CHECK(st, apply_merges(r, map, merge, err));
done:
    ns_free(keys);
    return st;
}

/* The node that starts at the current event; its last event is current afterwards. */
static ns_status read_node(reader *r, ns_node **out, int depth, ns_error *err)
{
    NS_FAIL_IF(depth > CFG_MAX_DEPTH, NS_ERR_CONFIG, "%s:%zu: nested deeper than %d levels", r->name,
               r->event.start_mark.line + 1, CFG_MAX_DEPTH);
    const yaml_char_t *name = NULL;
    const char *origin = origin_at(r, r->event.start_mark, err), *tag = NULL, *kept = NULL;
    CFG_NEED(origin);
    if (r->event.type == YAML_ALIAS_EVENT) return read_alias(r, out, depth, err);
    if (r->event.type == YAML_SCALAR_EVENT) name = r->event.data.scalar.anchor;
    if (r->event.type == YAML_SEQUENCE_START_EVENT) name = r->event.data.sequence_start.anchor;
    if (r->event.type == YAML_MAPPING_START_EVENT) name = r->event.data.mapping_start.anchor;
    if (name) {
        kept = ns_arena_strdup(&r->c->arena, (const char *)name, err);
        CFG_NEED(kept);
    }
    if (r->event.type == YAML_SCALAR_EVENT) {
        CFG_TRY(read_scalar(r, out, err));
    } else {
        int is_map = r->event.type == YAML_MAPPING_START_EVENT;
        CFG_TRY(check_tag(r, is_map ? r->event.data.mapping_start.tag : r->event.data.sequence_start.tag, origin, &tag,
                          err));
        NS_FAIL_IF(*tag && strcmp(tag, is_map ? "map" : "seq") != 0, NS_ERR_CONFIG, "%s: a %s cannot have the tag !!%s",
                   origin, is_map ? "map" : "list", tag);
        *out = cfg_new(r->c, is_map ? NS_NODE_MAP : NS_NODE_LIST, origin, err);
        CFG_NEED(*out);
        if (is_map) {
            CFG_TRY(read_map(r, *out, depth, err));
        } else {
            CFG_TRY(next_event(r, err));
            while (r->event.type != YAML_SEQUENCE_END_EVENT) {
                ns_node *item = NULL;
                CFG_TRY(read_node(r, &item, depth + 1, err));
                CFG_TRY(cfg_append(r->c, *out, NULL, item, err));
                CFG_TRY(next_event(r, err));
            }
        }
    }
    return kept ? add_anchor(r, kept, *out, err) : NS_OK;
}

/* The single document of the stream; *out NULL when there is none. */
static ns_status read_document(reader *r, ns_node **out, ns_error *err)
{
    CFG_TRY(next_event(r, err)); /* stream start */
    CFG_TRY(next_event(r, err));
    if (r->event.type == YAML_STREAM_END_EVENT) return NS_OK;
    CFG_TRY(next_event(r, err));
    CFG_TRY(read_node(r, out, 0, err));
    CFG_TRY(next_event(r, err)); /* document end */
    CFG_TRY(next_event(r, err));
    NS_FAIL_IF(r->event.type != YAML_STREAM_END_EVENT, NS_ERR_UNSUPPORTED,
               "%s:%zu: a second YAML document starts here: a configuration is one document", r->name,
               r->event.start_mark.line + 1);
    return NS_OK;
}

static ns_status parse_text(ns_config *c, const char *text, size_t n, const char *name, const char *fixed_origin,
                            ns_node **out, ns_error *err)
{
    reader r = {.c = c, .name = name, .fixed_origin = fixed_origin};
    *out = NULL;
    NS_FAIL_IF(!yaml_parser_initialize(&r.parser), NS_ERR_MEMORY, "out of memory while reading %s", name);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, n);
    ns_status st = read_document(&r, out, err);
    if (r.have_event) yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    return st;
}

ns_status cfg_parse_yaml_value(ns_config *c, const char *text, const char *origin, ns_node **out, ns_error *err)
{
    const char *kept = ns_arena_strdup(&c->arena, origin, err);
    CFG_NEED(kept);
    CFG_TRY(parse_text(c, text, strlen(text), origin, kept, out, err));
    if (!*out) *out = cfg_new(c, NS_NODE_NULL, kept, err);
    CFG_NEED(*out);
    return NS_OK;
}

ns_status ns_config_parse_yaml(ns_config *c, const char *text, size_t n, const char *name, ns_error *err)
{
    ns_node *tree = NULL;
    CFG_TRY(parse_text(c, text, n, name, NULL, &tree, err));
    if (!tree || (tree->type == NS_NODE_NULL && n < 4096)) return NS_OK; /* only comments */
    NS_FAIL_IF(tree->type != NS_NODE_MAP, NS_ERR_CONFIG, "%s: expected 'key: value' lines, found a %s", tree->origin,
               ns_node_type_name(tree->type));
    return cfg_merge(c, c->root, tree, err);
}

ns_status ns_config_load_yaml(ns_config *c, const char *path, ns_error *err)
{
    ns_buf text = {0};
    ns_status st = ns_file_read(&text, path, err);
    if (st == NS_OK) st = ns_config_parse_yaml(c, text.data ? text.data : "", text.len, path, err);
    ns_buf_free(&text);
    return st;
}

/* ---- writing ---- */
typedef struct writer {
    yaml_emitter_t emitter;
    ns_buf *out;
    ns_config *c;
    ns_status st;
    ns_error *err;
} writer;

static int write_bytes(void *data, unsigned char *p, size_t n)
{
    writer *w = data;
    w->st = ns_buf_add(w->out, p, n, w->err);
    return w->st == NS_OK;
}

static ns_status emit(writer *w, yaml_event_t *e, int made)
{
    ns_error *err = w->err;
    NS_FAIL_IF(!made, NS_ERR_MEMORY, "out of memory while writing YAML");
    if (!yaml_emitter_emit(&w->emitter, e)) {
        if (w->st != NS_OK) return w->st;
        NS_FAIL(NS_ERR_INTERNAL, "cannot write YAML: %s", w->emitter.problem ? w->emitter.problem : "?");
    }
    return NS_OK;
}

static ns_status emit_text(writer *w, const char *s, size_t n, int plain_ok)
{
    yaml_event_t e;
    ns_error *err = w->err;
    NS_FAIL_IF(cfg_utf8_valid(s, n) < n, NS_ERR_CONFIG, "the text '%.60s' is not UTF-8 and cannot be written as YAML",
               s);
    int style = plain_ok ? YAML_ANY_SCALAR_STYLE : YAML_SINGLE_QUOTED_SCALAR_STYLE;
    int made = yaml_scalar_event_initialize(&e, NULL, NULL, (const yaml_char_t *)s, (int)n, plain_ok, 1, style);
    return emit(w, &e, made);
}

/* Would this string, written plain, be read back as something else? */
static ns_status reads_as_string(writer *w, const char *s, size_t n, int *yes)
{
    ns_node probe = {.type = NS_NODE_STRING, .s = s, .n = n};
    ns_status st = cfg_type_yaml(w->c, &probe, w->err);
    *yes = probe.type == NS_NODE_STRING && !(n == 2 && memcmp(s, "<<", 2) == 0);
    return st;
}

static ns_status emit_string(writer *w, const char *s, size_t n)
{
    int plain = 0;
    ns_status st = reads_as_string(w, s, n, &plain);
    return st == NS_OK ? emit_text(w, s, n, plain) : st;
}

static ns_status emit_scalar(writer *w, const ns_node *n)
{
    char text[40];
    switch (n->type) {
    case NS_NODE_NULL: return emit_text(w, "null", 4, 1);
    case NS_NODE_BOOL: return n->i ? emit_text(w, "true", 4, 1) : emit_text(w, "false", 5, 1);
    case NS_NODE_INT: snprintf(text, sizeof text, "%lld", (long long)n->i); break;
    case NS_NODE_FLOAT:
        cfg_format_double(text, n->f);
        if (strchr("in", text[text[0] == '-'])) { /* inf, nan: YAML writes a dot */
            char dotted[40];
            snprintf(dotted, sizeof dotted, "%s.%.30s", text[0] == '-' ? "-" : "", text + (text[0] == '-'));
            return emit_text(w, dotted, strlen(dotted), 1);
        }
        break;
    default: return emit_string(w, n->s, n->n);
    }
    return emit_text(w, text, strlen(text), 1);
}

static ns_status emit_node(writer *w, const ns_node *n)
{
    yaml_event_t e;
    if (n->type != NS_NODE_LIST && n->type != NS_NODE_MAP) return emit_scalar(w, n);
    int is_map = n->type == NS_NODE_MAP;
    int made = is_map ? yaml_mapping_start_event_initialize(&e, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE)
                      : yaml_sequence_start_event_initialize(&e, NULL, NULL, 1, YAML_BLOCK_SEQUENCE_STYLE);
    CFG_TRY(emit(w, &e, made));
    for (size_t i = 0; i < n->n; i++) {
        if (is_map) CFG_TRY(emit_string(w, n->keys[i], strlen(n->keys[i])));
        CFG_TRY(emit_node(w, n->items[i]));
    }
    made = is_map ? yaml_mapping_end_event_initialize(&e) : yaml_sequence_end_event_initialize(&e);
    return emit(w, &e, made);
}

static ns_status emit_document(writer *w, const ns_node *root)
{
    yaml_event_t e;
    CFG_TRY(emit(w, &e, yaml_stream_start_event_initialize(&e, YAML_UTF8_ENCODING)));
    CFG_TRY(emit(w, &e, yaml_document_start_event_initialize(&e, NULL, NULL, NULL, 1)));
    CFG_TRY(emit_node(w, root));
    CFG_TRY(emit(w, &e, yaml_document_end_event_initialize(&e, 1)));
    return emit(w, &e, yaml_stream_end_event_initialize(&e));
}

ns_status ns_config_dump(ns_config *c, ns_buf *out, int resolved, ns_error *err)
{
    writer w = {.out = out, .c = c, .err = err};
    const ns_node *root = c->root;
    if (resolved) NS_TRY(ns_config_get(c, "", &root, err), "resolve the configuration");
    NS_FAIL_IF(!yaml_emitter_initialize(&w.emitter), NS_ERR_MEMORY, "out of memory while writing YAML");
    yaml_emitter_set_output(&w.emitter, write_bytes, &w);
    yaml_emitter_set_unicode(&w.emitter, 1);
    yaml_emitter_set_width(&w.emitter, -1); /* never folds: one setting, one line */
    ns_status st = emit_document(&w, root);
    yaml_emitter_delete(&w.emitter);
    return st;
}
