/* Any text: both filters end, and a text without operators and full stops comes out of the splitter unchanged. */
#include <stdlib.h>
#include <string.h>

#include "data/arithmetic.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    ns_buf out = {0};
    ns_error err = NS_ERROR_INIT;
    int wrong, n_ops = 0;
    ns_str text = {(const char *)p, n};
    for (size_t i = 0; i < n; i++) {
        if (p[i] >= 0x80) return 0;             /* callers pass valid UTF-8; ASCII is enough here */
        n_ops += strchr("+-*/.", p[i]) && p[i]; /* a full stop also ends an expression */
    }
    if (ns_arithmetic_check(&wrong, text, 1e-4, &err) != NS_OK) abort();
    if (ns_arithmetic_split(&out, text, &err) != NS_OK) abort();
    if (n_ops < 1 && n && (out.len != n || memcmp(out.data, p, n))) abort();
    ns_buf_free(&out);
    return 0;
}
