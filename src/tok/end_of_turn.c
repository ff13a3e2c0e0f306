/* End of turn by a trial conversation (end_of_turn.h). The answer is a word that no template writes by itself. */
#include "tok/end_of_turn.h"

#include <string.h>

#include "base/mem.h"

#define ANSWER "Xanthippe"

static ns_status render(ns_buf *out, const ns_chat_template *t, ns_error *err)
{
    static const char text[] =
        "[{\"role\": \"user\", \"content\": \"Who?\"}, {\"role\": \"assistant\", \"content\": \"" ANSWER "\"}]";
    ns_arena a = NS_ARENA_INIT("end_of_turn");
    char copy[sizeof text]; /* parsing works in place */
    ns_json *messages;
    memcpy(copy, text, sizeof text);
    ns_status st = ns_json_parse(&messages, &a, copy, sizeof text - 1, "conversation", 0, err);
    ns_chat_render r = {.messages = messages, .now = 1};
    if (st == NS_OK) st = ns_chat_template_render(t, out, &r, err);
    ns_free(r.spans);
    ns_arena_free(&a);
    return st;
}

ns_status ns_chat_end_of_turn(int32_t *id, const ns_chat_template *t, const ns_tok *tok, ns_error *err)
{
    ns_buf b = {0};
    ns_ids ids = {0};
    ns_error why = NS_ERROR_INIT;
    *id = -1;
    ns_status st = render(&b, t, &why);
    const char *hit = st == NS_OK && b.len ? memmem(b.data, b.len, ANSWER, strlen(ANSWER)) : NULL;
    for (const char *next = hit; next;) { /* the last one: a template may repeat an answer */
        hit = next;
        next = memmem(hit + 1, (size_t)(b.data + b.len - hit - 1), ANSWER, strlen(ANSWER));
    }
    if (hit) {
        hit += strlen(ANSWER);
        st = ns_tok_encode(tok, &ids, hit, (size_t)(b.data + b.len - hit), 0, &why);
        for (size_t i = 0; st == NS_OK && i < ids.n && *id < 0; i++)
            if (ns_tok_is_special(tok, ids.v[i])) *id = ids.v[i];
    }
    ns_ids_free(&ids);
    ns_buf_free(&b);
    NS_FAIL_IF(st == NS_ERR_MEMORY, NS_ERR_MEMORY, "out of memory");
    return NS_OK;
}
