/* Attention kernels of head size 32 (attn_mma.cuh). */
#include "attn_mma.cuh"

NS_ATTN_HD(32, 2, 64, 2, 64, 4, 64, 2, 64, 2, 64, 4, 64)
