/* Elementwise ops, one-thread loops and the f32 product with AVX-512 (the code is in *_tmpl.h). */
#include "ops/cpu/avx512.h"

#include "ops/cpu/gemm_tmpl.h"
#include "ops/cpu/rows_tmpl.h"
#include "ops/cpu/vec_tmpl.h"
