/* Blocks of rows, the parallel row map, values and files: what every processor of prepare uses. */
#include <inttypes.h>
#include <libgen.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/sys.h"
#include "data/prepare.h"
#include "data/prepare_internal.h"

enum { TILE = 64, TILES_A_ROUND = 128, MOST_KEPT = 1 << 20 };

void ns_block_free(ns_block *b)
{
    ns_buf_free(&b->text);
    ns_free(b->line);
    *b = (ns_block){0};
}

const char *ns_line_where(const ns_prepare *p, const ns_line *l, char *buf, size_t n)
{
    const char *name = l->file >= 0 && (size_t)l->file < p->n_files ? p->file[l->file] : "row ";
    size_t len = strlen(name), k = 0;
    char digits[24];
    uint64_t v = (uint64_t)l->line;
    if (len + sizeof digits > n) len = n - sizeof digits;
    memcpy(buf, name, len); /* once a row: no printf */
    if (l->file >= 0) buf[len++] = ':';
    do digits[k++] = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    while (k > 0) buf[len++] = digits[--k];
    buf[len] = 0;
    return buf;
}

size_t ns_prepare_block_bytes(const ns_prepare *p)
{
    size_t n = p->memory / 64, most = (size_t)(ns_threads_count(p->pool) + 1) << 20;
    if (most > 16 << 20) most = 16 << 20;
    return n < 1 ? 1 : n < most ? n : most;
}

/* ---- map ---- */
typedef struct ns_tile {
    ns_buf text;
    ns_line line[TILE];
    int n;
    ns_arena arena;
    ns_error err;
} tile;

typedef struct mapper {
    const ns_block *in;
    const ns_prepare *p;
    ns_row_fn fn;
    void *arg;
    int flags;
    tile *tiles; /* of the run: their memory is used again */
    size_t first_line;
    atomic_int first_bad;
} mapper;

static void run_tile(void *arg, int index, int worker)
{
    (void)worker;
    mapper *m = arg;
    tile *t = &m->tiles[index];
    size_t from = m->first_line + (size_t)index * TILE, to = from + TILE < m->in->n ? from + TILE : m->in->n;
    if (index > atomic_load(&m->first_bad)) return;
    ns_status st = NS_OK;
    ns_arena *a = &t->arena;
    char where[4200];
    size_t in_bytes = 0; /* rows stay about as long as they are: no growing by steps, each of which copies */
    for (size_t i = from; i < to; i++) in_bytes += m->in->line[i].n;
    st = ns_buf_reserve(&t->text, in_bytes + in_bytes / 8, &t->err);
    for (size_t i = from; st == NS_OK && i < to; i++) {
        const ns_line *in = &m->in->line[i];
        ns_line note = *in;
        size_t begin = t->text.len;
        ns_arena_mark mark = ns_arena_save(a);
        st = m->fn(m->arg, in, ns_line_where(m->p, in, where, sizeof where), a, &t->text, &note, &t->err);
        ns_arena_rollback(a, mark);
        note.n = t->text.len - begin;
        note.p = NULL;
        if (st == NS_OK && (note.n || m->flags & NS_MAP_KEEP_DROPPED)) t->line[t->n++] = note;
    }
    if (in_bytes > MOST_KEPT) ns_arena_free(a);
    if (st != NS_OK) {
        int seen = atomic_load(&m->first_bad);
        while (index < seen && !atomic_compare_exchange_weak(&m->first_bad, &seen, index)) {
        }
    }
}

static ns_status join(ns_block *out, tile *t, ns_error *err)
{
    NS_TRY(ns_grow((void **)&out->line, &out->cap, out->n + (size_t)t->n, sizeof *out->line, "prepare.lines", err),
           "rows");
    if (t->text.len) NS_TRY(ns_buf_add(&out->text, t->text.data, t->text.len, err), "rows");
    if (t->n) memcpy(out->line + out->n, t->line, (size_t)t->n * sizeof *t->line);
    out->n += (size_t)t->n;
    if (t->text.cap > MOST_KEPT) ns_buf_free(&t->text);
    ns_buf_clear(&t->text);
    t->n = 0;
    return NS_OK;
}

static ns_status make_tiles(ns_prepare *p, ns_error *err)
{
    if (p->tiles) return NS_OK;
    NS_TRY(ns_alloc((void **)&p->tiles, TILES_A_ROUND * sizeof *p->tiles, "prepare.tiles", err), "rows");
    for (int i = 0; i < TILES_A_ROUND; i++) p->tiles[i].arena = (ns_arena)NS_ARENA_INIT("prepare.row");
    return NS_OK;
}

void ns_prepare_free_tiles(ns_prepare *p)
{
    for (int i = 0; p->tiles && i < TILES_A_ROUND; i++) {
        ns_buf_free(&p->tiles[i].text);
        ns_arena_free(&p->tiles[i].arena);
    }
    ns_free(p->tiles);
    p->tiles = NULL;
}

ns_status ns_block_map(ns_block *out, const ns_block *in, ns_prepare *p, int flags, ns_row_fn fn, void *arg,
                       ns_error *err)
{
    mapper m = {.in = in, .p = p, .fn = fn, .arg = arg, .flags = flags};
    ns_status st = NS_OK;
    int moved = 0;
    NS_TRY(make_tiles(p, err), "rows");
    m.tiles = p->tiles;
    for (; m.first_line < in->n; m.first_line += (size_t)TILE * TILES_A_ROUND) {
        size_t left = (in->n - m.first_line + TILE - 1) / TILE;
        int n = (int)(left < TILES_A_ROUND ? left : TILES_A_ROUND);
        atomic_store(&m.first_bad, n);
        ns_parallel_for(p->pool, n, run_tile, &m);
        int bad = atomic_load(&m.first_bad);
        if (bad < n) {
            if (err) *err = m.tiles[bad].err;
            st = m.tiles[bad].err.code;
            goto done;
        }
        size_t bytes = 1;
        for (int i = 0; i < n; i++) bytes += m.tiles[i].text.len;
        moved = n == 1 && !out->n && bytes > MOST_KEPT;
        if (moved) { /* long rows are not copied */
            out->text = m.tiles[0].text;
            m.tiles[0].text = (ns_buf){0};
        } else {
            NS_CHECK(st, ns_buf_reserve(&out->text, bytes, err), "rows");
        }
        for (int i = 0; i < n; i++) NS_CHECK(st, join(out, &m.tiles[i], err), "rows");
    }
    if (!moved && out->text.data && out->text.cap / 8 * 7 > out->text.len) { /* blocks may be kept for long */
        NS_CHECK(st, ns_realloc((void **)&out->text.data, out->text.len + 1, "prepare.text", err), "rows");
        out->text.cap = out->text.len + 1;
    }
    size_t at = 0; /* the text no longer moves */
    for (size_t i = 0; i < out->n; i++) {
        out->line[i].p = out->text.data ? out->text.data + at : "";
        at += out->line[i].n;
    }
done:
    return st;
}

/* ---- values ---- */
static const char *type_text(const ns_json *v)
{
    static const char *const names[] = {"null", "true or false", "a number", "text", "a list", "an object"};
    return names[v->type];
}

ns_status ns_row_parse(ns_json **out, ns_arena *a, const ns_line *l, const char *where, ns_error *err)
{
    NS_TRY(ns_json_parse(out, a, l->p, l->n, where, 0, err), "read row");
    NS_FAIL_IF((*out)->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s: the row is %s, expected an object", where,
               type_text(*out));
    return NS_OK;
}

ns_status ns_row_text(ns_str *out, const ns_json *row, const char *key, const char *where, ns_error *err)
{
    const ns_json *v = ns_json_get(row, key);
    if (!v) {
        char keys[300] = "";
        size_t at = 0;
        for (size_t i = 0; i < row->n && at + 40 < sizeof keys; i++)
            at += (size_t)snprintf(keys + at, sizeof keys - at, "%s%.*s", i ? ", " : "",
                                   (int)(row->keys[i].n < 30 ? row->keys[i].n : 30), row->keys[i].p);
        NS_FAIL(NS_ERR_INPUT, "%s: no field \"%s\" (the row has: %s)", where, key, keys);
    }
    NS_FAIL_IF(v->type != NS_JSON_STRING, NS_ERR_INPUT, "%s: field \"%s\" is %s, expected text", where, key,
               type_text(v));
    *out = v->s;
    return NS_OK;
}

ns_status ns_json_hash(ns_hash *h, const ns_json *v, ns_error *err)
{
    unsigned char type = (unsigned char)v->type;
    *h = ns_hash_bytes(*h, &type, 1);
    if (v->type == NS_JSON_STRING) {
        *h = ns_hash_bytes(*h, v->s.p, v->s.n);
        return NS_OK;
    }
    ns_buf b = {0};
    ns_status st = ns_json_write(&b, v, NS_JSON_UTF8, err);
    if (st == NS_OK) *h = ns_hash_bytes(*h, b.data, b.len);
    ns_buf_free(&b);
    return st;
}

int ns_json_equal(const ns_json *a, const ns_json *b)
{
    double x, y;
    if (ns_json_is_num(a, &x) && ns_json_is_num(b, &y)) return x == y;
    if (a->type != b->type) return 0;
    switch (a->type) {
    case NS_JSON_NULL: return 1;
    case NS_JSON_BOOL: return !a->b == !b->b;
    case NS_JSON_NUMBER:
    case NS_JSON_STRING: return a->s.n == b->s.n && !memcmp(a->s.p, b->s.p, a->s.n);
    case NS_JSON_ARRAY:
        if (a->n != b->n) return 0;
        for (size_t i = 0; i < a->n; i++)
            if (!ns_json_equal(&a->items[i], &b->items[i])) return 0;
        return 1;
    case NS_JSON_OBJECT: break;
    }
    if (a->n != b->n) return 0;
    for (size_t i = 0; i < a->n; i++) {
        size_t k = 0;
        while (k < b->n && (b->keys[k].n != a->keys[i].n || memcmp(b->keys[k].p, a->keys[i].p, a->keys[i].n))) k++;
        if (k == b->n || !ns_json_equal(&a->items[i], &b->items[k])) return 0;
    }
    return 1;
}

ns_status ns_json_from_node(ns_json **out, ns_arena *a, const ns_node *n, ns_error *err)
{
    ns_json *v = NULL;
    switch (n->type) {
    case NS_NODE_NULL: v = ns_json_new(a, NS_JSON_NULL, err); break;
    case NS_NODE_BOOL: v = ns_json_new_bool(a, n->i != 0, err); break;
    case NS_NODE_INT: v = ns_json_new_int(a, n->i, err); break;
    case NS_NODE_FLOAT: v = ns_json_new_num(a, n->f, err); break;
    case NS_NODE_STRING: v = ns_json_new_str(a, n->s, err); break;
    case NS_NODE_LIST:
    case NS_NODE_MAP:
        v = ns_json_new(a, n->type == NS_NODE_LIST ? NS_JSON_ARRAY : NS_JSON_OBJECT, err);
        for (size_t i = 0; v && i < n->n; i++) {
            ns_json *item = NULL;
            NS_TRY(ns_json_from_node(&item, a, n->items[i], err), "value");
            if (n->type == NS_NODE_LIST)
                NS_TRY(ns_json_append(v, a, item, err), "value");
            else
                NS_TRY(ns_json_set(v, a, n->keys[i], item, err), "value");
        }
    }
    NS_FAIL_IF(!v, NS_ERR_MEMORY, "value");
    *out = v;
    return NS_OK;
}

ns_status ns_json_to_ascii(ns_buf *out, const char *p, size_t n, ns_error *err)
{
    NS_TRY(ns_buf_reserve(out, n, err), "row");
    for (size_t i = 0; i < n;) {
        size_t k = i;
        while (k < n && (unsigned char)p[k] < 0x7f) k++;
        if (k > i) NS_TRY(ns_buf_add(out, p + i, k - i, err), "row");
        if (k == n) break;
        unsigned char c = (unsigned char)p[k];
        size_t len = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        uint32_t u = len == 1 ? c : len == 2 ? c & 0x1fu : len == 3 ? c & 0xfu : c & 7u;
        for (size_t j = 1; j < len && k + j < n; j++) u = u << 6 | ((unsigned char)p[k + j] & 0x3fu);
        if (u < 0x10000)
            NS_TRY(ns_buf_printf(out, err, "\\u%04x", u), "row");
        else
            NS_TRY(ns_buf_printf(out, err, "\\u%04x\\u%04x", 0xd800 + ((u - 0x10000) >> 10),
                                 0xdc00 + ((u - 0x10000) & 0x3ff)),
                   "row");
        i = k + len;
    }
    return NS_OK;
}

/* ---- output files ---- */
/* Names of unfinished files, for a signal handler: nothing but flags and plain bytes. */
enum { MAX_NOTED = 16 };
static struct {
    atomic_int used; /* 1: name is complete */
    char name[4096];
} g_noted[MAX_NOTED];

static int note_name(const char *name)
{
    for (int i = 0; i < MAX_NOTED && strlen(name) < sizeof g_noted[i].name; i++) {
        int state = 0;
        if (!atomic_compare_exchange_strong(&g_noted[i].used, &state, 2)) continue;
        memcpy(g_noted[i].name, name, strlen(name) + 1);
        atomic_store(&g_noted[i].used, 1);
        return i;
    }
    return -1;
}

static void forget_name(int i)
{
    if (i >= 0) atomic_store(&g_noted[i].used, 0);
}

void ns_prepare_remove_unfinished(void)
{
    for (int i = 0; i < MAX_NOTED; i++)
        if (atomic_load(&g_noted[i].used) == 1) unlink(g_noted[i].name);
}

static ns_status make_parent(const char *path, ns_error *err)
{
    ns_buf b = {0};
    ns_status st = ns_buf_adds(&b, path, err);
    if (st == NS_OK) st = ns_mkdirs(dirname(b.data), err);
    ns_buf_free(&b);
    return st;
}

ns_status ns_out_open(ns_out_file *o, const char *path, ns_error *err)
{
    ns_buf tmp = {0}, name = {0};
    ns_status st = NS_OK;
    *o = (ns_out_file){.note = -1};
    size_t len = strlen(path);
    for (int i = 0; i < 3; i++) {
        static const char *const packed[] = {".gz", ".zst", ".parquet"};
        size_t k = strlen(packed[i]);
        NS_FAIL_IF(len > k && !strcmp(path + len - k, packed[i]), NS_ERR_CONFIG,
                   "output '%s': %s is read but not written: choose a name that ends in .jsonl, or write to '-' and "
                   "pipe it into a packer",
                   path, packed[i]);
    }
    if (!strcmp(path, "-") || ns_path_is_special(path)) return ns_file_create(&o->f, path, err);
    NS_CHECK(st, make_parent(path, err), "folder of %s", path);
    NS_CHECK(st, ns_path_target(&name, path, err), "output");
    NS_CHECK(st, ns_buf_printf(&tmp, err, "%s.tmp.%ld", name.data, (long)getpid()), "output");
    o->path = name.data;
    o->tmp = tmp.data;
    o->note = note_name(o->tmp);
    NS_CHECK(st, ns_file_create(&o->f, o->tmp, err), "output %s", path);
done:
    if (st != NS_OK) {
        forget_name(o->note);
        ns_buf_free(&tmp);
        ns_buf_free(&name);
        *o = (ns_out_file){.note = -1};
    }
    return st;
}

static void out_forget(ns_out_file *o)
{
    if (o->tmp) forget_name(o->note);
    ns_free(o->path);
    ns_free(o->tmp);
    *o = (ns_out_file){.note = -1};
}

ns_status ns_out_commit(ns_out_file *o, ns_error *err)
{
    ns_status st = NS_OK;
    ns_buf b = {0};
    NS_CHECK(st, ns_file_close(&o->f, err), "write %s", o->path ? o->path : "standard output");
    if (!o->tmp) goto done;
    if (ns_sys_rename(o->tmp, o->path) != 0) {
        st = ns_sys_error(err, "rename the finished file to", o->path);
        goto done;
    }
    NS_CHECK(st, ns_buf_adds(&b, o->path, err), "output");
    NS_CHECK(st, ns_fsync_dir(dirname(b.data), err), "folder of %s", o->path);
done:
    if (st != NS_OK && o->tmp) unlink(o->tmp);
    ns_buf_free(&b);
    out_forget(o);
    return st;
}

void ns_out_abort(ns_out_file *o)
{
    if (o->f) ns_file_abort(&o->f);
    if (o->tmp) unlink(o->tmp);
    out_forget(o);
}

/* ---- parameters ---- */
ns_status ns_param(const ns_stage *s, const char *key, const ns_node **out, ns_error *err)
{
    char path[512];
    snprintf(path, sizeof path, "%s.%s", s->path, key);
    *out = NULL;
    NS_TRY(ns_config_get(s->run->config, path, out, err), "%s", s->cls->name);
    if (*out && (*out)->type == NS_NODE_NULL) *out = NULL;
    return NS_OK;
}

static ns_status wrong_type(const ns_stage *s, const char *key, const ns_node *n, const char *want, ns_error *err)
{
    NS_FAIL(NS_ERR_CONFIG, "%s of %s is a %s (%s), expected %s", key, s->cls->name, ns_node_type_name(n->type),
            n->origin ? n->origin : s->path, want);
}

ns_status ns_param_str(const ns_stage *s, const char *key, const char *def, const char **out, ns_error *err)
{
    const ns_node *n;
    NS_TRY(ns_param(s, key, &n, err), "parameter");
    *out = def;
    if (!n) return NS_OK;
    if (n->type == NS_NODE_LIST || n->type == NS_NODE_MAP || !n->s) return wrong_type(s, key, n, "text", err);
    *out = n->s;
    return NS_OK;
}

ns_status ns_param_num(const ns_stage *s, const char *key, double def, double *out, ns_error *err)
{
    const ns_node *n;
    NS_TRY(ns_param(s, key, &n, err), "parameter");
    *out = def;
    if (!n) return NS_OK;
    if (n->type != NS_NODE_INT && n->type != NS_NODE_FLOAT) return wrong_type(s, key, n, "a number", err);
    *out = n->f;
    return NS_OK;
}

ns_status ns_param_int(const ns_stage *s, const char *key, int64_t def, int64_t *out, ns_error *err)
{
    const ns_node *n;
    NS_TRY(ns_param(s, key, &n, err), "parameter");
    *out = def;
    if (!n) return NS_OK;
    if (n->type == NS_NODE_INT)
        *out = n->i;
    else if (n->type == NS_NODE_FLOAT && floor(n->f) == n->f && fabs(n->f) < 1e15)
        *out = (int64_t)n->f;
    else
        return wrong_type(s, key, n, "an integer", err);
    return NS_OK;
}

ns_status ns_param_bool(const ns_stage *s, const char *key, int def, int *out, ns_error *err)
{
    const ns_node *n;
    NS_TRY(ns_param(s, key, &n, err), "parameter");
    *out = n ? ns_node_truthy(n) : def;
    return NS_OK;
}

int ns_node_truthy(const ns_node *n)
{
    if (!n) return 0;
    switch (n->type) {
    case NS_NODE_NULL: return 0;
    case NS_NODE_BOOL:
    case NS_NODE_INT: return n->i != 0;
    case NS_NODE_FLOAT: return n->f != 0;
    case NS_NODE_STRING: return n->n > 0;
    case NS_NODE_LIST:
    case NS_NODE_MAP: return n->n > 0;
    }
    return 0;
}
