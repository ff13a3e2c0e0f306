/* First fit through a tree, best fit through a bitmap (bins.h).
 *
 * The original scans all packs for every length. Here the free space of packs stands in the leaves of a tournament tree, each
 * inner node holding the larger of its children: "the lowest-numbered pack with room" is one walk down. Packs not yet
 * opened are leaves with all their space free, so that opening one is no special case. */
#include "pack/bins.h"

#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

/* Samples by length: those of length l are by_len[first[l] .. first[l+1]), ascending. */
typedef struct lengths {
    int64_t *first, *by_len;
    int32_t longest;
} lengths;

static ns_status group_by_length(lengths *g, const int32_t *len, int64_t n, int32_t pack, ns_error *err)
{
    for (int64_t i = 0; i < n; i++) {
        NS_FAIL_IF(len[i] < 0 || len[i] > pack, NS_ERR_INTERNAL, "sample %" PRId64 " of length %d, packs of %d", i,
                   len[i], pack);
        if (len[i] > g->longest) g->longest = len[i];
    }
    NS_TRY(ns_alloc((void **)&g->first, ((size_t)g->longest + 2) * sizeof *g->first, "bins.first", err), "lengths");
    NS_TRY(ns_alloc((void **)&g->by_len, (size_t)n * sizeof *g->by_len, "bins.by_len", err), "lengths");
    for (int64_t i = 0; i < n; i++) g->first[len[i] + 1]++;
    for (int32_t l = 0; l <= g->longest; l++) g->first[l + 1] += g->first[l];
    for (int64_t i = 0; i < n; i++) g->by_len[g->first[len[i]]++] = i;
    for (int32_t l = g->longest; l > 0; l--) g->first[l] = g->first[l - 1];
    g->first[0] = 0;
    return NS_OK;
}

/* order[i]: the i-th length to place. bin[i]: where it goes. Returns the number of packs. */
static ns_status first_fit(int64_t *n_bins, int32_t *bin, const int64_t *order, int64_t n, int32_t pack, ns_error *err)
{
    size_t leaves = 1;
    int32_t *room = NULL;
    while (leaves < (size_t)n) leaves *= 2;
    NS_TRY(ns_alloc((void **)&room, 2 * leaves * sizeof *room, "bins.room", err), "first fit");
    for (size_t i = 1; i < 2 * leaves; i++) room[i] = pack;
    *n_bins = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t len = (int32_t)order[i];
        size_t at = 1;
        while (at < leaves) at = 2 * at + (room[2 * at] < len);
        bin[i] = (int32_t)(at - leaves);
        if (bin[i] >= *n_bins) *n_bins = bin[i] + 1;
        room[at] -= len;
        for (at /= 2; at; at /= 2) {
            int32_t more = room[2 * at] > room[2 * at + 1] ? room[2 * at] : room[2 * at + 1];
            if (room[at] == more) break;
            room[at] = more;
        }
    }
    ns_free(room);
    return NS_OK;
}

/* The smallest set bit >= from of three levels of words, or -1. */
typedef struct bitmap {
    uint64_t *level[3];
    size_t words[3];
} bitmap;

static int64_t next_bit(const bitmap *m, int64_t from)
{
    size_t i = (size_t)from;
    for (int k = 0; k < 3; k++) {
        size_t w = i / 64;
        if (w >= m->words[k]) return -1;
        uint64_t bits = m->level[k][w] & (~(uint64_t)0 << i % 64);
        if (k == 2) /* few words: look through them */
            while (!bits && ++w < m->words[2]) bits = m->level[2][w];
        if (bits) {
            i = w * 64 + (size_t)__builtin_ctzll(bits);
            while (k-- > 0) i = i * 64 + (size_t)__builtin_ctzll(m->level[k][i]);
            return (int64_t)i;
        }
        i = w + 1;
    }
    return -1;
}

static void set_bit(bitmap *m, size_t i, int on)
{
    for (int k = 0; k < 3; k++, i /= 64) {
        uint64_t one = (uint64_t)1 << i % 64, *w = &m->level[k][i / 64];
        *w = on ? *w | one : *w & ~one;
        if (!on && *w) return;
    }
}

/* Longest first, into the fullest pack with room; of equally full ones the one touched last. */
static ns_status best_fit(int64_t *n_bins, int32_t *bin, const int64_t *order, int64_t n, int32_t pack, ns_error *err)
{
    bitmap m = {0};
    int32_t *top = NULL, *below = NULL; /* packs with the same room: top[room], below[pack] */
    ns_status st = NS_OK;
    size_t bits = (size_t)pack + 1;
    for (int k = 0; k < 3; k++) {
        m.words[k] = bits = (bits + 63) / 64;
        NS_CHECK(st, ns_alloc((void **)&m.level[k], bits * 8, "bins.bitmap", err), "best fit");
    }
    NS_CHECK(st, ns_alloc((void **)&top, ((size_t)pack + 1) * sizeof *top, "bins.top", err), "best fit");
    NS_CHECK(st, ns_alloc((void **)&below, (size_t)n * sizeof *below, "bins.below", err), "best fit");
    *n_bins = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t room = next_bit(&m, order[i]);
        if (room < 0) {
            bin[i] = (int32_t)(*n_bins)++;
            room = pack;
        } else {
            bin[i] = top[room];
            top[room] = below[bin[i]];
            if (top[room] < 0) set_bit(&m, (size_t)room, 0);
        }
        size_t left = (size_t)(room - order[i]);
        int set = (m.level[0][left / 64] >> left % 64) & 1;
        below[bin[i]] = set ? top[left] : -1;
        top[left] = bin[i];
        if (!set) set_bit(&m, left, 1);
    }
done:
    for (int k = 0; k < 3; k++) ns_free(m.level[k]);
    ns_free(top);
    ns_free(below);
    return st;
}

/* Lengths stand in their packs; now each takes the last remaining sample of its length. */
static ns_status fill(ns_bins *out, const int64_t *order, const int32_t *bin, int64_t n, lengths *g, ns_error *err)
{
    int64_t *slot = NULL;
    NS_TRY(ns_alloc((void **)&out->start, ((size_t)out->n + 2) * sizeof *out->start, "bins.start", err), "bins");
    NS_TRY(ns_alloc((void **)&out->item, (size_t)n * sizeof *out->item, "bins.item", err), "bins");
    for (int64_t i = 0; i < n; i++) out->start[bin[i] + 2]++;
    for (int64_t b = 0; b < out->n; b++) out->start[b + 2] += out->start[b + 1];
    slot = out->start + 1; /* start of each pack while filling, its end afterwards: so it becomes start[1..n] */
    for (int64_t i = 0; i < n; i++) out->item[slot[bin[i]]++] = order[i];
    for (int64_t k = 0; k < n; k++) {
        int64_t len = out->item[k];
        out->item[k] = g->by_len[--g->first[len + 1]]; /* first[len + 1] is the end of the group of len */
    }
    return NS_OK;
}

ns_status ns_bins_assign(ns_bins *out, const int32_t *len, int64_t n, int32_t pack, ns_pack_algorithm how,
                         uint32_t seed, ns_error *err)
{
    lengths g = {0};
    int64_t *order = NULL, k = 0;
    int32_t *bin = NULL;
    ns_mt rng;
    ns_status st = NS_OK;
    memset(out, 0, sizeof *out);
    NS_FAIL_IF(n < 1 || n > INT32_MAX / 2, NS_ERR_CONFIG, "%" PRId64 " samples to pack: from 1 to %d", n,
               INT32_MAX / 2);
    NS_CHECK(st, group_by_length(&g, len, n, pack, err), "lengths");
    NS_CHECK(st, ns_alloc((void **)&order, (size_t)n * sizeof *order, "bins.order", err), "order");
    NS_CHECK(st, ns_alloc((void **)&bin, (size_t)n * sizeof *bin, "bins.bin", err), "bins");
    ns_mt_seed(&rng, seed);
    for (int32_t l = 0; l <= g.longest; l++)
        for (int64_t i = g.first[l]; i < g.first[l + 1]; i++) {
            order[how == NS_PACK_FIRST_FIT_SHUFFLE ? k : n - 1 - k] = l;
            k++;
        }
    if (how == NS_PACK_FIRST_FIT_SHUFFLE) ns_shuffle_numpy(&rng, order, (size_t)n);
    if (how == NS_PACK_BEST_FIT) {
        NS_CHECK(st, best_fit(&out->n, bin, order, n, pack, err), "best fit");
    } else {
        NS_CHECK(st, first_fit(&out->n, bin, order, n, pack, err), "first fit");
        for (int32_t l = 0; l <= g.longest; l++) /* the samples of a length in random order, drawn length by length */
            ns_shuffle_numpy(&rng, g.by_len + g.first[l], (size_t)(g.first[l + 1] - g.first[l]));
    }
    NS_CHECK(st, fill(out, order, bin, n, &g, err), "fill");
done:
    ns_free(order);
    ns_free(bin);
    ns_free(g.first);
    ns_free(g.by_len);
    if (st != NS_OK) ns_bins_free(out);
    return st;
}

ns_status ns_bins_assign_chunks(ns_bins *out, const int32_t *len, int64_t n, int32_t pack, ns_pack_algorithm how,
                                uint32_t seed, int64_t chunk, ns_error *err)
{
    ns_bins b = {0};
    ns_status st = NS_OK;
    int64_t k = (n + chunk - 1) / chunk, from = 0;
    memset(out, 0, sizeof *out);
    NS_FAIL_IF(n < 1, NS_ERR_INPUT, "no sample to pack");
    NS_CHECK(st, ns_alloc((void **)&out->item, (size_t)n * sizeof *out->item, "bins.item", err), "bins");
    NS_CHECK(st, ns_alloc((void **)&out->start, sizeof *out->start, "bins.start", err), "bins");
    for (int64_t c = 0; c < k; c++) {
        int64_t m = n / k + (c < n % k);
        ns_bins_free(&b);
        NS_CHECK(st, ns_bins_assign(&b, len + from, m, pack, how, seed + (uint32_t)c, err), "chunk %" PRId64, c);
        NS_CHECK(st,
                 ns_realloc((void **)&out->start, (size_t)(out->n + b.n + 1) * sizeof *out->start, "bins.start", err),
                 "bins");
        for (int64_t i = 0; i <= b.n; i++) out->start[out->n + i] = from + b.start[i];
        for (int64_t i = 0; i < m; i++) out->item[from + i] = from + b.item[i];
        out->n += b.n;
        from += m;
    }
done:
    ns_bins_free(&b);
    if (st != NS_OK) ns_bins_free(out);
    return st;
}

int ns_pack_algorithm_parse(ns_pack_algorithm *out, const char *name)
{
    static const char *const names[] = {"first_fit_shuffle", "first_fit_decreasing", "best_fit"};
    for (int i = 0; i < 3; i++)
        if (!strcmp(name, names[i])) {
            *out = (ns_pack_algorithm)i;
            return 1;
        }
    return 0;
}

void ns_bins_free(ns_bins *b)
{
    ns_free(b->start);
    ns_free(b->item);
    memset(b, 0, sizeof *b);
}
