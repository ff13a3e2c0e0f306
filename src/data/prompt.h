/* Prompts: a prompt configuration (what to say) and a template (a model's turn tags) -> text (data.md §3).
 *
 *     ns_prompt *p;
 *     NS_TRY(ns_prompt_load(&p, &(ns_prompt_options){.config = "generic/math", .tmpl = "llama3-instruct"}, err), "prompt");
 *     NS_TRY(ns_prompt_fill(p, &out, row, NULL, "data.jsonl:1", err), "fill");
 *     ns_prompt_free(&p);
 *
 * Names are looked up in share/prompt/{config,template}; a name that ends in .yaml is a path. Const after load. */
#ifndef NS_DATA_PROMPT_H
#define NS_DATA_PROMPT_H

#include "base/json.h"
#include "base/mem.h"
#include "data/retrieve.h"

typedef struct ns_prompt_template {
    const char *name;
    const char *text_begin, *system_begin, *system_end, *user_begin, *user_end, *assistant_begin, *assistant_end;
    const char *code_begin, *code_end, *code_output_begin, *code_output_end, *code_output_format;
    const char **stop_phrases; /* at which generated text is cut */
    size_t n_stop;
} ns_prompt_template;

typedef struct ns_prompt {
    ns_arena arena; /* owns every string */
    const char *name;
    const char *user, *system; /* system "" when absent */
    struct {
        const char *prefix, *tmpl, *suffix, *type; /* type NULL: no examples; may hold placeholders */
    } few_shot;
    int has_template; /* 0: fill gives an error, use ns_prompt_messages */
    ns_prompt_template t;
    /* the example set last used, when its name has no placeholders: loaded once */
    const ns_json *examples;
    ns_retriever *retriever; /* NULL: examples are not retrieved */
} ns_prompt;

typedef struct ns_prompt_options {
    const char *config;        /* required */
    const char *tmpl;          /* NULL: no template */
    const char *examples_type; /* overrides the configuration's; NULL: keep */
} ns_prompt_options;

NS_MUST_USE ns_status ns_prompt_load(ns_prompt **out, const ns_prompt_options *o, ns_error *err);
NS_MUST_USE ns_status ns_prompt_template_load(ns_prompt_template *out, ns_arena *a, const char *name, ns_error *err);
void ns_prompt_free(ns_prompt **p);

/* Appends the single-turn text up to and including assistant_begin. `hidden`: a key of row that is no placeholder. */
NS_MUST_USE ns_status ns_prompt_fill(const ns_prompt *p, ns_buf *out, const ns_json *row, const char *hidden,
                                     const char *where, ns_error *err);
/* Several turns: row[key] is a list; all but the last element have "assistant". */
NS_MUST_USE ns_status ns_prompt_fill_turns(const ns_prompt *p, ns_buf *out, const ns_json *row, const char *key,
                                           const char *where, ns_error *err);
/* The user text alone; with_examples = 0 leaves {examples} empty. */
NS_MUST_USE ns_status ns_prompt_user(const ns_prompt *p, ns_buf *out, const ns_json *row, const char *hidden,
                                     int with_examples, const char *where, ns_error *err);
/* List of {role, content} in arena a. The system text is raw (braces stay doubled), as the reference sends it. */
NS_MUST_USE ns_status ns_prompt_messages(const ns_prompt *p, ns_json **out, ns_arena *a, const ns_json *row,
                                         const char *where, ns_error *err);

/* Path of a shipped file: $NS_SHARE, <program>/../share/ns, <program>/../share, or the source tree. Err: NS_ERR_IO. */
NS_MUST_USE ns_status ns_share_path(char *out, size_t n, const char *relative, ns_error *err);
/* Text produced by running code, between a template's output tags (data.md §3.4). left < 0: no remaining-executions block. */
NS_MUST_USE ns_status ns_prompt_code_output(const ns_prompt_template *t, ns_buf *out, const char *status,
                                            ns_str std_out, ns_str std_err, int left, ns_error *err);

#endif
