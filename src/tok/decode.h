/* Decoder of a tokenizer: ids back to bytes, at once or as they come.
 *     ns_tok_stream s = {.t = tok, .skip_special = 1};
 *     NS_TRY(ns_tok_stream_push(&s, &out, &id, 1, err), "decode");   // appends whole characters only
 *     NS_TRY(ns_tok_stream_end(&s, &out, err), "decode");            // half a character left over: U+FFFD
 *     ns_tok_stream_free(&s);                                        // declared in tok.h */
#ifndef NS_TOK_DECODE_H
#define NS_TOK_DECODE_H

#include "tok/tok.h"

enum { NS_DEC_MAX_REPLACE = 8 };

/* The steps of the file in the one order that is supported: replacements, byte tokens, join, strip. */
typedef struct ns_dec {
    ns_str from[NS_DEC_MAX_REPLACE], to[NS_DEC_MAX_REPLACE]; /* in each token's text; owner: the tokenizer's arena */
    int n_replace;
    int byte_tokens;   /* <0xNN> stands for a byte */
    int drop_first;    /* Metaspace: in the first token, to[0] is nothing */
    size_t strip_left; /* how many strip_char at most are taken off the front of the text */
    char strip_char;
} ns_dec;

#endif
