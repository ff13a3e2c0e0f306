/* torch.save reader. The zip's central directory is the truth (local headers may carry zero sizes); members must be stored, not
 * compressed, and lie within the file; zip64 fields are used where present. Zip: APPNOTE 6.3.9 §4.3-4.5. */
#include "ckpt/torch_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t le(const unsigned char *p, int n)
{
    uint64_t v = 0;
    while (n-- > 0) v = v << 8 | p[n];
    return v;
}

typedef struct zip {
    const unsigned char *p;
    uint64_t size;
    const char *where;
    uint64_t n, dir, dir_size;
} zip;

/* End record: the last "PK\5\6" within 64 KiB of the end; zip64's through its locator, 20 bytes before. */
static ns_status find_end(zip *z, ns_error *err)
{
    uint64_t at = z->size >= 22 ? z->size - 22 : 0, stop = z->size > 65557 ? z->size - 65557 : 0;
    NS_FAIL_IF(z->size < 22, NS_ERR_INPUT, "%s: not a torch file (%llu bytes)", z->where, (unsigned long long)z->size);
    while (le(z->p + at, 4) != 0x06054b50) {
        NS_FAIL_IF(at-- == stop, NS_ERR_INPUT, "%s: no zip end record: truncated, or saved by torch before 1.6",
                   z->where);
    }
    z->n = le(z->p + at + 10, 2);
    z->dir_size = le(z->p + at + 12, 4);
    z->dir = le(z->p + at + 16, 4);
    if (at >= 20 && le(z->p + at - 20, 4) == 0x07064b50) {
        uint64_t e = le(z->p + at - 20 + 8, 8);
        NS_FAIL_IF(e > z->size || z->size - e < 56 || le(z->p + e, 4) != 0x06064b50, NS_ERR_INPUT,
                   "%s: broken zip64 end record", z->where);
        z->n = le(z->p + e + 32, 8);
        z->dir_size = le(z->p + e + 40, 8);
        z->dir = le(z->p + e + 48, 8);
    }
    NS_FAIL_IF(z->dir > z->size || z->dir_size > z->size - z->dir || z->n > z->dir_size / 46, NS_ERR_INPUT,
               "%s: zip directory of %llu entries at byte %llu lies outside the file", z->where,
               (unsigned long long)z->n, (unsigned long long)z->dir);
    return NS_OK;
}

/* One directory entry at p (rest bytes left); *len: its length. */
static ns_status read_entry(const zip *z, const unsigned char *p, uint64_t rest, uint64_t *len, ns_zip_member *m,
                            ns_arena *arena, ns_error *err)
{
    NS_FAIL_IF(rest < 46 || le(p, 4) != 0x02014b50, NS_ERR_INPUT, "%s: broken zip directory", z->where);
    uint64_t n_name = le(p + 28, 2), n_extra = le(p + 30, 2), method = le(p + 10, 2), packed = le(p + 20, 4),
             size = le(p + 24, 4), at = le(p + 42, 4);
    *len = 46 + n_name + n_extra + le(p + 32, 2);
    NS_FAIL_IF(*len > rest, NS_ERR_INPUT, "%s: zip directory entry runs past its end", z->where);
    for (const unsigned char *x = p + 46 + n_name, *end = x + n_extra; end - x >= 4;) {
        uint64_t id = le(x, 2), k = le(x + 2, 2);
        const unsigned char *v = x + 4;
        NS_FAIL_IF(k > (uint64_t)(end - v), NS_ERR_INPUT, "%s: broken zip extra field", z->where);
        x = v + k;
        if (id != 1) continue;
        uint64_t *const want[3] = {&size, &packed, &at};
        for (int i = 0; i < 3; i++) {
            if (*want[i] != 0xffffffffu) continue;
            NS_FAIL_IF(x - v < 8, NS_ERR_INPUT, "%s: broken zip64 field", z->where);
            *want[i] = le(v, 8);
            v += 8;
        }
    }
    const char *name = (const char *)p + 46;
    const char *slash = memchr(name, '/', n_name);
    NS_FAIL_IF(memchr(name, 0, n_name) || (n_name && name[0] == '/') || memmem(name, n_name, "..", 2), NS_ERR_INPUT,
               "%s: zip member '%.*s' leads outside: refused", z->where, (int)(n_name < 200 ? n_name : 200), name);
    NS_FAIL_IF(method != 0 || packed != size, NS_ERR_UNSUPPORTED, "%s: zip member '%.*s' is compressed (method %llu)",
               z->where, (int)(n_name < 200 ? n_name : 200), name, (unsigned long long)method);
    NS_FAIL_IF(at > z->size || z->size - at < 30 || le(z->p + at, 4) != 0x04034b50, NS_ERR_INPUT,
               "%s: zip member '%.*s' has no header at byte %llu", z->where, (int)(n_name < 200 ? n_name : 200), name,
               (unsigned long long)at);
    uint64_t data = at + 30 + le(z->p + at + 26, 2) + le(z->p + at + 28, 2);
    NS_FAIL_IF(data > z->size || size > z->size - data, NS_ERR_INPUT,
               "%s: zip member '%.*s' of %llu bytes runs past the end of the file: truncated", z->where,
               (int)(n_name < 200 ? n_name : 200), name, (unsigned long long)size);
    size_t skip = slash ? (size_t)(slash + 1 - name) : 0;
    m->name = ns_arena_strndup(arena, name + skip, n_name - skip, err);
    if (!m->name) return NS_ERR_MEMORY;
    m->data = z->p + data;
    m->size = size;
    m->crc = ns_arena_alloc(arena, sizeof *m->crc, err);
    if (!m->crc) return NS_ERR_MEMORY;
    *m->crc = (ns_crc){.base = m->data, .bytes = size, .want = (uint32_t)le(p + 16, 4)};
    return NS_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const ns_zip_member *)a)->name, ((const ns_zip_member *)b)->name);
}

static const ns_zip_member *find(const ns_torch_file *f, const char *name)
{
    ns_zip_member key = {.name = name};
    return f->n ? bsearch(&key, f->m, f->n, sizeof *f->m, by_name) : NULL;
}

ns_status ns_torch_open(ns_torch_file *f, const unsigned char *data, size_t size, const char *where, ns_arena *arena,
                        ns_error *err)
{
    zip z = {.p = data, .size = size, .where = where};
    memset(f, 0, sizeof *f);
    f->where = where;
    f->arena = arena;
    NS_TRY(find_end(&z, err), "%s", "");
    f->m = ns_arena_alloc(arena, (z.n + 1) * sizeof *f->m, err);
    if (!f->m) return NS_ERR_MEMORY;
    for (uint64_t i = 0, at = 0, len = 0; i < z.n; i++, at += len) {
        NS_TRY(read_entry(&z, z.p + z.dir + at, z.dir_size - at, &len, &f->m[f->n++], arena, err), "%s", "");
    }
    qsort(f->m, f->n, sizeof *f->m, by_name);
    for (size_t i = 1; i < f->n; i++)
        NS_FAIL_IF(!strcmp(f->m[i].name, f->m[i - 1].name), NS_ERR_INPUT, "%s: zip member '%s' is there twice", where,
                   f->m[i].name);
    const ns_zip_member *order = find(f, "byteorder"), *pkl = find(f, "data.pkl");
    NS_FAIL_IF(order && (order->size != 6 || memcmp(order->data, "little", 6)), NS_ERR_UNSUPPORTED,
               "%s: byte order is not little-endian", where);
    NS_FAIL_IF(!pkl, NS_ERR_INPUT, "%s: no data.pkl inside: not a torch file", where);
    NS_FAIL_IF(ns_crc32(pkl->data, (size_t)pkl->size) != pkl->crc->want, NS_ERR_INPUT,
               "%s: data.pkl does not have the checksum that the file says: damaged", where);
    return ns_pickle_parse(&f->root, arena, pkl->data, (size_t)pkl->size, where, err);
}

int ns_torch_is_tensor(const ns_pk *v)
{
    return ns_pk_is(v, "_rebuild_tensor_v2") || ns_pk_is(v, "_rebuild_tensor_v3") || ns_pk_is(v, "_rebuild_parameter");
}

static int storage_dtype(ns_str s, ns_dtype *dt)
{
    static const struct {
        const char *name;
        ns_dtype dt;
    } map[] = {{"FloatStorage", NS_DTYPE_F32},  {"HalfStorage", NS_DTYPE_F16}, {"BFloat16Storage", NS_DTYPE_BF16},
               {"DoubleStorage", NS_DTYPE_F64}, {"LongStorage", NS_DTYPE_I64}, {"IntStorage", NS_DTYPE_I32},
               {"ShortStorage", NS_DTYPE_I16},  {"CharStorage", NS_DTYPE_I8},  {"ByteStorage", NS_DTYPE_U8},
               {"UntypedStorage", NS_DTYPE_U8}, {"BoolStorage", NS_DTYPE_BOOL}};
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
        if (!ns_str_eq(s, map[i].name)) continue;
        *dt = map[i].dt;
        return 1;
    }
    return 0;
}

ns_status ns_torch_tensor(const ns_torch_file *f, const ns_pk *v, ns_box *p, ns_dtype *dt, int64_t shape[8], int *nd,
                          ns_error *err)
{
    char name[80], text[40] = "";
    if (ns_pk_is(v, "_rebuild_parameter") && v->args && v->args->kind == NS_PK_TUPLE && v->args->n)
        v = v->args->item[0];
    const ns_pk *a = v && v->kind == NS_PK_OBJECT ? v->args : NULL;
    int v3 = ns_pk_is(v, "_rebuild_tensor_v3");
    NS_FAIL_IF((!v3 && !ns_pk_is(v, "_rebuild_tensor_v2")) || !a || a->kind != NS_PK_TUPLE || a->n < (v3 ? 7 : 4) ||
                   a->item[0]->kind != NS_PK_PERSID || a->item[1]->kind != NS_PK_INT,
               NS_ERR_INPUT, "%s: found something else where a tensor was expected", f->where);
    const ns_pk *id = a->item[0]->args;
    NS_FAIL_IF(id->kind != NS_PK_TUPLE || id->n < 5 || id->item[1]->kind != NS_PK_GLOBAL ||
                   id->item[2]->kind != NS_PK_STR || id->item[2]->s.n > 60 || id->item[4]->kind != NS_PK_INT ||
                   !storage_dtype(id->item[1]->s, dt),
               NS_ERR_INPUT, "%s: tensor with an unknown kind of storage", f->where);
    if (v3 && a->item[6]->kind == NS_PK_GLOBAL)
        snprintf(text, sizeof text, "%.*s", (int)(a->item[6]->s.n < 39 ? a->item[6]->s.n : 39), a->item[6]->s.p);
    NS_FAIL_IF(v3 && !ns_dtype_parse(text, dt), NS_ERR_UNSUPPORTED, "%s: tensor of unknown dtype '%s'", f->where, text);
    snprintf(name, sizeof name, "data/%.*s", (int)id->item[2]->s.n, id->item[2]->s.p);
    const ns_zip_member *m = find(f, name);
    NS_FAIL_IF(!m, NS_ERR_INPUT, "%s: storage '%s' is missing in the file", f->where, name);
    memset(p, 0, sizeof *p);
    *nd = ns_pk_ints(a->item[2], shape);
    NS_FAIL_IF(*nd < 0 || ns_pk_ints(a->item[3], p->stride) != *nd, NS_ERR_INPUT, "%s: tensor with a broken shape",
               f->where);
    uint64_t have = m->size / ns_dtype_size(*dt), last = 0;
    int64_t off = a->item[1]->i;
    for (int i = 0, empty = 0; i < *nd && !empty; i++) { /* the farthest element must lie within the storage */
        empty = shape[i] == 0;
        if (empty) last = 0;
        if (empty || shape[i] == 1) continue;
        uint64_t steps = (uint64_t)shape[i] - 1;
        NS_FAIL_IF(p->stride[i] && steps > have / (uint64_t)p->stride[i], NS_ERR_INPUT,
                   "%s: tensor of shape larger than its storage '%s' (%llu elements)", f->where, name,
                   (unsigned long long)have);
        last += steps * (uint64_t)p->stride[i];
    }
    NS_FAIL_IF(off < 0 || (uint64_t)off > have || (have && last >= have - (uint64_t)off), NS_ERR_INPUT,
               "%s: tensor reaches past the end of its storage '%s' (%llu elements)", f->where, name,
               (unsigned long long)have);
    for (int i = 0; i < *nd; i++) {
        NS_FAIL_IF(!have && shape[i] && i == *nd - 1, NS_ERR_INPUT, "%s: tensor in an empty storage '%s'", f->where,
                   name);
        p->size[i] = shape[i];
    }
    p->data = m->data + (size_t)off * ns_dtype_size(*dt);
    p->crc = m->crc;
    p->file = f->where;
    return NS_OK;
}
