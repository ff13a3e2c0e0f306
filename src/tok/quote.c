/* Text of tokens for people: ns_tok_quote (tok.h), what `ns tokenize --pieces` and `ns inspect` print. The result is valid
 * UTF-8 without control characters, whatever the bytes. */
#include <string.h>

#include "base/json.h"
#include "tok/tok.h"
#include "tok/unicode.h"

/* Bytes of the control character at p that JSON leaves as it is: 0, 1 or 2. */
static int is_control(const char *p, size_t n)
{
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] == 0x7f) return 1;
    return u[0] == 0xc2 && n > 1 && u[1] >= 0x80 && u[1] < 0xa0 ? 2 : 0;
}

ns_status ns_tok_quote(ns_buf *out, const char *p, size_t n, ns_error *err)
{
    NS_TRY(ns_buf_addc(out, '"', err), "quote");
    while (n) {
        size_t good = ns_utf8_check((const uint8_t *)p, n);
        size_t at = out->len;
        size_t plain = 0; /* DEL and U+0080..U+009F: a terminal may act on them */
        while (plain < good && !is_control(p + plain, n - plain)) plain++;
        good = plain;
        if (good) {
            NS_TRY(ns_json_write_str(out, (ns_str){p, good}, NS_JSON_UTF8, err), "quote");
            memmove(out->data + at, out->data + at + 1, out->len - at - 1); /* without the quotes */
            out->len -= 2;
            p += good;
            n -= good;
            if (!n) break;
        }
        int control = is_control(p, n);
        if (control) {
            NS_TRY(ns_buf_printf(out, err, "\\u%04x", (unsigned char)p[control - 1]), "quote");
            p += control;
            n -= (size_t)control;
            continue;
        }
        NS_TRY(ns_buf_printf(out, err, "\\x%02x", (unsigned char)*p), "quote");
        p++;
        n--;
    }
    return ns_buf_addc(out, '"', err);
}
