/* Hopper attention kernels for head sizes from 33 to 64 (attn_wg.cuh, attn_wg_bwd.cuh). */
#include "attn_wg_bwd.cuh"

/* warpgroups, tile, cap, blocks a multiprocessor */
void nsk_attn_fwd_wg64(cudaStream_t s, const attn_p &p)
{
    p.softcap > 0 ? wg_fwd<64, 2, 64, 1, 2>(s, p) : wg_fwd<64, 2, 64, 0, 2>(s, p);
}
void nsk_attn_bwd_wg64(cudaStream_t s, const attn_p &p)
{
    p.softcap > 0 ? wg_dkv<64, 1, 64, 1, 3>(s, p) : wgp_dkv<64, 2>(s, p);
    p.softcap > 0 ? wg_dq<64, 2, 64, 1, 2>(s, p) : wgp_dq<64, 3>(s, p);
}
