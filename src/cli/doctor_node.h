/* What `ns doctor --cluster` runs on every node. */
#ifndef NS_CLI_DOCTOR_NODE_H
#define NS_CLI_DOCTOR_NODE_H

#include "cli/cli.h"

/* Looks at this machine as one process of the job: mounts that must be there, GPUs that were asked for. The exit code. */
int ns_doctor_node(const ns_opt_list *mounts, int64_t gpus);

#endif
