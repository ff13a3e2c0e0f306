/* What `ns tokenize` and `ns detokenize` share: the options for tokenizer, input and lines, reading, and writing.
 *     typedef struct my_options { tok_io io; int mine; } my_options;     // io first
 *     static const ns_option opts[] = {TOK_IO_OPTIONS("text", "the text itself", "UTF-8 text file"), ...};
 *     tok_work w = {.io = &o->io};
 *     NS_CHECK(st, tok_io_open(&w, err), "%s", "");
 *     while (tok_io_line(&w, &line)) { ... append to w.out; NS_CHECK(st, tok_io_flush(&w, 0, err), ...); }
 *     NS_CHECK(st, tok_io_flush(&w, 1, err), ...);
 *     done: tok_io_close(&w); */
#ifndef NS_CLI_TOK_IO_H
#define NS_CLI_TOK_IO_H

#include "base/buf.h"
#include "cli/cli.h"
#include "tok/tok.h"

typedef struct tok_io {
    const char *tokenizer, *input, *literal;
} tok_io;

#define TOK_IO_OPTIONS(literal_key, literal_help, input_help)                                    \
    {.key = "tokenizer",                                                                         \
     .flag = 1,                                                                                  \
     .short_name = 't',                                                                          \
     .type = NS_OPT_STRING,                                                                      \
     .at = offsetof(tok_io, tokenizer),                                                          \
     .flags = NS_OPT_REQUIRED | NS_OPT_MODEL,                                                    \
     .help = "model folder, tokenizer.json, SentencePiece model, tekken.json, or tiktoken file " \
             "(its family behind #: tokenizer.model#llama3.1)"},                                 \
        {.key = "input",                                                                         \
         .flag = 1,                                                                              \
         .short_name = 'i',                                                                      \
         .type = NS_OPT_STRING,                                                                  \
         .at = offsetof(tok_io, input),                                                          \
         .def = "-",                                                                             \
         .help = input_help},                                                                    \
    {                                                                                            \
        .key = literal_key, .flag = 1, .type = NS_OPT_STRING, .at = offsetof(tok_io, literal),   \
        .help = literal_help ", instead of --input"                                              \
    }

typedef struct tok_work {
    const tok_io *io;
    const char *literal_key; /* "--text": the name of the literal in messages */
    ns_tok *t;
    ns_buf input, out;
    char where[4200]; /* of the current line: "file:3" */
    size_t at, line;
    int rows_allowed; /* the input may be a Parquet file, whose rows are the lines */
} tok_work;

/* Refuses --input together with the literal, loads the tokenizer. */
NS_MUST_USE ns_status tok_io_open(tok_work *w, ns_error *err);
NS_MUST_USE ns_status tok_io_read(tok_work *w,
                                  ns_error *err); /* all of the input (Parquet: its rows as lines) into w->input */
const char *tok_io_name(const tok_work *w);       /* "--text", "standard input", the file */
int tok_io_line(tok_work *w, ns_str *line);       /* the next line without its newline; 0: no more */
NS_MUST_USE ns_status tok_io_flush(tok_work *w, int all, ns_error *err);
void tok_io_close(tok_work *w);

#endif
