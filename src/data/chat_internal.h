/* Inside of chat rows: chat.c opens settings, chat_rows.c turns a row of any form into one kind of conversation,
 * rows_chat.c writes it in a shipped layout, chat_mask.c with a template. */
#ifndef NS_DATA_CHAT_INTERNAL_H
#define NS_DATA_CHAT_INTERNAL_H

#include "data/chat.h"
#include "data/rows_internal.h"
#include "tok/chat_template.h"

struct ns_chat {
    ns_arena arena;
    ns_chat_template *tmpl; /* NULL: shipped layouts */
    ns_error problem;       /* the folder's own template cannot be used: matters only when there are chat rows */
    int date_fixed;
    const ns_json *extra;
    const char *tools_key;
    const char *form; /* NULL: detected */
    const char *roles[16];
    size_t n_roles;
    int only_assistant; /* roles is just that */
    int64_t now;
    int last_turn_only, allow_double_bos, allow_missing_end, allow_special_text;
};

typedef struct ns_conversation { /* in the row's arena */
    ns_json *messages;           /* role, content and what else a message has; roles by their usual names */
    uint8_t *train;              /* [messages->n] */
    const ns_json *tools, *documents;
    int nemo; /* a row of prepare's chat formats: the shipped layouts are its template */
} ns_conversation;

NS_MUST_USE ns_status ns_conversation_read(ns_conversation *out, ns_arena *a, ns_chat_form form, const ns_chat *c,
                                           const ns_json *row, const char *where, ns_error *err);
/* Appends the row written with c's template. */
NS_MUST_USE ns_status ns_chat_tokens(ns_row_out *out, const ns_chat *c, const ns_conversation *v,
                                     const ns_rows_options *o, const ns_tok *tok, const char *where, ns_error *err);
/* The conversation up to the answer that is asked for: text and ids appended. */
NS_MUST_USE ns_status ns_chat_prompt(ns_ids *ids, ns_buf *text, const ns_chat *c, const ns_conversation *v,
                                     const ns_tok *tok, const char *where, ns_error *err);
/* Fails when chat rows need the folder's template and it cannot be used. */
NS_MUST_USE ns_status ns_chat_usable(const ns_chat *c, ns_error *err);
/* Is it an element of the comma-separated list? */
int ns_in_list(ns_str list, ns_str who);

#endif
