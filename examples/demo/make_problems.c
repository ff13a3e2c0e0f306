/* make_problems.c - writes the word problems of the demo.
 *
 * Where it stands: the first step of `make demo`. It plays the part of a finished generation run: a file of
 * problems with worked solutions, most of them right, for `ns prepare` to filter. Depends on nothing but libc.
 *
 * Out, in DIR:
 *   generations/output-rs0.jsonl  training rows; some are wrong, doubled, cut off or ramble on, as real runs do
 *   generations/validation.jsonl  the same from other numbers, all right; for the validation loss
 *   heldout.jsonl                 questions of the trained kinds with numbers that training never saw
 *   unseen.jsonl                  questions of a kind that training never saw
 *
 * Invariants: equal (seed, counts) give equal bytes on every machine. The split is a hash of (kind, numbers), so
 * no (kind, numbers) pair is in two of train, validation and held-out, whatever the names and wording. Every
 * number in a problem and every result is in 1..99.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LENGTH(a) (sizeof(a) / sizeof((a)[0]))

/* ---- words ------------------------------------------------------------------------------------------------- */

typedef struct person {
    const char *name;
    const char *pronoun;
} person;

static const person people[] = {
    {"Ana", "She"},   {"Ben", "He"},    {"Clara", "She"},  {"David", "He"}, {"Emma", "She"}, {"Felix", "He"},
    {"Grace", "She"}, {"Hugo", "He"},   {"Iris", "She"},   {"Jack", "He"},  {"Kate", "She"}, {"Liam", "He"},
    {"Maya", "She"},  {"Noah", "He"},   {"Olivia", "She"}, {"Paul", "He"},  {"Rosa", "She"}, {"Sam", "He"},
    {"Tina", "She"},  {"Victor", "He"}, {"Wendy", "She"},  {"Yusuf", "He"}, {"Zoe", "She"},  {"Omar", "He"},
};

static const char *const things[] = {
    "apples",  "books",   "cards",   "coins",  "cookies", "eggs",   "flowers",  "marbles",
    "muffins", "oranges", "pencils", "photos", "shells",  "stamps", "stickers", "toys",
};

static const char *const places[] = {
    "the market", "school", "the park", "the fair", "the shop", "the library", "the beach", "the farm",
};

/* ---- kinds of problem -------------------------------------------------------------------------------------- */

/* What is computed: x is the first result, r the final one. One-step operations have x = r. */
typedef enum op {
    OP_ADD,      /* r = a + b             */
    OP_SUB,      /* r = a - b             */
    OP_MUL,      /* r = a * b             */
    OP_DIV,      /* r = a / b             */
    OP_ADD_SUB,  /* x = a + b, r = x - c  */
    OP_SUB_SUB,  /* x = a - b, r = x - c  */
    OP_ADD_ADD,  /* x = a + b, r = x + c  */
    OP_MUL_ADD,  /* x = a * b, r = x + c  */
    OP_MUL_SUB,  /* x = a * b, r = x - c  */
    OP_SUB_MUL,  /* x = a * b, r = c - x  */
    OP_ADD_BOTH, /* x = a + b, r = x + a */
    OP_SUM_DIV,  /* x = a + b, r = x / c  */
    OP_SUB_ADD,  /* x = a - b, r = x + c  */
} op;

typedef struct wording {
    const char *ask;
    const char *work;
} wording;

/* Fields in the text: {N} a person, {S} that person's pronoun, {M} another person, {I} things, {P} a place,
 * {a} {b} {c} the numbers, {x} and {r} the results. */
typedef struct kind {
    const char *name;
    op op;
    wording wordings[4];
} kind;

static const kind trained_kinds[] = {
    {"gain",
     OP_ADD,
     {{"{N} has {a} {I}. {S} buys {b} more at {P}. How many {I} does {N} have now?", "{N} has {a} + {b} = {r} {I}."},
      {"{N} had {a} {I} and then found {b} more near {P}. How many {I} does {N} have in total?",
       "{N} has {a} + {b} = {r} {I}."},
      {"There are {a} {I} in a basket. {N} puts in {b} more. How many {I} are in the basket now?",
       "There are {a} + {b} = {r} {I}."},
      {"{M} gave {N} {b} {I}. Before that, {N} had {a} {I}. How many {I} does {N} have now?",
       "{N} has {a} + {b} = {r} {I}."}}},
    {"together",
     OP_ADD,
     {{"{N} has {a} {I} and {M} has {b} {I}. How many {I} do they have together?",
       "Together they have {a} + {b} = {r} {I}."},
      {"On Monday {N} sold {a} {I}. On Tuesday {S} sold {b} {I}. How many {I} did {N} sell in total?",
       "{N} sold {a} + {b} = {r} {I}."},
      {"{N} and {M} went to {P}. {N} took {a} {I} and {M} took {b}. How many {I} did they take altogether?",
       "Together they took {a} + {b} = {r} {I}."},
      {NULL, NULL}}},
    {"more_than",
     OP_ADD,
     {{"{N} has {a} {I}. {M} has {b} more than {N}. How many {I} does {M} have?", "{M} has {a} + {b} = {r} {I}."},
      {"At {P} {N} saw {a} {I}. {M} saw {b} more {I} than {N} did. How many {I} did {M} see?",
       "{M} saw {a} + {b} = {r} {I}."},
      {NULL, NULL}}},
    {"loss",
     OP_SUB,
     {{"{N} has {a} {I}. {S} gives {b} to {M}. How many {I} does {N} have left?", "{N} has {a} - {b} = {r} {I}."},
      {"{N} took {a} {I} to {P} and lost {b} of them. How many {I} are left?", "There are {a} - {b} = {r} {I}."},
      {"There were {a} {I} in a box. {N} used {b}. How many {I} are in the box now?", "There are {a} - {b} = {r} {I}."},
      {NULL, NULL}}},
    {"difference",
     OP_SUB,
     {{"{N} has {a} {I} and {M} has {b} {I}. How many more {I} does {N} have than {M}?",
       "{N} has {a} - {b} = {r} more {I}."},
      {"{N} sold {a} {I} at {P}. {M} sold only {b}. How many fewer {I} did {M} sell?",
       "{M} sold {a} - {b} = {r} fewer {I}."},
      {"{N} wants {a} {I} and already has {b}. How many more {I} does {N} need?",
       "{N} needs {a} - {b} = {r} more {I}."},
      {NULL, NULL}}},
    {"boxes",
     OP_MUL,
     {{"{N} has {a} boxes with {b} {I} in each box. How many {I} does {N} have?", "{N} has {a} * {b} = {r} {I}."},
      {"There are {b} {I} in every bag. {N} brings {a} bags to {P}. How many {I} does {S} bring?",
       "{N} brings {a} * {b} = {r} {I}."},
      {"{N} puts {I} in {a} rows of {b}. How many {I} are there?", "There are {a} * {b} = {r} {I}."},
      {NULL, NULL}}},
    {"price",
     OP_MUL,
     {{"{N} buys {a} {I} at {P}. Each costs {b} dollars. How many dollars does {N} pay?",
       "{N} pays {a} * {b} = {r} dollars."},
      {"{N} earns {b} dollars an hour and works {a} hours at {P}. How many dollars does {S} earn?",
       "{N} earns {a} * {b} = {r} dollars."},
      {NULL, NULL}}},
    {"share",
     OP_DIV,
     {{"{N} shares {a} {I} equally among {b} friends. How many {I} does each friend get?",
       "Each friend gets {a} / {b} = {r} {I}."},
      {"{N} packs {a} {I} into {b} equal bags. How many {I} are in each bag?", "Each bag has {a} / {b} = {r} {I}."},
      {NULL, NULL}}},
    {"price_of_one",
     OP_DIV,
     {{"{N} paid {a} dollars for {b} {I} at {P}. How many dollars does each cost?",
       "Each costs {a} / {b} = {r} dollars."},
      {"{N} earned {a} dollars in {b} hours. How many dollars did {S} earn each hour?",
       "{N} earned {a} / {b} = {r} dollars each hour."},
      {NULL, NULL}}},
    {"gain_then_loss",
     OP_ADD_SUB,
     {{"{N} has {a} {I}. {S} buys {b} more at {P} and gives {c} to {M}. How many {I} does {N} have left?",
       "{N} has {a} + {b} = {x} {I}. After that {N} has {x} - {c} = {r} {I}."},
      {"On Monday {N} found {a} {I} and on Tuesday {b} more. Then {S} lost {c}. How many {I} are left?",
       "{N} found {a} + {b} = {x} {I}. After that {N} has {x} - {c} = {r} {I}."},
      {NULL, NULL}}},
    {"loss_twice",
     OP_SUB_SUB,
     {{"{N} has {a} {I}. {S} gives {b} to {M} and sells {c} at {P}. How many {I} does {N} have left?",
       "{N} has {a} - {b} = {x} {I}. After that {N} has {x} - {c} = {r} {I}."},
      {"There were {a} {I} in a box. {N} used {b} and {M} used {c}. How many {I} are in the box now?",
       "There are {a} - {b} = {x} {I}. After that there are {x} - {c} = {r} {I}."},
      {NULL, NULL}}},
    {"lend_and_get",
     OP_SUB_ADD,
     {{"{N} has {a} {I}. {S} gives {b} to {M} and then finds {c} more at {P}. How many {I} does {N} have now?",
       "{N} has {a} - {b} = {x} {I}. After that {N} has {x} + {c} = {r} {I}."},
      {"There were {a} {I} in a box. {N} used {b}. Then {M} puts in {c} more. How many {I} are in the box now?",
       "There are {a} - {b} = {x} {I}. After that there are {x} + {c} = {r} {I}."},
      {NULL, NULL}}},
    {"three_days",
     OP_ADD_ADD,
     {{"{N} sold {a} {I} on Monday, {b} on Tuesday and {c} on Friday. How many {I} did {N} sell in total?",
       "By Tuesday {N} sold {a} + {b} = {x} {I}. In total {N} sold {x} + {c} = {r} {I}."},
      {"{N} has {a} {I}. {M} gives {N} {b} and {S} finds {c} more at {P}. How many {I} does {N} have now?",
       "First {N} has {a} + {b} = {x} {I}. After that {N} has {x} + {c} = {r} {I}."},
      {NULL, NULL}}},
    {"boxes_and_more",
     OP_MUL_ADD,
     {{"{N} has {a} boxes with {b} {I} in each box and {c} more {I}. How many {I} does {N} have?",
       "The boxes have {a} * {b} = {x} {I}. In total {N} has {x} + {c} = {r} {I}."},
      {"{N} buys {a} {I} for {b} dollars each and a bag for {c} dollars. How many dollars does {N} pay?",
       "The {I} cost {a} * {b} = {x} dollars. In total {N} pays {x} + {c} = {r} dollars."},
      {NULL, NULL}}},
    {"boxes_less_some",
     OP_MUL_SUB,
     {{"{N} has {a} bags of {b} {I}. {S} gives {c} {I} to {M}. How many {I} does {N} have left?",
       "{N} has {a} * {b} = {x} {I}. After that {N} has {x} - {c} = {r} {I}."},
      {"{N} earns {b} dollars an hour. {S} works {a} hours and spends {c} dollars at {P}. "
       "How many dollars are left?",
       "{N} earns {a} * {b} = {x} dollars. After that {N} has {x} - {c} = {r} dollars."},
      {NULL, NULL}}},
    {"change",
     OP_SUB_MUL,
     {{"{N} has {c} dollars and buys {a} {I} for {b} dollars each. How many dollars are left?",
       "{N} pays {a} * {b} = {x} dollars. After that {N} has {c} - {x} = {r} dollars."},
      {"There are {c} {I} in a box. {N} gives {b} to each of {a} friends. How many {I} are left?",
       "{N} gives {a} * {b} = {x} {I}. After that there are {c} - {x} = {r} {I}."},
      {NULL, NULL}}},
    {"more_and_together",
     OP_ADD_BOTH,
     {{"{N} has {a} {I}. {M} has {b} more than {N}. How many {I} do they have together?",
       "{M} has {a} + {b} = {x} {I}. Together they have {x} + {a} = {r} {I}."},
      {"{N} sold {a} {I} on Monday and {b} more than that on Tuesday. How many {I} did {N} sell in total?",
       "On Tuesday {N} sold {a} + {b} = {x} {I}. In total {N} sold {x} + {a} = {r} {I}."},
      {NULL, NULL}}},
    {"share_sum",
     OP_SUM_DIV,
     {{"{N} has {a} {I} and {M} has {b}. They share them equally among {c} friends. "
       "How many {I} does each friend get?",
       "Together they have {a} + {b} = {x} {I}. Each friend gets {x} / {c} = {r} {I}."},
      {NULL, NULL}}},
};

/* A story that training never tells; its steps are trained in other stories. */
static const kind unseen_kinds[] = {
    {"boxes_then_gift",
     OP_MUL_SUB,
     {{"{N} has {a} boxes with {b} {I} in each box. {S} gives {c} to {M}. How many {I} does {N} have left?",
       "{N} has {a} * {b} = {x} {I}. After that {N} has {x} - {c} = {r} {I}."},
      {"{N} puts {I} in {a} rows of {b}. {S} sells {c} at {P}. How many {I} are left?",
       "There are {a} * {b} = {x} {I}. After that there are {x} - {c} = {r} {I}."},
      {NULL, NULL}}},
};

/* ---- random numbers ---------------------------------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood 2014): one word of state, the same everywhere. */
static uint64_t mix64(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t rng_next(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    return mix64(*state);
}

/* Uniform in lo..hi; the bias of the remainder is below 2^-56 here. */
static int rng_range(uint64_t *state, int lo, int hi)
{
    return lo + (int)(rng_next(state) % (uint64_t)(hi - lo + 1));
}

/* ---- one problem ------------------------------------------------------------------------------------------- */

enum { MAX_TEXT = 1024 };

typedef struct problem {
    const kind *kind;
    int a, b, c, x, r;
    char ask[MAX_TEXT];
    char work[MAX_TEXT]; /* the steps without the final sentence */
} problem;

/* The second operand of + and - is small, so that a small model can learn the sums in minutes: about 230 of each,
 * beside the times tables. */
static void draw_numbers(uint64_t *rng, op o, problem *p)
{
    enum { SMALL = 9, BIG = 30 };
    p->c = 0;
    switch (o) {
    case OP_ADD:
    case OP_ADD_ADD:
    case OP_ADD_SUB:
        p->a = rng_range(rng, 2, BIG);
        p->b = rng_range(rng, 2, SMALL);
        p->x = p->a + p->b;
        break;
    case OP_SUB:
    case OP_SUB_ADD:
        p->a = rng_range(rng, SMALL + 1, BIG);
        p->b = rng_range(rng, 2, SMALL);
        p->x = p->a - p->b;
        break;
    case OP_SUB_SUB:
        p->a = rng_range(rng, 2 * SMALL + 1, BIG);
        p->b = rng_range(rng, 2, SMALL);
        p->x = p->a - p->b;
        break;
    case OP_MUL:
        p->a = rng_range(rng, 2, 9);
        p->b = rng_range(rng, 2, 10);
        p->x = p->a * p->b;
        break;
    case OP_MUL_ADD:
    case OP_MUL_SUB:
        p->a = rng_range(rng, 3, 6);
        p->b = rng_range(rng, 3, 6);
        p->x = p->a * p->b;
        break;
    case OP_SUB_MUL:
        p->a = rng_range(rng, 2, 3);
        p->b = rng_range(rng, 2, SMALL / p->a);
        p->c = rng_range(rng, SMALL + 1, BIG);
        p->x = p->a * p->b;
        break;
    case OP_DIV:
        p->b = rng_range(rng, 2, 9);
        p->x = rng_range(rng, 2, 10);
        p->a = p->b * p->x;
        break;
    case OP_ADD_BOTH:
        p->a = rng_range(rng, 2, SMALL);
        p->b = rng_range(rng, 2, SMALL);
        p->x = p->a + p->b;
        break;
    case OP_SUM_DIV:
        p->c = rng_range(rng, 2, 9);
        p->x = p->c * rng_range(rng, 2, 10);
        p->b = rng_range(rng, 1, p->x - 1 < SMALL ? p->x - 1 : SMALL);
        p->a = p->x - p->b;
        break;
    }
    switch (o) { /* the second step */
    case OP_ADD_ADD:
    case OP_MUL_ADD:
    case OP_SUB_ADD:
        p->c = rng_range(rng, 2, SMALL);
        p->r = p->x + p->c;
        break;
    case OP_ADD_SUB:
    case OP_SUB_SUB:
    case OP_MUL_SUB:
        p->c = rng_range(rng, 2, p->x - 1 < SMALL ? p->x - 1 : SMALL);
        p->r = p->x - p->c;
        break;
    case OP_SUB_MUL: p->r = p->c - p->x; break;
    case OP_ADD_BOTH: p->r = p->x + p->a; break;
    case OP_SUM_DIV: p->r = p->x / p->c; break;
    case OP_ADD:
    case OP_SUB:
    case OP_MUL:
    case OP_DIV: p->r = p->x; break;
    }
}

/* Where this (kind, numbers) pair belongs, decided by a hash alone. */
typedef enum split { SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_HELDOUT } split;

static split split_of(const problem *p)
{
    uint64_t h = 1469598103934665603u;
    for (const char *s = p->kind->name; *s; s++) h = mix64(h ^ (uint64_t)(unsigned char)*s);
    h = mix64(h ^ (uint64_t)(p->a + 128 * (p->b + 128 * p->c)));
    unsigned percent = (unsigned)(h % 100);
    return percent < 8 ? SPLIT_HELDOUT : percent < 12 ? SPLIT_VALIDATION : SPLIT_TRAIN;
}

typedef struct words {
    const person *n, *m;
    const char *thing, *place;
} words;

static void fill(char out[MAX_TEXT], const char *pattern, const problem *p, const words *w)
{
    size_t len = 0;
    bool sentence_start = true;
    for (const char *s = pattern; *s; s++) {
        char number[16];
        const char *text = number;
        char lower[8];
        if (*s != '{') {
            number[0] = *s;
            number[1] = '\0';
        } else {
            s++;
            switch (*s) {
            case 'N': text = w->n->name; break;
            case 'M': text = w->m->name; break;
            case 'I': text = w->thing; break;
            case 'P': text = w->place; break;
            case 'S':
                text = w->n->pronoun;
                if (!sentence_start) { /* only the first letter differs */
                    snprintf(lower, sizeof lower, "%s", text);
                    lower[0] = (char)(lower[0] + ('a' - 'A'));
                    text = lower;
                }
                break;
            default:
                snprintf(number, sizeof number, "%d",
                         *s == 'a'   ? p->a
                         : *s == 'b' ? p->b
                         : *s == 'c' ? p->c
                         : *s == 'x' ? p->x
                                     : p->r);
            }
            s++; /* the closing brace */
        }
        size_t n = strlen(text);
        if (len + n >= MAX_TEXT) {
            fprintf(stderr, "make_problems: a text of kind %s is longer than %d bytes\n", p->kind->name, MAX_TEXT);
            exit(1);
        }
        memcpy(out + len, text, n);
        len += n;
        if (text[0] != ' ') sentence_start = text[0] == '.' || text[0] == '?';
    }
    out[len] = '\0';
}

/* A problem of one of `kinds` whose numbers fall into `want`. */
static void make_problem(uint64_t *rng, const kind *kinds, size_t n_kinds, split want, problem *p)
{
    do {
        p->kind = &kinds[rng_range(rng, 0, (int)n_kinds - 1)];
        draw_numbers(rng, p->kind->op, p);
    } while (split_of(p) != want);
    int n_wordings = 0;
    while (n_wordings < (int)LENGTH(p->kind->wordings) && p->kind->wordings[n_wordings].ask) n_wordings++;
    const wording *said = &p->kind->wordings[rng_range(rng, 0, n_wordings - 1)];
    int n = rng_range(rng, 0, (int)LENGTH(people) - 1);
    int m = rng_range(rng, 1, (int)LENGTH(people) - 1);
    words w = {&people[n], &people[(n + m) % (int)LENGTH(people)], things[rng_range(rng, 0, (int)LENGTH(things) - 1)],
               places[rng_range(rng, 0, (int)LENGTH(places) - 1)]};
    fill(p->ask, said->ask, p, &w);
    fill(p->work, said->work, p, &w);
}

/* ---- files ------------------------------------------------------------------------------------------------- */

static void die(const char *path)
{
    fprintf(stderr, "make_problems: %s: %s\n", path, strerror(errno));
    exit(1);
}

static FILE *create(const char *dir, const char *name, char path[4096])
{
    snprintf(path, 4096, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    if (!f) die(path);
    return f;
}

static void finish(FILE *f, const char *path)
{
    if (ferror(f) | fclose(f)) die(path);
}

static void make_dir(const char *path)
{
    if (mkdir(path, 0777) && errno != EEXIST) die(path);
}

/* printf of one JSON string. The texts hold letters, digits, ASCII punctuation and newlines only. */
__attribute__((format(printf, 3, 4))) static void put_string(FILE *f, const char *key, const char *format, ...)
{
    char text[4 * MAX_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(f, "\"%s\": \"", key);
    for (const char *s = text; *s; s++) {
        if (*s == '\n')
            fputs("\\n", f);
        else if (*s == '"' || *s == '\\')
            fprintf(f, "\\%c", *s);
        else
            fputc(*s, f);
    }
    fputs("\", ", f);
}

static void put_question(FILE *f, const problem *p, const char *id_prefix, int i)
{
    put_string(f, "id", "%s/%s/%d", id_prefix, p->kind->name, i);
    put_string(f, "type", "%s", p->kind->name);
    put_string(f, "problem", "%s", p->ask);
    put_string(f, "reference_solution", "%s The answer is \\boxed{%d}.", p->work, p->r);
}

/* One row as a generation run leaves it. `faults`: make some generations bad in the ways of real runs. */
static void put_generation(FILE *f, uint64_t *rng, const problem *p, const char *id_prefix, int i, bool faults)
{
    int percent = faults ? rng_range(rng, 0, 99) : 99;
    int said = p->r;
    fputc('{', f);
    if (percent < 6) { /* a wrong answer, marked as such by the grader */
        said += rng_range(rng, 1, 9);
        put_string(f, "generation", "%s The answer is \\boxed{%d}.", p->work, said);
    } else if (percent < 8) { /* two answers: dropped by drop_multi_boxed */
        put_string(f, "generation", "The answer is \\boxed{%d}. %s The answer is \\boxed{%d}.", p->a, p->work, p->r);
    } else if (percent < 12) { /* goes on after the answer: cut by trim_solutions */
        put_string(f, "generation", "%s The answer is \\boxed{%d}.\n\nQuestion:\nHow many are there?", p->work, p->r);
    } else if (percent < 14) { /* starts with an echo of the prompt: removed by trim_solutions */
        put_string(f, "generation", "My solution:\n%s The answer is \\boxed{%d}.", p->work, p->r);
    } else {
        put_string(f, "generation", "%s The answer is \\boxed{%d}.", p->work, p->r);
    }
    put_question(f, p, id_prefix, i);
    put_string(f, "expected_answer", "%d", p->r);
    put_string(f, "predicted_answer", "%d", said);
    fprintf(f, "\"is_correct\": %s}\n", said == p->r ? "true" : "false");
}

static void write_generations(const char *dir, const char *name, uint64_t seed, split want, int n, bool faults)
{
    char path[4096];
    FILE *f = create(dir, name, path);
    uint64_t rng = seed;
    problem p;
    for (int i = 0; i < n; i++) {
        make_problem(&rng, trained_kinds, LENGTH(trained_kinds), want, &p);
        put_generation(f, &rng, &p, want == SPLIT_TRAIN ? "train" : "validation", i, faults);
    }
    finish(f, path);
}

static void write_questions(const char *dir, const char *name, uint64_t seed, const kind *kinds, size_t n_kinds, int n)
{
    char path[4096];
    FILE *f = create(dir, name, path);
    uint64_t rng = seed;
    problem p;
    for (int i = 0; i < n; i++) {
        make_problem(&rng, kinds, n_kinds, SPLIT_HELDOUT, &p);
        fputc('{', f);
        put_question(f, &p, "test", i);
        fprintf(f, "\"expected_answer\": \"%d\"}\n", p.r);
    }
    finish(f, path);
}

static int parse_count(const char *text, const char *what)
{
    char *end;
    long v = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || v < 1 || v > 10000000) {
        fprintf(stderr, "make_problems: %s: found \"%s\", expected a whole number from 1 to 10000000\n", what, text);
        exit(2);
    }
    return (int)v;
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 5 || argv[1][0] == '-') {
        fputs("usage: make_problems DIR [N_TRAIN=12000] [N_TEST=400] [SEED=1]\n", stderr);
        return 2;
    }
    const char *dir = argv[1];
    int n_train = argc > 2 ? parse_count(argv[2], "N_TRAIN") : 12000;
    int n_test = argc > 3 ? parse_count(argv[3], "N_TEST") : 400;
    uint64_t seed = mix64((uint64_t)(argc > 4 ? parse_count(argv[4], "SEED") : 1));
    char generations[4096];
    snprintf(generations, sizeof generations, "%s/generations", dir);
    make_dir(dir);
    make_dir(generations);
    write_generations(generations, "output-rs0.jsonl", seed + 1, SPLIT_TRAIN, n_train, true);
    write_generations(generations, "validation.jsonl", seed + 2, SPLIT_VALIDATION, n_test, false);
    write_questions(dir, "heldout.jsonl", seed + 3, trained_kinds, LENGTH(trained_kinds), n_test);
    write_questions(dir, "unseen.jsonl", seed + 4, unseen_kinds, LENGTH(unseen_kinds), n_test / 2 > 0 ? n_test / 2 : 1);
    return 0;
}
