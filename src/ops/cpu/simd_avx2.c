/* Elementwise ops, one-thread loops and the f32 product with AVX2 and FMA (the code is in *_tmpl.h). */
#include "ops/cpu/avx2.h"

#include "ops/cpu/gemm_tmpl.h"
#include "ops/cpu/rows_tmpl.h"
#include "ops/cpu/vec_tmpl.h"
