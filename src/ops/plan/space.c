/* Spaces and the plan record: fake addresses while planning, offsets by lifetime, real addresses when running (space.h).
 *
 * Fake addresses start at FAKE_BASE and grow; buffer k owns [fake_k, fake_k + size). A use recorded at op number t widens
 * the lifetime [first, last] of the buffer that contains the address. Fit is greedy by size (largest first, each at the
 * lowest offset free of the buffers whose lifetimes overlap): deterministic, and within a few per cent of the peak sum. */
#include "ops/space.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define FAKE_BASE ((uintptr_t)1 << 46)

typedef struct space_buf {
    char label[64];
    int64_t bytes, offset;
    ns_life life;
    uintptr_t fake;
    int64_t first, last; /* op numbers of first and last use; first > last: never used */
} space_buf;

typedef struct op_sum {
    char name[24];
    int64_t count;
    double flops, bytes;
} op_sum;

struct ns_plan {
    space_buf *bufs;
    size_t n, cap;
    uintptr_t next_fake;
    int64_t op_no;
    op_sum sums[48];
    int n_sums;
    double flops, bytes;
    int64_t run_bytes, step_bytes, total;
};

struct ns_space {
    ns_plan plan;
    char *memory; /* NULL: planning */
    int bound;
    size_t next; /* take number after bind */
    ns_status failed;
};

static int64_t round_up(int64_t n)
{
    return (n + NS_ALIGN - 1) / NS_ALIGN * NS_ALIGN;
}

ns_status ns_space_new(ns_space **out, ns_error *err)
{
    NS_TRY(ns_alloc((void **)out, sizeof **out, "space", err), "%s", "new space");
    (*out)->plan.next_fake = FAKE_BASE;
    return NS_OK;
}

void ns_space_free(ns_space **s)
{
    if (!*s) return;
    ns_free((*s)->plan.bufs);
    ns_free(*s);
    *s = NULL;
}

ns_plan *ns_space_plan(ns_space *s)
{
    return &s->plan;
}

void *ns_space_take(ns_space *s, const char *label, int64_t bytes, ns_life life)
{
    NS_ASSERT(bytes >= 0);
    if (bytes == 0) return NULL; /* using a buffer of size zero must fail loudly */
    ns_plan *p = &s->plan;
    if (s->bound) {
        NS_ASSERT(s->next < p->n);
        const space_buf *b = &p->bufs[s->next++];
        NS_ASSERT(b->bytes == bytes && strncmp(b->label, label, sizeof b->label - 1) == 0);
        return s->memory + b->offset;
    }
    if (ns_grow((void **)&p->bufs, &p->cap, p->n + 1, sizeof *p->bufs, "space.table", NULL) != NS_OK) {
        s->failed = NS_ERR_MEMORY;
        return NULL;
    }
    space_buf *b = &p->bufs[p->n++];
    memset(b, 0, sizeof *b);
    strncpy(b->label, label, sizeof b->label - 1);
    b->bytes = bytes;
    b->life = life;
    b->fake = p->next_fake;
    b->first = INT64_MAX;
    b->last = -1;
    p->next_fake += (uintptr_t)round_up(bytes) + 4096; /* gap: an overrun lands in no buffer */
    return (void *)b->fake;
}

void ns_plan_op(ns_plan *p, const char *op, double flops, double bytes)
{
    p->op_no++;
    p->flops += flops;
    p->bytes += bytes;
    int i = 0;
    while (i < p->n_sums && strcmp(p->sums[i].name, op) != 0) i++;
    if (i == p->n_sums) {
        if (p->n_sums == (int)(sizeof p->sums / sizeof p->sums[0])) return;
        strncpy(p->sums[i].name, op, sizeof p->sums[i].name - 1);
        p->n_sums++;
    }
    p->sums[i].count++;
    p->sums[i].flops += flops;
    p->sums[i].bytes += bytes;
}

int ns_plan_get_op(const ns_plan *p, int i, const char **name, int64_t *count, double *flops, double *bytes)
{
    if (i < 0 || i >= p->n_sums) return 0;
    *name = p->sums[i].name;
    *count = p->sums[i].count;
    *flops = p->sums[i].flops;
    *bytes = p->sums[i].bytes;
    return 1;
}

void ns_plan_touch(ns_plan *p, const void *addr, int64_t bytes)
{
    uintptr_t a = (uintptr_t)addr;
    if (!addr || a < FAKE_BASE || a >= p->next_fake) return; /* host arrays are not planned */
    size_t lo = 0, hi = p->n;                                /* last buffer with fake <= a */
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (p->bufs[mid].fake <= a)
            lo = mid;
        else
            hi = mid;
    }
    space_buf *b = &p->bufs[lo];
    NS_ASSERT(a + (uintptr_t)bytes <= b->fake + (uintptr_t)b->bytes); /* an op overruns its buffer */
    if (p->op_no < b->first) b->first = p->op_no;
    if (p->op_no > b->last) b->last = p->op_no;
}

static int by_size_desc(const void *x, const void *y)
{
    const space_buf *a = *(const space_buf *const *)x, *b = *(const space_buf *const *)y;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? 1 : -1;
    return a->fake < b->fake ? -1 : 1;
}

static int overlaps(const space_buf *a, const space_buf *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* Lowest offset at which `b` meets no placed buffer that is alive at the same time. */
static int64_t place(space_buf *const *placed, size_t n, const space_buf *b)
{
    int64_t at = 0;
    for (int moved = 1; moved;) {
        moved = 0;
        for (size_t i = 0; i < n; i++) {
            const space_buf *o = placed[i];
            if (overlaps(o, b) && at < o->offset + round_up(o->bytes) && o->offset < at + round_up(b->bytes)) {
                at = o->offset + round_up(o->bytes);
                moved = 1;
            }
        }
    }
    return at;
}

ns_status ns_space_fit(ns_space *s, int64_t *total, ns_error *err)
{
    ns_plan *p = &s->plan;
    NS_FAIL_IF(s->failed, NS_ERR_MEMORY, "out of memory while planning %zu buffers", p->n);
    space_buf **order = NULL;
    NS_TRY(ns_alloc((void **)&order, (p->n + 1) * sizeof *order, "space.order", err), "%s", "fit");
    int64_t run = 0, step = 0;
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++) {
        space_buf *b = &p->bufs[i];
        if (b->life == NS_LIFE_RUN) {
            b->offset = run;
            run += round_up(b->bytes);
        } else {
            if (b->first > b->last) b->first = 0, b->last = p->op_no; /* never used: keep apart, visible in the table */
            order[n++] = b;
        }
    }
    qsort(order, n, sizeof *order, by_size_desc);
    for (size_t i = 0; i < n; i++) {
        order[i]->offset = place(order, i, order[i]);
        int64_t end = order[i]->offset + round_up(order[i]->bytes);
        if (end > step) step = end;
    }
    for (size_t i = 0; i < n; i++) order[i]->offset += run;
    ns_free(order);
    p->run_bytes = run;
    p->step_bytes = step;
    p->total = run + step;
    *total = p->total;
    return NS_OK;
}

void ns_space_bind(ns_space *s, void *memory)
{
    s->memory = memory;
    s->bound = 1;
    s->next = 0;
}

ns_plan_totals ns_plan_get_totals(const ns_plan *p)
{
    ns_plan_totals t = {p->flops, p->bytes, p->op_no, p->run_bytes, p->step_bytes, 0, p->total};
    for (size_t i = 0; i < p->n; i++)
        if (p->bufs[i].life == NS_LIFE_STEP) t.step_bytes_unshared += round_up(p->bufs[i].bytes);
    return t;
}

/* The part of a label before the first dot: what the table sums by. */
static size_t group_len(const char *label)
{
    const char *dot = strchr(label, '.');
    return dot ? (size_t)(dot - label) : strlen(label);
}

ns_status ns_plan_table(const ns_plan *p, ns_buf *out, int json, ns_error *err)
{
    if (json) NS_TRY(ns_buf_adds(out, "{\"buffers\": {", err), "%s", "plan");
    int first = 1;
    for (size_t i = 0; i < p->n; i++) {
        const char *label = p->bufs[i].label;
        size_t g = group_len(label);
        int seen = 0;
        for (size_t j = 0; j < i && !seen; j++)
            seen = group_len(p->bufs[j].label) == g && !strncmp(p->bufs[j].label, label, g);
        if (seen) continue;
        int64_t sum = 0;
        for (size_t j = i; j < p->n; j++)
            if (group_len(p->bufs[j].label) == g && !strncmp(p->bufs[j].label, label, g))
                sum += round_up(p->bufs[j].bytes);
        if (json)
            NS_TRY(ns_buf_printf(out, err, "%s\"%.*s\": %" PRId64, first ? "" : ", ", (int)g, label, sum), "%s",
                   "plan");
        else
            NS_TRY(ns_buf_printf(out, err, "  %-16.*s %12.3f MB\n", (int)g, label, (double)sum / 1e6), "%s", "plan");
        first = 0;
    }
    ns_plan_totals t = ns_plan_get_totals(p);
    if (json) {
        NS_TRY(ns_buf_printf(out, err, "}, \"total_bytes\": %" PRId64 ", \"flops\": %.0f, \"ops\": {", t.total_bytes,
                             t.flops),
               "%s", "plan");
        for (int i = 0; i < p->n_sums; i++)
            NS_TRY(ns_buf_printf(out, err, "%s\"%s\": {\"calls\": %" PRId64 ", \"flops\": %.0f, \"bytes\": %.0f}",
                                 i ? ", " : "", p->sums[i].name, p->sums[i].count, p->sums[i].flops, p->sums[i].bytes),
                   "%s", "plan");
        NS_TRY(ns_buf_adds(out, "}}\n", err), "%s", "plan");
        return NS_OK;
    }
    NS_TRY(ns_buf_printf(out, err, "  %-16s %12.3f MB  (step buffers %.3f MB, %.3f MB without sharing)\n", "total",
                         (double)t.total_bytes / 1e6, (double)t.step_bytes / 1e6, (double)t.step_bytes_unshared / 1e6),
           "%s", "plan");
    return NS_OK;
}
