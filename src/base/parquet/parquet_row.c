/* A row of a Parquet file from the levels of its columns (the record assembly of the Dremel paper, recursively).
 *
 * The first column below a node says whether the node is null, empty or there, and how many items a list has; every other column
 * below it must say the same: each entry is compared with the repetition level that its place has, and where a value is missing with
 * the definition level of the first column. So columns that do not belong together are found, not mixed.
 *
 * Structs become objects, all fields in the schema's order, null where missing; lists arrays; maps with text keys objects,
 * other maps arrays of {"key": k, "value": v}. */
#include <inttypes.h>

#include "base/parquet/parquet_priv.h"

typedef struct writer {
    pq_column *columns;
    size_t longest; /* bytes of a row */
    ns_buf *out;
    ns_arena *scratch;
} writer;

static ns_status disagree(const pq_column *c, int rep, ns_error *err)
{
    PQ_FAIL_IF(c, !c->have, NS_ERR_INPUT, "its values end before those of the other columns do: the file is damaged");
    PQ_FAIL_IF(c, c->rep != rep, NS_ERR_INPUT,
               "found repetition level %d, expected %d as in the columns beside it: the file is damaged", c->rep, rep);
    PQ_FAIL_IF(c, 1, NS_ERR_INPUT,
               "found definition level %d, which the columns beside it exclude: the file is damaged", c->def);
}

/* Nothing is there below the node: each of its columns has one entry that says so. */
static ns_status pass_over(writer *w, const pq_node *n, int rep, ns_error *err)
{
    int def = w->columns[n->first_leaf].def;
    for (size_t i = n->first_leaf; i < n->first_leaf + n->n_leaves; i++) {
        pq_column *c = &w->columns[i];
        if (!c->have || c->rep != rep || c->def != def) return disagree(c, rep, err);
        NS_TRY(pq_column_advance(c, err), "%s", "");
    }
    return NS_OK;
}

/* A few bytes of levels may stand for a list of 2^31 nulls. */
static ns_status check_length(const writer *w, const pq_column *c, ns_error *err)
{
    PQ_FAIL_IF(
        c, w->out->len > w->longest, NS_ERR_INPUT,
        "found a line of more than %zu bytes for one row, expected at most that: split the row, or write the file "
        "again if it is damaged",
        w->longest);
    return NS_OK;
}

static ns_status write_node(writer *w, const pq_node *n, int rep, ns_error *err);

static ns_status write_leaf(writer *w, pq_column *c, int rep, ns_error *err)
{
    ns_str bytes;
    if (c->rep != rep || c->def != c->max_def) return disagree(c, rep, err);
    PQ_FAIL_IF(c, !pq_values_next(&c->values, &bytes), NS_ERR_INPUT, "%s: the file is damaged", c->values.wrong);
    NS_TRY(pq_write_value(c, bytes, w->out, w->scratch, err), "%s", "");
    return pq_column_advance(c, err);
}

static ns_status write_item(writer *w, const pq_node *n, int rep, ns_error *err)
{
    if (n->kind == PQ_LIST) return write_node(w, n->child, rep, err);
    const pq_column *key = &w->columns[n->child[0].first_leaf];
    PQ_FAIL_IF(key, n->child[0].optional && key->def < n->child[0].def, NS_ERR_INPUT,
               "found a map with a null key, expected text");
    if (n->kind == PQ_PAIRS) NS_TRY(ns_buf_adds(w->out, "{\"key\": ", err), "%s", "");
    NS_TRY(write_node(w, &n->child[0], rep, err), "%s", "");
    NS_TRY(ns_buf_adds(w->out, n->kind == PQ_PAIRS ? ", \"value\": " : ": ", err), "%s", "");
    NS_TRY(write_node(w, &n->child[1], rep, err), "%s", "");
    return n->kind == PQ_PAIRS ? ns_buf_addc(w->out, '}', err) : NS_OK;
}

static ns_status write_items(writer *w, const pq_node *n, int rep, ns_error *err)
{
    const pq_column *first = &w->columns[n->first_leaf];
    NS_TRY(ns_buf_addc(w->out, n->kind == PQ_MAP ? '{' : '[', err), "%s", "");
    if (first->def < n->item_def) {
        if (first->def != n->def) return disagree(first, rep, err);
        NS_TRY(pass_over(w, n, rep, err), "%s", "");
    } else {
        NS_TRY(write_item(w, n, rep, err), "%s", "");
        while (first->have && first->rep == n->item_rep) {
            if (first->def < n->item_def) return disagree(first, n->item_rep, err);
            NS_TRY(check_length(w, first, err), "%s", "");
            NS_TRY(ns_buf_add(w->out, ", ", 2, err), "%s", "");
            NS_TRY(write_item(w, n, n->item_rep, err), "%s", "");
        }
    }
    return ns_buf_addc(w->out, n->kind == PQ_MAP ? '}' : ']', err);
}

static ns_status write_node(writer *w, const pq_node *n, int rep, ns_error *err)
{
    pq_column *first = &w->columns[n->first_leaf];
    if (!first->have || first->rep != rep) return disagree(first, rep, err);
    if (n->optional && first->def < n->def) {
        if (first->def != n->def - 1) return disagree(first, rep, err);
        NS_TRY(pass_over(w, n, rep, err), "%s", "");
        return ns_buf_add(w->out, "null", 4, err);
    }
    if (n->kind == PQ_LEAF) return write_leaf(w, first, rep, err);
    if (n->kind != PQ_STRUCT) return write_items(w, n, rep, err);
    NS_TRY(ns_buf_addc(w->out, '{', err), "%s", "");
    for (size_t i = 0; i < n->n; i++) {
        NS_TRY(check_length(w, first, err), "%s", "");
        if (i > 0) NS_TRY(ns_buf_add(w->out, ", ", 2, err), "%s", "");
        NS_TRY(ns_buf_add(w->out, n->child[i].key.p, n->child[i].key.n, err), "%s", "");
        NS_TRY(write_node(w, &n->child[i], rep, err), "%s", "");
    }
    return ns_buf_addc(w->out, '}', err);
}

ns_status pq_write_row(const pq_node *root, pq_column *columns, size_t longest, ns_buf *out, ns_arena *scratch,
                       ns_error *err)
{
    writer w = {columns, longest, out, scratch};
    NS_TRY(write_node(&w, root, 0, err), "%s", "");
    return check_length(&w, &columns[0], err);
}
