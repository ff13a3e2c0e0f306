/* The template engine against fragments rendered by Jinja itself (tests/golden/chat), refusals with their place, limits,
 * every allocation failing. */
#include "base/testing.h"

#include "base/file.h"
#include "base/mem.h"
#include "tok/jinja.h"

static ns_json *read_json(ns_arena *a, const char *name)
{
    char path[4200];
    ns_json *root;
    ns_error err = NS_ERROR_INIT;
    snprintf(path, sizeof path, "%s/tests/golden/chat/%s", NS_SOURCE_DIR, name);
    assert_ns_ok(ns_json_read_file(&root, a, path, &err), &err);
    return root;
}

/* Renders; the error stays in err. */
static ns_status render(ns_buf *out, const char *text, size_t n, ns_jinja_render *r, ns_error *err)
{
    ns_jinja *t = NULL;
    ns_status st = ns_jinja_compile(&t, text, n, "t", err);
    if (st == NS_OK) st = ns_jinja_run(t, out, r, err);
    ns_jinja_free(&t);
    return st;
}

static void fragments(void **state)
{
    (void)state;
    ns_arena a = NS_ARENA_INIT("test");
    const ns_json *root = read_json(&a, "snippets.json"), *vars = ns_json_get(root, "vars"),
                  *cases = ns_json_get(root, "cases");
    ns_jinja_var v[64];
    char text[2048];
    for (size_t i = 0; i < vars->n; i++)
        v[i] = (ns_jinja_var){ns_arena_strndup(&a, vars->keys[i].p, vars->keys[i].n, NULL), &vars->items[i]};
    size_t bad = 0;
    assert_true(cases->n > 150);
    for (size_t i = 0; i < cases->n; i++) {
        ns_error err = NS_ERROR_INIT;
        ns_buf out = {0};
        ns_jinja_render r = {.vars = v, .n_vars = vars->n};
        const ns_json *want = &cases->items[i].items[1];
        ns_str src = cases->items[i].items[0].s;
        ns_status st = render(&out, src.p, src.n, &r, &err);
        int ok = want->type == NS_JSON_NULL
                     ? st != NS_OK
                     : st == NS_OK && out.len == want->s.n && (!out.len || !memcmp(out.data, want->s.p, out.len));
        if (!ok) {
            bad++;
            print_message("fragment %.*s\n   got  %s\n   want %.*s\n", (int)src.n, src.p,
                          st == NS_OK ? (out.data ? out.data : "") : ns_error_text(&err, text, sizeof text),
                          want->type == NS_JSON_NULL ? 7 : (int)want->s.n,
                          want->type == NS_JSON_NULL ? "refused" : want->s.p);
        }
        if (st != NS_OK) assert_null(strchr(err.msg, '\n'));
        ns_buf_free(&out);
    }
    assert_int_equal(bad, 0);
    ns_arena_free(&a);
}

static void fails(const char *text, ns_status code, const char *needle)
{
    ns_error err = NS_ERROR_INIT;
    ns_buf out = {0};
    ns_jinja_render r = {0};
    assert_ns_fails(render(&out, text, strlen(text), &r, &err), code, needle, &err);
    assert_int_equal(out.len, 0);
    ns_buf_free(&out);
}

static void refusals(void **state)
{
    (void)state;
    fails("a\n  {{ x|trimm }}", NS_ERR_UNSUPPORTED, "t:2:8: no filter named 'trimm': did you mean 'trim'?");
    fails("{{ x is strin }}", NS_ERR_UNSUPPORTED, "no test named 'strin': did you mean 'string'?");
    fails("{% include 'a' %}", NS_ERR_UNSUPPORTED, "the tag 'include' is not supported");
    fails("{% iff x %}", NS_ERR_INPUT, "t:1:4: unknown tag 'iff'");
    fails("é{{ ) }}", NS_ERR_INPUT, "t:1:5: found ')', expected no closing bracket");
    fails("{{ (1] }}", NS_ERR_INPUT, "found ']', expected ')'");
    fails("{% if x %}a", NS_ERR_INPUT, "t:1:9: the block that begins here is not closed: expected {% endif %}");
    fails("{% for x in y %}", NS_ERR_INPUT, "expected {% endfor %}");
    fails("{{ x", NS_ERR_INPUT, "{{ has no closing }}");
    fails("{# x", NS_ERR_INPUT, "{# has no closing #}");
    fails("{{ 'x }}", NS_ERR_INPUT, "t:1:4: the text that begins here has no closing quote");
    fails("{{ 1 + }}", NS_ERR_INPUT, "expected an expression");
    fails("{% set 1 = 2 %}", NS_ERR_INPUT, "expected a variable name");
    fails("{{ x.y.z }}", NS_ERR_INPUT, "'x' is undefined");
    fails("\n\n{{ 1 +\n nope.x }}", NS_ERR_INPUT, "t:4:7: 'nope' is undefined");
    fails("{{ raise_exception('no\nway') }}", NS_ERR_INPUT, "the template refuses this: no way");
    fails("{{ [].append(1) }}", NS_ERR_INPUT, "'append' would change its object");
    fails("{{ 'a' + 1 }}", NS_ERR_INPUT, "unsupported operand types for +: 'str' and 'int'");
    fails("{{ 9223372036854775807 + 1 }}", NS_ERR_INPUT, "too large");
    fails("{{ 'x'.join() }}", NS_ERR_INPUT, "join: expected a list");
    fails("{{ 'x'|indent(wide=3) }}", NS_ERR_INPUT, "filter 'indent' has no argument named 'wide'");
    fails("{% macro f(a) %}{% endmacro %}{{ f(1,2) }}", NS_ERR_INPUT, "macro f takes at most 1 arguments, found 2");
    fails("{% set a, b = [1] %}", NS_ERR_INPUT, "1 values to unpack, expected 2");
    fails("\xff", NS_ERR_INPUT, "byte 0 (0xff) is not valid UTF-8");
}

static void limits(void **state)
{
    (void)state;
    char *deep = NULL;
    ns_error err = NS_ERROR_INIT;
    /* endless and gigantic: refused within a second or so */
    fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", NS_ERR_INPUT, "nested too deeply");
    fails("{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% for c in r %}{% endfor %}{% endfor %}{% endfor "
          "%}",
          NS_ERR_INPUT, "more than 50000000 operations");
    fails("{{ range(1000000000) }}", NS_ERR_INPUT, "range of 1000000000 numbers is too long");
    fails("{{ 'x' * 1000000000 }}", NS_ERR_INPUT, "more than 256 MiB");
    fails("{{ [1] * 1000000000 }}", NS_ERR_INPUT, "more than");
    fails("{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
          NS_ERR_INPUT, "more than 256 MiB");
    fails("{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
          NS_ERR_INPUT, "more than 256 MiB");
    fails("{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
          NS_ERR_INPUT, "more than");
    fails(
        "{% set ns = namespace(s=[1]) %}{% for i in range(5000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s|tojson }}",
        NS_ERR_INPUT, "nested too deeply");
    fails("{{ 'a' | replace('', 'x' * 1000000) | replace('x', 'y' * 1000000) }}", NS_ERR_INPUT, "more than 256 MiB");
    fails("{{ '%1000000d' % 1 }}", NS_ERR_INPUT, "too wide");
    fails("{{ 'x'.center(1000000000) }}", NS_ERR_INPUT, "too large");
    assert_ns_ok(ns_alloc((void **)&deep, 20001, "test", &err), &err);
    memset(deep, '(', 20000);
    memcpy(deep, "{{", 2);
    fails(deep, NS_ERR_INPUT, "nested too deeply");
    memset(deep + 2, '-', 19998);
    memcpy(deep + 19994, " 1 }}", 5);
    deep[19999] = ' ';
    fails(deep, NS_ERR_INPUT, "nested more than 400 deep");
    for (size_t i = 0; i + 11 < 20000; i += 10) memcpy(deep + i, "{% if x %}", 10);
    fails(deep, NS_ERR_INPUT, "nested more than 400 deep");
    memset(deep, 'a', 20000);
    memcpy(deep, "{{", 2);
    for (size_t i = 3; i < 20000; i += 2) deep[i] = '.';
    memcpy(deep + 19996, " }}", 4);
    fails(deep, NS_ERR_INPUT, "nested more than 400 deep");
    ns_free(deep);
}

static void clock_and_spans(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_buf out = {0};
    const char *text =
        "{{ strftime_now('%d %b %Y') }}|{% generation %}ab{% endgeneration %}c{% generation %}{% endgeneration %}";
    ns_jinja_render r = {.now = 1795564800, .want_spans = 1}; /* 2026-11-25 00:00 UTC */
    assert_ns_ok(ns_buf_adds(&out, "....", &err), &err);
    assert_ns_ok(render(&out, text, strlen(text), &r, &err), &err);
    assert_string_equal(out.data, "....25 Nov 2026|abc");
    assert_int_equal(r.n_spans, 2);
    assert_int_equal(r.spans[0].from, 16); /* offsets in the caller's buffer */
    assert_int_equal(r.spans[0].to, 18);
    assert_int_equal(r.spans[1].from, 19);
    assert_int_equal(r.spans[1].to, 19);
    ns_buf_clear(&out);
    text = "{% macro f() %}{% generation %}ab{% endgeneration %}{% endmacro %}{{ f() }}";
    assert_ns_fails(render(&out, text, strlen(text), &r, &err), NS_ERR_INPUT, "generation inside of a macro", &err);
    r.want_spans = 0;
    assert_ns_ok(render(&out, text, strlen(text), &r, &err), &err);
    assert_string_equal(out.data, "ab");
    ns_free(r.spans);
    ns_buf_free(&out);
}

/* Every allocation fails once: a clean error each time, nothing half-written. */
static void out_of_memory(void **state)
{
    (void)state;
    static const char text[] =
        "{% macro f(a, b='z') %}[{{ a|upper ~ b }}]{% endmacro %}{% set ns = namespace(l=[], t='') %}"
        "{% for k, v in {'b': [1, 2.5, none], 'a': {'x': 'y'}}|dictsort %}{% set ns.l = ns.l + [k] %}{{ loop.index }}"
        "{% generation %}{{ v|tojson(indent=1) }}{% endgeneration %}{{ f(k, b=v) }}{% endfor %}"
        "{% set q %}{{ 'a b c'.split()|map('upper')|join(',') }}{% endset %}{{ q|replace('A', 'x') }}{{ ns.l }}"
        "{% filter indent(2) %}x\ny{% endfilter %}{{ ['b','a']|sort|first }}{{ '%s %d' % ('a', 3) }}{{ 'abc'[::-1] }}";
    uint64_t n;
    for (n = 1;; n++) {
        ns_error err = NS_ERROR_INIT;
        ns_buf out = {0};
        ns_jinja_render r = {.want_spans = 1};
        ns_mem_fail_at(n, 0);
        ns_status st = render(&out, text, sizeof text - 1, &r, &err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        if (!hit) {
            assert_ns_ok(st, &err);
            assert_non_null(strstr(out.data, "[AZ]") ? out.data : strstr(out.data, "[A"));
        } else {
            assert_int_equal(st, NS_ERR_MEMORY);
            assert_int_equal(out.len, 0);
        }
        ns_buf_free(&out);
        ns_free(r.spans);
        if (!hit) break;
    }
    assert_true(n > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fragments),       cmocka_unit_test(refusals),      cmocka_unit_test(limits),
        cmocka_unit_test(clock_and_spans), cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
