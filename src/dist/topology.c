#include "dist/topology.h"

static const char *const axis_names[NS_N_AXES] = {"tensor_model_parallel_size", "context_parallel_size",
                                                  "data parallel size", "pipeline_model_parallel_size"};

const char *ns_axis_name(ns_axis a)
{
    return axis_names[a];
}

ns_status ns_topology_make(ns_topology *t, int world, int rank, int tp, int cp, int pp, ns_error *err)
{
    const int given[NS_N_AXES] = {tp, cp, 1, pp};
    for (int a = 0; a < NS_N_AXES; a++)
        NS_FAIL_IF(given[a] < 1, NS_ERR_CONFIG, "model.%s is %d: give 1 or more", axis_names[a], given[a]);
    NS_FAIL_IF(world < 1 || rank < 0 || rank >= world, NS_ERR_CONFIG, "rank %d of %d ranks does not exist", rank,
               world);
    long model = (long)tp * cp * pp;
    NS_FAIL_IF(
        world % model != 0, NS_ERR_CONFIG,
        "%d ranks do not divide into model copies of %ld ranks (tensor %d x context %d x pipeline %d): use %ld or "
        "%ld ranks (trainer.devices x trainer.num_nodes), or smaller splits",
        world, model, tp, cp, pp, world < model ? model : world / model * model, (world / model + 1) * model);
    *t = (ns_topology){.world = world, .rank = rank, .size = {tp, cp, (int)(world / model), pp}};
    for (int a = 0, rest = rank; a < NS_N_AXES; a++) {
        t->index[a] = rest % t->size[a];
        rest /= t->size[a];
    }
    return NS_OK;
}

int ns_topology_group_size(const ns_topology *t, unsigned axes)
{
    int n = 1;
    for (int a = 0; a < NS_N_AXES; a++)
        if (axes >> a & 1) n *= t->size[a];
    return n;
}

int ns_topology_group(const ns_topology *t, unsigned axes, int *out)
{
    int n = ns_topology_group_size(t, axes), mine = 0;
    for (int i = 0; i < n; i++) {
        int rank = 0, stride = 1, rest = i;
        for (int a = 0; a < NS_N_AXES; a++) {
            int at = t->index[a];
            if (axes >> a & 1) {
                at = rest % t->size[a];
                rest /= t->size[a];
            }
            rank += at * stride;
            stride *= t->size[a];
        }
        out[i] = rank;
        if (rank == t->rank) mine = i;
    }
    return mine;
}
