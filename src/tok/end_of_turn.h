/* The token that ends an answer by a chat template: what a model trained with it says when it is done.
 *     int32_t id; NS_TRY(ns_chat_end_of_turn(&id, tmpl, tok, err), "chat template");     // -1: none, or not to be told
 * Found by writing a question and an answer with the template: the first special token behind the answer. */
#ifndef NS_TOK_END_OF_TURN_H
#define NS_TOK_END_OF_TURN_H

#include "tok/chat_template.h"
#include "tok/tok.h"

/* Err: NS_ERR_MEMORY only; a template that cannot write such a conversation has no end of turn. */
NS_MUST_USE ns_status ns_chat_end_of_turn(int32_t *id, const ns_chat_template *t, const ns_tok *tok, ns_error *err);

#endif
