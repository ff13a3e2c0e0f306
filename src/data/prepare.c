/* The runner: chooses processors, builds them all (so that every parameter error and failing test case shows before any
 * row is read), links outputs to inputs, pulls the last one until it is done (data.md §1.4). */
#include "data/prepare.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/prepare_fuse.h"

static const ns_stage_class *const stage_classes[] = {
    &ns_stage_read,    &ns_stage_merge,     &ns_stage_group,    &ns_stage_code_text,
    &ns_stage_shuffle, &ns_stage_write_sft, &ns_stage_write_rl, NULL};
/* Understood on every processor; those that steer the reference's process pools have nothing to steer here. */
static const char *const common_params[] = {"_target_",    "should_run",  "input_manifest_file", "output_manifest_file",
                                            "test_cases",  "max_workers", "chunksize",           "in_memory_chunksize",
                                            "_recursive_", NULL};

/* ---- building ---- */
static ns_status find_class(const ns_stage_class **out, const char *target, const char *path, ns_error *err)
{
    const char *dot = strrchr(target, '.'), *name = dot ? dot + 1 : target, *names[64];
    size_t n = 0;
    const ns_stage_class *const *lists[] = {stage_classes, ns_filter_classes};
    for (int l = 0; l < 2; l++)
        for (const ns_stage_class *const *c = lists[l]; *c; c++) {
            names[n++] = (*c)->name;
            if (strcmp((*c)->name, name)) continue;
            *out = *c;
            return NS_OK;
        }
    const char *s = ns_suggest(name, names, n);
    NS_FAIL(NS_ERR_CONFIG, "%s: unknown processor '%s'%s%s%s", path, target, s ? ": did you mean '" : "", s ? s : "",
            s ? "'?" : "");
}

static ns_status check_params(const ns_stage_class *cls, const ns_node *node, const char *path, ns_error *err)
{
    const char *names[64];
    size_t n = 0;
    for (size_t k = 0; common_params[k]; k++) names[n++] = common_params[k];
    for (size_t k = 0; cls->params[k]; k++) names[n++] = cls->params[k];
    for (size_t i = 0; i < node->n; i++) {
        size_t k = 0;
        while (k < n && strcmp(names[k], node->keys[i])) k++;
        if (k < n) continue;
        const char *s = ns_suggest(node->keys[i], names, n);
        NS_FAIL(NS_ERR_CONFIG, "%s: %s has no parameter '%s'%s%s%s",
                node->items[i]->origin ? node->items[i]->origin : path, cls->name, node->keys[i],
                s ? ": did you mean '" : "", s ? s : "", s ? "'?" : "");
    }
    return NS_OK;
}

/* The raw node at processors.I[.processor_configs.J]. */
static const ns_node *raw_node(ns_prepare *p, const char *path)
{
    size_t i = 0, j = 0;
    int n = sscanf(path, "processors.%zu.processor_configs.%zu", &i, &j);
    const ns_node *list = ns_node_get(ns_config_root(p->config), "processors");
    if (n < 1 || !list || i >= list->n) return NULL;
    if (n == 1) return list->items[i];
    const ns_node *inner = ns_node_get(list->items[i], "processor_configs");
    return inner && j < inner->n ? inner->items[j] : NULL;
}

/* ---- test cases ---- */
static void show(ns_buf *b, const ns_json *v)
{
    ns_buf_clear(b);
    if (v) (void)!ns_json_write(b, v, NS_JSON_UTF8, NULL);
}

static ns_status run_test_case(ns_stage *s, const ns_json *c, size_t i, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("prepare.test");
    ns_buf got = {0}, want = {0};
    ns_status st = NS_OK;
    char where[600];
    const ns_json *in = ns_json_get(c, "input"), *out = ns_json_get(c, "output");
    snprintf(where, sizeof where, "%s: test case %zu of %s", s->path, i, s->cls->name);
    NS_BAIL_IF(st, !in || in->type != NS_JSON_OBJECT || !out, NS_ERR_CONFIG, "%s needs input (a map) and output",
               where);
    show(&got, in);
    ns_entry e = {.arena = &a, .where = where};
    NS_CHECK(st, ns_json_parse(&e.row, &a, got.data, got.len, where, 0, err), "test case");
    NS_CHECK(st, s->cls->entry(s, &e, err), "%s", where);
    if (out->type == NS_JSON_ARRAY && out->n == 1) out = &out->items[0];
    int ok = e.dropped ? out->type == NS_JSON_NULL || (out->type == NS_JSON_ARRAY && !out->n)
                       : out->type == NS_JSON_OBJECT && ns_json_equal(e.row, out);
    show(&want, out);
    show(&got, e.dropped ? NULL : e.row);
    NS_BAIL_IF(st, !ok, NS_ERR_CONFIG, "%s fails: produced %.200s, expected %.200s", where,
               got.data && got.len ? got.data : "nothing (dropped)", want.data);
done:
    ns_buf_free(&got);
    ns_buf_free(&want);
    ns_arena_free(&a);
    return st;
}

static ns_status run_test_cases(ns_stage *s, ns_error *err)
{
    const ns_node *n;
    ns_json *cases;
    NS_TRY(ns_param(s, "test_cases", &n, err), "test_cases");
    if (!n || s->skip) return NS_OK;
    NS_FAIL_IF(n->type != NS_NODE_LIST || !s->cls->entry, NS_ERR_CONFIG, "%s: test_cases must be a list, on a filter",
               s->path);
    NS_TRY(ns_json_from_node(&cases, &s->run->arena, n, err), "test_cases");
    for (size_t i = 0; i < cases->n; i++) NS_TRY(run_test_case(s, &cases->items[i], i, err), "test_cases");
    return NS_OK;
}

ns_status ns_stage_new(ns_stage **out, ns_prepare *p, const char *path, ns_error *err)
{
    ns_stage *s = NULL;
    ns_status st = NS_OK;
    const ns_node *node = raw_node(p, path), *target = node ? ns_node_get(node, "_target_") : NULL;
    NS_FAIL_IF(!node || node->type != NS_NODE_MAP || !target || !target->s, NS_ERR_CONFIG,
               "%s: expected a map with _target_, the processor's name", path);
    NS_TRY(ns_alloc((void **)&s, sizeof *s, "prepare.stage", err), "stage");
    s->run = p;
    s->path = path;
    s->manifest_group = -1;
    s->manifest.note = -1;
    NS_CHECK(st, find_class(&s->cls, target->s, path, err), "processors");
    NS_CHECK(st, check_params(s->cls, node, path, err), "processors");
    NS_CHECK(st, ns_param_str(s, "input_manifest_file", NULL, &s->input_manifest, err), "processors");
    NS_CHECK(st, ns_param_str(s, "output_manifest_file", NULL, &s->output_manifest, err), "processors");
    NS_CHECK(st, s->cls->init(s, err), "%s (%s)", s->cls->name, path);
    NS_CHECK(st, run_test_cases(s, err), "%s", s->cls->name);
    *out = s;
done:
    if (st != NS_OK) ns_stage_free(&s);
    return st;
}

void ns_stage_free(ns_stage **ps)
{
    ns_stage *s = *ps;
    if (!s) return;
    if (s->manifest.f) ns_out_abort(&s->manifest);
    if (s->cls && s->cls->free) s->cls->free(s);
    ns_free(s);
    *ps = NULL;
}

/* ---- pulling ---- */
static int writes_itself(const ns_stage *s)
{
    return s->cls == &ns_stage_write_sft || s->cls == &ns_stage_write_rl;
}

static ns_status end_list(ns_stage *s, ns_buf *text, ns_error *err)
{
    if (s->manifest_group < 0) return NS_OK;
    s->manifest_group = -1;
    return ns_buf_adds(text, "]\n", err);
}

/* Copies what passes into output_manifest_file: a row a line, or a list for every group, which may go on in the next block.
 * Filters write raw UTF-8. */
static ns_status copy_to_manifest(ns_stage *s, const ns_block *b, ns_error *err)
{
    ns_buf text = {0};
    ns_status st = NS_OK;
    int ascii = !s->cls->entry && s->cls != &ns_stage_merge;
    if (!s->manifest.f) NS_CHECK(st, ns_out_open(&s->manifest, s->output_manifest, err), "output_manifest_file");
    for (size_t i = 0; i < b->n; i++) {
        const ns_line *l = &b->line[i];
        ns_buf_clear(&text);
        if (l->group >= 0 && l->group == s->manifest_group) {
            NS_CHECK(st, ns_buf_adds(&text, ", ", err), "manifest");
        } else {
            NS_CHECK(st, end_list(s, &text, err), "manifest");
            if (l->group >= 0) NS_CHECK(st, ns_buf_adds(&text, "[", err), "manifest");
            s->manifest_group = l->group;
        }
        NS_CHECK(st, ascii ? ns_json_to_ascii(&text, l->p, l->n, err) : ns_buf_add(&text, l->p, l->n, err), "manifest");
        if (l->group < 0) NS_CHECK(st, ns_buf_adds(&text, "\n", err), "manifest");
        NS_CHECK(st, ns_file_write(s->manifest.f, text.data, text.len, err), "manifest");
    }
    if (!b->n && s->manifest_group >= 0) {
        ns_buf_clear(&text);
        NS_CHECK(st, end_list(s, &text, err), "manifest");
        NS_CHECK(st, ns_file_write(s->manifest.f, text.data, text.len, err), "manifest");
    }
done:
    ns_buf_free(&text);
    return st;
}

ns_status ns_stage_drops(const ns_stage *s, const ns_line *l, const char *why, ns_error *err)
{
    ns_prepare *p = s->run;
    ns_buf b = {0};
    ns_status st = NS_OK;
    const char *file = l->file >= 0 && (size_t)l->file < p->n_files ? p->file[l->file] : "";
    if (!p->dropped.f) return NS_OK;
    NS_CHECK(st, ns_buf_adds(&b, "{\"file\": ", err), "dropped_file");
    NS_CHECK(st, ns_json_write_str(&b, (ns_str){file, strlen(file)}, NS_JSON_ASCII, err), "dropped_file");
    NS_CHECK(st,
             ns_buf_printf(&b, err, ", \"line\": %" PRId64 ", \"by\": \"%s\", \"path\": \"%s\", \"why\": \"%s\"}\n",
                           l->line, s->cls->name, s->path, why),
             "dropped_file");
    NS_CHECK(st, ns_file_write(p->dropped.f, b.data, b.len, err), "dropped_file");
done:
    ns_buf_free(&b);
    return st;
}

ns_status ns_stage_next(ns_stage *s, ns_block *out, ns_error *err)
{
    if (s->cls->entry)
        NS_TRY(ns_filters_next(s, &s, 1, out, err), "%s", s->cls->name);
    else
        NS_TRY(s->cls->next(s, out, err), "%s", s->cls->name);
    s->n_rows += (int64_t)out->n;
    if (!s->output_manifest || writes_itself(s) || s->manifest_done) return NS_OK;
    NS_TRY(copy_to_manifest(s, out, err), "%s", s->cls->name);
    if (out->n) return NS_OK;
    s->manifest_done = 1;
    return ns_out_commit(&s->manifest, err);
}

/* ---- choosing and linking ---- */
static int parse_bound(const char *s, const char *end, int64_t n, int64_t def, int64_t *out)
{
    if (s == end) {
        *out = def;
        return 1;
    }
    char *stop;
    long long v = strtoll(s, &stop, 10);
    if (stop != end) return 0;
    if (v < 0) v += n;
    *out = v < 0 ? 0 : v > n ? n : v;
    return 1;
}

/* processors_to_run: all, start:stop[:step], or one index. Sets chosen[i]. */
static ns_status choose(const char *what, int64_t n, char *chosen, ns_error *err)
{
    int64_t from = 0, to = n, step = 1;
    if (!strcmp(what, "all")) {
        memset(chosen, 1, (size_t)n);
        return NS_OK;
    }
    const char *c1 = strchr(what, ':'), *c2 = c1 ? strchr(c1 + 1, ':') : NULL, *end = what + strlen(what);
    if (!c1) {
        char *stop;
        long long v = strtoll(what, &stop, 10);
        NS_FAIL_IF(stop == what || *stop || v < -n || v >= n, NS_ERR_CONFIG,
                   "processors_to_run=%s: expected all, start:stop[:step] or an index below %" PRId64, what, n);
        chosen[v < 0 ? v + n : v] = 1;
        return NS_OK;
    }
    int ok = parse_bound(what, c1, n, 0, &from) && parse_bound(c1 + 1, c2 ? c2 : end, n, n, &to);
    if (c2 && c2 + 1 < end) step = strtoll(c2 + 1, NULL, 10);
    NS_FAIL_IF(!ok || step < 1, NS_ERR_CONFIG, "processors_to_run=%s: expected all, start:stop[:step] or an index",
               what);
    for (int64_t i = from; i < to; i += step) chosen[i] = 1;
    return NS_OK;
}

typedef struct plan {
    ns_stage **stage; /* built, in order; a hidden source first where input comes from a file */
    size_t n;
} plan;

static ns_status add_source(plan *pl, ns_prepare *p, const char *path, ns_error *err)
{
    ns_stage *s = NULL;
    NS_TRY(ns_alloc((void **)&s, sizeof *s, "prepare.stage", err), "stage");
    s->cls = &ns_stage_manifest;
    s->run = p;
    s->path = "input_manifest_file";
    s->manifest_group = -1;
    s->manifest.note = -1;
    s->input_manifest = path;
    pl->stage[pl->n++] = s;
    return NS_OK;
}

static ns_status entry_param(ns_prepare *p, size_t i, const char *key, const ns_node **out, ns_error *err)
{
    char path[128];
    snprintf(path, sizeof path, "processors.%zu.%s", i, key);
    return ns_config_get(p->config, path, out, err);
}

/* What the entry before number i left in a file, or NULL; entries that do not run are passed over. */
static ns_status earlier_output(const char **out, ns_prepare *p, size_t i, ns_error *err)
{
    *out = NULL;
    while (i-- > 0) {
        const ns_node *run, *file;
        NS_TRY(entry_param(p, i, "should_run", &run, err), "processors");
        if (run && !ns_node_truthy(run)) continue;
        NS_TRY(entry_param(p, i, "output_manifest_file", &file, err), "processors");
        if (file && file->type == NS_NODE_STRING) *out = file->s;
        return NS_OK;
    }
    return NS_OK;
}

/* Connects a new stage to the one before it, or to a file. */
static ns_status link_input(plan *pl, ns_prepare *p, ns_stage *s, size_t i, ns_error *err)
{
    const char *file = s->input_manifest;
    if (s->cls->needs_no_input) return NS_OK;
    if (!file && !pl->n) NS_TRY(earlier_output(&file, p, i, err), "%s", s->path);
    if (file) NS_TRY(add_source(pl, p, file, err), "%s", s->path);
    NS_FAIL_IF(!pl->n, NS_ERR_CONFIG,
               "%s (%s) has no input: run the processors before it too, or set ++%s.input_manifest_file=FILE", s->path,
               s->cls->name, s->path);
    s->input = pl->stage[pl->n - 1];
    return NS_OK;
}

/* Builds the chosen entries that should run. */
static ns_status build(plan *pl, ns_prepare *p, const ns_node *list, const char *chosen, ns_error *err)
{
    for (size_t i = 0; i < list->n; i++) {
        const ns_node *run;
        ns_stage *s = NULL;
        if (!chosen[i]) continue;
        NS_TRY(entry_param(p, i, "should_run", &run, err), "processors");
        if (run && !ns_node_truthy(run)) continue;
        char *path = ns_arena_printf(&p->arena, err, "processors.%zu", i);
        NS_FAIL_IF(!path, NS_ERR_MEMORY, "processors");
        ns_status st = ns_stage_new(&s, p, path, err);
        if (st == NS_OK) st = link_input(pl, p, s, i, err);
        if (st != NS_OK) {
            ns_stage_free(&s);
            return st;
        }
        pl->stage[pl->n++] = s;
    }
    NS_FAIL_IF(!pl->n, NS_ERR_CONFIG, "no processor to run: see processors_to_run and should_run");
    return NS_OK;
}

/* One file under two names: other spelling, a link. Devices and pipes are not files that can be lost. */
static int same_file(const char *a, const char *b)
{
    struct stat x, y;
    if (!strcmp(a, "-") || !strcmp(b, "-")) return 0;
    if (stat(a, &x) || stat(b, &y)) return !strcmp(a, b);
    return S_ISREG(x.st_mode) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static ns_status refuse_same(const char *input, const char *output, ns_error *err)
{
    if (!input || !output || !same_file(input, output)) return NS_OK;
    NS_FAIL(NS_ERR_CONFIG,
            "%s is both an input and the output%s%s%s: choose another output name, or a pattern that does not match it",
            input, strcmp(input, output) ? " (as '" : "", strcmp(input, output) ? output : "",
            strcmp(input, output) ? "')" : "");
}

/* Writing over an input would lose it, and a pattern that matches the output feeds it back on the next run. */
static ns_status check_output(const ns_prepare *p, const plan *pl, ns_error *err)
{
    for (size_t i = 0; i < pl->n; i++) {
        const char *out = pl->stage[i]->output_manifest;
        for (size_t k = 0; out && k < p->n_files; k++) NS_TRY(refuse_same(p->file[k], out, err), "%s", "files");
        for (size_t k = 0; k < i; k++) /* a later one may read what this one wrote in an earlier run */
            NS_TRY(refuse_same(pl->stage[k]->input_manifest, out, err), "%s", pl->stage[i]->cls->name);
    }
    return NS_OK;
}

static ns_status pull_everything(plan *pl, ns_error *err)
{
    ns_stage *last = pl->stage[pl->n - 1];
    for (;;) {
        ns_block b = {0};
        ns_status st = ns_stage_next(last, &b, err);
        size_t n = b.n;
        ns_block_free(&b);
        if (st != NS_OK || !n) return st;
    }
}

static void log_names(const plan *pl)
{
    char names[512] = "";
    size_t at = 0;
    for (size_t i = 0; i < pl->n && at + 60 < sizeof names; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%.50s", i ? ", " : "", pl->stage[i]->cls->name);
    NS_INFO("Processors: %s", names);
}

/* ---- settings that nothing reads ---- */

/* Does a value of the tree say ${key}, ${group} for a key in that group, or ${key:...}? */
static int mentions(const ns_node *n, const char *key)
{
    if (n->type == NS_NODE_LIST || n->type == NS_NODE_MAP) {
        for (size_t i = 0; i < n->n; i++)
            if (mentions(n->items[i], key)) return 1;
        return 0;
    }
    for (const char *p = n->s ? strstr(n->s, "${") : NULL; p; p = strstr(p + 2, "${")) {
        size_t len = strcspn(p + 2, "}:, ");
        if (!strncmp(key, p + 2, len) && (key[len] == 0 || key[len] == '.')) return 1;
    }
    return 0;
}

static ns_status list_readers(const ns_node *root, const ns_node *map, const char *prefix, const char **names,
                              size_t *n, ns_arena *a, ns_error *err)
{
    for (size_t i = 0; i < map->n && *n < 200; i++) {
        const char *key = ns_arena_printf(a, err, "%s%s", prefix, map->keys[i]);
        if (!key) return NS_ERR_MEMORY;
        if (map->items[i]->type == NS_NODE_MAP)
            NS_TRY(list_readers(root, map->items[i], ns_arena_printf(a, err, "%s.", key), names, n, a, err), "%s",
                   "settings");
        else if (mentions(root, key))
            names[(*n)++] = key;
    }
    return NS_OK;
}

/* Settings of the run, which no processor reads. */
static int is_of_the_run(const char *key)
{
    static const char *const keys[] = {"processors", "processors_to_run", "memory",
                                       "temp_dir",   "dropped_file",      "stats_file"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(keys[i], key)) return 1;
    return 0;
}

/* A word of the command line whose key no processor of this configuration reads is a mistake, found before any work. */
static ns_status check_used(ns_prepare *p, const ns_node *map, const char *prefix, ns_error *err)
{
    const ns_node *root = ns_config_root(p->config);
    for (size_t i = 0; i < map->n; i++) {
        const ns_node *n = map->items[i];
        const char *key = ns_arena_printf(&p->arena, err, "%s%s", prefix, map->keys[i]);
        if (!key) return NS_ERR_MEMORY;
        if (is_of_the_run(key)) continue;
        if (n->type == NS_NODE_MAP && n->n && !mentions(root, key))
            NS_TRY(check_used(p, n, ns_arena_printf(&p->arena, err, "%s.", key), err), "%s", "settings");
        else if (n->origin && !strncmp(n->origin, "override ", 9) && !mentions(root, key)) {
            const char *names[200], *s;
            size_t k = 0;
            NS_TRY(list_readers(root, root, "", names, &k, &p->arena, err), "%s", "settings");
            s = ns_suggest(key, names, k);
            NS_FAIL(NS_ERR_CONFIG, "%s: no processor of this configuration uses '%s'%s%s%s", n->origin, key,
                    s ? ": did you mean '" : ": leave it out, or choose another --config-name", s ? s : "",
                    s ? "'?" : "");
        }
    }
    return NS_OK;
}

/* ---- settings of the run ---- */
static ns_status run_text(const ns_prepare *p, const char *key, const char **out, ns_error *err)
{
    const ns_node *n = NULL;
    *out = NULL;
    NS_TRY(ns_config_get(p->config, key, &n, err), "%s", key);
    if (!n || n->type == NS_NODE_NULL) return NS_OK;
    NS_FAIL_IF(n->type == NS_NODE_LIST || n->type == NS_NODE_MAP || !n->s, NS_ERR_CONFIG, "%s: expected text", key);
    if (*n->s) *out = n->s;
    return NS_OK;
}

/* "1.5GB", "512 MiB", "4e9": bytes. K, M, G, T are powers of 1000, with an i of 1024. */
static int parse_bytes(const char *s, double *out)
{
    static const char units[] = "kKmMgGtT";
    char *end;
    double v = strtod(s, &end), k = 1;
    if (end == s || !(v > 0)) return 0;
    while (*end == ' ') end++;
    const char *u = *end ? strchr(units, *end) : NULL;
    if (u) {
        double base = end[1] == 'i' ? 1024 : 1000;
        for (long i = 0; i <= (u - units) / 2; i++) k *= base;
        end += end[1] == 'i' ? 2 : 1;
    }
    if (*end == 'B' || *end == 'b') end++;
    *out = v * k;
    return !*end && *out < 1e18;
}

/* Half of what the machine, or the control group, has free; 0: unknown. */
static double half_of_free(void)
{
    double best = 0;
    char line[200];
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        double kb;
        if (sscanf(line, "MemAvailable: %lf kB", &kb) == 1) best = kb * 1024 / 2;
    }
    if (f) fclose(f);
    f = fopen("/sys/fs/cgroup/memory.max", "r");
    double limit;
    if (f && fscanf(f, "%lf", &limit) == 1 && limit / 2 < best) best = limit / 2;
    if (f) fclose(f);
    return best;
}

static ns_status read_settings(ns_prepare *p, const plan *pl, const char **stats, const char **dropped, ns_error *err)
{
    const char *memory, *output = NULL, *slash;
    double bytes = 1.5e9, half = half_of_free();
    NS_TRY(run_text(p, "memory", &memory, err), "settings");
    NS_TRY(run_text(p, "temp_dir", &p->temp_dir, err), "settings");
    NS_TRY(run_text(p, "stats_file", stats, err), "settings");
    NS_TRY(run_text(p, "dropped_file", dropped, err), "settings");
    if (half > 0 && half < bytes) bytes = half;
    NS_FAIL_IF(memory && !parse_bytes(memory, &bytes), NS_ERR_CONFIG,
               "memory=%s: expected a size such as 1.5GB or 512MiB", memory);
    p->memory = (size_t)bytes;
    for (size_t i = pl->n; i-- > 0 && !output;) output = pl->stage[i]->output_manifest;
    int is_file = output && strcmp(output, "-") && !ns_path_is_special(output);
    if (!*stats && is_file) {
        *stats = ns_arena_printf(&p->arena, err, "%s.stats.json", output);
        if (!*stats) return NS_ERR_MEMORY;
    }
    if (p->temp_dir) {
        NS_FAIL_IF(!ns_path_is_dir(p->temp_dir), NS_ERR_CONFIG, "temp_dir=%s is not a folder", p->temp_dir);
        return NS_OK;
    }
    slash = is_file ? strrchr(output, '/') : NULL;
    p->temp_dir = is_file ? "." : getenv("TMPDIR") && *getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    if (slash) p->temp_dir = slash == output ? "/" : ns_arena_strndup(&p->arena, output, (size_t)(slash - output), err);
    return p->temp_dir ? NS_OK : NS_ERR_MEMORY;
}

/* ---- statistics ---- */
static ns_status stage_statistics(const ns_stage *s, ns_json *list, ns_arena *a, ns_error *err)
{
    ns_json *o = ns_json_new(a, NS_JSON_OBJECT, err);
    int64_t rows = writes_itself(s) ? s->run->n_written : s->n_rows;
    NS_TRY(ns_json_set(o, a, "name", ns_json_new_str(a, s->cls->name, err), err), "statistics");
    NS_TRY(ns_json_set(o, a, "path", ns_json_new_str(a, s->path, err), err), "statistics");
    if (s->input) NS_TRY(ns_json_set(o, a, "rows_in", ns_json_new_int(a, s->input->n_rows, err), err), "statistics");
    NS_TRY(ns_json_set(o, a, "rows_out", ns_json_new_int(a, rows, err), err), "statistics");
    if (s->cls->report) NS_TRY(s->cls->report(s, o, a, err), "statistics");
    return ns_json_append(list, a, o, err);
}

static ns_status make_statistics(ns_buf *out, const ns_prepare *p, const plan *pl, ns_error *err)
{
    ns_arena a = NS_ARENA_INIT("prepare.statistics");
    ns_status st = NS_OK;
    ns_json *o = ns_json_new(&a, NS_JSON_OBJECT, err), *list = ns_json_new(&a, NS_JSON_ARRAY, err);
    const ns_stage *last = pl->stage[pl->n - 1];
    const char *output = last->output_manifest ? last->output_manifest : "";
    int64_t rows = writes_itself(last) ? p->n_written : last->n_rows;
    NS_CHECK(st, ns_json_set(o, &a, "output", ns_json_new_str(&a, output, err), err), "statistics");
    NS_CHECK(st, ns_json_set(o, &a, "rows", ns_json_new_int(&a, rows, err), err), "statistics");
    for (size_t i = 0; i < pl->n; i++) NS_CHECK(st, stage_statistics(pl->stage[i], list, &a, err), "statistics");
    NS_CHECK(st, ns_json_set(o, &a, "processors", list, err), "statistics");
    NS_CHECK(st, ns_json_write_pretty(out, o, err), "statistics");
    NS_CHECK(st, ns_buf_adds(out, "\n", err), "statistics");
done:
    ns_arena_free(&a);
    return st;
}

static ns_status write_text(const char *path, const ns_buf *text, ns_error *err)
{
    ns_out_file f;
    NS_TRY(ns_out_open(&f, path, err), "%s", path);
    ns_status st = ns_file_write(f.f, text->data, text->len, err);
    if (st == NS_OK) return ns_out_commit(&f, err);
    ns_out_abort(&f);
    return st;
}

/* ---- the run ---- */
static ns_status run_plan(ns_prepare *p, plan *pl, const char *stats, const char *dropped, ns_buf *statistics,
                          ns_error *err)
{
    ns_buf text = {0};
    ns_status st = NS_OK;
    if (dropped) NS_CHECK(st, ns_out_open(&p->dropped, dropped, err), "dropped_file");
    NS_CHECK(st, pull_everything(pl, err), "prepare");
    if (dropped) NS_CHECK(st, ns_out_commit(&p->dropped, err), "dropped_file");
    NS_CHECK(st, make_statistics(&text, p, pl, err), "statistics");
    if (stats) NS_CHECK(st, write_text(stats, &text, err), "stats_file (the rows are complete)");
    if (statistics) NS_CHECK(st, ns_buf_add(statistics, text.data, text.len, err), "statistics");
done:
    if (p->dropped.f) ns_out_abort(&p->dropped);
    ns_buf_free(&text);
    return st;
}

/* The side files are not among inputs and outputs. */
static ns_status check_side_files(const ns_prepare *p, const plan *pl, const char *stats, const char *dropped,
                                  ns_error *err)
{
    const char *side[] = {stats, dropped};
    if (stats && dropped) NS_TRY(refuse_same(stats, dropped, err), "%s", "dropped_file");
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; side[k] && i < p->n_files; i++) NS_TRY(refuse_same(p->file[i], side[k], err), "%s", "files");
        for (size_t i = 0; side[k] && i < pl->n; i++) {
            const ns_stage *s = pl->stage[i];
            NS_TRY(refuse_same(s->input_manifest, side[k], err), "%s", k ? "dropped_file" : "stats_file");
            NS_TRY(refuse_same(s->output_manifest, side[k], err), "%s", k ? "dropped_file" : "stats_file");
        }
    }
    return NS_OK;
}

ns_status ns_prepare_run(ns_config *c, ns_threads *pool, ns_buf *statistics, ns_error *err)
{
    ns_prepare p = {.config = c, .pool = pool, .arena = NS_ARENA_INIT("prepare"), .dropped = {.note = -1}};
    const char *stats = NULL, *dropped = NULL;
    plan pl = {0};
    char *chosen = NULL;
    ns_buf dump = {0};
    const ns_node *what, *list = ns_node_get(ns_config_root(c), "processors");
    ns_status st = NS_OK;
    NS_BAIL_IF(st, !list || list->type != NS_NODE_LIST || !list->n, NS_ERR_CONFIG,
               "the configuration has no list of processors");
    NS_CHECK(st, ns_config_get(c, "processors_to_run", &what, err), "processors_to_run");
    NS_CHECK(st, ns_alloc((void **)&chosen, list->n, "prepare.plan", err), "processors");
    NS_CHECK(st, ns_alloc((void **)&pl.stage, (2 * list->n + 1) * sizeof *pl.stage, "prepare.plan", err), "processors");
    NS_CHECK(st, choose(what && what->s ? what->s : "all", (int64_t)list->n, chosen, err), "processors_to_run");
    NS_CHECK(st, ns_config_dump(c, &dump, 0, err), "configuration");
    NS_DEBUG("configuration:\n%s", dump.data);
    NS_CHECK(st, check_used(&p, ns_config_root(c), "", err), "configuration");
    NS_CHECK(st, build(&pl, &p, list, chosen, err), "configuration");
    NS_CHECK(st, check_output(&p, &pl, err), "configuration");
    NS_CHECK(st, read_settings(&p, &pl, &stats, &dropped, err), "settings");
    NS_CHECK(st, ns_fuse_plan(&p.fuse, &p, pl.stage, pl.n, err), "configuration");
    NS_CHECK(st, check_side_files(&p, &pl, stats, dropped, err), "settings");
    log_names(&pl);
    NS_CHECK(st, run_plan(&p, &pl, stats, dropped, statistics, err), "prepare");
done:
    for (size_t i = pl.n; i-- > 0;) ns_stage_free(&pl.stage[i]);
    ns_prepare_free_tiles(&p);
    ns_free(pl.stage);
    ns_free(chosen);
    ns_buf_free(&dump);
    ns_free(p.file);
    ns_arena_free(&p.arena);
    return st;
}
