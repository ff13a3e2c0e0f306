/* Attention by cuDNN (doc/cuda.md): forward and, where bits may differ from run to run, backward. Causal or not,
 * grouped-query, segments of one batch. Graphs are built once for a shape and kept.
 *
 *   equal segments    dense [b, heads, s, hd] over the fused rows
 *   others            forward alone, packed ("ragged"): offsets from cu_q, made on the device; b and s are rounded up, so that few
 *                     shapes occur. The packed backward of cuDNN 9.19 asks for memory by b x s: our own serves
 * lse is [heads, T] as for our own kernels, so that either may serve the other pass.
 *
 * cuDNN is opened at run time: this file defines the few functions that the headers of cudnn-frontend call and hands them on.
 * Without those headers (NS_HAVE_CUDNN unset) it says so and serves nothing. */
#include "kernels.h"

#ifndef NS_HAVE_CUDNN
extern "C" nsk_cudnn *nsk_cudnn_open(const char **why)
{
    *why = "this plug-in was built without cudnn-frontend";
    return nullptr;
}
extern "C" void nsk_cudnn_close(nsk_cudnn *) {}
extern "C" int nsk_cudnn_version(const nsk_cudnn *) { return 0; }
extern "C" int nsk_cudnn_run(nsk_cudnn *, nsk_stream, const nsk_attn *, int, const char **why)
{
    *why = "no cuDNN";
    return 0;
}
#else
#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <memory>

namespace fe = cudnn_frontend;

/* ---- cuDNN, by name: what cudnn-frontend calls ---- */
#define CUDNN_NAMES(X)                                                                                        \
    X(cudnnCreate) X(cudnnDestroy) X(cudnnSetStream) X(cudnnGetStream) X(cudnnGetVersion) X(cudnnGetErrorString) \
    X(cudnnGetLastErrorString) X(cudnnBackendCreateDescriptor) X(cudnnBackendDestroyDescriptor)                \
    X(cudnnBackendFinalize) X(cudnnBackendSetAttribute) X(cudnnBackendGetAttribute) X(cudnnBackendExecute)
static struct {
#define FIELD(f) decltype(&::f) f;
    CUDNN_NAMES(FIELD)
#undef FIELD
} dnn;
cudnnStatus_t cudnnCreate(cudnnHandle_t *h) { return dnn.cudnnCreate(h); }
cudnnStatus_t cudnnDestroy(cudnnHandle_t h) { return dnn.cudnnDestroy(h); }
cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s) { return dnn.cudnnSetStream(h, s); }
cudnnStatus_t cudnnGetStream(cudnnHandle_t h, cudaStream_t *s) { return dnn.cudnnGetStream(h, s); }
size_t cudnnGetVersion(void) { return dnn.cudnnGetVersion(); }
const char *cudnnGetErrorString(cudnnStatus_t s) { return dnn.cudnnGetErrorString(s); }
void cudnnGetLastErrorString(char *m, size_t n) { dnn.cudnnGetLastErrorString(m, n); }
cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t t, cudnnBackendDescriptor_t *d)
{
    return dnn.cudnnBackendCreateDescriptor(t, d);
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d) { return dnn.cudnnBackendDestroyDescriptor(d); }
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d) { return dnn.cudnnBackendFinalize(d); }
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t a,
                                       cudnnBackendAttributeType_t t, int64_t n, const void *v)
{
    return dnn.cudnnBackendSetAttribute(d, a, t, n, v);
}
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const d, cudnnBackendAttributeName_t a,
                                       cudnnBackendAttributeType_t t, int64_t n, int64_t *got, void *v)
{
    return dnn.cudnnBackendGetAttribute(d, a, t, n, got, v);
}
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t p, cudnnBackendDescriptor_t v)
{
    return dnn.cudnnBackendExecute(h, p, v);
}

/* ---- graphs ---- */
enum { Q = 1, K, V, O, STATS, DO, DQ, DK, DV, LEN, AT_QKV, AT_O, AT_STATS, MAX_GRAPHS = 256 };
struct shape { /* zeroed before filling: compared as bytes */
    int64_t b, s, total, nh, nkv, hd, q_stride, k_stride;
    float scale;
    int32_t causal, ragged, backward;
};
struct by_bytes {
    bool operator()(const shape &a, const shape &b) const { return memcmp(&a, &b, sizeof a) < 0; }
};
struct built {
    std::shared_ptr<fe::graph::Graph> graph; /* null: cuDNN does not serve this shape */
    int64_t work = 0;
    char why[256] = "";
};
struct nsk_cudnn {
    void *lib = nullptr;
    cudnnHandle_t handle = nullptr;
    std::map<shape, built, by_bytes> graphs;
    char said[256] = "";
};

using tensor = std::shared_ptr<fe::graph::Tensor_attributes>;
static tensor array(fe::graph::Graph &g, const char *name, int uid, int64_t n)
{
    return g.tensor(fe::graph::Tensor_attributes().set_name(name).set_uid(uid).set_dim({n, 1, 1, 1}).set_stride({1, 1, 1, 1})
                        .set_data_type(fe::DataType_t::INT32));
}
/* [b, heads, s, hd] in rows of `stride` elements; ragged: segment i begins at element at[i] */
static fe::graph::Tensor_attributes rows(const shape &k, const char *name, int uid, int64_t heads, int64_t stride, tensor at)
{
    auto t = fe::graph::Tensor_attributes().set_name(name).set_uid(uid).set_dim({k.b, heads, k.s, k.hd}).set_stride(
        {k.s * stride, k.hd, stride, 1});
    if (at) t.set_ragged_offset(at);
    return t;
}
static void out_rows(const shape &k, tensor t, int uid, int64_t heads, int64_t stride, tensor at)
{
    t->set_output(true).set_uid(uid).set_dim({k.b, heads, k.s, k.hd}).set_stride({k.s * stride, k.hd, stride, 1});
    if (at) t->set_ragged_offset(at);
}
template <class A> static void masks(const shape &k, A &a, tensor len)
{
    a.set_attn_scale(k.scale);
    if (k.causal) a.set_causal_mask(true);
    if (len) a.set_padding_mask(true).set_seq_len_q(len).set_seq_len_kv(len);
}

static void describe(fe::graph::Graph &g, const shape &k)
{
    g.set_io_data_type(fe::DataType_t::BFLOAT16).set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(
        fe::DataType_t::FLOAT);
    tensor len, at_qkv, at_o, at_stats;
    if (k.ragged) {
        len = array(g, "len", LEN, k.b);
        at_qkv = array(g, "at_qkv", AT_QKV, k.b + 1);
        at_o = array(g, "at_o", AT_O, k.b + 1);
        at_stats = array(g, "at_stats", AT_STATS, k.b + 1);
    }
    auto q = g.tensor(rows(k, "q", Q, k.nh, k.q_stride, at_qkv)), kk = g.tensor(rows(k, "k", K, k.nkv, k.k_stride, at_qkv)),
         v = g.tensor(rows(k, "v", V, k.nkv, k.k_stride, at_qkv));
    std::vector<int64_t> sd = {k.b, k.nh, k.s, 1}, ss = {k.nh * k.s, k.s, 1, 1};
    if (k.ragged) ss = {k.nh * k.s, 1, k.nh, 1};
    int64_t wide = k.nh * k.hd;
    if (!k.backward) {
        auto a = fe::graph::SDPA_attributes().set_name("sdpa").set_generate_stats(true);
        masks(k, a, len);
        auto [o, stats] = g.sdpa(q, kk, v, a);
        out_rows(k, o, O, k.nh, wide, at_o);
        stats->set_output(true).set_uid(STATS).set_data_type(fe::DataType_t::FLOAT).set_dim(sd).set_stride(ss);
        if (k.ragged) stats->set_ragged_offset(at_stats);
        return;
    }
    auto o = g.tensor(rows(k, "o", O, k.nh, wide, at_o)), d = g.tensor(rows(k, "do", DO, k.nh, wide, at_o));
    auto st = fe::graph::Tensor_attributes().set_name("stats").set_uid(STATS).set_data_type(fe::DataType_t::FLOAT).set_dim(sd)
                  .set_stride(ss);
    if (k.ragged) st.set_ragged_offset(at_stats);
    auto stats = g.tensor(st);
    auto a = fe::graph::SDPA_backward_attributes().set_name("sdpa_backward");
    masks(k, a, len);
    auto [dq, dk, dv] = g.sdpa_backward(q, kk, v, o, d, stats, a);
    out_rows(k, dq, DQ, k.nh, k.q_stride, at_qkv);
    out_rows(k, dk, DK, k.nkv, k.k_stride, at_qkv);
    out_rows(k, dv, DV, k.nkv, k.k_stride, at_qkv);
}

static built &find(nsk_cudnn *c, const shape &k)
{
    auto hit = c->graphs.find(k);
    if (hit != c->graphs.end()) return hit->second;
    if (c->graphs.size() >= MAX_GRAPHS) c->graphs.clear();
    built &e = c->graphs[k];
    auto g = std::make_shared<fe::graph::Graph>();
    describe(*g, k);
    auto bad = [&](fe::error_t st) {
        if (st.is_bad()) snprintf(e.why, sizeof e.why, "%s", st.get_message().c_str());
        return st.is_bad();
    };
    if (bad(g->validate()) || bad(g->build_operation_graph(c->handle)) || bad(g->create_execution_plans({fe::HeurMode_t::A})) ||
        bad(g->check_support(c->handle)) || bad(g->build_plans(c->handle)) || bad(g->get_workspace_size(e.work)))
        return e;
    e.graph = g;
    return e;
}

/* Few different shapes: an eighth more at most. */
static int64_t up(int64_t n, int64_t least)
{
    int64_t step = least;
    while (step * 16 <= n) step *= 2;
    return (n + step - 1) / step * step;
}

static int run(nsk_cudnn *c, nsk_stream s, const nsk_attn *a, int backward, const char **why)
{
    shape k;
    memset(&k, 0, sizeof k);
    *why = "not a case of cuDNN";
    int64_t row = a->q_stride, wide = a->n_heads * a->head_dim;
    if (!a->bf16 || a->kv_start || a->kv_len || a->softcap > 0 || a->live_seg < 1 || a->head_dim % 8 || a->head_dim < 32 ||
        a->head_dim > 256 || a->q_stride % 8 || a->k_stride != a->v_stride || a->k_stride != a->q_stride || !a->lse ||
        a->live_len < 2 || up(a->T, 128) * row > INT32_MAX || (a->window > 0 && a->window < a->live_len))
        return 0;
    k.ragged = a->live_seg * a->live_len != a->live_rows;
    if (k.ragged && backward) {
        *why = "segments of different lengths";
        return 0;
    }
    k.b = k.ragged ? up(a->live_seg, 1) : a->live_seg;
    k.s = k.ragged ? up(a->live_len, 128) : a->live_len;
    k.total = k.ragged ? up(a->T, 128) : 0;
    k.nh = a->n_heads, k.nkv = a->n_kv, k.hd = a->head_dim, k.q_stride = row, k.k_stride = a->k_stride;
    k.scale = a->scale, k.causal = a->causal != 0, k.backward = backward != 0;
    built &e = find(c, k);
    if (!e.graph) {
        *why = e.why;
        return 0;
    }
    /* work: lengths and offsets, lse as cuDNN has it, then cuDNN's own */
    int64_t n_int = (k.b + 1 + 63) / 64 * 64, plain = !k.ragged && k.b == 1 && k.s == a->T,
            stats = plain ? 0 : ((k.ragged ? k.total : k.b * k.s) * k.nh * 4 + 255) / 256 * 256,
            need = 4 * n_int * 4 + stats + e.work;
    if (need > a->work_bytes) {
        snprintf(c->said, sizeof c->said, "cuDNN asks for %lld bytes of work, %lld are planned", (long long)need,
                 (long long)a->work_bytes);
        *why = c->said;
        return 0;
    }
    char *w = (char *)a->work;
    int32_t *ints = (int32_t *)w;
    float *st = plain ? a->lse : (float *)(w + 16 * n_int);
    void *own = w + 16 * n_int + stats;
    std::unordered_map<int64_t, void *> pack = {{Q, (void *)a->q}, {K, (void *)a->k}, {V, (void *)a->v}, {O, a->out}, {STATS, st}};
    if (k.ragged) {
        nsk_cudnn_offsets(s, k.b, a->n_seg, a->cu_q, row, wide, k.nh, ints, n_int);
        pack[LEN] = ints, pack[AT_QKV] = ints + n_int, pack[AT_O] = ints + 2 * n_int, pack[AT_STATS] = ints + 3 * n_int;
    }
    if (backward) {
        pack[DO] = (void *)a->dout, pack[DQ] = a->dq, pack[DK] = a->dk, pack[DV] = a->dv;
        if (!plain) nsk_cudnn_lse(s, a->T, k.nh, k.ragged ? 0 : k.s, a->live_rows, a->lse, st, 1);
    }
    if (dnn.cudnnSetStream(c->handle, (cudaStream_t)s) != CUDNN_STATUS_SUCCESS) {
        *why = "cuDNN refuses the stream";
        return 0;
    }
    auto done = e.graph->execute(c->handle, pack, own);
    if (done.is_bad()) {
        snprintf(c->said, sizeof c->said, "cuDNN: %s", done.get_message().c_str());
        *why = c->said;
        return -1;
    }
    if (!backward && !plain) nsk_cudnn_lse(s, a->T, k.nh, k.ragged ? 0 : k.s, a->live_rows, a->lse, st, 0);
    if (a->live_rows < a->T) nsk_cudnn_tail(s, a, backward);
    return 1;
}

extern "C" nsk_cudnn *nsk_cudnn_open(const char **why)
{
    static char text[256];
    *why = text;
    nsk_cudnn *c = nullptr;
    try {
        c = new nsk_cudnn;
        const char *name = "libcudnn.so.9", *path = getenv("NS_CUDNN_LIBRARY");
        if (path && *path) name = path;
        c->lib = dlopen(name, RTLD_NOW | RTLD_LOCAL);
        if (!c->lib && !path) c->lib = dlopen("/usr/local/cuda/lib64/libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
        if (!c->lib) {
            snprintf(text, sizeof text, "%s", dlerror());
        } else {
            const char *missing = nullptr;
#define GET(f)                                              \
    dnn.f = (decltype(dnn.f))dlsym(c->lib, #f);             \
    if (!dnn.f) missing = #f;
            CUDNN_NAMES(GET)
#undef GET
            if (missing)
                snprintf(text, sizeof text, "%s has no %s", name, missing);
            else if (dnn.cudnnCreate(&c->handle) != CUDNN_STATUS_SUCCESS)
                snprintf(text, sizeof text, "%s does not start on this GPU", name);
            else
                return c;
        }
    } catch (...) {
        snprintf(text, sizeof text, "out of memory");
    }
    nsk_cudnn_close(c);
    return nullptr;
}
extern "C" void nsk_cudnn_close(nsk_cudnn *c)
{
    if (!c) return;
    c->graphs.clear();
    if (c->handle) dnn.cudnnDestroy(c->handle);
    delete c; /* the library stays open: it registers with the CUDA runtime */
}
extern "C" int nsk_cudnn_version(const nsk_cudnn *c) { return c ? (int)dnn.cudnnGetVersion() : 0; }

extern "C" int nsk_cudnn_run(nsk_cudnn *c, nsk_stream s, const nsk_attn *a, int backward, const char **why)
{
    try {
        return run(c, s, a, backward, why);
    } catch (const std::exception &e) {
        snprintf(c->said, sizeof c->said, "cuDNN: %s", e.what());
        *why = c->said;
        return -1;
    }
}
#endif

/* dQ, dK and dV of every query head and the row sums in f32, lse, offsets; what rounding up adds; what cuDNN keeps for itself. */
extern "C" int64_t nsk_cudnn_work(int64_t T, int64_t n_heads, int64_t head_dim)
{
    int64_t t = T + T / 8 + 1024;
    return t * n_heads * (3 * head_dim + 4) * 4 + 16 * 4096 + ((int64_t)8 << 20);
}
