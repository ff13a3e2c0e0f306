#include "arch/part.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct slice { /* local rows are the blocks one after the other, then zero rows up to local_rows */
    int n;
    int64_t row0[3], rows[3], local_rows;
    int64_t col0, cols;
} slice;

static int64_t up(int64_t n, int64_t d)
{
    return (n + d - 1) / d;
}

ns_status ns_part_arch(ns_arch *mine, const ns_arch *a, int rank, int size, ns_error *err)
{
    *mine = *a;
    if (size == 1) return NS_OK;
    const struct {
        int64_t n;
        const char *what;
    } parts[] = {{a->n_heads, "attention heads"}, {a->n_kv, "key/value heads"}, {a->F, "ffn columns"}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].n % size == 0) continue;
        char good[64] = "1";
        for (int tp = 2, at = 1; tp <= 64 && at < 50; tp *= 2)
            if (a->n_heads % tp == 0 && a->n_kv % tp == 0 && a->F % tp == 0)
                at += snprintf(good + at, sizeof good - (size_t)at, ", %d", tp);
        NS_FAIL(NS_ERR_CONFIG,
                "tensor_model_parallel_size=%d does not divide the model's %" PRId64 " %s: use one of %s", size,
                parts[i].n, parts[i].what, good);
    }
    NS_FAIL_IF(a->o_bias || a->mlp_bias, NS_ERR_UNSUPPORTED, "%s",
               "tensor parallel with biases in o or mlp is not supported");
    int64_t first, n;
    ns_part_vocab(a, rank, size, &first, &n);
    mine->n_heads = a->n_heads / size;
    mine->n_kv = a->n_kv / size;
    mine->F = a->F / size;
    mine->vocab_rows = up(a->vocab_rows, size);
    mine->vocab = n;
    return NS_OK;
}

void ns_part_vocab(const ns_arch *a, int rank, int size, int64_t *first, int64_t *n)
{
    int64_t rows = up(a->vocab_rows, size), left = a->vocab - rows * rank;
    *first = rows * rank;
    *n = left < 0 ? 0 : left < rows ? left : rows;
}

static void block(slice *s, int64_t row0, int64_t rows, int rank, int size)
{
    s->row0[s->n] = row0 + rows / size * rank;
    s->rows[s->n] = rows / size;
    s->local_rows += s->rows[s->n++];
}

static slice slice_of(const ns_param_table *t, int param, int rank, int size)
{
    const ns_arch *a = t->arch;
    const ns_param *p = &t->params[param];
    int64_t q = a->n_heads * a->head_dim, kv = a->n_kv * a->head_dim;
    slice s = {.cols = p->cols};
    if (p->kind == NS_P_QKV || p->kind == NS_P_QKV_BIAS) {
        block(&s, 0, q, rank, size);
        block(&s, q, kv, rank, size);
        block(&s, q + kv, kv, rank, size);
    } else if (p->kind == NS_P_GATE_UP) {
        block(&s, 0, a->F, rank, size);
        block(&s, a->F, a->F, rank, size);
    } else if (p->tp == NS_SPLIT_ROWS) { /* the vocabulary */
        int64_t rows = up(p->rows, size), left = p->rows - rows * rank;
        s = (slice){.n = 1, .local_rows = rows, .cols = p->cols};
        s.row0[0] = rows * rank;
        s.rows[0] = left < 0 ? 0 : left < rows ? left : rows;
    } else {
        block(&s, 0, p->rows, 0, 1);
        if (p->tp == NS_SPLIT_COLS) {
            s.cols = p->cols / size;
            s.col0 = s.cols * rank;
        }
    }
    return s;
}

void ns_part_take(const ns_param_table *t, int param, int rank, int size, const float *global, float *local)
{
    const slice s = slice_of(t, param, rank, size);
    const int64_t wide = t->params[param].cols;
    int64_t at = 0;
    for (int b = 0; b < s.n; b++)
        for (int64_t r = 0; r < s.rows[b]; r++, at++)
            memcpy(local + at * s.cols, global + (s.row0[b] + r) * wide + s.col0, (size_t)s.cols * sizeof *local);
    memset(local + at * s.cols, 0, (size_t)((s.local_rows - at) * s.cols) * sizeof *local);
}

void ns_part_put(const ns_param_table *t, int param, int rank, int size, const float *local, float *global)
{
    const slice s = slice_of(t, param, rank, size);
    const int64_t wide = t->params[param].cols;
    int64_t at = 0;
    for (int b = 0; b < s.n; b++)
        for (int64_t r = 0; r < s.rows[b]; r++, at++)
            memcpy(global + (s.row0[b] + r) * wide + s.col0, local + at * s.cols, (size_t)s.cols * sizeof *local);
}

ns_status ns_part_layers(const ns_arch *a, int stage, int stages, int *first, int *n, ns_error *err)
{
    NS_FAIL_IF(stages > a->L, NS_ERR_CONFIG,
               "pipeline_model_parallel_size=%d: the model has %" PRId64
               " layers, a stage needs one: use at most %" PRId64,
               stages, a->L, a->L);
    const int each = (int)a->L / stages, more = (int)a->L % stages;
    *first = *n = 0;
    for (int s = 0; s <= stage; s++) {
        /* in the order 1, 2, .., stages-2, 0 */
        int turn = s == 0 ? stages - 2 : s - 1;
        *first += *n;
        *n = each + (s < stages - 1 && turn < more);
    }
    return NS_OK;
}

int ns_part_holds(const ns_param_table *t, int param, int first, int n)
{
    const ns_param *p = &t->params[param];
    const int last = first + n == (int)t->arch->L;
    if (p->layer >= 0) return p->layer >= first && p->layer < first + n;
    if (p->kind == NS_P_EMBED) return first == 0 || (last && t->arch->tied);
    return last;
}
