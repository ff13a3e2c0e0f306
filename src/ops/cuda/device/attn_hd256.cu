/* Attention kernels of head size 256 (attn_mma.cuh). */
#include "attn_mma.cuh"

NS_ATTN_HD(256, 1, 32, 1, 32, 4, 16, 1, 16, 1, 16, 2, 16)
