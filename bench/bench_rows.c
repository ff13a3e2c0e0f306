/* Reading rows: every row of a file (JSONL, packed, Parquet) as a line of JSON, one thread, CPU time; the rate counts the bytes of those lines.
 *     bench_rows FILE...         a figure for each
 *     bench_rows --print FILE    the rows themselves, for comparing with another reader */
#include "bench.h"

#include "base/json.h"

typedef struct job {
    const char *path;
    int print, bad;
    size_t rows, bytes;
    ns_error err;
} job;

static void read_all(void *arg)
{
    job *j = arg;
    ns_jsonl *r;
    const char *line = "", *where;
    size_t n;
    j->rows = j->bytes = 0;
    j->bad = ns_jsonl_open(&r, j->path, &j->err) != NS_OK;
    while (!j->bad && line) {
        j->bad = ns_jsonl_next_line(r, &line, &n, &where, &j->err) != NS_OK;
        if (j->bad || !line) break;
        j->rows++;
        j->bytes += n + 1;
        if (j->print) {
            fwrite(line, 1, n, stdout);
            putchar('\n');
        }
    }
    ns_jsonl_close(&r);
}

int main(int argc, char **argv)
{
    if (argc < 2) return bench_skip("rows.read", "no file of rows");
    int print = !strcmp(argv[1], "--print");
    for (int i = 1 + print; i < argc; i++) {
        job j = {.path = argv[i], .print = print, .err = NS_ERROR_INIT};
        double best, median;
        char more[4400];
        if (print)
            read_all(&j);
        else
            bench_time_by(bench_cpu, &best, &median, read_all, &j);
        if (j.bad) return bench_fail(&j.err);
        if (print) continue;
        snprintf(more, sizeof more, "\"file\": \"%s\", \"rows\": %zu, \"bytes\": %zu, \"threads\": 1", argv[i], j.rows,
                 j.bytes);
        bench_line("rows.read", more, (double)j.bytes / best / 1e6, "MB/s", best, median);
    }
    return 0;
}
