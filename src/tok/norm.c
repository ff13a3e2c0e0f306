/* Normalization of one gap: NFC, or the two SentencePiece steps Prepend and Replace. The loader refuses files that mix the
 * two kinds, so their order does not matter (data.md §6.2). */
#include "tok/norm.h"

#include <string.h>

#include "tok/unicode.h"

int ns_norm_quick(const ns_norm *norm, const uint8_t *p, size_t n)
{
    if (!n) return 1;
    return !norm->prepend && !norm->replace && (!norm->nfc || ns_nfc_quick(p, n));
}

ns_status ns_norm_apply(const ns_norm *norm, ns_buf *out, const uint8_t *p, size_t n, ns_error *err)
{
    if (norm->nfc) return ns_nfc(out, p, n, err);
    if (norm->prepend && n) NS_TRY(ns_buf_adds(out, NS_META, err), "normalise");
    for (size_t i = 0, end; i < n; i = end) {
        const uint8_t *blank = norm->replace ? memchr(p + i, ' ', n - i) : NULL;
        end = blank ? (size_t)(blank - p) : n;
        NS_TRY(ns_buf_add(out, p + i, end - i, err), "normalise");
        if (!blank) break;
        NS_TRY(ns_buf_adds(out, NS_META, err), "normalise");
        end++;
    }
    return NS_OK;
}
