/* Types of plain scalars, and their text. Two dialects: YAML files follow YAML 1.1 as OmegaConf 2.3 reads it (yes/on are
 * booleans, 0x1F and 017 integers, 1e-4 a float; no timestamps and no base-60 numbers, which stay strings); command-line
 * words follow Hydra 1.3 (true/false/null in any case; 007 is a string). Integers beyond 64 bits become floats. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/config_priv.h"

enum { MAX_NUMBER = 128 }; /* longer words are strings */

static int one_of(const char *s, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(s, *words) == 0) return 1;
    return 0;
}

static void set_bool(ns_node *n, int v)
{
    n->type = NS_NODE_BOOL;
    n->i = v;
}

static void set_float(ns_node *n, double v)
{
    n->type = NS_NODE_FLOAT;
    n->f = v;
}

/* digits: text without '_', sign kept apart */
static void set_int(ns_node *n, int negative, const char *digits, int base)
{
    errno = 0;
    unsigned long long v = strtoull(digits, NULL, base);
    if (errno || v > (unsigned long long)INT64_MAX + (negative ? 1u : 0u)) {
        double f = base == 10 ? strtod(digits, NULL) : 0;
        for (const char *p = digits; base != 10 && *p; p++)
            f = f * base + (isdigit((unsigned char)*p) ? *p - '0' : tolower((unsigned char)*p) - 'a' + 10);
        set_float(n, negative ? -f : f);
        return;
    }
    n->type = NS_NODE_INT;
    n->i = negative ? (int64_t)(0 - v) : (int64_t)v;
    n->f = (double)n->i;
}

/* Takes [0-9_]; returns the length and copies the digits. */
static size_t take_digits(const char *s, char *out, size_t *n_out, int underscores)
{
    size_t i = 0;
    for (; isdigit((unsigned char)s[i]) || (underscores && s[i] == '_' && i > 0); i++)
        if (s[i] != '_') out[(*n_out)++] = s[i];
    return i;
}

/* `1.5e-3`, `.5`, `1.`, `1e5` without sign. Returns 1 and the text without underscores if it is all of s. `strict`:
 * Hydra's rules (no leading zeros, underscores between digits only). */
static int is_float(const char *s, int strict, char *out)
{
    size_t n = 0, i = take_digits(s, out, &n, 1), whole = n;
    int dot = 0, exponent = 0;
    if (strict && whole > 1 && s[0] == '0') return 0;
    if (strict && i > 0 && s[i - 1] == '_') return 0;
    if (s[i] == '.') {
        dot = 1;
        out[n++] = s[i++];
        size_t before = n;
        if (strict && s[i] == '_') return 0;
        i += take_digits(s + i, out, &n, 1);
        if (n == before && whole == 0) return 0;
        if (strict && s[i - 1] == '_') return 0;
    } else if (whole == 0) {
        return 0;
    }
    if (s[i] == 'e' || s[i] == 'E') {
        exponent = 1;
        out[n++] = s[i++];
        if (s[i] == '+' || s[i] == '-') out[n++] = s[i++];
        size_t before = n;
        i += take_digits(s + i, out, &n, strict);
        if (n == before || s[i - 1] == '_') return 0;
    }
    out[n] = 0;
    return s[i] == 0 && (dot || exponent);
}

static int all_of(const char *s, const char *set)
{
    return *s && s[strspn(s, set)] == 0;
}

static void strip_underscores(const char *s, char *out)
{
    for (; *s; s++)
        if (*s != '_') *out++ = *s;
    *out = 0;
}

static void yaml_number(ns_node *n, const char *s)
{
    char digits[MAX_NUMBER + 1];
    int negative = *s == '-';
    const char *u = s + (*s == '-' || *s == '+');
    strip_underscores(u, digits);
    if (u[0] == '0' && u[1] == 'b' && all_of(u + 2, "01_") && digits[2]) {
        set_int(n, negative, digits + 2, 2);
    } else if (u[0] == '0' && u[1] == 'x' && all_of(u + 2, "0123456789abcdefABCDEF_") && digits[2]) {
        set_int(n, negative, digits + 2, 16);
    } else if (u[0] == '0' && u[1] && all_of(u + 1, "01234567_") && digits[1]) {
        set_int(n, negative, digits + 1, 8);
    } else if (strcmp(u, "0") == 0 || (u[0] >= '1' && u[0] <= '9' && all_of(u, "0123456789_"))) {
        set_int(n, negative, digits, 10);
    } else if (is_float(u, 0, digits)) {
        set_float(n, negative ? -strtod(digits, NULL) : strtod(digits, NULL));
    } else if (!strcmp(u, ".inf") || !strcmp(u, ".Inf") || !strcmp(u, ".INF")) {
        set_float(n, negative ? -INFINITY : INFINITY);
    } else if (!strcmp(s, ".nan") || !strcmp(s, ".NaN") || !strcmp(s, ".NAN")) {
        set_float(n, NAN);
    }
}

ns_status cfg_type_yaml(ns_config *c, ns_node *n, ns_error *err)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const yes[] = {"yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", NULL};
    static const char *const no[] = {"no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", NULL};
    (void)c;
    (void)err;
    if (n->n != strlen(n->s) || n->n > MAX_NUMBER) return NS_OK;
    if (one_of(n->s, nulls))
        n->type = NS_NODE_NULL;
    else if (one_of(n->s, yes) || one_of(n->s, no))
        set_bool(n, one_of(n->s, yes));
    else
        yaml_number(n, n->s);
    return NS_OK;
}

ns_status cfg_type_hydra(ns_config *c, ns_node *n, ns_error *err)
{
    char digits[MAX_NUMBER + 1];
    const char *s = n->s, *u = s + (*s == '-' || *s == '+');
    (void)c;
    (void)err;
    if (n->n > MAX_NUMBER) return NS_OK;
    /* None is not Hydra's null, but what Python users write; nobody means the string */
    if (strcasecmp(s, "null") == 0 || strcmp(s, "None") == 0) {
        n->type = NS_NODE_NULL;
    } else if (strcasecmp(s, "true") == 0 || strcasecmp(s, "false") == 0) {
        set_bool(n, strcasecmp(s, "true") == 0);
    } else if (strcasecmp(u, "inf") == 0) {
        set_float(n, *s == '-' ? -INFINITY : INFINITY);
    } else if (strcasecmp(u, "nan") == 0) {
        set_float(n, NAN);
    } else if (all_of(u, "0123456789_") && isdigit((unsigned char)u[0]) && (u[0] != '0' || !u[1]) && !strstr(u, "__") &&
               u[strlen(u) - 1] != '_') {
        strip_underscores(u, digits);
        set_int(n, *s == '-', digits, 10);
    } else if (is_float(u, 1, digits)) {
        set_float(n, *s == '-' ? -strtod(digits, NULL) : strtod(digits, NULL));
    }
    return NS_OK;
}

/* ---- text ---- */
size_t cfg_utf8_valid(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t i = 0;
    while (i < n) {
        unsigned char c = p[i];
        size_t more = c < 0x80                ? 0
                      : c >= 0xc2 && c < 0xe0 ? 1
                      : c >= 0xe0 && c < 0xf0 ? 2
                      : c >= 0xf0 && c < 0xf5 ? 3
                                              : 9;
        if (more == 9 || n - i <= more) return i;
        for (size_t k = 1; k <= more; k++)
            if ((p[i + k] & 0xc0) != 0x80) return i;
        if ((c == 0xe0 && p[i + 1] < 0xa0) || (c == 0xed && p[i + 1] > 0x9f) || (c == 0xf0 && p[i + 1] < 0x90) ||
            (c == 0xf4 && p[i + 1] > 0x8f))
            return i;
        i += more + 1;
    }
    return n;
}

void cfg_format_double(char out[40], double x)
{
    char digits[40];
    int precision = 1;
    if (isnan(x) || isinf(x)) {
        snprintf(out, 40, "%s", isnan(x) ? "nan" : x < 0 ? "-inf" : "inf");
        return;
    }
    do snprintf(digits, sizeof digits, "%.*e", precision - 1, x);
    while (strtod(digits, NULL) != x && ++precision <= 17);
    int exponent = (int)strtol(strchr(digits, 'e') + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) { /* Python's repr: 1e-05, 1.5e+16 */
        snprintf(out, 40, "%.*e", precision - 1, x);
        return;
    }
    int decimals = precision - 1 - exponent;
    snprintf(out, 40, "%.*f", decimals > 1 ? decimals : 1, x);
}

ns_status cfg_to_text(const ns_node *n, ns_buf *out, ns_error *err)
{
    char num[40];
    switch (n->type) {
    case NS_NODE_NULL: return ns_buf_adds(out, "None", err);
    case NS_NODE_BOOL: return ns_buf_adds(out, n->i ? "True" : "False", err);
    case NS_NODE_INT: return ns_buf_printf(out, err, "%lld", (long long)n->i);
    case NS_NODE_FLOAT: cfg_format_double(num, n->f); return ns_buf_adds(out, num, err);
    case NS_NODE_STRING: return ns_buf_add(out, n->s, n->n, err);
    case NS_NODE_LIST:
    case NS_NODE_MAP: break;
    }
    const char *open = n->type == NS_NODE_LIST ? "[" : "{", *close = n->type == NS_NODE_LIST ? "]" : "}";
    CFG_TRY(ns_buf_adds(out, open, err));
    for (size_t i = 0; i < n->n; i++) {
        if (i) CFG_TRY(ns_buf_adds(out, ", ", err));
        if (n->keys) CFG_TRY(ns_buf_printf(out, err, "'%s': ", n->keys[i]));
        const char *quote = n->items[i]->type == NS_NODE_STRING ? "'" : "";
        CFG_TRY(ns_buf_adds(out, quote, err));
        CFG_TRY(cfg_to_text(n->items[i], out, err));
        CFG_TRY(ns_buf_adds(out, quote, err));
    }
    return ns_buf_adds(out, close, err);
}
