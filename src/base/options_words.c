/* First step of parsing: each word is an option, a setting (override), or positional. Values are kept as nodes per table row;
 * nothing is checked against types or the configuration yet. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/options_priv.h"

int opt_same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++)
        if (*a != *b && !((*a == '-' || *a == '_') && (*b == '-' || *b == '_'))) return 0;
    return *a == *b;
}

const ns_option *opt_find_flag(const opt_parser *s, const char *name, char short_name)
{
    for (size_t i = 0; i < s->verb->n_options; i++) {
        const ns_option *o = &s->verb->options[i];
        if (!o->flag) continue;
        if (short_name ? o->short_name == short_name : opt_same_name(o->key, name)) return o;
    }
    return NULL;
}

static int starts_override(const opt_parser *s, const char *w)
{
    if (*w == '+' || *w == '~') return 1;
    size_t n = 0;
    if (!(isalpha((unsigned char)*w) || *w == '_')) return 0;
    while (w[n] && (isalnum((unsigned char)w[n]) || strchr("_-.[]", w[n]))) n++;
    return w[n] == '=' && (s->has_keys || s->keep_overrides);
}

static ns_status unknown_flag(const opt_parser *s, const char *word, const char *name, ns_error *err)
{
    static const char *const common[] = {"--help",        "--json",        "--quiet",
                                         "--config-name", "--config-path", "--config-dir"};
    size_t n_common = sizeof common / sizeof common[0], n = 0;
    char hint[512];
    for (size_t i = 0; i < s->verb->n_options; i++)
        NS_FAIL_IF(!s->verb->options[i].flag && strcmp(s->verb->options[i].key, name) == 0, NS_ERR_CONFIG,
                   "%s: '%s' is a configuration key: write ++%s=VALUE", word, name, name);
    const char **names = ns_arena_alloc(&s->c->arena, (s->verb->n_options + n_common) * sizeof *names, err);
    CFG_NEED(names);
    for (size_t i = 0; i < s->verb->n_options; i++) {
        if (!s->verb->options[i].flag || s->verb->options[i].flags & NS_OPT_HIDDEN) continue;
        names[n] = ns_arena_printf(&s->c->arena, err, "--%s", s->verb->options[i].key);
        CFG_NEED(names[n]);
        n++;
    }
    for (size_t i = 0; i < n_common; i++) names[n++] = common[i];
    const char *full = ns_arena_printf(&s->c->arena, err, "--%s", name);
    CFG_NEED(full);
    NS_FAIL(NS_ERR_CONFIG, "unknown option %s%s", word, cfg_suggest(hint, sizeof hint, full, names, n));
}

/* The value of an option: after '=', or the next word. */
static ns_status take_value(opt_parser *s, const char *shown, const char *inline_value, const char **value,
                            ns_error *err)
{
    if (inline_value) {
        *value = inline_value;
        return NS_OK;
    }
    const char *next = s->at + 1 < s->argc ? s->argv[s->at + 1] : NULL;
    int looks_like_option = next && next[0] == '-' && next[1] && !isdigit((unsigned char)next[1]) && next[1] != '.';
    NS_FAIL_IF(!next || looks_like_option, NS_ERR_CONFIG, "%s needs a value: write %s=VALUE%s%s", shown, shown,
               next ? "; found the option " : "", next ? next : "");
    *value = next;
    s->at++;
    return NS_OK;
}

static ns_status set_flag(opt_parser *s, const ns_option *o, const char *text, ns_error *err)
{
    size_t row = (size_t)(o - s->verb->options);
    const char *origin = ns_arena_printf(&s->c->arena, err, "--%s", o->key);
    ns_node *n = origin ? cfg_string(s->c, text, strlen(text), origin, err) : NULL;
    CFG_NEED(n);
    if (o->type == NS_OPT_NODE) {
        CFG_TRY(cfg_parse_value(s->c, o->key, text, origin, &n, err));
    } else if (o->type != NS_OPT_STRING && o->type != NS_OPT_LIST) {
        CFG_TRY(cfg_type_hydra(s->c, n, err));
    }
    if (o->type != NS_OPT_LIST) {
        s->flag_values[row] = n;
        return NS_OK;
    }
    if (!s->flag_values[row]) s->flag_values[row] = cfg_new(s->c, NS_NODE_LIST, origin, err);
    CFG_NEED(s->flag_values[row]);
    return cfg_append(s->c, s->flag_values[row], NULL, n, err);
}

/* `--input_prefixes a b`: a list option also takes the words after its first value, where words have no other meaning. */
static ns_status take_more(opt_parser *s, const ns_option *o, ns_error *err)
{
    while (o->type == NS_OPT_LIST && !s->verb->allow_positional && s->at + 1 < s->argc) {
        const char *next = s->argv[s->at + 1];
        if (next[0] == '-' || starts_override(s, next)) break;
        s->at++;
        CFG_TRY(set_flag(s, o, next, err));
    }
    return NS_OK;
}

/* --help, --json, --quiet, --config-*. *done: the word was one of them. */
static ns_status common_flag(opt_parser *s, const char *word, const char *name, const char *inline_value, int *done,
                             ns_error *err)
{
    const char **target = NULL;
    *done = 1;
    if (strcmp(name, "help") == 0)
        s->out->help = 1;
    else if (strcmp(name, "json") == 0)
        s->out->json = 1;
    else if (strcmp(name, "quiet") == 0)
        s->out->quiet = 1;
    else if (opt_same_name(name, "config-name") || strcmp(name, "cn") == 0)
        target = &s->config_name;
    else if (opt_same_name(name, "config-path") || strcmp(name, "cp") == 0)
        target = &s->config_path;
    else if (opt_same_name(name, "config-dir") || strcmp(name, "cd") == 0)
        target = &s->config_dir;
    else
        *done = 0;
    if (!target) {
        NS_FAIL_IF(*done && inline_value, NS_ERR_CONFIG, "%s: --%s takes no value", word, name);
        return NS_OK;
    }
    return take_value(s, word, inline_value, target, err);
}

static ns_status long_flag(opt_parser *s, const char *word, ns_error *err)
{
    const char *eq = strchr(word, '=');
    char name[256];
    size_t n = eq ? (size_t)(eq - word) : strlen(word);
    NS_FAIL_IF(n >= sizeof name, NS_ERR_CONFIG, "unknown option %.60s...", word);
    memcpy(name, word, n);
    name[n] = 0;
    const char *inline_value = eq ? eq + 1 : NULL, *value = NULL;
    const ns_option *o = opt_find_flag(s, name + 2, 0);
    int done = 0;
    if (!o) CFG_TRY(common_flag(s, name, name + 2, inline_value, &done, err));
    if (done) return NS_OK;
    if (!o && strncmp(name, "--no", 4) == 0 && (name[4] == '-' || name[4] == '_')) {
        o = opt_find_flag(s, name + 5, 0);
        if (o && o->type == NS_OPT_BOOL && !inline_value) return set_flag(s, o, "false", err);
        NS_FAIL_IF(o && o->type == NS_OPT_BOOL, NS_ERR_CONFIG, "%s takes no value", name);
        o = NULL;
    }
    if (!o && s->keep_unknown) {
        s->out->overrides[s->out->n_overrides++] = word;
        const char *next = s->at + 1 < s->argc ? s->argv[s->at + 1] : NULL;
        if (!inline_value && next && next[0] != '-' && !starts_override(s, next))
            s->out->overrides[s->out->n_overrides++] = s->argv[++s->at];
        return NS_OK;
    }
    if (!o) return unknown_flag(s, name, name + 2, err);
    if (o->type == NS_OPT_BOOL) return set_flag(s, o, inline_value ? inline_value : "true", err);
    CFG_TRY(take_value(s, name, inline_value, &value, err));
    CFG_TRY(set_flag(s, o, value, err));
    return take_more(s, o, err);
}

static ns_status short_flag(opt_parser *s, const char *word, ns_error *err)
{
    const ns_option *o = opt_find_flag(s, NULL, word[1]);
    const char *value = NULL;
    char shown[3] = {'-', word[1], 0};
    int done = 0;
    if (!o) {
        if (strcmp(word, "-h") == 0) s->out->help = done = 1;
        char two[3] = {word[1], word[1] ? word[2] : 0, 0}; /* -cn NAME, -cn=NAME */
        const char *after = word[1] && word[2] ? word + 3 : "";
        if (!done && word[1] == 'c' && (*after == 0 || *after == '=') && two[1])
            CFG_TRY(common_flag(s, word, two, *after ? after + 1 : NULL, &done, err));
        NS_FAIL_IF(!done, NS_ERR_CONFIG, "unknown option %s (see `ns %s --help`)", word, s->verb->name);
        return NS_OK;
    }
    NS_FAIL_IF(o->type == NS_OPT_BOOL && word[2], NS_ERR_CONFIG, "%s: -%c takes no value", word, word[1]);
    if (o->type == NS_OPT_BOOL) return set_flag(s, o, "true", err);
    const char *attached = word[2] == '=' ? word + 3 : word[2] ? word + 2 : NULL;
    CFG_TRY(take_value(s, shown, attached, &value, err));
    CFG_TRY(set_flag(s, o, value, err));
    return take_more(s, o, err);
}

static ns_status plain_word(opt_parser *s, const char *word, int *rest, ns_error *err)
{
    ns_parsed *out = s->out;
    if (!*rest && starts_override(s, word) && (s->has_keys || s->keep_overrides)) {
        if (s->keep_overrides)
            out->overrides[out->n_overrides++] = word;
        else
            s->overrides[s->n_overrides++] = word;
        return NS_OK;
    }
    /* a verb with operands takes a file "+x" or "~x", but ++x=1 without -- before it is a setting in the wrong place */
    int setting = s->verb->allow_positional ? !*rest && word[0] == '+' && word[1] == '+' : *word == '+' || *word == '~';
    NS_FAIL_IF(setting, NS_ERR_CONFIG, "'%s': ns %s has no configuration keys", word, s->verb->name);
    if (!s->verb->allow_positional) {
        NS_FAIL(NS_ERR_CONFIG, "'%s' is not an option%s", word,
                s->has_keys ? ": settings are written key=value, options --name value" : " of this command");
    }
    out->positional[out->n_positional++] = word;
    if (s->verb->allow_positional == 2) *rest = 1;
    return NS_OK;
}

/* Is `option` = "name=value" among the words, as --name=value or --name value? */
static int is_given(const opt_parser *s, const char *option)
{
    const char *eq = strchr(option, '=');
    size_t n = (size_t)(eq - option);
    for (int i = 0; i < s->argc; i++) {
        const char *w = s->argv[i];
        if (strncmp(w, "--", 2)) continue;
        if (strcmp(w + 2, option) == 0) return 1;
        if (strncmp(w + 2, option, n) == 0 && !w[2 + n] && i + 1 < s->argc && strcmp(s->argv[i + 1], eq + 1) == 0)
            return 1;
    }
    return 0;
}

ns_status opt_sort_words(opt_parser *s, ns_error *err)
{
    int rest = 0;
    s->keep_unknown = s->verb->keep_unknown && is_given(s, s->verb->keep_unknown);
    s->keep_overrides = s->verb->keep_unknown ? s->keep_unknown : s->verb->keep_overrides;
    for (int i = 0; i < s->argc && s->verb->allow_positional != 2 && strcmp(s->argv[i], "--") != 0; i++)
        if (strcmp(s->argv[i], "--help") == 0) s->out->help = 1; /* also behind a word that is wrong */
    for (s->at = 0; s->at < s->argc && !s->out->help; s->at++) {
        const char *w = s->argv[s->at];
        if (rest)
            CFG_TRY(plain_word(s, w, &rest, err));
        else if (strcmp(w, "--") == 0)
            rest = 1;
        else if (w[0] == '-' && w[1] == '-')
            CFG_TRY(long_flag(s, w, err));
        else if (w[0] == '-' && w[1] && !isdigit((unsigned char)w[1]))
            CFG_TRY(short_flag(s, w, err));
        else
            CFG_TRY(plain_word(s, w, &rest, err));
    }
    return NS_OK;
}
