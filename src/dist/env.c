/* Who started us: the variables of each launcher, in the order in which a more specific one wins. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dist/world_priv.h"

static const char *get(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

static ns_status number(const char *name, int least, int *out, ns_error *err)
{
    const char *v = get(name);
    NS_FAIL_IF(!v, NS_ERR_CONFIG, "%s is not set, though other variables of this launcher are: set or unset them all",
               name);
    char *end;
    long x = strtol(v, &end, 10);
    NS_FAIL_IF(*end || x < least || x > 1 << 20, NS_ERR_CONFIG, "%s is '%s': expected a number from %d", name, v,
               least);
    *out = (int)x;
    return NS_OK;
}

static int optional(const char *name, int otherwise)
{
    const char *v = get(name);
    return v ? atoi(v) : otherwise;
}

/* "node[3-5,9],x" -> "node3". Enough for the first name of a Slurm node list. */
static ns_status first_host(const char *list, char out[256], ns_error *err)
{
    size_t n = strcspn(list, "[,");
    NS_FAIL_IF(n == 0 || n > 200, NS_ERR_CONFIG, "SLURM_STEP_NODELIST is '%s': expected names of nodes", list);
    memcpy(out, list, n);
    out[n] = 0;
    if (list[n] == '[') {
        size_t d = strspn(list + n + 1, "0123456789");
        NS_FAIL_IF(d == 0 || d > 20, NS_ERR_CONFIG, "SLURM_STEP_NODELIST is '%s': expected a number after [", list);
        memcpy(out + n, list + n + 1, d);
        out[n + d] = 0;
    }
    return NS_OK;
}

/* Same run -> same number on all ranks, other runs -> most likely another (FNV-1a of what the launchers say). A job id alone does
 * not do: two clusters on one machine both have a job 1. */
static uint64_t run_number(void)
{
    static const char *const names[] = {"NS_RUN_ID",      "SLURM_CLUSTER_NAME",       "SLURM_JOB_ID",
                                        "SLURM_STEP_ID",  "SLURM_LAUNCH_NODE_IPADDR", "SLURM_STEP_LAUNCHER_PORT",
                                        "PMIX_NAMESPACE", "OMPI_MCA_orte_hnp_uri",    "TORCHELASTIC_RUN_ID",
                                        "MASTER_PORT"};
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *v = get(names[i]);
        for (const char *s = v ? v : ""; *s; s++) h = (h ^ (unsigned char)*s) * 1099511628211u;
        h = (h ^ (i + 1)) * 1099511628211u;
    }
    return h;
}

static ns_status take(ns_world_options *o, const char *by, const char *rank, const char *size, ns_error *err)
{
    NS_TRY(number(rank, 0, &o->rank, err), "ranks started by %s", by);
    NS_TRY(number(size, 1, &o->size, err), "ranks started by %s", by);
    NS_FAIL_IF(o->rank >= o->size, NS_ERR_CONFIG, "%s is %d but %s is %d", rank, o->rank, size, o->size);
    o->started_by = by;
    return NS_OK;
}

ns_status ns_world_from_env(ns_world_options *o, ns_error *err)
{
    *o = (ns_world_options){.size = 1, .local_size = 1, .started_by = ""};
    const char *host = get("NS_RENDEZVOUS_HOST");
    if (get("NS_RANK")) {
        NS_TRY(take(o, "ns", "NS_RANK", "NS_WORLD_SIZE", err), "%s", "environment");
        o->local_rank = optional("NS_LOCAL_RANK", o->rank);
        o->local_size = optional("NS_LOCAL_SIZE", o->size);
    } else if (get("OMPI_COMM_WORLD_RANK")) {
        NS_TRY(take(o, "mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", err), "%s", "environment");
        o->local_rank = optional("OMPI_COMM_WORLD_LOCAL_RANK", 0);
        o->local_size = optional("OMPI_COMM_WORLD_LOCAL_SIZE", 1);
    } else if (get("SLURM_PROCID") && get("SLURM_STEP_NODELIST")) {
        NS_TRY(take(o, "srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", err), "%s", "environment");
        o->local_rank = optional("SLURM_LOCALID", 0);
        o->local_size = optional("SLURM_TASKS_PER_NODE", 1); /* "2(x3)": the first number */
    } else if (get("RANK") || get("WORLD_SIZE")) {
        NS_TRY(take(o, "RANK and WORLD_SIZE", "RANK", "WORLD_SIZE", err), "%s", "environment");
        o->local_rank = optional("LOCAL_RANK", 0);
        o->local_size = optional("LOCAL_WORLD_SIZE", 1);
    }
    if (o->size == 1) return NS_OK;
    o->run = run_number();
    if (!host) host = get("MASTER_ADDR");
    if (host) {
        NS_FAIL_IF(strlen(host) >= sizeof o->host, NS_ERR_CONFIG, "the rendezvous host name is too long: %.60s...",
                   host);
        strcpy(o->host, host);
    } else if (!strcmp(o->started_by, "srun"))
        NS_TRY(first_host(get("SLURM_STEP_NODELIST"), o->host, err), "%s", "rendezvous");
    else if (o->local_size == o->size) /* one machine */
        strcpy(o->host, "127.0.0.1");
    else
        NS_FAIL(NS_ERR_CONFIG,
                "%d ranks on several machines were started by %s, but where rank 0 can be reached is unknown: set "
                "MASTER_ADDR (and MASTER_PORT) for all of them",
                o->size, o->started_by);
    const char *port = get("NS_RENDEZVOUS_PORT") ? "NS_RENDEZVOUS_PORT" : get("MASTER_PORT") ? "MASTER_PORT" : NULL;
    if (port)
        NS_TRY(number(port, 1, &o->port, err), "%s", "rendezvous");
    else {
        o->any_port = 1;
        o->port = dist_port(o->run, 0);
    }
    /* A launcher that holds a port open for rank 0: no other process can take it in between. */
    if (o->rank == 0 && get("NS_RENDEZVOUS_FD"))
        NS_TRY(number("NS_RENDEZVOUS_FD", 3, &o->listener, err), "%s", "rendezvous");
    return NS_OK;
}
