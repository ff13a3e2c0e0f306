/* The tokenizer of a folder as GGUF metadata: tokenizer.model as "llama", tokenizer.json as "gpt2" (or "llama", if it falls back to
 * bytes), special tokens, chat template.
 *     ns_gguf_kv kv = {0}; NS_TRY(ns_gguf_tokenizer(&kv, "model", &arch, -1, err), "tokenizer");
 * A pre-tokeniser that llama.cpp has no name for is NS_ERR_UNSUPPORTED: text would be cut differently. */
#ifndef NS_EXPORT_GGUF_TOK_H
#define NS_EXPORT_GGUF_TOK_H

#include "arch/arch.h"
#include "ckpt/gguf_write.h"

/* dir NULL: no tokenizer ("no_vocab"). eot: the end of turn, -1: none known. eos_token_id is the first of a->eos, all of them are
 * in eos_token_ids. */
NS_MUST_USE ns_status ns_gguf_tokenizer(ns_gguf_kv *kv, const char *dir, const ns_arch *a, int64_t eot, ns_error *err);

#endif
