/* Conversion: open and check the input, find the tokenizer, write into a temporary folder, read it back and compare, report,
 * publish (DONE last). What would be silently wrong is refused: a type of model that is not the input's, values that the stored
 * type cannot hold, an output whose tensors or record differ from the input's. */
#include "export/export.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hub/hub.h"
#include "base/json.h"
#include "base/log.h"
#include "base/scatter_log.h"
#include "base/sync.h"
#include "ckpt/hf_write.h"
#include "ckpt/model_source.h"
#include "ckpt/nemo_write.h"
#include "ckpt/path.h"
#include "ckpt/trt_write.h"
#include "export/calibrate.h"
#include "export/gguf_tok.h"
#include "export/gguf_tok_read.h"
#include "export/parity.h"
#include "export/resume.h"
#include "export/stops.h"

typedef struct job {
    const ns_export_args *a;
    ns_export_report *r;
    ns_arena arena;
    ns_arch arch;
    ns_param_table table;
    ns_model_source src;
    const char *tokenizer; /* folder, NULL: none */
    ns_dtype dt;
    ns_progress *progress;
    double before; /* elements of the passes before this one */
    ns_view_stats *stats;
    const char *quant;     /* gguf: type of the matrices */
    ns_dtype stored;       /* trtllm, packed or fp8: type of what is not quantised */
    ns_trt_fp8_layer *fp8; /* [L] */
    int kept;              /* an interrupted export is taken over */
    int reading_back;      /* what fails now is in the output, not in the input */
    const char *taken_out; /* folder of a GGUF file's own tokenizer, removed in the end; NULL: none */
    int64_t eot;           /* the chat template's end of turn, -1: none */
} job;

static void progress(void *user, double elements)
{
    job *j = user;
    ns_progress_set(j->progress, j->before + elements, "");
}

static ns_status source_rows(void *user, int view, int64_t row0, int64_t n, ns_dtype dt, void *out, ns_error *err)
{
    return ns_model_source_rows_as(&((job *)user)->src, view, row0, n, dt, out, err);
}

/* ---- tokenizer and config ---- */
static int has_tokenizer(const char *dir)
{
    char p[4096];
    static const char *const files[] = {"tokenizer.json", "tokenizer.model", "vocab.json"};
    for (size_t i = 0; i < 3; i++)
        if (ns_path(p, sizeof p, NULL, "%s/%s", dir, files[i]) == NS_OK && ns_path_exists(p)) return 1;
    return 0;
}

/* A GGUF file has its tokenizer inside: taken out into a temporary folder. */
static ns_status tokenizer_inside(job *j, char *out, ns_error *err)
{
    const char *tmp = getenv("TMPDIR");
    char dir[4000];
    int made = 0;
    ns_error why = NS_ERROR_INIT;
    NS_TRY(ns_path(dir, sizeof dir, err, "%s/ns-tokenizer-XXXXXX", tmp && *tmp ? tmp : "/tmp"), "%s", "");
    NS_FAIL_IF(!mkdtemp(dir), NS_ERR_IO, "cannot make '%s': set TMPDIR to a folder that can be written", dir);
    j->taken_out = ns_arena_strdup(&j->arena, dir, err);
    if (!j->taken_out) return NS_ERR_MEMORY;
    ns_status st = ns_gguf_tok_write(&made, dir, j->a->input, &why);
    if (st == NS_ERR_UNSUPPORTED)
        NS_WARN("%s: %s: its tokenizer is left out", j->a->input, why.msg);
    else if (st != NS_OK && err)
        *err = why;
    if (made) snprintf(out, 4096, "%s", dir);
    return st == NS_ERR_UNSUPPORTED ? NS_OK : st;
}

static ns_status find_tokenizer(job *j, ns_error *err)
{
    const char *name = j->a->hf_model_name;
    char own[4096], *out = j->r->tokenizer_dir;
    ns_buf tried = {0};
    ns_status st = NS_OK;
    NS_TRY(ns_model_tokenizer_dir(own, sizeof own, j->a->input, err), "%s", "");
    out[0] = 0;
    int beside = has_tokenizer(own), here = name && ns_path_is_dir(name);
    if (j->src.format == NS_FORMAT_GGUF && !beside && !here && !(name && ns_hub_cached(out, name, NULL)))
        NS_TRY(tokenizer_inside(j, own, err), "tokenizer");
    out[0] = 0;
    if (here) {
        snprintf(out, 4096, "%s", name);
    } else if (name && ns_hub_cached(out, name, &tried)) {
        NS_INFO("%s: taken from %s", name, out);
    } else if (has_tokenizer(own)) {
        snprintf(out, 4096, "%s", own);
        if (name)
            NS_INFO("%s is neither a folder nor in the Hugging Face cache: config and tokenizer are the input's own",
                    name);
    } else if (name) {
        st = ns_error_set(err, NS_ERR_INPUT, __FILE__, __LINE__,
                          "no tokenizer found: tried the folder %s, the Hugging Face cache (%s), the input (%s): run "
                          "`ns download %s`, or give the tokenizer's folder with --hf_model_name",
                          name, tried.len ? tried.data : "no such name", own, name);
    } else {
        out[0] = 0;
        NS_WARN("%s has no tokenizer: the output has none either (--hf_model_name FOLDER adds one)", j->a->input);
    }
    ns_buf_free(&tried);
    if (st != NS_OK) return st;
    j->tokenizer = out[0] ? out : NULL;
    return NS_OK;
}

/* A NeMo file does not say token ids, and of the llama3 rotary scaling only that there is one: the config.json that goes with the
 * tokenizer does, if it describes this architecture. */
static ns_status complete_arch(job *j, ns_error *err)
{
    char p[4096];
    ns_arch b, *a = &j->arch;
    ns_error why = NS_ERROR_INIT;
    if (!j->tokenizer) return NS_OK;
    NS_TRY(ns_path(p, sizeof p, err, "%s/config.json", j->tokenizer), "%s", "");
    if (!ns_path_exists(p) || ns_arch_read(&b, p, &why) != NS_OK) return NS_OK;
    int same = a->C == b.C && a->F == b.F && a->L == b.L && a->n_heads == b.n_heads && a->n_kv == b.n_kv &&
               a->head_dim == b.head_dim && a->qkv_bias == b.qkv_bias && a->qk_norm == b.qk_norm;
    if (!same) {
        NS_INFO("%s describes another architecture: only its tokenizer is used", p);
        return NS_OK;
    }
    if (j->src.format != NS_FORMAT_NEMO && j->src.format != NS_FORMAT_TRT) return NS_OK;
    a->family = b.family;
    if (a->bos < 0) a->bos = b.bos;
    if (!a->n_eos) {
        a->n_eos = b.n_eos;
        memcpy(a->eos, b.eos, sizeof a->eos);
    }
    if (a->rope == NS_ROPE_LLAMA3 && b.rope == NS_ROPE_LLAMA3 &&
        (a->rope_factor != b.rope_factor || a->rope_low != b.rope_low || a->rope_high != b.rope_high ||
         a->rope_orig_max != b.rope_orig_max)) {
        NS_INFO("rotary scaling: factor %g of %s (a NeMo file without it means %g)", b.rope_factor, p, a->rope_factor);
        a->rope_factor = b.rope_factor;
        a->rope_low = b.rope_low;
        a->rope_high = b.rope_high;
        a->rope_orig_max = b.rope_orig_max;
    }
    return NS_OK;
}

/* ---- input ---- */
static ns_status open_input(job *j, ns_error *err)
{
    const ns_export_args *a = j->a;
    ns_format f = ns_model_format(a->input);
    NS_FAIL_IF(a->gguf_type && strcmp(a->to, "gguf"), NS_ERR_CONFIG, "--gguf-type is for --convert_to gguf");
    NS_FAIL_IF(a->gguf_type && a->has_dtype, NS_ERR_CONFIG, "give --gguf-type or --dtype, not both");
    NS_FAIL_IF(!ns_path_exists(a->input), NS_ERR_INPUT, "%s: no model found: no such file or folder", a->input);
    NS_FAIL_IF(f == NS_FORMAT_UNKNOWN, NS_ERR_INPUT,
               "%s: no model found: neither config.json (hf, trtllm), model_config.yaml or a .nemo file (nemo), nor a "
               "GGUF file",
               a->input);
    j->r->from = ns_format_name(f);
    if (a->from && strcmp(a->from, j->r->from)) {
        NS_FAIL_IF(f != NS_FORMAT_HF, NS_ERR_CONFIG, "--convert_from %s, but %s is in %s layout", a->from, a->input,
                   j->r->from);
        NS_INFO("%s is in Hugging Face layout already: read as it is", a->input);
    }
    NS_TRY(ns_model_arch(&j->arch, a->input, err), "input");
    int qwen = j->arch.family == NS_FAMILY_QWEN2 || j->arch.family == NS_FAMILY_QWEN3;
    NS_FAIL_IF(a->model_type && strcmp(a->model_type, qwen ? "qwen" : "llama"), NS_ERR_MISMATCH,
               "--model_type %s, but %s is of type %s (known: llama with Mistral, qwen)", a->model_type, a->input,
               qwen ? "qwen" : "llama");
    NS_TRY(ns_param_table_build(&j->table, &j->arch, &j->arena, err), "input");
    NS_TRY(ns_model_source_open(&j->src, a->input, &j->table, err), "input");
    NS_TRY(find_tokenizer(j, err), "%s", "");
    NS_TRY(complete_arch(j, err), "%s", "");
    NS_TRY(ns_export_stops(&j->arch, &j->eot, j->tokenizer, err), "%s", "");
    j->dt = a->has_dtype ? a->dt : j->src.tensor[0]->dt;
    if (j->dt != NS_DTYPE_BF16 && j->dt != NS_DTYPE_F16) j->dt = NS_DTYPE_F32;
    if (!strcmp(a->to, "gguf")) {
        j->quant = a->gguf_type             ? a->gguf_type
                   : j->dt == NS_DTYPE_BF16 ? "bf16"
                   : j->dt == NS_DTYPE_F16  ? "f16"
                                            : "f32";
        j->dt = NS_DTYPE_F32;
    }
    NS_FAIL_IF(a->weight_only && strcmp(a->to, "trtllm"), NS_ERR_CONFIG,
               "--use_weight_only is for --convert_to trtllm");
    NS_FAIL_IF(a->fp8 && strcmp(a->to, "trtllm"), NS_ERR_CONFIG, "--use_fp8 is for --convert_to trtllm");
    NS_FAIL_IF(a->fp8 && a->weight_only, NS_ERR_CONFIG, "give --use_fp8 or --use_weight_only, not both");
    NS_FAIL_IF(a->fp8 && !a->calib_rows, NS_ERR_CONFIG,
               "--use_fp8 needs --calib_dataset FILE: rows of text (JSONL) that the model runs over to measure its "
               "activations");
    j->stored = j->dt;
    if (a->weight_only_packed || a->fp8) j->dt = NS_DTYPE_F32; /* of the rows that are compared */
    j->r->dt = j->dt;
    j->r->type = a->fp8                  ? "fp8"
                 : a->weight_only_packed ? (a->weight_only == 8 ? "int8" : "int4")
                 : j->quant              ? j->quant
                                         : ns_dtype_name(j->dt);
    j->r->n_elements = j->table.n_elements;
    return NS_OK;
}

/* ---- output ---- */
static ns_status make_sink(job *j, ns_sink **out, const char *tmp, ns_error *err)
{
    const ns_export_args *a = j->a;
    if (!strcmp(a->to, "hf")) return ns_hf_sink(out, tmp, &j->table, j->dt, a->max_shard_bytes, j->tokenizer, err);
    if (!strcmp(a->to, "nemo")) {
        ns_nemo_args n = {&j->table, j->dt, a->nemo_format, j->tokenizer, a->hf_model_name};
        return ns_nemo_sink(out, tmp, &n, err);
    }
    if (!strcmp(a->to, "gguf")) {
        char file[4096];
        ns_gguf_kv kv = {0};
        const char *slash = strrchr(a->output, '/');
        ns_gguf_args g = {&j->table, j->quant, &kv, slash && slash[1] ? slash + 1 : a->output};
        ns_status st = ns_gguf_tokenizer(&kv, j->tokenizer, &j->arch, j->eot, err);
        if (st == NS_OK) st = ns_path(file, sizeof file, err, "%s/model-%s.gguf", tmp, j->quant);
        if (st == NS_OK) st = ns_gguf_sink(out, file, &g, err);
        ns_gguf_kv_free(&kv);
        return st;
    }
    ns_trt_args t = {.table = &j->table,
                     .dt = j->stored,
                     .tp = a->tp,
                     .pp = a->pp,
                     .bits = a->weight_only,
                     .packed = a->weight_only_packed,
                     .fp8 = j->fp8,
                     .fp8_kv = a->fp8_kv};
    NS_TRY(ns_trt_sink(out, tmp, &t, err), "%s", "");
    if (!j->tokenizer) return NS_OK;
    char p[4096];
    NS_TRY(ns_path(p, sizeof p, err, "%s/tokenizer", tmp), "%s", "");
    NS_TRY(ns_mkdirs(p, err), "%s", "");
    return ns_model_write_side_files(p, &j->arch, j->tokenizer, err);
}

/* fp8: largest weights of each kind of matrix, as the type that is stored has them; largest activations. */
static ns_status measure(job *j, ns_error *err)
{
    static const ns_trt_matrix kinds[] = {
        [NS_P_QKV] = NS_TRT_QKV, [NS_P_O] = NS_TRT_DENSE, [NS_P_GATE_UP] = NS_TRT_GATE_UP, [NS_P_DOWN] = NS_TRT_DOWN};
    ns_convert c = {.table = &j->table, .rows = source_rows, .user = j, .dt = j->stored};
    ns_calibrate_args a = {j->a->input,           &j->arch, j->stored, j->tokenizer, j->a->calib_rows, j->a->calib_size,
                           j->a->calib_max_tokens};
    ns_calibrate_report r;
    ns_view_stats *s = ns_arena_alloc(&j->arena, (size_t)j->table.n_views * sizeof *s, err);
    j->fp8 = ns_arena_alloc(&j->arena, (size_t)j->arch.L * sizeof *j->fp8, err);
    if (!s || !j->fp8) return NS_ERR_MEMORY;
    NS_TRY(ns_calibrate(j->fp8, &a, &r, err), "%s", "");
    snprintf(j->r->calibrated, sizeof j->r->calibrated, "%lld rows, %lld tokens (%lld rows cut off at %lld tokens)",
             (long long)r.n_rows, (long long)r.n_tokens, (long long)r.n_cut, (long long)a.most_tokens);
    NS_INFO("calibrated with %s: %s", a.rows, j->r->calibrated);
    NS_TRY(ns_model_convert(&c, s, err), "%s", "");
    for (int v = 0; v < j->table.n_views; v++) {
        const ns_param *p = &j->table.params[j->table.views[v].param];
        if (p->layer < 0 || (size_t)p->kind >= sizeof kinds / sizeof kinds[0] || !kinds[p->kind]) continue;
        float *most = &j->fp8[p->layer].w[kinds[p->kind]];
        *most = fmaxf(*most, (float)fmax(fabs(s[v].min), fabs(s[v].max)));
    }
    return NS_OK;
}

static const ns_dtype *native_types(const ns_model_source *s, ns_arena *arena, ns_error *err)
{
    ns_dtype *d = ns_arena_alloc(arena, (size_t)s->t->n_views * sizeof *d, err);
    for (int v = 0; d && v < s->t->n_views; v++) d[v] = s->tensor[v]->dt;
    return d;
}

static ns_status view_done(void *user, int view, const ns_view_stats *s, ns_error *err)
{
    (void)user;
    return ns_export_note(view, s, err);
}

static ns_status write_output(job *j, const char *tmp, ns_error *err)
{
    ns_sink *sink = NULL;
    ns_status st = NS_OK;
    int n = 0;
    uint8_t *kept = ns_arena_alloc(&j->arena, (size_t)j->table.n_views, err);
    ns_convert c = {.table = &j->table, .rows = source_rows, .user = j, .progress = progress, .view_done = view_done};
    c.native = native_types(&j->src, &j->arena, err);
    j->stats = ns_arena_alloc(&j->arena, (size_t)j->table.n_views * sizeof *j->stats, err);
    if (!c.native || !j->stats || !kept) return NS_ERR_MEMORY;
    ns_export_kept(kept, j->stats, j->table.n_views, &n);
    c.kept = kept;
    if (j->kept)
        NS_INFO("going on after an interrupted export: %d of %d tensors are in %s already", n, j->table.n_views, tmp);
    NS_CHECK(st, make_sink(j, &sink, tmp, err), "%s", "");
    c.sink = sink;
    NS_CHECK(st, ns_archive_check_later(&j->src.a, err), "%s", "");
    NS_CHECK(st, ns_model_convert(&c, j->stats, err), "%s", "");
    NS_CHECK(st, ns_archive_check_now(&j->src.a, err), "input");
done:
    ns_sink_free(&sink);
    return st;
}

/* ---- proof ---- */
static ns_status report_view(job *j, int v, ns_buf *b, ns_error *err)
{
    const ns_view *w = &j->table.views[v];
    const ns_view_stats *s = &j->stats[v];
    char lo[32], hi[32], mean[32];
    double m = s->sum / (double)s->n;
    ns_json_format_double(lo, isfinite(s->min) ? s->min : 0);
    ns_json_format_double(hi, isfinite(s->max) ? s->max : 0);
    ns_json_format_double(mean, isfinite(m) ? m : 0);
    NS_TRY(
        ns_buf_printf(b, err, "%s\n    {\"name\": \"%s\", \"shape\": [%lld", v ? "," : "", w->name, (long long)w->rows),
        "%s", "");
    if (w->nd == 2) NS_TRY(ns_buf_printf(b, err, ", %lld", (long long)j->table.params[w->param].cols), "%s", "");
    NS_TRY(ns_buf_printf(b, err, "], \"dtype\": \"%s\", \"crc32\": \"%08x\", \"min\": %s, \"max\": %s, \"mean\": %s",
                         s->type, s->crc, lo, hi, mean),
           "%s", "");
    if (s->exact) return ns_buf_addc(b, '}', err);
    double e = s->sum2 > 0 ? sqrt(s->err2 / s->sum2) : 0; /* the checksum is that of the values in f32 */
    return ns_buf_printf(b, err, ", \"relative_error\": %.3g}", isfinite(e) ? e : 0);
}

static int same_record(const ns_arch *a, const ns_arch *b)
{
    return a->family == b->family && a->vocab == b->vocab && a->C == b->C && a->F == b->F && a->L == b->L &&
           a->n_heads == b->n_heads && a->n_kv == b->n_kv && a->head_dim == b->head_dim && a->max_pos == b->max_pos &&
           a->norm_eps == b->norm_eps && a->qkv_bias == b->qkv_bias && a->qk_norm == b->qk_norm && a->tied == b->tied &&
           a->rope == b->rope && a->rope_theta == b->rope_theta && a->rope_factor == b->rope_factor &&
           a->rope_low == b->rope_low && a->rope_high == b->rope_high && a->window == b->window;
}

/* Opens what was written as a user would and reads every tensor: the checksums must be those of what was meant to be written. */
static ns_status read_back(job *j, const char *tmp, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("export.proof");
    ns_arch arch;
    ns_param_table table;
    ns_model_source back = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_model_arch(&arch, tmp, err), "read back");
    NS_BAIL_IF(st, !same_record(&arch, &j->arch), NS_ERR_INTERNAL,
               "the configuration that was written does not describe the input's architecture");
    NS_CHECK(st, ns_param_table_build(&table, &arch, &arena, err), "read back");
    NS_CHECK(st, ns_model_source_open(&back, tmp, &table, err), "read back");
    ns_convert c = {.table = &table, .rows = ns_model_source_rows_as, .user = &back, .dt = j->dt, .expect = j->stats};
    c.native = native_types(&back, &arena, err);
    if (!c.native) st = NS_ERR_MEMORY;
    if (st != NS_OK) goto done;
    NS_CHECK(st, ns_archive_check_later(&back.a, err), "read back");
    NS_CHECK(st, ns_model_convert(&c, NULL, err), "read back");
    NS_CHECK(st, ns_archive_check_now(&back.a, err), "read back");
    j->r->n_compared = table.n_views;
done:
    if (back.t) ns_model_source_close(&back);
    ns_arena_free(&arena);
    return st;
}

/* How far logits may differ: not at all if every value is kept, else by what the stored type costs on models of random weights. A
 * wrong constant or a swapped tensor gives 0.5 and more. */
static double parity_limit(const job *j)
{
    static const struct {
        const char *type;
        double limit;
    } by_type[] = {{"q8_0", 0.15}, {"q6_k", 0.35}, {"q4_k_m", 0.8}};
    int exact = 1;
    for (int v = 0; v < j->table.n_views; v++) exact &= j->src.tensor[v]->dt == j->dt;
    for (size_t i = 0; j->quant && i < 3; i++)
        if (!strcmp(j->quant, by_type[i].type)) return by_type[i].limit;
    if (j->a->fp8) return 0.15;
    if (j->a->weight_only_packed) return j->a->weight_only == 8 ? 0.15 : 0.8;
    if (j->quant) exact = 1;
    for (int v = 0; j->quant && v < j->table.n_views; v++)
        exact &= j->stats[v].dt == NS_DTYPE_F32 || j->src.tensor[v]->dt == j->stats[v].dt;
    if (j->dt == NS_DTYPE_F32 && !j->quant) exact = 1;
    return exact ? 0 : 0.1;
}

static ns_status parity(job *j, const char *path, ns_buf *b, ns_error *err)
{
    ns_parity p;
    ns_arch arch;
    const char *mode = j->a->parity ? j->a->parity : "auto";
    double limit = parity_limit(j);
    if (!strcmp(mode, "off")) return ns_buf_adds(b, ",\n  \"parity\": {\"skipped\": \"--parity off\"}", err);
    NS_TRY(ns_model_arch(&arch, path, err), "%s", "");
    NS_TRY(ns_parity_check(&p, j->a->input, &j->arch, path, &arch, !strcmp(mode, "on"), err), "%s", "");
    if (p.skipped[0]) {
        snprintf(j->r->parity, sizeof j->r->parity, "logits not compared: %.200s", p.skipped);
        NS_TRY(ns_buf_adds(b, ",\n  \"parity\": {\"skipped\": ", err), "%s", "");
        NS_TRY(ns_json_write_str(b, (ns_str){p.skipped, strlen(p.skipped)}, NS_JSON_UTF8, err), "%s", "");
        return ns_buf_addc(b, '}', err);
    }
    NS_FAIL_IF(!(p.relative <= limit), NS_ERR_NUMERIC,
               "logits of input and output differ by %.3g of their size on %d tokens (at most %.3g expected)",
               p.relative, p.n_tokens, limit);
    snprintf(j->r->parity, sizeof j->r->parity, "logits of %d tokens differ by %.3g of their size", p.n_tokens,
             p.relative);
    return ns_buf_printf(b, err,
                         ",\n  \"parity\": {\"tokens\": %d, \"same_top\": %d, \"relative_difference\": %.3g, "
                         "\"largest_difference\": %.3g}",
                         p.n_tokens, p.n_same_top, p.relative, p.largest);
}

static ns_status prove(job *j, const char *tmp, ns_error *err)
{
    ns_buf b = {0};
    char path[4096];
    ns_status st = NS_OK;
    j->before = (double)j->table.n_elements;
    char file[4096];
    NS_CHECK(st, ns_path(file, sizeof file, err, j->quant ? "%s/model-%s.gguf" : "%s", tmp, j->quant), "%s", "");
    j->reading_back = 1;
    NS_CHECK(st, read_back(j, file, err), "proof");
    j->reading_back = 0;
    NS_CHECK(st, ns_buf_adds(&b, "{\n  \"input\": ", err), "%s", "");
    NS_CHECK(st, ns_json_write_str(&b, (ns_str){j->a->input, strlen(j->a->input)}, NS_JSON_UTF8, err), "%s", "");
    NS_CHECK(st,
             ns_buf_printf(&b, err, ",\n  \"from\": \"%s\",\n  \"to\": \"%s\",\n  \"read_back\": true", j->r->from,
                           j->a->to),
             "%s", "");
    if (j->a->fp8) {
        NS_CHECK(st, ns_buf_adds(&b, ",\n  \"calibrated\": ", err), "%s", "");
        ns_str how = {j->r->calibrated, strlen(j->r->calibrated)};
        NS_CHECK(st, ns_json_write_str(&b, how, NS_JSON_UTF8, err), "%s", "");
    }
    NS_CHECK(st, parity(j, file, &b, err), "parity");
    NS_CHECK(st, ns_buf_adds(&b, ",\n  \"tensors\": [", err), "%s", "");
    for (int v = 0; v < j->table.n_views; v++) NS_CHECK(st, report_view(j, v, &b, err), "report");
    NS_CHECK(st, ns_buf_adds(&b, "\n  ]\n}\n", err), "%s", "");
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/conversion.json", tmp), "%s", "");
    NS_CHECK(st, ns_file_replace(path, b.data, b.len, err), "write report");
    j->r->n_tensors = j->table.n_views;
done:
    ns_buf_free(&b);
    return st;
}

/* The job's log folder lies inside the output (pipelines.md §1.4) and is there before the model: it is not in the way. */
static int only_logs(const char *output)
{
    DIR *d = opendir(output);
    int other = 0;
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d));)
        other |= strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(e->d_name, "conversion-logs");
    closedir(d);
    return !other;
}

static ns_status publish(const char *tmp, const char *parent, const char *name, const char *output, ns_error *err)
{
    char aside[4096], logs[4096];
    int with_logs = ns_path_is_dir(output) && only_logs(output);
    NS_TRY(ns_path(aside, sizeof aside, err, "%s/.%s.logs", parent, name), "%s", "");
    NS_TRY(ns_path(logs, sizeof logs, err, "%s/conversion-logs", output), "%s", "");
    with_logs = with_logs && ns_path_exists(logs);
    NS_FAIL_IF(with_logs && rename(logs, aside), NS_ERR_IO, "cannot move %s aside", logs);
    ns_status st = ns_dir_publish(tmp, parent, name, err);
    if (with_logs && rename(aside, logs)) NS_WARN("cannot move the logs back: they are in %s", aside);
    return st;
}

/* Writes and proves the temporary folder. *tmp: where it is, "" if it could not be begun. */
static ns_status fill(job *j, char tmp[4096], const char *parent, const char *name, int anew, ns_error *err)
{
    ns_buf key = {0};
    ns_status st = ns_export_key(&key, j->a, j->taken_out ? NULL : j->tokenizer, &j->table, err);
    if (st == NS_OK) st = ns_scatter_log_begin(tmp, 4096, parent, name, anew ? NULL : key.data, &j->kept, err);
    ns_buf_free(&key);
    if (st != NS_OK) return st;
    j->before = 0;
    j->reading_back = 0;
    ns_sync_hold();
    j->progress = ns_progress_begin("export", 2.0 * (double)j->table.n_elements, "elements");
    st = write_output(j, tmp, err);
    if (st == NS_OK) st = prove(j, tmp, err);
    ns_progress_end(&j->progress, NULL);
    ns_scatter_log_end();
    if (st != NS_OK) ns_sync_drop(); /* else publishing syncs */
    return st;
}

ns_status ns_export(const ns_export_args *a, ns_export_report *report, ns_error *err)
{
    char parent[4096], name[256], tmp[4096] = "";
    job *j = NULL;
    ns_status st = NS_OK;
    memset(report, 0, sizeof *report);
    NS_FAIL_IF(ns_path_exists(a->output) && !only_logs(a->output) && !a->force, NS_ERR_INPUT,
               "%s exists already: remove it, choose another output, or say --force", a->output);
    NS_FAIL_IF(a->force && ns_path_exists(a->output) && !only_logs(a->output) && !ns_dir_is_done(a->output, 0, NULL),
               NS_ERR_INPUT, "%s exists and is not a complete model of ours (no DONE): remove it by hand", a->output);
    NS_TRY(ns_alloc((void **)&j, sizeof *j, "export", err), "export");
    j->a = a;
    j->r = report;
    j->arena.label = "export";
    NS_CHECK(st, open_input(j, err), "%s", "");
    if (a->fp8) NS_CHECK(st, measure(j, err), "%s", "");
    NS_CHECK(st, ns_path_split(parent, name, a->output, err), "%s", "");
    NS_CHECK(st, ns_mkdirs(parent, err), "write %s", a->output);
    ns_error why = NS_ERROR_INIT; /* what an interrupted run left may be damaged: a power cut, another program */
    st = fill(j, tmp, parent, name, 0, &why);
    if (j->kept && (st == NS_ERR_INTERNAL || (j->reading_back && st == NS_ERR_INPUT))) {
        NS_WARN("what the interrupted export left is damaged, starting anew: %s", why.msg);
        why = (ns_error)NS_ERROR_INIT;
        st = fill(j, tmp, parent, name, 1, &why);
    }
    if (st != NS_OK && err) *err = why;
    if (st == NS_OK) st = publish(tmp, parent, name, a->output, err);
done:
    ns_sync_drop();
    if (st != NS_OK && tmp[0] && ns_remove_tree(tmp, NULL) != NS_OK) NS_WARN("cannot remove '%s'", tmp);
    if (j) {
        if (j->taken_out && ns_remove_tree(j->taken_out, NULL) != NS_OK) NS_WARN("cannot remove '%s'", j->taken_out);
        if (j->src.t) ns_model_source_close(&j->src);
        ns_arena_free(&j->arena);
    }
    ns_free(j);
    return st;
}
