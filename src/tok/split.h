/* Pre-tokenisers: hand-written scanners for the split patterns of the tokenizers we support, chosen by the exact text of
 * the pattern. Each returns where the piece that starts at i ends; together the pieces cover the text.
 *     ns_split_fn next = ns_split_find(pattern, pattern_bytes);      // NULL: not one of ours
 *     for (size_t i = 0; i < n; i = e) { e = next(p, n, i); piece p[i..e) }
 * p must be valid UTF-8; i < n; the result is > i. */
#ifndef NS_TOK_SPLIT_H
#define NS_TOK_SPLIT_H

#include <stddef.h>
#include <stdint.h>

typedef size_t (*ns_split_fn)(const uint8_t *p, size_t n, size_t i);

ns_split_fn ns_split_find(const char *pattern, size_t n);
size_t ns_split_gpt2(const uint8_t *p, size_t n, size_t i);   /* the pattern inside ByteLevel use_regex */
size_t ns_split_llama3(const uint8_t *p, size_t n, size_t i); /* Llama-3, cl100k */
size_t ns_split_qwen2(const uint8_t *p, size_t n, size_t i);  /* as Llama-3, every number character alone */
size_t ns_split_tekken(const uint8_t *p, size_t n, size_t i); /* Mistral-Nemo */

#endif
