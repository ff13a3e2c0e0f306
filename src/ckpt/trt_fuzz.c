/* Any bytes as a TensorRT-LLM checkpoint: text up to the first NUL is config.json, the rest is the file of every rank (16 at most); its
 * record, and the first and last row of every tensor. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "ckpt/trt_read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void clean(void)
{
    if (dir[0]) (void)!ns_remove_tree(dir, NULL);
}

/* Plain writes: an fsync an input would be most of the time. */
static int put(const char *name, const uint8_t *p, size_t n)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f) return 0;
    int ok = fwrite(p, 1, n, f) == n;
    return fclose(f) == 0 && ok;
}

static void read_all(void)
{
    ns_arena arena = NS_ARENA_INIT("fuzz");
    ns_error err = NS_ERROR_INIT;
    ns_arch arch;
    ns_param_table table;
    ns_archive hf;
    ns_trt *t = NULL;
    float row[4096];
    ns_archive_init(&hf, dir);
    ns_status st = ns_trt_arch(&arch, dir, &err);
    if (st == NS_OK && arch.L <= 64 && ns_param_table_build(&table, &arch, &arena, &err) == NS_OK &&
        ns_trt_read(&t, &hf, dir, &table, &err) == NS_OK) {
        for (size_t i = 0; i < hf.n; i++) {
            ns_arc_tensor *x = &hf.t[i];
            if (x->shape[0] < 1 || (x->nd == 2 && x->shape[1] > 4096)) continue;
            (void)!ns_archive_rows(x, -1, 0, 1, row, &err);
            (void)!ns_archive_rows(x, -1, x->shape[0] - 1, 1, row, &err);
        }
    }
    if (st != NS_OK) NS_ASSERT(err.code != NS_OK && err.msg[0]);
    ns_archive_free(&hf);
    ns_trt_close(&t);
    ns_arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    char path[128];
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "/dev/shm/ns-trt-fuzz-XXXXXX");
        if (!mkdtemp(dir)) snprintf(dir, sizeof dir, "/tmp/ns-trt-fuzz-XXXXXX");
        if (dir[1] == 't' && !mkdtemp(dir)) return 0;
        atexit(clean);
    }
    if (!put("config.json", data, nul ? (size_t)(nul - data) : size)) return 0;
    for (int r = 0; r < 16; r++) { /* ranks are links: the same bytes */
        char rank[160];
        snprintf(rank, sizeof rank, "%s/rank%d.safetensors", dir, r);
        snprintf(path, sizeof path, "%s/rank0.safetensors", dir);
        if (r == 0 && !put("rank0.safetensors", nul ? nul + 1 : data, nul ? size - (size_t)(nul + 1 - data) : 0))
            return 0;
        if (r > 0 && !ns_path_exists(rank) && link(path, rank)) return 0;
    }
    read_all();
    return 0;
}
