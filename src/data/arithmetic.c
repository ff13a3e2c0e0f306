/* Arithmetic in solutions. Text is handled in code points because positions count characters; expressions themselves are
 * ASCII apart from white space. Two evaluators, as in the reference: the stage solver works on doubles, one operation a
 * stage; the right-hand side is a small expression parser with exact integers (128 bits; beyond that, doubles). */
#include "data/arithmetic.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"

enum { STAGE_END = 0x01, MAX_TOKENS = 2000, MAX_DEPTH = 100 };

/* ---- characters ---- */
static int is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* ASCII digits, and the superscripts and subscripts that count as digits without being numbers */
static int is_digit(uint32_t c)
{
    return (c >= '0' && c <= '9') || c == 0xb2 || c == 0xb3 || c == 0xb9 || c == 0x2070 ||
           (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089);
}

static size_t decode_utf8(uint32_t *out, ns_str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n;) {
        unsigned char c = (unsigned char)s.p[i];
        size_t k = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        uint32_t u = k == 1 ? c : k == 2 ? c & 0x1fu : k == 3 ? c & 0xfu : c & 7u;
        for (size_t j = 1; j < k && i + j < s.n; j++) u = u << 6 | ((unsigned char)s.p[i + j] & 0x3fu);
        out[n++] = u;
        i += k;
    }
    return n;
}

static ns_status put_points(ns_buf *out, const uint32_t *v, size_t n, ns_error *err)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u = v[i];
        char c[4];
        size_t k = u < 0x80 ? 1 : u < 0x800 ? 2 : u < 0x10000 ? 3 : 4;
        if (k == 1)
            c[0] = (char)u;
        else
            c[0] = (char)((0xf00u >> k & 0xff) | u >> (6 * (k - 1)));
        for (size_t j = 1; j < k; j++) c[j] = (char)(0x80 | (u >> (6 * (k - 1 - j)) & 0x3f));
        NS_TRY(ns_buf_add(out, c, k, err), "text");
    }
    return NS_OK;
}

/* ---- finding expressions ---- */
static void trim_end(ns_expressions *it)
{
    it->n_expr = it->n_cur;
    while (it->n_expr && is_space(it->cur[it->n_expr - 1])) it->n_expr--;
}

static int enough_operators(const ns_expressions *it)
{
    int n = 0;
    for (size_t i = 0; i < it->n_cur; i++)
        n += it->cur[i] == '+' || it->cur[i] == '-' || it->cur[i] == '*' || it->cur[i] == '/';
    return n >= 2;
}

int ns_expressions_next(ns_expressions *it)
{
    if (it->finished == 2) it->n_cur = 0, it->finished = 0; /* the last one was emitted and ends here */
    while (it->i < it->n_text) {
        uint32_t c = it->text[it->i++];
        size_t before = it->n_cur;
        if (is_space(c)) {
            if (it->n_cur) it->cur[it->n_cur++] = c;
        } else if (c == '.') {
            if (it->n_cur && is_digit(it->cur[it->n_cur - 1])) {
                it->cur[it->n_cur++] = c;
            } else if (it->n_cur) { /* emitted, and goes on: as the reference does */
                trim_end(it);
                return 1;
            }
        } else if (is_digit(c)) {
            it->cur[it->n_cur++] = c;
        } else if (c == '=' && !it->n_cur) {
            continue;
        } else if (c < 0x80 && strchr("+-/*=()", (int)c) && c) {
            it->cur[it->n_cur++] = c;
        } else {
            if (enough_operators(it)) {
                trim_end(it);
                it->finished = 2;
                return 1;
            }
            it->n_cur = 0;
        }
        if (before == 0 && it->n_cur) it->start = it->i - 1;
    }
    if (it->finished) return 0;
    it->finished = 1;
    trim_end(it);
    return enough_operators(it);
}

/* ---- stages ---- */
typedef struct token {
    char kind; /* 'n' number, '+' '-' '*' '/' '^' '(' ')' */
    size_t start, end;
} token;

static int digit(char c)
{
    return c >= '0' && c <= '9';
}

/* End of digits[.digits] at i, or i. */
static size_t number_end(ns_str s, size_t i)
{
    size_t j = i;
    while (j < s.n && digit(s.p[j])) j++;
    if (j > i && j + 1 < s.n && s.p[j] == '.' && digit(s.p[j + 1]))
        for (j++; j < s.n && digit(s.p[j]); j++) {
        }
    return j;
}

static size_t tokenise(token *t, size_t max, ns_str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n && n < max;) {
        size_t end = i;
        if (s.p[i] == '-' && !(i && digit(s.p[i - 1]))) {
            end = number_end(s, i + 1);
            if (end == i + 1) end = i;
        } else if (digit(s.p[i])) {
            end = number_end(s, i);
        }
        if (end > i)
            t[n++] = (token){'n', i, end}, i = end;
        else if (i + 1 < s.n && s.p[i] == '*' && s.p[i + 1] == '*')
            t[n++] = (token){'^', i, i + 2}, i += 2;
        else if (strchr("+*/()-", s.p[i]) && s.p[i])
            t[n++] = (token){s.p[i], i, i + 1}, i++;
        else
            i++;
    }
    return n;
}

static int precedence(char k)
{
    return k == '+' || k == '-' ? 1 : k == '*' || k == '/' ? 2 : k == '^' ? 3 : 0;
}

/* Postfix order; 0 on unbalanced ')'. */
static size_t to_postfix(token *out, token *stack, const token *t, size_t n)
{
    size_t n_out = 0, sp = 0;
    for (size_t i = 0; i < n; i++) {
        if (t[i].kind == 'n') {
            out[n_out++] = t[i];
        } else if (t[i].kind == '(') {
            stack[sp++] = t[i];
        } else if (t[i].kind == ')') {
            while (sp && stack[sp - 1].kind != '(') out[n_out++] = stack[--sp];
            if (!sp) return 0;
            sp--;
        } else {
            while (sp && stack[sp - 1].kind != '(' && precedence(stack[sp - 1].kind) >= precedence(t[i].kind))
                out[n_out++] = stack[--sp];
            stack[sp++] = t[i];
        }
    }
    while (sp) out[n_out++] = stack[--sp];
    return n_out;
}

static double number_at(ns_str s, token t)
{
    char text[400];
    size_t n = t.end - t.start < sizeof text ? t.end - t.start : sizeof text - 1;
    memcpy(text, s.p + t.start, n);
    text[n] = 0;
    return strtod(text, NULL);
}

/* First operation in postfix order. 0: cannot be evaluated. */
static int first_operation(double *result, size_t *start, size_t *end, const token *p, size_t n, ns_str s)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i].kind == 'n') continue;
        if (i < 2 || p[i].kind == '(') return 0;
        double a = number_at(s, p[i - 2]), b = number_at(s, p[i - 1]), r = 0;
        switch (p[i].kind) {
        case '+': r = a + b; break;
        case '-': r = a - b; break;
        case '*': r = a * b; break;
        case '/':
            if (b == 0) return 0;
            r = a / b;
            break;
        default:
            if ((a == 0 && b < 0) || (a < 0 && floor(b) != b)) return 0;
            r = pow(a, b);
            if (isinf(r)) return 0;
        }
        *result = r;
        *start = p[i - 2].start;
        *end = p[i - 1].end;
        return 1;
    }
    return 0; /* only numbers */
}

static void print_number(char *out, size_t n, double x)
{
    if (isfinite(x) && floor(x) == x)
        snprintf(out, n, "%.0f", x == 0 ? 0.0 : x);
    else if (isfinite(x))
        ns_json_format_double(out, x);
    else
        snprintf(out, n, "%s", isnan(x) ? "nan" : x < 0 ? "-inf" : "inf");
}

ns_status ns_arithmetic_solve(ns_buf *stages, ns_str expression, int *solved, ns_error *err)
{
    ns_status st = NS_OK;
    ns_buf cur = {0}, next = {0};
    token *t = NULL;
    char number[400];
    *solved = 0;
    NS_CHECK(st, ns_alloc((void **)&t, 3 * MAX_TOKENS * sizeof *t, "arithmetic", err), "arithmetic");
    NS_CHECK(st, ns_buf_add(&cur, expression.p, expression.n, err), "arithmetic");
    for (;;) {
        NS_CHECK(st, ns_buf_add(stages, cur.data, cur.len, err), "stages");
        NS_CHECK(st, ns_buf_addc(stages, STAGE_END, err), "stages");
        ns_str s = {cur.data ? cur.data : "", cur.len};
        size_t n = tokenise(t, MAX_TOKENS, s), start, end;
        if (n == MAX_TOKENS) goto done; /* absurdly long: left alone */
        if (n <= 1) break;
        double r;
        size_t n_post = to_postfix(t + MAX_TOKENS, t + 2 * (size_t)MAX_TOKENS, t, n);
        if (!first_operation(&r, &start, &end, t + MAX_TOKENS, n_post, s)) goto done;
        size_t left = start, right = end;
        if (left && s.p[left - 1] == '(' && right < s.n && s.p[right] == ')') left--, right++;
        print_number(number, sizeof number, r);
        ns_buf_clear(&next);
        NS_CHECK(st, ns_buf_add(&next, s.p, left, err), "stages");
        NS_CHECK(st, ns_buf_adds(&next, number, err), "stages");
        NS_CHECK(st, ns_buf_add(&next, s.p + right, s.n - right, err), "stages");
        ns_buf swap = cur;
        cur = next;
        next = swap;
    }
    *solved = 1;
done:
    ns_free(t);
    ns_buf_free(&cur);
    ns_buf_free(&next);
    return st;
}

/* White space of a UTF-8 string at i: its bytes, or 0. */
static size_t space_bytes(ns_str s, size_t i)
{
    unsigned char c = (unsigned char)s.p[i];
    size_t k = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    uint32_t u[4];
    if (k > s.n - i) k = s.n - i;
    return decode_utf8(u, (ns_str){s.p + i, k}) && is_space(u[0]) ? k : 0;
}

/* Appends s with white space collapsed; *pending: white space is owed before the next character. */
static ns_status put_collapsed(ns_buf *out, ns_str s, int *pending, int parenthesise, ns_error *err)
{
    for (size_t i = 0; i < s.n;) {
        size_t k = space_bytes(s, i);
        if (k) {
            *pending = 1;
            i += k;
            continue;
        }
        if (*pending) NS_TRY(ns_buf_addc(out, ' ', err), "merge");
        *pending = 0;
        size_t end = i;
        if (parenthesise && s.p[i] == '-' && !(i && digit(s.p[i - 1]))) end = number_end(s, i + 1);
        if (end > i + 1) { /* a negative number inside an expression */
            NS_TRY(ns_buf_printf(out, err, "(%.*s)", (int)(end - i), s.p + i), "merge");
            i = end;
        } else {
            NS_TRY(ns_buf_addc(out, s.p[i++], err), "merge");
        }
    }
    return NS_OK;
}

ns_status ns_arithmetic_merge(ns_buf *out, ns_str stages, ns_error *err)
{
    int pending = 0;
    for (size_t i = 0; i < stages.n;) {
        const char *end = memchr(stages.p + i, STAGE_END, stages.n - i);
        ns_str s = {stages.p + i, (size_t)(end - stages.p) - i};
        int last = i + s.n + 1 >= stages.n;
        size_t k;
        if (i) NS_TRY(put_collapsed(out, (ns_str){" = ", 3}, &pending, 0, err), "merge");
        if (last) { /* stripped */
            while (s.n && (k = space_bytes(s, 0))) s.p += k, s.n -= k;
            while (s.n && is_space((unsigned char)s.p[s.n - 1])) s.n--;
        }
        NS_TRY(put_collapsed(out, s, &pending, !last, err), "merge");
        i = (size_t)(end - stages.p) + 1;
    }
    return NS_OK;
}

/* ---- right-hand sides ---- */
typedef struct value {
    int is_int;
    __int128 i;
    double d;
} value;

typedef struct parser {
    const char *p, *end;
    int depth, bad;
} parser;

static value of_double(double d)
{
    return (value){0, 0, d};
}

static double to_double(value v)
{
    return v.is_int ? (double)v.i : v.d;
}

/* White space: newlines only inside parentheses. */
static void skip_space(parser *s)
{
    while (s->p < s->end &&
           (*s->p == ' ' || *s->p == '\t' || *s->p == '\f' || (s->depth && (*s->p == '\n' || *s->p == '\r'))))
        s->p++;
}

static value parse_number(parser *s)
{
    const char *from = s->p;
    while (s->p < s->end && digit(*s->p)) s->p++;
    const char *int_end = s->p;
    if (s->p < s->end && *s->p == '.')
        for (s->p++; s->p < s->end && digit(*s->p); s->p++) {
        }
    size_t n = (size_t)(s->p - from);
    char text[400];
    if (n == 0 || n >= sizeof text || (n == 1 && *from == '.')) {
        s->bad = 1;
        return of_double(0);
    }
    memcpy(text, from, n);
    text[n] = 0;
    value v = {int_end == s->p, 0, strtod(text, NULL)};
    for (const char *q = from; v.is_int && q < int_end; q++) {
        if (*from == '0' && *q != '0') s->bad = 1; /* 007 is no number */
        if (__builtin_mul_overflow(v.i, 10, &v.i) || __builtin_add_overflow(v.i, *q - '0', &v.i)) v.is_int = 0;
    }
    return v;
}

static value parse_sum(parser *s);
static value parse_factor(parser *s);

static value parse_atom(parser *s)
{
    skip_space(s);
    if (s->p >= s->end || s->bad || s->depth > MAX_DEPTH) {
        s->bad = 1;
        return of_double(0);
    }
    if (*s->p != '(') return parse_number(s);
    s->p++;
    s->depth++;
    value v = parse_sum(s);
    skip_space(s);
    if (s->p >= s->end || *s->p != ')')
        s->bad = 1;
    else
        s->p++;
    s->depth--;
    return v;
}

static value power(parser *s, value a, value b)
{
    if (a.is_int && b.is_int && b.i >= 0) {
        if (b.i > 100000) s->bad = 1; /* towers of powers are left alone */
        value r = {1, 1, 0};
        for (__int128 k = 0; k < b.i && r.is_int && !s->bad; k++) {
            if (__builtin_mul_overflow(r.i, a.i, &r.i)) return of_double(pow((double)a.i, (double)b.i));
            if (r.i == 0 || (r.i == 1 && a.i == 1)) break;
        }
        return r;
    }
    double x = to_double(a), y = to_double(b), r = pow(x, y);
    if ((x == 0 && y < 0) || (x < 0 && floor(y) != y) || (isinf(r) && isfinite(x) && isfinite(y))) s->bad = 1;
    return of_double(r);
}

static value parse_power(parser *s)
{
    value a = parse_atom(s);
    skip_space(s);
    if (s->bad || s->end - s->p < 2 || s->p[0] != '*' || s->p[1] != '*') return a;
    s->p += 2;
    value b = parse_factor(s); /* right side first: 2 ** -1, 2 ** 3 ** 2 */
    return s->bad ? a : power(s, a, b);
}

static value parse_factor(parser *s)
{
    int negative = 0, any = 0;
    for (skip_space(s); s->p < s->end && (*s->p == '+' || *s->p == '-'); skip_space(s)) {
        negative ^= *s->p++ == '-';
        any = 1;
    }
    value v = parse_power(s);
    if (any && negative) v.i = -v.i, v.d = -v.d;
    return v;
}

static value floor_divide(value a, value b)
{
    if (a.is_int && b.is_int) {
        __int128 q = a.i / b.i;
        if (a.i % b.i && (a.i < 0) != (b.i < 0)) q--;
        return (value){1, q, 0};
    }
    double x = to_double(a), y = to_double(b), mod = fmod(x, y), div = (x - mod) / y;
    if (mod != 0 && (y < 0) != (mod < 0)) div -= 1;
    double f = floor(div);
    return of_double(div - f > 0.5 ? f + 1 : f);
}

static value parse_product(parser *s)
{
    value a = parse_factor(s);
    for (;;) {
        skip_space(s);
        if (s->bad || s->p >= s->end || (*s->p != '*' && *s->p != '/')) return a;
        char op = *s->p++;
        int whole = op == '/' && s->p < s->end && *s->p == '/';
        s->p += whole;
        value b = parse_factor(s);
        if (s->bad) return a;
        if (op == '/') {
            if (to_double(b) == 0) {
                s->bad = 1;
                return a;
            }
            a = whole ? floor_divide(a, b) : of_double(to_double(a) / to_double(b));
        } else {
            value r = {1, 0, 0};
            if (!a.is_int || !b.is_int || __builtin_mul_overflow(a.i, b.i, &r.i))
                r = of_double(to_double(a) * to_double(b));
            a = r;
        }
    }
}

static value parse_sum(parser *s)
{
    value a = parse_product(s);
    for (;;) {
        skip_space(s);
        if (s->bad || s->p >= s->end || (*s->p != '+' && *s->p != '-')) return a;
        int minus = *s->p++ == '-';
        value b = parse_product(s), r = {1, 0, 0};
        if (!a.is_int || !b.is_int ||
            (minus ? __builtin_sub_overflow(a.i, b.i, &r.i) : __builtin_add_overflow(a.i, b.i, &r.i)))
            r = of_double(minus ? to_double(a) - to_double(b) : to_double(a) + to_double(b));
        a = r;
    }
}

/* 0 if the text is not a valid expression. */
static int evaluate(value *out, ns_str text)
{
    parser s = {text.p, text.p + text.n, 0, 0};
    int newline = 0;
    while (s.p < s.end && strchr(" \t\f\n\r", *s.p) && *s.p) newline |= *s.p == '\n' || *s.p == '\r', s.p++;
    if (newline && s.p > text.p && (s.p[-1] == ' ' || s.p[-1] == '\t')) return 0; /* unexpected indent */
    char last = s.end > s.p ? s.end[-1] : 0;
    for (newline = 0; s.end > s.p && strchr(" \t\f\n\r", s.end[-1]) && s.end[-1]; s.end--)
        newline |= s.end[-1] == '\n' || s.end[-1] == '\r';
    if (newline && (last == ' ' || last == '\t')) return 0; /* an indented, empty last line */
    *out = parse_sum(&s);
    return !s.bad && s.p == s.end;
}

static int equal(value a, value b)
{
    return a.is_int && b.is_int ? a.i == b.i : to_double(a) == to_double(b);
}

static int close_enough(value a, value b, double tolerance)
{
    if (equal(a, b)) return 1;
    double x = to_double(a), y = to_double(b);
    if (isinf(x) || isinf(y)) return 0;
    return fabs(x - y) <= tolerance * fmax(fabs(x), fabs(y));
}

/* ---- filters ---- */
typedef struct scan {
    ns_expressions it;
    uint32_t *text;
    ns_buf expr, stages;
} scan;

static ns_status scan_begin(scan *s, ns_str text, ns_error *err)
{
    memset(s, 0, sizeof *s);
    NS_TRY(ns_alloc((void **)&s->text, (text.n + 1) * 2 * sizeof *s->text, "arithmetic.text", err), "arithmetic");
    s->it.text = s->text;
    s->it.n_text = decode_utf8(s->text, text);
    s->it.cur = s->text + text.n + 1;
    return NS_OK;
}

static void scan_end(scan *s)
{
    ns_free(s->text);
    ns_buf_free(&s->expr);
    ns_buf_free(&s->stages);
}

/* Left side solved into s->stages, last stage and right side evaluated. *ok = 0: leave the expression alone. */
static ns_status solve_both(scan *s, size_t n_left, size_t from_right, value *left, value *right, int *ok,
                            ns_error *err)
{
    ns_buf_clear(&s->stages);
    NS_TRY(ns_arithmetic_solve(&s->stages, (ns_str){s->expr.data, n_left}, ok, err), "solve");
    if (!*ok) return NS_OK;
    size_t last = s->stages.len - 1;
    while (last && s->stages.data[last - 1] != STAGE_END) last--;
    *ok = evaluate(left, (ns_str){s->stages.data + last, s->stages.len - 1 - last}) &&
          evaluate(right, (ns_str){s->expr.data + from_right, s->expr.len - from_right});
    return NS_OK;
}

ns_status ns_arithmetic_check(int *wrong, ns_str text, double tolerance, ns_error *err)
{
    scan s;
    ns_status st = NS_OK;
    *wrong = 0;
    NS_TRY(scan_begin(&s, text, err), "arithmetic");
    while (!*wrong && ns_expressions_next(&s.it)) {
        ns_buf_clear(&s.expr);
        NS_CHECK(st, put_points(&s.expr, s.it.cur, s.it.n_expr, err), "expression");
        const char *first = s.expr.len ? memchr(s.expr.data, '=', s.expr.len) : NULL;
        if (!first) continue;
        const char *last = memrchr(s.expr.data, '=', s.expr.len);
        value left, right;
        int ok;
        NS_CHECK(
            st,
            solve_both(&s, (size_t)(first - s.expr.data), (size_t)(last - s.expr.data) + 1, &left, &right, &ok, err),
            "expression");
        *wrong = ok && !close_enough(left, right, tolerance);
    }
done:
    scan_end(&s);
    return st;
}

ns_status ns_arithmetic_split(ns_buf *out, ns_str text, ns_error *err)
{
    scan s;
    ns_status st = NS_OK;
    size_t done_to = 0; /* code points already written */
    NS_TRY(scan_begin(&s, text, err), "arithmetic");
    while (ns_expressions_next(&s.it)) {
        size_t end = s.it.start + s.it.n_expr;
        ns_buf_clear(&s.expr);
        NS_CHECK(st, put_points(&s.expr, s.it.cur, s.it.n_expr, err), "expression");
        const char *sign = s.expr.len ? memchr(s.expr.data, '=', s.expr.len) : NULL;
        int ok = sign && memrchr(s.expr.data, '=', s.expr.len) == sign;
        value left, right;
        if (ok)
            NS_CHECK(
                st,
                solve_both(&s, (size_t)(sign - s.expr.data), (size_t)(sign - s.expr.data) + 1, &left, &right, &ok, err),
                "expression");
        ok = ok && equal(left, right);
        size_t stop = ok ? s.it.start : end; /* spans may overlap: then nothing is left to copy */
        if (stop > s.it.n_text) stop = s.it.n_text;
        if (stop > done_to) NS_CHECK(st, put_points(out, s.text + done_to, stop - done_to, err), "text");
        if (ok) NS_CHECK(st, ns_arithmetic_merge(out, (ns_str){s.stages.data, s.stages.len}, err), "stages");
        done_to = end;
    }
    if (done_to < s.it.n_text) NS_CHECK(st, put_points(out, s.text + done_to, s.it.n_text - done_to, err), "text");
done:
    scan_end(&s);
    return st;
}
