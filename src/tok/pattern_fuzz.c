/* Fuzz target for split patterns. Input: a pattern, a NUL, a text. The pattern is refused by name, or it cuts the text:
 * matches are not empty, at character borders, in order. A first byte of 1..4 instead: one of the patterns that have scanners
 * of their own, and then PCRE2 must cut the text as the scanner does. */
#include "tok/fuzz_check.h"
#include "tok/regex.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TAIL "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
static const char *const known[] = {
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL,
    CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL,
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TAIL};

/* Characters that PCRE2 10.42 (Unicode 14) and our tables (15) class alike. */
static int same_classes(const uint8_t *p, size_t n)
{
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t c = ns_utf8_at(p, i, &len);
        if (c >= 0x10000 || c == 0x0cf3 || c == 0x0ece) return 0;
    }
    return 1;
}

static void cut(const ns_regex *re, ns_split_fn fn, const uint8_t *p, size_t n)
{
    ns_regex_work w = {0};
    ns_error err = NS_ERROR_INIT;
    ns_span hit = {0, 0};
    for (size_t i = 0; i < n; i = hit.to) {
        if (ns_regex_next(re, &w, p, n, i, &hit, &err) != NS_OK) {
            check_refusal(&err); /* too many steps */
            must(!fn, "a known pattern never gives up");
            break;
        }
        if (hit.from == SIZE_MAX) {
            must(!fn, "a known pattern covers the text");
            break;
        }
        must(hit.from >= i && hit.to > hit.from && hit.to <= n, "matches are in order and not empty");
        must((p[hit.from] & 0xc0) != 0x80 && (hit.to == n || (p[hit.to] & 0xc0) != 0x80), "and whole characters");
        if (fn) must(hit.from == i && fn(p, n, i) == hit.to, "scanner and PCRE2 cut alike");
    }
    ns_regex_work_free(&w);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    static ns_regex *compiled[4];
    ns_error err = NS_ERROR_INIT;
    if (!size || !ns_regex_available()) return 0;
    char *all = malloc(size); /* exact: a sanitizer sees reading past the end */
    memcpy(all, data, size);
    const char *nul = memchr(all, 0, size);
    int k = data[0] >= 1 && data[0] <= 4 ? data[0] - 1 : -1;
    size_t pattern_n = k >= 0 ? 1 : nul ? (size_t)(nul - all) : size, from = k >= 0 || !nul ? pattern_n : pattern_n + 1;
    const uint8_t *text = (const uint8_t *)all + from;
    size_t n = size - from;
    if (ns_utf8_check(text, n) < n) n = 0;
    if (k >= 0) {
        if (!compiled[k])
            must(ns_regex_compile(&compiled[k], known[k], strlen(known[k]), &err) == NS_OK, "known patterns compile");
        ns_split_fn fn = ns_split_find(known[k], strlen(known[k]));
        must(fn != NULL, "and have a scanner");
        if (same_classes(text, n)) cut(compiled[k], fn, text, n);
    } else if (ns_utf8_check((const uint8_t *)all, pattern_n) == pattern_n) {
        ns_regex *re = NULL;
        if (ns_regex_compile(&re, all, pattern_n, &err) == NS_OK)
            cut(re, NULL, text, n < 300 ? n : 300);
        else {
            check_refusal(&err);
            must(!re, "nothing is handed out on failure");
        }
        ns_regex_free(&re);
    }
    free(all);
    return 0;
}
