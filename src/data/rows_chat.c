/* Chat rows: turns -> ids and a per-token target mask.
 *
 * Rendering, chosen by the special tokens that the tokenizer has (T = trained):
 *   llama3   <|begin_of_text|> { <|start_header_id|>role<|end_header_id|>\n\n  content(T)  <|eot_id|>(T) }...
 *   chatml   { <|im_start|>role\n  content(T)  <|im_end|>(T) \n }...
 *   alpaca   ### Instruction:\n…\n\n[### Input:\n…\n\n]### Response:\n  output(T)      (no chat tokens; add_eos ends it)
 * Only assistant turns are trained, and their end token, so that the model learns to stop. Every content is tokenised on
 * its own and as plain text: a merge never crosses from the header into the answer, and text that spells a special
 * token cannot open a turn. No default system prompt is invented. One layout differs from the models' own templates on
 * purpose: Llama 3.1's date lines are not added. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "data/rows_internal.h"

static const ns_chat_layout layouts[] = {
    {"llama3", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", 1},
    {"chatml", "", "<|im_start|>", "\n", "<|im_end|>", 0},
    {"alpaca", "", "", "", "", 0},
};

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

/* Content of a turn: text, or OpenAI's list of {"type": "text", "text": ...} parts, joined into buf. */
static ns_status content_text(ns_str *out, ns_buf *buf, const ns_json *v, const char *where, size_t i, ns_error *err)
{
    NS_FAIL_IF(!v, NS_ERR_INPUT, "%s: turn %zu has no content", where, i);
    if (v->type == NS_JSON_STRING) {
        *out = v->s;
        return NS_OK;
    }
    NS_FAIL_IF(v->type != NS_JSON_ARRAY, NS_ERR_INPUT, "%s: content of turn %zu is %s, expected text", where, i,
               ns_json_type_text(v));
    ns_buf_clear(buf);
    for (size_t k = 0; k < v->n; k++) {
        const ns_json *text = ns_json_get(&v->items[k], "text"), *type = ns_json_get(&v->items[k], "type");
        NS_FAIL_IF(!text || text->type != NS_JSON_STRING || (type && !ns_str_eq(type->s, "text")), NS_ERR_UNSUPPORTED,
                   "%s: part %zu of turn %zu is not text: only text can be trained on", where, k, i);
        NS_TRY(ns_buf_add(buf, text->s.p, text->s.n, err), "content");
    }
    *out = (ns_str){buf->data, buf->len};
    return NS_OK;
}

/* Role names of the forms in use -> the names that chat layouts know. Empty when unknown. */
static ns_str role_name(ns_str r)
{
    static const char *const names[][2] = {
        {"human", "user"},          {"user", "user"},         {"prompter", "user"},
        {"gpt", "assistant"},       {"chatgpt", "assistant"}, {"bot", "assistant"},
        {"assistant", "assistant"}, {"model", "assistant"},   {"system", "system"},
        {"developer", "developer"}, {"tool", "tool"},         {"function", "tool"},
        {"ipython", "ipython"},     {"observation", "tool"},  {"function_call", "assistant"},
    };
    const ns_str open = zs("<|start_header_id|>"),
                 close = zs("<|end_header_id|>"); /* rows of prepare's llama chat format */
    if (r.n > open.n + close.n && !memcmp(r.p, open.p, open.n) && !memcmp(r.p + r.n - close.n, close.p, close.n))
        r = (ns_str){r.p + open.n, r.n - open.n - close.n};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (r.n == strlen(names[i][0]) && !strncasecmp(r.p, names[i][0], r.n)) return zs(names[i][1]);
    return (ns_str){NULL, 0};
}

/* Is `who` an element of the comma-separated list? (`mask` of NeMo chat rows: speakers that are not trained) */
static int in_mask(ns_str list, ns_str who)
{
    for (size_t i = 0; i <= list.n;) {
        const char *comma = memchr(list.p + i, ',', list.n - i);
        size_t n = comma ? (size_t)(comma - list.p) - i : list.n - i;
        if (n == who.n && !memcmp(list.p + i, who.p, n)) return 1;
        i += n + 1;
    }
    return 0;
}

/* One turn of a list; `train` allows its assistant turns as targets. */
static ns_status put_message(ns_row_out *out, ns_buf *buf, ns_chat_form form, const ns_chat_layout *l,
                             const ns_tok *tok, const ns_json *m, const ns_json *mask, int train, const char *where,
                             size_t i, ns_error *err)
{
    const char *role_key = form == NS_CHAT_SHAREGPT ? "from" : "role";
    const char *text_key = form == NS_CHAT_SHAREGPT ? "value" : "content";
    NS_FAIL_IF(m->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s: turn %zu is %s, expected an object with \"%s\" and \"%s\"",
               where, i, ns_json_type_text(m), role_key, text_key);
    const ns_json *r = ns_json_get(m, role_key), *w = ns_json_get(m, "weight");
    NS_FAIL_IF(!r || r->type != NS_JSON_STRING, NS_ERR_INPUT, "%s: turn %zu has no \"%s\"", where, i, role_key);
    ns_str role = role_name(r->s), text;
    NS_FAIL_IF(!role.p, NS_ERR_INPUT,
               "%s: turn %zu has role \"%.*s\", expected system, user, assistant or tool (or human, gpt)", where, i,
               (int)(r->s.n < 60 ? r->s.n : 60), r->s.p);
    const ns_json *calls = ns_json_get(m, "tool_calls");
    NS_FAIL_IF(calls && calls->type == NS_JSON_ARRAY && calls->n, NS_ERR_UNSUPPORTED,
               "%s: turn %zu has tool_calls: write them into its content", where, i);
    NS_TRY(content_text(&text, buf, ns_json_get(m, text_key), where, i, err), "turn");
    int target = train && ns_str_eq(role, "assistant");
    if (mask) target = train && !in_mask(mask->s, r->s) && !ns_str_eq(role, "system");
    double weight;
    if (w && ns_json_is_num(w, &weight) && weight == 0.0) target = 0;
    return put_turn(out, l, tok, role, text, target, err);
}

static ns_status put_list(ns_row_out *out, ns_chat_form form, const ns_chat_layout *l, const ns_tok *tok,
                          const ns_json *list, const char *name, const ns_json *mask, int train, const char *where,
                          ns_error *err)
{
    ns_buf buf = {0};
    ns_status st = NS_OK;
    NS_FAIL_IF(!list || list->type != NS_JSON_ARRAY, NS_ERR_INPUT, "%s: field \"%s\" is %s, expected a list of turns",
               where, name, list ? ns_json_type_text(list) : "missing");
    NS_FAIL_IF(list->n == 0, NS_ERR_INPUT, "%s: field \"%s\" is an empty list", where, name);
    for (size_t i = 0; i < list->n && st == NS_OK; i++)
        st = put_message(out, &buf, form, l, tok, &list->items[i], mask, train, where, i, err);
    ns_buf_free(&buf);
    return st;
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

static ns_status put_alpaca(ns_row_out *out, const ns_chat_layout *l, const ns_tok *tok, const ns_json *row,
                            const char *where, ns_error *err)
{
    ns_str instruction, input, output;
    NS_TRY(field(&instruction, row, "instruction", 1, where, err), "alpaca row");
    NS_TRY(field(&input, row, "input", 0, where, err), "alpaca row");
    NS_TRY(field(&output, row, "output", 1, where, err), "alpaca row");
    ns_buf b = {0};
    ns_status st = NS_OK;
    int plain = !strcmp(l->name, "alpaca");
    if (plain) NS_CHECK(st, ns_buf_adds(&b, "### Instruction:\n", err), "alpaca row");
    NS_CHECK(st, ns_buf_add(&b, instruction.p, instruction.n, err), "alpaca row");
    if (input.n) {
        NS_CHECK(st, ns_buf_adds(&b, plain ? "\n\n### Input:\n" : "\n\n", err), "alpaca row");
        NS_CHECK(st, ns_buf_add(&b, input.p, input.n, err), "alpaca row");
    }
    if (plain) {
        NS_CHECK(st, ns_buf_adds(&b, "\n\n### Response:\n", err), "alpaca row");
        NS_CHECK(st, put(out, tok, (ns_str){b.data, b.len}, NS_TOK_NO_SPECIAL_TEXT, 0, err), "alpaca row");
        NS_CHECK(st, ns_row_span_add(out, zs("instruction"), (int64_t)(out->ids.n - out->row_begin), err),
                 "alpaca row");
        NS_CHECK(st, put(out, tok, output, NS_TOK_NO_SPECIAL_TEXT, 1, err), "alpaca row");
        NS_CHECK(st, ns_row_span_add(out, zs("output"), (int64_t)(out->ids.n - out->row_begin), err), "alpaca row");
        if (output.n) out->empty = 0;
    } else {
        NS_CHECK(st, put_turn(out, l, tok, zs("user"), (ns_str){b.data, b.len}, 0, err), "alpaca row");
        NS_CHECK(st, put_turn(out, l, tok, zs("assistant"), output, 1, err), "alpaca row");
    }
done:
    ns_buf_free(&b);
    return st;
}

ns_status ns_rows_chat(ns_row_out *out, ns_chat_form form, const ns_chat_layout *l, const ns_rows_options *o,
                       const ns_tok *tok, const ns_json *row, const char *where, ns_error *err)
{
    size_t begin = out->ids.n;
    out->empty = 1;
    out->row_begin = begin;
    NS_TRY(put(out, tok, zs(l->begin), 0, 0, err), "%s", where);
    if (form == NS_CHAT_ALPACA) {
        NS_TRY(put_alpaca(out, l, tok, row, where, err), "%s", where);
    } else if (form == NS_CHAT_PROMPT_COMPLETION) {
        NS_TRY(put_list(out, form, l, tok, ns_json_get(row, "prompt"), "prompt", NULL, 0, where, err), "prompt");
        NS_TRY(put_list(out, form, l, tok, ns_json_get(row, "completion"), "completion", NULL, 1, where, err),
               "completion");
    } else {
        const char *key = form == NS_CHAT_MESSAGES ? "messages" : "conversations";
        const ns_json *mask = form == NS_CHAT_SHAREGPT ? ns_json_get(row, "mask") : NULL;
        if (mask && mask->type != NS_JSON_STRING) mask = NULL;
        const ns_json *system = form == NS_CHAT_SHAREGPT ? ns_json_get(row, "system") : NULL;
        /* prepare's chat rows always open with a system turn, even an empty one */
        if (system && system->type == NS_JSON_STRING && (system->s.n || mask))
            NS_TRY(put_turn(out, l, tok, zs("system"), system->s, 0, err), "%s", where);
        NS_TRY(put_list(out, form, l, tok, ns_json_get(row, key), key, mask, 1, where, err), "turns");
    }
    if (o->add_eos && !l->after_turn[0]) { /* chat layouts end a turn by themselves */
        NS_TRY(ns_grow((void **)&out->ids.v, &out->ids.cap, out->ids.n + 1, sizeof *out->ids.v, "rows.ids", err),
               "ids");
        NS_TRY(ns_grow((void **)&out->mask, &out->mask_cap, out->ids.n + 1, 1, "rows.mask", err), "mask");
        out->mask[out->ids.n] = 1;
        out->ids.v[out->ids.n++] = o->eos_id;
    }
    size_t n = out->ids.n - begin, max = (size_t)o->max_seq_length;
    out->truncated = n > max;
    if (out->truncated) { /* right: the end goes; left: the beginning goes */
        if (o->truncate_left) {
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
