/* The cache of huggingface_hub, read (hub.h). */
#include "base/hub/hub.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"

/* 1: the three fit, one behind the other. */
static int join(char out[4096], const char *a, const char *b, const char *c)
{
    int n = snprintf(out, 4096, "%s%s%s", a, b, c);
    return n >= 0 && n < 4096;
}

ns_status ns_hub_cache(char out[4096], ns_error *err)
{
    static const struct {
        const char *variable, *below;
    } places[] = {{"HF_HUB_CACHE", ""},
                  {"HUGGINGFACE_HUB_CACHE", ""},
                  {"HF_HOME", "/hub"},
                  {"XDG_CACHE_HOME", "/huggingface/hub"},
                  {"HOME", "/.cache/huggingface/hub"}};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const char *v = getenv(places[i].variable);
        if (v && *v && join(out, v, places[i].below, "")) return NS_OK;
    }
    NS_FAIL(NS_ERR_INPUT, "no place for models of the Hugging Face hub: set HF_HOME");
}

int ns_hub_is_name(const char *name)
{
    int slashes = 0;
    if (!name || !*name || strlen(name) > 200) return 0;
    for (const char *p = name; *p; p++) {
        if (*p == '/')
            slashes++;
        else if (!isalnum((unsigned char)*p) && !strchr("-_.", *p))
            return 0;
        if ((p == name || p[-1] == '/') && !isalnum((unsigned char)*p)) return 0; /* also "..", "a//b" */
    }
    return slashes <= 1 && name[strlen(name) - 1] != '/';
}

/* The commit in refs/main. */
static int main_ref(char commit[128], const char *base)
{
    char path[4096];
    ns_buf b = {0};
    ns_error why = NS_ERROR_INIT;
    int ok = join(path, base, "/refs/main", "") && ns_path_exists(path) && ns_file_read(&b, path, &why) == NS_OK;
    size_t n = 0;
    while (ok && n < b.len && isalnum((unsigned char)b.data[n])) n++;
    ok = ok && n > 0 && n < 128;
    if (ok) snprintf(commit, 128, "%.*s", (int)n, b.data);
    ns_buf_free(&b);
    return ok;
}

static int newest(char out[4096], const char *snapshots)
{
    DIR *d = opendir(snapshots);
    char path[4096];
    struct stat sb;
    struct timespec best = {0};
    int found = 0;
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.' || !join(path, snapshots, "/", e->d_name)) continue;
        if (stat(path, &sb) != 0 || !S_ISDIR(sb.st_mode)) continue;
        if (found && (sb.st_mtim.tv_sec < best.tv_sec ||
                      (sb.st_mtim.tv_sec == best.tv_sec && sb.st_mtim.tv_nsec <= best.tv_nsec)))
            continue;
        best = sb.st_mtim;
        memcpy(out, path, sizeof path);
        found = 1;
    }
    closedir(d);
    return found;
}

ns_status ns_hub_folder(char out[4096], const char *name, ns_error *err)
{
    char cache[4096];
    NS_TRY(ns_hub_cache(cache, err), "%s", "");
    int n = snprintf(out, 4096, "%s/models--", cache);
    for (const char *p = name; *p && n < 4096; p++)
        n += snprintf(out + n, 4096 - (size_t)n, *p == '/' ? "--" : "%c", *p);
    NS_FAIL_IF(n >= 4096, NS_ERR_INPUT, "path is too long: '%.100s...'", cache);
    return NS_OK;
}

int ns_hub_cached(char out[4096], const char *name, ns_buf *tried)
{
    char base[4096], snapshots[4096], commit[128];
    if (!ns_hub_is_name(name) || ns_hub_folder(base, name, NULL) != NS_OK || !join(snapshots, base, "/snapshots", ""))
        return 0;
    if (tried && ns_buf_printf(tried, NULL, "%s%s", tried->len ? ", " : "", base) != NS_OK) return 0;
    if (main_ref(commit, base) && join(out, snapshots, "/", commit) && ns_path_is_dir(out)) return 1;
    return newest(out, snapshots);
}

/* "tokenizer.model#llama3": the file counts. */
static int exists(const char *path)
{
    char file[4096];
    const char *hash = strrchr(path, '#');
    if (ns_path_exists(path)) return 1;
    if (!hash || hash == path || (size_t)(hash - path) >= sizeof file) return 0;
    snprintf(file, sizeof file, "%.*s", (int)(hash - path), path);
    return ns_path_exists(file);
}

ns_status ns_hub_resolve(const char **path, char where[4096], const char *option, ns_error *err)
{
    ns_buf tried = {0};
    if (!*path || !ns_hub_is_name(*path) || exists(*path)) return NS_OK;
    if (ns_hub_cached(where, *path, &tried)) {
        ns_buf_free(&tried);
        *path = where;
        return NS_OK;
    }
    if (!strchr(*path, '/')) { /* one word is a folder that is missing, more likely: whoever opens it says so */
        ns_buf_free(&tried);
        return NS_OK;
    }
    char above[4096];
    snprintf(above, sizeof above, "%.*s", (int)strcspn(*path, "/"), *path);
    if (ns_path_is_dir(above)) { /* a path with a slip in it, not a name */
        ns_buf_free(&tried);
        NS_FAIL(NS_ERR_INPUT, "%s '%s': no such file or folder in %s/", option, *path, above);
    }
    ns_status st = ns_error_set(err, NS_ERR_INPUT, __FILE__, __LINE__,
                                "%s '%s': no such file or folder, and not in the Hugging Face cache (tried ./%s, %s): "
                                "give a path, or run `ns download %s`",
                                option, *path, *path, tried.len ? tried.data : "no cache", *path);
    ns_buf_free(&tried);
    return st;
}
