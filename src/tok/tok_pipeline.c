/* The pipeline sections of tokenizer.json: what is done to text around the model. Each kind of step that is not one of the
 * few listed here is refused by name (data.md §6.2). */
#include "tok/tok_loader.h"

static ns_status read_normalizer(loader *l, const ns_json *v, ns_error *err)
{
    if (!is_set(v)) return NS_OK;
    if (is_type(v, "NFC")) {
        l->t->nfc = 1;
        return NS_OK;
    }
    const ns_json *list = ns_json_get(v, "normalizers");
    NS_FAIL_IF(!is_type(v, "Sequence") || !list || list->type != NS_JSON_ARRAY, NS_ERR_UNSUPPORTED,
               "%s: normalizer '%.*s' is not supported (byte-level BPE with no normalizer or with NFC is)",
               l->src->where, S(type_of(v)));
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
    NS_FAIL_IF(
        !is_set(v), NS_ERR_UNSUPPORTED,
        "%s: no pre_tokenizer, so this is not a byte-level BPE tokenizer (SentencePiece-style ones such as Llama-2's "
        "are not supported)",
        l->src->where);
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

ns_status ns_tok_read_pipeline(loader *l, const ns_json *root, ns_error *err)
{
    NS_TRY(read_normalizer(l, ns_json_get(root, "normalizer"), err), "%s", "");
    NS_TRY(read_pre_tokenizer(l, ns_json_get(root, "pre_tokenizer"), err), "%s", "");
    NS_FAIL_IF(!l->t->byte_level, NS_ERR_UNSUPPORTED,
               "%s: the pre-tokenizer has no ByteLevel step: only byte-level BPE is supported", l->src->where);
    NS_TRY(read_decoder(l, ns_json_get(root, "decoder"), err), "%s", "");
    return read_post_processor(l, ns_json_get(root, "post_processor"), err);
}
