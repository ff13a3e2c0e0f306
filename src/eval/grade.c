#include "eval/grade.h"

#include <string.h>

int ns_extract_boxed(ns_str *answer, ns_str text)
{
    static const char box[] = "\\boxed";
    size_t n = sizeof box - 1, at = (size_t)-1;
    for (size_t i = 0; i + n <= text.n; i++)
        if (!memcmp(text.p + i, box, n)) at = i;
    if (at == (size_t)-1 || at + n >= text.n || text.p[at + n] != '{') return 0;
    int depth = 0;
    for (size_t i = at + n; i < text.n; i++) {
        if (text.p[i] == '{') depth++;
        if (text.p[i] == '}' && --depth == 0) {
            *answer = (ns_str){text.p + at + n + 1, i - (at + n + 1)};
            return 1;
        }
    }
    return 0;
}

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Normalised copy; texts longer than the buffer compare as they are. */
static size_t normalise(char out[256], ns_str s)
{
    size_t n = 0;
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\n' || s.p[0] == '$')) s.p++, s.n--;
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\n' || s.p[s.n - 1] == '$' || s.p[s.n - 1] == '.')) s.n--;
    for (size_t i = 0; i < s.n && n < 255; i++) {
        int digit_comma = s.p[i] == ',' && i > 0 && is_digit(s.p[i - 1]) && i + 3 < s.n && is_digit(s.p[i + 1]) &&
                          is_digit(s.p[i + 2]) && is_digit(s.p[i + 3]) && (i + 4 == s.n || !is_digit(s.p[i + 4]));
        if (s.p[i] == ' ' || digit_comma) continue;
        out[n++] = s.p[i];
    }
    if (n > 2 && out[n - 1] == '0' && out[n - 2] == '.') n -= 2;
    return n;
}

int ns_answers_equal(ns_str a, ns_str b)
{
    char x[256], y[256];
    if (a.n > 255 || b.n > 255) return a.n == b.n && !memcmp(a.p, b.p, a.n);
    size_t nx = normalise(x, a), ny = normalise(y, b);
    return nx == ny && nx > 0 && !memcmp(x, y, nx);
}
