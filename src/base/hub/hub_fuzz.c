/* Any bytes as the hub's list of a model's files (what is accepted stays inside its folder), and as refs/main of the cache. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hub/hub.h"
#include "base/hub/list.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void clean(void)
{
    if (dir[0]) (void)!ns_remove_tree(dir, NULL);
}

static int set_up(void)
{
    char path[160];
    snprintf(dir, sizeof dir, "/dev/shm/ns-hub-fuzz-XXXXXX");
    if (!mkdtemp(dir)) snprintf(dir, sizeof dir, "/tmp/ns-hub-fuzz-XXXXXX");
    if (dir[1] == 't' && !mkdtemp(dir)) return 0;
    atexit(clean);
    setenv("HF_HUB_CACHE", dir, 1);
    snprintf(path, sizeof path, "%s/models--o--m/refs", dir);
    if (ns_mkdirs(path, NULL) != NS_OK) return 0;
    snprintf(path, sizeof path, "%s/models--o--m/snapshots/abc", dir);
    return ns_mkdirs(path, NULL) == NS_OK;
}

static void read_ref(const uint8_t *data, size_t size)
{
    char path[160], out[4096] = "";
    snprintf(path, sizeof path, "%s/models--o--m/refs/main", dir);
    FILE *f = fopen(path, "wb");
    if (!f) return;
    int ok = !size || fwrite(data, 1, size, f) == size;
    if (fclose(f) != 0 || !ok) return;
    snprintf(path, sizeof path, "%s/models--o--m/snapshots/abc", dir);
    if (ns_hub_cached(out, "o/m", NULL)) NS_ASSERT(strcmp(out, path) == 0); /* the only one there is */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ns_arena arena = NS_ARENA_INIT("fuzz");
    ns_error err = NS_ERROR_INIT;
    ns_hub_list l = {.name = "o/m"};
    if (!dir[0] && !set_up()) return 0;
    if (ns_hub_list_parse(&l, &arena, (const char *)data, size, &err) == NS_OK) {
        NS_ASSERT(l.n > 0 && strlen(l.commit) == 40);
        for (int i = 0; i < l.n; i++) {
            const char *p = l.f[i].path;
            size_t n = strlen(p);
            NS_ASSERT(n && *p != '/' && strcmp(p, "..") && strncmp(p, "../", 3) && !strstr(p, "/../"));
            NS_ASSERT(n < 3 || strcmp(p + n - 3, "/..") != 0);
            NS_ASSERT(strspn(l.f[i].etag, "0123456789abcdef") == (l.f[i].is_lfs ? 64u : 40u) && l.f[i].size >= -1);
        }
    } else {
        NS_ASSERT(err.code != NS_OK && err.msg[0]);
    }
    read_ref(data, size);
    ns_arena_free(&arena);
    return 0;
}
