/* The header is a Python dictionary in ASCII; of its grammar only what numpy.save writes is understood. Every length is checked
 * against the file before it is used. */
#include "pack/npy.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char magic[] = "\x93NUMPY";

/* Text after `'key':`, without blanks in front. */
static const char *value(const char *header, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s':", key);
    const char *p = strstr(header, quoted);
    if (!p) return NULL;
    p += strlen(quoted);
    while (*p == ' ') p++;
    return p;
}

static ns_status parse_header(ns_npy *a, const char *h, const char *path, ns_error *err)
{
    const char *descr = value(h, "descr"), *order = value(h, "fortran_order"), *shape = value(h, "shape");
    NS_FAIL_IF(!descr || !order || !shape, NS_ERR_INPUT, "%s: byte 10: no descr, fortran_order and shape in the header",
               path);
    static const struct {
        const char *name;
        size_t item;
    } types[] = {{"<i4", 4}, {"<i8", 8}, {"|b1", 1}, {"|u1", 1}};
    NS_FAIL_IF(
        strstr(descr, "O'") && strstr(descr, "O'") < descr + 6, NS_ERR_UNSUPPORTED,
        "%s: an array of pickled objects, the old one-file form of packs: its mask is off by one for this form and "
        "nothing is unpickled here; pack the rows again with ns pack",
        path);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (*descr == '\'' && !strncmp(descr + 1, types[i].name, 3) && descr[4] == '\'') {
            memcpy(a->descr, types[i].name, 4);
            a->item = types[i].item;
        }
    NS_FAIL_IF(!a->item, NS_ERR_UNSUPPORTED, "%s: items %.8s, expected '<i4' or '|b1'", path, descr);
    NS_FAIL_IF(strncmp(order, "False", 5), NS_ERR_UNSUPPORTED, "%s: column-major order, expected row-major", path);
    char *end;
    NS_FAIL_IF(*shape != '(', NS_ERR_INPUT, "%s: shape %.20s, expected (rows, columns)", path, shape);
    a->rows = strtoll(shape + 1, &end, 10);
    int good = end != shape + 1 && *end == ',';
    const char *second = end + 1;
    if (good) a->cols = strtoll(second, &end, 10);
    while (good && (*end == ',' || *end == ' ')) end++;
    NS_FAIL_IF(!good || end == second || *end != ')' || a->rows < 0 || a->cols < 0, NS_ERR_INPUT,
               "%s: shape %.30s, expected (rows, columns)", path, shape);
    return NS_OK;
}

ns_status ns_npy_open(ns_npy *a, const char *path, ns_error *err)
{
    char header[1024];
    memset(a, 0, sizeof *a);
    NS_TRY(ns_map_open(&a->map, path, err), "array");
    const unsigned char *p = a->map.data;
    ns_status st = NS_OK;
    NS_BAIL_IF(st, a->map.size < 10 || memcmp(p, magic, 6), NS_ERR_INPUT,
               "%s: byte 0: no .npy file: it does not begin with \\x93NUMPY", path);
    NS_BAIL_IF(st, p[6] != 1, NS_ERR_UNSUPPORTED, "%s: byte 6: .npy version %d, expected 1", path, p[6]);
    size_t n = (size_t)p[8] | (size_t)p[9] << 8;
    NS_BAIL_IF(st, n >= sizeof header || 10 + n > a->map.size, NS_ERR_INPUT,
               "%s: byte 8: header of %zu bytes in a file of %zu", path, n, a->map.size);
    memcpy(header, p + 10, n);
    header[n] = 0;
    NS_CHECK(st, parse_header(a, header, path, err), "header");
    a->data = p + 10 + n;
    size_t have = a->map.size - 10 - n;
    NS_BAIL_IF(st, a->cols && (uint64_t)a->rows > (uint64_t)SIZE_MAX / 16 / (uint64_t)a->cols, NS_ERR_INPUT,
               "%s: shape (%" PRId64 ", %" PRId64 ") is out of range", path, a->rows, a->cols);
    NS_BAIL_IF(st, (uint64_t)a->rows * (uint64_t)a->cols * a->item != have, NS_ERR_INPUT,
               "%s: shape (%" PRId64 ", %" PRId64 ") of %s needs %" PRIu64
               " bytes, the file has %zu: it is cut short or not whole",
               path, a->rows, a->cols, a->descr, (uint64_t)a->rows * (uint64_t)a->cols * a->item, have);
done:
    if (st != NS_OK) ns_npy_close(a);
    return st;
}

void ns_npy_close(ns_npy *a)
{
    ns_map_close(&a->map);
    memset(a, 0, sizeof *a);
}

ns_status ns_npy_write_header(ns_file *f, const char *descr, int64_t rows, int64_t cols, uint64_t *bytes, ns_error *err)
{
    char h[256];
    int n =
        snprintf(h + 10, sizeof h - 10,
                 "{'descr': '%s', 'fortran_order': False, 'shape': (%" PRId64 ", %" PRId64 "), }", descr, rows, cols);
    size_t whole = ((size_t)n + 10 + 1 + 63) / 64 * 64;
    if (whole < 128) whole = 128; /* what numpy.save leaves for a growing shape */
    memset(h + 10 + n, ' ', whole - 10 - (size_t)n);
    memcpy(h, magic, 6);
    h[6] = 1;
    h[7] = 0;
    h[8] = (char)((whole - 10) & 255);
    h[9] = (char)((whole - 10) >> 8);
    h[whole - 1] = '\n';
    if (bytes) *bytes = whole;
    return ns_file_write(f, h, whole, err);
}
