/* A node of a configuration as JSON text. */
#include <string.h>

#include "base/config.h"
#include "base/json.h"

ns_status ns_node_json(ns_buf *b, const ns_node *n, ns_error *err)
{
    switch (n->type) {
    case NS_NODE_NULL: return ns_buf_adds(b, "null", err);
    case NS_NODE_BOOL: return ns_buf_adds(b, n->i ? "true" : "false", err);
    case NS_NODE_INT: return ns_buf_printf(b, err, "%lld", (long long)n->i);
    case NS_NODE_FLOAT: {
        char text[32];
        ns_json_format_double(text, n->f);
        return ns_buf_adds(b, text, err);
    }
    case NS_NODE_STRING: return ns_json_write_str(b, (ns_str){n->s, n->n}, NS_JSON_UTF8, err);
    case NS_NODE_LIST:
    case NS_NODE_MAP: break;
    }
    int map = n->type == NS_NODE_MAP;
    NS_TRY(ns_buf_addc(b, map ? '{' : '[', err), "value");
    for (size_t i = 0; i < n->n; i++) {
        if (i) NS_TRY(ns_buf_adds(b, ", ", err), "value");
        if (map) {
            NS_TRY(ns_json_write_str(b, (ns_str){n->keys[i], strlen(n->keys[i])}, NS_JSON_UTF8, err), "value");
            NS_TRY(ns_buf_adds(b, ": ", err), "value");
        }
        NS_TRY(ns_node_json(b, n->items[i], err), "value");
    }
    return ns_buf_addc(b, map ? '}' : ']', err);
}
