/* Text of tokens for people: ns_tok_quote (tok.h), what `ns tokenize --pieces` and `ns inspect` print. The result is valid
 * UTF-8 without control characters, whatever the bytes. */
#include <string.h>

#include "base/json.h"
#include "tok/tok.h"
#include "tok/unicode.h"

ns_status ns_tok_quote(ns_buf *out, const char *p, size_t n, ns_error *err)
{
    NS_TRY(ns_buf_addc(out, '"', err), "quote");
    while (n) {
        size_t good = ns_utf8_check((const uint8_t *)p, n);
        size_t at = out->len;
        NS_TRY(ns_json_write_str(out, (ns_str){p, good}, NS_JSON_UTF8, err), "quote");
        memmove(out->data + at, out->data + at + 1, good ? out->len - at - 1 : 0); /* without the quotes */
        out->len -= 2;
        p += good;
        n -= good;
        if (!n) break;
        NS_TRY(ns_buf_printf(out, err, "\\x%02x", (unsigned char)*p), "quote");
        p++;
        n--;
    }
    return ns_buf_addc(out, '"', err);
}
