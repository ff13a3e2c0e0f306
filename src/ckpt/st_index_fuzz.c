/* Any bytes as a sharded Hugging Face folder: text up to the first NUL is model.safetensors.index.json, the rest is each of the shards
 * a.safetensors, model-00001-of-00002.safetensors and model-00002-of-00002.safetensors; every tensor is looked at. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "ckpt/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void clean(void)
{
    if (dir[0]) (void)!ns_remove_tree(dir, NULL);
}

static int put(const char *name, const uint8_t *p, size_t n)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f) return 0;
    int ok = !n || fwrite(p, 1, n, f) == n;
    return fclose(f) == 0 && ok;
}

static void read_all(void)
{
    ns_st *st = NULL;
    ns_error err = NS_ERROR_INIT;
    volatile unsigned sum = 0;
    if (ns_st_open(&st, dir, &err) != NS_OK) {
        NS_ASSERT(err.code != NS_OK && err.msg[0]);
        return;
    }
    for (int i = 0; i < ns_st_count(st); i++) {
        const ns_st_tensor *t = ns_st_at(st, i);
        size_t n = (size_t)t->n * ns_dtype_size(t->dt);
        for (size_t k = 0; k < n; k++) sum += ((const unsigned char *)t->data)[k];
        NS_ASSERT(ns_st_find(st, t->name) == t);
    }
    (void)sum; /* reading was the point */
    ns_st_close(&st);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const shards[] = {"a.safetensors", "model-00001-of-00002.safetensors",
                                         "model-00002-of-00002.safetensors"};
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t head = nul ? (size_t)(nul - data) : size;
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "/dev/shm/ns-st-fuzz-XXXXXX");
        if (!mkdtemp(dir)) snprintf(dir, sizeof dir, "/tmp/ns-st-fuzz-XXXXXX");
        if (dir[1] == 't' && !mkdtemp(dir)) return 0;
        atexit(clean);
    }
    if (!put("model.safetensors.index.json", data, head)) return 0;
    for (int i = 0; i < 3; i++)
        if (!put(shards[i], nul ? nul + 1 : data, nul ? size - head - 1 : 0)) return 0;
    read_all();
    return 0;
}
