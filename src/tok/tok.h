/* Tokenizer: Hugging Face tokenizer.json, exact. Opaque; const after load, safe from many threads.
 * Also SentencePiece models (tokenizer.model), tiktoken rank files, tekken.json.
 *     ns_tok *t; NS_TRY(ns_tok_load(&t, "model/tokenizer.json", err), "load tokenizer");   // file, or directory that has one
 *     ns_ids ids = {0};
 *     NS_TRY(ns_tok_encode(t, &ids, text, n, 0, err), "encode");           // appends
 * A component that is not supported is NS_ERR_UNSUPPORTED naming it. */
#ifndef NS_TOK_TOK_H
#define NS_TOK_TOK_H

#include <stdint.h>

#include "base/buf.h"
#include "tok/span.h"

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

/* path: a folder with tokenizer.json, tokenizer.model, tekken.json or qwen.tiktoken (the first of these; beside it
 * tokenizer_config.json and special_tokens_map.json), or such a file. A SentencePiece file given by itself is read alone, as
 * the sentencepiece library does: control symbols are not found in text, BOS is the template. A tiktoken file needs
 * tokenizer_config.json beside it, or its family behind the name: "tokenizer.model#llama3.1" (llama3, llama3.1, qwen2,
 * qwen2.5, qwen3). */
NS_MUST_USE ns_status ns_tok_load(ns_tok **out, const char *path, ns_error *err);
void ns_tok_free(ns_tok **t);
/* Appends ids (none on failure). text must be valid UTF-8 (NS_ERR_INPUT names the byte). */
NS_MUST_USE ns_status ns_tok_encode(const ns_tok *t, ns_ids *out, const char *text, size_t n, int flags, ns_error *err);
/* The same, and for each id the bytes of the text that it stands for. What the tokenizer puts in (BOS, a blank in front)
 * has an empty span. Where a character was changed by normalisation, the span is that of the whole character. */
NS_MUST_USE ns_status ns_tok_encode_spans(const ns_tok *t, ns_ids *out, ns_spans *spans, const char *text, size_t n,
                                          int flags, ns_error *err);
/* Appends bytes (may end inside a character: streaming callers keep them until whole). skip_special drops special tokens.
 * SentencePiece style: the blank that encoding puts in front is dropped, if out is empty: to continue a text, pass the
 * same buffer (or use a stream, below).
 * An id without a token is NS_ERR_INPUT: a sampler must not draw from the padding rows past ns_tok_vocab_size. */
NS_MUST_USE ns_status ns_tok_decode(const ns_tok *t, ns_buf *out, const int32_t *ids, size_t n, int skip_special,
                                    ns_error *err);
/* Decoding as ids come. Zero-initialise, set t (and skip_special). push appends whole characters only, bytes that can
 * not become one as U+FFFD; end appends U+FFFD for a character that was cut off. All parts together are ns_tok_decode's
 * result with U+FFFD for what is not UTF-8. */
typedef struct ns_tok_stream {
    const ns_tok *t;
    int skip_special;
    size_t n_ids;      /* decoded so far */
    size_t n_stripped; /* blanks taken off the front */
    int started;       /* text has come out: nothing is taken off any more */
    ns_buf raw, swap;  /* bytes held back; scratch */
} ns_tok_stream;
NS_MUST_USE ns_status ns_tok_stream_push(ns_tok_stream *s, ns_buf *out, const int32_t *ids, size_t n, ns_error *err);
NS_MUST_USE ns_status ns_tok_stream_end(ns_tok_stream *s, ns_buf *out, ns_error *err);
void ns_tok_stream_free(ns_tok_stream *s);
int32_t ns_tok_id(const ns_tok *t, const char *token); /* exact token text (raw, not byte-mapped); -1 if absent */
int64_t ns_tok_vocab_size(const ns_tok *t);            /* highest id + 1, added tokens included */
int32_t ns_tok_bos(const ns_tok *t);                   /* from tokenizer_config.json / post-processor; -1 none */
int32_t ns_tok_eos(const ns_tok *t);
int ns_tok_is_special(const ns_tok *t, int32_t id);
/* Appends text for people, in quotes: escapes as in JSON, and what is no whole character (a token may hold half of one) as
 * \xNN. */
NS_MUST_USE ns_status ns_tok_quote(ns_buf *out, const char *p, size_t n, ns_error *err);
/* tokens("x y") != tokens("x") + tokens("y") (data.md §4.3). */
int ns_tok_space_sensitive(const ns_tok *t);

#endif
