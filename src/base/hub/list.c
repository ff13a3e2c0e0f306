/* {"sha": commit, "siblings": [{"rfilename", "size", "blobId", "lfs": {"sha256", "size"}}]}  (list.h) */
#include "base/hub/list.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

enum { FILES_MOST = 20000 };

static int wanted(const ns_hub_list *l, const char *path, int has_safetensors)
{
    static const char *const other[] = {"*.bin",  "*.pth", "*.pt",       "*.msgpack", "*.h5",     "*.onnx",
                                        "*.gguf", "*.ot",  "original/*", "onnx/*",    "coreml/*", "openvino/*"};
    for (size_t i = 0; i < l->n_include; i++)
        if (!fnmatch(l->include[i], path, 0)) return 1;
    if (l->n_include) return 0;
    for (size_t i = 0; has_safetensors && i < sizeof other / sizeof other[0]; i++)
        if (!fnmatch(other[i], path, 0)) return 0;
    return 1;
}

int ns_hub_good_path(const char *p)
{
    if (!*p || *p == '/' || strlen(p) > 1000) return 0;
    for (const char *s = p; s; s = strchr(s, '/') ? strchr(s, '/') + 1 : NULL)
        if (!*s || *s == '/' || !strcmp(s, ".") || !strcmp(s, "..") || !strncmp(s, "./", 2) || !strncmp(s, "../", 3))
            return 0;
    for (; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f || *p == '\\') return 0;
    return 1;
}

static int is_hex(const char *p, size_t n)
{
    return strlen(p) == n && strspn(p, "0123456789abcdef") == n;
}

static ns_status text_at(const char **out, const ns_hub_list *l, ns_arena *arena, const ns_json *v, const char *what,
                         ns_error *err)
{
    NS_FAIL_IF(!v || v->type != NS_JSON_STRING, NS_ERR_IO, "%s: the hub's answer has no text \"%s\"", l->name, what);
    *out = ns_arena_strndup(arena, v->s.p, v->s.n, err);
    return *out ? NS_OK : NS_ERR_MEMORY;
}

static ns_status add_file(ns_hub_list *l, ns_arena *arena, const ns_json *v, const char *path, ns_error *err)
{
    ns_hub_file *f = &l->f[l->n];
    const ns_json *lfs = ns_json_get(v, "lfs");
    *f = (ns_hub_file){.path = path, .size = -1, .is_lfs = lfs && lfs->type == NS_JSON_OBJECT};
    NS_TRY(text_at(&f->etag, l, arena, f->is_lfs ? ns_json_get(lfs, "sha256") : ns_json_get(v, "blobId"),
                   f->is_lfs ? "lfs.sha256" : "blobId", err),
           "%s", path);
    NS_FAIL_IF(!is_hex(f->etag, f->is_lfs ? 64 : 40), NS_ERR_IO, "%s: the hub gives '%.80s' as checksum of %s", l->name,
               f->etag, path);
    const ns_json *size = ns_json_get(f->is_lfs ? lfs : v, "size");
    if (!size || !ns_json_is_int(size, &f->size) || f->size < 0) f->size = -1;
    l->n++;
    return NS_OK;
}

ns_status ns_hub_list_parse(ns_hub_list *l, ns_arena *arena, const char *text, size_t size, ns_error *err)
{
    ns_json *v;
    const char *commit, *path;
    int has_safetensors = 0;
    NS_TRY(ns_json_parse(&v, arena, text, size, "the hub's answer", 0, err), "%s", l->name);
    NS_TRY(text_at(&commit, l, arena, ns_json_get(v, "sha"), "sha", err), "%s", "");
    NS_FAIL_IF(!is_hex(commit, 40), NS_ERR_IO, "%s: the hub gives '%.80s' as commit", l->name, commit);
    snprintf(l->commit, sizeof l->commit, "%s", commit);
    const ns_json *list = ns_json_get(v, "siblings");
    NS_FAIL_IF(!list || list->type != NS_JSON_ARRAY || list->n > FILES_MOST, NS_ERR_IO,
               "%s: the hub's answer has no list of files (siblings)", l->name);
    l->f = ns_arena_alloc(arena, (list->n + 1) * sizeof *l->f, err);
    if (!l->f) return NS_ERR_MEMORY;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < list->n; i++) {
            NS_TRY(text_at(&path, l, arena, ns_json_get(&list->items[i], "rfilename"), "rfilename", err), "%s", "");
            NS_FAIL_IF(!ns_hub_good_path(path), NS_ERR_IO, "%s: the hub names a file '%.200s': refused", l->name, path);
            if (!pass)
                has_safetensors |= !fnmatch("*.safetensors", path, 0);
            else if (wanted(l, path, has_safetensors))
                NS_TRY(add_file(l, arena, &list->items[i], path, err), "%s", "");
            else
                l->n_skipped++;
        }
    }
    NS_FAIL_IF(!l->n, NS_ERR_INPUT, "%s: none of its %zu files matches --include", l->name, list->n);
    return NS_OK;
}
