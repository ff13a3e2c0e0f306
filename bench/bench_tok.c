/* Tokenizer throughput by CPU time, one thread: a text line by line and as one text, the first time (no word of it is known
 * yet) and later; a set of JSONL rows (every row as one text); and texts that are hard for a merge loop (1 MB each, as one
 * text).
 *     bench_tok NAME TOKENIZER.json TEXT_FILE [ROWS.jsonl] */
#include "bench.h"

#include "tok/tok.h"

typedef struct job {
    ns_tok *tok;
    char *text;
    size_t n;
    int whole;
    ns_ids ids;
    ns_error err;
    int bad;
} job;

static void encode(void *arg)
{
    job *j = arg;
    j->ids.n = 0;
    for (char *p = j->text, *end = p + j->n; p < end && !j->bad;) {
        char *nl = j->whole ? NULL : memchr(p, '\n', (size_t)(end - p));
        size_t n = nl ? (size_t)(nl - p) + 1 : (size_t)(end - p);
        j->bad = ns_tok_encode(j->tok, &j->ids, p, n, 0, &j->err) != NS_OK;
        p += n;
    }
}

static int measure(job *j, const char *tokenizer, const char *text, double load)
{
    double best, median;
    char more[512];
    bench_time_by(bench_cpu, &best, &median, encode, j);
    if (j->bad) return bench_fail(&j->err);
    snprintf(more, sizeof more,
             "\"tokenizer\": \"%s\", \"text\": \"%s\", \"bytes\": %zu, \"tokens\": %zu, \"threads\": 1, \"clock\": "
             "\"cpu\", \"load_s\": %.3g",
             tokenizer, text, j->n, j->ids.n, load);
    bench_line("tok.encode", more, (double)j->n / best / 1e6, "MB/s", best, median);
    return 0;
}

/* Fills p[0..n) with one of the hard texts; its name, NULL after the last. */
static const char *hard_text(int k, char *p, size_t n)
{
    static const char *const names[] = {"1 MB of a", "1 MB of blanks", "1 MB of CJK", "1 MB of digits",
                                        "1 MB of random ASCII"};
    uint32_t r = 1;
    if (k >= (int)(sizeof names / sizeof *names)) return NULL;
    for (size_t i = 0; i < n; i++) {
        r = r * 1664525 + 1013904223;
        p[i] = k == 0 ? 'a' : k == 1 ? ' ' : k == 3 ? (char)('0' + r % 2654435761u % 10) : (char)(32 + (r >> 8) % 95);
        if (k == 2) p[i] = i % 3 ? (char)(0x80 + (r >> 10) % 64) : (char)(0xe5 + (r >> 10) % 4);
    }
    for (size_t i = n / 3 * 3; k == 2 && i < n; i++) p[i] = ' ';
    return names[k];
}

int main(int argc, char **argv)
{
    job j = {.err = NS_ERROR_INIT};
    if (argc < 4 || !(j.text = bench_read(argv[3], &j.n))) return bench_skip("tok.encode", "no tokenizer or text");
    double t0 = bench_now();
    if (ns_tok_load(&j.tok, argv[2], &j.err) != NS_OK) return bench_fail(&j.err);
    double load = bench_now() - t0;
    t0 = bench_cpu();
    encode(&j);
    t0 = bench_cpu() - t0;
    char more[300];
    snprintf(more, sizeof more,
             "\"tokenizer\": \"%s\", \"text\": \"war-and-peace, by lines, the first time\", \"threads\": 1, \"clock\": "
             "\"cpu\"",
             argv[1]);
    if (!j.bad) bench_line("tok.encode", more, (double)j.n / t0 / 1e6, "MB/s", t0, t0);
    int rc = measure(&j, argv[1], "war-and-peace, by lines", load);
    j.whole = 1;
    if (!rc) rc = measure(&j, argv[1], "war-and-peace, as one text", load);
    j.whole = 0;
    free(j.text);
    j.text = NULL;
    if (!rc && argc > 4 && (j.text = bench_read(argv[4], &j.n))) rc = measure(&j, argv[1], "gsm8k rows", load);
    free(j.text);
    j.n = 1000000;
    j.whole = 1;
    const char *name;
    if (!(j.text = malloc(j.n))) return 1;
    for (int k = 0; !rc && (name = hard_text(k, j.text, j.n)); k++) rc = measure(&j, argv[1], name, load);
    ns_ids_free(&j.ids);
    ns_tok_free(&j.tok);
    free(j.text);
    return rc;
}
