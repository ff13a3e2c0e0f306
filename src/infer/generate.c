/* See generate.h. Slot states: free --next prompt--> filling (pos < n_ids) --last prompt token done--> producing --eos, stop
 * phrase, max_new--> free. */
#include "infer/generate.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "ckpt/model_io.h"
#include "tok/unicode.h"

typedef struct ns_slot {
    int64_t prompt;        /* number of the prompt, -1 free */
    ns_ids ids;            /* prompt and generated tokens */
    int64_t n_prompt, pos; /* prompt tokens; tokens already in the cache */
    ns_buf text;           /* generated text so far */
    int64_t sent;          /* tokens of this slot in the present pass */
} ns_slot;

ns_status ns_generator_open(ns_generator *g, const char *dir, const ns_generate_options *o, int64_t longest_prompt,
                            ns_error *err)
{
    char path[4096];
    memset(g, 0, sizeof *g);
    g->opt = *o;
    NS_TRY(ns_model_arch(&g->arch, dir, err), "model %s", dir);
    NS_TRY(ns_model_tokenizer_dir(path, sizeof path, dir, err), "model %s", dir);
    NS_TRY(ns_tok_load(&g->tok, path, err), "tokenizer of %s", dir);
    NS_FAIL_IF(ns_tok_vocab_size(g->tok) > g->arch.vocab_rows, NS_ERR_MISMATCH,
               "%s: the tokenizer has %" PRId64 " tokens, the model %" PRId64 " rows", dir, ns_tok_vocab_size(g->tok),
               g->arch.vocab_rows);
    g->context = longest_prompt + o->max_new;
    NS_FAIL_IF(g->context > g->arch.max_pos, NS_ERR_CONFIG,
               "longest prompt %" PRId64 " + %" PRId64 " new tokens exceed the model's %" PRId64
               " positions: lower inference.tokens_to_generate",
               longest_prompt, o->max_new, g->arch.max_pos);
    int64_t pass = o->pass_tokens > o->slots ? o->pass_tokens : o->slots;
    ns_model_options m = {.dt = o->f32 || g->arch.dt != NS_DTYPE_BF16 ? NS_DTYPE_F32 : NS_DTYPE_BF16,
                          .T_cap = pass,
                          .S_cap = o->slots,
                          .max_len = g->context > pass ? g->context : pass,
                          .n_slots = 1,
                          .kv_rows = o->slots * g->context};
    NS_TRY(ns_engine_plan(&g->engine, &g->arch, &m, o->isa, o->threads, err), "plan");
    NS_TRY(ns_engine_start(&g->engine, err), "start");
    NS_TRY(ns_model_read(dir, &g->engine.table, ns_engine_put, &g->engine, err), "model %s", dir);
    ns_engine_loaded(&g->engine);
    NS_TRY(ns_alloc((void **)&g->logits, (size_t)(o->slots * g->arch.vocab) * sizeof(float), "infer.logits", err),
           "logits");
    NS_TRY(ns_alloc((void **)&g->slots, (size_t)o->slots * sizeof *g->slots, "infer.slots", err), "slots");
    for (int64_t i = 0; i < o->slots; i++) g->slots[i].prompt = -1;
    return NS_OK;
}

void ns_generator_close(ns_generator *g)
{
    for (int64_t i = 0; g->slots && i < g->opt.slots; i++) {
        ns_ids_free(&g->slots[i].ids);
        ns_buf_free(&g->slots[i].text);
    }
    ns_free(g->slots);
    ns_free(g->logits);
    ns_tok_free(&g->tok);
    ns_engine_free(&g->engine);
    memset(g, 0, sizeof *g);
}

/* Writes the pass into the model's batch arrays; returns its segments, slot of each in order[]. */
static int64_t compose(ns_generator *g, int64_t *order)
{
    ns_model *m = &g->engine.model;
    ns_batch *b = &m->batch;
    int64_t n_seg = 0, t = 0, room = m->opt.T_cap;
    /* sequences that produce come first: one token each, always fits since T_cap >= slots */
    for (int round = 0; round < 2; round++) {
        for (int64_t s = 0; s < g->opt.slots; s++) {
            ns_slot *k = &g->slots[s];
            if (k->prompt < 0 || (k->pos >= k->n_prompt) != (round == 0)) continue;
            int64_t want = (int64_t)k->ids.n - k->pos, left = room - t, len = want < left ? want : left;
            k->sent = len;
            if (len == 0) continue;
            b->cu_seqlens[n_seg] = (int32_t)t;
            m->kv_start[n_seg] = (int32_t)(s * g->context);
            m->kv_len[n_seg] = (int32_t)(k->pos + len);
            for (int64_t i = 0; i < len; i++, t++) {
                b->ids[t] = k->ids.v[k->pos + i];
                b->position[t] = (int32_t)(k->pos + i);
                m->kv_row[t] = (int32_t)(s * g->context + k->pos + i);
            }
            order[n_seg++] = s;
        }
    }
    for (int64_t i = n_seg; i <= b->S_cap; i++) b->cu_seqlens[i] = (int32_t)t;
    for (int64_t i = n_seg; i < b->S_cap; i++) m->kv_start[i] = m->kv_len[i] = 0;
    for (int64_t i = t; i < b->T_cap && i < t + 32; i++) { /* rows up to the next tile */
        b->ids[i] = 0;
        b->position[i] = 0;
        m->kv_row[i] = -1;
    }
    b->n_tok = (int32_t)t;
    b->n_seg = (int32_t)n_seg;
    ns_model_set_rows(m, (t + 31) / 32 * 32 < b->T_cap ? (t + 31) / 32 * 32 : b->T_cap);
    return n_seg;
}

static int32_t argmax(const float *v, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (v[i] > v[best]) best = i;
    return (int32_t)best;
}

static int is_eos(const ns_generator *g, int32_t id)
{
    if (g->opt.ignore_eos) return 0;
    for (int i = 0; i < g->arch.n_eos; i++)
        if (g->arch.eos[i] == id) return 1;
    return id == ns_tok_eos(g->tok);
}

/* Position of the earliest stop phrase in the text, or -1. */
static int64_t find_stop(const ns_generator *g, const ns_buf *text)
{
    int64_t at = -1;
    for (size_t i = 0; i < g->opt.n_stops && text->len; i++) {
        const char *p = memmem(text->data, text->len, g->opt.stops[i], strlen(g->opt.stops[i]));
        if (p && (at < 0 || p - text->data < at)) at = p - text->data;
    }
    return at;
}

/* A model may say any bytes, and the token limit may cut a character: what is handed on is well-formed. */
static ns_status finish(ns_slot *k, size_t text_len, ns_done_fn done, void *user, ns_error *err)
{
    int64_t n_new = (int64_t)k->ids.n - k->n_prompt, i = k->prompt;
    k->prompt = -1;
    k->ids.n = 0;
    ns_buf text = {0};
    ns_status st = ns_utf8_repair(&text, (const uint8_t *)k->text.data, text_len, err);
    if (st == NS_OK) st = done(user, i, text.data ? text.data : "", text.len, n_new, err);
    ns_buf_free(&text);
    return st;
}

/* The slot's newest logits: one more token, or the end. */
static ns_status advance(ns_generator *g, ns_slot *k, const float *logits, ns_done_fn done, void *user, ns_error *err)
{
    /* a model may have more rows than its tokenizer has tokens (padding): those are never drawn */
    int64_t n_tokens = ns_tok_vocab_size(g->tok);
    int32_t id = argmax(logits, n_tokens < g->arch.vocab ? n_tokens : g->arch.vocab);
    NS_TRY(ns_grow((void **)&k->ids.v, &k->ids.cap, k->ids.n + 1, sizeof *k->ids.v, "infer.ids", err), "%s", "token");
    k->ids.v[k->ids.n++] = id;
    g->n_new_tokens++;
    if (is_eos(g, id)) return finish(k, k->text.len, done, user, err);
    /* special tokens are kept in the text: templates name them as stop phrases */
    NS_TRY(ns_tok_decode(g->tok, &k->text, &id, 1, 0, err), "decode");
    int64_t stop = find_stop(g, &k->text);
    if (stop >= 0) return finish(k, (size_t)stop, done, user, err);
    if ((int64_t)k->ids.n - k->n_prompt >= g->opt.max_new) {
        g->n_truncated++;
        return finish(k, k->text.len, done, user, err);
    }
    return NS_OK;
}

static ns_status fill_slots(ns_generator *g, int64_t n, int64_t *next, int64_t *active, ns_prompt_fn prompt, void *user,
                            ns_error *err)
{
    *active = 0;
    for (int64_t s = 0; s < g->opt.slots; s++) {
        ns_slot *k = &g->slots[s];
        if (k->prompt < 0 && *next < n) {
            k->prompt = (*next)++;
            k->ids.n = 0;
            k->pos = 0;
            ns_buf_clear(&k->text);
            NS_TRY(prompt(user, k->prompt, &k->ids, err), "prompt %" PRId64, k->prompt);
            k->n_prompt = (int64_t)k->ids.n;
            g->n_prompt_tokens += k->n_prompt;
            NS_FAIL_IF(k->n_prompt == 0, NS_ERR_INPUT, "prompt %" PRId64 " is empty", k->prompt);
            NS_FAIL_IF(k->n_prompt + g->opt.max_new > g->context, NS_ERR_INTERNAL,
                       "prompt %" PRId64 " is longer than announced", k->prompt);
        }
        *active += k->prompt >= 0;
    }
    return NS_OK;
}

ns_status ns_generate(ns_generator *g, int64_t n, ns_prompt_fn prompt, ns_done_fn done, void *user, ns_error *err)
{
    int64_t next = 0, active = 0;
    int64_t *order = NULL;
    int32_t *rows = NULL;
    ns_model *m = &g->engine.model;
    ns_status st;
    NS_CHECK(st, ns_alloc((void **)&order, (size_t)g->opt.slots * sizeof *order, "infer.order", err), "%s", "pass");
    NS_CHECK(st, ns_alloc((void **)&rows, (size_t)g->opt.slots * sizeof *rows, "infer.rows", err), "%s", "pass");
    for (;;) {
        NS_CHECK(st, fill_slots(g, n, &next, &active, prompt, user, err), "%s", "prompts");
        if (!active) break;
        int64_t n_seg = compose(g, order), n_out = 0;
        ns_model_forward(m, &g->engine.exec, 0);
        g->n_passes++;
        for (int64_t i = 0; i < n_seg; i++) {
            ns_slot *k = &g->slots[order[i]];
            k->pos += k->sent;
            if (k->pos < (int64_t)k->ids.n) continue; /* prompt not finished: no logits wanted */
            rows[n_out] = m->batch.cu_seqlens[i + 1] - 1;
            order[n_out++] = order[i];
        }
        ns_model_logits(m, &g->engine.exec, rows, n_out, g->logits);
        NS_BAIL_IF(st, g->engine.exec.err.code != NS_OK, g->engine.exec.err.code, "%s", g->engine.exec.err.msg);
        for (int64_t i = 0; i < n_out; i++)
            NS_CHECK(st, advance(g, &g->slots[order[i]], g->logits + i * g->arch.vocab, done, user, err), "%s",
                     "token");
    }
done:
    ns_free(order);
    ns_free(rows);
    return st;
}
