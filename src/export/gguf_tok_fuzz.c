/* Any bytes as a GGUF file: its tokenizer as files; what is written is read or refused, not believed. */
#include <string.h>

#include "export/gguf_tok_read.h"
#include "tok/tok_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ns_error err = NS_ERROR_INIT;
    ns_gguf *g = NULL;
    ns_gguf_tok_files f;
    if (ns_gguf_parse(&g, data, size, "fuzz", &err) != NS_OK) return 0;
    if (ns_gguf_tok_read(&f, g, &err) != NS_OK) {
        NS_ASSERT(err.code != NS_OK && err.msg[0] && !f.name);
    } else if (f.name) {
        ns_tok *t = NULL;
        ns_tok_source s = {.json = f.model.data,
                           .json_n = f.model.len,
                           .where = f.name,
                           .config = f.config.data,
                           .config_n = f.config.len,
                           .config_where = "tokenizer_config.json"};
        if (ns_tok_build(&t, &s, &err) == NS_OK) {
            ns_ids ids = {0};
            (void)!ns_tok_encode(t, &ids, "the <s> 12 \xe2\x96\x81", 14, NS_TOK_ADD_SPECIAL, &err);
            ns_ids_free(&ids);
            ns_tok_free(&t);
        } else {
            NS_ASSERT(err.code != NS_OK && err.msg[0]);
        }
    }
    ns_gguf_tok_files_free(&f);
    ns_gguf_close(&g);
    return 0;
}
