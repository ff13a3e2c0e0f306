/* The experiment store: plain files below $NS_HOME (else $NEMORUN_HOME, else ~/.ns), safe for several writers and for NFS.
 *
 *   experiments/<title>/<id>/experiment.json      the record, never changed; the folder appears by one rename
 *                       .../env.sh                variables of the jobs, mode 0600
 *                       .../scripts/<n>.sh        what task n runs
 *                       .../state/<n>.json        attempt, job id or process, state; replaced whole
 *                       .../state/<n>.begin, .end written by the job itself: "time host pid", "exit-code time"
 *                       .../state/<n>.stopped     the job stopped at its limit with everything saved
 *                       .../state/<n>.good        the work itself says that it ended well (srun alone may not know)
 *                       .../state/<n>.note        what the work has to say about itself ("unfinished: step 40 of 100")
 *                       .../state/<n>.cancel      cancelling was asked for
 *   queue/<id>                                    local executor: a link to an experiment that is not finished
 *   bin/<version>/                                the program, copied once per version
 *
 * States and what moves them:
 *   waiting --dependencies--> running --exit 0--> done          waiting --afterok of a failed task--> skipped
 *   running --exit code--> failed    running|waiting --ns cancel--> cancelled    running --process gone--> lost
 *   failed|lost|skipped|cancelled --ns retry--> waiting (attempt + 1) */
#ifndef NS_JOBS_STORE_H
#define NS_JOBS_STORE_H

#include "jobs/graph.h"

typedef enum ns_task_state {
    NS_TASK_WAITING,
    NS_TASK_RUNNING,
    NS_TASK_DONE,
    NS_TASK_FAILED,
    NS_TASK_CANCELLED,
    NS_TASK_SKIPPED,
    NS_TASK_LOST
} ns_task_state;
const char *ns_task_state_name(ns_task_state s);
int ns_task_ended(ns_task_state s);

typedef struct ns_task_status {
    ns_task_state state;
    int attempt;           /* 1 = first */
    int rc;                /* exit code when failed */
    int stopped;           /* ended well, but before its last step */
    int64_t pid;           /* local: session leader */
    uint64_t ticks;        /* local: start time of pid in clock ticks, so that a reused number is told apart */
    double started, ended; /* Unix seconds, 0: not yet */
    char job[64];          /* slurm job id, "" none */
    char node[128];
    char gpus[128]; /* local: CUDA_VISIBLE_DEVICES */
    char why[200];  /* reason of waiting, failing, skipping */
} ns_task_status;

/* The store's folder, made if missing. */
NS_MUST_USE ns_status ns_store_home(char *out, size_t n, ns_error *err);
/* Gives the graph its id and folder, writes `files` (path, text, mode triples: see ns_store_file) and the record, publishes. */
typedef struct ns_store_file {
    const char *path; /* below the experiment's folder */
    const char *text;
    int secret; /* mode 0600 */
} ns_store_file;
/* Chooses id and folder: two submissions at once never get the same. The folder exists (as .tmp) until publish or drop. */
NS_MUST_USE ns_status ns_store_reserve(ns_graph *g, ns_error *err);
NS_MUST_USE ns_status ns_store_publish(ns_graph *g, const ns_store_file *files, size_t n, ns_error *err);
void ns_store_drop(ns_graph *g);

/* By id or path, else the newest of that title. *found 0: no such experiment (no error). A damaged record is an error. */
NS_MUST_USE ns_status ns_store_open(ns_graph *g, const char *name, int *found, ns_error *err);
/* Folders of all experiments, oldest first; records are not read. Titles and ids for suggestions are in them. */
NS_MUST_USE ns_status ns_store_list(ns_words *dirs, ns_arena *a, ns_error *err);
/* ", did you mean X?" or "". */
NS_MUST_USE ns_status ns_store_hint(char *out, size_t n, const char *name, ns_error *err);

NS_MUST_USE ns_status ns_store_read_status(ns_task_status *s, const ns_graph *g, int task, ns_error *err);
/* Replaced whole, for readers; on the disk after ns_store_sync (a job's marks tell what it did even if this is lost). */
NS_MUST_USE ns_status ns_store_sync(const char *folder, ns_error *err);
NS_MUST_USE ns_status ns_store_write_status(const ns_graph *g, int task, const ns_task_status *s, ns_error *err);
/* What the job itself has written since its attempt began: fills started, node, pid, rc, ended, stopped. 1: it has ended. */
int ns_store_read_marks(ns_task_status *s, const ns_graph *g, int task);
void ns_store_clear_marks(const ns_graph *g, int task); /* before another attempt */
NS_MUST_USE ns_status ns_store_ask_cancel(const ns_graph *g, int task, ns_error *err);
int ns_store_cancel_asked(const ns_graph *g, int task);

#endif
