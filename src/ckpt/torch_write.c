/* torch.save writer: a zip of stored members in torch's order (data.pkl, byteorder, data/0, version): local headers
 * carry no sizes, a data descriptor follows, the central directory has them. The data of each member begins at a multiple of 64
 * bytes, by an extra field "FB" as torch pads. */
#include "ckpt/torch_write.h"

#include <string.h>

#include "base/crc32.h"
#include "base/file.h"

ns_status ns_pkw_str(ns_buf *b, const char *s, ns_error *err)
{
    uint32_t n = (uint32_t)strlen(s);
    unsigned char h[5] = {'X', (unsigned char)n, (unsigned char)(n >> 8), (unsigned char)(n >> 16),
                          (unsigned char)(n >> 24)};
    NS_TRY(ns_buf_add(b, h, 5, err), "%s", "");
    return ns_buf_add(b, s, n, err);
}

ns_status ns_pkw_int(ns_buf *b, int64_t v, ns_error *err)
{
    unsigned char h[10];
    int small = v >= INT32_MIN && v <= INT32_MAX;
    h[0] = small ? 'J' : 0x8a;
    h[1] = 8;
    for (int i = 0; i < 8; i++) h[(small ? 1 : 2) + i] = (unsigned char)((uint64_t)v >> (8 * i));
    return ns_buf_add(b, h, small ? 5 : 10, err);
}

ns_status ns_pkw_ints(ns_buf *b, const int64_t *v, int n, ns_error *err)
{
    NS_TRY(ns_buf_addc(b, '(', err), "%s", "");
    for (int i = 0; i < n; i++) NS_TRY(ns_pkw_int(b, v[i], err), "%s", "");
    return ns_buf_addc(b, 't', err);
}

/* ---- zip ---- */
static ns_status put(ns_torch_out *w, const void *p, size_t n, ns_error *err)
{
    NS_TRY(ns_buf_add(w->b, p, n, err), "%s", "");
    w->at += (int64_t)n;
    return NS_OK;
}

static unsigned char *le(unsigned char *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++) *p++ = i < 8 ? (unsigned char)(v >> (8 * i)) : 0; /* longer: zeros */
    return p;
}

static ns_status begin_member(ns_torch_out *w, const char *name, ns_error *err)
{
    static const unsigned char fill[64] = "ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ";
    unsigned char h[34], *p = h;
    size_t n = strlen(name);
    size_t pad = (size_t)(64 - (w->at + 34 + (int64_t)n) % 64) % 64;
    NS_ASSERT(w->n < NS_TORCH_MEMBERS);
    w->m[w->n].name = name;
    w->m[w->n].at = w->at;
    p = le(p, 0x04034b50, 4);
    p = le(p, 0, 2);  /* version needed, as torch */
    p = le(p, 8, 2);  /* sizes come after the data */
    p = le(p, 0, 2);  /* stored */
    p = le(p, 0, 4);  /* time, date */
    p = le(p, 0, 12); /* crc, sizes */
    p = le(p, n, 2);
    p = le(p, 4 + pad, 2); /* extra field */
    NS_TRY(put(w, h, 30, err), "%s", "");
    NS_TRY(put(w, name, n, err), "%s", "");
    p = le(h, 0x4246, 2); /* "FB" */
    p = le(p, pad, 2);
    NS_TRY(put(w, h, 4, err), "%s", "");
    return put(w, fill, pad, err);
}

static ns_status member_data(ns_torch_out *w, const void *p, size_t n, ns_error *err)
{
    w->m[w->n].crc = ns_crc32_more(w->m[w->n].crc, p, n);
    w->m[w->n].size += n;
    return put(w, p, n, err);
}

static ns_status end_member(ns_torch_out *w, ns_error *err)
{
    unsigned char h[16], *p = h;
    p = le(p, 0x08074b50, 4);
    p = le(p, w->m[w->n].crc, 4);
    p = le(p, w->m[w->n].size, 4);
    p = le(p, w->m[w->n].size, 4);
    w->n++;
    return put(w, h, (size_t)(p - h), err);
}

static ns_status member(ns_torch_out *w, const char *name, const void *p, size_t n, ns_error *err)
{
    NS_TRY(begin_member(w, name, err), "%s", "");
    NS_TRY(member_data(w, p, n, err), "%s", "");
    return end_member(w, err);
}

static ns_status directory(ns_torch_out *w, ns_error *err)
{
    unsigned char h[64], *p;
    int64_t dir = w->at;
    for (int i = 0; i < w->n; i++) {
        size_t n = strlen(w->m[i].name);
        p = le(h, 0x02014b50, 4);
        p = le(p, 0, 4); /* versions */
        p = le(p, 8, 2);
        p = le(p, 0, 6); /* stored, time, date */
        p = le(p, w->m[i].crc, 4);
        p = le(p, w->m[i].size, 4);
        p = le(p, w->m[i].size, 4);
        p = le(p, n, 2);
        p = le(p, 0, 8); /* extra, comment, disk, internal */
        p = le(p, 0, 4); /* external */
        p = le(p, (uint64_t)w->m[i].at, 4);
        NS_TRY(put(w, h, (size_t)(p - h), err), "%s", "");
        NS_TRY(put(w, w->m[i].name, n, err), "%s", "");
    }
    int64_t size = w->at - dir;
    p = le(h, 0x06054b50, 4);
    p = le(p, 0, 4);
    p = le(p, (uint64_t)w->n, 2);
    p = le(p, (uint64_t)w->n, 2);
    p = le(p, (uint64_t)size, 4);
    p = le(p, (uint64_t)(dir), 4);
    p = le(p, 0, 2);
    return put(w, h, (size_t)(p - h), err);
}

/* ---- torch ---- */
static ns_status tensor_pickle(ns_buf *b, ns_dtype dt, const int64_t *shape, int nd, int64_t *n, ns_error *err)
{
    int64_t stride[8];
    *n = 1;
    for (int i = nd; i-- > 0; *n *= shape[i]) stride[i] = *n;
    const char *storage = dt == NS_DTYPE_BF16 ? "BFloat16Storage" : dt == NS_DTYPE_F16 ? "HalfStorage" : "FloatStorage";
    NS_TRY(ns_buf_adds(b,
                       "\x80\x02"
                       "ctorch._utils\n_rebuild_tensor_v2\n((",
                       err),
           "%s", "");
    NS_TRY(ns_pkw_str(b, "storage", err), "%s", "");
    NS_TRY(ns_buf_printf(b, err, "ctorch\n%s\n", storage), "%s", "");
    NS_TRY(ns_pkw_str(b, "0", err), "%s", "");
    NS_TRY(ns_pkw_str(b, "cpu", err), "%s", "");
    NS_TRY(ns_pkw_int(b, *n, err), "%s", "");
    NS_TRY(ns_buf_adds(b, "tQ", err), "%s", "");
    NS_TRY(ns_pkw_int(b, 0, err), "%s", "");
    NS_TRY(ns_pkw_ints(b, shape, nd, err), "%s", "");
    NS_TRY(ns_pkw_ints(b, stride, nd, err), "%s", "");
    return ns_buf_adds(b,
                       "\x89"
                       "ccollections\nOrderedDict\n)RtR.",
                       err);
}

ns_status ns_torch_begin(ns_torch_out *w, ns_dtype dt, const int64_t *shape, int nd, ns_error *err)
{
    ns_buf b = {0};
    int64_t n = 0;
    ns_status st = NS_OK;
    NS_CHECK(st, tensor_pickle(&b, dt, shape, nd, &n, err), "%s", "");
    w->expect = (uint64_t)n * ns_dtype_size(dt);
    NS_ASSERT(w->expect < (uint64_t)1 << 32);
    NS_CHECK(st, member(w, "archive/data.pkl", b.data, b.len, err), "%s", "");
    NS_CHECK(st, member(w, "archive/byteorder", "little", 6, err), "%s", "");
    NS_CHECK(st, begin_member(w, "archive/data/0", err), "%s", "");
done:
    ns_buf_free(&b);
    return st;
}

ns_status ns_torch_end(ns_torch_out *w, uint32_t crc, ns_error *err)
{
    w->m[w->n].crc = crc;
    w->m[w->n].size = w->expect;
    w->at += (int64_t)w->expect;
    NS_TRY(end_member(w, err), "%s", "");
    NS_TRY(member(w, "archive/version", "3\n", 2, err), "%s", "");
    return directory(w, err);
}

ns_status ns_torch_write_empty(const char *path, ns_error *err)
{
    ns_buf b = {0};
    ns_torch_out w = {.b = &b};
    ns_file *f = NULL;
    ns_status st = NS_OK;
    NS_CHECK(st, member(&w, "archive/data.pkl", "\x80\x02}.", 4, err), "%s", "");
    NS_CHECK(st, member(&w, "archive/byteorder", "little", 6, err), "%s", "");
    NS_CHECK(st, member(&w, "archive/version", "3\n", 2, err), "%s", "");
    NS_CHECK(st, directory(&w, err), "%s", "");
    NS_CHECK(st, ns_file_create(&f, path, err), "%s", "");
    NS_CHECK(st, ns_file_write(f, b.data, b.len, err), "%s", "");
    NS_CHECK(st, ns_file_close(&f, err), "%s", "");
done:
    ns_file_abort(&f);
    ns_buf_free(&b);
    return st;
}
