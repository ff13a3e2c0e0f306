/* Private to cpu/: levels, the pool helper and the functions of each file.
 *
 * Levels build on one another: "ref" is ns_ops_ref; "f32" replaces matrix work by f32 tiles (OpenBLAS or our own loop) and
 * spreads rows over the pool; "avx512" vectorises the elementwise ops; "amx" multiplies bf16 in the tile unit. */
#ifndef NS_OPS_CPU_H
#define NS_OPS_CPU_H

#include "ops/ops.h"

typedef enum ns_cpu_level { NS_CPU_REF, NS_CPU_F32, NS_CPU_AVX512, NS_CPU_AMX } ns_cpu_level;

#endif
