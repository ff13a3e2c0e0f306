/* After which tokens the exported model stops, so that generate() of transformers, vLLM, llama.cpp and Ollama end an answer by
 * themselves: the end-of-turn token of the chat template in front, then what config.json, generation_config.json and the tokenizer
 * name.
 *     int64_t eot; NS_TRY(ns_export_stops(&arch, &eot, tokenizer_dir, err), "stop tokens");      // eot -1: no end of turn         */
#ifndef NS_EXPORT_STOPS_H
#define NS_EXPORT_STOPS_H

#include "arch/arch.h"

/* arch->eos is completed. dir NULL: nothing to add. A tokenizer or template that we cannot read is a warning. */
NS_MUST_USE ns_status ns_export_stops(ns_arch *arch, int64_t *eot, const char *dir, ns_error *err);

#endif
