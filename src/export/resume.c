/* Notes of finished tensors in resume.log, and the key that says whose they are. */
#include "export/resume.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "base/scatter_log.h"
#include "ckpt/path.h"

/* Sum over all files below path of a checksum of name, size and times: in no order. Errors surface when the file is read. */
static void add_files(uint64_t *sum, const char *path, int depth)
{
    struct stat sb;
    char line[4400], sub[4096];
    if (stat(path, &sb) != 0 || depth > 4) return;
    if (!S_ISDIR(sb.st_mode)) {
        int n = snprintf(line, sizeof line, "%s %lld %lld.%09ld %llu", path, (long long)sb.st_size,
                         (long long)sb.st_mtim.tv_sec, sb.st_mtim.tv_nsec, (unsigned long long)sb.st_ino);
        *sum += ns_crc32c(0, line, (size_t)n) * UINT64_C(0x9E3779B97F4A7C15);
        return;
    }
    DIR *d = opendir(path);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.' && ns_path(sub, sizeof sub, NULL, "%s/%s", path, e->d_name) == NS_OK)
            add_files(sum, sub, depth + 1);
    closedir(d);
}

ns_status ns_export_key(ns_buf *key, const ns_export_args *a, const char *tokenizer, const ns_param_table *t,
                        ns_error *err)
{
    uint64_t sum = 0;
    add_files(&sum, a->input, 0);
    if (tokenizer) add_files(&sum, tokenizer, 0);
    if (a->calib_rows) add_files(&sum, a->calib_rows, 0);
    add_files(&sum, "/proc/self/exe", 0);
    return ns_buf_printf(key, err, NS_VERSION " %s %s %016" PRIx64 " %s %s %d %d %lld %d %d %d %d %d %lld %lld", a->to,
                         t->hash, sum, a->gguf_type ? a->gguf_type : "-", a->nemo_format, a->has_dtype, (int)a->dt,
                         (long long)a->max_shard_bytes, a->tp, a->pp, a->weight_only, a->weight_only_packed,
                         a->fp8 + 2 * a->fp8_kv, (long long)a->calib_size, (long long)a->calib_max_tokens);
}

ns_status ns_export_note(int view, const ns_view_stats *s, ns_error *err)
{
    char line[320];
    snprintf(line, sizeof line, "view %d %a %a %a %a %a %08" PRIx32 " %" PRId64 " %d", view, s->min, s->max, s->sum,
             s->err2, s->sum2, s->crc, s->n, s->exact);
    return ns_scatter_log_note(line, err);
}

void ns_export_kept(uint8_t *kept, ns_view_stats *stats, int n_views, int *n)
{
    *n = 0;
    const char *line;
    for (size_t i = 0; (line = ns_scatter_log_kept(i)); i++) {
        ns_view_stats s = {0};
        int v, used = 0;
        if (sscanf(line, "view %d %la %la %la %la %la %" SCNx32 " %" SCNd64 " %d%n", &v, &s.min, &s.max, &s.sum,
                   &s.err2, &s.sum2, &s.crc, &s.n, &s.exact, &used) != 9 ||
            line[used] || v < 0 || v >= n_views)
            continue;
        *n += !kept[v];
        kept[v] = 1;
        stats[v] = s;
    }
}
