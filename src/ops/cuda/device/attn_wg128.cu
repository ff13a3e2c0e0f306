/* Hopper attention kernels for head sizes from 65 to 128 (attn_wg.cuh, attn_wg_bwd.cuh). */
#include "attn_wg_bwd.cuh"

/* warpgroups, tile, cap, blocks a multiprocessor */
void nsk_attn_fwd_wg128(cudaStream_t s, const attn_p &p)
{
    p.softcap > 0 ? wg_fwd<128, 2, 128, 1, 1>(s, p) : wg_fwd<128, 2, 128, 0, 1>(s, p);
}
void nsk_attn_bwd_wg128(cudaStream_t s, const attn_p &p)
{
    p.softcap > 0 ? wg_dkv<128, 1, 64, 1, 2>(s, p) : wgp_dkv<128, 2>(s, p);
    p.softcap > 0 ? wg_dq<128, 1, 64, 1, 2>(s, p) : wgp_dq<128, 2>(s, p);
}
