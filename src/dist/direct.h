/* Arrays of a group that travel from device to device (NCCL), where every member has a GPU of its own.
 *
 *     c.space = &space;                                        // with stream, sums and add
 *     NS_TRY(ns_direct_open(&c, plugin, err), "NCCL");         // collective: the members meet
 *     ... the collectives of comm.h on arrays in c.space enqueue and return; ns_direct_close by ns_comm_close ...
 *
 * Every collective is one or more exchanges (grouped send and receive, pieces of any length, nothing padded); sums are made on the device
 * in member order (ns_comm_space.add), so that the bits are those of arrays that go through the host. All is enqueued on the stream of
 * the kernels: producers before, readers behind. Scalars and host arrays take the way they always took.
 *
 * A lost rank: the world's control thread ends the group's kernels (world.h, ns_world_watch), the wait for the device returns, and the
 * next call that meets others names the rank. What NCCL finds by itself is told to all. */
#ifndef NS_DIST_DIRECT_H
#define NS_DIST_DIRECT_H

#include "dist/comm.h"
#include "dist/nccl/nccl_plugin.h"

/* Device memory for ns_comm_space.sums, at most 64 MiB: 32 MiB at a time keep a link busy. 0 in a group of one. */
int64_t ns_direct_sums_bytes(int n);
/* talks_to_itself (tests): a group of one sends to itself, so that the transport runs with one GPU. */
NS_MUST_USE ns_status ns_direct_open(ns_comm *c, const ns_nccl_plugin *p, int talks_to_itself, ns_error *err);
void ns_direct_close(ns_comm *c);

#endif
