/* Strict reader of protobuf messages: field by field, every length checked against what is left.
 *     ns_proto r = {.p = data, .n = size, .where = "tokenizer.model"};
 *     ns_proto_field f;
 *     for (int more = 1;;) { NS_TRY(ns_proto_next(&r, &f, &more, err), "read"); if (!more) break; ... f.number ... }
 * Groups (wire types 3 and 4) do not occur in the formats read here and are refused. */
#ifndef NS_TOK_PROTO_H
#define NS_TOK_PROTO_H

#include <stdint.h>

#include "base/buf.h"

enum { NS_WIRE_VARINT = 0, NS_WIRE_64 = 1, NS_WIRE_BYTES = 2, NS_WIRE_32 = 5 };
typedef struct ns_proto {
    const char *p;
    size_t n, at;
    size_t base; /* where p[0] is in the file, for messages */
    const char *where;
} ns_proto;
typedef struct ns_proto_field {
    uint32_t number;
    int wire;
    uint64_t value; /* VARINT, 64, 32 */
    ns_str bytes;   /* BYTES */
    size_t at;      /* in the file */
} ns_proto_field;

NS_MUST_USE ns_status ns_proto_next(ns_proto *r, ns_proto_field *f, int *more, ns_error *err);
/* Fails unless the field has this wire type; `name` is for the message. */
NS_MUST_USE ns_status ns_proto_want(const ns_proto *r, const ns_proto_field *f, int wire, const char *name,
                                    ns_error *err);
/* Reader of a field that is a message. */
ns_proto ns_proto_inside(const ns_proto *r, const ns_proto_field *f);

#endif
