/* Flags for conversations -> data/chat.h. */
#include "cli/chat_flags.h"

#include <string.h>

int chat_flags_given(const chat_flags *f)
{
    return !f->tmpl || strcmp(f->tmpl, "auto") || f->kwargs || f->date || strcmp(f->form, "auto") || !f->tools_field ||
           strcmp(f->tools_field, "tools") || f->roles.n != 1 || strcmp(f->roles.v[0], "assistant") ||
           f->mask_history || f->allow_double_bos || f->allow_missing_end || f->allow_special_text;
}

ns_status chat_flags_open(ns_chat **out, const char *tokenizer, const chat_flags *f, ns_error *err)
{
    ns_chat_options c = NS_CHAT_OPTIONS_DEFAULT;
    ns_buf roles = {0};
    ns_status st = NS_OK;
    for (size_t i = 0; i < f->roles.n; i++)
        NS_CHECK(st, ns_buf_printf(&roles, err, "%s%s", i ? "," : "", f->roles.v[i]), "roles");
    c.tmpl = f->tmpl ? f->tmpl : "auto";
    c.kwargs = f->kwargs;
    c.date = f->date;
    c.form = f->form;
    c.roles = roles.data ? roles.data : "";
    c.tools_key = f->tools_field ? f->tools_field : "tools";
    c.last_turn_only = f->mask_history;
    c.allow_double_bos = f->allow_double_bos;
    c.allow_missing_end = f->allow_missing_end;
    c.allow_special_text = f->allow_special_text;
    NS_CHECK(st, ns_chat_open(out, tokenizer, &c, err), "chat");
done:
    ns_buf_free(&roles);
    return st;
}
