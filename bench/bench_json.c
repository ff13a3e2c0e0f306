/* JSON throughput: every line of a JSONL file parsed into a tree (ns_json_parse), and the trees written again, one thread.
 *     bench_json FILE.jsonl */
#include "bench.h"

#include "base/json.h"

typedef struct job {
    char *text;
    size_t n, rows;
    ns_arena arena;
    ns_json **tree; /* [rows], of the last parse */
    ns_buf out;
    ns_error err;
    int bad;
} job;

static void parse(void *arg)
{
    job *j = arg;
    ns_arena_free(&j->arena);
    size_t row = 0;
    for (char *p = j->text, *end = p + j->n; p < end; row++) {
        char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((nl ? nl : end) - p);
        if (ns_json_parse(&j->tree[row], &j->arena, p, n, "bench", 0, &j->err) != NS_OK) {
            j->bad = 1;
            return;
        }
        p += n + 1;
    }
}

static void write_back(void *arg)
{
    job *j = arg;
    ns_buf_clear(&j->out);
    for (size_t i = 0; i < j->rows && !j->bad; i++)
        j->bad = ns_json_write(&j->out, j->tree[i], NS_JSON_UTF8, &j->err) != NS_OK;
}

int main(int argc, char **argv)
{
    job j = {.arena = NS_ARENA_INIT("bench.json"), .err = NS_ERROR_INIT};
    if (argc != 2 || !(j.text = bench_read(argv[1], &j.n))) return bench_skip("json.parse", "no JSONL file");
    for (size_t i = 0; i < j.n; i++) j.rows += j.text[i] == '\n';
    j.rows += j.n && j.text[j.n - 1] != '\n';
    j.tree = calloc(j.rows + 1, sizeof *j.tree);
    if (!j.tree) return 1;
    double best, median;
    char more[128];
    bench_time(&best, &median, parse, &j);
    if (j.bad) return bench_fail(&j.err);
    snprintf(more, sizeof more, "\"rows\": %zu, \"bytes\": %zu, \"threads\": 1", j.rows, j.n);
    bench_line("json.parse", more, (double)j.n / best / 1e6, "MB/s", best, median);
    bench_time(&best, &median, write_back, &j);
    if (j.bad) return bench_fail(&j.err);
    snprintf(more, sizeof more, "\"rows\": %zu, \"bytes\": %zu, \"threads\": 1", j.rows, j.out.len);
    bench_line("json.write", more, (double)j.out.len / best / 1e6, "MB/s", best, median);
    ns_arena_free(&j.arena);
    ns_buf_free(&j.out);
    free(j.tree);
    free(j.text);
    return 0;
}
