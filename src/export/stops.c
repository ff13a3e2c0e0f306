/* Stop tokens of an exported model (stops.h; rule: doc/formats.md). */
#include "export/stops.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "ckpt/path.h"
#include "tok/end_of_turn.h"

static void add(ns_arch *a, int64_t id, int first)
{
    if (id >= 0 && !ns_arch_add_eos(a, id, first))
        NS_WARN("stop token %lld is left out: the vocabulary has %lld rows, and at most 8 can be listed", (long long)id,
                (long long)a->vocab);
}

static ns_status from_generation_config(ns_arch *a, const char *dir, ns_error *err)
{
    char path[4096];
    ns_arena arena = NS_ARENA_INIT("export.stops");
    ns_json *c;
    int64_t id;
    NS_TRY(ns_path(path, sizeof path, err, "%s/generation_config.json", dir), "%s", "");
    if (!ns_path_exists(path)) return NS_OK;
    ns_status st = ns_json_read_file(&c, &arena, path, err);
    const ns_json *v = st == NS_OK ? ns_json_get(c, "eos_token_id") : NULL;
    if (v && v->type == NS_JSON_ARRAY) {
        for (size_t i = 0; i < v->n; i++)
            if (ns_json_is_int(&v->items[i], &id)) add(a, id, 0);
    } else if (v && ns_json_is_int(v, &id)) {
        add(a, id, 0);
    }
    ns_arena_free(&arena);
    return st;
}

/* What cannot be read is no reason to refuse the weights, but it is said. */
static ns_status tolerate(ns_status st, const ns_error *why, const char *dir, ns_error *err)
{
    NS_FAIL_IF(st == NS_ERR_MEMORY || st == NS_ERR_IO, st, "%s", why->msg);
    if (st != NS_OK) NS_WARN("%s: the end of turn is not looked for: %s", dir, why->msg);
    return NS_OK;
}

static ns_status end_of_turn(int32_t *id, const ns_tok *tok, const char *dir, ns_error *err)
{
    ns_chat_template *t = NULL;
    ns_error why = NS_ERROR_INIT;
    *id = -1;
    NS_TRY(tolerate(ns_chat_template_load(&t, dir, NULL, &why), &why, dir, err), "chat template");
    if (!t) return NS_OK;
    ns_status st = ns_chat_end_of_turn(id, t, tok, err);
    if (st == NS_OK && *id < 0)
        NS_WARN("%s: no special token ends an answer: programs may not know when to stop", ns_chat_template_name(t));
    ns_chat_template_free(&t);
    return st;
}

ns_status ns_export_stops(ns_arch *arch, int64_t *eot, const char *dir, ns_error *err)
{
    ns_tok *tok = NULL;
    ns_error why = NS_ERROR_INIT;
    int32_t id = -1;
    *eot = -1;
    if (!dir) return NS_OK;
    NS_TRY(from_generation_config(arch, dir, err), "stop tokens");
    NS_TRY(tolerate(ns_tok_load(&tok, dir, &why), &why, dir, err), "stop tokens");
    if (!tok) return NS_OK;
    add(arch, ns_tok_eos(tok), 0);
    ns_status st = end_of_turn(&id, tok, dir, err);
    ns_buf text = {0};
    if (st == NS_OK && id >= 0) {
        add(arch, id, 1);
        *eot = id;
        st = ns_tok_decode(tok, &text, &id, 1, 0, err);
        if (st == NS_OK)
            NS_INFO("generation stops at %.*s (%d), the chat template's end of turn%s", (int)text.len, text.data, id,
                    arch->n_eos > 1 ? ", and at the other ids of eos_token_id" : "");
    }
    ns_buf_free(&text);
    ns_tok_free(&tok);
    return st;
}
