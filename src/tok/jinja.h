/* Jinja, the part that chat templates use: a template text -> a tree, once; tree + variables -> text, many times.
 *
 *     ns_jinja *t;
 *     NS_TRY(ns_jinja_compile(&t, text, n, "chat_template.jinja", err), "chat template");
 *     ns_jinja_var v[] = {{"messages", row_messages}, {"bos_token", bos}};          // ns_json values
 *     ns_jinja_render r = {.vars = v, .n_vars = 2};
 *     NS_TRY(ns_jinja_run(t, &out, &r, err), "render");
 *     ns_jinja_free(&t);
 *
 * Meaning is that of transformers.apply_chat_template: Jinja 3.1 in its immutable sandbox with trim_blocks and
 * lstrip_blocks, loop controls, tojson without HTML escapes, raise_exception, strftime_now, {% generation %}.
 * A template comes from a stranger: it reaches nothing but its variables, and steps, memory and depth are bounded. What
 * is not known (a tag, filter, test, method) is refused by name; a template error names line and column.
 * Const after compile: many threads may render at once. */
#ifndef NS_TOK_JINJA_H
#define NS_TOK_JINJA_H

#include <stdint.h>

#include "base/json.h"

typedef struct ns_jinja ns_jinja;

typedef struct ns_jinja_var {
    const char *name;
    const ns_json *value; /* NULL: None */
} ns_jinja_var;

typedef struct ns_jinja_span { /* bytes [from, to) of the rendered text */
    size_t from, to;
} ns_jinja_span;

typedef struct ns_jinja_limits {
    uint64_t steps; /* operations of one rendering, about 20 ns each; 0: 50 million */
    size_t bytes;   /* memory of one rendering, output included; 0: 256 MiB */
} ns_jinja_limits;

typedef struct ns_jinja_render {
    const ns_jinja_var *vars; /* a later one of the same name wins */
    size_t n_vars;
    ns_jinja_limits limits;
    int64_t now; /* seconds since 1970 for strftime_now; 0: the clock (local time) */
    /* Out, when want_spans: text written inside {% generation %} blocks, in order. Owned by the caller (ns_free). */
    int want_spans;
    ns_jinja_span *spans;
    size_t n_spans, spans_cap;
} ns_jinja_render;

/* `name` is used in messages. The text is copied. Err: NS_ERR_INPUT (syntax), NS_ERR_UNSUPPORTED (names the part). */
NS_MUST_USE ns_status ns_jinja_compile(ns_jinja **out, const char *text, size_t n, const char *name, ns_error *err);
/* Appends to out (nothing on failure). Err: NS_ERR_INPUT; raise_exception's text is part of the message. */
NS_MUST_USE ns_status ns_jinja_run(const ns_jinja *t, ns_buf *out, ns_jinja_render *r, ns_error *err);
int ns_jinja_has_generation(const ns_jinja *t);         /* are there {% generation %} blocks? */
int ns_jinja_uses(const ns_jinja *t, const char *name); /* is the variable read anywhere? */
void ns_jinja_free(ns_jinja **t);

#endif
