/* Flags of `ns inspect` and `ns tokenize --chat` for conversations: the keys of model.data with dashes.
 *     typedef struct my_options { ...; chat_flags chat; } my_options;
 *     static const ns_option opts[] = {..., CHAT_FLAGS(my_options, chat)};
 *     NS_TRY(chat_flags_open(&chat, o->tokenizer, &o->chat, err), "%s", "");      // ns_chat_free */
#ifndef NS_CLI_CHAT_FLAGS_H
#define NS_CLI_CHAT_FLAGS_H

#include "base/options.h"
#include "data/chat.h"

typedef struct chat_flags {
    const char *tmpl, *kwargs, *date, *form, *tools_field;
    ns_opt_list roles;
    int mask_history, allow_double_bos, allow_missing_end, allow_special_text;
} chat_flags;

#define CHAT_FLAG_STR(key_, at_, def_, help_)                                                \
    {                                                                                        \
        .key = key_, .flag = 1, .type = NS_OPT_STRING, .at = at_, .def = def_, .help = help_ \
    }
#define CHAT_FLAG_BOOL(key_, at_, help_)                                                      \
    {                                                                                         \
        .key = key_, .flag = 1, .type = NS_OPT_BOOL, .at = at_, .def = "false", .help = help_ \
    }
#define CHAT_FLAGS(type_, f)                                                                                          \
    CHAT_FLAG_STR("chat-template", offsetof(type_, f.tmpl), "auto",                                                   \
                  "as model.data.chat_template: auto, shipped, a name or a file"),                                    \
        CHAT_FLAG_STR("chat-template-kwargs", offsetof(type_, f.kwargs), NULL,                                        \
                      "as model.data.chat_template_kwargs, in JSON: {\"enable_thinking\": false}"),                   \
        CHAT_FLAG_STR("chat-date", offsetof(type_, f.date), NULL, "as model.data.chat_date: YYYY-MM-DD"),             \
        {.key = "row-form",                                                                                           \
         .flag = 1,                                                                                                   \
         .type = NS_OPT_STRING,                                                                                       \
         .at = offsetof(type_, f.form),                                                                               \
         .def = "auto",                                                                                               \
         .choices = "auto|messages|sharegpt|alpaca|prompt_completion|template",                                       \
         .help = "as model.data.row_form"},                                                                           \
        {.key = "roles-to-train",                                                                                     \
         .flag = 1,                                                                                                   \
         .type = NS_OPT_LIST,                                                                                         \
         .at = offsetof(type_, f.roles),                                                                              \
         .def = "[assistant]",                                                                                        \
         .help = "as model.data.roles_to_train"},                                                                     \
        CHAT_FLAG_BOOL("mask-history", offsetof(type_, f.mask_history), "as model.data.mask_history"),                \
        CHAT_FLAG_STR("tools-field", offsetof(type_, f.tools_field), "tools", "as model.data.tools_field"),           \
        CHAT_FLAG_BOOL("allow-double-bos", offsetof(type_, f.allow_double_bos), "as model.data.allow_double_bos"),    \
        CHAT_FLAG_BOOL("allow-missing-end", offsetof(type_, f.allow_missing_end), "as model.data.allow_missing_end"), \
        CHAT_FLAG_BOOL("allow-special-text", offsetof(type_, f.allow_special_text),                                   \
                       "as model.data.allow_special_text")

int chat_flags_given(const chat_flags *f); /* is any not at its default? */
NS_MUST_USE ns_status chat_flags_open(ns_chat **out, const char *tokenizer, const chat_flags *f, ns_error *err);

#endif
