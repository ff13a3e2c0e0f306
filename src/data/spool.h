/* Bytes that are written once and then read in any order, kept in a file without a name: gone when the program ends, however.
 *
 *     ns_spool s = NS_SPOOL_INIT("out/folder");
 *     NS_TRY(ns_spool_add(&s, p, n, err), "keep");
 *     NS_TRY(ns_spool_map(&map, &s, err), "map");       // all that was added; map.data is NULL if that is nothing
 *     ns_spool_close(&s);                                // the mapping stays, until ns_map_close */
#ifndef NS_DATA_SPOOL_H
#define NS_DATA_SPOOL_H

#include "base/file.h"

typedef struct ns_spool {
    const char *folder;
    int fd; /* -1: nothing was added yet */
    size_t size;
} ns_spool;
#define NS_SPOOL_INIT(folder_) \
    {                          \
        (folder_), -1, 0       \
    }

NS_MUST_USE ns_status ns_spool_add(ns_spool *s, const void *p, size_t n, ns_error *err);
NS_MUST_USE ns_status ns_spool_map(ns_map *out, ns_spool *s, ns_error *err);
void ns_spool_close(ns_spool *s);

#endif
