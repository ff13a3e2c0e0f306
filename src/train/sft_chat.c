/* Settings of chat rows: the options as data/chat.h wants them. */
#include <string.h>

#include "base/json.h"
#include "train/sft.h"

static ns_status node_json(ns_buf *b, const ns_node *n, ns_error *err)
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
        NS_TRY(node_json(b, n->items[i], err), "value");
    }
    return ns_buf_addc(b, map ? '}' : ']', err);
}

ns_status ns_sft_open_chat(ns_sft *t, ns_error *err)
{
    const ns_sft_options *o = t->o;
    ns_chat_options c = NS_CHAT_OPTIONS_DEFAULT;
    ns_buf kwargs = {0}, roles = {0};
    ns_status st = NS_OK;
    if (o->chat.kwargs && o->chat.kwargs->type != NS_NODE_NULL)
        NS_CHECK(st, node_json(&kwargs, o->chat.kwargs, err), "chat_template_kwargs");
    for (size_t i = 0; i < o->chat.roles.n; i++)
        NS_CHECK(st, ns_buf_printf(&roles, err, "%s%s", i ? "," : "", o->chat.roles.v[i]), "roles_to_train");
    c.tmpl = o->chat.tmpl ? o->chat.tmpl : "auto";
    c.kwargs = kwargs.data;
    c.form = o->chat.form;
    c.roles = roles.data ? roles.data : "";
    c.tools_key = o->chat.tools_field ? o->chat.tools_field : "tools";
    c.date = o->chat.date;
    c.last_turn_only = o->chat.mask_history;
    c.allow_double_bos = o->chat.allow_double_bos;
    c.allow_missing_end = o->chat.allow_missing_end;
    c.allow_special_text = o->chat.allow_special_text;
    NS_CHECK(st, ns_chat_open(&t->chat, t->tokenizer_dir, &c, err), "model.data");
done:
    ns_buf_free(&kwargs);
    ns_buf_free(&roles);
    return st;
}
