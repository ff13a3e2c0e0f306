#include "base/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

typedef struct span {
    const char *name;
    ns_trace_lane lane;
    double began, ended;
    int64_t bytes;
} span;

struct ns_trace {
    char path[4096];
    FILE *f;
    int rank, capacity;
    double epoch; /* of the system's clock, at 0 of ns_time_now */
    span *spans;
    pthread_mutex_t lock; /* of spans and n: a thread may add while the main thread flushes */
    int n;                /* may pass the capacity: what is over is lost, and said */
};

static const char *const lanes[NS_TRACE_N_LANES] = {"compute", "communication", "communication behind computation"};

static ns_status rank_path(char *out, size_t size, const char *path, int rank, ns_error *err)
{
    int n = snprintf(out, size, "%s.rank%d", path, rank);
    NS_FAIL_IF(n < 0 || (size_t)n >= size, NS_ERR_CONFIG, "the path of the trace is too long: %s", path);
    return NS_OK;
}

ns_status ns_trace_open(ns_trace **out, const char *path, int rank, int capacity, ns_error *err)
{
    struct timespec now;
    ns_trace *t = NULL;
    ns_status st = NS_OK;
    NS_TRY(ns_alloc((void **)out, sizeof **out, "trace", err), "%s", "trace");
    t = *out;
    pthread_mutex_init(&t->lock, NULL);
    t->rank = rank;
    t->capacity = capacity;
    clock_gettime(CLOCK_REALTIME, &now);
    t->epoch = (double)now.tv_sec + (double)now.tv_nsec * 1e-9 - ns_time_now();
    NS_CHECK(st, ns_alloc((void **)&t->spans, (size_t)capacity * sizeof *t->spans, "trace", err), "%s", "trace");
    NS_CHECK(st, rank_path(t->path, sizeof t->path, path, rank, err), "%s", "trace");
    t->f = fopen(t->path, "we");
    NS_BAIL_IF(st, !t->f, NS_ERR_IO, "%s: create: %s", t->path, strerror(errno));
    fprintf(t->f, "{\"name\": \"process_name\", \"ph\": \"M\", \"pid\": %d, \"args\": {\"name\": \"rank %d\"}}", rank,
            rank);
    for (int l = 0; l < NS_TRACE_N_LANES; l++)
        fprintf(t->f,
                ",\n{\"name\": \"thread_name\", \"ph\": \"M\", \"pid\": %d, \"tid\": %d, \"args\": {\"name\": \"%s\"}}",
                rank, l, lanes[l]);
    return NS_OK;
done:
    ns_free(t->spans);
    ns_free(t);
    *out = NULL;
    return st;
}

void ns_trace_add(ns_trace *t, ns_trace_lane lane, const char *name, double began, double ended, int64_t bytes)
{
    if (!t) return;
    pthread_mutex_lock(&t->lock);
    const int i = t->n++;
    if (i < t->capacity) t->spans[i] = (span){name, lane, began, ended, bytes};
    pthread_mutex_unlock(&t->lock);
}

void ns_trace_span(ns_trace *t, ns_trace_lane lane, const char *name, double began, int64_t bytes)
{
    if (t) ns_trace_add(t, lane, name, began, ns_time_now(), bytes);
}

ns_status ns_trace_flush(ns_trace *t, ns_error *err)
{
    if (!t) return NS_OK;
    pthread_mutex_lock(&t->lock);
    const int n = t->n, kept = n < t->capacity ? n : t->capacity;
    for (int i = 0; i < kept; i++) {
        const span *s = &t->spans[i];
        fprintf(t->f, ",\n{\"name\": \"%s\", \"ph\": \"X\", \"pid\": %d, \"tid\": %d, \"ts\": %.1f, \"dur\": %.1f",
                s->name, t->rank, s->lane, (t->epoch + s->began) * 1e6, (s->ended - s->began) * 1e6);
        if (s->bytes) fprintf(t->f, ", \"args\": {\"bytes\": %" PRId64 "}", s->bytes);
        fputs("}", t->f);
    }
    if (n > kept)
        fprintf(t->f, ",\n{\"name\": \"%d more spans\", \"ph\": \"i\", \"pid\": %d, \"tid\": 0, \"ts\": %.1f}",
                n - kept, t->rank, (t->epoch + ns_time_now()) * 1e6);
    t->n = 0;
    pthread_mutex_unlock(&t->lock);
    NS_FAIL_IF(ferror(t->f), NS_ERR_IO, "%s: write: %s", t->path, strerror(errno));
    return NS_OK;
}

ns_status ns_trace_close(ns_trace **pt, ns_error *err)
{
    ns_trace *t = *pt;
    if (!t) return NS_OK;
    ns_status st = ns_trace_flush(t, err);
    if (fclose(t->f) != 0 && st == NS_OK)
        st = ns_error_set(err, NS_ERR_IO, __FILE__, __LINE__, "%s: write: %s", t->path, strerror(errno));
    pthread_mutex_destroy(&t->lock);
    ns_free(t->spans);
    ns_free(t);
    *pt = NULL;
    return st;
}

ns_status ns_trace_join(const char *path, int n_ranks, ns_error *err)
{
    char part[4096];
    ns_file *f = NULL;
    ns_buf text = {0};
    ns_status st = NS_OK;
    NS_TRY(ns_file_create(&f, path, err), "trace %s", path);
    NS_CHECK(st, ns_file_write(f, "{\"traceEvents\": [\n", 18, err), "%s", path);
    for (int r = 0; r < n_ranks; r++) {
        text.len = 0;
        NS_CHECK(st, rank_path(part, sizeof part, path, r, err), "%s", "trace");
        NS_CHECK(st, ns_file_read(&text, part, err), "trace of rank %d", r);
        if (r > 0) NS_CHECK(st, ns_file_write(f, ",\n", 2, err), "%s", path);
        NS_CHECK(st, ns_file_write(f, text.data, text.len, err), "%s", path);
    }
    NS_CHECK(st, ns_file_write(f, "\n]}\n", 4, err), "%s", path);
    NS_CHECK(st, ns_file_close(&f, err), "%s", path);
    for (int r = 0; r < n_ranks && rank_path(part, sizeof part, path, r, err) == NS_OK; r++) unlink(part);
done:
    if (f) ns_file_abort(&f);
    ns_buf_free(&text);
    return st;
}
