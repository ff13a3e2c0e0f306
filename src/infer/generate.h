/* Greedy generation with a key/value cache and continuous batching: prompts in, texts out, in order.
 *
 * Every forward pass is one packed micro-batch: each active sequence gives its pending tokens (a piece of its prompt, or the
 * token it just produced) as one segment; queries see the sequence's cache rows. A finished sequence leaves its slot to the
 * next prompt at once. Results do not depend on which sequences share a pass.
 *
 *     ns_generator g; NS_TRY(ns_generator_open(&g, "model/", &opt, longest_prompt, err), "open model");
 *     NS_TRY(ns_generate(&g, n, prompt_of, done, user, err), "generate");     // done(user, i, text, n_tokens) as each ends
 *     ns_generator_close(&g);                                                                                        */
#ifndef NS_INFER_GENERATE_H
#define NS_INFER_GENERATE_H

#include "model/engine.h"
#include "tok/tok.h"

typedef struct ns_generate_options {
    int64_t max_new;          /* tokens to generate at most, per prompt */
    int64_t slots;            /* sequences in flight */
    int64_t pass_tokens;      /* tokens of one forward pass at most */
    int f32;                  /* compute in f32 whatever the model is stored as */
    const char *isa;          /* NULL: auto */
    int threads;              /* 0: all */
    const char *const *stops; /* generated text is cut before the first of these */
    size_t n_stops;
    int ignore_eos;
} ns_generate_options;
#define NS_GENERATE_OPTIONS_DEFAULT           \
    {                                         \
        512, 64, 1024, 0, NULL, 0, NULL, 0, 0 \
    }

typedef struct ns_generator {
    ns_engine engine;
    ns_tok *tok;
    ns_arch arch;
    ns_generate_options opt;
    int64_t context; /* cache rows of a slot: longest prompt + max_new */
    struct ns_slot *slots;
    float *logits;                                   /* [slots, vocab] */
    int64_t n_prompt_tokens, n_new_tokens, n_passes; /* totals */
    int64_t n_truncated;                             /* generations cut by max_new */
} ns_generator;

/* longest_prompt: in tokens (ns_generate checks it). Err: model and tokenizer do not belong together; context over the model's. */
NS_MUST_USE ns_status ns_generator_open(ns_generator *g, const char *model_dir, const ns_generate_options *o,
                                        int64_t longest_prompt, ns_error *err);
void ns_generator_close(ns_generator *g);

typedef ns_status (*ns_prompt_fn)(void *user, int64_t i, ns_ids *ids, ns_error *err); /* appends the prompt's tokens */
typedef ns_status (*ns_done_fn)(void *user, int64_t i, const char *text, size_t n, int64_t n_tokens,
                                ns_error *err); /* any order; text is well-formed UTF-8 */
NS_MUST_USE ns_status ns_generate(ns_generator *g, int64_t n, ns_prompt_fn prompt, ns_done_fn done, void *user,
                                  ns_error *err);

#endif
