/* Attention kernels of head size 64 (attn_mma.cuh). */
#include "attn_mma.cuh"

NS_ATTN_HD(64, 2, 64, 2, 64, 4, 64, 2, 64, 2, 64, 4, 64)
