/* Attention kernels of head size 96 (attn_mma.cuh). */
#include "attn_mma.cuh"

NS_ATTN_HD(96, 2, 64, 2, 32, 4, 64, 2, 64, 2, 32, 4, 64)
