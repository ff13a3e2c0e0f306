/* The model's forward pass, one row of text at a time, on the processor. The model says before each layer that its weights are needed
 * (ns_model.weights_needed): then the buffers hold what the layer before made, and the live rows of them are looked at. */
#include "export/calibrate.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "ckpt/model_io.h"
#include "model/engine.h"
#include "tok/tok.h"

typedef struct job {
    const ns_calibrate_args *a;
    ns_trt_fp8_layer *layers;
    ns_calibrate_report *r;
    ns_engine e;
    ns_tok *tok;
} job;

/* Largest magnitude of columns [col0, col0+n) of the live rows; NaN if there is one. */
static void raise(float *most, const job *j, const void *p, int64_t cols, int64_t col0, int64_t n)
{
    size_t size = ns_dtype_size(j->e.opt.dt);
    for (int64_t t = 0; t < j->e.model.batch.n_tok; t++) {
        const char *row = (const char *)p + (size_t)(t * cols + col0) * size;
        for (int64_t i = 0; i < n; i++) {
            float x;
            ns_to_f32(&x, row + (size_t)i * size, j->e.opt.dt, 1);
            x = fabsf(x);
            if (!(x <= *most)) *most = x;
        }
    }
}

static void layer_ran(void *user, int next)
{
    job *j = user;
    const ns_arch *m = j->a->arch;
    int l = next - 1;
    if (l < 0) return;
    const ns_block_acts *b = &j->e.model.acts[l];
    ns_trt_fp8_layer *f = &j->layers[l];
    int64_t q = m->n_heads * m->head_dim, kv = m->n_kv * m->head_dim;
    raise(&f->x[NS_TRT_QKV], j, b->n1, m->C, 0, m->C);
    raise(&f->k, j, b->qkv, q + 2 * kv, q, kv);
    raise(&f->v, j, b->qkv, q + 2 * kv, q + kv, kv);
    raise(&f->x[NS_TRT_DENSE], j, b->att, q, 0, q);
    raise(&f->x[NS_TRT_GATE_UP], j, b->n2, m->C, 0, m->C);
    raise(&f->x[NS_TRT_DOWN], j, b->act, m->F, 0, m->F);
}

static ns_status start(job *j, ns_error *err)
{
    int64_t T = j->a->most_tokens;
    ns_model_options o = {.dt = j->a->dt == NS_DTYPE_BF16 ? NS_DTYPE_BF16 : NS_DTYPE_F32,
                          .T_cap = T,
                          .S_cap = 1,
                          .max_len = T,
                          .n_slots = 1,
                          .accelerator = "cpu"};
    NS_TRY(ns_engine_plan(&j->e, j->a->arch, &o, NULL, 0, err), "plan");
    NS_TRY(ns_engine_start(&j->e, err), "start");
    NS_TRY(ns_model_read(j->a->model, &j->e.table, ns_engine_put, &j->e, err), "model %s", j->a->model);
    ns_engine_loaded(&j->e);
    j->e.model.weights_needed = layer_ran;
    j->e.model.weights_user = j;
    return NS_OK;
}

static void run(job *j, const int32_t *ids, int64_t n)
{
    ns_model *m = &j->e.model;
    ns_batch *b = &m->batch;
    for (int64_t i = 0; i < j->a->most_tokens; i++) {
        b->ids[i] = i < n ? ids[i] : 0;
        b->position[i] = i < n ? (int32_t)i : 0;
    }
    b->cu_seqlens[0] = 0;
    b->cu_seqlens[1] = b->n_tok = (int32_t)n;
    b->n_seg = 1;
    b->max_len = (int32_t)n;
    ns_model_set_rows(m, n);
    ns_model_forward(m, &j->e.exec, 0);
}

static ns_status text_of(ns_buf *b, const ns_json *row, const char *where, ns_error *err)
{
    static const char *const keys[] = {"text", "input", "output"};
    ns_buf_clear(b);
    for (int k = 0; k < 3 && !(k == 1 && b->len); k++) {
        const ns_json *v = ns_json_get(row, keys[k]);
        if (v && v->type == NS_JSON_STRING) NS_TRY(ns_buf_add(b, v->s.p, v->s.n, err), "%s", "");
    }
    NS_FAIL_IF(!b->len, NS_ERR_INPUT, "%s: no text: expected \"text\", or \"input\" and \"output\"", where);
    return NS_OK;
}

static ns_status run_row(job *j, const char *text, size_t n, const char *where, ns_error *err)
{
    ns_ids ids = {0};
    ns_status st = ns_tok_encode(j->tok, &ids, text, n, NS_TOK_ADD_SPECIAL, err);
    int64_t k = (int64_t)ids.n < j->a->most_tokens ? (int64_t)ids.n : j->a->most_tokens;
    for (int64_t i = 0; st == NS_OK && i < k; i++)
        if (ids.v[i] >= j->a->arch->vocab)
            st = ns_error_set(err, NS_ERR_MISMATCH, __FILE__, __LINE__,
                              "%s: token %d lies behind the model's vocabulary of %lld: is this its tokenizer?", where,
                              ids.v[i], (long long)j->a->arch->vocab);
    if (st == NS_OK && k > 0) {
        run(j, ids.v, k);
        j->r->n_rows++;
        j->r->n_tokens += k;
        j->r->n_cut += (int64_t)ids.n > k;
    }
    ns_ids_free(&ids);
    if (st == NS_OK && j->e.exec.err.code != NS_OK) {
        if (err) *err = j->e.exec.err;
        st = j->e.exec.err.code;
    }
    return st;
}

static ns_status run_rows(job *j, ns_error *err)
{
    ns_jsonl *in = NULL;
    ns_buf text = {0};
    ns_arena arena = NS_ARENA_INIT("calibrate");
    const char *line, *where;
    size_t n;
    ns_status st = NS_OK;
    ns_progress *progress = ns_progress_begin("calibrate", (double)j->a->most_rows, "rows");
    NS_CHECK(st, ns_jsonl_open(&in, j->a->rows, err), "calibrate");
    ns_jsonl_allow_trailing_blank(in);
    for (int64_t k = 0; k < j->a->most_rows; k++) {
        ns_json *row;
        NS_CHECK(st, ns_jsonl_next_line(in, &line, &n, &where, err), "calibrate");
        if (!line) break;
        NS_CHECK(st, ns_json_parse(&row, &arena, line, n, where, 0, err), "calibrate");
        NS_CHECK(st, text_of(&text, row, where, err), "calibrate");
        NS_CHECK(st, run_row(j, text.data, text.len, where, err), "%s", where);
        ns_progress_set(progress, (double)(k + 1), NULL);
        ns_arena_free(&arena);
    }
    NS_BAIL_IF(st, !j->r->n_tokens, NS_ERR_INPUT, "%s: no rows to calibrate with", j->a->rows);
done:
    ns_progress_end(&progress, NULL);
    ns_jsonl_close(&in);
    ns_buf_free(&text);
    ns_arena_free(&arena);
    return st;
}

static ns_status check(const job *j, ns_error *err)
{
    static const char *const what[] = {"", "attention.qkv", "attention.dense", "mlp.fc and mlp.gate", "mlp.proj"};
    for (int64_t l = 0; l < j->a->arch->L; l++)
        for (int k = NS_TRT_QKV; k < NS_TRT_KINDS; k++) {
            float x = j->layers[l].x[k];
            NS_FAIL_IF(!(x > 0) || !isfinite(x), NS_ERR_NUMERIC,
                       "layer %lld: the inputs of %s reach %g over %lld tokens: no scale can be made of that: is the "
                       "model whole, are the rows text?",
                       (long long)l, what[k], (double)x, (long long)j->r->n_tokens);
        }
    return NS_OK;
}

ns_status ns_calibrate(ns_trt_fp8_layer *layers, const ns_calibrate_args *a, ns_calibrate_report *r, ns_error *err)
{
    job *j = NULL;
    ns_status st = NS_OK;
    memset(r, 0, sizeof *r);
    NS_FAIL_IF(!a->tokenizer, NS_ERR_INPUT, "%s has no tokenizer: --hf_model_name FOLDER gives one to read %s with",
               a->model, a->rows);
    NS_TRY(ns_alloc((void **)&j, sizeof *j, "calibrate", err), "calibrate");
    j->a = a;
    j->layers = layers;
    j->r = r;
    NS_CHECK(st, ns_tok_load(&j->tok, a->tokenizer, err), "calibrate");
    NS_CHECK(st, start(j, err), "calibrate");
    NS_CHECK(st, run_rows(j, err), "%s", "");
    NS_CHECK(st, check(j, err), "calibrate");
done:
    ns_engine_free(&j->e);
    ns_tok_free(&j->tok);
    ns_free(j);
    return st;
}
