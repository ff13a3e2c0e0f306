/* The pipeline sections of tokenizer.json: what is done to text around the model. Each kind of step that is not one of the
 * few listed here is refused by name (data.md §6.2). */
#include "tok/tok_loader.h"

static int is_text(const ns_json *v, const char *text)
{
    return v && v->type == NS_JSON_STRING && ns_str_eq(v->s, text);
}
/* Replace of the literal `from` by `to`? */
static int is_blank_swap(const ns_json *v, const char *from, const char *to)
{
    return is_type(v, "Replace") && is_text(ns_json_at(v, "pattern.String"), from) &&
           is_text(ns_json_get(v, "content"), to);
}

static ns_status read_normalizer(loader *l, const ns_json *v, ns_error *err)
{
    if (!is_set(v)) return NS_OK;
    if (is_type(v, "NFC")) {
        l->t->norm.nfc = 1;
        return NS_OK;
    }
    if (is_type(v, "Prepend")) {
        NS_FAIL_IF(!is_text(ns_json_get(v, "prepend"), NS_META) || l->t->norm.prepend, NS_ERR_UNSUPPORTED,
                   "%s: normalizer 'Prepend' is supported once and with U+2581 only", l->src->where);
        l->t->norm.prepend = 1;
        return NS_OK;
    }
    if (is_type(v, "Replace")) {
        NS_FAIL_IF(!is_blank_swap(v, " ", NS_META), NS_ERR_UNSUPPORTED,
                   "%s: normalizer 'Replace' is supported from a blank to U+2581 only", l->src->where);
        l->t->norm.replace = 1;
        return NS_OK;
    }
    const ns_json *list = ns_json_get(v, "normalizers");
    NS_FAIL_IF(!is_type(v, "Sequence") || !list || list->type != NS_JSON_ARRAY, NS_ERR_UNSUPPORTED,
               "%s: normalizer '%.*s' is not supported (NFC, or Prepend and Replace with U+2581, are)", l->src->where,
               S(type_of(v)));
    for (size_t i = 0; i < list->n; i++) NS_TRY(read_normalizer(l, &list->items[i], err), "%s", "");
    return NS_OK;
}

static ns_status add_stage(loader *l, ns_split_fn fn, ns_error *err)
{
    NS_FAIL_IF(l->t->n_stages == NS_TOK_MAX_STAGES, NS_ERR_UNSUPPORTED, "%s: more than %d pre-tokenizer stages",
               l->src->where, NS_TOK_MAX_STAGES);
    l->t->stage[l->t->n_stages++] = fn;
    return NS_OK;
}

static ns_status read_split(loader *l, const ns_json *v, ns_error *err)
{
    const ns_json *re = ns_json_at(v, "pattern.Regex"), *behavior = ns_json_get(v, "behavior");
    NS_FAIL_IF(!re || re->type != NS_JSON_STRING, NS_ERR_UNSUPPORTED,
               "%s: pre-tokenizer Split without a Regex pattern is not supported", l->src->where);
    ns_split_fn fn = ns_split_find(re->s.p, re->s.n);
    NS_FAIL_IF(!fn, NS_ERR_UNSUPPORTED,
               "%s: pre-tokenizer Split pattern is not one of the known ones (GPT-2, Llama-3, Qwen2, Tekken): %.*s",
               l->src->where, (int)(re->s.n < 300 ? re->s.n : 300), re->s.p);
    /* The known patterns match all of the text, so "remove what does not match" is the same as "isolate". */
    int invert = flag(v, "invert"), isolated = behavior && ns_str_eq(behavior->s, "Isolated");
    int removed = behavior && ns_str_eq(behavior->s, "Removed");
    NS_FAIL_IF(!behavior || behavior->type != NS_JSON_STRING || !(isolated || (removed && invert)), NS_ERR_UNSUPPORTED,
               "%s: pre-tokenizer Split behavior '%.*s'%s is not supported (Isolated is)", l->src->where,
               behavior && behavior->type == NS_JSON_STRING ? (int)behavior->s.n : 4,
               behavior && behavior->type == NS_JSON_STRING ? behavior->s.p : "none", invert ? " with invert" : "");
    return add_stage(l, fn, err);
}

static ns_status read_pre_tokenizer(loader *l, const ns_json *v, ns_error *err)
{
    NS_FAIL_IF(l->t->byte_level, NS_ERR_UNSUPPORTED, "%s: pre-tokenizer '%.*s' after ByteLevel is not supported",
               l->src->where, S(type_of(v)));
    if (is_type(v, "Split")) return read_split(l, v, err);
    if (is_type(v, "ByteLevel")) {
        const ns_json *re = ns_json_get(v, "use_regex"); /* absent in old files: true */
        l->t->byte_level = 1;
        if (flag(v, "add_prefix_space")) NS_TRY(add_stage(l, NULL, err), "%s", "");
        return !is_set(re) || re->b ? add_stage(l, ns_split_gpt2, err) : NS_OK;
    }
    const ns_json *list = ns_json_get(v, "pretokenizers");
    NS_FAIL_IF(!is_type(v, "Sequence") || !list || list->type != NS_JSON_ARRAY, NS_ERR_UNSUPPORTED,
               "%s: pre-tokenizer '%.*s' is not supported (Split, ByteLevel and Sequence are)", l->src->where,
               S(type_of(v)));
    for (size_t i = 0; i < list->n; i++) NS_TRY(read_pre_tokenizer(l, &list->items[i], err), "%s", "");
    return NS_OK;
}

/* Template items before and after the text; an outer template wraps the inner one. */
static ns_status read_template(loader *l, const ns_json *v, ns_error *err)
{
    const ns_json *single = ns_json_get(v, "single"), *table = ns_json_get(v, "special_tokens");
    NS_FAIL_IF(!single || single->type != NS_JSON_ARRAY, NS_ERR_INPUT,
               "%s: post-processor TemplateProcessing: 'single' is %s, expected an array", l->src->where,
               type_name(single));
    ns_ids before = {0}, *to = &before, inner_suffix = l->t->suffix;
    ns_status st = NS_OK;
    l->t->suffix = (ns_ids){0};
    for (size_t i = 0; i < single->n; i++) {
        const ns_json *seq = ns_json_at(&single->items[i], "Sequence.id");
        const ns_json *name = ns_json_at(&single->items[i], "SpecialToken.id");
        if (seq) {
            NS_BAIL_IF(st, to != &before || seq->type != NS_JSON_STRING || !ns_str_eq(seq->s, "A"), NS_ERR_UNSUPPORTED,
                       "%s: post-processor template must have the text ($A) once", l->src->where);
            for (size_t k = 0; k < l->t->prefix.n; k++) NS_CHECK(st, ns_ids_push(to, l->t->prefix.v[k], err), "%s", "");
            to = &l->t->suffix;
            for (size_t k = 0; k < inner_suffix.n; k++) NS_CHECK(st, ns_ids_push(to, inner_suffix.v[k], err), "%s", "");
            continue;
        }
        NS_BAIL_IF(st, !name || name->type != NS_JSON_STRING, NS_ERR_INPUT,
                   "%s: post-processor template item %zu is neither a Sequence nor a SpecialToken", l->src->where, i);
        const ns_json *ids = NULL;
        for (size_t k = 0; table && table->type == NS_JSON_OBJECT && k < table->n; k++)
            if (table->keys[k].n == name->s.n && !memcmp(table->keys[k].p, name->s.p, name->s.n))
                ids = ns_json_get(&table->items[k], "ids");
        NS_BAIL_IF(st, !ids || ids->type != NS_JSON_ARRAY, NS_ERR_INPUT,
                   "%s: post-processor template uses '%.*s', which its special_tokens lack", l->src->where, S(name->s));
        for (size_t k = 0; k < ids->n; k++) {
            NS_BAIL_IF(st, id_of(&ids->items[k]) < 0, NS_ERR_INPUT,
                       "%s: post-processor: id of '%.*s' is not a valid id", l->src->where, S(name->s));
            NS_CHECK(st, ns_ids_push(to, id_of(&ids->items[k]), err), "%s", "");
        }
    }
    NS_BAIL_IF(st, to == &before, NS_ERR_UNSUPPORTED, "%s: post-processor template must have the text ($A) once",
               l->src->where);
    ns_ids_free(&l->t->prefix);
    l->t->prefix = before;
    before = (ns_ids){0};
done:
    ns_ids_free(&before);
    ns_ids_free(&inner_suffix);
    return st;
}

static ns_status read_post_processor(loader *l, const ns_json *v, ns_error *err)
{
    if (!is_set(v) || is_type(v, "ByteLevel")) return NS_OK; /* ByteLevel moves offsets only */
    if (is_type(v, "TemplateProcessing")) return read_template(l, v, err);
    const ns_json *list = ns_json_get(v, "processors");
    NS_FAIL_IF(!is_type(v, "Sequence") || !list || list->type != NS_JSON_ARRAY, NS_ERR_UNSUPPORTED,
               "%s: post-processor '%.*s' is not supported (ByteLevel, TemplateProcessing and Sequence are)",
               l->src->where, S(type_of(v)));
    for (size_t i = 0; i < list->n; i++) NS_TRY(read_post_processor(l, &list->items[i], err), "%s", "");
    return NS_OK;
}

static ns_status read_decoder(loader *l, const ns_json *v, ns_error *err)
{
    if (is_type(v, "ByteLevel")) return NS_OK;
    const ns_json *list = ns_json_get(v, "decoders");
    NS_FAIL_IF(!is_type(v, "Sequence") || !list || list->type != NS_JSON_ARRAY || list->n != 1, NS_ERR_UNSUPPORTED,
               "%s: decoder '%.*s' is not supported (ByteLevel is)", l->src->where, S(type_of(v)));
    return read_decoder(l, &list->items[0], err);
}

/* The one decoder of SentencePiece-style files: U+2581 to a blank, <0xNN> to bytes, join, drop one blank in front. */
static ns_status read_spm_decoder(const loader *l, const ns_json *v, ns_error *err)
{
    const ns_json *list = ns_json_get(v, "decoders");
    int ok = is_type(v, "Sequence") && list && list->type == NS_JSON_ARRAY && list->n == 4;
    if (ok) {
        const ns_json *d = list->items, *strip = &d[3];
        int64_t start = 0, stop = 1;
        ok = is_blank_swap(&d[0], NS_META, " ") && is_type(&d[1], "ByteFallback") && is_type(&d[2], "Fuse") &&
             is_type(strip, "Strip") && is_text(ns_json_get(strip, "content"), " ") && ns_json_get(strip, "start") &&
             ns_json_is_int(ns_json_get(strip, "start"), &start) && start == 1 && ns_json_get(strip, "stop") &&
             ns_json_is_int(ns_json_get(strip, "stop"), &stop) && stop == 0;
    }
    NS_FAIL_IF(!ok, NS_ERR_UNSUPPORTED,
               "%s: decoder '%.*s' with no pre_tokenizer is not supported (Sequence of Replace U+2581 by a blank, "
               "ByteFallback, Fuse, Strip of one blank in front is)",
               l->src->where, S(type_of(v)));
    return NS_OK;
}

ns_status ns_tok_read_pipeline(loader *l, const ns_json *root, ns_error *err)
{
    NS_TRY(read_normalizer(l, ns_json_get(root, "normalizer"), err), "%s", "");
    const ns_norm *norm = &l->t->norm;
    if (!is_set(ns_json_get(root, "pre_tokenizer"))) { /* SentencePiece style: a gap is one word */
        NS_FAIL_IF(norm->nfc, NS_ERR_UNSUPPORTED, "%s: normalizer 'NFC' with no pre_tokenizer is not supported",
                   l->src->where);
        l->t->spm = 1;
        NS_TRY(read_spm_decoder(l, ns_json_get(root, "decoder"), err), "%s", "");
        return read_post_processor(l, ns_json_get(root, "post_processor"), err);
    }
    NS_FAIL_IF(norm->prepend || norm->replace, NS_ERR_UNSUPPORTED,
               "%s: normalizer '%s' with a pre_tokenizer is not supported", l->src->where,
               norm->prepend ? "Prepend" : "Replace");
    NS_TRY(read_pre_tokenizer(l, ns_json_get(root, "pre_tokenizer"), err), "%s", "");
    NS_FAIL_IF(!l->t->byte_level, NS_ERR_UNSUPPORTED,
               "%s: the pre-tokenizer has no ByteLevel step: only byte-level BPE is supported", l->src->where);
    NS_TRY(read_decoder(l, ns_json_get(root, "decoder"), err), "%s", "");
    return read_post_processor(l, ns_json_get(root, "post_processor"), err);
}
