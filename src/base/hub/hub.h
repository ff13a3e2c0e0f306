/* Names of models ("meta-llama/Llama-3.2-1B"): where they lie on this machine, in the layout of huggingface_hub.
 *
 *     const char *model = options->model; char where[4096];
 *     NS_TRY(ns_hub_resolve(&model, where, "--model", err), "model");         // a path stays, a cached name becomes a path
 *
 * The cache: HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub; in it
 *     models--ORG--NAME/refs/main                    the commit that "main" was at the last download
 *     models--ORG--NAME/snapshots/COMMIT/FILE        links to ../../blobs/ETAG
 * Nothing here uses the network (download.h does). */
#ifndef NS_BASE_HUB_HUB_H
#define NS_BASE_HUB_HUB_H

#include "base/buf.h"
#include "base/error.h"

/* Folder of the cache. Err: NS_ERR_INPUT if neither HOME nor a variable says where. */
NS_MUST_USE ns_status ns_hub_cache(char out[4096], ns_error *err);
/* Folder of one model there, whether it exists or not. */
NS_MUST_USE ns_status ns_hub_folder(char out[4096], const char *name, ns_error *err);
/* Could it be a name: NAME or ORG/NAME of letters, digits, '-', '_', '.'? */
int ns_hub_is_name(const char *name);
/* Snapshot of a name in the cache: the one of refs/main, else the newest. tried: NULL, or what was looked at is appended, comma-
 * separated. 1: found, out is its path. */
int ns_hub_cached(char out[4096], const char *name, ns_buf *tried);
/* *path (NULL: nothing happens) stays if it exists, if it has a "#" behind an existing file, or if it cannot be a name; a name in the
 * cache becomes its folder, written to `where`. Err: NS_ERR_INPUT lists the places tried and says what to do; `option` is how the user
 * names it. A word without '/' that is nowhere stays, too. */
NS_MUST_USE ns_status ns_hub_resolve(const char **path, char where[4096], const char *option, ns_error *err);

#endif
