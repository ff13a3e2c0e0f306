/* The plug-in: fills the op table with CUDA. Matrix products go to cuBLASLt (opened here, at run time), everything else to the
 * kernels behind kernels.h. One stream; no op waits for the device but download (and every op when NS_CUDA_SYNC=1, so that a
 * failure names its op). Memory of ops is the caller's; this file owns a workspace for cuBLASLt and pinned copy buffers.
 *
 * Determinism: the algorithm of a product follows from its shape and alignment by cuBLASLt's heuristic (first answer, no
 * timing, no in-place split-K), is kept for the run, and is the same in every run on the same GPU and library. Where bits may
 * differ from run to run (ns_exec.any_order), the fastest of the heuristic's answers is found at a product's first use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cuda/device/plugin_priv.h"

/* ---- rows ---- */
static int is_bf16(ns_dtype t)
{
    return t == NS_DTYPE_BF16;
}
static void embed_fwd(ns_exec *x, const ns_embed_args *a)
{
    nsk_embed_fwd(stream(x), is_bf16(a->dt), is_bf16(a->table->dt), a->T, a->C, a->ids, a->table->data, a->x);
    check(x, "embed_fwd", a->T, a->C, a->V);
}
static void embed_bwd(ns_exec *x, const ns_embed_args *a)
{
    if (!a->table->grad || !need_work(x, nsk_embed_bwd_work(a->T, a->V), "embed_bwd")) return;
    nsk_embed_bwd(stream(x), is_bf16(a->dt), a->T, a->C, a->V, a->ids, a->dx, a->table->grad, x->work);
    check(x, "embed_bwd", a->T, a->C, a->V);
}
static void norm_fwd(ns_exec *x, const ns_norm_args *a)
{
    nsk_norm_fwd(stream(x), is_bf16(a->dt), is_bf16(a->w->dt), a->T, a->C, a->eps, a->plus_one, a->w->data, a->x,
                 a->delta, a->h, a->y, a->rstd);
    check(x, "norm_fwd", a->T, a->C, 0);
}
static void norm_bwd(ns_exec *x, const ns_norm_bwd_args *a)
{
    if (a->w->grad && !need_work(x, nsk_norm_bwd_work(a->T, a->C), "norm_bwd")) return;
    nsk_norm_bwd(stream(x), is_bf16(a->dt), is_bf16(a->w->dt), a->T, a->C, a->plus_one, a->w->data, a->w->grad, a->h,
                 a->rstd, a->dy, a->dres, a->dh, a->y, x->work);
    check(x, "norm_bwd", a->T, a->C, 0);
}
static void rope(ns_exec *x, const ns_rope_args *a)
{
    nsk_rope(stream(x), is_bf16(a->dt), a->T, a->n_heads, a->head_dim, a->row_stride, a->rot_dim, a->position,
             a->cos_sin, a->qk, a->inverse);
    check(x, "rope", a->T, a->n_heads, a->head_dim);
}
static void act_fwd(ns_exec *x, const ns_act_args *a)
{
    nsk_act_fwd(stream(x), is_bf16(a->dt), (int)a->act, a->T, a->F, a->x, a->y);
    check(x, "act_fwd", a->T, a->F, 0);
}
static void act_bwd(ns_exec *x, const ns_act_args *a)
{
    nsk_act_bwd(stream(x), is_bf16(a->dt), (int)a->act, a->T, a->F, a->x, a->dy, a->dx, a->y);
    check(x, "act_bwd", a->T, a->F, 0);
}
static void dropout(ns_exec *x, const ns_dropout_args *a)
{
    nsk_dropout(stream(x), is_bf16(a->dt), a->T, a->C, a->p, a->op << 24 | a->layer, a->token0, x->key.k[0],
                x->key.k[1], &x->step->dropout_step, a->x, a->y, a->token, a->c0);
    check(x, "dropout", a->T, a->C, 0);
}
static void add(ns_exec *x, const ns_add_args *a)
{
    nsk_add(stream(x), is_bf16(a->dt), a->n, a->x, a->delta, a->y);
    check(x, "add", a->n, 0, 0);
}
static void scatter_rows(ns_exec *x, const ns_scatter_args *a)
{
    nsk_scatter(stream(x), is_bf16(a->dt) ? 2 : 4, a->T, a->cols, a->src, a->src_stride, a->dst, a->row,
                a->dst_stride ? a->dst_stride : a->cols);
    check(x, "scatter_rows", a->T, a->cols, 0);
}
static void zero(ns_exec *x, const ns_fill_args *a)
{
    if (a->bytes > 0) (void)cudaMemsetAsync(a->p, 0, (size_t)a->bytes, dev_of(x)->stream);
    check(x, "zero", a->bytes, 0, 0);
}

/* ---- attention ---- */
static nsk_attn attn_of(ns_exec *x, const ns_attn_args *a)
{
    return (nsk_attn){a->T,
                      a->T_kv,
                      a->n_seg,
                      a->max_q,
                      a->max_kv,
                      a->n_heads,
                      a->n_kv,
                      a->head_dim,
                      is_bf16(a->dt),
                      a->causal,
                      a->scale,
                      a->softcap,
                      a->window,
                      a->cu_q,
                      a->kv_start,
                      a->kv_len,
                      a->q,
                      a->k,
                      a->v,
                      a->q_stride,
                      a->k_stride,
                      a->v_stride,
                      a->out,
                      a->lse,
                      a->dout,
                      a->dq,
                      a->dk,
                      a->dv,
                      x->work,
                      x->work_bytes,
                      a->live_seg,
                      a->live_len,
                      a->live_rows,
                      a->dropout,
                      {x->key.k[0], x->key.k[1]},
                      a->op << 24 | a->layer,
                      (uint32_t)a->head0,
                      &x->step->dropout_step,
                      a->token};
}
/* cuDNN where it serves the call and the order of its sums may be used: its forward has none that vary. */
static int by_cudnn(ns_exec *x, const nsk_attn *p, int backward, const char *op)
{
    device *d = dev_of(x);
    const char *why = "no cuDNN";
    if (!p->bf16 || d->generic_attention) return 0;
    if (p->dropout > 0) why = "attention dropout";
    int done = d->dnn && p->dropout <= 0 && (!backward || x->any_order)
                   ? nsk_cudnn_run(d->dnn, d->stream, p, backward, &why)
                   : 0;
    if (done < 0) fail(x, op, why, p->T, p->n_heads, p->head_dim);
    if (done == 0) snprintf(d->dnn_why, sizeof d->dnn_why, "%s", why);
    if (done)
        d->dnn_calls++;
    else
        d->own_calls++;
    return done != 0;
}
static int attn_ok(ns_exec *x, const ns_attn_args *a, const char *op)
{
    if (a->head_dim <= 512) return need_work(x, nsk_attn_work(a->T, a->T_kv, a->n_heads), op);
    fail(x, op, "head sizes above 512 are not supported", a->T, a->n_heads, a->head_dim);
    return 0;
}
static void attn_fwd(ns_exec *x, const ns_attn_args *a)
{
    if (!attn_ok(x, a, "attn_fwd")) return;
    nsk_attn p = attn_of(x, a);
    if (!by_cudnn(x, &p, 0, "attn_fwd")) nsk_attn_fwd(stream(x), &p, dev_of(x)->generic_attention);
    check(x, "attn_fwd", a->T, a->n_heads, a->head_dim);
}
static void attn_bwd(ns_exec *x, const ns_attn_args *a)
{
    if (!attn_ok(x, a, "attn_bwd")) return;
    nsk_attn p = attn_of(x, a);
    if (!by_cudnn(x, &p, 1, "attn_bwd")) nsk_attn_bwd(stream(x), &p, dev_of(x)->generic_attention);
    check(x, "attn_bwd", a->T, a->n_heads, a->head_dim);
}

static void attn_merge(ns_exec *x, const ns_attn_merge_args *a)
{
    nsk_attn_merge(stream(x), is_bf16(a->dt), a->T, a->n_heads, a->head_dim, a->n_seg, a->cu_q, a->part, a->part_lse,
                   a->acc, a->lse, a->assign, a->out);
    check(x, "attn_merge", a->T, a->n_heads, a->head_dim);
}
static void sum_rows(ns_exec *x, const ns_sum_rows_args *a)
{
    nsk_sum_rows(stream(x), is_bf16(a->dt), a->T, a->cols, a->assign, a->src, a->src_stride, a->more, a->acc, a->out,
                 a->out_stride, a->row);
    check(x, "sum_rows", a->T, a->cols, 0);
}

/* ---- optimiser ---- */
static void upload(ns_exec *x, void *dst, const void *src, int64_t bytes);
enum { MAX_ITEMS = 16384 };
/* The table of items, in front of the work buffer; -1: it does not fit. */
static int64_t put_items(ns_exec *x, const ns_opt_args *a, const char *op)
{
    nsk_opt part[64];
    int64_t chunks = 0;
    if (!need_work(x, nsk_opt_work(a->n_items), op)) return -1;
    for (int64_t i = 0; i < a->n_items; i++) {
        const ns_opt_item *o = &a->items[i];
        int aligned =
            ((uintptr_t)o->w | (uintptr_t)o->rem | (uintptr_t)o->grad | (uintptr_t)o->m | (uintptr_t)o->v) % 16 == 0;
        part[i % 64] =
            (nsk_opt){o->n, chunks, o->w, o->rem, o->grad, o->m, o->v, o->first, o->tensor, o->decay, aligned, 0};
        chunks += nsk_opt_chunks(o->n);
        if (i % 64 == 63 || i + 1 == a->n_items)
            upload(x, (nsk_opt *)x->work + i / 64 * 64, part, (i % 64 + 1) * (int64_t)sizeof *part);
    }
    return chunks;
}
static void grad_sumsq(ns_exec *x, const ns_opt_args *a)
{
    int64_t chunks = put_items(x, a, "grad_sumsq");
    if (chunks < 0) return;
    nsk_sumsq(stream(x), x->work, (int)a->n_items, chunks, &x->step->grad_sumsq);
    nsk_sumsq_end(stream(x), &x->step->grad_sumsq, &x->step->nonfinite);
    check(x, "grad_sumsq", a->n_items, 0, 0);
}
static void clip(ns_exec *x, const ns_opt_args *a)
{
    (void)a;
    nsk_clip(stream(x), &x->step->grad_sumsq, &x->step->clip, &x->step->clip_coef);
    check(x, "clip", 0, 0, 0);
}
static void adamw(ns_exec *x, const ns_opt_args *a)
{
    ns_step *s = x->step;
    nsk_adamw_scalars sc = {&s->lr,           &s->beta1,     &s->beta2, &s->eps,
                            &s->weight_decay, &s->clip_coef, &s->t,     &s->nonfinite};
    int64_t chunks = put_items(x, a, "adamw");
    if (chunks <= 0) return;
    const ns_opt_item *o = a->items;
    nsk_opt_form form = {is_bf16(o->dt),     is_bf16(o->dt) && o->form.no_rem,
                         is_bf16(o->form.m), is_bf16(o->form.v),
                         x->key.k[0],        NS_ROUND_KEY};
    for (int64_t i = 1; i < a->n_items; i++)
        if (o[i].dt != o->dt || o[i].form.no_rem != o->form.no_rem || o[i].form.m != o->form.m ||
            o[i].form.v != o->form.v) {
            fail(x, "adamw", "items of several forms in one call", a->n_items, i, 0);
            return;
        }
    nsk_adamw(stream(x), &form, &sc, x->work, (int)a->n_items, chunks);
    check(x, "adamw", a->n_items, 0, 0);
}
static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static int64_t work_bytes(const ns_exec *x, int64_t T, int64_t max_len, int64_t C, int64_t F, int64_t V,
                          int64_t n_heads, int64_t head_dim)
{
    (void)max_len;
    const device *d = x->backend;
    int64_t wide = most(most(C, 2 * F), 3 * n_heads * head_dim), w = head_work(x->backend, T, V);
    w = most(w, nsk_embed_bwd_work(T, V));
    w = most(w, nsk_norm_bwd_work(T, C));
    w = most(w, nsk_bias_grad_work(wide));
    w = most(w, nsk_attn_work(T, x->T_kv, n_heads));
    if (x->fp8) {
        w = most(w, fp8_fwd_work(T, most(most(C, F), n_heads * head_dim)));
        w = most(w, fp8_dgrad_work(T, wide, C));
        w = most(w, fp8_wgrad_work(T, wide, most(most(C, F), n_heads * head_dim)));
    }
    if (!d || d->dnn) w = most(w, nsk_cudnn_work(T, n_heads, x->any_order ? head_dim : 0));
    return (most(w, nsk_opt_work(MAX_ITEMS)) + 255) / 256 * 256;
}

/* ---- memory ---- */
static ns_status mem_new(ns_exec *x, void **out, int64_t bytes, ns_error *err)
{
    device *d = dev_of(x);
    size_t free_b = 0, total = 0;
    cudaError_t e = cudaMalloc(out, bytes > 0 ? (size_t)bytes : 1);
    if (e == cudaSuccess) e = cudaMemsetAsync(*out, 0, (size_t)bytes, d->stream);
    if (e == cudaSuccess) return NS_OK;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&free_b, &total);
    return d->host->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__,
                              "GPU memory: %.2f GB asked, %.2f of %.2f GB free (%s): is another process on the card?",
                              (double)bytes / 1e9, (double)free_b / 1e9, (double)total / 1e9, cudaGetErrorString(e));
}
static void mem_free(ns_exec *x, void *p)
{
    (void)cudaStreamSynchronize(dev_of(x)->stream);
    if (p) (void)cudaFree(p);
}

/* Copies go through pinned slots in turn, so that the caller's memory is free at once and the stream never waits. */
static void upload(ns_exec *x, void *dst, const void *src, int64_t bytes)
{
    device *d = dev_of(x);
    for (int64_t at = 0; at < bytes; at += SLOT_BYTES) {
        size_t n = (size_t)(bytes - at < SLOT_BYTES ? bytes - at : SLOT_BYTES);
        int s = d->next_slot;
        d->next_slot = (s + 1) % N_SLOTS;
        (void)cudaEventSynchronize(d->done[s]);
        memcpy(d->slot[s], (const char *)src + at, n);
        (void)cudaMemcpyAsync((char *)dst + at, d->slot[s], n, cudaMemcpyHostToDevice, d->stream);
        (void)cudaEventRecord(d->done[s], d->stream);
    }
    check(x, "upload", bytes, 0, 0);
}
/* Two slots in turn: one is copied out while the next arrives. */
static void download(ns_exec *x, void *dst, const void *src, int64_t bytes)
{
    device *d = dev_of(x);
    int64_t n_chunks = (bytes + SLOT_BYTES - 1) / SLOT_BYTES;
    cudaError_t e = cudaSuccess;
    for (int64_t i = 0; i <= n_chunks && e == cudaSuccess; i++) {
        if (i < n_chunks) {
            int64_t at = i * SLOT_BYTES, n = bytes - at < SLOT_BYTES ? bytes - at : SLOT_BYTES;
            (void)cudaEventSynchronize(d->done[i & 1]);
            e = cudaMemcpyAsync(d->slot[i & 1], (const char *)src + at, (size_t)n, cudaMemcpyDeviceToHost, d->stream);
            if (e == cudaSuccess) e = cudaEventRecord(d->done[i & 1], d->stream);
        }
        if (i == 0 || e != cudaSuccess) continue;
        int64_t at = (i - 1) * SLOT_BYTES, n = bytes - at < SLOT_BYTES ? bytes - at : SLOT_BYTES;
        e = cudaEventSynchronize(d->done[(i - 1) & 1]);
        if (e == cudaSuccess) memcpy((char *)dst + at, d->slot[(i - 1) & 1], (size_t)n);
    }
    if (e != cudaSuccess) {
        (void)cudaGetLastError();
        memset(dst, 0, (size_t)bytes);
        fail(x, "download", cudaGetErrorString(e), bytes, 0, 0);
    }
}

/* ---- copies beside the ops: one entry of the queue each, so that enqueueing a thousand does not wait for them ---- */
static void copy_begin(ns_exec *x)
{
    device *d = dev_of(x);
    d->holding = 0;
    (void)cudaEventRecord(d->before, d->stream);
    (void)cudaStreamWaitEvent(d->copies, d->before, 0);
    check(x, "copy_begin", 0, 0, 0);
}
static void copy_end(ns_exec *x)
{
    device *d = dev_of(x);
    (void)cudaEventRecord(d->copied, d->copies);
    check(x, "copy_end", 0, 0, 0);
}
static void copy_out(ns_exec *x, void *dst, const void *src, int64_t bytes)
{
    device *d = dev_of(x);
    if (bytes <= 0) return;
    (void)cudaMemcpyAsync(dst, src, (size_t)bytes, cudaMemcpyDeviceToHost, d->copies);
    check(x, "copy_out", bytes, 0, 0);
}
static void copy_hold(ns_exec *x)
{
    device *d = dev_of(x);
    (void)cudaEventRecord(d->held_from, d->stream);
    (void)cudaStreamWaitEvent(d->stream, d->copied, 0);
    d->holding = 1;
    check(x, "copy_hold", 0, 0, 0);
}
static double copy_held(ns_exec *x)
{
    device *d = dev_of(x);
    float ms = 0;
    if (!d->holding || cudaEventElapsedTime(&ms, d->held_from, d->copied) != cudaSuccess) (void)cudaGetLastError();
    return ms > 0 ? ms * 1e-3 : 0;
}
static ns_status copy_wait(ns_exec *x, ns_error *err)
{
    device *d = dev_of(x);
    cudaError_t e = cudaEventSynchronize(d->copied);
    if (e == cudaSuccess) return NS_OK;
    return d->host->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__, "CUDA copy to the host: %s",
                              cudaGetErrorString(e));
}
static ns_status pin(ns_exec *x, void *host, int64_t bytes, ns_error *err)
{
    cudaError_t e = cudaHostRegister(host, (size_t)bytes, cudaHostRegisterPortable);
    if (e == cudaSuccess) return NS_OK;
    (void)cudaGetLastError();
    return dev_of(x)->host->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__,
                                      "CUDA cannot pin %.2f GB of host memory: %s (see ulimit -l)", (double)bytes / 1e9,
                                      cudaGetErrorString(e));
}
static void unpin(ns_exec *x, void *host)
{
    (void)x;
    if (cudaHostUnregister(host) != cudaSuccess) (void)cudaGetLastError();
}

/* ---- beside the ops ---- */
/* Of higher priority: an exchange that waits for others is to begin as soon as it can. */
static side *open_side(device *d, int i)
{
    side *s = &d->sides[i];
    int least = 0, most_urgent = 0;
    if (s->stream) return s;
    if (cudaDeviceGetStreamPriorityRange(&least, &most_urgent) != cudaSuccess ||
        cudaStreamCreateWithPriority(&s->stream, cudaStreamNonBlocking, most_urgent) != cudaSuccess ||
        cudaEventCreateWithFlags(&s->before, cudaEventDisableTiming) != cudaSuccess)
        return NULL;
    return s;
}
static void close_side(side *s)
{
    if (s->stream) (void)cudaStreamSynchronize(s->stream);
    for (int k = 0; k < NS_CUDA_MARKS; k++)
        if (s->marks[k]) (void)cudaEventDestroy(s->marks[k]);
    if (s->before) (void)cudaEventDestroy(s->before);
    if (s->stream) (void)cudaStreamDestroy(s->stream);
}
static void *side_of(void *p, int i)
{
    return open_side(p, i);
}
static void *side_stream(void *p, int i)
{
    const side *s = open_side(p, i);
    return s ? s->stream : NULL;
}
static int side_follow(void *p, int i)
{
    device *d = p;
    side *s = open_side(d, i);
    return s && cudaEventRecord(s->before, d->stream) == cudaSuccess &&
           cudaStreamWaitEvent(s->stream, s->before, 0) == cudaSuccess;
}
static int side_mark(void *p, int i, int k)
{
    side *s = open_side(p, i);
    if (!s || (!s->marks[k] && cudaEventCreateWithFlags(&s->marks[k], cudaEventDisableTiming) != cudaSuccess)) return 0;
    return cudaEventRecord(s->marks[k], s->stream) == cudaSuccess;
}
static int side_need(void *p, int i, int k)
{
    device *d = p;
    return d->sides[i].marks[k] && cudaStreamWaitEvent(d->stream, d->sides[i].marks[k], 0) == cudaSuccess;
}
static int stamp(void *p, void *stream_, int k)
{
    device *d = p;
    if (!d->stamps[k] && cudaEventCreate(&d->stamps[k]) != cudaSuccess) return 0;
    return cudaEventRecord(d->stamps[k], stream_) == cudaSuccess;
}
static int stamp_s(void *p, int a, int b, double *seconds)
{
    device *d = p;
    float ms = 0;
    if (cudaEventQuery(d->stamps[b]) != cudaSuccess ||
        cudaEventElapsedTime(&ms, d->stamps[a], d->stamps[b]) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    *seconds = ms * 1e-3;
    return 1;
}
static int add_members_aside(void *p, ns_dtype dt, int64_t n, void *own, const void *in, int64_t each, int members,
                             int rank)
{
    nsk_add_members(((side *)p)->stream, dt == NS_DTYPE_BF16, n, own, in, each, members, rank);
    return cudaGetLastError() == cudaSuccess;
}

/* ---- opening ---- */
static void close_device(void *p)
{
    device *d = p;
    if (!d) return;
    if (d->stream) (void)cudaStreamSynchronize(d->stream);
    for (int i = 0; i < N_SLOTS; i++) {
        if (d->done[i]) (void)cudaEventDestroy(d->done[i]);
        if (d->slot[i]) (void)cudaFreeHost(d->slot[i]);
    }
    if (d->copies) (void)cudaStreamSynchronize(d->copies), (void)cudaStreamDestroy(d->copies);
    cudaEvent_t events[] = {d->before, d->copied, d->held_from};
    for (int i = 0; i < 3; i++)
        if (events[i]) (void)cudaEventDestroy(events[i]);
    for (int i = 0; i < NS_CUDA_SIDES; i++) close_side(&d->sides[i]);
    for (int i = 0; i < NS_CUDA_STAMPS; i++)
        if (d->stamps[i]) (void)cudaEventDestroy(d->stamps[i]);
    nsk_cudnn_close(d->dnn);
    products_close(d);
    if (d->stream) (void)cudaStreamDestroy(d->stream);
    free(d);
}

static const ns_ops table = {
    .name = "cuda",
    .assigns_grads = 1,
    .fp8 = 1,
    .embed_fwd = embed_fwd,
    .embed_bwd = embed_bwd,
    .norm_fwd = norm_fwd,
    .norm_bwd = norm_bwd,
    .linear_fwd = linear_fwd,
    .linear_dgrad = linear_dgrad,
    .linear_wgrad = linear_wgrad,
    .rope = rope,
    .attn_fwd = attn_fwd,
    .attn_bwd = attn_bwd,
    .attn_merge = attn_merge,
    .sum_rows = sum_rows,
    .act_fwd = act_fwd,
    .act_bwd = act_bwd,
    .head = head,
    .dropout = dropout,
    .add = add,
    .scatter_rows = scatter_rows,
    .zero = zero,
    .grad_sumsq = grad_sumsq,
    .clip = clip,
    .adamw = adamw,
    .prepare = prepare,
    .mem_new = mem_new,
    .mem_free = mem_free,
    .upload = upload,
    .download = download,
    .copy_begin = copy_begin,
    .copy_out = copy_out,
    .copy_end = copy_end,
    .copy_hold = copy_hold,
    .copy_held = copy_held,
    .copy_wait = copy_wait,
    .pin = pin,
    .unpin = unpin,
    .prepare_bytes = prepare_bytes,
    .work_bytes = work_bytes,
};

#ifndef NS_CUDA_ARCHS
#define NS_CUDA_ARCHS "?"
#endif

static ns_status describe(const ns_cuda_host *h, ns_cuda_info *info, ns_error *err)
{
    int n = 0;
    struct cudaDeviceProp prop;
    (void)cudaDriverGetVersion(&info->driver);
    (void)cudaRuntimeGetVersion(&info->runtime);
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaErrorInsufficientDriver)
        return h->error_set(
            err, NS_ERR_DEVICE, __FILE__, __LINE__,
            info->driver ? "the NVIDIA driver knows CUDA %d.%d, this plug-in was built with %d.%d: update the "
                           "driver or use a plug-in built with an older CUDA"
                         : "no NVIDIA driver is loaded on this machine (driver %d.%d, plug-in CUDA %d.%d)",
            info->driver / 1000, info->driver % 1000 / 10, info->runtime / 1000, info->runtime % 1000 / 10);
    if (e != cudaSuccess || n < 1)
        return h->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__,
                            "no GPU is visible (%s); CUDA_VISIBLE_DEVICES is '%s'",
                            e != cudaSuccess ? cudaGetErrorString(e) : "count 0",
                            getenv("CUDA_VISIBLE_DEVICES") ? getenv("CUDA_VISIBLE_DEVICES") : "not set");
    info->count = n;
    info->nth %= n;
    e = cudaGetDeviceProperties(&prop, info->nth);
    size_t free_b = 0, total = 0;
    if (e == cudaSuccess) e = cudaSetDevice(info->nth);
    if (e == cudaSuccess) e = cudaMemGetInfo(&free_b, &total);
    if (e != cudaSuccess)
        return h->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__, "GPU %d does not start: %s", info->nth,
                            cudaGetErrorString(e));
    snprintf(info->name, sizeof info->name, "%.*s", (int)sizeof info->name - 1, prop.name);
    for (int i = 0; i < 16; i++) snprintf(info->uuid + 2 * i, 3, "%02x", (unsigned char)prop.uuid.bytes[i]);
    info->cc = prop.major * 10 + prop.minor;
    info->sms = prop.multiProcessorCount;
    info->free_bytes = (int64_t)free_b;
    info->total_bytes = (int64_t)total;
    int code = nsk_probe();
    if (code)
        return h->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__,
                            "%s (sm_%d): this plug-in has no code for it (%s; built for %s): rebuild with "
                            "-DNS_CUDA_ARCHS=%d",
                            info->name, info->cc, cudaGetErrorString((cudaError_t)code), NS_CUDA_ARCHS, info->cc);
    return NS_OK;
}

static ns_status open_device(const ns_cuda_host *h, ns_ops *out, void **result, ns_cuda_info *info, ns_error *err)
{
    ns_status st = describe(h, info, err);
    if (st == NS_OK) st = products_library(h, info, err);
    if (st != NS_OK) return st;
    device *d = calloc(1, sizeof *d);
    if (!d) return h->error_set(err, NS_ERR_MEMORY, __FILE__, __LINE__, "out of memory opening the GPU");
    const char *v, *why = "";
    d->host = h;
    d->sync = (v = getenv("NS_CUDA_SYNC")) && *v == '1';
    d->generic_attention = (v = getenv("NS_CUDA_GENERIC_ATTENTION")) && *v == '1';
    d->head_rows = (v = getenv("NS_CUDA_HEAD_ROWS")) ? atoll(v) : 0;
    cudaError_t e = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    for (int i = 0; i < N_SLOTS && e == cudaSuccess; i++) {
        e = cudaMallocHost((void **)&d->slot[i], SLOT_BYTES);
        if (e == cudaSuccess) e = cudaEventCreateWithFlags(&d->done[i], cudaEventDisableTiming);
    }
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&d->copies, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&d->before, cudaEventDisableTiming);
    if (e == cudaSuccess) e = cudaEventCreate(&d->copied);
    if (e == cudaSuccess) e = cudaEventCreate(&d->held_from);
    int blas_status = 0;
    if (e == cudaSuccess) e = products_open(d, &blas_status);
    if (e != cudaSuccess || blas_status != 0) {
        close_device(d);
        return h->error_set(err, NS_ERR_DEVICE, __FILE__, __LINE__, "%s: %s (cuBLASLt status %d)", info->name,
                            cudaGetErrorString(e), blas_status);
    }
    if (!(v = getenv("NS_CUDA_CUDNN")) || *v != '0') d->dnn = nsk_cudnn_open(&why);
    int dv = nsk_cudnn_version(d->dnn);
    if (d->dnn)
        snprintf(info->dnn, sizeof info->dnn, "cuDNN %d.%d.%d", dv / 10000, dv / 100 % 100, dv % 100);
    else
        snprintf(info->dnn, sizeof info->dnn, "no cuDNN: %s", v && *v == '0' ? "NS_CUDA_CUDNN=0" : why);
    *out = table;
    out->fp8 = info->cc >= 89;
    *result = d;
    return NS_OK;
}

static int64_t used(void *p)
{
    size_t free_b = 0, total = 0;
    (void)p;
    return cudaMemGetInfo(&free_b, &total) == cudaSuccess ? (int64_t)(total - free_b) : 0;
}

/* What served attention, for bench and doctor. */
static void served(void *p, int64_t *dnn, int64_t *own, const char **why)
{
    const device *d = p;
    *dnn = d->dnn_calls;
    *own = d->own_calls;
    *why = d->dnn_why;
}

static void *stream_of(void *p)
{
    return ((device *)p)->stream;
}
static int add_members(void *p, ns_dtype dt, int64_t n, void *own, const void *in, int64_t each, int members, int rank)
{
    nsk_add_members(((device *)p)->stream, dt == NS_DTYPE_BF16, n, own, in, each, members, rank);
    return cudaGetLastError() == cudaSuccess;
}

static void *host_alloc(int64_t bytes)
{
    void *p = NULL;
    const char *how = getenv("NS_CUDA_TEST_MEMORY");
    size_t n = bytes > 0 ? (size_t)bytes : 1;
    cudaError_t e = how && !strcmp(how, "managed") ? cudaMallocManaged(&p, n, cudaMemAttachGlobal)
                                                   : cudaHostAlloc(&p, n, cudaHostAllocMapped);
    return e == cudaSuccess ? p : NULL;
}
static void host_free(void *p)
{
    const char *how = getenv("NS_CUDA_TEST_MEMORY");
    (void)cudaDeviceSynchronize();
    (void)(how && !strcmp(how, "managed") ? cudaFree(p) : cudaFreeHost(p));
}

__attribute__((visibility("default"))) const ns_cuda_plugin *ns_cuda_plugin_get(void)
{
    static ns_cuda_plugin p = {NS_CUDA_ABI,  0,           &table,  NS_CUDA_ARCHS, open_device,
                               close_device, used,        served,  host_alloc,    host_free,
                               stream_of,    add_members, side_of, side_stream,   side_follow,
                               side_mark,    side_need,   stamp,   stamp_s,       add_members_aside};
    p.layout = ns_cuda_layout();
    return &p;
}
