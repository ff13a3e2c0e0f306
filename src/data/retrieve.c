/* BM25 retrieval: an inverted index of the file's rows, scores of all rows for one question, the best few.
 *
 *   idf(w)   = ln(N - df + 0.5) - ln(df + 0.5); a negative one becomes 0.25 * the mean of all      (w: word, df: rows with it)
 *   score(d) = sum over words w of the question, in order: idf(w) * tf * 2.5 / (tf + 1.5 * (0.25 + 0.75 * len(d) / mean len))
 *
 * Equal scores: the later row is the better one (numpy's argsort, reversed, if it were stable). Source: rank_bm25 0.2.2. */
#include "data/retrieve.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/log.h"
#include "base/rng.h"
#include "data/hash.h"

static const double k1 = 1.5, b = 0.75, epsilon = 0.25;

typedef struct posting {
    uint32_t word, row, tf;
} posting;

struct ns_retriever {
    ns_arena arena; /* rows and their text */
    ns_retriever_options o;
    const ns_json **rows; /* [n] */
    double *norm;         /* [n] k1 * (1 - b + b * len / mean) */
    size_t n, rows_cap, norm_cap;
    ns_str *words; /* [n_words], in order of first use */
    double *idf;   /* [n_words] */
    size_t n_words, words_cap;
    uint32_t *slot; /* word + 1, 0 is free; hash_cap is a power of two */
    size_t hash_cap;
    posting *list; /* by word, then row; those of word w are [from[w], from[w + 1]) */
    size_t *from;  /* [n_words + 1] */
    size_t n_list, list_cap;
    atomic_ullong n_short; /* questions that got fewer than `keep` */
};

static size_t hash_at(const ns_retriever *r, ns_str w)
{
    return (size_t)ns_hash_bytes((ns_hash){{0, 0}}, w.p, w.n).v[0] & (r->hash_cap - 1);
}

/* Index of word w in slot[]: where it is, or the free place where it belongs. */
static size_t slot_of(const ns_retriever *r, ns_str w)
{
    size_t k = hash_at(r, w);
    for (; r->slot[k]; k = (k + 1) & (r->hash_cap - 1)) {
        ns_str have = r->words[r->slot[k] - 1];
        if (have.n == w.n && !memcmp(have.p, w.p, w.n)) break;
    }
    return k;
}

static ns_status grow_slots(ns_retriever *r, ns_error *err)
{
    if (r->slot && r->n_words * 2 < r->hash_cap) return NS_OK;
    size_t cap = r->hash_cap ? r->hash_cap * 2 : 1024;
    uint32_t *old = r->slot, *slot = NULL;
    NS_TRY(ns_alloc((void **)&slot, cap * sizeof *slot, "retrieve.slots", err), "words");
    r->slot = slot, r->hash_cap = cap;
    for (size_t i = 0; i < r->n_words; i++) slot[slot_of(r, r->words[i])] = (uint32_t)i + 1;
    ns_free(old);
    return NS_OK;
}

/* The next word of text, which single blanks divide ("a  b" has an empty one); 0 when there is none left. */
static int next_word(ns_str *text, ns_str *word)
{
    if (!text->p) return 0;
    const char *blank = text->n ? memchr(text->p, ' ', text->n) : NULL;
    word->p = text->p, word->n = blank ? (size_t)(blank - text->p) : text->n;
    text->n = blank ? text->n - word->n - 1 : 0;
    text->p = blank ? blank + 1 : NULL;
    return 1;
}

/* Words of one row, counted: postings in order of first use. seen[w]: 1 + the posting that word w had last. */
static ns_status add_words(ns_retriever *r, ns_str text, size_t **seen, size_t *seen_cap, ns_error *err)
{
    size_t first = r->n_list;
    uint64_t length = 0;
    for (ns_str w; next_word(&text, &w); length++) {
        NS_TRY(grow_slots(r, err), "words");
        size_t k = slot_of(r, w);
        if (!r->slot[k]) {
            NS_FAIL_IF(r->n_words >= UINT32_MAX - 1, NS_ERR_INPUT, "more than 4 billion different words");
            NS_TRY(ns_grow((void **)&r->words, &r->words_cap, r->n_words + 1, sizeof *r->words, "retrieve.words", err),
                   "words");
            NS_TRY(ns_grow((void **)seen, seen_cap, r->n_words + 1, sizeof **seen, "retrieve.seen", err), "words");
            (*seen)[r->n_words] = 0;
            r->words[r->n_words++] = w;
            r->slot[k] = (uint32_t)r->n_words;
        }
        uint32_t id = r->slot[k] - 1;
        if ((*seen)[id] > first) {
            r->list[(*seen)[id] - 1].tf++;
            continue;
        }
        NS_TRY(ns_grow((void **)&r->list, &r->list_cap, r->n_list + 1, sizeof *r->list, "retrieve.postings", err),
               "words");
        r->list[r->n_list++] = (posting){id, (uint32_t)r->n, 1};
        (*seen)[id] = r->n_list;
    }
    r->norm[r->n] = (double)length;
    return NS_OK;
}

static ns_status read_rows(ns_retriever *r, ns_jsonl *in, ns_error *err)
{
    ns_status st = NS_OK;
    size_t *seen = NULL, seen_cap = 0, n;
    const char *line, *where;
    for (;;) {
        NS_CHECK(st, ns_jsonl_next_line(in, &line, &n, &where, err), "retrieval_file");
        if (!line) break;
        ns_json *row = NULL;
        const char *copy = ns_arena_strndup(&r->arena, line, n, err); /* strings of the row point into it */
        NS_BAIL_IF(st, !copy, NS_ERR_MEMORY, "retrieval_file");
        NS_CHECK(st, ns_json_parse(&row, &r->arena, copy, n, where, NS_JSON_LONE_OK, err), "retrieval_file");
        const ns_json *text = ns_json_get(row, r->o.field);
        NS_BAIL_IF(st, !text || text->type != NS_JSON_STRING, NS_ERR_INPUT,
                   "%s: found no text \"%s\", which retrieval_field names", where, r->o.field);
        NS_BAIL_IF(st, r->n >= UINT32_MAX, NS_ERR_INPUT, "%s: more than 4 billion rows", where);
        NS_CHECK(st, ns_grow((void **)&r->rows, &r->rows_cap, r->n + 1, sizeof *r->rows, "retrieve.rows", err), "rows");
        NS_CHECK(st, ns_grow((void **)&r->norm, &r->norm_cap, r->n + 1, sizeof *r->norm, "retrieve.norm", err), "rows");
        r->rows[r->n] = row;
        NS_CHECK(st, add_words(r, text->s, &seen, &seen_cap, err), "%s", where);
        r->n++;
    }
    NS_BAIL_IF(st, !r->n, NS_ERR_INPUT, "%s: no rows to retrieve examples from", r->o.file);
done:
    ns_free(seen);
    return st;
}

/* Postings sorted by word (counting sort keeps rows in order), weights of words, lengths to norms. */
static ns_status finish_index(ns_retriever *r, ns_error *err)
{
    posting *sorted = NULL;
    double length = 0, sum = 0;
    NS_TRY(ns_alloc((void **)&r->from, (r->n_words + 2) * sizeof *r->from, "retrieve.from", err), "index");
    NS_TRY(ns_alloc((void **)&r->idf, (r->n_words + 1) * sizeof *r->idf, "retrieve.idf", err), "index");
    NS_TRY(ns_alloc((void **)&sorted, (r->n_list + 1) * sizeof *sorted, "retrieve.postings", err), "index");
    for (size_t i = 0; i < r->n_list; i++) r->from[r->list[i].word + 2]++;
    for (size_t w = 2; w < r->n_words + 2; w++) r->from[w] += r->from[w - 1];
    for (size_t i = 0; i < r->n_list; i++)
        sorted[r->from[r->list[i].word + 1]++] = r->list[i]; /* from[w + 1] ends at w's end */
    ns_free(r->list);
    r->list = sorted;

    for (size_t i = 0; i < r->n; i++) length += r->norm[i];
    double mean = length / (double)r->n;
    for (size_t i = 0; i < r->n; i++) r->norm[i] = k1 * (1 - b + b * r->norm[i] / mean);
    for (size_t w = 0; w < r->n_words; w++) {
        double df = (double)(r->from[w + 1] - r->from[w]);
        r->idf[w] = log((double)r->n - df + 0.5) - log(df + 0.5);
        sum += r->idf[w];
    }
    double least = epsilon * (sum / (double)r->n_words);
    for (size_t w = 0; w < r->n_words; w++)
        if (r->idf[w] < 0) r->idf[w] = least;
    return NS_OK;
}

ns_status ns_retriever_open(ns_retriever **out, const ns_retriever_options *o, ns_error *err)
{
    ns_retriever *r = NULL;
    ns_jsonl *in = NULL;
    ns_status st = NS_OK;
    *out = NULL;
    NS_TRY(ns_alloc((void **)&r, sizeof *r, "retrieve", err), "retrieve");
    r->arena.label = "retrieve.rows";
    r->o = *o;
    r->o.file = ns_arena_strdup(&r->arena, o->file, err);
    r->o.field = ns_arena_strdup(&r->arena, o->field, err);
    r->o.length_field = ns_arena_strdup(&r->arena, o->length_field, err);
    NS_BAIL_IF(st, !r->o.file || !r->o.field || !r->o.length_field, NS_ERR_MEMORY, "retrieve");
    NS_CHECK(st, ns_jsonl_open(&in, o->file, err), "retrieval_file");
    NS_CHECK(st, read_rows(r, in, err), "retrieval_file");
    NS_CHECK(st, finish_index(r, err), "retrieval_file");
    *out = r;
done:
    ns_jsonl_close(&in);
    if (st != NS_OK) ns_retriever_free(&r);
    return st;
}

void ns_retriever_free(ns_retriever **p)
{
    ns_retriever *r = *p;
    if (!r) return;
    unsigned long long n_short = atomic_load(&r->n_short);
    if (n_short > 1) NS_WARN("%s: %llu rows got fewer than %lld examples", r->o.file, n_short, (long long)r->o.keep);
    ns_free(r->rows);
    ns_free(r->norm);
    ns_free(r->words);
    ns_free(r->idf);
    ns_free(r->slot);
    ns_free(r->list);
    ns_free(r->from);
    ns_arena_free(&r->arena);
    ns_free(r);
    *p = NULL;
}

static size_t characters(ns_str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += (s.p[i] & 0xc0) != 0x80;
    return n;
}

/* best[0..n) of all rows: descending score, of equal ones the later first. Returns n. */
static size_t best_rows(const ns_retriever *r, const double *score, size_t *best, size_t most)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        if (n == most && score[i] < score[best[n - 1]]) continue;
        size_t k = n < most ? n++ : n - 1;
        for (; k > 0 && score[best[k - 1]] <= score[i]; k--) best[k] = best[k - 1];
        best[k] = i;
    }
    return n;
}

/* Of the best rows, those to show, in place. Returns how many. */
static ns_status choose(const ns_retriever *r, ns_str question, size_t *best, size_t *n, const char *where,
                        ns_error *err)
{
    size_t kept = 0, i = 0;
    for (; i < *n; i++) {
        ns_str s = ns_json_get(r->rows[best[i]], r->o.field)->s;
        if (s.n != question.n || memcmp(s.p, question.p, s.n)) break;
    }
    for (; i < *n; i++) {
        const ns_json *text = ns_json_get(r->rows[best[i]], r->o.length_field);
        NS_FAIL_IF(r->o.max_chars >= 0 && (!text || text->type != NS_JSON_STRING), NS_ERR_INPUT,
                   "%s: row %zu has no text \"%s\", which max_retrieved_chars measures (max_retrieved_chars_field)",
                   r->o.file, best[i] + 1, r->o.length_field);
        if (r->o.max_chars >= 0 && characters(text->s) >= (size_t)r->o.max_chars) continue;
        best[kept++] = best[i];
    }
    if ((int64_t)kept < r->o.keep &&
        !atomic_fetch_add(&((ns_retriever *)r)->n_short, 1)) /* the counter alone changes */
        NS_WARN("%s: %zu examples found in %s, %lld wanted; more such rows are counted only", where, kept, r->o.file,
                (long long)r->o.keep);
    *n = (int64_t)kept < r->o.keep ? kept : (size_t)r->o.keep;
    return NS_OK;
}

ns_status ns_retriever_examples(const ns_retriever *r, const ns_json **out, ns_arena *a, const ns_json *row,
                                const char *where, ns_error *err)
{
    const ns_json *q = ns_json_get(row, r->o.field);
    NS_FAIL_IF(!q || q->type != NS_JSON_STRING, NS_ERR_INPUT,
               "%s: found no text \"%s\", by which few-shot examples are retrieved (retrieval_field)", where,
               r->o.field);
    size_t most = (uint64_t)r->o.entries < r->n ? (size_t)r->o.entries : r->n, n;
    double *score = ns_arena_alloc(a, r->n * sizeof *score, err);
    size_t *best = ns_arena_alloc(a, (most + 1) * sizeof *best, err);
    int64_t *order = ns_arena_alloc(a, (most + 1) * sizeof *order, err);
    ns_json *list = ns_json_new(a, NS_JSON_ARRAY, err);
    NS_FAIL_IF(!score || !best || !order || !list, NS_ERR_MEMORY, "examples");
    ns_str text = q->s;
    for (ns_str w; next_word(&text, &w);) {
        uint32_t id = r->slot[slot_of(r, w)];
        if (!id--) continue;
        for (size_t i = r->from[id]; i < r->from[id + 1]; i++) {
            double tf = r->list[i].tf;
            score[r->list[i].row] += r->idf[id] * (tf * (k1 + 1) / (tf + r->norm[r->list[i].row]));
        }
    }
    n = most ? best_rows(r, score, best, most) : 0;
    NS_TRY(choose(r, q->s, best, &n, where, err), "examples");
    for (size_t i = 0; i < n; i++) order[i] = (int64_t)(n - 1 - i);
    if (r->o.shuffle) {
        ns_mt g;
        ns_mt_seed_python(&g, ns_hash_bytes((ns_hash){{0, 0}}, q->s.p, q->s.n).v[0]);
        ns_shuffle_python(&g, order, n);
    }
    for (size_t i = 0; i < n; i++) NS_TRY(ns_json_append(list, a, r->rows[best[order[i]]], err), "examples");
    *out = list;
    return NS_OK;
}
