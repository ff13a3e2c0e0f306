/* How text is cut before pairs are merged: patterns of tokenizer.json and the names that llama.cpp has for them. */
#ifndef NS_EXPORT_GGUF_PRE_H
#define NS_EXPORT_GGUF_PRE_H

typedef struct ns_gguf_pre {
    const char *name, *also; /* tokenizer.ggml.pre; another name that means the same */
    const char *regex;       /* NULL: the byte-level pre-tokeniser's own */
    int nfc, ignore_merges;  /* what goes with it and a GGUF file does not say */
} ns_gguf_pre;
enum { NS_GGUF_N_PRE = 4 };
extern const ns_gguf_pre ns_gguf_pre_known[NS_GGUF_N_PRE];

#endif
