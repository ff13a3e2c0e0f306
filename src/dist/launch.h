/* Starts the ranks of this machine without mpirun or srun: n processes of this program with the same words.
 *
 *     if (ns_launch_wanted(n_ranks)) return ns_launch(n_ranks, argv, &exit_code, err);    // argv[0] is not used
 *
 * Rank 0 keeps standard input; all keep stdout and stderr. SIGTERM, SIGUSR1 and a SIGINT that somebody sent are passed on
 * (Ctrl-C reaches all anyway). Should this process die, the ranks get SIGTERM and save. A rank that has ended badly
 * takes the others with it: they stop by themselves (world.h), after 30 s they are told to, after 10 more killed. */
#ifndef NS_DIST_LAUNCH_H
#define NS_DIST_LAUNCH_H

#include "base/error.h"

int ns_launch_wanted(int n_ranks); /* more than one rank asked for, and nobody has started us as one */
/* exit_code: of the first rank that failed (128 + signal), 0 if none did. */
NS_MUST_USE ns_status ns_launch(int n_ranks, char *const *argv, int *exit_code, ns_error *err);

#endif
