/* JSON parser and tree (writer: json_write.c, line reader: jsonl.c). Accepts exactly what Python's json.loads accepts of
 * UTF-8 text: RFC 8259 plus NaN, Infinity and -Infinity.
 *
 * How: recursive descent with a depth limit. Children of the containers that are still open lie on one stack (`kids`,
 * `keys`); a container that closes moves its part into the arena in one block. A string is scanned once, 16 bytes at a
 * time; without escapes its node points into the input, with escapes it is decoded after its exact length is known.
 *
 * A block of children has a head {cap, used} in front, so that set and append grow in amortised constant time; `used`
 * lets a shallow copy of a node see that somebody else has taken the slot after its last child, and copy the block. */
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json_scan.h"

enum { MAX_DEPTH = 512, LOCAL_KIDS = 48, LINEAR_KEYS = 16 };

typedef struct parser {
    const char *start, *p, *end;
    const char *where;
    ns_arena *arena;
    ns_error *err;
    int depth, flags;
    ns_json *kids; /* stack of children; the first LOCAL_KIDS live in the caller's frame */
    size_t n_kids, cap_kids;
    ns_str *keys;
    size_t n_keys, cap_keys;
    int kids_on_heap, keys_on_heap;
} parser;

/* ---- messages ---- */

static ns_status bad_at(parser *ps, const char *at, const char *found, const char *expected)
{
    ns_error *err = ps->err;
    const char *line = ps->start;
    size_t n_line = 1;
    for (const char *q; (q = memchr(line, '\n', (size_t)(at - line))); line = q + 1) n_line++;
    if (n_line == 1)
        NS_FAIL(NS_ERR_INPUT, "%s: byte %zu: found %s, expected %s", ps->where, (size_t)(at - line), found, expected);
    NS_FAIL(NS_ERR_INPUT, "%s: line %zu, byte %zu: found %s, expected %s", ps->where, n_line, (size_t)(at - line),
            found, expected);
}

static ns_status bad(parser *ps, const char *expected)
{
    char found[32];
    unsigned char c = ps->p < ps->end ? (unsigned char)*ps->p : 0;
    if (ps->p >= ps->end)
        snprintf(found, sizeof found, "end of text");
    else if (c == '\n')
        snprintf(found, sizeof found, "end of line");
    else if (c > ' ' && c < 0x7f)
        snprintf(found, sizeof found, "'%c'", c);
    else
        snprintf(found, sizeof found, "byte 0x%02x", c);
    return bad_at(ps, ps->p, found, expected);
}

/* ---- strings ---- */

/* Length of the valid UTF-8 character at p (surrogates are not valid), 0 if there is none. */
static int utf8_len(const unsigned char *p, const unsigned char *end)
{
    unsigned char c = p[0];
    size_t left = (size_t)(end - p);
    if (c < 0x80) return 1;
    if (c < 0xC2 || c > 0xF4) return 0;
    if (c < 0xE0) return left >= 2 && (p[1] & 0xC0) == 0x80 ? 2 : 0;
    if (left < 3 || (p[1] & 0xC0) != 0x80 || (p[2] & 0xC0) != 0x80) return 0;
    if (c < 0xF0) return (c == 0xE0 && p[1] < 0xA0) || (c == 0xED && p[1] > 0x9F) ? 0 : 3;
    if (left < 4 || (p[3] & 0xC0) != 0x80 || (c == 0xF0 && p[1] < 0x90) || (c == 0xF4 && p[1] > 0x8F)) return 0;
    return 4;
}

static int hex4(const char *p, const char *end)
{
    int v = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

static size_t put_utf8(char *o, unsigned c)
{
    if (c < 0x80) {
        o[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        o[0] = (char)(0xC0 | c >> 6);
        o[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        o[0] = (char)(0xE0 | c >> 12);
        o[1] = (char)(0x80 | (c >> 6 & 0x3F));
        o[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    o[0] = (char)(0xF0 | c >> 18);
    o[1] = (char)(0x80 | (c >> 12 & 0x3F));
    o[2] = (char)(0x80 | (c >> 6 & 0x3F));
    o[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

/* Decodes the \u escape at p ("\uXXXX", checked) or the pair of them; *used = bytes of input. */
static unsigned unicode_escape(const char *p, const char *end, size_t *used)
{
    unsigned c = (unsigned)hex4(p + 2, end);
    *used = 6;
    if (c >= 0xD800 && c <= 0xDBFF && end - p >= 12 && p[6] == '\\' && p[7] == 'u') {
        int low = hex4(p + 8, end);
        if (low >= 0xDC00 && low <= 0xDFFF) {
            *used = 12;
            return 0x10000 + ((c - 0xD800) << 10) + ((unsigned)low - 0xDC00);
        }
    }
    return c;
}

static int simple_escape(char c)
{
    switch (c) {
    case '"': return '"';
    case '\\': return '\\';
    case '/': return '/';
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    default: return -1;
    }
}

/* Checks the escape at ps->p, moves past it, adds to *shrink how many bytes decoding saves. */
static ns_status check_escape(parser *ps, size_t *shrink)
{
    const char *p = ps->p;
    if (ps->end - p >= 2 && p[1] == 'u') {
        char scratch[4];
        size_t used;
        if (hex4(p + 2, ps->end) < 0)
            return bad_at(ps, p, "a \\u escape that is not complete", "\\u and four hex digits");
        unsigned c = unicode_escape(p, ps->end, &used);
        if (c >= 0xD800 && c <= 0xDFFF && !(ps->flags & NS_JSON_LONE_OK))
            return bad_at(ps, p, "half of a surrogate pair", "both halves (\\uD83D\\uDE00), or the character itself");
        *shrink += used - put_utf8(scratch, c);
        ps->p += used;
        return NS_OK;
    }
    if (ps->end - p < 2 || simple_escape(p[1]) < 0) {
        ps->p = ps->end - p < 2 ? ps->end : p + 1;
        return bad(ps, "an escape: one of \" \\ / b f n r t u after the backslash");
    }
    *shrink += 1;
    ps->p += 2;
    return NS_OK;
}

static void decode(char *o, const char *p, const char *end)
{
    while (p < end) {
        const char *q = memchr(p, '\\', (size_t)(end - p));
        size_t n = (size_t)((q ? q : end) - p);
        memcpy(o, p, n);
        o += n;
        if (!q) return;
        if (q[1] == 'u') {
            size_t used;
            o += put_utf8(o, unicode_escape(q, end, &used));
            p = q + used;
        } else {
            *o++ = (char)simple_escape(q[1]);
            p = q + 2;
        }
    }
}

/* ps->p is after the opening quote. */
static ns_status parse_string(parser *ps, ns_str *out)
{
    const char *begin = ps->p;
    size_t shrink = 0;
    for (;;) {
        ps->p = ns_json_skip_plain(ps->p, ps->end, 0);
        if (ps->p >= ps->end) return bad(ps, "\" at the end of the string");
        unsigned char c = (unsigned char)*ps->p;
        if (c == '"') break;
        if (c == '\\') {
            ns_status st = check_escape(ps, &shrink);
            if (st != NS_OK) return st;
        } else if (c >= 0x80) {
            int n = utf8_len((const unsigned char *)ps->p, (const unsigned char *)ps->end);
            if (n == 0) return bad(ps, "valid UTF-8 text (convert the file to UTF-8)");
            ps->p += n;
        } else
            return bad(ps, "no control character inside a string (write \\n, \\t or \\u00XX)");
    }
    out->p = begin;
    out->n = (size_t)(ps->p - begin) - shrink;
    if (shrink) {
        char *o = ns_arena_alloc(ps->arena, out->n, ps->err);
        if (!o) return NS_ERR_MEMORY;
        decode(o, begin, ps->p);
        out->p = o;
    }
    ps->p++;
    return NS_OK;
}

/* ---- numbers and words ---- */

static const char *skip_digits(const char *p, const char *end)
{
    while (p < end && *p >= '0' && *p <= '9') p++;
    return p;
}

static ns_status parse_number(parser *ps, ns_json *out)
{
    const char *p = ps->p, *q;
    if (*p == '-') p++;
    if (p < ps->end && *p == 'I' && ps->end - p >= 8 && memcmp(p, "Infinity", 8) == 0)
        p += 8;
    else {
        q = skip_digits(p, ps->end);
        if (q == p || (*p == '0' && q - p > 1)) {
            ps->p = q == p ? p : p + 1;
            return bad(ps, q == p ? "a digit" : "no digit after a leading zero");
        }
        p = q;
        if (p < ps->end && *p == '.') {
            q = skip_digits(p + 1, ps->end);
            if (q == p + 1) {
                ps->p = q;
                return bad(ps, "a digit after the decimal point");
            }
            p = q;
        }
        if (p < ps->end && (*p == 'e' || *p == 'E')) {
            p++;
            if (p < ps->end && (*p == '+' || *p == '-')) p++;
            q = skip_digits(p, ps->end);
            if (q == p) {
                ps->p = q;
                return bad(ps, "a digit in the exponent");
            }
            p = q;
        }
    }
    out->type = NS_JSON_NUMBER;
    out->s.p = ps->p;
    out->s.n = (size_t)(p - ps->p);
    ps->p = p;
    return NS_OK;
}

static const char EXPECT_VALUE[] = "a value (object, array, string, number, true, false or null)";

static ns_status parse_word(parser *ps, ns_json *out)
{
    static const struct {
        const char *text;
        size_t n;
        ns_json_type type;
        int b;
    } words[] = {{"true", 4, NS_JSON_BOOL, 1},
                 {"false", 5, NS_JSON_BOOL, 0},
                 {"null", 4, NS_JSON_NULL, 0},
                 {"NaN", 3, NS_JSON_NUMBER, 0},
                 {"Infinity", 8, NS_JSON_NUMBER, 0}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if ((size_t)(ps->end - ps->p) < words[i].n || memcmp(ps->p, words[i].text, words[i].n) != 0) continue;
        out->type = words[i].type;
        out->b = words[i].b;
        if (out->type == NS_JSON_NUMBER) {
            out->s.p = ps->p;
            out->s.n = words[i].n;
        }
        ps->p += words[i].n;
        return NS_OK;
    }
    if (ps->end - ps->p >= 3 && memcmp(ps->p, "\xEF\xBB\xBF", 3) == 0)
        return bad_at(ps, ps->p, "a byte order mark (EF BB BF)", "UTF-8 without one: save the file again without it");
    return bad(ps, EXPECT_VALUE);
}

/* ---- containers ---- */

typedef struct block_head { /* in front of items; 16 bytes, so that items stay aligned */
    size_t cap, used;
} block_head;

static block_head *head_of(const ns_json *v)
{
    return v->items ? (block_head *)(void *)((char *)v->items - sizeof(block_head)) : NULL;
}

/* Room for cap children (and keys) in one arena block; v->items and v->keys are replaced, content is not copied. */
static ns_status new_block(ns_json *v, ns_arena *a, size_t cap, ns_error *err)
{
    size_t each = sizeof(ns_json) + (v->type == NS_JSON_OBJECT ? sizeof(ns_str) : 0);
    NS_FAIL_IF(cap > (SIZE_MAX / 4) / each, NS_ERR_MEMORY, "json: %zu children are too many", cap);
    block_head *h = ns_arena_alloc(a, sizeof *h + cap * each, err);
    if (!h) return NS_ERR_MEMORY;
    h->cap = cap;
    v->items = (ns_json *)(void *)(h + 1);
    if (v->type == NS_JSON_OBJECT) v->keys = (ns_str *)(void *)(v->items + cap);
    return NS_OK;
}

static ns_status push_kid(parser *ps, const ns_json *kid)
{
    if (ps->n_kids == ps->cap_kids) {
        ns_json *old = ps->kids;
        size_t cap = 2 * ps->cap_kids;
        void *p = ps->kids_on_heap ? old : NULL;
        ns_status st = ns_realloc(&p, cap * sizeof *old, "json.kids", ps->err);
        if (st != NS_OK) return st;
        if (!ps->kids_on_heap) memcpy(p, old, ps->n_kids * sizeof *old);
        ps->kids = p;
        ps->kids_on_heap = 1;
        ps->cap_kids = cap;
    }
    ps->kids[ps->n_kids++] = *kid;
    return NS_OK;
}

static ns_status push_key(parser *ps, ns_str key)
{
    if (ps->n_keys == ps->cap_keys) {
        ns_str *old = ps->keys;
        size_t cap = 2 * ps->cap_keys;
        void *p = ps->keys_on_heap ? old : NULL;
        ns_status st = ns_realloc(&p, cap * sizeof *old, "json.keys", ps->err);
        if (st != NS_OK) return st;
        if (!ps->keys_on_heap) memcpy(p, old, ps->n_keys * sizeof *old);
        ps->keys = p;
        ps->keys_on_heap = 1;
        ps->cap_keys = cap;
    }
    ps->keys[ps->n_keys++] = key;
    return NS_OK;
}

static int same(ns_str a, ns_str b)
{
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

static uint32_t hash_of(ns_str s)
{
    uint64_t h = 0x9E3779B97F4A7C15u ^ s.n;
    for (size_t i = 0; i < s.n; i++) h = (h ^ (unsigned char)s.p[i]) * 0x100000001B3u;
    return (uint32_t)(h ^ h >> 32);
}

/* Index among keys[0..m) of an equal key, or m. Table (size mask + 1, entries index + 1) only for large objects. */
static size_t find_key(const ns_str *keys, size_t m, ns_str key, uint32_t *table, size_t mask)
{
    if (!table) {
        for (size_t k = 0; k < m; k++)
            if (same(keys[k], key)) return k;
        return m;
    }
    size_t slot = hash_of(key) & mask;
    for (; table[slot]; slot = (slot + 1) & mask)
        if (same(keys[table[slot] - 1], key)) return table[slot] - 1;
    table[slot] = (uint32_t)m + 1;
    return m;
}

/* A repeated key keeps its first position and gets the last value. *n shrinks. */
static ns_status drop_repeated_keys(parser *ps, ns_str *keys, ns_json *kids, size_t *n)
{
    void *table = NULL;
    size_t mask = 0, m = 0;
    if (*n > LINEAR_KEYS) {
        size_t size = 64;
        while (size < 2 * *n) size *= 2;
        mask = size - 1;
        ns_status st =
            *n < UINT32_MAX ? ns_alloc(&table, size * sizeof(uint32_t), "json.table", ps->err) : NS_ERR_MEMORY;
        if (st != NS_OK) return st;
    }
    for (size_t i = 0; i < *n; i++) {
        size_t k = find_key(keys, m, keys[i], table, mask);
        kids[k] = kids[i];
        if (k == m) keys[m++] = keys[i];
    }
    ns_free(table);
    *n = m;
    return NS_OK;
}

/* Moves the children above the marks into the arena. */
static ns_status close_container(parser *ps, ns_json *out, size_t first_kid, size_t first_key)
{
    size_t n = ps->n_kids - first_kid;
    if (n > 0) {
        ns_json *kids = ps->kids + first_kid;
        ns_str *keys = ps->keys + first_key;
        ns_status st = out->type == NS_JSON_OBJECT ? drop_repeated_keys(ps, keys, kids, &n) : NS_OK;
        if (st == NS_OK) st = new_block(out, ps->arena, n, ps->err);
        if (st != NS_OK) return st;
        head_of(out)->used = n;
        memcpy(out->items, kids, n * sizeof *kids);
        if (out->type == NS_JSON_OBJECT) memcpy(out->keys, keys, n * sizeof *keys);
    }
    out->n = n;
    ps->n_kids = first_kid;
    ps->n_keys = first_key;
    return NS_OK;
}

static void skip_space(parser *ps)
{
    while (ps->p < ps->end && (*ps->p == ' ' || *ps->p == '\n' || *ps->p == '\t' || *ps->p == '\r')) ps->p++;
}

static int take(parser *ps, char c)
{
    if (ps->p >= ps->end || *ps->p != c) return 0;
    ps->p++;
    return 1;
}

static ns_status parse_value(parser *ps, ns_json *out);

static ns_status parse_member(parser *ps, ns_json *kid)
{
    ns_str key;
    if (!take(ps, '"')) return bad(ps, "a key in double quotes");
    ns_status st = parse_string(ps, &key);
    if (st != NS_OK) return st;
    skip_space(ps);
    if (!take(ps, ':')) return bad(ps, "':' after the key");
    skip_space(ps);
    st = parse_value(ps, kid);
    return st == NS_OK ? push_key(ps, key) : st;
}

static ns_status parse_container(parser *ps, ns_json *out)
{
    int is_object = *ps->p == '{';
    char close = is_object ? '}' : ']';
    size_t first_kid = ps->n_kids, first_key = ps->n_keys;
    if (++ps->depth > MAX_DEPTH) return bad(ps, "no more than 512 levels of nesting");
    ps->p++;
    out->type = is_object ? NS_JSON_OBJECT : NS_JSON_ARRAY;
    skip_space(ps);
    if (!take(ps, close)) {
        for (;;) {
            ns_json kid;
            ns_status st = is_object ? parse_member(ps, &kid) : parse_value(ps, &kid);
            if (st == NS_OK) st = push_kid(ps, &kid);
            if (st != NS_OK) return st;
            skip_space(ps);
            if (take(ps, close)) break;
            if (!take(ps, ',')) return bad(ps, is_object ? "',' or '}'" : "',' or ']'");
            skip_space(ps);
        }
    }
    ps->depth--;
    return close_container(ps, out, first_kid, first_key);
}

static ns_status parse_value(parser *ps, ns_json *out)
{
    memset(out, 0, sizeof *out);
    if (ps->p >= ps->end) return bad(ps, EXPECT_VALUE);
    char c = *ps->p;
    if (c == '"') {
        ps->p++;
        out->type = NS_JSON_STRING;
        return parse_string(ps, &out->s);
    }
    if (c == '{' || c == '[') return parse_container(ps, out);
    if (c == '-' || (c >= '0' && c <= '9')) return parse_number(ps, out);
    return parse_word(ps, out);
}

ns_status ns_json_parse(ns_json **out, ns_arena *a, const char *p, size_t n, const char *where, int flags,
                        ns_error *err)
{
    ns_json local_kids[LOCAL_KIDS];
    ns_str local_keys[LOCAL_KIDS];
    parser ps = {.start = p,
                 .p = p,
                 .end = p + n,
                 .where = where ? where : "json",
                 .arena = a,
                 .err = err,
                 .flags = flags,
                 .kids = local_kids,
                 .cap_kids = LOCAL_KIDS,
                 .keys = local_keys,
                 .cap_keys = LOCAL_KIDS};
    *out = NULL;
    ns_json *root = ns_arena_alloc(a, sizeof *root, err);
    if (!root) return NS_ERR_MEMORY;
    skip_space(&ps);
    ns_status st = parse_value(&ps, root);
    if (st == NS_OK) {
        skip_space(&ps);
        if (ps.p < ps.end) st = bad(&ps, "nothing after the value");
    }
    if (ps.kids_on_heap) ns_free(ps.kids);
    if (ps.keys_on_heap) ns_free(ps.keys);
    if (st == NS_OK) *out = root;
    return st;
}

ns_status ns_json_read_file(ns_json **out, ns_arena *a, const char *path, ns_error *err)
{
    ns_buf text = {0};
    *out = NULL;
    ns_status st = ns_file_read(&text, path, err);
    if (st == NS_OK) {
        char *copy = ns_arena_strndup(a, text.data, text.len, err);
        size_t n = text.len;
        ns_buf_free(&text); /* before the tree is built: half the memory at the peak */
        st = copy ? ns_json_parse(out, a, copy, n, path, NS_JSON_LONE_OK, err) : NS_ERR_MEMORY;
    }
    ns_buf_free(&text);
    return st;
}

/* ---- access ---- */

static const ns_json *get_n(const ns_json *obj, const char *key, size_t n)
{
    if (!obj || obj->type != NS_JSON_OBJECT) return NULL;
    for (size_t i = 0; i < obj->n; i++)
        if (obj->keys[i].n == n && memcmp(obj->keys[i].p, key, n) == 0) return &obj->items[i];
    return NULL;
}

const ns_json *ns_json_get(const ns_json *obj, const char *key)
{
    return get_n(obj, key, strlen(key));
}

const ns_json *ns_json_at(const ns_json *v, const char *path)
{
    while (v) {
        size_t n = strcspn(path, ".");
        v = get_n(v, path, n);
        if (!path[n]) break;
        path += n + 1;
    }
    return v;
}

int ns_json_is_int(const ns_json *v, int64_t *out)
{
    if (!v || v->type != NS_JSON_NUMBER || v->s.n == 0) return 0;
    int minus = v->s.p[0] == '-';
    uint64_t x = 0, limit = (uint64_t)INT64_MAX + (uint64_t)minus;
    if (v->s.n == (size_t)minus) return 0;
    for (size_t i = (size_t)minus; i < v->s.n; i++) {
        if (v->s.p[i] < '0' || v->s.p[i] > '9') return 0;
        unsigned d = (unsigned)(v->s.p[i] - '0');
        if (x > (limit - d) / 10) return 0;
        x = x * 10 + d;
    }
    *out = minus ? (int64_t)(0 - x) : (int64_t)x;
    return 1;
}

int ns_json_is_num(const ns_json *v, double *out)
{
    char small[512], *copy = small;
    void *big = NULL;
    if (!v || v->type != NS_JSON_NUMBER) return 0;
    if (v->s.n >= sizeof small) {
        if (ns_alloc(&big, v->s.n + 1, "json.number", NULL) != NS_OK) return 0;
        copy = big;
    }
    memcpy(copy, v->s.p, v->s.n); /* strtod needs the end; it reads NaN and Infinity, too */
    copy[v->s.n] = 0;
    *out = strtod(copy, NULL);
    ns_free(big);
    return 1;
}

int ns_json_truthy(const ns_json *v)
{
    double x;
    if (!v) return 0;
    switch (v->type) {
    case NS_JSON_NULL: return 0;
    case NS_JSON_BOOL: return v->b != 0;
    case NS_JSON_NUMBER: return !ns_json_is_num(v, &x) || x != 0;
    case NS_JSON_STRING: return v->s.n != 0;
    default: return v->n != 0;
    }
}

/* ---- building ---- */

ns_json *ns_json_new(ns_arena *a, ns_json_type t, ns_error *err)
{
    ns_json *v = ns_arena_alloc(a, sizeof *v, err);
    if (v) v->type = t;
    return v;
}

static ns_json *new_text(ns_arena *a, ns_json_type t, const char *s, ns_error *err)
{
    ns_json *v = ns_json_new(a, t, err);
    char *copy = v ? ns_arena_strdup(a, s, err) : NULL;
    if (!copy) return NULL;
    v->s.p = copy;
    v->s.n = strlen(s);
    return v;
}

ns_json *ns_json_new_str(ns_arena *a, const char *s, ns_error *err)
{
    return new_text(a, NS_JSON_STRING, s, err);
}

ns_json *ns_json_new_int(ns_arena *a, int64_t x, ns_error *err)
{
    char s[32];
    snprintf(s, sizeof s, "%lld", (long long)x);
    return new_text(a, NS_JSON_NUMBER, s, err);
}

ns_json *ns_json_new_num(ns_arena *a, double x, ns_error *err)
{
    char s[32];
    ns_json_format_double(s, x);
    return new_text(a, NS_JSON_NUMBER, s, err);
}

ns_json *ns_json_new_bool(ns_arena *a, int b, ns_error *err)
{
    ns_json *v = ns_json_new(a, NS_JSON_BOOL, err);
    if (v) v->b = b != 0;
    return v;
}

/* Makes the slot after the last child writable. */
static ns_status make_room(ns_json *v, ns_arena *a, ns_error *err)
{
    block_head *h = head_of(v);
    if (!h || h->used != v->n || h->used == h->cap) {
        ns_json old = *v;
        NS_TRY(new_block(v, a, v->n < 4 ? 4 : 2 * v->n, err), "%s", "");
        if (old.n) memcpy(v->items, old.items, old.n * sizeof *old.items);
        if (old.n && v->type == NS_JSON_OBJECT) memcpy(v->keys, old.keys, old.n * sizeof *old.keys);
        h = head_of(v);
    }
    h->used = v->n + 1;
    return NS_OK;
}

/* NULL child: the constructor has already reported why. */
static ns_status passed_on(const ns_error *err)
{
    return err && err->code != NS_OK ? err->code : NS_ERR_MEMORY;
}

ns_status ns_json_set(ns_json *obj, ns_arena *a, const char *key, const ns_json *v, ns_error *err)
{
    if (!obj || !v) return passed_on(err);
    NS_ASSERT(obj->type == NS_JSON_OBJECT);
    ns_json value = *v; /* v may live in the block that is about to move */
    ns_json *old = (ns_json *)(uintptr_t)ns_json_get(obj, key);
    if (old) {
        *old = value;
        return NS_OK;
    }
    ns_str k = {ns_arena_strdup(a, key, err), strlen(key)};
    if (!k.p) return NS_ERR_MEMORY;
    NS_TRY(make_room(obj, a, err), "%s", "");
    obj->keys[obj->n] = k;
    obj->items[obj->n++] = value;
    return NS_OK;
}

ns_status ns_json_append(ns_json *arr, ns_arena *a, const ns_json *v, ns_error *err)
{
    if (!arr || !v) return passed_on(err);
    NS_ASSERT(arr->type == NS_JSON_ARRAY);
    ns_json value = *v;
    NS_TRY(make_room(arr, a, err), "%s", "");
    arr->items[arr->n++] = value;
    return NS_OK;
}
