/* When to stop: signals and the time limit. SIGTERM, SIGUSR1, SIGINT set a flag that the loop reads between steps; a second
 * SIGINT ends the process at once (128+2). The time limit is `D:H:M:S`, also `[D-]H:M:S`, of any size. */
#ifndef NS_TRAIN_STOP_H
#define NS_TRAIN_STOP_H

#include "base/error.h"

typedef enum ns_stop_reason { NS_STOP_NONE, NS_STOP_SIGNAL, NS_STOP_TIME } ns_stop_reason;

void ns_stop_install(void); /* handlers; call once, before the first step */
/* <= 0: none; $NS_STOP_AT (Unix seconds) holds as well, the earlier wins */
void ns_stop_set_limit(double seconds_from_now);
ns_stop_reason ns_stop_check(void); /* cheap */
/* Seconds until the job is killed ($NS_LIMIT_AT, Unix seconds, from its script); infinite without one. */
double ns_stop_left(void);
/* From here on the limit has been reached: no other step and save would fit into what is left. */
void ns_stop_now(void);
const char *ns_stop_name(void); /* "SIGTERM", "time limit", ... of what ns_stop_check last reported */
NS_MUST_USE ns_status ns_stop_parse_limit(double *seconds, const char *text, ns_error *err);

#endif
