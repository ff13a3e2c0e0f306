/* How large weights and activations of a model get: what quantisation to FP8 needs (ckpt/trt_write.h). The model runs over rows of
 * text, every product's input is looked at.
 *     ns_calibrate_args a = {.model = "model/", .arch = &arch, .dt = NS_DTYPE_BF16, .tokenizer = "model/", .rows = "rows.jsonl",
 *                            .most_rows = 512, .most_tokens = 512};
 *     NS_TRY(ns_calibrate(layers, &a, &report, err), "calibrate");              // layers: [L], maxima are raised
 * Rows: JSON objects with "text", or "input" followed by "output" (as `ns prepare` writes them). */
#ifndef NS_EXPORT_CALIBRATE_H
#define NS_EXPORT_CALIBRATE_H

#include "ckpt/trt_write.h"

typedef struct ns_calibrate_args {
    const char *model;
    const ns_arch *arch;
    ns_dtype dt; /* of the model as it will run: BF16; else f32 is computed */
    const char *tokenizer, *rows;
    int64_t most_rows, most_tokens; /* rows read; tokens of each, the rest is cut off */
} ns_calibrate_args;

typedef struct ns_calibrate_report {
    int64_t n_rows, n_tokens, n_cut; /* cut: rows longer than most_tokens */
} ns_calibrate_report;

/* Err: NS_ERR_INPUT for a row without text; NS_ERR_NUMERIC if a layer's activations are all zero or not finite. */
NS_MUST_USE ns_status ns_calibrate(ns_trt_fp8_layer *layers, const ns_calibrate_args *a, ns_calibrate_report *r,
                                   ns_error *err);

#endif
