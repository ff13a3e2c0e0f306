/* Attention kernels of head size 128 (attn_mma.cuh). */
#include "attn_mma.cuh"

NS_ATTN_HD(128, 2, 64, 2, 32, 4, 32, 1, 64, 1, 32, 4, 32)
