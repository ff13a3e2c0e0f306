/* Template text -> tokens, with Jinja's white-space rules as transformers sets them (trim_blocks, lstrip_blocks):
 *   - line ends become \n, and one newline at the very end of the template is dropped;
 *   - blanks between a line's start and {% or {# go (not with {%+), and the newline right after %} or #} goes (not with +%});
 *   - a minus next to a delimiter takes all white space on that side.
 * Source: the lexer of Jinja 3.1. */
#include <stdio.h>
#include <stdlib.h>

#include "tok/jinja_internal.h"
#include "tok/unicode.h"

typedef struct lexer {
    ns_arena *a;
    jtokens *out;
    const char *p; /* the text after line ends are made equal */
    size_t n, at;
    const char *name;
    /* where `seen` bytes from the start are, for positions */
    size_t seen;
    int line, col;
    ns_error *err;
} lexer;

static void place(lexer *l, size_t at, int *line, int *col)
{
    if (at < l->seen) { /* only ever a little back: start again from the line's start */
        l->seen = 0;
        l->line = l->col = 1;
    }
    for (; l->seen < at; l->seen++) {
        if (l->p[l->seen] == '\n')
            l->line++, l->col = 1;
        else if (((unsigned char)l->p[l->seen] & 0xc0) != 0x80)
            l->col++;
    }
    *line = l->line;
    *col = l->col;
}

static ns_status fail_at(lexer *l, size_t at, const char *found, const char *hint)
{
    int line, col;
    ns_error *err = l->err;
    place(l, at, &line, &col);
    NS_FAIL(NS_ERR_INPUT, "%s:%d:%d: %s%s%s", l->name, line, col, found, *hint ? ": " : "", hint);
}

static jtoken *push(lexer *l, jt type, size_t at, ns_str s)
{
    if (l->out->n == l->out->cap) {
        size_t cap = l->out->cap ? l->out->cap * 2 : 256;
        jtoken *v = ns_arena_alloc(l->a, cap * sizeof *v, l->err);
        if (!v) return NULL;
        if (l->out->n) memcpy(v, l->out->v, l->out->n * sizeof *v);
        l->out->v = v;
        l->out->cap = cap;
    }
    jtoken *t = &l->out->v[l->out->n++];
    *t = (jtoken){.type = type, .s = s};
    place(l, at, &t->line, &t->col);
    return t;
}
#define PUSH(...)                                     \
    do {                                              \
        if (!push(__VA_ARGS__)) return NS_ERR_MEMORY; \
    } while (0)

static int space_at(const lexer *l, size_t at, size_t *len)
{
    return jstr_is_space((ns_str){l->p, l->n}, at, len);
}

static size_t skip_space(const lexer *l, size_t at)
{
    size_t len;
    while (at < l->n && space_at(l, at, &len)) at += len;
    return at;
}

static int starts(const lexer *l, size_t at, const char *s)
{
    size_t n = strlen(s);
    return at + n <= l->n && !memcmp(l->p + at, s, n);
}

/* Text [from, to) in front of a delimiter at `to`; sign is '-', '+' or 0. */
static ns_status put_data(lexer *l, size_t from, size_t to, char sign, int variable, int line_start)
{
    ns_str s = {l->p + from, to - from};
    if (sign == '-') {
        s = jstr_strip(s, 0, 1, NULL);
    } else if (sign != '+' && !variable) {
        size_t k = s.n;
        while (k && s.p[k - 1] != '\n') k--;
        if (k > 0 || line_start) {
            ns_str tail = jstr_strip((ns_str){s.p + k, s.n - k}, 1, 0, NULL);
            if (!tail.n) s.n = k;
        }
    }
    if (s.n) PUSH(l, JT_DATA, from, s);
    return NS_OK;
}

static char sign_at(const lexer *l, size_t at)
{
    return at < l->n && (l->p[at] == '-' || l->p[at] == '+') ? l->p[at] : 0;
}

/* ---- inside of a tag ---- */
static uint32_t hex(const char *p, size_t n, int *ok)
{
    uint32_t v = 0;
    for (size_t i = 0; i < n; i++) {
        char ch = p[i];
        int d = ch >= '0' && ch <= '9' ? ch - '0' : (ch | 32) >= 'a' && (ch | 32) <= 'f' ? (ch | 32) - 'a' + 10 : -1;
        if (d < 0) *ok = 0;
        v = v * 16 + (uint32_t)(d < 0 ? 0 : d);
    }
    return v;
}

static ns_status string_token(lexer *l)
{
    size_t start = l->at, i = start + 1, k = 0;
    char quote = l->p[start];
    while (i < l->n && l->p[i] != quote) i += l->p[i] == '\\' ? 2 : 1;
    if (i >= l->n) return fail_at(l, start, "the text that begins here has no closing quote", "");
    char *s = ns_arena_alloc(l->a, i - start, l->err);
    if (!s) return NS_ERR_MEMORY;
    for (size_t j = start + 1; j < i; j++) {
        if (l->p[j] != '\\') {
            s[k++] = l->p[j];
            continue;
        }
        char e = l->p[++j];
        const char *from = "abfnrtv\\'\"", *to = "\a\b\f\n\r\t\v\\'\"", *hit = strchr(from, e);
        size_t digits = e == 'x' ? 2 : e == 'u' ? 4 : e == 'U' ? 8 : 0;
        if (e == '\n') continue; /* a line continued */
        if (hit && e) {
            s[k++] = to[hit - from];
        } else if (e >= '0' && e <= '7') {
            uint32_t v = 0;
            size_t m = 0;
            for (; m < 3 && j + m < i && l->p[j + m] >= '0' && l->p[j + m] <= '7'; m++)
                v = v * 8 + (uint32_t)(l->p[j + m] - '0');
            j += m - 1;
            uint8_t u[4];
            size_t w = ns_utf8_put(u, v);
            memcpy(s + k, u, w);
            k += w;
        } else if (digits) {
            int ok = j + digits < i;
            uint32_t v = ok ? hex(l->p + j + 1, digits, &ok) : 0;
            if (!ok || v > 0x10ffff || (v >= 0xd800 && v < 0xe000))
                return fail_at(l, j - 1, "not a character escape", "expected \\xNN, \\uNNNN or \\UNNNNNNNN");
            j += digits;
            uint8_t u[4];
            size_t w = ns_utf8_put(u, v);
            memcpy(s + k, u, w);
            k += w;
        } else {
            s[k++] = '\\';
            s[k++] = e;
        }
    }
    PUSH(l, JT_STRING, start, (ns_str){s, k});
    l->at = i + 1;
    return NS_OK;
}

static int digit(char ch)
{
    return ch >= '0' && ch <= '9';
}

static size_t digits_from(const lexer *l, size_t i)
{
    while (i < l->n && (digit(l->p[i]) || (l->p[i] == '_' && i + 1 < l->n && digit(l->p[i + 1])))) i++;
    return i;
}

static ns_status number_token(lexer *l)
{
    size_t start = l->at, i = digits_from(l, start), k = 0;
    int is_float = 0, base = 10;
    if (l->p[start] == '0' && start + 1 < l->n && strchr("xXoObB", l->p[start + 1])) {
        char b = (char)(l->p[start + 1] | 32);
        base = b == 'x' ? 16 : b == 'o' ? 8 : 2;
        for (i = start + 2; i < l->n && (digit(l->p[i]) || (l->p[i] | 32) == '_' ||
                                         (base == 16 && (l->p[i] | 32) >= 'a' && (l->p[i] | 32) <= 'f'));)
            i++;
    } else {
        /* 1.foo is an attribute of 1; after a dot (x.0.5) a number is an index */
        int after_dot = start && l->p[start - 1] == '.';
        if (!after_dot && i + 1 < l->n && l->p[i] == '.' && digit(l->p[i + 1])) i = digits_from(l, i + 1), is_float = 1;
        if (!after_dot && i < l->n && (l->p[i] | 32) == 'e') {
            size_t j = i + 1;
            if (j < l->n && (l->p[j] == '+' || l->p[j] == '-')) j++;
            if (j < l->n && digit(l->p[j])) i = digits_from(l, j), is_float = 1;
        }
    }
    char text[64];
    if (i - start >= sizeof text) return fail_at(l, start, "the number is too long", "at most 60 digits");
    for (size_t j = start + (base == 10 ? 0 : 2); j < i; j++)
        if (l->p[j] != '_') text[k++] = l->p[j];
    text[k] = 0;
    jtoken *t = push(l, is_float ? JT_FLOAT : JT_INT, start, (ns_str){l->p + start, i - start});
    if (!t) return NS_ERR_MEMORY;
    char *end;
    if (is_float) {
        t->f = strtod(text, &end);
    } else {
        uint64_t v = 0;
        for (end = text; *end; end++) {
            int d = digit(*end) ? *end - '0' : (*end | 32) - 'a' + 10;
            if (d < 0 || d >= base || v > ((uint64_t)INT64_MAX - (uint64_t)d) / (uint64_t)base)
                return fail_at(l, start, "not an integer in range", "at most 9223372036854775807");
            v = v * (uint64_t)base + (uint64_t)d;
        }
        if (end == text) return fail_at(l, start, "a number without digits", "");
        t->i = (int64_t)v;
    }
    l->at = i;
    return NS_OK;
}

static int name_char(const lexer *l, size_t at, size_t *len)
{
    uint32_t ch = ns_utf8_at((const uint8_t *)l->p, at, len);
    if (ch < 0x80) return digit((char)ch) || ch == '_' || ((ch | 32) >= 'a' && (ch | 32) <= 'z');
    return (ns_uni_class(ch) & (NS_UC_L | NS_UC_N)) != 0;
}

/* Tokens up to and including the closing delimiter. */
static ns_status tag_tokens(lexer *l, int variable)
{
    size_t begin = l->at, len;
    char open[JINJA_MAX_TREE];
    int depth = 0;
    static const char *const ops[] = {"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<",
                                      ">",  "=",  ".",  ",",  ":",  "|",  ";", "(", ")", "[", "]", "{", "}"};
    for (;;) {
        l->at = skip_space(l, l->at);
        if (l->at >= l->n) return fail_at(l, begin, variable ? "{{ has no closing }}" : "{% has no closing %}", "");
        size_t i = l->at;
        if (!depth) {
            char sign = l->p[i] == '-' || (l->p[i] == '+' && !variable) ? l->p[i] : 0;
            size_t k = i + (sign != 0);
            if (starts(l, k, variable ? "}}" : "%}")) {
                PUSH(l, variable ? JT_VAR_END : JT_BLOCK_END, i, (ns_str){l->p + i, 2});
                l->at = k + 2;
                if (sign == '-')
                    l->at = skip_space(l, l->at);
                else if (!variable && !sign && l->at < l->n && l->p[l->at] == '\n')
                    l->at++;
                return NS_OK;
            }
        }
        char ch = l->p[i];
        if (ch == '"' || ch == '\'') {
            ns_status st = string_token(l);
            if (st != NS_OK) return st;
            continue;
        }
        if (digit(ch)) {
            ns_status st = number_token(l);
            if (st != NS_OK) return st;
            continue;
        }
        if (name_char(l, i, &len)) {
            while (i < l->n && name_char(l, i, &len)) i += len;
            PUSH(l, JT_NAME, l->at, (ns_str){l->p + l->at, i - l->at});
            l->at = i;
            continue;
        }
        size_t k = 0, n_ops = sizeof ops / sizeof *ops;
        while (k < n_ops && !starts(l, i, ops[k])) k++;
        if (k == n_ops) {
            char msg[64];
            snprintf(msg, sizeof msg, "found '%.*s' inside of a tag", (int)jstr_char((ns_str){l->p, l->n}, i),
                     l->p + i);
            return fail_at(l, i, msg, "expected a name, text, a number or an operator");
        }
        if (strchr("([{", ch)) {
            if (depth == JINJA_MAX_TREE) return fail_at(l, i, "brackets are nested too deeply", "at most 400");
            open[depth++] = ch == '(' ? ')' : ch == '[' ? ']' : '}';
        } else if (strchr(")]}", ch)) {
            char msg[64];
            snprintf(msg, sizeof msg, "found '%c', expected %s%c%s", ch, depth ? "'" : "no closing bracket",
                     depth ? open[depth - 1] : ' ', depth ? "'" : "");
            if (!depth || open[--depth] != ch) return fail_at(l, i, msg, "");
        }
        PUSH(l, JT_OP, i, (ns_str){ops[k], strlen(ops[k])});
        l->at = i + strlen(ops[k]);
    }
}

/* Is there {% <word> %} at `at`? *after: behind it, white-space rules of `raw` and `endraw` applied. */
static int plain_tag(const lexer *l, size_t at, const char *word, int trim, size_t *after)
{
    if (!starts(l, at, "{%")) return 0;
    at = skip_space(l, at + 2 + (sign_at(l, at + 2) != 0));
    if (!starts(l, at, word)) return 0;
    at = skip_space(l, at + strlen(word));
    char sign = at < l->n && (l->p[at] == '-' || (trim && l->p[at] == '+')) ? l->p[at] : 0;
    at += sign != 0;
    if (!starts(l, at, "%}")) return 0;
    at += 2;
    if (sign == '-')
        at = skip_space(l, at);
    else if (trim && !sign && at < l->n && l->p[at] == '\n')
        at++;
    *after = at;
    return 1;
}

static ns_status raw_block(lexer *l, size_t begin, size_t after)
{
    size_t i = after, end;
    while (i < l->n && !plain_tag(l, i, "endraw", 1, &end)) i++;
    if (i >= l->n) return fail_at(l, begin, "{% raw %} has no {% endraw %}", "");
    ns_status st = put_data(l, after, i, sign_at(l, i + 2), 0, l->p[after - 1] == '\n');
    l->at = end;
    return st;
}

static ns_status lex(lexer *l)
{
    while (l->at < l->n) {
        size_t from = l->at, i = from, after;
        int line_start = from == 0 || l->p[from - 1] == '\n';
        const char *hit;
        while ((hit = i < l->n ? memchr(l->p + i, '{', l->n - i) : NULL)) {
            i = (size_t)(hit - l->p);
            if (i + 1 < l->n && (l->p[i + 1] == '{' || l->p[i + 1] == '%' || l->p[i + 1] == '#')) break;
            i++;
        }
        if (!hit) {
            PUSH(l, JT_DATA, from, (ns_str){l->p + from, l->n - from});
            break;
        }
        char kind = l->p[i + 1], sign = sign_at(l, i + 2);
        if (kind == '{' && sign == '+') sign = 0;
        ns_status st = put_data(l, from, i, sign, kind == '{', line_start);
        if (st != NS_OK) return st;
        if (kind == '#') {
            size_t k = i + 2;
            while (k < l->n && !starts(l, k, "#}")) k++;
            if (k >= l->n) return fail_at(l, i, "{# has no closing #}", "");
            int keep = l->p[k - 1] == '+' && k - 1 >= i + 2, minus = l->p[k - 1] == '-' && k - 1 >= i + 2;
            l->at = k + 2;
            if (minus)
                l->at = skip_space(l, l->at);
            else if (!keep && l->at < l->n && l->p[l->at] == '\n')
                l->at++;
            continue;
        }
        if (kind == '%' && plain_tag(l, i, "raw", 0, &after)) {
            st = raw_block(l, i, after);
        } else {
            PUSH(l, kind == '{' ? JT_VAR_BEGIN : JT_BLOCK_BEGIN, i, (ns_str){l->p + i, 2});
            l->at = i + 2 + (sign != 0);
            st = tag_tokens(l, kind == '{');
        }
        if (st != NS_OK) return st;
    }
    PUSH(l, JT_EOF, l->n, JS("the end"));
    return NS_OK;
}

ns_status ns_jinja_lex(jtokens *out, ns_arena *a, const char *text, size_t n, const char *name, ns_error *err)
{
    size_t bad = ns_utf8_check((const uint8_t *)text, n), k = 0;
    NS_FAIL_IF(n > JINJA_MAX_TEXT, NS_ERR_INPUT, "%s: the template has %zu bytes, more than %d", name, n,
               JINJA_MAX_TEXT);
    NS_FAIL_IF(bad < n, NS_ERR_INPUT, "%s: byte %zu (0x%02x) is not valid UTF-8", name, bad, (unsigned char)text[bad]);
    char *s = ns_arena_alloc(a, n + 1, err);
    if (!s) return NS_ERR_MEMORY;
    for (size_t i = 0; i < n; i++) { /* \r\n and \r are line ends too */
        if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n') continue;
        s[k++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (k && s[k - 1] == '\n') k--;
    lexer l = {.a = a, .out = out, .p = s, .n = k, .name = name, .line = 1, .col = 1, .err = err};
    return lex(&l);
}
