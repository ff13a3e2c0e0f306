/* Syncing at the end instead of file by file: while files are held, what closes them (scatter.c, file.c) only lets the disk begin; work
 * that follows, such as reading back, runs while the disk writes, and one commit of the file system's journal serves all of them.
 *     ns_sync_hold();   ... write and close many files ...
 *     NS_TRY(ns_sync_all(err), "...");       // now they are on the disk; ns_dir_publish begins with it: nothing unsynced is published
 *     ns_sync_drop();                        // after a failure: they will be removed
 * Descriptors stay open until then, so no error of the disk is lost: at most MOST, then the oldest is synced at once. One holder a process. */
#ifndef NS_BASE_SYNC_H
#define NS_BASE_SYNC_H

#include "base/error.h"

void ns_sync_hold(void);
/* Syncs fd and closes it, or, while files are held, keeps it. fd is gone in any case. From any thread. */
NS_MUST_USE ns_status ns_sync_close(int fd, const char *path, ns_error *err);
NS_MUST_USE ns_status ns_sync_all(ns_error *err); /* ends holding */
void ns_sync_drop(void);                          /* ends holding */

#endif
