/* Chat templates of Hugging Face tokenizer folders: messages -> the text that the model expects.
 *
 *     ns_chat_template *t;
 *     NS_TRY(ns_chat_template_load(&t, "model", NULL, err), "chat template");     // NULL: the folder has none
 *     ns_chat_render r = {.messages = row_messages, .add_generation_prompt = 1};
 *     NS_TRY(ns_chat_template_render(t, &text, &r, err), "render");
 *     ns_chat_template_free(&t);
 *
 * Found in: chat_template.jinja, else chat_template of tokenizer_config.json (a text, or a list of named ones); more named
 * ones in additional_chat_templates/NAME.jinja. Variables: messages, tools, documents, add_generation_prompt, the special
 * tokens (bos_token, eos_token, ... when set) and what the caller adds. Same text as transformers' apply_chat_template.
 * Const after load; many threads may render. */
#ifndef NS_TOK_CHAT_TEMPLATE_H
#define NS_TOK_CHAT_TEMPLATE_H

#include "tok/jinja.h"

typedef struct ns_chat_template ns_chat_template;

typedef struct ns_chat_render {
    const ns_json *messages;  /* array of objects */
    const ns_json *tools;     /* array, or NULL (None) */
    const ns_json *documents; /* array, or NULL (None) */
    const ns_json *extra;     /* object of further variables, or NULL; they win over special tokens */
    int add_generation_prompt;
    int64_t now; /* for strftime_now; 0: the clock */
    ns_jinja_limits limits;
    /* With want_spans: the bytes (of out) inside {% generation %}, in order; owned by the caller (ns_free). */
    int want_spans;
    ns_jinja_span *spans;
    size_t n_spans, spans_cap;
} ns_chat_render;

/* `dir`: the tokenizer folder, or a file in it. `which`: NULL for the folder's own; the name of one of its named templates;
 * or the path of a template file (a name that has a '/' or ends in .jinja). *out NULL: the folder has no template (only
 * when which is NULL). Err: NS_ERR_INPUT, NS_ERR_UNSUPPORTED with line and column; NS_ERR_CONFIG: no such name. */
NS_MUST_USE ns_status ns_chat_template_load(ns_chat_template **out, const char *dir, const char *which, ns_error *err);
/* For tests and fuzzing: one template from memory; config: parsed tokenizer_config.json or NULL. */
NS_MUST_USE ns_status ns_chat_template_build(ns_chat_template **out, const char *text, size_t n, const char *name,
                                             const ns_json *config, ns_error *err);
/* Appends. A row with tools uses the template named tool_use when there is one, as transformers does. */
NS_MUST_USE ns_status ns_chat_template_render(const ns_chat_template *t, ns_buf *out, ns_chat_render *r, ns_error *err);
int ns_chat_template_has_generation(const ns_chat_template *t, int with_tools);
int ns_chat_template_uses(const ns_chat_template *t, const char *variable);
const char *ns_chat_template_name(const ns_chat_template *t); /* file, and name when there are several; for logs */
ns_str ns_chat_template_token(const ns_chat_template *t, const char *role); /* "eos_token"; p NULL: not set */
ns_str ns_chat_template_text(const ns_chat_template *t); /* source of the one used without tools; the template's */
void ns_chat_template_free(ns_chat_template **t);

#endif
