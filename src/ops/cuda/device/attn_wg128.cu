/* Hopper attention kernels for head sizes from 65 to 128 (attn_wg.cuh). */
#include "attn_wg.cuh"

void nsk_attn_fwd_wg128(cudaStream_t s, const attn_p &p)
{
    p.softcap > 0 ? wg_fwd<128, 2, 64, 1>(s, p) : wg_fwd<128, 2, 64, 0>(s, p);
}
void nsk_attn_bwd_wg128(cudaStream_t s, const attn_p &p)
{
    p.softcap > 0 ? wg_bwd<128, 1, 64, 1, 64, 1>(s, p) : wg_bwd<128, 1, 64, 1, 64, 0>(s, p);
}
