/* Models from the Hugging Face hub into its cache on this machine (hub.h), as huggingface_hub lays them out.
 *     ns_download_args a = {.name = "Qwen/Qwen2.5-0.5B"};  ns_download_report r;
 *     NS_TRY(ns_download(&a, &r, err), "download");                            // r.path: the snapshot's folder
 * A file that is there already is not fetched again; a part of one is continued; size and checksum of each are compared (SHA-256 for
 * big files, git's SHA-1 for small ones). The snapshot's folder appears when all its files are whole. */
#ifndef NS_BASE_HUB_DOWNLOAD_H
#define NS_BASE_HUB_DOWNLOAD_H

#include <stdint.h>

#include "base/error.h"

typedef struct ns_download_args {
    const char *name;     /* ORG/NAME */
    const char *revision; /* branch, tag or commit; NULL: main */
    const char *const
        *include; /* patterns of files (fnmatch; '*' also matches '/'); n_include 0: all that a model needs */
    size_t n_include;
    const char *endpoint; /* NULL: HF_ENDPOINT or https://huggingface.co */
    const char *token;    /* NULL: HF_TOKEN, or the file that `hf auth login` left; "": none */
    int n_parallel;       /* files at a time; 0: 4 */
    int n_tries;          /* of each request; 0: 6 */
    int backoff_ms;       /* before the second try, then doubled; 0: 1000 */
} ns_download_args;

typedef struct ns_download_report {
    char path[4096], commit[128];
    int64_t n_files, n_fetched, n_continued, n_skipped; /* skipped: what a model does not need (other formats) */
    int64_t bytes, bytes_fetched;
} ns_download_report;

/* Err: NS_ERR_INPUT (no such model, no access: says what to do), NS_ERR_IO (network, disk), NS_ERR_UNSUPPORTED (no libcurl). */
NS_MUST_USE ns_status ns_download(const ns_download_args *a, ns_download_report *r, ns_error *err);

#endif
