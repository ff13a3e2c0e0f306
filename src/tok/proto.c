/* Protobuf wire format (proto.h). A varint has at most 10 bytes and fits 64 bits; field numbers are 1..2^29-1. */
#include "tok/proto.h"

#include <string.h>

static ns_status varint(ns_proto *r, uint64_t *out, const char *what, ns_error *err)
{
    uint64_t x = 0;
    size_t start = r->at;
    for (int shift = 0; shift < 70; shift += 7) {
        NS_FAIL_IF(r->at == r->n, NS_ERR_INPUT, "%s: byte %zu: %s ends with the data: the file is cut short", r->where,
                   r->base + start, what);
        uint8_t b = (uint8_t)r->p[r->at++];
        NS_FAIL_IF(shift == 63 && b > 1, NS_ERR_INPUT, "%s: byte %zu: %s does not fit 64 bits", r->where,
                   r->base + start, what);
        x |= (uint64_t)(b & 127) << shift;
        if (!(b & 128)) {
            *out = x;
            return NS_OK;
        }
    }
    NS_FAIL(NS_ERR_INPUT, "%s: byte %zu: %s is longer than 10 bytes", r->where, r->base + start, what);
}

static uint64_t little_endian(const char *p, size_t n)
{
    uint64_t x = 0;
    for (size_t i = 0; i < n; i++) x |= (uint64_t)(uint8_t)p[i] << (8 * i);
    return x;
}

ns_status ns_proto_next(ns_proto *r, ns_proto_field *f, int *more, ns_error *err)
{
    uint64_t tag, len = 0;
    memset(f, 0, sizeof *f);
    *more = r->at < r->n;
    if (!*more) return NS_OK;
    f->at = r->base + r->at;
    NS_TRY(varint(r, &tag, "a field tag", err), "%s", "");
    f->wire = (int)(tag & 7);
    NS_FAIL_IF(tag >> 3 == 0 || tag >> 3 >= 1 << 29, NS_ERR_INPUT,
               "%s: byte %zu: field number %llu, expected 1..536870911", r->where, f->at,
               (unsigned long long)(tag >> 3));
    f->number = (uint32_t)(tag >> 3);
    if (f->wire == NS_WIRE_VARINT) return varint(r, &f->value, "a number", err);
    if (f->wire == NS_WIRE_BYTES)
        NS_TRY(varint(r, &len, "a length", err), "%s", "");
    else if (f->wire == NS_WIRE_64 || f->wire == NS_WIRE_32)
        len = f->wire == NS_WIRE_64 ? 8 : 4;
    else
        NS_FAIL(NS_ERR_INPUT,
                "%s: byte %zu: field %u has wire type %d, expected 0, 1, 2 or 5: not a protobuf file that is "
                "read here",
                r->where, f->at, f->number, f->wire);
    NS_FAIL_IF(len > r->n - r->at, NS_ERR_INPUT,
               "%s: byte %zu: field %u has %llu bytes, but %zu are left: the file is cut short or damaged", r->where,
               f->at, f->number, (unsigned long long)len, r->n - r->at);
    f->bytes = (ns_str){r->p + r->at, (size_t)len};
    if (f->wire != NS_WIRE_BYTES) f->value = little_endian(r->p + r->at, (size_t)len);
    r->at += (size_t)len;
    return NS_OK;
}

ns_status ns_proto_want(const ns_proto *r, const ns_proto_field *f, int wire, const char *name, ns_error *err)
{
    NS_FAIL_IF(f->wire != wire, NS_ERR_INPUT, "%s: byte %zu: %s has wire type %d, expected %d", r->where, f->at, name,
               f->wire, wire);
    return NS_OK;
}

ns_proto ns_proto_inside(const ns_proto *r, const ns_proto_field *f)
{
    return (ns_proto){
        .p = f->bytes.p, .n = f->bytes.n, .base = r->base + (size_t)(f->bytes.p - r->p), .where = r->where};
}
