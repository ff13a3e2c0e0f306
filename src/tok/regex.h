/* General split patterns of tokenizer.json, by PCRE2 (opened on use: libpcre2-8.so.0). The patterns are written for
 * Oniguruma (Ruby syntax); only what means the same in both is taken, the rest is refused by name.
 *     ns_regex *re; NS_TRY(ns_regex_compile(&re, pattern, n, err), "pattern");   // UNSUPPORTED: a construct, or no PCRE2
 *     ns_regex_work w = {0};
 *     NS_TRY(ns_regex_next(re, &w, p, n, from, &hit, err), "match");             // hit.from == SIZE_MAX: no match
 * A compiled pattern is const and shared by threads, each with its own ns_regex_work. */
#ifndef NS_TOK_REGEX_H
#define NS_TOK_REGEX_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "tok/unicode.h"

typedef struct ns_regex ns_regex;
typedef struct ns_regex_work {
    void *match, *context; /* PCRE2's match data and context, made on first use */
} ns_regex_work;

int ns_regex_available(void);
NS_MUST_USE ns_status ns_regex_compile(ns_regex **out, const char *pattern, size_t n, ns_error *err);
/* First match in p[from..n), leftmost; never empty (patterns that match nothing are refused). Valid UTF-8 only. */
NS_MUST_USE ns_status ns_regex_next(const ns_regex *re, ns_regex_work *w, const uint8_t *p, size_t n, size_t from,
                                    ns_span *hit, ns_error *err);
void ns_regex_free(ns_regex **re);
void ns_regex_work_free(ns_regex_work *w);

/* The pattern in PCRE2's syntax; for tests. */
NS_MUST_USE ns_status ns_regex_translate(ns_buf *out, const char *pattern, size_t n, ns_error *err);

#endif
