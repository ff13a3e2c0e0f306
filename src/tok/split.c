/* Split patterns as scanners (data.md §6.4). The patterns are ordered alternations: at each position the first
 * alternative that matches wins, and inside it quantifiers are greedy with backtracking; it is not the longest match. Each
 * function below tries the alternatives in order, with backtracking worked out by hand:
 *   \s*[\r\n]+    on a run of white space = up to and including the last CR or LF of the run
 *   \s+(?!\S)     on a run not at the end of the text = all but its last character, if it has two or more
 * Every pass over a run of white space is followed by consuming all of it but the last character, so scanning is linear. */
#include "tok/split.h"

#include <string.h>

#include "tok/unicode.h"

static inline uint8_t class_at(const uint8_t *p, size_t i, size_t *len)
{
    if (p[i] < 0x80) {
        *len = 1;
        return ns_uni_class_block[p[i]]; /* block 0 is ASCII */
    }
    return ns_uni_class(ns_utf8_at(p, i, len));
}

/* End of the run of characters whose class has any bit of `mask`. */
static inline size_t run(const uint8_t *p, size_t n, size_t i, uint8_t mask)
{
    size_t len;
    while (i < n && (class_at(p, i, &len) & mask)) i += len;
    return i;
}
/* End of the run of characters that have no bit of `mask`. */
static inline size_t run_not(const uint8_t *p, size_t n, size_t i, uint8_t mask)
{
    size_t len;
    while (i < n && !(class_at(p, i, &len) & mask)) i += len;
    return i;
}

enum { LNS = NS_UC_L | NS_UC_N | NS_UC_S };

/* (?i:'s|'t|'re|'ve|'m|'ll|'d) after p[i] == '\''; 0 if none. Case folding makes U+017F (c5 bf) an s. */
static size_t contraction(const uint8_t *p, size_t n, size_t i, int fold)
{
    if (n - i < 2) return 0;
    uint8_t lower = fold ? 0x20 : 0, a = p[i + 1] | lower;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    if (n - i < 3) return 0;
    uint8_t b = p[i + 2] | lower;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return i + 3;
    return fold && p[i + 1] == 0xc5 && p[i + 2] == 0xbf ? i + 3 : 0;
}

/* The last three alternatives on white space at i (or the last two if newlines are not special). */
static size_t white(const uint8_t *p, size_t n, size_t i, int newlines)
{
    size_t j = i, len, last = i, newline = 0;
    uint8_t k;
    while (j < n && ((k = class_at(p, j, &len)) & NS_UC_S)) {
        last = j;
        j += len;
        if (k & NS_UC_CRLF) newline = j;
    }
    if (newlines && newline) return newline;
    return j == n || last == i ? j : last;
}

size_t ns_split_gpt2(const uint8_t *p, size_t n, size_t i)
{
    size_t len, e;
    if (p[i] == '\'' && (e = contraction(p, n, i, 0))) return e;
    size_t j = p[i] == ' ' && i + 1 < n ? i + 1 : i;
    uint8_t k = class_at(p, j, &len);
    if (k & NS_UC_L) return run(p, n, j + len, NS_UC_L);
    if (k & NS_UC_N) return run(p, n, j + len, NS_UC_N);
    if (!(k & NS_UC_S)) return run_not(p, n, j + len, LNS);
    return white(p, n, i, 0);
}

/* Alternatives 4 to 7 of the Llama-3 family: punctuation with its newlines (or slashes), white space. */
static inline size_t tail(const uint8_t *p, size_t n, size_t i, int slash)
{
    size_t len, j = p[i] == ' ' && i + 1 < n ? i + 1 : i;
    if (class_at(p, j, &len) & LNS) return white(p, n, i, 1);
    j = run_not(p, n, j + len, LNS);
    while (j < n && (p[j] == '\r' || p[j] == '\n' || (slash && p[j] == '/'))) j++;
    return j;
}

static inline size_t llama3(const uint8_t *p, size_t n, size_t i, int max_digits)
{
    size_t len, len2, e;
    uint8_t k = class_at(p, i, &len);
    if (k & NS_UC_L) return run(p, n, i + len, NS_UC_L);
    if (k & NS_UC_N) {
        e = i + len;
        for (int d = 1; d < max_digits && e < n && (class_at(p, e, &len) & NS_UC_N); d++) e += len;
        return e;
    }
    if (p[i] == '\'' && (e = contraction(p, n, i, 1))) return e;
    if (!(k & NS_UC_CRLF) && i + len < n && (class_at(p, i + len, &len2) & NS_UC_L))
        return run(p, n, i + len + len2, NS_UC_L);
    return tail(p, n, i, 0);
}

size_t ns_split_llama3(const uint8_t *p, size_t n, size_t i)
{
    return llama3(p, n, i, 3);
}
size_t ns_split_qwen2(const uint8_t *p, size_t n, size_t i)
{
    return llama3(p, n, i, 1);
}

/* U*l+ from i; 0 if it does not match. After the greedy U* one l must follow: the next character, or else the last
 * character of the run that is in both classes (l+ then stops where U* did before giving back). */
static size_t upper_lower(const uint8_t *p, size_t n, size_t i)
{
    size_t len, u = run(p, n, i, NS_UC_UPPER);
    if (u < n && (class_at(p, u, &len) & NS_UC_LOWER)) return run(p, n, u + len, NS_UC_LOWER);
    while (u > i) {
        size_t b = ns_utf8_back(p, u);
        if (class_at(p, b, &len) & NS_UC_LOWER) return run(p, n, b, NS_UC_LOWER);
        u = b;
    }
    return 0;
}

/* U+l* from i; 0 if it does not match. */
static size_t upper_then_lower(const uint8_t *p, size_t n, size_t i)
{
    size_t u = run(p, n, i, NS_UC_UPPER);
    return u > i ? run(p, n, u, NS_UC_LOWER) : 0;
}

size_t ns_split_tekken(const uint8_t *p, size_t n, size_t i)
{
    size_t len, e;
    uint8_t k = class_at(p, i, &len);
    int optional = !(k & (NS_UC_CRLF | NS_UC_L | NS_UC_N)); /* [^\r\n\p{L}\p{N}]? takes this one first */
    if (optional && i + len < n && (e = upper_lower(p, n, i + len))) return e;
    if ((e = upper_lower(p, n, i))) return e;
    if (optional && i + len < n && (e = upper_then_lower(p, n, i + len))) return e;
    if ((e = upper_then_lower(p, n, i))) return e;
    if (k & NS_UC_N) return i + len;
    return tail(p, n, i, 1);
}

ns_split_fn ns_split_find(const char *pattern, size_t n)
{
    static const struct {
        const char *pattern;
        ns_split_fn fn;
    } known[] = {
        {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
         "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
         ns_split_llama3},
        {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
         "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
         ns_split_qwen2},
        {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", ns_split_gpt2},
        {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|"
         "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}|"
         " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
         ns_split_tekken},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].pattern) == n && !memcmp(known[i].pattern, pattern, n)) return known[i].fn;
    return NULL;
}
