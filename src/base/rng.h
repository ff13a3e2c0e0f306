/* Random numbers. MT19937 with the three flavours that data order must reproduce (data.md §0.2), and counter-based
 * Philox4x32-10 (Salmon et al., SC'11) for everything the engine draws: same key and counter, same number, on any
 * layout. Nothing here is global. */
#ifndef NS_BASE_RNG_H
#define NS_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

typedef struct ns_mt {
    uint32_t mt[624];
    int idx;
} ns_mt;

void ns_mt_seed(ns_mt *g, uint32_t seed);        /* init_genrand: NumPy legacy, Torch CPU */
void ns_mt_seed_python(ns_mt *g, uint64_t seed); /* init_by_array of |seed|: Python random */
uint32_t ns_mt_u32(ns_mt *g);
/* Bounded draws: 0 <= result < n (n >= 1). */
uint32_t ns_mt_below_python(ns_mt *g, uint32_t n); /* top bits, redraw */
uint32_t ns_mt_below_numpy(ns_mt *g, uint32_t n);  /* mask, redraw */
/* In-place permutation of idx[0..n). */
void ns_shuffle_python(ns_mt *g, int64_t *idx, size_t n);
void ns_shuffle_numpy(ns_mt *g, int64_t *idx, size_t n);
void ns_randperm_torch(ns_mt *g, int64_t *out, size_t n); /* fills out with a permutation of 0..n-1 */

typedef struct ns_philox_key {
    uint32_t k[2];
} ns_philox_key;
/* out = Philox4x32-10(counter, key) */
void ns_philox(uint32_t out[4], const uint32_t ctr[4], ns_philox_key key);
static inline float ns_u32_to_unit(uint32_t u)
{
    return (float)(u >> 8) * 0x1p-24f;
} /* [0,1) */
/* Element i of a stream of standard normals (Box-Muller in double on Philox words; stable across platforms). */
double ns_philox_normal(ns_philox_key key, uint64_t stream, uint64_t i);

#endif
