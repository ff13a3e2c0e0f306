/* Tokenizer throughput: a text encoded piece by piece (lines, as rows of a data set are), one thread.
 *     bench_tok NAME TOKENIZER.json TEXT_FILE */
#include "bench.h"

#include "tok/tok.h"

typedef struct job {
    ns_tok *tok;
    char *text;
    size_t n;
    ns_ids ids;
    ns_error err;
    int bad;
} job;

static void encode(void *arg)
{
    job *j = arg;
    j->ids.n = 0;
    for (char *p = j->text, *end = p + j->n; p < end && !j->bad;) {
        char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = nl ? (size_t)(nl - p) + 1 : (size_t)(end - p);
        j->bad = ns_tok_encode(j->tok, &j->ids, p, n, 0, &j->err) != NS_OK;
        p += n;
    }
}

int main(int argc, char **argv)
{
    job j = {.err = NS_ERROR_INIT};
    if (argc != 4 || !(j.text = bench_read(argv[3], &j.n))) return bench_skip("tok.encode", "no tokenizer or text");
    double t0 = bench_now(), best, median;
    if (ns_tok_load(&j.tok, argv[2], &j.err) != NS_OK) return bench_fail(&j.err);
    double load = bench_now() - t0;
    char more[256];
    bench_time(&best, &median, encode, &j);
    if (j.bad) return bench_fail(&j.err);
    snprintf(more, sizeof more,
             "\"tokenizer\": \"%s\", \"bytes\": %zu, \"tokens\": %zu, \"threads\": 1, \"load_s\": %.3g", argv[1], j.n,
             j.ids.n, load);
    bench_line("tok.encode", more, (double)j.n / best / 1e6, "MB/s", best, median);
    ns_ids_free(&j.ids);
    ns_tok_free(&j.tok);
    free(j.text);
    return 0;
}
