/* One conversation, written and tokenised as a training row or as a prompt, for people to look at. */
#include <string.h>

#include "data/chat_internal.h"

/* The row: value itself, or {"messages": value}; with tools if it has none. */
static ns_status as_row(const ns_json **out, ns_arena *a, const ns_chat *c, const ns_json *value, const ns_json *tools,
                        const char *where, ns_error *err)
{
    NS_FAIL_IF(value->type != NS_JSON_OBJECT && value->type != NS_JSON_ARRAY, NS_ERR_INPUT,
               "%s: found %s, expected a row with messages, or a list of messages", where, ns_json_type_text(value));
    const ns_json *own = ns_json_get(value, c->tools_key);
    int add_tools = tools && (!own || own->type == NS_JSON_NULL);
    *out = value;
    if (value->type == NS_JSON_OBJECT && !add_tools) return NS_OK;
    ns_json *row = ns_json_new(a, NS_JSON_OBJECT, err);
    if (!row) return NS_ERR_MEMORY;
    if (value->type == NS_JSON_ARRAY) NS_TRY(ns_json_set(row, a, "messages", value, err), "%s", where);
    for (size_t i = 0; value->type == NS_JSON_OBJECT && i < value->n; i++) {
        char *key = ns_arena_strndup(a, value->keys[i].p, value->keys[i].n, err);
        if (!key) return NS_ERR_MEMORY;
        NS_TRY(ns_json_set(row, a, key, &value->items[i], err), "%s", where);
    }
    if (add_tools) NS_TRY(ns_json_set(row, a, c->tools_key, tools, err), "%s", where);
    *out = row;
    return NS_OK;
}

static ns_status show(ns_chat_shown *out, const ns_chat *c, const ns_tok *tok, const ns_json *row, ns_arena *a,
                      const ns_chat_show_options *so, const char *where, ns_error *err)
{
    ns_rows_options o = NS_ROWS_OPTIONS_DEFAULT;
    ns_row_out ro = {.text = &out->text};
    ns_status st = NS_OK;
    char keys[256];
    int form = ns_rows_form(row, c);
    NS_FAIL_IF(form < 0, NS_ERR_INPUT,
               "%s: the row has %s and no conversation: expected messages, conversations, instruction and output, or "
               "prompt and "
               "completion",
               where, ns_rows_keys(row, keys, sizeof keys));
    out->form = ns_chat_form_name[form];
    o.chat = c;
    o.max_seq_length = INT32_MAX;
    o.add_bos = so->add_bos;
    o.add_eos = so->add_eos;
    o.eos_id = ns_tok_eos(tok);
    o.bos_id = ns_tok_bos(tok);
    NS_FAIL_IF((o.add_bos && o.bos_id < 0) || (o.add_eos && o.eos_id < 0), NS_ERR_CONFIG,
               "the tokenizer has no %s token", o.add_bos && o.bos_id < 0 ? "BOS" : "EOS");
    if (so->generation_prompt) {
        ns_conversation v;
        NS_FAIL_IF(!c->tmpl, NS_ERR_CONFIG,
                   "a generation prompt needs a chat template: the tokenizer folder has none (--chat-template)");
        NS_FAIL_IF(o.add_bos || o.add_eos, NS_ERR_CONFIG,
                   "a generation prompt is the template's alone: leave add-bos and add-eos out");
        NS_TRY(ns_conversation_read(&v, a, (ns_chat_form)form, c, row, where, err), "row");
        NS_TRY(ns_chat_prompt(&out->ids, &out->text, c, &v, tok, where, err), "prompt");
        return ns_alloc((void **)&out->mask, out->ids.n, "chat.mask", err);
    }
    NS_CHECK(st, ns_rows_chat(&ro, (ns_chat_form)form, NULL, &o, tok, row, a, where, err), "row");
    out->ids = ro.ids;
    out->mask = ro.mask;
    ro.ids = (ns_ids){0};
    ro.mask = NULL;
    if (!out->text.len) NS_CHECK(st, ns_tok_decode(tok, &out->text, out->ids.v, out->ids.n, 0, err), "text");
done:
    ns_ids_free(&ro.ids);
    ns_free(ro.mask);
    ns_free(ro.span);
    return st;
}

ns_status ns_chat_show(ns_chat_shown *out, const ns_chat *c, const ns_tok *tok, const ns_json *value,
                       const ns_chat_show_options *o, const char *where, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("chat.show");
    const ns_json *row = NULL;
    ns_status st = NS_OK;
    memset(out, 0, sizeof *out);
    NS_CHECK(st, ns_buf_reserve(&out->text, 1, err), "text");
    NS_CHECK(st, ns_chat_usable(c, err), "chat template");
    NS_CHECK(st, as_row(&row, &a, c, value, o->tools, where, err), "row");
    NS_CHECK(st, show(out, c, tok, row, &a, o, where, err), "%s", "");
done:
    ns_arena_free(&a);
    if (st != NS_OK) ns_chat_shown_free(out);
    return st;
}

void ns_chat_shown_free(ns_chat_shown *s)
{
    ns_buf_free(&s->text);
    ns_ids_free(&s->ids);
    ns_free(s->mask);
    memset(s, 0, sizeof *s);
}
