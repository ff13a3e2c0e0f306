/* The option table as text: `ns VERB --help`, and the Markdown page of doc/options. */
#include <stdio.h>
#include <string.h>

#include "base/options_priv.h"

enum { HELP_WIDTH = 110, HELP_COLUMN = 34 };

static const char *type_word(const ns_option *o)
{
    static const char *const words[] = {"BOOL", "N", "X", "TEXT", "LIST", "VALUE"};
    return words[o->type];
}

/* "-i, --input TEXT" or "trainer.sft.max_epochs=N" */
static ns_status spelling(ns_buf *out, const ns_option *o, ns_error *err)
{
    if (!o->flag) return ns_buf_printf(out, err, "%s=%s", o->key, type_word(o));
    if (o->short_name) CFG_TRY(ns_buf_printf(out, err, "-%c, ", o->short_name));
    if (o->type == NS_OPT_BOOL && o->def && !strcmp(o->def, "true")) return ns_buf_printf(out, err, "--no-%s", o->key);
    return ns_buf_printf(out, err, "--%s%s%s", o->key, o->type == NS_OPT_BOOL ? "" : " ",
                         o->type == NS_OPT_BOOL ? "" : type_word(o));
}

/* "default 2; an integer from 1 to 8" */
static ns_status facts(ns_buf *out, const ns_option *o, ns_error *err)
{
    int plain_type = !o->choices && !(o->min < o->max) && o->type != NS_OPT_INT && o->type != NS_OPT_FLOAT;
    if (o->flags & NS_OPT_REQUIRED)
        CFG_TRY(ns_buf_adds(out, "required", err));
    else if (o->flag && o->type == NS_OPT_BOOL && (!o->def || !strcmp(o->def, "false")))
        return NS_OK;
    else if (o->def)
        CFG_TRY(ns_buf_printf(out, err, "default %s", *o->def ? o->def : "''"));
    if (plain_type) return NS_OK;
    if (out->len) CFG_TRY(ns_buf_adds(out, "; ", err));
    return opt_expectation(out, o, err);
}

/* Appends text wrapped at HELP_WIDTH with a hanging indent; `col` is where the line stands now. */
static ns_status wrap(ns_buf *out, const char *text, size_t indent, size_t col, ns_error *err)
{
    for (text += strspn(text, " "); *text; text += strspn(text, " ")) {
        size_t n = strcspn(text, " ");
        if (col > indent && col + 1 + n > HELP_WIDTH) {
            CFG_TRY(ns_buf_printf(out, err, "\n%*s", (int)indent, ""));
            col = indent;
        } else if (col > indent) {
            CFG_TRY(ns_buf_addc(out, ' ', err));
            col++;
        }
        CFG_TRY(ns_buf_add(out, text, n, err));
        col += n;
        text += n;
    }
    return ns_buf_addc(out, '\n', err);
}

static ns_status help_row(ns_buf *out, const ns_option *o, ns_error *err)
{
    ns_buf left = {0}, right = {0}, info = {0};
    ns_status st = NS_OK;
    CFG_CHECK(st, spelling(&left, o, err));
    CFG_CHECK(st, facts(&info, o, err));
    CFG_CHECK(st, ns_buf_printf(&right, err, "%s%s%s%s", o->help ? o->help : "", info.len ? " (" : "",
                                info.len ? info.data : "", info.len ? ")" : ""));
    size_t col = left.len + 2;
    CFG_CHECK(st, ns_buf_printf(out, err, "  %s", left.data));
    if (col >= HELP_COLUMN)
        CFG_CHECK(st, ns_buf_printf(out, err, "\n%*s", HELP_COLUMN, ""));
    else
        CFG_CHECK(st, ns_buf_printf(out, err, "%*s", (int)(HELP_COLUMN - col), ""));
    CFG_CHECK(st, wrap(out, right.data ? right.data : "", HELP_COLUMN, HELP_COLUMN, err));
done:
    ns_buf_free(&left);
    ns_buf_free(&right);
    ns_buf_free(&info);
    return st;
}

static int shown(const ns_option *o, int flag)
{
    return o->flag == flag && !(o->flags & (NS_OPT_HIDDEN | NS_OPT_COMPAT));
}

/* Length of the group part of a key: "trainer.sft" of "trainer.sft.max_epochs". */
static size_t group_len(const char *key)
{
    const char *dot = strrchr(key, '.');
    return dot ? (size_t)(dot - key) : 0;
}

static int same_group(const char *a, const char *b)
{
    size_t n = group_len(a);
    return n == group_len(b) && memcmp(a, b, n) == 0;
}

static ns_status help_keys(ns_buf *out, const ns_verb *v, ns_error *err)
{
    const ns_option *last = NULL;
    for (size_t i = 0; i < v->n_options; i++) {
        const ns_option *o = &v->options[i];
        if (!shown(o, 0)) continue;
        if (!last)
            CFG_TRY(
                ns_buf_adds(out, "\nSettings (written ++key=VALUE, or in the file named by --config-name):\n", err));
        if (last && !same_group(last->key, o->key)) CFG_TRY(ns_buf_addc(out, '\n', err));
        CFG_TRY(help_row(out, o, err));
        last = o;
    }
    return NS_OK;
}

static ns_status help_compat(ns_buf *out, const ns_verb *v, ns_error *err)
{
    ns_buf names = {0};
    ns_status st = NS_OK;
    for (size_t i = 0; i < v->n_options; i++) {
        const ns_option *o = &v->options[i];
        if (!(o->flags & NS_OPT_COMPAT) || o->flags & NS_OPT_HIDDEN) continue;
        CFG_CHECK(st, ns_buf_printf(&names, err, "%s%s%s", names.len ? ", " : "", o->flag ? "--" : "", o->key));
    }
    if (!names.len) goto done;
    CFG_CHECK(st, ns_buf_adds(out, "\nAccepted for compatibility, without effect:\n  ", err));
    CFG_CHECK(st, wrap(out, names.data, 2, 2, err));
done:
    ns_buf_free(&names);
    return st;
}

static ns_status help_configs(ns_buf *out, const ns_verb *v, ns_error *err)
{
    if (!v->builtin_configs) return NS_OK;
    CFG_TRY(ns_buf_adds(out, "\nBuilt-in configurations (--config-name=NAME):\n ", err));
    for (const char *const *b = v->builtin_configs; b[0]; b += 2) {
        int is_default = v->default_config && strcmp(v->default_config, b[0]) == 0;
        CFG_TRY(ns_buf_printf(out, err, " %s%s", b[0], is_default ? " (default)" : ""));
    }
    return ns_buf_addc(out, '\n', err);
}

static int has_keys(const ns_verb *v)
{
    for (size_t i = 0; i < v->n_options; i++)
        if (!v->options[i].flag) return 1;
    return 0;
}

/* Rows that every verb has. */
static size_t common_rows(const ns_verb *v, const ns_option **rows)
{
    static const ns_option with_config[] = {
        {.key = "config-name", .flag = 1, .type = NS_OPT_STRING, .help = "YAML file with settings (short -cn)"},
        {.key = "config-path",
         .flag = 1,
         .type = NS_OPT_STRING,
         .help = "folder to look for it in (short -cp; -cd adds one)"},
        {.key = "json", .flag = 1, .type = NS_OPT_BOOL, .help = "machine-readable output"},
        {.key = "quiet", .flag = 1, .type = NS_OPT_BOOL, .help = "only warnings and errors"},
        {.key = "help", .flag = 1, .short_name = 'h', .type = NS_OPT_BOOL, .help = "this text"}};
    int skip = has_keys(v) ? 0 : 2;
    *rows = with_config + skip;
    return sizeof with_config / sizeof with_config[0] - (size_t)skip;
}

ns_status ns_options_help(ns_buf *out, const ns_verb *v, ns_error *err)
{
    const ns_option *common = NULL;
    size_t n_common = common_rows(v, &common);
    CFG_TRY(ns_buf_printf(out, err, "ns %s: %s\n\nUsage: %s\n", v->name, v->summary, v->usage ? v->usage : v->name));
    if (v->examples) {
        CFG_TRY(ns_buf_adds(out, "\nExamples:\n", err));
        for (const char *p = v->examples; *p;) {
            size_t n = strcspn(p, "\n");
            CFG_TRY(ns_buf_printf(out, err, "  %.*s\n", (int)n, p));
            p += n + (p[n] == '\n');
        }
    }
    CFG_TRY(ns_buf_adds(out, "\nOptions:\n", err));
    for (size_t i = 0; i < v->n_options; i++)
        if (shown(&v->options[i], 1)) CFG_TRY(help_row(out, &v->options[i], err));
    for (size_t i = 0; i < n_common; i++) CFG_TRY(help_row(out, &common[i], err));
    CFG_TRY(help_configs(out, v, err));
    CFG_TRY(help_keys(out, v, err));
    return help_compat(out, v, err);
}

/* ---- Markdown ---- */
static ns_status md_text(ns_buf *out, const char *s, ns_error *err) /* for a table cell */
{
    for (; s && *s; s++) {
        if (*s == '|' || *s == '<' || *s == '>') CFG_TRY(ns_buf_addc(out, '\\', err));
        CFG_TRY(ns_buf_addc(out, *s == '\n' ? ' ' : *s, err));
    }
    return NS_OK;
}

/* Code in a table cell: only '|' needs care there. */
static ns_status md_code(ns_buf *out, const char *s, ns_error *err)
{
    CFG_TRY(ns_buf_adds(out, "`", err));
    for (; *s; s++) {
        if (*s == '|') CFG_TRY(ns_buf_addc(out, '\\', err));
        CFG_TRY(ns_buf_addc(out, *s, err));
    }
    return ns_buf_adds(out, "`", err);
}

static ns_status md_row(ns_buf *out, const ns_option *o, ns_error *err)
{
    ns_buf left = {0}, range = {0};
    ns_status st = NS_OK;
    CFG_CHECK(st, spelling(&left, o, err));
    CFG_CHECK(st, opt_expectation(&range, o, err));
    CFG_CHECK(st, ns_buf_adds(out, "| ", err));
    CFG_CHECK(st, md_code(out, left.data, err));
    CFG_CHECK(st, ns_buf_adds(out, " | ", err));
    if (o->flags & NS_OPT_REQUIRED)
        CFG_CHECK(st, ns_buf_adds(out, "required", err));
    else if (o->def)
        CFG_CHECK(st, md_code(out, *o->def ? o->def : "''", err));
    else
        CFG_CHECK(st, ns_buf_adds(out, o->flag && o->type == NS_OPT_BOOL ? "off" : "none", err));
    CFG_CHECK(st, ns_buf_adds(out, " | ", err));
    CFG_CHECK(st, md_text(out, range.data, err));
    CFG_CHECK(st, ns_buf_adds(out, " | ", err));
    CFG_CHECK(st, md_text(out, o->help, err));
    if (o->flags & NS_OPT_COMPAT) {
        CFG_CHECK(st, ns_buf_adds(out, o->help && *o->help ? "; no effect" : "no effect", err));
        if (o->compat_note) CFG_CHECK(st, ns_buf_adds(out, ": ", err));
        CFG_CHECK(st, md_text(out, o->compat_note, err));
    }
    CFG_CHECK(st, ns_buf_adds(out, " |\n", err));
done:
    ns_buf_free(&left);
    ns_buf_free(&range);
    return st;
}

static ns_status md_table(ns_buf *out, const ns_verb *v, const char *title, int flag, int compat, ns_error *err)
{
    int open = 0;
    for (size_t i = 0; i < v->n_options; i++) {
        const ns_option *o = &v->options[i];
        int is_compat = (o->flags & NS_OPT_COMPAT) != 0;
        if (o->flags & NS_OPT_HIDDEN || is_compat != compat || (!compat && o->flag != flag)) continue;
        if (!open++)
            CFG_TRY(ns_buf_printf(out, err, "\n## %s\n\n| Name | Default | Values | Meaning |\n|---|---|---|---|\n",
                                  title));
        CFG_TRY(md_row(out, o, err));
    }
    return NS_OK;
}

ns_status ns_options_markdown(ns_buf *out, const ns_verb *v, ns_error *err)
{
    CFG_TRY(ns_buf_printf(out, err, "# ns %s\n\n%s.\n\n    %s\n", v->name, v->summary, v->usage ? v->usage : v->name));
    if (v->examples) {
        CFG_TRY(ns_buf_adds(out, "\nExamples:\n\n", err));
        for (const char *p = v->examples; *p;) {
            size_t n = strcspn(p, "\n");
            CFG_TRY(ns_buf_printf(out, err, "    %.*s\n", (int)n, p));
            p += n + (p[n] == '\n');
        }
    }
    CFG_TRY(md_table(out, v, "Options", 1, 0, err));
    CFG_TRY(md_table(out, v, "Settings, written `++name=value`", 0, 0, err));
    return md_table(out, v, "Accepted for compatibility", 0, 1, err);
}
