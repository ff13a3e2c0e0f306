/* Settings of chat rows: the options as data/chat.h wants them. */
#include <string.h>

#include "train/sft.h"

ns_status ns_sft_open_chat(ns_sft *t, ns_error *err)
{
    const ns_sft_options *o = t->o;
    ns_chat_options c = NS_CHAT_OPTIONS_DEFAULT;
    ns_buf kwargs = {0}, roles = {0};
    ns_status st = NS_OK;
    if (o->chat.kwargs && o->chat.kwargs->type != NS_NODE_NULL)
        NS_CHECK(st, ns_node_json(&kwargs, o->chat.kwargs, err), "chat_template_kwargs");
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
