/* Any bytes as an .npy file: what opens has all its rows. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pack/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    ns_npy a;
    ns_error err = NS_ERROR_INIT;
    volatile unsigned sum = 0;
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size)) return 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (ns_npy_open(&a, path, &err) == NS_OK) {
        for (int64_t r = 0; a.cols && r < a.rows; r++) {
            const unsigned char *row = ns_npy_row(&a, r);
            for (size_t k = 0; k < (size_t)a.cols * a.item; k++) sum += row[k];
        }
        ns_npy_close(&a);
    } else {
        NS_ASSERT(err.code != NS_OK && err.msg[0]);
    }
    (void)sum; /* reading was the point */
    close(fd);
    return 0;
}
