/* Chat rows: a conversation -> ids and a per-token target mask, with a chat template (chat_mask.c) or in a shipped layout.
 *
 * Rendering, chosen by the special tokens that the tokenizer has (T = trained):
 *   llama3   <|begin_of_text|> { <|start_header_id|>role<|end_header_id|>\n\n  content(T)  <|eot_id|>(T) }...
 *   chatml   { <|im_start|>role\n  content(T)  <|im_end|>(T) \n }...
 *   alpaca   ### Instruction:\n…\n\n[### Input:\n…\n\n]### Response:\n  output(T)      (no chat tokens; add_eos ends it)
 * Only assistant turns are trained, and their end token, so that the model learns to stop. Every content is tokenised on
 * its own and as plain text: a merge never crosses from the header into the answer, and text that spells a special
 * token cannot open a turn. No default system prompt is invented. One layout differs from the models' own templates on
 * purpose: Llama 3.1's date lines are not added. */
#include <stdio.h>
#include <string.h>

#include "data/chat_internal.h"

static const ns_chat_layout layouts[] = {
    {"llama3", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", 1,
     "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
     "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt "
     "%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"},
    {"chatml", "", "<|im_start|>", "\n", "<|im_end|>", 0,
     "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
     "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"},
    {"alpaca", "", "", "", "", 0, NULL},
};

const char *ns_chat_layout_template(const char *layout)
{
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
        if (!strcmp(layouts[i].name, layout)) return layouts[i].jinja;
    return NULL;
}

ns_status ns_chat_layout_find(const ns_chat_layout **out, const ns_tok *tok, ns_chat_form form, ns_error *err)
{
    if (ns_tok_id(tok, "<|start_header_id|>") >= 0 && ns_tok_id(tok, "<|eot_id|>") >= 0)
        *out = &layouts[0];
    else if (ns_tok_id(tok, "<|im_start|>") >= 0 && ns_tok_id(tok, "<|im_end|>") >= 0)
        *out = &layouts[1];
    else if (form == NS_CHAT_ALPACA)
        *out = &layouts[2];
    else
        NS_FAIL(
            NS_ERR_UNSUPPORTED,
            "chat rows need a chat layout, and the tokenizer has neither <|start_header_id|> and <|eot_id|> (llama3) "
            "nor <|im_start|> and <|im_end|> (chatml): use its instruct version, or prepare rows with input and "
            "output text");
    return NS_OK;
}

/* Appends the ids of s, all with the same target flag. */
static ns_status put(ns_row_out *out, const ns_tok *tok, ns_str s, int flags, int target, ns_error *err)
{
    size_t before = out->ids.n;
    NS_TRY(ns_tok_encode(tok, &out->ids, s.p, s.n, flags, err), "tokenise");
    NS_TRY(ns_grow((void **)&out->mask, &out->mask_cap, out->ids.n + 1, 1, "rows.mask", err), "mask");
    memset(out->mask + before, target, out->ids.n - before);
    return NS_OK;
}

static ns_str zs(const char *s)
{
    return (ns_str){s, strlen(s)};
}

static ns_str strip(ns_str s)
{
    while (s.n && strchr(" \t\r\n\v\f", s.p[0])) s.p++, s.n--;
    while (s.n && strchr(" \t\r\n\v\f", s.p[s.n - 1])) s.n--;
    return s;
}

static ns_status put_turn(ns_row_out *out, const ns_chat_layout *l, const ns_tok *tok, ns_str role, ns_str content,
                          int target, ns_error *err)
{
    if (l->strip) content = strip(content);
    NS_TRY(put(out, tok, zs(l->before_role), 0, 0, err), "turn");
    /* role and what follows form one piece: "user\n" may be one token in some vocabularies */
    char head[128];
    int n = snprintf(head, sizeof head, "%.*s%s", (int)role.n, role.p, l->after_role);
    NS_ASSERT(n > 0 && (size_t)n < sizeof head);
    NS_TRY(put(out, tok, (ns_str){head, (size_t)n}, 0, 0, err), "turn");
    NS_TRY(put(out, tok, content, NS_TOK_NO_SPECIAL_TEXT, target, err), "turn");
    NS_TRY(put(out, tok, zs(l->after_turn), 0, target, err), "turn");
    if (!strcmp(l->name, "chatml")) NS_TRY(put(out, tok, zs("\n"), 0, 0, err), "turn");
    if (target && content.n) out->empty = 0;
    return ns_row_span_add(out, role, (int64_t)(out->ids.n - out->row_begin), err);
}

/* The turns of a conversation. */
static ns_status put_turns(ns_row_out *out, const ns_chat_layout *l, const ns_tok *tok, const ns_conversation *v,
                           const char *where, ns_error *err)
{
    NS_FAIL_IF(v->tools, NS_ERR_UNSUPPORTED,
               "%s: the row has tools, and the shipped %s layout has no place for them: use a chat template "
               "(chat_template=FILE), "
               "or write them into a message",
               where, l->name);
    for (size_t i = 0; i < v->messages->n; i++) {
        const ns_json *m = &v->messages->items[i];
        NS_FAIL_IF(ns_json_get(m, "tool_calls"), NS_ERR_UNSUPPORTED,
                   "%s: turn %zu has tool_calls, and the shipped %s layout has no place for them: use a chat template "
                   "(chat_template=FILE), or write them into its content",
                   where, i, l->name);
        NS_TRY(put_turn(out, l, tok, ns_json_get(m, "role")->s, ns_json_get(m, "content")->s, v->train[i], err),
               "turn %zu", i);
    }
    return NS_OK;
}

static ns_status field(ns_str *out, const ns_json *row, const char *key, int required, const char *where, ns_error *err)
{
    const ns_json *v = ns_json_get(row, key);
    *out = (ns_str){"", 0};
    if (!required && (!v || v->type == NS_JSON_NULL)) return NS_OK;
    char keys[256];
    NS_FAIL_IF(!v, NS_ERR_INPUT, "%s: no field \"%s\" (the row has: %s)", where, key,
               ns_rows_keys(row, keys, sizeof keys));
    NS_FAIL_IF(v->type != NS_JSON_STRING, NS_ERR_INPUT, "%s: field \"%s\" is %s, expected text", where, key,
               ns_json_type_text(v));
    *out = v->s;
    return NS_OK;
}

/* Alpaca rows without chat tokens: the headings. */
static ns_status put_headings(ns_row_out *out, const ns_tok *tok, const ns_json *row, int train, const char *where,
                              ns_error *err)
{
    ns_str instruction, input, output;
    const ns_json *history = ns_json_get(row, "history"), *system = ns_json_get(row, "system");
    NS_FAIL_IF((history && history->n) || (system && system->type == NS_JSON_STRING && system->s.n), NS_ERR_UNSUPPORTED,
               "%s: the row has %s, and the headings of alpaca rows have no place for it: the tokenizer has no chat "
               "tokens, so use "
               "its instruct version or a chat template (chat_template=FILE)",
               where, history && history->n ? "history" : "system");
    NS_TRY(field(&instruction, row, "instruction", 1, where, err), "alpaca row");
    NS_TRY(field(&input, row, "input", 0, where, err), "alpaca row");
    NS_TRY(field(&output, row, "output", 1, where, err), "alpaca row");
    ns_buf b = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_buf_adds(&b, "### Instruction:\n", err), "alpaca row");
    NS_CHECK(st, ns_buf_add(&b, instruction.p, instruction.n, err), "alpaca row");
    if (input.n) {
        NS_CHECK(st, ns_buf_adds(&b, "\n\n### Input:\n", err), "alpaca row");
        NS_CHECK(st, ns_buf_add(&b, input.p, input.n, err), "alpaca row");
    }
    NS_CHECK(st, ns_buf_adds(&b, "\n\n### Response:\n", err), "alpaca row");
    NS_CHECK(st, put(out, tok, (ns_str){b.data, b.len}, NS_TOK_NO_SPECIAL_TEXT, 0, err), "alpaca row");
    NS_CHECK(st, ns_row_span_add(out, zs("instruction"), (int64_t)(out->ids.n - out->row_begin), err), "alpaca row");
    NS_CHECK(st, put(out, tok, output, NS_TOK_NO_SPECIAL_TEXT, train, err), "alpaca row");
    NS_CHECK(st, ns_row_span_add(out, zs("output"), (int64_t)(out->ids.n - out->row_begin), err), "alpaca row");
    if (output.n) out->empty = 0;
done:
    ns_buf_free(&b);
    return st;
}

static ns_status put_row(ns_row_out *out, ns_chat_form form, const ns_chat_layout *l, const ns_rows_options *o,
                         const ns_tok *tok, const ns_json *row, ns_arena *a, const char *where, ns_error *err)
{
    ns_conversation v;
    NS_TRY(ns_conversation_read(&v, a, form, o->chat, row, where, err), "%s", "");
    if (!v.nemo) NS_TRY(ns_chat_usable(o->chat, err), "chat template");
    if (o->chat && o->chat->tmpl && !v.nemo) return ns_chat_tokens(out, o->chat, &v, o, tok, where, err);
    if (!l) NS_TRY(ns_chat_layout_find(&l, tok, form, err), "%s", "");
    NS_TRY(put(out, tok, zs(l->begin), 0, 0, err), "%s", "");
    if (!strcmp(l->name, "alpaca"))
        NS_TRY(put_headings(out, tok, row, v.train[v.messages->n - 1], where, err), "%s", "");
    else
        NS_TRY(put_turns(out, l, tok, &v, where, err), "%s", "");
    if (o->add_eos && !l->after_turn[0]) { /* chat layouts end a turn by themselves */
        NS_TRY(ns_grow((void **)&out->ids.v, &out->ids.cap, out->ids.n + 1, sizeof *out->ids.v, "rows.ids", err),
               "ids");
        NS_TRY(ns_grow((void **)&out->mask, &out->mask_cap, out->ids.n + 1, 1, "rows.mask", err), "mask");
        out->mask[out->ids.n] = 1;
        out->ids.v[out->ids.n++] = o->eos_id;
    }
    return NS_OK;
}

ns_status ns_rows_chat(ns_row_out *out, ns_chat_form form, const ns_chat_layout *l, const ns_rows_options *o,
                       const ns_tok *tok, const ns_json *row, ns_arena *a, const char *where, ns_error *err)
{
    size_t begin = out->ids.n;
    out->empty = 1;
    out->row_begin = begin;
    NS_TRY(put_row(out, form, l, o, tok, row, a, where, err), "%s", "");
    size_t n = out->ids.n - begin, max = (size_t)o->max_seq_length;
    out->full = (int64_t)n;
    out->truncated = n > max;
    if (out->truncated) { /* right: the end goes; left: the beginning goes */
        if (o->too_long == NS_LONG_LEFT) {
            memmove(out->ids.v + begin, out->ids.v + begin + (n - max), max * sizeof *out->ids.v);
            memmove(out->mask + begin, out->mask + begin + (n - max), max);
        }
        out->ids.n = begin + max;
        n = max;
    }
    out->answer_start = (int32_t)n; /* first target, for reports */
    for (size_t i = 0; i < n; i++)
        if (out->mask[begin + i]) {
            out->answer_start = (int32_t)i;
            break;
        }
    return NS_OK;
}
