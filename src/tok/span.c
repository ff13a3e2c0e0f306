/* Growing lists of spans (span.h). */
#include "tok/span.h"

#include <string.h>

#include "base/mem.h"

ns_status ns_spans_add(ns_spans *a, size_t n, size_t from, size_t to, ns_error *err)
{
    NS_TRY(ns_grow((void **)&a->v, &a->cap, a->n + n, sizeof *a->v, "tok.spans", err), "%s", "");
    for (size_t i = 0; i < n; i++) a->v[a->n++] = (ns_span){from, to};
    return NS_OK;
}
ns_status ns_spans_copy(ns_spans *a, size_t n, size_t from, ns_error *err)
{
    NS_TRY(ns_grow((void **)&a->v, &a->cap, a->n + n, sizeof *a->v, "tok.spans", err), "%s", "");
    for (size_t i = 0; i < n; i++) a->v[a->n++] = (ns_span){from + i, from + i + 1};
    return NS_OK;
}
void ns_spans_free(ns_spans *a)
{
    ns_free(a->v);
    memset(a, 0, sizeof *a);
}
