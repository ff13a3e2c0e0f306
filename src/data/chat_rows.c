/* A row of any chat form -> one kind of conversation: messages with role and content, what else they carry, and a flag for
 * each: is it trained?
 *
 *   messages            [{role, content, tool_calls ...}]     weight 0, train false leave a turn out
 *   sharegpt            conversations [{from, value}], system; `mask` of prepare's chat rows: speakers that are not trained
 *   alpaca              instruction, input, output; system; history [[question, answer], ...]
 *   prompt_completion   two lists of messages; only the completion is trained
 * Beside them `tools` (a list, or its JSON text) and `documents`. Text parts of a content list are joined; arguments of tool
 * calls given as JSON text become objects, which is what templates expect. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "data/chat_internal.h"

static ns_str zs(const char *s)
{
    return (ns_str){s, strlen(s)};
}

/* Role names of the forms in use -> the names that templates know; others stay as they are (p NULL: empty). */
static ns_str role_name(ns_str r, int *known)
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
    *known = 1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (r.n == strlen(names[i][0]) && !strncasecmp(r.p, names[i][0], r.n)) return zs(names[i][1]);
    *known = 0;
    return r;
}

int ns_in_list(ns_str list, ns_str who)
{
    for (size_t i = 0; i <= list.n;) {
        const char *comma = list.n - i ? memchr(list.p + i, ',', list.n - i) : NULL;
        size_t n = comma ? (size_t)(comma - list.p) - i : list.n - i;
        if (n == who.n && !memcmp(list.p + i, who.p, n)) return 1;
        i += n + 1;
    }
    return 0;
}

typedef struct reader {
    ns_conversation *out;
    ns_arena *a;
    const ns_chat *c;
    const char *where;
    const ns_json *mask; /* of a NeMo row */
    size_t train_cap;
} reader;

static ns_status set_text(ns_json *m, ns_arena *a, const char *key, ns_str s, ns_error *err)
{
    ns_json v = {.type = NS_JSON_STRING, .s = s};
    return ns_json_set(m, a, key, &v, err);
}

static ns_status add(reader *r, const ns_json *m, int train, ns_error *err)
{
    ns_conversation *v = r->out;
    if (v->messages->n == r->train_cap) {
        size_t cap = r->train_cap ? r->train_cap * 2 : 16;
        uint8_t *t = ns_arena_alloc(r->a, cap, err);
        if (!t) return NS_ERR_MEMORY;
        if (r->train_cap) memcpy(t, v->train, r->train_cap);
        v->train = t;
        r->train_cap = cap;
    }
    v->train[v->messages->n] = (uint8_t)(train != 0);
    return ns_json_append(v->messages, r->a, m, err);
}

static int role_trained(const ns_chat *c, ns_str role)
{
    if (!c) return ns_str_eq(role, "assistant");
    for (size_t i = 0; i < c->n_roles; i++)
        if (ns_str_eq(role, c->roles[i])) return 1;
    return 0;
}

static ns_status add_text(reader *r, const char *role, ns_str text, int train, ns_error *err)
{
    ns_json *m = ns_json_new(r->a, NS_JSON_OBJECT, err);
    if (!m) return NS_ERR_MEMORY;
    NS_TRY(set_text(m, r->a, "role", zs(role), err), "%s", "");
    NS_TRY(set_text(m, r->a, "content", text, err), "%s", "");
    return add(r, m, train && role_trained(r->c, zs(role)), err);
}

/* Content: text, null (a turn that only calls tools), or a list of {"type": "text", "text": ...} parts, joined. */
static ns_status put_content(reader *r, ns_json *m, const ns_json *v, int may_lack, size_t i, ns_error *err)
{
    ns_json null = {.type = NS_JSON_NULL};
    NS_FAIL_IF((!v || v->type == NS_JSON_NULL) && !may_lack, NS_ERR_INPUT, "%s: turn %zu has no content", r->where, i);
    if (!v || v->type == NS_JSON_NULL) return ns_json_set(m, r->a, "content", &null, err);
    if (v->type == NS_JSON_STRING) return ns_json_set(m, r->a, "content", v, err);
    NS_FAIL_IF(v->type != NS_JSON_ARRAY, NS_ERR_INPUT, "%s: content of turn %zu is %s, expected text", r->where, i,
               ns_json_type_text(v));
    size_t total = 0, at = 0;
    for (size_t k = 0; k < v->n; k++) {
        const ns_json *text = ns_json_get(&v->items[k], "text"), *type = ns_json_get(&v->items[k], "type");
        NS_FAIL_IF(!text || text->type != NS_JSON_STRING || (type && !ns_str_eq(type->s, "text")), NS_ERR_UNSUPPORTED,
                   "%s: part %zu of turn %zu is not text: only text can be trained on", r->where, k, i);
        total += text->s.n;
    }
    char *joined = ns_arena_alloc(r->a, total + 1, err);
    if (!joined) return NS_ERR_MEMORY;
    for (size_t k = 0; k < v->n; k++) {
        ns_str s = ns_json_get(&v->items[k], "text")->s;
        if (s.n) memcpy(joined + at, s.p, s.n);
        at += s.n;
    }
    return set_text(m, r->a, "content", (ns_str){joined, total}, err);
}

/* tool_calls: arguments written as JSON text become the object. */
static ns_status put_calls(reader *r, ns_json *m, const ns_json *calls, size_t i, ns_error *err)
{
    ns_json *list = ns_json_new(r->a, NS_JSON_ARRAY, err);
    if (!list) return NS_ERR_MEMORY;
    NS_FAIL_IF(calls->type != NS_JSON_ARRAY, NS_ERR_INPUT, "%s: tool_calls of turn %zu is %s, expected a list",
               r->where, i, ns_json_type_text(calls));
    for (size_t k = 0; k < calls->n; k++) {
        const ns_json *f = ns_json_get(&calls->items[k], "function"), *args = ns_json_get(f, "arguments");
        ns_json *parsed = NULL, *call = NULL, *fn = NULL;
        ns_error ignored = NS_ERROR_INIT;
        if (args && args->type == NS_JSON_STRING &&
            ns_json_parse(&parsed, r->a, args->s.p, args->s.n, r->where, 0, &ignored) == NS_OK &&
            parsed->type == NS_JSON_OBJECT) {
            call = ns_json_new(r->a, NS_JSON_OBJECT, err);
            fn = ns_json_new(r->a, NS_JSON_OBJECT, err);
            if (!call || !fn) return NS_ERR_MEMORY;
            for (size_t q = 0; q < f->n; q++) {
                char *key = ns_arena_strndup(r->a, f->keys[q].p, f->keys[q].n, err);
                if (!key) return NS_ERR_MEMORY;
                NS_TRY(ns_json_set(fn, r->a, key, !strcmp(key, "arguments") ? parsed : &f->items[q], err), "%s",
                       r->where);
            }
            for (size_t q = 0; q < calls->items[k].n; q++) {
                char *key = ns_arena_strndup(r->a, calls->items[k].keys[q].p, calls->items[k].keys[q].n, err);
                if (!key) return NS_ERR_MEMORY;
                NS_TRY(ns_json_set(call, r->a, key, !strcmp(key, "function") ? fn : &calls->items[k].items[q], err),
                       "%s", r->where);
            }
        }
        NS_TRY(ns_json_append(list, r->a, call ? call : &calls->items[k], err), "%s", "");
    }
    return ns_json_set(m, r->a, "tool_calls", list, err);
}

/* weight: 0 or 1; train, training, trainable: booleans. */
static ns_status wanted(reader *r, int *train, const ns_json *m, size_t i, ns_error *err)
{
    static const char *const keys[] = {"train", "training", "trainable"};
    const ns_json *w = ns_json_get(m, "weight");
    double weight = 1;
    if (w && w->type != NS_JSON_NULL) {
        NS_FAIL_IF(!ns_json_is_num(w, &weight) || (weight != 0 && weight != 1), NS_ERR_INPUT,
                   "%s: weight of turn %zu is %s, expected 0 or 1", r->where, i,
                   w->type == NS_JSON_NUMBER ? "another number" : ns_json_type_text(w));
        if (weight == 0) *train = 0;
    }
    for (int k = 0; k < 3; k++) {
        const ns_json *t = ns_json_get(m, keys[k]);
        if (!t || t->type == NS_JSON_NULL) continue;
        NS_FAIL_IF(t->type != NS_JSON_BOOL, NS_ERR_INPUT, "%s: %s of turn %zu is %s, expected true or false", r->where,
                   keys[k], i, ns_json_type_text(t));
        if (!t->b) *train = 0;
    }
    return NS_OK;
}

static ns_status add_message(reader *r, ns_chat_form form, const ns_json *m, int train, size_t i, ns_error *err)
{
    int from = form == NS_CHAT_SHAREGPT &&
               (ns_json_get(m, "from") || !ns_json_get(m, "role")); /* some write role, content there */
    const char *role_key = from ? "from" : "role", *text_key = from ? "value" : "content";
    static const char *const own[] = {"weight", "train",   "training", "trainable", "tool_calls",
                                      "role",   "content", "from",     "value"};
    int known;
    NS_FAIL_IF(m->type != NS_JSON_OBJECT, NS_ERR_INPUT, "%s: turn %zu is %s, expected an object with \"%s\" and \"%s\"",
               r->where, i, ns_json_type_text(m), role_key, text_key);
    const ns_json *name = ns_json_get(m, role_key), *calls = ns_json_get(m, "tool_calls");
    NS_FAIL_IF(!name || name->type != NS_JSON_STRING || !name->s.n, NS_ERR_INPUT, "%s: turn %zu has no \"%s\"",
               r->where, i, role_key);
    ns_str role = role_name(name->s, &known);
    NS_FAIL_IF(!known && !(r->c && r->c->tmpl && !r->mask), NS_ERR_INPUT,
               "%s: turn %zu has role \"%.*s\", expected system, user, assistant or tool (or human, gpt)", r->where, i,
               (int)(name->s.n < 60 ? name->s.n : 60), name->s.p);
    int has_calls = calls && calls->type != NS_JSON_NULL && !(calls->type == NS_JSON_ARRAY && !calls->n);
    train =
        train && (r->mask ? !ns_in_list(r->mask->s, name->s) && !ns_str_eq(role, "system") : role_trained(r->c, role));
    NS_TRY(wanted(r, &train, m, i, err), "%s", "");
    ns_json *copy = ns_json_new(r->a, NS_JSON_OBJECT, err);
    if (!copy) return NS_ERR_MEMORY;
    NS_TRY(set_text(copy, r->a, "role", role, err), "%s", "");
    NS_TRY(put_content(r, copy, ns_json_get(m, text_key), has_calls, i, err), "%s", "");
    for (size_t k = 0; k < m->n; k++) {
        size_t q = 0, n_own = sizeof own / sizeof *own;
        while (q < n_own && !ns_str_eq(m->keys[k], own[q])) q++;
        char *key = q < n_own ? NULL : ns_arena_strndup(r->a, m->keys[k].p, m->keys[k].n, err);
        if (q == n_own && !key) return NS_ERR_MEMORY;
        if (key) NS_TRY(ns_json_set(copy, r->a, key, &m->items[k], err), "%s", "");
    }
    if (has_calls) NS_TRY(put_calls(r, copy, calls, i, err), "%s", "");
    return add(r, copy, train, err);
}

static ns_status add_list(reader *r, ns_chat_form form, const ns_json *row, const char *key, int train, ns_error *err)
{
    const ns_json *list = ns_json_get(row, key);
    NS_FAIL_IF(!list || list->type != NS_JSON_ARRAY, NS_ERR_INPUT, "%s: field \"%s\" is %s, expected a list of turns",
               r->where, key, list ? ns_json_type_text(list) : "missing");
    NS_FAIL_IF(list->n == 0, NS_ERR_INPUT, "%s: field \"%s\" is an empty list", r->where, key);
    for (size_t i = 0; i < list->n; i++) NS_TRY(add_message(r, form, &list->items[i], train, i, err), "field %s", key);
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

static ns_status add_alpaca(reader *r, const ns_json *row, ns_error *err)
{
    ns_str instruction, input, output, system;
    NS_TRY(field(&system, row, "system", 0, r->where, err), "alpaca row");
    NS_TRY(field(&instruction, row, "instruction", 1, r->where, err), "alpaca row");
    NS_TRY(field(&input, row, "input", 0, r->where, err), "alpaca row");
    NS_TRY(field(&output, row, "output", 1, r->where, err), "alpaca row");
    if (system.n) NS_TRY(add_text(r, "system", system, 1, err), "alpaca row");
    const ns_json *history = ns_json_get(row, "history");
    for (size_t i = 0; history && history->type == NS_JSON_ARRAY && i < history->n; i++) {
        const ns_json *h = &history->items[i];
        NS_FAIL_IF(h->type != NS_JSON_ARRAY || h->n != 2 || h->items[0].type != NS_JSON_STRING ||
                       h->items[1].type != NS_JSON_STRING,
                   NS_ERR_INPUT, "%s: history %zu is not a pair of texts (question, answer)", r->where, i);
        NS_TRY(add_text(r, "user", h->items[0].s, 1, err), "history");
        NS_TRY(add_text(r, "assistant", h->items[1].s, 1, err), "history");
    }
    if (input.n) {
        char *both = ns_arena_alloc(r->a, instruction.n + input.n + 3, err);
        if (!both) return NS_ERR_MEMORY;
        if (instruction.n) memcpy(both, instruction.p, instruction.n);
        memcpy(both + instruction.n, "\n\n", 2);
        memcpy(both + instruction.n + 2, input.p, input.n);
        instruction = (ns_str){both, instruction.n + 2 + input.n};
    }
    NS_TRY(add_text(r, "user", instruction, 1, err), "alpaca row");
    return add_text(r, "assistant", output, 1, err);
}

/* A list under `key`, or its JSON text. */
static ns_status side_list(const ns_json **out, reader *r, const ns_json *row, const char *key, ns_error *err)
{
    const ns_json *v = ns_json_get(row, key);
    ns_json *parsed;
    *out = NULL;
    if (!v || v->type == NS_JSON_NULL) return NS_OK;
    if (v->type == NS_JSON_STRING) {
        if (!v->s.n) return NS_OK;
        NS_TRY(ns_json_parse(&parsed, r->a, v->s.p, v->s.n, r->where, 0, err), "JSON text in field %s", key);
        v = parsed;
    }
    NS_FAIL_IF(v->type != NS_JSON_ARRAY, NS_ERR_INPUT, "%s: field \"%s\" is %s, expected a list", r->where, key,
               ns_json_type_text(v));
    *out = v->n ? v : NULL;
    return NS_OK;
}

ns_status ns_conversation_read(ns_conversation *out, ns_arena *a, ns_chat_form form, const ns_chat *c,
                               const ns_json *row, const char *where, ns_error *err)
{
    reader r = {.out = out, .a = a, .c = c, .where = where};
    memset(out, 0, sizeof *out);
    out->messages = ns_json_new(a, NS_JSON_ARRAY, err);
    if (!out->messages) return NS_ERR_MEMORY;
    if (form == NS_CHAT_SHAREGPT) {
        const ns_json *mask = ns_json_get(row, "mask"), *system = ns_json_get(row, "system");
        r.mask = mask && mask->type == NS_JSON_STRING ? mask : NULL;
        out->nemo = r.mask != NULL;
        /* prepare's chat rows always open with a system turn, even an empty one */
        if (system && system->type == NS_JSON_STRING && (system->s.n || r.mask))
            NS_TRY(add_text(&r, "system", system->s, !r.mask, err), "%s", "");
    }
    if (form == NS_CHAT_ALPACA)
        NS_TRY(add_alpaca(&r, row, err), "%s", "");
    else if (form == NS_CHAT_PROMPT_COMPLETION) {
        NS_TRY(add_list(&r, form, row, "prompt", 0, err), "%s", "");
        NS_TRY(add_list(&r, form, row, "completion", 1, err), "%s", "");
    } else
        NS_TRY(add_list(&r, form, row, form == NS_CHAT_MESSAGES ? "messages" : "conversations", 1, err), "%s", "");
    NS_TRY(side_list(&out->tools, &r, row, c ? c->tools_key : "tools", err), "%s", "");
    NS_TRY(side_list(&out->documents, &r, row, "documents", err), "%s", "");
    if (c && c->last_turn_only) {
        size_t last = out->messages->n;
        while (last && !out->train[last - 1]) last--;
        for (size_t i = 0; i + 1 < last; i++) out->train[i] = 0;
    }
    return NS_OK;
}
