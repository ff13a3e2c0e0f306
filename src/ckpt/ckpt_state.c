/* state.json and checkpoint names.
 *
 *     {"format": 1, "param_hash": "…16 hex…", "step": 1000, "consumed_samples": 512000, "epoch": 0, "forced": false,
 *      "val_loss": 0.412 | null, "rng": {"kind": "philox4x32-10", "seed": 1},
 *      "schedule": {"max_steps", "warmup_steps", "constant_steps", "lr", "min_lr"},
 *      "data": {"n_rows", "hash"}}
 *
 * Doubles are written so that they read back equal. Names: training.md §2.8. */
#include "ckpt/ckpt_state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "ckpt/scan.h"
#include "ckpt/path.h"

static ns_status put_num(ns_buf *b, const char *before, double x, ns_error *err)
{
    char t[32];
    if (isfinite(x)) {
        ns_json_format_double(t, x);
    } else {
        snprintf(t, sizeof t, "null");
    }
    return ns_buf_printf(b, err, "%s%s", before, t);
}

ns_status ns_ckpt_state_json(ns_buf *b, const ns_ckpt_state *s, const char *param_hash, ns_error *err)
{
    NS_TRY(ns_buf_printf(
               b, err,
               "{\n  \"format\": 1,\n  \"param_hash\": \"%s\",\n  \"step\": %lld,\n  \"consumed_samples\": %lld,\n"
               "  \"epoch\": %lld,\n  \"forced\": %s,\n",
               param_hash, (long long)s->step, (long long)s->consumed_samples, (long long)s->epoch,
               s->forced ? "true" : "false"),
           "%s", "");
    NS_TRY(put_num(b, "  \"val_loss\": ", s->val_loss, err), "%s", "");
    NS_TRY(ns_buf_printf(
               b, err,
               ",\n  \"rng\": {\"kind\": \"philox4x32-10\", \"seed\": %llu},\n  \"schedule\": {\"max_steps\": %lld, "
               "\"warmup_steps\": %lld, \"constant_steps\": %lld",
               (unsigned long long)s->seed, (long long)s->schedule_max_steps, (long long)s->warmup_steps,
               (long long)s->constant_steps),
           "%s", "");
    NS_TRY(put_num(b, ", \"lr\": ", s->lr, err), "%s", "");
    NS_TRY(put_num(b, ", \"min_lr\": ", s->min_lr, err), "%s", "");
    return ns_buf_printf(b, err, "},\n  \"data\": {\"n_rows\": %lld, \"hash\": \"%s\"}\n}\n", (long long)s->n_rows,
                         s->data_hash);
}

/* ---- reading ---- */

static ns_status get_int(const ns_json *root, const char *key, int64_t *out, const char *path, ns_error *err)
{
    NS_FAIL_IF(!ns_json_is_int(ns_json_at(root, key), out), NS_ERR_INPUT, "%s: \"%s\" is missing or not an integer",
               path, key);
    return NS_OK;
}

static ns_status get_num(const ns_json *root, const char *key, double *out, const char *path, ns_error *err)
{
    const ns_json *v = ns_json_at(root, key);
    *out = NAN;
    NS_FAIL_IF(!v || (v->type != NS_JSON_NULL && !ns_json_is_num(v, out)), NS_ERR_INPUT,
               "%s: \"%s\" is missing or not a number", path, key);
    return NS_OK;
}

static ns_status get_hash(const ns_json *root, const char *key, char out[17], const char *path, ns_error *err)
{
    const ns_json *v = ns_json_at(root, key);
    NS_FAIL_IF(!v || v->type != NS_JSON_STRING || v->s.n > 16, NS_ERR_INPUT,
               "%s: \"%s\" is missing or not a hash of 16 digits", path, key);
    snprintf(out, 17, "%.*s", (int)v->s.n, v->s.p);
    return NS_OK;
}

static ns_status read_fields(ns_ckpt_state *s, char hash[17], const ns_json *root, const char *path, ns_error *err)
{
    int64_t format;
    memset(s, 0, sizeof *s);
    NS_TRY(get_int(root, "format", &format, path, err), "%s", "");
    NS_FAIL_IF(format != 1, NS_ERR_UNSUPPORTED, "%s: checkpoint format %lld, this program reads format 1", path,
               (long long)format);
    NS_TRY(get_hash(root, "param_hash", hash, path, err), "%s", "");
    NS_TRY(get_int(root, "step", &s->step, path, err), "%s", "");
    NS_TRY(get_int(root, "consumed_samples", &s->consumed_samples, path, err), "%s", "");
    NS_TRY(get_int(root, "epoch", &s->epoch, path, err), "%s", "");
    s->forced = ns_json_truthy(ns_json_get(root, "forced"));
    NS_TRY(get_num(root, "val_loss", &s->val_loss, path, err), "%s", "");
    const ns_json *seed = ns_json_at(root, "rng.seed"); /* unsigned 64 bits: wider than ns_json_is_int */
    NS_FAIL_IF(!seed || seed->type != NS_JSON_NUMBER || seed->s.n > 20, NS_ERR_INPUT,
               "%s: \"rng.seed\" is missing or not an integer", path);
    char digits[24];
    snprintf(digits, sizeof digits, "%.*s", (int)seed->s.n, seed->s.p);
    s->seed = strtoull(digits, NULL, 10);
    NS_TRY(get_int(root, "schedule.max_steps", &s->schedule_max_steps, path, err), "%s", "");
    NS_TRY(get_int(root, "schedule.warmup_steps", &s->warmup_steps, path, err), "%s", "");
    NS_TRY(get_int(root, "schedule.constant_steps", &s->constant_steps, path, err), "%s", "");
    NS_TRY(get_num(root, "schedule.lr", &s->lr, path, err), "%s", "");
    NS_TRY(get_num(root, "schedule.min_lr", &s->min_lr, path, err), "%s", "");
    NS_TRY(get_int(root, "data.n_rows", &s->n_rows, path, err), "%s", "");
    return get_hash(root, "data.hash", s->data_hash, path, err);
}

static ns_status read_both(ns_ckpt_state *s, char hash[17], const char *ckpt, ns_error *err)
{
    ns_arena arena = NS_ARENA_INIT("ckpt.state");
    ns_json *root = NULL;
    char path[4096];
    ns_status st = NS_OK;
    NS_CHECK(st, ns_path(path, sizeof path, err, "%s/state.json", ckpt), "%s", "");
    NS_CHECK(st, ns_json_read_file(&root, &arena, path, err), "read checkpoint state");
    NS_CHECK(st, read_fields(s, hash, root, path, err), "read checkpoint state");
done:
    ns_arena_free(&arena);
    return st;
}

ns_status ns_ckpt_read_state(ns_ckpt_state *s, const char *ckpt, ns_error *err)
{
    char hash[17];
    return read_both(s, hash, ckpt, err);
}

ns_status ns_ckpt_read_param_hash(char hash[17], const char *ckpt, ns_error *err)
{
    ns_ckpt_state s;
    return read_both(&s, hash, ckpt, err);
}

/* ---- names: "{val_loss:.3f}" -> "val_loss=0.412" ---- */

static const char *const name_keys[] = {"val_loss", "step", "global_step", "consumed_samples", "epoch", "lr"};

static ns_status format_value(ns_buf *out, const char *key, const char *spec, const ns_ckpt_state *s, ns_error *err)
{
    double x = strcmp(key, "lr") == 0 ? s->lr : s->val_loss;
    int64_t i = strcmp(key, "consumed_samples") == 0 ? s->consumed_samples
                : strcmp(key, "epoch") == 0          ? s->epoch
                                                     : s->step;
    int real = strcmp(key, "lr") == 0 || strcmp(key, "val_loss") == 0;
    size_t n = strlen(spec);
    char kind = n ? spec[n - 1] : real ? 'r' : 'd';
    size_t digits = strspn(spec, "0123456789."), dots = 0;
    for (size_t k = 0; k < digits; k++) dots += spec[k] == '.';
    NS_FAIL_IF(n && (digits != n - 1 || n > 8 || dots > 1 || !strchr(real ? "feg" : "dfeg", kind)), NS_ERR_CONFIG,
               "checkpoint name: \"{%s:%s}\": the format must look like .3f, .2e, g%s", key, spec,
               real ? "" : " or 06d");
    char fmt[72], text[400];
    if (kind == 'd') {
        snprintf(fmt, sizeof fmt, "%%%.*slld", (int)(n ? n - 1 : 0), spec);
        snprintf(text, sizeof text, fmt, (long long)i);
    } else if (kind == 'r') {
        ns_json_format_double(text, x);
    } else {
        snprintf(fmt, sizeof fmt, "%%%s", spec);
        snprintf(text, sizeof text, fmt, real ? x : (double)i);
    }
    return ns_buf_printf(out, err, "%s=%s", key, real && isnan(x) ? "nan" : text);
}

ns_status ns_ckpt_format_name(ns_buf *out, const char *pattern, const ns_ckpt_state *s, ns_error *err)
{
    size_t start = out->len;
    for (const char *p = pattern; *p; p++) {
        if (*p != '{') {
            NS_FAIL_IF(*p == '/' || *p == '}', NS_ERR_CONFIG, "checkpoint name: '%c' in \"%s\" at byte %zu", *p,
                       pattern, (size_t)(p - pattern));
            NS_TRY(ns_buf_addc(out, *p, err), "%s", "");
            continue;
        }
        const char *end = strchr(p, '}'), *colon = end ? memchr(p, ':', (size_t)(end - p)) : NULL;
        NS_FAIL_IF(!end || end - p > 60, NS_ERR_CONFIG, "checkpoint name: \"%s\": '{' at byte %zu has no '}'", pattern,
                   (size_t)(p - pattern));
        char key[64], spec[64];
        const char *key_end = colon ? colon : end;
        snprintf(key, sizeof key, "%.*s", (int)(key_end - p - 1), p + 1);
        snprintf(spec, sizeof spec, "%.*s", colon ? (int)(end - colon - 1) : 0, colon ? colon + 1 : "");
        size_t known = 0, n = sizeof name_keys / sizeof name_keys[0];
        while (known < n && strcmp(key, name_keys[known]) != 0) known++;
        const char *near = ns_suggest(key, name_keys, n);
        NS_FAIL_IF(
            known == n, NS_ERR_CONFIG,
            "checkpoint name: \"%s\": unknown field {%s}%s%s (known: val_loss, step, consumed_samples, epoch, lr)",
            pattern, key, near ? ", did you mean " : "", near ? near : "");
        NS_TRY(format_value(out, key, spec, s, err), "%s", "");
        p = end;
    }
    NS_FAIL_IF(out->len == start || out->data[start] == '.' || out->len - start > 200, NS_ERR_CONFIG,
               "checkpoint name: \"%s\" gives an empty, hidden or too long name (at most 200 bytes)", pattern);
    return NS_OK;
}
