/* A GGUF file (training.md §5.8) as a Hugging Face model: its record, its tensors by Hugging Face name, its metadata.
 *     ns_gguf *g; NS_TRY(ns_gguf_open(&g, "model.gguf", err), "open");
 *     NS_TRY(ns_gguf_arch(&arch, g, err), "..."); NS_TRY(ns_gguf_read(&archive, g, &arch, err), "...");
 *     const ns_gguf_value *v = ns_gguf_get(g, "general.architecture");             // NULL if absent
 * The file is mapped; archive and values point into it. Every length is checked against the file. Types: ckpt/ggml.h. */
#ifndef NS_CKPT_GGUF_H
#define NS_CKPT_GGUF_H

#include "arch/params.h"
#include "ckpt/archive.h"

typedef enum ns_gguf_type { /* of metadata, as in the file */
                            NS_GGUF_U8,
                            NS_GGUF_I8,
                            NS_GGUF_U16,
                            NS_GGUF_I16,
                            NS_GGUF_U32,
                            NS_GGUF_I32,
                            NS_GGUF_F32,
                            NS_GGUF_BOOL,
                            NS_GGUF_STRING,
                            NS_GGUF_ARRAY,
                            NS_GGUF_U64,
                            NS_GGUF_I64,
                            NS_GGUF_F64
} ns_gguf_type;

typedef struct ns_gguf_value {
    ns_str key;
    ns_gguf_type type, item; /* item: of an array */
    uint64_t n;              /* items of an array */
    ns_str s;                /* STRING: its bytes; ARRAY: the items as stored */
    double num;              /* numbers and BOOL */
} ns_gguf_value;

typedef struct ns_gguf ns_gguf;
NS_MUST_USE ns_status ns_gguf_open(ns_gguf **out, const char *path, ns_error *err);
/* From memory that outlives it. */
NS_MUST_USE ns_status ns_gguf_parse(ns_gguf **out, const unsigned char *p, size_t n, const char *where, ns_error *err);
void ns_gguf_close(ns_gguf **g);
/* The file: path itself (by its first bytes), or the one *.gguf in the folder path. 0: there is none, or several. */
int ns_gguf_find(char out[4096], const char *path);
size_t ns_gguf_count(const ns_gguf *g);
const ns_gguf_value *ns_gguf_at(const ns_gguf *g, size_t i);
const ns_gguf_value *ns_gguf_get(const ns_gguf *g, const char *key);
const ns_archive *ns_gguf_native(const ns_gguf *g); /* tensors as named in the file */

NS_MUST_USE ns_status ns_gguf_arch(ns_arch *a, const ns_gguf *g, ns_error *err);
NS_MUST_USE ns_status ns_gguf_read(ns_archive *hf, const ns_gguf *g, const ns_arch *a, ns_error *err);
/* GGUF name of a Hugging Face one ("model.layers.3.mlp.up_proj.weight": "blk.3.ffn_up.weight"). 0: none. */
int ns_gguf_name(char out[96], const char *hf_name);
/* llama3 rotary scaling: the factor that each of head_dim/2 frequencies is divided by (tensor rope_freqs.weight). */
void ns_gguf_rope_factors(const ns_arch *a, float *out);

#endif
