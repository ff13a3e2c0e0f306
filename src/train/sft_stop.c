/* What the trained model says when it is done, and the template it was trained with: saved with every checkpoint, so that
 * transformers, vLLM and converters stop by themselves (rule: doc/formats.md). The token is the special one that at least half of the
 * rows end their training with, whatever form they have. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "train/sft.h"

static int32_t last_trained(const ns_examples *r, int64_t row)
{
    const int32_t *ids = r->ids + r->start[row];
    int64_t q = ns_examples_len(r, row) - 1;
    if (!r->mask) return q >= 1 && q >= r->answer_start[row] ? ids[q] : -1;
    while (q >= 0 && !r->mask[r->start[row] + q]) q--;
    return q >= 0 ? ids[q] : -1;
}

/* By majority vote (Boyer and Moore), then counted: no table of the vocabulary. */
static int32_t usual_end(const ns_examples *r)
{
    int32_t best = -1;
    int64_t votes = 0, n = 0;
    for (int64_t i = 0; i < r->n; i++) {
        int32_t id = last_trained(r, i);
        if (votes == 0) best = id;
        votes += id == best ? 1 : -1;
    }
    for (int64_t i = 0; i < r->n; i++) n += last_trained(r, i) == best;
    return 2 * n >= r->n ? best : -1;
}

ns_status ns_sft_find_stop(ns_sft *t, ns_error *err)
{
    ns_buf text = {0};
    int32_t id = usual_end(&t->rows);
    char layout[32];
    size_t n = strcspn(t->rows.layout, " ");
    snprintf(layout, sizeof layout, "%.*s", (int)(n < sizeof layout ? n : 0), t->rows.layout);
    const char *shipped = ns_chat_layout_template(layout);
    if (shipped)
        t->trained_template = (ns_str){shipped, strlen(shipped)};
    else if (t->rows.layout[0] && t->o->chat.tmpl && strcmp(t->o->chat.tmpl, "auto"))
        t->trained_template = ns_chat_template_source(t->chat);
    if (id < 0 || !ns_tok_is_special(t->tok, id) || !ns_arch_add_eos(&t->arch, id, 1)) return NS_OK;
    NS_TRY(ns_tok_decode(t->tok, &text, &id, 1, 0, err), "stop token");
    NS_INFO("rows end with %.*s (%d): saved models list it first in eos_token_id", (int)text.len, text.data, id);
    ns_buf_free(&text);
    return NS_OK;
}
