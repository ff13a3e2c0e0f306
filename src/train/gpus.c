/* How the arrays of GPU ranks travel: each tells the others its card and its NCCL, all draw the same conclusion. See ranks.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "dist/direct.h"
#include "train/ranks.h"

enum { TOLD = 200 };
typedef char told[TOLD];

/* all[world] = what each rank says. */
static ns_status tell(ns_ranks *r, const char *mine, told *all, ns_error *err)
{
    for (int i = 0; i <= r->all.size; i++) r->all.cut[i] = i;
    snprintf(all[r->all.rank], TOLD, "%s", mine);
    return ns_comm_all_gather(&r->all, all, r->all.cut, TOLD, err);
}

/* Two ranks on one card, or -1. */
static int sharer(const told *cards, int n, int *other)
{
    for (int i = 0; i < n; i++)
        for (int k = i + 1; k < n; k++)
            if (!strcmp(cards[i], cards[k])) {
                *other = k;
                return i;
            }
    return -1;
}

static ns_status open_groups(ns_ranks *r, const ns_nccl_plugin *p, ns_error *err)
{
    ns_comm *const groups[] = {&r->tp,   &r->cp,        &r->pp,           &r->grads,
                               &r->ends, &r->behind.tp, &r->behind.grads, &r->behind.ends};
    const size_t n = sizeof groups / sizeof *groups;
    for (size_t g = 0; g < (r->overlapped ? n : n - 3); g++)
        if (groups[g]->size > 1) NS_TRY(ns_direct_open(groups[g], p, 0, err), "%s", "a group of ranks");
    return NS_OK;
}

/* why[n]: "" when NCCL will do, else why not. */
static ns_status agree(ns_ranks *r, const ns_engine *e, const ns_nccl_plugin **p, told *all, told why, ns_error *err)
{
    ns_error no = NS_ERROR_INIT;
    const char *version = "";
    int other = 0;
    why[0] = 0;
    NS_TRY(tell(r, e->gpu.uuid, all, err), "%s", "cards of all ranks");
    const int shares = sharer((const told *)all, r->all.size, &other);
    if (shares >= 0) {
        snprintf(why, TOLD, "ranks %d and %d share a GPU", shares, other);
        return NS_OK;
    }
    if (ns_nccl_open(p, &version, &no) == NS_OK)
        NS_TRY(tell(r, version, all, err), "%s", "NCCL of all ranks");
    else {
        told text;
        snprintf(text, TOLD, "-%.190s", no.msg);
        NS_TRY(tell(r, text, all, err), "%s", "NCCL of all ranks");
    }
    for (int i = 0; i < r->all.size && !why[0]; i++) {
        if (all[i][0] == '-') snprintf(why, TOLD, "rank %d: %.180s", i, all[i] + 1);
        NS_FAIL_IF(all[i][0] != '-' && all[0][0] != '-' && strcmp(all[i], all[0]) != 0, NS_ERR_MISMATCH,
                   "rank 0 has %s, rank %d %s: all ranks need the same (or NS_GPU_TRANSPORT=host)", all[0], i, all[i]);
    }
    return NS_OK;
}

ns_status ns_ranks_direct(ns_ranks *r, const ns_engine *e, ns_error *err)
{
    const char *want = getenv("NS_GPU_TRANSPORT");
    const ns_nccl_plugin *p = NULL;
    told *all = NULL, why;
    if (!e->device || r->all.size == 1) return NS_OK;
    const int overlapped = r->overlapped;
    r->overlapped = 0; /* not through the host: its copies wait for the kernels */
    NS_FAIL_IF(want && *want && strcmp(want, "host") && strcmp(want, "nccl"), NS_ERR_CONFIG,
               "NS_GPU_TRANSPORT is '%s': host or nccl", want);
    if (want && !strcmp(want, "host")) {
        NS_INFO("%s", "arrays of GPU ranks travel through the host: NS_GPU_TRANSPORT=host");
        return NS_OK;
    }
    NS_TRY(ns_alloc((void **)&all, (size_t)r->all.size * TOLD, "ranks.gpus", err), "%s", "GPUs");
    ns_status st = agree(r, e, &p, all, why, err);
    if (st == NS_OK && !why[0]) r->overlapped = overlapped;
    if (st == NS_OK && why[0] && want && !strcmp(want, "nccl"))
        st = ns_error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__, "NS_GPU_TRANSPORT=nccl: %s", why);
    if (st == NS_OK && why[0]) NS_INFO("arrays of GPU ranks travel through the host: %s", why);
    if (st == NS_OK && !why[0]) st = open_groups(r, p, err);
    r->direct = st == NS_OK && !why[0];
    if (r->direct) NS_INFO("arrays of GPU ranks travel by %s", all[0]);
    ns_free(all);
    return st;
}
