/* Tokenizer: Hugging Face tokenizer.json (byte-level or Llama-2 style BPE), exact. Opaque; const after load, safe from many threads.
 *     ns_tok *t; NS_TRY(ns_tok_load(&t, "model/tokenizer.json", err), "load tokenizer");   // file, or directory that has one
 *     ns_ids ids = {0};
 *     NS_TRY(ns_tok_encode(t, &ids, text, n, 0, err), "encode");           // appends
 * A component that is not supported is NS_ERR_UNSUPPORTED naming it. */
#ifndef NS_TOK_TOK_H
#define NS_TOK_TOK_H

#include <stdint.h>

#include "base/buf.h"

typedef struct ns_tok ns_tok;
typedef struct ns_ids {
    int32_t *v;
    size_t n, cap;
} ns_ids;
void ns_ids_free(ns_ids *ids);

enum {
    NS_TOK_ADD_SPECIAL = 1 /* run the post-processor (BOS ...) */,
    NS_TOK_NO_SPECIAL_TEXT = 2 /* special-token text is plain text */
};

NS_MUST_USE ns_status ns_tok_load(ns_tok **out, const char *path, ns_error *err);
void ns_tok_free(ns_tok **t);
/* Appends ids (none on failure). text must be valid UTF-8 (NS_ERR_INPUT names the byte). */
NS_MUST_USE ns_status ns_tok_encode(const ns_tok *t, ns_ids *out, const char *text, size_t n, int flags, ns_error *err);
/* Appends bytes (may end inside a character: streaming callers keep them until whole). skip_special drops special tokens.
 * SentencePiece style: into an empty buffer, one blank in front is dropped; so pass the same buffer to continue a text.
 * An id without a token is NS_ERR_INPUT: a sampler must not draw from the padding rows past ns_tok_vocab_size. */
NS_MUST_USE ns_status ns_tok_decode(const ns_tok *t, ns_buf *out, const int32_t *ids, size_t n, int skip_special,
                                    ns_error *err);
int32_t ns_tok_id(const ns_tok *t, const char *token); /* exact token text (raw, not byte-mapped); -1 if absent */
int64_t ns_tok_vocab_size(const ns_tok *t);            /* highest id + 1, added tokens included */
int32_t ns_tok_bos(const ns_tok *t);                   /* from tokenizer_config.json / post-processor; -1 none */
int32_t ns_tok_eos(const ns_tok *t);
int ns_tok_is_special(const ns_tok *t, int32_t id);
/* tokens("x y") != tokens("x") + tokens("y") (data.md §4.3). */
int ns_tok_space_sensitive(const ns_tok *t);

#endif
