/* A Hugging Face model folder checked against a parameter table, read one storage parameter at a time. Shared by model_io.c
 * (reading) and average.c (many at once).
 *     ns_model_source s; NS_TRY(ns_model_source_open(&s, dir, table, err), "open %s", dir);
 *     NS_TRY(ns_model_source_read(&s, i, data, err), "...");   ns_model_source_close(&s);                    */
#ifndef NS_CKPT_MODEL_SOURCE_H
#define NS_CKPT_MODEL_SOURCE_H

#include "ckpt/model_io.h"

typedef struct ns_model_source {
    const ns_param_table *t;
    ns_st *st;
    const ns_st_tensor **tensor; /* by view */
    int *first_view;             /* by parameter; views of one parameter follow each other */
} ns_model_source;

/* Err: NS_ERR_MISMATCH naming tensor, found and expected shape, for anything missing, extra or misshapen. */
NS_MUST_USE ns_status ns_model_source_open(ns_model_source *s, const char *dir, const ns_param_table *t, ns_error *err);
/* data: rows*cols floats of storage parameter i. Rows beyond the file's (padded vocabulary) are zero. */
NS_MUST_USE ns_status ns_model_source_read(const ns_model_source *s, int i, float *data, ns_error *err);
void ns_model_source_close(ns_model_source *s);

#endif
