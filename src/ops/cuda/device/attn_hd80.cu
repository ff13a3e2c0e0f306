/* Attention kernels of head size 80 (attn_mma.cuh). */
#include "attn_mma.cuh"

NS_ATTN_HD(80, 2, 64, 2, 32, 4, 64, 2, 64, 2, 32, 4, 64)
