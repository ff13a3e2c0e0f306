/* The schema of a Parquet file as a tree of what a row is made of, and its columns with their levels.
 *
 * Lists: the three-level form (LIST, repeated group, element) and the older ones, by the rules of LogicalTypes.md,
 * "Backward-compatibility rules"; a repeated field outside of a list is a list of required items. Maps: their text keys
 * become keys of an object. A struct with two fields of one name is refused: an object would hold only one of them. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/parquet/parquet_priv.h"

enum {
    L_STRING = 1,
    L_MAP,
    L_LIST,
    L_ENUM,
    L_DECIMAL,
    L_DATE,
    L_TIME,
    L_TIMESTAMP,
    L_INTEGER = 10,
    L_UNKNOWN,
    L_JSON,
    L_BSON,
    L_UUID,
    L_FLOAT16
};
enum {
    C_UTF8,
    C_MAP,
    C_MAP_KEY_VALUE,
    C_LIST,
    C_ENUM,
    C_DECIMAL,
    C_DATE,
    C_TIME_MILLIS,
    C_TIME_MICROS,
    C_TIMESTAMP_MILLIS,
    C_TIMESTAMP_MICROS,
    C_UINT_8,
    C_UINT_16,
    C_UINT_32,
    C_UINT_64,
    C_INT_8,
    C_INT_16,
    C_INT_32,
    C_INT_64,
    C_JSON,
    C_BSON,
    C_INTERVAL
};
enum { MAX_SCALE = 200 };

typedef struct builder {
    const pq_meta *m;
    size_t at; /* next element */
    ns_arena *a;
    pq_column *columns;
    size_t n_columns;
    const char *name;
    ns_buf path;
} builder;

const char *pq_type_name(int type)
{
    static const char *const names[] = {"BOOLEAN", "INT32",  "INT64",      "INT96",
                                        "FLOAT",   "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"};
    return type >= 0 && type < PQ_N_TYPES ? names[type] : "unknown";
}

/* The path so far, for messages: on one line. */
static const char *shown(builder *b)
{
    for (size_t i = 0; i < b->path.len; i++)
        if ((unsigned char)b->path.data[i] < 32) b->path.data[i] = '?';
    return b->path.len ? b->path.data : "(root)";
}

#define SCHEMA_FAIL_IF(cond, code, ...)                                                     \
    do {                                                                                    \
        if (cond) {                                                                         \
            char what_[300];                                                                \
            snprintf(what_, sizeof what_, __VA_ARGS__);                                     \
            NS_FAIL(code, "%.120s: schema, column '%.120s': %s", b->name, shown(b), what_); \
        }                                                                                   \
    } while (0)

/* ---- leaves ---- */
/* What the annotation says of a leaf; -1: nothing, -2: it is not read. The converted types are the older names. */
static int annotation(const pq_element *e, pq_column *c)
{
    int64_t k = e->converted;
    c->unit = (int)e->unit;
    c->utc = e->utc == 1;
    switch (e->logical) {
    case -1: break;
    case L_STRING:
    case L_ENUM: return PQ_AS_TEXT;
    case L_DECIMAL: return PQ_AS_DECIMAL;
    case L_DATE: return PQ_AS_DATE;
    case L_TIME: return PQ_AS_TIME;
    case L_TIMESTAMP: return PQ_AS_TIMESTAMP;
    case L_INTEGER: return e->is_signed == 0 ? PQ_AS_UINT : PQ_AS_INT;
    case L_UNKNOWN: return PQ_AS_NULL;
    case L_JSON: return PQ_AS_JSON;
    case L_UUID: return PQ_AS_UUID;
    case L_FLOAT16: return PQ_AS_HALF;
    default: return -2;
    }
    if (k == C_UTF8 || k == C_ENUM) return PQ_AS_TEXT;
    if (k == C_DECIMAL) return PQ_AS_DECIMAL;
    if (k == C_DATE) return PQ_AS_DATE;
    if (k >= C_UINT_8 && k <= C_UINT_64) return PQ_AS_UINT;
    if (k >= C_INT_8 && k <= C_INT_64) return PQ_AS_INT;
    if (k == C_JSON) return PQ_AS_JSON;
    c->unit = k == C_TIME_MILLIS || k == C_TIMESTAMP_MILLIS ? PQ_MILLI : PQ_MICRO;
    if (k == C_TIME_MILLIS || k == C_TIME_MICROS) return PQ_AS_TIME;
    c->utc = 1; /* the old types of timestamp are in UTC */
    if (k == C_TIMESTAMP_MILLIS || k == C_TIMESTAMP_MICROS) return PQ_AS_TIMESTAMP;
    return k == -1 ? -1 : -2;
}

/* Can a column of this type mean that? */
static int goes_with(int meaning, const pq_column *c)
{
    int type = c->type, bytes = type == PQ_BYTE_ARRAY, number = type == PQ_INT32 || type == PQ_INT64;
    switch (meaning) {
    case PQ_AS_TEXT:
    case PQ_AS_JSON: return bytes;
    case PQ_AS_DECIMAL: return number || bytes || (type == PQ_FIXED && c->width <= 64);
    case PQ_AS_DATE: return type == PQ_INT32;
    case PQ_AS_TIME: return type == (c->unit == PQ_MILLI ? PQ_INT32 : PQ_INT64) && c->unit >= 0 && c->unit <= PQ_NANO;
    case PQ_AS_TIMESTAMP: return type == PQ_INT64 && c->unit >= 0 && c->unit <= PQ_NANO;
    case PQ_AS_INT:
    case PQ_AS_UINT: return number;
    case PQ_AS_UUID: return type == PQ_FIXED && c->width == 16;
    case PQ_AS_HALF: return type == PQ_FIXED && c->width == 2;
    default: return 1;
    }
}

static ns_status leaf(builder *b, pq_node *n, const pq_element *e, int def, int rep, ns_error *err)
{
    static const uint8_t width[] = {0, 4, 8, 12, 4, 8, 0, 0};
    static const pq_meaning plain[] = {PQ_AS_BOOL,  PQ_AS_INT,   PQ_AS_INT,   PQ_AS_INT96,
                                       PQ_AS_FLOAT, PQ_AS_FLOAT, PQ_AS_BYTES, PQ_AS_BYTES};
    pq_column *c = &b->columns[b->n_columns++];
    SCHEMA_FAIL_IF(e->type < 0 || e->type >= PQ_N_TYPES, NS_ERR_INPUT,
                   "found type %" PRId64 ", expected one from 0 to %d: the file is damaged", e->type, PQ_N_TYPES - 1);
    c->type = (int)e->type;
    c->width = width[c->type];
    if (c->type == PQ_FIXED) {
        SCHEMA_FAIL_IF(e->length <= 0 || e->length > INT32_MAX, NS_ERR_INPUT,
                       "found values of %" PRId64 " bytes, expected at least one", e->length);
        c->width = (size_t)e->length;
    }
    int meaning = annotation(e, c);
    SCHEMA_FAIL_IF(meaning == -2, NS_ERR_UNSUPPORTED,
                   "its logical type (%s %" PRId64 ") is not read: leave the column out, or write it as text",
                   e->logical >= 0 ? "number" : "converted type", e->logical >= 0 ? e->logical : e->converted);
    SCHEMA_FAIL_IF(meaning >= 0 && !goes_with(meaning, c), NS_ERR_INPUT,
                   "found a logical type that %s values of %zu bytes cannot have: the file is damaged",
                   pq_type_name(c->type), c->width);
    c->as = meaning >= 0 ? (pq_meaning)meaning : plain[c->type];
    SCHEMA_FAIL_IF(c->as == PQ_AS_DECIMAL && (e->scale > MAX_SCALE || e->scale < -1), NS_ERR_UNSUPPORTED,
                   "found %" PRId64 " decimals, expected 0 to %d", e->scale, MAX_SCALE);
    c->scale = e->scale > 0 ? (int)e->scale : 0;
    c->max_def = (uint8_t)def;
    c->max_rep = (uint8_t)rep;
    c->path = ns_arena_strndup(b->a, b->path.data, b->path.len, err);
    c->values.type = c->type;
    c->values.width = c->width;
    n->kind = PQ_LEAF;
    return c->path ? NS_OK : NS_ERR_MEMORY;
}

/* ---- groups ---- */
static ns_status value(builder *b, pq_node *n, const pq_element *e, int def, int rep, int depth, ns_error *err);

static ns_status children(builder *b, pq_node *n, size_t count, ns_error *err)
{
    n->n = count;
    n->child = ns_arena_alloc(b->a, count * sizeof *n->child, err);
    return n->child ? NS_OK : NS_ERR_MEMORY;
}

static ns_status take(builder *b, const pq_element **e, size_t *path_len, ns_error *err)
{
    SCHEMA_FAIL_IF(b->at == b->m->n_elements, NS_ERR_INPUT,
                   "found %zu schema elements, expected more fields: the file is damaged", b->m->n_elements);
    *e = &b->m->element[b->at++];
    *path_len = b->path.len;
    if (b->path.len) NS_TRY(ns_buf_addc(&b->path, '.', err), "%s", "");
    NS_TRY(ns_buf_add(&b->path, (*e)->name.p, (*e)->name.n, err), "%s", "");
    SCHEMA_FAIL_IF(memchr((*e)->name.p, 0, (*e)->name.n), NS_ERR_INPUT, "its name holds a zero byte");
    SCHEMA_FAIL_IF((*e)->repetition < 0 || (*e)->repetition > PQ_REPEATED, NS_ERR_INPUT,
                   "found repetition %" PRId64 ", expected 0, 1 or 2: the file is damaged", (*e)->repetition);
    return NS_OK;
}

static void leave(builder *b, size_t path_len)
{
    b->path.len = path_len;
    if (b->path.data) b->path.data[path_len] = 0;
}

/* A field with its own repetition: REQUIRED, OPTIONAL, or REPEATED outside of a list. */
static ns_status any_field(builder *b, pq_node *n, const pq_element *e, int def, int rep, int depth, ns_error *err)
{
    if (e->repetition != PQ_REPEATED) {
        n->optional = e->repetition == PQ_OPTIONAL;
        return value(b, n, e, def + n->optional, rep, depth, err);
    }
    n->kind = PQ_LIST;
    n->def = (uint8_t)def;
    n->item_def = (uint8_t)(def + 1);
    n->item_rep = (uint8_t)(rep + 1);
    n->first_leaf = b->n_columns;
    NS_TRY(children(b, n, 1, err), "schema");
    NS_TRY(value(b, n->child, e, def + 1, rep + 1, depth, err), "%s", "");
    n->n_leaves = b->n_columns - n->first_leaf;
    return NS_OK;
}

static ns_status fields(builder *b, pq_node *n, size_t count, int def, int rep, int depth, ns_error *err)
{
    const pq_element *e;
    size_t len;
    SCHEMA_FAIL_IF(count > b->m->n_elements - b->at, NS_ERR_INPUT,
                   "found %zu fields where %zu schema elements are left: the file is damaged", count,
                   b->m->n_elements - b->at);
    NS_TRY(children(b, n, count, err), "schema");
    for (size_t i = 0; i < count; i++) {
        ns_buf key = {0};
        NS_TRY(take(b, &e, &len, err), "%s", "");
        ns_status st = ns_json_write_str(&key, e->name, NS_JSON_UTF8, NULL);
        if (st == NS_OK) st = ns_buf_adds(&key, ": ", NULL);
        n->child[i].key = (ns_str){st == NS_OK ? ns_arena_strndup(b->a, key.data, key.len, err) : NULL, key.len};
        ns_buf_free(&key);
        SCHEMA_FAIL_IF(st == NS_ERR_INPUT, NS_ERR_INPUT, "its name is not UTF-8");
        NS_FAIL_IF(!n->child[i].key.p, NS_ERR_MEMORY, "out of memory for the schema of %s", b->name);
        for (size_t k = 0; k < i; k++)
            SCHEMA_FAIL_IF(n->child[k].key.n == n->child[i].key.n &&
                               !memcmp(n->child[k].key.p, n->child[i].key.p, n->child[k].key.n),
                           NS_ERR_INPUT, "found two fields of this name, expected different ones: rename one");
        NS_TRY(any_field(b, &n->child[i], e, def, rep, depth + 1, err), "%s", "");
        leave(b, len);
    }
    return NS_OK;
}

/* Is the repeated field of a LIST the item itself (two levels), not a wrapper around it? */
static int is_item(const builder *b, const pq_element *r, const pq_element *outer)
{
    static const char tuple[] = "_tuple";
    size_t n = outer->name.n;
    if (r->n_children != 1) return 1;
    if (r->logical == L_LIST || r->logical == L_MAP || r->converted == C_LIST || r->converted == C_MAP) return 1;
    if (b->at < b->m->n_elements && b->m->element[b->at].repetition == PQ_REPEATED) return 1;
    return ns_str_eq(r->name, "array") || (r->name.n == n + sizeof tuple - 1 && !memcmp(r->name.p, outer->name.p, n) &&
                                           !memcmp(r->name.p + n, tuple, sizeof tuple - 1));
}

static ns_status list_items(builder *b, pq_node *n, const pq_element *outer, int def, int rep, int depth, ns_error *err)
{
    const pq_element *r, *e;
    size_t len, inner_len;
    n->kind = PQ_LIST;
    SCHEMA_FAIL_IF(outer->n_children != 1, NS_ERR_INPUT,
                   "found a list of %" PRId64 " fields, expected one repeated field", outer->n_children);
    NS_TRY(take(b, &r, &len, err), "%s", "");
    SCHEMA_FAIL_IF(r->repetition != PQ_REPEATED, NS_ERR_INPUT, "the field of a list is not repeated");
    n->item_def = (uint8_t)(def + 1);
    n->item_rep = (uint8_t)(rep + 1);
    NS_TRY(children(b, n, 1, err), "schema");
    if (is_item(b, r, outer)) {
        NS_TRY(value(b, n->child, r, def + 1, rep + 1, depth + 1, err), "%s", "");
    } else {
        NS_TRY(take(b, &e, &inner_len, err), "%s", "");
        NS_TRY(any_field(b, n->child, e, def + 1, rep + 1, depth + 2, err), "%s", "");
    }
    leave(b, len);
    return NS_OK;
}

static ns_status map_items(builder *b, pq_node *n, const pq_element *outer, int def, int rep, int depth, ns_error *err)
{
    const pq_element *r, *e;
    size_t len, inner_len;
    SCHEMA_FAIL_IF(outer->n_children != 1, NS_ERR_INPUT,
                   "found a map of %" PRId64 " fields, expected one repeated group", outer->n_children);
    NS_TRY(take(b, &r, &len, err), "%s", "");
    SCHEMA_FAIL_IF(r->repetition != PQ_REPEATED || r->n_children != 2, NS_ERR_INPUT,
                   "found a map without a repeated group of key and value");
    n->item_def = (uint8_t)(def + 1);
    n->item_rep = (uint8_t)(rep + 1);
    NS_TRY(children(b, n, 2, err), "schema");
    for (int i = 0; i < 2; i++) {
        NS_TRY(take(b, &e, &inner_len, err), "%s", "");
        NS_TRY(any_field(b, &n->child[i], e, def + 1, rep + 1, depth + 2, err), "%s", "");
        leave(b, inner_len);
    }
    const pq_column *key = &b->columns[n->child[0].first_leaf];
    n->kind = n->child[0].kind == PQ_LEAF && (key->as == PQ_AS_TEXT || key->as == PQ_AS_BYTES) ? PQ_MAP : PQ_PAIRS;
    leave(b, len);
    return NS_OK;
}

/* What a field holds, its own repetition being in def and rep already. */
static ns_status value(builder *b, pq_node *n, const pq_element *e, int def, int rep, int depth, ns_error *err)
{
    SCHEMA_FAIL_IF(depth > PQ_MAX_DEPTH, NS_ERR_UNSUPPORTED, "found fields nested more than %d deep", PQ_MAX_DEPTH);
    n->def = (uint8_t)def;
    n->first_leaf = b->n_columns;
    if (e->n_children < 0 || (e->n_children == 0 && e->type >= 0)) {
        NS_TRY(leaf(b, n, e, def, rep, err), "%s", "");
    } else {
        SCHEMA_FAIL_IF(e->n_children == 0, NS_ERR_INPUT, "found a struct without fields");
        SCHEMA_FAIL_IF(e->logical > L_LIST, NS_ERR_UNSUPPORTED,
                       "the logical type of this struct (number %" PRId64 ") is not read: leave the column out",
                       e->logical);
        if (e->logical == L_LIST || (e->logical < 0 && e->converted == C_LIST))
            NS_TRY(list_items(b, n, e, def, rep, depth, err), "%s", "");
        else if (e->logical == L_MAP ||
                 (e->logical < 0 && (e->converted == C_MAP || (e->converted == C_MAP_KEY_VALUE && e->n_children == 1))))
            NS_TRY(map_items(b, n, e, def, rep, depth, err), "%s", "");
        else {
            n->kind = PQ_STRUCT;
            NS_TRY(fields(b, n, (size_t)e->n_children, def, rep, depth, err), "%s", "");
        }
    }
    n->n_leaves = b->n_columns - n->first_leaf;
    return NS_OK;
}

ns_status pq_schema_build(pq_node *root, pq_column **columns, size_t *n_columns, const pq_meta *m, ns_arena *a,
                          const char *name, ns_error *err)
{
    builder builder_ = {.m = m, .at = 1, .a = a, .name = name}, *b = &builder_;
    const pq_element *e = &m->element[0];
    ns_status st;
    *root = (pq_node){.kind = PQ_STRUCT};
    b->columns = ns_arena_alloc(a, m->n_elements * sizeof *b->columns, err);
    NS_FAIL_IF(!b->columns, NS_ERR_MEMORY, "out of memory for the columns of %s", name);
    NS_CHECK(st, ns_buf_reserve(&b->path, 1, err), "schema");
    NS_BAIL_IF(st, e->n_children <= 0, NS_ERR_INPUT, "%s: schema: found no columns, expected at least one", name);
    NS_CHECK(st, fields(b, root, (size_t)e->n_children, 0, 0, 0, err), "schema");
    NS_BAIL_IF(st, b->at != m->n_elements, NS_ERR_INPUT,
               "%s: schema: found %zu elements, expected the %zu that its groups count: the file is damaged", name,
               m->n_elements, b->at);
    root->n_leaves = b->n_columns;
    *columns = b->columns;
    *n_columns = b->n_columns;
done:
    ns_buf_free(&b->path);
    return st;
}
