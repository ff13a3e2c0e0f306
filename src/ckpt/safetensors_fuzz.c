/* Any bytes as a safetensors file: open, look at every tensor and every byte, find each by name. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ckpt/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    int fd = memfd_create("fuzz", 0); /* the reader maps files by name */
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ns_st *st = NULL;
    ns_error err = NS_ERROR_INIT;
    if (ns_st_open(&st, path, &err) == NS_OK) {
        volatile unsigned sum = 0;
        for (int i = 0; i < ns_st_count(st); i++) {
            const ns_st_tensor *t = ns_st_at(st, i);
            size_t n = (size_t)t->n * ns_dtype_size(t->dt);
            for (size_t k = 0; k < n; k++) sum += ((const unsigned char *)t->data)[k];
            NS_ASSERT(ns_st_find(st, t->name) == t);
        }
        (void)sum; /* reading was the point */
        (void)ns_st_metadata(st, "format");
    } else {
        NS_ASSERT(err.code != NS_OK && err.msg[0]);
    }
    ns_st_close(&st);
    close(fd);
    return 0;
}
