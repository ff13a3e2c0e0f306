/* Counting what training will see (inspect.h) and printing it as text; inspect_page.c writes JSON and HTML.
 *
 *   ns_examples ──one pass──▶ lengths, findings, duplicates ──▶ text | json | html
 *
 * Invariants: nothing is tokenised or decided here: lengths, targets, truncation and equality are those of ns_rows_load, so
 * that this shows the training's own rows. Output holds no control characters from the data. */
#include "data/inspect.h"

#include <inttypes.h>
#include <string.h>

#include "base/mem.h"

#define PUT(...) NS_TRY(ns_buf_printf(out, err, __VA_ARGS__), "report")

static const struct {
    const char *key, *title;
} kinds[NS_INSPECT_KINDS] = {
    [NS_INSPECT_TRUNCATED] = {"truncated", "truncated"},
    [NS_INSPECT_SHORT_FIELD] = {"short_field", "cut past the truncation field"},
    [NS_INSPECT_ALL_MASKED] = {"all_masked", "no trained token"},
    [NS_INSPECT_EMPTY] = {"empty", "empty answer"},
    [NS_INSPECT_DUPLICATE] = {"duplicate", "repeats an earlier row"},
    [NS_INSPECT_DOUBLE_BOS] = {"double_bos", "begins with two BOS tokens"},
    [NS_INSPECT_NO_END] = {"no_end", "last trained token is no EOS or end of turn"},
};

const char *ns_inspect_title(ns_inspect_kind k)
{
    return kinds[k].title;
}

const char *ns_inspect_key(ns_inspect_kind k)
{
    return kinds[k].key;
}

int ns_inspect_is_trained(const ns_examples *ex, int64_t row, int64_t q)
{
    if (q < 1) return 0; /* nothing predicts the first id */
    return ex->mask ? ex->mask[ex->start[row] + q] != 0 : q >= ex->answer_start[row];
}

/* ---- counting ---- */
typedef struct ends { /* ids after which a model stops */
    int32_t id[12];
    int n;
} ends;

static void find_ends(ends *e, const ns_tok *tok)
{
    static const char *const names[] = {"<|eot_id|>", "<|eom_id|>",    "<|end_of_text|>", "<|im_end|>", "<|endoftext|>",
                                        "<|end|>",    "<end_of_turn>", "<|eot|>",         "</s>"};
    *e = (ends){0};
    if (ns_tok_eos(tok) >= 0) e->id[e->n++] = ns_tok_eos(tok);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int32_t id = ns_tok_id(tok, names[i]);
        if (id >= 0 && ns_tok_is_special(tok, id)) e->id[e->n++] = id;
    }
}

static void add(ns_inspect_rows_found *f, int64_t row)
{
    if (f->n < NS_INSPECT_FIRST) f->first[f->n] = row;
    f->n++;
}

static void look_at_row(ns_inspect *in, const ends *e, int64_t row)
{
    const ns_examples *ex = in->ex;
    const int32_t *ids = ex->ids + ex->start[row];
    int64_t n = ex->start[row + 1] - ex->start[row], last = n - 1;
    if (in->shortest < 0 || n < ex->start[in->shortest + 1] - ex->start[in->shortest]) in->shortest = row;
    if (in->longest < 0 || n > ex->start[in->longest + 1] - ex->start[in->longest]) in->longest = row;
    if (ex->flags[row] & NS_ROW_TRUNCATED) add(&in->found[NS_INSPECT_TRUNCATED], row);
    if (ex->flags[row] & NS_ROW_SHORT_FIELD) add(&in->found[NS_INSPECT_SHORT_FIELD], row);
    if (ex->flags[row] & NS_ROW_EMPTY) add(&in->found[NS_INSPECT_EMPTY], row);
    if (ex->same_as[row] != row) add(&in->found[NS_INSPECT_DUPLICATE], row);
    if (ex->flags[row] & NS_ROW_DOUBLE_BOS) add(&in->found[NS_INSPECT_DOUBLE_BOS], row);
    while (last >= 0 && !ns_inspect_is_trained(ex, row, last)) last--;
    if (last < 0) {
        add(&in->found[NS_INSPECT_ALL_MASKED], row);
        return;
    }
    for (int i = 0; i < e->n; i++)
        if (ids[last] == e->id[i]) return;
    add(&in->found[NS_INSPECT_NO_END], row);
}

/* Bars of a round width (1, 2, 5, 10, ...) so that the longest row fits. */
static void count_bars(ns_inspect *in)
{
    static const int64_t steps[] = {1, 2, 5};
    const ns_examples *ex = in->ex;
    int64_t longest = 0, power = 1;
    for (int64_t i = 0; i < ex->n; i++)
        if (ex->start[i + 1] - ex->start[i] > longest) longest = ex->start[i + 1] - ex->start[i];
    in->bar_width = 1;
    for (int k = 0; longest / in->bar_width >= NS_INSPECT_BARS; k++) {
        if (k && k % 3 == 0) power *= 10;
        in->bar_width = steps[k % 3] * power;
    }
    in->n_bars = longest / in->bar_width + 1;
    for (int64_t i = 0; i < ex->n; i++) in->bar[(ex->start[i + 1] - ex->start[i]) / in->bar_width]++;
}

/* The most repeated rows, of equally many the earlier one. */
static ns_status find_top(ns_inspect *in, ns_error *err)
{
    const ns_examples *ex = in->ex;
    int64_t *count = NULL;
    if (!in->found[NS_INSPECT_DUPLICATE].n) return NS_OK;
    NS_TRY(ns_alloc((void **)&count, (size_t)ex->n * sizeof *count, "inspect.count", err), "count repeated rows");
    for (int64_t i = 0; i < ex->n; i++) count[ex->same_as[i]]++;
    while (in->n_top < NS_INSPECT_TOP) {
        int64_t best = 0;
        for (int64_t i = 1; i < ex->n; i++)
            if (count[i] > count[best]) best = i;
        if (count[best] < 2) break;
        ns_inspect_rows_found *t = &in->top[in->n_top++];
        for (int64_t i = best; i < ex->n; i++)
            if (ex->same_as[i] == best) add(t, i);
        count[best] = 0;
    }
    ns_free(count);
    return NS_OK;
}

ns_status ns_inspect_rows(ns_inspect *out, const ns_examples *ex, const ns_tok *tok, const char *path,
                          const ns_rows_options *o, ns_error *err)
{
    ends e;
    *out = (ns_inspect){.ex = ex,
                        .tok = tok,
                        .path = path,
                        .max_seq_length = o->max_seq_length,
                        .tokens = ex->start[ex->n],
                        .shortest = -1,
                        .longest = -1};
    find_ends(&e, tok);
    for (int64_t i = 0; i < ex->n; i++) look_at_row(out, &e, i);
    if (ex->n) out->mean = (double)out->tokens / (double)ex->n;
    count_bars(out);
    return find_top(out, err);
}

/* ---- text ---- */
ns_status ns_inspect_stretch(ns_buf *text, int64_t *end, const ns_inspect *in, int64_t row, int64_t q, ns_error *err)
{
    const ns_examples *ex = in->ex;
    int64_t n = ex->start[row + 1] - ex->start[row], to = q + 1;
    int trained = ns_inspect_is_trained(ex, row, q);
    while (to < n && ns_inspect_is_trained(ex, row, to) == trained) to++;
    ns_buf_clear(text);
    *end = to;
    return ns_tok_decode(in->tok, text, ex->ids + ex->start[row] + q, (size_t)(to - q), 0, err);
}

static ns_status add_lines(ns_buf *out, const ns_inspect_rows_found *f, ns_error *err)
{
    int64_t shown = f->n < NS_INSPECT_FIRST ? f->n : NS_INSPECT_FIRST;
    PUT("%s ", f->n == 1 ? "line" : "lines");
    for (int64_t i = 0; i < shown; i++) PUT("%s%" PRId64, i ? ", " : "", f->first[i] + 1);
    if (f->n > shown) PUT(", ...");
    return NS_OK;
}

static ns_status add_beginning(ns_buf *out, const ns_inspect *in, int64_t row, ns_error *err)
{
    const ns_examples *ex = in->ex;
    size_t n = (size_t)(ex->start[row + 1] - ex->start[row]), cut;
    ns_buf text = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, ns_tok_decode(in->tok, &text, ex->ids + ex->start[row], n < 64 ? n : 64, 0, err), "beginning of row");
    cut = text.len;
    if (cut > 70)
        for (cut = 70; cut > 60 && ((unsigned char)text.data[cut] & 0xc0) == 0x80;) cut--;
    NS_CHECK(st, ns_tok_quote(out, text.data ? text.data : "", cut, err), "beginning of row");
    if (cut < text.len || n > 64) NS_CHECK(st, ns_buf_adds(out, "...", err), "beginning of row");
done:
    ns_buf_free(&text);
    return st;
}

static ns_status add_bars(ns_buf *out, const ns_inspect *in, ns_error *err)
{
    int64_t most = 1;
    for (int64_t i = 0; i < in->n_bars; i++)
        if (in->bar[i] > most) most = in->bar[i];
    PUT("length in tokens\n");
    for (int64_t i = 0; i < in->n_bars; i++) {
        int len = (int)((double)in->bar[i] * 40.0 / (double)most + 0.5);
        if (in->bar[i] && !len) len = 1;
        PUT("  %7" PRId64 " - %-7" PRId64 " %9" PRId64 "%s%.*s\n", i * in->bar_width, (i + 1) * in->bar_width - 1,
            in->bar[i], len ? "  " : "", len, "########################################");
    }
    return NS_OK;
}

static ns_status add_parts(ns_buf *out, const ns_inspect *in, ns_error *err)
{
    const ns_examples *ex = in->ex;
    if (ex->n_parts) PUT("part                                      tokens        trained\n");
    for (int i = 0; i < ex->n_parts; i++) {
        const ns_rows_part *p = &ex->part[i];
        PUT("  %-34s %11" PRId64 " %9" PRId64 " %5.1f %%\n", p->name, p->tokens, p->trained,
            100.0 * (double)p->trained / (double)p->tokens);
    }
    return NS_OK;
}

ns_status ns_inspect_text(ns_buf *out, const ns_inspect *in, ns_error *err)
{
    const ns_examples *ex = in->ex;
    int any = 0;
    PUT("%s: %" PRId64 " rows, format %s%s%s\n", in->path, ex->n, ex->format, ex->layout[0] ? ", layout " : "",
        ex->layout);
    PUT("tokens   %" PRId64 "\ntrained  %" PRId64 " (%.1f %%)\n", in->tokens, ex->n_targets,
        in->tokens ? 100.0 * (double)ex->n_targets / (double)in->tokens : 0.0);
    if (ex->n)
        PUT("length   mean %.1f, shortest %" PRId64 " (line %" PRId64 "), longest %" PRId64 " (line %" PRId64
            "), max_seq_length %" PRId64 "\n",
            in->mean, ex->start[in->shortest + 1] - ex->start[in->shortest], in->shortest + 1,
            ex->start[in->longest + 1] - ex->start[in->longest], in->longest + 1, in->max_seq_length);
    NS_TRY(add_parts(out, in, err), "report");
    NS_TRY(add_bars(out, in, err), "report");
    for (int k = 0; k < NS_INSPECT_KINDS; k++) {
        if (!in->found[k].n) continue;
        if (!any++) PUT("findings\n");
        PUT("  %-44s %7" PRId64 "  ", kinds[k].title, in->found[k].n);
        NS_TRY(add_lines(out, &in->found[k], err), "report");
        PUT("\n");
    }
    if (!any) PUT("findings: none\n");
    if (in->found[NS_INSPECT_DOUBLE_BOS].n)
        PUT("  warning: two BOS tokens: the text has one already, leave add_bos off\n");
    if (in->found[NS_INSPECT_NO_END].n)
        PUT("  warning: a model trained on rows without an end does not learn to stop: set add_eos, or end the "
            "answers\n");
    if (in->n_top) PUT("most repeated\n");
    for (int i = 0; i < in->n_top; i++) {
        PUT("  %7" PRId64 " times  ", in->top[i].n);
        NS_TRY(add_lines(out, &in->top[i], err), "report");
        PUT("  ");
        NS_TRY(add_beginning(out, in, in->top[i].first[0], err), "report");
        PUT("\n");
    }
    return NS_OK;
}

#define GREEN "\033[32m"
#define DIM "\033[2m"
#define PLAIN "\033[0m"

static ns_status add_heading(ns_buf *out, const ns_inspect *in, int64_t row, ns_error *err)
{
    const ns_examples *ex = in->ex;
    int64_t n = ex->start[row + 1] - ex->start[row], trained = 0;
    for (int64_t q = 0; q < n; q++) trained += ns_inspect_is_trained(ex, row, q);
    PUT("%s:%" PRId64 ": %" PRId64 " tokens, %" PRId64 " trained%s\n", in->path, row + 1, n, trained,
        ex->flags[row] & NS_ROW_TRUNCATED ? ", truncated" : "");
    return NS_OK;
}

ns_status ns_inspect_tokens(ns_buf *out, const ns_inspect *in, int64_t row, int colour, ns_error *err)
{
    const ns_examples *ex = in->ex;
    const int32_t *ids = ex->ids + ex->start[row];
    int64_t n = ex->start[row + 1] - ex->start[row];
    ns_buf piece = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, add_heading(out, in, row, err), "row");
    for (int64_t q = 0; q < n; q++) {
        int trained = ns_inspect_is_trained(ex, row, q);
        int opens = trained && !ns_inspect_is_trained(ex, row, q - 1);
        int closes = trained && (q + 1 == n || !ns_inspect_is_trained(ex, row, q + 1));
        ns_buf_clear(&piece);
        NS_CHECK(st, ns_tok_decode(in->tok, &piece, &ids[q], 1, 0, err), "row");
        NS_CHECK(st,
                 ns_buf_printf(out, err, "%s%6" PRId64 "  %7d  ",
                               colour  ? (trained ? GREEN : DIM)
                               : opens ? "["
                                       : " ",
                               q, (int)ids[q]),
                 "row");
        NS_CHECK(st, ns_tok_quote(out, piece.data ? piece.data : "", piece.len, err), "row");
        NS_CHECK(st, ns_buf_adds(out, colour ? PLAIN "\n" : closes ? " ]\n" : "\n", err), "row");
    }
done:
    ns_buf_free(&piece);
    return st;
}

ns_status ns_inspect_line(ns_buf *out, const ns_inspect *in, int64_t row, int colour, ns_error *err)
{
    int64_t n = in->ex->start[row + 1] - in->ex->start[row];
    ns_buf text = {0};
    ns_status st = NS_OK;
    NS_CHECK(st, add_heading(out, in, row, err), "row");
    for (int64_t q = 0, end; q < n; q = end) {
        int trained = ns_inspect_is_trained(in->ex, row, q);
        NS_CHECK(st, ns_inspect_stretch(&text, &end, in, row, q, err), "row");
        NS_CHECK(st, ns_buf_adds(out, colour ? (trained ? GREEN : DIM) : trained ? "[" : "", err), "row");
        NS_CHECK(st, ns_tok_quote(out, text.data ? text.data : "", text.len, err), "row");
        NS_CHECK(st, ns_buf_adds(out, colour ? PLAIN : trained ? "]" : "", err), "row");
    }
    NS_CHECK(st, ns_buf_addc(out, '\n', err), "row");
done:
    ns_buf_free(&text);
    return st;
}
