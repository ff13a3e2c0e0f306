/* Settings of chat rows (chat.h): checked, template loaded, before any row is read. */
#include "data/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "data/chat_internal.h"

static ns_status read_kwargs(ns_chat *c, const char *text, ns_error *err)
{
    ns_json *v;
    if (!text) return NS_OK;
    char *copy = ns_arena_strdup(&c->arena, text, err);
    if (!copy) return NS_ERR_MEMORY;
    NS_TRY(ns_json_parse(&v, &c->arena, copy, strlen(copy), "chat_template_kwargs", 0, err), "chat_template_kwargs");
    NS_FAIL_IF(v->type != NS_JSON_OBJECT, NS_ERR_CONFIG,
               "chat_template_kwargs is %s, expected an object such as {\"enable_thinking\": false}",
               ns_json_type_text(v));
    c->extra = v;
    return NS_OK;
}

static ns_status read_roles(ns_chat *c, const char *text, ns_error *err)
{
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ",");
        ns_str role = {p, n};
        while (role.n && role.p[0] == ' ') role.p++, role.n--;
        while (role.n && role.p[role.n - 1] == ' ') role.n--;
        NS_FAIL_IF(!role.n, NS_ERR_CONFIG, "roles_to_train '%s' has an empty name", text);
        NS_FAIL_IF(c->n_roles == sizeof c->roles / sizeof *c->roles, NS_ERR_CONFIG,
                   "roles_to_train has more than 16 names");
        c->roles[c->n_roles] = ns_arena_strndup(&c->arena, role.p, role.n, err);
        if (!c->roles[c->n_roles++]) return NS_ERR_MEMORY;
        p += n + (p[n] == ',');
    }
    NS_FAIL_IF(!c->n_roles, NS_ERR_CONFIG, "roles_to_train is empty: nothing would be trained");
    c->only_assistant = c->n_roles == 1 && !strcmp(c->roles[0], "assistant");
    return NS_OK;
}

/* A template that writes the date gives other rows tomorrow: one moment serves the whole run, and a date can be fixed. */
static ns_status read_date(ns_chat *c, const char *date, ns_error *err)
{
    struct tm tm = {0};
    time_t now = time(NULL);
    if (date) {
        int y, m, d, used = 0;
        NS_FAIL_IF(sscanf(date, "%4d-%2d-%2d%n", &y, &m, &d, &used) != 3 || date[used] || m < 1 || m > 12 || d < 1 ||
                       d > 31 || y < 1971,
                   NS_ERR_CONFIG, "chat_date '%s': expected YYYY-MM-DD", date);
        tm.tm_year = y - 1900, tm.tm_mon = m - 1, tm.tm_mday = d;
    } else if (!localtime_r(&now, &tm)) {
        NS_FAIL(NS_ERR_IO, "the clock cannot be read");
    }
    c->now = (int64_t)timegm(&tm);
    return NS_OK;
}

ns_status ns_chat_usable(const ns_chat *c, ns_error *err)
{
    if (!c || c->problem.code == NS_OK) return NS_OK;
    NS_FAIL(c->problem.code, "%.600s (another one: chat_template=FILE; none: chat_template=shipped)", c->problem.msg);
}

static ns_status open_chat(ns_chat *c, const char *tokenizer, const ns_chat_options *o, ns_error *err)
{
    static const char *const forms[] = {"auto", "messages", "sharegpt", "alpaca", "prompt_completion", "template"};
    size_t k = 0;
    while (k < 6 && strcmp(o->form, forms[k])) k++;
    NS_FAIL_IF(k == 6, NS_ERR_CONFIG,
               "row_form '%s': expected auto, messages, sharegpt, alpaca, prompt_completion or template", o->form);
    c->form = k ? forms[k] : NULL;
    c->tools_key = ns_arena_strdup(&c->arena, o->tools_key, err);
    if (!c->tools_key) return NS_ERR_MEMORY;
    c->last_turn_only = o->last_turn_only;
    c->allow_double_bos = o->allow_double_bos;
    c->allow_missing_end = o->allow_missing_end;
    c->allow_special_text = o->allow_special_text;
    NS_TRY(read_kwargs(c, o->kwargs, err), "chat settings");
    NS_TRY(read_roles(c, o->roles, err), "chat settings");
    NS_TRY(read_date(c, o->date, err), "chat settings");
    if (!strcmp(o->tmpl, "shipped")) return NS_OK;
    int own = !strcmp(o->tmpl, "auto");
    ns_status st = ns_chat_template_load(&c->tmpl, tokenizer, own ? NULL : o->tmpl, own ? &c->problem : err);
    NS_FAIL_IF(st == NS_ERR_MEMORY, NS_ERR_MEMORY, "out of memory");
    if (st != NS_OK && !own) {
        ns_error_frame(err, __FILE__, __LINE__, "chat_template %s", o->tmpl);
        return st;
    }
    c->date_fixed = o->date != NULL;
    for (size_t i = 0; c->tmpl && c->extra && i < c->extra->n; i++) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(c->extra->keys[i].n < 60 ? c->extra->keys[i].n : 60),
                 c->extra->keys[i].p);
        if (!ns_chat_template_uses(c->tmpl, name))
            NS_WARN("chat_template_kwargs: %s never reads '%s': it has no effect", ns_chat_template_name(c->tmpl),
                    name);
    }
    if (c->extra) NS_TRY(ns_chat_usable(c, err), "chat_template_kwargs");
    NS_FAIL_IF(c->extra && !c->tmpl, NS_ERR_CONFIG, "chat_template_kwargs is set, and there is no chat template in %s",
               tokenizer);
    return NS_OK;
}

ns_status ns_chat_open(ns_chat **out, const char *tokenizer, const ns_chat_options *o, ns_error *err)
{
    ns_status st = NS_OK;
    *out = NULL;
    NS_CHECK(st, ns_alloc((void **)out, sizeof **out, "chat", err), "chat settings");
    (*out)->arena.label = "chat";
    NS_CHECK(st, open_chat(*out, tokenizer, o, err), "chat settings");
done:
    if (st != NS_OK) ns_chat_free(out);
    return st;
}

const char *ns_chat_template_file(const ns_chat *c)
{
    return c && c->tmpl ? ns_chat_template_name(c->tmpl) : NULL;
}

ns_str ns_chat_template_source(const ns_chat *c)
{
    return c && c->tmpl ? ns_chat_template_text(c->tmpl) : (ns_str){NULL, 0};
}

void ns_chat_free(ns_chat **cp)
{
    ns_chat *c = *cp;
    if (!c) return;
    ns_chat_template_free(&c->tmpl);
    ns_arena_free(&c->arena);
    ns_free(c);
    *cp = NULL;
}
