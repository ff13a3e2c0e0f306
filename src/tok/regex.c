/* Oniguruma patterns on PCRE2. Translation keeps meanings that the two libraries give different names:
 *   \s  the 25 White_Space characters (PCRE2 adds U+180E)      .   [^\n]
 *   \w  Alphabetic, marks, Nd, Pc, and of Latin-1 all numbers   \p{Han}  the script (PCRE2 10.40 takes script extensions)
 *   \d  \p{Nd}                                                  {,n}     {0,n}
 * and refuses what differs without a translation: ^ $ \b (lines), {n,m}+ (not possessive in Ruby), nested classes, &&,
 * POSIX classes, back references, named groups, inline flags after the start.
 *
 * Matching is bounded: a step limit and a heap limit turn a pattern that explodes into an error with the byte. */
#include "tok/regex.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "base/mem.h"

/* ---- translation ---- */
typedef struct scan {
    const char *p;
    size_t n, i;
    ns_buf *out;
} scan;

#define WHITE \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

#define REFUSE(s, at, what)                                                                           \
    NS_FAIL(NS_ERR_UNSUPPORTED, "pattern byte %zu: %s is not supported, in %.*s", (size_t)(at), what, \
            (int)((s)->n < 300 ? (s)->n : 300), (s)->p)

static int is_alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
static int is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* \p{...}: i is at the 'p' or 'P'. */
static ns_status property(scan *s, ns_error *err)
{
    size_t at = s->i - 1, k = s->i + 1;
    char p = s->p[s->i];
    if (k >= s->n || s->p[k] != '{') REFUSE(s, at, "\\p without {name}");
    int caret = ++k < s->n && s->p[k] == '^';
    size_t name = k += caret;
    while (k < s->n && (is_alnum(s->p[k]) || s->p[k] == '_')) k++;
    if (k >= s->n || s->p[k] != '}' || k == name) REFUSE(s, at, "this \\p{...}");
    size_t len = k - name;
    const char *q = s->p + name;
    int category = (len <= 2 && strchr("LMNPSZC", q[0]) && (len == 1 || (q[1] >= 'a' && q[1] <= 'z'))) ||
                   (len == 3 && !memcmp(q, "Any", 3));
    s->i = k + 1;
    return ns_buf_printf(s->out, err, "\\%c{%s%s%.*s}", p, caret ? "^" : "", category ? "" : "sc:", (int)len, q);
}

/* \xHH, \x{H...}, \uHHHH: i is at the letter. */
static ns_status hex(scan *s, ns_error *err)
{
    size_t at = s->i - 1, k = s->i + 1, digits, max = s->p[s->i] == 'u' ? 4 : 2;
    int brace = max == 2 && k < s->n && s->p[k] == '{';
    if (brace) {
        k++;
        max = 6;
    }
    for (digits = 0; digits < max && k + digits < s->n && is_hex(s->p[k + digits]); digits++) {
    }
    int closed = !brace || (k + digits < s->n && s->p[k + digits] == '}');
    if (!digits || !closed || (max == 4 && digits < 4)) REFUSE(s, at, "this hexadecimal escape");
    NS_TRY(ns_buf_printf(s->out, err, "\\x{%.*s}", (int)digits, s->p + k), "%s", "");
    s->i = k + digits + (size_t)brace;
    return NS_OK;
}

/* After a backslash; i is at the character behind it. */
static ns_status escape(scan *s, int in_class, ns_error *err)
{
    if (s->i >= s->n) REFUSE(s, s->n - 1, "a backslash at the end");
    char c = s->p[s->i];
    const char *put = NULL;
    if (c == 'p' || c == 'P') return property(s, err);
    if (c == 'x' || c == 'u') return hex(s, err);
    if (c == 's') put = in_class ? WHITE : "[" WHITE "]";
    if (c == 'S') put = in_class ? "\\S\\x{180e}" : "[^" WHITE "]";
    if (c == 'd') put = "\\p{Nd}";
    if (c == 'D') put = "\\P{Nd}";
    if (c == 'w') put = in_class ? WORD : "[" WORD "]";
    if (c == 'W' && !in_class) put = "[^" WORD "]";
    if (c == 'v') put = "\\x{b}";
    if (put) {
        s->i++;
        return ns_buf_adds(s->out, put, err);
    }
    int plain = !is_alnum(c) || strchr("nrtfae", c) || (!in_class && strchr("AzZ", c));
    if (!plain) {
        char what[] = "\\?";
        what[1] = c;
        REFUSE(s, s->i - 1, what);
    }
    s->i++;
    if ((uint8_t)c >= 0x80) return ns_buf_addc(s->out, c, err); /* the rest of the character follows by itself */
    NS_TRY(ns_buf_addc(s->out, '\\', err), "%s", "");
    return ns_buf_addc(s->out, c, err);
}

static ns_status class_of(scan *s, ns_error *err)
{
    size_t at = s->i++;
    NS_TRY(ns_buf_addc(s->out, '[', err), "%s", "");
    if (s->i < s->n && s->p[s->i] == '^') {
        s->i++;
        NS_TRY(ns_buf_addc(s->out, '^', err), "%s", "");
    }
    if (s->i < s->n && s->p[s->i] == ']') REFUSE(s, at, "a class that starts with ]");
    while (s->i < s->n && s->p[s->i] != ']') {
        char c = s->p[s->i];
        if (c == '[') REFUSE(s, s->i, "a class inside a class (write \\[ for the character)");
        if (c == '&' && s->i + 1 < s->n && s->p[s->i + 1] == '&') REFUSE(s, s->i, "&& in a class");
        s->i++;
        if (c == '\\')
            NS_TRY(escape(s, 1, err), "%s", "");
        else
            NS_TRY(ns_buf_addc(s->out, c, err), "%s", "");
    }
    if (s->i == s->n) REFUSE(s, at, "a class that is not closed");
    s->i++;
    return ns_buf_addc(s->out, ']', err);
}

static ns_status group(scan *s, ns_error *err)
{
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    size_t left = s->n - s->i;
    if (left >= 4 && !memcmp(s->p + s->i, "(?i)", 4) && s->i == 0) {
        s->i += 4;
        return ns_buf_adds(s->out, "(?i)", err);
    }
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        size_t len = strlen(known[k]);
        if (left < len || memcmp(s->p + s->i, known[k], len) != 0) continue;
        s->i += len;
        return ns_buf_adds(s->out, known[k], err);
    }
    if (left > 1 && (s->p[s->i + 1] == '?' || s->p[s->i + 1] == '*')) REFUSE(s, s->i, "this kind of group");
    s->i++;
    return ns_buf_adds(s->out, "(?:", err); /* what it captures is not used */
}

/* {n}, {n,}, {n,m}, {,m}; any other { is a character. */
static ns_status interval(scan *s, ns_error *err)
{
    size_t k = s->i + 1, a = k, b, comma = 0;
    while (k < s->n && s->p[k] >= '0' && s->p[k] <= '9') k++;
    b = k;
    if (k < s->n && s->p[k] == ',') {
        comma = 1;
        k++;
        while (k < s->n && s->p[k] >= '0' && s->p[k] <= '9') k++;
    }
    if (k >= s->n || s->p[k] != '}' || k == s->i + 1 || (a == b && k == b + 1)) {
        s->i++;
        return ns_buf_adds(s->out, "\\{", err);
    }
    if (k + 1 < s->n && (s->p[k + 1] == '+' || (s->p[k + 1] == '?' && !comma)))
        REFUSE(s, s->i, "{n,m} followed by + or {n} followed by ?");
    NS_TRY(ns_buf_printf(s->out, err, "{%s%.*s", a == b ? "0" : "", (int)(k + 1 - a), s->p + a), "%s", "");
    s->i = k + 1;
    return NS_OK;
}

ns_status ns_regex_translate(ns_buf *out, const char *pattern, size_t n, ns_error *err)
{
    scan s = {.p = pattern, .n = n, .out = out};
    while (s.i < n) {
        char c = pattern[s.i];
        ns_status st = NS_OK;
        if (c == '\\') {
            s.i++;
            st = escape(&s, 0, err);
        } else if (c == '[')
            st = class_of(&s, err);
        else if (c == '(')
            st = group(&s, err);
        else if (c == '{')
            st = interval(&s, err);
        else if (c == '^' || c == '$')
            REFUSE(&s, s.i, c == '^' ? "^" : "$");
        else {
            s.i++;
            st = c == '.' ? ns_buf_adds(out, "[^\\n]", err) : ns_buf_addc(out, c, err);
        }
        NS_TRY(st, "pattern");
    }
    return NS_OK;
}

/* ---- PCRE2 ---- */
#ifdef NS_HAVE_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* Every function that is used, by the name that it has in the library. */
/* clang-format off */
#define FUNCTIONS(F)                                                                                                   \
    F(compile) F(code_free) F(jit_compile) F(pattern_info) F(match) F(match_data_create) F(match_data_free)            \
    F(get_ovector_pointer) F(get_error_message) F(general_context_create) F(general_context_free)                      \
    F(compile_context_create) F(compile_context_free) F(match_context_create) F(match_context_free)                    \
    F(set_match_limit) F(set_heap_limit) F(set_depth_limit)
/* clang-format on */
#define MEMBER(f) __typeof__(&pcre2_##f) f;
static struct {
    FUNCTIONS(MEMBER)
} lib;
static int have;
static pthread_once_t once = PTHREAD_ONCE_INIT;

#define STRING(x) #x
#define SYMBOL(x) STRING(x)
#define LOAD(f)                                  \
    {                                            \
        void *sym = dlsym(h, SYMBOL(pcre2_##f)); \
        ok = ok && sym;                          \
        memcpy(&lib.f, &sym, sizeof sym);        \
    }
static void open_lib(void)
{
    void *h = dlopen("libpcre2-8.so.0", RTLD_NOW | RTLD_LOCAL);
    int ok = h != NULL;
    if (ok) FUNCTIONS(LOAD)
    have = ok;
}

int ns_regex_available(void)
{
    pthread_once(&once, open_lib);
    return have;
}

struct ns_regex {
    pcre2_code *code;
    int jit;
};

static void *lib_alloc(PCRE2_SIZE n, void *user)
{
    (void)user;
    void *p = NULL;
    return ns_alloc(&p, n ? n : 1, "tok.regex", NULL) == NS_OK ? p : NULL;
}
static void lib_free(void *p, void *user)
{
    (void)user;
    ns_free(p);
}

ns_status ns_regex_compile(ns_regex **out, const char *pattern, size_t n, ns_error *err)
{
    ns_buf text = {0};
    ns_status st = NS_OK;
    int code = 0, can_be_empty = 0;
    PCRE2_SIZE at = 0;
    pcre2_general_context *g = NULL;
    pcre2_compile_context *cc = NULL;
    ns_regex *re = NULL;
    *out = NULL;
    NS_CHECK(st, ns_buf_reserve(&text, 1, err), "pattern"); /* an empty pattern too is a string */
    NS_CHECK(st, ns_regex_translate(&text, pattern, n, err), "%s", "");
    NS_BAIL_IF(st, !ns_regex_available(), NS_ERR_UNSUPPORTED,
               "this split pattern needs PCRE2, which is not installed (libpcre2-8.so.0; Debian: apt-get install "
               "libpcre2-8-0): %.*s",
               (int)(n < 300 ? n : 300), pattern);
    NS_CHECK(st, ns_alloc((void **)&re, sizeof *re, "tok.regex", err), "pattern");
    g = lib.general_context_create(lib_alloc, lib_free, NULL);
    if (g) cc = lib.compile_context_create(g);
    NS_BAIL_IF(st, !cc, NS_ERR_MEMORY, "out of memory for a split pattern");
    re->code = lib.compile((PCRE2_SPTR)text.data, text.len, PCRE2_UTF | PCRE2_UCP, &code, &at, cc);
    NS_BAIL_IF(st, !re->code && code == PCRE2_ERROR_HEAP_FAILED, NS_ERR_MEMORY, "out of memory for a split pattern");
    if (!re->code) {
        char why[160] = "";
        lib.get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        NS_BAIL_IF(st, 1, NS_ERR_UNSUPPORTED, "split pattern: %s, near its byte %zu: %.*s", why, (size_t)at,
                   (int)(n < 300 ? n : 300), pattern);
    }
    uint32_t empty = 0;
    lib.pattern_info(re->code, PCRE2_INFO_MATCHEMPTY, &empty);
    can_be_empty = empty != 0;
    NS_BAIL_IF(st, can_be_empty, NS_ERR_UNSUPPORTED, "split pattern can match the empty text, which cuts nothing: %.*s",
               (int)(n < 300 ? n : 300), pattern);
    re->jit = lib.jit_compile(re->code, PCRE2_JIT_COMPLETE) == 0;
    *out = re;
    re = NULL;
done:
    ns_regex_free(&re);
    if (cc) lib.compile_context_free(cc);
    if (g) lib.general_context_free(g);
    ns_buf_free(&text);
    return st;
}

static ns_status make_work(const ns_regex *re, ns_regex_work *w, ns_error *err)
{
    (void)re;
    if (w->match) return NS_OK;
    pcre2_general_context *g = lib.general_context_create(lib_alloc, lib_free, NULL);
    if (g) w->match = lib.match_data_create(1, g);
    if (g) w->context = lib.match_context_create(g);
    if (g) lib.general_context_free(g);
    if (!w->match || !w->context) {
        ns_regex_work_free(w);
        NS_FAIL(NS_ERR_MEMORY, "out of memory while splitting text");
    }
    lib.set_match_limit(w->context, 20000000);
    lib.set_depth_limit(w->context, 20000000);
    lib.set_heap_limit(w->context, 256 << 10); /* KiB */
    return NS_OK;
}

ns_status ns_regex_next(const ns_regex *re, ns_regex_work *w, const uint8_t *p, size_t n, size_t from, ns_span *hit,
                        ns_error *err)
{
    hit->from = hit->to = SIZE_MAX;
    NS_TRY(make_work(re, w, err), "%s", "");
    int rc = lib.match(re->code, (PCRE2_SPTR)p, n, from, PCRE2_NO_UTF_CHECK, w->match, w->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* long matches: the slow way has the larger heap */
        rc = lib.match(re->code, (PCRE2_SPTR)p, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->match, w->context);
    if (rc == PCRE2_ERROR_NOMATCH) return NS_OK;
    NS_FAIL_IF(rc == PCRE2_ERROR_NOMEMORY, NS_ERR_MEMORY, "out of memory while splitting text");
    NS_FAIL_IF(
        rc < 0, NS_ERR_INPUT,
        "the split pattern gave up %zu bytes into a piece of %zu (PCRE2 error %d): it needs too many steps on this "
        "text; cut the text into shorter parts",
        from, n, rc);
    const PCRE2_SIZE *o = lib.get_ovector_pointer(w->match);
    NS_FAIL_IF(o[0] < from || o[1] <= o[0] || o[1] > n, NS_ERR_INPUT,
               "the split pattern matched the empty text at byte %zu", from);
    *hit = (ns_span){o[0], o[1]};
    return NS_OK;
}

void ns_regex_free(ns_regex **rp)
{
    if (!*rp) return;
    if ((*rp)->code) lib.code_free((*rp)->code);
    ns_free(*rp);
    *rp = NULL;
}
void ns_regex_work_free(ns_regex_work *w)
{
    if (w->match) lib.match_data_free(w->match);
    if (w->context) lib.match_context_free(w->context);
    memset(w, 0, sizeof *w);
}

#else /* built without PCRE2's header */

int ns_regex_available(void)
{
    return 0;
}
ns_status ns_regex_compile(ns_regex **out, const char *pattern, size_t n, ns_error *err)
{
    ns_buf text = {0};
    *out = NULL;
    ns_status st = ns_regex_translate(&text, pattern, n, err);
    ns_buf_free(&text);
    NS_TRY(st, "%s", "");
    NS_FAIL(NS_ERR_UNSUPPORTED,
            "this split pattern needs PCRE2, and this program was built without it (Debian: apt-get install "
            "libpcre2-dev, then build again): %.*s",
            (int)(n < 300 ? n : 300), pattern);
}
ns_status ns_regex_next(const ns_regex *re, ns_regex_work *w, const uint8_t *p, size_t n, size_t from, ns_span *hit,
                        ns_error *err)
{
    (void)re, (void)w, (void)p, (void)n, (void)from;
    hit->from = hit->to = SIZE_MAX;
    NS_FAIL(NS_ERR_INTERNAL, "no PCRE2 in this build");
}
void ns_regex_free(ns_regex **rp)
{
    *rp = NULL;
}
void ns_regex_work_free(ns_regex_work *w)
{
    memset(w, 0, sizeof *w);
}
#endif
