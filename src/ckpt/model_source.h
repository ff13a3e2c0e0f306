/* A model of any format (Hugging Face or NeMo folder, .nemo, GGUF file, TensorRT-LLM checkpoint) checked against a parameter table: the one reader interface.
 * Every format's reader fills an archive of tensors by Hugging Face name; values come out as rows of a view or as a whole storage
 * parameter. Shared by model_io.c, average.c and src/export.
 *     ns_arch a; NS_TRY(ns_model_arch(&a, path, err), "..."); ... ns_param_table_build(&table, &a, ...)
 *     ns_model_source s; NS_TRY(ns_model_source_open(&s, path, table, err), "open %s", path);
 *     NS_TRY(ns_model_source_rows(&s, view, row0, n, data, err), "...");   ns_model_source_close(&s);                    */
#ifndef NS_CKPT_MODEL_SOURCE_H
#define NS_CKPT_MODEL_SOURCE_H

#include "ckpt/archive.h"
#include "ckpt/gguf.h"
#include "ckpt/model_io.h"

typedef enum ns_format { NS_FORMAT_HF, NS_FORMAT_NEMO, NS_FORMAT_GGUF, NS_FORMAT_TRT, NS_FORMAT_UNKNOWN } ns_format;
/* By what lies at path: config.json, model_config.yaml (or a distributed checkpoint alone), a tar with one, a GGUF file, config.json beside rank0.safetensors. */
ns_format ns_model_format(const char *path);
const char *ns_format_name(ns_format f);

typedef struct ns_model_source {
    const ns_param_table *t;
    const char *path;
    ns_format format;
    ns_st *st;     /* Hugging Face */
    ns_tree *tree; /* NeMo */
    ns_gguf *gguf;
    struct ns_trt *trt;
    ns_archive native, a;   /* as named in the file; by Hugging Face name */
    ns_arc_tensor **tensor; /* by view */
    int *first_view;        /* by parameter; views of one parameter follow each other */
} ns_model_source;

/* Err: NS_ERR_MISMATCH naming tensor, found and expected shape, for anything missing, extra or misshapen. `path` must outlive. */
NS_MUST_USE ns_status ns_model_source_open(ns_model_source *s, const char *path, const ns_param_table *t,
                                           ns_error *err);
/* data: rows*cols floats of storage parameter i. Rows beyond the file's (padded vocabulary) are zero. */
NS_MUST_USE ns_status ns_model_source_read(const ns_model_source *s, int i, float *data, ns_error *err);
/* data: n rows of view v from row0 on. */
NS_MUST_USE ns_status ns_model_source_rows(const ns_model_source *s, int v, int64_t row0, int64_t n, float *data,
                                           ns_error *err);
/* The same in type dt (F32, or s->tensor[v]->dt); an ns_rows_fn (sink.h): user is the source. From several threads. */
NS_MUST_USE ns_status ns_model_source_rows_as(void *user, int v, int64_t row0, int64_t n, ns_dtype dt, void *data,
                                              ns_error *err);
void ns_model_source_close(ns_model_source *s);

#endif
