/* Hopper attention kernels for head sizes up to 64 (attn_wg.cuh). */
#include "attn_wg.cuh"

void nsk_attn_fwd_wg64(cudaStream_t s, const attn_p &p)
{
    p.softcap > 0 ? wg_fwd<64, 2, 128, 1>(s, p) : wg_fwd<64, 2, 128, 0>(s, p);
}
void nsk_attn_bwd_wg64(cudaStream_t s, const attn_p &p)
{
    p.softcap > 0 ? wg_bwd<64, 2, 64, 2, 64, 1>(s, p) : wg_bwd<64, 2, 64, 2, 64, 0>(s, p);
}
