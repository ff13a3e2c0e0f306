/* The other way of gguf_tok.h: the tokenizer of a GGUF file as the files of a Hugging Face folder. "gpt2" becomes tokenizer.json, "llama"
 * tokenizer.model (SentencePiece); with both tokenizer_config.json: special tokens, chat template.
 *     ns_gguf_tok_files f = {0};
 *     NS_TRY(ns_gguf_tok_read(&f, gguf, err), "tokenizer");       // f.name NULL: the file has none ("no_vocab")
 *     ... f.name, f.model, f.config ...       ns_gguf_tok_files_free(&f);
 * What GGUF does not say is taken from the name of its pre-tokeniser (the pattern that cuts text, normalisation); a name that is not
 * known is NS_ERR_UNSUPPORTED. */
#ifndef NS_EXPORT_GGUF_TOK_READ_H
#define NS_EXPORT_GGUF_TOK_READ_H

#include "base/buf.h"
#include "ckpt/gguf.h"

typedef struct ns_gguf_tok_files {
    const char *name;     /* "tokenizer.json", "tokenizer.model" */
    ns_buf model, config; /* its bytes; those of tokenizer_config.json */
} ns_gguf_tok_files;
NS_MUST_USE ns_status ns_gguf_tok_read(ns_gguf_tok_files *f, const ns_gguf *g, ns_error *err);
void ns_gguf_tok_files_free(ns_gguf_tok_files *f);
/* Into the new folder dir. *made 0: the file has no tokenizer, there is no folder. */
NS_MUST_USE ns_status ns_gguf_tok_write(int *made, const char *dir, const char *gguf_path, ns_error *err);

#endif
