/* The pipeline sections of tokenizer.json: what is done to text around the model. Each kind of step that is not one of the
 * listed ones is refused by name and place (data.md §6.2). */
#include "tok/tok_loader.h"

enum { PATH_MAX_N = 200 };

static int is_text(const ns_json *v, const char *text)
{
    return v && v->type == NS_JSON_STRING && ns_str_eq(v->s, text);
}
static const ns_json *string_at(const ns_json *v, const char *key)
{
    const ns_json *s = ns_json_at(v, key);
    return s && s->type == NS_JSON_STRING ? s : NULL;
}
/* A boolean that the format asks for. */
static ns_status need_bool(loader *l, const ns_json *v, const char *key, const char *path, int *out, ns_error *err)
{
    const ns_json *b = ns_json_get(v, key);
    NS_FAIL_IF(!b || b->type != NS_JSON_BOOL, NS_ERR_INPUT, "%s: %s.%s is %s, expected true or false", l->src->where,
               path, key, type_name(b));
    *out = b->b;
    return NS_OK;
}
/* A string that must outlive the parsed file. */
static ns_status keep(loader *l, ns_str s, ns_str *out, ns_error *err)
{
    out->p = ns_arena_strndup(&l->t->arena, s.p, s.n, err);
    out->n = s.n;
    return out->p ? NS_OK : NS_ERR_MEMORY;
}

typedef ns_status read_fn(loader *l, const ns_json *v, const char *path, ns_error *err);

/* Sequence: each item of v[key] by `read`. What is not a Sequence is refused: it is none of the known kinds. */
static ns_status read_list(loader *l, const ns_json *v, const char *key, const char *path, read_fn *read,
                           const char *known, ns_error *err)
{
    const ns_json *list = ns_json_get(v, key);
    NS_FAIL_IF(!is_type(v, "Sequence"), NS_ERR_UNSUPPORTED, "%s: %s: '%.*s' is not supported (%s and Sequence are)",
               l->src->where, path, S(type_of(v)), known);
    NS_FAIL_IF(!list || list->type != NS_JSON_ARRAY, NS_ERR_INPUT, "%s: %s.%s is %s, expected an array", l->src->where,
               path, key, type_name(list));
    for (size_t i = 0; i < list->n; i++) {
        char child[PATH_MAX_N];
        NS_FAIL_IF(snprintf(child, sizeof child, "%s.%s[%zu]", path, key, i) >= (int)sizeof child, NS_ERR_INPUT,
                   "%s: %s: sequences are nested too deep", l->src->where, path);
        NS_TRY(read(l, &list->items[i], child, err), "%s", "");
    }
    return NS_OK;
}

/* pattern: {"String": s} or {"Regex": r}. */
static ns_status read_pattern(loader *l, const ns_json *v, const char *path, ns_str *literal, ns_regex **re,
                              ns_error *err)
{
    const ns_json *s = string_at(v, "pattern.String"), *r = string_at(v, "pattern.Regex");
    NS_FAIL_IF(!s == !r, NS_ERR_INPUT, "%s: %s.pattern must be {\"String\": ...} or {\"Regex\": ...}", l->src->where,
               path);
    NS_FAIL_IF(s && !s->s.n, NS_ERR_UNSUPPORTED, "%s: %s.pattern is the empty string", l->src->where, path);
    if (s) return keep(l, s->s, literal, err);
    ns_error why = NS_ERROR_INIT;
    ns_status st = ns_regex_compile(re, r->s.p, r->s.n, &why);
    NS_FAIL_IF(st != NS_OK, st, "%s: %s.pattern.Regex: %s", l->src->where, path, why.msg);
    return NS_OK;
}

/* ---- normalizer ---- */
static ns_status read_normalizer(loader *l, const ns_json *v, const char *path, ns_error *err)
{
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    ns_norm *norm = &l->t->norm;
    ns_norm_step x = {.kind = NS_NORM_FORM};
    int known = 0;
    for (int i = 0; i < 4; i++)
        if (is_type(v, forms[i])) {
            x.form = (ns_form)i;
            known = 1;
        }
    if (!known && !is_type(v, "Prepend") && !is_type(v, "Replace") && !is_type(v, "Strip"))
        return read_list(l, v, "normalizers", path, read_normalizer, "NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip",
                         err);
    NS_FAIL_IF(norm->n == NS_NORM_MAX, NS_ERR_UNSUPPORTED, "%s: %s: more than %d normalizer steps", l->src->where, path,
               NS_NORM_MAX);
    if (is_type(v, "Prepend") || is_type(v, "Replace")) {
        const char *key = is_type(v, "Prepend") ? "prepend" : "content";
        const ns_json *text = string_at(v, key);
        NS_FAIL_IF(!text, NS_ERR_INPUT, "%s: %s.%s is %s, expected a string", l->src->where, path, key,
                   type_name(ns_json_get(v, key)));
        NS_TRY(keep(l, text->s, &x.text, err), "%s", "");
        x.kind = key[0] == 'p' ? NS_NORM_PREPEND : NS_NORM_REPLACE;
    }
    if (is_type(v, "Strip")) {
        x.kind = NS_NORM_STRIP;
        NS_TRY(need_bool(l, v, "strip_left", path, &x.left, err), "%s", "");
        NS_TRY(need_bool(l, v, "strip_right", path, &x.right, err), "%s", "");
    }
    if (x.kind == NS_NORM_REPLACE) NS_TRY(read_pattern(l, v, path, &x.pattern, &x.re, err), "%s", "");
    norm->step[norm->n++] = x;
    return NS_OK;
}

/* ---- pre-tokenizer ---- */
static ns_status add_pre(loader *l, const ns_pre_step *x, const char *path, ns_error *err)
{
    ns_tok *t = l->t;
    if (t->n_pre == NS_PRE_MAX) {
        ns_regex *re = x->re;
        ns_regex_free(&re);
        NS_FAIL(NS_ERR_UNSUPPORTED, "%s: %s: more than %d pre-tokenizer steps", l->src->where, path, NS_PRE_MAX);
    }
    t->pre[t->n_pre++] = *x;
    return NS_OK;
}

static ns_status read_split(loader *l, const ns_json *v, const char *path, ns_error *err)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const ns_json *b = string_at(v, "behavior"), *re = string_at(v, "pattern.Regex");
    ns_pre_step x = {.kind = NS_PRE_SPLIT};
    int k = 0;
    while (b && k < 5 && !ns_str_eq(b->s, names[k])) k++;
    NS_FAIL_IF(!b || k == 5, NS_ERR_UNSUPPORTED,
               "%s: %s.behavior is %.*s, expected Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous",
               l->src->where, path, S(b ? b->s : shown(ns_json_get(v, "behavior"))));
    x.behavior = (ns_behavior)k;
    NS_TRY(need_bool(l, v, "invert", path, &x.invert, err), "%s", "");
    x.fn = re && !ns_json_at(v, "pattern.String") ? ns_split_find(re->s.p, re->s.n) : NULL;
    if (!x.fn) NS_TRY(read_pattern(l, v, path, &x.literal, &x.re, err), "%s", "");
    return add_pre(l, &x, path, err);
}

static ns_status read_byte_level(loader *l, const ns_json *v, const char *path, ns_error *err)
{
    const ns_json *re = ns_json_get(v, "use_regex"); /* absent in old files: true */
    ns_pre_step blank = {.kind = NS_PRE_SPACE}, gpt2 = {.kind = NS_PRE_SPLIT, .fn = ns_split_gpt2};
    l->t->byte_level = 1;
    if (flag(v, "add_prefix_space")) NS_TRY(add_pre(l, &blank, path, err), "%s", "");
    return !is_set(re) || re->b ? add_pre(l, &gpt2, path, err) : NS_OK;
}

/* Old files say add_prefix_space, new ones prepend_scheme. */
static ns_status read_metaspace(loader *l, const ns_json *v, const char *path, ns_pre_step *x, ns_error *err)
{
    static const char *const names[] = {"always", "first", "never"};
    const ns_json *mark = string_at(v, "replacement"), *scheme = ns_json_get(v, "prepend_scheme");
    const ns_json *prefix = ns_json_get(v, "add_prefix_space"), *split = ns_json_get(v, "split");
    size_t len = 0;
    *x = (ns_pre_step){.kind = NS_PRE_METASPACE, .split = !is_set(split) || split->b};
    if (mark && mark->s.n) ns_utf8_at((const uint8_t *)mark->s.p, 0, &len);
    NS_FAIL_IF(!mark || !len || len != mark->s.n, NS_ERR_INPUT, "%s: %s.replacement must be one character",
               l->src->where, path);
    int k = 0;
    while (is_set(scheme) && k < 3 && !is_text(scheme, names[k])) k++;
    NS_FAIL_IF(k == 3, NS_ERR_INPUT, "%s: %s.prepend_scheme is %.*s, expected always, first or never", l->src->where,
               path, S(scheme->type == NS_JSON_STRING ? scheme->s : shown(scheme)));
    NS_FAIL_IF(prefix && prefix->type == NS_JSON_BOOL && !prefix->b && k != NS_SCHEME_NEVER, NS_ERR_INPUT,
               "%s: %s: add_prefix_space false contradicts prepend_scheme '%s'", l->src->where, path, names[k]);
    x->scheme = (ns_scheme)k;
    return keep(l, mark->s, &x->literal, err);
}

static ns_status read_pre_tokenizer(loader *l, const ns_json *v, const char *path, ns_error *err)
{
    ns_pre_step x = {.kind = NS_PRE_SPLIT, .numbers = 1};
    NS_FAIL_IF(l->t->byte_level, NS_ERR_UNSUPPORTED, "%s: %s: '%.*s' after ByteLevel is not supported", l->src->where,
               path, S(type_of(v)));
    if (is_type(v, "Split")) return read_split(l, v, path, err);
    if (is_type(v, "ByteLevel")) return read_byte_level(l, v, path, err);
    if (is_type(v, "Digits")) {
        int alone;
        NS_TRY(need_bool(l, v, "individual_digits", path, &alone, err), "%s", "");
        x.behavior = alone ? NS_CUT_ISOLATED : NS_CUT_CONTIGUOUS;
        return add_pre(l, &x, path, err);
    }
    if (is_type(v, "Metaspace")) {
        NS_TRY(read_metaspace(l, v, path, &x, err), "%s", "");
        /* Is a piece the first of the text? After steps that change text only its source tells. */
        if (x.scheme == NS_SCHEME_FIRST && (l->t->n_pre || l->t->norm.n)) l->t->track = 1;
        return add_pre(l, &x, path, err);
    }
    return read_list(l, v, "pretokenizers", path, read_pre_tokenizer, "Split, Digits, Metaspace, ByteLevel", err);
}

/* The steps as stages of the short way (tok.c), if they allow it. The known patterns match all of the text, so "remove what
 * does not match" is the same as "isolate". */
static void choose_way(ns_tok *t)
{
    int blanks = 0;
    for (int i = 0; i < t->n_pre && !t->general; i++) {
        const ns_pre_step *x = &t->pre[i];
        int plain = x->fn && (x->behavior == NS_CUT_ISOLATED || (x->behavior == NS_CUT_REMOVED && x->invert));
        int blank = x->kind == NS_PRE_SPACE && !blanks++;
        if ((!plain && !blank) || t->n_stages == NS_TOK_MAX_STAGES)
            t->general = 1;
        else
            t->stage[t->n_stages++] = x->fn;
    }
}

/* ---- post-processor ---- */
/* Template items before and after the text; an outer template wraps the inner one. */
static ns_status read_template(loader *l, const ns_json *v, const char *path, ns_error *err)
{
    const ns_json *single = ns_json_get(v, "single"), *table = ns_json_get(v, "special_tokens");
    NS_FAIL_IF(!single || single->type != NS_JSON_ARRAY, NS_ERR_INPUT, "%s: %s.single is %s, expected an array",
               l->src->where, path, type_name(single));
    ns_ids before = {0}, *to = &before, inner_suffix = l->t->suffix;
    ns_status st = NS_OK;
    l->t->suffix = (ns_ids){0};
    for (size_t i = 0; i < single->n; i++) {
        const ns_json *seq = ns_json_at(&single->items[i], "Sequence.id");
        const ns_json *name = ns_json_at(&single->items[i], "SpecialToken.id");
        if (seq) {
            NS_BAIL_IF(st, to != &before || seq->type != NS_JSON_STRING || !ns_str_eq(seq->s, "A"), NS_ERR_UNSUPPORTED,
                       "%s: %s.single must have the text ($A) once", l->src->where, path);
            for (size_t k = 0; k < l->t->prefix.n; k++) NS_CHECK(st, ns_ids_push(to, l->t->prefix.v[k], err), "%s", "");
            to = &l->t->suffix;
            for (size_t k = 0; k < inner_suffix.n; k++) NS_CHECK(st, ns_ids_push(to, inner_suffix.v[k], err), "%s", "");
            continue;
        }
        NS_BAIL_IF(st, !name || name->type != NS_JSON_STRING, NS_ERR_INPUT,
                   "%s: %s.single[%zu] is neither a Sequence nor a SpecialToken", l->src->where, path, i);
        const ns_json *ids = NULL;
        for (size_t k = 0; table && table->type == NS_JSON_OBJECT && k < table->n; k++)
            if (table->keys[k].n == name->s.n && !memcmp(table->keys[k].p, name->s.p, name->s.n))
                ids = ns_json_get(&table->items[k], "ids");
        NS_BAIL_IF(st, !ids || ids->type != NS_JSON_ARRAY, NS_ERR_INPUT,
                   "%s: %s.single[%zu] is '%.*s', which its special_tokens lack", l->src->where, path, i, S(name->s));
        for (size_t k = 0; k < ids->n; k++) {
            NS_BAIL_IF(st, id_of(&ids->items[k]) < 0, NS_ERR_INPUT,
                       "%s: %s: an id of '%.*s' is %.*s, expected an integer", l->src->where, path, S(name->s),
                       S(shown(&ids->items[k])));
            NS_CHECK(st, ns_ids_push(to, id_of(&ids->items[k]), err), "%s", "");
        }
    }
    NS_BAIL_IF(st, to == &before, NS_ERR_UNSUPPORTED, "%s: %s.single must have the text ($A) once", l->src->where,
               path);
    ns_ids_free(&l->t->prefix);
    l->t->prefix = before;
    before = (ns_ids){0};
done:
    ns_ids_free(&before);
    ns_ids_free(&inner_suffix);
    return st;
}

static ns_status read_post_processor(loader *l, const ns_json *v, const char *path, ns_error *err)
{
    if (is_type(v, "ByteLevel")) return NS_OK; /* moves offsets only */
    if (is_type(v, "TemplateProcessing")) return read_template(l, v, path, err);
    return read_list(l, v, "processors", path, read_post_processor, "ByteLevel, TemplateProcessing", err);
}

/* ---- decoder ---- */
static ns_status read_strip(loader *l, const ns_json *v, const char *path, ns_error *err)
{
    ns_dec *d = &l->t->dec;
    const ns_json *c = string_at(v, "content"), *start = ns_json_get(v, "start"), *stop = ns_json_get(v, "stop");
    int64_t a = -1, b = -1;
    int ok = start && ns_json_is_int(start, &a) && stop && ns_json_is_int(stop, &b);
    NS_FAIL_IF(!ok || a < 0 || b < 0 || !c || c->s.n != 1, NS_ERR_INPUT,
               "%s: %s needs 'content' of one ASCII character, 'start' and 'stop' from 0", l->src->where, path);
    NS_FAIL_IF(!l->fused || b || d->strip_left || a > 1000, NS_ERR_UNSUPPORTED,
               "%s: %s: Strip is supported once, behind Fuse, and at the start of the text", l->src->where, path);
    d->strip_left = (size_t)a;
    d->strip_char = c->s.p[0];
    return NS_OK;
}

static ns_status add_replace(loader *l, ns_str from, ns_str to, const char *path, ns_error *err)
{
    ns_dec *d = &l->t->dec;
    NS_FAIL_IF(
        d->n_replace == NS_DEC_MAX_REPLACE || d->byte_tokens || d->drop_first || l->fused, NS_ERR_UNSUPPORTED,
        "%s: %s: replacements are supported before ByteFallback, Fuse and Strip (at most %d, Metaspace the last)",
        l->src->where, path, NS_DEC_MAX_REPLACE);
    NS_TRY(keep(l, from, &d->from[d->n_replace], err), "%s", "");
    NS_TRY(keep(l, to, &d->to[d->n_replace], err), "%s", "");
    d->n_replace++;
    return NS_OK;
}

/* The order that is supported: replacements, ByteFallback, Fuse, Strip (decode.h). */
static ns_status read_decoder(loader *l, const ns_json *v, const char *path, ns_error *err)
{
    ns_dec *d = &l->t->dec;
    if (is_type(v, "ByteLevel")) {
        NS_FAIL_IF(l->t->by_char, NS_ERR_UNSUPPORTED, "%s: %s: ByteLevel without a ByteLevel pre_tokenizer",
                   l->src->where, path);
        return NS_OK;
    }
    if (is_type(v, "Sequence")) return read_list(l, v, "decoders", path, read_decoder, "", err);
    NS_FAIL_IF(!l->t->by_char, NS_ERR_UNSUPPORTED,
               "%s: %s: '%.*s' with a ByteLevel pre_tokenizer is not supported "
               "(ByteLevel is)",
               l->src->where, path, S(type_of(v)));
    if (is_type(v, "Replace")) {
        const ns_json *from = string_at(v, "pattern.String"), *to = string_at(v, "content");
        NS_FAIL_IF(
            !from || !from->s.n || !to, NS_ERR_UNSUPPORTED,
            "%s: %s: Replace needs a pattern {\"String\": ...} that is not empty and a string 'content' (a Regex is "
            "not supported here)",
            l->src->where, path);
        return add_replace(l, from->s, to->s, path, err);
    }
    if (is_type(v, "Metaspace")) {
        ns_pre_step x;
        NS_TRY(read_metaspace(l, v, path, &x, err), "%s", "");
        NS_TRY(add_replace(l, x.literal, (ns_str){" ", 1}, path, err), "%s", "");
        d->drop_first = x.scheme != NS_SCHEME_NEVER;
        return NS_OK;
    }
    if (is_type(v, "ByteFallback")) {
        NS_FAIL_IF(l->fused, NS_ERR_UNSUPPORTED, "%s: %s: ByteFallback behind Fuse", l->src->where, path);
        d->byte_tokens = 1;
        return NS_OK;
    }
    if (is_type(v, "Fuse")) {
        l->fused = 1;
        return NS_OK;
    }
    if (is_type(v, "Strip")) return read_strip(l, v, path, err);
    NS_FAIL(
        NS_ERR_UNSUPPORTED,
        "%s: %s: '%.*s' is not supported (ByteLevel, Replace, Metaspace, ByteFallback, Fuse, Strip and Sequence are)",
        l->src->where, path, S(type_of(v)));
}

ns_status ns_tok_read_pipeline(loader *l, const ns_json *root, ns_error *err)
{
    static const struct {
        const char *key;
        read_fn *read;
    } parts[] = {{"normalizer", read_normalizer},
                 {"pre_tokenizer", read_pre_tokenizer},
                 {"decoder", read_decoder},
                 {"post_processor", read_post_processor}};
    for (size_t i = 0; i < 4; i++) {
        const ns_json *v = ns_json_get(root, parts[i].key);
        NS_FAIL_IF(i == 2 && !is_set(v), NS_ERR_UNSUPPORTED,
                   "%s: decoder is null, so that tokens would come back with blanks between: not supported",
                   l->src->where);
        if (is_set(v)) NS_TRY(parts[i].read(l, v, parts[i].key, err), "%s", "");
        if (i == 1) {
            l->t->by_char = !l->t->byte_level;
            choose_way(l->t);
        }
    }
    return NS_OK;
}
