/* Configuration: YAML typing and errors, override grammar, interpolation, dump, failing allocations. Expected values of the
 * grammar tables were compared with Hydra 1.3.2 and OmegaConf 2.3.0; where we differ on purpose the row says so. */
#include "base/testing.h"

#include "base/config_priv.h"

static ns_config *fresh(const char *yaml)
{
    ns_error err = NS_ERROR_INIT;
    ns_config *c = NULL;
    assert_ns_ok(ns_config_new(&c, &err), &err);
    if (yaml) assert_ns_ok(ns_config_parse_yaml(c, yaml, strlen(yaml), "t.yaml", &err), &err);
    return c;
}

/* One line per value, with its type: "int 3", "str 'x'", "[int 1, null]", "{a: bool true}". */
static void describe(const ns_node *n, char *out, size_t size)
{
    size_t k = strlen(out);
    char num[40];
    if (!n) {
        snprintf(out + k, size - k, "absent");
        return;
    }
    switch (n->type) {
    case NS_NODE_NULL: snprintf(out + k, size - k, "null"); break;
    case NS_NODE_BOOL: snprintf(out + k, size - k, "bool %s", n->i ? "true" : "false"); break;
    case NS_NODE_INT: snprintf(out + k, size - k, "int %lld", (long long)n->i); break;
    case NS_NODE_FLOAT:
        cfg_format_double(num, n->f);
        snprintf(out + k, size - k, "float %s", num);
        break;
    case NS_NODE_STRING:
        snprintf(out + k, size - k, "str '%s'", n->s);
        assert_int_equal(strlen(n->s), n->n);
        break;
    case NS_NODE_LIST:
    case NS_NODE_MAP:
        snprintf(out + k, size - k, "%s", n->type == NS_NODE_LIST ? "[" : "{");
        for (size_t i = 0; i < n->n; i++) {
            assert_ptr_equal(n->items[i]->parent, n);
            k = strlen(out);
            snprintf(out + k, size - k, "%s%s%s", i ? ", " : "", n->keys ? n->keys[i] : "", n->keys ? ": " : "");
            describe(n->items[i], out, size);
        }
        k = strlen(out);
        snprintf(out + k, size - k, "%s", n->type == NS_NODE_LIST ? "]" : "}");
        break;
    }
}

static void assert_value(ns_config *c, const char *path, const char *want)
{
    ns_error err = NS_ERROR_INIT;
    const ns_node *n = NULL;
    char got[2048] = "";
    assert_ns_ok(ns_config_get(c, path, &n, &err), &err);
    describe(n, got, sizeof got);
    if (strcmp(got, want) != 0) fail_msg("%s: got %s, wanted %s", path, got, want);
}

static void assert_parse_fails(const char *yaml, ns_status want, const char *message)
{
    ns_error err = NS_ERROR_INIT;
    ns_config *c = fresh(NULL);
    assert_ns_fails(ns_config_parse_yaml(c, yaml, strlen(yaml), "t.yaml", &err), want, message, &err);
    ns_config_free(&c);
}

/* ---- YAML ---- */
static void yaml_types(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"1", "int 1"},
        {"-7", "int -7"},
        {"+5", "int 5"},
        {"0", "int 0"},
        {"1_000", "int 1000"},
        {"0x1F", "int 31"},
        {"017", "int 15"},
        {"0b101", "int 5"},
        {"08", "str '08'"},
        {"9223372036854775807", "int 9223372036854775807"},
        {"-9223372036854775808", "int -9223372036854775808"},
        {"9223372036854775808", "float 9.223372036854776e+18"},
        {"1e-4", "float 0.0001"},
        {"1e5", "float 100000.0"},
        {"5e-6", "float 5e-06"},
        {"1.", "float 1.0"},
        {".5", "float 0.5"},
        {"-1.5e+3", "float -1500.0"},
        {".inf", "float inf"},
        {"-.inf", "float -inf"},
        {".nan", "float nan"},
        {"1e", "str '1e'"},
        {"e5", "str 'e5'"},
        {"inf", "str 'inf'"},
        {"1.2.3", "str '1.2.3'"},
        {"true", "bool true"},
        {"False", "bool false"},
        {"yes", "bool true"},
        {"off", "bool false"},
        {"y", "str 'y'"},
        {"null", "null"},
        {"~", "null"},
        {"", "null"},
        {"None", "str 'None'"},
        {"'1'", "str '1'"},
        {"\"true\"", "str 'true'"},
        {"hello world", "str 'hello world'"},
        {"2001-01-01", "str '2001-01-01'"},
        {"10:30:00", "str '10:30:00'"},
        {"\"a\\n\\t\\\\\\\"\\x41\\u00e9\"", "str 'a\n\t\\\"A\xc3\xa9'"},
        {"'it''s'", "str 'it's'"},
        {"[1, a, 2.5, null]", "[int 1, str 'a', float 2.5, null]"},
        {"{x: 1, y: [true]}", "{x: int 1, y: [bool true]}"},
        {"|\n  two\n  lines\n", "str 'two\nlines\n'"},
        {"|-\n  two\n  lines\n", "str 'two\nlines'"},
        {">\n  folded\n  text\n", "str 'folded text\n'"},
        {"\n- a\n- b: 1\n  c: 2\n", "[str 'a', {b: int 1, c: int 2}]"},
        {"!!str 12", "str '12'"},
        {"!!float 3", "float 3.0"},
        {"a # comment", "str 'a'"},
        {"megatron_gpt_sft--{val_loss:.3f}-{step}", "str 'megatron_gpt_sft--{val_loss:.3f}-{step}'"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char yaml[256];
        snprintf(yaml, sizeof yaml, "k: %s", rows[i][0]);
        ns_config *c = fresh(yaml);
        assert_value(c, "k", rows[i][1]);
        ns_config_free(&c);
    }
}

static void yaml_overlays_and_origins(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_config *c = fresh("model:\n  seed: 1\n  betas: [0.9, 0.98]\n  optim:\n    lr: 1e-4\n");
    const char *second = "model:\n  betas: [1]\n  optim: {name: adam}\nnew: x\n";
    assert_ns_ok(ns_config_parse_yaml(c, second, strlen(second), "b.yaml", &err), &err);
    assert_value(c, "",
                 "{model: {seed: int 1, betas: [int 1], optim: {lr: float 0.0001, name: str 'adam'}}, new: str 'x'}");
    const ns_node *n = NULL;
    assert_ns_ok(ns_config_get(c, "model.optim.lr", &n, &err), &err);
    assert_string_equal(n->origin, "t.yaml:5:9");
    assert_ns_ok(ns_config_get(c, "model.optim.name", &n, &err), &err);
    assert_string_equal(n->origin, "b.yaml:3:17");
    assert_value(c, "model.betas.0", "int 1");
    assert_value(c, "model.betas[0]", "int 1");
    assert_value(c, "model.betas.1", "absent");
    assert_value(c, "model.nothing.here", "absent");
    assert_ns_fails(ns_config_get(c, "a..b", &n, &err), NS_ERR_CONFIG, "key 'a..b' is malformed", &err);
    ns_config_free(&c);
    c = fresh("# only a comment\n");
    assert_value(c, "", "{}");
    ns_config_free(&c);
}

static void yaml_anchors(void **state)
{
    (void)state;
    ns_config *c = fresh("base: &b {x: 1, y: 2}\nuse: *b\nmix:\n  <<: *b\n  y: 3\nmany:\n  <<: [{z: 9}, *b]\n");
    assert_value(c, "use", "{x: int 1, y: int 2}");
    assert_value(c, "mix", "{y: int 3, x: int 1}");
    assert_value(c, "many", "{z: int 9, x: int 1, y: int 2}");
    ns_config_free(&c);
    /* nested aliases may not explode */
    char yaml[2048] = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
    for (int i = 1; i < 9; i++) {
        char line[128];
        snprintf(line, sizeof line, "a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i, i, i - 1,
                 i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
        strcat(yaml, line);
    }
    assert_parse_fails(yaml, NS_ERR_CONFIG, "aliases expand to more than 1000000 values");
}

static void yaml_errors(void **state)
{
    (void)state;
    assert_parse_fails("a: 1\nb: 2\na: 3\n", NS_ERR_CONFIG, "t.yaml:3:1: key 'a' is given twice (first at t.yaml:1:1)");
    assert_parse_fails("m:\n  k: 1\n  j: 2\n  k: 1\n", NS_ERR_CONFIG,
                       "t.yaml:4:3: key 'k' is given twice (first at t.yaml:2:3)");
    assert_parse_fails("- 1\n", NS_ERR_CONFIG, "t.yaml:1:1: expected 'key: value' lines, found a list");
    assert_parse_fails("a: [1, 2\nb: 3\n", NS_ERR_CONFIG, "t.yaml:2:2: not valid YAML: ");
    assert_parse_fails("a: \"x\n", NS_ERR_CONFIG, "not valid YAML: found unexpected end of stream");
    assert_parse_fails("a: 1\n---\nb: 2\n", NS_ERR_UNSUPPORTED, "t.yaml:2: a second YAML document starts here");
    assert_parse_fails("a: *x\n", NS_ERR_CONFIG, "t.yaml:1:4: alias *x has no anchor &x before it");
    assert_parse_fails("a: !!python/object:os.system x\n", NS_ERR_UNSUPPORTED,
                       "t.yaml:1:4: tag tag:yaml.org,2002:python/object:os.system is not supported");
    assert_parse_fails("a: !!int x\n", NS_ERR_CONFIG, "t.yaml:1:4: 'x' is a string, its tag says !!int");
    assert_parse_fails("a: !!str [1]\n", NS_ERR_CONFIG, "t.yaml:1:4: a list cannot have the tag !!str");
    assert_parse_fails("? [a, b]\n: 1\n", NS_ERR_UNSUPPORTED, "a key must be a plain word, found a list or map");
    assert_parse_fails("a: \xff\n", NS_ERR_CONFIG, "YAML must be UTF-8");
    char deep[512];
    memset(deep, '[', 200);
    deep[0] = 'a', deep[1] = ':', deep[2] = ' ', deep[200] = 0;
    assert_parse_fails(deep, NS_ERR_CONFIG, "nested deeper than 100 levels");
    ns_error err = NS_ERROR_INIT;
    ns_config *c = fresh(NULL);
    char path[512] = "++a"; /* also by a path, by a path and a value, by an alias */
    for (int i = 0; i < 60; i++) strcat(path, ".b");
    strcat(path, "=[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]");
    assert_ns_fails(ns_config_override(c, path, &err), NS_ERR_CONFIG, "nested deeper than 100 levels", &err);
    char alias[512] = "a: &x ";
    for (int i = 0; i < 60; i++) strcat(alias, "[");
    for (int i = 0; i < 60; i++) strcat(alias, "]");
    strcat(alias, "\nb: ");
    for (int i = 0; i < 60; i++) strcat(alias, "[");
    strcat(alias, "*x");
    for (int i = 0; i < 60; i++) strcat(alias, "]");
    assert_parse_fails(alias, NS_ERR_CONFIG, "t.yaml:2: nested deeper than 100 levels");
    assert_ns_fails(ns_config_load_yaml(c, "/nonexistent/x.yaml", &err), NS_ERR_IO, "/nonexistent/x.yaml", &err);
    ns_config_free(&c);
}

static void many_keys_are_fast(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    for (int i = 0; i < 20000; i++) assert_ns_ok(ns_buf_printf(&b, &err, "key%d: %d\n", i, i), &err);
    assert_ns_ok(ns_buf_adds(&b, "key777: again\n", &err), &err);
    ns_config *c = fresh(NULL);
    assert_ns_fails(ns_config_parse_yaml(c, b.data, b.len, "big.yaml", &err), NS_ERR_CONFIG,
                    "big.yaml:20001:1: key 'key777' is given twice (first at big.yaml:778:1)", &err);
    ns_config_free(&c);
    ns_buf_free(&b);
}

/* ---- override values ---- */
static void override_values(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"10", "int 10"},
        {"1_000", "int 1000"},
        {"-3", "int -3"},
        {"+4", "int 4"},
        {"007", "str '007'"},
        {"1__0", "str '1__0'"},
        {"1_", "str '1_'"},
        {"1.", "float 1.0"},
        {".5", "float 0.5"},
        {"1e-3", "float 0.001"},
        {"1E5", "float 100000.0"},
        {"138.0", "float 138.0"},
        {"inf", "float inf"},
        {"-Inf", "float -inf"},
        {"NaN", "float nan"},
        {"1e", "str '1e'"},
        {"true", "bool true"},
        {"TRUE", "bool true"},
        {"False", "bool false"},
        {"yes", "str 'yes'"},
        {"null", "null"},
        {"NULL", "null"},
        {"None", "null" /* Hydra: a string */},
        {"none", "str 'none'"},
        {"", "str ''"},
        {"~", "str '~'"},
        {"abc", "str 'abc'"},
        {"a b", "str 'a b'"},
        {"  a b ", "str 'a b'"},
        {"10 20", "str '10 20'"},
        {"a.jsonl b.jsonl", "str 'a.jsonl b.jsonl'"},
        {"/data/x-1_2.jsonl", "str '/data/x-1_2.jsonl'"},
        {"output-rs*.jsonl?", "str 'output-rs*.jsonl?'"},
        {"a:b", "str 'a:b'"},
        {"00:03:45:00", "str '00:03:45:00'"},
        {"meta-llama/Llama-3.1-8B", "str 'meta-llama/Llama-3.1-8B'"},
        {"a@b$c%d+e", "str 'a@b$c%d+e'"},
        {"step=100", "str 'step=100'" /* Hydra: an error */},
        {"<x>!", "str '<x>!'" /* Hydra: an error */},
        {"\xc3\xa9", "str '\xc3\xa9'"},
        {"'a,b'", "str 'a,b'"},
        {"\"a,b\"", "str 'a,b'"},
        {"'it\\'s'", "str 'it's'"},
        {"'a\\nb'", "str 'a\\nb'"},
        {"'10'", "str '10'"},
        {"'a\\\\'", "str 'a\\'"},
        {"'a\\\\b'", "str 'a\\\\b'"},
        {"'\\\\\\''", "str '\\''"},
        {"''", "str ''"},
        {"' x '", "str ' x '"},
        {"a\\,b", "str 'a,b'"},
        {"\\[x\\]", "str '[x]'"},
        {"\\{x\\}\\(y\\)", "str '{x}(y)'"},
        {"a\\ ", "str 'a '"},
        {"a\\\\b", "str 'a\\b'"},
        {"a\\b", "str 'a\\b'"},
        {"1\\ ", "str '1 '"},
        {"\\=", "str '='"},
        {"[]", "[]"},
        {"[1]", "[int 1]"},
        {"[1,a, 'b,c' ,[true,null]]", "[int 1, str 'a', str 'b,c', [bool true, null]]"},
        {"[ a b , c ]", "[str 'a b', str 'c']"},
        {"[/data/sft-data.jsonl]", "[str '/data/sft-data.jsonl']"},
        {"[0.9, 0.98]", "[float 0.9, float 0.98]"},
        {"{}", "{}"},
        {"{a:1}", "{a: int 1}"},
        {"{a: 1, b: [x], c: {d: e}}", "{a: int 1, b: [str 'x'], c: {d: str 'e'}}"},
        {"{1:2, a b: c}", "{1: int 2, a b: str 'c'}"},
        {"{a: x:y}", "{a: str 'x:y'}"},
        {"{a:}", "{a: str ''}" /* Hydra: an error */},
        {"int(3.7)", "int 3"},
        {"float(2)", "float 2.0"},
        {"str(10)", "str '10'"},
        {"bool(0)", "bool false"},
        {"int('12')", "int 12"},
    };
    ns_error err = NS_ERROR_INIT;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ns_config *c = fresh(NULL);
        ns_node *n = NULL;
        char got[512] = "";
        assert_ns_ok(ns_config_value(c, rows[i][0], &n, &err), &err);
        describe(n, got, sizeof got);
        if (strcmp(got, rows[i][1]) != 0) fail_msg("value %s: got %s, wanted %s", rows[i][0], got, rows[i][1]);
        ns_config_free(&c);
    }
}

static void override_value_errors(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"k=a,b", "a comma outside of quotes would be a sweep over several runs: write \"k='a,b'\" for one text or "
                  "\"k=[a,b]\" for a list"},
        {"k=1, 2", "would be a sweep"},
        {"k=[1],[2]", "would be a sweep"},
        {"k=[1,2", "the value ends too early: expected ',' or ']'"},
        {"k=[1,]", "an item is missing after the comma"},
        {"k=[,1]", "an item is missing before it"},
        {"k={a}", "expected key:value inside {...}"},
        {"k={a:1,a:2}", "key 'a' is given twice inside {...}"},
        {"k={a:1", "the value ends too early"},
        {"k='abc", "the quote ' is never closed"},
        {"k='a'b", "nothing may follow a closed quote or bracket"},
        {"k=a(b", "a(...) is a sweep or an unknown function"},
        {"k=a[b]", "'[' at character 2 of the value: quote the whole value"},
        {"k=it's", "''' at character 3 of the value: quote"},
        {"k=choice(1,2)", "choice(...) is a sweep or an unknown function: run once per value"},
        {"k=range(1,3)", "range(...) is a sweep"},
        {"k=${a", "this ${ is never closed by }"},
        {"k=]", "']' at character 1"},
        {"k={x}{y}", "expected key:value"},
        {"k=a\xff", "byte 2 of the value is not UTF-8"},
        {"++\xe2\x82=1", "the key is not UTF-8"},
        {"k={${x}:1}", "a key inside {...} cannot contain ${...}"},
        {"k", "'k' is not a setting: write key=value (or +key=value, ++key=value, ~key)"},
        {"=1", "there is no key before '='"},
        {"db@pkg=1", "configuration groups ('@' in a key) are not supported"},
        {"k k=1", "character ' ' cannot be part of a key"},
        {"++a..b=1", "malformed"},
        {"++.a=1", "malformed"},
        {"++a.=1", "malformed"},
        {"int(x)=1", "character '('"},
        {"k=int(x)", "int(...) cannot convert 'x'"},
    };
    ns_error err = NS_ERROR_INIT;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ns_config *c = fresh("k: 1\n");
        ns_status st = ns_config_override(c, rows[i][0], &err);
        char text[2048];
        ns_error_text(&err, text, sizeof text);
        if (st == NS_OK || !strstr(text, rows[i][1])) fail_msg("%s: '%s', wanted '%s'", rows[i][0], text, rows[i][1]);
        memset(&err, 0, sizeof err);
        assert_value(c, "k", "int 1"); /* nothing changed */
        ns_config_free(&c);
    }
}

/* ---- override words ---- */
static void override_words(void **state)
{
    (void)state;
    ns_error err = NS_ERROR_INIT;
    ns_config *c = fresh("a:\n  b: 1\n  n: null\nl:\n- x: 1\n- x: 2\nm: ???\n");
    static const char *const good[] = {
        "a.b=2", "+a.c=3", "++a.d.e=4",   "++a.b=5",    "a.n=7",       "l.1.x=9",      "++l.0.y=z", "+m=given",
        "~a.c",  "++a.s=", "+new={p: 1}", "new={q: 2}", "+new={r: 3}", "++long=[1,2]", "long=[3]"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) assert_ns_ok(ns_config_override(c, good[i], &err), &err);
    assert_value(c, "",
                 "{a: {b: int 5, n: int 7, d: {e: int 4}, s: str ''}, l: [{x: int 1, y: str 'z'}, {x: int 9}], "
                 "m: str 'given', new: {p: int 1, q: int 2, r: int 3}, long: [int 3]}");
    const ns_node *n = NULL;
    assert_ns_ok(ns_config_get(c, "a.b", &n, &err), &err);
    assert_string_equal(n->origin, "override ++a.b=5");
    assert_ns_ok(ns_config_override(c, "~a.d.e=4", &err), &err);
    assert_value(c, "a.d", "{}");
    assert_ns_ok(ns_config_override(c, "~l.0", &err), &err);
    assert_value(c, "l", "[{x: int 9}]");

    assert_ns_fails(ns_config_override(c, "a.bb=1", &err), NS_ERR_CONFIG,
                    "override a.bb=1: there is no key 'a.bb'; did you mean a.b? (++a.bb=... adds a key)", &err);
    assert_ns_fails(ns_config_override(c, "x.y.b=1", &err), NS_ERR_CONFIG, "there is no key 'x.y.b'; did you mean a.b?",
                    &err);
    assert_ns_fails(ns_config_override(c, "+a.b=1", &err), NS_ERR_CONFIG,
                    "override +a.b=1: 'a.b' is already set (override ++a.b=5): write a.b=... or ++a.b=... to change it",
                    &err);
    assert_ns_fails(ns_config_override(c, "~a.zz", &err), NS_ERR_CONFIG, "there is no key 'a.zz'", &err);
    assert_ns_fails(ns_config_override(c, "~a.b=6", &err), NS_ERR_CONFIG,
                    "'a.b' is not deleted because its value is integer '5'", &err);
    assert_ns_fails(ns_config_override(c, "++a.b.c=6", &err), NS_ERR_CONFIG,
                    "'a.b' is the integer '5' (override ++a.b=5), so it has no key 'c' below it", &err);
    assert_ns_fails(ns_config_override(c, "++l.5.x=6", &err), NS_ERR_CONFIG,
                    "index 5 is past the end of 'l', which has 1 items", &err);
    assert_ns_fails(ns_config_override(c, "++l.q=6", &err), NS_ERR_CONFIG,
                    "'l' is a list (t.yaml:5:1) and 'q' is not an index: use 0 to 0", &err);
    ns_config_free(&c);
}

/* ---- interpolation ---- */
static void interpolation(void **state)
{
    (void)state;
    setenv("NS_TEST_VAR", "from env", 1);
    unsetenv("NS_TEST_UNSET");
    static const char yaml[] =
        "n: 3\nf: 1e-5\nname: run\nt: true\nz: null\nlist: [10, 20]\nkey: n\n"
        "same: ${n}\ntext: a-${n}-${name}-${t}-${z}-${f}\ndeep: ${m.${key}}\n"
        "m:\n  n: inner\n  rel: ${.n}\n  up: ${..name}\n  down:\n    up2: ${...name}\n    sib: ${..n}\n"
        "whole: ${m}\nitem: ${list[1]}\nitem2: ${list.0}\nvia: ${whole.rel}\n"
        "esc: \\${n}\nesc2: \\\\${n}\nesc3: 'x \\${a} ${n}'\ndollar: $5\n"
        "env: ${oc.env:NS_TEST_VAR}\nenv2: ${oc.env:NS_TEST_UNSET,7}\nenv3: ${oc.env:NS_TEST_UNSET,null}\n"
        "sel: ${oc.select:nothing.here,dflt}\nsel2: ${oc.select:n}\nsel3: ${oc.select:gone}\ndec: "
        "${oc.decode:'[1,2]'}\n"
        "mul: ${multiply:${n},4}\nmulf: ${multiply:${n},0.5}\ndiv: ${int_div:7,2}\ndivn: ${int_div:-7,2}\nsub: "
        "${subtract:${n},5}\n"
        "no: ${not:${t}}\nno2: ${not:${z}}\nno3: ${not:''}\neq: ${equal:${name},run}\neq2: ${equal:${n},3.0}\neq3: "
        "${equal:${n},'3'}\n"
        "sf: ${subfield:${m},n}\nsf2: ${subfield:${list},1}\n"
        "procs:\n- out: ${name}.jsonl\n  in: ${.out}\n  test: {a: '${..out}'}\n- in: ${..0.out}\n";
    static const char *const rows[][2] = {
        {"same", "int 3"},
        {"text", "str 'a-3-run-True-None-1e-05'"},
        {"deep", "str 'inner'"},
        {"m.rel", "str 'inner'"},
        {"m.up", "str 'run'"},
        {"m.down.up2", "str 'run'"},
        {"m.down.sib", "str 'inner'"},
        {"item", "int 20"},
        {"item2", "int 10"},
        {"via", "str 'inner'"},
        {"whole.down.sib", "str 'inner'"},
        {"esc", "str '${n}'"},
        {"esc2", "str '\\3'"},
        {"esc3", "str 'x ${a} 3'"},
        {"dollar", "str '$5'"},
        {"env", "str 'from env'"},
        {"env2", "str '7'"},
        {"env3", "null"},
        {"sel", "str 'dflt'"},
        {"sel2", "int 3"},
        {"sel3", "null"},
        {"dec", "[int 1, int 2]"},
        {"mul", "int 12"},
        {"mulf", "float 1.5"},
        {"div", "int 3"},
        {"divn", "int -4"},
        {"sub", "int -2"},
        {"no", "bool false"},
        {"no2", "bool true"},
        {"no3", "bool true"},
        {"eq", "bool true"},
        {"eq2", "bool true"},
        {"eq3", "bool false"},
        {"sf", "str 'inner'"},
        {"sf2", "int 20"},
        {"procs", "[{out: str 'run.jsonl', in: str 'run.jsonl', test: {a: str 'run.jsonl'}}, {in: str 'run.jsonl'}]"},
        {"whole", "{n: str 'inner', rel: str 'inner', up: str 'run', down: {up2: str 'run', sib: str 'inner'}}"},
    };
    ns_error err = NS_ERROR_INIT;
    ns_config *c = fresh(yaml);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) assert_value(c, rows[i][0], rows[i][1]);
    /* lazily: a later override of the target changes its users */
    assert_ns_ok(ns_config_override(c, "n=8", &err), &err);
    assert_value(c, "mul", "int 32");
    assert_ns_ok(ns_config_override(c, "++fresh=${m.n}-x", &err), &err);
    assert_value(c, "fresh", "str 'inner-x'");
    assert_ns_ok(ns_config_override(c, "++fresh='${m.n}, x'", &err), &err);
    assert_value(c, "fresh", "str 'inner, x'");
    assert_ns_ok(ns_config_override(c, "++fresh=\\${m.n}", &err), &err);
    assert_value(c, "fresh", "str '${m.n}'");
    ns_config_free(&c);
}

static void interpolation_errors(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"a: ${b}\nb: ${a}\n", "a", "refers to itself"},
        {"a: x${a}\n", "a", "t.yaml:1:4: 'a' refers to itself through its interpolation 'x${a}'"},
        {"a: {b: '${a}'}\n", "a", "'a' refers to itself"},
        {"model:\n  seed: 1\na: ${model.sed}\n", "a",
         "t.yaml:3:4: a: ${model.sed} names a key that does not exist; did you mean model.seed?"},
        {"a: ${.....b}\n", "a", "has more dots than there are levels above it"},
        {"a: ${b\n", "a", "never closed by }"},
        {"a: ${}\n", "a", "has an empty ${}"},
        {"a: ${now:%Y}\n", "a", "resolver 'now' in ${now:...} is not known; there are oc.env"},
        {"a: ${oc.env:NS_TEST_UNSET}\n", "a", "environment variable 'NS_TEST_UNSET' is not set"},
        {"a: ${multiply:x,2}\n", "a", "needs numbers, argument 1 is the string 'x'"},
        {"a: ${int_div:1,0}\n", "a", "divides by zero"},
        {"a: ${multiply:9223372036854775807,2}\n", "a", "does not fit in 64 bits"},
        {"a: ${multiply:1}\n", "a", "takes 2 arguments, found 1"},
        {"a: ${subfield:${b},z}\nb: {y: 1}\n", "a", "the map has no 'z'"},
        {"m: ???\na: x-${m}\n", "a", "'m' must be given (it is ??? in t.yaml:1:4): write ++m=VALUE"},
        {"m: ???\n", "m", "'m' must be given (it is ??? in t.yaml:1:4): write ++m=VALUE"},
        {"g:\n  m: ???\n", "g.m", "'g.m' must be given"},
        {"m: ???\na: ${m}\n", "a", "'m' must be given"},
        {"m: ???\na: ${m.x}\n", "a", "'m' must be given"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ns_error err = NS_ERROR_INIT;
        const ns_node *n = NULL;
        char text[2048];
        ns_config *c = fresh(rows[i][0]);
        ns_status st = ns_config_get(c, rows[i][1], &n, &err);
        ns_error_text(&err, text, sizeof text);
        if (st == NS_OK || !strstr(text, rows[i][2])) fail_msg("%s: '%s', wanted '%s'", rows[i][0], text, rows[i][2]);
        ns_config_free(&c);
    }
    /* a long chain is refused, not a stack overflow */
    ns_error err = NS_ERROR_INIT;
    ns_buf b = {0};
    for (int i = 0; i < 300; i++) assert_ns_ok(ns_buf_printf(&b, &err, "a%d: x${a%d}\n", i, i + 1), &err);
    assert_ns_ok(ns_buf_adds(&b, "a300: end\n", &err), &err);
    ns_config *c = fresh(b.data);
    const ns_node *n = NULL;
    assert_ns_fails(ns_config_get(c, "a0", &n, &err), NS_ERR_CONFIG, "interpolations nest deeper than 100", &err);
    ns_config_free(&c);
    ns_buf_free(&b);
}

/* ---- dump ---- */
static void dump(void **state)
{
    (void)state;
    static const char yaml[] =
        "a: 1\nb: {c: 5e-6, d: 'true', e: null, f: yes, g: '12', h: ''}\nl: [x, {y: 1}, []]\ns: \"two\\nlines\"\n"
        "i: ${a}\nq: 'it''s: #1'\nu: \xc3\xa9\nm: ???\nk: {}\ninf: .inf\n";
    ns_error err = NS_ERROR_INIT;
    ns_buf out = {0};
    ns_config *c = fresh(yaml);
    assert_ns_ok(ns_config_dump(c, &out, 0, &err), &err);
    assert_string_equal(
        out.data, "a: 1\nb:\n  c: 5e-06\n  d: 'true'\n  e: null\n  f: true\n  g: '12'\n  h: ''\nl:\n- x\n- y: 1\n- []\n"
                  "s: 'two\n\n  lines'\ni: ${a}\nq: 'it''s: #1'\nu: \xc3\xa9\nm: ???\nk: {}\ninf: .inf\n");
    /* reading it back gives the same tree */
    ns_config *d = fresh(out.data);
    char one[2048] = "", two[2048] = "";
    describe(ns_config_root(c), one, sizeof one);
    describe(ns_config_root(d), two, sizeof two);
    assert_string_equal(one, two);
    ns_buf_clear(&out);
    assert_ns_ok(ns_config_dump(c, &out, 1, &err), &err);
    assert_non_null(strstr(out.data, "\ni: 1\n"));
    ns_config_free(&c);
    ns_config_free(&d);
    ns_buf_free(&out);
}

/* ---- faults ---- */
static ns_status whole_life(ns_error *err)
{
    static const char yaml[] = "base: &b {x: 1}\nm:\n  <<: *b\n  l: [a, b, c, d]\n  t: v-${base.x}\nn: ${m}\n";
    ns_config *c = NULL;
    const ns_node *n = NULL;
    ns_buf out = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_config_new(&c, err), "new");
    NS_CHECK(st, ns_config_parse_yaml(c, yaml, sizeof yaml - 1, "t.yaml", err), "parse");
    NS_CHECK(st, ns_config_override(c, "++m.q={a: [1,2,'x'], b: '${base.x}'}", err), "override");
    NS_CHECK(st, ns_config_set(c, "d.e", "[1, 2]", "default", err), "set");
    NS_CHECK(st, ns_config_get(c, "n.q", &n, err), "get");
    NS_CHECK(st, ns_config_dump(c, &out, 1, err), "dump");
done:
    ns_buf_free(&out);
    ns_config_free(&c);
    return st;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    uint64_t before = ns_mem_get_stats().bytes_now;
    int n = 1;
    for (; n < 10000; n++) {
        ns_error err = NS_ERROR_INIT;
        ns_mem_fail_at((uint64_t)n, 0);
        ns_status st = whole_life(&err);
        int hit = ns_mem_fault_hit();
        ns_mem_fail_at(0, 0);
        assert_int_equal(ns_mem_get_stats().bytes_now, before);
        if (!hit) {
            assert_ns_ok(st, &err);
            break;
        }
        assert_int_equal(st, NS_ERR_MEMORY);
        assert_non_null(strstr(err.msg, "out of memory"));
    }
    assert_true(n > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(yaml_types),
                                       cmocka_unit_test(yaml_overlays_and_origins),
                                       cmocka_unit_test(yaml_anchors),
                                       cmocka_unit_test(yaml_errors),
                                       cmocka_unit_test(many_keys_are_fast),
                                       cmocka_unit_test(override_values),
                                       cmocka_unit_test(override_value_errors),
                                       cmocka_unit_test(override_words),
                                       cmocka_unit_test(interpolation),
                                       cmocka_unit_test(interpolation_errors),
                                       cmocka_unit_test(dump),
                                       cmocka_unit_test(every_allocation_may_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
