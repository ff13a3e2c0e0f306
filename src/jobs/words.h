/* Lists of words (argv), their quoting for bash, and file names made from titles.
 *
 *     ns_words w = {0};
 *     NS_TRY(ns_words_add(&w, arena, "ns", err), "command");
 *     NS_TRY(ns_words_addf(&w, arena, err, "++inference.random_seed=%d", seed), "command");
 *     NS_TRY(ns_shell_line(&script, &w, err), "script");        // ns '++prompt=it'\''s'
 *
 * A command is a list of words from end to end; text for a shell is made in one place (ns_shell_quote) and only for scripts. */
#ifndef NS_JOBS_WORDS_H
#define NS_JOBS_WORDS_H

#include "base/buf.h"
#include "base/mem.h"

typedef struct ns_words {
    const char **v; /* v[n] is NULL, so that v is an argv */
    size_t n, cap;
} ns_words;

/* Keeps the pointer; array in the arena. `s` NULL: passes an earlier failure on. */
NS_MUST_USE ns_status ns_words_add(ns_words *w, ns_arena *a, const char *s, ns_error *err);
NS_MUST_USE ns_status ns_words_addf(ns_words *w, ns_arena *a, ns_error *err, const char *fmt, ...) NS_PRINTF(4, 5);
NS_MUST_USE ns_status ns_words_add_all(ns_words *w, ns_arena *a, const char *const *v, size_t n, ns_error *err);
/* Splits as a shell splits words: runs of blanks separate, '...' and "..." and \x group; nothing is expanded. */
NS_MUST_USE ns_status ns_words_split(ns_words *out, ns_arena *a, const char *text, ns_error *err);
/* 1: text is words, blanks and nothing that a shell would act on: no quotes, expansions, redirections, patterns. */
int ns_is_plain_line(const char *text);

/* 1: one of the words is `key=...`, with any number of + before it. */
int ns_words_setting(const ns_words *w, const char *key);

/* One word for bash: as it is when it is harmless, else in single quotes. */
NS_MUST_USE ns_status ns_shell_quote(ns_buf *out, const char *s, ns_error *err);
NS_MUST_USE ns_status ns_shell_line(ns_buf *out, const char *const *v, size_t n, ns_error *err);

/* A name that is a file name, one word of a shell and of Slurm's file patterns: letters, digits and ._+@=,- stay, all else
 * is '_'; a name that was changed gets a hash, so that two titles never share a folder. NULL on out of memory. */
const char *ns_safe_name(ns_arena *a, const char *name, ns_error *err);

#endif
