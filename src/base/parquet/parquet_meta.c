/* Directory and page headers of a Parquet file: Thrift structs in the compact protocol.
 *
 * Nothing read here is trusted: every count is held against the bytes that are left, nesting has a limit, unknown fields
 * are skipped, and a known field of another type than the format gives it is an error. The first error stays in the
 * reader and ends every loop. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/parquet/parquet_priv.h"

enum { T_TRUE = 1, T_FALSE, T_BYTE, T_I16, T_I32, T_I64, T_DOUBLE, T_BINARY, T_LIST, T_SET, T_MAP, T_STRUCT, T_UUID };
enum { MAX_NESTING = 40 };

typedef struct thrift {
    const uint8_t *begin, *p, *end;
    const char *wrong; /* NULL: all is well */
    size_t wrong_at;
    int cut; /* the bytes ended */
} thrift;

static void bad(thrift *t, const char *why)
{
    if (!t->wrong) {
        t->wrong = why;
        t->wrong_at = (size_t)(t->p - t->begin);
    }
    t->p = t->end;
}

static int need(thrift *t, uint64_t n)
{
    if ((uint64_t)(t->end - t->p) >= n) return 1;
    if (!t->wrong) t->cut = 1;
    bad(t, "it ends within a field");
    return 0;
}

static uint64_t varint(thrift *t)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (!need(t, 1)) return 0;
        uint8_t b = *t->p++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) return v;
    }
    bad(t, "a number has more than 64 bits");
    return 0;
}

static int64_t zigzag(thrift *t)
{
    uint64_t v = varint(t);
    return (int64_t)(v >> 1 ^ (0 - (v & 1)));
}

static ns_str binary(thrift *t)
{
    uint64_t n = varint(t);
    if (!need(t, n)) return (ns_str){NULL, 0};
    ns_str s = {(const char *)t->p, (size_t)n};
    t->p += n;
    return s;
}

/* The next field of a struct; *id: number of the one before. 0: the struct ends, or an error. */
static int field(thrift *t, int *id, int *type)
{
    if (t->wrong || !need(t, 1)) return 0;
    uint8_t b = *t->p++;
    if (b == 0) return 0;
    int64_t next = b >> 4 ? *id + (b >> 4) : zigzag(t);
    if (next < INT16_MIN || next > INT16_MAX) bad(t, "a field's number has more than 16 bits");
    *id = (int)next;
    *type = b & 15;
    return !t->wrong;
}

/* Items of a list; each takes at least a byte. */
static size_t list(thrift *t, int *type)
{
    if (!need(t, 1)) return 0;
    uint8_t b = *t->p++;
    uint64_t n = b >> 4 == 15 ? varint(t) : b >> 4;
    *type = b & 15;
    if (n > (uint64_t)(t->end - t->p)) {
        need(t, n);
        return 0;
    }
    return (size_t)n;
}

static void skip(thrift *t, int type, int in_list, int depth)
{
    int id = 0, item, value;
    if (depth > MAX_NESTING) bad(t, "its fields are nested too deeply");
    if (t->wrong) return;
    switch (type) {
    case T_TRUE:
    case T_FALSE:
        if (in_list && need(t, 1)) t->p++;
        return;
    case T_BYTE:
        if (need(t, 1)) t->p++;
        return;
    case T_I16:
    case T_I32:
    case T_I64: varint(t); return;
    case T_DOUBLE:
        if (need(t, 8)) t->p += 8;
        return;
    case T_BINARY: binary(t); return;
    case T_LIST:
    case T_SET:
        for (size_t n = list(t, &item); n > 0 && !t->wrong; n--) skip(t, item, 1, depth + 1);
        return;
    case T_MAP: {
        uint64_t n = varint(t);
        if (n == 0 || !need(t, 1)) return;
        item = *t->p >> 4, value = *t->p & 15;
        t->p++;
        for (; n > 0 && !t->wrong; n--) {
            skip(t, item, 1, depth + 1);
            skip(t, value, 1, depth + 1);
        }
        return;
    }
    case T_STRUCT:
        while (field(t, &id, &item)) skip(t, item, 0, depth + 1);
        return;
    case T_UUID:
        if (need(t, 16)) t->p += 16;
        return;
    default: bad(t, "a field has a type that Thrift does not know");
    }
}

static int64_t number(thrift *t, int type)
{
    if (type == T_BYTE) return need(t, 1) ? (int8_t)*t->p++ : 0;
    if (type >= T_I16 && type <= T_I64) return zigzag(t);
    bad(t, "a field that should be a number is none");
    return 0;
}

static ns_str text(thrift *t, int type)
{
    if (type == T_BINARY) return binary(t);
    bad(t, "a field that should be text is none");
    return (ns_str){NULL, 0};
}

static int want(thrift *t, int type, int wanted)
{
    if (type != wanted)
        bad(t, wanted == T_LIST ? "a field that should be a list is none" : "a field that should be a struct is none");
    return !t->wrong;
}

/* ---- schema ---- */
static int64_t time_unit(thrift *t, int type)
{
    int id = 0, inner;
    int64_t unit = -1;
    if (!want(t, type, T_STRUCT)) return -1;
    while (field(t, &id, &inner)) {
        if (unit >= 0) bad(t, "a unit of time is given twice");
        unit = id - 1;
        skip(t, inner, 0, 0);
    }
    return unit;
}

static void logical_type(thrift *t, int type, pq_element *e)
{
    int id = 0, inner, k, inner_type;
    if (!want(t, type, T_STRUCT)) return;
    while (field(t, &id, &inner)) {
        if (e->logical >= 0) bad(t, "a column has two logical types");
        e->logical = id;
        if (!want(t, inner, T_STRUCT)) return;
        for (k = 0; field(t, &k, &inner_type);) {
            if (id == 5 && k == 1) {
                e->scale = number(t, inner_type);
            } else if (id == 5 && k == 2) {
                e->precision = number(t, inner_type);
            } else if ((id == 7 || id == 8) && k == 1) {
                e->utc = inner_type == T_TRUE;
            } else if ((id == 7 || id == 8) && k == 2) {
                e->unit = time_unit(t, inner_type);
            } else if (id == 10 && k == 1) {
                e->bits = number(t, inner_type);
            } else if (id == 10 && k == 2) {
                e->is_signed = inner_type == T_TRUE;
            } else {
                skip(t, inner_type, 0, 0);
            }
        }
    }
}

static void element(thrift *t, pq_element *e)
{
    int id = 0, type;
    memset(e, -1, sizeof *e); /* every number: -1 */
    e->name = (ns_str){NULL, 0};
    while (field(t, &id, &type)) switch (id) {
        case 1: e->type = number(t, type); break;
        case 2: e->length = number(t, type); break;
        case 3: e->repetition = number(t, type); break;
        case 4: e->name = text(t, type); break;
        case 5: e->n_children = number(t, type); break;
        case 6: e->converted = number(t, type); break;
        case 7: e->scale = number(t, type); break;
        case 8: e->precision = number(t, type); break;
        case 10: logical_type(t, type, e); break;
        default: skip(t, type, 0, 0);
        }
    if (!t->wrong && !e->name.p) bad(t, "a schema element has no name");
}

/* ---- row groups ---- */
static void column_meta(thrift *t, pq_chunk *c)
{
    int id = 0, type, item;
    c->has_meta = 1;
    while (field(t, &id, &type)) switch (id) {
        case 1: c->type = number(t, type); break;
        case 3:
            if (!want(t, type, T_LIST)) return;
            c->n_path = (int64_t)list(t, &item);
            if (c->n_path && item != T_BINARY) bad(t, "the path of a column is not of texts");
            c->path.p = (const char *)t->p;
            for (int64_t i = 0; i < c->n_path && !t->wrong; i++) binary(t);
            c->path.n = (size_t)((const char *)t->p - c->path.p);
            break;
        case 4: c->codec = number(t, type); break;
        case 5: c->n_values = number(t, type); break;
        case 7: c->packed_bytes = number(t, type); break;
        case 9: c->data_at = number(t, type); break;
        case 11: c->dict_at = number(t, type); break;
        default: skip(t, type, 0, 0);
        }
}

static void chunk(thrift *t, pq_chunk *c)
{
    int id = 0, type;
    *c = (pq_chunk){.type = -1, .codec = -1, .n_values = -1, .packed_bytes = -1, .data_at = -1, .dict_at = -1};
    while (field(t, &id, &type)) switch (id) {
        case 1: c->elsewhere = text(t, type).n > 0; break;
        case 3:
            if (want(t, type, T_STRUCT)) column_meta(t, c);
            break;
        case 8:
        case 9:
            c->encrypted = 1;
            skip(t, type, 0, 0);
            break;
        default: skip(t, type, 0, 0);
        }
}

static ns_status group(thrift *t, pq_group *g, ns_arena *a, ns_error *err)
{
    int id = 0, type, item;
    g->n_rows = -1;
    while (field(t, &id, &type)) switch (id) {
        case 1:
            if (!want(t, type, T_LIST)) break;
            if (g->chunk) bad(t, "a row group has two lists of columns");
            g->n_chunks = list(t, &item);
            if (g->n_chunks == 0 || !want(t, item, T_STRUCT)) break;
            g->chunk = ns_arena_alloc(a, g->n_chunks * sizeof *g->chunk, err);
            if (!g->chunk) return NS_ERR_MEMORY;
            for (size_t i = 0; i < g->n_chunks && !t->wrong; i++) chunk(t, &g->chunk[i]);
            break;
        case 3: g->n_rows = number(t, type); break;
        default: skip(t, type, 0, 0);
        }
    return NS_OK;
}

static ns_status lists(thrift *t, pq_meta *m, int id, int type, ns_arena *a, ns_error *err)
{
    int item;
    if (!want(t, type, T_LIST)) return NS_OK;
    size_t n = list(t, &item);
    if (n == 0 || !want(t, item, T_STRUCT)) return NS_OK;
    if (id == 2 ? m->element != NULL : m->group != NULL) bad(t, "a list is given twice");
    if (t->wrong) return NS_OK;
    if (id == 2) {
        m->element = ns_arena_alloc(a, n * sizeof *m->element, err);
        if (!m->element) return NS_ERR_MEMORY;
        m->n_elements = n;
        for (size_t i = 0; i < n && !t->wrong; i++) element(t, &m->element[i]);
        return NS_OK;
    }
    m->group = ns_arena_alloc(a, n * sizeof *m->group, err);
    if (!m->group) return NS_ERR_MEMORY;
    m->n_groups = n;
    for (size_t i = 0; i < n && !t->wrong; i++) NS_TRY(group(t, &m->group[i], a, err), "row group %zu", i + 1);
    return NS_OK;
}

ns_status pq_meta_parse(pq_meta *m, ns_arena *a, const uint8_t *p, size_t n, const char *name, uint64_t at,
                        ns_error *err)
{
    thrift t = {.begin = p, .p = p, .end = p + n};
    int id = 0, type;
    *m = (pq_meta){.n_rows = -1};
    while (field(&t, &id, &type)) switch (id) {
        case 2:
        case 4: NS_TRY(lists(&t, m, id, type, a, err), "%s", name); break;
        case 3: m->n_rows = number(&t, type); break;
        case 8:
            m->encrypted = 1;
            skip(&t, type, 0, 0);
            break;
        default: skip(&t, type, 0, 0);
        }
    NS_FAIL_IF(t.wrong, NS_ERR_INPUT,
               "%s: byte %" PRIu64 ": found a damaged directory at the end of the file (%s): copy the file again", name,
               at + t.wrong_at, t.wrong);
    NS_FAIL_IF(!m->n_elements || m->n_rows < 0, NS_ERR_INPUT,
               "%s: byte %" PRIu64 ": the directory has no %s, expected a complete one: write the file again", name, at,
               m->n_elements ? "number of rows" : "schema");
    return NS_OK;
}

int pq_path_is(ns_str path, int64_t n, const char *want_text)
{
    if (!path.p) return 0; /* the file has none */
    thrift t = {(const uint8_t *)path.p, (const uint8_t *)path.p, (const uint8_t *)path.p + path.n, NULL, 0, 0};
    const char *w = want_text;
    for (int64_t i = 0; i < n; i++) {
        ns_str s = binary(&t);
        if (t.wrong || (i && *w++ != '.') || strncmp(w, s.p, s.n)) return 0;
        w += s.n;
    }
    return *w == 0;
}

/* ---- pages ---- */
static void data_page(thrift *t, pq_page *h, int id_of_page)
{
    int id = 0, type, v2 = id_of_page == 8;
    h->has_part = 1;
    if (v2) h->def_encoding = h->rep_encoding = PQ_RLE;
    while (field(t, &id, &type)) {
        if (id == 1)
            h->n_values = number(t, type);
        else if (id == (v2 ? 4 : 2)) /* also the dictionary's */
            h->encoding = number(t, type);
        else if (v2 && id == 5)
            h->def_bytes = number(t, type);
        else if (v2 && id == 6)
            h->rep_bytes = number(t, type);
        else if (v2 && id == 7)
            h->is_packed = type == T_TRUE;
        else if (id_of_page == 5 && id == 3)
            h->def_encoding = number(t, type);
        else if (id_of_page == 5 && id == 4)
            h->rep_encoding = number(t, type);
        else
            skip(t, type, 0, 0);
    }
}

int pq_page_parse(pq_page *h, const uint8_t *p, size_t n, size_t *used, const char **why)
{
    static const int part_of[] = {5, 6, 7, 8}; /* field of each type of page */
    thrift t = {.begin = p, .p = p, .end = p + n};
    int id = 0, type;
    int64_t crc = 0;
    *h = (pq_page){.type = -1,
                   .raw_size = -1,
                   .packed_size = -1,
                   .n_values = -1,
                   .encoding = -1,
                   .def_encoding = -1,
                   .rep_encoding = -1,
                   .is_packed = 1};
    while (field(&t, &id, &type)) switch (id) {
        case 1: h->type = number(&t, type); break;
        case 2: h->raw_size = number(&t, type); break;
        case 3: h->packed_size = number(&t, type); break;
        case 4:
            crc = number(&t, type);
            h->crc = (uint32_t)crc;
            h->has_crc = 1;
            break;
        case 5:
        case 7:
        case 8:
            if (h->type < 0 || h->type > 3 || part_of[h->type] != id)
                bad(&t, "its type and its fields do not go together");
            if (want(&t, type, T_STRUCT)) data_page(&t, h, id);
            break;
        default: skip(&t, type, 0, 0);
        }
    *why = t.wrong;
    *used = (size_t)(t.p - t.begin);
    if (t.wrong) return t.cut ? 1 : -1;
    if (h->type < 0 || h->raw_size < 0 || h->packed_size < 0 || h->raw_size > INT32_MAX || h->packed_size > INT32_MAX)
        *why = "no type or no possible size";
    else if (h->type != PQ_INDEX && (!h->has_part || h->n_values < 0 || h->n_values > INT32_MAX))
        *why = "no possible number of values";
    return *why ? -1 : 0;
}
