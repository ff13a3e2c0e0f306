/* How conversations become training rows: which template, which turns are trained, what is refused.
 *
 *     ns_chat_options o = NS_CHAT_OPTIONS_DEFAULT;
 *     ns_chat *c;
 *     NS_TRY(ns_chat_open(&c, "model", &o, err), "chat");
 *     rows_options.chat = c;                       // NULL: the shipped layouts, all assistant turns
 *     ...                                          // c outlives the loading of rows
 *     ns_chat_free(&c);
 *
 * Const after open. */
#ifndef NS_DATA_CHAT_H
#define NS_DATA_CHAT_H

#include "base/json.h"
#include "tok/tok.h"

typedef struct ns_chat ns_chat;

typedef struct ns_chat_options {
    const char
        *tmpl; /* auto: the folder's chat template, else a shipped layout; shipped: always the latter; the name of
                              one of the folder's templates; a template file */
    const char *kwargs;    /* JSON object of further template variables, NULL: none */
    const char *form;      /* auto, messages, sharegpt, alpaca, prompt_completion, template */
    const char *roles;     /* comma list of the roles that are trained */
    const char *tools_key; /* field of a row with its tools */
    const char *date;      /* YYYY-MM-DD for templates that write today's date; NULL: today */
    int last_turn_only;    /* of the trained turns only the last one of a row */
    int allow_double_bos, allow_missing_end, allow_special_text;
} ns_chat_options;
#define NS_CHAT_OPTIONS_DEFAULT                                      \
    {                                                                \
        "auto", NULL, "auto", "assistant", "tools", NULL, 0, 0, 0, 0 \
    }

/* tokenizer: folder, or a file in it. Err: NS_ERR_CONFIG, NS_ERR_INPUT naming the setting or the template's line; a
 * fault of the folder's own template (auto) is reported by the first chat row that needs it. */
NS_MUST_USE ns_status ns_chat_open(ns_chat **out, const char *tokenizer, const ns_chat_options *o, ns_error *err);
const char *ns_chat_template_file(const ns_chat *c); /* for logs; NULL: shipped layouts */
ns_str ns_chat_template_source(const ns_chat *c);    /* its text; p NULL: shipped layouts */
/* The shipped layout of that name ("llama3", "chatml") as a chat template for other programs; NULL: it has none. */
const char *ns_chat_layout_template(const char *layout);
void ns_chat_free(ns_chat **c);

/* One conversation for people. */
typedef struct ns_chat_shown {
    ns_buf text;
    ns_ids ids;
    uint8_t *mask; /* [ids.n] 1: trained; all 0 for a prompt */
    const char *form;
} ns_chat_shown;
/* value: a row of any chat form, or a bare list of messages. tools: for a row without its own, or NULL. generation_prompt:
 * up to the answer that is asked for, as at inference (needs a chat template). add_bos, add_eos: as in ns_rows_options.
 * Err: as for rows. out is zeroed first; ns_chat_shown_free. */
typedef struct ns_chat_show_options {
    const ns_json *tools;
    int generation_prompt, add_bos, add_eos;
} ns_chat_show_options;
NS_MUST_USE ns_status ns_chat_show(ns_chat_shown *out, const ns_chat *c, const ns_tok *tok, const ns_json *value,
                                   const ns_chat_show_options *o, const char *where, ns_error *err);
void ns_chat_shown_free(ns_chat_shown *s);

#endif
